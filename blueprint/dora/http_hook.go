package dora

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
)

// Success is DevLake's answer to a webhook.
type Success struct {
	Success bool   `json:"success" doc:"Always true"`
	Message string `json:"message" doc:"success, or why nothing is kept of it"`
}

// hookInput is a webhook as it comes.
type hookInput struct {
	Connection string `path:"connection" maxLength:"400" doc:"Id of a connection, connections/<id>, connections/by-name/<name>, or projects/<project>. A Slipway token in place of the id or name is the credential of a sender that cannot set a header" example:"1"`
	Headers    blueprint.Headers
	RawBody    []byte
}

// closeInput is a webhook that says everything in its path.
type closeInput struct {
	Connection string `path:"connection" maxLength:"400" doc:"As in the other webhooks" example:"1"`
	IssueKey   string `path:"issueKey" maxLength:"300" doc:"issueKey of the incident" example:"INC-7"`
}

// sender reads over which connection a webhook comes, and says who sends it: whoever the request's token is of, or the one in the path.
func (s *service) sender(ctx context.Context, path string) (connection, *slipway.Caller, error) {
	c, err := parseConnection(path)
	if err != nil {
		return c, nil, err
	}
	caller := auth.CallerFrom(ctx)
	if c.token != "" {
		r := &http.Request{Header: http.Header{"Authorization": {"Bearer " + c.token}}}
		if caller, err = s.auth.Authenticate(ctx, r); err != nil {
			return c, nil, err
		}
	}
	if caller.Kind == slipway.CallerAnonymous {
		return c, nil, slipway.Errorf(slipway.Unauthenticated, "this needs a token: send Authorization: Bearer <token>, or put the token in place of the connection's id")
	}
	if _, err := s.auth.Count(ctx, caller, ""); err != nil {
		return c, nil, err
	}
	return c, caller, auth.RequireAny(auth.WithCaller(ctx, caller), reportPermission)
}

type successOutput struct{ Body Success }

func succeeded(message string) *successOutput { return &successOutput{Success{true, message}} }

// hooked is the handler of webhooks whose bodies are of one shape.
func hooked[T any](told func(*service, connection, *T, *faults) *record) func(*service, context.Context, *hookInput) (*successOutput, error) {
	return func(s *service, ctx context.Context, in *hookInput) (*successOutput, error) {
		c, caller, err := s.sender(ctx, in.Connection)
		if err != nil {
			return nil, err
		}
		return hear(ctx, s, caller, c, in.RawBody, told)
	}
}

// hear stores what a webhook tells.
func hear[T any](ctx context.Context, s *service, caller *slipway.Caller, c connection, raw []byte, told func(*service, connection, *T, *faults) *record) (*successOutput, error) {
	r, err := readHook(s, c, raw, &faults{now: s.now()}, told)
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return succeeded(nothing), nil
	}
	_, err = s.reportAs(ctx, caller, []record{*r})
	return succeeded("success"), err
}

// hookCommits takes GitHub's events: signed with the configured secret, or with a token.
func (s *service) hookCommits(ctx context.Context, in *hookInput) (*successOutput, error) {
	var c connection
	caller := auth.System()
	var err error
	if signature := in.Headers.Get("X-Hub-Signature-256"); signature == "" || s.config.PushSecret.IsZero() {
		c, caller, err = s.sender(ctx, in.Connection)
	} else if !signed(s.config.PushSecret.Reveal(), signature, in.RawBody) {
		err = slipway.Errorf(slipway.Unauthenticated, "the signature in X-Hub-Signature-256 is not right; give the webhook the secret of dora.pushSecret")
	}
	if err != nil {
		return nil, err
	}
	if event := in.Headers.Get("X-GitHub-Event"); event != "" && event != "push" {
		return succeeded(nothing), nil
	}
	return hear(ctx, s, caller, c, in.RawBody, (*service).hookPush)
}

// hookClose marks an incident as over, now: DevLake would mark it without saying when, and never count it.
func (s *service) hookClose(ctx context.Context, in *closeInput) (*successOutput, error) {
	c, caller, err := s.sender(ctx, in.Connection)
	if err != nil {
		return nil, err
	}
	found, err := storedRecords(ctx, s.db, incidentKind, []record{{id: in.IssueKey, source: c.source()}})
	if err != nil {
		return nil, err
	}
	b, ok := found[sourceID{in.IssueKey, c.source()}]
	if !ok {
		return nil, slipway.Errorf(slipway.NotFound, "connection %s has reported no incident %q", c.name, clip(in.IssueKey))
	}
	var i Incident
	if err := json.Unmarshal([]byte(b.doc), &i); err != nil {
		return nil, err
	}
	if i.ResolvedAt == nil {
		i.ResolvedAt = ptr(s.thisSecond())
		if i.UpdatedAt != nil {
			i.UpdatedAt = i.ResolvedAt
		}
		_, err = s.reportAs(ctx, caller, []record{*s.incident(i)})
	}
	return succeeded("success"), err
}

// pushed describes GitHub's push event, of which only some fields are read.
type pushed map[string]any

// hookOperations are DevLake's webhook paths, with and without the prefix that its proxy takes off, and those that Fawkes sends to.
func hookOperations() (list []blueprint.Operation) {
	const errors = "Whoever may use the paths of DevLake's webhooks there may use them here, unchanged. "
	for _, prefix := range []struct{ path, id string }{{"/api/plugins/webhook", "hook"}, {"/api/rest/plugins/webhook", "rest"}} {
		op := func(id, path, summary, description string, request, example any) blueprint.Operation {
			return blueprint.Operation{
				ID: "dora." + prefix.id + id, Method: "POST", Path: prefix.path + "/{connection}" + path, Wide: "connection", Segments: 3, Permission: blueprint.Public, Lenient: true, MaxBody: maxReport,
				Tag: "webhooks", Summary: summary, Description: description, Errors: []slipway.Code{slipway.NotFound}, Request: request, RequestExample: example, ResponseExample: Success{true, "success"},
			}
		}
		list = append(list,
			blueprint.Handle(hooked((*service).hookDeployment), op("Deployments", "/deployments", "DevLake's deployments webhook", errors+
				"Also takes the notification that Fawkes has Argo CD send (`event_type`). A token with `"+reportPermission+"` is asked for, as `Authorization: Bearer` or in place of the connection's id.", devLakeDeployment{}, map[string]any{
				"id": "deploy-789", "result": "SUCCESS", "environment": "PRODUCTION", "startedDate": "2024-12-06T08:00:00Z", "finishedDate": "2024-12-06T08:05:00Z",
				"deploymentCommits": []any{map[string]any{"repoUrl": "https://github.com/octo/my-service", "commitSha": "def456", "refName": "v1.2.3", "startedDate": "2024-12-06T08:00:00Z", "finishedDate": "2024-12-06T08:05:00Z"}},
			})),
			blueprint.Handle(hooked((*service).hookIssue), op("Issues", "/issues", "DevLake's issues webhook", errors+"Of issues, those of the type INCIDENT are kept.", devLakeIssue{}, map[string]any{
				"issueKey": "INC-7", "title": "Checkout is down", "type": "INCIDENT", "originalStatus": "open", "status": "IN_PROGRESS", "createdDate": "2024-12-06T09:05:00Z",
			})),
			blueprint.Handle((*service).hookClose, op("Close", "/issue/{issueKey}/close", "DevLake's webhook that closes an issue", errors+"The incident is over at the moment of the call.", nil, nil)),
			blueprint.Handle(hooked((*service).hookPullRequest), op("PullRequests", "/pull_requests", "DevLake's pull requests webhook", errors, devLakePullRequest{}, map[string]any{
				"id": "42", "displayTitle": "Add a feature", "pullRequestKey": 42, "createdDate": "2024-12-06T06:00:00Z", "mergedDate": "2024-12-06T07:50:00Z", "mergeCommitSha": "def456",
			})),
		)
		if prefix.id == "rest" {
			continue
		}
		list = append(list,
			blueprint.Handle(hooked((*service).hookIncident), op("Incidents", "/incidents", "Incidents as Fawkes sends them", "Of environments that reach users.", fawkesIncident{}, map[string]any{
				"id": "INC-7", "title": "Checkout is down", "status": "open", "severity": "critical", "createdDate": "2024-12-06T09:05:00Z", "service": "my-service", "environment": "production", "url": "https://status.example.com/7",
			})),
			blueprint.Handle(hooked((*service).hookBuild), op("Builds", "/cicd", "Builds as Fawkes' library for Jenkins sends them", "Those that `dora.builds` counts as deployments, by the name of their stage, are kept.", fawkesBuild{}, map[string]any{
				"type": "ci_build", "service": "my-service", "commit_sha": "def456", "branch": "main", "build_number": 42, "status": "SUCCESS", "duration_ms": 300000, "stage": "deploy-prod", "timestamp": "2024-12-06T08:05:00Z",
			})),
			blueprint.Handle((*service).hookCommits, op("Commits", "/commits", "GitHub's pushes", "A push to the default branch is a change of the service of the repository's name. Signed with `dora.pushSecret` (`X-Hub-Signature-256`), or with a token.", pushed{}, map[string]any{
				"ref": "refs/heads/main", "after": "def456", "repository": map[string]any{"name": "my-service", "default_branch": "main", "pushed_at": 1733471400},
				"commits": []any{map[string]any{"id": "def456", "message": "feat: add new feature", "timestamp": "2024-12-06T05:30:00Z", "author": map[string]any{"email": "developer@example.com"}}},
			})),
		)
	}
	return list
}
