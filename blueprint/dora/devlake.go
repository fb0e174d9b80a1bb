package dora

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// An existing DevLake database, MySQL or MariaDB, answers the same questions in place of our own tables: its projects are the services, and the definitions are the same code. It is
// only read.

// projectsEvery is how often the names of DevLake's projects are read, so that they are bound to entities of the catalog.
const projectsEvery = time.Minute

// projects makes DevLake's projects services of their names, where they are new, and gives their names.
func (s *service) projects(ctx context.Context) ([]string, error) {
	wait, cancel := context.WithTimeout(ctx, s.lake.patience)
	defer cancel()
	select {
	case s.lake.asking <- struct{}{}:
		defer func() { <-s.lake.asking }()
	case <-wait.Done():
		return nil, lakeErr(wait.Err())
	}
	now := s.now()
	if now.Sub(s.lake.asked) < projectsEvery {
		return s.lake.projects, nil
	}
	names, err := s.lake.projectNames(ctx)
	if err != nil {
		return nil, err
	}
	known, _, err := findServices(ctx, s.db, systemCaller, metricsPermission, filter{})
	if err != nil {
		return nil, err
	}
	var records []record
	for _, name := range names {
		if k := key(name); len(name) <= maxName && !slices.ContainsFunc(known, func(r serviceRow) bool { return r.name == k }) {
			records = append(records, record{service: k, title: name})
		}
	}
	for chunk := range slices.Chunk(records, storeChunk) {
		err := s.db.Write(ctx, func(tx *store.Tx) error {
			_, err := s.ensureServices(ctx, tx, chunk)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	s.lake.projects, s.lake.asked = names, now
	return names, nil
}

// withProjects leaves in a scope the services that are projects of DevLake now, by the names that it knows them by.
func (sc scope) withProjects(names []string) scope {
	byKey := map[string]string{}
	for _, n := range names {
		byKey[key(n)] = n
	}
	sc.services = slices.DeleteFunc(sc.services, func(r serviceRow) bool { return byKey[r.name] == "" })
	for i := range sc.services {
		sc.services[i].title = byKey[sc.services[i].name]
	}
	sc.all = false
	return sc
}

func (sc scope) titles() []string {
	list := make([]string, len(sc.services))
	for i, r := range sc.services {
		list[i] = r.title
	}
	return list
}

// devLakeEnvironments are the names under which DevLake keeps an environment of ours.
func devLakeEnvironments(environment string) []string {
	switch environment {
	case production:
		return []string{"PRODUCTION"}
	case "staging":
		return []string{"STAGING"}
	case "dev":
		return []string{"TESTING", "DEVELOPMENT"}
	}
	return []string{environment}
}

// lakeHistory is what was read of DevLake's database for one environment and window.
type lakeHistory struct {
	deployments map[string]*lakeDeployment // by id
	commits     map[string]int64           // when the commits of deployments were deployed, by DevLake's id of a deployment's commit
	incidents   map[string]*lakeIncident   // by id
	changes     []lakeChange
}

// lakeDeployment is a deployment of DevLake. Its commits may have gone to their ends differently, and at different times.
type lakeDeployment struct {
	projects []string
	ended    [2]int64 // when the last of its commits succeeded, and when the last failed, by Result; none
	incident int64    // seconds until the first incident that it is taken to have caused; none
}

// before gives the fact that a deployment is at some moment; false where it had not ended before. Where some commits of it succeeded, DevLake counts those.
func (d *lakeDeployment) before(until int64) (DeploymentFact, bool) {
	for result, at := range d.ended {
		if at != none && at < until {
			return DeploymentFact{At: at, Result: Result(result), Incident: none, Recovered: none}, true
		}
	}
	return DeploymentFact{}, false
}

// lakeIncident is an incident of DevLake.
type lakeIncident struct {
	created, resolved int64 // none
	minutes           int64 // that DevLake says it lasted; none
	deployment        string
	projects          []string // that its board or repository belongs to
}

// lakeChange is a merged pull request of DevLake. One of several projects is there once for each.
type lakeChange struct {
	id       string
	projects []string // of its repository
	commit   string   // DevLake's id of the deployment's commit that brought it
	cycle    int64    // minutes; none
	first    int64    // when its first commit was made, else when it was opened; none
}

// union is both lists, each name once.
func union(a, b []string) []string {
	if len(a) == 0 {
		return b
	}
	for _, v := range b {
		if !slices.Contains(a, v) {
			a = append(slices.Clip(a), v)
		}
	}
	return a
}

// lakeFacts are the facts of some projects together, where what belongs to several counts once, and of each, where that was asked for.
type lakeFacts struct {
	all Facts
	per map[string]*Facts // nil: not asked for
}

// add puts a fact where it belongs.
func (l *lakeFacts) add(projects []string, put func(*Facts)) {
	if len(projects) == 0 {
		return
	}
	put(&l.all)
	if l.per == nil {
		return
	}
	for _, p := range projects {
		if l.per[p] == nil {
			l.per[p] = &Facts{}
		}
		put(l.per[p])
	}
}

// facts ties what was read together, as DevLake's dashboards do.
func (h *lakeHistory) facts(w Window, r Rules, each bool) *lakeFacts {
	l := &lakeFacts{}
	if each {
		l.per = map[string]*Facts{}
	}
	for _, in := range h.incidents {
		after, projects := int64(none), in.projects
		if d := h.deployments[in.deployment]; d != nil {
			if fact, ok := d.before(w.Until); ok && fact.Result == Succeeded {
				after, projects = max(0, in.created-fact.At), union(d.projects, projects)
				if d.incident == none || after < d.incident {
					d.incident = after
				}
			}
		}
		if in.resolved == none {
			continue
		}
		fact := RecoveryFact{At: in.resolved, Took: in.resolved - in.created, After: after}
		if r.DevLake && r.AllIncidents && in.minutes != none {
			fact.Took, fact.After = in.minutes*minute, none
		}
		l.add(projects, func(f *Facts) { f.Recoveries = append(f.Recoveries, fact) })
	}
	for _, d := range h.deployments {
		if fact, ok := d.before(w.Until); ok {
			fact.Incident = d.incident
			l.add(d.projects, func(f *Facts) { f.Deployments = append(f.Deployments, fact) })
		}
	}
	type pullRequest struct {
		id    string
		cycle int64
	}
	seen := make(map[pullRequest]bool, len(h.changes))
	for _, c := range h.changes {
		at, ok := h.commits[c.commit]
		if !ok || !w.has(at) || seen[pullRequest{c.id, c.cycle}] {
			continue
		}
		seen[pullRequest{c.id, c.cycle}] = true
		fact := ChangeFact{At: at, Lead: none, Cycle: c.cycle}
		if c.first != none {
			fact.Lead = at - c.first
		}
		l.add(c.projects, func(f *Facts) { f.Changes = append(f.Changes, fact) })
	}
	return l
}

// errShape says what a DevLake database lacks.
func errShape(what string) *slipway.Error {
	return slipway.Errorf(slipway.Unsupported, "the DevLake database has another shape than is read here: it lacks %s; upgrade DevLake, whose migrations bring it", what)
}

// status is how a deployment of DevLake went.
func lakeStatus(result, status string, over bool) string {
	switch strings.ToUpper(result) {
	case "SUCCESS":
		return statusSuccess
	case "FAILURE":
		return statusFailure
	}
	if !over || strings.EqualFold(status, "IN_PROGRESS") {
		return statusInProgress
	}
	return statusCancelled
}
