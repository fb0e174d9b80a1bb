package deployment

import (
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

// commands is `slipway deployment`.
func commands(c *blueprint.Client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "deployment", Short: "Find deployments",
		Long: `Find the deployments of entities, whoever did them. An entity is written [kind:][namespace/]name, so that component:default/web and web are the
same. For metrics computed from deployments, see slipway dora.`,
		Example: `  slipway deployment search web
  slipway deployment show web`,
	}
	cmd.AddCommand(search(c), show(c))
	return cmd
}

func search(c *blueprint.Client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "search [ENTITY]", Short: "Show the last deployments of an entity, or of all that fit",
		Long: `Show the last deployments, newest first: of one entity, or of all entities that --owner, --system and --kind select. A repeated flag means any of its values. --since and --until take a time (2026-11-21) or an age (7d). Answers come from an index; if part of it may be out of date, a line below the table says so, and --fresh asks the vendors first.`,
		Example: `  slipway deployment search component:default/web --environment production
  slipway deployment search --owner group:default/shop --status failed --since 7d`,
		Args: cobra.MaximumNArgs(1),
	}
	flags := blueprint.NewSearchFlags(cmd, Task.Statuses...)
	flags.Filter("environment", "environment", "environment, in the vendor's words; may be repeated")
	flags.Filter("version", "version", "what was deployed; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := flags.Path(Task.Name, args)
		if err != nil {
			return err
		}
		raw, p, err := blueprint.Get[Page](cmd.Context(), c, path)
		if err != nil {
			return err
		}
		return c.Print(cmd, raw, p.table(len(args) == 0))
	}
	return cmd
}

// table shows a page; with entities, whose each deployment is.
func (p Page) table(entities bool) blueprint.Table {
	t := blueprint.Table{Header: []string{"ID", "Environment", "Version", "Status", "Created", "Took", "Commit", "Triggered by"}}
	if entities {
		t.Header = append([]string{"Entity"}, t.Header...)
	}
	for _, d := range p.Items {
		sha := ""
		if d.Commit != nil {
			sha = d.Commit.SHA[:min(8, len(d.Commit.SHA))]
		}
		r := []string{d.ID, d.Environment, d.Version, string(d.Status), blueprint.Clock(&d.CreatedAt), took(d), sha, blueprint.Who(d.TriggeredBy)}
		if entities {
			r = append([]string{d.EntityRef}, r...)
		}
		t.Rows = append(t.Rows, r)
	}
	t.Footer = blueprint.SearchFooter("No deployments.", len(p.Items), p.Sources, p.PageInfo)
	return t
}

func took(d slipway.Deployment) string {
	b := slipway.Build{Status: slipway.BuildStatus(d.Status), StartedAt: d.StartedAt, DurationSeconds: d.DurationSeconds}
	return b.Took(time.Now())
}

func show(c *blueprint.Client) *cobra.Command {
	return &cobra.Command{
		Use: "show ENTITY [ID]", Short: "Show all that is known of a deployment",
		Long: "Show one deployment with all its fields; without ID, the newest one.",
		Example: `  slipway deployment show web
  slipway deployment show component:default/web github:145988746 -o yaml`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			of := "/api/deployment/by-entity/" + url.PathEscape(args[0])
			id := args[len(args)-1]
			if len(args) == 1 {
				_, p, err := blueprint.Get[Page](cmd.Context(), c, of+"/search?limit=1")
				if err != nil {
					return err
				}
				if len(p.Items) == 0 {
					return slipway.Errorf(slipway.NotFound, "%s has no deployments yet; slipway deployment search %[1]s tells of its sources", args[0])
				}
				id = p.Items[0].ID
			}
			raw, d, err := blueprint.Get[slipway.Deployment](cmd.Context(), c, of+"/deployments/"+url.PathEscape(id))
			if err != nil {
				return err
			}
			return c.Print(cmd, raw, details(d))
		},
	}
}

// details shows one deployment, a field a line.
func details(d slipway.Deployment) (t blueprint.Table) {
	add := func(name, text string) {
		if text != "" {
			t.Rows = append(t.Rows, []string{name, text})
		}
	}
	add("ID", d.ID)
	add("Entity", d.EntityRef)
	add("Environment", d.Environment)
	add("Version", d.Version)
	add("Status", string(d.Status))
	add("Detail", d.Detail)
	add("Provider", d.Provider.Name+" ("+d.Provider.Type+")")
	add("Triggered by", blueprint.Who(d.TriggeredBy))
	if c := d.Commit; c != nil {
		add("Commit", c.SHA)
		add("Branch", c.Branch)
		add("Author", c.Author)
		add("Message", c.Message)
	}
	add("Created", blueprint.Clock(&d.CreatedAt))
	add("Started", blueprint.Clock(d.StartedAt))
	add("Finished", blueprint.Clock(d.FinishedAt))
	add("Took", took(d))
	add("Page", d.URL)
	return t
}
