package jenkins

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/jenkinstest"
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestConformance(t *testing.T) {
	for name, test := range map[string]struct {
		kind   jenkinstest.Kind
		config map[string]any
	}{
		"a pipeline, with an API token":       {jenkinstest.Pipeline, nil},
		"a job, with a password and crumbs":   {jenkinstest.Freestyle, withPassword},
		"branches, whose builds are one list": {jenkinstest.Multibranch, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(t *testing.T) providertest.Harness {
				v := newVendor(t, test.kind)
				return v.harness(v.client(t, test.config, provider.Env{}).Provider())
			})
		})
	}
}

func TestRunsAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/runs", func(payload []byte) (any, error) {
		var file struct {
			Job      string
			Paused   bool
			Unstable string
			Run      json.RawMessage
		}
		if err := json.Unmarshal(payload, &file); err != nil {
			return nil, err
		}
		var r run
		if err := provider.Unmarshal(file.Run, &r); err != nil {
			return nil, err
		}
		c := &client{cfg: Config{Unstable: cmp.Or(file.Unstable, "succeeded")}, base: "https://jenkins.example.com/ci"}
		return c.build(file.Job, r, file.Paused), nil
	})
}

// notification is a webhook as it is kept in a file.
type notification struct {
	Headers map[string]string
	RawBody string
}

func (n notification) header() http.Header {
	h := sign(nil)
	for name, value := range n.Headers {
		h.Set(name, value)
	}
	return h
}

func TestWebhooksAreReadAsTheyAreSent(t *testing.T) {
	t.Parallel()
	c := &client{cfg: Config{WebhookSecret: secret}}
	providertest.Golden(t, "testdata/webhooks", func(payload []byte) (any, error) {
		var n notification
		if err := json.Unmarshal(payload, &n); err != nil {
			return nil, err
		}
		if err := c.verify(n.header(), []byte(n.RawBody)); err != nil {
			return nil, err
		}
		return parse(n.header(), []byte(n.RawBody))
	})
	for name, header := range map[string]func(*http.Request){
		"none":              func(*http.Request) {},
		"another password":  func(r *http.Request) { r.SetBasicAuth("jenkins", "s3cret") },
		"an empty password": func(r *http.Request) { r.SetBasicAuth("jenkins", "") },
		"the secret as user": func(r *http.Request) {
			r.SetBasicAuth(secret, "")
		},
		"a token": func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret) },
	} {
		r := &http.Request{Header: http.Header{}}
		header(r)
		if err := c.verify(r.Header, []byte("{}")); !errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("%s: got %v, want unauthenticated", name, err)
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
		var n notification
		if json.Unmarshal(text, &n) == nil {
			f.Add(n.Headers["Content-Type"], []byte(n.RawBody))
		}
	}
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		list, err := parse(http.Header{"Content-Type": {kind}}, body)
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
		if len(list) > maxLevels {
			t.Errorf("one notification gives %d deliveries", len(list))
		}
		for _, d := range list {
			if name, err := fullName(d.Project); err != nil || name != d.Project {
				t.Errorf("delivery for %q, which is no project's spelling", d.Project)
			}
		}
	})
}

func FuzzBuildIDs(f *testing.F) {
	f.Add("shop/web", "Shop/Web#7")
	f.Add("shop", "shop/web/feature%2Fx#12")
	f.Add("a", "a#1#2")
	f.Add("a", "a/../b#1")
	f.Fuzz(func(t *testing.T, project, id string) {
		job, number, err := splitID(project, id)
		if err != nil {
			if !errors.Is(err, slipway.NotFound) {
				t.Errorf("got %v, want not found", err)
			}
			return
		}
		if buildID(job, number) != id {
			t.Errorf("%q is read as %s and %d", id, job, number)
		}
		if path := buildPath(job, number, ""); strings.Contains(path, "..") && !strings.Contains(job, "..") || strings.ContainsAny(path, "?#") {
			t.Errorf("%q leads to %s", id, path)
		}
	})
}

func TestProjectsOfAnEntity(t *testing.T) {
	t.Parallel()
	main := Config{URL: "https://Jenkins.example.com/ci/", Default: true}
	other := Config{URL: "https://builds.example.com", Instance: "Builds"}
	for _, test := range []struct {
		annotations []string
		main, other string // what each of two Jenkins takes
	}{
		{[]string{Annotation, "Shop/Web"}, "shop/web", ""},
		{[]string{Annotation, " /shop/web/ , shop/api"}, "shop/web shop/api", ""},
		{[]string{Annotation, "builds:shop/web,shop/web"}, "shop/web", "shop/web"},
		{[]string{Annotation, "main:a, builds:b, gone:c, default:d"}, "a d", "b"},
		{[]string{OldAnnotation, "shop/web"}, "shop/web", ""},
		{[]string{OldAnnotation, "old", Annotation, "new"}, "new", ""},
		{[]string{Annotation, "shop/web", URLAnnotation, "https://builds.example.com/"}, "", "shop/web"},
		{[]string{Annotation, "shop/web", URLAnnotation, "https://jenkins.example.com/ci"}, "shop/web", ""},
		{[]string{Annotation, "shop/web", URLAnnotation, "https://elsewhere.example.com"}, "", ""},
		{[]string{Annotation, "shop/web/main, shop/web, shop/webshop"}, "shop/web shop/webshop", ""}, // what lies in another is its already
		{[]string{Annotation, "shop/Night Build/feature%2Fx"}, "shop/night build/feature%2fx", ""},
		{[]string{Annotation, "a/../b, ., a//b, a#1, a?b, , x\x00y, a/ b"}, "", ""},
	} {
		e := providertest.Entity(test.annotations...)
		for _, ask := range []struct {
			cfg        Config
			name, want string
		}{{main, "main", test.main}, {other, "second", test.other}} {
			c, err := newClient(ask.cfg, provider.Env{Name: ask.name})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(c.projects(&e), " "); got != ask.want {
				t.Errorf("%q, asked of %s: got %q, want %q", test.annotations, ask.name, got, ask.want)
			}
		}
	}
}

func TestConfigTellsAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"jenkins","tokn":"x","unstable":"maybe","instance":"a:b","credential":{"type":"secretText","secret":"x"}}`), provider.Env{})
	var e *slipway.Error
	if !errors.As(err, &e) || len(e.Details) != 5 {
		t.Errorf("got %v, want five faults", err)
	}
}

func TestRefusalsAreToldApart(t *testing.T) {
	t.Parallel()
	const page = `<html><head><meta http-equiv='refresh' content='1;url=/login?from=%2F'/></head><body>Authentication required</body></html>`
	providertest.Refusals(t, token, func(t *testing.T) (providertest.Harness, *providertest.Stub) {
		v := newVendor(t, jenkinstest.Freestyle)
		return v.harness(v.client(t, nil, provider.Env{}).Provider()), v.Stub
	}, map[string]providertest.Refusal{
		"garbage":               {Fault: providertest.Say(200, "<html>Welcome</html>"), Want: slipway.Unavailable},
		"a page to sign in on":  {Fault: providertest.Say(200, `<html><form action="j_spring_security_check">`, "Content-Type", "text/html"), Want: slipway.Unauthenticated},
		"no permission to look": {Fault: providertest.Say(403, page, "X-Required-Permission", "hudson.model.Item.Read", "X-You-Are-Authenticated-As", "bot"), Want: slipway.Forbidden},
		"starting up":           {Fault: providertest.Say(503, "<html>Please wait while Jenkins is getting ready to work", "Retry-After", "60"), Want: slipway.Unavailable, After: time.Minute},
		"oops":                  {Fault: providertest.Say(500, "<html>Oops! A problem occurred while processing the request."), Want: slipway.Unavailable},
		"no permission to build": {
			Fault: providertest.On(http.MethodPost, providertest.Say(403, page, "X-Required-Permission", "hudson.model.Item.Build")), Retrigger: true, Want: slipway.Forbidden,
		},
		"a crumb that is never good": {Fault: providertest.On(http.MethodPost, providertest.Say(403, "<html>No valid crumb was included in the request")), Retrigger: true, Want: slipway.Forbidden},
		"a proxy that makes GETs of POSTs": {
			Fault: providertest.On(http.MethodPost, providertest.Say(405, "<html>")), Retrigger: true, Want: slipway.Invalid,
		},
		"refused in words": {
			Fault: providertest.On(http.MethodPost, providertest.Say(400, "<html>", "X-Error", "No parameters today.")), Retrigger: true, Want: slipway.Invalid,
		},
	})
}

func TestPermissionsAreNamedAsPeopleKnowThem(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{"hudson.model.Item.Build": "Job/Build", "hudson.model.Hudson.Read": "Overall/Read", "hudson.model.Run.Replay": "Run/Replay", "": "", "x": ""} {
		if got := permissionName(id); got != want {
			t.Errorf("%q: got %q, want %q", id, got, want)
		}
	}
}

func TestCheckTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config map[string]any
		change func(*vendor)
		want   slipway.Code
		says   string
	}{
		"all is well":        {want: ""},
		"a bad token":        {config: map[string]any{"credential": map[string]any{"type": "usernamePassword", "username": "bot", "password": "no"}}, want: slipway.Unauthenticated},
		"nobody may look":    {config: map[string]any{"credential": map[string]any{}}, want: slipway.Unauthenticated, says: "credential"},
		"everybody may look": {config: map[string]any{"credential": map[string]any{}}, change: func(v *vendor) { v.Open = true }},
		"another address":    {config: map[string]any{"url": "/elsewhere"}, want: slipway.Unavailable},
		"something else":     {change: func(v *vendor) { v.Break(providertest.Say(200, "{}", "Content-Type", "application/json")) }, want: slipway.Unavailable},
		"no Jenkins":         {change: func(v *vendor) { v.Break(providertest.Say(404, "")) }, want: slipway.NotFound, says: "url"},
		"a proxy that takes away": {change: func(v *vendor) {
			v.Break(providertest.Say(200, `{"name":"anonymous","anonymous":true}`, "X-Jenkins", "2.516"))
		}, want: slipway.Unauthenticated, says: "proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVendor(t, jenkinstest.Freestyle)
			if test.change != nil {
				v.Do(func() { test.change(v) })
			}
			if at, ok := test.config["url"].(string); ok {
				test.config["url"] = v.URL + at
			}
			err := v.client(t, test.config, provider.Env{}).check(t.Context())
			if slipway.CodeOf(err) != test.want || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q and word of %q", err, test.want, test.says)
			}
		})
	}
}

func TestInspectTellsWhoseTheCredentialIs(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Freestyle)
	if in, err := v.client(t, nil, provider.Env{}).inspect(t.Context(), project); err != nil || in.Account != "bot" || len(in.Lacks) > 0 {
		t.Errorf("got %+v, %v; want bot, who lacks nothing", in, err)
	}
	if in, err := v.client(t, nil, provider.Env{}).inspect(t.Context(), "nowhere"); err != nil || len(in.Lacks) != 1 || !strings.Contains(in.Lacks[0], "Job/Read") {
		t.Errorf("of a job that is not there: got %+v, %v", in, err)
	}
	v.Do(func() { v.Open = true })
	if in, err := v.client(t, map[string]any{"credential": map[string]any{}}, provider.Env{}).inspect(t.Context(), project); err != nil || len(in.Lacks) != 1 {
		t.Errorf("without an account: got %+v, %v; want that something is lacking", in, err)
	}
}

func TestCrumbsAreForPasswordsOnly(t *testing.T) {
	t.Parallel()
	issued := func(v *vendor) int {
		return len(slices.DeleteFunc(v.Jenkins.Asked(), func(a string) bool { return !strings.HasPrefix(a, "GET /crumbIssuer") }))
	}
	start := func(v *vendor, c *client) error {
		_, err := c.start(t.Context(), project, provider.StartOptions{Ref: "main"}, slipway.Caller{})
		return err
	}
	v := newVendor(t, jenkinstest.Freestyle)
	if err := start(v, v.client(t, nil, provider.Env{})); err != nil || issued(v) != 0 {
		t.Errorf("with a token: got %v and %d crumbs, want none", err, issued(v))
	}
	c := v.client(t, withPassword, provider.Env{})
	for range 3 {
		if err := start(v, c); err != nil {
			t.Fatal(err)
		}
	}
	if issued(v) != 1 {
		t.Errorf("with a password: %d crumbs for three builds, want one", issued(v))
	}
	v.EndSessions()
	if err := start(v, c); err != nil || issued(v) != 2 {
		t.Errorf("once the session ended: got %v and %d crumbs, want a second one", err, issued(v))
	}
	v.Do(func() { v.NoCrumb = true })
	if err := start(v, v.client(t, withPassword, provider.Env{})); err != nil || issued(v) != 2 {
		t.Errorf("where none is wanted: got %v and %d crumbs", err, issued(v))
	}
}

func TestPipelineThatWaitsForSomebodyIsBlocked(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Pipeline)
	now := time.Now()
	id := v.add(t, slipway.Build{Status: slipway.BuildRunning})
	c := v.client(t, nil, provider.Env{Now: func() time.Time { return now }})
	blocked := func() bool {
		t.Helper()
		page, err := c.list(t.Context(), project, provider.ListOptions{})
		if err != nil || len(page.Items) != 1 || page.Items[0].Status != slipway.BuildRunning {
			t.Fatalf("got %+v, %v; want one that is running", page.Items, err)
		}
		b, err := c.get(t.Context(), project, id)
		if err != nil || b.Blocked != page.Items[0].Blocked {
			t.Errorf("got %+v, %v; want what the list shows", b, err)
		}
		return b.Blocked
	}
	if blocked() {
		t.Error("it is blocked though it runs")
	}
	v.Do(func() { v.find2(id).Paused = true })
	if !blocked() {
		t.Error("it is not blocked though it waits")
	}
	asked := func() int {
		return len(slices.DeleteFunc(v.Jenkins.Asked(), func(a string) bool { return !strings.Contains(a, "/wfapi/") }))
	}
	v.Do(func() { v.Without["wfapi"] = true })
	before := asked()
	for range 2 {
		if blocked() {
			t.Error("it is blocked though Jenkins cannot tell")
		}
	}
	if asked() != before+1 {
		t.Errorf("without the plugin it was asked %d times, want once", asked()-before)
	}
	now = now.Add(stagesRest + time.Second)
	if blocked(); asked() != before+2 {
		t.Errorf("after a while it was asked %d times more, want once", asked()-before-1)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Freestyle)
	id := v.add(t, slipway.Build{Status: slipway.BuildRunning})
	c := v.client(t, nil, provider.Env{})
	v.write(t, id, "Started by "+jenkinstest.Mark+"Jane\n")
	log, err := c.logs(t.Context(), project, id, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	var got strings.Builder
	read := func(want string) {
		t.Helper()
		for b := make([]byte, 1); got.Len() < len(want); {
			n, err := log.Read(b)
			got.Write(b[:n])
			if err != nil {
				t.Fatalf("got %q, then %v", got.String(), err)
			}
		}
		if got.String() != want {
			t.Fatalf("got %q, want %q", got.String(), want)
		}
	}
	read("Started by Jane\n")
	v.write(t, id, "one "+jenkinstest.Mark+jenkinstest.Mark+"two\n") // positions count what is not shown
	read("Started by Jane\none two\n")
	v.move(t, id, slipway.BuildSucceeded)
	if n, err := log.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("after the end: got %d bytes, %v", n, err)
	}
	v.Do(func() { v.find2(id).NoLog = true })
	gone, err := c.logs(t.Context(), project, id, false)
	if err != nil {
		t.Fatal(err)
	}
	if text := readAll(t, gone); !strings.Contains(text, "does not keep") {
		t.Errorf("of a log that was deleted: got %q", text)
	}
}

func TestAddressesWithBranchesAndSpaces(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Multibranch)
	job := v.Jenkins.Add(jenkinstest.Pipeline, "Night Build/feature%2F50%25")
	r := v.Run(job, jenkinstest.Success, time.Time{})
	c := v.client(t, nil, provider.Env{})
	id := buildID(job.FullName(), r.Number)
	b, err := c.get(t.Context(), "night build", id)
	if err != nil || b.ID != id || b.Pipeline.Name != "Night Build/feature/50%" {
		t.Fatalf("got %+v, %v", b, err)
	}
	if want := v.URL + prefix + "/job/Night%20Build/job/feature%252F50%2525/1/"; b.URL != want {
		t.Errorf("got %s, want %s", b.URL, want)
	}
	for _, foreign := range []string{"shop/web/main#1", "night build2/x#1", "night build#01", "night build#0", "night build#-1", "night build#1x", "#1", "night build"} {
		if _, err := c.get(t.Context(), "night build", foreign); !errors.Is(err, slipway.NotFound) {
			t.Errorf("build %q of another project: got %v, want not found", foreign, err)
		}
	}
}

func TestWhoDoesNotSeeAllJobsOfAFolderSeesNone(t *testing.T) {
	t.Parallel()
	const all = `{"fullName":"shop","jobs":[{"fullName":"shop/web"},{"fullName":"shop/in","jobs":[{"fullName":"shop/in/secret"}]}]}`
	for theirs, want := range map[string]slipway.Code{
		all:                             "",
		`{"fullName":"shop","jobs":[]}`: slipway.Forbidden,
		`{"fullName":"shop","jobs":[{"fullName":"shop/web"}]}`:                                  slipway.Forbidden,
		`{"fullName":"shop","jobs":[{"fullName":"shop/web"},{"fullName":"shop/in","jobs":[]}]}`: slipway.Forbidden,
		`{"fullName":"shop"}`: "", // a job, and no folder
	} {
		c, err := newClient(Config{URL: "https://ci.example.com", Unstable: "failed"}, provider.Env{HTTP: &http.Client{Transport: providertest.Transport(func(r *http.Request) (*http.Response, error) {
			body := all
			if r.Header.Get("Authorization") != "" {
				body = theirs
			}
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		})}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.access(t.Context(), "shop", "jane:11d0"); slipway.CodeOf(err) != want {
			t.Errorf("%s: got %v, want %q", theirs, err, want)
		}
	}
}
