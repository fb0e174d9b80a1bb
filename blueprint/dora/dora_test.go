package dora_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

var start = time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)

func options() blueprinttest.Options {
	begun := time.Now()
	return blueprinttest.Options{
		Blueprints: []blueprint.Blueprint{catalog.Blueprint, dora.Blueprint},
		Now:        func() time.Time { return start.Add(time.Since(begun)) },
	}
}

// withCatalog starts a server whose catalog is one file.
func withCatalog(t *testing.T, engine store.Engine, text string) (*blueprinttest.Server, func(text string)) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "catalog-info.yaml")
	o := options()
	o.Configure = func(c *server.Config) { c.Fetch.FileRoots = []string{dir} }
	s := blueprinttest.Start(t, engine, o)
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	s.Post("/api/catalog/locations", m{"type": "file", "target": file}).Is(201)
	return s, func(text string) {
		write(text)
		s.Post("/api/catalog/refresh", m{"entityRef": "component:default/cart"}).Is(200)
	}
}

type m map[string]any

func deployment(id, service, when string, more ...any) m {
	at, err := time.Parse("2006-01-02 15:04", when)
	if err != nil {
		panic(err)
	}
	d := m{"id": id, "service": service, "environment": "production", "status": "SUCCESS", "startTime": at.Add(-5 * time.Minute).Format(time.RFC3339), "endTime": at.Format(time.RFC3339)}
	for i := 0; i+1 < len(more); i += 2 {
		if d[more[i].(string)] = more[i+1]; more[i+1] == nil {
			delete(d, more[i].(string))
		}
	}
	return d
}

func reported(s *blueprinttest.Client, what string, things ...m) dora.Accepted {
	var a dora.Accepted
	s.Post("/api/devlake/"+what, things).Is(200).Into(&a)
	return a
}

func ask(s *blueprinttest.Client, query ...string) dora.Report {
	q := url.Values{}
	for i := 0; i+1 < len(query); i += 2 {
		q.Set(query[i], query[i+1])
	}
	var r dora.Report
	s.Get("/api/devlake/dora-metrics?" + q.Encode()).Is(200).Into(&r)
	return r
}

// say is the metrics in a line: frequency, lead time, failures, time to restore, rework.
func say(ms dora.Metrics) string {
	var words []string
	for _, x := range []dora.Metric{ms.DeploymentFrequency, ms.LeadTimeForChanges, ms.ChangeFailureRate, ms.TimeToRestoreService, ms.ReworkRate} {
		w := x.Text
		if x.Performance != nil {
			w += " " + string(*x.Performance)
		}
		if x.Trend != nil {
			w += " " + string(*x.Trend)
		}
		words = append(words, w)
	}
	return strings.Join(words, "; ")
}

func TestTheExamplesOfFawkes(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, options(), func(t *testing.T, s *blueprinttest.Server) {
		var list []m
		for i := range 10 {
			list = append(list, deployment(fmt.Sprint("a", i), "service-a", fmt.Sprintf("2026-03-%02d 1%d:00", 2+i%7, i)))
		}
		reported(s.Client, "deployments", list...)
		r := ask(s.Client, "project", "service-a", "startDate", "2026-03-02", "endDate", "2026-03-08")
		if got := r.Metrics.DeploymentFrequency; got.Text != "1.43/day" || *got.Value != 10 || *got.Performance != dora.Elite {
			t.Errorf("10 deployments in 7 days: got %+v", got)
		}
		r = ask(s.Client, "project", "service-a", "startDate", "2026-02-02", "endDate", "2026-02-08")
		if got := r.Metrics.DeploymentFrequency; got.Text != "N/A" || got.Value != nil || got.Performance != nil || got.Reason == "" {
			t.Errorf("no deployments: got %+v", got)
		}

		reported(s.Client, "deployments", deployment("b1", "service-b", "2026-03-02 13:15", "commits", []m{
			{"sha": "aaaaaaa", "time": "2026-03-02T09:00:00Z", "author": "ann"}, {"sha": "bbbbbbb", "time": "2026-03-02T11:00:00Z", "author": "bob"}, {"sha": "ccccccc", "time": "2026-03-02T12:00:00Z", "author": "cy"},
		}))
		r = ask(s.Client, "project", "service-b", "startDate", "2026-03-02", "endDate", "2026-03-08")
		if got := r.Metrics.LeadTimeForChanges; got.Text != "4 h 15 min" || *got.Value != 4.25 {
			t.Errorf("from 09:00 to 13:15: got %+v", got)
		}

		list = nil
		for i := range 20 {
			list = append(list, deployment(fmt.Sprint("c", i), "service-c", fmt.Sprintf("2026-03-%02d 13:00", 2+i)))
		}
		reported(s.Client, "deployments", list...)
		reported(s.Client, "incidents",
			m{"id": "1", "service": "service-c", "startedAt": "2026-03-06T14:00:00Z", "resolvedAt": "2026-03-06T14:45:00Z"},
			m{"id": "2", "service": "service-c", "startedAt": "2026-03-12T14:00:00Z", "resolvedAt": "2026-03-12T14:45:00Z"})
		r = ask(s.Client, "project", "service-c", "startDate", "2026-03-01", "endDate", "2026-03-30")
		if got := r.Metrics; got.ChangeFailureRate.Text != "10 %" || *got.ChangeFailureRate.Performance != dora.High || got.TimeToRestoreService.Text != "45 min" {
			t.Errorf("2 of 20 failed: got %s", say(got))
		}
	})
}

func TestReportsMayComeLateTwiceAndInAnyOrder(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, options(), func(t *testing.T, s *blueprinttest.Server) {
		incident := m{"id": "1", "service": "web", "startedAt": "2026-03-05T10:30:00Z", "resolvedAt": "2026-03-05T11:00:00Z"}
		change := m{"id": "1", "service": "web", "firstCommitAt": "2026-03-03T10:00:00Z", "openedAt": "2026-03-03T11:00:00Z", "mergedAt": "2026-03-03T12:00:00Z"}
		reported(s.Client, "incidents", incident)
		reported(s.Client, "changes", change)
		march := []string{"project", "web", "startDate", "2026-03-01", "endDate", "2026-03-30"}
		if got := say(ask(s.Client, march...).Metrics); got != "N/A; N/A; N/A; N/A; N/A" {
			t.Errorf("an incident before any deployment: got %s", got)
		}
		// The newest first: change and incident belong to the nearest deployment that is known at each time.
		for _, c := range []struct {
			id, when, want string
		}{
			{"d3", "2026-03-10 10:00", "0.23/week medium; 7 d elite; 0 % elite; N/A; 0 %"},
			{"d2", "2026-03-05 10:00", "0.47/week medium; 2 d high; 50 % low; 30 min elite; 0 %"},
			{"d1", "2026-03-03 12:30", "0.7/week medium; 1 d 2 h 30 min high; 33.33 % low; 30 min elite; 0 %"},
		} {
			want := strings.ReplaceAll(strings.Replace(c.want, "; 7 d elite", "; 7 d medium", 1), "1 d 2 h 30 min high", "2 h 30 min elite")
			want = strings.ReplaceAll(want, "1 d 2 h 30 min", "2 h 30 min")
			if a := reported(s.Client, "deployments", deployment(c.id, "web", c.when)); a.Created != 1 {
				t.Errorf("got %+v", a)
			}
			if got := say(ask(s.Client, march...).Metrics); got != want {
				t.Errorf("after %s: got %s, want %s", c.id, got, want)
			}
		}
		before := ask(s.Client, march...)
		for range 2 {
			if a := reported(s.Client, "deployments", deployment("d2", "web", "2026-03-05 10:00"), deployment("d2", "web", "2026-03-05 10:00")); a.Unchanged != 2 {
				t.Errorf("a repeat: got %+v", a)
			}
			reported(s.Client, "incidents", incident)
			reported(s.Client, "changes", change)
		}
		// A state from before the end, which comes late, says nothing new.
		a := reported(s.Client, "deployments", deployment("d2", "web", "2026-03-05 10:00", "status", "IN_PROGRESS", "endTime", nil))
		if a.Unchanged != 1 {
			t.Errorf("a late state: got %+v", a)
		}
		if got := say(ask(s.Client, march...).Metrics); got != say(before.Metrics) {
			t.Errorf("after repeats: got %s, want %s", got, say(before.Metrics))
		}
		// A correction moves a deployment to another month, service and environment; nothing stays behind.
		reported(s.Client, "deployments", deployment("d2", "shop", "2026-02-05 10:00", "environment", "staging"))
		if got := say(ask(s.Client, march...).Metrics); !strings.HasPrefix(got, "0.47/week medium; 2 h 30 min elite; 50 % low; 30 min") {
			t.Errorf("after the correction: got %s", got)
		}
		var h dora.History
		s.Get("/api/devlake/deployment-history?service=web").Is(200).Into(&h)
		if h.Total != 2 || len(h.Deployments) != 2 {
			t.Errorf("got %+v", h)
		}
		s.Get("/api/devlake/deployment-history?service=shop&environment=stage").Is(200).Into(&h)
		if h.Total != 1 || h.Deployments[0].OriginalEnvironment != "staging" {
			t.Errorf("got %+v", h)
		}
	})
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, options(), func(t *testing.T, s *blueprinttest.Server) {
		reported(s.Client, "deployments", deployment("d1", "my-service", "2026-03-05 10:00"))
		for _, q := range []string{
			"startDate=2026-03-05&endDate=2026-03-01", "startDate=2026-05-05", "endDate=2026-05-05", "startDate=2026-03-05T10:00:00", "startDate=yesterday", "startDate=2015-01-01",
			"startDate=", "project=", "team=", "projct=web", "interval=year", "groupBy=team", "groupBy=service&limit=0", "groupBy=service&limit=101", "cursor=x", "groupBy=service&cursor=x", "benchmark=2020", "definitions=none",
			"interval=day&startDate=2021-04-01T00:00:00Z&endDate=2026-03-31T00:00:00Z&project=my-service&x=1",
		} {
			s.Get("/api/devlake/dora-metrics?"+q).Fails(400, slipway.Invalid)
		}
		for _, q := range []string{"limit=0", "limit=101", "service=", "cursor=x", "status=OK", "environments=prod"} {
			s.Get("/api/devlake/deployment-history?"+q).Fails(400, slipway.Invalid)
		}
		for _, q := range []string{"limit=0", "limit=101", "cursor=x", "startDate=2026-03-05&endDate=2026-03-01", "endDate=2036-01-01", "definitions=none", "benchmark=1999"} {
			s.Get("/api/devlake/dora-metrics/explain?metric=reworkRate&"+q).Fails(400, slipway.Invalid)
		}
		s.Get("/api/devlake/dora-metrics/explain").Fails(400, slipway.Invalid)
		for path, what := range map[string]string{"dora-metrics?project=my-servise": "my-service", "deployment-history?service=my-servise": "my-service", "dora-metrics?team=nobody": "nobody", "dora-metrics/explain?metric=reworkRate&project=none": "none"} {
			if f := s.Get("/api/devlake/"+path).Fails(404, slipway.NotFound); !strings.Contains(f.Error, what) {
				t.Errorf("%s: got %q, want it to name %s", path, f.Error, what)
			}
		}
		ok := deployment("d2", "my-service", "2026-03-05 10:00")
		with := func(k string, v any) m {
			d := m{}
			for key, value := range ok {
				d[key] = value
			}
			if d[k] = v; v == nil {
				delete(d, k)
			}
			return d
		}
		for name, body := range map[string]any{
			"no body": "", "no JSON": "{", "a text": `"x"`, "a number": "7", "nothing": "[]", "null": "null", "two": `{}{}`,
			"no id": with("id", nil), "an empty id": with("id", ""), "a long id": with("id", strings.Repeat("x", 301)), "a zero byte": with("id", "a\x00b"), "no service": with("service", nil),
			"no environment": with("environment", nil), "a status": with("status", "GREEN"), "no start": with("startTime", nil), "no end": with("endTime", nil), "it ends before it starts": with("endTime", "2026-03-05T09:00:00Z"),
			"a start without a zone": with("startTime", "2026-03-05T09:00:00"), "the future": with("endTime", "2027-03-05T09:00:00Z"), "the past": with("startTime", "1999-03-05T09:00:00Z"), "a field": with("servce", "x"),
			"a type": with("service", 7), "one of two": []m{ok, with("id", "")}, "running, but over": with("status", "IN_PROGRESS"), "no sha": with("commit", m{"message": "x"}),
		} {
			f := s.Post("/api/devlake/deployments", body)
			if f.Status != 400 {
				t.Errorf("%s: got %d %s", name, f.Status, f.Body)
			}
		}
		many := make([]m, 1001)
		for i := range many {
			many[i] = ok
		}
		s.Post("/api/devlake/deployments", many).Fails(400, slipway.Invalid)
		s.Post("/api/devlake/deployments", strings.Repeat(" ", 9<<20)).Fails(413, slipway.TooLarge)
		s.Post("/api/devlake/incidents", m{"id": "1", "service": "x", "startedAt": "2026-03-05T10:00:00Z", "resolvedAt": "2026-03-05T09:00:00Z"}).Fails(400, slipway.Invalid)
		s.Post("/api/devlake/changes", m{"id": "1", "service": "x"}).Fails(400, slipway.Invalid)
		var h dora.History
		s.Get("/api/devlake/deployment-history").Is(200).Into(&h)
		if h.Total != 1 {
			t.Errorf("got %d deployments, want that nothing of all this was stored", h.Total)
		}
		// A thousand with one id are one.
		if a := reported(s.Client, "deployments", many[:1000]...); a.Accepted != 1000 || a.Created+a.Updated+a.Unchanged != 1000 || a.Created != 1 {
			t.Errorf("got %+v", a)
		}
	})
}

const shop = `
apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: cart, labels: {app.fawkes.idp/team: checkout}}
spec: {type: service, lifecycle: production, owner: team-a, system: shop}
---
apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: pay, annotations: {devlake.apache.org/project-name: Payments}}
spec: {type: service, lifecycle: production, owner: team-b, system: shop}
---
apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: quiet}
spec: {type: service, lifecycle: production, owner: team-a}
---
apiVersion: backstage.io/v1alpha1
kind: System
metadata: {name: shop}
spec: {owner: department}
---
apiVersion: backstage.io/v1alpha1
kind: Group
metadata: {name: department}
spec: {type: department, children: [team-a]}
---
apiVersion: backstage.io/v1alpha1
kind: Group
metadata: {name: team-a}
spec: {type: team, parent: department, children: []}
---
apiVersion: backstage.io/v1alpha1
kind: Group
metadata: {name: team-b}
spec: {type: team, children: []}
`

func TestProjectsTeamsAndRights(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			s, rewrite := withCatalog(t, engine, shop)
			reported(s.Client, "deployments",
				deployment("1", "cart", "2026-03-20 10:00"), deployment("2", "Cart", "2026-03-21 10:00"),
				deployment("3", "pay-api", "2026-03-20 11:00", "project", "payments"), deployment("4", "pay-web", "2026-03-20 12:00", "project", "payments"),
				deployment("5", "legacy", "2026-03-20 13:00"))
			count := func(c *blueprinttest.Client, query ...string) string {
				r := ask(c, query...)
				return fmt.Sprint(r.Services, " ", r.Metrics.DeploymentFrequency.Count)
			}
			all := s.Client
			for _, c := range []struct {
				query []string
				want  string
			}{
				{nil, "4 5"}, {[]string{"project", "cart"}, "1 2"}, {[]string{"project", "component:default/cart"}, "1 2"}, {[]string{"project", "CART"}, "1 2"},
				{[]string{"project", "pay"}, "2 2"}, {[]string{"project", "payments"}, "2 2"}, {[]string{"project", "pay-web"}, "1 1"}, {[]string{"project", "system:default/shop"}, "3 4"}, {[]string{"project", "shop"}, "3 4"},
				{[]string{"team", "team-a"}, "1 2"}, {[]string{"team", "group:default/team-b"}, "2 2"}, {[]string{"team", "department"}, "1 2"}, {[]string{"team", "checkout"}, "1 2"},
				{[]string{"project", "shop", "team", "team-b"}, "2 2"}, {[]string{"project", "pay", "team", "team-a"}, "0 0"}, {[]string{"project", "quiet"}, "0 0"},
			} {
				if got := count(all, c.query...); got != c.want {
					t.Errorf("%v: got %s services and deployments, want %s", c.query, got, c.want)
				}
			}
			// What one may not read is not there: not in numbers, not in lists, not in the names of an error.
			own := s.With("catalog.entity.read:component:default/cart", "dora.metrics.read", "dora.history.read", "dora.event.report:component:default/cart")
			if got := count(own); got != "1 2" {
				t.Errorf("one component: got %s", got)
			}
			if f := own.Get("/api/devlake/dora-metrics?project=pay-we").Fails(404, slipway.NotFound); strings.Contains(f.Error, "pay-web") {
				t.Errorf("got %q, which tells of what the caller may not see", f.Error)
			}
			own.Get("/api/devlake/dora-metrics?project=pay-web").Fails(404, slipway.NotFound)
			var h dora.History
			own.Get("/api/devlake/deployment-history").Is(200).Into(&h)
			if h.Total != 2 || len(h.Deployments) != 2 {
				t.Errorf("one component: got %+v", h)
			}
			own.Post("/api/devlake/deployments", deployment("6", "cart", "2026-03-22 10:00")).Is(200)
			own.Post("/api/devlake/deployments", []m{deployment("7", "cart", "2026-03-22 11:00"), deployment("8", "pay-web", "2026-03-22 10:00")}).Fails(403, slipway.Forbidden)
			s.With("dora.metrics.read").Get("/api/devlake/deployment-history").Fails(403, slipway.Forbidden)
			s.With("catalog.entity.read", "dora.metrics.read:component:default/pay").Get("/api/devlake/dora-metrics?project=cart").Is(200)

			// A service follows the catalog.
			rewrite(strings.Replace(shop, "metadata: {name: quiet}", "metadata: {name: quiet, annotations: {devlake.apache.org/project-name: legacy}}", 1))
			blueprinttest.Eventually(t, "the service belongs to the entity that names it now", func() bool { return count(all, "team", "team-a") == "2 4" })
			rewrite(strings.Replace(shop, "metadata: {name: cart,", "metadata: {name: basket,", 1))
		})
	}
}

func TestPagesSeriesGroupsAndExplanations(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, options(), func(t *testing.T, s *blueprinttest.Server) {
		var list []m
		for i := range 45 {
			env := []string{"production", "staging", "qa"}[i%3]
			list = append(list, deployment(fmt.Sprint("d", i), fmt.Sprint("service-", i%5), fmt.Sprintf("2026-03-%02d %02d:00", 1+i%28, i%24), "environment", env, "version", fmt.Sprint("v", i)))
		}
		reported(s.Client, "deployments", list...)
		reported(s.Client, "incidents", m{"id": "i1", "service": "service-0", "startedAt": "2026-03-20T00:00:00Z", "resolvedAt": "2026-03-20T02:00:00Z"}, m{"id": "i2", "service": "service-1", "startedAt": "2026-03-28T00:00:00Z"})
		reported(s.Client, "changes", m{"id": "c1", "service": "service-0", "openedAt": "2026-03-02T00:00:00Z", "mergedAt": "2026-03-03T00:00:00Z"})

		seen := map[string]bool{}
		cursor, pages := "", 0
		for {
			var h dora.History
			s.Get("/api/devlake/deployment-history?limit=7&cursor=" + url.QueryEscape(cursor)).Is(200).Into(&h)
			last := start.Add(time.Hour)
			for _, d := range h.Deployments {
				if seen[d.ID] || d.StartTime.After(last) {
					t.Errorf("%s comes twice, or out of order", d.ID)
				}
				seen[d.ID], last = true, d.StartTime
			}
			if pages++; h.Total != 45 || pages > 10 {
				t.Fatalf("got a total of %d on page %d", h.Total, pages)
			}
			if cursor = h.PageInfo.NextCursor; !h.PageInfo.HasMore {
				break
			}
		}
		if len(seen) != 45 || pages != 7 {
			t.Errorf("got %d deployments on %d pages, want 45 on 7", len(seen), pages)
		}

		r := ask(s.Client, "startDate", "2026-03-01", "endDate", "2026-03-30", "interval", "week", "groupBy", "service", "limit", "3")
		if len(r.Series) != 6 || r.Series[1].Start != time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC) || r.Series[5].End != time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC) {
			t.Errorf("got the series %+v", r.Series)
		}
		n := 0
		for _, p := range r.Series {
			n += p.DeploymentFrequency.Count
		}
		if n != r.Metrics.DeploymentFrequency.Count || n != 15 {
			t.Errorf("the series has %d deployments, all in all are %d", n, r.Metrics.DeploymentFrequency.Count)
		}
		if len(r.Groups) != 3 || r.Groups[0].Name != "service-0" || !r.PageInfo.HasMore {
			t.Errorf("got the groups %+v, %+v", r.Groups, r.PageInfo)
		}
		r = ask(s.Client, "startDate", "2026-03-01", "endDate", "2026-03-30", "groupBy", "service", "limit", "3", "cursor", r.PageInfo.NextCursor)
		if len(r.Groups) != 2 || r.Groups[0].Name != "service-3" || r.PageInfo.HasMore {
			t.Errorf("got the groups %+v, %+v", r.Groups, r.PageInfo)
		}
		r = ask(s.Client, "startDate", "2026-03-01", "endDate", "2026-03-30", "groupBy", "environment")
		if len(r.Groups) != 3 || r.Groups[0].Name != "dev" || r.Groups[1].Metrics.DeploymentFrequency.Count != 15 {
			t.Errorf("got the groups %+v", r.Groups)
		}

		explain := func(metric string) (e dora.Explanation) {
			s.Get("/api/devlake/dora-metrics/explain?limit=100&startDate=2026-03-01&endDate=2026-03-30&metric=" + metric).Is(200).Into(&e)
			return e
		}
		counts := func(e dora.Explanation) (n int) {
			for _, x := range e.Items {
				if x.Counts {
					n++
				}
			}
			return n
		}
		all := ask(s.Client, "startDate", "2026-03-01", "endDate", "2026-03-30").Metrics
		if e := explain("deploymentFrequency"); counts(e) != all.DeploymentFrequency.Count || e.Of != "deployments" {
			t.Errorf("frequency: got %d of %d", counts(e), all.DeploymentFrequency.Count)
		}
		if e := explain("changeFailureRate"); counts(e) != all.ChangeFailureRate.Count || counts(e) != 2 {
			t.Errorf("failures: got %d, want %d", counts(e), all.ChangeFailureRate.Count)
		}
		if e := explain("timeToRestoreService"); counts(e) != 1 || len(e.Items) != 1 || *e.Items[0].Seconds != 7200 || e.Items[0].DeploymentID == "" || e.Items[0].Why == "" {
			t.Errorf("restore: got %+v", e)
		}
		if e := explain("leadTimeForChanges"); len(e.Items) != 1 || float64(*e.Items[0].Seconds)/3600 != *all.LeadTimeForChanges.Value {
			t.Errorf("lead time: got %+v, want %v", e, *all.LeadTimeForChanges.Value)
		}
	})
}

// body reads a webhook's body as its sender sends it.
func body(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "hooks", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestWebhooksOfDevLakeAndFawkesAreTakenUnchanged(t *testing.T) {
	t.Parallel()
	o := options()
	o.Configure = func(c *server.Config) {
		section := c.Sections["dora"].(*dora.Config)
		section.PushSecret = secret.NewText("it is a secret")
		section.Builds = []dora.BuildRule{{Pipeline: "^deploy"}}
		section.Connections = []dora.Connection{{ID: "7", Service: "web"}}
	}
	blueprinttest.Each(t, o, func(t *testing.T, s *blueprinttest.Server) {
		sign := func(text string) string {
			mac := hmac.New(sha256.New, []byte("it is a secret"))
			mac.Write([]byte(text))
			return "sha256=" + hex.EncodeToString(mac.Sum(nil))
		}
		nobody := s.As("")
		robot := s.With("dora.event.report")
		day := []string{"startDate", "2026-03-02", "endDate", "2026-03-02"}

		// GitHub, Argo CD, Jenkins and the incidents of Fawkes: a commit at 09:00, deployed at 13:15, down from 14:00 to 14:45.
		push := body(t, "github-push.commits")
		nobody.Post("/api/plugins/webhook/1/commits", push, "X-GitHub-Event", "push", "X-Hub-Signature-256", sign(push)).Is(200)
		nobody.Post("/api/plugins/webhook/1/commits", push, "X-GitHub-Event", "push", "X-Hub-Signature-256", sign(push+" ")).Fails(401, slipway.Unauthenticated)
		nobody.Post("/api/plugins/webhook/1/commits", push, "X-GitHub-Event", "push").Fails(401, slipway.Unauthenticated)
		argo := body(t, "fawkes-argocd-success.deployments")
		nobody.Post("/api/plugins/webhook/1/deployments", argo, "X-Webhook-Source", "argocd").Fails(401, slipway.Unauthenticated)
		nobody.Post("/api/plugins/webhook/"+robot.Token+"/deployments", argo, "X-Webhook-Source", "argocd").Is(200)
		robot.Post("/api/plugins/webhook/1/deployments", body(t, "fawkes-argocd-failure.deployments")).Is(200)
		robot.Post("/api/plugins/webhook/1/deployments", body(t, "fawkes-argocd-health.deployments")).Is(200)
		robot.Post("/api/plugins/webhook/1/incidents", body(t, "fawkes-incident.incidents")).Is(200)
		robot.Post("/api/plugins/webhook/1/cicd", body(t, "fawkes-build.cicd")).Is(200)
		robot.Post("/api/plugins/webhook/1/cicd", body(t, "fawkes-tests.cicd")).Is(200)
		if got, want := say(ask(s.Client, append(day, "project", "my-service")...).Metrics), "2/day elite; 4 h 15 min elite; 50 % low; 45 min elite; 0 %"; got != want {
			t.Errorf("Fawkes: got %s, want %s", got, want)
		}
		var h dora.History
		s.Get("/api/devlake/deployment-history?service=my-service").Is(200).Into(&h)
		if h.Total != 3 || h.Deployments[1].Commit.SHA[:7] != *h.Deployments[1].Version || h.Deployments[2].Status != "FAILURE" || h.Deployments[2].Environment != "staging" {
			t.Errorf("got %+v", h.Deployments)
		}
		if log := (&secret.Redactor{}).Redact(s.Log.String()); strings.Contains(log, robot.Token) || !strings.Contains(log, "/webhook/"+secret.Redacted) {
			t.Error("the token in the path is in the log")
		}

		// DevLake's own, on each of its paths.
		for _, path := range []string{"/api/plugins/webhook/7", "/api/plugins/webhook/connections/7", "/api/rest/plugins/webhook/connections/7", "/api/plugins/webhook/connections/by-name/web", "/api/rest/plugins/webhook/projects/web"} {
			a := robot.Post(path+"/deployments", body(t, "devlake-deployment.deployments")).Is(200)
			if string(a.Body) != `{"success":true,"message":"success"}`+"\n" && string(a.Body) != `{"success":true,"message":"success"}` {
				t.Errorf("got %s", a.Body)
			}
		}
		robot.Post("/api/rest/plugins/webhook/7/deployments", body(t, "devlake-deployment-bad.deployments")).Fails(400, slipway.Invalid)
		robot.Post("/api/rest/plugins/webhook/7/pull_requests", body(t, "devlake-pull-request.pull_requests")).Is(200)
		robot.Post("/api/rest/plugins/webhook/7/issues", body(t, "devlake-incident.issues")).Is(200)
		robot.Post("/api/rest/plugins/webhook/7/issues", body(t, "devlake-requirement.issues")).Is(200)
		r := ask(s.Client, append(day, "project", "web")...)
		if got, want := say(r.Metrics), "2/day elite; 3 h 5 min elite; 50 % low; N/A; 0 %"; got != want {
			t.Errorf("DevLake: got %s, want %s", got, want)
		}
		robot.Post("/api/rest/plugins/webhook/connections/7/issue/DLK-7/close", nil).Is(200)
		robot.Post("/api/rest/plugins/webhook/connections/7/issue/none/close", nil).Fails(404, slipway.NotFound)
		if m := ask(s.Client, "project", "web").Metrics.TimeToRestoreService; m.Value == nil || m.Count != 1 {
			t.Errorf("after it was closed: got %+v", m)
		}
		s.With("dora.metrics.read").Post("/api/plugins/webhook/1/deployments", argo).Fails(403, slipway.Forbidden)
		s.With("dora.event.report:component:default/web").Post("/api/plugins/webhook/1/deployments", argo).Fails(403, slipway.Forbidden)
		robot.Post("/api/plugins/webhook/a/b/c/deployments", argo).Is(404)
	})
}
