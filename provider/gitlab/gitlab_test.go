package gitlab

import (
	"crypto/hmac"
	"crypto/sha256"
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
	for name, config := range map[string]map[string]any{
		"with a bearer token":         nil,
		"with a private token":        {"tokenHeader": "PRIVATE-TOKEN"},
		"with the token of a job":     {"tokenHeader": "JOB-TOKEN"},
		"with webhooks that it signs": {"webhookSecret": "", "webhookSigningToken": "whsec_" + base64.StdEncoding.EncodeToString([]byte(secret))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(t *testing.T) providertest.Harness {
				v := newVendor(t)
				return harness(v, v.client(t, config, provider.Env{}).Provider(), config["webhookSigningToken"] == nil)
			})
		})
	}
}

func harness(v *vendor, p *provider.Provider, inClear bool) providertest.Harness {
	prove := func(body []byte) http.Header {
		h := unsigned()
		if !inClear {
			h.Del("X-Gitlab-Token")
			sign(h, []byte(secret), body, time.Now())
		}
		return h
	}
	return v.Faults(providertest.Harness{
		Provider: p,
		Project:  app,
		Missing:  "group/nowhere",
		Entity:   providertest.Entity(Annotation, "group/other, Group/Sub/App"),
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
			body := []byte(`{"object_kind":"note"}`)
			h := prove(body)
			h.Set("X-Gitlab-Event", "Note Hook")
			return h, body
		},
		Deploy: v.deploy,
		Admit: func(_ testing.TB, sees bool) provider.Secret {
			if sees {
				return member
			}
			return stranger
		},
	})
}

// sign signs a webhook in the form of Standard Webhooks.
func sign(h http.Header, key, body []byte, at time.Time) {
	id, stamp := "f7d4f3c2-0000-4000-8000-000000000001", strconv.FormatInt(at.Unix(), 10)
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id + "." + stamp + "."))
	m.Write(body)
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
}

func TestPipelinesAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/pipelines", func(payload []byte) (any, error) {
		var p pipeline
		err := provider.Unmarshal(payload, &p)
		return p.build(app, commit{Title: "Say hello", Author: "Jane Doe"}), err
	})
}

// notification is a webhook: its headers and its body.
type notification struct {
	Headers map[string]string
	Body    json.RawMessage
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
	c := &client{cfg: Config{WebhookSecret: secret}}
	providertest.Golden(t, "testdata/webhooks", func(payload []byte) (any, error) {
		var n notification
		if err := json.Unmarshal(payload, &n); err != nil {
			return nil, err
		}
		if err := c.verify(n.header(), n.Body); err != nil {
			return nil, err
		}
		return parse(n.header(), n.Body)
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
			f.Add("Pipeline Hook", []byte(n.Body))
		}
	}
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		list, err := parse(http.Header{"X-Gitlab-Event": {event}}, body)
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
		for _, d := range list {
			if _, err := path(d.Project, ""); err != nil {
				t.Errorf("a delivery of no project: %+v", d)
			}
		}
	})
}

func TestSignedWebhooks(t *testing.T) {
	t.Parallel()
	now := time.Unix(1767225600, 0)
	body := []byte(`{"object_kind":"pipeline"}`)
	const signature = "v1,WUniwORKM20Q7W3PSYFcwyj39KAnO+mthmreRVf0ZRY=" // by the scheme that GitLab published, of the three values
	header := func(change ...string) http.Header {
		h := http.Header{}
		for pair := range slices.Chunk(append([]string{
			"webhook-id", "f7d4f3c2-0000-4000-8000-000000000001", "webhook-timestamp", "1767225600", "webhook-signature", signature,
		}, change...), 2) {
			h.Set(pair[0], pair[1])
		}
		return h
	}
	inKey := "whsec_" + base64.StdEncoding.EncodeToString([]byte("lab-signing-token"))
	both := Config{WebhookSigningToken: "lab-signing-token", WebhookSecret: secret}
	for name, test := range map[string]struct {
		cfg  Config
		h    http.Header
		at   time.Time
		want slipway.Code
	}{
		"the token as it is":                       {Config{WebhookSigningToken: "lab-signing-token"}, header(), now, ""},
		"the token in the form of the scheme":      {Config{WebhookSigningToken: provider.Secret(inKey)}, header(), now, ""},
		"one of two signatures":                    {both, header("webhook-signature", "v1,AAAA "+signature), now, ""},
		"a little late":                            {both, header(), now.Add(4 * time.Minute), ""},
		"another token":                            {Config{WebhookSigningToken: "other"}, header(), now, slipway.Unauthenticated},
		"another id":                               {both, header("webhook-id", "x"), now, slipway.Unauthenticated},
		"another time":                             {both, header("webhook-timestamp", "1767225601"), now, slipway.Unauthenticated},
		"another version":                          {both, header("webhook-signature", "v2"+signature[2:]), now, slipway.Unauthenticated},
		"no base64":                                {both, header("webhook-signature", "v1,!"), now, slipway.Unauthenticated},
		"replayed":                                 {both, header(), now.Add(6 * time.Minute), slipway.Unauthenticated},
		"from ahead":                               {both, header(), now.Add(-6 * time.Minute), slipway.Unauthenticated},
		"not signed":                               {Config{WebhookSigningToken: "lab-signing-token"}, http.Header{}, now, slipway.Unauthenticated},
		"not signed, with the secret":              {both, http.Header{"X-Gitlab-Token": {secret}}, now, ""},
		"wrongly signed, with the secret":          {both, header("webhook-signature", "v1,AAAA", "x-gitlab-token", secret), now, slipway.Unauthenticated},
		"signed, though only a secret is known":    {Config{WebhookSecret: secret}, header("x-gitlab-token", secret), now, ""},
		"signed, and a wrong secret":               {Config{WebhookSecret: secret}, header("x-gitlab-token", "wrong"), now, slipway.Unauthenticated},
		"an empty secret where there is to be one": {Config{WebhookSecret: secret}, http.Header{"X-Gitlab-Token": {""}}, now, slipway.Unauthenticated},
		"nothing is known":                         {Config{}, header("x-gitlab-token", ""), now, slipway.Forbidden},
	} {
		c := &client{cfg: test.cfg, now: func() time.Time { return test.at }}
		if err := c.verify(test.h, body); slipway.CodeOf(err) != test.want && (err != nil || test.want != "") {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestProjectsOfAnEntity(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://GitLab.example.com/git/", TokenHeader: bearerHeader}, provider.Env{})
	if err != nil {
		t.Fatal(err)
	}
	const source = "backstage.io/source-location"
	for _, test := range []struct {
		annotations []string
		want        string
	}{
		{[]string{Annotation, "Group/App"}, "group/app"},
		{[]string{Annotation, " group/sub/app ,group/sub/app/, group/web.site, _x/.y"}, "group/sub/app group/web.site _x/.y"},
		{[]string{Annotation, "app, group/.., group//app, group/a?b, ../group"}, ""},
		{[]string{IDAnnotation, "4711, 12"}, "4711 12"},
		{[]string{IDAnnotation, "0, -1, 1e3, group/app, 99999999999999999999"}, ""},
		{[]string{Annotation, "group/app", IDAnnotation, "4711"}, "group/app"}, // of the same project
		{[]string{Annotation, "group/app", InstanceAnnotation, "GitLab.example.com"}, "group/app"},
		{[]string{Annotation, "group/app", InstanceAnnotation, "https://gitlab.example.com/git"}, "group/app"},
		{[]string{Annotation, "group/app", InstanceAnnotation, "gitlab.com"}, ""},
		{[]string{IDAnnotation, "4711", InstanceAnnotation, "gitlab.com"}, ""},
		{[]string{Annotation, "gitlab.example.com/group/app, gitlab.com/group/web"}, "group/app"},
		{[]string{Annotation, "acme.io/app"}, "acme.io/app"}, // a group with a dot
		{[]string{Annotation, "group/app", source, "url:https://gitlab.com/group/app/-/tree/main/"}, ""},
		{[]string{Annotation, "group/app", source, "url:https://gitlab.com/else/where"}, "group/app"},
		{[]string{Annotation, "group/app", source, "url:https://gitlab.com/group/app", InstanceAnnotation, "gitlab.example.com"}, "group/app"},
	} {
		e := providertest.Entity(test.annotations...)
		if got := strings.Join(c.projects(&e), " "); got != test.want {
			t.Errorf("%q: got %q, want %q", test.annotations, got, test.want)
		}
	}
}

func TestAccountsOfAUser(t *testing.T) {
	t.Parallel()
	c := &client{host: "gitlab.example.com"}
	for _, test := range []struct {
		annotations []string
		want        string
	}{
		{[]string{UserAnnotation, "Jane"}, "Jane jane"},
		{[]string{"gitlab.example.com/user-login", "https://gitlab.example.com/git/jane"}, "jane"}, // what Backstage writes
		{[]string{UserAnnotation, "https://gitlab.com/jane"}, ""},                                  // somebody at another GitLab
		{[]string{"gitlab.example.com/user-login", "jane", UserAnnotation, "jane.doe"}, "jane jane.doe"},
		{[]string{UserAnnotation, " "}, ""},
	} {
		e := providertest.Entity(test.annotations...)
		if got := strings.Join(c.accounts(&e), " "); got != test.want {
			t.Errorf("%q: got %q, want %q", test.annotations, got, test.want)
		}
	}
}

func TestConfigTellsAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"gitlab","tokn":"s3cret","tokenHeader":"X","credential":{"type":"usernamePassword"}}`), provider.Env{})
	var e *slipway.Error
	if !errors.As(err, &e) || len(e.Details) != 4 || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v, want four faults and no secret", err)
	}
	if _, err := Kind.Open(t.Context(), nil, provider.Env{}); err != nil {
		t.Errorf("no config at all reads public projects: %v", err)
	}
}

func TestRefusalsAreToldApart(t *testing.T) {
	t.Parallel()
	reset := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	post := func(status int, body string) providertest.Refusal {
		return providertest.Refusal{Fault: providertest.On(http.MethodPost, providertest.Say(status, body)), Retrigger: true, Want: slipway.Conflict}
	}
	used := func(left, until string, more ...string) []string {
		return append([]string{"RateLimit-Limit", "600", "RateLimit-Remaining", left, "RateLimit-Reset", until}, more...)
	}
	forbidden := post(403, `{"error":"insufficient_scope","error_description":"The request requires higher privileges","scope":"api"}`)
	forbidden.Want = slipway.Forbidden
	providertest.Refusals(t, token, func(t *testing.T) (providertest.Harness, *providertest.Stub) {
		v := newVendor(t)
		return harness(v, v.client(t, nil, provider.Env{}).Provider(), true), v.Stub
	}, map[string]providertest.Refusal{
		"limit of the instance":       {Fault: providertest.Say(429, "Retry later\n", used("0", reset(10*time.Minute))...), Want: slipway.RateLimited, After: 10 * time.Minute},
		"limit with both times":       {Fault: providertest.Say(429, "Retry later\n", used("0", reset(10*time.Minute), "Retry-After", "30")...), Want: slipway.RateLimited, After: 30 * time.Second},
		"limit of the application":    {Fault: providertest.Refuse(429, "This endpoint has been requested too many times. Try again later."), Want: slipway.RateLimited, After: time.Minute},
		"a reset in seconds to go":    {Fault: providertest.Say(429, "Retry later\n", used("0", "60")...), Want: slipway.RateLimited, After: time.Minute},
		"a page to sign in on":        {Fault: providertest.Say(200, "<html><title>Sign in · GitLab</title>"), Want: slipway.Unavailable},
		"no scope":                    forbidden,
		"a job that cannot run again": post(403, `{"message":"403 Forbidden  - Job is not retryable"}`),
	})
}

func TestNothingIsSentWhileGitLabHasEnough(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	holds := provider.NewHolds() // as replicas share them
	asked := 0
	v.Break(func(w http.ResponseWriter, _ *http.Request) bool {
		asked++ // the last that is left of this minute
		w.Header().Set("RateLimit-Limit", "600")
		w.Header().Set("RateLimit-Remaining", "0")
		w.Header().Set("RateLimit-Reset", strconv.FormatInt(time.Now().Add(time.Minute).Unix(), 10))
		providertest.Answer(w, http.StatusOK, []any{})
		return true
	})
	for i := range 3 {
		b := v.client(t, nil, provider.Env{Holds: holds}).Provider().Builds
		if _, err := b.List(t.Context(), app, provider.ListOptions{}); i > 0 && !errors.Is(err, slipway.RateLimited) || i == 0 && err != nil {
			t.Errorf("request %d: %v", i, err)
		}
	}
	if asked != 1 {
		t.Errorf("GitLab was asked %d times, want once", asked)
	}
}

func TestListIsCheapAndCompletedOnDemand(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	for range 3 {
		v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
	}
	b := v.builds(t)
	page, err := b.List(t.Context(), app, provider.ListOptions{Limit: 100})
	if err != nil || len(page.Items) != 3 || len(v.Asked()) != 1 {
		t.Fatalf("got %d builds, %v, for %v; want three for one request", len(page.Items), err, v.Asked())
	}
	for _, part := range page.Items {
		whole, err := page.Complete(t.Context(), part)
		if err != nil || whole.TriggeredBy == nil || whole.TriggeredBy.ID != "jane" || whole.StartedAt == nil || whole.FinishedAt == nil || whole.Commit.Message != "Say hello" || whole.Commit.Author != "Jane Doe" {
			t.Errorf("got %+v, %v; want a whole build", whole, err)
		}
	}
	if n := v.Count("GET /projects/group%2Fsub%2Fapp/repository/commits/" + example()["sha"].(string)); n != 1 {
		t.Errorf("the commit of all three was asked for %d times, want once", n)
	}
	again, err := b.List(t.Context(), app, provider.ListOptions{Limit: 100, Validator: page.Validator})
	if err != nil || !again.NotModified {
		t.Errorf("nothing changed: not modified %v, %v", again.NotModified, err)
	}
	if limits := v.client(t, nil, provider.Env{}).Provider().Limits(); limits != nil {
		t.Errorf("limits before anything was asked: %v", limits)
	}
}

func TestAddressMayBeThatOfTheAPI(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	for _, address := range []string{v.URL + prefix, v.URL + prefix + "/", v.URL + prefix + "/api/v4", v.URL + prefix + "/api/v4/"} {
		if err := v.client(t, map[string]any{"url": address}, provider.Env{}).check(t.Context()); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestProjectsHaveNumbersToo(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{})
	if b, err := v.builds(t).Get(t.Context(), "42", id); err != nil || b.Pipeline.ID != "42" {
		t.Errorf("got %+v, %v", b, err)
	}
}

func TestCommitThatIsNotShownIsLeftOut(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{})
	v.change(id, func(r *run) { r.members["sha"] = "gone" })
	b := v.builds(t)
	for range 2 {
		if got, err := b.Get(t.Context(), app, id); err != nil || got.Commit.SHA != "gone" || got.Commit.Message != "" {
			t.Errorf("got %+v, %v", got.Commit, err)
		}
	}
	if n := v.Count("GET /projects/group%2Fsub%2Fapp/repository/commits/gone"); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestRunAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status slipway.BuildStatus
		extra  map[string]any
		change func(v *vendor, r *run)
		asked  string // what changes something
		same   bool   // the build goes on, else there is a new one
		none   bool   // it has no name yet
		want   slipway.Code
	}{
		"what failed":                      {status: slipway.BuildFailed, asked: "pipelines/1/retry", same: true},
		"what was canceled":                {status: slipway.BuildCanceled, asked: "pipelines/1/retry", same: true},
		"all of it":                        {status: slipway.BuildFailed, extra: map[string]any{"all": true}, asked: "pipeline"},
		"nothing failed":                   {status: slipway.BuildSucceeded, asked: "pipeline"},
		"it is begun later":                {status: slipway.BuildFailed, change: func(v *vendor, _ *run) { v.idle = true }, asked: "pipelines/1/retry", none: true},
		"failed without a job that failed": {status: slipway.BuildFailed, change: func(_ *vendor, r *run) { r.jobs[0]["status"] = "success" }, asked: "pipelines/1/retry", want: slipway.Conflict},
		"failed without a job":             {status: slipway.BuildFailed, change: func(_ *vendor, r *run) { r.jobs = nil }, asked: "pipelines/1/retry", want: slipway.Conflict},
		"waits for a person":               {status: slipway.BuildRunning, change: func(_ *vendor, r *run) { r.members["status"] = "manual" }, want: slipway.Conflict},
		"all of a merge request":           {status: slipway.BuildSucceeded, change: func(_ *vendor, r *run) { r.members["ref"] = "refs/merge-requests/12/head" }, want: slipway.Unsupported},
		"what failed of a merge request":   {status: slipway.BuildFailed, change: func(_ *vendor, r *run) { r.members["ref"] = "refs/merge-requests/12/head" }, asked: "pipelines/1/retry", same: true},
		"all of a branch that is gone":     {status: slipway.BuildSucceeded, change: func(_ *vendor, r *run) { r.members["ref"] = "gone" }, asked: "pipeline", want: slipway.Invalid},
	} {
		v := newVendor(t)
		id := v.add(t, slipway.Build{Status: test.status})
		if test.change != nil {
			v.change(id, func(r *run) { test.change(v, r) })
		}
		again, err := v.builds(t).Retrigger(t.Context(), app, id, test.extra, slipway.Caller{})
		switch {
		case test.want != "":
			if slipway.CodeOf(err) != test.want {
				t.Errorf("%s: got %+v, %v; want %s", name, again, err, test.want)
			}
		case err != nil || (again == nil) != test.none:
			t.Errorf("%s: got %+v, %v", name, again, err)
		case again != nil && ((again.ID == id) != test.same || again.Status != slipway.BuildStarting || again.FinishedAt != nil || again.Commit.Message != "Say hello"):
			t.Errorf("%s: got %+v; the same build: %v", name, again, test.same)
		}
		if got := strings.TrimPrefix(v.Last().Path, "/projects/group%2Fsub%2Fapp/"); got != test.asked {
			t.Errorf("%s: asked for %q, want %q", name, got, test.asked)
		}
	}
}

func TestARetriedBuildIsNewerThanItsEnd(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	b := v.builds(t)
	before, err := b.Get(t.Context(), app, id)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Retrigger(t.Context(), app, id, nil, slipway.Caller{})
	if err != nil || !again.UpdatedAt.After(*before.UpdatedAt) || !again.CreatedAt.Equal(before.CreatedAt) {
		t.Errorf("got %+v, %v; want it newer than %v", again, err, before.UpdatedAt)
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	b := v.builds(t)
	started, err := b.Start(t.Context(), app, provider.StartOptions{Ref: "main", Pipeline: app, Extra: map[string]any{
		"inputs": map[string]any{"level": 3, "deep": true}, "variables": map[string]any{"B": 1.5, "A": "x"},
	}}, slipway.Caller{})
	if err != nil || started == nil || started.Trigger != slipway.TriggerAPI || started.Commit.Branch != "main" {
		t.Fatalf("got %+v, %v", started, err)
	}
	if got := fmt.Sprint(v.Last().Body); got != "map[inputs:map[deep:true level:3] ref:main variables:[map[key:A value:x] map[key:B value:1.5]]]" {
		t.Errorf("GitLab was sent %s", got)
	}
	for name, o := range map[string]provider.StartOptions{
		"no such branch":       {Ref: "gone"},
		"another pipeline":     {Ref: "main", Pipeline: "release.yml"},
		"inputs of no map":     {Ref: "main", Extra: map[string]any{"inputs": "x"}},
		"variables of no map":  {Ref: "main", Extra: map[string]any{"variables": []any{}}},
		"variables of no text": {Ref: "main", Extra: map[string]any{"variables": map[string]any{"A": []any{}}}},
	} {
		if _, err := b.Start(t.Context(), app, o, slipway.Caller{}); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		} else if name == "no such branch" && !strings.Contains(err.Error(), "Reference not found") {
			t.Errorf("%s: got %v, want GitLab's own words", name, err)
		}
	}
}

func TestCancelWhatRunsOnly(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	b := v.builds(t)
	if err := b.Cancel(t.Context(), app, v.add(t, slipway.Build{Status: slipway.BuildSucceeded})); !errors.Is(err, slipway.Conflict) || v.Last().Path != "" {
		t.Errorf("got %v after %v; want a conflict, and nothing asked", err, v.Last())
	}
}

func read(t *testing.T, c *client, id string, follow bool) string {
	t.Helper()
	log, err := c.logs(t.Context(), app, id, follow)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	text, err := io.ReadAll(log)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func TestLogsOfSeveralJobs(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	v.write(t, id, "compiled\n")
	v.change(id, func(r *run) {
		set := func(j map[string]any, status, reason string, begun bool) {
			j["status"], j["failure_reason"] = status, reason
			if begun {
				j["started_at"] = "2026-11-21T09:00:07.300Z"
			}
		}
		set(r.addJob(101, "unit"), "failed", "script_failure", true)
		r.logs[101] = "tested\n"
		set(r.addJob(102, "lint"), "success", "", true) // whose log was erased
		set(r.addJob(103, "arm"), "failed", "stuck_or_timeout_failure", false)
		set(r.addJob(104, "deploy"), "manual", "", false)
		set(r.addJob(105, "after"), "skipped", "", false)
	})
	want := "==> compile (failed) <==\ncompiled\n==> unit (failed) <==\ntested\n==> lint (success) <==\n==> arm (failed: stuck_or_timeout_failure) <==\n"
	for _, follow := range []bool{false, true} {
		if got := read(t, v.client(t, nil, provider.Env{}), id, follow); got != want {
			t.Errorf("follow %v: got %q, want %q", follow, got, want)
		}
	}
}

func TestLogsInAStoreLeaveTheCredentialBehind(t *testing.T) {
	t.Parallel()
	for _, header := range []string{bearerHeader, privateHeader, jobHeader} {
		v := newVendor(t)
		id := v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
		v.write(t, id, "x")
		v.archived = true
		if got := read(t, v.client(t, map[string]any{"tokenHeader": header}, provider.Env{}), id, false); got != "from the store\n" {
			t.Errorf("%s: got %q", header, got)
		}
		if len(v.stored) != 1 || strings.Contains(fmt.Sprint(v.stored), token) {
			t.Errorf("%s: the store was sent %v", header, v.stored)
		}
	}
}

func TestCheckAndInspect(t *testing.T) {
	t.Parallel()
	none := map[string]any{"credential": map[string]any{}}
	job := map[string]any{"tokenHeader": "JOB-TOKEN"}
	for name, test := range map[string]struct {
		config map[string]any
		scopes []string
		role   int
		lacks  []string // a word of each
	}{
		"all is well":         {scopes: []string{"api"}, role: developer},
		"may only read":       {scopes: []string{"read_api"}, role: reporter, lacks: []string{"scope api", "Developer"}},
		"may only see itself": {scopes: []string{"read_user"}, role: 10, lacks: []string{"scope api", "read_api", "Reporter"}},
		"has no role":         {scopes: []string{"api"}, lacks: []string{"names no role"}},
		"nobody":              {config: none, lacks: []string{"no credential"}},
		"a job":               {config: job, lacks: []string{"ends with its job"}},
	} {
		v := newVendor(t)
		v.scopes, v.role = test.scopes, test.role
		c := v.client(t, test.config, provider.Env{})
		if err := c.check(t.Context()); err != nil {
			t.Errorf("%s: check: %v", name, err)
		}
		in, err := c.inspect(t.Context(), app)
		ok := err == nil && len(in.Lacks) == len(test.lacks)
		for i := 0; ok && i < len(test.lacks); i++ {
			ok = strings.Contains(in.Lacks[i], test.lacks[i])
		}
		if !ok {
			t.Errorf("%s: got %q, %v; want something of %q", name, in.Lacks, err, test.lacks)
		}
		if test.config == nil && (in.Account != "slipway-bot" || in.Expires.Format(time.DateOnly) != "2027-11-21") {
			t.Errorf("%s: got %q until %v", name, in.Account, in.Expires)
		}
	}
	v := newVendor(t)
	c := v.client(t, map[string]any{"credential": map[string]any{"type": "secretText", "secret": "revoked"}}, provider.Env{})
	if err := c.check(t.Context()); !errors.Is(err, slipway.Unauthenticated) {
		t.Errorf("a revoked token: got %v, want unauthenticated", err)
	}
	if _, err := c.inspect(t.Context(), app); !errors.Is(err, slipway.Unauthenticated) {
		t.Errorf("a revoked token: got %v, want unauthenticated", err)
	}
}

func TestAListOfJobsWithoutEndHasOne(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://ci.example.com", TokenHeader: bearerHeader}, provider.Env{HTTP: providertest.Endless(t, `[{"id":1,"name":"test"}]`, "Link", `<https://ci.example.com/x>; rel="next"`)})
	if err != nil {
		t.Fatal(err)
	}
	if all, err := c.jobs(t.Context(), "octo/hello", "7"); err != nil || len(all) == 0 {
		t.Errorf("%d jobs, %v", len(all), err)
	}
}
