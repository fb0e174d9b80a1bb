package dora

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
)

// hookReaders read the bodies of webhooks, by the last part of their paths.
var hookReaders = map[string]func(*service, []byte, *faults) (*record, error){
	"deployments": hookReader((*service).hookDeployment), "issues": hookReader((*service).hookIssue), "pull_requests": hookReader((*service).hookPullRequest), "incidents": hookReader((*service).hookIncident),
	"cicd": hookReader((*service).hookBuild), "commits": hookReader((*service).hookPush),
}

func hookReader[T any](told func(*service, connection, *T, *faults) *record) func(*service, []byte, *faults) (*record, error) {
	return func(s *service, raw []byte, f *faults) (*record, error) {
		return readHook(s, connection{name: "1"}, raw, f, told)
	}
}

// What each body in testdata/hooks is read as stands beside it.
func TestForeignBodies(t *testing.T) {
	t.Parallel()
	config := defaultConfig()
	config.Builds = []BuildRule{{Pipeline: "^deploy"}}
	envs, err := config.environments()
	if err != nil {
		t.Fatal(err)
	}
	s := &service{config: config, environments: envs, now: func() time.Time { return time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC) }}
	if s.builds, err = compileBuilds(config.Builds); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob("testdata/hooks/*.json")
	if len(files) < 10 {
		t.Fatalf("got %d bodies", len(files))
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		resource := strings.Split(filepath.Base(file), ".")[1]
		f := &faults{now: s.now()}
		r, err := hookReaders[resource](s, raw, f)
		var out strings.Builder
		for _, fault := range f.list {
			fmt.Fprintf(&out, "fault: %s %s\n", fault.Field, fault.Message)
		}
		switch {
		case len(f.list) > 0:
		case err != nil:
			fmt.Fprintln(&out, "error:", err)
		case r == nil:
			fmt.Fprintln(&out, nothing)
		default:
			var doc any
			_ = json.Unmarshal([]byte(r.doc), &doc)
			text, _ := json.MarshalIndent(doc, "", "  ")
			fmt.Fprintf(&out, "%s %s\n%s\n", r.kind.table, r.service, text)
		}
		golden := strings.TrimSuffix(file, ".json") + ".txt"
		if os.Getenv("UPDATE") == "1" {
			if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), out.String()); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
}

func FuzzForeignBodies(f *testing.F) {
	files, _ := filepath.Glob("testdata/hooks/*.json")
	for _, file := range files {
		raw, _ := os.ReadFile(file)
		f.Add(raw)
	}
	config := defaultConfig()
	envs, _ := config.environments()
	s := &service{config: config, environments: envs, now: func() time.Time { return time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC) }}
	f.Fuzz(func(_ *testing.T, raw []byte) {
		for _, read := range hookReaders {
			_, _ = read(s, raw, &faults{now: s.now()})
		}
	})
}

// Whatever stands in the path of a webhook, a token in it is never what its reports are known by.
func FuzzConnection(f *testing.F) {
	for _, s := range []string{"1", "connections/1", "connections/by-name/web", "projects/shop", "slp_token", "connections/by-name/slp_token", "projects/slp_token", "a/b/c/d", "", "/", "connections/"} {
		f.Add(s)
	}
	config := defaultConfig()
	s := &service{config: config}
	f.Fuzz(func(t *testing.T, path string) {
		c, err := parseConnection(path)
		if err != nil {
			if code := slipway.CodeOf(err); code != slipway.NotFound && code != slipway.Invalid || c.token != "" && strings.Contains(err.Error(), c.token) {
				t.Errorf("%q: %v", path, err)
			}
			return
		}
		if c.name == "" || len(c.name) > maxName || strings.Contains(c.name, "/") {
			t.Errorf("%q is the connection %q", path, c.name)
		}
		if strings.Contains(path, "slp_") && c.token != "" && (strings.Contains(c.source(), c.token) || strings.Contains(s.serviceOf(c), c.token)) {
			t.Errorf("%q: its reports are known by the token", path)
		}
	})
}
