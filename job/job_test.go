package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

var migrations = []store.Migrations{Migrations}

func each(t *testing.T, test func(t *testing.T, db *store.DB)) {
	t.Helper()
	t.Parallel()
	storetest.Each(t, migrations, test)
}

type note struct {
	N int `json:"n"`
}

func (note) Kind() string { return "test.note" }

type other struct{}

func (other) Kind() string { return "other.do" }

// newQueue is a queue that looks and beats fast, so that tests do not wait.
func newQueue(t testing.TB, db *store.DB, workers ...Worker) *Queue {
	t.Helper()
	q := New(db, slog.New(slog.NewTextHandler(t.Output(), nil)))
	q.poll, q.beat = 20*time.Millisecond, 50*time.Millisecond
	q.Add(workers...)
	return q
}

// start runs a queue until the test ends or stop is called.
func start(t testing.TB, q *Queue) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func insert(t testing.TB, q *Queue, args Args, opt Insert) (id int64, inserted bool) {
	t.Helper()
	err := q.db.Write(t.Context(), func(tx *store.Tx) (err error) {
		id, inserted, err = q.Insert(t.Context(), tx, args, opt)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id, inserted
}

// running gives what runs the queue, once it does.
func running(t testing.TB, q *Queue) (r *runner) {
	t.Helper()
	eventually(t, "the queue runs", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		r = q.runner
		return r != nil && r.replica.Load() != 0
	})
	return r
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func mustGet(t testing.TB, q *Queue, id int64) Job {
	t.Helper()
	j, err := q.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func reach(t testing.TB, q *Queue, id int64, want State) (j Job) {
	t.Helper()
	eventually(t, fmt.Sprintf("job %d is %s", id, want), func() bool { j = mustGet(t, q, id); return j.State == want })
	return j
}

// clock is a time that tests move.
type clock struct{ us atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.us.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro())
	return c
}
func (c *clock) now() time.Time       { return time.UnixMicro(c.us.Load()).UTC() }
func (c *clock) pass(d time.Duration) { c.us.Add(d.Microseconds()) }

func TestMigrations(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, migrations...)
}

func TestAJobRunsOnceItsTransactionIsCommitted(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ran := make(chan int, 10)
		q := newQueue(t, db, Work(func(ctx context.Context, a note) error {
			info, ok := FromContext(ctx)
			if !ok || info.Kind != "test.note" || info.Attempt != 1 || info.MaxAttempts != 10 {
				t.Errorf("got %+v, %v; want the first attempt of ten at test.note", info, ok)
			}
			ran <- a.N
			return nil
		}))
		q.poll = time.Minute // only the wake finds it
		start(t, q)
		var before int64
		err := db.Write(t.Context(), func(tx *store.Tx) (err error) {
			before, _, err = q.Insert(t.Context(), tx, note{1}, Insert{})
			return errors.Join(err, errors.New("changed my mind"))
		})
		if err == nil {
			t.Fatal("the transaction was to fail")
		}
		id, inserted := insert(t, q, note{2}, Insert{})
		if !inserted {
			t.Error("got inserted false")
		}
		if n := <-ran; n != 2 {
			t.Errorf("ran %d; want only the committed one", n)
		}
		j := reach(t, q, id, Completed)
		if string(j.Args) != `{"n":2}` || j.Queue != "test" || j.Attempt != 1 || j.Priority != 2 || j.StartedAt == nil || j.FinishedAt == nil || len(j.Errors) != 0 {
			t.Errorf("got %+v", j)
		}
		if before != id {
			if _, err := q.Get(t.Context(), before); !errors.Is(err, slipway.NotFound) {
				t.Errorf("the rolled back job: got %v, want not found", err)
			}
		}
	})
}

func TestTheErrorDecidesWhatHappens(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		cases := []struct {
			err   error
			state State
			after time.Duration // least time until the next attempt
			most  time.Duration
		}{
			{nil, Completed, 0, 0},
			{slipway.Errorf(slipway.Invalid, "bad"), Discarded, 0, 0},
			{fmt.Errorf("wrapped: %w", slipway.Errorf(slipway.NotFound, "gone")), Discarded, 0, 0},
			{slipway.Errorf(slipway.Forbidden, "no"), Discarded, 0, 0},
			{slipway.Errorf(slipway.Unsupported, "cannot"), Discarded, 0, 0},
			{slipway.Errorf(slipway.Conflict, "late"), Discarded, 0, 0},
			{Final(errors.New("never")), Discarded, 0, 0},
			{fmt.Errorf("wrapped: %w", Final(errors.New("never"))), Discarded, 0, 0},
			{errors.New("plain"), Retrying, 800 * time.Millisecond, time.Second},
			{slipway.Errorf(slipway.Unavailable, "down"), Retrying, 800 * time.Millisecond, time.Second},
			{slipway.Errorf(slipway.RateLimited, "slow").After(90 * time.Second), Retrying, 90 * time.Second, 90 * time.Second},
			{errors.New("bad text \x00 \xff"), Retrying, 800 * time.Millisecond, time.Second},
			{errors.New(strings.Repeat("ü", 5000)), Retrying, 800 * time.Millisecond, time.Second},
		}
		c := newClock()
		q := newQueue(t, db, Work(func(_ context.Context, a note) error { return cases[a.N].err }))
		q.Now = c.now
		start(t, q)
		for i, want := range cases {
			id, _ := insert(t, q, note{i}, Insert{})
			j := reach(t, q, id, want.state)
			if want.err != nil && (len(j.Errors) != 1 || j.Errors[0].Attempt != 1 || j.Errors[0].Error == "" || !j.Errors[0].At.Equal(c.now())) {
				t.Errorf("%.50v: got failures %+v", want.err, j.Errors)
			}
			if d := j.ScheduledAt.Sub(c.now()); d < want.after || d > want.most {
				t.Errorf("%.50v: tried again in %s; want %s to %s", want.err, d, want.after, want.most)
			}
			if (j.FinishedAt == nil) != (want.state == Retrying) {
				t.Errorf("%.50v: %s and finished at %v", want.err, j.State, j.FinishedAt)
			}
		}
	})
}

func TestAFailingJobIsTriedAgainLaterAndLaterThenDiscarded(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		w := Work(func(context.Context, note) error { return errors.New("no luck") })
		w.MaxAttempts = 12
		c := newClock()
		q := newQueue(t, db, w)
		q.Now = c.now
		start(t, q)
		id, _ := insert(t, q, note{}, Insert{})
		for attempt := 1; attempt < 12; attempt++ {
			var j Job
			eventually(t, "the attempt failed", func() bool { j = mustGet(t, q, id); return j.State == Retrying && j.Attempt == attempt })
			full := min(10*time.Minute, time.Second<<(attempt-1))
			if d := j.ScheduledAt.Sub(c.now()); d > full || d < full*4/5 {
				t.Errorf("after attempt %d: waits %s; want up to a fifth less than %s", attempt, d, full)
			}
			c.pass(full)
		}
		j := reach(t, q, id, Discarded)
		if j.Attempt != 12 || len(j.Errors) != 10 || j.Errors[9].Attempt != 12 || j.Errors[0].Attempt != 3 {
			t.Errorf("got attempt %d and %d failures; want 12 and the last 10", j.Attempt, len(j.Errors))
		}
	})
}

func TestABackoffNeverLeavesItsBounds(t *testing.T) {
	t.Parallel()
	for attempt := -1; attempt < 200; attempt++ {
		if d := backoff(attempt); d < 800*time.Millisecond || d > 10*time.Minute {
			t.Errorf("attempt %d: %s", attempt, d)
		}
	}
}

func TestAUniqueJobWaitsOnce(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		q := newQueue(t, db)
		q.Now = c.now
		id, _ := insert(t, q, note{1}, Insert{Unique: "a"})
		if again, inserted := insert(t, q, note{2}, Insert{Unique: "a"}); inserted || again != id {
			t.Errorf("got %d, %v; want the first job %d", again, inserted, id)
		}
		if _, inserted := insert(t, q, note{3}, Insert{Unique: "b"}); !inserted {
			t.Error("another key was not inserted")
		}
		if _, inserted := insert(t, q, other{}, Insert{Unique: "a"}); !inserted {
			t.Error("another kind was not inserted")
		}
		if j := mustGet(t, q, id); string(j.Args) != `{"n":1}` {
			t.Errorf("got args %s; want those of the first", j.Args)
		}
		// A scheduled one is moved forward, never back.
		id, _ = insert(t, q, note{}, Insert{Unique: "later", At: c.now().Add(time.Hour)})
		insert(t, q, note{}, Insert{Unique: "later", At: c.now().Add(2 * time.Hour)})
		if j := mustGet(t, q, id); j.State != Scheduled || !j.ScheduledAt.Equal(c.now().Add(time.Hour)) {
			t.Errorf("got %s at %s; want scheduled in an hour", j.State, j.ScheduledAt)
		}
		insert(t, q, note{}, Insert{Unique: "later"})
		if j := mustGet(t, q, id); j.State != Available {
			t.Errorf("one that was to begin later and is asked for now is %s, want it available, for whichever replica", j.State)
		}
		if j := mustGet(t, q, id); !j.ScheduledAt.Equal(c.now()) {
			t.Errorf("got %s; want now", j.ScheduledAt)
		}
	})
}

func TestAUniqueJobThatRunsRunsOnceMoreWhenAskedFor(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		for name, result := range map[string]error{"after success": nil, "after a final error": slipway.Errorf(slipway.Invalid, "bad")} {
			t.Run(name, func(t *testing.T) {
				began, finish := make(chan int), make(chan error)
				q := newQueue(t, db, Work(func(_ context.Context, a note) error { began <- a.N; return <-finish }))
				stop := start(t, q)
				id, _ := insert(t, q, note{1}, Insert{Unique: name})
				<-began
				for range 3 { // once more, however often it is asked for
					if got, inserted := insert(t, q, note{2}, Insert{Unique: name}); inserted || got != id {
						t.Errorf("got %d, %v; want the running job %d", got, inserted, id)
					}
				}
				finish <- result
				<-began
				if j := mustGet(t, q, id); j.Attempt != 1 || j.FinishedAt != nil {
					t.Errorf("second run: got attempt %d, finished %v; want attempts counted anew", j.Attempt, j.FinishedAt)
				}
				finish <- nil
				reach(t, q, id, Completed)
				if _, inserted := insert(t, q, note{3}, Insert{Unique: name}); !inserted {
					t.Error("after the end the key is free")
				}
				<-began
				finish <- nil
				stop()
			})
		}
	})
}

// What a transaction changes before it asks for a unique job is seen by a run of that job, however the two fall.
func TestNothingLearnedIsLost(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		if err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), "CREATE TABLE fact (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		var seen atomic.Int64
		var queues []*Queue
		for range 2 {
			q := newQueue(t, db, Work(func(ctx context.Context, _ note) error {
				var n int64
				if err := db.QueryRowContext(ctx, "SELECT count(*) FROM fact").Scan(&n); err != nil {
					return err
				}
				for {
					old := seen.Load()
					if n <= old || seen.CompareAndSwap(old, n) {
						return nil
					}
				}
			}))
			start(t, q)
			queues = append(queues, q)
		}
		const writers, each = 4, 40
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for i := range each {
					err := db.Write(t.Context(), func(tx *store.Tx) error {
						if _, err := tx.Exec(t.Context(), "INSERT INTO fact (id, n) VALUES ($1, 1)", w*each+i); err != nil {
							return err
						}
						_, _, err := queues[w%2].Insert(t.Context(), tx, note{}, Insert{Unique: "facts"})
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		eventually(t, "a run saw every fact", func() bool { return seen.Load() == writers*each })
	})
}

func TestARunThatTakesTooLongIsEnded(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		w := Work(func(ctx context.Context, _ note) error { <-ctx.Done(); return ctx.Err() })
		w.Timeout = 20 * time.Millisecond
		q := newQueue(t, db, w)
		start(t, q)
		id, _ := insert(t, q, note{}, Insert{})
		eventually(t, "a run failed", func() bool { return len(mustGet(t, q, id).Errors) > 0 })
		if text := mustGet(t, q, id).Errors[0].Error; !strings.Contains(text, "longer than its limit of 20ms") {
			t.Errorf("got %q; want the limit named", text)
		}
	})
}

func TestAStoredFailureShowsNoCause(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"plain": errors.New("plain"),
		"repository x: unavailable: the host does not answer": fmt.Errorf("repository x: %w",
			slipway.Errorf(slipway.Unavailable, "the host does not answer").WithCause(errors.New("secret"))),
		"invalid: no": Final(slipway.Errorf(slipway.Invalid, "no").WithCause(errors.New("secret"))),
	} {
		if got := printable(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDoneEndsAJobWithItsEffect(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		q := newQueue(t, db)
		began, asked := make(chan bool, 2), make(chan bool, 2)
		q.Add(Work(func(ctx context.Context, a note) error {
			began <- true
			<-asked
			err := db.Write(ctx, func(tx *store.Tx) error {
				if _, _, err := q.Insert(ctx, tx, other{}, Insert{}); err != nil {
					return err
				}
				if err := Done(ctx, tx); err != nil {
					return err
				}
				if a.N == 1 {
					return Final(errors.New("the effect failed"))
				}
				return nil
			})
			if a.N == 2 {
				return errors.New("after the end")
			}
			return err
		}))
		start(t, q)
		for n, want := range []State{Completed, Discarded, Completed} {
			id, _ := insert(t, q, note{n}, Insert{Unique: "x"})
			<-began
			if n == 2 { // asked for while it runs: once more
				insert(t, q, note{}, Insert{Unique: "x"})
				asked <- true
				<-began
			}
			asked <- true
			if j := reach(t, q, id, want); n == 2 && len(j.Errors) != 0 {
				t.Errorf("got failures %v of a job that was done", j.Errors)
			}
		}
		effects, err := q.List(t.Context(), Filter{Kinds: []string{"other.do"}})
		if err != nil || len(effects) != 3 {
			t.Errorf("got %d effects, %v; want 3: the failed transaction left none", len(effects), err)
		}
	})
}

func TestAPanicIsAFailedRun(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		q := newQueue(t, db,
			Work(func(context.Context, note) error { panic("oh no") }),
			Work(func(context.Context, other) error { runtime.Goexit(); return nil }))
		start(t, q)
		a, _ := insert(t, q, note{}, Insert{})
		b, _ := insert(t, q, other{}, Insert{})
		for id, want := range map[int64]string{a: "panic: oh no", b: "ended its goroutine"} {
			eventually(t, "the run failed", func() bool { return len(mustGet(t, q, id).Errors) > 0 })
			if text := mustGet(t, q, id).Errors[0].Error; !strings.Contains(text, want) {
				t.Errorf("got %q; want %q", text, want)
			}
		}
	})
}

func TestArgumentsOfOtherTimes(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		got := make(chan note, 1)
		q := newQueue(t, db, Work(func(_ context.Context, a note) error { got <- a; return nil }))
		a, _ := insert(t, q, note{}, Insert{At: time.Now().Add(time.Hour)})
		b, _ := insert(t, q, note{}, Insert{At: time.Now().Add(time.Hour)})
		for id, args := range map[int64]string{a: `{"n":7,"dropped":true}`, b: `{"n":"seven"}`} {
			if err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), "UPDATE job SET args = $2, state = 'available' WHERE id = $1", id, args)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		start(t, q)
		reach(t, q, a, Completed)
		if n := <-got; n.N != 7 {
			t.Errorf("got %+v from arguments with a field that is gone", n)
		}
		if j := reach(t, q, b, Discarded); j.Attempt != 1 || !strings.Contains(j.Errors[0].Error, "do not decode") {
			t.Errorf("got attempt %d, %v; want it discarded at once", j.Attempt, j.Errors)
		}
	})
}

// A kind, and a queue, that a replica does not know wait for one that does.
func TestAnUnknownKindWaitsUntouched(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		old := newQueue(t, db, Work(func(context.Context, note) error { return nil }))
		start(t, old)
		newKind, _ := insert(t, old, newer{}, Insert{}) // of a queue that the old replica works
		newQueueJob, _ := insert(t, old, other{}, Insert{})
		before := []Job{mustGet(t, old, newKind), mustGet(t, old, newQueueJob)}
		for range 20 { // jobs behind it are not held up
			id, _ := insert(t, old, note{}, Insert{})
			reach(t, old, id, Completed)
		}
		if now := []Job{mustGet(t, old, newKind), mustGet(t, old, newQueueJob)}; !reflect.DeepEqual(before, now) {
			t.Errorf("got %+v; want them untouched: %+v", now, before)
		}
		q := newQueue(t, db, Work(func(context.Context, newer) error { return nil }), Work(func(context.Context, other) error { return nil }))
		start(t, q)
		reach(t, q, newKind, Completed)
		reach(t, q, newQueueJob, Completed)
	})
}

type newer struct{}

func (newer) Kind() string { return "test.newer" }

func TestAFirstPriorityGoesFirst(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		var mu sync.Mutex
		var order []int
		q := newQueue(t, db, Work(func(_ context.Context, a note) error {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, a.N)
			return nil
		}))
		q.Workers = 1
		for _, p := range []int{4, 2, 1, 3, 1} {
			insert(t, q, note{p}, Insert{Priority: p})
		}
		start(t, q)
		eventually(t, "all ran", func() bool { mu.Lock(); defer mu.Unlock(); return len(order) == 5 })
		if !slices.IsSorted(order) {
			t.Errorf("got order %v", order)
		}
	})
}

func TestLimitsOfWhatRunsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		var running, most, few, mostFew atomic.Int64
		enter := func(n, top *atomic.Int64) {
			v := n.Add(1)
			for {
				m := top.Load()
				if v <= m || top.CompareAndSwap(m, v) {
					return
				}
			}
		}
		limited := Work(func(ctx context.Context, _ newer) error {
			enter(&running, &most)
			enter(&few, &mostFew)
			defer running.Add(-1)
			defer few.Add(-1)
			<-time.After(time.Millisecond)
			return nil
		})
		limited.Parallel = 2
		q := newQueue(t, db, limited, Work(func(ctx context.Context, _ note) error {
			enter(&running, &most)
			defer running.Add(-1)
			<-time.After(time.Millisecond)
			return nil
		}))
		q.Workers = 5
		start(t, q)
		for range 60 {
			insert(t, q, note{}, Insert{})
			insert(t, q, newer{}, Insert{})
		}
		eventually(t, "all ran", func() bool {
			done, err := q.List(t.Context(), Filter{States: []State{Completed}, Limit: 500})
			return err == nil && len(done) == 120
		})
		if most.Load() > 5 || mostFew.Load() > 2 {
			t.Errorf("ran %d at once, %d of the limited kind; want at most 5 and 2", most.Load(), mostFew.Load())
		}
	})
}

func TestAJobWaitsForItsTime(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		ran := make(chan time.Time, 1)
		q := newQueue(t, db, Work(func(context.Context, note) error { ran <- c.now(); return nil }))
		q.Now = c.now
		start(t, q)
		at := c.now().Add(time.Hour)
		id, _ := insert(t, q, note{}, Insert{At: at})
		now, _ := insert(t, q, note{}, Insert{})
		reach(t, q, now, Completed)
		<-ran
		if j := mustGet(t, q, id); j.State != Scheduled {
			t.Errorf("got %s an hour early", j.State)
		}
		c.pass(time.Hour)
		reach(t, q, id, Completed)
		if got := <-ran; got.Before(at) {
			t.Errorf("ran at %s, before %s", got, at)
		}
	})
}

// A job that failed before the clock was put back does not wait until the clock is there again, once somebody asks for it.
func TestAClockThatIsPutBack(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		var runs atomic.Int64
		q := newQueue(t, db, Work(func(context.Context, note) error {
			if runs.Add(1) == 1 {
				return errors.New("not yet")
			}
			return nil
		}))
		q.Now = c.now
		start(t, q)
		id, _ := insert(t, q, note{}, Insert{Unique: "one"})
		reach(t, q, id, Retrying)
		insert(t, q, note{}, Insert{Unique: "one"})
		if j := mustGet(t, q, id); j.State != Retrying {
			t.Errorf("it is %s; a delay counts for whoever asks again", j.State)
		}
		c.pass(-2 * time.Hour)
		insert(t, q, note{}, Insert{Unique: "one"})
		reach(t, q, id, Completed)
	})
}

// A job that asks for itself later does not run until then.
func TestAJobThatRunsIsAskedForLater(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		var q *Queue
		var runs atomic.Int64
		begin := c.now()
		ask := func(ctx context.Context, after time.Duration) error {
			return db.Write(ctx, func(tx *store.Tx) error {
				_, _, err := q.Insert(ctx, tx, note{}, Insert{Unique: "one", At: begin.Add(after)})
				return err
			})
		}
		q = newQueue(t, db, Work(func(ctx context.Context, _ note) error {
			if runs.Add(1) > 1 {
				return nil
			}
			return errors.Join(ask(ctx, 2*time.Hour), ask(ctx, time.Hour), ask(ctx, 3*time.Hour))
		}))
		q.Now = c.now
		start(t, q)
		id, _ := insert(t, q, note{}, Insert{Unique: "one"})
		reach(t, q, id, Scheduled)
		if j := mustGet(t, q, id); !j.ScheduledAt.Equal(begin.Add(time.Hour)) || j.FinishedAt != nil {
			t.Errorf("it waits until %v, want the first time that was asked for, %v", j.ScheduledAt, begin.Add(time.Hour))
		}
		c.pass(time.Hour)
		reach(t, q, id, Completed)
		if n := runs.Load(); n != 2 {
			t.Errorf("it ran %d times, want 2", n)
		}
	})
}

func TestStoppingLetsRunningJobsFinish(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		began, finish := make(chan bool), make(chan bool)
		q := newQueue(t, db, Work(func(context.Context, note) error { began <- true; <-finish; return nil }))
		q.Workers = 1
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- q.Run(ctx) }()
		first, _ := insert(t, q, note{1}, Insert{})
		second, _ := insert(t, q, note{2}, Insert{})
		<-began
		cancel()
		finish <- true
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if j := mustGet(t, q, first); j.State != Completed {
			t.Errorf("the running job: got %s, want completed", j.State)
		}
		if j := mustGet(t, q, second); j.State != Available || j.Attempt != 0 {
			t.Errorf("the waiting job: got %s, attempt %d; want it untouched", j.State, j.Attempt)
		}
	})
}

func TestWhatOutlivesTheGraceIsGivenBack(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		began, never := make(chan bool, 2), make(chan bool)
		fenced := make(chan error, 1)
		q := newQueue(t, db,
			Work(func(ctx context.Context, _ note) error { began <- true; <-ctx.Done(); return ctx.Err() }),
			Work(func(ctx context.Context, _ other) error { // hears nothing
				began <- true
				<-never
				fenced <- db.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error { return Fence(context.WithoutCancel(ctx), tx) })
				return nil
			}))
		q.Grace = 10 * time.Millisecond
		stop := start(t, q)
		a, _ := insert(t, q, note{}, Insert{})
		b, _ := insert(t, q, other{}, Insert{})
		<-began
		<-began
		stop()
		for _, id := range []int64{a, b} {
			if j := mustGet(t, q, id); j.State != Available || j.Attempt != 0 || len(j.Errors) != 0 {
				t.Errorf("got %s, attempt %d, %v; want available as before", j.State, j.Attempt, j.Errors)
			}
		}
		close(never)
		if err := <-fenced; !errors.Is(err, slipway.Conflict) {
			t.Errorf("the fence of the abandoned run: got %v, want a conflict", err)
		}
		if j := mustGet(t, q, b); j.State != Available {
			t.Errorf("got %s after the abandoned run ended; want it without effect", j.State)
		}
	})
}

func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		began := make(chan bool, 1)
		q := newQueue(t, db, Work(func(ctx context.Context, _ note) error { began <- true; <-ctx.Done(); return context.Cause(ctx) }))
		start(t, q)
		elsewhere := newQueue(t, db) // a replica that does not run it
		id, _ := insert(t, q, note{}, Insert{Unique: "x"})
		<-began
		insert(t, q, note{}, Insert{Unique: "x"}) // a mark does not outlive a cancel
		if j, err := elsewhere.Cancel(t.Context(), id); err != nil || j.State != Running {
			t.Errorf("got %s, %v; want it running until its function returns", j.State, err)
		}
		if j := reach(t, q, id, Canceled); j.FinishedAt == nil {
			t.Error("canceled without a time")
		}
		if _, err := q.Cancel(t.Context(), id); !errors.Is(err, slipway.Conflict) {
			t.Errorf("a finished one: got %v, want a conflict", err)
		}
		if _, err := q.Cancel(t.Context(), id+100); !errors.Is(err, slipway.NotFound) {
			t.Errorf("none: got %v, want not found", err)
		}
		id, _ = insert(t, q, other{}, Insert{})
		if j, err := q.Cancel(t.Context(), id); err != nil || j.State != Canceled {
			t.Errorf("a waiting one: got %s, %v; want canceled", j.State, err)
		}
	})
}

func TestRetry(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		q := newQueue(t, db)
		q.Now = c.now
		id, _ := insert(t, q, note{}, Insert{Unique: "x"})
		if _, err := q.Retry(t.Context(), id); !errors.Is(err, slipway.Conflict) {
			t.Errorf("a waiting one: got %v, want a conflict", err)
		}
		if _, err := q.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if j, err := q.Retry(t.Context(), id); err != nil || j.State != Available || j.FinishedAt != nil || j.Attempt != 0 {
			t.Errorf("a canceled one: got %+v, %v; want available", j, err)
		}
		if _, err := q.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		insert(t, q, note{}, Insert{Unique: "x"})
		if _, err := q.Retry(t.Context(), id); !errors.Is(err, slipway.Conflict) || !strings.Contains(err.Error(), "unique key") {
			t.Errorf("got %v; want a conflict with the other job", err)
		}
		if _, err := q.Retry(t.Context(), id+100); !errors.Is(err, slipway.NotFound) {
			t.Errorf("none: got %v, want not found", err)
		}
	})
}

func TestListStatsAndPrune(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		q := newQueue(t, db, Work(func(_ context.Context, a note) error {
			if a.N%10 == 0 {
				return Final(errors.New("tenth"))
			}
			return nil
		}))
		q.Now = c.now
		stop := start(t, q)
		for i := range 30 {
			insert(t, q, note{i}, Insert{})
		}
		waiting, _ := insert(t, q, other{}, Insert{})
		list := func(f Filter) []Job {
			t.Helper()
			jobs, err := q.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			return jobs
		}
		eventually(t, "all ran", func() bool {
			return len(list(Filter{States: []State{Completed}})) == 27 && len(list(Filter{States: []State{Discarded, Canceled}})) == 3
		})
		stop()
		if got := list(Filter{}); len(got) != 31 || got[0].ID != waiting {
			t.Errorf("got %d jobs; want 31, newest first", len(got))
		}
		if got := list(Filter{Queues: []string{"other"}, Kinds: []string{"other.do", "none.such"}}); len(got) != 1 || got[0].ID != waiting {
			t.Errorf("by queue and kind: got %+v", got)
		}
		var ids []int64
		f := Filter{States: []State{Completed, Discarded}, Limit: 7}
		for {
			page := list(f)
			for _, j := range page {
				ids = append(ids, j.ID)
				f.AfterID = j.ID
			}
			if len(page) < 7 {
				break
			}
		}
		slices.Reverse(ids)
		if !slices.IsSorted(ids) || len(slices.Compact(ids)) != 30 {
			t.Errorf("paged through %v; want 30 ids downwards", ids)
		}
		stats, err := q.Stats(t.Context())
		waits := mustGet(t, q, waiting).ScheduledAt.UTC()
		if want := []Count{{"other", Available, 1, waits}, {"test", Discarded, 3, time.Time{}}}; err != nil || !slices.Equal(stats, want) {
			t.Errorf("got %v, %v; want %v", stats, err, want)
		}
		c.pass(time.Hour)
		if n, err := q.Prune(t.Context(), 2*time.Hour); n != 0 || err != nil {
			t.Errorf("pruned %d, %v; want nothing so young", n, err)
		}
		if n, err := q.Prune(t.Context(), time.Minute); n != 30 || err != nil {
			t.Errorf("pruned %d, %v; want the 30 finished ones", n, err)
		}
		mustGet(t, q, waiting)
	})
}

func TestPruneDeletesInChunks(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		q := newQueue(t, db)
		fill(t, db, 1234, Completed, "test", "test.note")
		if n, err := q.Prune(t.Context(), time.Minute); n != 1234 || err != nil {
			t.Errorf("got %d, %v; want 1234 in transactions of at most 500", n, err)
		}
	})
}

// fill inserts jobs without a queue.
func fill(t testing.TB, db *store.DB, n int, state State, queue, kind string) {
	t.Helper()
	old := db.OnWrite
	db.OnWrite = nil
	defer func() { db.OnWrite = old }()
	finished := "NULL"
	if state == Completed {
		finished = "1"
	}
	if err := db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `
			INSERT INTO job (kind, queue, state, priority, args, max_attempts, created_at, scheduled_at, finished_at)
			WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < `+fmt.Sprint(n)+`)
			SELECT $1, $2, $3, 2, '{}', 10, 1, 1, `+finished+` FROM s`, kind, queue, state)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestInsertRefusesWhatCannotBeRight(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		q := newQueue(t, db)
		for name, try := range map[string]func(tx *store.Tx) error{
			"priority": func(tx *store.Tx) error {
				_, _, err := q.Insert(t.Context(), tx, note{}, Insert{Priority: 5})
				return err
			},
			"kind": func(tx *store.Tx) error { _, _, err := q.Insert(t.Context(), tx, nameless{}, Insert{}); return err },
			"size": func(tx *store.Tx) error {
				_, _, err := q.Insert(t.Context(), tx, large{bytes.Repeat([]byte("x"), maxArgs)}, Insert{})
				return err
			},
			"a fence outside of a job": func(tx *store.Tx) error { return Fence(t.Context(), tx) },
		} {
			if err := db.Write(t.Context(), try); err == nil {
				t.Errorf("%s: got no error", name)
			}
		}
	})
}

type nameless struct{}

func (nameless) Kind() string { return "" }

type large struct{ Data []byte }

func (large) Kind() string { return "test.large" }

func TestRunReportsWhatWasAddedWrongly(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		q := newQueue(t, db, Work(func(context.Context, note) error { return nil }), Work(func(context.Context, note) error { return nil }))
		q.AddSchedule(Schedule{Name: "test.x", Every: time.Minute, Args: other{}}, Schedule{Name: "test.y", Args: note{}})
		err := q.Run(t.Context())
		for _, want := range []string{`worker "test.note"`, `schedule "test.x"`, `schedule "test.y"`} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v; want %s named", err, want)
			}
		}
	})
}

func TestOnRunIsToldWhatBecameOfAJob(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		told := make(chan string, 4)
		q := newQueue(t, db, Work(func(_ context.Context, a note) error {
			return []error{nil, errors.New("x"), Final(errors.New("y"))}[a.N]
		}))
		q.OnRun = func(kind string, state State, _ time.Duration) { told <- kind + " " + string(state) }
		start(t, q)
		for i, want := range []string{"test.note completed", "test.note retrying", "test.note discarded"} {
			insert(t, q, note{i}, Insert{})
			if got := <-told; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

func TestAJobReadsAsJSON(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(Job{ID: 1, Args: json.RawMessage(`{"n":1}`)})
	if err != nil || !strings.Contains(string(text), `"args":{"n":1}`) || !strings.Contains(string(text), `"startedAt":null`) {
		t.Errorf("got %s, %v", text, err)
	}
}
