package data_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// One document by its id, beside a bare handler that reads the same row and writes the same bytes.
func BenchmarkGet(b *testing.B) {
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		o, _ := options()
		o.Database = storetest.URL(b, e)
		s := blueprinttest.Start(b, e, o)
		s.Post("/data/credentials", sshKey).Is(201)
		db, err := store.Open("bare", o.Database)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = db.Close() })
		bare := http.NewServeMux()
		bare.HandleFunc("GET /data/{kind}/{id}", func(w http.ResponseWriter, r *http.Request) {
			var doc string
			var version int64
			if err := db.QueryRowContext(r.Context(), `SELECT doc, version FROM resource WHERE kind = $1 AND id = $2`, r.PathValue("kind"), r.PathValue("id")).Scan(&doc, &version); err != nil {
				http.Error(w, err.Error(), http.StatusNotFound)
				return
			}
			h := w.Header()
			h.Set("Content-Type", "application/json")
			h.Set("ETag", resource.Document{Version: version}.Tag())
			_, _ = io.WriteString(w, `{"version":1,"data":`+doc+`}`)
		})
		for name, h := range map[string]http.Handler{"bare": bare, "slipway": s.Server} {
			b.Run(fmt.Sprintf("%s/%s", e, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					r := httptest.NewRequest("GET", "/data/credentials/github-key", nil)
					r.Header.Set("Authorization", "Bearer "+s.Token)
					w := httptest.NewRecorder()
					if h.ServeHTTP(w, r); w.Code != 200 {
						b.Fatal(w.Code, w.Body)
					}
				}
			})
		}
		s.Stop()
	}
}

// Secrets of many documents are sealed anew while one reads.
func BenchmarkRekey(b *testing.B) {
	const n = 100_000
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		b.Run(string(e), func(b *testing.B) {
			db := storetest.Open(b, e, store.RevisionMigrations, resource.Migrations)
			db.OnWrite = nil
			keys, err := secret.OpenKeyring(filepath.Join(b.TempDir(), "key"), true)
			if err != nil {
				b.Fatal(err)
			}
			type text struct {
				Secret string `json:"secret" secret:"true"`
			}
			p := resource.Permissions{Read: "x.y.read", Create: "x.y.write", Update: "x.y.write"}
			s, err := resource.Open(b.Context(), db, store.NewRevisions(db, nil), keys, time.Now, resource.Kind{Name: "texts", Text: "Texts.", Permissions: p, Types: []resource.Type{{Fields: text{}}}})
			if err != nil {
				b.Fatal(err)
			}
			ctx := auth.WithCaller(b.Context(), auth.System())
			for i := 0; i < n; i += 10_000 {
				var lines strings.Builder
				for j := i; j < i+10_000; j++ {
					fmt.Fprintf(&lines, `{"kind":"texts","id":"t%06d","secret":"secret-%d"}`+"\n", j, j)
				}
				inputs, err := resource.Read([]byte(lines.String()))
				if err != nil {
					b.Fatal(err)
				}
				var changes []resource.Change
				for _, in := range inputs {
					changes = append(changes, resource.Change{Input: in, Verb: resource.Put})
				}
				start := time.Now()
				if _, err := s.Apply(ctx, changes, resource.Options{}); err != nil {
					b.Fatal(err)
				}
				if i == 0 {
					b.Logf("applying 10,000 took %s", time.Since(start))
				}
			}
			for b.Loop() {
				if err := keys.Rotate(); err != nil {
					b.Fatal(err)
				}
				var slowest time.Duration
				for {
					k, err := s.Rekey(ctx, 1000)
					if err != nil {
						b.Fatal(err)
					}
					start := time.Now()
					if _, err := s.Reveal(ctx, "texts", "t050000"); err != nil {
						b.Fatal(err)
					}
					slowest = max(slowest, time.Since(start))
					if k == 0 {
						break
					}
				}
				b.ReportMetric(float64(slowest.Microseconds())/1000, "ms/slowest-read")
			}
		})
	}
}
