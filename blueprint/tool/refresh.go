package tool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

const (
	refreshEvery = 1500 * time.Millisecond // a state is at most 2 s old
	staleAfter   = 2 * time.Second
	refreshWait  = time.Second // how long an answer waits for it
	sweepEvery   = 30 * time.Second
	maxMissing   = 20 // builds that are asked for by themselves in one refresh
)

// place is what one list of a builder covers: all of its builds, or those of one tool.
type place struct{ builder, tool string }

// watcher asks builders for their builds, for all deployments at once and for all replicas: whoever claims the row asks, the others read what was
// stored. Safe for concurrent use.
type watcher struct {
	*service
	mu    sync.Mutex
	state map[place]*watched
}

// watched is what this replica knows of a place.
type watched struct {
	at      time.Time         // when this replica last knew it to be looked at
	running chan struct{}     // closed when the refresh under way ends; nil: there is none
	cache   map[string]cached // active deployments by tool/id
}

type cached struct {
	version string
	d       Deployment
}

// fresh returns when the builds of a deployment were looked at within staleAfter, or after refreshWait.
func (w *watcher) fresh(ctx context.Context, d Deployment) {
	p := w.placeOf(d.Builder, d.Tool)
	done := w.begin(ctx, p, staleAfter)
	if done == nil {
		return
	}
	t := time.NewTimer(refreshWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
}

func (w *watcher) placeOf(builder, tool string) place {
	if _, b, err := w.builder(builder); err == nil && !b.PerTool {
		tool = ""
	}
	return place{builder, tool}
}

// begin has a place looked at unless that was done within age; the channel is closed when it is.
func (w *watcher) begin(ctx context.Context, p place, age time.Duration) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.state[p]
	if st == nil {
		st = &watched{cache: map[string]cached{}}
		w.state[p] = st
	}
	if st.running != nil {
		return st.running
	}
	now := w.now()
	if since := now.Sub(st.at); since >= 0 && since < age {
		return nil
	}
	done := make(chan struct{})
	st.running = done
	go func() {
		ctx, cancel := context.WithTimeout(auth.WithCaller(context.WithoutCancel(ctx), auth.System()), 30*time.Second)
		defer cancel()
		err := w.look(ctx, p, st.cache)
		if err != nil {
			w.log.WarnContext(ctx, "the builds of deployments could not be looked at; trying again", "builder", p.builder, "tool", p.tool, "error", err)
		}
		w.mu.Lock()
		st.at, st.running = w.now(), nil
		if len(st.cache) == 0 && p.tool != "" {
			delete(w.state, p)
		}
		w.mu.Unlock()
		close(done)
	}()
	return done
}

// run looks at all builders with active deployments, again and again, and mends what a crash has left undone.
func (w *watcher) run(ctx context.Context) error {
	look := time.NewTicker(refreshEvery)
	defer look.Stop()
	swept := time.Time{}
	for {
		refs, err := w.storage.Active(ctx)
		if err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "active deployments could not be read; trying again", "error", err)
		}
		places := map[place]bool{}
		for _, r := range refs {
			places[w.placeOf(r.Builder, r.Tool)] = true
		}
		for p := range places {
			w.begin(ctx, p, refreshEvery/2)
		}
		if err == nil && time.Since(swept) > sweepEvery {
			w.sweep(ctx, refs)
			swept = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// sweep has each active deployment looked at by a step: one whose job was lost between two stores goes on, and time-outs are seen.
func (w *watcher) sweep(ctx context.Context, refs []Reference) {
	for _, r := range refs {
		err := w.db.Write(ctx, func(tx *store.Tx) error { return w.insertStep(ctx, tx, r.Tool, r.ID, time.Time{}) })
		if err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "a deployment was not looked at; trying again", "deployment", r.ID, "error", err)
		}
	}
	if err := forgetRefresh(ctx, w.db, w.now().Add(-24*time.Hour)); err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "old notes of refreshes were not deleted", "error", err)
	}
}

// look asks the builder once and stores what has changed.
func (w *watcher) look(ctx context.Context, p place, cache map[string]cached) error {
	claimed, err := claimRefresh(ctx, w.db, p.builder, p.tool, w.now(), refreshEvery)
	if err != nil || !claimed {
		return err
	}
	refs, err := w.storage.Active(ctx)
	if err != nil {
		return err
	}
	live := map[string]bool{}
	var deployments []Deployment
	since := w.now()
	for _, r := range refs {
		if r.Builder != p.builder || p.tool != "" && r.Tool != p.tool {
			continue
		}
		key := r.Tool + "/" + r.ID
		live[key] = true
		known, ok := cache[key]
		if !ok || known.version != r.Version {
			d, err := w.storage.Deployment(ctx, r.Tool, r.ID)
			if errors.Is(err, slipway.NotFound) {
				continue
			}
			if err != nil {
				return err
			}
			known = cached{d.Version, d}
			cache[key] = known
		}
		deployments = append(deployments, known.d)
		if known.d.Created.Before(since) {
			since = known.d.Created
		}
	}
	for key := range cache {
		if !live[key] {
			delete(cache, key)
		}
	}
	if len(deployments) == 0 {
		return nil
	}
	_, b, err := w.builder(p.builder)
	var list []provider.ComponentBuild
	if err == nil {
		// Builders' clocks may go otherwise than ours.
		list, err = b.List(ctx, provider.ComponentQuery{Tool: p.tool, Since: since.Add(-time.Hour)})
	}
	seen := make(map[string]provider.ComponentBuild, len(list))
	for _, found := range list {
		seen[found.Order.Tool+"/"+found.ID] = found
	}
	for _, d := range deployments {
		news := map[string]provider.ComponentBuild{}
		if err == nil {
			news = w.news(ctx, b, d, seen)
		}
		if uerr := w.merge(ctx, d, news); uerr != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "what became of builds was not stored; trying again", "deployment", d.ID, "error", uerr)
		}
	}
	return err
}

// gone is what stands for a build that its builder does not know any more.
var gone = provider.ComponentBuild{Build: slipway.Build{Status: "gone"}}

// news gives the builds of a deployment of which something new is known, by id.
func (w *watcher) news(ctx context.Context, b *provider.Builder, d Deployment, seen map[string]provider.ComponentBuild) map[string]provider.ComponentBuild {
	news := map[string]provider.ComponentBuild{}
	missing := 0
	for _, c := range d.Components {
		if c.Build.ID == "" || c.Build.Status.Ended() || d.Status != Running {
			continue
		}
		found, ok := seen[d.Tool+"/"+c.Build.ID]
		if !ok {
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
		for i, c := range d.Components {
			if found, ok := news[c.Build.ID]; ok && c.Build.ID != "" && !c.Build.Status.Ended() {
				d.Components[i].Build = w.followed(*d, c, found)
			}
		}
		return nil
	})
	if errors.Is(err, slipway.NotFound) {
		return nil
	}
	return err
}

// broadcast tells whoever waits that something changed, by name.
type broadcast struct {
	mu      sync.Mutex
	waiting map[string]chan struct{}
}

// on gives a channel that is closed at the next ring of the name.
func (b *broadcast) on(name string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		b.waiting = map[string]chan struct{}{}
	}
	c := b.waiting[name]
	if c == nil {
		c = make(chan struct{})
		b.waiting[name] = c
	}
	return c
}

func (b *broadcast) ring(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.waiting[name]; c != nil {
		close(c)
		delete(b.waiting, name)
	}
}
