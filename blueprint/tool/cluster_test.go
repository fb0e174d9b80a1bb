package tool_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/tool"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/tekton"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// gitServer serves the repositories below a folder over HTTP, by git itself.
func gitServer(t *testing.T, roots string) string {
	t.Helper()
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(&cgi.Handler{
		Path: program, Args: []string{"http-backend"}, Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + roots, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1"},
	})
	t.Cleanup(s.Close)
	return s.URL
}

var toolDeployments = cluster.Resource{Group: "tool.slipway.dev", Version: "v1", Name: "tooldeployments"}

// pipeline is what operators write: one task that makes an image and says which.
const pipeline = `{
	"pipelineSpec": {
		"params": [{"name":"SOURCE_URL"},{"name":"SOURCE_REFERENCE"},{"name":"UNRESOLVED_SOURCE_REFERENCE"},{"name":"APP_IMAGE"}],
		"results": [{"name":"APP_IMAGE_DIGEST","value":"$(tasks.build.results.digest)"}],
		"tasks": [{"name":"build","params":[{"name":"url","value":"$(params.SOURCE_URL)"}],"taskSpec":{
			"params":[{"name":"url"}],"results":[{"name":"digest"}],
			"steps":[{"name":"make","image":"registry.example.com/make","command":["make"],"args":["$(params.url)"]}]}}]}}`

// oneInstallation has one installation at a time in the shared cluster: the tools of a cluster, whatever namespaces they have, are those of one database.
func oneInstallation(t *testing.T) {
	t.Helper()
	tool.SharedCluster.Lock()
	t.Cleanup(tool.SharedCluster.Unlock)
}

// The conversation of the seed on Kubernetes: the configuration and deployments are resources of the cluster, and Tekton's own controller takes PipelineRuns
// through tasks and pods. Only the node is a stand-in: no container runs.
func TestFromAConfigurationToBuildsByEntityOnKubernetes(t *testing.T) {
	t.Parallel()
	k := clustertest.Shared(t)
	k.Tekton(t)
	k.Apply(t, "../../deploy/tool-crds.yaml", "../../deploy/tool-rbac.yaml", "../../deploy/tekton.yaml")
	const account = "system:serviceaccount:slipway:slipway"
	roots := t.TempDir()
	repository(t, roots, "web", "true")
	repository(t, roots, "broken", "true")
	commit := git(t, roots+"/web", "rev-parse", "HEAD")
	at := gitServer(t, roots)

	for _, name := range []string{"kubetool", "othertool"} {
		k.MakeNamespace(t, provider.ToolNamespace(name))
	}
	builds := k.Namespace(t, "image-build-")
	k.Create(t, cluster.Resource{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "rolebindings"}, builds, cluster.Object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "slipway-tekton"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "slipway-tekton"},
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "slipway", "namespace": "slipway"}},
	})
	k.Kubelet(t).Run(t, builds, func(pod cluster.Object, _ string) *clustertest.Outcome {
		url := fmt.Sprint(pod.At("spec", "containers"))
		if strings.Contains(url, "/broken") {
			return &clustertest.Outcome{Code: 3, Log: "no such target\n"}
		}
		return &clustertest.Outcome{Message: `[{"key":"digest","value":"sha256:feed","type":1}]`, Log: "made of " + at + "/web\n"}
	})
	kubeconfig := k.Proxy(t, account).Kubeconfig
	oneInstallation(t)

	options := blueprinttest.Options{Blueprints: blueprints, Kinds: []provider.Kind{tekton.Kind}, Configure: func(c *server.Config) {
		c.Clusters = []cluster.Config{{Name: "main", Kubeconfig: kubeconfig}}
		c.Fetch.Allow = append(c.Fetch.Allow, at+"/*")
		c.Auth.SignIn.TLSHeader.From = []string{"127.0.0.1"}
		c.Auth.RateLimits.User = 0
		c.Providers = []server.ProviderConfig{{Name: "builds", Type: "tekton", Rest: map[string]any{
			"builder": map[string]any{"namespace": builds, "spec": asMap(t, pipeline), "image": "registry.example.com/tool-{tool}/{component}:latest", "perTool": 20},
		}}}
		settings := c.Sections["tool"].(*tool.Settings)
		settings.Builder, settings.Storage, settings.Cluster = "tekton", "kubernetes", "main"
	}}
	conversation := func(t *testing.T, s *blueprinttest.Server, name string) {
		me, base := s.As(""), "/api/v1/tool/"+name
		config := fmt.Sprintf(`{"components":{
			"component1":{"build":{"repository":"%[1]s/web","ref":"main"},"run":{"command":"serve"}},
			"component2":{"build":{"repository":"%[1]s/web","ref":"main"},"run":{"command":"clean","schedule":"@daily"}},
			"component3":{"build":{"reuse_from":"component1"},"run":{"command":"work"}}}}`, at)
		me.Do("GET", base+"/config", nil, dn(name)...).Is(404)
		me.Do("POST", base+"/config", config, dn(name)...).Is(200)
		ns := provider.ToolNamespace(name)
		stored, err := k.Client().Get(t.Context(), cluster.Resource{Group: "tool.slipway.dev", Version: "v1", Name: "toolconfigs"}, ns, name)
		if err != nil || !strings.Contains(stored.Text("spec", "document"), `"ref":"main"`) {
			t.Errorf("the stored configuration: %v, %v", stored, err)
		}
		deploy := func(query string) deployment {
			t.Helper()
			d := into[deployment](me.Do("POST", base+"/deploy"+query, nil, dn(name)...).Is(200)).Data
			blueprinttest.Eventually(t, "the deployment has ended", func() bool {
				d = into[deployment](me.Do("GET", base+"/deploy/"+d.ID+"?wait=10s", nil, dn(name)...).Is(200)).Data
				return d.Status != "PENDING" && d.Status != "RUNNING"
			})
			return d
		}
		d := deploy("")
		if d.Status != "FINISHED" || d.Builds["component1"].Status != "FINISHED" || d.Builds["component2"].Status != "FINISHED" || d.Builds["component3"].Status != "SKIPPED" || d.Builds["component1"].Commit != commit {
			t.Errorf("the deployment ended so: %+v", d)
		}
		run, err := k.Client().Get(t.Context(), cluster.Resource{Group: "tekton.dev", Version: "v1", Name: "pipelineruns"}, builds, d.Builds["component1"].ID)
		if err != nil || len(run.List("status", "childReferences")) != 1 {
			t.Errorf("Tekton's own controller ran %v, %v", run, err)
		}
		resource, err := k.Client().Get(t.Context(), toolDeployments, ns, d.ID)
		if err != nil || resource.Text("spec", "status") != "successful" {
			t.Errorf("the stored deployment: %v, %v", resource, err)
		}
		var page struct{ Items []slipway.Build }
		entity := "/api/build/by-entity/component:tool-" + name + "/component1"
		blueprinttest.Eventually(t, "the build is seen by its entity", func() bool {
			a := me.Do("GET", entity+"/search", nil, dn(name)...)
			return a.Status == 200 && json.Unmarshal(a.Body, &page) == nil && len(page.Items) == 1 && page.Items[0].Status.Finished()
		})
		if b := page.Items[0]; b.ID != "builds:"+d.Builds["component1"].ID || b.Status != slipway.BuildSucceeded || b.TriggeredBy == nil || b.TriggeredBy.ID != "tool:"+name || b.Commit == nil || b.Commit.SHA != commit {
			t.Errorf("the build is %+v", b)
		}
		if log := me.Do("GET", entity+"/builds/"+page.Items[0].ID+"/logs", nil, dn(name)...).Is(200); string(log.Body) != "made of "+at+"/web\n" {
			t.Errorf("the log is %s", log.Body)
		}

		again := deploy("")
		if b := again.Builds["component1"]; b.Status != "SKIPPED" || b.ID != d.Builds["component1"].ID {
			t.Errorf("nothing has changed, and the deployment ended so: %+v", again)
		}

		// A replica created a deployment and died before its job: the resource is the truth, and the sweep finds it.
		left := cluster.Object{
			"apiVersion": "tool.slipway.dev/v1", "kind": "ToolDeployment", "spec": resource.Clone()["spec"],
			"metadata": map[string]any{"name": name + "-deploy-left", "labels": map[string]any{"tool.slipway.dev/stage": "active"}},
		}
		left.Set(name+"-deploy-left", "spec", "id")
		left.Set("pending", "spec", "status")
		left.Set([]any{map[string]any{"name": "component1", "build": map[string]any{"status": "pending"}, "run": map[string]any{"status": "pending"}}}, "spec", "components")
		for _, key := range []string{"started", "finished", "detail"} {
			delete(left["spec"].(map[string]any), key)
		}
		k.Create(t, toolDeployments, ns, left)
		var mended deployment
		blueprinttest.Eventually(t, "the deployment of a replica that died goes on", func() bool {
			mended = into[deployment](me.Do("GET", base+"/deploy/"+name+"-deploy-left?wait=10s", nil, dn(name)...).Is(200)).Data
			return mended.Status != "PENDING" && mended.Status != "RUNNING"
		})
		if mended.Status != "FINISHED" || mended.Builds["component1"].ID != d.Builds["component1"].ID {
			t.Errorf("the deployment of a replica that died ended so: %+v", mended)
		}
		me.Do("DELETE", base+"/deploy/"+mended.ID, nil, dn(name)...).Is(200)

		me.Do("POST", base+"/config", strings.ReplaceAll(config, at+"/web", at+"/broken"), dn(name)...).Is(200)
		failed := deploy("")
		if failed.Status != "ERROR" || failed.Builds["component1"].Status != "ERROR" || failed.Runs["component1"].LongStatus != "Skipped due to previous failure" {
			t.Errorf("a failing build: %+v", failed)
		}
		list := into[struct{ Deployments []deployment }](me.Do("GET", base+"/deploy", nil, dn(name)...).Is(200)).Data.Deployments
		if len(list) != 3 || list[0].ID != d.ID || list[2].ID != failed.ID {
			t.Errorf("the list has %+v", list)
		}
		me.Do("DELETE", base+"/deploy/"+d.ID, nil, dn(name)...).Is(200)
		me.Do("GET", base+"/deploy/"+d.ID, nil, dn(name)...).Is(404)
		me.Do("DELETE", base+"/config", nil, dn(name)...).Is(200)
		me.Do("GET", base+"/config", nil, dn(name)...).Is(404)
	}
	t.Run("sqlite", func(t *testing.T) { conversation(t, blueprinttest.Start(t, store.SQLite, options), "kubetool") })
	t.Run("postgres", func(t *testing.T) { conversation(t, blueprinttest.Start(t, store.Postgres, options), "othertool") })
}

func asMap(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}
