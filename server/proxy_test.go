package server_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// behind starts a target and a server with a proxy called far before it.
func behind(t *testing.T, target http.HandlerFunc, change func(*blueprint.Proxy)) (*blueprinttest.Server, *httptest.Server) {
	t.Helper()
	far := httptest.NewServer(target)
	t.Cleanup(func() { far.CloseClientConnections(); far.Close() })
	p := blueprint.Proxy{Target: far.URL + "/base", Methods: []string{"GET", "HEAD", "POST", "DELETE"}, Upgrades: true}
	if change != nil {
		change(&p)
	}
	o := options()
	o.Blueprints = append(o.Blueprints, data.Blueprint)
	o.Configure = func(c *server.Config) { c.Proxies = map[string]blueprint.Proxy{"far": p} }
	return blueprinttest.Start(t, store.SQLite, o), far
}

func TestAProxyPassesOnWhatItShouldAndNothingElse(t *testing.T) {
	t.Parallel()
	var last atomic.Pointer[http.Request]
	s, far := behind(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		last.Store(r)
		h := w.Header()
		h.Set("X-Own", "passes")
		h.Set("Set-Cookie", "session=stolen")
		h.Set("WWW-Authenticate", "Basic")
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "must not pass")
		h.Set("Strict-Transport-Security", "max-age=1")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Content-Security-Policy", "script-src *")
		h.Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(append([]byte("got "), body...))
	}, func(p *blueprint.Proxy) { p.Headers.Set = map[string]string{"X-Team": "platform"} })

	a := s.Do("POST", "/api/proxy/far/items/a%2Fb;v=1?x=1&x=2", "hello",
		"Cookie", "slipway_session=secret", "Slipway-Provider-Token", "octo=secret", "Slipway-Anything", "secret", "ssl-client-subject-dn", "CN=me,O=toolforge",
		"Connection", "keep-alive, X-Mine", "X-Mine", "must not pass", "X-Forwarded-For", "6.6.6.6", "X-Forwarded-User", "root", "X-Passes", "yes", "Proxy-Authorization", "Basic x").Is(http.StatusTeapot)
	r := last.Load()
	if got := r.URL.EscapedPath() + "?" + r.URL.RawQuery; got != "/base/items/a%2Fb;v=1?x=1&x=2" {
		t.Errorf("the target was asked for %s", got)
	}
	if r.Host != strings.TrimPrefix(far.URL, "http://") || r.Header.Get("X-Passes") != "yes" || r.Header.Get("X-Team") != "platform" || r.Header.Get("X-Forwarded-For") != "127.0.0.1" ||
		r.Header.Get("X-Request-Id") != a.Header.Get("X-Request-Id") || r.Header.Get("X-Forwarded-Prefix") != "/api/proxy/far" {
		t.Errorf("host %s, headers %v", r.Host, r.Header)
	}
	for _, name := range []string{"Authorization", "Cookie", "Slipway-Provider-Token", "Slipway-Anything", "X-Mine", "X-Forwarded-User", "Proxy-Authorization", "Ssl-Client-Subject-Dn"} {
		if r.Header.Get(name) != "" {
			t.Errorf("the target was told %s: %s", name, r.Header.Get(name))
		}
	}
	if string(a.Body) != "got hello" || a.Header.Get("X-Own") != "passes" || a.Header.Get("Content-Security-Policy") != "sandbox" || a.Header.Get("X-RateLimit-Limit") != "" {
		t.Errorf("answer %s, headers %v", a.Body, a.Header)
	}
	for _, name := range []string{"Set-Cookie", "Www-Authenticate", "X-Hop", "Strict-Transport-Security", "Access-Control-Allow-Origin", "ETag"} {
		if a.Header.Get(name) != "" {
			t.Errorf("the caller was told %s: %s", name, a.Header.Get(name))
		}
	}
	if got := a.Header.Values("X-Content-Type-Options"); len(got) != 1 {
		t.Errorf("nosniff: %v", got)
	}
	last.Store(nil)
	for _, path := range []string{
		"/../admin", "/a/../../admin", "/%2e%2e/admin", "/a%2f..%2f..%2fadmin", "/%252e%252e/admin", "/..%5cadmin", "/a%5c..%5c..%5cadmin", "/.%2e;x/admin", "/a%00b", "/%25252e%25252e/x",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://")) // a client library would clean the path
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "GET /api/proxy/far%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", path, s.Token)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != 400 && res.StatusCode != 404 || last.Load() != nil {
			t.Errorf("%s: %v, %v, the target saw %v", path, res, err, last.Load())
		}
		_ = conn.Close()
	}
	if s.Get("/api/proxy/far").Is(http.StatusTeapot); last.Load().URL.Path != "/base" {
		t.Errorf("without a path: %s", last.Load().URL)
	}
	if allow := s.Do("PUT", "/api/proxy/far/x", "y"); allow.Status != 405 || allow.Header.Get("Allow") != "GET, HEAD, POST, DELETE" {
		t.Errorf("PUT: %d, %v", allow.Status, allow.Header)
	}
	s.Get("/api/proxy/near/x").Fails(404, slipway.NotFound)
}

func TestAProxyAsksForItsPermission(t *testing.T) {
	t.Parallel()
	s, _ := behind(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") }, func(p *blueprint.Proxy) { p.Text = "The far side" })
	s.As("").Get("/api/proxy/far/x").Fails(401, slipway.Unauthenticated)
	s.As("slp_wrong").Get("/api/proxy/far/x").Fails(401, slipway.Unauthenticated)
	if f := s.With("toy.thing.read").Get("/api/proxy/far/x").Fails(403, slipway.Forbidden); !strings.Contains(f.Error, "proxy.far.use") {
		t.Errorf("got %q", f.Error)
	}
	s.With("proxy.far.use").Get("/api/proxy/far/x").Is(200)
	s.With("proxy.*").Get("/api/proxy/far/x").Is(200)
	one := s.As(s.NewToken(auth.NewToken{Name: "one", Permissions: []string{"proxy.far.use"}, RateLimit: rate(1)}))
	if a := one.Get("/api/proxy/far/x").Is(200); a.Header.Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("not counted: %v", a.Header)
	}
	one.Get("/api/proxy/far/x").Fails(429, slipway.RateLimited)

	var mine, none struct {
		Items []struct{ Name, Text, Path string }
	}
	s.With("proxy.far.use").Get("/api/proxies").Is(200).Into(&mine)
	s.With("toy.thing.read").Get("/api/proxies").Is(200).Into(&none)
	if len(mine.Items) != 1 || mine.Items[0].Path != "/api/proxy/far/" || mine.Items[0].Text != "The far side" || len(none.Items) != 0 {
		t.Errorf("listed %v and %v", mine, none)
	}
	var doc struct {
		Paths map[string]map[string]map[string]any
	}
	s.Get("/openapi.json").Is(200).Into(&doc)
	if op := doc.Paths["/api/proxy/far/{path}"]["post"]; op["x-permission"] != "proxy.far.use" || !strings.Contains(op["description"].(string), "The far side") {
		t.Errorf("described as %v", doc.Paths["/api/proxy/far/{path}"])
	}
}

func TestAProxyShowsACredential(t *testing.T) {
	t.Parallel()
	var told atomic.Pointer[http.Header]
	refuse := atomic.Bool{}
	s, _ := behind(t, func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Clone()
		told.Store(&h)
		if refuse.Load() {
			w.WriteHeader(401)
		}
	}, func(p *blueprint.Proxy) { p.Credential = "far-key" })
	s.Get("/api/proxy/far/x").Fails(503, slipway.Unavailable)
	s.Post("/data/credentials", map[string]string{"id": "far-key", "type": "secretText", "secret": "hunter-one"}).Is(201)
	s.Get("/api/proxy/far/x", "Authorization2", "x").Is(200)
	if got := told.Load().Get("Authorization"); got != "Bearer hunter-one" {
		t.Errorf("the target was shown %q", got)
	}
	s.Do("PATCH", "/data/credentials/far-key", map[string]string{"secret": "hunter-two"}).Is(200)
	if s.Get("/api/proxy/far/x").Is(200); told.Load().Get("Authorization") != "Bearer hunter-two" {
		t.Errorf("after the change the target was shown %q", told.Load().Get("Authorization"))
	}
	refuse.Store(true)
	s.Get("/api/proxy/far/x").Fails(503, slipway.Unavailable)
	refuse.Store(false)
	s.Do("DELETE", "/data/credentials/far-key", nil)
	s.Post("/data/credentials", map[string]string{"id": "far-key", "type": "usernamePassword", "username": "jane", "password": "hunter-three"}).Is(201)
	if s.Get("/api/proxy/far/x").Is(200); told.Load().Get("Authorization") != "Basic amFuZTpodW50ZXItdGhyZWU=" {
		t.Errorf("as an account the target was shown %q", told.Load().Get("Authorization"))
	}
	if log := s.Log.String(); strings.Contains(log, "hunter") {
		t.Errorf("the log holds a secret:\n%s", log)
	}
}

func TestAProxyShowsAKeyInAHeaderOfTheTarget(t *testing.T) {
	t.Parallel()
	var told atomic.Pointer[http.Header]
	s, _ := behind(t, func(_ http.ResponseWriter, r *http.Request) {
		h := r.Header.Clone()
		told.Store(&h)
	}, func(p *blueprint.Proxy) { p.Credential, p.Header = "far-key", "x-api-key" })
	s.Post("/data/credentials", map[string]string{"id": "far-key", "type": "secretText", "secret": "hunter-one"}).Is(201)
	s.Get("/api/proxy/far/x", "X-Api-Key", "the caller's own").Is(200)
	if h := *told.Load(); strings.Join(h["X-Api-Key"], " ") != "hunter-one" || h.Get("Authorization") != "" {
		t.Errorf("the target was shown %v", h)
	}
	// A pair is no key.
	s.Do("DELETE", "/data/credentials/far-key", nil)
	s.Post("/data/credentials", map[string]string{"id": "far-key", "type": "usernamePassword", "username": "jane", "password": "hunter-two"}).Is(201)
	s.Get("/api/proxy/far/x").Fails(503, slipway.Unavailable)
	if log := s.Log.String(); strings.Contains(log, "hunter") {
		t.Errorf("the log holds a secret:\n%s", log)
	}
}

// A target that never ends costs as long as its caller reads, and no longer.
func TestAProxiedAnswerWithoutEndEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	s, _ := behind(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		block := bytes.Repeat([]byte("x"), 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}, nil)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/proxy/far/x", nil)
	req.Header.Set("Authorization", "Bearer "+s.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.CopyN(io.Discard, res.Body, 32<<20); err != nil {
		t.Errorf("after %d bytes: %v", n, err)
	}
	res.Body.Close()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the target is still asked after the caller went away")
	}
}

// What a request says of where it comes from counts only from proxies that the configuration names.
func TestAddressesAreBelievedFromTrustedProxiesOnly(t *testing.T) {
	t.Parallel()
	for trusted, want := range map[string]map[string]string{
		"": {"": "127.0.0.1", "6.6.6.6": "127.0.0.1", "6.6.6.6, 127.0.0.1": "127.0.0.1"},
		"127.0.0.1": {
			"": "127.0.0.1", "192.0.2.7": "192.0.2.7", "6.6.6.6, 192.0.2.7": "192.0.2.7", // the caller wrote the first
			"6.6.6.6, 127.0.0.1": "6.6.6.6", "6.6.6.6,,127.0.0.1": "6.6.6.6",
			"192.0.2.7:4711": "192.0.2.7", "[2001:db8::7]:443": "2001:db8::7", "[2001:db8::7]": "2001:db8::7", "::ffff:192.0.2.7": "192.0.2.7", "fe80::1%eth0": "fe80::1",
			"6.6.6.6, unknown": "127.0.0.1", "6.6.6.6, <script>, 127.0.0.1": "127.0.0.1", // no address: nobody knows where it came from
		},
		"10.0.0.0/8": {"6.6.6.6": "127.0.0.1"},
	} {
		var seen atomic.Pointer[string]
		far := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			text := strings.Join(r.Header["X-Forwarded-For"], "|") + r.Header.Get("Forwarded")
			seen.Store(&text)
		}))
		t.Cleanup(far.Close)
		o := options()
		o.Configure = func(c *server.Config) {
			c.Proxies = map[string]blueprint.Proxy{"far": {Target: far.URL}}
			c.Auth.RateLimits.Address = 3
			if trusted != "" {
				c.Server.TrustedProxies = []string{trusted}
			}
		}
		s := blueprinttest.Start(t, store.SQLite, o)
		for said, address := range want {
			header := []string{"Forwarded", "for=6.6.6.6", "X-Real-Ip", "6.6.6.6", "True-Client-Ip", "6.6.6.6"}
			if said != "" {
				header = append(header, "X-Forwarded-For", said)
			}
			s.Get("/api/proxy/far/x", header...).Is(200)
			if got := *seen.Load(); got != address {
				t.Errorf("trusting %q, a request that says %q comes from %q, want %q", trusted, said, got, address)
			}
		}
		// Failed sign-ins are counted by that address: another one on each try helps only behind a trusted proxy.
		refused := 0
		for i := range 8 {
			address := fmt.Sprintf("198.51.100.%d", i)
			if s.As("slp_garbage").Get("/api/toy/raw", "X-Forwarded-For", address, "Forwarded", "for="+address, "X-Real-Ip", address).Status == http.StatusTooManyRequests {
				refused++
			}
		}
		if believed := trusted == "127.0.0.1"; believed != (refused == 0) {
			t.Errorf("trusting %q, %d of 8 tries from made-up addresses were refused", trusted, refused)
		}
	}
}

func TestAProxyStreams(t *testing.T) {
	t.Parallel()
	more, ended := make(chan string), make(chan struct{}, 1)
	s, _ := behind(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			select {
			case line := <-more:
				_, _ = io.WriteString(w, "data: "+line+"\n\n")
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				ended <- struct{}{}
				return
			}
		}
	}, nil)
	token := s.NewToken(auth.NewToken{Name: "listener", Permissions: []string{"proxy.far.use"}})
	req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/proxy/far/events", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	go func() { more <- "one" }()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for _, want := range []string{"one", "two", "three"} {
		if want != "one" {
			more <- want
		}
		for lines.Scan() && lines.Text() == "" {
		}
		if lines.Text() != "data: "+want {
			t.Fatalf("got %q, want %s", lines.Text(), want)
		}
	}
	revoke(t, s, "listener") // who loses the right loses the stream
	if _, err = io.Copy(io.Discard, res.Body); err == nil {
		t.Error("the stream ended as if it were whole")
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the target was not told")
	}
}

// revoke revokes a token behind the server's back, as another replica does.
func revoke(t *testing.T, s *blueprinttest.Server, name string) {
	t.Helper()
	db, err := store.Open("main", s.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Write(t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(t.Context(), `UPDATE auth_token SET revoked_at = 1 WHERE name = $1`, name); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), `UPDATE revision SET n = n + 1`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAProxyLetsWebSocketsThrough(t *testing.T) {
	t.Parallel()
	s, _ := behind(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Sec-Websocket-Key") == "" {
			w.WriteHeader(400)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ok\r\nSet-Cookie: no=1\r\n\r\n")
		_, _ = io.Copy(conn, rw)
	}, nil)
	open := func(token, origin string) (net.Conn, *bufio.Reader, *http.Response) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_, _ = fmt.Fprintf(conn, "GET /api/proxy/far/socket HTTP/1.1\r\nHost: slipway.example\r\nAuthorization: Bearer %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n%s\r\n", token, origin)
		r := bufio.NewReader(conn)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, r, res
	}
	conn, r, res := open(s.Token, "Origin: http://slipway.example\r\n")
	if res.StatusCode != 101 || res.Header.Get("Sec-Websocket-Accept") != "ok" || res.Header.Get("Set-Cookie") != "" {
		t.Fatalf("got %v", res)
	}
	for _, text := range []string{"ping", "a longer message than that"} {
		_, _ = io.WriteString(conn, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
			t.Fatalf("echo %q, %v", got, err)
		}
	}
	if _, _, res := open(s.Token, "Origin: https://evil.example\r\n"); res.StatusCode != 403 {
		t.Errorf("a page of elsewhere got %d", res.StatusCode)
	}
	if _, _, res := open("slp_wrong", ""); res.StatusCode != 401 {
		t.Errorf("a stranger got %d", res.StatusCode)
	}
	// A stopping server ends them.
	s.Stop()
	if _, err := io.ReadAll(r); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the socket ended with %v", err)
	}
}

func TestAProxyBearsABadTarget(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	var flaky atomic.Int64
	raw := func(w http.ResponseWriter, text string) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}
	}
	s, far := behind(t, func(w http.ResponseWriter, r *http.Request) {
		switch strings.TrimPrefix(r.URL.Path, "/base/") {
		case "garbage":
			raw(w, "\x00\x01\x02 this is no HTTP\r\n\r\n")
		case "closes":
			raw(w, "")
		case "short":
			raw(w, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
		case "headers":
			raw(w, "HTTP/1.1 200 OK\r\nX-Big: "+strings.Repeat("x", 1<<20)+"\r\n\r\n")
		case "hangs":
			select {
			case <-r.Context().Done():
			case <-hang:
			}
		case "silent":
			_, _ = io.WriteString(w, "begun")
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-hang:
			}
		case "flaky":
			if flaky.Add(1) == 1 {
				raw(w, "")
				return
			}
			_, _ = io.WriteString(w, "at last")
		case "away":
			w.Header().Set("Location", r.URL.Query().Get("to"))
			w.WriteHeader(302)
		case "large":
			_, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				return
			}
		case "failing":
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "their own 500")
		}
	}, func(p *blueprint.Proxy) {
		p.Timeout, p.Idle, p.MaxBody = slipway.Duration(2*time.Second), slipway.Duration(time.Second), 1000
	})
	for _, path := range []string{"garbage", "closes", "headers", "hangs"} {
		a := s.Do("POST", "/api/proxy/far/"+path, nil)
		if a.Fails(503, slipway.Unavailable); a.Header.Get("Retry-After") == "" || strings.Contains(string(a.Body), strings.TrimPrefix(far.URL, "http://")) {
			t.Errorf("%s: %s", path, a.Body)
		}
	}
	for _, path := range []string{"short", "silent"} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/proxy/far/"+path, nil)
		req.Header.Set("Authorization", "Bearer "+s.Token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // broken before anything was passed on
		}
		if got, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%s: half an answer looks whole: %q", path, got)
		}
		res.Body.Close()
	}
	if a := s.Get("/api/proxy/far/flaky").Is(200); string(a.Body) != "at last" || flaky.Load() != 2 {
		t.Errorf("flaky: %s after %d", a.Body, flaky.Load())
	}
	flaky.Store(0)
	if s.Post("/api/proxy/far/flaky", map[string]int{"n": 1}).Fails(503, slipway.Unavailable); flaky.Load() != 1 {
		t.Errorf("a POST was sent %d times", flaky.Load())
	}
	if a := s.Get("/api/proxy/far/failing").Is(500); string(a.Body) != "their own 500" {
		t.Errorf("the target's own failure came as %s", a.Body)
	}
	s.Post("/api/proxy/far/large", strings.Repeat("x", 2000)).Fails(413, slipway.TooLarge)
	chunked, _ := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/api/proxy/far/large", io.MultiReader(strings.NewReader(strings.Repeat("x", 2000))))
	chunked.Header.Set("Authorization", "Bearer "+s.Token)
	if res, err := http.DefaultClient.Do(chunked); err != nil || res.StatusCode != 413 {
		t.Errorf("a large body of unknown length: %v, %v", res, err)
	}
	stay := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for to, want := range map[string]string{
		"/base/items/1?x=y":          "/api/proxy/far/items/1?x=y",
		far.URL + "/base":            "/api/proxy/far",
		"items":                      "/api/proxy/far/items",
		"/elsewhere":                 "",
		"/based":                     "",
		"https://example.com/x":      "https://example.com/x",
		"//example.com/x":            "http://example.com/x",
		"javascript:alert(1)":        "",
		"/base/%2e%2e/admin":         "",
		"http://user:pw@example.org": "http://user:pw@example.org",
	} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/proxy/far/away", nil)
		q := req.URL.Query()
		q.Set("to", to)
		req.URL.RawQuery = q.Encode()
		req.Header.Set("Authorization", "Bearer "+s.Token)
		res, err := stay.Do(req)
		if err != nil || res.StatusCode != 302 || res.Header.Get("Location") != want {
			t.Errorf("a redirect to %s: %v, %v; want %q", to, res, err, want)
		}
		if res != nil {
			res.Body.Close()
		}
	}
	far.CloseClientConnections()
	far.Close()
	s.Get("/api/proxy/far/x").Fails(503, slipway.Unavailable)
	if m := string(s.Get("/metrics").Is(200).Body); !strings.Contains(m, `slipway_proxy_target_failures_total{proxy="far",reason="timeout"} 1`) || !strings.Contains(m, `slipway_proxy_retries_total{proxy="far"}`) ||
		!strings.Contains(m, `operation="proxy.far"`) {
		t.Error("metrics do not tell of it")
	}
}

func TestAHeaderListIsKeptBothWays(t *testing.T) {
	t.Parallel()
	var told atomic.Pointer[http.Header]
	s, _ := behind(t, func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Clone()
		told.Store(&h)
		w.Header().Set("X-Yes", "1")
		w.Header().Set("X-No", "1")
		w.Header().Set("Content-Type", "text/plain")
	}, func(p *blueprint.Proxy) {
		p.Headers = blueprint.ProxyHeaders{Request: []string{"accept"}, Response: []string{"x-yes"}}
	})
	a := s.Get("/api/proxy/far/x", "Accept", "a/b", "X-Other", "1").Is(200)
	if h := *told.Load(); h.Get("Accept") != "a/b" || h.Get("X-Other") != "" {
		t.Errorf("the target was told %v", h)
	}
	if a.Header.Get("X-Yes") != "1" || a.Header.Get("X-No") != "" || a.Header.Get("Content-Type") != "text/plain" || a.Header.Get("X-Request-Id") == "" {
		t.Errorf("the caller was told %v", a.Header)
	}
}

func TestABlueprintDeclaresAProxyThatAnOperatorCompletes(t *testing.T) {
	t.Parallel()
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") }))
	t.Cleanup(far.Close)
	bp := toyBlueprint(&toy{calls: make(chan string, 100)})
	bp.Proxies = []blueprint.Proxy{{Name: "far", Text: "The far side", Methods: []string{"GET", "POST"}, Permission: "toy.thing.read"}, {Name: "open", Text: "Without a target"}}
	o := blueprinttest.Options{Blueprints: []blueprint.Blueprint{bp}}
	o.Configure = func(c *server.Config) { c.Proxies = map[string]blueprint.Proxy{"far": {Target: far.URL}} }
	s := blueprinttest.Start(t, store.SQLite, o)
	s.With("toy.thing.read").Post("/api/proxy/far/x", "y").Is(200)
	s.Get("/api/proxy/open/x").Fails(501, slipway.Unsupported)

	// What a blueprint names itself reaches no private address.
	bp.Proxies[0].Target = far.URL
	c := server.DefaultConfig()
	c.DataDir = t.TempDir()
	_, err := server.New(t.Context(), server.Options{Config: c, Blueprints: []blueprint.Blueprint{bp}})
	if err == nil || !strings.Contains(err.Error(), "proxies.far.target") {
		t.Errorf("a private target that nobody named: %v", err)
	}
	c = server.DefaultConfig()
	c.Proxies = map[string]blueprint.Proxy{
		"Bad":  {Target: "http://x"},
		"none": {Target: "ftp://x", Methods: []string{"BREW"}, Permission: "toy.no.such", Headers: blueprint.ProxyHeaders{Request: []string{"cookie"}, Response: []string{"Set-Cookie"}}},
		"pass": {Target: "http://user:secret@x"},
	}
	err = c.ResolveFor([]blueprint.Blueprint{server.Base})
	for _, want := range []string{"proxies.Bad.target", "proxies.none.target", "proxies.none.methods", "proxies.none.permission", "proxies.none.headers.request", "proxies.none.headers.response", "proxies.pass.target"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no fault at %s: %v", want, err)
		}
	}
	if strings.Contains(fmt.Sprint(err), "secret") {
		t.Error("a fault shows a password")
	}
}

func TestWhatATargetSaysBeforeItsAnswerIsKeptFromTheCaller(t *testing.T) {
	t.Parallel()
	s, _ := behind(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "__Host-slipway-session=fixed")
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		clear(w.Header())
		w.Header().Set("Vary", "X-Own")
		_, _ = io.WriteString(w, "late")
	}, nil)
	early := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { early++; return nil }})
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api/proxy/far/x", nil)
	req.Header.Set("Authorization", "Bearer "+s.Token)
	req.Header.Set("X-Request-Id", "mine")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	h := res.Header
	if early != 0 || string(body) != "late" || h.Get("Set-Cookie") != "" {
		t.Errorf("%d answers before the answer, %q, %v", early, body, h)
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Request-Id": "mine", "Referrer-Policy": "no-referrer", "Vary": "Accept X-Own", "Content-Security-Policy": "sandbox"} {
		if got := strings.Join(h.Values(name), " "); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestWhatIsSharedStaysWithTheCaller(t *testing.T) {
	t.Parallel()
	s, _ := behind(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Cache-Control"] = r.URL.Query()["say"]
		w.Header().Set("CDN-Cache-Control", "public")
		w.Header().Set("Surrogate-Control", "max-age=3600")
	}, nil)
	for said, want := range map[string]string{
		"":                                    "no-store",
		"say=public":                          "no-store",
		"say=no-store,max-age=1":              "no-store",
		"say=public,max-age=600,s-maxage=900": "private, max-age=600",
		"say=Public&say=max-age%3D5,+must-revalidate":      "private, max-age=5, must-revalidate",
		"say=private,no-cache,proxy-revalidate,S-MAXAGE=1": "private, no-cache",
	} {
		h := s.Get("/api/proxy/far/x?" + said).Is(200).Header
		if got := strings.Join(h.Values("Cache-Control"), "; "); got != want || h.Get("CDN-Cache-Control")+h.Get("Surrogate-Control") != "" {
			t.Errorf("%s: got %q, want %q; %v", said, got, want, h)
		}
	}
}

func TestTheNameOfAProxyMayBeWrittenInOtherWays(t *testing.T) {
	t.Parallel()
	s, _ := behind(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.EscapedPath()) }, nil)
	for path, want := range map[string]string{"/api/proxy/far/a/b": "/base/a/b", "/api/proxy/%66ar/a%2Fb": "/base/a%2Fb", "/api/proxy/%66ar": "/base"} {
		if got := string(s.Get(path).Is(200).Body); got != want {
			t.Errorf("%s: the target was asked for %s, want %s", path, got, want)
		}
	}
}

func TestWhatIsChangedThroughAProxyIsInTheRecord(t *testing.T) {
	t.Parallel()
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/refused":
			w.WriteHeader(http.StatusConflict)
		case "/socket":
			if conn, rw, err := http.NewResponseController(w).Hijack(); err == nil {
				defer conn.Close()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
				_, _ = io.Copy(conn, rw)
			}
		}
	}))
	t.Cleanup(far.Close)
	o := options()
	o.Blueprints = append(o.Blueprints, platform.Blueprint)
	o.Configure = func(c *server.Config) {
		c.Proxies = map[string]blueprint.Proxy{"far": {Target: far.URL, Methods: []string{"GET", "POST"}, Upgrades: true}}
		c.Server.TrustedProxies = []string{"127.0.0.1"}
	}
	s := blueprinttest.Start(t, store.SQLite, o)
	caller := s.With("proxy.far.use")
	caller.Get("/api/proxy/far/x").Is(200)
	caller.Post("/api/proxy/far/refused", nil).Is(409)
	caller.Post("/api/proxy/far/x", nil, "X-Request-Id", "mine", "X-Forwarded-For", "192.0.2.7").Is(200)
	var got []auth.AuditRecord
	blueprinttest.Eventually(t, "the change is in the record", func() bool {
		var list blueprint.List[auth.AuditRecord]
		s.Get("/api/auth/audit?permission=proxy.far.use").Is(200).Into(&list)
		got = list.Items
		return len(got) > 0
	})
	if len(got) != 1 || got[0].Action != "proxy.far POST" || got[0].Held != "proxy.far.use" || got[0].RequestID != "mine" || got[0].TokenID == "" || got[0].Address != "192.0.2.7" {
		t.Errorf("the record: %+v", got)
	}

	// A WebSocket is in it as soon as it begins.
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "GET /api/proxy/far/socket HTTP/1.1\r\nHost: slipway.example\r\nAuthorization: Bearer %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", caller.Token)
	blueprinttest.Eventually(t, "the WebSocket is in the record", func() bool {
		var list blueprint.List[auth.AuditRecord]
		s.Get("/api/auth/audit?permission=proxy.far.use").Is(200).Into(&list)
		return slices.ContainsFunc(list.Items, func(r auth.AuditRecord) bool { return r.Action == "proxy.far GET" })
	})
}
