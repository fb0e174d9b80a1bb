package event

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-platform/slipway/store"
)

const (
	leaseFor     = 30 * time.Second // renewed with every batch; what a killed replica holds is free after it, on SQLite at the next start
	sendWithin   = 20 * time.Second // less than leaseFor, so that nobody sends without a lease
	forwardRetry = 30 * time.Second // longest wait before a broker that is away is asked again
)

// Forward is a durable reader that hands events to something outside of the database, such as a broker: in order, at least once, and by one replica at a time, which
// holds a lease on the subscription's row.
type Forward struct {
	Name    string   // "<blueprint>.<what>"; the cursor's key
	Types   []string // exact names, or a prefix ending in *
	Backlog bool     // as of a Subscription

	// Send hands events over, in their order, and says how many of them arrived for certain. It runs outside of any transaction and ends when ctx does. What did not
	// arrive is sent again, after a wait that grows to half a minute; what comes after it waits. A batch may be sent twice.
	Send func(ctx context.Context, events []Event) (arrived int, err error)
}

// Forward adds readers of this kind. It panics when a name is taken. Call it before Run.
func (b *Bus) Forward(forwards ...Forward) {
	for _, f := range forwards {
		b.Subscribe(Subscription{Name: f.Name, Types: f.Types, Backlog: f.Backlog})
		b.readers[len(b.readers)-1].send = f.Send
	}
}

// forward hands over what there is, until ctx ends.
func (b *Bus) forward(ctx context.Context, r *reader) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := b.releaseLease(ctx, r); err != nil {
			b.log.WarnContext(ctx, "the lease of a subscription was not given back; it ends by itself", "subscription", r.Name, "error", err)
		}
	}()
	for ctx.Err() == nil {
		wait, err := b.forwardAll(ctx, r)
		if err != nil && ctx.Err() == nil {
			b.log.WarnContext(ctx, "a subscription could not go on; trying again", "subscription", r.Name, "error", err)
			wait = pollEvery
		}
		if !sleep(ctx, wait, r.wake) {
			return
		}
	}
}

// forwardAll sends batches until there is nothing left or something went wrong, and says after how long to look again without being woken.
func (b *Bus) forwardAll(ctx context.Context, r *reader) (time.Duration, error) {
	for {
		last := b.last.Load()
		if r.seen.Load() >= last {
			return forever, nil
		}
		cursor, mine, err := b.lease(ctx, r)
		if err != nil || !mine {
			return pollEvery, err // another replica is at it, or the next attempt is not due
		}
		events, err := b.between(ctx, cursor, last, r.Types)
		if err != nil {
			return 0, err
		}
		if len(events) == 0 {
			r.seen.Store(last)
			return forever, b.moveLease(ctx, r, last)
		}
		send, cancel := context.WithTimeout(ctx, sendWithin)
		arrived, failure := callSend(send, r.send, events)
		cancel()
		if ctx.Err() != nil {
			return 0, nil
		}
		if arrived > 0 {
			if err := b.moveLease(ctx, r, events[arrived-1].Position); err != nil {
				return 0, err
			}
		}
		if failure != nil || arrived < len(events) {
			if failure == nil {
				failure = errors.New("it took only a part")
			}
			return b.notForwarded(ctx, r, events[arrived], failure)
		}
	}
}

func callSend(ctx context.Context, send func(context.Context, []Event) (int, error), events []Event) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v", p)
		}
	}()
	return send(ctx, events)
}

// lease takes or renews the subscription, unless another replica has it or it waits for its next attempt.
func (b *Bus) lease(ctx context.Context, r *reader) (cursor int64, mine bool, err error) {
	now := b.Now()
	err = b.db.Write(ctx, func(tx *store.Tx) error {
		mine = false
		err := tx.QueryRowContext(ctx, `UPDATE event_subscription SET lease_owner = $1, lease_until = $2
			WHERE name = $3 AND (lease_until IS NULL OR lease_until < $4 OR lease_owner = $1) AND (retry_at IS NULL OR retry_at <= $4) RETURNING last`,
			b.id, store.At(now.Add(leaseFor)), r.Name, store.At(now)).Scan(&cursor)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		mine = err == nil
		return err
	})
	return cursor, mine, err
}

// errLease says that another replica has taken the subscription over.
var errLease = errors.New("another replica holds the lease")

// moveLease notes how far it came.
func (b *Bus) moveLease(ctx context.Context, r *reader, position int64) error {
	return b.db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE event_subscription SET last = $1, blocked = NULL, failures = 0, retry_at = NULL, error = '' WHERE name = $2 AND lease_owner = $3 AND last <= $1`,
			position, r.Name, b.id)
		if err == nil && n == 0 {
			err = errLease
		}
		return err
	})
}

func (b *Bus) releaseLease(ctx context.Context, r *reader) error {
	return b.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE event_subscription SET lease_owner = '', lease_until = NULL WHERE name = $1 AND lease_owner = $2`, r.Name, b.id)
		return err
	})
}

// notForwarded stores that an event did not arrive, and says when to try again.
func (b *Bus) notForwarded(ctx context.Context, r *reader, e Event, cause error) (wait time.Duration, err error) {
	var failures int64
	err = b.db.Write(ctx, func(tx *store.Tx) error {
		err := tx.QueryRowContext(ctx, `UPDATE event_subscription SET failures = failures + 1, blocked = $2, error = $3 WHERE name = $1 AND lease_owner = $4 RETURNING failures`,
			r.Name, e.Position, clip(cause.Error()), b.id).Scan(&failures)
		if errors.Is(err, sql.ErrNoRows) {
			return errLease
		} else if err != nil {
			return err
		}
		wait = min(backOff(failures), forwardRetry)
		_, err = tx.Exec(ctx, `UPDATE event_subscription SET retry_at = $2 WHERE name = $1`, r.Name, store.At(b.Now().Add(wait)))
		return err
	})
	level := b.log.WarnContext
	if failures > 1 {
		level = b.log.DebugContext // once is enough for a broker that is away
	}
	level(ctx, "events wait: what they are handed to does not take them", "subscription", r.Name, "position", e.Position, "failures", failures, "error", cause)
	return min(wait, pollEvery), err
}
