// Package fake is a vendor that lives in memory and behaves like a real one: projects with builds, cursors that stay stable while
// new builds arrive, conditional requests, retrigger, start, cancel, growing logs, signed webhooks, and faults that can be switched on.
// It passes the conformance suite, which is why tests and demonstrations may trust it.
package fake

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Annotation is where entities name their projects, separated by commas.
const Annotation = "slipway.dev/fake-project"

// UserAnnotation is where user entities name their account.
const UserAnnotation = "slipway.dev/fake-login"

// SignatureHeader carries "sha256=" and the hex HMAC-SHA256 of the body.
const SignatureHeader = "X-Fake-Signature"

// Config is what the configuration may say about a fake vendor.
type Config struct {
	WebhookSecret string           `json:"webhookSecret" doc:"Secret that webhooks are signed with; none: webhooks are refused"`
	Pace          slipway.Duration `json:"pace" doc:"How long a build that was started or retriggered waits, and then runs, before it succeeds by itself; 0: it stays where the test puts it"`
	NewIDs        bool             `json:"newIds" doc:"A retrigger makes a new build instead of a further attempt"`
}

// Kind is the fake vendor as the configuration knows it: an empty one for each provider.
var Kind = provider.Kind{
	Name:        "fake",
	Text:        "A vendor in memory, for tests and demonstrations; it forgets everything when the process ends.",
	Config:      Config{},
	Annotations: []provider.Annotation{{Key: Annotation, Project: true, Spaces: true, Text: "Projects at the fake vendor, separated by commas.", Example: "octo/hello"}, provider.ToolProjects},
	Open: provider.Opening(func(cfg Config, env provider.Env) (*Vendor, error) {
		v := New(cfg)
		v.Now = env.Clock()
		return v, nil
	}),
}

// Fault is what is wrong with a vendor.
type Fault string

// The faults.
const (
	None    Fault = ""
	Down    Fault = "down"    // every call fails at once
	Hang    Fault = "hang"    // no call returns before its context ends, or the fault does
	Limited Fault = "limited" // every call is refused until some time has passed
)

// Vendor is the vendor's side. Safe for concurrent use.
type Vendor struct {
	// Now is the clock; set it before first use.
	Now func() time.Time
	cfg Config

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	projects map[string]*project
	fault    Fault
	serial   int64
	good     int // requests that are still answered before the next fault is on; 0: there is none
	next     Fault
	lists    int // list requests, and those of them that were answered with "not modified"
	unmoved  int
	extra    map[string]any
	parts    bool                // lists show builds in part
	details  int                 // how often one was completed
	members  map[string][]string // projects that the holder of a token may see, by token
	asked    int                 // how often somebody's access was checked
	tools    tools
	paced    []paced // that have not ended
}

type project struct {
	builds   []*build // by arrival
	revision int
	replaced []string // ids of builds that others have taken the place of

	deployments []slipway.Deployment // by arrival
}

type build struct {
	slipway.Build
	serial int64
	log    strings.Builder
	auto   bool // moves by the clock
}

// New makes a vendor with no projects.
func New(cfg Config) *Vendor {
	return &Vendor{Now: time.Now, cfg: cfg, changed: make(chan struct{}), projects: map[string]*project{}, tools: newTools()}
}

// Kind is Kind, opening this vendor every time.
func (v *Vendor) Kind() provider.Kind {
	k := Kind
	k.Open = func(context.Context, json.RawMessage, provider.Env) (*provider.Provider, error) {
		return v.Provider(), nil
	}
	return k
}

// Provider is how Slipway sees the vendor.
func (v *Vendor) Provider() *provider.Provider {
	return &provider.Provider{
		Projects: func(e *slipway.Entity) []string {
			all := provider.Words(e, Annotation)
			if project, ok := provider.ToolProject(e); ok {
				all = append(all, project)
			}
			return all
		},
		Accounts: func(e *slipway.Entity) []string { return provider.Words(e, UserAnnotation) },
		Builds: &provider.Builds{
			List: v.list, Get: v.get, Retrigger: v.retrigger, Start: v.start, Cancel: v.cancel, Logs: v.logs,
		},
		Builder:     v.builder(),
		Runner:      v.runner(),
		Deployments: &provider.Deployments{List: v.listDeployments, Get: v.getDeployment},
		Webhook:     &provider.Webhook{Verify: v.verify, Parse: parse},
		Check:       func(ctx context.Context) error { return v.call(ctx, func() error { return nil }) },
		Access:      v.access,
	}
}

// Admit lets the holder of a token see projects, and no others.
func (v *Vendor) Admit(token string, projects ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.members == nil {
		v.members = map[string][]string{}
	}
	v.members[token] = projects
}

// Asked is how often somebody's access was checked.
func (v *Vendor) Asked() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked
}

func (v *Vendor) access(ctx context.Context, project string, token provider.Secret) error {
	return v.call(ctx, func() error {
		v.asked++
		projects, known := v.members[string(token)]
		switch {
		case !known:
			return slipway.Errorf(slipway.Unauthenticated, "the vendor does not know this token")
		case !slices.Contains(projects, project):
			return slipway.Errorf(slipway.NotFound, "there is no project %q", project)
		}
		return nil
	})
}

// Project makes a project, if it is not there yet.
func (v *Vendor) Project(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.project(name)
}

func (v *Vendor) project(name string) *project {
	p := v.projects[name]
	if p == nil {
		p = &project{}
		v.projects[name] = p
	}
	return p
}

// Add puts a build into a project, which is made when it is not there, and fills in what b leaves out: id, number, attempt 1, status running, creation now, and times
// that fit the status. It returns the build as the vendor keeps it.
func (v *Vendor) Add(projectName string, b slipway.Build) slipway.Build {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.add(projectName, b).Build
}

func (v *Vendor) add(projectName string, b slipway.Build) *build {
	p := v.project(projectName)
	v.serial++
	b.ID = cmp.Or(b.ID, strconv.FormatInt(v.serial, 10))
	b.Number = cmp.Or(b.Number, int64(len(p.builds)+1))
	b.Attempt = max(b.Attempt, 1)
	b.Status = cmp.Or(b.Status, slipway.BuildRunning)
	b.Pipeline.ID = cmp.Or(b.Pipeline.ID, "1")
	b.Pipeline.Name = cmp.Or(b.Pipeline.Name, "build")
	b.Trigger = cmp.Or(b.Trigger, slipway.TriggerPush)
	b.URL = cmp.Or(b.URL, fmt.Sprintf("https://ci.example.com/%s/runs/%s", projectName, b.ID))
	if b.CreatedAt.IsZero() {
		b.CreatedAt = v.now()
	}
	stored := &build{serial: v.serial, Build: b}
	p.builds = append(p.builds, stored)
	v.move(p, stored, b.Status)
	return stored
}

// Move puts a build into a status, with the times that fit it.
func (v *Vendor) Move(projectName, id string, status slipway.BuildStatus) slipway.Build {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.project(projectName)
	b := p.find(id)
	if b == nil {
		panic("fake: there is no build " + id + " in " + projectName)
	}
	v.move(p, b, status)
	return b.Build
}

func (v *Vendor) move(p *project, b *build, status slipway.BuildStatus) {
	now := v.now()
	b.Status = status
	b.Detail = string(status)
	b.UpdatedAt = &now
	if status == slipway.BuildStarting {
		b.StartedAt = nil
	} else if b.StartedAt == nil {
		started := now
		b.StartedAt = &started
	}
	b.FinishedAt, b.DurationSeconds = nil, nil
	if status.Finished() {
		seconds := now.Sub(*b.StartedAt).Seconds()
		b.FinishedAt, b.DurationSeconds = &now, &seconds
	}
	b.Retriggerable = status == slipway.BuildFailed || status == slipway.BuildCanceled
	p.revision++
	v.tell()
}

func (v *Vendor) now() time.Time { return v.Now().UTC().Truncate(time.Microsecond) }

func (v *Vendor) tell() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// Write appends to a build's log.
func (v *Vendor) Write(projectName, id, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.project(projectName).find(id).log.WriteString(text)
	v.tell()
}

// Forget deletes a build, as a vendor's retention does.
func (v *Vendor) Forget(projectName, id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.project(projectName)
	p.builds = slices.DeleteFunc(p.builds, func(b *build) bool { return b.ID == id })
	p.revision++
	v.tell()
}

// Replace puts a new build in the place of one, as vendors do that name first what they split later.
func (v *Vendor) Replace(projectName, id string, by slipway.Build) {
	v.Forget(projectName, id)
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.project(projectName)
	p.replaced = append(p.replaced, id)
	v.add(projectName, by)
}

// Break switches a fault on, or off with None.
func (v *Vendor) Break(f Fault) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fault = f
	v.tell()
}

// BreakAfter switches a fault on once so many more requests were answered.
func (v *Vendor) BreakAfter(requests int, f Fault) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.good, v.next = requests, f
}

// Lists says how many list requests there were, and how many of them were answered with "not modified".
func (v *Vendor) Lists() (all, notModified int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lists, v.unmoved
}

// ListInPart has lists leave out who caused a build, when it began and ended, and its commit, as some vendors do.
func (v *Vendor) ListInPart() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.parts = true
}

// Details is how often a build that a list showed in part was completed.
func (v *Vendor) Details() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.details
}

// Extra is what the last retrigger or start was given beside its own fields.
func (v *Vendor) Extra() map[string]any {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.extra
}

// Notification is the webhook that the vendor would send about a build now: signed headers and body.
func (v *Vendor) Notification(projectName, id string) (http.Header, []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.serial++
	body, err := json.Marshal(notification{
		ID: strconv.FormatInt(v.serial, 10), Event: "build", Project: projectName, Build: &v.project(projectName).find(id).Build,
	})
	if err != nil {
		panic(err)
	}
	return v.sign(body), body
}

// Push is the webhook that the vendor would send about new content of a repository with this page: signed headers and body.
func (v *Vendor) Push(projectName, page string) (http.Header, []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.serial++
	body, err := json.Marshal(notification{ID: strconv.FormatInt(v.serial, 10), Event: "push", Project: projectName, Page: page})
	if err != nil {
		panic(err)
	}
	return v.sign(body), body
}

// Sign gives the headers for a body of the caller's own making.
func (v *Vendor) Sign(body []byte) http.Header { return v.sign(body) }

func (v *Vendor) sign(body []byte) http.Header {
	m := hmac.New(sha256.New, []byte(v.cfg.WebhookSecret))
	m.Write(body)
	h := http.Header{}
	h.Set(SignatureHeader, "sha256="+hex.EncodeToString(m.Sum(nil)))
	h.Set("Content-Type", "application/json")
	return h
}

// call runs f as the vendor would: with its fault, its clock moved on, and nothing else going on.
func (v *Vendor) call(ctx context.Context, f func() error) error {
	for {
		v.mu.Lock()
		fault, changed := v.fault, v.changed
		v.mu.Unlock()
		switch fault {
		case Down:
			return slipway.Errorf(slipway.Unavailable, "the fake vendor is down; switch its fault off")
		case Limited:
			return slipway.Errorf(slipway.RateLimited, "the fake vendor takes no more requests for now").After(30 * time.Second)
		case Hang:
			select {
			case <-changed:
				continue
			case <-ctx.Done():
			}
		}
		break
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.advance()
	if v.good > 0 {
		if v.good--; v.good == 0 {
			v.fault = v.next
		}
	}
	return f()
}

// advance moves builds that go by the clock.
func (v *Vendor) advance() {
	before := v.now().Add(-v.cfg.Pace.Std())
	v.paced = slices.DeleteFunc(v.paced, func(m paced) bool {
		if m.build.UpdatedAt.After(before) {
			return false
		}
		switch m.build.Status {
		case slipway.BuildStarting:
			v.move(m.project, m.build, slipway.BuildRunning)
		case slipway.BuildRunning:
			m.build.log.WriteString("done\n")
			v.move(m.project, m.build, slipway.BuildSucceeded)
		}
		return m.build.Status.Finished()
	})
}

// paced is a build that goes by the clock.
type paced struct {
	project *project
	build   *build
}

// pace has a build that was started go by the clock, where the configuration says so.
func (v *Vendor) pace(p *project, b *build) {
	if b.auto = v.cfg.Pace > 0; b.auto {
		v.paced = append(v.paced, paced{p, b})
	}
}

func (v *Vendor) existing(name string) (*project, error) {
	p := v.projects[name]
	if _, _, tool := provider.ToolOf(name); tool && p == nil { // a component that nobody has built yet
		p = v.project(name)
	}
	if p == nil {
		return nil, slipway.Errorf(slipway.NotFound, "the fake vendor has no project %q", name)
	}
	return p, nil
}

func (v *Vendor) existingBuild(name, id string) (*project, *build, error) {
	p, err := v.existing(name)
	if err != nil {
		return nil, nil, err
	}
	b := p.find(id)
	if slices.Contains(p.replaced, id) {
		return nil, nil, provider.Replaced
	}
	if b == nil {
		return nil, nil, slipway.Errorf(slipway.NotFound, "the fake vendor has no build %q in %q", id, name)
	}
	return p, b, nil
}

func (p *project) find(id string) *build {
	for _, b := range p.builds {
		if b.ID == id {
			return b
		}
	}
	return nil
}

const maxPage = 100

func (v *Vendor) list(ctx context.Context, name string, o provider.ListOptions) (page provider.Page[slipway.Build], err error) {
	err = v.call(ctx, func() error {
		p, err := v.existing(name)
		if err != nil {
			return err
		}
		v.lists++
		if o.Cursor == "" {
			page.Validator = fmt.Sprintf("%q", strconv.Itoa(p.revision))
			if o.Validator == page.Validator {
				v.unmoved++
				page.NotModified = true
				return nil
			}
		}
		older, err := after(o.Cursor)
		if err != nil {
			return err
		}
		limit := maxPage
		if o.Limit > 0 {
			limit = min(limit, o.Limit)
		}
		sorted := slices.SortedFunc(slices.Values(p.builds), newestFirst)
		for _, b := range sorted {
			if !older(b) {
				continue
			}
			if len(page.Items) == limit {
				last := page.Items[limit-1]
				page.Next = fmt.Sprintf("%d.%d", last.CreatedAt.UnixMicro(), p.find(last.ID).serial)
				break
			}
			page.Items = append(page.Items, b.Build)
		}
		if v.parts {
			for i := range page.Items {
				b := &page.Items[i]
				b.TriggeredBy, b.StartedAt, b.FinishedAt, b.DurationSeconds, b.Commit = nil, nil, nil, nil, nil
			}
			page.Complete = func(ctx context.Context, b slipway.Build) (slipway.Build, error) {
				v.mu.Lock()
				v.details++
				v.mu.Unlock()
				return v.get(ctx, name, b.ID)
			}
		}
		return nil
	})
	return page, err
}

func newestFirst(a, b *build) int {
	return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.serial, a.serial))
}

// after reads a cursor: the place of the last build that was seen.
func after(cursor string) (older func(*build) bool, err error) {
	if cursor == "" {
		return func(*build) bool { return true }, nil
	}
	at, serial, _ := strings.Cut(cursor, ".")
	micros, err1 := strconv.ParseInt(at, 10, 64)
	n, err2 := strconv.ParseInt(serial, 10, 64)
	if err1 != nil || err2 != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the fake vendor does not know this cursor")
	}
	return func(b *build) bool {
		return cmp.Or(cmp.Compare(b.CreatedAt.UnixMicro(), micros), cmp.Compare(b.serial, n)) < 0
	}, nil
}

func (v *Vendor) get(ctx context.Context, name, id string) (found slipway.Build, err error) {
	err = v.call(ctx, func() error {
		_, b, err := v.existingBuild(name, id)
		if err == nil {
			found = b.Build
		}
		return err
	})
	return found, err
}

func (v *Vendor) retrigger(ctx context.Context, name, id string, extra map[string]any, by slipway.Caller) (result *slipway.Build, err error) {
	err = v.call(ctx, func() error {
		p, b, err := v.existingBuild(name, id)
		if err != nil {
			return err
		}
		if !b.Status.Finished() {
			return slipway.Errorf(slipway.Conflict, "build %q is still %s; wait for its end or cancel it", id, b.Status)
		}
		v.extra = extra
		if v.cfg.NewIDs {
			again := b.Build
			again.ID, again.Number, again.CreatedAt, again.StartedAt, again.URL = "", 0, time.Time{}, nil, ""
			again.Status, again.Trigger, again.TriggeredBy = slipway.BuildStarting, slipway.TriggerRetry, person(by)
			b = v.add(name, again)
		} else {
			b.Attempt++
			b.Trigger, b.TriggeredBy = slipway.TriggerRetry, person(by)
			b.log.Reset()
			v.move(p, b, slipway.BuildStarting)
		}
		v.pace(p, b)
		now := b.Build
		result = &now
		return nil
	})
	return result, err
}

func (v *Vendor) start(ctx context.Context, name string, o provider.StartOptions, by slipway.Caller) (result *slipway.Build, err error) {
	err = v.call(ctx, func() error {
		if _, err := v.existing(name); err != nil {
			return err
		}
		if o.Ref == "" || strings.HasPrefix(o.Ref, "-") {
			return slipway.Errorf(slipway.Invalid, "ref %q names no branch, tag or commit", o.Ref)
		}
		v.extra = o.Extra
		b := v.add(name, slipway.Build{
			Status: slipway.BuildStarting, Trigger: slipway.TriggerAPI, TriggeredBy: person(by),
			Pipeline: slipway.Pipeline{ID: o.Pipeline, Name: o.Pipeline}, Commit: &slipway.Commit{Branch: o.Ref},
		})
		v.pace(v.project(name), b)
		now := b.Build
		result = &now
		return nil
	})
	return result, err
}

func person(by slipway.Caller) *slipway.Person {
	if by.Subject == "" {
		return nil
	}
	return &slipway.Person{ID: by.Subject}
}

func (v *Vendor) cancel(ctx context.Context, name, id string) error {
	return v.call(ctx, func() error {
		p, b, err := v.existingBuild(name, id)
		if err != nil {
			return err
		}
		if b.Status.Finished() {
			return slipway.Errorf(slipway.Conflict, "build %q has ended already", id)
		}
		v.move(p, b, slipway.BuildCanceled)
		return nil
	})
}

func (v *Vendor) logs(ctx context.Context, name, id string, follow bool) (log io.ReadCloser, err error) {
	err = v.call(ctx, func() error {
		_, b, err := v.existingBuild(name, id)
		if err != nil {
			return err
		}
		log = &reader{ctx: ctx, v: v, b: b, follow: follow, closed: make(chan struct{})}
		return nil
	})
	return log, err
}

// reader reads a log that may still grow.
type reader struct {
	ctx    context.Context
	v      *Vendor
	b      *build
	read   int
	follow bool
	once   sync.Once
	closed chan struct{}
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		r.v.mu.Lock()
		r.v.advance()
		n := copy(p, r.b.log.String()[min(r.read, r.b.log.Len()):])
		over := !r.follow || r.b.Status.Finished()
		changed, auto := r.v.changed, r.b.auto
		r.v.mu.Unlock()
		r.read += n
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if over {
			return 0, io.EOF
		}
		var tick <-chan time.Time // a build that goes by the clock tells nobody
		if auto {
			tick = time.After(max(r.v.cfg.Pace.Std()/4, time.Millisecond))
		}
		select {
		case <-changed:
		case <-tick:
		case <-r.closed:
			return 0, io.ErrClosedPipe
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

func (r *reader) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}

// notification is the body of a webhook, in the fake vendor's own shape.
type notification struct {
	ID      string         `json:"id"`
	Event   string         `json:"event"`
	Project string         `json:"project"`
	Build   *slipway.Build `json:"build,omitempty"`
	BuildID string         `json:"buildId,omitempty"` // in the place of the build
	Page    string         `json:"page,omitempty"`    // of a repository, in a push
}

func (v *Vendor) verify(h http.Header, body []byte) error {
	if v.cfg.WebhookSecret == "" {
		return slipway.Errorf(slipway.Forbidden, "this provider takes no webhooks; set webhookSecret in its configuration")
	}
	want := v.sign(body).Get(SignatureHeader)
	if !hmac.Equal([]byte(h.Get(SignatureHeader)), []byte(want)) {
		return slipway.Errorf(slipway.Unauthenticated, "the webhook's signature does not fit its body; use the same secret on both sides")
	}
	return nil
}

func parse(_ http.Header, body []byte) ([]provider.Delivery, error) {
	var n notification
	if err := json.Unmarshal(body, &n); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body is no notification").WithCause(err)
	}
	if n.Event != "build" && n.Event != "push" {
		return nil, nil
	}
	if n.Project == "" {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body names no project")
	}
	if n.Event == "push" {
		page := provider.RepositoryAddress(n.Page)
		if page == "" {
			return nil, slipway.Errorf(slipway.Invalid, "the webhook's body does not say where the repository is found")
		}
		return []provider.Delivery{{Project: n.Project, ID: n.ID, Pushed: []string{page}}}, nil
	}
	return []provider.Delivery{{Project: n.Project, ID: n.ID, Build: n.Build, BuildID: n.BuildID}}, nil
}
