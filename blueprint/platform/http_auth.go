package platform

import (
	"context"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/secret"
)

// The permissions about permissions.
const (
	permissionExplain = "platform.permission.explain"
	auditRead         = "platform.audit.read"
	tokenNarrow       = "platform.token.narrow"
)

var authPermissions = []auth.Permission{
	{Name: permissionExplain, Text: "See why anybody may or may not do something; why oneself may, everybody sees"},
	{Name: auditRead, Text: "Read who did what by which right"},
	{Name: tokenNarrow, Text: "Make tokens for a day at most that may do less than oneself", Everyone: true},
}

var authOperations = []blueprint.Operation{
	blueprint.Handle((*service).explain, blueprint.Operation{
		ID: "platform.explain", Method: "GET", Path: "/api/auth/explain", Tag: "callers", Permission: selfRead, Errors: []slipway.Code{slipway.NotFound},
		Summary: "Why may somebody do something, or not",
		Description: "Goes through the rules that requests are checked by, and says of each right that names the permission what comes of it. About yourself anybody may ask; about others it takes `" +
			permissionExplain + "`, and shows whose rights they lack.",
		ResponseExample: auth.Explanation{
			Subject: "user:default/jane", Owns: []string{"user:default/jane", "group:default/team-a"}, Permission: "build.run.retrigger", Object: "component:default/web", Owner: "group:default/team-b",
			Reasons: []auth.Reason{{Right: "build.*:owned", From: "grants[0] to group:default/team-a", Text: "is for what the subject owns, and component:default/web belongs to group:default/team-b"}},
			Advice:  `an operator can allow it by a grant: {to: "user:default/jane", permissions: ["build.run.retrigger:component:default/web"]}`,
		},
	}),
	blueprint.Handle((*service).listAudit, blueprint.Operation{
		ID: "platform.listAudit", Method: "GET", Path: "/api/auth/audit", Tag: "callers", Permission: auditRead,
		Summary: "Who did what, by which right",
		Description: "Lists what callers changed, newest first: the operation, the permission that it took, the right that the caller holds and where that comes from, and from which address. Changes of documents are " +
			"in `GET /data/audit` with what they changed. Kept for `retention.audit`.",
		ResponseExample: blueprint.List[auth.AuditRecord]{Items: []auth.AuditRecord{{
			ID: 42, At: exampleTime, Subject: "user:default/jane", SessionID: "7hQ2bV90mXwC", Action: "build.retrigger", Object: "component:default/web", Permission: "build.run.retrigger",
			Held: "build.*:owned", Origin: "grants[0] to group:default/team-a", RequestID: "0c8f7e1a2b3c4d5e6f708192", Address: "192.0.2.7",
		}}, PageInfo: slipway.PageInfo{Limit: 20}},
	}),
	blueprint.Handle((*service).narrow, blueprint.Operation{
		ID: "platform.narrowToken", Method: "POST", Path: "/api/auth/narrow", Tag: "tokens", Permission: tokenNarrow, Status: 201, Secret: true,
		Summary: "Make a temporary token that may do less",
		Description: "Makes a token that acts as the caller, may do only what is listed, and ends by itself after a day at most: for a script or a job that should not hold the caller's own credential. " +
			"It loses what the caller loses, and whoever made it may revoke it (`DELETE /api/auth/narrow/{id}`).",
		RequestExample:  narrowToken{Permissions: []string{"build.run.read:component:default/web"}, Lifetime: "15m", Purpose: "nightly"},
		ResponseExample: createdToken{Token: exampleNarrow, Secret: "slp_9kD3fG51pLsE…"},
	}),
	blueprint.Handle((*service).endNarrow, blueprint.Operation{
		ID: "platform.revokeNarrowToken", Method: "DELETE", Path: "/api/auth/narrow/{id}", Tag: "tokens", Permission: tokenNarrow, Errors: []slipway.Code{slipway.NotFound},
		Summary: "Revoke a temporary token",
		Description: "Ends a temporary token that the caller made, at once here and within a second on every replica, and with it all that it issued. A token that may do less than whoever it acts as ends " +
			"itself and what it issued; `" + tokenRevoke + "` lets a caller end any. 404 for all others.",
	}),
}

var exampleNarrow = func() auth.Token {
	ends := exampleTime.Add(15 * time.Minute)
	return auth.Token{ID: "9kD3fG51pLsE", Name: "tmp-nightly-9kD3fG51", User: "user:default/jane", Permissions: []string{"build.run.read:component:default/web"}, CreatedAt: exampleTime,
		CreatedBy: "user:default/jane", ExpiresAt: &ends}
}()

func (s *service) explain(ctx context.Context, in *struct {
	Permission string `query:"permission" required:"true" maxLength:"200" doc:"Permission" example:"build.run.retrigger"`
	Entity     string `query:"entity" maxLength:"300" doc:"Ref of the entity on which; absent: on nothing in particular" example:"component:default/web"`
	Subject    string `query:"subject" maxLength:"600" doc:"Who: user:default/jane, token:ci-bot, service:k8s:ci/deployer, tool:x; absent: the caller" example:"user:default/jane"`
}) (*body[auth.Explanation], error) {
	c := auth.CallerFrom(ctx)
	own := c.Subject
	if c.TokenID != "" { // a user's token may do less than the user
		t, err := s.auth.GetToken(ctx, c.TokenID)
		if err != nil {
			return nil, err
		}
		own = "token:" + t.Name
	}
	subject := in.Subject
	if subject == "" {
		subject = own
	}
	about := auth.Allows(c, permissionExplain, auth.Object{})
	if subject != own && !about {
		return nil, auth.Require(ctx, permissionExplain, auth.Object{})
	}
	var o auth.Object
	if in.Entity != "" {
		ref, err := slipway.ParseEntityRef(in.Entity, slipway.EntityRef{})
		if err != nil {
			return nil, err
		}
		// Only who may read an entity learns who owns it; for others it is not there.
		row, err := s.entities.Get(ctx, s.db, c, ref)
		if err != nil {
			return nil, err
		}
		o = auth.Object{Ref: row.Ref.String(), Owner: row.Owner}
	}
	e, err := s.auth.Explain(ctx, subject, in.Permission, o)
	if err != nil {
		return nil, err
	}
	if !about { // whom else rights were given to is not everybody's business
		kept := []auth.Reason{}
		for _, r := range e.Reasons {
			if !r.Foreign() {
				kept = append(kept, r)
			}
		}
		e.Reasons = kept
	}
	return &body[auth.Explanation]{e}, nil
}

func (s *service) listAudit(ctx context.Context, in *struct {
	Subject    string    `query:"subject" maxLength:"600" doc:"Only what this caller did" example:"user:default/jane"`
	Permission string    `query:"permission" maxLength:"200" doc:"Only what took this permission" example:"build.run.retrigger"`
	Action     string    `query:"action" maxLength:"200" doc:"Only this" example:"token.revoke"`
	Object     string    `query:"object" maxLength:"300" doc:"Only what was done to this" example:"component:default/web"`
	Since      time.Time `query:"since" doc:"Only from then on"`
	Limit      int       `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many on a page"`
	Cursor     string    `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
}) (*body[blueprint.List[auth.AuditRecord]], error) {
	cursors := secret.CursorsOf[int64](s.keys, "audit", in.Subject, in.Permission, in.Action, in.Object, in.Since)
	before, err := cursors.Read(in.Cursor)
	if err != nil {
		return nil, err
	}
	q := auth.AuditQuery{Subject: in.Subject, Permission: in.Permission, Action: in.Action, Object: in.Object, Since: in.Since, AtMost: in.Limit + 1}
	if before != nil {
		q.Before = *before
	}
	list, err := s.auth.ListAudit(ctx, q)
	if err != nil {
		return nil, err
	}
	return cut(list, in.Limit, cursors, func(r auth.AuditRecord) int64 { return r.ID }), nil
}

// narrowToken is what a caller asks for.
type narrowToken struct {
	Permissions []string `json:"permissions" minItems:"1" maxItems:"100" doc:"What it may do, at most what you may" example:"[\"build.run.read:component:default/web\"]"`
	Lifetime    string   `json:"lifetime,omitempty" maxLength:"20" doc:"How long it is good, a day at most; absent: an hour" example:"15m"`
	Purpose     string   `json:"purpose,omitempty" maxLength:"30" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" doc:"A word for its name" example:"nightly"`
}

func (s *service) narrow(ctx context.Context, in *struct{ Body narrowToken }) (*accepted[createdToken], error) {
	var lifetime slipway.Duration
	if in.Body.Lifetime != "" {
		var err error
		if lifetime, err = slipway.ParseDuration(in.Body.Lifetime); err != nil {
			return nil, slipway.Errorf(slipway.Invalid, "lifetime: write a second to a day, such as 15m").WithDetails(slipway.Detail{Field: "lifetime", Code: slipway.Invalid, Message: err.Error()})
		}
	}
	t, text, err := s.auth.NarrowToken(ctx, auth.CallerFrom(ctx), in.Body.Purpose, in.Body.Permissions, lifetime.Std())
	if err != nil {
		return nil, err
	}
	return &accepted[createdToken]{Location: "/api/auth/narrow/" + t.ID, Body: createdToken{t, text}}, nil
}

func (s *service) endNarrow(ctx context.Context, in *tokenInput) (*struct{}, error) {
	c := auth.CallerFrom(ctx)
	t, err := s.auth.GetToken(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	may, err := s.mayEnd(ctx, c, t)
	if err == nil && !(may && strings.HasPrefix(t.Name, "tmp-")) {
		err = slipway.Errorf(slipway.NotFound, "you made no temporary token %.40q", in.ID)
	}
	if err != nil {
		return nil, err
	}
	return &struct{}{}, s.auth.RevokeToken(ctx, c, in.ID)
}

// mayEnd says whether a caller may end a temporary token. Who calls with a token that narrows what they may reaches what that token issued, and not all that is theirs.
func (s *service) mayEnd(ctx context.Context, c *slipway.Caller, t auth.Token) (bool, error) {
	if auth.Allows(c, tokenRevoke, auth.Object{}) {
		return true, nil
	}
	if t.CreatedBy == c.Subject {
		if author, err := s.auth.Author(ctx); err != nil || author == c.Subject {
			return err == nil, err
		}
	}
	return s.auth.Issued(ctx, c.TokenID, t.ID)
}
