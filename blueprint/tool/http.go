package tool

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/provider"
)

// The paths of the two families.
const (
	seedPath = "/api/v1/tool/{tool}"
	peerPath = "/components/v1/tool/{tool}"
)

// maxPoll is how long an answer can wait for the end of a deployment.
const maxPoll = 60 * time.Second

// OfTool is what every operation has in its path.
type OfTool struct {
	Tool string `path:"tool" maxLength:"100" doc:"Name of the tool" example:"mytool"`
}

// allow checks that the caller may do something with a tool. A tool reaches only itself.
func allow(ctx context.Context, tool, permission string) error {
	caller := auth.CallerFrom(ctx)
	if caller.Kind == slipway.CallerTool && caller.Subject != "tool:"+tool {
		_ = auth.Require(ctx, permission, auth.Object{}) // it was asked
		return slipway.Errorf(slipway.Forbidden, "%s reaches only its own configuration and deployments, not those of %.70q", caller.Subject, tool)
	}
	if err := auth.Require(ctx, permission, auth.Object{Ref: strings.TrimSuffix(auth.ToolPattern(tool), "*")}); err != nil {
		return err
	}
	if !provider.ToolName(tool) {
		return slipway.Errorf(slipway.Invalid, "%.70q is no name of a tool: lower-case letters, digits and dashes, at most 58", tool)
	}
	return nil
}

// The answers.
type (
	configBody struct {
		Body blueprint.Raw[ConfigShape]
	}
	// ConfigShape describes a configuration. It comes back as it was given, with keys that are not described here too.
	ConfigShape struct {
		_             struct{}                  `json:"-" additionalProperties:"true"`
		ConfigVersion string                    `json:"config_version,omitempty" doc:"Version of the format" example:"v1beta1"`
		SourceURL     string                    `json:"source_url,omitempty" doc:"Where the configuration is read from, now and at each deployment"`
		Components    map[string]ComponentShape `json:"components" doc:"The components by name, at least one, at most 1,000"`
	}
	// ComponentShape describes a component.
	ComponentShape struct {
		ComponentType string     `json:"component_type,omitempty" enum:"continuous,scheduled" doc:"What kind; without it, one with run.schedule is scheduled"`
		Build         BuildShape `json:"build" doc:"What it is built from: a repository and a ref, or another component"`
		Run           RunShape   `json:"run" doc:"How it runs"`
	}
	// BuildShape describes what a component is built from.
	BuildShape struct {
		Repository            string `json:"repository,omitempty" doc:"Address of a git repository: http, https, git; file where the operator allows it"`
		Ref                   string `json:"ref,omitempty" doc:"Branch, tag or full commit id; empty: the default branch. Required with a repository"`
		UseLatestVersions     bool   `json:"use_latest_versions,omitempty" doc:"Build with the newest versions of the builder"`
		UseDeprecatedVersions bool   `json:"use_deprecated_versions,omitempty" doc:"Build with versions of the builder that are about to go"`
		ReuseFrom             string `json:"reuse_from,omitempty" doc:"The component whose build is run, in place of a repository"`
	}
	// RunShape describes how a component runs.
	RunShape struct {
		Command           string `json:"command" doc:"What is run"`
		Schedule          string `json:"schedule,omitempty" doc:"When, for a scheduled one: a cron expression or @hourly and the like"`
		CPU               string `json:"cpu,omitempty" doc:"Processor time, such as 0.5"`
		Memory            string `json:"memory,omitempty" doc:"Memory, such as 512Mi"`
		Port              int    `json:"port,omitempty" doc:"Port that it listens on"`
		PortProtocol      string `json:"port_protocol,omitempty" enum:"tcp,udp" doc:"Protocol of the port; tcp"`
		Replicas          int    `json:"replicas,omitempty" doc:"How many run, at least 1"`
		Publish           string `json:"publish,omitempty" enum:"/" doc:"Path below which it is published"`
		HealthCheckHTTP   string `json:"health_check_http,omitempty" doc:"Path that answers when it is well; needs a tcp port"`
		HealthCheckScript string `json:"health_check_script,omitempty" doc:"Command that succeeds when it is well"`
		Retry             int    `json:"retry,omitempty" doc:"How often a scheduled one is tried again, 0 to 5"`
		Timeout           int    `json:"timeout,omitempty" doc:"Longest time of a scheduled one, in seconds"`
		Emails            string `json:"emails,omitempty" enum:"none,all,onfinish,onfailure" doc:"When mail is sent"`
		Mount             string `json:"mount,omitempty" enum:"all,none" doc:"Which storage it sees"`
		Filelog           bool   `json:"filelog,omitempty" doc:"Whether its output goes to files"`
		FilelogStdout     string `json:"filelog_stdout,omitempty" doc:"File for its output"`
		FilelogStderr     string `json:"filelog_stderr,omitempty" doc:"File for its errors"`
	}

	// SeedDeployment is a deployment in the words of the seed.
	SeedDeployment struct {
		ID          string                      `json:"deploy-id" doc:"Id" example:"mytool-deploy-20261121101500-48213"`
		Created     string                      `json:"creation-time" doc:"When it was created, in UTC" example:"2026-11-21 10:15:00"`
		Status      string                      `json:"status" enum:"PENDING,RUNNING,FINISHED,ERROR,CANCELLED,TIMED_OUT" doc:"Where it stands; the last four are final"`
		Builds      blueprint.Object[SeedBuild] `json:"builds" doc:"The build of each component"`
		Runs        blueprint.Object[SeedRun]   `json:"runs" doc:"The run of each component"`
		LongStatus  string                      `json:"long-status" doc:"More about the status"`
		Description string                      `json:"description" doc:"What whoever created it said of it"`
		ForceBuild  bool                        `json:"force-build" doc:"Everything is built, also what was built before"`
		ForceRun    bool                        `json:"force-run" doc:"Everything is restarted, also what has not changed"`
		Builder     string                      `json:"builder" doc:"The provider that builds: <builder>:<build-id> is the id of a build in the Builds API" example:"ci"`
		Config      blueprint.Raw[ConfigShape]  `json:"tool-config" doc:"The configuration that is deployed"`
	}
	// SeedBuild is the build of a component in the words of the seed.
	SeedBuild struct {
		ID         string `json:"build-id" doc:"Id at the builder" example:"0198c2f0-7d3a-7000-8000-000000000000"`
		Status     string `json:"status" enum:"PENDING,RUNNING,FINISHED,ERROR,CANCELLED,SKIPPED" doc:"Where it stands; SKIPPED: an earlier build is used"`
		Image      string `json:"image" doc:"What was made, where the builder makes images"`
		LongStatus string `json:"long-status" doc:"More about the status"`
		Commit     string `json:"commit,omitempty" doc:"What the ref stood for"`
	}
	// SeedRun is the run of a component in the words of the seed.
	SeedRun struct {
		Status     string `json:"status" enum:"PENDING,FINISHED,ERROR,SKIPPED" doc:"Where it stands"`
		LongStatus string `json:"long-status" doc:"More about the status"`
	}

	// PeerDeployment is a deployment in the words of the Toolforge components API.
	PeerDeployment struct {
		ID          string                      `json:"deploy_id" doc:"Id" example:"mytool-deploy-20261121101500-48213"`
		Created     string                      `json:"creation_time" doc:"When it was created, in UTC" example:"20261121-101500"`
		Description string                      `json:"description" doc:"What whoever created it said of it"`
		Builds      blueprint.Object[PeerBuild] `json:"builds" doc:"The build of each component"`
		Runs        blueprint.Object[PeerRun]   `json:"runs" doc:"The run of each component"`
		Config      blueprint.Raw[ConfigShape]  `json:"tool_config" doc:"The configuration that is deployed"`
		Status      Status                      `json:"status" enum:"pending,running,cancelling,successful,failed,cancelled,timed_out" doc:"Where it stands; the last four are final"`
		LongStatus  string                      `json:"long_status" doc:"More about the status"`
		ForceBuild  bool                        `json:"force_build" doc:"Everything is built, also what was built before"`
		ForceRun    bool                        `json:"force_run" doc:"Everything is restarted, also what has not changed"`
	}
	// PeerBuild is the build of a component in the words of the Toolforge components API.
	PeerBuild struct {
		ID         string      `json:"build_id" doc:"Id at the builder; no-id-yet, no-build-needed"`
		Status     BuildStatus `json:"build_status" enum:"pending,running,successful,failed,unknown,skipped,cancelled" doc:"Where it stands"`
		Image      string      `json:"build_image" doc:"What was made; no-image-yet"`
		LongStatus string      `json:"build_long_status" doc:"More about the status"`
	}
	// PeerRun is the run of a component in the words of the Toolforge components API.
	PeerRun struct {
		Status     RunStatus `json:"run_status" enum:"pending,successful,failed,skipped,unknown" doc:"Where it stands"`
		LongStatus string    `json:"run_long_status" doc:"More about the status"`
	}
	// PeerDeployments is the list of a tool's deployments.
	PeerDeployments struct {
		Deployments []PeerDeployment `json:"deployments" nullable:"false" doc:"The deployments, oldest first"`
	}
	// SeedDeployments is the list of a tool's deployments.
	SeedDeployments struct {
		Deployments []SeedDeployment `json:"deployments" nullable:"false" doc:"The deployments, oldest first"`
	}

	// TokenShape is a deploy token.
	TokenShape struct {
		Token   string    `json:"token" doc:"The token, where it has just been made; else <redacted>, as only a hash of it is kept"`
		Created time.Time `json:"creation_date" doc:"When it was made"`
		Expires time.Time `json:"expiration_date" doc:"When it ends"`
	}

	seedBody  struct{ Body SeedDeployment }
	seedList  struct{ Body SeedDeployments }
	peerBody  struct{ Body PeerDeployment }
	peerList  struct{ Body PeerDeployments }
	tokenBody struct{ Body TokenShape }
	// HealthShape says that the API answers.
	HealthShape struct {
		Status string `json:"status" doc:"OK"`
	}
	healthBody struct{ Body HealthShape }
)

const (
	noID    = "no-id-yet"
	noBuild = "no-build-needed"
	noImage = "no-image-yet"
)

// id is how a build without an id of its own is written.
func (c Component) id() string {
	switch {
	case c.Build.ID != "":
		return c.Build.ID
	case c.ReuseFrom != "":
		return noBuild
	}
	return noID
}

var seedWords = map[string]string{
	"pending": "PENDING", "running": "RUNNING", "cancelling": "RUNNING", "successful": "FINISHED", "failed": "ERROR", "cancelled": "CANCELLED", "timed_out": "TIMED_OUT",
	"skipped": "SKIPPED", "unknown": "RUNNING",
}

func seedOf(d Deployment) SeedDeployment {
	out := SeedDeployment{
		ID: d.ID, Created: d.Created.UTC().Format(time.DateTime), Status: seedWords[string(d.Status)], LongStatus: d.Detail, Description: d.Description,
		ForceBuild: d.ForceBuild, ForceRun: d.ForceRun, Builder: d.Builder, Config: blueprint.Raw[ConfigShape]{JSON: d.Config},
		Builds: blueprint.Object[SeedBuild]{}, Runs: blueprint.Object[SeedRun]{},
	}
	for _, c := range d.Components {
		out.Builds = append(out.Builds, blueprint.Member[SeedBuild]{Key: c.Name, Value: SeedBuild{
			ID: c.id(), Status: seedWords[string(c.Build.Status)], Image: c.Build.Image, LongStatus: c.Build.Detail, Commit: c.Build.Commit,
		}})
		out.Runs = append(out.Runs, blueprint.Member[SeedRun]{Key: c.Name, Value: SeedRun{Status: seedWords[string(c.Run.Status)], LongStatus: c.Run.Detail}})
	}
	return out
}

func peerOf(d Deployment) PeerDeployment {
	out := PeerDeployment{
		ID: d.ID, Created: d.Created.UTC().Format("20060102-150405"), Status: d.Status, LongStatus: d.Detail, Description: d.Description,
		ForceBuild: d.ForceBuild, ForceRun: d.ForceRun, Config: blueprint.Raw[ConfigShape]{JSON: d.Config},
		Builds: blueprint.Object[PeerBuild]{}, Runs: blueprint.Object[PeerRun]{},
	}
	for _, c := range d.Components {
		image := c.Build.Image
		if image == "" {
			image = noImage
		}
		out.Builds = append(out.Builds, blueprint.Member[PeerBuild]{Key: c.Name, Value: PeerBuild{ID: c.id(), Status: c.Build.Status, Image: image, LongStatus: c.Build.Detail}})
		out.Runs = append(out.Runs, blueprint.Member[PeerRun]{Key: c.Name, Value: PeerRun{Status: c.Run.Status, LongStatus: c.Run.Detail}})
	}
	return out
}

func (s *service) getConfig(ctx context.Context, in *OfTool) (*configBody, error) {
	if err := allow(ctx, in.Tool, readConfigPermission); err != nil {
		return nil, err
	}
	c, err := s.storage.Config(ctx, in.Tool)
	if err != nil {
		return nil, err
	}
	return &configBody{blueprint.Raw[ConfigShape]{JSON: c.Document}}, nil
}

func (s *service) postConfig(ctx context.Context, in *struct {
	OfTool
	RawBody []byte
}) (*configBody, error) {
	if err := allow(ctx, in.Tool, writeConfigPermission); err != nil {
		return nil, err
	}
	c, warnings, err := s.setConfig(ctx, in.Tool, in.RawBody)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		blueprint.Warn(ctx, w)
	}
	blueprint.Inform(ctx, "Configuration for "+in.Tool+" updated successfully.")
	return &configBody{blueprint.Raw[ConfigShape]{JSON: c.Document}}, nil
}

func (s *service) removeConfig(ctx context.Context, in *OfTool) (*configBody, error) {
	if err := allow(ctx, in.Tool, writeConfigPermission); err != nil {
		return nil, err
	}
	c, err := s.deleteConfig(ctx, in.Tool)
	if err != nil {
		return nil, err
	}
	return &configBody{blueprint.Raw[ConfigShape]{JSON: c.Document}}, nil
}

func (s *service) getGenerated(ctx context.Context, in *OfTool) (*configBody, error) {
	if err := allow(ctx, in.Tool, readConfigPermission); err != nil {
		return nil, err
	}
	doc, warnings, err := s.generate(ctx, in.Tool)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		blueprint.Warn(ctx, w)
	}
	raw, err := doc.MarshalJSON()
	return &configBody{blueprint.Raw[ConfigShape]{JSON: raw}}, err
}

// DeployShape describes the body of a new deployment.
type DeployShape struct {
	_           struct{} `json:"-" additionalProperties:"true"`
	Description string   `json:"description,omitempty" maxLength:"2000" doc:"What it is for"`
}

// deployInput is what creates a deployment. Both spellings of the flags are known.
type deployInput struct {
	OfTool
	ForceBuild  bool   `query:"force-build" doc:"Build everything, also what was built before"`
	ForceBuild2 bool   `query:"force_build" doc:"The same as force-build"`
	ForceRun    bool   `query:"force-run" doc:"Restart everything, also what has not changed"`
	ForceRun2   bool   `query:"force_run" doc:"The same as force-run"`
	Token       string `query:"token" doc:"The tool's deploy token, for who cannot send it as Authorization: Bearer"`
	RawBody     []byte
}

const maxDescription = 2000

func (s *service) deploy(ctx context.Context, in *deployInput) (Deployment, error) {
	if err := allow(ctx, in.Tool, createPermission); err != nil {
		return Deployment{}, err
	}
	o := newDeployment{forceBuild: in.ForceBuild || in.ForceBuild2, forceRun: in.ForceRun || in.ForceRun2}
	if body := bytes.TrimSpace(in.RawBody); len(body) > 0 && !bytes.Equal(body, []byte("null")) {
		doc, err := parseDocument(body)
		if err != nil {
			return Deployment{}, invalidBody(err.Error())
		}
		if doc.kind != object {
			return Deployment{}, invalidBody("Validation error: Input should be a valid dictionary. Received value: '" + doc.show() + "'")
		}
		for _, m := range doc.members {
			switch {
			case m.key != "description":
				blueprint.Warn(ctx, fmt.Sprintf("Unknown field %.100s, skipped", m.key))
			case m.value.kind == null:
			case m.value.kind != text:
				return Deployment{}, invalidBody("Validation error at description: Input should be a valid string. Received value: '" + m.value.show() + "'")
			case len(m.value.text()) > maxDescription:
				return Deployment{}, invalidBody(fmt.Sprintf("Validation error at description: String should have at most %d bytes", maxDescription))
			default:
				o.description = m.value.text()
			}
		}
	}
	d, err := s.create(ctx, in.Tool, o)
	if err == nil {
		blueprint.Inform(ctx, "Deployment for "+in.Tool+" created successfully.")
	}
	return d, err
}

func invalidBody(message string) error {
	return slipway.Errorf(slipway.Invalid, "%s", message).WithDetails(slipway.Detail{Field: "/", Code: slipway.Invalid, Message: message})
}

func (s *service) postDeploy(ctx context.Context, in *deployInput) (*seedBody, error) {
	d, err := s.deploy(ctx, in)
	return &seedBody{seedOf(d)}, err
}

func (s *service) postDeployment(ctx context.Context, in *deployInput) (*peerBody, error) {
	d, err := s.deploy(ctx, in)
	return &peerBody{peerOf(d)}, err
}

func (s *service) list(ctx context.Context, tool string) ([]Deployment, error) {
	if err := allow(ctx, tool, readPermission); err != nil {
		return nil, err
	}
	return s.deployments(ctx, tool)
}

func (s *service) listDeploys(ctx context.Context, in *OfTool) (*seedList, error) {
	list, err := s.list(ctx, in.Tool)
	out := &seedList{SeedDeployments{[]SeedDeployment{}}}
	for _, d := range list {
		out.Body.Deployments = append(out.Body.Deployments, seedOf(d))
	}
	return out, err
}

func (s *service) listDeployments(ctx context.Context, in *OfTool) (*peerList, error) {
	list, err := s.list(ctx, in.Tool)
	out := &peerList{PeerDeployments{[]PeerDeployment{}}}
	for _, d := range list {
		out.Body.Deployments = append(out.Body.Deployments, peerOf(d))
	}
	return out, err
}

// readInput names a deployment to be read.
type readInput struct {
	OfTool
	ID    string `path:"id" maxLength:"200" doc:"Id of the deployment" example:"mytool-deploy-20261121101500-48213"`
	Wait  string `query:"wait" doc:"Answer when the deployment has ended, or after this time at the latest; at most 60s" example:"60s"`
	Token string `query:"token" doc:"The tool's deploy token, for who cannot send it as Authorization: Bearer"`
}

func (s *service) read(ctx context.Context, in *readInput) (Deployment, error) {
	if err := allow(ctx, in.Tool, readPermission); err != nil {
		return Deployment{}, err
	}
	wait, err := waitOf(in.Wait)
	if err != nil {
		return Deployment{}, err
	}
	return s.deployment(ctx, in.Tool, in.ID, wait)
}

// waitOf reads how long an answer may wait.
func waitOf(text string) (wait time.Duration, err error) {
	if text == "" {
		return 0, nil
	}
	if wait, err = time.ParseDuration(text); err != nil || wait < 0 || wait > maxPoll {
		return 0, slipway.Errorf(slipway.Invalid, "wait: write a time of at most %s, such as 30s", maxPoll)
	}
	return wait, nil
}

func (s *service) getDeploy(ctx context.Context, in *readInput) (*seedBody, error) {
	d, err := s.read(ctx, in)
	return &seedBody{seedOf(d)}, err
}

func (s *service) getDeployment(ctx context.Context, in *readInput) (*peerBody, error) {
	d, err := s.read(ctx, in)
	return &peerBody{peerOf(d)}, err
}

// latestInput names a tool whose newest deployment is to be read.
type latestInput struct {
	OfTool
	Wait string `query:"wait" doc:"Answer when the deployment has ended, or after this time at the latest; at most 60s" example:"60s"`
}

func (s *service) newest(ctx context.Context, in *latestInput) (Deployment, error) {
	if err := allow(ctx, in.Tool, readPermission); err != nil {
		return Deployment{}, err
	}
	wait, err := waitOf(in.Wait)
	if err != nil {
		return Deployment{}, err
	}
	d, err := s.latest(ctx, in.Tool)
	if err != nil || wait == 0 || !d.Status.Active() {
		return d, err
	}
	return s.deployment(ctx, in.Tool, d.ID, wait)
}

func (s *service) latestDeploy(ctx context.Context, in *latestInput) (*seedBody, error) {
	d, err := s.newest(ctx, in)
	return &seedBody{seedOf(d)}, err
}

func (s *service) latestDeployment(ctx context.Context, in *latestInput) (*peerBody, error) {
	d, err := s.newest(ctx, in)
	return &peerBody{peerOf(d)}, err
}

// oneInput names a deployment.
type oneInput struct {
	OfTool
	ID string `path:"id" maxLength:"200" doc:"Id of the deployment, or latest" example:"mytool-deploy-20261121101500-48213"`
}

func (s *service) stop(ctx context.Context, in *oneInput) (Deployment, error) {
	if err := allow(ctx, in.Tool, cancelPermission); err != nil {
		return Deployment{}, err
	}
	id := in.ID
	if id == "latest" {
		d, err := s.latest(ctx, in.Tool)
		if err != nil {
			return d, err
		}
		id = d.ID
	}
	d, err := s.cancel(ctx, in.Tool, id)
	if err == nil {
		blueprint.Inform(ctx, "Deployment flagged for cancellation, might take a moment to cancel.")
	}
	return d, err
}

func (s *service) putCancel(ctx context.Context, in *oneInput) (*seedBody, error) {
	d, err := s.stop(ctx, in)
	return &seedBody{seedOf(d)}, err
}

func (s *service) putDeploymentCancel(ctx context.Context, in *oneInput) (*peerBody, error) {
	d, err := s.stop(ctx, in)
	return &peerBody{peerOf(d)}, err
}

func (s *service) remove(ctx context.Context, in *oneInput) (Deployment, error) {
	if err := allow(ctx, in.Tool, deletePermission); err != nil {
		return Deployment{}, err
	}
	if _, err := s.current(ctx, in.Tool, in.ID); err != nil { // it may have ended without anybody having looked
		return Deployment{}, err
	}
	d, err := s.discard(ctx, in.Tool, in.ID)
	if err == nil {
		blueprint.Inform(ctx, "Deployment "+in.ID+" deleted successfully.")
	}
	return d, err
}

func (s *service) deleteDeploy(ctx context.Context, in *oneInput) (*seedBody, error) {
	d, err := s.remove(ctx, in)
	return &seedBody{seedOf(d)}, err
}

func (s *service) deleteDeployment(ctx context.Context, in *oneInput) (*peerBody, error) {
	d, err := s.remove(ctx, in)
	return &peerBody{peerOf(d)}, err
}

func (s *service) getToken(ctx context.Context, in *OfTool) (*tokenBody, error) {
	if err := allow(ctx, in.Tool, tokenPermission); err != nil {
		return nil, err
	}
	t, err := s.storage.DeployToken(ctx, in.Tool)
	return tokenOf(t, redacted), err
}

const redacted = "<redacted>"

func tokenOf(t DeployToken, text string) *tokenBody {
	return &tokenBody{TokenShape{Token: text, Created: t.Created, Expires: t.Expires}}
}

func (s *service) postToken(ctx context.Context, in *OfTool) (*tokenBody, error) {
	if err := allow(ctx, in.Tool, tokenPermission); err != nil {
		return nil, err
	}
	t, text, err := s.createToken(ctx, in.Tool)
	if err == nil {
		blueprint.Inform(ctx, "Deploy token for "+in.Tool+" created successfully.")
	}
	return tokenOf(t, text), err
}

func (s *service) putToken(ctx context.Context, in *OfTool) (*tokenBody, error) {
	if err := allow(ctx, in.Tool, tokenPermission); err != nil {
		return nil, err
	}
	t, text, err := s.replaceToken(ctx, in.Tool)
	if err == nil {
		blueprint.Inform(ctx, "Deploy token for "+in.Tool+" updated successfully.")
	}
	return tokenOf(t, text), err
}

func (s *service) deleteToken(ctx context.Context, in *OfTool) (*tokenBody, error) {
	if err := allow(ctx, in.Tool, tokenPermission); err != nil {
		return nil, err
	}
	t, err := s.storage.DeleteDeployToken(ctx, in.Tool)
	if err == nil {
		blueprint.Inform(ctx, "Deploy token for "+in.Tool+" deleted successfully.")
	}
	return tokenOf(t, redacted), err
}

func (s *service) healthz(context.Context, *struct{}) (*healthBody, error) {
	return &healthBody{HealthShape{Status: "OK"}}, nil
}

// peerDescription gives the part of the API's description that clients of the Toolforge components API read.
func (s *service) peerDescription(context.Context, *struct{}) (*struct{ Body blueprint.Raw[map[string]any] }, error) {
	raw, err := s.described()
	return &struct{ Body blueprint.Raw[map[string]any] }{blueprint.Raw[map[string]any]{JSON: raw}}, err
}

// described cuts the description of the components API out of the whole, once: anybody may ask for it, and the whole is large.
func (s *service) described() ([]byte, error) {
	s.describing.Lock()
	defer s.describing.Unlock()
	if s.description != nil {
		return s.description, nil
	}
	raw, err := s.host.Describe()
	if err != nil {
		return nil, err
	}
	var doc map[string]json.RawMessage
	var paths map[string]json.RawMessage
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(doc["paths"], &paths); err != nil {
		return nil, err
	}
	maps.DeleteFunc(paths, func(path string, _ json.RawMessage) bool { return !strings.HasPrefix(path, "/components/") })
	if doc["paths"], err = json.Marshal(paths); err != nil {
		return nil, err
	}
	s.description, err = json.Marshal(doc)
	return s.description, err
}
