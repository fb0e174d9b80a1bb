package local_test

import (
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
	"github.com/slipway-platform/slipway/server"
)

// The whole path: a catalog file describes a component, a git repository belongs to it, and its builds are found by entity.
func TestFromARepositoryToItsBuildsByEntity(t *testing.T) {
	t.Parallel()
	roots := t.TempDir()
	repository := filepath.Join(roots, "web")
	git(t, "", "init", "--quiet", "--initial-branch=main", repository)
	commit(t, repository, "echo hello from $SLIPWAY_BRANCH")
	file := filepath.Join(roots, "catalog-info.yaml")
	write(t, file, 0o644, fmt.Sprintf(`apiVersion: backstage.io/v1alpha1
kind: Component
metadata:
  name: web
  annotations:
    %s: file://%s
spec: {type: service, lifecycle: production, owner: team-a}
`, local.Annotation, repository))
	blueprinttest.Each(t, blueprinttest.Options{
		Blueprints: []blueprint.Blueprint{catalog.Blueprint, build.Blueprint, local.Blueprint},
		Configure: func(c *server.Config) {
			c.Fetch.FileRoots = []string{roots}
			c.Providers = []server.ProviderConfig{{Name: "ci", Type: "local", Rest: map[string]any{
				"command": []string{"./build.sh"}, "repositories": []string{"file://" + roots + "/*"}, "isolation": "none", "timeout": "1m",
			}}}
		},
	}, func(t *testing.T, s *blueprinttest.Server) {
		s.Post("/api/catalog/locations", map[string]string{"type": "file", "target": file}).Is(201)
		const web = "/api/build/by-entity/component:default/web"
		blueprinttest.Eventually(t, "the repository is bound to the component", func() bool {
			return strings.Contains(string(s.Get(web+"/search").Body), repository)
		})
		var accepted struct {
			Accepted bool
			Build    *slipway.Build
			URL      string
		}
		s.Post(web+"/start", map[string]string{"ref": "main"}).Is(202).Into(&accepted)
		if accepted.Build == nil || accepted.Build.Status.Finished() {
			t.Fatalf("got %+v", accepted)
		}
		var page struct{ Items []slipway.Build }
		// It is seen at once, whatever became of it since.
		if s.Get(web + "/search").Is(200).Into(&page); len(page.Items) != 1 || page.Items[0].ID != accepted.Build.ID {
			t.Errorf("right after the start the index has %+v", page.Items)
		}
		blueprinttest.Eventually(t, "the build has succeeded", func() bool {
			s.Get(web + "/search").Is(200).Into(&page)
			return page.Items[0].Status == slipway.BuildSucceeded
		})
		log := s.Get(strings.TrimPrefix(page.Items[0].URL, s.URL)).Is(200)
		if !strings.Contains(string(log.Body), "hello from main\n") {
			t.Errorf("the page of the build is %s", log.Body)
		}
		s.Post(web+"/retrigger", map[string]string{"buildId": accepted.Build.ID}).Fails(409, slipway.Conflict)
		s.Post(web+"/retrigger?force=true", map[string]string{"buildId": accepted.Build.ID}).Is(202).Into(&accepted)
		if accepted.Build == nil || accepted.Build.Attempt != 2 || accepted.Build.Trigger != slipway.TriggerRetry {
			t.Errorf("got %+v", accepted.Build)
		}
		s.Post(web+"/start", map[string]string{"ref": "--upload-pack=touch /tmp/x"}).Fails(400, slipway.Invalid)
		s.Post(web+"/start", map[string]string{"ref": "nosuch"}).Fails(404, slipway.NotFound)
	})
}

func TestAFaultyProviderStopsNothingElse(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, blueprinttest.Options{
		Blueprints: []blueprint.Blueprint{local.Blueprint},
		Configure: func(c *server.Config) {
			c.Providers = []server.ProviderConfig{{Name: "ci", Type: "local", Rest: map[string]any{
				"command": []string{"./build.sh"}, "repositories": []string{"https://*"},
			}}}
		},
	}, func(t *testing.T, s *blueprinttest.Server) {
		s.As("").Get("/healthz").Is(200)
		if !strings.Contains(s.Log.String(), "isolation: none") {
			t.Errorf("the server does not say what to write:\n%s", s.Log.Tail(5))
		}
	})
}

func commit(t *testing.T, repository, script string) {
	t.Helper()
	write(t, filepath.Join(repository, "build.sh"), 0o755, "#!/bin/sh\n"+script+"\n")
	git(t, repository, "add", "--all")
	git(t, repository, "-c", "user.name=Jane Doe", "-c", "user.email=jane@example.com", "commit", "--quiet", "--message=Build")
}

func write(t *testing.T, file string, mode os.FileMode, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
}
