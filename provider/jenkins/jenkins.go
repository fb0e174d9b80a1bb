// Package jenkins is Jenkins as a provider of builds: jobs and pipelines, and all that lies in a folder, a multibranch project or an organization folder.
//
// Its README says what an operator sets up. A project is the full name of a job or of what holds jobs; a build's id is the full name of its job, a #, and its number.
// What Jenkins does was read in its own sources, and is played by package jenkinstest.
package jenkins

import (
	"cmp"
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

// Where entities name their job, or several, separated by commas: [instance:]folder/job. OldAnnotation is read where there is no Annotation.
const (
	Annotation    = "jenkins.io/job-full-name"
	OldAnnotation = "jenkins.io/github-folder"
)

// URLAnnotation is where entities name the address of their Jenkins, in the place of an instance.
const URLAnnotation = "jenkins.io/override-base-url"

// UserAnnotation is where user entities name their account.
const UserAnnotation = "jenkins.io/user-id"

// Kind is Jenkins.
var Kind = provider.Kind{
	Name:   "jenkins",
	Text:   "Jenkins: jobs, pipelines, folders and multibranch projects.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: Annotation, Project: true, Text: "The full name of the job, or of the folder or multibranch project whose jobs are meant; several are separated by commas. A name and a colon before it say which Jenkins is meant where there are several.", Example: "main:shop/web"},
		{Key: OldAnnotation, Project: true, Text: "What it was called before; read where the other is absent.", Example: "shop/web"},
		{Key: URLAnnotation, Text: "The address of the Jenkins that is meant, in the place of a name.", Example: "https://jenkins.example.com"},
		{Key: UserAnnotation, Text: "On a user: the id at Jenkins.", Example: "jane"},
	},
	Open: provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL            string                `json:"url" required:"true" doc:"Address of Jenkins, with any path before it, as people use it"`
	CACertificates provider.Certificates `json:"caCertificates" doc:"Certificates of authorities in PEM form that are trusted besides the system's, for a server with one of its own; ${file:/path} puts a file here"`
	Credential     provider.Credential   `json:"credential" doc:"An account with an API token in the place of its password (usernamePassword); none: what everybody may see, only reading"`
	Instance       string                `json:"instance" doc:"What annotations call this Jenkins, as in main:shop/web; none: the provider's name"`
	Default        bool                  `json:"default" default:"true" doc:"Whether annotations that name no instance mean this Jenkins; with several, false for all but one"`
	Unstable       string                `json:"unstable" default:"succeeded" doc:"What a build is that ended UNSTABLE, as with warnings or failed tests: succeeded or failed"`
	WebhookSecret  provider.Secret       `json:"webhookSecret" doc:"Password that webhooks bring; none: webhooks are refused"`
	Interval       slipway.Duration      `json:"interval" default:"1m" doc:"How often a job is looked at; with webhooks it may be long"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	faults := append(provider.CheckURL("url", c.URL), c.Credential.Faults("credential", provider.UsernamePassword)...)
	if c.Unstable != string(slipway.BuildSucceeded) && c.Unstable != string(slipway.BuildFailed) {
		faults = append(faults, slipway.Detail{Field: "unstable", Code: slipway.Invalid, Message: "must be one of: succeeded, failed"})
	}
	if strings.ContainsAny(c.Instance, ":,/") {
		faults = append(faults, slipway.Detail{Field: "instance", Code: slipway.Invalid, Message: "must be a name without : , and /"})
	}
	return faults
}

// client is a Jenkins with a credential.
type client struct {
	cfg      Config
	api      *provider.Client
	base     string // where people look, without a slash at the end
	instance string
	now      func() time.Time

	logPace  time.Duration // between two looks at a log that is followed
	pace     time.Duration // before the first look for a build that was asked for; the next ones wait longer
	patience int           // how often it is looked for
	window   int           // how many of each job's newest builds a folder is read with at most

	mu       sync.Mutex
	session  session
	noStages time.Time // until then Jenkins is not asked again for the stages of pipelines
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	env = env.Trusting(cfg.CACertificates)
	c := &client{
		cfg: cfg, base: strings.TrimRight(cfg.URL, "/"), instance: cmp.Or(cfg.Instance, env.Name), now: env.Clock(),
		logPace: time.Second, pace: 200 * time.Millisecond, patience: 8, window: maxWindow,
	}
	var err error
	c.api, err = provider.NewClient(env, provider.ClientOptions{
		Vendor: "Jenkins", URL: c.base, Authorize: c.authorize, Classify: c.classify,
		Header: http.Header{"Accept": {"application/json, */*;q=0.5"}, "Accept-Language": {"en"}}, // causes are told in the reader's language
	})
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
		Webhook: &provider.Webhook{Verify: c.verify, Parse: parse},
		Check:   c.check,
		Inspect: c.inspect,
		Access:  c.access,
	}
}

func (c *client) authorize(context.Context, string) (provider.Authorization, error) {
	return c.cfg.Credential.Authorization(), nil
}

// errNoCrumb is the cause of what Jenkins refuses because a crumb is missing, or is that of a session that has ended.
var errNoCrumb = errors.New("no valid crumb was included in the request")

// noCrumb finds it in the answer. Every page of Jenkins holds the word crumb.
var noCrumb = regexp.MustCompile(`(?i)no valid crumb`)

// classify reads what Jenkins says in headers: its bodies are pages for people.
func (c *client) classify(r provider.Request, a provider.Answer) error {
	permission := permissionName(a.Header.Get("X-Required-Permission"))
	switch a.Status {
	case http.StatusForbidden:
		switch {
		case c.cfg.Credential.Type == "" && r.As == nil:
			return slipway.Errorf(slipway.Unauthenticated, "Jenkins does not show this to everybody; set `credential` for this provider")
		case permission != "":
			return slipway.Errorf(slipway.Forbidden, "Jenkins does not allow this to the provider's account; give it the permission %s", permission)
		case r.Method == http.MethodPost && noCrumb.Match(a.Body):
			return slipway.Errorf(slipway.Forbidden, "Jenkins wants a crumb and did not take ours; use an API token in the place of the account's password").WithCause(errNoCrumb)
		}
	case http.StatusConflict:
		return slipway.Errorf(slipway.Conflict, "Jenkins cannot build this job now: it is disabled, or its folder is being deleted")
	case http.StatusBadRequest:
		if says := a.Header.Get("X-Error"); says != "" {
			return slipway.Errorf(slipway.Invalid, "Jenkins refuses the request: %s", provider.Clip(says))
		}
	case http.StatusMethodNotAllowed:
		return slipway.Errorf(slipway.Invalid, "Jenkins does not take this request; check that `url` is its final address: a redirect makes a GET of a POST")
	}
	return nil
}

// permissionName is what people know a permission by: hudson.model.Item.Build is Job/Build.
func permissionName(id string) string {
	parts := strings.Split(id, ".")
	if len(parts) < 2 {
		return ""
	}
	owner := map[string]string{"Hudson": "Overall", "Jenkins": "Overall", "Item": "Job"}
	last := parts[len(parts)-2]
	return provider.Clip(cmp.Or(owner[last], last) + "/" + parts[len(parts)-1])
}

// ask asks for JSON. What is a page to sign in on instead, be it Jenkins' or that of whoever guards it, is Unauthenticated.
func (c *client) ask(ctx context.Context, r provider.Request, out any) (provider.Answer, error) {
	a, err := c.api.JSON(ctx, r, out)
	if errors.Is(err, slipway.Unavailable) && a.Status == http.StatusOK && signIn.Match(a.Body) && strings.Contains(a.Header.Get("Content-Type"), "html") {
		err = slipway.Errorf(slipway.Unauthenticated, "Jenkins answers with a page to sign in on; set a valid `credential`, and a `url` that programs may use").WithCause(err)
	}
	return a, err
}

var signIn = regexp.MustCompile(`(?i)j_spring_security_check|securityRealm|type=["']?password|sign[ -]?in|log[ -]?in`)

// who is whom Jenkins takes us for.
type who struct {
	Name      string `json:"name"`
	Anonymous bool   `json:"anonymous"`
}

func (c *client) whoAmI(ctx context.Context) (w who, err error) {
	a, err := c.ask(ctx, provider.Request{Path: "/whoAmI/api/json"}, &w)
	switch {
	case errors.Is(err, slipway.NotFound):
		return w, slipway.Errorf(slipway.NotFound, "there is no Jenkins at `url`; give its address with any path before it").WithCause(err)
	case err != nil:
		return w, err
	case a.Header.Get("X-Jenkins") == "" && w.Name == "":
		return w, c.api.Strange(errors.New("neither X-Jenkins nor a name"))
	case w.Anonymous && c.cfg.Credential.Type != "":
		return w, slipway.Errorf(slipway.Unauthenticated, "Jenkins did not look at the credential; a proxy before it may take it away")
	}
	return w, nil
}

// check asks whom Jenkins takes us for, which needs no permission, and then for what needs Overall/Read.
func (c *client) check(ctx context.Context) error {
	if _, err := c.whoAmI(ctx); err != nil {
		return err
	}
	_, err := c.ask(ctx, provider.Request{Path: "/api/json", Query: url.Values{"tree": {"mode"}}}, &struct{}{})
	return err
}

// inspect tells whose the credential is. What it may do with a job, Jenkins tells only when it is done.
func (c *client) inspect(ctx context.Context, project string) (provider.Insight, error) {
	w, err := c.whoAmI(ctx)
	if err != nil {
		return provider.Insight{}, err
	}
	in := provider.Insight{Account: w.Name}
	if w.Anonymous {
		in.Lacks = append(in.Lacks, "nothing can be started, run again or canceled without an account; set `credential`")
	}
	if project == "" {
		return in, nil
	}
	_, err = c.ask(ctx, provider.Request{Path: jobPath(project) + "/api/json", Query: url.Values{"tree": {"fullName"}}}, &struct{}{})
	if errors.Is(err, slipway.Forbidden) || errors.Is(err, slipway.NotFound) {
		in.Lacks, err = append(in.Lacks, "the job is not there, or its account lacks the permission Job/Read on it"), nil
	}
	return in, err
}

// access asks for the job as the holder of an API token, which is written with its user before it: jane:11d0… In what holds jobs, Jenkins leaves out those that one may not see: who
// does not see them all sees none of them here.
func (c *client) access(ctx context.Context, project string, token provider.Secret) error {
	if _, err := fullName(project); err != nil {
		return err
	}
	user, password, ok := strings.Cut(string(token), ":")
	if !ok || user == "" || password == "" {
		return slipway.Errorf(slipway.Unauthenticated, "an API token of Jenkins is sent with its user: <user>:<token>")
	}
	as := provider.Basic(user, provider.Secret(password), "caller "+token.Fingerprint())
	theirs, holds, err := c.jobsIn(ctx, project, &as)
	if err != nil || !holds {
		return err
	}
	ours, _, err := c.jobsIn(ctx, project, nil)
	if err != nil {
		return err
	}
	for name := range ours {
		if !theirs[name] {
			return slipway.Errorf(slipway.Forbidden, "Jenkins does not show all jobs in %s to this account", project)
		}
	}
	return nil
}

// jobsIn gives the names of a project and of what lies in it. holds: it is of the kind that holds jobs.
func (c *client) jobsIn(ctx context.Context, project string, as *provider.Authorization) (names map[string]bool, holds bool, err error) {
	var found item
	_, err = c.ask(ctx, provider.Request{Path: jobPath(project) + "/api/json", Query: url.Values{"tree": {tree("name", "name")}}, As: as}, &found)
	if err == nil && found.FullName == "" {
		err = c.api.Strange(errors.New("the job has no name"))
	}
	names = map[string]bool{}
	for job := range found.all {
		names[job.FullName] = true
	}
	return names, found.Jobs != nil, err
}

// projects reads the annotations.
func (c *client) projects(e *slipway.Entity) []string {
	value := cmp.Or(e.Metadata.Annotations[Annotation], e.Metadata.Annotations[OldAnnotation])
	at := e.Metadata.Annotations[URLAnnotation]
	if at != "" && !sameAddress(at, c.base) {
		return nil
	}
	var list []string
	for word := range strings.SplitSeq(value, ",") {
		instance, name, named := strings.Cut(strings.TrimSpace(word), ":")
		ours := c.cfg.Default || at != ""
		if named {
			ours = strings.EqualFold(strings.TrimSpace(instance), c.instance) || ours && strings.EqualFold(instance, "default") // what Backstage calls the one without a name
		} else {
			name = instance
		}
		if name, err := fullName(name); ours && err == nil && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	// What lies in another that is named belongs to it already.
	return slices.DeleteFunc(slices.Clone(list), func(name string) bool {
		return slices.ContainsFunc(list, func(other string) bool { return strings.HasPrefix(name, other+"/") })
	})
}

func sameAddress(a, b string) bool {
	return strings.EqualFold(strings.TrimRight(strings.TrimSpace(a), "/"), b)
}

// fullName gives the one spelling of a full name, or NotFound for what is none. Jenkins does not tell capital letters from small ones. A branch stands in it as Jenkins names its
// job: feature%2Fx.
func fullName(name string) (string, error) {
	name = strings.ToLower(strings.Trim(strings.TrimSpace(name), "/"))
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || part != strings.TrimSpace(part) || strings.ContainsFunc(part, neverInNames) {
			return "", slipway.Errorf(slipway.NotFound, "Jenkins has no job %q; write its full name, such as folder/job", provider.Clip(name))
		}
	}
	return name, nil
}

// neverInNames says what neither a person nor a branch can bring into the name of a job.
func neverInNames(r rune) bool {
	return strings.ContainsRune(`#?[]\`, r) || r < ' ' || r == 0x7f || r == '\uFFFD'
}

// jobPath is where a job with a full name is found.
func jobPath(name string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(name, "/") {
		b.WriteString("/job/" + url.PathEscape(part))
	}
	return b.String()
}

// branchName is the name of the branch whose job has a name: there, what would part a path in pieces is escaped.
func branchName(job string) string {
	if name, err := url.PathUnescape(job); err == nil {
		return name
	}
	return job
}

// buildID names a build, and splitID reads the name back: that of a build of the project, or of a job in it.
func buildID(job string, number int64) string { return fmt.Sprintf("%s#%d", job, number) }

func splitID(project, id string) (job string, number int64, err error) {
	project, err = fullName(project)
	if err != nil {
		return "", 0, err
	}
	at := strings.LastIndexByte(id, '#')
	if at > 0 {
		job = id[:at]
		_, err = fmt.Sscanf(id[at:], "#%d", &number)
	}
	name, bad := fullName(job)
	if at <= 0 || err != nil || bad != nil || number <= 0 || buildID(job, number) != id || name != project && !strings.HasPrefix(name, project+"/") {
		return "", 0, slipway.Errorf(slipway.NotFound, "Jenkins has no build %q of %s; its ids are such as %s#7", provider.Clip(id), project, project)
	}
	return job, number, nil
}

func buildPath(job string, number int64, rest string) string {
	return fmt.Sprintf("%s/%d%s", jobPath(job), number, rest)
}
