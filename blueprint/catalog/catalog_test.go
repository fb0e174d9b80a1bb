package catalog_test

import (
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

const web = `apiVersion: backstage.io/v1alpha1
kind: Component
metadata:
  name: web
  description: The shop
  annotations:
    slipway.dev/local-repository: https://git.example.com/shop/web.git
spec:
  type: service
  lifecycle: production
  owner: team-a
`

// host serves catalog files.
type host struct {
	*httptest.Server
	mu       sync.Mutex
	files    map[string]string
	moved    map[string]string // where else something is
	requests int
	bodies   int           // of them, those that were sent in full
	stalled  chan struct{} // what is slow waits for it
	answer   func()        // ends the wait
}

func newHost(t *testing.T) *host {
	h := &host{files: map[string]string{}, moved: map[string]string{}, stalled: make(chan struct{})}
	h.answer = sync.OnceFunc(func() { close(h.stalled) })
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(func() { h.answer(); h.Close() })
	return h
}

func (h *host) serve(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/slow") {
		select {
		case <-h.stalled:
		case <-r.Context().Done():
		}
	}
	h.mu.Lock()
	text, ok := h.files[r.URL.Path]
	h.requests++
	defer h.mu.Unlock()
	switch tag := fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(text))); {
	case h.moved[r.URL.Path] != "":
		http.Redirect(w, r, h.moved[r.URL.Path], http.StatusFound)
	case !ok:
		http.NotFound(w, r)
	case r.Header.Get("If-None-Match") == tag:
		w.WriteHeader(http.StatusNotModified)
	default:
		h.bodies++
		w.Header().Set("ETag", tag)
		_, _ = w.Write([]byte(text))
	}
}

func (h *host) put(path, text string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files[path] = text
	return h.URL + path
}

func (h *host) redirect(path, to string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.moved[path] = to
}

func (h *host) counts() (requests, bodies int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.requests, h.bodies
}

// each starts the catalog on both engines, beside a host of files and a folder that it may read.
func each(t *testing.T, configure func(*server.Config, *host), test func(t *testing.T, s *blueprinttest.Server, h *host, dir string)) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			h, dir := newHost(t), t.TempDir()
			s := blueprinttest.Start(t, engine, options(h, dir, storetest.URL(t, engine), configure))
			test(t, s, h, dir)
		})
	}
}

func options(h *host, dir, database string, configure func(*server.Config, *host)) blueprinttest.Options {
	return blueprinttest.Options{Database: database, Blueprints: []blueprint.Blueprint{catalog.Blueprint}, Configure: func(c *server.Config) {
		c.Fetch.Allow = []string{h.URL + "/*"}
		c.Fetch.FileRoots = []string{dir}
		if configure != nil {
			configure(c, h)
		}
	}}
}

func section(c *server.Config) *catalog.Config { return c.Sections["catalog"].(*catalog.Config) }

type registered struct {
	LocationID string           `json:"locationId"`
	Type       string           `json:"type"`
	Target     string           `json:"target"`
	Status     string           `json:"status"`
	Location   catalog.Location `json:"location"`
	Entities   []struct {
		Kind     string
		Metadata struct {
			Name, Namespace string
			Annotations     map[string]string
		}
	} `json:"entities"`
	Faults []string `json:"faults"`
	Exists *bool    `json:"exists"`
}

func register(s *blueprinttest.Server, target string) registered {
	var r registered
	s.Post("/api/catalog/locations", catalog.Place{Type: "url", Target: target}).Is(201).Into(&r)
	return r
}

// names are those of entities, without the ones that stand for registered locations.
func names(a *blueprinttest.Answer) []string {
	var list []struct{ Metadata struct{ Name string } }
	a.Is(200).Into(&list)
	out := []string{}
	for _, e := range list {
		if !strings.HasPrefix(e.Metadata.Name, "generated-") {
			out = append(out, e.Metadata.Name)
		}
	}
	return out
}

func TestARegisteredFileIsReadAtOnce(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, dir string) {
		target := h.put("/catalog-info.yaml", web)
		r := register(s, target)
		if r.LocationID == "" || r.Type != "url" || r.Target != target || r.Status != "processing" || r.Location.ID != r.LocationID || len(r.Entities) != 1 {
			t.Errorf("got %+v", r)
		}
		if got := r.Entities[0].Metadata.Annotations["backstage.io/managed-by-location"]; got != "url:"+target {
			t.Errorf("managed by %q", got)
		}

		var e struct {
			Metadata struct {
				UID, ETag, Namespace string
				Annotations          map[string]string
			}
			Relations []struct{ Type, TargetRef string }
		}
		s.Get("/api/catalog/entities/by-name/component/default/web").Is(200).Into(&e)
		if e.Metadata.UID == "" || e.Metadata.Annotations["slipway.dev/local-repository"] != "https://git.example.com/shop/web.git" || len(e.Relations) != 1 || e.Relations[0].TargetRef != "group:default/team-a" {
			t.Errorf("got %+v", e)
		}
		var l catalog.Location
		s.Get("/api/catalog/locations/" + r.LocationID).Is(200).Into(&l)
		if l.Status != "ready" || l.ReadAt == nil || len(l.Faults) > 0 {
			t.Errorf("got %+v; want it ready", l)
		}

		file := filepath.Join(dir, "catalog.yaml")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(web, "web", "api")), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Post("/api/catalog/locations", catalog.Place{Type: "file", Target: file}).Is(201)
		if diff := cmp.Diff([]string{"api", "web"}, names(s.Get("/api/catalog/entities"))); diff != "" {
			t.Error(diff)
		}
		var list []struct{ Data catalog.Location }
		if s.Get("/api/catalog/locations").Is(200).Into(&list); len(list) != 2 || list[0].Data.Target != target {
			t.Errorf("got %+v", list)
		}
	})
}

func TestWhatCannotBeUsedIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, dir string) {
		place := func(kind, target string) catalog.Place { return catalog.Place{Type: kind, Target: target} }
		for name, tt := range map[string]struct {
			body any
			want string
		}{
			"no name":         {place("url", h.put("/a/catalog-info.yaml", "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {title: x}\n")), `{"error":"Invalid catalog-info.yaml: missing required field 'metadata.name'"}`},
			"no YAML":         {place("url", h.put("/b/catalog-info.yaml", "a: [")), "Invalid catalog-info.yaml: it is no valid YAML"},
			"empty":           {place("url", h.put("/c.yaml", "---\n")), "Invalid c.yaml: it is empty"},
			"missing":         {place("url", h.URL+"/none.yaml"), "could not be read"},
			"not allowed":     {place("url", "http://127.0.0.2:1/x.yaml"), "fetch.allow"},
			"other scheme":    {place("url", "gopher://x/y"), "error"},
			"outside":         {place("file", "/etc/hostname"), "fetch.fileRoots"},
			"missing file":    {place("file", filepath.Join(dir, "none.yaml")), "could not be read"},
			"file as url":     {place("url", "file:///etc/hostname"), "error"},
			"NUL in a target": {`{"type":"file","target":"a\u0000b"}`, "target"},
		} {
			a := s.Post("/api/catalog/locations", tt.body).Is(400)
			var text struct{ Error string }
			a.Into(&text) // the error is a text here
			if !strings.Contains(string(a.Body), tt.want) {
				t.Errorf("%s: got %s; want %s", name, a.Body, tt.want)
			}
		}
		for name, body := range map[string]string{
			"unknown type": `{"type":"git","target":"x"}`, "no target": `{"type":"url"}`, "unknown field": `{"type":"url","target":"x","extra":1}`, "no JSON": `{`,
		} {
			if a := s.Post("/api/catalog/locations", body).Is(400); !strings.Contains(string(a.Body), "error") {
				t.Errorf("%s: got %s", name, a.Body)
			}
		}
		var list []any
		if s.Get("/api/catalog/locations").Is(200).Into(&list); len(list) > 0 {
			t.Errorf("something was registered: %v", list)
		}
	})
}

func TestGoodEntitiesStayWhereOthersAreFaulty(t *testing.T) {
	t.Parallel()
	each(t, func(c *server.Config, _ *host) { section(c).Orphans = 0 }, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		second := "---\n" + strings.ReplaceAll(web, "name: web", "name: second")
		target := h.put("/f.yaml", web+second)
		r := register(s, target)
		if len(r.Faults) > 0 || len(r.Entities) != 2 {
			t.Fatalf("got %+v", r)
		}
		// The second loses its way; the first changes.
		h.put("/f.yaml", strings.Replace(web, "The shop", "The new shop", 1)+strings.Replace(second, "kind: Component", "kind: Component\nname: wrong", 1))
		s.Post("/api/catalog/refresh", map[string]string{"entityRef": "component:default/web"}).Is(200)
		blueprinttest.Eventually(t, "the change is seen", func() bool {
			return strings.Contains(string(s.Get("/api/catalog/entities/by-name/component/default/web").Body), "The new shop")
		})
		s.Get("/api/catalog/entities/by-name/component/default/second").Is(200)
		var l catalog.Location
		blueprinttest.Eventually(t, "the fault is listed", func() bool {
			s.Get("/api/catalog/locations/" + r.LocationID).Is(200).Into(&l)
			return l.Status == "faulty"
		})
		if len(l.Faults) != 1 || !strings.Contains(l.Faults[0], "document 2, line 13: unknown field 'name'") {
			t.Errorf("faults are %q", l.Faults)
		}
		// It is taken out: now it goes.
		h.put("/f.yaml", web)
		s.Post("/api/catalog/refresh", map[string]string{"entityRef": "component:default/web"}).Is(200)
		blueprinttest.Eventually(t, "the second is gone", func() bool {
			return s.Get("/api/catalog/entities/by-name/component/default/second").Status == 404
		})
	})
}

func TestAnUnchangedLocationCostsNoBodyAndNoWrite(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		r := register(s, h.put("/f.yaml", web))
		tag := func() string {
			var e struct{ Metadata struct{ UID, ETag string } }
			s.Get("/api/catalog/entities/by-name/component/default/web").Is(200).Into(&e)
			return e.Metadata.UID + e.Metadata.ETag
		}
		before := tag()
		var l, after catalog.Location
		s.Get("/api/catalog/locations/" + r.LocationID).Into(&l)
		s.Post("/api/catalog/refresh", map[string]string{"entityRef": "web"}).Is(200)
		blueprinttest.Eventually(t, "it is read again", func() bool {
			s.Get("/api/catalog/locations/" + r.LocationID).Into(&after)
			return after.ReadAt.After(*l.ReadAt)
		})
		if requests, bodies := h.counts(); requests != 2 || bodies != 1 {
			t.Errorf("%d requests, %d bodies; want the second answered by 304", requests, bodies)
		}
		if got := tag(); got != before {
			t.Errorf("uid and etag are %s; want them as before, %s", got, before)
		}
	})
}

func TestALocationThatFailsKeepsWhatItBrought(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		r := register(s, h.put("/f.yaml", web))
		h.put("/f.yaml", "a: [")
		s.Post("/api/catalog/refresh", map[string]string{"entityRef": "web"}).Is(200)
		var l catalog.Location
		blueprinttest.Eventually(t, "the fault is seen", func() bool {
			s.Get("/api/catalog/locations/" + r.LocationID).Into(&l)
			return l.Status == "failed"
		})
		if !strings.Contains(l.Error, "no valid YAML") || l.NextRead == nil {
			t.Errorf("got %+v", l)
		}
		s.Get("/api/catalog/entities/by-name/component/default/web").Is(200)
	})
}

func TestASlowTargetIsReadLater(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		start := time.Now()
		r := register(s, h.put("/slow.yaml", web))
		if took := time.Since(start); took > 15*time.Second || r.Status != "processing" || len(r.Entities) > 0 {
			t.Errorf("after %v: %+v", took, r)
		}
		h.answer()
		blueprinttest.Eventually(t, "it is read", func() bool {
			return s.Get("/api/catalog/entities/by-name/component/default/web").Status == 200
		})
	})
}

func TestADryRunStoresNothing(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		place := catalog.Place{Type: "url", Target: h.put("/f.yaml", web)}
		dry := func() (r registered) {
			s.Post("/api/catalog/locations?dryRun=true", place).Is(201).Into(&r)
			return r
		}
		if r := dry(); r.LocationID != "" || len(r.Entities) != 1 || r.Exists == nil || *r.Exists {
			t.Errorf("got %+v", r)
		}
		if got := names(s.Get("/api/catalog/entities")); len(got) > 0 {
			t.Errorf("stored %v", got)
		}
		s.Post("/api/catalog/locations", place).Is(201)
		if r := dry(); r.Exists == nil || !*r.Exists {
			t.Errorf("got %+v; want it to exist", r)
		}
		if a := s.Post("/api/catalog/locations", place).Is(409); !strings.Contains(string(a.Body), `"name":"ConflictError"`) {
			t.Errorf("got %s; want Backstage's shape", a.Body)
		}
	})
}

func TestARemovedLocationTakesItsEntitiesAlong(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		r := register(s, h.put("/f.yaml", web))
		other := register(s, h.put("/g.yaml", strings.Replace(web, "The shop", "A thief", 1)))
		if len(other.Faults) != 1 || !strings.Contains(other.Faults[0], "component:default/web is brought by the location "+h.URL+"/f.yaml already") {
			t.Errorf("faults are %q", other.Faults)
		}
		s.Do("DELETE", "/api/catalog/locations/"+r.LocationID, nil).Is(204)
		s.Get("/api/catalog/locations/" + r.LocationID).Is(404)
		s.Get("/api/catalog/entities/by-name/component/default/web").Is(404)
		s.Do("DELETE", "/api/catalog/locations/"+r.LocationID, nil).Is(404)
		s.Do("DELETE", "/api/catalog/locations/%00", nil).Is(404)
		register(s, h.URL+"/f.yaml") // and may come back
	})
}

func TestFiltersFieldsOrderAndPages(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		file := ""
		for i := range 12 {
			kind, owner := "Component", "team-a"
			if i%3 == 0 {
				kind, owner = "API", "team-b"
			}
			file += fmt.Sprintf("---\napiVersion: backstage.io/v1alpha1\nkind: %s\nmetadata: {name: e%02d, title: 'T%d', annotations: {github.com/project-slug: octo/e%02d}, labels: {Team: T%d}}\nspec: {type: service, lifecycle: production, owner: %s, port: %d, definition: x}\n", kind, i, 11-i, i, i%2, owner, i)
		}
		register(s, h.put("/f.yaml", file))
		get := func(query string) []string { return names(s.Get("/api/catalog/entities?" + query)) }
		for query, want := range map[string]string{
			"filter=kind=Component,metadata.name=e01":                               "e01",
			"filter=kind=api":                                                       "e00 e03 e06 e09",
			"filter=kind=api,metadata.labels.team=t1":                               "e03 e09",
			"filter=kind%3Dapi%2Cmetadata.name%3De03&filter=metadata.name=e01":      "e03 e01",
			"filter=metadata.name=e01,metadata.name=e02":                            "e01 e02",
			"filter=metadata.annotations.github.com/project-slug=octo/e05":          "e05",
			"filter=metadata.annotations.github.com/project-slug,metadata.name=e05": "e05",
			"filter=spec.port=7":                                                    "e07",
			"filter=relations.ownedBy=group:default/team-b&limit=2":                 "e00 e03",
			"filter=kind=component&order=desc:metadata.name&limit=2":                "e11 e10",
			"filter=kind=component&order=asc:metadata.title&limit=2":                "e11 e10",
			"limit=2&offset=3":                                                      "e09 e01",
			"filter=kind=nothing":                                                   "",
			"filter=spec":                                                           "e00 e03 e06 e09 e01 e02 e04 e05 e07 e08 e10 e11",
			"filter=":                                                               "e00 e03 e06 e09 e01 e02 e04 e05 e07 e08 e10 e11",
			"filter=kind=api, ,&limit=1":                                            "e00",
		} {
			if got := strings.Join(get(strings.ReplaceAll(query, " ", "%20")), " "); got != want {
				t.Errorf("%s: got %s, want %s", query, got, want)
			}
		}
		a := s.Get("/api/catalog/entities?filter=metadata.name=e01&fields=metadata.annotations.github.com/project-slug,kind,spec.none").Is(200)
		if got := string(a.Body); got != `[{"kind":"Component","metadata":{"annotations":{"github.com/project-slug":"octo/e01"}}}]` {
			t.Errorf("fields: %s", got)
		}

		var all []string
		path := "/api/catalog/entities?limit=5&order=desc:spec.type&order=asc:metadata.labels.team"
		for path != "" {
			a := s.Get(path)
			all = append(all, names(a)...)
			path = ""
			if link := a.Header.Get("Link"); link != "" {
				path = strings.TrimPrefix(strings.Split(link, ">")[0], "<")
			}
		}
		if got := strings.Join(all, " "); got != "e00 e06 e02 e04 e08 e10 e03 e09 e01 e05 e07 e11" {
			t.Errorf("pages: %s", got)
		}

		next := strings.TrimPrefix(strings.Split(s.Get("/api/catalog/entities?limit=5").Header.Get("Link"), ">")[0], "<")
		for name, path := range map[string]string{
			"limit 0": "/api/catalog/entities?limit=0", "negative limit": "/api/catalog/entities?limit=-1", "large limit": "/api/catalog/entities?limit=10001",
			"odd order": "/api/catalog/entities?order=metadata.name", "list in fields": "/api/catalog/entities?fields=a[0]", "no key": "/api/catalog/entities?filter==x",
			"bad cursor": "/api/catalog/entities?after=abc", "cursor of another query": next + "&filter=kind=api", "cursor and offset": next + "&offset=1",
			"unknown parameter": "/api/catalog/entities?filters=kind=api", "bad UTF-8": "/api/catalog/entities?filter=kind=%ff",
		} {
			if a := s.Get(path); a.Status != 400 || !strings.Contains(string(a.Body), `"name":"InputError"`) {
				t.Errorf("%s: got %d %s; want 400", name, a.Status, a.Body)
			}
		}
		for _, path := range []string{"component/default/none", "comp%20onent/default/x", "component/default/%00", "component/default/%ff", "component/default/a%2Fb"} {
			if a := s.Get("/api/catalog/entities/by-name/" + path); a.Status != 404 || !strings.Contains(string(a.Body), `"name":"NotFoundError"`) {
				t.Errorf("%s: got %d %s; want 404", path, a.Status, a.Body)
			}
		}
	})
}

func TestCallersSeeWhatTheyMay(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		r := register(s, h.put("/f.yaml", web+"---\n"+strings.ReplaceAll(web, "name: web", "name: other")))
		one := s.With("catalog.entity.read:component:default/web", "catalog.entity.refresh:component:default/web")
		if diff := cmp.Diff([]string{"web"}, names(one.Get("/api/catalog/entities"))); diff != "" {
			t.Error(diff)
		}
		one.Get("/api/catalog/entities/by-name/component/default/web").Is(200)
		one.Get("/api/catalog/entities/by-name/component/default/other").Is(404)
		one.Post("/api/catalog/refresh", map[string]string{"entityRef": "web"}).Is(200)
		one.Post("/api/catalog/refresh", map[string]string{"entityRef": "other"}).Is(404)
		one.Get("/api/catalog/locations").Is(403)
		one.Post("/api/catalog/locations", catalog.Place{Type: "url", Target: h.URL + "/x"}).Is(403)
		one.Do("DELETE", "/api/catalog/locations/"+r.LocationID, nil).Is(403)
		s.With("catalog.entity.read").Post("/api/catalog/refresh", map[string]string{"entityRef": "web"}).Is(403)
		s.With("catalog.location.read").Get("/api/catalog/entities").Is(403)
		s.As("").Get("/api/catalog/entities").Is(401)
	})
}

func TestConfiguredLocationsComeAndGoWithTheConfiguration(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			h, dir, database, data := newHost(t), t.TempDir(), storetest.URL(t, engine), t.TempDir()
			target := h.put("/f.yaml", web)
			with := options(h, dir, database, func(c *server.Config, h *host) {
				section(c).Locations = []catalog.Place{{Type: "url", Target: target}}
			})
			with.DataDir = data
			s := blueprinttest.Start(t, engine, with)
			blueprinttest.Eventually(t, "the entity is there", func() bool {
				return s.Get("/api/catalog/entities/by-name/component/default/web").Status == 200
			})
			var list []struct{ Data catalog.Location }
			s.Get("/api/catalog/locations").Is(200).Into(&list)
			if len(list) != 1 || list[0].Data.Origin != "config" {
				t.Fatalf("got %+v", list)
			}
			s.Do("DELETE", "/api/catalog/locations/"+list[0].Data.ID, nil).Is(409)
			s.Stop()

			without := options(h, dir, database, nil)
			without.DataDir = data
			s = blueprinttest.Start(t, engine, without)
			blueprinttest.Eventually(t, "the entity is gone", func() bool {
				return s.Get("/api/catalog/entities/by-name/component/default/web").Status == 404
			})
			s.Stop()
			l := list[0].Data.EntityRef
			if diff := cmp.Diff([]string{"created " + l, "created component:default/web", "removed component:default/web", "removed " + l}, events(t, database)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// events reads what a stopped server has published.
func events(t *testing.T, database string) (list []string) {
	db, err := store.Open("main", database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT type, data, subject FROM event ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var kind, data, subject string
		if err := rows.Scan(&kind, &data, &subject); err != nil {
			return err
		}
		var what event.EntityEvent
		err := json.Unmarshal([]byte(data), &what)
		list = append(list, strings.TrimSuffix(strings.TrimPrefix(kind, "dev.cdeventsx.slipway-entity."), ".0.1.0")+" "+what.Subject.ID)
		if what.Subject.ID != subject {
			t.Errorf("%s is about %q, and its data about %q", kind, subject, what.Subject.ID)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestConfigFaultsAreReportedTogether(t *testing.T) {
	t.Parallel()
	c := catalog.DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	c.Refresh, c.Kinds, c.Locations = 1, []string{"no kind"}, []catalog.Place{{Type: "git", Target: "x"}, {Type: "url"}}
	err := c.Validate()
	for _, want := range []string{"refresh", "kinds", "locations[0]", "locations[1]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want it to name %s", err, want)
		}
	}
}

func TestSchemaGoesDownAndUp(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, store.Migrations{Owner: "catalog", FS: catalog.Blueprint.Databases[0].Migrations})
}
