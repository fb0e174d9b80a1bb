package dora

import (
	"cmp"
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"time"

	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
)

// source sends the events of what is reported here.
var source = event.SourceOf("dora")

// toldFor is how long ago something may have happened to be told of when it is reported: what is older is history that somebody brings along.
const toldFor = 7 * 24 * time.Hour

// events tell of what was reported: deployments that no provider knows, changes and incidents. What changes nothing, such as a report that comes twice, is not told again. An event's
// entity is the one of the service's name, else the first that the service belongs to; one of a service without an entity is only for those who may read all events.
var events = []event.Type{
	{Name: event.DeploymentStarted, Text: "A deployment was reported that goes on", Object: "deployment", Permission: historyPermission, Data: deploymentEvent{}},
	{Name: event.DeploymentFinished, Text: "A deployment was reported that has ended: succeeded, failed or cancelled", Object: "deployment", Permission: historyPermission, Data: deploymentEvent{}},
	{Name: event.ServiceDeployed, Text: "A deployment was reported that has succeeded", Object: "service", Permission: historyPermission, Data: serviceEvent{}},
	{Name: event.ServiceRolledBack, Text: "A deployment was reported that has put an older version back", Object: "service", Permission: historyPermission, Data: serviceEvent{}},
	{Name: event.ChangeCreated, Text: "A change was reported that is not merged yet", Object: "change", Permission: historyPermission, Data: changeEvent{}},
	{Name: event.ChangeMerged, Text: "A change was reported that was merged", Object: "change", Permission: historyPermission, Data: changeEvent{}},
	{Name: event.IncidentDetected, Text: "An incident was reported for the first time", Object: "incident", Permission: historyPermission, Data: incidentEvent{}},
	{Name: event.IncidentReported, Text: "An incident was reported that has a page of its own", Object: "incident", Permission: historyPermission, Data: incidentEvent{}},
	{Name: event.IncidentResolved, Text: "An incident was reported that is over", Object: "incident", Permission: historyPermission, Data: incidentEvent{}},
}

type (
	deploymentEvent = event.CDEvent[event.CDDeployment, toldOf]
	serviceEvent    = event.CDEvent[event.CDService, toldOf]
	changeEvent     = event.CDEvent[event.CDChange, toldOf]
	incidentEvent   = event.CDEvent[event.CDIncident, toldOf]
)

// toldOf is what an event tells beside CDEvents' words. Who wants more asks for the history.
type toldOf struct {
	Service    string `json:"service" doc:"The service, as it was reported"`
	EntityRef  string `json:"entityRef,omitempty" doc:"The entity whose readers may read this; absent where the service has none"`
	ReportedBy string `json:"reportedBy" doc:"The source of the report: ids are unique within it"`
	Version    string `json:"version,omitempty" doc:"What was deployed, or the commit that merged"`
	Severity   string `json:"severity,omitempty" doc:"Of an incident, in the reporter's words"`
	URL        string `json:"url,omitempty" doc:"Its page"`
}

// happening is one thing of which events tell: it happened at a time and becomes an event once it is known who may read it.
type happening struct {
	at    time.Time
	event func(entityRef string) event.Event
}

// happenings are what a record says that the one before it, with the same id, did not. before is nil for a new one.
func happenings(r record, before *stored) (list []happening) {
	add := func(at time.Time, make func(entityRef string) event.Event) {
		list = append(list, happening{at, make})
	}
	reporter := source + "/" + url.PathEscape(r.source)
	switch is := r.item.(type) {
	case Deployment:
		if before != nil && before.status == is.Status {
			return nil
		}
		custom := toldOf{Service: is.Service, ReportedBy: r.source, Version: is.deployed(), URL: is.URL}
		environment := event.CDReference{ID: is.OriginalEnvironment, Source: reporter}
		kind, at := event.DeploymentStarted, is.StartTime
		content := event.CDDeployment{Environment: environment, URI: event.AbsoluteURI(is.URL)}
		if is.EndTime != nil {
			kind, at = event.DeploymentFinished, *is.EndTime
			content.Outcome = map[string]string{statusSuccess: "success", statusFailure: "failure", statusCancelled: "cancel"}[is.Status]
			if is.Status != statusSuccess {
				content.Errors = is.Detail
			}
		}
		add(at, func(ref string) event.Event {
			custom.EntityRef = ref
			return event.NewCDEvent(kind, source, at, event.CDSubject[event.CDDeployment]{ID: is.ID, Source: reporter, Content: content}, custom).Event()
		})
		if is.Status != statusSuccess {
			return list
		}
		became := event.ServiceDeployed
		if is.Rollback {
			became = event.ServiceRolledBack
		}
		add(at, func(ref string) event.Event {
			custom.EntityRef = ref
			subject := event.CDSubject[event.CDService]{ID: is.Service, Source: source, Content: event.CDService{Environment: environment, ArtifactID: event.GenericPackage("", is.Service, is.deployed())}}
			return event.NewCDEvent(became, source, at, subject, custom).Event()
		})
	case Change:
		if before != nil && before.rank == r.rank {
			return nil
		}
		custom := toldOf{Service: is.Service, ReportedBy: r.source, Version: is.MergeCommit, URL: is.URL}
		kind, at, content := event.ChangeCreated, is.OpenedAt, event.CDChange{Description: is.Title}
		switch {
		case is.MergedAt != nil:
			kind, at, content = event.ChangeMerged, *is.MergedAt, event.CDChange{}
		case before != nil:
			return nil // it is open again, and was told of when it was new
		}
		add(at, func(ref string) event.Event {
			custom.EntityRef = ref
			return event.NewCDEvent(kind, source, at, event.CDSubject[event.CDChange]{ID: is.ID, Source: reporter, Content: content}, custom).Event()
		})
	case Incident:
		var was Incident
		if before != nil {
			_ = json.Unmarshal([]byte(before.doc), &was) // it was written here
		}
		custom := toldOf{Service: is.Service, ReportedBy: r.source, Severity: is.Severity, URL: is.URL}
		tell := func(kind string, at time.Time, ticket string) {
			content := event.CDIncident{Description: is.Title, Environment: event.CDReference{ID: production, Source: source}, Service: &event.CDReference{ID: is.Service, Source: source}, TicketURI: ticket}
			add(at, func(ref string) event.Event {
				custom.EntityRef = ref
				return event.NewCDEvent(kind, source, at, event.CDSubject[event.CDIncident]{ID: is.ID, Source: reporter, Content: content}, custom).Event()
			})
		}
		if before == nil {
			tell(event.IncidentDetected, is.StartedAt, "")
		}
		if ticket := event.AbsoluteURI(is.URL); ticket != "" && event.AbsoluteURI(was.URL) == "" {
			tell(event.IncidentReported, is.StartedAt, ticket)
		}
		if is.ResolvedAt != nil && was.ResolvedAt == nil {
			tell(event.IncidentResolved, *is.ResolvedAt, "")
		}
	}
	return list
}

// tell publishes what records say that is new, in the transaction that stores them.
func (s *service) tell(ctx context.Context, tx *store.Tx, records []record, before map[sourceID]stored, services map[string]int64) error {
	type news struct {
		service, origin int64
		happening
	}
	var list []news
	oldest := s.now().Add(-toldFor)
	for _, r := range records {
		if r.known {
			continue
		}
		var was *stored
		if b, ok := before[r.sourceID()]; ok {
			was = &b
		}
		for _, h := range happenings(r, was) {
			if !h.at.Before(oldest) {
				list = append(list, news{services[r.service], r.origin, h})
			}
		}
	}
	if len(list) == 0 {
		return nil
	}
	slices.SortStableFunc(list, func(a, b news) int { return cmp.Compare(a.at.UnixMicro(), b.at.UnixMicro()) })
	ids := map[int64]bool{}
	for _, n := range list {
		ids[n.service] = true
	}
	owners, err := entitiesOf(ctx, tx, sortedIDs(ids))
	if err != nil {
		return err
	}
	out := make([]event.Event, len(list))
	for i, n := range list {
		of := owners[n.service]
		out[i] = n.event(of.ref)
		out[i].EntityID, out[i].Origin = of.id, n.origin
	}
	return s.events.PublishAll(ctx, tx, out)
}
