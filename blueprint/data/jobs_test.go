package data_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

func TestJobsAndTheirRunsAreReadAsFarAsOneMay(t *testing.T) {
	t.Parallel()
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			vendor := fake.New(fake.Config{})
			const job = "shop/group/web"
			for i := range 5 {
				vendor.Add(job, slipway.Build{CreatedAt: time.Date(2026, 5, 1, i, 0, 0, 0, time.UTC), Status: slipway.BuildSucceeded})
			}
			var host *blueprint.Host
			s := blueprinttest.Start(t, e, blueprinttest.Options{
				Kinds: []provider.Kind{vendor.Kind()},
				Blueprints: []blueprint.Blueprint{data.Blueprint, build.Blueprint, {
					Name: "catalog", Version: "0.0.1", Summary: "Lets the test into the host.", Stability: blueprint.Experimental,
					Databases:   []blueprint.Database{{Name: "main"}},
					Permissions: []auth.Permission{{Name: entity.ReadPermission, Text: "See an entity", Object: "entity"}},
					Open:        func(_ context.Context, h *blueprint.Host) (any, error) { host = h; return h, nil },
				}},
				Configure: func(c *server.Config) {
					c.Providers = []server.ProviderConfig{{Name: "ci", Type: "fake"}, {Name: "other", Type: "fake"}}
				},
			})
			web := &slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Spec: map[string]any{"type": "service", "lifecycle": "production", "owner": "team"},
				Metadata: slipway.EntityMetadata{Name: "web", Namespace: "default", Annotations: map[string]string{fake.Annotation: job}}}
			if err := host.DB("main").Write(t.Context(), func(tx *store.Tx) error {
				_, err := host.Entities.Put(t.Context(), tx, "test", []*slipway.Entity{web})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			type answer struct {
				Data     []struct{ ID, Name, Job, Status, CreatedAt string }
				PageInfo slipway.PageInfo
			}
			read := func(c *blueprinttest.Client, path string) (a answer) {
				t.Helper()
				c.Get(path).Is(200).Into(&a)
				return a
			}
			reader := s.With("catalog.entity.read:component:default/web", "build.run.read:component:default/web")
			stranger := s.With("catalog.entity.read:component:default/web", "build.run.read:component:default/other")
			blueprinttest.Eventually(t, "the job is read", func() bool { return len(read(reader, "/data/job/"+job+"/runs").Data) == 10 })
			both := "04 04 03 03 02 02 01 01 00 00 " // of two providers that have a project of that name
			for name, want := range map[string]string{job: both, "shop%2Fgroup%2Fweb": both, "ci:" + job: "04 03 02 01 00 "} {
				var seen string
				ids := map[string]bool{}
				for cursor := ""; ; {
					page := read(reader, "/data/job/"+name+"/runs?limit=3"+cursor) // also between two of the same moment
					for _, r := range page.Data {
						if ids[r.ID] {
							t.Errorf("%s: %s comes twice", name, r.ID)
						}
						ids[r.ID] = true
						if r.Job != job || r.Status != "succeeded" {
							t.Errorf("got %+v", r)
						}
						seen += r.CreatedAt[11:13] + " "
					}
					if !page.PageInfo.HasMore {
						break
					}
					cursor = "&cursor=" + page.PageInfo.NextCursor
				}
				if seen != want {
					t.Errorf("%s: got the hours %s, want the newest first, each once", name, seen)
				}
			}
			if got := read(reader, "/data/jobs").Data; len(got) != 2 || got[0].ID != "ci:"+job || got[0].Name != job || got[1].ID != "other:"+job {
				t.Errorf("got the jobs %+v", got)
			}
			reader.Get("/data/jobs/ci:shop%2Fgroup%2Fweb").Is(200)
			for what, n := range map[string]int{"jobs": len(read(stranger, "/data/jobs").Data), "runs": len(read(stranger, "/data/job/"+job+"/runs").Data)} {
				if n != 0 {
					t.Error(fmt.Sprint("a stranger sees ", n, " ", what))
				}
			}
			stranger.Get("/data/jobs/ci:shop%2Fgroup%2Fweb").Is(404)
		})
	}
}
