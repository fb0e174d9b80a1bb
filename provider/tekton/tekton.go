// Package tekton is Tekton Pipelines on a Kubernetes cluster: a provider of builds, each a PipelineRun, and on request a builder of tools.
//
// Its README says what an operator sets up. A cluster lists by name and forgets what is pruned; the index of builds has the order and the history.
package tekton

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/provider"
)

// Annotations that Backstage's users have, for its Tekton plugins; those of its Kubernetes plugin besides.
const (
	enabledAnnotation = "tekton.dev/cicd"
	janusAnnotation   = "janus-idp.io/tekton"
)

// Kind is Tekton.
var Kind = provider.Kind{
	Name:   "tekton",
	Text:   "Tekton Pipelines on a Kubernetes cluster; also a builder of tools.",
	Config: Config{},
	Annotations: []provider.Annotation{
		{Key: enabledAnnotation, Project: true, Text: "true: the entity has PipelineRuns; the annotations below say which.", Example: "true"},
		{Key: janusAnnotation, Project: true, Text: "The same in the words of the newer plugin: the value of the label " + provider.KubernetesID + " where no other annotation says which.", Example: "web"},
		{Key: provider.KubernetesSelector, Project: true, Text: "Label selector of the PipelineRuns.", Example: "app=web,tier!=test"},
		{Key: provider.KubernetesID, Project: true, Text: "Value of the label of the same name on the PipelineRuns, where there is no selector.", Example: "web"},
		{Key: provider.KubernetesNamespace, Text: "Namespace of the PipelineRuns; without it `namespace` of the provider, without that all.", Example: "builds"},
		{Key: provider.KubernetesCluster, Text: "Name of the cluster, where there are several; one of another cluster is not shown.", Example: "prod"},
	},
	Open: provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	Cluster   string           `json:"cluster" doc:"Name of the cluster in clusters:; empty: the only one"`
	Namespace string           `json:"namespace" doc:"Namespace of entities that name none; empty: all, which needs the right to list PipelineRuns everywhere"`
	URL       string           `json:"url" doc:"Address of the Tekton Dashboard, such as https://tekton.example.com; empty: builds link to the API"`
	Interval  slipway.Duration `json:"interval" default:"15s" doc:"How often each project is looked at: one list of its PipelineRuns"`
	Builder   BuilderConfig    `json:"builder" doc:"Makes of this provider a builder of tools"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	var faults []slipway.Detail
	if c.URL != "" {
		faults = provider.CheckURL("url", c.URL)
	}
	if c.Namespace != "" && !provider.NamespaceName(c.Namespace) {
		faults = append(faults, slipway.Detail{Field: "namespace", Code: slipway.Invalid, Message: "is no name of a namespace"})
	}
	return append(faults, c.Builder.check()...)
}

// client is a cluster with Tekton.
type client struct {
	cfg  Config
	kube *cluster.Client
	now  func() time.Time
	pace time.Duration // between two looks at a run whose log is followed
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	k, err := env.Kubernetes(cfg.Cluster)
	return &client{cfg: cfg, kube: k, now: env.Clock(), pace: time.Second}, err
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	p := &provider.Provider{
		Projects: c.projects,
		Interval: c.cfg.Interval.Std(),
		Builds:   &provider.Builds{List: c.list, Get: c.get, Retrigger: c.retrigger, Cancel: c.cancel, Logs: c.logs},
		Check:    c.check,
		Inspect:  c.inspect,
	}
	if c.cfg.Builder.enabled() {
		p.Builder = c.builder()
	}
	return p
}

// project is where some PipelineRuns are: those with labels in a namespace. In a project's text they stand as namespace/selector; the namespace * is all. The builds of a
// tool's component are the project tool:<tool>/<component>.
type project struct {
	namespace string // "" is all
	selector  string
}

// projects reads what an entity's annotations say.
func (c *client) projects(e *slipway.Entity) []string {
	a := e.Metadata.Annotations
	var all []string
	if p, ok := provider.ToolProject(e); ok && c.cfg.Builder.enabled() {
		all = append(all, p)
	}
	janus := strings.TrimSpace(a[janusAnnotation])
	if strings.TrimSpace(a[enabledAnnotation]) != "true" && janus == "" {
		return all
	}
	if janus == "true" {
		janus = ""
	}
	l, ok := provider.LabelledOf(e, c.kube.Name(), c.cfg.Namespace, janus)
	if !ok {
		return all
	}
	return append(all, l.String())
}

// find reads a project's text.
func (c *client) find(text string) (project, error) {
	if tool, component, ok := provider.ToolOf(text); ok {
		if !c.cfg.Builder.enabled() || !provider.ToolName(tool) || !provider.ComponentName(component) {
			return project{}, slipway.Errorf(slipway.NotFound, "this provider builds no tools")
		}
		return project{c.cfg.Builder.namespace(tool), toolLabel + "=" + tool + "," + componentLabel + "=" + component}, nil
	}
	l, ok := provider.ReadLabelled(text)
	if !ok {
		return project{}, slipway.Errorf(slipway.NotFound, "%.100q names no PipelineRuns; a project is namespace/selector", text)
	}
	return project{l.Namespace, l.Selector + ",!" + toolLabel}, nil // nobody sees a tool's builds by writing its name
}

// id is what a run is called within a project: its name, behind its namespace where the project has many.
func (p project) id(namespace, name string) string {
	if p.namespace == "" {
		return namespace + "/" + name
	}
	return name
}

// place reads an id.
func (p project) place(id string) (namespace, name string, ok bool) {
	if p.namespace != "" {
		return p.namespace, id, id != ""
	}
	namespace, name, ok = strings.Cut(id, "/")
	return namespace, name, ok && provider.NamespaceName(namespace) && name != ""
}

const (
	listPage = 200    // PipelineRuns in one answer of the cluster
	listMost = 20_000 // PipelineRuns of one project
)

// runs reads all PipelineRuns of a namespace with a selector: the cluster knows no order but the name. Newest first.
func (c *client) runs(ctx context.Context, namespace, selector string) ([]run, error) {
	var all []run
	o := cluster.ListOptions{Labels: selector, Limit: listPage}
	for {
		page, err := c.kube.List(ctx, pipelineRuns, namespace, o)
		if err != nil {
			return nil, err
		}
		for i, item := range page.Items {
			all = append(all, read(item))
			page.Items[i] = nil
		}
		if len(all) > listMost {
			return nil, slipway.Errorf(slipway.TooLarge, "there are more than %d PipelineRuns with the labels %s; have Tekton prune them", listMost, selector)
		}
		if o.Next = page.Next; o.Next == "" {
			slices.SortFunc(all, newestFirst)
			return all, nil
		}
	}
}

// newestFirst orders runs. The API server's times are to the second; those of one are told apart by what Slipway noted, then by name.
func newestFirst(a, b run) int {
	return -cmp.Or(a.created.Compare(b.created), a.ordered.Compare(b.ordered), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

func (c *client) list(ctx context.Context, text string, o provider.ListOptions) (page provider.Page[slipway.Build], err error) {
	after, err := readCursor(o.Cursor)
	if err != nil {
		return page, err
	}
	p, err := c.find(text)
	if err != nil {
		return page, err
	}
	runs, err := c.runs(ctx, p.namespace, p.selector)
	if errors.Is(err, slipway.Invalid) {
		return page, slipway.Errorf(slipway.NotFound, "the cluster does not understand the selector %q", p.selector).WithCause(err)
	}
	if err == nil && len(runs) == 0 && p.namespace != "" {
		_, err = c.kube.Get(ctx, cluster.Namespaces, "", p.namespace) // an empty list is no sign of it
		if errors.Is(err, slipway.Forbidden) {
			err = nil
		}
		if _, _, tool := provider.ToolOf(text); tool && errors.Is(err, slipway.NotFound) {
			err = nil // a tool that has built nothing has no namespace yet
		}
	}
	if err != nil {
		return page, err
	}
	if o.Cursor == "" {
		page.Validator = validator(runs)
		if o.Validator == page.Validator {
			page.NotModified = true
			return page, nil
		}
	}
	var last run
	for _, r := range runs {
		if o.Cursor != "" && newestFirst(after, r) >= 0 {
			continue
		}
		if o.Limit > 0 && len(page.Items) == o.Limit {
			page.Next = cursor(last)
			break
		}
		page.Items = append(page.Items, c.build(p, r))
		last = r
	}
	return page, nil
}

// validator tells versions of a list apart.
func validator(runs []run) string {
	h := fnv.New128a()
	for _, r := range runs {
		_, _ = fmt.Fprintf(h, "%s %s\n", r.uid, r.version)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// cursor names the last run that was seen by its place in the order.
func cursor(r run) string {
	return fmt.Sprintf("%d.%d.%s/%s", r.created.Unix(), r.ordered.UnixMicro(), r.namespace, r.name)
}

func readCursor(s string) (run, error) {
	if s == "" {
		return run{}, nil
	}
	parts := strings.SplitN(s, ".", 3)
	if len(parts) == 3 {
		created, err1 := strconv.ParseInt(parts[0], 10, 64)
		ordered, err2 := strconv.ParseInt(parts[1], 10, 64)
		if namespace, name, ok := strings.Cut(parts[2], "/"); ok && err1 == nil && err2 == nil {
			return run{created: time.Unix(created, 0), ordered: time.UnixMicro(ordered), namespace: namespace, name: name}, nil
		}
	}
	return run{}, slipway.Errorf(slipway.Invalid, "this is no cursor of this provider; read the list from its start")
}

// object reads the PipelineRun of a build that belongs to a project.
func (c *client) object(ctx context.Context, text, id string) (project, cluster.Object, error) {
	p, err := c.find(text)
	if err != nil {
		return p, nil, err
	}
	missing := slipway.Errorf(slipway.NotFound, "%s has no PipelineRun %.100q", text, id)
	namespace, name, ok := p.place(id)
	if !ok {
		return p, nil, missing
	}
	o, err := c.kube.Get(ctx, pipelineRuns, namespace, name)
	if errors.Is(err, slipway.NotFound) {
		return p, nil, missing.WithCause(err)
	}
	if err != nil {
		return p, nil, err
	}
	belongs, err := cluster.Selects(p.selector, o)
	if err != nil || !belongs {
		return p, nil, missing.WithCause(err)
	}
	return p, o, nil
}

func (c *client) get(ctx context.Context, text, id string) (slipway.Build, error) {
	p, o, err := c.object(ctx, text, id)
	if err != nil {
		return slipway.Build{}, err
	}
	return c.build(p, read(o)), nil
}

// retrigger makes a new PipelineRun of the same words.
func (c *client) retrigger(ctx context.Context, text, id string, _ map[string]any, by slipway.Caller) (*slipway.Build, error) {
	p, o, err := c.object(ctx, text, id)
	if err != nil {
		return nil, err
	}
	if r := read(o); !r.status.Finished() {
		return nil, slipway.Errorf(slipway.Conflict, "the PipelineRun %s is still %s; wait for its end, or cancel it", r.name, r.status)
	}
	again, err := c.kube.Create(ctx, pipelineRuns, o.Namespace(), repeat(o, by, c.now()))
	if err != nil {
		return nil, err
	}
	b := c.build(p, read(again))
	return &b, nil
}

func (c *client) cancel(ctx context.Context, text, id string) error {
	_, o, err := c.object(ctx, text, id)
	if err != nil {
		return err
	}
	return c.end(ctx, o)
}

// end cancels a run.
func (c *client) end(ctx context.Context, o cluster.Object) error {
	for {
		if r := read(o); r.status.Finished() {
			return slipway.Errorf(slipway.Conflict, "the PipelineRun %s has ended: %s", r.name, r.detail)
		}
		_, err := c.kube.Patch(ctx, pipelineRuns, o.Namespace(), o.Name(), cluster.Object{
			"metadata": map[string]any{"resourceVersion": o.ResourceVersion()}, // what has ended meanwhile is not touched
			"spec":     map[string]any{"status": "Cancelled"},
		})
		if !errors.Is(err, slipway.Precondition) {
			return err
		}
		if o, err = c.kube.Get(ctx, pipelineRuns, o.Namespace(), o.Name()); err != nil {
			return err
		}
	}
}

func (c *client) check(ctx context.Context) error {
	if err := c.kube.Check(ctx); err != nil {
		return err
	}
	_, err := c.kube.List(ctx, pipelineRuns, c.cfg.Namespace, cluster.ListOptions{Limit: 1})
	return err
}

// inspect asks the cluster who we are and what we may do.
func (c *client) inspect(ctx context.Context, text string) (provider.Insight, error) {
	var in provider.Insight
	p, err := c.find(text)
	if err != nil {
		return in, err
	}
	if in.Account, err = c.kube.Account(ctx); err != nil {
		return in, err
	}
	where := "all namespaces"
	if p.namespace != "" {
		where = "namespace " + p.namespace
	}
	for _, right := range []struct {
		verb string
		r    cluster.Resource
		sub  string
		why  string
	}{
		{"list", pipelineRuns, "", "list PipelineRuns"}, {"get", pipelineRuns, "", "read PipelineRuns"},
		{"create", pipelineRuns, "", "create PipelineRuns, to run a build again"}, {"patch", pipelineRuns, "", "patch PipelineRuns, to cancel a build"},
		{"list", cluster.Pods, "", "list pods, to find logs"}, {"get", cluster.Pods, "log", "read the logs of pods"},
	} {
		ok, err := c.kube.May(ctx, right.verb, right.r, right.sub, p.namespace)
		if err != nil {
			return in, err
		}
		if !ok {
			in.Lacks = append(in.Lacks, fmt.Sprintf("%s may not %s in %s; bind the ClusterRole slipway-tekton to it", in.Account, right.why, where))
		}
	}
	return in, nil
}
