package dora_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// replicas starts two servers on one database; on SQLite, which has one server, it is that one twice.
func replicas(t *testing.T, engine store.Engine) [2]*blueprinttest.Client {
	t.Helper()
	o := options()
	o.Database, o.DataDir = storetest.URL(t, engine), t.TempDir()
	one := blueprinttest.Start(t, engine, o)
	if engine == store.SQLite {
		return [2]*blueprinttest.Client{one.Client, one.Client}
	}
	return [2]*blueprinttest.Client{one.Client, blueprinttest.Start(t, engine, o).Client}
}

// thing is something to report.
type thing struct {
	what string // deployments, changes or incidents
	body m
}

// march is what happens to a service in a month: a deployment every twelve hours, each with a change, every fifth with an incident; some say to which deployment they belong. Ids begin with the service's name.
func march(service string) (list []thing) {
	at := func(d time.Duration) string {
		return time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC).Add(d).Format(time.RFC3339)
	}
	for i := range 56 {
		end := time.Duration(12*i) * time.Hour
		id := func(kind string) string { return fmt.Sprint(service, " ", kind, i) }
		list = append(list,
			thing{"deployments", m{"id": id("d"), "service": service, "environment": "prod", "status": "SUCCESS", "version": id("v"), "startTime": at(end - 5*time.Minute), "endTime": at(end)}},
			thing{"changes", m{"id": id("c"), "service": service, "firstCommitAt": at(end - time.Duration(2+i)*time.Hour), "openedAt": at(end - 90*time.Minute), "mergedAt": at(end - time.Hour)}})
		if i%5 == 0 {
			list = append(list, thing{"incidents", m{"id": id("i"), "service": service, "startedAt": at(end + time.Hour), "resolvedAt": at(end + time.Duration(60+i)*time.Minute)}})
		}
		if i%7 == 3 { // it came earlier than it looks
			list[len(list)-1].body["deploymentId"] = fmt.Sprint(service, " d", i-2)
		}
	}
	return list
}

// send reports things, those of one kind together, and gives how many were new.
func send(c *blueprinttest.Client, things []thing) (created int, err error) {
	byKind := map[string][]m{}
	for _, th := range things {
		byKind[th.what] = append(byKind[th.what], th.body)
	}
	for what, list := range byKind {
		a := c.Post("/api/devlake/"+what, list)
		if a.Status != http.StatusOK {
			return created, fmt.Errorf("%s: status %d: %s", what, a.Status, a.Body)
		}
		var done dora.Accepted
		a.Into(&done)
		created += done.Created
	}
	return created, nil
}

// outcome is what history, metrics and explanations say of a service's month, without its name.
func outcome(c *blueprinttest.Client, service string) (lines []string) {
	lines = append(lines, say(ask(c, "project", service, "startDate", "2026-03-01", "endDate", "2026-03-29").Metrics))
	var h dora.History
	c.Get("/api/devlake/deployment-history?service=" + service).Is(200).Into(&h)
	lines = append(lines, fmt.Sprint(h.Total, " deployments"))
	for _, metric := range []string{"changeFailureRate", "leadTimeForChanges", "timeToRestoreService"} {
		for cursor := ""; ; {
			var e dora.Explanation
			c.Get("/api/devlake/dora-metrics/explain?limit=100&startDate=2026-03-01&endDate=2026-03-29&metric=" + metric + "&project=" + service + "&cursor=" + cursor).Is(200).Into(&e)
			for _, x := range e.Items {
				var id string
				switch {
				case x.Deployment != nil:
					id = x.Deployment.ID
				case x.Change != nil:
					id = x.Change.ID
				default:
					id = x.Incident.ID
				}
				lines = append(lines, fmt.Sprint(id, " of ", x.DeploymentID, " counts ", x.Counts, " ", x.Why))
			}
			if cursor = e.PageInfo.NextCursor; cursor == "" {
				break
			}
		}
	}
	slices.Sort(lines) // two of one moment have no order
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], service+" ", "")
	}
	return lines
}

// Two replicas are told of one service at the same instant: of the same things and of others, in any order. All is there once, and belongs where it would if one had been told after the other.
func TestReplicasAreToldOfOneServiceAtOnce(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			both := replicas(t, engine)
			for _, th := range march("alone") {
				if _, err := send(both[0], []thing{th}); err != nil {
					t.Fatal(err)
				}
			}
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			things := march("both")
			random.Shuffle(len(things), func(i, j int) { things[i], things[j] = things[j], things[i] })
			created := 0
			for len(things) > 0 {
				part := things[:min(1+random.IntN(12), len(things))]
				things = things[len(part):]
				var mu sync.Mutex
				var running sync.WaitGroup
				for _, told := range []struct {
					replica int
					things  []thing
				}{{0, part}, {1, part}, {0, part[:len(part)/2]}, {1, part[len(part)/2:]}} {
					running.Go(func() {
						n, err := send(both[told.replica], told.things)
						mu.Lock()
						defer mu.Unlock()
						if created += n; err != nil {
							t.Error(err)
						}
					})
				}
				running.Wait()
			}
			if want := len(march("both")); created != want {
				t.Errorf("%d were new, of %d", created, want)
			}
			want := outcome(both[0], "alone")
			for i, c := range both {
				if diff := cmp.Diff(want, outcome(c, "both")); diff != "" {
					t.Errorf("replica %d: told at once, not one after the other:\n%s", i, diff)
				}
			}
		})
	}
}

// Two replicas are told of the same deployments at the same instant, by one of them as another service's. Each is there once, with either, and no report is refused.
func TestReplicasAreToldOfDeploymentsOfTwoServicesAtOnce(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			both := replicas(t, engine)
			const rounds, each = 8, 60
			created := 0
			for r := range rounds {
				var mu sync.Mutex
				var running sync.WaitGroup
				for i, service := range []string{"left", "right"} {
					var list []thing
					for k := range each {
						list = append(list, thing{"deployments", deployment(fmt.Sprint("d", r, "-", k), service, fmt.Sprintf("2026-03-%02d 10:%02d", 1+r, k))})
					}
					running.Go(func() {
						n, err := send(both[i], list)
						mu.Lock()
						defer mu.Unlock()
						if created += n; err != nil {
							t.Error(err)
						}
					})
				}
				running.Wait()
			}
			if created != rounds*each {
				t.Errorf("%d were new, of %d", created, rounds*each)
			}
			for i, c := range both {
				var left, right, all dora.History
				c.Get("/api/devlake/deployment-history?service=left").Is(200).Into(&left)
				c.Get("/api/devlake/deployment-history?service=right").Is(200).Into(&right)
				c.Get("/api/devlake/deployment-history").Is(200).Into(&all)
				r := ask(c, "startDate", "2026-03-01", "endDate", "2026-03-30")
				if left.Total+right.Total != rounds*each || all.Total != rounds*each || r.Metrics.DeploymentFrequency.Count != rounds*each {
					t.Errorf("replica %d: %d and %d, in all %d, and %d count; want %d", i, left.Total, right.Total, all.Total, r.Metrics.DeploymentFrequency.Count, rounds*each)
				}
			}
		})
	}
}
