package job

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// bench says whether times are asserted: only on a quiet machine, when asked for by SLIPWAY_BENCH=1.
func bench() bool { return os.Getenv("SLIPWAY_BENCH") == "1" }

// span says how long things took.
type span []time.Duration

func (s span) at(percent int) time.Duration { return s[min(len(s)-1, len(s)*percent/100)] }

func (s span) String() string {
	slices.Sort(s)
	return fmt.Sprintf("p50 %s, p95 %s, p99 %s, max %s", s.at(50), s.at(95), s.at(99), s[len(s)-1])
}

type numbered struct {
	Queue int       `json:"queue"`
	At    time.Time `json:"at"`
}

// tenQueues works ten queues with one kind each, as a replica with ten blueprints does, at the real intervals.
func tenQueues(t testing.TB, db *store.DB, fn func(a numbered) error) *Queue {
	q := New(db, slog.New(slog.NewTextHandler(t.Output(), nil)))
	q.Add(Work(func(_ context.Context, a q0) error { return fn(numbered(a)) }), Work(func(_ context.Context, a q1) error { return fn(numbered(a)) }),
		Work(func(_ context.Context, a q2) error { return fn(numbered(a)) }), Work(func(_ context.Context, a q3) error { return fn(numbered(a)) }),
		Work(func(_ context.Context, a q4) error { return fn(numbered(a)) }), Work(func(_ context.Context, a q5) error { return fn(numbered(a)) }),
		Work(func(_ context.Context, a q6) error { return fn(numbered(a)) }), Work(func(_ context.Context, a q7) error { return fn(numbered(a)) }),
		Work(func(_ context.Context, a q8) error { return fn(numbered(a)) }), Work(func(_ context.Context, a q9) error { return fn(numbered(a)) }))
	return q
}

type (
	q0 numbered
	q1 numbered
	q2 numbered
	q3 numbered
	q4 numbered
	q5 numbered
	q6 numbered
	q7 numbered
	q8 numbered
	q9 numbered
)

func (q0) Kind() string { return "q0.do" }
func (q1) Kind() string { return "q1.do" }
func (q2) Kind() string { return "q2.do" }
func (q3) Kind() string { return "q3.do" }
func (q4) Kind() string { return "q4.do" }
func (q5) Kind() string { return "q5.do" }
func (q6) Kind() string { return "q6.do" }
func (q7) Kind() string { return "q7.do" }
func (q8) Kind() string { return "q8.do" }
func (q9) Kind() string { return "q9.do" }

func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// From the commit of an insert to the first line of the function: p99 at most 150 ms; and at rest, with ten queues, at most 2 % of a core.
func TestACommittedJobRunsSoonAndAQueueAtRestIsQuiet(t *testing.T) {
	if !bench() {
		t.Skip("SLIPWAY_BENCH=1 measures")
	}
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) { // one after the other
			db := storetest.Open(t, engine, migrations...)
			ran := make(chan time.Duration, 1)
			here := tenQueues(t, db, func(a numbered) error { ran <- time.Since(a.At); return nil })
			start(t, here)
			running(t, here)
			inserters := map[string]*Queue{"here": here}
			if engine == store.Postgres {
				inserters["on another replica"] = New(db, here.log)
			}
			for where, q := range inserters {
				var took span
				for i := range 1000 {
					var done time.Time
					if err := db.Write(t.Context(), func(tx *store.Tx) error {
						// The commit is part of what is measured: its time is not known in it.
						_, _, err := q.Insert(t.Context(), tx, []Args{q0{At: time.Now()}, q5{At: time.Now()}, q9{At: time.Now()}}[i%3], Insert{})
						return err
					}); err != nil {
						t.Fatal(err)
					}
					done = time.Now()
					took = append(took, <-ran)
					<-time.After(time.Until(done.Add(time.Duration(i%10) * time.Millisecond)))
				}
				t.Logf("inserted %s: %s", where, took)
				if took.at(99) > 150*time.Millisecond {
					t.Errorf("p99 %s; want at most 150 ms", took.at(99))
				}
			}
			before, from := cpu(t), time.Now()
			<-time.After(20 * time.Second)
			share := 100 * float64(cpu(t)-before) / float64(time.Since(from))
			t.Logf("at rest: %.2f %% of a core", share)
			if share > 2 {
				t.Errorf("at rest: %.2f %% of a core; want at most 2", share)
			}
		})
	}
}

// 10,000 queued jobs never hold up an API write, neither while they are worked nor when the jobs write too.
func TestQueuedJobsDoNotHoldUpAPIWrites(t *testing.T) {
	jobs, limit := 2000, 5*time.Second
	if bench() {
		jobs, limit = 10_000, 100*time.Millisecond
	} else {
		t.Parallel()
	}
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		for _, work := range []string{"jobs that do nothing", "jobs that write a row"} {
			t.Run(string(engine)+"/"+work, func(t *testing.T) {
				db := storetest.Open(t, engine, migrations...)
				if err := db.Write(t.Context(), func(tx *store.Tx) error {
					_, err := tx.Exec(t.Context(), "CREATE TABLE thing (n BIGINT)")
					return err
				}); err != nil {
					t.Fatal(err)
				}
				api := func() error {
					return db.Write(t.Context(), func(tx *store.Tx) error {
						_, err := tx.Exec(t.Context(), "INSERT INTO thing (n) VALUES (1)")
						return err
					})
				}
				for i := range 10 {
					fill(t, db, jobs/10, Available, fmt.Sprintf("q%d", i), fmt.Sprintf("q%d.do", i))
				}
				var ran atomic.Int64
				q := tenQueues(t, db, func(numbered) error {
					defer ran.Add(1)
					if work == "jobs that write a row" {
						return api()
					}
					return nil
				})
				var longest atomic.Int64
				check := db.OnWrite
				db.OnWrite = func(held time.Duration, rows int64) {
					check(held, rows)
					longest.Store(max(longest.Load(), int64(held)))
				}
				from := time.Now()
				start(t, q)
				var waits span
				for ran.Load() < int64(jobs) {
					before := time.Now()
					if err := api(); err != nil {
						t.Fatal(err)
					}
					waits = append(waits, time.Since(before))
					<-time.After(2 * time.Millisecond)
				}
				took := time.Since(from)
				t.Logf("%d jobs, %.0f/s; %d API writes: %s; longest transaction %s", jobs, float64(jobs)/took.Seconds(), len(waits), waits, time.Duration(longest.Load()))
				if most := waits.at(100); most > limit {
					t.Errorf("an API write took %s; want at most %s", most, limit)
				}
			})
		}
	}
}

// BenchmarkJobs works b.N jobs that do nothing, of one queue; with -benchtime 10000x the number that docs/decisions/0002 names.
func BenchmarkJobs(b *testing.B) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		b.Run(string(engine), func(b *testing.B) {
			db := storetest.Open(b, engine, migrations...)
			all := make(chan bool)
			var ran atomic.Int64
			q := newQueue(b, db, Work(func(context.Context, note) error {
				if ran.Add(1) == int64(b.N) {
					close(all)
				}
				return nil
			}))
			fill(b, db, b.N, Available, "test", "test.note")
			b.ResetTimer()
			start(b, q)
			<-all
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}

// BenchmarkInsert commits one job in a transaction of its own.
func BenchmarkInsert(b *testing.B) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		b.Run(string(engine), func(b *testing.B) {
			q := newQueue(b, storetest.Open(b, engine, migrations...))
			for b.Loop() {
				insert(b, q, note{}, Insert{})
			}
		})
	}
}
