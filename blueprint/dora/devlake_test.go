package dora_test

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// What DevLake's own dashboards (grafana/dashboards/DORA.json of apache/incubator-devlake at 420e494, their SQL run on this database, with a range from the first day at 00:00:00 to the last
// at 23:59:59) show for the made database in testdata/devlake: frequency, lead time in hours, failure rate in percent, recovery time in hours.
var dashboards = []struct{ project, from, benchmark, want string }{
	{"Shop", "2026-03-01", "2023", "3 medium; 15 elite; 100 low; 5 high"},
	{"Shop", "2026-03-01", "2021", "3 high; 15 high; 100 low; 3 high"},
	{"Shop", "2025-04-01", "2023", "0 low; 15 elite; 100 low; 5 high"},
	{"Shop", "2025-04-01", "2021", "3 medium; 15 high; 100 low; 3 high"},
	{"Both", "2026-03-01", "2023", "1 medium; 100 high; 100 low; 458 low"},
	{"Both", "2026-03-01", "2021", "1 high; 100 high; 100 low; 24 medium"},
	{"Both", "2025-04-01", "2023", "0 low; 100 high; 100 low; 458 low"},
	{"Both", "2025-04-01", "2021", "1 medium; 100 high; 100 low; 24 medium"},
	{"Other", "2026-03-01", "2023", "3 high; N/A; 0 elite; N/A"},
	{"Other", "2026-03-01", "2021", "25 high; N/A; 0 elite; N/A"},
	{"Other", "2025-04-01", "2023", "0 low; N/A; 0 elite; N/A"},
	{"Other", "2025-04-01", "2021", "33 medium; N/A; 0 elite; N/A"},
	{"Seldom", "2026-03-01", "2023", "N/A; N/A; N/A; N/A"},
	{"Seldom", "2026-03-01", "2021", "N/A; N/A; N/A; N/A"},
	{"Seldom", "2025-04-01", "2023", "0 low; N/A; 20 low; 1512 low"},
	{"Seldom", "2025-04-01", "2021", "3 medium; N/A; 20 high; 1488 low"},
}

func TestAnExistingDevLakeDatabaseAnswers(t *testing.T) {
	t.Parallel()
	m := storetest.NewMariaDB(t)
	shop, err := os.ReadFile("testdata/devlake/shop.sql")
	if err != nil {
		t.Fatal(err)
	}
	address := lakeOf(t, m, "lake", string(shop))
	serve := func(address string) *blueprinttest.Server {
		o := options()
		o.Configure = func(c *server.Config) {
			c.Databases["lake"] = address
			c.Sections["dora"].(*dora.Config).Database = "lake"
		}
		return blueprinttest.Start(t, store.SQLite, o)
	}
	s := serve(address)
	for _, c := range dashboards {
		r := ask(s.Client, "project", c.project, "startDate", c.from, "endDate", "2026-03-30", "benchmark", c.benchmark, "definitions", "devlake")
		var words []string
		for _, x := range []dora.Metric{r.Metrics.DeploymentFrequency, r.Metrics.LeadTimeForChanges, r.Metrics.ChangeFailureRate, r.Metrics.TimeToRestoreService} {
			if x.Value == nil {
				words = append(words, "N/A")
				continue
			}
			words = append(words, fmt.Sprint(*x.Value, " ", *x.Performance))
		}
		if got := strings.Join(words, "; "); got != c.want {
			t.Errorf("%s from %s by %s: got %s, DevLake shows %s", c.project, c.from, c.benchmark, got, c.want)
		}
	}
	// By our own definitions the same database gives other numbers; i3 began 18 days after its deployment.
	if got := say(ask(s.Client, "project", "shop", "startDate", "2026-03-01", "endDate", "2026-03-30").Metrics); got != "0.7/week medium; 1 d 1 h high; 66.67 % low; 1 h 53 min high; 0 %" {
		t.Errorf("our definitions: got %s", got)
	}
	r := ask(s.Client, "startDate", "2026-03-01", "endDate", "2026-03-30", "groupBy", "service", "interval", "week")
	if r.Services != 4 || len(r.Groups) != 4 || r.Metrics.DeploymentFrequency.Count != 3+r.Groups[1].Metrics.DeploymentFrequency.Count || r.Groups[0].Metrics.DeploymentFrequency.Count != 1 || len(r.Series) != 6 {
		t.Errorf("all projects: what belongs to two counts once; got %d services, %d deployments, %+v", r.Services, r.Metrics.DeploymentFrequency.Count, r.Groups)
	}

	// What is behind each number makes it.
	for _, project := range []string{"Shop", "Both", "Other", "Seldom"} {
		for _, more := range []string{"&definitions=devlake", "&definitions=devlake&benchmark=2021", "", "&benchmark=2021", "&environment=staging"} {
			agree(t, s.Client, "startDate=2025-04-01&endDate=2026-03-30&project="+project+more)
		}
	}
	agree(t, s.Client, "startDate=2026-03-01&endDate=2026-03-30")
	var e dora.Explanation
	s.Get("/api/devlake/dora-metrics/explain?metric=timeToRestoreService&definitions=devlake&project=Shop&startDate=2026-03-01&endDate=2026-03-30").Is(200).Into(&e)
	if len(e.Items) != 3 || e.Items[0].Incident.ID != "i3" || e.Items[0].DeploymentID != "d4" || *e.Items[2].Seconds != 6300 || e.Items[2].Incident.Title != "Down" {
		t.Errorf("got %+v", e)
	}
	s.Get("/api/devlake/dora-metrics/explain?metric=leadTimeForChanges&definitions=devlake&project=Shop&startDate=2026-03-01&endDate=2026-03-30").Is(200).Into(&e)
	if len(e.Items) != 3 || e.Items[2].Change.ID != "p1" || *e.Items[2].Seconds != 1501*60 || e.Items[1].Counts || e.Items[1].Why == "" {
		t.Errorf("got %+v", e)
	}
	s.Get("/api/devlake/dora-metrics/explain?metric=changeFailureRate&project=Shop&startDate=2026-03-01&endDate=2026-03-30").Is(200).Into(&e)
	if len(e.Items) != 4 || e.Items[0].Deployment.ID != "d4" || e.Items[0].Counts || e.Items[3].Deployment.Commit.SHA != "cccccccc" || !e.Items[3].Counts {
		t.Errorf("got %+v", e)
	}

	var h dora.History
	s.Get("/api/devlake/deployment-history?service=Shop&limit=4").Is(200).Into(&h)
	ids := func() (list []string) {
		for _, d := range h.Deployments {
			list = append(list, fmt.Sprint(d.ID, " ", d.Environment, " ", d.Status))
		}
		return list
	}
	if got := strings.Join(ids(), ", "); h.Total != 6 || got != "d6 prod IN_PROGRESS, d5 staging SUCCESS, d4 prod SUCCESS, d3 prod FAILURE" {
		t.Errorf("got %d: %s", h.Total, got)
	}
	s.Get("/api/devlake/deployment-history?service=Shop&limit=4&cursor=" + h.PageInfo.NextCursor).Is(200).Into(&h)
	first, _ := json.Marshal(h.Deployments[1])
	want := `{"id":"d1","version":"v1.0.1","environment":"prod","status":"SUCCESS","startTime":"2026-03-02T09:55:00Z","endTime":"2026-03-02T10:00:00Z","duration":300,"triggeredBy":null,"commit":{"sha":"cccccccc","message":"Finish","author":"","repository":"r1b"},`
	if len(h.Deployments) != 2 || h.PageInfo.HasMore || !strings.HasPrefix(string(first), want) || h.Deployments[1].Commits[0].Author != "ann@example.com" || h.Deployments[1].OriginalEnvironment != "eu" {
		t.Errorf("got %s", first)
	}
	s.Get("/api/devlake/deployment-history?environment=prod&status=FAILURE").Is(200).Into(&h)
	if h.Total != 1 || h.Deployments[0].ID != "d3" {
		t.Errorf("got %+v", h)
	}
	// Pages of one give all of them once, also two that began within a second.
	var paged []string
	for cursor := ""; ; cursor = h.PageInfo.NextCursor {
		s.Get("/api/devlake/deployment-history?limit=1&cursor=" + cursor).Is(200).Into(&h)
		if paged = append(paged, ids()...); !h.PageInfo.HasMore {
			break
		}
	}
	if got, want := strings.Join(paged, ", "), "d6 prod IN_PROGRESS, d8 staging SUCCESS, d7 staging SUCCESS, d5 staging SUCCESS, d4 prod SUCCESS, d3 prod FAILURE, d2 prod SUCCESS, d1 prod SUCCESS"; got != want || h.Total != 8 {
		t.Errorf("got %d: %s; want %s", h.Total, got, want)
	}
	s.Get("/api/devlake/dora-metrics?project=Shopp").Fails(404, slipway.NotFound)
	s.Post("/api/devlake/deployments", deployment("x", "Shop", "2026-03-05 10:00")).Fails(501, slipway.Unsupported)
	s.With("catalog.entity.read", "dora.metrics.read:component:default/none").Get("/api/devlake/dora-metrics?project=Shop").Fails(404, slipway.NotFound)

	// A database that is older, or gone, says so, and comes back.
	older := lakeOf(t, m, "older", "RENAME TABLE incidents TO issues", "ALTER TABLE project_pr_metrics DROP COLUMN first_commit_authored_date")
	if f := serve(older).Get("/api/devlake/dora-metrics").Fails(501, slipway.Unsupported); !strings.Contains(f.Error, "incidents") || !strings.Contains(f.Error, "project_pr_metrics.first_commit_authored_date") {
		t.Errorf("got %q", f.Error)
	}
	// One that does not answer in time is told from one that is not there by nobody: the caller is asked to come back, and others are not held up.
	slow := lakeOf(t, m, "slow", "INSERT INTO projects (name) VALUES ('Shop'); INSERT INTO project_mapping (project_name, `table`, row_id) VALUES ('Shop', 'cicd_scopes', 's1')")
	late := serve(slow + "&timeout=500ms")
	late.Get("/api/devlake/dora-metrics?project=Shop").Is(200)
	release := lock(t, m, "slow", "cicd_deployment_commits")
	if a := late.Get("/api/devlake/dora-metrics?project=Shop"); a.Fails(503, slipway.Unavailable).Error == "" || a.Header.Get("Retry-After") == "" {
		t.Errorf("a slow database: got %s", a.Body)
	}
	release()
	blueprinttest.Eventually(t, "it answers in time again", func() bool { return late.Get("/api/devlake/dora-metrics?project=Shop").Status == 200 })
	m.Stop(t)
	a := s.Get("/api/devlake/dora-metrics?project=Shop")
	if a.Fails(503, slipway.Unavailable); a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	m.Start(t)
	blueprinttest.Eventually(t, "it answers again", func() bool { return s.Get("/api/devlake/dora-metrics?project=Shop").Status == 200 })
}

var databases sync.Mutex

// lakeOf makes a database of DevLake's tables, filled by statements, and gives its address.
func lakeOf(t testing.TB, m *storetest.MariaDB, name string, statements ...string) string {
	t.Helper()
	databases.Lock()
	defer databases.Unlock()
	schema, err := os.ReadFile("testdata/devlake/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.MultiStatements = "root", "unix", m.Socket(), true
	for _, s := range append([]string{"CREATE DATABASE " + name + " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", string(schema)}, statements...) {
		connector, err := mysql.NewConnector(c)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(connector)
		_, err = db.Exec(s)
		_ = db.Close()
		if err != nil {
			t.Fatalf("%v: %.300s", err, s)
		}
		c.DBName = name
	}
	return "mysql://root@localhost/" + name + "?socket=" + m.Socket()
}

// lock keeps readers of a table waiting until it is released.
func lock(t testing.TB, m *storetest.MariaDB, database, table string) (release func()) {
	t.Helper()
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.DBName = "root", "unix", m.Socket(), database
	connector, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	conn, err := db.Conn(t.Context())
	if err == nil {
		_, err = conn.ExecContext(t.Context(), "LOCK TABLES "+table+" WRITE")
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { _, _ = conn.Close(), db.Close() }
}
