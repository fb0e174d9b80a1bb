package gitlab

import (
	"cmp"
	"context"
	"errors"
	"strconv"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// deployment is GitLab's own shape. One that was reported by the API and made by no job has no deployable.
type deployment struct {
	ID          int64         `json:"id"`
	SHA         string        `json:"sha"`
	Ref         string        `json:"ref"`
	Status      string        `json:"status"`
	CreatedAt   provider.Time `json:"created_at"`
	UpdatedAt   provider.Time `json:"updated_at"`
	User        *account      `json:"user"`
	Environment struct {
		Name string `json:"name"`
	} `json:"environment"`
	Deployable *struct {
		StartedAt  provider.Time `json:"started_at"`
		FinishedAt provider.Time `json:"finished_at"`
		WebURL     string        `json:"web_url"`
		Commit     *struct {
			Title  string `json:"title"`
			Author string `json:"author_name"`
		} `json:"commit"`
		Pipeline *struct {
			WebURL string `json:"web_url"`
		} `json:"pipeline"`
	} `json:"deployable"`
}

// deployed is GitLab's words in ours. What is blocked waits for somebody to approve it.
var deployed = map[string]slipway.DeploymentStatus{
	"created": slipway.DeploymentStarting, "blocked": slipway.DeploymentStarting,
	"running": slipway.DeploymentRunning,
	"success": slipway.DeploymentSucceeded, "failed": slipway.DeploymentFailed, "canceled": slipway.DeploymentCanceled, "skipped": slipway.DeploymentCanceled,
}

func (d deployment) ours() slipway.Deployment {
	out := slipway.Deployment{
		ID: strconv.FormatInt(d.ID, 10), Environment: d.Environment.Name, Version: d.Ref, Status: cmp.Or(deployed[d.Status], slipway.DeploymentUnknown), Detail: cmp.Or(d.Status, "none"),
		CreatedAt: d.CreatedAt.Time, UpdatedAt: d.UpdatedAt.Ptr(),
	}
	if d.User != nil && d.User.Username != "" {
		out.TriggeredBy = &slipway.Person{ID: d.User.Username, Name: d.User.Name}
	}
	if d.SHA != "" {
		out.Commit = &slipway.Commit{SHA: d.SHA, Branch: d.Ref}
	}
	begun, over := d.CreatedAt, d.UpdatedAt
	if job := d.Deployable; job != nil {
		begun, over = cmp.Or(job.StartedAt, begun), cmp.Or(job.FinishedAt, over)
		out.URL = job.WebURL
		if job.Pipeline != nil {
			out.URL = cmp.Or(out.URL, job.Pipeline.WebURL)
		}
		if job.Commit != nil && out.Commit != nil {
			out.Commit.Message, out.Commit.Author = provider.FirstLine(job.Commit.Title), job.Commit.Author
		}
	}
	if out.Status != slipway.DeploymentStarting {
		out.StartedAt = begun.Ptr()
	}
	if out.Status.Finished() {
		out.FinishedAt = over.Ptr()
	}
	provider.DeriveDeployment(&out)
	return out
}

func (c *client) deployments(ctx context.Context, project string, o provider.ListOptions) (provider.Page[slipway.Deployment], error) {
	page, err := listed(c, project, "deployments", func(d deployment) int64 { return d.ID }).List(ctx, o)
	if err != nil {
		return provider.Page[slipway.Deployment]{}, err
	}
	return provider.MapPage(page, deployment.ours), nil
}

func (c *client) deployment(ctx context.Context, project, id string) (slipway.Deployment, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n <= 0 {
		return slipway.Deployment{}, slipway.Errorf(slipway.NotFound, "GitLab has no deployment %q in %s", id, project)
	}
	where, err := path(project, "/deployments/"+strconv.FormatInt(n, 10))
	if err != nil {
		return slipway.Deployment{}, err
	}
	var d deployment
	if _, err = c.api.JSON(ctx, provider.Request{Path: where}, &d); err == nil && d.ID != n {
		err = c.api.Strange(errors.New("it is another deployment"))
	}
	return d.ours(), err
}
