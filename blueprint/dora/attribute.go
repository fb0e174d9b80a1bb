package dora

import (
	"cmp"
	"slices"
)

// This file ties what happened to one service together: which deployment brought a change to users, and which caused an incident. It is pure, and gives the same whatever the
// order in which things were reported.

// production is the environment whose deployments reach users: the others have neither changes nor incidents.
const production = "prod"

// deployed is a stored deployment that has ended, as far as the metrics know it. Times are Unix seconds.
type deployed struct {
	ID          int64
	Environment string
	Finished    int64
	Result      Result
	Version     string // what was deployed; "" where nobody says
	FirstCommit int64  // when its first commit was made; 0: not known
	Rework      bool
	Rollback    bool // it was said to put an older version back
	ExternalID  string
}

// changed is a stored change that was merged.
type changed struct {
	ID          int64
	FirstCommit int64 // 0: not known
	Opened      int64 // 0: not known
	Merged      int64
	Deployment  string // external id of the deployment that brought it, where somebody said so
}

// broken is a stored incident.
type broken struct {
	ID         int64
	Started    int64
	Resolved   int64  // 0: not yet
	Deployment string // external id of the deployment that caused it, where somebody said so
}

// history is what happened to one service, in a stretch of time. Deployments may reach further on both sides than what is asked for: they are the neighbours.
type history struct {
	Deployments []deployed
	Changes     []changed
	Incidents   []broken
	Begins      bool // there is no earlier deployment than the first of these
}

// attributed is what follows of a history: facts by environment, and which deployment each change and incident belongs to, 0 for none.
type attributed struct {
	Facts      map[string]*Facts
	ChangeOf   map[int64]int64 // change → deployment
	IncidentOf map[int64]int64 // incident → deployment
	Fate       map[int64]fate  // deployment → what became of it, where anything did
}

// fate is what became of a deployment.
type fate struct {
	IncidentAfter int64 // seconds until the first incident that it is taken to have caused; none
	RolledBack    bool  // the next one put an older version back
	PutBack       bool  // it put an older version back itself
}

var noFate = fate{IncidentAfter: none}

// maxLead is how long after it was merged a change can still be brought to users by the next deployment. What is older was there before deployments were reported.
const maxLead = 180 * day

// attribute ties a history together.
//
//   - A change comes with the first deployment to production that succeeded after the merge, unless somebody said with which. Of a deployment without changes,
//     its commits are one.
//   - An incident belongs to the last such deployment that ended before it began, unless somebody said to which. Whether that caused it is a rule
//     (Rules.IncidentWindow), which may change without anything being tied anew.
//   - A deployment rolls back the one before it when it says so, or when its version was deployed not long before and then replaced.
func attribute(h history) attributed {
	a := attributed{Facts: map[string]*Facts{}, ChangeOf: map[int64]int64{}, IncidentOf: map[int64]int64{}, Fate: map[int64]fate{}}
	slices.SortFunc(h.Deployments, func(x, y deployed) int {
		return cmp.Or(cmp.Compare(x.Finished, y.Finished), cmp.Compare(x.ExternalID, y.ExternalID), cmp.Compare(x.ID, y.ID))
	})
	facts := make([]DeploymentFact, len(h.Deployments))
	var live []int // deployments to production that succeeded, in order
	named := map[string]int{}
	last := map[string]int{} // by environment: the last one that succeeded
	putBack := map[int]bool{}
	versions := versions{map[string]string{}, map[[2]string]int64{}}
	for i, d := range h.Deployments {
		facts[i] = DeploymentFact{At: d.Finished, Result: d.Result, Rework: d.Rework, Incident: none, Recovered: none}
		if d.Result != Succeeded {
			continue
		}
		if before, ok := last[d.Environment]; ok && touches(h.Deployments[before], d) && (d.Rollback || versions.rollsBack(d)) {
			facts[before].RolledBack, facts[i].Rework, putBack[i] = true, true, true
		}
		versions.add(d)
		last[d.Environment] = i
		if d.Environment == production {
			live = append(live, i)
			if d.ExternalID != "" {
				named[d.ExternalID] = i
			}
		}
	}
	next := map[string]int{}
	for i := len(h.Deployments) - 1; i >= 0; i-- {
		d := h.Deployments[i]
		switch n, ok := next[d.Environment]; {
		case d.Result == Succeeded:
			next[d.Environment] = i
		case d.Result == Failed && ok && h.Deployments[n].Finished-d.Finished <= maxBack:
			facts[i].Recovered = h.Deployments[n].Finished - d.Finished
		}
	}
	of := func(env string) *Facts {
		if a.Facts[env] == nil {
			a.Facts[env] = &Facts{}
		}
		return a.Facts[env]
	}

	withChanges := map[int]bool{}
	for _, c := range h.Changes {
		i, ok := named[c.Deployment]
		if c.Deployment == "" || !ok {
			k, _ := slices.BinarySearchFunc(live, c.Merged, func(i int, merged int64) int { return cmp.Compare(h.Deployments[i].Finished, merged) })
			if k == len(live) || h.Deployments[live[k]].Finished-c.Merged > maxLead {
				a.ChangeOf[c.ID] = 0
				continue
			}
			i = live[k]
		}
		d := h.Deployments[i]
		withChanges[i] = true
		a.ChangeOf[c.ID] = d.ID
		fact := ChangeFact{At: d.Finished, Lead: d.Finished - cmp.Or(c.FirstCommit, c.Opened, c.Merged), Cycle: cycle(c, d.Finished), First: h.Begins && i == live[0]}
		of(production).Changes = append(of(production).Changes, fact)
	}
	for i, d := range h.Deployments {
		if d.Result == Succeeded && d.FirstCommit != 0 && d.FirstCommit <= d.Finished && !withChanges[i] {
			of(d.Environment).Changes = append(of(d.Environment).Changes, ChangeFact{At: d.Finished, Lead: d.Finished - d.FirstCommit, Cycle: none})
		}
	}

	for _, in := range h.Incidents {
		i, told := named[in.Deployment]
		if in.Deployment == "" {
			told = false
		}
		if !told {
			k, _ := slices.BinarySearchFunc(live, in.Started, func(i int, started int64) int { return cmp.Compare(h.Deployments[i].Finished, started) })
			if k == 0 { // DevLake, too, takes one that ended before the incident began, not in the same second
				i = none
			} else {
				i = live[k-1]
			}
		}
		r := RecoveryFact{At: in.Resolved, Took: in.Resolved - in.Started, After: none, Told: told}
		a.IncidentOf[in.ID] = 0
		if i != none {
			d := h.Deployments[i]
			a.IncidentOf[in.ID] = d.ID
			after := max(0, in.Started-d.Finished)
			r.After = after
			if told {
				after = 0
			}
			if f := &facts[i]; f.Incident == none || after < f.Incident {
				f.Incident = after
			}
		}
		if in.Resolved != 0 && in.Resolved >= in.Started {
			of(production).Recoveries = append(of(production).Recoveries, r)
		}
	}
	for i, d := range h.Deployments {
		of(d.Environment).Deployments = append(of(d.Environment).Deployments, facts[i])
		if became := (fate{facts[i].Incident, facts[i].RolledBack, putBack[i]}); became != noFate {
			a.Fate[d.ID] = became
		}
	}
	return a
}

// maxBack is how far back a version is looked for that was put back: what was live longer ago is deployed anew. A deployment that succeeds later after one that failed is not its recovery, and
// outside of production it does not roll back what was deployed so long before: what is reported late changes what is near.
const maxBack = 31 * day

// touches says whether a deployment may roll another one back.
func touches(a, b deployed) bool {
	return a.Environment == production || b.Finished-a.Finished <= maxBack
}

// versions is what was live: in each environment the last version, and when each was deployed last.
type versions struct {
	last map[string]string
	at   map[[2]string]int64
}

func (v versions) add(d deployed) {
	if d.Version != "" {
		v.last[d.Environment], v.at[[2]string{d.Environment, d.Version}] = d.Version, d.Finished
	}
}

// rollsBack says whether a deployment puts back a version that was live before the one that it replaces. The same version again does not.
func (v versions) rollsBack(d deployed) bool {
	replaced := v.last[d.Environment]
	at, seen := v.at[[2]string{d.Environment, d.Version}]
	return replaced != "" && replaced != d.Version && seen && d.Finished-at <= maxBack
}

// cycle is DevLake's cycle time of a pull request in minutes: coding, until the merge, and until the deployment, each rounded up; a negative span counts as none.
func cycle(c changed, finished int64) int64 {
	if c.Opened == 0 || c.Merged == 0 {
		return none
	}
	sum := int64(0)
	for _, span := range [][2]int64{{cmp.Or(c.FirstCommit, c.Opened), c.Opened}, {c.Opened, c.Merged}, {c.Merged, finished}} {
		if s := span[1] - span[0]; s > 0 {
			sum += (s + minute - 1) / minute
		}
	}
	return sum
}
