package circleci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// job is one job of a workflow.
type job struct {
	ID        string        `json:"id"`
	Number    int64         `json:"job_number"` // 0 for what has not begun, and for approvals
	Name      string        `json:"name"`
	Status    string        `json:"status"`
	StartedAt provider.Time `json:"started_at"`
	StoppedAt provider.Time `json:"stopped_at"`
}

// action is what one step of a job did on one of its machines.
type action struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Output string `json:"output_url"` // a signed link; "" where nothing was said
}

// logs reads what the jobs of a workflow said, one after the other. CircleCI shows what a step said when the step has ended.
func (c *client) logs(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	w, p, err := c.find(ctx, project, id)
	if err != nil {
		return nil, err
	}
	if w.ID == "" {
		return provider.Pipe(ctx, func(_ context.Context, out io.Writer) error { return writeErrors(out, p) }), nil
	}
	jobs := map[string]*reading{}
	return provider.Parts{
		Look: func(ctx context.Context) (parts []provider.Part, ended bool, err error) {
			// The workflow is looked at before its jobs, so that nothing that ended in between is missed.
			now, _, err := c.find(ctx, project, id)
			if err != nil {
				return nil, false, err
			}
			all, err := c.jobs(ctx, id)
			for _, j := range all {
				parts = append(parts, provider.Part{ID: j.ID, Title: j.Name, Begun: true, Ended: !j.StoppedAt.IsZero()})
				if jobs[j.ID] == nil {
					jobs[j.ID] = &reading{number: j.Number}
				}
			}
			return parts, statuses[now.Status].Finished() || !now.StoppedAt.IsZero() && statuses[now.Status] == "", err
		},
		Copy: func(ctx context.Context, out io.Writer, part provider.Part, read int64) (int64, error) {
			written := &count{Writer: out}
			err := c.copyJob(ctx, written, project, jobs[part.ID])
			if errors.Is(err, slipway.NotFound) && read == 0 {
				_, err = fmt.Fprintln(written, "(CircleCI does not keep this log any more)")
			} else if errors.Is(err, slipway.NotFound) {
				err = nil // it was said
			}
			return written.bytes, err
		},
		Pace: c.logPace,
	}.Open(ctx, follow), nil
}

// reading is how far the log of a job was read.
type reading struct {
	number  int64
	actions int
}

type count struct {
	io.Writer
	bytes int64
}

func (c *count) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.bytes += int64(n)
	return n, err
}

// writeErrors is the log of a pipeline that has no workflow.
func writeErrors(out io.Writer, p pipeline) error {
	for _, e := range p.Errors {
		if _, err := fmt.Fprintf(out, "%s: %s\n", e.Type, strings.TrimSpace(e.Message)); err != nil {
			return err
		}
	}
	return nil
}

// jobs are those of a workflow that have begun, as they did.
func (c *client) jobs(ctx context.Context, workflow string) ([]job, error) {
	var all []job
	token := ""
	for page := 1; ; page++ {
		var found struct {
			Items []job  `json:"items"`
			Next  string `json:"next_page_token"`
		}
		if _, err := c.api.JSON(ctx, provider.Request{Path: v2 + "/workflow/" + workflow + "/job", Query: pageQuery(token)}, &found); err != nil {
			return nil, fmt.Errorf("jobs of workflow %s: %w", workflow, err)
		}
		for _, j := range found.Items {
			if j.Number > 0 && !j.StartedAt.IsZero() {
				all = append(all, j)
			}
		}
		if found.Next == "" || found.Next == token || page == maxFamilyPages {
			break
		}
		token = found.Next
	}
	slices.SortStableFunc(all, func(a, b job) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt.Time), cmp.Compare(a.Number, b.Number))
	})
	return all, nil
}

// copyJob copies what the actions of a job said that ended since the last look, up to the first that has not.
func (c *client) copyJob(ctx context.Context, out io.Writer, project string, r *reading) error {
	slug, _ := canonical(project)
	var found struct {
		Steps []struct {
			Actions []action `json:"actions"`
		} `json:"steps"`
	}
	_, err := c.api.JSON(ctx, provider.Request{Path: fmt.Sprintf("%s/project/%s/%d", v1, slug, r.number)}, &found) // here its slashes are none to escape
	if err != nil {
		return fmt.Errorf("steps of job %d of %s: %w", r.number, project, err)
	}
	var actions []action
	for _, s := range found.Steps {
		actions = append(actions, s.Actions...)
	}
	for _, a := range actions[min(r.actions, len(actions)):] {
		if a.Status == "running" {
			return nil
		}
		r.actions++
		if a.Output == "" {
			continue
		}
		if a.Name != "" {
			if _, err := fmt.Fprintf(out, "--> %s\n", a.Name); err != nil {
				return err
			}
		}
		if err := c.copyOutput(ctx, out, a.Output); err != nil {
			return fmt.Errorf("log of job %d of %s: %w", r.number, project, err)
		}
	}
	return nil
}

// largestMessage is how much of an output is held in memory at once.
const largestMessage = 16 << 20

// copyOutput copies the messages that lie behind a signed link, one by one.
func (c *client) copyOutput(ctx context.Context, out io.Writer, link string) error {
	in, err := c.api.OpenLink(ctx, link)
	if errors.Is(err, slipway.NotFound) {
		_, err = fmt.Fprintln(out, "(CircleCI does not keep this output any more)")
		return err
	}
	if err != nil {
		return err
	}
	defer in.Close()
	rationed := &ration{Reader: in, left: largestMessage}
	messages := json.NewDecoder(rationed)
	if t, err := messages.Token(); err == io.EOF {
		return nil // nothing was said
	} else if err != nil {
		return c.unreadable(err)
	} else if t != json.Delim('[') {
		return c.unreadable(fmt.Errorf("it begins with %v", t))
	}
	for messages.More() {
		var m struct {
			Message string `json:"message"`
		}
		if err := messages.Decode(&m); err != nil {
			return c.unreadable(err)
		}
		if _, err := io.WriteString(out, strings.ReplaceAll(m.Message, "\r\n", "\n")); err != nil {
			return err
		}
		rationed.left = largestMessage
	}
	if _, err := messages.Token(); err != nil {
		return c.unreadable(err)
	}
	return nil
}

// unreadable is the error of an output that is not what it should be. What the stream itself failed with has a code.
func (c *client) unreadable(err error) error {
	if slipway.CodeOf(err) != slipway.Internal || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return c.api.Strange(fmt.Errorf("an output is no list of messages: %w", err))
}

// ration ends a reader that gives more than it may before somebody allows it more.
type ration struct {
	io.Reader
	left int
}

func (r *ration) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, slipway.Errorf(slipway.TooLarge, "CircleCI sent a message of more than %d MiB", largestMessage>>20)
	}
	n, err := r.Reader.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}
