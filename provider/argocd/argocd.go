// Package argocd is Argo CD as a provider of deployments, each a sync of an application.
//
// Its README says what an operator sets up. Argo CD keeps the last ten syncs of an application that went well, and of those that failed only the very last; the index of
// deployments keeps what it has seen.
package argocd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Annotations that Backstage's users have, for its Argo CD plugins.
const (
	NameAnnotation      = "argocd/app-name"
	SelectorAnnotation  = "argocd/app-selector"
	NamespaceAnnotation = "argocd/app-namespace"
	ProjectAnnotation   = "argocd/project-name"
	InstanceAnnotation  = "argocd/instance-name"
)

// Kind is Argo CD.
var Kind = provider.Kind{
	Name:   "argocd",
	Text:   "Argo CD: the syncs of applications are deployments.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: NameAnnotation, Project: true, Text: "The application; several are separated by commas.", Example: "web-prod, web-staging"},
		{Key: SelectorAnnotation, Project: true, Text: "Label selector of the applications.", Example: "app.kubernetes.io/name=web"},
		{Key: NamespaceAnnotation, Text: "Namespace of the application, where it is not Argo CD's own.", Example: "shop"},
		{Key: ProjectAnnotation, Text: "Argo CD's project: only applications of it are meant.", Example: "shop"},
		{Key: InstanceAnnotation, Text: "Which Argo CD, where there are several: `instance` of the provider, or its name. Several are separated by commas; none: all.", Example: "main"},
	},
	Open: provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL            string                `json:"url" required:"true" doc:"Address of the Argo CD server, with any path before it, as people use it"`
	CACertificates provider.Certificates `json:"caCertificates" doc:"Certificates of authorities in PEM form that are trusted besides the system's, for a server with one of its own; ${file:/path} puts a file here"`
	Credential     provider.Credential   `json:"credential" doc:"A token (secretText) of an account with apiKey, or of a project's role; none: what Argo CD shows to anybody"`
	WebhookSecret  provider.Secret       `json:"webhookSecret" doc:"What notifications bring as bearer token; none: they are refused"`
	Instance       string                `json:"instance" doc:"What the annotation argocd/instance-name calls this Argo CD; empty: the provider's name"`
	Environment    provider.Template     `json:"environment" doc:"Where an application deploys to: a text with {name} of the application, {project}, {cluster} and {namespace} of its destination, {label:KEY} of the application. Empty: the label environment, else how the name ends (web-prod), else the namespace of the destination, else its cluster"`
	Interval       slipway.Duration      `json:"interval" default:"30s" doc:"How often applications are looked at: one request"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	faults := append(provider.CheckURL("url", c.URL), c.Credential.Faults("credential", provider.SecretText)...)
	return append(faults, c.Environment.Faults("environment", "name", "project", "cluster", "namespace", "label:")...)
}

// client is an Argo CD with a credential.
type client struct {
	cfg      Config
	api      *provider.Client
	web      string // where people look
	instance string
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	env = env.Trusting(cfg.CACertificates)
	c := &client{cfg: cfg, web: strings.TrimRight(cfg.URL, "/"), instance: cmp.Or(cfg.Instance, env.Name)}
	var err error
	c.api, err = provider.NewClient(env, provider.ClientOptions{
		Vendor: "Argo CD", URL: c.web + "/api", Authorize: c.authorize, Classify: classify, Header: http.Header{"Accept": {"application/json"}},
	})
	return c, err
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects:    c.projects,
		Interval:    c.cfg.Interval.Std(),
		Deployments: &provider.Deployments{List: c.list, Get: c.get},
		Webhook:     &provider.Webhook{Verify: c.verify, Parse: parse},
		Check:       c.check,
		Inspect:     c.inspect,
		Access:      c.access,
	}
}

func (c *client) authorize(context.Context, string) (provider.Authorization, error) {
	return c.cfg.Credential.Authorization(), nil
}

// classify knows that Argo CD hides whether there is an application from whoever may not see it, and that it answers 500 for a commit that its repository server cannot find.
func classify(r provider.Request, a provider.Answer) error {
	one := strings.HasPrefix(r.Path, applications+"/")
	switch {
	case one && a.Status == http.StatusForbidden:
		return slipway.Errorf(slipway.NotFound, "Argo CD has no such application, or does not show it to the provider's credential; grant it `applications, get`")
	case one && strings.Contains(r.Path, "/revisions/") && (a.Status == http.StatusInternalServerError || a.Status == http.StatusBadRequest):
		return slipway.Errorf(slipway.NotFound, "Argo CD does not find the commit")
	}
	return nil
}

// check asks who we are.
func (c *client) check(ctx context.Context) error {
	_, err := c.account(ctx)
	return err
}

// account is whose our credential is. Argo CD answers to strangers, too.
func (c *client) account(ctx context.Context) (string, error) {
	var who struct {
		LoggedIn bool   `json:"loggedIn"`
		Username string `json:"username"`
	}
	_, err := c.api.JSON(ctx, provider.Request{Path: "/v1/session/userinfo"}, &who)
	switch {
	case err != nil:
		return "", err
	case !who.LoggedIn && c.cfg.Credential.Type == "":
		return "nobody", nil
	case !who.LoggedIn:
		return "", slipway.Errorf(slipway.Unauthenticated, "Argo CD does not accept the credential; set a valid `credential` for this provider")
	}
	return who.Username, nil
}

// inspect asks whose the credential is, and whether anything is shown to it: Argo CD leaves out of lists what is not.
func (c *client) inspect(ctx context.Context, text string) (in provider.Insight, err error) {
	if in.Account, err = c.account(ctx); err != nil {
		return in, err
	}
	p, err := find(text)
	if err != nil {
		return in, err
	}
	apps, err := c.applications(ctx, p, nil)
	if err == nil && len(apps) == 0 {
		in.Lacks = append(in.Lacks, "no application has these labels, or Argo CD shows none of them to "+in.Account+"; grant it `applications, get`")
	}
	return in, err
}

// access asks for the applications as the holder of a token: their syncs are what is shown.
func (c *client) access(ctx context.Context, text string, token provider.Secret) error {
	p, err := find(text)
	if err != nil {
		return err
	}
	as := provider.Bearer(token, "caller ")
	apps, err := c.applications(ctx, p, &as)
	if err == nil && len(apps) == 0 {
		err = slipway.Errorf(slipway.NotFound, "Argo CD shows none of these applications")
	}
	return err
}

// project is which applications are meant: the one of a name, or those with labels; in a namespace, in one of Argo CD's projects. In a project's text they stand as
// namespace/name@project and namespace/selector:labels@project; what is not said is left out.
type project struct {
	namespace, name, selector, of string
}

const selectorMark = "selector:"

func (p project) String() string {
	text := cmp.Or(p.name, selectorMark+p.selector)
	if p.namespace != "" {
		text = p.namespace + "/" + text
	}
	if p.of != "" {
		text += "@" + p.of
	}
	return text
}

// subdomain is what applications and Argo CD's projects are called.
var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// projects reads what an entity's annotations say.
func (c *client) projects(e *slipway.Entity) []string {
	var list []string
	if in := provider.Words(e, InstanceAnnotation); len(in) > 0 && !slices.Contains(in, c.instance) {
		return nil
	}
	p := project{namespace: strings.TrimSpace(e.Metadata.Annotations[NamespaceAnnotation]), of: strings.TrimSpace(e.Metadata.Annotations[ProjectAnnotation])}
	if p.namespace != "" && !provider.NamespaceName(p.namespace) || p.of != "" && !subdomain.MatchString(p.of) {
		return nil
	}
	for _, p.name = range provider.Words(e, NameAnnotation) {
		if text := p.String(); subdomain.MatchString(p.name) && !slices.Contains(list, text) {
			list = append(list, text)
		}
	}
	p.name = ""
	if text, err := url.QueryUnescape(e.Metadata.Annotations[SelectorAnnotation]); err == nil { // one of the plugins wants it escaped
		var ok bool
		if p.selector, ok = provider.Selector(text); ok {
			list = append(list, p.String())
		}
	}
	return list
}

// find reads a project's text.
func find(text string) (p project, err error) {
	rest, of, limited := strings.Cut(text, "@")
	p.of = of
	before, selector, labelled := strings.Cut(rest, selectorMark)
	if labelled {
		p.selector = selector
		p.namespace = strings.TrimSuffix(before, "/")
	} else if namespace, name, ok := strings.Cut(rest, "/"); ok {
		p.namespace, p.name = namespace, name
	} else {
		p.name = rest
	}
	if _, ok := provider.Selector(p.selector); labelled && !ok || limited && !subdomain.MatchString(of) || !labelled && !subdomain.MatchString(p.name) || p.namespace != "" && !provider.NamespaceName(p.namespace) || p.String() != text {
		return p, slipway.Errorf(slipway.NotFound, "%.100q names no applications of Argo CD", text)
	}
	return p, nil
}

const applications = "/v1/applications"

// applications asks for the applications of a project, as somebody else or, with nil, as ourselves.
func (c *client) applications(ctx context.Context, p project, as *provider.Authorization) ([]application, error) {
	query := url.Values{}
	for key, value := range map[string]string{"appNamespace": p.namespace, "project": p.of, "selector": p.selector} {
		if value != "" {
			query.Set(key, value)
		}
	}
	if p.name != "" {
		var app application
		_, err := c.api.JSON(ctx, provider.Request{Path: applications + "/" + p.name, Query: query, As: as}, &app)
		if err == nil && app.Metadata.Name != p.name {
			err = c.api.Strange(errors.New("it is another application"))
		}
		return []application{app}, err
	}
	var list struct {
		Metadata *struct{}     `json:"metadata"`
		Items    []application `json:"items"`
	}
	_, err := c.api.JSON(ctx, provider.Request{Path: applications, Query: query, As: as}, &list)
	if err == nil && list.Metadata == nil {
		err = c.api.Strange(errors.New("there is no list of applications"))
	}
	return list.Items, err
}

func (c *client) list(ctx context.Context, text string, o provider.ListOptions) (page provider.Page[slipway.Deployment], err error) {
	p, all, err := c.syncs(ctx, text)
	if err != nil {
		return page, fmt.Errorf("syncs of %s: %w", text, err)
	}
	of := map[string]synced{}
	list := make([]slipway.Deployment, len(all))
	for i, s := range all {
		list[i] = c.deployment(p, s)
		of[list[i].ID] = s
	}
	page, err = provider.Whole(list, func(d slipway.Deployment) (time.Time, string) { return d.CreatedAt, d.ID }, o)
	page.Complete = func(ctx context.Context, d slipway.Deployment) (slipway.Deployment, error) {
		return c.complete(ctx, of[d.ID], d)
	}
	return page, err
}

func (c *client) get(ctx context.Context, text, id string) (slipway.Deployment, error) {
	p, all, err := c.syncs(ctx, text)
	if err != nil {
		return slipway.Deployment{}, err
	}
	for _, s := range all {
		if d := c.deployment(p, s); d.ID == id {
			return c.complete(ctx, s, d)
		}
	}
	return slipway.Deployment{}, slipway.Errorf(slipway.NotFound, "Argo CD has no sync %.100q of %s, or not any more", id, text)
}

// syncs reads all that Argo CD has of the syncs of a project.
func (c *client) syncs(ctx context.Context, text string) (p project, all []synced, err error) {
	if p, err = find(text); err != nil {
		return p, nil, err
	}
	apps, err := c.applications(ctx, p, nil)
	for i := range apps {
		all = append(all, apps[i].syncs()...)
	}
	return p, all, err
}

// complete adds what the repository says of the commit, where Argo CD can still find it.
func (c *client) complete(ctx context.Context, s synced, d slipway.Deployment) (slipway.Deployment, error) {
	if d.Commit == nil {
		return d, nil
	}
	query := url.Values{"appNamespace": {s.app.Metadata.Namespace}}
	if _, source := s.content.commit(); len(s.content.Sources) > 0 {
		query.Set("sourceIndex", strconv.Itoa(source))
	}
	var said struct {
		Author  string `json:"author"`
		Message string `json:"message"`
	}
	_, err := c.api.JSON(ctx, provider.Request{Path: applications + "/" + url.PathEscape(s.app.Metadata.Name) + "/revisions/" + url.PathEscape(d.Commit.SHA) + "/metadata", Query: query}, &said)
	if errors.Is(err, slipway.NotFound) || errors.Is(err, slipway.Invalid) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	commit := *d.Commit
	commit.Message = provider.FirstLine(said.Message)
	name, _, _ := strings.Cut(said.Author, "<")
	commit.Author = cmp.Or(strings.TrimSpace(name), strings.TrimSpace(said.Author))
	d.Commit = &commit
	return d, nil
}
