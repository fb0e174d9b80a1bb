package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// record is one entry in a build's tree of stages, phases, jobs and tasks.
type record struct {
	ID     string `json:"id"`
	Parent string `json:"parentId"`
	Type   string `json:"type"`
	Name   string `json:"name"`
	State  string `json:"state"`
	Order  int    `json:"order"`
	Log    *struct {
		ID int64 `json:"id"`
	} `json:"log"` // absent until the task has said something
}

// logs reads the logs of a build's tasks, one after the other.
func (c *client) logs(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	s, _, err := c.run(ctx, project, id)
	if err != nil {
		return nil, err
	}
	return provider.Parts{
		Look: func(ctx context.Context) ([]provider.Part, bool, error) {
			// The build is looked at before its tasks, so that none that ended in between is missed.
			_, r, err := c.run(ctx, project, id)
			if err != nil {
				return nil, false, err
			}
			parts, err := c.tasks(ctx, s, id)
			return parts, r.Status == completed, err
		},
		Copy: func(ctx context.Context, w io.Writer, p provider.Part, read int64) (int64, error) {
			return c.copyLog(ctx, w, s, id, p.ID, read)
		},
		Pace: c.logPace,
	}.Open(ctx, follow), nil
}

// tasks are the tasks of a build that have a log, as they run. One that runs again has another log, and is another part.
func (c *client) tasks(ctx context.Context, s source, id string) ([]provider.Part, error) {
	var found struct {
		Records []record `json:"records"`
	}
	_, err := c.call(ctx, provider.Request{Path: s.path("/build/builds/" + id + "/timeline")}, &found)
	if errors.Is(err, slipway.NotFound) {
		return nil, nil // a build that waits has none yet, and one whose configuration is faulty never gets one
	}
	if err != nil {
		return nil, fmt.Errorf("tasks of build %s of %s: %w", id, s, err)
	}
	children := map[string][]record{}
	known := map[string]bool{}
	for _, r := range found.Records {
		known[r.ID] = true
	}
	for _, r := range found.Records {
		if !known[r.Parent] || r.Parent == r.ID {
			r.Parent = ""
		}
		children[r.Parent] = append(children[r.Parent], r)
	}
	var parts []provider.Part
	var walk func(parent, job string, depth int)
	walk = func(parent, job string, depth int) {
		list := children[parent]
		delete(children, parent) // a tree that bites its tail has an end
		slices.SortStableFunc(list, func(a, b record) int { return cmp.Compare(a.Order, b.Order) })
		for _, r := range list {
			switch {
			case r.Type == "Job":
				walk(r.ID, r.Name, depth+1)
			case r.Type != "Task":
				walk(r.ID, job, depth+1)
			case r.Log != nil:
				title := r.Name
				if job != "" {
					title = job + " / " + r.Name
				}
				parts = append(parts, provider.Part{ID: strconv.FormatInt(r.Log.ID, 10), Title: title, Begun: true, Ended: r.State == completed})
			}
		}
	}
	walk("", "", 0)
	return parts, nil
}

// copyLog copies what a task's log holds after what was read before.
func (c *client) copyLog(ctx context.Context, w io.Writer, s source, id, log string, read int64) (int64, error) {
	answer, text, err := c.api.Stream(ctx, provider.Request{
		Path: s.path("/build/builds/" + id + "/logs/" + log), Query: url.Values{"api-version": {c.cfg.APIVersion}},
		Header: http.Header{"Accept": {"text/plain"}}, // or it comes as a list of lines
	})
	if errors.Is(err, slipway.NotFound) && read == 0 {
		n, err := fmt.Fprintln(w, "(Azure DevOps does not keep this log any more)")
		return int64(n), err
	} else if errors.Is(err, slipway.NotFound) {
		return 0, nil // it was said
	}
	if err != nil {
		return 0, fmt.Errorf("log %s of build %s of %s: %w", log, id, s, err)
	}
	defer text.Close()
	if answer.Status == http.StatusNonAuthoritativeInfo {
		return 0, signIn()
	}
	return provider.CopyRest(w, text, read)
}
