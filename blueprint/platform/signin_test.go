package platform_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/auth/issuertest"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// movable is a clock that goes on, and can be moved.
type movable struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *movable) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *movable) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// installation is a server that people sign in to by a real OpenID provider.
type installation struct {
	*blueprinttest.Server
	idp   *issuertest.OpenID
	clock *movable
}

// withSignIn runs a test on both engines. Jane is in team-a, which may do everything with jobs.
func withSignIn(t *testing.T, test func(t *testing.T, s installation)) {
	t.Helper()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			idp, clock := issuertest.NewOpenID(t), &movable{}
			idp.User("jane", "team-a")
			idp.User("joe")
			s := blueprinttest.Start(t, engine, blueprinttest.Options{
				Blueprints: []blueprint.Blueprint{platform.Blueprint}, Now: clock.Now,
				Configure: func(c *server.Config) {
					c.Auth.SignIn.Issuers = []auth.IssuerConfig{{Name: "idp", Kind: "oidc", Issuer: idp.URL, Audience: "slipway-api", UserClaim: "preferred_username"}}
					c.Auth.SignIn.Login.Issuer, c.Auth.SignIn.Login.ClientID, c.Auth.SignIn.Login.Secret = "idp", "slipway", secret.NewText("s3cret")
					c.Auth.Grants = []auth.GrantConfig{{To: "group:default/team-a", Permissions: []string{"platform.job.*", "platform.token.create"}}}
					c.Auth.RateLimits = auth.RateLimits{}
				},
			})
			idp.Client("slipway", "s3cret", s.URL)
			test(t, installation{s, idp, clock})
		})
	}
}

func TestSignInWithABrowser(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		b := issuertest.NewBrowser(t, s.URL)
		if a := b.Open("/auth", nil); a.StatusCode != 200 || !strings.Contains(a.Text, `href="/auth/login"`) {
			t.Errorf("the account page of nobody: %d %s", a.StatusCode, a.Text)
		}
		if a := b.Open("/api/auth/me", nil); a.StatusCode != 401 {
			t.Errorf("before: %d", a.StatusCode)
		}
		a := b.SignIn("jane", "/api/auth/me?x=1")
		if a.StatusCode != 303 || a.At() != s.URL+"/api/auth/me?x=1" {
			t.Fatalf("signed in: %d to %s %s", a.StatusCode, a.Header.Get("Location"), a.Text)
		}
		for _, c := range a.Cookies() {
			if c.Name == "slipway-session" && (!c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.MaxAge <= 0) {
				t.Errorf("the cookie %+v", c)
			}
		}
		if cache := a.Header.Get("Cache-Control"); cache != "no-store" {
			t.Errorf("the answer with the cookie may be kept: %q", cache)
		}
		me := b.Open("/api/auth/me", nil)
		for _, want := range []string{`"user:default/jane"`, `"group:default/team-a"`, `"platform.job.*"`, `"sessionId"`} {
			if !strings.Contains(me.Text, want) {
				t.Errorf("who am I: no %s in %s", want, me.Text)
			}
		}
		if a := b.Open("/api/jobs", nil); a.StatusCode != 200 {
			t.Errorf("what the group may do: %d %s", a.StatusCode, a.Text)
		}
		page := b.Open("/auth", nil)
		if !strings.Contains(page.Text, "user:default/jane") || !strings.Contains(page.Text, "Mozilla/5.0 (X11; test)") || !strings.Contains(page.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("the account page: %s\n%v", page.Text, page.Header)
		}
		// A token that the user makes has what the user has by the groups that the issuer named.
		var made struct {
			Secret string `json:"secret"`
		}
		res := b.Open("/api/tokens", nil, "Content-Type", "application/json", "body", `{"name":"script","user":"user:default/jane"}`)
		if err := json.Unmarshal([]byte(res.Text), &made); err != nil || res.StatusCode != 201 {
			t.Fatalf("making a token: %d %s", res.StatusCode, res.Text)
		}
		s.As(made.Secret).Get("/api/jobs").Is(200)

		out := b.Open("/auth/logout", url.Values{"session": {""}})
		if to := out.At(); !strings.HasPrefix(to, s.idp.URL+"/end_session?") || !strings.Contains(to, url.QueryEscape(s.URL+"/auth")) {
			t.Errorf("signed out: to %s", to)
		}
		if b.Cookie("slipway-session") != "" {
			t.Error("the cookie is still there")
		}
		if a := b.Open("/api/auth/me", nil); a.StatusCode != 401 {
			t.Errorf("after: %d", a.StatusCode)
		}
	})
}

// Over https the cookie is one that no other host and no plain connection can set or read.
func TestTheCookieOverHTTPS(t *testing.T) {
	t.Parallel()
	idp := issuertest.NewOpenID(t)
	idp.User("jane")
	var behind atomic.Pointer[httputil.ReverseProxy]
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { behind.Load().ServeHTTP(w, r) }))
	t.Cleanup(front.Close)
	s := blueprinttest.Start(t, store.SQLite, blueprinttest.Options{Blueprints: []blueprint.Blueprint{platform.Blueprint}, Configure: func(c *server.Config) {
		c.Server.ExternalURL = front.URL
		c.Auth.SignIn.Issuers = []auth.IssuerConfig{{Name: "idp", Kind: "oidc", Issuer: idp.URL, Audience: "slipway-api", UserClaim: "preferred_username"}}
		c.Auth.SignIn.Login.Issuer, c.Auth.SignIn.Login.ClientID, c.Auth.SignIn.Login.Secret = "idp", "slipway", secret.NewText("s3cret")
	}})
	idp.Client("slipway", "s3cret", front.URL)
	to, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	behind.Store(httputil.NewSingleHostReverseProxy(to))
	b := issuertest.NewBrowser(t, front.URL)
	b.HTTP.Transport = front.Client().Transport
	begun := b.Open("/auth/login", nil)
	a := b.SignIn("jane", "/api/auth/me")
	for _, c := range append(begun.Cookies(), a.Cookies()...) {
		if !strings.HasPrefix(c.Name, "__Host-slipway-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("the cookie %+v", c)
		}
	}
	value := b.Cookie("__Host-slipway-session")
	if value == "" {
		t.Fatalf("there is no session: %d %s", a.StatusCode, a.Text)
	}
	if me := b.Open("/api/auth/me", nil); me.StatusCode != 200 {
		t.Errorf("with it: %d %s", me.StatusCode, me.Text)
	}
	// A name that another host of the domain could set is none of ours.
	s.As("").Get("/api/auth/me", "Cookie", "slipway-session="+value).Is(401)
	s.As("").Get("/api/auth/me", "Cookie", "__Host-slipway-session="+value).Is(200)
}

func TestACookieThatWasCopiedEndsWithTheSession(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		b := issuertest.NewBrowser(t, s.URL)
		b.SignIn("jane", "/")
		stolen := "slipway-session=" + b.Cookie("slipway-session")
		thief := issuertest.NewBrowser(t, s.URL)
		if a := thief.Open("/api/auth/me", nil, "Cookie", stolen); a.StatusCode != 200 {
			t.Fatalf("a cookie is all there is: %d", a.StatusCode)
		}
		if a := thief.Open("/api/auth/me", nil, "Authorization", "Bearer "+b.Cookie("slipway-session")); a.StatusCode != 401 {
			t.Errorf("a cookie is no bearer token: %d", a.StatusCode)
		}
		if a := thief.Open("/api/auth/me", nil, "Cookie", stolen+"; "+stolen); a.StatusCode != 401 {
			t.Errorf("a cookie that is there twice: %d", a.StatusCode)
		}
		b.Open("/auth/logout", url.Values{"session": {""}})
		if a := thief.Open("/api/auth/me", nil, "Cookie", stolen); a.StatusCode != 401 {
			t.Errorf("after the owner signed out: %d", a.StatusCode)
		}
	})
}

func TestASessionCannotBeFixed(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		attacker, victim := issuertest.NewBrowser(t, s.URL), issuertest.NewBrowser(t, s.URL)
		attacker.SignIn("joe", "/")
		planted := attacker.Cookie("slipway-session")
		home, _ := url.Parse(s.URL)
		victim.HTTP.Jar.SetCookies(home, []*http.Cookie{{Name: "slipway-session", Value: planted, Path: "/"}})
		victim.SignIn("jane", "/")
		if victim.Cookie("slipway-session") == planted {
			t.Error("the planted session became the victim's")
		}
		if a := attacker.Open("/api/auth/me", nil); strings.Contains(a.Text, "jane") {
			t.Errorf("the attacker is %s", a.Text)
		}
		// A sign-in that the attacker began does not sign the victim in as the attacker.
		back := attacker.Identify(attacker.Open("/auth/login", nil).At(), "joe")
		other := issuertest.NewBrowser(t, s.URL)
		if a := other.Open(back, nil); a.StatusCode != 401 || other.Cookie("slipway-session") != "" {
			t.Errorf("the attacker's answer in another browser: %d", a.StatusCode)
		}
		other.Open("/auth/login", nil) // with a sign-in of its own under way
		if a := other.Open(back, nil); a.StatusCode != 401 || other.Cookie("slipway-session") != "" {
			t.Errorf("the attacker's answer in a browser that signs in: %d", a.StatusCode)
		}
		// And the answer works once.
		if a := attacker.Open(back, nil); a.StatusCode != 303 {
			t.Fatalf("in the browser that began it: %d %s", a.StatusCode, a.Text)
		}
		if a := attacker.Open(back, nil); a.StatusCode != 401 {
			t.Errorf("the same answer again: %d", a.StatusCode)
		}
	})
}

func TestSessionsEndWhenIdle(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		b := issuertest.NewBrowser(t, s.URL)
		b.SignIn("jane", "/")
		for range 3 {
			s.clock.Add(59 * time.Minute)
			if a := b.Open("/api/auth/me", nil); a.StatusCode != 200 {
				t.Fatalf("it was idle for less than an hour: %d", a.StatusCode)
			}
		}
		s.clock.Add(61 * time.Minute)
		if a := b.Open("/api/auth/me", nil); a.StatusCode != 401 {
			t.Errorf("it was idle for more than an hour: %d", a.StatusCode)
		}
	})
}

func TestSessionsEndWhenOld(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		b := issuertest.NewBrowser(t, s.URL)
		b.SignIn("jane", "/")
		for n := range 13 {
			s.clock.Add(55 * time.Minute)
			if a := b.Open("/api/auth/me", nil); a.StatusCode != 200 {
				t.Fatalf("after %d times 55 minutes: %d", n+1, a.StatusCode)
			}
		}
		s.clock.Add(6 * time.Minute)
		if a := b.Open("/api/auth/me", nil); a.StatusCode != 401 {
			t.Errorf("it is older than twelve hours: %d", a.StatusCode)
		}
	})
}

func TestPagesOfOtherSitesCannotUseASession(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		b := issuertest.NewBrowser(t, s.URL)
		b.SignIn("jane", "/")
		for what, header := range map[string][]string{
			"another site":       {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example.com"},
			"a sibling":          {"Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:1"},
			"an old browser":     {"Sec-Fetch-Site", "", "Origin", "https://evil.example.com"},
			"a page without any": {"Sec-Fetch-Site", "", "Origin", "null"},
		} {
			if a := b.Open("/api/jobs/1/retry", url.Values{}, header...); a.StatusCode != 403 || !strings.Contains(a.Text, "another site") {
				t.Errorf("a POST by %s: %d %s", what, a.StatusCode, a.Text)
			}
			if b.Open("/auth/logout", url.Values{"session": {""}}, header...); b.Open("/api/auth/me", nil).StatusCode != 200 {
				t.Errorf("%s signed the user out", what)
			}
		}
		if a := b.Open("/api/events", nil, "Upgrade", "websocket", "Connection", "Upgrade", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example.com"); a.StatusCode != 403 {
			t.Errorf("a WebSocket of another site: %d", a.StatusCode)
		}
		if a := b.Open("/api/jobs/1/retry", url.Values{}); a.StatusCode != 404 {
			t.Errorf("our own page: %d %s", a.StatusCode, a.Text)
		}
	})
}

func TestSignInLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		for _, to := range []string{
			"https://evil.example.com", "//evil.example.com", "/\\evil.example.com", "\\/evil.example.com", "/\t/evil.example.com", "/%09/evil.example.com/../..//x", "javascript:alert(1)",
			"https:evil.example.com", "/\r\nSet-Cookie: a=b", "evil", "", "/" + strings.Repeat("x", 1990), "/%2f%2fevil.example.com", "/%5cevil.example.com", "http://user@127.0.0.1/",
		} {
			b := issuertest.NewBrowser(t, s.URL)
			got := b.SignIn("jane", to).At()
			u, err := url.Parse(got)
			if err != nil || u.Scheme+"://"+u.Host != s.URL || strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, "\\") {
				t.Errorf("%q leads to %q", to, got)
			}
		}
	})
}

func TestTheIssuerRefuses(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		b := issuertest.NewBrowser(t, s.URL)
		u, _ := url.Parse(b.Open("/auth/login", nil).At())
		state := u.Query().Get("state")
		if q := u.Query(); q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 || len(q.Get("nonce")) < 32 || len(state) < 32 || q.Get("redirect_uri") != s.URL+"/auth/callback" {
			t.Errorf("asked the issuer with %v", q)
		}
		for what, query := range map[string]string{
			"no":                "error=access_denied&error_description=" + url.QueryEscape("<script>alert(1)</script>") + "&state=" + state,
			"a code of its own": "code=made-up&state=" + state,
			"another state":     "code=made-up&state=x",
			"nothing":           "",
			"another issuer":    "code=x&iss=https://evil.example.com&state=" + state,
			"a state too long":  "code=x&state=" + strings.Repeat("x", 99),
		} {
			a := b.Open("/auth/callback?"+query, nil)
			if a.StatusCode != 401 || b.Cookie("slipway-session") != "" || strings.Contains(a.Text, "<script") || !strings.Contains(a.Text, "Begin again") {
				t.Errorf("%s: %d %s", what, a.StatusCode, a.Text)
			}
		}
	})
}

func TestSessionsAreListedAndEnded(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		laptop, phone, joe := issuertest.NewBrowser(t, s.URL), issuertest.NewBrowser(t, s.URL), issuertest.NewBrowser(t, s.URL)
		laptop.SignIn("jane", "/")
		phone.SignIn("jane", "/")
		joe.SignIn("joe", "/")
		var list struct{ Items []auth.Session }
		s.Get("/api/auth/sessions?user=user:default/jane").Is(200).Into(&list)
		if len(list.Items) != 2 {
			t.Fatalf("jane's sessions: %+v", list.Items)
		}
		s.Get("/api/auth/sessions?user=*").Is(200).Into(&list)
		if len(list.Items) != 3 {
			t.Fatalf("all sessions: %+v", list.Items)
		}
		if a := joe.Open("/api/auth/sessions?user=user:default/jane", nil); a.StatusCode != 403 {
			t.Errorf("another's sessions: %d", a.StatusCode)
		}
		if a := joe.Open("/api/auth/sessions", nil); a.StatusCode != 200 || strings.Contains(a.Text, "jane") {
			t.Errorf("one's own sessions: %d %s", a.StatusCode, a.Text)
		}
		var oldest string
		for _, one := range list.Items {
			if one.User == "user:default/jane" {
				oldest = one.ID
			}
		}
		joe.Open("/auth/logout", url.Values{"session": {oldest}})
		if laptop.Open("/api/auth/me", nil).StatusCode != 200 {
			t.Error("joe ended jane's session")
		}
		phone.Open("/auth/logout", url.Values{"session": {oldest}})
		if laptop.Open("/api/auth/me", nil).StatusCode != 401 || phone.Open("/api/auth/me", nil).StatusCode != 200 {
			t.Error("the phone did not end the laptop's session, or its own")
		}
		s.Get("/api/auth/sessions?user=*").Is(200).Into(&list)
		for _, one := range list.Items {
			s.Do("DELETE", "/api/auth/sessions/"+one.ID, nil).Is(204)
		}
		s.Do("DELETE", "/api/auth/sessions/none", nil).Fails(404, slipway.NotFound)
		if phone.Open("/api/auth/me", nil).StatusCode != 401 || joe.Open("/api/auth/me", nil).StatusCode != 401 {
			t.Error("an operator's end of a session did not end it")
		}
	})
}

// poll is a call of the token endpoint.
func poll(t *testing.T, home string, form url.Values) (status int, answer map[string]any) {
	t.Helper()
	a := issuertest.NewBrowser(t, home).Open("/auth/token", form)
	if err := json.Unmarshal([]byte(a.Text), &answer); err != nil {
		t.Fatalf("%d %s", a.StatusCode, a.Text)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		t.Error("tokens may be kept on the way")
	}
	return a.StatusCode, answer
}

// Who signs in sends forms of a few hundred bytes; nobody makes the server read more.
func TestAFormIsSmall(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		for _, path := range []string{"/auth/logout", "/auth/device", "/auth/device_authorization", "/auth/token", "/auth/revoke"} {
			fill := func(size int) *blueprinttest.Answer {
				return s.As("").Post(path, "label="+strings.Repeat("x", size-len("label=")), "Content-Type", "application/x-www-form-urlencoded")
			}
			fill(16<<10 + 1).Is(413)
			if a := fill(16 << 10); a.Status == 413 {
				t.Errorf("%s takes no form of 16 KiB: %s", path, a.Body)
			}
		}
	})
}

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// waits begins a device flow.
func waits(t *testing.T, s installation) (device, code string) {
	t.Helper()
	a := issuertest.NewBrowser(t, s.URL).Open("/auth/device_authorization", url.Values{"client_id": {"slipway-cli"}, "label": {"jane-laptop\n<b>"}})
	var d struct {
		Device string `json:"device_code"`
		Code   string `json:"user_code"`
		URI    string `json:"verification_uri"`
	}
	if err := json.Unmarshal([]byte(a.Text), &d); err != nil || a.StatusCode != 200 || d.URI != s.URL+"/auth/device" || len(d.Code) != 9 {
		t.Fatalf("%d %s", a.StatusCode, a.Text)
	}
	return d.Device, d.Code
}

func TestACommandLineIsLetIn(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		device, code := waits(t, s)
		ask := url.Values{"grant_type": {deviceGrant}, "device_code": {device}}
		if status, a := poll(t, s.URL, ask); status != 400 || a["error"] != "authorization_pending" {
			t.Errorf("before the answer: %d %v", status, a)
		}
		b := issuertest.NewBrowser(t, s.URL)
		// Somebody who is not signed in is sent to sign in, and comes back to the code.
		login := b.Open("/auth/device?user_code="+code, nil).At()
		page := b.Open(b.Open(b.Identify(b.Open(login, nil).At(), "jane"), nil).At(), nil)
		if page.StatusCode != 200 || !strings.Contains(page.Text, code) || !strings.Contains(page.Text, "jane-laptop&lt;b&gt;") || !strings.Contains(page.Text, "user:default/jane") {
			t.Fatalf("the question: %d %s", page.StatusCode, page.Text)
		}
		typed := strings.ToLower(strings.ReplaceAll(code, "-", " "))
		if a := b.Open("/auth/device", url.Values{"user_code": {typed}, "answer": {"allow"}}); a.StatusCode != 200 || !strings.Contains(a.Text, "let in") {
			t.Fatalf("the answer: %d %s", a.StatusCode, a.Text)
		}
		status, got := poll(t, s.URL, ask)
		if status != 200 || got["token_type"] != "Bearer" || got["expires_in"] != 3600.0 {
			t.Fatalf("after the answer: %d %v", status, got)
		}
		if status, a := poll(t, s.URL, ask); status != 400 || a["error"] != "invalid_grant" {
			t.Errorf("the same again: %d %v", status, a)
		}
		access, refresh := got["access_token"].(string), got["refresh_token"].(string)
		var me struct {
			Subject   string
			SessionID string
		}
		s.As(access).Get("/api/auth/me").Is(200).Into(&me)
		if me.Subject != "user:default/jane" || me.SessionID == "" {
			t.Errorf("who am I: %+v", me)
		}
		s.As(access).Get("/api/jobs").Is(200)
		s.As(refresh).Get("/api/auth/me").Fails(401, slipway.Unauthenticated)
		// A command line lets no other in: it would have a session after its own has ended.
		_, other := waits(t, s)
		if a := s.As(access).Do("POST", "/auth/device", url.Values{"user_code": {other}, "answer": {"allow"}}.Encode(), "Content-Type", "application/x-www-form-urlencoded"); a.Status != 401 {
			t.Errorf("a command line let another in: %d %s", a.Status, a.Body)
		}
		if a := issuertest.NewBrowser(t, s.URL).Open("/api/auth/me", nil, "Cookie", "slipway-session="+access); a.StatusCode != 401 {
			t.Errorf("a command line's token as a cookie: %d", a.StatusCode)
		}
		// The token ends after an hour, and is refreshed.
		s.clock.Add(61 * time.Minute)
		s.As(access).Get("/api/auth/me").Fails(401, slipway.Unauthenticated)
		again := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
		status, got = poll(t, s.URL, again)
		if status != 200 {
			t.Fatalf("refreshed: %d %v", status, got)
		}
		s.As(got["access_token"].(string)).Get("/api/jobs").Is(200)
		// An answer that was lost may be asked for again, for a minute.
		status, got = poll(t, s.URL, again)
		if status != 200 {
			t.Fatalf("once more: %d %v", status, got)
		}
		last := s.As(got["access_token"].(string))
		last.Get("/api/jobs").Is(200)
		// Later it was copied: nobody knows who is right, so the session ends.
		s.clock.Add(2 * time.Minute)
		if status, a := poll(t, s.URL, again); status != 400 || a["error"] != "invalid_grant" {
			t.Errorf("a copy: %d %v", status, a)
		}
		last.Get("/api/jobs").Fails(401, slipway.Unauthenticated)
	})
}

func TestACommandLineIsTurnedAway(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		device, code := waits(t, s)
		ask := url.Values{"grant_type": {deviceGrant}, "device_code": {device}}
		stranger := issuertest.NewBrowser(t, s.URL)
		if a := stranger.Open("/auth/device", url.Values{"user_code": {code}, "answer": {"allow"}}); a.StatusCode != 401 {
			t.Errorf("the answer of nobody: %d", a.StatusCode)
		}
		b := issuertest.NewBrowser(t, s.URL)
		b.SignIn("joe", "/")
		if a := b.Open("/auth/device", url.Values{"user_code": {code}, "answer": {"allow"}}, "Sec-Fetch-Site", "cross-site"); a.StatusCode != 401 {
			t.Errorf("the answer of another site's page: %d", a.StatusCode)
		}
		if a := b.Open("/auth/device?user_code=BBBB-BBBB", nil); a.StatusCode != 404 || !strings.Contains(a.Text, "not known") {
			t.Errorf("a code that nobody shows: %d", a.StatusCode)
		}
		b.Open("/auth/device", url.Values{"user_code": {code}, "answer": {"deny"}})
		if status, a := poll(t, s.URL, ask); status != 400 || a["error"] != "access_denied" {
			t.Errorf("turned away: %d %v", status, a)
		}
		device, code = waits(t, s)
		s.clock.Add(11 * time.Minute)
		if a := b.Open("/auth/device", url.Values{"user_code": {code}, "answer": {"allow"}}); a.StatusCode != 404 {
			t.Errorf("let in too late: %d", a.StatusCode)
		}
		if status, a := poll(t, s.URL, url.Values{"grant_type": {deviceGrant}, "device_code": {device}}); status != 400 || a["error"] != "expired_token" {
			t.Errorf("too late: %d %v", status, a)
		}
		for what, form := range map[string]url.Values{
			"no grant": {"grant_type": {"password"}}, "garbage": {"grant_type": {deviceGrant}, "device_code": {"sld_x"}}, "a made-up refresh token": {"grant_type": {"refresh_token"}, "refresh_token": {"slr_x"}},
		} {
			if status, a := poll(t, s.URL, form); status != 400 || a["error"] == "" {
				t.Errorf("%s: %d %v", what, status, a)
			}
		}
	})
}

func TestALogoutEndsTheSessionOfACommandLine(t *testing.T) {
	t.Parallel()
	withSignIn(t, func(t *testing.T, s installation) {
		device, code := waits(t, s)
		b := issuertest.NewBrowser(t, s.URL)
		b.SignIn("jane", "/")
		b.Open("/auth/device", url.Values{"user_code": {code}, "answer": {"allow"}})
		_, got := poll(t, s.URL, url.Values{"grant_type": {deviceGrant}, "device_code": {device}})
		cli := s.As(got["access_token"].(string))
		cli.Get("/api/auth/me").Is(200)
		if a := b.Open("/auth/revoke", url.Values{"token": {"slr_unknown"}}); a.StatusCode != 200 {
			t.Errorf("an unknown token: %d", a.StatusCode)
		}
		if a := b.Open("/auth/revoke", url.Values{"token": {got["refresh_token"].(string)}}); a.StatusCode != 200 {
			t.Errorf("the token: %d", a.StatusCode)
		}
		cli.Get("/api/auth/me").Fails(401, slipway.Unauthenticated)
		if b.Open("/api/auth/me", nil).StatusCode != 200 {
			t.Error("the browser's session ended with it")
		}
	})
}
