package server_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/auth/issuertest"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// ofFirefox is what a browser says it takes where somebody opens an address.
const ofFirefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

// hostile is text that somebody stored in the hope that a browser would run it.
const hostile = `"><script>document.title="taken"</script><img src=x onerror="document.title='taken'"></pre>&lt;`

// shop is a blueprint with a list of things that hold whatever people wrote.
type shop struct{}

type ware struct {
	ID    string         `json:"id" doc:"Id"`
	Owner string         `json:"owner" doc:"Who owns it"`
	Page  string         `json:"page" doc:"Where it is shown"`
	Text  string         `json:"text" doc:"What it is"`
	More  map[string]any `json:"more" doc:"Whatever"`
}

var wares = []ware{
	{ID: "a/b <c>", Owner: "group:default/shop", Page: "https://shop.example.com/?a=1&b=2", Text: hostile, More: map[string]any{hostile: []any{hostile, 1.50, true, nil, map[string]any{}, []any{}}}},
	{ID: "2", Owner: "component:default/web", Page: "javascript:alert(1)", Text: "/api/shop/wares/2", More: map[string]any{
		"evil": "https://user:secret@example.com", "data": "data:text/html,<script>1</script>", "out": "//elsewhere.example.com", "over": "abc\u202edef",
	}},
}

type waresInput struct {
	Color  string   `query:"color" enum:"red,blue" doc:"Only those of this color"`
	Tag    []string `query:"tag,explode" doc:"Only those with all of these"`
	Limit  int      `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many"`
	Cursor string   `query:"cursor" doc:"Where to go on"`
}

func (shop) list(_ context.Context, in *waresInput) (*struct{ Body blueprint.List[ware] }, error) {
	page := slipway.PageInfo{Limit: in.Limit}
	if in.Cursor == "" {
		page.HasMore, page.NextCursor = true, "abc<>&\""
	}
	return &struct{ Body blueprint.List[ware] }{blueprint.List[ware]{Items: wares, PageInfo: page}}, nil
}

func (shop) get(_ context.Context, in *struct {
	ID string `path:"id" doc:"Id" example:"2"`
}) (*struct {
	ETag string `header:"ETag" doc:"Version"`
	Body ware
}, error) {
	if in.ID == "gone" {
		return nil, slipway.Errorf(slipway.NotFound, "there is no %s", hostile)
	}
	return &struct {
		ETag string `header:"ETag" doc:"Version"`
		Body ware
	}{`"7"`, wares[1]}, nil
}

// boxes gives a bare list that is longer than a page shows, of things in objects of their own.
func (shop) boxes(context.Context, *struct{}) (*struct{ Body []box }, error) {
	list := make([]box, 250)
	for i := range list {
		list[i].Data.ID, list[i].Data.Packed = strconv.Itoa(i), i > 100
	}
	return &struct{ Body []box }{list}, nil
}

type box struct {
	Data struct {
		ID     string `json:"id" doc:"Id"`
		Packed bool   `json:"packed" doc:"Whether it is full"`
	} `json:"data" doc:"The box"`
}

func shopBlueprint() blueprint.Blueprint {
	return blueprint.Blueprint{
		Name: "shop", Version: "0.1.0", Summary: "Sells.", Stability: blueprint.Experimental,
		Mounts:      []blueprint.Mount{{Prefix: "/api/shop", Dialect: blueprint.API}},
		Permissions: []auth.Permission{{Name: "shop.ware.read", Text: "See wares"}},
		Operations: []blueprint.Operation{
			blueprint.Handle(shop.list, blueprint.Operation{
				ID: "shop.list", Method: "GET", Path: "/api/shop/wares", Permission: blueprint.Public, Summary: "List wares", Description: "Lists *all* wares.",
				ResponseExample: blueprint.List[ware]{Items: wares[1:]},
			}),
			blueprint.Handle(shop.get, blueprint.Operation{
				ID: "shop.get", Method: "GET", Path: "/api/shop/wares/{id}", Permission: "shop.ware.read", Summary: "Get a ware", Description: "Gets one.",
				ResponseExample: wares[1],
			}),
			blueprint.Handle(shop.boxes, blueprint.Operation{
				ID: "shop.boxes", Method: "GET", Path: "/api/shop/boxes", Permission: blueprint.Public, Summary: "List boxes", ResponseExample: []box{{}},
			}),
		},
		Pages: []blueprint.Page{{Slug: "about", Title: "About the shop", Text: "# Shop\n\nIt has <script>alert(1)</script> and [a link](javascript:alert(1)) and a zeppelin."}},
		Open:  func(context.Context, *blueprint.Host) (any, error) { return shop{}, nil },
	}
}

func shopOptions() blueprinttest.Options {
	return blueprinttest.Options{Blueprints: []blueprint.Blueprint{shopBlueprint()}}
}

func TestABrowserGetsAPageOfTheSameData(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, shopOptions())
	a := s.As("").Get("/api/shop/wares?color=red&tag=x&limit=5", "Accept", ofFirefox).Is(200)
	text := string(a.Body)
	if a.Header.Get("Content-Type") != "text/html; charset=utf-8" || !strings.Contains(a.Header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'sha256-") ||
		strings.Contains(a.Header.Get("Content-Security-Policy"), "script-src") || a.Header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("got %v", a.Header)
	}
	for what, want := range map[string]string{
		"the description":         "<em>all</em> wares",
		"the way to the docs":     `href="/docs/operations/shop.list"`,
		"the stability":           "experimental",
		"an address":              `<a class="s" href="https://shop.example.com/?a=1&amp;b=2" rel="noopener noreferrer nofollow">`,
		"an entity as text":       `<span class="s">&#34;group:default/shop&#34;</span>`, // no catalog runs here
		"one thing of the list":   `<a class="s" href="/api/shop/wares/a%2Fb%20%3Cc%3E">`,
		"a path of this server":   `<a class="s" href="/api/shop/wares/2">&#34;/api/shop/wares/2&#34;</a>`,
		"the next page":           `href="/api/shop/wares?color=red&amp;cursor=abc%3C%3E%26%22&amp;limit=5&amp;tag=x">next page</a>`,
		"a choice that was made":  `<option selected>red</option>`,
		"a value that was given":  `<input name="limit" value="5">`,
		"one that may repeat":     `<input name="tag" value="x">`,
		"and again":               `<input name="tag" value="">`,
		"a turned text as it is":  `abc\u202edef`,
		"hostile text as text":    `&#34;\&#34;&gt;&lt;script&gt;document.title=\&#34;taken\&#34;`,
		"a number as it was sent": `<span class="n">1.5</span>`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing: %q", what, want)
		}
	}
	for _, bad := range []string{"<script", "<img", `href="javascript`, `href="data:text`, "user:secret@example.com\" rel", `href="//`} {
		if strings.Contains(text, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// A page shows a table of a list and the fields of one thing, in the order in which they are declared, above the JSON.
func TestAPageShowsATableAboveTheJSON(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, shopOptions())
	above := func(path string) string {
		t.Helper()
		a := s.Get(path, "Accept", ofFirefox).Is(200)
		shown, _, ok := strings.Cut(string(a.Body), "<summary>All of it as JSON</summary>")
		if !ok || strings.Contains(shown, "<pre") {
			t.Fatalf("%s: no JSON below: %s", path, a.Body)
		}
		return shown
	}
	for path, wants := range map[string][]string{
		"/api/shop/wares": {
			`<caption id="table-0">List wares <span class="quiet">2 shown</span></caption>`,
			`<th scope="col">id</th><th scope="col">owner</th><th scope="col">page</th><th scope="col">text</th></tr>`,
			`<th scope="row"><a href="/api/shop/wares/a%2Fb%20%3Cc%3E"><bdi>a/b &lt;c&gt;</bdi></a></th>`,
			`<td><a href="https://shop.example.com/?a=1&amp;b=2" rel="noopener noreferrer nofollow">`,
			`<td><bdi>javascript:alert(1)</bdi></td>`,
			`">next page</a></p></nav>`,
		},
		"/api/shop/wares/2": {`<dt><code>id</code></dt><dd><bdi>2</bdi></dd>`, `<dt><code>text</code></dt><dd><a href="/api/shop/wares/2">`, `<dt><code>more.over</code></dt><dd><bdi>abc\u202edef</bdi></dd>`},
		"/api/shop/boxes":   {`<th scope="col">id</th><th scope="col">packed</th></tr>`, `200 shown, 50 more in the JSON below`, `<th scope="row"><bdi>199</bdi></th><td><bdi>true</bdi></td>`},
		"/readyz":           {`<dt><code>ready</code></dt><dd><bdi>true</bdi></dd>`, `<caption id="table-0">checks`, `database main`},
	} {
		shown := above(path)
		for _, want := range wants {
			if !strings.Contains(shown, want) {
				t.Errorf("%s: %q is missing in %s", path, want, shown)
			}
		}
	}
	if shown := above("/api/shop/boxes"); strings.Contains(shown, "<bdi>200</bdi>") {
		t.Error("more than 200 rows are shown")
	}
}

func TestWhoAsksForJSONGetsIt(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, shopOptions())
	for _, accept := range []string{"*/*", "application/json", "application/json, text/plain, */*", "text/html, application/json", ""} {
		a := s.Get("/api/shop/wares/2", "Accept", accept).Is(200)
		if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("ETag") != `"7"` || a.Header.Get("Vary") != "Accept" {
			t.Errorf("%q: %v", accept, a.Header)
		}
	}
	page := s.Get("/api/shop/wares/2", "Accept", ofFirefox).Is(200)
	tag := page.Header.Get("ETag")
	if tag == "" || tag == `"7"` || page.Header.Get("Vary") != "Accept" || page.Header.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("the page has %v; want a version of its own", page.Header)
	}
	s.Get("/api/shop/wares/2", "Accept", ofFirefox, "If-None-Match", tag).Is(304)
	s.Get("/api/shop/wares/2", "Accept", ofFirefox, "If-None-Match", `"7"`).Is(200)
	s.Get("/api/shop/wares/2", "If-None-Match", `"7"`).Is(304)
	s.Get("/api/shop/wares/2", "If-None-Match", tag).Is(200)
	if h := s.Do("HEAD", "/api/shop/wares/2", nil, "Accept", ofFirefox).Is(200).Header; h.Get("ETag") != tag || h.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("the header alone: %v", h)
	}
	if h := s.Do("POST", "/api/shop/wares", nil, "Accept", ofFirefox).Is(405).Header; h.Get("Content-Type") != "application/json" {
		t.Errorf("what is no read: %v", h)
	}
	if h := s.As("").Get("/openapi.json", "Accept", ofFirefox).Is(200).Header; h.Get("Content-Type") != "application/json" {
		t.Errorf("the description: %v", h)
	}
	if h := s.Get("/metrics", "Accept", ofFirefox).Is(200).Header; !strings.HasPrefix(h.Get("Content-Type"), "text/plain") {
		t.Errorf("metrics: %v", h)
	}
}

func TestFailuresAreReadable(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, shopOptions())
	for path, want := range map[string]int{"/api/shop/wares/gone": 404, "/api/nope": 404, "/nope": 404, "/api//shop": 404, "/api/shop/wares?limit=x": 400, "/api/shop/wares?lim=1": 400} {
		a := s.Get(path, "Accept", ofFirefox).Is(want)
		text := string(a.Body)
		if a.Header.Get("Content-Type") != "text/html; charset=utf-8" || !strings.Contains(text, a.Header.Get("X-Request-Id")) || !strings.Contains(text, `role="alert"`) || strings.Contains(text, "<script") {
			t.Errorf("%s: %v %s", path, a.Header, text)
		}
	}
	refused := s.As("").Get("/api/shop/wares/2", "Accept", ofFirefox).Is(401)
	if text := string(refused.Body); strings.Contains(text, "/auth/login") || !strings.Contains(text, "No sign-in for browsers") || refused.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("without sign-in: %v %s", refused.Header, text)
	}
	s.With("shop.ware.read").Get("/api/shop/wares/2", "Accept", ofFirefox).Is(200)
	forbidden := s.With("slipway.metrics.read").Get("/api/shop/wares/2", "Accept", ofFirefox).Is(403)
	if !strings.Contains(string(forbidden.Body), "shop.ware.read") {
		t.Errorf("got %s", forbidden.Body)
	}

	idp, o := issuertest.New(t), shopOptions()
	o.Configure = func(c *server.Config) {
		c.Auth.SignIn.Issuers = []auth.IssuerConfig{{Name: "idp", Kind: "oidc", Issuer: idp.URL, Audience: "slipway-api"}}
		c.Auth.SignIn.Login.Issuer, c.Auth.SignIn.Login.ClientID, c.Auth.SignIn.Login.Secret = "idp", "slipway", secret.NewText("s3cret")
	}
	offered := blueprinttest.Start(t, store.SQLite, o).As("").Get("/api/shop/wares/2?a=b&c=%22%3E", "Accept", ofFirefox).Is(401)
	if want := `href="/auth/login?return=%2Fapi%2Fshop%2Fwares%2F2%3Fa%3Db%26c%3D%2522%253E"`; !strings.Contains(string(offered.Body), want) {
		t.Errorf("with sign-in: want %s in %s", want, offered.Body)
	}
}

func TestAFormOfAPageAsksWithoutItsEmptyFields(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, shopOptions())
	for query, want := range map[string]string{
		"color=&tag=x&tag=&limit=5&cursor=&_form=1": "/api/shop/wares?limit=5&tag=x",
		"color=&_form=1": "/api/shop/wares",
	} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/shop/wares?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", ofFirefox)
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != want {
			t.Errorf("%s: %d, on to %q, want %q", query, res.StatusCode, res.Header.Get("Location"), want)
		}
	}
	s.Get("/api/shop/wares?_form=1").Fails(400, slipway.Invalid)                 // to a program it is unknown, as any other
	s.Get("//elsewhere.example.com/%2e%2e?_form=1", "Accept", ofFirefox).Is(404) // and leads nowhere else
	s.Get("/api/shop/../..//x?_form=1&a=1", "Accept", ofFirefox).Is(404)
}

func TestAnAnswerOfAProxyStaysAsItIs(t *testing.T) {
	t.Parallel()
	s, far := behind(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"a":1}`))
	}, nil)
	a := s.Get("/api/proxy/far/x", "Accept", ofFirefox).Is(200)
	if string(a.Body) != `{"a":1}` || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %v %s", a.Header, a.Body)
	}
	far.CloseClientConnections()
	far.Close()
	down := s.Get("/api/proxy/far/x", "Accept", ofFirefox).Is(503)
	if !strings.HasPrefix(down.Header.Get("Content-Type"), "text/html") || !strings.Contains(string(down.Body), "cannot be reached") {
		t.Errorf("got %v %s", down.Header, down.Body)
	}
}

func TestTheReferenceIsMadeOfTheDeclarations(t *testing.T) {
	t.Parallel()
	o := shopOptions()
	o.Blueprints = append(o.Blueprints, toyBlueprint(&toy{}))
	s := blueprinttest.Start(t, store.SQLite, o).As("")
	for path, wants := range map[string][]string{
		"/docs":                     {"/openapi.json", "/docs/shop", "/docs/toy/guide", "/docs/api"},
		"/docs/shop":                {"/docs/operations/shop.list", "shop.ware.read", "/docs/shop/about"},
		"/docs/slipway":             {"/docs/operations/slipway.health"},
		"/docs/operations":          {"/api/toy/things/{name}", "/api/shop/wares"},
		"/docs/operations/shop.get": {"<code>shop.ware.read</code>", "/api/shop/wares/2&#39;", "curl -H &#34;Authorization: Bearer $SLIPWAY_TOKEN&#34;", "<code>text</code>", "429"},
		"/docs/operations/toy.put":  {"-X POST", "Idempotency-Key", "tags"},
		"/docs/permissions":         {`id="toy.thing.touch"`, "Touch things"},
		"/docs/events":              {"dev.cdeventsx.slipway-"},
		"/docs/schedules":           {"Schedules"},
		"/docs/commands":            {"Commands"},
		"/docs/api":                 {"/docs/scalar.js"},
		"/docs/shop/about":          {"zeppelin"},
		"/":                         {"/docs/shop", `action="/docs/search"`},
	} {
		a := s.Get(path, "Accept", ofFirefox).Is(200)
		for _, want := range wants {
			if !strings.Contains(string(a.Body), want) {
				t.Errorf("%s: %q is missing in %s", path, want, a.Body)
			}
		}
		if path != "/docs/api" && (strings.Contains(string(a.Body), "<script") || strings.Contains(a.Header.Get("Content-Security-Policy"), "script-src")) {
			t.Errorf("%s has a script, or may have one", path)
		}
		if m := regexp.MustCompile(`(?:href|src|action)="(https?:)?//[^"]*"`).FindString(string(a.Body)); m != "" && !strings.Contains(m, s.URL) {
			t.Errorf("%s leads elsewhere: %s", path, m)
		}
	}
	about := string(s.Get("/docs/shop/about").Is(200).Body)
	if strings.Contains(about, "javascript:") {
		t.Errorf("got %s", about)
	}
	for _, path := range []string{"/docs/nope", "/docs/operations/nope", "/docs/config"} { // no command line stands behind this server
		s.Get(path).Fails(404, slipway.NotFound)
	}
	// No link of the reference leads nowhere.
	seen, todo := map[string]bool{}, []string{"/docs"}
	for len(todo) > 0 {
		path := todo[0]
		todo = todo[1:]
		a := s.Get(path).Is(200)
		for _, m := range regexp.MustCompile(`href="(/docs[^"]*)"`).FindAllStringSubmatch(string(a.Body), -1) {
			page, anchor, _ := strings.Cut(m[1], "#")
			if !seen[page] {
				seen[page] = true
				todo = append(todo, page)
			}
			if anchor != "" && !seen[m[1]] {
				seen[m[1]] = true
				if to := string(s.Get(page).Is(200).Body); !strings.Contains(to, `id="`+anchor+`"`) {
					t.Errorf("%s leads to %s, which is not there", path, m[1])
				}
			}
		}
	}
}

func TestASearchFindsWhatIsDeclared(t *testing.T) {
	t.Parallel()
	o := shopOptions()
	o.Blueprints = append(o.Blueprints, toyBlueprint(&toy{}))
	s := blueprinttest.Start(t, store.SQLite, o).As("")
	first := regexp.MustCompile(`<dt><a href="([^"]*)"`)
	for query, want := range map[string]string{
		"wares":              "/docs/operations/shop.list",
		"SHOP.ware.READ":     "/docs/permissions#shop.ware.read",
		"zeppelin":           "/docs/shop/about",
		"toy":                "/docs/toy",
		"list%20wares":       "/docs/operations/shop.list",
		"/api/toy/things":    "/docs/operations/toy.put",
		"GET%20/api/proxies": "/docs/operations/slipway.proxies",
	} {
		a := s.Get("/docs/search?q=" + query).Is(200)
		if m := first.FindStringSubmatch(string(a.Body)); m == nil || m[1] != want {
			t.Errorf("%s: got %v, want %s first", query, m, want)
		}
	}
	for _, query := range []string{"", "%20", "nothing-has-this-word", strings.Repeat("x%20", 2000), "%3Cscript%3Ealert(1)%3C/script%3E", "%ff%fe", "a&q=b"} {
		a := s.Get("/docs/search?q=" + query).Is(200)
		if strings.Contains(string(a.Body), "<script") {
			t.Errorf("%s: %s", query, a.Body)
		}
	}
}

func browserHere(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "there is no browser here; install one (Debian: apt-get install chromium)"
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// A browser that everybody has shows the pages as they are meant: styled, and with nothing of what people stored at work.
func TestAnActualBrowserShowsPages(t *testing.T) {
	t.Parallel()
	browser := browserHere(t)
	s := blueprinttest.Start(t, store.SQLite, shopOptions())
	tables := 0
	for path, want := range map[string]string{
		"/api/shop/wares":                        "List wares",
		"/api/shop/wares?color=red&limit=&_form": "List wares",
		"/api/shop/wares/2":                      "Get a ware", // refused, readably
		"/docs/operations/shop.list":             "List wares",
		"/docs/search?q=%3Cimg%20src=x%20onerror=%22document.title='taken'%22%3E": "Search",
		"/docs/shop/about": "About the shop",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
			"--user-data-dir="+t.TempDir(), "--enable-logging=stderr", "--window-size=360,800", "--dump-dom", s.URL+path)
		var console strings.Builder
		cmd.Stderr = &console
		dom, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", path, err, console.String())
		}
		if !strings.Contains(string(dom), "<title>"+want+" · Slipway</title>") || strings.Contains(string(dom), "<script") || strings.Contains(string(dom), "<img") {
			t.Errorf("%s: shown as %s", path, dom)
		}
		if strings.Contains(console.String(), "Content Security Policy") || strings.Contains(console.String(), "Refused to") {
			t.Errorf("%s: the policy does not fit the page: %s", path, console.String())
		}
		if strings.Contains(string(dom), `role="region" aria-labelledby="table-0" tabindex="0"><table>`) && strings.Contains(string(dom), `<a href="https://shop.example.com/?a=1&amp;b=2" rel="noopener noreferrer nofollow"><bdi>`) {
			tables++
		}
	}
	if tables != 2 {
		t.Errorf("the browser built %d tables of wares, want 2", tables)
	}
}
