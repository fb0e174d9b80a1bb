package github

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
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
	hello  = "octo/hello"
	secret = "It's a Secret to Everybody"
	pat    = "ghp_example"

	member   = "gho_member" // tokens of others
	stranger = "gho_stranger"
)

// vendor plays GitHub: one repository, octo/hello, whose runs are the vendor's example with some members replaced. Every request is held against the
// vendor's own description.
type vendor struct {
	*providertest.Stub
	store *httptest.Server // where logs lie
	key   *rsa.PrivateKey
	now   func() time.Time

	mu           sync.Mutex
	runs         []map[string]any // by arrival
	jobs         map[int64][]map[string]any
	texts        map[int64]string // logs, by job
	workflows    []string
	revision     int
	stored       []http.Header       // what the store of logs was sent
	issued       []string            // tokens of installations
	installation int                 // the app's, of the owner of octo/hello
	granted      []string            // what the app may do in its installation
	may          map[string][]string // what each of its tokens may do

	deployments []map[string]any // by arrival
	statuses    map[string][]map[string]any
	oldServer   bool
}

const prefix = "/api/v3"

var example = providertest.Payload[map[string]any]("testdata/runs/example.json")

var privateKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func pemKey() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(privateKey())}))
}

func newVendor(t testing.TB) *vendor {
	v := &vendor{key: privateKey(), now: time.Now, jobs: map[int64][]map[string]any{}, texts: map[int64]string{}, workflows: []string{"build.yml"},
		installation: 42, granted: []string{"actions", "contents", "deployments", "metadata"}, may: map[string][]string{}}
	described := providertest.Describe(t, prefix, []string{"testdata/api/actions.openapi.json", "testdata/api/apps-meta.openapi.json", "testdata/api/deployments.openapi.json"},
		[]string{"POST /repos/[^/]+/[^/]+/actions/workflows/[^/]+/dispatches", "GET /app"})
	v.Stub = providertest.NewStub(t, described, v.serve)
	v.store = httptest.NewServer(http.HandlerFunc(v.serveLog))
	t.Cleanup(v.store.Close)
	return v
}

// open opens a provider in front of the vendor.
func (v *vendor) open(t testing.TB, more map[string]any, env provider.Env) *provider.Provider {
	config := map[string]any{"url": v.URL + prefix, "credential": map[string]any{"type": "secretText", "secret": pat}, "webhookSecret": secret}
	maps.Copy(config, more)
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Kind.Open(t.Context(), raw, env)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func admit(_ testing.TB, sees bool) provider.Secret {
	if sees {
		return member
	}
	return stranger
}

func appCredential() map[string]any {
	return map[string]any{"credential": map[string]any{"type": "githubApp", "appId": "Iv1.example", "privateKey": pemKey()}}
}

func (v *vendor) add(_ testing.TB, b slipway.Build) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	run := maps.Clone(example())
	id := int64(1000 + len(v.runs))
	created := b.CreatedAt
	if created.IsZero() {
		created = v.now()
	}
	run["id"], run["run_number"], run["run_attempt"] = id, id-999, 1
	run["created_at"], run["run_started_at"] = stamp(created), stamp(created)
	run["html_url"] = fmt.Sprintf("https://github.com/octo/hello/actions/runs/%d", id)
	run["repository"] = map[string]any{"full_name": "Octo/Hello", "html_url": "https://github.com/Octo/Hello"}
	v.runs = append(v.runs, run)
	if b.Status == "" {
		b.Status = slipway.BuildRunning
	}
	v.move(run, b.Status)
	return strconv.FormatInt(id, 10)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

var words = map[slipway.BuildStatus][2]string{
	slipway.BuildStarting: {"queued"}, slipway.BuildRunning: {"in_progress"}, slipway.BuildSucceeded: {"completed", "success"},
	slipway.BuildFailed: {"completed", "failure"}, slipway.BuildCanceled: {"completed", "cancelled"}, slipway.BuildSkipped: {"completed", "skipped"},
}

func (v *vendor) move(run map[string]any, status slipway.BuildStatus) {
	v.revision++
	run["status"], run["conclusion"] = words[status][0], nil
	if c := words[status][1]; c != "" {
		run["conclusion"] = c
	}
	run["updated_at"] = stamp(v.now().Add(time.Duration(v.revision) * time.Second))
}

func (v *vendor) find(id string) map[string]any {
	for _, r := range v.runs {
		if fmt.Sprint(r["id"]) == id {
			return r
		}
	}
	return nil
}

// moveByID is move for a harness.
func (v *vendor) moveByID(_ testing.TB, id string, status slipway.BuildStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.move(v.find(id), status)
}

// addJob gives a run a job with a log.
func (v *vendor) addJob(run, name, status, conclusion, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, _ := strconv.ParseInt(run, 10, 64)
	id := n*100 + int64(len(v.jobs[n]))
	v.jobs[n] = append(v.jobs[n], map[string]any{"id": id, "name": name, "status": status, "conclusion": conclusion})
	v.texts[id] = text
}

func (v *vendor) endJob(run, name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, _ := strconv.ParseInt(run, 10, 64)
	for _, j := range v.jobs[n] {
		if j["name"] == name {
			j["status"], j["conclusion"] = "completed", "success"
		}
	}
}

func refuse(w http.ResponseWriter, status int, message string) {
	providertest.Answer(w, status, map[string]any{"message": message, "documentation_url": "https://docs.github.com/rest"})
}

func (v *vendor) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, prefix)
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	h := w.Header()
	h.Set("X-Ratelimit-Limit", "5000")
	h.Set("X-Ratelimit-Remaining", "4987")
	h.Set("X-Ratelimit-Reset", strconv.FormatInt(v.now().Add(time.Hour).Unix(), 10))
	h.Set("X-Ratelimit-Resource", "core")
	if r.Header.Get("User-Agent") == "" || r.Header.Get("X-Github-Api-Version") == "" {
		refuse(w, http.StatusForbidden, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header")
		return
	}
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if path == "/app" || strings.HasPrefix(path, "/app/") || strings.HasSuffix(path, "/installation") {
		v.serveApp(w, path, bearer, body)
		return
	}
	if bearer == stranger { // whom GitHub tells nothing
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	if bearer != pat && bearer != member && !slices.Contains(v.issued, bearer) {
		refuse(w, http.StatusUnauthorized, "Bad credentials")
		return
	}
	if path == "/rate_limit" {
		providertest.Answer(w, http.StatusOK, map[string]any{"resources": map[string]any{}})
		return
	}
	if rest, ok := strings.CutPrefix(path, "/repos/"+hello+"/deployments"); ok {
		if may, app := v.may[bearer]; app && !slices.Contains(may, "deployments") {
			refuse(w, http.StatusForbidden, "Resource not accessible by integration")
			return
		}
		v.serveDeployments(w, r, strings.Split(strings.Trim(rest, "/"), "/"))
		return
	}
	rest, ok := strings.CutPrefix(path, "/repos/"+hello+"/actions/")
	if !ok {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	v.serveActions(w, r, rest, body)
}

// serveApp answers to an app that signs who it is.
func (v *vendor) serveApp(w http.ResponseWriter, path, bearer string, body map[string]any) {
	parts := strings.Split(bearer, ".")
	if len(parts) != 3 {
		refuse(w, http.StatusUnauthorized, "A JSON web token could not be decoded")
		return
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	var claims struct {
		Iss      string
		Iat, Exp int64
	}
	text, _ := base64.RawURLEncoding.DecodeString(parts[1])
	_ = json.Unmarshal(text, &claims)
	now := v.now().Unix()
	if err != nil || rsa.VerifyPKCS1v15(&v.key.PublicKey, crypto.SHA256, sum[:], signature) != nil ||
		claims.Iss != "Iv1.example" || claims.Iat > now || claims.Exp <= now || claims.Exp-now > 600 {
		refuse(w, http.StatusUnauthorized, "A JSON web token could not be decoded")
		return
	}
	switch path {
	case "/app":
		providertest.Answer(w, http.StatusOK, map[string]any{"slug": "slipway"})
	case "/repos/" + hello + "/installation":
		providertest.Answer(w, http.StatusOK, map[string]any{"id": v.installation})
	case fmt.Sprintf("/app/installations/%d/access_tokens", v.installation):
		may := v.granted
		if wanted, narrowed := body["permissions"].(map[string]any); narrowed {
			may = slices.Sorted(maps.Keys(wanted))
		}
		if slices.ContainsFunc(may, func(p string) bool { return !slices.Contains(v.granted, p) }) {
			refuse(w, http.StatusUnprocessableEntity, "The permissions requested are not granted to this installation.")
			return
		}
		token := fmt.Sprintf("ghs_%d", len(v.issued))
		v.issued, v.may[token] = append(v.issued, token), may
		providertest.Answer(w, http.StatusCreated, map[string]any{"token": v.issued[len(v.issued)-1], "expires_at": stamp(v.now().Add(time.Hour))})
	default:
		refuse(w, http.StatusNotFound, "Not Found")
	}
}

func (v *vendor) serveActions(w http.ResponseWriter, r *http.Request, rest string, body map[string]any) {
	what := strings.Split(rest, "/")
	switch {
	case rest == "runs":
		v.serveList(w, r)
	case rest == "workflows":
		var list []map[string]any
		for _, name := range v.workflows {
			list = append(list, map[string]any{"path": ".github/workflows/" + name, "state": "active"})
		}
		list = append(list, map[string]any{"path": ".github/workflows/old.yml", "state": "disabled_manually"}, map[string]any{"path": "dynamic/pages/x", "state": "active"})
		providertest.Answer(w, http.StatusOK, map[string]any{"total_count": len(list), "workflows": list[:min(len(list), maxPage)]})
	case what[0] == "workflows":
		v.serveDispatch(w, what[1], body)
	case what[0] == "jobs":
		id, _ := strconv.ParseInt(what[1], 10, 64)
		if v.texts[id] == "" {
			refuse(w, http.StatusGone, "Server Error")
			return
		}
		http.Redirect(w, r, fmt.Sprintf("%s/%d?sig=signed", v.store.URL, id), http.StatusFound)
	default:
		run := v.find(what[1])
		if run == nil {
			refuse(w, http.StatusNotFound, "Not Found")
			return
		}
		v.serveRun(w, run, strings.Join(what[2:], "/"))
	}
}

func (v *vendor) serveList(w http.ResponseWriter, r *http.Request) {
	etag := fmt.Sprintf(`W/"%d"`, v.revision)
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	page, size := 1, 30
	if n, err := strconv.Atoi(r.FormValue("page")); err == nil {
		page = n
	}
	if n, err := strconv.Atoi(r.FormValue("per_page")); err == nil {
		size = n
	}
	runs := append([]map[string]any{}, v.runs...)
	slices.Reverse(runs)
	slices.SortStableFunc(runs, func(a, b map[string]any) int {
		return strings.Compare(b["created_at"].(string), a["created_at"].(string))
	})
	from := min((page-1)*size, len(runs))
	to := min(from+size, len(runs))
	if to < len(runs) {
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=%d>; rel="next", <%s?page=9>; rel="last"`, v.URL, r.URL.Path, page+1, v.URL))
	}
	providertest.Answer(w, http.StatusOK, map[string]any{"total_count": len(runs), "workflow_runs": runs[from:to]})
}

func (v *vendor) serveRun(w http.ResponseWriter, run map[string]any, what string) {
	ended := run["status"] == "completed"
	switch what {
	case "":
		providertest.Answer(w, http.StatusOK, run)
	case "jobs":
		providertest.Answer(w, http.StatusOK, map[string]any{"jobs": v.jobs[run["id"].(int64)]})
	case "cancel":
		if ended {
			refuse(w, http.StatusConflict, "Cannot cancel a workflow run that is completed.")
			return
		}
		v.move(run, slipway.BuildCanceled)
		providertest.Answer(w, http.StatusAccepted, map[string]any{})
	case "rerun", "rerun-failed-jobs":
		if !ended {
			refuse(w, http.StatusForbidden, "This workflow is already running")
			return
		}
		run["run_attempt"] = run["run_attempt"].(int) + 1
		run["run_started_at"] = stamp(v.now())
		v.move(run, slipway.BuildStarting)
		providertest.Answer(w, http.StatusCreated, map[string]any{})
	}
}

func (v *vendor) serveDispatch(w http.ResponseWriter, workflow string, body map[string]any) {
	_, details := body["return_run_details"]
	switch {
	case !slices.Contains(v.workflows, workflow):
		refuse(w, http.StatusNotFound, "Not Found")
	case details && v.oldServer:
		refuse(w, http.StatusUnprocessableEntity, `Invalid request. "return_run_details" is not a permitted key.`)
	case body["ref"] != "main":
		refuse(w, http.StatusUnprocessableEntity, fmt.Sprintf("No ref found for: %v", body["ref"]))
	default:
		v.mu.Unlock()
		id := v.add(nil, slipway.Build{Status: slipway.BuildStarting})
		v.mu.Lock()
		v.find(id)["event"] = "workflow_dispatch"
		if v.oldServer {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		n, _ := strconv.Atoi(id)
		providertest.Answer(w, http.StatusOK, map[string]any{"workflow_run_id": n})
	}
}

// serveLog is the store that logs are redirected to. It refuses a foreign credential, as the real one does.
func (v *vendor) serveLog(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stored = append(v.stored, r.Header.Clone())
	id, _ := strconv.ParseInt(strings.Trim(r.URL.Path, "/"), 10, 64)
	if r.Header.Get("Authorization") != "" || r.FormValue("sig") != "signed" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_, _ = w.Write([]byte(v.texts[id]))
}

func sign(body []byte) http.Header {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	h := http.Header{}
	h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(m.Sum(nil)))
	h.Set("X-Github-Event", "workflow_run")
	h.Set("X-Github-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	h.Set("Content-Type", "application/json")
	return h
}

func (v *vendor) notify(t testing.TB, id string) (http.Header, []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	body, err := json.Marshal(map[string]any{"action": "in_progress", "workflow_run": v.find(id), "repository": map[string]any{"full_name": "Octo/Hello"}})
	if err != nil {
		t.Fatal(err)
	}
	return sign(body), body
}
