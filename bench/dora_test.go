//go:build bench

package bench

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// TestDoraNumbers takes the numbers of DORA metrics over five years of BENCH_DEPLOYMENTS deployments, 2 million by default, of 1,000 services.
func TestDoraNumbers(t *testing.T) {
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		if only := os.Getenv("BENCH_ENGINE"); only == "" || only == string(e) {
			t.Run(string(e), func(t *testing.T) { measureDora(t, e) })
		}
	}
	fmt.Printf("\n| what | engine | measured | wanted |\n|---|---|---|---|\n%s\n", strings.Join(doraNumbers.lines, "\n"))
}

var doraNumbers report

const doraServices = 1000

func measureDora(t *testing.T, e store.Engine) {
	n, seconds := number("BENCH_DEPLOYMENTS", 2_000_000), float64(number("BENCH_SECONDS", 5))
	note := func(what, got, want string) { doraNumbers.note(t, what, e, got, want) }
	url := fillDora(t, e, n)
	p := start(t, "slipway", url, t.TempDir())

	// All is marked as reported just now: the first report works out what follows of everything.
	begin := time.Now()
	p.do(t, http.MethodPost, "/api/devlake/deployments", report1("first", "svc-0", time.Now().Add(-time.Hour)))
	note(fmt.Sprintf("%d deployments: what follows of all of them worked out anew", n), fmt.Sprintf("%.0f s", time.Since(begin).Seconds()), "noted")
	if e == store.Postgres {
		vacuum(t, url)
	}

	day := func(d int) string { return time.Now().AddDate(0, 0, -d).UTC().Format(time.DateOnly) }
	for _, c := range []struct{ what, path, want string }{
		{"30 days of one service", "/api/devlake/dora-metrics?project=svc-7", "≤ 50 ms"},
		{"30 days of all services", "/api/devlake/dora-metrics", "≤ 50 ms"},
		{"a year of one service", "/api/devlake/dora-metrics?project=svc-7&startDate=" + day(364), "≤ 200 ms"},
		{"a year of all services", "/api/devlake/dora-metrics?startDate=" + day(364), "≤ 200 ms"},
		{"a year of all services by week", "/api/devlake/dora-metrics?interval=week&startDate=" + day(364), "≤ 200 ms"},
		{"history of one service", "/api/devlake/deployment-history?service=svc-7", "noted"},
		{"history of all services", "/api/devlake/deployment-history?environment=prod", "noted"},
	} {
		paths := []string{c.path}
		p.call(t, paths, 1, 0, 0)
		top := p.call(t, paths, seconds/2, 0, 0).rate()
		c0 := p.cpu(t)
		o := p.call(t, paths, seconds, top/4, 0)
		cpu := float64((p.cpu(t) - c0).Microseconds()) / float64(o.Requests) / 1000
		note(c.what+": 99th percentile at a quarter of the top rate", fmt.Sprintf("%.1f ms (median %.1f ms, %.1f ms of CPU, top %.0f a second)", o.P99, o.P50, cpu, top), c.want)
	}

	// Reports: batches of 100 of services chosen anew, by four reporters.
	var sent atomic.Int64
	begin = time.Now()
	c0 := p.cpu(t)
	var running sync.WaitGroup
	ctx, stop := context.WithTimeout(t.Context(), time.Duration(2*seconds)*time.Second)
	defer stop()
	for w := range 4 {
		running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				var list []string
				for k := range 100 {
					list = append(list, report1(fmt.Sprintf("r%d-%d-%d", w, i, k), fmt.Sprintf("svc-%d", (w*31+i*100+k*7)%doraServices), time.Now().Add(-time.Duration(i)*time.Minute)))
				}
				p.do(t, http.MethodPost, "/api/devlake/deployments", "["+strings.Join(list, ",")+"]")
				sent.Add(100)
			}
		})
	}
	running.Wait()
	took := time.Since(begin).Seconds()
	note("deployments reported in batches of 100 over all services, by four", fmt.Sprintf("%.0f a second, %.2f ms of CPU each", float64(sent.Load())/took, float64((p.cpu(t)-c0).Microseconds())/1000/float64(sent.Load())), "≥ 2,000")
	o := p.call(t, []string{"/api/devlake/deployments " + report1("single", "svc-3", time.Now().Add(-time.Hour))}, 1, 0, 0)
	note("one deployment repeated, by sixteen", fmt.Sprintf("%.0f a second", o.rate()), "noted")
}

func report1(id, service string, ended time.Time) string {
	return fmt.Sprintf(`{"id":%q,"service":%q,"environment":"prod","status":"SUCCESS","version":%q,"startTime":%q,"endTime":%q,"triggeredBy":"CI","commit":{"sha":"0123456789abcdef","message":"Change it","author":"dev@example.com","time":%q}}`,
		id, service, "v-"+id, ended.Add(-5*time.Minute).UTC().Format(time.RFC3339), ended.UTC().Format(time.RFC3339), ended.Add(-3*time.Hour).UTC().Format(time.RFC3339))
}

// fillDora makes deployments over five years, every twentieth with an incident, and marks their services as written to.
func fillDora(t *testing.T, e store.Engine, n int) string {
	t.Helper()
	url := storetest.URL(t, e)
	db, err := store.Open("main", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.MigrateUp(t.Context(), server.Owners(builtin.Blueprints())["main"]...); err != nil {
		t.Fatal(err)
	}
	series := func(name string, n int) string {
		if e == store.Postgres {
			return fmt.Sprintf("generate_series(CAST(0 AS BIGINT), %d) AS %s(n)", n-1, name)
		}
		return fmt.Sprintf("(WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n + 1 < %d) SELECT n FROM c) AS %s", n, name)
	}
	exec := func(query string) {
		t.Helper()
		if _, err := db.Writer().ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%v\n%s", err, query)
		}
	}
	begin := time.Now()
	each := n / doraServices
	first := time.Now().AddDate(-5, 0, 0).UnixMicro()
	step := (time.Now().UnixMicro() - first) / int64(each+1)
	exec(`INSERT INTO dora_service (id, name, title, project, version, dirty_from, dirty_to) SELECT 1 + n, 'svc-' || n, 'svc-' || n, '', 1, ` + fmt.Sprint(first) + `, ` + fmt.Sprint(time.Now().UnixMicro()) + ` FROM ` + series("s", doraServices))
	exec(fmt.Sprintf(`INSERT INTO dora_tally (service_id, environment, n) SELECT 1 + n, 'prod', %d FROM `, each) + series("s", doraServices))
	rebuild := withoutIndexes(t, db, "dora_deployment")
	at := fmt.Sprintf("(%d + d.n * %d + s.n * 1000000)", first, step)
	exec(`INSERT INTO dora_deployment (external_id, source, service_id, environment, status, started, finished, deployed, first_commit, rework, rollback, revision, doc)
		SELECT 'd' || s.n || '-' || d.n, 'bench', 1 + s.n, 'prod', 'SUCCESS', ` + at + `, ` + at + ` + 300000000, 'v' || d.n, ` + at + ` - (1 + d.n % 50) * 3600000000, FALSE, FALSE, 0,
			'{"id":"d' || s.n || '-' || d.n || '","version":"v' || d.n || '","environment":"prod","status":"SUCCESS","startTime":"2026-01-02T03:04:05Z","endTime":"2026-01-02T03:09:05Z","duration":300,"triggeredBy":"GitHub Push","commit":{"sha":"0123456789012345678901234567890123456789","message":"Change what has to be changed","author":"dev@example.com"},"service":"svc-' || s.n || '","source":"bench","originalEnvironment":"production"}'
		FROM ` + series("s", doraServices) + ` CROSS JOIN ` + series("d", each))
	exec(`INSERT INTO dora_incident (external_id, source, service_id, started, resolved, told, deployment_id, revision, doc)
		SELECT 'i' || s.n || '-' || d.n, 'bench', 1 + s.n, ` + at + ` + 900000000, ` + at + ` + 900000000 + (1 + d.n % 30) * 600000000, '', 0, 0, '{}' FROM ` + series("s", doraServices) + ` CROSS JOIN ` + series("d", each) + ` WHERE d.n % 20 = 0`)
	for _, index := range rebuild {
		exec(index)
	}
	if e == store.Postgres {
		exec("VACUUM ANALYZE")
	} else {
		exec("PRAGMA wal_checkpoint(TRUNCATE)")
	}
	t.Logf("%s: %d deployments of %d services in %s", e, n, doraServices, time.Since(begin).Round(time.Second))
	return url
}
