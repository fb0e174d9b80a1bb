package build_test

import (
	"flag"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider/fake"
)

// Who opens a search in a browser sees what happened to the builds before any JSON, whatever a vendor calls them.
func TestABrowserShowsATableOfBuilds(t *testing.T) {
	t.Parallel()
	const golden = "testdata/page.golden.html"
	each(t, func(t *testing.T, w *world) {
		at := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
		w.ci.Now = func() time.Time { return at.Add(90 * time.Second) }
		started := at.Add(5 * time.Second)
		hostile := `"><script>alert(1)</script><img src=x onerror=alert(1)>`
		for i, b := range []slipway.Build{
			{ID: "plain", Status: slipway.BuildSucceeded, StartedAt: &started, TriggeredBy: &slipway.Person{Name: "Jane"},
				Commit: &slipway.Commit{SHA: strings.Repeat("0a1b", 10), Message: "Welcome page", Branch: "main"}},
			{ID: "script", Status: slipway.BuildFailed, StartedAt: &started, URL: "javascript:alert(1)", TriggeredBy: &slipway.Person{Name: hostile},
				Commit: &slipway.Commit{SHA: hostile, Message: hostile, Branch: "</table></pre></bdi>"}},
			{ID: "turned", Status: slipway.BuildRunning, StartedAt: &started, URL: "https://ci.example.com/?a=\"><b>&c=" + strings.Repeat("long", 20), TriggeredBy: &slipway.Person{Name: "evil\u202emoc.live\u2066"},
				Commit: &slipway.Commit{SHA: "data:text/html,x", Message: strings.Repeat("long", 200), Branch: "עברית"}},
			{ID: "../a?b", Status: slipway.BuildSkipped, StartedAt: &started, URL: "https://jane:secret@ci.example.com/", TriggeredBy: &slipway.Person{Name: "component:default/web"},
				Commit: &slipway.Commit{SHA: "//ci.example.com", Message: "one\nmore\vline", Branch: "?x#y"}},
			{ID: "older", Status: slipway.BuildCanceled},
		} {
			b.CreatedAt = at.Add(-time.Duration(i) * time.Minute)
			w.ci.Add(hello, b)
		}
		w.entity("web", "team-a", map[string]string{fake.Annotation: hello})
		w.await(5)
		w.ci.Break(fake.Down)
		w.search("?fresh=true")

		a := w.Get(webBuilds+"/search?limit=4", "Accept", "text/html").Is(http.StatusOK)
		text := string(a.Body)
		begin, end := strings.Index(text, `<ul class="sources"`), strings.Index(text, "<details><summary>All of it as JSON")
		if begin < 0 || end < begin {
			t.Fatalf("no sources and table before the JSON: %s", text)
		}
		got := text[begin:end]
		got = regexp.MustCompile(`<time [^>]*>20[^<]*</time>(\. <bdi>)`).ReplaceAllString(got, "<time>…</time>$1") // when the vendor was last read
		got = regexp.MustCompile(`cursor=[^&"]*`).ReplaceAllString(got, "cursor=…")
		if updateGolden := flag.Lookup("update"); updateGolden != nil && updateGolden.Value.String() == "true" {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if bad := regexp.MustCompile(`<script|<img|<b>|</pre></bdi>|<a [^>]*href="(javascript|data|//|[^"]*secret)|\x{202e}|\x{2066}`).FindString(text); bad != "" {
			t.Errorf("the page holds %q", bad)
		}

		one := string(w.Get(webBuilds+"/builds/ci:script", "Accept", "text/html").Is(http.StatusOK).Body)
		for _, want := range []string{`<dt><code>status</code></dt><dd><bdi class="state bad">failed</bdi></dd>`, `<dt><code>commit.message</code></dt><dd><bdi>&#34;&gt;&lt;script&gt;`, `<dt><code>url</code></dt><dd><bdi>`} {
			if !strings.Contains(one, want) {
				t.Errorf("one build: %q is missing in %s", want, one)
			}
		}
		none := string(w.Get(webBuilds+"/search?branch=none", "Accept", "text/html").Is(http.StatusOK).Body)
		if !strings.Contains(none, "there is nothing here") {
			t.Errorf("no builds: %s", none)
		}
	})
}
