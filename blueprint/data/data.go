// Package data is the blueprint of the Data API: what people may configure, as documents, over HTTP, on the command line and in files. The rules of documents
// are package resource's; here are the paths, the kinds that belong to no other part (credentials, providers, grants), and the providers that documents
// describe, which work at once on every replica.
package data

import (
	"context"
	_ "embed"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/resource"
)

//go:embed README.md
var readme string

// The permissions. Each kind has its own for what is done to its documents; use is only the door.
const (
	use       = "data.api.use"
	readAudit = "data.audit.read"
	rekeyAll  = "data.secret.rekey"
)

// permissions are those of a kind of this blueprint; limits says what bounds its writers.
func permissions(noun, what string, limits ...string) (resource.Permissions, []auth.Permission) {
	p := resource.Permissions{
		Read: "data." + noun + ".read", Create: "data." + noun + ".create", Update: "data." + noun + ".update", Delete: "data." + noun + ".delete",
	}
	within := strings.Join(limits, "")
	return p, []auth.Permission{
		{Name: p.Read, Text: "Read " + what}, {Name: p.Create, Text: "Create " + what + within}, {Name: p.Update, Text: "Change " + what + within}, {Name: p.Delete, Text: "Delete " + what},
	}
}

// usable adds the right to name a document where its secrets are used: whoever may point a provider at an address could otherwise have any secret sent there.
func usable(p resource.Permissions, declared []auth.Permission) (resource.Permissions, []auth.Permission) {
	p.Use = strings.TrimSuffix(p.Read, "read") + "use"
	return p, append(declared, auth.Permission{Name: p.Use, Text: "Have credentials shown to the vendors of providers that one writes"})
}

var (
	credentialPermissions, declaredCredential = usable(permissions("credential", "credentials"))
	providerPermissions, declaredProvider     = permissions("provider", "providers")
	grantPermissions, declaredGrant           = permissions("grant", "grants", ", which can give at most what you hold yourself")
)

// Blueprint is the Data API.
var Blueprint = blueprint.Blueprint{
	Name: "data", Version: "0.1.0", Summary: "Everything that is configured, as documents.", Stability: blueprint.Experimental,
	Mounts: []blueprint.Mount{{Prefix: "/data", Dialect: blueprint.Data}},
	Permissions: append(append(append([]auth.Permission{
		{Name: use, Text: "Reach the Data API and see which kinds there are; each kind asks for permissions of its own", Everyone: true},
		{Name: readAudit, Text: "Read who changed which document"},
		{Name: rekeyAll, Text: "Have all secrets sealed with a new key"},
	}, declaredCredential...), declaredProvider...), declaredGrant...),
	Kinds: []blueprint.ResourceKind{
		{Kind: credentials},
		blueprint.Resource(providers, (*service).providerKind),
		blueprint.Resource(grants, (*service).grantKind),
	},
	Operations: operations,
	Events:     resource.Events,
	Jobs: []blueprint.Job{
		blueprint.Work((*service).rekey, job.Worker{Text: "Seals secrets anew with the newest key", Timeout: 30 * time.Minute}),
		blueprint.Work((*service).prune, job.Worker{Text: "Deletes old records of changes", Timeout: 10 * time.Minute}),
	},
	Schedules: []job.Schedule{{Name: "data.prune", Text: "Deletes old records of changes", Every: time.Hour, Args: pruneArgs{}}},
	Commands:  []func(*blueprint.Client) *cobra.Command{commands},
	Pages:     []blueprint.Page{{Slug: "data", Title: "The Data API", Text: readme}},
	Databases: []blueprint.Database{{Name: "main"}},
	Open: func(_ context.Context, h *blueprint.Host) (any, error) {
		return &service{Host: h, changed: make(chan struct{}, 1)}, nil
	},
}

type service struct {
	*blueprint.Host
	documents *resource.Store // from Start on

	changed chan struct{} // documents that something hangs on have changed
	stop    context.CancelFunc
	stopped chan struct{}
	opened  map[string]opened // by name; only the goroutine that follows changes touches it after Start
}

// Start makes the store of all kinds, applies the configured folders, and opens the providers that documents describe.
func (s *service) Start(ctx context.Context) error {
	var err error
	if s.documents, err = resource.Open(ctx, s.DB("main"), s.Revisions, s.Keys, s.Now, s.Resources()...); err != nil {
		return err
	}
	s.documents.Events = s.Events
	ctx = auth.WithCaller(ctx, auth.System())
	if err := s.applyFolders(ctx); err != nil {
		return err
	}
	if err := s.noClash(ctx); err != nil {
		return err
	}
	for _, kind := range []string{"credentials", "providers", "grants"} { // before they are read, so that no change is missed
		s.Revisions.Watch(resource.Revision(kind), s.wake)
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	s.Revisions.Watch(keysRevision, func() { go s.readKeys() }) // a key management service may take its time
	follow, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop, s.stopped = stop, make(chan struct{})
	go s.follow(follow)
	return nil
}

// Documents is the store, for other parts that use what is configured here.
func (s *service) Documents() *resource.Store { return s.documents }

func (s *service) wake() {
	select {
	case s.changed <- struct{}{}:
	default: // it is awake already
	}
}

// follow brings what hangs on documents up to date whenever they change, on every replica, whatever its role. What fails is tried again.
func (s *service) follow(ctx context.Context) {
	defer close(s.stopped)
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-again:
		}
		again = nil
		if err := s.reload(ctx); err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "changed documents were not read; it is tried again", "error", err)
			again = time.After(time.Second)
		}
	}
}

// Reload applies the configured folders again, all of them or nothing.
func (s *service) Reload(ctx context.Context) error {
	return s.applyFolders(auth.WithCaller(ctx, auth.System()))
}

func (s *service) reload(ctx context.Context) error {
	if err := s.reloadGrants(ctx); err != nil {
		return err
	}
	return s.reloadProviders(ctx)
}

// Close ends following and closes the providers that documents describe.
func (s *service) Close() error {
	if s.stop == nil {
		return nil
	}
	s.stop()
	<-s.stopped
	return s.closeProviders()
}

// rekeyArgs has secrets sealed anew.
type rekeyArgs struct{}

func (rekeyArgs) Kind() string { return "data.rekey" }

// keysRevision is bumped when a key was put in front of the others, so that all replicas read the key file again.
const keysRevision = "data.keys"

// every replica has read the keys again so long after they changed: it is told within half a second.
const keysRead = 3 * time.Second

// rekey seals with the newest key what older ones sealed. A replica that had not read the new key yet may seal with an old one meanwhile, so that it looks again once
// all have. Killed half-way, it goes on where it was.
func (s *service) rekey(ctx context.Context, _ rekeyArgs) error {
	if err := s.Keys.Reload(); err != nil { // another replica may have made the key
		return err
	}
	total := 0
	pass := func() error {
		for {
			n, err := s.documents.Rekey(ctx, 1000)
			if total += n; err != nil || n == 0 {
				return err
			}
		}
	}
	if err := pass(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(keysRead):
	}
	if err := pass(); err != nil {
		return err
	}
	s.Log.InfoContext(ctx, "secrets were sealed anew", "documents", total, "key", s.Keys.KeyIDs()[0])
	return nil
}

// readKeys reads the key file again, as another replica has changed it.
func (s *service) readKeys() {
	if err := s.Keys.Reload(); err != nil {
		s.Log.Error("the key file has changed and cannot be read; the keys stay as they were", "error", err)
	}
}

// pruneArgs deletes what is older than its retention.
type pruneArgs struct{}

func (pruneArgs) Kind() string { return "data.prune" }

func (s *service) prune(ctx context.Context, _ pruneArgs) error {
	return s.documents.Prune(ctx, s.Now().Add(-s.Retention.Audit.Std()))
}

func fault(field, message string) slipway.Detail {
	return slipway.Detail{Field: field, Code: slipway.Invalid, Message: message}
}
