package azure

import (
	"encoding/base64"
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
	web    = "shop/web"
	secret = "the password of the hooks"
	token  = "pat0123456789abcdefghijklmnopqrstuvwxyz"

	member   = "patmember" // tokens of others
	stranger = "patstranger"

	prefix    = "/tfs" // Azure DevOps Server below a path
	projectID = "0d50ba13-f9ad-49b0-9b21-d29eda50ca33"
	repoID    = "1a2b3c4d-0000-4000-8000-00000000000e"
)

// vendor plays Azure DevOps: one project, Shop, with one repository, Web, whose builds are ours with some members replaced. Every request is held against the vendor's own
// description.
type vendor struct {
	*providertest.Stub
	entra *httptest.Server // where applications get their tokens

	mu          sync.Mutex
	builds      []*queued // by arrival
	definitions []map[string]any
	revision    int
	issued      []string
	applied     []string // what applications sent
	slower      string   // Retry-After of good answers
}

type queued struct {
	members map[string]any
	records []map[string]any
	logs    []string
}

var sample = providertest.Payload[map[string]any]("testdata/runs/completed.succeeded.json")

func newVendor(t testing.TB) *vendor {
	v := &vendor{definitions: []map[string]any{{"id": 5, "name": "web-ci", "path": `\`}}}
	described := providertest.Describe(t, prefix, []string{"testdata/api/build-7.1.swagger.json"}, []string{
		"GET /[^/]+/[^/]+/_apis/git/repositories/[^/]+", "GET /[^/]+/_apis/connectionData", "GET /[^/]+/[^/]+/_apis/build/builds/[0-9]+/timeline",
	})
	v.Stub = providertest.NewStub(t, described, v.serve)
	v.entra = httptest.NewServer(http.HandlerFunc(v.serveEntra))
	t.Cleanup(v.entra.Close)
	return v
}

func (v *vendor) client(t testing.TB, more map[string]any, env provider.Env) *client {
	config := map[string]any{"url": v.URL + prefix + "/Fabrikam/", "credential": map[string]any{"type": "secretText", "secret": token}, "webhookSecret": secret}
	c, err := newClient(providertest.Config[Config](t, config, more), env)
	if err != nil {
		t.Fatal(err)
	}
	c.logPace = time.Millisecond
	return c
}

func (v *vendor) application() map[string]any {
	return map[string]any{
		"tenant": "fabrikam.example.com", "loginURL": v.entra.URL + "/login",
		"credential": map[string]any{"type": "usernamePassword", "username": "app-id", "password": "app-secret"},
	}
}

// stamp writes seven digits of a fraction, as Azure does.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

func (v *vendor) add(_ testing.TB, b slipway.Build) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.addBuild(b)
}

func (v *vendor) addBuild(b slipway.Build) string {
	id := len(v.builds) + 1
	if b.CreatedAt.IsZero() {
		b.CreatedAt = time.Now()
	}
	q := &queued{members: maps.Clone(sample())}
	q.members["id"], q.members["buildNumber"], q.members["queueTime"] = id, fmt.Sprintf("20260504.%d", id), stamp(b.CreatedAt)
	q.members["_links"] = map[string]any{"web": map[string]any{"href": fmt.Sprintf("https://dev.azure.com/fabrikam/_build/results?buildId=%d", id)}}
	v.builds = append(v.builds, q)
	if b.Status == "" {
		b.Status = slipway.BuildRunning
	}
	v.move(q, b.Status)
	return strconv.Itoa(id)
}

var words = map[slipway.BuildStatus][2]string{
	slipway.BuildStarting: {"notStarted", ""}, slipway.BuildRunning: {"inProgress", ""}, slipway.BuildSucceeded: {"completed", "succeeded"},
	slipway.BuildFailed: {"completed", "failed"}, slipway.BuildCanceled: {"completed", "canceled"},
}

func (v *vendor) move(q *queued, status slipway.BuildStatus) {
	v.revision++
	m := q.members
	begun, _ := time.Parse(time.RFC3339, m["queueTime"].(string))
	m["status"], m["result"] = words[status][0], words[status][1]
	m["startTime"], m["finishTime"] = "0001-01-01T00:00:00", "0001-01-01T00:00:00"
	if status != slipway.BuildStarting {
		m["startTime"] = stamp(begun.Add(time.Second))
	}
	if status.Finished() {
		m["finishTime"] = stamp(begun.Add(time.Minute))
	}
	m["lastChangedDate"] = stamp(time.Now().Add(time.Duration(v.revision) * time.Second))
	for _, r := range q.records {
		if status.Finished() {
			r["state"] = "completed"
		}
	}
}

func (v *vendor) moveByID(_ testing.TB, id string, status slipway.BuildStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.move(v.find(id), status)
}

func (v *vendor) find(id string) *queued {
	if n, err := strconv.Atoi(id); err == nil && n > 0 && n <= len(v.builds) {
		return v.builds[n-1]
	}
	return nil
}

// write appends to the log of the only task of a build.
func (v *vendor) write(_ testing.TB, id, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	q := v.find(id)
	if len(q.records) == 0 {
		v.addTask(q, "job", "", "Job", "Build", 1)
		v.addTask(q, "task", "job", "Task", "Make", 1)
		v.addLog(q, "task", "")
	}
	q.logs[0] += text
}

func (v *vendor) addTask(q *queued, id, parent, kind, name string, order int) {
	q.records = append(q.records, map[string]any{"id": id, "parentId": parent, "type": kind, "name": name, "order": order, "state": "inProgress", "log": nil})
}

func (v *vendor) addLog(q *queued, id, text string) {
	q.logs = append(q.logs, text)
	for _, r := range q.records {
		if r["id"] == id {
			r["log"] = map[string]any{"id": len(q.logs), "type": "Container"}
		}
	}
}

func (v *vendor) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.slower != "" {
		w.Header().Set("Retry-After", v.slower)
	}
	user, password, _ := r.BasicAuth()
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case password == stranger: // whom Azure tells nothing
		refuse(w, http.StatusNotFound, "TF200016: The following project does not exist")
		return
	case user == "" && (password == token || password == member), user == `FABRIKAM\jane` && password == "pw", bearer != "" && slices.Contains(v.issued, bearer):
	default:
		// A server that was not told to suppress it leads to a page to sign in on.
		if r.Header.Get("X-TFS-FedAuthRedirect") != "Suppress" {
			http.Redirect(w, r, "https://spsprodcus1.vssps.visualstudio.com/_signin?realm=dev.azure.com", http.StatusFound)
			return
		}
		w.Header().Set("WWW-Authenticate", "Bearer, Basic")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	path := strings.TrimPrefix(r.URL.Path, prefix+"/Fabrikam/")
	if path == "_apis/connectionData" {
		providertest.Answer(w, http.StatusOK, map[string]any{"authenticatedUser": map[string]any{
			"id": "bc538feb-9fdd-6cf8-80e1-7c56950d0289", "providerDisplayName": "Jane Doe", "properties": map[string]any{"Account": map[string]any{"$type": "System.String", "$value": "jane@fabrikam.example.com"}},
		}})
		return
	}
	project, rest, _ := strings.Cut(path, "/_apis/")
	if !strings.EqualFold(project, "shop") && project != projectID {
		refuse(w, http.StatusNotFound, "TF200016: The following project does not exist: "+project)
		return
	}
	v.serveProject(w, r, strings.Split(rest, "/"), body)
}

func refuse(w http.ResponseWriter, status int, message string) {
	providertest.Answer(w, status, map[string]any{"$id": "1", "innerException": nil, "message": message, "typeKey": "SomeException", "errorCode": 0})
}

func (v *vendor) serveProject(w http.ResponseWriter, r *http.Request, what []string, body map[string]any) {
	switch {
	case what[0] == "git":
		if !strings.EqualFold(what[2], "web") {
			refuse(w, http.StatusNotFound, "TF401019: The Git repository with name or identifier "+what[2]+" does not exist")
			return
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"id": repoID, "name": "Web"})
	case what[1] == "definitions":
		list := []map[string]any{}
		for _, d := range v.definitions {
			if name := r.FormValue("name"); name == "" || strings.EqualFold(name, d["name"].(string)) {
				list = append(list, d)
			}
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"count": len(list), "value": list})
	case len(what) == 2 && r.Method == http.MethodPost:
		v.serveQueue(w, body)
	case len(what) == 2:
		v.serveList(w, r)
	default:
		q := v.find(what[2])
		if q == nil {
			refuse(w, http.StatusNotFound, "The requested build "+what[2]+" could not be found.")
			return
		}
		v.serveBuild(w, r, q, what[3:], body)
	}
}

func (v *vendor) serveList(w http.ResponseWriter, r *http.Request) {
	if repo, ids := r.FormValue("repositoryId"), r.FormValue("definitions"); repo != "" && repo != repoID || ids != "" && ids != "5" || repo == "" && ids == "" {
		providertest.Answer(w, http.StatusOK, map[string]any{"count": 0, "value": []any{}})
		return
	}
	list := slices.Clone(v.builds)
	slices.Reverse(list)
	slices.SortStableFunc(list, func(a, b *queued) int {
		return strings.Compare(b.members["queueTime"].(string), a.members["queueTime"].(string))
	})
	if t := r.FormValue("continuationToken"); t != "" {
		if _, err := time.Parse(time.RFC3339, t); err != nil {
			refuse(w, http.StatusBadRequest, "The continuation token is invalid")
			return
		}
		list = slices.DeleteFunc(list, func(q *queued) bool { return q.members["queueTime"].(string) > t })
	}
	top, _ := strconv.Atoi(r.FormValue("$top"))
	if top > 0 && len(list) > top {
		w.Header().Set("X-MS-ContinuationToken", list[top].members["queueTime"].(string))
		list = list[:top]
	}
	items := []map[string]any{}
	for _, q := range list {
		items = append(items, q.members)
	}
	providertest.Answer(w, http.StatusOK, map[string]any{"count": len(items), "value": items})
}

func (v *vendor) serveQueue(w http.ResponseWriter, body map[string]any) {
	d, _ := body["definition"].(map[string]any)
	branch, _ := body["sourceBranch"].(string)
	switch {
	case d["id"] != 5.0:
		refuse(w, http.StatusNotFound, "Definition not found")
	case branch != "" && branch != "refs/heads/main" && branch != "refs/tags/v1":
		refuse(w, http.StatusBadRequest, "Could not queue the build because there were validation errors: the branch does not exist")
	default:
		q := v.find(v.addBuild(slipway.Build{Status: slipway.BuildStarting}))
		q.members["reason"] = "manual"
		providertest.Answer(w, http.StatusOK, q.members)
	}
}

func (v *vendor) serveBuild(w http.ResponseWriter, r *http.Request, q *queued, what []string, body map[string]any) {
	ended := q.members["status"] == "completed"
	switch {
	case r.Method == http.MethodGet && len(what) == 0:
		providertest.Answer(w, http.StatusOK, q.members)
	case r.Method == http.MethodGet && what[0] == "timeline":
		if len(q.records) == 0 {
			refuse(w, http.StatusNotFound, "no timeline")
			return
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"records": q.records})
	case r.Method == http.MethodGet && what[0] == "logs":
		n, _ := strconv.Atoi(what[1])
		if r.Header.Get("Accept") != "text/plain" || n < 1 || n > len(q.logs) || q.logs[n-1] == "gone" {
			refuse(w, http.StatusNotFound, "no such log")
			return
		}
		_, _ = w.Write([]byte(q.logs[n-1]))
	case len(what) == 2 && what[0] == "stages":
		if what[1] != "deploy" {
			refuse(w, http.StatusNotFound, "Stage not found")
			return
		}
		v.move(q, slipway.BuildRunning)
		w.WriteHeader(http.StatusNoContent)
	case r.FormValue("retry") == "true":
		if !ended || q.members["result"] == "succeeded" {
			refuse(w, http.StatusBadRequest, "The build cannot be retried.")
			return
		}
		v.move(q, slipway.BuildRunning)
		providertest.Answer(w, http.StatusOK, q.members)
	case body["status"] == "cancelling":
		q.members["status"] = "cancelling"
		providertest.Answer(w, http.StatusOK, q.members)
	}
}

func (v *vendor) serveEntra(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_ = r.ParseForm()
	v.applied = append(v.applied, r.URL.Path+"?"+r.Form.Encode())
	if r.FormValue("client_secret") != "app-secret" {
		providertest.Answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided"})
		return
	}
	v.issued = append(v.issued, fmt.Sprintf("header.%d.signature", len(v.issued)))
	providertest.Answer(w, http.StatusOK, map[string]any{"token_type": "Bearer", "expires_in": 3599, "access_token": v.issued[len(v.issued)-1]})
}

func sign(password string) http.Header {
	h := http.Header{}
	h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("slipway:"+password)))
	h.Set("Content-Type", "application/json; charset=utf-8")
	return h
}

func (v *vendor) notify(t testing.TB, id string) (http.Header, []byte) {
	n, _ := strconv.Atoi(id)
	body, err := json.Marshal(map[string]any{
		"id": "4a5d99d6-1c75-4e53-91b9-ee80057d4ce3", "eventType": "ms.vss-pipelines.run-state-changed-event",
		"resource": map[string]any{"run": map[string]any{"id": n, "state": "inProgress"}}, "resourceContainers": map[string]any{"project": map[string]any{"id": projectID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return sign(secret), body
}

func admit(_ testing.TB, sees bool) provider.Secret {
	if sees {
		return member
	}
	return stranger
}
