package github

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// deployment is GitHub's own shape. How it went stands in its statuses, which are asked for on their own.
type deployment struct {
	ID          int64         `json:"id"`
	SHA         string        `json:"sha"`
	Ref         string        `json:"ref"`
	Task        string        `json:"task"`
	Environment string        `json:"environment"`
	Creator     *account      `json:"creator"`
	CreatedAt   provider.Time `json:"created_at"`
	UpdatedAt   provider.Time `json:"updated_at"` // moves with each status
}

// deploymentStatus is one step of a deployment, the newest first in lists.
type deploymentStatus struct {
	State     string        `json:"state"`
	LogURL    string        `json:"log_url"`
	TargetURL string        `json:"target_url"`
	CreatedAt provider.Time `json:"created_at"`
}

// states is GitHub's words in ours. "inactive" is missing: it is put onto a deployment that another has taken the place of, whether it had succeeded or failed, so that the one before it tells.
var states = map[string]slipway.DeploymentStatus{
	"pending": slipway.DeploymentStarting, "queued": slipway.DeploymentStarting, "waiting": slipway.DeploymentStarting,
	"in_progress": slipway.DeploymentRunning,
	"success":     slipway.DeploymentSucceeded,
	"failure":     slipway.DeploymentFailed, "error": slipway.DeploymentFailed,
}

const inactive = "inactive"

// deployed makes ours of a deployment and its statuses. Without any, it has not begun; where all that is left of them is inactive (GitHub deletes old ones), it is taken to have succeeded.
func (c *client) deployed(project string, d deployment, statuses []deploymentStatus) slipway.Deployment {
	ref := strings.TrimPrefix(strings.TrimPrefix(d.Ref, "refs/tags/"), "refs/heads/")
	out := slipway.Deployment{
		ID: strconv.FormatInt(d.ID, 10), Environment: d.Environment, Version: ref, Status: slipway.DeploymentStarting, Detail: "none",
		CreatedAt: d.CreatedAt.Time, UpdatedAt: d.UpdatedAt.Ptr(), URL: "https://" + c.host + "/" + project + "/deployments",
		Commit: &slipway.Commit{SHA: d.SHA, Branch: ref, URL: "https://" + c.host + "/" + project + "/commit/" + d.SHA},
	}
	if d.SHA == "" {
		out.Commit = nil
	}
	if d.Creator != nil && d.Creator.Login != "" {
		out.TriggeredBy = &slipway.Person{ID: d.Creator.Login}
	}
	var begun, last *deploymentStatus
	for i := range statuses { // the newest first
		s := &statuses[i]
		if s.State == "in_progress" {
			begun = s
		}
		if last == nil && s.State != inactive {
			last = s
		}
	}
	switch {
	case last != nil:
		out.Status, out.Detail = cmp.Or(states[last.State], slipway.DeploymentUnknown), last.State
		out.URL = cmp.Or(last.LogURL, last.TargetURL, out.URL)
	case len(statuses) > 0:
		last = &statuses[len(statuses)-1]
		out.Status, out.Detail = slipway.DeploymentSucceeded, inactive
	}
	if out.Status != slipway.DeploymentStarting {
		out.StartedAt = d.CreatedAt.Ptr()
		if begun != nil {
			out.StartedAt = begun.CreatedAt.Ptr()
		}
	}
	if out.Status.Finished() {
		out.FinishedAt = last.CreatedAt.Ptr()
	}
	provider.DeriveDeployment(&out)
	return out
}

// deployments lists them; the statuses of each are asked for where it has changed.
func (c *client) deployments(ctx context.Context, project string, o provider.ListOptions) (provider.Page[slipway.Deployment], error) {
	page, err := provider.Numbered[deployment]{
		Size: maxPage,
		Key:  func(d deployment) (time.Time, int64) { return d.CreatedAt.Time, d.ID },
		Read: func(ctx context.Context, page, size int, validator string) (n provider.NumberedPage[deployment], err error) {
			where, err := path(project, "/deployments")
			if err != nil {
				return n, err
			}
			var found []deployment
			a, err := c.call(ctx, provider.Request{Path: where, Scope: project, Validator: validator, Query: url.Values{"page": {strconv.Itoa(page)}, "per_page": {strconv.Itoa(size)}}}, &found)
			if err == nil && !a.NotModified && found == nil {
				err = c.api.Strange(errors.New("there is no list of deployments"))
			}
			return provider.NumberedPage[deployment]{Items: found, More: provider.Link(a.Header, "next") != "", Validator: a.Validator, NotModified: a.NotModified}, err
		},
	}.List(ctx, o)
	if err != nil {
		return provider.Page[slipway.Deployment]{}, fmt.Errorf("deployments of %s: %w", project, err)
	}
	list := provider.MapPage(page, func(d deployment) slipway.Deployment { return c.deployed(project, d, nil) })
	list.Complete = func(ctx context.Context, d slipway.Deployment) (slipway.Deployment, error) {
		return c.deployment(ctx, project, d.ID)
	}
	return list, nil
}

func (c *client) deployment(ctx context.Context, project, id string) (slipway.Deployment, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n <= 0 {
		return slipway.Deployment{}, slipway.Errorf(slipway.NotFound, "GitHub has no deployment %q in %s", id, project)
	}
	where, err := path(project, "/deployments/"+strconv.FormatInt(n, 10))
	if err != nil {
		return slipway.Deployment{}, err
	}
	var d deployment
	var statuses []deploymentStatus
	if _, err := c.call(ctx, provider.Request{Path: where, Scope: project}, &d); err != nil {
		return slipway.Deployment{}, err
	}
	if d.ID != n {
		return slipway.Deployment{}, c.api.Strange(errors.New("it is another deployment"))
	}
	if _, err := c.call(ctx, provider.Request{Path: where + "/statuses", Scope: project, Query: url.Values{"per_page": {"100"}}}, &statuses); err != nil {
		return slipway.Deployment{}, err
	}
	return c.deployed(project, d, statuses), nil
}
