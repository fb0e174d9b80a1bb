package github

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

// deploy makes a deployment with the statuses that lead to where it stands.
func (v *vendor) deploy(_ testing.TB, d slipway.Deployment) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := int64(500 + len(v.deployments))
	id := strconv.FormatInt(n, 10)
	created := d.CreatedAt
	if created.IsZero() {
		created = v.now()
	}
	v.revision++
	v.deployments = append(v.deployments, map[string]any{
		"id": n, "sha": "a84d88e7554fc1fa21bcbc4efae3c782a70d2b9d", "ref": "v1.2.3", "task": "deploy", "environment": d.Environment, "creator": map[string]any{"login": "octocat"},
		"created_at": stamp(created), "updated_at": stamp(created.Add(time.Minute)), "payload": map[string]any{}, "description": nil,
	})
	if v.statuses == nil {
		v.statuses = map[string][]map[string]any{}
	}
	for i, state := range map[slipway.DeploymentStatus][]string{
		slipway.DeploymentRunning: {"queued", "in_progress"}, slipway.DeploymentSucceeded: {"in_progress", "success", "inactive"}, slipway.DeploymentFailed: {"in_progress", "failure", "inactive"},
	}[d.Status] {
		v.statuses[id] = slices.Insert(v.statuses[id], 0, map[string]any{"state": state, "log_url": "https://ci.example.com/" + id, "created_at": stamp(created.Add(time.Duration(i+1) * 10 * time.Second))})
	}
	return id
}

func (v *vendor) serveDeployments(w http.ResponseWriter, r *http.Request, what []string) {
	if what[0] == "" {
		etag := fmt.Sprintf(`W/"d%d"`, v.revision)
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		page, _ := strconv.Atoi(r.FormValue("page"))
		size, _ := strconv.Atoi(r.FormValue("per_page"))
		list := append([]map[string]any{}, v.deployments...)
		slices.Reverse(list)
		from := min((page-1)*size, len(list))
		to := min(from+size, len(list))
		if to < len(list) {
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=%d>; rel="next"`, v.URL, r.URL.Path, page+1))
		}
		providertest.Answer(w, http.StatusOK, list[from:to])
		return
	}
	at := slices.IndexFunc(v.deployments, func(d map[string]any) bool { return fmt.Sprint(d["id"]) == what[0] })
	switch {
	case at < 0:
		refuse(w, http.StatusNotFound, "Not Found")
	case len(what) == 2:
		providertest.Answer(w, http.StatusOK, append([]map[string]any{}, v.statuses[what[0]]...))
	default:
		providertest.Answer(w, http.StatusOK, v.deployments[at])
	}
}

func TestWhatDeploymentsBecome(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://api.github.com"}, provider.Env{HTTP: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		states string // oldest first
		status slipway.DeploymentStatus
		detail string
	}{
		{"", "starting", "none"}, {"queued", "starting", "queued"}, {"waiting", "starting", "waiting"}, {"queued in_progress", "running", "in_progress"}, {"in_progress success", "succeeded", "success"},
		{"in_progress success inactive", "succeeded", "success"}, {"in_progress failure inactive", "failed", "failure"}, {"error", "failed", "error"}, {"inactive", "succeeded", "inactive"}, {"exploded", "unknown", "exploded"},
	} {
		var statuses []deploymentStatus
		for i, state := range strings.Fields(test.states) {
			statuses = slices.Insert(statuses, 0, deploymentStatus{State: state, CreatedAt: provider.Time{Time: time.Unix(int64(1000+60*i), 0)}})
		}
		d := c.deployed("octo/hello", deployment{ID: 1, SHA: "abc", Ref: "refs/tags/v1", Environment: "production", CreatedAt: provider.Time{Time: time.Unix(900, 0)}}, statuses)
		if d.Status != test.status || d.Detail != test.detail || d.Version != "v1" || d.Commit.Branch != "v1" || d.URL != "https://github.com/octo/hello/deployments" {
			raw, _ := json.Marshal(d)
			t.Errorf("%q: got %s", test.states, raw)
		}
	}
}
