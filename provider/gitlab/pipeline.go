package gitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// pipeline is GitLab's own shape. It never leaves this package. A list leaves out who, when it began and ended, and how.
type pipeline struct {
	ID         int64         `json:"id"`
	IID        int64         `json:"iid"`
	Name       string        `json:"name"`
	SHA        string        `json:"sha"`
	Ref        string        `json:"ref"` // a branch, a tag, or refs/merge-requests/N/head
	Status     string        `json:"status"`
	Source     string        `json:"source"`
	WebURL     string        `json:"web_url"`
	CreatedAt  provider.Time `json:"created_at"`
	UpdatedAt  provider.Time `json:"updated_at"`
	StartedAt  provider.Time `json:"started_at"`
	FinishedAt provider.Time `json:"finished_at"` // kept from before when it runs again
	User       *account      `json:"user"`
	Detailed   struct {
		Label string `json:"label"`
	} `json:"detailed_status"`
}

type account struct {
	Username string `json:"username"`
	Name     string `json:"name"`
}

// commit is what people want to know of a commit, which no pipeline says.
type commit struct {
	Title  string `json:"title"`
	Author string `json:"author_name"`
}

// statuses is GitLab's words in ours. What waits for a person has no fixed one.
var statuses = map[string]slipway.BuildStatus{
	"created": slipway.BuildStarting, "waiting_for_resource": slipway.BuildStarting, "preparing": slipway.BuildStarting,
	"waiting_for_callback": slipway.BuildStarting, "pending": slipway.BuildStarting, "scheduled": slipway.BuildStarting,
	"running": slipway.BuildRunning, "canceling": slipway.BuildRunning,
	"success": slipway.BuildSucceeded, "failed": slipway.BuildFailed, "canceled": slipway.BuildCanceled, "skipped": slipway.BuildSkipped,
}

// manual is the status of what waits for a person.
const manual = "manual"

var triggers = map[string]slipway.BuildTrigger{
	"push": slipway.TriggerPush, "merge_request_event": slipway.TriggerPullRequest, "external_pull_request_event": slipway.TriggerPullRequest,
	"schedule": slipway.TriggerSchedule, "pipeline_execution_policy_schedule": slipway.TriggerSchedule,
	"web": slipway.TriggerManual, "webide": slipway.TriggerManual, "chat": slipway.TriggerManual,
	"api": slipway.TriggerAPI, "trigger": slipway.TriggerAPI,
}

func (p pipeline) status() slipway.BuildStatus {
	switch {
	case p.Status == manual && p.StartedAt.IsZero():
		return slipway.BuildStarting
	case p.Status == manual:
		return slipway.BuildRunning
	}
	return cmp.Or(statuses[p.Status], slipway.BuildUnknown)
}

func (p pipeline) build(project string, of commit) slipway.Build {
	b := slipway.Build{
		ID: strconv.FormatInt(p.ID, 10), Number: p.IID, Attempt: 1, Pipeline: slipway.Pipeline{ID: project, Name: cmp.Or(p.Name, project)},
		Status: p.status(), Detail: p.words(), Blocked: p.Status == manual,
		CreatedAt: p.CreatedAt.Time, UpdatedAt: p.UpdatedAt.Ptr(), URL: p.WebURL,
		Trigger: cmp.Or(triggers[p.Source], slipway.TriggerOther), Commit: p.commit(of),
	}
	if p.User != nil && p.User.Username != "" {
		b.TriggeredBy = &slipway.Person{ID: p.User.Username, Name: p.User.Name}
	}
	if b.Status != slipway.BuildStarting {
		b.StartedAt = p.StartedAt.Ptr()
	}
	if b.Status.Finished() || b.Status == slipway.BuildUnknown {
		b.FinishedAt = p.FinishedAt.Ptr()
	}
	provider.Derive(&b)
	return b
}

// words are GitLab's for the status; a success that has warnings says so.
func (p pipeline) words() string {
	if p.Status == "success" && strings.Contains(p.Detailed.Label, "warning") {
		return "success with warnings"
	}
	return cmp.Or(p.Status, "none")
}

func (p pipeline) commit(of commit) *slipway.Commit {
	if p.SHA == "" {
		return nil
	}
	c := &slipway.Commit{SHA: p.SHA, Branch: strings.TrimPrefix(p.Ref, "refs/heads/"), Message: provider.FirstLine(of.Title), Author: of.Author}
	for _, mark := range []string{"/-/pipelines/", "/pipelines/"} { // the second before GitLab 12
		if home, _, ok := strings.Cut(p.WebURL, mark); ok {
			c.URL = home + strings.TrimSuffix(mark, "pipelines/") + "commit/" + p.SHA
			break
		}
	}
	return c
}

const (
	maxPage     = 100
	maxJobPages = 50     // more jobs of one pipeline are not looked at
	maxCommits  = 10_000 // remembered
)

// listed are the pipelines or deployments of a project, by their ids, which is the order in which they were created.
func listed[T any](c *client, project, what string, id func(T) int64) provider.Numbered[T] {
	return provider.Numbered[T]{
		Size: maxPage,
		Key:  func(item T) (time.Time, int64) { return time.Time{}, id(item) },
		Read: func(ctx context.Context, page, size int, validator string) (n provider.NumberedPage[T], err error) {
			where, err := path(project, "/"+what)
			if err != nil {
				return n, err
			}
			a, err := c.api.JSON(ctx, provider.Request{Path: where, Validator: validator, Query: url.Values{
				"page": {strconv.Itoa(page)}, "per_page": {strconv.Itoa(size)}, "order_by": {"id"}, "sort": {"desc"},
			}}, &n.Items)
			if err == nil && !a.NotModified && n.Items == nil {
				err = c.api.Strange(fmt.Errorf("there is no list of %s", what))
			}
			if err != nil {
				return n, fmt.Errorf("%s of %s: %w", what, project, err)
			}
			n.More, n.Validator, n.NotModified = more(a), a.Validator, a.NotModified
			return n, nil
		},
	}
}

// more says whether an answer is a page that another follows.
func more(a provider.Answer) bool {
	return a.Header.Get("X-Next-Page") != "" || provider.Link(a.Header, "next") != ""
}

// list shows pipelines without what GitLab's list leaves out.
func (c *client) list(ctx context.Context, project string, o provider.ListOptions) (provider.Page[slipway.Build], error) {
	page, err := listed(c, project, "pipelines", func(p pipeline) int64 { return p.ID }).List(ctx, o)
	if err != nil {
		return provider.Page[slipway.Build]{}, err
	}
	list := provider.MapPage(page, func(p pipeline) slipway.Build { return p.build(project, commit{}) })
	list.Complete = func(ctx context.Context, b slipway.Build) (slipway.Build, error) { return c.get(ctx, project, b.ID) }
	return list, nil
}

func (c *client) get(ctx context.Context, project, id string) (slipway.Build, error) {
	p, err := c.pipeline(ctx, project, id)
	if err != nil {
		return slipway.Build{}, err
	}
	of, err := c.commit(ctx, project, p.SHA)
	return p.build(project, of), err
}

func (c *client) pipeline(ctx context.Context, project, id string) (p pipeline, err error) {
	where, err := pipelinePath(project, id, "")
	if err != nil {
		return p, err
	}
	_, err = c.api.JSON(ctx, provider.Request{Path: where}, &p)
	if err == nil && p.ID == 0 {
		err = c.api.Strange(errNoID)
	}
	if err != nil {
		return p, fmt.Errorf("pipeline %s of %s: %w", id, project, err)
	}
	return p, nil
}

func pipelinePath(project, id, rest string) (string, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n <= 0 {
		return "", slipway.Errorf(slipway.NotFound, "GitLab has no pipeline %q; its ids are numbers", id)
	}
	return path(project, fmt.Sprintf("/pipelines/%d%s", n, rest))
}

// commit asks for a commit, once. A token that may see pipelines may be kept from the repository, and a commit may be gone: then there is nothing to tell of it.
func (c *client) commit(ctx context.Context, project, sha string) (of commit, err error) {
	if sha == "" {
		return of, nil
	}
	key := project + " " + sha
	c.mu.Lock()
	of, known := c.commits[key]
	c.mu.Unlock()
	if known {
		return of, nil
	}
	where, err := path(project, "/repository/commits/"+url.PathEscape(sha))
	if err != nil {
		return of, err
	}
	_, err = c.api.JSON(ctx, provider.Request{Path: where, Query: url.Values{"stats": {"false"}}}, &of)
	if err != nil && !errors.Is(err, slipway.NotFound) && !errors.Is(err, slipway.Forbidden) {
		return of, fmt.Errorf("commit %s of %s: %w", sha, project, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.commits) >= maxCommits {
		clear(c.commits)
	}
	c.commits[key] = of
	return of, nil
}

// job is one job of a pipeline.
type job struct {
	ID        int64         `json:"id"`
	Name      string        `json:"name"`
	Status    string        `json:"status"`
	Reason    string        `json:"failure_reason"`
	StartedAt provider.Time `json:"started_at"`
}

// jobs are the latest of each name, oldest first.
func (c *client) jobs(ctx context.Context, project, id string) ([]job, error) {
	where, err := pipelinePath(project, id, "/jobs")
	if err != nil {
		return nil, err
	}
	var all []job
	for page := 1; ; page++ {
		var found []job
		a, err := c.api.JSON(ctx, provider.Request{Path: where, Query: url.Values{"page": {strconv.Itoa(page)}, "per_page": {strconv.Itoa(maxPage)}}}, &found)
		if err != nil {
			return nil, fmt.Errorf("jobs of pipeline %s of %s: %w", id, project, err)
		}
		all = append(all, found...)
		if !more(a) || len(found) == 0 || page == maxJobPages {
			slices.SortFunc(all, func(a, b job) int { return cmp.Compare(a.ID, b.ID) })
			return all, nil
		}
	}
}

// retrigger runs the failed and canceled jobs of a pipeline again. With the extra `all: true`, and where nothing failed, it makes a new pipeline of the same branch or
// tag: GitLab has no way to run all of one again, and its jobs one by one would set off deployments that wait for a person.
func (c *client) retrigger(ctx context.Context, project, id string, extra map[string]any, by slipway.Caller) (*slipway.Build, error) {
	p, err := c.pipeline(ctx, project, id)
	if err != nil {
		return nil, err
	}
	if !p.status().Finished() {
		return nil, slipway.Errorf(slipway.Conflict, "pipeline %s is %s; only one that has ended can run again", id, p.words())
	}
	if all, _ := extra["all"].(bool); all || p.Status == "success" || p.Status == "skipped" {
		if strings.HasPrefix(p.Ref, "refs/") {
			return nil, slipway.Errorf(slipway.Unsupported, "pipeline %s belongs to a merge request, and GitLab makes a new one only there; what failed of a pipeline can be run again", id)
		}
		return c.start(ctx, project, provider.StartOptions{Ref: p.Ref, Extra: extra}, by)
	}
	where, err := pipelinePath(project, id, "/retry")
	if err != nil {
		return nil, err
	}
	var now pipeline
	if _, err := c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: where}, &now); err != nil {
		return nil, fmt.Errorf("pipeline %s of %s again: %w", id, project, err)
	}
	if now.ID == p.ID && (now.Status != p.Status || !now.UpdatedAt.Equal(p.UpdatedAt.Time)) {
		return c.whole(ctx, project, now), nil
	}
	// GitLab says the same of a pipeline in which nothing can run again, and of one that it has not begun with: its jobs tell which it is.
	jobs, err := c.jobs(ctx, project, id)
	if err == nil && !slices.ContainsFunc(jobs, func(j job) bool { return j.Status == manual || !statuses[j.Status].Finished() }) {
		return nil, slipway.Errorf(slipway.Conflict, `pipeline %s has no job that failed and could run again; with "all": true a new pipeline is made`, id)
	}
	return nil, nil // it shows in a moment
}

// whole is a pipeline that an answer held, with its commit; without where GitLab does not tell it now.
func (c *client) whole(ctx context.Context, project string, p pipeline) *slipway.Build {
	of, err := c.commit(ctx, project, p.SHA)
	if err != nil {
		of = commit{}
	}
	b := p.build(project, of)
	return &b
}

func (c *client) cancel(ctx context.Context, project, id string) error {
	p, err := c.pipeline(ctx, project, id) // GitLab accepts to cancel what has ended
	if err != nil {
		return err
	}
	if p.status().Finished() {
		return slipway.Errorf(slipway.Conflict, "pipeline %s has ended: %s", id, p.words())
	}
	where, err := pipelinePath(project, id, "/cancel")
	if err != nil {
		return err
	}
	if _, err := c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: where}, nil); err != nil {
		return fmt.Errorf("cancel pipeline %s of %s: %w", id, project, err)
	}
	return nil
}

// start makes a pipeline of a branch or tag. The extra `inputs` holds its inputs, as the pipeline declares them, `variables` its variables.
func (c *client) start(ctx context.Context, project string, o provider.StartOptions, _ slipway.Caller) (*slipway.Build, error) {
	if o.Pipeline != "" && !strings.EqualFold(o.Pipeline, project) {
		return nil, slipway.Errorf(slipway.Invalid, "a project at GitLab has one pipeline; leave pipeline out")
	}
	where, err := path(project, "/pipeline")
	if err != nil {
		return nil, err
	}
	body := map[string]any{"ref": o.Ref}
	if given := o.Extra["inputs"]; given != nil {
		inputs, ok := given.(map[string]any)
		if !ok {
			return nil, slipway.Errorf(slipway.Invalid, "inputs must be a map of names and values")
		}
		body["inputs"] = inputs
	}
	if given := o.Extra["variables"]; given != nil {
		if body["variables"], err = variables(given); err != nil {
			return nil, err
		}
	}
	var made pipeline
	_, err = c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: where, Body: body}, &made)
	if err != nil {
		return nil, fmt.Errorf("start a pipeline of %s: %w", project, err)
	}
	if made.ID == 0 {
		return nil, nil // it shows in a moment
	}
	return c.whole(ctx, project, made), nil
}

type variable struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func variables(given any) ([]variable, error) {
	if _, ok := given.(map[string]any); !ok {
		return nil, slipway.Errorf(slipway.Invalid, "variables must be a map of names and values")
	}
	texts, err := provider.Inputs(given)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "variables must be texts, numbers, true or false").WithCause(err)
	}
	list := []variable{}
	for key, value := range texts {
		list = append(list, variable{key, value})
	}
	slices.SortFunc(list, func(a, b variable) int { return strings.Compare(a.Key, b.Key) })
	return list, nil
}
