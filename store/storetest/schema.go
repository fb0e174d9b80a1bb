package storetest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway/store"
)

// UpDownUp checks on both engines that every step of the migrations can be taken back, that nothing but
// the version tables is left then, and that applying them again gives the same schema. Every owner of
// migrations has a test that calls it.
func UpDownUp(t *testing.T, migrations ...store.Migrations) {
	t.Helper()
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			db := Open(t, e)
			if err := db.MigrateUp(t.Context(), migrations...); err != nil {
				t.Fatal(err)
			}
			want := Schema(t, db)
			for i := len(migrations) - 1; i >= 0; i-- { // the last may depend on the first
				for {
					name, err := db.MigrateDown(t.Context(), migrations[i])
					if err != nil {
						t.Fatal(err)
					}
					if name == "" {
						break
					}
				}
			}
			for _, line := range Schema(t, db) {
				if object, _, _ := strings.Cut(line, ":"); !isVersions(object, migrations) {
					t.Errorf("left over after the way down: %s", line)
				}
			}
			if err := db.MigrateUp(t.Context(), migrations...); err != nil {
				t.Fatalf("up again: %v", err)
			}
			if diff := cmp.Diff(want, Schema(t, db)); diff != "" {
				t.Errorf("the schema differs after up, down and up:\n%s", diff)
			}
		})
	}
}

func isVersions(object string, migrations []store.Migrations) bool {
	for _, m := range migrations {
		if strings.HasPrefix(object, m.Owner+"_version") {
			return true
		}
	}
	return false
}

// Schema is store.DB.Schema, for tests.
func Schema(t testing.TB, db *store.DB) []string {
	t.Helper()
	lines, err := db.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
