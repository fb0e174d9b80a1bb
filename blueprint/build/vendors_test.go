package build_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/github"
	"github.com/slipway-platform/slipway/provider/jenkins"
	"github.com/slipway-platform/slipway/provider/jenkinstest"
	"github.com/slipway-platform/slipway/provider/providertest"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// hub plays as much of GitHub as a list and a webhook need.
type hub struct {
	*providertest.Stub

	mu   sync.Mutex
	runs []map[string]any // oldest first
}

func newHub(t testing.TB) *hub {
	h := &hub{}
	h.Stub = providertest.NewStub(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/repos/octo/hello/actions/runs" {
			providertest.Refuse(http.StatusNotFound, "Not Found")(w, r)
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		page, _ := strconv.Atoi(r.FormValue("page"))
		size, _ := strconv.Atoi(r.FormValue("per_page"))
		list := append([]map[string]any{}, h.runs...)
		slices.Reverse(list)
		from := min((page-1)*size, len(list))
		to := min(from+size, len(list))
		if to < len(list) {
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=%d>; rel="next"`, h.URL, r.URL.Path, page+1))
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"total_count": len(list), "workflow_runs": list[from:to]})
	})
	return h
}

// add makes a run, and gives the webhook about it.
func (h *hub) add(t testing.TB, at time.Time) (http.Header, []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, when := 5000+len(h.runs), at.UTC().Format(time.RFC3339)
	run := map[string]any{
		"id": id, "run_number": len(h.runs) + 1, "run_attempt": 1, "name": "ci", "path": ".github/workflows/ci.yml", "event": "push", "status": "completed", "conclusion": "success",
		"created_at": when, "run_started_at": when, "updated_at": when, "html_url": fmt.Sprintf("https://github.com/octo/hello/actions/runs/%d", id), "head_sha": "0f886c74", "head_branch": "main",
	}
	h.runs = append(h.runs, run)
	body, err := json.Marshal(map[string]any{"action": "completed", "workflow_run": run, "repository": map[string]any{"full_name": "octo/hello"}})
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, []byte("hush"))
	mac.Write(body)
	return http.Header{"X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(mac.Sum(nil))}, "X-Github-Event": {"workflow_run"}, "Content-Type": {"application/json"}}, body
}

// three is a component whose builds come from two Jenkins and GitHub.
type three struct {
	*world
	main, second *jenkinstest.Jenkins
	stub         *providertest.Stub // of second
	web, nightly *jenkinstest.Item
	hub          *hub
}

func eachThree(t *testing.T, test func(t *testing.T, v *three)) {
	t.Helper()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			v := &three{world: &world{t: t}, main: jenkinstest.New(), second: jenkinstest.New(), hub: newHub(t)}
			v.web, v.nightly = v.main.Add(jenkinstest.Multibranch, "shop/web"), v.second.Add(jenkinstest.Freestyle, "nightly/web")
			stub := providertest.NewStub(t, nil, v.main.ServeHTTP)
			v.stub = providertest.NewStub(t, nil, v.second.ServeHTTP)
			account := map[string]any{"type": "usernamePassword", "username": "bot", "password": "11aa"}
			v.Server = blueprinttest.Start(t, engine, blueprinttest.Options{
				Blueprints: []blueprint.Blueprint{build.Blueprint, {
					Name: "catalog", Version: "0.0.1", Summary: "Lets the test into the host, and to the entities.", Stability: blueprint.Experimental,
					Databases:   []blueprint.Database{{Name: "main"}},
					Permissions: []auth.Permission{{Name: entity.ReadPermission, Text: "See an entity", Object: "entity"}},
					Open: func(_ context.Context, h *blueprint.Host) (any, error) {
						v.host = h
						h.Entities.Announce = h.Events.Announce
						return v, nil
					},
				}},
				Kinds: []provider.Kind{github.Kind, jenkins.Kind},
				Configure: func(c *server.Config) {
					c.Fetch.Allow = []string{"http://127.0.0.1:*/*"}
					c.Providers = []server.ProviderConfig{
						{Name: "main", Type: "jenkins", Rest: map[string]any{"url": stub.URL, "credential": account, "webhookSecret": "hush"}},
						{Name: "second", Type: "jenkins", Rest: map[string]any{"url": v.stub.URL, "credential": account, "webhookSecret": "hush", "default": false}},
						{Name: "github", Type: "github", Rest: map[string]any{"url": v.hub.URL, "webhookSecret": "hush"}},
					}
				},
			})
			test(t, v)
		})
	}
}

// arrive has a build begin and end at each vendor, which they tell of.
func (v *three) arrive(branch string, state string, at time.Time) {
	v.t.Helper()
	v.main.Run(v.main.Add(jenkinstest.Pipeline, "shop/web/"+branch), state, at)
	v.second.Run(v.nightly, state, at.Add(-time.Second))
	h, body := v.hub.add(v.t, at.Add(-2*time.Second))
	post := func(name string, header http.Header, body []byte) {
		v.t.Helper()
		var pairs []string
		for k, values := range header {
			pairs = append(pairs, k, values[0])
		}
		v.As("").Post("/hooks/"+name, body, pairs...).Is(http.StatusAccepted)
	}
	r := http.Request{Header: http.Header{"Content-Type": {"application/json"}}}
	r.SetBasicAuth("jenkins", "hush")
	post("main", r.Header, fmt.Appendf(nil, `{"name":"x","url":"job/shop/job/web/job/%s/","build":{"number":1,"phase":"FINALIZED"}}`, strings.ReplaceAll(branch, "%", "%25")))
	post("second", r.Header, []byte(`{"name":"web","url":"job/nightly/job/web/","build":{"number":1,"phase":"FINALIZED"}}`))
	post("github", h, body)
}

func (v *three) component() {
	v.entity("web", "team-a", map[string]string{github.Annotation: "octo/hello", jenkins.Annotation: "shop/web, second:Nightly/Web"})
}

func (v *three) state(p build.Page, name string) slipway.Source {
	for _, s := range p.Sources {
		if s.Provider == name {
			return s
		}
	}
	return slipway.Source{}
}

func TestTwoJenkinsAndGitHubGiveOneListWhileBuildsArrive(t *testing.T) {
	eachThree(t, func(t *testing.T, v *three) {
		const each, size = 24, 9
		begun := now.Add(-2 * time.Hour)
		for i := range each {
			at := begun.Add(time.Duration(i) * time.Minute)
			v.main.Run(v.main.Add(jenkinstest.Pipeline, "shop/web/"+[]string{"main", "feature%2Fx"}[i%2]), jenkinstest.Success, at)
			v.second.Run(v.nightly, jenkinstest.Success, at.Add(-20*time.Second))
			v.hub.add(t, at.Add(-40*time.Second))
		}
		v.component()
		v.await(3 * each)
		before := strings.Fields(ids(v.search("?limit=100")))

		seen := map[string]int{}
		var order []string
		arrived := 0
		for query := fmt.Sprintf("?limit=%d", size); ; {
			p := v.search(query)
			for _, b := range p.Items {
				seen[b.ID]++
				order = append(order, b.ID)
			}
			if !p.PageInfo.HasMore {
				break
			}
			if arrived < 8 {
				arrived++
				v.arrive("main", jenkinstest.Success, now.Add(time.Duration(arrived)*time.Minute))
				v.await(3 * (each + arrived)) // they are in the index before the next page is read
			}
			query = fmt.Sprintf("?limit=%d&cursor=%s", size, p.PageInfo.NextCursor)
		}
		if arrived == 0 || !slices.Equal(order, before) {
			t.Errorf("while %d builds arrived, got\n%q, want what was there when the first page was read, in its order:\n%q", 3*arrived, order, before)
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s was seen %d times", id, n)
			}
		}
		p := v.search("?limit=100")
		if !slices.IsSortedFunc(p.Items, func(a, b slipway.Build) int { return b.CreatedAt.Compare(a.CreatedAt) }) {
			t.Errorf("not newest first: %s", ids(p))
		}
		for _, name := range []string{"main", "second", "github"} {
			if s := v.state(p, name); s.State != "fresh" {
				t.Errorf("%s is %+v, want fresh", name, s)
			}
		}
		if p := v.search("?limit=100&pipeline=shop/web/feature/x"); len(p.Items) != each/2 {
			t.Errorf("of one branch's job: %d builds, want %d", len(p.Items), each/2)
		}
	})
}

func TestBuildsOfJenkinsAreRunAgainAndStarted(t *testing.T) {
	eachThree(t, func(t *testing.T, v *three) {
		r := v.second.Run(v.nightly, jenkinstest.Failure, now)
		v.second.Write(r, "it broke\n")
		v.main.Add(jenkinstest.Pipeline, "shop/web/feature%2Fx")
		v.component()
		v.await(1)

		var accepted build.Accepted
		v.Post(webBuilds+"/retrigger", map[string]any{"buildId": "second:nightly/web#1"}).Is(http.StatusAccepted).Into(&accepted)
		if accepted.Build == nil || accepted.Build.ID != "second:nightly/web#2" || accepted.Build.Trigger != slipway.TriggerRetry {
			t.Errorf("run again: got %+v", accepted.Build)
		}
		if got := ids(v.search("")); got != "second:nightly/web#2 second:nightly/web#1" {
			t.Errorf("got %s, want both at once", got)
		}
		if fault := v.Post(webBuilds+"/retrigger", map[string]any{"buildId": "second:nightly/web#2"}).Fails(http.StatusConflict, slipway.Conflict); fault.Error == "" {
			t.Error("a build that is running was run again")
		}
		v.Post(webBuilds+"/start", map[string]any{"ref": "main"}).Fails(http.StatusBadRequest, slipway.Invalid)
		v.Post(webBuilds+"/start", map[string]any{"provider": "main", "ref": "feature/x"}).Is(http.StatusAccepted).Into(&accepted)
		if accepted.Build == nil || accepted.Build.ID != "main:shop/web/feature%2Fx#1" {
			t.Fatalf("started: got %+v", accepted.Build)
		}
		if text := v.Get(webBuilds + "/builds/second:nightly%2Fweb%231/logs").Is(http.StatusOK).Body; string(text) != "it broke\n" {
			t.Errorf("got the log %q", text)
		}
		v.Post(webBuilds+"/builds/main:shop%2Fweb%2Ffeature%252Fx%231/cancel", nil).Is(http.StatusAccepted)
		blueprinttest.Eventually(t, "the end of what was canceled", func() bool {
			return slices.ContainsFunc(v.search("").Items, func(b slipway.Build) bool {
				return b.ID == "main:shop/web/feature%2Fx#1" && b.Status == slipway.BuildCanceled
			})
		})
	})
}

func TestOneJenkinsThatFailsLeavesTheOthersFresh(t *testing.T) {
	eachThree(t, func(t *testing.T, v *three) {
		v.main.Run(v.main.Add(jenkinstest.Pipeline, "shop/web/main"), jenkinstest.Success, now)
		v.second.Run(v.nightly, jenkinstest.Success, now)
		v.hub.add(t, now)
		v.component()
		v.await(3)
		v.stub.Break(providertest.Say(http.StatusOK, "<html>Oops!"))
		blueprinttest.Eventually(t, "word of the one that fails", func() bool { return v.state(v.search("?fresh=true"), "second").State == "failed" })
		p := v.search("")
		if len(p.Items) != 3 || v.state(p, "main").State != "fresh" || v.state(p, "github").State != "fresh" || !strings.Contains(v.state(p, "second").Error, "Jenkins") {
			t.Errorf("got %s from %+v; want all that is known, and who fails", ids(p), p.Sources)
		}
		v.second.Run(v.nightly, jenkinstest.Failure, now.Add(time.Minute))
		v.stub.Break(nil)
		blueprinttest.Eventually(t, "the build that came meanwhile", func() bool {
			p := v.search("?fresh=true")
			return len(p.Items) == 4 && v.state(p, "second").State == "fresh"
		})
	})
}
