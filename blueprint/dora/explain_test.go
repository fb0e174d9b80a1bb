package dora_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// year is what happened to three services in half a year, made up: deployments by kind of report.
func year(random *rand.Rand) map[string][]m {
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	at := func() time.Time {
		return time.Date(2025, 10, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(random.IntN(175*24*60)) * time.Minute)
	}
	text := func(t time.Time) string { return t.Format(time.RFC3339) }
	list := map[string][]m{}
	for i := range 150 {
		end := at()
		d := m{
			"id": fmt.Sprint("d", i), "service": pick("cart", "pay", "web"), "environment": pick("prod", "prod", "staging", "qa"), "status": pick("SUCCESS", "SUCCESS", "SUCCESS", "FAILURE", "CANCELLED"),
			"startTime": text(end.Add(-5 * time.Minute)), "endTime": text(end), "version": pick("v1", "v2", "v3", "v4", "v5"), "rework": random.IntN(10) == 0, "rollback": random.IntN(15) == 0,
		}
		if random.IntN(2) == 0 {
			d["commit"] = m{"sha": fmt.Sprint("c", i), "time": text(end.Add(-time.Duration(random.IntN(5000)) * time.Minute))}
		}
		list["deployments"] = append(list["deployments"], d)
	}
	for i := range 60 {
		opened, told := at(), ""
		if random.IntN(4) == 0 {
			told = fmt.Sprint("d", random.IntN(160)) // some of another service, some of nobody's
		}
		list["changes"] = append(list["changes"], m{"id": fmt.Sprint("c", i), "service": pick("cart", "pay", "web"), "openedAt": text(opened), "mergedAt": text(opened.Add(time.Duration(random.IntN(3000)) * time.Minute)), "deploymentId": told})
		started := at()
		in := m{"id": fmt.Sprint("i", i), "service": pick("cart", "pay", "web"), "startedAt": text(started)}
		if random.IntN(5) > 0 {
			in["resolvedAt"] = text(started.Add(time.Duration(random.IntN(4000)) * time.Minute))
		}
		if random.IntN(4) == 0 {
			in["deploymentId"] = fmt.Sprint("d", random.IntN(160))
		}
		list["incidents"] = append(list["incidents"], in)
	}
	return list
}

// explained pages through what is behind a metric, and gives how many count and the middle of their shares.
func explained(t *testing.T, s *blueprinttest.Client, metric, query string) (n int, middle func(lower bool) float64) {
	t.Helper()
	var seconds []int64
	seen := map[string]bool{}
	for cursor, more := "", true; more; {
		var e dora.Explanation
		s.Get("/api/devlake/dora-metrics/explain?limit=7&metric=" + metric + "&" + query + "&cursor=" + url.QueryEscape(cursor)).Is(200).Into(&e)
		for _, x := range e.Items {
			raw, _ := json.Marshal([]any{x.Deployment, x.Change, x.Incident})
			if seen[string(raw)] {
				t.Errorf("%s?%s: %s comes twice", metric, query, raw)
			}
			seen[string(raw)] = true
			if x.Counts {
				n++
				if x.Seconds != nil {
					seconds = append(seconds, *x.Seconds)
				}
			}
		}
		cursor, more = e.PageInfo.NextCursor, e.PageInfo.HasMore
	}
	slices.Sort(seconds)
	return n, func(lower bool) float64 {
		k := len(seconds)
		if lower {
			return float64(seconds[(k-1)/2])
		}
		return float64(seconds[(k-1)/2]+seconds[k/2]) / 2
	}
}

// agree checks that what explain lists is what the metrics are made of.
func agree(t *testing.T, s *blueprinttest.Client, query string) {
	t.Helper()
	var r dora.Report
	s.Get("/api/devlake/dora-metrics?" + query).Is(200).Into(&r)
	for name, x := range map[string]dora.Metric{
		"deploymentFrequency": r.Metrics.DeploymentFrequency, "leadTimeForChanges": r.Metrics.LeadTimeForChanges, "changeFailureRate": r.Metrics.ChangeFailureRate,
		"timeToRestoreService": r.Metrics.TimeToRestoreService, "reworkRate": r.Metrics.ReworkRate,
	} {
		n, middle := explained(t, s, name, query)
		if n != x.Count {
			t.Errorf("%s?%s: %d count, the number is made of %d", name, query, n, x.Count)
		} else if x.Unit == "hours" && n > 0 && math.Abs(middle(r.Definitions == "devlake")/3600-*x.Value) > 0.051 {
			t.Errorf("%s?%s: the middle is %v hours, the number %v", name, query, middle(r.Definitions == "devlake")/3600, *x.Value)
		}
	}
}

func TestWhatIsBehindANumberMakesTheNumberInWhateverOrderItWasReported(t *testing.T) {
	t.Parallel()
	for _, failures := range []bool{false, true} {
		o := options()
		o.Configure = func(c *server.Config) { c.Sections["dora"].(*dora.Config).CountFailed = failures }
		t.Run(fmt.Sprint("failures ", failures), func(t *testing.T) {
			t.Parallel()
			for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
				t.Run(string(engine), func(t *testing.T) {
					t.Parallel()
					s := blueprinttest.Start(t, engine, o)
					seed, _ := strconv.ParseUint(os.Getenv("DORA_SEED"), 10, 64) // none is 0
					random := rand.New(rand.NewPCG(seed, 1))
					happened := year(random)
					for _, kind := range []string{"deployments", "changes", "incidents"} {
						reported(s.Client, kind, happened[kind]...)
					}
					questions := []string{"startDate=2025-12-10&endDate=2026-02-20", "startDate=2025-10-01&endDate=2026-03-30&project=cart", "startDate=2026-01-05&endDate=2026-02-03&environment=staging"}
					for _, q := range questions {
						for _, definitions := range []string{"slipway", "devlake"} {
							for _, benchmark := range []string{"2023", "2021"} {
								agree(t, s.Client, q+"&definitions="+definitions+"&benchmark="+benchmark)
							}
						}
					}
					// The same to another server: one by one or some at a time, in any order, some twice, some before they had ended.
					other := blueprinttest.Start(t, engine, o)
					type report struct {
						kind string
						what m
					}
					var all []report
					for kind, list := range happened {
						for _, x := range list {
							all = append(all, report{kind, x})
							switch random.IntN(6) {
							case 0:
								all = append(all, report{kind, x})
							case 1:
								early := m{}
								for k, v := range x {
									if k != "endTime" && k != "mergedAt" && k != "resolvedAt" {
										early[k] = v
									}
								}
								if kind == "deployments" {
									early["status"] = "IN_PROGRESS"
								}
								all = append(all, report{kind, early})
							}
						}
					}
					random.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
					for len(all) > 0 {
						n := min(len(all), 1+random.IntN(12))
						byKind := map[string][]m{}
						for _, r := range all[:n] {
							byKind[r.kind] = append(byKind[r.kind], r.what)
						}
						for kind, list := range byKind {
							reported(other.Client, kind, list...)
						}
						all = all[n:]
					}
					for _, env := range []string{"prod", "staging", "dev"} {
						for _, definitions := range []string{"slipway", "devlake"} {
							path := "/api/devlake/dora-metrics?startDate=2025-10-01&endDate=2026-03-30&interval=week&groupBy=service&environment=" + env + "&definitions=" + definitions
							var here, there dora.Report
							s.Get(path).Is(200).Into(&here)
							other.Get(path).Is(200).Into(&there)
							if diff := cmp.Diff(here, there); diff != "" {
								t.Fatalf("%s, %s: in another order the numbers are others: %s", env, definitions, diff)
							}
						}
					}
					agree(t, other.Client, questions[0])
				})
			}
		})
	}
}
