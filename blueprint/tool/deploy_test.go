package tool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/tool"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

const sha = "0123456789abcdef0123456789abcdef01234567"

// peer is a deployment in the words of the Toolforge components API.
type peer struct {
	ID     string `json:"deploy_id"`
	Status string
	Long   string `json:"long_status"`
	Builds map[string]struct {
		ID     string `json:"build_id"`
		Status string `json:"build_status"`
		Image  string `json:"build_image"`
		Long   string `json:"build_long_status"`
	}
	Runs map[string]struct {
		Status string `json:"run_status"`
		Long   string `json:"run_long_status"`
	}
	Config      json.RawMessage `json:"tool_config"`
	Description string
}

// yard is a server with a builder that the test steers.
type yard struct {
	*blueprinttest.Server
	v    *fake.Vendor
	me   *blueprinttest.Client
	tool string // the name of a tool that may be deployed
}

func eachYard(t *testing.T, change func(*tool.Settings), test func(t *testing.T, y *yard)) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			test(t, newYard(t, engine, fake.New(fake.Config{}), "", change))
		})
	}
}

func newYard(t *testing.T, engine store.Engine, v *fake.Vendor, database string, change func(*tool.Settings)) *yard {
	t.Helper()
	return openYard(t, engine, v, database, change, nil)
}

func openYard(t *testing.T, engine store.Engine, v *fake.Vendor, database string, change func(*tool.Settings), more func(*blueprinttest.Options)) *yard {
	t.Helper()
	o := blueprinttest.Options{Blueprints: blueprints, Kinds: []provider.Kind{v.Kind()}, Database: database, Configure: func(c *server.Config) {
		c.Auth.SignIn.TLSHeader.From = []string{"127.0.0.1"}
		c.Auth.RateLimits.User = 0
		c.Fetch.Allow = append(c.Fetch.Allow, "http://127.0.0.1:*/*")
		c.Providers = []server.ProviderConfig{{Name: "yard", Type: "fake"}}
		s := c.Sections["tool"].(*tool.Settings)
		s.Builder = "yard"
		if change != nil {
			change(s)
		}
	}}
	if more != nil {
		more(&o)
	}
	s := blueprinttest.Start(t, engine, o)
	return &yard{Server: s, v: v, me: s.As(""), tool: "mytool"}
}

func (y *yard) do(method, path string, body any) *blueprinttest.Answer {
	y.T.Helper()
	name := strings.Split(strings.TrimPrefix(path, "/"), "/")[0]
	return y.me.Do(method, "/components/v1/tool"+path, body, dn(name)...)
}

// config makes a configuration with components that are built from one commit.
func config(names ...string) string {
	var parts []string
	for _, n := range names {
		parts = append(parts, fmt.Sprintf(`%q:{"build":{"repository":"https://git.example.com/%s.git","ref":%q},"run":{"command":"serve"}}`, n, n, sha))
	}
	return `{"components":{` + strings.Join(parts, ",") + `}}`
}

func (y *yard) deploy(t *testing.T, name string, components ...string) peer {
	t.Helper()
	y.do("POST", "/"+name+"/config", config(components...)).Is(200)
	return into[peer](y.do("POST", "/"+name+"/deployment", nil).Is(200)).Data
}

func (y *yard) get(t *testing.T, name, id string) peer {
	t.Helper()
	return into[peer](y.do("GET", "/"+name+"/deployment/"+id, nil).Is(200)).Data
}

func (y *yard) until(t *testing.T, name, id, what string, f func(peer) bool) (p peer) {
	t.Helper()
	blueprinttest.Eventually(t, what, func() bool { p = y.get(t, name, id); return f(p) })
	return p
}

// started waits until a component's build is at the builder, and gives its id there.
func (y *yard) started(t *testing.T, name, id, component string) string {
	t.Helper()
	return y.until(t, name, id, component+" is started", func(p peer) bool { return p.Builds[component].ID != "no-id-yet" }).Builds[component].ID
}

func (y *yard) move(name, component, id string, status slipway.BuildStatus) {
	y.v.Move(provider.ComponentProject(name, component), id, status)
}

func (y *yard) ended(t *testing.T, name, id string) peer {
	t.Helper()
	return y.until(t, name, id, "the deployment has ended", func(p peer) bool { return p.Status != "pending" && p.Status != "running" && p.Status != "cancelling" })
}

func TestADeploymentFollowsItsBuilds(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		d := y.deploy(t, "mytool", "web", "cron")
		if d.Status != "pending" || d.Builds["web"].ID != "no-id-yet" || d.Builds["web"].Image != "no-image-yet" {
			t.Errorf("created: %+v", d)
		}
		web, cron := y.started(t, "mytool", d.ID, "web"), y.started(t, "mytool", d.ID, "cron")
		if p := y.get(t, "mytool", d.ID); p.Status != "running" || p.Builds["web"].Status != "pending" {
			t.Errorf("started: %+v", p)
		}
		y.move("mytool", "web", web, slipway.BuildRunning)
		y.until(t, "mytool", d.ID, "web runs", func(p peer) bool { return p.Builds["web"].Status == "running" })
		y.v.Image(web, "registry.example.com/web:latest@sha256:1")
		y.move("mytool", "web", web, slipway.BuildSucceeded)
		y.move("mytool", "cron", cron, slipway.BuildSucceeded)
		p := y.ended(t, "mytool", d.ID)
		if p.Status != "successful" || p.Builds["web"].Status != "successful" || p.Builds["web"].Image != "registry.example.com/web:latest@sha256:1" ||
			p.Runs["web"].Status != "skipped" || !strings.Contains(p.Builds["web"].Long, "You can see the logs with `slipway build logs component:tool-mytool/web "+web+"`") {
			t.Errorf("ended: %+v", p)
		}
		y.do("PUT", "/mytool/deployment/"+d.ID+"/cancel", nil).Is(409)
		if latest := into[peer](y.do("GET", "/mytool/deployment/latest", nil).Is(200)).Data; latest.ID != d.ID {
			t.Errorf("the latest is %s", latest.ID)
		}
	})
}

func TestOneFailedBuildFailsTheDeployment(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		for status, long := range map[slipway.BuildStatus]string{slipway.BuildFailed: "The build failed", slipway.BuildCanceled: "The build was cancelled"} {
			d := y.deploy(t, "mytool", "a"+string(status), "b"+string(status))
			a, b := "a"+string(status), "b"+string(status)
			y.move("mytool", a, y.started(t, "mytool", d.ID, a), status)
			y.move("mytool", b, y.started(t, "mytool", d.ID, b), slipway.BuildSucceeded)
			p := y.ended(t, "mytool", d.ID)
			if p.Status != "failed" || p.Builds[a].Status != "failed" || !strings.HasPrefix(p.Builds[a].Long, long) || p.Builds[b].Status != "successful" || p.Runs[b].Long != "Skipped due to previous failure" {
				t.Errorf("a build that is %s: %+v", status, p)
			}
		}
	})
}

func TestABuilderWithoutRoomIsWaitedFor(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		y.v.Room(2)
		names := []string{"a", "b", "c", "d", "e"}
		d := y.deploy(t, "mytool", names...)
		done := map[string]bool{}
		blueprinttest.Eventually(t, "all are built, two at a time", func() bool {
			p := y.get(t, "mytool", d.ID)
			going := 0
			for _, n := range names {
				b := p.Builds[n]
				if b.ID == "no-id-yet" || done[n] {
					continue
				}
				if going++; going > 2 {
					t.Fatalf("more than two builds go on: %+v", p.Builds)
				}
				y.move("mytool", n, b.ID, slipway.BuildSucceeded)
				done[n] = true
			}
			return p.Status == "successful"
		})
		if starts, _ := y.v.Ordered(); starts != 5 {
			t.Errorf("%d builds were started, want 5", starts)
		}
	})
}

func TestCancelEndsWhatRuns(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		y.v.Room(1)
		d := y.deploy(t, "mytool", "web", "cron")
		p := y.until(t, "mytool", d.ID, "one is started", func(p peer) bool { return p.Builds["web"].ID != "no-id-yet" || p.Builds["cron"].ID != "no-id-yet" })
		first := "web"
		if p.Builds["web"].ID == "no-id-yet" {
			first = "cron"
		}
		a := into[peer](y.do("PUT", "/mytool/deployment/"+d.ID+"/cancel", nil).Is(200))
		if a.Data.Status != "cancelling" || !slices.Contains(a.Messages.Info, "Deployment flagged for cancellation, might take a moment to cancel.") {
			t.Errorf("cancelled: %+v", a)
		}
		p = y.ended(t, "mytool", d.ID)
		if p.Status != "cancelled" || p.Long != "Deployment was cancelled" || p.Builds["web"].Status != "cancelled" || p.Builds["cron"].Status != "cancelled" || p.Runs["web"].Long != "The deployment was cancelled" {
			t.Errorf("ended: %+v", p)
		}
		b, err := y.v.Provider().Builder.Get(t.Context(), "mytool", p.Builds[first].ID)
		if err != nil || b.Status != slipway.BuildCanceled {
			t.Errorf("the builder's build is %s, %v", b.Status, err)
		}
		y.do("PUT", "/mytool/deployment/"+d.ID+"/cancel", nil).Is(409)
		y.do("PUT", "/mytool/deployment/nosuch/cancel", nil).Is(404)
	})
}

func TestWhatBuildersDo(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		t.Run("a forgotten build", func(t *testing.T) {
			d := y.deploy(t, "forgets", "web")
			id := y.started(t, "forgets", d.ID, "web")
			y.v.Forget(provider.ComponentProject("forgets", "web"), id)
			if p := y.ended(t, "forgets", d.ID); p.Status != "failed" || p.Builds["web"].Long != "build "+id+" not found, maybe it was deleted?" {
				t.Errorf("got %+v", p)
			}
		})
		t.Run("a lost answer", func(t *testing.T) {
			before, _ := y.v.Ordered()
			y.v.LoseStart()
			d := y.deploy(t, "loses", "web")
			id := y.started(t, "loses", d.ID, "web")
			y.move("loses", "web", id, slipway.BuildSucceeded)
			if p := y.ended(t, "loses", d.ID); p.Status != "successful" {
				t.Errorf("got %+v", p)
			}
			if after, _ := y.v.Ordered(); after-before != 1 {
				t.Errorf("%d builds were started, want one", after-before)
			}
		})
		t.Run("down and back", func(t *testing.T) {
			y.v.Break(fake.Down)
			d := y.deploy(t, "waits", "web")
			y.until(t, "waits", d.ID, "it was tried", func(p peer) bool { return strings.HasPrefix(p.Builds["web"].Long, "Trying again: ") })
			y.v.Break(fake.None)
			y.move("waits", "web", y.started(t, "waits", d.ID, "web"), slipway.BuildSucceeded)
			if p := y.ended(t, "waits", d.ID); p.Status != "successful" {
				t.Errorf("got %+v", p)
			}
		})
		t.Run("a status that nobody knows", func(t *testing.T) {
			d := y.deploy(t, "odd", "web")
			id := y.started(t, "odd", d.ID, "web")
			y.move("odd", "web", id, slipway.BuildUnknown)
			y.until(t, "odd", d.ID, "it is unknown", func(p peer) bool { return p.Builds["web"].Status == "unknown" && p.Status == "running" })
			y.move("odd", "web", id, slipway.BuildSucceeded)
			if p := y.ended(t, "odd", d.ID); p.Status != "successful" {
				t.Errorf("got %+v", p)
			}
		})
	})
}

func TestReuse(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		d := y.deploy(t, "mytool", "web")
		first := y.started(t, "mytool", d.ID, "web")
		y.v.Image(first, "web@sha256:1")
		y.move("mytool", "web", first, slipway.BuildSucceeded)
		y.ended(t, "mytool", d.ID)

		d = y.deploy(t, "mytool", "web")
		p := y.ended(t, "mytool", d.ID)
		if b := p.Builds["web"]; b.Status != "skipped" || b.ID != first || b.Image != "web@sha256:1" || b.Long != "Reusing existing build" {
			t.Errorf("the same commit: %+v", b)
		}
		forced := into[peer](y.do("POST", "/mytool/deployment?force-build=true", nil).Is(200)).Data
		second := y.started(t, "mytool", forced.ID, "web")
		if second == first {
			t.Error("a forced build is the old one")
		}
		y.move("mytool", "web", second, slipway.BuildFailed)
		y.ended(t, "mytool", forced.ID)
		d = y.deploy(t, "mytool", "web") // the newest has failed; the one before has not
		if b := y.ended(t, "mytool", d.ID).Builds["web"]; b.Status != "skipped" || b.ID != first {
			t.Errorf("behind a failed build: %+v", b)
		}
		y.do("POST", "/mytool/config", strings.ReplaceAll(config("web"), "git.example.com", "git2.example.com")).Is(200)
		d = into[peer](y.do("POST", "/mytool/deployment", nil).Is(200)).Data
		other := y.started(t, "mytool", d.ID, "web")
		if other == first {
			t.Error("another repository's build was reused")
		}
		y.do("PUT", "/mytool/deployment/"+d.ID+"/cancel", nil).Is(200)
		y.ended(t, "mytool", d.ID)

		// One that goes on is followed.
		b, err := y.v.Provider().Builder.Start(t.Context(), provider.BuildOrder{Key: "by-hand", Tool: "mytool", Component: "web", Repository: "https://git3.example.com/web", Ref: "main", Commit: sha})
		if err != nil {
			t.Fatal(err)
		}
		y.do("POST", "/mytool/config", strings.ReplaceAll(config("web"), "git.example.com", "git3.example.com")).Is(200)
		d = into[peer](y.do("POST", "/mytool/deployment", nil).Is(200)).Data
		if id := y.started(t, "mytool", d.ID, "web"); id != b.ID {
			t.Errorf("got build %s, want %s that goes on", id, b.ID)
		}
		y.move("mytool", "web", b.ID, slipway.BuildSucceeded)
		if p := y.ended(t, "mytool", d.ID); p.Builds["web"].Status != "successful" {
			t.Errorf("got %+v", p)
		}
	})
}

func TestTimeOuts(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*tool.Settings)
		status string
		long   string
	}{
		"a build":            {func(s *tool.Settings) { s.BuildTimeout = slipway.Duration(2 * time.Second) }, "failed", "Some builds took too long to finish: web"},
		"a whole deployment": {func(s *tool.Settings) { s.Timeout = slipway.Duration(2 * time.Second) }, "timed_out", "The deployment took longer than 2s"},
	} {
		t.Run(name, func(t *testing.T) {
			eachYard(t, c.change, func(t *testing.T, y *yard) {
				d := y.deploy(t, "mytool", "web")
				id := y.started(t, "mytool", d.ID, "web")
				p := y.ended(t, "mytool", d.ID)
				if p.Status != c.status || p.Long != c.long || p.Runs["web"].Status != "skipped" {
					t.Errorf("got %+v", p)
				}
				blueprinttest.Eventually(t, "the builder was told", func() bool {
					b, err := y.v.Provider().Builder.Get(context.Background(), "mytool", id)
					return err == nil && b.Status == slipway.BuildCanceled
				})
			})
		})
	}
}

func TestRuns(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			v := fake.New(fake.Config{})
			v.RunTools()
			y := newYard(t, engine, v, "", nil)
			y.do("POST", "/mytool/config", fmt.Sprintf(`{"components":{
				"web":{"build":{"repository":"https://git.example.com/web.git","ref":%q},"run":{"command":"serve","port":8000,"health_check_http":"/"}},
				"cron":{"build":{"reuse_from":"web"},"run":{"command":"clean","schedule":"@daily","retry":2}}}}`, sha)).Is(200)
			d := into[peer](y.do("POST", "/mytool/deployment", nil).Is(200)).Data
			id := y.started(t, "mytool", d.ID, "web")
			v.Image(id, "web@sha256:1")
			y.move("mytool", "web", id, slipway.BuildSucceeded)
			p := y.ended(t, "mytool", d.ID)
			if p.Status != "successful" || p.Runs["web"].Status != "successful" || p.Runs["cron"].Long != "restarted job cron" || p.Builds["cron"].ID != "no-build-needed" {
				t.Errorf("got %+v", p)
			}
			ran := v.Ran()
			if len(ran) != 2 || ran[0].Component != "web" || ran[1].Component != "cron" || ran[1].Image != "web@sha256:1" || !ran[1].Scheduled || !ran[1].Restart ||
				len(ran[0].Fields) != 3 || string(ran[0].Fields["port"]) != "8000" || string(ran[1].Fields["retry"]) != "2" {
				t.Errorf("ran %+v", ran)
			}

			d = into[peer](y.do("POST", "/mytool/deployment", nil).Is(200)).Data
			y.ended(t, "mytool", d.ID)
			d = into[peer](y.do("POST", "/mytool/deployment?force_run=true", nil).Is(200)).Data
			y.ended(t, "mytool", d.ID)
			ran = v.Ran()
			if len(ran) != 6 || ran[2].Restart || ran[3].Restart || !ran[4].Restart || !ran[5].Restart {
				t.Errorf("nothing is restarted where nothing was built, and all where that is forced: %+v", ran)
			}

			y.told(t, d.ID)

			v.RefuseRun("web", slipway.Errorf(slipway.Invalid, "Bad request (400): no such image"))
			d = into[peer](y.do("POST", "/mytool/deployment", nil).Is(200)).Data
			p = y.ended(t, "mytool", d.ID)
			if p.Status != "failed" || p.Runs["web"].Status != "failed" || p.Runs["web"].Long != "Bad request (400): no such image" || p.Runs["cron"].Long != "Skipped due to previous failure" {
				t.Errorf("got %+v", p)
			}
			if n := len(v.Ran()); n != 7 {
				t.Errorf("%d runs, want 7: the second component is not run after the first has failed", n)
			}
		})
	}
}

// told checks what events tell of a deployment whose components run, in the words of CDEvents, to whoever may read the tool's deployments and to nobody else.
func (y *yard) told(t *testing.T, id string) {
	t.Helper()
	type told struct {
		Type, Subject string
		Data          struct {
			Subject struct {
				ID      string
				Content struct {
					Environment         struct{ ID string }
					ArtifactID, Outcome string
				}
			}
			CustomData struct{ Deployment, Status, Component, Commit string }
		}
	}
	read := func(c *blueprinttest.Client) (of []told) {
		var list struct{ Items []told }
		c.Get("/api/events?limit=100&type=dev.cdeventsx.slipway-tooldeployment.*&type=dev.cdevents.service.*").Is(200).Into(&list)
		return slices.DeleteFunc(list.Items, func(e told) bool { return e.Data.CustomData.Deployment != id })
	}
	reader := y.As(y.NewToken(auth.NewToken{Name: "events", Permissions: []string{"tool.deployment.read:component:tool-mytool/*", "catalog.entity.read", "platform.self.read"}}))
	var list []told
	blueprinttest.Eventually(t, "four events tell of the deployment", func() bool { list = read(y.Client); return len(list) >= 4 })
	var types []string
	for _, e := range list {
		types = append(types, e.Type)
		if e.Data.Subject.Content.Environment.ID != "tool-mytool" {
			t.Errorf("the environment is %+v", e)
		}
	}
	const deployed = "dev.cdevents.service.deployed.0.3.0"
	if !slices.Equal(types, []string{"dev.cdeventsx.slipway-tooldeployment.queued.0.1.0", "dev.cdeventsx.slipway-tooldeployment.finished.0.1.0", deployed, deployed}) {
		t.Fatalf("told are %q", types)
	}
	if e := list[1].Data; e.Subject.ID != id || e.Subject.Content.Outcome != "success" || e.CustomData.Status != "successful" {
		t.Errorf("that it ended is told so: %+v", e)
	}
	if e := list[3]; e.Subject != "component:tool-mytool/cron" || e.Data.Subject.Content.ArtifactID != "pkg:oci/web@sha256%3A1?repository_url=web" || e.Data.CustomData.Component != "cron" || e.Data.CustomData.Commit != sha {
		t.Errorf("that a component runs is told so: %+v", e)
	}
	if own := read(reader); len(own) != 4 {
		t.Errorf("who may read the tool's deployments reads %d of 4 events", len(own))
	}
	stranger := y.As(y.NewToken(auth.NewToken{Name: "stranger", Permissions: []string{"tool.deployment.read:component:tool-other/*", "catalog.entity.read", "platform.self.read"}}))
	if got := read(stranger); len(got) != 0 {
		t.Errorf("another tool's reader reads %+v", got)
	}
}

func TestOneAtATimeAndTheNewestAreKept(t *testing.T) {
	eachYard(t, func(s *tool.Settings) { s.Keep = 3 }, func(t *testing.T, y *yard) {
		var ids []string
		for range 5 {
			d := y.deploy(t, "mytool", "web")
			a := y.do("POST", "/mytool/deployment", nil).Is(409)
			if !strings.Contains(string(a.Body), "There's already 1 running, the limit is 1. Wait for it to finish for now.") {
				t.Errorf("a second one: %s", a.Body)
			}
			y.do("DELETE", "/mytool/deployment/"+d.ID, nil).Is(409)
			y.do("PUT", "/mytool/deployment/"+d.ID+"/cancel", nil).Is(200)
			y.ended(t, "mytool", d.ID)
			ids = append(ids, d.ID)
		}
		var list answer[struct{ Deployments []peer }]
		y.do("GET", "/mytool/deployment", nil).Is(200).Into(&list)
		var got []string
		for _, d := range list.Data.Deployments {
			got = append(got, d.ID)
		}
		if !slices.Equal(got, ids[2:]) {
			t.Errorf("kept %q, want the newest three, oldest first: %q", got, ids[2:])
		}
		y.do("DELETE", "/mytool/deployment/"+ids[4], nil).Is(200)
		y.do("GET", "/mytool/deployment/"+ids[4], nil).Is(404)
		y.do("DELETE", "/mytool/deployment/"+ids[4], nil).Is(404)
		if list := y.do("GET", "/other/deployment", nil).Is(200); !strings.Contains(string(list.Body), `"deployments":[]`) {
			t.Errorf("no deployments: %s", list.Body)
		}
		y.do("GET", "/other/deployment/latest", nil).Is(404)
	})
}

// another is a second replica on the same database.
func (y *yard) another(t *testing.T) *yard {
	t.Helper()
	s := blueprinttest.Start(t, store.Postgres, blueprinttest.Options{Blueprints: blueprints, Kinds: []provider.Kind{y.v.Kind()}, Database: y.Database, DataDir: y.DataDir, Configure: func(c *server.Config) {
		c.Auth.SignIn.TLSHeader.From = []string{"127.0.0.1"}
		c.Auth.RateLimits.User = 0
		c.Providers = []server.ProviderConfig{{Name: "yard", Type: "fake"}}
		c.Sections["tool"].(*tool.Settings).Builder = "yard"
	}})
	return &yard{Server: s, v: y.v, me: s.As("")}
}

// Two replicas are asked at the same instant, and one builds go on where the other was stopped.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	v, database := fake.New(fake.Config{}), storetest.URL(t, store.Postgres)
	one := newYard(t, store.Postgres, v, database, nil)
	two := one.another(t)
	one.do("POST", "/mytool/config", config("a", "b", "c")).Is(200)
	for round := range 5 {
		var wg sync.WaitGroup
		status := make([]int, 8)
		for i := range status {
			wg.Go(func() { status[i] = []*yard{one, two}[i%2].do("POST", "/mytool/deployment", nil).Status })
		}
		wg.Wait()
		made := 0
		for _, s := range status {
			if s == 200 {
				made++
			} else if s != 409 {
				t.Errorf("got %d", s)
			}
		}
		if made != 1 {
			t.Fatalf("round %d: %d deployments were made, want one", round, made)
		}
		d := into[peer](two.do("GET", "/mytool/deployment/latest", nil).Is(200)).Data
		two.do("PUT", "/mytool/deployment/"+d.ID+"/cancel", nil).Is(200)
		one.ended(t, "mytool", d.ID)
	}
	before, _ := v.Ordered()
	d := into[peer](one.do("POST", "/mytool/deployment", nil).Is(200)).Data
	one.Stop()
	for _, c := range []string{"a", "b", "c"} {
		two.move("mytool", c, two.started(t, "mytool", d.ID, c), slipway.BuildSucceeded)
	}
	if p := two.ended(t, "mytool", d.ID); p.Status != "successful" {
		t.Errorf("got %+v", p)
	}
	if after, _ := v.Ordered(); after-before != 3 {
		t.Errorf("%d builds were started, want 3", after-before)
	}
}

// However many ask, the builder is asked once in an interval.
func TestOneListForAll(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		var ids []string
		for i := range 5 {
			name := fmt.Sprintf("tool%d", i)
			d := y.deploy(t, name, "web")
			ids = append(ids, d.ID)
			y.started(t, name, d.ID, "web")
		}
		_, before := y.v.Ordered()
		begun := time.Now()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				for range 40 {
					y.do("GET", fmt.Sprintf("/tool%d/deployment/%s", i, ids[i]), nil).Is(200)
				}
			})
		}
		wg.Wait()
		_, after := y.v.Ordered()
		if most := int(time.Since(begun)/(1500*time.Millisecond)) + 2; after-before > most {
			t.Errorf("200 reads within %v asked the builder %d times, want at most %d", time.Since(begun), after-before, most)
		}
	})
}

// A build that waits for room is tried when another one has ended, and not only when its time has come.
func TestRoomIsTakenWhenThereIsSome(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			var added atomic.Int64
			start := time.Now()
			y := openYard(t, engine, fake.New(fake.Config{}), "", nil, func(o *blueprinttest.Options) {
				o.Now = func() time.Time { return start.Add(time.Duration(added.Load())) }
			})
			y.v.Room(1)
			d := y.deploy(t, "mytool", "a", "b")
			first := ""
			y.until(t, "mytool", d.ID, "one is started and the other one waits", func(p peer) bool {
				for name, b := range p.Builds {
					if b.ID != "no-id-yet" {
						first = name
					}
				}
				return first != "" && strings.Contains(p.Builds[map[string]string{"a": "b", "b": "a"}[first]].Long, "Waiting for room")
			})
			y.move("mytool", first, y.get(t, "mytool", d.ID).Builds[first].ID, slipway.BuildSucceeded)
			added.Add(int64(2 * time.Second)) // it would be tried again after five
			second := map[string]string{"a": "b", "b": "a"}[first]
			y.move("mytool", second, y.started(t, "mytool", d.ID, second), slipway.BuildSucceeded)
			added.Add(int64(2 * time.Second))
			if p := y.ended(t, "mytool", d.ID); p.Status != "successful" {
				t.Errorf("got %+v", p)
			}
			db, err := store.Open("look", y.Database)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			var runs int
			if err := db.QueryRowContext(t.Context(), "SELECT max(run) FROM job WHERE kind = 'tool.step'").Scan(&runs); err != nil || runs > 5 {
				t.Errorf("the job of a step ran %d times, %v; it has nothing to do while its deployment waits", runs, err)
			}
		})
	}
}

// Two replicas ask no more often than one, and both show what one was told.
func TestOneListForTwoReplicas(t *testing.T) {
	t.Parallel()
	v := fake.New(fake.Config{})
	one := newYard(t, store.Postgres, v, storetest.URL(t, store.Postgres), nil)
	two := one.another(t)
	d := one.deploy(t, "mytool", "web")
	build := one.started(t, "mytool", d.ID, "web")
	_, before := v.Ordered()
	begun := time.Now()
	for _, status := range []slipway.BuildStatus{slipway.BuildRunning, slipway.BuildSucceeded} {
		one.move("mytool", "web", build, status)
		want := map[slipway.BuildStatus]string{slipway.BuildRunning: "running", slipway.BuildSucceeded: "successful"}[status]
		for _, y := range []*yard{two, one} {
			y.until(t, "mytool", d.ID, "the build is "+want, func(p peer) bool { return p.Builds["web"].Status == want })
		}
	}
	_, after := v.Ordered()
	if most := int(time.Since(begun)/(1500*time.Millisecond)) + 2; after-before > most {
		t.Errorf("within %v the builder was asked %d times, want at most %d", time.Since(begun), after-before, most)
	}
}

// The clock stands still but for what the test adds, so what is read is as old as the test says.
func TestOneListTellsOfAllDeployments(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			var added atomic.Int64
			start := time.Now()
			pass := func(d time.Duration) { added.Add(int64(d)) }
			y := openYard(t, engine, fake.New(fake.Config{}), "", nil, func(o *blueprinttest.Options) {
				o.Now = func() time.Time { return start.Add(time.Duration(added.Load())) }
			})
			const tools = 30
			ids, builds := make([]string, tools), make([]string, tools)
			name := func(i int) string { return fmt.Sprintf("tool%d", i) }
			for i := range tools {
				ids[i] = y.deploy(t, name(i), "web").ID
			}
			for i := range tools {
				builds[i] = y.started(t, name(i), ids[i], "web")
			}
			lists := func() int { _, n := y.v.Ordered(); return n }
			show := func(status string) {
				t.Helper()
				var wg sync.WaitGroup
				for i := range tools {
					wg.Go(func() {
						if p := y.get(t, name(i), ids[i]); p.Builds["web"].Status != status {
							t.Errorf("%s shows its build as %s, want %s", name(i), p.Builds["web"].Status, status)
						}
					})
				}
				wg.Wait()
			}
			pass(10 * time.Second)
			show("pending") // the reads had the builder asked
			before := lists()
			for i := range tools {
				y.move(name(i), "web", builds[i], slipway.BuildRunning)
			}
			pass(time.Second)
			show("pending")
			if n := lists() - before; n != 0 {
				t.Errorf("reading states that are a second old asked the builder %d times", n)
			}
			pass(time.Second)
			show("running") // whether it has been stored or not
			if n := lists() - before; n != 1 {
				t.Errorf("the builder was asked %d times for the builds of %d deployments that were two seconds old, want once", n, tools)
			}
			y.v.Break(fake.Down)
			pass(2 * time.Second)
			show("running") // nothing else is known
			y.v.Break(fake.None)
			for i := range tools {
				y.move(name(i), "web", builds[i], slipway.BuildSucceeded)
			}
			pass(2 * time.Second)
			before = lists()
			show("successful")
			if n := lists() - before; n != 1 {
				t.Errorf("the builder was asked %d times for the ends of builds, want once", n)
			}
			for i := range tools {
				if p := y.get(t, name(i), ids[i]); p.Status != "successful" {
					t.Errorf("%s is %s", name(i), p.Status)
				}
				y.do("POST", "/"+name(i)+"/deployment", nil).Is(200) // what is shown as ended is not in the way
			}
		})
	}
}

func TestDeployTokens(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		y.do("POST", "/mytool/config", config("web")).Is(200)
		at := "/components/v1/tool/mytool/deployment"
		text := func(a *blueprinttest.Answer) string { return into[struct{ Token string }](a.Is(200)).Data.Token }
		y.do("GET", "/mytool/deployment/token", nil).Is(404)
		y.do("PUT", "/mytool/deployment/token", nil).Is(404)
		if a := y.me.Do("POST", at+"?token=x", nil).Is(401); !strings.Contains(string(a.Body), "has no deploy token yet") {
			t.Errorf("no token yet: %s", a.Body)
		}
		token := text(y.do("POST", "/mytool/deployment/token", nil))
		if a := y.do("POST", "/mytool/deployment/token", nil).Is(409); !strings.Contains(string(a.Body), "Deploy token already exists. Use the 'refresh' subcommand or PUT /tool/mytool/deployment/token to refresh it.") {
			t.Errorf("a second token: %s", a.Body)
		}
		if shown := text(y.do("GET", "/mytool/deployment/token", nil)); shown != "<redacted>" {
			t.Errorf("the stored token is shown as %q", shown)
		}
		d := into[peer](y.me.Do("POST", at+"?token="+token, nil).Is(200)).Data
		y.me.Get(at + "/" + d.ID + "?token=" + token).Is(200)
		bearer := y.As(token)
		bearer.Get(at + "/" + d.ID).Is(200)
		bearer.Get("/api/v1/tool/mytool/deploy/" + d.ID).Is(200)
		for _, path := range []string{at, at + "/latest", at + "/token", "/components/v1/tool/mytool/config", "/api/v1/tool/mytool/config", "/api/catalog/entities"} {
			if got := bearer.Get(path).Status; got != 401 {
				t.Errorf("GET %s with a deploy token: got %d, want 401", path, got)
			}
		}
		bearer.Do("PUT", at+"/"+d.ID+"/cancel", nil).Is(401)
		bearer.Get("/components/v1/tool/other/deployment/" + d.ID).Is(401)
		wrong := "5f1c3f8e-2f6a-4f0e-9d55-0c6a5c1f2b77"
		for _, a := range []*blueprinttest.Answer{y.me.Get(at + "/" + d.ID + "?token=garbage"), y.me.Get(at + "/" + d.ID + "?token=" + wrong), y.As(wrong).Get(at + "/" + d.ID)} {
			if a.Status != 401 || !strings.Contains(string(a.Body), "does not match the tool's token") || strings.Contains(string(a.Body), "garbage") || strings.Contains(string(a.Body), wrong) {
				t.Errorf("a wrong token: %d %s", a.Status, a.Body)
			}
		}
		next := text(y.do("PUT", "/mytool/deployment/token", nil))
		y.me.Get(at + "/" + d.ID + "?token=" + token).Is(401)
		y.me.Get(at + "/" + d.ID + "?token=" + next).Is(200)
		y.do("DELETE", "/mytool/deployment/token", nil).Is(200)
		y.do("GET", "/mytool/deployment/token", nil).Is(404)
		y.me.Get(at + "/" + d.ID + "?token=" + next).Is(401)
		for _, secret := range []string{token, next} {
			if strings.Contains(y.Log.String(), secret) {
				t.Error("a token stands in the log")
			}
		}
	})
}

func TestWhoReachesWhat(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		const at = "/api/v1/tool/mytool/config"
		y.do("POST", "/mytool/config", config("web")).Is(200)
		if a := y.me.Do("GET", at, nil, dn("other")...).Is(403); !strings.Contains(string(a.Body), "tool:other reaches only its own") {
			t.Errorf("another tool: %s", a.Body)
		}
		for _, subject := range []string{"junk", "CN=mytool", "CN=mytool,CN=mytool,O=toolforge", `CN=mytool\,O=toolforge`} {
			y.me.Do("GET", at, nil, "ssl-client-subject-dn", subject).Is(401)
		}
		y.me.Get(at).Is(401)
		y.me.Get("/components/v1/healthz").Is(200)
		if a := y.me.Get("/components/openapi.json").Is(200); !strings.Contains(string(a.Body), "/components/v1/tool/{tool}/deployment/{id}/cancel") || strings.Contains(string(a.Body), `"/api/v1/tool`) || !strings.HasPrefix(string(a.Body), "{\"") {
			t.Errorf("the description: %.200s", a.Body)
		}
		reader := y.As(y.NewToken(auth.NewToken{Name: "reader", Permissions: []string{"tool.config.read:component:tool-mytool/*"}}))
		reader.Get(at).Is(200)
		reader.Get("/api/v1/tool/mytool2/config").Is(403)
		reader.Post(at, config("web")).Is(403)
		all := y.As(y.NewToken(auth.NewToken{Name: "all", Permissions: []string{"tool.*"}}))
		all.Get(at).Is(200)
		all.Get("/api/v1/tool/My_Tool/config").Is(400)
		all.Get("/api/v1/tool/mytool/config?x=1").Is(400)
		all.Get("/components/v1/tool/mytool/config?x=1").Is(200)
	})
}

func TestSourceURL(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		var mu sync.Mutex
		answer := func(http.ResponseWriter) {}
		reads := 0
		files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			reads++
			answer(w)
		}))
		defer files.Close()
		serve := func(text string) {
			mu.Lock()
			defer mu.Unlock()
			answer = func(w http.ResponseWriter) { fmt.Fprint(w, text) }
		}
		url := files.URL + "/tool.yaml"
		file := func(name string) string {
			return "components:\n  " + name + ":\n    build: {repository: 'https://git.example.com/x.git', ref: '" + sha + "'}\n    run: {command: serve}\n"
		}
		posted := strings.Replace(config("placeholder"), "{", `{"source_url":"`+url+`",`, 1)
		serve(file("first"))
		a := y.do("POST", "/mytool/config", posted).Is(200)
		if !strings.Contains(string(a.Body), `"data":{"source_url":"`+url+`","components":{"first":`) {
			t.Errorf("stored: %s", a.Body)
		}
		serve("source_url: https://elsewhere.example.com/x\n" + file("second"))
		d := into[peer](y.do("POST", "/mytool/deployment", nil).Is(200))
		if _, ok := d.Data.Builds["second"]; !ok || len(d.Messages.Warning) != 1 || !strings.Contains(d.Messages.Warning[0], "is not followed") {
			t.Errorf("deployed: %+v", d)
		}
		if a := y.do("GET", "/mytool/config", nil).Is(200); !strings.Contains(string(a.Body), url) || strings.Contains(string(a.Body), "elsewhere") {
			t.Errorf("the source has become another: %s", a.Body)
		}
		mu.Lock()
		if reads != 2 {
			t.Errorf("the source was read %d times, want once for each", reads)
		}
		mu.Unlock()
		y.do("PUT", "/mytool/deployment/"+d.Data.ID+"/cancel", nil).Is(200)
		y.ended(t, "mytool", d.Data.ID)
		for what, text := range map[string]string{"no config": "x: y", "no YAML": "a: [", "huge": strings.Repeat("x", 2<<20), "a page": "<html>"} {
			serve(text)
			for _, path := range []string{"/mytool/deployment", "/mytool/config"} {
				var body any
				if strings.HasSuffix(path, "config") {
					body = posted
				}
				if a := y.do("POST", path, body); a.Status != 400 || !strings.Contains(string(a.Body), "Unable to retrieve config from source url") {
					t.Errorf("%s: %s: got %d %.200s", what, path, a.Status, a.Body)
				}
			}
		}
		mu.Lock()
		answer = func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://169.254.169.254/latest")
			w.WriteHeader(302)
		}
		mu.Unlock()
		y.do("POST", "/mytool/deployment", nil).Is(400)
		for _, bad := range []string{"http://169.254.169.254/latest/meta-data", "http://localhost:1/x", "file:///etc/passwd", "http://user:pw@git.example.com/x"} {
			if got := y.do("POST", "/mytool/config", strings.Replace(config("web"), "{", `{"source_url":"`+bad+`",`, 1)).Status; got != 400 && got != 422 {
				t.Errorf("%s: got %d", bad, got)
			}
		}
	})
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	v := fake.New(fake.Config{})
	v.RunTools()
	y := newYard(t, store.SQLite, v, "", nil)
	a := into[json.RawMessage](y.do("GET", "/mytool/config/generate", nil).Is(200))
	if len(a.Messages.Warning) != 2 || !strings.HasPrefix(a.Messages.Warning[1], "No components were able to be generated from your tool") {
		t.Errorf("got %q", a.Messages.Warning)
	}
	y.do("POST", "/mytool/config", string(a.Data)).Is(200)
	d := y.deploy(t, "mytool", "web")
	y.move("mytool", "web", y.started(t, "mytool", d.ID, "web"), slipway.BuildSucceeded)
	y.ended(t, "mytool", d.ID)
	a = into[json.RawMessage](y.do("GET", "/mytool/config/generate", nil).Is(200))
	want := `{"config_version":"v1beta1","components":{"web":{"component_type":"continuous","build":{"repository":"https://git.example.com/web.git","ref":"` + sha + `"},"run":{"command":"serve"}}}}`
	if string(a.Data) != want || len(a.Messages.Warning) != 1 {
		t.Errorf("got %s, %q", a.Data, a.Messages.Warning)
	}
	y.do("POST", "/mytool/config", string(a.Data)).Is(200)
}

func TestNoBuilder(t *testing.T) {
	t.Parallel()
	y := newYard(t, store.SQLite, fake.New(fake.Config{}), "", func(s *tool.Settings) { s.Builder = "tekton" })
	y.do("POST", "/mytool/config", config("web")).Is(200)
	if a := y.do("POST", "/mytool/deployment", nil).Is(501); !strings.Contains(string(a.Body), "add a provider of type tekton") {
		t.Errorf("got %s", a.Body)
	}
}

func TestConfigOverHTTP(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		y.do("DELETE", "/mytool/config", nil).Is(404)
		y.do("POST", "/mytool/config", "").Is(422)
		a := y.do("POST", "/mytool/config", `{"components":{"A":{},"b":{"build":{},"run":{}}}}`).Is(422)
		var faults answer[any]
		a.Into(&faults)
		if len(faults.Messages.Error) < 4 || strings.Contains(string(a.Body), `"data"`) {
			t.Errorf("one text for each fault: %s", a.Body)
		}
		for _, text := range faults.Messages.Error {
			if !strings.HasPrefix(text, "Validation error at components -> ") {
				t.Errorf("a fault says %q", text)
			}
		}
		yaml := "components:\n  web:\n    build: {repository: 'https://git.example.com/x.git', ref: main}\n    run: {command: serve, colour: blue}\n"
		stored := y.me.Do("POST", "/components/v1/tool/mytool/config", yaml, append(dn("mytool"), "Content-Type", "application/yaml")...).Is(200)
		const want = `{"data":{"components":{"web":{"build":{"repository":"https://git.example.com/x.git","ref":"main"},"run":{"command":"serve","colour":"blue"}}}},"messages":{"info":["Configuration for mytool updated successfully."],"warning":["Unknown field components.web.run.colour, skipped"],"error":[]}}`
		if got := strings.TrimSpace(string(stored.Body)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := y.do("DELETE", "/mytool/config", nil).Is(200); !strings.Contains(string(got.Body), `"colour":"blue"`) {
			t.Errorf("the deletion gave %s", got.Body)
		}
		y.do("GET", "/mytool/config", nil).Is(404)
		y.do("POST", "/mytool/deployment", nil).Is(404)
	})
}
