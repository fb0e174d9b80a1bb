package buildkite

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestConformance(t *testing.T) {
	for name, inClear := range map[string]bool{"with webhooks that it signs": false, "with webhooks that bring the token": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(t *testing.T) providertest.Harness {
				v := newVendor(t)
				return harness(v, v.client(t, nil, provider.Env{}).Provider(), inClear)
			})
		})
	}
}

func harness(v *vendor, p *provider.Provider, inClear bool) providertest.Harness {
	prove := func(body []byte) http.Header {
		h := http.Header{}
		h.Set("X-Buildkite-Event", "build.running")
		h.Set("Content-Type", "application/json")
		if inClear {
			h.Set("X-Buildkite-Token", secret)
		} else {
			h.Set("X-Buildkite-Signature", sign(secret, body, time.Now()))
		}
		return h
	}
	return v.Faults(providertest.Harness{
		Provider: p,
		Project:  web,
		Missing:  "acme/nowhere",
		Entity:   providertest.Entity(Annotation, "acme/other, Acme/Web"),
		Add:      v.add, Move: v.moveByID, Write: v.write, Sign: prove, Clear: inClear,
		Notify: func(t testing.TB, id string) (http.Header, []byte) {
			body := v.notification(t, id)
			return prove(body), body
		},
		Unsigned: func(t testing.TB, id string) (*provider.Provider, http.Header, []byte) {
			body := v.notification(t, id)
			return v.client(t, map[string]any{"webhookSecret": ""}, provider.Env{}).Provider(), prove(body), body
		},
		Foreign: func(testing.TB) (http.Header, []byte) {
			body := []byte(`{"event":"ping"}`)
			h := prove(body)
			h.Set("X-Buildkite-Event", "ping")
			return h, body
		},
		Admit: func(_ testing.TB, sees bool) provider.Secret {
			if sees {
				return member
			}
			return stranger
		},
	})
}

func sign(key string, body []byte, at time.Time) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(stamp + "."))
	m.Write(body)
	return "timestamp=" + stamp + ",signature=" + hex.EncodeToString(m.Sum(nil))
}

func TestBuildsAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/builds", func(payload []byte) (any, error) {
		var n nativeBuild
		err := provider.Unmarshal(payload, &n)
		return n.build(web, n.changed()), err
	})
}

type notification struct {
	Event string
	Body  json.RawMessage
}

func TestWebhooksAreReadAsTheyAreSent(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/webhooks", func(payload []byte) (any, error) {
		var n notification
		if err := json.Unmarshal(payload, &n); err != nil {
			return nil, err
		}
		return parse(http.Header{"X-Buildkite-Event": {n.Event}}, n.Body)
	})
}

func FuzzWebhook(f *testing.F) {
	files, _ := filepath.Glob("testdata/webhooks/*.json")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var n notification
		if json.Unmarshal(text, &n) == nil && len(n.Body) > 0 {
			f.Add(n.Event, []byte(n.Body))
		}
	}
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		list, err := parse(http.Header{"X-Buildkite-Event": {event}}, body)
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
		for _, d := range list {
			if _, err := path(d.Project, ""); err != nil || d.Build != nil && (d.Build.ID == "" || d.Build.CreatedAt.IsZero() || !d.Build.Status.Finished()) {
				t.Errorf("a delivery without its parts: %+v", d)
			}
		}
	})
}

func TestSignedWebhooks(t *testing.T) {
	t.Parallel()
	body := []byte(`{"event":"build.finished"}`)
	at := time.Unix(1735689600, 0)
	// By the vendor's published example of the scheme, of token, time and body.
	const good = "timestamp=1735689600,signature=8afcbd40d146332b4081f964391ce44e293c08f6274c09f81368edae5d7e15e8"
	for name, test := range map[string]struct {
		signature, token string
		now              time.Time
		want             slipway.Code
	}{
		"signed":                         {good, "", at, ""},
		"a little late":                  {good, "", at.Add(4 * time.Minute), ""},
		"with spaces":                    {strings.Replace(good, ",", ", ", 1), "", at, ""},
		"replayed":                       {good, "", at.Add(6 * time.Minute), slipway.Unauthenticated},
		"from ahead":                     {good, "", at.Add(-6 * time.Minute), slipway.Unauthenticated},
		"another time":                   {strings.Replace(good, "600,", "601,", 1), "", at, slipway.Unauthenticated},
		"no time":                        {good[strings.Index(good, "sig"):], "", at, slipway.Unauthenticated},
		"no signature":                   {"timestamp=1735689600", "", at, slipway.Unauthenticated},
		"no hex":                         {"timestamp=1735689600,signature=zz", "", at, slipway.Unauthenticated},
		"wrongly signed, with the token": {"timestamp=1735689600,signature=00", secret, at, slipway.Unauthenticated},
		"the token":                      {"", secret, at, ""},
		"another token":                  {"", "wrong", at, slipway.Unauthenticated},
		"neither":                        {"", "", at, slipway.Unauthenticated},
	} {
		c := &client{cfg: Config{WebhookSecret: secret}, now: func() time.Time { return test.now }}
		h := http.Header{}
		h.Set("X-Buildkite-Signature", test.signature)
		h.Set("X-Buildkite-Token", test.token)
		if err := c.verify(h, body); slipway.CodeOf(err) != test.want && (err != nil || test.want != "") {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
	c := &client{}
	if err := c.verify(http.Header{"X-Buildkite-Token": {""}}, body); !errors.Is(err, slipway.Forbidden) {
		t.Errorf("no secret at all: got %v, want forbidden", err)
	}
}

func TestProjectsOfAnEntity(t *testing.T) {
	t.Parallel()
	for annotation, want := range map[string]string{
		"Acme/Web": "acme/web", " acme/web ,acme/web/, acme/api-2": "acme/web acme/api-2", "acme": "", "acme/..": "", "acme/a/b": "", "acme/a?b, a%2Fb/c, -a/b": "",
	} {
		e := providertest.Entity(Annotation, annotation)
		if got := strings.Join(projects(&e), " "); got != want {
			t.Errorf("%q: got %q, want %q", annotation, got, want)
		}
	}
}

func TestConfigTellsAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"buildkite","tokn":"s3cret"}`), provider.Env{})
	var e *slipway.Error
	if !errors.As(err, &e) || len(e.Details) != 3 || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v, want three faults and no secret", err)
	}
}

func TestRefusalsAreToldApart(t *testing.T) {
	t.Parallel()
	enough := func(body string, header ...string) providertest.Fault { return providertest.Say(429, body, header...) }
	put := func(status int, message string) providertest.Fault {
		return providertest.On(http.MethodPut, providertest.Refuse(status, message))
	}
	providertest.Refusals(t, token, func(t *testing.T) (providertest.Harness, *providertest.Stub) {
		v := newVendor(t)
		return harness(v, v.client(t, nil, provider.Env{}).Provider(), true), v.Stub
	}, map[string]providertest.Refusal{
		"changed meanwhile":            {Fault: put(409, "it runs already"), Retrigger: true, Want: slipway.Conflict},
		"may not run it again":         {Fault: put(403, "Forbidden. Your API Access Token doesn't have the required scope."), Retrigger: true, Want: slipway.Forbidden},
		"cannot run again":             {Fault: put(422, "Build can't be retried"), Retrigger: true, Want: slipway.Conflict},
		"the organization has enough":  {Fault: enough(`{"scope":"rest","reset":30}`, "RateLimit-Limit", "200", "RateLimit-Remaining", "0", "RateLimit-Reset", "30"), Want: slipway.RateLimited, After: 30 * time.Second},
		"the user has enough":          {Fault: enough(`{}`, "RateLimit-Limit", "200", "RateLimit-Remaining", "90", "RateLimit-Reset", "10", "RateLimit-User-Limit", "50", "RateLimit-User-Remaining", "0", "RateLimit-User-Reset", "40"), Want: slipway.RateLimited, After: 40 * time.Second},
		"it says so in the body alone": {Fault: enough(`{"message":"You have exceeded your API rate limit. Please wait 25 seconds before making more requests.","reset":25}`), Want: slipway.RateLimited, After: 25 * time.Second},
		"a reset that is an epoch":     {Fault: enough(`{"reset":1767225600}`), Want: slipway.RateLimited, After: time.Minute},
	})
}

func TestLimitsAreSecondsToGo(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
	p := v.client(t, nil, provider.Env{}).Provider()
	if _, err := p.Builds.List(t.Context(), web, provider.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	l := p.Limits()
	if len(l) != 1 || l[0].Total != 50 || l[0].Remaining != 45 || time.Until(l[0].Reset) > 42*time.Second || !l[0].Until.IsZero() {
		t.Errorf("got %+v, want the user's limit, which is nearer, for 42 seconds", l)
	}
}

func TestWhatDoesNotChangeIsAskedOnce(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
	v.add(t, slipway.Build{Status: slipway.BuildStarting})
	running := v.add(t, slipway.Build{Status: slipway.BuildRunning})
	b := v.client(t, nil, provider.Env{}).Provider().Builds
	list := func(want int) slipway.Build {
		t.Helper()
		before := len(v.Asked())
		page, err := b.List(t.Context(), web, provider.ListOptions{})
		if err != nil || len(page.Items) != 3 {
			t.Fatalf("got %d builds, %v", len(page.Items), err)
		}
		if got := len(v.Asked()) - before; got != want {
			t.Errorf("a look cost %d requests, want %d: %v", got, want, v.Asked()[before:])
		}
		return page.Items[0]
	}
	list(2) // the list, and the one that runs
	first := list(1)
	v.moveByID(t, running, slipway.BuildFailed)
	if ended := list(1); ended.Status != slipway.BuildFailed || !ended.UpdatedAt.After(*first.UpdatedAt) {
		t.Errorf("got %+v, want it failed, later than %v", ended, first.UpdatedAt)
	}
}

func TestWhatRunsAgainIsNewerThanItsEnd(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	b := v.client(t, nil, provider.Env{}).Provider().Builds
	newest := func() slipway.Build {
		t.Helper()
		page, err := b.List(t.Context(), web, provider.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return page.Items[0]
	}
	before := newest()
	again, err := b.Retrigger(t.Context(), web, id, nil, slipway.Caller{})
	if err != nil || again == nil || again.ID != id || !again.UpdatedAt.After(*before.UpdatedAt) || again.StartedAt != nil || again.FinishedAt != nil {
		t.Fatalf("got %+v, %v; want the same build, newer than %v", again, err, before.UpdatedAt)
	}
	last := *again.UpdatedAt
	for _, status := range []slipway.BuildStatus{slipway.BuildRunning, slipway.BuildSucceeded} {
		v.moveByID(t, id, status)
		now := newest()
		if now.Status != status || now.UpdatedAt.Before(last) {
			t.Errorf("got %+v, want it %s, not before %v", now, status, last)
		}
		last = *now.UpdatedAt
	}
	h, body := http.Header{"X-Buildkite-Event": {"build.finished"}}, v.notification(t, id)
	if list, err := parse(h, body); err != nil || list[0].Build == nil || !list[0].Build.UpdatedAt.Equal(last) {
		t.Errorf("a webhook told %+v, %v; want the build as the list has it", list, err)
	}
}

func TestRunAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status slipway.BuildStatus
		extra  map[string]any
		change func(n map[string]any)
		asked  string
		same   bool
		want   slipway.Code
	}{
		"what failed":                    {status: slipway.BuildFailed, asked: "retry_failed_jobs", same: true},
		"all of it":                      {status: slipway.BuildFailed, extra: map[string]any{"all": true}, asked: "rebuild"},
		"what was canceled":              {status: slipway.BuildCanceled, asked: "rebuild"},
		"nothing failed":                 {status: slipway.BuildSucceeded, asked: "rebuild"},
		"failed without a job that did":  {status: slipway.BuildFailed, change: func(n map[string]any) { jobsOf(n)[0]["state"] = "passed" }, asked: "retry_failed_jobs", want: slipway.Conflict},
		"passed, and waits for a person": {status: slipway.BuildSucceeded, change: func(n map[string]any) { n["blocked"] = true }, want: slipway.Conflict},
	} {
		v := newVendor(t)
		id := v.add(t, slipway.Build{Status: test.status})
		if test.change != nil {
			v.change(id, test.change)
		}
		again, err := v.client(t, nil, provider.Env{}).Provider().Builds.Retrigger(t.Context(), web, id, test.extra, slipway.Caller{})
		switch {
		case test.want != "":
			if slipway.CodeOf(err) != test.want {
				t.Errorf("%s: got %+v, %v; want %s", name, again, err, test.want)
			}
		case err != nil || again == nil || (again.ID == id) != test.same || again.Status != slipway.BuildStarting || (again.Trigger == slipway.TriggerRetry) == test.same:
			t.Errorf("%s: got %+v, %v; the same build: %v", name, again, err, test.same)
		}
		if got := v.Last().Path; !strings.HasSuffix(got, test.asked) || test.asked == "" && got != "" {
			t.Errorf("%s: asked for %q, want %q", name, got, test.asked)
		}
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	b := v.client(t, nil, provider.Env{}).Provider().Builds
	const commit = "7d1b3c5e9f02468ace13579bdf02468ace135790"
	for name, test := range map[string]struct {
		o    provider.StartOptions
		want string // what Buildkite was sent
		code slipway.Code
	}{
		"a branch":                   {o: provider.StartOptions{Ref: "main", Pipeline: "web"}, want: "map[branch:main commit:HEAD]"},
		"a commit of it":             {o: provider.StartOptions{Ref: "main", Extra: map[string]any{"commit": commit}}, want: "map[branch:main commit:" + commit + "]"},
		"a commit as ref":            {o: provider.StartOptions{Ref: commit, Extra: map[string]any{"branch": "main"}}, want: "map[branch:main commit:" + commit + "]"},
		"extras":                     {o: provider.StartOptions{Ref: "main", Extra: map[string]any{"message": "Hi", "env": map[string]any{"A": "1"}, "foreign": 1}}, want: "map[branch:main commit:HEAD env:map[A:1] message:Hi]"},
		"a commit alone":             {o: provider.StartOptions{Ref: commit}, code: slipway.Invalid},
		"nothing":                    {o: provider.StartOptions{}, code: slipway.Invalid},
		"no name":                    {o: provider.StartOptions{Ref: "a b"}, code: slipway.Invalid},
		"no name of a commit":        {o: provider.StartOptions{Ref: "main", Extra: map[string]any{"commit": "--x"}}, code: slipway.Invalid},
		"another pipeline":           {o: provider.StartOptions{Ref: "main", Pipeline: "api"}, code: slipway.Invalid},
		"a branch that is not built": {o: provider.StartOptions{Ref: "filtered"}, code: slipway.Invalid},
	} {
		started, err := b.Start(t.Context(), web, test.o, slipway.Caller{})
		if test.code != "" {
			if slipway.CodeOf(err) != test.code {
				t.Errorf("%s: got %v, want %s", name, err, test.code)
			}
			continue
		}
		if err != nil || started == nil || started.Trigger != slipway.TriggerAPI || fmt.Sprint(v.Last().Body) != test.want {
			t.Errorf("%s: got %+v, %v; Buildkite was sent %v, want %s", name, started, err, v.Last().Body, test.want)
		}
	}
}

func TestListsThatAreTooDeepEnd(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.deep = true
	for range 101 {
		v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
	}
	b := v.client(t, nil, provider.Env{}).Provider().Builds
	page, err := b.List(t.Context(), web, provider.ListOptions{Limit: 100})
	if err != nil || len(page.Items) != 100 || page.Next == "" {
		t.Fatalf("got %d builds, %v", len(page.Items), err)
	}
	if _, err := b.List(t.Context(), web, provider.ListOptions{Cursor: page.Next}); !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), "this deep") {
		t.Errorf("got %v, want invalid, in Buildkite's own words", err)
	}
}

func TestLogsOfSeveralJobs(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	v.change(id, func(n map[string]any) {
		v.setJobs(n, "build", "test", "gone", "never")
		v.move(n, slipway.BuildFailed)
		jobsOf(n)[0]["state"] = "passed"
		jobsOf(n)[3]["started_at"], jobsOf(n)[3]["state"] = nil, "broken"
		v.logs["build"], v.logs["test"] = "built\n", "tested\n"
	})
	want := "==> build (passed) <==\nbuilt\n==> test (failed) <==\ntested\n==> gone (failed) <==\n"
	for _, follow := range []bool{false, true} {
		log, err := v.client(t, nil, provider.Env{}).logs(t.Context(), web, id, follow)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(log); err != nil || string(text) != want {
			t.Errorf("follow %v: got %q, %v; want %q", follow, text, err, want)
		}
		_ = log.Close()
	}
}

func TestCheckAndInspect(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.client(t, nil, provider.Env{})
	in, err := c.inspect(t.Context(), web)
	if err != nil || len(in.Lacks) != 0 || in.Account != "slipway@example.com" || in.Expires.Format(time.DateTime) != "2027-11-21 06:07:42" {
		t.Errorf("got %+v, %v", in, err)
	}
	if _, err := c.inspect(t.Context(), "acme/nowhere"); !errors.Is(err, slipway.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
	v.scopes = []string{"read_builds"}
	if in, err := c.inspect(t.Context(), web); err != nil || len(in.Lacks) != 2 || !strings.Contains(in.Lacks[0], "write_builds") || !strings.Contains(in.Lacks[1], "read_build_logs") {
		t.Errorf("got %+v, %v; want both scopes that lack", in, err)
	}
	revoked := v.client(t, map[string]any{"credential": map[string]any{"type": "secretText", "secret": "revoked"}}, provider.Env{})
	if err := revoked.check(t.Context()); !errors.Is(err, slipway.Unauthenticated) {
		t.Errorf("a revoked token: got %v, want unauthenticated", err)
	}
}
