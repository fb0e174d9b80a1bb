package local

import (
	"context"
	"errors"
	"io"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// builder is the provider as the builder of tools. A build of a component is a build of the project of that component; what it clones stands in
// its order. It makes no image: what the operator's command does with the checkout is up to it.
func (p *ci) builder() *provider.Builder {
	return &provider.Builder{Start: p.order, Get: p.ordered, Cancel: p.cancelOrdered, List: p.listOrdered, Logs: p.logsOfOrdered}
}

// order queues the build of an order, once for each key.
func (p *ci) order(ctx context.Context, o provider.BuildOrder) (provider.ComponentBuild, error) {
	var none provider.ComponentBuild
	if err := o.Check(); err != nil {
		return none, err
	}
	repository, err := p.repository(o.Repository)
	if err != nil {
		return none, err
	}
	known, err := getOrdered(ctx, p.db, p.name, o.Key)
	if !errors.Is(err, slipway.NotFound) {
		return p.component(known), err
	}
	r := row{Provider: p.name, Project: provider.ComponentProject(o.Tool, o.Component), Ref: o.Ref, Order: o}
	r.Order.Repository = repository
	r.Trigger, r.TriggeredBy = slipway.TriggerAPI, person(o.By)
	if o.By.Kind == slipway.CallerUser {
		r.Trigger = slipway.TriggerManual
	}
	if o.Commit != "" {
		r.Commit = &slipway.Commit{SHA: o.Commit}
		if o.Commit != o.Ref {
			r.Commit.Branch = o.Ref
		}
	} else if r.Commit, err = p.resolve(ctx, repository, o.Ref); err != nil {
		return none, err
	}
	stored, err := p.store(ctx, r, nil)
	if errors.Is(err, slipway.Conflict) { // the same order came at the same moment
		known, err := getOrdered(ctx, p.db, p.name, o.Key)
		return p.component(known), err
	}
	if err != nil {
		return none, err
	}
	return p.component(*stored), nil
}

// component is a stored build as a Builder shows it.
func (s *service) component(r row) provider.ComponentBuild {
	if r.ID == "" {
		return provider.ComponentBuild{}
	}
	return provider.ComponentBuild{Build: s.present(r), Order: r.Order}
}

// find gives the build of a tool.
func (p *ci) find(ctx context.Context, tool, id string) (row, error) {
	r, err := getToolBuild(ctx, p.db, p.name, tool, id)
	if errors.Is(err, slipway.NotFound) {
		err = slipway.Errorf(slipway.NotFound, "the tool %.70q has no build %.70q at provider %q", tool, id, p.name)
	}
	return r, err
}

func (p *ci) ordered(ctx context.Context, tool, id string) (provider.ComponentBuild, error) {
	r, err := p.find(ctx, tool, id)
	return p.component(r), err
}

func (p *ci) cancelOrdered(ctx context.Context, tool, id string) error {
	r, err := p.find(ctx, tool, id)
	if err != nil {
		return err
	}
	return p.cancel(ctx, r.Project, id)
}

func (p *ci) listOrdered(ctx context.Context, q provider.ComponentQuery) ([]provider.ComponentBuild, error) {
	rows, err := listOrdered(ctx, p.db, p.name, q)
	if err != nil {
		return nil, err
	}
	list := make([]provider.ComponentBuild, 0, len(rows))
	for _, r := range rows {
		list = append(list, p.component(r))
	}
	return list, nil
}

func (p *ci) logsOfOrdered(ctx context.Context, tool, id string, follow bool) (io.ReadCloser, error) {
	r, err := p.find(ctx, tool, id)
	if err != nil {
		return nil, err
	}
	return p.logs(ctx, r.Project, id, follow)
}
