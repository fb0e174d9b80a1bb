package deployment

import (
	"cmp"
	"net/url"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/task"
)

// CDEvents has words for what becomes of a service: it was deployed, upgraded, rolled back. It has none for the attempt, which may wait, take its time and fail; that is told in words of
// our own. So a deployment that succeeds is told of twice: it has finished, and something else runs now.

// source sends the events of deployments.
var source = event.SourceOf("deployment")

var events = []event.Type{
	Task.HistoryType(),
	{Name: event.DeploymentQueued, Text: "A deployment was asked for and has not begun yet", Object: "deployment", Permission: readPermission, Data: deploymentEvent{}},
	{Name: event.DeploymentStarted, Text: "A deployment has begun", Object: "deployment", Permission: readPermission, Data: deploymentEvent{}},
	{Name: event.DeploymentFinished, Text: "A deployment has ended: succeeded, failed, canceled, or nobody knows how", Object: "deployment", Permission: readPermission, Data: deploymentEvent{}},
	{Name: event.ServiceDeployed, Text: "A deployment has succeeded: the first one known in its environment, or one of the version that ran there already", Object: "entity", Permission: readPermission, Data: serviceEvent{}},
	{Name: event.ServiceUpgraded, Text: "A deployment has succeeded, of a version that its environment did not have before", Object: "entity", Permission: readPermission, Data: serviceEvent{}},
	{Name: event.ServiceRolledBack, Text: "A deployment has succeeded, of a version that its environment had before the present one", Object: "entity", Permission: readPermission, Data: serviceEvent{}},
}

type (
	deploymentEvent = event.CDEvent[event.CDDeployment, told]
	serviceEvent    = event.CDEvent[event.CDService, told]
)

// told is what an event tells of a deployment. Who wants more asks for it.
type told struct {
	Deployment string                   `json:"deployment" doc:"Id of the deployment" example:"github:145988746"`
	EntityRef  string                   `json:"entityRef" doc:"Entity that it belongs to" example:"component:default/web"`
	Status     slipway.DeploymentStatus `json:"status" enum:"starting,running,succeeded,failed,canceled,unknown" doc:"Where it stands" example:"succeeded"`
	Version    string                   `json:"version,omitempty" doc:"What is deployed, in the vendor's words" example:"v1.2.3"`
	Commit     string                   `json:"commit,omitempty" doc:"The commit that is deployed"`
}

func succeeds(before, now *slipway.Deployment) bool {
	return now.Status == slipway.DeploymentSucceeded && (before == nil || before.Status != now.Status)
}

func eventsOf(c task.Change[slipway.Deployment]) []event.Event {
	now := c.Now
	if c.Before != nil && c.Before.Status == now.Status {
		return nil
	}
	known := event.SourceOfProvider(now.Provider.Name)
	environment := event.CDReference{ID: cmp.Or(now.Environment, "none"), Source: known}
	subject := event.CDSubject[event.CDDeployment]{ID: now.ID, Source: known, Content: event.CDDeployment{
		Environment: environment, URI: cmp.Or(event.AbsoluteURI(now.URL), event.AbsoluteURI(c.Items+url.PathEscape(now.ID))),
	}}
	kind := event.DeploymentStarted
	switch {
	case now.Status == slipway.DeploymentStarting:
		kind = event.DeploymentQueued
	case now.Status.Finished() || now.FinishedAt != nil:
		kind = event.DeploymentFinished
		subject.Content.Outcome = map[slipway.DeploymentStatus]string{
			slipway.DeploymentSucceeded: "success", slipway.DeploymentFailed: "failure", slipway.DeploymentCanceled: "cancel",
		}[now.Status]
		if now.Status != slipway.DeploymentSucceeded {
			subject.Content.Errors = now.Detail
		}
	case now.Status == slipway.DeploymentUnknown:
		return nil // the vendor's word is not known, and it may go on
	}
	at := now.CreatedAt
	for _, t := range []*time.Time{now.StartedAt, now.UpdatedAt, now.FinishedAt} {
		if t != nil {
			at = *t
		}
	}
	custom := told{Deployment: now.ID, EntityRef: c.EntityRef, Status: now.Status, Version: now.Version}
	if now.Commit != nil {
		custom.Commit = now.Commit.SHA
	}
	list := []event.Event{event.NewCDEvent(kind, source, at, subject, custom).Event()}
	if succeeds(c.Before, now) {
		service := event.CDSubject[event.CDService]{ID: c.EntityRef, Source: event.SourceOf("catalog"), Content: event.CDService{Environment: environment, ArtifactID: artifact(c.EntityRef, now)}}
		list = append(list, event.NewCDEvent(becomes(now, c.Earlier), source, at, service, custom).Event())
	}
	return list
}

// becomes says what a success makes of the service, by what succeeded in the same environment before, newest first.
func becomes(now *slipway.Deployment, earlier []slipway.Deployment) string {
	version := versionOf(now)
	if len(earlier) == 0 || version == "" || versionOf(&earlier[0]) == version {
		return event.ServiceDeployed
	}
	for i := range earlier[1:] {
		if versionOf(&earlier[i+1]) == version {
			return event.ServiceRolledBack
		}
	}
	return event.ServiceUpgraded
}

// versionOf is what tells two deployments' content apart: the commit, as the name may be that of a branch, else the name.
func versionOf(d *slipway.Deployment) string {
	if d.Commit != nil && d.Commit.SHA != "" {
		return d.Commit.SHA
	}
	return d.Version
}

// artifact names what was deployed as CDEvents wants it, a package URL. What it was packed as is not known: it is named after the entity and the version.
func artifact(entityRef string, d *slipway.Deployment) string {
	_, full, _ := strings.Cut(entityRef, ":")
	namespace, name, _ := strings.Cut(full, "/")
	return event.GenericPackage(namespace, name, versionOf(d))
}
