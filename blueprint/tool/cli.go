package tool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

// cli is the command line of this blueprint.
type cli struct{ *blueprint.Client }

// commands is `slipway tool`.
func commands(c *blueprint.Client) *cobra.Command {
	t := cli{c}
	cmd := &cobra.Command{
		Use:   "tool",
		Short: "Configure and deploy tools",
		Long: `A tool has one configuration that names its components, and deployments that build all of them from git. The configuration is stored and given
back as it was written; a deployment builds what it says at that moment.`,
		Example: `  slipway tool config set mytool tool.yaml
  slipway tool deploy start mytool --wait
  slipway tool deploy list mytool`,
	}
	config := &cobra.Command{Use: "config", Short: "See and store the configuration of a tool", Long: `See, make, store and delete the configuration of a tool: the components that it has, and how each is built and run. It is kept and given back as it was written.`, Example: "  slipway tool config set mytool tool.yaml"}
	config.AddCommand(t.configShow(), t.configSet(), t.configDelete(), t.configGenerate())
	deploy := &cobra.Command{Use: "deploy", Short: "Start, follow and cancel deployments of a tool", Long: `Start, follow and cancel deployments of a tool. A deployment builds all components of its configuration; a tool has one at a time, and the newest ten are kept.`, Example: "  slipway tool deploy start mytool --wait"}
	deploy.AddCommand(t.start(), t.show(), t.list(), t.cancel(), t.wait(), t.logs(), t.delete())
	token := &cobra.Command{Use: "token", Short: "Make and delete the deploy token of a tool", Long: `Make, replace, see and delete the deploy token of a tool: with it a CI may start a deployment and ask how it went, and nothing else.`, Example: "  slipway tool token create mytool"}
	token.AddCommand(t.token("create", http.MethodPost, "Make a deploy token, which is shown once"), t.token("show", http.MethodGet, "See whether there is a deploy token, and until when"),
		t.token("replace", http.MethodPut, "Make a new deploy token; the old one ends at once"), t.token("delete", http.MethodDelete, "Delete the deploy token"))
	cmd.AddCommand(config, deploy, token)
	return cmd
}

// wrapped is an answer in its wrapping.
type wrapped struct {
	Data     json.RawMessage `json:"data"`
	Messages struct {
		Info    []string `json:"info"`
		Warning []string `json:"warning"`
	} `json:"messages"`
}

func of(tool string) string { return "/api/v1/tool/" + url.PathEscape(tool) }

// call makes a request and gives the data of the answer. What else the answer says goes to standard error.
func (t cli) call(cmd *cobra.Command, method, path string, body, out any) (json.RawMessage, error) {
	return t.callIn(cmd.Context(), cmd, method, path, body, out)
}

func (t cli) callIn(ctx context.Context, cmd *cobra.Command, method, path string, body, out any) (json.RawMessage, error) {
	var w wrapped
	if err := t.Do(ctx, method, path, body, &w); err != nil {
		return nil, err
	}
	for _, m := range w.Messages.Info {
		fmt.Fprintln(cmd.ErrOrStderr(), m)
	}
	for _, m := range w.Messages.Warning {
		fmt.Fprintln(cmd.ErrOrStderr(), "Warning:", m)
	}
	if out == nil {
		return w.Data, nil
	}
	return w.Data, json.Unmarshal(w.Data, out)
}

// printConfig writes a configuration as YAML for people, and as it is for programs.
func (t cli) printConfig(cmd *cobra.Command, raw json.RawMessage) error {
	if f := cmd.Flag("output"); f != nil && f.Value.String() != "table" {
		return t.Print(cmd, raw, blueprint.Table{})
	}
	doc, err := parseJSON(raw)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	doc.writeYAML(&b, 0, false)
	_, err = cmd.OutOrStdout().Write(b.Bytes())
	return err
}

func (t cli) configShow() *cobra.Command {
	return &cobra.Command{
		Use: "show TOOL", Short: "Show the configuration of a tool, as it was given", Long: `Show the configuration of a tool with everything that was written in it, in YAML or, with -o json, in JSON.`, Example: "  slipway tool config show mytool > tool.yaml", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := t.call(cmd, http.MethodGet, of(args[0])+"/config", nil, nil)
			if err != nil {
				return err
			}
			return t.printConfig(cmd, raw)
		},
	}
}

func (t cli) configSet() *cobra.Command {
	return &cobra.Command{
		Use: "set TOOL FILE", Short: "Store the configuration of a tool",
		Long: `Store the configuration of a tool, from a file in YAML or JSON, or with - from standard input. It is checked first; keys that are not known are
kept, and warned of.`,
		Example: `  slipway tool config set mytool tool.yaml
  slipway tool config set mytool - < tool.yaml`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := readFile(cmd, args[1])
			if err != nil {
				return err
			}
			_, err = t.call(cmd, http.MethodPost, of(args[0])+"/config", doc, nil)
			return err
		},
	}
}

// readFile reads a configuration from a file, or standard input for -.
func readFile(cmd *cobra.Command, name string) (document, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return document{}, slipway.Errorf(slipway.NotFound, "%s cannot be read", name).WithCause(err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil {
		return document{}, slipway.Errorf(slipway.Invalid, "%s cannot be read", name).WithCause(err)
	}
	doc, err := parseDocument(data)
	if err != nil {
		return doc, fmt.Errorf("%s: %w", name, err)
	}
	return doc, nil
}

func (t cli) configDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete TOOL", Short: "Delete the configuration of a tool; what was built stays", Long: `Delete the configuration of a tool. Its deployments and what they built stay; it cannot be deployed until there is a configuration again.`, Example: "  slipway tool config delete mytool", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := t.call(cmd, http.MethodDelete, of(args[0])+"/config", nil, nil)
			if err == nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "Configuration for "+args[0]+" deleted.")
			}
			return err
		},
	}
}

func (t cli) configGenerate() *cobra.Command {
	return &cobra.Command{
		Use: "generate TOOL", Short: "Make a configuration to begin with, and store nothing", Long: `Make a configuration of what is known of the tool, to be edited and stored with slipway tool config set. Nothing is stored by this command.`, Example: "  slipway tool config generate mytool > tool.yaml", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := t.call(cmd, http.MethodGet, of(args[0])+"/config/generate", nil, nil)
			if err != nil {
				return err
			}
			return t.printConfig(cmd, raw)
		},
	}
}

// seen is a deployment as the API answers it.
type seen struct {
	ID          string             `json:"deploy-id"`
	Created     string             `json:"creation-time"`
	Status      string             `json:"status"`
	LongStatus  string             `json:"long-status"`
	Description string             `json:"description"`
	Builder     string             `json:"builder"`
	Builds      inOrder[SeedBuild] `json:"builds"`
	Runs        map[string]SeedRun `json:"runs"`
}

func (d seen) ended() bool { return d.Status != "PENDING" && d.Status != "RUNNING" }

// inOrder reads an object and keeps the order of its keys.
type inOrder[T any] []blueprint.Member[T]

// UnmarshalJSON reads the object.
func (o *inOrder[T]) UnmarshalJSON(raw []byte) error {
	doc, err := parseJSON(raw)
	if err != nil {
		return err
	}
	for _, m := range doc.members {
		var v T
		raw, err := m.value.MarshalJSON()
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		*o = append(*o, blueprint.Member[T]{Key: m.key, Value: v})
	}
	return nil
}

// table shows the components of a deployment.
func (d seen) table() blueprint.Table {
	t := blueprint.Table{Header: []string{"COMPONENT", "BUILD", "BUILD ID", "RUN", "DETAIL"}}
	for _, b := range d.Builds {
		run := d.Runs[b.Key]
		detail := b.Value.LongStatus
		if run.Status == "FINISHED" || run.Status == "ERROR" {
			detail = run.LongStatus
		}
		t.Rows = append(t.Rows, []string{b.Key, b.Value.Status, b.Value.ID, run.Status, detail})
	}
	t.Footer = d.ID + ": " + d.Status
	if d.LongStatus != "" {
		t.Footer += " (" + d.LongStatus + ")"
	}
	return t
}

func (t cli) start() *cobra.Command {
	var description string
	var forceBuild, forceRun, wait bool
	cmd := &cobra.Command{
		Use: "start TOOL", Short: "Deploy a tool",
		Long: `Deploy a tool: build all components of its configuration, in parallel as far as the builder has room. What was built before of the same commit is used
again. With --wait the command follows the deployment, and fails when it does.`,
		Example: `  slipway tool deploy start mytool --wait
  slipway tool deploy start mytool --description fix-login --force-build`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if forceBuild {
				query.Set("force-build", "true")
			}
			if forceRun {
				query.Set("force-run", "true")
			}
			path := of(args[0]) + "/deploy"
			if len(query) > 0 {
				path += "?" + query.Encode()
			}
			var d seen
			raw, err := t.call(cmd, http.MethodPost, path, map[string]string{"description": description}, &d)
			if err != nil {
				return err
			}
			if wait {
				return t.follow(cmd, args[0], d.ID)
			}
			return t.Print(cmd, raw, d.table())
		},
	}
	f := cmd.Flags()
	f.StringVar(&description, "description", "", "a note that is shown in lists")
	f.BoolVar(&forceBuild, "force-build", false, "build everything again, even the same commit")
	f.BoolVar(&forceRun, "force-run", false, "restart everything, even what has not changed")
	f.BoolVar(&wait, "wait", false, "wait until it has ended")
	return cmd
}

// deploymentPath is that of the deployment which the arguments name; the newest without one.
func deploymentPath(args []string) string {
	id := "latest"
	if len(args) > 1 {
		id = args[1]
	}
	return of(args[0]) + "/deploy/" + url.PathEscape(id)
}

func (t cli) show() *cobra.Command {
	return &cobra.Command{
		Use: "show TOOL [ID]", Short: "Show a deployment, the newest without ID", Long: `Show a deployment with each of its components, brought up to date with the builder. Without ID it is the newest.`, Example: "  slipway tool deploy show mytool", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d seen
			raw, err := t.call(cmd, http.MethodGet, deploymentPath(args), nil, &d)
			if err != nil {
				return err
			}
			return t.Print(cmd, raw, d.table())
		},
	}
}

func (t cli) list() *cobra.Command {
	return &cobra.Command{
		Use: "list TOOL", Short: "List the deployments of a tool, the oldest first", Long: `List the deployments of a tool that are kept, the oldest first, with how they went.`, Example: "  slipway tool deploy list mytool", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var list struct {
				Deployments []seen `json:"deployments"`
			}
			raw, err := t.call(cmd, http.MethodGet, of(args[0])+"/deploy", nil, &list)
			if err != nil {
				return err
			}
			table := blueprint.Table{Header: []string{"ID", "CREATED", "STATUS", "BUILDS", "DESCRIPTION"}}
			for _, d := range list.Deployments {
				table.Rows = append(table.Rows, []string{d.ID, d.Created, d.Status, d.summary(), d.Description})
			}
			return t.Print(cmd, raw, table)
		},
	}
}

// summary counts the builds of a deployment by where they stand.
func (d seen) summary() string {
	n := map[string]int{}
	for _, b := range d.Builds {
		n[b.Value.Status]++
	}
	var parts []string
	for _, status := range []string{"PENDING", "RUNNING", "FINISHED", "SKIPPED", "ERROR", "CANCELLED"} {
		if n[status] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[status], strings.ToLower(status)))
		}
	}
	return strings.Join(parts, ", ")
}

func (t cli) cancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel TOOL [ID]", Short: "Cancel a deployment, the newest without ID", Long: `Cancel a deployment and the builds that it still has under way. Without ID it is the newest. The command does not wait for the end; slipway tool deploy wait does.`, Example: "  slipway tool deploy cancel mytool", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d seen
			raw, err := t.call(cmd, http.MethodPut, deploymentPath(args)+"/cancel", nil, &d)
			if err != nil {
				return err
			}
			return t.Print(cmd, raw, d.table())
		},
	}
}

func (t cli) delete() *cobra.Command {
	return &cobra.Command{
		Use: "delete TOOL ID", Short: "Delete a deployment that has ended", Long: `Delete a deployment that has ended, from the list of what is kept. One that is under way has to be cancelled first.`, Example: "  slipway tool deploy delete mytool mytool-deploy-20261121101500-48213", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := t.call(cmd, http.MethodDelete, deploymentPath(args), nil, nil)
			return err
		},
	}
}

func (t cli) wait() *cobra.Command {
	return &cobra.Command{
		Use: "wait TOOL [ID]", Short: "Follow a deployment to its end, the newest without ID",
		Long: `Follow a deployment until it has ended. On a terminal the table of its components is drawn anew; otherwise each change is one line. The exit status is 0 when
the deployment has succeeded, and 1 when it has not.`,
		Example: "  slipway tool deploy wait mytool", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := "latest"
			if len(args) > 1 {
				id = args[1]
			}
			return t.follow(cmd, args[0], id)
		},
	}
}

// follow shows a deployment until it has ended.
func (t cli) follow(cmd *cobra.Command, tool, id string) error {
	out := cmd.OutOrStdout()
	asJSON := cmd.Flag("output") != nil && cmd.Flag("output").Value.String() != "table"
	f, ok := out.(*os.File)
	live := ok && !asJSON && isatty.IsTerminal(f.Fd())
	told, drawn := map[string]string{}, 0
	var pace blueprint.Pace
	for {
		var d seen
		raw, err := t.call(cmd, http.MethodGet, of(tool)+"/deploy/"+url.PathEscape(id), nil, &d)
		if err != nil {
			return err
		}
		id = d.ID
		switch {
		case live:
			if drawn > 0 {
				fmt.Fprintf(out, "\x1b[%dA\x1b[J", drawn)
			}
			table := d.table()
			if err := t.Print(cmd, raw, table); err != nil {
				return err
			}
			drawn = len(table.Rows) + 2 + strings.Count(table.Footer, "\n")
		case !asJSON:
			for _, b := range d.Builds {
				if now := b.Value.Status + b.Value.LongStatus; told[b.Key] != now {
					told[b.Key] = now
					fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%s  %-9s  %s", b.Key, b.Value.Status, b.Value.LongStatus), " "))
				}
			}
		}
		if d.ended() {
			if asJSON {
				if err := t.Print(cmd, raw, d.table()); err != nil {
					return err
				}
			} else if !live {
				fmt.Fprintln(out, d.table().Footer)
			}
			if d.Status != "FINISHED" {
				return slipway.Errorf(slipway.Conflict, "deployment %s has not succeeded: %s", d.ID, d.LongStatus)
			}
			return nil
		}
		if err := pace.Wait(cmd.Context()); err != nil {
			return err
		}
	}
}

func (t cli) logs() *cobra.Command {
	var follow bool
	var id string
	cmd := &cobra.Command{
		Use: "logs TOOL [COMPONENT]", Short: "Print the log of a component's build",
		Long: `Print the log of the build of a component in a deployment, the newest without --deployment. COMPONENT may be left out where a tool has only one that is
built. With --follow, the command waits for more until the build ends.`,
		Example: `  slipway tool deploy logs mytool web
  slipway tool deploy logs mytool web --follow`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d seen
			if _, err := t.call(cmd, http.MethodGet, deploymentPath(append(args[:1:1], id)), nil, &d); err != nil {
				return err
			}
			built := slices.DeleteFunc(slices.Clone(d.Builds), func(b blueprint.Member[SeedBuild]) bool {
				return b.Value.ID == noID || b.Value.ID == noBuild || len(args) > 1 && b.Key != args[1]
			})
			switch {
			case len(built) == 0:
				return slipway.Errorf(slipway.NotFound, "deployment %s has no build of that; slipway tool deploy show %s lists them", d.ID, args[0])
			case len(built) > 1:
				return slipway.Errorf(slipway.Invalid, "deployment %s has several builds; name a component", d.ID)
			}
			entity := slipway.EntityRef{Kind: slipway.DefaultKind, Namespace: NamespaceOf(args[0]), Name: built[0].Key}.String()
			path := "/api/build/by-entity/" + url.PathEscape(entity) + "/builds/" + url.PathEscape(d.Builder+":"+built[0].Value.ID) + "/logs"
			if follow {
				path += "?follow=true"
			}
			log, err := t.Stream(cmd.Context(), path)
			if err != nil {
				return err
			}
			defer func() { _ = log.Close() }()
			if _, err = io.Copy(cmd.OutOrStdout(), log); err != nil && !errors.Is(err, context.Canceled) {
				return slipway.Errorf(slipway.Unavailable, "the log broke off: try again").WithCause(err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the build ends")
	cmd.Flags().StringVar(&id, "deployment", "latest", "id of the deployment")
	return cmd
}

func (t cli) token(name, method, short string) *cobra.Command {
	return &cobra.Command{
		Use: name + " TOOL", Short: short, Long: short + ". The token is a secret: it is shown when it is made, and only then.", Example: "  slipway tool token " + name + " mytool", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var token TokenShape
			raw, err := t.call(cmd, method, of(args[0])+"/deploy/token", nil, &token)
			if err != nil {
				return err
			}
			return t.Print(cmd, raw, blueprint.Table{Header: []string{"TOKEN", "CREATED", "EXPIRES"},
				Rows: [][]string{{token.Token, token.Created.Format(time.RFC3339), token.Expires.Format(time.RFC3339)}}})
		},
	}
}
