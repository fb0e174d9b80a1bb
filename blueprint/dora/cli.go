package dora

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

// cli is the command line of this blueprint.
type cli struct{ *blueprint.Client }

// commands is `slipway dora`.
func commands(c *blueprint.Client) *cobra.Command {
	d := cli{c}
	cmd := &cobra.Command{
		Use: "dora", Short: "Show DORA metrics and deployment history",
		Long: `Show how often and how fast software reaches users, how often that fails, and how long recovery takes; what each number was computed from; and the deployments themselves. A project is an entity of the catalog, or a service or project by the name under which it is reported.`,
		Example: `  slipway dora metrics my-service
  slipway dora history my-service --environment prod
  slipway dora explain changeFailureRate my-service`,
	}
	cmd.AddCommand(d.metrics(), d.history(), d.explain())
	return cmd
}

// flags are texts that go into a query when they are given, by their names.
type flags map[string]parameter

type parameter struct {
	name  string // in the query
	value *string
}

func (f flags) text(cmd *cobra.Command, name, inQuery, usage string) {
	f[name] = parameter{inQuery, cmd.Flags().String(name, "", usage)}
}

func (f flags) query(cmd *cobra.Command) (url.Values, error) {
	q := url.Values{}
	for name, p := range f {
		if !cmd.Flags().Changed(name) {
			continue
		}
		if *p.value == "" {
			return nil, slipway.Errorf(slipway.Invalid, "--%s must not be empty", name)
		}
		q.Set(p.name, *p.value)
	}
	return q, nil
}

func (f flags) about(cmd *cobra.Command) {
	f.text(cmd, "team", "team", "the group that owns the entities, or the value of their team label")
	f.text(cmd, "from", "startDate", "first day in UTC, such as 2026-01-31, or a time with a zone (default 30 days before the end)")
	f.text(cmd, "to", "endDate", "last day in UTC, which is part of the period, or a time with a zone (default now)")
	f.text(cmd, "environment", "environment", "environment whose deployments count (default prod)")
}

func (d cli) metrics() *cobra.Command {
	f := flags{}
	cmd := &cobra.Command{
		Use: "metrics [PROJECT]", Short: "Show the metrics of a project, a team, or all",
		Long: `Show the four metrics of DORA and the rework rate of a period, with their performance class, their trend against the period before, and a plot of the
days, weeks or months in it. With --by, show them for each service or environment. -o json has all numbers.`,
		Example: `  slipway dora metrics my-service
  slipway dora metrics --team platform-team --from 2026-01-01 --interval week
  slipway dora metrics --by service`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := f.query(cmd)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				q.Set("project", args[0])
			}
			if q.Get("interval") == "" && q.Get("groupBy") == "" {
				q.Set("interval", "day") // for the plot
			}
			if q.Get("groupBy") != "" {
				q.Set("limit", "100")
			}
			raw, r, err := blueprint.Get[Report](cmd.Context(), d.Client, "/api/devlake/dora-metrics?"+q.Encode())
			if err != nil {
				return err
			}
			if q.Get("groupBy") != "" {
				return d.Print(cmd, raw, r.groupTable())
			}
			return d.Print(cmd, raw, r.table(q.Get("interval")))
		},
	}
	f.about(cmd)
	f.text(cmd, "interval", "interval", "plot each day, week or month (default day)")
	f.text(cmd, "by", "groupBy", "show each service or environment: service, environment")
	f.text(cmd, "benchmark", "benchmark", "table of performance classes: 2023, 2021 or one of the installation's (default as configured)")
	f.text(cmd, "definitions", "definitions", "what the metrics mean: slipway or devlake (default as configured)")
	f.text(cmd, "cursor", "cursor", "with --by: continue a list: the value that the page before printed")
	return cmd
}

var metricNames = []struct {
	id, title string
	of        func(Metrics) Metric
}{
	{"deploymentFrequency", "Deployment frequency", func(m Metrics) Metric { return m.DeploymentFrequency }},
	{"leadTimeForChanges", "Lead time for changes", func(m Metrics) Metric { return m.LeadTimeForChanges }},
	{"changeFailureRate", "Change failure rate", func(m Metrics) Metric { return m.ChangeFailureRate }},
	{"timeToRestoreService", "Time to restore service", func(m Metrics) Metric { return m.TimeToRestoreService }},
	{"reworkRate", "Rework rate", func(m Metrics) Metric { return m.ReworkRate }},
}

func (r Report) table(interval string) blueprint.Table {
	t := blueprint.Table{Header: []string{"Metric", "Value", "Class", "Trend", "By " + interval}}
	var below []string
	same := true // one reason for all of them is told once
	for _, n := range metricNames {
		m := n.of(r.Metrics)
		same = same && m.Value == nil && m.Reason != "" && m.Reason == r.Metrics.DeploymentFrequency.Reason
		values := make([]*float64, len(r.Series))
		for i, p := range r.Series {
			values[i] = n.of(p.Metrics).Value
		}
		t.Rows = append(t.Rows, []string{n.title, m.Text, string(*cmp.Or(m.Performance, new(Level))), string(*cmp.Or(m.Trend, new(Trend))), plot(values, plotWidth)})
		if m.Value == nil && m.Reason != "" {
			below = append(below, fmt.Sprintf("%s: %s", n.title, m.Reason))
		}
	}
	if same {
		below = []string{r.Metrics.DeploymentFrequency.Reason}
	}
	below = append(below, fmt.Sprintf("%s to %s, %s, %s, benchmark %s", r.Period.StartDate, r.Period.EndDate, r.Environment, plural(r.Services, "service"), r.Benchmark))
	t.Footer = strings.Join(below, "\n")
	return t
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (r Report) groupTable() blueprint.Table {
	t := blueprint.Table{Header: []string{"Name", "Deployments", "Lead time", "Failures", "Restore", "Rework"}}
	for _, g := range r.Groups {
		row := []string{g.Name}
		for _, n := range metricNames {
			m := n.of(g.Metrics)
			text := m.Text
			if m.Performance != nil {
				text += " (" + string(*m.Performance) + ")"
			}
			row = append(row, text)
		}
		t.Rows = append(t.Rows, row)
	}
	if r.PageInfo != nil && r.PageInfo.HasMore {
		t.Footer = "There are more: --cursor " + r.PageInfo.NextCursor
	}
	return t
}

// plotWidth is how many signs a plot has at most.
const plotWidth = 40

// plot draws values as bars from 0 to the largest, one sign each, or where there are more than fit, one for the mean of some; a point stands where there is no value.
func plot(values []*float64, width int) string {
	const bars = "▁▂▃▄▅▆▇█"
	per := max(1, (len(values)+width-1)/width)
	var means []*float64
	for from := 0; from < len(values); from += per {
		sum, n := 0.0, 0
		for _, v := range values[from:min(len(values), from+per)] {
			if v != nil {
				sum += *v
				n++
			}
		}
		if n == 0 {
			means = append(means, nil)
			continue
		}
		means = append(means, ptr(sum/float64(n)))
	}
	most := 0.0
	for _, v := range means {
		if v != nil {
			most = max(most, *v)
		}
	}
	signs := []rune(bars)
	var b strings.Builder
	for _, v := range means {
		switch {
		case v == nil:
			b.WriteRune('·')
		case most == 0 || *v <= 0:
			b.WriteRune(signs[0])
		default:
			b.WriteRune(signs[min(len(signs)-1, int(math.Ceil(*v/most*float64(len(signs))))-1)])
		}
	}
	return b.String()
}

func (d cli) history() *cobra.Command {
	f := flags{}
	var limit int
	cmd := &cobra.Command{
		Use: "history [SERVICE]", Short: "Show the last deployments of a service, or of all",
		Long: "Show deployments, newest first.",
		Example: `  slipway dora history my-service
  slipway dora history component:default/my-service --environment prod --status FAILURE
  slipway dora history --limit 100 -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := f.query(cmd)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				q.Set("service", args[0])
			}
			if limit != 0 {
				q.Set("limit", strconv.Itoa(limit))
			}
			raw, h, err := blueprint.Get[History](cmd.Context(), d.Client, "/api/devlake/deployment-history?"+q.Encode())
			if err != nil {
				return err
			}
			return d.Print(cmd, raw, h.table())
		},
	}
	f.text(cmd, "environment", "environment", "only deployments to this environment")
	f.text(cmd, "status", "status", "only deployments that stand so: SUCCESS, FAILURE, IN_PROGRESS, CANCELLED")
	f.text(cmd, "cursor", "cursor", "continue a list: the value that the page before printed")
	cmd.Flags().IntVar(&limit, "limit", 0, "entries on a page, at most 100 (default 20)")
	return cmd
}

func (h History) table() blueprint.Table {
	t := blueprint.Table{Header: []string{"ID", "Service", "Version", "Environment", "Status", "Started", "Took", "Triggered by", "Commit"}}
	for _, d := range h.Deployments {
		took := ""
		if d.Duration != nil {
			took = (time.Duration(*d.Duration) * time.Second).String()
		}
		sha := ""
		if d.Commit != nil {
			sha = d.Commit.SHA[:min(8, len(d.Commit.SHA))]
		}
		t.Rows = append(t.Rows, []string{
			d.ID, d.Service, *cmp.Or(d.Version, new(string)), d.Environment, d.Status, blueprint.Clock(&d.StartTime), took, *cmp.Or(d.TriggeredBy, new(string)), sha,
		})
	}
	below := []string{fmt.Sprintf("%d of %d", len(h.Deployments), h.Total)}
	if h.PageInfo.HasMore {
		below = append(below, "There are more: --cursor "+h.PageInfo.NextCursor)
	}
	t.Footer = strings.Join(below, "\n")
	return t
}

func (d cli) explain() *cobra.Command {
	f := flags{}
	var names []string
	for _, n := range metricNames {
		names = append(names, n.id)
	}
	cmd := &cobra.Command{
		Use: "explain METRIC [PROJECT]", Short: "Show what a metric was computed from",
		Long: "Show the deployments, changes or incidents that a number was computed from, newest first, whether each counts, and why. METRIC is one of\n" + strings.Join(names, ", ") + ".",
		Example: `  slipway dora explain changeFailureRate my-service
  slipway dora explain leadTimeForChanges --team platform-team --from 2026-01-01`,
		Args:      cobra.RangeArgs(1, 2),
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := f.query(cmd)
			if err != nil {
				return err
			}
			q.Set("metric", args[0])
			if len(args) == 2 {
				q.Set("project", args[1])
			}
			raw, e, err := blueprint.Get[Explanation](cmd.Context(), d.Client, "/api/devlake/dora-metrics/explain?"+q.Encode())
			if err != nil {
				return err
			}
			return d.Print(cmd, raw, e.table())
		},
	}
	f.about(cmd)
	f.text(cmd, "benchmark", "benchmark", "table of performance classes, as for the metrics (default as configured)")
	f.text(cmd, "definitions", "definitions", "what the metrics mean: slipway or devlake (default as configured)")
	f.text(cmd, "cursor", "cursor", "continue a list: the value that the page before printed")
	return cmd
}

func (e Explanation) table() blueprint.Table {
	t := blueprint.Table{Header: []string{"When", "Service", "ID", "Counts", "Took", "Deployment", "Why"}}
	for _, x := range e.Items {
		counts, took, when, id := "no", "", "", ""
		if x.Counts {
			counts = "yes"
		}
		if x.Seconds != nil {
			took = spellSeconds(*x.Seconds)
		}
		switch {
		case x.Deployment != nil:
			when, id = blueprint.Clock(x.Deployment.EndTime), x.Deployment.ID
		case x.Change != nil:
			when, id = blueprint.Clock(x.Change.MergedAt), x.Change.ID
		case x.Incident != nil:
			when, id = blueprint.Clock(x.Incident.ResolvedAt), x.Incident.ID
		}
		t.Rows = append(t.Rows, []string{when, x.Service, id, counts, took, x.DeploymentID, x.Why})
	}
	below := []string{e.Text}
	if e.PageInfo.HasMore {
		below = append(below, "There are more: --cursor "+e.PageInfo.NextCursor)
	}
	t.Footer = strings.Join(below, "\n")
	return t
}
