// Package storetest gives tests real databases of both engines: a SQLite file in a temporary folder, and a
// database on a PostgreSQL server that the package starts for itself.
package storetest

import (
	"testing"

	"github.com/slipway-platform/slipway/store"
)

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

// Open gives an empty database of one engine with the migrations applied, closed and dropped when the test ends.
func Open(t testing.TB, engine store.Engine, migrations ...store.Migrations) *store.DB {
	t.Helper()
	db, err := store.Open("main", URL(t, engine))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.MigrateUp(t.Context(), migrations...); err != nil {
		t.Fatal(err)
	}
	return db
}

// URL gives the address of an empty database of one engine, dropped when the test ends. For tests
// that start several processes or replicas on one database.
func URL(t testing.TB, engine store.Engine) string {
	t.Helper()
	panic("not written yet")
}
