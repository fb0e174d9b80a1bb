package webhook

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

type cli struct{ *blueprint.Client }

func at(id string, more string) string { return "/api/webhooks/" + url.PathEscape(id) + more }

// commands is `slipway webhook`.
func commands(client *blueprint.Client) *cobra.Command {
	c := cli{client}
	cmd := &cobra.Command{
		Use:     "webhook",
		Short:   "Show how outgoing webhooks do, and send events again",
		Long:    `Show how outgoing webhooks are doing, test them, and send events again. Webhooks are documents: "slipway data apply" creates and changes them, and "slipway data schema webhooks" shows their fields.`,
		Example: "  slipway webhook list",
	}
	cmd.AddCommand(c.list(), c.deliveries(), c.redeliver(), c.test(), c.resume(), c.rotate())
	return cmd
}

func (c cli) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List webhooks and how they are doing", Long: "List all webhooks with where each stands and what went wrong last.", Example: "  slipway webhook list -o json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, list, err := blueprint.Get[blueprint.List[State]](cmd.Context(), c.Client, "/api/webhooks")
			if err != nil {
				return err
			}
			t := table(list.Items)
			if len(list.Items) == 0 {
				t.Footer = "No webhooks."
			}
			return c.Print(cmd, raw, t)
		},
	}
}

func table(list []State) blueprint.Table {
	t := blueprint.Table{Header: []string{"ID", "State", "Behind", "Dead", "Next attempt", "Owner", "URL", "Last error"}}
	for _, s := range list {
		t.Rows = append(t.Rows, []string{s.ID, s.State, strconv.FormatInt(s.Behind, 10), strconv.FormatInt(s.Dead, 10), blueprint.Clock(s.RetryAt), s.Owner, s.URL, s.Error})
	}
	return t
}

func (c cli) deliveries() *cobra.Command {
	var status, cursor string
	var limit int
	cmd := &cobra.Command{
		Use: "deliveries ID", Short: "List what was sent to a webhook", Long: "List what was sent to a webhook, newest first, with how the last attempt ended.",
		Example: "  slipway webhook deliveries chat\n  slipway webhook deliveries chat --status dead",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: c.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			if status != "" {
				q.Set("status", status)
			}
			if limit > 0 {
				q.Set("limit", strconv.Itoa(limit))
			}
			if cursor != "" {
				q.Set("cursor", cursor)
			}
			raw, list, err := blueprint.Get[blueprint.List[Delivery]](cmd.Context(), c.Client, at(args[0], "/deliveries?"+q.Encode()))
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"ID", "Status", "Attempts", "Answer", "Last sent", "Type", "Subject", "Error"}}
			for _, d := range list.Items {
				t.Rows = append(t.Rows, []string{strconv.FormatInt(d.ID, 10), d.Status, strconv.FormatInt(d.Attempts, 10), answer(d.Answer), blueprint.Clock(&d.UpdatedAt), d.Type, d.Subject, d.Error})
			}
			switch {
			case len(list.Items) == 0:
				t.Footer = "No deliveries."
			case list.PageInfo.HasMore:
				t.Footer = "There are more: --cursor " + list.PageInfo.NextCursor
			}
			return c.Print(cmd, raw, t)
		},
	}
	cmd.Flags().StringVar(&status, "status", "", "delivered, retrying or dead")
	cmd.Flags().IntVar(&limit, "limit", 0, "deliveries on a page, at most 100 (default 20)")
	cmd.Flags().StringVar(&cursor, "cursor", "", "continue a list: the value that the page before printed")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions([]string{statusOK, statusRetry, statusDead}, cobra.ShellCompDirectiveNoFileComp)) // the flag was added above
	return cmd
}

// answer is the HTTP status of an answer; "" where there was none.
func answer(status int64) string {
	if status == 0 {
		return ""
	}
	return strconv.FormatInt(status, 10)
}

func (c cli) redeliver() *cobra.Command {
	var dead bool
	cmd := &cobra.Command{
		Use: "redeliver ID [DELIVERY…]", Short: "Send events to a webhook again",
		Long: `Send the events of deliveries to a webhook again, or with --dead all its dead letters, 500 at a time. They are sent beside what is sent in
order, with the ids that they had.`,
		Example: "  slipway webhook redeliver chat 71\n  slipway webhook redeliver chat --dead",
		Args:    cobra.MinimumNArgs(1), ValidArgsFunction: c.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			if dead == (len(args) > 1) {
				return slipway.Errorf(slipway.Invalid, "name deliveries, which slipway webhook deliveries lists, or say --dead")
			}
			paths := []string{at(args[0], "/redeliver")}
			if !dead {
				paths = nil
				for _, d := range args[1:] {
					paths = append(paths, at(args[0], "/deliveries/"+url.PathEscape(d)+"/redeliver"))
				}
			}
			total := accepted{}
			for _, path := range paths {
				_, a, err := blueprint.Ask[accepted](cmd.Context(), c.Client, http.MethodPost, path, nil)
				if err != nil {
					return err
				}
				total.Jobs += a.Jobs
			}
			return c.Print(cmd, total, blueprint.Table{Rows: [][]string{{fmt.Sprintf("%d events are sent again", total.Jobs)}}})
		},
	}
	cmd.Flags().BoolVar(&dead, "dead", false, "all dead letters")
	return cmd
}

func (c cli) test() *cobra.Command {
	return &cobra.Command{
		Use: "test ID", Short: "Send a test event to a webhook", Long: "Send a test event to a webhook, signed as any, and show how its target answers. Exit status 1 when it does not take it.",
		Example: "  slipway webhook test chat", Args: cobra.ExactArgs(1), ValidArgsFunction: c.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, t, err := blueprint.Ask[tested](cmd.Context(), c.Client, http.MethodPost, at(args[0], "/test"), nil)
			if err != nil {
				return err
			}
			if err := c.Print(cmd, raw, blueprint.Table{Rows: [][]string{{"Taken", strconv.FormatBool(t.Taken)}, {"Answer", answer(int64(t.Answer))}, {"Milliseconds", strconv.FormatInt(t.Milliseconds, 10)}, {"Error", t.Error}}}); err != nil {
				return err
			}
			if !t.Taken {
				return slipway.Errorf(slipway.Unavailable, "the target did not take it: %s", t.Error)
			}
			return nil
		},
	}
}

func (c cli) resume() *cobra.Command {
	return &cobra.Command{
		Use: "resume ID", Short: "Let a paused webhook continue at once", Long: "Let a webhook that was disabled, or waits for its next attempt, go on at once, where it stands.",
		Example: "  slipway webhook resume chat", Args: cobra.ExactArgs(1), ValidArgsFunction: c.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, s, err := blueprint.Ask[State](cmd.Context(), c.Client, http.MethodPost, at(args[0], "/resume"), nil)
			if err != nil {
				return err
			}
			return c.Print(cmd, raw, table([]State{s}))
		},
	}
}

func (c cli) rotate() *cobra.Command {
	return &cobra.Command{
		Use: "rotate ID", Short: "Make a new secret for a webhook and show it",
		Long:    "Make a new secret for a webhook and show it, this once. For 24 hours deliveries are signed with the old one too, so that the receiver can change over.",
		Example: "  slipway webhook rotate chat", Args: cobra.ExactArgs(1), ValidArgsFunction: c.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, r, err := blueprint.Ask[rotated](cmd.Context(), c.Client, http.MethodPost, at(args[0], "/rotate"), nil)
			if err != nil {
				return err
			}
			return c.Print(cmd, raw, blueprint.Table{Rows: [][]string{{"Secret", r.Secret}, {"The old one counts until", blueprint.Clock(&r.PreviousUntil)}}})
		},
	}
}

// ids completes ids of webhooks.
func (c cli) ids(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	_, list, err := blueprint.Get[blueprint.List[State]](ctx, c.Client, "/api/webhooks")
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, s := range list.Items {
		names = append(names, s.ID+"\t"+s.URL)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
