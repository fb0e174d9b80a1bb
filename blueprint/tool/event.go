package tool

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/store"
)

// The events of a tool's deployments. CDEvents has a word for what became of a component, and none for a deployment that builds many and waits for all of them: that one is
// said in its form for words of one's own, dev.cdeventsx.<who>-<subject>.<predicate>.
//
// Source: CDEvents 0.5.1, "Custom event types".
const (
	eventQueued   = "dev.cdeventsx.slipway-tooldeployment.queued.0.1.0"
	eventFinished = "dev.cdeventsx.slipway-tooldeployment.finished.0.1.0"
)

const (
	toldAtOnce = 100 // components that one transaction tells of
)

// eventSource sends the events of tools, and knows their subjects.
var eventSource = event.SourceOf("tool")

var events = []event.Type{
	{Name: eventQueued, Text: "A deployment of a tool was created", Object: "deployment", Permission: readPermission, Data: deploymentEvent{}},
	{Name: eventFinished, Text: "A deployment of a tool has ended: successful, failed, cancelled or timed out", Object: "deployment", Permission: readPermission, Data: deploymentEvent{}},
	{Name: event.ServiceDeployed, Text: "What was built of a tool's component runs", Object: "entity", Permission: readPermission, Data: serviceEvent{}},
}

type (
	deploymentEvent = event.CDEvent[deploymentContent, toldDeployment]
	serviceEvent    = event.CDEvent[event.CDService, toldComponent]
)

// deploymentContent is the content of a deployment as the subject of an event. The last two are those of one that has finished.
type deploymentContent struct {
	Environment event.CDReference `json:"environment" doc:"The tool, by its namespace"`
	Outcome     string            `json:"outcome,omitempty" enum:"success,failure,cancel,error" doc:"How it ended; error: it took too long"`
	Errors      string            `json:"errors,omitempty" doc:"What went wrong"`
}

// toldDeployment is what an event tells of a deployment. Who wants more asks for it.
type toldDeployment struct {
	Tool       string `json:"tool" doc:"The tool"`
	Deployment string `json:"deployment" doc:"Id of the deployment"`
	Status     Status `json:"status" enum:"pending,running,cancelling,successful,failed,cancelled,timed_out" doc:"Where it stands"`
}

// toldComponent is what an event tells of a component that runs.
type toldComponent struct {
	Tool       string `json:"tool" doc:"The tool"`
	Component  string `json:"component" doc:"The component"`
	EntityRef  string `json:"entityRef" doc:"Its entity"`
	Deployment string `json:"deployment" doc:"Id of the deployment"`
	Build      string `json:"build,omitempty" doc:"Id of the build that runs, as its builder has it; absent where another component's is used"`
	Commit     string `json:"commit,omitempty" doc:"What was built"`
}

func environmentOf(tool string) event.CDReference {
	return event.CDReference{ID: NamespaceOf(tool), Source: eventSource}
}

// tell publishes that a deployment was created, or has ended. Those may read it who may read its first component.
func (s *service) tell(ctx context.Context, tx *store.Tx, d *Deployment, status Status) error {
	kind, at := eventQueued, d.Created
	content := deploymentContent{Environment: environmentOf(d.Tool)}
	if !status.Active() {
		kind, at = eventFinished, s.now()
		if d.Finished != nil {
			at = *d.Finished
		}
		content.Outcome = map[Status]string{Successful: "success", Failed: "failure", Cancelled: "cancel", TimedOut: "error"}[status]
		if status != Successful {
			content.Errors = d.Detail
		}
	}
	subject := event.CDSubject[deploymentContent]{ID: d.ID, Source: eventSource, Content: content}
	e := event.NewCDEvent(kind, eventSource, at, subject, toldDeployment{d.Tool, d.ID, status}).Event()
	if len(d.Components) > 0 {
		ref := componentRef(d.Tool, d.Components[0].Name)
		known, err := s.host.Entities.ByRefs(ctx, tx, auth.System(), []slipway.EntityRef{ref})
		if err != nil {
			return err
		}
		e.EntityID = known[ref.String()].ID // 0: it has none yet, and only those who may read all events read this one
	}
	return s.host.Events.Publish(ctx, tx, e)
}

func componentRef(tool, component string) slipway.EntityRef {
	return slipway.EntityRef{Kind: "component", Namespace: NamespaceOf(tool), Name: component}.Lower()
}

// tellArgs names a deployment whose components run, and where in their list to go on.
type tellArgs struct {
	Tool string `json:"tool"`
	ID   string `json:"id"`
	From int    `json:"from"`
}

func (tellArgs) Kind() string { return "tool.tell" }

// tellOfServices publishes which components of a deployment run now, some in each transaction, which ends this job and begins the next one.
func (s *service) tellOfServices(ctx context.Context, a tellArgs) error {
	d, err := s.storage.Deployment(ctx, a.Tool, a.ID)
	if err != nil {
		if slipway.CodeOf(err) == slipway.NotFound {
			return nil // it was deleted, and nobody can ask for more
		}
		return again(err)
	}
	return s.db.Write(ctx, func(tx *store.Tx) error {
		list := d.Components[min(a.From, len(d.Components)):]
		more := len(list) > toldAtOnce
		list = list[:min(len(list), toldAtOnce)]
		refs := make([]slipway.EntityRef, len(list))
		for i, c := range list {
			refs[i] = componentRef(d.Tool, c.Name)
		}
		known, err := s.host.Entities.ByRefs(ctx, tx, auth.System(), refs)
		if err != nil {
			return err
		}
		var news []event.Event
		for i, c := range list {
			if c.Run.Status == RunSuccessful {
				e := serviceOf(&d, &c, s.now())
				e.EntityID = known[refs[i].String()].ID
				news = append(news, e)
			}
		}
		if err := s.host.Events.PublishAll(ctx, tx, news); err != nil {
			return err
		}
		if more {
			a.From += toldAtOnce
			if _, _, err := s.host.Jobs.Insert(ctx, tx, a, job.Insert{}); err != nil {
				return err
			}
		}
		return job.Done(ctx, tx)
	})
}

func serviceOf(d *Deployment, c *Component, now time.Time) event.Event {
	at, built := now, c.Build
	if d.Finished != nil {
		at = *d.Finished
	}
	for _, other := range d.Components {
		if other.Name == c.ReuseFrom {
			built = other.Build
		}
	}
	ref := componentRef(d.Tool, c.Name).String()
	subject := event.CDSubject[event.CDService]{
		ID: ref, Source: eventSource, Content: event.CDService{Environment: environmentOf(d.Tool), ArtifactID: packageURL(d.Tool, c.Name, &built)},
	}
	told := toldComponent{Tool: d.Tool, Component: c.Name, EntityRef: ref, Deployment: d.ID, Build: c.Build.ID, Commit: built.Commit}
	return event.NewCDEvent(event.ServiceDeployed, eventSource, at, subject, told).Event()
}

// packageURL names what runs as CDEvents wants it: an image as registry/path/name:tag@digest becomes pkg:oci/name@digest?repository_url=registry/path/name&tag=tag. What has no
// image is named after the commit.
//
// Source: package-url specification, type oci.
func packageURL(tool, component string, b *BuildState) string {
	if b.Image == "" {
		return event.GenericPackage(NamespaceOf(tool), component, b.Commit)
	}
	image, digest, _ := strings.Cut(b.Image, "@")
	repository, tag := image, ""
	if colon := strings.LastIndexByte(image, ':'); colon > strings.LastIndexByte(image, '/') {
		repository, tag = image[:colon], image[colon+1:]
	}
	repository = strings.ToLower(repository)
	text := "pkg:oci/" + url.PathEscape(repository[strings.LastIndexByte(repository, '/')+1:])
	if digest != "" {
		text += "@" + url.QueryEscape(digest)
	}
	text += "?repository_url=" + strings.ReplaceAll(url.QueryEscape(repository), "%2F", "/")
	if tag != "" {
		text += "&tag=" + url.QueryEscape(tag)
	}
	return text
}
