package command_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/auth/issuertest"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// output is what a process has written so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func TestLoginByTheDeviceFlow(t *testing.T) {
	t.Parallel()
	idp := issuertest.NewOpenID(t)
	idp.User("jane", "team-a")
	s := blueprinttest.Start(t, store.SQLite, blueprinttest.Options{Blueprints: builtin.Blueprints(), Kinds: builtin.Providers(), Configure: func(c *server.Config) {
		c.Auth.SignIn.Issuers = []auth.IssuerConfig{{Name: "idp", Kind: "oidc", Issuer: idp.URL, Audience: "slipway", UserClaim: "preferred_username"}}
		c.Auth.SignIn.Login.Issuer, c.Auth.SignIn.Login.ClientID = "idp", "slipway"
	}})
	idp.Client("slipway", "", s.URL)
	home := t.TempDir()
	slipwayCommand := func(args ...string) (*exec.Cmd, *output) {
		program, err := exec.LookPath("slipway")
		if err != nil {
			t.Fatal(err)
		}
		out := &output{}
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "SLIPWAY_TOKEN=", "SLIPWAY_URL=")
		cmd.Stdout, cmd.Stderr = out, out
		return cmd, out
	}
	run := func(args ...string) string {
		t.Helper()
		cmd, out := slipwayCommand(args...)
		if err := cmd.Run(); err != nil {
			t.Fatalf("slipway %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out.String()
	}

	cmd, out := slipwayCommand("login", "--url", s.URL)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`Open (http://\S+)\nand let this command line in, if the page shows the code ([A-Z]{4}-[A-Z]{4})\.`)
	blueprinttest.Eventually(t, "the code is shown", func() bool { return code.MatchString(out.String()) })
	shown := code.FindStringSubmatch(out.String())
	b := issuertest.NewBrowser(t, s.URL)
	b.SignIn("jane", "/")
	if page := b.Open(shown[1], nil); !strings.Contains(page.Text, shown[2]) {
		t.Fatalf("the page: %s", page.Text)
	}
	b.Open("/auth/device", url.Values{"user_code": {shown[2]}, "answer": {"allow"}})
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "Logged in at "+s.URL+" as user:default/jane.") {
		t.Fatalf("login: %v\n%s", err, out)
	}

	file := filepath.Join(home, "slipway", "credentials.json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the stored tokens: %v, %v", info.Mode(), err)
	}
	type session struct {
		Access  string    `json:"access"`
		Refresh string    `json:"refresh"`
		Expires time.Time `json:"expires"`
	}
	var stored struct {
		Current  string             `json:"current"`
		Sessions map[string]session `json:"sessions"`
	}
	read := func() session {
		t.Helper()
		raw, err := os.ReadFile(file)
		if stored.Sessions = nil; err == nil {
			err = json.Unmarshal(raw, &stored)
		}
		if err != nil {
			t.Fatal(err)
		}
		return stored.Sessions[s.URL]
	}
	first := read()
	if got := run("auth", "whoami"); !strings.Contains(got, "user:default/jane") || !strings.Contains(got, "group:default/team-a") {
		t.Errorf("whoami: %s", got)
	}
	// Many commands at once renew a token that is about to end, once.
	first.Expires = time.Now()
	stored.Sessions[s.URL] = first
	raw, err := json.Marshal(stored)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cmd, out := slipwayCommand("auth", "whoami")
			if err := cmd.Run(); err != nil {
				t.Errorf("whoami: %v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	second := read()
	if second.Access == first.Access || second.Refresh == first.Refresh || !second.Expires.After(time.Now().Add(50*time.Minute)) {
		t.Errorf("it was not renewed: %v, then %v", first.Expires, second.Expires)
	}
	if got := run("auth", "session", "list"); !strings.Contains(got, "cli") || !strings.Contains(got, "browser") {
		t.Errorf("sessions: %s", got)
	}
	if got := run("logout"); !strings.Contains(got, "Logged out") {
		t.Errorf("logout: %s", got)
	}
	s.As(second.Access).Get("/api/auth/me").Fails(401, slipway.Unauthenticated)
	if got := read(); got.Access != "" {
		t.Error("the tokens are still stored")
	}
}
