package github

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// job is one job of a run's latest attempt.
type job struct {
	ID         int64  `json:"id"`
	Name       string `json:"name"`
	Status     string `json:"status"`
	Conclusion string `json:"conclusion"`
}

// logs reads the logs of a run's jobs, one after the other. GitHub shows a job's log when the job has ended, so following one shows it job by job.
func (c *client) logs(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	if _, err := c.run(ctx, project, id); err != nil {
		return nil, err
	}
	return provider.Parts{
		Look: func(ctx context.Context) (parts []provider.Part, ended bool, err error) {
			// The run is looked at before its jobs, so that none that ended in between is missed.
			r, err := c.run(ctx, project, id)
			if err != nil {
				return nil, false, err
			}
			jobs, err := c.jobs(ctx, project, id)
			for _, j := range jobs {
				done := j.Status == completed
				parts = append(parts, provider.Part{
					ID: strconv.FormatInt(j.ID, 10), Title: fmt.Sprintf("%s (%s)", j.Name, j.Conclusion), Begun: done, Ended: done, Empty: j.Conclusion == "skipped",
				})
			}
			return parts, r.Status == completed, err
		},
		Copy: func(ctx context.Context, w io.Writer, p provider.Part, _ int64) (int64, error) {
			return c.copyLog(ctx, w, project, p.ID)
		},
		Pace: c.logPace,
	}.Open(ctx, follow), nil
}

func (c *client) jobs(ctx context.Context, project, id string) ([]job, error) {
	where, err := runPath(project, id, "/jobs")
	if err != nil {
		return nil, err
	}
	var all []job
	for page := 1; ; page++ {
		var found struct {
			Jobs []job `json:"jobs"`
		}
		a, err := c.call(ctx, provider.Request{Path: where, Scope: project, Query: url.Values{
			"filter": {"latest"}, "per_page": {strconv.Itoa(maxPage)}, "page": {strconv.Itoa(page)},
		}}, &found)
		if err != nil {
			return nil, fmt.Errorf("jobs of run %s of %s: %w", id, project, err)
		}
		all = append(all, found.Jobs...)
		if provider.Link(a.Header, "next") == "" || len(found.Jobs) == 0 || page == maxJobPages {
			return all, nil
		}
	}
}

// copyLog copies a job's log. GitHub redirects to a store of its own, with a link that lives a minute; our credential does not go there.
func (c *client) copyLog(ctx context.Context, w io.Writer, project, job string) (int64, error) {
	where, err := path(project, "/actions/jobs/"+job+"/logs")
	if err != nil {
		return 0, err
	}
	text, err := c.api.Open(ctx, provider.Request{Path: where, Scope: project, Header: http.Header{"Accept": {"*/*"}}})
	if errors.Is(err, slipway.NotFound) {
		n, err := fmt.Fprintln(w, "(GitHub does not keep this log any more)")
		return int64(n), err
	}
	if err != nil {
		return 0, fmt.Errorf("log of job %s of %s: %w", job, project, err)
	}
	defer text.Close()
	return provider.CopyRest(w, text, 0)
}
