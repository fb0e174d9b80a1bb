package server

import (
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
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
