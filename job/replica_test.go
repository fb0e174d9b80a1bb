package job

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// A replica whose job was taken up by another, and that wakes up again, can neither have an effect behind a fence nor finish what the other does.
func TestAThawedReplicaCannotFinishAnothersJob(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		began, thaw := make(chan string, 4), make(chan bool)
		fenced := make(chan error, 1)
		frozen := newQueue(t, db, Work(func(ctx context.Context, _ note) error {
			began <- "frozen"
			<-thaw
			ctx = context.WithoutCancel(ctx)
			fenced <- db.Write(ctx, func(tx *store.Tx) error { return Fence(ctx, tx) })
			return nil
		}))
		frozen.beat, frozen.poll = time.Hour, time.Hour
		start(t, frozen)
		id, _ := insert(t, frozen, note{}, Insert{})
		if who := <-began; who != "frozen" {
			t.Fatal(who)
		}
		finish := make(chan error)
		alive := newQueue(t, db, Work(func(ctx context.Context, _ note) error {
			began <- "alive"
			if err := db.Write(ctx, func(tx *store.Tx) error { return Fence(ctx, tx) }); err != nil {
				t.Errorf("the fence of the owner: %v", err)
			}
			return <-finish
		}))
		alive.silence = 200 * time.Millisecond
		if db.Engine() == store.SQLite { // there the dead are those of another process
			if _, err := db.Writer().ExecContext(t.Context(), "UPDATE job_replica SET process = 'before'"); err != nil {
				t.Fatal(err)
			}
		}
		start(t, alive)
		if who := <-began; who != "alive" {
			t.Fatal(who)
		}
		close(thaw)
		if err := <-fenced; !errors.Is(err, slipway.Conflict) {
			t.Errorf("the fence of the thawed run: got %v, want a conflict", err)
		}
		r := running(t, frozen)
		// The thawed replica has nothing left to do once it has stored, in vain, what its run gave.
		eventually(t, "the thawed replica is through", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.live) == 0
		})
		if j := mustGet(t, alive, id); j.State != Running || j.Attempt != 2 {
			t.Errorf("got %s, attempt %d; want it running still, for the second time", j.State, j.Attempt)
		}
		finish <- errors.New("try again")
		if j := reach(t, alive, id, Retrying); len(j.Errors) != 2 || !strings.Contains(j.Errors[0].Error, "went silent") {
			t.Errorf("got failures %+v; want the silence and the error", j.Errors)
		}
	})
}

func TestABuriedReplicaStartsAnew(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, migrations...)
	began := make(chan bool, 2)
	q := newQueue(t, db, Work(func(ctx context.Context, a note) error {
		began <- true
		if a.N == 1 {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return nil
	}))
	q.Grace = time.Millisecond
	start(t, q)
	insert(t, q, note{1}, Insert{})
	<-began
	if _, err := db.Writer().ExecContext(t.Context(), "DELETE FROM job_replica"); err != nil {
		t.Fatal(err)
	}
	<-began // given up, and begun again under a new row
	id, _ := insert(t, q, note{2}, Insert{})
	reach(t, q, id, Completed)
}

func TestAFenceHoldsTheReaperOff(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, migrations...) // on SQLite a transaction holds everybody off
	inside, leave := make(chan bool), make(chan bool)
	q := newQueue(t, db, Work(func(ctx context.Context, _ note) error {
		return db.Write(ctx, func(tx *store.Tx) error {
			if err := Fence(ctx, tx); err != nil {
				return err
			}
			inside <- true
			<-leave
			return nil
		})
	}))
	q.beat = time.Hour
	start(t, q)
	id, _ := insert(t, q, note{}, Insert{})
	<-inside
	if _, err := db.Writer().ExecContext(t.Context(), "DELETE FROM job_replica"); err != nil {
		t.Fatal(err)
	}
	reaper := &runner{q: newQueue(t, db), base: t.Context()}
	if n, err := reaper.adopt(t.Context()); n != 0 || err != nil {
		t.Errorf("took up %d, %v; want nothing while the fence holds", n, err)
	}
	close(leave)
	reach(t, q, id, Completed)
}

func TestAJobThatKillsItsReplicaIsDiscardedInTheEnd(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		q := newQueue(t, db)
		id, _ := insert(t, q, note{}, Insert{})
		canceled, _ := insert(t, q, note{}, Insert{})
		if _, err := db.Writer().ExecContext(t.Context(),
			"UPDATE job SET state = 'running', run = 10, attempt = 10, replica = 4711, cancel_asked = (id = $1)", canceled); err != nil {
			t.Fatal(err)
		}
		start(t, q)
		if j := reach(t, q, id, Discarded); len(j.Errors) != 1 || j.FinishedAt == nil {
			t.Errorf("got %+v; want the death noted", j)
		}
		reach(t, q, canceled, Canceled)
	})
}

// A claim whose commit was not answered leaves jobs that run nowhere.
func TestAJobClaimedWithoutAnAnswerIsGivenBack(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		q := newQueue(t, db, Work(func(context.Context, note) error { return nil }))
		start(t, q)
		warm, _ := insert(t, q, note{}, Insert{})
		reach(t, q, warm, Completed)
		id, _ := insert(t, q, note{}, Insert{At: time.Now().Add(time.Hour)})
		if err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), "UPDATE job SET state = 'running', run = 1, attempt = 1, replica = $2 WHERE id = $1", id, running(t, q).replica.Load())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if j := reach(t, q, id, Completed); j.Attempt != 1 || len(j.Errors) != 0 {
			t.Errorf("got attempt %d, %v; want the lost claim not counted", j.Attempt, j.Errors)
		}
	})
}

// After the database was away, everybody is silent. Who comes new then lets the others beat before it takes their jobs up: at their last attempt those would be discarded.
func TestWhoComesNewLetsTheOthersBeatFirst(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, migrations...)
	began, finish := make(chan bool), make(chan bool)
	old := newQueue(t, db, Work(func(context.Context, note) error { began <- true; <-finish; return nil }))
	old.beat = time.Hour
	start(t, old)
	id, _ := insert(t, old, note{}, Insert{})
	<-began
	mine := running(t, old).replica.Load()
	if _, err := db.Writer().ExecContext(t.Context(), "UPDATE job_replica SET beat_at = 0"); err != nil {
		t.Fatal(err)
	}
	newcomer := newQueue(t, db, Work(func(context.Context, other) error { return nil }))
	newcomer.beat = time.Hour
	start(t, newcomer)
	done, _ := insert(t, newcomer, other{}, Insert{})
	reach(t, newcomer, done, Completed) // so it has entered
	var rows int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM job_replica WHERE id = $1", mine).Scan(&rows); err != nil || rows != 1 {
		t.Errorf("the silent replica was buried at once: %d, %v", rows, err)
	}
	close(finish)
	if j := reach(t, newcomer, id, Completed); j.Attempt != 1 {
		t.Errorf("its job took %d attempts, want 1", j.Attempt)
	}
	if r := running(t, newcomer); r.q.offset.Load() == 0 {
		t.Error("who comes new does not go by the database's clock")
	}
}

func TestReplicasWhoseClocksDifferLetEachOtherLive(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, migrations...)
	var runs atomic.Int64
	finish := make(chan bool)
	for _, off := range []time.Duration{-time.Hour, time.Hour} {
		q := newQueue(t, db, Work(func(context.Context, note) error { runs.Add(1); <-finish; return nil }))
		q.Now = func() time.Time { return time.Now().Add(off) }
		q.silence = 500 * time.Millisecond
		start(t, q)
	}
	q := newQueue(t, db)
	id, _ := insert(t, q, note{}, Insert{}) // its time is ahead of one clock by an hour
	eventually(t, "it runs", func() bool { return runs.Load() == 1 })
	<-time.After(1200 * time.Millisecond) // several silences long, both live
	close(finish)
	if j := reach(t, q, id, Completed); runs.Load() != 1 || j.Attempt != 1 {
		t.Errorf("ran %d times; want once", runs.Load())
	}
}

func TestJobsGoOnWhenTheDatabaseComesBack(t *testing.T) {
	t.Parallel()
	server := storetest.Server(t)
	db, err := store.Open("main", server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.MigrateUp(t.Context(), migrations...); err != nil {
		t.Fatal(err)
	}
	began, finish := make(chan bool), make(chan bool)
	q := newQueue(t, db, Work(func(_ context.Context, a note) error {
		if a.N == 1 {
			began <- true
			<-finish
		}
		return nil
	}))
	stop := start(t, q)
	id, _ := insert(t, q, note{1}, Insert{})
	<-began
	server.Stop(t)
	finish <- true // its result waits for the database
	server.Start(t)
	eventually(t, "the result is stored", func() bool {
		j, err := q.Get(t.Context(), id)
		return err == nil && j.State == Completed && j.Attempt == 1
	})
	id, _ = insert(t, q, note{2}, Insert{})
	reach(t, q, id, Completed)
	stop()
}

// The process of TestAKilledProcess: it works jobs that write a mark behind a fence, and never ends by itself.
func TestMain(m *testing.M) {
	if url := os.Getenv("JOB_TEST_VICTIM"); url != "" {
		victim(url)
		return
	}
	os.Exit(m.Run())
}

func victim(url string) {
	db, err := store.Open("main", url)
	if err != nil {
		panic(err)
	}
	q := New(db, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	q.Add(Work(func(ctx context.Context, a note) error {
		fmt.Println("began")
		if a.N == 0 { // does its effect, and is killed before the end is stored
			<-ctx.Done()
			return ctx.Err()
		}
		return mark(ctx, db, a.N)
	}))
	go func() { // the parent is gone
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	_ = q.Run(context.Background())
}

// mark writes how often a job had its effect.
func mark(ctx context.Context, db *store.DB, n int) error {
	return db.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO effect (n, times) VALUES ($1, 1) ON CONFLICT (n) DO UPDATE SET times = effect.times + 1", n); err != nil {
			return err
		}
		return Done(ctx, tx)
	})
}

func startVictim(t *testing.T, url string) (out *bufio.Scanner, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:gosec // the test binary itself
	cmd.Env = append(os.Environ(), "JOB_TEST_VICTIM="+url)
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill() // -9
		_ = cmd.Wait()
		_ = stdin.Close()
	}
	t.Cleanup(kill)
	return bufio.NewScanner(stdout), kill
}

// A process is killed with -9 while work runs. On SQLite the next process takes it up at once, on PostgreSQL another replica
// does within 20 s; and nothing takes effect twice.
func TestAKilledProcess(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			url := storetest.URL(t, engine)
			db, err := store.Open("main", url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			if err := db.MigrateUp(t.Context(), migrations...); err != nil {
				t.Fatal(err)
			}
			if err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), "CREATE TABLE effect (n BIGINT PRIMARY KEY, times BIGINT NOT NULL)")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			q := New(db, slog.New(slog.NewTextHandler(t.Output(), nil))) // with the real times
			q.Add(Work(func(ctx context.Context, a note) error { return mark(ctx, db, a.N) }))

			id, _ := insert(t, q, note{0}, Insert{})
			out, kill := startVictim(t, url)
			if !out.Scan() || out.Text() != "began" {
				t.Fatalf("the process said %q; want that it began", out.Text())
			}
			if j := mustGet(t, q, id); j.State != Running {
				t.Fatalf("got %s before the kill", j.State)
			}
			if engine == store.Postgres {
				start(t, q)
			}
			kill()
			killed := time.Now()
			if engine == store.SQLite {
				start(t, q)
			}
			j := reach(t, q, id, Completed)
			t.Logf("taken up %s after the kill", j.StartedAt.Sub(killed).Round(time.Millisecond))
			limit := 20 * time.Second
			if engine == store.SQLite {
				limit = 5 * time.Second // at once; a loaded machine needs a moment
			}
			if took := time.Since(killed); took > limit {
				t.Errorf("taken up and done after %s; want at most %s", took, limit)
			}
			var effects int
			if err := db.QueryRowContext(t.Context(), "SELECT sum(times) FROM effect").Scan(&effects); err != nil || effects != 1 {
				t.Errorf("got %d effects, %v; want one", effects, err)
			}
			if j.Attempt != 2 || len(j.Errors) != 1 {
				t.Errorf("got attempt %d, failures %v; want the death counted", j.Attempt, j.Errors)
			}
		})
	}
}

// Killed at any moment under load, processes lose nothing that was committed and no effect comes twice.
func TestProcessesKilledUnderLoadLoseNothing(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			url := storetest.URL(t, engine)
			db, err := store.Open("main", url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			if err := db.MigrateUp(t.Context(), migrations...); err != nil {
				t.Fatal(err)
			}
			if err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), "CREATE TABLE effect (n BIGINT PRIMARY KEY, times BIGINT NOT NULL)")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			q := newQueue(t, db, Work(func(ctx context.Context, a note) error { return mark(ctx, db, a.N) }))
			q.silence = 500 * time.Millisecond
			const jobs, rounds = 300, 3
			for i := range jobs {
				insert(t, q, note{i + 1}, Insert{})
			}
			for round := range rounds {
				out, kill := startVictim(t, url)
				for range 20 + 13*round { // somewhere in the middle
					if !out.Scan() {
						t.Fatal("the process ended by itself")
					}
				}
				kill()
			}
			start(t, q)
			eventually(t, "all are done", func() bool {
				done, err := q.List(t.Context(), Filter{States: []State{Completed}, Limit: 500})
				return err == nil && len(done) == jobs
			})
			var effects, most int64
			if err := db.QueryRowContext(t.Context(), "SELECT count(*), max(times) FROM effect").Scan(&effects, &most); err != nil {
				t.Fatal(err)
			}
			if effects != jobs || most != 1 {
				t.Errorf("%d of %d jobs had their effect, one of them %d times; want all, once", effects, jobs, most)
			}
		})
	}
}
