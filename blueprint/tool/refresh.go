package tool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

const (
	refreshEvery = 1500 * time.Millisecond // so that a state is at most staleAfter old
	staleAfter   = 2 * time.Second
	refreshWait  = time.Second // how long an answer waits for it
	refreshLimit = 30 * time.Second
	sweepEvery   = 30 * time.Second
	sweptAtOnce  = 50
	othersEvery  = 50 * time.Millisecond // how often another replica's note is read while somebody waits for it
	storeLimit   = 2 * time.Minute
	storesAtOnce = 8
	maxMissing   = 20 // builds that are asked for by themselves in one refresh
)

// place is what one list of a builder covers: all of its builds, or those of one tool.
type place struct{ builder, tool string }

// watcher asks builders for their builds, for all deployments at once and for all replicas: whoever claims the row asks, the others read what was
// stored. What a builder said is shown by this replica at once; storing what is new of it goes on behind that, and holds up no reader and no further
// question. Safe for concurrent use.
type watcher struct {
	*service
	mu    sync.Mutex
	state map[place]*watched
	told  atomic.Int64 // how often something became known
}

// watched is what this replica knows of a place.
type watched struct {
	known   listing
	running chan struct{} // closed when the question under way is answered; nil: there is none
	asked   time.Time     // when somebody last asked, as far as is known here; the next time is refreshEvery later
	mine    bool          // it was this replica, which so knows what there is to know until then

	storing bool
	unkept  *listing              // what is to be stored after what is being stored
	cache   map[string]Deployment // active deployments by tool/id, without configuration; of whoever stores
}

// listing is what a builder said.
type listing struct {
	at     time.Time                          // it says how builds stood then, or later
	builds map[string]provider.ComponentBuild // by tool/id; nil: another replica asked, and has stored what is new
	active []Reference                        // whose builds were asked for
	failed bool                               // it said nothing
}

// fresh gives what the builder of a deployment said within staleAfter, or what it said last after refreshWait.
func (w *watcher) fresh(ctx context.Context, d Deployment) listing {
	p := w.placeOf(d.Builder, d.Tool)
	known, done := w.known(ctx, p)
	if done == nil {
		return known
	}
	t := time.NewTimer(refreshWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if st := w.state[p]; st != nil {
		known = st.known
	}
	return known
}

// known gives what a builder said last, and what to wait for when that is too old.
func (w *watcher) known(ctx context.Context, p place) (listing, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st, now := w.at(p), w.now()
	switch {
	case within(now.Sub(st.known.at), staleAfter):
		return st.known, nil
	case st.running == nil && st.mine && within(now.Sub(st.asked), refreshEvery): // it said nothing, and is not asked again yet
		return st.known, nil
	}
	return st.known, w.begin(ctx, p, st)
}

// within says whether d is from 0 to below limit: it is not when a clock was put back.
func within(d, limit time.Duration) bool { return d >= 0 && d < limit }

func (w *watcher) at(p place) *watched {
	st := w.state[p]
	if st == nil {
		st = &watched{cache: map[string]Deployment{}}
		w.state[p] = st
	}
	return st
}

func (w *watcher) placeOf(builder, tool string) place {
	if _, b, err := w.builder(builder); err == nil && !b.PerTool {
		tool = ""
	}
	return place{builder, tool}
}

// begin has a builder asked, unless it is being asked; the channel is closed when it has answered. w.mu is held.
func (w *watcher) begin(ctx context.Context, p place, st *watched) <-chan struct{} {
	if st.running != nil {
		return st.running
	}
	done := make(chan struct{})
	st.running = done
	ctx = auth.WithCaller(context.WithoutCancel(ctx), auth.System())
	go func() {
		defer close(done)
		l, mine, asked := w.ask(ctx, p)
		w.mu.Lock()
		defer w.mu.Unlock()
		st.running, st.mine, st.asked = nil, mine, asked
		switch {
		case !mine:
			st.known = l
		case l.failed:
			w.keep(ctx, p, st, l)
		case len(l.active) == 0 && p.tool != "":
			delete(w.state, p)
		default:
			st.known = l
			w.keep(ctx, p, st, l)
		}
		w.told.Add(1)
	}()
	return done
}

// run asks all builders with active deployments, again and again.
func (w *watcher) run(ctx context.Context) error {
	for {
		refs, err := w.storage.Active(ctx)
		if err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "active deployments could not be read; trying again", "error", err)
		}
		places := map[place]bool{}
		for _, r := range refs {
			places[w.placeOf(r.Builder, r.Tool)] = true
		}
		pause := refreshEvery
		w.mu.Lock()
		for p := range places {
			st := w.at(p)
			if since := w.now().Sub(st.asked); within(since, refreshEvery) {
				pause = min(pause, refreshEvery-since)
			} else {
				w.begin(ctx, p, st)
			}
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// sweeps mends what a crash has left undone, again and again.
func (w *watcher) sweeps(ctx context.Context) error {
	for {
		refs, err := w.storage.Active(ctx)
		if err == nil {
			err = w.sweep(ctx, refs)
		}
		if err == nil {
			err = forgetRefresh(ctx, w.db, w.now().Add(-24*time.Hour))
		}
		if err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "active deployments could not be looked at; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
	}
}

// sweep has each active deployment looked at by a step: one whose job was lost between two stores goes on, and time-outs are seen.
func (w *watcher) sweep(ctx context.Context, refs []Reference) error {
	if err := w.mend(ctx, Owed{}); err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "what belongs to changes of deployments was not done; trying again", "error", err)
	}
	slices.SortFunc(refs, func(a, b Reference) int { return cmp.Compare(a.Tool, b.Tool) }) // so that two replicas do not wait for each other
	for chunk := range slices.Chunk(refs, sweptAtOnce) {
		err := w.db.Write(ctx, func(tx *store.Tx) error {
			for _, r := range chunk {
				if err := w.insertStep(ctx, tx, r.Tool, r.ID, time.Time{}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ask asks the builder once, or where another replica does so reads what it has stored. Mine says that this replica asked.
func (w *watcher) ask(ctx context.Context, p place) (l listing, mine bool, asked time.Time) {
	ctx, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	for {
		now := w.now()
		note, claimed, err := claimRefresh(ctx, w.db, p.builder, p.tool, now, refreshEvery)
		switch {
		case err != nil:
			w.log.WarnContext(ctx, "the builder of deployments could not be asked; trying again", "builder", p.builder, "tool", p.tool, "error", err)
			return listing{failed: true}, true, now
		case claimed:
			if l, err = w.list(ctx, p, now); err != nil {
				w.log.WarnContext(ctx, "the builder of deployments did not say how their builds go; trying again", "builder", p.builder, "tool", p.tool, "error", err)
			}
			return l, true, now
		case within(now.Sub(note.stored), staleAfter):
			return listing{at: note.stored}, false, note.asked
		}
		select {
		case <-ctx.Done():
			return listing{at: note.stored}, false, note.asked
		case <-time.After(othersEvery):
		}
	}
}

// list asks the builder for the builds of all active deployments of a place.
func (w *watcher) list(ctx context.Context, p place, now time.Time) (listing, error) {
	l := listing{at: now, failed: true}
	refs, err := w.storage.Active(ctx)
	if err != nil {
		return l, err
	}
	tools, since := map[string]bool{}, now
	for _, r := range refs {
		if r.Builder != p.builder || p.tool != "" && r.Tool != p.tool {
			continue
		}
		l.active = append(l.active, r)
		tools[r.Tool] = true
		if r.Created.Before(since) {
			since = r.Created
		}
	}
	if len(l.active) == 0 {
		l.failed = false
		return l, nil
	}
	_, b, err := w.builder(p.builder)
	if err != nil {
		return l, err
	}
	// Builders' clocks may go otherwise than ours.
	list, err := b.List(ctx, provider.ComponentQuery{Tool: p.tool, Since: since.Add(-clockSkew)})
	if err != nil {
		return l, err
	}
	l.builds, l.failed = make(map[string]provider.ComponentBuild, len(list)), false
	for _, found := range list {
		if tools[found.Order.Tool] {
			l.builds[found.Order.Tool+"/"+found.ID] = found
		}
	}
	return l, nil
}

// keep has stored what is new in a listing. What comes while an earlier one is being stored waits for that; only the last one counts. w.mu is held.
func (w *watcher) keep(ctx context.Context, p place, st *watched, l listing) {
	st.unkept = &l
	if st.storing {
		return
	}
	st.storing = true
	go func() {
		for {
			w.mu.Lock()
			l := st.unkept
			st.unkept, st.storing = nil, l != nil
			w.mu.Unlock()
			if l == nil {
				return
			}
			w.store(ctx, p, st, *l)
		}
	}()
}

// store stores what is new in a listing, and what the time has brought.
func (w *watcher) store(ctx context.Context, p place, st *watched, l listing) {
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	_, b, err := w.builder(p.builder)
	if err != nil {
		l.failed = true
	}
	seen := make([]Deployment, len(l.active))
	faults := make([]error, len(l.active))
	turn := make(chan int)
	var wg sync.WaitGroup
	for range min(storesAtOnce, len(l.active)) {
		wg.Go(func() {
			for i := range turn {
				seen[i], faults[i] = w.compare(ctx, b, l, l.active[i], st.cache)
			}
		})
	}
	for i := range l.active {
		turn <- i
	}
	close(turn)
	wg.Wait()
	clear(st.cache)
	for _, d := range seen {
		if d.ID != "" {
			st.cache[d.Tool+"/"+d.ID] = d
		}
	}
	faults = slices.DeleteFunc(faults, func(err error) bool { return err == nil })
	if len(faults) == 0 && !l.failed {
		if err := noteRefresh(ctx, w.db, p.builder, p.tool, l.at); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		w.log.WarnContext(ctx, "what became of builds was not stored; trying again", "builder", p.builder, "tool", p.tool, "deployments", len(faults), "error", faults[0])
	}
}

// compare stores what is new of one deployment, and gives it as it was found, for the cache.
func (w *watcher) compare(ctx context.Context, b *provider.Builder, l listing, r Reference, cache map[string]Deployment) (Deployment, error) {
	d, ok := cache[r.Tool+"/"+r.ID]
	if !ok || d.Version != r.Version {
		var err error
		d, err = w.storage.Deployment(ctx, r.Tool, r.ID)
		if errors.Is(err, slipway.NotFound) {
			return Deployment{}, nil
		}
		if err != nil {
			return Deployment{}, err
		}
		d.Config = nil
	}
	news := map[string]provider.ComponentBuild{}
	if !l.failed {
		news = w.news(ctx, b, d, l)
	}
	return d, w.merge(ctx, d, news)
}

// gone is what stands for a build that its builder does not know any more.
var gone = provider.ComponentBuild{Build: slipway.Build{Status: "gone"}}

// news gives the builds of a deployment of which something new is known, by id. What the list does not show is asked for by itself, but for what was
// started after it.
func (w *watcher) news(ctx context.Context, b *provider.Builder, d Deployment, l listing) map[string]provider.ComponentBuild {
	news := map[string]provider.ComponentBuild{}
	missing := 0
	for _, c := range d.Components {
		if c.Build.ID == "" || c.Build.Status.Ended() || d.Status != Running {
			continue
		}
		found, ok := l.builds[d.Tool+"/"+c.Build.ID]
		if !ok {
			if c.Build.Since != nil && c.Build.Since.After(l.at) {
				continue
			}
			if missing++; missing > maxMissing {
				continue
			}
			var err error
			if found, err = b.Get(ctx, d.Tool, c.Build.ID); errors.Is(err, slipway.NotFound) {
				found = gone
			} else if err != nil {
				continue
			}
		}
		if next := w.followed(d, c, found); next != c.Build {
			news[c.Build.ID] = found
		}
	}
	return news
}

// shown gives what a listing says of a deployment's builds beyond what is stored of them. What is stored may be newer.
func (w *watcher) shown(d Deployment, l listing) map[string]provider.ComponentBuild {
	if d.Status != Running {
		return nil
	}
	news := map[string]provider.ComponentBuild{}
	for _, c := range d.Components {
		if c.Build.ID == "" || c.Build.Status.Ended() {
			continue
		}
		found, ok := l.builds[d.Tool+"/"+c.Build.ID]
		if !ok {
			continue
		}
		if next := w.followed(d, c, found); next != c.Build && (next.Status != BuildPending || c.Build.Status == BuildPending) {
			news[c.Build.ID] = found
		}
	}
	return news
}

// follow makes the builds of a deployment what is known of them. Where one has ended there may be room for those that wait.
func (w *watcher) follow(d *Deployment, news map[string]provider.ComponentBuild) {
	room := false
	for i, c := range d.Components {
		if found, ok := news[c.Build.ID]; ok && c.Build.ID != "" && !c.Build.Status.Ended() {
			d.Components[i].Build = w.followed(*d, c, found)
			room = room || d.Components[i].Build.Status.Ended()
		}
	}
	for i := range d.Components {
		if room {
			d.Components[i].Build.Next = nil
		}
	}
}

func (w *watcher) followed(d Deployment, c Component, found provider.ComponentBuild) BuildState {
	if found.Status == gone.Status {
		c.Build.Status, c.Build.Detail = BuildFailed, fmt.Sprintf("build %s not found, maybe it was deleted?", c.Build.ID)
		return c.Build
	}
	return follow(c.Build, found, d.Tool, c.Name, w.logCommand(d.Builder))
}

// merge stores what is new of a deployment's builds, and that it took too long.
func (w *watcher) merge(ctx context.Context, d Deployment, news map[string]provider.ComponentBuild) error {
	settled := d
	settled.Components = append([]Component(nil), d.Components...)
	w.settle(&settled, w.now())
	if len(news) == 0 && settled.Status == d.Status {
		return nil
	}
	_, err := w.update(ctx, d.Tool, d.ID, func(d *Deployment) error {
		if d.Status != Running && d.Status != Pending {
			return errUnchanged
		}
		w.follow(d, news)
		return nil
	})
	if errors.Is(err, slipway.NotFound) {
		return nil
	}
	return err
}

// broadcast tells whoever waits that something changed, by name. It knows only names that somebody waits for.
type broadcast struct {
	mu      sync.Mutex
	waiting map[string]*bell
}

type bell struct {
	rung    chan struct{}
	waiters int // how many wait
}

// on gives a channel that is closed at the next ring of the name, and a function that ends the wait, to be called once in any case.
func (b *broadcast) on(name string) (rung <-chan struct{}, leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		b.waiting = map[string]*bell{}
	}
	one := b.waiting[name]
	if one == nil {
		one = &bell{rung: make(chan struct{})}
		b.waiting[name] = one
	}
	one.waiters++
	return one.rung, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if one.waiters--; one.waiters == 0 && b.waiting[name] == one { // else it was rung
			delete(b.waiting, name)
		}
	}
}

func (b *broadcast) ring(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if one := b.waiting[name]; one != nil {
		close(one.rung)
		delete(b.waiting, name)
	}
}
