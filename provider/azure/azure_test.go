package azure

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestConformance(t *testing.T) {
	for name, test := range map[string]struct {
		project string
		config  func(v *vendor) map[string]any
	}{
		"of a repository, with a token":    {web, func(*vendor) map[string]any { return nil }},
		"of a pipeline, as an application": {"shop//web-ci", func(v *vendor) map[string]any { return v.application() }},
		"of both, with an account": {"shop/web/web-ci", func(*vendor) map[string]any {
			return map[string]any{"credential": map[string]any{"type": "usernamePassword", "username": `FABRIKAM\jane`, "password": "pw"}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(t *testing.T) providertest.Harness {
				v := newVendor(t)
				h := v.harness(v.client(t, test.config(v), provider.Env{}))
				h.Project = test.project
				if s, _ := readSource(test.project); s.definition != "" {
					h.Entity.Metadata.Annotations[DefinitionAnnotation] = "Web-CI"
					if s.repo == "" {
						h.Entity.Metadata.Annotations[ProjectAnnotation] = "Shop"
					}
				}
				return h
			})
		})
	}
}

func (v *vendor) harness(c *client) providertest.Harness {
	return v.Faults(providertest.Harness{
		Provider: c.Provider(), Project: web, Missing: "shop/nowhere", Entity: providertest.Entity(RepoAnnotation, "shop/other, Shop/Web"),
		Add: v.add, Move: v.moveByID, Write: v.write, Notify: v.notify, Clear: true, Admit: admit,
		Sign: func([]byte) http.Header { return sign(secret) },
		Unsigned: func(t testing.TB, id string) (*provider.Provider, http.Header, []byte) {
			h, body := v.notify(t, id)
			return v.client(t, map[string]any{"webhookSecret": ""}, provider.Env{}).Provider(), h, body
		},
		Foreign: func(testing.TB) (http.Header, []byte) {
			return sign(secret), []byte(`{"eventType":"git.pullrequest.created"}`)
		},
	})
}

func TestRefusalsAreToldApart(t *testing.T) {
	signIn := "https://spsprodcus1.vssps.visualstudio.com/_signin?realm=dev.azure.com"
	providertest.Refusals(t, token, func(t *testing.T) (providertest.Harness, *providertest.Stub) {
		v := newVendor(t)
		return v.harness(v.client(t, nil, provider.Env{})), v.Stub
	}, map[string]providertest.Refusal{
		"a page to sign in on, with 203":            {Fault: providertest.Say(203, "<html>Sign In</html>"), Want: slipway.Unauthenticated},
		"a page to sign in on that looks like JSON": {Fault: providertest.Say(203, "{}"), Want: slipway.Unauthenticated},
		"a page to sign in on, elsewhere":           {Fault: providertest.Say(302, "", "Location", signIn), Want: slipway.Unauthenticated},
		"throttled":                                 {Fault: providertest.Refuse(429, "TF400733: The request has been canceled: Request was blocked due to exceeding usage of resource", "Retry-After", "42", "X-RateLimit-Limit", "200", "X-RateLimit-Remaining", "0"), Want: slipway.RateLimited, After: 42 * time.Second},
		"changed meanwhile":                         {Fault: providertest.On(http.MethodPatch, providertest.Refuse(409, "it runs already")), Retrigger: true, Want: slipway.Conflict},
		"cannot be retried":                         {Fault: providertest.On(http.MethodPatch, providertest.Refuse(400, "The build cannot be retried.")), Retrigger: true, Want: slipway.Conflict},
		"may not run it again":                      {Fault: providertest.On(http.MethodPatch, providertest.Refuse(403, "TF215106: Access denied. Queue builds permissions are needed")), Retrigger: true, Want: slipway.Forbidden},
		"half an answer":                            {Fault: providertest.Say(200, `{"value":[{"id":`, "Content-Length", "1000"), Want: slipway.Unavailable},
		"a list without its list":                   {Fault: providertest.Say(200, `{"count":0}`), Want: slipway.Unavailable},
	})
}

func TestSlowDownOfAGoodAnswerIsHeeded(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.add(t, slipway.Build{})
	v.slower = "300"
	c := v.client(t, nil, provider.Env{})
	if _, err := c.get(t.Context(), web, "1"); err != nil {
		t.Fatal(err) // it was good
	}
	_, err := c.get(t.Context(), web, "1")
	var e *slipway.Error
	if !errors.As(err, &e) || e.Code != slipway.RateLimited || e.RetryAfter < 290*time.Second || len(v.Asked()) != 1 {
		t.Errorf("got %v after %d requests; want that Azure is left alone for 300 s", err, len(v.Asked()))
	}
}

func TestRunsAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://dev.azure.com/fabrikam", APIVersion: "7.1", LoginURL: "https://login.example.com"}, provider.Env{})
	if err != nil {
		t.Fatal(err)
	}
	providertest.Golden(t, "testdata/runs", func(payload []byte) (any, error) {
		var r run
		err := provider.Unmarshal(payload, &r)
		return c.build(r), err
	})
}

func TestServiceHooksAreReadAsTheyAreSent(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	at := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	for range 12 {
		v.add(t, slipway.Build{Status: slipway.BuildFailed, CreatedAt: at})
	}
	v.builds[11].members["lastChangedDate"] = stamp(at.Add(time.Hour))
	c := v.client(t, nil, provider.Env{})
	providertest.Golden(t, "testdata/webhooks", func(payload []byte) (any, error) { return c.parse(nil, payload) })
}

func TestHookThatComesLateShowsTheBuildAsItIs(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildRunning})
	_, body := v.notify(t, id) // that it runs
	v.moveByID(t, id, slipway.BuildSucceeded)
	list, err := v.client(t, nil, provider.Env{}).parse(nil, body)
	if err != nil || len(list) != 3 || list[0].Project != web || list[1].Project != "shop//web-ci" || list[2].Project != "shop/web/web-ci" {
		t.Fatalf("got %+v, %v; want a delivery for all that the build belongs to", list, err)
	}
	if list[0].Build.Status != slipway.BuildSucceeded {
		t.Errorf("the build is %s, want as it is now", list[0].Build.Status)
	}
	for _, fault := range []providertest.Fault{providertest.Say(500, ""), providertest.Refuse(401, "expired"), providertest.Refuse(403, "no")} {
		v.Break(fault)
		if _, err := v.client(t, nil, provider.Env{}).parse(nil, body); !errors.Is(err, slipway.Unavailable) {
			t.Errorf("while Azure does not show it: got %v, want unavailable, so that the notification is sent again", err)
		}
	}
}

func TestPasswordOfHooks(t *testing.T) {
	t.Parallel()
	c := &client{cfg: Config{WebhookSecret: secret}}
	for _, test := range []struct {
		header string
		ok     bool
	}{
		{sign(secret).Get("Authorization"), true},
		{"Bearer " + secret, true},
		{"", false}, {"Bearer ", false}, {"Bearer x" + secret, false}, {secret, false}, {"Basic " + secret, false},
		{sign("").Get("Authorization"), false}, {sign(secret + "x").Get("Authorization"), false},
		{"Basic " + base64.StdEncoding.EncodeToString([]byte(secret+":")), false},
	} {
		err := c.verify(http.Header{"Authorization": {test.header}}, nil)
		if test.ok != (err == nil) || err != nil && !errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("%q: got %v", test.header, err)
		}
	}
}

func FuzzWebhook(f *testing.F) {
	files, _ := filepath.Glob("testdata/webhooks/*.json")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := readHook(body)
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
		if n.build != 0 && (n.build < 0 || strings.Trim(n.project, "0123456789abcdef-") != "" || len(n.project) != 36) {
			t.Errorf("a notification of %+v", n)
		}
	})
}

func TestProjectsOfAnEntity(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		url, repo, project, definition, org string
		want                                string
	}{
		{repo: "Shop/Web", want: "shop/web"},
		{repo: "shop/web, Web Shop/The Web", want: "shop/web|web shop/the web"},
		{repo: "shop/web", definition: "web-ci", want: "shop/web/web-ci"},
		{repo: "shop/web", definition: "web-ci, Web-Nightly", want: "shop/web/web-ci|shop/web/web-nightly"},
		{project: "shop", definition: "web-ci", want: "shop//web-ci"},
		{repo: "shop/web", project: "builds", definition: "web-ci", want: "builds//web-ci"}, // the pipeline is elsewhere
		{repo: "shop/web", project: "shop", want: "shop/web"},
		{project: "shop"},
		{repo: "shop"},
		{repo: "shop/"},
		{repo: "../web, shop/.., a/b/c/d, a?/b"},
		{repo: "shop/web", org: "dev.azure.com/Fabrikam", want: "shop/web"},
		{repo: "shop/web", org: "fabrikam.visualstudio.com", want: "shop/web"},
		{repo: "shop/web", org: "dev.azure.com/contoso"},
		{url: "https://fabrikam.visualstudio.com", repo: "shop/web", org: "dev.azure.com/fabrikam", want: "shop/web"},
		{url: "https://tfs.example.com/tfs/Main", repo: "shop/web", org: "tfs.example.com/tfs/main", want: "shop/web"},
	} {
		if test.url == "" {
			test.url = "https://dev.azure.com/fabrikam/"
		}
		c, err := newClient(Config{URL: test.url, LoginURL: "https://login.example.com"}, provider.Env{})
		if err != nil {
			t.Fatal(err)
		}
		e := providertest.Entity(RepoAnnotation, test.repo, ProjectAnnotation, test.project, DefinitionAnnotation, test.definition, OrgAnnotation, test.org)
		if got := strings.Join(c.projects(&e), "|"); got != test.want {
			t.Errorf("%+v: got %q", test, got)
		}
	}
}

func TestAccountsOfAUser(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://dev.azure.com/fabrikam", LoginURL: "https://login.example.com"}, provider.Env{})
	if err != nil {
		t.Fatal(err)
	}
	e := providertest.Entity(UserAnnotation, `FABRIKAM\jane`, EmailAnnotation, "jane@fabrikam.example.com")
	if got := fmt.Sprint(c.Provider().Accounts(&e)); got != `[FABRIKAM\jane fabrikam\jane jane@fabrikam.example.com]` {
		t.Errorf("got %s", got)
	}
}

func TestConfigTellsAllItsFaults(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]int{
		`{}`:                               1,
		`{"url":"https://dev.azure.com/"}`: 1, // no organisation
		`{"url":"https://dev.azure.com/fabrikam"}`:                                                                               0,
		`{"url":"https://dev.azure.com/fabrikam/shop"}`:                                                                          1,
		`{"url":"https://fabrikam.visualstudio.com"}`:                                                                            0,
		`{"url":"x","apiVersion":"new","loginURL":"y","tokn":"z"}`:                                                               4,
		`{"url":"https://dev.azure.com/f","tenant":"a/b","credential":{"type":"secretText","secret":"x"}}`:                       2,
		`{"url":"https://dev.azure.com/f","tenant":"t","credential":{"type":"usernamePassword","username":"id","password":"x"}}`: 0,
		`{"url":"https://dev.azure.com/f","credential":{"type":"githubApp","appId":"1","privateKey":"x"}}`:                       1,
	} {
		_, err := Kind.Open(t.Context(), json.RawMessage(config), provider.Env{})
		var e *slipway.Error
		if errors.As(err, &e); (err == nil) != (want == 0) || e != nil && len(e.Details) != want {
			t.Errorf("%s: got %v, want %d faults", config, err, want)
		}
	}
}

func TestApplicationTokensAreKeptAndReplaced(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.add(t, slipway.Build{})
	now := time.Now()
	c := v.client(t, v.application(), provider.Env{Now: func() time.Time { return now }})
	get := func(wantTokens int) {
		t.Helper()
		if _, err := c.get(t.Context(), web, "1"); err != nil {
			t.Fatal(err)
		}
		if len(v.issued) != wantTokens {
			t.Errorf("%d tokens were asked for, want %d", len(v.issued), wantTokens)
		}
	}
	get(1)
	get(1)
	now = now.Add(54 * time.Minute)
	get(1)
	now = now.Add(2 * time.Minute) // shortly before the end
	get(2)
	v.issued[1] = "revoked"
	get(3)
	if want := "/login/fabrikam.example.com/oauth2/v2.0/token?client_id=app-id&client_secret=app-secret&grant_type=client_credentials&scope=499b84ac-1321-427f-aa17-5740ca26789b%2F.default"; v.applied[0] != want {
		t.Errorf("got %s", v.applied[0])
	}
	wrong := v.application()
	wrong["credential"].(map[string]any)["password"] = "app-secret-that-expired"
	_, err := v.client(t, wrong, provider.Env{}).get(t.Context(), web, "1")
	if !errors.Is(err, slipway.Unauthenticated) || strings.Contains(fmt.Sprintf("%v %+v", err, errors.Unwrap(err)), "app-secret") {
		t.Errorf("got %v, want unauthenticated without the secret", err)
	}
}

func TestPagesOfOneMoment(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	at := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	for i := range 7 {
		v.add(t, slipway.Build{CreatedAt: at.Add(time.Duration(i) * time.Second)})
	}
	c := v.client(t, nil, provider.Env{})
	var got []string
	for o := (provider.ListOptions{Limit: 3}); ; {
		page, err := c.list(t.Context(), web, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range page.Items {
			got = append(got, b.ID)
		}
		if page.Next == "" {
			break
		}
		o.Cursor = page.Next
	}
	if fmt.Sprint(got) != "[7 6 5 4 3 2 1]" {
		t.Errorf("got %q", got)
	}
	for _, bad := range []string{"x", "7", "7 ", " 2026", "7 never"} {
		if _, err := c.list(t.Context(), web, provider.ListOptions{Cursor: bad}); !errors.Is(err, slipway.Invalid) {
			t.Errorf("cursor %q: got %v, want invalid", bad, err)
		}
	}
}

func TestNamesAreLookedUpOnceAnHour(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	now := time.Now()
	c := v.client(t, nil, provider.Env{Now: func() time.Time { return now }})
	for i, after := range []time.Duration{0, time.Minute, time.Hour} {
		now = now.Add(after)
		if _, err := c.list(t.Context(), "shop/web/web-ci", provider.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		if got, want := v.Count("GET /Fabrikam/shop/_apis/git/repositories/web"), []int{1, 1, 2}[i]; got != want {
			t.Errorf("look %d: the repository was looked up %d times, want %d", i, got, want)
		}
	}
	if _, err := c.list(t.Context(), "shop/web/nightly", provider.ListOptions{}); !errors.Is(err, slipway.NotFound) || !strings.Contains(err.Error(), "nightly") {
		t.Errorf("a pipeline that is not there: got %v", err)
	}
}

func TestRetriggerChoosesWhatToRun(t *testing.T) {
	t.Parallel()
	again := "definition:map[id:5] parameters:{\"level\":\"3\"} sourceBranch:refs/heads/main sourceVersion:40c59264e73fc5e1a6cab192f1622d26b7bd5c2a templateParameters:map[dry:true]"
	for _, test := range []struct {
		status slipway.BuildStatus
		extra  map[string]any
		want   string // request and body
		same   bool   // build
		code   slipway.Code
	}{
		{slipway.BuildFailed, nil, "PATCH /Fabrikam/shop/_apis/build/builds/1 map[]", true, ""},
		{slipway.BuildCanceled, nil, "PATCH /Fabrikam/shop/_apis/build/builds/1 map[]", true, ""},
		{slipway.BuildFailed, map[string]any{"stage": "deploy"}, "PATCH /Fabrikam/shop/_apis/build/builds/1/stages/deploy map[forceRetryAllJobs:false state:retry]", true, ""},
		{slipway.BuildFailed, map[string]any{"stage": "deploy", "all": true}, "PATCH /Fabrikam/shop/_apis/build/builds/1/stages/deploy map[forceRetryAllJobs:true state:retry]", true, ""},
		{slipway.BuildFailed, map[string]any{"stage": "lunch"}, "PATCH /Fabrikam/shop/_apis/build/builds/1/stages/lunch map[forceRetryAllJobs:false state:retry]", false, slipway.NotFound},
		{slipway.BuildFailed, map[string]any{"all": true}, "POST /Fabrikam/shop/_apis/build/builds map[" + again + "]", false, ""},
		{slipway.BuildSucceeded, nil, "POST /Fabrikam/shop/_apis/build/builds map[" + again + "]", false, ""},
		{slipway.BuildSucceeded, map[string]any{"variables": map[string]any{"level": 4}}, "POST /Fabrikam/shop/_apis/build/builds map[" + strings.Replace(again, `"3"`, `"4"`, 1) + "]", false, ""},
		{slipway.BuildStarting, nil, "", false, slipway.Conflict},
	} {
		v := newVendor(t)
		id := v.add(t, slipway.Build{Status: test.status})
		q := v.find(id)
		q.members["parameters"], q.members["templateParameters"] = `{"level":"3"}`, map[string]any{"dry": "true"}
		again, err := v.client(t, nil, provider.Env{}).retrigger(t.Context(), web, id, test.extra, slipway.Caller{})
		if slipway.CodeOf(err) != test.code {
			t.Errorf("%s with %v: got %v, want %q", test.status, test.extra, err, test.code)
		}
		got := ""
		if last := v.Last(); last.Method != "" {
			got = fmt.Sprint(last, " ", last.Body)
		}
		if got != test.want {
			t.Errorf("%s with %v: got %s\nwant %s", test.status, test.extra, got, test.want)
		}
		if test.code == "" && (again == nil || test.same != (again.ID == id) || again.Status.Finished()) {
			t.Errorf("%s with %v: got %+v; want the same build %v", test.status, test.extra, again, test.same)
		}
	}
}

func TestBuildWithWarningsHasNoFailedJobs(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
	v.find(id).members["result"] = "partiallySucceeded"
	again, err := v.client(t, nil, provider.Env{}).retrigger(t.Context(), web, id, nil, slipway.Caller{})
	if err != nil || again == nil || again.ID == id {
		t.Errorf("got %+v, %v; want a new build", again, err)
	}
}

func TestWhatRunsAgainIsNewer(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	c := v.client(t, nil, provider.Env{})
	before, err := c.get(t.Context(), web, id)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.retrigger(t.Context(), web, id, nil, slipway.Caller{})
	if err != nil || !again.UpdatedAt.After(*before.UpdatedAt) || again.FinishedAt != nil || !again.CreatedAt.Equal(before.CreatedAt) {
		t.Errorf("got %+v, %v; want it to run, later than %v", again, err, before.UpdatedAt)
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	sha := strings.Repeat("40c5", 10)
	for _, test := range []struct {
		project string
		o       provider.StartOptions
		want    string // the body
		code    slipway.Code
	}{
		{web, provider.StartOptions{Ref: "main"}, "map[definition:map[id:5] sourceBranch:refs/heads/main]", ""},
		{web, provider.StartOptions{}, "map[definition:map[id:5]]", ""},
		{web, provider.StartOptions{Ref: "refs/tags/v1"}, "map[definition:map[id:5] sourceBranch:refs/tags/v1]", ""},
		{web, provider.StartOptions{Ref: sha}, "map[definition:map[id:5] sourceVersion:" + sha + "]", ""},
		{web, provider.StartOptions{Ref: "gone"}, "map[definition:map[id:5] sourceBranch:refs/heads/gone]", slipway.Invalid},
		{web, provider.StartOptions{Ref: "main", Pipeline: "Web-CI"}, "map[definition:map[id:5] sourceBranch:refs/heads/main]", ""},
		{web, provider.StartOptions{Ref: "main", Pipeline: "5"}, "map[definition:map[id:5] sourceBranch:refs/heads/main]", ""},
		{web, provider.StartOptions{Ref: "main", Pipeline: "release"}, "", slipway.NotFound},
		{web, provider.StartOptions{Ref: "main", Pipeline: "web-*"}, "", slipway.Invalid},
		{"shop//web-ci", provider.StartOptions{Ref: "main"}, "map[definition:map[id:5] sourceBranch:refs/heads/main]", ""},
		{web, provider.StartOptions{Ref: "main", Extra: map[string]any{"inputs": map[string]any{"dry": true}, "variables": map[string]any{"level": 3}}},
			`map[definition:map[id:5] parameters:{"level":"3"} sourceBranch:refs/heads/main templateParameters:map[dry:true]]`, ""},
		{web, provider.StartOptions{Ref: "main", Extra: map[string]any{"variables": "x"}}, "", slipway.Invalid},
	} {
		v := newVendor(t)
		started, err := v.client(t, nil, provider.Env{}).start(t.Context(), test.project, test.o, slipway.Caller{})
		if slipway.CodeOf(err) != test.code {
			t.Errorf("%+v: got %v, want %q", test.o, err, test.code)
		}
		if test.code == "" && (started == nil || started.Trigger != slipway.TriggerManual) {
			t.Errorf("%+v: got %+v, want the build", test.o, started)
		}
		if got := fmt.Sprint(v.Last().Body); got != test.want && (test.want != "" || v.Last().Method != "") {
			t.Errorf("%+v: got %s\nwant %s", test.o, got, test.want)
		}
	}
}

func TestSeveralPipelinesAreNamed(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.definitions = append(v.definitions, map[string]any{"id": 6, "name": "web-nightly", "path": `\nightly`})
	_, err := v.client(t, nil, provider.Env{}).start(t.Context(), web, provider.StartOptions{Ref: "main"}, slipway.Caller{})
	if !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), `5 (web-ci), 6 (nightly\web-nightly)`) {
		t.Errorf("got %v, want invalid with their ids and names", err)
	}
}

func TestBuildsOfOtherPipelinesAreNotShown(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{})
	c := v.client(t, nil, provider.Env{})
	for project, want := range map[string]slipway.Code{web: "", "shop//web-ci": "", "shop/other": slipway.NotFound, "shop//other": slipway.NotFound, "shop": slipway.NotFound, "a/b/c/d": slipway.NotFound} {
		if _, err := c.get(t.Context(), project, id); slipway.CodeOf(err) != want {
			t.Errorf("%s: got %v, want %q", project, err, want)
		}
	}
}

func TestLogsFollowTheTreeOfTasks(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildRunning})
	q := v.find(id)
	v.addTask(q, "t2", "j1", "Task", "Test", 2)
	v.addTask(q, "s2", "", "Stage", "Deploy", 2)
	v.addTask(q, "j2", "s2", "Job", "Ship", 1)
	v.addTask(q, "s1", "", "Stage", "Build", 1)
	v.addTask(q, "p1", "s1", "Phase", "Phase", 1)
	v.addTask(q, "j1", "p1", "Job", "Linux", 1)
	v.addTask(q, "t1", "j1", "Task", "Make", 1)
	v.addTask(q, "t3", "j2", "Task", "Push", 1)
	v.addTask(q, "t4", "j2", "Task", "Skipped", 2)
	v.addTask(q, "loop", "loop", "Task", "Itself", 3)
	v.addTask(q, "a", "b", "Job", "A", 4)
	v.addTask(q, "b", "a", "Job", "B", 5)
	v.addLog(q, "t1", "\ufeffmade\n")
	v.addLog(q, "t2", "tested\n")
	v.addLog(q, "t3", "gone")
	v.moveByID(t, id, slipway.BuildFailed)
	want := "==> Linux / Make <==\nmade\n==> Linux / Test <==\ntested\n==> Ship / Push <==\n(Azure DevOps does not keep this log any more)\n"
	for _, follow := range []bool{false, true} {
		log, err := v.client(t, nil, provider.Env{}).logs(t.Context(), web, id, follow)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(log); err != nil || string(text) != want {
			t.Errorf("got %q, %v\nwant %q", text, err, want)
		}
		_ = log.Close()
	}
	v.Break(func(w http.ResponseWriter, r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/logs/") && providertest.Say(203, "<html>Sign In</html>")(w, r)
	})
	log, err := v.client(t, nil, provider.Env{}).logs(t.Context(), web, id, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	if text, err := io.ReadAll(log); !errors.Is(err, slipway.Unauthenticated) || strings.Contains(string(text), "html") {
		t.Errorf("a page to sign in on in place of a log: got %q, %v", text, err)
	}
}

func TestCheckTellsWhoAsks(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	p := v.client(t, nil, provider.Env{}).Provider()
	if in, err := p.Inspect(t.Context(), web); err != nil || in.Account != "jane@fabrikam.example.com" || len(in.Lacks) > 0 {
		t.Errorf("got %+v, %v", in, err)
	}
	v.Break(func(w http.ResponseWriter, r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/git/") && providertest.Refuse(403, "no scope")(w, r)
	})
	if in, err := v.client(t, nil, provider.Env{}).inspect(t.Context(), web); err != nil || len(in.Lacks) != 1 {
		t.Errorf("a token without the scope of code: got %+v, %v", in, err)
	}
	v.Break(providertest.Say(200, `{"authenticatedUser":{"id":"`+anonymous+`","providerDisplayName":"Anonymous"}}`))
	if err := v.client(t, nil, provider.Env{}).check(t.Context()); !errors.Is(err, slipway.Unauthenticated) {
		t.Errorf("a token that Azure ignores: got %v, want unauthenticated", err)
	}
}

func TestTokensAreShownAsWhatTheyAre(t *testing.T) {
	t.Parallel()
	for secret, want := range map[provider.Secret]string{
		"pat":   "Basic " + base64.StdEncoding.EncodeToString([]byte(":pat")),
		"a.b.c": "Bearer a.b.c",
	} {
		if got := show(secret, "token "); got.Value != want || strings.Contains(got.Account, string(secret)) {
			t.Errorf("%s is shown as %+v", strconv.Quote(string(secret)), got)
		}
	}
	if !slices.Contains(strings.Fields("shop/web"), source{project: "shop", repo: "web"}.String()) {
		t.Error("a source is not written as it is read")
	}
}

func TestWhoIsShownNoneOfTheBuildsMayNotSeeThem(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		ours, theirs string
		want         slipway.Code
	}{{`[{}]`, `[{}]`, ""}, {`[]`, `[]`, ""}, {`[{}]`, `[]`, slipway.Forbidden}} {
		c, err := newClient(Config{URL: "https://dev.azure.com/fabrikam", APIVersion: "7.1"}, provider.Env{HTTP: &http.Client{Transport: providertest.Transport(func(r *http.Request) (*http.Response, error) {
			body := `{"value":` + tt.ours + `}`
			switch {
			case strings.HasSuffix(r.URL.Path, "/definitions"):
				body = `{"value":[{"id":5,"name":"web-ci"}]}`
			case r.Header.Get("Authorization") != "":
				body = `{"value":` + tt.theirs + `}`
			}
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		})}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.access(t.Context(), "shop//web-ci", "theirs"); slipway.CodeOf(err) != tt.want {
			t.Errorf("ours %s, theirs %s: got %v, want %q", tt.ours, tt.theirs, err, tt.want)
		}
	}
}
