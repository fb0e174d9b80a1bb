package dora

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

// What providers know of deployments, and of builds that a rule counts as such, is in the indexes of the platform tasks. It comes here by events, at once: those of single items, and those that tell
// of history, which has none of its own. What was missed comes by a look through the indexes.

// itemEvents tell of it: those of the tasks deployment and build.
var itemEvents = []string{event.DeploymentQueued, event.DeploymentStarted, event.DeploymentFinished, event.PipelineRunFinished}

var (
	deploymentHistory = task.HistoryEvent(deploymentTask)
	buildHistory      = task.HistoryEvent(buildTask)
)

const (
	deploymentTask = "deployment"
	buildTask      = "build"
)

// itemJob takes one item of a task's index over.
type itemJob struct {
	Task   string `json:"task"`
	Source int64  `json:"source"`
	ID     string `json:"id"` // the vendor's
}

func (itemJob) Kind() string { return "dora.item" }

// hearItem asks for what an event tells of to be taken over. An event is sent to each entity; what is asked for twice is taken over once.
func (s *service) hearItem(ctx context.Context, tx *store.Tx, e event.Event) error {
	var told struct {
		Subject struct {
			ID      string `json:"id"`
			Content struct {
				Pipeline string `json:"pipelineName"`
			} `json:"content"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(e.Data, &told); err != nil || e.Origin == 0 || s.lake != nil {
		return nil // it is not what we know
	}
	j := itemJob{Task: deploymentTask, Source: e.Origin, ID: told.Subject.ID}
	if e.Type == event.PipelineRunFinished {
		j.Task = buildTask
		if !slices.ContainsFunc(s.builds, func(r buildRule) bool { return r.pipeline.MatchString(told.Subject.Content.Pipeline) }) {
			return nil
		}
	}
	_, j.ID, _ = strings.Cut(j.ID, ":") // without the provider
	_, _, err := s.jobs.Insert(ctx, tx, j, job.Insert{Unique: fmt.Sprint(j.Task, " ", j.Source, " ", j.ID)})
	return err
}

func (s *service) takeItem(ctx context.Context, j itemJob) error {
	if !s.takes(j.Task) {
		return nil
	}
	items, err := readItem(ctx, s.db, j.Task, j.Source, j.ID)
	if err != nil {
		return err
	}
	return s.takeItems(ctx, j.Task, items)
}

// takeItems reports what items of an index say.
func (s *service) takeItems(ctx context.Context, task string, items []indexed) error {
	var records []record
	for _, it := range items {
		d, ok, err := s.deploymentOf(task, it.doc)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		for i, service := range it.services {
			d.Service, d.Source = service, it.provider
			if i > 0 { // a project of several entities: each has its own
				d.Source += "@" + service
			}
			r := *s.deployment(d)
			r.known, r.origin = task == deploymentTask, it.key.source // deployments are told of by their own task, builds only as builds
			records = append(records, r)
		}
	}
	_, err := s.report(ctx, records)
	return err
}

// indexed is an item of a task's index, with the services of the entities that it belongs to.
type indexed struct {
	key      itemKey
	provider string
	doc      []byte
	services []string
}

type itemKey struct {
	created, source int64
	id              string
}

// deploymentOf reads a deployment out of an item; false where it is none, or nothing can be told of it.
func (s *service) deploymentOf(task string, doc []byte) (Deployment, bool, error) {
	if task == buildTask {
		var b slipway.Build
		if err := json.Unmarshal(doc, &b); err != nil {
			return Deployment{}, false, err
		}
		branch := ""
		if b.Commit != nil {
			branch = b.Commit.Branch
		}
		env, ok := s.builds.environment(b.Pipeline.Name, branch)
		if !ok || !b.Status.Finished() || b.Status == slipway.BuildSkipped {
			return Deployment{}, false, nil
		}
		return itemDeployment(slipway.Deployment{
			ID: b.ID, Environment: env, Version: branch, Status: slipway.DeploymentStatus(b.Status), Detail: b.Detail, CreatedAt: b.CreatedAt, StartedAt: b.StartedAt, FinishedAt: b.FinishedAt, UpdatedAt: b.UpdatedAt,
			URL: b.URL, TriggeredBy: b.TriggeredBy, Commit: b.Commit,
		}, true)
	}
	var d slipway.Deployment
	if err := json.Unmarshal(doc, &d); err != nil {
		return Deployment{}, false, err
	}
	return itemDeployment(d, d.Status != slipway.DeploymentUnknown)
}

func itemDeployment(d slipway.Deployment, ok bool) (Deployment, bool, error) {
	out := Deployment{
		ID: d.ID, Environment: clipBytes(cmp.Or(d.Environment, "none"), maxName), StartTime: *cmp.Or(d.StartedAt, &d.CreatedAt), URL: clipBytes(d.URL, maxText), Detail: clipBytes(d.Detail, maxText), UpdatedAt: d.UpdatedAt,
		Status: map[slipway.DeploymentStatus]string{slipway.DeploymentSucceeded: statusSuccess, slipway.DeploymentFailed: statusFailure, slipway.DeploymentCanceled: statusCancelled}[d.Status],
	}
	if out.Status == "" {
		out.Status = statusInProgress
	} else {
		end := *cmp.Or(d.FinishedAt, d.UpdatedAt, &out.StartTime)
		out.EndTime = &end
	}
	if d.Version != "" {
		out.Version = ptr(clipBytes(d.Version, maxName))
	}
	if p := d.TriggeredBy; p != nil {
		out.TriggeredBy = ptr(clipBytes(cmp.Or(p.Name, p.ID, p.Email), maxText))
	}
	if c := d.Commit; c != nil && c.SHA != "" {
		out.Commit = &Commit{SHA: clipBytes(c.SHA, 100), Message: clipBytes(c.Message, maxText), Author: clipBytes(c.Author, maxID)}
		// What is deployed again under the name of a branch is another version.
		if c.Branch == d.Version || d.Version == "" {
			out.Version = ptr(out.Commit.SHA[:min(7, len(out.Commit.SHA))])
		}
	}
	return out, ok && len(d.ID) <= maxID && !out.StartTime.Before(earliest), nil
}

func clipBytes(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// historyJob takes over what a source had before it was known here, or before it was known to be of one more entity.
type historyJob struct {
	Task   string `json:"task"`
	Source int64  `json:"source"`
	From   int64  `json:"from"`  // when the first of the items was created, in microseconds
	Until  int64  `json:"until"` // and the last
}

func (historyJob) Kind() string { return "dora.history" }

// hearHistory asks for items to be taken over of which no event of their own tells.
func (s *service) hearHistory(ctx context.Context, tx *store.Tx, e event.Event) error {
	j := historyJob{Task: deploymentTask, Source: e.Origin, Until: math.MaxInt64}
	if e.Type == buildHistory {
		j.Task = buildTask
	}
	var told task.ToldStretch
	if err := json.Unmarshal(e.Data, &told); err != nil || e.Origin == 0 || !s.takes(j.Task) {
		return nil // it is not what we know, or want
	}
	h := told.Subject.Content
	if h.From != nil && h.Until != nil {
		j.From, j.Until = micro(*h.From), micro(*h.Until)
	}
	_, _, err := s.jobs.Insert(ctx, tx, j, job.Insert{Unique: fmt.Sprint(j.Task, " ", j.Source, " ", j.From, " ", j.Until)})
	return err
}

func (s *service) takeHistory(ctx context.Context, j historyJob) error {
	if !s.takes(j.Task) {
		return nil
	}
	return s.takeStretch(ctx, stretch{task: j.Task, source: j.Source, after: itemKey{created: j.From}, until: j.Until})
}

// takes says whether items of a task are taken over.
func (s *service) takes(task string) bool {
	return s.lake == nil && (task == deploymentTask || task == buildTask && len(s.builds) > 0)
}

// collectJob looks through the indexes.
type collectJob struct{}

func (collectJob) Kind() string { return "dora.collect" }

// collectBack is how far back builds are looked through: where nothing is missed, all of them have come by events.
const collectBack = 8 * 24 * time.Hour

func (s *service) collect(ctx context.Context, _ collectJob) error {
	for _, info := range s.infos() {
		if !s.takes(info.Name) {
			continue
		}
		all := stretch{task: info.Name, until: math.MaxInt64}
		if info.Name == buildTask {
			all.after.created = micro(s.now().Add(-collectBack))
		}
		if err := s.takeStretch(ctx, all); err != nil {
			return err
		}
	}
	return nil
}

// stretch is a part of the index of a task, by creation.
type stretch struct {
	task   string
	source int64   // 0: all
	after  itemKey // it begins behind this place
	until  int64   // and ends with what was created then, in microseconds
}

// takeStretch takes over what lies in a part of an index.
func (s *service) takeStretch(ctx context.Context, part stretch) error {
	const atOnce = 200
	for {
		items, err := readItems(ctx, s.db, part, atOnce)
		if err != nil || len(items) == 0 {
			return err
		}
		part.after = items[len(items)-1].key
		if err := s.takeItems(ctx, part.task, items); err != nil {
			return err
		}
	}
}
