package providertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// deploymentStatuses are those that vendors can be put into.
var deploymentStatuses = []slipway.DeploymentStatus{slipway.DeploymentStarting, slipway.DeploymentRunning, slipway.DeploymentSucceeded, slipway.DeploymentFailed}

func testDeployments(t *testing.T, h Harness) {
	ctx := t.Context()
	want := map[string]slipway.DeploymentStatus{}
	for i := range 12 {
		status := deploymentStatuses[i%len(deploymentStatuses)]
		id := h.Deploy(t, slipway.Deployment{Status: status, Environment: []string{"production", "staging"}[i%2], CreatedAt: day.Add(time.Duration(i) * time.Minute)})
		want[id] = status
	}
	seen := map[string]bool{}
	var last time.Time
	o := provider.ListOptions{Limit: 5}
	for pages := 0; ; pages++ {
		page, err := h.Provider.Deployments.List(ctx, h.Project, o)
		if err != nil {
			t.Fatal(err)
		}
		if pages > 100 {
			t.Fatal("the list does not end")
		}
		for _, d := range page.Items {
			if page.Complete != nil {
				part := d
				if d, err = page.Complete(ctx, d); err != nil {
					t.Fatal(err)
				}
				if part.ID != d.ID || part.UpdatedAt == nil || d.UpdatedAt == nil || !part.UpdatedAt.Equal(*d.UpdatedAt) {
					t.Errorf("%s became %s, changed at %v, when it was completed; the list showed %v", part.ID, d.ID, d.UpdatedAt, part.UpdatedAt)
				}
			}
			if seen[d.ID] || !last.IsZero() && d.CreatedAt.After(last) {
				t.Errorf("%s comes twice, or is newer than the one before it", d.ID)
			}
			seen[d.ID], last = true, d.CreatedAt
			checkDeployment(t, d)
			if d.Status != want[d.ID] {
				t.Errorf("%s: got %s, want %s", d.ID, d.Status, want[d.ID])
			}
			got, err := h.Provider.Deployments.Get(ctx, h.Project, d.ID)
			if err != nil || got.Status != d.Status || got.Environment != d.Environment || !got.CreatedAt.Equal(d.CreatedAt) {
				t.Errorf("get: got %+v, %v; the list showed %+v", got, err, d)
			}
		}
		if page.Next == "" {
			break
		}
		o.Cursor = page.Next
	}
	if len(seen) != len(want) {
		t.Errorf("got %d deployments, want %d", len(seen), len(want))
	}
	if _, err := h.Provider.Deployments.Get(ctx, h.Project, "no-such-deployment"); !errors.Is(err, slipway.NotFound) {
		t.Errorf("a deployment that is not there: got %v, want not found", err)
	}
	if h.Missing != "" {
		if _, err := h.Provider.Deployments.List(ctx, h.Missing, provider.ListOptions{}); !errors.Is(err, slipway.NotFound) {
			t.Errorf("a project that is not there: got %v, want not found", err)
		}
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := h.Provider.Deployments.List(canceled, h.Project, provider.ListOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that is over: got %v", err)
	}
}

func checkDeployment(t *testing.T, d slipway.Deployment) {
	t.Helper()
	switch {
	case d.ID == "" || d.CreatedAt.IsZero() || d.Environment == "" || d.Detail == "" && d.Status == slipway.DeploymentUnknown:
		t.Errorf("%+v lacks an id, a creation, an environment, or the vendor's word for its status", d)
	case d.EntityRef != "" || d.Provider.Name != "":
		t.Errorf("%+v says whose it is, which the index does", d)
	case (d.StartedAt == nil) != (d.Status == slipway.DeploymentStarting):
		t.Errorf("%s is %s, and began at %v", d.ID, d.Status, d.StartedAt)
	case (d.FinishedAt == nil) == d.Status.Finished():
		t.Errorf("%s is %s, and ended at %v", d.ID, d.Status, d.FinishedAt)
	case d.FinishedAt != nil && d.FinishedAt.Before(*d.StartedAt):
		t.Errorf("%s ended before it began", d.ID)
	}
}

func testDeploymentsDown(t *testing.T, h Harness) {
	h.Deploy(t, slipway.Deployment{Status: slipway.DeploymentSucceeded})
	h.Down(t)
	if _, err := h.Provider.Deployments.List(t.Context(), h.Project, provider.ListOptions{}); !errors.Is(err, slipway.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}
