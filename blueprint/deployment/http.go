package deployment

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

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
	Limit       int      `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many on a page"`
	Cursor      string   `query:"cursor" doc:"pageInfo.nextCursor of the page before. Pages by cursor neither repeat nor drop a deployment while new ones arrive"`
	PageNumber  int      `query:"pageNumber" minimum:"1" doc:"Which page, from 1, instead of cursor; pageNumber × limit is at most 10,000"`
	Order       string   `query:"order" enum:"desc,asc" default:"desc" doc:"By creation: desc is newest first"`
	TriggeredBy string   `query:"triggeredBy" maxLength:"300" doc:"Who caused it: id, name, e-mail address or entity ref; me is the caller" example:"me"`
	Status      []string `query:"status,explode" maxItems:"6" enum:"starting,running,succeeded,failed,canceled,unknown" doc:"Where it stands; repeat for any of several"`
	Environment []string `query:"environment,explode" maxItems:"20" doc:"Environment, in the vendor's own words; repeat for any of several" example:"[\"production\"]"`
	Version     []string `query:"version,explode" maxItems:"20" doc:"What was deployed; repeat for any of several"`
	Since       moment   `query:"since" format:"date-time" doc:"Created at this moment or later" example:"2026-05-01T00:00:00Z"`
	Until       moment   `query:"until" format:"date-time" doc:"Created before this moment" example:"2026-06-01T00:00:00Z"`
	Fresh       bool     `query:"fresh" doc:"Have the sources read first, and wait for that, 5 seconds at most"`
	Sent        blueprint.Query
}

// moment is a time in a query.
type moment struct{ time.Time }

// UnmarshalText reads RFC 3339, and says so in words.
func (m *moment) UnmarshalText(text []byte) (err error) {
	if m.Time, err = time.Parse(time.RFC3339, string(text)); err != nil {
		return errors.New("write a time such as 2026-01-02T15:04:05Z")
	}
	return nil
}

// query is what the index is asked. A filter that was sent without a value is refused: a script whose variable is empty must not be shown everything.
func (f Filters) query() (task.Query, error) {
	var empty []string
	for name, values := range f.Sent.Values {
		if name != "cursor" && slices.Contains(values, "") {
			empty = append(empty, name)
		}
	}
	if slices.Sort(empty); len(empty) > 0 {
		err := slipway.Errorf(slipway.Invalid, "%s: was sent without a value; leave it out, or give it one", strings.Join(empty, ", "))
		for _, name := range empty {
			err.Details = append(err.Details, slipway.Detail{Field: name, Code: slipway.Invalid, Message: "was sent without a value"})
		}
		return task.Query{}, err
	}
	return task.Query{
		Statuses: f.Status, Filters: map[string][]string{"triggeredBy": {f.TriggeredBy}, "environment": f.Environment, "version": f.Version},
		Since: f.Since.Time, Until: f.Until.Time, Ascending: f.Order == "asc", Limit: f.Limit, Cursor: f.Cursor, PageNumber: f.PageNumber, Fresh: f.Fresh,
	}, nil
}

// Shown documents what the server reads of every request, before any operation, and puts into its context.
type Shown struct {
	Shown string `header:"Slipway-Provider-Token" doc:"Tokens of the caller's own at providers with visibility source: <provider>=<token>, several with commas between" example:"github=ghp_…"`
}

// OfEntity names an entity in the path.
type OfEntity struct {
	Shown
	EntityRef string `path:"entityRef" maxLength:"200" doc:"[kind:][namespace/]name; kind is component and namespace is default when left out; case does not matter" example:"component:default/web"`
}

func (in OfEntity) ref() (slipway.EntityRef, error) {
	ref, err := slipway.ParseEntityRef(in.EntityRef, slipway.EntityRef{})
	return ref.Lower(), err
}

func allow(ctx context.Context) func(task.Object) error {
	return func(o task.Object) error {
		return auth.Require(ctx, readPermission, auth.Object{Ref: o.Ref, Owner: o.Owner})
	}
}

type pageOutput struct{ Body blueprint.Raw[Page] }

func (s *service) search(ctx context.Context, in *struct {
	OfEntity
	Filters
}) (*pageOutput, error) {
	ref, err := in.ref()
	if err != nil {
		return nil, err
	}
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	p, err := s.index.Search(ctx, auth.CallerFrom(ctx), ref, q, allow(ctx))
	if err != nil {
		return nil, err
	}
	raw, err := write(p)
	return &pageOutput{blueprint.Raw[Page]{JSON: raw}}, err
}

func (s *service) searchAll(ctx context.Context, in *struct {
	Filters
	Shown
	Owner  []string `query:"owner,explode" maxItems:"20" doc:"Owner of the entity; repeat for any of several. The kind is group when left out" example:"[\"group:default/team-a\"]"`
	System []string `query:"system,explode" maxItems:"20" doc:"System of the entity; repeat for any of several"`
	Entity []string `query:"entity,explode" maxItems:"100" doc:"The entity; repeat for any of several"`
	Kind   []string `query:"kind,explode" maxItems:"20" doc:"Kind of the entity; repeat for any of several" example:"[\"component\"]"`
}) (*pageOutput, error) {
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	scope := task.Scope{Kinds: in.Kind}
	for _, p := range []struct {
		field, kind string
		values      []string
		refs        *[]string
	}{{"owner", "group", in.Owner, &scope.Owners}, {"system", "system", in.System, &scope.Systems}, {"entity", slipway.DefaultKind, in.Entity, &scope.Entities}} {
		for _, v := range p.values {
			ref, err := slipway.ParseEntityRef(v, slipway.EntityRef{Kind: p.kind})
			if err != nil {
				return nil, slipway.Errorf(slipway.Invalid, "%s: %q is no entity ref; write [kind:][namespace/]name", p.field, v).WithDetails(slipway.Detail{Field: p.field, Code: slipway.Invalid, Message: "is no entity ref"})
			}
			*p.refs = append(*p.refs, ref.String())
		}
	}
	p, err := s.index.SearchAll(ctx, auth.Narrowed(ctx), scope, q)
	if err != nil {
		return nil, err
	}
	raw, err := write(p)
	return &pageOutput{blueprint.Raw[Page]{JSON: raw}}, err
}

func (s *service) get(ctx context.Context, in *struct {
	OfEntity
	ID string `path:"id" maxLength:"600" doc:"Id of the deployment, as search shows it" example:"github:145988746"`
}) (*struct {
	Body blueprint.Raw[slipway.Deployment]
}, error) {
	ref, err := in.ref()
	if err != nil {
		return nil, err
	}
	it, err := s.index.Get(ctx, auth.CallerFrom(ctx), ref, in.ID, allow(ctx))
	return &struct {
		Body blueprint.Raw[slipway.Deployment]
	}{blueprint.Raw[slipway.Deployment]{JSON: it.JSON}}, err
}
