// Package gitea is Gitea Actions as a provider of builds, from Gitea 1.25 on; runs again come with 1.26. Forgejo speaks differently and is not meant.
//
// Its README says what an operator sets up. A build is a workflow run; the attempts of a run are one build.
package gitea

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Annotation is where entities name their repository, or several, separated by commas.
const Annotation = "gitea.com/project-slug"

// SourceAnnotation is where most entities say where their source lies. It is read where there is no Annotation.
const SourceAnnotation = "backstage.io/source-location"

// UserAnnotation is where user entities name their account.
const UserAnnotation = "gitea.com/user-login"

// Kind is Gitea.
var Kind = provider.Kind{
	Name:   "gitea",
	Text:   "Gitea Actions, from Gitea 1.25 on.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: Annotation, Project: true, Text: "The repository; several are separated by commas. A host before it says which Gitea is meant where there are several.", Example: "lab/app"},
		{Key: SourceAnnotation, Project: true, Text: "Where the source lies, read where the other is absent: an address at this Gitea.", Example: "url:https://gitea.example.com/lab/app"},
		{Key: UserAnnotation, Text: "On a user: the login at Gitea.", Example: "jane"},
	},
	Open: provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL            string                `json:"url" required:"true" doc:"Address of the Gitea server, with any path before it, as people use it"`
	CACertificates provider.Certificates `json:"caCertificates" doc:"Certificates of authorities in PEM form that are trusted besides the system's, for a server with one of its own; ${file:/path} puts a file here"`
	Credential     provider.Credential   `json:"credential" doc:"A token (secretText), or an account (usernamePassword); none: public repositories, only reading"`
	WebhookSecret  provider.Secret       `json:"webhookSecret" doc:"Secret of the webhook; none: webhooks are refused"`
	Interval       slipway.Duration      `json:"interval" default:"1m" doc:"How often a repository is looked at; with webhooks it may be long"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	return append(provider.CheckURL("url", c.URL), c.Credential.Faults("credential", provider.SecretText, provider.UsernamePassword)...)
}

// client is a Gitea with a credential.
type client struct {
	cfg     Config
	api     *provider.Client
	base    *url.URL // where people look
	now     func() time.Time
	logPace time.Duration // between two looks at a log that is followed

	mu   sync.Mutex
	seen map[string]detail // by project and run
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	env = env.Trusting(cfg.CACertificates)
	base, err := url.Parse(strings.ToLower(strings.TrimRight(cfg.URL, "/")))
	if err != nil {
		return nil, err
	}
	c := &client{cfg: cfg, base: base, now: env.Clock(), logPace: 2 * time.Second, seen: map[string]detail{}}
	c.api, err = provider.NewClient(env, provider.ClientOptions{
		Vendor: "Gitea", URL: strings.TrimRight(cfg.URL, "/") + "/api/v1", Authorize: c.authorize, Classify: classify,
		Header: http.Header{"Accept": {"application/json"}},
	})
	return c, err
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects: c.projects,
		Accounts: func(e *slipway.Entity) []string { return provider.Logins(e, UserAnnotation) },
		Interval: c.cfg.Interval.Std(),
		Builds:   &provider.Builds{List: c.list, Get: c.get, Retrigger: c.retrigger, Start: c.start, Logs: c.logs}, // Gitea 1.26 cancels nothing
		Webhook:  &provider.Webhook{Verify: c.verify, Parse: parse},
		Check:    c.check,
		Inspect:  c.inspect,
		Access:   c.access,
	}
}

func (c *client) authorize(context.Context, string) (provider.Authorization, error) {
	if token := c.cfg.Credential.Secret; token != "" {
		return show(token, "token "), nil
	}
	return c.cfg.Credential.Authorization(), nil
}

// show is how Gitea takes a token.
func show(token provider.Secret, whose string) provider.Authorization {
	return provider.Authorization{Header: "Authorization", Value: "token " + string(token), Account: whose + token.Fingerprint()}
}

// classify knows that Gitea refuses to run something again with 400.
func classify(r provider.Request, a provider.Answer) error {
	if strings.Contains(r.Path, "/rerun") && (a.Status == http.StatusBadRequest || a.Status == http.StatusUnprocessableEntity) {
		return slipway.Errorf(slipway.Conflict, "Gitea does not run it again: %s", a.Message)
	}
	return nil
}

// check asks for the version, which needs no permission, and then for the account.
func (c *client) check(ctx context.Context) error {
	var server struct {
		Version string `json:"version"`
	}
	if _, err := c.api.JSON(ctx, provider.Request{Path: "/version"}, &server); err != nil {
		return err
	}
	if strings.Contains(server.Version, "+gitea-") {
		return slipway.Errorf(slipway.Unsupported, "this is Forgejo %s, whose builds this provider cannot read; use a Gitea", server.Version)
	}
	if c.cfg.Credential.Type == "" {
		return nil
	}
	_, err := c.api.JSON(ctx, provider.Request{Path: "/user"}, &struct{}{})
	if errors.Is(err, slipway.Forbidden) {
		return nil // the token is known; that it may not read its account does no harm
	}
	return err
}

// inspect asks whose the credential is.
func (c *client) inspect(ctx context.Context, _ string) (i provider.Insight, err error) {
	if c.cfg.Credential.Type == "" {
		return provider.Insight{Account: "nobody", Lacks: []string{"without a credential builds cannot be run again or started; set one"}}, nil
	}
	var who account
	if _, err := c.api.JSON(ctx, provider.Request{Path: "/user"}, &who); err != nil {
		return i, err
	}
	i.Account = who.Login
	return i, nil
}

// access asks for the runs as the holder of a token: they are what is shown.
func (c *client) access(ctx context.Context, project string, token provider.Secret) error {
	where, err := path(project, "/actions/runs")
	if err != nil {
		return err
	}
	as := show(token, "caller ")
	_, err = c.api.JSON(ctx, provider.Request{Path: where, Query: url.Values{"limit": {"1"}}, As: &as}, &struct{}{})
	return err
}

var slug = regexp.MustCompile(`^[a-z0-9_-][a-z0-9._-]*/[a-z0-9._-]*[a-z0-9_-][a-z0-9._-]*$`)

// projects reads the annotations. Gitea does not tell capital letters from small ones.
func (c *client) projects(e *slipway.Entity) []string {
	var list []string
	add := func(word string) {
		if slug.MatchString(word) && !slices.Contains(list, word) {
			list = append(list, word)
		}
	}
	source := c.sourceOf(e)
	if e.Metadata.Annotations[Annotation] == "" {
		if source.here {
			add(source.project)
		}
		return list
	}
	for _, word := range provider.Words(e, Annotation) {
		word = strings.ToLower(word)
		host, rest, ok := strings.Cut(word, "/")
		switch {
		case ok && strings.Contains(rest, "/"):
			if host == c.base.Host {
				add(rest)
			}
		case source.project == word && !source.here: // the repository of that name at another host
		default:
			add(word)
		}
	}
	return list
}

type source struct {
	project string
	here    bool
}

func (c *client) sourceOf(e *slipway.Entity) (s source) {
	u, err := url.Parse(strings.ToLower(strings.TrimPrefix(e.Metadata.Annotations[SourceAnnotation], "url:")))
	if err != nil || u.Host == "" {
		return s
	}
	path, below := strings.CutPrefix(u.Path, c.base.Path+"/")
	s.here = u.Host == c.base.Host && below
	if !s.here {
		path = strings.TrimPrefix(u.Path, "/")
	}
	if parts := strings.SplitN(path, "/", 3); len(parts) >= 2 {
		s.project = parts[0] + "/" + strings.TrimSuffix(parts[1], ".git")
	}
	return s
}

// path is a project's part of the API.
func path(project, rest string) (string, error) {
	if !slug.MatchString(project) {
		return "", slipway.Errorf(slipway.NotFound, "Gitea has no repository %q; write owner/name", project)
	}
	return "/repos/" + project + rest, nil
}
