package circleci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
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
	return provider.Pipe(ctx, func(ctx context.Context, out io.Writer) error {
		if w.ID == "" {
			return writeErrors(out, p)
		}
		t := transcript{c: c, project: project, out: out, jobs: map[string]int{}}
		for {
			// The workflow is looked at before its jobs, so that nothing that ended in between is missed.
			now, _, err := c.find(ctx, project, id)
			if err != nil {
				return err
			}
			ended := statuses[now.Status].Finished() || !now.StoppedAt.IsZero() && statuses[now.Status] == ""
			jobs, err := c.jobs(ctx, id)
			if err != nil {
				return err
			}
			if err := t.write(ctx, jobs, follow && !ended); err != nil || !follow || ended {
				return err
			}
			if err := provider.Wait(ctx, c.logPace); err != nil {
				return err
			}
		}
	}), nil
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
	for {
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
		if found.Next == "" || found.Next == token || len(all) >= maxFamily {
			break
		}
		token = found.Next
	}
	slices.SortStableFunc(all, func(a, b job) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt.Time), cmp.Compare(a.Number, b.Number))
	})
	return all, nil
}

// transcript remembers what of a workflow's logs was written.
type transcript struct {
	c       *client
	project string
	out     io.Writer
	jobs    map[string]int // actions that were written, by job
	done    map[string]bool
	headed  string // the job whose name was written last
}

// write writes what is new. wait: more is to come, so that a job that still runs keeps those after it waiting.
func (t *transcript) write(ctx context.Context, jobs []job, wait bool) error {
	for _, j := range jobs {
		if t.done[j.ID] {
			continue
		}
		if len(jobs) > 1 && t.headed != j.ID {
			t.headed = j.ID
			if _, err := fmt.Fprintf(t.out, "==> %s <==\n", j.Name); err != nil {
				return err
			}
		}
		if err := t.writeJob(ctx, j); err != nil {
			return err
		}
		if j.StoppedAt.IsZero() && wait {
			return nil
		}
		if t.done == nil {
			t.done = map[string]bool{}
		}
		t.done[j.ID] = true
	}
	return nil
}

// writeJob writes the actions of a job that ended since the last look, up to the first that has not.
func (t *transcript) writeJob(ctx context.Context, j job) error {
	slug, _ := canonical(t.project)
	var found struct {
		Steps []struct {
			Actions []action `json:"actions"`
		} `json:"steps"`
	}
	where := fmt.Sprintf("%s/project/%s/%d", v1, (&url.URL{Path: slug}).EscapedPath(), j.Number)
	_, err := t.c.api.JSON(ctx, provider.Request{Path: where}, &found)
	if errors.Is(err, slipway.NotFound) {
		_, err = fmt.Fprintln(t.out, "(CircleCI does not keep this log any more)")
		return err
	}
	if err != nil {
		return fmt.Errorf("steps of job %d of %s: %w", j.Number, t.project, err)
	}
	var actions []action
	for _, s := range found.Steps {
		actions = append(actions, s.Actions...)
	}
	for _, a := range actions[min(t.jobs[j.ID], len(actions)):] {
		if a.Status == "running" {
			return nil
		}
		t.jobs[j.ID]++
		if a.Output == "" {
			continue
		}
		if a.Name != "" {
			if _, err := fmt.Fprintf(t.out, "--> %s\n", a.Name); err != nil {
				return err
			}
		}
		if err := t.c.copyOutput(ctx, t.out, a.Output); err != nil {
			return fmt.Errorf("log of job %d of %s: %w", j.Number, t.project, err)
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
	} else if err != nil || t != json.Delim('[') {
		return c.unreadable(err)
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
	if slipway.CodeOf(err) != slipway.Internal && err != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
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
