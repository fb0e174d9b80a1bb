package command

import (
	"context"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-platform/slipway/builtin"
)

// tree is every command of this build but those that cobra brings.
func tree(t *testing.T) (*cobra.Command, []*cobra.Command) {
	t.Helper()
	a := &app{blueprints: builtin.Blueprints(), kinds: builtin.Providers()}
	root := a.root()
	var all []*cobra.Command
	each(root, func(c *cobra.Command) {
		if path := c.CommandPath() + " "; !strings.HasPrefix(path, "slipway completion ") && !strings.HasPrefix(path, "slipway help ") {
			all = append(all, c)
		}
	})
	return root, all
}

func TestEveryCommandTeaches(t *testing.T) {
	t.Parallel()
	_, all := tree(t)
	if len(all) < 20 {
		t.Errorf("there are only %d commands", len(all))
	}
	for _, c := range all {
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the short text is %q; write a few words without a full stop", path, c.Short)
		}
		if !strings.HasSuffix(c.Long, ".") || c.Long == c.Short {
			t.Errorf("%s: the long text must be sentences that say more than %q", path, c.Short)
		}
		if c.Example == "" {
			t.Errorf("%s has no example", path)
		}
		for line := range strings.SplitSeq(c.Example, "\n") {
			if !strings.Contains(line, path) && !strings.Contains(c.Example, path+" ") && !strings.HasSuffix(c.Example, path) {
				t.Errorf("%s: none of its examples shows it: %s", path, line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: the text is %q; write a few words without a full stop", path, f.Name, f.Usage)
			}
		})
	}
}

// An example that is not a right call would teach a wrong one.
func TestEveryExampleIsARightCall(t *testing.T) {
	t.Parallel()
	_, all := tree(t)
	for _, c := range all {
		for line := range strings.SplitSeq(c.Example, "\n") {
			args := words(line)
			if len(args) == 0 {
				t.Errorf("%s: the example %q does not begin with slipway", c.CommandPath(), line)
				continue
			}
			root, _ := tree(t) // flags remember their values
			each(root, func(c *cobra.Command) {
				if c.RunE != nil && !c.HasSubCommands() {
					c.RunE = func(*cobra.Command, []string) error { return nil }
				}
			})
			root.SetArgs(args[1:])
			root.SetOut(new(strings.Builder))
			if err := root.ExecuteContext(context.Background()); err != nil {
				t.Errorf("%s: the example %q is no right call: %v", c.CommandPath(), strings.TrimSpace(line), err)
			}
		}
	}
}

// words splits an example as a shell would, without variables before the command and redirections after it.
func words(line string) (out []string) {
	for _, w := range strings.Fields(line) {
		switch {
		case len(out) == 0 && w != "slipway":
			continue
		case strings.HasPrefix(w, ">"), strings.HasPrefix(w, "<"):
			return out
		}
		out = append(out, strings.Trim(w, "'"))
	}
	return out
}

func TestChoicesAreChecked(t *testing.T) {
	t.Parallel()
	var v string
	c := newChoice(&v, "a", "b")
	if v != "a" || c.Set("b") != nil || v != "b" || c.Set("c") == nil || c.Type() != "a|b" {
		t.Errorf("got %q, %q", v, c.Type())
	}
}
