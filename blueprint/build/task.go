package build

import (
	"context"
	"net/url"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/task"
)

// Task is the platform task of builds. docs/tasks/build.md argues its base set.
var Task = task.Task[slipway.Build]{
	Name:       "build",
	Text:       "One run of an automated pipeline that a change of code, a person or a clock has caused.",
	Permission: readPermission,
	Base:       []string{"id", "entityRef", "provider", "pipeline", "attempt", "status", "createdAt", "startedAt", "finishedAt", "url", "triggeredBy"},
	Actions:    []string{"retrigger", "start", "cancel", "logs"},
	Statuses: []string{
		string(slipway.BuildStarting), string(slipway.BuildRunning), string(slipway.BuildSucceeded), string(slipway.BuildFailed),
		string(slipway.BuildCanceled), string(slipway.BuildSkipped), string(slipway.BuildUnknown),
	},
	// Where filters meet, the first leads: a person has fewer builds than a pipeline, a pipeline fewer than the main branch.
	Fields: []task.Field[slipway.Build]{
		{Name: "triggeredBy", Text: "who caused it: id, name, e-mail address or entity ref; me is the caller", Person: true, Of: whoOf},
		{Name: "pipeline", Text: "id or name of the pipeline", Of: func(b *slipway.Build) []string { return []string{b.Pipeline.ID, b.Pipeline.Name} }},
		{Name: "branch", Text: "branch or tag that was built", Of: branchOf},
	},
	Row:   row,
	Adorn: adorn,
	List: func(p *provider.Provider) func(context.Context, string, provider.ListOptions) (provider.Page[slipway.Build], error) {
		if p.Builds == nil {
			return nil
		}
		return p.Builds.List
	},
	Get: func(p *provider.Provider) func(context.Context, string, string) (slipway.Build, error) {
		if p.Builds == nil {
			return nil
		}
		return p.Builds.Get
	},
	Gone:   gone,
	Of:     func(d provider.Delivery) *slipway.Build { return d.Build },
	Can:    can,
	Events: eventsOf,
}

func whoOf(b *slipway.Build) []string {
	p := b.TriggeredBy
	if p == nil {
		return nil
	}
	return []string{p.ID, p.Email, p.Name, p.EntityRef}
}

func branchOf(b *slipway.Build) []string {
	if b.Commit == nil {
		return nil
	}
	return []string{b.Commit.Branch}
}

// row orders the states of one build. Where the vendor dates its changes, that is the order. Where it does not, a later attempt is newer, and within one a build
// only goes forward: so it does within what a vendor's clock tells apart, which may be a second.
func row(b *slipway.Build) task.Row {
	r := task.Row{ID: b.ID, Created: b.CreatedAt, Status: string(b.Status), Finished: b.Status.Finished() || b.FinishedAt != nil}
	switch {
	case b.UpdatedAt != nil:
		r.Version = b.UpdatedAt.UnixMicro()
		if r.Finished {
			r.Version++
		}
	case r.Finished:
		r.Version = int64(b.Attempt)<<2 | 2
	case b.Status != slipway.BuildStarting:
		r.Version = int64(b.Attempt)<<2 | 1
	default:
		r.Version = int64(b.Attempt) << 2
	}
	return r
}

func adorn(b *slipway.Build, p slipway.ProviderRef, person func(*slipway.Person)) {
	b.ID = p.Name + ":" + b.ID
	b.Provider = p
	b.Retriggerable = b.Retriggerable && retriggerable(b.Status) // a vendor may refuse more, such as what is too old
	if b.TriggeredBy != nil {
		by := *b.TriggeredBy
		person(&by)
		b.TriggeredBy = &by
	}
}

// retriggerable says which builds may be run again without force.
func retriggerable(s slipway.BuildStatus) bool {
	return s == slipway.BuildFailed || s == slipway.BuildCanceled
}

// gone is a build that the vendor deleted while we thought that it ran: how it ended is not known.
func gone(b *slipway.Build) {
	end := b.CreatedAt
	if b.StartedAt != nil {
		end = *b.StartedAt
	}
	b.Status, b.Detail, b.FinishedAt, b.Blocked, b.Retriggerable = slipway.BuildUnknown, "the provider no longer has it", &end, false, false
}

func can(p *provider.Provider) []string {
	var list []string
	if p.Builds.Retrigger != nil {
		list = append(list, "retrigger")
	}
	if p.Builds.Start != nil {
		list = append(list, "start")
	}
	if p.Builds.Cancel != nil {
		list = append(list, "cancel")
	}
	if p.Builds.Logs != nil {
		list = append(list, "logs")
	}
	return list
}

// source sends the events of builds.
var source = event.SourceOf("build")

// The events of a build, in the words of CDEvents. One is sent to each entity that the build belongs to.
var events = []event.Type{
	Task.HistoryType(),
	{Name: task.EventPushed, Text: "A provider told by its webhook that a repository has new content", Object: "repository", Permission: event.ReadPermission, Data: task.Push{}},
	{Name: event.PipelineRunQueued, Text: "A build was asked for and has not begun yet", Object: "build", Permission: readPermission, Data: cdEvent{}},
	{Name: event.PipelineRunStarted, Text: "A build has begun", Object: "build", Permission: readPermission, Data: cdEvent{}},
	{Name: event.PipelineRunFinished, Text: "A build has ended: succeeded, failed, canceled or skipped", Object: "build", Permission: readPermission, Data: cdEvent{}},
}

// cdEvent is a pipelineRun. Its custom data is what a reader needs to decide whether to ask for the build.
type cdEvent = event.CDEvent[event.CDPipelineRun, told]

// told is what an event tells of a build. Who wants more asks for the build.
type told struct {
	ID        string              `json:"id" doc:"Id of the build"`
	EntityRef string              `json:"entityRef" doc:"Entity that it belongs to"`
	Attempt   int                 `json:"attempt" doc:"Which attempt"`
	Status    slipway.BuildStatus `json:"status" doc:"Where it stands"`
	Detail    string              `json:"detail,omitempty" doc:"The vendor's own words"`
	URL       string              `json:"url,omitempty" doc:"Its page"`
	Commit    string              `json:"commit,omitempty" doc:"What was built"`
}

func eventsOf(c task.Change[slipway.Build]) []event.Event {
	before, now := c.Before, c.Now
	if before != nil && before.Status == now.Status && before.Attempt == now.Attempt {
		return nil
	}
	page := event.AbsoluteURI(now.URL)
	if page == "" {
		page = event.AbsoluteURI(c.Items + url.PathEscape(now.ID)) // the vendor has none, or none that can be called one
	}
	subject := event.CDSubject[event.CDPipelineRun]{
		ID: now.ID, Source: event.SourceOfProvider(now.Provider.Name), Content: event.CDPipelineRun{PipelineName: now.Pipeline.Name, URI: page},
	}
	var eventType string
	switch {
	case now.Status == slipway.BuildStarting:
		eventType = event.PipelineRunQueued
	case now.Status == slipway.BuildRunning:
		eventType = event.PipelineRunStarted
	case now.Status.Finished():
		eventType = event.PipelineRunFinished
		subject.Content.Outcome = map[slipway.BuildStatus]string{
			slipway.BuildSucceeded: "success", slipway.BuildFailed: "failure", slipway.BuildCanceled: "cancel", slipway.BuildSkipped: "cancel",
		}[now.Status]
		if now.Status != slipway.BuildSucceeded {
			subject.Content.Errors = now.Detail
		}
	default:
		return nil
	}
	at := now.CreatedAt
	for _, t := range []*time.Time{now.StartedAt, now.UpdatedAt, now.FinishedAt} {
		if t != nil {
			at = *t
		}
	}
	custom := told{ID: now.ID, EntityRef: c.EntityRef, Attempt: now.Attempt, Status: now.Status, Detail: now.Detail, URL: now.URL}
	if now.Commit != nil {
		custom.Commit = now.Commit.SHA
	}
	return []event.Event{event.NewCDEvent(eventType, source, at, subject, custom).Event()}
}
