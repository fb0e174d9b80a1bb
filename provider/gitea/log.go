package gitea

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// logs reads the logs of a run's jobs, one after the other. Gitea shows the log of a job while it runs.
func (c *client) logs(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	r, _, err := c.run(ctx, project, id)
	if err != nil {
		return nil, err
	}
	return provider.Pipe(ctx, func(ctx context.Context, w io.Writer) error {
		shown := 0       // jobs whose log was shown to its end
		read := int64(0) // of the log of the next one
		named := -1      // the last whose name was written
		for {
			jobs, err := c.jobs(ctx, project, r.ID)
			if err != nil {
				return err
			}
			for shown < len(jobs) {
				j := jobs[shown]
				if len(jobs) > 1 && named < shown && (j.Status == completed || j.Status == "in_progress") {
					named = shown
					if _, err := fmt.Fprintf(w, "==> %s <==\n", j.Name); err != nil {
						return err
					}
				}
				n, err := c.copyLog(ctx, w, project, j, read)
				if err != nil {
					return err
				}
				if read += n; j.Status != completed && follow {
					break
				}
				shown, read = shown+1, 0
			}
			if shown == len(jobs) {
				return nil
			}
			if err := provider.Wait(ctx, c.logPace); err != nil {
				return err
			}
		}
	}), nil
}

// copyLog copies what a job's log holds after the first bytes that were read before. A job that has not begun has none.
func (c *client) copyLog(ctx context.Context, w io.Writer, project string, j job, read int64) (int64, error) {
	where, err := path(project, fmt.Sprintf("/actions/jobs/%d/logs", j.ID))
	if err != nil {
		return 0, err
	}
	text, err := c.api.Open(ctx, provider.Request{Path: where, Header: http.Header{"Accept": {"*/*"}}})
	if errors.Is(err, slipway.NotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("log of job %d of %s: %w", j.ID, project, err)
	}
	defer text.Close()
	if _, err := io.CopyN(io.Discard, text, read); err == io.EOF {
		return 0, nil // it became shorter: another attempt began
	} else if err != nil {
		return 0, err
	}
	return io.Copy(w, text)
}
