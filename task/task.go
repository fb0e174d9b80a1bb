// Package task is the engine behind /api/{task}/by-entity/…: it binds entities to sources (one project at one
// provider) by annotation, keeps an index of items in SQL, keeps it fresh by jobs and webhooks, and answers merged, stable, cursor-paged
// lists that say how fresh each source is. It is generic over the item: a new task is a struct, a provider capability and a table.
//
// Reads come from the index alone, in two queries, and cost the same however long the history is. A vendor that is down makes data old,
// not absent. What an answer shows is limited by the caller's rights inside the SQL.
package task

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/provider"
)

// Task declares a platform task over items of type T. T is written as JSON with an "entityRef" on its top level.
type Task[T any] struct {
	Name       string   // "build": the path segment, the table "<name>_item", the queue and the job kinds "<name>.refresh" …
	Text       string   // one sentence
	Permission string   // what a caller must hold on an entity to see its items
	Base       []string // the base set of fields, as named in JSON
	Actions    []string // the base set of actions: "retrigger", "start", "logs"
	Statuses   []string // every status that an item can have
	Fields     []Field[T]

	// Row tells the index what it must know of an item as the provider gave it.
	Row func(*T) Row
	// Adorn writes what the index knows into an item that a provider gave: id with prefix, provider, the user entity. person fills in
	// the EntityRef of a person whom the catalog knows; it takes nil.
	Adorn func(item *T, p slipway.ProviderRef, person func(*slipway.Person))
	// List is the provider's capability; nil when it cannot. Required.
	List func(*provider.Provider) func(ctx context.Context, project string, o provider.ListOptions) (provider.Page[T], error)
	// Get reads one item by the vendor's id; nil, or a nil result, when the provider cannot.
	Get func(*provider.Provider) func(ctx context.Context, project, id string) (T, error)
	// Gone makes of an unfinished item what is kept when the vendor no longer has it: a finished one. May be nil, then it is left as it is.
	Gone func(*T)
	// Of reads an item out of a webhook's delivery, nil when it holds none of this task: then the project is read again, unless the delivery names another task. nil: only deliveries that
	// name this task count, and have the project read again.
	Of func(provider.Delivery) *T
	// Can lists the actions that a provider offers. May be nil.
	Can func(*provider.Provider) []string
	// Events makes the events for a change of an item that an entity is told of, with the source /slipway/<Name>; who may read them is filled in. It is called inside a
	// transaction, once for each entity that the item belongs to, and not for history that is read for the first time, of which HistoryType tells. May be nil: then nothing is told, of history either.
	Events func(Change[T]) []event.Event
	// MaxEvents is how many Events may give for one change and entity; 0 is 1.
	MaxEvents int
	// Earlier is what Events wants to know of other items. nil: nothing.
	Earlier *Earlier[T]
}

// Change is an item that is new, or stands otherwise than before, for one of the entities that it belongs to.
type Change[T any] struct {
	Before    *T     // nil for a new item
	Now       *T     // as it is stored
	EntityRef string // in lower case
	Items     string // absolute address of the entity's items in Slipway's own API: with an item's id behind it, escaped, that of the item
	Earlier   []T    // newest first, at most 20; none where Task.Earlier does not ask
}

// Earlier asks for the items of the same source that were created before the one that changed.
type Earlier[T any] struct {
	Wanted func(before, now *T) bool // whether to look for them
	Field  string                    // name of the field whose value they share with it
	Status string                    // the status that they have
}

// HistoryEvent is the type of event that tells of items of a task of which no event of their own tells. Its data is a ToldStretch; its origin is the source; it is about no entity, so that only who may
// read all events sees it.
func HistoryEvent(task string) string {
	return "dev.cdeventsx.slipway-" + strings.ReplaceAll(task, "-", "") + "history.indexed.0.1.0"
}

// ToldStretch is the data of an event of the type HistoryEvent.
type ToldStretch = event.CDEvent[Stretch, struct{}]

// Stretch is what such an event says: items of one project, by creation. They are in the index when it is sent.
type Stretch struct {
	Provider string     `json:"provider" doc:"Provider of the items" example:"github"`
	Project  string     `json:"project" doc:"Project at the provider" example:"octo/web"`
	From     *time.Time `json:"from,omitempty" doc:"When the first of the items was created; absent: all of the project that is in the index"`
	Until    *time.Time `json:"until,omitempty" doc:"When the last of them was created; absent as from is"`
}

// HistoryType declares the event HistoryEvent, for the Events of the task's blueprint.
func (t Task[T]) HistoryType() event.Type {
	return event.Type{
		Name: HistoryEvent(t.Name), Object: "project", Permission: event.ReadPermission, Data: ToldStretch{},
		Text: "The index has items of a project that no events of their own tell of: its history was read, or one more entity has the project",
	}
}

// Field is something that a search can filter by; it is a column of interned values, an integer.
type Field[T any] struct {
	Name string // "branch": the query parameter
	Text string
	// Of gives every way to write the value; any of them finds the item. The first that is not empty is stored. None: the item has no value.
	Of func(*T) []string
	// Person: the value is a person; case does not matter, and a user's entity ref finds the accounts of that user.
	Person bool
}

// column is the name of the field's column: "triggered_by_id" for "triggeredBy".
func (f Field[T]) column() string { return column(f.Name) }

func column(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String() + "_id"
}

// Row is what the index stores in columns.
type Row struct {
	ID       string    // the vendor's id
	Created  time.Time // the order; frozen at first sight
	Version  int64     // grows with each state of the item: an older one never replaces a newer one
	Status   string
	Finished bool // the item is not expected to change any more
}

// Info is what people and programs are told of a task.
type Info struct {
	Name       string   `json:"name" doc:"Path segment" example:"build"`
	Text       string   `json:"text" doc:"What an item is"`
	Permission string   `json:"permission" doc:"What it takes to see an entity's items"`
	Fields     []string `json:"fields" doc:"The base set: fields that every provider of this task gives"`
	Actions    []string `json:"actions" doc:"The base set of actions; a provider may lack some"`
	Statuses   []string `json:"statuses" doc:"Where an item can stand"`
	Filters    []Filter `json:"filters" doc:"What a search can filter by, beside status, since and until"`
}

// Filter is one thing that a search can filter by.
type Filter struct {
	Name string `json:"name" doc:"Query parameter"`
	Text string `json:"text" doc:"What it matches"`
}

// Info describes the task.
func (t Task[T]) Info() Info {
	info := Info{Name: t.Name, Text: t.Text, Permission: t.Permission, Fields: t.Base, Actions: t.Actions, Statuses: t.Statuses, Filters: []Filter{}}
	for _, f := range t.Fields {
		info.Filters = append(info.Filters, Filter{f.Name, f.Text})
	}
	return info
}

// Table is the migration that makes the task's table: the text to put into the blueprint's first migration file. Write it
// there once; a field that comes later is a further migration of the blueprint's own.
//
// Rows lie in the order of lists, source by source, so that a page is one short stretch of one tree. Every index ends in that order
// too: a filter is a stretch of its index, never a scan of a source's history.
func (t Task[T]) Table() string {
	table := t.Name + "_item"
	var b strings.Builder
	fmt.Fprintf(&b, `-- +goose Up
CREATE TABLE %s (
    source_id BIGINT  NOT NULL,
    created   BIGINT  NOT NULL,
    id        TEXT    NOT NULL,
    version   BIGINT  NOT NULL,
    status    TEXT    NOT NULL,
    finished  BOOLEAN NOT NULL,
`, table)
	for _, f := range t.Fields {
		fmt.Fprintf(&b, "    %s BIGINT,\n", f.column())
	}
	fmt.Fprintf(&b, `    doc       TEXT    NOT NULL,
    PRIMARY KEY (source_id, created, id)
) {clustered};
CREATE UNIQUE INDEX %[1]s_id ON %[1]s (source_id, id);
CREATE INDEX %[1]s_status ON %[1]s (source_id, status, created, id);
`, table)
	for _, f := range t.Fields {
		fmt.Fprintf(&b, "CREATE INDEX %[1]s_%[2]s ON %[1]s (source_id, %[2]s, created, id) WHERE %[2]s IS NOT NULL;\n", table, f.column())
	}
	fmt.Fprintf(&b, `CREATE INDEX %[1]s_created ON %[1]s (created, source_id, id);
CREATE INDEX %[1]s_status_created ON %[1]s (status, created, source_id, id);
CREATE INDEX %[1]s_unfinished ON %[1]s (source_id, created) WHERE NOT finished;

-- +goose Down
DROP TABLE %[1]s;
`, table)
	return b.String()
}
