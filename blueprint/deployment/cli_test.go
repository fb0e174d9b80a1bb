package deployment_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/deployment"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/store"
)

// command runs `slipway deployment …` against a server, and gives what its table holds.
func command(t *testing.T, s *blueprinttest.Server, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := &blueprint.Client{
		Do: func(_ context.Context, method, path string, body, into any) error {
			a := s.Do(method, path, body)
			switch {
			case a.Status == http.StatusNotFound:
				return slipway.Errorf(slipway.NotFound, "not found")
			case a.Status >= 300:
				return slipway.Errorf(slipway.Invalid, "status %d: %s", a.Status, a.Body)
			}
			return json.Unmarshal(a.Body, into)
		},
		Print: func(_ *cobra.Command, _ any, table blueprint.Table) error {
			for _, row := range append([][]string{table.Header}, table.Rows...) {
				out.WriteString(strings.Join(row, "|") + "\n")
			}
			out.WriteString(table.Footer)
			return nil
		},
	}
	cmd := deployment.Blueprint.Commands[0](c)
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestDeploymentsOnTheCommandLine(t *testing.T) {
	t.Parallel()
	v := fake.New(fake.Config{})
	s := start(t, store.SQLite, v)
	if _, err := command(t, s, "show", "web"); slipway.CodeOf(err) != slipway.NotFound || !strings.Contains(err.Error(), "no deployments yet") {
		t.Errorf("got %v, want not found", err)
	}
	v.Deploy("octo/web", slipway.Deployment{Status: slipway.DeploymentSucceeded, Version: "v1", TriggeredBy: &slipway.Person{ID: "jane"}, Commit: &slipway.Commit{SHA: "a84d88e7554fc1fa21bcbc4efae3c782a70d2b9d", Message: "Add prices"}})
	v.Deploy("octo/web", slipway.Deployment{Status: slipway.DeploymentFailed, Version: "v2", Environment: "staging"})
	blueprinttest.Eventually(t, "both are there", func() bool {
		out, err := command(t, s, "search", "web", "--fresh")
		return err == nil && strings.Count(out, "octo:d") == 2
	})
	for args, want := range map[string]string{
		"search web --environment production":      "octo:d1|production|v1|succeeded|",
		"search web --version v2 --since 1d":       "octo:d2|staging|v2|failed|",
		"search web --triggered-by jane":           "|a84d88e7|jane\n",
		"search --status failed":                   "Entity|ID|Environment|Version|Status|Created|Took|Commit|Triggered by\ncomponent:default/web|octo:d2|",
		"search web --environment nowhere":         "No deployments.",
		"search web --limit 1":                     "There are more: --cursor ",
		"show web":                                 "ID|octo:d2\n",
		"show web octo:d1":                         "Message|Add prices\n",
		"search --kind resource --owner group:x/y": "No deployments.",
	} {
		if out, err := command(t, s, strings.Fields(args)...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: got %v\n%s\nwant %s", args, err, out, want)
		}
	}
	for args, want := range map[string]slipway.Code{"search web --since yesterday": slipway.Invalid, "search nowhere": slipway.NotFound, "show web octo:d9": slipway.NotFound, "search web --status exploded": slipway.Invalid} {
		if out, err := command(t, s, strings.Fields(args)...); slipway.CodeOf(err) != want {
			t.Errorf("%s: got %v, want %s\n%s", args, err, want, out)
		}
	}
}
