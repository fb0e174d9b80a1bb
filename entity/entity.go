// Package entity is the catalog's tables and what others need of them: read an entity, put the entities
// of a source, and the condition that limits a query to what a caller may read. It knows
// neither files nor HTTP; parsing and ingestion are the catalog blueprint's.
package entity

import (
	"context"
	"embed"
	"encoding/json"
	"io/fs"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

//go:embed migrations
var files embed.FS

// Migrations is the schema of a Store. It needs that of store.Revisions where Store.Revisions is set.
var Migrations = store.Migrations{Owner: "entity", FS: func() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err)
	}
	return sub
}()}

// ReadPermission is the permission that lets a caller see an entity, and with it the builds, events and metrics of
// that entity. It is granted for all, for refs and patterns, or for ":owned".
const ReadPermission = "catalog.entity.read"

// Revision is the name in store.Revisions that is bumped whenever an entity changes.
const Revision = "entity"

// The types of the events that every change sends, with the entity's ref as subject, in CDEvents' form for words of one's own.
const (
	EventCreated  = "dev.cdeventsx.slipway-entity.created.0.1.0"
	EventModified = "dev.cdeventsx.slipway-entity.modified.0.1.0"
	EventRemoved  = "dev.cdeventsx.slipway-entity.removed.0.1.0"
)

// Events are the types of the events that every change sends, for who follows them.
var Events = []string{EventCreated, EventModified, EventRemoved}

// Store reads and writes entities in the main database. Safe for concurrent use.
type Store struct {
	// Revisions, when set before first use, is bumped in every transaction that changes entities.
	Revisions *store.Revisions
	// Announce, when set before first use, is told of every change inside its transaction. The server sets it to the
	// Announce of the event bus, so that whoever puts entities sends the events.
	Announce func(ctx context.Context, tx *store.Tx, changes []Change) error

	db        *store.DB
	read      store.Querier // db, unless a test listens
	now       func() time.Time
	cache     cache
	terms     terms
	plans     plans
	driveMost int // see there
}

// Change is one entity that was created, changed or removed.
type Change struct {
	ID     int64
	Ref    slipway.EntityRef // canonical
	Action Action
}

// Action is what happened to an entity.
type Action string

// The actions.
const (
	Created Action = "created"
	Updated Action = "updated"
	Removed Action = "removed"
)

// New makes a Store; no I/O.
func New(db *store.DB, now func() time.Time) *Store {
	return &Store{db: db, read: db, now: now, driveMost: driveMost}
}

// Row is a stored entity. JSON is the whole document with uid, etag and relations, as it is answered.
type Row struct {
	ID        int64
	Ref       slipway.EntityRef // lower case
	UID       string
	ETag      string
	Owner     string // canonical ref of spec.owner, or ""
	System    string // canonical ref of spec.system, or ""
	JSON      json.RawMessage
	Source    string // who brings it: "location:<id>", "tool:<name>", "api"
	UpdatedAt time.Time
	Orphan    bool // its source no longer brings it
}
