package gitlab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/slipway-platform/slipway/provider"
)

// logs reads the logs of a pipeline's jobs, one after the other. GitLab shows the log of a job while it runs, always from its start.
func (c *client) logs(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	if _, err := c.pipeline(ctx, project, id); err != nil {
		return nil, err
	}
	return provider.Parts{
		Look: func(ctx context.Context) (parts []provider.Part, ended bool, err error) {
			// The pipeline is looked at before its jobs, so that nothing that was written before it ended is missed.
			p, err := c.pipeline(ctx, project, id)
			if err != nil {
				return nil, false, err
			}
			jobs, err := c.jobs(ctx, project, id)
			for _, j := range jobs {
				parts = append(parts, j.part())
			}
			return parts, p.status().Finished(), err
		},
		Copy: func(ctx context.Context, w io.Writer, p provider.Part, read int64) (int64, error) {
			return c.copyLog(ctx, w, project, p.ID, read)
		},
		Pace: c.logPace,
	}.Open(ctx, follow), nil
}

// part is a job's part of a log. One that failed before it began, for want of a runner, says only why.
func (j job) part() provider.Part {
	p := provider.Part{ID: strconv.FormatInt(j.ID, 10), Title: j.Name, Begun: !j.StartedAt.IsZero(), Ended: statuses[j.Status].Finished()}
	if p.Ended {
		p.Title += " (" + j.Status + ")"
	}
	if j.Status == "failed" && !p.Begun {
		p.Begun, p.Empty, p.Title = true, true, fmt.Sprintf("%s (failed: %s)", j.Name, j.Reason)
	}
	return p
}

// copyLog copies what a job's log holds after what was read before. One that was erased, or has just begun, is not there.
func (c *client) copyLog(ctx context.Context, w io.Writer, project, job string, read int64) (int64, error) {
	where, err := path(project, "/jobs/"+job+"/trace")
	if err != nil {
		return 0, err
	}
	n, err := c.api.CopyLog(ctx, w, provider.Request{Path: where, Header: http.Header{"Accept": {"*/*"}}}, read)
	if err != nil {
		return n, fmt.Errorf("log of job %s of %s: %w", job, project, err)
	}
	return n, nil
}
