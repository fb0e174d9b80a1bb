package catalog_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/server"
)

func TestALocationSaysHowEachOfItsFilesStands(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		h.put("/a.yaml", component("a")+"---\n"+strings.Replace(component("b"), "owner: team-a", "", 1))
		r := register(s, h.put("/root.yaml", locationEntity("root", "{targets: [a.yaml, gone.yaml]}")))
		var status catalog.LocationStatus
		s.Get("/api/catalog/locations/" + r.LocationID + "/status").Is(200).Into(&status)
		var lines []string
		for _, f := range status.Files {
			lines = append(lines, fmt.Sprintf("%s %s %s %v %d", strings.TrimPrefix(f.Target, h.URL), f.Status, f.Parent, f.Entities, len(f.Faults)))
			if f.ReadAt == nil || (f.Error != "") != (f.Status == "failed") {
				t.Errorf("got %+v", f)
			}
		}
		want := []string{
			"/root.yaml ready  [location:default/root] 0",
			"/a.yaml faulty location:default/root [component:default/a component:default/b] 1",
			"/gone.yaml failed location:default/root [] 0",
		}
		if diff := cmp.Diff(want, lines); diff != "" || status.Location.ID != r.LocationID || status.Location.Status != "faulty" {
			t.Error(diff, status.Location)
		}
		s.Get("/api/catalog/locations/none/status").Is(404)
		s.With("catalog.entity.read").Get("/api/catalog/locations/" + r.LocationID + "/status").Is(403)

		var ancestry struct {
			RootEntityRef string
			Items         []struct {
				Entity           struct{ Metadata struct{ Name string } }
				ParentEntityRefs []string
			}
		}
		s.Get("/api/catalog/entities/by-name/component/default/a/ancestry").Is(200).Into(&ancestry)
		if got := strings.ReplaceAll(fmt.Sprint(ancestry), status.Location.EntityRef, "location:itself"); !strings.HasPrefix(got, "{component:default/a [{{{a}} [location:default/root]} {{{root}} [location:itself]} {{{generated-") {
			t.Errorf("ancestry is %s", got)
		}
		s.With("catalog.entity.read:component:*").Get("/api/catalog/entities/by-name/component/default/a/ancestry").Is(200).Into(&ancestry)
		if len(ancestry.Items) != 1 {
			t.Errorf("ancestry is %v; want only what one may read", ancestry)
		}
		s.Get("/api/catalog/entities/by-name/component/default/none/ancestry").Is(404)

		for _, ref := range []string{"component/default/a", strings.NewReplacer(":", "/").Replace(status.Location.EntityRef)} {
			var l catalog.Location
			if s.Get("/api/catalog/locations/by-entity/" + ref).Is(200).Into(&l); l.ID != r.LocationID {
				t.Errorf("%s: got %+v", ref, l)
			}
		}
		s.Get("/api/catalog/locations/by-entity/component/default/none").Is(404)
		s.Get("/api/catalog/locations/by-entity/component/default/%00").Is(404)
	})
}

func TestLocationsAreQueriedByPages(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		for i := range 5 {
			text := component(fmt.Sprintf("c%d", i))
			if i == 3 {
				text += "---\nkind: x\n"
			}
			register(s, h.put(fmt.Sprintf("/f%d.yaml", i), text))
		}
		const path = "/api/catalog/locations/by-query"
		ask := func(body any) (all []string, total int) {
			for {
				var page catalog.Locations
				s.Post(path, body).Is(200).Into(&page)
				for _, l := range page.Items {
					all = append(all, l.Target[len(l.Target)-7:len(l.Target)-5])
				}
				if total = page.TotalItems; page.PageInfo.NextCursor == "" {
					return all, total
				}
				body = map[string]any{"cursor": page.PageInfo.NextCursor}
			}
		}
		for body, want := range map[string]string{
			`{}`:                            "[f0 f1 f2 f3 f4] 5",
			`{"limit":2}`:                   "[f0 f1 f2 f3 f4] 5",
			`{"query":{"status":"faulty"}}`: "[f3] 1",
			`{"query":{"type":"URL","target":{"$hasPrefix":"` + h.URL + `/f"}},"limit":1}`:                  "[f0 f1 f2 f3 f4] 5",
			`{"query":{"$any":[{"target":"` + h.URL + `/F1.yaml"},{"$not":{"status":{"$in":["ready"]}}}]}}`: "[f1 f3] 2",
			`{"query":{"$all":[{"origin":"api"},{"none":{"$exists":false}},{"target":{"$exists":true}}]}}`:  "[f0 f1 f2 f3 f4] 5",
			`{"query":{"none":{"$exists":true}}}`:                                                           "[] 0",
		} {
			all, total := ask(body)
			if got := fmt.Sprint(all, " ", total); got != want {
				t.Errorf("%s: got %s, want %s", body, got, want)
			}
		}
		for _, body := range []string{`{"cursor":"x"}`, `{"query":{"$x":1}}`, `{"limit":-1}`} {
			if a := s.Post(path, body); a.Status != 400 {
				t.Errorf("%s: got %d", body, a.Status)
			}
		}
	})
}

func TestALocationMayGetAnotherTarget(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		r := register(s, h.put("/one.yaml", component("one")))
		register(s, h.put("/three.yaml", component("three")))
		put := func(id, target string) *blueprinttest.Answer {
			return s.Do("PUT", "/api/catalog/locations/"+id, catalog.Place{Type: "url", Target: target})
		}
		var l catalog.Location
		put(r.LocationID, h.put("/two.yaml", component("two"))).Is(200).Into(&l)
		if l.ID != r.LocationID || l.Target != h.URL+"/two.yaml" {
			t.Errorf("got %+v", l)
		}
		blueprinttest.Eventually(t, "the new target is read, the old one is left behind", func() bool {
			a := s.Get("/api/catalog/entities/by-name/component/default/one")
			return there(s, "component:default/two") && strings.Contains(string(a.Body), `"backstage.io/orphan":"true"`)
		})
		put(r.LocationID, h.URL+"/three.yaml").Is(409)
		put(r.LocationID, "http://127.0.0.2:1/x.yaml").Is(400)
		put("none", h.URL+"/four.yaml").Is(404)
	})
}

func TestAKnownLocationIsRefreshedOnRequest(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		r := register(s, h.put("/f.yaml", component("one")))
		h.put("/f.yaml", component("two"))
		place := catalog.Place{Type: "url", Target: h.URL + "/f.yaml"}
		s.Post("/api/catalog/locations?onConflict=reject", place).Is(409)
		s.Post("/api/catalog/locations?onConflict=other", place).Is(400)
		var again registered
		s.Post("/api/catalog/locations?onConflict=refresh", place).Is(201).Into(&again)
		if again.LocationID != r.LocationID || again.Location.ID != r.LocationID || again.Entities == nil {
			t.Errorf("got %+v", again)
		}
		blueprinttest.Eventually(t, "it is read again", func() bool { return there(s, "component:default/two") })
	})
}

func TestAnEntityIsCheckedWithoutBeingStored(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, _ *host, _ string) {
		check := func(location, entity string) *blueprinttest.Answer {
			return s.Post("/api/catalog/validate-entity", fmt.Sprintf(`{"location":%q,"entity":%s}`, location, entity))
		}
		const good = `{"apiVersion":"backstage.io/v1alpha1","kind":"Component","metadata":{"name":"web"},"spec":{"type":"service","lifecycle":"production","owner":"team"}}`
		if a := check("url:https://example.com/catalog-info.yaml", good).Is(200); len(a.Body) > 0 {
			t.Errorf("got %s; want nothing", a.Body)
		}
		a := check("url:https://example.com/x.yaml", strings.Replace(strings.Replace(good, `"type":"service",`, "", 1), `,"owner":"team"`, "", 1)).Is(400)
		if want := `{"errors":[{"name":"InputError","message":"missing required field 'spec.type'"},{"name":"InputError","message":"missing required field 'spec.owner'"}]}`; strings.TrimSpace(string(a.Body)) != want {
			t.Errorf("got %s, want %s", a.Body, want)
		}
		a = check("url:https://example.com/x.yaml", strings.Replace(good, `"name":"web"`, `"name":"web","title":1,"annotations":{"a":2}`, 1)).Is(400)
		if want := `{"errors":[{"name":"InputError","message":"field 'metadata.title' must be a text; put quotes around it"},` +
			`{"name":"InputError","message":"field 'metadata.annotations.a' must be a text; put quotes around it"}]}`; strings.TrimSpace(string(a.Body)) != want {
			t.Errorf("got %s, want %s: one error for each fault", a.Body, want)
		}
		for _, location := range []string{"file:/x", "https://example.com", "url:", ""} {
			var f catalog.Faults
			if check(location, good).Is(400).Into(&f); len(f.Errors) != 1 || !strings.Contains(f.Errors[0].Message, "url:") {
				t.Errorf("%s: got %+v", location, f)
			}
		}
		if a := s.Post("/api/catalog/validate-entity", `{"entity":[]}`).Is(400); !strings.Contains(string(a.Body), `"InputError"`) {
			t.Errorf("got %s", a.Body)
		}
		if got := names(s.Get("/api/catalog/entities")); len(got) > 0 {
			t.Errorf("stored %v", got)
		}
	})
}

func TestAnAddressIsAnalyzed(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		analyze := func(target string) (a catalog.Analysis) {
			s.Post("/api/catalog/analyze-location", map[string]any{"location": catalog.Place{Type: "url", Target: target}, "catalogFilename": "info.yaml"}).Is(200).Into(&a)
			return a
		}
		h.put("/shop/web/blob/HEAD/info.yaml", web)
		if a := analyze(h.URL + "/shop/web.git"); len(a.ExistingEntityFiles) != 1 || a.ExistingEntityFiles[0].IsRegistered || a.ExistingEntityFiles[0].Entity.Metadata.Name != "web" || len(a.GenerateEntities) > 0 {
			t.Errorf("got %+v", a)
		}
		register(s, h.URL+"/shop/web/blob/HEAD/info.yaml")
		if a := analyze(h.URL + "/shop/web/blob/HEAD/info.yaml"); len(a.ExistingEntityFiles) != 1 || !a.ExistingEntityFiles[0].IsRegistered {
			t.Errorf("got %+v", a)
		}
		if a := analyze(h.URL + "/shop/other"); len(a.GenerateEntities) != 1 || a.GenerateEntities[0].Entity.Metadata.Name != "other" || a.GenerateEntities[0].Entity.Kind != "Component" {
			t.Errorf("got %+v", a)
		}
		s.Post("/api/catalog/analyze-location", map[string]any{"location": catalog.Place{Type: "url", Target: "http://127.0.0.2:1/x"}}).Is(400)
		s.With("catalog.entity.read").Post("/api/catalog/analyze-location", map[string]any{"location": catalog.Place{Type: "url", Target: h.URL + "/x"}}).Is(403)
	})
}

func TestEntitiesWithoutAFileAreWrittenDirectly(t *testing.T) {
	t.Parallel()
	each(t, func(c *server.Config, _ *host) {}, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		const path = "/api/catalog/entities/by-name/component/default/direct"
		doc := `{"apiVersion":"backstage.io/v1alpha1","kind":"Component","metadata":{"name":"direct"},"spec":{"type":"service","lifecycle":"production","owner":"team-a"}}`
		var e struct {
			Metadata  struct{ UID, ETag, Namespace string }
			Relations []struct{ Type, TargetRef string }
		}
		first := s.Do("PUT", path, doc).Is(201)
		first.Into(&e)
		if e.Metadata.UID == "" || e.Metadata.Namespace != "default" || len(e.Relations) != 1 {
			t.Errorf("got %s", first.Body)
		}
		// What was answered may be sent back, and changes nothing.
		if again := s.Do("PUT", path, string(first.Body)).Is(200); string(again.Body) != string(first.Body) {
			t.Errorf("got %s, want %s", again.Body, first.Body)
		}
		if a := s.Do("PUT", path, strings.Replace(doc, "service", "library", 1)).Is(200); !strings.Contains(string(a.Body), e.Metadata.UID) || strings.Contains(string(a.Body), e.Metadata.ETag) {
			t.Errorf("got %s; want the same uid and another etag", a.Body)
		}
		for name, body := range map[string]string{
			"another name": strings.Replace(doc, `"direct"`, `"other"`, 1), "no owner": strings.Replace(doc, `"owner":"team-a"`, `"x":1`, 1), "no object": `[]`,
			"unknown field": strings.Replace(doc, `"kind"`, `"x":1,"kind"`, 1), "unknown kind": strings.Replace(doc, "Component", "Gadget", 1),
		} {
			if a := s.Do("PUT", path, body); a.Status != 400 {
				t.Errorf("%s: got %d %s", name, a.Status, a.Body)
			}
		}
		location := `{"apiVersion":"backstage.io/v1alpha1","kind":"Location","metadata":{"name":"direct"},"spec":{"target":"./x"}}`
		s.Do("PUT", "/api/catalog/entities/by-name/location/default/direct", location).Is(400)

		// Owners write what is theirs, and cannot take what is not.
		mine := s.With("catalog.entity.read", "catalog.entity.write:component:default/mine")
		mine.Do("PUT", path, doc).Is(403)
		mine.Do("DELETE", path, nil).Is(403)
		mine.Do("PUT", "/api/catalog/entities/by-name/component/default/mine", strings.ReplaceAll(doc, "direct", "mine")).Is(201)
		s.With("catalog.entity.read").Do("PUT", path, doc).Is(403)
		user := `{"apiVersion":"backstage.io/v1alpha1","kind":"User","metadata":{"name":"m"},"spec":{"memberOf":["admins"]}}`
		s.With("catalog.entity.write").Do("PUT", "/api/catalog/entities/by-name/user/default/m", user).Is(403)
		s.Do("PUT", "/api/catalog/entities/by-name/user/default/m", user).Is(201)

		// A location's entity is written in its file.
		register(s, h.put("/f.yaml", web))
		webDoc := strings.ReplaceAll(doc, "direct", "web")
		if a := s.Do("PUT", "/api/catalog/entities/by-name/component/default/web", webDoc).Is(409); !strings.Contains(string(a.Body), h.URL+"/f.yaml") {
			t.Errorf("got %s; want it to name the location", a.Body)
		}
		s.Do("DELETE", "/api/catalog/entities/by-name/component/default/web", nil).Is(409)

		s.Do("DELETE", path, nil).Is(204)
		s.Do("DELETE", path, nil).Is(404)
		s.Do("DELETE", "/api/catalog/entities/by-name/component/default/%00", nil).Is(404)
	})
}

func TestAnEntityIsRemovedByItsUID(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		register(s, h.put("/f.yaml", web))
		uid := func() string {
			var e struct{ Metadata struct{ UID string } }
			if a := s.Get("/api/catalog/entities/by-name/component/default/web"); a.Status == 200 {
				a.Into(&e)
			}
			return e.Metadata.UID
		}
		first := uid()
		s.With("catalog.entity.read").Do("DELETE", "/api/catalog/entities/by-uid/"+first, nil).Is(403)
		s.Do("DELETE", "/api/catalog/entities/by-uid/"+first, nil).Is(204)
		s.Do("DELETE", "/api/catalog/entities/by-uid/"+first, nil).Is(404)
		if uid() != "" {
			t.Error("it is still there")
		}
		// Its file still has it: the next reading brings it back as a new entity, though the file is as it was.
		s.Post("/api/catalog/locations?onConflict=refresh", catalog.Place{Type: "url", Target: h.URL + "/f.yaml"}).Is(201)
		blueprinttest.Eventually(t, "it is back", func() bool { return uid() != "" })
		if uid() == first {
			t.Error("it has the uid of the one that was removed")
		}
	})
}
