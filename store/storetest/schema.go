package storetest

import (
	"fmt"
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

// Schema describes all tables, columns, indexes and constraints of a database, one per line, sorted.
func Schema(t testing.TB, db *store.DB) []string {
	t.Helper()
	query := `SELECT tbl_name || ': ' || type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema
		WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY 1`
	if db.Engine() == store.Postgres {
		query = `
			SELECT table_name || ': column ' || column_name || ' ' || data_type || ' ' || is_nullable || ' '
				|| coalesce(column_default, '') || ' ' || coalesce(collation_name, '')
				FROM information_schema.columns WHERE table_schema = current_schema()
			UNION ALL SELECT tablename || ': index ' || indexdef FROM pg_indexes WHERE schemaname = current_schema()
			UNION ALL SELECT conrelid::regclass || ': constraint ' || conname || ' ' || pg_get_constraintdef(oid)
				FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
			UNION ALL SELECT sequencename || ': sequence' FROM pg_sequences WHERE schemaname = current_schema()
			UNION ALL SELECT proname || ': function ' || prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
			UNION ALL SELECT tgrelid::regclass || ': trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
			ORDER BY 1`
	}
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var lines []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(fmt.Errorf("schema: %w", err))
	}
	return lines
}
