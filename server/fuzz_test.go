package server

import (
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/auth"
)

// tag is what a page of an answer may hold of HTML.
var tag = regexp.MustCompile(`^(<span class="[ksn]">|</span>|</a>|<a class="[sn]" href="(/|https?://)[^"<>]*"( rel="noopener noreferrer nofollow")?>)`)

// Whatever an answer holds, its page has no HTML but ours, and no link but to http, https and ourselves.
func FuzzPageOfAnAnswer(f *testing.F) {
	f.Add([]byte(`{"items":[{"id":"<x>","url":"https://a.example.com/?\"<"}],"pageInfo":{"nextCursor":"\"<&"}}`))
	f.Add([]byte(`["javascript:alert(1)","//a","/api/\"><script>","http://\u0000","user:default/a"]`))
	f.Add([]byte(`{"a":`))
	f.Add([]byte("\xff<script>"))
	f.Add([]byte(strings.Repeat("[", maxShownDepth+1) + `"<a>"` + strings.Repeat("]", maxShownDepth+1)))
	f.Fuzz(func(t *testing.T, body []byte) {
		v := &viewer{reads: map[string]*described{}, path: "/api/things", query: url.Values{"q": {"<"}}, children: "id"}
		shown := string(v.page(body))
		for i := strings.IndexByte(shown, '<'); i >= 0; {
			if !tag.MatchString(shown[i:]) {
				t.Fatalf("%q is shown as %q", body, shown)
			}
			next := strings.IndexByte(shown[i+1:], '<')
			if next < 0 {
				break
			}
			i += 1 + next
		}
	})
}

// overviewTag is what an overview may hold of HTML.
var overviewTag = regexp.MustCompile(`^<(/?(ul|li|span|dl|dt|dd|div|table|caption|thead|tbody|tr|th|td|code|bdi|time|a|p|wbr)>|ul class="sources" aria-label="[^"<>]*">|dl class="fields">|span class="(state (good|bad|busy|other)|quiet)">|div class="wide" role="region" aria-labelledby="table-\d" tabindex="0">|caption id="table-\d">|th scope="(col|row)">|bdi( class="(n|state (good|bad|busy|other))")?( title="[^"<>]*")?>|time datetime="[^"<>]*" title="[^"<>]*">|a href="(/[^/"<>]|https?://)[^"<>]*"( title="[^"<>]*")?( rel="noopener noreferrer nofollow")?>)`)

// Whatever an answer holds, its overview has no HTML but ours, and no link but to http, https and ourselves.
func FuzzOverviewOfAnAnswer(f *testing.F) {
	f.Add([]byte(`{"items":[{"id":"<x>","url":"https://a.example.com/?\"<","state":"\"failed","at":"2026-05-04T09:00:00Z","takenSeconds":1e400}],"sources":[{"provider":"<a>","state":"failed\">","error":"<b>","asOf":"x"}],"total":1}`))
	f.Add([]byte(`[{"data":{"id":"javascript:alert(1)","a.b":"//x","a":{"name":"\u202e"}}}]`))
	f.Add([]byte(`{"data":[{"id":".."},{"id":"a/../b"},{"id":5},{}],"version":1}`))
	f.Add([]byte(`{"a":[[]],"b":[{"":1}],"c":[null],"":{"":"/api/<"},"items":7}`))
	f.Add([]byte(`{"items":[{"metadata":{"name":"http://\u0000"}},3]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		v := &viewer{reads: map[string]*described{}, path: "/api/things", query: url.Values{}, children: "id"}
		var out strings.Builder
		if err := pages.ExecuteTemplate(&out, "overview", overviewer{viewer: v}.read(body)); err != nil {
			t.Fatal(err)
		}
		shown := out.String()
		for i := strings.IndexByte(shown, '<'); i >= 0; {
			if !overviewTag.MatchString(shown[i:]) {
				t.Fatalf("%q is shown as %q", body, shown[i:])
			}
			next := strings.IndexByte(shown[i+1:], '<')
			if next < 0 {
				break
			}
			i += 1 + next
		}
	})
}

// A path that goes through a proxy stays below its target, however often the target decodes it.
func FuzzPathOfAProxy(f *testing.F) {
	for _, s := range []string{"/a/b", "/%2e%2e/x", "/a;x=1/..;/b", "/%252e%252e/", "/..%5c", "//x", "/%00", "/%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		if !strings.HasPrefix(rest, "/") || climbs(rest) {
			return
		}
		for range 4 {
			clean := path.Clean("/base" + strings.ReplaceAll(rest, `\`, "/"))
			if clean != "/base" && !strings.HasPrefix(clean, "/base/") {
				t.Fatalf("%q leads to %s", rest, clean)
			}
			decoded, err := url.PathUnescape(rest)
			if err != nil {
				return
			}
			rest = decoded
		}
	})
}

// A form of a page leads to the path that it was sent to, on this server.
func FuzzForms(f *testing.F) {
	f.Add("/api/things", "_form=1&a=&b=x")
	f.Add("//elsewhere.example.com", "_form")
	f.Fuzz(func(t *testing.T, where, query string) {
		u := &url.URL{Path: where, RawQuery: query}
		if !strings.HasPrefix(where, "/") || unclean(u.EscapedPath()) { // is refused before
			return
		}
		to, ok := withoutForm(u)
		if !ok {
			return
		}
		base, _ := url.Parse("https://slipway.example.com/x")
		got, err := base.Parse(to)
		if err != nil || got.Host != base.Host || got.Scheme != "https" || got.Path != where || got.Query().Has(formField) {
			t.Errorf("%q?%q leads to %q: %v, %v", where, query, to, got, err)
		}
	})
}

func FuzzIfNoneMatch(f *testing.F) {
	f.Add(`W/"a", "b"`, `"b"`)
	f.Fuzz(func(_ *testing.T, header, tag string) {
		matches(header, tag)
		acceptsGzip(header)
		linksOf(http.Header{"Link": {header}})
	})
}

func TestAnAnswerThatIsNestedDeeplyIsShownAsItCame(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("[", 400_000) + `"<a>"` + strings.Repeat("]", 400_000)
	v := &viewer{path: "/api/things"}
	if got, want := string(v.page([]byte(body))), strings.Replace(body, `"<a>"`, "&#34;&lt;a&gt;&#34;", 1); got != want {
		t.Errorf("it is shown as %.200q", got)
	}
}

// Only what stands right of the first address that is not trusted can be the caller's: what a caller writes itself is never believed.
func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"", "192.0.2.1", "6.6.6.6, 192.0.2.1, 10.0.0.7", ",,10.0.0.1", "10.0.0.1:80", "[::1]", "\xff", "::ffff:10.0.0.9, ::1%eth0"} {
		f.Add(s, "10.0.0.1:1234")
		f.Add(s, "192.0.2.9:1234")
		f.Add(s, "garbage")
	}
	n, _ := auth.ParseNetwork("10.0.0.0/8")
	s := &Server{trusted: []netip.Prefix{n}}
	f.Fuzz(func(t *testing.T, header, remote string) {
		r := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {"6.6.6.6, " + header, "192.0.2.77"}}}
		direct := (&Server{}).address(r)
		got := s.address(r)
		switch {
		case !auth.Trusts(s.trusted, direct) && got != direct:
			t.Errorf("from %q, which is not trusted: %q", remote, got)
		case auth.Trusts(s.trusted, direct) && got != "192.0.2.77":
			t.Errorf("from %q, which is trusted, and says 192.0.2.77: %q", remote, got)
		}
	})
}

// A parameter with slashes is the same text when it is one segment.
func FuzzWidePaths(f *testing.F) {
	for _, s := range []string{"component:default/web/search", "a/b/c/search", "%2F/search", "a%2fb/search", "a/search", "/search", "a//search", "%zz/b/search", "\xff/ü/search", "a/b/builds/x/logs"} {
		f.Add(s)
	}
	s := &Server{wides: []wide{{prefix: "/api/t/by-entity/", suffix: []string{"builds", "{id}", "logs"}, max: 2}, {prefix: "/api/t/by-entity/", suffix: []string{"search"}, max: 3}}}
	f.Fuzz(func(t *testing.T, rest string) {
		u, err := url.Parse("/api/t/by-entity/" + rest)
		if err != nil || u.Host != "" {
			return
		}
		was := *u
		s.widen(&http.Request{URL: u})
		if u.Path != was.Path || u.RawQuery != was.RawQuery {
			t.Errorf("%q became %q", was.Path, u.Path)
		}
		if decoded, err := url.PathUnescape(u.EscapedPath()); err != nil || decoded != u.Path {
			t.Errorf("%q is written %q", u.Path, u.EscapedPath())
		}
	})
}
