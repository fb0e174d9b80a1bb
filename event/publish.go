package event

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Publish writes an event in the transaction that causes it. It fills in the ID and the Time where they are empty; the
// position follows after the commit. An event of a type that was not declared for its source, or with data that is no JSON, is
// an Internal error: it is a fault of the code that publishes.
func (b *Bus) Publish(ctx context.Context, tx *store.Tx, e Event) error {
	return b.PublishAll(ctx, tx, []Event{e})
}

// PublishAll publishes several events in their order, at the cost of one statement per hundred.
func (b *Bus) PublishAll(ctx context.Context, tx *store.Tx, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	for _, e := range events {
		if err := b.check(e); err != nil {
			return err
		}
	}
	var position int64 // of the first; 0: the sequencer gives it
	if b.db.Engine() == store.SQLite {
		// There is one writer, so that the order of writing is the order of commits.
		err := tx.QueryRowContext(ctx, `UPDATE event_sequence SET last = last + $1 WHERE name = 'event' RETURNING last`, len(events)).Scan(&position)
		if err != nil {
			return store.Err(err)
		}
		position -= int64(len(events)) - 1
	}
	const columns, rows = 10, 100
	for start := 0; start < len(events); start += rows {
		var sql strings.Builder
		var args []any
		for i, e := range events[start:min(start+rows, len(events))] {
			if i > 0 {
				sql.WriteString(", ")
			}
			values(&sql, len(args), columns)
			args = append(args, b.row(e, position)...)
			if position > 0 {
				position++
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO event (position, uid, source, type, subject, time, data, entity_id, origin, occurred) VALUES `+sql.String(), args...)
		if err != nil {
			return err
		}
	}
	tx.AfterCommit(b.published)
	return nil
}

func (b *Bus) check(e Event) error {
	b.mu.Lock()
	_, known := b.types[typeKey{e.Type, e.Source}]
	b.mu.Unlock()
	switch {
	case !known:
		return slipway.Errorf(slipway.Internal, "event type %q is not declared for the source %q; add it to the Events of the blueprint that publishes it, whose source is /slipway/<its name>", e.Type, e.Source)
	case e.Data != nil && !json.Valid(e.Data):
		return slipway.Errorf(slipway.Internal, "an event of type %q has data that is no JSON", e.Type)
	}
	return nil
}

func (b *Bus) row(e Event, position int64) []any {
	if e.ID == "" {
		e.ID = uuid.Must(uuid.NewV7()).String()
	}
	now := b.Now()
	var place, data, occurred any
	if position > 0 {
		place = position
	}
	if !e.Time.IsZero() && !e.Time.Equal(now) {
		occurred = store.At(e.Time)
	}
	if e.Data != nil {
		data = string(e.Data)
	}
	return []any{place, e.ID, e.Source, e.Type, e.Subject, store.At(now), data, e.EntityID, e.Origin, occurred}
}

// values writes "($4, $5, $6)".
func values(sql *strings.Builder, start, n int) {
	for i := range n {
		sql.WriteString([]string{"($", ", $"}[min(i, 1)])
		sql.WriteString(strconv.Itoa(start + i + 1))
	}
	sql.WriteByte(')')
}

// published wakes the sequencer: ours when it runs, else those of other replicas.
func (b *Bus) published() {
	b.wake()
	b.mu.Lock()
	running := b.running
	b.mu.Unlock()
	if !running {
		b.tellOthers()
	}
}

func (b *Bus) wake() {
	select {
	case b.woken <- struct{}{}:
	default: // somebody will look anyway
	}
}

const channel = "slipway_event"

// tellOthers sends a notification to the other replicas. However many ask, one at a time is under way: NOTIFY holds a
// lock of the whole server while it commits, and must not slow down those who publish.
func (b *Bus) tellOthers() {
	if b.db.Engine() != store.Postgres {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notify = true
	if b.notifying {
		return
	}
	b.notifying = true
	go func() {
		for b.takeNotify() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_, err := b.db.Writer().ExecContext(ctx, `SELECT pg_notify($1, $2)`, channel, b.id)
			cancel()
			if err != nil {
				b.log.Debug("other replicas were not notified of events; they look every two seconds", "error", err)
			}
		}
	}()
}

func (b *Bus) takeNotify() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	wanted := b.notify
	b.notify, b.notifying = false, wanted
	return wanted
}
