// Package tool is the blueprint of tools: a tool has one stored configuration that names its components, and deployments that build all of them
// from git, in parallel, by the builder of the installation.
//
// A deployment is a durable state machine. Every step of it reads what is stored, does one thing at the builder that may be done twice, and
// stores what became of it together with the job of the next step; a replica may die between any two lines. What the builder knows is read by one
// call for all deployments (refresh.go). Configurations and deployments lie behind Storage. Two families of paths are served, in the words of the
// seed and in those of the Toolforge command (http.go).
package tool

import (
	"encoding/json"
	"time"

	"github.com/slipway-platform/slipway/provider"
)

// Config is a tool's configuration as it is stored.
type Config struct {
	Tool     string
	Document json.RawMessage // as it was given, as JSON
	Version  string          // of the stored one, as its storage spells it; "": not read from storage
	Updated  time.Time
}

// Deployment is one deployment of a tool. It is stored as JSON: new fields are optional, so that old ones still load.
type Deployment struct {
	Tool        string    `json:"tool"`
	ID          string    `json:"id"`
	Created     time.Time `json:"created"` // later than that of the deployment before, whatever the clock says
	Description string    `json:"description,omitempty"`
	ForceBuild  bool      `json:"forceBuild,omitempty"`
	ForceRun    bool      `json:"forceRun,omitempty"`
	By          string    `json:"by,omitempty"` // subject of the caller
	Builder     string    `json:"builder"`      // name of the provider that builds

	Status   Status     `json:"status"`
	Detail   string     `json:"detail,omitempty"` // for people
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`

	Components []Component `json:"components"` // in the order of the configuration

	// Config is the configuration that is deployed.
	Config json.RawMessage `json:"config"`

	// Version is that of the stored deployment, as its storage spells it.
	Version string `json:"-"`

	// Change names the last change, where the storage is not the database.
	Change string `json:"-"`
}

// Component is what became of one component in a deployment.
type Component struct {
	Name      string     `json:"name"`
	ReuseFrom string     `json:"reuseFrom,omitempty"` // the component whose build this one runs
	Build     BuildState `json:"build"`
	Run       RunState   `json:"run"`
}

// BuildState is where the build of a component stands.
type BuildState struct {
	ID      string      `json:"id,omitempty"` // the builder's; "" before it is started, and where none is needed
	Status  BuildStatus `json:"status"`
	Image   string      `json:"image,omitempty"`
	Detail  string      `json:"detail,omitempty"`
	Commit  string      `json:"commit,omitempty"`  // what the ref stood for
	Since   *time.Time  `json:"since,omitempty"`   // when it was first tried to be started
	Next    *time.Time  `json:"next,omitempty"`    // when to try again: the builder had no room, or did not answer
	Changed bool        `json:"changed,omitempty"` // something was built, or its build was followed: what runs of it is not what ran before
}

// RunState is where the run of a component stands.
type RunState struct {
	Status RunStatus `json:"status"`
	Detail string    `json:"detail,omitempty"`
}

// Status is where a deployment stands, in the words of the Toolforge API.
type Status string

// The statuses of deployments.
const (
	Pending    Status = "pending"
	Running    Status = "running"
	Cancelling Status = "cancelling"
	Successful Status = "successful"
	Failed     Status = "failed"
	Cancelled  Status = "cancelled"
	TimedOut   Status = "timed_out"
)

// Statuses lists them in the order of a deployment's life.
func Statuses() []Status {
	return []Status{Pending, Running, Cancelling, Successful, Failed, Cancelled, TimedOut}
}

// Active says that the deployment goes on; one that is not never changes again.
func (s Status) Active() bool { return s == Pending || s == Running || s == Cancelling }

// BuildStatus is where a build stands.
type BuildStatus string

// The statuses of builds. A build that is skipped reuses what was built before.
const (
	BuildPending    BuildStatus = "pending"
	BuildRunning    BuildStatus = "running"
	BuildSuccessful BuildStatus = "successful"
	BuildFailed     BuildStatus = "failed"
	BuildUnknown    BuildStatus = "unknown" // the builder says something that is not known; it is asked again
	BuildSkipped    BuildStatus = "skipped"
	BuildCancelled  BuildStatus = "cancelled"
)

// Ended says that nothing more becomes of the build.
func (s BuildStatus) Ended() bool {
	switch s {
	case BuildSuccessful, BuildFailed, BuildSkipped, BuildCancelled:
		return true
	}
	return false
}

// RunStatus is where a run stands.
type RunStatus string

// The statuses of runs.
const (
	RunPending    RunStatus = "pending"
	RunSuccessful RunStatus = "successful"
	RunFailed     RunStatus = "failed"
	RunSkipped    RunStatus = "skipped"
)

// DeployToken lets whoever holds it create deployments of a tool and read one, and nothing else. Only a hash of it is stored.
type DeployToken struct {
	Tool    string
	Hash    string // of the token's text, see hashToken
	Created time.Time
	Expires time.Time
	Version string // of the stored one, as its storage spells it; "": not read from storage
}

// NamespaceOf is the namespace of a tool: of its entities, and on a cluster of its resources.
func NamespaceOf(tool string) string { return provider.ToolNamespace(tool) }
