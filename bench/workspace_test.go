//go:build bench

package bench

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/blueprint/workspace"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// TestWorkspaceNumbers takes the numbers of workspaces: `go test ./bench -tags bench -run TestWorkspaceNumbers -v`. The API server is a stub that holds them.
func TestWorkspaceNumbers(t *testing.T) {
	seconds, e := float64(number("BENCH_SECONDS", 5)), string(store.SQLite)
	memory := map[int]float64{}
	for _, n := range []int{0, 2_000} {
		p := workspaces(t, n)
		known(t, p)
		memory[n] = p.heap(t)
		p.stop()
	}
	numbers.add("heap of a server that watches 2,000 workspaces of 12 kB, above one that watches none", e, fmt.Sprintf("%.1f MB (%.1f MB beside %.1f MB)", memory[2000]-memory[0], memory[2000], memory[0]), "≤ 40 MB")

	p := workspaces(t, 10_000)
	if total := known(t, p); total != 20 {
		t.Fatalf("the client has %d workspaces, want 20", total)
	}
	paths := []string{workspacePath, workspacePath + "?status=Running", workspacePath + "?limit=10"}
	top := p.call(t, paths, seconds, 0, 0)
	half := p.call(t, paths, seconds, top.rate()/2, 20_000)
	numbers.add("list of a user's 20 workspaces of 10,000 in the cluster, at half of the top rate: p50, p99", e, fmt.Sprintf("%.1f ms, %.1f ms", half.P50, half.P99), "≤ 10 ms")
	var took []float64
	for i := range 50 {
		begin := time.Now()
		p.do(t, http.MethodPost, workspacePath, fmt.Sprintf(`{"devfileUrl":%q,"name":"made-%d"}`, os.Getenv("BENCH_DEVFILE"), i))
		if i > 0 {
			took = append(took, float64(time.Since(begin).Microseconds())/1000)
		}
	}
	numbers.add("create of a workspace, from the second on, its devfile known: median, longest of 49", e, fmt.Sprintf("%.1f ms, %.1f ms", median(took), took[len(took)-1]), "≤ 150 ms")
	fmt.Printf("\n| what | engine | measured | wanted |\n|---|---|---|---|\n%s\n", strings.Join(numbers.lines, "\n"))
}

// heap is what the heap holds after a collection, in MB: the least that it tells of while requests make garbage.
func (p *process) heap(t *testing.T) float64 {
	t.Helper()
	least := math.Inf(1)
	for range 20 {
		p.call(t, []string{workspacePath}, 0.2, 0, 0)
		for line := range strings.Lines(string(p.do(t, http.MethodGet, "/metrics", ""))) {
			if v, ok := strings.CutPrefix(line, "go_memstats_heap_alloc_bytes "); ok {
				n, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
				least = min(least, n/1e6)
			}
		}
	}
	return least
}

// known waits until the server knows the cluster.
func known(t *testing.T, p *process) int {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		var list struct{ Total int }
		err := get(p, http.DefaultClient, workspacePath, &list)
		if err == nil {
			return list.Total
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

const workspacePath = "/api/che-launcher/workspaces"

// workspaces starts a server on a stub of an API server that holds n workspaces, 20 of them the client's.
func workspaces(t *testing.T, n int) *process {
	t.Helper()
	devfile, err := os.ReadFile("../blueprint/workspace/testdata/devfiles/goldenpath-python.yaml")
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(devfile) }))
	t.Cleanup(web.Close)
	dir := t.TempDir()
	ca, config := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "kubeconfig")
	stub := &apiServer{n: n}
	api := httptest.NewServer(stub)
	t.Cleanup(api.CloseClientConnections)
	for file, text := range map[string]string{
		ca: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})),
		config: "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: " + api.URL + "}}]\nusers: [{name: u, user: {token: t}}]\n" +
			"contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("BENCH_KUBECONFIG", config)
	t.Setenv("BENCH_DEVFILE", web.URL+"/devfile.yaml")
	t.Setenv("BENCH_CA", ca)
	p := start(t, "slipway", prepare(t, store.SQLite, 2, 10), t.TempDir())
	stub.owner = fmt.Sprint("token:bench-", p.cmd.Process.Pid) // before the first list, when the cluster is asked first
	return p
}

// configureWorkspaces has a server use the cluster that the test made, if it did.
func configureWorkspaces(c *server.Config) {
	file := os.Getenv("BENCH_KUBECONFIG")
	if file == "" {
		return
	}
	if c.Sections == nil {
		c.Sections = server.Sections(builtin.Blueprints())
	}
	c.Clusters = []cluster.Config{{Name: "main", Kubeconfig: file}}
	c.Fetch.Allow, c.Fetch.CAFile = append(c.Fetch.Allow, os.Getenv("BENCH_DEVFILE")), os.Getenv("BENCH_CA")
	c.Sections["workspaces"].(*workspace.Config).Namespaces = []workspace.Namespace{{Name: "user-7", To: []string{"*"}}}
}

// apiServer holds workspaces: it answers lists in pages, watches that tell nothing, and what creates, reads and patches one.
type apiServer struct {
	n       int
	version atomic.Int64
	owner   string // of those in the namespace user-7
}

// object is a workspace with what a real one has: the devfile of a golden path and what the API server notes of its managers, some 12 kB.
func (a *apiServer) object(i int) map[string]any {
	owner := fmt.Sprint("user:default/user-", i/20)
	if i/20 == 7 {
		owner = a.owner
	}
	container := map[string]any{"image": "quay.io/devfile/universal-developer-image:ubi8-latest", "memoryLimit": "4Gi"}
	var commands, managed []any
	for k := range 20 {
		commands = append(commands, map[string]any{"id": fmt.Sprint("command-", k), "exec": map[string]any{"component": "tools", "commandLine": strings.Repeat("make ", 20), "workingDir": "${PROJECT_SOURCE}"}})
		managed = append(managed, map[string]any{"manager": fmt.Sprint("manager-", k), "operation": "Update", "fieldsV1": map[string]any{"f:spec": map[string]any{"f:template": map[string]any{strings.Repeat("f:x", 60): map[string]any{}}}}})
	}
	return map[string]any{
		"apiVersion": "workspace.devfile.io/v1alpha2", "kind": "DevWorkspace",
		"metadata": map[string]any{
			"name": fmt.Sprint("workspace-", i), "namespace": fmt.Sprint("user-", i/20), "uid": fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i), "resourceVersion": "1", "creationTimestamp": "2026-11-01T10:00:00Z",
			"annotations": map[string]any{"slipway.dev/devfile-name": "goldenpath-python", "slipway.dev/devfile-version": "1.0.0", "slipway.dev/owner": owner}, "managedFields": managed,
		},
		"spec":   map[string]any{"started": true, "template": map[string]any{"components": []any{map[string]any{"name": "tools", "container": container}}, "commands": commands}},
		"status": map[string]any{"phase": "Running", "mainUrl": "https://che.example.com/x/3100/", "devworkspaceId": fmt.Sprintf("workspace%08x00004000", i), "message": "https://che.example.com/x/3100/"},
	}
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	last := parts[len(parts)-1]
	switch {
	case r.URL.Query().Get("watch") != "":
		w.Header().Set("Content-Type", "application/json")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case r.Method == http.MethodGet && last == "devworkspaces":
		from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		list, metadata := []any{}, map[string]any{"resourceVersion": "1"}
		for i := from; i < a.n && (limit == 0 || i < from+limit); i++ {
			list = append(list, a.object(i))
		}
		if next := from + limit; limit > 0 && next < a.n {
			metadata["continue"] = strconv.Itoa(next)
		}
		answer(200, map[string]any{"metadata": metadata, "items": list})
	case r.Method == http.MethodGet && last == "namespaces":
		answer(200, map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "items": []any{}})
	case r.Method == http.MethodPost || r.Method == http.MethodPatch:
		var o map[string]any
		_ = json.NewDecoder(r.Body).Decode(&o)
		if r.Method == http.MethodPatch {
			o = a.object(0)
			o["metadata"].(map[string]any)["name"], o["metadata"].(map[string]any)["namespace"] = last, parts[len(parts)-3]
		}
		m, _ := o["metadata"].(map[string]any)
		v := a.version.Add(1) + 1
		m["uid"], m["resourceVersion"], m["creationTimestamp"] = fmt.Sprintf("%08x-ffff-4000-8000-%012x", v, v), strconv.FormatInt(v, 10), "2026-11-01T10:00:00Z"
		answer(201, o)
	default:
		answer(404, map[string]any{"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "details": map[string]any{"kind": "namespaces", "name": last}})
	}
}
