package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/examples/widget"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

var backedUp = append(builtin.Blueprints(), widget.Blueprint)

// installation is a server on a database main and one called widget.
type installation struct {
	*blueprinttest.Server
	config *server.Config
}

func install(t *testing.T, engine store.Engine, databases map[string]string, keyFile string) installation {
	t.Helper()
	var in installation
	in.Server = blueprinttest.Start(t, engine, blueprinttest.Options{Blueprints: backedUp, Kinds: builtin.Providers(), Database: databases["main"], Configure: func(c *server.Config) {
		maps.Copy(c.Databases, databases)
		if keyFile != "" {
			c.Secrets.KeyFile = keyFile
		}
		in.config = c
	}})
	return in
}

// beside is the configuration of another installation with the same keys, on empty databases.
func (in installation) beside(t *testing.T, engine store.Engine) *server.Config {
	c := *in.config
	c.Databases = map[string]string{"main": storetest.URL(t, engine), "widget": storetest.URL(t, engine)}
	return &c
}

func owners() map[string][]store.Migrations {
	return server.Owners(append([]blueprint.Blueprint{server.Base}, backedUp...))
}

func document(id, secret string) map[string]any {
	return map[string]any{"id": id, "type": "secretText", "scope": "GLOBAL", "description": "of " + id, "secret": secret}
}

const backedUpSecret = "a-secret-that-no-backup-shows"

func TestABackupUnderWritesIsWholeAndComesBack(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			from := install(t, engine, nil, "")
			pair := func(i int64) {
				from.Post("/data", map[string]any{"version": 1, "kind": "credentials", "data": []any{
					document(fmt.Sprintf("a-%06d", i), backedUpSecret), document(fmt.Sprintf("b-%06d", i), backedUpSecret)}}).Is(200)
				from.Post("/api/widgets", map[string]any{"name": fmt.Sprintf("w-%06d", i)}).Is(201)
			}
			var done atomic.Int64
			ctx, stop := context.WithCancel(t.Context())
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				for i := int64(1); ctx.Err() == nil; i++ {
					pair(i)
					done.Store(i)
				}
			}()
			blueprinttest.Eventually(t, "there is something to back up", func() bool { return done.Load() >= 20 })
			before := done.Load()
			folder := filepath.Join(t.TempDir(), "backup")
			m, err := server.Backup(t.Context(), from.config, owners(), folder, "0.0.0-test")
			if err != nil {
				t.Fatal(err)
			}
			seen := done.Load()
			blueprinttest.Eventually(t, "writes went on", func() bool { return done.Load() > seen })
			stop()
			<-stopped
			if len(m.Databases) != 2 || m.Databases["widget"].Engine != engine {
				t.Fatalf("the backup holds %v", slices.Collect(maps.Keys(m.Databases)))
			}
			_ = filepath.WalkDir(folder, func(path string, d fs.DirEntry, _ error) error {
				info, _ := d.Info()
				if info.Mode()&0o077 != 0 {
					t.Errorf("%s can be read by others: %s", path, info.Mode())
				}
				if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(backedUpSecret)) {
					t.Errorf("%s shows a secret", path)
				}
				return nil
			})

			c := from.beside(t, engine)
			if _, err := server.Restore(t.Context(), c, owners(), folder, server.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			// What was restored is what was backed up, to the last row.
			again, err := server.Backup(t.Context(), c, owners(), folder+"-again", "0.0.0-test")
			if err != nil {
				t.Fatal(err)
			}
			for name := range m.Databases {
				want, got := m.Databases[name], again.Databases[name]
				if engine == store.SQLite {
					want.Files[0].SHA256, got.Files[0].SHA256 = "", "" // SQLite counts in its first page how often it was written
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s came back otherwise (-backed up +restored):\n%s", name, d)
				}
			}

			to := install(t, engine, c.Databases, c.Secrets.KeyFile)
			ids := map[byte]int64{}
			for id := range exported(t, to) {
				ids[id[0]]++
			}
			if ids['a'] != ids['b'] || ids['a'] < before {
				t.Errorf("restored are %d and %d of each pair; want equally many, at least the %d from before the backup", ids['a'], ids['b'], before)
			}
			to.Get(fmt.Sprintf("/api/widgets/%d", before)).Is(200)
			from.As(from.Token).Get("/api/auth/me").Is(200)
			to.As(from.Token).Get("/api/auth/me").Is(200) // tokens are in it
			to.Post("/api/widgets", map[string]any{"name": "after"}).Is(201)
			to.Post("/data", map[string]any{"version": 1, "kind": "credentials", "data": []any{document("later", "x")}}).Is(200)
		})
	}
}

// exported gives all credentials by id, as they are exported.
func exported(t *testing.T, s installation) map[string]string {
	t.Helper()
	out := map[string]string{}
	for next := "/data/credentials?limit=100"; next != ""; {
		var page struct {
			Data     []json.RawMessage `json:"data"`
			PageInfo slipway.PageInfo  `json:"pageInfo"`
		}
		s.Get(next).Is(200).Into(&page)
		for _, doc := range page.Data {
			var id struct{ ID string }
			if err := json.Unmarshal(doc, &id); err != nil {
				t.Fatal(err)
			}
			out[id.ID] = string(doc)
		}
		if next = ""; page.PageInfo.HasMore {
			next = "/data/credentials?limit=100&cursor=" + page.PageInfo.NextCursor
		}
	}
	return out
}

func TestARestoreGivesTheSameExportAndRefusesWhatWouldLoseData(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			from := install(t, engine, nil, "")
			for i := range 5 {
				from.Post("/data", map[string]any{"version": 1, "kind": "credentials", "data": []any{document(fmt.Sprintf("c-%d", i), backedUpSecret)}}).Is(200)
			}
			want := exported(t, from)
			folder := filepath.Join(t.TempDir(), "backup")
			if _, err := server.Backup(t.Context(), from.config, owners(), folder, "0.0.0-test"); err != nil {
				t.Fatal(err)
			}
			restore := func(c *server.Config, folder string, o server.RestoreOptions, refusal string) {
				t.Helper()
				_, err := server.Restore(t.Context(), c, owners(), folder, o)
				if refusal == "" && err != nil || refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)) {
					t.Errorf("got %v, want %q", err, refusal)
				}
			}
			if _, err := server.Backup(t.Context(), from.config, owners(), folder, "0.0.0-test"); slipway.CodeOf(err) != slipway.Conflict {
				t.Errorf("a second backup into the folder: %v", err)
			}
			running := map[store.Engine]string{store.SQLite: "another server runs", store.Postgres: "stop the servers"}[engine]
			restore(from.config, folder, server.RestoreOptions{Replace: true}, running)

			to := from.beside(t, engine)
			change := func(name string, change func(text []byte) []byte) string {
				t.Helper()
				other := filepath.Join(t.TempDir(), "changed")
				if err := os.CopyFS(other, os.DirFS(folder)); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(other, name)
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, change(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return other
			}
			inManifest := func(old, new string) string {
				return change("manifest.json", func(text []byte) []byte {
					if !bytes.Contains(text, []byte(old)) {
						t.Errorf("the manifest does not hold %s", old)
					}
					return bytes.Replace(text, []byte(old), []byte(new), 1)
				})
			}
			data := map[store.Engine]string{store.SQLite: "main.db", store.Postgres: "main/resource.copy"}[engine]
			restore(to, change(data, func(text []byte) []byte { text[len(text)/2] ^= 1; return text }), server.RestoreOptions{}, "is damaged")
			restore(to, change(data, func(text []byte) []byte { return text[:len(text)-1] }), server.RestoreOptions{}, "is damaged")
			restore(to, inManifest(`"format": 1`, `"format": 2`), server.RestoreOptions{}, "format 2")
			restore(to, inManifest(`"version": 1`, `"version": 999`), server.RestoreOptions{}, "a newer one made it")
			restore(to, inManifest(`"name": "`+data, `"name": "../`+data), server.RestoreOptions{}, "outside")
			restore(to, t.TempDir(), server.RestoreOptions{}, "is no backup")
			other := map[store.Engine]store.Engine{store.SQLite: store.Postgres, store.Postgres: store.SQLite}[engine]
			restore(from.beside(t, other), folder, server.RestoreOptions{}, "an engine of its kind")
			lost := *to
			lost.Secrets.KeyFile = filepath.Join(t.TempDir(), "master.key")
			restore(&lost, folder, server.RestoreOptions{}, "put your copy of the file there first")
			if err := server.MakeKey(lost.Secrets.KeyFile); err != nil {
				t.Fatal(err)
			}
			restore(&lost, folder, server.RestoreOptions{}, "lacks the key")

			// None of that has changed the empty databases.
			restore(to, folder, server.RestoreOptions{}, "")
			restore(to, folder, server.RestoreOptions{}, "is not empty")
			s := install(t, engine, to.Databases, to.Secrets.KeyFile)
			if d := cmp.Diff(want, exported(t, s)); d != "" {
				t.Errorf("the export differs (-before +after):\n%s", d)
			}
			s.Post("/data", map[string]any{"version": 1, "kind": "credentials", "data": []any{document("new", "x")}}).Is(200)
			s.Stop()
			restore(to, folder, server.RestoreOptions{Replace: true}, "")
			s = install(t, engine, to.Databases, to.Secrets.KeyFile)
			if d := cmp.Diff(want, exported(t, s)); d != "" {
				t.Errorf("the export differs after it was replaced (-before +after):\n%s", d)
			}
		})
	}
}

func TestABackupThatIsGivenUpLeavesNothing(t *testing.T) {
	t.Parallel()
	from := install(t, store.SQLite, nil, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := server.Backup(ctx, from.config, owners(), filepath.Join(dir, "backup"), "0.0.0-test"); err == nil {
		t.Error("it was made")
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("it left %v", left)
	}
	_, err := server.Backup(t.Context(), from.beside(t, store.SQLite), owners(), filepath.Join(dir, "backup"), "0.0.0-test")
	if slipway.CodeOf(err) != slipway.Conflict {
		t.Errorf("a backup of an empty database: %v", err)
	}
}
