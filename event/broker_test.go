package event_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// natsServer is a real NATS server in this process, which can go and come again at its address with what it has kept.
type natsServer struct {
	t    *testing.T
	dir  string
	port int
	*server.Server
}

func startNATS(t *testing.T) *natsServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &natsServer{t: t, dir: t.TempDir(), port: l.Addr().(*net.TCPAddr).Port}
	_ = l.Close()
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *natsServer) start() {
	n.t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: n.port, JetStream: true, StoreDir: n.dir, NoLog: true, NoSigs: true})
	if err != nil {
		n.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		n.t.Fatal("the NATS server does not come up")
	}
	n.Server = s
}

func (n *natsServer) stop() { n.Shutdown(); n.WaitForShutdown() }

// kept gives the subjects and bodies of all that the stream has, in its order.
func (n *natsServer) kept(stream string) (subjects []string, events []event.Event) {
	n.t.Helper()
	conn, err := nats.Connect(n.ClientURL())
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		n.t.Fatal(err)
	}
	s, err := js.Stream(n.t.Context(), stream)
	if err != nil {
		return nil, nil
	}
	info, err := s.Info(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for i := info.State.FirstSeq; i <= info.State.LastSeq && info.State.Msgs > 0; i++ {
		m, err := s.GetMsg(n.t.Context(), i)
		if err != nil {
			n.t.Fatal(err)
		}
		var e event.Event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			n.t.Fatal(err)
		}
		if m.Header.Get("Nats-Msg-Id") != e.ID || m.Header.Get("content-type") != "application/cloudevents+json; charset=utf-8" {
			n.t.Errorf("headers %v of event %s", m.Header, e.ID)
		}
		subjects, events = append(subjects, m.Subject), append(events, e)
	}
	return subjects, events
}

func (n *natsServer) broker() *event.Broker {
	c := event.DefaultBroker()
	c.URL = n.ClientURL()
	return event.NewBroker(c, slog.New(slog.DiscardHandler))
}

func subjectsOf(events []event.Event) (all []string) {
	for _, e := range events {
		all = append(all, e.Subject)
	}
	return all
}

func TestABrokerThatIsAwayForAnHourGetsEverythingInOrder(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		n := startNATS(t)
		var ahead atomic.Int64
		var buses []*event.Bus
		for range 2 { // two replicas
			b, k := newBus(db), n.broker()
			b.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			b.Forward(k.Forward())
			t.Cleanup(func() { _ = k.Close() })
			run(t, b)
			buses = append(buses, b)
		}
		registered(t, buses[0], "slipway.broker")
		var want []string
		send := func(count int) {
			var events []event.Event
			for range count {
				name := fmt.Sprint("thing-", len(want))
				want = append(want, name)
				events = append(events, thing(name))
			}
			publish(t, buses[0], db, events...)
		}
		arrived := func(what string) {
			t.Helper()
			within(t, time.Minute, what, func() bool { _, got := n.kept("SLIPWAY"); return len(got) >= len(want) })
			subjects, got := n.kept("SLIPWAY")
			if !slices.Equal(subjectsOf(got), want) {
				t.Fatalf("%s: the stream has %v, want %v", what, subjectsOf(got), want)
			}
			if subjects[0] != "slipway."+done.Name {
				t.Errorf("under %s", subjects[0])
			}
		}
		send(150)
		arrived("150 events arrive")
		n.stop()
		send(120)
		within(t, time.Minute, "the broker is missed", func() bool {
			states, err := buses[0].Subscriptions(t.Context())
			return err == nil && len(states) == 1 && states[0].Failures > 0
		})
		for range 60 {
			ahead.Add(int64(time.Minute))
			send(1)
		}
		if _, err := buses[0].Prune(t.Context(), time.Now().Add(24*time.Hour)); err != nil { // nothing that waits is ever deleted
			t.Fatal(err)
		}
		n.start()
		ahead.Add(int64(time.Minute))
		arrived("all arrive after an hour")
	})
}

func TestWhatArrivedAndWasNotNotedIsKnownAgain(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		n := startNATS(t)
		b, k := newBus(db), n.broker()
		t.Cleanup(func() { _ = k.Close() })
		var sends atomic.Int64
		f := k.Forward()
		f.Send = func(ctx context.Context, events []event.Event) (int, error) {
			arrived, err := k.Send(ctx, events)
			if err == nil && sends.Add(1) == 1 {
				return 0, errors.New("died before it was noted")
			}
			return arrived, err
		}
		b.Forward(f)
		run(t, b)
		registered(t, b, "slipway.broker")
		publish(t, b, db, thing("one"), thing("two"), thing("three"))
		within(t, time.Minute, "it is sent twice", func() bool {
			states, err := b.Subscriptions(t.Context())
			return err == nil && sends.Load() >= 2 && states[0].Failures == 0 && states[0].Behind == 0
		})
		if _, got := n.kept("SLIPWAY"); !slices.Equal(subjectsOf(got), []string{"one", "two", "three"}) {
			t.Errorf("the stream has %v", subjectsOf(got))
		}
	})
}

func TestTheLeaseOfAReplicaThatIsGoneEnds(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		var ahead atomic.Int64
		clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		var first, second seen
		hang := make(chan struct{})
		frozen := newBus(db)
		frozen.Now = clock
		frozen.Forward(event.Forward{Name: "test.out", Send: func(_ context.Context, events []event.Event) (int, error) {
			first.add(events[0].Subject)
			<-hang // as a process that is stopped: it does not see its time-out either
			return len(events), nil
		}})
		run(t, frozen)
		t.Cleanup(func() { close(hang) })
		registered(t, frozen, "test.out")
		publish(t, frozen, db, thing("one"))
		within(t, time.Minute, "the first replica has it", func() bool { return len(first.list()) == 1 })
		other := newBus(db)
		other.Now = clock
		other.Forward(event.Forward{Name: "test.out", Send: func(_ context.Context, events []event.Event) (int, error) {
			for _, e := range events {
				second.add(e.Subject)
			}
			return len(events), nil
		}})
		run(t, other)
		publish(t, other, db, thing("two"))
		ahead.Add(int64(time.Minute))
		within(t, time.Minute, "another takes over", func() bool { return slices.Equal(second.list(), []string{"one", "two"}) })
	})
}

// On SQLite there is one server: what one that was killed had, the next has at once.
func TestOnSQLiteTheLeaseOfAnotherProcessEndsAtTheStart(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, schema...)
	if err := db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO event_subscription (name, last, lease_owner, lease_until) VALUES ('test.out', 0, 'DEAD.DEAD', $1)`, store.At(time.Now().Add(time.Hour)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var got seen
	b := newBus(db)
	b.Forward(event.Forward{Name: "test.out", Send: func(_ context.Context, events []event.Event) (int, error) {
		for _, e := range events {
			got.add(e.Subject)
		}
		return len(events), nil
	}})
	publish(t, b, db, thing("left"))
	run(t, b)
	within(t, time.Minute, "what was left arrives", func() bool { return slices.Equal(got.list(), []string{"left"}) })
}
