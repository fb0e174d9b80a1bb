package job

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/slipway-platform/slipway/store"
)

func newToken() string { return rand.Text() }

// process marks the replicas of this process. SQLite has one process: replicas of any other have died.
var process = newToken()

var errDied = errors.New("the replica that ran it went silent")

// beatNow is the clock that heartbeats are taken and compared by: on PostgreSQL the database's, never those of two machines.
func (q *Queue) beatNow() string {
	if q.db.Engine() == store.Postgres {
		return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
	}
	return "0"
}

// enter registers the replica, and waits for a database that does not answer. It fails only when ctx ends. On SQLite it takes up what dead processes have left. On PostgreSQL that
// waits for tend: where the database was away, the others are silent because of that, and get the time to beat again.
func (r *runner) enter(ctx context.Context) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, r.q.poll) {
		err := r.register(ctx)
		if err == nil {
			err = r.declare(ctx)
		}
		if err == nil && r.q.db.Engine() == store.SQLite {
			err = r.bury(ctx)
		}
		if err == nil {
			return nil
		}
		r.late = true
		if ctx.Err() == nil {
			r.q.log.WarnContext(ctx, "jobs wait for the database", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (r *runner) register(ctx context.Context) error {
	return r.q.db.Write(ctx, func(tx *store.Tx) error {
		var id int64
		var beat store.Time
		if old := r.replica.Load(); old != 0 { // registered before something later failed
			if _, err := tx.Exec(ctx, "DELETE FROM job_replica WHERE id = $1", old); err != nil {
				return err
			}
		}
		before := time.Now()
		err := tx.QueryRowContext(ctx, "INSERT INTO job_replica (process, beat_at) VALUES ($1, "+r.q.beatNow()+") RETURNING id, beat_at", process).Scan(&id, &beat)
		if err == nil && r.q.db.Engine() == store.Postgres {
			r.q.setClock(beat, before)
		}
		r.replica.Store(id)
		return err
	})
}

// leave takes the replica's row away. What it still has, if the database was gone, is taken up by others.
func (r *runner) leave() {
	ctx, cancel := context.WithTimeout(r.base, 2*time.Second)
	defer cancel()
	_ = r.q.db.Write(ctx, func(tx *store.Tx) error { // if not now, its silence will tell
		_, err := tx.Exec(ctx, "DELETE FROM job_replica WHERE id = $1", r.replica.Load())
		return err
	})
}

// tend beats, buries replicas that went silent, and looks after the replica's own jobs, until ctx ends. At rest it only reads on SQLite.
func (r *runner) tend(ctx context.Context) {
	ticker := time.NewTicker(r.q.beat)
	defer ticker.Stop()
	last := time.Now()
	quiet := last.Add(2 * r.q.beat) // nobody is buried before; by then whoever lives has beaten
	if r.late {
		quiet = last.Add(r.q.silence)
	}
	strangers := map[int64]int64{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := r.heartbeat(ctx)
		if err == nil {
			// After a gap of its own, the database may have been away for everybody: all get the time to beat again.
			now := time.Now()
			if now.Sub(last) > r.q.silence/2 {
				quiet = now.Add(r.q.silence)
			}
			last = now
			if now.After(quiet) {
				err = r.bury(ctx)
			}
		}
		if err == nil {
			strangers, err = r.check(ctx, strangers)
		}
		if err != nil && ctx.Err() == nil {
			r.q.log.WarnContext(ctx, "the heartbeat of this replica failed", "error", err)
		}
	}
}

// heartbeat renews the replica's row and sets the clock by the database. A replica that finds its row gone was buried:
// its jobs are others', so it cancels its runs and starts anew.
func (r *runner) heartbeat(ctx context.Context) error {
	if r.q.db.Engine() == store.SQLite { // one process: it lives
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.q.silence)
	defer cancel()
	var beat store.Time
	before := time.Now()
	buried := false
	err := r.q.db.Write(ctx, func(tx *store.Tx) error {
		rows, err := tx.QueryContext(ctx, "UPDATE job_replica SET beat_at = "+r.q.beatNow()+" WHERE id = $1 RETURNING beat_at", r.replica.Load())
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		buried = true
		for rows.Next() {
			buried = false
			if err := rows.Scan(&beat); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	if buried {
		r.q.log.WarnContext(ctx, "this replica was silent for too long; others have taken its jobs up, it starts anew", "replica", r.replica.Load())
		r.cancelAll(errLost)
		return r.register(ctx)
	}
	r.q.setClock(beat, before)
	return nil
}

// setClock corrects the clock by the database's, which said beat to a question asked at before and answered now.
func (q *Queue) setClock(beat store.Time, before time.Time) {
	q.offset.Store(int64(beat.Sub(before.Add(time.Since(before) / 2))))
}

// bury deletes the rows of dead replicas and takes their running jobs up: available at once, or canceled or discarded if it was their last attempt.
func (r *runner) bury(ctx context.Context) error {
	dead, args := "beat_at < "+r.q.beatNow()+" - $1", []any{r.q.silence.Microseconds()}
	if r.q.db.Engine() == store.SQLite {
		dead, args = "process <> $1", []any{process}
	}
	var n, orphans int64
	err := r.q.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM job_replica WHERE `+dead+`),
		(SELECT count(*) FROM job WHERE state = 'running' AND replica NOT IN (SELECT id FROM job_replica))`, args...).Scan(&n, &orphans)
	if err != nil {
		return store.Err(err)
	}
	if n > 0 {
		err := r.q.db.Write(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, "DELETE FROM job_replica WHERE id IN (SELECT id FROM job_replica WHERE "+dead+r.q.db.SkipLocked()+")", args...)
			return err
		})
		if err != nil {
			return err
		}
	}
	for n+orphans > 0 {
		if orphans, err = r.adopt(ctx); err != nil {
			return err
		}
		n = 0
	}
	return nil
}

// adopt ends some runs whose replica has no row, and tells how many. Rows that a Fence holds are left for the next time.
func (r *runner) adopt(ctx context.Context) (int64, error) {
	ends := map[int64]State{}
	var kinds []string
	err := r.q.db.Write(ctx, func(tx *store.Tx) error {
		clear(ends)
		kinds = nil
		results, err := r.orphans(ctx, tx)
		if err != nil {
			return err
		}
		now := store.At(r.q.now())
		for _, res := range results {
			if err := end(ctx, tx, res, now, ends); err != nil {
				return err
			}
			kinds = append(kinds, res.task.kind)
		}
		return nil
	})
	if err != nil || len(ends) == 0 {
		return 0, err
	}
	r.q.log.WarnContext(ctx, "jobs of a replica that went silent were taken up", "jobs", len(ends))
	r.q.wake(0, kinds...)
	return int64(len(ends)), nil
}

func (r *runner) orphans(ctx context.Context, tx *store.Tx) ([]result, error) {
	rows, err := tx.QueryContext(ctx, `
		SELECT id, run, kind, attempt, max_attempts, errors FROM job
		WHERE state = 'running' AND replica NOT IN (SELECT id FROM job_replica) ORDER BY id LIMIT 100`+r.q.db.SkipLocked())
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var results []result
	for rows.Next() {
		t := &task{}
		var failures string
		if err := rows.Scan(&t.id, &t.run, &t.kind, &t.attempt, &t.maxAttempts, &failures); err != nil {
			return nil, err
		}
		if t.failures, err = failuresOf(failures); err != nil {
			return nil, err
		}
		now := r.q.now()
		res := result{task: t, outcome: takeUp, at: now}
		res.failures = addFailure(t.failures, Failure{At: now.UTC(), Attempt: t.attempt, Error: errDied.Error()})
		if t.attempt >= t.maxAttempts {
			res.outcome = failed // a job that kills its process must not do so for ever
		}
		results = append(results, res)
	}
	return results, rows.Err()
}

// check cancels running jobs whose cancel did not reach this replica, and gives back jobs that the database counts as this replica's but that
// it does not know: a claim whose commit was not answered. Those it has seen twice, so none is being started right now.
func (r *runner) check(ctx context.Context, seen map[int64]int64) (strangers map[int64]int64, err error) {
	rows, err := r.q.db.QueryContext(ctx, "SELECT id, run, kind, attempt, cancel_asked, errors FROM job WHERE state = 'running' AND replica = $1", r.replica.Load())
	if err != nil {
		return seen, store.Err(err)
	}
	defer func() { _ = rows.Close() }()
	strangers = map[int64]int64{}
	for rows.Next() {
		t := &task{}
		var canceled bool
		var failures string
		if err := rows.Scan(&t.id, &t.run, &t.kind, &t.attempt, &canceled, &failures); err != nil {
			return seen, store.Err(err)
		}
		r.mu.Lock()
		mine := r.live[t.id]
		known := mine != nil && mine.run == t.run
		r.mu.Unlock()
		switch {
		case known && canceled:
			r.cancel(t.id)
		case known:
		case seen[t.id] == t.run:
			if t.failures, err = failuresOf(failures); err != nil {
				return seen, err
			}
			r.send(result{task: t, outcome: giveBack, failures: t.failures, at: r.q.now()})
		default:
			strangers[t.id] = t.run
		}
	}
	return strangers, store.Err(rows.Err())
}
