package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// beside is an installation with the same key, configuration and token, on empty databases.
func (in *installation) beside(t *testing.T, engine store.Engine) *installation {
	t.Helper()
	other := *in
	other.t, other.dir = t, t.TempDir()
	other.config, other.database = filepath.Join(other.dir, "slipway.yaml"), storetest.URL(t, engine)
	text, err := os.ReadFile(in.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, other.config, strings.NewReplacer(in.database, other.database, in.dir+"/data", other.dir+"/data").Replace(string(text)))
	return &other
}

// TestBackupsGoBackAcrossVersions restores what one of two versions that follow each other has backed up with the other. What a newer one has made is not thrown away: its databases
// can be backed up by either, and only the newer one restores that; the older one goes on with it then.
func TestBackupsGoBackAcrossVersions(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			in := install(t, engine)
			folder := func(name string) string { return filepath.Join(t.TempDir(), name) }
			must := func(out []byte, err error) string {
				t.Helper()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				return string(out)
			}
			count := func(in *installation, query string) (n int) {
				t.Helper()
				db, err := store.Open("main", in.database)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = db.Close() }()
				if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
					t.Error(err)
				}
				return n
			}
			// works starts a version on an installation, and has it accept a build.
			works := func(in *installation, program func() (string, error)) {
				t.Helper()
				r := in.serveBy(program)
				r.eventually("a build is accepted", func() bool { return r.do("POST", "/api/build/by-entity/component:default/web/start", nil, nil) == 202 })
				if status := r.end(); status != 0 {
					t.Errorf("it ended with %d: %s", status, r.log)
				}
			}
			works(in, program)
			old := folder("old")
			must(in.run("db", "backup", old))
			tokens := count(in, "SELECT count(*) FROM auth_token")

			// The next version takes over the older one's backup, and brings it up to date at its start.
			up := in.beside(t, engine)
			must(up.runBy(nextProgram, "db", "restore", old))
			works(up, nextProgram)
			if n := count(up, "SELECT count(*) FROM auth_token WHERE next = 'next'"); n != tokens {
				t.Errorf("of %d tokens %d came over", tokens, n)
			}

			// Both can back up what the next one has used, whoever runs on it, and the next one restores both.
			works(up, program)
			for name, version := range map[string]func() (string, error){"by the older": program, "by the newer": nextProgram} {
				kept := folder("kept")
				must(up.runBy(version, "db", "backup", kept))
				back := up.beside(t, engine)
				if out, err := back.run("db", "restore", kept); err == nil || !strings.Contains(string(out), "a newer one made it; restore with that one") {
					t.Errorf("%s: the older one restores it: %v\n%s", name, err, out)
				}
				must(back.runBy(nextProgram, "db", "restore", kept))
				for _, table := range []string{"auth_token WHERE next = 'next'", "build_item", "next_tick"} {
					if got, want := count(back, "SELECT count(*) FROM "+table), count(up, "SELECT count(*) FROM "+table); got != want {
						t.Errorf("%s: %d rows of %s came back, want %d", name, got, table, want)
					}
				}
				works(back, program)
				works(back, nextProgram)
			}
		})
	}
}
