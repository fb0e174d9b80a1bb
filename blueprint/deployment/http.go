package deployment

import (
	"context"

	"github.com/slipway-platform/slipway"
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

func (s *service) search(ctx context.Context, in *struct {
	blueprint.OfEntity
	Filters
}) (*blueprint.Answered[Page], error) {
	return blueprint.AnswerSearch[Page](ctx, s.index, in.OfEntity, in.query)
}

func (s *service) searchAll(ctx context.Context, in *struct {
	Filters
	blueprint.Shown
	blueprint.Among
}) (*blueprint.Answered[Page], error) {
	return blueprint.AnswerSearchAll[Page](ctx, s.index, in.Among, in.query)
}

func (s *service) get(ctx context.Context, in *struct {
	blueprint.OfEntity
	ID string `path:"id" maxLength:"600" doc:"Id of the deployment, as search shows it" example:"github:145988746"`
}) (*blueprint.Answered[slipway.Deployment], error) {
	return blueprint.AnswerItem(ctx, s.index, in.OfEntity, in.ID)
}
