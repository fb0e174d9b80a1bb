package dora

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-platform/slipway/store"
)

// The second step of a report (ingest.go has the first): what follows for the services that were written to is worked out anew.

// settler has the reports of a replica settled together: one round at a time, and who comes while one is under way waits for the next, which is for all who wait.
type settler struct {
	round sync.Mutex // held while a round is under way

	mu      sync.Mutex
	waiting *settleRound // the next one; nil: nobody waits
}

// settleRound is what some reports have written to. What it came to may be read by who holds settler.round.
type settleRound struct {
	services map[int64]bool
	done     bool
	err      error
}

// settleReport settles services that a report has written to, before it is answered.
func (s *service) settleReport(ctx context.Context, services map[int64]bool) error {
	t := &s.settler
	t.mu.Lock()
	if t.waiting == nil {
		t.waiting = &settleRound{services: map[int64]bool{}}
	}
	mine := t.waiting
	maps.Copy(mine.services, services)
	t.mu.Unlock()

	t.round.Lock()
	defer t.round.Unlock()
	if !mine.done {
		t.mu.Lock()
		t.waiting = nil // it is mine: a round is only begun by one of those who wait for it, and only the first finds it so
		t.mu.Unlock()
		mine.done, mine.err = true, s.settleServices(ctx, sortedIDs(mine.services))
	}
	return mine.err
}

// settleTries is how often a report tries to settle a service that others write to meanwhile, on other replicas. They settle what it wrote with their own.
const settleTries = 10

func (s *service) settleServices(ctx context.Context, services []int64) error {
	for try := range settleTries {
		// One chunk is worked out while another is written.
		var chunks errgroup.Group
		chunks.SetLimit(2)
		lists := make([][]*dirty, (len(services)+settleChunk-1)/settleChunk)
		n := 0
		for chunk := range slices.Chunk(services, settleChunk) {
			list := &lists[n]
			n++
			chunks.Go(func() (err error) {
				if *list, err = dirtyServices(ctx, s.db, chunk); err != nil {
					return err
				}
				return s.settleSome(ctx, *list)
			})
		}
		if err := chunks.Wait(); err != nil {
			return err
		}
		var left []int64
		for _, list := range lists {
			for _, d := range list {
				if d.overtaken {
					left = append(left, d.id)
				}
			}
		}
		if services = left; len(services) == 0 {
			break
		}
		select { // so that two replicas do not go on in step
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(1+rand.IntN(5*(try+1))) * time.Millisecond):
		}
	}
	return nil
}

// settleSome settles services. One that was written to meanwhile is overtaken, and stays as it is.
func (s *service) settleSome(ctx context.Context, list []*dirty) error {
	if len(list) == 0 {
		return nil
	}
	if err := widen(ctx, s.db, list); err != nil {
		return err
	}
	if err := loadHistories(ctx, s.db, list); err != nil {
		return err
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
	return s.writeSettled(ctx, list)
}

// dirty is a service that has to be settled.
type dirty struct {
	id, version int64
	from, to    int64 // what has changed, in microseconds
	lo, hi      int64 // the months that are written anew, [lo, hi)
	past, next  int64 // what is looked at: from the deployment before these months to the one after them
	history     history
	links       map[bool]map[int64]int64 // true: changes, false: incidents → the deployment as it is stored
	fates       map[int64]fate           // deployments → as it is stored
	have        map[blockKey]bool        // blocks that are there
	earlier     []RecoveryFact           // of incidents that ended in these months and belong to deployments before what is looked at
	result      attributed
	overtaken   bool // somebody wrote to it meanwhile: nothing of this was written, or not all
}

// derived is one row that follows from what was reported.
type derived struct {
	block blockKey
	facts []byte // nil: the block goes
	fate  *fate  // of a deployment
	table string // of a change or incident that belongs to a deployment
	row   int64  // which row of the table
	link  int64  // and to which deployment
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
			list = append(list, derived{table: changeKind.table, row: id, link: is})
		}
	}
	for id, is := range d.result.IncidentOf {
		if was, ok := d.links[false][id]; ok && was != is {
			list = append(list, derived{table: incidentKind.table, row: id, link: is})
		}
	}
	for _, dep := range d.history.Deployments { // the last one may be followed by what was not looked at
		is, some := d.result.Fate[dep.ID]
		if !some {
			is = noFate
		}
		if at := dep.Finished * 1e6; at >= d.lo && at < d.hi && d.fates[dep.ID] != is {
			list = append(list, derived{fate: &is, row: dep.ID})
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

// settleJob settles what a replica left when it died, or could not keep up with.
type settleJob struct{}

func (settleJob) Kind() string { return "dora.settle" }

func (s *service) settle(ctx context.Context, _ settleJob) error {
	for after := int64(0); ; {
		list, err := nextDirty(ctx, s.db, after, settleChunk)
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1].id
		s.settler.round.Lock() // between the rounds of reports, which do not wait long
		err = s.settleSome(ctx, list)
		s.settler.round.Unlock()
		if err != nil {
			return err
		}
	}
}
