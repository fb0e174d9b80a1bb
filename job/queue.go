package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Queue is the jobs and schedules of one database. Safe for concurrent use.
//
// Use: New, then Add workers and schedules, then Run in replicas that work. Insert needs no Run.
type Queue struct {
	// Now is the clock; tests replace it before Run. Nil: the machine's, which a replica on PostgreSQL corrects by the
	// database's at every heartbeat, so that replicas agree.
	Now func() time.Time
	// Grace is how long running jobs may go on after Run's context has ended; default 20 s.
	Grace time.Duration
	// Workers is how many jobs of one queue run at once on this replica; default 16. Many more of them
	// would make an API write on SQLite wait behind theirs.
	Workers int
	// OnRun, when set before Run, is told about every run that ended: what became of the job and how long the run took. The server counts them.
	OnRun func(kind string, state State, took time.Duration)

	db        *store.DB
	log       *slog.Logger
	workers   map[string]Worker
	schedules map[string]Schedule
	faults    []error
	offset    atomic.Int64 // the database's clock less this machine's, in nanoseconds

	poll, beat, silence time.Duration // tests shorten them

	mu     sync.Mutex
	runner *runner // nil while Run does not run
	news   news    // what other replicas have not been told yet
	sender bool    // whether a goroutine tells them
	token  string  // marks this queue's own notifications
}

// New makes a queue on a database with Migrations applied. It touches nothing. Without a log, failures are only stored.
func New(db *store.DB, log *slog.Logger) *Queue {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	q := &Queue{
		Grace: 20 * time.Second, Workers: 16, db: db, log: log,
		workers: map[string]Worker{}, schedules: map[string]Schedule{},
		poll: 2 * time.Second, beat: 2 * time.Second, silence: 15 * time.Second,
		token: newToken(),
	}
	return q
}

// Add adds workers, before Run. Two of one kind make Run fail.
func (q *Queue) Add(workers ...Worker) {
	for _, w := range workers {
		if _, twice := q.workers[w.Kind]; twice || w.Kind == "" || w.work == nil {
			q.faults = append(q.faults, fmt.Errorf("worker %q: a kind has one worker, made by Work", w.Kind))
			continue
		}
		q.workers[w.Kind] = w.withDefaults()
	}
}

// AddSchedule adds schedules, before Run. One that cannot be right, or has the name of another, makes Run fail.
func (q *Queue) AddSchedule(schedules ...Schedule) {
	for _, s := range schedules {
		if err := s.Check(); err != nil {
			q.faults = append(q.faults, err)
			continue
		}
		if _, twice := q.schedules[s.Name]; twice {
			q.faults = append(q.faults, fmt.Errorf("schedule %q is declared twice", s.Name))
			continue
		}
		q.schedules[s.Name] = s
	}
}

func (q *Queue) now() time.Time {
	if q.Now != nil {
		return q.Now()
	}
	return time.Now().Add(time.Duration(q.offset.Load()))
}

const live = "('available', 'running', 'retrying', 'scheduled')"

// Insert stores a job in the caller's transaction; workers here and elsewhere are woken after it is committed. When
// inserted is false, id is the job that already waits or runs under the same unique key.
func (q *Queue) Insert(ctx context.Context, tx *store.Tx, args Args, opt Insert) (id int64, inserted bool, err error) {
	return q.insert(ctx, tx, args, opt, "", true)
}

// insert is Insert for a schedule too; without mark, a job that is in the way is left as it is.
func (q *Queue) insert(ctx context.Context, tx *store.Tx, args Args, opt Insert, schedule string, mark bool) (id int64, inserted bool, err error) {
	kind := args.Kind()
	switch {
	case kind == "":
		return 0, false, errors.New("a job without a kind")
	case tx.DB() != q.db:
		return 0, false, fmt.Errorf("a job %s belongs into database %q, not %q", kind, q.db.Name(), tx.DB().Name())
	case opt.Priority < 0 || opt.Priority > 4:
		return 0, false, fmt.Errorf("a job %s has priority %d; it goes from 1 to 4", kind, opt.Priority)
	case opt.Priority == 0:
		opt.Priority = 2
	}
	raw, err := marshal(args)
	if err != nil {
		return 0, false, err
	}
	w, ok := q.workers[kind]
	if !ok {
		w = Worker{Kind: kind}.withDefaults()
	}
	now := q.now()
	state, at := Available, now
	if opt.At.After(now) {
		state, at = Scheduled, opt.At
	}
	// Between the two statements the job in the way may end on PostgreSQL; then there is room for this one.
	for range 5 {
		err = tx.QueryRowContext(ctx, `
			INSERT INTO job (kind, queue, state, priority, args, unique_key, schedule, max_attempts, created_at, scheduled_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
			ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL AND state IN `+live+` DO NOTHING
			RETURNING id`,
			kind, w.Queue, state, opt.Priority, raw, null(opt.Unique), null(schedule), w.MaxAttempts, store.At(now), store.At(at)).Scan(&id)
		if err == nil {
			inserted = true
			break
		}
		if err = store.Err(err); slipway.CodeOf(err) != slipway.NotFound {
			return 0, false, err
		}
		if !mark {
			return 0, false, nil
		}
		// The update also locks a waiting job until this transaction ends: nobody may begin it before he can see what the transaction changed. A retrying job keeps its
		// delay, unless its last run began in the future: the clock was put back, and the delay counts from there.
		err = store.Err(tx.QueryRowContext(ctx, `
			UPDATE job SET again = (state = 'running'),
				state = CASE WHEN state = 'scheduled' AND CAST($3 AS BIGINT) <= CAST($4 AS BIGINT) THEN 'available' ELSE state END,
				scheduled_at = CASE WHEN state = 'running' AND NOT again
					OR scheduled_at > $3 AND (state IN ('running', 'scheduled') OR state = 'retrying' AND started_at > $4) THEN $3 ELSE scheduled_at END
			WHERE kind = $1 AND unique_key = $2 AND state IN `+live+` RETURNING id`,
			kind, opt.Unique, store.At(at), store.At(now)).Scan(&id))
		if err == nil {
			break
		}
		if slipway.CodeOf(err) != slipway.NotFound {
			return 0, false, err
		}
	}
	if err != nil {
		return 0, false, slipway.Errorf(slipway.Unavailable, "the job %s changes too fast to be asked for again; try again", kind).WithCause(err)
	}
	wait := at.Sub(now)
	tx.AfterCommit(func() { q.wake(wait, kind) })
	return id, inserted, nil
}

func null(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

const columns = "id, kind, queue, state, args, attempt, max_attempts, priority, created_at, scheduled_at, started_at, finished_at, errors"

func scanJob(scan func(...any) error) (j Job, err error) {
	var args, failures string
	var created, scheduled, started, finished store.Time
	err = scan(&j.ID, &j.Kind, &j.Queue, &j.State, &args, &j.Attempt, &j.MaxAttempts, &j.Priority, &created, &scheduled, &started, &finished, &failures)
	if err != nil {
		return Job{}, store.Err(err)
	}
	j.Args = json.RawMessage(args)
	j.CreatedAt, j.ScheduledAt, j.StartedAt, j.FinishedAt = created.Time, scheduled.Time, started.Ptr(), finished.Ptr()
	return j, json.Unmarshal([]byte(failures), &j.Errors)
}

// Get gives one job; NotFound when there is none, or no longer.
func (q *Queue) Get(ctx context.Context, id int64) (Job, error) { return get(ctx, q.db, id) }

func get(ctx context.Context, from store.Querier, id int64) (Job, error) {
	j, err := scanJob(from.QueryRowContext(ctx, "SELECT "+columns+" FROM job WHERE id = $1", id).Scan)
	if slipway.CodeOf(err) == slipway.NotFound {
		return Job{}, slipway.Errorf(slipway.NotFound, "there is no job %d; finished ones are kept for a limited time", id)
	}
	return j, err
}

// Filter chooses jobs. An empty field does not choose.
type Filter struct {
	States  []State
	Kinds   []string
	Queues  []string
	AfterID int64 // go on below this id: the last one of the page before
	Limit   int   // default 50, at most 500
}

// inState says a state in the words of the partial indexes, which parameters would not match: a rare state must not read all of the others.
var inState = map[State]string{
	Scheduled: "state IN ('scheduled', 'retrying') AND state = 'scheduled'",
	Available: "state = 'available'",
	Running:   "state = 'running'",
	Retrying:  "state IN ('scheduled', 'retrying') AND state = 'retrying'",
	Completed: "state = 'completed'",
	Canceled:  "state = 'canceled'",
	Discarded: "state = 'discarded'",
}

// List gives jobs, newest first. A state that does not exist is Invalid.
func (q *Queue) List(ctx context.Context, f Filter) ([]Job, error) {
	if f.Limit <= 0 {
		f.Limit = 50
	}
	f.Limit = min(f.Limit, 500)
	where, args := []string{"TRUE"}, []any{f.Limit}
	param := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	in := func(column string, values []string) {
		if len(values) == 0 {
			return
		}
		marks := make([]string, len(values))
		for i, v := range values {
			marks[i] = param(v)
		}
		where = append(where, column+" IN ("+strings.Join(marks, ", ")+")")
	}
	if f.AfterID > 0 {
		where = append(where, "id < "+param(f.AfterID))
	}
	in("kind", f.Kinds)
	in("queue", f.Queues)
	part := "SELECT " + columns + " FROM job WHERE " + strings.Join(where, " AND ")
	query := part
	if len(f.States) > 0 {
		var parts []string
		for i, s := range f.States {
			condition, ok := inState[s]
			if !ok {
				return nil, slipway.Errorf(slipway.Invalid, "there is no state %q", s)
			}
			order := "id"
			if s == Running || s == Scheduled || s == Retrying {
				order = "id + 0" // few rows: SQLite is not to look for them along the primary key
			}
			parts = append(parts, fmt.Sprintf("SELECT * FROM (%s AND %s ORDER BY %s DESC LIMIT $1) AS s%d", part, condition, order, i))
		}
		query = "SELECT * FROM (" + strings.Join(parts, " UNION ALL ") + ") AS s"
	}
	rows, err := q.db.QueryContext(ctx, query+" ORDER BY id DESC LIMIT $1", args...)
	if err != nil {
		return nil, store.Err(err)
	}
	defer func() { _ = rows.Close() }()
	jobs := []Job{}
	for rows.Next() {
		j, err := scanJob(rows.Scan)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, store.Err(rows.Err())
}

// Cancel ends a job: one that waits at once, one that runs by cancelling its context, on whichever replica; it is
// canceled as soon as its function returns an error. A finished job is a Conflict.
func (q *Queue) Cancel(ctx context.Context, id int64) (Job, error) {
	var j Job
	err := q.db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `
			UPDATE job SET cancel_asked = (state = 'running'), again = FALSE,
				finished_at = CASE WHEN state = 'running' THEN finished_at ELSE CAST($2 AS BIGINT) END,
				state = CASE WHEN state = 'running' THEN state ELSE 'canceled' END
			WHERE id = $1 AND state IN `+live, id, store.At(q.now()))
		if err != nil {
			return err
		}
		if j, err = get(ctx, tx, id); err != nil {
			return err
		}
		if n == 0 {
			return slipway.Errorf(slipway.Conflict, "job %d is %s already; only one that waits or runs can be canceled", id, j.State)
		}
		if j.State == Running {
			tx.AfterCommit(func() { q.cancel(id) })
		}
		return nil
	})
	return j, err
}

// Retry makes a finished job available again, with its attempts counted anew, and a retrying one at once. A job that waits or runs is
// a Conflict, and so is one whose unique key another job has by now.
func (q *Queue) Retry(ctx context.Context, id int64) (Job, error) {
	var j Job
	err := q.db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `
			UPDATE job SET state = 'available', attempt = CASE WHEN state = 'retrying' THEN attempt ELSE 0 END, cancel_asked = FALSE,
				scheduled_at = $2, finished_at = NULL
			WHERE id = $1 AND state IN ('retrying', 'completed', 'canceled', 'discarded')`, id, store.At(q.now()))
		if errors.Is(err, slipway.Conflict) {
			return slipway.Errorf(slipway.Conflict, "another job with the unique key of job %d waits or runs already", id).WithCause(err)
		}
		if err != nil {
			return err
		}
		if j, err = get(ctx, tx, id); err != nil {
			return err
		}
		if n == 0 {
			return slipway.Errorf(slipway.Conflict, "job %d is %s; only a finished or retrying one can be retried", id, j.State)
		}
		tx.AfterCommit(func() { q.wake(0, j.Kind) })
		return nil
	})
	return j, err
}

// Count is how many jobs of one queue stand in one state.
type Count struct {
	Queue string
	State State
	Jobs  int64
	Since time.Time // available: since when the one that waits longest could have run; else zero
}

// Stats counts the jobs that wait, run, or were discarded. Completed and canceled ones are not counted: reading them all
// would cost more than it tells; OnRun counts them as they happen.
func (q *Queue) Stats(ctx context.Context) ([]Count, error) {
	rows, err := q.db.QueryContext(ctx, `
		SELECT queue, 'available', count(*), min(scheduled_at) FROM job WHERE state = 'available' GROUP BY queue
		UNION ALL SELECT queue, 'running', count(*), NULL FROM job WHERE state = 'running' GROUP BY queue
		UNION ALL SELECT queue, state, count(*), NULL FROM job WHERE state IN ('scheduled', 'retrying') GROUP BY queue, state
		UNION ALL SELECT queue, 'discarded', count(*), NULL FROM job WHERE state = 'discarded' GROUP BY queue
		ORDER BY 1, 2`)
	if err != nil {
		return nil, store.Err(err)
	}
	defer func() { _ = rows.Close() }()
	var counts []Count
	for rows.Next() {
		var c Count
		var since store.Time
		if err := rows.Scan(&c.Queue, &c.State, &c.Jobs, &since); err != nil {
			return nil, store.Err(err)
		}
		c.Since = since.Time
		counts = append(counts, c)
	}
	return counts, store.Err(rows.Err())
}

const pruneChunk = 500

// Prune deletes jobs that finished longer ago than that, in short transactions, and tells how many. The
// newest job of each schedule stays, as its last run.
func (q *Queue) Prune(ctx context.Context, olderThan time.Duration) (int64, error) {
	before := store.At(q.now().Add(-olderThan))
	for total := int64(0); ; {
		var n int64
		err := q.db.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Exec(ctx, `
				DELETE FROM job WHERE id IN (SELECT j.id FROM job j WHERE j.finished_at < $1
					AND (j.schedule IS NULL OR EXISTS (SELECT 1 FROM job n WHERE n.schedule = j.schedule AND n.id > j.id))
					ORDER BY j.finished_at LIMIT $2)`, before, pruneChunk)
			return err
		})
		total += n
		if err != nil || n < pruneChunk {
			return total, err
		}
	}
}

// queues are those that this replica works.
func (q *Queue) queues() []string {
	set := map[string]bool{}
	for _, w := range q.workers {
		set[w.Queue] = true
	}
	return slices.Sorted(maps.Keys(set))
}
