package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// shelf is a catalog file with components, each with what has tables of its own: labels, tags, relations.
func shelf(from, to int, text string) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "---\napiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: c%05d, description: %s, labels: {shelf: one, text: %s}, tags: [java, t%d]}\n"+
			"spec: {type: service, lifecycle: production, owner: group:default/shelf, system: s%d}\n", i, text, text, i%7, i%50)
	}
	return b.String()
}

// TestKilledInTheMiddleOfIngestion kills the server while it stores a large file, first when the file is new, then when it has changed. No entity is ever seen half,
// nothing is an orphan before all was read, and in the end all is there.
func TestKilledInTheMiddleOfIngestion(t *testing.T) {
	const all, fewer = 2000, 1600
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			in := install(t, engine)
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			file := filepath.Join(in.dir, "catalog", "many.yaml")
			write(t, file, shelf(0, all, "first"))

			r := in.serve()
			count := func(filter string) int {
				var q struct {
					TotalItems int `json:"totalItems"`
				}
				if status := r.do("GET", "/api/catalog/entities/by-query?limit=0&filter="+filter, nil, &q); status != 200 {
					t.Fatalf("%s: status %d", filter, status)
				}
				return q.TotalItems
			}
			// whole says that every entity of the shelf has all of its parts: none has its owner and lacks another part, asked in one query each, since more is being stored meanwhile.
			whole := func() {
				t.Helper()
				for key, value := range map[string]string{"metadata.labels.shelf": "one", "metadata.tags": "java", "relations.ownedBy": "group:default/shelf"} {
					var half struct {
						TotalItems int `json:"totalItems"`
					}
					query := map[string]any{"$all": []any{map[string]any{"spec.owner": "group:default/shelf"}, map[string]any{"$not": map[string]any{key: value}}}}
					if status := r.do("POST", "/api/catalog/entities/by-query", map[string]any{"query": query, "limit": 0}, &half); status != 200 || half.TotalItems > 0 {
						t.Errorf("status %d: %d entities have no %s %s; they are there by half", status, half.TotalItems, key, value)
					}
				}
			}
			// cut kills the server once some of what it stores is there, and starts it again.
			kills := 0
			cut := func(done func() (some, more bool)) {
				r.eventually("some of it is stored", func() bool { some, _ := done(); return some })
				<-time.After(time.Duration(random.IntN(100)) * time.Millisecond)
				if _, more := done(); more {
					kills++
				}
				r.kill()
				r = in.serve()
				whole()
			}
			register := r // the answer is lost with the server
			go register.do("POST", "/api/catalog/locations", map[string]string{"type": "file", "target": file}, nil)
			for range 2 {
				cut(func() (bool, bool) { n := count("metadata.labels.text=first"); return n > 0, n < all })
			}
			r.eventually("the whole file is there", func() bool { return count("metadata.labels.text=first") == all })
			whole()

			write(t, file, shelf(0, fewer, "second"))
			if status := r.do("POST", "/api/catalog/refresh", map[string]string{"entityRef": "component:default/c00000"}, nil); status != 200 {
				t.Fatalf("refresh: status %d", status)
			}
			const orphans = "metadata.annotations.backstage.io/orphan=true"
			cut(func() (bool, bool) {
				n := count("metadata.labels.text=second")
				if gone := count(orphans); gone > 0 && n < fewer {
					t.Errorf("%d entities are orphans while %d of %d were stored", gone, n, fewer)
				}
				return n > 0, n < fewer
			})
			r.eventually("the new file is there, and what it no longer brings is an orphan", func() bool {
				return count("metadata.labels.text=second") == fewer && count(orphans) == all-fewer
			})
			whole()
			if kills == 0 {
				t.Error("the server was never killed in the middle; make the file larger")
			}
			t.Logf("killed %d times in the middle", kills)
			var page struct {
				Items []struct{ Target, Status string } `json:"items"`
			}
			r.eventually("the location is ready", func() bool {
				return r.do("POST", "/api/catalog/locations/by-query", map[string]any{"query": map[string]any{"target": file, "status": "ready"}}, &page) == 200 && len(page.Items) == 1
			})
		})
	}
}
