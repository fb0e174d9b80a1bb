package dora

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

// scope is what a caller asks about, as far as they may see it.
type scope struct {
	services []serviceRow // by name
	all      bool         // these are all services that there are
	reason   string       // why there are none
}

func (sc scope) ids() []int64 {
	ids := make([]int64, len(sc.services))
	for i, s := range sc.services {
		ids[i] = s.id
	}
	return ids
}

// scopeOf finds the services of a project and a team; "" for any.
func (s *service) scopeOf(ctx context.Context, permission, project, team string) (scope, error) {
	caller := auth.Narrowed(ctx)
	var projects []string
	if s.lake != nil {
		var err error
		if projects, err = s.projects(ctx); err != nil {
			return scope{}, err
		}
	}
	f := filter{project: key(project), team: key(team), label: s.config.TeamLabel}
	list, all, err := findServices(ctx, s.db, caller, permission, f)
	if err != nil {
		return scope{}, err
	}
	sc := scope{services: list, all: all && project == "" && team == ""}
	if s.lake != nil {
		sc = sc.withProjects(projects)
	}
	if len(sc.services) > 0 {
		return sc, nil
	}
	// Nothing: either it is not there, or there is nothing to tell of it.
	if project != "" {
		if err := s.known(ctx, caller, permission, "project", project); err != nil {
			return sc, err
		}
	}
	if team != "" {
		if err := s.known(ctx, caller, permission, "team", team); err != nil {
			return sc, err
		}
	}
	switch {
	case project != "" && team != "":
		sc.reason = fmt.Sprintf("nothing was reported of %s that belongs to %s", project, team)
	case project != "":
		sc.reason = fmt.Sprintf("nothing was reported of %s yet", project)
	case team != "":
		sc.reason = fmt.Sprintf("nothing was reported of what %s owns yet", team)
	default:
		sc.reason = "nothing was reported yet of anything that you may see"
	}
	return sc, nil
}

// known is nil when the caller may know of a project or team of this name; else NotFound, with names that are like it.
func (s *service) known(ctx context.Context, caller *slipway.Caller, permission, what, name string) error {
	names, found, err := names(ctx, s.db, caller, permission, what, key(name), s.config.TeamLabel)
	if err != nil || found {
		return err
	}
	e := slipway.Errorf(slipway.NotFound, "there is no %s %q that you may see", what, clip(name))
	if like := near(key(name), names); len(like) > 0 {
		e = slipway.Errorf(slipway.NotFound, "there is no %s %q that you may see; did you mean %s?", what, clip(name), strings.Join(like, ", "))
	}
	return e.WithDetails(slipway.Detail{Field: what, Code: slipway.NotFound, Message: "is not known"})
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// near gives up to three names that are like another.
func near(name string, names []string) []string {
	type candidate struct {
		name string
		far  int
	}
	var list []candidate
	for _, n := range names {
		far := distance(name, n)
		if strings.HasPrefix(n, name) || strings.HasPrefix(name, n) && len(n) > 2 {
			far = min(far, 2)
		}
		if far <= max(2, len(name)/4) {
			list = append(list, candidate{n, far})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		if a.far != b.far {
			return a.far - b.far
		}
		return strings.Compare(a.name, b.name)
	})
	var like []string
	for _, c := range list {
		if len(like) < 3 && !slices.Contains(like, c.name) {
			like = append(like, c.name)
		}
	}
	return like
}

// distance is how many letters have to be put in, taken out or replaced (Levenshtein).
func distance(a, b string) int {
	if len(a) > maxName || len(b) > maxName {
		return maxName
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// Period is what an answer is about.
type Period struct {
	StartDate string `json:"startDate" doc:"First day, or the moment that was asked for" example:"2024-11-01"`
	EndDate   string `json:"endDate" doc:"Last day, which is part of the period, or the moment before which it ends" example:"2024-12-01"`
}

// maxPeriod is how long a period may be: as long as deployments are kept.
const maxPeriod = 5*366*24*time.Hour + time.Hour

// period reads a window from two dates: a date is a day in UTC, the last one as a whole; a time needs a zone. What has not happened yet is left out of the window.
func period(start, end string, now time.Time) (Window, Period, error) {
	today := now.UTC().Truncate(24 * time.Hour)
	from, until := today.AddDate(0, 0, -30), now
	p := Period{from.Format(time.DateOnly), today.Format(time.DateOnly)}
	read := func(field, text string) (time.Time, bool, error) {
		fault := func(message string) error {
			return slipway.Errorf(slipway.Invalid, "%s: %s", field, message).WithDetails(slipway.Detail{Field: field, Code: slipway.Invalid, Message: message})
		}
		if t, err := time.Parse(time.DateOnly, text); err == nil {
			return t, true, nil
		}
		if _, err := time.Parse("2006-01-02T15:04:05", text); err == nil {
			return time.Time{}, false, fault("a time needs a zone: write " + text + "Z, or only the date, which is a day in UTC")
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return t, false, fault("write a date such as 2026-01-31, or a time such as 2026-01-31T15:04:05Z")
		}
		return t.UTC(), false, nil
	}
	if end != "" {
		t, whole, err := read("endDate", end)
		if err != nil {
			return Window{}, p, err
		}
		p.EndDate, until = t.Format(time.RFC3339), t
		if whole {
			p.EndDate, until = end, t.AddDate(0, 0, 1)
		}
		from = t.Truncate(24*time.Hour).AddDate(0, 0, -30)
		p.StartDate = from.Format(time.DateOnly)
		// Tomorrow is today somewhere.
		if t.After(now.Add(24 * time.Hour)) {
			return Window{}, p, slipway.Errorf(slipway.Invalid, "endDate: %s lies in the future", end).WithDetails(slipway.Detail{Field: "endDate", Code: slipway.Invalid, Message: "lies in the future"})
		}
	}
	if start != "" {
		t, whole, err := read("startDate", start)
		if err != nil {
			return Window{}, p, err
		}
		p.StartDate, from = t.Format(time.RFC3339), t
		if whole {
			p.StartDate = start
		}
	}
	if until.After(now) {
		until = now
	}
	switch {
	case from.After(now):
		return Window{}, p, slipway.Errorf(slipway.Invalid, "startDate: %s lies in the future", p.StartDate).WithDetails(slipway.Detail{Field: "startDate", Code: slipway.Invalid, Message: "lies in the future"})
	case !from.Before(until):
		return Window{}, p, slipway.Errorf(slipway.Invalid, "startDate %s is not before endDate %s", p.StartDate, p.EndDate).
			WithDetails(slipway.Detail{Field: "startDate", Code: slipway.Invalid, Message: "must be before endDate"})
	case until.Sub(from) > maxPeriod:
		return Window{}, p, slipway.Errorf(slipway.Invalid, "the period is longer than five years; ask for less").WithDetails(slipway.Detail{Field: "startDate", Code: slipway.Invalid, Message: "is more than five years before endDate"})
	}
	return Window{from.Unix(), until.Unix() + min(1, int64(until.Nanosecond()))}, p, nil
}

// Metric is one metric of an answer.
type Metric struct {
	Value       *float64 `json:"value" nullable:"true" doc:"The value; null where there is no data, never 0 instead"`
	Unit        string   `json:"unit" doc:"What it is measured in" example:"hours"`
	Trend       *Trend   `json:"trend" nullable:"true" enum:"increasing,decreasing,stable" doc:"Where the value went since the period of the same length before: stable within 5 percent. null where either has no value"`
	Performance *Level   `json:"performance" nullable:"true" enum:"elite,high,medium,low" doc:"Its class in the benchmark; null without a value, and for the rework rate, which has none"`
	Reason      string   `json:"reason,omitempty" doc:"Why there is no value"`
	Text        string   `json:"text" doc:"The value for people" example:"4 h 15 min"`
	Previous    *float64 `json:"previous,omitempty" doc:"The value of the period before"`
	Count       int      `json:"count" doc:"How many things it was made of: deployments, changes, failed deployments, incidents, deployments that are rework"`
	Of          int      `json:"of,omitempty" doc:"Of how many deployments, for shares"`
}

// Metrics are the five metrics.
type Metrics struct {
	DeploymentFrequency  Metric `json:"deploymentFrequency" doc:"Deployments that succeeded, per week"`
	LeadTimeForChanges   Metric `json:"leadTimeForChanges" doc:"Median time from the first commit of a change to its deployment"`
	ChangeFailureRate    Metric `json:"changeFailureRate" doc:"Share of deployments that an incident or a rollback followed"`
	TimeToRestoreService Metric `json:"timeToRestoreService" doc:"Median length of the incidents that deployments caused"`
	ReworkRate           Metric `json:"reworkRate" doc:"Share of deployments that were made because of an incident"`
}

// metric is a number as it is shown. before is that of the period before, the zero value where there is none; reason says why there are no data at all.
func metric(n, before Number, reason string) Metric {
	m := Metric{Value: n.Value, Unit: n.Unit, Reason: n.Reason, Text: n.spell(), Count: n.Count, Of: n.Of, Previous: before.Value}
	if n.Value == nil && reason != "" {
		m.Reason = reason
	}
	if n.Level != "" {
		m.Performance = &n.Level
	}
	if t := TrendOf(before.Value, n.Value); t != "" && before.Unit == n.Unit {
		m.Trend = &t
	}
	return m
}

func metrics(n, before Numbers, reason string) Metrics {
	return Metrics{
		metric(n.Frequency, before.Frequency, reason), metric(n.LeadTime, before.LeadTime, reason), metric(n.Failures, before.Failures, reason),
		metric(n.Restore, before.Restore, reason), metric(n.Rework, before.Rework, reason),
	}
}

// Point is the metrics of one interval of a series.
type Point struct {
	Start time.Time `json:"start" doc:"When the interval begins; the first and the last may be parts of one"`
	End   time.Time `json:"end" doc:"When it ends"`
	Metrics
}

// Group is the metrics of a part.
type Group struct {
	Name    string  `json:"name" doc:"Service or environment"`
	Metrics Metrics `json:"metrics" doc:"Its metrics"`
}

// Report is the answer to a question for metrics.
type Report struct {
	Project     *string           `json:"project" nullable:"true" doc:"Project that was asked for" example:"my-service"`
	Team        *string           `json:"team" nullable:"true" doc:"Team that was asked for" example:"platform-team"`
	Period      Period            `json:"period" doc:"What the answer is about"`
	Metrics     Metrics           `json:"metrics" doc:"The metrics"`
	Environment string            `json:"environment" doc:"Environment whose deployments count" example:"prod"`
	Services    int               `json:"services" doc:"How many services these are, of those that you may see"`
	Benchmark   string            `json:"benchmark" doc:"Table of the performance classes" example:"2023"`
	Definitions string            `json:"definitions" enum:"slipway,devlake" doc:"What the metrics mean"`
	Series      []Point           `json:"series,omitempty" doc:"The metrics of each interval, with interval"`
	Groups      []Group           `json:"groups,omitempty" doc:"The metrics of each part, by name, with groupBy"`
	PageInfo    *slipway.PageInfo `json:"pageInfo,omitempty" doc:"Where the page of groups stands"`
}

// question is what is asked for metrics.
type question struct {
	project, team string
	environment   string
	window        Window
	period        Period
	rules         Rules
	interval      string
	groupBy       string
	limit         int
	cursor        string
}

const maxPoints = 2000

func (s *service) measure(ctx context.Context, q question) (Report, error) {
	sc, err := s.scopeOf(ctx, metricsPermission, q.project, q.team)
	if err != nil {
		return Report{}, err
	}
	rep := Report{
		Project: optional(q.project), Team: optional(q.team), Period: q.period, Environment: q.environment, Services: len(sc.services), Benchmark: q.rules.Benchmark.Name,
		Definitions: map[bool]string{true: "devlake", false: "slipway"}[q.rules.DevLake],
	}
	if q.rules.IncidentsKnown, err = s.reader.anyIncident(ctx); err != nil {
		return rep, err
	}
	if len(sc.services) == 0 {
		rep.Metrics = metrics(newMeasurement(q.window, q.rules).numbers(), Numbers{}, sc.reason)
		return rep, nil
	}
	all := newAnswer(q)
	if q.interval != "" {
		if all.series, err = newSeries(q); err != nil {
			return rep, err
		}
	}
	if q.groupBy == "" {
		err = s.count(ctx, sc, q, q.environment, all, nil)
		all.put(&rep)
		return rep, err
	}
	names, err := s.groupNames(ctx, sc, q)
	if err != nil {
		return rep, err
	}
	if names, err = s.pageOf(&rep, q, names); err != nil {
		return rep, err
	}
	groups := map[string]*answer{}
	for _, name := range names {
		groups[name] = newAnswer(q)
	}
	if q.groupBy == "service" {
		err = s.count(ctx, sc, q, q.environment, all, groups)
	} else {
		err = s.count(ctx, sc, q, q.environment, all, nil)
		for _, name := range names {
			if err == nil {
				err = s.count(ctx, sc, q, name, groups[name], nil)
			}
		}
	}
	rep.Groups = []Group{}
	for _, name := range names {
		rep.Groups = append(rep.Groups, Group{name, groups[name].metrics()})
	}
	all.put(&rep)
	return rep, err
}

// answer is what facts are counted into: the window that was asked for, the one before it, and the intervals of a series.
type answer struct {
	now, past *measurement
	series    *seriesMeasurement // nil: none was asked for
}

func newAnswer(q question) *answer {
	return &answer{now: newMeasurement(q.window, q.rules), past: newMeasurement(q.window.before(), q.rules)}
}

func (a *answer) add(f *Facts) {
	a.now.add(f)
	a.past.add(f)
	if a.series != nil {
		a.series.add(f)
	}
}

func (a *answer) metrics() Metrics {
	return metrics(a.now.numbers(), a.past.numbers(), "")
}

func (a *answer) put(rep *Report) {
	rep.Metrics = a.metrics()
	if a.series != nil {
		rep.Series = a.series.points()
	}
}

// reader is what answers are read from: our own tables, or an existing DevLake database. What it is asked about is what the caller may see, and all that it gives is about that.
type reader interface {
	// anyIncident says whether incidents are known of at all.
	anyIncident(ctx context.Context) (bool, error)
	// environmentsOf lists the environments that services may have deployments in.
	environmentsOf(ctx context.Context, sc scope) ([]string, error)
	// count goes through what happened to services in one environment and window: all of it into one answer, and that of a service into the group of its title, where there is one.
	count(ctx context.Context, sc scope, environment string, w Window, r Rules, all *answer, groups map[string]*answer) error
	// history reads a page of deployments, newest first, from after a place in that order on, and how many there are in all; "" for any environment or status.
	history(ctx context.Context, sc scope, environment, status string, after *historyKey, limit int) (historyPage, error)
	// explain reads what is behind a number, newest first, from after a place in that order on: the deployments that ended in the window; for the lead time, the changes whose deployment did; for the time to
	// restore, the incidents that were resolved in it.
	explain(ctx context.Context, sc scope, metric, environment string, w Window, r Rules, after *explainedKey, limit int) ([]explained, error)
}

// count has what happened in the period and the one before it counted.
func (s *service) count(ctx context.Context, sc scope, q question, environment string, all *answer, groups map[string]*answer) error {
	return s.reader.count(ctx, sc, environment, Window{q.window.before().From, q.window.Until}, q.rules, all, groups)
}

// groupNames lists the names of all groups.
func (s *service) groupNames(ctx context.Context, sc scope, q question) ([]string, error) {
	if q.groupBy == "service" {
		return sc.titles(), nil
	}
	return s.reader.environmentsOf(ctx, sc)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// pageOf cuts a page of groups out of their names, and notes where it stands.
func (s *service) pageOf(rep *Report, q question, names []string) ([]string, error) {
	slices.Sort(names)
	names = slices.Compact(names)
	cursors := secret.CursorsOf[string](s.keys, "dora groups", q.project, q.team, q.environment, q.groupBy, q.period.StartDate, q.period.EndDate)
	after, err := cursors.Read(q.cursor)
	if err != nil {
		return nil, err
	}
	if after != nil {
		i, found := slices.BinarySearch(names, *after)
		if found {
			i++
		}
		names = names[i:]
	}
	rep.PageInfo = &slipway.PageInfo{Limit: q.limit}
	if len(names) > q.limit {
		names = names[:q.limit]
		rep.PageInfo.HasMore = true
		rep.PageInfo.NextCursor = cursors.Write(names[len(names)-1])
	}
	return names, nil
}

// seriesMeasurement counts facts by interval: days, weeks from Monday, or calendar months of the window. Each fact is looked at once, by the interval that it lies in.
type seriesMeasurement struct {
	window    Window
	intervals []*measurement
	last      int // where the fact before lay: most often the next one lies there too
}

func newSeries(q question) (*seriesMeasurement, error) {
	windows := intervals(q.window, q.interval)
	if len(windows) > maxPoints {
		return nil, slipway.Errorf(slipway.Invalid, "interval: that makes more than %d points; ask for a shorter period, or for weeks or months", maxPoints)
	}
	t := &seriesMeasurement{window: q.window}
	for _, w := range windows {
		t.intervals = append(t.intervals, newMeasurement(w, q.rules))
	}
	return t, nil
}

// at is the interval that a moment lies in; nil outside of all.
func (s *seriesMeasurement) at(moment int64) *measurement {
	if !s.window.has(moment) {
		return nil
	}
	if t := s.intervals[s.last]; !t.window.has(moment) {
		s.last, _ = slices.BinarySearchFunc(s.intervals, moment, func(t *measurement, moment int64) int {
			switch {
			case t.window.Until <= moment:
				return -1
			case t.window.From > moment:
				return 1
			}
			return 0
		})
	}
	return s.intervals[s.last]
}

func (s *seriesMeasurement) add(f *Facts) {
	for i := range f.Deployments {
		d := &f.Deployments[i]
		t := s.at(d.At)
		if t != nil {
			t.deployment(d)
		}
		// Its recovery may lie in another interval.
		if d.Result == Failed && d.Recovered >= 0 {
			if later := s.at(d.At + d.Recovered); later != nil && later != t {
				later.deployment(d)
			}
		}
	}
	for i := range f.Changes {
		if t := s.at(f.Changes[i].At); t != nil {
			t.change(&f.Changes[i])
		}
	}
	for i := range f.Recoveries {
		if t := s.at(f.Recoveries[i].At); t != nil {
			t.recovery(&f.Recoveries[i])
		}
	}
}

func (s *seriesMeasurement) points() []Point {
	list := make([]Point, len(s.intervals))
	for i, t := range s.intervals {
		list[i] = Point{time.Unix(t.window.From, 0).UTC(), time.Unix(t.window.Until, 0).UTC(), metrics(t.numbers(), Numbers{}, "")}
	}
	return list
}

func intervals(w Window, interval string) (list []Window) {
	for from := w.From; from < w.Until && len(list) <= maxPoints; {
		t := time.Unix(from, 0).UTC().Truncate(24 * time.Hour)
		var next time.Time
		switch interval {
		case "day":
			next = t.AddDate(0, 0, 1)
		case "week":
			next = t.AddDate(0, 0, 7-(int(t.Weekday())+6)%7)
		default:
			next = time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, time.UTC)
		}
		until := min(next.Unix(), w.Until)
		list = append(list, Window{from, until})
		from = until
	}
	return list
}

// historyPage is a page of the history, and how many deployments fit in all.
type historyPage struct {
	items []json.RawMessage
	total int64
	next  *historyKey
}

// historyKey orders deployments: newest first, by start.
type historyKey struct {
	Started int64  `json:"s"`
	ID      int64  `json:"i,omitempty"`
	Name    string `json:"n,omitempty"` // in DevLake's database, whose ids are texts
}

// mayReport is nil when the caller may report of the services of all records: all of them with the permission for everything, else those that are bound to an entity that the permission is
// for, or that have its name.
func (s *service) mayReport(ctx context.Context, caller *slipway.Caller, records []record) error {
	if entity.All(caller, reportPermission) {
		return nil
	}
	names := map[string]bool{}
	for _, r := range records {
		names[r.service] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		objects, err := objectsOf(ctx, s.db, name)
		if err != nil {
			return err
		}
		if len(objects) == 0 {
			objects = []auth.Object{{Ref: "component:default/" + name}}
		}
		if !slices.ContainsFunc(objects, func(o auth.Object) bool { return auth.Allows(caller, reportPermission, o) }) {
			return slipway.Errorf(slipway.Forbidden, "%s lacks the permission %s on %s; ask an operator for a grant", caller.Subject, reportPermission, objects[0].Ref)
		}
	}
	return nil
}

// follow has services follow the catalog: an entity that is new or changed may be theirs now, one that is gone is theirs no more.
func (s *service) follow(ctx context.Context, tx *store.Tx, e event.Event) error {
	var doc struct {
		Metadata struct {
			Name        string            `json:"name"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	ref, err := slipway.ParseEntityRef(e.Subject, slipway.EntityRef{})
	if err != nil {
		return nil
	}
	row, err := s.entities.Get(ctx, tx, auth.System(), ref)
	gone := slipway.CodeOf(err) == slipway.NotFound
	if err != nil && !gone {
		return err
	}
	if !gone {
		if err := json.Unmarshal(row.JSON, &doc); err != nil {
			return err
		}
	}
	list, err := servicesOf(ctx, tx, e.EntityID, key(ref.Name), key(doc.Metadata.Annotations[projectAnnotation]))
	if err != nil {
		return err
	}
	if gone {
		if err := unbind(ctx, tx, e.EntityID); err != nil {
			return err
		}
	}
	return bindServices(ctx, tx, list)
}

// ahead says which events are about entities that no service is, was or may be bound to: most of a catalog.
func (s *service) ahead(ctx context.Context, events []event.Event) ([]bool, error) {
	ids := make([]int64, len(events))
	names := map[int64][]string{} // under which an entity may have a service
	for i, e := range events {
		ids[i] = e.EntityID
		if ref, err := slipway.ParseEntityRef(e.Subject, slipway.EntityRef{}); err == nil {
			names[e.EntityID] = append(names[e.EntityID], key(ref.Name))
		}
	}
	if err := annotated(ctx, s.db, ids, names); err != nil {
		return nil, err
	}
	theirs, err := withServices(ctx, s.db, ids, names)
	if err != nil {
		return nil, err
	}
	done := make([]bool, len(events))
	for i, id := range ids {
		done[i] = !theirs[id]
	}
	return done, nil
}
