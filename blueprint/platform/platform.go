// Package platform is the blueprint of Slipway's own services: who calls and with which tokens, jobs, schedules, and events. It adds
// no rules: packages auth, job and event have them.
package platform

import (
	"context"
	_ "embed"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
)

//go:embed README.md
var readme string

// The permissions, beside those that packages auth and event name.
const (
	selfRead      = "platform.self.read"
	tokenRead     = "platform.token.read"
	tokenCreate   = "platform.token.create"
	tokenRevoke   = "platform.token.revoke"
	jobRead       = "platform.job.read"
	jobRetry      = "platform.job.retry"
	jobCancel     = "platform.job.cancel"
	scheduleRead  = "platform.schedule.read"
	scheduleRun   = "platform.schedule.run"
	schedulePause = "platform.schedule.pause"
	sessionOwn    = "platform.session.own"
	sessionRead   = "platform.session.read"
	sessionEnd    = "platform.session.end"
)

// Blueprint is the platform's services.
var Blueprint = blueprint.Blueprint{
	Name: "platform", Version: "0.1.0", Summary: "Callers and tokens, providers, jobs, schedules, events.", Stability: blueprint.Experimental,
	Mounts: []blueprint.Mount{
		{Prefix: "/api/auth", Dialect: blueprint.API}, {Prefix: "/api/tokens", Dialect: blueprint.API}, {Prefix: "/api/jobs", Dialect: blueprint.API},
		{Prefix: "/api/schedules", Dialect: blueprint.API}, {Prefix: "/api/events", Dialect: blueprint.API},
		{Prefix: "/api/providers", Dialect: blueprint.API}, {Prefix: "/auth", Dialect: blueprint.Plain, Lenient: true},
	},
	Permissions: append(append(providerPermissions, authPermissions...), []auth.Permission{
		{Name: selfRead, Text: "See who you are, which permissions exist, and the events that you may read", Everyone: true},
		{Name: sessionOwn, Text: "See and end one's own sessions", Everyone: true},
		{Name: sessionRead, Text: "See everybody's sessions"},
		{Name: sessionEnd, Text: "End anybody's session"},
		{Name: tokenRead, Text: "See all tokens, without their secrets"},
		{Name: tokenCreate, Text: "Make tokens, which hold at most what you hold"},
		{Name: tokenRevoke, Text: "Revoke any token"},
		{Name: auth.ImpersonatePermission, Text: "Make tokens that act as another user"},
		{Name: auth.LiftPermission, Text: "Make tokens with a higher rate limit than the configured one, or none"},
		{Name: jobRead, Text: "See jobs, with their arguments and errors"},
		{Name: jobRetry, Text: "Run jobs again"},
		{Name: jobCancel, Text: "Cancel jobs"},
		{Name: scheduleRead, Text: "See schedules and how their last runs ended"},
		{Name: scheduleRun, Text: "Run schedules at once"},
		{Name: schedulePause, Text: "Pause and resume schedules"},
		{Name: event.ReadPermission, Text: "Read all events; without it, those of entities that one may read, where one may also read what they tell of"},
	}...),
	Operations: slices.Concat(providerOperations, signinOperations, authOperations, eventOperations, []blueprint.Operation{
		blueprint.Handle((*service).me, blueprint.Operation{
			ID: "platform.me", Method: "GET", Path: "/api/auth/me", Tag: "callers", Permission: selfRead,
			Summary: "Who am I", Description: "Tells who the server takes the caller for, what it owns and what it may do.",
			ResponseExample: Caller{
				Kind: "user", Subject: "user:default/jane", TokenID: "4fT0aZ81kQxB", Owns: []string{"user:default/jane", "group:default/team-a"},
				Permissions: []string{"build.*:owned", "catalog.entity.read"},
			},
		}),
		blueprint.Handle((*service).permissions, blueprint.Operation{
			ID: "platform.permissions", Method: "GET", Path: "/api/auth/permissions", Tag: "callers", Permission: selfRead,
			Summary: "Which permissions exist", Description: "Lists every permission that the enabled blueprints declare, by name, all at once.",
			ResponseExample: blueprint.List[auth.Permission]{
				Items: []auth.Permission{{Name: tokenRead, Text: "See all tokens, without their secrets"}}, PageInfo: slipway.PageInfo{Limit: 1},
			},
		}),
		blueprint.Handle((*service).createToken, blueprint.Operation{
			ID: "platform.createToken", Method: "POST", Path: "/api/tokens", Tag: "tokens", Permission: tokenCreate, Status: 201,
			Summary: "Make a token", Idempotent: true, Secret: true, Errors: []slipway.Code{slipway.Conflict},
			Description: "Makes a token and tells its secret, this once. A token holds at most what its issuer holds, now and at each later request: it loses what the issuer loses. " +
				"With `user` it acts as that user (which needs `" + auth.ImpersonatePermission + "` unless that is you); without `permissions` it may then do what the user may.",
			RequestExample:  newToken{Name: "ci-bot", Permissions: []string{"build.run.read", "build.run.retrigger:component:default/web"}},
			ResponseExample: createdToken{Token: exampleToken, Secret: "slp_4fT0aZ81kQxB…"},
		}),
		blueprint.Handle((*service).listTokens, blueprint.Operation{
			ID: "platform.listTokens", Method: "GET", Path: "/api/tokens", Tag: "tokens", Permission: tokenRead,
			Summary: "List tokens", Description: "Lists tokens, newest first, without their secrets.",
			ResponseExample: blueprint.List[auth.Token]{Items: []auth.Token{exampleToken}, PageInfo: slipway.PageInfo{Limit: 20}},
		}),
		blueprint.Handle((*service).getToken, blueprint.Operation{
			ID: "platform.getToken", Method: "GET", Path: "/api/tokens/{id}", Tag: "tokens", Permission: tokenRead,
			Summary: "Get a token", Description: "Shows a token, also one that is over, without its secret.", Errors: []slipway.Code{slipway.NotFound},
			ResponseExample: exampleToken,
		}),
		blueprint.Handle((*service).revokeToken, blueprint.Operation{
			ID: "platform.revokeToken", Method: "DELETE", Path: "/api/tokens/{id}", Tag: "tokens", Permission: tokenRevoke,
			Summary: "Revoke a token", Errors: []slipway.Code{slipway.NotFound},
			Description: "Ends a token, at once here and within a second on every replica. Tokens that it issued lose their rights with it. It stays listed (`all=true`) until `retention.audit`.",
		}),
		blueprint.Handle((*service).listJobs, blueprint.Operation{
			ID: "platform.listJobs", Method: "GET", Path: "/api/jobs", Tag: "jobs", Permission: jobRead,
			Columns: []string{"id", "kind", "state", "attempt", "createdAt", "startedAt", "finishedAt"},
			Summary: "List jobs", Description: "Lists jobs, newest first: of all states and kinds, or of those named (a parameter that repeats means \"or\"). Finished jobs are kept for `retention.jobs`.",
			ResponseExample: blueprint.List[job.Job]{Items: []job.Job{exampleJob}, PageInfo: slipway.PageInfo{Limit: 20}},
		}),
		blueprint.Handle((*service).getJob, blueprint.Operation{
			ID: "platform.getJob", Method: "GET", Path: "/api/jobs/{id}", Tag: "jobs", Permission: jobRead,
			Summary: "Get a job", Description: "Shows a job with its arguments and its last errors.", Errors: []slipway.Code{slipway.NotFound},
			ResponseExample: exampleJob,
		}),
		blueprint.Handle((*service).retryJob, blueprint.Operation{
			ID: "platform.retryJob", Method: "POST", Path: "/api/jobs/{id}/retry", Tag: "jobs", Permission: jobRetry, Status: 202,
			Summary: "Run a job again", Errors: []slipway.Code{slipway.NotFound, slipway.Conflict},
			Description:     "Makes a job that has ended, or that waits for its next attempt, available at once. 409 for one that waits or runs already.",
			ResponseExample: exampleJob,
		}),
		blueprint.Handle((*service).cancelJob, blueprint.Operation{
			ID: "platform.cancelJob", Method: "POST", Path: "/api/jobs/{id}/cancel", Tag: "jobs", Permission: jobCancel, Status: 202,
			Summary: "Cancel a job", Errors: []slipway.Code{slipway.NotFound, slipway.Conflict},
			Description:     "Ends a job that waits. One that runs is told to stop, on whichever replica it is, and is canceled as soon as it does. 409 for one that has ended.",
			ResponseExample: exampleJob,
		}),
		blueprint.Handle((*service).listSchedules, blueprint.Operation{
			ID: "platform.listSchedules", Method: "GET", Path: "/api/schedules", Tag: "schedules", Permission: scheduleRead,
			Summary: "List schedules", Description: "Lists all schedules by name, with when they run next and how their last runs ended, all at once.",
			ResponseExample: blueprint.List[job.ScheduleStatus]{Items: []job.ScheduleStatus{exampleSchedule}, PageInfo: slipway.PageInfo{Limit: 1}},
		}),
		blueprint.Handle((*service).getSchedule, blueprint.Operation{
			ID: "platform.getSchedule", Method: "GET", Path: "/api/schedules/{name}", Tag: "schedules", Permission: scheduleRead,
			Summary: "Get a schedule", Description: "Shows a schedule with its last 10 jobs, newest first.", Errors: []slipway.Code{slipway.NotFound},
			ResponseExample: exampleSchedule,
		}),
		blueprint.Handle((*service).runSchedule, blueprint.Operation{
			ID: "platform.runSchedule", Method: "POST", Path: "/api/schedules/{name}/run", Tag: "schedules", Permission: scheduleRun, Status: 202,
			Summary: "Run a schedule now", Errors: []slipway.Code{slipway.NotFound},
			Description:     "Runs the schedule's job now, besides its usual times, also while it is paused. When it runs already, it runs once more after that.",
			ResponseExample: exampleSchedule,
		}),
		blueprint.Handle((*service).pauseSchedule, blueprint.Operation{
			ID: "platform.pauseSchedule", Method: "PUT", Path: "/api/schedules/{name}/pause", Tag: "schedules", Permission: schedulePause,
			Summary: "Pause a schedule", Description: "Keeps a schedule from running, on all replicas, until it is resumed. What runs already goes on.",
			Errors: []slipway.Code{slipway.NotFound}, ResponseExample: exampleSchedule,
		}),
		blueprint.Handle((*service).resumeSchedule, blueprint.Operation{
			ID: "platform.resumeSchedule", Method: "PUT", Path: "/api/schedules/{name}/resume", Tag: "schedules", Permission: schedulePause,
			Summary: "Resume a schedule", Description: "Lets a paused schedule run again at its usual times; what it missed is not made up for.",
			Errors: []slipway.Code{slipway.NotFound}, ResponseExample: exampleSchedule,
		}),
		blueprint.Handle((*service).listEvents, blueprint.Operation{
			ID: "platform.listEvents", Method: "GET", Path: "/api/events", Tag: "events", Permission: selfRead,
			Columns: []string{"position", "time", "type", "subject", "source"},
			Summary: "Read events",
			Description: "Lists the events after a position, oldest first, that the caller may read: all with `" + event.ReadPermission + "`, else those of entities that they may read, and of these " +
				"only what they may read by the API: events of builds take `build.run.read` on the entity. Each is a CloudEvents 1.0 event in JSON, with its place in the order of all events as `position`. " +
				"To read on, pass `pageInfo.nextCursor`, or the position of the last one, as `after`; an event that is not listed yet always has a higher one. An event is a hint; the API " +
				"says how things stand. Kept for `retention.events`.",
			ResponseExample: blueprint.List[event.Event]{Items: []event.Event{{
				SpecVersion: event.SpecVersion, Position: 1200, ID: "0190c0de-0000-7000-8000-000000000000", Source: "/slipway/build", Type: "dev.cdevents.pipelinerun.finished.0.3.0",
				Subject: "component:default/web", Time: exampleTime, DataContentType: event.ContentType,
				Data: []byte(`{"subject":{"id":"ci:0198c2f0","type":"pipelineRun"},"customData":{"id":"ci:0198c2f0","entityRef":"component:default/web","status":"failed"}}`),
			}}, PageInfo: slipway.PageInfo{Limit: 20}},
		}),
	}),
	Kinds:     []blueprint.ResourceKind{blueprint.Resource(tokens, (*service).tokenKind)},
	Databases: []blueprint.Database{{Name: "main"}},
	Commands:  []func(*blueprint.Client) *cobra.Command{jobCommands, scheduleCommands, eventCommands, providerCommands},
	Pages:     []blueprint.Page{{Slug: "callers", Title: "Callers, tokens and limits", Text: readme}},
	Open: func(_ context.Context, h *blueprint.Host) (any, error) {
		return &service{db: h.DB("main"), auth: h.Auth, entities: h.Entities, jobs: h.Jobs, events: h.Events, tasks: h.Tasks, keys: h.Keys, url: h.URL}, nil
	},
}

const examplePage = "<!doctype html>…"

// maxForm is the largest form of sign-in, in bytes. Their fields are codes, ids and tokens of ours, and a name that is cut off; nobody who sends one is known yet.
const maxForm = 16 << 10

// What anybody may call to sign in. Calls are counted by address.
var signinOperations = []blueprint.Operation{
	blueprint.Handle((*service).account, blueprint.Operation{
		ID: "platform.account", Method: "GET", Path: "/auth", Tag: "sign-in", Permission: blueprint.Public, Counted: true, Secret: true,
		Summary: "The account page", Description: "A page for people: who they are, where they are signed in, sign-in and sign-out.",
		ResponseExample: examplePage,
	}),
	blueprint.Handle((*service).login, blueprint.Operation{
		ID: "platform.login", Method: "GET", Path: "/auth/login", Tag: "sign-in", Permission: blueprint.Public, Counted: true, Secret: true,
		Summary: "Sign in with a browser", Description: "Sends the browser to the issuer (OpenID Connect code flow with PKCE, state and nonce), as `auth.login` says.",
		ResponseExample: examplePage,
	}),
	blueprint.Handle((*service).callback, blueprint.Operation{
		ID: "platform.callback", Method: "GET", Path: "/auth/callback", Tag: "sign-in", Permission: blueprint.Public, Counted: true, Secret: true,
		Summary: "Where the issuer sends the browser back to", Description: "Finishes a sign-in that this browser began, and sets the session's cookie.",
		ResponseExample: examplePage,
	}),
	blueprint.Handle((*service).logout, blueprint.Operation{
		ID: "platform.logout", Method: "POST", Path: "/auth/logout", Tag: "sign-in", Permission: blueprint.Public, Counted: true, Secret: true, MaxBody: maxForm,
		Summary: "Sign out", Description: "Ends the browser's session and sends it to the issuer's own sign-out, where there is one.",
		RequestExample: "session=", ResponseExample: examplePage,
	}),
	blueprint.Handle((*service).devicePage, blueprint.Operation{
		ID: "platform.device", Method: "GET", Path: "/auth/device", Tag: "sign-in", Permission: blueprint.Public, Counted: true, Secret: true,
		Summary: "Let a command line in: the page", Description: "Shows who asks, and asks whether to let it in.",
		ResponseExample: examplePage,
	}),
	blueprint.Handle((*service).answerDevice, blueprint.Operation{
		ID: "platform.answerDevice", Method: "POST", Path: "/auth/device", Tag: "sign-in", Permission: blueprint.Public, Counted: true, Secret: true, MaxBody: maxForm,
		Summary: "Let a command line in, or turn it away", Description: "Takes the answer of a user who is signed in with a browser.",
		RequestExample: "user_code=WDJB-MJHT&answer=allow", ResponseExample: examplePage,
	}),
	blueprint.Handle((*service).deviceAuthorization, blueprint.Operation{
		ID: "platform.deviceAuthorization", Method: "POST", Path: "/auth/device_authorization", Tag: "sign-in", Permission: blueprint.Public, Counted: true, Secret: true, MaxBody: maxForm,
		Summary: "Begin the sign-in of a command line", Description: "The device authorization endpoint of RFC 8628. 501 where no sign-in is configured.", Errors: []slipway.Code{slipway.Unsupported},
		RequestExample: "client_id=slipway-cli&label=jane-laptop",
		ResponseExample: deviceAnswer{DeviceCode: "sld_7hQ2bV90mXwC…", UserCode: "WDJB-MJHT", URI: "https://slipway.example.com/auth/device",
			Complete: "https://slipway.example.com/auth/device?user_code=WDJB-MJHT", ExpiresIn: 600, Interval: 3},
	}),
	blueprint.Handle((*service).oauthToken, blueprint.Operation{
		ID: "platform.oauthToken", Method: "POST", Path: "/auth/token", Tag: "sign-in", Permission: blueprint.Public, Counted: true, Secret: true, MaxBody: maxForm,
		Summary: "Get the tokens of a command line", Description: "The token endpoint of RFC 6749, for the grants `device_code` and `refresh_token`. Errors have the shape of RFC 6749 and status 400.",
		RequestExample:  "grant_type=refresh_token&refresh_token=slr_7hQ2bV90mXwC…",
		ResponseExample: tokenAnswer{AccessToken: "sls_7hQ2bV90mXwC…", TokenType: "Bearer", ExpiresIn: 3600, RefreshToken: "slr_7hQ2bV90mXwC…"},
	}),
	blueprint.Handle((*service).oauthRevoke, blueprint.Operation{
		ID: "platform.oauthRevoke", Method: "POST", Path: "/auth/revoke", Tag: "sign-in", Permission: blueprint.Public, Counted: true, Secret: true, MaxBody: maxForm, Status: 200,
		Summary: "End the sign-in of a command line", Description: "The revocation endpoint of RFC 7009: ends the session of a refresh token.",
		RequestExample: "token=slr_7hQ2bV90mXwC…",
	}),
	blueprint.Handle((*service).listSessions, blueprint.Operation{
		ID: "platform.listSessions", Method: "GET", Path: "/api/auth/sessions", Tag: "callers", Permission: sessionOwn,
		Summary: "List sessions", Description: "Lists sign-ins of browsers and command lines, newest first: your own, or with `platform.session.read` those of others.",
		ResponseExample: blueprint.List[auth.Session]{Items: []auth.Session{exampleSession}, PageInfo: slipway.PageInfo{Limit: 20}},
	}),
	blueprint.Handle((*service).endSession, blueprint.Operation{
		ID: "platform.endSession", Method: "DELETE", Path: "/api/auth/sessions/{id}", Tag: "callers", Permission: sessionOwn, Errors: []slipway.Code{slipway.NotFound},
		Summary: "End a session", Description: "Ends a sign-in of one's own, or with `platform.session.end` anybody's: at once here, and within a second on every replica.",
	}),
}

var (
	exampleSession = auth.Session{
		ID: "7hQ2bV90mXwC", Kind: "cli", User: "user:default/jane", Issuer: "idp", Label: "jane-laptop", CreatedAt: exampleTime, SeenAt: exampleTime, ExpiresAt: exampleTime.Add(7 * 24 * time.Hour),
	}
	exampleTime  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	exampleToken = auth.Token{
		ID: "4fT0aZ81kQxB", Name: "ci-bot", Permissions: []string{"build.run.read", "build.run.retrigger:component:default/web"}, CreatedAt: exampleTime, CreatedBy: "user:default/jane",
	}
	exampleJob = job.Job{
		ID: 42, Kind: "task.refresh", Queue: "task", State: job.Available, Args: []byte(`{"source":7}`), MaxAttempts: 10, Priority: 2, CreatedAt: exampleTime, ScheduledAt: exampleTime,
	}
	exampleSchedule = job.ScheduleStatus{
		Name: "catalog.refresh", Text: "Reads locations anew", Kind: "catalog.refresh", Every: "5m0s", NextRun: &exampleTime, History: []job.ScheduleRun{},
	}
)
