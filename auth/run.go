package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway/store"
)

const (
	chunk      = 500 // rows in one write transaction
	beatEvery  = 5 * time.Second
	beatLost   = 20 * time.Second // a replica silent for so long is not counted
	flushEvery = 15 * time.Second
	learnEvery = time.Minute
	pruneEvery = time.Hour
)

// Stats are counts since the start, for metrics.
type Stats struct {
	LimitLeases   int64 // blocks of requests fetched from the database
	LimitFailures int64 // times that the database did not give one and this replica counted alone
}

// Stats gives the counts.
func (s *Service) Stats() Stats {
	return Stats{LimitLeases: s.limits.writes.Load(), LimitFailures: s.limits.failed.Load()}
}

// Run writes down which tokens were used, counts replicas, compares clocks and deletes what is over its retention, until the context
// ends; then it gives back what this replica has leased and not used. Every replica that takes requests runs it.
func (s *Service) Run(ctx context.Context) error {
	tasks := []struct {
		every time.Duration
		do    func(context.Context) error
		what  string
	}{
		{beatEvery, s.beat, "replicas were not counted"},
		{flushEvery, s.Flush, "last use of tokens was not written"},
		{learnEvery, s.limits.learn, "the database's clock was not read"},
		{pruneEvery, s.Prune, "old rows were not deleted"},
	}
	last := make([]time.Time, len(tasks))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for i, task := range tasks {
			if time.Since(last[i]) < task.every {
				continue
			}
			last[i] = time.Now()
			if err := task.do(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, task.what, "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return s.stop(ctx)
		}
	}
}

func (s *Service) stop(ctx context.Context) error {
	if err := s.Flush(ctx); err != nil {
		return err
	}
	if err := s.limits.giveBack(ctx); err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM auth_replica WHERE id = $1`, s.id)
		return err
	})
}

// touch notes the use of a token, at most once a minute.
func (s *Service) touch(id string, e *entry) {
	now := s.now()
	if last := e.used.Load(); now.UnixMicro()-last < windowLength || !e.used.CompareAndSwap(last, now.UnixMicro()) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[id] = now
}

// Flush writes down when tokens were last used. Run does it every 15 s. What a silent database did not take is noted anew with
// the next use after a minute.
func (s *Service) Flush(ctx context.Context) error {
	s.mu.Lock()
	used, named := s.used, s.vouched
	s.used, s.vouched = map[string]time.Time{}, map[string]vouched{}
	s.mu.Unlock()
	if err := inChunks(ctx, s.db, named, func(tx *store.Tx, key string, v vouched) error {
		user, issuer, _ := strings.Cut(key, " ")
		return s.member(ctx, tx, user, issuer, v.groups, v.at)
	}); err != nil {
		return err
	}
	return inChunks(ctx, s.db, used, func(tx *store.Tx, id string, at time.Time) error {
		// Another replica may have written within the minute.
		if session, ok := strings.CutPrefix(id, sessionPrefix); ok {
			_, err := tx.Exec(ctx, `UPDATE auth_session SET seen_at = $1 WHERE id = $2 AND seen_at <= $3`, store.At(at), session, store.At(at.Add(-time.Minute)))
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE auth_token SET last_used_at = $1 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at <= $3)`,
			store.At(at), id, store.At(at.Add(-time.Minute)))
		return err
	})
}

// countReplicas is how many replicas share the limits. Before they were counted, a few are assumed: blocks are smaller then, and nothing else.
func (s *Service) countReplicas() int {
	switch {
	case s.Replicas != nil:
		return s.Replicas()
	case s.db.Engine() == store.SQLite:
		return 1
	}
	if n := s.replicas.Load(); n > 0 {
		return int(n)
	}
	return 3
}

// beat says that this replica lives and counts those that do. A SQLite file has one process.
func (s *Service) beat(ctx context.Context) error {
	if s.db.Engine() == store.SQLite {
		return nil
	}
	now := s.limits.clock()
	return s.db.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO auth_replica (id, seen_at) VALUES ($1, $2)
			ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at`, s.id, now); err != nil {
			return err
		}
		var n int64
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM auth_replica WHERE seen_at > $1`, now-beatLost.Microseconds()).Scan(&n); err != nil {
			return store.Err(err)
		}
		s.replicas.Store(n)
		return nil
	})
}

// Prune deletes the record of changes and tokens that are over once they are older than the retention, and counts of past minutes. Run
// does it every hour.
func (s *Service) Prune(ctx context.Context) error {
	if err := s.delete(ctx, `DELETE FROM auth_window WHERE key IN (SELECT key FROM auth_window WHERE win < $1 LIMIT $2)`,
		s.limits.clock()/windowLength-1); err != nil {
		return err
	}
	if err := s.delete(ctx, `DELETE FROM auth_replica WHERE id IN (SELECT id FROM auth_replica WHERE seen_at < $1 LIMIT $2)`,
		s.limits.clock()-time.Hour.Microseconds()); err != nil {
		return err
	}
	for query, before := range map[string]time.Time{
		`DELETE FROM auth_device WHERE hash IN (SELECT hash FROM auth_device WHERE expires_at < $1 LIMIT $2)`:                        s.now().Add(-time.Hour),
		`DELETE FROM auth_member WHERE (user_ref, issuer) IN (SELECT user_ref, issuer FROM auth_member WHERE seen_at < $1 LIMIT $2)`: s.now().Add(-s.cfg.SignIn.Remember.Std()),
	} {
		if err := s.delete(ctx, query, before.UnixMicro()); err != nil {
			return err
		}
	}
	if s.cfg.Retention == 0 {
		return nil
	}
	before := s.now().Add(-s.cfg.Retention).UnixMicro()
	if err := s.delete(ctx, `DELETE FROM auth_audit WHERE id IN (SELECT id FROM auth_audit WHERE at < $1 ORDER BY at LIMIT $2)`, before); err != nil {
		return err
	}
	if err := s.delete(ctx, `DELETE FROM auth_session WHERE id IN (SELECT id FROM auth_session WHERE expires_at < $1 OR ended_at < $1 LIMIT $2)`, before); err != nil {
		return err
	}
	return s.delete(ctx, `DELETE FROM auth_token WHERE id IN (
		SELECT id FROM auth_token WHERE revoked_at < $1 OR expires_at < $1 LIMIT $2)`, before)
}

// delete runs a statement that deletes at most $2 rows below $1 until there are none.
func (s *Service) delete(ctx context.Context, query string, below int64) error {
	for {
		var n int64
		err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Exec(ctx, query, below, chunk)
			return err
		})
		if err != nil || n < chunk {
			return err
		}
	}
}

// inChunks calls f for each entry in as few transactions as their size allows.
func inChunks[V any](ctx context.Context, db *store.DB, entries map[string]V, f func(tx *store.Tx, key string, v V) error) error {
	keys := make([]string, 0, len(entries))
	for key := range entries {
		keys = append(keys, key)
	}
	slices.Sort(keys) // two replicas that lock rows in one order never wait for each other in a circle
	for part := range slices.Chunk(keys, chunk) {
		err := db.Write(ctx, func(tx *store.Tx) error {
			for _, key := range part {
				if err := f(tx, key, entries[key]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
