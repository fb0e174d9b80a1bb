package build_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// world is a server with the blueprint of builds, two vendors, and a way to put entities into the catalog.
type world struct {
	*blueprinttest.Server
	t    *testing.T
	host *blueprint.Host
	ci   *fake.Vendor // named ci
	old  *fake.Vendor // named old, without webhooks
}

const hello = "octo/hello"

// each runs a test on both engines. The component web belongs to octo/hello at ci and to legacy/hello at old.
func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, ci: fake.New(fake.Config{WebhookSecret: "hush"}), old: fake.New(fake.Config{NewIDs: true})}
			w.ci.Project(hello)
			w.old.Project("legacy/hello")
			old := w.old.Kind()
			old.Name = "oldfake"
			inside := w.old.Provider()
			old.Open = only(inside, "slipway.dev/old-project")
			plain := w.ci.Kind()
			plain.Name = "plainfake"
			list := w.ci.Provider()
			list.Builds = &provider.Builds{List: list.Builds.List, Get: list.Builds.Get}
			plain.Open = only(list, "slipway.dev/plain-project")
			w.Server = blueprinttest.Start(t, engine, blueprinttest.Options{
				Blueprints: []blueprint.Blueprint{build.Blueprint, {
					Name: "catalog", Version: "0.0.1", Summary: "Lets the test into the host, and to the entities.", Stability: blueprint.Experimental,
					Databases:   []blueprint.Database{{Name: "main"}},
					Permissions: []auth.Permission{{Name: entity.ReadPermission, Text: "See an entity", Object: "entity"}},
					Open: func(_ context.Context, h *blueprint.Host) (any, error) {
						w.host = h
						h.Entities.Announce = h.Events.Announce
						h.Tasks.FreshWait = 300 * time.Millisecond
						return w, nil
					},
				}},
				Kinds: []provider.Kind{w.ci.Kind(), old, plain},
				Configure: func(c *server.Config) {
					c.Providers = []server.ProviderConfig{
						{Name: "ci", Type: "fake"}, {Name: "old", Type: "oldfake"}, {Name: "plain", Type: "plainfake"}, {Name: "broken", Type: "fake-that-is-not-there"},
					}
				},
			})
			test(t, w)
		})
	}
}

// only is a kind's Open for a provider that reads another annotation.
func only(p *provider.Provider, key string) func(context.Context, jsonRaw, provider.Env) (*provider.Provider, error) {
	p.Projects = func(e *slipway.Entity) []string {
		if v := e.Metadata.Annotations[key]; v != "" {
			return []string{v}
		}
		return nil
	}
	p.Webhook = nil
	return func(context.Context, jsonRaw, provider.Env) (*provider.Provider, error) { return p, nil }
}

type jsonRaw = json.RawMessage

func (w *world) entity(name, owner string, annotations map[string]string) {
	w.t.Helper()
	e := &slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: "Component",
		Spec:     map[string]any{"type": "service", "lifecycle": "production", "owner": owner},
		Metadata: slipway.EntityMetadata{Name: name, Namespace: "default", Annotations: annotations}}
	err := w.host.DB("main").Write(context.Background(), func(tx *store.Tx) error {
		_, err := w.host.Entities.Put(context.Background(), tx, "test", []*slipway.Entity{e})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) web() {
	w.entity("web", "team-a", map[string]string{fake.Annotation: hello, "slipway.dev/old-project": "legacy/hello"})
}

const webBuilds = "/api/build/by-entity/component:default/web"

func (w *world) search(query string) build.Page {
	w.t.Helper()
	var p build.Page
	w.Get(webBuilds + "/search" + query).Is(http.StatusOK).Into(&p)
	return p
}

func (w *world) await(n int) {
	w.t.Helper()
	blueprinttest.Eventually(w.t, fmt.Sprintf("%d builds", n), func() bool {
		p := w.search("?limit=100")
		return len(p.Items) == n && !slices.ContainsFunc(p.Sources, func(s slipway.Source) bool { return s.AsOf == nil })
	})
}

func ids(p build.Page) string {
	var list []string
	for _, b := range p.Items {
		list = append(list, b.ID)
	}
	return strings.Join(list, " ")
}

var now = time.Now().UTC().Truncate(time.Second)

func ago(minutes int) time.Time { return now.Add(-time.Duration(minutes) * time.Minute) }

func TestSearchByEntity(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.ci.Add(hello, slipway.Build{ID: "1", Status: slipway.BuildFailed, CreatedAt: ago(30), Commit: &slipway.Commit{SHA: "9fceb02d0ae5", Branch: "main"},
			TriggeredBy: &slipway.Person{ID: "Jane", Email: "jane@example.com"}})
		w.old.Add("legacy/hello", slipway.Build{ID: "7", Status: slipway.BuildSucceeded, CreatedAt: ago(20)})
		w.ci.Add(hello, slipway.Build{ID: "2", Status: slipway.BuildRunning, CreatedAt: ago(10)})
		w.web()
		w.await(3)
		for _, path := range []string{"component:default/web", "web", "default/web", "component:web", "Component:Default/WEB", url.PathEscape("component:default/web")} {
			var p build.Page
			w.Get("/api/build/by-entity/" + path + "/search").Is(http.StatusOK).Into(&p)
			if got := ids(p); got != "ci:2 old:7 ci:1" {
				t.Errorf("%s: got %s, want the builds of both providers, newest first", path, got)
			}
		}
		p := w.search("")
		if len(p.Sources) != 2 || p.Sources[0].State != slipway.SourceFresh || p.PageInfo != (slipway.PageInfo{Limit: 20, PageNumber: 1}) {
			t.Errorf("got %+v, %+v", p.Sources, p.PageInfo)
		}
		if b := p.Items[2]; b.EntityRef != "component:default/web" || !b.Retriggerable || b.Provider.Name != "ci" || b.TriggeredBy.ID != "Jane" || b.FinishedAt == nil {
			t.Errorf("got %+v", b)
		}
		for query, want := range map[string]string{
			"?status=failed":                         "ci:1",
			"?status=failed&status=succeeded":        "old:7 ci:1",
			"?branch=main":                           "ci:1",
			"?triggeredBy=JANE@example.com":          "ci:1",
			"?triggeredBy=me":                        "",
			"?order=asc&limit=2":                     "ci:1 old:7",
			"?limit=2&pageNumber=2":                  "ci:1",
			"?since=" + ago(20).Format(time.RFC3339): "ci:2 old:7",
			"?until=" + ago(20).Format(time.RFC3339): "ci:1",
			"?pipeline=nothing":                      "",
			"?limit=1&cursor=" + w.search("?limit=1").PageInfo.NextCursor: "old:7",
		} {
			if got := ids(w.search(query)); got != want {
				t.Errorf("%s: got %q, want %q", query, got, want)
			}
		}
		var across build.Page
		w.Get("/api/build/search?owner=team-a&status=failed").Is(http.StatusOK).Into(&across)
		if ids(across) != "ci:1" {
			t.Errorf("across entities: got %s", ids(across))
		}
		w.Get("/api/build/search?owner=group:default/team-b").Is(http.StatusOK).Into(&across)
		if len(across.Items) != 0 {
			t.Errorf("another owner's: got %s", ids(across))
		}
		var one slipway.Build
		w.Get(webBuilds + "/builds/old:7").Is(http.StatusOK).Into(&one)
		if one.ID != "old:7" || one.EntityRef != "component:default/web" {
			t.Errorf("got %+v", one)
		}
		w.Get(webBuilds+"/builds/ci:99").Fails(http.StatusNotFound, slipway.NotFound)
		tag := w.Get(webBuilds + "/builds/old:7").Header.Get("ETag")
		w.Get(webBuilds+"/builds/old:7", "If-None-Match", tag).Is(http.StatusNotModified)
	})
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.ci.Add(hello, slipway.Build{Status: slipway.BuildFailed})
		w.ci.Add(hello, slipway.Build{Status: slipway.BuildFailed})
		w.web()
		w.await(2)
		cursor := w.search("?limit=1").PageInfo.NextCursor
		for _, query := range []string{
			"?limit=-1", "?limit=0", "?limit=101", "?limit=ten", "?pageNumber=0", "?pageNumber=-3", "?limit=100&pageNumber=101", "?cursor=garbage",
			"?pageNumber=1&cursor=" + cursor, "?status=fine", "?order=sideways", "?since=yesterday", "?colour=red",
			"?status=", "?branch=", "?pipeline=", "?triggeredBy=", "?since=", "?until", "?branch=main&branch=", "?branch=&branch=main",
			"?limit=1&status=failed&cursor=" + cursor, "?limit=1&order=asc&cursor=" + cursor, "?cursor=" + cursor[:len(cursor)-4],
		} {
			w.Get(webBuilds+"/search"+query).Fails(http.StatusBadRequest, slipway.Invalid)
		}
		for _, query := range []string{"?owner=", "?system=", "?kind=", "?entity=", "?owner=&owner=team-a", "?kind=component&status="} {
			if f := w.Get("/api/build/search"+query).Fails(http.StatusBadRequest, slipway.Invalid); !strings.Contains(f.Error, "without a value") {
				t.Errorf("%s: got %q", query, f.Error)
			}
		}
		w.Get("/api/build/search?cursor=&status=failed").Is(http.StatusOK) // what pages, but filters nothing, may be empty
		for query, want := range map[string]string{
			"?since=2026-01-01": "since: invalid value: write a time such as 2026-01-02T15:04:05Z",
			"?entity=:::":       "entity: entity ref",
		} {
			if f := w.Get("/api/build/search"+query).Fails(http.StatusBadRequest, slipway.Invalid); !strings.HasPrefix(f.Error, want) || strings.Contains(f.Error, "invalid: ") {
				t.Errorf("%s: got %q, want %q", query, f.Error, want)
			}
		}
		for _, ref := range []string{"a b", ".web", "web.", "kind!:web", "component:default/web/more", "%00", "%ff", "x:y:z", strings.Repeat("x", 64), "-", "%2e%2e"} {
			a := w.Get("/api/build/by-entity/" + strings.ReplaceAll(ref, " ", "%20") + "/search")
			if a.Status != http.StatusBadRequest && a.Status != http.StatusNotFound {
				t.Errorf("entity %q: got %d %s", ref, a.Status, a.Body)
			}
		}
		w.Get("/api/build/by-entity/ghost/search").Fails(http.StatusNotFound, slipway.NotFound)
		w.Get("/api/build/search?owner=a//b").Fails(http.StatusBadRequest, slipway.Invalid)
		for _, body := range []string{`{"buildId":7}`, `[]`, `{"buildId":`, `null`} {
			w.Post(webBuilds+"/retrigger", body).Fails(http.StatusBadRequest, slipway.Invalid)
		}
		for _, body := range []string{`{}`, ``} {
			if f := w.Post(webBuilds+"/retrigger", body).Fails(http.StatusBadRequest, slipway.Invalid); !strings.HasPrefix(f.Error, "say which build") {
				t.Errorf("body %q: got %q", body, f.Error)
			}
		}
		w.Post(webBuilds+"/retrigger", `{"number":"many"}`).Fails(http.StatusBadRequest, slipway.Invalid)
	})
}

func TestEntityWithoutProviderGetsAHint(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.entity("lone", "team-a", nil)
		var p build.Page
		w.Get("/api/build/by-entity/lone/search").Is(http.StatusOK).Into(&p)
		if len(p.Items) != 0 || len(p.Sources) != 1 || p.Sources[0].State != slipway.SourceNone || !strings.Contains(p.Sources[0].Error, "ci (fake)") {
			t.Errorf("got %+v", p)
		}
	})
}

func TestAnEntityWhoseAnnotationIsRefusedSaysSo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.entity("odd", "team-a", map[string]string{fake.Annotation: " , "})
		var p build.Page
		w.Get("/api/build/by-entity/odd/search").Is(http.StatusOK).Into(&p)
		f := w.Post("/api/build/by-entity/odd/start", nil).Fails(http.StatusNotImplemented, slipway.Unsupported)
		for _, text := range []string{p.Sources[0].Error, f.Error} {
			if !strings.Contains(text, fake.Annotation) || !strings.Contains(text, "does not take") || !strings.Contains(text, "ci (fake)") {
				t.Errorf("got %q, want the annotation, and whose it is", text)
			}
		}
	})
}

func TestCancel(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.ci.Add(hello, slipway.Build{ID: "busy", Status: slipway.BuildRunning, CreatedAt: ago(3)})
		w.ci.Add(hello, slipway.Build{ID: "done", Status: slipway.BuildSucceeded, CreatedAt: ago(2)})
		w.ci.Add("octo/plain", slipway.Build{ID: "p", Status: slipway.BuildRunning})
		w.web()
		w.entity("plain", "team-a", map[string]string{"slipway.dev/plain-project": "octo/plain"})
		w.await(2)
		path := webBuilds + "/builds/ci:busy"
		w.With(entity.ReadPermission, "build.run.read", "build.run.retrigger").Post(path+"/cancel", nil).Fails(http.StatusForbidden, slipway.Forbidden)
		may := w.With(entity.ReadPermission, "build.run.cancel:component:default/web")
		var got build.Accepted
		a := may.Post(path+"/cancel", nil).Is(http.StatusAccepted).Into(&got)
		if !got.Accepted || got.Build == nil || got.Build.ID != "ci:busy" || got.Build.EntityRef != "component:default/web" || got.Build.Status != slipway.BuildCanceled || a.Header.Get("Location") != path {
			t.Errorf("got %s, %v", a.Body, a.Header)
		}
		if p := w.search("?status=canceled"); ids(p) != "ci:busy" {
			t.Errorf("right after it the search shows %q as canceled", ids(p))
		}
		may.Post(path+"/cancel", `{}`).Fails(http.StatusConflict, slipway.Conflict)
		may.Post(webBuilds+"/builds/ci:done/cancel", nil).Fails(http.StatusConflict, slipway.Conflict)
		may.Post(webBuilds+"/builds/ci:none/cancel", nil).Fails(http.StatusNotFound, slipway.NotFound)
		blueprinttest.Eventually(t, "its build", func() bool { return w.Get("/api/build/by-entity/plain/builds/plain:p").Status == http.StatusOK })
		if f := w.Post("/api/build/by-entity/plain/builds/plain:p/cancel", nil).Fails(http.StatusNotImplemented, slipway.Unsupported); !strings.Contains(f.Error, `"plain"`) {
			t.Errorf("%q does not name who cannot", f.Error)
		}
	})
}

func TestRetrigger(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.ci.Add(hello, slipway.Build{ID: "failed", Number: 41, Status: slipway.BuildFailed, CreatedAt: ago(4), Commit: &slipway.Commit{SHA: "9fceb02d0ae5", Branch: "main"}})
		w.ci.Add(hello, slipway.Build{ID: "good", Status: slipway.BuildSucceeded, CreatedAt: ago(3), Commit: &slipway.Commit{SHA: "1111111d0ae5", Branch: "main"}})
		w.ci.Add(hello, slipway.Build{ID: "busy", Status: slipway.BuildRunning, CreatedAt: ago(2)})
		w.old.Add("legacy/hello", slipway.Build{ID: "canceled", Status: slipway.BuildCanceled, CreatedAt: ago(1)})
		w.web()
		w.await(4)
		var got build.Accepted
		path := webBuilds + "/retrigger"

		a := w.Post(path, `{"buildId":"ci:failed","reason":"flaky"}`).Is(http.StatusAccepted).Into(&got)
		if !got.Accepted || got.Build == nil || got.Build.ID != "ci:failed" || got.Build.Status != slipway.BuildStarting || got.Build.Attempt != 2 ||
			got.Build.EntityRef != "component:default/web" || a.Header.Get("Location") != webBuilds+"/builds/ci:failed" {
			t.Errorf("got %s, %v", a.Body, a.Header)
		}
		if w.ci.Extra()["reason"] != "flaky" || w.ci.Extra()["buildId"] != nil {
			t.Errorf("the vendor was given %v, want what we do not know and nothing else", w.ci.Extra())
		}
		if b := w.search("?status=starting"); ids(b) != "ci:failed" {
			t.Errorf("right after it the search shows %q as starting", ids(b))
		}
		w.Post(path, `{"buildId":"ci:good"}`).Fails(http.StatusConflict, slipway.Conflict)
		w.Post(path+"?force=true", `{"buildId":"ci:good"}`).Is(http.StatusAccepted)
		w.Post(path+"?force=true", `{"buildId":"ci:busy"}`).Fails(http.StatusConflict, slipway.Conflict)
		w.Post(path, `{"buildId":"ci:none"}`).Fails(http.StatusNotFound, slipway.NotFound)

		w.Post(path, `{"provider":"old","note":"again"}`).Is(http.StatusAccepted).Into(&got)
		if got.Build.ID == "old:canceled" || w.old.Extra()["note"] != "again" || w.old.Extra()["provider"] != nil {
			t.Errorf("got %+v, the vendor %v; want a new build", got.Build, w.old.Extra())
		}
		w.Post(path, `{"branch":"main"}`).Fails(http.StatusBadRequest, slipway.Invalid)
		w.Post(path, `{"commit":"abcdef0"}`).Fails(http.StatusNotFound, slipway.NotFound)
		w.ci.Move(hello, "failed", slipway.BuildFailed)
		// The index does not know yet that it failed again: the vendor is asked.
		w.Post(path, `{"commit":"9fceb02","attempt":7}`).Fails(http.StatusNotFound, slipway.NotFound)
		w.Post(path, `{"commit":"9fceb02","branch":"main","number":41,"attempt":2}`).Is(http.StatusAccepted).Into(&got)
		if got.Build.Attempt != 3 {
			t.Errorf("got %+v, want the third attempt", got.Build)
		}
		w.ci.Move(hello, "failed", slipway.BuildFailed)
		w.ci.Break(fake.Down)
		if a := w.Post(path+"?force=true", `{"buildId":"ci:failed"}`); a.Fails(http.StatusServiceUnavailable, slipway.Unavailable).Error == "" || a.Header.Get("Retry-After") == "" {
			t.Errorf("a vendor that is down: %v", a.Header)
		}
	})
}

func TestStartAndWhatAProviderCannot(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.entity("one", "team-a", map[string]string{fake.Annotation: hello})
		w.web()
		w.entity("none", "team-a", nil)
		blueprinttest.Eventually(t, "sources", func() bool {
			var p build.Page
			w.Get("/api/build/by-entity/one/search").Into(&p)
			return len(p.Sources) == 1 && p.Sources[0].State == slipway.SourceFresh && len(w.search("").Sources) == 2
		})
		w.entity("new", "team-a", map[string]string{fake.Annotation: hello})
		w.Post("/api/build/by-entity/new/start", `{"ref":"main"}`).Is(http.StatusAccepted) // it need not be asked again a moment later
		var got build.Accepted
		w.Post("/api/build/by-entity/one/start", `{"ref":"main","pipeline":"nightly","depth":3}`).Is(http.StatusAccepted).Into(&got)
		if got.Build == nil || got.Build.Status != slipway.BuildStarting || got.Build.Pipeline.ID != "nightly" || w.ci.Extra()["depth"] != 3.0 {
			t.Errorf("got %+v, the vendor %v", got.Build, w.ci.Extra())
		}
		w.Get("/api/build/by-entity/one/builds/" + got.Build.ID).Is(http.StatusOK)
		for _, body := range []any{nil, ``, `{}`} { // all fields are optional, and so is the body: it is the vendor who wants a ref
			if f := w.Post("/api/build/by-entity/one/start", body).Fails(http.StatusBadRequest, slipway.Invalid); !strings.Contains(f.Error, "names no branch") {
				t.Errorf("body %v: got %q", body, f.Error)
			}
		}
		w.Post("/api/build/by-entity/one/start", `{"ref":"--upload-pack=x"}`).Fails(http.StatusBadRequest, slipway.Invalid)
		w.Post(webBuilds+"/start", `{"ref":"main"}`).Fails(http.StatusBadRequest, slipway.Invalid)
		w.Post(webBuilds+"/start", `{"ref":"main","provider":"old"}`).Is(http.StatusAccepted)
		w.Post(webBuilds+"/start", `{"ref":"main","provider":"other"}`).Fails(http.StatusNotFound, slipway.NotFound)
		w.ci.Add("octo/plain", slipway.Build{ID: "p", Status: slipway.BuildFailed})
		w.entity("plain", "team-a", map[string]string{"slipway.dev/plain-project": "octo/plain"})
		blueprinttest.Eventually(t, "its build", func() bool { return w.Get("/api/build/by-entity/plain/builds/plain:p").Status == http.StatusOK })
		for path, body := range map[string]string{"start": `{"ref":"main"}`, "retrigger": `{"buildId":"plain:p"}`} {
			if f := w.Post("/api/build/by-entity/plain/"+path, body).Fails(http.StatusNotImplemented, slipway.Unsupported); !strings.Contains(f.Error, `"plain"`) {
				t.Errorf("%s: %q does not name who cannot", path, f.Error)
			}
		}
		w.Get("/api/build/by-entity/plain/builds/plain:p/logs").Fails(http.StatusNotImplemented, slipway.Unsupported)
		if f := w.Post("/api/build/by-entity/none/start", `{"ref":"main"}`).Fails(http.StatusNotImplemented, slipway.Unsupported); !strings.Contains(f.Error, "component:default/none") {
			t.Errorf("got %q", f.Error)
		}
	})
}

func TestLogs(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.ci.Add(hello, slipway.Build{ID: "1", Status: slipway.BuildRunning})
		w.ci.Write(hello, "1", "one\n")
		w.web()
		w.await(1)
		a := w.Get(webBuilds + "/builds/ci:1/logs").Is(http.StatusOK)
		if string(a.Body) != "one\n" {
			t.Errorf("got %q", a.Body)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+webBuilds+"/builds/ci:1/logs?follow=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+w.Token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		for i, text := range []string{"one", "two", "three"} {
			if i > 0 {
				w.ci.Write(hello, "1", text+"\n")
			}
			if !lines.Scan() || lines.Text() != text {
				t.Fatalf("line %d: got %q, %v; want %q as soon as it is written", i, lines.Text(), lines.Err(), text)
			}
		}
		w.ci.Move(hello, "1", slipway.BuildSucceeded)
		if lines.Scan() || lines.Err() != nil {
			t.Errorf("after the end: %q, %v", lines.Text(), lines.Err())
		}
		w.ci.Forget(hello, "1")
		w.Get(webBuilds+"/builds/ci:1/logs").Fails(http.StatusNotFound, slipway.NotFound)
	})
}

func TestALogIsFollowedOnlyAsLongAsItMayBeSeen(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.ci.Add(hello, slipway.Build{ID: "1", Status: slipway.BuildRunning})
		w.web()
		w.await(1)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+webBuilds+"/builds/ci:1/logs?follow=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+w.Token)
		w.ci.Write(hello, "1", "one\n")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		if !lines.Scan() || lines.Text() != "one" {
			t.Fatalf("got %q, %v", lines.Text(), lines.Err())
		}
		ended := make(chan error, 1)
		go func() {
			for lines.Scan() {
			}
			ended <- lines.Err()
		}()
		w.entity("web", "team-a", nil) // it has nothing to do with the project any more
		blueprinttest.Eventually(t, "the log breaks off", func() bool {
			w.ci.Write(hello, "1", "more\n")
			select {
			case err := <-ended:
				if err == nil {
					t.Error("it ended as if it were whole")
				}
				return true
			default:
				return false
			}
		})
	})
}

func TestWebhooksShowABuildAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.web()
		blueprinttest.Eventually(t, "the source", func() bool {
			s := w.search("").Sources
			return len(s) == 2 && s[0].AsOf != nil
		})
		b := w.ci.Add(hello, slipway.Build{ID: "1", Status: slipway.BuildRunning, CreatedAt: ago(1)})
		header, body := w.ci.Notification(hello, b.ID)
		post := func(path string, h http.Header, body []byte) *blueprinttest.Answer {
			var pairs []string
			for k := range h {
				pairs = append(pairs, k, h.Get(k))
			}
			return w.As("").Post(path, body, pairs...)
		}
		post("/hooks/ci", header, body).Is(http.StatusAccepted)
		if got := ids(w.search("")); got != "ci:1" {
			t.Errorf("after the webhook: %q", got)
		}
		w.ci.Move(hello, "1", slipway.BuildSucceeded)
		laterHeader, later := w.ci.Notification(hello, b.ID)
		post("/hooks/ci", laterHeader, later).Is(http.StatusAccepted)
		post("/hooks/ci", header, body).Is(http.StatusAccepted) // late and twice
		if got := w.search("").Items[0].Status; got != slipway.BuildSucceeded {
			t.Errorf("a late webhook made the build %s", got)
		}
		post("/hooks/ci", header, append(body, ' ')).Fails(http.StatusUnauthorized, slipway.Unauthenticated)
		post("/hooks/ci", http.Header{}, body).Fails(http.StatusUnauthorized, slipway.Unauthenticated)
		bad := []byte(`{"event":"build"`)
		post("/hooks/ci", w.ci.Sign(bad), bad).Fails(http.StatusBadRequest, slipway.Invalid)
		post("/hooks/old", header, body).Fails(http.StatusNotImplemented, slipway.Unsupported)
		post("/hooks/none", header, body).Fails(http.StatusNotFound, slipway.NotFound)
		post("/hooks/broken", header, body).Fails(http.StatusServiceUnavailable, slipway.Unavailable)
		elsewhere := []byte(`{"id":"1","event":"build","project":"octo/unbound","build":{"id":"9","createdAt":"2026-01-01T00:00:00Z"}}`)
		var d build.Delivered
		if post("/hooks/ci", w.ci.Sign(elsewhere), elsewhere).Is(http.StatusAccepted).Into(&d); d.Changed != 0 {
			t.Errorf("a project that no entity is bound to changed %d items", d.Changed)
		}
		var list []event.Event
		blueprinttest.Eventually(t, "an event for each change", func() (ok bool) {
			var err error
			list, _, err = w.host.Events.List(t.Context(), &slipway.Caller{Kind: slipway.CallerSystem}, 0, []string{"dev.cdevents.*"}, 10)
			return err == nil && len(list) >= 2
		})
		if got := types(list); got != "started finished" || list[0].Subject != "ci:1" {
			t.Errorf("events: %q, %+v; want one for each change", got, list)
		}
		var told struct {
			Context    struct{ ID, Type string }
			CustomData map[string]any
		}
		if err := json.Unmarshal(list[1].Data, &told); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{"id": "ci:1", "entityRef": "component:default/web", "attempt": 1.0, "status": "succeeded", "detail": "succeeded", "url": b.URL}
		if diff := cmp.Diff(want, told.CustomData); diff != "" || told.Context.ID != list[1].ID || told.Context.Type != list[1].Type {
			t.Errorf("got %s, want what a reader needs and no more: %s", list[1].Data, diff)
		}
		// To read entities is not to read their builds, neither by the API nor by events.
		read := func(grants ...string) int {
			c, _, err := w.host.Events.List(t.Context(), callerWith(grants...), 0, []string{"dev.cdevents.*"}, 10)
			if err != nil {
				t.Fatal(err)
			}
			return len(c)
		}
		if n := read(entity.ReadPermission); n != 0 {
			t.Errorf("without build.run.read %d events are shown", n)
		}
		if n := read(entity.ReadPermission, "build.run.read"); n != 2 {
			t.Errorf("with build.run.read %d events are shown, want 2", n)
		}
	})
}

func callerWith(permissions ...string) *slipway.Caller {
	c := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/joe"}
	for _, p := range permissions {
		c.Grants = append(c.Grants, slipway.Grant{Permission: p})
	}
	return c
}

func types(list []event.Event) string {
	var words []string
	for _, e := range list {
		words = append(words, strings.Split(e.Type, ".")[3])
	}
	return strings.Join(words, " ")
}

func TestAVendorThatHangsOrIsDownNeverHoldsAnAnswer(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.ci.Add(hello, slipway.Build{ID: "1", Status: slipway.BuildSucceeded, CreatedAt: ago(2)})
		w.web()
		w.await(1)
		w.ci.Add(hello, slipway.Build{ID: "2", Status: slipway.BuildSucceeded, CreatedAt: ago(1)})
		if got := ids(w.search("?fresh=true")); got != "ci:2 ci:1" {
			t.Errorf("fresh: got %s, want what the vendor has now", got)
		}
		w.ci.Break(fake.Down)
		w.ci.Add(hello, slipway.Build{ID: "3", Status: slipway.BuildSucceeded})
		p := w.search("?fresh=true")
		if ids(p) != "ci:2 ci:1" || p.Sources[0].State != slipway.SourceFailed || p.Sources[0].Error == "" || p.Sources[0].AsOf == nil {
			t.Errorf("vendor down: got %s, %+v; want the last known builds and why", ids(p), p.Sources)
		}
		w.ci.Break(fake.None)
		if p := w.search("?fresh=true"); ids(p) != "ci:3 ci:2 ci:1" || p.Sources[0].State != slipway.SourceFresh {
			t.Errorf("vendor back: got %s, %+v", ids(p), p.Sources)
		}
		w.ci.Break(fake.Hang)
		start := time.Now()
		if p := w.search("?fresh=true"); ids(p) != "ci:3 ci:2 ci:1" {
			t.Errorf("vendor hangs: got %s", ids(p))
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("a hanging vendor held the answer for %v", took)
		}
		w.ci.Break(fake.None)
	})
}

func TestRights(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.ci.Add(hello, slipway.Build{ID: "1", Status: slipway.BuildFailed})
		w.ci.Add("octo/api", slipway.Build{ID: "2", Status: slipway.BuildFailed})
		w.web()
		w.entity("api", "team-b", map[string]string{fake.Annotation: "octo/api"})
		w.await(1)
		blueprinttest.Eventually(t, "the other", func() bool {
			var p build.Page
			w.Get("/api/build/by-entity/api/search").Into(&p)
			return len(p.Items) == 1
		})
		reader := w.With(entity.ReadPermission, "build.run.read:component:default/web")
		var p build.Page
		reader.Get(webBuilds + "/search").Is(http.StatusOK)
		reader.Get("/api/build/by-entity/api/search").Fails(http.StatusForbidden, slipway.Forbidden)
		reader.Get("/api/build/by-entity/api/builds/ci:2").Fails(http.StatusForbidden, slipway.Forbidden)
		if reader.Get("/api/build/search").Is(http.StatusOK).Into(&p); ids(p) != "ci:1" {
			t.Errorf("across entities: got %s, want only what may be seen", ids(p))
		}
		if f := reader.Post(webBuilds+"/retrigger", `{"buildId":"ci:1"}`).Fails(http.StatusForbidden, slipway.Forbidden); !strings.Contains(f.Error, "build.run.retrigger") {
			t.Errorf("the missing permission is not named: %s", f.Error)
		}
		reader.Get(webBuilds+"/builds/ci:1/logs").Fails(http.StatusForbidden, slipway.Forbidden)
		blind := w.With("build.run.*", "catalog.entity.read:component:default/web")
		blind.Get("/api/build/by-entity/api/search").Fails(http.StatusNotFound, slipway.NotFound)
		blind.Post("/api/build/by-entity/api/start", `{"ref":"main"}`).Fails(http.StatusNotFound, slipway.NotFound)
		blind.Post(webBuilds+"/retrigger", `{"buildId":"ci:1"}`).Is(http.StatusAccepted)
		w.As("").Get(webBuilds+"/search").Fails(http.StatusUnauthorized, slipway.Unauthenticated)
	})
}

func TestTasks(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		var list blueprint.List[build.TaskStatus]
		w.Get("/api/tasks").Is(http.StatusOK).Into(&list)
		if len(list.Items) != 1 || list.Items[0].Name != "build" || len(list.Items[0].Filters) != 3 {
			t.Fatalf("got %+v", list)
		}
		got := fmt.Sprint(list.Items[0].Providers)
		if got != "[{ci fake [retrigger start cancel logs]} {old oldfake [retrigger start cancel logs]} {plain plainfake []}]" {
			t.Errorf("providers: %s", got)
		}
	})
}
