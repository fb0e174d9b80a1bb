package tekton

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/provider"
)

// BuilderConfig makes a provider a builder of tools: each build of a component is a PipelineRun.
type BuilderConfig struct {
	Namespace string            `json:"namespace" doc:"Namespace of the PipelineRuns, such as image-build; {tool} stands for the tool, as in tool-{tool}. Empty: this provider builds no tools"`
	Spec      json.RawMessage   `json:"spec" doc:"What stands in spec of each PipelineRun, in Tekton's words: pipelineRef or pipelineSpec, params, workspaces, taskRunTemplate, taskRunSpecs, timeouts"`
	Params    map[string]string `json:"params" doc:"Parameters of the pipeline, by name: {tool}, {component}, {repository}, {ref}, {commit} and {image} are replaced. Default: SOURCE_URL, SOURCE_REFERENCE, UNRESOLVED_SOURCE_REFERENCE and APP_IMAGE"`
	Image     string            `json:"image" doc:"Image that is made, with {tool} and {component}, such as registry.example.com/tool-{tool}/{component}:latest; what the pipeline's results APP_IMAGE_URL and APP_IMAGE_DIGEST say counts more"`
	Versions  struct {
		Latest     map[string]string `json:"latest" doc:"Parameters of a build with the newest versions of what builds, such as another BUILDER_IMAGE"`
		Deprecated map[string]string `json:"deprecated" doc:"Parameters of a build with versions that are about to go"`
	} `json:"versions" doc:"Parameters that follow use_latest_versions and use_deprecated_versions"`
	Parallel int `json:"parallel" default:"10" doc:"How many builds may run at once; the others wait. A quota of the namespace makes them wait too"`
	PerTool  int `json:"perTool" default:"4" doc:"How many of them of one tool"`
	Keep     int `json:"keep" default:"5" doc:"How many ended builds of a component stay in the cluster; older ones are deleted"`
}

func (b *BuilderConfig) enabled() bool { return b.Namespace != "" }

// namespace is where the builds of a tool are.
func (b *BuilderConfig) namespace(tool string) string {
	return strings.ReplaceAll(b.Namespace, "{tool}", tool)
}

// everywhere is where the builds of all tools are: "" when each has its own namespace.
func (b *BuilderConfig) everywhere() string {
	if strings.Contains(b.Namespace, "{tool}") {
		return ""
	}
	return b.Namespace
}

// spec reads Spec.
func (b *BuilderConfig) spec() (cluster.Object, error) {
	if len(b.Spec) == 0 || string(b.Spec) == "null" {
		return cluster.Object{}, nil
	}
	return cluster.ParseObject(b.Spec)
}

func (b *BuilderConfig) check() []slipway.Detail {
	var faults []slipway.Detail
	fault := func(field, text string) {
		faults = append(faults, slipway.Detail{Field: "builder." + field, Code: slipway.Invalid, Message: text})
	}
	if !b.enabled() {
		return nil
	}
	if n := b.namespace("a"); !provider.NamespaceName(n) {
		fault("namespace", "is no name of a namespace; {tool} may stand in it")
	}
	spec, err := b.spec()
	switch {
	case err != nil:
		fault("spec", "is no object; write what stands in spec of a PipelineRun")
	case spec.At("pipelineRef") == nil && spec.At("pipelineSpec") == nil:
		fault("spec", "names no pipeline; write pipelineRef: {name: …}")
	case spec.At("status") != nil:
		fault("spec", "must not hold status: a PipelineRun that is made with it never runs")
	}
	for name, value := range b.Params {
		for _, m := range placeholder.FindAllString(value, -1) {
			if !slices.Contains([]string{"{tool}", "{component}", "{repository}", "{ref}", "{commit}", "{image}"}, m) {
				fault("params."+name, "has the unknown placeholder "+m)
			}
		}
	}
	for field, n := range map[string]int{"parallel": b.Parallel, "perTool": b.PerTool, "keep": b.Keep} {
		if n < 1 || n > 1000 {
			fault(field, "must be 1 to 1000")
		}
	}
	return faults
}

var placeholder = regexp.MustCompile(`\{[a-z]+\}`)

// standardParams are those of Toolforge's pipeline.
var standardParams = map[string]string{
	"SOURCE_URL": "{repository}", "SOURCE_REFERENCE": "{commit}", "UNRESOLVED_SOURCE_REFERENCE": "{ref}", "APP_IMAGE": "{image}",
}

// builder is the provider as the builder of tools. A build is a PipelineRun that is called as its order's key, which the cluster lets exist once.
func (c *client) builder() *provider.Builder {
	return &provider.Builder{Start: c.order, Get: c.ordered, Cancel: c.cancelOrdered, List: c.listOrdered, Logs: c.logsOfOrdered}
}

func (c *client) order(ctx context.Context, o provider.BuildOrder) (provider.ComponentBuild, error) {
	var none provider.ComponentBuild
	if err := o.Check(); err != nil {
		return none, err
	}
	if strings.Contains(o.Repository+o.Ref, "$(") { // Tekton would replace it
		return none, slipway.Errorf(slipway.Invalid, "$( must stand in no repository and no ref that Tekton is to build")
	}
	if strings.HasPrefix(o.Repository, "file:") {
		return none, slipway.Errorf(slipway.Invalid, "a cluster cannot build %.200q; write an http, https or git address", o.Repository)
	}
	namespace := c.cfg.Builder.namespace(o.Tool)
	if known, err := c.known(ctx, namespace, o); !errors.Is(err, slipway.NotFound) {
		return known, err
	}
	if err := c.room(ctx, o); err != nil {
		return none, err
	}
	wanted, err := c.pipelineRun(o)
	if err != nil {
		return none, err
	}
	made, err := c.kube.Create(ctx, pipelineRuns, namespace, wanted)
	switch {
	case err == nil:
		return c.component(read(made)), nil
	case errors.Is(err, slipway.Conflict): // the same order came at the same moment
		if known, again := c.known(ctx, namespace, o); again == nil {
			return known, nil
		}
	case cluster.OverQuota(err):
		e, _ := errors.AsType[*slipway.Error](err)
		return none, slipway.Errorf(slipway.RateLimited, "%s", e.Message).WithCause(err).After(10 * time.Second)
	}
	return none, err
}

// known finds the build of an order that was given before.
func (c *client) known(ctx context.Context, namespace string, o provider.BuildOrder) (provider.ComponentBuild, error) {
	now, err := c.kube.Get(ctx, pipelineRuns, namespace, o.Key)
	if err != nil {
		return provider.ComponentBuild{}, err
	}
	if now.Label(toolLabel) != o.Tool || now.Label(managedLabel) != "slipway" {
		return provider.ComponentBuild{}, slipway.Errorf(slipway.Invalid, "the cluster has a PipelineRun %q in namespace %q that is no build of this tool", o.Key, namespace)
	}
	return c.component(read(now)), nil
}

// room says RateLimited when as many builds run as may, and deletes ended ones that nobody keeps.
func (c *client) room(ctx context.Context, o provider.BuildOrder) error {
	all, err := c.runs(ctx, c.cfg.Builder.everywhere(), toolLabel+","+managedLabel+"=slipway")
	if err != nil {
		return err
	}
	running, ofTool, ended := 0, 0, 0
	for _, r := range all {
		switch {
		case !r.status.Finished():
			running++
			if r.labels[toolLabel] == o.Tool {
				ofTool++
			}
		case r.labels[toolLabel] == o.Tool && r.labels[componentLabel] == o.Component:
			if ended++; ended > c.cfg.Builder.Keep {
				if err := c.kube.Delete(ctx, pipelineRuns, r.namespace, r.name, r.uid, ""); err != nil && !errors.Is(err, slipway.NotFound) && !errors.Is(err, slipway.Precondition) {
					return err
				}
			}
		}
	}
	switch b := c.cfg.Builder; {
	case ofTool >= b.PerTool:
		return slipway.Errorf(slipway.RateLimited, "%d builds of the tool run, and no more may", ofTool)
	case running >= b.Parallel:
		return slipway.Errorf(slipway.RateLimited, "%d builds run, and no more may", running)
	}
	return nil
}

// pipelineRun writes an order in Tekton's words.
func (c *client) pipelineRun(o provider.BuildOrder) (cluster.Object, error) {
	b := &c.cfg.Builder
	spec, err := b.spec()
	if err != nil {
		return nil, err
	}
	names := strings.NewReplacer("{tool}", o.Tool, "{component}", o.Component)
	image := names.Replace(b.Image)
	values := strings.NewReplacer("{tool}", o.Tool, "{component}", o.Component, "{repository}", o.Repository, "{ref}", o.Ref, "{commit}", cmp.Or(o.Commit, o.Ref), "{image}", image)
	given := b.Params
	if len(given) == 0 {
		given = standardParams
	}
	params := map[string]string{}
	for name, value := range given {
		params[name] = values.Replace(value)
	}
	if o.LatestVersions {
		maps.Copy(params, b.Versions.Latest)
	}
	if o.DeprecatedVersions {
		maps.Copy(params, b.Versions.Deprecated)
	}
	var list []any
	for _, p := range spec.List("params") {
		if _, taken := params[p.Text("name")]; !taken {
			list = append(list, map[string]any(p))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(params)) {
		list = append(list, map[string]any{"name": name, "value": params[name]})
	}
	spec["params"] = list
	annotations := map[string]any{
		orderedAnnotation: c.now().UTC().Format(time.RFC3339Nano), repositoryAnnotation: o.Repository, refAnnotation: o.Ref, commitAnnotation: o.Commit,
		callerAnnotation: o.By.Subject, latestAnnotation: fmt.Sprint(o.LatestVersions), deprecatedAnnotation: fmt.Sprint(o.DeprecatedVersions),
	}
	return cluster.Object{
		"apiVersion": pipelineRuns.APIVersion(), "kind": "PipelineRun",
		"metadata": map[string]any{
			"name": o.Key, "annotations": annotations,
			"labels": map[string]any{toolLabel: o.Tool, componentLabel: o.Component, managedLabel: "slipway"},
		},
		"spec": map[string]any(spec),
	}, nil
}

// component is a run as a builder shows it.
func (c *client) component(r run) provider.ComponentBuild {
	tool := r.labels[toolLabel]
	out := provider.ComponentBuild{
		Build: c.build(project{namespace: r.namespace}, r),
		Order: provider.BuildOrder{
			Tool: tool, Component: r.labels[componentLabel], Repository: r.annotations[repositoryAnnotation], Ref: r.annotations[refAnnotation],
			Commit: r.annotations[commitAnnotation], LatestVersions: r.annotations[latestAnnotation] == "true", DeprecatedVersions: r.annotations[deprecatedAnnotation] == "true",
		},
	}
	if r.status == slipway.BuildSucceeded {
		out.Image = cmp.Or(r.results["APP_IMAGE_URL"], r.results["IMAGE_URL"], strings.NewReplacer("{tool}", tool, "{component}", out.Order.Component).Replace(c.cfg.Builder.Image))
		if digest := cmp.Or(r.results["APP_IMAGE_DIGEST"], r.results["IMAGE_DIGEST"]); digest != "" && out.Image != "" && !strings.Contains(out.Image, "@") {
			out.Image += "@" + digest
		}
	}
	return out
}

// object reads the PipelineRun of a tool's build.
func (c *client) orderedRun(ctx context.Context, tool, id string) (cluster.Object, error) {
	missing := slipway.Errorf(slipway.NotFound, "the tool %.70q has no build %.70q", tool, id)
	if !provider.ToolName(tool) || id == "" {
		return nil, missing
	}
	o, err := c.kube.Get(ctx, pipelineRuns, c.cfg.Builder.namespace(tool), id)
	switch {
	case errors.Is(err, slipway.NotFound), err == nil && o.Label(toolLabel) != tool:
		return nil, missing.WithCause(err)
	case err == nil && o.Deleting():
		return nil, missing
	}
	return o, err
}

func (c *client) ordered(ctx context.Context, tool, id string) (provider.ComponentBuild, error) {
	o, err := c.orderedRun(ctx, tool, id)
	if err != nil {
		return provider.ComponentBuild{}, err
	}
	return c.component(read(o)), nil
}

func (c *client) cancelOrdered(ctx context.Context, tool, id string) error {
	o, err := c.orderedRun(ctx, tool, id)
	if err != nil {
		return err
	}
	return c.end(ctx, o)
}

func (c *client) listOrdered(ctx context.Context, q provider.ComponentQuery) ([]provider.ComponentBuild, error) {
	namespace, selector := c.cfg.Builder.everywhere(), toolLabel
	if q.Tool != "" {
		if !provider.ToolName(q.Tool) {
			return nil, nil
		}
		namespace, selector = c.cfg.Builder.namespace(q.Tool), toolLabel+"="+q.Tool
	}
	if q.Component != "" {
		if !provider.ComponentName(q.Component) {
			return nil, nil
		}
		selector += "," + componentLabel + "=" + q.Component
	}
	runs, err := c.runs(ctx, namespace, selector)
	if err != nil {
		return nil, err
	}
	list := []provider.ComponentBuild{}
	for _, r := range runs {
		if q.Limit > 0 && len(list) == q.Limit {
			break
		}
		if q.Since.IsZero() || !r.created.Before(q.Since) || !r.status.Finished() {
			list = append(list, c.component(r))
		}
	}
	return list, nil
}

func (c *client) logsOfOrdered(ctx context.Context, tool, id string, follow bool) (io.ReadCloser, error) {
	o, err := c.orderedRun(ctx, tool, id)
	if err != nil {
		return nil, err
	}
	return c.logsOf(ctx, o, follow)
}
