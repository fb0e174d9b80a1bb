package platform

import (
	"context"
	"strconv"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

type service struct {
	db     *store.DB
	auth   *auth.Service
	jobs   *job.Queue
	events *event.Bus
	tasks  *task.Engine
	keys   *secret.Keyring

	entities *entity.Store

	url func() string // of the server, from outside
}

// body is an answer with nothing but a body.
type body[T any] struct{ Body T }

// accepted is the answer of what goes on after it: Location says where to look.
type accepted[T any] struct {
	Location string `header:"Location" doc:"Where to find it"`
	Body     T
}

// all is a list that comes in one page.
func all[T any](items []T) *body[blueprint.List[T]] {
	if items == nil {
		items = []T{}
	}
	return &body[blueprint.List[T]]{blueprint.List[T]{Items: items, PageInfo: slipway.PageInfo{Limit: len(items)}}}
}

// cut shortens what was read, one more than the limit, to a page. last gives the sort key of an item, for the next cursor.
func cut[T, K any](read []T, limit int, cursors secret.Cursors[K], last func(T) K) *body[blueprint.List[T]] {
	out := all(read)
	out.Body.PageInfo.Limit = limit
	if len(read) <= limit {
		return out
	}
	out.Body.Items = read[:limit]
	out.Body.PageInfo.HasMore, out.Body.PageInfo.NextCursor = true, cursors.Write(last(read[limit-1]))
	return out
}

// Caller is who the server takes somebody for.
type Caller struct {
	Kind        slipway.CallerKind `json:"kind" enum:"user,service,tool" doc:"What kind of caller"`
	Subject     string             `json:"subject" doc:"Who it is" example:"user:default/jane"`
	TokenID     string             `json:"tokenId,omitempty" doc:"Id of the token that was shown"`
	SessionID   string             `json:"sessionId,omitempty" doc:"Id of the session that was shown"`
	Owns        []string           `json:"owns" nullable:"false" doc:"Refs that stand for the caller when ownership is asked: a user and its groups"`
	Permissions []string           `json:"permissions" nullable:"false" doc:"What it may do: permissions or patterns of them, narrowed to objects after a colon" example:"[\"build.*:owned\"]"`
}

func (s *service) me(ctx context.Context, _ *struct{}) (*body[Caller], error) {
	c := auth.CallerFrom(ctx)
	return &body[Caller]{Caller{
		Kind: c.Kind, Subject: c.Subject, TokenID: c.TokenID, SessionID: c.SessionID, Owns: append([]string{}, c.Owns...), Permissions: auth.FormatGrants(c.Grants),
	}}, nil
}

func (s *service) permissions(context.Context, *struct{}) (*body[blueprint.List[auth.Permission]], error) {
	return all(s.auth.Permissions()), nil
}

// newToken is what a caller asks for.
type newToken struct {
	Name        string     `json:"name" minLength:"1" maxLength:"63" doc:"Name; unique among live tokens. The token is known as token:<name>" example:"ci-bot"`
	User        string     `json:"user,omitempty" doc:"Ref of the user that it acts as; absent: a service of its own" example:"user:default/jane"`
	Permissions []string   `json:"permissions,omitempty" maxItems:"100" doc:"What it may do: permissions, build.* or *, narrowed by :owned, or by : and an entity ref or a beginning of one and *. Required for a service"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty" doc:"From when on it is refused; absent: never"`
	RateLimit   *auth.Rate `json:"rateLimit,omitempty" doc:"Its own rate limit, for a service; 0: none; absent: the configured one" example:"500/m"`
}

// createdToken is a token with its secret.
type createdToken struct {
	auth.Token
	Secret string `json:"secret" doc:"The secret to send as Authorization: Bearer; it is told only this once"`
}

func (s *service) createToken(ctx context.Context, in *struct{ Body newToken }) (*accepted[createdToken], error) {
	n := auth.NewToken{Name: in.Body.Name, User: in.Body.User, Permissions: in.Body.Permissions, RateLimit: in.Body.RateLimit}
	if in.Body.ExpiresAt != nil {
		n.Expires = *in.Body.ExpiresAt
	}
	t, text, err := s.auth.CreateToken(ctx, auth.CallerFrom(ctx), n)
	if err != nil {
		return nil, err
	}
	return &accepted[createdToken]{Location: "/api/tokens/" + t.ID, Body: createdToken{t, text}}, nil
}

// tokenKey is a token's place in the list.
type tokenKey struct {
	Created int64  `json:"c"` // µs
	ID      string `json:"i"`
}

func (s *service) listTokens(ctx context.Context, in *struct {
	User   string `query:"user" doc:"Only tokens that act as this user" example:"user:default/jane"`
	All    bool   `query:"all" doc:"Also those that are revoked or expired"`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many on a page"`
	Cursor string `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
}) (*body[blueprint.List[auth.Token]], error) {
	q := auth.TokenQuery{All: in.All, AtMost: in.Limit + 1}
	if in.User != "" {
		ref, err := slipway.ParseEntityRef(in.User, slipway.EntityRef{Kind: "user"})
		if err != nil {
			return nil, err
		}
		q.User = ref.String()
	}
	cursors := secret.CursorsOf[tokenKey](s.keys, "tokens", q.User, in.All)
	after, err := cursors.Read(in.Cursor)
	if err != nil {
		return nil, err
	}
	if after != nil {
		q.After = &auth.Token{ID: after.ID, CreatedAt: microseconds(after.Created)}
	}
	tokens, err := s.auth.ListTokens(ctx, q)
	if err != nil {
		return nil, err
	}
	return cut(tokens, in.Limit, cursors, func(t auth.Token) tokenKey { return tokenKey{t.CreatedAt.UnixMicro(), t.ID} }), nil
}

func microseconds(n int64) time.Time { return time.UnixMicro(n) }

type tokenInput struct {
	ID string `path:"id" maxLength:"100" doc:"Id of the token" example:"4fT0aZ81kQxB"`
}

func (s *service) getToken(ctx context.Context, in *tokenInput) (*body[auth.Token], error) {
	t, err := s.auth.GetToken(ctx, in.ID)
	return &body[auth.Token]{t}, err
}

func (s *service) revokeToken(ctx context.Context, in *tokenInput) (*struct{}, error) {
	return &struct{}{}, s.auth.RevokeToken(ctx, auth.CallerFrom(ctx), in.ID)
}

func (s *service) listJobs(ctx context.Context, in *struct {
	State  []job.State `query:"state,explode" enum:"available,running,retrying,scheduled,completed,canceled,discarded" maxItems:"7" doc:"Where they stand; may repeat"`
	Kind   []string    `query:"kind,explode" maxItems:"20" doc:"What they do; may repeat" example:"[\"task.refresh\"]"`
	Limit  int         `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many on a page"`
	Cursor string      `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
}) (*body[blueprint.List[job.Job]], error) {
	cursors := secret.CursorsOf[int64](s.keys, "jobs", in.State, in.Kind)
	f := job.Filter{States: distinct(in.State), Kinds: in.Kind, Limit: in.Limit + 1}
	after, err := cursors.Read(in.Cursor)
	if err != nil {
		return nil, err
	}
	if after != nil {
		f.AfterID = *after
	}
	jobs, err := s.jobs.List(ctx, f)
	if err != nil {
		return nil, err
	}
	return cut(jobs, in.Limit, cursors, func(j job.Job) int64 { return j.ID }), nil
}

// distinct keeps a state that is named twice from being listed twice.
func distinct(states []job.State) []job.State {
	var out []job.State
	seen := map[job.State]bool{}
	for _, s := range states {
		if !seen[s] {
			out = append(out, s)
		}
		seen[s] = true
	}
	return out
}

type jobInput struct {
	ID int64 `path:"id" minimum:"1" doc:"Id of the job" example:"42"`
}

func (s *service) getJob(ctx context.Context, in *jobInput) (*body[job.Job], error) {
	j, err := s.jobs.Get(ctx, in.ID)
	return &body[job.Job]{j}, err
}

func (s *service) retryJob(ctx context.Context, in *jobInput) (*accepted[job.Job], error) {
	j, err := s.jobs.Retry(ctx, in.ID)
	return acceptedJob(j), err
}

func (s *service) cancelJob(ctx context.Context, in *jobInput) (*accepted[job.Job], error) {
	j, err := s.jobs.Cancel(ctx, in.ID)
	return acceptedJob(j), err
}

func acceptedJob(j job.Job) *accepted[job.Job] {
	return &accepted[job.Job]{Location: "/api/jobs/" + strconv.FormatInt(j.ID, 10), Body: j}
}

func (s *service) listSchedules(ctx context.Context, _ *struct{}) (*body[blueprint.List[job.ScheduleStatus]], error) {
	schedules, err := s.jobs.Schedules(ctx)
	return all(schedules), err
}

type scheduleInput struct {
	Name string `path:"name" maxLength:"100" doc:"Name of the schedule" example:"catalog.refresh"`
}

func (s *service) getSchedule(ctx context.Context, in *scheduleInput) (*body[job.ScheduleStatus], error) {
	schedules, err := s.jobs.Schedules(ctx)
	if err != nil {
		return nil, err
	}
	for _, schedule := range schedules {
		if schedule.Name == in.Name {
			return &body[job.ScheduleStatus]{schedule}, nil
		}
	}
	return nil, slipway.Errorf(slipway.NotFound, "there is no schedule %q; slipway schedule list (GET /api/schedules) shows them", in.Name)
}

func (s *service) runSchedule(ctx context.Context, in *scheduleInput) (*accepted[job.ScheduleStatus], error) {
	status, err := s.jobs.RunNow(ctx, in.Name)
	return &accepted[job.ScheduleStatus]{Location: "/api/schedules/" + in.Name, Body: status}, err
}

func (s *service) pauseSchedule(ctx context.Context, in *scheduleInput) (*body[job.ScheduleStatus], error) {
	status, err := s.jobs.Pause(ctx, in.Name)
	return &body[job.ScheduleStatus]{status}, err
}

func (s *service) resumeSchedule(ctx context.Context, in *scheduleInput) (*body[job.ScheduleStatus], error) {
	status, err := s.jobs.Resume(ctx, in.Name)
	return &body[job.ScheduleStatus]{status}, err
}

func (s *service) listEvents(ctx context.Context, in *struct {
	Type   []string `query:"type,explode" maxItems:"20" doc:"Types of events, or beginnings of them and *; may repeat" example:"[\"dev.cdevents.pipelinerun.*\"]"`
	After  int64    `query:"after" minimum:"0" doc:"Position after which to read, such as pageInfo.nextCursor of the page before; 0: from the first one kept"`
	Limit  int      `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many at most"`
	Latest bool     `query:"latest" doc:"Give no events, but the position of the newest as pageInfo.nextCursor, to read from now on"`
}) (*body[blueprint.List[event.Event]], error) {
	if in.Latest {
		last, err := s.events.Last(ctx)
		if err != nil {
			return nil, err
		}
		out := all[event.Event](nil)
		out.Body.PageInfo = slipway.PageInfo{Limit: in.Limit, NextCursor: strconv.FormatInt(last, 10)}
		return out, nil
	}
	events, next, err := s.events.List(ctx, auth.CallerFrom(ctx), in.After, in.Type, in.Limit)
	if err != nil {
		return nil, err
	}
	out := all(events)
	out.Body.PageInfo = slipway.PageInfo{Limit: in.Limit, HasMore: next > 0}
	if next > 0 {
		out.Body.PageInfo.NextCursor = strconv.FormatInt(next, 10)
	}
	return out, nil
}
