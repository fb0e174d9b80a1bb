// Package buildkite is Buildkite as a provider of builds.
//
// Its README says what an operator sets up. A build is Buildkite's build of a pipeline; what runs again of it is the same build, a rebuild is another.
package buildkite

import (
	"cmp"
	"context"
	"encoding/json"
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

// Annotation is where entities name their pipeline, or several, separated by commas.
const Annotation = "buildkite.com/project-slug"

// Kind is Buildkite.
var Kind = provider.Kind{
	Name:   "buildkite",
	Text:   "Buildkite.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: Annotation, Project: true, Text: "The pipeline, below its organization; several are separated by commas.", Example: "acme/web"},
	},
	Open: provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL            string                `json:"url" default:"https://api.buildkite.com/v2" doc:"Address of the API; another one only where a proxy stands before it"`
	CACertificates provider.Certificates `json:"caCertificates" doc:"Certificates of authorities in PEM form that are trusted besides the system's, for a server with one of its own; ${file:/path} puts a file here"`
	Credential     provider.Credential   `json:"credential" doc:"An API access token (secretText)"`
	WebhookSecret  provider.Secret       `json:"webhookSecret" doc:"Token of the webhook, which Buildkite sends in clear or signs with; none: webhooks are refused"`
	Interval       slipway.Duration      `json:"interval" default:"2m" doc:"How often a pipeline is looked at; with webhooks it may be long"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	faults := append(provider.CheckURL("url", c.URL), c.Credential.Faults("credential", provider.SecretText)...)
	if c.Credential == (provider.Credential{}) {
		faults = append(faults, slipway.Detail{Field: "credential", Code: slipway.Invalid, Message: "is required; Buildkite shows nothing without one"})
	}
	return faults
}

// client is Buildkite with a credential.
type client struct {
	cfg     Config
	api     *provider.Client
	now     func() time.Time
	logPace time.Duration // between two looks at a log that is followed

	mu   sync.Mutex
	seen map[string]change // by project and number
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	env = env.Trusting(cfg.CACertificates)
	c := &client{cfg: cfg, now: env.Clock(), logPace: 10 * time.Second, seen: map[string]change{}}
	var err error
	c.api, err = provider.NewClient(env, provider.ClientOptions{
		Vendor: "Buildkite", URL: cfg.URL, Authorize: c.authorize, Classify: classify, Limit: limit,
		Header: http.Header{"Accept": {"application/json"}},
	})
	return c, err
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects: projects,
		Interval: c.cfg.Interval.Std(),
		Builds: &provider.Builds{
			List: c.list, Get: c.get, Retrigger: c.retrigger, Start: c.start, Cancel: c.cancel, Logs: c.logs,
		},
		Webhook: &provider.Webhook{Verify: c.verify, Parse: parse},
		Check:   c.check,
		Inspect: c.inspect,
		Access:  c.access,
		Limits:  c.api.Limits,
	}
}

func (c *client) authorize(context.Context, string) (provider.Authorization, error) {
	return c.cfg.Credential.Authorization(), nil
}

// limit reads both limits, of the organization and of the token's user: what is nearer to its end counts. Their resets are seconds to go.
func limit(h http.Header, now time.Time) provider.Limit {
	organization, user := provider.SecondsLimit(h, "RateLimit-", now), provider.SecondsLimit(h, "RateLimit-User-", now)
	l := organization
	if user.Total > 0 && (organization.Total == 0 || user.Remaining < organization.Remaining) {
		l = user
	}
	for _, other := range []provider.Limit{organization, user} {
		if other.Until.After(l.Until) {
			l.Until = other.Until
		}
	}
	return l
}

// classify knows that Buildkite refuses with 422 what a build's state forbids, and says in the body of a 429 how long to wait.
func classify(r provider.Request, a provider.Answer) error {
	switch {
	case a.Status == http.StatusTooManyRequests:
		var said struct {
			Reset float64 `json:"reset"` // seconds to go
		}
		_ = json.Unmarshal(a.Body, &said)
		e := slipway.Errorf(slipway.RateLimited, "Buildkite takes no more requests for now")
		if said.Reset > 0 && said.Reset <= 3600 {
			return e.After(time.Duration(said.Reset * float64(time.Second)))
		}
		return e
	case r.Method == http.MethodPut && (a.Status == http.StatusUnprocessableEntity || a.Status == http.StatusBadRequest):
		return slipway.Errorf(slipway.Conflict, "Buildkite refuses because of how the build stands: %s", a.Message)
	}
	return nil
}

// accessToken is what Buildkite tells of a token.
type accessToken struct {
	Scopes  []string `json:"scopes"`
	Expires string   `json:"expires_at"`
	User    struct {
		Name  string `json:"name"`
		Email string `json:"email"`
	} `json:"user"`
}

func (c *client) token(ctx context.Context) (t accessToken, err error) {
	_, err = c.api.JSON(ctx, provider.Request{Path: "/access-token"}, &t)
	return t, err
}

func (c *client) check(ctx context.Context) error {
	_, err := c.token(ctx)
	return err
}

// needed is what each scope is for.
var needed = []struct{ scope, to string }{
	{"read_builds", "read builds"}, {"write_builds", "run and cancel builds"}, {"read_build_logs", "read logs"},
}

func (c *client) inspect(ctx context.Context, project string) (in provider.Insight, err error) {
	t, err := c.token(ctx)
	if err != nil {
		return in, err
	}
	in.Account = cmp.Or(t.User.Email, t.User.Name)
	in.Expires = timeOf(t.Expires)
	for _, n := range needed {
		if !slices.Contains(t.Scopes, n.scope) {
			in.Lacks = append(in.Lacks, "the token cannot "+n.to+"; give it the scope "+n.scope)
		}
	}
	if project != "" && slices.Contains(t.Scopes, "read_builds") {
		_, err = c.peek(ctx, project, nil)
	}
	return in, err
}

// timeOf reads the times of what is no build, which Buildkite writes in another form.
func timeOf(text string) time.Time {
	for _, form := range []string{"2006-01-02 15:04:05 MST", time.RFC3339} {
		if at, err := time.Parse(form, text); err == nil {
			return at.UTC()
		}
	}
	return time.Time{}
}

// access asks for the builds as the holder of a token.
func (c *client) access(ctx context.Context, project string, token provider.Secret) error {
	as := provider.Bearer(token, "caller ")
	_, err := c.peek(ctx, project, &as)
	return err
}

// peek asks whether the builds of a project are to be seen.
func (c *client) peek(ctx context.Context, project string, as *provider.Authorization) (provider.Answer, error) {
	where, err := path(project, "/builds")
	if err != nil {
		return provider.Answer{}, err
	}
	return c.api.JSON(ctx, provider.Request{Path: where, As: as, Query: url.Values{"per_page": {"1"}, "exclude_jobs": {"true"}, "exclude_pipeline": {"true"}}}, &[]struct{}{})
}

var slug = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*$`)

// projects reads the annotation. Slugs at Buildkite are in small letters.
func projects(e *slipway.Entity) []string {
	var list []string
	for _, word := range provider.Words(e, Annotation) {
		word = strings.ToLower(word)
		if slug.MatchString(word) && !slices.Contains(list, word) {
			list = append(list, word)
		}
	}
	return list
}

// path is a project's part of the API.
func path(project, rest string) (string, error) {
	organization, pipeline, _ := strings.Cut(project, "/")
	if !slug.MatchString(project) {
		return "", slipway.Errorf(slipway.NotFound, "Buildkite has no pipeline %q; write organization/pipeline", project)
	}
	return "/organizations/" + organization + "/pipelines/" + pipeline + rest, nil
}
