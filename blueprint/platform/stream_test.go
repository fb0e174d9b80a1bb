package platform_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
)

// publish sends events of the type work.done about these subjects.
func (f fixture) publish(t *testing.T, subjects ...string) {
	t.Helper()
	var events []event.Event
	for _, name := range subjects {
		events = append(events, event.Event{Type: "dev.slipway.work.done.v1", Source: "/slipway/work", Subject: name, Data: []byte(`{"n":1}`)})
	}
	if err := f.work.host.DB("main").Write(t.Context(), func(tx *store.Tx) error { return f.work.host.Events.PublishAll(t.Context(), tx, events) }); err != nil {
		t.Fatal(err)
	}
}

// listener reads a stream of events.
type listener struct {
	t     *testing.T
	lines *bufio.Scanner
	last  string // id
	end   context.CancelFunc
}

func listen(t *testing.T, c *blueprinttest.Client, path string, header ...string) *listener {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", c.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: %d, %v", path, res.StatusCode, res.Header)
	}
	l := &listener{t: t, lines: bufio.NewScanner(res.Body), end: cancel}
	l.lines.Buffer(nil, 1<<20)
	l.lines.Scan() // retry, which says that it has begun
	return l
}

// next is the next event; ok is false when the stream has ended.
func (l *listener) next() (e event.Event, ok bool) {
	l.t.Helper()
	for l.lines.Scan() {
		if id, is := strings.CutPrefix(l.lines.Text(), "id: "); is {
			l.last = id
		}
		if data, is := strings.CutPrefix(l.lines.Text(), "data: "); is {
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				l.t.Fatal(err)
			}
			return e, true
		}
	}
	return e, false
}

func (l *listener) subjects(n int) (all []string) {
	l.t.Helper()
	for range n {
		e, ok := l.next()
		if !ok {
			l.t.Fatalf("the stream ended after %v: %v", all, l.lines.Err())
		}
		all = append(all, e.Subject)
	}
	return all
}

func TestEventsAreStreamedAndResumed(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		s.publish(t, "before")
		until(t, func() (l list[event.Event]) { s.Get("/api/events?type=dev.slipway.work.*").Is(200).Into(&l); return l }, func(l list[event.Event]) bool { return len(l.Items) == 1 })
		all := listen(t, s.Client, "/api/events")
		typed := listen(t, s.Client, "/api/events/stream?type=dev.slipway.work.*&after=0")
		s.publish(t, "one", "two")
		if got := fmt.Sprint(all.subjects(2)); got != "[one two]" {
			t.Errorf("from now on: %s", got)
		}
		if got := fmt.Sprint(typed.subjects(3)); got != "[before one two]" {
			t.Errorf("from the beginning: %s", got)
		}
		all.end()
		s.publish(t, "while away", "three")
		again := listen(t, s.Client, "/api/events", "Last-Event-ID", all.last)
		if got := fmt.Sprint(again.subjects(2)); got != "[while away three]" {
			t.Errorf("resumed: %s", got)
		}
		s.Get("/api/events/stream", "Last-Event-ID", "x").Fails(400, slipway.Invalid)
		s.Get("/api/events/stream?after=-2").Fails(400, slipway.Invalid)
		s.As("").Get("/api/events/stream").Fails(401, slipway.Unauthenticated)

		// More than memory holds, to many at once, each in order and nothing twice.
		var wg sync.WaitGroup
		for range 5 {
			l := listen(t, s.Client, "/api/events/stream?type=dev.slipway.work.*")
			wg.Go(func() {
				for i := range 3000 {
					if e, ok := l.next(); !ok || e.Subject != fmt.Sprint("many-", i) {
						t.Errorf("event %d is %q, %v", i, e.Subject, ok)
						return
					}
				}
			})
		}
		var names []string
		for i := range 3000 {
			names = append(names, fmt.Sprint("many-", i))
		}
		for len(names) > 0 {
			s.publish(t, names[:250]...)
			names = names[250:]
		}
		wg.Wait()
		far := listen(t, s.Client, "/api/events/stream?after=0&type=dev.slipway.work.*")
		if got := far.subjects(5); fmt.Sprint(got) != "[before one two while away three]" {
			t.Errorf("from afar: %v", got)
		}
	})
}

func TestAStreamShowsWhatItsCallerMayRead(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		token := s.NewToken(auth.NewToken{Name: "reader", Permissions: []string{"platform.self.read"}, RateLimit: new(auth.Rate)})
		none := listen(t, s.As(token), "/api/events")
		all := listen(t, s.Client, "/api/events")
		s.publish(t, "secret")
		all.subjects(1)
		// The token's rights end, and with them the stream.
		db, err := store.Open("main", s.Database)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec(t.Context(), `UPDATE auth_token SET revoked_at = 1 WHERE name = 'reader'`); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), `UPDATE revision SET n = n + 1`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		ended := make(chan event.Event, 1)
		go func() {
			defer close(ended)
			if e, ok := none.next(); ok {
				ended <- e
			}
		}()
		n := 0
		blueprinttest.Eventually(t, "the stream of the revoked token ends", func() bool {
			n++
			s.publish(t, fmt.Sprint("more-", n))
			select {
			case e, ok := <-ended:
				if ok {
					t.Fatalf("it was shown %+v", e)
				}
				return true
			default:
				return false
			}
		})
	})
}

func TestEventTypesHaveSchemas(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s fixture) {
		var types struct {
			Items []struct{ Name, Schema string }
		}
		s.Get("/api/events/types").Is(200).Into(&types)
		seen := 0
		for _, one := range types.Items {
			if one.Schema == "" {
				continue
			}
			seen++
			var schema map[string]any
			s.Get(one.Schema).Is(200).Into(&schema)
			if schema["$schema"] != "https://json-schema.org/draft/2020-12/schema" || schema["$id"] != s.URL+one.Schema {
				t.Errorf("%s: %v", one.Name, schema)
			}
		}
		if seen == 0 {
			t.Error("no type has a schema")
		}
		s.Get("/api/events/schemas/no.such.type").Fails(404, slipway.NotFound)
	})
}

// TestAListenerThatDoesNotReadIsGivenUp has many streams open that nobody reads: they cost no memory but their own, hold up nobody, and end.
// It runs on its own: the heap that it measures is that of the process.
func TestAListenerThatDoesNotReadIsGivenUp(t *testing.T) {
	w, b := &work{}, workBlueprint
	b.Open = func(_ context.Context, h *blueprint.Host) (any, error) { w.host = h; return w, nil }
	s := fixture{blueprinttest.Start(t, store.SQLite, blueprinttest.Options{Blueprints: []blueprint.Blueprint{platform.Blueprint, b}}), w}
	active := func() string {
		_, after, _ := strings.Cut(string(s.Get("/metrics").Is(200).Body), "\nslipway_streams_active ")
		n, _, _ := strings.Cut(after, "\n")
		return n
	}
	const deaf, events, size = 15, 300, 60 << 10 // 18 MB for each, far above what sockets hold
	for range deaf {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		if _, err := fmt.Fprintf(conn, "GET /api/events/stream?type=dev.slipway.work.* HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", s.Token); err != nil {
			t.Fatal(err)
		}
	}
	hears := listen(t, s.Client, "/api/events/stream?type=dev.slipway.work.*")
	until(t, active, func(n string) bool { return n == fmt.Sprint(deaf+1) })
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	subject := strings.Repeat("x", size)
	go func() {
		for i := range events {
			s.publish(t, fmt.Sprint(subject, i))
		}
	}()
	for i := range events {
		if e, ok := hears.next(); !ok || e.Subject != fmt.Sprint(subject, i) {
			t.Fatalf("who reads got %d bytes, %v as event %d", len(e.Subject), ok, i)
		}
	}
	// What is kept for streams is kept once for all, as it came and as it is sent.
	if grown := int64(heap()) - int64(before); grown > 4*events*size {
		t.Errorf("%d streams that nobody reads cost %d MB; the events are %d MB", deaf, grown>>20, events*size>>20)
	}
	for end := time.Now().Add(3 * time.Minute); active() != "1"; time.Sleep(100 * time.Millisecond) { // each write waits for 30 s
		if time.Now().After(end) {
			t.Fatalf("%s streams are open", active())
		}
	}
}
