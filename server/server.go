// Package server puts an installation together: it checks the declarations of the blueprints, opens databases and services, and
// serves the API with its dialects, description and operations pages, while jobs, schedules, events and loops run beside it. It is stateless: any
// number of servers may share one PostgreSQL.
package server

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
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

// Grace is how long a server that stops waits for requests and jobs under way.
const Grace = 20 * time.Second

// Options is what a server is made of.
type Options struct {
	Config     *Config               // resolved by New; sections of the enabled blueprints filled in by Sections
	Blueprints []blueprint.Blueprint // all of this build; Config.Blueprints chooses
	Kinds      []provider.Kind
	Version    string
	Log        *slog.Logger
	Now        func() time.Time            // default time.Now
	Getenv     func(string) (string, bool) // for ${env:NAME} in providers; default os.LookupEnv
	Redact     *secret.Redactor            // shared with the log handler; default a new one
	Levels     *Levels                     // likewise
	Manual     func() Manual               // for the reference; nil: commands of the blueprints alone, and no configuration
}

// Server is one running replica. It is an http.Handler.
type Server struct {
	config      *Config
	version     string
	log         *slog.Logger
	now         func() time.Time
	getenv      func(string) (string, bool)
	blueprints  []blueprint.Blueprint
	kinds       []provider.Kind
	services    map[string]any
	permissions map[string]auth.Permission
	infos       []blueprint.TaskInfo
	mounts      mounts
	wides       []wide

	eventStreams map[string]string // path of a list to that of the stream of the same things
	trusted      []netip.Prefix

	databases map[string]*store.DB
	main      *store.DB
	keys      *secret.Keyring
	redact    *secret.Redactor
	revisions *store.Revisions
	jobs      *job.Queue
	events    *event.Bus
	entities  *entity.Store
	auth      *auth.Service
	tasks     *task.Engine
	fetch     *fetch.Fetcher
	clusters  *cluster.Clients

	manual    func() Manual
	described map[string]*described // operations by id
	reads     map[string]*described // those by GET, by path
	mux       *http.ServeMux
	api       huma.API
	metrics   *metrics
	loops     []loop
	health    []check
	checked   checked      // by them
	active    atomic.Int64 // requests under way
	silent    silent       // connections without a request
	bodies    bodies       // of callers
	strangers bodies       // of those whom nobody knows
	blocked   blocked
	streams   streams
	load      *load
	levels    *Levels
	holds     provider.Holds // which vendors are left alone, by all replicas
	proxies   map[string]*proxy
	ready     atomic.Bool
	bound     atomic.Pointer[string]

	draining context.Context // ends when the server begins to stop
	drain    context.CancelFunc
	closers  []func() error

	// NewAdminToken says that this start made the first admin token, and stored it in AdminTokenFile.
	NewAdminToken bool
}

type loop struct {
	name string
	run  func(ctx context.Context) error
	web  bool // runs in the role web too
}

type check struct {
	name string
	run  func(ctx context.Context) error
	some bool // only some of what the server does needs it: it is shown, and the server is ready without it
}

//go:embed migrations
var migrationFiles embed.FS

func sub(files fs.FS, dir string) fs.FS {
	s, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // the folder is embedded
	}
	return s
}

// Enabled gives the blueprints that a configuration chooses, in the order of the build; an unknown name is a fault.
func Enabled(all []blueprint.Blueprint, names []string) ([]blueprint.Blueprint, error) {
	if len(names) == 0 {
		return all, nil
	}
	var out []blueprint.Blueprint
	for _, b := range all {
		if slices.Contains(names, b.Name) {
			out = append(out, b)
		}
	}
	var known []string
	for _, b := range all {
		known = append(known, b.Name)
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("blueprints: there is no %q in this build; known: %s", n, strings.Join(known, ", "))
		}
	}
	return out, nil
}

// Sections makes each blueprint's config section with its defaults, by key.
func Sections(blueprints []blueprint.Blueprint) map[string]any {
	out := map[string]any{}
	for _, b := range blueprints {
		if b.Config != nil {
			out[sectionKey(b)] = b.Config()
		}
	}
	return out
}

func sectionKey(b blueprint.Blueprint) string {
	if b.ConfigKey != "" {
		return b.ConfigKey
	}
	return b.Name
}

// New opens everything: declarations are checked first, all faults together, then the databases are opened and brought up to date, then the services.
// Nothing listens and nothing works until Run. Close what New gave when Run is not called.
func New(ctx context.Context, o Options) (_ *Server, err error) {
	s := &Server{
		config: o.Config, version: o.Version, log: o.Log, now: o.Now, getenv: o.Getenv, redact: o.Redact, manual: o.Manual,
		services: map[string]any{}, databases: map[string]*store.DB{}, permissions: map[string]auth.Permission{},
		eventStreams: map[string]string{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.getenv == nil {
		s.getenv = os.LookupEnv
	}
	if s.redact == nil {
		s.redact = &secret.Redactor{}
	}
	if s.levels = o.Levels; s.levels == nil {
		s.levels = NewLevels(slog.LevelInfo)
	}
	s.levels.now = s.now
	s.streams.Streams = s.config.Server.Streams
	s.bodies.all, s.bodies.one, s.strangers.all, s.strangers.one = maxHeld, maxHeldOne, maxHeldStranger, maxHeldAddress
	s.draining, s.drain = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.declare(o); err != nil {
		return nil, err
	}
	if err := s.config.ResolveFor(s.blueprints); err != nil {
		return nil, fmt.Errorf("the configuration has faults:\n%w", err)
	}
	if err := s.config.CheckKeyFile(); err != nil { // before a database is changed for nothing
		return nil, err
	}
	for _, p := range s.config.Server.TrustedProxies {
		n, _ := auth.ParseNetwork(p) // checked by Resolve
		s.trusted = append(s.trusted, n)
	}
	if err := s.openStores(ctx); err != nil {
		return nil, err
	}
	if err := s.openServices(ctx); err != nil {
		return nil, err
	}
	s.load = newLoad(s.config.Server.Load, s.databases, s.now, s.log)
	s.metrics = newMetrics(s)
	if err := s.buildMux(); err != nil {
		return nil, err
	}
	if err := s.openProviders(ctx); err != nil {
		return nil, err
	}
	for _, b := range s.blueprints[1:] {
		if service, ok := s.services[b.Name].(blueprint.Starter); ok {
			if err := service.Start(ctx); err != nil {
				return nil, fmt.Errorf("blueprint %s: %w", b.Name, err)
			}
		}
	}
	return s, nil
}

// declare chooses the blueprints and checks them.
func (s *Server) declare(o Options) error {
	enabled, err := Enabled(o.Blueprints, s.config.Blueprints)
	if err != nil {
		return err
	}
	s.blueprints, s.kinds = append([]blueprint.Blueprint{Base}, enabled...), o.Kinds
	if err := Check(s.blueprints, s.kinds); err != nil {
		return fmt.Errorf("the blueprints of this build do not fit together:\n%w", err)
	}
	if s.config.Sections == nil {
		s.config.Sections = Sections(enabled)
	}
	for _, b := range s.blueprints {
		for _, p := range b.Permissions {
			s.permissions[p.Name] = p
		}
		for _, m := range b.Mounts {
			s.mounts = append(s.mounts, mount{m, b.Name})
		}
		s.infos = append(s.infos, b.Tasks...)
		for _, p := range b.Providers {
			s.kinds = append(slices.Clip(s.kinds), p.Bind(s.service(b.Name)))
		}
		for _, op := range b.Operations {
			if op.StreamOf != "" {
				s.eventStreams[op.StreamOf] = op.Path
			}
			if op.Wide != "" {
				before, after, _ := strings.Cut(op.Path, "{"+op.Wide+"}")
				w := wide{prefix: before, max: max(2, op.Segments)}
				if after = strings.Trim(after, "/"); after != "" {
					w.suffix = strings.Split(after, "/")
				}
				s.wides = append(s.wides, w)
			}
		}
	}
	for _, p := range s.config.proxies(s.blueprints) {
		if p.Permission == ownPermission(p.Name) {
			s.permissions[p.Permission] = proxyPermission(p)
		}
	}
	s.mounts = s.mounts.sorted()
	// The longest suffix first: builds/{id}/logs before a shorter one that would also fit.
	slices.SortStableFunc(s.wides, func(a, b wide) int { return len(b.suffix) - len(a.suffix) })
	return nil
}

func (s *Server) service(name string) func() any {
	return func() any { return s.services[name] }
}

// Owners lists who has tables in which database, in the order in which they are made.
func Owners(blueprints []blueprint.Blueprint) map[string][]store.Migrations {
	out := map[string][]store.Migrations{"main": {
		store.RevisionMigrations, {Owner: "server", FS: sub(migrationFiles, "migrations")}, job.Migrations, entity.Migrations, event.Migrations, auth.Migrations, resource.Migrations,
	}}
	out["main"] = append(out["main"], task.Migrations()...)
	for _, b := range blueprints {
		for _, d := range b.Databases {
			if d.Migrations != nil {
				out[d.Name] = append(out[d.Name], store.Migrations{Owner: b.Name, FS: d.Migrations})
			}
		}
	}
	return out
}

// openStores opens the databases and the key file and brings the schemas up to date.
func (s *Server) openStores(ctx context.Context) error {
	owners := Owners(s.blueprints)
	for name, url := range s.config.Databases {
		if engine, _ := store.EngineOf(url); engine == store.MySQL && name != "main" {
			continue // who reads it opens it
		}
		db, err := store.Open(name, url)
		if err != nil {
			return err
		}
		s.databases[name] = db
		s.closers = append(s.closers, db.Close)
		s.health = append(s.health, check{name: "database " + name, run: db.Ping})
		if owners[name] == nil {
			s.log.WarnContext(ctx, "no enabled blueprint has tables in a database of the configuration; check its name", "database", name)
		}
	}
	s.main = s.databases["main"]
	if s.main.Engine() == store.SQLite { // its jobs and builds believe to be alone, and a schema is not changed below a running server
		unlock, err := lock(s.main.URL() + ".lock")
		if err != nil {
			return err
		}
		s.closers = slices.Insert(s.closers, 0, unlock) // closers run from the end: let go last
	}
	if err := s.waitForDatabases(ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		if err := s.databases[name].MigrateUp(ctx, owners[name]...); err != nil {
			return fmt.Errorf("database %q: %w", name, err)
		}
		steps, err := s.databases[name].MigrateStatus(ctx, owners[name]...)
		if err != nil {
			return fmt.Errorf("database %q: %w", name, err)
		}
		for _, step := range steps {
			if step.Newer {
				s.log.WarnContext(ctx, "a newer version of Slipway has used the database; what it added is left alone", "database", name, "owner", step.Owner, "migration", step.Version)
			}
		}
	}
	var err error
	s.keys, err = s.config.keyring(s.main.Engine() == store.SQLite)
	return err
}

// waitForDatabases gives databases half a minute to come up: in a cluster everything starts at once.
func (s *Server) waitForDatabases(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for name, db := range s.databases {
		for {
			err := db.Ping(ctx)
			if err == nil {
				break
			}
			if store.Lasting(err) {
				return fmt.Errorf("database %q refuses us; check user and password, and make the database with slipway db create: %w", name, err)
			}
			if slipway.CodeOf(err) != slipway.Unavailable || ctx.Err() != nil {
				return fmt.Errorf("database %q: %w", name, err)
			}
			s.log.WarnContext(ctx, "waiting for a database", "database", name, "error", err)
			select {
			case <-ctx.Done():
				return fmt.Errorf("database %q: %w", name, err)
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

// openServices makes the common services, then each blueprint's.
func (s *Server) openServices(ctx context.Context) error {
	var err error
	s.revisions = store.NewRevisions(s.main, s.log)
	s.revisions.Watch(levelsRevision, func() { go s.levelsChanged() })
	s.jobs = job.New(s.main, s.log)
	s.jobs.Now = s.now
	s.events = event.New(s.main, s.log)
	s.events.Now = s.now
	if c := s.config.Events.Broker; c.URL != "" {
		broker := event.NewBroker(c, s.log)
		s.events.Forward(broker.Forward())
		s.closers = append(s.closers, broker.Close)
	}
	s.entities = entity.New(s.main, s.now)
	s.entities.Announce, s.entities.Revisions = s.events.Announce, s.revisions
	if s.fetch, err = fetch.New(s.config.Fetch); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	s.clusters = cluster.New(s.config.Clusters)
	s.closers = append(s.closers, s.clusters.Close)
	for _, name := range s.clusters.Names() {
		c, _ := s.clusters.Get(name) // just listed
		s.health = append(s.health, check{name: "cluster " + name, run: c.Check, some: true})
	}
	var permissions []auth.Permission
	for _, p := range slices.Sorted(maps.Keys(s.permissions)) {
		permissions = append(permissions, s.permissions[p])
	}
	s.config.Auth.Retention = s.config.Retention.Audit.Std()
	if s.auth, err = auth.New(s.main, s.revisions, s.config.Auth, permissions, s.now, s.log); err != nil {
		return err
	}
	s.auth.Ownership, s.auth.URL, s.auth.Keys, s.auth.Review = s.entities.Ownership, s.externalURL, s.keys, s.review
	s.tasks = task.NewEngine(task.Options{
		DB: s.main, Jobs: s.jobs, Events: s.events, Entities: s.entities, Revisions: s.revisions, Keys: s.keys, URL: s.externalURL, Now: s.now, Log: s.log,
	})
	s.holds = task.NewHolds(s.main, s.revisions, s.now, s.log)
	for _, b := range s.blueprints {
		s.events.Declare(event.SourceOf(b.Name), b.Events...)
	}
	s.loops = append(s.loops,
		loop{"revisions", s.revisions.Run, true}, loop{"auth", s.auth.Run, true},
		loop{"jobs", s.jobs.Run, false}, loop{"events", s.runEvents, true}, loop{"housekeeping", s.housekeeping, false})
	for _, b := range s.blueprints {
		if err := s.openBlueprint(ctx, b); err != nil {
			return fmt.Errorf("blueprint %s: %w", b.Name, err)
		}
	}
	if s.main.Engine() == store.SQLite {
		return s.firstToken(ctx)
	}
	return nil
}

// runEvents numbers events and feeds subscriptions, or in the role web only looks at what there is for streams.
func (s *Server) runEvents(ctx context.Context) error {
	if s.config.Role == "web" {
		return s.events.Watch(ctx)
	}
	return s.events.Run(ctx)
}

var tokenReviews = cluster.Resource{Group: "authentication.k8s.io", Version: "v1", Name: "tokenreviews"}

// review asks a cluster what it thinks of a token.
func (s *Server) review(ctx context.Context, name, token string, audiences []string) (said auth.TokenReview, err error) {
	c, err := s.clusters.Get(name)
	if err != nil {
		return said, err
	}
	o, err := c.Create(ctx, tokenReviews, "", cluster.Object{
		"apiVersion": tokenReviews.APIVersion(), "kind": "TokenReview", "spec": map[string]any{"token": token, "audiences": audiences},
	})
	if err != nil { // whatever the cluster has against us is not the caller's fault
		return said, slipway.Errorf(slipway.Unavailable, "the cluster %s does not say what it thinks of the token; try again", name).WithCause(err)
	}
	said.Authenticated, said.Username = o.Bool("status", "authenticated"), o.Text("status", "user", "username")
	return said, o.Into(&said.Audiences, "status", "audiences")
}

// firstToken makes the admin token when there never was a token, and stores it in <data-dir>/admin-token for its owner only. The file is made first, so that no
// token comes to be that nobody can read.
func (s *Server) firstToken(ctx context.Context) (err error) {
	if err := os.MkdirAll(s.config.DataDir, 0o700); err != nil {
		return fmt.Errorf("the data directory cannot be made: %w", err)
	}
	f, err := os.CreateTemp(s.config.DataDir, ".admin-token-") // mode 0600
	if err != nil {
		return fmt.Errorf("the admin token cannot be stored: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	token, created, err := s.auth.EnsureAdmin(ctx)
	if err != nil || !created {
		return err
	}
	s.NewAdminToken = true
	if _, err := f.WriteString(token + "\n"); err != nil {
		return fmt.Errorf("the admin token cannot be stored; make another with slipway token create --admin: %w", err)
	}
	if err := errors.Join(f.Sync(), os.Rename(f.Name(), s.AdminTokenFile())); err != nil {
		return fmt.Errorf("the admin token cannot be stored; make another with slipway token create --admin: %w", err)
	}
	return nil
}

// AdminTokenFile is where the first start on SQLite stores the admin token.
func (s *Server) AdminTokenFile() string { return filepath.Join(s.config.DataDir, "admin-token") }

func (s *Server) openBlueprint(ctx context.Context, b blueprint.Blueprint) error {
	log := s.log.With("blueprint", b.Name)
	h := &blueprint.Host{
		Blueprint: b.Name, Log: log, Now: s.now, DataDir: s.config.DataDir, Retention: s.config.Retention, Config: s.config.Sections[sectionKey(b)],
		URL: s.externalURL, Revisions: s.revisions, Jobs: s.jobs, Events: s.events, Entities: s.entities, Auth: s.auth, Tasks: s.tasks,
		Fetch: s.fetch, Clusters: s.clusters, Keys: s.keys, Redact: s.redact,
		DB: func(name string) *store.DB {
			if !slices.ContainsFunc(b.Databases, func(d blueprint.Database) bool { return d.Name == name }) {
				panic(fmt.Sprintf("blueprint %s did not declare the database %q", b.Name, name))
			}
			return s.databases[name]
		},
		Source: func(name string) string { return s.config.Databases[name] },
		Go: func(name string, run func(context.Context) error) {
			s.loops = append(s.loops, loop{b.Name + " " + name, run, false})
		},
		Infos:       func() []blueprint.TaskInfo { return s.infos },
		Kinds:       func() []provider.Kind { return s.kinds },
		Permissions: func() []auth.Permission { return slices.Collect(maps.Values(s.permissions)) },
		Describe:    s.OpenAPI,
		Resources:   s.resources, Folders: s.config.Resources, OpenProvider: s.openKind, Documents: s.documents,
	}
	service := any(s)
	if b.Name != Base.Name {
		var err error
		if service, err = b.Open(ctx, h); err != nil {
			return err
		}
	}
	s.services[b.Name] = service
	if c, ok := service.(interface{ Close() error }); ok && b.Name != Base.Name {
		s.closers = append(s.closers, c.Close)
	}
	for _, j := range b.Jobs {
		w := j.Bind(service)
		w.Queue = b.Name
		s.jobs.Add(w)
	}
	s.jobs.AddSchedule(b.Schedules...)
	for _, sub := range b.Subscriptions {
		s.events.Subscribe(sub.Bind(service))
	}
	for _, c := range b.Health {
		s.health = append(s.health, check{name: c.Name, run: c.Bind(service)})
	}
	return nil
}

// externalURL is how users reach the server.
func (s *Server) externalURL() string {
	if u := s.config.Server.ExternalURL; u != "" {
		return strings.TrimSuffix(u, "/")
	}
	if a := s.bound.Load(); a != nil {
		return "http://" + *a
	}
	return "http://" + s.config.Server.Listen
}

// buildMux registers every operation and the server's own pages.
func (s *Server) buildMux() error {
	s.mux = http.NewServeMux()
	s.api = newAPI(humago.NewAdapter(s.mux, ""), s.version)
	for _, b := range s.blueprints {
		for _, op := range b.Operations {
			s.register(s.api, b, op, s.service(b.Name))
		}
	}
	if err := describeDocuments(s.api.OpenAPI(), s.resources()); err != nil {
		return err
	}
	if err := s.openProxies(); err != nil {
		return err
	}
	s.pages()
	s.mux.HandleFunc("/", s.unknown)
	return nil
}

// openProviders opens the configured providers. A faulty one is marked failed, with the reason, and stops nothing else.
func (s *Server) openProviders(ctx context.Context) error {
	var opened []task.Provider
	for _, p := range s.config.Providers {
		o := task.Provider{Name: p.Name, Type: p.Type, Origin: "config", Annotations: s.annotations(p.Type), Settings: p.Settings}
		o.Provider, o.Opened, o.Err = s.openProvider(ctx, p)
		if o.Err != nil {
			s.log.ErrorContext(ctx, "a provider does not work", "provider", p.Name, "error", o.Err)
		} else if o.Provider.Close != nil {
			s.closers = append(s.closers, o.Provider.Close)
		}
		opened = append(opened, o)
	}
	return s.tasks.SetProviders(ctx, opened)
}

// annotations are those that a kind of provider reads.
func (s *Server) annotations(kind string) []provider.Annotation {
	for _, k := range s.kinds {
		if k.Name == kind {
			return k.Annotations
		}
	}
	return nil
}

// resources lists the kinds of documents of all blueprints.
func (s *Server) resources() []resource.Kind {
	var kinds []resource.Kind
	for _, b := range s.blueprints {
		for _, k := range b.Kinds {
			if k.Bind != nil {
				k.Kind = k.Bind(s.services[b.Name])
			}
			kinds = append(kinds, k.Kind)
		}
	}
	return kinds
}

// documents is the store of the Data API, where it runs and has started.
func (s *Server) documents() *resource.Store {
	for _, service := range s.services {
		if d, ok := service.(blueprint.Documenter); ok {
			return d.Documents()
		}
	}
	return nil
}

// openProvider opens a provider of the configuration, and says what with.
func (s *Server) openProvider(ctx context.Context, p ProviderConfig) (*provider.Provider, string, error) {
	raw, err := p.Raw(s.getenv, s.redact)
	if err != nil {
		return nil, "", fmt.Errorf("provider %s: %w", p.Name, err)
	}
	opened, err := s.openKind(ctx, p.Name, p.Type, raw)
	return opened, task.Opened(p.Type, raw), err
}

func (s *Server) openKind(ctx context.Context, name, kind string, raw json.RawMessage) (*provider.Provider, error) {
	i := slices.IndexFunc(s.kinds, func(k provider.Kind) bool { return k.Name == kind })
	if i < 0 {
		var known []string
		for _, k := range s.kinds {
			known = append(known, k.Name)
		}
		return nil, slipway.Errorf(slipway.Invalid, "provider %s: there is no type %q; known: %s", name, kind, strings.Join(known, ", "))
	}
	return s.kinds[i].Open(ctx, raw, provider.Env{
		Name: name, HTTP: s.fetch.Client(0), Now: s.now, Holds: s.holds, Cluster: s.clusters.Get, Log: s.log.With("provider", name),
		Trust: func(c provider.Certificates) *http.Client { return s.fetch.Trusting([]byte(c)).Client(0) },
	})
}

// Listen opens the address of the configuration. With fallback, a free port is taken when the configured one is in use.
func (s *Server) Listen(fallback bool) (net.Listener, error) {
	addr := s.config.Server.Listen
	l, err := net.Listen("tcp", addr)
	if err != nil && fallback {
		host, _, _ := net.SplitHostPort(addr)
		l, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; choose another address with --listen or server.listen", addr, err)
	}
	a := l.Addr().String()
	s.bound.Store(&a)
	return l, nil
}

// Run serves on the listener (nil in the role worker) and works until ctx ends, then stops in order: no new requests, those under way are finished, streams end,
// jobs get their grace, databases close.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	pace(usualPace)
	debug.FreeOSMemory() // what putting it all together took
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var wg sync.WaitGroup
	for _, p := range s.loops {
		if p.web || s.config.Role != "web" {
			wg.Go(func() { s.keepRunning(work, p) })
		}
	}
	fatal := make(chan error, 2)
	var servers []*http.Server
	serve := func(l net.Listener, h http.Handler) {
		hs := &http.Server{
			Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 5 * time.Minute, IdleTimeout: 2 * time.Minute, WriteTimeout: 2 * time.Minute,
			MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), ConnState: s.silent.note,
		}
		servers = append(servers, hs)
		go func() {
			if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				fatal <- err
			}
		}()
	}
	if l != nil && s.config.Role != "worker" {
		serve(l, s.Traced())
	}
	if addr := s.config.Server.MetricsListen; addr != "" {
		ml, err := net.Listen("tcp", addr)
		if err != nil {
			return errors.Join(fmt.Errorf("server.metricsListen: %w", err), s.stop(servers, stopWork, &wg))
		}
		serve(ml, s.metrics.handler(s))
	}
	s.ready.Store(true)
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-fatal:
	}
	return errors.Join(failed, s.stop(servers, stopWork, &wg))
}

func (s *Server) stop(servers []*http.Server, stopWork context.CancelFunc, wg *sync.WaitGroup) error {
	s.log.Info("stopping", "active", s.active.Load())
	s.ready.Store(false)
	s.drain()
	stopWork() // jobs under way have the same grace, beside the requests
	ctx, cancel := context.WithTimeout(context.Background(), Grace)
	defer cancel()
	defer time.AfterFunc(silentGrace, s.silent.close).Stop()
	for _, hs := range servers {
		if err := hs.Shutdown(ctx); err != nil {
			_ = hs.Close()
		}
	}
	wg.Wait()
	s.tasks.Wait()
	return s.Close()
}

// keepRunning runs a loop again, with back-off, when it fails.
func (s *Server) keepRunning(ctx context.Context, p loop) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		start := time.Now()
		err := runSafely(ctx, p.run)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > time.Minute {
			wait = time.Second
		}
		s.log.ErrorContext(ctx, "a loop ended and is started again", "loop", p.name, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func runSafely(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return run(ctx)
}

// housekeeping deletes once an hour what is older than its retention, in small steps. Any number of replicas may do it.
func (s *Server) housekeeping(ctx context.Context) error {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		r := s.config.Retention
		steps := map[string]func() error{
			"jobs":                     func() error { _, err := s.jobs.Prune(ctx, r.Jobs.Std()); return err },
			"events":                   func() error { _, err := s.events.Prune(ctx, s.now().Add(-r.Events.Std())); return err },
			"keys of idempotent calls": func() error { return s.pruneOnce(ctx) },
			"levels of the log":        func() error { return s.pruneLevels(ctx) },
		}
		for _, info := range s.infos {
			keep := r.Builds
			if info.Name == "deployment" {
				keep = r.Deployments
			}
			steps[info.Name] = func() error { _, err := s.tasks.Prune(ctx, info.Name, keep.Std()); return err }
		}
		for what, step := range steps {
			if err := step(); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "housekeeping failed; it is tried again in an hour", "what", what, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// Close closes databases and services, the last opened first. Run does it by itself.
func (s *Server) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// NewToken makes a token with nothing but access to the database, as `slipway token create --admin` does.
func (s *Server) NewToken(ctx context.Context, in auth.NewToken) (string, error) {
	_, text, err := s.auth.CreateToken(ctx, auth.System(), in)
	return text, err
}

// Poll reads at once what other replicas changed, instead of within a second. For tests.
func (s *Server) Poll(ctx context.Context) error { return s.revisions.Poll(ctx) }

// Events is the bus. For tests.
func (s *Server) Events() *event.Bus { return s.events }

// Reload reads again what may change while the server runs: the key file, and what services read (resources:). What has a fault stays as it was.
func (s *Server) Reload(ctx context.Context) error {
	errs := []error{s.keys.Reload()}
	for _, b := range s.blueprints {
		if service, ok := s.services[b.Name].(blueprint.Reloader); ok && b.Name != Base.Name {
			errs = append(errs, service.Reload(ctx))
		}
	}
	return errors.Join(errs...)
}

// MakeKey makes a key file, as `slipway db create` does on PostgreSQL, once for all replicas. One that is there is left as it is.
func MakeKey(path string) error { return Secrets{KeyFile: path}.Make() }

// Make is MakeKey, with a key management service where one is configured. Where the keys are given as text it only reads them.
func (s Secrets) Make() error {
	_, err := s.open(true)
	return err
}
