package deployment_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/deployment"
	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/argocd"
	"github.com/slipway-platform/slipway/provider/providertest"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// A sync is told by a notification, fails, is followed by one that goes well, and is forgotten by Argo CD: all of them stay, and count for DORA metrics.
func TestNotificationsOfArgoCDShowSyncs(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			var operation atomic.Value // phase of the only sync, and how many minutes ago it began
			type state struct {
				phase string
				begun int
			}
			operation.Store(state{})
			now := time.Now().UTC()
			argo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := operation.Load().(state)
				at := func(seconds int) string {
					return now.Add(time.Duration(seconds)*time.Second - time.Duration(s.begun)*time.Minute).Format(time.RFC3339)
				}
				app := map[string]any{"metadata": map[string]any{"name": "web-prod", "namespace": "argocd"}, "spec": map[string]any{"destination": map[string]any{"namespace": "shop"}}}
				if s.phase != "" {
					app["status"] = map[string]any{"operationState": map[string]any{
						"phase": s.phase, "startedAt": at(0), "finishedAt": at(30), "message": "one object failed to apply",
						"operation": map[string]any{"initiatedBy": map[string]any{"username": "jane"}, "sync": map[string]any{"revision": "a84d88e7554fc1fa21bcbc4efae3c782a70d2b9d"}},
					}}
				}
				if strings.Contains(r.URL.Path, "/revisions/") {
					providertest.Answer(w, http.StatusInternalServerError, map[string]any{"error": "unable to resolve"})
					return
				}
				providertest.Answer(w, http.StatusOK, app)
			}))
			t.Cleanup(argo.Close)
			dir := t.TempDir()
			file := filepath.Join(dir, "catalog-info.yaml")
			if err := os.WriteFile(file, []byte(strings.Replace(web, "slipway.dev/fake-project: octo/web", "argocd/app-name: web-prod", 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			s := blueprinttest.Start(t, engine, blueprinttest.Options{
				Blueprints: []blueprint.Blueprint{build.Blueprint, catalog.Blueprint, deployment.Blueprint, dora.Blueprint, platform.Blueprint}, Kinds: []provider.Kind{argocd.Kind},
				Configure: func(c *server.Config) {
					c.Fetch.FileRoots, c.Fetch.Allow = []string{dir}, append(c.Fetch.Allow, argo.URL+"/*")
					c.Providers = []server.ProviderConfig{{Name: "argo", Type: "argocd", Rest: map[string]any{"url": argo.URL, "webhookSecret": "hush", "interval": "1h"}}}
				},
			})
			s.Post("/api/catalog/locations", map[string]string{"type": "file", "target": file}).Is(201)
			var page deployment.Page
			search := func() {
				page = deployment.Page{}
				s.Get("/api/deployment/by-entity/web/search").Is(200).Into(&page)
			}
			blueprinttest.Eventually(t, "the application was looked at", func() bool {
				search()
				return len(page.Sources) == 1 && page.Sources[0].State == slipway.SourceFresh
			})
			notify := func(secret string) int {
				t.Helper()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/hooks/argo", strings.NewReader(`{"application": "web-prod", "appNamespace": "argocd", "project": "default"}`))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+secret)
				req.Header.Set("Content-Type", "application/json")
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
				return res.StatusCode
			}
			if got := notify("wrong"); got != http.StatusUnauthorized {
				t.Errorf("a wrong secret: got %d", got)
			}
			for i, st := range []state{{"Running", 20}, {"Failed", 20}, {"Succeeded", 10}} {
				operation.Store(st)
				if got := notify("hush"); got != http.StatusAccepted {
					t.Fatalf("got %d", got)
				}
				blueprinttest.Eventually(t, st.phase+" is seen", func() bool {
					search()
					return len(page.Items) == 1+i/2 && strings.HasPrefix(page.Items[0].Detail, st.phase)
				})
			}
			if first := page.Items[1]; first.Status != slipway.DeploymentFailed || first.Environment != "prod" || first.Detail != "Failed: one object failed to apply" || *first.DurationSeconds != 30 {
				t.Errorf("got %+v", first)
			}
			blueprinttest.Eventually(t, "both are in the history", func() bool {
				var h dora.History
				a := s.Get("/api/devlake/deployment-history?service=web")
				if a.Status != http.StatusOK {
					return false
				}
				a.Into(&h)
				return len(h.Deployments) == 2 && h.Deployments[0].Status == "SUCCESS" && h.Deployments[1].Status == "FAILURE" && h.Deployments[1].Source == "argo"
			})
		})
	}
}
