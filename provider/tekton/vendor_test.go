package tekton

import (
	"context"
	"crypto/rand"
	"encoding/json"
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

// vendor is a real API server with Tekton's real resources. The test moves the PipelineRuns as Tekton's controller would.
type vendor struct {
	*clustertest.Server
	t         *testing.T
	user      string
	revoke    func(testing.TB)
	proxy     *clustertest.Proxy
	kubelet   *clustertest.Kubelet
	namespace string

	mu   sync.Mutex
	pods map[string]cluster.Object // of runs, by name
}

// webSelector chooses the PipelineRuns of the entity web.
const webSelector = "app=web"

func newVendor(t *testing.T) *vendor {
	t.Helper()
	s := clustertest.Shared(t)
	s.Apply(t, clustertest.TektonCRDs(t)...)
	v := &vendor{Server: s, t: t, user: strings.ToLower("user-" + rand.Text()[:10]), kubelet: s.Kubelet(t), namespace: s.Namespace(t, "tekton-"), pods: map[string]cluster.Object{}}
	v.revoke = s.GrantAll(t, v.user)
	v.proxy = s.Proxy(t, v.user)
	v.control()
	return v
}

// control ends what is to be cancelled, as Tekton's controller does.
func (v *vendor) control() {
	ctx, cancel := context.WithCancel(v.t.Context())
	var wg sync.WaitGroup
	canceled := make(chan string, 100)
	cache := cluster.NewCache(v.Client(), pipelineRuns, cluster.CacheOptions{Namespace: v.namespace}, func(o cluster.Object) struct{} {
		if o.Text("spec", "status") == "Cancelled" && !read(o).status.Finished() {
			canceled <- o.Name()
		}
		return struct{}{}
	})
	wg.Go(func() { _ = cache.Run(ctx) })
	wg.Go(func() {
		for {
			select {
			case name := <-canceled:
				v.move(v.t, name, slipway.BuildCanceled)
			case <-ctx.Done():
				return
			}
		}
	})
	v.t.Cleanup(func() { cancel(); wg.Wait() })
}

// open opens the provider, which reaches the cluster through the proxy.
func (v *vendor) open(t testing.TB, config map[string]any) *client {
	t.Helper()
	env := provider.Env{Cluster: cluster.New([]cluster.Config{{Name: "main", Kubeconfig: v.proxy.Kubeconfig}}).Get}
	c, err := newClient(providertest.Config[Config](t, map[string]any{}, config), env)
	if err != nil {
		t.Fatal(err)
	}
	c.pace = 20 * time.Millisecond
	return c
}

func (v *vendor) project() string { return v.namespace + "/" + webSelector }

func (v *vendor) entity() slipway.Entity {
	return slipway.Entity{Kind: "Component", Metadata: slipway.EntityMetadata{Name: "web", Annotations: map[string]string{
		enabledAnnotation: "true", provider.KubernetesNamespace: v.namespace, provider.KubernetesSelector: webSelector,
	}}}
}

// inline is a spec that Tekton itself would take.
const inline = `{"pipelineSpec":{"tasks":[{"name":"build","taskSpec":{"steps":[{"name":"make","image":"registry.example.com/make","command":["make"]}]}}]}}`

func (v *vendor) add(t testing.TB, b slipway.Build) string {
	t.Helper()
	annotations := map[string]any{}
	if b.Commit != nil {
		annotations[pac+"sha"], annotations[pac+"branch"], annotations[pac+"sha-title"] = b.Commit.SHA, b.Commit.Branch, b.Commit.Message
	}
	if b.TriggeredBy != nil {
		annotations[pac+"sender"] = b.TriggeredBy.ID
	}
	spec, err := cluster.ParseObject([]byte(inline))
	if err != nil {
		t.Fatal(err)
	}
	made := v.Create(t, pipelineRuns, v.namespace, cluster.Object{
		"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "spec": map[string]any(spec),
		"metadata": map[string]any{"generateName": "web-", "labels": map[string]any{"app": "web"}, "annotations": annotations},
	})
	if b.Status != "" && b.Status != slipway.BuildStarting {
		v.move(t, made.Name(), b.Status)
	}
	return made.Name()
}

// move changes a run as Tekton's controller does; its pod ends with it.
func (v *vendor) move(t testing.TB, name string, status slipway.BuildStatus) {
	t.Helper()
	condition := map[slipway.BuildStatus][3]string{
		slipway.BuildStarting: {"Unknown", "Started", ""}, slipway.BuildRunning: {"Unknown", "Running", "Tasks Completed: 0 (Failed: 0, Cancelled 0), Incomplete: 1, Skipped: 0"},
		slipway.BuildSucceeded: {"True", "Succeeded", "Tasks Completed: 1 (Failed: 0, Cancelled 0), Skipped: 0"},
		slipway.BuildFailed:    {"False", "Failed", "Tasks Completed: 1 (Failed: 1, Cancelled 0), Skipped: 0"},
		slipway.BuildCanceled:  {"False", "Cancelled", `PipelineRun "x" was cancelled`},
	}[status]
	at := time.Now().UTC().Format(time.RFC3339)
	change := map[string]any{"startTime": at, "conditions": []any{
		map[string]any{"type": "Succeeded", "status": condition[0], "reason": condition[1], "message": condition[2], "lastTransitionTime": at},
	}}
	if status.Finished() {
		change["completionTime"] = at
		v.mu.Lock()
		pod := v.pods[name]
		v.mu.Unlock()
		if pod != nil {
			v.kubelet.EndPod(t, pod, map[bool]int{true: 0, false: 1}[status == slipway.BuildSucceeded])
		}
	}
	if status == slipway.BuildSucceeded {
		change["results"] = []any{map[string]any{"name": "APP_IMAGE_DIGEST", "value": "sha256:feed"}}
	}
	if _, err := v.Client().PatchStatus(t.Context(), pipelineRuns, v.namespace, name, cluster.Object{"status": change}); err != nil && t.Context().Err() == nil {
		t.Fatal(err)
	}
}

// write has the only step of a run print.
func (v *vendor) write(t testing.TB, name, text string) {
	t.Helper()
	v.kubelet.Write(v.namespace, name+"-build-pod", "step-make", text)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.pods[name] == nil {
		v.pods[name] = v.kubelet.RunningPod(t, v.namespace, name+"-build-pod", map[string]any{runOfPod: name, taskPod: "build"}, "step-make")
	}
}

func harness(v *vendor, c *client) providertest.Harness {
	return providertest.Harness{
		Provider: c.Provider(), Project: v.project(), Missing: "no-such-namespace/app=web", Entity: v.entity(),
		Add: v.add, Move: v.move, Write: v.write,
		Down: func(testing.TB) { v.proxy.Close() }, Hang: v.proxy.Hang, Limit: func(testing.TB) { v.proxy.Limit("7") }, Refuse: v.revoke,
	}
}

// builderConfig makes the provider a builder in the vendor's namespace.
func (v *vendor) builderConfig(changes map[string]any) map[string]any {
	b := map[string]any{
		"namespace": v.namespace, "spec": json.RawMessage(inline), "image": "registry.example.com/tool-{tool}/{component}:latest",
		"parallel": 100, "perTool": 50, "versions": map[string]any{"latest": map[string]any{"BUILDER_IMAGE": "builder:edge"}},
	}
	for k, x := range changes {
		b[k] = x
	}
	return map[string]any{"builder": b}
}

const commitID = "0123456789abcdef0123456789abcdef01234567"

func builderHarness(v *vendor, c *client) providertest.BuilderHarness {
	var fill []string
	return providertest.BuilderHarness{
		Builder: c.builder(), Builds: c.Provider().Builds, Repository: "https://git.example.com/mytool.git", Ref: "main", Commit: commitID,
		Move: func(t testing.TB, id string, status slipway.BuildStatus) {
			v.write(t, id, "") // a run that has begun has a pod
			v.move(t, id, status)
		},
		Write: v.write,
		Fill: func(t testing.TB) {
			for i := range c.cfg.Builder.PerTool {
				o := provider.BuildOrder{Key: "fill-" + string(rune('a'+i%26)) + string(rune('a'+i/26)), Tool: "mytool", Component: "web", Repository: "https://git.example.com/mytool.git", Commit: commitID}
				b, err := c.builder().Start(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				fill = append(fill, b.ID)
			}
		},
		Drain: func(t testing.TB) { v.move(t, fill[0], slipway.BuildFailed) },
		Forget: func(t testing.TB, _, id string) {
			if err := v.Client().Delete(t.Context(), pipelineRuns, v.namespace, id, "", ""); err != nil {
				t.Fatal(err)
			}
		},
		Down: func(testing.TB) { v.proxy.Close() }, Hang: v.proxy.Hang, Refuse: v.revoke,
		Lose: func(testing.TB) { v.proxy.Lose("POST") },
	}
}
