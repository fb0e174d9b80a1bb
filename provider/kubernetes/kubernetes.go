// Package kubernetes is a Kubernetes cluster as a provider of deployments, each a rollout of a Deployment.
//
// Its README says what an operator sets up. A cluster keeps the last ten ReplicaSets of a Deployment and tells how a rollout went only while it is the newest: the provider watches,
// and the index of deployments keeps what it has seen.
package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/provider"
)

// Kind is Kubernetes.
var Kind = provider.Kind{
	Name:   "kubernetes",
	Text:   "A Kubernetes cluster: the rollouts of Deployments are deployments.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: provider.KubernetesSelector, Project: true, Text: "Label selector of the Deployments.", Example: "app=web,tier!=test"},
		{Key: provider.KubernetesID, Project: true, Text: "Value of the label of the same name on the Deployments, where there is no selector.", Example: "web"},
		{Key: provider.KubernetesNamespace, Text: "Namespace of the Deployments; without it `namespace` of the provider, without that all.", Example: "shop"},
		{Key: provider.KubernetesCluster, Text: "Name of the cluster, where there are several; one of another cluster is not shown.", Example: "prod"},
	},
	Open: provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	Cluster     string            `json:"cluster" doc:"Name of the cluster in clusters:; empty: the only one"`
	Namespace   string            `json:"namespace" doc:"Namespace of entities that name none; empty: all, which needs the right to watch Deployments and ReplicaSets everywhere"`
	Environment provider.Template `json:"environment" default:"{namespace}" doc:"Which environment a rollout is one of: a text with {namespace}, {cluster}, {name} of the Deployment, and {label:KEY} or {annotation:KEY} of the Deployment or else of its namespace"`
	Commit      string            `json:"commit" default:"org.opencontainers.image.revision" doc:"Annotation or label that names the commit, on the pods or the Deployment. Without it the commit is the image's tag, where that is one"`
	URL         provider.Template `json:"url" doc:"Page of a Deployment, such as https://dashboard.example.com/#/deployment/{namespace}/{name}; empty: its address in the API"`
	Interval    slipway.Duration  `json:"interval" default:"10s" doc:"How often each project is looked at, which asks the cluster nothing: its watch has told already"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	faults := c.Environment.Faults("environment", "namespace", "cluster", "name", "label:", "annotation:")
	faults = append(faults, c.URL.Faults("url", "namespace", "cluster", "name")...)
	if c.URL != "" {
		faults = append(faults, provider.CheckURL("url", strings.SplitN(c.URL.Fill(func(string) string { return "x" }), "#", 2)[0])...)
	}
	if c.Namespace != "" && !provider.NamespaceName(c.Namespace) {
		faults = append(faults, slipway.Detail{Field: "namespace", Code: slipway.Invalid, Message: "is no name of a namespace"})
	}
	return faults
}

// client is a cluster whose rollouts are watched.
type client struct {
	cfg  Config
	kube *cluster.Client
	now  func() time.Time
	log  *slog.Logger

	ctx  context.Context // of the watches; they begin when somebody asks for what they show
	stop context.CancelFunc
	wait sync.WaitGroup

	mu         sync.Mutex
	views      map[string]*view // by namespace
	namespaces map[string]namespace
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	k, err := env.Kubernetes(cfg.Cluster)
	if err != nil {
		return nil, err
	}
	c := &client{cfg: cfg, kube: k, now: env.Clock(), log: env.Log, views: map[string]*view{}, namespaces: map[string]namespace{}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects:    c.projects,
		Interval:    c.cfg.Interval.Std(),
		Deployments: &provider.Deployments{List: c.list, Get: c.get},
		Check:       c.check,
		Inspect:     c.inspect,
		Close:       c.close,
	}
}

func (c *client) close() error {
	c.stop()
	c.wait.Wait()
	return nil
}

// projects reads what an entity's annotations say.
func (c *client) projects(e *slipway.Entity) []string {
	if l, ok := provider.LabelledOf(e, c.kube.Name(), c.cfg.Namespace, ""); ok {
		return []string{l.String()}
	}
	return nil
}

func (c *client) list(ctx context.Context, project string, o provider.ListOptions) (page provider.Page[slipway.Deployment], err error) {
	all, err := c.rollouts(ctx, project)
	if err != nil {
		return page, fmt.Errorf("rollouts of %s: %w", project, err)
	}
	return provider.Whole(all, func(d slipway.Deployment) (time.Time, string) { return d.CreatedAt, d.ID }, o)
}

func (c *client) get(ctx context.Context, project, id string) (slipway.Deployment, error) {
	all, err := c.rollouts(ctx, project)
	if err != nil {
		return slipway.Deployment{}, err
	}
	for _, d := range all {
		if d.ID == id {
			return d, nil
		}
	}
	return slipway.Deployment{}, slipway.Errorf(slipway.NotFound, "the cluster %q has no rollout %.100q of %s, or not any more", c.kube.Name(), id, project)
}

// rollouts are all that the cluster tells of the rollouts of a project.
func (c *client) rollouts(ctx context.Context, project string) ([]slipway.Deployment, error) {
	l, ok := provider.ReadLabelled(project)
	if !ok {
		return nil, slipway.Errorf(slipway.NotFound, "%.100q names no Deployments; a project is namespace/selector", project)
	}
	matches, err := cluster.Selector(l.Selector)
	if err != nil {
		return nil, slipway.Errorf(slipway.NotFound, "the cluster does not understand the selector %q", l.Selector).WithCause(err)
	}
	v, err := c.view(l.Namespace)
	if err != nil {
		return nil, err
	}
	workloads, sets, err := v.read(ctx)
	if err != nil {
		return nil, err
	}
	if len(workloads) == 0 && l.Namespace != "" { // an empty list is no sign of the namespace
		if _, err := c.kube.Get(ctx, cluster.Namespaces, "", l.Namespace); errors.Is(err, slipway.NotFound) {
			c.forget(l.Namespace)
			return nil, err
		}
	}
	var all []slipway.Deployment
	for _, w := range workloads {
		if !matches(w.labels) {
			continue
		}
		environment, err := c.environment(ctx, w)
		if err != nil {
			return nil, err
		}
		for _, r := range w.rollouts(sets[w.uid]) {
			all = append(all, c.deployment(w, r, environment))
		}
	}
	return all, nil
}

// deployment is a rollout in the words of all vendors. A Deployment that is made anew counts from 1 again: the beginning of its UID tells.
func (c *client) deployment(w workload, r rollout, environment string) slipway.Deployment {
	d := slipway.Deployment{
		ID: fmt.Sprintf("%s-%d-%.8s", w.name, r.revision, w.uid), Environment: environment, Version: r.version,
		Status: r.status, Detail: r.detail, CreatedAt: r.start, StartedAt: &r.start, UpdatedAt: &r.start, URL: c.page(w),
	}
	if !r.end.IsZero() {
		if d.FinishedAt = &r.end; r.status.Finished() {
			d.UpdatedAt = d.FinishedAt
		}
	}
	if r.cause != "" {
		d.Detail += "; " + r.cause
	}
	if r.by != "" {
		d.TriggeredBy = &slipway.Person{ID: r.by}
	}
	if r.commit != "" {
		d.Commit = &slipway.Commit{SHA: r.commit}
	}
	provider.DeriveDeployment(&d)
	return d
}

func (c *client) page(w workload) string {
	escaped := map[string]string{"namespace": url.PathEscape(w.namespace), "name": url.PathEscape(w.name), "cluster": url.PathEscape(c.kube.Name())}
	return cmp.Or(c.cfg.URL.Fill(func(name string) string { return escaped[name] }), c.kube.URL(deployments, w.namespace, w.name))
}

// namespace is what is read of one: seldom, as it hardly ever changes.
type namespace struct {
	labels, annotations map[string]string
	read                time.Time
}

const namespaceKept = time.Minute

func (c *client) environment(ctx context.Context, w workload) (text string, err error) {
	text = c.cfg.Environment.Fill(func(name string) string {
		key, isLabel := strings.CutPrefix(name, "label:")
		key, isAnnotation := strings.CutPrefix(key, "annotation:")
		switch {
		case !isLabel && !isAnnotation:
			return map[string]string{"namespace": w.namespace, "name": w.name, "cluster": c.kube.Name()}[name]
		case isLabel && w.labels[key] != "":
			return w.labels[key]
		case isAnnotation && w.annotations[key] != "":
			return w.annotations[key]
		case err != nil:
			return ""
		}
		var n namespace
		if n, err = c.namespace(ctx, w.namespace); isLabel {
			return n.labels[key]
		}
		return n.annotations[key]
	})
	return cmp.Or(text, w.namespace), err
}

func (c *client) namespace(ctx context.Context, name string) (namespace, error) {
	c.mu.Lock()
	n, ok := c.namespaces[name]
	c.mu.Unlock()
	if ok && c.now().Sub(n.read) < namespaceKept {
		return n, nil
	}
	o, err := c.kube.Get(ctx, cluster.Namespaces, "", name)
	if err != nil && !errors.Is(err, slipway.NotFound) {
		return n, err
	}
	n = namespace{o.Texts("metadata", "labels"), o.Texts("metadata", "annotations"), c.now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.namespaces) >= 10*maxViews {
		clear(c.namespaces)
	}
	c.namespaces[name] = n
	return n, nil
}

func (c *client) check(ctx context.Context) error {
	if err := c.kube.Check(ctx); err != nil {
		return err
	}
	_, err := c.kube.List(ctx, deployments, c.cfg.Namespace, cluster.ListOptions{Limit: 1})
	if errors.Is(err, slipway.Forbidden) && c.cfg.Namespace == "" {
		return nil // where entities name namespaces, it is enough to be let in there; Inspect says what is missing
	}
	return err
}

// inspect asks the cluster who we are and what we may do.
func (c *client) inspect(ctx context.Context, project string) (provider.Insight, error) {
	var in provider.Insight
	l, ok := provider.ReadLabelled(project)
	if !ok {
		return in, slipway.Errorf(slipway.NotFound, "%.100q names no Deployments", project)
	}
	var err error
	if in.Account, err = c.kube.Account(ctx); err != nil {
		return in, err
	}
	where := "all namespaces"
	if l.Namespace != "" {
		where = "namespace " + l.Namespace
	}
	for _, right := range []struct {
		verb string
		r    cluster.Resource
		why  string
	}{
		{"list", deployments, "list Deployments"}, {"watch", deployments, "watch Deployments"}, {"list", replicaSets, "list ReplicaSets"}, {"watch", replicaSets, "watch ReplicaSets"},
		{"get", cluster.Namespaces, "read namespaces, whose labels name environments"},
	} {
		if right.r == cluster.Namespaces && !strings.Contains(string(c.cfg.Environment), "{label:") && !strings.Contains(string(c.cfg.Environment), "{annotation:") {
			continue
		}
		may, err := c.kube.May(ctx, right.verb, right.r, "", l.Namespace)
		if err != nil {
			return in, err
		}
		if !may {
			in.Lacks = append(in.Lacks, fmt.Sprintf("%s may not %s in %s; bind the ClusterRole slipway-rollouts to it", in.Account, right.why, where))
		}
	}
	return in, nil
}
