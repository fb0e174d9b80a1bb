package buildkite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// nativeBuild is Buildkite's own shape, in the API and in webhooks. It never leaves this package.
type nativeBuild struct {
	ID          string        `json:"id"`
	Number      int64         `json:"number"`
	URL         string        `json:"url"` // of the API
	WebURL      string        `json:"web_url"`
	State       string        `json:"state"`
	Blocked     bool          `json:"blocked"`
	Message     string        `json:"message"`
	Commit      string        `json:"commit"` // HEAD until an agent has looked
	Branch      string        `json:"branch"`
	Source      string        `json:"source"`
	Creator     *account      `json:"creator"` // null for schedules, and for pushes of somebody who has no account
	Author      *account      `json:"author"`
	CreatedAt   provider.Time `json:"created_at"`
	StartedAt   provider.Time `json:"started_at"`  // of the first job
	FailingAt   provider.Time `json:"failing_at"`  // kept when it runs again
	FinishedAt  provider.Time `json:"finished_at"` // also while it is blocked
	PullRequest *struct {
		ID any `json:"id"` // a number as text
	} `json:"pull_request"`
	RebuiltFrom *struct {
		Number int64 `json:"number"`
	} `json:"rebuilt_from"`
	Jobs []job `json:"jobs"` // absent in lists and webhooks
}

type account struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

// job is one job of a build: a script, or something that only waits.
type job struct {
	ID         string        `json:"id"`
	Type       string        `json:"type"`
	Name       string        `json:"name"`
	Command    string        `json:"command"`
	State      string        `json:"state"`
	CreatedAt  provider.Time `json:"created_at"`
	StartedAt  provider.Time `json:"started_at"`
	FinishedAt provider.Time `json:"finished_at"`
}

// statuses is Buildkite's words for builds in ours.
var statuses = map[string]slipway.BuildStatus{
	"creating": slipway.BuildStarting, "scheduled": slipway.BuildStarting,
	"running": slipway.BuildRunning, "failing": slipway.BuildRunning, "canceling": slipway.BuildRunning, "blocked": slipway.BuildRunning,
	"passed": slipway.BuildSucceeded, "failed": slipway.BuildFailed, "canceled": slipway.BuildCanceled,
	"skipped": slipway.BuildSkipped, "not_run": slipway.BuildSkipped,
}

var triggers = map[string]slipway.BuildTrigger{
	"webhook": slipway.TriggerPush, "ui": slipway.TriggerManual, "api": slipway.TriggerAPI, "schedule": slipway.TriggerSchedule,
}

// blocked says that a build waits for a person. Buildkite says of one that it passed, or failed, though more may come.
func (n nativeBuild) blocked() bool {
	switch n.State {
	case "blocked":
		return true
	case "passed", "failed", "running", "failing", "scheduled":
		return n.Blocked
	}
	return false
}

func (n nativeBuild) status() slipway.BuildStatus {
	if n.blocked() {
		if n.StartedAt.IsZero() {
			return slipway.BuildStarting // nothing ran before it
		}
		return slipway.BuildRunning
	}
	return cmp.Or(statuses[n.State], slipway.BuildUnknown)
}

func (n nativeBuild) words() string {
	if n.blocked() && n.State != "blocked" {
		return n.State + "/blocked"
	}
	return cmp.Or(n.State, "none")
}

// build makes ours. changed is when it came into its state.
func (n nativeBuild) build(project string, changed time.Time) slipway.Build {
	_, name, _ := strings.Cut(project, "/")
	b := slipway.Build{
		ID: strconv.FormatInt(n.Number, 10), Number: n.Number, Attempt: 1, Pipeline: slipway.Pipeline{ID: project, Name: name},
		Status: n.status(), Detail: n.words(), Blocked: n.blocked(), CreatedAt: n.CreatedAt.Time, UpdatedAt: &changed, URL: n.WebURL,
		Trigger: cmp.Or(triggers[n.Source], slipway.TriggerOther), TriggeredBy: n.person(), Commit: n.commit(),
	}
	switch {
	case n.RebuiltFrom != nil && n.RebuiltFrom.Number > 0:
		b.Trigger = slipway.TriggerRetry
	case b.Trigger == slipway.TriggerPush && n.PullRequest != nil && n.PullRequest.ID != nil:
		b.Trigger = slipway.TriggerPullRequest
	}
	if b.Status != slipway.BuildStarting {
		b.StartedAt = n.StartedAt.Ptr()
	}
	if b.Status.Finished() || b.Status == slipway.BuildUnknown {
		b.FinishedAt = n.FinishedAt.Ptr()
	}
	provider.Derive(&b)
	return b
}

// person is who caused the build, or whose change it is. Buildkite has no logins.
func (n nativeBuild) person() *slipway.Person {
	for _, a := range []*account{n.Creator, n.Author} {
		if a != nil && *a != (account{}) {
			return &slipway.Person{ID: a.ID, Name: a.Name, Email: a.Email}
		}
	}
	return nil
}

var sha = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

func (n nativeBuild) commit() *slipway.Commit {
	c := &slipway.Commit{Branch: strings.TrimPrefix(n.Branch, "refs/heads/"), Message: provider.FirstLine(n.Message)}
	if sha.MatchString(n.Commit) {
		c.SHA = n.Commit
	}
	if n.Author != nil {
		c.Author = n.Author.Name
	}
	if *c == (slipway.Commit{}) {
		return nil
	}
	return c
}

const (
	maxPage   = 100
	parallel  = 2      // looks at the jobs of several builds
	maxChange = 20_000 // builds whose last change is remembered
)

// change is when a build came into a state.
type change struct {
	state string
	at    time.Time
}

// changed is when a build came into its state, as far as it says so itself: with its jobs. Buildkite dates no changes. What runs again keeps the times of before, and gets
// new jobs: the newest tells that it is newer than its former end. None of these times is after the end that is to come.
func (n nativeBuild) changed() time.Time {
	at := n.CreatedAt.Time
	times := []provider.Time{n.StartedAt}
	if n.status().Finished() {
		times = append(times, n.FinishedAt)
	} else {
		times = append(times, n.FailingAt)
		for _, j := range n.Jobs {
			times = append(times, j.CreatedAt, j.StartedAt)
		}
	}
	for _, t := range times {
		if t.After(at) {
			at = t.Time
		}
	}
	return at
}

// whole gives a build of a list with its change. One that has begun and not ended is asked for its jobs, once in each of its states.
func (c *client) whole(ctx context.Context, project string, n nativeBuild) (slipway.Build, error) {
	if n.status().Finished() || n.StartedAt.IsZero() && n.FinishedAt.IsZero() {
		return n.build(project, n.changed()), nil
	}
	key := fmt.Sprint(project, "/", n.Number)
	state := fmt.Sprint(n.words(), n.StartedAt.Unix(), n.FailingAt.Unix(), n.FinishedAt.Unix())
	c.mu.Lock()
	known, ok := c.seen[key]
	c.mu.Unlock()
	if ok && known.state == state {
		return n.build(project, known.at), nil
	}
	now, err := c.build(ctx, project, strconv.FormatInt(n.Number, 10))
	if errors.Is(err, slipway.NotFound) {
		return n.build(project, n.changed()), nil
	}
	if err != nil {
		return slipway.Build{}, err
	}
	n.Jobs = now.Jobs
	at := n.changed()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) >= maxChange {
		clear(c.seen)
	}
	c.seen[key] = change{state, at}
	return n.build(project, at), nil
}

// list reads builds by their numbers, which is the order in which they were created.
func (c *client) list(ctx context.Context, project string, o provider.ListOptions) (list provider.Page[slipway.Build], err error) {
	page, err := provider.Numbered[nativeBuild]{
		Size: maxPage,
		Key:  func(n nativeBuild) (time.Time, int64) { return time.Time{}, n.Number },
		Read: func(ctx context.Context, page, size int, _ string) (read provider.NumberedPage[nativeBuild], err error) {
			where, err := path(project, "/builds")
			if err != nil {
				return read, err
			}
			a, err := c.api.JSON(ctx, provider.Request{Path: where, Query: url.Values{
				"page": {strconv.Itoa(page)}, "per_page": {strconv.Itoa(size)}, "exclude_jobs": {"true"}, "exclude_pipeline": {"true"},
			}}, &read.Items)
			if err == nil && read.Items == nil {
				err = c.api.Strange(errors.New("there is no list of builds"))
			}
			read.More = provider.Link(a.Header, "next") != ""
			return read, err
		},
	}.List(ctx, o)
	if err != nil {
		return list, fmt.Errorf("builds of %s: %w", project, err)
	}
	list.Next, list.Items = page.Next, make([]slipway.Build, len(page.Items))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, n := range page.Items {
		g.Go(func() (err error) {
			list.Items[i], err = c.whole(ctx, project, n)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return provider.Page[slipway.Build]{}, fmt.Errorf("builds of %s: %w", project, err)
	}
	return list, nil
}

func (c *client) get(ctx context.Context, project, id string) (slipway.Build, error) {
	n, err := c.build(ctx, project, id)
	if err != nil {
		return slipway.Build{}, err
	}
	return n.build(project, n.changed()), nil
}

func (c *client) build(ctx context.Context, project, id string) (n nativeBuild, err error) {
	where, err := buildPath(project, id, "")
	if err != nil {
		return n, err
	}
	_, err = c.api.JSON(ctx, provider.Request{Path: where, Query: url.Values{"exclude_pipeline": {"true"}}}, &n)
	if err == nil && n.Number == 0 {
		err = c.api.Strange(errors.New("the build has no number"))
	}
	if err != nil {
		return n, fmt.Errorf("build %s of %s: %w", id, project, err)
	}
	return n, nil
}

func buildPath(project, id, rest string) (string, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n <= 0 {
		return "", slipway.Errorf(slipway.NotFound, "Buildkite has no build %q; its builds are numbered", id)
	}
	return path(project, fmt.Sprintf("/builds/%d%s", n, rest))
}

// put changes a build, and gives what came of it.
func (c *client) put(ctx context.Context, project, id, what string) (n nativeBuild, retried int, err error) {
	where, err := buildPath(project, id, "/"+what)
	if err != nil {
		return n, 0, err
	}
	var answer struct {
		nativeBuild
		Retried *int `json:"retried_jobs_count"`
	}
	if _, err := c.api.JSON(ctx, provider.Request{Method: http.MethodPut, Path: where}, &answer); err != nil {
		return n, 0, fmt.Errorf("%s build %s of %s: %w", what, id, project, err)
	}
	retried = 1
	if answer.Retried != nil {
		retried = *answer.Retried
	}
	return answer.nativeBuild, retried, nil
}

// retrigger runs the failed jobs of a build again, or, with the extra `all: true` and where nothing failed, makes a new build of the same commit.
func (c *client) retrigger(ctx context.Context, project, id string, extra map[string]any, _ slipway.Caller) (*slipway.Build, error) {
	n, err := c.build(ctx, project, id)
	if err != nil {
		return nil, err
	}
	if !n.status().Finished() {
		return nil, slipway.Errorf(slipway.Conflict, "build %s is %s; only one that has ended can run again", id, n.words())
	}
	all, _ := extra["all"].(bool)
	if !all && n.status() == slipway.BuildFailed {
		now, retried, err := c.put(ctx, project, id, "retry_failed_jobs")
		switch {
		case err != nil:
			return nil, err
		case retried == 0:
			return nil, slipway.Errorf(slipway.Conflict, `build %s has no job that failed and could run again; with "all": true it is built anew`, id)
		}
		return result(project, now), nil
	}
	made, _, err := c.put(ctx, project, id, "rebuild")
	if err != nil {
		return nil, err
	}
	return result(project, made), nil
}

// result is the build that an answer holds; nil where it tells nothing that could not be seen before, for then it shows in a moment.
func result(project string, n nativeBuild) *slipway.Build {
	if n.Number == 0 || n.CreatedAt.IsZero() || n.status().Finished() {
		return nil
	}
	b := n.build(project, n.changed())
	return &b
}

func (c *client) cancel(ctx context.Context, project, id string) error {
	_, _, err := c.put(ctx, project, id, "cancel")
	return err
}

// passed are the extras that Buildkite takes when it makes a build.
var passed = []string{
	"message", "author", "env", "meta_data", "clean_checkout", "ignore_pipeline_branch_filters",
	"pull_request_base_branch", "pull_request_id", "pull_request_labels", "pull_request_repository",
}

// start makes a build of a branch, or of a commit of it that the extra `commit` names. Buildkite takes any name for a branch, and its agents find out.
func (c *client) start(ctx context.Context, project string, o provider.StartOptions, _ slipway.Caller) (*slipway.Build, error) {
	commit, _ := o.Extra["commit"].(string)
	branch, _ := o.Extra["branch"].(string)
	switch {
	case o.Pipeline != "" && !strings.EqualFold(o.Pipeline, project) && !strings.HasSuffix(project, "/"+strings.ToLower(o.Pipeline)):
		return nil, slipway.Errorf(slipway.Invalid, "pipeline %q is not %s; name it as the project", o.Pipeline, project)
	case sha.MatchString(o.Ref) && branch == "":
		return nil, slipway.Errorf(slipway.Invalid, "Buildkite wants to know the branch of a commit; name the branch as ref, and the commit as commit")
	case sha.MatchString(o.Ref):
		commit = o.Ref
	default:
		branch = o.Ref
	}
	commit = cmp.Or(commit, "HEAD")
	for _, name := range []string{branch, commit} {
		if err := provider.CheckRef(name); err != nil {
			return nil, err
		}
	}
	where, err := path(project, "/builds")
	if err != nil {
		return nil, err
	}
	body := map[string]any{"branch": branch, "commit": commit}
	for _, name := range passed {
		if v, ok := o.Extra[name]; ok {
			body[name] = v
		}
	}
	var made nativeBuild
	if _, err := c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: where, Body: body}, &made); err != nil {
		return nil, fmt.Errorf("start a build of %s: %w", project, err)
	}
	return result(project, made), nil
}
