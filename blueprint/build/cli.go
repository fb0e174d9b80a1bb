package build

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

// cli is the command line of this blueprint.
type cli struct{ *blueprint.Client }

// commands is `slipway build`.
func commands(c *blueprint.Client) *cobra.Command {
	b := cli{c}
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Find, follow, start, cancel and retrigger builds",
		Long: `Find, follow, start, cancel and retrigger the builds of entities, wherever they run. An entity is written [kind:][namespace/]name, so that
component:default/web and web are the same; a build is named by the id that search shows.`,
		Example: `  slipway build search web
  slipway build watch web`,
	}
	cmd.AddCommand(b.search(), b.show(), b.logs(), b.retrigger(), b.start(), b.cancel(), b.watch())
	return cmd
}

// found is a page of builds as the API answers it.
type found struct {
	Items    []slipway.Build  `json:"items"`
	PageInfo slipway.PageInfo `json:"pageInfo"`
	Sources  []slipway.Source `json:"sources"`
}

// accepted is the answer to a retrigger, a start or a cancel.
type accepted struct {
	Build *slipway.Build `json:"build"`
	URL   string         `json:"url"`
}

func of(entity string) string { return "/api/build/by-entity/" + url.PathEscape(entity) }

func (b cli) search() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "search [ENTITY]",
		Short: "Show the last builds of an entity, or of all that fit",
		Long:  `Show the last builds, newest first: of one entity, or of all entities that --owner, --system and --kind select. A repeated flag means any of its values. --since and --until take a time (2026-11-21) or an age (7d). Answers come from an index; if part of it may be out of date, a line below the table says so, and --fresh asks the vendors first.`,
		Example: `  slipway build search component:default/web
  slipway build search web --status failed --branch main --since 7d
  slipway build search --owner group:default/shop --triggered-by me -o json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: b.complete,
	}
	flags := blueprint.NewSearchFlags(cmd, Task.Statuses...)
	flags.Filter("branch", "branch", "branch or tag; may be repeated")
	flags.Filter("pipeline", "pipeline", "id or name of a pipeline; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := flags.Path(Task.Name, args)
		if err != nil {
			return err
		}
		raw, list, err := blueprint.Get[found](cmd.Context(), b.Client, path)
		if err != nil {
			return err
		}
		return b.Print(cmd, raw, list.table(len(args) == 0, time.Now()))
	}
	return cmd
}

// table shows a page; with entities, whose each build is.
func (l found) table(entities bool, now time.Time) blueprint.Table {
	t := blueprint.Table{Header: []string{"ID", "Status", "Created", "Took", "Branch", "Commit", "Triggered by", "Message"}}
	if entities {
		t.Header = append([]string{"Entity"}, t.Header...)
	}
	for _, b := range l.Items {
		r := line(b, now)
		if entities {
			r = append([]string{b.EntityRef}, r...)
		}
		t.Rows = append(t.Rows, r)
	}
	t.Footer = blueprint.SearchFooter("No builds.", len(l.Items), l.Sources, l.PageInfo)
	return t
}

// line is a build in one row.
func line(b slipway.Build, now time.Time) []string {
	branch, sha, message := "", "", ""
	if c := b.Commit; c != nil {
		branch, sha, message = c.Branch, c.SHA[:min(len(c.SHA), 8)], c.Message
	}
	return []string{b.ID, string(b.Status), blueprint.Clock(&b.CreatedAt), b.Took(now), branch, sha, blueprint.Who(b.TriggeredBy), clip(message, 50)}
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// id is the build that the arguments name: the second one, or the newest of the entity.
func (b cli) id(ctx context.Context, args []string) (string, error) {
	if len(args) == 2 {
		return args[1], nil
	}
	_, list, err := blueprint.Get[found](ctx, b.Client, of(args[0])+"/search?limit=1")
	if strings.Contains(args[0], ":") && errors.Is(err, slipway.NotFound) {
		return "", slipway.Errorf(slipway.NotFound, "there is no entity %s; if that is the id of a build, put the entity before it: slipway build show ENTITY %[1]s", args[0]).WithCause(err)
	}
	if err != nil {
		return "", err
	}
	if len(list.Items) == 0 {
		return "", slipway.Errorf(slipway.NotFound, "%s has no builds yet; slipway build start %[1]s begins one where the provider can", args[0])
	}
	return list.Items[0].ID, nil
}

func (b cli) show() *cobra.Command {
	return &cobra.Command{
		Use:   "show ENTITY [ID]",
		Short: "Show all that is known of a build",
		Long:  "Show one build with all its fields; without ID, the newest one.",
		Example: `  slipway build show web
  slipway build show component:default/web github:8000000001 -o yaml`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: b.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := b.id(cmd.Context(), args)
			if err != nil {
				return err
			}
			raw, build, err := blueprint.Get[slipway.Build](cmd.Context(), b.Client, of(args[0])+"/builds/"+url.PathEscape(id))
			if err != nil {
				return err
			}
			return b.Print(cmd, raw, details(build, time.Now()))
		},
	}
}

// details shows one build, a field a line.
func details(b slipway.Build, now time.Time) blueprint.Table {
	var t blueprint.Table
	add := func(name, text string) {
		if text != "" {
			t.Rows = append(t.Rows, []string{name, text})
		}
	}
	add("ID", b.ID)
	add("Entity", b.EntityRef)
	add("Status", string(b.Status))
	add("Detail", b.Detail)
	add("Provider", b.Provider.Name+" ("+b.Provider.Type+")")
	add("Pipeline", cmp.Or(b.Pipeline.Name, b.Pipeline.ID))
	if b.Number > 0 {
		add("Number", strconv.FormatInt(b.Number, 10))
	}
	add("Attempt", strconv.Itoa(b.Attempt))
	add("Trigger", string(b.Trigger))
	add("Triggered by", blueprint.Who(b.TriggeredBy))
	if c := b.Commit; c != nil {
		add("Commit", c.SHA)
		add("Branch", c.Branch)
		add("Author", c.Author)
		add("Message", c.Message)
	}
	add("Created", blueprint.Clock(&b.CreatedAt))
	add("Started", blueprint.Clock(b.StartedAt))
	add("Finished", blueprint.Clock(b.FinishedAt))
	add("Took", b.Took(now))
	if b.Blocked {
		add("Waits", "for a person")
	}
	add("Page", b.URL)
	return t
}

func (b cli) logs() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs ENTITY [ID]",
		Short: "Print the log of a build",
		Long:  "Print the log of a build; without ID, of the newest one. With --follow, the command waits for more until the build ends.",
		Example: `  slipway build logs web
  slipway build logs component:default/web github:8000000001 -f`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: b.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := b.id(cmd.Context(), args)
			if err != nil {
				return err
			}
			path := of(args[0]) + "/builds/" + url.PathEscape(id) + "/logs"
			if follow {
				path += "?follow=true"
			}
			log, err := b.Stream(cmd.Context(), path)
			if err != nil {
				return err
			}
			defer func() { _ = log.Close() }() // it was only read
			_, err = io.Copy(cmd.OutOrStdout(), log)
			if err != nil && cmd.Context().Err() == nil {
				err = slipway.Errorf(slipway.Unavailable, "the log broke off before its end: ask again").WithCause(err)
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the build ends")
	return cmd
}

func (b cli) retrigger() *cobra.Command {
	var force, wait bool
	var extras []string
	cmd := &cobra.Command{
		Use:   "retrigger ENTITY [ID]",
		Short: "Run a build again",
		Long:  `Run a failed or canceled build again; without ID and --set, the newest build. Use --force for one that succeeded. --set passes fields to the provider, and without ID it selects the build, as in --set commit=1a2b3c4d. With --wait, the command ends when the new build does, and the exit status is 1 unless it succeeded.`,
		Example: `  slipway build retrigger web
  slipway build retrigger component:default/web github:8000000001 --wait
  slipway build retrigger web --set branch=main --set pipeline=ci`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: b.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := pairs(extras)
			if err != nil {
				return err
			}
			if len(args) == 2 || len(body) == 0 {
				if body["buildId"], err = b.id(cmd.Context(), args); err != nil {
					return err
				}
			}
			path := of(args[0]) + "/retrigger"
			if force {
				path += "?force=true"
			}
			return b.begin(cmd, args[0], path, body, wait)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also run a build again that succeeded")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the new build ends")
	cmd.Flags().StringArrayVar(&extras, "set", nil, "key=value passed to the provider; may be repeated")
	return cmd
}

func (b cli) start() *cobra.Command {
	var ref, pipeline string
	var wait bool
	var extras []string
	cmd := &cobra.Command{
		Use:   "start ENTITY",
		Short: "Start a build",
		Long:  `Start a build of a branch, tag or commit, if the entity's provider can do that; without --ref, of the default branch. With --wait, the command ends when the build does, and the exit status is 1 unless it succeeded.`,
		Example: `  slipway build start web
  slipway build start component:default/web --ref v1.2.0 --wait`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: b.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := pairs(extras)
			if err != nil {
				return err
			}
			if ref != "" {
				body["ref"] = ref
			}
			if pipeline != "" {
				body["pipeline"] = pipeline
			}
			return b.begin(cmd, args[0], of(args[0])+"/start", body, wait)
		},
	}
	cmd.Flags().StringVar(&ref, "ref", "", "branch, tag or commit (default the default branch)")
	cmd.Flags().StringVar(&pipeline, "pipeline", "", "pipeline to start, if the project has several")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the build ends")
	cmd.Flags().StringArrayVar(&extras, "set", nil, "key=value passed to the provider; may be repeated")
	return cmd
}

func (b cli) cancel() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel ENTITY [ID]",
		Short: "Cancel a build",
		Long:  "Cancel a waiting or running build; without ID, the newest one. It may continue for a moment.",
		Example: `  slipway build cancel web
  slipway build cancel component:default/web github:8000000001`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: b.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				_, list, err := blueprint.Get[found](cmd.Context(), b.Client, of(args[0])+"/search?status=starting&status=running&limit=1")
				if err != nil {
					return err
				}
				if len(list.Items) == 0 {
					return slipway.Errorf(slipway.Conflict, "no build of %s waits or runs; slipway build search %[1]s shows how they ended", args[0])
				}
				args = append(args, list.Items[0].ID)
			}
			return b.begin(cmd, args[0], of(args[0])+"/builds/"+url.PathEscape(args[1])+"/cancel", nil, false)
		},
	}
}

// pairs reads key=value arguments; true, false and numbers are passed as such.
func pairs(list []string) (map[string]any, error) {
	out := map[string]any{}
	for _, p := range list {
		key, text, ok := strings.Cut(p, "=")
		if !ok || key == "" {
			return nil, slipway.Errorf(slipway.Invalid, "--set %q: write key=value", p)
		}
		var v any = text
		if text == "true" || text == "false" {
			v = text == "true"
		} else if n, err := strconv.ParseInt(text, 10, 64); err == nil && strconv.FormatInt(n, 10) == text {
			v = n
		}
		out[key] = v
	}
	return out, nil
}

// begin sends a start, retrigger or cancel, tells what came of it, and waits for its end when asked to.
func (b cli) begin(cmd *cobra.Command, entity, path string, body map[string]any, wait bool) error {
	ctx := cmd.Context()
	var sent any
	if body != nil {
		sent = body
	}
	raw, a, err := blueprint.Ask[accepted](ctx, b.Client, http.MethodPost, path, sent)
	if err != nil {
		return err
	}
	if !wait {
		t := blueprint.Table{Footer: "Accepted; the provider does not say more yet. See " + cmp.Or(a.URL, "slipway build watch "+entity)}
		if a.Build != nil {
			t = found{Items: []slipway.Build{*a.Build}}.table(false, time.Now())
		}
		return b.Print(cmd, raw, t)
	}
	if a.Build == nil {
		return slipway.Errorf(slipway.Unsupported, "accepted, but the provider has not named the build yet, so it cannot be waited for: slipway build watch %s follows it", entity)
	}
	doc, build, err := b.await(cmd, entity, *a.Build)
	if err != nil {
		return err
	}
	if err := b.Print(cmd, doc, found{Items: []slipway.Build{build}}.table(false, time.Now())); err != nil {
		return err
	}
	if build.Status != slipway.BuildSucceeded {
		return slipway.Errorf(slipway.Conflict, "the build ended %s; slipway build logs %s %s shows why", build.Status, entity, build.ID)
	}
	return nil
}

// await follows one build to its end and tells each change on standard error.
func (b cli) await(cmd *cobra.Command, entity string, build slipway.Build) (raw json.RawMessage, _ slipway.Build, err error) {
	path, last := of(entity)+"/builds/"+url.PathEscape(build.ID), slipway.BuildStatus("")
	asked := time.Now()
	var pace blueprint.Pace
	for {
		if build.Status != last {
			last = build.Status
			fmt.Fprintf(cmd.ErrOrStderr(), "%s %s\n", build.ID, build.Status)
		}
		if ended := build.Status.Finished() || build.FinishedAt != nil; ended && raw != nil { // how it ended may be unknown
			return raw, build, nil
		}
		if err := pace.Wait(cmd.Context()); err != nil {
			return nil, build, err
		}
		if time.Since(asked) >= freshEvery {
			if _, _, err := blueprint.Get[found](cmd.Context(), b.Client, of(entity)+"/search?limit=1&fresh=true"); err != nil {
				return nil, build, err
			}
			asked = time.Now()
		}
		if raw, build, err = blueprint.Get[slipway.Build](cmd.Context(), b.Client, path); err != nil {
			return nil, build, err
		}
	}
}

func (b cli) watch() *cobra.Command {
	return &cobra.Command{
		Use:   "watch ENTITY",
		Short: "Follow the builds of an entity until all have ended",
		Long:  `Follow the last builds of an entity until none of them is running, whichever vendors run them. Changes reported by webhook show at once; besides, the vendors are asked every ten seconds. On a terminal the table is updated in place. Otherwise each change is one line, or with -o json one document.`,
		Example: `  slipway build watch web
  slipway build watch component:default/web -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: b.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return b.follow(cmd, of(args[0])+"/search?limit=20")
		},
	}
}

// freshEvery is how often who follows builds has their vendors asked, beside what webhooks tell.
const freshEvery = 10 * time.Second

func (b cli) follow(cmd *cobra.Command, path string) error {
	var asked time.Time
	out := cmd.OutOrStdout()
	asJSON := cmd.Flag("output") != nil && cmd.Flag("output").Value.String() != "table"
	f, ok := out.(*os.File)
	live := ok && !asJSON && isatty.IsTerminal(f.Fd())
	seen, drawn := map[string]string{}, 0
	var pace blueprint.Pace
	for {
		at := path
		if time.Since(asked) >= freshEvery {
			at, asked = path+"&fresh=true", time.Now()
		}
		raw, list, err := blueprint.Get[found](cmd.Context(), b.Client, at)
		if err != nil {
			return err
		}
		var documents struct {
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(raw, &documents); err != nil {
			return err
		}
		running := false
		var changed []int
		for i := len(list.Items) - 1; i >= 0; i-- { // the oldest first, as they happened
			item := list.Items[i]
			running = running || !item.Status.Finished() && item.Status != slipway.BuildUnknown // of which nobody may ever know more
			if now := string(item.Status) + item.Detail; seen[item.ID] != now {
				seen[item.ID] = now
				changed = append(changed, i)
			}
		}
		switch {
		case live:
			if drawn > 0 {
				fmt.Fprintf(out, "\x1b[%dA\x1b[J", drawn)
			}
			t := list.table(false, time.Now())
			if err := b.Print(cmd, raw, t); err != nil {
				return err
			}
			drawn = len(t.Rows) + 1 + strings.Count(t.Footer, "\n")
			if len(t.Rows) == 0 {
				drawn--
			}
			if t.Footer != "" {
				drawn++
			}
		case asJSON:
			for _, i := range changed {
				fmt.Fprintf(out, "%s\n", documents.Items[i])
			}
		default:
			for _, i := range changed {
				r := line(list.Items[i], time.Now())
				fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%s  %-9s  %s  %s", r[0], r[1], r[2], strings.Join(nonempty(r[4:7]), " ")), " "))
			}
		}
		if !running {
			return nil
		}
		if err := pace.Wait(cmd.Context()); err != nil {
			return err
		}
	}
}

func nonempty(list []string) (out []string) {
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// complete offers the entities that have builds for the first argument, and their builds for the second.
func (b cli) complete(cmd *cobra.Command, args []string, _ string) (words []string, _ cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	path := "/api/build/search?limit=100"
	if len(args) == 1 {
		path = of(args[0]) + "/search"
	}
	_, list, err := blueprint.Get[found](ctx, b.Client, path)
	if err != nil || len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	offered := map[string]bool{}
	for _, item := range list.Items {
		word := item.EntityRef
		if len(args) == 1 {
			word = item.ID + "\t" + string(item.Status)
		}
		if !offered[word] {
			offered[word] = true
			words = append(words, word)
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
