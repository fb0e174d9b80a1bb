package resource

import (
	"database/sql"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// What reads a whole table, or throws away many rows that it has read.
var wasteful = map[store.Engine]*regexp.Regexp{
	store.SQLite:   regexp.MustCompile(`SCAN (r|s|resource_stage)\b`),
	store.Postgres: regexp.MustCompile(`Seq Scan on resource(_stage)? .*\(actual|Rows Removed by (Join )?Filter: \d{3}`),
}

// Documents are read by their ids and by nothing else, also when the engine settled how to do it before there were any, as it does for a first large call: it looked like
// an empty table then. (Both the list of ids and the view once read all documents, or all that had ever been staged, again and again: 10,000 that were as they
// should be took 13 s.)
func TestDocumentsAreReadByTheirIdsAlone(t *testing.T) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{store.RevisionMigrations, Migrations}, func(t *testing.T, db *store.DB) {
		db.OnWrite = nil // its rows are made by one statement
		conn, err := db.Writer().Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		do := func(query string, args ...any) (lines []string) {
			t.Helper()
			rows, err := conn.QueryContext(t.Context(), query, args...)
			if err != nil {
				t.Fatal(err)
			}
			columns, err := rows.Columns()
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				line := make([]any, len(columns))
				for i := range line {
					line[i] = new(any)
				}
				if err := rows.Scan(line...); err != nil {
					t.Fatal(err)
				}
				lines = append(lines, fmt.Sprint(*line[len(line)-1].(*any)))
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
			return lines
		}
		const n = 50
		query := `SELECT ` + rowColumns + ` FROM resource_now WHERE kind = $1 AND ` + among("id", 2, n)
		args, texts := []any{"things"}, []string{`'things'`}
		for i := range n {
			args, texts = append(args, fmt.Sprint(5000+i)), append(texts, fmt.Sprintf(`'%d'`, 5000+i))
		}
		explain := `EXPLAIN QUERY PLAN ` + query
		numbers := `WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 8999)`
		if db.Engine() == store.Postgres {
			do(`SET plan_cache_mode = force_generic_plan`)
			do(`PREPARE read AS ` + query)
			execute := `EXECUTE read (` + strings.Join(texts, ", ") + `)`
			do(execute)
			explain, args = `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) `+execute, nil
		}
		do(`INSERT INTO resource_stage (batch, kind, id, base, gone, type, type_version, doc, labels, sealed, key_id, shown_before, shown, staged_at)
			` + numbers + ` SELECT 'b', 'things', CAST(i AS TEXT), 0, FALSE, '', 1, '{}', '{}', '', '', '', '', 0 FROM n`)
		do(`INSERT INTO resource (kind, id, type, type_version, doc, labels, sealed, key_id, version, updated_at)
			` + numbers + ` SELECT 'things', CAST(i AS TEXT), '', 1, '{}', '{}', '', '', 1, 0 FROM n`)
		for _, when := range []string{"at rest", "while a batch moves"} {
			for _, step := range do(explain, args...) {
				t.Logf("%s: %s", when, step)
				if wasteful[db.Engine()].MatchString(step) {
					t.Errorf("%s: %s", when, step)
				}
			}
			do(`INSERT INTO resource_batch (batch, at, subject, token_id, request_id) VALUES ('b', 0, '', '', '') ON CONFLICT DO NOTHING`)
		}
	})
}

// The record keeps more than a year of changes: a page of it costs the same however many there are.
func TestThePagesOfTheRecordAreStretchesOfAnIndex(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, store.RevisionMigrations, Migrations) // its plans do not depend on what is stored
	for _, where := range []string{`TRUE`, `TRUE AND id < $1`, `TRUE AND kind = $1`, `TRUE AND kind = $1 AND id < $2`, `TRUE AND kind = $1 AND object = $2 AND id < $3`} {
		rows, err := db.QueryContext(t.Context(), `EXPLAIN QUERY PLAN SELECT id, shown FROM resource_audit WHERE `+where+` ORDER BY id DESC LIMIT 21`, []any{"a", 2, 3}[:strings.Count(where, "$")]...)
		if err != nil {
			t.Fatal(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var id, parent, unused int
			var step string
			err := rows.Scan(&id, &parent, &unused, &step)
			if strings.Contains(step, "TEMP B-TREE") || strings.Contains(where, "kind") && !strings.Contains(step, "(kind=?") {
				t.Errorf("%s: %s", where, step)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
