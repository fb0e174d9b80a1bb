package dora

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/slipway-platform/slipway"
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
	env      string     // of a deployment, for the tally, as is the status
	status   string
	told     string // external id of its deployment
	item     any    // the Deployment, Change or Incident
	known    bool   // others tell of it by events
	origin   int64  // the provider's source that it comes from, which limits who may be told of it; 0: none
}

// kind is one of the three tables.
type kind struct {
	table   string
	columns []string // of the kind alone, in the order of record.columns
	touched string   // from when to when a stored one touches its service: two columns or the like
}

var (
	deploymentKind = &kind{"dora_deployment", []string{"environment", "status", "started", "finished", "deployed", "first_commit", "rework", "rollback"}, "finished, finished"}
	changeKind     = &kind{"dora_change", []string{"first_commit", "opened", "merged", "told", "deployment_id"}, "merged, merged"}
	incidentKind   = &kind{"dora_incident", []string{"started", "resolved", "told", "deployment_id"}, "started, COALESCE(resolved, started)"}
)

func micro(t time.Time) int64 { return store.At(t).UnixMicro() }

// deployment makes a record of a deployment to the environment that its original name means.
func (s *service) deployment(d Deployment) *record {
	d.OriginalEnvironment = cmp.Or(d.OriginalEnvironment, d.Environment)
	d.Environment = s.environments.normalise(d.OriginalEnvironment)
	return deploymentRecord(d)
}

// deploymentRecord is deployment where the environment is known.
func deploymentRecord(d Deployment) *record {
	d.StartTime = d.StartTime.UTC()
	if d.EndTime != nil {
		end := d.EndTime.UTC()
		seconds := int64(end.Sub(d.StartTime) / time.Second)
		d.EndTime, d.Duration = &end, &seconds
	}
	if d.Commit == nil {
		d.Commit = newest(d.Commits)
	}
	r := &record{
		kind: deploymentKind, id: d.ID, source: d.Source, service: key(d.Service), title: d.Service, project: key(d.project), env: d.Environment, status: d.Status,
		revision: revision(d.UpdatedAt), doc: document(d), item: d,
		columns: []any{d.Environment, d.Status, store.At(d.StartTime), store.AtPtr(d.EndTime), d.deployed(), store.At(d.firstCommit()), d.Rework, d.Rollback},
	}
	if d.EndTime != nil {
		r.rank = 1
		r.spans = append(r.spans, [2]int64{micro(*d.EndTime), micro(*d.EndTime)})
	}
	return r
}

func (s *service) change(c Change) *record {
	r := &record{
		kind: changeKind, id: c.ID, source: c.Source, service: key(c.Service), title: c.Service, project: key(c.project),
		revision: revision(c.UpdatedAt), doc: document(c), item: c, told: c.DeploymentID,
		columns: []any{store.AtPtr(c.FirstCommitAt), store.At(c.OpenedAt), store.AtPtr(c.MergedAt), c.DeploymentID, int64(0)},
	}
	if c.MergedAt != nil {
		r.rank = 1
		r.spans = append(r.spans, [2]int64{micro(*c.MergedAt), micro(*c.MergedAt)})
	}
	return r
}

func (s *service) incident(i Incident) *record {
	r := &record{
		kind: incidentKind, id: i.ID, source: i.Source, service: key(i.Service), title: i.Service, project: key(i.project),
		revision: revision(i.UpdatedAt), doc: document(i), item: i, told: i.DeploymentID,
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
	storeChunk  = 100 // records in one transaction: with three events of each, and the marks of their services, 500 rows at most
	storeTries  = 5   // of a transaction that meets one with the same ids
	settleChunk = 100 // services that are settled at once
)

// report stores records, and settles what they touch before it returns: the caller's next look at history and metrics shows them, on any replica.
func (s *service) report(ctx context.Context, records []record) (Accepted, error) {
	done := Accepted{Accepted: len(records)}
	touched := map[int64]bool{}
	ctx = context.WithoutCancel(ctx) // half a report is worth less than a whole one that nobody waited for
	for _, k := range []*kind{deploymentKind, changeKind, incidentKind} {
		var list []record
		for _, r := range records {
			if r.kind == k {
				list = append(list, r)
			}
		}
		for chunk := range slices.Chunk(list, storeChunk) {
			if err := s.storeRecords(ctx, k, chunk, &done, touched); err != nil {
				return done, err
			}
		}
	}
	if done.Created+done.Updated == 0 {
		return done, nil
	}
	return done, s.settleReport(ctx, touched)
}

func (s *service) storeRecords(ctx context.Context, k *kind, chunk []record, done *Accepted, touched map[int64]bool) error {
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
	marks, more := map[int64]span{}, map[int64]span{}
	write := func(tx *store.Tx) error {
		clear(marks)
		clear(more)
		services, err := s.ensureServices(ctx, tx, fresh)
		if err != nil {
			return err
		}
		// The marks come first: on PostgreSQL they keep other writers of these services waiting, so that what is compared is what is replaced.
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
		if err := s.tell(ctx, tx, list, before, services); err != nil {
			return err
		}
		if k != deploymentKind {
			return nil
		}
		tally := map[tallyKey]int64{}
		for _, r := range list {
			if b, ok := before[r.sourceID()]; ok {
				tally[tallyKey{b.service, b.env, b.status}]--
			}
			tally[tallyKey{services[r.service], r.env, r.status}]++
		}
		return count(ctx, tx, tally)
	}
	// What others report at this moment as new, of other services, is there at the next try.
	for try := 1; ; try++ {
		if err = s.db.Write(ctx, write); slipway.CodeOf(err) != slipway.Conflict || try == storeTries {
			break
		}
	}
	for _, spans := range []map[int64]span{marks, more} {
		for id := range spans {
			touched[id] = true
		}
	}
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
	env      string // of a deployment, as is the status
	status   string
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
