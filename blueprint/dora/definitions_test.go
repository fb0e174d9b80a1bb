package dora

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func at(text string) int64 {
	t, err := time.Parse("2006-01-02 15:04:05", (text + ":00")[:19])
	if err != nil {
		panic(err)
	}
	return t.Unix()
}

func window(from, until string) Window { return Window{at(from + " 00:00"), at(until+" 00:00") + day} }

func rules(name string) Rules {
	return Rules{Benchmark: benchmarks[name], IncidentWindow: 7 * 24 * time.Hour, IncidentsKnown: true, AllIncidents: name == "2021"}
}

func say(n Number) string { return strings.TrimSpace(n.spell() + " " + string(n.Level)) }

// The examples by which Fawkes says what it expects of its dashboard.
func TestExamples(t *testing.T) {
	t.Parallel()
	ten := history{Begins: true}
	for i := range 10 {
		ten.Deployments = append(ten.Deployments, deployed{ID: int64(i + 1), Environment: production, Finished: at("2026-03-02 12:00") + int64(i%7)*day + int64(i)})
	}
	n := Measure(*attribute(ten).Facts[production], window("2026-03-02", "2026-03-08"), rules("2023"))
	if say(n.Frequency) != "1.43/day elite" || *n.Frequency.Value != 10 {
		t.Errorf("10 deployments in 7 days: got %s, %v", say(n.Frequency), *n.Frequency.Value)
	}

	// The commit was made at 09:00 and deployed at 13:15, with two later ones in the same deployment.
	one := history{
		Deployments: []deployed{{ID: 1, Environment: production, Finished: at("2026-03-02 13:15")}},
		Changes:     []changed{{ID: 1, FirstCommit: at("2026-03-02 09:00"), Opened: at("2026-03-02 11:00"), Merged: at("2026-03-02 12:00")}},
	}
	n = Measure(*attribute(one).Facts[production], window("2026-03-02", "2026-03-02"), rules("2023"))
	if say(n.LeadTime) != "4 h 15 min elite" {
		t.Errorf("from 09:00 to 13:15: got %s", say(n.LeadTime))
	}

	// 20 deployments, 2 of which an incident followed; one began at 14:00 and was over at 14:45.
	twenty := history{}
	for i := range 20 {
		twenty.Deployments = append(twenty.Deployments, deployed{ID: int64(i + 1), Environment: production, Finished: at("2026-03-02 13:00") + int64(i)*day})
	}
	for i, k := range []int64{4, 11} {
		start := at("2026-03-02 14:00") + k*day
		twenty.Incidents = append(twenty.Incidents, broken{ID: int64(i + 1), Started: start, Resolved: start + 45*minute})
	}
	n = Measure(*attribute(twenty).Facts[production], window("2026-03-01", "2026-03-30"), rules("2023"))
	if say(n.Failures) != "10 % high" || say(n.Restore) != "45 min elite" {
		t.Errorf("2 of 20 failed for 45 minutes: got %s, %s", say(n.Failures), say(n.Restore))
	}

	n = Measure(Facts{}, window("2026-03-01", "2026-03-30"), rules("2023"))
	for _, m := range []Number{n.Frequency, n.LeadTime, n.Failures, n.Restore, n.Rework} {
		if m.Value != nil || m.Level != "" || m.Reason == "" || m.spell() != "N/A" {
			t.Errorf("no data: got %+v, want no value, no class and a reason", m)
		}
	}
}

func TestClassesAtTheirBoundaries(t *testing.T) {
	t.Parallel()
	w := window("2026-03-02", "2026-03-29") // four weeks
	deployments := func(n, perDay int) (f Facts) {
		for i := range n {
			f.Deployments = append(f.Deployments, DeploymentFact{At: w.From + int64(i/perDay)*day + int64(i%perDay)*hour, Incident: none, Recovered: none})
		}
		return f
	}
	for _, c := range []struct {
		n, perDay int
		want      string
	}{{28, 2, "1/day elite"}, {27, 9, "6.75/week high"}, {20, 1, "5/week elite"}, {4, 4, "1/week high"}, {3, 1, "0.75/week medium"}, {1, 1, "0.25/week medium"}} {
		if got := say(Measure(deployments(c.n, c.perDay), w, rules("2023")).Frequency); got != c.want {
			t.Errorf("%d deployments in four weeks, %d on a day: got %s, want %s", c.n, c.perDay, got, c.want)
		}
	}
	for _, c := range []struct {
		lead       int64
		y23, y2021 Level
	}{
		{hour - 1, Elite, Elite}, {hour, Elite, High}, {day - 1, Elite, High}, {day, High, High}, {week - 1, High, High}, {week, Medium, Medium},
		{30*day - 1, Medium, Medium}, {30 * day, Low, Medium}, {180*day - 1, Low, Medium}, {180 * day, Low, Low},
	} {
		f := Facts{Changes: []ChangeFact{{At: w.From, Lead: c.lead, Cycle: none}}}
		if got := Measure(f, w, rules("2023")).LeadTime.Level; got != c.y23 {
			t.Errorf("2023, lead time of %d s: got %s, want %s", c.lead, got, c.y23)
		}
		if got := Measure(f, w, rules("2021")).LeadTime.Level; got != c.y2021 {
			t.Errorf("2021, lead time of %d s: got %s, want %s", c.lead, got, c.y2021)
		}
	}
	for _, c := range []struct {
		failed     int // of 100
		y23, y2021 Level
	}{{0, Elite, Elite}, {5, Elite, Elite}, {6, High, Elite}, {10, High, Elite}, {11, Medium, Elite}, {15, Medium, Elite}, {16, Low, High}, {20, Low, High}, {21, Low, Medium}, {30, Low, Medium}, {31, Low, Low}} {
		f := deployments(100, 20)
		for i := range c.failed {
			f.Deployments[i].Incident = 0
		}
		if a, b := Measure(f, w, rules("2023")).Failures, Measure(f, w, rules("2021")).Failures; a.Level != c.y23 || b.Level != c.y2021 || *a.Value != float64(c.failed) {
			t.Errorf("%d %% failed: got %s and %s, want %s and %s", c.failed, a.Level, b.Level, c.y23, c.y2021)
		}
	}
	for _, c := range []struct {
		took int64
		want Level
	}{{hour - 1, Elite}, {hour, High}, {day - 1, High}, {day, Medium}, {week - 1, Medium}, {week, Low}} {
		f := Facts{Recoveries: []RecoveryFact{{At: w.From, Took: c.took, After: 0}}}
		if got := Measure(f, w, rules("2023")).Restore.Level; got != c.want {
			t.Errorf("restored after %d s: got %s, want %s", c.took, got, c.want)
		}
	}
}

func TestTrends(t *testing.T) {
	t.Parallel()
	v := func(f float64) *float64 { return &f }
	for _, c := range []struct {
		before, now *float64
		want        Trend
	}{{nil, v(1), ""}, {v(1), nil, ""}, {v(0), v(0), Stable}, {v(0), v(1), Increasing}, {v(100), v(105), Stable}, {v(100), v(106), Increasing}, {v(100), v(95), Stable}, {v(100), v(94), Decreasing}} {
		if got := TrendOf(c.before, c.now); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// The tables in testdata/metrics hold histories; beside each stands what both definitions make of it.
func TestMetricsTables(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob("testdata/metrics/*.txt")
	if len(files) == 0 {
		t.Fatal("there are no tables")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, _, _ := strings.Cut(string(raw), "---\n")
			want := text + "---\n" + describe(t, text)
			if os.Getenv("UPDATE") == "1" {
				if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, string(raw)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// describe reads lines such as
//
//	window 2026-03-02 2026-03-08
//	deploy 2026-03-02 13:15 id=d1 version=v1 env=prod result=failed commit=2026-03-02T09:00
//	change 2026-03-02 12:00 opened=2026-03-01T12:00 commit=2026-03-01T09:00 of=d1
//	incident 2026-03-02 14:00 resolved=2026-03-02T14:45 of=d1
func describe(t *testing.T, text string) string {
	t.Helper()
	h := history{Begins: true}
	var w Window
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		words := strings.Fields(line)
		if len(words) < 3 || strings.HasPrefix(line, "#") {
			continue
		}
		if words[0] == "window" {
			w = window(words[1], words[2])
			continue
		}
		when, more := at(words[1]+" "+words[2]), map[string]string{}
		for _, word := range words[3:] {
			key, value, _ := strings.Cut(word, "=")
			more[key] = value
		}
		moment := func(key string) int64 {
			if more[key] == "" {
				return 0
			}
			return at(strings.Replace(more[key], "T", " ", 1))
		}
		id := int64(i + 1)
		switch words[0] {
		case "deploy":
			d := deployed{ID: id, ExternalID: more["id"], Environment: production, Finished: when, Version: more["version"], FirstCommit: moment("commit"), Rework: more["rework"] != ""}
			if more["env"] != "" {
				d.Environment = more["env"]
			}
			d.Result = map[string]Result{"": Succeeded, "failed": Failed, "canceled": Canceled}[more["result"]]
			h.Deployments = append(h.Deployments, d)
		case "change":
			h.Changes = append(h.Changes, changed{ID: id, Merged: when, Opened: moment("opened"), FirstCommit: moment("commit"), Deployment: more["of"]})
		case "incident":
			h.Incidents = append(h.Incidents, broken{ID: id, Started: when, Resolved: moment("resolved"), Deployment: more["of"]})
		default:
			t.Fatalf("what is %q?", line)
		}
	}
	facts := attribute(h).Facts[production]
	if facts == nil {
		facts = &Facts{}
	}
	var out strings.Builder
	for _, b := range []string{"2023", "2021"} {
		for _, devlake := range []bool{false, true} {
			r := rules(b)
			r.DevLake = devlake
			r.IncidentsKnown = len(h.Incidents) > 0
			n := Measure(*facts, w, r)
			name := map[bool]string{false: "slipway", true: "devlake"}[devlake]
			for _, m := range []struct {
				name string
				Number
			}{{"frequency", n.Frequency}, {"lead time", n.LeadTime}, {"failures", n.Failures}, {"restore", n.Restore}, {"rework", n.Rework}} {
				fmt.Fprintf(&out, "%s %s %-9s %s", b, name, m.name, say(m.Number))
				if m.Reason != "" {
					fmt.Fprintf(&out, " (%s)", m.Reason)
				}
				out.WriteByte('\n')
			}
		}
	}
	return out.String()
}

func genHistory(t *rapid.T) history {
	base := at("2026-01-01 00:00")
	moment := rapid.Int64Range(base, base+90*day)
	h := history{Begins: true}
	for i := range rapid.IntRange(0, 40).Draw(t, "deployments") {
		d := deployed{
			ID: int64(i + 1), ExternalID: fmt.Sprint("d", i), Finished: moment.Draw(t, "finished"), Environment: rapid.SampledFrom([]string{production, production, "staging"}).Draw(t, "env"),
			Result: rapid.SampledFrom([]Result{Succeeded, Succeeded, Succeeded, Failed, Canceled}).Draw(t, "result"), Version: rapid.SampledFrom([]string{"", "v1", "v2", "v3", "v4"}).Draw(t, "version"),
			Rework: rapid.Bool().Draw(t, "rework"),
		}
		if rapid.Bool().Draw(t, "commit") {
			d.FirstCommit = d.Finished - rapid.Int64Range(0, 20*day).Draw(t, "lead")
		}
		h.Deployments = append(h.Deployments, d)
	}
	for i := range rapid.IntRange(0, 40).Draw(t, "changes") {
		c := changed{ID: int64(i + 1), Merged: moment.Draw(t, "merged")}
		c.Opened = c.Merged - rapid.Int64Range(0, 5*day).Draw(t, "open")
		c.FirstCommit = c.Opened - rapid.Int64Range(0, 5*day).Draw(t, "coding")
		if rapid.IntRange(0, 5).Draw(t, "told") == 0 {
			c.Deployment = fmt.Sprint("d", rapid.IntRange(0, 40).Draw(t, "of"))
		}
		h.Changes = append(h.Changes, c)
	}
	for i := range rapid.IntRange(0, 20).Draw(t, "incidents") {
		in := broken{ID: int64(i + 1), Started: moment.Draw(t, "started")}
		if rapid.Bool().Draw(t, "over") {
			in.Resolved = in.Started + rapid.Int64Range(0, 10*day).Draw(t, "took")
		}
		if rapid.IntRange(0, 5).Draw(t, "told") == 0 {
			in.Deployment = fmt.Sprint("d", rapid.IntRange(0, 40).Draw(t, "of"))
		}
		h.Incidents = append(h.Incidents, in)
	}
	return h
}

func TestProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := genHistory(t)
		var clone history
		raw, _ := json.Marshal(h)
		if err := json.Unmarshal(raw, &clone); err != nil {
			t.Fatal(err)
		}
		a := attribute(h)

		// The order of reports does not matter.
		slices.Reverse(clone.Deployments)
		slices.Reverse(clone.Changes)
		slices.Reverse(clone.Incidents)
		b := attribute(clone)
		w := Window{at("2026-01-10 00:00"), at("2026-01-10 00:00") + rapid.Int64Range(1, 80).Draw(t, "days")*day}
		for env, f := range a.Facts {
			for _, devlake := range []bool{false, true} {
				r := rules("2023")
				r.DevLake, r.FailedCount = devlake, rapid.Bool().Draw(t, "count failed")
				n := Measure(*f, w, r)
				if diff := cmp.Diff(n, Measure(*b.Facts[env], w, r)); diff != "" {
					t.Fatalf("in another order: %s", diff)
				}
				// Packed by months and unpacked, they are the same.
				var back Facts
				for m := monthOf(w.From) - 24; m <= monthOf(w.Until)+24; m++ {
					if err := back.unpack(pack(f.month(m), monthStart(m)), monthStart(m)); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(n, Measure(back, w, r)); diff != "" {
					t.Fatalf("out of blocks: %s", diff)
				}
				// A share is between 0 and 100, and has a class exactly where it has a value.
				for _, m := range []Number{n.Frequency, n.LeadTime, n.Failures, n.Restore} {
					if (m.Value == nil) != (m.Level == "") || (m.Value == nil) != (m.Reason != "") {
						t.Fatalf("got %+v", m)
					}
					if m.Unit == unitPercent && m.Value != nil && (*m.Value < 0 || *m.Value > 100) {
						t.Fatalf("got %v percent", *m.Value)
					}
				}
			}
		}
		for id, d := range a.ChangeOf {
			if d != b.ChangeOf[id] {
				t.Fatalf("change %d: deployment %d, or in another order %d", id, d, b.ChangeOf[id])
			}
		}
	})
}

func TestMedian(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Int64Range(-50, 50), 1, 60).Draw(t, "values")
		sorted := slices.Sorted(slices.Values(v))
		n := len(v)
		if got, want := median(slices.Clone(v)), (float64(sorted[(n-1)/2])+float64(sorted[n/2]))/2; got != want {
			t.Fatalf("got %v, want %v", got, want)
		}
		// DevLake: max(x) where percent_rank() <= 0.5.
		want := sorted[0]
		for _, x := range sorted {
			if n == 1 || 2*slices.Index(sorted, x) <= n-1 {
				want = x
			}
		}
		if got := lowerMedian(v); got != want {
			t.Fatalf("lower: got %v, want %v", got, want)
		}
	})
}

func FuzzBlock(f *testing.F) {
	f.Add(pack(&Facts{Deployments: []DeploymentFact{{At: 5, Incident: 3, Recovered: none}}, Changes: []ChangeFact{{At: 5, Lead: 7, Cycle: none}}}, 0))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) < 1<<12 {
			_ = new(Facts).unpack(b, 0) // must not panic, nor take memory that the bytes do not explain
		}
	})
}

func TestEnvironments(t *testing.T) {
	t.Parallel()
	e, err := compileEnvironments(defaultEnvironments())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"prod": "prod", "PRODUCTION": "prod", "shop-prod": "prod", "prd": "prod", "live": "prod", "eu-west-1/production": "prod", "prod-eu": "prod",
		"preprod": "staging", "pre-production": "staging", "STAGING": "staging", "shop-stage": "staging", "uat": "staging",
		"TESTING": "dev", "DEVELOPMENT": "dev", "qa": "dev", "reproduction": "reproduction", "Delivery": "delivery", "": "",
	} {
		if got := e.normalise(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func TestPlots(t *testing.T) {
	t.Parallel()
	v := func(values ...float64) (list []*float64) {
		for _, x := range values {
			if x < 0 {
				list = append(list, nil)
				continue
			}
			list = append(list, &x)
		}
		return list
	}
	for _, c := range []struct {
		values []*float64
		width  int
		want   string
	}{{nil, 10, ""}, {v(1, 2, 4, 8), 10, "▁▂▄█"}, {v(0, -1, 5), 10, "▁·█"}, {v(0, 0), 10, "▁▁"}, {v(1, 3, 4, 4, -1, -1), 3, "▄█·"}, {v(2, 4, 6, 8, 10), 2, "▄█"}} {
		if got := plot(c.values, c.width); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
