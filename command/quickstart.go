package command

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/client"
)

//go:embed quickstart
var quickstartFiles embed.FS

const (
	quickstartDir   = "slipway-quickstart"
	quickstartMark  = "# Written by \"slipway quickstart\"" // the first line of its configuration: the folder is ours
	quickstartLimit = time.Minute                           // for all that is shown
)

// exampleCommit is one commit of an example repository: the files below quickstart/<repository>/<n>.
type exampleCommit struct {
	name, email, message string
}

// exampleRepositories are the repositories of the quickstart and their commits, the oldest first.
var exampleRepositories = map[string][]exampleCommit{
	"web": {
		{"Jane Miller", "jane@shop.example", "Welcome page"},
		{"Ravi Patel", "ravi@shop.example", "Prices, and a check of all links"},
	},
	"orders": {
		{"Ravi Patel", "ravi@shop.example", "Add up prices in cents"},
		{"Jane Miller", "jane@shop.example", "Take prices with a decimal point"},
	},
}

func (a *app) quickstart() *cobra.Command {
	var once bool
	var listen string
	cmd := &cobra.Command{
		Use:   "quickstart",
		Short: "Show Slipway with a small platform made of real parts",
		Long: `Make a small platform of real parts in ./slipway-quickstart and serve it: two git repositories, a catalog that describes them, and builds of both. One build
succeeds, the other fails and is retriggered; then a tool is deployed. Everything shown is read through the API. The server runs until you press Ctrl-C, and the folder stays: "slipway serve --config slipway-quickstart/slipway.yaml" serves it again.

It needs git and a POSIX shell, and neither a network nor other services. The builds run as you, without isolation, which is fine for these two
repositories. With --once, everything happens in a temporary folder, and the exit status says whether it worked.`,
		Example: `  slipway quickstart
  slipway quickstart --once`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := &tour{app: a, cmd: cmd, out: cmd.OutOrStdout(), once: once, listen: listen}
			return t.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "use a temporary folder, and end after the demonstration")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address to listen on; a free port is taken if this one is in use")
	return cmd
}

// tour is one run of the quickstart.
type tour struct {
	app    *app
	cmd    *cobra.Command
	out    io.Writer
	once   bool
	listen string

	dir     string         // absolute
	running *running       // the server
	admin   *client.Client // speaks as the admin
	pending bool           // a line of progress stands on the terminal
}

func (t *tour) run(ctx context.Context) (err error) {
	if t.once {
		defer func() {
			switch {
			case err == nil:
				err = os.RemoveAll(t.dir)
			case t.dir != "":
				say(t.cmd, "What happened stays in %s.", t.dir)
			}
		}()
	}
	if err := t.furnish(ctx); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(t.dir, "slipway.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := t.open(ctx, log); err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- t.running.run(serving) }()

	err = t.tellInTime(serving)
	t.clear()
	if err != nil || t.once {
		stop()
		return errors.Join(err, <-ended)
	}
	t.next()
	if err = <-ended; ctx.Err() == nil {
		return errors.Join(slipway.Errorf(slipway.Unavailable, "the server ended by itself; its log is %s", log.Name()), err)
	}
	t.printf("\nStopped. %s stays; %s serve --config %s serves it again.\n", t.shown(""), t.program(), t.shown("slipway.yaml"))
	return err
}

// tellInTime is tell with a limit.
func (t *tour) tellInTime(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, quickstartLimit,
		slipway.Errorf(slipway.Unavailable, "it took longer than %s; %s says more", quickstartLimit, filepath.Join(t.dir, "slipway.log")))
	defer cancel()
	err := t.tell(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// furnish makes the folder: configuration, catalog file, repositories. What an earlier run made stays.
func (t *tour) furnish(ctx context.Context) (err error) {
	if t.once {
		t.dir, err = os.MkdirTemp("", "slipway-quickstart-")
	} else {
		t.dir, err = quickstartDir, os.MkdirAll(quickstartDir, 0o700)
	}
	if err == nil {
		t.dir, err = filepath.Abs(t.dir)
	}
	if err == nil {
		t.dir, err = filepath.EvalSymlinks(t.dir)
	}
	if err != nil {
		return slipway.Errorf(slipway.Invalid, "the folder of the example cannot be made: change to one where you may write").WithCause(err)
	}
	if err := t.ours(); err != nil {
		return err
	}
	t.printf("%s\n\n", t.color(text.Bold, "Slipway quickstart"))
	t.printf("Everything is made in %s%s.\n", t.shown(""), map[bool]string{true: ", which is removed at the end", false: ", and stays there"}[t.once])
	t.printf("Builds run as you, without isolation: fine for these two repositories, not for code that you do not trust.\n\n")

	if err := t.write("catalog/catalog-info.yaml"); err != nil {
		return err
	}
	if err := t.write("slipway.yaml"); err != nil {
		return err
	}
	if err := t.write("tool.yaml"); err != nil {
		return err
	}
	var made []string
	for _, name := range []string{"web", "orders"} {
		if err := t.repository(ctx, name, exampleRepositories[name]); err != nil {
			return err
		}
		made = append(made, fmt.Sprintf("%s (%d commits)", name, len(exampleRepositories[name])))
	}
	t.done("Two git repositories: %s", strings.Join(made, ", "))
	return nil
}

// write makes one of the example's files, for the folder and address that it has.
func (t *tour) write(name string) error {
	raw, err := quickstartFiles.ReadFile("quickstart/" + name)
	if err != nil {
		return err
	}
	repositories := (&url.URL{Scheme: "file", Path: path.Join(filepath.ToSlash(t.dir), "repositories")}).String()
	replace := strings.NewReplacer("{dir}", quoted(t.dir), "{repositories}", quoted(repositories), "{listen}", quoted(t.listen))
	file := filepath.Join(t.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(replace.Replace(string(raw))), 0o600)
}

// ours refuses a folder with something else in it.
func (t *tour) ours() error {
	entries, err := os.ReadDir(t.dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(t.dir, "slipway.yaml"))
	if err != nil || !bytes.HasPrefix(raw, []byte(quickstartMark)) {
		return slipway.Errorf(slipway.Conflict, "%s holds something else: move it away, or change to another folder", t.dir)
	}
	return nil
}

// quoted is a text as it stands inside double quotes of YAML.
func quoted(s string) string {
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// repository makes one example repository with the machine's own git, unless it is there.
func (t *tour) repository(ctx context.Context, name string, commits []exampleCommit) error {
	dir := filepath.Join(t.dir, "repositories", name)
	if _, err := os.Stat(filepath.Join(dir, ".git", "refs", "heads", "main")); err == nil {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil { // what an interrupted run left
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	steps := [][]string{{"init", "--quiet"}, {"symbolic-ref", "HEAD", "refs/heads/main"}}
	for _, args := range steps {
		if err := git(ctx, dir, exampleCommit{}, args...); err != nil {
			return err
		}
	}
	for i, c := range commits {
		files, err := fs.Sub(quickstartFiles, path.Join("quickstart", name, strconv.Itoa(i+1)))
		if err != nil {
			return err
		}
		if err := overwrite(dir, files); err != nil {
			return err
		}
		if err := git(ctx, dir, c, "add", "--all"); err != nil {
			return err
		}
		if err := git(ctx, dir, c, "commit", "--quiet", "--message", c.message); err != nil {
			return err
		}
	}
	return nil
}

// overwrite writes files over those of an earlier commit.
func overwrite(dir string, files fs.FS) error {
	return fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err != nil || d.IsDir() {
			return errors.Join(err, os.MkdirAll(file, 0o700))
		}
		raw, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		return os.WriteFile(file, raw, 0o700)
	})
}

// git runs git as an example person, whatever the machine's git is configured to.
func git(ctx context.Context, dir string, who exampleCommit, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "commit.gpgSign=false", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GIT_") }),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME="+who.name, "GIT_AUTHOR_EMAIL="+who.email, "GIT_COMMITTER_NAME="+who.name, "GIT_COMMITTER_EMAIL="+who.email)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return slipway.Errorf(slipway.Unavailable, "git is not installed: install it and try again")
	}
	if err != nil {
		return slipway.Errorf(slipway.Internal, "git %s: %s", args[0], oneLine(string(out))).WithCause(err)
	}
	return nil
}

// open starts the server on the folder's configuration. The environment's own configuration is left out: the example must not
// touch another installation.
func (t *tour) open(ctx context.Context, log io.Writer) error {
	environ := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "SLIPWAY_") || strings.HasPrefix(s, "PORT=") })
	l, err := t.app.load(settings{file: filepath.Join(t.dir, "slipway.yaml")}, environ)
	if err != nil {
		return err
	}
	t.progress("starting the server")
	t.running, err = t.app.open(ctx, l, slog.New(slog.NewTextHandler(log, nil)), true)
	if err != nil {
		return err
	}
	if taken := t.running.listener.Addr().String(); taken != t.listen { // the port was another's: the file says what is true
		t.listen = taken
		if err := t.write("slipway.yaml"); err != nil {
			return err
		}
	}
	token, err := os.ReadFile(t.running.tokenFile)
	if err != nil {
		return slipway.Errorf(slipway.NotFound, "the admin token of the example is gone: remove %s and start again", t.dir).WithCause(err)
	}
	t.admin, err = newClient(t.running.address, strings.TrimSpace(string(token)))
	return err
}

// tell does and shows what there is to see, all of it through the API.
func (t *tour) tell(ctx context.Context) error {
	v, err := t.admin.Version(ctx)
	if err != nil {
		return err
	}
	t.done("Slipway %s serves %s", v.Version, t.running.address)
	if err := t.register(ctx); err != nil {
		return err
	}
	people := map[string]*client.Client{}
	for _, name := range []string{"jane", "ravi"} {
		token, err := t.token(ctx, name)
		if err != nil {
			return err
		}
		defer func() { _ = t.admin.RevokeToken(context.WithoutCancel(ctx), token.ID) }() // it ends by itself, too
		if people[name], err = newClient(t.running.address, token.Secret); err != nil {
			return err
		}
	}
	t.done("Jane and Ravi have tokens; their group owns both components, so they may build them")

	started := map[string]slipway.Build{}
	for _, s := range []struct{ component, who, name string }{{"web", "jane", "Jane"}, {"orders", "ravi", "Ravi"}} {
		ref := "component:default/" + s.component
		a, err := people[s.who].StartBuild(ctx, ref, "main", "", nil)
		for tries := 0; errors.Is(err, slipway.Unavailable) && tries < 20; tries++ { // the provider learns of a new entity a moment after the catalog
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(250 * time.Millisecond):
			}
			a, err = people[s.who].StartBuild(ctx, ref, "main", "", nil)
		}
		if err != nil {
			return fmt.Errorf("starting a build of %s: %w", ref, err)
		}
		if a.Build == nil {
			return slipway.Errorf(slipway.Internal, "the build of %s was accepted but has no id", ref)
		}
		started[s.component] = *a.Build
		t.done("%s started a build of %s", s.name, ref)
	}
	web, err := t.await(ctx, "web", started["web"].ID)
	if err != nil {
		return err
	}
	orders, err := t.await(ctx, "orders", started["orders"].ID)
	if err != nil {
		return err
	}
	if web.Status != slipway.BuildSucceeded || orders.Status != slipway.BuildFailed {
		return slipway.Errorf(slipway.Internal, "the build of web should have succeeded and that of orders failed, but they are %s and %s", web.Status, orders.Status)
	}
	a, err := people["jane"].RetriggerBuild(ctx, "component:default/orders", orders.ID, false, nil)
	if err != nil {
		return fmt.Errorf("retriggering the failed build: %w", err)
	}
	if a.Build == nil {
		return slipway.Errorf(slipway.Internal, "the retrigger was accepted but has no id")
	}
	t.done("Jane retriggered the failed build")
	again, err := t.await(ctx, "orders", a.Build.ID)
	if err != nil {
		return err
	}
	if again.Status != slipway.BuildFailed {
		return slipway.Errorf(slipway.Internal, "the retriggered build should have failed again, but it is %s", again.Status)
	}
	if err := t.tables(ctx, "component:default/web", "component:default/orders"); err != nil {
		return err
	}
	return t.deploy(ctx)
}

// deploy stores the configuration of the example tool, deploys it, and shows the builds of its components by entity.
func (t *tour) deploy(ctx context.Context) error {
	raw, err := os.ReadFile(filepath.Join(t.dir, "tool.yaml"))
	if err != nil {
		return err
	}
	var config map[string]any
	if err := yaml.Load(raw, &config); err != nil {
		return err
	}
	const shop = "/api/v1/tool/shop"
	if err := t.admin.Do(ctx, "POST", shop+"/config", config, nil); err != nil {
		return fmt.Errorf("storing the configuration of the tool: %w", err)
	}
	t.printf("\n")
	t.done("The tool shop has a configuration: two components, one of which runs what the other builds")
	var d struct {
		Data struct {
			ID     string `json:"deploy-id"`
			Status string `json:"status"`
			Detail string `json:"long-status"`
			Builds map[string]struct {
				Status string `json:"status"`
				Detail string `json:"long-status"`
			} `json:"builds"`
		} `json:"data"`
	}
	if err := t.admin.Do(ctx, "POST", shop+"/deploy", nil, &d); err != nil {
		return fmt.Errorf("deploying the tool: %w", err)
	}
	t.done("Deployment %s was created", d.Data.ID)
	for d.Data.Status == "PENDING" || d.Data.Status == "RUNNING" {
		t.progress(fmt.Sprintf("pages: %s, prices: %s", strings.ToLower(d.Data.Builds["pages"].Status), strings.ToLower(d.Data.Builds["prices"].Status)))
		if err := t.admin.Do(ctx, "GET", shop+"/deploy/"+d.Data.ID+"?wait=2s", nil, &d); err != nil {
			return fmt.Errorf("following the deployment: %w", err)
		}
	}
	if d.Data.Status != "FINISHED" {
		return slipway.Errorf(slipway.Internal, "the deployment should have succeeded, but it is %s: %s", d.Data.Status, d.Data.Detail)
	}
	t.done("The deployment has succeeded; its builds are those of the tool's components")
	const pages = "component:tool-shop/pages"
	for {
		page, err := t.admin.EntityBuilds(ctx, pages, client.BuildQuery{Limit: 1})
		if err == nil && len(page.Items) > 0 {
			return t.tables(ctx, pages)
		}
		if err != nil && !errors.Is(err, slipway.NotFound) {
			return err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// register makes the catalog read the example's file; an earlier run may have done so.
func (t *tour) register(ctx context.Context) error {
	t.progress("reading the catalog file")
	_, err := t.admin.RegisterLocation(ctx, "file", filepath.Join(t.dir, "catalog", "catalog-info.yaml"), false)
	if err != nil && !errors.Is(err, slipway.Conflict) {
		return fmt.Errorf("registering the catalog file: %w", err)
	}
	for {
		entities, err := t.admin.Entities(ctx, 100, 0)
		if err != nil {
			return err
		}
		n := map[string]int{}
		for _, e := range entities {
			n[e.Kind]++
		}
		if n["Component"] >= 2 && n["User"] >= 2 && n["Group"] >= 1 {
			t.done("Catalog file read: %d components, %d system, %d group, %d users", n["Component"], n["System"], n["Group"], n["User"])
			return nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// token makes a token that acts as one of the example's users, for an hour at most.
func (t *tour) token(ctx context.Context, name string) (client.CreatedToken, error) {
	expires := time.Now().Add(time.Hour)
	token, err := t.admin.CreateToken(ctx, client.NewToken{
		Name: fmt.Sprintf("quickstart-%s-%d", name, time.Now().UnixMilli()), User: "user:default/" + name, ExpiresAt: &expires,
	})
	if err != nil {
		return token, fmt.Errorf("a token for %s: %w", name, err)
	}
	return token, nil
}

// await follows a build in the entity's list until it has ended, and shows how.
func (t *tour) await(ctx context.Context, component, id string) (slipway.Build, error) {
	ref := "component:default/" + component
	for {
		page, err := t.admin.EntityBuilds(ctx, ref, client.BuildQuery{Limit: 20})
		if err != nil {
			return slipway.Build{}, err
		}
		i := slices.IndexFunc(page.Items, func(b slipway.Build) bool { return b.ID == id })
		if i >= 0 && page.Items[i].Status.Finished() {
			b := page.Items[i]
			return b, t.ended(ctx, ref, b)
		}
		status := slipway.BuildStarting
		if i >= 0 {
			status = page.Items[i].Status
		}
		t.progress(fmt.Sprintf("%s: %s", ref, status))
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return slipway.Build{}, err
		}
	}
}

// ended shows how a build ended: of a failed one also the end of its log.
func (t *tour) ended(ctx context.Context, ref string, b slipway.Build) error {
	took := b.Took(time.Now())
	if took != "" {
		took = " after " + took
	}
	if b.Status == slipway.BuildSucceeded {
		t.done("%s succeeded%s", ref, took)
		return nil
	}
	t.step(text.FgRed, "✗", fmt.Sprintf("%s %s%s: %s", ref, b.Status, took, b.Detail))
	log, err := t.admin.BuildLogs(ctx, ref, b.ID, false)
	if err != nil {
		return err
	}
	defer log.Close()
	last := ""
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if strings.Contains(lines.Text(), "FAIL") {
			last = lines.Text()
		}
	}
	if last != "" {
		t.printf("    its log says: %s\n", clean(last, ""))
	}
	return nil
}

// tables shows the builds of both components as the API answers them.
func (t *tour) tables(ctx context.Context, refs ...string) error {
	for _, ref := range refs {
		page, err := t.admin.EntityBuilds(ctx, ref, client.BuildQuery{Limit: 5})
		if err != nil {
			return err
		}
		t.clear()
		t.printf("\n%s  GET /api/build/by-entity/%s/search\n\n", t.color(text.Bold, ref), ref)
		table := blueprint.Table{Header: []string{"Status", "Try", "Commit", "Author", "Message", "Created", "Took", "Trigger", "Triggered by"}}
		for _, b := range page.Items {
			r := []string{string(b.Status), strconv.Itoa(b.Attempt), "", "", "", b.CreatedAt.Local().Format("15:04:05"), b.Took(time.Now()), string(b.Trigger), ""}
			if c := b.Commit; c != nil {
				r[2], r[3], r[4] = c.SHA[:min(8, len(c.SHA))], c.Author, c.Message
			}
			if p := b.TriggeredBy; p != nil {
				r[8] = p.EntityRef
				if r[8] == "" {
					r[8] = p.ID
				}
			}
			table.Rows = append(table.Rows, r)
		}
		if err := printTable(t.out, table); err != nil {
			return err
		}
	}
	return nil
}

// next says what to try now.
func (t *tour) next() {
	p := t.program()
	t.printf("\nThe server is up at %s, its reference at %[1]s/docs. Try, in another terminal in this folder:\n\n", t.running.address)
	t.printf("  export SLIPWAY_URL=%s SLIPWAY_TOKEN=$(cat %s)\n", t.running.address, t.shown("data/admin-token"))
	t.printf("  %s build logs orders\n  %[1]s build retrigger orders --wait   # the same commit again: it fails again\n  %[1]s catalog get web -o yaml\n", p)
	t.printf("\nCtrl-C ends it.\n")
}

// program is how this program was called, so that what is shown works where it is pasted.
func (t *tour) program() string {
	if strings.Contains(os.Args[0], string(filepath.Separator)+"go-build") {
		return "go run ./cmd/slipway"
	}
	return os.Args[0]
}

// shown is a path in the folder as a person would write it.
func (t *tour) shown(name string) string {
	if t.once {
		return filepath.Join(t.dir, name)
	}
	return "./" + path.Join(quickstartDir, name)
}

// done shows a step that went well.
func (t *tour) done(format string, args ...any) {
	t.step(text.FgGreen, "✓", fmt.Sprintf(format, args...))
}

func (t *tour) step(tone text.Color, mark, line string) {
	t.clear()
	t.printf("%s %s\n", t.color(tone, mark), line)
}

// progress shows what goes on, on a terminal only; the next line takes its place.
func (t *tour) progress(line string) {
	if _, ok := terminal(t.out); !ok {
		return
	}
	t.clear()
	t.printf("%s", t.color(text.Faint, "… "+line))
	t.pending = true
}

// clear takes a line of progress away.
func (t *tour) clear() {
	if t.pending {
		t.printf("\r\x1b[K")
		t.pending = false
	}
}

func (t *tour) color(tone text.Color, s string) string {
	if !colors(t.out) {
		return s
	}
	return tone.Sprint(s)
}

func (t *tour) printf(format string, args ...any) { fmt.Fprintf(t.out, format, args...) }

// pause waits, or ends with the context.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
