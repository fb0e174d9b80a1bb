package jenkins

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/jenkinstest"
	"github.com/slipway-platform/slipway/provider/providertest"
)

const (
	secret = "s3cr3t"
	token  = "11aa" // of the account bot
	prefix = "/ci"  // Jenkins below a path
)

// vendor is a Jenkins with one project, shop/web: a job, or what holds jobs.
type vendor struct {
	*jenkinstest.Jenkins
	*providertest.Stub

	mu   sync.Mutex
	jobs []*jenkinstest.Item // builds are added to each in turn
	next int
}

func newVendor(t testing.TB, kind jenkinstest.Kind) *vendor {
	j := jenkinstest.New()
	j.Prefix = prefix
	j.Users["jane"] = jenkinstest.User{Token: "22bb", Name: "Jane"}
	j.Users["joe"] = jenkinstest.User{Token: "33cc", Blind: true}
	v := &vendor{Jenkins: j, Stub: providertest.NewStub(t, nil, j.ServeHTTP)}
	web := j.Add(kind, "Shop/Web")
	switch kind {
	case jenkinstest.Multibranch:
		for _, branch := range []string{"main", "feature%2Fx", "PR-7"} {
			v.jobs = append(v.jobs, j.Add(jenkinstest.Pipeline, "Shop/Web/"+branch))
		}
	default:
		web.Parameters = []jenkinstest.Parameter{{Name: "BRANCH", Type: "StringParameterDefinition", Value: "main"}}
		v.jobs = []*jenkinstest.Item{web}
	}
	return v
}

const project = "shop/web"

func (v *vendor) client(t testing.TB, more map[string]any, env provider.Env) *client {
	config := map[string]any{
		"url": v.URL + prefix + "/", "webhookSecret": secret,
		"credential": map[string]any{"type": "usernamePassword", "username": "bot", "password": token},
	}
	c, err := newClient(providertest.Config[Config](t, config, more), env)
	if err != nil {
		t.Fatal(err)
	}
	c.pace, c.logPace = time.Millisecond, time.Millisecond
	return c
}

// withPassword is an account that shows its password, and so needs crumbs.
var withPassword = map[string]any{"credential": map[string]any{"type": "usernamePassword", "username": "bot", "password": "pw"}}

var states = map[slipway.BuildStatus]string{
	slipway.BuildStarting: jenkinstest.NotStarted, slipway.BuildRunning: jenkinstest.Building, slipway.BuildSucceeded: jenkinstest.Success,
	slipway.BuildFailed: jenkinstest.Failure, slipway.BuildCanceled: jenkinstest.Aborted, slipway.BuildSkipped: jenkinstest.NotBuilt, "": jenkinstest.Building,
}

func (v *vendor) add(_ testing.TB, b slipway.Build) string {
	v.mu.Lock()
	job := v.jobs[v.next%len(v.jobs)]
	v.next++
	v.mu.Unlock()
	r := v.Run(job, states[b.Status], b.CreatedAt)
	v.Do(func() {
		r.Causes = []jenkinstest.Cause{jenkinstest.ByUser("jane", "Jane Doe")}
		r.Checkouts = []jenkinstest.Checkout{{SHA: "0f886c74949c3ee7e489188911c7dc0c1d547418", Branch: "refs/remotes/origin/main", Remote: "https://git.example.com/shop/web.git"}}
	})
	return buildID(job.FullName(), r.Number)
}

func (v *vendor) find(id string) *jenkinstest.Run {
	job, number, _ := strings.Cut(id, "#")
	n, _ := strconv.ParseInt(number, 10, 64)
	return v.Find(job, n)
}

func (v *vendor) move(_ testing.TB, id string, status slipway.BuildStatus) {
	v.Set(v.find(id), states[status])
}

func (v *vendor) write(_ testing.TB, id, text string) { v.Write(v.find(id), text) }

// notify is what the notification plugin sends.
func (v *vendor) notify(t testing.TB, id string) (http.Header, []byte) {
	job, number, _ := strings.Cut(id, "#")
	n, _ := strconv.Atoi(number)
	at := strings.TrimPrefix(jobPath(job), "/") + "/"
	body, err := json.Marshal(map[string]any{
		"name": job[strings.LastIndexByte(job, '/')+1:], "display_name": job, "url": at,
		"build": map[string]any{"number": n, "queue_id": 7, "timestamp": 1761300000000, "phase": "STARTED", "url": at + number + "/", "full_url": v.Root + at + number + "/", "log": "", "scm": map[string]any{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return sign(body), body
}

func sign([]byte) http.Header {
	r := http.Request{Header: http.Header{"Content-Type": {"application/json;charset=UTF-8"}}}
	r.SetBasicAuth("jenkins", secret)
	return r.Header
}

func (v *vendor) harness(p *provider.Provider) providertest.Harness {
	return v.Faults(providertest.Harness{
		Provider: p, Project: project, Missing: "shop/nowhere",
		Entity: providertest.Entity(Annotation, "Shop/Other, shop/Web"),
		Add:    v.add, Move: v.move, Write: v.write, Notify: v.notify, Sign: sign, Clear: true,
		Unsigned: func(t testing.TB, id string) (*provider.Provider, http.Header, []byte) {
			h, body := v.notify(t, id)
			return v.client(t, map[string]any{"webhookSecret": ""}, provider.Env{}).Provider(), h, body
		},
		Foreign: func(testing.TB) (http.Header, []byte) {
			body := []byte(`{"name":"agent-1","url":"computer/agent-1/","status":"offline"}`)
			return sign(body), body
		},
		Admit: func(_ testing.TB, sees bool) provider.Secret {
			if sees {
				return "jane:22bb"
			}
			return "joe:33cc"
		},
	})
}

// find2 is find within Do.
func (v *vendor) find2(id string) *jenkinstest.Run {
	for _, job := range v.jobs {
		for _, r := range job.Runs() {
			if buildID(job.FullName(), r.Number) == id {
				return r
			}
		}
	}
	return nil
}

func readAll(t testing.TB, r io.ReadCloser) string {
	t.Helper()
	defer func() { _ = r.Close() }()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
