package data

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/secret"
)

// cli is the command line of this blueprint.
type cli struct{ *blueprint.Client }

// commands is `slipway data`.
func commands(client *blueprint.Client) *cobra.Command {
	c := cli{client}
	cmd := &cobra.Command{
		Use:   "data",
		Short: "Read and write what is configured, as documents",
		Long: `Read and write what is configured, as documents: credentials, providers, grants and more. "slipway data kinds" says what there is. Files hold one or more
documents, in YAML or JSON; each says its kind. Secrets are written and never read.`,
		Example: `  slipway data apply -f config/
  slipway data get credentials/github-key`,
	}
	cmd.AddCommand(c.kinds(), c.list(), c.get(), c.apply(), c.diff(), c.delete(), c.export(), c.schema(), c.rekey())
	return cmd
}

func path(kind, id string) string {
	return "/data/" + url.PathEscape(kind) + "/" + url.PathEscape(id)
}

// enveloped is an answer of the API.
type enveloped[T any] struct {
	Data     T `json:"data"`
	PageInfo struct {
		NextCursor string `json:"nextCursor"`
	} `json:"pageInfo"`
}

// do asks the API, and gives the answer with its bytes.
func do[T any](c cli, cmd *cobra.Command, method, path string, body any) (e enveloped[T], raw json.RawMessage, err error) {
	if err := c.Do(cmd.Context(), method, path, body, &raw); err != nil {
		return e, nil, err
	}
	return e, raw, json.Unmarshal(raw, &e)
}

func (c cli) kinds() *cobra.Command {
	return &cobra.Command{
		Use: "kinds", Short: "List the kinds of documents", Long: "List the kinds of documents with their types.",
		Example: "  slipway data kinds", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, raw, err := do[[]kindInfo](c, cmd, http.MethodGet, "/data", nil)
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"KIND", "TYPES", "TEXT"}}
			for _, k := range e.Data {
				var types []string
				for _, typ := range k.Types {
					types = append(types, typ.Symbol)
				}
				t.Rows = append(t.Rows, []string{k.Kind, strings.Join(types, " "), k.Text})
			}
			return c.Print(cmd, raw, t)
		},
	}
}

func (c cli) list() *cobra.Command {
	var filters []string
	var cursor string
	var limit int
	cmd := &cobra.Command{
		Use: "list KIND", Short: "List documents of a kind", Long: "List documents of a kind, in the order of their ids. --filter key=value may be repeated.",
		Example: "  slipway data list credentials\n  slipway data list credentials --filter type=secretText -o json", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"limit": {strconv.Itoa(limit)}, "filter": filters}
			if cursor != "" {
				q.Set("cursor", cursor)
			}
			e, raw, err := do[[]map[string]any](c, cmd, http.MethodGet, "/data/"+url.PathEscape(args[0])+"?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"ID", "TYPE", "DESCRIPTION"}}
			for _, d := range e.Data {
				text := func(key string) string { s, _ := d[key].(string); return s }
				t.Rows = append(t.Rows, []string{text("id"), text("type"), text("description")})
			}
			if e.PageInfo.NextCursor != "" {
				t.Footer = "There are more: --cursor " + e.PageInfo.NextCursor
			}
			return c.Print(cmd, raw, t)
		},
	}
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "only documents with this field: key=value")
	cmd.Flags().StringVar(&cursor, "cursor", "", "read on, as the list before said")
	cmd.Flags().IntVar(&limit, "limit", 100, "how many at most")
	return cmd
}

// refOf reads KIND/ID.
func refOf(arg string) (kind, id string, err error) {
	kind, id, ok := strings.Cut(arg, "/")
	if !ok || kind == "" || id == "" {
		return "", "", fmt.Errorf("%q is no document; write kind/id, such as credentials/github-key", arg)
	}
	return kind, id, nil
}

func (c cli) get() *cobra.Command {
	return &cobra.Command{
		Use: "get KIND/ID", Short: "Show a document", Long: "Show a document. Secrets come as <redacted>.",
		Example: "  slipway data get credentials/github-key -o yaml", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, id, err := refOf(args[0])
			if err != nil {
				return err
			}
			e, raw, err := do[map[string]json.RawMessage](c, cmd, http.MethodGet, path(kind, id), nil)
			if err != nil {
				return err
			}
			return c.Print(cmd, raw, blueprint.Table{Header: []string{"FIELD", "VALUE"}, Rows: rows(e.Data)})
		},
	}
}

// rows shows a document, a field a line.
func rows(fields map[string]json.RawMessage) (all [][]string) {
	for key, value := range fields {
		all = append(all, []string{key, plain(value)})
	}
	order := []string{"id", "type", "labels", "scope", "description"}
	rank := func(key string) int {
		if i := slices.Index(order, key); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortFunc(all, func(a, b []string) int { return cmp.Or(rank(a[0])-rank(b[0]), strings.Compare(a[0], b[0])) })
	return all
}

func plain(value json.RawMessage) string {
	var text string
	if json.Unmarshal(value, &text) == nil {
		return text
	}
	return string(value)
}

func (c cli) apply() *cobra.Command {
	var files []string
	var dryRun bool
	var prune string
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Create or replace the documents of files",
		Long: `Create or replace the documents of files and folders: all of them or none. Each document says its kind, beside "version: 1" and "data". ${env:NAME} and
${file:/path} are replaced here, where the command runs. --dry-run shows what would change. --prune key=value also deletes documents that carry this label and
are in none of the files.`,
		Example: "  slipway data apply -f config/\n  slipway data apply -f - --dry-run <credentials.yaml\n  slipway data apply -f config/ --prune team=web", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.send(cmd, files, dryRun, prune) },
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file or folder with documents, or - for the standard input; may be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would change")
	cmd.Flags().StringVar(&prune, "prune", "", "delete documents with this label that are not in the files: key=value")
	_ = cmd.MarkFlagRequired("file") // the flag was added above
	return cmd
}

func (c cli) diff() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use: "diff -f FILE", Short: "Show how what is stored differs from files", Long: "Show what applying the files would change. Nothing is changed.",
		Example: "  slipway data diff -f config/", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.send(cmd, files, true, "") },
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file or folder with documents, or - for the standard input; may be repeated")
	_ = cmd.MarkFlagRequired("file") // the flag was added above
	return cmd
}

func (c cli) send(cmd *cobra.Command, files []string, dryRun bool, prune string) error {
	all, err := readFiles(files, cmd.InOrStdin(), os.LookupEnv)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("there are no documents in %s; files end in .yaml, .yml, .json or .ndjson", strings.Join(files, ", "))
	}
	q := url.Values{}
	if dryRun {
		q.Set("dryRun", "true")
	}
	if prune != "" {
		q.Set("prune", prune)
	}
	e, raw, err := do[applied](c, cmd, http.MethodPost, "/data?"+q.Encode(), json.RawMessage(envelopes(all)))
	if err != nil {
		return located(err, all)
	}
	t := blueprint.Table{Footer: fmt.Sprintf("%d created, %d updated, %d unchanged, %d deleted.", e.Data.Created, e.Data.Updated, e.Data.Unchanged, e.Data.Deleted)}
	if dryRun {
		t.Footer = fmt.Sprintf("Nothing was changed; it would be: %d created, %d updated, %d unchanged, %d deleted.", e.Data.Created, e.Data.Updated, e.Data.Unchanged, e.Data.Deleted)
	}
	for _, d := range e.Data.Documents {
		if d.Action != resource.Unchanged {
			t.Rows = append(t.Rows, append([]string{string(d.Action), d.Kind + "/" + d.ID}, difference(d)))
		}
	}
	return c.Print(cmd, raw, t)
}

// difference says in which fields a document would change.
func difference(d appliedOne) string {
	if d.Action != resource.Updated || d.Before == nil {
		return ""
	}
	var before, after map[string]json.RawMessage
	if json.Unmarshal(d.Before, &before) != nil || json.Unmarshal(d.After, &after) != nil {
		return ""
	}
	var lines []string
	for key, value := range after {
		if was, ok := before[key]; !ok {
			lines = append(lines, "+ "+key+": "+plain(value))
		} else if string(was) != string(value) {
			lines = append(lines, "~ "+key+": "+plain(was)+" → "+plain(value))
		}
	}
	for key, was := range before {
		if _, ok := after[key]; !ok {
			lines = append(lines, "- "+key+": "+plain(was))
		}
	}
	if len(lines) == 0 {
		return "~ a secret"
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	return strings.Join(lines, ", ")
}

func (c cli) delete() *cobra.Command {
	return &cobra.Command{
		Use: "delete KIND/ID...", Short: "Delete documents", Long: "Delete documents, one after the other. One that others name is not deleted.",
		Example: "  slipway data delete credentials/github-key", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				kind, id, err := refOf(arg)
				if err != nil {
					return err
				}
				if err := c.Do(cmd.Context(), http.MethodDelete, path(kind, id), nil, nil); err != nil {
					return err
				}
				cmd.Printf("deleted %s\n", arg)
			}
			return nil
		},
	}
}

func (c cli) export() *cobra.Command {
	var fromEnv bool
	cmd := &cobra.Command{
		Use: "export [KIND...]", Short: "Print all documents, as apply takes them",
		Long: `Print all documents, or those of some kinds, one envelope a kind, as apply takes them. Secrets are <redacted>, which keeps what is stored when it is applied
to the same server. For another server, --env writes ${env:KIND_ID_FIELD} in their place, and apply takes them from the environment. What the configuration
file sets, and what is not written through documents, is left out.`,
		Example: "  slipway data export >backup.json\n  slipway data export --env >move.json\n  slipway data export credentials", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			kinds, _, err := do[[]kindInfo](c, cmd, http.MethodGet, "/data", nil)
			if err != nil {
				return err
			}
			type envelope struct {
				Version int    `json:"version"`
				Kind    string `json:"kind"`
				Data    []any  `json:"data"`
			}
			all := []envelope{}
			for _, k := range kinds.Data {
				if len(args) > 0 && !slices.Contains(args, k.Kind) || k.Permissions.Create == "" {
					continue
				}
				out := envelope{resource.Version, k.Kind, []any{}}
				for cursor := ""; ; {
					q := url.Values{"limit": {"100"}}
					if cursor != "" {
						q.Set("cursor", cursor)
					}
					page, _, err := do[[]json.RawMessage](c, cmd, http.MethodGet, "/data/"+k.Kind+"?"+q.Encode(), nil)
					if err != nil {
						return err
					}
					for _, d := range page.Data {
						var set struct {
							Origin string `json:"origin"`
						}
						if json.Unmarshal(d, &set) != nil || set.Origin != "" {
							continue
						}
						filed, err := fileForm(k.Kind, d, fromEnv)
						if err != nil {
							return err
						}
						out.Data = append(out.Data, filed)
					}
					if cursor = page.PageInfo.NextCursor; cursor == "" {
						break
					}
				}
				if len(out.Data) > 0 {
					all = append(all, out)
				}
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetEscapeHTML(false)
			e.SetIndent("", "  ")
			return e.Encode(all)
		},
	}
	cmd.Flags().BoolVar(&fromEnv, "env", false, "write ${env:…} in place of secrets")
	return cmd
}

var noVariable = regexp.MustCompile(`[^A-Z0-9]+`)

// fileForm is a document as a file has it, where "${" begins something to be replaced. With fromEnv, the name of a variable stands in place of each secret.
func fileForm(kind string, raw json.RawMessage, fromEnv bool) (any, error) {
	var d any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&d); err != nil {
		return nil, err
	}
	id, _ := d.(map[string]any)["id"].(string)
	var walk func(v any, name string) any
	walk = func(v any, name string) any {
		switch v := v.(type) {
		case string:
			if fromEnv && v == secret.Redacted {
				return "${env:" + noVariable.ReplaceAllString(strings.ToUpper(name), "_") + "}"
			}
			return strings.ReplaceAll(v, "${", "$${")
		case map[string]any:
			for key, value := range v {
				v[key] = walk(value, name+"_"+key)
			}
		case []any:
			for i, value := range v {
				v[i] = walk(value, name+"_"+strconv.Itoa(i))
			}
		}
		return v
	}
	return walk(d, kind+"_"+id), nil
}

func (c cli) schema() *cobra.Command {
	return &cobra.Command{
		Use: "schema KIND", Short: "Print the JSON Schema of a kind", Long: "Print the JSON Schema of a kind, for editors and checks.",
		Example: "  slipway data schema credentials", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, _, err := do[json.RawMessage](c, cmd, http.MethodGet, "/data/schema/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", e.Data)
			return err
		},
	}
}

func (c cli) rekey() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "rekey", Short: "Seal all secrets with a new key",
		Long: `Put a new key in front of the others in the key file of the server, and have a job seal every secret with it while the server goes on. With --keep-file
the server only seals with the newest key of the file, which the operator has put there.`,
		Example: "  slipway data rekey", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, raw, err := do[rekeying](c, cmd, http.MethodPost, "/data/rekey?rotate="+strconv.FormatBool(!keep), nil)
			if err != nil {
				return err
			}
			return c.Print(cmd, raw, blueprint.Table{Footer: "Secrets are being sealed with key " + e.Data.KeyID + "."})
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-file", false, "make no new key")
	return cmd
}
