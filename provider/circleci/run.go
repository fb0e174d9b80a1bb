package circleci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// pipeline is CircleCI's own shape, in the API and in webhooks. It never leaves this package.
type pipeline struct {
	ID          string        `json:"id"`
	ProjectSlug string        `json:"project_slug"`
	Number      int64         `json:"number"`
	State       string        `json:"state"` // of its configuration; that of what runs is the workflows'
	CreatedAt   provider.Time `json:"created_at"`
	UpdatedAt   provider.Time `json:"updated_at"`
	Errors      []struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"errors"`
	Trigger struct {
		Type  string `json:"type"`
		Actor struct {
			Login string `json:"login"` // "" where an app of the host began it
		} `json:"actor"`
	} `json:"trigger"`
	VCS *struct { // absent where an app of the host began it
		Provider string `json:"provider_name"`
		Origin   string `json:"origin_repository_url"`
		Revision string `json:"revision"`
		Branch   string `json:"branch"`
		Tag      string `json:"tag"`
		Commit   *struct {
			Subject string `json:"subject"`
			Author  *struct {
				Name  string `json:"name"`
				Email string `json:"email"`
			} `json:"author"` // in webhooks only
		} `json:"commit"`
	} `json:"vcs"`
	Parameters struct {
		Git struct {
			SHA    string `json:"checkout_sha"`
			Branch string `json:"branch"`
			Tag    string `json:"tag"`
		} `json:"git"`
		GitLab    host `json:"gitlab"`
		GitHubApp host `json:"github_app"`
		CircleCI  struct {
			Event string `json:"event_type"`
		} `json:"circleci"`
	} `json:"trigger_parameters"`
}

// host is what the host of the code said when it began a pipeline.
type host struct {
	Login       string `json:"user_username"`
	Name        string `json:"user_name"`
	SHA         string `json:"commit_sha"`
	Branch      string `json:"branch"`
	Title       string `json:"commit_title"`
	Message     string `json:"commit_message"`
	Author      string `json:"commit_author_name"`
	AuthorEmail string `json:"commit_author_email"`
	WebURL      string `json:"web_url"`
}

// workflow is CircleCI's own shape of what a build is.
type workflow struct {
	ID          string        `json:"id"`
	Name        string        `json:"name"`
	Status      string        `json:"status"`
	PipelineID  string        `json:"pipeline_id"`
	ProjectSlug string        `json:"project_slug"`
	StartedBy   string        `json:"started_by"` // a user's id
	Tag         string        `json:"tag"`        // "setup" for one that makes the configuration of the others
	CreatedAt   provider.Time `json:"created_at"`
	StoppedAt   provider.Time `json:"stopped_at"`
	URL         string        `json:"url"` // in webhooks only
}

// statuses is CircleCI's words in ours: those of a workflow, and those of a pipeline that has none.
var statuses = map[string]slipway.BuildStatus{
	"running": slipway.BuildRunning, "failing": slipway.BuildRunning, onHold: slipway.BuildRunning,
	"success": slipway.BuildSucceeded,
	"failed":  slipway.BuildFailed, "error": slipway.BuildFailed, "unauthorized": slipway.BuildFailed,
	"canceled": slipway.BuildCanceled,
	"not_run":  slipway.BuildSkipped,

	"pending": slipway.BuildStarting, "setup-pending": slipway.BuildStarting, "setup": slipway.BuildStarting, created: slipway.BuildStarting,
	errored: slipway.BuildFailed,
}

const (
	onHold  = "on_hold" // for somebody to approve it
	errored = "errored"
	created = "created"
)

var triggers = map[string]slipway.BuildTrigger{
	"explicit": slipway.TriggerManual, "api": slipway.TriggerAPI, "schedule": slipway.TriggerSchedule, "scheduled_pipeline": slipway.TriggerSchedule,
	"webhook": slipway.TriggerPush, "push": slipway.TriggerPush, "pull_request": slipway.TriggerPullRequest, "merge_request": slipway.TriggerPullRequest,
}

func (p pipeline) trigger() slipway.BuildTrigger {
	t := cmp.Or(triggers[p.Trigger.Type], triggers[p.Parameters.CircleCI.Event], slipway.TriggerOther)
	if t == slipway.TriggerPush && p.VCS != nil && strings.HasPrefix(p.VCS.Branch, "pull/") { // of a fork
		t = slipway.TriggerPullRequest
	}
	return t
}

// place says where among the workflows of a pipeline one is, and what is known of it besides.
type place struct {
	attempt int             // of those of its name
	by      *slipway.Person // who began it
	knew    time.Duration   // of two reports of one state, the later in this order counts
}

// What knows how much of a state. A notification does not say who ran a workflow again, nor whether somebody did; when the API has said it, the notification adds
// nothing. The difference is below what CircleCI's own clock tells.
const (
	toldByWebhook = 1 * time.Microsecond
	toldByAPI     = 2 * time.Microsecond
)

func (c *client) build(w workflow, p pipeline, at place) slipway.Build {
	b := slipway.Build{
		ID: w.ID, Number: p.Number, Attempt: max(at.attempt, 1), Pipeline: slipway.Pipeline{ID: w.Name, Name: w.Name},
		Status: cmp.Or(statuses[w.Status], slipway.BuildUnknown), Detail: cmp.Or(w.Status, "none"), Blocked: w.Status == onHold,
		CreatedAt: cmp.Or(w.CreatedAt, p.CreatedAt).Time, StartedAt: cmp.Or(w.CreatedAt, p.CreatedAt).Ptr(), URL: c.link(p, w),
		Trigger: p.trigger(), TriggeredBy: p.person(at.by), Commit: p.commit(),
	}
	changed := b.CreatedAt
	if b.Status.Finished() || b.Status == slipway.BuildUnknown && !w.StoppedAt.IsZero() {
		b.FinishedAt = w.StoppedAt.Ptr()
		if w.StoppedAt.After(changed) {
			changed = w.StoppedAt.Time
		}
		changed = changed.Add(at.knew)
	}
	b.UpdatedAt = &changed
	if at.attempt > 1 {
		b.Trigger, b.TriggeredBy = slipway.TriggerRetry, at.by
	}
	provider.Derive(&b)
	return b
}

// bare is the build that a pipeline without workflows is: it waits for its configuration to be read, or that was faulty, or says nothing of its branch.
func (c *client) bare(p pipeline) slipway.Build {
	b := slipway.Build{
		ID: p.ID, Number: p.Number, Attempt: 1, Pipeline: slipway.Pipeline{ID: "pipeline", Name: "pipeline"},
		Status: cmp.Or(statuses[p.State], slipway.BuildUnknown), Detail: cmp.Or(p.State, "none"),
		CreatedAt: p.CreatedAt.Time, UpdatedAt: cmp.Or(p.UpdatedAt, p.CreatedAt).Ptr(), URL: c.link(p, workflow{}),
		Trigger: p.trigger(), TriggeredBy: p.person(nil), Commit: p.commit(),
	}
	if p.State == errored {
		b.StartedAt, b.FinishedAt = p.CreatedAt.Ptr(), cmp.Or(p.UpdatedAt, p.CreatedAt).Ptr()
		if len(p.Errors) > 0 {
			b.Detail += ": " + provider.Clip(provider.FirstLine(p.Errors[0].Message)) // its log has the rest
		}
	}
	if p.empty(c.now()) {
		b.Status, b.Detail, b.FinishedAt = slipway.BuildSkipped, created+": no workflow", cmp.Or(p.UpdatedAt, p.CreatedAt).Ptr()
	}
	provider.Derive(&b)
	return b
}

func (c *client) link(p pipeline, w workflow) string {
	if strings.HasPrefix(w.URL, "https://") || strings.HasPrefix(w.URL, "http://") {
		return w.URL
	}
	slug, ok := canonical(cmp.Or(p.ProjectSlug, w.ProjectSlug))
	if !ok {
		return c.web
	}
	link := fmt.Sprintf("%s/pipelines/%s/%d", c.web, slug, p.Number)
	if w.ID != "" {
		link += "/workflows/" + url.PathEscape(w.ID)
	}
	return link
}

// told is what the host of the code said, if anything.
func (p pipeline) told() host {
	if p.Parameters.GitLab != (host{}) {
		return p.Parameters.GitLab
	}
	return p.Parameters.GitHubApp
}

// person is who caused a pipeline, as far as it says so itself; by is whom CircleCI names besides. What no clock began is at least its author's.
func (p pipeline) person(by *slipway.Person) *slipway.Person {
	t := p.told()
	switch {
	case p.Trigger.Actor.Login != "":
		return &slipway.Person{ID: p.Trigger.Actor.Login}
	case t.Login != "":
		return &slipway.Person{ID: t.Login, Name: t.Name}
	case by != nil:
		return by
	}
	if trigger := p.trigger(); trigger != slipway.TriggerPush && trigger != slipway.TriggerPullRequest {
		return nil
	}
	author := slipway.Person{Name: t.Author, Email: t.AuthorEmail}
	if p.VCS != nil && p.VCS.Commit != nil && p.VCS.Commit.Author != nil {
		author = slipway.Person{Name: p.VCS.Commit.Author.Name, Email: p.VCS.Commit.Author.Email}
	}
	if author == (slipway.Person{}) {
		return nil
	}
	return &author
}

func (p pipeline) commit() *slipway.Commit {
	t, git := p.told(), p.Parameters.Git
	commit := slipway.Commit{
		SHA: cmp.Or(git.SHA, t.SHA), Branch: cmp.Or(git.Branch, t.Branch, git.Tag), Message: provider.FirstLine(cmp.Or(t.Title, t.Message)), Author: t.Author,
	}
	if page := provider.RepositoryAddress(t.WebURL); page != "" && commit.SHA != "" {
		commit.URL = page + "/-/commit/" + commit.SHA // only GitLab gives its address
	}
	if v := p.VCS; v != nil && v.Revision != "" {
		commit = slipway.Commit{SHA: v.Revision, Branch: cmp.Or(v.Branch, v.Tag)}
		if v.Commit != nil {
			commit.Message = provider.FirstLine(v.Commit.Subject)
			if v.Commit.Author != nil {
				commit.Author = v.Commit.Author.Name
			}
		}
		if page := provider.RepositoryAddress(v.Origin); page != "" {
			commit.URL = page + "/commit/" + v.Revision
			if strings.EqualFold(v.Provider, "bitbucket") {
				commit.URL = page + "/commits/" + v.Revision
			}
		}
	}
	if commit.SHA == "" {
		return nil
	}
	commit.Branch = strings.TrimPrefix(strings.TrimPrefix(commit.Branch, "refs/heads/"), "refs/tags/")
	return &commit
}

// family is the workflows of a pipeline, newest first, as they were when it was asked for them.
type family struct {
	workflows []workflow
	asked     time.Time
	changed   time.Time // of the pipeline, by its own word
}

// settled says whether all that a pipeline will run by itself has run.
func (f family) settled(p pipeline, now time.Time) bool {
	if len(f.workflows) == 0 {
		return p.State == errored || p.empty(now)
	}
	return !slices.ContainsFunc(f.workflows, func(w workflow) bool { return !statuses[w.Status].Finished() })
}

// emptyAfter is how long a pipeline whose configuration was read may take until its workflows show.
const emptyAfter = 15 * time.Minute

// empty says that a pipeline without workflows will have none: those of its configuration are not for its branch.
func (p pipeline) empty(now time.Time) bool {
	return p.State == created && now.Sub(cmp.Or(p.UpdatedAt, p.CreatedAt).Time) > emptyAfter
}

// stands says whether it may be believed that a pipeline is as it was. A workflow that somebody runs again is a new one of an old pipeline, of which a list says nothing. So
// what ended is asked for again at times, the longer ago it was the rarer.
func (f family) stands(p pipeline, now time.Time) bool {
	if !f.settled(p, now) || !f.changed.Equal(p.UpdatedAt.Time) {
		return false
	}
	last := cmp.Or(p.UpdatedAt, p.CreatedAt).Time
	for _, w := range f.workflows {
		for _, at := range []time.Time{w.CreatedAt.Time, w.StoppedAt.Time} {
			if at.After(last) {
				last = at
			}
		}
	}
	return now.Sub(f.asked) < min(f.asked.Sub(last)/10, time.Hour)
}

func (f family) attempt(w workflow) int {
	n := 0
	for _, other := range f.workflows {
		if other.Name == w.Name && other.Tag == w.Tag && !other.CreatedAt.After(w.CreatedAt.Time) {
			n++
		}
	}
	return n
}

// family asks for the workflows of a pipeline, unless it is known well enough what they are.
func (c *client) family(ctx context.Context, p pipeline) (family, error) {
	c.mu.Lock()
	f, known := c.families[p.ID]
	c.mu.Unlock()
	if known && f.stands(p, c.now()) {
		return f, nil
	}
	return c.familyNow(ctx, p)
}

func (c *client) familyNow(ctx context.Context, p pipeline) (f family, err error) {
	f.asked, f.changed = c.now(), p.UpdatedAt.Time
	token := ""
	for page := 1; ; page++ {
		var found struct {
			Items []workflow `json:"items"`
			Next  string     `json:"next_page_token"`
		}
		_, err := c.api.JSON(ctx, provider.Request{Path: v2 + "/pipeline/" + url.PathEscape(p.ID) + "/workflow", Query: pageQuery(token)}, &found)
		if errors.Is(err, slipway.NotFound) {
			return f, nil // it is not known everywhere yet, or not any more
		}
		if err == nil && found.Items == nil {
			err = c.api.Strange(errors.New("there are no items"))
		}
		if err != nil {
			return f, fmt.Errorf("workflows of pipeline %s: %w", p.ID, err)
		}
		f.workflows = append(f.workflows, found.Items...)
		if found.Next == "" || found.Next == token || page == maxFamilyPages {
			break
		}
		token = found.Next
	}
	f.workflows = slices.DeleteFunc(f.workflows, func(w workflow) bool { return w.ID == "" })
	slices.SortFunc(f.workflows, func(a, b workflow) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt.Time), cmp.Compare(b.ID, a.ID))
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.families) >= maxFamilies {
		clear(c.families)
	}
	c.families[p.ID] = f
	return f, nil
}

func pageQuery(token string) url.Values {
	if token == "" {
		return nil
	}
	return url.Values{"page-token": {token}}
}

// builds makes the builds of a pipeline, newest first.
func (c *client) builds(ctx context.Context, p pipeline, f family) ([]slipway.Build, error) {
	if len(f.workflows) == 0 {
		return []slipway.Build{c.bare(p)}, nil
	}
	list := make([]slipway.Build, len(f.workflows))
	for i, w := range f.workflows {
		var err error
		if list[i], err = c.member(ctx, w, p, f); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// member makes the build of one workflow of a pipeline. Whoever ran it again is not who began the pipeline.
func (c *client) member(ctx context.Context, w workflow, p pipeline, f family) (slipway.Build, error) {
	at := place{attempt: f.attempt(w), knew: toldByAPI}
	if at.attempt > 1 || p.Trigger.Actor.Login == "" && p.told().Login == "" {
		var err error
		if at.by, err = c.person(ctx, w.StartedBy); err != nil {
			return slipway.Build{}, err
		}
	}
	return c.build(w, p, at), nil
}

const (
	parallel       = 4  // requests for the workflows of several pipelines
	maxFamilyPages = 25 // of workflows of one pipeline, or of jobs of one workflow, that are looked at
)

// list reads one page of CircleCI's pipelines and the workflows of each. A workflow that was run again stands with its pipeline.
func (c *client) list(ctx context.Context, project string, o provider.ListOptions) (list provider.Page[slipway.Build], err error) {
	from, err := readMark(o.Cursor)
	if err != nil {
		return list, err
	}
	where, err := path(project, "/pipeline")
	if err != nil {
		return list, err
	}
	var found struct {
		Items []pipeline `json:"items"`
		Next  string     `json:"next_page_token"`
	}
	_, err = c.api.JSON(ctx, provider.Request{Path: where, Query: pageQuery(from.token)}, &found)
	if err == nil && found.Items == nil {
		err = c.api.Strange(errors.New("there are no items"))
	}
	if err != nil {
		return list, fmt.Errorf("pipelines of %s: %w", project, err)
	}
	all := make([][]slipway.Build, len(found.Items))
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, p := range found.Items {
		if p.ID == "" || p.CreatedAt.IsZero() || p.Number > from.number && from.id != "" {
			continue
		}
		g.Go(func() error {
			f, err := c.family(within, p)
			if err == nil {
				all[i], err = c.builds(within, p, f)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return list, fmt.Errorf("pipelines of %s: %w", project, err)
	}
	next := from
	next.token = found.Next
	for _, b := range slices.Concat(all...) {
		if !from.before(b) {
			continue
		}
		if o.Limit > 0 && len(list.Items) == o.Limit {
			next.token = from.token // the rest of this page comes with the next
			list.Next = next.String()
			break
		}
		list.Items = append(list.Items, b)
		next.number, next.at, next.id = b.Number, b.CreatedAt.UnixMicro(), b.ID
	}
	if list.Next == "" && found.Next != "" && found.Next != from.token {
		list.Next = next.String()
	}
	slices.SortStableFunc(list.Items, func(a, b slipway.Build) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return list, nil
}

// mark is a cursor: CircleCI's own of a page, and the last build that was seen, because a page may be read in parts while new pipelines come before it.
type mark struct {
	number int64
	at     int64
	id     string
	token  string
}

func (m mark) String() string { return fmt.Sprintf("%d %d %s %s", m.number, m.at, m.id, m.token) }

// before says whether a build comes after all that was seen.
func (m mark) before(b slipway.Build) bool {
	return m.id == "" || cmp.Or(cmp.Compare(b.Number, m.number), cmp.Compare(b.CreatedAt.UnixMicro(), m.at), cmp.Compare(b.ID, m.id)) < 0
}

func readMark(cursor string) (m mark, err error) {
	if cursor == "" {
		return m, nil
	}
	parts := strings.SplitN(cursor, " ", 4)
	if len(parts) == 4 {
		var err1, err2 error
		m.number, err1 = strconv.ParseInt(parts[0], 10, 64)
		m.at, err2 = strconv.ParseInt(parts[1], 10, 64)
		m.id, m.token = parts[2], parts[3]
		if err1 == nil && err2 == nil {
			return m, nil
		}
	}
	return m, slipway.Errorf(slipway.Invalid, "this is no cursor of this provider; read the list from its start")
}

func (c *client) get(ctx context.Context, project, id string) (slipway.Build, error) {
	w, p, err := c.find(ctx, project, id)
	if err != nil {
		return slipway.Build{}, err
	}
	f, err := c.familyNow(ctx, p)
	if err != nil {
		return slipway.Build{}, err
	}
	if w.ID == "" && len(f.workflows) > 0 {
		return slipway.Build{}, provider.Replaced
	}
	if w.ID == "" {
		return c.bare(p), nil
	}
	return c.member(ctx, w, p, f)
}

// find gives what an id names: a workflow and its pipeline, or a pipeline alone.
func (c *client) find(ctx context.Context, project, id string) (w workflow, p pipeline, err error) {
	none := slipway.Errorf(slipway.NotFound, "CircleCI has no workflow %q in %s", id, project)
	if _, ok := canonical(project); !ok || !isID(id) {
		return w, p, none
	}
	_, err = c.api.JSON(ctx, provider.Request{Path: v2 + "/workflow/" + id}, &w)
	of := w.PipelineID
	if errors.Is(err, slipway.NotFound) {
		w, of, err = workflow{}, id, nil
	} else if err == nil && (w.ID == "" || !isID(of)) {
		err = c.api.Strange(errors.New("the workflow has no id or no pipeline"))
	}
	if err != nil {
		return w, p, fmt.Errorf("workflow %s of %s: %w", id, project, err)
	}
	if p, err = c.pipeline(ctx, of, w.ID != ""); err != nil {
		return w, p, fmt.Errorf("pipeline %s of %s: %w", of, project, err)
	}
	if !same(p.ProjectSlug, project) {
		return w, p, none
	}
	return w, p, nil
}

// pipeline asks for a pipeline. What it says of itself is as old as it may be where it has workflows: what began it does not change.
func (c *client) pipeline(ctx context.Context, id string, old bool) (p pipeline, err error) {
	c.mu.Lock()
	p, known := c.origins[id]
	c.mu.Unlock()
	if known && old {
		return p, nil
	}
	p = pipeline{}
	_, err = c.api.JSON(ctx, provider.Request{Path: v2 + "/pipeline/" + id}, &p)
	if err == nil && p.ID == "" {
		err = c.api.Strange(errors.New("the pipeline has no id"))
	}
	if err != nil {
		return p, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.origins) >= maxFamilies {
		clear(c.origins)
	}
	c.origins[id] = p
	return p, nil
}

// retrigger runs the failed jobs of a workflow again and what follows from them, or, with the extra `all: true` and where nothing failed, all of it. `jobs` names jobs by
// their ids instead; `sparse_tree` and `enable_ssh` go with them. A pipeline that never got a workflow is begun anew.
func (c *client) retrigger(ctx context.Context, project, id string, extra map[string]any, by slipway.Caller) (*slipway.Build, error) {
	w, p, err := c.find(ctx, project, id)
	if err != nil {
		return nil, err
	}
	before, err := c.familyNow(ctx, p)
	if err != nil {
		return nil, err
	}
	if w.ID == "" {
		return c.again(ctx, project, p, before, extra, by)
	}
	if s := statuses[w.Status]; s == slipway.BuildRunning || s == slipway.BuildStarting {
		return nil, slipway.Errorf(slipway.Conflict, "workflow %s is %s; only one that has ended can run again", id, w.Status)
	}
	body := map[string]any{}
	for _, key := range []string{"jobs", "sparse_tree", "enable_ssh"} {
		if v, given := extra[key]; given {
			body[key] = v
		}
	}
	all, _ := extra["all"].(bool)
	if body["jobs"] == nil && !all && w.Status != "success" {
		body["from_failed"] = true
	}
	made, err := c.rerun(ctx, id, body)
	if errors.Is(err, slipway.Invalid) && body["from_failed"] == true && w.Status != "failed" {
		delete(body, "from_failed") // nothing of it failed: it was canceled, or never began
		made, err = c.rerun(ctx, id, body)
	}
	if e, ok := errors.AsType[*slipway.Error](err); ok && e.Code == slipway.Invalid && body["jobs"] == nil {
		err = slipway.Errorf(slipway.Conflict, "%s", e.Message).WithCause(e.Cause) // it is not the request that is at fault
	}
	if err != nil {
		return nil, fmt.Errorf("workflow %s of %s again: %w", id, project, err)
	}
	if made == "" {
		made = c.newOf(ctx, p, w, before)
	}
	if made == "" {
		return nil, nil // it was accepted, and shows in a moment
	}
	b, err := c.get(ctx, project, made)
	if err != nil {
		return nil, nil
	}
	return &b, nil
}

func (c *client) rerun(ctx context.Context, id string, body map[string]any) (string, error) {
	var made struct {
		ID string `json:"workflow_id"`
	}
	_, err := c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: v2 + "/workflow/" + id + "/rerun", Body: body}, &made)
	return made.ID, err
}

// newOf finds the workflow that ran again, where CircleCI did not name it: one of that name that was not there before.
func (c *client) newOf(ctx context.Context, p pipeline, w workflow, before family) string {
	after, err := c.familyNow(ctx, p)
	if err != nil {
		return ""
	}
	for _, now := range after.workflows {
		if now.Name == w.Name && !slices.ContainsFunc(before.workflows, func(old workflow) bool { return old.ID == now.ID }) {
			return now.ID
		}
	}
	return ""
}

// again begins a pipeline anew that never got a workflow.
func (c *client) again(ctx context.Context, project string, p pipeline, f family, extra map[string]any, by slipway.Caller) (*slipway.Build, error) {
	if len(f.workflows) > 0 {
		return nil, provider.Replaced
	}
	if p.State != errored {
		return nil, slipway.Errorf(slipway.Conflict, "pipeline %s is %s; only one that has ended can run again", p.ID, p.State)
	}
	ref := ""
	if commit := p.commit(); commit != nil {
		ref = commit.Branch
	}
	if p.VCS != nil && p.VCS.Tag != "" || p.VCS == nil && p.Parameters.Git.Branch == "" && p.Parameters.Git.Tag != "" {
		ref = "refs/tags/" + ref
	}
	return c.start(ctx, project, provider.StartOptions{Ref: ref, Extra: extra}, by)
}

func (c *client) cancel(ctx context.Context, project, id string) error {
	w, p, err := c.find(ctx, project, id)
	if err != nil {
		return err
	}
	if w.ID == "" {
		return slipway.Errorf(slipway.Conflict, "pipeline %s is %s and has no workflow that could be canceled", id, p.State)
	}
	if statuses[w.Status].Finished() {
		return slipway.Errorf(slipway.Conflict, "workflow %s is %s; only one that runs can be canceled", id, w.Status)
	}
	if _, err := c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: v2 + "/workflow/" + id + "/cancel"}, nil); err != nil {
		return fmt.Errorf("cancel workflow %s of %s: %w", id, project, err)
	}
	c.forget(p.ID)
	return nil
}

// forget has the workflows of a pipeline asked for at the next look.
func (c *client) forget(pipeline string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.families, pipeline)
}

var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// source is the branch or tag that a ref means, as CircleCI wants it; nil for "".
func source(ref string) (map[string]string, error) {
	switch {
	case ref == "":
		return nil, nil
	case commitID.MatchString(ref):
		return nil, slipway.Errorf(slipway.Invalid, "CircleCI builds branches and tags, not commits; set ref to a branch, or to refs/tags/NAME")
	}
	kind, name := "branch", strings.TrimPrefix(ref, "refs/heads/")
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		kind, name = "tag", tag
	}
	return map[string]string{kind: name}, provider.CheckRef(name)
}

// start begins a pipeline. The extra `parameters`, or `inputs`, holds its parameters. Where code comes through an app of its host, or pipeline names one of the project's
// pipeline definitions, that is begun.
func (c *client) start(ctx context.Context, project string, o provider.StartOptions, _ slipway.Caller) (*slipway.Build, error) {
	what, err := source(o.Ref)
	if err != nil {
		return nil, err
	}
	where, err := path(project, "/pipeline")
	if err != nil {
		return nil, err
	}
	body := map[string]any{}
	for name, value := range what {
		body[name] = value
	}
	if definition := cmp.Or(o.Pipeline, text(o.Extra["definition_id"])); definition != "" || strings.HasPrefix(project, "circleci/") {
		id, err := c.definition(ctx, project, definition)
		if err != nil {
			return nil, err
		}
		where += "/run"
		body = map[string]any{"definition_id": id}
		if what != nil {
			body["config"], body["checkout"] = what, what
		}
	}
	parameters := o.Extra["parameters"]
	if parameters == nil {
		parameters = o.Extra["inputs"]
	}
	if parameters != nil {
		if _, ok := parameters.(map[string]any); !ok {
			return nil, slipway.Errorf(slipway.Invalid, "parameters must be a map of names and values")
		}
		body["parameters"] = parameters
	}
	var made struct {
		ID      string `json:"id"`
		Message string `json:"message"`
	}
	if _, err := c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: where, Body: body}, &made); err != nil {
		return nil, fmt.Errorf("start a pipeline of %s: %w", project, err)
	}
	if made.ID == "" {
		return nil, slipway.Errorf(slipway.Conflict, "CircleCI began nothing: %s", cmp.Or(provider.Clip(provider.FirstLine(made.Message)), "it does not say why"))
	}
	return c.firstOf(ctx, made.ID), nil
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

const startLooks = 5

// firstOf waits a little for what a new pipeline becomes: its first workflow, or a fault of its configuration. nil while it is neither: the workflow has no name yet, and a
// name that is soon another's is none.
func (c *client) firstOf(ctx context.Context, id string) *slipway.Build {
	if !isID(id) {
		return nil
	}
	for range startLooks {
		if provider.Wait(ctx, c.startPace) != nil {
			return nil
		}
		p, err := c.pipeline(ctx, id, false)
		if err != nil {
			continue // it is not known everywhere at once
		}
		f, err := c.familyNow(ctx, p)
		if err != nil {
			continue
		}
		if len(f.workflows) == 0 && p.State != errored {
			continue
		}
		if all, err := c.builds(ctx, p, f); err == nil {
			return &all[len(all)-1]
		}
	}
	return nil
}

// definition finds one of a project's pipeline definitions by its id or name; "" is the only one.
func (c *client) definition(ctx context.Context, project, wanted string) (string, error) {
	if isID(wanted) {
		return wanted, nil
	}
	id, err := c.projectID(ctx, project)
	if err != nil {
		return "", err
	}
	var found struct {
		Items []struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"items"`
	}
	_, err = c.api.JSON(ctx, provider.Request{Path: v2 + "/projects/" + url.PathEscape(id) + "/pipeline-definitions"}, &found)
	if errors.Is(err, slipway.NotFound) {
		return "", slipway.Errorf(slipway.Invalid, "this CircleCI has no pipeline definitions for %s; leave pipeline out, and choose with parameters", project).WithCause(err)
	}
	if err != nil {
		return "", fmt.Errorf("pipeline definitions of %s: %w", project, err)
	}
	var names []string
	for _, d := range found.Items {
		if d.Name == wanted || wanted == "" && len(found.Items) == 1 {
			return d.ID, nil
		}
		names = append(names, d.Name)
	}
	if len(names) == 0 {
		return "", slipway.Errorf(slipway.NotFound, "%s has no pipeline definition", project)
	}
	return "", slipway.Errorf(slipway.Invalid, "set pipeline to one of the pipeline definitions of %s: %s", project, strings.Join(names, ", "))
}

// projectID is the id of a project, which its slug holds or the project says.
func (c *client) projectID(ctx context.Context, project string) (string, error) {
	if short, ok := strings.CutPrefix(project, "circleci/"); ok {
		_, short, _ = strings.Cut(short, "/")
		if id := longID(short); id != "" {
			return id, nil
		}
	}
	where, err := path(project, "")
	if err != nil {
		return "", err
	}
	var found struct {
		ID string `json:"id"`
	}
	_, err = c.api.JSON(ctx, provider.Request{Path: where}, &found)
	if err == nil && found.ID == "" {
		err = slipway.Errorf(slipway.Invalid, "this CircleCI has no pipeline definitions; leave pipeline out, and choose with parameters")
	}
	return found.ID, err
}
