package local

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// steered waits for a file that says how the build ends, and prints what another says meanwhile.
const steered = `until [ -e "$STEER/$SLIPWAY_BUILD_ID.end" ]; do
  if [ -e "$STEER/$SLIPWAY_BUILD_ID.log" ]; then cat "$STEER/$SLIPWAY_BUILD_ID.log"; rm "$STEER/$SLIPWAY_BUILD_ID.log"; fi
  sleep 0.05
done
if [ -e "$STEER/$SLIPWAY_BUILD_ID.log" ]; then cat "$STEER/$SLIPWAY_BUILD_ID.log"; fi
exit "$(cat "$STEER/$SLIPWAY_BUILD_ID.end")"`

func put(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Error(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Error(err)
	}
}

func TestLocalKeepsWhatABuilderPromises(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			providertest.RunBuilder(t, func(t *testing.T) providertest.BuilderHarness {
				s, steer := newSite(t, storetest.Open(t, engine, Migrations)), t.TempDir()
				repository := s.repository("web", steered)
				commit := s.commit("web", steered)
				r := s.replica()
				p := s.open(r, func(c *Config) { c.Parallel, c.Environment = 20, map[string]string{"STEER": steer} })
				s.run(r)
				end := map[slipway.BuildStatus]string{slipway.BuildSucceeded: "0", slipway.BuildFailed: "3"}
				return providertest.BuilderHarness{
					Builder: p.Builder, Builds: p.Builds, Repository: repository, Ref: "main", Commit: commit,
					Move: func(t testing.TB, id string, status slipway.BuildStatus) {
						if end[status] != "" {
							put(t, filepath.Join(steer, id+".end"), end[status])
						}
					},
					Write: func(t testing.TB, id, text string) { put(t, filepath.Join(steer, id+".log"), text) },
					Fill:  func(testing.TB) { r.maxWaiting = 0 },
					Drain: func(testing.TB) { r.maxWaiting = 1000 },
					Forget: func(t testing.TB, _, id string) {
						s.write(t, func(ctx context.Context, tx *store.Tx) error {
							_, err := tx.Exec(ctx, `DELETE FROM local_build WHERE id = $1`, id)
							return err
						})
					},
				}
			})
		})
	}
}

// What is built for a tool is told from other builds of the same repository.
func TestBuildsOfToolsAndOfTheirRepositoryAreApart(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", `echo "for $SLIPWAY_TOOL/$SLIPWAY_COMPONENT"`)
		r := s.replica()
		p := s.open(r, nil)
		s.run(r)
		own := s.start(p, web, "main")
		b, err := p.Builder.Start(t.Context(), provider.BuildOrder{Key: "mytool-1-web", Tool: "mytool", Component: "web", Repository: web + "/", Ref: "main", By: jane})
		if err != nil {
			t.Fatal(err)
		}
		project := provider.ComponentProject("mytool", "web")
		s.ended(p, project, b.ID)
		if log := s.text(p, project, b.ID); !strings.Contains(log, "for mytool/web\n") || !strings.Contains(log, "component web of tool mytool, from "+web) {
			t.Errorf("the build's log is %s", log)
		}
		if b.URL != "http://slipway.example.com/api/build/by-entity/component:tool-mytool/web/builds/ci:"+b.ID+"/logs" {
			t.Errorf("the build's page is %s", b.URL)
		}
		for project, want := range map[string]string{web: own.ID, project: b.ID} {
			page, err := p.Builds.List(t.Context(), project, provider.ListOptions{})
			if err != nil || len(page.Items) != 1 || page.Items[0].ID != want {
				t.Errorf("%s: got %+v, %v; want build %s alone", project, page.Items, err, want)
			}
		}
		if _, err := p.Builds.Start(t.Context(), project, provider.StartOptions{}, jane); slipway.CodeOf(err) != slipway.Unsupported {
			t.Errorf("start of a tool's component: got %v, want unsupported", err)
		}
		again, err := p.Builds.Retrigger(t.Context(), project, b.ID, nil, jane)
		if err != nil {
			t.Fatal(err)
		}
		if s.ended(p, project, again.ID); again.Attempt != 2 {
			t.Errorf("the retriggered build is attempt %d", again.Attempt)
		}
		for annotation, want := range map[string]bool{"mytool/web": true, "other/web": false, "mytool/cron": false, "mytool": false} {
			e := slipway.Entity{Kind: "Component"}
			e.Metadata.Namespace, e.Metadata.Name = "tool-mytool", "web"
			e.Metadata.Annotations = map[string]string{provider.ToolAnnotation: annotation}
			if got := p.Projects(&e); (len(got) == 1 && got[0] == project) != want {
				t.Errorf("annotation %s: got %q, want the component's project: %v", annotation, got, want)
			}
		}
	})
}
