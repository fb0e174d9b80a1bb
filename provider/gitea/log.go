package gitea

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/slipway-platform/slipway/provider"
)

// logs reads the logs of a run's jobs, one after the other. Gitea shows the log of a job while it runs.
func (c *client) logs(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	r, _, err := c.run(ctx, project, id)
	if err != nil {
		return nil, err
	}
	return provider.Parts{
		Look: func(ctx context.Context) (parts []provider.Part, ended bool, err error) {
			jobs, err := c.jobs(ctx, project, r.ID)
			ended = true
			for _, j := range jobs {
				done := j.Status == completed
				parts = append(parts, provider.Part{ID: strconv.FormatInt(j.ID, 10), Title: j.Name, Begun: done || j.Status == "in_progress", Ended: done})
				ended = ended && done
			}
			return parts, ended, err
		},
		Copy: func(ctx context.Context, w io.Writer, p provider.Part, read int64) (int64, error) {
			return c.copyLog(ctx, w, project, p.ID, read)
		},
		Pace: c.logPace,
	}.Open(ctx, follow), nil
}

// copyLog copies what a job's log holds after what was read before. A job that has just begun has none.
func (c *client) copyLog(ctx context.Context, w io.Writer, project, job string, read int64) (int64, error) {
	where, err := path(project, "/actions/jobs/"+job+"/logs")
	if err != nil {
		return 0, err
	}
	n, err := c.api.CopyLog(ctx, w, provider.Request{Path: where, Header: http.Header{"Accept": {"*/*"}}}, read)
	if err != nil {
		return n, fmt.Errorf("log of job %s of %s: %w", job, project, err)
	}
	return n, nil
}
