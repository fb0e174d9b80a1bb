package clustertest

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
)

// tektonModule is where Tekton's resources and settings come from. The controller is built from the same version.
const tektonModule = "github.com/tektoncd/pipeline@v1.0.0"

// Tekton runs Tekton's own controller, with its resources, until the test ends: call it in one test of a package. Its webhook does not run: what it would fill in or refuse when a run is created is as it was
// written. Pods need a node: see Kubelet.Run. Every step needs a command or a script, because there is no registry to look into.
func (s *Server) Tekton(t testing.TB) {
	t.Helper()
	bin := program(t, "tekton")
	s.Controllers(t)
	s.Apply(t, TektonCRDs(t)...)
	s.tekton.Do(func() {
		s.MakeNamespace(t, "tekton-pipelines")
		for _, file := range crds(t, tektonModule, "config/config-*.yaml") {
			for _, o := range Objects(t, file) {
				s.Create(t, cluster.Resource{Version: "v1", Name: "configmaps"}, "tekton-pipelines", o)
			}
		}
		dir := t.TempDir()
		cmd := exec.Command(bin, "-kubeconfig", s.Kubeconfig("admin"), "-disable-ha",
			"-entrypoint-image", "registry.example.com/entrypoint", "-nop-image", "registry.example.com/nop",
			"-sidecarlogresults-image", "registry.example.com/sidecarlogresults", "-workingdirinit-image", "registry.example.com/workingdirinit",
			"-shell-image", "registry.example.com/shell", "-shell-image-win", "registry.example.com/shell-win")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "SYSTEM_NAMESPACE=tekton-pipelines", "METRICS_DOMAIN=tekton.dev/pipeline",
			"CONFIG_LEADERELECTION_NAME=config-leader-election-controller", "CONFIG_FEATURE_FLAGS_NAME=feature-flags",
			"PROBES_PORT="+freePort(t), "METRICS_PROMETHEUS_PORT="+freePort(t), "PROFILING_PORT="+freePort(t))
		log, err := os.Create(filepath.Join(dir, "tekton.log"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-ended
			if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
				t.Logf("Tekton's controller: %s", tail(text))
			}
			_ = log.Close()
		})
	})
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// Outcome is how a container ends.
type Outcome struct {
	Code    int
	Message string // what it wrote to /dev/termination-log
	Log     string // what it printed
}

// Run stands in for the scheduler and the kubelet until the test ends: each pod of the namespace gets a node, its containers run, and end as decide says; nil
// leaves one running.
func (k *Kubelet) Run(t testing.TB, namespace string, decide func(pod cluster.Object, container string) *Outcome) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			page, err := k.server.client.List(ctx, cluster.Pods, namespace, cluster.ListOptions{})
			if err == nil {
				for _, pod := range page.Items {
					if err = k.live(ctx, pod, decide); err != nil {
						break
					}
				}
			}
			if err != nil && ctx.Err() == nil && !errors.Is(err, slipway.NotFound) && !errors.Is(err, slipway.Precondition) && !errors.Is(err, slipway.Conflict) {
				t.Errorf("the stand-in for the kubelet: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// live takes a pod one step further.
func (k *Kubelet) live(ctx context.Context, pod cluster.Object, decide func(cluster.Object, string) *Outcome) error {
	c, ns, name := k.server.client, pod.Namespace(), pod.Name()
	switch phase := pod.Text("status", "phase"); {
	case pod.Deleting():
		return c.Delete(ctx, cluster.Pods, ns, name, pod.UID(), "")
	case pod.Text("spec", "nodeName") == "":
		_, err := c.CreateSub(ctx, cluster.Pods, ns, name, "binding", cluster.Object{
			"apiVersion": "v1", "kind": "Binding", "metadata": map[string]any{"name": name, "uid": pod.UID()},
			"target": map[string]any{"kind": "Node", "name": nodeName},
		})
		return err
	case phase == "" || phase == "Pending":
		status := map[string]any{"phase": "Running", "startTime": now(), "conditions": []any{
			map[string]any{"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}, map[string]any{"type": "Ready", "status": "True", "lastTransitionTime": now()},
		}}
		status["initContainerStatuses"] = statuses(pod, "initContainers", func(string) map[string]any {
			return map[string]any{"terminated": map[string]any{"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}}
		})
		status["containerStatuses"] = statuses(pod, "containers", func(string) map[string]any {
			return map[string]any{"running": map[string]any{"startedAt": now()}}
		})
		_, err := c.PatchStatus(ctx, cluster.Pods, ns, name, cluster.Object{"status": status})
		return err
	case phase == "Running":
		ended, failed := map[string]*Outcome{}, false
		for _, container := range pod.List("spec", "containers") {
			o := decide(pod, container.Text("name"))
			if o == nil {
				return nil
			}
			ended[container.Text("name")], failed = o, failed || o.Code != 0
		}
		for container, o := range ended {
			k.Write(ns, name, container, o.Log)
			k.End(ns, name, container)
		}
		phase := "Succeeded"
		if failed {
			phase = "Failed"
		}
		_, err := c.PatchStatus(ctx, cluster.Pods, ns, name, cluster.Object{"status": map[string]any{"phase": phase, "containerStatuses": statuses(pod, "containers", func(name string) map[string]any {
			o, reason := ended[name], "Completed"
			if o.Code != 0 {
				reason = "Error"
			}
			return map[string]any{"terminated": map[string]any{"exitCode": o.Code, "reason": reason, "message": o.Message, "startedAt": now(), "finishedAt": now()}}
		})}})
		return err
	}
	return nil
}

func statuses(pod cluster.Object, list string, state func(name string) map[string]any) []any {
	var out []any
	for _, c := range pod.List("spec", list) {
		name := c.Text("name")
		s := state(name)
		_, running := s["running"]
		out = append(out, map[string]any{"name": name, "image": c.Text("image"), "imageID": "stand-in://" + c.Text("image"), "ready": running || list == "initContainers", "restartCount": 0, "state": s})
	}
	return out
}
