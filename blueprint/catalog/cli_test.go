package catalog_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/client"
)

// command runs `slipway catalog …` against a server, none for nil, and gives what its table holds.
func command(t *testing.T, s *blueprinttest.Server, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := &blueprint.Client{
		Do: func(ctx context.Context, method, path string, body, into any) error {
			if s == nil {
				t.Errorf("%s %s was asked of a server", method, path)
				return slipway.Errorf(slipway.Unavailable, "no server")
			}
			to, err := client.New(s.URL, s.Token)
			if err != nil {
				return err
			}
			return to.Do(ctx, method, path, body, into)
		},
		Print: func(_ *cobra.Command, _ any, table blueprint.Table) error {
			for _, row := range table.Rows {
				out.WriteString(strings.Join(row, " | ") + "\n")
			}
			out.WriteString(table.Footer)
			return nil
		},
	}
	cmd := catalog.Blueprint.Commands[0](c)
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestFaultsAreSeenOnTheCommandLine(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		run := func(args ...string) string {
			t.Helper()
			out, err := command(t, s, args...)
			if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
			return strings.TrimSpace(strings.ReplaceAll(out, h.URL, ""))
		}
		r := register(s, h.put("/good.yaml", web))
		if got := run("status"); got != "Nothing is wrong." {
			t.Errorf("got %s", got)
		}
		if got := run("status", r.LocationID); got != "/good.yaml | ready | 1 |" {
			t.Errorf("got %s", got)
		}
		if got := run("status", "web"); got != "/good.yaml | ready | 1 |" {
			t.Errorf("got %s", got)
		}
		register(s, h.put("/bad.yaml", component("other")+"---\nkind: Component\n"))
		out, err := command(t, s, "status")
		if slipway.CodeOf(err) != slipway.Invalid || !strings.Contains(out, "/bad.yaml | faulty | 1 | document 2, line 13: missing required field 'apiVersion'") || strings.Contains(out, "good.yaml") {
			t.Errorf("got %v\n%s", err, out)
		}
		if _, err := command(t, s, "status", "component:none"); slipway.CodeOf(err) != slipway.NotFound {
			t.Errorf("got %v, want not found", err)
		}
		h.put("/good.yaml", component("new"))
		if got := run("refresh", "web"); !strings.Contains(got, "read again") {
			t.Errorf("got %s", got)
		}
		blueprinttest.Eventually(t, "it is read again", func() bool { return there(s, "component:default/new") })
		if got := run("facets", "kind", "spec.type", "--filter", "metadata.name=other"); got != "kind | Component | 1\nspec.type | service | 1" {
			t.Errorf("got %s", got)
		}
		if got := run("status", r.Target); got != "/good.yaml | ready | 1 |" {
			t.Errorf("got %s", got)
		}
		run("remove", r.LocationID)
		if there(s, "component:default/new") {
			t.Error("it is still there")
		}
		// What is registered is shown with what cannot be used of it, and goes by its target.
		half := h.put("/half.yaml", component("half")+"---\nkind: Component\n")
		for _, args := range [][]string{{"register", half, "--dry-run"}, {"register", half}} {
			if got := run(args...); !strings.Contains(got, "component:default/half") || !strings.Contains(got, "Not usable: document 2, line 13: missing required field 'apiVersion'") || !strings.Contains(got, "1 entity") {
				t.Errorf("%v: got %s", args, got)
			}
		}
		if got := run("refresh", half); !strings.Contains(got, "read again") {
			t.Errorf("got %s", got)
		}
		run("remove", half)
		if there(s, "component:default/half") {
			t.Error("it is still there")
		}
		if _, err := command(t, s, "remove", half); slipway.CodeOf(err) != slipway.NotFound {
			t.Errorf("got %v, want not found", err)
		}
		// The entity that stands for a location shows where it leads.
		if got := run("list", "--kind", "location"); !strings.Contains(got, "location:default/generated-") || !strings.Contains(got, "| url |  | /bad.yaml") {
			t.Errorf("got %s", got)
		}
	})
}

func TestFilesAreValidatedWithAndWithoutAServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.yaml", web+"---\n"+strings.Replace(component("api"), "kind: Component", "kind: API", 1)+"  definition: {$text: ./openapi.yaml}\n")
	bad := write("bad.yaml", strings.Replace(web, "  lifecycle: production\n", "", 1))
	odd := write("odd.yaml", strings.Replace(web, "kind: Component", "kind: Gadget", 1))
	if out, err := command(t, nil, "validate", "--offline", good); err != nil || out != good+" | 2 | \n" {
		t.Errorf("got %v\n%s", err, out)
	}
	out, err := command(t, nil, "validate", "--offline", good, bad, write("no.yaml", "a: ["), write("empty.yaml", ""))
	if slipway.CodeOf(err) != slipway.Invalid || !strings.Contains(out, bad+" | 0 | document 1, line 1: missing required field 'spec.lifecycle'") || !strings.Contains(out, "no valid YAML") || !strings.Contains(out, "it is empty") {
		t.Errorf("got %v\n%s", err, out)
	}
	if _, err := command(t, nil, "validate", "--offline", odd); slipway.CodeOf(err) != slipway.Invalid {
		t.Errorf("a kind that is not accepted: got %v", err)
	}
	if _, err := command(t, nil, "validate", "--offline", "--kind", "Gadget", odd); err != nil {
		t.Errorf("a kind that is: got %v", err)
	}
	if _, err := command(t, nil, "validate", "--offline", filepath.Join(dir, "none.yaml")); err == nil {
		t.Error("a file that is not there passed")
	}
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, _ *host, _ string) {
		if out, err := command(t, s, "validate", good); err != nil {
			t.Errorf("got %v\n%s", err, out)
		}
		if out, err := command(t, s, "validate", "--kind", "Gadget", odd); slipway.CodeOf(err) != slipway.Invalid || !strings.Contains(out, `the server does not accept it: kind "Gadget" is not accepted here; an operator can add it to catalog.kinds`) {
			t.Errorf("got %v\n%s", err, out)
		}
	})
}
