// Package workspace is the blueprint of workspaces: places to work in that Eclipse Che runs on a Kubernetes cluster, made of a devfile. It writes
// the DevWorkspace resources that Che's own dashboard would, so that Che's operator and dashboard go on with them, and reads them from a cache that a watch keeps in
// step. The cluster is the only memory.
package workspace

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

// Config is the section `workspaces:` of the configuration.
type Config struct {
	Cluster    string      `yaml:"cluster" doc:"Name of the cluster where workspaces are made; empty: the only one"`
	Clusters   []string    `yaml:"clusters" doc:"Further clusters, which a request may name"`
	URL        string      `yaml:"url" doc:"Address of Che, such as https://che.example.com, from which links to workspaces are made; {cluster} stands for the cluster's name"`
	Namespace  string      `yaml:"namespace" doc:"Namespace of a user's workspaces; {user} stands for the user's name, made safe for Kubernetes. It is made when it is needed"`
	Namespaces []Namespace `yaml:"namespaces" doc:"Further namespaces, which exist already, and who may have workspaces there"`
	Devfiles   []string    `yaml:"devfiles" doc:"Addresses of devfiles that may be used, with * for anything; all of them must be allowed by fetch.allow too"`
	Editor     string      `yaml:"editor" doc:"Editor of new workspaces: https address or file of its definition, a devfile such as che-code's; empty: none, so that only what the devfile itself starts can be reached"`
	Image      string      `yaml:"image" doc:"Image of a container that is added to devfiles that have none with the sources; empty: they are taken as they are"`

	MaxPerUser int `yaml:"maxPerUser" doc:"How many workspaces a user may have; 0: no limit"`
	MaxRunning int `yaml:"maxRunning" doc:"How many of them may run at a time; 0: no limit"`

	Impersonate       string   `yaml:"impersonate" doc:"Kubernetes user that calls for a user are made as; {user} is the user's name, {subject} what Slipway knows them by. Empty: everything is done with the kubeconfig's own account, which then is the creator of all workspaces"`
	ImpersonateGroups []string `yaml:"impersonateGroups" doc:"Groups that this user has"`
	Role              string   `yaml:"role" doc:"ClusterRole that the impersonated user gets in a namespace that is made for them"`
}

// Namespace is a further namespace for workspaces.
type Namespace struct {
	Name string   `yaml:"name" doc:"Name of the namespace; {user} stands for the user's name"`
	To   []string `yaml:"to" doc:"Who may have workspaces there: user:default/jane, group:default/team-a, token:<name>, or * for everybody"`
}

func defaultConfig() *Config {
	return &Config{Namespace: "{user}-workspaces", Devfiles: []string{"https://*"}, Role: "slipway-workspace-user"}
}

// Validate is called before anything starts.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	named := func(field, template string) {
		if name := strings.NewReplacer("{user}", "u").Replace(template); len(name) > 63 || !dnsLabel.MatchString(name) {
			fault("%s: %q does not give names of namespaces; write a-z, 0-9, - and {user}", field, template)
		}
	}
	named("namespace", c.Namespace)
	if !strings.Contains(c.Namespace, "{user}") {
		fault("namespace: {user} is missing: every user has a namespace of their own; shared ones go to namespaces")
	}
	for i, n := range c.Namespaces {
		named(fmt.Sprintf("namespaces[%d].name", i), n.Name)
		if len(n.To) == 0 {
			fault("namespaces[%d].to: say who may have workspaces there, or * for everybody", i)
		}
	}
	if c.URL != "" {
		if u, err := url.Parse(strings.ReplaceAll(c.URL, "{cluster}", "c")); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			fault("url: %q is no address such as https://che.example.com", c.URL)
		}
	}
	for i, p := range c.Devfiles {
		if !strings.HasPrefix(p, "https://") {
			fault("devfiles[%d]: %q does not begin with https://", i, p)
		}
	}
	if strings.Contains(c.Editor, "://") && !strings.HasPrefix(c.Editor, "https://") {
		fault("editor: %q is neither an https address nor a file", c.Editor)
	}
	if c.MaxPerUser < 0 || c.MaxRunning < 0 {
		fault("maxPerUser, maxRunning: must not be negative")
	}
	return errors.Join(faults...)
}

// service makes and shows workspaces.
type service struct {
	config *Config
	names  []string // of clusters
	auth   *auth.Service
	db     *store.DB
	events *event.Bus
	fetch  *fetch.Fetcher
	keys   *secret.Keyring
	log    *slog.Logger
	now    func() time.Time

	connections map[string]*connection
	unready     error // why there are none

	documents documents
}

// connection is a cluster with what is known of it. The caches run from the first question on.
type connection struct {
	client     *cluster.Client
	workspaces *cluster.Cache[item]
	namespaces *cluster.Cache[namespaceItem]

	begin sync.Once
	stop  context.CancelFunc
	ended sync.WaitGroup
	ctx   context.Context
}

func open(_ context.Context, h *blueprint.Host) (any, error) {
	s := &service{
		config: h.Config.(*Config), auth: h.Auth, db: h.DB("main"), events: h.Events, fetch: h.Fetch, keys: h.Keys, log: h.Log, now: h.Now,
		connections: map[string]*connection{},
	}
	for i, name := range append([]string{s.config.Cluster}, s.config.Clusters...) {
		client, err := h.Clusters.Get(name)
		switch {
		case err != nil && (name == "" || errors.Is(err, slipway.Unsupported)):
			why := err.Error()
			if coded, ok := errors.AsType[*slipway.Error](err); ok {
				why = coded.Message
			}
			s.unready = slipway.Errorf(slipway.Unsupported, "workspaces need a Kubernetes cluster that runs Eclipse Che: %s; workspaces.cluster names the one to use", why).WithCause(err)
			return s, nil
		case err != nil:
			return nil, fmt.Errorf("workspaces.%s: %w", map[bool]string{true: "cluster", false: "clusters"}[i == 0], err)
		case s.connections[client.Name()] != nil:
			continue
		}
		c := &connection{client: client}
		c.ctx, c.stop = context.WithCancel(context.Background())
		c.workspaces = cluster.NewCache(client, devWorkspaces, cluster.CacheOptions{Log: h.Log}, keep)
		c.namespaces = cluster.NewCache(client, cluster.Namespaces, cluster.CacheOptions{Labels: componentLabel + "=" + ofWorkspaces, Log: h.Log}, keepNamespace)
		s.connections[client.Name()] = c
		s.names = append(s.names, client.Name())
	}
	return s, nil
}

// Close ends the watches.
func (s *service) Close() error {
	for _, c := range s.connections {
		c.stop()
		c.ended.Wait()
	}
	return nil
}

// wait for the first reading of a cluster, when somebody asks.
const wait = 5 * time.Second

// ready waits until the caches hold what the cluster holds, or held when it was last seen. stale says why they may be old.
func (c *connection) ready(ctx context.Context) (since time.Time, stale, err error) {
	c.begin.Do(func() {
		c.ended.Go(func() { _ = c.workspaces.Run(c.ctx) })
		c.ended.Go(func() { _ = c.namespaces.Run(c.ctx) })
	})
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	type cache interface {
		State() (time.Time, error)
		Changed() <-chan struct{}
	}
	for _, k := range []cache{c.workspaces, c.namespaces} {
		for {
			changed := k.Changed()
			at, why := k.State()
			if why == nil {
				break
			}
			if !at.IsZero() {
				since, stale = at, why
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return time.Time{}, nil, ours(why)
			case <-time.After(50 * time.Millisecond): // a failure announces nothing
				if slipway.CodeOf(why) != slipway.Unavailable {
					return time.Time{}, nil, ours(why)
				}
			}
		}
	}
	return since, stale, nil
}

// cluster gives the connection of a name; "" is the usual one.
func (s *service) cluster(name string) (*connection, error) {
	if s.unready != nil {
		return nil, s.unready
	}
	if c, ok := s.connections[cmp.Or(name, s.names[0])]; ok {
		return c, nil
	}
	return nil, slipway.Errorf(slipway.Invalid, "there is no cluster %.80q for workspaces; there are %s", name, strings.Join(s.names, ", ")).
		WithDetails(slipway.Detail{Field: "cluster", Code: slipway.Invalid, Message: "is not known"})
}

// owner is somebody who has workspaces.
type owner struct {
	subject string   // as in slipway.Caller
	name    string   // safe for Kubernetes, and of nobody else
	owns    []string // canonical refs that stand for the caller
}

// ownerOf says who a caller is among owners of workspaces.
func ownerOf(c *slipway.Caller) (owner, error) {
	o := owner{subject: c.Subject, owns: c.Owns}
	var plain string
	switch c.Kind {
	case slipway.CallerUser:
		ref, err := slipway.ParseEntityRef(c.Subject, slipway.EntityRef{Kind: "user", Namespace: slipway.DefaultNamespace})
		if err != nil {
			return o, err
		}
		ref = ref.Lower()
		if plain = ref.Name; ref.Namespace != slipway.DefaultNamespace {
			plain = ref.Namespace + "." + ref.Name // a dot is not safe, so that the name gets a mark of its own
		}
	case slipway.CallerService, slipway.CallerTool:
		plain = c.Subject // the colon has it marked
	default:
		return o, slipway.Errorf(slipway.Forbidden, "workspaces belong to somebody; ask as a user or with a token")
	}
	name, same := safeName(plain)
	if !same || len(name) > 40 {
		sum := sha256.Sum256([]byte(plain))
		name = strings.TrimPrefix(trimName(name, 40)+"-"+hex.EncodeToString(sum[:4]), "-")
	}
	o.name = name
	return o, nil
}

// expand puts an owner into a template of the configuration.
func (o owner) expand(template string) string {
	return strings.NewReplacer("{user}", o.name, "{subject}", o.subject).Replace(template)
}

// namespace is an owner's own namespace.
func (s *service) namespace(o owner) string { return trimName(o.expand(s.config.Namespace), 63) }

// shared lists the further namespaces that somebody may have workspaces in.
func (s *service) shared(o owner) []string {
	var names []string
	for _, n := range s.config.Namespaces {
		if slices.Contains(n.To, "*") || slices.Contains(n.To, o.subject) || slices.ContainsFunc(n.To, func(to string) bool { return slices.Contains(o.owns, strings.ToLower(to)) }) {
			names = append(names, o.expand(n.Name))
		}
	}
	return names
}

// as is the client that somebody's calls are made with.
func (s *service) as(c *connection, o owner) *cluster.Client {
	if s.config.Impersonate == "" {
		return c.client
	}
	return c.client.As(o.expand(s.config.Impersonate), s.config.ImpersonateGroups...)
}

// failure is an error of the cluster as the caller may see it. What is refused to a user who was impersonated is refused to them.
func (s *service) failure(err error) error {
	if s.config.Impersonate != "" && errors.Is(err, slipway.Forbidden) {
		return err
	}
	return ours(err)
}

// ours is an error of what Slipway did with its own account, as a caller may see it.
func ours(err error) error {
	if errors.Is(err, slipway.RateLimited) { // of Slipway, not of the caller
		e, _ := errors.AsType[*slipway.Error](err)
		return slipway.Errorf(slipway.Unavailable, "%s", e.Message).After(e.RetryAfter).WithCause(err)
	}
	return cluster.ForCaller(err)
}

// mine lists somebody's workspaces in a cluster, in no order.
func (s *service) mine(c *connection, o owner) []item {
	var all []item
	own := s.namespace(o)
	known, _ := c.namespaces.Get("", own)
	for _, i := range c.workspaces.List(own) {
		if i.owner == o.subject || i.owner == "" && known.of(o) {
			all = append(all, i)
		}
	}
	for _, n := range s.shared(o) {
		if n == own {
			continue
		}
		for _, i := range c.workspaces.List(n) {
			if i.owner == o.subject {
				all = append(all, i)
			}
		}
	}
	return all
}

var errNotFound = slipway.Errorf(slipway.NotFound, "Workspace not found")

// find gives a workspace of somebody as the cluster has it now, and where. Another's is not found.
func (s *service) find(ctx context.Context, o owner, id string) (*connection, cluster.Object, error) {
	if s.unready != nil {
		return nil, nil, s.unready
	}
	var down error
	for _, name := range s.names {
		c := s.connections[name]
		if _, _, err := c.ready(ctx); err != nil {
			down = err
			continue
		}
		i, ok := s.lookup(c, o, id)
		if !ok { // another replica may have made it a moment ago
			if err := s.refresh(ctx, c, o); err != nil {
				down = err
				continue
			}
			if i, ok = s.lookup(c, o, id); !ok {
				continue
			}
		}
		w, err := s.as(c, o).Get(ctx, devWorkspaces, i.namespace, i.name)
		switch {
		case errors.Is(err, slipway.NotFound):
			return nil, nil, errNotFound
		case err != nil:
			return nil, nil, s.failure(err)
		case w.UID() != i.uid: // another of that name
			return nil, nil, errNotFound
		}
		c.workspaces.Put(w)
		return c, w, nil
	}
	if down != nil {
		return nil, nil, down
	}
	return nil, nil, errNotFound
}

func (s *service) lookup(c *connection, o owner, id string) (item, bool) {
	list := s.mine(c, o)
	n := slices.IndexFunc(list, func(i item) bool { return i.id == id })
	if n < 0 {
		return item{}, false
	}
	return list[n], true
}

// refresh reads somebody's own namespace, so that the cache knows what others have just made there.
func (s *service) refresh(ctx context.Context, c *connection, o owner) error {
	for _, ns := range append([]string{s.namespace(o)}, s.shared(o)...) {
		page, err := s.as(c, o).List(ctx, devWorkspaces, ns, cluster.ListOptions{Limit: 500})
		if err != nil {
			if s.config.Impersonate != "" && errors.Is(err, slipway.Forbidden) {
				continue // a namespace that is not theirs, or not there yet
			}
			return s.failure(err)
		}
		for _, w := range page.Items {
			c.workspaces.Put(w)
		}
		if len(page.Items) > 0 && ns == s.namespace(o) {
			if n, err := c.client.Get(ctx, cluster.Namespaces, "", ns); err == nil && n.Label(componentLabel) == ofWorkspaces {
				c.namespaces.Put(n)
			}
		}
	}
	return nil
}

// place decides on the namespace of a new workspace and sees that it is there. Only a namespace of the user's own is made.
func (s *service) place(ctx context.Context, c *connection, o owner, asked string) (namespace string, fresh bool, err error) {
	own := s.namespace(o)
	if asked != "" && asked != own {
		if slices.Contains(s.shared(o), asked) {
			return asked, false, nil
		}
		return "", false, slipway.Errorf(slipway.Forbidden, "you may not have workspaces in the namespace %.80q; yours is %q, which is used when none is named", asked, own).
			WithDetails(slipway.Detail{Field: "namespace", Code: slipway.Forbidden, Message: "is not open to you"})
	}
	if known, ok := c.namespaces.Get("", own); ok && known.of(o) && !known.deleting {
		return own, false, nil
	}
	for range 2 {
		n, err := c.client.Get(ctx, cluster.Namespaces, "", own)
		switch {
		case err == nil && n.Deleting():
			return "", false, slipway.Errorf(slipway.Conflict, "your namespace %q is being deleted; try again when it is gone", own)
		case err == nil && keepNamespace(n).of(o):
			c.namespaces.Put(n)
			return own, false, nil
		case err == nil && (n.Annotation(ownerAnnotation) != "" || n.Annotation(usernameAnnotation) != ""):
			return "", false, slipway.Errorf(slipway.Forbidden, "the namespace %q belongs to somebody else; ask an operator", own)
		case err == nil:
			return "", false, slipway.Errorf(slipway.Forbidden, "the namespace %q exists and is not marked as yours; an operator gives it the annotation %s: %s", own, ownerAnnotation, o.subject)
		case !errors.Is(err, slipway.NotFound):
			return "", false, ours(err)
		}
		n, err = c.client.Create(ctx, cluster.Namespaces, "", cluster.Object{
			"apiVersion": "v1", "kind": "Namespace",
			"metadata": map[string]any{
				"name": own, "labels": map[string]any{partOfLabel: partOfChe, componentLabel: ofWorkspaces},
				"annotations": map[string]any{usernameAnnotation: o.name, ownerAnnotation: o.subject},
			},
		})
		if errors.Is(err, slipway.Conflict) {
			continue // another replica was faster
		}
		if err != nil {
			return "", false, ours(err)
		}
		if err := s.bind(ctx, c, o, own); err != nil {
			return "", false, err
		}
		c.namespaces.Put(n)
		return own, true, nil
	}
	return "", false, slipway.Errorf(slipway.Unavailable, "the namespace %q cannot be made; try again", own)
}

// bind gives an impersonated user the role that they work with in their namespace.
func (s *service) bind(ctx context.Context, c *connection, o owner, namespace string) error {
	if s.config.Impersonate == "" || s.config.Role == "" {
		return nil
	}
	_, err := c.client.Create(ctx, roleBindings, namespace, cluster.Object{
		"apiVersion": roleBindings.APIVersion(), "kind": "RoleBinding", "metadata": map[string]any{"name": "slipway-workspaces", "namespace": namespace},
		"roleRef":  map[string]any{"apiGroup": roleBindings.Group, "kind": "ClusterRole", "name": s.config.Role},
		"subjects": []any{map[string]any{"apiGroup": roleBindings.Group, "kind": "User", "name": o.expand(s.config.Impersonate)}},
	})
	if err != nil && !errors.Is(err, slipway.Conflict) {
		return ours(err)
	}
	return nil
}

// room says whether somebody may have one more workspace, and one more that runs. Two replicas that are asked at the same moment may each allow the last one.
func (s *service) room(o owner, more, runs int) error {
	var all, up int
	for _, name := range s.names {
		for _, i := range s.mine(s.connections[name], o) {
			if i.deleting {
				continue
			}
			all++
			if i.started {
				up++
			}
		}
	}
	if n := s.config.MaxPerUser; n > 0 && all+more > n {
		return slipway.Errorf(slipway.Forbidden, "You have %d of at most %d workspaces; delete one first", all, n)
	}
	if n := s.config.MaxRunning; n > 0 && up+runs > n {
		return slipway.Errorf(slipway.Forbidden, "You have %d of at most %d running workspaces; stop one first", up, n)
	}
	return nil
}

// create makes a workspace and starts it.
func (s *service) create(ctx context.Context, o owner, url, namespace, name, clusterName string) (*connection, cluster.Object, []string, error) {
	c, err := s.cluster(clusterName)
	if err != nil {
		return nil, nil, nil, err
	}
	d, err := s.documents.devfile(ctx, s, url)
	if err != nil {
		return nil, nil, nil, err
	}
	e, err := s.documents.editor(ctx, s)
	if err != nil {
		return nil, nil, nil, err
	}
	if _, _, err := c.ready(ctx); err != nil {
		return nil, nil, nil, err
	}
	if err := s.room(o, 1, 1); err != nil {
		return nil, nil, nil, err
	}
	namespace, fresh, err := s.place(ctx, c, o, namespace)
	if err != nil {
		return nil, nil, nil, err
	}
	if s.config.Image != "" && !d.sources() {
		d = d.with(s.config.Image)
	}
	// From here on it is done to the end, whoever still waits for the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	client := s.as(c, o)
	r := order{namespace: namespace, name: name, owner: o, devfile: d, url: url, editor: e, now: s.now()}
	var w cluster.Object
	for try := 0; ; try++ {
		if name == "" {
			r.name = trimName(generated(d), 58) + "-" + suffix()
		}
		asked := r.workspace()
		w, err = client.Create(ctx, devWorkspaces, namespace, asked)
		if errors.Is(err, slipway.Unavailable) { // it may be there all the same
			if made, lost := client.Get(ctx, devWorkspaces, namespace, r.name); lost == nil && made.Annotation(updatedAnnotation) == asked.Annotation(updatedAnnotation) {
				w, err = made, nil
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, slipway.Forbidden) && !cluster.OverQuota(err) && fresh && try < 30: // the right that was just given is not known everywhere yet
			if !pause(ctx, 100*time.Millisecond) {
				return nil, nil, nil, s.failure(err)
			}
			continue
		case errors.Is(err, slipway.Conflict):
			if _, there := client.Get(ctx, devWorkspaces, namespace, r.name); there == nil {
				if name == "" && try < 3 {
					continue
				}
				return nil, nil, nil, slipway.Errorf(slipway.Conflict, "Workspace with name '%s' already exists", r.name).WithCause(err)
			}
			return nil, nil, nil, err
		default:
			return nil, nil, nil, s.failure(err)
		}
		break
	}
	w, err = s.finish(ctx, client, w, r)
	if err != nil { // a workspace that was never whole is taken back
		if gone := client.Delete(ctx, devWorkspaces, namespace, r.name, "", ""); gone != nil && !errors.Is(gone, slipway.NotFound) {
			s.log.WarnContext(ctx, "a workspace that could not be made is left behind", "namespace", namespace, "name", r.name, "error", gone)
		}
		return nil, nil, nil, s.failure(err)
	}
	c.workspaces.Put(w)
	s.tell(ctx, "create", w)
	return c, w, d.warnings, nil
}

// finish gives a new workspace its editor and starts it.
func (s *service) finish(ctx context.Context, client *cluster.Client, w cluster.Object, r order) (cluster.Object, error) {
	if r.editor != nil {
		if _, err := client.Create(ctx, templates, r.namespace, r.editor.object(w, r.templateName())); err != nil && !errors.Is(err, slipway.Conflict) {
			return nil, err
		}
	}
	return client.Patch(ctx, devWorkspaces, r.namespace, w.Name(), cluster.Object{"spec": map[string]any{"started": true}})
}

// pause waits; false when the context ends first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// generated is the beginning of a name for a workspace.
func generated(d *devfile) string {
	name, _ := safeName(cmp.Or(d.name, strings.TrimSuffix(d.generateName, "-"), "workspace"))
	return cmp.Or(name, "workspace")
}

// suffix is four random letters and digits.
func suffix() string { return strings.ToLower(rand.Text()[:4]) }

// want has a workspace started or stopped; that it is so already is fine.
func (s *service) want(ctx context.Context, o owner, id string, up bool) (*connection, cluster.Object, error) {
	c, w, err := s.find(ctx, o, id)
	if err != nil {
		return nil, nil, err
	}
	if w.Deleting() {
		return nil, nil, slipway.Errorf(slipway.Conflict, "the workspace %q is being deleted", w.Name())
	}
	phase := w.Text("status", "phase")
	if w.Bool("spec", "started") == up && (!up || phase != failed && phase != "Error") {
		return c, w, nil
	}
	client := s.as(c, o)
	if up {
		if err := s.room(o, 0, 1); err != nil && !w.Bool("spec", "started") {
			return nil, nil, err
		}
		if err := s.restore(ctx, client, w); err != nil {
			return nil, nil, err
		}
		if w.Bool("spec", "started") { // a start that failed is begun anew, once the operator has seen that it is over
			if w, err = client.Patch(ctx, devWorkspaces, w.Namespace(), w.Name(), cluster.Object{"spec": map[string]any{"started": false}}); err != nil {
				return nil, nil, s.failure(err)
			}
			c.workspaces.Put(w)
			if !c.leaves(ctx, w, phase) {
				return c, w, nil
			}
		}
	}
	changed, err := client.Patch(ctx, devWorkspaces, w.Namespace(), w.Name(), cluster.Object{
		"metadata": map[string]any{"annotations": map[string]any{updatedAnnotation: s.now().UTC().Format("2006-01-02T15:04:05.000Z")}}, "spec": map[string]any{"started": up},
	})
	switch {
	case errors.Is(err, slipway.NotFound):
		return nil, nil, errNotFound
	case err != nil:
		return nil, nil, s.failure(err)
	}
	c.workspaces.Put(changed)
	s.tell(ctx, map[bool]string{true: "start", false: "stop"}[up], changed)
	return c, changed, nil
}

// leaves waits until the operator has taken a workspace out of a phase; false when that takes long.
func (c *connection) leaves(ctx context.Context, w cluster.Object, phase string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*wait)
	defer cancel()
	for {
		changed := c.workspaces.Changed()
		if i, ok := c.workspaces.Get(w.Namespace(), w.Name()); !ok || i.phase != phase {
			return ok
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// restore makes the editor of a workspace where it is missing: whoever made the workspace may have died in between.
func (s *service) restore(ctx context.Context, client *cluster.Client, w cluster.Object) error {
	name := contribution(w)
	if name == "" || w.Annotation(ownerAnnotation) == "" {
		return nil
	}
	if _, err := client.Get(ctx, templates, w.Namespace(), name); err == nil || !errors.Is(err, slipway.NotFound) {
		return s.failure(err)
	}
	e, err := s.documents.editor(ctx, s)
	if err != nil || e == nil {
		return err
	}
	if _, err = client.Create(ctx, templates, w.Namespace(), e.object(w, name)); errors.Is(err, slipway.Conflict) {
		return nil
	}
	return s.failure(err)
}

// remove asks for the end of a workspace. One that is going already is fine.
func (s *service) remove(ctx context.Context, o owner, id string) error {
	c, w, err := s.find(ctx, o, id)
	if err != nil {
		return err
	}
	if w.Deleting() {
		return nil
	}
	client := s.as(c, o)
	switch err := client.Delete(ctx, devWorkspaces, w.Namespace(), w.Name(), w.UID(), ""); {
	case errors.Is(err, slipway.NotFound), errors.Is(err, slipway.Precondition):
		return errNotFound
	case err != nil:
		return s.failure(err)
	}
	s.tell(ctx, "delete", w)
	return nil
}

// tell writes down what was done, whoever still waits for the answer. It is done even where that cannot be written.
func (s *service) tell(ctx context.Context, action string, w cluster.Object) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	subject := w.Namespace() + "/" + w.Name()
	e := workspaceEvent(action, s.now(), w)
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if err := s.auth.Audit(ctx, tx, auth.CallerFrom(ctx), "workspace."+action, subject); err != nil {
			return err
		}
		return s.events.Publish(ctx, tx, e)
	})
	if err != nil {
		s.log.ErrorContext(ctx, "what was done to a workspace could not be written down", "action", action, "workspace", subject, "error", err)
	}
}
