package build

import (
	"embed"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
)

//go:embed README.md
var readme string

//go:embed migrations
var files embed.FS

// Blueprint is the builds of the things that one owns.
var Blueprint = blueprint.Blueprint{
	Name: "build", Version: "0.1.0", Stability: blueprint.Experimental,
	Summary: "Builds by entity, whoever runs them: search, logs, retrigger, start, webhooks.",
	Mounts: []blueprint.Mount{
		{Prefix: "/api/build", Dialect: blueprint.API},
		{Prefix: "/api/tasks", Dialect: blueprint.API},
		{Prefix: "/hooks", Dialect: blueprint.Plain, Lenient: true},
	},
	Databases: []blueprint.Database{{Name: "main", Migrations: blueprint.Folder(files, "migrations"), Tables: []string{"build_item"}}},
	Tasks:     []blueprint.TaskInfo{Task.Info()},
	Events:    events,
	Commands:  []func(*blueprint.Client) *cobra.Command{commands},
	Pages:     []blueprint.Page{{Slug: "builds", Title: "Builds", Text: readme}},
	Permissions: []auth.Permission{
		{Name: readPermission, Text: "See the builds of an entity that one may read", Object: "entity", Tools: true},
		{Name: retriggerPermission, Text: "Run builds of an entity again", Object: "entity"},
		{Name: startPermission, Text: "Start builds of an entity", Object: "entity"},
		{Name: cancelPermission, Text: "Cancel builds of an entity", Object: "entity"},
		{Name: logsPermission, Text: "Read the logs of builds of an entity", Object: "entity", Tools: true},
		{Name: tasksPermission, Text: "See which platform tasks there are", Everyone: true},
	},
	Operations: []blueprint.Operation{
		blueprint.Handle((*service).search, blueprint.Operation{
			ID: "build.search", Method: "GET", Path: "/api/build/by-entity/{entityRef}/search", Wide: "entityRef",
			Summary: "Search the builds of an entity", Permission: readPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
			Description: "Gives the builds of all providers that serve the entity as one list, newest first. The answer comes from Slipway's index and says in `sources` how old each part " +
				"of it is; a stale source is read again behind the answer. Where several filters meet, a page may hold fewer builds than `limit` and still have more behind it: " +
				"`pageInfo.hasMore` says so. An entity without a provider has no builds, and `sources` says what to annotate.",
			Columns:         []string{"id", "status", "createdAt", "durationSeconds", "commit.message", "commit.branch", "commit.sha", "triggeredBy.name", "url"},
			ResponseExample: examplePage,
		}),
		blueprint.Handle((*service).searchAll, blueprint.Operation{
			ID: "build.searchAll", Method: "GET", Path: "/api/build/search",
			Summary: "Search builds across entities", Permission: readPermission, OnObject: true,
			Description: "The same across all entities that the caller may read and whose builds the caller may see, or those of an owner, a system, a kind. A build that belongs to several of " +
				"them is shown once. `sources` are those of the entities, or where these are too many (over 300 entities or 64 sources), those of the page's builds; then `fresh` is left out.",
			Columns:         []string{"id", "status", "createdAt", "entityRef", "durationSeconds", "commit.message", "commit.branch", "commit.sha", "triggeredBy.name", "url"},
			ResponseExample: examplePage,
		}),
		blueprint.Handle((*service).get, blueprint.Operation{
			ID: "build.get", Method: "GET", Path: "/api/build/by-entity/{entityRef}/builds/{id}", Wide: "entityRef",
			Summary: "Get a build", Permission: readPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
			ResponseExample: exampleBuild,
		}),
		blueprint.Handle((*service).logs, blueprint.Operation{
			ID: "build.logs", ResponseExample: "cloning file:///srv/git/web\ncommit 8d44a32 by Jane Doe: Welcome page\nrunning ./build.sh\n", Method: "GET", Path: "/api/build/by-entity/{entityRef}/builds/{id}/logs", Wide: "entityRef", Timeout: -1,
			Summary: "Read the log of a build", Permission: logsPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound, slipway.Unsupported},
			Description: "The log as text, straight from the provider; with `follow` it goes on until the build ends. 501 when the provider has no logs.",
		}),
		blueprint.Handle((*service).postRetrigger, blueprint.Operation{
			ID: "build.retrigger", Method: "POST", Path: "/api/build/by-entity/{entityRef}/retrigger", Wide: "entityRef", Status: 202, Idempotent: true,
			Summary: "Run a build again", Permission: retriggerPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound, slipway.Conflict, slipway.Unsupported},
			Description: "Has the provider run a build again: what failed of it, or all when the provider can do no less. Fields that are not known here are passed to the provider. " +
				"Without `buildId` they have to find one build: `provider`, `commit`, `branch`, `pipeline`, `number`, `attempt`. " +
				"409 for a build that neither failed nor was canceled, unless `force=true`; 501 when the provider cannot.",
			RequestExample:  map[string]any{"buildId": "ci:0198c2f0"},
			ResponseExample: Accepted{Accepted: true, Build: &exampleBuild, URL: exampleBuild.URL},
		}),
		blueprint.Handle((*service).postStart, blueprint.Operation{
			ID: "build.start", Method: "POST", Path: "/api/build/by-entity/{entityRef}/start", Wide: "entityRef", Status: 202, Idempotent: true,
			Summary: "Start a build", Permission: startPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound, slipway.Conflict, slipway.Unsupported},
			Description: "Has the provider build a branch, tag or commit. Fields that are not known here are passed to the provider; all are optional, and no body is as good as `{}`. " +
				"501 when no provider of the entity can start builds.",
			RequestExample:  map[string]any{"ref": "main"},
			ResponseExample: Accepted{Accepted: true, Build: &exampleBuild, URL: exampleBuild.URL},
		}),
		blueprint.Handle((*service).postCancel, blueprint.Operation{
			ID: "build.cancel", Method: "POST", Path: "/api/build/by-entity/{entityRef}/builds/{id}/cancel", Wide: "entityRef", Status: 202,
			Summary: "Cancel a build", Permission: cancelPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound, slipway.Conflict, slipway.Unsupported},
			Description:     "Has the provider end a build that waits or runs; it may go on for a moment. `build` is how it stands right after. 409 for one that has ended; 501 when the provider cannot.",
			ResponseExample: Accepted{Accepted: true, Build: &exampleBuild, URL: exampleBuild.URL},
		}),
		blueprint.Handle((*service).tasks, blueprint.Operation{
			ID: "build.tasks", Method: "GET", Path: "/api/tasks", Tag: "tasks", Permission: tasksPermission,
			Summary: "List platform tasks", Description: "Each with its base set of fields and actions, and the providers that serve it.",
			ResponseExample: blueprint.List[TaskStatus]{Items: []TaskStatus{{Info: Task.Info()}}, PageInfo: slipway.PageInfo{Limit: 1}},
		}),
		blueprint.Before(blueprint.Handle((*service).hook, blueprint.Operation{
			ID: "build.hook", RequestExample: map[string]any{"action": "completed", "workflow_run": map[string]any{"id": 42}}, Method: "POST", Path: "/hooks/{provider}", Tag: "webhooks", Permission: blueprint.Public, Lenient: true, Status: 202, MaxBody: 25 << 20,
			Summary: "Take a vendor's webhook", Errors: []slipway.Code{slipway.NotFound, slipway.Unsupported},
			Description: "For the vendors. The vendor's own signature over the body is verified before anything is read; without a secret in the provider's configuration " +
				"all webhooks are refused. A webhook about a project that no entity is bound to changes nothing.",
			ResponseExample: Delivered{Changed: 1},
		}), (*service).receives),
	},
	Kinds: []blueprint.ResourceKind{blueprint.Resource(jobs, (*service).jobKind), blueprint.Resource(runs, (*service).runKind)},
	Open:  open,
}

var (
	exampleTime  = time.Date(2026, 5, 4, 9, 30, 0, 0, time.UTC)
	exampleBuild = slipway.Build{
		ID: "ci:0198c2f0", EntityRef: "component:default/web", Provider: slipway.ProviderRef{Name: "ci", Type: "local"},
		Pipeline: slipway.Pipeline{ID: "build", Name: "build"}, Number: 42, Attempt: 1, Status: slipway.BuildRunning, Detail: "running",
		CreatedAt: exampleTime, StartedAt: &exampleTime, URL: "https://ci.example.com/runs/42",
		TriggeredBy: &slipway.Person{ID: "jane", Name: "Jane Doe", EntityRef: "user:default/jane"}, Trigger: slipway.TriggerPush,
		Commit: &slipway.Commit{SHA: "9fceb02d0ae598e95dc970b74767f19372d61af8", Message: "Fix the cart", Author: "Jane Doe", Branch: "main"},
	}
	examplePage = Page{
		Items: []slipway.Build{exampleBuild}, PageInfo: slipway.PageInfo{Limit: 20, PageNumber: 1},
		Sources: []slipway.Source{{Provider: "ci", Type: "local", Project: "https://git.example.com/web.git", State: slipway.SourceFresh, AsOf: &exampleTime}},
	}
)
