// Package build is the blueprint of builds: what ran for the things one owns, whoever ran it, and how to run it again. The index, its
// freshness and its paging are package task's; this package declares the task, adds the actions and has the HTTP paths.
package build

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/task"
)

// The permissions. Each can be narrowed to an entity.
const (
	readPermission      = "build.run.read"
	retriggerPermission = "build.run.retrigger"
	startPermission     = "build.run.start"
	cancelPermission    = "build.run.cancel"
	logsPermission      = "build.run.logs"
	tasksPermission     = "build.task.read"
)

// service answers for builds.
type service struct {
	index  *task.Index[slipway.Build]
	engine *task.Engine
	infos  func() []blueprint.TaskInfo
}

func open(_ context.Context, h *blueprint.Host) (any, error) {
	return &service{index: task.New(h.Tasks, Task), engine: h.Tasks, infos: h.Infos}, nil
}

// item is a build and where it comes from.
type item = task.Item[slipway.Build]

// native is the vendor's id of an indexed build.
func native(it item) string { return strings.TrimPrefix(it.Value.ID, it.Provider.Name+":") }

// builds is the capability of a place, or why there is none.
func builds(p task.Place) (*provider.Builds, error) {
	switch o := p.Provider; {
	case o.Err != nil:
		return nil, slipway.Errorf(slipway.Unavailable, "provider %q is not at work; an operator has to look at its configuration", o.Name).WithCause(o.Err)
	case o.Provider == nil || o.Provider.Builds == nil:
		return nil, slipway.Errorf(slipway.Unsupported, "provider %q was removed; its builds are kept, but nothing can be done with them", o.Name)
	default:
		return o.Provider.Builds, nil
	}
}

// begins is builds for what begins a new one.
func begins(p task.Place) (*provider.Builds, error) {
	if p.Detached && p.Provider.Provider != nil {
		return nil, slipway.Errorf(slipway.Unsupported, "provider %q does not take this project any more; its builds are kept, but no new one can be begun", p.Provider.Name)
	}
	return builds(p)
}

func cannot(p task.Place, what string) error {
	return slipway.Errorf(slipway.Unsupported, "provider %q (%s) cannot %s builds", p.Provider.Name, p.Provider.Type, what)
}

// retrigger runs a build again. A build that neither failed nor was canceled needs force. The index may lag behind the vendor, so before it refuses, the vendor is asked.
func (s *service) retrigger(ctx context.Context, it item, force bool, extra map[string]any, by *slipway.Caller) (*slipway.Build, error) {
	b, err := begins(it.Place)
	if err != nil {
		return nil, err
	}
	if b.Retrigger == nil {
		return nil, cannot(it.Place, "retrigger")
	}
	if status := it.Value.Status; !force && !retriggerable(status) {
		if now, err := b.Get(ctx, it.Project, native(it)); err == nil {
			status = now.Status
		}
		if !retriggerable(status) {
			return nil, slipway.Errorf(slipway.Conflict, "build %s is %s; only one that failed or was canceled is run again, any other with force (--force, or ?force=true)", it.Value.ID, status)
		}
	}
	result, err := b.Retrigger(ctx, it.Project, native(it), extra, *by)
	if err != nil {
		return nil, err
	}
	if result == nil {
		result = s.named(ctx, b, it, by)
	}
	s.acted(ctx, it.Place, result)
	return result, nil
}

// named looks for the build that came of a retrigger where the vendor did not name it: the same one once it is at work again, or a new one of its pipeline and commit that the
// index does not know yet. It gives up after some seconds; then the next look at the project finds it.
func (s *service) named(ctx context.Context, b *provider.Builds, it item, by *slipway.Caller) *slipway.Build {
	const tries, since = 3, time.Minute // a vendor's clock may be behind
	begun := s.engine.Now()
	for range tries {
		if now, err := b.Get(ctx, it.Project, native(it)); err == nil && (now.Attempt > it.Value.Attempt || !now.Status.Finished()) {
			return &now // the same one, at work again
		}
		page, err := b.List(ctx, it.Project, provider.ListOptions{Limit: 10})
		if err != nil {
			return nil
		}
		for _, found := range page.Items {
			if found.ID == native(it) || found.CreatedAt.Before(begun.Add(-since)) || found.Pipeline.ID != it.Value.Pipeline.ID || !sameCommit(found, it.Value) {
				continue
			}
			ref, err := slipway.ParseEntityRef(it.Object.Ref, slipway.EntityRef{})
			if err != nil {
				return nil
			}
			if _, err := s.index.Get(ctx, by, ref, it.Provider.Name+":"+found.ID, nil); errors.Is(err, slipway.NotFound) {
				return &found
			}
		}
		if provider.Wait(ctx, time.Second) != nil {
			return nil
		}
	}
	return nil
}

func sameCommit(a, b slipway.Build) bool {
	return a.Commit == nil || b.Commit == nil || a.Commit.SHA == b.Commit.SHA
}

// cancel has the provider end a build, and gives it as it stands then: it may go on for a moment. nil where the provider does not say.
func (s *service) cancel(ctx context.Context, it item) (*slipway.Build, error) {
	b, err := builds(it.Place)
	if err != nil {
		return nil, err
	}
	if b.Cancel == nil {
		return nil, cannot(it.Place, "cancel")
	}
	if err := b.Cancel(ctx, it.Project, native(it)); err != nil {
		return nil, err
	}
	var result *slipway.Build
	if now, err := b.Get(ctx, it.Project, native(it)); err == nil {
		result = &now
	}
	s.acted(ctx, it.Place, result)
	return result, nil
}

// start begins a build at the one place that the request means.
func (s *service) start(ctx context.Context, o task.Object, places []task.Place, in startBody, by *slipway.Caller) (task.Place, *slipway.Build, error) {
	var able []task.Place
	var unable []string
	var refused error
	for _, p := range places {
		if in.Provider != "" && p.Provider.Name != in.Provider || in.Project != "" && p.Project != in.Project {
			continue
		}
		if p.Access != nil {
			refused = p.Access
			continue
		}
		if b, err := begins(p); err == nil && b.Start != nil {
			able = append(able, p)
		} else {
			unable = append(unable, strconv.Quote(p.Provider.Name))
		}
	}
	switch {
	case len(able) == 0 && len(unable) == 0 && refused != nil:
		return task.Place{}, nil, refused
	case len(able) == 0 && len(unable) > 0:
		return task.Place{}, nil, slipway.Errorf(slipway.Unsupported, "no provider of %s can start builds: %s cannot", o.Ref, strings.Join(slices.Compact(unable), ", "))
	case len(able) == 0 && (in.Provider != "" || in.Project != ""):
		return task.Place{}, nil, slipway.Errorf(slipway.NotFound, "%s has no such provider and project; sources of a search show what it has", o.Ref)
	case len(able) == 0:
		return task.Place{}, nil, slipway.Errorf(slipway.Unsupported, "%s: %s", o.Ref, s.index.Hint(ctx, o))
	case len(able) > 1:
		var names []string
		for _, p := range able {
			names = append(names, p.Provider.Name+" "+p.Project)
		}
		return task.Place{}, nil, slipway.Errorf(slipway.Invalid, "several projects of %s can start builds; name one with provider and project: %s", o.Ref, strings.Join(names, ", "))
	}
	p := able[0]
	result, err := p.Provider.Provider.Builds.Start(ctx, p.Project, provider.StartOptions{Ref: in.Ref, Pipeline: in.Pipeline, Extra: in.Extra}, *by)
	if err != nil {
		return p, nil, err
	}
	s.acted(ctx, p, result)
	return p, result, nil
}

// acted has the index know what was done. It was done: an index that cannot be written now will learn it by its next look.
func (s *service) acted(ctx context.Context, p task.Place, result *slipway.Build) {
	if err := s.index.Acted(context.WithoutCancel(ctx), p, result); err != nil {
		s.engine.Log.WarnContext(ctx, "a build that was begun is not in the index yet", "provider", p.Provider.Name, "project", p.Project, "error", err)
	}
}

// maxFind is how many builds are looked through for the one that a request describes.
const maxFind = 1000

// find gives the one build that a retrigger without an id means.
func (s *service) find(ctx context.Context, by *slipway.Caller, ref slipway.EntityRef, d description, allow func(task.Object) error) (item, error) {
	if d == (description{}) {
		return item{}, slipway.Errorf(slipway.Invalid, "say which build: buildId, or what finds it: provider, commit, branch, pipeline, number, attempt").
			WithDetails(slipway.Detail{Field: "buildId", Code: slipway.Invalid, Message: "is required unless other fields find one build"})
	}
	q := task.Query{Limit: slipway.MaxPageLimit, Filters: map[string][]string{}}
	if d.Branch != "" {
		q.Filters["branch"] = []string{d.Branch}
	}
	if d.Pipeline != "" {
		q.Filters["pipeline"] = []string{d.Pipeline}
	}
	var found []string
	for seen := 0; seen < maxFind; seen += q.Limit {
		page, err := s.index.Search(ctx, by, ref, q, allow)
		if err != nil {
			return item{}, err
		}
		for _, raw := range page.Items {
			var b slipway.Build
			if err := json.Unmarshal(raw, &b); err != nil {
				return item{}, err
			}
			if d.fits(b) {
				found = append(found, b.ID)
			}
		}
		if !page.PageInfo.HasMore || len(found) > 1 {
			break
		}
		q.Cursor = page.PageInfo.NextCursor
	}
	switch len(found) {
	case 0:
		return item{}, slipway.Errorf(slipway.NotFound, "%s has no such build among the newest", ref)
	case 1:
		return s.index.Get(ctx, by, ref, found[0], nil)
	}
	return item{}, slipway.Errorf(slipway.Invalid, "several builds of %s fit, among them %s; say more, or pass buildId", ref, strings.Join(found[:min(len(found), 3)], ", "))
}

// description is what a caller may say of a build instead of its id.
type description struct {
	Provider string `json:"provider"`
	Commit   string `json:"commit"`
	Branch   string `json:"branch"`
	Pipeline string `json:"pipeline"`
	Number   int64  `json:"number"`
	Attempt  int    `json:"attempt"`
}

func (d description) fits(b slipway.Build) bool {
	return (d.Provider == "" || b.Provider.Name == d.Provider) &&
		(d.Commit == "" || b.Commit != nil && len(d.Commit) >= 7 && strings.HasPrefix(b.Commit.SHA, strings.ToLower(d.Commit))) &&
		(d.Number == 0 || b.Number == d.Number) &&
		(d.Attempt == 0 || b.Attempt == d.Attempt)
}
