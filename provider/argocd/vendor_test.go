package argocd

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

const (
	web    = "selector:app=web"
	secret = "s3cr3t"
	token  = "eyJhbGciOiJIUzI1NiJ9.0123456789"

	member   = "eyJhbGciOiJIUzI1NiJ9.fedcba" // tokens of others
	stranger = "eyJhbGciOiJIUzI1NiJ9.0f0f0f"

	prefix = "/cd" // Argo CD below a path
	commit = "d7a6a2bb2bdbcd6dd3e0f0fb1f3e1e1a6d4a8a11"
)

// vendor plays Argo CD: applications of the label app=web, each with the one sync that a test asks for. Every request is held against Argo CD's own description.
type vendor struct {
	*providertest.Stub

	mu   sync.Mutex
	apps []map[string]any
	now  time.Time
}

func newVendor(t testing.TB) *vendor {
	v := &vendor{now: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)}
	described := providertest.Describe(t, prefix, []string{"testdata/api/applications.swagger.json"}, nil)
	v.Stub = providertest.NewStub(t, described, v.serve)
	return v
}

func (v *vendor) client(t testing.TB, more map[string]any) *client {
	config := map[string]any{"url": v.URL + prefix + "/", "credential": map[string]any{"type": "secretText", "secret": token}, "webhookSecret": secret, "environment": "{namespace}"}
	c, err := newClient(providertest.Config[Config](t, config, more), provider.Env{Name: "main"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// deploy makes an application whose last sync stands as asked.
func (v *vendor) deploy(_ testing.TB, d slipway.Deployment) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = v.now.Add(time.Second)
	start := d.CreatedAt
	if start.IsZero() {
		start = v.now
	}
	name := fmt.Sprintf("web-%d", len(v.apps))
	source := map[string]any{"repoURL": "https://git.example.com/shop/gitops.git", "targetRevision": "main", "path": "apps/web"}
	by := map[string]any{"username": "jane"}
	phase := map[slipway.DeploymentStatus]string{slipway.DeploymentRunning: "Running", slipway.DeploymentSucceeded: "Succeeded", slipway.DeploymentFailed: "Failed"}[d.Status]
	op := map[string]any{
		"phase": phase, "message": "one or more objects failed to apply", "startedAt": stamp(start),
		"operation":  map[string]any{"initiatedBy": by, "sync": map[string]any{"revision": commit}},
		"syncResult": map[string]any{"revision": commit, "source": source},
	}
	status := map[string]any{"operationState": op, "resources": []any{map[string]any{"kind": "Deployment", "name": "web"}}}
	if d.Status.Finished() {
		op["finishedAt"] = stamp(start.Add(5 * time.Second))
	}
	if d.Status == slipway.DeploymentSucceeded {
		status["history"] = []any{map[string]any{
			"id": 0, "revision": commit, "deployStartedAt": stamp(start), "deployedAt": stamp(start.Add(5 * time.Second)), "source": source, "initiatedBy": by,
		}}
	}
	v.apps = append(v.apps, map[string]any{
		"metadata": map[string]any{"name": name, "namespace": "argocd", "labels": map[string]any{"app": "web"}},
		"spec":     map[string]any{"project": "shop", "source": source, "destination": map[string]any{"server": "https://kubernetes.default.svc", "namespace": d.Environment}},
		"status":   status,
	})
	return "argocd." + name + "@" + start.Format("20060102T150405Z")
}

func refuse(w http.ResponseWriter, status int, message string) {
	providertest.Answer(w, status, map[string]any{"error": message, "message": message, "code": 7})
}

func (v *vendor) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, prefix+"/api/v1")
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if path == "/session/userinfo" { // answers strangers too
		if bearer != token {
			providertest.Answer(w, http.StatusOK, map[string]any{})
			return
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"loggedIn": true, "username": "slipway", "iss": "argocd"})
		return
	}
	if bearer != token && bearer != member && bearer != stranger {
		refuse(w, http.StatusUnauthorized, "invalid session: token is malformed")
		return
	}
	rest, one := strings.CutPrefix(path, "/applications/")
	if !one {
		list := []any{}
		for _, app := range v.apps {
			if bearer != stranger && r.FormValue("selector") == "app=web" {
				list = append(list, app)
			}
		}
		providertest.Answer(w, http.StatusOK, map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "items": list})
		return
	}
	name, metadata, _ := strings.Cut(rest, "/")
	for _, app := range v.apps {
		if bearer == stranger || app["metadata"].(map[string]any)["name"] != name {
			continue
		}
		if strings.HasPrefix(metadata, "revisions/"+commit) {
			providertest.Answer(w, http.StatusOK, map[string]any{"author": "Jane Doe <jane@example.com>", "date": stamp(v.now), "message": "web: 1.2.3\n\nPromoted."})
			return
		}
		providertest.Answer(w, http.StatusOK, app)
		return
	}
	refuse(w, http.StatusForbidden, "permission denied")
}

func harness(v *vendor, p *provider.Provider) providertest.Harness {
	return v.Faults(providertest.Harness{
		Provider: p, Project: web, Missing: "nowhere", Entity: providertest.Entity(SelectorAnnotation, "app = web"),
		Deploy: v.deploy, Deploys: []slipway.DeploymentStatus{slipway.DeploymentRunning, slipway.DeploymentSucceeded, slipway.DeploymentFailed},
		Admit: func(t testing.TB, sees bool) provider.Secret {
			if !sees {
				return stranger
			}
			v.deploy(t, slipway.Deployment{Status: slipway.DeploymentSucceeded, Environment: "production"})
			return member
		},
	})
}
