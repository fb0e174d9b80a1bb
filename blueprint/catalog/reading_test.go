package catalog_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/server"
)

func component(name string) string { return strings.ReplaceAll(web, "name: web", "name: "+name) }

func locationEntity(name, rest string) string {
	return "---\napiVersion: backstage.io/v1alpha1\nkind: Location\nmetadata: {name: " + name + "}\nspec: " + rest + "\n"
}

func (h *host) drop(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.files, path)
}

func refreshed(t *testing.T, s *blueprinttest.Server, id string) catalog.Location {
	t.Helper()
	var before, l catalog.Location
	s.Get("/api/catalog/locations/" + id).Is(200).Into(&before)
	s.Post("/api/catalog/refresh", map[string]string{"entityRef": before.EntityRef}).Is(200)
	blueprinttest.Eventually(t, "it is read again", func() bool {
		l = catalog.Location{}
		s.Get("/api/catalog/locations/" + id).Is(200).Into(&l)
		return l.ReadAt.After(*before.ReadAt)
	})
	return l
}

func there(s *blueprinttest.Server, ref string) bool {
	return s.Get("/api/catalog/entities/by-name/"+strings.ReplaceAll(ref, ":", "/")).Status == 200
}

func TestALocationEntityLeadsToFurtherFiles(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		h.put("/shop/a.yaml", component("a"))
		h.put("/shop/deep/b.yaml", component("b")+locationEntity("back", "{targets: [../root.yaml, ../a.yaml]}")) // a circle
		h.put("/c.yaml", component("c")+"---\n"+component("a"))
		r := register(s, h.put("/shop/root.yaml", locationEntity("root", "{targets: [./a.yaml, deep/b.yaml, /c.yaml, gone.yaml, 'http://127.0.0.2:1/x.yaml']}")+
			locationEntity("maybe", "{target: none.yaml, presence: optional}")+locationEntity("sly", "{type: file, target: /etc/hostname}")))
		if len(r.Entities) != 3 {
			t.Errorf("the answer has %d entities; want those of the target itself", len(r.Entities))
		}
		for _, ref := range []string{"component:default/a", "component:default/b", "component:default/c", "location:default/root", "location:default/back", "location:default/sly"} {
			if !there(s, ref) {
				t.Errorf("%s is missing", ref)
			}
		}
		var l catalog.Location
		s.Get("/api/catalog/locations/" + r.LocationID).Is(200).Into(&l)
		faults := strings.ReplaceAll(strings.Join(l.Faults, "\n"), h.URL, "")
		for _, want := range []string{"location:default/sly: target /etc/hostname: an address cannot bring files", "/c.yaml: component:default/a stands in /shop/a.yaml already", "/shop/gone.yaml: ", "http://127.0.0.2:1/x.yaml: "} {
			if !strings.Contains(faults, want) {
				t.Errorf("faults are\n%s\nwant one with %q", faults, want)
			}
		}
		if l.Status != "faulty" || len(l.Faults) != 4 {
			t.Errorf("status %s, %d faults; want faulty with 4", l.Status, len(l.Faults))
		}
		var e struct {
			Metadata struct{ Annotations map[string]string }
		}
		s.Get("/api/catalog/entities/by-name/component/default/b").Is(200).Into(&e)
		if got := e.Metadata.Annotations; got["backstage.io/managed-by-location"] != "url:"+h.URL+"/shop/deep/b.yaml" || got["backstage.io/managed-by-origin-location"] != "url:"+h.URL+"/shop/root.yaml" {
			t.Errorf("annotations are %v", got)
		}
		// What one file of many loses stays for a while; a file that cannot be read any more keeps what it brought.
		h.put("/shop/a.yaml", component("a2"))
		h.drop("/shop/deep/b.yaml")
		l = refreshed(t, s, r.LocationID)
		if !strings.Contains(strings.Join(l.Faults, "\n"), "/shop/deep/b.yaml: ") || !there(s, "component:default/a2") || !there(s, "component:default/b") {
			t.Errorf("faults are %q", l.Faults)
		}
		if a := s.Get("/api/catalog/entities?filter=metadata.annotations.backstage.io/orphan=true&fields=metadata.name"); len(names(a)) != 0 {
			t.Errorf("orphans are %s; want none: the other file brings a", a.Body)
		}
		s.Do("DELETE", "/api/catalog/locations/"+r.LocationID, nil).Is(204)
		if there(s, "component:default/a2") || there(s, "location:default/root") {
			t.Error("something of a removed location is left")
		}
	})
}

func TestUnchangedFilesOfATreeAreNotReadAgain(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		h.put("/a.yaml", component("a"))
		h.put("/b.yaml", component("b"))
		r := register(s, h.put("/root.yaml", locationEntity("root", "{targets: [a.yaml, b.yaml]}")))
		h.put("/b.yaml", component("b2"))
		refreshed(t, s, r.LocationID)
		if requests, bodies := h.counts(); requests != 6 || bodies != 4 {
			t.Errorf("%d requests, %d bodies; want 6 and 4: only one file changed", requests, bodies)
		}
		if !there(s, "component:default/a") || !there(s, "component:default/b2") {
			t.Error("something is missing")
		}
	})
}

func TestFileTargetsHaveWildcardsAndStayBelowTheRoots(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, _ *host, dir string) {
		write := func(name, text string) string {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		for _, n := range []string{"a", "b"} {
			write("services/"+n+"/catalog-info.yaml", component(n))
		}
		secret := filepath.Join(t.TempDir(), "catalog-info.yaml")
		if err := os.WriteFile(secret, []byte(component("secret")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(secret, filepath.Join(dir, "link.yaml")); err != nil {
			t.Fatal(err)
		}
		root := write("root.yaml", locationEntity("root", "{targets: ['./services/*/catalog-info.yaml', './none/*.yaml', link.yaml, '"+secret+"', /etc/hostname]}"))
		var r registered
		s.Post("/api/catalog/locations", catalog.Place{Type: "file", Target: root}).Is(201).Into(&r)
		if diff := cmp.Diff([]string{"a", "b", "root"}, names(s.Get("/api/catalog/entities"))); diff != "" {
			t.Error(diff)
		}
		if len(r.Faults) != 4 {
			t.Errorf("faults are %q; want one for the pattern without a file and three for what lies outside", r.Faults)
		}
		write("services/c/catalog-info.yaml", component("c"))
		if err := os.RemoveAll(filepath.Join(dir, "services/a")); err != nil {
			t.Fatal(err)
		}
		refreshed(t, s, r.LocationID)
		var e struct {
			Metadata struct{ Annotations map[string]string }
		}
		s.Get("/api/catalog/entities/by-name/component/default/a").Is(200).Into(&e)
		if !there(s, "component:default/c") || e.Metadata.Annotations["backstage.io/orphan"] != "true" {
			t.Errorf("annotations of what is gone are %v; want it marked as an orphan", e.Metadata.Annotations)
		}
	})
}

func TestPlaceholdersTakeInOtherFiles(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		api := func(name, definition string) string {
			return "---\napiVersion: backstage.io/v1alpha1\nkind: API\nmetadata: {name: " + name + "}\nspec: {type: openapi, lifecycle: production, owner: team-a, definition: " + definition + "}\n"
		}
		h.put("/api/openapi.yaml", "openapi: 3.1.0\n")
		h.put("/api/data.json", `{"a": [1, "x"]}`)
		r := register(s, h.put("/api/catalog-info.yaml", api("text", "{$text: ./openapi.yaml}")+
			strings.Replace(api("more", "x"), "definition: x", "definition: x, json: {$json: data.json}, yaml: {$yaml: openapi.yaml}", 1)+
			api("missing", "{$text: ./none.yaml}")+api("private", "{$text: 'http://127.0.0.2:1/'}")))
		var e struct{ Spec json.RawMessage }
		s.Get("/api/catalog/entities/by-name/api/default/text").Is(200).Into(&e)
		if want := `{"definition":"openapi: 3.1.0\n","lifecycle":"production","owner":"team-a","type":"openapi"}`; string(e.Spec) != want {
			t.Errorf("got %s, want %s", e.Spec, want)
		}
		s.Get("/api/catalog/entities/by-name/api/default/more").Is(200).Into(&e)
		if want := `"json":{"a":[1,"x"]},"lifecycle":"production","owner":"team-a","type":"openapi","yaml":{"openapi":"3.1.0"}}`; !strings.HasSuffix(string(e.Spec), want) {
			t.Errorf("got %s, want %s", e.Spec, want)
		}
		if len(r.Faults) != 2 || !strings.Contains(r.Faults[0], "api:default/missing: $text ./none.yaml: ") || !strings.Contains(r.Faults[1], "api:default/private: $text http://127.0.0.2:1/: ") {
			t.Errorf("faults are %q", r.Faults)
		}
		// The file itself is as it was, what it takes in is not.
		h.put("/api/openapi.yaml", "openapi: 3.2.0\n")
		refreshed(t, s, r.LocationID)
		if a := s.Get("/api/catalog/entities/by-name/api/default/text"); !strings.Contains(string(a.Body), "3.2.0") {
			t.Errorf("got %s", a.Body)
		}
	})
}

func TestAnEntitySaysWhatIsWrongWithItsNewestVersion(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		r := register(s, h.put("/f.yaml", web))
		var e struct {
			Status *struct {
				Items []struct {
					Type, Level, Message string
					Error                struct{ Name, Message string }
				}
			}
		}
		h.put("/f.yaml", strings.Replace(web, "lifecycle: production", "lifecycle: 7", 1))
		refreshed(t, s, r.LocationID)
		s.Get("/api/catalog/entities/by-name/component/default/web").Is(200).Into(&e)
		if e.Status == nil || len(e.Status.Items) != 1 || e.Status.Items[0].Type != "backstage.io/catalog-processing" || e.Status.Items[0].Level != "error" ||
			e.Status.Items[0].Error.Name != "InputError" || !strings.Contains(e.Status.Items[0].Message, "spec.lifecycle") {
			t.Errorf("status is %+v", e.Status)
		}
		h.put("/f.yaml", web)
		refreshed(t, s, r.LocationID)
		e.Status = nil
		s.Get("/api/catalog/entities/by-name/component/default/web").Is(200).Into(&e)
		if e.Status != nil {
			t.Errorf("status is %+v; want none", e.Status)
		}
	})
}

func TestAnEntityMovesFromOneLocationToAnother(t *testing.T) {
	t.Parallel()
	each(t, func(c *server.Config, _ *host) {}, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		one := register(s, h.put("/one.yaml", web+"---\n"+component("rest")))
		two := register(s, h.put("/two.yaml", web))
		if len(two.Faults) != 1 {
			t.Fatalf("faults are %q", two.Faults)
		}
		uid := func() string {
			var e struct{ Metadata struct{ UID string } }
			s.Get("/api/catalog/entities/by-name/component/default/web").Is(200).Into(&e)
			return e.Metadata.UID
		}
		before := uid()
		h.put("/one.yaml", component("rest"))
		refreshed(t, s, one.LocationID)
		if l := refreshed(t, s, two.LocationID); l.Status != "ready" {
			t.Errorf("got %+v; want the second location to have it now", l)
		}
		if uid() != before {
			t.Error("it has another uid; want the same entity")
		}
		s.Do("DELETE", "/api/catalog/locations/"+one.LocationID, nil).Is(204)
		if uid() != before {
			t.Error("the first location took it along")
		}
	})
}

func TestManyLocationsAtOnce(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		var targets []string
		for i := range 200 {
			targets = append(targets, fmt.Sprintf("f%d.yaml", i))
			h.put(fmt.Sprintf("/f%d.yaml", i), component(fmt.Sprintf("c%d", i)))
		}
		register(s, h.put("/root.yaml", locationEntity("root", "{targets: ["+strings.Join(targets, ", ")+"]}")))
		var q queried
		blueprinttest.Eventually(t, "all of them are there", func() bool {
			s.Get("/api/catalog/entities/by-query?filter=kind=component&limit=0").Is(200).Into(&q)
			return q.TotalItems == 200
		})
	})
}

// statusOf is what an entity says is wrong with it.
func statusOf(s *blueprinttest.Server, ref string) (messages []string) {
	var e struct {
		Status struct{ Items []struct{ Message string } }
	}
	s.Get("/api/catalog/entities/by-name/" + strings.ReplaceAll(ref, ":", "/")).Is(200).Into(&e)
	for _, i := range e.Status.Items {
		messages = append(messages, i.Message)
	}
	return messages
}
