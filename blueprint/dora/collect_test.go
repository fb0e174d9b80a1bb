package dora_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

func TestBuildsThatARuleNamesAreDeployments(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "catalog-info.yaml")
			text := "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: web, annotations: {slipway.dev/fake-project: octo/web}}\nspec: {type: website, lifecycle: production, owner: team-a}\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			v := fake.New(fake.Config{WebhookSecret: "hush"})
			long := v.Add("octo/web", slipway.Build{
				Pipeline: slipway.Pipeline{ID: "deploy-prod", Name: "deploy-prod"}, Status: slipway.BuildRunning, CreatedAt: time.Now().AddDate(0, 0, -40), Commit: &slipway.Commit{SHA: "fedcba9876543210", Branch: "main"},
			})
			v.Move("octo/web", long.ID, slipway.BuildSucceeded)
			s := blueprinttest.Start(t, engine, blueprinttest.Options{
				Blueprints: []blueprint.Blueprint{build.Blueprint, catalog.Blueprint, dora.Blueprint}, Kinds: []provider.Kind{v.Kind()},
				Configure: func(c *server.Config) {
					c.Fetch.FileRoots, c.Providers = []string{dir}, []server.ProviderConfig{{Name: "ci", Type: "fake"}}
					c.Sections["dora"].(*dora.Config).Builds = []dora.BuildRule{{Pipeline: "^deploy-", Branch: "^(main|v.*)$"}}
				},
			})
			s.Post("/api/catalog/locations", m{"type": "file", "target": file}).Is(201)
			blueprinttest.Eventually(t, "the project is known", func() bool {
				var p build.Page
				if a := s.Get("/api/build/by-entity/web/search?fresh=true"); a.Status == 200 {
					a.Into(&p)
				}
				return len(p.Sources) == 1 && p.Sources[0].State == slipway.SourceFresh && p.Sources[0].AsOf != nil
			})
			made := func(pipeline, branch string, status slipway.BuildStatus) {
				b := v.Add("octo/web", slipway.Build{
					Pipeline: slipway.Pipeline{ID: pipeline, Name: pipeline}, Status: slipway.BuildRunning, CreatedAt: time.Now().Add(-time.Minute),
					Commit: &slipway.Commit{SHA: "0123456789abcdef", Branch: branch}, TriggeredBy: &slipway.Person{ID: "jane", Name: "Jane"},
				})
				v.Move("octo/web", b.ID, status)
				h, raw := v.Notification("octo/web", b.ID)
				var pairs []string
				for name := range h {
					pairs = append(pairs, name, h.Get(name))
				}
				s.As("").Do("POST", "/hooks/ci", raw, pairs...).Is(202)
			}
			made("test", "main", slipway.BuildSucceeded)
			made("deploy-prod", "feature", slipway.BuildSucceeded)
			made("deploy-prod", "v1.2.3", slipway.BuildSucceeded)
			made("deploy-staging", "main", slipway.BuildFailed)
			var h dora.History
			blueprinttest.Eventually(t, "two builds are deployments, and one that was there before, long ago", func() bool {
				if a := s.Get("/api/devlake/deployment-history?service=web"); a.Status == 200 {
					a.Into(&h)
				}
				return h.Total == 3 && len(h.Deployments) == 3
			})
			if d := h.Deployments[2]; *d.Version != "fedcba9" || d.Environment != "prod" {
				t.Errorf("got %+v", d)
			}
			h.Deployments = h.Deployments[:2]
			byEnv := map[string]dora.Deployment{}
			for _, d := range h.Deployments {
				byEnv[d.Environment] = d
			}
			if d := byEnv["prod"]; d.Status != "SUCCESS" || d.Source != "ci" || *d.TriggeredBy != "Jane" || d.OriginalEnvironment != "deploy-prod" {
				t.Errorf("got %+v", d)
			}
			if d := byEnv["staging"]; d.Status != "FAILURE" || *d.Version != "0123456" {
				t.Errorf("got %+v", d)
			}
		})
	}
}
