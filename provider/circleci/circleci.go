// Package circleci is CircleCI as a provider of builds, in the cloud and as CircleCI server.
//
// Its README says what an operator sets up. A build is a workflow; one that is run again is a new build of the same pipeline. A pipeline that has no workflow yet, or whose
// configuration is faulty and never will, is a build too.
package circleci

import (
	"cmp"
	"context"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Annotation is where entities name their project, or several, separated by commas.
const Annotation = "circleci.com/project-slug"

// UserAnnotation is where user entities name their account, where it is not that of HostAnnotation.
const UserAnnotation = "circleci.com/user-login"

// HostAnnotation is where user entities name their account at GitHub. CircleCI knows people by their login at the host of the code.
const HostAnnotation = "github.com/user-login"

// Kind is CircleCI.
var Kind = provider.Kind{
	Name:   "circleci",
	Text:   "CircleCI, in the cloud or as CircleCI server.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: Annotation, Project: true, Text: "The project's slug; several are separated by commas. Without a first part it is a project of Bitbucket. A host before it says which CircleCI is meant where there are several.", Example: "github/octo/hello"},
		{Key: UserAnnotation, Text: "On a user: the login that CircleCI shows, where it is another than that at GitHub.", Example: "octocat"},
		{Key: HostAnnotation, Text: "On a user: the login at GitHub, read where the other is absent.", Example: "octocat"},
	},
	Open: provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL            string                `json:"url" default:"https://circleci.com" doc:"Address of CircleCI; for CircleCI server https://HOST, with any path before it"`
	CACertificates provider.Certificates `json:"caCertificates" doc:"Certificates of authorities in PEM form that are trusted besides the system's, for a server with one of its own; ${file:/path} puts a file here"`
	WebURL         string                `json:"webURL" doc:"Where people look at builds; none: app. before the host of url"`
	Credential     provider.Credential   `json:"credential" doc:"A personal API token (secretText); none: public projects, only reading"`
	WebhookSecret  provider.Secret       `json:"webhookSecret" doc:"Secret of the webhook; none: webhooks are refused"`
	Interval       slipway.Duration      `json:"interval" default:"1m" doc:"How often a project is looked at. CircleCI tells by webhook of what ended only, so do not make it long"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	faults := provider.CheckURL("url", c.URL)
	if c.WebURL != "" {
		faults = append(faults, provider.CheckURL("webURL", c.WebURL)...)
	}
	return append(faults, c.Credential.Faults("credential", provider.SecretText)...)
}

// client is a CircleCI with a credential.
type client struct {
	cfg  Config
	api  *provider.Client
	host string // of the address, by which annotations name this CircleCI
	web  string // where people look
	now  func() time.Time

	logPace   time.Duration // between two looks at a build whose log is followed
	startPace time.Duration // between two looks for the workflows of a pipeline that was begun

	mu       sync.Mutex
	families map[string]family          // workflows by pipeline
	origins  map[string]pipeline        // what began a workflow, by pipeline
	people   map[string]*slipway.Person // by id; nil: nobody whom CircleCI shows
}

// Bounds of what is remembered. It spares requests and is nothing to rely on.
const (
	maxFamilies = 20_000
	maxPeople   = 5_000
)

func newClient(cfg Config, env provider.Env) (*client, error) {
	env = env.Trusting(cfg.CACertificates)
	address := strings.TrimSuffix(strings.TrimRight(cfg.URL, "/"), "/api/v2")
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	u.Host = strings.ToLower(u.Host)
	c := &client{
		cfg: cfg, host: u.Host, web: webAddress(u, cfg.WebURL), now: env.Clock(), logPace: 5 * time.Second, startPace: time.Second,
		families: map[string]family{}, origins: map[string]pipeline{}, people: map[string]*slipway.Person{},
	}
	c.api, err = provider.NewClient(env, provider.ClientOptions{
		Vendor: "CircleCI", URL: address, Authorize: c.authorize, Classify: classify, Limit: limit, Header: http.Header{"Accept": {"application/json"}},
	})
	return c, err
}

// webAddress is where people look at a CircleCI whose API is at an address.
func webAddress(u *url.URL, given string) string {
	switch {
	case given != "":
		return strings.TrimRight(given, "/")
	case u.Path == "" && !strings.HasPrefix(u.Host, "app."):
		return u.Scheme + "://app." + u.Host
	}
	return u.String()
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects: c.projects,
		Accounts: func(e *slipway.Entity) []string {
			if own := provider.Logins(e, UserAnnotation); own != nil {
				return own
			}
			return provider.Logins(e, HostAnnotation)
		},
		Interval: c.cfg.Interval.Std(),
		Builds:   &provider.Builds{List: c.list, Get: c.get, Retrigger: c.retrigger, Start: c.start, Cancel: c.cancel, Logs: c.logs},
		Webhook:  &provider.Webhook{Verify: c.verify, Parse: c.parse},
		Check:    c.check,
		Inspect:  c.inspect,
		Access:   c.access,
		Limits:   c.api.Limits,
	}
}

const (
	v2 = "/api/v2"
	v1 = "/api/v1.1" // only there are logs
)

func (c *client) authorize(context.Context, string) (provider.Authorization, error) {
	if c.cfg.Credential.Secret == "" {
		return provider.Authorization{Account: "anonymous"}, nil
	}
	return asHolder(c.cfg.Credential.Secret, "token "), nil
}

func asHolder(token provider.Secret, kind string) provider.Authorization {
	return provider.Authorization{Header: "Circle-Token", Value: string(token), Account: kind + token.Fingerprint()}
}

// classify gives CircleCI's words where it does not run something again.
func classify(r provider.Request, a provider.Answer) error {
	if a.Status == http.StatusBadRequest && strings.HasSuffix(r.Path, "/rerun") {
		return slipway.Errorf(slipway.Invalid, "CircleCI does not run it again: %s", cmp.Or(a.Message, "it does not say why"))
	}
	return nil
}

// limit reads CircleCI's headers. There may be limits by several units of time; the lowest counts. The reset is in seconds to go.
func limit(h http.Header, now time.Time) provider.Limit {
	lowest := provider.SecondsLimit(h, "Ratelimit-", now)
	until := lowest.Until
	for _, unit := range []struct {
		name string
		rest time.Duration // when nothing remains; of the longer ones CircleCI says it with its refusal
	}{{"Second", time.Second}, {"Minute", time.Minute}, {"Hour", 0}, {"Day", 0}} {
		total, err1 := strconv.Atoi(h.Get("X-Ratelimit-Limit-" + unit.name))
		remaining, err2 := strconv.Atoi(h.Get("X-Ratelimit-Remaining-" + unit.name))
		if err1 != nil || err2 != nil || total <= 0 {
			continue
		}
		if remaining <= 0 && unit.rest > 0 && now.Add(unit.rest).After(until) {
			until = now.Add(unit.rest)
		}
		if lowest.Total == 0 || remaining < lowest.Remaining {
			lowest.Total, lowest.Remaining = total, max(remaining, 0)
		}
	}
	lowest.Until = until
	return lowest
}

type user struct {
	ID    string `json:"id"`
	Login string `json:"login"`
	Name  string `json:"name"`
}

// check asks whose token it is.
func (c *client) check(ctx context.Context) error {
	_, err := c.inspect(ctx, "")
	return err
}

func (c *client) inspect(ctx context.Context, _ string) (provider.Insight, error) {
	var me user
	_, err := c.api.JSON(ctx, provider.Request{Path: v2 + "/me"}, &me)
	return provider.Insight{Account: me.Login}, err
}

// access asks for the pipelines as the holder of a token: they are what is shown.
func (c *client) access(ctx context.Context, project string, token provider.Secret) error {
	where, err := path(project, "/pipeline")
	if err != nil {
		return err
	}
	as := asHolder(token, "caller ")
	_, err = c.api.JSON(ctx, provider.Request{Path: where, As: &as}, &struct{}{})
	return err
}

// hosts are the first parts of slugs, with their short forms.
var hosts = map[string]string{"gh": "github", "github": "github", "bb": "bitbucket", "bitbucket": "bitbucket", "circleci": "circleci"}

var slugPart = regexp.MustCompile(`^[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// canonical gives a slug in one spelling: CircleCI writes hosts long and short, and organisations and projects of its own as an id or as a number of it.
func canonical(slug string) (string, bool) {
	parts := strings.Split(slug, "/")
	if len(parts) != 3 || hosts[strings.ToLower(parts[0])] == "" || !slugPart.MatchString(parts[1]) || !slugPart.MatchString(parts[2]) {
		return "", false
	}
	parts[0] = hosts[strings.ToLower(parts[0])]
	if parts[0] == "circleci" {
		parts[1], parts[2] = shortID(parts[1]), shortID(parts[2])
	}
	return strings.Join(parts, "/"), true
}

// same says whether two slugs, of which the second is canonical, mean the same project. Hosts of code do not tell capital letters from small ones.
func same(slug, project string) bool {
	slug, ok := canonical(slug)
	return ok && (slug == project || !strings.HasPrefix(project, "circleci/") && strings.EqualFold(slug, project))
}

const digits58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// shortID is an id as CircleCI writes it in slugs and addresses: as a number to the base of 58.
func shortID(id string) string {
	u, err := uuid.Parse(id)
	if err != nil || len(id) != 36 {
		return id
	}
	n, base, digit := new(big.Int).SetBytes(u[:]), big.NewInt(58), new(big.Int)
	var text []byte
	for n.Sign() > 0 {
		n.DivMod(n, base, digit)
		text = append(text, digits58[digit.Int64()])
	}
	slices.Reverse(text)
	return string(text)
}

// longID is the id that a short one means; "" where it means none.
func longID(short string) string {
	n, base := new(big.Int), big.NewInt(58)
	for _, r := range short {
		i := strings.IndexRune(digits58, r)
		if i < 0 || len(short) < 20 || len(short) > 22 { // shorter ones are names
			return ""
		}
		n.Add(n.Mul(n, base), big.NewInt(int64(i)))
	}
	var u uuid.UUID
	if n.Sign() == 0 || n.BitLen() > 128 {
		return ""
	}
	n.FillBytes(u[:])
	return u.String()
}

// projects reads the annotation.
func (c *client) projects(e *slipway.Entity) []string {
	var list []string
	for _, word := range provider.Words(e, Annotation) {
		switch strings.Count(word, "/") {
		case 1:
			word = "bitbucket/" + word // as Backstage has it
		case 3:
			host, rest, _ := strings.Cut(word, "/")
			if host = strings.ToLower(host); host != c.host && host != strings.TrimPrefix(c.web, "https://") {
				continue
			}
			word = rest
		}
		if slug, ok := canonical(word); ok && !slices.Contains(list, slug) {
			list = append(list, slug)
		}
	}
	return list
}

// path is a project's part of the API.
func path(project, rest string) (string, error) {
	slug, ok := canonical(project)
	if !ok {
		return "", slipway.Errorf(slipway.NotFound, "CircleCI has no project %q; write it as its settings do, such as github/owner/name", project)
	}
	return v2 + "/project/" + url.PathEscape(slug) + rest, nil
}

// person gives who has an id at CircleCI; nil where it shows nobody.
func (c *client) person(ctx context.Context, id string) (*slipway.Person, error) {
	if !isID(id) {
		return nil, nil
	}
	c.mu.Lock()
	p, known := c.people[id]
	c.mu.Unlock()
	if known {
		return p, nil
	}
	var u user
	_, err := c.api.JSON(ctx, provider.Request{Path: v2 + "/user/" + id}, &u)
	switch slipway.CodeOf(err) {
	case "":
		if u.Login != "" || u.Name != "" {
			p = &slipway.Person{ID: cmp.Or(u.Login, u.ID), Name: u.Name}
		}
	case slipway.NotFound, slipway.Forbidden, slipway.Invalid: // of a deleted account, or a bot
	default:
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.people) >= maxPeople {
		clear(c.people)
	}
	c.people[id] = p
	return p, nil
}

func isID(s string) bool {
	_, err := uuid.Parse(s)
	return err == nil && len(s) == 36
}
