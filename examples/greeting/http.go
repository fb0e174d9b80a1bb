package greeting

import (
	"context"
	"strconv"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

type newGreeting struct {
	To string `json:"to" minLength:"1" maxLength:"100" doc:"Who is greeted" example:"Ada"`
}

type body[T any] struct{ Body T }

func (s *service) create(ctx context.Context, in *body[newGreeting]) (*body[Greeting], error) {
	g, err := s.greet(ctx, in.Body.To)
	if err != nil {
		return nil, err
	}
	return &body[Greeting]{g}, nil
}

func (s *service) get(ctx context.Context, in *struct {
	ID int64 `path:"id" doc:"Id of the greeting"`
}) (*body[Greeting], error) {
	g, err := getGreeting(ctx, s.db, in.ID)
	if err != nil {
		return nil, err
	}
	return &body[Greeting]{g}, nil
}

func (s *service) list(ctx context.Context, in *struct {
	Limit  int   `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many at most"`
	Cursor int64 `query:"cursor" doc:"nextCursor of the page before"`
}) (*body[blueprint.List[Greeting]], error) {
	items, err := listGreetings(ctx, s.db, in.Cursor, in.Limit+1)
	if err != nil {
		return nil, err
	}
	page := blueprint.List[Greeting]{Items: items, PageInfo: slipway.PageInfo{Limit: in.Limit}}
	if len(items) > in.Limit {
		page.Items = items[:in.Limit]
		page.PageInfo.HasMore = true
		page.PageInfo.NextCursor = strconv.FormatInt(items[in.Limit-1].ID, 10)
	}
	return &body[blueprint.List[Greeting]]{page}, nil
}
