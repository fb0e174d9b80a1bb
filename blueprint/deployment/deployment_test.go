package deployment_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/deployment"
	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

func TestTheTableIsThatOfTheTask(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("migrations/0001_deployment.sql")
	if err != nil {
		t.Fatal(err)
	}
	if want := deployment.Task.Table(); string(text) != want {
		t.Errorf("the migration is not what the task says; it should be\n%s", want)
	}
}

const web = `
apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: web, annotations: {slipway.dev/fake-project: octo/web}}
spec: {type: website, lifecycle: production, owner: team-a}
`

func start(t *testing.T, engine store.Engine, v *fake.Vendor) *blueprinttest.Server {
	t.Helper()
	s, _ := startIn(t, engine, v)
	return s
}

// startIn also gives the folder that the server reads files of.
func startIn(t *testing.T, engine store.Engine, v *fake.Vendor) (*blueprinttest.Server, string) {
	t.Helper()
	dir := t.TempDir()
	s := blueprinttest.Start(t, engine, blueprinttest.Options{
		Blueprints: []blueprint.Blueprint{catalog.Blueprint, deployment.Blueprint, dora.Blueprint, platform.Blueprint}, Kinds: []provider.Kind{v.Kind()},
		Configure: func(c *server.Config) {
			c.Fetch.FileRoots = []string{dir}
			c.Providers = []server.ProviderConfig{{Name: "octo", Type: "fake"}}
		},
	})
	register(t, s, filepath.Join(dir, "web.yaml"), web)
	return s, dir
}

// register puts an entity into the catalog, by a file below a root that the server reads.
func register(t *testing.T, s *blueprinttest.Server, file, entity string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(entity), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Post("/api/catalog/locations", map[string]string{"type": "file", "target": file}).Is(201)
}

func TestDeploymentsAreFoundByEntity(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			v := fake.New(fake.Config{})
			v.Deploy("octo/web", slipway.Deployment{Status: slipway.DeploymentSucceeded, Version: "v1", TriggeredBy: &slipway.Person{ID: "jane"}, Commit: &slipway.Commit{SHA: "aaaa1"}})
			v.Deploy("octo/web", slipway.Deployment{Status: slipway.DeploymentFailed, Version: "v2", Environment: "staging"})
			s := start(t, engine, v)
			search := func(query string) (p deployment.Page) {
				s.Get("/api/deployment/by-entity/web/search" + query).Is(200).Into(&p)
				return p
			}
			blueprinttest.Eventually(t, "both deployments are there", func() bool { return len(search("").Items) == 2 })
			for query, want := range map[string]string{"?environment=staging": "octo:d2", "?status=succeeded": "octo:d1", "?version=v2": "octo:d2", "?triggeredBy=jane": "octo:d1", "?order=asc&limit=1": "octo:d1"} {
				if p := search(query); len(p.Items) != 1 || p.Items[0].ID != want || p.Items[0].EntityRef != "component:default/web" {
					t.Errorf("%s: got %+v, want %s", query, p.Items, want)
				}
			}
			var d slipway.Deployment
			s.Get("/api/deployment/by-entity/component:default/web/deployments/octo:d1").Is(200).Into(&d)
			if d.Version != "v1" || d.Provider.Name != "octo" || d.Commit.SHA != "aaaa1" {
				t.Errorf("got %+v", d)
			}
			var p deployment.Page
			s.Get("/api/deployment/search?owner=team-a&status=failed").Is(200).Into(&p)
			if len(p.Items) != 1 || p.Items[0].ID != "octo:d2" {
				t.Errorf("got %+v", p.Items)
			}
			s.Get("/api/deployment/by-entity/none/search").Fails(404, slipway.NotFound)
			s.Get("/api/deployment/by-entity/web/search?environment=").Fails(400, slipway.Invalid)
			s.Get("/api/deployment/by-entity/web/search?limit=101").Fails(400, slipway.Invalid)
			s.With("catalog.entity.read").Get("/api/deployment/by-entity/web/search").Fails(403, slipway.Forbidden)
		})
	}
}

func TestDeploymentsCountForMetrics(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			v := fake.New(fake.Config{})
			v.Deploy("octo/web", slipway.Deployment{Status: slipway.DeploymentSucceeded, Version: "v1"})
			s := start(t, engine, v)
			var h dora.History
			count := func(n int64) func() bool { return inHistory(s, "web", n, &h) }
			blueprinttest.Eventually(t, "what was there before is in the history", count(1))
			v.Deploy("octo/web", slipway.Deployment{Status: slipway.DeploymentRunning, Version: "v2", Environment: "prod-eu"})
			s.Get("/api/deployment/by-entity/web/search?fresh=true").Is(200)
			blueprinttest.Eventually(t, "a new one is in the history", count(2))
			if d := h.Deployments[0]; d.Status != "IN_PROGRESS" || d.Environment != "prod" || d.Source != "octo" || *d.Version != "v2" {
				t.Errorf("got %+v", d)
			}
			v.Deploy("octo/web", slipway.Deployment{ID: "d2", Status: slipway.DeploymentSucceeded, Version: "v2", Environment: "prod-eu", CreatedAt: h.Deployments[0].StartTime})
			s.Get("/api/deployment/by-entity/web/search?fresh=true").Is(200)
			blueprinttest.Eventually(t, "it counts", func() bool {
				var r dora.Report
				s.Get("/api/devlake/dora-metrics?project=web").Is(200).Into(&r)
				return r.Metrics.DeploymentFrequency.Count == 2
			})
		})
	}
}

// inHistory says whether the history of a service has so many deployments.
func inHistory(s *blueprinttest.Server, service string, n int64, h *dora.History) func() bool {
	return func() bool {
		a := s.Get("/api/devlake/deployment-history?service=" + service)
		if a.Status == http.StatusNotFound {
			return false
		}
		a.Is(200).Into(h)
		return h.Total == n
	}
}

// What a project has when it is connected comes into DORA's history as it is read, page by page, and again for an entity that is bound to the project later. No schedule is waited for: they are paused.
func TestHistoryOfANewProjectCounts(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			const old = 230 // more than two pages
			v := fake.New(fake.Config{})
			now := time.Now().UTC().Truncate(time.Second)
			for i := range old {
				v.Deploy("octo/web", slipway.Deployment{Status: slipway.DeploymentSucceeded, Version: fmt.Sprint("v", i), CreatedAt: now.Add(time.Duration(i-old-20) * time.Hour)})
			}
			s, dir := startIn(t, engine, v)
			s.Do("PUT", "/api/schedules/dora.collect/pause", nil).Is(200)
			var h dora.History
			blueprinttest.Eventually(t, "all of it is in the history", inHistory(s, "web", old, &h))
			if d := h.Deployments[0]; *d.Version != fmt.Sprint("v", old-1) || d.Source != "octo" {
				t.Errorf("got %+v", d)
			}
			register(t, s, filepath.Join(dir, "shop.yaml"), strings.Replace(web, "name: web", "name: shop", 1))
			blueprinttest.Eventually(t, "it is in the history of the other entity", inHistory(s, "shop", old, &h))
			inHistory(s, "web", old, &h)()
			if h.Total != old {
				t.Errorf("of the first, there are %d", h.Total)
			}
		})
	}
}
