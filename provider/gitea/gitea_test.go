package gitea

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"os"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestConformance(t *testing.T) {
	for name, config := range map[string]map[string]any{
		"with a token":    nil,
		"with an account": {"credential": map[string]any{"type": "usernamePassword", "username": "lab", "password": "pw"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(t *testing.T) providertest.Harness {
				v := newVendor(t)
				return harness(v, v.client(t, config, provider.Env{}).Provider())
			})
		})
	}
}

func harness(v *vendor, p *provider.Provider) providertest.Harness {
	return v.Faults(providertest.Harness{
		Provider: p,
		Project:  app,
		Missing:  "lab/nowhere",
		Entity:   providertest.Entity(Annotation, "lab/other, Lab/App"),
		Add:      v.add, Move: v.moveByID, Write: v.write, Notify: v.notify, Sign: sign,
		Unsigned: func(t testing.TB, id string) (*provider.Provider, http.Header, []byte) {
			h, body := v.notify(t, id)
			return v.client(t, map[string]any{"webhookSecret": ""}, provider.Env{}).Provider(), h, body
		},
		Foreign: func(testing.TB) (http.Header, []byte) {
			body := []byte(`{"action":"starred"}`)
			h := sign(body)
			h.Set("X-Gitea-Event", "star")
			return h, body
		},
		Admit: admit,
	})
}

func TestRunsAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	date := time.Date(2026, 11, 21, 22, 45, 0, 0, time.UTC)
	providertest.Golden(t, "testdata/runs", func(payload []byte) (any, error) {
		var file struct {
			Run  workflowRun
			Jobs []job
		}
		err := json.Unmarshal(payload, &file)
		return file.Run.build(detailOf(file.Run, file.Jobs, date)), err
	})
}

// notification is a recorded webhook.
type notification struct {
	Secret  string
	Headers map[string]string
	RawBody string
}

func (n notification) header() http.Header {
	h := http.Header{}
	for name, value := range n.Headers {
		h.Set(name, value)
	}
	return h
}

func TestWebhooksAreReadAsTheyAreSent(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/webhooks", func(payload []byte) (any, error) {
		var n notification
		if err := json.Unmarshal(payload, &n); err != nil {
			return nil, err
		}
		c := &client{cfg: Config{WebhookSecret: provider.Secret(n.Secret)}}
		if err := c.verify(n.header(), []byte(n.RawBody)); err != nil {
			return nil, err
		}
		wrong := n.header()
		wrong.Set("X-Gitea-Signature", strings.ToUpper(wrong.Get("X-Gitea-Signature"))[:63]+"g")
		if err := c.verify(wrong, []byte(n.RawBody)); !errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("a wrong signature: got %v, want unauthenticated", err)
		}
		return parse(n.header(), []byte(n.RawBody))
	})
}

func FuzzWebhook(f *testing.F) {
	files, _ := filepath.Glob("testdata/webhooks/*_*.json")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var n notification
		if json.Unmarshal(text, &n) == nil && n.RawBody != "" {
			f.Add("workflow_run", []byte(n.RawBody))
		}
	}
	f.Add("workflow_job", []byte(`{"repository":{"full_name":"a/b"}}`))
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		list, err := parse(http.Header{"X-Gitea-Event": {event}}, body)
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
		for _, d := range list {
			if d.Project == "" {
				t.Errorf("a delivery without a project: %+v", d)
			}
		}
	})
}

func TestProjectsOfAnEntity(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://Git.example.com/git/"}, provider.Env{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ annotation, source, want string }{
		{"Lab/App, lab/web.site", "", "lab/app lab/web.site"},
		{"", "url:https://git.example.com/git/Lab/App/src/branch/main/", "lab/app"},
		{"", "url:https://git.example.com/git/lab/app.git", "lab/app"},
		{"", "url:https://git.example.com/lab/app", ""}, // another server below the same name
		{"", "url:https://other.example.com/git/lab/app", ""},
		{"lab/app", "url:https://other.example.com/lab/app", ""},
		{"lab/app", "url:https://other.example.com/else/where", "lab/app"},
		{"git.example.com/lab/app, other.example.com/lab/web", "", "lab/app"},
		{"lab/.., lab, a/b?c", "", ""},
	} {
		e := providertest.Entity(Annotation, test.annotation, SourceAnnotation, test.source)
		if got := strings.Join(c.projects(&e), " "); got != test.want {
			t.Errorf("%q with source %q: got %q, want %q", test.annotation, test.source, got, test.want)
		}
	}
}

func TestConfigTellsAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"gitea","tokn":"x","credential":{"type":"secretText"}}`), provider.Env{})
	var e *slipway.Error
	if !errors.As(err, &e) || len(e.Details) != 3 {
		t.Errorf("got %v, want three faults", err)
	}
}

func TestRefusalsAreToldApart(t *testing.T) {
	post := func(status int, message string) providertest.Refusal {
		return providertest.Refusal{Fault: providertest.On(http.MethodPost, providertest.Refuse(status, message)), Retrigger: true, Want: slipway.Conflict}
	}
	providertest.Refusals(t, token, func(t *testing.T) (providertest.Harness, *providertest.Stub) {
		v := newVendor(t)
		return harness(v, v.client(t, nil, provider.Env{}).Provider()), v.Stub
	}, map[string]providertest.Refusal{
		"not done yet after all": post(400, "this workflow run is not done"),
		"workflow switched off":  post(422, "workflow is disabled"),
		"archived":               post(423, "Repo is archived"),
	})
}

func TestWhatDoesNotChangeIsAskedOnce(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	ended := v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
	queued := v.add(t, slipway.Build{Status: slipway.BuildStarting})
	b := v.client(t, nil, provider.Env{}).Provider().Builds
	count := func(id string) int { return v.Count("GET /repos/lab/app/actions/runs/" + id + "/jobs") }
	list := func() []slipway.Build {
		t.Helper()
		page, err := b.List(t.Context(), app, provider.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return page.Items
	}
	first := list()
	v.mu.Lock()
	v.now = v.now.Add(time.Minute)
	v.mu.Unlock()
	if again := list(); !again[0].UpdatedAt.Equal(*first[0].UpdatedAt) {
		t.Errorf("a run that waits is news at every look: %v, then %v", first[0].UpdatedAt, again[0].UpdatedAt)
	}
	if count(ended) != 1 || count(queued) != 1 {
		t.Errorf("the jobs were asked for %d and %d times, want once each", count(ended), count(queued))
	}
	v.moveByID(t, queued, slipway.BuildRunning)
	if now := list(); now[0].Status != slipway.BuildRunning || !now[0].UpdatedAt.After(*first[0].UpdatedAt) || !now[0].CreatedAt.Equal(first[0].CreatedAt) {
		t.Errorf("got %+v, want the run, running, later", now[0])
	}
	if count(ended) != 1 || count(queued) != 2 {
		t.Errorf("the jobs were asked for %d and %d times, want those of the changed run again", count(ended), count(queued))
	}
}

func TestRunAgainIsTheNextAttemptAndNewer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status slipway.BuildStatus
		extra  map[string]any
		want   string
	}{
		{slipway.BuildFailed, nil, "rerun-failed-jobs"},
		{slipway.BuildFailed, map[string]any{"all": true}, "rerun"},
		{slipway.BuildSucceeded, nil, "rerun"},
	} {
		v := newVendor(t)
		id := v.add(t, slipway.Build{Status: test.status})
		b := v.client(t, nil, provider.Env{}).Provider().Builds
		before, err := b.Get(t.Context(), app, id)
		if err != nil {
			t.Fatal(err)
		}
		again, err := b.Retrigger(t.Context(), app, id, test.extra, slipway.Caller{})
		if err != nil || again == nil || again.ID != id || again.Attempt != 2 || again.UpdatedAt.Before(*before.UpdatedAt) || again.StartedAt != nil {
			t.Fatalf("got %+v, %v; want the second attempt, newer than %v", again, err, before.UpdatedAt)
		}
		if v.Count("POST /repos/lab/app/actions/runs/"+id+"/"+test.want) != 1 {
			t.Errorf("got %v, want %s among them", v.Asked(), test.want)
		}
		v.moveByID(t, id, slipway.BuildRunning)
		v.moveByID(t, id, slipway.BuildSucceeded)
		after, err := b.Get(t.Context(), app, id)
		if err != nil || after.Attempt != 2 || !after.UpdatedAt.After(*again.UpdatedAt) || !after.CreatedAt.Equal(before.CreatedAt) {
			t.Errorf("in the end: got %+v, %v", after, err)
		}
	}
}

func TestOldServerDispatchesInstead(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	v.old = true
	b := v.client(t, nil, provider.Env{}).Provider().Builds
	again, err := b.Retrigger(t.Context(), app, id, nil, slipway.Caller{})
	if err != nil || again != nil {
		t.Fatalf("got %+v, %v; want a run that has no name yet", again, err)
	}
	if last := v.Last(); last.String() != "POST /repos/lab/app/actions/workflows/ci.yml/dispatches" || last.Body["ref"] != "main" {
		t.Errorf("got %s with %v, want a dispatch on the run's branch", last, last.Body)
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	b := v.client(t, nil, provider.Env{}).Provider().Builds
	o := provider.StartOptions{Ref: "main", Extra: map[string]any{"inputs": map[string]any{"level": 3}}}
	if started, err := b.Start(t.Context(), app, o, slipway.Caller{}); err != nil || started == nil || v.Last().Body["inputs"].(map[string]any)["level"] != "3" {
		t.Errorf("got %+v, %v with %v; want the run, and its inputs as texts", started, err, v.Last().Body)
	}
	v.workflows = []string{"ci.yml", "slow.yml"}
	_, err := b.Start(t.Context(), app, o, slipway.Caller{})
	if !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), "ci.yml, slow.yml") {
		t.Errorf("several workflows: got %v, want invalid with their names", err)
	}
}

func TestLogsOfSeveralJobs(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	v.write(t, id, "built\n")
	r := v.find(id)
	r.jobs = append(r.jobs, map[string]any{"id": 11, "name": "test", "status": "completed"})
	r.logs = append(r.logs, "tested\n")
	for _, follow := range []bool{false, true} {
		log, err := v.client(t, nil, provider.Env{}).logs(t.Context(), app, id, follow)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(log); err != nil || string(text) != "==> build <==\nbuilt\n==> test <==\ntested\n" {
			t.Errorf("got %q, %v", text, err)
		}
		_ = log.Close()
	}
}

func TestCheckKnowsForgejo(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.client(t, nil, provider.Env{})
	if err := c.check(t.Context()); err != nil {
		t.Error(err)
	}
	v.version = "11.0.1+gitea-1.22.0"
	if err := c.check(t.Context()); !errors.Is(err, slipway.Unsupported) || !strings.Contains(err.Error(), "Forgejo") {
		t.Errorf("got %v, want that Forgejo is not supported", err)
	}
}

func TestAListOfJobsWithoutEndHasOne(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://ci.example.com"}, provider.Env{HTTP: providertest.Endless(t, `{"jobs":[{"id":1,"name":"test"}]}`, "Link", `<https://ci.example.com/x>; rel="next"`)})
	if err != nil {
		t.Fatal(err)
	}
	if all, err := c.jobs(t.Context(), "octo/hello", 7); err != nil || len(all) == 0 {
		t.Errorf("%d jobs, %v", len(all), err)
	}
}
