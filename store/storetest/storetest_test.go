package storetest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func migrations(text string) store.Migrations {
	return store.Migrations{Owner: "row", FS: fstest.MapFS{"0001_row.sql": {Data: []byte("-- +goose Up\n" + text)}}}
}

const table = "CREATE TABLE row_number (n BIGINT NOT NULL);\n-- +goose Down\nDROP TABLE row_number;\n"

// recorder keeps what a helper says about a test.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Errorf(format string, _ ...any) { r.said = append(r.said, format) }

func TestALargeTransactionFailsTheTest(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		r := &recorder{TB: t}
		db := storetest.Open(r, engine, migrations(table))
		for rows, want := range map[int]int{500: 0, 501: 1} {
			r.said = nil
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < $1)
					INSERT INTO row_number SELECT n FROM r`, rows)
				return err
			})
			if err != nil || len(r.said) != want {
				t.Errorf("%s, %d rows: got %v, %d complaints; want %d", engine, rows, err, len(r.said), want)
			}
		}
	}
}

func TestEachDatabaseIsItsOwn(t *testing.T) {
	t.Parallel()
	for range 3 {
		storetest.Each(t, []store.Migrations{migrations(table)}, func(t *testing.T, db *store.DB) {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), "INSERT INTO row_number VALUES (1)")
				return err
			})
			var n int
			if e := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM row_number").Scan(&n); err != nil || e != nil || n != 1 {
				t.Errorf("got %d rows, %v, %v; want 1", n, err, e)
			}
		})
	}
}

func TestSchemaShowsWhatAMigrationLeft(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		db := storetest.Open(t, engine, migrations(table))
		if all := strings.Join(storetest.Schema(t, db), "\n"); !strings.Contains(all, "row_number: ") || !strings.Contains(all, "row_version: ") {
			t.Errorf("%s: got\n%s", engine, all)
		}
	}
}

func TestAServerLeavesNothingBehind(t *testing.T) {
	var dir string
	t.Run("inner", func(t *testing.T) {
		s := storetest.Server(t)
		s.Stop(t)
		s.Start(t)
		_, dir, _ = strings.Cut(s.URL("postgres"), "host=")
		dir, _, _ = strings.Cut(strings.ReplaceAll(dir, "%2F", "/"), "&")
		if files, err := filepath.Glob(dir + "/.s.PGSQL.*"); err != nil || len(files) == 0 {
			t.Errorf("got %v, %v; want the server's socket in %s", files, err, dir)
		}
	})
	if _, err := os.Stat(dir); dir != "" && !os.IsNotExist(err) {
		t.Errorf("got %v; want %s gone", err, dir)
	}
}

// complaints keeps what a test says, with its values.
type complaints struct {
	testing.TB
	said []string
}

func (c *complaints) Helper() {}
func (c *complaints) Errorf(format string, args ...any) {
	c.said = append(c.said, fmt.Sprintf(format, args...))
}

func TestAStepThatTakesAwaySaysSo(t *testing.T) {
	t.Parallel()
	for up, ok := range map[string]bool{
		"CREATE TABLE a (id {id});\nCREATE UNIQUE INDEX a_id ON a (id);":                                                   true,
		"ALTER TABLE a ADD COLUMN b TEXT;\nCREATE UNIQUE INDEX a_b ON a (id, b);":                                          true,
		"ALTER TABLE a ADD COLUMN b TEXT NOT NULL DEFAULT '';\nUPDATE a SET b = 'x';":                                      true,
		"DROP VIEW v;\nCREATE VIEW v AS SELECT 1;\nDROP INDEX i;":                                                          true,
		"-- +goose StatementBegin\nCREATE FUNCTION f() RETURNS INT AS 'BEGIN; DROP TABLE x; END';\n-- +goose StatementEnd": true,
		"-- Contract: versions before it.\nDROP TABLE a;":                                                                  true,
		"DROP TABLE a;":                              false,
		"DROP VIEW v;":                               false,
		"ALTER TABLE a DROP COLUMN b;":               false,
		"ALTER TABLE a RENAME COLUMN b TO c;":        false,
		"ALTER TABLE a ADD COLUMN b TEXT NOT NULL;":  false,
		"CREATE UNIQUE INDEX a_b ON a (b);":          false,
		"DELETE FROM a;":                             false,
		"ALTER TABLE a ALTER COLUMN b TYPE INTEGER;": false,
		"ALTER TABLE a ADD COLUMN b TEXT NOT NULL DEFAULT '';\nCREATE UNIQUE INDEX a_b ON a (b);": false,
	} {
		c := &complaints{TB: t}
		storetest.OnlyAdds(c, store.Migrations{Owner: "a", FS: fstest.MapFS{"0001_a.sql": {Data: []byte("-- +goose Up\n" + up + "\n-- +goose Down\nDROP TABLE a;\n")}}})
		if (len(c.said) == 0) != ok {
			t.Errorf("%s: got %q", up, c.said)
		}
	}
}
