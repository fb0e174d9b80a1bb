package build_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/provider/gitea"
	"github.com/slipway-platform/slipway/provider/github"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

// ci is a real server that answers as GitHub and Gitea do, as far as reading runs goes, and can be dead, slow, or say garbage.
type ci struct {
	*httptest.Server
	mu    sync.Mutex
	mode  string
	runs  []map[string]any // the newest first
	asked int
}

func newCI(t *testing.T) *ci {
	c := &ci{}
	c.Server = httptest.NewServer(c)
	t.Cleanup(func() { c.become("ok"); c.Close() })
	return c
}

func (c *ci) become(mode string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode = mode
}

func (c *ci) requests() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// run makes a run; number also says when.
func (c *ci) run(number int, conclusion string) map[string]any {
	at := now.Add(time.Duration(number-100) * time.Minute).Format(time.RFC3339)
	status := "completed"
	if conclusion == "" {
		status = "in_progress"
	}
	r := map[string]any{
		"id": number, "run_number": number, "run_attempt": 1, "name": "CI", "path": ".github/workflows/ci.yml", "workflow_id": 1, "event": "push",
		"status": status, "conclusion": conclusion, "created_at": at, "updated_at": at, "run_started_at": at, "started_at": at, "completed_at": at,
		"html_url": fmt.Sprintf("https://ci.example.com/%d", number), "head_sha": "d0cd0d7cc7b9da67a1f2e82698bee4a841137351", "head_branch": "main", "display_title": "A change",
		"actor": map[string]any{"login": "jane"}, "triggering_actor": map[string]any{"login": "jane"},
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = slices.DeleteFunc(c.runs, func(other map[string]any) bool { return other["id"] == number })
	c.runs = slices.Insert(c.runs, 0, r)
	slices.SortStableFunc(c.runs, func(a, b map[string]any) int { return b["id"].(int) - a["id"].(int) })
	return r
}

func (c *ci) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	mode := c.mode
	c.asked++
	c.mu.Unlock()
	switch mode {
	case "dead":
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
		return
	case "slow":
		<-r.Context().Done()
		return
	case "garbage":
		_, _ = w.Write([]byte("<html>Sign in to go on</html>"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	path := r.URL.Path
	switch _, rest, _ := strings.Cut(path, "/actions/runs"); {
	case strings.HasSuffix(path, "/version"):
		_, _ = w.Write([]byte(`{"version":"1.26.0"}`))
	case strings.HasSuffix(path, "/user"), strings.HasSuffix(path, "/rate_limit"):
		_, _ = w.Write([]byte(`{}`))
	case r.Header.Get("Authorization") != "Bearer server" && r.Header.Get("Authorization") != "token server" && !strings.HasSuffix(r.Header.Get("Authorization"), " jane"):
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message":"Not Found"}`))
	case strings.HasSuffix(rest, "/rerun-failed-jobs") && strings.HasPrefix(rest, "/1/"):
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"message":"Unable to retry this workflow run because it was created over a month ago"}`))
	case strings.HasSuffix(rest, "/rerun-failed-jobs"):
		c.run(2, "")
		w.WriteHeader(http.StatusCreated)
	case strings.HasSuffix(rest, "/jobs"):
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, run := range c.runs {
			if rest == fmt.Sprintf("/%d/jobs", run["id"]) {
				_ = json.NewEncoder(w).Encode(map[string]any{"jobs": []map[string]any{{"id": run["id"], "name": "build", "run_attempt": 1, "created_at": run["created_at"]}}})
			}
		}
	case rest == "":
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.FormValue("page") > "1" {
			_, _ = w.Write([]byte(`{"workflow_runs":[]}`))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"workflow_runs": c.runs, "total_count": len(c.runs)})
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, run := range c.runs {
			if rest == fmt.Sprintf("/%d", run["id"]) {
				_ = json.NewEncoder(w).Encode(run)
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	}
}

// platformOf is a whole server over three vendors: a GitHub and a Gitea that are real servers, and one in memory that stands for what is local.
type platformOf struct {
	*blueprinttest.Server
	t             *testing.T
	github, gitea *ci
	local         *fake.Vendor
	ahead         *atomic.Int64 // of the clock
}

func vendors(t *testing.T, engine store.Engine, visibility string) *platformOf {
	t.Helper()
	p := &platformOf{t: t, github: newCI(t), gitea: newCI(t), local: fake.New(fake.Config{WebhookSecret: "hush", NewIDs: true}), ahead: new(atomic.Int64)}
	p.local.Project(hello)
	local := p.local.Kind()
	local.Open = func(context.Context, jsonRaw, provider.Env) (*provider.Provider, error) {
		opened := p.local.Provider()
		retrigger := opened.Builds.Retrigger
		opened.Builds.Retrigger = func(ctx context.Context, project, id string, extra map[string]any, by slipway.Caller) (*slipway.Build, error) {
			_, err := retrigger(ctx, project, id, extra, by)
			return nil, err // a vendor that takes it and does not say what comes of it
		}
		return opened, nil
	}
	credential := map[string]any{"type": "secretText", "secret": "server"}
	settings := task.Settings{Visibility: visibility}
	dir := t.TempDir()
	file := filepath.Join(dir, "catalog-info.yaml")
	text := fmt.Sprintf(`{apiVersion: backstage.io/v1alpha1, kind: Component, metadata: {name: web, annotations: {%[1]s: %[4]s, %[2]s: %[4]s, %[3]s: %[4]s}},
  spec: {type: service, lifecycle: production, owner: team-a}}`, github.Annotation, gitea.Annotation, fake.Annotation, hello)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Server = blueprinttest.Start(t, engine, blueprinttest.Options{
		Blueprints: []blueprint.Blueprint{build.Blueprint, catalog.Blueprint, platform.Blueprint, data.Blueprint},
		Kinds:      []provider.Kind{github.Kind, gitea.Kind, local},
		Now:        func() time.Time { return time.Now().Add(time.Duration(p.ahead.Load())) },
		Configure: func(c *server.Config) {
			c.Fetch.Allow = append(c.Fetch.Allow, p.github.URL+"/*", p.gitea.URL+"/*")
			c.Fetch.FileRoots = []string{dir}
			c.Providers = []server.ProviderConfig{
				{Name: "github", Type: "github", Settings: settings, Rest: map[string]any{"url": p.github.URL + "/api/v3", "credential": credential, "webhookSecret": "hush"}},
				{Name: "gitea", Type: "gitea", Settings: settings, Rest: map[string]any{"url": p.gitea.URL, "credential": credential}},
				{Name: "local", Type: "fake", Rest: map[string]any{}},
			}
		},
	})
	p.Post("/api/catalog/locations", catalog.Place{Type: "file", Target: file}).Is(http.StatusCreated)
	return p
}

func (p *platformOf) search(query string, header ...string) build.Page {
	p.t.Helper()
	var page build.Page
	p.Get(webBuilds+"/search"+query, header...).Is(http.StatusOK).Into(&page)
	return page
}

func (p *platformOf) state(name string) slipway.Source {
	p.t.Helper()
	for _, s := range p.search("").Sources {
		if s.Provider == name {
			return s
		}
	}
	p.t.Fatalf("no source %s", name)
	return slipway.Source{}
}

// notify sends GitHub's webhook about a run.
func (p *platformOf) notify(run map[string]any) *blueprinttest.Answer {
	p.t.Helper()
	body, err := json.Marshal(map[string]any{"action": "completed", "workflow_run": run, "repository": map[string]any{"full_name": hello}})
	if err != nil {
		p.t.Fatal(err)
	}
	m := hmac.New(sha256.New, []byte("hush"))
	m.Write(body)
	return p.As("").Do("POST", "/hooks/github", body, "X-GitHub-Event", "workflow_run", "X-Hub-Signature-256", "sha256="+hex.EncodeToString(m.Sum(nil)))
}

// await waits until all sources were read and the list has so many builds.
func (p *platformOf) await(n int) {
	p.t.Helper()
	var last []byte
	defer func() {
		if p.t.Failed() {
			p.t.Logf("the last answer: %s", last)
		}
	}()
	blueprinttest.Eventually(p.t, fmt.Sprintf("%d builds", n), func() bool {
		a := p.Get(webBuilds + "/search?limit=100&fresh=true")
		if a.Status != http.StatusOK {
			return false // the catalog is not there yet
		}
		last = a.Body
		var page build.Page
		a.Into(&page)
		return len(page.Items) == n && len(page.Sources) == 3 && !slices.ContainsFunc(page.Sources, func(s slipway.Source) bool { return s.AsOf == nil })
	})
}

func eachEngine(t *testing.T, test func(t *testing.T, engine store.Engine)) {
	t.Helper()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			test(t, engine)
		})
	}
}

func TestAVendorThatFailsHarmsNoOtherAndComesBackByItself(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine store.Engine) {
		for _, mode := range []string{"dead", "slow", "garbage"} {
			t.Run(mode, func(t *testing.T) {
				t.Parallel()
				p := vendors(t, engine, "server")
				p.github.run(1, "success")
				p.gitea.run(2, "success")
				p.local.Add(hello, slipway.Build{ID: "3", CreatedAt: now.Add(-97 * time.Minute), Status: slipway.BuildSucceeded})
				p.await(3)

				p.github.become(mode)
				p.github.run(10, "success")
				p.gitea.run(11, "failure")
				p.local.Add(hello, slipway.Build{ID: "12", CreatedAt: now.Add(-88 * time.Minute), Status: slipway.BuildSucceeded})
				forward := func(d time.Duration) { p.ahead.Add(int64(d)) }
				forward(5 * time.Minute) // all are due
				blueprinttest.Eventually(t, "the others are read on", func() bool {
					return strings.HasPrefix(ids(p.search("?limit=100")), "local:12 gitea:11")
				})
				begun := time.Now()
				page := p.search("?fresh=true") // it waits for five seconds at most
				if took := time.Since(begun); took > 8*time.Second {
					t.Errorf("an answer took %s while one vendor is %s", took, mode)
				}
				if got := ids(page); got != "local:12 gitea:11 local:3 gitea:2 github:1" {
					t.Errorf("got %s, want what is new at the others and what was known of the one", got)
				}
				// patiently waits as long as a call to a slow vendor may take, and longer, while the clock goes ten times as fast.
				patiently := func(what string, ok func() bool) {
					t.Helper()
					for round := 0; !ok(); round++ {
						if round == 900 {
							t.Fatalf("it did not happen: %s; the vendor's source is %+v", what, p.state("github"))
						}
						forward(time.Second)
						time.Sleep(100 * time.Millisecond)
					}
				}
				patiently("the source is marked", func() bool { return p.state("github").State == slipway.SourceFailed })
				if s := p.state("github"); s.Error == "" || s.AsOf == nil {
					t.Errorf("got %+v, want why, and how old the last known builds are", s)
				}
				for _, name := range []string{"gitea", "local"} {
					if s := p.state(name); s.State != slipway.SourceFresh {
						t.Errorf("%s is %s: %s", name, s.State, s.Error)
					}
				}

				p.github.become("ok")
				patiently("the vendor is back, and so are its builds", func() bool {
					return strings.Contains(ids(p.search("?limit=100")), "github:10") && p.state("github").State == slipway.SourceFresh
				})
			})
		}
	})
}

func TestThreeVendorsGiveOneListInOneOrder(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine store.Engine) {
		p := vendors(t, engine, "server")
		for i := range 30 {
			switch number := i + 1; i % 3 {
			case 0:
				p.github.run(number, "success")
			case 1:
				p.gitea.run(number, "failure")
			case 2:
				p.local.Add(hello, slipway.Build{ID: fmt.Sprint(number), CreatedAt: now.Add(time.Duration(number-100) * time.Minute), Status: slipway.BuildSucceeded})
			}
		}
		p.await(30)
		before := strings.Fields(ids(p.search("?limit=100")))
		var seen []string
		for cursor, next := "", 31; ; next++ {
			page := p.search("?limit=4&cursor=" + cursor)
			seen = append(seen, strings.Fields(ids(page))...)
			if cursor = page.PageInfo.NextCursor; cursor == "" {
				break
			}
			p.notify(p.github.run(next, "success")).Is(http.StatusAccepted) // seen at once
			h, body := p.local.Notification(hello, p.local.Add(hello, slipway.Build{ID: fmt.Sprint("n", next), CreatedAt: now.Add(time.Duration(next-100) * time.Minute)}).ID)
			p.As("").Do("POST", "/hooks/local", body, "X-Fake-Signature", h.Get("X-Fake-Signature")).Is(http.StatusAccepted)
			if first := ids(p.search("?limit=1")); !strings.HasPrefix(first, fmt.Sprintf("github:%d", next)) && !strings.HasPrefix(first, fmt.Sprintf("local:n%d", next)) {
				t.Fatalf("a build that a webhook told of is not in the list: %s comes first", first)
			}
		}
		if !slices.Equal(seen, before) {
			t.Errorf("the pages together:\n%s\nwhat was there at the first:\n%s", seen, before)
		}
	})
}

func TestSourceVisibilityHoldsEverywhere(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine store.Engine) {
		p := vendors(t, engine, "source")
		p.local.Add(hello, slipway.Build{ID: "3", CreatedAt: now.Add(-97 * time.Minute), Status: slipway.BuildFailed})
		blueprinttest.Eventually(t, "what is visible to all", func() bool {
			a := p.Get(webBuilds + "/search?fresh=true")
			var page build.Page
			return a.Status == http.StatusOK && json.Unmarshal(a.Body, &page) == nil && ids(page) == "local:3"
		})
		const header, mine, stranger = "Slipway-Provider-Token", "github=jane,gitea=jane", "github=joe,gitea=joe"
		blueprinttest.Eventually(t, "the first look", func() bool { return len(p.search("", header, mine).Sources) == 3 })
		p.github.run(11, "failure")
		p.gitea.run(12, "failure")
		p.notify(p.github.run(10, "failure")).Is(http.StatusAccepted)
		blueprinttest.Eventually(t, "what is visible with a token", func() bool {
			return ids(p.search("?fresh=true", header, mine)) == "gitea:12 github:11 github:10 local:3"
		})
		for _, shown := range []string{"", "nobody=x", stranger, "github=joe"} {
			var with []string
			if shown != "" {
				with = []string{header, shown}
			}
			page := p.search("", with...)
			if ids(page) != "local:3" || page.Sources[0].State != slipway.SourceHidden || page.Sources[0].Error == "" {
				t.Errorf("with %q: %s, %+v", shown, ids(page), page.Sources[0])
			}
			var all build.Page
			p.Get("/api/build/search?status=failed", with...).Is(http.StatusOK).Into(&all)
			if ids(all) != "local:3" {
				t.Errorf("with %q, across entities: %s", shown, ids(all))
			}
			for _, path := range []string{"", "/logs"} {
				p.Get(webBuilds+"/builds/github:10"+path, with...).Fails(http.StatusForbidden, slipway.Forbidden)
				p.Get(webBuilds+"/builds/github:404"+path, with...).Fails(http.StatusForbidden, slipway.Forbidden) // whether it is there is not told
			}
			p.Do("POST", webBuilds+"/retrigger", map[string]any{"buildId": "github:10"}, with...).Fails(http.StatusForbidden, slipway.Forbidden)
			p.Do("POST", webBuilds+"/start", map[string]any{"provider": "github"}, with...).Fails(http.StatusForbidden, slipway.Forbidden)
			if jobs := string(p.Get("/data/jobs", with...).Is(http.StatusOK).Body); strings.Contains(jobs, "github:") || !strings.Contains(jobs, "local:") {
				t.Errorf("with %q, jobs: %s", shown, jobs)
			}
			if runs := string(p.Get("/data/job/"+hello+"/runs", with...).Is(http.StatusOK).Body); strings.Contains(runs, "github:") || !strings.Contains(runs, "local:3") {
				t.Errorf("with %q, runs: %s", shown, runs)
			}
			if events := string(p.Get("/api/events?type=dev.cdevents.*&after=0", with...).Is(http.StatusOK).Body); strings.Contains(events, "github:10") {
				t.Errorf("with %q, events: %s", shown, events)
			}
		}
		p.Get(webBuilds+"/builds/github:10", header, mine).Is(http.StatusOK)
		if jobs := string(p.Get("/data/jobs", header, mine).Is(http.StatusOK).Body); !strings.Contains(jobs, "github:") {
			t.Errorf("with a token, jobs: %s", jobs)
		}
		if events := string(p.Get("/api/events?type=dev.cdevents.*&after=0", header, mine).Is(http.StatusOK).Body); !strings.Contains(events, "github:10") {
			t.Errorf("with a token, events: %s", events)
		}
		asked := p.github.requests()
		for range 5 {
			p.search("", header, mine)
		}
		if more := p.github.requests() - asked; more > 2 { // a look because somebody looks may be among them
			t.Errorf("five searches in a row asked the vendor %d times", more)
		}
		p.Get(webBuilds+"/search", header, "github").Fails(http.StatusBadRequest, slipway.Invalid)
		if log := p.Log.String(); strings.Contains(log, "=jane") || strings.Contains(log, "=joe") {
			t.Error("a token is in the log")
		}
	})
}

func TestAProviderIsChecked(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine store.Engine) {
		p := vendors(t, engine, "server")
		p.github.run(1, "success")
		p.await(1)
		check := func(name string) map[string]task.Finding {
			t.Helper()
			var d task.Diagnosis
			p.Do("POST", "/api/providers/"+name+"/check", nil).Is(http.StatusOK).Into(&d)
			found := map[string]task.Finding{}
			for _, f := range d.Findings {
				found[f.What] = f
				if f.State == "failed" && (d.Works || f.Do == "") {
					t.Errorf("%s: %+v failed, and works is %t", name, f, d.Works)
				}
			}
			return found
		}
		states := func(found map[string]task.Finding) string {
			var list []string
			for _, what := range []string{"configuration", "address", "credential", "permissions", "webhook", "projects"} {
				list = append(list, found[what].State)
			}
			return strings.Join(list, " ")
		}
		if f := check("github"); states(f) != "ok ok ok ok warning ok" || !strings.Contains(f["webhook"].Do, "/hooks/github") {
			t.Errorf("before any webhook: %+v", f)
		}
		p.notify(p.github.run(2, "success")).Is(http.StatusAccepted)
		blueprinttest.Eventually(t, "the webhook is noted", func() bool { return check("github")["webhook"].State == "ok" })
		if f := check("gitea"); f["webhook"].State != "warning" || !strings.Contains(f["webhook"].Do, "webhookSecret") {
			t.Errorf("a provider without a secret: %+v", f["webhook"])
		}
		p.ahead.Add(int64(2 * time.Minute))
		p.As("").Do("POST", "/hooks/github", "{}", "X-GitHub-Event", "workflow_run", "X-Hub-Signature-256", "sha256=00").Is(http.StatusUnauthorized)
		blueprinttest.Eventually(t, "the refusal is noted", func() bool { return check("github")["webhook"].State == "failed" })
		p.github.become("garbage")
		if f := check("github"); f["address"].State != "failed" || f["permissions"].State != "skipped" {
			t.Errorf("an address of something else: %+v", f)
		}
		p.github.become("dead")
		if f := check("github"); f["address"].State != "failed" || !strings.Contains(f["address"].Do, "fetch.allow") {
			t.Errorf("a vendor that is dead: %+v", f)
		}
		p.Do("POST", "/api/providers/nowhere/check", nil).Fails(http.StatusNotFound, slipway.NotFound)
		p.With("platform.provider.read").Do("POST", "/api/providers/github/check", nil).Fails(http.StatusForbidden, slipway.Forbidden)
		var list blueprint.List[task.Standing]
		p.With("platform.provider.read").Get("/api/providers").Is(http.StatusOK).Into(&list)
		if len(list.Items) != 3 || list.Items[1].Name != "github" || list.Items[1].Projects != 1 || list.Items[1].Webhook == nil || list.Items[0].Webhook != nil {
			t.Errorf("got %+v", list.Items)
		}
	})
}

func TestARetriggerNamesItsBuildOrTheVendorsReason(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine store.Engine) {
		p := vendors(t, engine, "server")
		p.github.run(1, "failure")
		p.github.run(2, "failure")
		p.await(2)
		retrigger := func(id string) *blueprinttest.Answer {
			return p.Post(webBuilds+"/retrigger", map[string]any{"buildId": id})
		}
		if f := retrigger("github:1").Fails(http.StatusConflict, slipway.Conflict); !strings.Contains(f.Error, "created over a month ago") {
			t.Errorf("got %q, want the vendor's reason", f.Error)
		}
		var accepted build.Accepted
		retrigger("github:2").Is(http.StatusAccepted).Into(&accepted)
		if accepted.Build == nil || accepted.Build.ID != "github:2" {
			t.Errorf("got %+v, want the build that runs again", accepted.Build)
		}
		p.local.Add(hello, slipway.Build{ID: "3", CreatedAt: now.Add(-97 * time.Minute), Status: slipway.BuildFailed, Commit: &slipway.Commit{SHA: "abc"}})
		blueprinttest.Eventually(t, "the build of the third vendor", func() bool { return strings.Contains(ids(p.search("?fresh=true")), "local:3") })
		accepted = build.Accepted{}
		retrigger("local:3").Is(http.StatusAccepted).Into(&accepted)
		if accepted.Build == nil || accepted.Build.ID == "local:3" || !strings.HasPrefix(accepted.Build.ID, "local:") {
			t.Errorf("got %+v, want the new build, though the vendor did not name it", accepted.Build)
		}
	})
}

// Every vendor that speaks HTTP may be a server with an authority of its own. Its certificates stand in the configuration, or in a document.
func TestEachProviderTrustsAnAuthorityOfItsOwn(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine store.Engine) {
		var asked sync.Map // by path
		vendor := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
			asked.Store(name, true)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		vendor.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of each handshake that failed
		vendor.StartTLS()
		t.Cleanup(vendor.Close)
		authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vendor.Certificate().Raw}))
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, []byte(authority), 0o600); err != nil {
			t.Fatal(err)
		}
		var names []string
		p := blueprinttest.Start(t, engine, blueprinttest.Options{
			Blueprints: []blueprint.Blueprint{build.Blueprint, catalog.Blueprint, platform.Blueprint, data.Blueprint},
			Kinds:      builtin.Providers(),
			Configure: func(c *server.Config) {
				c.Fetch.Allow = append(c.Fetch.Allow, vendor.URL+"/*")
				for _, k := range builtin.Providers() {
					field, ok := reflect.TypeOf(k.Config).FieldByName("CACertificates")
					if !ok {
						continue
					}
					if field.Tag.Get("json") != "caCertificates" {
						t.Errorf("%s calls it %s", k.Name, field.Tag)
					}
					names = append(names, k.Name)
					for name, rest := range map[string]map[string]any{k.Name: {"caCertificates": "${file:" + file + "}"}, k.Name + "-without": {}} {
						rest["url"] = vendor.URL + "/" + name
						if k.Name == "buildkite" { // which cannot be without
							rest["credential"] = map[string]any{"type": "secretText", "secret": "server"}
						}
						c.Providers = append(c.Providers, server.ProviderConfig{Name: name, Type: k.Name, Rest: rest})
					}
				}
			},
		})
		if len(names) != 9 {
			t.Errorf("%v can be told of authorities", names)
		}
		address := func(name string) (f task.Finding) {
			t.Helper()
			var d task.Diagnosis
			p.Do("POST", "/api/providers/"+name+"/check", nil).Is(http.StatusOK).Into(&d)
			for _, f = range d.Findings {
				if f.What == "address" {
					break
				}
			}
			return f
		}
		for _, name := range names {
			if f := address(name); f.State != "ok" {
				t.Errorf("%s: %+v", name, f)
			}
			if _, ok := asked.Load(name); !ok {
				t.Errorf("%s did not reach the vendor", name)
			}
			if f := address(name + "-without"); f.State != "failed" || !strings.Contains(f.Text, "`caCertificates` of this provider") {
				t.Errorf("%s without the authority: %+v", name, f)
			}
			if _, ok := asked.Load(name + "-without"); ok {
				t.Errorf("%s reached a vendor that it does not trust", name)
			}
		}

		document := map[string]any{"id": "stored", "type": "gitea", "url": vendor.URL + "/stored", "caCertificates": authority}
		p.Post("/data/providers", document).Is(http.StatusCreated)
		blueprinttest.Eventually(t, "the document's provider reaches the vendor", func() bool {
			return p.Do("POST", "/api/providers/stored/check", nil).Status == http.StatusOK && address("stored").State == "ok"
		})
		for _, text := range []string{file, "${file:" + file + "}"} { // a document names no files
			document["id"], document["caCertificates"] = "reader", text
			if a := p.Post("/data/providers", document).Is(http.StatusUnprocessableEntity); !strings.Contains(string(a.Body), "/caCertificates: holds no certificate") {
				t.Errorf("got %s", a.Body)
			}
		}
	})
}
