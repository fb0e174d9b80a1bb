package store_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func count(t testing.TB, db *store.DB) int {
	t.Helper()
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM thing").Scan(&n); err != nil {
		t.Fatal(store.Err(err))
	}
	return n
}

func add(ctx context.Context, tx *store.Tx, name string) error {
	_, err := tx.Exec(ctx, "INSERT INTO thing (name) VALUES ($1)", name)
	return err
}

// each runs a test on both engines with the table thing.
func each(t *testing.T, test func(t *testing.T, db *store.DB)) {
	t.Helper()
	t.Parallel()
	storetest.Each(t, []store.Migrations{things}, test)
}

func TestWriteCommitsAndThenTells(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		var rows atomic.Int64
		db.OnWrite = func(_ time.Duration, n int64) { rows.Store(n) }
		var seen int
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			tx.AfterCommit(func() { seen = count(t, db) })
			if err := add(t.Context(), tx, "a"); err != nil {
				return err
			}
			if n := count(t, db); n != 0 {
				t.Errorf("got %d rows outside the open transaction, want 0", n)
			}
			return add(t.Context(), tx, "b")
		})
		if err != nil || seen != 2 || rows.Load() != 2 {
			t.Errorf("got %v, %d rows seen after the commit, %d counted; want 2 and 2", err, seen, rows.Load())
		}
	})
}

func TestWriteRollsBack(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		told := func() { t.Error("AfterCommit ran without a commit") }
		wrong := errors.New("wrong")
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			tx.AfterCommit(told)
			return errors.Join(add(t.Context(), tx, "a"), wrong)
		})
		if !errors.Is(err, wrong) {
			t.Errorf("got %v, want the error of the function", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = db.Write(t.Context(), func(tx *store.Tx) error {
				tx.AfterCommit(told)
				_ = add(t.Context(), tx, "b")
				panic("at the disco")
			})
		}()
		var left sync.WaitGroup
		left.Go(func() { // what t.FailNow does inside a transaction
			_ = db.Write(t.Context(), func(tx *store.Tx) error {
				_ = add(t.Context(), tx, "c")
				runtime.Goexit()
				return nil
			})
		})
		left.Wait()
		insert(t, db, "d") // the writer is free again
		if n := count(t, db); n != 1 {
			t.Errorf("got %d rows, want only the last", n)
		}
	})
}

func TestWriteEndsWithItsContext(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		err := db.Write(ctx, func(tx *store.Tx) error {
			if err := add(ctx, tx, "a"); err != nil {
				return err
			}
			cancel()
			for { // until the roll-back that the context causes in the background
				if err := add(t.Context(), tx, rand.Text()); err != nil {
					return err
				}
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the end of the context", err)
		}
		if n := count(t, db); n != 0 {
			t.Errorf("got %d rows, want none", n)
		}
	})
}

func TestWriteRunsAgainAfterADeadlock(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, things)
	insert(t, db, "a", "b")
	var both, done sync.WaitGroup
	both.Add(2)
	var runs atomic.Int32
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		done.Go(func() {
			first := true
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				runs.Add(1)
				for i, name := range order {
					if i == 1 && first { // both hold one row and want the other's
						first = false
						both.Done()
						both.Wait()
					}
					if _, err := tx.Exec(t.Context(), "UPDATE thing SET seen = coalesce(seen, 0) + 1 WHERE name = $1", name); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	var sum int
	if err := db.QueryRowContext(t.Context(), "SELECT SUM(seen) FROM thing").Scan(&sum); err != nil || sum != 4 || runs.Load() < 3 {
		t.Errorf("got sum %d, %v after %d runs; want 4 after at least 3", sum, err, runs.Load())
	}
}

func TestWritersTakeTurnsOnSQLite(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, things)
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		go func() { _ = db.Write(t.Context(), func(*store.Tx) error { <-hold; return nil }) }()
		synctest.Wait()
		var order, want []int
		for i := range 20 {
			want = append(want, i)
			go func() {
				_ = db.Write(t.Context(), func(*store.Tx) error { order = append(order, i); return nil })
			}()
			synctest.Wait() // it stands in the queue
		}
		close(hold)
		synctest.Wait()
		if !slices.Equal(order, want) {
			t.Errorf("got turns %v, want first come, first served", order)
		}
	})
}

func TestAWaitingWriterGivesUpWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, things)
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		go func() { _ = db.Write(t.Context(), func(*store.Tx) error { <-hold; return nil }) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := db.Write(ctx, func(*store.Tx) error { return nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline", err)
		}
		close(hold)
	})
	insert(t, db, "a")
}

func TestWritersOfTwoHandlesWaitForEachOther(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			url := storetest.URL(t, engine)
			var all []*store.DB
			for range 2 {
				db, err := store.Open("main", url)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = db.Close() })
				if err := db.MigrateUp(t.Context(), things); err != nil {
					t.Fatal(err)
				}
				all = append(all, db)
			}
			insert(t, all[0], "a")
			var done sync.WaitGroup
			for i := range 8 {
				done.Go(func() {
					for range 10 {
						err := all[i%2].Write(t.Context(), func(tx *store.Tx) error {
							_, err := tx.Exec(t.Context(), "UPDATE thing SET seen = coalesce(seen, 0) + 1")
							return err
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			done.Wait()
			var n int
			if err := all[1].QueryRowContext(t.Context(), "SELECT seen FROM thing").Scan(&n); err != nil || n != 80 {
				t.Errorf("got %d, %v; want 80", n, err)
			}
		})
	}
}

func TestReadersCannotWriteOnSQLite(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, things)
	for range 3 { // as text, when it is compiled, and compiled
		rows, err := db.QueryContext(t.Context(), "INSERT INTO thing (name) VALUES ('a') RETURNING id")
		if err == nil {
			rows.Next()
			err = rows.Err()
			_ = rows.Close()
		}
		if err == nil {
			t.Error("a reader wrote")
		}
	}
	if n := count(t, db); n != 0 {
		t.Errorf("got %d rows, want none", n)
	}
}

func TestCompiledQueriesSeeNewRowsAndNewSchemas(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, things)
	for i := range 10 {
		insert(t, db, fmt.Sprint(i))
		if n := count(t, db); n != i+1 {
			t.Errorf("got %d rows, want %d", n, i+1)
		}
		if i == 5 {
			if err := db.MigrateUp(t.Context(), migrations("more", "0001_more.sql", "ALTER TABLE thing ADD COLUMN more TEXT / ALTER TABLE thing DROP COLUMN more")); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A query left half read must not keep the journal from being emptied.
	for range 4 {
		rows, err := db.QueryContext(t.Context(), "SELECT name FROM thing ORDER BY name")
		if err != nil || !rows.Next() {
			t.Fatal(err)
		}
		_ = rows.Close()
	}
	insert(t, db, "last")
	var busy, log, moved int
	if err := db.Writer().QueryRowContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &moved); err != nil || busy != 0 || log != 0 {
		t.Errorf("checkpoint: got busy %d, %d pages left, %v; want everything moved", busy, log, err)
	}
}

func TestAnyNumberOfTextsMayBeRead(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite)
	var done sync.WaitGroup
	for range 4 {
		done.Go(func() {
			for i := range 3000 {
				for range 1 + i%3 {
					var n int
					if err := db.QueryRowContext(t.Context(), fmt.Sprintf("SELECT %d + $1", i), 1).Scan(&n); err != nil || n != i+1 {
						t.Errorf("got %d, %v; want %d", n, err, i+1)
					}
				}
			}
		})
	}
	done.Wait()
}

func TestSQLiteFilesMayHaveOddNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a b.db", "what?.db", "a#b.db", "50%.db", "%41.db", "a&b=c;d.db", "über.db", "a:b.db", "x?_pragma=foo", "it's \"x\".db", "new/folder/a.db", "//double.db"} {
		file := dir + "/" + name
		db, err := store.Open("main", "sqlite:"+file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := db.MigrateUp(t.Context(), things); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		insert(t, db, "a")
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			t.Errorf("%s: got %v, %v; want the database there", name, info, err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, want it closed to others", name, info.Mode())
		}
		if err := db.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Dir(file) + "/*-wal"); len(left) > 0 {
			t.Errorf("%s: the journal was left: %v", name, left)
		}
	}
}

func TestOpenRefusesWhatItCannotOpen(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"":                                     "no scheme",
		"main.db":                              "no scheme",
		"mysql://root:hunter2@localhost/x":     "do not go into MySQL",
		"mysql://root:hunter2@localhost":       "does not parse",
		"oracle://scott:hunter2@localhost/x":   "no scheme",
		"root:hunter2@localhost":               "no scheme",
		"sqlite:":                              "needs a file",
		"sqlite::memory:":                      "needs a file",
		"sqlite:/dev/null/x/y.db":              "not a directory",
		"postgres://root:hunter2@localhost:x/": "does not parse",
		"postgres://root:hunter2@localhost/x?pool_max_conns=many": "from 4 to 1000",
		"postgres://root:hunter2@localhost/x?pool_max_conns=3":    "from 4 to 1000",
		"postgres://root:hunter2@localhost/x?pool_max_conns=1001": "from 4 to 1000",
	} {
		_, err := store.Open("main", url)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"main"`) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v; want an error with %q, the name, and no password", url, err, want)
		}
	}
}

func TestOpenAllReportsAllFaults(t *testing.T) {
	t.Parallel()
	good := "sqlite:" + t.TempDir() + "/good.db"
	_, err := store.OpenAll(map[string]string{"main": good, "a": "mysql://x", "b": "sqlite:"})
	if err == nil || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), `"b"`) || strings.Contains(err.Error(), `"main"`) {
		t.Errorf("got %v, want both faults", err)
	}
	set, err := store.OpenAll(map[string]string{"main": good, "other": "sqlite:" + t.TempDir() + "/other.db"})
	if err != nil || len(set) != 2 || set["other"].Name() != "other" {
		t.Fatalf("got %v, %v", set, err)
	}
	if err := errors.Join(set["main"].Ping(t.Context()), set.Close()); err != nil {
		t.Error(err)
	}
}

func TestCreateDatabaseMakesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for engine, url := range map[store.Engine]string{
		store.SQLite:   "sqlite:" + t.TempDir() + "/new.db",
		store.Postgres: "",
	} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			if url == "" {
				url = storetest.Server(t).URL(`odd "name`)
			}
			for _, want := range []bool{true, false} {
				created, err := store.CreateDatabase(t.Context(), url)
				if err != nil || created != want {
					t.Fatalf("got %v, %v; want %v", created, err, want)
				}
				db, err := store.Open("main", url)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(db.MigrateUp(t.Context(), things), db.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestADatabaseThatGoesAndComesBack(t *testing.T) {
	t.Parallel()
	server := storetest.Server(t)
	db, err := store.Open("main", server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.MigrateUp(t.Context(), things); err != nil {
		t.Fatal(err)
	}
	// More than one connection of the pool is open when the server goes.
	var busy sync.WaitGroup
	for range 8 {
		busy.Go(func() { _, _ = db.QueryContext(t.Context(), "SELECT pg_sleep(0.05)") })
	}
	busy.Wait()
	cut := db.Write(t.Context(), func(tx *store.Tx) error {
		if err := add(t.Context(), tx, "cut"); err != nil {
			return err
		}
		server.Stop(t)
		return add(t.Context(), tx, "off")
	})
	if !errors.Is(cut, slipway.Unavailable) {
		t.Errorf("a transaction that was cut off: got %v, want unavailable", cut)
	}
	for range 20 {
		if err := db.Ping(t.Context()); !errors.Is(err, slipway.Unavailable) {
			t.Errorf("read while it is gone: got %v, want unavailable", err)
		}
		if err := db.Write(t.Context(), func(*store.Tx) error { return nil }); !errors.Is(err, slipway.Unavailable) {
			t.Errorf("write while it is gone: got %v, want unavailable", err)
		}
	}
	if err := db.MigrateUp(t.Context(), things); !errors.Is(err, slipway.Unavailable) {
		t.Errorf("migrate while it is gone: got %v, want unavailable", err)
	}
	server.Start(t)
	insert(t, db, "back")
	if n := count(t, db); n != 1 {
		t.Errorf("got %d rows, want only what was committed", n)
	}
}

func TestAHostThatDoesNotAnswerFailsInTime(t *testing.T) {
	t.Parallel()
	silent := listen(t) // accepts and never says a word
	db, err := store.Open("main", "postgres://slipway@"+silent+"/main?connect_timeout=1&sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	start := time.Now()
	if err := db.Ping(t.Context()); !errors.Is(err, slipway.Unavailable) || time.Since(start) > 10*time.Second {
		t.Errorf("got %v after %v; want unavailable within seconds", err, time.Since(start))
	}
}

func TestSettingsOfTheAddressWin(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, store.Postgres)
	for want, suffix := range map[string]string{"slipway off 5s": "", "mine on 0": "&application_name=mine&jit=on&idle_in_transaction_session_timeout=0"} {
		db, err := store.Open("main", url+suffix)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		err = db.QueryRowContext(t.Context(), `SELECT current_setting('application_name') || ' ' || current_setting('jit') || ' ' || current_setting('idle_in_transaction_session_timeout')`).Scan(&got)
		if err := errors.Join(err, db.Close()); err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}

// A connection that is closed because enough others are free is made again for the next who comes: by a new process of the server, which knows nothing yet.
func TestABusyServerKeepsItsConnections(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, store.Postgres)
	for suffix, most := range map[string]int{"": 30, "&pool_max_conns=12": 12} {
		db, err := store.Open("main", url+suffix)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 { // all at once, then none
			var crowd sync.WaitGroup
			for range 3 * most {
				crowd.Go(func() {
					if err := db.Ping(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			crowd.Wait()
		}
		stats := db.Writer().Stats()
		if got := db.Pool().Most; got != most || stats.OpenConnections > most || stats.MaxIdleClosed != 0 {
			t.Errorf("%q: at most %d connections, want %d; %d are open, %d were closed though more came", suffix, got, most, stats.OpenConnections, stats.MaxIdleClosed)
		}
		if _, err := store.CreateDatabase(t.Context(), url+suffix); err != nil {
			t.Errorf("%q: the server is told of a setting that it does not know: %v", suffix, err)
		}
		if conn, err := db.Dial(t.Context()); err != nil {
			t.Errorf("%q: %v", suffix, err)
		} else {
			_ = conn.Close(t.Context())
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWritingAheadDoesNotWaitForTheDiskAndTheNextWriteDoes(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, things)
	waits := func(write func(context.Context, func(*store.Tx) error) error, fail error) (level int) {
		t.Helper()
		err := write(t.Context(), func(tx *store.Tx) error {
			if err := tx.Tx.QueryRowContext(t.Context(), "PRAGMA synchronous").Scan(&level); err != nil { // not a compiled one, which knows what was so then
				t.Error(err)
			}
			return errors.Join(add(t.Context(), tx, rand.Text()), fail)
		})
		if !errors.Is(err, fail) {
			t.Fatal(err)
		}
		return level
	}
	const normal, full = 1, 2
	refused := errors.New("refused")
	for _, step := range []struct {
		write func(context.Context, func(*store.Tx) error) error
		fail  error
		want  int
	}{{db.Write, nil, full}, {db.WriteAhead, nil, normal}, {db.Write, nil, full}, {db.WriteAhead, refused, normal}, {db.Write, nil, full}} {
		if got := waits(step.write, step.fail); got != step.want {
			t.Errorf("synchronous is %d, want %d", got, step.want)
		}
	}
	if n := count(t, db); n != 4 {
		t.Errorf("got %d rows, want 4", n)
	}
}

// A journal that is never moved into the file would grow for ever, and one that is moved by a commit would hold it up.
func TestTheJournalIsMovedIntoTheFileBesideTheWriters(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "main.db")
	db, err := store.Open("main", "sqlite:"+file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.MigrateUp(t.Context(), things); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	for i := range 110 { // 55,000 rows; each page is written often
		err := db.WriteAhead(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO thing (name) WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 499) SELECT $1 || i FROM n`, fmt.Sprint(i, "-"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(30 * time.Second); size() <= before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the file still has %d bytes; the journal was not moved into it", before)
		}
	}
}

// with opens a database of its own on PostgreSQL, with settings in its address.
func with(t *testing.T, settings string) *store.DB {
	t.Helper()
	db, err := store.Open("main", storetest.URL(t, store.Postgres)+settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.MigrateUp(t.Context(), things); err != nil {
		t.Fatal(err)
	}
	insert(t, db, "a")
	return db
}

func rename(ctx context.Context, db *store.DB, between func()) error {
	return db.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE thing SET seen = 1"); err != nil {
			return err
		}
		between()
		_, err := tx.Exec(ctx, "UPDATE thing SET seen = 2")
		return err
	})
}

func TestALockThatDoesNotBecomeFreeIsWaitedForAgainAndAgain(t *testing.T) {
	t.Parallel()
	db := with(t, "&lock_timeout=50ms")
	waiting := func() bool {
		var n int
		if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").Scan(&n); err != nil {
			t.Error(err)
		}
		return n > 0
	}
	end := make(chan struct{})
	got := make(chan error, 2)
	err := rename(t.Context(), db, func() {
		go func() { got <- rename(t.Context(), db, func() {}) }()
		if err := <-got; !errors.Is(err, slipway.Unavailable) {
			t.Errorf("a lock that is never free: got %v, want unavailable", err)
		}
		go func() { got <- rename(t.Context(), db, func() {}); close(end) }()
		for !waiting() {
			time.Sleep(time.Millisecond)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if <-end; <-got != nil {
		t.Errorf("a lock that became free: got an error")
	}
}

func TestATransactionThatPausedTooLongIsRunAgain(t *testing.T) {
	t.Parallel()
	db := with(t, "&idle_in_transaction_session_timeout=100ms")
	attempts := 0
	pause := func() { // until the server has taken it back
		for rename(t.Context(), db, func() {}) != nil {
		}
	}
	err := rename(t.Context(), db, func() {
		if attempts++; attempts == 1 {
			pause()
		}
	})
	if err != nil || attempts != 2 {
		t.Errorf("got %v after %d attempts, want success at the second", err, attempts)
	}
	attempts = 0
	err = rename(t.Context(), db, func() {
		attempts++
		pause()
	})
	if !errors.Is(err, slipway.Unavailable) || attempts != 4 {
		t.Errorf("one that always pauses: got %v after %d attempts, want unavailable", err, attempts)
	}
}
