package providertest

import (
	"errors"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// deploymentStatuses are those that most vendors can be put into.
var deploymentStatuses = []slipway.DeploymentStatus{slipway.DeploymentStarting, slipway.DeploymentRunning, slipway.DeploymentSucceeded, slipway.DeploymentFailed}

func testDeployments(t *testing.T, h Harness) {
	ctx := t.Context()
	statuses := h.Deploys
	if len(statuses) == 0 {
		statuses = deploymentStatuses
	}
	want := map[string]slipway.DeploymentStatus{}
	for i := range 12 {
		status := statuses[i%len(statuses)]
		want[h.Deploy(t, slipway.Deployment{Status: status, Environment: []string{"production", "staging"}[i%2], CreatedAt: day.Add(time.Duration(i) * time.Minute)})] = status
	}
	all := readDeployments(t, h, 5, nil)
	if len(all) != len(want) {
		t.Errorf("got %d deployments, want %d", len(all), len(want))
	}
	seen := map[string]bool{}
	for i, d := range all {
		if seen[d.ID] || i > 0 && d.CreatedAt.After(all[i-1].CreatedAt) {
			t.Errorf("%s comes twice, or is newer than the one before it", d.ID)
		}
		seen[d.ID] = true
		checkDeployment(t, d)
		if d.Status != want[d.ID] {
			t.Errorf("%s: got %s, want %s", d.ID, d.Status, want[d.ID])
		}
		got, err := h.Provider.Deployments.Get(ctx, h.Project, d.ID)
		if err != nil || got.Status != d.Status || got.Environment != d.Environment || !got.CreatedAt.Equal(d.CreatedAt) {
			t.Errorf("get: got %+v, %v; the list showed %+v", got, err, d)
		}
	}
	if page, err := h.Provider.Deployments.List(ctx, h.Project, provider.ListOptions{Limit: 3}); err != nil || len(page.Items) > 3 {
		t.Errorf("got %d deployments, %v; want at most 3", len(page.Items), err)
	}
	if _, err := h.Provider.Deployments.Get(ctx, h.Project, "no-such-deployment"); !errors.Is(err, slipway.NotFound) {
		t.Errorf("a deployment that is not there: got %v, want not found", err)
	}
	if h.Missing != "" {
		if _, err := h.Provider.Deployments.List(ctx, h.Missing, provider.ListOptions{}); !errors.Is(err, slipway.NotFound) {
			t.Errorf("a project that is not there: got %v, want not found", err)
		}
	}
}

// readDeployments follows Next to the end, and completes what the list shows in part. between is called after each page.
func readDeployments(t testing.TB, h Harness, limit int, between func()) (all []slipway.Deployment) {
	t.Helper()
	o := provider.ListOptions{Limit: limit}
	for pages := 0; ; pages++ {
		page, err := h.Provider.Deployments.List(t.Context(), h.Project, o)
		if err != nil {
			t.Fatal(err)
		}
		if pages > 100 {
			t.Fatal("the list does not end")
		}
		for _, d := range page.Items {
			if page.Complete != nil {
				part := d
				if d, err = page.Complete(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				if part.ID != d.ID || part.UpdatedAt == nil || d.UpdatedAt == nil || !part.UpdatedAt.Equal(*d.UpdatedAt) {
					t.Errorf("%s became %s, changed at %v, when it was completed; the list showed %v", part.ID, d.ID, d.UpdatedAt, part.UpdatedAt)
				}
			}
			all = append(all, d)
		}
		if page.Next == "" {
			return all
		}
		if page.Next == o.Cursor {
			t.Fatalf("the cursor %q leads to itself", page.Next)
		}
		o.Cursor = page.Next
		if between != nil {
			between()
		}
	}
}

func deployMany(t testing.TB, h Harness, from, n int) {
	for i := range n {
		h.Deploy(t, slipway.Deployment{Status: slipway.DeploymentSucceeded, Environment: "production", CreatedAt: day.Add(time.Duration(from+i) * time.Minute)})
	}
}

func testStableDeployments(t *testing.T, h Harness) {
	deployMany(t, h, 0, 9)
	before := readDeployments(t, h, 0, nil)
	next := 9
	seen := map[string]int{}
	for _, d := range readDeployments(t, h, 2, func() { deployMany(t, h, next, 1); next++ }) {
		seen[d.ID]++
	}
	for _, d := range before {
		if seen[d.ID] != 1 {
			t.Errorf("deployment %s was seen %d times while others arrived, want once", d.ID, seen[d.ID])
		}
	}
}

func testConditionalDeployments(t *testing.T, h Harness) {
	conditional(t, h, h.Provider.Deployments.List, deployMany)
}

func testBadCursorOfDeployments(t *testing.T, h Harness) {
	deployMany(t, h, 0, 2)
	if _, err := h.Provider.Deployments.List(t.Context(), h.Project, provider.ListOptions{Cursor: "no such cursor"}); !errors.Is(err, slipway.Invalid) {
		t.Errorf("got %v, want invalid", err)
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
	case d.FinishedAt == nil && d.Status.Finished(), d.FinishedAt != nil && !d.Status.Finished() && d.Status != slipway.DeploymentUnknown:
		t.Errorf("%s is %s, and ended at %v", d.ID, d.Status, d.FinishedAt)
	case d.FinishedAt != nil && d.FinishedAt.Before(*d.StartedAt):
		t.Errorf("%s ended before it began", d.ID)
	}
}
