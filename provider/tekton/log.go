package tekton

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/provider"
)

const (
	runOfPod = "tekton.dev/pipelineRun" // label of the pods of a run
	taskPod  = "tekton.dev/pipelineTask"
	logSteps = 500 // steps of one run whose logs are read
)

// logs reads what the steps of a run printed, one after the other, in the order in which they began. It is what the cluster still has: pods that are gone
// took their logs with them.
func (c *client) logs(ctx context.Context, text, id string, follow bool) (io.ReadCloser, error) {
	_, o, err := c.object(ctx, text, id)
	if err != nil {
		return nil, err
	}
	return c.logsOf(ctx, o, follow)
}

func (c *client) logsOf(ctx context.Context, o cluster.Object, follow bool) (io.ReadCloser, error) {
	if !follow { // what fails at once is told at once
		if _, err := c.steps(ctx, o.Namespace(), o.Name()); err != nil {
			return nil, err
		}
	}
	return provider.Pipe(ctx, func(ctx context.Context, w io.Writer) error {
		l := log{client: c, namespace: o.Namespace(), run: o.Name(), done: map[string]bool{}, w: w}
		for {
			now, err := c.kube.Get(ctx, pipelineRuns, o.Namespace(), o.Name())
			if errors.Is(err, slipway.NotFound) {
				return nil // pruned while it was read
			}
			if err != nil {
				return err
			}
			ended := read(now).status.Finished() // before the steps are listed, so that none is missed
			if err := l.copy(ctx, follow && !ended); err != nil || !follow || ended {
				return err
			}
			if err := provider.Wait(ctx, c.pace); err != nil {
				return err
			}
		}
	}), nil
}

// log is one reading of a run's log.
type log struct {
	*client
	namespace, run string
	done           map[string]bool // steps that have been read, by pod and container
	w              io.Writer
	begun          bool
}

// copy reads the steps that have not been read yet. A followed step is read to its end.
func (l *log) copy(ctx context.Context, follow bool) error {
	steps, err := l.steps(ctx, l.namespace, l.run)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if l.done[s.pod+"/"+s.container] || !s.begun || len(l.done) >= logSteps {
			continue
		}
		body, err := l.kube.Logs(ctx, l.namespace, s.pod, cluster.LogOptions{Container: s.container, Follow: follow && !s.ended})
		if code := slipway.CodeOf(err); code == slipway.Conflict || code == slipway.NotFound {
			continue // not begun after all, or gone since it was listed
		}
		if err != nil {
			return err
		}
		l.done[s.pod+"/"+s.container] = true
		head := &heading{w: l.w}
		if l.begun { // the first step needs none
			head.text = fmt.Sprintf("\n[%s: %s]\n", s.task, strings.TrimPrefix(s.container, "step-"))
		}
		_, err = io.Copy(head, body)
		_ = body.Close()
		l.begun = l.begun || head.written
		if err != nil {
			return err
		}
	}
	return nil
}

// heading writes a line before the first text, if any comes.
type heading struct {
	w       io.Writer
	text    string
	written bool
}

func (h *heading) Write(p []byte) (int, error) {
	if !h.written && len(p) > 0 {
		h.written = true
		if _, err := io.WriteString(h.w, h.text); err != nil {
			return 0, err
		}
	}
	return h.w.Write(p)
}

// step is a container that is a step of a run.
type step struct {
	task, pod, container string
	begun, ended         bool
}

// steps lists the steps of a run in the order in which their pods came to be.
func (c *client) steps(ctx context.Context, namespace, run string) ([]step, error) {
	if !provider.NamespaceName(run) { // Tekton shortens what is no label; such a run's pods cannot be told
		return nil, nil
	}
	page, err := c.kube.List(ctx, cluster.Pods, namespace, cluster.ListOptions{Labels: runOfPod + "=" + run, Limit: logSteps})
	if err != nil {
		return nil, err
	}
	var all []step
	slices.SortStableFunc(page.Items, func(a, b cluster.Object) int { return a.Created().Compare(b.Created()) })
	for _, pod := range page.Items {
		states := map[string]cluster.Object{}
		for _, s := range pod.List("status", "containerStatuses") {
			states[s.Text("name")] = s
		}
		for _, container := range pod.List("spec", "containers") {
			name := container.Text("name")
			if !strings.HasPrefix(name, "step-") { // a sidecar
				continue
			}
			s := step{task: pod.Label(taskPod), pod: pod.Name(), container: name}
			state := states[name]
			s.ended = state.At("state", "terminated") != nil
			s.begun = s.ended || state.At("state", "running") != nil
			all = append(all, s)
		}
	}
	return all, nil
}
