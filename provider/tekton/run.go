package tekton

import (
	"cmp"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/provider"
)

var pipelineRuns = cluster.Resource{Group: "tekton.dev", Version: "v1", Name: "pipelineruns"}

// What Slipway writes on the PipelineRuns that it makes.
const (
	toolLabel            = "slipway.dev/tool"
	componentLabel       = "slipway.dev/component"
	managedLabel         = "app.kubernetes.io/managed-by"
	callerAnnotation     = "slipway.dev/triggered-by" // an entity ref or the name of a token
	orderedAnnotation    = "slipway.dev/ordered-at"   // to the microsecond; the cluster's own time is to the second
	retriedAnnotation    = "slipway.dev/retrigger-of"
	repositoryAnnotation = "slipway.dev/repository"
	refAnnotation        = "slipway.dev/ref"
	commitAnnotation     = "slipway.dev/commit"
	latestAnnotation     = "slipway.dev/latest-versions"
	deprecatedAnnotation = "slipway.dev/deprecated-versions"
)

// What Pipelines-as-Code writes on the PipelineRuns that it makes (https://pipelinesascode.com/docs/, seen November 2026).
const pac = "pipelinesascode.tekton.dev/"

// run is what is read of a PipelineRun.
type run struct {
	namespace, name, uid, version string
	created, ordered              time.Time
	started, finished             *time.Time
	status                        slipway.BuildStatus
	reason, detail                string
	pipeline                      string
	labels, annotations           map[string]string
	results                       map[string]string
}

func read(o cluster.Object) run {
	r := run{
		namespace: o.Namespace(), name: o.Name(), uid: o.UID(), version: o.ResourceVersion(), created: o.Created(),
		labels: o.Texts("metadata", "labels"), annotations: o.Texts("metadata", "annotations"), results: map[string]string{},
	}
	r.ordered, _ = time.Parse(time.RFC3339Nano, r.annotations[orderedAnnotation])
	condition := ""
	for _, c := range o.List("status", "conditions") {
		if c.Text("type") == "Succeeded" {
			condition, r.reason, r.detail = c.Text("status"), c.Text("reason"), c.Text("message")
		}
	}
	r.status = statusOf(condition, r.reason)
	switch {
	case r.reason == "":
		r.detail = cmp.Or(condition, "Pending")
	case r.status == slipway.BuildFailed && r.detail != "":
		r.detail = r.reason + ": " + provider.Cut(provider.FirstLine(r.detail), 300)
	default:
		r.detail = r.reason
	}
	if at := o.Time("status", "startTime"); !at.IsZero() && r.status != slipway.BuildStarting {
		r.started = &at
	}
	if at := o.Time("status", "completionTime"); !at.IsZero() && (r.status.Finished() || r.status == slipway.BuildUnknown) {
		r.finished = &at
	}
	for _, result := range o.List("status", "results") {
		r.results[result.Text("name")] = strings.TrimSpace(result.Text("value"))
	}
	r.pipeline = cmp.Or(o.Text("spec", "pipelineRef", "name"), r.labels["tekton.dev/pipeline"])
	if r.pipeline == r.name { // Tekton's own label for a pipeline that stands in the run
		r.pipeline = ""
	}
	r.pipeline = cmp.Or(r.pipeline, r.labels[pac+"original-prname"], strings.TrimSuffix(o.Text("metadata", "generateName"), "-"), r.name)
	return r
}

// statusOf is what the condition Succeeded means. A run that is being cancelled, or runs its last tasks, still runs.
//
// Source: https://tekton.dev/docs/pipelines/pipelineruns/#monitoring-execution-status, seen November 2026.
func statusOf(condition, reason string) slipway.BuildStatus {
	switch condition {
	case "":
		return slipway.BuildStarting
	case "True":
		return slipway.BuildSucceeded
	case "False":
		switch reason {
		case "Cancelled", "PipelineRunCancelled", "CancelledRunFinally", "StoppedRunFinally":
			return slipway.BuildCanceled
		}
		return slipway.BuildFailed
	case "Unknown":
		switch reason {
		case "Started", "PipelineRunPending", "ResolvingPipelineRef", "":
			return slipway.BuildStarting
		case "Running", "Cancelled", "CancelledRunningFinally", "StoppedRunningFinally", "PipelineRunStopping", "PipelineRunTimeoutRunningFinally":
			return slipway.BuildRunning
		}
	}
	return slipway.BuildUnknown
}

// build is a run in the words of all vendors.
func (c *client) build(p project, r run) slipway.Build {
	b := slipway.Build{
		ID: p.id(r.namespace, r.name), Pipeline: slipway.Pipeline{ID: r.pipeline, Name: r.pipeline}, Attempt: 1,
		Status: r.status, Detail: r.detail, CreatedAt: r.created, StartedAt: r.started, FinishedAt: r.finished,
		URL: c.link(r), Trigger: trigger(r), TriggeredBy: person(r), Commit: commit(r),
	}
	provider.Derive(&b)
	return b
}

// link leads to the page that the run itself names, to the Dashboard, or to the run in the API.
func (c *client) link(r run) string {
	if u, err := url.Parse(r.annotations[pac+"log-url"]); err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" {
		return u.String()
	}
	if c.cfg.URL != "" {
		return strings.TrimRight(c.cfg.URL, "/") + "/#/namespaces/" + url.PathEscape(r.namespace) + "/pipelineruns/" + url.PathEscape(r.name)
	}
	return c.kube.URL(pipelineRuns, r.namespace, r.name)
}

func trigger(r run) slipway.BuildTrigger {
	switch event := either(r, pac+"event-type"); {
	case r.annotations[retriedAnnotation] != "" || r.labels["dashboard.tekton.dev/rerunOf"] != "":
		return slipway.TriggerRetry
	case r.labels[managedLabel] == "slipway" && strings.HasPrefix(strings.ToLower(r.annotations[callerAnnotation]), "user:"):
		return slipway.TriggerManual
	case r.labels[managedLabel] == "slipway":
		return slipway.TriggerAPI
	case event == "push":
		return slipway.TriggerPush
	case strings.HasPrefix(event, "pull_request"), strings.HasPrefix(event, "Merge"):
		return slipway.TriggerPullRequest
	case event == "incoming":
		return slipway.TriggerAPI
	}
	return slipway.TriggerOther
}

// either reads what Pipelines-as-Code writes as an annotation, and where it fits as a label too.
func either(r run, key string) string { return cmp.Or(r.annotations[key], r.labels[key]) }

func person(r run) *slipway.Person {
	if kind, name, ok := strings.Cut(r.annotations[callerAnnotation], ":"); ok {
		p := &slipway.Person{ID: r.annotations[callerAnnotation], Name: name[strings.LastIndexByte(name, '/')+1:]}
		if kind == "user" {
			p.EntityRef = p.ID
		}
		return p
	}
	if sender := either(r, pac+"sender"); sender != "" {
		return &slipway.Person{ID: sender}
	}
	return nil
}

func commit(r run) *slipway.Commit {
	if sha := cmp.Or(r.annotations[commitAnnotation], r.results["COMMIT"], r.results["commit"]); sha != "" || r.annotations[refAnnotation] != "" {
		if sha == "" {
			return nil // known once the run says it
		}
		return &slipway.Commit{SHA: sha, Branch: r.annotations[refAnnotation]}
	}
	sha := either(r, pac+"sha")
	if sha == "" {
		return nil
	}
	branch := cmp.Or(either(r, pac+"source-branch"), either(r, pac+"branch"))
	return &slipway.Commit{
		SHA: sha, Message: provider.FirstLine(r.annotations[pac+"sha-title"]), Branch: strings.TrimPrefix(strings.TrimPrefix(branch, "refs/heads/"), "refs/tags/"),
		URL: r.annotations[pac+"sha-url"],
	}
}

// ours are what a new run must not inherit: what Slipway wrote of the old one, and what others use to know it by.
var ours = []string{
	orderedAnnotation, callerAnnotation, retriedAnnotation, "kubectl.kubernetes.io/last-applied-configuration",
	"tekton.dev/pipeline", "tekton.dev/pipelineRun", "tekton.dev/pipelineRunUID", "triggers.tekton.dev/triggers-eventid", "triggers.tekton.dev/tekton-events-id",
	pac + "state", pac + "log-url", pac + "check-run-id", pac + "executionOrder", pac + "scm-reporting-plr-started",
	"chains.tekton.dev/signed", "chains.tekton.dev/transparency", "results.tekton.dev/log", "results.tekton.dev/record", "results.tekton.dev/result", "results.tekton.dev/stored",
}

// repeat is a new PipelineRun of the same words as another.
func repeat(o cluster.Object, by slipway.Caller, now time.Time) cluster.Object {
	keep := func(m map[string]string) map[string]any {
		out := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !slices.Contains(ours, k) {
				out[k] = m[k]
			}
		}
		return out
	}
	prefix := cmp.Or(o.Text("metadata", "generateName"), o.Name()+"-r-")
	again := cluster.Object{
		"apiVersion": pipelineRuns.APIVersion(), "kind": "PipelineRun",
		"metadata": map[string]any{
			"generateName": provider.Cut(strings.TrimRight(prefix, "-"), 55) + "-",
			"labels":       keep(o.Texts("metadata", "labels")), "annotations": keep(o.Texts("metadata", "annotations")),
		},
		"spec": o.Clone()["spec"],
	}
	if spec, ok := again["spec"].(map[string]any); ok {
		delete(spec, "status") // how the old one was ended
	}
	again.Set(o.Name(), "metadata", "annotations", retriedAnnotation)
	again.Set(by.Subject, "metadata", "annotations", callerAnnotation)
	again.Set(now.UTC().Format(time.RFC3339Nano), "metadata", "annotations", orderedAnnotation)
	return again
}
