package local

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

//go:embed README.md
var readme string

// Blueprint is Slipway's own small CI. Its builds are shown by the blueprint build, as those of any other provider.
var Blueprint = blueprint.Blueprint{
	Name:      "local",
	Version:   "0.1.0",
	Summary:   "A small CI of its own: clones a git repository and runs the operator's command, with limits and a log.",
	Stability: blueprint.Experimental,
	Databases: []blueprint.Database{{
		Name: "main", Migrations: Migrations.FS, Tables: []string{"local_build", "local_log", "local_number", "local_watch"},
	}},
	Jobs: []blueprint.Job{
		blueprint.Work((*service).pruneOld, job.Worker{Text: "Deletes builds that ended long ago, with their logs", Timeout: 10 * time.Minute}),
	},
	Schedules: []job.Schedule{{Name: "local.prune", Text: "Deletes builds that ended long ago, with their logs", Every: time.Hour, Args: pruneArgs{}}},
	Providers: []blueprint.Provider{blueprint.Provide(Kind, (*service).openProvider)},
	Pages:     []blueprint.Page{{Slug: "operators", Title: "The local provider", Text: readme}},
	Open:      open,
}

func open(_ context.Context, h *blueprint.Host) (any, error) {
	s := newService(h.DB("main"), h.Now)
	s.fetch, s.redact, s.log, s.dataDir, s.url = h.Fetch, h.Redact, h.Log, h.DataDir, h.URL
	s.keep = h.Retention.Builds.Std()
	s.observe = func(ctx context.Context, tx *store.Tx, provider, project string, builds ...slipway.Build) error {
		return task.Observe(ctx, h.Tasks, tx, provider, project, builds...)
	}
	s.annotated = func(ctx context.Context, value string, f func(*slipway.Entity)) error {
		return annotated(ctx, h.Entities, value, f)
	}
	h.Go("builds", s.work)
	h.Go("watched branches", s.watch)
	return s, nil
}

func newService(db *store.DB, now func() time.Time) *service {
	return &service{
		db: db, now: now,
		replica: uuid.NewString(), lease: leaseTime, grace: stopGrace, resolveWithin: 5 * time.Second, maxWaiting: 1000,
		woken: make(chan struct{}, 1), opened: map[string]*ci{}, busy: map[string]int{}, running: map[string]context.CancelCauseFunc{},
	}
}

// annotated reads the entities with the annotation page by page.
func annotated(ctx context.Context, entities *entity.Store, value string, f func(*slipway.Entity)) error {
	condition := entity.Condition{Key: "metadata.annotations." + Annotation}
	if value != "" {
		condition.Values = []string{value, value + "/"}
	}
	q := entity.Query{Filters: [][]entity.Condition{{condition}}, Limit: 500}
	for {
		rows, next, err := entities.List(ctx, auth.System(), q)
		if err != nil {
			return err
		}
		for _, r := range rows {
			var e slipway.Entity
			if err := json.Unmarshal(r.JSON, &e); err != nil {
				return fmt.Errorf("entity %s: %w", r.Ref, err)
			}
			f(&e)
		}
		if next == nil {
			return nil
		}
		q.After = next
	}
}

type pruneArgs struct{}

func (pruneArgs) Kind() string { return "local.prune" }

func (s *service) pruneOld(ctx context.Context, _ pruneArgs) error { return s.prune(ctx) }
