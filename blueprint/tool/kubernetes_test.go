package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// SharedCluster is held by the one installation that is at work in the cluster of these tests, and shared by tests of the storage alone: whatever deployments it finds there, an
// installation has go on. Hold it in tests without parallel parts only: those would wait for a place that a waiting test has.
var SharedCluster sync.RWMutex

// kubeServer is the API server of these tests, with the definitions and roles that operators install.
func kubeServer(t *testing.T) *clustertest.Server {
	t.Helper()
	SharedCluster.RLock()
	t.Cleanup(SharedCluster.RUnlock)
	s := clustertest.Shared(t)
	s.Apply(t, "../../deploy/tool-crds.yaml", "../../deploy/tool-rbac.yaml")
	return s
}

// slipwayAccount is the account that deploy/tool-rbac.yaml gives the rights to.
const slipwayAccount = "system:serviceaccount:slipway:slipway"

// kubeStorage is one replica's view of the tools in a cluster.
func kubeStorage(t *testing.T, c *cluster.Client, db *store.DB) *kubernetes {
	t.Helper()
	k := newKubernetes(c, db, quiet, time.Now)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error)
	go func() { ended <- k.run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return k
}

// roomy makes the namespaces of tools as they come, which is somebody else's work in production.
type roomy struct {
	Storage
	t *testing.T
	s *clustertest.Server
}

func (r roomy) room(tool string) {
	_, err := r.s.Client().Create(context.WithoutCancel(r.t.Context()), cluster.Namespaces, "", cluster.Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": NamespaceOf(tool)}})
	if err != nil && !errors.Is(err, slipway.Conflict) {
		r.t.Error(err)
	}
}

func (r roomy) SetConfig(ctx context.Context, c Config, then Then) (Config, error) {
	r.room(c.Tool)
	return r.Storage.SetConfig(ctx, c, then)
}

func (r roomy) Create(ctx context.Context, d Deployment, then Then) (Deployment, error) {
	r.room(d.Tool)
	return r.Storage.Create(ctx, d, then)
}

func (r roomy) SetDeployToken(ctx context.Context, d DeployToken) error {
	r.room(d.Tool)
	return r.Storage.SetDeployToken(ctx, d)
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	clustertest.Shared(t)
	storetest.Each(t, []store.Migrations{Migrations}, func(t *testing.T, db *store.DB) {
		s := kubeServer(t)
		testStorage(t, func(t *testing.T) Storage {
			return roomy{kubeStorage(t, s.Client().As(slipwayAccount), db), t, s}
		})
	})
}

func kubeDB(t *testing.T) *store.DB {
	t.Helper()
	return storetest.Open(t, store.SQLite, Migrations)
}

func TestAToolWithoutANamespaceIsNotFound(t *testing.T) {
	t.Parallel()
	s := kubeServer(t)
	k, tool, ctx := kubeStorage(t, s.Client(), kubeDB(t)), someTool(t), t.Context()
	_, err := k.Config(ctx, tool)
	wantMissing(t, "a config", err)
	_, err = k.SetConfig(ctx, Config{Tool: tool, Document: json.RawMessage(`{}`), Updated: noon}, nil)
	wantMissing(t, "a config that is set", err)
	_, err = k.Create(ctx, deployment(tool, tool+"-deploy-1", noon, Pending), nil)
	wantMissing(t, "a deployment", err)
	wantMissing(t, "a token", k.SetDeployToken(ctx, DeployToken{Tool: tool, Hash: "1", Created: noon, Expires: noon}))
	_, err = k.Config(ctx, "../kube-system")
	wantMissing(t, "no tool's name", err)
}

func TestADeploymentThatADyingReplicaLeftIsInNobodysWay(t *testing.T) {
	t.Parallel()
	s := kubeServer(t)
	k, tool, ctx := kubeStorage(t, s.Client(), kubeDB(t)), someTool(t), t.Context()
	ns := NamespaceOf(tool)
	s.MakeNamespace(t, ns)
	draft := func(id string) cluster.Object {
		spec := need[map[string]any](t)(stateOf(deployment(tool, id, noon, Pending)))
		for key, v := range spec {
			if v == nil {
				delete(spec, key)
			}
		}
		o := resourceOf("ToolDeployment", ns, id, spec)
		o.Set(stageDraft, "metadata", "labels", stageLabel)
		return s.Create(t, toolDeployments, ns, o)
	}
	// It died before it took the tool's place, and another one after.
	draft(tool + "-deploy-1")
	draft(tool + "-deploy-2")
	s.Create(t, toolConfigs, ns, resourceOf("ToolConfig", ns, tool, map[string]any{"revision": 0, "active": tool + "-deploy-2"}))
	if list := need[[]Deployment](t)(k.Deployments(ctx, tool)); len(list) != 0 {
		t.Errorf("drafts are shown: %v", list)
	}
	_, err := k.Deployment(ctx, tool, tool+"-deploy-1")
	wantMissing(t, "a draft", err)
	if list := active(t, k, tool); len(list) != 0 {
		t.Errorf("drafts are active: %v", list)
	}
	d := need[Deployment](t)(k.Create(ctx, deployment(tool, tool+"-deploy-3", noon, Pending), nil))
	if list := active(t, k, tool); len(list) != 1 || list[0].ID != d.ID {
		t.Errorf("got %v active", list)
	}
	later := newKubernetes(s.Client(), k.owed.db, quiet, func() time.Time { return time.Now().Add(time.Hour) })
	if err := later.deleteDrafts(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{tool + "-deploy-1", tool + "-deploy-2"} {
		if _, err := s.Client().Get(ctx, toolDeployments, ns, id); !errors.Is(err, slipway.NotFound) {
			t.Errorf("the draft %s: got %v, want that it is gone", id, err)
		}
	}
	if _, err := k.Deployment(ctx, tool, d.ID); err != nil {
		t.Error(err)
	}
}

// Eight replicas, of which each answer to a change may be lost.
func TestReplicasThatLoseAnswersMakeOneDeployment(t *testing.T) {
	t.Parallel()
	s := kubeServer(t)
	db, tool := kubeDB(t), someTool(t)
	s.MakeNamespace(t, NamespaceOf(tool))
	var wg sync.WaitGroup
	for i := range 8 {
		p := s.Proxy(t, "")
		p.Lose([]string{"POST", "PUT"}[i%2])
		c := need[*cluster.Client](t)(cluster.New([]cluster.Config{{Name: "main", Kubeconfig: p.Kubeconfig}}).Get(""))
		k := newKubernetes(c, db, quiet, time.Now)
		wg.Go(func() {
			_, err := k.Create(t.Context(), deployment(tool, fmt.Sprintf("%s-deploy-%d", tool, i), noon, Pending), nil)
			if err != nil && !errors.Is(err, slipway.Conflict) && !errors.Is(err, slipway.Unavailable) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	k := newKubernetes(s.Client(), db, quiet, time.Now)
	if n := len(need[[]Deployment](t)(k.Deployments(t.Context(), tool))); n > 1 {
		t.Errorf("%d deployments are active", n)
	}
	_, err := k.Create(t.Context(), deployment(tool, tool+"-deploy-last", noon, Pending), nil)
	if err != nil && !errors.Is(err, slipway.Conflict) {
		t.Error(err)
	}
	if list := need[[]Deployment](t)(k.Deployments(t.Context(), tool)); len(list) != 1 || !list[0].Status.Active() {
		t.Errorf("got %d deployments; want the one that goes on", len(list))
	}
}

func TestStorageComesBackWithTheCluster(t *testing.T) {
	t.Parallel()
	s := kubeServer(t)
	gate, tool, ctx := s.Gate(t, "admin"), someTool(t), t.Context()
	s.MakeNamespace(t, NamespaceOf(tool))
	c := need[*cluster.Client](t)(cluster.New([]cluster.Config{{Name: "far", Kubeconfig: gate.Kubeconfig}}).Get(""))
	k := kubeStorage(t, c, kubeDB(t))
	d := need[Deployment](t)(k.Create(ctx, deployment(tool, tool+"-deploy-1", noon, Pending), nil))
	gate.Close()
	_, err := k.Deployment(ctx, tool, d.ID)
	wantCode(t, "a read while the cluster is away", err, slipway.Unavailable)
	_, err = k.Update(ctx, d, nil)
	wantCode(t, "an update while the cluster is away", err, slipway.Unavailable)
	clustertest.Eventually(t, "nobody claims to know what is active", func() bool { _, err := k.Active(ctx); return errors.Is(err, slipway.Unavailable) })
	gate.Open(t)
	d.Status = Running
	d = need[Deployment](t)(k.Update(ctx, d, nil))
	clustertest.Eventually(t, "what is active is known again", func() bool {
		list, err := k.Active(ctx)
		for _, r := range list {
			if r.ID == d.ID && r.Version == d.Version {
				return err == nil
			}
		}
		return false
	})
}

func TestACredentialThatTheClusterRefusesIsNoFaultOfTheCaller(t *testing.T) {
	t.Parallel()
	s := kubeServer(t)
	k, tool := newKubernetes(s.Client().As("nobody"), kubeDB(t), quiet, time.Now), someTool(t)
	_, err := k.Config(t.Context(), tool)
	wantCode(t, "a read", err, slipway.Unavailable)
	_, err = k.SetConfig(t.Context(), Config{Tool: tool, Document: json.RawMessage(`{}`)}, nil)
	wantCode(t, "a write", err, slipway.Unavailable)
	_, err = k.Active(t.Context())
	wantCode(t, "what is active", err, slipway.Unavailable)
}

func TestLargeConfigurationsFitIntoTheCluster(t *testing.T) {
	t.Parallel()
	s := kubeServer(t)
	k, tool, ctx := kubeStorage(t, s.Client(), kubeDB(t)), someTool(t), t.Context()
	s.MakeNamespace(t, NamespaceOf(tool))
	var b strings.Builder
	b.WriteString(`{"components":{`)
	d := Deployment{Tool: tool, ID: tool + "-deploy-1", Created: noon, Builder: "ci", Status: Pending}
	for i := range 1000 {
		if i > 0 {
			b.WriteByte(',')
		}
		name := fmt.Sprintf("component-%d", i)
		fmt.Fprintf(&b, `%q:{"build":{"repository":"https://git.example.com/%s.git","ref":"main"},"run":{"command":"%s"}}`, name, name, strings.Repeat("x ", 400))
		d.Components = append(d.Components, Component{Name: name, Build: BuildState{ID: strings.Repeat("b", 60), Status: BuildRunning, Detail: strings.Repeat("d", 100), Commit: strings.Repeat("c", 40)}, Run: RunState{Status: RunPending}})
	}
	b.WriteString(`}}`)
	document := json.RawMessage(b.String())
	need[Config](t)(k.SetConfig(ctx, Config{Tool: tool, Document: document, Updated: noon}, nil))
	if c := need[Config](t)(k.Config(ctx, tool)); string(c.Document) != string(document) {
		t.Errorf("a document of %d bytes came back as one of %d", len(document), len(c.Document))
	}
	d.Config = document
	d = need[Deployment](t)(k.Create(ctx, d, nil))
	d.Status = Successful
	d = need[Deployment](t)(k.Update(ctx, d, nil))
	if got := need[Deployment](t)(k.Deployment(ctx, tool, d.ID)); string(got.Config) != string(document) || len(got.Components) != 1000 {
		t.Errorf("a deployment of %d components came back with %d", len(d.Components), len(got.Components))
	}
}

// A tool's account may look, and nothing else; nor may it look at another tool.
func TestToolAccountsMayOnlyRead(t *testing.T) {
	t.Parallel()
	s := kubeServer(t)
	s.Controllers(t) // they put the shipped role into view
	k, tool, other, ctx := kubeStorage(t, s.Client().As(slipwayAccount), kubeDB(t)), someTool(t), someTool(t)+"x", t.Context()
	for _, name := range []string{tool, other} {
		s.MakeNamespace(t, NamespaceOf(name))
		need[Config](t)(k.SetConfig(ctx, Config{Tool: name, Document: json.RawMessage(`{"a":1}`), Updated: noon}, nil))
	}
	need[Deployment](t)(k.Create(ctx, deployment(tool, tool+"-deploy-1", noon, Pending), nil))
	account := "system:serviceaccount:" + NamespaceOf(tool) + ":default"
	s.Create(t, cluster.Resource{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "rolebindings"}, NamespaceOf(tool), cluster.Object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "tool"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}, // all that tools get of their namespace
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "default", "namespace": NamespaceOf(tool)}},
	})
	c := s.Client().As(account, "system:serviceaccounts")
	clustertest.Eventually(t, "the tool may read its configuration", func() bool {
		o, err := c.Get(ctx, toolConfigs, NamespaceOf(tool), tool)
		return err == nil && o.Text("spec", "document") == `{"a":1}`
	})
	if page, err := c.List(ctx, toolDeployments, NamespaceOf(tool), cluster.ListOptions{}); err != nil || len(page.Items) != 1 || page.Items[0].Text("spec", "status") != "pending" {
		t.Errorf("its deployments: got %v, %v", page.Items, err)
	}
	_, err := c.Patch(ctx, toolConfigs, NamespaceOf(tool), tool, cluster.Object{"spec": map[string]any{"document": "{}"}})
	wantCode(t, "a change by hand", err, slipway.Forbidden)
	wantCode(t, "a deletion by hand", c.Delete(ctx, toolDeployments, NamespaceOf(tool), tool+"-deploy-1", "", ""), slipway.Forbidden)
	_, err = c.Create(ctx, deployTokens, NamespaceOf(tool), resourceOf("DeployToken", NamespaceOf(tool), tool, map[string]any{"hash": "x", "created": "2026-11-20T12:00:00Z", "expires": "2027-11-20T12:00:00Z"}))
	wantCode(t, "a token by hand", err, slipway.Forbidden)
	_, err = c.Get(ctx, toolConfigs, NamespaceOf(other), other)
	wantCode(t, "another tool's configuration", err, slipway.Forbidden)
}

var quiet = slog.New(slog.DiscardHandler)
