package slipway

import "time"

// Build is one run of an automated pipeline, in words that no vendor owns.
//
// Source: the platform-task proposal for builds; docs/tasks/build.md argues the fields.
type Build struct {
	ID              string       `json:"id" doc:"Id across providers: <provider>:<native id>" example:"ci:0198c2f0"`
	EntityRef       string       `json:"entityRef" doc:"Entity that the build belongs to" example:"component:default/web"`
	Provider        ProviderRef  `json:"provider" doc:"Who ran it"`
	Pipeline        Pipeline     `json:"pipeline" doc:"What was run"`
	Number          int64        `json:"number,omitempty" doc:"The vendor's running number, 0 where it has none"`
	Attempt         int          `json:"attempt" doc:"Which try of the same build, from 1"`
	Status          BuildStatus  `json:"status" enum:"starting,running,succeeded,failed,canceled,skipped,unknown" doc:"Where it stands"`
	Detail          string       `json:"detail,omitempty" doc:"The vendor's own words for the status"`
	CreatedAt       time.Time    `json:"createdAt" doc:"When it was asked for; the order of lists"`
	StartedAt       *time.Time   `json:"startedAt" nullable:"true" doc:"When work began; null while starting"`
	FinishedAt      *time.Time   `json:"finishedAt" nullable:"true" doc:"When it ended; null until then"`
	DurationSeconds *float64     `json:"durationSeconds" nullable:"true" doc:"Seconds from start to end; null until then"`
	UpdatedAt       *time.Time   `json:"updatedAt,omitempty" doc:"When the vendor last changed it; absent where it does not say"`
	URL             string       `json:"url" doc:"Page with more information" example:"https://ci.example.com/runs/42"`
	TriggeredBy     *Person      `json:"triggeredBy" doc:"Who caused this attempt; null when the vendor names nobody"`
	Trigger         BuildTrigger `json:"trigger" enum:"push,pull_request,schedule,manual,api,retry,other" doc:"What caused it"`
	Commit          *Commit      `json:"commit" doc:"What was built; null when unknown"`
	Blocked         bool         `json:"blocked" doc:"True while it waits for a person"`
	Retriggerable   bool         `json:"retriggerable" doc:"True when retrigger would be accepted without force"`
}

// Took is how long a build ran, or runs so far, as people read it: 80ms, 2.3s, 4m10s; "" before it starts and where nobody knows.
func (b *Build) Took(now time.Time) string {
	var d time.Duration
	switch {
	case b.DurationSeconds != nil:
		d = time.Duration(*b.DurationSeconds * float64(time.Second))
	case b.StartedAt != nil && !b.Status.Finished():
		d = max(0, now.Sub(*b.StartedAt))
	default:
		return ""
	}
	switch {
	case d < time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// BuildStatus is where a build stands. The first four are the base set of the proposal.
type BuildStatus string

// The statuses. A vendor's word that is not known gives BuildUnknown, never an error.
const (
	BuildStarting  BuildStatus = "starting"
	BuildRunning   BuildStatus = "running"
	BuildSucceeded BuildStatus = "succeeded"
	BuildFailed    BuildStatus = "failed"
	BuildCanceled  BuildStatus = "canceled"
	BuildSkipped   BuildStatus = "skipped"
	BuildUnknown   BuildStatus = "unknown"
)

// Finished says that the status will not change without a new attempt.
func (s BuildStatus) Finished() bool {
	switch s {
	case BuildSucceeded, BuildFailed, BuildCanceled, BuildSkipped:
		return true
	}
	return false
}

// BuildTrigger is what caused a build.
type BuildTrigger string

// The triggers.
const (
	TriggerPush        BuildTrigger = "push"
	TriggerPullRequest BuildTrigger = "pull_request"
	TriggerSchedule    BuildTrigger = "schedule"
	TriggerManual      BuildTrigger = "manual"
	TriggerAPI         BuildTrigger = "api"
	TriggerRetry       BuildTrigger = "retry"
	TriggerOther       BuildTrigger = "other"
)

// ProviderRef names a configured provider and its type.
type ProviderRef struct {
	Name string `json:"name" doc:"Name of the provider in the configuration" example:"ci"`
	Type string `json:"type" doc:"Which vendor: local, github, …" example:"local"`
}

// Pipeline is what a build ran: a workflow, a job, a build definition.
type Pipeline struct {
	ID   string `json:"id" doc:"The vendor's id"`
	Name string `json:"name" doc:"Name for people"`
}

// Person is an account as a vendor knows it, and the catalog's user when one is known to be the same.
type Person struct {
	ID        string `json:"id,omitempty" doc:"The vendor's id or login"`
	Name      string `json:"name,omitempty" doc:"Name for people"`
	Email     string `json:"email,omitempty" doc:"E-mail address"`
	EntityRef string `json:"entityRef,omitempty" doc:"The catalog's user entity, when known"`
}

// Commit is a version of the source.
type Commit struct {
	SHA     string `json:"sha" doc:"Full commit id"`
	Message string `json:"message,omitempty" doc:"First line of the message"`
	Author  string `json:"author,omitempty" doc:"Who wrote it"`
	Branch  string `json:"branch,omitempty" doc:"Branch or tag that was built"`
	URL     string `json:"url,omitempty" doc:"Page of the commit"`
}
