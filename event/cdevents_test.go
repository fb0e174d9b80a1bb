package event_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/event/eventtest"
)

// The words that are known are those that CDEvents publishes schemas for, no more and no fewer.
func TestTheVocabularyIsThatOfTheSpecification(t *testing.T) {
	t.Parallel()
	published, err := eventtest.Types()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(published)
	if known := event.Vocabulary(); !slices.Equal(published, known) {
		t.Errorf("published: %v\nknown: %v", published, known)
	}
	for name, good := range map[string]bool{
		"dev.cdevents.service.deployed.0.3.0": true, "dev.cdevents.service.deployed.0.2.0": false, "dev.cdevents.service.exploded.0.3.0": false,
		"dev.cdeventsx.slipway-entity.created.0.1.0": true, "dev.cdeventsx.entity.created.0.1.0": false, "dev.cdeventsx.slipway-entity.created.0.10.0": false,
		"com.example.thing.done": true,
	} {
		if err := event.CheckName(name); (err == nil) != good {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Every content that blueprints fill in is one that the published schema takes, with all fields and with as few as may be.
func TestEventsFitThePublishedSchemas(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("", 3600))
	custom := map[string]string{"entityRef": "component:default/web"}
	where := event.CDReference{ID: "production", Source: "/slipway/provider/github"}
	full, few := event.CDReference{ID: "web", Source: "/slipway/catalog"}, event.CDReference{ID: "web"}
	uri := "https://ci.example.com/1"
	run := func(c event.CDPipelineRun) event.CDSubject[event.CDPipelineRun] {
		return event.CDSubject[event.CDPipelineRun]{ID: "github:1", Source: "/slipway/provider/github", Content: c}
	}
	service := event.CDSubject[event.CDService]{ID: "component:default/web", Content: event.CDService{Environment: where, ArtifactID: event.GenericPackage("default", "web", "a b+c")}}
	environment := event.CDSubject[event.CDEnvironment]{ID: "space/web", Content: event.CDEnvironment{Name: "web", URI: uri}}
	change := func(c event.CDChange) event.CDSubject[event.CDChange] {
		return event.CDSubject[event.CDChange]{ID: "42", Content: c}
	}
	incident := func(c event.CDIncident) event.CDSubject[event.CDIncident] {
		return event.CDSubject[event.CDIncident]{ID: "INC-7", Content: c}
	}
	all := []event.Event{
		event.NewCDEvent(event.PipelineRunQueued, "/slipway/build", at, run(event.CDPipelineRun{}), custom).Event(),
		event.NewCDEvent(event.PipelineRunStarted, "/slipway/build", at, run(event.CDPipelineRun{PipelineName: "ci", URI: uri}), custom).Event(),
		event.NewCDEvent(event.PipelineRunFinished, "/slipway/build", at, run(event.CDPipelineRun{PipelineName: "ci", URI: uri, Outcome: "failure", Errors: "it broke"}), custom).Event(),
		event.NewCDEvent(event.ServiceDeployed, "/slipway/deployment", at, service, custom).Event(),
		event.NewCDEvent(event.ServiceUpgraded, "/slipway/deployment", at, service, custom).Event(),
		event.NewCDEvent(event.ServiceRolledBack, "/slipway/deployment", at, service, struct{}{}).Event(),
		event.NewCDEvent(event.EnvironmentCreated, "/slipway/workspace", at, environment, custom).Event(),
		event.NewCDEvent(event.EnvironmentModified, "/slipway/workspace", at, environment, custom).Event(),
		event.NewCDEvent(event.EnvironmentDeleted, "/slipway/workspace", at, event.CDSubject[event.CDEnvironment]{ID: "space/web"}, custom).Event(),
		event.NewCDEvent(event.ChangeCreated, "/slipway/dora", at, change(event.CDChange{Description: "Mend it", Repository: &few}), custom).Event(),
		event.NewCDEvent(event.ChangeMerged, "/slipway/dora", at, change(event.CDChange{}), custom).Event(),
		event.NewCDEvent(event.IncidentDetected, "/slipway/dora", at, incident(event.CDIncident{Description: "down", Environment: where, Service: &full}), custom).Event(),
		event.NewCDEvent(event.IncidentReported, "/slipway/dora", at, incident(event.CDIncident{Environment: where, TicketURI: uri}), custom).Event(),
		event.NewCDEvent(event.IncidentResolved, "/slipway/dora", at, incident(event.CDIncident{Environment: where}), custom).Event(),
		event.NewCDEvent(event.DeploymentQueued, "/slipway/deployment", at, event.CDSubject[map[string]string]{ID: "github:1", Content: custom}, struct{}{}).Event(),
		event.NewCDEvent("dev.cdeventsx.slipway-nothing.done.0.1.0", "/slipway/nothing", at, event.CDSubject[struct{}]{ID: "1"}, struct{}{}).Event(),
	}
	for _, e := range all {
		if err := eventtest.Check(e); err != nil {
			t.Errorf("%s: %v\n%s", e.Type, err, e.Data)
		}
	}
	// And what does not fit is found.
	for want, change := range map[string]func(e *event.Event){
		"its subject is": func(e *event.Event) { e.Subject = "else" },
		"its time is":    func(e *event.Event) { e.Time = e.Time.Add(time.Second) },
		"environment": func(e *event.Event) {
			e.Data = []byte(strings.Replace(string(e.Data), "environment", "surroundings", 1))
		},
		"has no type": func(e *event.Event) { e.Type = "dev.cdevents.service.deployed.0.2.0" },
		"uri-reference": func(e *event.Event) {
			e.Data = []byte(strings.Replace(string(e.Data), "/slipway/provider/github", "::", 1))
		},
		"is not of the form": func(e *event.Event) { e.Type = "dev.cdeventsx.deployed.0.1.0" },
	} {
		e := all[3]
		change(&e)
		if err := eventtest.Check(e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
