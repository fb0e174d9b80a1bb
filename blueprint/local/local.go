// Package local is the blueprint of Slipway's own small CI and the provider kind `local` that it exports: on request, on retrigger,
// and when it sees a new commit on a watched branch, it clones a repository and runs one command, which only the operator chooses.
//
// A build is a row. A replica claims it, runs it under a lease that it renews, and loses it when it dies: the
// build then ends as interrupted, whoever notices. Logs are rows too, readable on every replica while the build runs. The runner
// (runner.go) knows nothing of this; it runs a command in a folder and leaves no process behind. What it isolates and what
// it does not stands in README.md.
package local

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

// Annotation is where an entity names the git repositories that are built for it, separated by spaces.
const Annotation = "slipway.dev/local-repository"

// Isolation says how builds are kept apart from the server.
type Isolation string

// None is the isolation that has to be written out: builds run as the server's own user and can do all that the server can.
const None Isolation = "none"

// Config is a provider of type local in the configuration.
type Config struct {
	Command      []string          `json:"command" required:"true" doc:"What a build runs, in the checkout: the program and its arguments. No shell reads it"`
	Repositories []string          `json:"repositories" required:"true" doc:"Repositories that may be built, as addresses in which * stands for any text. fetch.allow and fetch.fileRoots must allow them too"`
	RunAs        string            `json:"runAs" doc:"Unprivileged user that builds run as. The server must run as root for that, and the user must not be able to read the data directory"`
	Isolation    Isolation         `json:"isolation" doc:"none: builds run as the server's own user. Only for repositories that are trusted as the server is. Needed where runAs is not set"`
	Timeout      slipway.Duration  `json:"timeout" default:"10m" doc:"Longest time that a build may take, cloning included"`
	Parallel     int               `json:"parallel" default:"2" doc:"Builds at the same time on one replica; the others wait"`
	MaxOutput    slipway.Size      `json:"maxOutput" default:"10MiB" doc:"Longest log; a build that prints more is ended"`
	MaxDisk      slipway.Size      `json:"maxDisk" default:"2GiB" doc:"Space that a build's folder may take, checkout included"`
	Depth        int               `json:"depth" default:"1" doc:"Commits of history that are cloned; 0: all"`
	Poll         slipway.Duration  `json:"poll" doc:"How often to look for new commits, which are then built; 0: never. At least 10 seconds"`
	Branches     []string          `json:"branches" default:"[\"main\"]" doc:"Branches that are looked at with poll"`
	Environment  map[string]string `json:"environment" doc:"Variables that builds see, beside PATH, HOME, TMPDIR, LANG, CI and the SLIPWAY_ ones that describe the build. Whoever may change a repository can read them"`
	WorkDir      string            `json:"workDir" doc:"Folder that builds run in; each has its own there and it is removed afterwards. Default: builds in the data directory, or with runAs slipway-builds in the system's folder for temporary files"`
}

// Check names what is wrong beyond the types of the fields.
func (c *Config) Check() (faults []slipway.Detail) {
	fault := func(field, format string, args ...any) {
		faults = append(faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
	}
	if len(c.Command) == 0 || c.Command[0] == "" {
		fault("command", "names no program; write it like [./build.sh]")
	}
	if len(c.Repositories) == 0 {
		fault("repositories", "names no repository; write it like [\"https://git.example.com/*\"]")
	}
	for i, r := range c.Repositories {
		if scheme, _, ok := strings.Cut(r, "://"); !ok || !slices.Contains(schemes, scheme) {
			fault(fmt.Sprintf("repositories[%d]", i), "begins with none of https://, http://, git:// and file://")
		}
	}
	switch {
	case c.Isolation != "" && c.Isolation != None:
		fault("isolation", "can only be none, or be left out where runAs is set")
	case c.RunAs != "" && c.Isolation == None:
		fault("isolation", "contradicts runAs; keep one of them")
	case c.RunAs == "" && c.Isolation == "":
		fault("runAs", "builds run foreign code: name an unprivileged user here, or write `isolation: none` to let them run as the server's own user")
	}
	if c.Timeout <= 0 {
		fault("timeout", "must be longer than 0")
	}
	if c.Parallel < 1 || c.Parallel > 100 {
		fault("parallel", "must be from 1 to 100")
	}
	if c.MaxOutput < 1 {
		fault("maxOutput", "must be larger than 0")
	}
	if c.MaxDisk < 1 {
		fault("maxDisk", "must be larger than 0")
	}
	if c.Depth < 0 {
		fault("depth", "must not be negative")
	}
	if c.Poll != 0 && c.Poll.Std() < 10*time.Second {
		fault("poll", "must be at least 10s")
	}
	for name := range c.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(c.Environment[name], 0) {
			fault("environment", "%q cannot be an environment variable with that value", name)
		}
	}
	if c.WorkDir != "" && !filepath.IsAbs(c.WorkDir) {
		fault("workDir", "must be an absolute path")
	}
	return faults
}

var schemes = []string{"https", "http", "git", "file"}

// Kind is the small CI as the configuration knows it. It is opened by the blueprint's service.
var Kind = provider.Kind{
	Name:   "local",
	Text:   "Slipway's own small CI: clones a git repository and runs one command that the operator chose.",
	Config: Config{},
	Annotations: []provider.Annotation{{
		Key: Annotation, Project: true, Spaces: true, Text: "Address of the git repository that is built; several are separated by spaces.", Example: "https://git.example.com/team/web.git",
	}, provider.ToolProjects},
}

// pipeline is the only one that a provider has.
var pipeline = slipway.Pipeline{ID: "build", Name: "build"}

// service runs the builds of all providers of the kind.
type service struct {
	db      *store.DB
	fetch   *fetch.Fetcher
	redact  *secret.Redactor
	log     *slog.Logger
	now     func() time.Time
	dataDir string
	url     func() string // address of the server
	// observe puts builds into the index in the transaction that changed them.
	observe func(ctx context.Context, tx *store.Tx, provider, project string, builds ...slipway.Build) error
	// annotated calls f for the entities whose annotation has a value, or for all that have one for "".
	annotated func(ctx context.Context, value string, f func(*slipway.Entity)) error

	replica string        // owner of what runs here
	lease   time.Duration // how long a silent replica keeps its builds
	grace   time.Duration // between SIGTERM and SIGKILL
	keep    time.Duration // how long builds are kept

	// resolveWithin is how long starting a build may take to find out what its ref stands for. After that the build is
	// queued and finds out itself.
	resolveWithin time.Duration
	// maxWaiting is how many builds of a provider may wait; more are refused.
	maxWaiting int

	woken   chan struct{} // holds one: there may be work
	changed broadcast     // rings at every change of a build or its log on this replica

	mu      sync.Mutex
	opened  map[string]*ci                     // by name
	busy    map[string]int                     // builds that run here, by provider
	running map[string]context.CancelCauseFunc // by build
}

// The times that keep builds alive.
const (
	leaseTime = 15 * time.Second
	lookEvery = time.Second // for builds that another replica has queued
	tidyEvery = 10 * time.Minute
)

// ci is one opened provider.
type ci struct {
	*service
	Config
	name    string
	account *account
	workDir string
}

// openProvider opens a provider of a config. It refuses what would not protect the server.
func (s *service) openProvider(_ context.Context, raw json.RawMessage, env provider.Env) (*provider.Provider, error) {
	p := &ci{service: s, name: env.Name}
	if err := provider.Decode(raw, &p.Config); err != nil {
		return nil, err
	}
	p.workDir = p.WorkDir
	if p.RunAs != "" {
		var err error
		if p.account, err = openAccount(p.RunAs, s.dataDir); err != nil {
			return nil, err
		}
		p.workDir = cmp.Or(p.workDir, filepath.Join(os.TempDir(), "slipway-builds"))
	}
	p.workDir = cmp.Or(p.workDir, filepath.Join(s.dataDir, "builds"))
	if err := p.openWorkDir(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.opened[p.name] = p
	s.mu.Unlock()
	s.wake()
	return &provider.Provider{
		Projects: p.projects,
		Interval: 5 * time.Minute, // the index is told of every change as it happens
		Builds: &provider.Builds{
			List: p.list, Get: p.get, Retrigger: p.retrigger, Start: p.start, Cancel: p.cancel, Logs: p.logs,
		},
		Builder: p.builder(),
		Close: func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.opened[p.name] == p {
				delete(s.opened, p.name)
			}
			return nil
		},
	}, nil
}

// openWorkDir makes the folder that builds run in. One that others can write to is refused: they could put something in
// a build's way.
func (p *ci) openWorkDir() error {
	mode := os.FileMode(0o700)
	if p.account != nil {
		mode = 0o711 // passed through by the user, who owns a folder in it
	}
	if err := os.MkdirAll(p.workDir, mode); err != nil {
		return slipway.Errorf(slipway.Invalid, "workDir: %s cannot be made; name a folder that the server may write to", p.workDir).WithCause(err)
	}
	info, err := os.Lstat(p.workDir)
	if err != nil {
		return err
	}
	if owner, _ := ownerOf(info); !info.IsDir() || int(owner) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return slipway.Errorf(slipway.Invalid, "workDir: %s must be a folder that belongs to the server's user and that nobody else can write to", p.workDir)
	}
	return os.Chmod(p.workDir, mode)
}

// projects reads the annotation. A repository that this provider may not build is not its project: another one may be meant.
func (p *ci) projects(e *slipway.Entity) (all []string) {
	for _, word := range strings.Fields(e.Metadata.Annotations[Annotation]) {
		if project, err := p.project(word); err == nil && !slices.Contains(all, project) {
			all = append(all, project)
		}
	}
	if project, ok := provider.ToolProject(e); ok {
		all = append(all, project)
	}
	return all
}

// project gives the one spelling of a project: the address of a repository, or a tool's component. NotFound when it is none that this provider builds.
func (p *ci) project(raw string) (string, error) {
	if _, _, ok := provider.ToolOf(raw); ok {
		return raw, nil
	}
	return p.repository(raw)
}

// repository gives the one spelling of a repository's address, or NotFound when it is none that this provider builds.
func (p *ci) repository(raw string) (string, error) {
	project, ok := normalise(raw)
	if !ok || !slices.ContainsFunc(p.Repositories, func(pattern string) bool {
		return fetch.Glob(pattern, project) || strings.TrimRight(pattern, "/") == project
	}) {
		return "", slipway.Errorf(slipway.NotFound, "provider %q builds no such repository; an operator can add its address to the provider's repositories", p.name)
	}
	return project, nil
}

// normalise writes an address so that two that mean the same are the same: scheme and host in lower case, no usual port, no slash at
// the end. One with a user, a query or dots to climb by is refused.
func normalise(raw string) (string, bool) {
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || strings.ContainsAny(u.Path, "\\\x00\n*") {
		return "", false
	}
	for part := range strings.SplitSeq(u.Path, "/") {
		if part == "." || part == ".." {
			return "", false
		}
	}
	host := strings.ToLower(u.Host)
	switch {
	case u.Scheme == "file":
		if host != "" && host != "localhost" {
			return "", false
		}
		host = ""
	case host == "":
		return "", false
	default:
		usual := map[string]string{"https": ":443", "http": ":80", "git": ":9418"}
		host = strings.TrimSuffix(host, usual[u.Scheme])
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if path == "" {
		return "", false
	}
	return u.Scheme + "://" + host + path, true
}

// present makes a stored build what the provider contract wants.
func (s *service) present(r row) slipway.Build {
	b := r.Build
	b.Pipeline = pipeline
	switch {
	case r.Entity != "":
		b.URL = s.url() + "/api/build/by-entity/" + r.Entity + "/builds/" + url.PathEscape(r.Provider+":"+r.ID) + "/logs"
	case strings.HasPrefix(r.repository(), "http"):
		b.URL = r.repository()
	default:
		b.URL = s.url() + "/"
	}
	return b
}

// mark is where a page of builds ended.
type mark struct {
	Created store.Time
	ID      string
}

func (m mark) encode() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", m.Created.UnixMicro(), m.ID))
}

func decodeMark(cursor string) (*mark, error) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	var micro int64
	var id string
	if err == nil {
		_, err = fmt.Sscanf(string(raw), "%d %s", &micro, &id)
	}
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the cursor is not one that this provider gave; start again without it").WithCause(err)
	}
	return &mark{store.At(time.UnixMicro(micro)), id}, nil
}

func (p *ci) list(ctx context.Context, project string, o provider.ListOptions) (provider.Page[slipway.Build], error) {
	var page provider.Page[slipway.Build]
	if _, err := p.project(project); err != nil {
		return page, err
	}
	var after *mark
	if o.Cursor != "" {
		var err error
		if after, err = decodeMark(o.Cursor); err != nil {
			return page, err
		}
	}
	limit := min(cmp.Or(o.Limit, 100), 100)
	rows, err := listBuilds(ctx, p.db, p.name, project, after, limit+1)
	if err != nil {
		return page, err
	}
	if len(rows) > limit {
		rows = rows[:limit]
		last := rows[limit-1]
		page.Next = mark{store.At(last.CreatedAt), last.ID}.encode()
	}
	for _, r := range rows {
		page.Items = append(page.Items, p.present(r))
	}
	return page, nil
}

func (p *ci) get(ctx context.Context, project, id string) (slipway.Build, error) {
	r, err := getBuild(ctx, p.db, p.name, project, id)
	if err != nil {
		return slipway.Build{}, err
	}
	return p.present(r), nil
}

// start queues a build. A ref that is not there is refused at once, when the repository answers soon.
func (p *ci) start(ctx context.Context, project string, o provider.StartOptions, by slipway.Caller) (*slipway.Build, error) {
	project, err := p.project(project)
	if err != nil {
		return nil, err
	}
	if tool, _, ok := provider.ToolOf(project); ok {
		return nil, slipway.Errorf(slipway.Unsupported, "builds of a tool's components are started by a deployment: slipway tool deploy start %s", tool)
	}
	if o.Pipeline != "" && o.Pipeline != pipeline.ID {
		return nil, slipway.Errorf(slipway.NotFound, "there is no pipeline %q; provider %q has one, %q", o.Pipeline, p.name, pipeline.ID)
	}
	r := row{Provider: p.name, Project: project, Ref: o.Ref}
	r.Trigger = slipway.TriggerAPI
	if by.Kind == slipway.CallerUser {
		r.Trigger = slipway.TriggerManual
	}
	r.TriggeredBy = person(by)
	if r.Commit, err = p.resolve(ctx, project, o.Ref); err != nil {
		return nil, err
	}
	return p.enqueue(ctx, r, nil)
}

// resolve finds out what a ref stands for. nil: the repository does not say so soon, and the build will find out.
func (p *ci) resolve(ctx context.Context, repository, ref string) (*slipway.Commit, error) {
	short, cancel := context.WithTimeout(ctx, p.resolveWithin)
	defer cancel()
	switch found, err := p.fetch.ResolveRef(short, repository, ref); {
	case err == nil:
		return commitOf(found), nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, slipway.Unavailable), short.Err() != nil:
		p.log.InfoContext(ctx, "a ref was not resolved in time; the build will", "provider", p.name, "repository", repository, "error", err)
		return nil, nil
	default:
		return nil, err
	}
}

// retrigger queues a further attempt of a build, on the same commit.
func (p *ci) retrigger(ctx context.Context, project, id string, _ map[string]any, by slipway.Caller) (*slipway.Build, error) {
	old, err := getBuild(ctx, p.db, p.name, project, id)
	if err != nil {
		return nil, err
	}
	if !old.Status.Finished() {
		return nil, slipway.Errorf(slipway.Conflict, "build %d of %s has not ended; cancel it first or wait", old.Number, project)
	}
	if _, err := p.repository(old.repository()); err != nil {
		return nil, err
	}
	r := row{Provider: p.name, Project: project, Ref: old.Ref, Order: old.Order}
	r.Order.Key = "" // a further attempt is no part of what was ordered
	r.Number, r.Commit = old.Number, old.Commit
	r.Trigger, r.TriggeredBy = slipway.TriggerRetry, person(by)
	return p.enqueue(ctx, r, nil)
}

// enqueue stores a build that waits and tells the index. With onlyIf it does so only if that says yes, in the same transaction;
// nil is returned else.
func (p *ci) enqueue(ctx context.Context, r row, onlyIf func(tx *store.Tx) (bool, error)) (*slipway.Build, error) {
	stored, err := p.store(ctx, r, onlyIf)
	if err != nil || stored == nil {
		return nil, err
	}
	b := p.present(*stored)
	return &b, nil
}

// store is enqueue that gives the row.
func (p *ci) store(ctx context.Context, r row, onlyIf func(tx *store.Tx) (bool, error)) (*row, error) {
	if tool, component, ok := provider.ToolOf(r.Project); ok {
		r.Entity = slipway.EntityRef{Kind: slipway.DefaultKind, Namespace: provider.ToolNamespace(tool), Name: component}.String()
	} else {
		var entities int
		err := p.annotated(ctx, r.Project, func(e *slipway.Entity) { r.Entity, entities = e.Ref().Lower().String(), entities+1 })
		if err != nil {
			return nil, err
		}
		if entities > 1 {
			r.Entity = "" // the link would name one of them to readers of another
		}
	}
	var b *row
	err := p.db.Write(ctx, func(tx *store.Tx) error {
		b = nil
		if onlyIf != nil {
			if yes, err := onlyIf(tx); err != nil || !yes {
				return err
			}
		}
		if full, err := waiting(ctx, tx, p.name, p.maxWaiting); err != nil {
			return err
		} else if full {
			return slipway.Errorf(slipway.RateLimited, "%d builds of provider %q wait already; try again when some have run", p.maxWaiting, p.name).After(time.Minute)
		}
		stored, err := insertBuild(ctx, tx, r, p.now())
		if err != nil {
			return err
		}
		b = &stored
		return p.tell(ctx, tx, stored)
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// tell puts a changed build into the index, in the transaction that changed it, and wakes who waits for it.
func (s *service) tell(ctx context.Context, tx *store.Tx, r row) error {
	tx.AfterCommit(func() {
		s.wake()
		s.changed.ring(r.ID)
	})
	return s.observe(ctx, tx, r.Provider, r.Project, s.present(r))
}

func (s *service) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

func (p *ci) cancel(ctx context.Context, project, id string) error {
	err := p.db.Write(ctx, func(tx *store.Tx) error {
		r, ended, err := cancelBuild(ctx, tx, p.name, project, id, p.now())
		if err != nil || !ended {
			return err
		}
		return p.tell(ctx, tx, r)
	})
	if err != nil {
		return err
	}
	p.stop(id, context.Canceled) // at once when it runs here; its owner sees the mark at its next heartbeat
	return nil
}

// person is a caller as builds show it. What the system does by itself is done by nobody.
func person(by slipway.Caller) *slipway.Person {
	if by.Subject == "" || by.Kind == slipway.CallerSystem || by.Kind == slipway.CallerAnonymous {
		return nil
	}
	_, name, _ := strings.Cut(by.Subject, ":")
	p := &slipway.Person{ID: by.Subject, Name: name[strings.LastIndexByte(name, '/')+1:]}
	if by.Kind == slipway.CallerUser {
		p.EntityRef = by.Subject
	}
	return p
}

func commitOf(ref fetch.Ref) *slipway.Commit {
	c := &slipway.Commit{SHA: ref.Commit}
	if ref.Kind != fetch.Commit {
		c.Branch = ref.Name
	}
	return c
}

func (p *ci) logs(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	if _, err := getBuild(ctx, p.db, p.name, project, id); err != nil {
		return nil, err
	}
	return &logReader{ctx: ctx, service: p.service, id: id, follow: follow}, nil
}
