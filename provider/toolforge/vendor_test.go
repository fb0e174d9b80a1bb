package toolforge

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// vendor plays the builds API and the jobs API, with their odd answers.
type vendor struct {
	*httptest.Server
	mu      sync.Mutex
	changed chan struct{}
	builds  []wireBuild // newest first
	tools   map[string]string
	logs    map[string]string
	serial  int
	max     int // builds that may go on
	lose    bool
	fault   func(w http.ResponseWriter, r *http.Request) bool
	jobs    map[string]map[string]any
	asked   []string
}

func newVendor(t testing.TB) *vendor {
	v := &vendor{changed: make(chan struct{}), tools: map[string]string{}, logs: map[string]string{}, jobs: map[string]map[string]any{}, max: 100}
	v.Server = httptest.NewServer(http.HandlerFunc(v.serve))
	t.Cleanup(func() {
		v.set(func() { v.fault = nil })
		v.CloseClientConnections()
		v.Close()
	})
	return v
}

func (v *vendor) set(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *vendor) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	fault := v.fault
	v.asked = append(v.asked, r.Method+" "+r.URL.Path)
	v.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // builds v1 tool <t> builds [id [what]]
	if len(parts) < 5 || r.Header.Get("X-Toolforge-Tool") != parts[3] {
		providertest.Answer(w, http.StatusUnauthorized, map[string]string{"message": "header missing"})
		return
	}
	tool := parts[3]
	if parts[0] == "jobs" {
		v.serveJobs(w, r, parts[5:])
		return
	}
	empty := map[string]any{}
	v.mu.Lock()
	defer v.mu.Unlock()
	var found *wireBuild
	if len(parts) > 5 {
		for i := range v.builds {
			if v.builds[i].ID == parts[5] && v.tools[parts[5]] == tool {
				found = &v.builds[i]
			}
		}
		if found == nil {
			providertest.Answer(w, http.StatusNotFound, map[string]any{"error": []string{"Build with id " + parts[5] + " not found."}})
			return
		}
	}
	switch {
	case r.Method == http.MethodGet && len(parts) == 5:
		own := []wireBuild{}
		for _, b := range v.builds {
			if v.tools[b.ID] == tool {
				own = append(own, b)
			}
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"builds": own, "messages": empty})
	case r.Method == http.MethodPost && len(parts) == 5:
		v.create(w, r, tool)
	case r.Method == http.MethodGet && len(parts) == 6:
		providertest.Answer(w, http.StatusOK, map[string]any{"build": found, "messages": empty})
	case r.Method == http.MethodPut:
		if slices.Contains([]string{"BUILD_SUCCESS", "BUILD_FAILURE", "BUILD_CANCELLED"}, found.Status) {
			providertest.Answer(w, http.StatusConflict, map[string]any{"error": []string{"Build is not running"}})
			return
		}
		found.Status, found.End = "BUILD_CANCELLED", time.Now().UTC().Add(time.Hour).Format(time.RFC3339)
		providertest.Answer(w, http.StatusOK, map[string]any{"id": found.ID, "messages": empty})
	default:
		v.stream(w, r, found.ID)
	}
}

func (v *vendor) create(w http.ResponseWriter, r *http.Request, tool string) {
	var p wireParameters
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		providertest.Answer(w, http.StatusBadRequest, map[string]string{"message": err.Error()})
		return
	}
	going := 0
	for _, b := range v.builds {
		if v.tools[b.ID] == tool && (b.Status == "BUILD_PENDING" || b.Status == "BUILD_RUNNING") {
			going++
		}
	}
	if going >= v.max {
		providertest.Answer(w, http.StatusConflict, map[string]any{"error": []string{fmt.Sprintf("Got too many builds running (%d out of %d max), cancel some or wait for them to finish", going, v.max)}})
		return
	}
	v.serial++
	b := wireBuild{
		ID: fmt.Sprintf("%s-buildpacks-pipelinerun-%05d", tool, v.serial), Status: "BUILD_PENDING", Start: time.Now().UTC().Add(time.Duration(v.serial) * time.Second).Format(time.RFC3339),
		Destination: "harbor.example.org/tool-" + tool + "/" + p.Image + ":latest", Resolved: commit, Parameters: p,
	}
	v.tools[b.ID] = tool
	v.builds = append([]wireBuild{b}, v.builds...)
	if v.lose {
		v.lose = false
		panic(http.ErrAbortHandler)
	}
	providertest.Answer(w, http.StatusOK, map[string]any{"messages": map[string]any{"warning": []string{}}, "new_build": map[string]any{"name": b.ID, "resolved_ref": commit}})
}

// stream sends a log, one object a line, the last one without an end.
func (v *vendor) stream(w http.ResponseWriter, r *http.Request, id string) {
	sent := 0
	for {
		text, over := v.logs[id], true
		for _, b := range v.builds {
			if b.ID == id {
				over = b.Status != "BUILD_PENDING" && b.Status != "BUILD_RUNNING"
			}
		}
		changed := v.changed
		for line := range strings.Lines(text[sent:]) {
			raw, _ := json.Marshal(map[string]string{"line": strings.TrimSuffix(line, "\n")})
			_, _ = io.WriteString(w, "\n"+string(raw))
		}
		sent = len(text)
		if r.URL.Query().Get("follow") == "" || over {
			return
		}
		w.(http.Flusher).Flush()
		v.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		v.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
}

func (v *vendor) serveJobs(w http.ResponseWriter, r *http.Request, rest []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch r.Method {
	case http.MethodPatch:
		var job map[string]any
		_ = json.NewDecoder(r.Body).Decode(&job)
		if job["cmd"] == "bad" {
			providertest.Answer(w, http.StatusBadRequest, map[string]any{"error": []string{"no such image", "really"}})
			return
		}
		name := fmt.Sprint(job["name"])
		changed := fmt.Sprint(v.jobs[name]) != fmt.Sprint(job)
		v.jobs[name] = job
		providertest.Answer(w, http.StatusOK, map[string]any{"job_changed": changed, "messages": map[string]any{"info": []string{"well"}}})
	case http.MethodPost:
		providertest.Answer(w, http.StatusOK, map[string]any{"messages": map[string]any{}})
	default:
		list := []any{map[string]any{"name": "once", "job_type": "one-off", "cmd": "x"}}
		for _, j := range v.jobs {
			list = append(list, j)
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"jobs": list})
	}
	_ = rest
}

func (v *vendor) open(t testing.TB) *provider.Provider {
	t.Helper()
	p, err := Kind.Open(context.Background(), json.RawMessage(`{"url":"`+v.URL+`","credential":{"type":"secretText","secret":"s3cret-of-the-gateway"}}`), provider.Env{Name: "tf", HTTP: &http.Client{}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestToolforgeKeepsWhatABuilderPromises(t *testing.T) {
	t.Parallel()
	providertest.RunBuilder(t, func(t *testing.T) providertest.BuilderHarness {
		v := newVendor(t)
		p := v.open(t)
		words := map[slipway.BuildStatus]string{slipway.BuildRunning: "BUILD_RUNNING", slipway.BuildSucceeded: "BUILD_SUCCESS", slipway.BuildFailed: "BUILD_FAILURE"}
		return providertest.BuilderHarness{
			Builder: p.Builder, Builds: p.Builds, Repository: "https://git.example.com/web.git", Ref: "main", Commit: commit, Unresolved: true,
			Move: func(_ testing.TB, id string, s slipway.BuildStatus) {
				v.set(func() {
					for i := range v.builds {
						if b := &v.builds[i]; b.ID == id {
							b.Status = words[s]
							if s.Finished() {
								b.End = time.Now().UTC().Add(time.Hour).Format(time.RFC3339)
							}
						}
					}
				})
			},
			Write: func(_ testing.TB, id, text string) { v.set(func() { v.logs[id] += text }) },
			Fill:  func(testing.TB) { v.set(func() { v.max = 0 }) },
			Drain: func(testing.TB) { v.set(func() { v.max = 100 }) },
			Forget: func(_ testing.TB, _, id string) {
				v.set(func() { v.builds = slices.DeleteFunc(v.builds, func(b wireBuild) bool { return b.ID == id }) })
			},
			Lose: func(testing.TB) { v.set(func() { v.lose = true }) },
			Down: func(testing.TB) {
				v.set(func() { v.fault = providertest.Refuse(http.StatusServiceUnavailable, "Harbor is away") })
			},
			Refuse: func(testing.TB) {
				v.set(func() { v.fault = providertest.Refuse(http.StatusUnauthorized, "Unauthorized") })
			},
			Hang: func(testing.TB) {
				v.set(func() {
					v.fault = func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
				})
			},
		}
	})
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]slipway.BuildStatus{
		"BUILD_PENDING": slipway.BuildStarting, "BUILD_RUNNING": slipway.BuildRunning, "BUILD_SUCCESS": slipway.BuildSucceeded, "BUILD_FAILURE": slipway.BuildFailed,
		"BUILD_TIMEOUT": slipway.BuildFailed, "BUILD_CANCELLED": slipway.BuildCanceled, "BUILD_UNKNOWN": slipway.BuildUnknown, "BUILD_NEW_WORD": slipway.BuildUnknown, "": slipway.BuildUnknown,
	} {
		if b := (wireBuild{Status: word}).build("mytool", time.Now()); b.Status != want {
			t.Errorf("%s: got %s, want %s", word, b.Status, want)
		}
	}
}

func TestABuildIsThatOfItsComponentOnly(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	p := v.open(t)
	order := provider.BuildOrder{Key: "k1", Tool: "mytool", Component: "web", Repository: "https://git.example.com/web.git", Ref: "main"}
	b, err := p.Builder.Start(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	other, web := provider.ComponentProject("mytool", "other"), provider.ComponentProject("mytool", "web")
	if err := p.Builds.Cancel(t.Context(), other, b.ID); !errors.Is(err, slipway.NotFound) {
		t.Errorf("cancel: got %v, want not found", err)
	}
	if _, err := p.Builds.Logs(t.Context(), other, b.ID, false); !errors.Is(err, slipway.NotFound) {
		t.Errorf("logs: got %v, want not found", err)
	}
	if err := p.Builds.Cancel(t.Context(), web, b.ID); err != nil {
		t.Errorf("cancel of its own: %v", err)
	}
}

func TestAListIsReadInPages(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	p := v.open(t)
	for i := range 5 {
		order := provider.BuildOrder{Key: fmt.Sprint("k", i), Tool: "mytool", Component: "web", Repository: "https://git.example.com/web.git", Ref: "main"}
		if _, err := p.Builder.Start(t.Context(), order); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	o := provider.ListOptions{Limit: 2}
	for range 10 {
		page, err := p.Builds.List(t.Context(), provider.ComponentProject("mytool", "web"), o)
		if err != nil || len(page.Items) > 2 {
			t.Fatalf("got %d builds, %v; want at most 2", len(page.Items), err)
		}
		for _, b := range page.Items {
			seen[b.ID] = true
		}
		if o.Cursor = page.Next; o.Cursor == "" {
			break
		}
	}
	if len(seen) != 5 {
		t.Errorf("saw %d builds, want 5", len(seen))
	}
}

func TestALineWithoutEndTakesNoMemory(t *testing.T) {
	t.Parallel()
	in := bufio.NewReader(io.MultiReader(io.LimitReader(zeros{}, 64<<20), strings.NewReader("\nlast")))
	first, err := readLine(in)
	if err != nil || len(first) != maxLine || cap(first) > 2*maxLine {
		t.Errorf("kept %d bytes in %d, %v; want %d", len(first), cap(first), err, maxLine)
	}
	if last, err := readLine(in); err != io.EOF || string(last) != "last" {
		t.Errorf("got %q, %v", last, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestRuns(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	p := v.open(t)
	order := provider.RunOrder{Tool: "mytool", Component: "web", Image: "web@sha256:1", Fields: map[string]json.RawMessage{
		"command": json.RawMessage(`"serve"`), "port": json.RawMessage(`8000`), "health_check_http": json.RawMessage(`"/healthz"`),
	}}
	run := func(want string) {
		t.Helper()
		if r, err := p.Runner.Run(t.Context(), order); err != nil || r.Message != want {
			t.Errorf("got %q, %v; want %q", r.Message, err, want)
		}
	}
	run("created or updated job web, [info] well")
	want := map[string]any{"name": "web", "imagename": "web@sha256:1", "job_type": "continuous", "cmd": "serve", "port": 8000.0, "health_check": map[string]any{"type": "http", "path": "/healthz"}}
	if got := v.jobs["web"]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the job is %v, want %v", got, want)
	}
	run("job web is already up to date, [info] well")
	order.Restart = true
	run("restarted job web, [info] well")
	if last := v.asked[len(v.asked)-1]; last != "POST /jobs/v1/tool/mytool/jobs/web/restart/" {
		t.Errorf("the last request was %s", last)
	}
	list, err := p.Runner.List(t.Context(), "mytool")
	if err != nil || len(list) != 1 || list[0].Component != "web" || string(list[0].Fields["health_check_http"]) != `"/healthz"` || string(list[0].Fields["command"]) != `"serve"` || list[0].Scheduled {
		t.Errorf("got %+v, %v", list, err)
	}
	order.Fields["command"] = json.RawMessage(`"bad"`)
	if _, err := p.Runner.Run(t.Context(), order); slipway.CodeOf(err) != slipway.Invalid || !strings.Contains(err.Error(), "no such image; really") {
		t.Errorf("got %v", err)
	}
}
