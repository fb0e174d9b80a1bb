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
	s.lake.asking.Lock()
	defer s.lake.asking.Unlock()
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

// lakeFacts collects facts of projects: of each, and of all, where what belongs to several counts once.
type lakeFacts struct {
	all  Facts
	per  map[string]*Facts
	seen map[string]bool
}

// of gives the facts that a thing of a project goes into, when it is new there.
func (l *lakeFacts) of(project, thing string) (list []*Facts) {
	if l.per[project] == nil {
		l.per[project] = &Facts{}
	}
	for _, target := range []struct {
		key   string
		facts *Facts
	}{{"\x00" + thing, &l.all}, {project + "\x00" + thing, l.per[project]}} {
		if !l.seen[target.key] {
			l.seen[target.key] = true
			list = append(list, target.facts)
		}
	}
	return list
}

// lakeDeployment is a deployment of DevLake with the incidents that it is taken to have caused.
type lakeDeployment struct {
	projects map[string]bool
	fact     DeploymentFact
}

// lakeIncident is an incident of DevLake.
type lakeIncident struct {
	created, resolved int64 // 0: none
	minutes           int64 // that DevLake says it lasted; none
	deployment        string
	projects          map[string]bool // that its board or repository belongs to

	took, after int64 // what follows
	of          map[string]bool
}

// combine ties what was read together, as DevLake's dashboards do.
func combine(deployments map[string]*lakeDeployment, incidents map[string]*lakeIncident, changes func(*lakeFacts), r Rules) *lakeFacts {
	l := &lakeFacts{per: map[string]*Facts{}, seen: map[string]bool{}}
	for _, in := range incidents {
		after, projects := int64(none), in.projects
		if d := deployments[in.deployment]; d != nil && d.fact.Result == Succeeded {
			after = max(0, in.created-d.fact.At)
			if d.fact.Incident == none || after < d.fact.Incident {
				d.fact.Incident = after
			}
			projects = map[string]bool{}
			for p := range d.projects {
				projects[p] = true
			}
			for p := range in.projects {
				projects[p] = true
			}
		}
		if in.resolved == 0 {
			continue
		}
		took := in.resolved - in.created
		if r.DevLake && r.AllIncidents && in.minutes >= 0 {
			took, after = in.minutes*minute, none
		}
		in.took, in.after, in.of = took, after, projects
	}
	for id, d := range deployments {
		for p := range d.projects {
			for _, f := range l.of(p, "d"+id) {
				f.Deployments = append(f.Deployments, d.fact)
			}
		}
	}
	for id, in := range incidents {
		for p := range in.of {
			for _, f := range l.of(p, "i"+id) {
				f.Recoveries = append(f.Recoveries, RecoveryFact{At: in.resolved, Took: in.took, After: in.after})
			}
		}
	}
	changes(l)
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
