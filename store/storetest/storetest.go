// Package storetest gives tests real databases of both engines: a SQLite file in a temporary folder, and a
// database on a PostgreSQL server that the package starts for itself, or on the one that the environment
// variable SLIPWAY_TEST_POSTGRES names by a URL whose user may create databases.
//
// Where there is no PostgreSQL, its tests are skipped with a sentence that says what to install; with
// CI=true or SLIPWAY_TEST_REQUIRE=1 they fail instead.
package storetest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// maxRows is how many rows a write transaction may change. Above it, API writes would wait too long
// behind the one writer of SQLite.
const maxRows = 500

// Each runs test as two parallel subtests, "sqlite" and "postgres", each on an empty database with the migrations applied.
func Each(t *testing.T, migrations []store.Migrations, test func(t *testing.T, db *store.DB)) {
	t.Helper()
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			test(t, Open(t, e, migrations...))
		})
	}
}

// Open gives an empty database of one engine with the migrations applied, closed and dropped when the
// test ends. A write transaction that changes more than 500 rows fails the test; where that is meant,
// replace the database's OnWrite.
func Open(t testing.TB, engine store.Engine, migrations ...store.Migrations) *store.DB {
	t.Helper()
	url := create(t, engine, migrations)
	db, err := store.Open("main", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	// On a copy of a migrated database this finds nothing to do.
	if err := db.MigrateUp(t.Context(), migrations...); err != nil {
		t.Fatal(err)
	}
	db.OnWrite = func(_ time.Duration, rows int64) {
		if rows > maxRows {
			t.Errorf("a write transaction changed %d rows; want at most %d: write in chunks", rows, maxRows)
		}
	}
	return db
}

// URL gives the address of an empty database of one engine, dropped when the test ends. For tests
// that start several processes or replicas on one database.
func URL(t testing.TB, engine store.Engine) string {
	t.Helper()
	return create(t, engine, nil)
}

func create(t testing.TB, engine store.Engine, migrations []store.Migrations) string {
	t.Helper()
	if engine == store.SQLite {
		file := filepath.Join(t.TempDir(), "main.db")
		if len(migrations) > 0 {
			if err := os.WriteFile(file, migratedFile(t, migrations), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return "sqlite:" + file
	}
	s := shared(t)
	template := "template0"
	if len(migrations) > 0 && !s.external {
		template = migratedDatabase(t, s, migrations)
	}
	return s.create(t, template)
}

// Migrating costs more than copying what was migrated once, so each process does it once for each set.
var migrated sync.Map // of func() (T, error) by engine and hash

func once[T any](t testing.TB, engine store.Engine, migrations []store.Migrations, make func() (T, error)) T {
	t.Helper()
	h := sha256.New()
	for _, m := range migrations {
		_, _ = fmt.Fprintf(h, "%q\n", m.Owner)
		err := fs.WalkDir(m.FS, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := fs.ReadFile(m.FS, path)
			_, _ = fmt.Fprintf(h, "%q %q\n", path, text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	f, _ := migrated.LoadOrStore(fmt.Sprintf("%s %x", engine, h.Sum(nil)), sync.OnceValues(make))
	v, err := f.(func() (T, error))()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func migratedFile(t testing.TB, migrations []store.Migrations) []byte {
	t.Helper()
	return once(t, store.SQLite, migrations, func() ([]byte, error) {
		dir, err := os.MkdirTemp("", "slipway-sqlite-")
		if err != nil {
			return nil, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		file := filepath.Join(dir, "main.db")
		if err := migrate("sqlite:"+file, migrations); err != nil {
			return nil, err
		}
		return os.ReadFile(file) // whole: closing moved the journal into it
	})
}

func migratedDatabase(t testing.TB, s *Instance, migrations []store.Migrations) string {
	t.Helper()
	return once(t, store.Postgres, migrations, func() (string, error) {
		name := newName()
		if err := s.admin(fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0", name)); err != nil {
			return "", err
		}
		return name, migrate(s.URL(name), migrations)
	})
}
