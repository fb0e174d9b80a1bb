// Package azure is Azure Pipelines as a provider of builds, in Azure DevOps Services and Azure DevOps Server.
//
// Its README says what an operator sets up. A build is a build (a run of a pipeline); jobs that run again are the same one.
package azure

import (
	"context"
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

// The annotations that say what belongs to an entity.
const (
	RepoAnnotation       = "dev.azure.com/project-repo"     // project/repository
	ProjectAnnotation    = "dev.azure.com/project"          // project, with DefinitionAnnotation
	DefinitionAnnotation = "dev.azure.com/build-definition" // pipelines by name, alone or to narrow a repository
	OrgAnnotation        = "dev.azure.com/host-org"         // host/organisation, where there are several
)

// The annotations that say which account is a user's. An e-mail address in the profile does as well.
const (
	UserAnnotation  = "dev.azure.com/unique-name"
	EmailAnnotation = "microsoft.com/email"
)

// Kind is Azure Pipelines.
var Kind = provider.Kind{
	Name:   "azure",
	Text:   "Azure Pipelines, in Azure DevOps Services and Azure DevOps Server.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: RepoAnnotation, Project: true, Text: "The project and repository; several are separated by commas.", Example: "shop/web"},
		{Key: ProjectAnnotation, Project: true, Text: "The project of the pipelines that dev.azure.com/build-definition names.", Example: "shop"},
		{Key: DefinitionAnnotation, Text: "Names of pipelines, separated by commas: of dev.azure.com/project, or of all that builds the repository only these.", Example: "web-ci"},
		{Key: OrgAnnotation, Text: "The host and organisation, where there are several.", Example: "dev.azure.com/fabrikam"},
		{Key: UserAnnotation, Text: "On a user: the account's unique name, where it is no e-mail address.", Example: `FABRIKAM\jane`},
		{Key: EmailAnnotation, Text: "On a user: the address that the account signs in with, where the profile has another.", Example: "jane@fabrikam.example.com"},
	},
	Open: provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL            string                `json:"url" required:"true" doc:"Address of the organisation, https://dev.azure.com/NAME; of a collection for Azure DevOps Server, https://HOST/COLLECTION, with any path before it"`
	CACertificates provider.Certificates `json:"caCertificates" doc:"Certificates of authorities in PEM form that are trusted besides the system's, for a server with one of its own; ${file:/path} puts a file here"`
	Credential     provider.Credential   `json:"credential" doc:"A personal access token (secretText), or an account or an application (usernamePassword); none: public projects, only reading"`
	Tenant         string                `json:"tenant" doc:"Directory of Microsoft Entra ID; with it credential is an application: its client id and a client secret"`
	LoginURL       string                `json:"loginURL" default:"https://login.microsoftonline.com" doc:"Where an application gets its tokens; other clouds of Microsoft have others"`
	APIVersion     string                `json:"apiVersion" default:"7.1" doc:"Version of the API; older servers know older ones only"`
	WebhookSecret  provider.Secret       `json:"webhookSecret" doc:"Password of the service hooks; none: they are refused"`
	Interval       slipway.Duration      `json:"interval" default:"1m" doc:"How often a project is looked at; with service hooks it may be long"`
}

var (
	tenantName = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)
	apiVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
)

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	faults := provider.CheckURL("url", c.URL)
	if len(faults) == 0 {
		u, err := url.Parse(c.URL)
		if err != nil || !strings.HasSuffix(u.Host, ".visualstudio.com") && strings.Trim(u.Path, "/") == "" || u.Host == "dev.azure.com" && strings.Contains(strings.Trim(u.Path, "/"), "/") {
			faults = append(faults, slipway.Detail{Field: "url", Code: slipway.Invalid, Message: "must end with the organisation or collection, such as https://dev.azure.com/NAME"})
		}
	}
	faults = append(faults, provider.CheckURL("loginURL", c.LoginURL)...)
	faults = append(faults, c.Credential.Faults("credential", provider.SecretText, provider.UsernamePassword)...)
	if c.Tenant != "" && !tenantName.MatchString(c.Tenant) {
		faults = append(faults, slipway.Detail{Field: "tenant", Code: slipway.Invalid, Message: "must be the id or the domain of a directory"})
	}
	if c.Tenant != "" && c.Credential.Type != provider.UsernamePassword {
		faults = append(faults, slipway.Detail{Field: "credential.type", Code: slipway.Invalid, Message: "must be usernamePassword where there is a tenant: the application's client id and client secret"})
	}
	if !apiVersion.MatchString(c.APIVersion) {
		faults = append(faults, slipway.Detail{Field: "apiVersion", Code: slipway.Invalid, Message: "must be such as 7.1"})
	}
	return faults
}

// client is an organisation of Azure DevOps with a credential.
type client struct {
	cfg     Config
	api     *provider.Client
	entra   *entra // nil: a token, an account, or nothing
	base    *url.URL
	now     func() time.Time
	logPace time.Duration // between two looks at a log that is followed

	mu    sync.Mutex
	named map[string]naming
}

// naming is what a name meant when it was asked for: a repository's id, or ids of pipelines.
type naming struct {
	ids   string
	until time.Time
}

// Bounds of what is remembered of names. They may be given to something else.
const (
	namesLast = time.Hour
	maxNames  = 20_000
)

func newClient(cfg Config, env provider.Env) (*client, error) {
	env = env.Trusting(cfg.CACertificates)
	address := strings.TrimRight(cfg.URL, "/")
	base, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	base.Host = strings.ToLower(base.Host)
	c := &client{cfg: cfg, base: base, now: env.Clock(), logPace: 5 * time.Second, named: map[string]naming{}}
	if cfg.Tenant != "" {
		if c.entra, err = newEntra(cfg, env); err != nil {
			return nil, err
		}
	}
	env.HTTP = still(env.HTTP)
	c.api, err = provider.NewClient(env, provider.ClientOptions{
		Vendor: "Azure DevOps", URL: address, Authorize: c.authorize, Classify: classify, Limit: limit,
		// A server that is told so answers with 401 and not with a page to sign in on.
		Header: http.Header{"Accept": {"application/json"}, "X-Tfs-Fedauthredirect": {"Suppress"}},
	})
	return c, err
}

// still copies a client so that it follows no redirect: the API has none but to the page to sign in on.
func still(hc *http.Client) *http.Client {
	if hc == nil {
		hc = &http.Client{}
	}
	copied := *hc
	copied.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &copied
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects: c.projects,
		Accounts: func(e *slipway.Entity) []string {
			return slices.Compact(append(provider.Logins(e, UserAnnotation), provider.Logins(e, EmailAnnotation)...))
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

func (c *client) authorize(ctx context.Context, _ string) (provider.Authorization, error) {
	switch {
	case c.entra != nil:
		return c.entra.authorize(ctx)
	case c.cfg.Credential.Type == provider.SecretText:
		return show(c.cfg.Credential.Secret, "token "), nil
	}
	return c.cfg.Credential.Authorization(), nil
}

// show is how Azure takes a token: that of a person as a password without a name, one of Entra ID, which has three parts, as what it is.
func show(token provider.Secret, whose string) provider.Authorization {
	if strings.Count(string(token), ".") == 2 {
		return provider.Bearer(token, whose)
	}
	return provider.Basic("", token, whose+token.Fingerprint())
}

// limit reads Azure's headers. It asks to go slower with answers that are good, too.
func limit(h http.Header, now time.Time) provider.Limit {
	l := provider.EpochLimit(h, "X-Ratelimit-", now)
	l.Until = time.Time{} // when nothing remains, answers are late and no more; Retry-After says what is too much
	if wait := provider.RetryAfter(h, now); wait > 0 {
		l.Until = now.Add(wait)
	}
	return l
}

func signIn() *slipway.Error {
	return slipway.Errorf(slipway.Unauthenticated, "Azure DevOps asks to sign in: it does not accept the credential, or it has expired; set a valid `credential` for this provider")
}

// classify knows what Azure means by redirects, which lead to a page to sign in on.
func classify(r provider.Request, a provider.Answer) error {
	if a.Status >= 300 && a.Status < 400 {
		to := strings.ToLower(a.Header.Get("Location"))
		if strings.Contains(to, "_signin") || strings.Contains(to, "login.") {
			return signIn()
		}
	}
	if r.Method == http.MethodPatch && (a.Status == http.StatusBadRequest || a.Status == http.StatusMethodNotAllowed) {
		return slipway.Errorf(slipway.Conflict, "Azure DevOps refuses because of how things stand: %s", a.Message)
	}
	return nil
}

// call asks for JSON. 203 is a page to sign in on, whatever it holds. A token of an application that Azure stopped to accept before its time is replaced once.
func (c *client) call(ctx context.Context, r provider.Request, out any) (provider.Answer, error) {
	if r.Query == nil {
		r.Query = url.Values{}
	}
	if r.Query.Get("api-version") == "" {
		r.Query.Set("api-version", c.cfg.APIVersion)
	}
	for again := c.entra != nil && r.As == nil; ; again = false {
		a, err := c.api.JSON(ctx, r, out)
		if a.Status == http.StatusNonAuthoritativeInfo {
			err = signIn()
		}
		if !again || !errors.Is(err, slipway.Unauthenticated) || !c.entra.forget(ctx) {
			return a, err
		}
	}
}

// check asks who it is that asks, which every credential may.
func (c *client) check(ctx context.Context) error {
	_, err := c.inspect(ctx, "")
	return err
}

func (c *client) inspect(ctx context.Context, project string) (provider.Insight, error) {
	var said struct {
		User struct {
			ID   string `json:"id"`
			Name string `json:"providerDisplayName"`
			More struct {
				Account struct {
					Value string `json:"$value"`
				} `json:"Account"`
			} `json:"properties"`
		} `json:"authenticatedUser"`
	}
	_, err := c.call(ctx, provider.Request{Path: "/_apis/connectionData", Query: url.Values{"api-version": {c.cfg.APIVersion + "-preview"}}}, &said)
	if err == nil && said.User.ID == anonymous && c.cfg.Credential.Type != "" {
		err = signIn()
	}
	insight := provider.Insight{Account: said.User.More.Account.Value}
	if insight.Account == "" {
		insight.Account = said.User.Name
	}
	if err != nil || project == "" {
		return insight, err
	}
	s, err := readSource(project)
	if err == nil && s.repo != "" {
		if _, err = c.repository(ctx, s); errors.Is(err, slipway.Forbidden) || errors.Is(err, slipway.Unauthenticated) {
			insight.Lacks, err = append(insight.Lacks, "it may not read repositories, which are looked up by name; give it Code: Read"), nil
		}
	}
	return insight, err
}

// anonymous is who asks when nobody does.
const anonymous = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"

// access asks for a build as the holder of a token: builds are what is shown. Azure leaves out what one may not see, rather than refuse it, so that nothing at all is an answer only
// where there is nothing.
func (c *client) access(ctx context.Context, project string, token provider.Secret) error {
	s, err := readSource(project)
	if err != nil {
		return err
	}
	query, err := c.filter(ctx, s)
	if err != nil {
		return err
	}
	query.Set("$top", "1")
	count := func(as *provider.Authorization) (int, error) {
		var found struct {
			Value []struct{} `json:"value"`
		}
		_, err := c.call(ctx, provider.Request{Path: s.path("/build/builds"), Query: query, As: as}, &found)
		return len(found.Value), err
	}
	as := show(token, "caller ")
	if theirs, err := count(&as); err != nil || theirs > 0 {
		return err
	}
	ours, err := count(nil)
	if err == nil && ours > 0 {
		err = slipway.Errorf(slipway.Forbidden, "Azure DevOps shows no build of %s to whoever has this token", project)
	}
	return err
}

// source is what builds are shown of: those of a repository, of a pipeline, or of a pipeline with a repository.
type source struct{ project, repo, definition string }

// String is how a source is written everywhere: project/repository, project//pipeline, or all three.
func (s source) String() string {
	if s.definition == "" {
		return s.project + "/" + s.repo
	}
	return s.project + "/" + s.repo + "/" + s.definition
}

// path is a project's part of the API.
func (s source) path(rest string) string { return "/" + url.PathEscape(s.project) + "/_apis" + rest }

// name is what Azure takes for a project, a repository or a pipeline.
var name = regexp.MustCompile(`^[^\x00-\x1f/\\?%#<>|":*;]{1,256}$`)

func readSource(project string) (s source, err error) {
	parts := strings.Split(project, "/")
	ok := len(parts) == 2 || len(parts) == 3
	for i := 0; ok && i < len(parts); i++ {
		ok = name.MatchString(parts[i]) && strings.Trim(parts[i], ".") != "" || i == 1 && len(parts) == 3 && parts[i] == ""
	}
	if !ok {
		return s, slipway.Errorf(slipway.NotFound, "Azure DevOps has no project %q; write project/repository, or project//pipeline", project)
	}
	s.project, s.repo = parts[0], parts[1]
	if len(parts) == 3 {
		s.definition = parts[2]
	}
	return s, nil
}

// projects reads the annotations. Azure does not tell capital letters from small ones.
func (c *client) projects(e *slipway.Entity) []string {
	get := func(key string) string { return strings.ToLower(strings.TrimSpace(e.Metadata.Annotations[key])) }
	words := func(key string) (words []string) {
		for _, word := range provider.Words(e, key) {
			words = append(words, strings.ToLower(word))
		}
		return words
	}
	if org := strings.Trim(get(OrgAnnotation), "/"); org != "" && !c.isOrg(org) {
		return nil
	}
	definitions := words(DefinitionAnnotation)
	var list []string
	add := func(project, repo string) {
		all := definitions
		if len(all) == 0 {
			all = []string{""}
		}
		for _, d := range all {
			s := source{project, repo, d}.String()
			if _, err := readSource(s); err == nil && !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
	}
	if project := get(ProjectAnnotation); project != "" && len(definitions) > 0 {
		add(project, "") // wherever their source lies
		return list
	}
	for _, word := range words(RepoAnnotation) {
		if project, repo, ok := strings.Cut(word, "/"); ok && repo != "" {
			add(project, repo)
		}
	}
	return list
}

// isOrg says whether host/organisation is this one, which Azure writes in two ways.
func (c *client) isOrg(org string) bool {
	here := c.base.Host + strings.ToLower(c.base.Path)
	if name, ok := strings.CutSuffix(c.base.Host, ".visualstudio.com"); ok {
		here = "dev.azure.com/" + name
	}
	if host, _, _ := strings.Cut(org, "/"); strings.HasSuffix(host, ".visualstudio.com") {
		org = "dev.azure.com/" + strings.TrimSuffix(host, ".visualstudio.com")
	}
	return org == here
}

// filter says which builds a source means, by the ids of what it names.
func (c *client) filter(ctx context.Context, s source) (url.Values, error) {
	query := url.Values{}
	if s.repo != "" {
		id, err := c.repository(ctx, s)
		if err != nil {
			return nil, err
		}
		query.Set("repositoryId", id)
		query.Set("repositoryType", "TfsGit")
	}
	if s.definition != "" {
		ids, err := c.definitions(ctx, s)
		if err != nil {
			return nil, err
		}
		query.Set("definitions", ids)
	}
	return query, nil
}

// remember asks for what a name means, once an hour.
func (c *client) remember(key string, ask func() (string, error)) (string, error) {
	c.mu.Lock()
	n, known := c.named[key]
	c.mu.Unlock()
	if known && c.now().Before(n.until) {
		return n.ids, nil
	}
	ids, err := ask()
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.named) >= maxNames {
		clear(c.named)
	}
	c.named[key] = naming{ids, c.now().Add(namesLast)}
	return ids, nil
}

func (c *client) repository(ctx context.Context, s source) (string, error) {
	return c.remember("repository "+s.project+"/"+s.repo, func() (string, error) {
		var found struct {
			ID string `json:"id"`
		}
		_, err := c.call(ctx, provider.Request{Path: s.path("/git/repositories/" + url.PathEscape(s.repo))}, &found)
		if err == nil && found.ID == "" {
			err = c.api.Strange(errors.New("the repository has no id"))
		}
		if err != nil {
			return "", fmt.Errorf("repository %s of %s: %w", s.repo, s.project, err)
		}
		return found.ID, nil
	})
}

// definition is a pipeline.
type definition struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	Path string `json:"path"` // the folder
}

// definitions gives the ids of the pipelines of a name, of which each folder may have one.
func (c *client) definitions(ctx context.Context, s source) (string, error) {
	return c.remember("pipeline "+s.project+"/"+s.definition, func() (string, error) {
		all, err := c.listDefinitions(ctx, s, url.Values{"name": {s.definition}})
		if err != nil {
			return "", err
		}
		var ids []string
		for _, d := range all {
			if strings.EqualFold(d.Name, s.definition) {
				ids = append(ids, fmt.Sprint(d.ID))
			}
		}
		if len(ids) == 0 {
			return "", slipway.Errorf(slipway.NotFound, "project %s has no pipeline %q, or does not show it to the provider's credential", s.project, s.definition)
		}
		return strings.Join(ids, ","), nil
	})
}

func (c *client) listDefinitions(ctx context.Context, s source, query url.Values) ([]definition, error) {
	query.Set("$top", "100")
	var found struct {
		Value []definition `json:"value"`
	}
	_, err := c.call(ctx, provider.Request{Path: s.path("/build/definitions"), Query: query}, &found)
	if err == nil && found.Value == nil {
		err = c.api.Strange(errors.New("there is no value"))
	}
	if err != nil {
		return nil, fmt.Errorf("pipelines of %s: %w", s.project, err)
	}
	return found.Value, nil
}
