package workspace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/workspace"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/store"
)

// command runs `slipway workspace …` as a client, and gives what it prints: tables as their rows.
func command(t *testing.T, c *blueprinttest.Client, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := workspace.Blueprint.Commands[0](&blueprint.Client{
		Do: func(_ context.Context, method, path string, body, into any) error {
			a := c.Do(method, path, body)
			if a.Status >= 300 {
				var f blueprinttest.Fault
				a.Into(&f)
				return slipway.Errorf(f.Code, "%s", f.Error)
			}
			if into == nil {
				return nil
			}
			return json.Unmarshal(a.Body, into)
		},
		Print: func(_ *cobra.Command, _ any, table blueprint.Table) error {
			for _, row := range append([][]string{table.Header}, table.Rows...) {
				out.WriteString(strings.TrimRight(strings.Join(row, "  "), " ") + "\n")
			}
			out.WriteString(table.Footer)
			return nil
		},
	})
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return strings.TrimSpace(out.String()), err
}

func TestTheCommandLineDoesWhatThePageShows(t *testing.T) {
	t.Parallel()
	each(t, options{}, func(t *testing.T, w *world) {
		w.operator(t, func(o cluster.Object) string {
			if o.Name() == "broken" {
				return "the image cannot be pulled"
			}
			return ""
		}, nil)
		jane := w.user("jane")
		devfile := w.devfiles.URL + "/goldenpath-python.yaml"
		page, err := os.ReadFile("README.md")
		if err != nil {
			t.Fatal(err)
		}
		// What differs from run to run: the marks of this test's names, ids and times.
		times, ids := regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d`), regexp.MustCompile(`workspace[0-9a-f]{16}`)
		shown := func(args ...string) {
			t.Helper()
			out, err := command(t, jane, args...)
			if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
			out = strings.NewReplacer("jane-"+w.mark+"-workspaces", "jane-workspaces", w.devfiles.URL, "https://raw.githubusercontent.com/paruff/fawkes/main/platform/devfiles").Replace(out)
			out = ids.ReplaceAllString(times.ReplaceAllString(out, "2024-12-01 10:00"), "workspace3f1c2a9b5d4e4f60")
			if !strings.Contains(strings.Join(strings.Fields(string(page)), " "), strings.Join(strings.Fields(out), " ")) {
				t.Errorf("slipway workspace %s printed, and the page does not show:\n%s", strings.Join(args, " "), out)
			}
		}
		shown("create", devfile, "--name", "my-workspace", "--wait")
		shown("list")
		shown("show", "my-workspace")
		shown("open", "my-workspace")
		shown("stop", "my-workspace", "--wait")

		if out, err := command(t, jane, "start", "my-workspace", "--wait"); err != nil || !strings.Contains(out, "my-workspace Running") {
			t.Errorf("start: %v\n%s", err, out)
		}
		out, err := command(t, jane, "create", devfile, "--name", "broken", "--wait")
		if e, ok := errors.AsType[*slipway.Error](err); !ok || !strings.Contains(e.Message, "Failed: the image cannot be pulled") {
			t.Errorf("a workspace that cannot start: got %v\n%s", err, out)
		}
		if out, err := command(t, jane, "list", "--status", "Running", "--limit", "1"); err != nil || strings.Contains(out, "broken") {
			t.Errorf("list: %v\n%s", err, out)
		}
		for _, name := range []string{"broken", "my-workspace"} {
			if out, err := command(t, jane, "delete", name); err != nil || !strings.Contains(out, "is being deleted") {
				t.Errorf("delete: %v\n%s", err, out)
			}
		}
		blueprinttest.Eventually(t, "both are gone", func() bool {
			out, err := command(t, jane, "list")
			return err == nil && strings.Contains(out, "no workspaces")
		})
		if _, err := command(t, jane, "show", "my-workspace"); !errors.Is(err, slipway.NotFound) {
			t.Errorf("show of what is gone: got %v", err)
		}
	})
}

func TestANameOfSeveralWorkspacesIsNotGuessed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{config: func(c *workspace.Config) {
		c.Namespaces = []workspace.Namespace{{Name: "two-{user}", To: []string{"*"}}}
	}})
	jane := w.user("jane")
	w.kube.MakeNamespace(t, "two-jane-"+w.mark)
	for _, ns := range []string{"", "two-jane-" + w.mark} {
		jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": "same", "namespace": ns}).Is(201)
	}
	if _, err := command(t, jane, "show", "same"); err == nil || !strings.Contains(err.Error(), "name one by its id") {
		t.Errorf("got %v", err)
	}
}
