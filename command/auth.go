package command

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/client"
)

func (a *app) auth() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "auth",
		Short: "Show who you are, your sign-ins, and why something is allowed or not",
		Long: `Show who you are to the server, where you are signed in, and why somebody may or may not do something. "slipway login" signs in, "slipway token" makes
tokens.`,
		Example: `  slipway auth whoami
  slipway auth explain build.run.retrigger component:default/web --subject user:default/jane
  slipway auth session list`,
	}
	session := &cobra.Command{
		Use: "session", Short: "List and end sign-ins",
		Long:    "List and end sign-ins of browsers and command lines: your own, or those of others if you have the permission.",
		Example: "  slipway auth session list",
	}
	session.AddCommand(a.sessionList(), a.sessionEnd())
	cmd.AddCommand(a.whoami("slipway auth whoami"), a.explain(), a.audit(), session)
	return cmd
}

func (a *app) sessionList() *cobra.Command {
	var over bool
	var user string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List sign-ins",
		Long:  "List where you are signed in, newest first. --user shows the sign-ins of somebody else (* for everybody), and --all also those that have ended.",
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
		Long:    "End a sign-in by the id that \"slipway auth session list\" shows. Within a second no server accepts it any more.",
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

func (a *app) explain() *cobra.Command {
	var subject string
	cmd := &cobra.Command{
		Use:   "explain PERMISSION [ENTITY]",
		Short: "Say why somebody may or may not do something",
		Long:  `Say whether you, or somebody else with --subject, have a permission, on an entity or in general, and why: every grant that mentions it, where it comes from, and whether it applies. The exit status is 1 when the answer is no.`,
		Example: `  slipway auth explain platform.job.retry
  slipway auth explain build.run.retrigger component:default/web --subject user:default/jane`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"permission": {args[0]}}
			if len(args) == 2 {
				q.Set("entity", args[1])
			}
			if subject != "" {
				q.Set("subject", subject)
			}
			raw, e, err := blueprint.Get[auth.Explanation](cmd.Context(), a.face(), "/api/auth/explain?"+q.Encode())
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"", "Right", "From", "What comes of it"}}
			for _, r := range e.Reasons {
				mark := "no"
				if r.Decides {
					mark = "yes"
				}
				t.Rows = append(t.Rows, []string{mark, r.Right, r.From, r.Text})
			}
			answer := e.Subject + " may"
			if !e.Allowed {
				answer += " not"
			}
			t.Footer = strings.TrimSpace(answer + ".\n" + e.Advice)
			if err := a.print(cmd, raw, t); err != nil {
				return err
			}
			if !e.Allowed {
				return slipway.Errorf(slipway.Forbidden, "%s", answer)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&subject, "subject", "", "who: user:default/jane, token:ci-bot, service:k8s:ci/deployer, tool:x (default you)")
	return cmd
}

func (a *app) audit() *cobra.Command {
	q := url.Values{"limit": {strconv.Itoa(slipway.MaxPageLimit)}}
	flags := map[string]*string{}
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who did what, by which right",
		Long:  "Show the newest changes by callers: what was done, by which permission, where that permission comes from, and from which address. Changes of documents are shown by \"slipway data audit\".",
		Example: `  slipway auth audit --subject user:default/jane
  slipway auth audit --permission build.run.retrigger -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for name, value := range flags {
				if *value != "" {
					q.Set(name, *value)
				}
			}
			raw, list, err := blueprint.Get[client.List[auth.AuditRecord]](cmd.Context(), a.face(), "/api/auth/audit?"+q.Encode())
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"When", "Who", "Did", "To", "By the right", "Granted by", "Address"}}
			for _, r := range list.Items {
				t.Rows = append(t.Rows, []string{moment(&r.At, ""), r.Subject, r.Action, r.Object, r.Held, r.Origin, r.Address})
			}
			if list.PageInfo.HasMore {
				t.Footer = "Only the newest are shown."
			}
			if len(list.Items) == 0 {
				t.Footer = "Nothing."
			}
			return a.print(cmd, raw, t)
		},
	}
	for name, text := range map[string]string{"subject": "only what this caller did", "permission": "only what took this permission", "action": "only this, such as token.revoke", "object": "only what was done to this"} {
		flags[name] = cmd.Flags().String(name, "", text)
	}
	return cmd
}
