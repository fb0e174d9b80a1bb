package task

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

//go:embed migrations
var files embed.FS

// Migrations are the tables that all tasks share. The table of a task's items is its blueprint's own (Task.Table), whatever tasks there
// are. They need those of packages entity, job and event.
func Migrations(...string) []store.Migrations {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err)
	}
	return []store.Migrations{{Owner: "task", FS: sub}}
}

// Engine is what the tasks of an installation share: providers, bindings, sources. Safe for concurrent use.
//
// Use: NewEngine; New for each task, before the queue and the bus run; then SetProviders, at start and whenever providers change.
type Engine struct {
	// FreshWait is how long a search with Fresh waits for its sources at most.
	FreshWait time.Duration

	Options
	read store.Querier // DB; tests count with it

	providers atomic.Pointer[snapshot]
	health    health

	mu         sync.Mutex
	tasks      map[string]task
	asked      map[int64]time.Time  // when this replica last asked for a source behind an answer
	known      map[string]time.Time // until when all is known of what viewers may see, by their keys
	noted      map[string]time.Time // when it last wrote down that webhooks of a provider come, or are refused
	refreshed  chan struct{}        // closed and replaced when a source was read on this replica
	background sync.WaitGroup
}

// task is an Index without its type.
type task interface {
	info() Info
	serves(*provider.Provider) bool
	can(*provider.Provider) []string
	prune(ctx context.Context, before time.Time) (int64, error)
	deliver(ctx context.Context, o Provider, deliveries []provider.Delivery) (int, error)
}

// Options is what an Engine works with. All of it belongs to one database.
type Options struct {
	DB        *store.DB
	Jobs      *job.Queue
	Events    *event.Bus
	Entities  *entity.Store
	Revisions *store.Revisions
	Keys      *secret.Keyring  // signs cursors
	URL       func() string    // external address of the server, without a slash at the end; default none
	Now       func() time.Time // default time.Now
	Log       *slog.Logger
}

// NewEngine makes an Engine; no I/O.
func NewEngine(o Options) *Engine {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.URL == nil {
		o.URL = func() string { return "" }
	}
	e := &Engine{
		FreshWait: 5 * time.Second, Options: o, read: o.DB,
		tasks: map[string]task{}, asked: map[int64]time.Time{}, noted: map[string]time.Time{}, known: map[string]time.Time{}, refreshed: make(chan struct{}),
	}
	e.providers.Store(&snapshot{byName: map[string]Provider{}})
	if o.Events != nil {
		o.Events.Restrict = e.restrictEvents
	}
	return e
}

// Provider is a configured provider as far as it got.
type Provider struct {
	Name     string
	Type     string
	Origin   string             // where it is configured: "config", "data"
	Provider *provider.Provider // nil when Err is set
	Err      error              // why it could not be opened: its sources are shown as failed, nothing else is touched
	Settings

	// Opened names what it was opened with, its address and credential among it: equal for equal settings, and no secret. What was found out of callers' access counts for these
	// alone.
	Opened string

	// Annotations are those of its kind, for the hint on an entity that nothing serves. May be empty.
	Annotations []provider.Annotation
}

// interval is how far apart the provider's sources are read when they are neither busy nor quiet.
func (o Provider) interval() time.Duration {
	if o.Provider == nil || o.Provider.Interval <= 0 {
		return provider.DefaultInterval
	}
	return o.Provider.Interval
}

// Opened is Provider.Opened for a type and its raw config.
func Opened(kind string, config []byte) string {
	sum := sha256.Sum256(append([]byte(kind+"\n"), config...))
	return hex.EncodeToString(sum[:])
}

// naming are the annotations that name a project; of a kind that does not say which, all.
func (o Provider) naming() []provider.Annotation {
	list := slices.DeleteFunc(slices.Clone(o.Annotations), func(a provider.Annotation) bool { return !a.Project })
	if len(list) == 0 {
		return o.Annotations
	}
	return list
}

func (o Provider) ref() slipway.ProviderRef { return slipway.ProviderRef{Name: o.Name, Type: o.Type} }

// snapshot is the providers of one moment. It is never changed, only replaced.
type snapshot struct {
	names      []string // in order
	byName     map[string]Provider
	atSource   []string // those that show their items only to those who may see them at the vendor, in order
	restricted bool     // some source shows its items only to those who may see it at the vendor
}

// SetProviders replaces the providers, all at once, and has entities bound to them anew: by one unique job per task, whichever replica asks. Sources of providers that
// are no longer there keep their items and are shown as detached; when a provider of that name comes back they are read on.
func (e *Engine) SetProviders(ctx context.Context, list []Provider) error {
	s := &snapshot{byName: make(map[string]Provider, len(list))}
	for _, o := range list {
		if _, twice := s.byName[o.Name]; twice || o.Name == "" {
			return slipway.Errorf(slipway.Conflict, "two providers are called %q; give each a name of its own", o.Name)
		}
		switch {
		case o.Provider == nil && o.Err == nil:
			o.Err = errors.New("it was not opened")
		case o.Provider != nil && o.Visibility == visibleAtSource && o.Provider.Access == nil:
			o.Err, o.Provider = errNoAccess, nil // rather than shown to all
		}
		s.byName[o.Name] = o
		s.names = append(s.names, o.Name)
		if o.Visibility == visibleAtSource {
			s.atSource = append(s.atSource, o.Name)
		}
	}
	slices.Sort(s.names)
	slices.Sort(s.atSource)
	err := e.restrict(ctx, s)
	if err != nil {
		return err
	}
	if s.restricted, err = e.anyRestricted(ctx, s); err != nil {
		return err
	}
	e.providers.Store(s)
	return e.DB.Write(ctx, func(tx *store.Tx) error {
		for _, t := range e.registered() {
			args := bindArgs{kind: t.info().Name + ".bind"}
			if _, _, err := e.Jobs.Insert(ctx, tx, args, job.Insert{Unique: "all"}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Providers lists the providers, by name.
func (e *Engine) Providers() []Provider {
	s := e.providers.Load()
	list := make([]Provider, len(s.names))
	for i, name := range s.names {
		list[i] = s.byName[name]
	}
	return list
}

func (e *Engine) opened(name string) (Provider, bool) {
	o, ok := e.providers.Load().byName[name]
	return o, ok
}

// Serving is a provider that serves a task.
type Serving struct {
	Name    string   `json:"name" doc:"Name of the provider"`
	Type    string   `json:"type" doc:"Type of the provider"`
	Actions []string `json:"actions" doc:"Actions of the task that it offers"`
}

// Serving lists the providers that serve a task, by name.
func (e *Engine) Serving(taskName string) []Serving {
	list := []Serving{}
	e.mu.Lock()
	t := e.tasks[taskName]
	e.mu.Unlock()
	if t == nil {
		return list
	}
	for _, o := range e.Providers() {
		if o.Provider != nil && t.serves(o.Provider) {
			list = append(list, Serving{o.Name, o.Type, t.can(o.Provider)})
		}
	}
	return list
}

func (e *Engine) registered() []task {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []task
	for _, t := range e.tasks {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b task) int { return strings.Compare(a.info().Name, b.info().Name) })
	return list
}

// Prune deletes a task's finished items that are older than a length of time, in small transactions, and returns how many. A task that is not there has none.
func (e *Engine) Prune(ctx context.Context, taskName string, olderThan time.Duration) (int64, error) {
	e.mu.Lock()
	t := e.tasks[taskName]
	e.mu.Unlock()
	if t == nil {
		return 0, nil
	}
	return t.prune(ctx, e.Now().Add(-olderThan))
}

// EventPushed is sent for every push that a provider's webhook tells of, whoever pushed to whatever branch. CDEvents has words for proposed changes, for branches and for what a repository is
// called, and none for its content. Its subject is the project at the provider. The blueprint build declares it.
const EventPushed = "dev.cdeventsx.slipway-repository.pushed.0.1.0"

// Push is the data of an event of the type EventPushed.
type Push = event.CDEvent[Pushed, struct{}]

// Pushed is what is said of a repository that has new content.
type Pushed struct {
	Provider string   `json:"provider" doc:"Provider that told it"`
	Project  string   `json:"project" doc:"Project at the provider"`
	Below    []string `json:"below" doc:"Addresses below which the repository's files are found, without a slash at the end"`
}

// Deliver takes a webhook for a provider: its signature is verified, then it is read, then what it tells is written, each project's part
// in transactions of its own. A push becomes an event. It returns how many items are new or changed. A project that no entity is bound to is not kept: the first look at it after it
// is bound will find the same. Errors: NotFound for an unknown provider, Unsupported for one without webhooks, Unavailable for one that did not
// open, and what Verify and Parse say.
func (e *Engine) Deliver(ctx context.Context, providerName string, h http.Header, body []byte) (int, error) {
	o, err := e.receiver(providerName)
	if err != nil {
		return 0, err
	}
	err = o.Provider.Webhook.Verify(h, body)
	e.noteHook(ctx, providerName, err)
	if err != nil {
		return 0, err
	}
	deliveries, err := o.Provider.Webhook.Parse(h, body)
	if err != nil {
		return 0, err
	}
	var pushes []event.Event
	deliveries = slices.DeleteFunc(deliveries, func(d provider.Delivery) bool {
		if len(d.Pushed) == 0 {
			return false
		}
		subject := event.CDSubject[Pushed]{ID: cmp.Or(d.Project, d.Pushed[0]), Source: event.SourceOfProvider(providerName), Content: Pushed{providerName, d.Project, d.Pushed}}
		pushes = append(pushes, event.NewCDEvent(EventPushed, event.SourceOf("build"), e.Now(), subject, struct{}{}).Event())
		return true
	})
	if len(pushes) > 0 {
		err := e.DB.Write(ctx, func(tx *store.Tx) error { return e.Events.PublishAll(ctx, tx, pushes) })
		if err != nil {
			return 0, err
		}
	}
	if len(deliveries) == 0 {
		return 0, nil
	}
	n := 0
	for _, t := range e.registered() {
		if !t.serves(o.Provider) {
			continue
		}
		written, err := t.deliver(ctx, o, deliveries)
		if n += written; err != nil {
			return n, err
		}
	}
	return n, nil
}

// Receives says whether a provider takes webhooks at all: to be asked before a body is read. Its errors are those of Deliver.
func (e *Engine) Receives(providerName string) error {
	_, err := e.receiver(providerName)
	return err
}

func (e *Engine) receiver(providerName string) (Provider, error) {
	o, ok := e.opened(providerName)
	switch {
	case !ok:
		return o, slipway.Errorf(slipway.NotFound, "no provider is called %q", clip(providerName))
	case o.Err != nil:
		return o, slipway.Errorf(slipway.Unavailable, "provider %q is not at work; see its configuration", providerName).WithCause(o.Err)
	case o.Provider.Webhook == nil:
		return o, slipway.Errorf(slipway.Unsupported, "provider %q takes no webhooks", providerName)
	}
	return o, nil
}

// asking is a source that somebody looks at, and how long after it was last asked for it is asked for again.
type asking struct {
	source int64
	every  time.Duration
}

// ask has sources read soon, behind an answer, because somebody looks at them: each at most once in its time on this replica, and not before one that fails is due.
func (e *Engine) ask(ctx context.Context, taskName string, list []asking) {
	now := e.Now()
	e.mu.Lock()
	list = slices.DeleteFunc(list, func(a asking) bool {
		last, ok := e.asked[a.source]
		return ok && now.Sub(last) < a.every
	})
	if len(e.asked)+len(list) > 10_000 {
		clear(e.asked)
	}
	for _, a := range list {
		e.asked[a.source] = now
	}
	e.mu.Unlock()
	if len(list) == 0 {
		return
	}
	slices.SortFunc(list, func(a, b asking) int { return cmp.Compare(a.source, b.source) }) // so that two replicas do not wait for each other
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	e.background.Go(func() {
		defer cancel()
		for chunk := range slices.Chunk(list, askedAtOnce) {
			if err := e.DB.Write(ctx, func(tx *store.Tx) error { return e.askFor(ctx, tx, taskName, chunk, now) }); err != nil {
				e.Log.WarnContext(ctx, "stale sources were not asked for", "task", taskName, "sources", len(chunk), "error", err)
			}
		}
	})
}

const askedAtOnce = 50 // sources that are asked for by one transaction

func (e *Engine) askFor(ctx context.Context, tx *store.Tx, taskName string, list []asking, now time.Time) error {
	for _, a := range list {
		// The time of the next reading is moved here, so that nobody else asks too.
		n, err := tx.Exec(ctx, `UPDATE task_source SET next_refresh = $1 WHERE id = $2 AND (next_refresh <= $3 OR failures = 0 AND as_of <= $4)`,
			store.At(now.Add(a.every)), a.source, store.At(now), store.At(now.Add(-a.every)))
		if err != nil {
			return err
		}
		if n > 0 {
			if _, err := e.insertRefresh(ctx, tx, taskName, a.source, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) insertRefresh(ctx context.Context, tx *store.Tx, taskName string, source int64, priority int) (inserted bool, err error) {
	_, inserted, err = e.Jobs.Insert(ctx, tx, refreshArgs{kind: taskName + ".refresh", Source: source},
		job.Insert{Unique: fmt.Sprint(source), Priority: priority})
	return inserted, err
}

// Wait returns when nothing that the engine began behind answers is under way any more.
func (e *Engine) Wait() { e.background.Wait() }

func (e *Engine) tellRefreshed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.refreshed)
	e.refreshed = make(chan struct{})
}

func (e *Engine) whenRefreshed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refreshed
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
