package circleci

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
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
	hello  = "github/octo/hello"
	opaque = "circleci/DdaVtNusHqi24D4YT3X4eu/6EkDPZoN4ZdMKKZtBkRodt"
	secret = "a secret of ours"
	token  = "CCIPAT_example_0123456789"

	member   = "CCIPAT_member" // tokens of others
	stranger = "CCIPAT_stranger"

	prefix = "/ci" // a CircleCI server below a path
)

// vendor plays CircleCI: one project whose pipelines and workflows are ours with some members replaced. Every request is held against CircleCI's own description.
type vendor struct {
	*providertest.Stub
	store *httptest.Server // where outputs lie

	mu          sync.Mutex
	serial      int
	pipelines   []*line // by arrival
	outputs     map[string]string
	stored      []http.Header // what the store was sent
	old         bool          // names no workflow that runs again, has no pipeline definitions
	definitions []string
	slow        int // looks until a pipeline that was begun has its workflow
	slug        string
}

type line struct {
	members   map[string]any
	workflows []*flow
}

type flow struct {
	members map[string]any
	jobs    []map[string]any
	steps   [][]map[string]any // by job
}

var sample = providertest.Payload[struct {
	Pipeline  map[string]any
	Workflows []map[string]any
}]("testdata/workflows/status.running.json")

func newVendor(t testing.TB) *vendor {
	v := &vendor{outputs: map[string]string{}, definitions: []string{"build"}, slug: "gh/octo/hello"}
	described := providertest.Describe(t, prefix+v2, []string{"testdata/api/api-v2.openapi.json"}, []string{
		"GET " + prefix + `/api/v1\.1/project/[^/]+/[^/]+/[^/]+/[0-9]+`, "GET /projects/[^/]+/pipeline-definitions", "POST /project/[^/]+/pipeline/run",
	})
	v.Stub = providertest.NewStub(t, described, v.serve)
	v.store = httptest.NewServer(http.HandlerFunc(v.serveOutput))
	t.Cleanup(v.store.Close)
	return v
}

func (v *vendor) client(t testing.TB, more map[string]any, env provider.Env) *client {
	config := map[string]any{"url": v.URL + prefix + "/", "credential": map[string]any{"type": "secretText", "secret": token}, "webhookSecret": secret}
	c, err := newClient(providertest.Config[Config](t, config, more), env)
	if err != nil {
		t.Fatal(err)
	}
	c.logPace, c.startPace = time.Millisecond, time.Millisecond
	return c
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func (v *vendor) id() string {
	v.serial++
	return fmt.Sprintf("%08x-0000-4000-8000-6978a1b2c3d4", v.serial)
}

func (v *vendor) add(_ testing.TB, b slipway.Build) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.addLine(b.CreatedAt)
	f := v.addFlow(l, b.CreatedAt)
	if b.Status == slipway.BuildStarting {
		l.workflows, l.members["state"] = nil, "pending"
		return l.members["id"].(string)
	}
	if b.Status != "" {
		v.move(f, b.Status)
	}
	return f.members["id"].(string)
}

func (v *vendor) addLine(created time.Time) *line {
	if created.IsZero() {
		created = time.Now()
	}
	l := &line{members: maps.Clone(sample().Pipeline)}
	l.members["id"], l.members["number"], l.members["project_slug"] = v.id(), len(v.pipelines)+1, v.slug
	l.members["created_at"], l.members["updated_at"] = stamp(created), stamp(created)
	v.pipelines = append(v.pipelines, l)
	return l
}

func (v *vendor) addFlow(l *line, created time.Time) *flow {
	if created.IsZero() {
		created = time.Now()
	}
	f := &flow{members: maps.Clone(sample().Workflows[0])}
	f.members["id"], f.members["pipeline_id"], f.members["pipeline_number"] = v.id(), l.members["id"], l.members["number"]
	f.members["project_slug"], f.members["created_at"] = v.slug, stamp(created)
	l.workflows = append([]*flow{f}, l.workflows...)
	return f
}

var words = map[slipway.BuildStatus]string{
	slipway.BuildRunning: "running", slipway.BuildSucceeded: "success", slipway.BuildFailed: "failed", slipway.BuildCanceled: "canceled", slipway.BuildSkipped: "not_run",
}

func (v *vendor) move(f *flow, status slipway.BuildStatus) {
	f.members["status"], f.members["stopped_at"] = words[status], nil
	if status.Finished() {
		created, _ := time.Parse(time.RFC3339, f.members["created_at"].(string))
		f.members["stopped_at"] = stamp(created.Add(90 * time.Second))
		for _, j := range f.jobs {
			j["status"], j["stopped_at"] = words[status], f.members["stopped_at"]
		}
	}
}

// moveByID is move for a harness. What is starting is a pipeline without workflows: here one of that id.
func (v *vendor) moveByID(_ testing.TB, id string, status slipway.BuildStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l, f := v.find(id)
	if status == slipway.BuildStarting {
		l.members["id"], l.members["state"], l.workflows = id, "pending", nil
		return
	}
	v.move(f, status)
}

func (v *vendor) find(id string) (*line, *flow) {
	for _, l := range v.pipelines {
		for _, f := range l.workflows {
			if f.members["id"] == id {
				return l, f
			}
		}
	}
	return nil, nil
}

func (v *vendor) findLine(id string) *line {
	for _, l := range v.pipelines {
		if l.members["id"] == id {
			return l
		}
	}
	return nil
}

// write appends an output to the only job of a workflow.
func (v *vendor) write(_ testing.TB, id, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, f := v.find(id)
	if len(f.jobs) == 0 {
		v.addJob(f, "build")
	}
	v.addOutput(f, 0, "", text)
}

func (v *vendor) addJob(f *flow, name string) {
	n := len(f.jobs) + 1
	f.jobs = append(f.jobs, map[string]any{
		"id": v.id(), "name": name, "job_number": v.serial, "type": "build", "status": "running", "dependencies": []string{},
		"started_at": stamp(time.Date(2026, 5, 4, 9, 0, n, 0, time.UTC)), "stopped_at": nil,
	})
	f.steps = append(f.steps, nil)
}

func (v *vendor) addOutput(f *flow, job int, name, text string) {
	key := strconv.Itoa(len(v.outputs))
	messages, _ := json.Marshal([]map[string]any{{"message": strings.ReplaceAll(text, "\n", "\r\n"), "type": "out", "time": "2026-05-04T09:00:05Z"}})
	v.outputs[key] = string(messages)
	f.steps[job] = append(f.steps[job], map[string]any{"name": name, "status": "success", "output_url": v.store.URL + "/" + key + "?sig=signed"})
}

func (v *vendor) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	w.Header().Set("Ratelimit-Limit", "100")
	w.Header().Set("Ratelimit-Remaining", "93")
	w.Header().Set("Ratelimit-Reset", "41")
	switch r.Header.Get("Circle-Token") {
	case token, member:
	case stranger: // whom CircleCI tells nothing
		refuse(w, http.StatusNotFound, "Project not found")
		return
	default:
		refuse(w, http.StatusUnauthorized, "You must log in first.")
		return
	}
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	path := strings.TrimPrefix(r.URL.EscapedPath(), prefix)
	if rest, ok := strings.CutPrefix(path, v1+"/project/"+strings.Replace(v.slug, "gh/", "github/", 1)+"/"); ok {
		v.serveSteps(w, rest)
		return
	}
	parts := strings.Split(strings.TrimPrefix(path, v2+"/"), "/")
	slug := strings.ReplaceAll(strings.Replace(v.slug, "gh/", "github/", 1), "/", "%2F")
	switch {
	case parts[0] == "me":
		providertest.Answer(w, http.StatusOK, map[string]any{"id": v.id(), "login": "octocat", "name": "Octo Cat"})
	case parts[0] == "user":
		refuse(w, http.StatusNotFound, "User not found")
	case parts[0] == "project" && parts[1] == slug:
		v.serveProject(w, r, parts[2:], body)
	case parts[0] == "projects" && !v.old:
		list := []map[string]any{}
		for i, name := range v.definitions {
			list = append(list, map[string]any{"id": fmt.Sprintf("%08x-0000-4000-8000-00000000000d", i+1), "name": name})
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"items": list})
	case parts[0] == "pipeline":
		v.servePipeline(w, v.findLine(parts[1]), parts[2:])
	case parts[0] == "workflow":
		l, f := v.find(parts[1])
		v.serveWorkflow(w, l, f, parts[2:], body)
	default:
		refuse(w, http.StatusNotFound, "Project not found")
	}
}

func refuse(w http.ResponseWriter, status int, message string) {
	providertest.Answer(w, status, map[string]any{"message": message})
}

const pageSize = 3 // the real one is 20

func (v *vendor) serveProject(w http.ResponseWriter, r *http.Request, what []string, body map[string]any) {
	switch {
	case len(what) == 0:
		providertest.Answer(w, http.StatusOK, map[string]any{"id": "2a68fe5f-2fe5-4d4f-91e1-15f111116743", "slug": v.slug, "name": "hello"})
	case r.Method == http.MethodPost:
		v.serveStart(w, len(what) > 1, body)
	default:
		before := len(v.pipelines) + 1
		if t := r.FormValue("page-token"); t != "" {
			n, err := strconv.Atoi(strings.TrimPrefix(t, "token-"))
			if err != nil {
				refuse(w, http.StatusBadRequest, "Invalid page-token")
				return
			}
			before = n
		}
		items := []map[string]any{}
		for n := before - 1; n > 0 && len(items) < pageSize; n-- {
			items = append(items, v.pipelines[n-1].members)
		}
		answer := map[string]any{"items": items, "next_page_token": nil}
		if before-1 > pageSize {
			answer["next_page_token"] = fmt.Sprintf("token-%d", before-pageSize)
		}
		providertest.Answer(w, http.StatusOK, answer)
	}
}

func (v *vendor) serveStart(w http.ResponseWriter, run bool, body map[string]any) {
	source := body
	if run {
		source, _ = body["checkout"].(map[string]any)
	}
	switch {
	case run == strings.HasPrefix(v.slug, "gh/") && (!run || v.old):
		refuse(w, http.StatusNotFound, "Not found")
		return
	case source["branch"] != nil && source["branch"] != "main", source["tag"] != nil && source["tag"] != "v1":
		refuse(w, http.StatusBadRequest, "Branch not found")
		return
	}
	l := v.addLine(time.Time{})
	l.members["state"], l.members["trigger"] = "pending", map[string]any{"type": "api", "actor": map[string]any{"login": "octocat"}}
	if v.slow == 0 {
		v.addFlow(l, time.Time{})
	}
	providertest.Answer(w, http.StatusCreated, map[string]any{"id": l.members["id"], "number": l.members["number"], "state": "pending", "created_at": l.members["created_at"]})
}

func (v *vendor) servePipeline(w http.ResponseWriter, l *line, what []string) {
	if l == nil {
		refuse(w, http.StatusNotFound, "Pipeline not found")
		return
	}
	if len(what) == 0 {
		providertest.Answer(w, http.StatusOK, l.members)
		return
	}
	if v.slow > 0 {
		if v.slow--; v.slow == 0 && l.members["state"] == "pending" {
			v.addFlow(l, time.Time{})
		}
	}
	items := []map[string]any{}
	for _, f := range l.workflows {
		items = append(items, f.members)
	}
	providertest.Answer(w, http.StatusOK, map[string]any{"items": items, "next_page_token": nil})
}

func (v *vendor) serveWorkflow(w http.ResponseWriter, l *line, f *flow, what []string, body map[string]any) {
	if f == nil {
		refuse(w, http.StatusNotFound, "Workflow not found")
		return
	}
	ended := f.members["stopped_at"] != nil
	switch strings.Join(what, "/") {
	case "":
		providertest.Answer(w, http.StatusOK, f.members)
	case "job":
		items := append([]map[string]any{}, f.jobs...)
		slices.Reverse(items)
		items = append(items, map[string]any{"id": v.id(), "name": "approve", "type": "approval", "status": "on_hold", "started_at": nil})
		providertest.Answer(w, http.StatusOK, map[string]any{"items": items, "next_page_token": nil})
	case "cancel":
		v.move(f, slipway.BuildCanceled)
		providertest.Answer(w, http.StatusAccepted, map[string]any{"message": "Accepted."})
	case "rerun":
		switch {
		case !ended:
			refuse(w, http.StatusBadRequest, "Workflow is not finished")
			return
		case body["from_failed"] == true && f.members["status"] != "failed":
			refuse(w, http.StatusBadRequest, "Cannot rerun from failed a workflow that did not fail")
			return
		case body["jobs"] != nil && fmt.Sprint(body["jobs"]) != "[00000001-0000-4000-8000-6978a1b2c3d4]":
			refuse(w, http.StatusBadRequest, "no such jobs")
			return
		}
		again := v.addFlow(l, time.Time{})
		v.move(again, slipway.BuildRunning)
		answer := map[string]any{"message": "Accepted."}
		if !v.old {
			answer["workflow_id"] = again.members["id"]
		}
		providertest.Answer(w, http.StatusAccepted, answer)
	}
}

// serveSteps answers as the older API does, which alone knows of outputs.
func (v *vendor) serveSteps(w http.ResponseWriter, number string) {
	for _, l := range v.pipelines {
		for _, f := range l.workflows {
			for i, j := range f.jobs {
				if fmt.Sprint(j["job_number"]) == number {
					steps := []map[string]any{}
					for _, a := range f.steps[i] {
						steps = append(steps, map[string]any{"name": a["name"], "actions": []any{a}})
					}
					providertest.Answer(w, http.StatusOK, map[string]any{"build_num": j["job_number"], "steps": steps})
					return
				}
			}
		}
	}
	refuse(w, http.StatusNotFound, "Build not found")
}

// serveOutput is the store that links lead to. It refuses a foreign credential, as the real one does.
func (v *vendor) serveOutput(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stored = append(v.stored, r.Header.Clone())
	text, ok := v.outputs[strings.Trim(r.URL.Path, "/")]
	if r.Header.Get("Circle-Token") != "" || r.Header.Get("Authorization") != "" || r.FormValue("sig") != "signed" || !ok {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	_, _ = w.Write([]byte(text))
}

func sign(body []byte) http.Header {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	h := http.Header{}
	h.Set("Circleci-Signature", "v1="+hex.EncodeToString(m.Sum(nil))+",v2=00")
	h.Set("Circleci-Event-Type", "workflow-completed")
	h.Set("Content-Type", "application/json")
	return h
}

// notify is the notification of a workflow that has ended; CircleCI sends no others.
func (v *vendor) notify(t testing.TB, id string) (http.Header, []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l, f := v.find(id)
	v.move(f, slipway.BuildSucceeded)
	body, err := json.Marshal(map[string]any{
		"type": "workflow-completed", "id": v.id(), "workflow": f.members, "pipeline": l.members,
		"project": map[string]any{"slug": strings.Replace(v.slug, "gh/", "github/", 1)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return sign(body), body
}

func admit(_ testing.TB, sees bool) provider.Secret {
	if sees {
		return member
	}
	return stranger
}
