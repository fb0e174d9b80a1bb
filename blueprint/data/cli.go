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
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
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
		Short: "Read and write configuration documents",
		Long: `Read and write configuration documents: credentials, providers, grants and more. "slipway data kinds" says what there is. Files hold one or more
documents, in YAML or JSON; each says its kind. Secrets are written and never read.`,
		Example: `  slipway data apply -f config/
  slipway data get credentials/github-key`,
	}
	cmd.AddCommand(c.kinds(), c.list(), c.get(), c.apply(), c.diff(), c.delete(), c.export(), c.schema(), c.audit(), c.rekey())
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
	Warnings []string `json:"warnings"`
}

const maxWarnings = 20 // of an answer that are shown

// do asks the API, and gives the answer with its bytes.
func do[T any](c cli, cmd *cobra.Command, method, path string, body any) (e enveloped[T], raw json.RawMessage, err error) {
	raw, e, err = blueprint.Ask[enveloped[T]](cmd.Context(), c.Client, method, path, body)
	for _, text := range e.Warnings[:min(len(e.Warnings), maxWarnings)] {
		cmd.PrintErrln("warning: " + text)
	}
	if more := len(e.Warnings) - maxWarnings; more > 0 {
		cmd.PrintErrf("and %d more warnings; -o json has them all\n", more)
	}
	return e, raw, err
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
	var filters, fields []string
	var cursor string
	var limit int
	cmd := &cobra.Command{
		Use: "list KIND", Short: "List documents of a kind", Long: `List documents of a kind, in the order of their ids. --filter key=value may be repeated, and all must hold; keys are fields, also labels.team. --fields
shows these in place of the description.`,
		Example: "  slipway data list credentials\n  slipway data list credentials --filter labels.team=web --fields scope,username -o json", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"limit": {strconv.Itoa(limit)}, "filter": filters}
			if cursor != "" {
				q.Set("cursor", cursor)
			}
			if len(fields) > 0 {
				q.Set("fields", strings.Join(fields, ","))
			}
			e, raw, err := do[[]map[string]json.RawMessage](c, cmd, http.MethodGet, "/data/"+url.PathEscape(args[0])+"?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			columns := []string{"id", "type", "description"}
			if len(fields) > 0 {
				columns = append(columns[:2], fields...)
			}
			t := blueprint.Table{}
			for _, key := range columns {
				t.Header = append(t.Header, strings.ToUpper(key))
			}
			for _, d := range e.Data {
				var row []string
				for _, key := range columns {
					row = append(row, plain(d[key]))
				}
				t.Rows = append(t.Rows, row)
			}
			if e.PageInfo.NextCursor != "" {
				t.Footer = "There are more: --cursor " + e.PageInfo.NextCursor
			} else if len(e.Data) == 0 {
				t.Footer = "No documents."
			}
			return c.Print(cmd, raw, t)
		},
	}
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "only documents with this field: key=value")
	cmd.Flags().StringSliceVar(&fields, "fields", nil, "only these fields, beside id and type: a,b")
	cmd.Flags().StringVar(&cursor, "cursor", "", "continue a list: the value that the page before printed")
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := c.send(cmd, files, dryRun, prune)
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file or folder with documents, or - for the standard input; may be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would change")
	cmd.Flags().StringVar(&prune, "prune", "", "delete documents with this label that are not in the files: key=value")
	_ = cmd.MarkFlagRequired("file") // the flag was added above
	return cmd
}

func (c cli) diff() *cobra.Command {
	var files []string
	var prune string
	var exit bool
	cmd := &cobra.Command{
		Use: "diff -f FILE", Short: "Show how what is stored differs from files",
		Long: `Show what applying the files would change, field by field. Nothing is changed. Of a secret, only that it differs is shown. --prune key=value also shows
documents that carry this label and are in none of the files. With --exit-code the exit status is 1 when something differs, for a check that runs every hour.`,
		Example: "  slipway data diff -f config/\n  slipway data diff -f config/ --prune team=web --exit-code", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes, err := c.send(cmd, files, true, prune)
			if err == nil && exit && changes > 0 {
				err = slipway.Errorf(slipway.Conflict, "%d documents differ", changes)
			}
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file or folder with documents, or - for the standard input; may be repeated")
	cmd.Flags().StringVar(&prune, "prune", "", "show also documents with this label that are not in the files: key=value")
	cmd.Flags().BoolVar(&exit, "exit-code", false, "exit with 1 when something differs")
	_ = cmd.MarkFlagRequired("file") // the flag was added above
	return cmd
}

// send applies files, and says how many documents that changes.
func (c cli) send(cmd *cobra.Command, files []string, dryRun bool, prune string) (changes int, err error) {
	all, err := readFiles(files, cmd.InOrStdin(), os.LookupEnv)
	if err != nil {
		return 0, err
	}
	if len(all) == 0 {
		return 0, fmt.Errorf("there are no documents in %s; files end in .yaml, .yml, .json or .ndjson", strings.Join(files, ", "))
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
		return 0, located(err, all)
	}
	t := blueprint.Table{Footer: fmt.Sprintf("%d created, %d updated, %d unchanged, %d deleted.", e.Data.Created, e.Data.Updated, e.Data.Unchanged, e.Data.Deleted)}
	if dryRun {
		t.Footer = fmt.Sprintf("Nothing was changed; it would be: %d created, %d updated, %d unchanged, %d deleted.", e.Data.Created, e.Data.Updated, e.Data.Unchanged, e.Data.Deleted)
	}
	for _, d := range e.Data.Documents {
		if d.Action == resource.Unchanged {
			continue
		}
		changes++
		lines := difference(d.Before, d.After)
		if d.Secret != "" {
			lines = append(lines, "its secret, which is not shown again: "+d.Secret)
		}
		addLines(&t, []string{string(d.Action), d.Kind + "/" + d.ID}, lines)
	}
	return changes, c.Print(cmd, raw, t)
}

// addLines adds a row with several lines in its last column.
func addLines(t *blueprint.Table, row, lines []string) {
	if len(lines) == 0 {
		lines = []string{""}
	}
	for _, line := range lines {
		t.Rows = append(t.Rows, append(row, line))
		row = make([]string, len(row))
	}
}

// difference says in which fields a document changes, a line each: + comes, - goes, ~ is replaced. There are none for one that is deleted.
func difference(was, is json.RawMessage) (lines []string) {
	var before, after map[string]json.RawMessage
	if is == nil || json.Unmarshal(is, &after) != nil || was != nil && json.Unmarshal(was, &before) != nil {
		return nil
	}
	for _, field := range rows(after) {
		was, ok := before[field[0]]
		switch {
		case field[0] == "id":
		case !ok:
			lines = append(lines, "+ "+field[0]+": "+field[1])
		case plain(was) != field[1]:
			lines = append(lines, "~ "+field[0]+": "+plain(was)+" → "+field[1])
		}
	}
	for _, field := range rows(before) {
		if _, ok := after[field[0]]; !ok {
			lines = append(lines, "- "+field[0]+": "+field[1])
		}
	}
	if len(lines) == 0 && was != nil {
		lines = []string{"~ a secret"}
	}
	return lines
}

func (c cli) delete() *cobra.Command {
	return &cobra.Command{
		Use: "delete KIND/ID...", Short: "Delete documents", Long: "Delete documents, one after the other. A document that others refer to is not deleted.",
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
to the same server. For another server, --env writes ${env:KIND_ID_FIELD} in their place, and apply takes them from the environment. Left out are settings of the configuration file, and tokens unless you name them, because applying them elsewhere makes new tokens.`,
		Example: "  slipway data export >backup.json\n  slipway data export -o yaml >config/all.yaml\n  slipway data export --env >move.json\n  slipway data export credentials", Args: cobra.ArbitraryArgs,
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
				if len(args) > 0 && !slices.Contains(args, k.Kind) || len(args) == 0 && k.Local || k.Permissions.Create == "" {
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
						filed, err := fileForm(k, d, fromEnv)
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
			if f := cmd.Flag("output"); f != nil && f.Value.String() == "yaml" {
				return c.Print(cmd, all, blueprint.Table{})
			}
			e := json.NewEncoder(cmd.OutOrStdout()) // a table would be nothing that apply takes
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
func fileForm(kind kindInfo, raw json.RawMessage, fromEnv bool) (any, error) {
	var d any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&d); err != nil {
		return nil, err
	}
	fields, _ := d.(map[string]any)
	id, _ := fields["id"].(string)
	for _, key := range kind.ReadOnly {
		delete(fields, key)
	}
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
	return walk(d, kind.Kind+"_"+id), nil
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

func (c cli) audit() *cobra.Command {
	var cursor string
	var limit int
	cmd := &cobra.Command{
		Use: "audit [KIND[/ID]]", Short: "Show who changed what",
		Long:    `Show changes of documents, newest first: all, those of a kind, or those of one document, with the fields that changed. Of a secret, only that it changed is shown.`,
		Example: "  slipway data audit\n  slipway data audit credentials/github-key", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			if len(args) > 0 {
				kind, id, _ := strings.Cut(args[0], "/")
				q.Set("kind", kind)
				if id != "" {
					q.Set("id", id)
				}
			}
			if cursor != "" {
				q.Set("cursor", cursor)
			}
			e, raw, err := do[[]resource.Record](c, cmd, http.MethodGet, "/data/audit?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"AT", "CALLER", "CHANGE", "DOCUMENT", "FIELDS"}}
			for _, r := range e.Data {
				row := []string{r.At.UTC().Format(time.RFC3339), r.Caller, r.Action, r.Kind + "/" + r.Object}
				addLines(&t, row, difference(r.Before, r.After))
			}
			if e.PageInfo.NextCursor != "" {
				t.Footer = "There are more: --cursor " + e.PageInfo.NextCursor
			}
			return c.Print(cmd, raw, t)
		},
	}
	cmd.Flags().StringVar(&cursor, "cursor", "", "continue a list: the value that the page before printed")
	cmd.Flags().IntVar(&limit, "limit", 20, "how many at most")
	return cmd
}

func (c cli) rekey() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "rekey", Short: "Seal all secrets with a new key",
		Long:    `Add a new master key to the server's key file, and seal every secret with it in a background job while the server runs. With --keep-file, no key is added: the secrets are sealed with the newest key that the operator has put into the file.`,
		Example: "  slipway data rekey", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, raw, err := do[rekeying](c, cmd, http.MethodPost, "/data/rekey?rotate="+strconv.FormatBool(!keep), nil)
			if err != nil {
				return err
			}
			return c.Print(cmd, raw, blueprint.Table{Footer: "Secrets are being sealed with key " + e.Data.KeyID + `. "slipway job list" shows data.rekey until it is done; old keys are needed until then.`})
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-file", false, "make no new key")
	return cmd
}
