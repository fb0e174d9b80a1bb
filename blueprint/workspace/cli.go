package workspace

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

const apiPath = "/api/che-launcher/workspaces"

// cli is the command line of this blueprint.
type cli struct{ *blueprint.Client }

// commands is `slipway workspace`.
func commands(c *blueprint.Client) *cobra.Command {
	w := cli{c}
	cmd := &cobra.Command{
		Use:   "workspace",
		Short: "Make, open, start, stop and delete your workspaces",
		Long: `Make, open, start, stop and delete your workspaces: places to work in that Eclipse Che runs on a cluster, made of a devfile. A workspace is named
by its id, or by its name where only one of yours has it.`,
		Example: `  slipway workspace create https://example.com/devfile.yaml --wait
  slipway workspace list`,
	}
	cmd.AddCommand(w.create(), w.list(), w.show(), w.open(), w.start(), w.stop(), w.delete())
	return cmd
}

func (w cli) create() *cobra.Command {
	var in NewWorkspace
	p := &progress{cli: w}
	cmd := &cobra.Command{
		Use:   "create DEVFILE-URL",
		Short: "Make a workspace of a devfile, and start it",
		Long: `Make a workspace of the devfile at an https address, and start it. The server reads the devfile; what is wrong with it is told with its place.
With --wait, each step of the start is shown, and the command ends when the workspace runs (status 0) or cannot (status 1).`,
		Example: `  slipway workspace create https://raw.githubusercontent.com/paruff/fawkes/main/platform/devfiles/goldenpath-python.yaml --wait
  slipway workspace create https://example.com/devfile.yaml --name my-workspace`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.DevfileURL = args[0]
			var raw json.RawMessage
			if err := w.Do(cmd.Context(), http.MethodPost, apiPath, in, &raw); err != nil {
				return err
			}
			return p.end(cmd, raw, running)
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.Name, "name", "", "name; absent: the devfile's with four random letters")
	f.StringVar(&in.Namespace, "namespace", "", "namespace; absent: your own")
	f.StringVar(&in.Cluster, "cluster", "", "cluster, where there are several")
	p.flags(cmd)
	return cmd
}

func (w cli) list() *cobra.Command {
	var status, cursor string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List your workspaces, newest first",
		Long: `List your workspaces on all clusters, newest first, with their status and address. The list follows the clusters within a second; while
one does not answer, its workspaces are shown as they were.`,
		Example: "  slipway workspace list --status Running",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			for name, v := range map[string]string{"status": status, "cursor": cursor} {
				if v != "" {
					q.Set(name, v)
				}
			}
			if limit != 0 {
				q.Set("limit", strconv.Itoa(limit))
			}
			path := apiPath
			if len(q) > 0 {
				path += "?" + q.Encode()
			}
			raw, list, err := blueprint.Get[Workspaces](cmd.Context(), w.Client, path)
			if err != nil {
				return err
			}
			t := table(list.Workspaces...)
			if len(list.Workspaces) == 0 {
				t.Footer = "no workspaces; make one with slipway workspace create DEVFILE-URL"
			}
			if list.PageInfo.HasMore {
				t.Footer = fmt.Sprintf("%d of %d; read on with --cursor %s", len(list.Workspaces), list.Total, list.PageInfo.NextCursor)
			}
			return w.Print(cmd, raw, t)
		},
	}
	f := cmd.Flags()
	f.StringVar(&status, "status", "", "Running, Stopped, Starting, Stopping, Failing, Failed, Error or Terminating")
	f.IntVar(&limit, "limit", 0, "workspaces on a page, at most 100 (default: all)")
	f.StringVar(&cursor, "cursor", "", "continue a list: the value that the page before printed")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions( // the flag was added above
		[]string{running, stopped, starting, stopping, failing, failed, "Error", terminating}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (w cli) show() *cobra.Command {
	return w.one("show", "Show a workspace and how far it has come", func(cmd *cobra.Command, id string) error {
		raw, ws, err := w.get(cmd.Context(), id)
		if err != nil {
			return err
		}
		t := table(ws)
		var lines []string
		for _, c := range ws.Conditions {
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s: %s %s", c.Type, c.Status, c.Message)))
		}
		if ws.Message != "" && ws.Message != ws.IDEURL {
			lines = append(lines, ws.Message)
		}
		t.Footer = strings.Join(lines, "\n")
		return w.Print(cmd, raw, t)
	})
}

func (w cli) open() *cobra.Command {
	var browser bool
	cmd := w.one("open", "Print the address of a workspace, or open it in the browser", func(cmd *cobra.Command, id string) error {
		raw, ws, err := w.get(cmd.Context(), id)
		if err != nil {
			return err
		}
		if ws.IDEURL == "" {
			return slipway.Errorf(slipway.Conflict, "the workspace %q is %s and has no address yet; start it, or ask an operator to set workspaces.url", ws.Name, ws.Status)
		}
		if browser {
			return browse(cmd.Context(), ws.IDEURL)
		}
		if cmd.Flag("output") != nil && cmd.Flag("output").Value.String() != "table" {
			return w.Print(cmd, raw, table(ws))
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), ws.IDEURL)
		return err
	})
	cmd.Flags().BoolVar(&browser, "browser", false, "open it in the browser of this machine")
	return cmd
}

// browse opens an address that the server gave, if it is one of the web.
func browse(ctx context.Context, address string) error {
	if u, err := url.Parse(address); err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return slipway.Errorf(slipway.Invalid, "%.100q is no address that a browser is given", address)
	}
	program := []string{"xdg-open"}
	switch runtime.GOOS {
	case "darwin":
		program = []string{"open"}
	case "windows":
		program = []string{"rundll32", "url.dll,FileProtocolHandler"}
	}
	return exec.CommandContext(ctx, program[0], append(program[1:], address)...).Run()
}

func (w cli) start() *cobra.Command { return w.turn("start", "Start a workspace", running) }

func (w cli) stop() *cobra.Command {
	return w.turn("stop", "Stop a workspace; its projects stay", stopped)
}

func (w cli) turn(verb, short, want string) *cobra.Command {
	p := &progress{cli: w}
	cmd := w.one(verb, short, func(cmd *cobra.Command, id string) error {
		var raw json.RawMessage
		if err := w.Do(cmd.Context(), http.MethodPost, apiPath+"/"+url.PathEscape(id)+"/"+verb, nil, &raw); err != nil {
			return err
		}
		return p.end(cmd, raw, want)
	})
	p.flags(cmd)
	return cmd
}

func (w cli) delete() *cobra.Command {
	return w.one("delete", "Delete a workspace and what is in it", func(cmd *cobra.Command, id string) error {
		if err := w.Do(cmd.Context(), http.MethodDelete, apiPath+"/"+url.PathEscape(id), nil, nil); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s is being deleted\n", id)
		return err
	})
}

// one is a command for one workspace.
func (w cli) one(verb, short string, run func(cmd *cobra.Command, id string) error) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " WORKSPACE",
		Short:   short,
		Long:    short + ". WORKSPACE is the id of one of your workspaces, or its name where only one has it.",
		Example: "  slipway workspace " + verb + " my-workspace",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var list Workspaces
			if len(args) > 0 || w.Do == nil || w.Do(cmd.Context(), http.MethodGet, apiPath, nil, &list) != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, ws := range list.Workspaces {
				names = append(names, ws.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := w.id(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return run(cmd, id)
		},
	}
}

// id finds the id of a workspace that is named by its id or its name.
func (w cli) id(ctx context.Context, name string) (string, error) {
	var list Workspaces
	if err := w.Do(ctx, http.MethodGet, apiPath, nil, &list); err != nil {
		return "", err
	}
	var ids []string
	for _, ws := range list.Workspaces {
		if ws.WorkspaceID == name {
			return name, nil
		}
		if ws.Name == name {
			ids = append(ids, ws.WorkspaceID)
		}
	}
	switch len(ids) {
	case 1:
		return ids[0], nil
	case 0:
		return name, nil // the server says what it thinks of it
	}
	return "", slipway.Errorf(slipway.Invalid, "you have several workspaces %q: %s; name one by its id", name, strings.Join(ids, ", "))
}

func (w cli) get(ctx context.Context, id string) (raw json.RawMessage, ws Workspace, err error) {
	return blueprint.Get[Workspace](ctx, w.Client, apiPath+"/"+url.PathEscape(id))
}

// progress shows how a workspace gets to where it should be.
type progress struct {
	cli
	wait    bool
	timeout time.Duration
}

func (p *progress) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.wait, "wait", false, "show each step, and end when it is done")
	cmd.Flags().DurationVar(&p.timeout, "timeout", 10*time.Minute, "with --wait: give up after this time")
}

// end prints a workspace, at once or when it is as wanted.
func (p *progress) end(cmd *cobra.Command, raw json.RawMessage, want string) error {
	var ws Workspace
	if err := json.Unmarshal(raw, &ws); err != nil {
		return err
	}
	if !p.wait {
		return p.Print(cmd, raw, table(ws))
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), p.timeout)
	defer cancel()
	var pace blueprint.Pace
	for seen := map[string]string{}; ; {
		if want != running {
			ws.Conditions = nil // of the start before
		}
		steps(cmd.ErrOrStderr(), seen, ws)
		if ws.Status == want {
			return p.Print(cmd, raw, table(ws))
		}
		if ended(ws.Status) && (want == running || ws.Status == terminating) && ws.Status != stopped {
			return slipway.Errorf(slipway.Conflict, "the workspace %q is %s: %s", ws.Name, ws.Status, strings.TrimSpace(ws.Message+" (slipway workspace show "+ws.Name+" tells more)"))
		}
		if pace.Wait(ctx) != nil {
			if cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			return slipway.Errorf(slipway.Unavailable, "the workspace %q is still %s after %s; it goes on without this command", ws.Name, ws.Status, p.timeout)
		}
		var err error
		if raw, ws, err = p.get(ctx, ws.WorkspaceID); err != nil {
			return err
		}
	}
}

// steps prints what is new.
func steps(out io.Writer, seen map[string]string, ws Workspace) {
	line := func(key, text string) {
		if text = strings.TrimSpace(text); seen[key] != text {
			seen[key] = text
			fmt.Fprintf(out, "%s %s\n", ws.Name, text)
		}
	}
	for _, c := range ws.Conditions {
		if c.Status == "True" {
			line(c.Type, c.Type+" "+c.Message)
		}
	}
	line("status", ws.Status)
}

func table(list ...Workspace) blueprint.Table {
	t := blueprint.Table{Header: []string{"NAME", "STATUS", "DEVFILE", "LAST USED", "ID", "ADDRESS"}}
	for _, w := range list {
		t.Rows = append(t.Rows, []string{
			w.Name, w.Status, strings.TrimSpace(w.Devfile.Name + " " + w.Devfile.Version), w.LastUsed.Local().Format("2006-01-02 15:04"), w.WorkspaceID, w.IDEURL,
		})
	}
	return t
}
