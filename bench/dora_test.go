//go:build bench

package bench

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// TestDoraNumbers takes the numbers of DORA metrics over five years of BENCH_DEPLOYMENTS deployments, 2 million by default, of 1,000 services. Its parts are subtests, such as
// TestDoraNumbers/sqlite/metrics, on one database that BENCH_KEEP keeps (see kept). BENCH_ENGINE limits it to one engine.
func TestDoraNumbers(t *testing.T) {
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		if only := os.Getenv("BENCH_ENGINE"); only == "" || only == string(e) {
			t.Run(string(e), func(t *testing.T) { measureDora(t, e) })
		}
	}
	if only := os.Getenv("BENCH_ENGINE"); only == "" || only == string(store.MySQL) {
		t.Run(string(store.MySQL), measureLake)
	}
	fmt.Printf("\n| what | engine | measured | wanted |\n|---|---|---|---|\n%s\n", strings.Join(doraNumbers.lines, "\n"))
}

var doraNumbers report

const doraServices = 1000

func daysAgo(d int) string { return time.Now().AddDate(0, 0, -d).UTC().Format(time.DateOnly) }

var doraQuestions = []struct{ what, path, want string }{
	{"30 days of one service", "/api/devlake/dora-metrics?project=svc-7", "≤ 50 ms"},
	{"30 days of all services", "/api/devlake/dora-metrics", "≤ 50 ms"},
	{"a year of one service", "/api/devlake/dora-metrics?project=svc-7&startDate=" + daysAgo(364), "≤ 200 ms"},
	{"a year of all services", "/api/devlake/dora-metrics?startDate=" + daysAgo(364), "≤ 200 ms"},
	{"a year of all services by week", "/api/devlake/dora-metrics?interval=week&startDate=" + daysAgo(364), "≤ 200 ms"},
	{"a year of each service, a page of them", "/api/devlake/dora-metrics?groupBy=service&startDate=" + daysAgo(364), "≤ 200 ms"},
	{"history of one service", "/api/devlake/deployment-history?service=svc-7", "noted"},
	{"history of all services", "/api/devlake/deployment-history?environment=prod", "noted"},
}

func measureDora(t *testing.T, e store.Engine) {
	n, seconds := number("BENCH_DEPLOYMENTS", 2_000_000), float64(number("BENCH_SECONDS", 5))
	note := func(what, got, want string) { doraNumbers.note(t, what, e, got, want) }
	url, full := kept(t, e, fmt.Sprintf("dora-%d", n), `SELECT COUNT(*) FROM dora_deployment`, n)
	t.Run("fill", func(t *testing.T) {
		if !full {
			fillDora(t, e, url, n)
		}
		db, err := store.Open("main", url)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		dirty := func() int64 { return one(t, db, `SELECT COUNT(*) FROM dora_service WHERE dirty_from IS NOT NULL`) }
		if full && dirty() == 0 {
			t.Skip("the database that was kept is full already")
		}
		begin := time.Now()
		start(t, "slipway", url, t.TempDir()) // a schedule settles what no report did
		for dirty() > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		note(fmt.Sprintf("%d deployments: what follows of all of them worked out anew", n), fmt.Sprintf("%.0f s", time.Since(begin).Seconds()), "noted")
	})
	if e == store.Postgres && !full {
		vacuum(t, url)
	}
	t.Run("metrics", func(t *testing.T) {
		p := start(t, "slipway", url, t.TempDir())
		for _, c := range doraQuestions {
			begin := time.Now()
			p.do(t, http.MethodGet, c.path, "")
			first := time.Since(begin)
			o, top, cpu := p.steady(t, c.path, seconds)
			note(c.what+": 99th percentile at a quarter of the top rate", fmt.Sprintf("%.1f ms (median %.1f ms, %.1f ms of CPU, top %.0f a second, the first %.0f ms)", o.P99, o.P50, cpu, top, float64(first.Microseconds())/1000), c.want)
		}
		for _, c := range doraQuestions[:5] {
			var took []float64
			for i := range 30 {
				p.do(t, http.MethodPost, "/api/devlake/deployments", report1(fmt.Sprint("after-", time.Now().UnixNano()), fmt.Sprint("svc-", i*7), time.Now().Add(-time.Hour)))
				begin := time.Now()
				p.do(t, http.MethodGet, c.path, "")
				took = append(took, float64(time.Since(begin).Microseconds())/1000)
			}
			slices.Sort(took)
			note(c.what+", each time after a report", fmt.Sprintf("slowest of 30 %.1f ms (median %.1f ms)", took[29], took[15]), c.want)
		}
	})
	t.Run("reports", func(t *testing.T) {
		p := start(t, "slipway", url, t.TempDir())
		sent, took, cpu := p.reportDora(t, 4, 2*seconds, 0)
		note("deployments reported in batches of 100 over all services, by four", fmt.Sprintf("%.0f a second, %.2f ms of CPU each", float64(sent)/took, cpu), "≥ 2,000")
		o := p.call(t, []string{"/api/devlake/deployments " + report1("single", "svc-3", time.Now().Add(-time.Hour))}, 1, 0, 0)
		note("one deployment repeated, by sixteen", fmt.Sprintf("%.0f a second", o.rate()), "noted")
	})
	t.Run("both", func(t *testing.T) {
		p := start(t, "slipway", url, t.TempDir())
		for _, c := range doraQuestions[:5] {
			var running sync.WaitGroup
			var rate float64
			running.Go(func() {
				sent, took, _ := p.reportDora(t, 2, seconds, 500)
				rate = float64(sent) / took
			})
			o := p.call(t, []string{c.path}, seconds, 5, 0)
			running.Wait()
			note(fmt.Sprintf("%s, five times a second, while %.0f deployments a second are reported", c.what, rate), fmt.Sprintf("99th percentile %.1f ms (median %.1f ms)", o.P99, o.P50), "noted")
		}
	})
}

// steady asks one thing over and over: as fast as it goes, to know how fast that is, and at a quarter of that.
func (p *process) steady(t *testing.T, path string, seconds float64) (o outcome, top, cpu float64) {
	t.Helper()
	paths := []string{path}
	p.call(t, paths, 1, 0, 0)
	top = p.call(t, paths, seconds/2, 0, 0).rate()
	c0 := p.cpu(t)
	o = p.call(t, paths, seconds, top/4, 0)
	return o, top, float64((p.cpu(t) - c0).Microseconds()) / float64(o.Requests) / 1000
}

// reportDora reports deployments in batches of 100 over all services, by some reporters, as fast as they can or at a rate. It gives how many were sent in how many seconds, and the milliseconds of CPU of each.
func (p *process) reportDora(t *testing.T, reporters int, seconds, rate float64) (sent int64, took, cpu float64) {
	t.Helper()
	var n atomic.Int64
	begin, c0 := time.Now(), p.cpu(t)
	var running sync.WaitGroup
	for w := range reporters {
		running.Go(func() {
			for i := 0; time.Since(begin).Seconds() < seconds; i++ {
				if rate > 0 {
					time.Sleep(time.Until(begin.Add(time.Duration(float64(100*(i*reporters+w)) / rate * float64(time.Second)))))
				}
				var list []string
				for k := range 100 {
					list = append(list, report1(fmt.Sprintf("r%d-%d-%d-%d", begin.UnixNano(), w, i, k), fmt.Sprintf("svc-%d", (w*31+i*100+k*7)%doraServices), time.Now().Add(-time.Duration(i)*time.Minute)))
				}
				p.do(t, http.MethodPost, "/api/devlake/deployments", "["+strings.Join(list, ",")+"]")
				n.Add(100)
			}
		})
	}
	running.Wait()
	return n.Load(), time.Since(begin).Seconds(), float64((p.cpu(t) - c0).Microseconds()) / 1000 / float64(n.Load())
}

func report1(id, service string, ended time.Time) string {
	return fmt.Sprintf(`{"id":%q,"service":%q,"environment":"prod","status":"SUCCESS","version":%q,"startTime":%q,"endTime":%q,"triggeredBy":"CI","commit":{"sha":"0123456789abcdef","message":"Change it","author":"dev@example.com","time":%q}}`,
		id, service, "v-"+id, ended.Add(-5*time.Minute).UTC().Format(time.RFC3339), ended.UTC().Format(time.RFC3339), ended.Add(-3*time.Hour).UTC().Format(time.RFC3339))
}

// fillDora makes deployments over five years, every twentieth with an incident, and marks their services as written to.
func fillDora(t *testing.T, e store.Engine, url string, n int) {
	t.Helper()
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
	exec(fmt.Sprintf(`INSERT INTO dora_tally (service_id, environment, status, n) SELECT 1 + n, 'prod', 'SUCCESS', %d FROM `, each) + series("s", doraServices))
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
}

// lakeVariable names the section dora of a server's configuration that reads a DevLake database.
const lakeVariable = "SLIPWAY_BENCH_LAKE"

func configureLake(c *server.Config) {
	if address := os.Getenv(lakeVariable); address != "" {
		c.Databases["lake"] = address
		if c.Sections == nil {
			c.Sections = server.Sections(builtin.Blueprints())
		}
		c.Sections["dora"].(*dora.Config).Database = "lake"
	}
}

// lakeRows are the statements that fill DevLake's tables as its collectors of GitHub and Jira and its task dora do: ids, texts and origins are as long as theirs, and DevLake notes with each pull request when
// it was deployed.
func lakeRows(deployments, projects int) string {
	at := fmt.Sprintf("DATE_SUB(UTC_TIMESTAMP(), INTERVAL seq * %d SECOND)", 2*365*86400/deployments)
	ago := func(hours int) string { return fmt.Sprintf("DATE_SUB(%s, INTERVAL %d HOUR)", at, hours) }
	of := func(prefix string) string { return fmt.Sprintf("CONCAT('%s', seq MOD %d)", prefix, projects) }
	scope, project, deployment := of("github:GithubRepo:1:1340183"), of("project-"), "CONCAT('github:GithubDeployment:1:DE_kwDOA', 10000000 + seq)"
	pullRequest, incident := "CONCAT('github:GithubPullRequest:1:', 1500000000 + seq)", "CONCAT('jira:JiraIssue:1:', 100000 + seq)"
	all, some := fmt.Sprintf("seq_1_to_%d", deployments), fmt.Sprintf("seq_1_to_%d WHERE seq MOD 20 = 0", deployments)
	var b strings.Builder
	put := func(table, from, origin string, columns ...string) { // each column is a name and what it holds
		var names, values []string
		for _, c := range append(columns, "created_at UTC_TIMESTAMP()", "updated_at UTC_TIMESTAMP()", `_raw_data_params CONCAT('{"ConnectionId":1,"Name":"octo/', `+project+`, '"}')`, "_raw_data_table '"+origin+"'", "_raw_data_id seq") {
			name, value, _ := strings.Cut(c, " ")
			names, values = append(names, name), append(values, value)
		}
		fmt.Fprintf(&b, "INSERT INTO %s (%s) SELECT %s FROM %s;\n", table, strings.Join(names, ", "), strings.Join(values, ", "), from)
	}
	each := fmt.Sprintf("seq_0_to_%d", projects-1)
	put("projects", each, "", "name "+project)
	put("project_mapping", each, "", "project_name "+project, "`table` 'cicd_scopes'", "row_id "+scope)
	put("project_mapping", each, "", "project_name "+project, "`table` 'repos'", "row_id "+scope)
	done := []string{
		"id " + deployment, "cicd_scope_id " + scope, "name 'deploy'", "display_title 'A release of it'", "url CONCAT('https://ci.example.com/runs/', seq)", "result 'SUCCESS'", "status 'DONE'", "original_status 'ACTIVE'",
		"original_result 'ACTIVE'", "environment 'PRODUCTION'", "original_environment 'production'", "created_date " + at, "started_date " + at, "finished_date " + at, "duration_sec 300",
	}
	put("cicd_deployments", all, "_raw_github_graphql_deployment", done...)
	put("cicd_deployment_commits", all, "_raw_github_graphql_deployment", append(done, "cicd_deployment_id "+deployment, "commit_sha SHA1(seq)", "commit_msg 'Change what has to be changed'", "ref_name 'main'", "repo_id "+scope,
		"repo_url "+of("https://github.com/octo/project-"), fmt.Sprintf("prev_success_deployment_commit_id CONCAT('github:GithubDeployment:1:DE_kwDOA', %d + seq)", 10000000+projects))...)
	put("pull_requests", all, "_raw_github_graphql_prs", "id "+pullRequest, "base_repo_id "+scope, "head_repo_id "+scope, "status 'MERGED'", "original_status 'MERGED'", "title 'Change what has to be changed'",
		"description REPEAT('What was changed, and why. ', 12)", "url CONCAT('https://github.com/octo/project/pull/', seq)", "author_name 'developer'", "author_id 'github:GithubAccount:1:583231'", "pull_request_key seq",
		"created_date "+ago(30), "merged_date "+ago(3), "closed_date "+ago(3), "merge_commit_sha SHA1(seq)", "head_ref 'change'", "base_ref 'main'", "base_commit_sha SHA1(seq + 1)", "head_commit_sha SHA1(seq)", "additions 40", "deletions 12")
	put("project_pr_metrics", all, "pull_requests", "id "+pullRequest, "project_name "+project, "first_commit_sha SHA1(seq)", "pr_coding_time 600", "first_review_id CONCAT('github:GithubPrReview:1:', seq)", "pr_pickup_time 300",
		"pr_review_time 1320", "deployment_commit_id "+deployment, "pr_deploy_time 180", "pr_cycle_time 2000 + seq MOD 900", "first_commit_authored_date "+ago(40), "first_comment_date "+ago(25), "pr_created_date "+ago(30),
		"pr_merged_date "+ago(3), "pr_deployed_date "+at)
	put("incidents", some, "_raw_jira_api_issues", "id "+incident, "url 'https://jira.example.com/browse/OPS'", "incident_key CONCAT('OPS-', seq)", "title 'Checkout is down'", "description REPEAT('What was seen. ', 10)", "status 'DONE'",
		"original_status 'Done'", "created_date "+ago(-1), "resolution_date "+ago(-3), "updated_date "+ago(-3), "lead_time_minutes 120", "priority 'High'", "severity 'critical'", "`table` 'boards'", "scope_id 'jira:JiraBoard:1:8'")
	put("project_incident_deployment_relationships", some, "incidents", "id "+incident, "project_name "+project, "deployment_id "+deployment)
	return b.String() + "ANALYZE TABLE cicd_deployments, cicd_deployment_commits, pull_requests, project_pr_metrics, incidents, project_incident_deployment_relationships"
}

// measureLake takes the numbers of an existing DevLake database, on a MariaDB of its own: 100,000 deployments of 50 projects over two years, each with a pull request, every twentieth with an incident.
func measureLake(t *testing.T) {
	const deployments, projects = 100_000, 50
	seconds := float64(number("BENCH_SECONDS", 5))
	m := storetest.NewMariaDB(t)
	schema, err := os.ReadFile("../blueprint/dora/testdata/devlake/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.MultiStatements = "root", "unix", m.Socket(), true
	connector, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	begin := time.Now()
	if _, err := db.ExecContext(t.Context(), "CREATE DATABASE lake CHARACTER SET utf8mb4 COLLATE utf8mb4_bin; USE lake; "+string(schema)+lakeRows(deployments, projects)); err != nil {
		t.Fatal(err)
	}
	t.Logf("mysql: %d deployments of %d projects in %s", deployments, projects, time.Since(begin).Round(time.Second))
	t.Setenv(lakeVariable, "mysql://root@localhost/lake?socket="+m.Socket())
	p := start(t, "slipway", storetest.URL(t, store.SQLite), t.TempDir())
	for _, c := range []struct{ what, path, want string }{
		{"DevLake: 30 days of one project", "/api/devlake/dora-metrics?project=project-7", "≤ 200 ms"},
		{"DevLake: 30 days of all projects", "/api/devlake/dora-metrics", "≤ 200 ms"},
		{"DevLake: 30 days of all projects, with DevLake's definitions", "/api/devlake/dora-metrics?definitions=devlake", "≤ 200 ms"},
		{"DevLake: a year of all projects by week", "/api/devlake/dora-metrics?interval=week&startDate=" + daysAgo(364), "noted"},
		{"DevLake: history of one project", "/api/devlake/deployment-history?service=project-7", "noted"},
		{"DevLake: history of all projects", "/api/devlake/deployment-history", "noted"},
		{"DevLake: what is behind the failure rate of one project", "/api/devlake/dora-metrics/explain?metric=changeFailureRate&project=project-7", "noted"},
		{"DevLake: what is behind the failure rate of all projects", "/api/devlake/dora-metrics/explain?metric=changeFailureRate", "noted"},
		{"DevLake: what is behind the lead time of all projects", "/api/devlake/dora-metrics/explain?metric=leadTimeForChanges", "noted"},
	} {
		p.do(t, http.MethodGet, c.path, "")
		o, top, cpu := p.steady(t, c.path, seconds)
		doraNumbers.note(t, c.what+": 99th percentile at a quarter of the top rate", store.MySQL, fmt.Sprintf("%.1f ms (median %.1f ms, %.1f ms of CPU of ours, top %.0f a second)", o.P99, o.P50, cpu, top), c.want)
	}
}
