// Package blueprint is the contract between Slipway and its pluggable parts. A Blueprint is one exported value that declares,
// as data, everything a part brings: operations, permissions, config, tables, jobs, schedules, events, commands. From the one declaration
// come routing, validation, the API description, permission checks, the command line, metrics labels, and the conflicts found at
// start. What is not declared does not exist.
//
// Handlers, jobs and subscriptions are method expressions ((*service).search), so that the declaration is complete before any
// service exists: `slipway describe` prints it without opening a database. Open makes the service, once, at start.
package blueprint

import (
	"context"
	"embed"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

// Stability is what a user may rely on.
type Stability string

// The stabilities. What is stable changes only compatibly; a test compares the API description with the committed one.
const (
	Stable       Stability = "stable"
	Experimental Stability = "experimental"
	Deprecated   Stability = "deprecated"
)

// Blueprint declares one part of Slipway. Empty fields mean "none".
type Blueprint struct {
	Name      string // one lower-case word: names the queue, the permissions' and job kinds' first part, the tables' prefix
	Version   string // semantic version of this part
	Summary   string // one sentence
	Stability Stability

	ConfigKey string     // top-level key in the configuration; "" is Name
	Config    func() any // a pointer to a fresh config struct with its defaults set; nil: no section. Fields carry yaml and doc tags; it may have Validate() error

	Mounts        []Mount // path prefixes that this blueprint owns
	Operations    []Operation
	Permissions   []auth.Permission
	Databases     []Database
	Jobs          []Job
	Schedules     []job.Schedule
	Events        []event.Type
	Subscriptions []Subscription
	Tasks         []TaskInfo // platform tasks that it serves
	Providers     []Provider // kinds of providers that need this blueprint's service
	Commands      []func(*Client) *cobra.Command
	Health        []Health
	Proxies       []Proxy
	Pages         []Page
	Kinds         []ResourceKind

	// Open makes the service that the method expressions of this declaration are called on. It may read the database, start nothing, and must not
	// talk to the network; loops go to Host.Go.
	Open func(ctx context.Context, h *Host) (any, error)
}

// Mount is a path prefix that a blueprint owns and the wire style under it.
type Mount struct {
	Prefix  string  // "/api/catalog"
	Dialect Dialect // how answers and errors are written below it
	Lenient bool    // unknown query parameters and body fields are ignored, for foreign senders
}

// Dialect is a wire style: how a value or an error becomes bytes. Its writing stands in package server.
type Dialect string

// The dialects.
const (
	API       Dialect = "api"       // the value itself; {"error":"text","code":…,"requestId":…,"details":[…]}
	Data      Dialect = "data"      // {"version":1,"data":…}; {"version":1,"error":{…}}
	Tool      Dialect = "tool"      // {"data":…,"messages":{…}}; {"messages":{…}}
	Backstage Dialect = "backstage" // the value itself; {"error":{"name","message"},"request":{…},"response":{"statusCode"}}
	Plain     Dialect = "plain"     // text, for operations and webhooks; errors as API
)

// Database is a named database that a blueprint needs, with its schema there.
type Database struct {
	Name       string   // "main"
	Migrations fs.FS    // files at the root, see store.Migrations; the owner is the blueprint
	Tables     []string // every table it makes; "<blueprint>_<noun>"
}

// Folder is a folder of files that are part of the binary, such as the migrations of a Database. It panics when there is none.
func Folder(files embed.FS, name string) fs.FS {
	sub, err := fs.Sub(files, name)
	if err != nil {
		panic(err)
	}
	return sub
}

// Job declares a worker by a method of the service. Make it with Work.
type Job struct {
	Kind   string
	Text   string
	Worker job.Worker                   // the limits; its work is bound by Bind
	Bind   func(service any) job.Worker // used by the server
}

// Work declares the jobs of one kind: Work((*service).refresh, job.Worker{Text: "…", Timeout: time.Minute}).
func Work[S any, A job.Args](method func(S, context.Context, A) error, limits job.Worker) Job {
	var zero A
	return Job{Kind: zero.Kind(), Text: limits.Text, Worker: limits, Bind: func(service any) job.Worker {
		s := service.(S)
		w := job.Work(func(ctx context.Context, a A) error { return method(s, ctx, a) })
		w.Queue, w.Timeout, w.MaxAttempts, w.Text, w.Parallel = limits.Queue, limits.Timeout, limits.MaxAttempts, limits.Text, limits.Parallel
		return w
	}}
}

// EventTypes are the declared Events with their Source.
func (b Blueprint) EventTypes() []event.Type {
	types := slices.Clone(b.Events)
	for i := range types {
		types[i].Source = event.SourceOf(b.Name)
	}
	return types
}

// Subscription declares a durable reader of events. Make it with Subscribe.
type Subscription struct {
	Name  string
	Types []string
	Bind  func(service any) event.Subscription
}

// Subscribe declares that a method of the service is called for each event of these types, in order, at least once.
func Subscribe[S any](name string, types []string, method func(S, context.Context, *store.Tx, event.Event) error) Subscription {
	return Subscription{Name: name, Types: types, Bind: func(service any) event.Subscription {
		s := service.(S)
		return event.Subscription{Name: name, Types: types, Handle: func(ctx context.Context, tx *store.Tx, e event.Event) error { return method(s, ctx, tx, e) }}
	}}
}

// Ahead adds a method of the service that works many events together; see event.Subscription.
func Ahead[S any](sub Subscription, method func(S, context.Context, []event.Event) ([]bool, error)) Subscription {
	bind := sub.Bind
	sub.Bind = func(service any) event.Subscription {
		bound, s := bind(service), service.(S)
		bound.Ahead = func(ctx context.Context, events []event.Event) ([]bool, error) { return method(s, ctx, events) }
		return bound
	}
	return sub
}

// TaskInfo is what people and programs are told of a platform task. task.Task gives it.
type TaskInfo = task.Info

// Provider declares a kind of provider that is opened by this blueprint's service. Make it with Provide.
type Provider struct {
	Kind provider.Kind // its Open is nil until bound
	Bind func(service func() any) provider.Kind
}

// Provide declares a kind whose Open is a method of the service.
func Provide[S any](kind provider.Kind, method func(S, context.Context, json.RawMessage, provider.Env) (*provider.Provider, error)) Provider {
	return Provider{Kind: kind, Bind: func(service func() any) provider.Kind {
		k := kind
		k.Open = func(ctx context.Context, raw json.RawMessage, env provider.Env) (*provider.Provider, error) {
			return method(service().(S), ctx, raw, env)
		}
		return k
	}}
}

// Health is a dependency that /readyz asks, by name. Make it with Check.
type Health struct {
	Name string
	Text string
	Bind func(service any) func(context.Context) error
}

// Check declares a health check by a method of the service. It must answer within 2 s.
func Check[S any](name, text string, method func(S, context.Context) error) Health {
	return Health{Name: name, Text: text, Bind: func(service any) func(context.Context) error {
		s := service.(S)
		return func(ctx context.Context) error { return method(s, ctx) }
	}}
}

// Proxy declares a reverse proxy: what is asked under /api/proxy/{name}/ is asked of another HTTP API, by callers who hold the permission for it. A blueprint declares
// one for what it needs; an operator completes it, or makes one, under `proxies` in the configuration, by name. Zero fields there leave what the blueprint said.
type Proxy struct {
	Name       string   `json:"name" yaml:"-"`
	Text       string   `json:"text,omitempty" yaml:"text" doc:"What stands behind it, for the reference"`
	Target     string   `json:"target,omitempty" yaml:"target" doc:"http or https address that paths are put behind, such as https://argocd.example.com/api/v1. Who writes it here has named it: it may lie in a private network, and on this machine where it is an IP address or localhost"`
	Methods    []string `json:"methods,omitempty" yaml:"methods" doc:"Methods that are let through; empty: GET and HEAD"`
	Permission string   `json:"permission,omitempty" yaml:"permission" doc:"Permission that callers need; empty: proxy.<name>.use, which exists for each proxy"`
	Credential string   `json:"credential,omitempty" yaml:"credential" doc:"Id of a credential of the Data API that is shown to the target: secretText as a bearer token, usernamePassword by basic authentication"`
	Header     string   `json:"header,omitempty" yaml:"header" doc:"Header in which a secretText is shown as it is, such as X-Api-Key; empty: Authorization, as a bearer token"`

	Headers  ProxyHeaders     `json:"headers,omitzero" yaml:"headers" doc:"Headers that are let through and set"`
	Timeout  slipway.Duration `json:"timeout,omitempty" yaml:"timeout" doc:"Longest wait for the beginning of an answer; empty: 30s"`
	Idle     slipway.Duration `json:"idle,omitempty" yaml:"idle" doc:"Longest silence of an answer that has begun, and of a WebSocket; empty: 5m"`
	MaxBody  slipway.Size     `json:"maxBody,omitempty" yaml:"maxBody" doc:"Largest body of a request; empty: 25MiB"`
	Retries  int              `json:"retries,omitempty" yaml:"retries" doc:"How often a GET, HEAD or OPTIONS without a body is sent again when no answer began; empty: once, -1: never"`
	Upgrades bool             `json:"upgrades,omitempty" yaml:"upgrades" doc:"Let WebSockets through"`
}

// ProxyHeaders says which headers a Proxy lets through. Those of the connection, and what a caller shows to Slipway, are never passed on, whatever is listed.
type ProxyHeaders struct {
	Request  []string          `json:"request,omitempty" yaml:"request" doc:"Headers of requests that are let through; empty: all but credentials, cookies and those that begin with Slipway-"`
	Response []string          `json:"response,omitempty" yaml:"response" doc:"Headers of answers that are let through besides those that describe the body; empty: all but cookies and what would speak for this server"`
	Set      map[string]string `json:"set,omitempty" yaml:"set" doc:"Headers that are set on each request to the target; no place for a secret"`
}

// WithDefaults is the proxy with what holds where nothing is said. It is for package server.
func (p Proxy) WithDefaults() Proxy {
	if len(p.Methods) == 0 {
		p.Methods = []string{http.MethodGet, http.MethodHead}
	}
	if p.Permission == "" {
		p.Permission = "proxy." + p.Name + ".use"
	}
	if p.Timeout == 0 {
		p.Timeout = slipway.Duration(30 * time.Second)
	}
	if p.Idle == 0 {
		p.Idle = slipway.Duration(5 * time.Minute)
	}
	if p.MaxBody == 0 {
		p.MaxBody = 25 << 20
	}
	if p.Retries == 0 {
		p.Retries = 1
	}
	return p
}

// Page is a page of documentation, in Markdown, served under /docs/{blueprint}/{slug}.
type Page struct {
	Slug  string
	Title string
	Text  string
}

// ResourceKind declares a kind of documents of the Data API, or adds types to one that another blueprint declares. Make it with Resource.
type ResourceKind struct {
	Kind resource.Kind // as far as it is known before any service exists
	Bind func(service any) resource.Kind
}

// MarshalJSON tells of the kind what `slipway describe` shows.
func (k ResourceKind) MarshalJSON() ([]byte, error) {
	types := []string{}
	for _, t := range k.Kind.Types {
		types = append(types, t.Symbol)
	}
	return json.Marshal(struct {
		Name        string               `json:"name"`
		Text        string               `json:"text,omitempty"`
		Types       []string             `json:"types"` // symbols
		Permissions resource.Permissions `json:"permissions"`
	}{k.Kind.Name, k.Kind.Text, types, k.Kind.Permissions})
}

// Resource declares a kind of documents. complete, a method of the service, fills in what needs the service: functions, and types that only the
// installation knows.
func Resource[S any](kind resource.Kind, complete func(S, resource.Kind) resource.Kind) ResourceKind {
	return ResourceKind{Kind: kind, Bind: func(service any) resource.Kind { return complete(service.(S), kind) }}
}

// Host is what a blueprint gets of the installation. All of it is safe for concurrent use.
type Host struct {
	Blueprint string       // the blueprint's name
	Log       *slog.Logger // marked with the blueprint's name
	Now       func() time.Time
	Config    any // what Blueprint.Config made, filled in and validated
	Retention Retention
	DataDir   string        // folder for files of this installation; not shared between replicas
	URL       func() string // external address of the server, without a slash at the end

	DB        func(name string) *store.DB // databases that the blueprint declared; others panic
	Source    func(name string) string    // address of a configured database of another program; "": there is none of this name
	Revisions *store.Revisions
	Jobs      *job.Queue
	Events    *event.Bus
	Entities  *entity.Store
	Auth      *auth.Service
	Tasks     *task.Engine
	Fetch     *fetch.Fetcher
	Clusters  *cluster.Clients // may be empty: Get says what to configure
	Keys      *secret.Keyring
	Redact    *secret.Redactor

	// Go runs a loop for as long as the server works jobs (roles worker and all). It ends when its context does; an error before that is logged and it is
	// started again with back-off.
	Go func(name string, run func(ctx context.Context) error)
	// Infos lists the platform tasks of all enabled blueprints and Kinds the kinds of providers; complete once the server runs.
	Infos func() []TaskInfo
	Kinds func() []provider.Kind
	// Permissions lists what all enabled blueprints declare.
	Permissions func() []auth.Permission
	// Describe gives the API description as /openapi.json has it.
	Describe func() ([]byte, error)
	// Resources lists the kinds of documents of all enabled blueprints; complete when Start is called.
	Resources func() []resource.Kind
	// Folders hold documents that are applied at start.
	Folders []string
	// Documents keeps the documents of the Data API, for those who use their secrets; nil until it has started, and where it does not run.
	Documents func() *resource.Store
	// OpenProvider opens a provider of a raw config, in which texts stand as they are. What it opened is closed by whoever asked.
	OpenProvider func(ctx context.Context, name, kind string, config json.RawMessage) (*provider.Provider, error)
}

// Starter is a service that has something to do once all services are open and the configured providers are, before anything listens. An error
// refuses the start.
type Starter interface {
	Start(ctx context.Context) error
}

// Reloader is a service that has something to read again when an operator says so (SIGHUP): all of it, or none with an error.
type Reloader interface {
	Reload(ctx context.Context) error
}

// Documenter is a service that keeps the documents of the Data API. nil before it has started.
type Documenter interface {
	Documents() *resource.Store
}

// Retention says how long things are kept. Every table that grows follows one of these.
type Retention struct {
	Builds slipway.Duration `yaml:"builds" doc:"Builds in the index"`
	Events slipway.Duration `yaml:"events" doc:"Events"`
	Jobs   slipway.Duration `yaml:"jobs" doc:"Finished jobs"`
	Audit  slipway.Duration `yaml:"audit" doc:"Audit records"`

	Deployments slipway.Duration `yaml:"deployments" doc:"Deployments in the index, and what DORA metrics come from: deployments, changes and incidents"`
}

// Client is what a blueprint's commands talk through: set up from flags and environment before a command runs.
type Client struct {
	// Do calls the API of the server: method and path below its address, body and out as JSON; nil for none. Errors carry the code and the sentence of the server.
	Do func(ctx context.Context, method, path string, body, out any) error
	// Stream reads a streamed answer.
	Stream func(ctx context.Context, path string) (Stream, error)
	// Print writes v as the user asked (-o json|yaml), or the table otherwise.
	Print func(cmd *cobra.Command, v any, table Table) error
}

// Get reads a document of the API both as it is, for Print, and as a T.
func Get[T any](ctx context.Context, c *Client, path string) (raw json.RawMessage, out T, err error) {
	return Ask[T](ctx, c, http.MethodGet, path, nil)
}

// Ask is Get for any method, with a body as JSON; nil for none.
func Ask[T any](ctx context.Context, c *Client, method, path string, body any) (raw json.RawMessage, out T, err error) {
	if err := c.Do(ctx, method, path, body, &raw); err != nil {
		return nil, out, err
	}
	err = json.Unmarshal(raw, &out)
	return raw, out, err
}

// Stream is a streamed answer; close it.
type Stream interface {
	Read(p []byte) (int, error)
	Close() error
}

// Table is how a value looks on a terminal.
type Table struct {
	Header []string
	Rows   [][]string
	Footer string // a line below, such as how to read on
}

// Messages are sentences for a caller beside the answer.
type Messages struct {
	Info    []string
	Warning []string
}

// Warn adds a sentence for the caller: in `messages.warning` of the tool dialect, in `warnings` of the data dialect, in a Warning header elsewhere.
func Warn(ctx context.Context, text string) {
	if m, ok := ctx.Value(messagesKey{}).(*Messages); ok {
		m.Warning = append(m.Warning, text)
	}
}

// Inform adds a sentence for the caller in `messages.info` of the tool dialect. Other dialects have no place for it.
func Inform(ctx context.Context, text string) {
	if m, ok := ctx.Value(messagesKey{}).(*Messages); ok {
		m.Info = append(m.Info, text)
	}
}

// WithMessages returns a context that collects what Warn and Inform say, and where.
func WithMessages(ctx context.Context) (context.Context, *Messages) {
	m := new(Messages)
	return context.WithValue(ctx, messagesKey{}, m), m
}

type messagesKey struct{}

// Private says that this answer holds a secret: it is neither cached nor kept for replay. For operations of which only some answers hold one; see
// Operation.Secret for the others.
func Private(ctx context.Context) {
	if f, ok := ctx.Value(privateKey{}).(func()); ok {
		f()
	}
}

// WithPrivate returns a context in which Private calls f. The server does it once per request.
func WithPrivate(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, privateKey{}, f)
}

type privateKey struct{}

// RequestID is the id of the request that the context belongs to, as in the server's log; "" outside of one.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// WithRequestID puts the id there. The server does it once per request.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

type requestKey struct{}
