package jenkins

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// run is Jenkins' own shape of a build. It never leaves this package.
type run struct {
	Class      string    `json:"_class"`
	Number     int64     `json:"number"`
	Building   bool      `json:"building"`
	InProgress *bool     `json:"inProgress"` // absent on old servers
	Result     string    `json:"result"`     // null, or one that may still get worse, while it is building
	Timestamp  int64     `json:"timestamp"`  // milliseconds since 1970
	Duration   int64     `json:"duration"`   // milliseconds, 0 while it is building
	QueueID    int64     `json:"queueId"`
	Actions    []action  `json:"actions"` // what is not for the API is {}
	ChangeSet  *changes  `json:"changeSet"`
	ChangeSets []changes `json:"changeSets"` // of pipelines, which may check out several times
}

type action struct {
	Class      string      `json:"_class"`
	Causes     []cause     `json:"causes"`
	Parameters []parameter `json:"parameters"`
	Revision   *revision   `json:"lastBuiltRevision"`
	RemoteURLs []string    `json:"remoteUrls"`
}

type cause struct {
	Class         string `json:"_class"`
	Text          string `json:"shortDescription"`
	UserID        string `json:"userId"` // null for nobody
	UserName      string `json:"userName"`
	UpstreamBuild int64  `json:"upstreamBuild"`
}

type parameter struct {
	Class string `json:"_class"`
	Name  string `json:"name"`
	Value any    `json:"value"` // absent of what is secret
}

type revision struct {
	SHA1   string `json:"SHA1"`
	Branch []struct {
		Name string `json:"name"`
	} `json:"branch"`
}

type changes struct {
	Items []change `json:"items"`
}

type change struct {
	CommitID    string `json:"commitId"`
	Message     string `json:"msg"`
	AuthorEmail string `json:"authorEmail"`
	Author      struct {
		ID       string `json:"id"`
		FullName string `json:"fullName"`
	} `json:"author"`
}

// runTree asks for what run holds, and never for what grows without end.
const runTree = "number,building,inProgress,result,timestamp,duration,queueId," +
	"actions[causes[shortDescription,userId,userName,upstreamBuild],parameters[name],lastBuiltRevision[SHA1,branch[name]],remoteUrls]," +
	"changeSet[" + changesTree + "],changeSets[" + changesTree + "]{0,5}"

const changesTree = "items[commitId,msg,authorEmail,author[id,fullName]]{0,50}"

// statuses is Jenkins' words in ours. UNSTABLE is the operator's to say.
var statuses = map[string]slipway.BuildStatus{
	"SUCCESS":   slipway.BuildSucceeded,
	"FAILURE":   slipway.BuildFailed,
	"ABORTED":   slipway.BuildCanceled,
	"NOT_BUILT": slipway.BuildSkipped,
}

const unstable = "UNSTABLE"

// words is where a build stands in Jenkins' words.
func (r run) words() string {
	switch {
	case !r.Building:
		return cmp.Or(r.Result, "none")
	case r.InProgress != nil && !*r.InProgress:
		return "not started"
	case r.Result != "":
		return "building/" + r.Result
	}
	return "building"
}

func (c *client) status(r run) slipway.BuildStatus {
	switch {
	case r.words() == "not started":
		return slipway.BuildStarting
	case r.Building:
		return slipway.BuildRunning // whatever the result is so far
	case r.Result == unstable:
		return slipway.BuildStatus(c.cfg.Unstable)
	}
	return cmp.Or(statuses[r.Result], slipway.BuildUnknown)
}

// build makes a build of a run of the job with a full name, as Jenkins spells it. paused: it waits for somebody's input.
func (c *client) build(job string, r run, paused bool) slipway.Build {
	b := slipway.Build{
		ID: buildID(job, r.Number), Number: r.Number, Attempt: 1, Pipeline: slipway.Pipeline{ID: job, Name: branchName(job)},
		Status: c.status(r), Detail: r.words(), URL: c.base + buildPath(job, r.Number, "/"), Trigger: r.trigger(job), TriggeredBy: r.person(job), Commit: r.commit(job),
	}
	if begun := milliseconds(r.Timestamp); !begun.IsZero() {
		b.CreatedAt, b.UpdatedAt = begun, &begun
		if b.Status != slipway.BuildStarting {
			b.StartedAt = &begun
		}
		if !r.Building {
			end := begun.Add(time.Duration(max(r.Duration, 0)) * time.Millisecond)
			b.FinishedAt, b.UpdatedAt = &end, &end
		}
	}
	if paused && b.Status == slipway.BuildRunning {
		b.Blocked, b.Detail = true, pausedWord
	}
	provider.Derive(&b)
	return b
}

// milliseconds is a time in Jenkins' JSON; the zero time for what is none.
func milliseconds(ms int64) time.Time {
	if at := time.UnixMilli(ms).UTC(); at.Year() > 1971 && at.Year() < 10000 {
		return at
	}
	return time.Time{}
}

// causes are why a build began. What interrupted it is called causes, too, in an action of its own.
func (r run) causes() (all []cause) {
	for _, a := range r.Actions {
		if !strings.HasSuffix(a.Class, ".InterruptedBuildAction") {
			all = append(all, a.Causes...)
		}
	}
	return all
}

// again says whether a cause is that another build was to run once more, and which.
func (c cause) again() (number int64, ok bool) {
	switch {
	case strings.HasSuffix(c.Class, ".RebuildCause"):
		return c.UpstreamBuild, true
	case strings.HasSuffix(c.Class, ".ReplayCause"):
		// The number is not for the API; the text ends with it in every language.
		if found := lastNumber.FindString(c.Text); found != "" {
			_, _ = fmt.Sscan(found, &number)
		}
		return number, true
	}
	return 0, false
}

var lastNumber = regexp.MustCompile(`\d+$`)

// triggers knows causes by a part of their class, the plugins' among them. The first that is found counts.
var triggers = []struct {
	part    string
	trigger slipway.BuildTrigger
}{
	{".RebuildCause", slipway.TriggerRetry},
	{".ReplayCause", slipway.TriggerRetry},
	{".Cause$UserIdCause", slipway.TriggerManual},
	{".Cause$UserCause", slipway.TriggerManual},
	{".Cause$RemoteCause", slipway.TriggerAPI},
	{"TimerTriggerCause", slipway.TriggerSchedule},
	{"PullRequestCause", slipway.TriggerPullRequest},
	{"GhprbCause", slipway.TriggerPullRequest},
	{"GitHubPRCause", slipway.TriggerPullRequest},
	{"MergeRequestCause", slipway.TriggerPullRequest},
	{"SCMTriggerCause", slipway.TriggerPush},
	{"BranchEventCause", slipway.TriggerPush},
	{"BranchIndexingCause", slipway.TriggerPush},
	{"PushCause", slipway.TriggerPush}, // GitHub, Bitbucket, Gitea
	{"GitLabWebHookCause", slipway.TriggerPush},
	{"GerritCause", slipway.TriggerPullRequest},
}

// request is the name that branch sources give to the job of a pull or merge request.
var request = regexp.MustCompile(`^(PR|MR)-\d+(-|$)`)

func (r run) trigger(job string) slipway.BuildTrigger {
	for _, t := range triggers {
		if slices.ContainsFunc(r.causes(), func(c cause) bool { return strings.Contains(c.Class, t.part) }) {
			if t.trigger == slipway.TriggerPush && request.MatchString(job[strings.LastIndexByte(job, '/')+1:]) {
				return slipway.TriggerPullRequest
			}
			return t.trigger
		}
	}
	return slipway.TriggerOther
}

// person is who asked for the build or, where a change of the source caused it, whose change it was.
func (r run) person(job string) *slipway.Person {
	for _, c := range r.causes() {
		switch strings.ToLower(c.UserID) {
		case "", "anonymous", "system": // nobody
		default:
			return &slipway.Person{ID: c.UserID, Name: c.UserName}
		}
	}
	if t := r.trigger(job); t != slipway.TriggerPush && t != slipway.TriggerPullRequest {
		return nil
	}
	a := r.checkout(job)
	if a == nil {
		return nil
	}
	i := r.change(a.Revision.SHA1)
	if i == nil || i.Author.ID == "" && i.Author.FullName == "" && i.AuthorEmail == "" {
		return nil
	}
	return &slipway.Person{ID: i.Author.ID, Name: i.Author.FullName, Email: i.AuthorEmail}
}

// change finds what a build says of a commit, among those that came since the build before.
func (r run) change(commit string) *change {
	sets := r.ChangeSets
	if r.ChangeSet != nil {
		sets = append([]changes{*r.ChangeSet}, sets...)
	}
	for _, set := range sets {
		for i := range set.Items {
			if set.Items[i].CommitID == commit {
				return &set.Items[i]
			}
		}
	}
	return nil
}

// checkout finds the checkout of the project itself. Libraries that it uses are checked out beside it: what is on the job's own branch is the project, then what brought
// changes, then what lies in a repository of the name of the job or of what holds it; and of the rest the last.
func (r run) checkout(job string) *action {
	var all []*action
	for i, a := range r.Actions {
		if a.Revision != nil && a.Revision.SHA1 != "" {
			all = append(all, &r.Actions[i])
		}
	}
	if len(all) == 0 {
		return nil
	}
	names := strings.Split(job, "/")
	for _, fits := range []func(*action) bool{
		func(a *action) bool { return a.branch() == branchName(names[len(names)-1]) },
		func(a *action) bool { return r.change(a.Revision.SHA1) != nil },
		func(a *action) bool {
			return slices.ContainsFunc(a.RemoteURLs, func(remote string) bool {
				repository := strings.TrimSuffix(remote[strings.LastIndexAny(remote, "/:")+1:], ".git")
				return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, repository) })
			})
		},
	} {
		if i := slices.IndexFunc(all, fits); i >= 0 {
			return all[i]
		}
	}
	return all[len(all)-1]
}

// branch is the branch of a checkout, "" where it is of none.
func (a *action) branch() string {
	if a.Revision == nil || len(a.Revision.Branch) == 0 {
		return ""
	}
	name := a.Revision.Branch[0].Name
	if rest, ok := strings.CutPrefix(name, "refs/remotes/"); ok {
		_, name, _ = strings.Cut(rest, "/")
	}
	name = strings.TrimPrefix(strings.TrimPrefix(name, "refs/heads/"), "origin/")
	if name == "detached" {
		return ""
	}
	return name
}

func (r run) commit(job string) *slipway.Commit {
	a := r.checkout(job)
	if a == nil {
		return nil
	}
	c := &slipway.Commit{SHA: a.Revision.SHA1, Branch: a.branch()}
	if i := r.change(c.SHA); i != nil {
		c.Message, c.Author = provider.FirstLine(i.Message), i.Author.FullName
	}
	return c
}

func (c *client) get(ctx context.Context, project, id string) (slipway.Build, error) {
	job, number, err := splitID(project, id)
	if err != nil {
		return slipway.Build{}, err
	}
	r, err := c.run(ctx, job, number, runTree)
	if err != nil {
		return slipway.Build{}, err
	}
	return c.build(job, r, c.paused(ctx, job, r)), nil
}

func (c *client) run(ctx context.Context, job string, number int64, tree string) (r run, err error) {
	_, err = c.ask(ctx, provider.Request{Path: buildPath(job, number, "/api/json"), Query: url.Values{"tree": {tree}}}, &r)
	if err == nil && r.Number == 0 {
		err = c.api.Strange(errors.New("the build has no number"))
	}
	if err != nil {
		return r, fmt.Errorf("build %d of %s: %w", number, job, err)
	}
	return r, nil
}

const (
	pausedWord = "PAUSED_PENDING_INPUT"
	stagesRest = 10 * time.Minute // before a Jenkins that does not know stages is asked again
	maxPaused  = 20               // pipelines of a page that are asked whether they wait
	parallel   = 4
)

// paused says whether a running pipeline waits for somebody's input. Only its stages know, which a plugin shows; where they cannot be had, it is not known to wait.
func (c *client) paused(ctx context.Context, job string, r run) bool {
	if !r.Building || !strings.HasSuffix(r.Class, ".WorkflowRun") {
		return false
	}
	c.mu.Lock()
	rest := c.now().Before(c.noStages)
	c.mu.Unlock()
	if rest {
		return false
	}
	var said struct {
		Status string `json:"status"`
	}
	_, err := c.ask(ctx, provider.Request{Path: buildPath(job, r.Number, "/wfapi/describe")}, &said)
	if errors.Is(err, slipway.NotFound) {
		c.mu.Lock()
		c.noStages = c.now().Add(stagesRest)
		c.mu.Unlock()
	}
	return err == nil && said.Status == pausedWord
}

// builds makes builds of runs, and asks which of them wait.
func (c *client) builds(ctx context.Context, list []found) []slipway.Build {
	builds := make([]slipway.Build, len(list))
	var g errgroup.Group
	g.SetLimit(parallel)
	asked := 0
	for i, f := range list {
		ask := f.run.Building && asked < maxPaused
		if !ask {
			builds[i] = c.build(f.job, f.run, false)
			continue
		}
		asked++
		g.Go(func() error {
			builds[i] = c.build(f.job, f.run, c.paused(ctx, f.job, f.run))
			return nil
		})
	}
	_ = g.Wait() // none fails: what cannot be asked is not known to wait
	return builds
}
