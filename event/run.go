package event

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

const (
	pollEvery  = 2 * time.Second       // for what was published where nobody could wake us
	busyAgain  = 20 * time.Millisecond // after another replica held the sequence
	sequenceAt = 400                   // events numbered in one transaction
	readAt     = 100                   // events a reader fetches, and handles in one transaction, at most
	batchFor   = 20 * time.Millisecond // after which the transaction takes no further event
	batchRows  = 100                   // rows changed, likewise
	saveEvery  = 1000                  // positions without an event of its own after which a reader stores its cursor
	retryFirst = time.Second
	retryMost  = 10 * time.Minute
	gather     = 100 * time.Millisecond // that events which come in a row are let gather, for who works many together
	tryInvalid = 3                      // times that an event is handled whose handler says that it is Invalid
)

// reader is a subscription at work.
type reader struct {
	Subscription
	send func(ctx context.Context, events []Event) (int, error) // of a Forward; nil for a Subscription
	wake chan struct{}                                          // holds one
	seen atomic.Int64                                           // it has handled, or does not want, everything up to here
}

// Subscribe adds durable readers. It panics when a name is taken: two readers would share one cursor. Call it before Run.
func (b *Bus) Subscribe(subscriptions ...Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range subscriptions {
		for _, r := range b.readers {
			if r.Name == s.Name {
				panic(fmt.Sprintf("event: two subscriptions are called %q", s.Name))
			}
		}
		b.readers = append(b.readers, &reader{Subscription: s, wake: make(chan struct{}, 1)})
	}
}

// Run gives events their positions and feeds the subscriptions until the context ends; it returns nil then. Any number
// of replicas may run: one at a time numbers, and one at a time handles the next event of a subscription.
//
// A handler that fails is tried again with the same event, after 1 s doubling to 10 min; later events of that
// subscription wait, for their order is a promise. Subscriptions shows what is blocked and why, Skip gives an event up. An event that the
// handler calls Invalid three times is put aside, as Skip does: trying it again does not mend it, and one document must not stop all others.
// It is logged and counted, see PutAside.
// While the database is away, Run goes on trying.
func (b *Bus) Run(ctx context.Context) error {
	b.mu.Lock()
	readers := b.readers
	b.running = true
	b.mu.Unlock()
	var wg sync.WaitGroup
	defer func() {
		wg.Wait()
		b.mu.Lock()
		b.running = false
		b.mu.Unlock()
	}()

	if b.db.Engine() == store.Postgres {
		wg.Go(func() { b.listen(ctx) })
	}
	started := false
	for {
		again := pollEvery
		err := b.register(ctx, readers, started)
		if err == nil {
			if !started {
				started = true
				for _, r := range readers {
					if r.send != nil {
						wg.Go(func() { b.forward(ctx, r) })
						continue
					}
					wg.Go(func() { b.read(ctx, r) })
				}
			}
			again, err = b.look(ctx, readers)
		}
		if err != nil && ctx.Err() == nil {
			b.log.WarnContext(ctx, "events wait; trying again", "error", err)
		}
		if !sleep(ctx, again, b.woken) {
			return nil
		}
	}
}

// Watch is Run for a replica that only answers: it numbers nothing and feeds no subscription, but knows within two seconds, and on PostgreSQL at once, what
// others have numbered, so that streams go on.
func (b *Bus) Watch(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if b.db.Engine() == store.Postgres {
		wg.Go(func() { b.listen(ctx) })
	}
	for {
		var last int64
		err := store.Err(b.db.QueryRowContext(ctx, `SELECT last FROM event_sequence WHERE name = 'event'`).Scan(&last))
		if err == nil {
			b.advance(last)
		} else if ctx.Err() == nil {
			b.log.WarnContext(ctx, "events wait; trying again", "error", err)
		}
		if !sleep(ctx, pollEvery, b.woken) {
			return nil
		}
	}
}

// sleep waits for d or a wake; false when the context ended.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-t.C:
	}
	return true
}

// register makes the rows of subscriptions that are new. On SQLite it gives back the leases of processes that are gone.
func (b *Bus) register(ctx context.Context, readers []*reader, done bool) error {
	if done || len(readers) == 0 {
		return nil
	}
	return b.db.Write(ctx, func(tx *store.Tx) error {
		for _, r := range readers {
			from := `(SELECT last FROM event_sequence WHERE name = 'event')`
			if r.Backlog {
				from = `0`
			}
			if _, err := tx.Exec(ctx, `INSERT INTO event_subscription (name, last) VALUES ($1, `+from+`) ON CONFLICT (name) DO NOTHING`, r.Name); err != nil {
				return err
			}
		}
		if b.db.Engine() != store.SQLite {
			return nil
		}
		_, err := tx.Exec(ctx, `UPDATE event_subscription SET lease_owner = '', lease_until = NULL WHERE lease_owner <> '' AND lease_owner NOT LIKE $1`, process+".%")
		return err
	})
}

// look numbers what is committed and wakes the readers that have something to read. At rest it is one query, which asks for the least id so that
// SQLite takes the index of what has no position, and not all events.
func (b *Bus) look(ctx context.Context, readers []*reader) (again time.Duration, err error) {
	again = pollEvery
	var last int64
	var waiting bool
	err = b.db.QueryRowContext(ctx, `SELECT last, (SELECT MIN(id) FROM event WHERE position IS NULL) IS NOT NULL
		FROM event_sequence WHERE name = 'event'`).Scan(&last, &waiting)
	if err != nil {
		return again, store.Err(err)
	}
	if waiting {
		n, top, err := b.sequence(ctx)
		switch {
		case err != nil:
			return again, err
		case top == 0:
			again = busyAgain
		default:
			last = max(last, top)
			if n > 0 {
				b.tellOthers()
			}
			if n == sequenceAt {
				again = 0
			}
		}
	}
	b.advance(last)
	for _, r := range readers {
		if r.seen.Load() < last {
			select {
			case r.wake <- struct{}{}:
			default:
			}
		}
	}
	return again, nil
}

// sequence gives the next positions to events that are committed, in the order of their ids, without holes. It gives how
// many and the last position, or 0 when another replica is at it.
func (b *Bus) sequence(ctx context.Context) (n, last int64, err error) {
	err = b.db.Write(ctx, func(tx *store.Tx) error {
		n, last = 0, 0
		err := tx.QueryRowContext(ctx, `SELECT last FROM event_sequence WHERE name = 'event'`+b.db.SkipLocked()).Scan(&last)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		n, err = tx.Exec(ctx, `UPDATE event SET position = $1 + n.place
			FROM (SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS place
			      FROM (SELECT id FROM event WHERE position IS NULL ORDER BY id LIMIT $2) AS next) AS n
			WHERE event.id = n.id`, last, sequenceAt)
		if err != nil {
			return err
		}
		last += n
		_, err = tx.Exec(ctx, `UPDATE event_sequence SET last = $1 WHERE name = 'event'`, last)
		return err
	})
	return n, last, err
}

// read feeds one subscription.
func (b *Bus) read(ctx context.Context, r *reader) {
	var last time.Time // that it looked for many at once
	for {
		if r.Ahead != nil {
			if !sleep(ctx, gather-time.Since(last), nil) {
				return
			}
			last = time.Now()
		}
		wait, err := b.drain(ctx, r)
		if err != nil && ctx.Err() == nil {
			b.log.WarnContext(ctx, "a subscription could not read; trying again", "subscription", r.Name, "error", err)
			wait = pollEvery
		}
		if !sleep(ctx, wait, r.wake) {
			return
		}
	}
}

// forever is how long a reader sleeps when nothing but a wake can bring it work.
const forever = time.Hour

// drain handles what there is, and says after how long to look again without being woken.
func (b *Bus) drain(ctx context.Context, r *reader) (time.Duration, error) {
	for {
		last := b.last.Load() // everything up to here is committed and stays as it is
		var cursor int64
		var retryAt store.Time
		err := b.db.QueryRowContext(ctx, `SELECT last, retry_at FROM event_subscription WHERE name = $1`, r.Name).Scan(&cursor, &retryAt)
		if err != nil {
			return 0, store.Err(err)
		}
		if wait := retryAt.Sub(b.Now()); !retryAt.IsZero() && wait > 0 {
			return wait, nil
		}
		from := max(cursor, r.seen.Load())
		events, err := b.between(ctx, from, last, r.Types)
		if err != nil {
			return 0, err
		}
		todo := events
		if r.Ahead != nil && len(events) > 0 {
			ahead, err := r.Ahead(ctx, events)
			if err != nil {
				return 0, err
			}
			todo = nil
			for i, e := range events {
				if !ahead[i] {
					todo = append(todo, e)
				}
			}
		}
		if all, wait, err := b.handleAll(ctx, r, todo); !all || err != nil {
			return wait, err
		}
		if len(events) > 0 {
			r.seen.Store(events[len(events)-1].Position)
		}
		if len(events) == readAt {
			continue
		}
		r.seen.Store(max(last, r.seen.Load()))
		if last-cursor >= saveEvery {
			return forever, b.save(ctx, r, last)
		}
		return forever, nil
	}
}

func (b *Bus) between(ctx context.Context, after, last int64, types []string) ([]Event, error) {
	if after >= last {
		return nil, nil
	}
	args := []any{after, last}
	condition := ofTypes(types, &args)
	rows, err := b.db.QueryContext(ctx, `SELECT `+columns+` FROM event
		WHERE position > $1 AND position <= $2`+condition+fmt.Sprintf(` ORDER BY position LIMIT %d`, readAt), args...)
	if err != nil {
		return nil, store.Err(err)
	}
	return scan(rows)
}

// handleAll handles events in their order, many in a transaction. It says whether all are handled, and if not, after how long to look again without being woken.
//
// A handler that fails takes back what those before it did in the same transaction, so these come again, without it; then it comes first, and what it says then is said
// of it alone.
func (b *Bus) handleAll(ctx context.Context, r *reader, events []Event) (all bool, wait time.Duration, err error) {
	for most := len(events); len(events) > 0; {
		n, bad, err := b.handle(ctx, r, events[:min(most, len(events))])
		switch {
		case ctx.Err() != nil:
			return false, 0, nil
		case err != nil && bad > 0:
			most = bad
			continue
		case err != nil:
			wait, err := b.refused(ctx, r, events[0], err)
			return false, wait, err
		case n == 0:
			return false, forever, nil // another replica reads; the poll looks whether it lives
		}
		r.seen.Store(events[n-1].Position)
		events = events[n:]
		most = len(events)
	}
	return true, 0, nil
}

// handle runs the handler for some of the first events and moves the cursor behind them, in one transaction that holds the subscription's row. It says how many are
// handled; 0: the row is held elsewhere. With an error none is, and bad says how many to try next: those before the one that failed, one where no handler was to blame, or
// none when the first failed.
func (b *Bus) handle(ctx context.Context, r *reader, events []Event) (n, bad int, err error) {
	lock := `SELECT last, retry_at FROM event_subscription WHERE name = $1` + b.db.SkipLocked()
	err = b.db.Write(ctx, func(tx *store.Tx) error {
		n, bad = 0, min(len(events)-1, 1)
		var cursor int64
		var retryAt store.Time
		switch err := tx.QueryRowContext(ctx, lock, r.Name).Scan(&cursor, &retryAt); {
		case errors.Is(err, sql.ErrNoRows):
			return nil
		case err != nil:
			return err
		}
		for n < len(events) && events[n].Position <= cursor { // another replica was faster
			n++
		}
		if n > 0 || retryAt.After(b.Now()) { // or has just failed with it
			return nil
		}
		began := time.Now()
		for _, e := range events {
			if n > 0 && (time.Since(began) > batchFor || tx.Rows() > batchRows) {
				break
			}
			if err := call(ctx, r.Handle, tx, e); err != nil {
				bad = n
				return err
			}
			n++
		}
		_, err := tx.Exec(ctx, `UPDATE event_subscription SET last = $2, blocked = NULL, failures = 0, retry_at = NULL, error = ''
			WHERE name = $1`, r.Name, events[n-1].Position)
		return err
	})
	return n, bad, err
}

func call(ctx context.Context, h Handler, tx *store.Tx, e Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v", p)
		}
	}()
	return h(ctx, tx, e)
}

// refused stores that the handler failed with an event, and says when to try again.
func (b *Bus) refused(ctx context.Context, r *reader, e Event, cause error) (time.Duration, error) {
	var wait time.Duration
	var aside bool
	err := b.db.Write(ctx, func(tx *store.Tx) error {
		wait, aside = 0, false
		var failures int64
		err := tx.QueryRowContext(ctx, `UPDATE event_subscription SET failures = failures + 1, blocked = $2, error = $3
			WHERE name = $1 AND last < $2 RETURNING failures`, r.Name, e.Position, clip(cause.Error())).Scan(&failures)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // it was handled elsewhere meanwhile
		} else if err != nil {
			return err
		}
		if failures >= tryInvalid && slipway.CodeOf(cause) == slipway.Invalid {
			aside = true
			_, err = tx.Exec(ctx, `UPDATE event_subscription SET last = $2, blocked = NULL, failures = 0, retry_at = NULL, error = '' WHERE name = $1`, r.Name, e.Position)
			return err
		}
		wait = backOff(failures)
		_, err = tx.Exec(ctx, `UPDATE event_subscription SET retry_at = $2 WHERE name = $1`, r.Name, store.At(b.Now().Add(wait)))
		return err
	})
	if aside && err == nil {
		b.aside.Add(1)
		b.log.ErrorContext(ctx, "an event was refused as invalid several times and is put aside; mend what it is about, which sends another one", "subscription", r.Name,
			"type", e.Type, "subject", e.Subject, "position", e.Position, "error", cause)
		return 0, nil
	}
	b.log.ErrorContext(ctx, "an event was refused; it and those after it wait", "subscription", r.Name,
		"type", e.Type, "subject", e.Subject, "position", e.Position, "retry", wait, "error", cause)
	return wait, err
}

// PutAside says how many events this Bus has put aside since it was made: a metric that should stay 0.
func (b *Bus) PutAside() int64 { return b.aside.Load() }

// backOff is the wait after a number of failures, jittered to between half and all of it.
func backOff(failures int64) time.Duration {
	d := retryMost
	if failures < 20 {
		d = min(d, retryFirst<<(failures-1))
	}
	return d/2 + rand.N(d/2)
}

func clip(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	if len(s) > 1000 {
		return strings.ToValidUTF8(s[:1000], "") + "…"
	}
	return s
}

// save stores that there was nothing for the subscription up to a position. Without it, a reader of rare events would look
// through all of them at the next start.
func (b *Bus) save(ctx context.Context, r *reader, last int64) error {
	return b.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE event_subscription SET last = $2 WHERE name = $1 AND last < $2 AND blocked IS NULL`, r.Name, last)
		return err
	})
}

// listen wakes this replica when another one has published or numbered events.
func (b *Bus) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := b.listenOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		b.log.WarnContext(ctx, "the connection that listens for events ended; it is made again", "error", err)
		sleep(ctx, time.Second+rand.N(time.Second), nil)
	}
}

func (b *Bus) listenOnce(ctx context.Context) error {
	conn, err := b.db.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, `LISTEN `+channel); err != nil {
		return err
	}
	b.wake() // what came before we listened
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if n.Payload != b.id {
			b.wake()
		}
	}
}
