package build_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
)

// command runs `slipway build …` as a client.
func command(ctx context.Context, c *blueprinttest.Client, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := build.Blueprint.Commands[0](&blueprint.Client{
		Do: func(_ context.Context, method, path string, body, into any) error {
			a := c.Do(method, path, body)
			if a.Status >= 300 {
				return slipway.Errorf(slipway.Unavailable, "%s", a.Body)
			}
			return json.Unmarshal(a.Body, into)
		},
		Print: func(_ *cobra.Command, _ any, table blueprint.Table) error {
			for _, row := range table.Rows {
				out.WriteString(strings.Join(row, "  ") + "\n")
			}
			return nil
		},
	})
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func TestWaitingEndsWhenTheVendorHasForgottenTheBuild(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.ci.Project(hello)
		w.web()
		blueprinttest.Eventually(t, "its projects are bound", func() bool { return len(w.search("").Sources) == 2 })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		type answer struct {
			out string
			err error
		}
		ended := make(chan answer, 1)
		go func() {
			out, err := command(ctx, w.Client, "start", "web", "--ref", "main", "--set", "provider=ci", "--wait")
			ended <- answer{out, err}
		}()
		var got answer
		blueprinttest.Eventually(t, "the command ends", func() bool {
			if p := w.search("?fresh=true"); len(p.Items) > 0 {
				w.ci.Forget(hello, strings.TrimPrefix(p.Items[0].ID, "ci:"))
			}
			select {
			case got = <-ended:
				return true
			default:
				return false
			}
		})
		if slipway.CodeOf(got.err) != slipway.Conflict || !strings.Contains(got.out, "unknown") {
			t.Errorf("got %q, %v; want that nobody knows how it ended", got.out, got.err)
		}
	})
}
