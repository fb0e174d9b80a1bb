package deployment_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/deployment"
	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/kubernetes"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// What the real controllers roll out, fail to, and roll back shows by entity, and counts for DORA metrics.
func TestRolloutsOfAClusterAreDeployments(t *testing.T) {
	t.Parallel()
	kube := clustertest.Shared(t)
	kube.Controllers(t)
	deployments := cluster.Resource{Group: "apps", Version: "v1", Name: "deployments"}
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			namespace := kube.Namespace(t, "prod-")
			kube.Grant(t, "alice", namespace, deployments, cluster.Resource{Group: "apps", Version: "v1", Name: "replicasets"})
			dir := t.TempDir()
			file := filepath.Join(dir, "catalog-info.yaml")
			text := strings.Replace(web, "slipway.dev/fake-project: octo/web", "backstage.io/kubernetes-id: web, backstage.io/kubernetes-namespace: "+namespace, 1)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			s := blueprinttest.Start(t, engine, blueprinttest.Options{
				Blueprints: []blueprint.Blueprint{catalog.Blueprint, deployment.Blueprint, dora.Blueprint, platform.Blueprint}, Kinds: []provider.Kind{kubernetes.Kind},
				Configure: func(c *server.Config) {
					c.Fetch.FileRoots = []string{dir}
					c.Clusters = []cluster.Config{kube.Config("main", "alice")}
					c.Providers = []server.ProviderConfig{{Name: "main", Type: "kubernetes"}}
				},
			})
			s.Post("/api/catalog/locations", map[string]string{"type": "file", "target": file}).Is(201)
			image := func(tag string) []any {
				return []any{map[string]any{"name": "web", "image": "registry.example.com/shop/web:" + tag}}
			}
			made := kube.Create(t, deployments, namespace, cluster.Object{
				"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web", "labels": map[string]any{"backstage.io/kubernetes-id": "web"}},
				"spec": map[string]any{
					"replicas": 0, "progressDeadlineSeconds": 2, "minReadySeconds": 0, "selector": map[string]any{"matchLabels": map[string]any{"app": "web"}},
					"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": "web"}}, "spec": map[string]any{"containers": image("1.0")}},
				},
			})
			change := func(tag string, replicas int) {
				_, err := kube.Client().Patch(t.Context(), deployments, namespace, "web", cluster.Object{"spec": map[string]any{
					"replicas": replicas, "template": map[string]any{"spec": map[string]any{"containers": image(tag)}},
				}})
				if err != nil {
					t.Fatal(err)
				}
			}
			var page deployment.Page
			comes := func(n int, status slipway.DeploymentStatus) {
				t.Helper()
				clustertest.Eventually(t, "there is another deployment, "+string(status), func() bool {
					page = deployment.Page{}
					s.Get("/api/deployment/by-entity/web/search?fresh=true").Is(200).Into(&page)
					return len(page.Items) == n && page.Items[0].Status == status
				})
			}
			comes(1, slipway.DeploymentSucceeded)
			if d := page.Items[0]; d.ID != "main:web-1-"+made.UID()[:8] || d.Version != "1.0" || d.Environment != namespace || d.EntityRef != "component:default/web" {
				t.Errorf("got %+v", d)
			}
			s.Get("/api/deployment/by-entity/web/deployments/" + page.Items[0].ID).Is(200)
			change("2.0", 1)
			comes(2, slipway.DeploymentFailed)
			change("1.0", 0)
			comes(3, slipway.DeploymentSucceeded)
			if err := kube.Client().Delete(t.Context(), deployments, namespace, "web", "", ""); err != nil {
				t.Fatal(err)
			}
			comes(3, slipway.DeploymentSucceeded) // what the cluster has forgotten stays
			var h dora.History
			clustertest.Eventually(t, "they are in the history", func() bool {
				s.Get("/api/devlake/deployment-history?service=web").Is(200).Into(&h)
				return len(h.Deployments) == 3 && h.Total == 3
			})
			var got []string
			for _, d := range h.Deployments {
				got = append(got, d.Status+" "+*d.Version+" "+d.Environment)
			}
			slices.Sort(got) // Kubernetes counts in seconds, and two of them may have begun in one
			if want := "FAILURE 2.0 prod|SUCCESS 1.0 prod|SUCCESS 1.0 prod"; strings.Join(got, "|") != want {
				t.Errorf("got %q, want %q", got, want)
			}
			clustertest.Eventually(t, "those that went well count", func() bool {
				var r dora.Report
				s.Get("/api/devlake/dora-metrics?project=web").Is(200).Into(&r)
				return r.Metrics.DeploymentFrequency.Count == 2
			})
		})
	}
}
