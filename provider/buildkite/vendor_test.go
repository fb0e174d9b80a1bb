package buildkite

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

const (
	web    = "acme/web"
	secret = "bk-token"
	token  = "bkua_example"

	member   = "bkua_member" // tokens of others
	stranger = "bkua_stranger"

	prefix = "/v2"
)

// vendor plays Buildkite: one pipeline, acme/web, whose builds are the whole example with some members replaced. Every request is held against what Buildkite's
// documentation says of paths and parameters.
type vendor struct {
	*providertest.Stub

	mu     sync.Mutex
	builds []map[string]any // by number, which is the index and 1
	logs   map[string]string
	now    time.Time
	scopes []string
	deep   bool // lists end behind the first page
}

var example = providertest.Payload[map[string]any]("testdata/builds/whole.json")

func newVendor(t testing.TB) *vendor {
	v := &vendor{now: time.Now().Truncate(time.Millisecond), logs: map[string]string{}, scopes: []string{"read_builds", "write_builds", "read_build_logs"}}
	v.Stub = providertest.NewStub(t, providertest.Describe(t, prefix, []string{"testdata/api/buildkite.openapi.json"}, nil), v.serve)
	return v
}

func (v *vendor) client(t testing.TB, more map[string]any, env provider.Env) *client {
	t.Helper()
	config := map[string]any{"url": v.URL + prefix, "credential": map[string]any{"type": "secretText", "secret": token}, "webhookSecret": secret}
	c, err := newClient(providertest.Config[Config](t, config, more), env)
	if err != nil {
		t.Fatal(err)
	}
	c.logPace = time.Millisecond
	return c
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

func (v *vendor) add(_ testing.TB, b slipway.Build) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strconv.Itoa(v.addBuild(b)["number"].(int))
}

func (v *vendor) addBuild(b slipway.Build) map[string]any {
	number := len(v.builds) + 1
	created := b.CreatedAt
	if created.IsZero() {
		created = v.now
	}
	n := maps.Clone(example())
	n["number"], n["created_at"], n["started_at"], n["finished_at"] = number, stamp(created), nil, nil
	n["url"] = fmt.Sprintf("https://api.buildkite.com/v2/organizations/acme/pipelines/web/builds/%d", number)
	n["web_url"] = fmt.Sprintf("https://buildkite.com/acme/web/builds/%d", number)
	v.builds = append(v.builds, n)
	v.setJobs(n, fmt.Sprintf("job-%d", number))
	if b.Status == "" {
		b.Status = slipway.BuildRunning
	}
	v.move(n, slipway.BuildStarting)
	v.move(n, b.Status)
	return n
}

// setJobs gives a build jobs that were made now.
func (v *vendor) setJobs(n map[string]any, ids ...string) {
	jobs := []map[string]any{{"id": "wait-1", "type": "waiter", "state": "waiting"}}
	for _, id := range ids {
		jobs = append(jobs, map[string]any{"id": id, "type": "script", "name": id, "state": "scheduled", "created_at": stamp(v.now), "started_at": nil, "finished_at": nil})
	}
	n["jobs"] = jobs
}

func jobsOf(n map[string]any) []map[string]any { return n["jobs"].([]map[string]any)[1:] }

var bkWords = map[slipway.BuildStatus]string{
	slipway.BuildStarting: "scheduled", slipway.BuildRunning: "running", slipway.BuildSucceeded: "passed",
	slipway.BuildFailed: "failed", slipway.BuildCanceled: "canceled", slipway.BuildSkipped: "skipped",
}

// move changes a build and its jobs as Buildkite does: what runs again keeps when it began.
func (v *vendor) move(n map[string]any, status slipway.BuildStatus) {
	v.now = v.now.Add(1500 * time.Millisecond)
	n["state"] = bkWords[status]
	if status != slipway.BuildStarting && n["started_at"] == nil {
		n["started_at"] = stamp(v.now)
	}
	n["finished_at"] = nil
	if status.Finished() {
		n["finished_at"] = stamp(v.now)
	}
	for _, j := range jobsOf(n) {
		j["state"], j["finished_at"] = n["state"], n["finished_at"]
		if status != slipway.BuildStarting {
			j["started_at"] = stamp(v.now)
		}
	}
}

func (v *vendor) find(number string) map[string]any {
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > len(v.builds) {
		return nil
	}
	return v.builds[n-1]
}

func (v *vendor) change(number string, f func(n map[string]any)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v.find(number))
}

func (v *vendor) moveByID(_ testing.TB, number string, status slipway.BuildStatus) {
	v.change(number, func(n map[string]any) { v.move(n, status) })
}

func (v *vendor) write(_ testing.TB, number, text string) {
	v.change(number, func(n map[string]any) { v.logs[jobsOf(n)[0]["id"].(string)] += text })
}

func refuse(w http.ResponseWriter, status int, message string) {
	providertest.Answer(w, status, map[string]any{"message": message})
}

func (v *vendor) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := w.Header()
	for name, value := range map[string]string{"Limit": "200", "Remaining": "180", "Reset": "42", "User-Limit": "50", "User-Remaining": "45", "User-Reset": "42"} {
		h.Set("RateLimit-"+name, value)
	}
	given := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	path := strings.TrimPrefix(r.URL.Path, prefix)
	rest, ours := strings.CutPrefix(path, "/organizations/acme/pipelines/web/builds")
	switch {
	case given != token && given != member && given != stranger:
		refuse(w, http.StatusUnauthorized, "Authentication required. Please supply a valid API Access Token: https://buildkite.com/docs/apis/rest-api#authentication")
	case path == "/access-token":
		providertest.Answer(w, http.StatusOK, map[string]any{"uuid": "b63254c0", "scopes": v.scopes, "expires_at": "2027-11-21 06:07:42 UTC", "user": map[string]any{"name": "Slipway", "email": "slipway@example.com"}})
	case !ours || given == stranger:
		refuse(w, http.StatusNotFound, "No pipeline found")
	case rest == "" && r.Method == http.MethodGet:
		v.serveList(w, r)
	case rest == "":
		v.serveCreate(w, r)
	default:
		what := strings.Split(strings.TrimPrefix(rest, "/"), "/")
		n := v.find(what[0])
		if n == nil {
			refuse(w, http.StatusNotFound, "No build found")
			return
		}
		v.serveBuild(w, n, what[1:])
	}
}

func without(n map[string]any, name string) map[string]any {
	n = maps.Clone(n)
	delete(n, name)
	return n
}

func (v *vendor) serveList(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.FormValue("page"))
	size, _ := strconv.Atoi(r.FormValue("per_page"))
	page, size = max(page, 1), min(max(size, 1), 100)
	if v.deep && page > 1 {
		refuse(w, http.StatusBadRequest, "Listing builds this deep is not supported. Please narrow your query using filters such as branch or created_from.")
		return
	}
	list := []map[string]any{}
	for i := len(v.builds) - 1 - (page-1)*size; i >= 0 && len(list) < size; i-- {
		list = append(list, without(v.builds[i], "jobs"))
	}
	if page*size < len(v.builds) {
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=%d>; rel="next", <%s?page=9>; rel="last"`, v.URL, r.URL.Path, page+1, v.URL))
	}
	providertest.Answer(w, http.StatusOK, list)
}

func (v *vendor) serveCreate(w http.ResponseWriter, r *http.Request) {
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	if body["branch"] == "filtered" {
		refuse(w, http.StatusUnprocessableEntity, "Branches have been disabled for this pipeline")
		return
	}
	n := v.addBuild(slipway.Build{Status: slipway.BuildStarting})
	n["branch"], n["commit"], n["source"] = body["branch"], body["commit"], "api"
	providertest.Answer(w, http.StatusCreated, n)
}

func (v *vendor) serveBuild(w http.ResponseWriter, n map[string]any, what []string) {
	ended := !slices.Contains([]string{"scheduled", "running"}, n["state"].(string))
	switch strings.Join(what, "/") {
	case "":
		providertest.Answer(w, http.StatusOK, n)
	case "cancel":
		if ended {
			refuse(w, http.StatusUnprocessableEntity, "Build can't be canceled because it's already finished.")
			return
		}
		v.move(n, slipway.BuildCanceled)
		providertest.Answer(w, http.StatusOK, n)
	case "rebuild":
		made := v.addBuild(slipway.Build{Status: slipway.BuildStarting})
		made["rebuilt_from"] = map[string]any{"number": n["number"]}
		providertest.Answer(w, http.StatusOK, made)
	case "retry_failed_jobs":
		failed := 0
		for _, j := range jobsOf(n) {
			if j["state"] == "failed" {
				failed++
			}
		}
		if failed > 0 {
			v.now = v.now.Add(time.Minute)
			v.setJobs(n, jobsOf(n)[0]["id"].(string)+"-again")
			v.move(n, slipway.BuildStarting)
		}
		answer := maps.Clone(n)
		answer["retried_jobs_count"] = failed
		providertest.Answer(w, http.StatusOK, answer)
	default: // jobs/ID/log
		text, ok := v.logs[what[1]]
		if !ok {
			refuse(w, http.StatusNotFound, "No log found")
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte(text))
	}
}

func (v *vendor) notification(t testing.TB, number string) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	body, err := json.Marshal(map[string]any{
		"event": "build.running", "build": without(v.find(number), "jobs"), "pipeline": map[string]any{"url": "https://api.buildkite.com/v2/organizations/acme/pipelines/web"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}
