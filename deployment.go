package slipway

import "time"

// Deployment is one time that a version of something was brought into an environment, in words that no vendor owns.
//
// Source: docs/tasks/deployment.md argues the fields.
type Deployment struct {
	ID              string           `json:"id" doc:"Id across providers: <provider>:<native id>" example:"github:145988746"`
	EntityRef       string           `json:"entityRef" doc:"Entity that the deployment belongs to" example:"component:default/web"`
	Provider        ProviderRef      `json:"provider" doc:"Who did it"`
	Environment     string           `json:"environment" doc:"Where to, in the vendor's own words" example:"production"`
	Version         string           `json:"version,omitempty" doc:"What was deployed: a tag, a branch, an image's tag" example:"v1.2.3"`
	Status          DeploymentStatus `json:"status" enum:"starting,running,succeeded,failed,canceled,unknown" doc:"Where it stands"`
	Detail          string           `json:"detail,omitempty" doc:"The vendor's own words for the status"`
	CreatedAt       time.Time        `json:"createdAt" doc:"When it was asked for; the order of lists"`
	StartedAt       *time.Time       `json:"startedAt" nullable:"true" doc:"When work began; null while starting"`
	FinishedAt      *time.Time       `json:"finishedAt" nullable:"true" doc:"When it ended; null until then"`
	DurationSeconds *float64         `json:"durationSeconds" nullable:"true" doc:"Seconds from start to end; null until then"`
	UpdatedAt       *time.Time       `json:"updatedAt,omitempty" doc:"When the vendor last changed it; absent where it does not say"`
	URL             string           `json:"url" doc:"Page with more information" example:"https://github.com/octo/web/deployments"`
	TriggeredBy     *Person          `json:"triggeredBy" doc:"Who caused it; null when the vendor names nobody"`
	Commit          *Commit          `json:"commit" doc:"What was deployed; null when unknown"`
}

// DeploymentStatus is where a deployment stands. The words are those of builds.
type DeploymentStatus string

// The statuses. A vendor's word that is not known gives DeploymentUnknown, never an error.
const (
	DeploymentStarting  DeploymentStatus = "starting"
	DeploymentRunning   DeploymentStatus = "running"
	DeploymentSucceeded DeploymentStatus = "succeeded"
	DeploymentFailed    DeploymentStatus = "failed"
	DeploymentCanceled  DeploymentStatus = "canceled"
	DeploymentUnknown   DeploymentStatus = "unknown"
)

// Finished says that the status will not change.
func (s DeploymentStatus) Finished() bool {
	return s == DeploymentSucceeded || s == DeploymentFailed || s == DeploymentCanceled
}
