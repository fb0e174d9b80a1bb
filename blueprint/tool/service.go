package tool

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

// Settings is the section `tool` of the configuration.
type Settings struct {
	Builder      string           `yaml:"builder" doc:"Who builds: the name of a provider, or its type where only one is of it"`
	Storage      string           `yaml:"storage" doc:"Where configurations and deployments are kept: database, or kubernetes, as custom resources in the namespace tool-<name> of each tool"`
	Cluster      string           `yaml:"cluster" doc:"With storage kubernetes: name of the cluster in clusters; empty: the only one"`
	Keep         int              `yaml:"keep" doc:"Deployments that are kept of each tool; those that go on are never deleted"`
	BuildTimeout slipway.Duration `yaml:"buildTimeout" doc:"Longest time of one build, waiting for the builder included"`
	Timeout      slipway.Duration `yaml:"timeout" doc:"Longest time of a deployment"`
	TokenLife    slipway.Duration `yaml:"tokenLife" doc:"How long a deploy token is good"`
	Owner        string           `yaml:"owner" doc:"Owner of the entities of tools' components; {tool} is replaced"`
}

func defaultSettings() any {
	return &Settings{
		Builder: "local", Storage: storageDatabase, Keep: 10, BuildTimeout: slipway.Duration(30 * time.Minute), Timeout: slipway.Duration(time.Hour),
		TokenLife: slipway.Duration(365 * 24 * time.Hour), Owner: "group:default/tool-{tool}",
	}
}

const (
	storageDatabase   = "database"
	storageKubernetes = "kubernetes"
)

// Validate names what is wrong beyond the types of the fields.
func (s *Settings) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if s.Storage != storageDatabase && s.Storage != storageKubernetes {
		fault("storage: %.60q is not %s or %s", s.Storage, storageDatabase, storageKubernetes)
	}
	if s.Cluster != "" && s.Storage != storageKubernetes {
		fault("cluster: is for storage: %s; leave it out", storageKubernetes)
	}
	if s.Keep < 1 || s.Keep > 1000 {
		fault("keep: must be from 1 to 1000")
	}
	if s.BuildTimeout.Std() < time.Second {
		fault("buildTimeout: must be at least 1s")
	}
	if s.Timeout.Std() < time.Second {
		fault("timeout: must be at least 1s")
	}
	if s.TokenLife.Std() < time.Minute {
		fault("tokenLife: must be at least 1m")
	}
	if _, err := slipway.ParseEntityRef(strings.ReplaceAll(s.Owner, "{tool}", "x"), slipway.EntityRef{Kind: "group"}); err != nil {
		fault("owner: %s", sentence(err))
	}
	return errors.Join(faults...)
}

// service is the blueprint at work. Safe for concurrent use.
type service struct {
	host     *blueprint.Host
	settings *Settings
	db       *store.DB
	storage  Storage
	log      *slog.Logger
	now      func() time.Time
	watcher  *watcher
	changed  broadcast // rings the name of a tool when one of its deployments changed on this replica

	describing  sync.Mutex
	description []byte // of the components API; nil until somebody has asked for it
}

func open(_ context.Context, h *blueprint.Host) (any, error) {
	s := &service{host: h, settings: h.Config.(*Settings), db: h.DB("main"), log: h.Log, now: h.Now}
	s.storage = database{s.db}
	if s.settings.Storage == storageKubernetes {
		c, err := h.Clusters.Get(s.settings.Cluster)
		if err != nil {
			return nil, fmt.Errorf("tool.storage: %w", err)
		}
		k := newKubernetes(c, s.db, s.log, s.now)
		s.storage = k
		h.Go("storage", k.run)
	}
	s.watcher = &watcher{service: s, state: map[place]*watched{}}
	h.Go("deployments", s.watcher.run)
	h.Go("sweep", s.watcher.sweeps)
	return s, nil
}

// builder gives the builder of a name, or for "" the configured one. Unsupported: there is none, and what to write. Unavailable: it is not at work.
func (s *service) builder(name string) (string, *provider.Builder, error) {
	o, err := s.provider(name)
	if err != nil {
		return "", nil, err
	}
	return o.Name, o.Provider.Builder, nil
}

func (s *service) provider(name string) (task.Provider, error) {
	want := cmp.Or(name, s.settings.Builder)
	var fits []task.Provider
	for _, o := range s.host.Tasks.Providers() {
		switch {
		case o.Name == want:
			fits = []task.Provider{o}
		case o.Type == want && name == "" && !slices.ContainsFunc(fits, func(f task.Provider) bool { return f.Name == want }):
			fits = append(fits, o)
		}
	}
	switch {
	case len(fits) == 0 && name != "":
		return task.Provider{}, slipway.Errorf(slipway.Unavailable, "the provider %q, which builds this deployment, is gone; an operator can configure it again", name)
	case len(fits) == 0:
		return task.Provider{}, slipway.Errorf(slipway.Unsupported, "no builder is configured: an operator can add a provider of type %s, or name another one in tool.builder", want)
	case len(fits) > 1:
		return task.Provider{}, slipway.Errorf(slipway.Unsupported, "several providers are of type %s: an operator can name one in tool.builder", want)
	case fits[0].Err != nil:
		return task.Provider{}, slipway.Errorf(slipway.Unavailable, "the builder %q is not at work; its configuration has a fault", fits[0].Name).WithCause(fits[0].Err)
	case fits[0].Provider.Builder == nil:
		return task.Provider{}, slipway.Errorf(slipway.Unsupported, "the provider %q, which tool.builder names, cannot build tools", fits[0].Name)
	}
	return fits[0], nil
}

// runs says whether what the builder builds is run by it too. Of one that is not at work nobody knows; it is waited for.
func (s *service) runs(builder string) bool {
	r, err := s.runner(builder)
	return r != nil || err != nil
}

// runner gives what runs the components that a builder builds; nil: nothing does.
func (s *service) runner(builder string) (*provider.Runner, error) {
	o, err := s.provider(builder)
	if err != nil {
		return nil, err
	}
	return o.Provider.Runner, nil
}

// logCommand is how a person reads the log of a build.
func (s *service) logCommand(builder string) string {
	if o, err := s.provider(builder); err == nil && o.Type == "toolforge" {
		return "toolforge build logs {id}"
	}
	return "slipway build logs component:tool-{tool}/{component} {id}"
}

// setConfig checks a configuration and stores it; with a source_url, what that leads to. It gives the stored one and what to warn of.
func (s *service) setConfig(ctx context.Context, tool string, data []byte) (Config, []string, error) {
	doc, cfg, err := parseConfig(data, s.host.Fetch.CheckURL)
	if err != nil {
		return Config{}, nil, err
	}
	var warnings []string
	if cfg.sourceURL != "" {
		var more []string
		if doc, cfg, more, err = s.fetchSource(ctx, cfg.sourceURL); err != nil {
			return Config{}, nil, err
		}
		warnings = more
	}
	raw, err := doc.MarshalJSON()
	if err != nil {
		return Config{}, nil, err
	}
	c, err := s.storage.SetConfig(ctx, Config{Tool: tool, Document: raw, Updated: s.now()}, s.entitiesFollow(tool))
	return c, append(warnings, cfg.warnings...), err
}

// readSource reads the source of a stored configuration again, and stores what it says now.
func (s *service) readSource(ctx context.Context, c Config, cfg *config) (Config, *config, error) {
	doc, fresh, warnings, err := s.fetchSource(ctx, cfg.sourceURL)
	if err != nil {
		return c, nil, err
	}
	for _, w := range append(warnings, fresh.warnings...) {
		blueprint.Warn(ctx, w)
	}
	raw, err := doc.MarshalJSON()
	if err != nil || bytes.Equal(raw, c.Document) {
		return c, fresh, err
	}
	c.Document, c.Updated = raw, s.now()
	c, err = s.storage.SetConfig(ctx, c, s.entitiesFollow(c.Tool))
	return c, fresh, err
}

// fetchSource reads a configuration from an address. The address stays the source, whatever the file says of it: a file could otherwise send its readers elsewhere,
// or to nowhere, for good.
func (s *service) fetchSource(ctx context.Context, address string) (document, *config, []string, error) {
	refuse := func(err error) (document, *config, []string, error) {
		if ctx.Err() != nil {
			return document{}, nil, nil, ctx.Err()
		}
		why := sentence(err)
		e := slipway.Errorf(slipway.Invalid, "Unable to retrieve config from source url: %s", why).WithCause(err)
		var coded *slipway.Error
		if errors.As(err, &coded) && len(coded.Details) > 1 {
			for _, d := range coded.Details[1:] {
				e = e.WithDetails(slipway.Detail{Code: d.Code, Message: d.Message})
			}
		}
		return document{}, nil, nil, e
	}
	result, err := s.host.Fetch.Get(ctx, address, fetch.Options{Accept: "application/yaml, application/json, text/*;q=0.9, */*;q=0.1", MaxBytes: maxConfig})
	if err != nil {
		return refuse(err)
	}
	doc, cfg, err := parseConfig(result.Body, s.host.Fetch.CheckURL)
	if err != nil {
		return refuse(err)
	}
	var warnings []string
	i := slices.IndexFunc(doc.members, func(m member) bool { return strings.ReplaceAll(m.key, "-", "_") == "source_url" })
	switch {
	case i < 0:
		doc.members = append([]member{{"source_url", textOf(address)}}, doc.members...)
	case cfg.sourceURL != address:
		warnings = append(warnings, "The config at "+address+" names another source_url, which is not followed: store a config with the new one to change it")
		doc.members[i].value = textOf(address)
	}
	cfg.sourceURL = address
	return doc, cfg, warnings, nil
}

// deleteConfig deletes a tool's configuration; its deployments stay.
func (s *service) deleteConfig(ctx context.Context, tool string) (Config, error) {
	return s.storage.DeleteConfig(ctx, tool, s.entitiesFollow(tool))
}

// deployment gives a deployment as it stands at its builder, for at most wait after something is to be waited for.
func (s *service) deployment(ctx context.Context, tool, id string, wait time.Duration) (Deployment, error) {
	d, err := s.current(ctx, tool, id)
	if err != nil || !d.Status.Active() || wait <= 0 {
		return d, err
	}
	until := time.NewTimer(wait)
	defer until.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		changed, leave := s.changed.on(tool)
		over := false
		select {
		case <-ctx.Done(): // the caller is gone, or the server stops: what is known is the answer
			over = true
		case <-until.C:
			over = true
		case <-changed:
		case <-look.C:
		}
		leave()
		if over {
			return d, nil
		}
		next, err := s.current(ctx, tool, id)
		if ctx.Err() != nil {
			return d, nil
		}
		if err != nil || !next.Status.Active() {
			return next, err
		}
		d = next
	}
}

// current is a deployment with what its builder says now.
func (s *service) current(ctx context.Context, tool, id string) (Deployment, error) {
	told := s.watcher.told.Load()
	d, err := s.storage.Deployment(ctx, tool, id)
	if err != nil {
		return d, err
	}
	return s.upToDate(ctx, d, told)
}

// upToDate gives a deployment with what its builder said within the last two seconds. What has not been stored of that yet is shown all the same, but for the end
// of the deployment, which is stored first. Told is what the watcher's counter said before the deployment was read.
func (s *service) upToDate(ctx context.Context, d Deployment, told int64) (Deployment, error) {
	if !d.Status.Active() {
		return d, nil
	}
	var news map[string]provider.ComponentBuild
	now := s.now()
	if slices.ContainsFunc(d.Components, func(c Component) bool { // what was started a moment ago stands as its builder said then
		return c.Build.ID != "" && !c.Build.Status.Ended() && (c.Build.Since == nil || !within(now.Sub(*c.Build.Since), staleAfter))
	}) {
		known := s.watcher.fresh(ctx, d)
		if told != s.watcher.told.Load() { // what was stored may be newer than what was read
			var err error
			if d, err = s.storage.Deployment(ctx, d.Tool, d.ID); err != nil || !d.Status.Active() {
				return d, err
			}
		}
		news = s.watcher.shown(d, known)
	}
	status := d.Status
	d.Components = slices.Clone(d.Components)
	s.watcher.follow(&d, news)
	settled := d
	settled.Components = slices.Clone(d.Components)
	if s.settle(&settled, s.now()); settled.Status == status {
		return d, nil
	}
	return s.update(ctx, d.Tool, d.ID, func(d *Deployment) error {
		if d.Status == Running {
			s.watcher.follow(d, news)
		}
		return nil
	})
}

// deployments gives those of a tool, oldest first, the active one up to date.
func (s *service) deployments(ctx context.Context, tool string) ([]Deployment, error) {
	told := s.watcher.told.Load()
	list, err := s.storage.Deployments(ctx, tool)
	if err != nil {
		return nil, err
	}
	for i, d := range list {
		switch d, err := s.upToDate(ctx, d, told); {
		case err == nil:
			list[i] = d
		case !errors.Is(err, slipway.NotFound):
			return nil, err
		}
	}
	return list, nil
}

// latest is the newest deployment of a tool.
func (s *service) latest(ctx context.Context, tool string) (Deployment, error) {
	told := s.watcher.told.Load()
	list, err := s.storage.Deployments(ctx, tool)
	if err != nil {
		return Deployment{}, err
	}
	if len(list) == 0 {
		return Deployment{}, slipway.Errorf(slipway.NotFound, "Unable to find a deployment for %s: it has none yet", tool)
	}
	return s.upToDate(ctx, list[len(list)-1], told)
}

// entitiesFollow has the entities of a tool made what its configuration says.
func (s *service) entitiesFollow(tool string) Then {
	return func(ctx context.Context, tx *store.Tx, _ News) error {
		_, _, err := s.host.Jobs.Insert(ctx, tx, entitiesArgs{tool}, job.Insert{Unique: tool})
		return err
	}
}

type entitiesArgs struct {
	Tool string `json:"tool"`
}

func (entitiesArgs) Kind() string { return "tool.entities" }

// entities makes the entities of a tool's components what its configuration says: all of them, and no others.
func (s *service) entities(ctx context.Context, a entitiesArgs) error {
	c, err := s.storage.Config(ctx, a.Tool)
	if errors.Is(err, slipway.NotFound) {
		_, err = s.host.Entities.Sync(ctx, source(a.Tool), nil)
		return err
	}
	if err != nil {
		return again(err)
	}
	cfg, err := readStored(c.Document)
	if err != nil {
		return err
	}
	var list []*slipway.Entity
	for _, k := range cfg.components {
		e := &slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: "Component"}
		e.Metadata.Namespace, e.Metadata.Name = NamespaceOf(a.Tool), k.name
		e.Metadata.Annotations = map[string]string{provider.ToolAnnotation: a.Tool + "/" + k.name}
		e.Metadata.Description = "Component " + k.name + " of the tool " + a.Tool
		e.Spec = map[string]any{
			"type": map[string]string{continuous: "service", scheduled: "job"}[k.kind], "lifecycle": "production",
			"owner": strings.ReplaceAll(s.settings.Owner, "{tool}", a.Tool),
		}
		list = append(list, e)
	}
	result, err := s.host.Entities.Sync(ctx, source(a.Tool), list)
	for _, conflict := range result.Conflicts {
		s.log.WarnContext(ctx, "a component's entity belongs to another source", "entity", conflict.Ref.String(), "source", conflict.Source)
	}
	return err
}

func source(tool string) string { return "tool:" + tool }
