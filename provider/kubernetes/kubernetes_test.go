package kubernetes

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.Run(t, func(t *testing.T) providertest.Harness { return harness(t, newVendor(t)) })
}

// A payload is what the API server told of one Deployment and its ReplicaSets, one state after the other.
func TestRolloutsAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	env := provider.Env{Cluster: cluster.New([]cluster.Config{{Name: "prod", Kubeconfig: "x"}}).Get}
	c, err := newClient(providertest.Config[Config](t, map[string]any{"url": "https://dashboard.example.com/#/deployment/{namespace}/{name}"}, nil), env)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.close() }()
	now := time.Date(2026, 5, 4, 12, 30, 0, 0, time.UTC)
	providertest.Golden(t, "testdata/rollouts", func(payload []byte) (any, error) {
		var file struct {
			States      []json.RawMessage
			ReplicaSets []json.RawMessage
		}
		if err := json.Unmarshal(payload, &file); err != nil {
			return nil, err
		}
		var w workload
		for _, raw := range file.States {
			o, err := cluster.ParseObject(raw)
			if err != nil {
				return nil, err
			}
			w = w.next(o, now)
		}
		var sets []replicaSet
		for _, raw := range file.ReplicaSets {
			o, err := cluster.ParseObject(raw)
			if err != nil {
				return nil, err
			}
			if s := readSet(o, c.cfg.Commit); s.owner == w.uid {
				sets = append(sets, s)
			}
		}
		list := []slipway.Deployment{}
		for _, r := range w.rollouts(sets) {
			list = append(list, c.deployment(w, r, "shop"))
		}
		return list, nil
	})
}

func FuzzRollout(f *testing.F) {
	f.Add([]byte(`{"metadata":{"uid":"a","annotations":{"deployment.kubernetes.io/revision":"3"}},"status":{"conditions":[{"type":"Progressing","reason":"NewReplicaSetAvailable"}]}}`),
		[]byte(`{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3","deployment.kubernetes.io/revision-history":"1,,2,99999999999999999999"},"ownerReferences":[{"kind":"Deployment","controller":true,"uid":"a"}]},"spec":{"template":{"spec":{"containers":[{"image":"a@:"}]}}}}`))
	f.Fuzz(func(t *testing.T, deployment, set []byte) {
		d, err1 := cluster.ParseObject(deployment)
		s, err2 := cluster.ParseObject(set)
		if err1 != nil || err2 != nil {
			return
		}
		w := workload{}.next(d, time.Unix(1, 0))
		for _, r := range w.next(d, time.Unix(2, 0)).rollouts([]replicaSet{readSet(s, "x")}) {
			if r.status == "" || r.detail == "" || r.status.Finished() && r.end.Before(r.start) {
				t.Errorf("got %+v", r)
			}
		}
	})
}

func TestEntitiesSayWhichDeploymentsAreTheirs(t *testing.T) {
	t.Parallel()
	k, err := cluster.New([]cluster.Config{{Name: "prod", Kubeconfig: "x"}}).Get("")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what        string
		namespace   string // of the provider
		annotations map[string]string
		want        string
	}{
		{"no annotation", "", nil, ""},
		{"an id", "", map[string]string{provider.KubernetesID: "web", provider.KubernetesNamespace: "shop"}, "shop/backstage.io/kubernetes-id=web"},
		{"a selector counts more", "", map[string]string{provider.KubernetesID: "web", provider.KubernetesSelector: "app=web", provider.KubernetesNamespace: "shop"}, "shop/app=web"},
		{"all namespaces", "", map[string]string{provider.KubernetesID: "web"}, "*/backstage.io/kubernetes-id=web"},
		{"the provider's namespace", "shop", map[string]string{provider.KubernetesID: "web"}, "shop/backstage.io/kubernetes-id=web"},
		{"another cluster", "", map[string]string{provider.KubernetesID: "web", provider.KubernetesCluster: "test"}, ""},
		{"a namespace alone", "", map[string]string{provider.KubernetesNamespace: "shop"}, ""},
		{"a hostile namespace", "", map[string]string{provider.KubernetesID: "web", provider.KubernetesNamespace: "../x"}, ""},
	} {
		c := &client{cfg: Config{Namespace: test.namespace}, kube: k}
		e := slipway.Entity{Kind: "Component", Metadata: slipway.EntityMetadata{Name: "web", Annotations: test.annotations}}
		if got := strings.Join(c.projects(&e), "|"); got != test.want {
			t.Errorf("%s: got %q, want %q", test.what, got, test.want)
		}
	}
}

func TestFaultsOfTheConfigAreToldTogether(t *testing.T) {
	t.Parallel()
	clusters := cluster.New([]cluster.Config{{Name: "prod", Kubeconfig: "x"}})
	_, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"dashboard/{name}","namespace":"A B","tokn":"x","environment":"{env}"}`), provider.Env{Cluster: clusters.Get})
	e, ok := errors.AsType[*slipway.Error](err)
	if !ok || e.Code != slipway.Invalid {
		t.Fatal(err)
	}
	var fields []string
	for _, d := range e.Details {
		fields = append(fields, d.Field)
	}
	slices.Sort(fields)
	if got := strings.Join(fields, " "); got != "environment namespace tokn url" {
		t.Errorf("got faults in %s: %v", got, err)
	}
	if _, err := Kind.Open(t.Context(), nil, provider.Env{}); !errors.Is(err, slipway.Unsupported) {
		t.Errorf("no cluster: %v", err)
	}
	p, err := Kind.Open(t.Context(), nil, provider.Env{Cluster: clusters.Get})
	if err != nil || p.Interval != 10*time.Second || p.Close() != nil {
		t.Errorf("got %+v, %v", p, err)
	}
}

// The real controllers roll out, fail, roll back: what they write is what is read here.
func TestRolloutsOfTheRealController(t *testing.T) {
	t.Parallel()
	v := vendorOn(t, clustertest.New(t)) // the other tests play the controllers themselves
	v.Controllers(t)
	c := v.open(t, map[string]any{"environment": "{label:tier}"})
	if _, err := v.Client().Patch(t.Context(), cluster.Namespaces, "", v.namespace, cluster.Object{"metadata": map[string]any{"labels": map[string]any{"tier": "production"}}}); err != nil {
		t.Fatal(err)
	}
	var list []slipway.Deployment // the newest first
	comes := func(what string, n int, status slipway.DeploymentStatus) {
		t.Helper()
		clustertest.Eventually(t, what, func() bool {
			page, err := c.list(t.Context(), v.project(), provider.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			list = page.Items
			return len(list) == n && list[0].Status == status
		})
	}
	if page, err := c.list(t.Context(), v.project(), provider.ListOptions{}); err != nil || len(page.Items) > 0 {
		t.Fatalf("got %+v, %v", page, err)
	}
	change := func(image string, replicas int, why string) {
		t.Helper()
		_, err := v.Client().Patch(t.Context(), deployments, v.namespace, "web", cluster.Object{
			"metadata": map[string]any{"annotations": map[string]any{causeAnnotation: why}},
			"spec":     map[string]any{"replicas": replicas, "template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "web", "image": image}}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	v.Create(t, deployments, v.namespace, object("web", "registry.example.com/shop/web:1.0", map[string]any{"replicas": 0, "progressDeadlineSeconds": 2, "minReadySeconds": 0}))
	comes("the first rollout is over", 1, slipway.DeploymentSucceeded)
	if d := list[0]; d.Version != "1.0" || d.Environment != "production" || d.StartedAt == nil || d.FinishedAt == nil || d.TriggeredBy == nil || !strings.HasPrefix(d.ID, "web-1-") {
		t.Errorf("got %+v", d)
	}
	change("registry.example.com/shop/web:2.0", 1, "web 2.0") // no node takes its pod
	comes("the second rollout is seen", 2, slipway.DeploymentRunning)
	comes("the second rollout is late", 2, slipway.DeploymentFailed)
	if d := list[0]; d.Version != "2.0" || !strings.HasPrefix(d.Detail, "ProgressDeadlineExceeded") || !strings.HasSuffix(d.Detail, "; web 2.0") || d.FinishedAt.Before(*d.StartedAt) {
		t.Errorf("got %+v", d)
	}
	change("registry.example.com/shop/web:1.0", 0, "back to 1.0")
	comes("the rollback is the third rollout", 3, slipway.DeploymentSucceeded)
	if d := list[0]; d.Version != "1.0" || !strings.HasPrefix(d.ID, "web-3-") || d.CreatedAt.Before(list[1].CreatedAt) || !strings.HasSuffix(d.Detail, "; back to 1.0") {
		t.Errorf("got %+v", d)
	}
	if first := list[2]; first.Status != slipway.DeploymentSucceeded || first.Version != "1.0" || list[1].Status != slipway.DeploymentFailed {
		t.Errorf("got %+v", list)
	}
	// Who comes only now sees what there is, and not how old ones went.
	late := v.open(t, nil)
	page, err := late.list(t.Context(), v.project(), provider.ListOptions{})
	if err != nil || len(page.Items) != 3 {
		t.Fatalf("got %+v, %v", page, err)
	}
	for i, want := range []slipway.DeploymentStatus{slipway.DeploymentSucceeded, slipway.DeploymentUnknown, slipway.DeploymentUnknown} {
		if d := page.Items[i]; d.Status != want || d.ID != list[i].ID || d.FinishedAt == nil {
			t.Errorf("%d: got %+v, want %s", i, d, want)
		}
	}
	if err := v.Client().Delete(t.Context(), deployments, v.namespace, "web", "", ""); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "what is deleted is gone", func() bool {
		_, err := c.get(t.Context(), v.project(), list[0].ID)
		return errors.Is(err, slipway.NotFound)
	})
}

func TestARolloutThatAnotherTakesThePlaceOfIsCanceled(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.open(t, nil)
	name, uid := v.deploy(t, slipway.Deployment{Status: slipway.DeploymentRunning})
	first := name + "-1-" + uid[:8]
	clustertest.Eventually(t, "it runs", func() bool {
		d, err := c.get(t.Context(), v.project(), first)
		return err == nil && d.Status == slipway.DeploymentRunning
	})
	o, err := v.Client().Patch(t.Context(), deployments, v.namespace, name, cluster.Object{"metadata": map[string]any{"annotations": map[string]any{revisionAnnotation: "2"}}})
	if err != nil {
		t.Fatal(err)
	}
	v.set(t, o, name+"-7c4d", 2, "registry.example.com/shop/web:0f886c7")
	clustertest.Eventually(t, "it is canceled", func() bool {
		d, err := c.get(t.Context(), v.project(), first)
		return err == nil && d.Status == slipway.DeploymentCanceled && d.Detail == "superseded by revision 2" && d.FinishedAt != nil
	})
	clustertest.Eventually(t, "the second is seen", func() bool {
		d, err := c.get(t.Context(), v.project(), name+"-2-"+uid[:8])
		return err == nil && d.Commit != nil && d.Commit.SHA == "0f886c7"
	})
}

func TestAllNamespacesAreWatchedWhereNoneIsNamed(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.open(t, nil)
	name, uid := v.deploy(t, slipway.Deployment{Status: slipway.DeploymentSucceeded})
	id := name + "-1-" + uid[:8]
	clustertest.Eventually(t, "it is seen", func() bool {
		d, err := c.get(t.Context(), "*/app=web", id)
		return err == nil && d.Environment == v.namespace && strings.Contains(d.URL, "/apis/apps/v1/namespaces/"+v.namespace+"/deployments/"+name)
	})
}

// The role that operators are given is enough, and no more than what it says.
func TestTheShippedRoleIsEnough(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.Apply(t, "../../deploy/rollouts.yaml")
	v.revoke(t)
	c := v.open(t, map[string]any{"environment": "{label:environment}"})
	in, err := c.inspect(t.Context(), v.project())
	if err != nil || in.Account != v.user || len(in.Lacks) != 5 || !strings.Contains(in.Lacks[0], "may not list Deployments in namespace "+v.namespace) {
		t.Errorf("got %+v, %v; want that all is missing", in, err)
	}
	if _, err := c.list(t.Context(), v.project(), provider.ListOptions{}); !errors.Is(err, slipway.Forbidden) {
		t.Errorf("without the role: got %v, want forbidden", err)
	}
	v.Create(t, cluster.Resource{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "rolebindings"}, v.namespace, cluster.Object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "slipway-rollouts"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "slipway-rollouts"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": v.user}},
	})
	clustertest.Eventually(t, "the role is known", func() bool {
		in, err := c.inspect(t.Context(), v.project())
		return err == nil && len(in.Lacks) == 0
	})
	v.deploy(t, slipway.Deployment{Status: slipway.DeploymentSucceeded})
	clustertest.Eventually(t, "the rollout is seen", func() bool {
		page, err := c.list(t.Context(), v.project(), provider.ListOptions{})
		return err == nil && len(page.Items) == 1 && page.Items[0].Status == slipway.DeploymentSucceeded
	})
	for _, r := range []cluster.Resource{{Version: "v1", Name: "secrets"}, cluster.Pods} {
		if _, err := c.kube.List(t.Context(), r, v.namespace, cluster.ListOptions{}); !errors.Is(err, slipway.Forbidden) {
			t.Errorf("%s: got %v, want forbidden", r, err)
		}
	}
	if _, err := c.kube.Patch(t.Context(), deployments, v.namespace, "web-1", cluster.Object{}); !errors.Is(err, slipway.Forbidden) {
		t.Errorf("a change: got %v, want forbidden", err)
	}
}
