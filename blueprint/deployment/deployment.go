// Package deployment is the blueprint of deployments: what was brought where of the things one owns, whoever did it. The index, its freshness and its paging are
// package task's; this package declares the task and has the HTTP paths.
package deployment

import (
	"context"
	"embed"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/task"
)

//go:embed README.md
var readme string

//go:embed migrations
var files embed.FS

const readPermission = "deployment.deployment.read"

// Task is the platform task of deployments. docs/tasks/deployment.md argues its base set.
var Task = task.Task[slipway.Deployment]{
	Name: "deployment", Text: "One time that a version of something was brought into an environment.", Permission: readPermission,
	Base:    []string{"id", "entityRef", "provider", "environment", "status", "createdAt", "startedAt", "finishedAt", "url", "triggeredBy", "commit"},
	Actions: []string{},
	Statuses: []string{
		string(slipway.DeploymentStarting), string(slipway.DeploymentRunning), string(slipway.DeploymentSucceeded), string(slipway.DeploymentFailed),
		string(slipway.DeploymentCanceled), string(slipway.DeploymentUnknown),
	},
	Fields: []task.Field[slipway.Deployment]{
		{Name: "triggeredBy", Text: "who caused it: id, name, e-mail address or entity ref; me is the caller", Person: true, Of: func(d *slipway.Deployment) []string {
			p := d.TriggeredBy
			if p == nil {
				return nil
			}
			return []string{p.ID, p.Email, p.Name, p.EntityRef}
		}},
		{Name: "version", Text: "tag, branch or other name of what was deployed", Of: func(d *slipway.Deployment) []string { return []string{d.Version} }},
		{Name: "environment", Text: "environment, in the vendor's own words", Of: func(d *slipway.Deployment) []string { return []string{d.Environment} }},
	},
	Row: row,
	Adorn: func(d *slipway.Deployment, p slipway.ProviderRef, person func(*slipway.Person)) {
		d.ID, d.Provider = p.Name+":"+d.ID, p
		if d.TriggeredBy != nil {
			by := *d.TriggeredBy
			person(&by)
			d.TriggeredBy = &by
		}
	},
	List: func(p *provider.Provider) func(context.Context, string, provider.ListOptions) (provider.Page[slipway.Deployment], error) {
		if p.Deployments == nil {
			return nil
		}
		return p.Deployments.List
	},
	Get: func(p *provider.Provider) func(context.Context, string, string) (slipway.Deployment, error) {
		if p.Deployments == nil {
			return nil
		}
		return p.Deployments.Get
	},
	Gone: func(d *slipway.Deployment) {
		end := d.CreatedAt
		if d.StartedAt != nil {
			end = *d.StartedAt
		}
		d.Status, d.Detail, d.FinishedAt = slipway.DeploymentUnknown, "the provider no longer has it", &end
	},
	Events: eventsOf, MaxEvents: 2,
	Earlier: &task.Earlier[slipway.Deployment]{Wanted: succeeds, Field: "environment", Status: string(slipway.DeploymentSucceeded)},
}

// row orders the states of one deployment: by the vendor's clock where it has one, else forward. Of two states of one moment, as vendors have that count in seconds, the end is the
// later; otherwise the status is not part of the order there, as a list may show a deployment in part.
func row(d *slipway.Deployment) task.Row {
	r := task.Row{ID: d.ID, Created: d.CreatedAt, Status: string(d.Status), Finished: d.Status.Finished() || d.FinishedAt != nil}
	switch {
	case d.UpdatedAt != nil:
		if r.Version = d.UpdatedAt.UnixMicro(); r.Finished {
			r.Version++
		}
	case r.Finished:
		r.Version = 2
	case d.Status != slipway.DeploymentStarting:
		r.Version = 1
	}
	return r
}

// service answers for deployments.
type service struct {
	index *task.Index[slipway.Deployment]
}

func open(_ context.Context, h *blueprint.Host) (any, error) {
	return &service{index: task.New(h.Tasks, Task)}, nil
}

// Blueprint is the deployments of the things that one owns.
var Blueprint = blueprint.Blueprint{
	Name: "deployment", Version: "0.1.0", Stability: blueprint.Experimental,
	Summary:   "Deployments by entity, whoever did them: search and webhooks.",
	Mounts:    []blueprint.Mount{{Prefix: "/api/deployment", Dialect: blueprint.API}},
	Databases: []blueprint.Database{{Name: "main", Migrations: blueprint.Folder(files, "migrations"), Tables: []string{"deployment_item"}}},
	Tasks:     []blueprint.TaskInfo{Task.Info()},
	Events:    events,
	Commands:  []func(*blueprint.Client) *cobra.Command{commands},
	Pages:     []blueprint.Page{{Slug: "deployments", Title: "Deployments", Text: readme}},
	Permissions: []auth.Permission{
		{Name: readPermission, Text: "See the deployments of an entity that one may read", Object: "entity"},
	},
	Operations: []blueprint.Operation{
		blueprint.Handle((*service).search, blueprint.Operation{
			ID: "deployment.search", Method: "GET", Path: "/api/deployment/by-entity/{entityRef}/search", Wide: "entityRef",
			Summary: "Search the deployments of an entity", Permission: readPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
			Description:     "Gives the deployments of all providers that serve the entity as one list, newest first, from Slipway's index; `sources` says how old each part of it is. It is the search of the task `build`, for deployments.",
			Columns:         []string{"id", "status", "environment", "version", "createdAt", "durationSeconds", "commit.sha", "triggeredBy.name", "url"},
			ResponseExample: examplePage,
		}),
		blueprint.Handle((*service).searchAll, blueprint.Operation{
			ID: "deployment.searchAll", Method: "GET", Path: "/api/deployment/search",
			Summary: "Search deployments across entities", Permission: readPermission, OnObject: true,
			Description:     "The same across all entities that the caller may read and whose deployments the caller may see, or those of an owner, a system, a kind.",
			Columns:         []string{"id", "status", "environment", "entityRef", "version", "createdAt", "durationSeconds", "commit.sha", "triggeredBy.name", "url"},
			ResponseExample: examplePage,
		}),
		blueprint.Handle((*service).get, blueprint.Operation{
			ID: "deployment.get", Method: "GET", Path: "/api/deployment/by-entity/{entityRef}/deployments/{id}", Wide: "entityRef",
			Summary: "Get a deployment", Permission: readPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
			ResponseExample: exampleDeployment,
		}),
	},
	Open: open,
}

var (
	exampleTime       = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	exampleEnd        = exampleTime.Add(90 * time.Second)
	exampleSeconds    = 90.0
	exampleDeployment = slipway.Deployment{
		ID: "github:145988746", EntityRef: "component:default/web", Provider: slipway.ProviderRef{Name: "github", Type: "github"}, Environment: "production", Version: "v1.2.3", Status: slipway.DeploymentSucceeded, Detail: "success",
		CreatedAt: exampleTime, StartedAt: &exampleTime, FinishedAt: &exampleEnd, DurationSeconds: &exampleSeconds, URL: "https://github.com/octo/web/deployments", TriggeredBy: &slipway.Person{ID: "jane"},
		Commit: &slipway.Commit{SHA: "a84d88e7554fc1fa21bcbc4efae3c782a70d2b9d", Branch: "v1.2.3"},
	}
	examplePage = Page{
		Items: []slipway.Deployment{exampleDeployment}, PageInfo: slipway.PageInfo{Limit: 20},
		Sources: []slipway.Source{{Provider: "github", Type: "github", Project: "octo/web", State: slipway.SourceFresh, AsOf: &exampleTime}},
	}
)
