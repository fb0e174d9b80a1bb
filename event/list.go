package event

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
)

const columns = `position, uid, source, type, subject, COALESCE(occurred, time), data, entity_id, origin`

// maxLook is how many positions one List looks at for a caller or types that leave most of them out.
const maxLook = 5_000

// List gives the events after a position, in order, at most limit (1 to 1,000), and the position to read on after: 0 when everything there is was looked at. One call looks
// at a bounded stretch, so it may give few events, or none, and still a position. Types are exact names or prefixes ending in *; none means all. A caller with
// ReadPermission on all sees every event. Others see those of entities that they may read, where they hold what the event's type asks for as its source declared it (Type.Permission); what
// was not declared on this Bus is not shown to them. An event that is not listed yet always gets a higher position than those that are.
func (b *Bus) List(ctx context.Context, caller *slipway.Caller, after int64, types []string, limit int) (events []Event, next int64, err error) {
	if limit < 1 || limit > 1000 {
		return nil, 0, slipway.Errorf(slipway.Invalid, "limit must be from 1 to 1000")
	}
	var first, last sql.NullInt64 // of what is kept; what was pruned need not be looked at
	if err := b.db.QueryRowContext(ctx, `SELECT (SELECT MIN(position) FROM event WHERE position > $1), (SELECT MAX(position) FROM event)`, after).Scan(&first, &last); err != nil {
		return nil, 0, store.Err(err)
	}
	if !first.Valid {
		return nil, 0, nil
	}
	end := first.Int64 + maxLook - 1
	args := []any{after, end}
	condition := ofTypes(types, &args)
	if !entity.All(caller, ReadPermission) {
		condition += b.readable(caller, &args)
	}
	if b.Restrict != nil {
		if restricted, more := b.Restrict(ctx, caller, "event.origin", len(args)+1); restricted != "" {
			condition += " AND (event.origin = 0 OR " + restricted + ")"
			args = append(args, more...)
		}
	}
	rows, err := b.db.QueryContext(ctx, `SELECT `+columns+` FROM event
		WHERE position > $1 AND position <= $2`+condition+fmt.Sprintf(` ORDER BY position LIMIT %d`, limit), args...)
	if err != nil {
		return nil, 0, store.Err(err)
	}
	if events, err = scan(rows); err != nil {
		return nil, 0, err
	}
	if len(events) == limit {
		end = events[limit-1].Position
	}
	if end < last.Int64 {
		next = end
	}
	return events, next, nil
}

// readable is the condition on the events that a caller without ReadPermission on all may read.
func (b *Bus) readable(caller *slipway.Caller, args *[]any) string {
	permissions := map[string]map[string][]string{} // what it takes → source → types
	for _, t := range b.Types() {
		if permissions[t.Permission] == nil {
			permissions[t.Permission] = map[string][]string{}
		}
		permissions[t.Permission][t.Source] = append(permissions[t.Permission][t.Source], t.Name)
	}
	arg := func(v string) string {
		*args = append(*args, v)
		return fmt.Sprintf("$%d", len(*args))
	}
	var or []string
	for _, permission := range slices.Sorted(maps.Keys(permissions)) {
		var sent []string
		for _, source := range slices.Sorted(maps.Keys(permissions[permission])) {
			var in []string
			for _, name := range permissions[permission][source] {
				in = append(in, arg(name))
			}
			sent = append(sent, "event.source = "+arg(source)+" AND event.type IN ("+strings.Join(in, ", ")+")")
		}
		one := "(" + strings.Join(sent, " OR ") + ")"
		if permission != "" {
			holding, more := entity.Holding(caller, permission, "e", len(*args)+1)
			*args = append(*args, more...)
			one += " AND " + holding
		}
		or = append(or, "("+one+")")
	}
	readable, more := entity.Readable(caller, "e", len(*args)+1)
	*args = append(*args, more...)
	return ` AND EXISTS (SELECT 1 FROM entity e WHERE e.id = event.entity_id AND ` + readable + ` AND (` + strings.Join(or, " OR ") + `))`
}

// ofTypes is " AND (type = $3 OR …)", or "" for all types.
func ofTypes(types []string, args *[]any) string {
	var or []string
	for _, t := range types {
		if prefix, ok := strings.CutSuffix(t, "*"); ok {
			if prefix == "" {
				return ""
			}
			*args = append(*args, prefix, prefix+"\U0010FFFF")
			or = append(or, fmt.Sprintf("(type >= $%d AND type < $%d)", len(*args)-1, len(*args)))
			continue
		}
		*args = append(*args, t)
		or = append(or, fmt.Sprintf("type = $%d", len(*args)))
	}
	if or == nil {
		return ""
	}
	return " AND (" + strings.Join(or, " OR ") + ")"
}

func scan(rows *sql.Rows) ([]Event, error) {
	var events []Event
	err := store.Each(rows, func(rows *sql.Rows) error {
		e := Event{SpecVersion: SpecVersion}
		var at store.Time
		var data sql.NullString
		if err := rows.Scan(&e.Position, &e.ID, &e.Source, &e.Type, &e.Subject, &at, &data, &e.EntityID, &e.Origin); err != nil {
			return err
		}
		e.Time = at.Time
		if data.Valid {
			e.Data, e.DataContentType = json.RawMessage(data.String), ContentType
		}
		events = append(events, e)
		return nil
	})
	return events, err
}

// State is where a subscription stands.
type State struct {
	Name     string     `json:"name" doc:"Name of the subscription" example:"build.bind"`
	Position int64      `json:"position" doc:"Position up to which events are handled"`
	Behind   int64      `json:"behind" doc:"How many positions there are after it; events of other types count too"`
	Blocked  int64      `json:"blocked,omitempty" doc:"Position of the event that its handler refuses; 0 when all is well"`
	Failures int64      `json:"failures,omitempty" doc:"How often it was refused"`
	RetryAt  *time.Time `json:"retryAt,omitempty" nullable:"true" doc:"When it is tried again"`
	Error    string     `json:"error,omitempty" doc:"Why it was refused"`
}

// Subscriptions lists all subscriptions that the database knows, by name: also those of blueprints that do not run here.
func (b *Bus) Subscriptions(ctx context.Context) ([]State, error) {
	rows, err := b.db.QueryContext(ctx, `SELECT s.name, s.last, q.last - s.last, COALESCE(s.blocked, 0), s.failures, s.retry_at, s.error
		FROM event_subscription s, event_sequence q WHERE q.name = 'event' ORDER BY s.name`)
	if err != nil {
		return nil, store.Err(err)
	}
	var states []State
	err = store.Each(rows, func(rows *sql.Rows) error {
		var s State
		var retryAt store.Time
		if err := rows.Scan(&s.Name, &s.Position, &s.Behind, &s.Blocked, &s.Failures, &retryAt, &s.Error); err != nil {
			return err
		}
		s.RetryAt = retryAt.Ptr()
		states = append(states, s)
		return nil
	})
	return states, err
}

// Skip gives up the event that blocks a subscription; the next one is handled within two seconds. NotFound when there is no such
// subscription, Conflict when it is not blocked.
func (b *Bus) Skip(ctx context.Context, name string) error {
	return b.db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE event_subscription SET last = blocked, blocked = NULL, failures = 0, retry_at = NULL, error = ''
			WHERE name = $1 AND blocked IS NOT NULL`, name)
		if err != nil || n == 1 {
			return err
		}
		var known bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM event_subscription WHERE name = $1)`, name).Scan(&known); err != nil {
			return err
		}
		if !known {
			return slipway.Errorf(slipway.NotFound, "there is no subscription %q", name)
		}
		return slipway.Errorf(slipway.Conflict, "subscription %q is not blocked; there is nothing to skip", name)
	})
}

// Prune deletes events older than a time, at most 500 in one transaction, and says how many. It keeps what a
// subscription of this Bus has not handled yet.
func (b *Bus) Prune(ctx context.Context, before time.Time) (int64, error) {
	handled, err := b.handled(ctx)
	if err != nil {
		return 0, err
	}
	var total int64
	for {
		var n int64
		err := b.db.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Exec(ctx, `DELETE FROM event WHERE id IN
				(SELECT id FROM event WHERE time < $1 AND position <= $2 ORDER BY time LIMIT 500)`, store.At(before), handled)
			return err
		})
		total += n
		if err != nil || n < 500 {
			return total, err
		}
	}
}

// handled is the position up to which every subscription of this Bus is done.
func (b *Bus) handled(ctx context.Context) (int64, error) {
	states, err := b.Subscriptions(ctx)
	if err != nil {
		return 0, err
	}
	var least int64
	if err := b.db.QueryRowContext(ctx, `SELECT last FROM event_sequence WHERE name = 'event'`).Scan(&least); err != nil {
		return 0, store.Err(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range states {
		for _, r := range b.readers {
			if r.Name == s.Name {
				least = min(least, s.Position)
			}
		}
	}
	return least, nil
}
