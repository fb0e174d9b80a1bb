package task

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// BenchmarkSearch shows that a search costs the same however much is stored: 10,000 items against BENCH_BUILDS (default 200,000) in 100 sources.
func BenchmarkSearch(b *testing.B) {
	large, err := strconv.Atoi(os.Getenv("BENCH_BUILDS"))
	if err != nil {
		large = 200_000
	}
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		for _, n := range []int{10_000, large} {
			w := prepare(b, storetest.Open(b, engine, migrations()...))
			web := w.fill(b, n)
			middle := w.search(web, Query{Limit: 20, Since: time.Unix(1, 0)})
			for range 200 {
				if middle.PageInfo.HasMore {
					middle = w.search(web, Query{Limit: 20, Since: time.Unix(1, 0), Cursor: middle.PageInfo.NextCursor})
				}
			}
			deep := Query{Limit: 20, Since: time.Unix(1, 0), Cursor: middle.PageInfo.NextCursor}
			branch := map[string][]string{"branch": {"main"}}
			for name, search := range map[string]func() (Page, error){
				"newest": func() (Page, error) { return w.runs.Search(b.Context(), system, web, Query{}, nil) },
				"deep":   func() (Page, error) { return w.runs.Search(b.Context(), system, web, deep, nil) },
				"failed": func() (Page, error) {
					return w.runs.Search(b.Context(), system, web, Query{Statuses: []string{"failed"}}, nil)
				},
				"person": func() (Page, error) {
					return w.runs.Search(b.Context(), system, web, Query{Filters: map[string][]string{"triggeredBy": {"jane"}}}, nil)
				},
				"branch": func() (Page, error) { return w.runs.Search(b.Context(), system, web, Query{Filters: branch}, nil) },
				"combined": func() (Page, error) {
					return w.runs.Search(b.Context(), system, web, Query{Filters: branch, Statuses: []string{"failed"}}, nil)
				},
				"owner": func() (Page, error) {
					return w.runs.SearchAll(b.Context(), system, Scope{Owners: []string{"group:default/team-1"}}, Query{})
				},
				"all": func() (Page, error) { return w.runs.SearchAll(b.Context(), system, Scope{}, Query{}) },
				"allfail": func() (Page, error) {
					return w.runs.SearchAll(b.Context(), system, Scope{}, Query{Statuses: []string{"failed"}})
				},
			} {
				b.Run(fmt.Sprintf("%s/%s/%d", engine, name, n), func(b *testing.B) {
					var took []time.Duration
					for b.Loop() {
						start := time.Now()
						p, err := search()
						if err != nil || len(p.Items) == 0 {
							b.Fatal(len(p.Items), err)
						}
						took = append(took, time.Since(start))
					}
					slices.Sort(took)
					b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs/p99")
				})
			}
			w.Wait()
		}
	}
}

// fill makes 100 entities with a source each and n items, and gives one entity with three sources of them.
func (w *world) fill(b *testing.B, n int) slipway.EntityRef {
	b.Helper()
	ctx := context.Background()
	v := fake.New(fake.Config{})
	w.vendors(map[string]*fake.Vendor{"ci": v})
	for i := range 100 {
		w.entity(fmt.Sprintf("e%d", i), fmt.Sprintf("team-%d", i%20), map[string]string{fake.Annotation: fmt.Sprintf("octo/p%d", i)})
	}
	web := w.entity("web", "team-web", map[string]string{fake.Annotation: "octo/p0,octo/p1,octo/p2"})
	if err := w.runs.bindAll(ctx, bindArgs{}); err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	series := "generate_series(1, $1) AS g(n)"
	if w.db.Engine() == store.SQLite {
		series = "(WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < $1) SELECT n FROM g) AS g"
	}
	for _, q := range []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO task_term (id, source_id, field, value) SELECT id * 10 + n, id, CASE n WHEN 1 THEN 'branch' WHEN 2 THEN 'branch' WHEN 3 THEN 'pipeline' ELSE 'triggeredBy' END,
			CASE n WHEN 1 THEN 'main' WHEN 2 THEN 'topic' WHEN 3 THEN 'ci' ELSE 'jane' END FROM task_source, (SELECT 1 AS n UNION SELECT 2 UNION SELECT 3 UNION SELECT 4) AS x`, nil},
		{`INSERT INTO task_alias (source_id, value, field, term_id) SELECT source_id, value, field, id FROM task_term`, nil},
		{`INSERT INTO run_item (source_id, created, id, version, status, finished, triggered_by_id, pipeline_id, branch_id, doc)
			SELECT s, CAST($2 AS BIGINT) - n * CAST(60000000 AS BIGINT), 'r' || n, 1, CASE n % 7 WHEN 0 THEN 'failed' ELSE 'succeeded' END, TRUE, CASE WHEN n % 53 = 0 THEN s * 10 + 4 END, s * 10 + 3, s * 10 + 1 + n % 2,
			'{"id":"ci:r' || n || '","provider":{"name":"ci","type":"fake"},"pipeline":{"id":"ci","name":"ci"},"attempt":1,"status":"succeeded","createdAt":"2026-05-04T09:00:00Z","startedAt":"2026-05-04T09:00:00Z","finishedAt":"2026-05-04T09:10:00Z","durationSeconds":600,"url":"https://ci.example.com/octo/hello/runs/1234567","triggeredBy":{"id":"jane","name":"Jane Doe","email":"jane@example.com"},"trigger":"push","commit":{"sha":"9fceb02d0ae598e95dc970b74767f19372d61af8","message":"Fix the cart, again","author":"Jane Doe","branch":"main","url":"https://example.com/commit/9fceb02"},"blocked":false,"retriggerable":false}'
			FROM (SELECT n, (n * 37) % 100 + (SELECT MIN(id) FROM task_source) AS s FROM ` + series + `) AS x ORDER BY s, n DESC`, []any{n, now.UnixMicro()}},
		{`UPDATE task_source SET as_of = $1, next_refresh = $2`, []any{now.Add(time.Hour).UnixMicro(), now.Add(time.Hour).UnixMicro()}},
		{`ANALYZE`, nil},
	} {
		if _, err := w.db.Writer().ExecContext(ctx, q.sql, q.args...); err != nil {
			b.Fatal(err)
		}
	}
	if w.db.Engine() == store.SQLite { // else the readers go through a log as long as the data
		if _, err := w.db.Writer().ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
			b.Fatal(err)
		}
	}
	return web
}
