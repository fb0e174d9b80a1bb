// Package clustertest starts a real Kubernetes API server with a real etcd for tests, and what else of a cluster a test needs: the controller
// manager, Tekton's controller, a stand-in for the kubelet. The programs are built once by `make test-kube` (tools/kube.sh); where they are
// missing, tests are skipped and say so, which counts as a failure in CI.
//
// One server serves all tests of a package; each test has a namespace of its own. Start a server of its own for what others would notice, such as
// its end.
package clustertest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
)

// Patience is how long anything in the cluster may take on a busy machine.
const Patience = 2 * time.Minute

// Server is a running API server.
type Server struct {
	bin, dir string

	mu     sync.Mutex
	input  io.Closer // whose end ends the server
	ended  chan struct{}
	log    *os.File
	client *cluster.Client

	controllers sync.Once
	tekton      sync.Once
	node        sync.Once
	kubelet     *Kubelet
	installed   sync.Map // CRD name to *sync.Once
}

var shared struct {
	sync.Once
	server *Server
	err    error
}

// Shared gives the server of this test package, started by whoever asks first. It ends with the process.
func Shared(t testing.TB) *Server {
	t.Helper()
	bin := program(t, "kubesrv")
	shared.Do(func() { shared.server, shared.err = start(bin) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// New starts a server for one test, which may stop it and start it again.
func New(t testing.TB) *Server {
	t.Helper()
	s, err := start(program(t, "kubesrv"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop(t)
		_ = os.RemoveAll(s.dir)
	})
	return s
}

// Built says whether the API server is there, for tests of which only a part needs it. The others are skipped without asking.
func Built(t testing.TB) bool {
	t.Helper()
	_, err := find(t, "kubesrv")
	return err == nil
}

func find(t testing.TB, name string) (string, error) {
	t.Helper()
	out, err := exec.Command("sh", filepath.Join(root(t), "tools", "kube.sh"), "-find", name).Output()
	return strings.TrimSpace(string(out)), err
}

// program finds what `make test-kube` built, or skips the test.
func program(t testing.TB, name string) string {
	t.Helper()
	file, err := find(t, name)
	if err != nil {
		t.Skipf("the program %s, a part of a real Kubernetes, is not built; run make test-kube", name)
	}
	return file
}

// root is the folder of the module that the test belongs to.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "tools", "kube.sh")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("tools/kube.sh is not found; run the test inside the repository")
		}
	}
}

func start(bin string) (*Server, error) {
	dir, err := os.MkdirTemp("", "slipway-kube-")
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir}
	for range 3 { // the port was free when it was chosen, which is all that one can know
		if err = s.run(); err == nil {
			s.client, err = cluster.New([]cluster.Config{{Name: "test", Kubeconfig: s.Kubeconfig("admin")}}).Get("test")
			return s, err
		}
		_ = os.RemoveAll(dir)
	}
	return nil, err
}

// run starts the program and waits until it is ready.
func (s *Server) run() error {
	log, err := os.OpenFile(s.dir+".log", os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	_ = os.Remove(log.Name()) // it is read through the handle, and gone with the process
	cmd := exec.Command(s.bin, "-dir", s.dir, "-stdin", "-rm", "-users", "alice:dev,bob:dev")
	cmd.Stderr = log
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		text, _ := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", log.Fd()))
		return fmt.Errorf("the API server did not start: %w\n%s", err, tail(text))
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); _ = log.Close(); close(ended) }()
	s.mu.Lock()
	s.input, s.ended, s.log = killer{cmd, input}, ended, log
	s.mu.Unlock()
	return nil
}

// killer ends a server as a crash does: what is on disk stays.
type killer struct {
	cmd   *exec.Cmd
	input io.Closer
}

func (k killer) Close() error { return k.cmd.Process.Kill() }

func tail(text []byte) []byte { return text[max(0, len(text)-4000):] }

// Stop kills the server. Its data stay for Start.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	input, ended := s.input, s.ended
	s.mu.Unlock()
	_ = input.Close()
	<-ended
}

// Start brings a stopped server back, at the same address, with the same credentials and data.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
}

// Kubeconfig names the file of a user: admin, or alice and bob of the group dev, who may do nothing until they are granted it.
func (s *Server) Kubeconfig(user string) string { return filepath.Join(s.dir, user+".kubeconfig") }

// Client is a client that may do everything.
func (s *Server) Client() *cluster.Client { return s.client }

// Config is an entry of `clusters:` for a user.
func (s *Server) Config(name, user string) cluster.Config {
	return cluster.Config{Name: name, Kubeconfig: s.Kubeconfig(user)}
}

// Namespace makes a namespace for a test. Its name is new, with the prefix given.
func (s *Server) Namespace(t testing.TB, prefix string) string {
	t.Helper()
	name := strings.ToLower(prefix + rand.Text()[:10])
	s.MakeNamespace(t, name)
	return name
}

// MakeNamespace makes a namespace of that name.
func (s *Server) MakeNamespace(t testing.TB, name string) {
	t.Helper()
	s.Create(t, cluster.Namespaces, "", cluster.Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}})
}

// Create makes an object as the administrator.
func (s *Server) Create(t testing.TB, r cluster.Resource, namespace string, o cluster.Object) cluster.Object {
	t.Helper()
	made, err := s.client.Create(t.Context(), r, namespace, o)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

var (
	definitions = cluster.Resource{Group: "apiextensions.k8s.io", Version: "v1", Name: "customresourcedefinitions"}
	plurals     = regexp.MustCompile(`(s|x|ch)$`)
)

// Apply creates what the YAML files hold, as `kubectl apply` does for what is not there yet; what is there is replaced. It waits until definitions of resources are
// established. Files that are the same for several tests of a package are applied once.
func (s *Server) Apply(t testing.TB, files ...string) {
	t.Helper()
	for _, file := range files {
		once, _ := s.installed.LoadOrStore(file, &sync.Once{})
		once.(*sync.Once).Do(func() {
			for _, o := range Objects(t, file) {
				s.apply(t, o)
			}
		})
	}
}

func (s *Server) apply(t testing.TB, o cluster.Object) {
	t.Helper()
	if o.Text("kind") == "CustomResourceDefinition" {
		delete(o["spec"].(map[string]any), "conversion") // no webhook runs here
		delete(o, "status")
	}
	group, version, found := strings.Cut(o.Text("apiVersion"), "/")
	if !found {
		group, version = "", group
	}
	plural := strings.ToLower(o.Text("kind"))
	if plurals.MatchString(plural) {
		plural += "e"
	}
	r := cluster.Resource{Group: group, Version: version, Name: plural + "s"}
	_, err := s.client.Create(t.Context(), r, o.Namespace(), o)
	if errors.Is(err, slipway.Conflict) {
		var now cluster.Object
		if now, err = s.client.Get(t.Context(), r, o.Namespace(), o.Name()); err == nil {
			o.Set(now.ResourceVersion(), "metadata", "resourceVersion")
			_, err = s.client.Update(t.Context(), r, o)
		}
	}
	if err != nil {
		t.Fatalf("%s %s: %v", o.Text("kind"), o.Name(), err)
	}
	if r != definitions {
		return
	}
	Eventually(t, o.Name()+" is established", func() bool {
		now, err := s.client.Get(t.Context(), definitions, "", o.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range now.List("status", "conditions") {
			if c.Text("type") == "NonStructuralSchema" && c.Text("status") == "True" {
				t.Fatalf("%s: %s", o.Name(), c.Text("message"))
			}
			if c.Text("type") == "Established" && c.Text("status") == "True" {
				return true
			}
		}
		return false
	})
	served := cluster.Resource{Group: o.Text("spec", "group"), Name: o.Text("spec", "names", "plural")}
	for _, v := range o.List("spec", "versions") {
		if served.Version = v.Text("name"); v.Bool("served") {
			Eventually(t, o.Name()+" is served", func() bool {
				_, err := s.client.List(t.Context(), served, "", cluster.ListOptions{Limit: 1})
				return err == nil
			})
		}
	}
}

// Objects reads the objects of a YAML file.
func Objects(t testing.TB, file string) []cluster.Object {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []cluster.Object
	for d := yaml.NewDecoder(f); ; {
		var v map[string]any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(v) == 0 {
			continue
		}
		o, err := cluster.ToObject(v)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, o)
	}
}

// TektonCRDs are the files with Tekton's resources, from the Go module.
func TektonCRDs(t testing.TB) []string {
	return crds(t, tektonModule, "config/300-crds/*.yaml")
}

// DevWorkspaceCRDs are the files with DevWorkspace and DevWorkspaceTemplate, from the Go module of the devfile API.
func DevWorkspaceCRDs(t testing.TB) []string {
	return crds(t, "github.com/devfile/api/v2@v2.3.0", "crds/workspace.devfile.io_devworkspace*.yaml")
}

// crds finds files of a module, which the Go command fetches when it has to. Nothing of them is kept in this repository.
func crds(t testing.TB, module, pattern string) []string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	var m struct{ Dir string }
	if err != nil || json.Unmarshal(out, &m) != nil {
		t.Fatalf("%s: %v", module, err)
	}
	all, err := filepath.Glob(filepath.Join(m.Dir, filepath.FromSlash(pattern)))
	var files []string
	for _, f := range all {
		if !strings.Contains(filepath.Base(f), "v1beta1") { // a copy of the same for old clusters
			files = append(files, f)
		}
	}
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no %s: %v", module, pattern, err)
	}
	return files
}

// Grant lets a user (admin's word for it: a User) do everything with some resources in a namespace, and waits until the API server knows.
func (s *Server) Grant(t testing.TB, user, namespace string, resources ...cluster.Resource) {
	t.Helper()
	var rules []any
	for _, r := range resources {
		rules = append(rules, map[string]any{"apiGroups": []any{r.Group}, "resources": []any{r.Name, r.Name + "/status"}, "verbs": []any{"*"}})
	}
	rbac := func(name string) cluster.Resource {
		return cluster.Resource{Group: "rbac.authorization.k8s.io", Version: "v1", Name: name}
	}
	name := strings.ToLower("test-" + rand.Text()[:8])
	s.Create(t, rbac("roles"), namespace, cluster.Object{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": map[string]any{"name": name}, "rules": rules})
	s.Create(t, rbac("rolebindings"), namespace, cluster.Object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": name},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}},
	})
	for _, r := range resources {
		Eventually(t, user+" may read "+r.String(), func() bool {
			_, err := s.client.As(user).List(t.Context(), r, namespace, cluster.ListOptions{Limit: 1})
			return !errors.Is(err, slipway.Forbidden)
		})
	}
}

// Controllers runs the controller manager from now on: quotas, default service accounts, the garbage of deleted owners, the end of namespaces. It may be called by any
// number of tests.
func (s *Server) Controllers(t testing.TB) {
	t.Helper()
	s.controllers.Do(func() {
		cmd := exec.Command(s.bin)
		cmd.Args = []string{
			"kube-controller-manager", "--kubeconfig", s.Kubeconfig("admin"), "--leader-elect=false",
			"--service-account-private-key-file", filepath.Join(s.dir, "sa.key"), "--root-ca-file", filepath.Join(s.dir, "ca.crt"),
			"--bind-address", "127.0.0.1", "--secure-port", "0",
		}
		if _, err := cmd.StdinPipe(); err != nil { // it ends with this process
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = cmd.Wait() }()
	})
}

// GrantAll lets a user do everything everywhere, until revoke is called. Both return when the API server knows.
func (s *Server) GrantAll(t testing.TB, user string) (revoke func(t testing.TB)) {
	t.Helper()
	bindings := cluster.Resource{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "clusterrolebindings"}
	name := strings.ToLower("test-" + rand.Text()[:10])
	s.Create(t, bindings, "", cluster.Object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": name},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}},
	})
	may := func() bool {
		_, err := s.client.As(user).List(t.Context(), cluster.Namespaces, "", cluster.ListOptions{Limit: 1})
		return err == nil
	}
	Eventually(t, user+" may do everything", may)
	return func(t testing.TB) {
		t.Helper()
		if err := s.client.Delete(t.Context(), bindings, "", name, "", ""); err != nil {
			t.Fatal(err)
		}
		Eventually(t, user+" may do nothing", func() bool { return !may() })
	}
}

// Gate is a way to the API server that can be closed: then nobody answers, and open connections break.
type Gate struct {
	// Kubeconfig leads through the gate.
	Kubeconfig string

	target   string
	mu       sync.Mutex
	listener net.Listener
	address  string
	conns    map[net.Conn]bool
}

// Gate makes an open gate for a user.
func (s *Server) Gate(t testing.TB, user string) *Gate {
	t.Helper()
	text, err := os.ReadFile(s.Kubeconfig(user))
	if err != nil {
		t.Fatal(err)
	}
	server := regexp.MustCompile(`https://(127\.0\.0\.1:\d+)`).FindSubmatch(text)
	g := &Gate{target: string(server[1]), address: "127.0.0.1:0", Kubeconfig: filepath.Join(t.TempDir(), "gate.kubeconfig"), conns: map[net.Conn]bool{}}
	g.Open(t)
	t.Cleanup(g.Close)
	if err := os.WriteFile(g.Kubeconfig, []byte(strings.ReplaceAll(string(text), g.target, g.address)), 0o600); err != nil {
		t.Fatal(err)
	}
	return g
}

// Open opens the gate again, at the same address.
func (g *Gate) Open(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.listener, g.address = l, l.Addr().String()
	g.mu.Unlock()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", g.target)
			if err != nil {
				_ = in.Close()
				continue
			}
			g.mu.Lock()
			if g.listener != l {
				_, _ = in.Close(), out.Close()
			}
			g.conns[in], g.conns[out] = true, true
			g.mu.Unlock()
			go g.pipe(in, out)
			go g.pipe(out, in)
		}
	}()
}

func (g *Gate) pipe(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	_, _ = from.Close(), to.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, from)
	delete(g.conns, to)
}

// Close closes the gate and breaks what goes through it.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil {
		_ = g.listener.Close()
		g.listener = nil
	}
	for c := range g.conns {
		_ = c.Close()
	}
}

// Eventually waits until something holds.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("it did not come to be within %v: %s", Patience, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
