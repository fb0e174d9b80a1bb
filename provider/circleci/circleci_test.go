package circleci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestConformance(t *testing.T) {
	for name, slug := range map[string]string{"of a repository": "gh/octo/hello", "of an app": opaque} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(t *testing.T) providertest.Harness {
				v := newVendor(t)
				v.slug = slug
				return v.harness(v.client(t, nil, provider.Env{}))
			})
		})
	}
}

func (v *vendor) harness(c *client) providertest.Harness {
	project, _ := canonical(v.slug)
	return v.Faults(providertest.Harness{
		Provider: c.Provider(), Project: project, Missing: "github/octo/nowhere", Entity: providertest.Entity(Annotation, "gh/octo/other, "+v.slug),
		Add: v.add, Move: v.moveByID, Write: v.write, Notify: v.notify, Sign: sign, Admit: admit,
		Unsigned: func(t testing.TB, id string) (*provider.Provider, http.Header, []byte) {
			h, body := v.notify(t, id)
			return v.client(t, map[string]any{"webhookSecret": ""}, provider.Env{}).Provider(), h, body
		},
		Foreign: func(testing.TB) (http.Header, []byte) {
			body := []byte(`{"type":"ping","id":"1"}`)
			return sign(body), body
		},
	})
}

func TestRefusalsAreToldApart(t *testing.T) {
	providertest.Refusals(t, token, func(t *testing.T) (providertest.Harness, *providertest.Stub) {
		v := newVendor(t)
		return v.harness(v.client(t, nil, provider.Env{})), v.Stub
	}, map[string]providertest.Refusal{
		"too old to run again": {Fault: providertest.On(http.MethodPost, providertest.Refuse(400, "Workflow is older than 90 days")), Retrigger: true, Want: slipway.Conflict},
		"no requests left in this minute": {
			Fault: providertest.Refuse(429, "Rate Limit Exceeded", "RateLimit-Limit", "60", "RateLimit-Remaining", "0", "RateLimit-Reset", "40"),
			Want:  slipway.RateLimited, After: 40 * time.Second,
		},
		"no requests left by two counts": {
			Fault: providertest.Refuse(429, "Rate Limit Exceeded", "RateLimit-Limit", "60", "RateLimit-Remaining", "7", "RateLimit-Reset", "20", "X-RateLimit-Limit-Minute", "900", "X-RateLimit-Remaining-Minute", "0"),
			Want:  slipway.RateLimited, After: time.Minute,
		},
		"a reset that is no number of seconds": { // read as one, an epoch would be 56 years
			Fault: providertest.Refuse(429, "Rate Limit Exceeded", "RateLimit-Limit", "60", "RateLimit-Remaining", "0", "RateLimit-Reset", "1777885200"),
			Want:  slipway.RateLimited, After: time.Minute,
		},
	})
}

func TestLowestLimitCounts(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	header := func(pairs ...string) http.Header {
		h := http.Header{}
		for pair := range slices.Chunk(pairs, 2) {
			h.Set(pair[0], pair[1])
		}
		return h
	}
	for _, test := range []struct {
		h    http.Header
		want provider.Limit
	}{
		{header(), provider.Limit{}},
		{header("RateLimit-Limit", "60", "RateLimit-Remaining", "59", "RateLimit-Reset", "30"), provider.Limit{Total: 60, Remaining: 59, Reset: now.Add(30 * time.Second)}},
		{header("RateLimit-Limit", "60", "RateLimit-Remaining", "59", "RateLimit-Reset", "30", "X-RateLimit-Limit-Hour", "9000", "X-RateLimit-Remaining-Hour", "12"), provider.Limit{Total: 9000, Remaining: 12, Reset: now.Add(30 * time.Second)}},
		{header("X-RateLimit-Limit-Second", "51", "X-RateLimit-Remaining-Second", "0"), provider.Limit{Total: 51, Until: now.Add(time.Second)}},
		{header("X-RateLimit-Limit-Day", "51", "X-RateLimit-Remaining-Day", "-3"), provider.Limit{Total: 51}},
		{header("X-RateLimit-Limit-Day", "many", "X-RateLimit-Remaining-Day", "0"), provider.Limit{}},
	} {
		if got := limit(test.h, now); got != test.want {
			t.Errorf("%v: got %+v, want %+v", test.h, got, test.want)
		}
	}
}

func TestWorkflowsAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/workflows", func(payload []byte) (any, error) {
		var file struct {
			Pipeline  pipeline
			Workflows []workflow
			People    map[string]user
		}
		if err := provider.Unmarshal(payload, &file); err != nil {
			return nil, err
		}
		c, err := newClient(Config{URL: "https://circleci.com"}, provider.Env{Now: func() time.Time { return time.Date(2026, 5, 4, 9, 10, 0, 0, time.UTC) }})
		if err != nil {
			return nil, err
		}
		for _, w := range file.Workflows {
			c.people[w.StartedBy] = nil
		}
		for id, u := range file.People {
			c.people[id] = &slipway.Person{ID: u.Login, Name: u.Name}
		}
		return c.builds(t.Context(), file.Pipeline, family{workflows: file.Workflows})
	})
}

func TestWebhooksAreReadAsTheyAreSent(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://circleci.com"}, provider.Env{})
	if err != nil {
		t.Fatal(err)
	}
	providertest.Golden(t, "testdata/webhooks", func(payload []byte) (any, error) { return c.parse(nil, payload) })
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
			return c.verify(http.Header{"Circleci-Signature": {signature}}, []byte(v.Body))
		}
		hex := strings.TrimPrefix(v.Signature, "v1=")
		for _, right := range []string{v.Signature, "v2=abcdef," + v.Signature, v.Signature + ", v3=1"} {
			if err := verify(right); err != nil {
				t.Errorf("signature %q of %q: %v", right, v.Body, err)
			}
		}
		for _, wrong := range []string{"", "v1=", hex, "v2=" + hex, "v1=" + hex[:62], "v1=" + hex + "00", "v1=zz" + hex[2:], "sha256=" + hex} {
			if err := verify(wrong); !errors.Is(err, slipway.Unauthenticated) {
				t.Errorf("signature %q: got %v, want unauthenticated", wrong, err)
			}
		}
	}
}

func FuzzWebhook(f *testing.F) {
	files, _ := filepath.Glob("testdata/webhooks/*-completed*.json")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	c, err := newClient(Config{URL: "https://circleci.com"}, provider.Env{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := c.parse(nil, body)
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
		for _, d := range list {
			if slug, ok := canonical(d.Project); !ok || slug != d.Project {
				t.Errorf("a delivery for %q", d.Project)
			}
			if b := d.Build; b != nil && (b.ID == "" || b.CreatedAt.IsZero() || b.Status == "" || b.Detail == "" || !strings.HasPrefix(b.URL, "http")) {
				t.Errorf("a delivery without its parts: %+v", b)
			}
		}
	})
}

func TestProjectsOfAnEntity(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://CircleCI.example.com/"}, provider.Env{})
	if err != nil {
		t.Fatal(err)
	}
	for annotation, want := range map[string]string{
		"github/Octo/Hello":                         "github/Octo/Hello",
		"gh/octo/hello, github/octo/hello/, bb/o/r": "github/octo/hello bitbucket/o/r",
		"octo/hello":                                "bitbucket/octo/hello",
		opaque:                                      opaque,
		"circleci/66491562-90a9-4065-9249-4b0ce3b77452/2a68fe5f-2fe5-4d4f-91e1-15f111116743": opaque,
		"circleci.example.com/gh/octo/hello, other.example.com/gh/octo/web":                  "github/octo/hello",
		"app.circleci.example.com/gh/octo/hello":                                             "github/octo/hello",
		"svn/octo/hello, hello, gh/../x, gh/a b/c, gh/octo/hello?x, a/b/c/d/e":               "",
	} {
		e := providertest.Entity(Annotation, annotation)
		if got := strings.Join(c.projects(&e), " "); got != want {
			t.Errorf("%q: got %q, want %q", annotation, got, want)
		}
	}
	if got := longID("6EkDPZoN4ZdMKKZtBkRodt"); got != "2a68fe5f-2fe5-4d4f-91e1-15f111116743" {
		t.Errorf("got the id %q", got)
	}
	for _, none := range []string{"", "0", "web", "6EkDPZoN4ZdMKKZtBkRodtt", "zzzzzzzzzzzzzzzzzzzzzz"} {
		if got := longID(none); got != "" {
			t.Errorf("%q is the id %q, want none", none, got)
		}
	}
}

func TestAccountsOfAUser(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://circleci.com"}, provider.Env{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ own, github, want string }{{"", "", ""}, {"", "Octocat", "Octocat octocat"}, {"mona", "octocat", "mona"}} {
		e := providertest.Entity(UserAnnotation, test.own, HostAnnotation, test.github)
		if got := strings.Join(c.Provider().Accounts(&e), " "); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ url, web, api, people string }{
		{"https://circleci.com", "", "https://circleci.com", "https://app.circleci.com"},
		{"https://circleci.com/api/v2/", "", "https://circleci.com", "https://app.circleci.com"},
		{"https://ci.example.com/circle/", "", "https://ci.example.com/circle", "https://ci.example.com/circle"},
		{"https://ci.example.com", "https://builds.example.com/", "https://ci.example.com", "https://builds.example.com"},
	} {
		c, err := newClient(Config{URL: test.url, WebURL: test.web}, provider.Env{})
		if err != nil || c.web != test.people {
			t.Errorf("%s: people look at %s, %v; want %s", test.url, c.web, err, test.people)
		}
	}
}

func TestConfigTellsAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"circleci","webURL":"x","tokn":"x","credential":{"type":"usernamePassword"}}`), provider.Env{})
	var e *slipway.Error
	if !errors.As(err, &e) || len(e.Details) != 4 {
		t.Errorf("got %v, want four faults", err)
	}
	if _, err := Kind.Open(t.Context(), nil, provider.Env{}); err != nil {
		t.Errorf("no config at all reads public projects: %v", err)
	}
}

func TestWhatEndedIsAskedForAgainTheRarerTheOlderItIs(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	old := v.add(t, slipway.Build{Status: slipway.BuildSucceeded, CreatedAt: now.Add(-100 * time.Minute)})
	fresh := v.add(t, slipway.Build{Status: slipway.BuildRunning, CreatedAt: now.Add(-time.Minute)})
	c := v.client(t, nil, provider.Env{Now: func() time.Time { return now }})
	count := func(id string) int {
		l, _ := v.find(id)
		return v.Count("GET /pipeline/" + l.members["id"].(string) + "/workflow")
	}
	look := func(after time.Duration, wantOld, wantFresh int) []slipway.Build {
		t.Helper()
		now = now.Add(after)
		page, err := c.list(t.Context(), hello, provider.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if count(old) != wantOld || count(fresh) != wantFresh {
			t.Errorf("asked %d times for what ended, %d for what runs; want %d and %d", count(old), count(fresh), wantOld, wantFresh)
		}
		return page.Items
	}
	look(0, 1, 1)
	look(time.Minute, 1, 2)
	look(5*time.Minute, 1, 3)
	look(5*time.Minute, 2, 4) // ten minutes are a tenth of its age
	l, _ := v.find(old)
	v.mu.Lock()
	again := v.addFlow(l, now)
	v.mu.Unlock()
	list := look(12*time.Minute, 3, 5)
	if len(list) != 3 || list[0].ID != again.members["id"] || list[0].Attempt != 2 || list[0].Trigger != slipway.TriggerRetry {
		t.Errorf("got %+v, want what somebody ran again first", list)
	}
	h, body := v.notify(t, old)
	if _, err := c.Provider().Webhook.Parse(h, body); err != nil {
		t.Fatal(err)
	}
	look(time.Second, 4, 6) // a notification makes it news
}

// TestWhatTheAPISaysReplacesWhatANotificationTold: a notification does not know who ran something again, and it never comes after what the API says of the same state.
func TestWhatTheAPISaysReplacesWhatANotificationTold(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildRunning})
	c := v.client(t, nil, provider.Env{})
	running, err := c.get(t.Context(), hello, id)
	if err != nil {
		t.Fatal(err)
	}
	h, body := v.notify(t, id)
	told, err := c.parse(h, body)
	if err != nil {
		t.Fatal(err)
	}
	ended, err := c.get(t.Context(), hello, id)
	if err != nil {
		t.Fatal(err)
	}
	if b := told[0].Build; !b.UpdatedAt.After(*running.UpdatedAt) || !ended.UpdatedAt.After(*b.UpdatedAt) || b.Status != ended.Status {
		t.Errorf("running at %v, told at %v, ended at %v; want them in this order", running.UpdatedAt, b.UpdatedAt, ended.UpdatedAt)
	}
}

func TestPipelineBecomesItsWorkflows(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildStarting})
	c := v.client(t, nil, provider.Env{})
	b, err := c.get(t.Context(), hello, id)
	if err != nil || b.ID != id || b.Status != slipway.BuildStarting {
		t.Fatalf("got %+v, %v; want the pipeline", b, err)
	}
	if _, err := c.retrigger(t.Context(), hello, id, nil, slipway.Caller{}); !errors.Is(err, slipway.Conflict) {
		t.Errorf("to run again what waits: got %v, want a conflict", err)
	}
	if err := c.cancel(t.Context(), hello, id); !errors.Is(err, slipway.Conflict) {
		t.Errorf("to cancel it: got %v, want a conflict", err)
	}
	v.mu.Lock()
	w := v.addFlow(v.findLine(id), time.Time{})
	v.mu.Unlock()
	if _, err := c.get(t.Context(), hello, id); !errors.Is(err, provider.Replaced) {
		t.Errorf("got %v, want that the workflow took its place", err)
	}
	page, err := c.list(t.Context(), hello, provider.ListOptions{})
	if err != nil || len(page.Items) != 1 || page.Items[0].ID != w.members["id"] {
		t.Errorf("got %+v, %v; want the workflow alone", page.Items, err)
	}
}

func TestFaultyConfigurationIsAFailedBuildAndBegunAnew(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildStarting})
	v.findLine(id).members["state"] = "errored"
	v.findLine(id).members["errors"] = []any{map[string]any{"type": "config", "message": "Unable to parse YAML\nline 3"}}
	c := v.client(t, nil, provider.Env{})
	b, err := c.get(t.Context(), hello, id)
	if err != nil || b.Status != slipway.BuildFailed || b.Detail != "errored: Unable to parse YAML" || !b.Retriggerable {
		t.Fatalf("got %+v, %v", b, err)
	}
	log, err := c.logs(t.Context(), hello, id, true)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(log); err != nil || string(text) != "config: Unable to parse YAML\nline 3\n" {
		t.Errorf("its log: %q, %v", text, err)
	}
	again, err := c.retrigger(t.Context(), hello, id, nil, slipway.Caller{})
	if err != nil || again == nil || again.Number != b.Number+1 || again.Status != slipway.BuildRunning {
		t.Errorf("got %+v, %v; want the workflow of a new pipeline", again, err)
	}
	if last := v.Last(); last.Body["branch"] != "main" || last.Path != "/project/github%2Focto%2Fhello/pipeline" {
		t.Errorf("got %s with %v, want a pipeline of the same branch", last, last.Body)
	}
}

func TestPipelineThatHasNothingForItsBranchIsSkipped(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	now := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	id := v.add(t, slipway.Build{Status: slipway.BuildStarting, CreatedAt: now})
	v.findLine(id).members["state"] = "created"
	c := v.client(t, nil, provider.Env{Now: func() time.Time { return now }})
	for _, test := range []struct {
		after time.Duration
		want  slipway.BuildStatus
		asked int
	}{{0, slipway.BuildStarting, 1}, {10 * time.Minute, slipway.BuildStarting, 2}, {20 * time.Minute, slipway.BuildSkipped, 3}, {time.Minute, slipway.BuildSkipped, 3}} {
		now = now.Add(test.after)
		page, err := c.list(t.Context(), hello, provider.ListOptions{})
		if err != nil || len(page.Items) != 1 || page.Items[0].Status != test.want {
			t.Errorf("at %v: got %+v, %v; want it %s", now, page.Items, err, test.want)
		}
		if got := v.Count("GET /pipeline/" + id + "/workflow"); got != test.asked {
			t.Errorf("at %v: its workflows were asked for %d times, want %d", now, got, test.asked)
		}
	}
}

func TestBuildsOfAnotherProjectAreNotShown(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	c := v.client(t, nil, provider.Env{})
	l, _ := v.find(id)
	l.members["project_slug"] = "gh/octo/secret"
	if _, err := c.get(t.Context(), hello, id); !errors.Is(err, slipway.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
	l.members["project_slug"] = "gh/Octo/Hello"
	if _, err := v.client(t, nil, provider.Env{}).get(t.Context(), hello, id); err != nil {
		t.Errorf("the same in capital letters: %v", err)
	}
}

func TestRetriggerChoosesWhatToRun(t *testing.T) {
	t.Parallel()
	job := "00000001-0000-4000-8000-6978a1b2c3d4"
	for _, test := range []struct {
		status string
		extra  map[string]any
		want   string // the body
		code   slipway.Code
	}{
		{"failed", nil, "map[from_failed:true]", ""},
		{"failed", map[string]any{"all": true}, "map[]", ""},
		{"success", nil, "map[]", ""},
		{"canceled", nil, "map[]", ""}, // nothing failed, so CircleCI refuses to begin there
		{"unauthorized", nil, "map[]", ""},
		{"failed", map[string]any{"jobs": []any{job}, "enable_ssh": true}, "map[enable_ssh:true jobs:[" + job + "]]", ""},
		{"failed", map[string]any{"jobs": []any{"lint"}}, "map[jobs:[lint]]", slipway.Invalid},
		{"on_hold", nil, "map[]", slipway.Conflict},
	} {
		for _, old := range []bool{false, true} {
			v := newVendor(t)
			v.old = old
			id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
			_, f := v.find(id)
			f.members["status"] = test.status
			again, err := v.client(t, nil, provider.Env{}).retrigger(t.Context(), hello, id, test.extra, slipway.Caller{})
			if slipway.CodeOf(err) != test.code {
				t.Errorf("%s with %v: got %v, want %q", test.status, test.extra, err, test.code)
			}
			if got := fmt.Sprint(v.Last().Body); got != test.want {
				t.Errorf("%s with %v: CircleCI was sent %s, want %s", test.status, test.extra, got, test.want)
			}
			if test.code == "" && (again == nil || again.ID == id || again.Attempt != 2 || again.Trigger != slipway.TriggerRetry || again.Status != slipway.BuildRunning) {
				t.Errorf("%s with %v, old server %v: got %+v, want the second attempt", test.status, test.extra, old, again)
			}
		}
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	const run = "POST /project/circleci%2FDdaVtNusHqi24D4YT3X4eu%2F6EkDPZoN4ZdMKKZtBkRodt/pipeline/run"
	const plain = "POST /project/github%2Focto%2Fhello/pipeline"
	first := "00000001-0000-4000-8000-00000000000d"
	for _, test := range []struct {
		slug string
		o    provider.StartOptions
		want string // request and body
		code slipway.Code
	}{
		{"gh/octo/hello", provider.StartOptions{Ref: "main"}, plain + " map[branch:main]", ""},
		{"gh/octo/hello", provider.StartOptions{}, plain + " map[]", ""},
		{"gh/octo/hello", provider.StartOptions{Ref: "refs/tags/v1"}, plain + " map[tag:v1]", ""},
		{"gh/octo/hello", provider.StartOptions{Ref: "refs/heads/main", Extra: map[string]any{"parameters": map[string]any{"deploy": true, "level": 3}}}, plain + " map[branch:main parameters:map[deploy:true level:3]]", ""},
		{"gh/octo/hello", provider.StartOptions{Ref: "main", Extra: map[string]any{"inputs": map[string]any{"level": 3}}}, plain + " map[branch:main parameters:map[level:3]]", ""},
		{"gh/octo/hello", provider.StartOptions{Ref: "main", Pipeline: "build"}, plain + "/run map[checkout:map[branch:main] config:map[branch:main] definition_id:" + first + "]", ""},
		{"gh/octo/hello", provider.StartOptions{Ref: "gone"}, plain + " map[branch:gone]", slipway.Invalid},
		{"gh/octo/hello", provider.StartOptions{Ref: "8b1a9953c4611296a827abf8c47804d7f0e1c2d3"}, "", slipway.Invalid},
		{"gh/octo/hello", provider.StartOptions{Ref: "main", Extra: map[string]any{"parameters": "x"}}, "", slipway.Invalid},
		{"gh/octo/hello", provider.StartOptions{Ref: "main", Pipeline: "release"}, "", slipway.Invalid},
		{opaque, provider.StartOptions{Ref: "main"}, run + " map[checkout:map[branch:main] config:map[branch:main] definition_id:" + first + "]", ""},
		{opaque, provider.StartOptions{Extra: map[string]any{"definition_id": first}}, run + " map[definition_id:" + first + "]", ""},
	} {
		v := newVendor(t)
		v.slug = test.slug
		project, _ := canonical(test.slug)
		started, err := v.client(t, nil, provider.Env{}).start(t.Context(), project, test.o, slipway.Caller{})
		if slipway.CodeOf(err) != test.code {
			t.Errorf("%+v: got %v, want %q", test.o, err, test.code)
		}
		if test.code == "" && (started == nil || started.Trigger != slipway.TriggerAPI || started.Pipeline.Name != "build-and-test") {
			t.Errorf("%+v: got %+v, want the workflow", test.o, started)
		}
		got := ""
		if last := v.Last(); last.Method != "" {
			got = fmt.Sprint(last, " ", last.Body)
		}
		if got != test.want {
			t.Errorf("%+v: got %s\nwant %s", test.o, got, test.want)
		}
	}
}

func TestStartWaitsALittleForTheWorkflow(t *testing.T) {
	t.Parallel()
	for looks, named := range map[int]bool{3: true, 50: false} {
		v := newVendor(t)
		v.slow = looks
		started, err := v.client(t, nil, provider.Env{}).start(t.Context(), hello, provider.StartOptions{Ref: "main"}, slipway.Caller{})
		if err != nil || (started != nil) != named {
			t.Errorf("a workflow that comes at look %d: got %+v, %v; want it named %v", looks, started, err, named)
		}
	}
}

func TestDefinitionsAreNamed(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	v.slug, v.definitions = opaque, []string{"build", "nightly"}
	c := v.client(t, nil, provider.Env{})
	_, err := c.start(t.Context(), opaque, provider.StartOptions{Ref: "main"}, slipway.Caller{})
	if !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), "build, nightly") {
		t.Errorf("got %v, want invalid with the names", err)
	}
	if _, err = c.start(t.Context(), opaque, provider.StartOptions{Ref: "main", Pipeline: "nightly"}, slipway.Caller{}); err != nil {
		t.Error(err)
	}
	v.old = true
	if _, err = c.start(t.Context(), opaque, provider.StartOptions{Ref: "main", Pipeline: "nightly"}, slipway.Caller{}); !errors.Is(err, slipway.Invalid) {
		t.Errorf("a server without them: got %v, want invalid", err)
	}
}

func readLog(t *testing.T, c *client, id string, follow bool) string {
	t.Helper()
	log, err := c.logs(t.Context(), hello, id, follow)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	text, err := io.ReadAll(log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestLogsOfSeveralJobs(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildRunning})
	_, f := v.find(id)
	v.addJob(f, "build")
	v.addJob(f, "test")
	v.addOutput(f, 0, "Checkout", "cloned\n")
	v.addOutput(f, 0, "Build", "built\n")
	v.addOutput(f, 1, "Test", "tested\n")
	f.steps[1] = append(f.steps[1],
		map[string]any{"name": "Quiet", "status": "success"},
		map[string]any{"name": "Expired", "status": "success", "output_url": v.store.URL + "/gone?sig=signed"},
		map[string]any{"name": "Now", "status": "running", "output_url": v.store.URL + "/0?sig=signed"})
	v.moveByID(t, id, slipway.BuildFailed)
	want := "==> build <==\n--> Checkout\ncloned\n--> Build\nbuilt\n==> test <==\n--> Test\ntested\n--> Expired\n(CircleCI does not keep this output any more)\n"
	for _, follow := range []bool{false, true} {
		if got := readLog(t, v.client(t, nil, provider.Env{}), id, follow); got != want {
			t.Errorf("got %q\nwant %q", got, want)
		}
	}
	for _, header := range v.stored {
		for name, values := range header {
			if strings.Contains(fmt.Sprint(values), token) || name == "Authorization" || name == "Circle-Token" {
				t.Errorf("the store of outputs was sent %s", name)
			}
		}
	}
}

func TestOutputsThatAreNone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]slipway.Code{
		"": "", "[]": "", `[{"message":"a"},{}]`: "",
		"<html>": slipway.Unavailable, "{}": slipway.Unavailable, `[{"message":"a"}`: slipway.Unavailable, `[{"message":"a"},`: slipway.Unavailable, `[1]`: slipway.Unavailable,
		`[{"message":"` + strings.Repeat("x", largestMessage) + `"}]`: slipway.TooLarge,
	} {
		v := newVendor(t)
		v.outputs["x"] = text
		c := v.client(t, nil, provider.Env{})
		var out strings.Builder
		if err := c.copyOutput(t.Context(), &out, v.store.URL+"/x?sig=signed"); slipway.CodeOf(err) != want {
			t.Errorf("%.20q: got %v, want %q", text, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := newVendor(t)
	if err := v.client(t, nil, provider.Env{}).copyOutput(ctx, io.Discard, v.store.URL); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestCheckTellsWhoseTokenItIs(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	p := v.client(t, nil, provider.Env{}).Provider()
	if in, err := p.Inspect(t.Context(), hello); err != nil || in.Account != "octocat" {
		t.Errorf("got %+v, %v", in, err)
	}
	if l := p.Limits(); len(l) != 1 || l[0].Total != 100 || l[0].Remaining != 93 || strings.Contains(l[0].Account, token) {
		t.Errorf("limits %+v", l)
	}
}

func TestAListOfJobsWithoutEndHasOne(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://ci.example.com"}, provider.Env{HTTP: providertest.Endless(t, `{"items":[],"next_page_token":"PAGE"}`, "Link", `<https://ci.example.com/x>; rel="next"`)})
	if err != nil {
		t.Fatal(err)
	}
	if all, err := c.jobs(t.Context(), "7f3a0b52-0000-4000-8000-000000000000"); err != nil {
		t.Errorf("%d jobs, %v", len(all), err)
	}
}
