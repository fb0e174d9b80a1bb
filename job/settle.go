package job

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// batch is how many results one transaction writes at most: far below what would make an API write wait.
const batch = 100

// settle writes results until no more will come; those that came while a transaction ran go together into the next.
func (r *runner) settle() {
	for {
		var results []result
		select {
		case res := <-r.results:
			results = append(results, res)
		case <-r.quit:
			return
		case <-r.over:
		}
		for more := true; more && len(results) < batch; {
			select {
			case res := <-r.results:
				results = append(results, res)
			default:
				more = false
			}
		}
		if len(results) == 0 { // over, and nothing is left
			return
		}
		r.write(results)
	}
}

// write writes results, for as long as it takes the database to answer.
func (r *runner) write(results []result) {
	// Sorted, so that two writers of the same rows do not wait for each other.
	slices.SortFunc(results, func(a, b result) int { return cmp.Compare(a.task.id, b.task.id) })
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		ctx, cancel := context.WithTimeout(r.base, 10*time.Second)
		ends, err := r.q.record(ctx, results)
		cancel()
		if err == nil {
			r.settled(results, ends)
			return
		}
		r.q.log.WarnContext(r.base, "the results of jobs cannot be stored yet", "jobs", len(results), "error", err)
		select {
		case <-r.quit:
			return
		case <-time.After(pause):
		}
	}
}

// settled forgets the tasks and wakes who has to go on.
func (r *runner) settled(results []result, ends map[int64]State) {
	r.mu.Lock()
	for _, res := range results {
		if r.live[res.task.id] == res.task {
			delete(r.live, res.task.id)
		}
	}
	r.mu.Unlock()
	for _, res := range results {
		t := res.task
		end, owned := ends[t.id]
		switch {
		case !owned:
			r.q.log.WarnContext(r.base, "the result of a job that this replica no longer owns was dropped", "job", t.id, "kind", t.kind, "run", t.run)
			continue
		case end == Available:
			r.q.wake(0, t.kind)
		case end == Scheduled:
			r.lookIn(0)
		case end == Retrying:
			r.lookIn(res.at.Sub(r.q.now()))
		}
		if r.q.OnRun != nil && res.outcome != giveBack {
			if end == Available || end == Scheduled { // asked for once more
				end = State(res.outcome)
			}
			r.q.OnRun(t.kind, end, res.took)
		}
	}
}

// record writes results in one transaction and tells the state of each job that its run still owned.
func (q *Queue) record(ctx context.Context, results []result) (map[int64]State, error) {
	ends := make(map[int64]State, len(results))
	now := store.At(q.now())
	var completed []*task
	err := q.db.Write(ctx, func(tx *store.Tx) error {
		clear(ends)
		completed = completed[:0]
		for _, res := range results {
			if res.task.stored.Load() {
				ends[res.task.id] = Completed
				continue
			}
			if res.outcome == done {
				completed = append(completed, res.task)
				continue
			}
			if err := end(ctx, tx, res, now, ends); err != nil {
				return err
			}
		}
		return complete(ctx, tx, completed, now, ends)
	})
	return ends, err
}

// complete ends many runs well with one statement. What was asked for meanwhile waits for the time that it was asked for, unless the clock was put back. The sizes are few, so that prepared statements are found again.
func complete(ctx context.Context, tx *store.Tx, tasks []*task, now store.Time, ends map[int64]State) error {
	if len(tasks) == 0 {
		return nil
	}
	size := 1
	for size < len(tasks) {
		size *= 4
	}
	var rows strings.Builder
	args := []any{now}
	for i := range size {
		t := tasks[min(i, len(tasks)-1)] // the last one fills up
		args = append(args, t.id, t.run)
		if i > 0 {
			rows.WriteString(", ")
		}
		fmt.Fprintf(&rows, "(CAST($%d AS BIGINT), CAST($%d AS BIGINT))", len(args)-1, len(args))
	}
	return states(ctx, tx, ends, `
		UPDATE job SET state = CASE WHEN again AND scheduled_at > CAST($1 AS BIGINT) AND started_at <= CAST($1 AS BIGINT) THEN 'scheduled' WHEN again THEN 'available' ELSE 'completed' END,
			attempt = CASE WHEN again THEN 0 ELSE attempt END,
			finished_at = CASE WHEN again THEN NULL ELSE CAST($1 AS BIGINT) END,
			cancel_asked = FALSE, again = FALSE
		WHERE state = 'running' AND (id, run) IN (VALUES `+rows.String()+`) RETURNING id, state`, args...)
}

// end ends one run that did not go well. Who asked for the job while it ran gets another run of it, but not after a cancel.
func end(ctx context.Context, tx *store.Tx, res result, now store.Time, ends map[int64]State) error {
	t := res.task
	failures, err := json.Marshal(res.failures)
	if err != nil {
		return err
	}
	if len(res.failures) == 0 {
		failures = []byte("[]")
	}
	state, attempt := State(res.outcome), t.attempt
	if res.outcome == giveBack {
		state, attempt = Available, attempt-1
	}
	return states(ctx, tx, ends, `
		UPDATE job SET
			state = CASE WHEN cancel_asked THEN 'canceled' WHEN again AND CAST($3 AS TEXT) = 'discarded' THEN 'available' ELSE CAST($3 AS TEXT) END,
			finished_at = CASE WHEN cancel_asked OR (CAST($3 AS TEXT) = 'discarded' AND NOT again) THEN CAST($4 AS BIGINT) ELSE NULL END,
			attempt = CASE WHEN again AND NOT cancel_asked AND CAST($3 AS TEXT) = 'discarded' THEN 0 ELSE CAST($5 AS BIGINT) END,
			scheduled_at = $6, errors = $7, cancel_asked = FALSE, again = FALSE
		WHERE id = $1 AND run = $2 AND state = 'running' RETURNING id, state`,
		t.id, t.run, string(state), now, attempt, store.At(res.at), string(failures))
}

func states(ctx context.Context, tx *store.Tx, ends map[int64]State, query string, args ...any) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		var state State
		if err := rows.Scan(&id, &state); err != nil {
			return err
		}
		ends[id] = state
	}
	return rows.Err()
}
