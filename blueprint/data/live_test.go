package data_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// An entity's builds are found by nothing but documents: a location brings the entity, a provider the builds, without a restart.
func TestALocationAndAProviderThatAreWrittenBringBuilds(t *testing.T) {
	t.Parallel()
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			write := func(name, entity string) string {
				t.Helper()
				path := filepath.Join(folder, name)
				text := fmt.Sprintf("apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: %s, annotations: {%s: octo/hello}}\nspec: {type: service, lifecycle: production, owner: team-a}\n", entity, fake.Annotation)
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			first, second, third := write("first.yaml", "web"), write("second.yaml", "api"), write("third.yaml", "third")
			vendor := fake.New(fake.Config{})
			vendor.Add("octo/hello", slipway.Build{CreatedAt: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), Status: slipway.BuildSucceeded})
			s := blueprinttest.Start(t, e, blueprinttest.Options{
				Kinds: []provider.Kind{vendor.Kind()}, Blueprints: []blueprint.Blueprint{catalog.Blueprint, data.Blueprint, build.Blueprint},
				Configure: func(c *server.Config) {
					c.Fetch.FileRoots = []string{folder}
					c.Sections["catalog"].(*catalog.Config).Locations = []catalog.Place{{Type: "file", Target: write("fixed.yaml", "fixed")}}
				},
			})
			s.Post("/data", []doc{{"kind": "locations", "id": "shop", "type": "file", "target": first}, {"kind": "providers", "id": "ci", "type": "fake"}}).Is(200)
			before := s.Get("/data/locations/shop").Is(200)
			blueprinttest.Eventually(t, "the build is found", func() bool {
				a := s.Get("/api/build/by-entity/component:default/web/search")
				return a.Status == 200 && strings.Contains(string(a.Body), `"provider":{"name":"ci"`)
			})

			// A location reads as it was written, beside how it stands, and may be sent back so.
			blueprinttest.Eventually(t, "it is read", func() bool { return documentOf(t, s.Get("/data/locations/shop").Is(200))["status"] == "ready" })
			shop := documentOf(t, s.Get("/data/locations/shop"))
			s.Do("PUT", "/data/locations/shop", shop).Is(200)
			var list struct{ Data []doc }
			s.Get("/api/catalog/locations/shop").Is(200)
			blueprinttest.Eventually(t, "the configured one is listed", func() bool { return len(s.Get("/data/locations").Is(200).Into(&list).Body) > 0 && len(list.Data) == 2 })
			i := slices.IndexFunc(list.Data, func(d doc) bool { return d["origin"] == "config" })
			if i < 0 {
				t.Fatalf("got %v, want the configured one too", list.Data)
			}
			refused(t, s.Do("DELETE", "/data/locations/"+list.Data[i]["id"].(string), nil), 409, slipway.Conflict)

			// What Slipway found out about it is news to a reader, and no change that a writer must know of.
			tag := before.Header.Get("ETag")
			if documentOf(t, before)["status"] != "ready" {
				s.Get("/data/locations/shop", "If-None-Match", tag).Is(200)
			}
			s.Do("PUT", "/data/locations/shop", doc{"type": "file", "target": first}, "If-Match", tag).Is(200)
			s.Do("PATCH", "/data/locations/shop", doc{"target": second}, "If-Match", `"other"`).Is(412)
			// Of two that change it at once, both knowing the same, one is told.
			var answers [2]int
			var wg sync.WaitGroup
			for i := range answers {
				wg.Go(func() {
					answers[i] = s.Do("PATCH", "/data/locations/shop", doc{"target": []string{second, third}[i]}, "If-Match", tag).Status
				})
			}
			wg.Wait()
			if slices.Sort(answers[:]); answers != [2]int{200, 412} {
				t.Errorf("got %v, want one change and one that comes too late", answers)
			}
			s.Do("DELETE", "/data/locations/shop", nil, "If-Match", tag).Is(412)

			// Another target brings other entities.
			s.Do("PATCH", "/data/locations/shop", doc{"target": second}).Is(200)
			blueprinttest.Eventually(t, "the other file is read", func() bool {
				return s.Get("/api/catalog/entities/by-name/component/default/api").Status == 200
			})
			for body, field := range map[string]string{
				`{"id":"same","type":"file","target":"` + second + `"}`:                         "/target",
				`{"id":"known","type":"url","target":"https://u:p@git.example.com/shop.yaml"}`:  "/target",
				`{"id":"odd","type":"ftp","target":"x"}`:                                        "/type",
				`{"id":"more","type":"file","target":"` + first + `","labels":{"team":"shop"}}`: "/labels",
			} {
				if _, fields := refused(t, s.Post("/data/locations", body), 422, slipway.Invalid); !slices.Contains(fields, field) {
					t.Errorf("%s: got faults at %v, want %s", body, fields, field)
				}
			}
			refused(t, s.With("catalog.location.read").Post("/data/locations", doc{"type": "file", "target": first}), 403, slipway.Forbidden)
			s.Post("/data/locations", doc{"id": "outside", "type": "file", "target": "/etc/passwd"}).Is(201)
			blueprinttest.Eventually(t, "what lies outside is not read", func() bool { return documentOf(t, s.Get("/data/locations/outside"))["status"] == "failed" })
			s.Do("DELETE", "/data/locations/shop", nil).Is(204)
			s.Get("/data/locations/shop").Is(404)
			blueprinttest.Eventually(t, "its entities are gone", func() bool {
				return s.Get("/api/catalog/entities/by-name/component/default/api").Status == 404
			})
			s.Get("/data/locations/%00").Is(404)
			s.Do("DELETE", "/data/locations/%00", nil).Is(404)
			s.Get("/data/credentials/%ff").Is(404)
		})
	}
}
