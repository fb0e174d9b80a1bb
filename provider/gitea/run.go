package gitea

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

	"golang.org/x/sync/errgroup"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// workflowRun is Gitea's own shape. It never leaves this package. It says neither when the run was created nor which attempt it is: its jobs do.
type workflowRun struct {
	ID           int64         `json:"id"`
	Path         string        `json:"path"` // file@ref
	RunNumber    int64         `json:"run_number"`
	Event        string        `json:"event"`
	Status       string        `json:"status"`
	Conclusion   string        `json:"conclusion"`
	DisplayTitle string        `json:"display_title"`
	HeadSHA      string        `json:"head_sha"`
	HeadBranch   string        `json:"head_branch"`
	HTMLURL      string        `json:"html_url"`
	StartedAt    provider.Time `json:"started_at"`   // 1970 until then
	CompletedAt  provider.Time `json:"completed_at"` // 1970 until then
	Actor        *account      `json:"actor"`
	TriggerActor *account      `json:"trigger_actor"`
	Repository   *struct {
		HTMLURL string `json:"html_url"`
	} `json:"repository"`
}

type account struct {
	Login    string `json:"login"`
	FullName string `json:"full_name"`
	Email    string `json:"email"`
}

// job is one job of a run. Gitea counts its attempts when they begin.
type job struct {
	ID         int64         `json:"id"`
	Name       string        `json:"name"`
	Status     string        `json:"status"`
	Conclusion string        `json:"conclusion"`
	Attempt    int           `json:"run_attempt"`
	CreatedAt  provider.Time `json:"created_at"`
}

// statuses is Gitea's words in ours; a conclusion follows "completed/".
var statuses = map[string]slipway.BuildStatus{
	"queued":              slipway.BuildStarting,
	"waiting":             slipway.BuildStarting, // for somebody to approve it
	"in_progress":         slipway.BuildRunning,
	"completed/success":   slipway.BuildSucceeded,
	"completed/failure":   slipway.BuildFailed,
	"completed/cancelled": slipway.BuildCanceled,
	"completed/skipped":   slipway.BuildSkipped,
}

var triggers = map[string]slipway.BuildTrigger{
	"push": slipway.TriggerPush, "pull_request": slipway.TriggerPullRequest, "pull_request_sync": slipway.TriggerPullRequest,
	"pull_request_target": slipway.TriggerPullRequest, "schedule": slipway.TriggerSchedule, "workflow_dispatch": slipway.TriggerManual,
}

const (
	completed = "completed"
	waiting   = "waiting"
)

func (r workflowRun) words() string {
	if r.Status == completed {
		return completed + "/" + r.Conclusion
	}
	return cmp.Or(r.Status, "none")
}

// detail is what a run's jobs know of it.
type detail struct {
	of      string // the state of the run that it belongs to
	created time.Time
	changed time.Time
	attempt int
}

func (r workflowRun) build(d detail) slipway.Build {
	b := slipway.Build{
		ID: strconv.FormatInt(r.ID, 10), Number: r.RunNumber, Attempt: d.attempt, Pipeline: r.pipeline(),
		Status: cmp.Or(statuses[r.words()], slipway.BuildUnknown), Detail: r.words(), Blocked: r.Status == waiting,
		CreatedAt: d.created, UpdatedAt: &d.changed, URL: r.HTMLURL,
		Trigger: cmp.Or(triggers[r.Event], slipway.TriggerOther), TriggeredBy: r.person(), Commit: r.commit(),
	}
	if d.attempt > 1 {
		b.Trigger = slipway.TriggerRetry
	}
	if b.Status != slipway.BuildStarting {
		b.StartedAt = r.StartedAt.Ptr()
	}
	if r.Status == completed || b.Status == slipway.BuildUnknown {
		b.FinishedAt = r.CompletedAt.Ptr()
	}
	provider.Derive(&b)
	return b
}

func (r workflowRun) pipeline() slipway.Pipeline {
	file, _, _ := strings.Cut(r.Path, "@")
	return slipway.Pipeline{ID: file, Name: file}
}

func (r workflowRun) person() *slipway.Person {
	for _, a := range []*account{r.TriggerActor, r.Actor} {
		if a != nil && a.Login != "" {
			p := &slipway.Person{ID: a.Login, Name: a.FullName}
			if !strings.Contains(a.Email, "noreply") { // what Gitea shows instead of a hidden address
				p.Email = a.Email
			}
			return p
		}
	}
	return nil
}

func (r workflowRun) commit() *slipway.Commit {
	if r.HeadSHA == "" {
		return nil
	}
	c := &slipway.Commit{SHA: r.HeadSHA, Branch: strings.TrimPrefix(r.HeadBranch, "refs/heads/"), Message: provider.FirstLine(r.DisplayTitle)}
	if r.Repository != nil && r.Repository.HTMLURL != "" {
		c.URL = r.Repository.HTMLURL + "/commit/" + r.HeadSHA
	}
	return c
}

const (
	maxPage     = 50     // what Gitea allows unless told otherwise
	maxJobPages = 100    // more jobs of one run are not looked at
	parallel    = 4      // looks at the jobs of several runs
	maxDetail   = 20_000 // runs whose details are remembered
)

func (c *client) list(ctx context.Context, project string, o provider.ListOptions) (list provider.Page[slipway.Build], err error) {
	var date time.Time
	page, err := provider.Numbered[workflowRun]{
		Size: maxPage,
		Key:  func(r workflowRun) (time.Time, int64) { return time.Time{}, r.ID }, // the order of the ids, whose runs were created in it
		Read: func(ctx context.Context, page, size int, _ string) (n provider.NumberedPage[workflowRun], err error) {
			where, err := path(project, "/actions/runs")
			if err != nil {
				return n, err
			}
			var found struct {
				Runs  []workflowRun `json:"workflow_runs"`
				Total *int64        `json:"total_count"`
			}
			a, err := c.api.JSON(ctx, provider.Request{Path: where, Query: url.Values{"page": {strconv.Itoa(page)}, "limit": {strconv.Itoa(size)}}}, &found)
			if err == nil && found.Total == nil {
				err = c.api.Strange(errors.New("there is no total_count"))
			}
			date = c.dateOf(a)
			return provider.NumberedPage[workflowRun]{Items: found.Runs, More: provider.Link(a.Header, "next") != ""}, err
		},
	}.List(ctx, o)
	if err != nil {
		return list, fmt.Errorf("runs of %s: %w", project, err)
	}
	list.Next, list.Items = page.Next, make([]slipway.Build, len(page.Items))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, r := range page.Items {
		g.Go(func() error {
			d, err := c.detail(ctx, project, r, date)
			list.Items[i] = r.build(d)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return provider.Page[slipway.Build]{}, fmt.Errorf("runs of %s: %w", project, err)
	}
	return list, nil
}

// dateOf is when an answer was given, by the clock that also stamps the runs.
func (c *client) dateOf(a provider.Answer) time.Time {
	if at, err := http.ParseTime(a.Header.Get("Date")); err == nil {
		return at.UTC()
	}
	return c.now().UTC().Truncate(time.Second)
}

// detail asks a run's jobs for what the run does not say, once for each state that the run is in.
func (c *client) detail(ctx context.Context, project string, r workflowRun, date time.Time) (detail, error) {
	key := fmt.Sprintf("%s/%d", project, r.ID)
	state := fmt.Sprint(r.words(), r.StartedAt.Unix(), r.CompletedAt.Unix())
	c.mu.Lock()
	d, known := c.seen[key]
	c.mu.Unlock()
	if known && d.of == state {
		return d, nil
	}
	jobs, err := c.jobs(ctx, project, r.ID)
	if err != nil && !errors.Is(err, slipway.NotFound) {
		return d, err
	}
	before := d.created
	d = detailOf(r, jobs, date)
	d.of, d.created = state, firstTime(before, d.created)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) >= maxDetail {
		clear(c.seen)
	}
	c.seen[key] = d
	return d, nil
}

// detailOf reads a run's jobs, as they were at a date.
func detailOf(r workflowRun, jobs []job, date time.Time) detail {
	d := detail{attempt: attemptOf(jobs), changed: changedAt(r, date)}
	for _, j := range jobs {
		if at := j.CreatedAt.Time; !at.IsZero() && (d.created.IsZero() || at.Before(d.created)) {
			d.created = at
		}
	}
	d.created = firstTime(d.created, r.StartedAt.Time, r.CompletedAt.Time, date)
	return d
}

// changedAt is when a run came into its state. Gitea says so of its start and its end; while it waits, all that is known is that it did when it was seen.
func changedAt(r workflowRun, date time.Time) time.Time {
	switch r.Status {
	case completed:
		return firstTime(r.CompletedAt.Time, date)
	case "in_progress":
		return firstTime(r.StartedAt.Time, date)
	}
	return date
}

func firstTime(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

// attemptOf is the attempt that a run is at: a job that waits will begin its next one.
func attemptOf(jobs []job) int {
	attempt := 1
	for _, j := range jobs {
		if j.Status != completed && j.Status != "in_progress" {
			j.Attempt++
		}
		attempt = max(attempt, j.Attempt)
	}
	return attempt
}

func (c *client) jobs(ctx context.Context, project string, run int64) ([]job, error) {
	where, err := path(project, fmt.Sprintf("/actions/runs/%d/jobs", run))
	if err != nil {
		return nil, err
	}
	var all []job
	for page := 1; ; page++ {
		var found struct {
			Jobs []job `json:"jobs"`
		}
		a, err := c.api.JSON(ctx, provider.Request{Path: where, Query: url.Values{"page": {strconv.Itoa(page)}, "limit": {strconv.Itoa(maxPage)}}}, &found)
		if err != nil {
			return nil, fmt.Errorf("jobs of run %d of %s: %w", run, project, err)
		}
		all = append(all, found.Jobs...)
		if provider.Link(a.Header, "next") == "" || len(found.Jobs) == 0 || page == maxJobPages {
			return all, nil
		}
	}
}

func (c *client) get(ctx context.Context, project, id string) (slipway.Build, error) {
	r, date, err := c.run(ctx, project, id)
	if err != nil {
		return slipway.Build{}, err
	}
	d, err := c.detail(ctx, project, r, date)
	return r.build(d), err
}

func (c *client) run(ctx context.Context, project, id string) (r workflowRun, date time.Time, err error) {
	where, err := runPath(project, id, "")
	if err != nil {
		return r, date, err
	}
	a, err := c.api.JSON(ctx, provider.Request{Path: where}, &r)
	if err == nil && r.ID == 0 {
		err = c.api.Strange(errors.New("the run has no id"))
	}
	if err != nil {
		return r, date, fmt.Errorf("run %s of %s: %w", id, project, err)
	}
	return r, c.dateOf(a), nil
}

func runPath(project, id, rest string) (string, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n <= 0 {
		return "", slipway.Errorf(slipway.NotFound, "Gitea has no run %q; its ids are numbers", id)
	}
	return path(project, fmt.Sprintf("/actions/runs/%d%s", n, rest))
}

// retrigger runs the failed jobs of a run again, or, with the extra `all: true` and where nothing failed, all of them. A Gitea before 1.26 runs nothing again: there
// the run's workflow is dispatched on its branch, which makes a new run, where the workflow allows it.
func (c *client) retrigger(ctx context.Context, project, id string, extra map[string]any, by slipway.Caller) (*slipway.Build, error) {
	r, _, err := c.run(ctx, project, id)
	if err != nil {
		return nil, err
	}
	if r.Status != completed {
		return nil, slipway.Errorf(slipway.Conflict, "run %s is %s; only a run that has ended can run again", id, r.words())
	}
	what := "/rerun-failed-jobs"
	if all, _ := extra["all"].(bool); all || r.Conclusion != "failure" && r.Conclusion != "cancelled" {
		what = "/rerun"
	}
	where, err := runPath(project, id, what)
	if err != nil {
		return nil, err
	}
	_, err = c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: where}, nil) // one of the two answers with nothing
	if errors.Is(err, slipway.NotFound) {
		return c.start(ctx, project, provider.StartOptions{Ref: r.HeadBranch, Pipeline: r.pipeline().ID, Extra: extra}, by)
	}
	if err != nil {
		return nil, fmt.Errorf("run %s of %s again: %w", id, project, err)
	}
	now, date, err := c.run(ctx, project, id)
	if err != nil || now.Status == completed && now.CompletedAt == r.CompletedAt {
		return nil, nil // it was accepted, and shows in a moment
	}
	d, err := c.detail(ctx, project, now, date)
	if err != nil {
		return nil, nil
	}
	b := now.build(d)
	return &b, nil
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
	body := map[string]any{"ref": o.Ref}
	if len(inputs) > 0 {
		body["inputs"] = inputs
	}
	var made struct {
		ID int64 `json:"workflow_run_id"`
	}
	_, err = c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: where, Query: url.Values{"return_run_details": {"true"}}, Body: body}, &made)
	if err != nil {
		return nil, fmt.Errorf("start %s of %s: %w", workflow, project, err)
	}
	if made.ID == 0 {
		return nil, nil // a server that names no run
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
		Workflows []struct {
			ID    string `json:"id"` // the file
			State string `json:"state"`
		} `json:"workflows"`
	}
	if _, err := c.api.JSON(ctx, provider.Request{Path: where}, &found); err != nil {
		return "", fmt.Errorf("workflows of %s: %w", project, err)
	}
	var files []string
	for _, w := range found.Workflows {
		if w.State == "active" {
			files = append(files, w.ID)
		}
	}
	switch len(files) {
	case 0:
		return "", slipway.Errorf(slipway.NotFound, "%s has no active workflow", project)
	case 1:
		return files[0], nil
	}
	return "", slipway.Errorf(slipway.Invalid, "%s has several workflows; set pipeline to one of: %s", project, strings.Join(files, ", "))
}
