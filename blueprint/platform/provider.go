package platform

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/task"
)

// The permissions about providers.
const (
	providerRead  = "platform.provider.read"
	providerCheck = "platform.provider.check"
)

var providerPermissions = []auth.Permission{
	{Name: providerRead, Text: "See the providers, and how they stand"},
	{Name: providerCheck, Text: "Have a provider's vendor asked whether address, credential, permissions and webhook work"},
}

var (
	exampleStanding = task.Standing{
		Name: "github", Type: "github", Origin: "config", Visibility: "server", State: "ok", Projects: 42, Oldest: &exampleTime, Webhook: &exampleTime,
	}
	exampleDiagnosis = task.Diagnosis{Name: "github", Type: "github", Works: false, Findings: []task.Finding{
		{What: "configuration", State: "ok", Text: "the entry has no fault"},
		{What: "address", State: "ok", Text: "the vendor answers, in 120ms"},
		{What: "credential", State: "failed", Text: "GitHub does not accept the credential; set a valid `credential` for this provider", Do: "make a new credential at the vendor, and set it as the provider's credential"},
		{What: "permissions", State: "skipped", Text: "address and credential must work first"},
	}}
)

var providerOperations = []blueprint.Operation{
	blueprint.Handle((*service).listProviders, blueprint.Operation{
		ID: "platform.listProviders", Method: "GET", Path: "/api/providers", Tag: "providers", Permission: providerRead,
		Summary: "List providers", Description: "Lists the providers by name with how they stand, all at once, without asking the vendors. What they are configured with is at `/data/providers`.",
		ResponseExample: blueprint.List[task.Standing]{Items: []task.Standing{exampleStanding}, PageInfo: slipway.PageInfo{Limit: 1}},
	}),
	blueprint.Handle((*service).checkProvider, blueprint.Operation{
		ID: "platform.checkProvider", Method: "POST", Path: "/api/providers/{name}/check", Tag: "providers", Permission: providerCheck, Timeout: 2 * time.Minute,
		Summary: "Check a provider", Errors: []slipway.Code{slipway.NotFound},
		Description: "Asks the vendor, now, whether address, credential, permissions and webhook work, and says of each what to do if it does not. Nothing is changed at the vendor: whether a build may be " +
			"run again is told only where the vendor tells it without being asked to.",
		ResponseExample: exampleDiagnosis,
	}),
}

func (s *service) listProviders(ctx context.Context, _ *struct{}) (*body[blueprint.List[task.Standing]], error) {
	list, err := s.tasks.Standings(ctx)
	if err != nil {
		return nil, err
	}
	return all(list), nil
}

func (s *service) checkProvider(ctx context.Context, in *struct {
	Name string `path:"name" maxLength:"100" doc:"Name of the provider in the configuration" example:"github"`
}) (*body[task.Diagnosis], error) {
	d, err := s.tasks.Check(ctx, in.Name, s.url()+"/hooks/"+in.Name)
	return &body[task.Diagnosis]{d}, err
}

// providerCommands is `slipway provider`.
func providerCommands(client *blueprint.Client) *cobra.Command {
	c := cli{client}
	cmd := &cobra.Command{
		Use:   "provider",
		Short: "See and check the vendors that builds come from",
		Long: `See and check the providers: the vendors that Slipway reads from. What they are configured with is in the configuration file, or under
"slipway data list providers".`,
		Example: `  slipway provider list
  slipway provider check github`,
	}
	cmd.AddCommand(c.providerList(), c.providerCheck())
	return cmd
}

func (c cli) providerList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the providers and how they stand",
		Long:    "List the providers and their state, as far as the server knows without asking the vendors; \"slipway provider check\" asks one.",
		Example: "  slipway provider list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, list, err := blueprint.Get[blueprint.List[task.Standing]](cmd.Context(), c.Client, "/api/providers")
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"Name", "Type", "State", "Projects", "Failing", "Oldest reading", "Last webhook"}}
			var below []string
			for _, s := range list.Items {
				t.Rows = append(t.Rows, []string{s.Name, s.Type, s.State, strconv.FormatInt(s.Projects, 10), strconv.FormatInt(s.Failing, 10), blueprint.Clock(s.Oldest), blueprint.Clock(s.Webhook)})
				if s.Error != "" {
					below = append(below, s.Name+": "+s.Error)
				}
			}
			if len(list.Items) == 0 {
				below = []string{"No providers. Configure one under providers:, or with slipway data apply."}
			}
			t.Footer = strings.Join(below, "\n")
			return c.Print(cmd, raw, t)
		},
	}
}

func (c cli) providerCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check NAME",
		Short: "Find out whether a provider works, and what to do if not",
		Long: `Make the server ask the vendor now whether address, credential, permissions and webhook work, and say what to do about each problem. Nothing is
changed at the vendor. The exit status is 1 when something failed.`,
		Example: "  slipway provider check github",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			if _, list, err := blueprint.Get[blueprint.List[task.Standing]](cmd.Context(), c.Client, "/api/providers"); err == nil && len(args) == 0 {
				for _, s := range list.Items {
					names = append(names, s.Name+"\t"+s.Type)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var raw json.RawMessage
			var d task.Diagnosis
			if err := c.Do(cmd.Context(), http.MethodPost, "/api/providers/"+url.PathEscape(args[0])+"/check", nil, &raw); err != nil {
				return err
			}
			if err := json.Unmarshal(raw, &d); err != nil {
				return err
			}
			if err := c.Print(cmd, raw, diagnosisTable(d)); err != nil {
				return err
			}
			if !d.Works {
				var failed []string
				for _, f := range d.Findings {
					if f.State == "failed" {
						failed = append(failed, f.What)
					}
				}
				return slipway.Errorf(slipway.Unavailable, "provider %s does not work: %s", d.Name, strings.Join(failed, ", "))
			}
			return nil
		},
	}
}

// diagnosisTable is one screen: each side in a line, and below it what to do.
func diagnosisTable(d task.Diagnosis) blueprint.Table {
	t := blueprint.Table{Header: []string{"What", "State", "Found"}}
	var do []string
	for _, f := range d.Findings {
		t.Rows = append(t.Rows, []string{f.What, f.State, f.Text})
		if f.Do != "" {
			do = append(do, fmt.Sprintf("%s: %s", f.What, f.Do))
		}
	}
	t.Footer = strings.Join(do, "\n")
	return t
}
