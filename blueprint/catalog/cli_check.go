package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

func (c cli) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status [ID|TARGET|ENTITY]",
		Short: "Show what is wrong with registered places",
		Long: `Show, file by file, what was wrong when a place was last read: by its id or target, or by an entity that came from it. Without either, the places that have faults
are shown. The exit status is 1 when something is wrong.`,
		Example: `  slipway catalog status
  slipway catalog status component:default/web`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.refs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := c.statusOf(cmd.Context(), args)
			if err != nil {
				return err
			}
			raw := []json.RawMessage{}
			t := blueprint.Table{Header: []string{"File", "Status", "Entities", "Fault"}}
			wrong := 0
			for _, id := range ids {
				var one json.RawMessage
				if err := c.Do(cmd.Context(), http.MethodGet, "/api/catalog/locations/"+url.PathEscape(id)+"/status", nil, &one); err != nil {
					return err
				}
				var status LocationStatus
				if err := json.Unmarshal(one, &status); err != nil {
					return err
				}
				raw = append(raw, one)
				for _, f := range status.Files {
					faults := f.Faults
					if f.Error != "" {
						faults = append([]string{f.Error}, faults...)
					}
					wrong += len(faults)
					t.Rows = append(t.Rows, []string{f.Target, f.Status, strconv.Itoa(len(f.Entities)), strings.Join(faults, "\n")})
				}
				if len(status.Files) == 0 {
					t.Rows = append(t.Rows, []string{status.Location.Target, status.Location.Status, "0", status.Location.Error})
				}
			}
			if len(ids) == 0 {
				t.Footer = "Nothing is wrong."
			}
			if err := c.Print(cmd, raw, t); err != nil || wrong == 0 {
				return err
			}
			return slipway.Errorf(slipway.Invalid, "faults: %d", wrong)
		},
	}
}

// statusOf finds the locations that status shows: the one named, or those with faults.
func (c cli) statusOf(ctx context.Context, args []string) ([]string, error) {
	if len(args) == 0 {
		var page Locations
		query := map[string]any{"query": map[string]any{"status": map[string]any{"$in": []string{faulty, failed}}}}
		err := c.Do(ctx, http.MethodPost, "/api/catalog/locations/by-query", query, &page)
		var ids []string
		for _, l := range page.Items {
			ids = append(ids, l.ID)
		}
		return ids, err
	}
	var l Location
	id, err := c.locationID(ctx, args[0])
	if err == nil {
		err = c.Do(ctx, http.MethodGet, "/api/catalog/locations/"+url.PathEscape(id), nil, &l)
	}
	if slipway.CodeOf(err) != slipway.NotFound || strings.Contains(args[0], "://") {
		return []string{id}, err
	}
	ref, err := slipway.ParseEntityRef(args[0], slipway.EntityRef{})
	if err != nil {
		return nil, err
	}
	err = c.Do(ctx, http.MethodGet, "/api/catalog/locations/by-entity/"+segments(ref), nil, &l)
	return []string{l.ID}, err
}

// segments is a ref as the segments of an address.
func segments(ref slipway.EntityRef) string {
	return url.PathEscape(ref.Kind) + "/" + url.PathEscape(ref.Namespace) + "/" + url.PathEscape(ref.Name)
}

func (c cli) refresh() *cobra.Command {
	return &cobra.Command{
		Use:   "refresh ENTITY|TARGET",
		Short: "Read a place again",
		Long:  "Read a registered file again now instead of at its usual time. Name it by its target, or by an entity that it describes.",
		Example: `  slipway catalog refresh component:default/web
  slipway catalog refresh https://git.example.com/shop/web/blob/main/catalog-info.yaml`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.refs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ref := args[0]
			if strings.Contains(ref, "://") || filepath.IsAbs(ref) {
				id, err := c.locationID(cmd.Context(), ref)
				if err != nil {
					return err
				}
				var l Location
				if err := c.Do(cmd.Context(), http.MethodGet, "/api/catalog/locations/"+url.PathEscape(id), nil, &l); err != nil {
					return err
				}
				ref = l.EntityRef
			}
			if err := c.Do(cmd.Context(), http.MethodPost, "/api/catalog/refresh", map[string]string{"entityRef": ref}, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "It is read again; slipway catalog status %s tells what came of it.\n", args[0])
			return nil
		},
	}
}

func (c cli) facets() *cobra.Command {
	var filters []string
	cmd := &cobra.Command{
		Use:   "facets FIELD...",
		Short: "Count the values of fields",
		Long:  "Count how many entities have each value of a field. --filter limits the entities, as in slipway catalog list.",
		Example: `  slipway catalog facets kind
  slipway catalog facets spec.type metadata.tags --filter kind=component`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"facet": args, "filter": filters}
			raw, found, err := blueprint.Get[Facets](cmd.Context(), c.Client, "/api/catalog/entity-facets?"+q.Encode())
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"Field", "Value", "Entities"}}
			for _, field := range slices.Sorted(maps.Keys(found.Facets)) {
				for _, v := range found.Facets[field] {
					t.Rows = append(t.Rows, []string{field, v.Value, strconv.FormatInt(v.Count, 10)})
				}
			}
			if len(t.Rows) == 0 {
				t.Footer = "No entity has such a field."
			}
			return c.Print(cmd, raw, t)
		},
	}
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "conditions such as kind=component,spec.type=service; may be repeated")
	return cmd
}

// checkedFile is what validate found in a file.
type checkedFile struct {
	File     string   `json:"file"`
	Entities []string `json:"entities"`
	Faults   []string `json:"faults"`
}

func (c cli) validate() *cobra.Command {
	var offline bool
	var kinds []string
	cmd := &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check catalog files without registering them",
		Long: `Check catalog files on this machine: their YAML, the rules of the format and of the kinds. The server is asked too; --offline leaves
that out, for a pipeline without a server. Files that Location entities and placeholders name are not read. The exit status is 1 when something is wrong.`,
		Example: `  slipway catalog validate catalog-info.yaml
  slipway catalog validate --offline services/*/catalog-info.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var files []checkedFile
			t := blueprint.Table{Header: []string{"File", "Entities", "Fault"}}
			wrong := 0
			for _, name := range args {
				f, err := c.check(cmd.Context(), name, accepted(append(DefaultConfig().Kinds, kinds...)), offline)
				if err != nil {
					return err
				}
				wrong += len(f.Faults)
				files = append(files, f)
				t.Rows = append(t.Rows, []string{f.File, strconv.Itoa(len(f.Entities)), strings.Join(f.Faults, "\n")})
			}
			if err := c.Print(cmd, files, t); err != nil || wrong == 0 {
				return err
			}
			return slipway.Errorf(slipway.Invalid, "faults: %d", wrong)
		},
	}
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "a further kind that is accepted; may be repeated")
	cmd.Flags().BoolVar(&offline, "offline", false, "do not ask the server")
	return cmd
}

func (c cli) check(ctx context.Context, name string, kinds map[string]bool, offline bool) (checkedFile, error) {
	f := checkedFile{File: name, Entities: []string{}, Faults: []string{}}
	data, err := os.ReadFile(name)
	if err != nil {
		return f, err
	}
	entities, faults, err := parse(ctx, data, kinds, nil)
	if err != nil {
		f.Faults = append(f.Faults, reason(err))
	} else if len(entities)+len(faults) == 0 {
		f.Faults = append(f.Faults, "it is empty")
	}
	for _, fault := range faults {
		f.Faults = append(f.Faults, fault.String())
	}
	for _, e := range entities {
		f.Entities = append(f.Entities, e.Ref().String())
		if offline {
			continue
		}
		err := c.Do(ctx, http.MethodPost, "/api/catalog/validate-entity", map[string]any{"entity": e, "location": "url:https://localhost/" + url.PathEscape(name)}, nil)
		if slipway.CodeOf(err) == slipway.Invalid {
			f.Faults = append(f.Faults, fmt.Sprintf("%s: the server does not accept it: %s", e.Ref(), reason(err)))
		} else if err != nil {
			return f, err
		}
	}
	return f, nil
}
