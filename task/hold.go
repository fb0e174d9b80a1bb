package task

import (
	"context"
	"database/sql"
	"log/slog"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

// holds is provider.Holds of all replicas. What is held is in memory, so that asking costs nothing; the table tells the others, within a second, by its revision.
// Only what grows is written: a vendor that says the same with every answer costs one write.
type holds struct {
	db        *store.DB
	revisions *store.Revisions
	now       func() time.Time
	log       *slog.Logger
	first     sync.Once  // what was held before this process started is read before it asks a vendor
	loading   sync.Mutex // one reading of the table after the other, so that an older one never replaces a newer

	mu     sync.Mutex
	until  map[string]time.Time // by our clock
	unsaid map[string]bool      // held here, and not in the table: the database did not answer
}

const (
	holdRevision = "task.hold"
	holdStep     = time.Second     // a hold that grows by less is not told
	holdKept     = time.Hour       // after its end, for the circuit of a host that nobody asks
	holdTimeout  = 2 * time.Second // of a call to the database: a request waits for it
)

// NewHolds makes provider.Holds that all replicas on a database share. While the database does not answer, each replica holds for itself. It needs the tables of
// Migrations, and Revisions at work.
func NewHolds(db *store.DB, revisions *store.Revisions, now func() time.Time, log *slog.Logger) provider.Holds {
	h := &holds{db: db, revisions: revisions, now: now, log: log, until: map[string]time.Time{}, unsaid: map[string]bool{}}
	revisions.Watch(holdRevision, func() {
		go h.reload(context.Background())
	})
	return h
}

// Held counts what is held now by Holds that NewHolds made.
func Held(of provider.Holds) (n int) {
	h, ok := of.(*holds)
	if !ok {
		return 0
	}
	now := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, until := range h.until {
		if now.Before(until) {
			n++
		}
	}
	return n
}

func (h *holds) reload(ctx context.Context) {
	if err := h.load(ctx); err != nil {
		h.log.WarnContext(ctx, "what other replicas know of vendors' limits was not read", "error", err)
	}
}

// clock is the database's time in µs: replicas whose clocks differ hold equally long. SQLite has one process, and its clock is ours.
func (h *holds) clock(ctx context.Context, q store.Querier) (int64, error) {
	if h.db.Engine() == store.SQLite {
		return h.now().UnixMicro(), nil
	}
	var now int64
	err := q.QueryRowContext(ctx, `SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)`).Scan(&now)
	return now, store.Err(err)
}

func (h *holds) load(ctx context.Context) error {
	h.loading.Lock()
	defer h.loading.Unlock()
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	theirs, err := h.clock(ctx, h.db)
	if err != nil {
		return err
	}
	ours := h.now()
	rows, err := h.db.QueryContext(ctx, `SELECT name, until FROM task_hold`)
	if err != nil {
		return store.Err(err)
	}
	until := map[string]time.Time{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var name string
		var end int64
		err := rows.Scan(&name, &end)
		until[name] = ours.Add(time.Duration(end-theirs) * time.Microsecond)
		return err
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.unsaid {
		if end := h.until[name]; end.After(until[name]) {
			until[name] = end
		}
	}
	h.until = until
	return nil
}

func (h *holds) Until(ctx context.Context, key string) (time.Time, error) {
	h.first.Do(func() { h.reload(context.WithoutCancel(ctx)) })
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until[key], nil
}

func (h *holds) Hold(ctx context.Context, key string, until time.Time) error {
	h.mu.Lock()
	news := until.After(h.until[key].Add(holdStep))
	if news {
		h.until[key], h.unsaid[key] = until, true
	}
	h.mu.Unlock()
	if !news {
		return nil
	}
	wait := until.Sub(h.now())
	return h.write(ctx, key, func(ctx context.Context, tx *store.Tx, now int64) error {
		if _, err := tx.Exec(ctx, `DELETE FROM task_hold WHERE until < $1`, now-holdKept.Microseconds()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO task_hold (name, until) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET until = CASE WHEN task_hold.until > excluded.until THEN task_hold.until ELSE excluded.until END`, key, now+wait.Microseconds())
		return err
	})
}

func (h *holds) Probe(ctx context.Context, key string, rest time.Duration) (mine bool, err error) {
	err = h.write(ctx, key, func(ctx context.Context, tx *store.Tx, now int64) error {
		n, err := tx.Exec(ctx, `UPDATE task_hold SET until = $2 WHERE name = $1 AND until <= $3`, key, now+rest.Microseconds(), now)
		if err != nil {
			return err
		}
		if mine = n == 1; mine {
			return nil
		}
		var held bool
		err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM task_hold WHERE name = $1)`, key).Scan(&held)
		mine = !held // another has released it
		return store.Err(err)
	})
	if err == nil {
		err = h.load(ctx) // the next to ask on this replica must see how it stands
	}
	return mine || err != nil, err
}

func (h *holds) Release(ctx context.Context, key string) error {
	h.mu.Lock()
	delete(h.until, key)
	h.mu.Unlock()
	return h.write(ctx, key, func(ctx context.Context, tx *store.Tx, _ int64) error {
		_, err := tx.Exec(ctx, `DELETE FROM task_hold WHERE name = $1`, key)
		return err
	})
}

// write changes the table and has the other replicas read it.
func (h *holds) write(ctx context.Context, key string, change func(ctx context.Context, tx *store.Tx, now int64) error) error {
	if len(key) > 200 {
		return slipway.Errorf(slipway.Internal, "the name of a hold has %d bytes, at most 200", len(key))
	}
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	err := h.db.Write(ctx, func(tx *store.Tx) error {
		now, err := h.clock(ctx, tx)
		if err != nil {
			return err
		}
		if err := change(ctx, tx, now); err != nil {
			return err
		}
		return h.revisions.Bump(ctx, tx, holdRevision)
	})
	if err == nil {
		h.mu.Lock()
		delete(h.unsaid, key)
		h.mu.Unlock()
	}
	return err
}
