package gitea

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
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
	app    = "lab/app"
	secret = "s3cr3t"
	token  = "0123456789abcdef"

	member   = "fedcba9876543210" // tokens of others
	stranger = "0f0f0f0f0f0f0f0f"

	prefix = "/git" // Gitea below a path
)

// vendor plays Gitea 1.26: one repository, lab/app, whose runs are recorded ones with some members replaced. Every request is held against Gitea's own description.
type vendor struct {
	*providertest.Stub

	mu        sync.Mutex
	runs      []*run // by id, which is the index and 1
	workflows []string
	old       bool // runs nothing again, names no run
	version   string
	now       time.Time // moves on with every change
}

type run struct {
	members map[string]any
	jobs    []map[string]any
	logs    []string
}

var recorded = providertest.Payload[struct{ Run map[string]any }]("testdata/runs/recorded.failure.json")

const never = "1970-01-01T00:00:00Z"

func newVendor(t testing.TB) *vendor {
	v := &vendor{workflows: []string{"ci.yml"}, version: "1.26.0", now: time.Now().Truncate(time.Second)}
	described := providertest.Describe(t, prefix+"/api/v1", []string{"testdata/api/api-1.26.swagger.json"}, []string{"GET /version"})
	v.Stub = providertest.NewStub(t, described, v.serve)
	return v
}

func (v *vendor) client(t testing.TB, more map[string]any, env provider.Env) *client {
	config := map[string]any{"url": v.URL + prefix + "/", "credential": map[string]any{"type": "secretText", "secret": token}, "webhookSecret": secret}
	c, err := newClient(providertest.Config[Config](t, config, more), env)
	if err != nil {
		t.Fatal(err)
	}
	c.logPace = time.Millisecond
	return c
}

func admit(_ testing.TB, sees bool) provider.Secret {
	if sees {
		return member
	}
	return stranger
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (v *vendor) add(_ testing.TB, b slipway.Build) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.addRun(b)
}

func (v *vendor) addRun(b slipway.Build) string {
	id := len(v.runs) + 1
	created := b.CreatedAt
	if created.IsZero() {
		created = v.now
	}
	r := &run{members: maps.Clone(recorded().Run), logs: []string{""}}
	r.members["id"], r.members["run_number"] = id, id
	r.members["html_url"] = fmt.Sprintf("https://gitea.example.com/lab/app/actions/runs/%d", id)
	r.jobs = []map[string]any{{"id": id * 10, "name": "build", "run_attempt": 0, "created_at": stamp(created)}}
	v.runs = append(v.runs, r)
	if b.Status == "" {
		b.Status = slipway.BuildRunning
	}
	v.move(r, slipway.BuildStarting)
	v.move(r, b.Status)
	return strconv.Itoa(id)
}

// move changes a run and its jobs as Gitea does: an attempt is counted when it begins.
func (v *vendor) move(r *run, status slipway.BuildStatus) {
	v.now = v.now.Add(time.Second)
	state, conclusion := "completed", ""
	switch status {
	case slipway.BuildStarting:
		state = "queued"
		r.members["started_at"], r.members["completed_at"] = never, never
	case slipway.BuildRunning:
		state = "in_progress"
	case slipway.BuildSucceeded:
		conclusion = "success"
	case slipway.BuildFailed:
		conclusion = "failure"
	case slipway.BuildCanceled:
		conclusion = "cancelled"
	}
	if state != "queued" && r.members["started_at"] == never {
		r.members["started_at"] = stamp(v.now)
		r.jobs[0]["run_attempt"] = r.jobs[0]["run_attempt"].(int) + 1
	}
	if state == "completed" {
		r.members["completed_at"] = stamp(v.now)
	}
	r.members["status"], r.members["conclusion"] = state, conclusion
	for _, j := range r.jobs {
		j["status"], j["conclusion"] = state, conclusion
	}
}

func (v *vendor) find(id string) *run {
	n, err := strconv.Atoi(id)
	if err != nil || n < 1 || n > len(v.runs) {
		return nil
	}
	return v.runs[n-1]
}

func (v *vendor) moveByID(_ testing.TB, id string, status slipway.BuildStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.move(v.find(id), status)
}

func (v *vendor) write(_ testing.TB, id, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.find(id).logs[0] += text
}

func refuse(w http.ResponseWriter, status int, message string) {
	providertest.Answer(w, status, map[string]any{"message": message, "url": "https://gitea.example.com/api/swagger"})
}

func (v *vendor) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	w.Header().Set("Date", v.now.UTC().Format(http.TimeFormat))
	path := strings.TrimPrefix(r.URL.Path, prefix+"/api/v1")
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	if path == "/version" {
		providertest.Answer(w, http.StatusOK, map[string]any{"version": v.version})
		return
	}
	user, password, _ := r.BasicAuth()
	switch r.Header.Get("Authorization") {
	case "token " + stranger:
		refuse(w, http.StatusNotFound, "The target couldn't be found.")
		return
	case "token " + member:
		user, password = "lab", "pw"
	}
	if r.Header.Get("Authorization") != "token "+token && (user != "lab" || password != "pw") {
		refuse(w, http.StatusUnauthorized, "invalid username, password or token")
		return
	}
	if path == "/user" {
		providertest.Answer(w, http.StatusOK, map[string]any{"login": "lab"})
		return
	}
	rest, ok := strings.CutPrefix(path, "/repos/"+app+"/actions/")
	if !ok {
		refuse(w, http.StatusNotFound, "The target couldn't be found.")
		return
	}
	v.serveActions(w, r, strings.Split(rest, "/"), body)
}

func (v *vendor) serveActions(w http.ResponseWriter, r *http.Request, what []string, body map[string]any) {
	switch {
	case what[0] == "runs" && len(what) == 1:
		v.serveList(w, r)
	case what[0] == "runs":
		run := v.find(what[1])
		if run == nil {
			text, _ := os.ReadFile("testdata/answers/run.get.404.json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write(text)
			return
		}
		v.serveRun(w, run, strings.Join(what[2:], "/"))
	case what[0] == "jobs":
		n, _ := strconv.Atoi(what[1])
		run := v.find(strconv.Itoa(n / 10))
		if run == nil || run.logs[n%10] == "" {
			refuse(w, http.StatusNotFound, "not found")
			return
		}
		_, _ = w.Write([]byte(run.logs[n%10]))
	case len(what) == 1:
		list := []map[string]any{{"id": "old.yml", "state": "disabled_manually"}}
		for _, name := range v.workflows {
			list = append(list, map[string]any{"id": name, "state": "active"})
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"workflows": list})
	case !slices.Contains(v.workflows, what[1]):
		refuse(w, http.StatusNotFound, "workflow does not exist")
	case body["ref"] != "main":
		refuse(w, http.StatusNotFound, fmt.Sprintf("ref %v does not exist", body["ref"]))
	default:
		id := v.addRun(slipway.Build{Status: slipway.BuildStarting})
		if v.old {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		n, _ := strconv.Atoi(id)
		providertest.Answer(w, http.StatusOK, map[string]any{"workflow_run_id": n})
	}
}

func (v *vendor) serveList(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.FormValue("page"))
	size, _ := strconv.Atoi(r.FormValue("limit"))
	page, size = max(page, 1), min(max(size, 1), 50)
	list := []map[string]any{}
	for i := len(v.runs) - 1 - (page-1)*size; i >= 0 && len(list) < size; i-- {
		list = append(list, v.runs[i].members)
	}
	if page*size < len(v.runs) {
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=%d>; rel="next",<%s?page=9>; rel="last"`, v.URL, r.URL.Path, page+1, v.URL))
	}
	w.Header().Set("X-Total-Count", strconv.Itoa(len(v.runs)))
	providertest.Answer(w, http.StatusOK, map[string]any{"workflow_runs": list, "total_count": len(v.runs)})
}

func (v *vendor) serveRun(w http.ResponseWriter, r *run, what string) {
	switch what {
	case "":
		providertest.Answer(w, http.StatusOK, r.members)
	case "jobs":
		providertest.Answer(w, http.StatusOK, map[string]any{"jobs": r.jobs, "total_count": len(r.jobs)})
	default:
		if v.old {
			http.NotFound(w, nil)
			return
		}
		if r.members["status"] != "completed" {
			text, _ := os.ReadFile("testdata/answers/run.rerun.400-not-done.json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write(text)
			return
		}
		v.move(r, slipway.BuildStarting)
		if what == "rerun" {
			providertest.Answer(w, http.StatusCreated, r.members)
			return
		}
		w.WriteHeader(http.StatusCreated) // with an empty body
	}
}

func sign(body []byte) http.Header {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	h := http.Header{}
	h.Set("X-Gitea-Signature", hex.EncodeToString(m.Sum(nil)))
	h.Set("X-Gitea-Event", "workflow_run")
	h.Set("X-Github-Event", "workflow_run")
	h.Set("X-Gitea-Delivery", "a412687c-fd8b-4c46-992a-dfedc5b99001")
	h.Set("Content-Type", "application/json")
	return h
}

func (v *vendor) notify(t testing.TB, id string) (http.Header, []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	body, err := json.Marshal(map[string]any{"action": "in_progress", "workflow_run": v.find(id).members, "repository": map[string]any{"full_name": "Lab/App"}})
	if err != nil {
		t.Fatal(err)
	}
	return sign(body), body
}
