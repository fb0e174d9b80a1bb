package seeds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/workspace"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/command"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// The test's own binary is the program, too, when it is called by its name.
func TestMain(m *testing.M) {
	builtin.Early()
	if filepath.Base(os.Args[0]) == "slipway" {
		os.Exit(command.Main(builtin.Blueprints(), builtin.Providers()))
	}
	os.Exit(m.Run())
}

// world is what a table is played against: a server with every blueprint of this build on an empty database, two vendors with a few
// builds, a catalog, and an internet in which only the documents' own addresses exist.
type world struct {
	server  *blueprinttest.Server
	tokens  map[string]string
	dir     string // an empty folder, in which commands run
	program string
	cluster *clustertest.Server // nil where none is built, or needed
}

const catalogFile = `
apiVersion: backstage.io/v1alpha1
kind: Component
metadata:
  name: web
  annotations: {slipway.dev/fake-project: "octo/web, web-nightly"}
spec: {type: website, lifecycle: production, owner: team-a}
---
apiVersion: backstage.io/v1alpha1
kind: Component
metadata:
  name: api
  annotations: {slipway.dev/fake-project: octo/api}
spec: {type: service, lifecycle: production, owner: team-a}
---
apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: lonely}
spec: {type: service, lifecycle: production, owner: team-a}
---
apiVersion: backstage.io/v1alpha1
kind: Group
metadata: {name: team-a}
spec: {type: team, children: []}
---
apiVersion: backstage.io/v1alpha1
kind: User
metadata:
  name: jane
  annotations: {slipway.dev/fake-login: jane}
spec: {profile: {displayName: Jane, email: jane@example.com}, memberOf: [team-a]}
`

// documents are what the internet of the tests has.
var documents = map[string]string{
	"paruff/my-service": `
apiVersion: backstage.io/v1alpha1
kind: Component
metadata:
  name: my-service
  description: Microservice for user management
  labels: {app.fawkes.idp/team: platform-team}
spec: {type: service, lifecycle: production, owner: platform-team}
`,
	"paruff/broken": `
apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {description: It has no name}
spec: {type: service, lifecycle: production, owner: platform-team}
`,
}

func newWorld(t *testing.T, engine store.Engine, onCluster bool) *world {
	t.Helper()
	dir := t.TempDir()
	roots := filepath.Join(dir, "catalog")
	file := filepath.Join(roots, "catalog-info.yaml")
	proxy, authority := internet(t, dir)
	for _, err := range []error{os.Mkdir(roots, 0o700), os.WriteFile(file, []byte(catalogFile), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &world{dir: t.TempDir(), tokens: map[string]string{}}
	if onCluster && clustertest.Built(t) {
		w.cluster = clustertest.New(t)
		w.cluster.Apply(t, clustertest.DevWorkspaceCRDs(t)...)
		w.cluster.MakeNamespace(t, "dev-workspaces")
	}
	kinds := slices.DeleteFunc(builtin.Providers(), func(k provider.Kind) bool { return k.Name == fake.Kind.Name })
	w.server = blueprinttest.Start(t, engine, blueprinttest.Options{
		Blueprints: builtin.Blueprints(),
		Kinds:      append(kinds, vendors()),
		Configure: func(c *server.Config) {
			c.Fetch.FileRoots = []string{roots}
			c.Fetch.Proxy, c.Fetch.CAFile = proxy, authority
			c.Proxies = map[string]blueprint.Proxy{"tracker": {Target: "https://tracker.example.com/api", Text: "The tracker of issues"}}
			c.Providers = []server.ProviderConfig{{Name: "octo", Type: "fake"}, {Name: "legacy", Type: "fake"}, {Name: "ci", Type: "local", Rest: map[string]any{
				"command": []string{"./build.sh"}, "repositories": []string{"https://gitlab.example.com/*"}, "isolation": "none",
			}}}
			if w.cluster != nil {
				c.Clusters = []cluster.Config{w.cluster.Config("main", "admin")}
				ws := c.Sections["workspaces"].(*workspace.Config)
				ws.URL, ws.Namespaces = "https://che.fawkes.example.com", []workspace.Namespace{{Name: "dev-workspaces", To: []string{"*"}}}
			}
			c.Auth.SignIn.TLSHeader.From = []string{"127.0.0.1"}
			c.Auth.Grants = []auth.GrantConfig{{To: "user:default/jane", Permissions: []string{"catalog.*", "build.*"}}}
		},
	})
	// A link to this binary under the program's name.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w.program = filepath.Join(t.TempDir(), "slipway")
	if err := os.Symlink(self, w.program); err != nil {
		t.Fatal(err)
	}
	w.server.Post("/api/catalog/locations", map[string]string{"type": "file", "target": file})
	limit := auth.DefaultConfig().RateLimits.Service
	w.tokens[""] = w.server.Token
	w.tokens["nobody"] = ""
	w.tokens["forger"] = w.server.Token[:len(w.server.Token)-4] + "aaaa"
	w.tokens["jane"] = w.server.NewToken(auth.NewToken{Name: "jane", User: "user:default/jane"})
	w.tokens["robot"] = w.server.NewToken(auth.NewToken{Name: "robot", Permissions: []string{"build.run.read"}, RateLimit: &limit})
	w.tokens["stranger"] = w.server.NewToken(auth.NewToken{Name: "stranger", Permissions: []string{"catalog.entity.read"}})
	return w
}

func (w *world) ask(t *testing.T, as, method, path string, body any, headers map[string]string) answer {
	t.Helper()
	token, ok := w.tokens[as]
	if !ok {
		t.Fatalf("there is nobody called %q here", as)
	}
	var pairs []string
	for name, value := range headers {
		pairs = append(pairs, name, value)
	}
	a := w.server.As(token).Do(method, path, body, pairs...)
	return answer{status: a.Status, headers: a.Header.Get, body: a.Body}
}

// vendors is a kind that opens two vendors: "octo" and "legacy".
func vendors() provider.Kind {
	at := func(hour int) time.Time { return time.Date(2026, 11, 20, hour, 0, 0, 0, time.UTC) }
	person := func(id string) *slipway.Person {
		return &slipway.Person{ID: id, Name: strings.ToUpper(id[:1]) + id[1:], Email: id + "@example.com"}
	}
	octo, legacy := fake.New(fake.Config{}), fake.New(fake.Config{})
	octo.Add("octo/web", slipway.Build{CreatedAt: at(9), Status: slipway.BuildSucceeded, TriggeredBy: person("sam"), Commit: &slipway.Commit{SHA: "aaaa1", Branch: "main"}})
	octo.Add("octo/web", slipway.Build{CreatedAt: at(10), Status: slipway.BuildCanceled, TriggeredBy: person("sam"), Commit: &slipway.Commit{SHA: "aaaa2", Branch: "main"}})
	failed := octo.Add("octo/web", slipway.Build{CreatedAt: at(12), Status: slipway.BuildFailed, TriggeredBy: person("jane"), Commit: &slipway.Commit{SHA: "aaaa3", Branch: "main"}})
	octo.Write("octo/web", failed.ID, "not enough coffee\n")
	octo.Add("octo/api", slipway.Build{CreatedAt: at(8), Status: slipway.BuildFailed, Commit: &slipway.Commit{SHA: "0f00ba4", Branch: "release"}})
	legacy.Add("web-nightly", slipway.Build{CreatedAt: at(11), Status: slipway.BuildSucceeded, Commit: &slipway.Commit{SHA: "bbbb1", Branch: "main"}})

	kind := fake.Kind
	kind.Open = func(_ context.Context, _ json.RawMessage, env provider.Env) (*provider.Provider, error) {
		p, own := octo.Provider(), true
		if env.Name != "octo" {
			p, own = legacy.Provider(), false
		}
		all := p.Projects
		p.Projects = func(e *slipway.Entity) []string {
			return slices.DeleteFunc(all(e), func(name string) bool { return strings.HasPrefix(name, "octo/") != own })
		}
		return p, nil
	}
	return kind
}

// internet starts a proxy that answers for every host, and gives its address and the file with the certificate to trust.
func internet(t *testing.T, dir string) (proxy, authority string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the internet of the tests"}, DNSNames: []string{"github.com", "raw.githubusercontent.com", "api.github.com", "tracker.example.com", "hooks.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	authority = filepath.Join(dir, "authority.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	hosts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "tracker.example.com" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"tracker":%q}`, strings.TrimPrefix(r.URL.Path, "/api/"))
			return
		}
		if strings.HasPrefix(r.URL.Path, "/paruff/fawkes/main/platform/devfiles/") {
			http.ServeFileFS(w, r, os.DirFS("../blueprint/workspace/testdata/devfiles"), path.Base(r.URL.Path))
			return
		}
		for name, text := range documents {
			if strings.Contains(r.URL.Path, name+"/") && strings.HasSuffix(r.URL.Path, "/catalog-info.yaml") {
				_, _ = io.WriteString(w, text)
				return
			}
		}
		http.NotFound(w, r)
	}))
	hosts.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}
	hosts.StartTLS()
	t.Cleanup(hosts.Close)
	tunnel := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only https", http.StatusBadGateway)
			return
		}
		far, err := net.Dial("tcp", hosts.Listener.Addr().String())
		if err != nil {
			http.Error(w, "gone", http.StatusBadGateway)
			return
		}
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			_ = far.Close()
			return
		}
		_, _ = fmt.Fprint(near, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
		go func() { _, _ = io.Copy(near, far); _ = near.Close() }()
	}))
	t.Cleanup(tunnel.Close)
	return tunnel.URL, authority
}
