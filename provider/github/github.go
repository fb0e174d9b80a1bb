// Package github is GitHub Actions as a provider of builds, in the cloud and on GitHub Enterprise Server.
//
// Its README says what an operator sets up. A build is a workflow run; the attempts of a run are one build.
package github

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Annotation is where entities name their repository, or several, separated by commas.
const Annotation = "github.com/project-slug"

// UserAnnotation is where user entities name their account.
const UserAnnotation = "github.com/user-login"

// Kind is GitHub.
var Kind = provider.Kind{
	Name:   "github",
	Text:   "GitHub Actions, in the cloud or on GitHub Enterprise Server.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: Annotation, Project: true, Text: "The repository; several are separated by commas. A host before it says which GitHub is meant where there are several.", Example: "octo/hello"},
		{Key: UserAnnotation, Text: "On a user: the login at GitHub.", Example: "octocat"},
	},
	Open: provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL            string                `json:"url" default:"https://api.github.com" doc:"Address of the API; for GitHub Enterprise Server https://HOST/api/v3, with data residency https://api.NAME.ghe.com"`
	CACertificates provider.Certificates `json:"caCertificates" doc:"Certificates of authorities in PEM form that are trusted besides the system's, for a server with one of its own; ${file:/path} puts a file here"`
	Credential     provider.Credential   `json:"credential" doc:"A token (secretText) or an app (githubApp); none: public repositories, 60 requests an hour"`
	WebhookSecret  provider.Secret       `json:"webhookSecret" doc:"Secret of the webhook; none: webhooks are refused"`
	Interval       slipway.Duration      `json:"interval" default:"1m" doc:"How often a repository is looked at; with webhooks it may be long"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	faults := provider.CheckURL("url", c.URL)
	faults = append(faults, c.Credential.Faults("credential", provider.SecretText, provider.GitHubApp)...)
	if c.Credential.Type == provider.GitHubApp && c.Credential.PrivateKey != "" {
		if _, err := parseKey(c.Credential.PrivateKey); err != nil {
			faults = append(faults, slipway.Detail{Field: "credential.privateKey", Code: slipway.Invalid, Message: err.Error()})
		}
	}
	return faults
}

// client is a GitHub with a credential.
type client struct {
	cfg     Config
	api     *provider.Client
	app     *app // nil: a token, or nothing
	host    string
	logPace time.Duration // between two looks at a run whose log is followed
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	env = env.Trusting(cfg.CACertificates)
	c := &client{cfg: cfg, host: webHost(cfg.URL), logPace: 5 * time.Second}
	o := provider.ClientOptions{
		Vendor: "GitHub", URL: cfg.URL, Authorize: c.authorize, Classify: classify, Limit: limit,
		Header:   http.Header{"Accept": {"application/vnd.github+json"}, "X-Github-Api-Version": {"2022-11-28"}},
		WriteGap: time.Second, // what GitHub asks for
	}
	var err error
	if c.api, err = provider.NewClient(env, o); err != nil {
		return nil, err
	}
	if cfg.Credential.Type == provider.GitHubApp {
		c.app, err = newApp(cfg.Credential, env, o)
	}
	return c, err
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects: c.projects,
		Accounts: func(e *slipway.Entity) []string { return provider.Logins(e, UserAnnotation) },
		Interval: c.cfg.Interval.Std(),
		Builds: &provider.Builds{
			List: c.list, Get: c.get, Retrigger: c.retrigger, Start: c.start, Cancel: c.cancel, Logs: c.logs,
		},
		Deployments: &provider.Deployments{List: c.deployments, Get: c.deployment},
		Webhook:     &provider.Webhook{Verify: c.verify, Parse: parse},
		Check:       c.check,
		Inspect:     c.inspect,
		Access:      c.access,
		Limits:      c.api.Limits,
	}
}

func (c *client) authorize(ctx context.Context, project string) (provider.Authorization, error) {
	switch {
	case c.app != nil && project == "":
		return c.app.asItself()
	case c.app != nil:
		return c.app.forProject(ctx, project)
	}
	return c.cfg.Credential.Authorization(), nil
}

// call asks for something of a project. A token of an app that GitHub stopped to accept before its time is replaced once.
func (c *client) call(ctx context.Context, r provider.Request, out any) (provider.Answer, error) {
	a, err := c.api.JSON(ctx, r, out)
	if c.app != nil && r.Scope != "" && errors.Is(err, slipway.Unauthenticated) && c.app.forget(r.Scope) {
		return c.api.JSON(ctx, r, out)
	}
	return a, err
}

// limit reads GitHub's headers. Each resource has a limit of its own; ours is "core".
func limit(h http.Header, now time.Time) provider.Limit {
	if resource := h.Get("X-Ratelimit-Resource"); resource != "" && resource != "core" {
		return provider.Limit{}
	}
	return provider.EpochLimit(h, "X-Ratelimit-", now)
}

// classify tells apart what GitHub says with 403: too many requests, of which there are two kinds, a run that may not run again, and no permission.
func classify(r provider.Request, a provider.Answer) error {
	if a.Status != http.StatusForbidden && a.Status != http.StatusTooManyRequests {
		return nil
	}
	var said struct {
		Documentation string `json:"documentation_url"`
	}
	_ = json.Unmarshal(a.Body, &said)
	// The limit that has no header of its own is called secondary; servers of before 2023 say abuse.
	secondary := strings.Contains(said.Documentation, "secondary-rate-limits") || strings.Contains(said.Documentation, "abuse-rate-limits") ||
		strings.Contains(a.Message, "secondary rate limit")
	switch {
	case a.Status == http.StatusTooManyRequests, a.Header.Get("X-Ratelimit-Remaining") == "0", a.Header.Get("Retry-After") != "", secondary:
		return slipway.Errorf(slipway.RateLimited, "GitHub takes no more requests from this provider's credential for now")
	case r.Method == http.MethodPost && strings.Contains(r.Path, "/rerun") && cannotRerun.MatchString(a.Message):
		return slipway.Errorf(slipway.Conflict, "GitHub does not run it again: %s", a.Message)
	}
	return nil
}

// cannotRerun is what GitHub says of runs that are too old, ran too often, or run already. Nothing but its words tells this from a lack of permission.
var cannotRerun = regexp.MustCompile(`(?i)re-?run|retr(y|ied)|already running|too old`)

// check asks for the limits, which needs no permission; an app asks who it is.
func (c *client) check(ctx context.Context) error {
	if c.app != nil {
		_, err := c.api.JSON(ctx, provider.Request{Path: "/app"}, &struct{}{})
		return err
	}
	_, err := c.api.JSON(ctx, provider.Request{Path: "/rate_limit"}, &struct{}{})
	if errors.Is(err, slipway.NotFound) {
		return nil // a GitHub Enterprise Server without limits says so; it knew the token, or would have told
	}
	return err
}

// inspect reads what GitHub's answers say of the token: until when it counts, and, of a classic one, its scopes.
func (c *client) inspect(ctx context.Context, project string) (i provider.Insight, err error) {
	where, err := path(project, "/actions/runs")
	if err != nil {
		return i, err
	}
	a, err := c.call(ctx, provider.Request{Path: where, Query: url.Values{"per_page": {"1"}, "exclude_pull_requests": {"true"}}, Scope: project}, &struct{}{})
	if err != nil {
		return i, err
	}
	switch {
	case c.app != nil:
		i.Account = "app " + c.cfg.Credential.AppID
	case c.cfg.Credential.Secret == "":
		i.Account, i.Lacks = "nobody", []string{"without a credential builds cannot be run again, started or canceled; set one"}
	}
	for _, layout := range []string{"2006-01-02 15:04:05 MST", "2006-01-02 15:04:05 -0700"} {
		if at, err := time.Parse(layout, a.Header.Get("Github-Authentication-Token-Expiration")); err == nil {
			i.Expires = at.UTC()
		}
	}
	if scopes, classic := a.Header["X-Oauth-Scopes"]; classic {
		words := strings.FieldsFunc(strings.Join(scopes, ","), func(r rune) bool { return r == ',' || r == ' ' })
		if !slices.Contains(words, "repo") && !slices.Contains(words, "public_repo") {
			i.Lacks = append(i.Lacks, "the token has neither the scope repo nor public_repo, so that builds cannot be run again, started or canceled; give it one of them")
		}
	}
	return i, nil
}

// access asks for the runs as the holder of a token: of all that GitHub knows of a repository, they are what is shown.
func (c *client) access(ctx context.Context, project string, token provider.Secret) error {
	where, err := path(project, "/actions/runs")
	if err != nil {
		return err
	}
	as := provider.Bearer(token, "caller ")
	_, err = c.api.JSON(ctx, provider.Request{Path: where, Query: url.Values{"per_page": {"1"}, "exclude_pull_requests": {"true"}}, As: &as}, &struct{}{})
	return err
}

// webHost is where people look at a GitHub whose API is at an address.
func webHost(api string) string {
	u, err := url.Parse(api)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(strings.ToLower(u.Host), "api.")
}

var slug = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*/[a-z0-9._-]*[a-z0-9_-][a-z0-9._-]*$`)

// projects reads the annotation. GitHub does not tell capital letters from small ones. Where the entity's source lies in a repository of that name at another
// host, it is that host's.
func (c *client) projects(e *slipway.Entity) []string {
	var list []string
	for _, word := range provider.Words(e, Annotation) {
		word = strings.ToLower(word)
		if host, rest, ok := strings.Cut(word, "/"); ok && strings.Contains(rest, "/") {
			if host != c.host {
				continue
			}
			word = rest
		} else if provider.Elsewhere(e, c.host, word) {
			continue
		}
		if slug.MatchString(word) && !slices.Contains(list, word) {
			list = append(list, word)
		}
	}
	return list
}

// path is a project's part of the API.
func path(project, rest string) (string, error) {
	if !slug.MatchString(project) {
		return "", slipway.Errorf(slipway.NotFound, "GitHub has no repository %q; write owner/name", project)
	}
	return "/repos/" + project + rest, nil
}
