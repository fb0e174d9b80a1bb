package buildkite

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/slipway-platform/slipway/provider"
)

// logs reads the logs of a build's jobs, one after the other. Buildkite shows the log of a job while it runs, always from its start.
func (c *client) logs(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	if _, err := c.build(ctx, project, id); err != nil {
		return nil, err
	}
	return provider.Parts{
		Look: func(ctx context.Context) (parts []provider.Part, ended bool, err error) {
			n, err := c.build(ctx, project, id)
			for _, j := range n.Jobs {
				if j.Type == "script" { // what waits, asks or triggers writes nothing
					parts = append(parts, j.part())
				}
			}
			return parts, n.status().Finished(), err
		},
		Copy: func(ctx context.Context, w io.Writer, p provider.Part, read int64) (int64, error) {
			where, err := buildPath(project, id, "/jobs/"+p.ID+"/log")
			if err != nil {
				return 0, err
			}
			n, err := c.api.CopyLog(ctx, w, provider.Request{Path: where, Header: http.Header{"Accept": {"text/plain"}}}, read)
			if err != nil {
				return n, fmt.Errorf("log of job %s of %s: %w", p.ID, project, err)
			}
			return n, nil
		},
		Pace: c.logPace,
	}.Open(ctx, follow), nil
}

func (j job) part() provider.Part {
	p := provider.Part{
		ID: j.ID, Title: cmp.Or(j.Name, provider.FirstLine(j.Command), j.ID), Begun: !j.StartedAt.IsZero() && jobID.MatchString(j.ID), Ended: !j.FinishedAt.IsZero(),
	}
	if p.Ended {
		p.Title += " (" + j.State + ")"
	}
	return p
}
