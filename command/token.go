package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/client"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

func (a *app) token() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke tokens",
		Long: `Make, list and revoke tokens. A token belongs to a service, or acts as a user; it can do at most what its issuer can. Its secret is shown once,
when it is made.`,
		Example: "  slipway token list",
	}
	cmd.AddCommand(a.tokenCreate(), a.tokenNarrow(), a.tokenList(), a.tokenRevoke(), a.tokenPermissions())
	return cmd
}

func (a *app) tokenCreate() *cobra.Command {
	var s settings
	var in struct {
		user, expires, rate string
		permissions         []string
		admin               bool
	}
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a token and print its secret",
		Long: `Make a token and print its secret, and nothing else, on standard output. It cannot be shown again.

Permissions are named like build.run.read, with * for a part, and narrowed to objects as in "build.*:component:default/web" or
"build.*:owned". With --user the token acts as that user. With --admin, the command makes the first token of an installation directly in the database, without a server; it only needs the configuration. The token is called admin unless you name it.`,
		Example: `  slipway token create ci-bot --permission build.run.read --permission catalog.entity.read --expires 90d
  slipway token create jane-laptop --user user:default/jane
  slipway token create --admin --config slipway.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "admin"
			switch {
			case len(args) == 1:
				name = args[0]
			case !in.admin:
				return usage("give the token a name: write slipway token create NAME")
			}
			var expires time.Time
			if in.expires != "" {
				d, err := slipway.ParseDuration(in.expires)
				if err != nil {
					return usage("--expires: %s", err)
				}
				expires = time.Now().Add(d.Std())
			}
			if in.admin {
				if in.user != "" || in.rate != "" || len(in.permissions) > 0 {
					return usage("--admin goes with --expires only: the token may do everything")
				}
				return a.adminToken(cmd, s, name, expires)
			}
			if cmd.Flags().Changed("config") || cmd.Flags().Changed("data-dir") {
				return usage("--config and --data-dir go with --admin only: otherwise a server is asked")
			}
			body := client.NewToken{Name: name, User: in.user, Permissions: in.permissions, RateLimit: in.rate}
			if !expires.IsZero() {
				body.ExpiresAt = &expires
			}
			raw, made, err := blueprint.Ask[client.CreatedToken](cmd.Context(), a.face(), http.MethodPost, "/api/tokens", body)
			if err != nil {
				return err
			}
			return a.showSecret(cmd, raw, made.Token.ID, made.Secret)
		},
	}
	cmd.Flags().StringVar(&in.user, "user", "", "entity ref of the user that the token acts as")
	cmd.Flags().StringArrayVar(&in.permissions, "permission", nil, "what the token may do; may be repeated")
	cmd.Flags().StringVar(&in.expires, "expires", "", "how long the token is valid, such as 90d (default for ever)")
	cmd.Flags().StringVar(&in.rate, "rate-limit", "", "requests in a minute, such as 5000/m (default as configured)")
	cmd.Flags().BoolVar(&in.admin, "admin", false, "make a token that may do everything, in the database itself")
	s.flags(cmd)
	return cmd
}

func (a *app) tokenNarrow() *cobra.Command {
	var in struct {
		Permissions []string `json:"permissions"`
		Lifetime    string   `json:"lifetime,omitempty"`
		Purpose     string   `json:"purpose,omitempty"`
	}
	cmd := &cobra.Command{
		Use:   "narrow",
		Short: "Make a temporary token that may do less than you",
		Long:  `Make a token that acts as you, may do only what --permission lists, and expires after a day at most. Only its secret is printed on standard output. Give it to a script or a job instead of your own token. If you lose a permission, so does it. "slipway token revoke" ends it earlier.`,
		Example: `  slipway token narrow --permission build.run.read:component:default/web --expires 15m
  slipway token narrow --permission build.run.read --permission build.run.retrigger --purpose nightly`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(in.Permissions) == 0 {
				return usage("--permission is missing: say what the token may do")
			}
			raw, made, err := blueprint.Ask[client.CreatedToken](cmd.Context(), a.face(), http.MethodPost, "/api/auth/narrow", in)
			if err != nil {
				return err
			}
			return a.showSecret(cmd, raw, made.Token.ID, made.Secret)
		},
	}
	cmd.Flags().StringArrayVar(&in.Permissions, "permission", nil, "what the token may do; may be repeated")
	cmd.Flags().StringVar(&in.Lifetime, "expires", "", "how long the token is valid, such as 15m (default 1h, at most 24h)")
	cmd.Flags().StringVar(&in.Purpose, "purpose", "", "a word to recognise the token by")
	return cmd
}

// showSecret prints only the secret, so that a script can take it; what a person should know goes to standard error.
func (a *app) showSecret(cmd *cobra.Command, doc any, id, secret string) error {
	if a.format != "table" {
		return a.print(cmd, doc, blueprint.Table{})
	}
	say(cmd, "Token %s. Keep its secret; it is not shown again.", id)
	_, err := fmt.Fprintln(cmd.OutOrStdout(), secret)
	return err
}

// adminToken makes a token without a server.
func (a *app) adminToken(cmd *cobra.Command, s settings, name string, expires time.Time) (err error) {
	l, err := a.load(s, os.Environ())
	if err != nil {
		return err
	}
	enabled, err := server.Enabled(a.blueprints, l.config.Blueprints)
	if err != nil {
		return err
	}
	enabled = append([]blueprint.Blueprint{server.Base}, enabled...)
	if err := makeDataDir(l.config.DataDir); err != nil {
		return err
	}
	db, err := store.Open("main", l.config.Databases["main"])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.MigrateUp(cmd.Context(), server.Owners(enabled)["main"]...); err != nil {
		return err
	}
	var permissions []auth.Permission
	for _, b := range enabled {
		permissions = append(permissions, b.Permissions...)
	}
	log := slog.New(slog.DiscardHandler)
	service, err := auth.New(db, store.NewRevisions(db, log), l.config.Auth, permissions, time.Now, log)
	if err != nil {
		return err
	}
	system := &slipway.Caller{Kind: slipway.CallerSystem, Subject: "system"}
	ctx := auth.WithCaller(cmd.Context(), system)
	t, secret, err := service.CreateToken(ctx, system, auth.NewToken{Name: name, Admin: true, Expires: expires})
	if err != nil {
		return err
	}
	return a.showSecret(cmd, struct {
		auth.Token
		Secret string `json:"secret"`
	}{t, secret}, t.ID, secret)
}

func (a *app) tokenList() *cobra.Command {
	var over bool
	var user string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List tokens",
		Long:  `List valid tokens with whom they act for, when they expire and when they were last used. --all adds revoked and expired ones. Secrets are not shown.`,
		Example: `  slipway token list
  slipway token list --user user:default/jane --all -o json`,
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
			raw, items, more, err := all[client.Token](cmd.Context(), c, "/api/tokens", q)
			if err != nil {
				return err
			}
			now := time.Now()
			t := blueprint.Table{Header: []string{"ID", "Name", "Acts as", "State", "Expires", "Last used", "Permissions"}, Footer: more}
			for _, k := range items {
				as := k.User
				if as == "" {
					as = "itself"
				}
				state := "ok"
				switch {
				case k.RevokedAt != nil:
					state = "revoked"
				case k.ExpiresAt != nil && k.ExpiresAt.Before(now):
					state = "expired"
				}
				t.Rows = append(t.Rows, []string{k.ID, k.Name, as, state, moment(k.ExpiresAt, "never"), moment(k.LastUsedAt, "never"), strings.Join(k.Permissions, " ")})
			}
			if len(items) == 0 {
				t.Footer = "No tokens."
			}
			return a.print(cmd, raw, t)
		},
	}
	cmd.Flags().BoolVar(&over, "all", false, "also tokens that are revoked or expired")
	cmd.Flags().StringVar(&user, "user", "", "only tokens that act as this user")
	return cmd
}

func (a *app) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME|ID",
		Short: "End a token at once",
		Long:  `Revoke a token by the name or id that "slipway token list" shows. Within a second no server accepts it any more, nor any token that was made with it. This cannot be undone.`,
		Example: `  slipway token revoke ci-bot
  slipway token revoke 4fT0aZ81kQxB`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			t, err := find(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			err = c.RevokeToken(cmd.Context(), t.ID)
			if errors.Is(err, slipway.Forbidden) { // one's own temporary tokens take no permission
				if c.Do(cmd.Context(), http.MethodDelete, "/api/auth/narrow/"+url.PathEscape(t.ID), nil, (*json.RawMessage)(nil)) == nil {
					err = nil
				}
			}
			if err != nil {
				return err
			}
			say(cmd, "Revoked %s.", args[0])
			return nil
		},
	}
}

// find is the token with an id or, among those that are valid, a name.
func find(ctx context.Context, c *client.Client, word string) (client.Token, error) {
	_, items, _, err := all[client.Token](ctx, c, "/api/tokens", url.Values{"limit": {strconv.Itoa(slipway.MaxPageLimit)}})
	if errors.Is(err, slipway.Forbidden) { // one may be allowed to revoke without seeing the list
		return client.Token{ID: word}, nil
	} else if err != nil {
		return client.Token{}, err
	}
	for _, same := range []func(client.Token) bool{
		func(t client.Token) bool { return t.ID == word },
		func(t client.Token) bool { return t.Name == word },
	} {
		if i := slices.IndexFunc(items, same); i >= 0 {
			return items[i], nil
		}
	}
	return client.Token{}, slipway.Errorf(slipway.NotFound, "there is no valid token with the name or id %q; slipway token list shows those that you may see", word)
}

func (a *app) tokenPermissions() *cobra.Command {
	return &cobra.Command{
		Use:     "permissions",
		Short:   "List the permissions that exist",
		Long:    "List the permissions that this server knows, with what each allows. These are what \"slipway token create --permission\" and grants: in the configuration can name.",
		Example: "  slipway token permissions",
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, list, err := blueprint.Get[client.List[auth.Permission]](cmd.Context(), a.face(), "/api/auth/permissions")
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"Permission", "Narrowed to", "What it allows"}}
			for _, p := range list.Items {
				t.Rows = append(t.Rows, []string{p.Name, p.Object, p.Text})
			}
			return a.print(cmd, raw, t)
		},
	}
}

const allPages = 50 // pages that a list without paging of its own reads at most

// all reads every page of a list. The document is the answer itself when there is one page, else one of the same shape with all items.
func all[T any](ctx context.Context, c *client.Client, path string, q url.Values) (doc any, items []T, footer string, err error) {
	var whole client.List[json.RawMessage]
	for n := range allPages {
		var raw json.RawMessage
		if err := c.Do(ctx, http.MethodGet, path+"?"+q.Encode(), nil, &raw); err != nil {
			return nil, nil, "", err
		}
		var page client.List[json.RawMessage]
		if err := json.Unmarshal(raw, &page); err != nil {
			return nil, nil, "", err
		}
		doc, whole.PageInfo = raw, page.PageInfo
		if whole.Items = append(whole.Items, page.Items...); n > 0 {
			doc = whole
		}
		if page.PageInfo.NextCursor == "" {
			break
		}
		q.Set("cursor", page.PageInfo.NextCursor)
	}
	for _, raw := range whole.Items {
		var item T
		if err := json.Unmarshal(raw, &item); err != nil {
			return nil, nil, "", err
		}
		items = append(items, item)
	}
	if whole.PageInfo.HasMore {
		footer = fmt.Sprintf("Only the first %d are shown.", len(items))
	}
	return doc, items, footer, nil
}

// moment is a time as people on this machine write it.
func moment(t *time.Time, none string) string {
	if t == nil || t.IsZero() {
		return none
	}
	return t.Local().Format("2006-01-02 15:04")
}
