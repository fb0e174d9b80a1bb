package dora

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// This file is what the metrics mean: pure functions from facts to numbers. Times are Unix seconds in UTC, lengths of time are seconds.
//
// Sources: DORA, "DORA's software delivery performance metrics" (dora.dev/guides/dora-metrics), for what is counted; Apache DevLake's dashboards and its table
// dora_benchmarks for the definitions called devlake and for the thresholds of the benchmarks 2021 and 2023 (DevLake's 2021 is not the table of the report of 2021).

// Facts are what happened to some services in one environment, in no order.
type Facts struct {
	Deployments []DeploymentFact
	Changes     []ChangeFact
	Recoveries  []RecoveryFact
}

// none stands for a length of time that there is not.
const none = -1

// DeploymentFact is a deployment that has ended.
type DeploymentFact struct {
	At         int64  // when it ended
	Result     Result // how
	Rework     bool   // it was not planned: it was made because of an incident
	RolledBack bool   // the one after it put an older version back
	Incident   int64  // seconds until the first incident that it is taken to have caused; 0 where somebody said so; none
	Recovered  int64  // of one that failed: seconds until the next one that succeeded; none
}

// Result is how a deployment ended.
type Result byte

// The results.
const (
	Succeeded Result = iota
	Failed
	Canceled
)

// ChangeFact is a change of code that a deployment brought to users.
type ChangeFact struct {
	At    int64 // when the deployment ended
	Lead  int64 // seconds from its first commit to that
	Cycle int64 // minutes of DevLake's cycle time: each span rounded up; none where DevLake has no number
	First bool  // it came with the first deployment, of which DevLake counts no changes
}

// RecoveryFact is an incident that is over.
type RecoveryFact struct {
	At    int64 // when it was over
	Took  int64 // seconds that it lasted
	After int64 // seconds from the end of the deployment before it to its start; 0 or more; none where there is no deployment before it
	Told  bool  // somebody said that this deployment caused it
}

// Window is a stretch of time: From inclusive, Until exclusive.
type Window struct{ From, Until int64 }

func (w Window) has(at int64) bool { return at >= w.From && at < w.Until }

// weeks is how many weeks the window has, a part of one as such.
func (w Window) weeks() float64 { return float64(w.Until-w.From) / week }

// before is the window of the same length before this one.
func (w Window) before() Window { return Window{w.From - (w.Until - w.From), w.From} }

const (
	minute = 60
	hour   = 60 * minute
	day    = 24 * hour
	week   = 7 * day
	month  = 30 * day // as DevLake's thresholds have it
)

// Rules are what an installation may decide.
type Rules struct {
	DevLake        bool          // DevLake's definitions, artefacts and all
	Benchmark      Benchmark     //
	IncidentWindow time.Duration // an incident that begins later after a deployment was not caused by it; 0: no bound. DevLake has none
	FailedCount    bool          // a deployment that failed counts as a failure, and the next that succeeds as its recovery
	AllIncidents   bool          // the time to restore is of all incidents (2021), not only of those that deployments caused (2023)
	IncidentsKnown bool          // incidents are reported at all: without any, a failure rate of 0 would be a guess
}

// caused says whether an incident that began so long after a deployment counts as caused by it.
func (r Rules) caused(after int64) bool {
	return after >= 0 && (r.DevLake || r.IncidentWindow == 0 || after <= int64(r.IncidentWindow/time.Second))
}

// Level is a performance class.
type Level string

// The levels.
const (
	Elite  Level = "elite"
	High   Level = "high"
	Medium Level = "medium"
	Low    Level = "low"
)

var levels = [...]Level{Elite, High, Medium}

// Benchmark is a table of thresholds, of elite, high and medium; what fits none is low.
type Benchmark struct {
	Name      string
	Frequency [3]Frequency
	LeadTime  [3]float64 // hours, less than
	Failures  [3]float64 // percent, at most
	Restore   [3]float64 // hours, less than
	Monthly   bool       // high is told by deployment days in a month, as DevLake's 2021 does
}

// Frequency is how often is often enough: either is.
type Frequency struct {
	PerWeek     float64 // deployments
	DaysPerWeek float64 // days with a deployment; 0: no such way
}

// benchmarks are the tables of DevLake, whose words for frequencies are "on demand", "once a week", "once a month" and "once in six months".
var benchmarks = map[string]Benchmark{
	"2023": {
		Name: "2023", Frequency: [3]Frequency{{7, 5}, {1, 0}, {float64(week) / month, 0}},
		LeadTime: [3]float64{24, 7 * 24, 30 * 24}, Failures: [3]float64{5, 10, 15}, Restore: [3]float64{1, 24, 7 * 24},
	},
	"2021": {
		Name: "2021", Frequency: [3]Frequency{{7, 5}, {float64(week) / month, 0}, {float64(week) / (6 * month), 0}},
		LeadTime: [3]float64{1, 7 * 24, 180 * 24}, Failures: [3]float64{15, 20, 30}, Restore: [3]float64{1, 24, 7 * 24}, Monthly: true,
	},
}

// The units.
const (
	unitFrequency = "deploys/week"
	unitHours     = "hours"
	unitPercent   = "percent"
	unitDays      = "deployment days/week"
	unitMonthDays = "deployment days/month"
	unitHalfYear  = "deployment days/six months"
)

// Number is one metric in one window. Value is nil where there is no data, and Reason says why.
type Number struct {
	Value  *float64
	Unit   string
	Level  Level
	Reason string
	Count  int // how many things it was made of: deployments, changes, failed deployments, incidents, deployments that are rework
	Of     int // and of how many, for shares
}

// Numbers are the five metrics.
type Numbers struct {
	Frequency, LeadTime, Failures, Restore, Rework Number
}

// Measure gives the metrics of a window.
func Measure(f Facts, w Window, r Rules) Numbers {
	m := newMeasurement(w, r)
	m.add(&f)
	return m.numbers()
}

// measurement counts facts for the metrics of one window. Each fact is looked at once and then let go, so that an answer about a million deployments holds no more of them than the
// lengths of time that its medians are of.
type measurement struct {
	window Window
	rules  Rules

	succeeded int    // deployments
	failing   int    // of these, those that an incident or a rollback followed
	rework    int    // of these, those that were made because of an incident
	failed    int    // deployments that did not succeed, where they count
	days      []bool // with a deployment that succeeded, from the first day of the window on
	leads     []int64
	took      []int64
}

func newMeasurement(w Window, r Rules) *measurement {
	m := &measurement{window: w, rules: r}
	if w.Until > w.From {
		m.days = make([]bool, floorDiv(w.Until-1, day)-floorDiv(w.From, day)+1)
	}
	return m
}

// add counts those of the facts that the window's metrics are of; the others are passed over.
func (m *measurement) add(f *Facts) {
	for i := range f.Deployments {
		m.deployment(&f.Deployments[i])
	}
	for i := range f.Changes {
		m.change(&f.Changes[i])
	}
	for i := range f.Recoveries {
		m.recovery(&f.Recoveries[i])
	}
}

func (m *measurement) deployment(d *DeploymentFact) {
	in := m.window.has(d.At)
	switch {
	case d.Result == Succeeded && in:
		m.succeeded++
		m.days[floorDiv(d.At, day)-floorDiv(m.window.From, day)] = true
		if m.rules.failing(d) {
			m.failing++
		}
		if d.Rework {
			m.rework++
		}
	case d.Result == Succeeded && m.rules.DevLake && len(m.days) > 0 && floorDiv(d.At, day) == floorDiv(m.window.From, day):
		m.days[0] = true // its weeks are made of whole days
	case d.Result == Failed && m.rules.FailedCount && !m.rules.DevLake:
		if in {
			m.failed++
		}
		if d.Recovered >= 0 && m.window.has(d.At+d.Recovered) {
			m.took = append(m.took, d.Recovered)
		}
	}
}

// failing says whether something had to be done after a deployment to users: an incident followed, or the next one put an older version back, which DevLake does not see.
func (r *Rules) failing(d *DeploymentFact) bool {
	if r.DevLake {
		return d.Incident >= 0
	}
	return d.RolledBack || r.caused(d.Incident)
}

func (m *measurement) change(c *ChangeFact) {
	switch {
	case !m.window.has(c.At):
	case m.rules.DevLake && c.Cycle >= 0 && !c.First:
		m.leads = append(m.leads, c.Cycle)
	case !m.rules.DevLake && c.Lead >= 0:
		m.leads = append(m.leads, c.Lead)
	}
}

func (m *measurement) recovery(c *RecoveryFact) {
	switch r := &m.rules; {
	case !m.window.has(c.At):
	case r.DevLake && r.AllIncidents:
		m.took = append(m.took, c.Took/minute)
	case r.DevLake && c.After >= 0 && m.window.has(c.At-c.Took-c.After):
		m.took = append(m.took, (c.Took+c.After)/minute)
	case !r.DevLake && c.Took >= 0 && (r.AllIncidents || c.Told || r.caused(c.After)):
		m.took = append(m.took, c.Took)
	}
}

// numbers gives the metrics of what was counted. It puts the lengths of time into another order.
func (m *measurement) numbers() Numbers {
	if m.rules.DevLake {
		return Numbers{m.devLakeFrequency(), m.devLakeLeadTime(), m.devLakeFailures(), m.devLakeRestore(), m.reworkRate()}
	}
	return Numbers{m.frequency(), m.leadTime(), m.failures(), m.restore(), m.reworkRate()}
}

const reasonNoDeployments = "no deployment succeeded in this time"

// frequency is the number of deployments that succeeded, per week of the window. It is classed by that, or by the days on which something was deployed, where the
// benchmark says so: three deployments on one day of each week are not on demand.
func (m *measurement) frequency() Number {
	n := Number{Unit: unitFrequency, Count: m.succeeded}
	if n.Count == 0 {
		n.Reason = reasonNoDeployments
		return n
	}
	days := 0
	for _, deployed := range m.days {
		if deployed {
			days++
		}
	}
	perWeek, daysPerWeek := float64(n.Count)/m.window.weeks(), float64(days)/m.window.weeks()
	n.Level = Low
	for i, level := range levels {
		if b := m.rules.Benchmark.Frequency[i]; perWeek >= b.PerWeek || b.DaysPerWeek > 0 && daysPerWeek >= b.DaysPerWeek {
			n.Level = level
			break
		}
	}
	n.Value = rounded(perWeek, 2)
	return n
}

// leadTime is the median time from the first commit of a change to the end of the deployment that brought it to users, of the deployments in the window.
func (m *measurement) leadTime() Number {
	n := Number{Unit: unitHours, Count: len(m.leads)}
	if n.Count == 0 {
		n.Reason = "no change with a known first commit was deployed in this time"
		return n
	}
	return n.hours(median(m.leads)/hour, m.rules.Benchmark.LeadTime, 2)
}

// failures is the share of deployments to users after which something had to be done. A deployment that failed did not reach users; it counts where the rules say so.
func (m *measurement) failures() Number {
	n := Number{Unit: unitPercent, Count: m.failing + m.failed, Of: m.succeeded + m.failed}
	switch {
	case n.Of == 0:
		n.Reason = reasonNoDeployments
		return n
	case n.Count == 0 && !m.rules.IncidentsKnown:
		n.Reason = "no incident was ever reported, so that a rate of 0 would be a guess"
		return n
	}
	return n.percent(float64(n.Count)/float64(n.Of), m.rules.Benchmark.Failures, 2)
}

// restore is the median length of the incidents that ended in the window.
func (m *measurement) restore() Number {
	n := Number{Unit: unitHours, Count: len(m.took)}
	if n.Count == 0 {
		n.Reason = "no incident that a deployment caused was resolved in this time"
		if m.rules.AllIncidents {
			n.Reason = "no incident was resolved in this time"
		}
		return n
	}
	return n.hours(median(m.took)/hour, m.rules.Benchmark.Restore, 2)
}

// reworkRate is the share of deployments that were not planned but made because of an incident. No benchmark has classes for it.
func (m *measurement) reworkRate() Number {
	n := Number{Unit: unitPercent, Count: m.rework, Of: m.succeeded}
	if n.Of == 0 {
		n.Reason = reasonNoDeployments
		return n
	}
	n.Value = rounded(100*float64(n.Count)/float64(n.Of), 2)
	return n
}

func (n Number) hours(v float64, below [3]float64, digits int) Number {
	n.Level = Low
	for i, level := range levels {
		if v < below[i] {
			n.Level = level
			break
		}
	}
	n.Value = rounded(v, digits)
	return n
}

func (n Number) percent(share float64, atMost [3]float64, digits int) Number {
	n.Level = Low
	for i, level := range levels {
		if share <= atMost[i]/100 {
			n.Level = level
			break
		}
	}
	n.Value = rounded(100*share, digits)
	return n
}

// Trend is where a metric goes.
type Trend string

// The trends. Increasing and decreasing are of the value, whether that is good or bad.
const (
	Increasing Trend = "increasing"
	Decreasing Trend = "decreasing"
	Stable     Trend = "stable"
)

// band is how far apart two values may be, as a share of the earlier one, and still count as the same.
const band = 0.05

// TrendOf compares a value with that of the window before; "" where either is missing.
func TrendOf(before, now *float64) Trend {
	switch {
	case before == nil || now == nil:
		return ""
	case math.Abs(*now-*before) <= band*math.Abs(*before):
		return Stable
	case *now > *before:
		return Increasing
	}
	return Decreasing
}

// median is the middle of some values, of an even number the mean of the two in the middle. It puts the values into another order.
func median(v []int64) float64 {
	n := len(v)
	upper := kth(v, n/2)
	if n%2 == 1 {
		return float64(upper)
	}
	return (float64(slices.Max(v[:n/2])) + float64(upper)) / 2
}

// kth is the value at index k of the sorted values; afterwards those before k are not larger, those behind it not smaller.
func kth(v []int64, k int) int64 {
	lo, hi := 0, len(v)-1
	for lo < hi {
		pivot := middle(v[lo], v[lo+(hi-lo)/2], v[hi])
		i, j := lo, hi
		for i <= j {
			for v[i] < pivot {
				i++
			}
			for v[j] > pivot {
				j--
			}
			if i <= j {
				v[i], v[j] = v[j], v[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			hi = j
		case k >= i:
			lo = i
		default:
			return v[k]
		}
	}
	return v[k]
}

func middle(a, b, c int64) int64 { return max(min(a, b), min(max(a, b), c)) }

// lowerMedian is DevLake's: the largest value whose percent_rank() is at most 0.5. It puts the values into another order.
func lowerMedian(v []int64) int64 { return kth(v, (len(v)-1)/2) }

func rounded(v float64, digits int) *float64 {
	p := math.Pow10(digits)
	v = math.Round(v*p) / p
	return &v
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// The definitions called devlake: what DevLake's dashboards show, quirk by quirk.

// They read the window as a dashboard whose range ends a second before the window does: DevLake's ranges include both ends.

// devLakeDays is how many days a dashboard looks at, at most: the last ones of its range.
const devLakeDays = 400

// devLakeFrequency counts days with a deployment in each calendar week, a part of one as a whole, and takes the lower middle value; where that is below
// one, the same of calendar months. It says low, and with 2021 medium, only when the range has seven calendar months.
func (m *measurement) devLakeFrequency() Number {
	n, w, r := Number{Unit: unitDays, Count: m.succeeded}, m.window, &m.rules
	to := w.Until - 1
	weekly, monthly := map[int64]int{}, map[int64]int{}
	for k := range int64(devLakeDays) {
		if to-k*day <= w.From {
			break
		}
		d := floorDiv(to, day) - k
		wk, mo := floorDiv(d+3, 7), monthOf(d*day) // 1970-01-01 was a Thursday
		n := 0
		if m.days[d-floorDiv(w.From, day)] {
			n = 1
		}
		weekly[wk] += n // a week without a deployment counts as well
		monthly[mo] += n
	}
	if len(weekly) == 0 {
		n.Reason = reasonNoDeployments
		return n
	}
	perWeek, perMonth := lowerMedian(values(weekly)), lowerMedian(values(monthly))
	halfYears, some := devLakeHalfYears(monthly)
	is := func(level Level, value int64, unit string) Number {
		n.Level, n.Value, n.Unit = level, rounded(float64(value), 0), unit
		return n
	}
	switch {
	case perWeek >= 5:
		return is(Elite, perWeek, unitDays)
	case r.Benchmark.Monthly && perMonth >= 1:
		return is(High, perMonth, unitMonthDays)
	case r.Benchmark.Monthly && some && halfYears >= 1:
		return is(Medium, int64(halfYears), unitHalfYear)
	case r.Benchmark.Monthly && some:
		return is(Low, int64(halfYears), unitHalfYear)
	case r.Benchmark.Monthly:
	case perWeek >= 1:
		return is(High, perWeek, unitDays)
	case perMonth >= 1:
		return is(Medium, perMonth, unitMonthDays)
	case some:
		return is(Low, perMonth, unitMonthDays)
	}
	n.Reason = "DevLake gives a low frequency a class only where the range has seven calendar months"
	return n
}

// devLakeHalfYears is the upper middle of the sums of six months, taken at the last month, the seventh from the end and so on, anew in each stretch of six calendar years. There is
// none where fewer than two sums differ.
func devLakeHalfYears(monthly map[int64]int) (int, bool) {
	months := make([]int64, 0, len(monthly))
	for m := range monthly {
		months = append(months, m)
	}
	slices.Sort(months)
	var sums []int
	seen := map[int64]int{} // by stretch
	for i := len(months) - 1; i >= 0; i-- {
		stretch := (1970 + floorDiv(months[i], 12)) / 6
		if seen[stretch]++; seen[stretch]%6 != 1 {
			continue
		}
		sum := 0
		for _, m := range months[max(0, i-5) : i+1] {
			sum += monthly[m]
		}
		sums = append(sums, sum)
	}
	slices.Sort(sums)
	for i, s := range sums {
		if first := slices.Index(sums, s); first == i && len(sums) > 1 && 2*first >= len(sums)-1 {
			return s, true
		}
	}
	return 0, false
}

// devLakeLeadTime is the lower middle of the cycle times of merged pull requests, in minutes that are rounded up; the first deployment brings none.
func (m *measurement) devLakeLeadTime() Number {
	n := Number{Unit: unitHours, Count: len(m.leads)}
	if n.Count == 0 {
		n.Reason = "no pull request with a cycle time was deployed in this time"
		return n
	}
	return n.hours(float64(lowerMedian(m.leads))/60, m.rules.Benchmark.LeadTime, 1)
}

// devLakeFailures is the share of deployments that an incident followed before the next one, however long after.
func (m *measurement) devLakeFailures() Number {
	n := Number{Unit: unitPercent, Count: m.failing, Of: m.succeeded}
	switch {
	case !m.rules.IncidentsKnown:
		n.Reason = "no incident was ever reported, in any project"
		return n
	case n.Of == 0:
		n.Reason = reasonNoDeployments
		return n
	}
	return n.percent(float64(n.Count)/float64(n.Of), m.rules.Benchmark.Failures, 1)
}

// devLakeRestore is, by the benchmark, the lower middle of the whole minutes from the deployment to the end of the incident, both in the window (2023); or of the minutes of all
// incidents that ended in it (2021).
func (m *measurement) devLakeRestore() Number {
	n := Number{Unit: unitHours, Count: len(m.took)}
	if n.Count == 0 {
		n.Reason = "no incident was resolved in this time"
		return n
	}
	return n.hours(float64(lowerMedian(m.took))/60, m.rules.Benchmark.Restore, 1)
}

func values(m map[int64]int) []int64 {
	list := make([]int64, 0, len(m))
	for _, v := range m {
		list = append(list, int64(v))
	}
	return list
}

// monthOf counts calendar months from January 1970.
func monthOf(at int64) int64 {
	t := time.Unix(at, 0).UTC()
	return int64(t.Year()-1970)*12 + int64(t.Month()) - 1
}

// monthStart is when a month begins.
func monthStart(m int64) int64 {
	return time.Date(1970+int(floorDiv(m, 12)), time.Month(m-12*floorDiv(m, 12)+1), 1, 0, 0, 0, 0, time.UTC).Unix()
}

// spell is a number as people say it: "4 h 15 min", "10 %", "1.43/day".
func (n Number) spell() string {
	if n.Value == nil {
		return "N/A"
	}
	v := *n.Value
	switch n.Unit {
	case unitHours:
		minutes := int64(math.Round(v * 60))
		var parts []string
		for _, u := range []struct {
			size int64
			name string
		}{{24 * 60, "d"}, {60, "h"}, {1, "min"}} {
			if m := minutes / u.size; m > 0 || u.size == 1 && parts == nil {
				parts = append(parts, fmt.Sprintf("%d %s", m, u.name))
				minutes -= m * u.size
			}
		}
		return strings.Join(parts, " ")
	case unitPercent:
		return short(v) + " %"
	case unitFrequency:
		if v >= 7 {
			return short(math.Round(v/7*100)/100) + "/day"
		}
		return short(v) + "/week"
	}
	return short(v) + " " + n.Unit
}

func short(v float64) string {
	s := fmt.Sprintf("%.2f", v)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}
