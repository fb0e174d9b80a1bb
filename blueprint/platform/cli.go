package platform

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
)

// cli is the command line of this blueprint.
type cli struct{ *blueprint.Client }

// jobCommands is `slipway job`.
func jobCommands(client *blueprint.Client) *cobra.Command {
	c := cli{client}
	cmd := &cobra.Command{
		Use:     "job",
		Short:   "Show, retry and cancel jobs",
		Long:    `Show, retry and cancel jobs: the stored work of the server, such as reading a catalog file or the builds of a repository. A failed job is tried again automatically. A job that failed for good is "discarded" and stays here, for you to look at and retry, until its retention ends.`,
		Example: "  slipway job list --state discarded",
	}
	act := func(verb, short, long, done string) *cobra.Command {
		return &cobra.Command{
			Use: verb + " ID", Short: short, Long: long, Example: "  slipway job " + verb + " 42", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				raw, j, err := blueprint.Ask[job.Job](cmd.Context(), c.Client, http.MethodPost, "/api/jobs/"+url.PathEscape(args[0])+"/"+verb, nil)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), done+"\n", j.ID)
				return c.Print(cmd, raw, jobTable([]job.Job{j}))
			},
		}
	}
	cmd.AddCommand(c.jobList(), c.jobGet(),
		act("retry", "Run a job again that has ended", "Run a job again now that failed, was canceled or completed.", "Job %d will run again."),
		act("cancel", "End a job", "Cancel a waiting or running job. A running job is told to stop, on whichever server it runs.", "Job %d is canceled."))
	return cmd
}

func (c cli) jobList() *cobra.Command {
	var states, kinds []string
	var limit int
	var cursor string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List jobs, newest first",
		Long:  "List jobs, newest first: all, or those of the given states and kinds. Finished ones are kept for retention.jobs.",
		Example: `  slipway job list
  slipway job list --state discarded --state retrying -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			for _, s := range states {
				q.Add("state", s)
			}
			for _, k := range kinds {
				q.Add("kind", k)
			}
			if limit > 0 {
				q.Set("limit", strconv.Itoa(limit))
			}
			if cursor != "" {
				q.Set("cursor", cursor)
			}
			raw, list, err := blueprint.Get[blueprint.List[job.Job]](cmd.Context(), c.Client, with("/api/jobs", q))
			if err != nil {
				return err
			}
			t := jobTable(list.Items)
			t.Footer = more("No jobs.", len(list.Items), list.PageInfo)
			return c.Print(cmd, raw, t)
		},
	}
	cmd.Flags().StringArrayVar(&states, "state", nil, "available, running, retrying, scheduled, completed, canceled or discarded; may be repeated")
	cmd.Flags().StringArrayVar(&kinds, "kind", nil, "kind of job, such as task.refresh; may be repeated")
	cmd.Flags().IntVar(&limit, "limit", 0, "jobs on a page, at most 100 (default 20)")
	cmd.Flags().StringVar(&cursor, "cursor", "", "continue a list: the value that the page before printed")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions( // the flag was added above
		[]string{"available", "running", "retrying", "scheduled", "completed", "canceled", "discarded"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c cli) jobGet() *cobra.Command {
	return &cobra.Command{
		Use:     "get ID",
		Short:   "Show a job and what went wrong in it",
		Long:    "Show a job with its arguments and the errors of its last runs.",
		Example: "  slipway job get 42 -o yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, j, err := blueprint.Get[job.Job](cmd.Context(), c.Client, "/api/jobs/"+url.PathEscape(args[0]))
			if err != nil {
				return err
			}
			rows := [][]string{
				{"ID", strconv.FormatInt(j.ID, 10)}, {"Kind", j.Kind}, {"State", string(j.State)},
				{"Attempt", fmt.Sprintf("%d of %d", j.Attempt, j.MaxAttempts)}, {"Arguments", string(j.Args)},
				{"Created", blueprint.Clock(&j.CreatedAt)}, {"May run from", blueprint.Clock(&j.ScheduledAt)}, {"Started", blueprint.Clock(j.StartedAt)}, {"Finished", blueprint.Clock(j.FinishedAt)},
			}
			for _, e := range j.Errors {
				rows = append(rows, []string{"Error", blueprint.Clock(&e.At) + " " + e.Error})
			}
			return c.Print(cmd, raw, blueprint.Table{Rows: rows})
		},
	}
}

func jobTable(jobs []job.Job) blueprint.Table {
	t := blueprint.Table{Header: []string{"ID", "Kind", "State", "Attempt", "Created", "Finished", "Last error"}}
	for _, j := range jobs {
		last := ""
		if n := len(j.Errors); n > 0 {
			last = j.Errors[n-1].Error
		}
		t.Rows = append(t.Rows, []string{
			strconv.FormatInt(j.ID, 10), j.Kind, string(j.State), fmt.Sprintf("%d/%d", j.Attempt, j.MaxAttempts), blueprint.Clock(&j.CreatedAt), blueprint.Clock(j.FinishedAt), clip(last, 60),
		})
	}
	return t
}

// scheduleCommands is `slipway schedule`.
func scheduleCommands(client *blueprint.Client) *cobra.Command {
	c := cli{client}
	cmd := &cobra.Command{
		Use:     "schedule",
		Short:   "Show, run and pause schedules",
		Long:    "Show what runs regularly, run it now, pause and resume it. Each schedule runs on one server at a time, however many there are.",
		Example: "  slipway schedule list",
	}
	act := func(verb, method, short, long, done string) *cobra.Command {
		return &cobra.Command{
			Use: verb + " NAME", Short: short, Long: long, Example: "  slipway schedule " + verb + " catalog.refresh", Args: cobra.ExactArgs(1), ValidArgsFunction: c.scheduleNames,
			RunE: func(cmd *cobra.Command, args []string) error {
				raw, s, err := blueprint.Ask[job.ScheduleStatus](cmd.Context(), c.Client, method, "/api/schedules/"+url.PathEscape(args[0])+"/"+verb, nil)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), done+"\n", args[0])
				return c.Print(cmd, raw, scheduleTable([]job.ScheduleStatus{s}))
			},
		}
	}
	cmd.AddCommand(c.scheduleList(), c.scheduleGet(),
		act("run", http.MethodPost, "Run a schedule now", "Run a schedule's job now, in addition to its usual times, even while it is paused.", "%s runs now."),
		act("pause", http.MethodPut, "Keep a schedule from running", "Stop a schedule from running until it is resumed. A run that has begun continues.", "%s is paused."),
		act("resume", http.MethodPut, "Let a paused schedule run again", "Let a paused schedule run again at its usual times.", "%s is resumed."))
	return cmd
}

func (c cli) scheduleList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List schedules with their next and last runs",
		Long:    "List all schedules with when they run next and how the last run ended.",
		Example: "  slipway schedule list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, list, err := blueprint.Get[blueprint.List[job.ScheduleStatus]](cmd.Context(), c.Client, "/api/schedules")
			if err != nil {
				return err
			}
			t := scheduleTable(list.Items)
			t.Footer = more("No schedules.", len(list.Items), list.PageInfo)
			return c.Print(cmd, raw, t)
		},
	}
}

func (c cli) scheduleGet() *cobra.Command {
	return &cobra.Command{
		Use:               "get NAME",
		Short:             "Show a schedule with its last runs",
		Long:              "Show a schedule and its last 10 runs, newest first.",
		Example:           "  slipway schedule get catalog.refresh",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.scheduleNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, s, err := blueprint.Get[job.ScheduleStatus](cmd.Context(), c.Client, "/api/schedules/"+url.PathEscape(args[0]))
			if err != nil {
				return err
			}
			rows := [][]string{{"Name", s.Name}, {"What", s.Text}, {"When", when(s)}, {"Paused", strconv.FormatBool(s.Paused)}, {"Next run", blueprint.Clock(s.NextRun)}}
			for _, r := range s.History {
				rows = append(rows, []string{"Run", strings.TrimSpace(fmt.Sprintf("%s %s job %d %s", blueprint.Clock(r.StartedAt), r.State, r.ID, r.Error))})
			}
			return c.Print(cmd, raw, blueprint.Table{Rows: rows})
		},
	}
}

func scheduleTable(list []job.ScheduleStatus) blueprint.Table {
	t := blueprint.Table{Header: []string{"Name", "When", "Next run", "Last run", "State", "What"}}
	for _, s := range list {
		state := string(s.LastState)
		if s.Paused {
			state = "paused"
		}
		t.Rows = append(t.Rows, []string{s.Name, when(s), blueprint.Clock(s.NextRun), blueprint.Clock(s.LastRun), state, s.Text})
	}
	return t
}

// when says how often a schedule runs.
func when(s job.ScheduleStatus) string {
	if d, err := slipway.ParseDuration(s.Every); err == nil {
		return "every " + d.String()
	}
	return s.Cron
}

// scheduleNames completes names of schedules.
func (c cli) scheduleNames(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	_, list, err := blueprint.Get[blueprint.List[job.ScheduleStatus]](ctx, c.Client, "/api/schedules")
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, s := range list.Items {
		names = append(names, s.Name+"\t"+s.Text)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// eventCommands is `slipway event`.
func eventCommands(client *blueprint.Client) *cobra.Command {
	c := cli{client}
	cmd := &cobra.Command{
		Use:     "event",
		Short:   "Read events",
		Long:    "Read what happened, in the order in which it happened. An event says that something changed; ask the API for the current state.",
		Example: "  slipway event tail",
	}
	cmd.AddCommand(c.eventList(), c.eventTail())
	return cmd
}

func (c cli) eventList() *cobra.Command {
	var types []string
	var after int64
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events after a position, oldest first",
		Long:  `List events, oldest first: after a position, or without --after from the oldest one kept. To continue, pass the last position to --after. A type may end in *.`,
		Example: `  slipway event list --type 'dev.cdevents.pipelinerun.*'
  slipway event list --after 1200 --limit 100 -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			for _, t := range types {
				q.Add("type", t)
			}
			if after > 0 {
				q.Set("after", strconv.FormatInt(after, 10))
			}
			if limit > 0 {
				q.Set("limit", strconv.Itoa(limit))
			}
			raw, list, err := blueprint.Get[blueprint.List[event.Event]](cmd.Context(), c.Client, with("/api/events", q))
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"Position", "Time", "Type", "Subject"}}
			for _, e := range list.Items {
				t.Rows = append(t.Rows, []string{strconv.FormatInt(e.Position, 10), blueprint.Clock(&e.Time), e.Type, e.Subject})
			}
			switch {
			case list.PageInfo.HasMore:
				t.Footer = "There may be more: --after " + list.PageInfo.NextCursor
			case len(list.Items) == 0:
				t.Footer = "No events."
			}
			return c.Print(cmd, raw, t)
		},
	}
	cmd.Flags().StringArrayVar(&types, "type", nil, "type of event, or a beginning of one and *; may be repeated")
	cmd.Flags().Int64Var(&after, "after", 0, "show events after this position")
	cmd.Flags().IntVar(&limit, "limit", 0, "entries at most, up to 100 (default 20)")
	return cmd
}

// more is the line below a list.
func more(none string, n int, p slipway.PageInfo) string {
	switch {
	case n == 0:
		return none
	case p.HasMore && p.NextCursor != "":
		return "There are more: --cursor " + p.NextCursor
	}
	return ""
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func with(path string, q url.Values) string {
	if s := q.Encode(); s != "" {
		return path + "?" + s
	}
	return path
}
