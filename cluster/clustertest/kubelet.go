package clustertest

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
)

// Kubelet stands in for a node: the API server reads the logs of its pods from it, and Run takes pods through their lives. It runs no container: a test with it
// proves what is asked of the cluster and what is made of its answers, never a build.
type Kubelet struct {
	server *Server
	mu     sync.Mutex
	logs   map[string]*podLog // by namespace/pod/container
}

// podLog is what a container printed so far.
type podLog struct {
	text    string
	ended   bool
	changed chan struct{} // closed at the next change
}

const nodeName = "stand-in"

// Kubelet gives the node of the server, which is made when first asked for.
func (s *Server) Kubelet(t testing.TB) *Kubelet {
	t.Helper()
	s.node.Do(func() {
		k := &Kubelet{server: s, logs: map[string]*podLog{}}
		host, port, err := net.SplitHostPort(httptest.NewTLSServer(k).Listener.Addr().String()) // it lives as long as the process, as the API server does
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		nodes := cluster.Resource{Version: "v1", Name: "nodes"}
		s.Create(t, nodes, "", cluster.Object{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": nodeName}})
		if _, err := s.client.PatchStatus(t.Context(), nodes, "", nodeName, cluster.Object{"status": map[string]any{ // the controllers change it too
			"addresses":       []any{map[string]any{"type": "InternalIP", "address": host}},
			"daemonEndpoints": map[string]any{"kubeletEndpoint": map[string]any{"Port": n}},
		}}); err != nil {
			t.Fatal(err)
		}
		s.kubelet = k
	})
	return s.kubelet
}

func (k *Kubelet) log(namespace, pod, container string) *podLog {
	key := namespace + "/" + pod + "/" + container
	if k.logs[key] == nil {
		k.logs[key] = &podLog{changed: make(chan struct{})}
	}
	return k.logs[key]
}

// Write has a container print.
func (k *Kubelet) Write(namespace, pod, container, text string) {
	k.change(namespace, pod, container, func(l *podLog) { l.text += text })
}

// End ends the log of a container, for whoever follows it.
func (k *Kubelet) End(namespace, pod, container string) {
	k.change(namespace, pod, container, func(l *podLog) { l.ended = true })
}

func (k *Kubelet) change(namespace, pod, container string, f func(*podLog)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.log(namespace, pod, container)
	f(l)
	close(l.changed)
	l.changed = make(chan struct{})
}

// ServeHTTP answers the API server as a kubelet does about logs.
func (k *Kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) != 4 || parts[0] != "containerLogs" {
		http.NotFound(w, r)
		return
	}
	for sent := 0; ; {
		k.mu.Lock()
		l := *k.log(parts[1], parts[2], parts[3])
		k.mu.Unlock()
		if _, err := w.Write([]byte(l.text[sent:])); err != nil {
			return
		}
		sent = len(l.text)
		_ = http.NewResponseController(w).Flush()
		if l.ended || r.URL.Query().Get("follow") != "true" {
			return
		}
		select {
		case <-l.changed:
		case <-r.Context().Done():
			return
		}
	}
}

// RunningPod makes a pod on the node whose containers run, with labels.
func (k *Kubelet) RunningPod(t testing.TB, namespace, name string, labels map[string]any, containers ...string) cluster.Object {
	t.Helper()
	var spec []any
	for _, c := range containers {
		spec = append(spec, map[string]any{"name": c, "image": "registry.example.com/" + c})
	}
	pod := cluster.Object{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "labels": labels},
		"spec": map[string]any{"nodeName": nodeName, "containers": spec, "automountServiceAccountToken": false},
	}
	if _, err := k.server.client.Get(t.Context(), cluster.Resource{Version: "v1", Name: "serviceaccounts"}, namespace, "default"); errors.Is(err, slipway.NotFound) { // the controllers' business
		_, err := k.server.client.Create(t.Context(), cluster.Resource{Version: "v1", Name: "serviceaccounts"}, namespace,
			cluster.Object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "default"}})
		if err != nil && !errors.Is(err, slipway.Conflict) {
			t.Fatal(err)
		}
	}
	made := k.server.Create(t, cluster.Pods, namespace, pod)
	k.state(t, made, map[string]any{"running": map[string]any{"startedAt": now()}}, "Running")
	return made
}

// EndPod ends all containers of a pod with an exit code, and their logs.
func (k *Kubelet) EndPod(t testing.TB, pod cluster.Object, code int) {
	t.Helper()
	for _, c := range pod.List("spec", "containers") {
		k.End(pod.Namespace(), pod.Name(), c.Text("name"))
	}
	phase, reason := "Succeeded", "Completed"
	if code != 0 {
		phase, reason = "Failed", "Error"
	}
	k.state(t, pod, map[string]any{"terminated": map[string]any{"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}}, phase)
}

func (k *Kubelet) state(t testing.TB, pod cluster.Object, state map[string]any, phase string) {
	t.Helper()
	var statuses []any
	for _, c := range pod.List("spec", "containers") {
		statuses = append(statuses, map[string]any{
			"name": c.Text("name"), "image": c.Text("image"), "imageID": "", "ready": phase == "Running", "restartCount": 0, "state": state,
		})
	}
	_, err := k.server.client.PatchStatus(t.Context(), cluster.Pods, pod.Namespace(), pod.Name(), cluster.Object{
		"status": map[string]any{"phase": phase, "startTime": now(), "containerStatuses": statuses},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }
