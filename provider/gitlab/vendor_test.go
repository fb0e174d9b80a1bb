package gitlab

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
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
	app    = "group/sub/app" // whose number is 42
	secret = "s3cr3t"
	token  = "glpat-example"

	member   = "glpat-member" // tokens of others
	stranger = "glpat-stranger"

	prefix = "/git" // GitLab below a path
)

// vendor plays GitLab: one project, group/sub/app, whose pipelines are the whole example with some members replaced. Every request is held against what GitLab's
// description says of paths and parameters.
type vendor struct {
	*providertest.Stub
	store *httptest.Server // where old logs lie

	mu        sync.Mutex
	pipelines []*run // by id, which is the index and 1
	now       time.Time
	scopes    []string
	role      int
	stored    []http.Header // what the store of logs was sent
	archived  bool          // logs lie in the store
	idle      bool          // what is asked for is accepted, and begun later

	deployments []map[string]any // by id, which is the index and 1
}

type run struct {
	members map[string]any
	jobs    []map[string]any
	logs    map[int]string // by job
}

var example = providertest.Payload[map[string]any]("testdata/pipelines/whole.json")

func newVendor(t testing.TB) *vendor {
	v := &vendor{now: time.Now().Truncate(time.Millisecond), scopes: []string{"api"}, role: 40}
	v.Stub = providertest.NewStub(t, providertest.Describe(t, prefix+"/api/v4", []string{"testdata/api/gitlab.openapi.json"}, []string{"GET /projects/[^/]+/deployments(/[0-9]+)?"}), v.serve)
	v.store = httptest.NewServer(http.HandlerFunc(v.serveLog))
	t.Cleanup(v.store.Close)
	return v
}

func (v *vendor) client(t testing.TB, more map[string]any, env provider.Env) *client {
	t.Helper()
	config := map[string]any{"url": v.URL + prefix + "/", "credential": map[string]any{"type": "secretText", "secret": token}, "webhookSecret": secret}
	c, err := newClient(providertest.Config[Config](t, config, more), env)
	if err != nil {
		t.Fatal(err)
	}
	c.logPace = time.Millisecond
	return c
}

func (v *vendor) builds(t testing.TB) *provider.Builds {
	t.Helper()
	return v.client(t, nil, provider.Env{}).Provider().Builds
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

func (v *vendor) add(_ testing.TB, b slipway.Build) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.addRun(b)
}

func (v *vendor) addRun(b slipway.Build) string {
	id := len(v.pipelines) + 1
	r := &run{members: maps.Clone(example()), logs: map[int]string{}}
	created := b.CreatedAt
	if created.IsZero() {
		created = v.now
	}
	r.members["id"], r.members["iid"], r.members["created_at"] = id, id, stamp(created)
	r.members["started_at"], r.members["finished_at"] = nil, nil
	r.members["web_url"] = fmt.Sprintf("https://gitlab.example.com/git/group/sub/app/-/pipelines/%d", id)
	r.addJob(id*100, "compile")
	v.pipelines = append(v.pipelines, r)
	if b.Status == "" {
		b.Status = slipway.BuildRunning
	}
	v.move(r, slipway.BuildStarting)
	v.move(r, b.Status)
	return strconv.Itoa(id)
}

func (r *run) addJob(id int, name string) map[string]any {
	j := map[string]any{"id": id, "name": name, "stage": "build", "status": "created", "started_at": nil, "failure_reason": nil}
	r.jobs = append(r.jobs, j)
	return j
}

var gitlabWords = map[slipway.BuildStatus]string{
	slipway.BuildStarting: "pending", slipway.BuildRunning: "running", slipway.BuildSucceeded: "success",
	slipway.BuildFailed: "failed", slipway.BuildCanceled: "canceled", slipway.BuildSkipped: "skipped",
}

// move changes a pipeline and its jobs as GitLab does: what runs again keeps when it ended before.
func (v *vendor) move(r *run, status slipway.BuildStatus) {
	v.now = v.now.Add(1500 * time.Millisecond)
	r.members["status"], r.members["updated_at"] = gitlabWords[status], stamp(v.now)
	switch {
	case status == slipway.BuildStarting:
		r.members["started_at"] = nil
	case r.members["started_at"] == nil:
		r.members["started_at"] = stamp(v.now)
	}
	if status.Finished() {
		r.members["finished_at"] = stamp(v.now)
	}
	for _, j := range r.jobs {
		j["status"], j["started_at"] = r.members["status"], r.members["started_at"]
	}
}

func (v *vendor) find(id string) *run {
	n, err := strconv.Atoi(id)
	if err != nil || n < 1 || n > len(v.pipelines) {
		return nil
	}
	return v.pipelines[n-1]
}

func (v *vendor) moveByID(_ testing.TB, id string, status slipway.BuildStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.move(v.find(id), status)
}

func (v *vendor) change(id string, f func(r *run)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v.find(id))
}

func (v *vendor) write(_ testing.TB, id, text string) {
	v.change(id, func(r *run) { r.logs[r.jobs[0]["id"].(int)] += text })
}

func refuse(w http.ResponseWriter, status int, message any) {
	providertest.Answer(w, status, map[string]any{"message": message})
}

func (v *vendor) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := w.Header()
	h.Set("RateLimit-Limit", "600")
	h.Set("RateLimit-Observed", "9")
	h.Set("RateLimit-Remaining", "591")
	h.Set("RateLimit-Reset", strconv.FormatInt(time.Now().Add(time.Minute).Unix(), 10))
	h.Set("RateLimit-Name", "throttle_authenticated_api")
	given := r.Header.Get("PRIVATE-TOKEN") + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") + r.Header.Get("JOB-TOKEN")
	path := strings.TrimPrefix(r.URL.EscapedPath(), prefix+"/api/v4")
	switch {
	case given == "" && (path == "/projects" || path == "/projects/public"):
		providertest.Answer(w, http.StatusOK, []any{})
	case given != token && given != member && given != stranger, given != token && r.Header.Get("JOB-TOKEN") != "":
		refuse(w, http.StatusUnauthorized, "401 Unauthorized")
	case path == "/job":
		if r.Header.Get("JOB-TOKEN") == "" {
			refuse(w, http.StatusNotFound, "404 Job Not Found")
			return
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"id": 1})
	case path == "/user":
		providertest.Answer(w, http.StatusOK, map[string]any{"id": 9, "username": "slipway-bot"})
	case path == "/personal_access_tokens/self":
		providertest.Answer(w, http.StatusOK, map[string]any{"scopes": v.scopes, "expires_at": "2027-11-21"})
	default:
		rest, ok := strings.CutPrefix(path, "/projects/group%2Fsub%2Fapp")
		if !ok {
			rest, ok = strings.CutPrefix(path, "/projects/42")
		}
		if !ok || given == stranger {
			refuse(w, http.StatusNotFound, "404 Project Not Found")
			return
		}
		v.serveProject(w, r, strings.Split(strings.TrimPrefix(rest, "/"), "/"))
	}
}

func (v *vendor) serveProject(w http.ResponseWriter, r *http.Request, what []string) {
	switch {
	case what[0] == "":
		providertest.Answer(w, http.StatusOK, map[string]any{"id": 42, "permissions": map[string]any{"project_access": nil, "group_access": map[string]any{"access_level": v.role}}})
	case what[0] == "repository":
		if what[2] != example()["sha"] {
			refuse(w, http.StatusNotFound, "404 Commit Not Found")
			return
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"id": what[2], "title": "Say hello", "message": "Say hello\n\nTwice.", "author_name": "Jane Doe"})
	case what[0] == "deployments":
		v.serveDeployments(w, r, what[1:])
	case what[0] == "pipeline":
		v.serveCreate(w, r)
	case what[0] == "jobs":
		v.serveTrace(w, r, what[1])
	case len(what) == 1:
		v.serveList(w, r)
	default:
		p := v.find(what[1])
		if p == nil {
			refuse(w, http.StatusNotFound, "404 Not found")
			return
		}
		v.servePipeline(w, r, p, strings.Join(what[2:], "/"))
	}
}

// basics are the members that a list shows.
var basics = []string{"id", "iid", "project_id", "sha", "ref", "status", "source", "created_at", "updated_at", "web_url", "name"}

func (v *vendor) serveList(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.FormValue("page"))
	size, _ := strconv.Atoi(r.FormValue("per_page"))
	page, size = max(page, 1), min(max(size, 1), 100)
	list := []map[string]any{}
	for i := len(v.pipelines) - 1 - (page-1)*size; i >= 0 && len(list) < size; i-- {
		item := map[string]any{}
		for _, name := range basics {
			item[name] = v.pipelines[i].members[name]
		}
		list = append(list, item)
	}
	if page*size < len(v.pipelines) {
		w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=%d>; rel="next", <%s?page=1>; rel="first"`, v.URL, r.URL.Path, page+1, v.URL))
	}
	etag := fmt.Sprintf(`W/"%x"`, fmt.Sprint(list))
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	providertest.Answer(w, http.StatusOK, list)
}

func (v *vendor) servePipeline(w http.ResponseWriter, r *http.Request, p *run, what string) {
	ended := p.members["status"] != "pending" && p.members["status"] != "running"
	switch what {
	case "":
		providertest.Answer(w, http.StatusOK, p.members)
	case "jobs":
		page, _ := strconv.Atoi(r.FormValue("page"))
		if page == 1 && len(p.jobs) > 1 { // newest first, in two pages
			w.Header().Set("X-Next-Page", "2")
			providertest.Answer(w, http.StatusOK, p.jobs[1:])
			return
		}
		providertest.Answer(w, http.StatusOK, p.jobs[:min(len(p.jobs), 1)])
	case "cancel":
		if !ended {
			v.move(p, slipway.BuildCanceled)
		}
		providertest.Answer(w, http.StatusOK, p.members)
	case "retry":
		again := false
		for _, j := range p.jobs {
			again = again || j["status"] == "failed" || j["status"] == "canceled"
		}
		answer := maps.Clone(p.members)
		if again {
			v.move(p, slipway.BuildStarting)
		}
		if !v.idle {
			answer = p.members
		}
		providertest.Answer(w, http.StatusCreated, answer)
	}
}

func (v *vendor) serveCreate(w http.ResponseWriter, r *http.Request) {
	var body struct{ Ref string }
	_ = json.NewDecoder(r.Body).Decode(&body)
	if body.Ref != "main" {
		refuse(w, http.StatusBadRequest, map[string]any{"base": []string{"Reference not found"}})
		return
	}
	p := v.find(v.addRun(slipway.Build{Status: slipway.BuildStarting}))
	p.members["source"] = "api"
	providertest.Answer(w, http.StatusCreated, p.members)
}

func (v *vendor) serveTrace(w http.ResponseWriter, r *http.Request, id string) {
	job, _ := strconv.Atoi(id)
	p := v.find(strconv.Itoa(job / 100))
	text, ok := "", false
	if p != nil {
		text, ok = p.logs[job]
	}
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, "404 Not found")
	case v.archived:
		http.Redirect(w, r, v.store.URL+"/"+id+"?sig=signed", http.StatusFound)
	default:
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte(text))
	}
}

func (v *vendor) serveLog(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stored = append(v.stored, r.Header.Clone())
	_, _ = w.Write([]byte("from the store\n"))
}

func unsigned() http.Header {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("X-Gitlab-Event", "Pipeline Hook")
	h.Set("X-Gitlab-Token", secret)
	h.Set("Idempotency-Key", "f5e57ebe-07e9-4c0c-9d5b-2f6c4a1b7d10")
	return h
}

func (v *vendor) notification(t testing.TB, id string) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.find(id).members
	body, err := json.Marshal(map[string]any{
		"object_kind": "pipeline", "object_attributes": map[string]any{"id": m["id"], "status": m["status"], "ref": m["ref"]},
		"project": map[string]any{"id": 42, "path_with_namespace": "Group/Sub/App"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}
