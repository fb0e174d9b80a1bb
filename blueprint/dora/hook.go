package dora

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
)

// What others send unchanged: the webhooks of DevLake, in its own shapes, and the four bodies that Fawkes sends to the same paths. They are read leniently: fields that are
// not known are passed over.

// connection is what a path of DevLake's webhooks names.
type connection struct {
	name    string // the id, the name, or the project
	project bool   // it is a project's own path
	token   string // a Slipway token in place of the id, for senders that cannot set a header
}

// parseConnection reads what stands between /webhook/ and the resource: an id, connections/<id>, connections/by-name/<name> or projects/<project>.
func parseConnection(path string) (connection, error) {
	parts := strings.Split(path, "/")
	c := connection{name: parts[len(parts)-1]}
	switch {
	case len(parts) == 1, len(parts) == 2 && parts[0] == "connections", len(parts) == 3 && parts[0] == "connections" && parts[1] == "by-name":
	case len(parts) == 2 && parts[0] == "projects":
		c.project = true
	default:
		return c, slipway.Errorf(slipway.NotFound, "there is no such path; DevLake's are /webhook/{id}/…, /webhook/connections/{id}/…, /webhook/connections/by-name/{name}/… and /webhook/projects/{project}/deployments")
	}
	if strings.HasPrefix(c.name, "slp_") {
		c.token, c.name = c.name, "token"
	}
	if c.name == "" || len(c.name) > maxName {
		return c, slipway.Errorf(slipway.Invalid, "the connection is a name of at most %d bytes", maxName)
	}
	return c, nil
}

// source is who reports.
func (c connection) source() string { return "webhook:" + c.name }

// service is whose reports come over a connection where the body does not say.
func (s *service) serviceOf(c connection) string {
	for _, known := range s.config.Connections {
		if known.ID == c.name {
			return known.Service
		}
	}
	if c.project || strings.TrimLeft(c.name, "0123456789") != "" {
		return c.name
	}
	return "webhook-" + c.name
}

const nothing = "success: it says nothing of deployments to users, so that nothing is kept of it"

// foreign is a moment as senders of DevLake's webhooks write it: RFC 3339, or the like without a colon in the zone.
type foreign struct{ time.Time }

// UnmarshalJSON takes what can be told, and nothing for what cannot: a template that had no value leaves "<no value>".
func (f *foreign) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		var n float64
		if json.Unmarshal(raw, &n) == nil && n > 0 {
			f.Time = time.UnixMilli(int64(n)).UTC()
			if n < 1e11 {
				f.Time = time.Unix(int64(n), 0).UTC()
			}
		}
		return nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999Z0700", "2006-01-02 15:04:05.999999999 -0700 MST", "2006-01-02T15:04:05.999999999-07"} {
		if t, err := time.Parse(layout, text); err == nil {
			f.Time = t.UTC()
			return nil
		}
	}
	return nil
}

func (f foreign) when() *when {
	if f.IsZero() {
		return nil
	}
	return &when{f.Time}
}

// said is a text of a template: "<no value>" is none.
func said(texts ...string) string {
	for _, t := range texts {
		if t = strings.TrimSpace(t); t != "" && t != "<no value>" && t != "null" {
			return t
		}
	}
	return ""
}

// thisSecond is when something ended of which nobody says when: as it is told.
func (s *service) thisSecond() time.Time { return s.now().UTC().Truncate(time.Second) }

// readHook reads the body of a webhook, and makes a record of it. nil: it says nothing that is kept.
func readHook[T any](s *service, c connection, raw []byte, f *faults, told func(*service, connection, *T, *faults) *record) (*record, error) {
	n := new(T)
	if err := json.Unmarshal(raw, n); err != nil {
		field, message := misfit(err)
		f.add(field, "%s", message)
		return nil, f.err()
	}
	r := told(s, c, n, f)
	return r, f.err()
}

// deploymentHook is a body of the deployments webhook: DevLake's, or the notification that Fawkes has Argo CD send, which says its event_type.
type deploymentHook struct {
	devLake *devLakeDeployment
	argo    *argoNotification
}

// UnmarshalJSON tells the two apart.
func (h *deploymentHook) UnmarshalJSON(raw []byte) error {
	var kind struct {
		EventType string `json:"event_type"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return err
	}
	if kind.EventType != "" {
		h.argo = &argoNotification{}
		return json.Unmarshal(raw, h.argo)
	}
	h.devLake = &devLakeDeployment{}
	return json.Unmarshal(raw, h.devLake)
}

func (s *service) hookDeployment(c connection, n *deploymentHook, f *faults) *record {
	if n.argo != nil {
		return s.hookArgo(n.argo, f)
	}
	return s.hookDevLake(c, n.devLake, f)
}

// argoNotification is what Fawkes has Argo CD send.
type argoNotification struct {
	EventType   string  `json:"event_type"`
	Status      string  `json:"status"`
	Application string  `json:"application"`
	Namespace   string  `json:"namespace"`
	Revision    string  `json:"revision"`
	CommitSHA   string  `json:"commit_sha"`
	Started     foreign `json:"sync_started_at"`
	Finished    foreign `json:"sync_finished_at"`
	RepoURL     string  `json:"repo_url"`
	Environment string  `json:"environment"`
	Service     string  `json:"service_name"`
	Message     string  `json:"error_message"`
	Timestamp   foreign `json:"timestamp"`
}

var environmentSuffix = regexp.MustCompile(`(?i)[-_.](prod|production|prd|live|stag|stage|staging|preprod|uat|dev|development|test|qa)$`)

func (s *service) hookArgo(n *argoNotification, f *faults) *record {
	if n.EventType != "deployment" {
		return nil
	}
	f.names = map[string]string{"startTime": "sync_started_at", "endTime": "sync_finished_at", "service": "service_name", "version": "commit_sha", "commit.sha": "commit_sha", "commit.repository": "repo_url", "detail": "error_message"}
	if n.Started.IsZero() {
		n.Started = n.Timestamp
	}
	if n.Finished.IsZero() {
		n.Finished = n.Timestamp
	}
	sha := said(n.CommitSHA, n.Revision)
	d := newDeployment{
		ID: said(n.Application) + "@" + n.Started.Format(time.RFC3339), Source: "argocd", Service: said(n.Service, environmentSuffix.ReplaceAllString(said(n.Application), "")),
		Environment: said(n.Environment, environmentSuffix.FindString(n.Application), n.Namespace, production), StartTime: n.Started.when(), EndTime: n.Finished.when(),
		Version: sha[:min(7, len(sha))], TriggeredBy: ptr("Argo CD"), Detail: said(n.Message),
	}
	d.Environment = strings.TrimLeft(d.Environment, "-_.")
	switch strings.ToLower(n.Status) {
	case "success", "succeeded":
		d.Status = statusSuccess
	case "failure", "failed", "error":
		d.Status = statusFailure
	default:
		f.add("status", "must be success or failure")
		d.Status = statusFailure
	}
	if said(n.Application) == "" {
		f.add("application", "is required")
	}
	if sha != "" {
		d.Commit = &newCommit{SHA: sha, Repository: said(n.RepoURL)}
	}
	return s.deployment(d.check(f))
}

// devLakeDeployment is the body of DevLake's deployments webhook.
type devLakeDeployment struct {
	_                   struct{}                  `json:"-" additionalProperties:"true"`
	ID                  string                    `json:"id" doc:"Its id, unique within the connection"`
	DisplayTitle        string                    `json:"displayTitle,omitempty" doc:"A title"`
	Name                string                    `json:"name,omitempty" doc:"A title, where there is no displayTitle"`
	Result              string                    `json:"result,omitempty" doc:"SUCCESS or FAILURE; SUCCESS unless given"`
	Environment         string                    `json:"environment,omitempty" doc:"Where to; PRODUCTION unless given"`
	OriginalEnvironment string                    `json:"originalEnvironment,omitempty" doc:"The environment's name where it was seen"`
	URL                 string                    `json:"url,omitempty" doc:"Where to read more"`
	Created             foreign                   `json:"createdDate,omitempty" format:"date-time" doc:"When it was asked for"`
	Started             foreign                   `json:"startedDate" format:"date-time" doc:"When it began"`
	Finished            foreign                   `json:"finishedDate" format:"date-time" doc:"When it ended"`
	Commits             []devLakeDeploymentCommit `json:"deploymentCommits" doc:"What was deployed, at least one"`
}

type devLakeDeploymentCommit struct {
	_       struct{} `json:"-" additionalProperties:"true"`
	RepoURL string   `json:"repoUrl" doc:"Address of the repository"`
	SHA     string   `json:"commitSha" doc:"Hash of the commit"`
	RefName string   `json:"refName,omitempty" doc:"Branch or tag"`
	Message string   `json:"commitMsg,omitempty" doc:"Message of the commit"`
}

func (s *service) hookDevLake(c connection, n *devLakeDeployment, f *faults) *record {
	f.names = map[string]string{
		"startTime": "startedDate", "endTime": "finishedDate", "status": "result", "detail": "displayTitle", "version": "refName", "commits": "deploymentCommits", "sha": "commitSha", "message": "commitMsg", "repository": "repoUrl",
	}
	if len(n.Commits) == 0 {
		f.add("commits", "is required: at least one")
	}
	d := newDeployment{
		ID: n.ID, Source: c.source(), Service: s.serviceOf(c), Environment: cmp.Or(n.Environment, "PRODUCTION"), OriginalEnvironment: n.OriginalEnvironment, Status: cmp.Or(n.Result, statusSuccess),
		StartTime: n.Started.when(), EndTime: n.Finished.when(), Detail: cmp.Or(n.DisplayTitle, n.Name), URL: n.URL,
	}
	if d.Status != statusSuccess && d.Status != statusFailure {
		f.add("status", "must be SUCCESS or FAILURE")
		d.Status = statusFailure
	}
	const most = 100
	for i, dc := range n.Commits[:min(most, len(n.Commits))] {
		if dc.RepoURL == "" {
			f.add(fmt.Sprintf("commits[%d].repository", i), "is required")
		}
		d.Commits = append(d.Commits, newCommit{SHA: dc.SHA, Message: dc.Message, Repository: dc.RepoURL})
		d.Version = cmp.Or(strings.TrimPrefix(dc.RefName, "refs/tags/"), dc.SHA[:min(7, len(dc.SHA))])
	}
	checked := d.check(f)
	if n.OriginalEnvironment != "" { // DevLake keeps both, and counts by the first
		checked.Environment = s.environments.normalise(d.Environment)
		return deploymentRecord(checked)
	}
	return s.deployment(checked)
}

// devLakeIssue is the body of DevLake's issues webhook. Only incidents count.
type devLakeIssue struct {
	_              struct{} `json:"-" additionalProperties:"true"`
	Key            string   `json:"issueKey" doc:"Its key, unique within the connection"`
	Title          string   `json:"title" doc:"Its title"`
	Type           string   `json:"type,omitempty" doc:"INCIDENT counts; others are taken and not kept"`
	Status         string   `json:"status,omitempty" doc:"DONE when it is over"`
	OriginalStatus string   `json:"originalStatus" doc:"The status in the sender's words"`
	URL            string   `json:"url,omitempty" doc:"Where to read more"`
	Severity       string   `json:"severity,omitempty" doc:"How bad it is"`
	Created        foreign  `json:"createdDate" format:"date-time" doc:"When it began"`
	Updated        foreign  `json:"updatedDate,omitempty" format:"date-time" doc:"When it was last changed"`
	Resolved       foreign  `json:"resolutionDate,omitempty" format:"date-time" doc:"When it was over"`
}

func (s *service) hookIssue(c connection, n *devLakeIssue, f *faults) *record {
	f.names = map[string]string{"id": "issueKey", "startedAt": "createdDate", "resolvedAt": "resolutionDate", "updatedAt": "updatedDate"}
	f.text("title", n.Title, true, maxText)
	f.text("originalStatus", n.OriginalStatus, true, maxText)
	i := newIncident{
		ID: n.Key, Source: c.source(), Service: s.serviceOf(c), Title: n.Title, Severity: n.Severity, URL: n.URL, StartedAt: n.Created.when(), ResolvedAt: n.Resolved.when(), UpdatedAt: n.Updated.when(),
	}
	if strings.EqualFold(n.Status, "DONE") && i.ResolvedAt == nil { // DevLake would know that it is over, and never count it
		i.ResolvedAt = cmp.Or(i.UpdatedAt, &when{s.thisSecond()})
	}
	checked := i.check(f)
	if !strings.EqualFold(n.Type, "INCIDENT") {
		return nil
	}
	return s.incident(checked)
}

// devLakePullRequest is the body of DevLake's pull requests webhook.
type devLakePullRequest struct {
	_           struct{} `json:"-" additionalProperties:"true"`
	ID          string   `json:"id" doc:"Its id, unique within the connection"`
	Title       string   `json:"displayTitle,omitempty" doc:"Its title"`
	Key         any      `json:"pullRequestKey" doc:"Its number"`
	URL         string   `json:"url,omitempty" doc:"Where to read more"`
	Author      string   `json:"authorName,omitempty" doc:"Who made it"`
	Created     foreign  `json:"createdDate" format:"date-time" doc:"When it was opened"`
	Merged      foreign  `json:"mergedDate,omitempty" format:"date-time" doc:"When it was merged"`
	MergeCommit string   `json:"mergeCommitSha,omitempty" doc:"Hash of the commit that brought it in"`
}

func (s *service) hookPullRequest(c connection, n *devLakePullRequest, f *faults) *record {
	f.names = map[string]string{"title": "displayTitle", "author": "authorName", "openedAt": "createdDate", "mergedAt": "mergedDate", "mergeCommit": "mergeCommitSha"}
	if n.Key == nil {
		f.add("pullRequestKey", "is required")
	}
	f.time("openedAt", n.Created.when(), true)
	return s.change(newChange{
		ID: n.ID, Source: c.source(), Service: s.serviceOf(c), Title: n.Title, URL: n.URL, Author: n.Author, OpenedAt: n.Created.when(), MergedAt: n.Merged.when(), MergeCommit: n.MergeCommit,
	}.check(f))
}

// fawkesIncident is what Fawkes' shared library for Jenkins, or its monitoring, sends.
type fawkesIncident struct {
	_           struct{} `json:"-" additionalProperties:"true"`
	ID          string   `json:"id" doc:"Its id"`
	Title       string   `json:"title,omitempty" doc:"Its title"`
	Status      string   `json:"status,omitempty" doc:"open or resolved"`
	Severity    string   `json:"severity,omitempty" doc:"How bad it is"`
	Created     foreign  `json:"createdDate" format:"date-time" doc:"When it began"`
	Resolved    foreign  `json:"resolvedDate,omitempty" format:"date-time" doc:"When it was over"`
	Service     string   `json:"service,omitempty" doc:"What was hit; the connection's service unless given"`
	Environment string   `json:"environment,omitempty" doc:"Where; those that reach users count"`
	URL         string   `json:"url,omitempty" doc:"Where to read more"`
}

func (s *service) hookIncident(c connection, n *fawkesIncident, f *faults) *record {
	if n.Environment != "" && s.environments.normalise(n.Environment) != production {
		return nil
	}
	f.names = map[string]string{"startedAt": "createdDate", "resolvedAt": "resolvedDate"}
	i := newIncident{ID: n.ID, Source: c.source(), Service: cmp.Or(n.Service, s.serviceOf(c)), Title: n.Title, Severity: n.Severity, URL: n.URL, StartedAt: n.Created.when(), ResolvedAt: n.Resolved.when()}
	if strings.EqualFold(n.Status, "resolved") && i.ResolvedAt == nil {
		i.ResolvedAt = &when{s.thisSecond()}
	}
	return s.incident(i.check(f))
}

// fawkesBuild is what Fawkes' shared library for Jenkins sends of a build.
type fawkesBuild struct {
	_           struct{} `json:"-" additionalProperties:"true"`
	Type        string   `json:"type" doc:"ci_build"`
	Service     string   `json:"service,omitempty" doc:"What was built"`
	CommitSHA   string   `json:"commit_sha,omitempty" doc:"Hash of the commit"`
	Branch      string   `json:"branch,omitempty" doc:"Its branch"`
	BuildNumber any      `json:"build_number" doc:"Its number"`
	Status      string   `json:"status,omitempty" doc:"SUCCESS, UNSTABLE, FAILURE or ABORTED"`
	DurationMS  float64  `json:"duration_ms,omitempty" doc:"How long it took, in milliseconds"`
	Stage       string   `json:"stage" doc:"Its stage, by which dora.builds tells deployments"`
	Timestamp   foreign  `json:"timestamp" format:"date-time" doc:"When it ended"`
	URL         string   `json:"url,omitempty" doc:"Where to read more"`
}

// hookBuild keeps of builds those that a rule counts as deployments, by the name of their stage.
func (s *service) hookBuild(c connection, n *fawkesBuild, f *faults) *record {
	env, ok := s.builds.environment(n.Stage, "")
	if n.Type != "ci_build" || !ok {
		return nil
	}
	f.names = map[string]string{"startTime": "timestamp", "endTime": "timestamp", "version": "commit_sha", "commit.sha": "commit_sha"}
	start := n.Timestamp.when()
	if start != nil {
		start = &when{start.Add(-time.Duration(n.DurationMS) * time.Millisecond)}
	}
	d := newDeployment{
		ID: fmt.Sprint(n.Service, "#", n.BuildNumber, " ", n.Stage), Source: "jenkins", Service: cmp.Or(n.Service, s.serviceOf(c)), Environment: env, StartTime: start, EndTime: n.Timestamp.when(),
		URL: n.URL, TriggeredBy: ptr("Jenkins"), Version: n.CommitSHA[:min(7, len(n.CommitSHA))], Status: map[string]string{"SUCCESS": statusSuccess, "UNSTABLE": statusSuccess, "ABORTED": statusCancelled}[strings.ToUpper(n.Status)],
	}
	d.Status = cmp.Or(d.Status, statusFailure)
	if n.CommitSHA != "" {
		d.Commit = &newCommit{SHA: n.CommitSHA}
	}
	return s.deployment(d.check(f))
}

// gitHubPush is GitHub's event of the same name.
type gitHubPush struct {
	Ref        string `json:"ref"`
	After      string `json:"after"`
	Deleted    bool   `json:"deleted"`
	Compare    string `json:"compare"`
	Repository struct {
		Name          string  `json:"name"`
		DefaultBranch string  `json:"default_branch"`
		PushedAt      foreign `json:"pushed_at"`
	} `json:"repository"`
	Commits []struct {
		Message   string  `json:"message"`
		Timestamp foreign `json:"timestamp"`
		Author    struct {
			Email string `json:"email"`
			Name  string `json:"name"`
		} `json:"author"`
	} `json:"commits"`
	Head *struct {
		Timestamp foreign `json:"timestamp"`
	} `json:"head_commit"`
}

// hookPush takes a push to the default branch for a change of the service of the repository's name: it is merged when it is pushed, and begins with its first commit.
func (s *service) hookPush(_ connection, n *gitHubPush, f *faults) *record {
	if n.Deleted || n.Ref != "refs/heads/"+n.Repository.DefaultBranch || len(n.Commits) == 0 {
		return nil
	}
	f.names = map[string]string{"id": "after", "service": "repository.name", "url": "compare", "mergeCommit": "after", "openedAt": "commits.timestamp", "mergedAt": "repository.pushed_at"}
	ch := newChange{ID: n.After, Source: "push", Service: n.Repository.Name, URL: n.Compare, MergeCommit: n.After, MergedAt: n.Repository.PushedAt.when()}
	for _, c := range n.Commits {
		if ch.FirstCommitAt == nil || !c.Timestamp.IsZero() && c.Timestamp.Before(ch.FirstCommitAt.Time) {
			ch.FirstCommitAt = c.Timestamp.when()
		}
	}
	last := n.Commits[len(n.Commits)-1]
	ch.Title, _, _ = strings.Cut(last.Message, "\n")
	ch.Title = ch.Title[:min(len(ch.Title), 300)]
	ch.Title = strings.ToValidUTF8(ch.Title, "")
	ch.Author = cmp.Or(last.Author.Email, last.Author.Name)
	if ch.MergedAt == nil && n.Head != nil {
		ch.MergedAt = n.Head.Timestamp.when()
	}
	// A commit's clock may be ahead of the host's.
	if ch.FirstCommitAt != nil && ch.MergedAt != nil && ch.FirstCommitAt.After(ch.MergedAt.Time) {
		ch.FirstCommitAt = ch.MergedAt
	}
	ch.OpenedAt = cmp.Or(ch.FirstCommitAt, ch.MergedAt)
	return s.change(ch.check(f))
}

// signed says whether a signature over a body is the one that GitHub makes with the secret, in constant time.
func signed(secret, signature string, body []byte) bool {
	want, err := hex.DecodeString(strings.TrimPrefix(signature, "sha256="))
	if err != nil || secret == "" {
		return false
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hmac.Equal(mac.Sum(nil), want)
}
