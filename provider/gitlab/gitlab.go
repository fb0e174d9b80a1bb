// Package gitlab is GitLab CI as a provider of builds, at gitlab.com and on servers of one's own.
//
// Its README says what an operator sets up. A build is a pipeline; what runs again of it is the same build.
package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// The annotations that GitLab's users have. An entity has one of the first two, or both, which then mean the same project.
const (
	Annotation         = "gitlab.com/project-slug" // paths of projects, separated by commas
	IDAnnotation       = "gitlab.com/project-id"   // their numbers
	InstanceAnnotation = "gitlab.com/instance"     // the host of the GitLab that is meant
	UserAnnotation     = "gitlab.com/user-login"   // on users; the host of another GitLab may stand before the slash
)

// Kind is GitLab.
var Kind = provider.Kind{
	Name:   "gitlab",
	Text:   "GitLab CI, at gitlab.com or on a server of one's own.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: Annotation, Project: true, Text: "The project's path; several are separated by commas. A host before it says which GitLab is meant where there are several.", Example: "group/app"},
		{Key: IDAnnotation, Project: true, Text: "The project's number, read where the path is absent; several are separated by commas.", Example: "4711"},
		{Key: InstanceAnnotation, Text: "The host of the GitLab that is meant where there are several.", Example: "gitlab.example.com"},
		{Key: UserAnnotation, Text: "On a user: the login at GitLab, or the address of its page. HOST/user-login is read too.", Example: "jane"},
	},
	Open: provider.Opening(newClient),
}

// apiPath is where the API is below what people use. It may stand in the configured address, where people know it from other programs.
const apiPath = "/api/v4"

// The headers in which GitLab takes a token.
const (
	bearerHeader  = "Authorization"
	privateHeader = "PRIVATE-TOKEN"
	jobHeader     = "JOB-TOKEN"
)

// Config is what the configuration says beside name and type.
type Config struct {
	URL                 string                `json:"url" default:"https://gitlab.com" doc:"Address of the GitLab, with any path before it, as people use it"`
	CACertificates      provider.Certificates `json:"caCertificates" doc:"Certificates of authorities in PEM form that are trusted besides the system's, for a server with one of its own; ${file:/path} puts a file here"`
	Credential          provider.Credential   `json:"credential" doc:"An access token of a person, project or group, or an OAuth token (secretText); none: public projects, only reading"`
	TokenHeader         string                `json:"tokenHeader" default:"Authorization" doc:"Header that shows the token: Authorization takes all but job tokens; PRIVATE-TOKEN where a proxy needs Authorization for itself; JOB-TOKEN for a job's token"`
	WebhookSecret       provider.Secret       `json:"webhookSecret" doc:"Secret token of the webhook, which GitLab sends in clear; without it and webhookSigningToken webhooks are refused"`
	WebhookSigningToken provider.Secret       `json:"webhookSigningToken" doc:"Signing token of the webhook, with which GitLab signs what it sends; where only this is set, nothing unsigned is taken"`
	Interval            slipway.Duration      `json:"interval" default:"1m" doc:"How often a project is looked at; with webhooks it may be long"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	faults := provider.CheckURL("url", c.URL)
	faults = append(faults, c.Credential.Faults("credential", provider.SecretText)...)
	if headers := []string{bearerHeader, privateHeader, jobHeader}; !slices.Contains(headers, c.TokenHeader) {
		faults = append(faults, slipway.Detail{Field: "tokenHeader", Code: slipway.Invalid, Message: "must be one of: " + strings.Join(headers, ", ")})
	}
	return faults
}

// client is a GitLab with a credential.
type client struct {
	cfg     Config
	api     *provider.Client
	host    string // where people look
	now     func() time.Time
	logPace time.Duration // between two looks at a log that is followed

	mu      sync.Mutex
	commits map[string]commit // by project and SHA; a commit never changes
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	env = env.Trusting(cfg.CACertificates)
	base, err := url.Parse(strings.ToLower(cfg.URL))
	if err != nil {
		return nil, err
	}
	c := &client{cfg: cfg, host: base.Host, now: env.Clock(), logPace: 2 * time.Second, commits: map[string]commit{}}
	c.api, err = provider.NewClient(env, provider.ClientOptions{
		Vendor: "GitLab", URL: strings.TrimSuffix(strings.TrimRight(cfg.URL, "/"), apiPath) + apiPath, Authorize: c.authorize, Classify: classify,
		Limit:  func(h http.Header, now time.Time) provider.Limit { return provider.EpochLimit(h, "RateLimit-", now) },
		Header: http.Header{"Accept": {"application/json"}},
	})
	return c, err
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects: c.projects,
		Accounts: c.accounts,
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

func (c *client) authorize(context.Context, string) (provider.Authorization, error) {
	token := c.cfg.Credential.Secret
	if token == "" {
		return provider.Authorization{Account: "anonymous"}, nil
	}
	return c.show(token, "token "), nil
}

// show is how GitLab takes a token.
func (c *client) show(token provider.Secret, whose string) provider.Authorization {
	auth := provider.Bearer(token, whose)
	if c.cfg.TokenHeader != bearerHeader {
		auth.Header, auth.Value = c.cfg.TokenHeader, string(token)
	}
	return auth
}

// classify knows what GitLab means by 403: a scope that the token lacks, or a job that cannot run again.
func classify(r provider.Request, a provider.Answer) error {
	if a.Status != http.StatusForbidden {
		return nil
	}
	var said struct {
		Error string `json:"error"`
		Scope string `json:"scope"`
	}
	_ = json.Unmarshal(a.Body, &said)
	if said.Error == "insufficient_scope" {
		return slipway.Errorf(slipway.Forbidden, "GitLab wants a token with another scope for this; give the provider's credential the scope %s", words(said.Scope, "api"))
	}
	if r.Method == http.MethodPost && strings.HasSuffix(r.Path, "/retry") && strings.Contains(strings.ToLower(a.Message), "not retryable") {
		return slipway.Errorf(slipway.Conflict, "GitLab does not run it again: %s", a.Message)
	}
	return nil
}

// words gives the first word of a foreign text, or what else to say.
func words(text, otherwise string) string {
	if f := strings.Fields(text); len(f) > 0 && scope.MatchString(f[0]) {
		return f[0]
	}
	return otherwise
}

var scope = regexp.MustCompile(`^[a-z_]{1,40}$`)

// check asks who the token is; without one, for what everybody sees.
func (c *client) check(ctx context.Context) error {
	r := provider.Request{Path: "/user"}
	switch {
	case c.cfg.Credential.Secret == "":
		r.Path, r.Query = "/projects", url.Values{"per_page": {"1"}, "simple": {"true"}}
		_, err := c.api.JSON(ctx, r, &[]struct{}{})
		return err
	case c.cfg.TokenHeader == jobHeader:
		r.Path = "/job"
	}
	_, err := c.api.JSON(ctx, r, &struct{}{})
	return err
}

// What roles may do with a project, in GitLab's numbers.
const (
	reporter  = 20 // sees the pipelines of a private project
	developer = 30 // runs them
)

// inspect reads what GitLab tells of our token. What it does not tell, such as of an OAuth token, is left out.
func (c *client) inspect(ctx context.Context, project string) (in provider.Insight, err error) {
	if c.cfg.Credential.Secret == "" {
		return provider.Insight{Lacks: []string{"there is no credential: only public projects are seen, and nothing can be run; set `credential`"}}, nil
	}
	if c.cfg.TokenHeader == jobHeader {
		return provider.Insight{Lacks: []string{"a job's token ends with its job; take an access token of a project or group instead"}}, c.check(ctx)
	}
	var user account
	if _, err := c.api.JSON(ctx, provider.Request{Path: "/user"}, &user); err != nil {
		return in, err
	}
	in.Account = user.Username
	var token struct {
		Scopes  []string `json:"scopes"`
		Expires string   `json:"expires_at"` // a day
	}
	switch _, err := c.api.JSON(ctx, provider.Request{Path: "/personal_access_tokens/self"}, &token); {
	case err == nil:
		in.Expires, _ = time.Parse(time.DateOnly, token.Expires)
		if !slices.Contains(token.Scopes, "api") {
			in.Lacks = append(in.Lacks, "the token cannot run builds; give it the scope api")
			if !slices.Contains(token.Scopes, "read_api") {
				in.Lacks = append(in.Lacks, "the token cannot read builds; give it the scope read_api or api")
			}
		}
	case slipway.CodeOf(err) == slipway.Unavailable || slipway.CodeOf(err) == slipway.RateLimited || ctx.Err() != nil:
		return in, err
	}
	if project == "" {
		return in, nil
	}
	role, err := c.role(ctx, project)
	switch {
	case err != nil:
		return in, err
	case role == 0:
		in.Lacks = append(in.Lacks, fmt.Sprintf("GitLab names no role of %s in %s; unless it has one by an invited group, make it a Developer, that it may run pipelines", user.Username, project))
	case role < reporter:
		in.Lacks = append(in.Lacks, fmt.Sprintf("%s is but a guest of %s, and sees its pipelines only where everybody does; make it a Developer, or a Reporter to read", user.Username, project))
	case role < developer:
		in.Lacks = append(in.Lacks, fmt.Sprintf("%s may not run pipelines of %s; make it a Developer or more", user.Username, project))
	}
	return in, nil
}

// role is the credential's part in a project, 0 where it has none of its own.
func (c *client) role(ctx context.Context, project string) (int, error) {
	where, err := path(project, "")
	if err != nil {
		return 0, err
	}
	type level struct {
		Access int `json:"access_level"`
	}
	var found struct {
		Permissions struct {
			Project *level `json:"project_access"`
			Group   *level `json:"group_access"`
		} `json:"permissions"`
	}
	if _, err := c.api.JSON(ctx, provider.Request{Path: where}, &found); err != nil {
		return 0, fmt.Errorf("project %s: %w", project, err)
	}
	role := 0
	for _, l := range []*level{found.Permissions.Project, found.Permissions.Group} {
		if l != nil {
			role = max(role, l.Access)
		}
	}
	return role, nil
}

// access asks for the pipelines as the holder of a token: of all that GitLab knows of a project, they are what is shown.
func (c *client) access(ctx context.Context, project string, token provider.Secret) error {
	where, err := path(project, "/pipelines")
	if err != nil {
		return err
	}
	as := c.show(token, "caller ")
	if c.cfg.TokenHeader == jobHeader { // which takes no token of a person
		as = provider.Bearer(token, "caller ")
	}
	_, err = c.api.JSON(ctx, provider.Request{Path: where, Query: url.Values{"per_page": {"1"}}, As: &as}, &[]struct{}{})
	return err
}

var (
	slug   = regexp.MustCompile(`^[a-z0-9_.-]*[a-z0-9_-][a-z0-9_.-]*(/[a-z0-9_.-]*[a-z0-9_-][a-z0-9_.-]*)+$`)
	number = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)
)

// projects reads the annotations. GitLab does not tell capital letters from small ones.
func (c *client) projects(e *slipway.Entity) []string {
	instance := strings.ToLower(strings.TrimSpace(e.Metadata.Annotations[InstanceAnnotation]))
	if u, err := url.Parse(instance); err == nil && u.Host != "" {
		instance = u.Host
	}
	if instance != "" && strings.Trim(instance, "/") != c.host {
		return nil
	}
	var list []string
	add := func(project string) {
		if !slices.Contains(list, project) {
			list = append(list, project)
		}
	}
	for _, word := range provider.Words(e, Annotation) {
		word = strings.ToLower(word)
		host, rest, _ := strings.Cut(word, "/")
		switch named := strings.Contains(rest, "/") && strings.ContainsAny(host, ".:"); {
		case named && host == c.host:
			word = rest
		case named: // another GitLab
			continue
		case instance == "" && provider.Elsewhere(e, c.host, word):
			continue
		}
		if slug.MatchString(word) {
			add(word)
		}
	}
	if len(list) > 0 || strings.TrimSpace(e.Metadata.Annotations[Annotation]) != "" {
		return list // the numbers are those of the same projects
	}
	for _, word := range provider.Words(e, IDAnnotation) {
		if number.MatchString(word) {
			add(word)
		}
	}
	return list
}

// accounts reads a user's logins: as they are written, or from the address of the user's page, which is what Backstage writes that reads its users from GitLab.
func (c *client) accounts(e *slipway.Entity) []string {
	var list []string
	for _, key := range slices.Compact([]string{c.host + "/user-login", UserAnnotation}) {
		login := strings.Trim(strings.TrimSpace(e.Metadata.Annotations[key]), "/")
		if u, err := url.Parse(login); err == nil && u.Host != "" {
			if !strings.EqualFold(u.Host, c.host) {
				continue
			}
			login = u.Path[strings.LastIndex(u.Path, "/")+1:]
		}
		for _, spelling := range []string{login, strings.ToLower(login)} {
			if login != "" && !slices.Contains(list, spelling) {
				list = append(list, spelling)
			}
		}
	}
	return list
}

// path is a project's part of the API.
func path(project, rest string) (string, error) {
	if !slug.MatchString(project) && !number.MatchString(project) {
		return "", slipway.Errorf(slipway.NotFound, "GitLab has no project %q; write group/project, or its number", project)
	}
	return "/projects/" + url.PathEscape(project) + rest, nil
}

var errNoID = errors.New("the pipeline has no id")
