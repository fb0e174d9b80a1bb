// Package command is the command line of Slipway. Main is all that a main package calls, with the
// blueprints and providers of its build; commands of blueprints join the others. Except for serve, quickstart,
// describe, db, config and the first admin token, a command is a client of the HTTP API.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/client"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

// Version is the version of this build. The release sets it by -ldflags.
var Version = ""

// The exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong flags, arguments or command
)

// Main runs the command that the process was started with, and returns its exit status: 0 done, 1 failed,
// 2 wrongly called. The first interrupt (SIGINT, SIGTERM) ends the work in order, the second one at once.
func Main(blueprints []blueprint.Blueprint, kinds []provider.Kind) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals) // from now on they do what they do to any process
		cancel()
		select {
		case <-signals: // a second one that came before that
			os.Exit(exitFailed)
		default:
		}
	}()
	a := &app{blueprints: blueprints, kinds: kinds}
	return a.run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// app is one run of the command line.
type app struct {
	blueprints []blueprint.Blueprint
	kinds      []provider.Kind

	url    string // --url
	format string // --output
	client *client.Client
}

// run is Main with its surroundings as arguments.
func (a *app) run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteContextC(ctx)
	var wrong *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &wrong):
		fmt.Fprintf(errs, "slipway: %s\nSee '%s --help'.\n", oneLine(err.Error()), cmd.CommandPath())
		return exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(errs, "slipway: interrupted")
		return exitFailed
	}
	fmt.Fprintf(errs, "slipway: %s\n", explain(err))
	return exitFailed
}

// usageError is a command called wrongly.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// usage makes a usageError.
func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// explain is what a person reads of an error: the sentence, the faulty fields, and the request id for whoever reads
// the server's log.
func explain(err error) string {
	text := err.Error()
	if why := store.ConnectFailure(err); why != "" {
		what, _, _ := strings.Cut(text, ": ")
		if !strings.HasPrefix(what, "database ") {
			what = "the database does not answer"
			if store.Lasting(err) {
				what = "the database refuses us; check user and password, and make the database with slipway db create"
			}
		}
		if store.Lasting(err) { // what has been said of it tells what to do
			return what + ": " + why
		}
		return what + ": no connection: " + why + "\n  check the address under databases: in the configuration, and that the database server is up"
	}
	if coded, ok := errors.AsType[*slipway.Error](err); ok {
		text = strings.Replace(text, coded.Error(), coded.Message, 1) // without code and cause, with what was tried
		for _, d := range coded.Details {
			if !strings.Contains(text, d.Message) {
				text += "\n  " + strings.TrimPrefix(d.Field+": ", ": ") + d.Message
			}
		}
		if coded.RetryAfter > 0 {
			text += fmt.Sprintf(" (try again in %s)", coded.RetryAfter)
		}
		if coded.Code == slipway.Unauthenticated && !strings.Contains(text, "slipway login") {
			text += "; set SLIPWAY_TOKEN or run slipway login"
		}
	}
	if answer, ok := errors.AsType[*client.Error](err); ok && answer.RequestID != "" && !strings.Contains(text, answer.RequestID) {
		text += " [request " + answer.RequestID + "]"
	}
	return text
}

// root is the tree of all commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "slipway",
		Short: "One API for a developer platform",
		Long: `Slipway is one API for a developer platform. You ask about what you own, such as component:default/web, and it answers from whichever systems know: builds, deployments, owners, metrics.

"slipway quickstart" shows it with a real example, "slipway serve" runs a server, and most other commands ask a running server.

They find the server by --url, or SLIPWAY_URL and SLIPWAY_TOKEN, or by what "slipway login" stored, or at http://127.0.0.1:8080. The exit status is 0 for success, 1 for a failure, and 2 for a wrong call.`,
		Example: `  slipway quickstart
  slipway build search component:default/web`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
	}
	root.SetVersionTemplate("slipway {{.Version}}\n")
	root.PersistentFlags().StringVar(&a.url, "url", "", "server address (default $SLIPWAY_URL, or the one you signed in to)")
	root.PersistentFlags().VarP(newChoice(&a.format, "table", "json", "yaml"), "output", "o", "output format; json and yaml are exactly what the API answers")
	root.AddGroup(&cobra.Group{ID: "server", Title: "Run a server:"}, &cobra.Group{ID: "platform", Title: "Ask a server:"}, &cobra.Group{ID: "own", Title: "This program:"})

	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("server", a.quickstart(), a.serve(), a.config(), a.db(), a.describe())
	add("platform", a.login(), a.logout(), a.whoami("slipway whoami"), a.auth(), a.token(), a.log(), a.health())
	face := a.face()
	for _, b := range a.blueprints {
		for _, command := range b.Commands {
			add("platform", command(face))
		}
	}
	newProvider := a.newSkeleton(skeletons["provider"], `It reads builds and runs them again, and its tests hold it to what every provider must do. Put your vendor's paths and words in place of those of the example.`)
	if vendors := named(root, "provider"); vendors != nil {
		vendors.AddCommand(newProvider)
	} else {
		cmd := &cobra.Command{Use: "provider", Short: "Write the beginning of a provider", Long: "Begin a provider: an integration with a vendor.", Example: "  slipway provider new paperboy"}
		cmd.AddCommand(newProvider)
		add("own", cmd)
	}
	add("own", a.blueprintCommand(), a.version())
	root.SetHelpCommandGroupID("own")
	root.SetCompletionCommandGroupID("own")
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	each(root, func(cmd *cobra.Command) {
		cmd.Long = reflow(cmd.Long, helpWidth)
		strict(cmd)
	})
	return root
}

// named finds a command below another; nil for none.
func named(below *cobra.Command, name string) *cobra.Command {
	for _, c := range below.Commands() {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

const helpWidth = 80 // columns of the long texts

// reflow breaks the paragraphs of a text into lines that fit; a paragraph that is indented stays as it is.
func reflow(s string, width int) string {
	paragraphs := strings.Split(s, "\n\n")
	for i, p := range paragraphs {
		if strings.HasPrefix(p, " ") || strings.HasPrefix(p, "\t") {
			continue
		}
		var out strings.Builder
		column := 0
		for _, word := range strings.Fields(p) {
			n := utf8.RuneCountInString(word)
			switch {
			case column == 0:
			case column+1+n > width:
				out.WriteByte('\n')
				column = 0
			default:
				out.WriteByte(' ')
				column++
			}
			out.WriteString(word)
			column += n
		}
		paragraphs[i] = out.String()
	}
	return strings.Join(paragraphs, "\n\n")
}

// each visits a command and all below it.
func each(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		each(c, visit)
	}
}

// strict makes wrong calls of a command usage errors, also where cobra would show help and be content.
func strict(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
			var known []string
			cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
			if near := nearest(unknown.GetSpecifiedName(), known); near != "" {
				return usage("%s; did you mean --%s?", err, near)
			}
		}
		return usage("%s", err)
	})
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			text := fmt.Sprintf("there is no command %q", cmd.CommandPath()+" "+args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				text += fmt.Sprintf("; did you mean %q?", cmd.CommandPath()+" "+near[0])
			}
			return usage("%s", text)
		}
		cmd.SuggestionsMinimumDistance = 2
		return
	}
	if cmd.Name() == "help" { // it takes the words of any command
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if found, rest, err := cmd.Root().Find(args); err != nil || len(rest) > 0 || found == nil {
				return usage("there is no command %q", cmd.Root().Name()+" "+strings.Join(args, " "))
			}
			return nil
		}
		return
	}
	check := cmd.Args
	if check == nil {
		check = cobra.NoArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) != nil {
			return usage("wrong number of arguments (%d): write %s", len(args), cmd.UseLine())
		}
		if err := cmd.ValidateRequiredFlags(); err != nil {
			return usage("%s: write %s", err, cmd.UseLine())
		}
		return nil
	}
}

// choice is a flag with a few possible values, the first of which is the default.
type choice struct {
	value *string
	of    []string
}

var _ pflag.Value = (*choice)(nil)

func newChoice(value *string, of ...string) *choice {
	*value = of[0]
	return &choice{value, of}
}

func (c *choice) String() string { return *c.value }

// Type names the values in the help text.
func (c *choice) Type() string { return strings.Join(c.of, "|") }

// Set takes one of the values.
func (c *choice) Set(s string) error {
	for _, o := range c.of {
		if s == o {
			*c.value = s
			return nil
		}
	}
	return fmt.Errorf("write %s", strings.Join(c.of, ", "))
}

// version is the version of this build: as released, or the module's, or the commit's.
func version() string {
	if Version != "" {
		return Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return strings.TrimPrefix(v, "v")
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

// oneLine joins the lines of a message.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
