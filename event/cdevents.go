package event

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// CDVersion is the version of the CDEvents vocabulary that CDEvent speaks.
const CDVersion = "0.4.1"

// The types of CDEvents 0.4.1 that Slipway sends: the words that other tools know for what happened.
const (
	PipelineRunQueued   = "dev.cdevents.pipelinerun.queued.0.2.0"
	PipelineRunStarted  = "dev.cdevents.pipelinerun.started.0.2.0"
	PipelineRunFinished = "dev.cdevents.pipelinerun.finished.0.2.0"

	ServiceDeployed   = "dev.cdevents.service.deployed.0.2.0"
	ServiceRolledBack = "dev.cdevents.service.rolledback.0.2.0"
	ServiceRemoved    = "dev.cdevents.service.removed.0.2.0"

	EnvironmentCreated  = "dev.cdevents.environment.created.0.2.0"
	EnvironmentModified = "dev.cdevents.environment.modified.0.2.0"
	EnvironmentDeleted  = "dev.cdevents.environment.deleted.0.2.0"
)

// CDEvent is the data of an event in the words of CDEvents: who tells it, what it is about (C is the content that CDEvents gives the subject's type), and what Slipway adds (D,
// an object). Make it with NewCDEvent, and an Event of it with Event.
type CDEvent[C, D any] struct {
	Context               CDContext    `json:"context" doc:"Who tells it, and when it happened"`
	Subject               CDSubject[C] `json:"subject" doc:"What it is about"`
	CustomData            D            `json:"customData" doc:"What Slipway adds"`
	CustomDataContentType string       `json:"customDataContentType" enum:"application/json" doc:"What customData is"`
}

// CDContext is the context of a CDEvent.
type CDContext struct {
	Version   string    `json:"version" enum:"0.4.1" doc:"Version of CDEvents"`
	ID        string    `json:"id" minLength:"1" doc:"Id of the event"`
	Source    string    `json:"source" minLength:"1" doc:"Which part sent it"`
	Type      string    `json:"type" minLength:"1" doc:"Type of the event"`
	Timestamp time.Time `json:"timestamp" doc:"When it happened"`
}

// CDSubject is the subject of a CDEvent.
type CDSubject[C any] struct {
	ID      string `json:"id" minLength:"1" doc:"Id of the subject"`
	Source  string `json:"source,omitempty" doc:"Where the id is known"`
	Type    string `json:"type" minLength:"1" doc:"Kind of subject in the words of CDEvents"`
	Content C      `json:"content" doc:"What CDEvents says of such a subject"`
}

// CDPipelineRun is the content of a pipelineRun. URL is empty where it has no page; the last two are those of one that has finished.
type CDPipelineRun struct {
	PipelineName string `json:"pipelineName" doc:"Name of the pipeline"`
	URL          string `json:"url,omitempty" doc:"Its page"`
	Outcome      string `json:"outcome,omitempty" enum:"success,failure,cancel,error" doc:"How it ended"`
	Errors       string `json:"errors,omitempty" doc:"What went wrong"`
}

// CDReference names another subject.
type CDReference struct {
	ID     string `json:"id" minLength:"1" doc:"Id"`
	Source string `json:"source,omitempty" doc:"Where the id is known"`
}

// CDService is the content of a service. ArtifactID is a package URL; empty for one that was removed.
type CDService struct {
	Environment CDReference `json:"environment" doc:"Where it runs"`
	ArtifactID  string      `json:"artifactId,omitempty" doc:"What was deployed, as a package URL"`
}

// CDEnvironment is the content of an environment.
type CDEnvironment struct {
	Name string `json:"name,omitempty" doc:"Name for people"`
	URL  string `json:"url,omitempty" doc:"Its page"`
}

// NewCDEvent makes one. source is the part that sends it ("/slipway/build"); subject.Type is CDEvents' word ("pipelineRun").
func NewCDEvent[C, D any](eventType, source string, at time.Time, subject CDSubject[C], custom D) CDEvent[C, D] {
	return CDEvent[C, D]{
		Context: CDContext{CDVersion, uuid.Must(uuid.NewV7()).String(), source, eventType, at.UTC()},
		Subject: subject, CustomData: custom, CustomDataContentType: ContentType,
	}
}

// Event is the CloudEvent that carries it; Subject and EntityID are left to who publishes. It panics on custom data that does not encode: a fault of the code.
func (e CDEvent[C, D]) Event() Event {
	raw, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return Event{ID: e.Context.ID, Source: e.Context.Source, Type: e.Context.Type, Time: e.Context.Timestamp, Data: raw}
}
