package workspace

import (
	_ "embed"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
)

//go:embed README.md
var readme string

// The permissions. Each is about the caller's own workspaces.
const (
	readPermission   = "workspace.workspace.read"
	createPermission = "workspace.workspace.create"
	changePermission = "workspace.workspace.change"
	deletePermission = "workspace.workspace.delete"
)

// Blueprint is workspaces.
var Blueprint = blueprint.Blueprint{
	Name: "workspace", Version: "0.1.0", Stability: blueprint.Experimental,
	Summary:   "Workspaces that Eclipse Che runs on a Kubernetes cluster, made of devfiles.",
	ConfigKey: "workspaces",
	Config:    func() any { return defaultConfig() },
	Mounts:    []blueprint.Mount{{Prefix: "/api/che-launcher", Dialect: blueprint.API}},
	Databases: []blueprint.Database{{Name: "main"}},
	Permissions: []auth.Permission{
		{Name: readPermission, Text: "See one's own workspaces"},
		{Name: createPermission, Text: "Make workspaces for oneself"},
		{Name: changePermission, Text: "Start and stop one's own workspaces"},
		{Name: deletePermission, Text: "Delete one's own workspaces"},
	},
	Events: []event.Type{
		{Name: event.EnvironmentCreated, Text: "A workspace was made through Slipway", Object: "workspace", Permission: event.ReadPermission, Data: environmentEvent{}},
		{Name: event.EnvironmentModified, Text: "A workspace was started or stopped through Slipway", Object: "workspace", Permission: event.ReadPermission, Data: environmentEvent{}},
		{Name: event.EnvironmentDeleted, Text: "A workspace was deleted through Slipway", Object: "workspace", Permission: event.ReadPermission, Data: environmentEvent{}},
	},
	Commands:   []func(*blueprint.Client) *cobra.Command{commands},
	Pages:      []blueprint.Page{{Slug: "workspaces", Title: "Workspaces", Text: readme}},
	Operations: operations(),
	Open:       open,
}

func operations() []blueprint.Operation {
	const path = "/api/che-launcher/workspaces"
	errors := func(codes ...slipway.Code) []slipway.Code { return append(codes, slipway.Unsupported) }
	return []blueprint.Operation{
		blueprint.Handle((*service).postWorkspace, blueprint.Operation{
			ID: "workspace.create", Method: "POST", Path: path, Permission: createPermission, Status: 201, Idempotent: true, Timeout: time.Minute,
			Errors:  errors(slipway.Conflict, slipway.Precondition),
			Summary: "Make a workspace",
			Description: "Reads the devfile, checks it against its schema and what its names refer to (a 400 lists all faults with their paths), makes the workspace as Che's dashboard would, and starts it. " +
				"The answer comes before the workspace runs; ask for it until its status is Running.",
			RequestExample:  exampleNew,
			ResponseExample: exampleStarting,
		}),
		blueprint.Handle((*service).getWorkspaces, blueprint.Operation{
			ID: "workspace.list", Method: "GET", Path: path, Permission: readPermission, Errors: errors(),
			Summary: "List your workspaces", Description: "Lists the caller's workspaces on all clusters, newest first. The list comes from memory, which follows the clusters within a second; while a cluster does not answer, it is shown as it was, with a warning.",
			ResponseExample: Workspaces{Workspaces: []Workspace{exampleRunning}, Total: 1, PageInfo: slipway.PageInfo{Limit: maxList}},
		}),
		blueprint.Handle((*service).getWorkspace, blueprint.Operation{
			ID: "workspace.get", Method: "GET", Path: path + "/{workspaceId}", Permission: readPermission, Errors: errors(slipway.NotFound),
			Summary: "Get a workspace", Description: "Gives a workspace of the caller as the cluster has it now, with its conditions. Another's is not found.",
			ResponseExample: exampleConditions(),
		}),
		blueprint.Handle((*service).startWorkspace, blueprint.Operation{
			ID: "workspace.start", Method: "POST", Path: path + "/{workspaceId}/start", Permission: changePermission, Status: 202, Errors: errors(slipway.NotFound, slipway.Conflict),
			Summary: "Start a workspace", Description: "Has a workspace started. One that runs or starts already is left as it is; one that failed is started anew; where the cluster takes long to notice, it is shown as Stopping, and is started by asking again.",
			ResponseExample: exampleStarting,
		}),
		blueprint.Handle((*service).stopWorkspace, blueprint.Operation{
			ID: "workspace.stop", Method: "POST", Path: path + "/{workspaceId}/stop", Permission: changePermission, Status: 202, Errors: errors(slipway.NotFound, slipway.Conflict),
			Summary: "Stop a workspace", Description: "Has a workspace stopped; its projects stay. One that is stopped already is left as it is.",
			ResponseExample: exampleStopping(),
		}),
		blueprint.Handle((*service).deleteWorkspace, blueprint.Operation{
			ID: "workspace.delete", Method: "DELETE", Path: path + "/{workspaceId}", Permission: deletePermission, Errors: errors(slipway.NotFound),
			Summary: "Delete a workspace", Description: "Asks for the end of a workspace and of what is in it. It is shown as Terminating until the cluster has taken it away.",
		}),
	}
}

var (
	exampleTime = time.Date(2024, 12, 1, 10, 0, 0, 0, time.UTC)
	exampleNew  = NewWorkspace{
		DevfileURL: "https://raw.githubusercontent.com/paruff/fawkes/main/platform/devfiles/goldenpath-python.yaml", Namespace: "dev-workspaces", Name: "my-python-workspace",
	}
	exampleStarting = Workspace{
		WorkspaceID: "workspace3f1c2a9b5d4e4f60", Name: "my-python-workspace", Status: starting, IDEURL: "https://che.fawkes.example.com/dashboard/#/ide/jane-workspaces/my-python-workspace",
		Devfile: DevfileName{"goldenpath-python", "1.0.0"}, CreatedAt: exampleTime, LastUsed: exampleTime, Namespace: "jane-workspaces", Cluster: "main",
	}
	exampleRunning = Workspace{
		WorkspaceID: exampleStarting.WorkspaceID, Name: exampleStarting.Name, Status: running, IDEURL: "https://che.fawkes.example.com/jane/my-python-workspace/3100/",
		Devfile: exampleStarting.Devfile, CreatedAt: exampleTime, LastUsed: exampleTime.Add(119*time.Hour + 30*time.Minute), Namespace: "jane-workspaces", Cluster: "main",
	}
)

func exampleConditions() Workspace {
	w := exampleRunning
	at := w.LastUsed
	w.Conditions = []Condition{{Type: "DevWorkspaceResolved", Status: "True", Since: &at}, {Type: "DeploymentReady", Status: "True", Message: "Workspace deployment ready", Since: &at}}
	return w
}

func exampleStopping() Workspace {
	w := exampleStarting
	w.Status = stopping
	return w
}
