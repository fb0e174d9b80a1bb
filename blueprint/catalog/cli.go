package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

// cli is the command line of this blueprint.
type cli struct{ *blueprint.Client }

// commands is `slipway catalog`.
func commands(client *blueprint.Client) *cobra.Command {
	c := cli{client}
	cmd := &cobra.Command{
		Use:   "catalog",
		Short: "Register catalog files and read entities",
		Long: `Register files that describe entities, and read the entities. An entity is written [kind:][namespace/]name, so that component:default/web
and web are the same.`,
		Example: `  slipway catalog register https://git.example.com/shop/web/blob/main/catalog-info.yaml
  slipway catalog get web`,
	}
	cmd.AddCommand(c.register(), c.unregister(), c.locations(), c.status(), c.refresh(), c.validate(), c.list(), c.get(), c.facets())
	return cmd
}

// registered is what came of a location.
type registered struct {
	LocationID string           `json:"locationId"`
	Entities   []slipway.Entity `json:"entities"`
	Faults     []string         `json:"faults"`
}

func (c cli) register() *cobra.Command {
	var kind string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "register TARGET",
		Short: "Register a catalog file",
		Long: `Register a catalog file by its address, or by its path on the server below one of its fetch.fileRoots. The server reads it at once, 5 seconds at
most, and again from time to time. --dry-run only shows what would be read.`,
		Example: `  slipway catalog register https://git.example.com/shop/web/blob/main/catalog-info.yaml
  slipway catalog register ./catalog-info.yaml --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			target := args[0]
			if kind == "" {
				kind = "file"
				if strings.Contains(target, "://") {
					kind = "url"
				}
			}
			if kind == "file" {
				var err error
				if target, err = filepath.Abs(target); err != nil {
					return err
				}
			}
			path := "/api/catalog/locations"
			if dryRun {
				path += "?dryRun=true"
			}
			raw, answer, err := blueprint.Ask[registered](cmd.Context(), c.Client, http.MethodPost, path, map[string]string{"type": kind, "target": target})
			if err != nil {
				return err
			}
			t := entityTable(answer.Entities)
			for _, f := range answer.Faults {
				t.Footer += "Not usable: " + f + "\n"
			}
			switch {
			case dryRun:
				t.Footer += fmt.Sprintf("Nothing was registered; %s would be read.", entities(len(answer.Entities)))
			case len(answer.Entities)+len(answer.Faults) == 0:
				t.Footer += fmt.Sprintf("Registered as %s; it is still being read. slipway catalog status %[1]s tells how it stands.", answer.LocationID)
			default:
				t.Footer += fmt.Sprintf("Registered as %s with %s.", answer.LocationID, entities(len(answer.Entities)))
			}
			return c.Print(cmd, raw, t)
		},
	}
	cmd.Flags().StringVar(&kind, "type", "", `"url" or "file" (default by the look of TARGET)`)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be read, and register nothing")
	return cmd
}

// entities is a number of them in words.
func entities(n int) string {
	if n == 1 {
		return "1 entity"
	}
	return strconv.Itoa(n) + " entities"
}

func (c cli) unregister() *cobra.Command {
	return &cobra.Command{
		Use:     "remove ID|TARGET",
		Aliases: []string{"unregister"},
		Short:   "Forget a registered place",
		Long:    `Forget a registered place, by its target or by the id that "slipway catalog locations" shows, and the entities that came from it.`,
		Example: `  slipway catalog remove https://git.example.com/shop/web/blob/main/catalog-info.yaml
  slipway catalog remove 0198c2f0-6b5e-7cc0-9d5e-0f6f3c1f7a11`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := c.locationID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := c.Do(cmd.Context(), http.MethodDelete, "/api/catalog/locations/"+url.PathEscape(id), nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "Forgot %s.\n", args[0])
			return nil
		},
	}
}

// locationID finds a location by its target; what looks like none is an id.
func (c cli) locationID(ctx context.Context, name string) (string, error) {
	targets := []string{name}
	if !strings.Contains(name, "://") {
		if !strings.ContainsAny(name, `/\.`) {
			return name, nil
		}
		if path, err := filepath.Abs(name); err == nil {
			targets = append(targets, path)
		}
	}
	var page Locations
	query := map[string]any{"query": map[string]any{"target": map[string]any{"$in": targets}}}
	if err := c.Do(ctx, http.MethodPost, "/api/catalog/locations/by-query", query, &page); err != nil {
		return "", err
	}
	for _, l := range page.Items {
		if slices.Contains(targets, l.Target) {
			return l.ID, nil
		}
	}
	return "", slipway.Errorf(slipway.NotFound, "%s is not registered; slipway catalog locations lists what is", clip(name))
}

func (c cli) locations() *cobra.Command {
	return &cobra.Command{
		Use:     "locations",
		Short:   "List registered places and their faults",
		Long:    "List the places that entities are read from, with what was wrong when they were last read.",
		Example: "  slipway catalog locations -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var raw json.RawMessage
			if err := c.Do(cmd.Context(), http.MethodGet, "/api/catalog/locations", nil, &raw); err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"ID", "Type", "Target", "Status", "Fault"}}
			for _, l := range locationsOf(raw) {
				t.Rows = append(t.Rows, []string{l.ID, l.Type, l.Target, l.Status, cmp.Or(l.Error, strings.Join(l.Faults, "; "))})
			}
			if len(t.Rows) == 0 {
				t.Footer = "Nothing is registered; slipway catalog register adds a file."
			}
			return c.Print(cmd, raw, t)
		},
	}
}

type shownLocation struct {
	ID     string   `json:"id"`
	Type   string   `json:"type"`
	Target string   `json:"target"`
	Status string   `json:"status"`
	Error  string   `json:"error"`
	Faults []string `json:"faults"`
}

// locationsOf reads Backstage's form of the list, where each location stands under data.
func locationsOf(raw json.RawMessage) (out []shownLocation) {
	var list []struct {
		Data shownLocation `json:"data"`
	}
	_ = json.Unmarshal(raw, &list) // a list that does not read is shown empty; -o json shows what there is
	for _, l := range list {
		out = append(out, l.Data)
	}
	return out
}

func (c cli) list() *cobra.Command {
	var filters []string
	var kind, owner string
	var limit, offset int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List entities",
		Long:  `List entities. --filter takes conditions key=value, joined by commas, which must all hold; if you repeat it, any of the filters is enough. --kind and --owner are shortcuts that apply to every filter.`,
		Example: `  slipway catalog list --kind component
  slipway catalog list --filter kind=component,spec.type=service --filter kind=api -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var common []string
			if kind != "" {
				common = append(common, "kind="+kind)
			}
			if owner != "" {
				common = append(common, "relations.ownedBy="+ownerRef(owner))
			}
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			for _, f := range filters {
				q.Add("filter", strings.Join(append([]string{f}, common...), ","))
			}
			if len(filters) == 0 && len(common) > 0 {
				q.Add("filter", strings.Join(common, ","))
			}
			if offset > 0 {
				q.Set("offset", strconv.Itoa(offset))
			}
			raw, entities, err := blueprint.Get[[]slipway.Entity](cmd.Context(), c.Client, "/api/catalog/entities?"+q.Encode())
			if err != nil {
				return err
			}
			t := entityTable(entities)
			switch {
			case len(entities) == 0:
				t.Footer = "No entities."
			case len(entities) == limit:
				t.Footer = fmt.Sprintf("There may be more: --offset %d", offset+limit)
			}
			return c.Print(cmd, raw, t)
		},
	}
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "conditions such as kind=component,spec.type=service; may be repeated")
	cmd.Flags().StringVar(&kind, "kind", "", "only entities of this kind")
	cmd.Flags().StringVar(&owner, "owner", "", "only entities of this owner, such as group:default/shop")
	cmd.Flags().IntVar(&limit, "limit", 100, "how many at most")
	cmd.Flags().IntVar(&offset, "offset", 0, "entries to skip")
	return cmd
}

// ownerRef is the full ref of an owner, which is a group unless it says otherwise.
func ownerRef(s string) string {
	ref, err := slipway.ParseEntityRef(s, slipway.EntityRef{Kind: "group"})
	if err != nil {
		return s // the server says what is wrong with it
	}
	return ref.String()
}

// entityTable shows entities in one row each.
func entityTable(entities []slipway.Entity) blueprint.Table {
	t := blueprint.Table{Header: []string{"Entity", "Type", "Owner", "Description"}}
	for _, e := range entities {
		t.Rows = append(t.Rows, []string{e.Ref().String(), e.SpecString("type"), e.Owner(), cmp.Or(e.Metadata.Description, e.Metadata.Title, e.SpecString("target"))})
	}
	return t
}

func (c cli) get() *cobra.Command {
	return &cobra.Command{
		Use:   "get ENTITY",
		Short: "Show an entity",
		Long:  "Show an entity with its annotations and relations; -o yaml shows the whole document.",
		Example: `  slipway catalog get web
  slipway catalog get group:default/shop -o yaml`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.refs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := slipway.ParseEntityRef(args[0], slipway.EntityRef{})
			if err != nil {
				return err
			}
			raw, e, err := blueprint.Get[slipway.Entity](cmd.Context(), c.Client, "/api/catalog/entities/by-name/"+segments(ref))
			if err != nil {
				return err
			}
			return c.Print(cmd, raw, entityDetails(e))
		},
	}
}

// refs completes the refs of entities.
func (c cli) refs(cmd *cobra.Command, args []string, _ string) (words []string, _ cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	var entities []slipway.Entity
	if len(args) > 0 || c.Do(ctx, http.MethodGet, "/api/catalog/entities?limit=500", nil, &entities) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, e := range entities {
		words = append(words, e.Ref().String()+"\t"+e.Metadata.Description)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// entityDetails shows one entity, a field a line.
func entityDetails(e slipway.Entity) blueprint.Table {
	var t blueprint.Table
	add := func(name, text string) {
		if text != "" {
			t.Rows = append(t.Rows, []string{name, text})
		}
	}
	add("Entity", e.Ref().String())
	add("Title", e.Metadata.Title)
	add("Description", e.Metadata.Description)
	add("Type", e.SpecString("type"))
	add("Lifecycle", e.SpecString("lifecycle"))
	add("Owner", e.Owner())
	add("System", e.SpecString("system"))
	add("Tags", strings.Join(e.Metadata.Tags, ", "))
	for _, key := range slices.Sorted(maps.Keys(e.Metadata.Annotations)) {
		add("Annotation", key+": "+e.Metadata.Annotations[key])
	}
	for _, r := range e.Relations {
		add("Relation", r.Type+" "+r.TargetRef)
	}
	if e.Status != nil {
		for _, s := range e.Status.Items {
			add("Fault", s.Level+": "+s.Message)
		}
	}
	return t
}
