package dora

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/secret"
)

type body[T any] struct{ Body T }

// About are the parameters that say what a question is about.
type About struct {
	Project     string `query:"project" maxLength:"200" doc:"Project: a component, system, API or resource of the catalog by name or entity ref, or a service or project as it is reported; absent: all that you may see" example:"my-service"`
	Team        string `query:"team" maxLength:"200" doc:"Team: the group that owns the entities, with the groups below it, or the value of their team label" example:"platform-team"`
	StartDate   string `query:"startDate" maxLength:"40" doc:"First day in UTC, or a moment with a zone; absent: 30 days before the end" example:"2024-11-01"`
	EndDate     string `query:"endDate" maxLength:"40" doc:"Last day in UTC, which is part of the period, or a moment with a zone before which it ends; absent: now" example:"2024-12-01"`
	Environment string `query:"environment" maxLength:"200" default:"prod" doc:"Environment whose deployments count. Changes and incidents belong to prod"`
	Sent        blueprint.Query
}

// empty refuses parameters that were sent without a value: a script whose variable is empty must not be shown everything.
func empty(q blueprint.Query) error {
	var names []string
	for name, values := range q.Values {
		if name != "cursor" && slices.Contains(values, "") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	err := slipway.Errorf(slipway.Invalid, "%s: was sent without a value; leave it out, or give it one", strings.Join(names, ", "))
	for _, name := range names {
		err.Details = append(err.Details, slipway.Detail{Field: name, Code: slipway.Invalid, Message: "was sent without a value"})
	}
	return err
}

func (s *service) question(a About, benchmark, definitions string) (question, error) {
	q := question{project: a.Project, team: a.Team, environment: s.environments.normalise(a.Environment), rules: s.rules}
	if err := empty(a.Sent); err != nil {
		return q, err
	}
	if benchmark != "" {
		c := *s.config
		c.Benchmark = benchmark
		b, err := c.benchmark()
		if err != nil {
			return q, slipway.Errorf(slipway.Invalid, "%w", err).WithDetails(slipway.Detail{Field: "benchmark", Code: slipway.Invalid, Message: "is not known"})
		}
		q.rules.Benchmark, q.rules.AllIncidents = b, s.config.Incidents.All || benchmark == "2021"
	}
	if definitions != "" {
		q.rules.DevLake = definitions == "devlake"
	}
	var err error
	q.window, q.period, err = period(a.StartDate, a.EndDate, s.now())
	return q, err
}

func (s *service) getMetrics(ctx context.Context, in *struct {
	About
	Benchmark   string `query:"benchmark" maxLength:"100" doc:"Table of performance classes: 2023, 2021 or one of the installation's; absent: as configured"`
	Definitions string `query:"definitions" enum:"slipway,devlake" doc:"What the metrics mean; absent: as configured"`
	Interval    string `query:"interval" enum:"day,week,month" doc:"Also give the metrics of each day, week from Monday, or calendar month of the period"`
	GroupBy     string `query:"groupBy" enum:"service,environment" doc:"Also give the metrics of each service or environment"`
	Limit       int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many groups on a page"`
	Cursor      string `query:"cursor" doc:"pageInfo.nextCursor of the page of groups before"`
}) (*body[Report], error) {
	q, err := s.question(in.About, in.Benchmark, in.Definitions)
	if err != nil {
		return nil, err
	}
	q.interval, q.groupBy, q.limit, q.cursor = in.Interval, in.GroupBy, in.Limit, in.Cursor
	if in.Cursor != "" && in.GroupBy == "" {
		return nil, slipway.Errorf(slipway.Invalid, "cursor: is for pages of groups; say groupBy too").WithDetails(slipway.Detail{Field: "cursor", Code: slipway.Invalid, Message: "needs groupBy"})
	}
	r, err := s.measure(ctx, q)
	return &body[Report]{r}, err
}

// History is a page of deployments.
type History struct {
	Service     *string          `json:"service" nullable:"true" doc:"Service that was asked for; null: all that you may see" example:"my-service"`
	Deployments []Deployment     `json:"deployments" nullable:"false" doc:"The deployments, newest first"`
	Total       int64            `json:"total" doc:"How many there are on all pages"`
	PageInfo    slipway.PageInfo `json:"pageInfo" doc:"Where this page stands"`
}

// historyBody is History with its deployments as they are stored.
type historyBody struct {
	Service     *string           `json:"service"`
	Deployments []json.RawMessage `json:"deployments"`
	Total       int64             `json:"total"`
	PageInfo    slipway.PageInfo  `json:"pageInfo"`
}

func (s *service) getHistory(ctx context.Context, in *struct {
	Service     string `query:"service" maxLength:"200" doc:"Service: as it is reported, or an entity of the catalog by name or ref; absent: all that you may see" example:"my-service"`
	Environment string `query:"environment" maxLength:"200" doc:"Only deployments to this environment" example:"prod"`
	Status      string `query:"status" enum:"SUCCESS,FAILURE,IN_PROGRESS,CANCELLED" doc:"Only deployments that stand so"`
	Limit       int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many on a page"`
	Cursor      string `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
	Sent        blueprint.Query
}) (*body[blueprint.Raw[History]], error) {
	if err := empty(in.Sent); err != nil {
		return nil, err
	}
	env := ""
	if in.Environment != "" {
		env = s.environments.normalise(in.Environment)
	}
	cursors := secret.CursorsOf[historyKey](s.keys, "dora history", key(in.Service), env, in.Status)
	after, err := cursors.Read(in.Cursor)
	if err != nil {
		return nil, err
	}
	sc, err := s.scopeOf(ctx, historyPermission, in.Service, "")
	if err != nil {
		return nil, renamed(err)
	}
	page, err := s.reader.history(ctx, sc, env, in.Status, after, in.Limit)
	if err != nil {
		return nil, err
	}
	out := historyBody{Service: optional(in.Service), Deployments: page.items, Total: page.total, PageInfo: slipway.PageInfo{Limit: in.Limit, HasMore: page.next != nil}}
	if out.Deployments == nil {
		out.Deployments = []json.RawMessage{}
	}
	if page.next != nil {
		out.PageInfo.NextCursor = cursors.Write(*page.next)
	}
	raw, err := json.Marshal(out)
	return &body[blueprint.Raw[History]]{blueprint.Raw[History]{JSON: raw}}, err
}

// renamed has an error about a project speak of a service.
func renamed(err error) error {
	e, ok := errors.AsType[*slipway.Error](err)
	if !ok || e.Code != slipway.NotFound {
		return err
	}
	c := *e
	c.Message = strings.Replace(c.Message, "no project ", "no service ", 1)
	c.Details = nil
	return c.WithDetails(slipway.Detail{Field: "service", Code: slipway.NotFound, Message: "is not known"})
}

// Explanation is a page of what is behind a number.
type Explanation struct {
	Of       string           `json:"of" enum:"deployments,changes,incidents" doc:"What the items are"`
	Period   Period           `json:"period" doc:"What the numbers are about"`
	Text     string           `json:"text" doc:"How the number comes of the items"`
	Items    []Explained      `json:"items" nullable:"false" doc:"The items, newest first"`
	PageInfo slipway.PageInfo `json:"pageInfo" doc:"Where this page stands"`
}

// Explained is a deployment, change or incident behind a number; it has one of the three.
type Explained struct {
	Deployment   *Deployment `json:"deployment,omitempty" doc:"A deployment"`
	Change       *Change     `json:"change,omitempty" doc:"A change"`
	Incident     *Incident   `json:"incident,omitempty" doc:"An incident"`
	Service      string      `json:"service" doc:"Its service"`
	Counts       bool        `json:"counts" doc:"Whether it counts for the number: a failed deployment for the failure rate, an incident that a deployment caused for the time to restore"`
	DeploymentID string      `json:"deploymentId,omitempty" doc:"The deployment that it belongs to"`
	Seconds      *int64      `json:"seconds,omitempty" doc:"Its share: the lead time of a change, the length of an incident"`
	Why          string      `json:"why,omitempty" doc:"Why it counts, or does not"`
}

func (s *service) getExplanation(ctx context.Context, in *struct {
	About
	Metric      string `query:"metric" required:"true" enum:"deploymentFrequency,leadTimeForChanges,changeFailureRate,timeToRestoreService,reworkRate" doc:"The metric to explain"`
	Benchmark   string `query:"benchmark" maxLength:"100" doc:"Table of performance classes, as for the metrics: with 2021, all incidents count; absent: as configured"`
	Definitions string `query:"definitions" enum:"slipway,devlake" doc:"What the metrics mean; absent: as configured"`
	Limit       int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many on a page"`
	Cursor      string `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
}) (*body[Explanation], error) {
	q, err := s.question(in.About, in.Benchmark, in.Definitions)
	if err != nil {
		return nil, err
	}
	sc, err := s.scopeOf(ctx, historyPermission, in.Project, in.Team)
	if err != nil {
		return nil, err
	}
	cursors := secret.CursorsOf[explainedKey](s.keys, "dora explain", in.Metric, q.rules.DevLake, q.rules.AllIncidents, key(in.Project), key(in.Team), q.environment, q.period.StartDate, q.period.EndDate)
	after, err := cursors.Read(in.Cursor)
	if err != nil {
		return nil, err
	}
	out := Explanation{Of: "deployments", Period: q.period, Text: explanations[in.Metric], Items: []Explained{}, PageInfo: slipway.PageInfo{Limit: in.Limit}}
	if q.rules.DevLake {
		out.Text = devLakeExplanations[in.Metric]
	}
	switch in.Metric {
	case "leadTimeForChanges":
		out.Of = "changes"
	case "timeToRestoreService":
		out.Of = "incidents"
	}
	list, err := s.reader.explain(ctx, sc, in.Metric, q.environment, q.window, q.rules, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	if len(list) > in.Limit {
		list = list[:in.Limit]
		out.PageInfo.HasMore = true
		out.PageInfo.NextCursor = cursors.Write(list[len(list)-1].key)
	}
	for _, e := range list {
		x, err := e.explain(in.Metric, q.window, q.rules)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, x)
	}
	return &body[Explanation]{out}, nil
}

// explanations say how a number comes of the items behind it.
var explanations = map[string]string{
	"deploymentFrequency":  "The number of deployments that succeeded, divided by the weeks of the period.",
	"leadTimeForChanges":   "The median of the time from the first commit of each change to the end of the deployment that brought it. Deployments without a change count from their first commit.",
	"changeFailureRate":    "The deployments that count, as a share of all that succeeded.",
	"timeToRestoreService": "The median length of the incidents that count.",
	"reworkRate":           "The deployments that were made because of an incident, as a share of all that succeeded.",
}

var devLakeExplanations = map[string]string{
	"deploymentFrequency":  "The days with a deployment that counts, of the middle calendar week or month.",
	"leadTimeForChanges":   "The lower middle of the cycle times of the pull requests that count, in whole minutes.",
	"changeFailureRate":    "The deployments that count, as a share of all that succeeded.",
	"timeToRestoreService": "The lower middle of the time from the end of the deployment to the end of the incident, of those that count; with the benchmark 2021, of the length of all incidents.",
	"reworkRate":           explanations["reworkRate"],
}

// explain says what an item has to do with a metric.
func (e explained) explain(metric string, w Window, r Rules) (x Explained, err error) {
	x = Explained{Service: e.title, DeploymentID: e.owner.String}
	switch e.key.Kind {
	case "change":
		x.Change = &Change{}
		err = json.Unmarshal([]byte(e.doc), x.Change)
		e.explainChange(&x, r)
	case "incident":
		x.Incident = &Incident{}
		err = json.Unmarshal([]byte(e.doc), x.Incident)
		e.explainIncident(&x, w, r)
	default:
		x.Deployment = &Deployment{}
		err = json.Unmarshal([]byte(e.doc), x.Deployment)
		e.explainDeployment(&x, metric, r)
	}
	return x, err
}

// lasts is the share of an item in whole seconds.
func (x *Explained) lasts(from, to time.Time) { x.Seconds = ptr(to.Unix() - from.Unix()) }

func (e explained) explainChange(x *Explained, r Rules) {
	c := x.Change
	first := *cmp.Or(c.FirstCommitAt, &c.OpenedAt)
	x.lasts(first, e.ended.Time)
	switch {
	case r.DevLake && e.first:
		x.Why = "it came with the first deployment, of which DevLake counts no changes"
	case r.DevLake:
		minutes := e.cycle
		if minutes == none && !e.unmeasured && c.MergedAt != nil {
			minutes = cycle(changed{FirstCommit: first.Unix(), Opened: c.OpenedAt.Unix(), Merged: c.MergedAt.Unix()}, e.ended.Unix())
		}
		if x.Counts = minutes >= 0; x.Counts {
			x.Seconds = ptr(minutes * minute)
		} else {
			x.Why = "DevLake knows no cycle time of it"
		}
	case *x.Seconds < 0:
		x.Why = "its first commit was made after it was deployed"
	default:
		x.Counts = true
	}
}

func (e explained) explainIncident(x *Explained, w Window, r Rules) {
	in := x.Incident
	if in.ResolvedAt == nil {
		return
	}
	x.lasts(in.StartedAt, *in.ResolvedAt)
	after := int64(none)
	if !e.ended.IsZero() {
		after = max(0, in.StartedAt.Unix()-e.ended.Unix())
	}
	switch {
	case r.DevLake && r.AllIncidents:
		x.Counts, x.Why, *x.Seconds = true, "all incidents count", *x.Seconds/minute*minute
		if e.cycle >= 0 {
			*x.Seconds = e.cycle * minute // as DevLake has it
		}
	case r.AllIncidents:
		x.Counts, x.Why = true, "all incidents count"
	case after == none:
		x.Why = "there was no deployment before it"
	case r.DevLake && !w.has(in.ResolvedAt.Unix()-*x.Seconds-after):
		x.Why = "its deployment ended before the period, where DevLake counts no incident"
	case r.DevLake:
		x.Counts, x.Why, *x.Seconds = true, "DevLake counts from the end of the deployment", (*x.Seconds+after)/minute*minute
	case in.DeploymentID != "" && in.DeploymentID == e.owner.String:
		x.Counts, x.Why = true, "its reporter names the deployment"
	case r.caused(after):
		x.Counts, x.Why = true, fmt.Sprintf("it began %s after the deployment", spellSeconds(after))
	default:
		x.Why = fmt.Sprintf("it began %s after the last deployment, which is taken to be too long", spellSeconds(after))
	}
}

func (e explained) explainDeployment(x *Explained, metric string, r Rules) {
	d := x.Deployment
	ok := d.Status == statusSuccess
	switch metric {
	case "leadTimeForChanges":
		x.Counts, x.Why = true, "no change is known to have come with it: its first commit counts"
		x.lasts(d.firstCommit(), e.ended.Time)
	case "timeToRestoreService":
		x.Counts, x.Why, x.Seconds = true, "it failed, and the next one that succeeded was its recovery", ptr(e.recovered)
	case "changeFailureRate":
		switch after := e.IncidentAfter; {
		case d.Status == statusFailure && r.FailedCount && !r.DevLake:
			x.Counts, x.Why = true, "it failed"
		case !ok:
			x.Why = "it did not succeed"
		case after != none && r.caused(after):
			x.Counts, x.Why = true, fmt.Sprintf("an incident followed after %s", spellSeconds(after))
		case e.RolledBack && !r.DevLake:
			x.Counts, x.Why = true, "the next deployment put an older version back"
		case after != none:
			x.Why = fmt.Sprintf("an incident followed after %s, which is taken to be too long", spellSeconds(after))
		}
	case "reworkRate":
		switch {
		case !ok:
			x.Why = "it did not succeed"
		case d.Rework:
			x.Counts, x.Why = true, "its reporter says so"
		case e.PutBack:
			x.Counts, x.Why = true, "it put an older version back"
		}
	default:
		if x.Counts = ok; !ok {
			x.Why = "it did not succeed"
		}
	}
}

func spellSeconds(n int64) string {
	hours := float64(n) / hour
	return Number{Value: &hours, Unit: unitHours}.spell()
}

// The bodies of reports.

type newCommit struct {
	SHA        string `json:"sha" doc:"Its hash" example:"def456"`
	Message    string `json:"message,omitempty" doc:"Its message"`
	Author     string `json:"author,omitempty" doc:"Who wrote it: an e-mail address or a name"`
	Time       *when  `json:"time,omitempty" format:"date-time" doc:"When it was made"`
	Repository string `json:"repository,omitempty" doc:"Address of its repository"`
}

type newDeployment struct {
	ID                  string      `json:"id" doc:"Id, unique within source; the same again changes what is stored" example:"deploy-789"`
	Source              string      `json:"source,omitempty" doc:"Who reports it; api unless given"`
	Service             string      `json:"service" doc:"What was deployed" example:"my-service"`
	Project             string      `json:"project,omitempty" doc:"Project that the service belongs to"`
	Version             string      `json:"version,omitempty" doc:"Version, tag or branch"`
	Environment         string      `json:"environment" doc:"Where to; what the name means is told by dora.environments" example:"production"`
	OriginalEnvironment string      `json:"originalEnvironment,omitempty" doc:"Name of the environment where it was seen; environment unless given"`
	Status              string      `json:"status" doc:"SUCCESS, FAILURE, IN_PROGRESS or CANCELLED" example:"SUCCESS"`
	StartTime           *when       `json:"startTime" format:"date-time" doc:"When it began"`
	EndTime             *when       `json:"endTime,omitempty" format:"date-time" doc:"When it ended; required unless it is in progress"`
	Duration            any         `json:"duration,omitempty" doc:"Not looked at, as it follows of the times: so that what the history shows can be sent back"`
	TriggeredBy         *string     `json:"triggeredBy,omitempty" doc:"Who, or what"`
	Commit              *newCommit  `json:"commit,omitempty" doc:"What was deployed; the newest of commits unless given"`
	Commits             []newCommit `json:"commits,omitempty" doc:"What it brought, at most 100"`
	URL                 string      `json:"url,omitempty" doc:"Where to read more"`
	Detail              string      `json:"detail,omitempty" doc:"A title, or why it failed"`
	Rework              bool        `json:"rework,omitempty" doc:"Whether it was made because of an incident"`
	Rollback            bool        `json:"rollback,omitempty" doc:"Whether it put an older version back"`
	UpdatedAt           *when       `json:"updatedAt,omitempty" format:"date-time" doc:"When it was last changed by the reporter's clock; older reports than the stored one change nothing"`
}

type newChange struct {
	ID            string `json:"id" doc:"Id, unique within source; the same again changes what is stored" example:"42"`
	Source        string `json:"source,omitempty" doc:"Who reports it; api unless given"`
	Service       string `json:"service" doc:"What was changed" example:"my-service"`
	Project       string `json:"project,omitempty" doc:"Project that the service belongs to"`
	Title         string `json:"title,omitempty" doc:"Its title"`
	Author        string `json:"author,omitempty" doc:"Who made it"`
	URL           string `json:"url,omitempty" doc:"Where to read more"`
	FirstCommitAt *when  `json:"firstCommitAt,omitempty" format:"date-time" doc:"When its first commit was made: lead time is counted from here"`
	OpenedAt      *when  `json:"openedAt,omitempty" format:"date-time" doc:"When it was opened; one of the three times is required"`
	MergedAt      *when  `json:"mergedAt,omitempty" format:"date-time" doc:"When it was merged"`
	MergeCommit   string `json:"mergeCommit,omitempty" doc:"Hash of the commit that brought it in"`
	DeploymentID  string `json:"deploymentId,omitempty" doc:"Id of the deployment that it came with; else it is the first one to production after mergedAt"`
	UpdatedAt     *when  `json:"updatedAt,omitempty" format:"date-time" doc:"When it was last changed by the reporter's clock; older reports than the stored one change nothing"`
}

type newIncident struct {
	ID           string `json:"id" doc:"Id, unique within source; the same again changes what is stored" example:"INC-7"`
	Source       string `json:"source,omitempty" doc:"Who reports it; api unless given"`
	Service      string `json:"service" doc:"What was hit" example:"my-service"`
	Project      string `json:"project,omitempty" doc:"Project that the service belongs to"`
	Title        string `json:"title,omitempty" doc:"Its title"`
	Severity     string `json:"severity,omitempty" doc:"How bad it is"`
	URL          string `json:"url,omitempty" doc:"Where to read more"`
	StartedAt    *when  `json:"startedAt" format:"date-time" doc:"When it began"`
	ResolvedAt   *when  `json:"resolvedAt,omitempty" format:"date-time" doc:"When it was over"`
	DeploymentID string `json:"deploymentId,omitempty" doc:"Id of the deployment that caused it; else it is the last one to production before startedAt"`
	UpdatedAt    *when  `json:"updatedAt,omitempty" format:"date-time" doc:"When it was last changed by the reporter's clock; older reports than the stored one change nothing"`
}

// when is a moment in a report: RFC 3339.
type when struct{ time.Time }

// UnmarshalJSON says in words what is wrong.
func (w *when) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return errors.New("write a time as a text such as \"2026-01-02T15:04:05Z\"")
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return fmt.Errorf("%q is no time with a zone; write one such as 2026-01-02T15:04:05Z", clip(text))
	}
	w.Time = t.UTC()
	return nil
}

func (w *when) ptr() *time.Time {
	if w == nil || w.IsZero() {
		return nil
	}
	t := w.Truncate(time.Microsecond)
	return &t
}

// faults collects what is wrong with a report, each with where.
type faults struct {
	list  []slipway.Detail
	at    string            // "[3]." in a list
	names map[string]string // what the sender calls our fields, where that is something else
	now   time.Time
}

// add notes what is wrong with a field; of one that is wrong in several ways, the first.
func (f *faults) add(field, format string, args ...any) {
	const most = 20
	field = f.at + f.theirs(field)
	if len(f.list) < most && !slices.ContainsFunc(f.list, func(d slipway.Detail) bool { return d.Field == field }) {
		f.list = append(f.list, slipway.Detail{Field: field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
	}
}

var fieldName = regexp.MustCompile(`[A-Za-z]+`)

// theirs is a field, such as commits[2].sha, as the sender calls it.
func (f *faults) theirs(field string) string {
	if name, ok := f.names[field]; ok {
		return name
	}
	return fieldName.ReplaceAllStringFunc(field, func(part string) string { return cmp.Or(f.names[part], part) })
}

func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	d := f.list[0]
	return slipway.Errorf(slipway.Invalid, "%s: %s", d.Field, d.Message).WithDetails(f.list...)
}

func (f *faults) text(field, v string, required bool, most int) {
	switch {
	case required && strings.TrimSpace(v) == "":
		f.add(field, "is required")
	case len(v) > most:
		f.add(field, "is longer than %d bytes", most)
	case !utf8.ValidString(v) || strings.ContainsRune(v, 0):
		f.add(field, "holds what is no text")
	}
}

// text is a text of a report, and what it has to be.
type text struct {
	field, value string
	required     bool
	most         int // bytes
}

func (f *faults) texts(list []text) {
	for _, t := range list {
		f.text(t.field, t.value, t.required, t.most)
	}
}

// Times lie between these: outside, a clock is wrong, or somebody takes milliseconds for seconds.
var earliest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (f *faults) time(field string, w *when, required bool) {
	switch {
	case w == nil && required:
		f.add(field, "is required: a time with a zone")
	case w == nil:
	case w.Before(earliest):
		f.add(field, "lies before the year 2000")
	case w.After(f.now.Add(24 * time.Hour)):
		f.add(field, "lies in the future")
	}
}

func (f *faults) order(field string, w *when, after string, than *when) {
	if w != nil && than != nil && w.Before(than.Time) {
		f.add(field, "lies before %s", f.theirs(after))
	}
}

const defaultSource = "api"

func (n newDeployment) check(f *faults) Deployment {
	f.texts([]text{
		{"id", n.ID, true, maxID}, {"source", n.Source, false, maxName}, {"service", n.Service, true, maxName}, {"project", n.Project, false, maxName}, {"version", n.Version, false, maxName},
		{"environment", n.Environment, true, maxName}, {"url", n.URL, false, maxText}, {"detail", n.Detail, false, maxText}, {"originalEnvironment", n.OriginalEnvironment, false, maxName},
	})
	status := strings.ToUpper(n.Status)
	if _, over := results[status]; !over && status != statusInProgress {
		f.add("status", "must be SUCCESS, FAILURE, IN_PROGRESS or CANCELLED")
	} else if over && n.EndTime == nil {
		f.add("endTime", "is required of a deployment that has ended")
	} else if !over && n.EndTime != nil {
		f.add("endTime", "is there, but the status is IN_PROGRESS")
	}
	f.time("startTime", n.StartTime, true)
	f.time("endTime", n.EndTime, false)
	f.order("endTime", n.EndTime, "startTime", n.StartTime)
	f.time("updatedAt", n.UpdatedAt, false)
	const mostCommits = 100
	if len(n.Commits) > mostCommits {
		f.add("commits", "are more than %d; send the first and the last", mostCommits)
		n.Commits = n.Commits[:mostCommits]
	}
	d := Deployment{
		ID: n.ID, Source: cmp.Or(n.Source, defaultSource), Service: strings.TrimSpace(n.Service), Environment: n.Environment, OriginalEnvironment: n.OriginalEnvironment, Status: status,
		EndTime: n.EndTime.ptr(), TriggeredBy: n.TriggeredBy, URL: n.URL, Detail: n.Detail, Rework: n.Rework, Rollback: n.Rollback, UpdatedAt: n.UpdatedAt.ptr(), Version: optional(n.Version), project: n.Project,
	}
	if n.StartTime != nil {
		d.StartTime = *n.StartTime.ptr()
	}
	if n.TriggeredBy != nil {
		f.text("triggeredBy", *n.TriggeredBy, false, maxText)
	}
	if n.Commit != nil {
		c := n.Commit.check(f, "commit")
		d.Commit = &c
	}
	for i, c := range n.Commits {
		d.Commits = append(d.Commits, c.check(f, fmt.Sprintf("commits[%d]", i)))
	}
	return d
}

func (n newCommit) check(f *faults, field string) Commit {
	f.text(field+".sha", n.SHA, true, 100)
	f.text(field+".message", n.Message, false, maxText)
	f.text(field+".author", n.Author, false, maxID)
	f.text(field+".repository", n.Repository, false, maxText)
	if n.Time != nil && n.Time.Before(time.Unix(0, 0)) {
		f.add(field+".time", "lies before 1970")
	}
	return Commit{SHA: n.SHA, Message: n.Message, Author: n.Author, Time: n.Time.ptr(), Repo: n.Repository}
}

func (n newChange) check(f *faults) Change {
	f.texts([]text{
		{"id", n.ID, true, maxID}, {"source", n.Source, false, maxName}, {"service", n.Service, true, maxName}, {"project", n.Project, false, maxName}, {"title", n.Title, false, maxText},
		{"author", n.Author, false, maxID}, {"url", n.URL, false, maxText}, {"mergeCommit", n.MergeCommit, false, 100}, {"deploymentId", n.DeploymentID, false, maxID},
	})
	if n.OpenedAt == nil {
		n.OpenedAt = cmp.Or(n.FirstCommitAt, n.MergedAt)
	}
	f.time("openedAt", n.OpenedAt, true)
	f.time("mergedAt", n.MergedAt, false)
	f.order("mergedAt", n.MergedAt, "openedAt", n.OpenedAt)
	if n.FirstCommitAt != nil && n.FirstCommitAt.Before(time.Unix(0, 0)) {
		f.add("firstCommitAt", "lies before 1970")
	}
	c := Change{
		ID: n.ID, Source: cmp.Or(n.Source, defaultSource), Service: strings.TrimSpace(n.Service), Title: n.Title, Author: n.Author, URL: n.URL, FirstCommitAt: n.FirstCommitAt.ptr(), MergedAt: n.MergedAt.ptr(),
		MergeCommit: n.MergeCommit, DeploymentID: n.DeploymentID, UpdatedAt: n.UpdatedAt.ptr(), project: n.Project,
	}
	if n.OpenedAt != nil {
		c.OpenedAt = *n.OpenedAt.ptr()
	}
	return c
}

func (n newIncident) check(f *faults) Incident {
	f.texts([]text{
		{"id", n.ID, true, maxID}, {"source", n.Source, false, maxName}, {"service", n.Service, true, maxName}, {"project", n.Project, false, maxName}, {"title", n.Title, false, maxText},
		{"severity", n.Severity, false, maxName}, {"url", n.URL, false, maxText}, {"deploymentId", n.DeploymentID, false, maxID},
	})
	f.time("startedAt", n.StartedAt, true)
	f.time("resolvedAt", n.ResolvedAt, false)
	f.order("resolvedAt", n.ResolvedAt, "startedAt", n.StartedAt)
	i := Incident{
		ID: n.ID, Source: cmp.Or(n.Source, defaultSource), Service: strings.TrimSpace(n.Service), Title: n.Title, Severity: n.Severity, URL: n.URL, ResolvedAt: n.ResolvedAt.ptr(),
		DeploymentID: n.DeploymentID, UpdatedAt: n.UpdatedAt.ptr(), project: n.Project,
	}
	if n.StartedAt != nil {
		i.StartedAt = *n.StartedAt.ptr()
	}
	return i
}

// oneOrMany reads a body that is one thing or a list of them. What is not known in it is a fault, and so is each thing that does not fit; nothing is stored then.
func oneOrMany[N interface{ check(*faults) T }, T any](raw []byte, now time.Time, make func(T) *record) ([]record, error) {
	raw = bytes.TrimSpace(raw)
	parts := []json.RawMessage{raw}
	many := len(raw) > 0 && raw[0] == '['
	if many {
		if err := json.Unmarshal(raw, &parts); err != nil {
			return nil, slipway.Errorf(slipway.Invalid, "the body is no JSON: %s", err.Error()).WithCause(err)
		}
		if len(parts) > maxBatch {
			return nil, slipway.Errorf(slipway.Invalid, "%d at once are too many; send at most %d", len(parts), maxBatch)
		}
		if len(parts) == 0 {
			return nil, slipway.Errorf(slipway.Invalid, "the list is empty; send one to %d", maxBatch)
		}
	}
	f := &faults{now: now}
	records := []record{}
	for i, part := range parts {
		if many {
			f.at = fmt.Sprintf("[%d].", i)
		}
		var n N
		d := json.NewDecoder(bytes.NewReader(part))
		d.DisallowUnknownFields()
		err := d.Decode(&n)
		if err == nil {
			_, err = d.Token()
			if errors.Is(err, io.EOF) {
				err = nil
			} else {
				err = errors.New("there is more behind it")
			}
		}
		if err != nil {
			field, message := misfit(err)
			f.add(field, "%s", message)
			continue
		}
		value := n.check(f)
		if len(f.list) == 0 {
			records = append(records, *make(value))
		}
	}
	return records, f.err()
}

// misfit says where a body that cannot be read is wrong, and how.
func misfit(err error) (field, message string) {
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return strings.Trim(name, `"`), "is not known; the description of this operation at /openapi.json has what is"
	}
	e, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return "body", strings.TrimPrefix(err.Error(), "json: ")
	}
	wanted := "an object"
	switch e.Type.Kind() {
	case reflect.String:
		wanted = "a text"
	case reflect.Bool:
		wanted = "true or false"
	case reflect.Int64, reflect.Float64:
		wanted = "a number"
	case reflect.Slice:
		wanted = "a list"
	}
	got, _, _ := strings.Cut(e.Value, " ") // "number 3.7"
	given := map[string]string{"array": "a list", "bool": "true or false", "number": "a number", "object": "an object", "string": "a text"}[got]
	return cmp.Or(e.Field, "body"), fmt.Sprintf("must be %s, not %s", wanted, cmp.Or(given, got))
}

type reportBody struct {
	RawBody []byte `doc:"One, or a list of up to 1,000"`
}

// reportAs checks that the caller may report of all services of some records, and stores these.
func (s *service) reportAs(ctx context.Context, caller *slipway.Caller, records []record) (Accepted, error) {
	if err := s.mayReport(ctx, caller, records); err != nil {
		return Accepted{}, err
	}
	if s.lake != nil {
		return Accepted{}, slipway.Errorf(slipway.Unsupported, "the answers come from an existing DevLake database (dora.database), so that nothing is kept here; report to DevLake")
	}
	return s.report(ctx, records)
}

// reported is the handler of reports of one kind: N is how one is sent, T what it is.
func reported[N interface{ check(*faults) T }, T any](make func(*service, T) *record) func(*service, context.Context, *reportBody) (*body[Accepted], error) {
	return func(s *service, ctx context.Context, in *reportBody) (*body[Accepted], error) {
		records, err := oneOrMany[N](in.RawBody, s.now(), func(v T) *record { return make(s, v) })
		if err != nil {
			return nil, err
		}
		done, err := s.reportAs(ctx, auth.Narrowed(ctx), records)
		return &body[Accepted]{done}, err
	}
}
