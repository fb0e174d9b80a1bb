package azure

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// run is Azure's own shape of a build. It never leaves this package.
type run struct {
	ID            int64         `json:"id"`
	BuildNumber   string        `json:"buildNumber"` // a name, such as 20260504.1
	Status        string        `json:"status"`
	Result        string        `json:"result"` // absent until the status is completed
	Reason        string        `json:"reason"`
	QueueTime     provider.Time `json:"queueTime"`
	StartTime     provider.Time `json:"startTime"`
	FinishTime    provider.Time `json:"finishTime"`
	Changed       provider.Time `json:"lastChangedDate"`
	Definition    *definition   `json:"definition"`
	Project       *project      `json:"project"`
	SourceBranch  string        `json:"sourceBranch"`
	SourceVersion string        `json:"sourceVersion"`
	RequestedFor  *identity     `json:"requestedFor"` // RequestedBy may be the service itself
	RequestedBy   *identity     `json:"requestedBy"`
	Parameters    string        `json:"parameters"` // JSON in a text
	Template      any           `json:"templateParameters"`
	Repository    *struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		Name string `json:"name"`
		URL  string `json:"url"`
	} `json:"repository"`
	TriggerInfo map[string]any `json:"triggerInfo"`
	Links       struct {
		Web struct {
			Href string `json:"href"`
		} `json:"web"`
	} `json:"_links"`
}

type project struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type identity struct {
	DisplayName string `json:"displayName"`
	UniqueName  string `json:"uniqueName"`
}

// statuses is Azure's words in ours; a result follows "completed/".
var statuses = map[string]slipway.BuildStatus{
	"notStarted": slipway.BuildStarting, "postponed": slipway.BuildStarting,
	"inProgress": slipway.BuildRunning, "cancelling": slipway.BuildRunning,
	"completed/succeeded":          slipway.BuildSucceeded,
	"completed/partiallySucceeded": slipway.BuildSucceeded,
	"completed/failed":             slipway.BuildFailed,
	"completed/canceled":           slipway.BuildCanceled,
}

var triggers = map[string]slipway.BuildTrigger{
	"manual": slipway.TriggerManual, "userCreated": slipway.TriggerManual,
	"individualCI": slipway.TriggerPush, "batchedCI": slipway.TriggerPush, "checkInShelveset": slipway.TriggerPush,
	"pullRequest": slipway.TriggerPullRequest, "validateShelveset": slipway.TriggerPullRequest,
	"schedule": slipway.TriggerSchedule, "scheduleForced": slipway.TriggerSchedule,
}

const completed = "completed"

func (r run) words() string {
	if r.Status == completed {
		return completed + "/" + cmp.Or(r.Result, "none")
	}
	return cmp.Or(r.Status, "none")
}

func (c *client) build(r run) slipway.Build {
	b := slipway.Build{
		ID: strconv.FormatInt(r.ID, 10), Attempt: 1, Status: cmp.Or(statuses[r.words()], slipway.BuildUnknown), Detail: r.words(),
		CreatedAt: cmp.Or(r.QueueTime, r.StartTime, r.Changed).Time, UpdatedAt: cmp.Or(r.Changed, r.FinishTime, r.StartTime, r.QueueTime).Ptr(), URL: c.link(r),
		Trigger: cmp.Or(triggers[r.Reason], slipway.TriggerOther), TriggeredBy: r.person(), Commit: r.commit(),
	}
	if r.Definition != nil {
		b.Pipeline = slipway.Pipeline{ID: strconv.FormatInt(r.Definition.ID, 10), Name: r.Definition.Name}
	}
	if n, err := strconv.ParseInt(r.BuildNumber, 10, 64); err == nil {
		b.Number = n
	}
	if b.Status != slipway.BuildStarting {
		b.StartedAt = r.StartTime.Ptr()
	}
	if b.Status.Finished() || b.Status == slipway.BuildUnknown {
		b.FinishedAt = r.FinishTime.Ptr()
	}
	provider.Derive(&b)
	return b
}

// service is the name under which Azure itself asks for what a clock begins.
var service = regexp.MustCompile(`^0000000[0-9a-f]-0000-8888-8000-0{12}@`)

// person is for whom a build was asked. That Azure asked by itself names nobody.
func (r run) person() *slipway.Person {
	for _, i := range []*identity{r.RequestedFor, r.RequestedBy} {
		if i == nil || i.UniqueName == "" && i.DisplayName == "" || service.MatchString(i.UniqueName) || strings.HasPrefix(i.DisplayName, "Microsoft.VisualStudio.Services") {
			continue
		}
		p := &slipway.Person{ID: i.UniqueName, Name: i.DisplayName}
		if strings.Contains(i.UniqueName, "@") {
			p.Email = i.UniqueName
		}
		return p
	}
	return nil
}

func (r run) info(key string) string {
	s, _ := r.TriggerInfo[key].(string)
	return s
}

func (r run) commit() *slipway.Commit {
	if r.SourceVersion == "" {
		return nil
	}
	return &slipway.Commit{
		SHA: r.SourceVersion, Branch: strings.TrimPrefix(strings.TrimPrefix(r.SourceBranch, "refs/heads/"), "refs/tags/"),
		Message: provider.FirstLine(cmp.Or(r.info("ci.message"), r.info("pr.title"))), URL: r.commitPage(),
	}
}

func (r run) commitPage() string {
	if r.Repository == nil {
		return ""
	}
	page := provider.RepositoryAddress(r.Repository.URL)
	if page == "" || !strings.EqualFold(r.Repository.Type, "GitHub") && !(strings.EqualFold(r.Repository.Type, "TfsGit") && strings.Contains(page, "/_git/")) {
		return ""
	}
	return page + "/commit/" + url.PathEscape(r.SourceVersion)
}

func (c *client) link(r run) string {
	if web := r.Links.Web.Href; strings.HasPrefix(web, "https://") || strings.HasPrefix(web, "http://") {
		return web
	}
	in := ""
	if r.Project != nil {
		in = "/" + url.PathEscape(cmp.Or(r.Project.Name, r.Project.ID))
	}
	return fmt.Sprintf("%s%s/_build/results?buildId=%d", c.base, in, r.ID)
}

const maxPage = 200

// list reads builds as they were queued. Azure's cursor is a time, at which the last build that was seen may stand once more.
func (c *client) list(ctx context.Context, project string, o provider.ListOptions) (list provider.Page[slipway.Build], err error) {
	last, token, err := readCursor(o.Cursor)
	if err != nil {
		return list, err
	}
	s, err := readSource(project)
	if err != nil {
		return list, err
	}
	query, err := c.filter(ctx, s)
	if err != nil {
		return list, fmt.Errorf("builds of %s: %w", project, err)
	}
	limit := maxPage
	if o.Limit > 0 {
		limit = min(limit, o.Limit)
	}
	query.Set("queryOrder", "queueTimeDescending")
	query.Set("$top", strconv.Itoa(limit))
	if token != "" {
		query.Set("continuationToken", token)
	}
	var found struct {
		Value []run `json:"value"`
	}
	a, err := c.call(ctx, provider.Request{Path: s.path("/build/builds"), Query: query}, &found)
	if err == nil && found.Value == nil {
		err = c.api.Strange(errors.New("there is no value"))
	}
	if err != nil {
		return list, fmt.Errorf("builds of %s: %w", project, err)
	}
	for _, r := range found.Value {
		if r.ID > 0 && r.ID != last && !r.created().IsZero() {
			list.Items = append(list.Items, c.build(r))
		}
	}
	if next := a.Header.Get("X-Ms-Continuationtoken"); next != "" && next != token && len(found.Value) > 0 {
		list.Next = fmt.Sprintf("%d %s", found.Value[len(found.Value)-1].ID, next)
	}
	return list, nil
}

func (r run) created() provider.Time { return cmp.Or(r.QueueTime, r.StartTime, r.Changed) }

func readCursor(cursor string) (last int64, token string, err error) {
	if cursor == "" {
		return 0, "", nil
	}
	id, token, _ := strings.Cut(cursor, " ")
	if last, err = strconv.ParseInt(id, 10, 64); err != nil || token == "" {
		return 0, "", slipway.Errorf(slipway.Invalid, "this is no cursor of this provider; read the list from its start")
	}
	return last, token, nil
}

func (c *client) get(ctx context.Context, project, id string) (slipway.Build, error) {
	_, r, err := c.run(ctx, project, id)
	if err != nil {
		return slipway.Build{}, err
	}
	return c.build(r), nil
}

// run asks for a build of a source.
func (c *client) run(ctx context.Context, project, id string) (s source, r run, err error) {
	if s, err = readSource(project); err != nil {
		return s, r, err
	}
	n, err := strconv.ParseInt(id, 10, 32)
	if err != nil || n <= 0 {
		return s, r, slipway.Errorf(slipway.NotFound, "Azure DevOps has no build %q; its ids are numbers", id)
	}
	r, err = c.runOf(ctx, s, n)
	if err == nil && !r.of(s) {
		err = slipway.Errorf(slipway.NotFound, "build %s is none of %s", id, project)
	}
	if err != nil {
		return s, r, fmt.Errorf("build %s of %s: %w", id, project, err)
	}
	return s, r, nil
}

func (c *client) runOf(ctx context.Context, s source, id int64) (r run, err error) {
	_, err = c.call(ctx, provider.Request{Path: s.path(fmt.Sprintf("/build/builds/%d", id))}, &r)
	if err == nil && (r.ID == 0 || r.created().IsZero()) {
		err = c.api.Strange(errors.New("the build has no id or no time"))
	}
	return r, err
}

// of says whether a build is one of a source, as far as it says where it is from.
func (r run) of(s source) bool {
	return (s.definition == "" || r.Definition == nil || strings.EqualFold(r.Definition.Name, s.definition)) &&
		(s.repo == "" || r.Repository == nil || r.Repository.Name == "" || strings.EqualFold(r.Repository.Name, s.repo))
}

// retrigger runs the failed jobs of a build again, as the same build. `stage` names one stage of it, of which the extra `all: true` runs all jobs. Without a stage, and where
// nothing failed, `all` is a new build of the same version, with the same parameters.
func (c *client) retrigger(ctx context.Context, project, id string, extra map[string]any, by slipway.Caller) (*slipway.Build, error) {
	s, r, err := c.run(ctx, project, id)
	if err != nil {
		return nil, err
	}
	if status := statuses[r.words()]; status == slipway.BuildStarting || status == slipway.BuildRunning {
		return nil, slipway.Errorf(slipway.Conflict, "build %s is %s; only one that has ended can run again", id, r.words())
	}
	all, _ := extra["all"].(bool)
	stage, _ := extra["stage"].(string)
	request := provider.Request{Method: http.MethodPatch, Path: s.path("/build/builds/" + id)}
	switch {
	case stage != "":
		request.Path += "/stages/" + url.PathEscape(stage)
		request.Body = map[string]any{"state": "retry", "forceRetryAllJobs": all}
	case all || statuses[r.words()] == slipway.BuildSucceeded:
		return c.anew(ctx, s, r, extra)
	default:
		request.Query, request.Body = url.Values{"retry": {"true"}}, map[string]any{}
	}
	if _, err := c.call(ctx, request, nil); err != nil {
		return nil, fmt.Errorf("build %s of %s again: %w", id, project, err)
	}
	_, now, err := c.run(ctx, project, id)
	if err != nil || now.Status == completed && now.Changed == r.Changed {
		return nil, nil // it was accepted, and shows in a moment
	}
	b := c.build(now)
	return &b, nil
}

// anew queues what a build was once more.
func (c *client) anew(ctx context.Context, s source, r run, extra map[string]any) (*slipway.Build, error) {
	if r.Definition == nil {
		return nil, slipway.Errorf(slipway.Conflict, "build %d names no pipeline, so it cannot be queued again", r.ID)
	}
	body := map[string]any{"definition": map[string]any{"id": r.Definition.ID}, "sourceBranch": r.SourceBranch, "sourceVersion": r.SourceVersion}
	if r.Parameters != "" {
		body["parameters"] = r.Parameters
	}
	if given, ok := r.Template.(map[string]any); ok && len(given) > 0 {
		body["templateParameters"] = given
	}
	return c.queue(ctx, s, body, extra)
}

// queue queues a build. The extras `variables` and `templateParameters`, or `inputs`, hold what the pipeline takes.
func (c *client) queue(ctx context.Context, s source, body, extra map[string]any) (*slipway.Build, error) {
	variables, err := inputs(extra, "variables")
	if err != nil {
		return nil, err
	}
	if len(variables) > 0 {
		merged := map[string]string{}
		if before, ok := body["parameters"].(string); ok {
			_ = json.Unmarshal([]byte(before), &merged)
		}
		maps.Copy(merged, variables)
		text, err := json.Marshal(merged)
		if err != nil {
			return nil, err
		}
		body["parameters"] = string(text)
	}
	parameters, err := inputs(extra, "templateParameters", "inputs")
	if err != nil {
		return nil, err
	}
	if len(parameters) > 0 {
		merged := map[string]any{}
		if before, ok := body["templateParameters"].(map[string]any); ok {
			maps.Copy(merged, before)
		}
		for key, value := range parameters {
			merged[key] = value
		}
		body["templateParameters"] = merged
	}
	var made run
	_, err = c.call(ctx, provider.Request{Method: http.MethodPost, Path: s.path("/build/builds"), Body: body}, &made)
	if err == nil && (made.ID == 0 || made.created().IsZero()) {
		err = c.api.Strange(errors.New("the build has no id or no time"))
	}
	if err != nil {
		return nil, fmt.Errorf("queue a build of %s: %w", s, err)
	}
	b := c.build(made)
	return &b, nil
}

// inputs are those that are given under one of several names.
func inputs(extra map[string]any, keys ...string) (map[string]string, error) {
	for _, key := range keys {
		if given := extra[key]; given != nil {
			return provider.Inputs(given)
		}
	}
	return nil, nil
}

func (c *client) cancel(ctx context.Context, project, id string) error {
	s, r, err := c.run(ctx, project, id)
	if err != nil {
		return err
	}
	if r.Status == completed {
		return slipway.Errorf(slipway.Conflict, "build %s is %s; only one that runs can be canceled", id, r.words())
	}
	request := provider.Request{Method: http.MethodPatch, Path: s.path("/build/builds/" + id), Body: map[string]any{"status": "cancelling"}}
	if _, err := c.call(ctx, request, nil); err != nil {
		return fmt.Errorf("cancel build %s of %s: %w", id, project, err)
	}
	return nil
}

var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// start queues a build of a pipeline: the one that pipeline names or numbers, that of the source, or the only one of the repository.
func (c *client) start(ctx context.Context, project string, o provider.StartOptions, _ slipway.Caller) (*slipway.Build, error) {
	s, err := readSource(project)
	if err != nil {
		return nil, err
	}
	body := map[string]any{}
	switch {
	case o.Ref == "":
	case commitID.MatchString(o.Ref):
		body["sourceVersion"] = o.Ref
	default:
		if err := provider.CheckRef(o.Ref); err != nil {
			return nil, err
		}
		body["sourceBranch"] = "refs/heads/" + o.Ref
		if strings.HasPrefix(o.Ref, "refs/") {
			body["sourceBranch"] = o.Ref
		}
	}
	id, err := c.definitionFor(ctx, s, o.Pipeline)
	if err != nil {
		return nil, err
	}
	body["definition"] = map[string]any{"id": id}
	return c.queue(ctx, s, body, o.Extra)
}

func (c *client) definitionFor(ctx context.Context, s source, wanted string) (int64, error) {
	if id, err := strconv.ParseInt(wanted, 10, 32); err == nil && id > 0 {
		return id, nil
	}
	query := url.Values{}
	switch wanted = cmp.Or(wanted, s.definition); {
	case wanted != "" && !name.MatchString(wanted):
		return 0, slipway.Errorf(slipway.Invalid, "%q is no name of a pipeline", wanted)
	case wanted != "":
		query.Set("name", wanted)
	default:
		repo, err := c.repository(ctx, s)
		if err != nil {
			return 0, err
		}
		query.Set("repositoryId", repo)
		query.Set("repositoryType", "TfsGit")
	}
	all, err := c.listDefinitions(ctx, s, query)
	if err != nil {
		return 0, err
	}
	all = slices.DeleteFunc(all, func(d definition) bool { return wanted != "" && !strings.EqualFold(d.Name, wanted) })
	switch len(all) {
	case 0:
		return 0, slipway.Errorf(slipway.NotFound, "%s has no such pipeline; set pipeline to the name or id of one", s)
	case 1:
		return all[0].ID, nil
	}
	var names []string
	for _, d := range all {
		names = append(names, fmt.Sprintf("%d (%s)", d.ID, strings.TrimLeft(d.Path+`\`+d.Name, `\`)))
	}
	return 0, slipway.Errorf(slipway.Invalid, "%s has several pipelines; set pipeline to the id of one: %s", s, strings.Join(names, ", "))
}
