package paperboy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/examples/paperboy"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.Run(t, func(t *testing.T) providertest.Harness {
		v := &vendor{}
		s := httptest.NewServer(v.routes())
		t.Cleanup(s.Close)
		p, err := paperboy.Kind.Open(t.Context(), json.RawMessage(fmt.Sprintf(`{"url":%q,"token":"secret"}`, s.URL)), provider.Env{Name: "news", HTTP: s.Client(), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		return providertest.Harness{
			Provider: p, Project: "web", Missing: "nothing",
			Entity: slipway.Entity{Kind: "Component", Metadata: slipway.EntityMetadata{Name: "web", Annotations: map[string]string{paperboy.Annotation: "web, api"}}},
			Add:    v.add, Move: v.move,
			Down:   func(testing.TB) { s.Close() },
			Refuse: func(testing.TB) { v.locked.Store(true) },
		}
	})
}

func TestAllFaultsOfAConfigAreTold(t *testing.T) {
	t.Parallel()
	_, err := paperboy.Kind.Open(t.Context(), json.RawMessage(`{"url":"paperboy","tokn":"x"}`), provider.Env{})
	var e *slipway.Error
	if !errors.As(err, &e) || len(e.Details) != 2 {
		t.Errorf("got %v, want two faults", err)
	}
}

// vendor plays Paperboy's side.
type vendor struct {
	mu     sync.Mutex
	runs   []map[string]any // by id, which is the index and 1
	locked atomic.Bool
}

var colors = map[slipway.BuildStatus]string{
	slipway.BuildStarting: "white", slipway.BuildRunning: "yellow", slipway.BuildSucceeded: "green", slipway.BuildFailed: "red", slipway.BuildCanceled: "grey",
}

func (v *vendor) add(_ testing.TB, b slipway.Build) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	asked := b.CreatedAt
	if asked.IsZero() {
		asked = time.Now()
	}
	id := len(v.runs) + 1
	v.runs = append(v.runs, map[string]any{"id": id, "asked": asked.UTC(), "page": fmt.Sprintf("https://paperboy.example.com/runs/%d", id)})
	v.color(id, b.Status)
	return strconv.Itoa(id)
}

func (v *vendor) move(_ testing.TB, id string, status slipway.BuildStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, _ := strconv.Atoi(id)
	v.color(n, status)
}

func (v *vendor) color(id int, status slipway.BuildStatus) {
	r := v.runs[id-1]
	r["color"], r["begun"], r["ended"] = colors[status], nil, nil
	if status != slipway.BuildStarting {
		r["begun"] = r["asked"]
	}
	if status.Finished() {
		r["ended"] = r["asked"].(time.Time).Add(time.Minute)
	}
}

func (v *vendor) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(r *http.Request) (status int, body any)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v.mu.Lock()
			defer v.mu.Unlock()
			status, body := http.StatusUnauthorized, any(nil)
			if r.Header.Get("Authorization") == "Bearer secret" && !v.locked.Load() {
				status, body = http.StatusNotFound, nil
				if r.PathValue("job") == "web" {
					status, body = f(r)
				}
			}
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(body)
		})
	}
	handle("GET /jobs/{job}/runs", func(r *http.Request) (int, any) {
		runs := append([]map[string]any{}, v.runs...)
		if before := r.FormValue("before"); before != "" {
			n, err := strconv.Atoi(before)
			if err != nil || n < 1 || n > len(runs) {
				return http.StatusBadRequest, nil
			}
			runs = runs[:n-1]
		}
		slices.Reverse(runs)
		limit, _ := strconv.Atoi(r.FormValue("limit"))
		return http.StatusOK, runs[:min(limit, len(runs))]
	})
	handle("GET /jobs/{job}/runs/{id}", func(r *http.Request) (int, any) {
		if n, err := strconv.Atoi(r.PathValue("id")); err == nil && n <= len(v.runs) {
			return http.StatusOK, v.runs[n-1]
		}
		return http.StatusNotFound, nil
	})
	handle("POST /jobs/{job}/runs/{id}/again", func(r *http.Request) (int, any) {
		n, err := strconv.Atoi(r.PathValue("id"))
		if err != nil || n > len(v.runs) {
			return http.StatusNotFound, nil
		}
		if v.runs[n-1]["ended"] == nil {
			return http.StatusConflict, nil
		}
		v.runs = append(v.runs, map[string]any{"id": len(v.runs) + 1, "color": "white", "asked": time.Now().UTC(), "page": v.runs[n-1]["page"], "by": "slipway"})
		return http.StatusAccepted, v.runs[len(v.runs)-1]
	})
	return mux
}
