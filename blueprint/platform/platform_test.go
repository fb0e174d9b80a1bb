package platform_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// work is a blueprint that gives the platform something to show: a job that fails for good, one that waits, a schedule, an event.
type work struct {
	host *blueprint.Host
}

type failing struct {
	N int `json:"n"`
}

func (failing) Kind() string { return "work.fail" }

type waiting struct {
	N int `json:"n"`
}

func (waiting) Kind() string { return "work.wait" }

func (w *work) fail(context.Context, failing) error {
	return slipway.Errorf(slipway.Invalid, "it cannot be done")
}

func (w *work) wait(context.Context, waiting) error { return nil }

var workBlueprint = blueprint.Blueprint{
	Name: "work", Version: "1.0.0", Summary: "Something to do.", Stability: blueprint.Experimental,
	Permissions: []auth.Permission{{Name: "work.thing.read", Text: "Read things", Object: "entity"}},
	Databases:   []blueprint.Database{{Name: "main"}},
	Jobs: []blueprint.Job{
		blueprint.Work((*work).fail, job.Worker{Queue: "work", Text: "Fails"}),
		blueprint.Work((*work).wait, job.Worker{Queue: "work", Text: "Waits"}),
	},
	Schedules: []job.Schedule{{Name: "work.daily", Text: "Works each day", Every: 24 * time.Hour, Args: waiting{}}},
	Events: []event.Type{
		{Name: "dev.slipway.work.done.v1", Text: "Work is done", Data: workData{}}, {Name: "dev.slipway.work.begun.v1", Text: "Work begins", Data: workData{}},
	},
}

// workData is the data of the events of work.
type workData struct {
	N int `json:"n" doc:"A number"`
}

type fixture struct {
	*blueprinttest.Server
	work *work
}

// each runs a test on both engines, with a work of its own.
func each(t *testing.T, configure func(*server.Config), test func(t *testing.T, s fixture)) {
	t.Helper()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			w := &work{}
			b := workBlueprint
			b.Open = func(_ context.Context, h *blueprint.Host) (any, error) { w.host = h; return w, nil }
			s := blueprinttest.Start(t, engine, blueprinttest.Options{Blueprints: []blueprint.Blueprint{platform.Blueprint, b}, Configure: configure})
			test(t, fixture{s, w})
		})
	}
}

// permissions are all that exist.
func permissions(t *testing.T, s fixture) []auth.Permission {
	t.Helper()
	var l list[auth.Permission]
	s.Get("/api/auth/permissions").Is(200).Into(&l)
	return l.Items
}

func (f fixture) insert(t *testing.T, args job.Args, opt job.Insert) int64 {
	t.Helper()
	var id int64
	err := f.work.host.DB("main").Write(t.Context(), func(tx *store.Tx) (err error) {
		id, _, err = f.work.host.Jobs.Insert(t.Context(), tx, args, opt)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

type list[T any] struct {
	Items    []T              `json:"items"`
	PageInfo slipway.PageInfo `json:"pageInfo"`
}

type made struct {
	auth.Token
	Secret string `json:"secret"`
}

type object map[string]any

func TestTokenIsMadeShownAndRevoked(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		var m made
		a := s.Post("/api/tokens", object{"name": "ci-bot", "permissions": []string{"platform.job.*", "work.thing.read:owned:component:default/web"}, "user": "jane", "expiresAt": "2100-01-01T00:00:00Z"}).
			Is(http.StatusCreated).Into(&m)
		if a.Header.Get("Location") != "/api/tokens/"+m.ID || !strings.HasPrefix(m.Secret, "slp_"+m.ID) || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("made: %s %v", a.Body, a.Header)
		}
		var me platform.Caller
		s.As(m.Secret).Get("/api/auth/me").Is(http.StatusOK).Into(&me)
		if me.Kind != slipway.CallerUser || me.Subject != "user:default/jane" || me.TokenID != m.ID || !slices.Contains(me.Owns, "user:default/jane") {
			t.Errorf("me: %+v", me)
		}
		everyone := []string{} // what it holds besides: by name
		for _, p := range permissions(t, s) {
			if p.Everyone {
				everyone = append(everyone, p.Name)
			}
		}
		if want := append([]string{"platform.job.*", "work.thing.read:owned:component:default/web"}, everyone...); !slices.Equal(me.Permissions, want) {
			t.Errorf("permissions: got %v, want %v", me.Permissions, want)
		}
		got := s.Get("/api/tokens/" + m.ID).Is(http.StatusOK)
		if !strings.Contains(string(got.Body), `"name":"ci-bot"`) || strings.Contains(string(got.Body), m.Secret[20:]) {
			t.Errorf("got: %s", got.Body)
		}
		s.Do("DELETE", "/api/tokens/"+m.ID, nil).Is(http.StatusNoContent)
		s.Do("DELETE", "/api/tokens/"+m.ID, nil).Is(http.StatusNoContent)
		s.As(m.Secret).Get("/api/auth/me").Fails(http.StatusUnauthorized, slipway.Unauthenticated)
		s.Get("/api/tokens/none").Fails(http.StatusNotFound, slipway.NotFound)
		s.Do("DELETE", "/api/tokens/none", nil).Fails(http.StatusNotFound, slipway.NotFound)
	})
}

func TestSecretIsNotReplayed(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		body := object{"name": "once", "permissions": []string{"platform.job.read"}}
		var m made
		s.Post("/api/tokens", body, "Idempotency-Key", "k").Is(http.StatusCreated).Into(&m)
		again := s.Post("/api/tokens", body, "Idempotency-Key", "k").Is(http.StatusConflict)
		if strings.Contains(string(again.Body), m.Secret) || !strings.Contains(string(again.Body), m.ID) {
			t.Errorf("replay: %s; want a conflict that names %s", again.Body, m.ID)
		}
		s.Post("/api/tokens", body).Fails(http.StatusConflict, slipway.Conflict)
	})
}

func TestBadTokensAreRefused(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		read := []string{"platform.job.read"}
		for what, c := range map[string]struct {
			body   any
			status int
			says   string
		}{
			"no name":               {object{"permissions": read}, 400, "name"},
			"nothing it may do":     {object{"name": "a"}, 400, "permissions"},
			"unknown permission":    {object{"name": "a", "permissions": []string{"nope.nope.nope"}}, 400, "permissions[0]"},
			"not to be narrowed":    {object{"name": "a", "permissions": []string{"platform.job.read:owned"}}, 400, "permissions[0]"},
			"no user":               {object{"name": "a", "user": "group:default/x", "permissions": read}, 400, "user"},
			"in the past":           {object{"name": "a", "permissions": read, "expiresAt": "2001-01-01T00:00:00Z"}, 400, "expiresAt"},
			"no time":               {object{"name": "a", "permissions": read, "expiresAt": "tomorrow"}, 400, "expiresAt"},
			"no rate":               {object{"name": "a", "permissions": read, "rateLimit": "fast"}, 400, "rate"},
			"rate of a user":        {object{"name": "a", "user": "jane", "permissions": read, "rateLimit": "5/m"}, 400, "rateLimit"},
			"unknown field":         {object{"name": "a", "permissions": read, "admin": true}, 400, "admin"},
			"too many permissions":  {object{"name": "a", "permissions": slices.Repeat(read, 101)}, 400, "permissions"},
			"permissions of a kind": {`{"name":"a","permissions":"*"}`, 400, "permissions"},
		} {
			a := s.Post("/api/tokens", c.body)
			if a.Status != c.status || !strings.Contains(string(a.Body), c.says) {
				t.Errorf("%s: got %d %s, want %d about %q", what, a.Status, a.Body, c.status, c.says)
			}
		}
		narrow := s.With("platform.token.create", "platform.job.read")
		narrow.Post("/api/tokens", object{"name": "b", "permissions": []string{"platform.job.*"}}).Fails(403, slipway.Forbidden)
		narrow.Post("/api/tokens", object{"name": "b", "permissions": read, "user": "jane"}).Fails(403, slipway.Forbidden)
		narrow.Post("/api/tokens", object{"name": "b", "permissions": read, "rateLimit": "0"}).Fails(403, slipway.Forbidden)
		var m made
		narrow.Post("/api/tokens", object{"name": "b", "permissions": read, "rateLimit": "7/m"}).Is(201).Into(&m)
		if got := s.As(m.Secret).Get("/api/jobs").Is(200).Header.Get("X-RateLimit-Limit"); got != "7" {
			t.Errorf("its own limit: got %q", got)
		}
	})
}

func TestTokensArePaged(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		want := map[string]bool{}
		for i := range 7 {
			name := fmt.Sprintf("jane-%d", i)
			s.Post("/api/tokens", object{"name": name, "user": "user:default/jane"}).Is(201)
			want[name] = true
		}
		pages := 0
		for cursor := ""; ; pages++ {
			var l list[auth.Token]
			s.Get("/api/tokens?user=jane&limit=3&cursor=" + url.QueryEscape(cursor)).Is(200).Into(&l)
			for _, token := range l.Items {
				if !want[token.Name] {
					t.Errorf("%s came twice, or is of somebody else", token.Name)
				}
				delete(want, token.Name)
			}
			if cursor = l.PageInfo.NextCursor; cursor == "" {
				break
			}
			if pages == 0 {
				first := "A"
				if cursor[0] == 'A' {
					first = "B"
				}
				for what, path := range map[string]string{
					"another query": "/api/tokens?user=bob&cursor=" + cursor, "another list": "/api/jobs?cursor=" + cursor,
					"changed": "/api/tokens?user=jane&cursor=" + first + cursor[1:], "made up": "/api/tokens?cursor=abc", "not base64": "/api/tokens?cursor=!",
				} {
					if a := s.Get(path); a.Status != 400 {
						t.Errorf("cursor, %s: got %d %s", what, a.Status, a.Body)
					}
				}
			}
		}
		if len(want) > 0 || pages != 2 {
			t.Errorf("after %d further pages these are missing: %v", pages, want)
		}
		for _, bad := range []string{"limit=0", "limit=101", "limit=x", "usr=jane", "user=-"} {
			s.Get("/api/tokens?"+bad).Fails(400, slipway.Invalid)
		}
	})
}

func TestWhatNeedsWhichPermission(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		id := s.insert(t, waiting{}, job.Insert{At: time.Now().Add(time.Hour)})
		for _, c := range []struct{ method, path, permission string }{
			{"GET", "/api/tokens", "platform.token.read"},
			{"GET", "/api/tokens/x", "platform.token.read"},
			{"POST", "/api/tokens", "platform.token.create"},
			{"DELETE", "/api/tokens/x", "platform.token.revoke"},
			{"GET", "/api/jobs", "platform.job.read"},
			{"GET", fmt.Sprintf("/api/jobs/%d", id), "platform.job.read"},
			{"POST", fmt.Sprintf("/api/jobs/%d/retry", id), "platform.job.retry"},
			{"POST", fmt.Sprintf("/api/jobs/%d/cancel", id), "platform.job.cancel"},
			{"GET", "/api/schedules", "platform.schedule.read"},
			{"GET", "/api/schedules/work.daily", "platform.schedule.read"},
			{"POST", "/api/schedules/work.daily/run", "platform.schedule.run"},
			{"PUT", "/api/schedules/work.daily/pause", "platform.schedule.pause"},
			{"PUT", "/api/schedules/work.daily/resume", "platform.schedule.pause"},
		} {
			a := s.With("work.thing.read").Do(c.method, c.path, nil)
			if f := a.Fails(403, slipway.Forbidden); !strings.Contains(f.Error, c.permission) {
				t.Errorf("%s %s: %q does not name %s", c.method, c.path, f.Error, c.permission)
			}
			if a := s.With(c.permission).Do(c.method, c.path, nil); a.Status == 403 || a.Status == 401 || a.Status >= 500 {
				t.Errorf("%s %s with %s: got %d %s", c.method, c.path, c.permission, a.Status, a.Body)
			}
			s.As("").Do(c.method, c.path, nil).Fails(401, slipway.Unauthenticated)
		}
		for _, path := range []string{"/api/auth/me", "/api/auth/permissions", "/api/events"} {
			s.With("work.thing.read").Get(path).Is(200)
			s.As("").Get(path).Fails(401, slipway.Unauthenticated)
		}
	})
}

func TestPermissionsAreListed(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		var l list[auth.Permission]
		s.Get("/api/auth/permissions").Is(200).Into(&l)
		names := map[string]auth.Permission{}
		for _, p := range l.Items {
			if p.Text == "" {
				t.Errorf("%s says nothing", p.Name)
			}
			names[p.Name] = p
		}
		if names["work.thing.read"].Object != "entity" || names["platform.token.create"].Name == "" || !names["platform.self.read"].Everyone {
			t.Errorf("got %+v", l.Items)
		}
	})
}

func TestGrantsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	each(t, func(c *server.Config) {
		c.Auth.Grants = []auth.GrantConfig{{To: "user:default/jane", Permissions: []string{"platform.schedule.*"}}}
	}, func(t *testing.T, s fixture) {
		var m made
		s.Post("/api/tokens", object{"name": "laptop", "user": "jane"}).Is(201).Into(&m)
		s.As(m.Secret).Get("/api/schedules").Is(200)
		s.As(m.Secret).Get("/api/jobs").Fails(403, slipway.Forbidden)
	})
}

// until asks again until the answer is good, or fails the test after 20 s.
func until[T any](t *testing.T, ask func() T, good func(T) bool) T {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		v := ask()
		if good(v) {
			return v
		}
		if time.Now().After(deadline) {
			t.Fatalf("it never came to pass; last: %+v", v)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (f fixture) job(t *testing.T, id int64, state job.State) job.Job {
	t.Helper()
	return until(t, func() (j job.Job) {
		f.Get(fmt.Sprintf("/api/jobs/%d", id)).Is(200).Into(&j)
		return j
	}, func(j job.Job) bool { return j.State == state })
}

func TestJobsAreSeenRetriedAndCanceled(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		failed := s.insert(t, failing{N: 1}, job.Insert{})
		later := s.insert(t, waiting{N: 2}, job.Insert{At: time.Now().Add(time.Hour)})

		j := s.job(t, failed, job.Discarded)
		if len(j.Errors) != 1 || !strings.Contains(j.Errors[0].Error, "it cannot be done") || string(j.Args) != `{"n":1}` {
			t.Errorf("the failed job: %+v", j)
		}
		path := fmt.Sprintf("/api/jobs/%d", failed)
		if a := s.Post(path+"/retry", nil).Is(202); a.Header.Get("Location") != path {
			t.Errorf("retry: Location %q", a.Header.Get("Location"))
		}
		until(t, func() (j job.Job) { s.Get(path).Is(200).Into(&j); return j }, func(j job.Job) bool { return j.State == job.Discarded && len(j.Errors) == 2 })

		path = fmt.Sprintf("/api/jobs/%d", later)
		s.Post(path+"/retry", nil).Fails(409, slipway.Conflict)
		s.Post(path+"/cancel", nil).Is(202)
		s.job(t, later, job.Canceled)
		s.Post(path+"/cancel", nil).Fails(409, slipway.Conflict)

		var l list[job.Job]
		s.Get("/api/jobs?state=canceled&state=discarded&state=canceled&kind=work.wait&kind=work.fail").Is(200).Into(&l)
		if len(l.Items) != 2 || l.Items[0].ID != later || l.Items[1].ID != failed || l.PageInfo.HasMore {
			t.Errorf("both, newest first: got %+v", l)
		}
		var first, second list[job.Job]
		s.Get("/api/jobs?state=canceled&state=discarded&limit=1").Is(200).Into(&first)
		s.Get("/api/jobs?state=canceled&state=discarded&limit=1&cursor=" + first.PageInfo.NextCursor).Is(200).Into(&second)
		if !first.PageInfo.HasMore || first.Items[0].ID != later || second.PageInfo.HasMore || second.Items[0].ID != failed {
			t.Errorf("pages: got %+v and %+v", first, second)
		}
		s.Get("/api/jobs?state=canceled&limit=1&cursor="+first.PageInfo.NextCursor).Fails(400, slipway.Invalid)
		for _, bad := range []string{"/api/jobs?state=nope", "/api/jobs?stat=canceled", "/api/jobs/0", "/api/jobs/-1", "/api/jobs/x", "/api/jobs?limit=-1"} {
			s.Get(bad).Fails(400, slipway.Invalid)
		}
		s.Get("/api/jobs/999999").Fails(404, slipway.NotFound)
		s.Post("/api/jobs/999999/retry", nil).Fails(404, slipway.NotFound)
	})
}

func TestSchedulesAreSeenRunAndPaused(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		get := func() (status job.ScheduleStatus) {
			s.Get("/api/schedules/work.daily").Is(200).Into(&status)
			return status
		}
		var l list[job.ScheduleStatus]
		s.Get("/api/schedules").Is(200).Into(&l)
		if !slices.ContainsFunc(l.Items, func(s job.ScheduleStatus) bool { return s.Name == "work.daily" && s.Every == "24h0m0s" && !s.Paused }) {
			t.Errorf("got %+v", l)
		}
		s.Do("PUT", "/api/schedules/work.daily/pause", nil).Is(200)
		if status := get(); !status.Paused || status.NextRun != nil {
			t.Errorf("paused: %+v", status)
		}
		done := func(status job.ScheduleStatus) (n int) {
			for _, run := range status.History {
				if run.State == job.Completed {
					n++
				}
			}
			return n
		}
		before := done(get())
		if a := s.Post("/api/schedules/work.daily/run", nil).Is(202); a.Header.Get("Location") != "/api/schedules/work.daily" {
			t.Errorf("run: Location %q", a.Header.Get("Location"))
		}
		until(t, get, func(status job.ScheduleStatus) bool { return done(status) > before })
		s.Do("PUT", "/api/schedules/work.daily/resume", nil).Is(200)
		if status := get(); status.Paused || status.NextRun == nil {
			t.Errorf("resumed: %+v", status)
		}
		s.Get("/api/schedules/none").Fails(404, slipway.NotFound)
		s.Post("/api/schedules/none/run", nil).Fails(404, slipway.NotFound)
		s.Do("PUT", "/api/schedules/none/pause", nil).Fails(404, slipway.NotFound)
	})
}

func TestEventsAreReadInOrder(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		err := s.work.host.DB("main").Write(t.Context(), func(tx *store.Tx) error {
			for i, typ := range []string{"begun", "done", "begun", "done"} {
				err := s.work.host.Events.Publish(t.Context(), tx, event.Event{
					Source: "/slipway/work", Type: "dev.slipway.work." + typ + ".v1", Subject: fmt.Sprint(i), Data: json.RawMessage(`{"n":1}`),
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		read := func(query string) (subjects string, l list[event.Event]) {
			t.Helper()
			s.Get("/api/events" + query).Is(200).Into(&l)
			for _, e := range l.Items {
				subjects += e.Subject
			}
			return subjects, l
		}
		until(t, func() string { got, _ := read("?type=dev.slipway.work.*"); return got }, func(got string) bool { return got == "0123" })
		if got, _ := read("?type=dev.slipway.work.done.v1"); got != "13" {
			t.Errorf("of one type: got %q", got)
		}
		if got, _ := read("?type=dev.slipway.work.done.v1&type=dev.slipway.work.begun.*"); got != "0123" {
			t.Errorf("of two types: got %q", got)
		}
		got, l := read("?type=dev.slipway.work.*&limit=3")
		if got != "012" || !l.PageInfo.HasMore || l.PageInfo.NextCursor != fmt.Sprint(l.Items[2].Position) {
			t.Errorf("first page: got %q, %+v", got, l.PageInfo)
		}
		if e := l.Items[0]; e.SpecVersion != "1.0" || e.DataContentType != "application/json" || e.ID == "" || e.Source != "/slipway/work" || e.Time.IsZero() {
			t.Errorf("got %+v, want all that CloudEvents 1.0 requires", e)
		}
		if got, l := read("?type=dev.slipway.work.*&limit=3&after=" + l.PageInfo.NextCursor); got != "3" || l.PageInfo.HasMore || l.PageInfo.NextCursor != "" {
			t.Errorf("second page: got %q, %+v", got, l.PageInfo)
		}
		// These events are of no entity: only event.event.read shows them.
		var few list[event.Event]
		s.With("work.thing.read").Get("/api/events").Is(200).Into(&few)
		if len(few.Items) != 0 {
			t.Errorf("without the permission: got %+v", few.Items)
		}
		s.With("event.event.read").Get("/api/events?type=dev.slipway.work.*").Is(200).Into(&few)
		if len(few.Items) != 4 {
			t.Errorf("with the permission: got %+v", few.Items)
		}
		s.Get("/api/events?after=-1").Fails(400, slipway.Invalid)
		if got, l := read("?latest=true"); got != "" || l.PageInfo.HasMore || l.PageInfo.NextCursor != fmt.Sprint(few.Items[3].Position) {
			t.Errorf("the latest: got %q, %+v, want no events and the position %d", got, l.PageInfo, few.Items[3].Position)
		}
	})
}

func TestLimitsOfTheConfigurationHold(t *testing.T) {
	t.Parallel()
	each(t, func(c *server.Config) { c.Auth.RateLimits = auth.RateLimits{User: 3, Service: 5, Address: 2} }, func(t *testing.T, s fixture) {
		var m made
		s.Post("/api/tokens", object{"name": "laptop", "user": "jane", "permissions": []string{"platform.job.read"}}).Is(201).Into(&m)
		jane := s.As(m.Secret)
		if now := time.Now(); now.Second() >= 57 { // the test must not meet the turn of the minute
			<-time.After(time.Until(now.Truncate(time.Minute).Add(time.Minute)))
		}
		for i := range 3 {
			path, status := "/api/jobs", 200
			if i == 1 {
				path, status = "/api/tokens", 403 // a refusal counts, and has the headers too
			}
			a := jane.Get(path).Is(status)
			if got := a.Header.Get("X-RateLimit-Limit") + " " + a.Header.Get("X-RateLimit-Remaining"); got != fmt.Sprintf("3 %d", 2-i) || a.Header.Get("X-RateLimit-Reset") == "" {
				t.Errorf("request %d: got %q", i+1, got)
			}
		}
		a := jane.Get("/api/jobs")
		a.Fails(429, slipway.RateLimited)
		if a.Header.Get("Retry-After") == "" || a.Header.Get("X-RateLimit-Remaining") != "0" {
			t.Errorf("one too many: %v", a.Header)
		}
		garbage := s.As("slp_garbage")
		garbage.Get("/api/jobs").Fails(401, slipway.Unauthenticated)
		garbage.Get("/api/jobs").Fails(401, slipway.Unauthenticated)
		garbage.Get("/api/jobs").Fails(429, slipway.RateLimited)
	})
}
