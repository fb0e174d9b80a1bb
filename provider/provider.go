// Package provider is the contract between Slipway and a vendor: a Kind is one exported value with a config;
// what it opens is a Provider whose fields are what the vendor can do. An empty field means "cannot".
//
// A vendor reads no environment and no database; it gets a config and an HTTP client. Its own JSON shapes stay inside its
// package; it maps them faithfully and leaves policy (what may be retried, who may see) to blueprints. What this package
// promises is checked for every vendor, offline, by package providertest; package fake keeps the promises in memory.
package provider

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
)

// Kind is a type of provider: one exported value per vendor.
type Kind struct {
	Name        string       // the `type` in the configuration: "github"
	Text        string       // one sentence for people
	Config      any          // zero value of the config struct, for documentation and checks; its fields carry json, doc, default and required tags
	Annotations []Annotation // where entities say what belongs to them

	// Open makes a provider of a raw config (the entry of `providers:` without name and type, secrets already resolved). It reports all faults of the config
	// together (Decode does) and does not talk to the vendor.
	Open func(ctx context.Context, config json.RawMessage, env Env) (*Provider, error)
}

// Opening makes the Open function of a Kind from a package's own constructor. It decodes and checks the raw config (see Decode), hands it to newVendor, and returns what its
// Provider method describes.
func Opening[C any, V interface{ Provider() *Provider }](newVendor func(C, Env) (V, error)) func(context.Context, json.RawMessage, Env) (*Provider, error) {
	return func(_ context.Context, raw json.RawMessage, env Env) (*Provider, error) {
		var config C
		if err := Decode(raw, &config); err != nil {
			return nil, err
		}
		v, err := newVendor(config, env)
		if err != nil {
			return nil, err
		}
		return v.Provider(), nil
	}
}

// Annotation documents one annotation that a kind reads.
type Annotation struct {
	Key     string `json:"key" doc:"Annotation on an entity" example:"github.com/project-slug"`
	Text    string `json:"text" doc:"What it says"`
	Example string `json:"example" doc:"A value" example:"octo/hello"`
	Project bool   `json:"project" doc:"It names a project, so that builds are shown. Others narrow down what is meant, or stand on users"`
	Spaces  bool   `json:"-"` // spaces separate several values, as commas do always
}

// Env is what a provider may use of the outside.
type Env struct {
	Name string       // name of this provider in the configuration
	HTTP *http.Client // guarded; never follows a redirect to another host with credentials
	// Trust returns a client like HTTP that also trusts these certificate authorities; see Trusting. nil: there is none.
	Trust func(Certificates) *http.Client
	Now   func() time.Time // the clock; see Clock
	Log   *slog.Logger

	// Holds is shared by all replicas: it says until when a vendor must not be asked. nil: each client keeps its own.
	Holds Holds

	// Cluster gives the connection to a Kubernetes cluster of the configuration by name. nil: there is none; see Kubernetes.
	Cluster func(name string) (*cluster.Client, error)
}

// Clock is Now, or the machine's clock where there is none.
func (e Env) Clock() func() time.Time {
	if e.Now != nil {
		return e.Now
	}
	return time.Now
}

// Kubernetes gives the connection to a cluster of the configuration by name; "" means the only one. One that is not configured is Invalid.
func (e Env) Kubernetes(name string) (*cluster.Client, error) {
	if e.Cluster == nil {
		return (*cluster.Clients)(nil).Get(name)
	}
	return e.Cluster(name)
}

// Trusting returns an Env whose HTTP client also trusts the certificate authorities in c.
func (e Env) Trusting(c Certificates) Env {
	if c != "" && e.Trust != nil {
		e.HTTP = e.Trust(c)
	}
	return e
}

// DefaultInterval is how often a source is read when a provider names no Interval.
const DefaultInterval = time.Minute

// Provider is an opened provider. All functions may be called concurrently, return soon after their context ends (with its error), and
// give coded errors: NotFound for what is not there, Conflict for what the vendor's state forbids, Unavailable (with RetryAfter when the
// vendor said so) when it does not answer, RateLimited (with RetryAfter) when it refuses to for now, Forbidden or
// Unauthenticated when it refuses our credential, Invalid for what it will never accept.
type Provider struct {
	// Projects reads from an entity's annotations which projects at this provider belong to it, in the vendor's own notation and in one
	// spelling: two entities that mean the same project give the same string. None: not bound. It is pure and required.
	Projects func(e *slipway.Entity) []string

	// Accounts reads from a user entity's annotations which accounts at this provider are that user's, as Person.ID spells them. Pure; may be nil.
	// E-mail addresses need no help: they are matched for every provider.
	Accounts func(e *slipway.Entity) []string

	// Interval is how often a source is read when nothing else says; 0 is DefaultInterval.
	Interval time.Duration

	Builds      *Builds
	Deployments *Deployments
	Builder     *Builder
	Runner      *Runner
	Webhook     *Webhook

	// Check tells whether address and credential work, for people. May be nil.
	Check func(ctx context.Context) error

	// Inspect tells people what the credential is and what it may do with a project. May be nil: then Check says all there is to say.
	Inspect func(ctx context.Context, project string) (Insight, error)

	// Access asks the vendor whether whoever holds token, which is a caller's own and not ours, may see the builds of a project. nil: they may; Unauthenticated,
	// Forbidden or NotFound: they may not. Any other error says nothing of it. The token is shown to the vendor and to nobody else: it is not kept, and stands in no
	// error. nil: the vendor cannot be asked, and visibility `source` cannot be had.
	Access func(ctx context.Context, project string, token Secret) error

	// Limits says what the vendor last said of its limits, by account; without talking to it. May be nil.
	Limits func() []Limit

	// Close frees what Open took. May be nil.
	Close func() error
}

// Insight is what a vendor tells of our credential, for people.
type Insight struct {
	Account string    // whose it is; "" where the vendor does not say
	Expires time.Time // zero: never, or the vendor does not say
	Lacks   []string  // what it may not do though Slipway would, each a sentence that says what to give it
}

// Page is one page of a vendor's list.
type Page[T any] struct {
	Items []T
	Next  string // vendor cursor of the next page; "" at the end
	// Validator is what the vendor gave for conditional requests (an ETag or the like) on the first page; "" where it has none.
	Validator string
	// NotModified: nothing changed since the validator that was passed; Items is empty.
	NotModified bool
	// Complete asks for what the vendor's list does not show of an item, with requests of its own; nil: the items are whole. Who keeps an item as it was at its
	// UpdatedAt, which such a list shows, need not ask again. An item that is gone by now is NotFound. It may be called for several items at once.
	Complete func(ctx context.Context, item T) (T, error)
}

// ListOptions says which page to read.
type ListOptions struct {
	Cursor    string // "" for the newest
	Limit     int    // how many at most; 0: as the vendor likes. The vendor may give fewer, also none, and still have a Next
	Validator string // from the last first page; makes the request conditional. Only with an empty Cursor
}

// Builds is what a vendor can do about builds. List and Get are required. Builds come back with ID holding the vendor's own id
// (unique within the project, the same for all attempts that the vendor counts as one run), and without EntityRef and Provider: the index adds them.
//
// A status word that is not known gives BuildUnknown with the word in Detail, never an error. StartedAt is nil while starting, FinishedAt is nil until the build
// is finished, zero dates mean nil. UpdatedAt is when the vendor last changed the build; a vendor sets it on all builds or on none.
type Builds struct {
	// List reads builds of a project, newest first by CreatedAt, stable while new ones arrive: following Next never repeats or skips what was there when the
	// first page was read, and ends. A project that is not there is NotFound; a cursor that the vendor refuses is Invalid.
	List func(ctx context.Context, project string, o ListOptions) (Page[slipway.Build], error)
	// Get reads one build by the vendor's id. One that became others, which the list shows, is Replaced.
	Get func(ctx context.Context, project, id string) (slipway.Build, error)
	// Retrigger runs a finished build again: what failed of it, or all when the vendor can do no less. A build that is not finished is a Conflict. Extra holds
	// what else the caller sent, for the vendor. The result is the build that now runs (the id may be new), nil when the vendor has not named it yet. by is who asked.
	Retrigger func(ctx context.Context, project, id string, extra map[string]any, by slipway.Caller) (*slipway.Build, error)
	// Start begins a build of a ref. pipeline may be "" where the project has one. A ref or pipeline that is not there is NotFound or Invalid.
	Start func(ctx context.Context, project string, o StartOptions, by slipway.Caller) (*slipway.Build, error)
	// Cancel ends a running build. It may return before the build has ended. A finished one is a Conflict.
	Cancel func(ctx context.Context, project, id string) error
	// Logs reads a build's log as text, from the start. With follow it goes on until the build ends (then io.EOF) or the context does (then its error). The
	// caller closes it.
	Logs func(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error)
}

// Deployments is what a vendor can do about deployments. Both are required. Deployments come back with ID holding the vendor's own id (unique within the project), and without
// EntityRef and Provider: the index adds them.
//
// Environment is the vendor's own name; what names mean is decided elsewhere. A status word that is not known gives DeploymentUnknown with the word in Detail. StartedAt is nil while
// starting, FinishedAt is nil until the deployment is finished, zero dates mean nil. UpdatedAt is when the vendor last changed the deployment.
type Deployments struct {
	// List reads deployments of a project, newest first by CreatedAt; what Builds.List promises, it does too.
	List func(ctx context.Context, project string, o ListOptions) (Page[slipway.Deployment], error)
	// Get reads one deployment by the vendor's id.
	Get func(ctx context.Context, project, id string) (slipway.Deployment, error)
}

// Replaced is the error of Get for a build that was shown until the vendor made others of it, such as a pipeline whose workflows are the builds. An index drops it.
var Replaced error = slipway.Errorf(slipway.NotFound, "other builds have taken the place of this one")

// StartOptions says what to build.
type StartOptions struct {
	Ref      string         // branch, tag or commit
	Pipeline string         // "" where the project has one
	Extra    map[string]any // what else the caller sent, for the vendor
}

// Webhook receives a vendor's notifications.
type Webhook struct {
	// Verify checks the vendor's own signature over the raw body, in constant time. A signature that is absent or wrong is Unauthenticated; no secret
	// configured is Forbidden with a sentence that says what to configure. It runs before Parse.
	Verify func(h http.Header, body []byte) error
	// Parse reads what changed. A kind of event that means nothing to us gives no deliveries and no error; a body that is not what its kind says is Invalid.
	Parse func(h http.Header, body []byte) ([]Delivery, error)
}

// Delivery is one thing that a webhook told.
type Delivery struct {
	Project string
	ID      string         // the vendor's id of this notification, for logs; may be "". Repeats do no harm
	Build   *slipway.Build // the build as it stood when the notification was made; nil: read the project again, unless it was a push

	// Task is the task whose items changed, such as deployment; "": build.
	Task    string `json:",omitempty"`
	BuildID string `json:",omitempty"` // where Build is nil, the vendor's id of the one, or of the task's item, that it is about: it is asked for wherever in the list it stands; "" where it is not named

	// Pushed says that this is a push: the content of a repository is new. It holds the addresses below which people find the repository's files,
	// without a slash at the end, such as https://github.com/octo/hello; more than one where files have a host of their own.
	Pushed []string `json:",omitempty"`
}
