package auth

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth/issuertest"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// believing is a replica on SQLite that believes an issuer; the database has no part in most of what is tested here.
func believing(t testing.TB, c *clock, issuer IssuerConfig, grants ...GrantConfig) replica {
	t.Helper()
	cfg := DefaultConfig()
	cfg.SignIn.Issuers = []IssuerConfig{issuer}
	cfg.Grants = grants
	return newReplica(t, storetest.Open(t, store.SQLite, schema...), c, cfg)
}

func oidcOf(i *issuertest.Issuer) IssuerConfig {
	return IssuerConfig{Name: "idp", Kind: "oidc", Issuer: i.URL, Audience: "slipway"}
}

func TestATokenOfAnIssuerIsItsUser(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c, i := newClock(), issuertest.New(t)
		cfg := DefaultConfig()
		issuer := oidcOf(i)
		issuer.UserClaim, issuer.Groups = "preferred_username", "realm_access.roles"
		cfg.SignIn.Issuers = []IssuerConfig{issuer}
		cfg.Grants = []GrantConfig{{To: "group:default/team-a", Permissions: []string{"build.*:owned"}}, {To: "group:default/squad", Permissions: []string{"platform.job.read"}}}
		r := newReplica(t, db, c, cfg)
		r.Ownership = func(_ context.Context, user string) ([]string, error) {
			return []string{user, "group:default/squad"}, nil
		}
		token := i.Sign(i.Claims("slipway", c.Now(), map[string]any{
			"sub": "0e5f", "preferred_username": "Jane", "realm_access": map[string]any{"roles": []any{"/Team-A", "no group/at all", 7, "admin role", "group:other/x"}},
		}))
		want := &slipway.Caller{
			Kind: slipway.CallerUser, Subject: "user:default/jane", Owns: []string{"user:default/jane", "group:default/squad", "group:default/team-a"},
			Grants: grants(t, "build.*:owned", "platform.job.read"),
		}
		for range 2 { // at first sight, and again
			if diff := cmp.Diff(want, r.as(t, token)); diff != "" {
				t.Errorf("caller (-want +got):\n%s", diff)
			}
		}
		if n := i.Requests.Load(); n != 1 {
			t.Errorf("the keys were asked for %d times, want once", n)
		}
	})
}

func TestTokensOfAnIssuerThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	issuer := oidcOf(i)
	issuer.Algorithms = []string{"ES256", "RS256"}
	r := believing(t, c, issuer, GrantConfig{To: "user:*", Permissions: []string{"*"}})
	now := c.Now()
	good := i.Claims("slipway", now, nil)
	other := issuertest.New(t)
	short, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // that is the point
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weak := issuertest.Key{ID: "weak", Algorithm: jose.RS256, Private: short}
	pss := issuertest.Key{ID: "pss", Algorithm: jose.PS256, Private: long}
	i.Add(weak)
	i.Add(pss)
	newest := i.Rotate()
	with := func(more map[string]any) string { return i.Sign(i.Claims("slipway", now, more)) }
	unsigned := func(header string) string {
		payload, _ := json.Marshal(good)
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload) + "."
	}
	public, _ := json.Marshal(jose.JSONWebKey{Key: newest.Private.Public(), KeyID: newest.ID})
	hmac, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: public}, (&jose.SignerOptions{}).WithHeader("kid", newest.ID))
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := json.Marshal(good)
	confused, err := hmac.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	symmetric, _ := confused.CompactSerialize()
	whole := i.Sign(good)
	parts := strings.Split(whole, ".")
	changed := maps.Clone(good)
	changed["sub"] = "root"
	raised, _ := json.Marshal(changed)

	for what, token := range map[string]string{
		"alg none":                     unsigned(`{"alg":"none"}`),
		"alg None":                     unsigned(`{"alg":"None","kid":"` + newest.ID + `"}`),
		"without an algorithm":         unsigned(`{}`),
		"by HMAC with the public key":  symmetric,
		"by a key of somebody else":    other.Sign(good),
		"by another with this kid":     issuertest.Key{ID: newest.ID, Algorithm: jose.ES256, Private: other.Rotate().Private}.Sign(t, good),
		"by a key that is too short":   weak.Sign(t, good),
		"by an algorithm not accepted": pss.Sign(t, good),
		"with a changed payload":       parts[0] + "." + base64.RawURLEncoding.EncodeToString(raised) + "." + parts[2],
		"without a signature":          parts[0] + "." + parts[1] + ".",
		"with a key in its header":     issuertest.Key{ID: "mine", Algorithm: jose.ES256, Private: other.Rotate().Private}.Sign(t, good, "jku", other.URL+"/keys"),
		"of another issuer":            other.Sign(other.Claims("slipway", now, nil)),
		"for another audience":         with(map[string]any{"aud": "elsewhere"}),
		"for several others":           with(map[string]any{"aud": []string{"a", "b"}}),
		"for nobody":                   with(map[string]any{"aud": nil}),
		"expired by a second":          with(map[string]any{"exp": now.Add(-time.Second).Unix()}),
		"that ends now":                with(map[string]any{"exp": now.Unix()}),
		"without an end":               with(map[string]any{"exp": nil}),
		"with a word as its end":       with(map[string]any{"exp": "tomorrow"}),
		"with an end beyond all time":  with(map[string]any{"exp": 1e300}),
		"from the future":              with(map[string]any{"iat": now.Add(2 * time.Minute).Unix()}),
		"not good yet":                 with(map[string]any{"nbf": now.Add(2 * time.Minute).Unix()}),
		"without a subject":            with(map[string]any{"sub": nil}),
		"with a subject that is none":  with(map[string]any{"sub": map[string]any{"a": 1}}),
		"with an odd user":             with(map[string]any{"sub": "group:default/admins"}),
		"with a user that is a path":   with(map[string]any{"sub": "default/root"}),
		"that says SUB":                with(map[string]any{"sub": nil, "SUB": "root", "Sub": "root"}),
		"with 100 kB of claims":        with(map[string]any{"groups": strings.Repeat("x", 100_000)}),
		"in JSON":                      `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"encrypted":                    whole + ".x.y",
		"with space":                   whole + " ",
		"garbage":                      "eyJ.eyJ.x",
	} {
		if got := r.as(t, token); got != nil {
			t.Errorf("a token %s was believed: %+v", what, got)
		}
	}
	for what, token := range map[string]string{
		"a sound one":                 i.Sign(good),
		"one of several audiences":    with(map[string]any{"aud": []string{"elsewhere", "slipway"}}),
		"one that ends in a second":   with(map[string]any{"exp": now.Add(time.Second).Unix()}),
		"one of a clock that is fast": with(map[string]any{"iat": now.Add(20 * time.Second).Unix(), "nbf": now.Add(20 * time.Second).Unix()}),
	} {
		if r.as(t, token) == nil {
			t.Errorf("%s was refused", what)
		}
	}
	if twice := strings.Replace(string(payload), "{", `{"sub":"root",`, 1); r.as(t, signRaw(t, newest, twice)) != nil {
		t.Error("believed a token with a claim that stands twice")
	}
}

func signRaw(t *testing.T, k issuertest.Key, payload string) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: k.Algorithm, Key: k.Private}, (&jose.SignerOptions{}).WithHeader("kid", k.ID))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := jws.CompactSerialize()
	return text
}

func TestAKnownTokenEndsInTime(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	r := believing(t, c, oidcOf(i))
	token := i.Sign(i.Claims("slipway", c.Now(), map[string]any{"exp": c.Now().Add(30 * time.Second).Unix()}))
	for range 29 {
		if r.as(t, token) == nil {
			t.Fatal("refused before its end")
		}
		c.Add(time.Second)
	}
	c.Add(time.Second)
	if r.as(t, token) != nil {
		t.Error("believed at its end")
	}
}

func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	r := believing(t, c, oidcOf(i))
	sign := func() string { return i.Sign(i.Claims("slipway", c.Now(), map[string]any{"jti": c.Now().String()})) }
	old := sign()
	if r.as(t, old) == nil {
		t.Fatal("refused the first key")
	}
	// A new key is fetched when a token names it, at once if the last look was long enough ago.
	i.Rotate()
	if r.as(t, sign()) != nil {
		t.Error("the issuer was asked again within seconds")
	}
	c.Add(keysPause)
	if r.as(t, sign()) == nil {
		t.Error("a token with a new key was refused")
	}
	if r.as(t, old) == nil {
		t.Error("the old key is published still, and was refused")
	}
	// A key that was taken back is noticed by the next look, and with it go the tokens that are remembered.
	i.Withdraw()
	c.Add(keysFresh)
	r.as(t, sign()) // has the keys read, behind it
	waitFor(t, "the key that was taken back is gone", func() bool { return r.as(t, old) == nil })
	if r.as(t, sign()) == nil {
		t.Error("the newest key was refused")
	}
}

func waitFor(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestKeysAreRotatedUnderLoad(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	r := believing(t, c, oidcOf(i))
	before := i.Sign(i.Claims("slipway", c.Now(), nil))
	if r.as(t, before) == nil {
		t.Fatal("refused")
	}
	c.Add(keysPause)
	i.Rotate()
	after := make([]string, 20)
	for n := range after {
		after[n] = i.Sign(i.Claims("slipway", c.Now(), map[string]any{"jti": n}))
	}
	var wg sync.WaitGroup
	for n := range 200 {
		wg.Go(func() {
			for _, token := range []string{before, after[n%len(after)]} {
				if c, err := r.Authenticate(context.Background(), request("Bearer "+token)); err != nil || c == nil {
					t.Errorf("in the middle of a rotation: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := i.Requests.Load(); n != 2 {
		t.Errorf("the keys were read %d times, want once before and once after", n)
	}
}

func TestStrangersCannotMakeUsAskTheIssuer(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	r := believing(t, c, oidcOf(i))
	stranger := issuertest.New(t)
	for range 100 {
		if r.as(t, stranger.Rotate().Sign(t, i.Claims("slipway", c.Now(), nil))) != nil {
			t.Fatal("believed a stranger")
		}
	}
	if n := i.Requests.Load(); n > 2 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

func TestAnIssuerThatIsDown(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	i.Down.Store(true)
	r := believing(t, c, oidcOf(i)) // a start needs no issuer
	token := i.Sign(i.Claims("slipway", c.Now(), map[string]any{"exp": c.Now().Add(100 * time.Hour).Unix()}))
	for range 2 {
		if _, err := r.Authenticate(t.Context(), request("Bearer "+token)); !errors.Is(err, slipway.Unavailable) {
			t.Errorf("got %v, want Unavailable: nobody knows whether the token is sound", err)
		}
	}
	i.Down.Store(false)
	c.Add(keysPause)
	if r.as(t, token) == nil {
		t.Fatal("refused when the issuer was back")
	}
	i.Down.Store(true)
	for range 23 {
		c.Add(time.Hour)
		if r.as(t, token) == nil {
			t.Fatal("refused while the keys are known")
		}
	}
	c.Add(2 * time.Hour)
	waitFor(t, "keys that nobody vouched for in a day are not used", func() bool {
		_, err := r.Authenticate(t.Context(), request("Bearer "+token))
		return errors.Is(err, slipway.Unavailable)
	})
}

func TestAnIssuerThatAnswersNonsense(t *testing.T) {
	t.Parallel()
	for what, keys := range map[string]string{
		"no JSON": "<html>", "no keys": `{"keys":[]}`, "odd keys": `{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"a"},7,{"kty":"RSA"}]}`, "another shape": `[]`,
		"without end": `{"keys":["` + strings.Repeat("x", maxAnswer), "too many": `{"keys":[` + strings.Repeat(`{},`, 200) + `{}]}`,
	} {
		c, i := newClock(), issuertest.New(t)
		i.Handle("GET /odd", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(keys)) })
		i.Handle("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) })
		for _, path := range []string{"/odd", "/moved"} {
			cfg := oidcOf(i)
			cfg.JWKSURL = i.URL + path
			r := believing(t, c, cfg)
			if _, err := r.Authenticate(t.Context(), request("Bearer "+i.Sign(i.Claims("slipway", c.Now(), nil)))); !errors.Is(err, slipway.Unavailable) {
				t.Errorf("%s at %s: got %v, want Unavailable", what, path, err)
			}
		}
	}
}

func TestBackstageTellsWhatAUserOwnsBy(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	down := false
	i.Handle("GET /v1/userinfo", func(w http.ResponseWriter, r *http.Request) {
		if down || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"claims":{"sub":"user:default/jane","ent":["user:default/jane","group:default/team-a","group:other/team-b","nonsense here"]}}`))
	})
	r := believing(t, c, IssuerConfig{Name: "portal", Kind: "backstage", Issuer: i.URL, JWKSURL: i.URL + "/keys"},
		GrantConfig{To: "group:default/team-a", Permissions: []string{"build.*:owned"}})
	claims := i.Claims("backstage", c.Now(), map[string]any{"sub": "user:default/Jane"})
	const user = "vnd.backstage.user"
	owns := func(token string) []string {
		t.Helper()
		caller := r.as(t, token)
		if caller == nil {
			t.Fatal("refused")
		}
		if caller.Subject != "user:default/jane" {
			t.Errorf("got %q", caller.Subject)
		}
		return caller.Owns
	}
	if diff := cmp.Diff([]string{"user:default/jane", "group:default/team-a", "group:other/team-b"}, owns(i.Sign(claims, "typ", user))); diff != "" {
		t.Errorf("by userinfo (-want +got):\n%s", diff)
	}
	claims["ent"] = []string{"user:default/jane", "group:default/team-c"}
	if diff := cmp.Diff([]string{"user:default/jane", "group:default/team-c"}, owns(i.Sign(claims, "typ", user))); diff != "" {
		t.Errorf("by ent (-want +got):\n%s", diff)
	}
	down = true
	delete(claims, "ent")
	claims["jti"] = "another"
	if diff := cmp.Diff([]string{"user:default/jane"}, owns(i.Sign(claims, "typ", user))); diff != "" {
		t.Errorf("while userinfo is down (-want +got):\n%s", diff)
	}
	down = false
	claims["sub"] = "user:default/joe"
	if caller := r.as(t, i.Sign(claims, "typ", user)); caller == nil || !slices.Equal(caller.Owns, []string{"user:default/joe"}) {
		t.Errorf("by a userinfo that tells of somebody else: got %+v", caller)
	}
	for _, typ := range []string{"", "JWT", "vnd.backstage.plugin", "vnd.backstage.limited-user"} {
		if r.as(t, i.Sign(claims, "typ", typ)) != nil {
			t.Errorf("believed a token of type %q", typ)
		}
	}
	claims["sub"] = "group:default/team-a"
	if r.as(t, i.Sign(claims, "typ", user)) != nil {
		t.Error("believed that a group calls")
	}
}

func TestServicesOfIssuers(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	cluster := believing(t, c, IssuerConfig{Name: "k8s", Kind: "kubernetes", Issuer: i.URL, Audience: "slipway"},
		GrantConfig{To: "service:k8s:ci/*", Permissions: []string{"build.*"}})
	sign := func(sub string) string { return i.Sign(i.Claims("slipway", c.Now(), map[string]any{"sub": sub})) }
	want := &slipway.Caller{Kind: slipway.CallerService, Subject: "service:k8s:ci/deployer", Grants: grants(t, "build.*")}
	if diff := cmp.Diff(want, cluster.as(t, sign("system:serviceaccount:ci:deployer"))); diff != "" {
		t.Errorf("a service account (-want +got):\n%s", diff)
	}
	wantRights(t, cluster.as(t, sign("system:serviceaccount:other:deployer")))
	for _, sub := range []string{"jane", "system:node:a", "system:serviceaccount:ci", "system:serviceaccount:ci:a:b", "system:serviceaccount::", "system:serviceaccount:c*:a"} {
		if cluster.as(t, sign(sub)) != nil {
			t.Errorf("believed %q", sub)
		}
	}
	cfg := oidcOf(i)
	cfg.Name, cfg.Callers = "actions", "service"
	runner := believing(t, c, cfg, GrantConfig{To: "service:actions:repo:octo/hello:*", Permissions: []string{"build.*"}})
	wantRights(t, runner.as(t, sign("repo:octo/hello:ref:refs/heads/main")), "build.*")
	wantRights(t, runner.as(t, sign("repo:octo/hello-evil:ref:refs/heads/main")))
	if runner.as(t, sign("repo:*")) != nil || runner.as(t, sign("a b")) != nil {
		t.Error("believed a subject that is a pattern, or has a space")
	}
}

func TestAClusterReviewsTokens(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	r := believing(t, c, IssuerConfig{Name: "k8s", Kind: "kubernetes", Issuer: i.URL, Audience: "slipway", Cluster: "main"})
	token := i.Sign(i.Claims("slipway", c.Now(), map[string]any{"sub": "system:serviceaccount:ci:deployer"}))
	if _, err := r.Authenticate(t.Context(), request("Bearer "+token)); !errors.Is(err, slipway.Unavailable) {
		t.Errorf("without a cluster: got %v, want Unavailable", err)
	}
	asked := 0
	said := TokenReview{Authenticated: true, Username: "system:serviceaccount:ci:deployer", Audiences: []string{"slipway"}}
	r.Review = func(_ context.Context, cluster, shown string, audiences []string) (TokenReview, error) {
		if asked++; cluster != "main" || shown != token || !slices.Equal(audiences, []string{"slipway"}) {
			t.Errorf("asked %q about %q for %q", cluster, shown, audiences)
		}
		return said, nil
	}
	for range 3 {
		if got := r.as(t, token); got == nil || got.Subject != "service:k8s:ci/deployer" {
			t.Fatalf("got %+v", got)
		}
	}
	if asked != 1 {
		t.Errorf("the cluster was asked %d times in a minute", asked)
	}
	c.Add(seenAge)
	said.Authenticated = false
	if r.as(t, token) != nil {
		t.Error("believed what the cluster no longer does")
	}
	said = TokenReview{Authenticated: true, Username: "system:serviceaccount:ci:deployer"}
	if r.as(t, token) != nil {
		t.Error("believed a token of which the cluster does not say whom it is for")
	}
	if n := i.Requests.Load(); n != 0 {
		t.Errorf("keys were read %d times", n)
	}
}

func TestAClusterThatIsDownSaysNothingOfTheTokensOfItsNamesake(t *testing.T) {
	t.Parallel()
	c, i := newClock(), issuertest.New(t)
	one := IssuerConfig{Name: "blue", Kind: "kubernetes", Issuer: i.URL, Audience: "slipway", Cluster: "blue"}
	two := one
	two.Name, two.Cluster = "green", "green"
	cfg := DefaultConfig()
	cfg.SignIn.Issuers = []IssuerConfig{one, two}
	r := newReplica(t, storetest.Open(t, store.SQLite, schema...), c, cfg)
	down := map[string]bool{"blue": true}
	r.Review = func(_ context.Context, cluster, _ string, audiences []string) (TokenReview, error) {
		if down[cluster] {
			return TokenReview{}, slipway.Errorf(slipway.Unavailable, "%s is down", cluster)
		}
		return TokenReview{Authenticated: true, Username: "system:serviceaccount:ci:deployer", Audiences: audiences}, nil
	}
	token := func(n int) string {
		return "Bearer " + i.Sign(i.Claims("slipway", c.Now(), map[string]any{"sub": "system:serviceaccount:ci:deployer", "n": n}))
	}
	if got, err := r.Authenticate(t.Context(), request(token(1))); err != nil || got.Subject != "service:green:ci/deployer" {
		t.Errorf("by the cluster that answers: got %+v, %v", got, err)
	}
	down["green"] = true
	if _, err := r.Authenticate(t.Context(), request(token(2))); !errors.Is(err, slipway.Unavailable) {
		t.Errorf("while both are down: got %v, want Unavailable", err)
	}
}

func TestTheConfigurationOfIssuersIsChecked(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.SignIn.Issuers = []IssuerConfig{
		{Name: "a", Kind: "oidc", Issuer: "https://a.example.com", Audience: "slipway", Algorithms: []string{"HS256", "none"}},
		{Name: "a", Kind: "saml", Issuer: "ftp://b", JWKSURL: "nowhere", Callers: "robots", Namespace: "a b"},
		{Name: "k 8", Kind: "kubernetes", Issuer: "https://k", Audience: "x", Callers: "user"},
		{Name: "b", Kind: "backstage", Issuer: "https://b", Callers: "service", Cluster: "main"},
	}
	var got []string
	for _, d := range cfg.Check(declared) {
		got = append(got, d.Field)
	}
	want := []string{
		"auth.issuers[0].algorithms", "auth.issuers[0].algorithms", "auth.issuers[1].name", "auth.issuers[1].kind", "auth.issuers[1].audience", "auth.issuers[1].issuer",
		"auth.issuers[1].jwksURL", "auth.issuers[1].callers", "auth.issuers[1].namespace", "auth.issuers[2].name", "auth.issuers[2].callers",
		"auth.issuers[3].callers", "auth.issuers[3].cluster",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func FuzzTokensOfIssuersNeverPanic(f *testing.F) {
	c, i := newClock(), issuertest.New(f)
	r := believing(f, c, oidcOf(i))
	sound := i.Sign(i.Claims("slipway", c.Now(), nil))
	f.Add(sound)
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add(sound[:len(sound)-4])
	f.Add(i.Sign(map[string]any{"iss": i.URL, "exp": "x", "aud": []any{1, nil}, "realm_access": "flat"}))
	f.Fuzz(func(t *testing.T, token string) {
		caller, err := r.Authenticate(context.Background(), request("Bearer "+token))
		if err == nil && token != sound && caller.Subject != "user:default/jane" {
			t.Errorf("%q is believed to be %s", token, caller.Subject)
		}
	})
}

func FuzzClaimsNeverPanic(f *testing.F) {
	f.Add([]byte(`{"iss":"a","exp":1e9,"aud":["a"],"realm_access":{"roles":["a"]},"a.b":1}`), "realm_access.roles")
	f.Add([]byte(`{"exp":-1e400,"a":{"a":{"a":{}}}}`), "a.a.a.a")
	f.Fuzz(func(t *testing.T, payload []byte, name string) {
		c, err := readClaims(payload)
		if err != nil {
			return
		}
		c.text(name)
		c.time(name)
		i := &issuer{IssuerConfig: IssuerConfig{}.filled()}
		for _, ref := range i.groups(c.texts(name)) {
			if _, err := slipway.ParseEntityRef(ref, slipway.EntityRef{}); err != nil || !strings.HasPrefix(ref, "group:default/") {
				t.Errorf("%q gave the group %q", payload, ref)
			}
		}
	})
}
