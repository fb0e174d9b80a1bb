package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Why a run's context ended, as its cause.
var (
	errTimeLimit = errors.New("the time limit of the job")
	errStopping  = errors.New("the replica stops")
	errCanceled  = errors.New("the job was canceled")
	errLost      = errors.New("the replica was silent for too long; others have taken its jobs up")
)

// linger is how long a cancelled function may take to return when the replica stops. After that it is left alone: it no longer owns its job.
const linger = 2 * time.Second

// runner is one Run of a queue: one goroutine claims, one writes results, one tends the replica's row, one listens.
type runner struct {
	q       *Queue
	base    context.Context // of the runs: has no end of its own
	replica atomic.Int64    // the row in job_replica
	late    bool            // the database did not answer at first

	poke    chan struct{} // there may be something to claim
	look    chan struct{} // look at the times of jobs and schedules now
	results chan result
	over    chan struct{} // no more results will come
	quit    chan struct{} // what the database has not taken by now is given up

	mu     sync.Mutex
	groups []*group
	busy   map[string]int  // functions that run, by queue
	live   map[int64]*task // claimed by this replica and not settled, by job
	work   sync.WaitGroup  // functions that run
}

// group is what one claim asks for: the kinds of a queue that share its slots, or one kind that has a limit of its own.
type group struct {
	queue string
	kinds []string
	limit int // 0: none of its own
	busy  int
	hot   bool // there may be waiting jobs
}

// task is one claimed run of a job.
type task struct {
	q           *Queue
	group       *group
	worker      Worker
	id, run     int64
	kind        string
	args        json.RawMessage
	attempt     int
	maxAttempts int
	priority    int
	failures    []Failure
	cancel      context.CancelCauseFunc
	working     bool        // its function has not returned
	given       bool        // given back though its function still runs
	stored      atomic.Bool // Done has ended it already
}

// Run works the jobs of the added workers and fires the added schedules until ctx ends. Then running jobs may finish for Grace;
// what still runs after it is cancelled and given back, available at once, with the attempt not counted. A database that does not answer
// is waited for. One Run at a time.
func (q *Queue) Run(ctx context.Context) error {
	faults := slices.Clone(q.faults)
	for _, s := range q.schedules {
		if _, ok := q.workers[s.Args.Kind()]; !ok {
			faults = append(faults, fmt.Errorf("schedule %q inserts jobs %q, which have no worker", s.Name, s.Args.Kind()))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	r := &runner{
		q: q, base: context.WithoutCancel(ctx),
		poke: make(chan struct{}, 1), look: make(chan struct{}, 1), results: make(chan result, batch), over: make(chan struct{}), quit: make(chan struct{}),
		busy: map[string]int{}, live: map[int64]*task{},
	}
	r.group()
	q.mu.Lock()
	if q.runner != nil {
		q.mu.Unlock()
		return errors.New("the queue runs already")
	}
	q.runner = r
	q.mu.Unlock()
	ended := func() {
		q.mu.Lock()
		q.runner = nil
		q.mu.Unlock()
	}
	if err := r.enter(ctx); err != nil {
		ended()
		return nil // ctx ended before the database answered
	}

	aside, stop := context.WithCancel(r.base) // heartbeats go on while running jobs finish
	var helpers sync.WaitGroup
	helpers.Go(func() { r.tend(aside) })
	helpers.Go(func() { r.listen(aside) })
	settled := make(chan struct{})
	go func() { defer close(settled); r.settle() }()

	r.dispatch(ctx)

	// A database that is gone must not hold the process; other replicas take the jobs up.
	giveUp := time.AfterFunc(q.Grace+linger+10*time.Second, func() { close(r.quit) })
	r.drain()
	stop()
	helpers.Wait()
	close(r.over)
	<-settled
	giveUp.Stop()
	r.leave()
	ended()
	return nil
}

// group sorts the workers into claims.
func (r *runner) group() {
	for _, queue := range r.q.queues() {
		shared := &group{queue: queue}
		for _, w := range r.q.workers {
			switch {
			case w.Queue != queue:
			case w.Parallel > 0:
				r.groups = append(r.groups, &group{queue: queue, kinds: []string{w.Kind}, limit: w.Parallel})
			default:
				shared.kinds = append(shared.kinds, w.Kind)
			}
		}
		if slices.Sort(shared.kinds); len(shared.kinds) > 0 {
			r.groups = append(r.groups, shared)
		}
	}
}

// heat marks kinds as possibly waiting; all of them when none is named.
func (r *runner) heat(kinds ...string) {
	r.mu.Lock()
	for _, g := range r.groups {
		if len(kinds) == 0 || slices.ContainsFunc(kinds, func(k string) bool { return slices.Contains(g.kinds, k) }) {
			g.hot = true
		}
	}
	r.mu.Unlock()
	signal(r.poke)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// lookIn has the times looked at when d is over, if the next poll comes later.
func (r *runner) lookIn(d time.Duration) {
	if d < r.q.poll {
		time.AfterFunc(max(d, 0), func() { signal(r.look) })
	}
}

// dispatch claims until ctx ends: at once when woken, else by a poll that also finds what no wake has told.
func (r *runner) dispatch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.poke:
		case <-r.look:
			timer.Reset(r.pollAll(ctx))
		case <-timer.C:
			timer.Reset(r.pollAll(ctx))
		}
		for ctx.Err() == nil {
			g, n := r.next()
			if g == nil {
				break
			}
			if err := r.claim(g, n); err != nil {
				if ctx.Err() == nil {
					r.q.log.WarnContext(ctx, "jobs cannot be claimed", "queue", g.queue, "error", err)
				}
				r.heat(g.kinds...)
				select { // the next poll tries again
				case <-ctx.Done():
				case <-timer.C:
					timer.Reset(0)
				}
				break
			}
		}
	}
}

// next picks a hot group with room, and how many jobs it may claim. The group picked goes to the end of the line.
func (r *runner) next() (*group, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, g := range r.groups {
		if !g.hot {
			continue
		}
		n := r.q.Workers - r.busy[g.queue]
		if g.limit > 0 {
			n = min(n, g.limit-g.busy)
		}
		if n <= 0 {
			continue
		}
		g.hot = false
		r.groups = append(slices.Delete(r.groups, i, i+1), g)
		return g, n
	}
	return nil, 0
}

// pollAll makes due jobs available, fires due schedules, looks which queues have waiting jobs, and says when to do so again.
func (r *runner) pollAll(ctx context.Context) time.Duration {
	wait, err := r.promote(ctx)
	next, e := r.fire(ctx)
	err = errors.Join(err, e)
	queues, e := r.waiting(ctx)
	err = errors.Join(err, e)
	if err != nil && ctx.Err() == nil {
		r.q.log.WarnContext(ctx, "the job tables cannot be read", "error", err)
	}
	r.mu.Lock()
	for _, g := range r.groups {
		g.hot = g.hot || slices.Contains(queues, g.queue)
	}
	r.mu.Unlock()
	return max(min(wait, next, r.q.poll), time.Millisecond)
}

// promote makes scheduled and retrying jobs available whose time has come, and says when the next one's comes.
func (r *runner) promote(ctx context.Context) (time.Duration, error) {
	for {
		var first store.Time
		err := r.q.db.QueryRowContext(ctx, "SELECT min(scheduled_at) FROM job WHERE state IN ('scheduled', 'retrying')").Scan(&first)
		if err != nil {
			return r.q.poll, store.Err(err)
		}
		if first.IsZero() {
			return r.q.poll, nil
		}
		now := r.q.now()
		if wait := first.Sub(now); wait > 0 {
			return wait, nil
		}
		n := int64(0)
		err = r.q.db.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Exec(ctx, `
				WITH due AS MATERIALIZED (
					SELECT id FROM job WHERE state IN ('scheduled', 'retrying') AND scheduled_at <= $1 ORDER BY scheduled_at LIMIT 200`+r.q.db.SkipLocked()+`)
				UPDATE job SET state = 'available' WHERE id IN (SELECT id FROM due)`, store.At(now))
			return err
		})
		if err != nil {
			return r.q.poll, err
		}
		if n == 0 { // another replica holds them
			return r.q.poll, nil
		}
	}
}

// waiting lists the queues with available jobs by one index step for each queue, not for each job.
func (r *runner) waiting(ctx context.Context) ([]string, error) {
	rows, err := r.q.db.QueryContext(ctx, `
		WITH RECURSIVE w (queue) AS (
			SELECT min(queue) FROM job WHERE state = 'available'
			UNION ALL SELECT (SELECT min(queue) FROM job WHERE state = 'available' AND queue > w.queue) FROM w WHERE w.queue IS NOT NULL)
		SELECT queue FROM w WHERE queue IS NOT NULL`)
	if err != nil {
		return nil, store.Err(err)
	}
	defer func() { _ = rows.Close() }()
	var queues []string
	for rows.Next() {
		var queue string
		if err := rows.Scan(&queue); err != nil {
			return nil, store.Err(err)
		}
		queues = append(queues, queue)
	}
	return queues, store.Err(rows.Err())
}

// claim takes up to n jobs of the group and starts them. It does not end with Run's context: a commit without an answer would leave jobs that run nowhere.
func (r *runner) claim(g *group, n int) error {
	ctx, cancel := context.WithTimeout(r.base, 10*time.Second)
	defer cancel()
	args := []any{g.queue, n, r.replica.Load(), store.At(r.q.now())}
	marks := make([]string, len(g.kinds))
	for i, kind := range g.kinds {
		args = append(args, kind)
		marks[i] = fmt.Sprintf("$%d", len(args))
	}
	// A replica that was buried while it slept claims nothing. MATERIALIZED: else PostgreSQL may run the limited SELECT more than once.
	query := `
		WITH next AS MATERIALIZED (
			SELECT id FROM job WHERE state = 'available' AND queue = $1 AND kind IN (` + strings.Join(marks, ", ") + `)
			ORDER BY priority, id LIMIT $2` + r.q.db.SkipLocked() + `)
		UPDATE job SET state = 'running', attempt = attempt + 1, run = run + 1, again = FALSE, replica = $3, started_at = $4
		WHERE id IN (SELECT id FROM next) AND EXISTS (SELECT 1 FROM job_replica WHERE id = $3)
		RETURNING id, run, kind, args, attempt, max_attempts, priority, errors`
	var tasks []*task
	err := r.q.db.Write(ctx, func(tx *store.Tx) error {
		tasks = nil
		rows, err := tx.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			t := &task{q: r.q, group: g}
			var args, failures string
			if err := rows.Scan(&t.id, &t.run, &t.kind, &args, &t.attempt, &t.maxAttempts, &t.priority, &failures); err != nil {
				return err
			}
			t.args, t.worker = json.RawMessage(args), r.q.workers[t.kind]
			if t.failures, err = failuresOf(failures); err != nil {
				return err
			}
			tasks = append(tasks, t)
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	slices.SortFunc(tasks, func(a, b *task) int {
		if a.priority != b.priority {
			return a.priority - b.priority
		}
		return int(a.id - b.id)
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	g.hot = g.hot || len(tasks) == n // there may be more
	for _, t := range tasks {
		runCtx, cancel := context.WithCancelCause(context.WithValue(r.base, taskKey{}, t))
		t.cancel, t.working = cancel, true
		r.live[t.id] = t
		r.busy[g.queue]++
		g.busy++
		r.work.Add(1)
		go r.do(runCtx, t)
	}
	return nil
}

// do runs the function of a task and hands over the result.
func (r *runner) do(ctx context.Context, t *task) {
	start := time.Now()
	err := errors.New("the worker ended its goroutine")
	defer func() { // also after runtime.Goexit
		r.done(r.judge(ctx, t, err, time.Since(start)))
		t.cancel(nil)
	}()
	err = call(ctx, t)
}

// done frees the slot of a task and sends its result to be stored.
func (r *runner) done(res result) {
	defer r.work.Done()
	t := res.task
	r.mu.Lock()
	t.working = false
	r.busy[t.group.queue]--
	t.group.busy--
	given := t.given
	r.mu.Unlock()
	signal(r.poke)
	if !given {
		r.send(res)
	}
}

func (r *runner) send(res result) {
	select {
	case r.results <- res:
	case <-r.quit:
	}
}

type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// call runs the function within its time limit. A panic is an error.
func call(ctx context.Context, t *task) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.worker.Timeout, errTimeLimit)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	err = t.worker.work(ctx, t.args)
	if errors.Is(err, context.DeadlineExceeded) && context.Cause(ctx) == errTimeLimit {
		err = fmt.Errorf("it ran longer than its limit of %s: %w", t.worker.Timeout, err)
	}
	return err
}

// outcome is what becomes of a task.
type outcome string

const (
	done     outcome = "completed"
	failed   outcome = "discarded"
	again    outcome = "retrying"
	takeUp   outcome = "available" // of a dead replica: at once
	giveBack outcome = "untouched" // available at once too, and the attempt is not counted
)

type result struct {
	task     *task
	outcome  outcome
	failures []Failure
	at       time.Time // of the next attempt
	took     time.Duration
}

// judge decides by the error what becomes of the task. The database has the last word on a cancelled one.
func (r *runner) judge(ctx context.Context, t *task, err error, took time.Duration) result {
	now := r.q.now()
	res := result{task: t, outcome: done, failures: t.failures, at: now, took: took}
	if err == nil {
		return res
	}
	log := r.q.log.With("job", t.id, "kind", t.kind, "attempt", t.attempt)
	if t.stored.Load() {
		log.WarnContext(ctx, "job failed after it was done; it stays completed", "error", err)
		return res
	}
	switch context.Cause(ctx) {
	case errStopping, errLost:
		res.outcome = giveBack
		return res
	case errCanceled:
		log.InfoContext(ctx, "job canceled while it ran")
		res.outcome = failed
		return res
	}
	res.failures = addFailure(t.failures, Failure{At: now.UTC(), Attempt: t.attempt, Error: printable(err)})
	if p, ok := errors.AsType[*panicError](err); ok {
		log = log.With("stack", string(p.stack))
	}
	if isFinal(err) || t.attempt >= t.maxAttempts {
		log.ErrorContext(ctx, "job discarded", "error", err)
		res.outcome = failed
		return res
	}
	delay := backoff(t.attempt)
	if coded, ok := errors.AsType[*slipway.Error](err); ok && coded.RetryAfter > 0 {
		delay = coded.RetryAfter
	}
	log.LogAttrs(ctx, slog.LevelWarn, "job failed; it will be tried again", slog.Any("error", err), slog.Duration("in", delay))
	res.outcome, res.at = again, now.Add(delay)
	return res
}

func isFinal(err error) bool {
	if _, ok := errors.AsType[finalError](err); ok {
		return true
	}
	switch slipway.CodeOf(err) {
	case slipway.Invalid, slipway.NotFound, slipway.Forbidden, slipway.Unsupported, slipway.Conflict:
		return true
	}
	return false
}

// backoff is 1 s after the first attempt, doubling up to 10 min, less up to a fifth so that what failed together does not come back together.
func backoff(attempt int) time.Duration {
	d := 10 * time.Minute
	if attempt < 11 {
		d = min(d, time.Second<<(max(attempt, 1)-1))
	}
	return d - rand.N(d/5)
}

func failuresOf(stored string) (all []Failure, err error) {
	return all, json.Unmarshal([]byte(stored), &all)
}

const (
	maxFailures = 10
	maxText     = 2000
)

func addFailure(all []Failure, f Failure) []Failure {
	all = append(slices.Clone(all), f)
	return all[max(0, len(all)-maxFailures):]
}

// printable makes an error's text one that people may read, so without the cause of a coded error, and that every database takes.
func printable(err error) string {
	s := err.Error()
	if coded, ok := errors.AsType[*slipway.Error](err); ok {
		s = strings.Replace(s, coded.Error(), fmt.Sprintf("%s: %s", coded.Code, coded.Message), 1)
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + " …"
	}
	return s
}

// drain waits until nothing runs. After the grace it cancels what does, and after a little more it gives up waiting.
func (r *runner) drain() {
	idle := make(chan struct{})
	go func() { r.work.Wait(); close(idle) }()
	select {
	case <-idle:
		return
	case <-time.After(r.q.Grace):
	}
	r.cancelAll(errStopping)
	select {
	case <-idle:
		return
	case <-time.After(linger):
	}
	r.mu.Lock()
	var left []result
	for _, t := range r.live {
		if t.working {
			t.given = true
			left = append(left, result{task: t, outcome: giveBack, failures: t.failures, at: r.q.now()})
		}
	}
	r.mu.Unlock()
	for _, res := range left {
		r.q.log.WarnContext(r.base, "job given back while its function still runs", "job", res.task.id, "kind", res.task.kind)
		r.send(res)
	}
}

func (r *runner) cancelAll(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.live {
		t.cancel(cause)
	}
}

// cancel cancels the context of a job that runs here.
func (r *runner) cancel(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.live[id]; t != nil {
		t.cancel(errCanceled)
	}
}
