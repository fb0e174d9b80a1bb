package command

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
)

func (a *app) auth() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "auth",
		Short: "See who you are, where you are signed in, and why you may or may not",
		Long: `See who the server takes you for, where you are signed in, and why somebody may or may not do something. "slipway login" signs in, "slipway token" makes
tokens.`,
		Example: `  slipway auth whoami
  slipway auth session list`,
	}
	session := &cobra.Command{
		Use: "session", Short: "List and end sign-ins",
		Long:    "List and end sign-ins of browsers and command lines: your own, or with the permission, those of others.",
		Example: "  slipway auth session list",
	}
	session.AddCommand(a.sessionList(), a.sessionEnd())
	cmd.AddCommand(a.whoami("slipway auth whoami"), session)
	return cmd
}

func (a *app) sessionList() *cobra.Command {
	var over bool
	var user string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List sign-ins",
		Long:  "List where you are signed in, newest first, or with --user where somebody else is (* for everybody); with --all also what is over.",
		Example: `  slipway auth session list
  slipway auth session list --user '*' --all`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			q := url.Values{"limit": {strconv.Itoa(slipway.MaxPageLimit)}}
			if user != "" {
				q.Set("user", user)
			}
			if over {
				q.Set("all", "true")
			}
			raw, items, more, err := all[auth.Session](cmd.Context(), c, "/api/auth/sessions", q)
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"ID", "User", "Kind", "Since", "Last used", "Ends", "Label"}, Footer: more}
			for _, s := range items {
				t.Rows = append(t.Rows, []string{s.ID, s.User, s.Kind, moment(&s.CreatedAt, ""), moment(&s.SeenAt, ""), moment(&s.ExpiresAt, ""), s.Label})
			}
			if len(items) == 0 {
				t.Footer = "No sessions."
			}
			return a.print(cmd, raw, t)
		},
	}
	cmd.Flags().BoolVar(&over, "all", false, "also sessions that are over")
	cmd.Flags().StringVar(&user, "user", "", "whose sessions: a user, or * for everybody's (default your own)")
	return cmd
}

func (a *app) sessionEnd() *cobra.Command {
	return &cobra.Command{
		Use:     "end ID",
		Short:   "End a sign-in at once",
		Long:    "End a sign-in, by the id that session list shows: within a second no server takes it any more.",
		Example: "  slipway auth session end 7hQ2bV90mXwC",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := c.Do(cmd.Context(), http.MethodDelete, "/api/auth/sessions/"+url.PathEscape(args[0]), nil, (*json.RawMessage)(nil)); err != nil {
				return err
			}
			say(cmd, "Ended %s.", args[0])
			return nil
		},
	}
}
