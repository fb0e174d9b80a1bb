// Package job runs stored work: jobs inserted in the transaction that made them necessary, taken up by any
// replica, retried with back-off, and schedules that insert jobs with exactly one runner over all replicas.
//
// A job can run twice: a worker makes its effects idempotent, or guards them with Fence, which
// holds the transaction only while this run still owns the job, or ends the job in the same transaction with Done.
//
// Why this queue is Slipway's own stands in docs/decisions/0002-job-queue.md.
package job

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the tables of jobs, replicas and schedules.
var Migrations = store.Migrations{Owner: "job", FS: must(fs.Sub(files, "migrations"))}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Args is what a job stores: a small struct with a stable kind, "<blueprint>.<verb>". Old arguments must stay
// readable: they lie in databases.
type Args interface{ Kind() string }

// Worker does the jobs of one kind.
type Worker struct {
	Kind        string        // from the arguments' type
	Queue       string        // default: the blueprint's name, which is what stands before the dot of Kind
	Timeout     time.Duration // of one run; default 1 minute
	MaxAttempts int           // default 10; then the job is discarded (kept, with its errors, until retention)
	Text        string        // what it does, for people
	Parallel    int           // how many of this kind at once on this replica; 0: only the limit of its queue. A kind with a limit has a line of its own
	work        func(ctx context.Context, raw json.RawMessage) error
}

// Work makes a Worker of a function. Errors decide what happens: a slipway.Error with code Invalid, NotFound, Forbidden,
// Unsupported or Conflict is final (Final makes any other error so); RetryAfter of a coded error is the next delay;
// all else is tried again with jittered exponential back-off (1 s doubling to 10 min). A panic is an error like any other.
// The context ends with the time limit, when the job is cancelled, and when the replica stops; a function that
// then returns an error because of a stop is run again elsewhere and the attempt is not counted.
func Work[A Args](fn func(ctx context.Context, args A) error) Worker {
	var zero A
	return Worker{Kind: zero.Kind(), work: func(ctx context.Context, raw json.RawMessage) error {
		var args A
		if err := json.Unmarshal(raw, &args); err != nil {
			return slipway.Errorf(slipway.Invalid, "the stored arguments do not decode").WithCause(err)
		}
		return fn(ctx, args)
	}}
}

// withDefaults fills in what a worker left out.
func (w Worker) withDefaults() Worker {
	if w.Queue == "" {
		w.Queue, _, _ = strings.Cut(w.Kind, ".")
	}
	if w.Timeout <= 0 {
		w.Timeout = time.Minute
	}
	if w.MaxAttempts <= 0 {
		w.MaxAttempts = 10
	}
	return w
}

// Insert says how a job is stored.
type Insert struct {
	// Unique: while a job with the same kind and key waits or runs, no second one is stored. If one runs, it is marked to run once more after it ends
	// (what was learned after it began is not lost) and not before At, with the arguments that it has: the key stands for them. One that is scheduled for
	// later than At is moved forward. Without a key nothing is compared.
	Unique   string
	At       time.Time // not before; zero: now
	Priority int       // 1 (first) to 4; default 2; counts within one queue
}

// State is where a job stands.
type State string

// The states.
const (
	Available State = "available"
	Running   State = "running"
	Retrying  State = "retrying"  // failed, waits for its next attempt
	Scheduled State = "scheduled" // waits for its time
	Completed State = "completed"
	Canceled  State = "canceled"
	Discarded State = "discarded" // failed for good
)

// States lists every state, in the order of a job's life.
func States() []State {
	return []State{Scheduled, Available, Running, Retrying, Completed, Canceled, Discarded}
}

// Job is a stored job as people see it. Arguments are data of the blueprint and hold no secrets.
type Job struct {
	ID          int64           `json:"id" doc:"Id"`
	Kind        string          `json:"kind" doc:"What it does" example:"build.refresh"`
	Queue       string          `json:"queue" doc:"Blueprint that works it"`
	State       State           `json:"state" enum:"available,running,retrying,scheduled,completed,canceled,discarded" doc:"Where it stands"`
	Args        json.RawMessage `json:"args" doc:"Arguments"`
	Attempt     int             `json:"attempt" doc:"Runs begun so far"`
	MaxAttempts int             `json:"maxAttempts" doc:"Runs before it is discarded"`
	Priority    int             `json:"priority" doc:"1 is first"`
	CreatedAt   time.Time       `json:"createdAt" doc:"When it was inserted"`
	ScheduledAt time.Time       `json:"scheduledAt" doc:"When it may run"`
	StartedAt   *time.Time      `json:"startedAt" nullable:"true" doc:"When the last run began"`
	FinishedAt  *time.Time      `json:"finishedAt" nullable:"true" doc:"When it ended for good"`
	Errors      []Failure       `json:"errors,omitempty" doc:"What went wrong, newest last, at most 10"`
}

// Failure is one run that failed.
type Failure struct {
	At      time.Time `json:"at" doc:"When"`
	Attempt int       `json:"attempt" doc:"Which run"`
	Error   string    `json:"error" doc:"What went wrong"`
}

// Info is what a run knows about itself.
type Info struct {
	ID          int64
	Kind        string
	Attempt     int // 1 in the first run
	MaxAttempts int
}

type taskKey struct{}

// FromContext tells which job the context belongs to; false outside of one.
func FromContext(ctx context.Context) (Info, bool) {
	t, ok := ctx.Value(taskKey{}).(*task)
	if !ok {
		return Info{}, false
	}
	return Info{ID: t.id, Kind: t.kind, Attempt: t.attempt, MaxAttempts: t.maxAttempts}, true
}

// Fence makes the transaction depend on this run: it fails with a final Conflict when the run no longer owns its job
// (another replica has taken it up, or it was given back), and nobody can take the job up until the transaction ends.
// The transaction is one of the job's own database. Outside of a job, Fence fails.
//
// A crash between that transaction and the end of the run runs the job again. What must not happen twice even then goes into
// a transaction that ends with Done, or checks a row of its own.
func Fence(ctx context.Context, tx *store.Tx) error {
	t, err := own(ctx, tx)
	if err != nil {
		return err
	}
	query := "SELECT 1 FROM job WHERE id = $1 AND run = $2 AND state = 'running'"
	if t.q.db.Engine() == store.Postgres {
		query += " FOR UPDATE" // the reaper passes over a locked row; on SQLite this transaction is the only one
	}
	var one int
	err = store.Err(tx.QueryRowContext(ctx, query, t.id, t.run).Scan(&one))
	if slipway.CodeOf(err) == slipway.NotFound {
		return t.lost()
	}
	return err
}

// Done ends this job well in the transaction that has its effect, so that both happen once or not at all. It fails like Fence. What the function
// returns after the commit no longer counts.
func Done(ctx context.Context, tx *store.Tx) error {
	t, err := own(ctx, tx)
	if err != nil {
		return err
	}
	ends := map[int64]State{}
	if err := complete(ctx, tx, []*task{t}, store.At(t.q.now()), ends); err != nil {
		return store.Err(err)
	}
	if len(ends) == 0 {
		return t.lost()
	}
	tx.AfterCommit(func() {
		t.stored.Store(true)
		switch ends[t.id] {
		case Available:
			t.q.wake(0, t.kind)
		case Scheduled:
			t.q.wake(time.Millisecond, t.kind)
		}
	})
	return nil
}

// own gives the task that the context belongs to, if the transaction can guard it.
func own(ctx context.Context, tx *store.Tx) (*task, error) {
	t, ok := ctx.Value(taskKey{}).(*task)
	if !ok || tx.DB() != t.q.db {
		return nil, slipway.Errorf(slipway.Internal, "Fence and Done stand only in a job, in a transaction of the job's database")
	}
	return t, nil
}

func (t *task) lost() error {
	return slipway.Errorf(slipway.Conflict, "run %d of job %d no longer owns it; nothing was changed", t.run, t.id)
}

type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// Final marks an error as one that another attempt would not mend: the job is discarded. Final(nil) is nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return finalError{err}
}

const maxArgs = 1 << 20

// marshal gives the arguments as they are stored.
func marshal(args Args) (string, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return "", fmt.Errorf("the arguments of a job %s: %w", args.Kind(), err)
	}
	if len(raw) > maxArgs {
		return "", slipway.Errorf(slipway.TooLarge, "the arguments of a job %s are over 1 MiB; store the data and pass its id", args.Kind())
	}
	if bytes.Equal(raw, []byte("null")) {
		raw = []byte("{}")
	}
	return string(raw), nil
}
