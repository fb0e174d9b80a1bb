package tekton

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	providertest.Run(t, func(t *testing.T) providertest.Harness {
		v := newVendor(t)
		return harness(v, v.open(t, map[string]any{"url": "https://tekton.example.com"}))
	})
}

func TestBuilderConformance(t *testing.T) {
	t.Parallel()
	providertest.RunBuilder(t, func(t *testing.T) providertest.BuilderHarness {
		v := newVendor(t)
		return builderHarness(v, v.open(t, v.builderConfig(nil)))
	})
}

func TestPipelineRunsAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	c := &client{cfg: Config{URL: "https://tekton.example.com/"}}
	providertest.Golden(t, "testdata/runs", func(payload []byte) (any, error) {
		o, err := cluster.ParseObject(payload)
		if err != nil {
			return nil, err
		}
		return c.build(project{namespace: "builds"}, read(o)), nil
	})
}

func FuzzPipelineRun(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"a"},"status":{"conditions":[{"type":"Succeeded","status":"True"}]}}`))
	c := &client{cfg: Config{URL: "https://tekton.example.com/"}}
	f.Fuzz(func(_ *testing.T, payload []byte) {
		if o, err := cluster.ParseObject(payload); err == nil {
			c.build(project{}, read(o))
			repeat(o, slipway.Caller{}, time.Time{})
		}
	})
}

func TestEntitiesSayWhichPipelineRunsAreTheirs(t *testing.T) {
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
		{"Kubernetes without Tekton", "", map[string]string{provider.KubernetesID: "web", provider.KubernetesNamespace: "builds"}, ""},
		{"an id", "", map[string]string{enabledAnnotation: "true", provider.KubernetesID: "web", provider.KubernetesNamespace: "builds"}, "builds/backstage.io/kubernetes-id=web"},
		{"a selector counts more", "", map[string]string{enabledAnnotation: "true", provider.KubernetesID: "web", provider.KubernetesSelector: "app=web", provider.KubernetesNamespace: "builds"}, "builds/app=web"},
		{"one spelling", "", map[string]string{enabledAnnotation: "true", provider.KubernetesSelector: " tier != test,app == web,, env in (a,  b) ", provider.KubernetesNamespace: "builds"}, "builds/app=web,env in (a, b),tier!=test"},
		{"all namespaces", "", map[string]string{enabledAnnotation: "true", provider.KubernetesSelector: "app=web"}, "*/app=web"},
		{"the provider's namespace", "ci", map[string]string{enabledAnnotation: "true", provider.KubernetesSelector: "app=web"}, "ci/app=web"},
		{"the newer plugin's word", "", map[string]string{janusAnnotation: "web", provider.KubernetesNamespace: "builds"}, "builds/backstage.io/kubernetes-id=web"},
		{"the newer plugin's word with a selector", "", map[string]string{janusAnnotation: "web", provider.KubernetesSelector: "app=web"}, "*/app=web"},
		{"this cluster", "", map[string]string{enabledAnnotation: "true", provider.KubernetesSelector: "app=web", provider.KubernetesCluster: "prod"}, "*/app=web"},
		{"another cluster", "", map[string]string{enabledAnnotation: "true", provider.KubernetesSelector: "app=web", provider.KubernetesCluster: "test"}, ""},
		{"nothing that selects", "", map[string]string{enabledAnnotation: "true", provider.KubernetesNamespace: "builds"}, ""},
		{"a hostile namespace", "", map[string]string{enabledAnnotation: "true", provider.KubernetesSelector: "app=web", provider.KubernetesNamespace: "../secrets"}, ""},
		{"a hostile selector", "", map[string]string{enabledAnnotation: "true", provider.KubernetesSelector: "app=web&limit=1", provider.KubernetesNamespace: "builds"}, ""},
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
	_, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"tekton","namespace":"A B","tokn":"x","builder":{"namespace":"{tool}.x","spec":{"status":"PipelineRunPending"},"params":{"URL":"{repo}"},"keep":0}}`), provider.Env{Cluster: clusters.Get})
	e, ok := errors.AsType[*slipway.Error](err)
	if !ok || e.Code != slipway.Invalid {
		t.Fatal(err)
	}
	var fields []string
	for _, d := range e.Details {
		fields = append(fields, d.Field)
	}
	slices.Sort(fields)
	if got := strings.Join(fields, " "); got != "builder.keep builder.namespace builder.params.URL builder.spec namespace tokn url" {
		t.Errorf("got faults in %s: %v", got, err)
	}
	if _, err := Kind.Open(t.Context(), json.RawMessage(`{"cluster":"test"}`), provider.Env{Cluster: clusters.Get}); !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), "prod") {
		t.Errorf("an unknown cluster: %v", err)
	}
	if _, err := Kind.Open(t.Context(), nil, provider.Env{}); !errors.Is(err, slipway.Unsupported) {
		t.Errorf("no cluster: %v", err)
	}
	p, err := Kind.Open(t.Context(), nil, provider.Env{Cluster: clusters.Get})
	if err != nil || p.Builder != nil || p.Interval != 15*time.Second {
		t.Errorf("got %+v, %v; want no builder, every 15 s", p, err)
	}
}

func TestARetriggerMakesANewRunOfTheSameWords(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.open(t, nil)
	spec, err := cluster.ParseObject([]byte(inline))
	if err != nil {
		t.Fatal(err)
	}
	spec["status"] = "Cancelled"
	spec["params"] = []any{map[string]any{"name": "x", "value": "1"}}
	old := v.Create(t, pipelineRuns, v.namespace, cluster.Object{
		"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "spec": map[string]any(spec), "metadata": map[string]any{
			"name": "one", "labels": map[string]any{"app": "web", "tekton.dev/pipeline": "one"},
			"annotations": map[string]any{pac + "state": "completed", pac + "sha": commitID, pac + "log-url": "https://console.example.com/one"},
		},
	})
	clustertest.Eventually(t, "the run is cancelled", func() bool {
		b, err := c.get(t.Context(), v.project(), "one")
		return err == nil && b.Status == slipway.BuildCanceled
	})
	again, err := c.retrigger(t.Context(), v.project(), old.Name(), nil, slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := v.Client().Get(t.Context(), pipelineRuns, v.namespace, again.ID)
	if err != nil {
		t.Fatal(err)
	}
	if made.Text("spec", "status") != "" || made.Annotation(pac+"state") != "" || made.Annotation(pac+"log-url") != "" || made.Annotation(pac+"sha") != commitID || len(made.List("spec", "params")) != 1 {
		t.Errorf("got %v", made)
	}
	if again.Trigger != slipway.TriggerRetry || again.TriggeredBy == nil || again.TriggeredBy.EntityRef != "user:default/jane" || again.Commit.SHA != commitID || again.Status != slipway.BuildStarting {
		t.Errorf("got %+v", again)
	}
}

func TestBuildsOfAllNamespacesHaveTheNamespaceInTheirID(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.open(t, nil)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	selector := "app=web,app!=" + v.namespace // a text of its own, so that others' runs may be there too
	page, err := c.list(t.Context(), "*/"+selector, provider.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(page.Items, func(b slipway.Build) bool { return b.ID == v.namespace+"/"+id }) {
		t.Errorf("%s/%s is not in the list", v.namespace, id)
	}
	if b, err := c.get(t.Context(), "*/"+selector, v.namespace+"/"+id); err != nil || b.Status != slipway.BuildFailed {
		t.Errorf("got %+v, %v", b, err)
	}
	for _, bad := range []string{id, "/" + id, v.namespace + "/", "../" + id, "kube-system/" + id} {
		if _, err := c.get(t.Context(), "*/"+selector, bad); !errors.Is(err, slipway.NotFound) {
			t.Errorf("%s: got %v, want not found", bad, err)
		}
	}
}

func TestNobodySeesAToolsBuildsByWritingItsName(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.open(t, v.builderConfig(nil))
	b, err := c.builder().Start(t.Context(), provider.BuildOrder{Key: "mytool-1", Tool: "mytool", Component: "web", Repository: "https://git.example.com/x.git", Commit: commitID})
	if err != nil {
		t.Fatal(err)
	}
	project := v.namespace + "/" + toolLabel + "=mytool"
	page, err := c.list(t.Context(), project, provider.ListOptions{})
	if err != nil || len(page.Items) > 0 {
		t.Errorf("got %v, %v; want nothing", page.Items, err)
	}
	if _, err := c.get(t.Context(), project, b.ID); !errors.Is(err, slipway.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestAnOrderIsWrittenInTektonsWords(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.open(t, v.builderConfig(map[string]any{
		"spec": json.RawMessage(`{"pipelineRef":{"name":"buildpacks"},"params":[{"name":"RUN_IMAGE","value":"run:1"},{"name":"BUILDER_IMAGE","value":"builder:1"}],
			"workspaces":[{"name":"source-ws","emptyDir":{}}],"taskRunSpecs":[{"pipelineTaskName":"build-from-git","serviceAccountName":"buildpacks"}],"timeouts":{"pipeline":"30m"}}`),
	}))
	o := provider.BuildOrder{
		Key: "mytool-deploy-1-web", Tool: "mytool", Component: "web.front", Repository: "https://git.example.com/{ref}.git", Ref: "v1", Commit: commitID, LatestVersions: true,
		By: slipway.Caller{Kind: slipway.CallerTool, Subject: "tool:mytool"},
	}
	b, err := c.builder().Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	made, err := v.Client().Get(t.Context(), pipelineRuns, v.namespace, o.Key)
	if err != nil {
		t.Fatal(err)
	}
	params := map[string]string{}
	for _, p := range made.List("spec", "params") {
		params[p.Text("name")] = p.Text("value")
	}
	want := map[string]string{
		"RUN_IMAGE": "run:1", "BUILDER_IMAGE": "builder:edge", "SOURCE_URL": "https://git.example.com/{ref}.git", "SOURCE_REFERENCE": commitID,
		"UNRESOLVED_SOURCE_REFERENCE": "v1", "APP_IMAGE": "registry.example.com/tool-mytool/web.front:latest",
	}
	if fmt.Sprint(params) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", params, want)
	}
	if made.Text("spec", "pipelineRef", "name") != "buildpacks" || len(made.List("spec", "taskRunSpecs")) != 1 || made.Label(toolLabel) != "mytool" || made.Label(componentLabel) != "web.front" {
		t.Errorf("got %v", made)
	}
	if b.TriggeredBy == nil || b.TriggeredBy.ID != "tool:mytool" || b.Trigger != slipway.TriggerAPI || b.Pipeline.Name != "buildpacks" {
		t.Errorf("got %+v", b)
	}
	v.move(t, o.Key, slipway.BuildSucceeded)
	if b, err = c.builder().Get(t.Context(), "mytool", b.ID); err != nil || b.Image != "registry.example.com/tool-mytool/web.front:latest@sha256:feed" {
		t.Errorf("got image %q, %v", b.Image, err)
	}

	taken := v.Create(t, pipelineRuns, v.namespace, cluster.Object{
		"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": map[string]any{"name": "somebody-elses"}, "spec": map[string]any{"pipelineRef": map[string]any{"name": "x"}},
	})
	for what, change := range map[string]func(*provider.BuildOrder){
		"a key that is somebody else's run":     func(o *provider.BuildOrder) { o.Key = taken.Name() },
		"a repository that Tekton would change": func(o *provider.BuildOrder) { o.Key, o.Repository = "k", "https://git.example.com/$(params.X)" },
		"a folder":                              func(o *provider.BuildOrder) { o.Key, o.Repository = "k", "file:///srv/git/x.git" },
	} {
		bad := o
		change(&bad)
		if _, err := c.builder().Start(t.Context(), bad); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%s: got %v, want invalid", what, err)
		}
	}
}

func TestEndedBuildsThatNobodyKeepsAreDeletedAndQuotasMakeWait(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.Controllers(t)
	c := v.open(t, v.builderConfig(map[string]any{"keep": 2}))
	order := func(key, component string) error {
		_, err := c.builder().Start(t.Context(), provider.BuildOrder{Key: key, Tool: "mytool", Component: component, Repository: "https://git.example.com/x.git", Commit: commitID})
		return err
	}
	for i := range 4 {
		key := fmt.Sprintf("web-%d", i)
		if err := order(key, "web"); err != nil {
			t.Fatal(err)
		}
		v.move(t, key, slipway.BuildSucceeded)
	}
	if err := order("cron-0", "cron"); err != nil {
		t.Fatal(err)
	}
	if err := order("web-4", "web"); err != nil {
		t.Fatal(err)
	}
	list, err := c.builder().List(t.Context(), provider.ComponentQuery{Tool: "mytool"})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, b := range list {
		ids = append(ids, b.ID)
	}
	if got := strings.Join(ids, " "); got != "web-4 cron-0 web-3 web-2" {
		t.Errorf("got %s, want the newest two that ended, and what runs", got)
	}

	v.Create(t, cluster.Resource{Version: "v1", Name: "resourcequotas"}, v.namespace, cluster.Object{
		"apiVersion": "v1", "kind": "ResourceQuota", "metadata": map[string]any{"name": "few"},
		"spec": map[string]any{"hard": map[string]any{"count/pipelineruns.tekton.dev": "5"}},
	})
	n := 0
	clustertest.Eventually(t, "the quota is used up", func() bool {
		n++
		err = order(fmt.Sprintf("more-%d", n), "more")
		return err != nil && !strings.Contains(err.Error(), "status unknown")
	})
	e, ok := errors.AsType[*slipway.Error](err)
	if !ok || e.Code != slipway.RateLimited || e.RetryAfter == 0 || !strings.Contains(e.Message, "used up its quota: few") {
		t.Errorf("over quota: got %v, want rate limited", err)
	}
}

func TestInspectSaysWhichRightIsMissing(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.open(t, nil)
	in, err := c.inspect(t.Context(), v.project())
	if err != nil || in.Account != v.user || len(in.Lacks) > 0 {
		t.Errorf("got %+v, %v", in, err)
	}
	v.revoke(t)
	v.Grant(t, v.user, v.namespace, pipelineRuns)
	in, err = c.inspect(t.Context(), v.project())
	if err != nil || len(in.Lacks) != 2 || !strings.Contains(in.Lacks[0], "may not list pods") {
		t.Errorf("got %+v, %v; want that pods and their logs are missing", in, err)
	}
}

// The role that operators are given is enough, and no more than what it says.
func TestTheShippedRoleIsEnough(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.Apply(t, "../../deploy/tekton.yaml")
	v.revoke(t)
	v.Create(t, cluster.Resource{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "rolebindings"}, v.namespace, cluster.Object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "slipway-tekton"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "slipway-tekton"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": v.user}},
	})
	c := v.open(t, v.builderConfig(map[string]any{"keep": 1}))
	clustertest.Eventually(t, "the role is known", func() bool {
		in, err := c.inspect(t.Context(), v.project())
		return err == nil && len(in.Lacks) == 0
	})
	id := v.add(t, slipway.Build{Status: slipway.BuildRunning})
	v.write(t, id, "hello\n")
	log, err := c.logs(t.Context(), v.project(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(log); err != nil || string(text) != "hello\n" {
		t.Errorf("got %q, %v", text, err)
	}
	if err := c.cancel(t.Context(), v.project(), id); err != nil {
		t.Error(err)
	}
	v.move(t, id, slipway.BuildCanceled)
	if _, err := c.retrigger(t.Context(), v.project(), id, nil, slipway.Caller{}); err != nil {
		t.Error(err)
	}
	for i := range 3 { // the third deletes the first
		key := fmt.Sprintf("web-%d", i)
		_, err := c.builder().Start(t.Context(), provider.BuildOrder{Key: key, Tool: "mytool", Component: "web", Repository: "https://git.example.com/x.git", Commit: commitID})
		if err != nil {
			t.Fatal(err)
		}
		v.move(t, key, slipway.BuildFailed)
	}
	if _, err := c.kube.List(t.Context(), cluster.Resource{Version: "v1", Name: "secrets"}, v.namespace, cluster.ListOptions{}); !errors.Is(err, slipway.Forbidden) {
		t.Errorf("secrets: got %v, want forbidden", err)
	}
}
