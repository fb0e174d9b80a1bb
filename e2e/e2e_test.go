// Package e2e tests the built program from outside: its processes, its signals, its databases.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// program is the command, built once; nextProgram is that of a next version.
var (
	program     = built("slipway", "cmd/slipway")
	nextProgram = built("next", "e2e/next")
	programs    []string // folders to remove
)

func built(name, folder string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "slipway-e2e-")
		if err != nil {
			return "", err
		}
		programs = append(programs, dir)
		path := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-o", path, "github.com/slipway-platform/slipway/"+folder)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return path, nil
	})
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range programs {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// installation is a folder with a configuration and a repository, on a database of one engine.
type installation struct {
	t        *testing.T
	dir      string
	config   string
	database string // URL of the database main
	repo     string
	effects  string // one line for each run of a build's command
	token    string
}

func install(t *testing.T, engine store.Engine) *installation {
	t.Helper()
	return installOn(t, storetest.URL(t, engine))
}

// installOn is install on a database that is there; more are further sections of the configuration.
func installOn(t *testing.T, database string, more ...string) *installation {
	t.Helper()
	dir := t.TempDir()
	in := &installation{t: t, dir: dir, config: filepath.Join(dir, "slipway.yaml"), repo: filepath.Join(dir, "repo"), effects: filepath.Join(dir, "effects")}
	write(t, filepath.Join(in.repo, "README"), "a repository\n")
	in.git("init", "-q", "-b", "main")
	in.git("add", ".")
	in.git("-c", "user.name=Jane", "-c", "user.email=jane@example.com", "commit", "-q", "-m", "First")
	write(t, filepath.Join(dir, "catalog", "catalog-info.yaml"), `apiVersion: backstage.io/v1alpha1
kind: Component
metadata:
  name: web
  annotations:
    slipway.dev/local-repository: file://`+in.repo+`
spec: {type: service, lifecycle: production, owner: group:default/team}
`)
	in.database = database
	key := filepath.Join(dir, "master.key")
	if err := server.MakeKey(key); err != nil {
		t.Fatal(err)
	}
	write(t, in.config, fmt.Sprintf(`dataDir: %[1]s/data
databases: {main: %[2]q}
secrets: {keyFile: %[3]s}
fetch: {fileRoots: [%[1]s], allow: ["http://127.0.0.1:*/*"]}
rateLimits: {user: 0/m, service: 0/m}
catalog: {locations: [{type: file, target: %[1]s/catalog/catalog-info.yaml}]}
providers:
  - name: ci
    type: local
    isolation: none
    repositories: ["file://%[1]s/*"]
    command: [sh, -c, 'echo "$SLIPWAY_BUILD_ID" >> "$EFFECTS"; sleep 0.3']
    environment: {EFFECTS: %[4]s}
    timeout: 1m
    parallel: 4
%[5]s
`, dir, in.database, key, in.effects, strings.Join(more, "\n")))
	out, err := in.run("token", "create", "--admin", "e2e", "-o", "json")
	if err != nil {
		t.Fatalf("token create: %v: %s", err, out)
	}
	var created struct {
		Secret string `json:"secret"`
		Token  string `json:"token"`
	}
	if err := json.Unmarshal(out, &created); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if in.token = created.Secret; in.token == "" {
		in.token = created.Token
	}
	return in
}

// configure adds to the configuration.
func (in *installation) configure(text string) {
	in.t.Helper()
	before, err := os.ReadFile(in.config)
	if err != nil {
		in.t.Fatal(err)
	}
	write(in.t, in.config, string(before)+text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (in *installation) git(args ...string) {
	in.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = in.repo
	if out, err := cmd.CombinedOutput(); err != nil {
		in.t.Fatalf("git %v: %v: %s", args, err, out)
	}
}

// run runs one command of the program, on this installation, to its end.
func (in *installation) run(args ...string) ([]byte, error) {
	in.t.Helper()
	return in.runBy(program, args...)
}

// runBy is run with another program.
func (in *installation) runBy(program func() (string, error), args ...string) ([]byte, error) {
	in.t.Helper()
	return in.command(program, append(args, "--config", in.config)...)
}

// run runs one command of the program that asks this server.
func (r *replica) run(args ...string) ([]byte, error) {
	r.in.t.Helper()
	return r.in.command(program, append(args, "--url", r.url)...)
}

func (in *installation) command(program func() (string, error), args ...string) ([]byte, error) {
	in.t.Helper()
	path, err := program()
	if err != nil {
		in.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = in.dir, append(os.Environ(), "SLIPWAY_TOKEN="+in.token)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return append(out, errs.Bytes()...), err
	}
	return out, nil
}

// replica is one running server.
type replica struct {
	in  *installation
	cmd *exec.Cmd
	url string
	log *output
}

// output is what a process has printed so far. Safe for concurrent use.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// serve starts a server and waits until it is ready.
func (in *installation) serve(args ...string) *replica {
	in.t.Helper()
	return in.serveBy(program, args...)
}

// serveBy is serve with another program.
func (in *installation) serveBy(program func() (string, error), args ...string) *replica {
	in.t.Helper()
	path, err := program()
	if err != nil {
		in.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		in.t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	r := in.spawn(path, append([]string{"--listen", addr}, args...)...)
	r.url = "http://" + addr
	r.eventually("the server is ready", func() bool {
		res, err := http.Get(r.url + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == 200
	})
	return r
}

// spawn starts a server and does not wait for it.
func (in *installation) spawn(path string, args ...string) *replica {
	in.t.Helper()
	r := &replica{in: in, log: new(output)}
	r.cmd = exec.Command(path, append([]string{"serve", "--config", in.config}, args...)...)
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = in.dir, r.log, r.log
	if err := r.cmd.Start(); err != nil {
		in.t.Fatal(err)
	}
	in.t.Cleanup(r.kill)
	return r
}

// kill ends the process as a power cut would.
func (r *replica) kill() {
	if r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	}
}

// end ends the process in order, and gives its exit status.
func (r *replica) end() int {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	_ = r.cmd.Wait()
	return r.cmd.ProcessState.ExitCode()
}

// do calls the API. Status 0: no answer.
func (r *replica) do(method, path string, body any, out any, header ...string) int {
	var reader io.Reader
	if body != nil {
		raw, _ := json.Marshal(body)
		reader = bytes.NewReader(raw)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, reader)
	if err != nil {
		r.in.t.Error(err)
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+r.in.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return 0
	}
	if out != nil && res.StatusCode < 300 {
		if err := json.Unmarshal(raw, out); err != nil {
			r.in.t.Errorf("%s %s: %v: %s", method, path, err, raw)
		}
	}
	if res.StatusCode >= 400 && res.StatusCode != 503 && res.StatusCode != 404 && res.StatusCode != 409 {
		r.in.t.Logf("%s %s: %d %s", method, path, res.StatusCode, raw)
	}
	return res.StatusCode
}

// eventually polls for a minute at most.
func (r *replica) eventually(what string, f func() bool) {
	r.in.t.Helper()
	deadline := time.After(time.Minute)
	for !f() {
		select {
		case <-deadline:
			log := strings.Split(r.log.String(), "\n")
			r.in.t.Fatalf("it did not happen within a minute: %s\n%s", what, strings.Join(log[max(0, len(log)-20):], "\n"))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
