// Package event is the outbox: events are rows written in the transaction that caused them, get a dense position by
// one sequencer at a time, and are read by durable subscriptions and by the API.
// Delivery is at least once and in order of position; an event is a hint, the API is the truth.
package event

import (
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

//go:embed migrations
var files embed.FS

// Migrations is the schema of a Bus. List needs that of package entity too.
var Migrations = store.Migrations{Owner: "event", FS: func() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err)
	}
	return sub
}()}

// ReadPermission lets a caller read all events. Without it, a caller reads those of entities that they may read, as far as they hold the Permission that who sent the event
// declared for its type on the entity.
const ReadPermission = "event.event.read"

// Type is a kind of event that a blueprint sends. The types of CDEvents may be declared by several blueprints: each says when it sends them, what of, and what it takes to read those
// that it sends; Source tells them apart.
type Type struct {
	Name   string `json:"name" doc:"CloudEvents type" example:"dev.cdevents.pipelinerun.finished.0.3.0"`
	Source string `json:"source" doc:"Which part sends it" example:"/slipway/build"` // filled in by Declare
	Text   string `json:"text" doc:"When it is sent"`
	Object string `json:"object,omitempty" doc:"What the subject names"`

	// Permission is what it takes on the event's entity to read such events of this source, beside reading the entity: the one that guards what the event tells. Empty: reading
	// the entity is enough. ReadPermission for events without an entity.
	Permission string `json:"permission,omitempty" doc:"What it takes on the entity, beside reading it, to read such events" example:"build.run.read"`

	// Data is the zero value of what the event's data is, from which its JSON Schema is made; nil for an event without data.
	Data any `json:"-"`
}

// SourceOf is the source of the events that a blueprint sends.
func SourceOf(blueprint string) string { return "/slipway/" + blueprint }

// SourceOfProvider is the source of subjects that a provider knows by their ids.
func SourceOfProvider(name string) string { return "/slipway/provider/" + url.PathEscape(name) }

// Event is one event as CloudEvents 1.0 has it in JSON, with its position as an extension. Who publishes sets Source, Type, Subject, Data and EntityID, and may
// set ID and Time; the rest is filled in.
type Event struct {
	SpecVersion     string          `json:"specversion" enum:"1.0" doc:"Version of CloudEvents"`
	Position        int64           `json:"position" doc:"Place in the order of all events; pass as after"`
	ID              string          `json:"id" doc:"Unique id"`
	Source          string          `json:"source" doc:"Which part sent it" example:"/slipway/build"`
	Type            string          `json:"type" doc:"CloudEvents type" example:"dev.cdevents.pipelinerun.finished.0.3.0"`
	Subject         string          `json:"subject,omitempty" doc:"Id of what it is about: a build, an entity ref"`
	Time            time.Time       `json:"time" doc:"When it happened"`
	DataContentType string          `json:"datacontenttype,omitempty" enum:"application/json" doc:"What data is; absent without data"`
	Data            json.RawMessage `json:"data,omitempty" doc:"Details; never a secret"`
	EntityID        int64           `json:"-"` // the entity whose readers may read it; 0: only callers with event.event.read on all
	Origin          int64           `json:"-"` // what Bus.Restrict knows it by; 0: it limits nothing
}

// The parts of an Event that are always the same.
const (
	SpecVersion = "1.0"
	ContentType = "application/json"
)

// Handler works one event inside a transaction that also moves the subscription's cursor: it is rolled back, and the event is
// tried again with back-off, when it gives an error. Where many events wait, up to 100 share a transaction, and what a handler did is
// rolled back too when one after it fails; so it may run twice for one event (and when a deadlock was lost), and has no effects but through tx.
type Handler func(ctx context.Context, tx *store.Tx, e Event) error

// Subscription is a durable reader inside a blueprint.
type Subscription struct {
	Name   string   // "<blueprint>.<what>"; the cursor's key
	Types  []string // exact names, or a prefix ending in *
	Handle Handler

	// Backlog lets a new subscription begin with the oldest event that is kept; without it, it begins with the
	// first one that gets its position after Run has first seen the subscription.
	Backlog bool

	// Ahead, when set, sees the events that come next, in their order, and does for many at once what it can, in transactions of its own. It says of which of them nothing is
	// left to do: they are passed over without a transaction each, which costs more than most handlers; the others go to Handle. It goes by what is committed: whatever
	// changes later has its own event. Several replicas may be at it at once, and none does more than Handle would.
	Ahead func(ctx context.Context, events []Event) (done []bool, err error)
}

// Bus is the events of one database. Safe for concurrent use. Publish needs no Run.
type Bus struct {
	// Now is the clock; tests replace it before Run.
	Now func() time.Time
	// Restrict gives a further condition on who may read events that have an Origin, whatever else a caller may: origin is the column as SQL, arguments are numbered from
	// argStart. "" where nothing is limited. Set it before use; nil: nothing ever is.
	Restrict func(ctx context.Context, caller *slipway.Caller, origin string, argStart int) (condition string, args []any)
	db       *store.DB
	log      *slog.Logger
	id       string // tells our own notifications and leases from those of others; begins with process

	mu        sync.Mutex
	types     map[typeKey]Type
	readers   []*reader
	running   bool // Run is at work
	notifying bool // a goroutine sends notifications
	notify    bool // it shall send one more

	woken chan struct{} // holds one: look now
	last  atomic.Int64  // highest position that this replica has seen; everything up to it is committed
	moved chan struct{} // closed when last has grown, and replaced; guarded by mu
	feed  feed
	aside atomic.Int64 // events that were put aside
}

// process marks the Buses of this process. SQLite has one process: who holds a lease from any other is dead.
var process = rand.Text()

// New makes a Bus; no I/O.
func New(db *store.DB, log *slog.Logger) *Bus {
	b := &Bus{Now: time.Now, db: db, log: log, id: process + "." + rand.Text(), types: map[typeKey]Type{}, woken: make(chan struct{}, 1), moved: make(chan struct{})}
	b.Declare(entitySource, EntityTypes...)
	return b
}

// typeKey tells declarations of one type apart by who sends it.
type typeKey struct{ name, source string }

// Declare makes known which types a source sends. Only these can be published, under that source.
func (b *Bus) Declare(source string, types ...Type) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range types {
		t.Source = source
		b.types[typeKey{t.Name, source}] = t
	}
}

// Types lists what was declared, by name, then by source.
func (b *Bus) Types() []Type {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.types), func(x, y Type) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Source, y.Source))
	})
}
