package dora

import (
	"embed"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/job"
)

//go:embed README.md
var readme string

//go:embed migrations
var files embed.FS

func migrations() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the folder is embedded
	}
	return sub
}

// Blueprint is DORA metrics and deployment history.
var Blueprint = blueprint.Blueprint{
	Name: "dora", Version: "0.1.0", Stability: blueprint.Experimental,
	Summary: "DORA metrics and deployment history, fed by reports, DevLake's webhooks and providers.",
	Config:  func() any { return defaultConfig() },
	Mounts: []blueprint.Mount{
		{Prefix: "/api/devlake", Dialect: blueprint.API},
		{Prefix: "/api/plugins/webhook", Dialect: blueprint.API, Lenient: true},
		{Prefix: "/api/rest/plugins/webhook", Dialect: blueprint.API, Lenient: true},
	},
	Databases: []blueprint.Database{{Name: "main", Migrations: migrations(), Tables: []string{
		"dora_service", "dora_binding", "dora_deployment", "dora_tally", "dora_change", "dora_incident", "dora_block",
	}}},
	Permissions: []auth.Permission{
		{Name: metricsPermission, Text: "See the DORA metrics of services whose entity one may read", Object: "entity"},
		{Name: historyPermission, Text: "See the deployments, changes and incidents of services whose entity one may read", Object: "entity"},
		{Name: reportPermission, Text: "Report deployments, changes and incidents of a service", Object: "entity"},
	},
	Jobs: []blueprint.Job{
		blueprint.Work((*service).settle, job.Worker{Text: "Works out what follows of reports that a replica could not finish", Timeout: 10 * time.Minute}),
		blueprint.Work((*service).takeItem, job.Worker{Text: "Takes a deployment over that a provider tells of", Timeout: time.Minute}),
		blueprint.Work((*service).takeHistory, job.Worker{Text: "Takes deployments over that were there before their project was known", Timeout: 10 * time.Minute}),
		blueprint.Work((*service).collect, job.Worker{Text: "Looks through what providers know of deployments", Timeout: time.Hour}),
		blueprint.Work((*service).prune, job.Worker{Text: "Deletes deployments, changes and incidents that are older than they are kept", Timeout: time.Hour}),
		blueprint.Work((*service).bindAll, job.Worker{Text: "Finds out anew which services belong to which entities", Timeout: 10 * time.Minute}),
	},
	Schedules: []job.Schedule{
		{Name: "dora.settle", Text: "Works out what follows of reports that a replica could not finish", Every: 10 * time.Second, Args: settleJob{}},
		{Name: "dora.collect", Text: "Looks through what providers know of deployments, for what was missed", Every: 6 * time.Hour, Args: collectJob{}},
		{Name: "dora.prune", Text: "Deletes what is older than retention.deployments", Every: 24 * time.Hour, Args: pruneJob{}},
		{Name: "dora.bind", Text: "Finds out anew which services belong to which entities", Every: time.Hour, Args: bindJob{}},
	},
	Subscriptions: []blueprint.Subscription{
		blueprint.Ahead(blueprint.Subscribe("dora.bind", entity.Events, (*service).follow), (*service).ahead),
		blueprint.Subscribe("dora.items", itemEvents, (*service).hearItem),
		blueprint.Subscribe("dora.history", []string{deploymentHistory, buildHistory}, (*service).hearHistory),
	},
	Events:     events,
	Commands:   []func(*blueprint.Client) *cobra.Command{commands},
	Pages:      []blueprint.Page{{Slug: "metrics", Title: "DORA metrics", Text: readme}},
	Operations: append(operations(), hookOperations()...),
	Open:       open,
}

func operations() []blueprint.Operation {
	return []blueprint.Operation{
		blueprint.Handle((*service).getMetrics, blueprint.Operation{
			ID: "dora.metrics", Method: "GET", Path: "/api/devlake/dora-metrics", Permission: metricsPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
			Summary: "DORA metrics of a project or team",
			Description: "Gives the four metrics of DORA, and the rework rate, of the services of a project, of a team, of both, or of all that the caller may see, with their performance class and their trend " +
				"against the period of the same length before. What each number means, and what DevLake shows instead, stands in the page DORA metrics.",
			ResponseExample: exampleReport,
		}),
		blueprint.Handle((*service).getExplanation, blueprint.Operation{
			ID: "dora.explain", Method: "GET", Path: "/api/devlake/dora-metrics/explain", Permission: historyPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
			Summary: "What is behind a metric", Description: "Lists the deployments, changes or incidents that a number was made of, newest first, and says of each whether it counts and why.",
			ResponseExample: Explanation{
				Of: "incidents", Period: exampleReport.Period, Text: "The median length of the incidents that count.", PageInfo: slipway.PageInfo{Limit: 20},
				Items: []Explained{{Incident: &exampleIncident, Service: "my-service", Counts: true, DeploymentID: "deploy-789", Seconds: ptr[int64](2880), Why: "it began 1 h after the deployment"}},
			},
		}),
		blueprint.Handle((*service).getHistory, blueprint.Operation{
			ID: "dora.history", Method: "GET", Path: "/api/devlake/deployment-history", Permission: historyPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
			Summary: "Deployments of a service", Description: "Lists deployments, newest first by when they began.",
			ResponseExample: History{Service: ptr("my-service"), Deployments: []Deployment{exampleDeployment}, Total: 1, PageInfo: slipway.PageInfo{Limit: 20}},
		}),
		blueprint.Handle(reported[newDeployment]((*service).deployment), blueprint.Operation{
			ID: "dora.reportDeployments", Method: "POST", Path: "/api/devlake/deployments", Permission: reportPermission, OnObject: true, MaxBody: maxReport, Timeout: 2 * time.Minute,
			Summary: "Report deployments",
			Description: "Takes one deployment, or a list of up to 1,000: `id`, `service`, `environment`, `status` (SUCCESS, FAILURE, IN_PROGRESS, CANCELLED) and `startTime` are required, and `endTime` of what has ended; " +
				"`source` (who reports; ids are unique within it), `project`, `version`, `triggeredBy`, `url`, `detail`, `commit` and `commits` (`sha`, `message`, `author`, `time`, `repository`), `rework`, `rollback` and `updatedAt` are not. " +
				"The same id again changes what is stored, unless it is older: by `updatedAt` where both have it, else one that runs never replaces one that has ended. Either all are valid, or nothing is stored. " +
				"History and metrics have them as soon as the answer is there.",
			Request: blueprint.OneOrMany[newDeployment]{},
			RequestExample: map[string]any{
				"id": "deploy-789", "service": "my-service", "version": "v1.2.3", "environment": "production", "status": "SUCCESS", "startTime": "2024-12-06T08:00:00Z", "endTime": "2024-12-06T08:05:00Z",
				"triggeredBy": "GitHub Push", "commit": map[string]any{"sha": "def456", "message": "feat: add new feature", "author": "developer@example.com", "time": "2024-12-06T05:30:00Z"},
			},
			ResponseExample: Accepted{Accepted: 1, Created: 1},
		}),
		blueprint.Handle(reported[newChange]((*service).change), blueprint.Operation{
			ID: "dora.reportChanges", Method: "POST", Path: "/api/devlake/changes", Permission: reportPermission, OnObject: true, MaxBody: maxReport, Timeout: 2 * time.Minute,
			Summary: "Report changes",
			Description: "Takes one change, or a list of up to 1,000: a pull request or the like. `id`, `service` and `openedAt` are required; `source`, `project`, `title`, `author`, `url`, `firstCommitAt`, `mergedAt`, " +
				"`mergeCommit`, `deploymentId` and `updatedAt` are not. A change comes with the deployment that `deploymentId` names, else with the first one to production that succeeds after `mergedAt`.",
			Request: blueprint.OneOrMany[newChange]{},
			RequestExample: map[string]any{
				"id": "42", "source": "github", "service": "my-service", "title": "Add a feature", "firstCommitAt": "2024-12-06T05:30:00Z", "openedAt": "2024-12-06T06:00:00Z", "mergedAt": "2024-12-06T07:50:00Z",
			},
			ResponseExample: Accepted{Accepted: 1, Created: 1},
		}),
		blueprint.Handle(reported[newIncident]((*service).incident), blueprint.Operation{
			ID: "dora.reportIncidents", Method: "POST", Path: "/api/devlake/incidents", Permission: reportPermission, OnObject: true, MaxBody: maxReport, Timeout: 2 * time.Minute,
			Summary: "Report incidents",
			Description: "Takes one incident, or a list of up to 1,000. `id`, `service` and `startedAt` are required; `source`, `project`, `title`, `severity`, `url`, `resolvedAt`, `deploymentId` and `updatedAt` are not. " +
				"An incident belongs to the deployment that `deploymentId` names, else to the last one to production before `startedAt`; send it again with `resolvedAt` once it is over.",
			Request:         blueprint.OneOrMany[newIncident]{},
			RequestExample:  map[string]any{"id": "INC-7", "service": "my-service", "title": "Checkout is down", "startedAt": "2024-12-06T09:05:00Z", "resolvedAt": "2024-12-06T09:53:00Z"},
			ResponseExample: Accepted{Accepted: 1, Created: 1},
		}),
	}
}

// maxReport is how large a report may be: 1,000 deployments with some commits each.
const maxReport = 8 << 20

func ptr[T any](v T) *T { return &v }

var (
	exampleTime       = time.Date(2024, 12, 6, 8, 0, 0, 0, time.UTC)
	exampleDeployment = Deployment{
		ID: "deploy-789", Version: ptr("v1.2.3"), Environment: "prod", Status: statusSuccess, StartTime: exampleTime, EndTime: ptr(exampleTime.Add(5 * time.Minute)), Duration: ptr[int64](300),
		TriggeredBy: ptr("GitHub Push"), Commit: &Commit{SHA: "def456…", Message: "feat: add new feature", Author: "developer@example.com"},
		Service: "my-service", Source: "api", OriginalEnvironment: "production",
	}
	exampleIncident = Incident{ID: "INC-7", Service: "my-service", Source: "api", Title: "Checkout is down", StartedAt: exampleTime.Add(65 * time.Minute), ResolvedAt: ptr(exampleTime.Add(113 * time.Minute))}
	exampleReport   = Report{
		Project: ptr("my-service"), Team: ptr("platform-team"), Period: Period{"2024-11-01", "2024-12-01"}, Environment: production, Services: 1, Benchmark: "2023", Definitions: "slipway",
		Metrics: Metrics{
			DeploymentFrequency:  Metric{Value: ptr(12.0), Unit: unitFrequency, Trend: ptr(Increasing), Performance: ptr(Elite), Text: "1.71/day", Previous: ptr(9.0), Count: 53},
			LeadTimeForChanges:   Metric{Value: ptr(2.5), Unit: unitHours, Trend: ptr(Stable), Performance: ptr(Elite), Text: "2 h 30 min", Previous: ptr(2.45), Count: 60},
			ChangeFailureRate:    Metric{Value: ptr(5.2), Unit: unitPercent, Trend: ptr(Decreasing), Performance: ptr(High), Text: "5.2 %", Previous: ptr(7.0), Count: 3, Of: 58},
			TimeToRestoreService: Metric{Value: ptr(0.8), Unit: unitHours, Trend: ptr(Stable), Performance: ptr(Elite), Text: "48 min", Previous: ptr(0.8), Count: 3},
			ReworkRate:           Metric{Value: ptr(3.4), Unit: unitPercent, Trend: ptr(Stable), Text: "3.4 %", Previous: ptr(3.3), Count: 2, Of: 58},
		},
	}
)
