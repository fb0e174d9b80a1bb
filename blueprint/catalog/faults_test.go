package catalog_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestBadFilesAreRefusedWithWhatIsWrong(t *testing.T) {
	t.Parallel()
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c, ", c-1), 9)+fmt.Sprintf("*%c", c-1))
	}
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		for name, tt := range map[string]struct{ text, want string }{
			"aliases of aliases":      {bomb, "more than 500000 values, counting what its aliases repeat"},
			"an alias of itself":      {"a: &a [*a]\n", ""},
			"tabs":                    {strings.Replace(web, "  name: web", "\tname: web", 1), "line 4, column 1: found character that cannot start any token; indent with spaces, not with tabs"},
			"a key that stands twice": {web + "  owner: team-b\n", `the key "owner" stands twice`},
			"keys of another case":    {web + "  Owner: team-b\n", `the keys "Owner" and "owner" of spec differ only in case`},
			"a template":              {strings.Replace(web, "name: web", "name: ${{ values.name }}", 1), "template"},
			"a template of words":     {strings.Replace(web, "name: web", "name: {{ cookiecutter.name }}", 1), "template"},
			"a template of blocks":    {"{% if values.x %}\n" + web + "{% endif %}\n", "template"},
			"HTML":                    {"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "HTML"},
			"10 MB":                   {web + "  text: |\n" + strings.Repeat("    "+strings.Repeat("x", 1000)+"\n", 10_000), "larger than 2MiB"},
			"binary":                  {"\x7fELF\x02\x01\x01\x00\x00", ""},
		} {
			a := s.Post("/api/catalog/locations", catalog.Place{Type: "url", Target: h.put("/"+strings.ReplaceAll(name, " ", "-")+"/catalog-info.yaml", tt.text)}).Is(400)
			var refused struct{ Error string }
			if a.Into(&refused); !strings.Contains(refused.Error, tt.want) || refused.Error == "" || len(refused.Error) > 1000 {
				t.Errorf("%s: got %.1200q; want it to say %q", name, refused.Error, tt.want)
			}
		}
		if got := names(s.Get("/api/catalog/entities")); len(got) > 0 {
			t.Errorf("stored %v", got)
		}
	})
}

func TestRedirectsLeadToNoPrivateAddress(t *testing.T) {
	t.Parallel()
	each(t, func(c *server.Config, h *host) { c.Fetch.Allow = []string{h.URL + "/*", "https://*", "http://*"} }, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		for i, to := range []string{"http://169.254.169.254/latest/meta-data", "http://127.0.0.2:1/x.yaml", "http://10.0.0.1/x.yaml", "http://[::1]/x.yaml", "file:///etc/hostname"} {
			h.redirect(fmt.Sprintf("/away%d.yaml", i), to)
			if a := s.Post("/api/catalog/locations", catalog.Place{Type: "url", Target: fmt.Sprintf("%s/away%d.yaml", h.URL, i)}).Is(400); !strings.Contains(string(a.Body), "private address") && !strings.Contains(string(a.Body), "is not allowed") && !strings.Contains(string(a.Body), "cannot be read") && !strings.Contains(string(a.Body), "can be read here") {
				t.Errorf("%s: got %s", to, a.Body)
			}
		}
		r := register(s, h.put("/root.yaml", component("a")+locationEntity("root", "{target: away0.yaml}")))
		if len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "169.254.169.254") || !strings.Contains(r.Faults[0], "private address") {
			t.Errorf("faults are %q", r.Faults)
		}
	})
}

// hanging is a host that takes connections and never answers, and counts them.
func hanging(t *testing.T) (url string, asked *atomic.Int64) {
	asked = new(atomic.Int64)
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-r.Context().Done():
		case <-done:
		}
	}))
	t.Cleanup(func() { close(done); s.Close() })
	return s.URL, asked
}

func TestAHostThatHangsHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	const dead = 60
	url, asked := hanging(t)
	each(t, func(c *server.Config, _ *host) {
		c.Fetch.Allow = append(c.Fetch.Allow, url+"/*")
		c.Fetch.Timeout = slipway.Duration(300 * time.Millisecond)
	}, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		before := asked.Load()
		var targets []string
		for i := range dead {
			targets = append(targets, fmt.Sprintf("'%s/%s/%d.yaml'", url, filepath.Base(t.Name()), i), fmt.Sprintf("good%d.yaml", i))
			h.put(fmt.Sprintf("/good%d.yaml", i), component(fmt.Sprintf("good%d", i)))
		}
		r := register(s, h.put("/root.yaml", locationEntity("root", "{targets: ["+strings.Join(targets, ", ")+"]}")))
		var q queried
		blueprinttest.Eventually(t, "all that is good is there", func() bool {
			s.Get("/api/catalog/entities/by-query?filter=kind=component&limit=0").Is(200).Into(&q)
			return q.TotalItems == dead
		})
		var status catalog.LocationStatus
		blueprinttest.Eventually(t, "the pass has ended", func() bool {
			s.Get("/api/catalog/locations/" + r.LocationID + "/status").Is(200).Into(&status)
			return status.Location.Status == "faulty"
		})
		failed := 0
		for _, f := range status.Files {
			if f.Status == "failed" && strings.Contains(f.Error, "did not answer in time") {
				failed++
			}
		}
		if failed != dead {
			t.Errorf("%d files failed, want %d", failed, dead)
		}
		if n := asked.Load() - before; n > 30 { // both engines may run at once
			t.Errorf("the host was asked %d times; want it left alone after a few", n)
		}
		// A further location there is taken at once, and read when the host is back.
		if r := register(s, url+"/further.yaml"); r.Status != "processing" || len(r.Entities) > 0 {
			t.Errorf("got %+v", r)
		}
	})
}

func TestATargetThatIsGoneLeavesWhatItBrought(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		r := register(s, h.put("/f.yaml", web))
		h.drop("/f.yaml")
		s.Post("/api/catalog/refresh", map[string]string{"entityRef": "web"}).Is(200)
		blueprinttest.Eventually(t, "the fault is shown", func() bool {
			var l catalog.Location
			s.Get("/api/catalog/locations/" + r.LocationID).Is(200).Into(&l)
			return l.Status == "failed" && strings.Contains(l.Error, "there is nothing at")
		})
		if !there(s, "component:default/web") {
			t.Error("the entity is gone; want its last known version")
		}
		if got := statusOf(s, r.Location.EntityRef); len(got) != 1 || !strings.Contains(got[0], "there is nothing at") {
			t.Errorf("the location's entity says %q", got)
		}
		h.put("/f.yaml", web)
		refreshed(t, s, r.LocationID)
		if got := statusOf(s, r.Location.EntityRef); got != nil {
			t.Errorf("the location's entity says %q; want nothing any more", got)
		}
	})
}

func TestARegisteredLocationIsAnEntity(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		a := s.Post("/api/catalog/locations", map[string]string{"type": "url", "target": h.URL + "/f.yaml", "presence": "optional"}).Is(201) // there is no such file yet
		var r registered
		a.Into(&r)
		var e struct {
			Kind     string
			Metadata struct{ Annotations map[string]string }
			Spec     struct{ Type, Target string }
		}
		path := "/api/catalog/entities/by-name/" + strings.ReplaceAll(r.Location.EntityRef, ":", "/")
		s.Get(path).Is(200).Into(&e)
		if e.Kind != "Location" || e.Spec.Target != h.URL+"/f.yaml" || e.Spec.Type != "url" || e.Metadata.Annotations["backstage.io/managed-by-origin-location"] != "url:"+h.URL+"/f.yaml" {
			t.Errorf("got %+v", e)
		}
		blueprinttest.Eventually(t, "it says that there is no such file", func() bool { return len(statusOf(s, r.Location.EntityRef)) == 1 })
		h.put("/f.yaml", web)
		s.Post("/api/catalog/refresh", map[string]string{"entityRef": r.Location.EntityRef}).Is(200)
		blueprinttest.Eventually(t, "the file is read", func() bool { return there(s, "component:default/web") })

		// Another target makes another entity; without the location there is none.
		h.put("/g.yaml", web)
		var l catalog.Location
		s.Do("PUT", "/api/catalog/locations/"+r.LocationID, catalog.Place{Type: "url", Target: h.URL + "/g.yaml"}).Is(200).Into(&l)
		s.Get(path).Is(404)
		if l.EntityRef == r.Location.EntityRef || !there(s, l.EntityRef) {
			t.Errorf("got %+v; want an entity of another name", l)
		}
		// Nobody else writes such entities.
		name := strings.TrimPrefix(l.EntityRef, "location:default/")
		if r := register(s, h.put("/h.yaml", component("h")+locationEntity(name, "{target: x.yaml}"))); len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "generated-") {
			t.Errorf("faults are %q", r.Faults)
		}
		s.Do("DELETE", "/api/catalog/entities/by-name/location/default/"+name, nil).Is(409)
		s.Do("DELETE", "/api/catalog/locations/"+r.LocationID, nil).Is(204)
		if there(s, l.EntityRef) {
			t.Error("it outlives its location")
		}
	})
}

func TestAPatternIsRegistered(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, _ *host, dir string) {
		write := func(name, text string) {
			if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name, "catalog-info.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		place := catalog.Place{Type: "file", Target: filepath.Join(dir, "*", "catalog-info.yaml")}
		if a := s.Post("/api/catalog/locations", place).Is(400); !strings.Contains(string(a.Body), "no file fits this pattern") {
			t.Errorf("got %s", a.Body)
		}
		write("a", component("a"))
		var r registered
		s.Post("/api/catalog/locations", place).Is(201).Into(&r)
		write("b", component("b"))
		if l := refreshed(t, s, r.LocationID); l.Status != "ready" || !there(s, "component:default/a") || !there(s, "component:default/b") {
			t.Errorf("got %+v", l)
		}
		for _, name := range []string{"a", "b"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		s.Post("/api/catalog/refresh", map[string]string{"entityRef": r.Location.EntityRef}).Is(200)
		blueprinttest.Eventually(t, "it says that no file fits any more", func() bool {
			var l catalog.Location
			s.Get("/api/catalog/locations/" + r.LocationID).Is(200).Into(&l)
			return l.Status == "failed" && strings.Contains(l.Error, "no file fits")
		})
		orphan := func(name string) bool {
			var e slipway.Entity
			s.Get("/api/catalog/entities/by-name/component/default/" + name).Is(200).Into(&e)
			return e.Metadata.Annotations["backstage.io/orphan"] != ""
		}
		if orphan("a") || orphan("b") {
			t.Error("a folder that is not mounted has taken away what was in it")
		}
		write("b", component("b"))
		if l := refreshed(t, s, r.LocationID); l.Status != "ready" || !orphan("a") || orphan("b") {
			t.Errorf("one file is back: got %+v, and an orphan: a %v, b %v", l, orphan("a"), orphan("b"))
		}
	})
}

func TestAThousandLocationsAtOnce(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		const all, callers = 1000, 16
		next := make(chan int)
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for i := range next {
					target := h.put(fmt.Sprintf("/f%d.yaml", i), component(fmt.Sprintf("c%d", i)))
					if a := s.Post("/api/catalog/locations", catalog.Place{Type: "url", Target: target}); a.Status != 201 {
						t.Errorf("location %d: %d %s", i, a.Status, a.Body)
					}
					// It is there when the answer is.
					if !there(s, fmt.Sprintf("component:default/c%d", i)) {
						t.Errorf("entity %d is not there after the registration", i)
					}
				}
			})
		}
		for i := range all {
			next <- i
		}
		close(next)
		wg.Wait()
		var q queried
		s.Get("/api/catalog/entities/by-query?filter=kind=component&limit=0").Is(200).Into(&q)
		var list []struct{ Data catalog.Location }
		s.Get("/api/catalog/locations").Is(200).Into(&list)
		ready := 0
		for _, l := range list {
			if l.Data.Status == "ready" {
				ready++
			}
		}
		if q.TotalItems != all || len(list) != all || ready != all {
			t.Errorf("%d entities, %d locations, %d of them ready; want %d each", q.TotalItems, len(list), ready, all)
		}
	})
}

func TestOrphansGoAfterTheirTime(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			var ahead atomic.Int64 // how far the server's clock is ahead
			o := options(h, t.TempDir(), storetest.URL(t, engine), func(c *server.Config, _ *host) { section(c).Orphans = slipway.Duration(time.Hour) })
			o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			s := blueprinttest.Start(t, engine, o)
			r := register(s, h.put("/f.yaml", component("stays")+"---\n"+component("goes")))
			h.put("/f.yaml", component("stays"))
			refreshed(t, s, r.LocationID)
			if a := s.Get("/api/catalog/entities/by-name/component/default/goes").Is(200); !strings.Contains(string(a.Body), `"backstage.io/orphan":"true"`) {
				t.Errorf("got %s; want an orphan", a.Body)
			}
			ahead.Store(int64(50 * time.Minute))
			refreshed(t, s, r.LocationID)
			if !there(s, "component:default/goes") {
				t.Error("it is gone before its time")
			}
			ahead.Store(int64(62 * time.Minute))
			blueprinttest.Eventually(t, "the orphan is removed", func() bool { return !there(s, "component:default/goes") })
			if !there(s, "component:default/stays") {
				t.Error("what is no orphan is gone too")
			}
		})
	}
}

func TestOwnersReadWhatTheyOwn(t *testing.T) {
	t.Parallel()
	each(t, func(c *server.Config, _ *host) {
		c.Auth.Grants = []auth.GrantConfig{{To: "group:default/company", Permissions: []string{"catalog.entity.read:owned"}}}
		c.Auth.RateLimits.User = 0
	}, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		doc := "---\napiVersion: backstage.io/v1alpha1\n"
		file := doc + "kind: Group\nmetadata: {name: company}\nspec: {type: company, children: [team-a]}\n" + doc + "kind: Group\nmetadata: {name: team-a}\nspec: {type: team, children: []}\n" +
			doc + "kind: User\nmetadata: {name: jane}\nspec: {memberOf: [team-a]}\n"
		for i := range 30 {
			owner := []string{"team-a", "team-b", "user:jane"}[i%3]
			file += "---\n" + strings.Replace(component(fmt.Sprintf("c%02d", i)), "owner: team-a", "owner: "+owner+"\n  dependsOn: [component:c"+fmt.Sprintf("%02d", (i+1)%30)+"]", 1)
		}
		r := register(s, h.put("/f.yaml", file))
		if len(r.Faults) > 0 {
			t.Fatal(r.Faults)
		}
		jane := s.As(s.NewToken(auth.NewToken{Name: "j", User: "user:default/jane"}))
		blueprinttest.Eventually(t, "the grant of the group is known", func() bool { return jane.Get("/api/catalog/entities?limit=1").Status == 200 })

		var mine []string
		for i := range 30 {
			if i%3 != 1 {
				mine = append(mine, fmt.Sprintf("c%02d", i))
			}
		}
		if diff := cmp.Diff(mine, names(jane.Get("/api/catalog/entities"))); diff != "" {
			t.Error(diff)
		}
		// Pages are full and counts are right: what is not theirs is left out by the query, not after it.
		var got []string
		for cursor := ""; ; {
			var q queried
			jane.Get("/api/catalog/entities/by-query?limit=7&filter=kind=component&orderField=metadata.name" + cursor).Is(200).Into(&q)
			if q.TotalItems != 20 || len(q.Items) != min(7, 20-len(got)) {
				t.Errorf("a page has %d of %d; want full pages of 20", len(q.Items), q.TotalItems)
			}
			got = append(got, strings.Fields(q.names())...)
			if q.PageInfo.NextCursor == "" {
				break
			}
			cursor = "&cursor=" + q.PageInfo.NextCursor
		}
		if diff := cmp.Diff(mine, got); diff != "" {
			t.Error(diff)
		}
		if a := jane.Get("/api/catalog/entity-facets?facet=spec.owner&facet=kind").Is(200); strings.Contains(string(a.Body), "team-b") || !strings.Contains(string(a.Body), `{"value":"Component","count":20}`) {
			t.Errorf("facets are %s", a.Body)
		}
		jane.Get("/api/catalog/entities/by-name/component/default/c01").Is(404)
		if a := jane.Get("/api/catalog/entities/by-name/component/default/c00").Is(200); strings.Contains(string(a.Body), `"targetRef":"component:default/c01"`) {
			t.Errorf("got %s; want no relation with what one may not read", a.Body)
		}
		if a := jane.Post("/api/catalog/entities/by-refs", `{"entityRefs":["component:c00","component:c01"],"fields":["metadata.name"]}`).Is(200); strings.TrimSpace(string(a.Body)) != `{"items":[{"metadata":{"name":"c00"}},null]}` {
			t.Errorf("got %s", a.Body)
		}
	})
}

func TestEntitiesThatComeChangeAndGoAreEvents(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			h, database := newHost(t), storetest.URL(t, engine)
			s := blueprinttest.Start(t, engine, options(h, t.TempDir(), database, func(c *server.Config, _ *host) { section(c).Orphans = 0 }))
			r := register(s, h.put("/f.yaml", component("a")+"---\n"+component("b")))
			refreshed(t, s, r.LocationID) // nothing new, no event
			h.put("/f.yaml", strings.Replace(component("a"), "The shop", "The new shop", 1))
			refreshed(t, s, r.LocationID)
			s.Stop()
			want := []string{"created component:default/a", "created component:default/b", "modified component:default/a",
				"modified component:default/b", "removed component:default/b"} // b becomes an orphan first
			got := slices.DeleteFunc(events(t, database), func(e string) bool { return strings.Contains(e, "location:") })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
