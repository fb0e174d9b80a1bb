package task

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// run is a task over builds, as small as it can be.
func runTask() Task[slipway.Build] {
	return Task[slipway.Build]{
		Name: "run", Text: "A run.", Permission: "run.item.read",
		Statuses: []string{"starting", "running", "succeeded", "failed", "canceled", "skipped", "unknown"},
		Fields: []Field[slipway.Build]{
			{Name: "triggeredBy", Person: true, Of: func(b *slipway.Build) []string {
				if b.TriggeredBy == nil {
					return nil
				}
				return []string{b.TriggeredBy.ID, b.TriggeredBy.Email, b.TriggeredBy.Name}
			}},
			{Name: "pipeline", Of: func(b *slipway.Build) []string { return []string{b.Pipeline.ID, b.Pipeline.Name} }},
			{Name: "branch", Of: func(b *slipway.Build) []string {
				if b.Commit == nil {
					return nil
				}
				return []string{b.Commit.Branch}
			}},
		},
		Row: func(b *slipway.Build) Row {
			r := Row{ID: b.ID, Created: b.CreatedAt, Status: string(b.Status), Finished: b.Status.Finished() || b.FinishedAt != nil}
			if b.UpdatedAt != nil {
				r.Version = b.UpdatedAt.UnixMicro()
			}
			return r
		},
		Adorn: func(b *slipway.Build, p slipway.ProviderRef, person func(*slipway.Person)) {
			b.ID, b.Provider = p.Name+":"+b.ID, p
			if b.TriggeredBy != nil {
				by := *b.TriggeredBy
				person(&by)
				b.TriggeredBy = &by
			}
		},
		List: func(p *provider.Provider) func(context.Context, string, provider.ListOptions) (provider.Page[slipway.Build], error) {
			if p.Builds == nil {
				return nil
			}
			return p.Builds.List
		},
		Get: func(p *provider.Provider) func(context.Context, string, string) (slipway.Build, error) {
			return p.Builds.Get
		},
		Gone: func(b *slipway.Build) {
			now := b.CreatedAt
			b.Status, b.Detail, b.FinishedAt = slipway.BuildUnknown, "gone", &now
		},
		Of: func(d provider.Delivery) *slipway.Build { return d.Build },
		Events: func(c Change[slipway.Build]) []event.Event {
			if c.Before != nil && c.Before.Status == c.Now.Status {
				return nil
			}
			return []event.Event{{
				Type: "run." + string(c.Now.Status), Source: "/slipway/run", Subject: c.EntityRef, Data: fmt.Appendf(nil, `{"id":%q,"entityRef":%q}`, c.Now.ID, c.EntityRef),
			}}
		},
	}
}

func migrations(more ...string) []store.Migrations {
	all := append([]store.Migrations{store.RevisionMigrations, job.Migrations, entity.Migrations, event.Migrations}, Migrations()...)
	for i, table := range append([]string{runTask().Table()}, more...) {
		all = append(all, store.Migrations{Owner: fmt.Sprintf("own%d", i), FS: textFS(table)})
	}
	return all
}

// world is an installation with one engine at work on a database.
type world struct {
	*Engine
	t        testing.TB
	db       *store.DB
	entities *entity.Store
	runs     *Index[slipway.Build]
	clock    *clock
	queries  atomic.Int64
	stop     func()
}

// clock is a clock that goes, and can be put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// open makes a world. Its jobs and events run until the test ends.
func open(t testing.TB, db *store.DB) *world {
	w := prepare(t, db)
	w.start()
	return w
}

func prepare(t testing.TB, db *store.DB) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	keys, err := secret.OpenKeyring(filepath.Join(t.TempDir(), "master.key"), true)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, db: db, clock: &clock{}, stop: func() {}}
	jobs, events := job.New(db, log), event.New(db, log)
	w.entities = entity.New(db, time.Now)
	w.entities.Announce = events.Announce
	for _, s := range []string{"starting", "running", "succeeded", "failed", "canceled", "unknown"} {
		events.Declare("/slipway/run", event.Type{Name: "run." + s, Text: "A run is " + s})
	}
	events.Declare("/slipway/run", runTask().HistoryType())
	w.Engine = NewEngine(Options{DB: db, Jobs: jobs, Events: events, Entities: w.entities, Keys: keys, Now: w.clock.now, Log: log})
	w.read = counting{Querier: db, n: &w.queries}
	w.runs = New(w.Engine, runTask())
	return w
}

func (w *world) start() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{w.Jobs.Run, w.Events.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				w.t.Error(err)
			}
		})
	}
	w.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		w.Wait()
	})
	w.t.Cleanup(func() { w.stop() })
}

// counting counts the queries of reads, and shows them.
type counting struct {
	store.Querier
	n    *atomic.Int64
	seen func(query string, args []any)
}

func (c counting) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	c.n.Add(1)
	if c.seen != nil {
		c.seen(query, args)
	}
	return c.Querier.QueryContext(ctx, query, args...)
}

func (c counting) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	c.n.Add(1)
	return c.Querier.QueryRowContext(ctx, query, args...)
}

// vendors sets fake vendors as the providers of these names.
func (w *world) vendors(names map[string]*fake.Vendor) {
	w.t.Helper()
	var list []Provider
	for name, v := range names {
		list = append(list, Provider{Name: name, Type: "fake", Provider: v.Provider()})
	}
	if err := w.SetProviders(context.Background(), list); err != nil {
		w.t.Fatal(err)
	}
}

// entity puts a component with annotations into the catalog.
func (w *world) entity(name, owner string, annotations map[string]string) slipway.EntityRef {
	return w.put("Component", name, map[string]any{"owner": owner, "type": "service", "lifecycle": "production"}, annotations)
}

func (w *world) put(kind, name string, spec map[string]any, annotations map[string]string) slipway.EntityRef {
	w.t.Helper()
	e := &slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: kind, Spec: spec,
		Metadata: slipway.EntityMetadata{Name: name, Namespace: "default", Annotations: annotations}}
	err := w.db.Write(context.Background(), func(tx *store.Tx) error {
		_, err := w.entities.Put(context.Background(), tx, "test", []*slipway.Entity{e})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return e.Ref()
}

var system = &slipway.Caller{Kind: slipway.CallerSystem, Subject: "system", Grants: []slipway.Grant{{Permission: "*"}}}

func (w *world) search(ref slipway.EntityRef, q Query) Page {
	w.t.Helper()
	p, err := w.runs.Search(context.Background(), system, ref, q, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// ids are the native ids of a page's items.
func ids(p Page) []string {
	var list []string
	for _, b := range builds(p) {
		_, id, _ := strings.Cut(b.ID, ":")
		list = append(list, id)
	}
	return list
}

func builds(p Page) []slipway.Build {
	var list []slipway.Build
	for _, raw := range p.Items {
		var b slipway.Build
		if err := json.Unmarshal(raw, &b); err != nil {
			panic(fmt.Sprintf("%v: %s", err, raw))
		}
		list = append(list, b)
	}
	return list
}

// eventually waits until what is expected has come.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come in 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// await waits until an entity's items are as many, and its sources were all read.
func (w *world) await(ref slipway.EntityRef, n int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d items of %s", n, ref), func() bool {
		p := w.search(ref, Query{Limit: 100})
		return len(p.Items) == n && !slices.ContainsFunc(p.Sources, func(s slipway.Source) bool { return s.AsOf == nil })
	})
}

func each(t *testing.T, test func(t *testing.T, w *world)) {
	storetest.Each(t, migrations(), func(t *testing.T, db *store.DB) { test(t, open(t, db)) })
}
