package github

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// workflowRun is GitHub's own shape, in the API and in webhooks. It never leaves this package.
type workflowRun struct {
	ID              int64         `json:"id"`
	Name            string        `json:"name"`
	Path            string        `json:"path"`
	WorkflowID      int64         `json:"workflow_id"`
	RunNumber       int64         `json:"run_number"`
	RunAttempt      int           `json:"run_attempt"` // absent on old servers
	Event           string        `json:"event"`
	Status          string        `json:"status"`
	Conclusion      string        `json:"conclusion"` // null until the status is completed
	DisplayTitle    string        `json:"display_title"`
	HeadSHA         string        `json:"head_sha"`
	HeadBranch      string        `json:"head_branch"` // null for some events
	HTMLURL         string        `json:"html_url"`
	CreatedAt       provider.Time `json:"created_at"`
	UpdatedAt       provider.Time `json:"updated_at"`
	RunStartedAt    provider.Time `json:"run_started_at"` // when this attempt was queued, though it says started
	Actor           *account      `json:"actor"`          // whose push it was
	TriggeringActor *account      `json:"triggering_actor"`
	HeadCommit      *struct {
		Message string `json:"message"`
		Author  *struct {
			Name string `json:"name"`
		} `json:"author"`
	} `json:"head_commit"`
	Repository     *repository `json:"repository"`
	HeadRepository *repository `json:"head_repository"` // null when the fork is gone
}

type account struct {
	Login string `json:"login"`
}

type repository struct {
	FullName string `json:"full_name"`
	HTMLURL  string `json:"html_url"`
}

// statuses is GitHub's words in ours; a conclusion follows "completed/".
var statuses = map[string]slipway.BuildStatus{
	"queued": slipway.BuildStarting, "requested": slipway.BuildStarting, "waiting": slipway.BuildStarting, "pending": slipway.BuildStarting,
	"in_progress":               slipway.BuildRunning,
	"completed/success":         slipway.BuildSucceeded,
	"completed/neutral":         slipway.BuildSucceeded,
	"completed/failure":         slipway.BuildFailed,
	"completed/timed_out":       slipway.BuildFailed,
	"completed/startup_failure": slipway.BuildFailed,
	"completed/cancelled":       slipway.BuildCanceled,
	"completed/stale":           slipway.BuildCanceled,
	"completed/skipped":         slipway.BuildSkipped,
	"completed/action_required": slipway.BuildStarting, // nothing ran: somebody must approve it first
}

var triggers = map[string]slipway.BuildTrigger{
	"push": slipway.TriggerPush, "pull_request": slipway.TriggerPullRequest, "pull_request_target": slipway.TriggerPullRequest,
	"schedule": slipway.TriggerSchedule, "workflow_dispatch": slipway.TriggerManual, "repository_dispatch": slipway.TriggerAPI,
}

const completed = "completed"

func (r workflowRun) words() string {
	if r.Status == completed {
		return completed + "/" + r.Conclusion
	}
	return cmp.Or(r.Status, "none")
}

func (r workflowRun) build() slipway.Build {
	b := slipway.Build{
		ID: strconv.FormatInt(r.ID, 10), Number: r.RunNumber, Attempt: max(r.RunAttempt, 1), Pipeline: r.pipeline(),
		Status: cmp.Or(statuses[r.words()], slipway.BuildUnknown), Detail: r.words(), Blocked: r.Conclusion == "action_required",
		CreatedAt: r.CreatedAt.Time, UpdatedAt: r.UpdatedAt.Ptr(), URL: r.HTMLURL,
		Trigger: cmp.Or(triggers[r.Event], slipway.TriggerOther), TriggeredBy: r.person(), Commit: r.commit(),
	}
	if r.RunAttempt > 1 {
		b.Trigger = slipway.TriggerRetry
	}
	if b.Status != slipway.BuildStarting {
		b.StartedAt = cmp.Or(r.RunStartedAt, r.CreatedAt).Ptr() // old servers have no start
	}
	if r.Status == completed && b.Status != slipway.BuildStarting {
		b.FinishedAt = r.UpdatedAt.Ptr() // near to it; the exact one is the latest of its jobs
	}
	provider.Derive(&b)
	return b
}

// pipeline is named by its file, which people know and GitHub takes in place of the id; what has none, such as what builds pages, by its id.
func (r workflowRun) pipeline() slipway.Pipeline {
	id := strconv.FormatInt(r.WorkflowID, 10)
	file, _, _ := strings.Cut(r.Path, "@")
	if name, ok := strings.CutPrefix(file, ".github/workflows/"); ok && name != "" {
		id = name
	}
	return slipway.Pipeline{ID: id, Name: cmp.Or(r.Name, id)}
}

// person is who caused this attempt. Old servers know only whose push it was.
func (r workflowRun) person() *slipway.Person {
	for _, a := range []*account{r.TriggeringActor, r.Actor} {
		if a != nil && a.Login != "" {
			return &slipway.Person{ID: a.Login}
		}
	}
	return nil
}

func (r workflowRun) commit() *slipway.Commit {
	if r.HeadSHA == "" {
		return nil
	}
	c := &slipway.Commit{SHA: r.HeadSHA, Branch: strings.TrimPrefix(r.HeadBranch, "refs/heads/"), Message: provider.FirstLine(r.DisplayTitle)}
	if r.HeadCommit != nil {
		c.Message = cmp.Or(provider.FirstLine(r.HeadCommit.Message), c.Message)
		if r.HeadCommit.Author != nil {
			c.Author = r.HeadCommit.Author.Name
		}
	}
	for _, home := range []*repository{r.HeadRepository, r.Repository} {
		if home != nil && home.HTMLURL != "" {
			c.URL = home.HTMLURL + "/commit/" + r.HeadSHA
			break
		}
	}
	return c
}

const (
	maxPage     = 100
	maxJobPages = 50 // more jobs of one run are not looked at
)

func (c *client) list(ctx context.Context, project string, o provider.ListOptions) (provider.Page[slipway.Build], error) {
	page, err := provider.Numbered[workflowRun]{
		Size: maxPage,
		Key:  func(r workflowRun) (time.Time, int64) { return r.CreatedAt.Time, r.ID },
		Read: func(ctx context.Context, page, size int, validator string) (n provider.NumberedPage[workflowRun], err error) {
			where, err := path(project, "/actions/runs")
			if err != nil {
				return n, err
			}
			var found struct {
				Runs []workflowRun `json:"workflow_runs"`
			}
			a, err := c.call(ctx, provider.Request{Path: where, Scope: project, Validator: validator, Query: url.Values{
				"page": {strconv.Itoa(page)}, "per_page": {strconv.Itoa(size)}, "exclude_pull_requests": {"true"},
			}}, &found)
			if err == nil && !a.NotModified && found.Runs == nil {
				err = c.api.Strange(errors.New("there are no workflow_runs"))
			}
			return provider.NumberedPage[workflowRun]{
				Items: found.Runs, More: provider.Link(a.Header, "next") != "", Validator: a.Validator, NotModified: a.NotModified,
			}, err
		},
	}.List(ctx, o)
	if err != nil {
		return provider.Page[slipway.Build]{}, fmt.Errorf("runs of %s: %w", project, err)
	}
	return provider.MapPage(page, workflowRun.build), nil
}

func (c *client) get(ctx context.Context, project, id string) (slipway.Build, error) {
	r, err := c.run(ctx, project, id)
	if err != nil {
		return slipway.Build{}, err
	}
	return r.build(), nil
}

func (c *client) run(ctx context.Context, project, id string) (r workflowRun, err error) {
	where, err := runPath(project, id, "")
	if err != nil {
		return r, err
	}
	_, err = c.call(ctx, provider.Request{Path: where, Scope: project, Query: url.Values{"exclude_pull_requests": {"true"}}}, &r)
	if err == nil && r.ID == 0 {
		err = c.api.Strange(errors.New("the run has no id"))
	}
	if err != nil {
		return r, fmt.Errorf("run %s of %s: %w", id, project, err)
	}
	return r, nil
}

func runPath(project, id, rest string) (string, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n <= 0 {
		return "", slipway.Errorf(slipway.NotFound, "GitHub has no run %q; its ids are numbers", id)
	}
	return path(project, fmt.Sprintf("/actions/runs/%d%s", n, rest))
}

// retrigger runs the failed jobs of a run again, or, with the extra `all: true` and where nothing failed, all of them. `debug: true` turns on the debug log.
func (c *client) retrigger(ctx context.Context, project, id string, extra map[string]any, _ slipway.Caller) (*slipway.Build, error) {
	r, err := c.run(ctx, project, id)
	if err != nil {
		return nil, err
	}
	if r.Status != completed || r.Conclusion == "action_required" {
		return nil, slipway.Errorf(slipway.Conflict, "run %s is %s; only a run that has ended can run again", id, r.words())
	}
	what := "/rerun-failed-jobs"
	if all, _ := extra["all"].(bool); all || !hasFailedJobs(r.Conclusion) {
		what = "/rerun"
	}
	where, err := runPath(project, id, what)
	if err != nil {
		return nil, err
	}
	request := provider.Request{Method: http.MethodPost, Path: where, Scope: project}
	if debug, _ := extra["debug"].(bool); debug {
		request.Body = map[string]bool{"enable_debug_logging": true}
	}
	if _, err := c.call(ctx, request, nil); err != nil {
		return nil, fmt.Errorf("run %s of %s again: %w", id, project, err)
	}
	now, err := c.run(ctx, project, id)
	if err != nil || now.Status == completed && now.RunAttempt == r.RunAttempt {
		return nil, nil // it was accepted, and shows in a moment
	}
	b := now.build()
	return &b, nil
}

func hasFailedJobs(conclusion string) bool {
	return conclusion == "failure" || conclusion == "timed_out" || conclusion == "cancelled"
}

func (c *client) cancel(ctx context.Context, project, id string) error {
	where, err := runPath(project, id, "/cancel")
	if err != nil {
		return err
	}
	if _, err := c.call(ctx, provider.Request{Method: http.MethodPost, Path: where, Scope: project}, nil); err != nil {
		return fmt.Errorf("cancel run %s of %s: %w", id, project, err)
	}
	return nil
}

// start dispatches a workflow. The extra `inputs` holds its inputs.
func (c *client) start(ctx context.Context, project string, o provider.StartOptions, _ slipway.Caller) (*slipway.Build, error) {
	workflow := o.Pipeline
	if workflow == "" {
		var err error
		if workflow, err = c.onlyWorkflow(ctx, project); err != nil {
			return nil, err
		}
	}
	where, err := path(project, "/actions/workflows/"+url.PathEscape(workflow)+"/dispatches")
	if err != nil {
		return nil, err
	}
	inputs, err := provider.Inputs(o.Extra["inputs"])
	if err != nil {
		return nil, err
	}
	body := map[string]any{"ref": o.Ref, "return_run_details": true}
	if len(inputs) > 0 {
		body["inputs"] = inputs
	}
	request := provider.Request{Method: http.MethodPost, Path: where, Scope: project, Body: body}
	var made struct {
		ID int64 `json:"workflow_run_id"`
	}
	a, err := c.call(ctx, request, &made)
	if errors.Is(err, slipway.Invalid) { // servers before 2026 know nothing of run details, and refuse the member
		delete(body, "return_run_details")
		a, err = c.call(ctx, request, &made)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s of %s: %w", workflow, project, err)
	}
	if a.Status != http.StatusOK || made.ID == 0 {
		return nil, nil // 204: it has no name yet
	}
	b, err := c.get(ctx, project, strconv.FormatInt(made.ID, 10))
	if err != nil {
		return nil, nil // it shows in a moment
	}
	return &b, nil
}

// onlyWorkflow is the file of a project's workflow, where it has one.
func (c *client) onlyWorkflow(ctx context.Context, project string) (string, error) {
	where, err := path(project, "/actions/workflows")
	if err != nil {
		return "", err
	}
	var found struct {
		Total     int `json:"total_count"`
		Workflows []struct {
			Path  string `json:"path"`
			State string `json:"state"`
		} `json:"workflows"`
	}
	_, err = c.call(ctx, provider.Request{Path: where, Scope: project, Query: url.Values{"per_page": {strconv.Itoa(maxPage)}}}, &found)
	if err != nil {
		return "", fmt.Errorf("workflows of %s: %w", project, err)
	}
	var files []string
	for _, w := range found.Workflows {
		if file, ok := strings.CutPrefix(w.Path, ".github/workflows/"); ok && w.State == "active" {
			files = append(files, file)
		}
	}
	switch {
	case found.Total > len(found.Workflows):
		return "", slipway.Errorf(slipway.Invalid, "%s has %d workflows; set pipeline to the file of one", project, found.Total)
	case len(files) == 0:
		return "", slipway.Errorf(slipway.NotFound, "%s has no active workflow", project)
	case len(files) == 1:
		return files[0], nil
	}
	return "", slipway.Errorf(slipway.Invalid, "%s has several workflows; set pipeline to one of: %s", project, strings.Join(files, ", "))
}
