package fake

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Deploy adds a deployment to a project, or changes the one of its id. What is not said is filled in: the time, the id, and production.
func (v *Vendor) Deploy(projectName string, d slipway.Deployment) slipway.Deployment {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.project(projectName)
	now := v.now()
	if d.CreatedAt.IsZero() {
		d.CreatedAt = now
	}
	if d.Environment == "" {
		d.Environment = "production"
	}
	if d.Status == "" {
		d.Status = slipway.DeploymentRunning
	}
	if d.StartedAt == nil && d.Status != slipway.DeploymentStarting {
		d.StartedAt = &d.CreatedAt
	}
	if d.FinishedAt == nil && d.Status.Finished() {
		d.FinishedAt = &now
	}
	d.UpdatedAt = &now
	provider.DeriveDeployment(&d)
	at := slices.IndexFunc(p.deployments, func(other slipway.Deployment) bool { return other.ID == d.ID })
	if d.ID == "" || at < 0 {
		if d.ID == "" {
			d.ID = "d" + strconv.Itoa(len(p.deployments)+1)
		}
		p.deployments = append(p.deployments, d)
	} else {
		p.deployments[at] = d
	}
	v.tell()
	return d
}

func (v *Vendor) listDeployments(ctx context.Context, name string, o provider.ListOptions) (page provider.Page[slipway.Deployment], err error) {
	err = v.call(ctx, func() error {
		p, err := v.existing(name)
		if err != nil {
			return err
		}
		list := slices.Clone(p.deployments)
		slices.Reverse(list)
		slices.SortStableFunc(list, func(a, b slipway.Deployment) int { return b.CreatedAt.Compare(a.CreatedAt) })
		if o.Cursor != "" {
			at := slices.IndexFunc(list, func(d slipway.Deployment) bool { return d.ID == o.Cursor })
			if at < 0 {
				return slipway.Errorf(slipway.Invalid, "the cursor %q is not one of ours", o.Cursor)
			}
			list = list[at+1:]
		}
		if o.Limit > 0 && len(list) > o.Limit {
			list = list[:o.Limit]
			page.Next = list[o.Limit-1].ID
		}
		page.Items = list
		return nil
	})
	return page, err
}

func (v *Vendor) getDeployment(ctx context.Context, name, id string) (found slipway.Deployment, err error) {
	return found, v.call(ctx, func() error {
		p, err := v.existing(name)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(p.deployments, func(d slipway.Deployment) bool { return d.ID == id })
		if at < 0 {
			return slipway.Errorf(slipway.NotFound, "project %s has no deployment %s", name, id).WithCause(fmt.Errorf("deployment %s", id))
		}
		found = p.deployments[at]
		return nil
	})
}
