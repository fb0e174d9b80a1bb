//go:build linux

package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// manifests are the files of the installation, and those that one may add.
func manifests(t *testing.T) (usual, optional []string) {
	t.Helper()
	text, err := os.ReadFile("kubernetes/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var k struct{ Resources []string }
	if err := yaml.Unmarshal(text, &k); err != nil {
		t.Fatal(err)
	}
	for _, name := range k.Resources {
		usual = append(usual, filepath.Join("kubernetes", name))
	}
	there, _ := filepath.Glob("kubernetes/*.yaml")
	for _, name := range there {
		if !slices.Contains(usual, name) && filepath.Base(name) != "kustomization.yaml" {
			t.Errorf("%s stands in no line of the kustomization", name)
		}
	}
	optional, _ = filepath.Glob("kubernetes/optional/*.yaml")
	for _, name := range optional {
		if !bytes.Contains(text, []byte("# - optional/"+filepath.Base(name))) {
			t.Errorf("%s is not offered in the kustomization", name)
		}
	}
	return usual, optional
}

// api speaks to the API server as kubectl apply --server-side --validate=strict does: what has an unknown field or a wrong value is refused.
type api struct {
	t    *testing.T
	host string
	http *http.Client
}

func newAPI(t *testing.T, s *clustertest.Server) *api {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig("admin"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return &api{t, config.Host, client}
}

var plurals = map[string]string{
	"ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps", "Secret": "secrets", "Deployment": "deployments", "Service": "services", "PodDisruptionBudget": "poddisruptionbudgets",
	"NetworkPolicy": "networkpolicies", "HorizontalPodAutoscaler": "horizontalpodautoscalers", "PersistentVolumeClaim": "persistentvolumeclaims", "CronJob": "cronjobs",
	"ClusterRoleBinding": "clusterrolebindings", "Pod": "pods",
}

// apply creates an object; it gives the server's warnings and its refusal.
func (a *api) apply(o cluster.Object, namespace string, dryRun bool) (warnings []string, refused string) {
	a.t.Helper()
	path := "/api/v1"
	if v := o.Text("apiVersion"); v != "v1" {
		path = "/apis/" + v
	}
	kind := o.Text("kind")
	if plurals[kind] == "" {
		a.t.Fatalf("%s is not known to this test", kind)
	}
	if kind != "ClusterRoleBinding" {
		path += "/namespaces/" + namespace
	}
	path += "/" + plurals[kind] + "?fieldValidation=Strict"
	if dryRun {
		path += "&dryRun=All"
	}
	text, err := json.Marshal(o)
	if err != nil {
		a.t.Fatal(err)
	}
	res, err := a.http.Post(strings.TrimSuffix(a.host, "/")+path, "application/json", bytes.NewReader(text))
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode >= 300 {
		refused = fmt.Sprintf("%s: %s", res.Status, body)
	}
	return res.Header.Values("Warning"), refused
}

// template is the pod that a workload makes; nil for what makes none.
func template(o cluster.Object) cluster.Object {
	at := []string{"spec", "template"}
	if o.Text("kind") == "CronJob" {
		at = []string{"spec", "jobTemplate", "spec", "template"}
	}
	var v any = map[string]any(o)
	for _, key := range at {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	m, _ := v.(map[string]any)
	return m
}

func TestManifestsAreTakenByARealAPIServer(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	a := newAPI(t, s)
	namespace := "slipway"
	// Where pods may do the least that Kubernetes has a name for.
	s.Create(t, cluster.Namespaces, "", cluster.Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
		"name": namespace, "labels": map[string]any{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}}})
	usual, optional := manifests(t)
	pods := 0
	for _, file := range append(usual, optional...) {
		for _, o := range clustertest.Objects(t, file) {
			if o.Text("apiVersion") == "monitoring.coreos.com/v1" { // its definition comes with the operator
				continue
			}
			if warnings, refused := a.apply(o, namespace, false); refused != "" || len(warnings) > 0 {
				t.Errorf("%s: %s %s: %s %v", file, o.Text("kind"), o.Name(), refused, warnings)
			}
			if pod := template(o); pod != nil { // as the controllers make it, by which pod security is enforced
				pods++
				pod["apiVersion"], pod["kind"] = "v1", "Pod"
				pod["metadata"].(map[string]any)["name"] = fmt.Sprintf("pod-%d", pods)
				if warnings, refused := a.apply(pod, namespace, true); refused != "" || len(warnings) > 0 {
					t.Errorf("%s: its pod: %s %v", file, refused, warnings)
				}
			}
		}
	}
	if pods != 3 {
		t.Errorf("%d workloads were found, want those that answer, those that work, and the backup", pods)
	}
	// The check is no rubber stamp.
	wrong := clustertest.Objects(t, "kubernetes/web.yaml")[0]
	wrong["metadata"].(map[string]any)["name"] = "wrong"
	wrong["spec"].(map[string]any)["replica"] = 3
	if _, refused := a.apply(wrong, namespace, true); !strings.Contains(refused, "unknown field") {
		t.Errorf("a misspelt field is taken: %s", refused)
	}
}

// What the manifests say to the program has to be what the program takes: arguments, configuration, ports and probes.
func TestManifestsFitTheProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secrets := filepath.Join(dir, "secrets")
	if err := os.Mkdir(secrets, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(secrets, "database-url"), []byte(storetest.URL(t, store.Postgres)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := server.MakeKey(filepath.Join(secrets, "master.key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(secrets, "master.key"), 0o440); err != nil { // as fsGroup and defaultMode have it
		t.Fatal(err)
	}
	config := clustertest.Objects(t, "kubernetes/configmap.yaml")[0].Text("data", "slipway.yaml")
	config = strings.NewReplacer("/etc/slipway-secrets", secrets, "0.0.0.0:8080", "127.0.0.1:0", "0.0.0.0:9090", "127.0.0.1:0").Replace(config)
	file := filepath.Join(dir, "slipway.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	slipway := func(args ...string) ([]byte, error) {
		for i := range args {
			args[i] = strings.NewReplacer("/etc/slipway/slipway.yaml", file, "/backups/$(POD_NAME)", filepath.Join(dir, "backup")).Replace(args[i])
		}
		cmd := exec.CommandContext(t.Context(), binary(t), args...)
		cmd.Dir, cmd.Env = dir, []string{"SLIPWAY_DATA_DIR=" + filepath.Join(dir, "data")}
		return cmd.CombinedOutput()
	}
	if out, err := slipway("config", "check", "--config", file); err != nil {
		t.Errorf("config check: %v\n%s", err, out)
	}
	for _, name := range []string{"web", "worker", "optional/backup"} {
		for _, o := range clustertest.Objects(t, "kubernetes/"+name+".yaml") {
			pod := template(o)
			if pod == nil {
				continue
			}
			var spec struct {
				InitContainers, Containers []struct {
					Name  string
					Args  []string
					Ports []struct {
						Name          string
						ContainerPort int
					}
					LivenessProbe, ReadinessProbe, StartupProbe *struct{ HTTPGet struct{ Path, Port string } }
				}
			}
			text, err := json.Marshal(pod["spec"])
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &spec); err != nil {
				t.Fatal(err)
			}
			for _, c := range append(spec.InitContainers, spec.Containers...) {
				if c.Args[0] == "db" {
					if out, err := slipway(c.Args...); err != nil {
						t.Errorf("%s, %s: slipway %v: %v\n%s", name, c.Name, c.Args, err, out)
					}
					continue
				}
				// A server that would start: it says what it is, and is stopped.
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.LivenessProbe == nil || c.ReadinessProbe == nil || c.StartupProbe == nil {
					t.Fatalf("%s lacks a probe", name)
				}
				probed(ctx, t, dir, file, c.Args, c.LivenessProbe.HTTPGet.Path, c.ReadinessProbe.HTTPGet.Path)
			}
		}
	}
}

// probed starts a server with these arguments and asks what Kubernetes asks, at the address for metrics, as the manifests say.
func probed(ctx context.Context, t *testing.T, dir, config string, args []string, paths ...string) {
	t.Helper()
	address := freeAddress(t)
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.Replace(args[i], "/etc/slipway/slipway.yaml", config, 1)
	}
	cmd := exec.CommandContext(ctx, binary(t), args...)
	var log bytes.Buffer
	cmd.Dir, cmd.Stderr, cmd.Stdout = dir, &log, &log
	cmd.Env = []string{"SLIPWAY_DATA_DIR=" + filepath.Join(dir, "data"), "SLIPWAY_SERVER_METRICS_LISTEN=" + address}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Cancel()
		if err := cmd.Wait(); err != nil {
			t.Errorf("slipway %v: %v\n%s", args, err, &log)
		}
	}()
	for _, path := range append(paths, "/metrics") {
		clustertest.Eventually(t, path+" answers", func() bool {
			res, err := http.Get("http://" + address + path)
			if err != nil {
				return false
			}
			res.Body.Close()
			return res.StatusCode == 200
		})
	}
}

// The configuration in the Compose file is one that the program takes, with a password as openssl writes it.
func TestTheComposeFileFitsTheProgram(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Configs  map[string]struct{ Content string }
		Services map[string]struct{ Command []string }
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	password := filepath.Join(dir, "database-password")
	if err := os.WriteFile(password, []byte("6f0c1d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := server.MakeKey(filepath.Join(dir, "master.key")); err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("$$", "$", "/run/secrets", dir, "/var/lib/slipway", dir).Replace(c.Configs["slipway"].Content)
	file := filepath.Join(dir, "slipway.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), "config", "check", "--config", file)
	cmd.Dir, cmd.Env = dir, []string{"SLIPWAY_DATA_DIR=" + dir}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for name, s := range c.Services { // each with --help in place of doing it
		if len(s.Command) == 0 {
			continue
		}
		if out, err := exec.Command(binary(t), append(s.Command, "--help")...).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("slipway "+s.Command[0])) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
