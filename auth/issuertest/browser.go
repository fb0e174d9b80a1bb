package issuertest

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// Browser keeps cookies and follows no redirect by itself.
type Browser struct {
	HTTP *http.Client

	t    testing.TB
	home string
}

// NewBrowser is a browser without cookies. home is where paths lead.
func NewBrowser(t testing.TB, home string) *Browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Browser{t: t, home: home, HTTP: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Seen is an answer, read.
type Seen struct {
	*http.Response
	Text string

	t testing.TB
}

// At is the place of a redirect.
func (s Seen) At() string {
	s.t.Helper()
	u, err := s.Location()
	if err != nil {
		s.t.Fatalf("%s: %d without a Location: %s", s.Request.URL, s.StatusCode, s.Text)
	}
	return u.String()
}

// Open makes a request. A path is below home; form, unless nil, is posted; header are names and values.
func (b *Browser) Open(address string, form url.Values, header ...string) Seen {
	b.t.Helper()
	if strings.HasPrefix(address, "/") {
		address = b.home + address
	}
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, address, body)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("User-Agent", "Mozilla/5.0 (X11; test)")
	for n := 0; n+1 < len(header); n += 2 {
		if header[n] == "body" { // posted as it is
			req.Method, req.Body, req.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader(header[n+1])), int64(len(header[n+1]))
			continue
		}
		req.Header.Set(header[n], header[n+1])
	}
	res, err := b.HTTP.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return Seen{res, string(text), b.t}
}

var requestID = regexp.MustCompile(`authRequestID=([^&]+)`)

// Identify answers the provider's question who is there; it gives the address that the provider sends the browser back to.
func (b *Browser) Identify(to, user string) string {
	b.t.Helper()
	question := b.Open(to, nil).At()
	m := requestID.FindStringSubmatch(question)
	if m == nil {
		b.t.Fatalf("the provider asks at %s", question)
	}
	u, _ := url.Parse(question)
	done := b.Open(u.Scheme+"://"+u.Host+"/login/username", url.Values{"username": {user}, "password": {"secret"}, "id": {m[1]}}).At()
	return b.Open(done, nil).At()
}

// SignIn is the whole way, as a person goes it.
func (b *Browser) SignIn(user, back string) Seen {
	b.t.Helper()
	return b.Open(b.Identify(b.Open("/auth/login?return="+url.QueryEscape(back), nil).At(), user), nil)
}

// Cookie is the value of a cookie, or "".
func (b *Browser) Cookie(name string) string {
	u, _ := url.Parse(b.home)
	for _, c := range b.HTTP.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}
