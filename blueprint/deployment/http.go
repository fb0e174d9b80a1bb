package deployment

import (
	"context"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/task"
)

// Page is a page of deployments.
type Page struct {
	Items    []slipway.Deployment `json:"items" nullable:"false" doc:"The deployments, in the order asked for"`
	PageInfo slipway.PageInfo     `json:"pageInfo" doc:"Where this page stands"`
	Sources  []slipway.Source     `json:"sources" nullable:"false" doc:"Where the deployments come from, and how fresh each source is"`
}

// Filters are the parameters that both searches have.
type Filters struct {
	blueprint.Listing
	TriggeredBy string   `query:"triggeredBy" maxLength:"300" doc:"Who caused it: id, name, e-mail address or entity ref; me is the caller" example:"me"`
	Status      []string `query:"status,explode" maxItems:"6" enum:"starting,running,succeeded,failed,canceled,unknown" doc:"Where it stands; repeat for any of several"`
	Environment []string `query:"environment,explode" maxItems:"20" doc:"Environment, in the vendor's own words; repeat for any of several" example:"[\"production\"]"`
	Version     []string `query:"version,explode" maxItems:"20" doc:"What was deployed; repeat for any of several"`
}

func (f Filters) query() (task.Query, error) {
	return f.Query(f.Status, map[string][]string{"triggeredBy": {f.TriggeredBy}, "environment": f.Environment, "version": f.Version})
}

type pageOutput struct{ Body blueprint.Raw[Page] }

func (s *service) search(ctx context.Context, in *struct {
	blueprint.OfEntity
	Filters
}) (*pageOutput, error) {
	ref, err := in.Ref()
	if err != nil {
		return nil, err
	}
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	p, err := s.index.Search(ctx, auth.CallerFrom(ctx), ref, q, blueprint.Allow(ctx, readPermission))
	if err != nil {
		return nil, err
	}
	raw, err := blueprint.WritePage(p)
	return &pageOutput{blueprint.Raw[Page]{JSON: raw}}, err
}

func (s *service) searchAll(ctx context.Context, in *struct {
	Filters
	blueprint.Shown
	blueprint.Among
}) (*pageOutput, error) {
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	scope, err := in.Scope()
	if err != nil {
		return nil, err
	}
	p, err := s.index.SearchAll(ctx, auth.Narrowed(ctx), scope, q)
	if err != nil {
		return nil, err
	}
	raw, err := blueprint.WritePage(p)
	return &pageOutput{blueprint.Raw[Page]{JSON: raw}}, err
}

func (s *service) get(ctx context.Context, in *struct {
	blueprint.OfEntity
	ID string `path:"id" maxLength:"600" doc:"Id of the deployment, as search shows it" example:"github:145988746"`
}) (*struct {
	Body blueprint.Raw[slipway.Deployment]
}, error) {
	ref, err := in.Ref()
	if err != nil {
		return nil, err
	}
	it, err := s.index.Get(ctx, auth.CallerFrom(ctx), ref, in.ID, blueprint.Allow(ctx, readPermission))
	return &struct {
		Body blueprint.Raw[slipway.Deployment]
	}{blueprint.Raw[slipway.Deployment]{JSON: it.JSON}}, err
}
