package github

import (
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
	for name, config := range map[string]map[string]any{"with a token": nil, "as an app": appCredential()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(t *testing.T) providertest.Harness {
				v := newVendor(t)
				return harness(t, v, v.open(t, config, provider.Env{}))
			})
		})
	}
}

func harness(t *testing.T, v *vendor, p *provider.Provider) providertest.Harness {
	return v.Faults(providertest.Harness{
		Provider: p,
		Project:  hello,
		Missing:  "octo/nowhere",
		Entity:   providertest.Entity(Annotation, "octo/other, Octo/Hello"),
		Add:      v.add, Move: v.moveByID, Notify: v.notify, Sign: sign,
		Unsigned: func(t testing.TB, id string) (*provider.Provider, http.Header, []byte) {
			h, body := v.notify(t, id)
			return v.open(t, map[string]any{"webhookSecret": ""}, provider.Env{}), h, body
		},
		Foreign: func(testing.TB) (http.Header, []byte) {
			body := []byte(`{"zen":"Design for failure."}`)
			h := sign(body)
			h.Set("X-Github-Event", "ping")
			return h, body
		},
		Deploy: v.deploy,
		Admit:  admit,
	})
}

func TestRunsAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/runs", func(payload []byte) (any, error) {
		var r workflowRun
		err := provider.Unmarshal(payload, &r)
		return r.build(), err
	})
}

func TestWebhooksAreReadAsTheyAreSent(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/webhooks", func(payload []byte) (any, error) {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(payload, &members); err != nil {
			return nil, err
		}
		h := http.Header{}
		for _, event := range []string{"workflow_run", "workflow_job", "check_run", "deployment", "deployment_status"} {
			if members[event] != nil {
				h.Set("X-GitHub-Event", event)
			}
		}
		if members["pusher"] != nil {
			h.Set("X-GitHub-Event", "push")
		}
		return parse(h, payload)
	})
}

func TestSignatureVectors(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/webhook-signature-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []struct{ Secret, Body, Signature string }
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(file.Vectors), err)
	}
	for _, v := range file.Vectors {
		c := &client{cfg: Config{WebhookSecret: provider.Secret(v.Secret)}}
		verify := func(signature string) error {
			return c.verify(http.Header{"X-Hub-Signature-256": {signature}}, []byte(v.Body))
		}
		if err := verify(v.Signature); err != nil {
			t.Errorf("%q: %v", v.Body, err)
		}
		hex := strings.TrimPrefix(v.Signature, "sha256=")
		for _, wrong := range []string{"", "sha256=", hex, "sha1=" + hex, "sha256=" + hex[:62], "sha256=" + hex + "00", "sha256=zz" + hex[2:], v.Signature + " "} {
			if err := verify(wrong); !errors.Is(err, slipway.Unauthenticated) {
				t.Errorf("signature %q: got %v, want unauthenticated", wrong, err)
			}
		}
	}
}

func TestWebhookAsFormIsReadToo(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	_, body := v.notify(t, v.add(t, slipway.Build{}))
	form := []byte("payload=" + strings.NewReplacer("%", "%25", "&", "%26", "+", "%2B", ";", "%3B").Replace(string(body)))
	h := http.Header{"X-Github-Event": {"workflow_run"}, "Content-Type": {"application/x-www-form-urlencoded"}}
	if got, err := parse(h, form); err != nil || len(got) != 1 || got[0].Build == nil {
		t.Errorf("got %v, %v; want one build", got, err)
	}
}

func FuzzWebhook(f *testing.F) {
	files, _ := filepath.Glob("testdata/webhooks/workflow_*.json")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("workflow_run", text)
	}
	f.Add("workflow_job", []byte(`{"repository":{"full_name":"a/b"}}`))
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		list, err := parse(http.Header{"X-Github-Event": {event}}, body)
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
		for _, d := range list {
			if d.Project == "" || d.Build != nil && (d.Build.ID == "" || d.Build.CreatedAt.IsZero() || d.Build.Status == "") {
				t.Errorf("a delivery without its parts: %+v", d)
			}
		}
	})
}

func TestProjectsOfAnEntity(t *testing.T) {
	t.Parallel()
	c := &client{host: "github.com"}
	for _, test := range []struct{ annotation, source, want string }{
		{"Octo/Hello", "", "octo/hello"},
		{" octo/hello ,octo/hello/, octo/web.site", "", "octo/hello octo/web.site"},
		{"octo", "", ""},
		{"octo/..", "", ""},
		{"octo/hello?x", "", ""},
		{"octo/hello", "url:https://github.com/octo/hello/tree/main/", "octo/hello"},
		{"octo/hello", "url:https://ghe.example.com/octo/hello/", ""}, // the other one of two
		{"octo/hello", "url:https://ghe.example.com/else/where/", "octo/hello"},
		{"github.com/octo/hello", "url:https://ghe.example.com/octo/hello/", "octo/hello"},
		{"ghe.example.com/octo/hello, octo/web", "", "octo/web"},
	} {
		e := providertest.Entity(Annotation, test.annotation, "backstage.io/source-location", test.source)
		if got := strings.Join(c.projects(&e), " "); got != test.want {
			t.Errorf("%q with source %q: got %q, want %q", test.annotation, test.source, got, test.want)
		}
	}
	for api, want := range map[string]string{"https://api.github.com": "github.com", "https://ghe.example.com/api/v3": "ghe.example.com", "https://api.acme.ghe.com": "acme.ghe.com"} {
		if got := webHost(api); got != want {
			t.Errorf("people look at %s at %q, want %q", api, got, want)
		}
	}
}

func TestConfigTellsAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"ghe.example.com","webhokSecret":"x","credential":{"type":"githubApp","appId":"7","privateKey":"s3cret"}}`), provider.Env{})
	var e *slipway.Error
	if !errors.As(err, &e) || len(e.Details) != 3 || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v, want three faults and no secret", err)
	}
	if _, err := Kind.Open(t.Context(), nil, provider.Env{}); err != nil {
		t.Errorf("no config at all reads public repositories: %v", err)
	}
}

// refusals are what GitHub answers with when it will not.
func TestRefusalsAreToldApart(t *testing.T) {
	t.Parallel()
	reset := strconv.FormatInt(time.Now().Add(10*time.Minute).Unix(), 10)
	tooOld := strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	refuse := providertest.Refuse
	post := func(status int, message string, header ...string) providertest.Fault {
		return providertest.On(http.MethodPost, refuse(status, message, header...))
	}
	providertest.Refusals(t, pat, func(t *testing.T) (providertest.Harness, *providertest.Stub) {
		v := newVendor(t)
		return harness(t, v, v.open(t, nil, provider.Env{})), v.Stub
	}, map[string]providertest.Refusal{
		"primary limit":               {Fault: refuse(403, "API rate limit exceeded", "X-Ratelimit-Limit", "60", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", reset), Want: slipway.RateLimited, After: 10 * time.Minute},
		"primary limit with 429":      {Fault: refuse(429, "API rate limit exceeded", "X-Ratelimit-Limit", "60", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", reset), Want: slipway.RateLimited, After: 10 * time.Minute},
		"a reset in the past":         {Fault: refuse(403, "API rate limit exceeded", "X-Ratelimit-Limit", "60", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", tooOld), Want: slipway.RateLimited, After: time.Minute},
		"a reset that is no epoch":    {Fault: refuse(403, "API rate limit exceeded", "X-Ratelimit-Limit", "60", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "9999999999999"), Want: slipway.RateLimited, After: time.Minute},
		"secondary limit with a time": {Fault: refuse(403, "You have exceeded a secondary rate limit", "Retry-After", "90", "X-Ratelimit-Remaining", "4000"), Want: slipway.RateLimited, After: 90 * time.Second},
		"secondary limit without":     {Fault: refuse(403, "You have exceeded a secondary rate limit. Please wait a few minutes", "X-Ratelimit-Remaining", "4000"), Want: slipway.RateLimited, After: time.Minute},
		"no permission":               {Fault: refuse(403, "Resource not accessible by integration", "X-Ratelimit-Remaining", "4000"), Want: slipway.Forbidden},
		"renamed":                     {Fault: post(301, "Moved Permanently", "Location", "https://api.github.com/repositories/1/x"), Retrigger: true, Want: slipway.Invalid},
		"cannot run again":            {Fault: post(403, "This workflow run cannot be rerun because it was created over a month ago", "X-Ratelimit-Remaining", "4000"), Retrigger: true, Want: slipway.Conflict},
		"may not run it again":        {Fault: post(403, "Must have admin rights to Repository.", "X-Ratelimit-Remaining", "4000"), Retrigger: true, Want: slipway.Forbidden},
	})
}

func TestNothingIsSentWhileGitHubHasEnough(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	holds := provider.NewHolds() // as replicas share them
	first := v.open(t, nil, provider.Env{Holds: holds}).Builds
	second := v.open(t, nil, provider.Env{Holds: holds}).Builds
	asked := 0
	v.Break(func(w http.ResponseWriter, r *http.Request) bool {
		asked++
		return providertest.Refuse(403, "secondary rate limit", "Retry-After", "600")(w, r)
	})
	for _, b := range []*provider.Builds{first, second, first} {
		if _, err := b.List(t.Context(), hello, provider.ListOptions{}); !errors.Is(err, slipway.RateLimited) {
			t.Errorf("got %v, want rate limited", err)
		}
	}
	if asked != 1 {
		t.Errorf("GitHub was asked %d times, want once", asked)
	}
}

func TestUnchangedListCostsNothing(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.add(t, slipway.Build{})
	b := v.open(t, nil, provider.Env{}).Builds
	page, err := b.List(t.Context(), hello, provider.ListOptions{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.List(t.Context(), hello, provider.ListOptions{Limit: 100, Validator: page.Validator})
	if err != nil || !again.NotModified {
		t.Errorf("not modified: %v, %v", again.NotModified, err)
	}
}

func TestRetriggerChoosesWhatToRun(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status slipway.BuildStatus
		extra  map[string]any
		want   string
		debug  bool
	}{
		{slipway.BuildFailed, nil, "rerun-failed-jobs", false},
		{slipway.BuildCanceled, nil, "rerun-failed-jobs", false},
		{slipway.BuildFailed, map[string]any{"all": true}, "rerun", false},
		{slipway.BuildSucceeded, nil, "rerun", false}, // nothing failed
		{slipway.BuildFailed, map[string]any{"debug": true}, "rerun-failed-jobs", true},
	} {
		v := newVendor(t)
		id := v.add(t, slipway.Build{Status: test.status})
		again, err := v.open(t, nil, provider.Env{}).Builds.Retrigger(t.Context(), hello, id, test.extra, slipway.Caller{})
		if err != nil || again == nil || again.ID != id || again.Attempt != 2 || again.Trigger != slipway.TriggerRetry {
			t.Errorf("got %+v, %v; want the second attempt of %s", again, err, id)
		}
		if want := "POST /repos/octo/hello/actions/runs/" + id + "/" + test.want; v.Count(want) != 1 {
			t.Errorf("%s with %v: got %v, want %q among them", test.status, test.extra, v.Asked(), want)
		}
		if debug := v.Last().Body["enable_debug_logging"] == true; debug != test.debug {
			t.Errorf("debug log %v, want %v", debug, test.debug)
		}
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	b := v.open(t, nil, provider.Env{}).Builds
	started, err := b.Start(t.Context(), hello, provider.StartOptions{Ref: "main", Extra: map[string]any{"inputs": map[string]any{"level": 3, "dry": true}}}, slipway.Caller{})
	if err != nil || started == nil || started.Trigger != slipway.TriggerManual {
		t.Fatalf("got %+v, %v; want the run", started, err)
	}
	if got := fmt.Sprint(v.Last().Body["inputs"]); got != "map[dry:true level:3]" {
		t.Errorf("inputs %s, want texts", got)
	}
	v.oldServer = true
	if started, err = b.Start(t.Context(), hello, provider.StartOptions{Ref: "main", Pipeline: "build.yml"}, slipway.Caller{}); err != nil || started != nil {
		t.Errorf("a server that names no run: got %+v, %v; want nothing yet", started, err)
	}
	v.workflows = []string{"build.yml", "release.yml"}
	_, err = b.Start(t.Context(), hello, provider.StartOptions{Ref: "main"}, slipway.Caller{})
	if !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), "build.yml, release.yml") {
		t.Errorf("several workflows: got %v, want invalid with their names", err)
	}
	v.workflows = make([]string, maxPage+1) // of which the one that is active may stand on the next page
	for i := range v.workflows {
		v.workflows[i] = fmt.Sprintf("%d.yml", i)
	}
	_, err = b.Start(t.Context(), hello, provider.StartOptions{Ref: "main"}, slipway.Caller{})
	if !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), "has 103 workflows") {
		t.Errorf("more workflows than a page holds: got %v, want invalid with their number", err)
	}
	v.workflows = []string{"build.yml", "release.yml"}
	for _, inputs := range []any{"x", map[string]any{"a": []any{}}} {
		_, err = b.Start(t.Context(), hello, provider.StartOptions{Ref: "main", Pipeline: "build.yml", Extra: map[string]any{"inputs": inputs}}, slipway.Caller{})
		if !errors.Is(err, slipway.Invalid) {
			t.Errorf("inputs %v: got %v, want invalid", inputs, err)
		}
	}
}

func TestLogsLeaveTheCredentialBehind(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
	v.addJob(id, "build", "completed", "success", "\ufeffone\ntwo\n")
	log, err := v.open(t, nil, provider.Env{}).Builds.Logs(t.Context(), hello, id, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	if text, err := io.ReadAll(log); err != nil || string(text) != "one\ntwo\n" {
		t.Errorf("got %q, %v", text, err)
	}
	if len(v.stored) != 1 {
		t.Fatalf("the store was asked %d times", len(v.stored))
	}
	for name, values := range v.stored[0] {
		if strings.Contains(fmt.Sprint(values), pat) || name == "Authorization" {
			t.Errorf("the store of logs was sent %s", name)
		}
	}
}

func TestLogsOfSeveralJobs(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	v.addJob(id, "build", "completed", "success", "built\n")
	v.addJob(id, "test", "completed", "failure", "tested\n")
	v.addJob(id, "deploy", "completed", "skipped", "")
	v.addJob(id, "old", "completed", "success", "") // expired
	log, err := v.open(t, nil, provider.Env{}).Builds.Logs(t.Context(), hello, id, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	want := "==> build (success) <==\nbuilt\n==> test (failure) <==\ntested\n==> deploy (skipped) <==\n==> old (success) <==\n(GitHub does not keep this log any more)\n"
	if text, err := io.ReadAll(log); err != nil || string(text) != want {
		t.Errorf("got %q, %v\nwant %q", text, err, want)
	}
}

func TestFollowedLogShowsJobsAsTheyEnd(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildRunning})
	v.addJob(id, "build", "completed", "success", "built\n")
	v.addJob(id, "test", "in_progress", "", "tested\n")
	c, err := newClient(Config{URL: v.URL + prefix, Credential: provider.Credential{Type: provider.SecretText, Secret: pat}}, provider.Env{})
	if err != nil {
		t.Fatal(err)
	}
	c.logPace = time.Millisecond
	log, err := c.logs(t.Context(), hello, id, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	first := "==> build (success) <==\nbuilt\n"
	got := make([]byte, len(first))
	if _, err := io.ReadFull(log, got); err != nil || string(got) != first {
		t.Fatalf("got %q, %v", got, err)
	}
	v.endJob(id, "test")
	v.moveByID(t, id, slipway.BuildSucceeded)
	if rest, err := io.ReadAll(log); err != nil || string(rest) != "==> test (success) <==\ntested\n" {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestAppTokensAreKeptAndReplaced(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	now := time.Now()
	v.now = func() time.Time { return now }
	b := v.open(t, appCredential(), provider.Env{Now: v.now}).Builds
	list := func(wantTokens int) {
		t.Helper()
		if _, err := b.List(t.Context(), hello, provider.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		if len(v.issued) != wantTokens {
			t.Errorf("%d tokens were asked for, want %d", len(v.issued), wantTokens)
		}
	}
	list(1)
	list(1)
	now = now.Add(50 * time.Minute)
	list(1)
	now = now.Add(6 * time.Minute) // shortly before the end
	list(2)
	v.issued[1] = "revoked"
	list(3)
	if v.Count("GET /repos/octo/hello/installation") != 2 {
		t.Errorf("the installation is looked for once, and again after a refusal: %v", v.Asked())
	}
	if _, err := b.List(t.Context(), "else/where", provider.ListOptions{}); !errors.Is(err, slipway.NotFound) || !strings.Contains(err.Error(), "install") {
		t.Errorf("got %v, want that the app is to be installed", err)
	}
}

func TestAppTokensMayDoWhatIsNeededAndNoMore(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ granted, may []string }{
		"all that is needed, and more": {[]string{"actions", "contents", "deployments", "issues", "metadata"}, []string{"actions", "contents", "deployments"}},
		"builds only":                  {[]string{"actions", "contents", "issues", "metadata"}, []string{"actions", "contents"}},
		"less than builds need":        {[]string{"actions", "metadata"}, []string{"actions", "metadata"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVendor(t)
			v.granted = test.granted
			p := v.open(t, appCredential(), provider.Env{})
			if _, err := p.Builds.List(t.Context(), hello, provider.ListOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := v.may[v.issued[0]]; !slices.Equal(got, test.may) {
				t.Errorf("the token may do %q, want %q", got, test.may)
			}
			_, err := p.Deployments.List(t.Context(), hello, provider.ListOptions{})
			if want := slices.Contains(test.granted, "deployments"); want != (err == nil) || !want && !errors.Is(err, slipway.Forbidden) {
				t.Errorf("deployments: %v", err)
			}
		})
	}
}

func TestAnAppThatIsInstalledAnewIsFound(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	now := time.Now()
	v.now = func() time.Time { return now }
	b := v.open(t, appCredential(), provider.Env{Now: v.now}).Builds
	list := func() error { _, err := b.List(t.Context(), hello, provider.ListOptions{}); return err }
	if err := list(); err != nil {
		t.Fatal(err)
	}
	v.installation = 43
	now = now.Add(2 * time.Hour) // the token of the one before has ended
	if err := list(); !errors.Is(err, slipway.NotFound) {
		t.Errorf("the installation is gone: %v", err)
	}
	if err := list(); err != nil {
		t.Errorf("the next look finds the new one: %v", err)
	}
}

// BenchmarkList reads 10,000 runs, a hundred at a time: runs/s is what counts. The stub's own time is in it.
func BenchmarkList(b *testing.B) {
	v := newVendor(b)
	at := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	const n = 10_000
	for i := range n {
		v.add(b, slipway.Build{Status: slipway.BuildSucceeded, CreatedAt: at.Add(time.Duration(i) * time.Second)})
	}
	builds := v.open(b, nil, provider.Env{}).Builds
	for b.Loop() {
		seen := 0
		o := provider.ListOptions{Limit: 100}
		for {
			page, err := builds.List(b.Context(), hello, o)
			if err != nil {
				b.Fatal(err)
			}
			seen += len(page.Items)
			if page.Next == "" {
				break
			}
			o.Cursor = page.Next
		}
		if seen != n {
			b.Fatalf("read %d runs, want %d", seen, n)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "runs/s")
}

func TestAListOfJobsWithoutEndHasOne(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://ci.example.com"}, provider.Env{HTTP: providertest.Endless(t, `{"jobs":[{"id":1,"name":"test"}]}`, "Link", `<https://ci.example.com/x>; rel="next"`)})
	if err != nil {
		t.Fatal(err)
	}
	if all, err := c.jobs(t.Context(), "octo/hello", "7"); err != nil || len(all) == 0 {
		t.Errorf("%d jobs, %v", len(all), err)
	}
}

func TestWhatGitHubSaysOfItsToken(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.Break(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("X-Oauth-Scopes", "read:org, workflow")
		w.Header().Set("Github-Authentication-Token-Expiration", "2027-03-01 12:00:00 UTC")
		_, _ = io.WriteString(w, `{"workflow_runs":[]}`)
		return true
	})
	i, err := v.open(t, nil, provider.Env{}).Inspect(t.Context(), hello)
	if err != nil || len(i.Lacks) != 1 || !i.Expires.Equal(time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("got %+v, %v; want what it lacks, and until when it counts", i, err)
	}
	v.Break(nil)
	if i, err := v.open(t, appCredential(), provider.Env{}).Inspect(t.Context(), hello); err != nil || i.Account != "app Iv1.example" || len(i.Lacks) > 0 {
		t.Errorf("an app: got %+v, %v", i, err)
	}
}
