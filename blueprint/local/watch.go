package local

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// watchEvery is how often the loop asks whether a branch is due.
const watchEvery = 5 * time.Second

// watch looks at the watched branches until the context ends.
func (s *service) watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		for _, p := range s.providers() {
			if p.Poll <= 0 {
				continue
			}
			if err := p.look(ctx); err != nil {
				s.complain(ctx, "watched branches were not looked at; trying again", err, "provider", p.name)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look looks at the branches of a provider that are due, on whichever replica is first. A branch that is seen for the first time
// is remembered and not built.
func (p *ci) look(ctx context.Context) error {
	wanted := map[string]bool{}
	err := p.annotated(ctx, "", func(e *slipway.Entity) {
		for _, project := range p.projects(e) {
			wanted[project] = true
		}
	})
	if err != nil {
		return err
	}
	known, err := watchedProjects(ctx, p.db, p.name)
	if err != nil {
		return err
	}
	for project := range wanted {
		for _, branch := range p.Branches {
			if known[project+" "+branch] {
				continue
			}
			if err := p.db.Write(ctx, func(tx *store.Tx) error { return addWatch(ctx, tx, p.name, project, branch) }); err != nil {
				return err
			}
		}
	}
	for {
		if due, err := p.anyDue(ctx, p.name); err != nil || !due {
			return err
		}
		var w watched
		err := p.db.Write(ctx, func(tx *store.Tx) (err error) {
			w, err = p.dueWatch(ctx, tx, p.name, p.Poll.Std())
			return err
		})
		if errors.Is(err, slipway.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if !wanted[w.Project] || !slices.Contains(p.Branches, w.Branch) {
			if err := p.db.Write(ctx, func(tx *store.Tx) error { return dropWatch(ctx, tx, p.name, w.Project, w.Branch) }); err != nil {
				return err
			}
			continue
		}
		if err := p.lookAt(ctx, w); err != nil {
			p.complain(ctx, "a watched branch could not be read", err, "provider", p.name, "project", w.Project, "branch", w.Branch)
		}
	}
}

// lookAt builds the new commit of a branch, if there is one.
func (p *ci) lookAt(ctx context.Context, w watched) error {
	ref, err := p.fetch.ResolveRef(ctx, w.Project, "refs/heads/"+w.Branch)
	if err != nil || ref.Commit == w.SHA {
		return err
	}
	r := row{Provider: p.name, Project: w.Project, Ref: w.Branch}
	r.Trigger = slipway.TriggerPush
	r.Commit = &slipway.Commit{SHA: ref.Commit, Branch: w.Branch}
	_, err = p.enqueue(ctx, r, func(tx *store.Tx) (bool, error) {
		moved, err := moveWatch(ctx, tx, p.name, w, ref.Commit)
		return moved && w.SHA != "", err
	})
	return err
}
