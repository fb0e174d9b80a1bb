package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

var schema = []store.Migrations{store.RevisionMigrations, Migrations}

func TestMigrations(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, schema...)
}

// clock is a clock that stands still until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2030, 5, 1, 12, 0, 10, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// replica is a Service with what a server puts around it.
type replica struct {
	*Service
	rev *store.Revisions
}

func newReplica(t testing.TB, db *store.DB, c *clock, cfg Config) replica {
	t.Helper()
	rev := store.NewRevisions(db, slog.New(slog.DiscardHandler))
	s, err := New(db, rev, cfg, declared, c.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.limits.learned.Store(true) // windows go by the test's clock
	return replica{s, rev}
}

// as is the caller of a token, and nil when it is not believed.
func (r replica) as(t testing.TB, secret string) *slipway.Caller {
	t.Helper()
	c, err := r.Authenticate(t.Context(), request("Bearer "+secret))
	if err != nil && !errors.Is(err, slipway.Unauthenticated) {
		t.Fatal(err)
	}
	return c
}

func (r replica) create(t testing.TB, issuer *slipway.Caller, in NewToken) (Token, string) {
	t.Helper()
	token, secret, err := r.CreateToken(t.Context(), issuer, in)
	if err != nil {
		t.Fatal(err)
	}
	return token, secret
}

func (r replica) revoke(t testing.TB, id string) {
	t.Helper()
	if err := r.RevokeToken(t.Context(), System(), id); err != nil {
		t.Fatal(err)
	}
}

func request(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["Authorization"] = authorization
	if len(authorization) == 0 {
		delete(r.Header, "Authorization")
	}
	return r
}

func rightsOf(c *slipway.Caller) []string {
	if c == nil {
		return []string{"not believed"}
	}
	return FormatGrants(c.Grants)
}

func wantRights(t testing.TB, c *slipway.Caller, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), rightsOf(c)); diff != "" {
		t.Errorf("rights (-want +got):\n%s", diff)
	}
}

func TestTokenIsBelievedUntilItIsOver(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, DefaultConfig())
		token, secret := r.create(t, System(), NewToken{Name: "ci-bot", Permissions: []string{"build.*"}, Expires: c.Now().Add(time.Hour)})
		got := r.as(t, secret)
		want := &slipway.Caller{Kind: slipway.CallerService, Subject: "token:ci-bot", TokenID: token.ID, Grants: grants(t, "build.*")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("caller (-want +got):\n%s", diff)
		}
		c.Add(time.Hour - time.Second)
		if r.as(t, secret) == nil {
			t.Error("refused before its time")
		}
		c.Add(time.Second)
		if r.as(t, secret) != nil {
			t.Error("believed after it expired")
		}
	})
}

func TestNobodyPutsATokenOutOfUseByItsID(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, DefaultConfig())
		token, secret := r.create(t, System(), NewToken{Name: "ci-bot", Admin: true})
		for _, prefix := range []string{tokenPrefix, sessionPrefix} { // the id is no secret: it stands in lists
			if r.as(t, credential(prefix, token.ID)) != nil {
				t.Fatalf("believed a secret that was made up, with %s", prefix)
			}
			if r.as(t, secret) == nil {
				t.Errorf("the token is refused after somebody else showed a secret with its id, with %s", prefix)
			}
			c.Add(tokenAge) // what is remembered is looked at anew, by whoever comes first
		}
	})
}

func TestWhatIsNotBelievedIsToldNoReason(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, DefaultConfig())
		ctx := t.Context()
		token, revoked := r.create(t, System(), NewToken{Name: "revoked", Admin: true})
		r.revoke(t, token.ID)
		_, expired := r.create(t, System(), NewToken{Name: "expired", Admin: true, Expires: c.Now().Add(time.Minute)})
		_, live := r.create(t, System(), NewToken{Name: "live", Admin: true})
		c.Add(time.Hour)
		foreign, _ := newSecret()
		forged := live[:len(tokenPrefix)+idLength] + foreign[len(tokenPrefix)+idLength:secretEnd] // a known id with another secret
		forged += checksum(forged)

		for what, credential := range map[string]string{
			"revoked": revoked, "expired": expired, "unknown": foreign, "forged": forged, "garbage": "slp_garbage", "empty": "", "a JWT": "eyJhbGciOiJub25lIn0.e30.",
			"spaces around": " " + live, "long": strings.Repeat("x", 100_000), "odd bytes": "slp_\xff\x00",
		} {
			_, err := r.Authenticate(ctx, request("Bearer "+credential))
			if !errors.Is(err, slipway.Unauthenticated) || err.Error() != errToken.Error() {
				t.Errorf("%s: got %v, want the one sentence for all", what, err)
			}
		}
		for what, headers := range map[string][]string{
			"twice": {"Bearer " + live, "Bearer " + live}, "basic": {"Basic YTpi"}, "no scheme": {live}, "blank": {""},
		} {
			if _, err := r.Authenticate(ctx, request(headers...)); !errors.Is(err, slipway.Unauthenticated) {
				t.Errorf("%s: got %v, want Unauthenticated", what, err)
			}
		}
		if got, err := r.Authenticate(ctx, request("bearer "+live)); err != nil || got.Subject != "token:live" {
			t.Errorf("live: got %v, %v", got, err)
		}
		if got, err := r.Authenticate(ctx, request()); err != nil || got.Kind != slipway.CallerAnonymous {
			t.Errorf("no header: got %v, %v; want an anonymous caller", got, err)
		}
	})
}

func TestTokenHoldsWhatItsIssuerHolds(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, DefaultConfig())
		parent, secret := r.create(t, System(), NewToken{Name: "parent", Permissions: []string{"build.*:component:default/*", "platform.job.read"}})
		issuer := r.as(t, secret)

		_, _, err := r.CreateToken(t.Context(), issuer, NewToken{Name: "greedy", Permissions: []string{"platform.job.read", "build.*", "catalog.*"}})
		if !errors.Is(err, slipway.Forbidden) || !strings.Contains(err.Error(), "lacks build.*, catalog.*") {
			t.Errorf("more than the issuer holds: got %v, want Forbidden that names it", err)
		}
		if _, _, err := r.CreateToken(t.Context(), anonymous, NewToken{Name: "x", Permissions: []string{"build.*"}}); !errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("nobody as issuer: got %v, want Unauthenticated", err)
		}
		child, childSecret := r.create(t, issuer, NewToken{Name: "child", Permissions: []string{"build.run.read:component:default/web"}})
		if child.CreatedBy != "token:parent" {
			t.Errorf("made by %q", child.CreatedBy)
		}
		wantRights(t, r.as(t, childSecret), "build.run.read:component:default/web")

		grandchild, grandSecret := r.create(t, r.as(t, childSecret), NewToken{Name: "grandchild", Permissions: []string{"build.run.read:component:default/web"}})
		wantRights(t, r.as(t, grandSecret), "build.run.read:component:default/web")

		r.revoke(t, parent.ID)
		wantRights(t, r.as(t, childSecret))
		wantRights(t, r.as(t, grandSecret))
		if got := r.as(t, grandSecret); got.TokenID != grandchild.ID {
			t.Errorf("got %+v, want the caller known, and without rights", got)
		}
	})
}

func TestTokenOfAnIssuerThatExpires(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, DefaultConfig())
		_, secret := r.create(t, System(), NewToken{Name: "parent", Admin: true, Expires: c.Now().Add(3 * time.Second)})
		_, childSecret := r.create(t, r.as(t, secret), NewToken{Name: "child", Permissions: []string{"build.*"}})
		wantRights(t, r.as(t, childSecret), "build.*")
		c.Add(3 * time.Second)
		wantRights(t, r.as(t, childSecret))
	})
}

func TestTokenLosesWhatItsIssuerLosesInTheConfiguration(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		cfg := DefaultConfig()
		cfg.Grants = []GrantConfig{{To: "user:default/jane", Permissions: []string{"build.*", "platform.job.read"}}}
		r := newReplica(t, db, c, cfg)
		jane := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane", Owns: []string{"user:default/jane"}, Grants: r.granted("user:default/jane", nil)}
		_, secret := r.create(t, jane, NewToken{Name: "script", User: "user:default/jane", Permissions: []string{"build.run.read", "platform.job.read"}})
		_, whole := r.create(t, jane, NewToken{Name: "whole", User: "Jane"})
		wantRights(t, r.as(t, secret), "build.run.read", "platform.job.read")
		wantRights(t, r.as(t, whole), "build.*", "platform.job.read")

		cfg.Grants[0].Permissions = []string{"build.run.retrigger", "platform.job.read"}
		r = newReplica(t, db, c, cfg)
		wantRights(t, r.as(t, secret), "platform.job.read")
		wantRights(t, r.as(t, whole), "build.run.retrigger", "platform.job.read")
	})
}

func TestTokenForAUserActsAsThatUser(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		cfg := DefaultConfig()
		cfg.Grants = []GrantConfig{
			{To: "group:default/team-a", Permissions: []string{"build.*:owned"}},
			{To: "user:*", Permissions: []string{"catalog.entity.read"}},
			{To: "token:jane-laptop", Permissions: []string{"platform.job.read"}},
		}
		r := newReplica(t, db, c, cfg)
		groups := []string{"user:default/jane", "group:default/team-a"}
		r.Ownership = func(_ context.Context, user string) ([]string, error) {
			if user != "user:default/jane" {
				t.Errorf("asked for %q", user)
			}
			return slices.Clone(groups), nil
		}
		token, secret := r.create(t, System(), NewToken{Name: "jane-laptop", User: "user:default/Jane"})
		got := r.as(t, secret)
		want := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane", TokenID: token.ID, Owns: groups,
			Grants: grants(t, "build.*:owned", "catalog.entity.read", "platform.job.read")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("caller (-want +got):\n%s", diff)
		}
		// A change of groups is seen within a second.
		groups = groups[:1]
		c.Add(time.Second)
		wantRights(t, r.as(t, secret), "catalog.entity.read", "platform.job.read")
	})
}

func TestMembershipGivesTheRightsOfGroupsOnly(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		cfg := DefaultConfig()
		cfg.Grants = []GrantConfig{
			{To: "user:default/root", Permissions: []string{"platform.*"}},
			{To: "tool:*", Permissions: []string{"build.*"}},
			{To: "token:*", Permissions: []string{"catalog.*"}},
			{To: "group:default/*", Permissions: []string{"build.run.read"}},
		}
		r := newReplica(t, db, newClock(), cfg)
		owns := []string{"user:default/root", "tool:default/x", "token:default/y"}
		wantGrants := func(owns []string, want ...slipway.Grant) {
			t.Helper()
			if diff := cmp.Diff(want, r.granted("user:default/eve", owns)); diff != "" {
				t.Errorf("who owns as %v (-want +got):\n%s", owns, diff)
			}
		}
		wantGrants(owns)
		wantGrants(append(owns, "group:default/team-a"), grants(t, "build.run.read")...)
	})
}

func TestOwnedRightsPassOnlyToWhoOwnsTheSame(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		cfg := DefaultConfig()
		cfg.Grants = []GrantConfig{{To: "user:default/jane", Permissions: []string{"build.*:owned", ImpersonatePermission}}}
		r := newReplica(t, db, c, cfg)
		_, secret := r.create(t, System(), NewToken{Name: "jane", User: "user:default/jane"})
		jane := r.as(t, secret)

		// A service that Jane makes works on what Jane owns, also narrowed to one thing of it.
		_, service := r.create(t, jane, NewToken{Name: "ci", Permissions: []string{"build.run.read:owned:component:default/web"}})
		ci := r.as(t, service)
		wantRights(t, ci, "build.run.read:owned:component:default/web")
		if !Allows(ci, "build.run.read", Object{"component:default/web", "user:default/jane"}) ||
			Allows(ci, "build.run.read", Object{"component:default/web", "user:default/bob"}) ||
			Allows(ci, "build.run.read", Object{"component:default/api", "user:default/jane"}) {
			t.Errorf("the service may do something else than read builds of the component while Jane owns it: %+v", ci)
		}
		// Bob owns other things.
		_, _, err := r.CreateToken(t.Context(), jane, NewToken{Name: "bob", User: "user:default/bob", Permissions: []string{"build.run.read:owned"}})
		if !errors.Is(err, slipway.Forbidden) {
			t.Errorf("a right to what Jane owns went to Bob: %v", err)
		}
		_, bob := r.create(t, jane, NewToken{Name: "bob", User: "user:default/bob"})
		wantRights(t, r.as(t, bob))
	})
}

func TestWhoMayIssueWhat(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		cfg := DefaultConfig()
		cfg.Grants = []GrantConfig{{To: "token:deployer", Permissions: []string{"catalog.*"}}}
		r := newReplica(t, db, c, cfg)
		_, secret := r.create(t, System(), NewToken{Name: "issuer", Permissions: []string{"build.*"}})
		issuer := r.as(t, secret)
		high, low, none := Rate(5000), Rate(10), Rate(0)
		for what, c := range map[string]struct {
			in    NewToken
			lacks string
		}{
			"as another user":            {NewToken{Name: "a", User: "user:default/jane", Permissions: []string{"build.*"}}, ImpersonatePermission},
			"a name with grants":         {NewToken{Name: "deployer", Permissions: []string{"build.*"}}, "catalog.*"},
			"a higher limit":             {NewToken{Name: "a", Permissions: []string{"build.*"}, RateLimit: &high}, LiftPermission},
			"no limit":                   {NewToken{Name: "a", Permissions: []string{"build.*"}, RateLimit: &none}, LiftPermission},
			"everything":                 {NewToken{Name: "a", Admin: true}, "*"},
			"a lower limit (is allowed)": {NewToken{Name: "ok", Permissions: []string{"build.*"}, RateLimit: &low}, ""},
		} {
			_, _, err := r.CreateToken(t.Context(), issuer, c.in)
			if c.lacks == "" && err != nil || c.lacks != "" && (!errors.Is(err, slipway.Forbidden) || !strings.Contains(err.Error(), "lacks "+c.lacks)) {
				t.Errorf("%s: got %v, want it to lack %q", what, err, c.lacks)
			}
		}
		_, deployer := r.create(t, System(), NewToken{Name: "deployer"}) // all it may do stands in the configuration
		wantRights(t, r.as(t, deployer), "catalog.*")
	})
}

func TestWhatEveryoneHoldsNeedsNoGrant(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		permissions := append(slices.Clone(declared), Permission{Name: "platform.self.read", Text: "See who one is", Everyone: true})
		s, err := New(db, store.NewRevisions(db, nil), DefaultConfig(), permissions, newClock().Now, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := replica{Service: s}
		parent, secret := r.create(t, System(), NewToken{Name: "ci", Permissions: []string{"build.*"}})
		wantRights(t, r.as(t, secret), "build.*", "platform.self.read")
		_, child := r.create(t, r.as(t, secret), NewToken{Name: "child", Permissions: []string{"build.*"}})
		r.revoke(t, parent.ID)
		wantRights(t, r.as(t, child), "platform.self.read")
		if _, _, err := r.CreateToken(t.Context(), System(), NewToken{Name: "nothing"}); !errors.Is(err, slipway.Invalid) {
			t.Errorf("a service that may do nothing else: got %v, want Invalid", err)
		}
	})
}

func TestTokensAreIssuedOnlySoDeep(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		r := newReplica(t, db, newClock(), DefaultConfig())
		issuer := System()
		for i := range maxChain + 1 {
			_, secret, err := r.CreateToken(t.Context(), issuer, NewToken{Name: string(rune('a' + i)), Permissions: []string{"build.*"}})
			if i == maxChain {
				if !errors.Is(err, slipway.Forbidden) {
					t.Errorf("token %d of a chain: got %v, want Forbidden", i+1, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			issuer = r.as(t, secret)
			wantRights(t, issuer, "build.*")
		}
	})
}

func TestFaultsOfATokenAreReportedTogether(t *testing.T) {
	t.Parallel()
	c := newClock()
	s, err := New(nil, store.NewRevisions(nil, nil), DefaultConfig(), declared, c.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	rate := Rate(-1)
	_, _, err = s.CreateToken(t.Context(), System(), NewToken{
		Name: "-", User: "group:default/x", Permissions: []string{"build.*", "nope.*", "platform.job.read:owned"}, Expires: c.Now(), RateLimit: &rate,
	})
	var e *slipway.Error
	if !errors.As(err, &e) || e.Code != slipway.Invalid {
		t.Fatalf("got %v, want it refused", err)
	}
	var fields []string
	for _, d := range e.Details {
		fields = append(fields, d.Field)
	}
	if diff := cmp.Diff([]string{"name", "user", "permissions[1]", "permissions[2]", "expiresAt", "rateLimit", "rateLimit"}, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if _, _, err := s.CreateToken(t.Context(), System(), NewToken{Name: "nothing"}); !errors.Is(err, slipway.Invalid) {
		t.Errorf("a service that may do nothing: got %v, want Invalid", err)
	}
}

func TestNamesAreUniqueAmongLiveTokens(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, DefaultConfig())
		first, _ := r.create(t, System(), NewToken{Name: "ci", Admin: true})
		if _, _, err := r.CreateToken(t.Context(), System(), NewToken{Name: "ci", Admin: true}); !errors.Is(err, slipway.Conflict) {
			t.Errorf("the name of a live token: got %v, want a conflict", err)
		}
		r.revoke(t, first.ID)
		r.create(t, System(), NewToken{Name: "ci", Admin: true, Expires: c.Now().Add(time.Minute)})
		c.Add(time.Minute)
		r.create(t, System(), NewToken{Name: "ci", Admin: true})
	})
}

func TestTokensAreListedAndGot(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, DefaultConfig())
		rate := Rate(7)
		var all []Token
		for i, in := range []NewToken{
			{Name: "a", Permissions: []string{"build.*:owned", "build.*:owned", "platform.job.read"}, RateLimit: &rate},
			{Name: "b", User: "jane"},
			{Name: "c", Admin: true, Expires: c.Now().Add(2 * time.Second)},
			{Name: "d", Admin: true},
		} {
			token, secret := r.create(t, System(), in)
			if got, err := r.GetToken(t.Context(), token.ID); err != nil || !cmp.Equal(token, got) {
				t.Errorf("get: %v\n%s", err, cmp.Diff(token, got))
			}
			if strings.Contains(token.ID, secret[16:]) {
				t.Error("the id tells the secret")
			}
			all = append(all, token)
			if i%2 == 1 {
				c.Add(time.Second)
			}
		}
		r.revoke(t, all[3].ID)
		r.revoke(t, all[3].ID) // does nothing more
		names := func(q TokenQuery) string {
			t.Helper()
			q.AtMost = max(q.AtMost, 3)
			tokens, err := r.ListTokens(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, token := range tokens {
				names = append(names, token.Name)
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		if got := names(TokenQuery{}); got != "a b" {
			t.Errorf("live: got %q", got)
		}
		if got := names(TokenQuery{User: "user:default/jane", All: true}); got != "b" {
			t.Errorf("of Jane: got %q", got)
		}
		page, err := r.ListTokens(t.Context(), TokenQuery{All: true, AtMost: 3})
		if err != nil || len(page) != 3 {
			t.Fatalf("got %v, %v", page, err)
		}
		rest, err := r.ListTokens(t.Context(), TokenQuery{All: true, AtMost: 3, After: &page[2]})
		if err != nil || len(rest) != 1 || slices.ContainsFunc(page, func(p Token) bool { return p.ID == rest[0].ID }) {
			t.Errorf("the next page: got %v, %v", rest, err)
		}
		for _, err := range []error{func() error { _, err := r.GetToken(t.Context(), "none"); return err }(), r.RevokeToken(t.Context(), System(), "none")} {
			if !errors.Is(err, slipway.NotFound) {
				t.Errorf("got %v, want not found", err)
			}
		}
	})
}

func TestRevokedTokenStopsOnEveryReplica(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		here, there := newReplica(t, db, c, DefaultConfig()), newReplica(t, db, c, DefaultConfig())
		token, secret := here.create(t, System(), NewToken{Name: "ci", Admin: true})
		if there.as(t, secret) == nil || here.as(t, secret) == nil {
			t.Fatal("a new token is not believed everywhere")
		}
		if err := there.rev.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		there.as(t, secret)
		here.revoke(t, token.ID)
		if here.as(t, secret) != nil {
			t.Error("believed where it was revoked")
		}
		if err := there.rev.Poll(t.Context()); err != nil { // which Revisions.Run does twice a second
			t.Fatal(err)
		}
		if there.as(t, secret) != nil {
			t.Error("believed on the other replica after it was told")
		}
	})
}

func TestReadThatARevocationOvertakesIsNotKept(t *testing.T) {
	t.Parallel()
	var c cache[entry]
	generation := c.now()
	c.clear()
	c.put("id", &entry{}, generation)
	if c.get("id") != nil {
		t.Error("kept what was read before the change")
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	var c cache[entry]
	for i := range 5 * cacheHalf {
		c.put(string(rune(i)), &entry{}, 0)
		if c.get(string(rune(0))) == nil {
			t.Fatal("the most used entry was dropped")
		}
	}
	if n := len(c.young) + len(c.old); n > 2*cacheHalf {
		t.Errorf("%d entries are kept", n)
	}
}

func TestAdminTokenOfTheFirstStart(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, DefaultConfig())
		var wg sync.WaitGroup
		secrets := make(chan string, 8)
		for range cap(secrets) {
			wg.Go(func() {
				secret, created, err := r.EnsureAdmin(t.Context())
				if err != nil {
					t.Error(err)
				}
				if created {
					secrets <- secret
				}
			})
		}
		wg.Wait()
		if len(secrets) != 1 {
			t.Fatalf("%d admin tokens, want 1", len(secrets))
		}
		admin := r.as(t, <-secrets)
		wantRights(t, admin, "*")
		r.revoke(t, admin.TokenID)
		if _, created, err := r.EnsureAdmin(t.Context()); err != nil || created {
			t.Errorf("a later start: created %v, %v; want nothing", created, err)
		}
	})
}

func TestLastUseIsWrittenOnceAMinute(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, DefaultConfig())
		token, secret := r.create(t, System(), NewToken{Name: "ci", Admin: true})
		check := func(want time.Time) {
			t.Helper()
			if err := r.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := r.GetToken(t.Context(), token.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got.LastUsedAt == nil || !got.LastUsedAt.Equal(want) {
				t.Errorf("last used: got %v, want %v", got.LastUsedAt, want)
			}
		}
		first := c.Now()
		r.as(t, secret)
		check(first)
		c.Add(59 * time.Second)
		r.as(t, secret)
		check(first)
		c.Add(time.Second)
		r.as(t, secret)
		check(first.Add(time.Minute))
	})
}

func TestRunSaysThatTheReplicaLivesAndWritesWhatIsLeftWhenItEnds(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, schema...)
	c := newClock()
	r := newReplica(t, db, c, DefaultConfig())
	token, secret := r.create(t, System(), NewToken{Name: "ci", Admin: true})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	replicas := func() (n int) {
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM auth_replica`).Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	for deadline := time.Now().Add(20 * time.Second); replicas() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the replica never said that it lives")
		}
	}
	r.as(t, secret)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got, err := r.GetToken(t.Context(), token.ID); err != nil || got.LastUsedAt == nil {
		t.Errorf("last used: got %v, %v", got.LastUsedAt, err)
	}
	if n := replicas(); n != 0 {
		t.Errorf("%d replicas are left that do not run", n)
	}
}

func TestChangesAreWrittenDownAndPruned(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		cfg := DefaultConfig()
		cfg.Retention = time.Hour
		r := newReplica(t, db, c, cfg)
		ctx := t.Context()
		_, secret := r.create(t, System(), NewToken{Name: "admin", Admin: true})
		admin := r.as(t, secret)
		token, _ := r.create(t, admin, NewToken{Name: "ci", Permissions: []string{"build.*"}})
		if err := r.RevokeToken(ctx, admin, token.ID); err != nil {
			t.Fatal(err)
		}
		count := func(query string) (n int) {
			t.Helper()
			if err := db.QueryRowContext(ctx, query).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := count(`SELECT count(*) FROM auth_audit WHERE subject = 'token:admin' AND action IN ('token.create', 'token.revoke')`); n != 2 {
			t.Errorf("%d changes by admin on record, want 2", n)
		}
		if _, err := r.Count(ctx, admin, ""); err != nil {
			t.Fatal(err)
		}
		if err := r.Prune(ctx); err != nil {
			t.Fatal(err)
		}
		if tokens, records, windows := count(`SELECT count(*) FROM auth_token`), count(`SELECT count(*) FROM auth_audit`), count(`SELECT count(*) FROM auth_window`); tokens != 2 || records != 3 || windows != 1 {
			t.Errorf("pruned too early: %d tokens, %d records, %d windows", tokens, records, windows)
		}
		c.Add(time.Hour + time.Minute)
		if err := r.Prune(ctx); err != nil {
			t.Fatal(err)
		}
		if tokens, records, windows := count(`SELECT count(*) FROM auth_token`), count(`SELECT count(*) FROM auth_audit`), count(`SELECT count(*) FROM auth_window`); tokens != 1 || records != 0 || windows != 0 {
			t.Errorf("left: %d tokens, %d records, %d windows; want 1 token that still lives", tokens, records, windows)
		}
	})
}

func TestSecretsAreNotStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		r := newReplica(t, db, newClock(), DefaultConfig())
		_, secret := r.create(t, System(), NewToken{Name: "ci", Admin: true})
		var id, permissions, issuer string
		var sum []byte
		if err := db.QueryRowContext(t.Context(), `SELECT id, permissions, issuer, hash FROM auth_token`).Scan(&id, &permissions, &issuer, &sum); err != nil {
			t.Fatal(err)
		}
		if want := hash(secret); string(sum) != string(want[:]) {
			t.Error("the stored hash is not that of the secret")
		}
		if strings.Contains(id+permissions+issuer+string(sum), secret[20:40]) {
			t.Error("a part of the secret is stored")
		}
	})
}

func TestUnreachableDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		r := newReplica(t, db, newClock(), DefaultConfig())
		secret, _ := newSecret()
		_ = db.Close()
		if _, err := r.Authenticate(t.Context(), request("Bearer "+secret)); err == nil || errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("got %v, want an error that blames nobody", err)
		}
		if _, err := r.Authenticate(t.Context(), request("Bearer garbage")); !errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("got %v: garbage needs no database to be refused", err)
		}
	})
}
