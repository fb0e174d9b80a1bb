package provider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

const token = "s3cret"

func newClient(t testing.TB, env provider.Env, o provider.ClientOptions) *provider.Client {
	t.Helper()
	o.Vendor = "Example"
	if o.Authorize == nil {
		o.Authorize = func(context.Context, string) (provider.Authorization, error) {
			return provider.Authorization{Header: "Private-Token", Value: token, Account: "a"}, nil
		}
	}
	c, err := provider.NewClient(env, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve starts a server, and makes a client of it below a path.
func serve(t testing.TB, h http.HandlerFunc, o provider.ClientOptions) *provider.Client {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	o.URL = s.URL + "/ci/"
	return newClient(t, provider.Env{}, o)
}

func TestClientKeepsPathPrefixAndEscapes(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		_, _ = io.WriteString(w, `{"a":1}`)
	}, provider.ClientOptions{Header: http.Header{"Accept": {"application/json"}}})
	var out struct{ A int }
	r := provider.Request{Method: http.MethodPost, Path: "/projects/group%2Fapp", Query: url.Values{"q": {"a b"}}, Body: map[string]int{"n": 7}}
	if _, err := c.JSON(t.Context(), r, &out); err != nil || out.A != 1 {
		t.Fatalf("got %+v, %v", out, err)
	}
	if got.RequestURI != "/ci/projects/group%2Fapp?q=a+b" || string(body) != `{"n":7}` {
		t.Errorf("asked for %s with %s", got.RequestURI, body)
	}
	for name, want := range map[string]string{"Private-Token": token, "Accept": "application/json", "Content-Type": "application/json", "User-Agent": "slipway"} {
		if got.Header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Header.Get(name), want)
		}
	}
}

func TestFormsAndWhereTheyLead(t *testing.T) {
	t.Parallel()
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got += fmt.Sprint(r.Method, " ", r.Header.Get("Content-Type"), " ", r.PostFormValue("a b"), ".")
		w.Header().Set("Location", "/ci/queue/7/")
		w.WriteHeader(http.StatusSeeOther)
	}, provider.ClientOptions{})
	r := provider.Request{Method: http.MethodPost, Path: "/build", Form: url.Values{"a b": {"1&2"}}, Leads: true}
	a, err := c.JSON(t.Context(), r, nil)
	if err != nil || a.Status != http.StatusSeeOther || a.Header.Get("Location") != "/ci/queue/7/" {
		t.Errorf("got %d leading to %q, %v; want where it leads, not followed", a.Status, a.Header.Get("Location"), err)
	}
	if want := "POST application/x-www-form-urlencoded 1&2."; got != want {
		t.Errorf("asked for %q, want %q once", got, want)
	}
	r.Leads = false
	if _, err := c.JSON(t.Context(), r, nil); !errors.Is(err, slipway.Invalid) {
		t.Errorf("where no redirect is an answer: got %v, want invalid", err)
	}
}

func TestStreamSaysWhatItsHeadersSay(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Text-Size", "3")
		_, _ = io.WriteString(w, "log")
	}, provider.ClientOptions{})
	a, body, err := c.Stream(t.Context(), provider.Request{Path: "/log"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	if text, err := io.ReadAll(body); err != nil || string(text) != "log" || a.Header.Get("X-Text-Size") != "3" {
		t.Errorf("got %q, %v with %v", text, err, a.Header)
	}
}

func TestFaultyAddressesAreRefused(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "ci.example.com", "ftp://ci.example.com", "https://", "https://me:pw@ci.example.com", "https://ci.example.com?x=1", "https://ci.example.com#x", "http://%"} {
		if _, err := provider.NewClient(provider.Env{}, provider.ClientOptions{URL: address}); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%q: got %v, want invalid", address, err)
		}
	}
}

func TestRedirectsCarryNoCredential(t *testing.T) {
	t.Parallel()
	var elsewhere []http.Header
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elsewhere = append(elsewhere, r.Header.Clone())
		_, _ = io.WriteString(w, "text")
	}))
	t.Cleanup(other.Close)
	posts := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/ci/away":
			http.Redirect(w, r, other.URL+"/log?sig=x", http.StatusFound) // the same host name, another port
		case r.URL.Path == "/ci/near" && r.Header.Get("Private-Token") == token:
			http.Redirect(w, r, "/ci/here", http.StatusFound)
		case r.URL.Path == "/ci/here" && r.Header.Get("Private-Token") == token:
			_, _ = io.WriteString(w, "here")
		case r.Method == http.MethodPost:
			posts++
			http.Redirect(w, r, "/ci/here", http.StatusMovedPermanently)
		}
	}, provider.ClientOptions{})
	read := func(path string) string {
		t.Helper()
		text, err := c.Open(t.Context(), provider.Request{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = text.Close() }()
		b, err := io.ReadAll(text)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := read("/away"); got != "text" || len(elsewhere) != 1 {
		t.Fatalf("got %q", got)
	}
	for name, values := range elsewhere[0] {
		if strings.Contains(fmt.Sprint(values), token) || name == "Referer" {
			t.Errorf("another host was sent %s: %q", name, values)
		}
	}
	if got := read("/near"); got != "here" {
		t.Errorf("a redirect on the same host: got %q", got)
	}
	if _, err := c.JSON(t.Context(), provider.Request{Method: http.MethodPost, Path: "/moved"}, nil); !errors.Is(err, slipway.Invalid) || posts != 1 {
		t.Errorf("a POST that is redirected: got %v, want it refused, not turned into a GET", err)
	}
}

func TestLinksAreFollowedWithNothingOfOurs(t *testing.T) {
	t.Parallel()
	var seen http.Header
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		if code, err := strconv.Atoi(r.FormValue("answer")); err == nil {
			w.WriteHeader(code)
			return
		}
		_, _ = io.WriteString(w, "text")
	}))
	t.Cleanup(store.Close)
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the vendor was asked") }, provider.ClientOptions{})
	text, err := c.OpenLink(t.Context(), strings.Replace(store.URL, "http://", "http://user:pw@", 1)+"/log?sig=signed")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = text.Close() }()
	if b, err := io.ReadAll(text); err != nil || string(b) != "text" {
		t.Errorf("got %q, %v", b, err)
	}
	for name, values := range seen {
		if name == "Authorization" || strings.Contains(fmt.Sprint(values), token) {
			t.Errorf("the store was sent %s: %q", name, values)
		}
	}
	for link, want := range map[string]slipway.Code{
		store.URL + "/?answer=403&sig=signed": slipway.NotFound, store.URL + "/?answer=410&sig=signed": slipway.NotFound,
		store.URL + "/?answer=429&sig=signed": slipway.Unavailable, store.URL + "/?answer=500&sig=signed": slipway.Unavailable,
		"http://127.0.0.1:1/?sig=signed": slipway.Unavailable, "file:///etc/passwd?sig=signed": slipway.Unavailable, "http://%zz/?sig=signed": slipway.Unavailable,
	} {
		if _, err := c.OpenLink(t.Context(), link); slipway.CodeOf(err) != want || strings.Contains(fmt.Sprintf("%v %+v", err, errors.Unwrap(err)), "signed") {
			t.Errorf("%s: got %v, want %s and nothing of the link", link, err, want)
		}
	}
}

func TestOnlyWhatIsSafeIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		method  string
		status  int
		after   string
		want    slipway.Code
		tries   int
		recover bool
	}{
		{method: http.MethodGet, status: 502, tries: 2, recover: true},
		{method: http.MethodGet, status: 503, tries: 3, want: slipway.Unavailable},
		{method: http.MethodGet, status: 503, after: "60", tries: 1, want: slipway.Unavailable}, // too long to wait here
		{method: http.MethodGet, status: 500, tries: 1, want: slipway.Unavailable},
		{method: http.MethodGet, status: 404, tries: 1, want: slipway.NotFound},
		{method: http.MethodGet, status: 429, after: "5", tries: 1, want: slipway.RateLimited},
		{method: http.MethodPost, status: 502, tries: 1, want: slipway.Unavailable},
	} {
		tries := 0
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if tries++; test.recover && tries > 1 {
				_, _ = io.WriteString(w, "{}")
				return
			}
			w.Header().Set("Retry-After", test.after)
			w.WriteHeader(test.status)
		}, provider.ClientOptions{})
		_, err := c.JSON(t.Context(), provider.Request{Method: test.method, Path: "/x"}, &struct{}{})
		if slipway.CodeOf(err) != test.want || tries != test.tries {
			t.Errorf("%s answered with %d: %d tries and %v; want %d and %q", test.method, test.status, tries, err, test.tries, test.want)
		}
	}
}

func TestStrangeAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body string
		want slipway.Code
		a    int
	}{
		"html":                     {"<html>Sign in</html>", slipway.Unavailable, 0},
		"nothing":                  {"", slipway.Unavailable, 0},
		"half":                     {`{"a":1`, slipway.Unavailable, 0},
		"a list":                   {`[1]`, slipway.Unavailable, 0},
		"too much":                 {`{"b":"` + strings.Repeat("x", 2000) + `"}`, slipway.TooLarge, 0},
		"a member of another type": {`{"b":{"of":"another type"},"a":2}`, "", 2},
		"more than was promised":   {`{"a":3,"new":[1]}`, "", 3},
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, test.body) }, provider.ClientOptions{MaxBytes: 1000})
		var out struct {
			A int
			B string
		}
		_, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, &out)
		if slipway.CodeOf(err) != test.want || err == nil && out.A != test.a {
			t.Errorf("%s: got %+v, %v; want %q", name, out, err, test.want)
		}
	}
}

func TestStreamThatBreaksIsUnavailable(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
	}, provider.ClientOptions{})
	text, err := c.Open(t.Context(), provider.Request{Path: "/log"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = text.Close() }()
	if got, err := io.ReadAll(text); string(got) != "half" || !errors.Is(err, slipway.Unavailable) {
		t.Errorf("got %q, %v; want unavailable after the half", got, err)
	}
}

func TestMessagesOfVendorsAreCut(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": "no\x1b[31m" + strings.Repeat("!", 1000)})
	}, provider.ClientOptions{})
	_, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, nil)
	var e *slipway.Error
	if !errors.As(err, &e) || e.Code != slipway.Invalid || len(e.Message) > 300 || strings.Contains(e.Message, "\x1b") || !strings.Contains(e.Message, "no [31m!!!") {
		t.Errorf("got %q", err)
	}
}

func TestMessagesOfVendorsAreFound(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"message":"no"}`: ": no", `{"error":"no"}`: ": no", `{"message":{"base":["Reference not found"],"name":["is short","is odd"]}}`: ": Reference not found; is short; is odd",
		`{"error":{"code":7,"message":"no"}}`: ": no", `{"message":[]}`: "", `{"message":7}`: "", `[]`: "", `no`: "",
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, body)
		}, provider.ClientOptions{})
		_, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, nil)
		if e, ok := errors.AsType[*slipway.Error](err); !ok || e.Message != "Example refuses the request"+want {
			t.Errorf("%s: got %v, want %q", body, err, want)
		}
	}
}

// answers is a vendor without a network, so that its clock may be the test's.
type answers func(r *http.Request) (*http.Response, error)

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func response(r *http.Request, status int, header ...string) (*http.Response, error) {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: h, Body: io.NopCloser(bytes.NewBufferString("{}")), Request: r}, nil
}

func TestHostThatIsDownIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, up := 0, false
		hc := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
			if asked++; !up {
				return nil, errors.New("connection refused")
			}
			return response(r, 200)
		})}
		c := newClient(t, provider.Env{HTTP: hc}, provider.ClientOptions{URL: "https://ci.example.com"})
		get := func() error {
			_, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, &struct{}{})
			return err
		}
		for range 10 {
			err := get()
			var e *slipway.Error
			if !errors.As(err, &e) || e.Code != slipway.Unavailable {
				t.Fatalf("got %v, want unavailable", err)
			}
		}
		if asked != 5 {
			t.Errorf("it was asked %d times, want 5", asked)
		}
		_ = provider.Wait(t.Context(), 16*time.Second)
		if err := get(); !errors.Is(err, slipway.Unavailable) || asked != 6 {
			t.Errorf("after a rest: %v, asked %d times; want one more", err, asked)
		}
		_ = provider.Wait(t.Context(), 16*time.Second)
		up = true
		for range 3 {
			if err := get(); err != nil {
				t.Errorf("it is back: %v", err)
			}
		}
	})
}

func TestAReplicaThatReachesNobodyKeepsAwayAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		holds := provider.NewHolds()
		client := func(url string, up bool) *provider.Client {
			return newClient(t, provider.Env{Holds: holds, HTTP: &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
				if !up {
					return nil, errors.New("no route to host")
				}
				return response(r, 200)
			})}}, provider.ClientOptions{URL: url})
		}
		get := func(c *provider.Client) error {
			body, err := c.Open(t.Context(), provider.Request{Path: "/x"})
			if err == nil {
				body.Close()
			}
			return err
		}
		sick, well := client("https://ci.example.com", false), client("https://ci.example.com", true)
		for range 5 {
			if get(sick) == nil {
				t.Fatal("it reaches the host")
			}
		}
		if get(well) == nil {
			t.Error("what one found out, the other is not told")
		}
		if err := get(client("http://ci.example.com", true)); err != nil {
			t.Errorf("the host as another address has it: %v", err)
		}
		_ = provider.Wait(t.Context(), 16*time.Second)
		for i := range 20 {
			if err := get(well); err != nil {
				t.Fatalf("request %d of who reaches the host: %v", i, err)
			}
			if get(sick) == nil {
				t.Fatal("it reaches the host")
			}
			_ = provider.Wait(t.Context(), 5*time.Second)
		}
	})
}

func TestStoreThatIsDownSaysNothingAboutTheVendor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hc := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
			switch r.URL.Host + r.URL.Path {
			case "ci.example.com/log":
				return response(r, 302, "Location", "https://store.example.com/log?sig=secret")
			case "store.example.com/log":
				return nil, errors.New("connection refused")
			case "ci.example.com/slow":
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return response(r, 200)
		})}
		c := newClient(t, provider.Env{HTTP: hc}, provider.ClientOptions{URL: "https://ci.example.com"})
		for range 6 {
			if _, err := c.Open(t.Context(), provider.Request{Path: "/log"}); !errors.Is(err, slipway.Unavailable) || strings.Contains(err.Error(), "sig") {
				t.Errorf("got %v, want unavailable, and nothing of the signed address", err)
			}
		}
		if _, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, &struct{}{}); err != nil {
			t.Error(err)
		}
		begun := time.Now()
		if _, err := c.Open(t.Context(), provider.Request{Path: "/slow"}); !errors.Is(err, slipway.Unavailable) || time.Since(begun) > 31*time.Second {
			t.Errorf("a stream that does not begin: got %v after %v", err, time.Since(begun))
		}
	})
}

func TestGivingUpSaysNothingAboutTheHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hang := true
		hc := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
			if hang {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return response(r, 200)
		})}
		c := newClient(t, provider.Env{HTTP: hc}, provider.ClientOptions{URL: "https://ci.example.com"})
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := c.JSON(ctx, provider.Request{Path: "/x"}, nil); !errors.Is(err, slipway.Unavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want unavailable for want of time", err)
			}
			cancel()
		}
		hang = false
		if _, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, nil); err != nil {
			t.Error(err)
		}
		hang = true
		begun := time.Now()
		if _, err := c.JSON(context.Background(), provider.Request{Path: "/x"}, nil); !errors.Is(err, slipway.Unavailable) || time.Since(begun) > 31*time.Second {
			t.Errorf("a caller with all the time: got %v after %v", err, time.Since(begun))
		}
	})
}

func TestChangesAreMadeOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hc := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) { return response(r, 201) })}
		c := newClient(t, provider.Env{HTTP: hc}, provider.ClientOptions{URL: "https://ci.example.com", WriteGap: time.Second})
		begun := time.Now()
		done := make(chan error)
		for range 4 {
			go func() {
				_, err := c.JSON(t.Context(), provider.Request{Method: http.MethodPost, Path: "/x"}, nil)
				done <- err
			}()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("four changes took %v, want 3s", took)
		}
	})
}

func TestVendorThatHasEnoughIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		mode := "remaining"
		hc := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			switch mode {
			case "remaining": // an answer that is good, and the last one
				return response(r, 200, "X-Limit", "60", "X-Remaining", "0", "X-Reset", fmt.Sprint(time.Now().Add(time.Hour).Unix()))
			case "silent":
				return response(r, 429)
			}
			return response(r, 200)
		})}
		o := provider.ClientOptions{URL: "https://ci.example.com", Limit: func(h http.Header, now time.Time) provider.Limit { return provider.EpochLimit(h, "X-", now) }}
		holds := provider.NewHolds()
		env := provider.Env{HTTP: hc, Holds: holds}
		one, two := newClient(t, env, o), newClient(t, env, o)
		o.Authorize = func(context.Context, string) (provider.Authorization, error) {
			return provider.Authorization{Account: "b"}, nil
		}
		other := newClient(t, env, o)
		get := func(c *provider.Client) time.Duration {
			t.Helper()
			_, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, &struct{}{})
			var e *slipway.Error
			if errors.As(err, &e) && e.Code != slipway.RateLimited {
				t.Errorf("got %v, want rate limited", err)
			}
			if e == nil {
				return 0
			}
			return e.RetryAfter
		}
		if wait := get(one); wait != 0 {
			t.Errorf("the last good answer was refused")
		}
		if l := one.Limits(); len(l) != 1 || l[0].Total != 60 || l[0].Remaining != 0 || l[0].Account != "a" {
			t.Errorf("got %+v, want what the vendor said", l)
		}
		mode = "fine"
		if wait := get(two); wait < 59*time.Minute || wait > time.Hour || asked.Load() != 1 {
			t.Errorf("another replica waits %v, asked %d times; want an hour, and nothing sent", wait, asked.Load())
		}
		if wait := get(other); wait != 0 {
			t.Errorf("another account waits %v", wait)
		}
		_ = provider.Wait(t.Context(), time.Hour)
		if wait := get(two); wait != 0 {
			t.Errorf("after the reset it waits %v", wait)
		}
		mode = "silent"
		last := time.Duration(0)
		for range 8 { // each refusal without a time doubles the rest, to a bound
			wait := get(one)
			if wait <= last || wait < time.Minute || wait > 17*time.Minute {
				if last < 15*time.Minute || wait < 15*time.Minute || wait > 17*time.Minute {
					t.Errorf("waits %v after %v", wait, last)
				}
			}
			last = wait
			_ = provider.Wait(t.Context(), wait)
		}
	})
}

func TestWhatIsSaidToCallersIsNoMatterOfTheProvider(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		hc := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			return response(r, 200, "X-Limit", "60", "X-Remaining", "0", "X-Reset", fmt.Sprint(time.Now().Add(time.Hour).Unix()))
		})}
		var held written
		c := newClient(t, provider.Env{HTTP: hc, Holds: &held}, provider.ClientOptions{
			URL: "https://ci.example.com", Limit: func(h http.Header, now time.Time) provider.Limit { return provider.EpochLimit(h, "X-", now) },
		})
		ask := func(who string) error {
			_, err := c.JSON(t.Context(), provider.Request{Path: "/x", As: &provider.Authorization{Header: "Private-Token", Value: who, Account: "caller " + who}}, &struct{}{})
			return err
		}
		if err := ask("jane"); err != nil {
			t.Fatal(err)
		}
		if err := ask("jane"); !errors.Is(err, slipway.RateLimited) || asked.Load() != 1 {
			t.Errorf("a caller of whom the vendor takes no more: %v, sent %d times", err, asked.Load())
		}
		if err := ask("joe"); err != nil {
			t.Errorf("another caller: %v", err)
		}
		if l := c.Limits(); len(l) != 0 {
			t.Errorf("the provider's limits are callers' own: %+v", l)
		}
		if len(held) != 0 {
			t.Errorf("all replicas were told of %q", held)
		}
	})
}

// written is Holds that say what was held.
type written []string

func (w *written) Until(context.Context, string) (time.Time, error) { return time.Time{}, nil }
func (w *written) Hold(_ context.Context, key string, _ time.Time) error {
	*w = append(*w, key)
	return nil
}
func (w *written) Probe(context.Context, string, time.Duration) (bool, error) { return true, nil }
func (w *written) Release(context.Context, string) error                      { return nil }

func TestHoldsThatFailHoldNothingUp(t *testing.T) {
	t.Parallel()
	hc := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) { return response(r, 200) })}
	c := newClient(t, provider.Env{HTTP: hc, Holds: broken{}}, provider.ClientOptions{URL: "https://ci.example.com"})
	if _, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, nil); err != nil {
		t.Error(err)
	}
}

type broken struct{}

func (broken) Until(context.Context, string) (time.Time, error) {
	return time.Time{}, errors.New("no database")
}
func (broken) Hold(context.Context, string, time.Time) error { return errors.New("no database") }
func (broken) Probe(context.Context, string, time.Duration) (bool, error) {
	return false, errors.New("no database")
}
func (broken) Release(context.Context, string) error { return errors.New("no database") }

func TestConditionalRequest(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, "{}")
	}, provider.ClientOptions{})
	a, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, &struct{}{})
	if err != nil || a.NotModified || a.Validator != `"1"` {
		t.Fatalf("got %+v, %v", a, err)
	}
	if a, err = c.JSON(t.Context(), provider.Request{Path: "/x", Validator: a.Validator}, &struct{}{}); err != nil || !a.NotModified {
		t.Errorf("got %+v, %v; want not modified", a, err)
	}
}

func TestRefusalOfTheGuardedClientIsPassedOn(t *testing.T) {
	t.Parallel()
	hc := &http.Client{Transport: answers(func(*http.Request) (*http.Response, error) {
		return nil, slipway.Errorf(slipway.Forbidden, "ci.example.com is a private address; allow it in fetch.allow")
	})}
	c := newClient(t, provider.Env{HTTP: hc}, provider.ClientOptions{URL: "https://ci.example.com"})
	for range 10 { // the host was never asked: it is not one that does not answer
		if _, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, nil); !errors.Is(err, slipway.Forbidden) || !strings.Contains(err.Error(), "fetch.allow") {
			t.Fatalf("got %v, want what the guard says", err)
		}
	}
}

func TestACredentialThatNoHeaderTakesIsRefusedHere(t *testing.T) {
	t.Parallel()
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the vendor was asked") }, provider.ClientOptions{
		Authorize: func(context.Context, string) (provider.Authorization, error) {
			return provider.Authorization{Header: "Authorization", Value: "Bearer " + token + "\n"}, nil
		},
	})
	for range 10 {
		if _, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, nil); !errors.Is(err, slipway.Unauthenticated) || strings.Contains(err.Error(), token) {
			t.Fatalf("got %v, want unauthenticated, without the credential", err)
		}
	}
}

func TestAShortWaitIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		hc := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, time.Now())
			if len(asked) < 3 {
				return response(r, 503, "Retry-After", "2")
			}
			return response(r, 200)
		})}
		c := newClient(t, provider.Env{HTTP: hc}, provider.ClientOptions{URL: "https://ci.example.com"})
		if _, err := c.JSON(t.Context(), provider.Request{Path: "/x"}, &struct{}{}); err != nil {
			t.Fatal(err)
		}
		for i := range asked[1:] {
			if waited := asked[i+1].Sub(asked[i]); waited < 2*time.Second {
				t.Errorf("attempt %d came after %v, the vendor wanted 2 s", i+2, waited)
			}
		}
	})
}

func TestPipe(t *testing.T) {
	t.Parallel()
	r := provider.Pipe(t.Context(), func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, "text")
		return err
	})
	if b, err := io.ReadAll(r); string(b) != "text" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	ended := make(chan error, 1)
	forever := func(ctx context.Context, _ io.Writer) error {
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	_ = provider.Pipe(t.Context(), forever).Close()
	<-ended // closing ends the writer
	ctx, cancel := context.WithCancel(t.Context())
	r = provider.Pipe(ctx, forever)
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	<-ended
}
