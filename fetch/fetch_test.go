package fetch

import (
	"compress/gzip"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
)

// newFetcher makes a Fetcher with the defaults and the given patterns, whose names resolve as dns says.
func newFetcher(t testing.TB, dns map[string]string, allow ...string) *Fetcher {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Allow = allow
	return withConfig(t, dns, cfg)
}

func withConfig(t testing.TB, dns map[string]string, cfg Config) *Fetcher {
	t.Helper()
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	f.lookup = func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if addr, ok := dns[strings.TrimSuffix(host, ".")]; ok {
			return []netip.Addr{netip.MustParseAddr(addr)}, nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return f
}

func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// listen serves on another loopback address, so that only a client that was told the address finds it.
func listen(t testing.TB, ip string, h http.Handler) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Skipf("this machine has no address %s: %v", ip, err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func port(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		panic(err)
	}
	return u.Port()
}

func wantCode(t *testing.T, what string, err error, code slipway.Code) {
	t.Helper()
	if slipway.CodeOf(err) != code {
		t.Errorf("%s: got %v, want code %s", what, err, code)
	}
}

func TestGetReadsADocument(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != "application/yaml" || r.Header.Get("User-Agent") != "Slipway" {
			t.Errorf("headers: %v", r.Header)
		}
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Content-Type", "application/yaml")
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, "kind: Component")
	})
	f := newFetcher(t, nil, s.URL)
	res, err := f.Get(t.Context(), s.URL+"/a.yaml?ref=main", Options{Accept: "application/yaml"})
	if err != nil {
		t.Fatal(err)
	}
	if string(res.Body) != "kind: Component" || res.ContentType != "application/yaml" || res.ETag != `"1"` || res.FinalURL != s.URL+"/a.yaml?ref=main" {
		t.Errorf("got %+v", res)
	}
	res, err = f.Get(t.Context(), s.URL+"/a.yaml", Options{Accept: "application/yaml", ETag: res.ETag})
	if err != nil || !res.NotModified || len(res.Body) != 0 {
		t.Errorf("second time: got %+v, %v; want it not modified", res, err)
	}
}

func TestGetGivesCodesToStatuses(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:])
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
	})
	f := newFetcher(t, nil, s.URL)
	for status, code := range map[int]slipway.Code{
		204: slipway.Invalid, 400: slipway.Invalid, 401: slipway.Invalid, 403: slipway.Invalid, 304: slipway.Invalid,
		404: slipway.NotFound, 410: slipway.NotFound,
		408: slipway.Unavailable, 429: slipway.Unavailable, 500: slipway.Unavailable, 503: slipway.Unavailable,
	} {
		_, err := f.Get(t.Context(), s.URL+"/"+strconv.Itoa(status)+"?token=canary", Options{})
		wantCode(t, strconv.Itoa(status), err, code)
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("the error shows the query: %v", err)
		}
		var coded *slipway.Error
		if errors.As(err, &coded); code == slipway.Unavailable && coded.RetryAfter != 7*time.Second {
			t.Errorf("%d: try again after %s, want 7s", status, coded.RetryAfter)
		}
	}
	s.Close()
	_, err := f.Get(t.Context(), s.URL, Options{})
	wantCode(t, "closed port", err, slipway.Unavailable)
	f = newFetcher(t, nil, "https://*")
	_, err = f.Get(t.Context(), "https://nowhere.example.com/", Options{})
	wantCode(t, "unknown host", err, slipway.Unavailable)
}

func TestPrivateAddressesAreReachedOnlyByName(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	s := serve(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	at := ":" + port(s.URL)
	dns := map[string]string{"evil.example.com": "127.0.0.1", "mapped.example.com": "::ffff:127.0.0.1", "a.localhost": "127.0.0.1"}
	for _, raw := range []string{
		s.URL,
		"http://localhost" + at,
		"http://a.localhost" + at,
		"http://LOCALHOST." + at,
		"http://evil.example.com" + at,
		"http://mapped.example.com" + at,
		"http://[::ffff:127.0.0.1]" + at,
		"http://[::1]" + at,
		"http://0.0.0.0" + at,
		"http://[::]" + at,
		"http://127.1" + at,
		"http://2130706433" + at,
		"http://0x7f000001" + at,
		"http://0177.0.0.1" + at,
		"http://127.0.0.1.example.com" + at,
		"http://169.254.169.254/latest/meta-data",
		"http://10.0.0.1/", "http://192.168.1.1/", "http://172.16.0.1/", "http://100.64.0.1/", "http://224.0.0.1/",
		"http://[fd00::1]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[ff02::1]/",
		"http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://[::127.0.0.1]/", "http://[2001:0:7f00:1::]/",
	} {
		f := newFetcher(t, dns, "http://*:*/*", "http://*.example.com:*/*")
		_, err := f.Get(t.Context(), raw, Options{})
		if code := slipway.CodeOf(err); code != slipway.Invalid && (code != slipway.Unavailable || !strings.Contains(raw, "127.0.0.1.example.com")) {
			t.Errorf("%s: got %v, want it refused", raw, err)
		}
		if err != nil && strings.Contains(raw, "evil") {
			var coded *slipway.Error
			if errors.As(err, &coded) && strings.Contains(coded.Message, "127.0.0.1") {
				t.Errorf("the message shows what the name means inside: %s", coded.Message)
			}
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}

	for pattern, raw := range map[string]string{
		s.URL + "/*":                s.URL + "/a",
		"http://localhost" + at:     "http://localhost" + at,
		"http://a.localhost" + at:   "http://a.localhost" + at,
		"http://127.0.0.1:*/health": s.URL + "/health",
	} {
		f := newFetcher(t, map[string]string{"localhost": "127.0.0.1", "a.localhost": "127.0.0.1"}, pattern)
		if _, err := f.Get(t.Context(), raw, Options{}); err != nil {
			t.Errorf("%s with %s: %v", raw, pattern, err)
		}
	}

	// A host of one's own network may be named, but its name must not lead to this machine.
	f := newFetcher(t, dns, "http://evil.example.com:*/*")
	_, err := f.Get(t.Context(), "http://evil.example.com"+at, Options{})
	wantCode(t, "a named host that leads to loopback", err, slipway.Invalid)
	if !private.includes(netip.MustParseAddr("10.1.2.3")) || !private.includes(netip.MustParseAddr("fd00::1")) || private.includes(netip.MustParseAddr("169.254.169.254")) {
		t.Error("a named host reaches the wrong networks")
	}
}

func TestNamedConnectionIsNotReusedForOthers(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	s := serve(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	f := newFetcher(t, map[string]string{"localhost": "127.0.0.1"}, "http://*:*", "http://localhost:*/open/*")
	base := "http://localhost:" + port(s.URL)
	if _, err := f.Get(t.Context(), base+"/open/a", Options{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/closed", "/open/../closed", "/open/%2e%2e/closed", "/open/..%2fclosed", "/open%2f..%2fclosed", "/open/..\\closed"} {
		_, err := f.Get(t.Context(), base+path, Options{})
		wantCode(t, path, err, slipway.Invalid)
	}
	if asked.Load() != 1 {
		t.Errorf("the server was asked %d times, want once", asked.Load())
	}
}

func TestNameIsLookedUpOnce(t *testing.T) {
	t.Parallel()
	first := listen(t, "127.0.0.2", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "first") }))
	f := newFetcher(t, nil, "http://rebind.localhost:"+first)
	var asked atomic.Int32
	f.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		if asked.Add(1) == 1 {
			return []netip.Addr{netip.MustParseAddr("127.0.0.2")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.3")}, nil
	}
	res, err := f.Get(t.Context(), "http://rebind.localhost:"+first, Options{})
	if err != nil || string(res.Body) != "first" || asked.Load() != 1 {
		t.Errorf("got %v, %v after %d look-ups; want one, and its address connected to", res, err, asked.Load())
	}
}

func TestRedirectsAreCheckedLikeTheFirstAddress(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	inside := serve(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	var to atomic.Value
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n, err := strconv.Atoi(r.URL.Path[1:]); err == nil && n > 0 {
			http.Redirect(w, r, "/"+strconv.Itoa(n-1), http.StatusFound)
			return
		} else if err == nil {
			return
		}
		w.Header().Set("Location", to.Load().(string))
		w.WriteHeader(http.StatusFound)
	})
	f := newFetcher(t, map[string]string{"evil.example.com": "127.0.0.1"}, s.URL, "http://*.example.com:*", "https://*")
	for _, target := range []string{
		inside.URL, "http://evil.example.com:" + port(inside.URL), "http://169.254.169.254/", "file:///etc/passwd",
		"ftp://example.com/", "gopher://127.0.0.1/", "git://evil.example.com/", "http://user:pass@evil.example.com/", "//[::1]/", "javascript:1",
	} {
		to.Store(target)
		_, err := f.Get(t.Context(), s.URL+"/away", Options{})
		if code := slipway.CodeOf(err); code != slipway.Invalid {
			t.Errorf("to %s: got %v, want it refused", target, err)
		}
	}
	if reached.Load() != 0 {
		t.Error("a redirect reached a private server")
	}
	if res, err := f.Get(t.Context(), s.URL+"/5", Options{}); err != nil || res.FinalURL != s.URL+"/0" {
		t.Errorf("five redirects: got %v, %v", res, err)
	}
	_, err := f.Get(t.Context(), s.URL+"/6", Options{})
	wantCode(t, "six redirects", err, slipway.Invalid)
}

func TestRedirectFromHTTPSToHTTPIsRefused(t *testing.T) {
	t.Parallel()
	plain := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the plain server was asked") })
	s := httptest.NewUnstartedServer(http.RedirectHandler(plain.URL, http.StatusFound))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that fails below
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Allow: []string{s.URL, plain.URL}, CAFile: ca}
	_, err := withConfig(t, nil, cfg).Get(t.Context(), s.URL, Options{})
	wantCode(t, "https to http", err, slipway.Invalid)

	cfg.CAFile = ""
	_, err = withConfig(t, nil, cfg).Get(t.Context(), s.URL, Options{})
	wantCode(t, "unknown authority", err, slipway.Unavailable)
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{}, 10)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		zeros := make([]byte, 64<<10)
		var out io.Writer = w
		switch r.URL.Path {
		case "/announced":
			w.Header().Set("Content-Length", "1000000")
		case "/bomb": // 1000 times as large when unpacked
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			out = z
		case "/exact":
			w.Write(zeros)
			return
		case "/headers":
			w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeader))
		}
		for { // until the client has gone away
			if _, err := out.Write(zeros); err != nil {
				gone <- struct{}{}
				return
			}
		}
	})
	f := newFetcher(t, nil, s.URL)
	for _, path := range []string{"/endless", "/announced", "/bomb"} {
		_, err := f.Get(t.Context(), s.URL+path, Options{MaxBytes: 64 << 10})
		wantCode(t, path, err, slipway.TooLarge)
		<-gone
	}
	if res, err := f.Get(t.Context(), s.URL+"/exact", Options{MaxBytes: 64 << 10}); err != nil || len(res.Body) != 64<<10 {
		t.Errorf("a body of exactly the limit: %v", err)
	}
	_, err := f.Get(t.Context(), s.URL+"/headers", Options{})
	wantCode(t, "endless header", err, slipway.Unavailable)
}

func TestSlowServersAreLeft(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "a")
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	})
	f := withConfig(t, nil, Config{Allow: []string{s.URL}, Timeout: slipway.Duration(50 * time.Millisecond)})
	for _, path := range []string{"/header", "/body"} {
		_, err := f.Get(t.Context(), s.URL+path, Options{})
		wantCode(t, path, err, slipway.Unavailable)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Get(ctx, s.URL, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller gave up: got %v, want its own error", err)
	}
}

func TestClientKeepsCredentialsAtTheirHost(t *testing.T) {
	t.Parallel()
	var got http.Header
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header })
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	f := newFetcher(t, nil, s.URL, other.URL)
	c := f.Client(time.Minute)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL, nil)
	for _, name := range []string{"Authorization", "Private-Token", "X-Api-Key", "Cookie"} {
		req.Header.Set(name, "canary")
	}
	req.Header.Set("Accept", "text/plain")
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got.Get("Accept") != "text/plain" {
		t.Errorf("the harmless header is missing: %v", got)
	}
	for name, values := range got {
		if strings.Contains(values[0], "canary") {
			t.Errorf("%s went to another host", name)
		}
	}
	_, err = c.Post(s.URL, "text/plain", strings.NewReader("body"))
	wantCode(t, "a body to another host", err, slipway.Invalid)
	_, err = c.Get("http://127.0.0.9/")
	wantCode(t, "an address that is not allowed", err, slipway.Invalid)
}

func TestProxyIsUsedOnlyWhenConfigured(t *testing.T) {
	t.Parallel()
	var asked atomic.Value
	proxy := serve(t, func(_ http.ResponseWriter, r *http.Request) { asked.Store(r.URL.String()) })
	f := withConfig(t, nil, Config{Allow: []string{"http://*:*"}, Proxy: proxy.URL})
	if _, err := f.Get(t.Context(), "http://far.example.com/a", Options{}); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != "http://far.example.com/a" {
		t.Errorf("the proxy was asked for %v", asked.Load())
	}
	for _, raw := range []string{"http://127.0.0.1/", "http://localhost/", "http://10.0.0.1/", "http://2130706433/"} {
		_, err := f.Get(t.Context(), raw, Options{})
		wantCode(t, raw, err, slipway.Invalid)
	}
}

func TestConfigReportsAllFaultsTogether(t *testing.T) {
	t.Parallel()
	_, err := New(Config{
		Allow:     []string{"https://*", "ftp://*", "https://user@h/", "https://h:x/", "https://a*b/", "*"},
		FileRoots: []string{"relative"}, MaxBytes: -1, Timeout: -1, CAFile: "/nonexistent/ca", Proxy: "proxy:3128",
	})
	wantCode(t, "bad config", err, slipway.Invalid)
	for _, key := range []string{"allow[1]", "allow[2]", "allow[3]", "allow[4]", "allow[5]", "fileRoots[0]", "maxBytes", "timeout", "caFile", "proxy"} {
		if !strings.Contains(err.Error(), "fetch."+key) {
			t.Errorf("the error does not name %s: %v", key, err)
		}
	}
	if strings.Contains(err.Error(), "allow[0]") {
		t.Errorf("the error blames a good pattern: %v", err)
	}
}
