package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// migrations makes one owner's steps out of pairs of file name and "up / down" text.
func migrations(owner string, files ...string) store.Migrations {
	fs := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		up, down, _ := strings.Cut(files[i+1], " / ")
		fs[files[i]] = &fstest.MapFile{Data: fmt.Appendf(nil, "-- +goose Up\n%s;\n-- +goose Down\n%s;\n", up, down)}
	}
	return store.Migrations{Owner: owner, FS: fs}
}

var (
	things = migrations("thing",
		"0001_thing.sql", "CREATE TABLE thing (id {id}, name TEXT NOT NULL UNIQUE, raw {bytes}, seen BIGINT, live BOOLEAN NOT NULL DEFAULT TRUE, CHECK (name <> '')) / DROP TABLE thing",
		"0002_part.sql", "CREATE TABLE thing_part (thing BIGINT NOT NULL REFERENCES thing (id), n BIGINT NOT NULL, PRIMARY KEY (thing, n)) {clustered} / DROP TABLE thing_part",
		"0003_index.sqlite.sql", "CREATE INDEX thing_seen ON thing (seen) / DROP INDEX thing_seen",
		"0003_index.postgres.sql", "CREATE INDEX thing_seen ON thing USING brin (seen) / DROP INDEX thing_seen")
	others = migrations("other", "0001_other.sql", "CREATE TABLE other (id {id}, name TEXT) / DROP TABLE other")
)

func TestUpDownUpLeavesTheSameSchema(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, things, others)
}

func TestMigrateStatusOfAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	storetest.Each(t, nil, func(t *testing.T, db *store.DB) {
		list, err := db.MigrateStatus(t.Context(), things, others)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(list), "[{thing 1 0001_thing false false false} {thing 2 0002_part false false false} {thing 3 0003_index false false false} {other 1 0001_other false false false}]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if name, err := db.MigrateDown(t.Context(), things); name != "" || err != nil {
			t.Errorf("down: got %q, %v; want nothing to take back", name, err)
		}
	})
}

func TestMigrateDownTakesBackOneStep(t *testing.T) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{things, others}, func(t *testing.T, db *store.DB) {
		for _, want := range []string{"0003_index", "0002_part", "0001_thing", ""} {
			if got, err := db.MigrateDown(t.Context(), things); got != want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		}
		list, err := db.MigrateStatus(t.Context(), things, others)
		if err != nil || len(list) != 4 || list[0].Applied || !list[3].Applied {
			t.Errorf("got %v, %v; want only the other owner's step applied", list, err)
		}
	})
}

func TestADatabaseThatIsAheadIsTakenWhereItOnlyHasMore(t *testing.T) {
	t.Parallel()
	old := migrations("other", "0001_other.sql", "CREATE TABLE other (id {id}) / DROP TABLE other")
	newer := migrations("other",
		"0001_other.sql", "CREATE TABLE other (id {id}) / DROP TABLE other",
		"0002_more.sql", "ALTER TABLE other ADD COLUMN more TEXT / ALTER TABLE other DROP COLUMN more")
	storetest.Each(t, []store.Migrations{newer}, func(t *testing.T, db *store.DB) {
		if err := db.MigrateUp(t.Context(), things, old); err != nil { // another owner's steps may be missing
			t.Errorf("up: got %v, want it taken", err)
		}
		list, err := db.MigrateStatus(t.Context(), old)
		want := []store.MigrationStatus{{Owner: "other", Version: 1, Name: "0001_other", Applied: true}, {Owner: "other", Version: 2, Applied: true, Newer: true}}
		if err != nil || !slices.Equal(list, want) {
			t.Errorf("status: got %+v, %v; want %+v", list, err, want)
		}
		if _, err := db.MigrateDown(t.Context(), old); !errors.Is(err, slipway.Conflict) || !strings.Contains(err.Error(), "migration 2 of other") {
			t.Errorf("down: got %v, want a conflict that names the step", err)
		}
		late := old
		late.FS = migrations("other", "0001_other.sql", "CREATE TABLE other (id {id}) / DROP TABLE other", "0003_last.sql", "SELECT 1 / SELECT 1").FS
		if err := db.MigrateUp(t.Context(), late); err != nil {
			t.Errorf("a step above the one that is not known: %v", err)
		}
	})
}

func TestADatabaseThatLacksWhatTheProgramUsesIsRefused(t *testing.T) {
	t.Parallel()
	first := []string{"0001_other.sql", "CREATE TABLE other (id {id}, old TEXT) / DROP TABLE other"}
	old := migrations("other", first...)
	newer := migrations("other", append(first, "0002_less.sql", "-- Contract: versions that read old.\nALTER TABLE other DROP COLUMN old / ALTER TABLE other ADD COLUMN old TEXT")...)
	storetest.Each(t, []store.Migrations{newer}, func(t *testing.T, db *store.DB) {
		if err := db.MigrateUp(t.Context(), things, old); !errors.Is(err, slipway.Conflict) || !strings.Contains(err.Error(), "migration 2 of other") {
			t.Errorf("up: got %v, want a conflict that names the step", err)
		}
		list, err := db.MigrateStatus(t.Context(), old)
		if err != nil || len(list) != 2 || !list[1].Newer || !list[1].Contract {
			t.Errorf("status: got %+v, %v; want the step of the newer version", list, err)
		}
		if err := db.MigrateUp(t.Context(), newer); err != nil {
			t.Errorf("the newer one: %v", err)
		}
	})
}

func TestAVersionTableOfTheFirstReleasesIsUnderstood(t *testing.T) {
	t.Parallel()
	old := migrations("other", "0001_other.sql", "CREATE TABLE other (id {id}) / DROP TABLE other")
	newer := migrations("other",
		"0001_other.sql", "CREATE TABLE other (id {id}) / DROP TABLE other",
		"0002_more.sql", "-- Contract: all.\nALTER TABLE other ADD COLUMN more TEXT / ALTER TABLE other DROP COLUMN more")
	storetest.Each(t, []store.Migrations{old}, func(t *testing.T, db *store.DB) {
		if _, err := db.Writer().ExecContext(t.Context(), "ALTER TABLE other_version DROP COLUMN contract"); err != nil {
			t.Fatal(err)
		}
		if err := db.MigrateUp(t.Context(), old); err != nil {
			t.Errorf("nothing is missing: %v", err)
		}
		if err := db.MigrateUp(t.Context(), newer); err != nil {
			t.Errorf("a further step: %v", err)
		}
		if err := db.MigrateUp(t.Context(), old); !errors.Is(err, slipway.Conflict) {
			t.Errorf("the older program: got %v, want a conflict", err)
		}
	})
}

func TestMigrateUpRefusesWhatCannotBeRight(t *testing.T) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{migrations("other", "0002_other.sql", "CREATE TABLE other (id {id}) / DROP TABLE other")}, func(t *testing.T, db *store.DB) {
		for name, m := range map[string][]store.Migrations{
			"a step below an applied one": {migrations("other", "0001_late.sql", "SELECT 1 / SELECT 1", "0002_other.sql", "SELECT 1 / SELECT 1")},
			"an owner that is no name":    {{Owner: "a; DROP TABLE other", FS: things.FS}},
			"one owner twice":             {things, things},
			"a number twice":              {migrations("x", "0001_a.sql", "SELECT 1 / SELECT 1", "0001_b.sql", "SELECT 1 / SELECT 1")},
			"a file for no engine":        {migrations("x", "0001_a.oracle.sql", "SELECT 1 / SELECT 1")},
			"a file without a number":     {migrations("x", "first.sql", "SELECT 1 / SELECT 1")},
		} {
			if err := db.MigrateUp(t.Context(), m...); err == nil {
				t.Errorf("%s: got no error", name)
			}
		}
	})
}

func TestMigrateUpStopsAtABrokenStepAndGoesOnWhenItIsMended(t *testing.T) {
	t.Parallel()
	storetest.Each(t, nil, func(t *testing.T, db *store.DB) {
		broken := migrations("other",
			"0001_other.sql", "CREATE TABLE other (id {id}) / DROP TABLE other",
			"0002_more.sql", "CREATE TABLE more (id {id}); CREATE TABLE other (id {id}) / DROP TABLE more")
		if err := db.MigrateUp(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "0002_more of other") {
			t.Fatalf("got %v, want an error that names the step", err)
		}
		mended := migrations("other",
			"0001_other.sql", "CREATE TABLE other (id {id}) / DROP TABLE other",
			"0002_more.sql", "CREATE TABLE more (id {id}) / DROP TABLE more")
		if err := db.MigrateUp(t.Context(), mended); err != nil {
			t.Errorf("mended: %v", err)
		}
	})
}

func TestTextSortsByBytesOnBothEngines(t *testing.T) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{things}, func(t *testing.T, db *store.DB) {
		insert(t, db, "b", "B", "a", "_", "ä", "Z")
		var all string
		if err := db.QueryRowContext(t.Context(), "SELECT string_agg(name, '') FROM (SELECT name FROM thing ORDER BY name) AS sorted").Scan(&all); err != nil {
			t.Fatal(err)
		}
		if all != "BZ_abä" {
			t.Errorf("got %s, want BZ_abä", all)
		}
	})
}

func TestTheWordsOfMigrationsMeanTheSameOnBothEngines(t *testing.T) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{things}, func(t *testing.T, db *store.DB) {
		var ids []int64
		for _, name := range []string{"a", "b", "ÄB"} { // {id} gives no number again after a DELETE
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				var id int64
				if err := tx.QueryRowContext(t.Context(), "INSERT INTO thing (name, raw) VALUES ($1, $2) RETURNING id", name, []byte{0, 255}).Scan(&id); err != nil {
					return err
				}
				ids = append(ids, id)
				_, err := tx.Exec(t.Context(), "DELETE FROM thing WHERE name = 'b'")
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if fmt.Sprint(ids) != "[1 2 3]" {
			t.Errorf("got ids %v, want 1 2 3", ids)
		}
		var raw []byte
		var lower string
		var live bool
		err := db.QueryRowContext(t.Context(), "SELECT raw, lower(name), live FROM thing WHERE name = $1", "ÄB").Scan(&raw, &lower, &live)
		if err != nil || string(raw) != "\x00\xff" || lower != "Äb" || !live {
			t.Errorf("got %q, %q, %v, %v; want the bytes, Äb and true", raw, lower, live, err)
		}
	})
}

func insert(t testing.TB, db *store.DB, names ...string) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		for _, name := range names {
			if _, err := tx.Exec(t.Context(), "INSERT INTO thing (name) VALUES ($1)", name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// slow gives the others time to run into the step that is being applied.
var slow = []store.Migrations{things, others, migrations("slow",
	"0001_count.sql", "CREATE TABLE counted (n BIGINT NOT NULL); INSERT INTO counted VALUES (0) / DROP TABLE counted",
	"0002_add.sql", "UPDATE counted SET n = n + 1 / UPDATE counted SET n = n - 1",
	"0003_add.sql", "UPDATE counted SET n = n + 1 / UPDATE counted SET n = n - 1")}

// TestMain lets the test binary be one of the processes that race.
func TestMain(m *testing.M) {
	if url := os.Getenv("STORE_TEST_MIGRATE"); url != "" {
		db, err := store.Open("main", url)
		if err == nil {
			err = db.MigrateUp(context.Background(), slow...)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestTenProcessesMigrateAtTheSameTime(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			url := storetest.URL(t, engine)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					cmd := exec.CommandContext(t.Context(), os.Args[0])
					cmd.Env = append(os.Environ(), "STORE_TEST_MIGRATE="+url)
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("%v: %s", err, out)
					}
				})
			}
			wg.Wait()
			db, err := store.Open("main", url)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			var n int
			if err := db.QueryRowContext(t.Context(), "SELECT n FROM counted").Scan(&n); err != nil || n != 2 {
				t.Errorf("got %d, %v; want each step applied once", n, err)
			}
		})
	}
}

func TestMigrateUpGivesUpWaitingWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres)
	conn, err := db.Writer().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.ExecContext(t.Context(), "SELECT pg_advisory_lock($1)", int64(0x736c697077617900)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := db.MigrateUp(ctx, things); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func TestMigrateUpRefusesADatabaseThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres)
	if _, err := db.Writer().ExecContext(t.Context(), "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"); err != nil {
		t.Skipf("this server makes no such database: %v", err)
	}
	t.Cleanup(func() { _, _ = db.Writer().ExecContext(context.Background(), "DROP DATABASE latin WITH (FORCE)") })
	u, err := url.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/latin"
	latin, err := store.Open("main", u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = latin.Close() }()
	if err := latin.MigrateUp(t.Context(), things); !errors.Is(err, slipway.Conflict) || !strings.Contains(err.Error(), "LATIN1") {
		t.Errorf("got %v, want a conflict that names the encoding", err)
	}
}

func BenchmarkMigrateUpWhenNothingIsMissing(b *testing.B) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		b.Run(string(engine), func(b *testing.B) {
			var all []store.Migrations
			for i := range 10 {
				m := things
				m.Owner = fmt.Sprintf("owner%d", i)
				if i > 0 {
					m.FS = migrations("", "0001_x.sql", fmt.Sprintf("CREATE TABLE x%d (id {id}) / DROP TABLE x%d", i, i)).FS
				}
				all = append(all, m)
			}
			db := storetest.Open(b, engine, all...)
			for b.Loop() {
				if err := db.MigrateUp(b.Context(), all...); err != nil {
					b.Fatal(err)
				}
			}
			if engine == store.SQLite {
				b.Run("with opening", func(b *testing.B) {
					for b.Loop() {
						again, err := store.Open("main", "sqlite:"+db.URL())
						if err != nil {
							b.Fatal(err)
						}
						if err := errors.Join(again.MigrateUp(b.Context(), all...), again.Close()); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}
