package deployment

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

// commands is `slipway deployment`.
func commands(c *blueprint.Client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "deployment", Short: "Find deployments",
		Long:    "Find the deployments of entities, whoever did them. What they say of a team's speed is told by slipway dora.",
		Example: "  slipway deployment search web",
	}
	cmd.AddCommand(search(c))
	return cmd
}

func search(c *blueprint.Client) *cobra.Command {
	var statuses, environments []string
	var owner, cursor string
	var limit int
	cmd := &cobra.Command{
		Use: "search [ENTITY]", Short: "Show the last deployments of an entity, or of all",
		Long: "Show the last deployments, newest first: of one entity, or without one, of all that --owner leaves. Several values of one flag mean any of them.",
		Example: `  slipway deployment search component:default/web --environment production
  slipway deployment search --owner group:default/shop --status failed`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"status": statuses, "environment": environments}
			for name, v := range map[string]string{"owner": owner, "cursor": cursor} {
				if v != "" {
					q.Set(name, v)
				}
			}
			if limit != 0 {
				q.Set("limit", strconv.Itoa(limit))
			}
			path := "/api/deployment/search"
			if len(args) == 1 {
				path = "/api/deployment/by-entity/" + url.PathEscape(args[0]) + "/search"
			}
			if text := q.Encode(); text != "" {
				path += "?" + text
			}
			var raw json.RawMessage
			var p Page
			if err := c.Do(cmd.Context(), http.MethodGet, path, nil, &raw); err != nil {
				return err
			}
			if err := json.Unmarshal(raw, &p); err != nil {
				return err
			}
			return c.Print(cmd, raw, p.table())
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&statuses, "status", nil, "starting, running, succeeded, failed, canceled or unknown; may be repeated")
	f.StringSliceVar(&environments, "environment", nil, "environment, in the vendor's words; may be repeated")
	f.StringVar(&owner, "owner", "", "without ENTITY: owner of the entities")
	f.StringVar(&cursor, "cursor", "", "read on where another page ended")
	f.IntVar(&limit, "limit", 0, "how many on a page, at most 100 (default 20)")
	return cmd
}

func (p Page) table() blueprint.Table {
	t := blueprint.Table{Header: []string{"Entity", "ID", "Environment", "Version", "Status", "Created", "Triggered by", "Commit"}}
	for _, d := range p.Items {
		sha, who := "", ""
		if d.Commit != nil {
			sha = d.Commit.SHA[:min(8, len(d.Commit.SHA))]
		}
		if by := d.TriggeredBy; by != nil {
			if who = by.Name; who == "" {
				who = by.ID
			}
		}
		t.Rows = append(t.Rows, []string{d.EntityRef, d.ID, d.Environment, d.Version, string(d.Status), d.CreatedAt.Local().Format("2006-01-02 15:04:05"), who, sha})
	}
	var below []string
	if len(p.Items) == 0 {
		below = append(below, "No deployments.")
	}
	for _, s := range p.Sources {
		if s.State != slipway.SourceFresh {
			below = append(below, strings.TrimSuffix("Source "+s.Provider+" "+s.Project+" is "+string(s.State)+": "+s.Error, ": "))
		}
	}
	if p.PageInfo.NextCursor != "" {
		below = append(below, "There are more: --cursor "+p.PageInfo.NextCursor)
	}
	t.Footer = strings.Join(below, "\n")
	return t
}
