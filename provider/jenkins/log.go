package jenkins

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

// logs reads a build's log, which Jenkins shows while it grows.
func (c *client) logs(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	job, number, err := splitID(project, id)
	if err != nil {
		return nil, err
	}
	if _, err := c.run(ctx, job, number, "number"); err != nil {
		return nil, err
	}
	return provider.Pipe(ctx, func(ctx context.Context, w io.Writer) error {
		for start := int64(0); ; {
			next, more, err := c.copyLog(ctx, w, job, number, start)
			if errors.Is(err, slipway.NotFound) {
				_, err = fmt.Fprintln(w, "(Jenkins does not keep this log any more)")
				return err
			}
			if err != nil {
				return fmt.Errorf("log of build %d of %s: %w", number, job, err)
			}
			if !follow || !more {
				return nil
			}
			start = next
			if err := provider.Wait(ctx, c.logPace); err != nil {
				return err
			}
		}
	}), nil
}

// copyLog copies what a log holds from a position on, and gives the next one. Positions are Jenkins' own: it keeps marks in the log that it does not show.
func (c *client) copyLog(ctx context.Context, w io.Writer, job string, number, start int64) (next int64, more bool, err error) {
	a, text, err := c.api.Stream(ctx, provider.Request{
		Path: buildPath(job, number, "/logText/progressiveText"), Query: url.Values{"start": {strconv.FormatInt(start, 10)}}, Header: http.Header{"Accept": {"text/plain, */*;q=0.5"}},
	})
	if err != nil {
		return 0, false, err
	}
	defer text.Close()
	n, err := io.Copy(w, text)
	if err != nil {
		return 0, false, err
	}
	next, err = strconv.ParseInt(a.Header.Get("X-Text-Size"), 10, 64)
	if err != nil {
		next = start + n // a proxy took the header away
	}
	return next, a.Header.Get("X-More-Data") == "true", nil
}
