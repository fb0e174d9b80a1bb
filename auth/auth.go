// Package auth says who calls and what they may do: Slipway tokens, permissions and grants, rate limits.
// Permissions are declared by blueprints; what is not granted is refused.
//
// A Service turns a request into a slipway.Caller, whose Grants already say all that the caller may do: what is granted to it in the
// configuration, or what its token holds as far as the token's issuer holds it at this moment. From there on checks are
// pure: Require in a handler, Allows and AllowsAny elsewhere, a condition in SQL for lists.
package auth

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
)

// ImpersonatePermission lets a caller issue a token that acts as another user, and LiftPermission one with a higher rate
// limit than the configured one. The blueprint that serves tokens declares both.
const (
	ImpersonatePermission = "platform.token.impersonate"
	LiftPermission        = "platform.token.lift"
)

// Permission is a right that a blueprint declares. Name is "<blueprint>.<noun>.<verb>".
type Permission struct {
	Name   string `json:"name" doc:"Permission" example:"build.run.retrigger"`
	Text   string `json:"text" doc:"What it allows"`
	Object string `json:"object,omitempty" doc:"What it can be narrowed to: entity, or empty"`

	Everyone bool `json:"everyone,omitempty" doc:"Held by every caller with a credential, without a grant"`
	Tools    bool `json:"tools,omitempty" doc:"Held by every tool on its own components, without a grant"`
}

type callerKey struct{}

// WithCaller puts the caller into the context. The server does it once per request; jobs and tests
// do it for what they act as.
func WithCaller(ctx context.Context, c *slipway.Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom is who asks; anonymous when nobody was put there.
func CallerFrom(ctx context.Context) *slipway.Caller {
	if c, ok := ctx.Value(callerKey{}).(*slipway.Caller); ok && c != nil {
		return c
	}
	return anonymous
}

type againKey struct{}

// WithAgain returns a context in which Again calls f. The server does it once per request.
func WithAgain(ctx context.Context, f func(context.Context) (*slipway.Caller, error)) context.Context {
	return context.WithValue(ctx, againKey{}, f)
}

// Again says who asks as of now, for answers that go on for long: rights may have come or gone since the request was admitted. Unauthenticated when the credential is no
// longer believed.
func Again(ctx context.Context) (*slipway.Caller, error) {
	if f, ok := ctx.Value(againKey{}).(func(context.Context) (*slipway.Caller, error)); ok {
		return f(ctx)
	}
	return CallerFrom(ctx), nil
}

var anonymous = &slipway.Caller{Kind: slipway.CallerAnonymous, Subject: "anonymous"}

// System is the caller of jobs, schedules and commands with database access. It may do everything, and no request can become it.
func System() *slipway.Caller {
	return &slipway.Caller{Kind: slipway.CallerSystem, Subject: "system", Grants: []slipway.Grant{{Permission: "*"}}}
}

// Object is what a permission is checked on: an entity with its owner.
type Object struct {
	Ref   string // canonical
	Owner string // canonical ref of the owner, or ""
}

type checkedKey struct{}

// Track returns a context in which Require and Narrowed leave a mark, and a function that says whether one did. The server
// uses it to fail requests of operations that declare an object permission and never check it.
func Track(ctx context.Context) (context.Context, func() bool) {
	var checked atomic.Bool
	return context.WithValue(ctx, checkedKey{}, &checked), checked.Load
}

func mark(ctx context.Context) {
	if checked, ok := ctx.Value(checkedKey{}).(*atomic.Bool); ok {
		checked.Store(true)
	}
}

// Require is nil when the caller in the context holds the permission on the object. Else it is a Forbidden error that names what
// is missing; Unauthenticated for a caller who has not said who they are.
func Require(ctx context.Context, permission string, object Object) error {
	mark(ctx)
	c := CallerFrom(ctx)
	g, ok := held(c, permission, object)
	if !ok {
		return missing(c, permission, object.Ref)
	}
	useOf(ctx).note(permission, object, g)
	return nil
}

// Narrowed is CallerFrom for a handler whose query limits itself to what the caller may read: to Track it counts as a check.
func Narrowed(ctx context.Context) *slipway.Caller {
	mark(ctx)
	return CallerFrom(ctx)
}

// RequireAny is nil when the caller in the context holds the permission on at least something: the gate before an operation whose
// handler then checks the object. Its errors are those of Require. It is no check to Track.
func RequireAny(ctx context.Context, permission string) error {
	if c := CallerFrom(ctx); !AllowsAny(c, permission) {
		return missing(c, permission, "")
	}
	return nil
}

func missing(c *slipway.Caller, permission, ref string) error {
	on := ""
	if ref != "" {
		on = " on " + ref
	}
	if c.Kind == slipway.CallerAnonymous {
		return slipway.Errorf(slipway.Unauthenticated, "this needs the permission %s%s; send Authorization: Bearer <token>", permission, on)
	}
	return slipway.Errorf(slipway.Forbidden, "%s lacks the permission %s%s; ask an operator for a grant", c.Subject, permission, on)
}

// Limit is a caller's rate limit after a request was counted.
type Limit struct {
	Limit     int64     // requests per window; 0: none
	Remaining int64     // left in this window
	Reset     time.Time // when the window ends
	Exceeded  bool      // this request was one too many
}

// Authenticator turns a request into a caller. Nil with nil error: not its kind of credential.
type Authenticator interface {
	Authenticate(ctx context.Context, r *http.Request) (*slipway.Caller, error)
}
