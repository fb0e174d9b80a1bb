package kubernetes

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

// vendor is a real API server. Where the controllers do not run the test moves Deployments as they would.
type vendor struct {
	*clustertest.Server
	user      string
	revoke    func(testing.TB)
	proxy     *clustertest.Proxy
	namespace string

	mu sync.Mutex
	n  int
}

func newVendor(t *testing.T) *vendor {
	t.Helper()
	return vendorOn(t, clustertest.Shared(t))
}

func vendorOn(t *testing.T, s *clustertest.Server) *vendor {
	t.Helper()
	v := &vendor{Server: s, user: strings.ToLower("user-" + rand.Text()[:10]), namespace: s.Namespace(t, "shop-")}
	v.revoke = s.GrantAll(t, v.user)
	v.proxy = s.Proxy(t, v.user)
	return v
}

// open opens the provider, which reaches the cluster through the proxy.
func (v *vendor) open(t testing.TB, config map[string]any) *client {
	t.Helper()
	env := provider.Env{Cluster: cluster.New([]cluster.Config{{Name: "main", Kubeconfig: v.proxy.Kubeconfig}}).Get}
	c, err := newClient(providertest.Config[Config](t, map[string]any{}, config), env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.close() })
	return c
}

func (v *vendor) project() string { return v.namespace + "/app=web" }

// object is a Deployment that the API server takes.
func object(name, image string, more map[string]any) cluster.Object {
	labels := map[string]any{"app": "web"}
	o := cluster.Object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": name, "labels": labels},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"name": name}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"name": name}},
				"spec":     map[string]any{"automountServiceAccountToken": false, "containers": []any{map[string]any{"name": "web", "image": image}}},
			},
		},
	}
	for k, x := range more {
		o["spec"].(map[string]any)[k] = x
	}
	return o
}

// state is the status of a Deployment's newest rollout, as the controller writes it.
func state(status slipway.DeploymentStatus, at time.Time) map[string]any {
	condition := map[slipway.DeploymentStatus][2]string{
		slipway.DeploymentRunning: {"True", "ReplicaSetUpdated"}, slipway.DeploymentSucceeded: {"True", "NewReplicaSetAvailable"}, slipway.DeploymentFailed: {"False", "ProgressDeadlineExceeded"},
	}[status]
	s := map[string]any{
		"observedGeneration": int64(1), "replicas": int64(1), "updatedReplicas": int64(1),
		"conditions": []any{map[string]any{
			"type": "Progressing", "status": condition[0], "reason": condition[1], "message": "ReplicaSet \"web-1\" has…", "lastUpdateTime": at.UTC().Format(time.RFC3339), "lastTransitionTime": at.UTC().Format(time.RFC3339),
		}},
	}
	return s
}

// deploy makes a Deployment with one rollout, which stands as asked.
func (v *vendor) deploy(t testing.TB, d slipway.Deployment) (name string, uid string) {
	t.Helper()
	v.mu.Lock()
	v.n++
	name = fmt.Sprintf("web-%d", v.n)
	v.mu.Unlock()
	o := object(name, "registry.example.com/shop/web:1.2.3", nil)
	o.Set(d.Environment, "metadata", "labels", "environment")
	o.Set("1", "metadata", "annotations", revisionAnnotation)
	made := v.Create(t, deployments, v.namespace, o)
	v.set(t, made, name+"-5d9f", 1, "")
	if _, err := v.Client().PatchStatus(t.Context(), deployments, v.namespace, name, cluster.Object{"status": state(d.Status, time.Now())}); err != nil {
		t.Fatal(err)
	}
	return name, made.UID()
}

// set makes a ReplicaSet of a Deployment.
func (v *vendor) set(t testing.TB, of cluster.Object, name string, revision int, image string) cluster.Object {
	t.Helper()
	spec := of.Clone()["spec"].(map[string]any)
	o := cluster.Object{
		"apiVersion": "apps/v1", "kind": "ReplicaSet", "spec": map[string]any{"selector": spec["selector"], "template": spec["template"]},
		"metadata": map[string]any{
			"name": name, "annotations": map[string]any{revisionAnnotation: fmt.Sprint(revision)},
			"ownerReferences": []any{map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": of.Name(), "uid": of.UID(), "controller": true}},
		},
	}
	if image != "" {
		o.Set([]any{map[string]any{"name": "web", "image": image}}, "spec", "template", "spec", "containers")
	}
	return v.Create(t, replicaSets, v.namespace, o)
}

// harness has the provider see what is made before the suite asks for it, and what fails before the suite looks: a watch that is open goes on whatever becomes of new calls.
func harness(t *testing.T, v *vendor) providertest.Harness {
	c := v.open(t, map[string]any{"namespace": v.namespace, "environment": "{label:environment}", "url": "https://dashboard.example.com/#/deployment/{namespace}/{name}"})
	fails := func(t testing.TB, how func(testing.TB), code slipway.Code) {
		t.Helper()
		how(t)
		v.proxy.Cut()
		clustertest.Eventually(t, "the watch has noticed", func() bool {
			_, err := c.list(t.Context(), v.project(), provider.ListOptions{})
			return errors.Is(err, code)
		})
	}
	return providertest.Harness{
		Provider: c.Provider(), Project: v.project(), Missing: "no-such-namespace/app=web",
		Entity: slipway.Entity{Kind: "Component", Metadata: slipway.EntityMetadata{Name: "web", Annotations: map[string]string{
			provider.KubernetesNamespace: v.namespace, provider.KubernetesSelector: "app==web",
		}}},
		Deploys: []slipway.DeploymentStatus{slipway.DeploymentRunning, slipway.DeploymentSucceeded, slipway.DeploymentFailed},
		Deploy: func(t testing.TB, d slipway.Deployment) string {
			name, uid := v.deploy(t, d)
			id := fmt.Sprintf("%s-1-%.8s", name, uid)
			clustertest.Eventually(t, id+" is seen", func() bool {
				got, err := c.get(t.Context(), v.project(), id)
				return err == nil && got.Status == d.Status
			})
			return id
		},
		Down:   func(t testing.TB) { fails(t, func(testing.TB) { v.proxy.Close() }, slipway.Unavailable) },
		Hang:   func(t testing.TB) { fails(t, v.proxy.Hang, slipway.Unavailable) },
		Limit:  func(t testing.TB) { fails(t, func(testing.TB) { v.proxy.Limit("7") }, slipway.RateLimited) },
		Refuse: func(t testing.TB) { fails(t, v.revoke, slipway.Forbidden) },
	}
}
