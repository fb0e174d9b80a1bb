package gitlab

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider/providertest"
)

// deploy makes a deployment: by a job, or for every third one, reported by the API.
func (v *vendor) deploy(_ testing.TB, d slipway.Deployment) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	id := len(v.deployments) + 1
	created := d.CreatedAt
	if created.IsZero() {
		created = v.now
	}
	status := map[slipway.DeploymentStatus]string{
		slipway.DeploymentStarting: "created", slipway.DeploymentRunning: "running", slipway.DeploymentSucceeded: "success", slipway.DeploymentFailed: "failed", slipway.DeploymentCanceled: "canceled",
	}[d.Status]
	item := map[string]any{
		"id": id, "iid": id, "ref": "main", "sha": "99d03678b90d914dbb1b109132516d71a4a03ea8", "status": status, "created_at": stamp(created), "updated_at": stamp(created.Add(2 * time.Minute)),
		"user": map[string]any{"username": "root", "name": "Administrator"}, "environment": map[string]any{"id": 9, "name": d.Environment}, "deployable": nil,
	}
	if id%3 != 0 {
		item["deployable"] = map[string]any{
			"started_at": stamp(created.Add(10 * time.Second)), "finished_at": stamp(created.Add(time.Minute)), "web_url": fmt.Sprintf("https://gitlab.example.com/jobs/%d", id),
			"commit": map[string]any{"title": "Say hello", "author_name": "Jane Doe"},
		}
	}
	v.deployments = append(v.deployments, item)
	return strconv.Itoa(id)
}

func (v *vendor) serveDeployments(w http.ResponseWriter, r *http.Request, what []string) {
	if len(what) == 1 {
		if n, _ := strconv.Atoi(what[0]); n > 0 && n <= len(v.deployments) {
			providertest.Answer(w, http.StatusOK, v.deployments[n-1])
			return
		}
		refuse(w, http.StatusNotFound, "404 Not found")
		return
	}
	page, _ := strconv.Atoi(r.FormValue("page"))
	size, _ := strconv.Atoi(r.FormValue("per_page"))
	if r.FormValue("order_by") != "id" || r.FormValue("sort") != "desc" {
		refuse(w, http.StatusBadRequest, "the order matters here")
		return
	}
	list := []map[string]any{}
	for i := len(v.deployments) - 1 - (page-1)*size; i >= 0 && len(list) < size; i-- {
		list = append(list, v.deployments[i])
	}
	if page*size < len(v.deployments) {
		w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
	}
	providertest.Answer(w, http.StatusOK, list)
}
