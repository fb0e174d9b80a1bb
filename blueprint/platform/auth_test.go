package platform_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/server"
)

// catalogued puts a component of team-b into the catalog, and jane into team-a.
func catalogued(t *testing.T, s fixture) {
	t.Helper()
	_, err := s.work.host.Entities.PutAll(t.Context(), "test", []*slipway.Entity{
		{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: "web"}, Spec: map[string]any{"owner": "team-b", "type": "service", "lifecycle": "production"}},
		{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: "shop"}, Spec: map[string]any{"owner": "team-a", "type": "service", "lifecycle": "production"}},
		{APIVersion: "backstage.io/v1alpha1", Kind: "Group", Metadata: slipway.EntityMetadata{Name: "team-a"}, Spec: map[string]any{"type": "team", "children": []any{}}},
		{APIVersion: "backstage.io/v1alpha1", Kind: "User", Metadata: slipway.EntityMetadata{Name: "jane"}, Spec: map[string]any{"memberOf": []any{"team-a"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRightsAreExplained(t *testing.T) {
	t.Parallel()
	grants := func(c *server.Config) {
		c.Auth.Grants = []auth.GrantConfig{
			{To: "group:default/team-a", Permissions: []string{"work.*:owned", "platform.token.create"}}, {To: "group:default/team-b", Permissions: []string{"work.thing.read:component:default/web"}},
			{To: "user:default/jane", Permissions: []string{"platform.job.retry"}},
		}
	}
	each(t, grants, func(t *testing.T, s fixture) {
		catalogued(t, s)
		ask := func(query string) (e auth.Explanation) {
			t.Helper()
			s.Get("/api/auth/explain?" + query).Is(200).Into(&e)
			return e
		}
		reason := func(e auth.Explanation, want string) {
			t.Helper()
			if !slices.ContainsFunc(e.Reasons, func(r auth.Reason) bool { return strings.Contains(r.From+": "+r.Right+" "+r.Text, want) }) {
				t.Errorf("no reason says %q: %+v", want, e.Reasons)
			}
		}
		e := ask("permission=work.thing.read&entity=shop&subject=user:default/jane")
		if !e.Allowed || e.Owner != "group:default/team-a" || !e.Reasons[0].Decides || e.Advice != "" {
			t.Errorf("on what jane owns: %+v", e)
		}
		reason(e, "grants[0] to group:default/team-a: work.*:owned allows it, because component:default/shop belongs to group:default/team-a")
		e = ask("permission=work.thing.read&entity=web&subject=user:default/jane")
		if e.Allowed || !strings.Contains(e.Advice, `{to: "user:default/jane", permissions: ["work.thing.read:component:default/web"]}`) {
			t.Errorf("on what jane does not own: %+v", e)
		}
		reason(e, "component:default/web belongs to group:default/team-b")
		reason(e, "is for group:default/team-b, which the subject is no member of")
		if e := ask("permission=work.thing.read&subject=user:default/jane"); e.Allowed {
			t.Errorf("on nothing in particular: %+v", e)
		}
		if e := ask("permission=platform.job.retry&subject=user:default/jane"); !e.Allowed {
			t.Errorf("a right that is not narrowed: %+v", e)
		}
		if e := ask("permission=platform.self.read&subject=service:k8s:ci/deployer"); !e.Allowed {
			t.Errorf("what everybody may: %+v", e)
		}
		if e := ask("permission=platform.job.read"); !e.Allowed || !strings.HasPrefix(e.Subject, "token:") {
			t.Errorf("about oneself: %+v", e)
		}
		// A token that lists more than its maker has.
		jane := s.As(s.NewToken(auth.NewToken{Name: "jane", User: "user:default/jane"}))
		var m made
		jane.Post("/api/tokens", object{"name": "script", "user": "user:default/jane", "permissions": []string{"work.thing.read:owned"}}).Is(201).Into(&m)
		e = ask("permission=work.thing.read&entity=shop&subject=token:script")
		if !e.Allowed {
			t.Errorf("a token on what its user owns: %+v", e)
		}
		e = ask("permission=platform.job.retry&subject=token:script")
		if e.Allowed {
			t.Errorf("a token that does not list it: %+v", e)
		}
		reason(e, "the token script ("+m.ID+"): platform.job.retry does not list it")
		// About oneself, without who else has which right.
		jane.Get("/api/auth/explain?permission=platform.job.retry").Is(200).Into(&e)
		if !e.Allowed {
			t.Errorf("jane about herself: %+v", e)
		}
		jane.Get("/api/auth/explain?permission=platform.job.read&subject=user:default/joe").Fails(403, slipway.Forbidden)
		jane.Get("/api/auth/explain?permission=work.thing.read&entity=nothing").Fails(404, slipway.NotFound)
		for _, query := range []string{"permission=no.such.thing", "permission=platform.job.read&entity=web", "permission=platform.job.read&subject=somebody", "permission=platform.job.read&subject=user:*"} {
			s.Get("/api/auth/explain?"+query).Fails(400, slipway.Invalid)
		}
		s.Get("/api/auth/explain?permission=platform.job.read&subject=token:none").Fails(404, slipway.NotFound)
	})
}

// Who forwards a request is believed where the operator says so; what anybody else writes into the header is not in the record.
func TestTheRecordHasTheAddressThatTheCallerReallyHas(t *testing.T) {
	t.Parallel()
	for trusted, want := range map[string]map[string]string{
		"":           {"": "127.0.0.1", "6.6.6.6": "127.0.0.1", "192.0.2.7, 6.6.6.6": "127.0.0.1"},
		"10.0.0.0/8": {"6.6.6.6": "127.0.0.1", "6.6.6.6, 10.0.0.1": "127.0.0.1"},
		"127.0.0.1":  {"": "127.0.0.1", "192.0.2.7": "192.0.2.7", "6.6.6.6, 192.0.2.7": "192.0.2.7", "6.6.6.6, no address": "127.0.0.1"},
	} {
		each(t, func(c *server.Config) {
			if trusted != "" {
				c.Server.TrustedProxies = []string{trusted}
			}
		}, func(t *testing.T, s fixture) {
			for said, address := range want {
				headers := []string{"Forwarded", "for=6.6.6.6", "X-Real-Ip", "6.6.6.6"}
				if said != "" {
					headers = append(headers, "X-Forwarded-For", said)
				}
				s.Do("PUT", "/api/schedules/work.daily/pause", nil, headers...).Is(200)                                                          // written down after it was done
				s.Do("POST", "/api/tokens", object{"name": fmt.Sprint("of-", len(headers), "-", len(said)), "user": "jane"}, headers...).Is(201) // and in the transaction that does it
				var l list[auth.AuditRecord]
				s.Get("/api/auth/audit?limit=2").Is(200).Into(&l)
				for _, r := range l.Items {
					if r.Address != address {
						t.Errorf("trusting %q, what a request did that says %q is recorded for %q, want %q: %+v", trusted, said, r.Address, address, r)
					}
				}
			}
		})
	}
}

func TestWhatWasUsedIsOnRecord(t *testing.T) {
	t.Parallel()
	grants := func(c *server.Config) {
		c.Auth.Grants = []auth.GrantConfig{{To: "user:default/jane", Permissions: []string{"platform.schedule.*", "platform.token.create"}}}
	}
	each(t, grants, func(t *testing.T, s fixture) {
		jane := s.As(s.NewToken(auth.NewToken{Name: "jane", User: "user:default/jane"}))
		jane.Do("PUT", "/api/schedules/work.daily/pause", nil).Is(200)
		jane.Get("/api/schedules/work.daily").Is(200)
		jane.Do("PUT", "/api/schedules/none/pause", nil).Is(404)
		jane.Post("/api/tokens", object{"name": "script", "user": "jane", "permissions": []string{"platform.schedule.pause"}}).Is(201)
		var l list[auth.AuditRecord]
		s.Get("/api/auth/audit?subject=user:default/jane").Is(200).Into(&l)
		if len(l.Items) != 2 {
			t.Fatalf("got %+v, want two things that were done: reading and failing are none", l.Items)
		}
		made, paused := l.Items[0], l.Items[1]
		if paused.Action != "platform.pauseSchedule" || paused.Permission != "platform.schedule.pause" || paused.Held != "platform.schedule.*" || paused.TokenID == "" || paused.RequestID == "" || paused.At.IsZero() {
			t.Errorf("paused: %+v", paused)
		}
		if made.Action != "token.create" || made.Permission != "platform.token.create" || !strings.Contains(made.Object, "script") {
			t.Errorf("made a token: %+v", made)
		}
		s.Get("/api/auth/audit?permission=platform.schedule.pause&action=platform.pauseSchedule&since=" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)).Is(200).Into(&l)
		if len(l.Items) != 1 {
			t.Errorf("filtered: %+v", l.Items)
		}
		s.Get("/api/auth/audit?limit=1").Is(200).Into(&l)
		if !l.PageInfo.HasMore || len(l.Items) != 1 {
			t.Errorf("a page: %+v", l)
		}
		first := l.Items[0].ID
		s.Get("/api/auth/audit?limit=1&cursor=" + l.PageInfo.NextCursor).Is(200).Into(&l)
		if len(l.Items) != 1 || l.Items[0].ID >= first {
			t.Errorf("the next page: %+v", l)
		}
		if log := s.Log.String(); !strings.Contains(log, `"permission":"platform.schedule.pause","held":"platform.schedule.*"`) {
			t.Error("the log of requests does not say which right was used")
		}
	})
}

func TestTemporaryTokensMayDoLess(t *testing.T) {
	t.Parallel()
	grants := func(c *server.Config) {
		c.Auth.Grants = []auth.GrantConfig{{To: "user:default/jane", Permissions: []string{"platform.schedule.*", "platform.job.read", "platform.token.create"}}}
	}
	each(t, grants, func(t *testing.T, s fixture) {
		jane := s.As(s.NewToken(auth.NewToken{Name: "jane", User: "user:default/jane"}))
		var m made
		jane.Post("/api/auth/narrow", object{"permissions": []string{"platform.schedule.read"}, "lifetime": "15m", "purpose": "nightly"}).Is(201).Into(&m)
		if m.ExpiresAt == nil || time.Until(*m.ExpiresAt) > 15*time.Minute || !strings.HasPrefix(m.Name, "tmp-nightly-") || m.User != "user:default/jane" {
			t.Errorf("made %+v", m)
		}
		script := s.As(m.Secret)
		script.Get("/api/schedules").Is(200)
		script.Get("/api/jobs").Fails(403, slipway.Forbidden)
		script.Get("/api/auth/sessions").Fails(403, slipway.Forbidden)
		script.Do("DELETE", "/api/auth/sessions/x", nil).Fails(403, slipway.Forbidden)
		// It passes on less still, and never more.
		script.Post("/api/auth/narrow", object{"permissions": []string{"platform.job.read"}}).Fails(403, slipway.Forbidden)
		var less made
		script.Post("/api/auth/narrow", object{"permissions": []string{"platform.schedule.read"}}).Is(201).Into(&less)
		s.As(less.Secret).Get("/api/schedules").Is(200)
		for _, body := range []object{
			{"permissions": []string{}}, {}, {"permissions": []string{"platform.schedule.read"}, "lifetime": "25h"}, {"permissions": []string{"platform.schedule.read"}, "lifetime": "soon"},
			{"permissions": []string{"nothing"}}, {"permissions": []string{"platform.schedule.read"}, "purpose": "a b"},
		} {
			jane.Post("/api/auth/narrow", body).Fails(400, slipway.Invalid)
		}
		jane.Post("/api/auth/narrow", object{"permissions": []string{"platform.token.read"}}).Fails(403, slipway.Forbidden)
		// It ends what it made, and nothing else of the same user; nor does one that seems to be whole and has only what it has.
		var beside, deep made
		jane.Post("/api/auth/narrow", object{"permissions": []string{"platform.job.read"}}).Is(201).Into(&beside)
		script.Do("DELETE", "/api/auth/narrow/"+beside.ID, nil).Fails(404, slipway.NotFound)
		s.As(less.Secret).Do("DELETE", "/api/auth/narrow/"+m.ID, nil).Fails(404, slipway.NotFound)
		jane.Post("/api/auth/narrow", object{"permissions": []string{"platform.token.create"}}).Is(201).Into(&deep)
		maker := s.As(deep.Secret)
		maker.Post("/api/tokens", object{"name": "seems-whole", "user": "jane"}).Is(201).Into(&deep)
		s.As(deep.Secret).Do("DELETE", "/api/auth/narrow/"+beside.ID, nil).Fails(404, slipway.NotFound)
		script.Post("/api/auth/narrow", object{"permissions": []string{"platform.schedule.read"}}).Is(201).Into(&deep)
		script.Do("DELETE", "/api/auth/narrow/"+deep.ID, nil).Is(204)
		s.As(deep.Secret).Get("/api/schedules").Fails(401, slipway.Unauthenticated)
		s.As(beside.Secret).Get("/api/jobs").Is(200)
		s.As(beside.Secret).Do("DELETE", "/api/auth/narrow/"+beside.ID, nil).Is(204) // and itself
		s.As(beside.Secret).Get("/api/jobs").Fails(401, slipway.Unauthenticated)
		jane.Post("/api/auth/narrow", object{"permissions": []string{"platform.job.read"}}).Is(201).Into(&beside)
		s.As(s.NewToken(auth.NewToken{Name: "jane-too", User: "user:default/jane"})).Do("DELETE", "/api/auth/narrow/"+beside.ID, nil).Is(204) // a token that narrows nothing is Jane
		jane.Post("/api/auth/narrow", object{"permissions": []string{"platform.job.read"}}).Is(201).Into(&beside)
		s.With("platform.token.revoke").Do("DELETE", "/api/auth/narrow/"+beside.ID, nil).Is(204)
		// Whoever made it ends it, and what it made; nobody else does.
		joe := s.As(s.NewToken(auth.NewToken{Name: "joe", User: "user:default/joe"}))
		joe.Do("DELETE", "/api/auth/narrow/"+m.ID, nil).Fails(404, slipway.NotFound)
		jane.Do("DELETE", "/api/auth/narrow/"+m.ID, nil).Is(204)
		script.Get("/api/schedules").Fails(401, slipway.Unauthenticated)
		s.As(less.Secret).Get("/api/schedules").Fails(403, slipway.Forbidden)
	})
}
