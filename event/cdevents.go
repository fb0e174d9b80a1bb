package event

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// CDVersion is the version of the CDEvents specification that all events follow.
const CDVersion = "0.5.1"

// The types of CDEvents that Slipway sends: the words that other tools know for what happened. Any blueprint may declare them.
//
// Source: github.com/cdevents/spec, v0.5.1.
const (
	PipelineRunQueued   = "dev.cdevents.pipelinerun.queued.0.3.0"
	PipelineRunStarted  = "dev.cdevents.pipelinerun.started.0.3.0"
	PipelineRunFinished = "dev.cdevents.pipelinerun.finished.0.3.0"

	ServiceDeployed   = "dev.cdevents.service.deployed.0.3.0"
	ServiceUpgraded   = "dev.cdevents.service.upgraded.0.3.0"
	ServiceRolledBack = "dev.cdevents.service.rolledback.0.3.0"

	EnvironmentCreated  = "dev.cdevents.environment.created.0.3.0"
	EnvironmentModified = "dev.cdevents.environment.modified.0.3.0"
	EnvironmentDeleted  = "dev.cdevents.environment.deleted.0.3.0"

	ChangeCreated = "dev.cdevents.change.created.0.4.0"
	ChangeMerged  = "dev.cdevents.change.merged.0.3.0"

	IncidentDetected = "dev.cdevents.incident.detected.0.3.0"
	IncidentReported = "dev.cdevents.incident.reported.0.3.0"
	IncidentResolved = "dev.cdevents.incident.resolved.0.3.0"
)

// What CDEvents has no word for is said in its form for words of one's own, dev.cdeventsx.<tool>-<subject>.<predicate>.<version>. Whoever
// knows of deployments sends these; the others stand with who sends them.
const (
	DeploymentQueued   = "dev.cdeventsx.slipway-deployment.queued.0.1.0"
	DeploymentStarted  = "dev.cdeventsx.slipway-deployment.started.0.1.0"
	DeploymentFinished = "dev.cdeventsx.slipway-deployment.finished.0.1.0"
)

const (
	cdPrefix  = "dev.cdevents."
	cdxPrefix = "dev.cdeventsx."
)

// vocabulary are all types of CDEvents 0.5.1, without their prefix.
var vocabulary = strings.Fields(`
	artifact.deleted.0.2.0 artifact.downloaded.0.2.0 artifact.packaged.0.3.0 artifact.published.0.3.0 artifact.signed.0.3.0
	branch.created.0.3.0 branch.deleted.0.3.0
	build.finished.0.3.0 build.queued.0.3.0 build.started.0.3.0
	change.abandoned.0.3.0 change.created.0.4.0 change.merged.0.3.0 change.reviewed.0.3.0 change.updated.0.3.0
	environment.created.0.3.0 environment.deleted.0.3.0 environment.modified.0.3.0
	incident.detected.0.3.0 incident.reported.0.3.0 incident.resolved.0.3.0
	pipelinerun.finished.0.3.0 pipelinerun.queued.0.3.0 pipelinerun.started.0.3.0
	repository.created.0.3.0 repository.deleted.0.3.0 repository.modified.0.3.0
	service.deployed.0.3.0 service.published.0.3.0 service.removed.0.3.0 service.rolledback.0.3.0 service.upgraded.0.3.0
	taskrun.finished.0.3.0 taskrun.started.0.3.0
	testcaserun.finished.0.3.0 testcaserun.queued.0.3.0 testcaserun.skipped.0.2.0 testcaserun.started.0.3.0
	testoutput.published.0.3.0
	testsuiterun.finished.0.3.0 testsuiterun.queued.0.3.0 testsuiterun.started.0.3.0
	ticket.closed.0.2.0 ticket.created.0.2.0 ticket.updated.0.2.0`)

// Vocabulary lists all types of CDEvents, by name.
func Vocabulary() []string {
	all := make([]string, len(vocabulary))
	for i, word := range vocabulary {
		all[i] = cdPrefix + word
	}
	return all
}

// custom is the form of a type of one's own, as the specification's schema has it.
var custom = regexp.MustCompile(`^dev\.cdeventsx\.[a-zA-Z0-9]+-[a-zA-Z]+\.[a-zA-Z]+\.[0-9]\.[0-9]\.[0-9]$`)

// Standard says whether a type is one of CDEvents.
func Standard(eventType string) bool {
	word, ok := strings.CutPrefix(eventType, cdPrefix)
	return ok && slices.Contains(vocabulary, word)
}

// Shared says whether any number of blueprints may send a type: one of CDEvents, or of the few of Slipway's own that stand beside them here.
func Shared(eventType string) bool {
	return Standard(eventType) || slices.Contains([]string{DeploymentQueued, DeploymentStarted, DeploymentFinished}, eventType)
}

// CheckName says what is wrong with the name of a type that claims to be one of CDEvents, or of its form for words of one's own. Names that begin otherwise are nobody's business.
func CheckName(eventType string) error {
	switch {
	case strings.HasPrefix(eventType, cdPrefix) && !Standard(eventType):
		return fmt.Errorf("CDEvents %s has no type %q; say it in words of your own, dev.cdeventsx.<tool>-<subject>.<predicate>.0.1.0", CDVersion, eventType)
	case strings.HasPrefix(eventType, cdxPrefix) && !custom.MatchString(eventType):
		return fmt.Errorf("%q is not of the form dev.cdeventsx.<tool>-<subject>.<predicate>.<n>.<n>.<n>", eventType)
	}
	return nil
}

// CDEvent is the data of an event in the form of CDEvents: who tells it, what it is about (C is the content that CDEvents, or for words of one's own Slipway, gives the subject), and what
// Slipway adds (D, an object; struct{} where it adds nothing). Make it with NewCDEvent, and an Event of it with Event.
type CDEvent[C, D any] struct {
	Context               CDContext    `json:"context" doc:"Who tells it, and when it happened"`
	Subject               CDSubject[C] `json:"subject" doc:"What it is about"`
	CustomData            D            `json:"customData,omitzero" required:"false" doc:"What Slipway adds"`
	CustomDataContentType string       `json:"customDataContentType,omitempty" enum:"application/json" doc:"What customData is"`
}

// CDContext is the context of a CDEvent.
type CDContext struct {
	SpecVersion string    `json:"specversion" enum:"0.5.1" doc:"Version of CDEvents"`
	ID          string    `json:"id" minLength:"1" doc:"Id of the event"`
	Source      string    `json:"source" minLength:"1" doc:"Which part sent it"`
	Type        string    `json:"type" minLength:"1" doc:"Type of the event"`
	Timestamp   time.Time `json:"timestamp" doc:"When it happened"`
}

// CDSubject is the subject of a CDEvent. Its ID is that of the CloudEvent's subject too.
type CDSubject[C any] struct {
	ID      string `json:"id" minLength:"1" doc:"Id of the subject"`
	Source  string `json:"source,omitempty" doc:"Where the id is known"`
	Content C      `json:"content" doc:"What is said of the subject"`
}

// CDReference names another subject.
type CDReference struct {
	ID     string `json:"id" minLength:"1" doc:"Id"`
	Source string `json:"source,omitempty" doc:"Where the id is known"`
}

// CDPipelineRun is the content of a pipelineRun. CDEvents asks for URI, an absolute one, of those that have started; the last two are those of one that has finished.
type CDPipelineRun struct {
	PipelineName string `json:"pipelineName" doc:"Name of the pipeline"`
	URI          string `json:"uri,omitempty" format:"uri" doc:"Its page"`
	Outcome      string `json:"outcome,omitempty" enum:"success,failure,cancel,error" doc:"How it ended; absent where nobody knows"`
	Errors       string `json:"errors,omitempty" doc:"What went wrong"`
}

// CDService is the content of a service. ArtifactID is a package URL.
type CDService struct {
	Environment CDReference `json:"environment" doc:"Where it runs"`
	ArtifactID  string      `json:"artifactId" minLength:"1" doc:"What was deployed, as a package URL"`
}

// CDDeployment is the content of a deployment, for which CDEvents has no word. Outcome and Errors are those of one that has finished.
type CDDeployment struct {
	Environment CDReference `json:"environment" doc:"Where to, as it was said"`
	URI         string      `json:"uri,omitempty" format:"uri" doc:"Its page"`
	Outcome     string      `json:"outcome,omitempty" enum:"success,failure,cancel" doc:"How it ended; absent where nobody knows"`
	Errors      string      `json:"errors,omitempty" doc:"What went wrong, in the words of who knows"`
}

// CDEnvironment is the content of an environment. URI, an absolute one, is not for one that was deleted.
type CDEnvironment struct {
	Name string `json:"name,omitempty" doc:"Name for people"`
	URI  string `json:"uri,omitempty" format:"uri" doc:"Its page"`
}

// CDChange is the content of a change. Description is only for one that was created.
type CDChange struct {
	Description string       `json:"description,omitempty" doc:"What it is"`
	Repository  *CDReference `json:"repository,omitempty" doc:"Where it is"`
}

// CDIncident is the content of an incident. TicketURI, an absolute one, belongs to one that was reported, and only to that.
type CDIncident struct {
	Description string       `json:"description,omitempty" doc:"What it is"`
	Environment CDReference  `json:"environment" doc:"Where it is"`
	Service     *CDReference `json:"service,omitempty" doc:"What suffers"`
	TicketURI   string       `json:"ticketURI,omitempty" format:"uri" doc:"Page of its ticket"`
}

// NewCDEvent makes one. source is the part that sends it ("/slipway/build"), at is when it happened, which may be long ago.
func NewCDEvent[C, D any](eventType, source string, at time.Time, subject CDSubject[C], customData D) CDEvent[C, D] {
	e := CDEvent[C, D]{
		Context: CDContext{CDVersion, uuid.Must(uuid.NewV7()).String(), source, eventType, at.UTC().Truncate(time.Microsecond)}, // as it is stored
		Subject: subject, CustomData: customData,
	}
	if _, nothing := any(customData).(struct{}); !nothing {
		e.CustomDataContentType = ContentType
	}
	return e
}

// Event is the CloudEvent that carries it: id, source, type, subject and time are the CDEvent's own. EntityID and Origin are left to who publishes. It panics on data that does not
// encode: a fault of the code.
//
// Source: CDEvents, "CloudEvents binding".
func (e CDEvent[C, D]) Event() Event {
	raw, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return Event{ID: e.Context.ID, Source: e.Context.Source, Type: e.Context.Type, Subject: e.Subject.ID, Time: e.Context.Timestamp, Data: raw}
}

// AbsoluteURI is a text where it is an absolute URI, as CDEvents asks for, else "".
func AbsoluteURI(text string) string {
	if u, err := url.Parse(text); err != nil || !u.IsAbs() || u.Host == "" && u.Opaque == "" {
		return ""
	}
	return text
}

// GenericPackage is the package URL of what has no package type of its own: pkg:generic/<namespace>/<name>@<version>. namespace and version may be empty.
//
// Source: package-url specification, type generic.
func GenericPackage(namespace, name, version string) string {
	text := "pkg:generic/"
	if namespace != "" {
		text += url.PathEscape(namespace) + "/"
	}
	text += url.PathEscape(name)
	if version != "" {
		text += "@" + strings.ReplaceAll(url.QueryEscape(version), "+", "%20")
	}
	return text
}
