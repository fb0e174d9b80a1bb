package tool

import (
	"slices"
	"strings"
	"time"

	_ "embed"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/job"
)

//go:embed README.md
var readme string

// The permissions. Each can be narrowed to a tool by the pattern of its components: tool.config.read:component:tool-mytool/*.
const (
	readConfigPermission  = "tool.config.read"
	writeConfigPermission = "tool.config.write"
	readPermission        = "tool.deployment.read"
	createPermission      = "tool.deployment.create"
	cancelPermission      = "tool.deployment.cancel"
	deletePermission      = "tool.deployment.delete"
	tokenPermission       = "tool.token.manage"
)

// Blueprint is tools: their configurations and deployments.
var Blueprint = blueprint.Blueprint{
	Name: "tool", Version: "0.1.0", Stability: blueprint.Experimental,
	Summary: "Tools: a stored configuration, and deployments that build all of its components in parallel.",
	Config:  defaultSettings,
	Mounts: []blueprint.Mount{
		{Prefix: "/api/v1/tool", Dialect: blueprint.Tool},
		{Prefix: "/components", Dialect: blueprint.Tool, Lenient: true},
		{Prefix: "/components/v1/tool", Dialect: blueprint.Tool, Lenient: true},
		{Prefix: "/components/openapi.json", Dialect: blueprint.Plain, Lenient: true},
	},
	Databases: []blueprint.Database{{Name: "main", Migrations: Migrations.FS, Tables: []string{"tool_config", "tool_deployment", "tool_token", "tool_refresh", "tool_owed"}}},
	Events:    events,
	Jobs: []blueprint.Job{
		blueprint.Work((*service).step, job.Worker{Text: "Does what is next in a deployment: starts builds, cancels them, runs what was built", Timeout: 2 * time.Minute, MaxAttempts: 1000}),
		blueprint.Work((*service).release, job.Worker{Text: "Cancels builds that no deployment waits for any more", Timeout: time.Minute, MaxAttempts: 20}),
		blueprint.Work((*service).tellOfServices, job.Worker{Text: "Tells which components of a deployment run now", MaxAttempts: 20}),
		blueprint.Work((*service).entities, job.Worker{Text: "Makes the entities of a tool's components what its configuration says", Timeout: 2 * time.Minute}),
	},
	Permissions: []auth.Permission{
		{Name: readConfigPermission, Text: "See the configuration of a tool", Object: "entity", Tools: true},
		{Name: writeConfigPermission, Text: "Store and delete the configuration of a tool", Object: "entity", Tools: true},
		{Name: readPermission, Text: "See the deployments of a tool", Object: "entity", Tools: true},
		{Name: createPermission, Text: "Deploy a tool", Object: "entity", Tools: true},
		{Name: cancelPermission, Text: "Cancel deployments of a tool", Object: "entity", Tools: true},
		{Name: deletePermission, Text: "Delete deployments of a tool", Object: "entity", Tools: true},
		{Name: tokenPermission, Text: "Make and delete the deploy token of a tool", Object: "entity", Tools: true},
	},
	Operations: slices.Concat(operations("tool.", seedPath, "/deploy"), operations("tool.components.", peerPath, "/deployment"), []blueprint.Operation{
		blueprint.Handle((*service).healthz, blueprint.Operation{
			ID: "tool.components.health", Method: "GET", Path: "/components/v1/healthz", Summary: "Does the components API answer", Permission: blueprint.Public,
			ResponseExample: HealthShape{Status: "OK"},
		}),
		blueprint.Handle((*service).peerDescription, blueprint.Operation{
			ID: "tool.components.description", Method: "GET", Path: "/components/openapi.json", Summary: "The description of the components API", Permission: blueprint.Public,
			Description: "The part of `/openapi.json` that lies below `/components`.", ResponseExample: map[string]any{"openapi": "3.1.0"},
		}),
	}),
	Commands: []func(*blueprint.Client) *cobra.Command{commands},
	Pages:    []blueprint.Page{{Slug: "tools", Title: "Tools", Text: readme}},
	Open:     open,
}

// operations declares one family of paths: ids begin with prefix, and deployments lie at deploy below base.
func operations(prefix, base, deploy string) []blueprint.Operation {
	peer := deploy == "/deployment"
	var deployment, deployments any = exampleSeed, SeedDeployments{[]SeedDeployment{exampleSeed}}
	if peer {
		deployment, deployments = examplePeer, PeerDeployments{[]PeerDeployment{examplePeer}}
	}
	op := func(id, method, path, permission, summary string, example any, errors ...slipway.Code) blueprint.Operation {
		return blueprint.Operation{
			ID: prefix + id, Method: method, Path: base + path, Permission: permission, OnObject: true, Summary: summary, ResponseExample: example,
			Errors: append(errors, slipway.NotFound), Tag: "tool" + map[bool]string{true: " (components)", false: ""}[peer],
		}
	}
	config := op("config.get", "GET", "/config", readConfigPermission, "Get a tool's configuration", exampleConfig)
	config.Description = "The configuration as it was given, without defaults. 404 when there is none."
	set := op("config.set", "POST", "/config", writeConfigPermission, "Store a tool's configuration", exampleConfig)
	set.Description = "JSON or YAML; dashes are accepted for underscores. It is stored and given back as it is. Keys that are not known are kept, with a warning each. With `source_url`, what that " +
		"address gives is stored, and read again at each deployment."
	set.Request, set.RequestExample = ConfigShape{}, exampleConfig
	set.MaxBody = maxConfig
	remove := op("config.delete", "DELETE", "/config", writeConfigPermission, "Delete a tool's configuration", exampleConfig)
	generate := op("config.generate", "GET", "/config/generate", readConfigPermission, "Make a configuration of what a tool runs", exampleConfig)
	generate.Description = "Where the builder of the installation tells what a tool runs, a configuration of that; else a sample. Nothing is stored."
	create := op("deploy.create", "POST", deploy, createPermission, "Deploy a tool", deployment, slipway.Conflict, slipway.Unsupported)
	create.Description = "Builds all components of the stored configuration, in parallel as far as the builder has room. It answers at once. One deployment of a tool goes on at a time: 409. " +
		"What was built before of the same commit is used again, unless `force-build` is set. The body may hold a `description`."
	create.Idempotent = true
	create.Request, create.RequestExample = DeployShape{}, map[string]string{"description": "Fix the login"}
	list := op("deploy.list", "GET", deploy, readPermission, "List a tool's deployments", deployments)
	list.Description = "Oldest first. The newest are kept, 10 unless the operator says otherwise."
	latest := op("deploy.latest", "GET", deploy+"/latest", readPermission, "Get a tool's newest deployment", deployment)
	get := op("deploy.get", "GET", deploy+"/{id}", readPermission, "Get a deployment", deployment)
	get.Description = "Where it stands at this moment: it is brought up to date with the builder first. With `wait` the answer comes when the deployment has ended, or after that time."
	latest.Description = "As it stands at this moment. With `wait` the answer comes when it has ended, or after that time."
	for _, o := range []*blueprint.Operation{&get, &latest} {
		o.Waits, o.Timeout = true, maxPoll+15*time.Second
	}
	cancel := op("deploy.cancel", "PUT", deploy+"/{id}/cancel", cancelPermission, "Cancel a deployment", deployment, slipway.Conflict)
	cancel.Description = "Builds that go on are cancelled. 409 for one that is neither pending nor running."
	drop := op("deploy.delete", "DELETE", deploy+"/{id}", deletePermission, "Delete a deployment", deployment, slipway.Conflict)
	drop.Description = "409 for one that goes on."
	token := func(id, method, summary, description string, errors ...slipway.Code) blueprint.Operation {
		o := op("token."+id, method, deploy+"/token", tokenPermission, summary, exampleToken, errors...)
		o.Description, o.Secret = description, true
		return o
	}
	getToken := token("get", "GET", "See whether a tool has a deploy token", "When it was made and when it ends; not the token itself, of which only a hash is kept.")
	newToken := token("create", "POST", "Make a tool's deploy token", "Whoever holds it can deploy the tool and read one deployment at a time, and nothing else. It is shown once.", slipway.Conflict)
	nextToken := token("replace", "PUT", "Replace a tool's deploy token", "The old one ends at once.", slipway.Conflict)
	noToken := token("delete", "DELETE", "Delete a tool's deploy token", "")

	tokens := []blueprint.Operation{
		blueprint.Handle((*service).getToken, getToken), blueprint.Handle((*service).postToken, newToken),
		blueprint.Handle((*service).putToken, nextToken), blueprint.Handle((*service).deleteToken, noToken),
	}
	configs := []blueprint.Operation{
		blueprint.Handle((*service).getConfig, config), blueprint.Handle((*service).postConfig, set),
		blueprint.Handle((*service).removeConfig, remove), blueprint.Handle((*service).getGenerated, generate),
	}
	var deploys []blueprint.Operation
	if peer {
		deploys = []blueprint.Operation{
			blueprint.Authenticated(blueprint.Handle((*service).postDeployment, create), (*service).byDeployToken),
			blueprint.Handle((*service).listDeployments, list),
			blueprint.Handle((*service).latestDeployment, latest),
			blueprint.Authenticated(blueprint.Handle((*service).getDeployment, get), (*service).byDeployToken),
			blueprint.Handle((*service).putDeploymentCancel, cancel),
			blueprint.Handle((*service).deleteDeployment, drop),
		}
	} else {
		deploys = []blueprint.Operation{
			blueprint.Authenticated(blueprint.Handle((*service).postDeploy, create), (*service).byDeployToken),
			blueprint.Handle((*service).listDeploys, list),
			blueprint.Handle((*service).latestDeploy, latest),
			blueprint.Authenticated(blueprint.Handle((*service).getDeploy, get), (*service).byDeployToken),
			blueprint.Handle((*service).putCancel, cancel),
			blueprint.Handle((*service).deleteDeploy, drop),
		}
	}
	return slices.Concat(configs, deploys, tokens)
}

// The examples of the API's description.
var (
	exampleConfig = ConfigShape{ConfigVersion: "v1beta1", Components: map[string]ComponentShape{
		"web": {ComponentType: continuous, Build: BuildShape{Repository: "https://git.example.com/mytool.git", Ref: "main"}, Run: RunShape{Command: "serve", Port: 8000}},
	}}
	exampleDeployment = Deployment{
		Tool: "mytool", ID: "mytool-deploy-20261121101500-48213", Created: time.Date(2026, 11, 21, 10, 15, 0, 0, time.UTC), Description: "Fix the login", Status: Running,
		Detail: "Started at 2026-11-21T10:15:00Z",
		Components: []Component{{
			Name: "web", Build: BuildState{ID: "0198c2f0-7d3a-7000-8000-000000000000", Status: BuildRunning, Detail: "running", Commit: strings.Repeat("8d44a32f", 5)},
			Run: RunState{Status: RunPending},
		}},
		Config: []byte(`{"config_version":"v1beta1","components":{"web":{"build":{"repository":"https://git.example.com/mytool.git","ref":"main"},"run":{"command":"serve"}}}}`),
	}
	exampleSeed  = seedOf(exampleDeployment)
	examplePeer  = peerOf(exampleDeployment)
	exampleToken = TokenShape{
		Token: "5f1c3f8e-2f6a-4f0e-9d55-0c6a5c1f2b77", Created: time.Date(2026, 11, 21, 10, 15, 0, 0, time.UTC), Expires: time.Date(2027, 11, 21, 10, 15, 0, 0, time.UTC),
	}
)
