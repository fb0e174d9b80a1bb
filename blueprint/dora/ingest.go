package dora

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// What is reported takes two steps. First it is stored, in small transactions that also note which stretch of time of which services has changed. Then these are settled: what
// follows for them is read, worked out anew, and written, if nobody has written meanwhile. The first step alone never loses anything: what was stored and not
// settled, because a replica died in between, is settled by the next report or by a schedule.

// record is a deployment, change or incident on its way into its table.
type record struct {
	kind     *kind
	id       string
	source   string
	service  string // key
	title    string // of the service, as it was written
	project  string
	columns  []any // of the kind, in its order
	revision int64 // by the reporter's own clock; 0: none
	rank     int   // how far it has come: a lower one never replaces a higher one, unless the reporter's clock says so
	doc      string
	spans    [][2]int64 // what it touches, in microseconds; the stored one's come on top
	env      string     // of a deployment, for the tally
	told     string     // external id of its deployment
}

// kind is one of the three tables.
type kind struct {
	table   string
	columns []string
	// times are the columns among them that say what a stored one touches
	touched string
}

var (
	deploymentKind = &kind{"dora_deployment", []string{"environment", "status", "started", "finished", "deployed", "first_commit", "rework", "rollback"}, "finished, finished"}
	changeKind     = &kind{"dora_change", []string{"first_commit", "opened", "merged", "told", "deployment_id"}, "merged, merged"}
	incidentKind   = &kind{"dora_incident", []string{"started", "resolved", "told", "deployment_id"}, "started, COALESCE(resolved, started)"}
)

func micro(t time.Time) int64 { return store.At(t).UnixMicro() }

func (s *service) deployment(d Deployment) record {
	d.OriginalEnvironment = cmp.Or(d.OriginalEnvironment, d.Environment)
	d.Environment = s.environments.normalise(d.OriginalEnvironment)
	d.StartTime = d.StartTime.UTC()
	if d.EndTime != nil {
		end := d.EndTime.UTC()
		seconds := int64(end.Sub(d.StartTime) / time.Second)
		d.EndTime, d.Duration = &end, &seconds
	}
	if d.Commit == nil {
		d.Commit = newest(d.Commits)
	}
	r := record{
		kind: deploymentKind, id: d.ID, source: d.Source, service: key(d.Service), title: d.Service, project: key(d.project), env: d.Environment,
		revision: revision(d.UpdatedAt), doc: document(d),
		columns: []any{d.Environment, d.Status, store.At(d.StartTime), store.AtPtr(d.EndTime), d.deployed(), store.At(d.firstCommit()), d.Rework, d.Rollback},
	}
	if d.EndTime != nil {
		r.rank = 1
		r.spans = append(r.spans, [2]int64{micro(*d.EndTime), micro(*d.EndTime)})
	}
	return r
}

func (s *service) change(c Change) record {
	r := record{
		kind: changeKind, id: c.ID, source: c.Source, service: key(c.Service), title: c.Service, project: key(c.project),
		revision: revision(c.UpdatedAt), doc: document(c), told: c.DeploymentID,
		columns: []any{store.AtPtr(c.FirstCommitAt), store.At(c.OpenedAt), store.AtPtr(c.MergedAt), c.DeploymentID, int64(0)},
	}
	if c.MergedAt != nil {
		r.rank = 1
		r.spans = append(r.spans, [2]int64{micro(*c.MergedAt), micro(*c.MergedAt)})
	}
	return r
}

func (s *service) incident(i Incident) record {
	r := record{
		kind: incidentKind, id: i.ID, source: i.Source, service: key(i.Service), title: i.Service, project: key(i.project),
		revision: revision(i.UpdatedAt), doc: document(i), told: i.DeploymentID,
		columns: []any{store.At(i.StartedAt), store.AtPtr(i.ResolvedAt), i.DeploymentID, int64(0)},
	}
	end := i.StartedAt
	if i.ResolvedAt != nil {
		r.rank, end = 1, *i.ResolvedAt
	}
	r.spans = append(r.spans, [2]int64{micro(i.StartedAt), max(micro(i.StartedAt), micro(end))})
	return r
}

func revision(t *time.Time) int64 {
	if t == nil {
		return 0
	}
	return micro(*t)
}

func document(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // texts and times within bounds always encode
	}
	return string(raw)
}

// Accepted is the answer to a report.
type Accepted struct {
	Accepted  int `json:"accepted" doc:"How many were taken"`
	Created   int `json:"created" doc:"How many of them were new"`
	Updated   int `json:"updated" doc:"How many changed what was there"`
	Unchanged int `json:"unchanged" doc:"How many said nothing new: repeats, and states older than what is stored"`
}

const (
	storeChunk  = 100 // records in one transaction
	settleChunk = 100 // services that are settled at once
)

// report stores records, and settles what they touch before it returns: the caller's next look at history and metrics shows them, on any replica.
func (s *service) report(ctx context.Context, records []record) (Accepted, error) {
	done := Accepted{Accepted: len(records)}
	ctx = context.WithoutCancel(ctx) // half a report is worth less than a whole one that nobody waited for
	for _, k := range []*kind{deploymentKind, changeKind, incidentKind} {
		var list []record
		for _, r := range records {
			if r.kind == k {
				list = append(list, r)
			}
		}
		for chunk := range slices.Chunk(list, storeChunk) {
			if err := s.storeRecords(ctx, k, chunk, &done); err != nil {
				return done, err
			}
		}
	}
	if done.Created+done.Updated == 0 {
		return done, nil
	}
	return done, s.settleAll(ctx)
}

func (s *service) storeRecords(ctx context.Context, k *kind, chunk []record, done *Accepted) error {
	before, err := storedRecords(ctx, s.db, k, chunk)
	if err != nil {
		return err
	}
	fresh, _ := newer(chunk, before)
	if len(fresh) == 0 {
		done.Unchanged += len(chunk)
		return nil
	}
	var created, updated int
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		services, err := s.ensureServices(ctx, tx, fresh)
		if err != nil {
			return err
		}
		// The marks come first: on PostgreSQL they keep other writers of these services waiting, so that what is compared is what is replaced.
		marks := map[int64]span{}
		for _, r := range fresh {
			m := marks[services[r.service]]
			for _, sp := range r.spans {
				m.add(sp[0], sp[1])
			}
			marks[services[r.service]] = m
		}
		if err := mark(ctx, tx, marks); err != nil {
			return err
		}
		before, err := storedRecords(ctx, tx, k, fresh)
		if err != nil {
			return err
		}
		list, again := newer(fresh, before)
		created, updated = len(list)-again, again
		more := map[int64]span{}
		for _, r := range list {
			if b, ok := before[r.sourceID()]; ok && b.touched {
				m := more[b.service]
				m.add(b.from, b.to)
				more[b.service] = m
			}
		}
		if err := told(ctx, tx, k, list, services, more); err != nil {
			return err
		}
		if err := mark(ctx, tx, more); err != nil {
			return err
		}
		if err := putRecords(ctx, tx, k, list, before, services); err != nil {
			return err
		}
		if k != deploymentKind {
			return nil
		}
		tally := map[tallyKey]int64{}
		for _, r := range list {
			if b, ok := before[r.sourceID()]; ok {
				tally[tallyKey{b.service, b.env}]--
			}
			tally[tallyKey{services[r.service], r.env}]++
		}
		return count(ctx, tx, tally)
	})
	done.Created += created
	done.Updated += updated
	done.Unchanged += len(chunk) - created - updated
	return err
}

// sourceID tells records of one kind apart.
type sourceID struct{ id, source string }

func (r *record) sourceID() sourceID { return sourceID{r.id, r.source} }

// stored is a record as it is in its table.
type stored struct {
	rowID    int64
	service  int64
	revision int64
	rank     int
	doc      string
	env      string
	touched  bool
	from, to int64
}

// newer gives the records that say something new, the last of several with one id, and how many of them replace something.
func newer(records []record, before map[sourceID]stored) (list []record, again int) {
	latest := map[sourceID]int{}
	for i := range records {
		r := &records[i]
		if other, ok := latest[r.sourceID()]; ok && !supersedes(r.revision, r.rank, list[other].revision, list[other].rank) {
			continue
		} else if ok {
			list[other] = *r
			continue
		}
		latest[r.sourceID()] = len(list)
		list = append(list, *r)
	}
	list = slices.DeleteFunc(list, func(r record) bool {
		b, ok := before[r.sourceID()]
		return ok && (b.doc == r.doc || !supersedes(r.revision, r.rank, b.revision, b.rank))
	})
	for i := range list {
		if _, ok := before[list[i].sourceID()]; ok {
			again++
		}
	}
	return list, again
}

// supersedes says whether a state replaces another. Where the reporter dates its states, that decides; else one that has come further is newer, and of two that have come as far, the one
// that was reported later.
func supersedes(revision int64, rank int, oldRevision int64, oldRank int) bool {
	if revision != 0 && oldRevision != 0 {
		return revision > oldRevision || revision == oldRevision && rank >= oldRank
	}
	return rank >= oldRank
}

// span is a stretch of time in microseconds, from zero value on as wide as what was added.
type span struct {
	from, to int64
	some     bool
}

func (s *span) add(from, to int64) {
	if !s.some {
		*s = span{from, to, true}
		return
	}
	s.from, s.to = min(s.from, from), max(s.to, to)
}

// settleAll settles what is there to be settled.
func (s *service) settleAll(ctx context.Context) error {
	s.settling.Lock()
	defer s.settling.Unlock()
	for {
		n, err := s.settleSome(ctx)
		if err != nil || n == 0 {
			return err
		}
	}
}

// settleSome settles some services, and says how many were there. One that was written to meanwhile stays as it is, for the next round.
func (s *service) settleSome(ctx context.Context) (int, error) {
	list, err := dirtyServices(ctx, s.db, settleChunk)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	if err := widen(ctx, s.db, list); err != nil {
		return 0, err
	}
	if err := loadHistories(ctx, s.db, list); err != nil {
		return 0, err
	}
	for _, d := range list {
		d.result = attribute(d.history)
		if len(d.earlier) > 0 {
			f := d.result.Facts[production]
			if f == nil {
				f = &Facts{}
				d.result.Facts[production] = f
			}
			f.Recoveries = append(f.Recoveries, d.earlier...)
		}
	}
	if err := s.writeSettled(ctx, list); err != nil {
		return 0, err
	}
	return len(list), nil
}

// dirty is a service that has to be settled.
type dirty struct {
	id, version int64
	from, to    int64 // what has changed, in microseconds
	lo, hi      int64 // the months that are written anew, [lo, hi)
	past, next  int64 // what is looked at: from the deployment before these months to the one after them
	history     history
	links       map[bool]map[int64]int64 // true: changes, false: incidents → the deployment as it is stored
	failed      map[int64]sql.NullInt64  // deployments → as it is stored
	have        map[blockKey]bool        // blocks that are there
	earlier     []RecoveryFact           // of incidents that ended in these months and belong to deployments before what is looked at
	result      attributed
}

// derived is one row that follows from what was reported.
type derived struct {
	block  blockKey
	facts  []byte // nil: the block goes
	table  string // else a link: where,
	row    int64  // which row,
	column string // and what it becomes
	value  any
}

// changes are the rows that have to be written.
func (d *dirty) changes() (list []derived) {
	blocks := d.blocks()
	for k := range d.have {
		if blocks[k] == nil {
			list = append(list, derived{block: k})
		}
	}
	for k, facts := range blocks {
		list = append(list, derived{block: k, facts: facts})
	}
	for id, is := range d.result.ChangeOf {
		if was, ok := d.links[true][id]; ok && was != is {
			list = append(list, derived{table: changeKind.table, row: id, column: "deployment_id", value: is})
		}
	}
	for id, is := range d.result.IncidentOf {
		if was, ok := d.links[false][id]; ok && was != is {
			list = append(list, derived{table: incidentKind.table, row: id, column: "deployment_id", value: is})
		}
	}
	for _, dep := range d.history.Deployments { // the last one may be followed by what was not looked at
		after, failed := d.result.Failed[dep.ID]
		is := sql.NullInt64{Int64: after, Valid: failed}
		if at := dep.Finished * 1e6; at >= d.lo && at < d.hi && d.failed[dep.ID] != is {
			list = append(list, derived{table: deploymentKind.table, row: dep.ID, column: "failed_after", value: is})
		}
	}
	return list
}

// settleRows is how many derived rows one transaction writes, about.
const settleRows = 300

// writeSettled writes what follows for some services. Each transaction makes sure that nobody has written to its services since they were read; the last one of a service takes
// its mark away.
func (s *service) writeSettled(ctx context.Context, list []*dirty) error {
	var batch []settling
	rows := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		now := batch
		batch, rows = nil, 0
		return s.db.Write(ctx, func(tx *store.Tx) error { return writeDerived(ctx, tx, now) })
	}
	for _, d := range list {
		parts := slices.Collect(slices.Chunk(d.changes(), settleRows))
		if len(parts) == 0 {
			parts = [][]derived{nil}
		}
		for i, part := range parts {
			if rows+len(part) > settleRows {
				if err := flush(); err != nil {
					return err
				}
			}
			rows += len(part) + 1
			batch = append(batch, settling{d, part, i == len(parts)-1})
		}
	}
	return flush()
}

// settling is a part of what follows for a service.
type settling struct {
	*dirty
	rows []derived
	last bool
}

// blocks gives the packed facts of the months, by environment. An environment that has nothing in a month is not in it.
func (d *dirty) blocks() map[blockKey][]byte {
	list := map[blockKey][]byte{}
	for env, f := range d.result.Facts {
		for m := monthOf(d.lo / 1e6); monthStart(m)*1e6 < d.hi; m++ {
			if part := f.month(m); !part.empty() {
				list[blockKey{env, m}] = pack(part, monthStart(m))
			}
		}
	}
	return list
}

type blockKey struct {
	env   string
	month int64
}

func sortedIDs[V any](m map[int64]V) []int64 { return slices.Sorted(maps.Keys(m)) }

// settleJob settles what a replica left when it died.
type settleJob struct{}

func (settleJob) Kind() string { return "dora.settle" }

func (s *service) settle(ctx context.Context, _ settleJob) error { return s.settleAll(ctx) }

// pruneJob deletes what is older than it has to be kept.
type pruneJob struct{}

func (pruneJob) Kind() string { return "dora.prune" }

func (s *service) prune(ctx context.Context, _ pruneJob) error {
	return s.deleteBefore(ctx, s.now().Add(-s.retention))
}

// bindJob ties all services to their entities anew, should an event never have come.
type bindJob struct{}

func (bindJob) Kind() string { return "dora.bind" }

func (s *service) bindAll(ctx context.Context, _ bindJob) error {
	for after := int64(0); ; {
		list, err := servicesAfter(ctx, s.db, after, 50)
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1].id
		if err := s.db.Write(ctx, func(tx *store.Tx) error { return bindServices(ctx, tx, list) }); err != nil {
			return err
		}
	}
}
