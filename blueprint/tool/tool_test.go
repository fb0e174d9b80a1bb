package tool_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/local"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/blueprint/tool"
	"github.com/slipway-platform/slipway/server"
)

func TestMain(m *testing.M) {
	local.Supervise()
	os.Exit(m.Run())
}

// dn is what a proxy says of a tool.
func dn(name string) []string {
	return []string{"ssl-client-subject-dn", "CN=" + name + ",O=toolforge"}
}

// blueprints are those that tools need to be seen everywhere.
var blueprints = []blueprint.Blueprint{build.Blueprint, catalog.Blueprint, local.Blueprint, platform.Blueprint, tool.Blueprint}

// repository makes a git repository below a folder whose build.sh has this text.
func repository(t *testing.T, roots, name, script string) string {
	t.Helper()
	dir := filepath.Join(roots, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "build.sh"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"}, {"add", "--all"},
		{"-c", "user.name=Jane Doe", "-c", "user.email=jane@example.com", "commit", "--quiet", "--allow-empty", "--message=Build"},
	} {
		git(t, dir, args...)
	}
	return "file://" + dir
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// withLocal configures one provider, of type local, for the repositories below a folder.
func withLocal(roots string) func(*server.Config) {
	return func(c *server.Config) {
		c.Fetch.FileRoots = []string{roots}
		c.Auth.SignIn.TLSHeader.From = []string{"127.0.0.1"}
		c.Auth.RateLimits.User = 0
		c.Providers = []server.ProviderConfig{{Name: "ci", Type: "local", Rest: map[string]any{
			"command": []string{"./build.sh"}, "repositories": []string{"file://" + roots + "/*"}, "isolation": "none", "timeout": "1m", "parallel": 8,
		}}}
	}
}

// answer is one in its wrapping.
type answer[T any] struct {
	Data     T
	Messages struct{ Info, Warning, Error []string }
}

func into[T any](a *blueprinttest.Answer) (out answer[T]) {
	a.Into(&out)
	return out
}

type deployment struct {
	ID         string `json:"deploy-id"`
	Created    string `json:"creation-time"`
	Status     string
	LongStatus string `json:"long-status"`
	Builds     map[string]struct {
		ID         string `json:"build-id"`
		Status     string
		LongStatus string `json:"long-status"`
		Commit     string
	}
	Runs map[string]struct {
		Status     string
		LongStatus string `json:"long-status"`
	}
	Config json.RawMessage `json:"tool-config"`
}

// The conversation of the seed: config, deploy, poll until it is done, builds by entity.
func TestFromAConfigurationToBuildsByEntity(t *testing.T) {
	t.Parallel()
	roots := t.TempDir()
	web := repository(t, roots, "web", `echo "hello from $SLIPWAY_TOOL/$SLIPWAY_COMPONENT"`)
	broken := repository(t, roots, "broken", `echo no; exit 3`)
	blueprinttest.Each(t, blueprinttest.Options{Blueprints: blueprints, Configure: withLocal(roots)}, func(t *testing.T, s *blueprinttest.Server) {
		me := s.As("")
		const base = "/api/v1/tool/mytool"
		config := fmt.Sprintf(`{"config-version":"v0.1","components":{
			"component1":{"component_type":"continuous","build":{"repository":%q,"ref":"main"},"run":{"command":"serve"}},
			"component2":{"build":{"repository":%q,"ref":""},"run":{"command":"clean","schedule":"@daily"}},
			"component3":{"build":{"reuse_from":"component1"},"run":{"command":"work"}}}}`, web, web)
		me.Do("GET", base+"/config", nil, dn("mytool")...).Is(404)
		me.Do("POST", base+"/deploy", nil, dn("mytool")...).Is(404)
		me.Do("POST", base+"/config", config, dn("mytool")...).Is(200)

		created := into[deployment](me.Do("POST", base+"/deploy", nil, dn("mytool")...).Is(200))
		if created.Data.Status != "PENDING" || len(created.Data.Builds) != 3 || created.Messages.Info[0] != "Deployment for mytool created successfully." {
			t.Errorf("created: %+v", created)
		}
		at := base + "/deploy/" + created.Data.ID
		var d deployment
		blueprinttest.Eventually(t, "the deployment has ended", func() bool {
			d = into[deployment](me.Do("GET", at+"?wait=10s", nil, dn("mytool")...).Is(200)).Data
			return d.Status != "PENDING" && d.Status != "RUNNING"
		})
		if d.Status != "FINISHED" || d.Builds["component1"].Status != "FINISHED" || d.Builds["component2"].Status != "FINISHED" || d.Builds["component3"].Status != "SKIPPED" || d.Builds["component3"].ID != "no-build-needed" {
			t.Errorf("the deployment ended so: %+v", d)
		}
		if d.Builds["component1"].Commit == "" || d.Runs["component1"].Status != "SKIPPED" {
			t.Errorf("the deployment ended so: %+v", d)
		}
		var page struct{ Items []slipway.Build }
		const entity = "/api/build/by-entity/component:tool-mytool/component1"
		blueprinttest.Eventually(t, "the build is seen by its entity", func() bool {
			a := me.Do("GET", entity+"/search", nil, dn("mytool")...)
			return a.Status == 200 && json.Unmarshal(a.Body, &page) == nil && len(page.Items) == 1
		})
		if b := page.Items[0]; b.ID != "ci:"+d.Builds["component1"].ID || b.Status != slipway.BuildSucceeded || b.TriggeredBy == nil || b.TriggeredBy.ID != "tool:mytool" {
			t.Errorf("the build is %+v", b)
		}
		if log := me.Do("GET", entity+"/builds/"+page.Items[0].ID+"/logs", nil, dn("mytool")...).Is(200); !strings.Contains(string(log.Body), "hello from mytool/component1\n") {
			t.Errorf("the log is %s", log.Body)
		}
		me.Do("GET", entity+"/search", nil, dn("other")...).Is(404)

		// Nothing has changed: nothing is built again.
		again := into[deployment](me.Do("POST", base+"/deploy", nil, dn("mytool")...).Is(200)).Data
		again = into[deployment](me.Do("GET", base+"/deploy/"+again.ID+"?wait=60s", nil, dn("mytool")...).Is(200)).Data
		for _, c := range []string{"component1", "component2"} {
			if b := again.Builds[c]; b.Status != "SKIPPED" || b.LongStatus != "Reusing existing build" || b.ID != d.Builds[c].ID {
				t.Errorf("again, %s: %+v, want build %s reused", c, b, d.Builds[c].ID)
			}
		}
		forced := into[deployment](me.Do("POST", base+"/deploy?force_build=true", nil, dn("mytool")...).Is(200)).Data
		forced = into[deployment](me.Do("GET", base+"/deploy/"+forced.ID+"?wait=60s", nil, dn("mytool")...).Is(200)).Data
		if b := forced.Builds["component1"]; b.Status != "FINISHED" || b.ID == d.Builds["component1"].ID {
			t.Errorf("forced: %+v", b)
		}

		me.Do("POST", base+"/config", strings.ReplaceAll(config, web, broken), dn("mytool")...).Is(200)
		failed := into[deployment](me.Do("POST", base+"/deploy", `{"description":"\"x\" für alle"}`, dn("mytool")...).Is(200)).Data
		failed = into[deployment](me.Do("GET", base+"/deploy/"+failed.ID+"?wait=60s", nil, dn("mytool")...).Is(200)).Data
		if failed.Status != "ERROR" || failed.Builds["component1"].Status != "ERROR" || failed.Runs["component1"].LongStatus != "Skipped due to previous failure" {
			t.Errorf("a failing build: %+v", failed)
		}
	})
}
