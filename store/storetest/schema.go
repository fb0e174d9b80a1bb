package storetest

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway/store"
)

// UpDownUp checks on both engines that every step of the migrations can be taken back, that nothing but
// the version tables is left then, and that applying them again gives the same schema; and that steps only add, or
// say that they do not. Every owner of migrations has a test that calls it.
func UpDownUp(t *testing.T, migrations ...store.Migrations) {
	t.Helper()
	for _, m := range migrations {
		OnlyAdds(t, m)
	}
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

// What a step may do while the version before it still works: what is new is of no concern to that one, an index that is gone makes it slower. A view that is dropped comes
// again with its columns. The rest is looked at by whoever writes the line "-- Contract: …".
var adding = []*regexp.Regexp{
	regexp.MustCompile(`^CREATE ((UNLOGGED )?TABLE|VIEW|INDEX|FUNCTION|TRIGGER) `),
	regexp.MustCompile(`^ALTER TABLE \w+ ADD COLUMN `),
	regexp.MustCompile(`^DROP INDEX `),
	regexp.MustCompile(`^(INSERT INTO|UPDATE|WITH) `),
}

var (
	comment   = regexp.MustCompile(`(?m)--.*$`)
	contract  = regexp.MustCompile(`(?m)^-- Contract: \S`)
	newTable  = regexp.MustCompile(`CREATE (?:UNLOGGED )?TABLE (\w+)`)
	nullable  = regexp.MustCompile(`ALTER TABLE (\w+) ADD COLUMN (\w+) [^;]*`)
	uniqueOn  = regexp.MustCompile(`^CREATE UNIQUE INDEX \w+ ON (\w+) \(([^)]*)\)`)
	dropView  = regexp.MustCompile(`^DROP VIEW (\w+)$`)
	newColumn = regexp.MustCompile(`^ALTER TABLE \w+ ADD COLUMN .*NOT NULL`)
	// Bodies of functions and the like, which hold semicolons.
	block = regexp.MustCompile(`(?s)-- \+goose StatementBegin\n(.*?)-- \+goose StatementEnd`)
)

// OnlyAdds fails where a step could break the version before it and does not say so.
func OnlyAdds(t testing.TB, m store.Migrations) {
	t.Helper()
	names, err := fs.Glob(m.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		raw, err := fs.ReadFile(m.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		if contract.Match(raw) {
			continue
		}
		up, _, _ := strings.Cut(string(raw), "-- +goose Down")
		up = block.ReplaceAllStringFunc(up, func(s string) string { return strings.ReplaceAll(strings.TrimRight(s, " ;\n"), ";", "") })
		made := map[string]bool{}
		for _, table := range newTable.FindAllStringSubmatch(up, -1) {
			made[table[1]] = true
		}
		free := map[string]bool{} // new columns that the version before leaves NULL, which are equal to no other
		for _, c := range nullable.FindAllStringSubmatch(up, -1) {
			free[c[1]+"."+c[2]] = !strings.Contains(c[0], "NOT NULL")
		}
		for statement := range strings.SplitSeq(comment.ReplaceAllString(up, ""), ";") {
			if statement = strings.Join(strings.Fields(statement), " "); statement == "" {
				continue
			}
			ok := slices.ContainsFunc(adding, func(a *regexp.Regexp) bool { return a.MatchString(statement) })
			if newColumn.MatchString(statement) && !strings.Contains(statement, " DEFAULT ") {
				ok = false
			}
			if m := uniqueOn.FindStringSubmatch(statement); m != nil {
				ok = made[m[1]] || slices.ContainsFunc(strings.Split(m[2], ", "), func(c string) bool { return free[m[1]+"."+c] })
			}
			if m := dropView.FindStringSubmatch(statement); m != nil {
				ok = strings.Contains(up, "CREATE VIEW "+m[1]+" ")
			}
			if !ok {
				t.Errorf("%s of %s can break the version before it, which goes on working during an upgrade: %.100s\nLet the step only add; take away in a later release, in a step with the line \"-- Contract: <who must be gone>\"", name, m.Owner, statement)
			}
		}
	}
}
