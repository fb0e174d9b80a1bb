package event_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/event/eventtest"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

var schema = []store.Migrations{store.RevisionMigrations, entity.Migrations, event.Migrations}

var done = event.Type{Name: "test.thing.done.v1", Text: "A thing is done"}

func newBus(db *store.DB) *event.Bus {
	b := event.New(db, slog.New(slog.DiscardHandler))
	b.Declare("/test", done, event.Type{Name: "test.thing.begun.v1", Text: "A thing has begun"})
	return b
}

func publish(t testing.TB, b *event.Bus, db *store.DB, events ...event.Event) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *store.Tx) error { return b.PublishAll(t.Context(), tx, events) })
	if err != nil {
		t.Fatal(err)
	}
}

func thing(subject string) event.Event {
	return event.Event{Source: "/test", Type: done.Name, Subject: subject}
}

// run starts a bus; stop ends it and waits.
func run(t testing.TB, b *event.Bus) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := b.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return stop
}

func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", d, what)
		}
	}
}

// seen collects subjects that a handler got.
type seen struct {
	mu       sync.Mutex
	subjects []string
}

func (s *seen) add(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subjects = append(s.subjects, subject)
}

func (s *seen) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.subjects...)
}

var system = &slipway.Caller{Kind: slipway.CallerSystem, Subject: "system"}

func TestConcurrentPublishersLoseNothingAndKeepTheirOrder(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		const publishers, each = 8, 60
		b := newBus(db)
		got := make(chan event.Event, publishers*each)
		b.Subscribe(event.Subscription{Name: "test.reader", Types: []string{"test.*"}, Handle: func(ctx context.Context, tx *store.Tx, e event.Event) error {
			tx.AfterCommit(func() { got <- e })
			return nil
		}})
		run(t, b)
		registered(t, b, "test.reader")

		var wg sync.WaitGroup
		for p := range publishers {
			wg.Go(func() {
				for i := range each {
					publish(t, b, db, thing(fmt.Sprintf("%d/%03d", p, i)))
				}
			})
		}
		wg.Wait()

		last := map[byte]string{}
		for i := range int64(publishers * each) {
			select {
			case e := <-got:
				if e.Position != i+1 {
					t.Fatalf("event %d has position %d; want no holes", i+1, e.Position)
				}
				if p := e.Subject[0]; e.Subject <= last[p] {
					t.Fatalf("%s came after %s", e.Subject, last[p])
				} else {
					last[p] = e.Subject
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%d of %d events came", i, publishers*each)
			}
		}
	})
}

func registered(t testing.TB, b *event.Bus, name string) {
	t.Helper()
	within(t, 5*time.Second, name+" is registered", func() bool {
		states, err := b.Subscriptions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range states {
			if s.Name == name {
				return true
			}
		}
		return false
	})
}

func TestEventsThatCommitOutOfOrderAreNotLost(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, schema...) // SQLite has one writer: there it cannot happen
	b := newBus(db)
	var s seen
	b.Subscribe(event.Subscription{Name: "test.reader", Handle: func(_ context.Context, _ *store.Tx, e event.Event) error {
		s.add(e.Subject)
		return nil
	}})
	run(t, b)
	registered(t, b, "test.reader")

	began, finish, finished := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		finished <- db.Write(t.Context(), func(tx *store.Tx) error {
			if err := b.Publish(t.Context(), tx, thing("slow")); err != nil {
				return err
			}
			close(began)
			<-finish
			return nil
		})
	}()
	<-began
	publish(t, b, db, thing("fast"))
	within(t, 5*time.Second, "the fast event came", func() bool { return len(s.list()) == 1 })
	close(finish)
	if err := <-finished; err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "the slow event came", func() bool { return len(s.list()) == 2 })
	if diff := cmp.Diff([]string{"fast", "slow"}, s.list()); diff != "" {
		t.Error(diff)
	}
}

func TestTwoReplicasHandleEachEventOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		const n = 200
		var s seen
		var stops []func()
		buses := []*event.Bus{newBus(db), newBus(db)}
		for _, b := range buses {
			b.Subscribe(event.Subscription{Name: "test.reader", Handle: func(_ context.Context, tx *store.Tx, e event.Event) error {
				tx.AfterCommit(func() { s.add(e.Subject) })
				return nil
			}})
			stops = append(stops, run(t, b))
		}
		registered(t, buses[0], "test.reader")
		var want []string
		for i := range n {
			subject := fmt.Sprintf("%03d", i)
			want = append(want, subject)
			publish(t, buses[i%2], db, thing(subject))
			if i == n/2 {
				stops[0]() // a replica goes; the other takes over
			}
		}
		within(t, 15*time.Second, "all events came", func() bool { return len(s.list()) >= n })
		got := s.list()
		slices.Sort(got) // AfterCommit of two replicas may swap neighbours; nothing may come twice
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhatAnotherProcessPublishesArrivesWithoutPolling(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, schema...)
	b, other := newBus(db), newBus(db)
	got := make(chan time.Time, 1)
	b.Subscribe(event.Subscription{Name: "test.reader", Handle: func(_ context.Context, tx *store.Tx, e event.Event) error {
		tx.AfterCommit(func() { got <- time.Now() })
		return nil
	}})
	run(t, b)
	registered(t, b, "test.reader")
	// The fastest of some tries tells: a poll would take a second on average each time.
	best := time.Hour
	for range 5 {
		start := time.Now()
		publish(t, other, db, thing("x"))
		best = min(best, (<-got).Sub(start))
	}
	if best > 500*time.Millisecond {
		t.Errorf("the fastest of 5 events took %v; want it to come by notification", best)
	}
}

func TestAFailingHandlerLeavesNothingBehindAndBlocksOnlyItself(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		var bad, good seen
		b.Subscribe(event.Subscription{Name: "test.bad", Handle: func(ctx context.Context, tx *store.Tx, e event.Event) error {
			if err := b.Publish(ctx, tx, event.Event{Source: "/test", Type: "test.thing.begun.v1", Subject: "from the handler"}); err != nil {
				return err
			}
			if e.Subject == "poison" {
				return errors.New("cannot digest this")
			}
			bad.add(e.Subject)
			return nil
		}, Types: []string{done.Name}})
		b.Subscribe(event.Subscription{Name: "test.good", Types: []string{done.Name}, Handle: func(_ context.Context, _ *store.Tx, e event.Event) error {
			good.add(e.Subject)
			return nil
		}})
		run(t, b)
		registered(t, b, "test.bad")
		publish(t, b, db, thing("poison"), thing("meal"))
		within(t, 5*time.Second, "the other subscription goes on", func() bool { return len(good.list()) == 2 })
		state := func() event.State {
			states, err := b.Subscriptions(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return states[0]
		}
		within(t, 5*time.Second, "the failure is visible", func() bool { return state().Failures > 0 })
		if s := state(); s.Blocked != 1 || s.Error != "cannot digest this" || s.RetryAt == nil || s.Position != 0 {
			t.Errorf("state is %+v; want it blocked at 1 with the reason and the next try", s)
		}
		if got := bad.list(); len(got) > 0 {
			t.Errorf("%v overtook the blocked event", got)
		}
		events, _, err := b.List(t.Context(), system, 0, []string{"test.thing.begun.v1"}, 10)
		if err != nil || len(events) > 0 {
			t.Errorf("the failed handler left %v, %v", events, err)
		}

		if err := b.Skip(t.Context(), "test.bad"); err != nil {
			t.Fatal(err)
		}
		within(t, 8*time.Second, "the subscription goes on after Skip", func() bool { return len(bad.list()) == 1 })
		if s := state(); s.Failures != 0 || s.Error != "" || s.Blocked != 0 {
			t.Errorf("state is %+v; want the fault gone", s)
		}
		if err := b.Skip(t.Context(), "test.bad"); !errors.Is(err, slipway.Conflict) {
			t.Errorf("Skip of what is not blocked: got %v, want a conflict", err)
		}
		if err := b.Skip(t.Context(), "nobody"); !errors.Is(err, slipway.NotFound) {
			t.Errorf("Skip of what is not there: got %v, want not found", err)
		}
	})
}

func TestAnInvalidEventIsPutAside(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		var tries atomic.Int64
		var good seen
		b.Subscribe(event.Subscription{Name: "test.reader", Handle: func(_ context.Context, _ *store.Tx, e event.Event) error {
			if e.Subject == "poison" {
				tries.Add(1)
				return fmt.Errorf("store it: %w", slipway.Errorf(slipway.Invalid, "it holds a zero byte"))
			}
			good.add(e.Subject)
			return nil
		}})
		run(t, b)
		registered(t, b, "test.reader")
		publish(t, b, db, thing("poison"), thing("meal"))
		within(t, 15*time.Second, "the next event is handled", func() bool { return len(good.list()) == 1 })
		within(t, 5*time.Second, "nothing is blocked", func() bool {
			states, err := b.Subscriptions(t.Context())
			return err == nil && states[0].Blocked == 0 && states[0].Failures == 0 && states[0].Behind == 0
		})
		if tries.Load() != 3 || b.PutAside() != 1 {
			t.Errorf("tried %d times, %d put aside; want 3 and 1", tries.Load(), b.PutAside())
		}
	})
}

func TestAFailedEventIsTriedAgainAlsoAfterAPanic(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		var s seen
		tries := 0
		b.Subscribe(event.Subscription{Name: "test.reader", Handle: func(_ context.Context, _ *store.Tx, e event.Event) error {
			if tries++; tries == 1 {
				panic("once")
			}
			s.add(e.Subject)
			return nil
		}})
		run(t, b)
		registered(t, b, "test.reader")
		publish(t, b, db, thing("a"))
		within(t, 10*time.Second, "the second try succeeds", func() bool { return len(s.list()) == 1 })
	})
}

func TestASubscriptionStartsNowOrWithTheBacklog(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		first := newBus(db)
		stop := run(t, first)
		publish(t, first, db, thing("old"))
		within(t, 5*time.Second, "the old event has its place", func() bool {
			events, _, err := first.List(t.Context(), system, 0, nil, 10)
			return err == nil && len(events) == 1
		})
		stop()

		b := newBus(db)
		var all, fresh seen
		collect := func(s *seen) event.Handler {
			return func(_ context.Context, _ *store.Tx, e event.Event) error { s.add(e.Subject); return nil }
		}
		b.Subscribe(
			event.Subscription{Name: "test.all", Backlog: true, Handle: collect(&all)},
			event.Subscription{Name: "test.fresh", Handle: collect(&fresh)})
		run(t, b)
		registered(t, b, "test.fresh")
		publish(t, b, db, thing("new"))
		within(t, 5*time.Second, "both have read", func() bool { return len(all.list()) == 2 && len(fresh.list()) == 1 })
		if diff := cmp.Diff([]string{"old", "new"}, all.list()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"new"}, fresh.list()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhatIsRolledBackIsNoEvent(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		run(t, b)
		boom := errors.New("boom")
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			if err := b.Publish(t.Context(), tx, thing("never")); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatal(err)
		}
		publish(t, b, db, event.Event{Source: "/test", Type: done.Name, Data: json.RawMessage(`{"a": 1}`)})
		var events []event.Event
		within(t, 5*time.Second, "the event has its place", func() bool {
			events, _, err = b.List(t.Context(), system, 0, nil, 10)
			return err == nil && len(events) == 1
		})
		if e := events[0]; e.Position != 1 || e.ID == "" || e.Time.IsZero() || string(e.Data) != `{"a": 1}` {
			t.Errorf("got %+v; want position 1, an id, a time and the data as written", e)
		}
	})
}

func TestPublishRefusesWhatNobodyDeclared(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		for name, e := range map[string]event.Event{
			"unknown type": {Source: "/test", Type: "test.unknown.v1"},
			"no source":    {Type: done.Name},
			"bad data":     {Source: "/test", Type: done.Name, Data: json.RawMessage(`{`)},
		} {
			err := db.Write(t.Context(), func(tx *store.Tx) error { return b.Publish(t.Context(), tx, e) })
			if !errors.Is(err, slipway.Internal) {
				t.Errorf("%s: got %v, want an error", name, err)
			}
		}
	})
}

func TestListShowsEventsOfReadableEntitiesOnly(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		entities := entity.New(db, time.Now)
		entities.Announce = b.Announce
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := entities.Put(t.Context(), tx, "test", []*slipway.Entity{
				{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: "mine"}, Spec: map[string]any{"owner": "team-a"}},
				{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: "theirs"}, Spec: map[string]any{"owner": "team-b"}},
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		publish(t, b, db, thing("of no entity"))
		run(t, b)
		subjects := func(c *slipway.Caller) []string {
			events, _, err := b.List(t.Context(), c, 0, nil, 10)
			if err != nil {
				t.Fatal(err)
			}
			var list []string
			for _, e := range events {
				list = append(list, e.Subject)
			}
			return list
		}
		within(t, 5*time.Second, "three events", func() bool { return len(subjects(system)) == 3 })
		for name, tt := range map[string]struct {
			caller *slipway.Caller
			want   []string
		}{
			"all events":      {&slipway.Caller{Grants: []slipway.Grant{{Permission: "event.*"}}}, []string{"component:default/mine", "component:default/theirs", "of no entity"}},
			"all entities":    {&slipway.Caller{Grants: []slipway.Grant{{Permission: "catalog.entity.read"}}}, []string{"component:default/mine", "component:default/theirs"}},
			"owned entities":  {&slipway.Caller{Owns: []string{"group:default/team-a"}, Grants: []slipway.Grant{{Permission: "catalog.entity.read", Object: ":owned"}}}, []string{"component:default/mine"}},
			"nothing granted": {&slipway.Caller{}, nil},
		} {
			if diff := cmp.Diff(tt.want, subjects(tt.caller)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
		if events, _, err := b.List(t.Context(), system, 0, nil, 10); err != nil || events[0].SpecVersion != "1.0" || events[0].DataContentType != "application/json" || events[2].DataContentType != "" {
			t.Errorf("got %+v, %v; want the attributes that CloudEvents requires", events, err)
		}
		byType, _, err := b.List(t.Context(), system, 0, []string{entity.EventCreated, "nothing.*"}, 1)
		if err != nil || len(byType) != 1 || eventtest.Check(byType[0]) != nil || !strings.Contains(string(byType[0].Data), `"content":{"kind":"component","namespace":"default","name":"mine"}`) {
			t.Errorf("by type: got %+v, %v; want one creation", byType, err)
		}
		if _, _, err := b.List(t.Context(), system, 0, nil, 0); !errors.Is(err, slipway.Invalid) {
			t.Errorf("limit 0: got %v, want invalid", err)
		}
	})
}

// TestOneTypeFromTwoSources has two blueprints send one type of CDEvents: reading those of one says nothing of the others, and what a source has not declared it cannot send.
func TestOneTypeFromTwoSources(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		for _, source := range []string{"left", "right"} {
			b.Declare(event.SourceOf(source), event.Type{Name: event.ServiceDeployed, Text: "It runs", Permission: source + ".thing.read"})
		}
		entities := entity.New(db, time.Now)
		entities.Announce = func(ctx context.Context, tx *store.Tx, changes []entity.Change) error {
			var events []event.Event
			for _, source := range []string{"left", "right"} {
				events = append(events, event.Event{Type: event.ServiceDeployed, Source: event.SourceOf(source), Subject: source, EntityID: changes[0].ID, Time: time.Unix(1e9, 0)})
			}
			return b.PublishAll(ctx, tx, events)
		}
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := entities.Put(t.Context(), tx, "test", []*slipway.Entity{{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: "web"}}})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		run(t, b)
		list := func(b *event.Bus, permissions ...string) (subjects string) {
			c := &slipway.Caller{Grants: []slipway.Grant{{Permission: "catalog.entity.read"}}}
			for _, p := range permissions {
				c.Grants = append(c.Grants, slipway.Grant{Permission: p})
			}
			events, _, err := b.List(t.Context(), c, 0, []string{"dev.cdevents.service.*"}, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if subjects += e.Subject + " "; !e.Time.Equal(time.Unix(1e9, 0)) {
					t.Errorf("it happened at %s", e.Time)
				}
			}
			return strings.TrimSpace(subjects)
		}
		within(t, 5*time.Second, "both events", func() bool { return list(b, "event.event.read") == "left right" })
		for want, permissions := range map[string][]string{"": nil, "left": {"left.thing.read"}, "right": {"right.thing.read"}, "left right": {"left.*", "right.*"}} {
			if got := list(b, permissions...); got != want {
				t.Errorf("with %v: got %q, want %q", permissions, got, want)
			}
		}
		half := event.New(db, slog.New(slog.DiscardHandler)) // the blueprint right is not enabled
		half.Declare(event.SourceOf("left"), event.Type{Name: event.ServiceDeployed, Text: "It runs", Permission: "left.thing.read"})
		if got := list(half, "left.*", "right.*"); got != "left" {
			t.Errorf("of a source that is not known: got %q", got)
		}
		if names := b.Types(); !slices.ContainsFunc(names, func(t event.Type) bool { return t.Name == event.ServiceDeployed && t.Source == "/slipway/right" }) {
			t.Errorf("types: %+v", names)
		}
		err = db.Write(t.Context(), func(tx *store.Tx) error {
			return b.Publish(t.Context(), tx, event.Event{Type: event.ServiceDeployed, Source: "/slipway/other", Subject: "x"})
		})
		if slipway.CodeOf(err) != slipway.Internal || !strings.Contains(err.Error(), `not declared for the source "/slipway/other"`) {
			t.Errorf("a source that declared nothing: %v", err)
		}
		// What happened long ago is kept as long as what happens now.
		if n, err := b.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil || n != 0 {
			t.Errorf("pruned %d, %v", n, err)
		}
	})
}

func TestListAsksForWhatTheTypeAsksFor(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		b.Declare("/test", event.Type{Name: "test.secret.told.v1", Text: "Tells what not every reader of the entity may know", Permission: "test.secret.read"})
		entities := entity.New(db, time.Now)
		ids := map[string]int64{}
		entities.Announce = func(_ context.Context, _ *store.Tx, changes []entity.Change) error {
			for _, c := range changes {
				ids[c.Ref.Name] = c.ID
			}
			return nil
		}
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := entities.Put(t.Context(), tx, "test", []*slipway.Entity{
				{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: "mine"}, Spec: map[string]any{"owner": "team-a"}},
				{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: "theirs"}, Spec: map[string]any{"owner": "team-b"}},
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"mine", "theirs"} {
			publish(t, b, db,
				event.Event{Source: "/test", Type: "test.secret.told.v1", Subject: "secret of " + name, EntityID: ids[name]},
				event.Event{Source: "/test", Type: done.Name, Subject: name, EntityID: ids[name]})
		}
		run(t, b)
		within(t, 5*time.Second, "four events", func() bool {
			events, _, err := b.List(t.Context(), system, 0, nil, 10)
			return err == nil && len(events) == 4
		})
		list := func(b *event.Bus, c *slipway.Caller, types ...string) (subjects []string) {
			events, _, err := b.List(t.Context(), c, 0, types, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				subjects = append(subjects, e.Subject)
			}
			return subjects
		}
		caller := func(grants ...slipway.Grant) *slipway.Caller {
			return &slipway.Caller{Owns: []string{"group:default/team-a"}, Grants: grants}
		}
		all, owned := slipway.Grant{Permission: "catalog.entity.read"}, slipway.Grant{Permission: "catalog.entity.read", Object: ":owned"}
		for name, tt := range map[string]struct {
			caller *slipway.Caller
			want   []string
		}{
			"entities alone":                {caller(all), []string{"mine", "theirs"}},
			"secrets of all":                {caller(all, slipway.Grant{Permission: "test.secret.read"}), []string{"secret of mine", "mine", "secret of theirs", "theirs"}},
			"secrets of what one owns":      {caller(all, slipway.Grant{Permission: "test.secret.*", Object: ":owned"}), []string{"secret of mine", "mine", "theirs"}},
			"secrets of one":                {caller(all, slipway.Grant{Permission: "test.secret.read", Object: "component:default/theirs"}), []string{"mine", "secret of theirs", "theirs"}},
			"secrets without the entity":    {caller(slipway.Grant{Permission: "test.secret.read"}), nil},
			"secrets, owned entities":       {caller(owned, slipway.Grant{Permission: "test.secret.read"}), []string{"secret of mine", "mine"}},
			"all events, without the right": {caller(slipway.Grant{Permission: event.ReadPermission}), []string{"secret of mine", "mine", "secret of theirs", "theirs"}},
		} {
			if diff := cmp.Diff(tt.want, list(b, tt.caller)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
		if got := list(b, caller(all), "test.secret.*"); len(got) > 0 {
			t.Errorf("by type: got %v, want none", got)
		}
		// What was declared once, by a blueprint that is not enabled any more, is not shown on the right to read entities alone.
		if diff := cmp.Diff([]string{"mine", "theirs"}, list(newBus(db), caller(all, slipway.Grant{Permission: "test.secret.read"}))); diff != "" {
			t.Errorf("a bus that does not know the type: %s", diff)
		}
	})
}

func TestPruneKeepsWhatIsYoungOrNotHandledYet(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		var ago atomic.Int64
		b.Now = func() time.Time { return time.Now().Add(-time.Duration(ago.Load())) }
		b.Subscribe(event.Subscription{Name: "test.stuck", Types: []string{done.Name}, Backlog: true, Handle: func(_ context.Context, _ *store.Tx, e event.Event) error {
			if e.Subject == "poison" {
				return errors.New("no")
			}
			return nil
		}})
		run(t, b)
		registered(t, b, "test.stuck")
		ago.Store(int64(time.Hour)) // published then; what happened when does not matter
		publish(t, b, db, append(slices.Repeat([]event.Event{thing("old")}, 450), thing("poison"))...)
		ago.Store(0)
		publish(t, b, db, thing("young"))
		within(t, 10*time.Second, "it is stuck", func() bool {
			s, err := b.Subscriptions(t.Context())
			return err == nil && len(s) == 1 && s[0].Blocked == 451
		})
		n, err := b.Prune(t.Context(), time.Now().Add(-time.Minute))
		if err != nil || n != 450 {
			t.Errorf("pruned %d, %v; want 450", n, err)
		}
		left, _, err := b.List(t.Context(), system, 0, nil, 10)
		if err != nil || len(left) != 2 || left[0].Subject != "poison" {
			t.Errorf("left %v, %v; want the blocked event and the young one", left, err)
		}
	})
}

func TestABusGoesOnAfterTheDatabaseWasAway(t *testing.T) {
	t.Parallel()
	pg := storetest.Server(t)
	db, err := store.Open("main", pg.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.MigrateUp(t.Context(), schema...); err != nil {
		t.Fatal(err)
	}
	b := newBus(db)
	var s seen
	b.Subscribe(event.Subscription{Name: "test.reader", Handle: func(_ context.Context, _ *store.Tx, e event.Event) error {
		s.add(e.Subject)
		return nil
	}})
	run(t, b)
	registered(t, b, "test.reader")
	publish(t, b, db, thing("before"))
	within(t, 5*time.Second, "the first event came", func() bool { return len(s.list()) == 1 })
	pg.Stop(t)
	err = db.Write(t.Context(), func(tx *store.Tx) error { return b.Publish(t.Context(), tx, thing("never")) })
	if !errors.Is(err, slipway.Unavailable) {
		t.Errorf("without a database: got %v, want unavailable", err)
	}
	pg.Start(t)
	within(t, 10*time.Second, "publishing works again", func() bool {
		return db.Write(t.Context(), func(tx *store.Tx) error { return b.Publish(t.Context(), tx, thing("after")) }) == nil
	})
	within(t, 10*time.Second, "the second event came", func() bool { return slices.Contains(s.list(), "after") })
}

func TestSchemaGoesDownAndUp(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, event.Migrations)
}

func TestOneListLooksAtABoundedStretch(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		db.OnWrite = nil // filled in one go
		fill := `INSERT INTO event (position, uid, source, type, subject, time, entity_id)
			SELECT n, 'uid-' || n, '/test', 'test.many.v1', '', 0, 0 FROM `
		if db.Engine() == store.Postgres {
			fill += `generate_series(1001, 21000) AS x(n)`
		} else {
			fill += `(WITH RECURSIVE c(n) AS (SELECT 1001 UNION ALL SELECT n + 1 FROM c WHERE n < 21000) SELECT n FROM c) AS x`
		}
		if err := db.Write(t.Context(), func(tx *store.Tx) error { _, err := tx.ExecContext(t.Context(), fill); return err }); err != nil {
			t.Fatal(err)
		}
		b := event.New(db, slog.New(slog.DiscardHandler))
		nobody := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane"}
		calls := 0
		for after := int64(0); ; calls++ {
			events, next, err := b.List(t.Context(), nobody, after, nil, 10)
			if err != nil || len(events) > 0 {
				t.Fatalf("got %d events, %v", len(events), err)
			}
			if next == 0 {
				break
			}
			if next <= after || next-max(after, 1000) > 5000 {
				t.Fatalf("after %d it looked on to %d", after, next)
			}
			after = next
		}
		if calls < 3 {
			t.Errorf("20,000 events were looked at in %d calls", calls+1)
		}
	})
}

func TestManyEventsAreWorkedAheadAndTheOthersOneByOne(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		var mu sync.Mutex
		var ahead, handled []string
		b.Subscribe(event.Subscription{
			Name: "test.ahead", Types: []string{done.Name}, Backlog: true,
			Ahead: func(_ context.Context, events []event.Event) ([]bool, error) {
				mu.Lock()
				defer mu.Unlock()
				if ahead == nil {
					ahead = []string{}
					return nil, errors.New("the first time it fails")
				}
				done := make([]bool, len(events))
				for i, e := range events {
					if done[i] = e.Subject != "alone"; done[i] {
						ahead = append(ahead, e.Subject)
					}
				}
				return done, nil
			},
			Handle: func(_ context.Context, _ *store.Tx, e event.Event) error {
				mu.Lock()
				defer mu.Unlock()
				handled = append(handled, e.Subject)
				return nil
			},
		})
		publish(t, b, db, thing("a"), thing("alone"), thing("b"))
		stop := run(t, b)
		defer stop()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			mu.Lock()
			all := slices.Contains(ahead, "b") && len(handled) > 0
			mu.Unlock()
			if all {
				break
			} else if time.Now().After(end) {
				t.Fatalf("ahead %q, handled %q", ahead, handled)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]string{"a", "b"}, slices.Compact(slices.Sorted(slices.Values(ahead)))); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"alone"}, handled); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWaitingEventsShareTransactionsAndOneThatFailsStopsOnlyWhatComesAfterIt(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		b := newBus(db)
		var writes atomic.Int64
		db.OnWrite = func(time.Duration, int64) { writes.Add(1) }
		var mended atomic.Bool
		var s seen
		b.Subscribe(event.Subscription{Name: "test.reader", Types: []string{done.Name}, Backlog: true, Handle: func(ctx context.Context, tx *store.Tx, e event.Event) error {
			// What the handler writes is there once for each event, however often it ran.
			if err := b.Publish(ctx, tx, event.Event{Source: "/test", Type: "test.thing.begun.v1", Subject: e.Subject}); err != nil {
				return err
			}
			if e.Subject == "137" && !mended.Load() {
				return errors.New("cannot digest this")
			}
			tx.AfterCommit(func() { s.add(e.Subject) })
			return nil
		}})
		var events []event.Event
		var want []string
		for i := range 300 {
			want = append(want, fmt.Sprintf("%03d", i))
			events = append(events, thing(want[i]))
		}
		publish(t, b, db, events...)
		writes.Store(0)
		run(t, b)
		within(t, time.Minute, "it is stuck at the one that fails", func() bool {
			states, err := b.Subscriptions(t.Context())
			return err == nil && len(states) == 1 && states[0].Blocked == 138 && states[0].Failures > 0
		})
		if diff := cmp.Diff(want[:137], s.list()); diff != "" {
			t.Errorf("all before it, none after it: %s", diff)
		}
		if n := writes.Load(); n > 100 {
			t.Errorf("137 events took %d transactions", n)
		}
		mended.Store(true)
		within(t, time.Minute, "the rest is handled", func() bool { return len(s.list()) == 300 })
		if diff := cmp.Diff(want, s.list()); diff != "" {
			t.Error(diff)
		}
		var effects []string
		within(t, time.Minute, "what handlers wrote is in order", func() bool {
			effects = nil
			for after := int64(0); ; {
				list, next, err := b.List(t.Context(), system, after, []string{"test.thing.begun.v1"}, 100)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range list {
					effects = append(effects, e.Subject)
				}
				if after = next; next == 0 {
					return len(effects) >= 300
				}
			}
		})
		if diff := cmp.Diff(want, effects); diff != "" {
			t.Error(diff)
		}
	})
}
