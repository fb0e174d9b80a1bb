package webhook_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/blueprint/webhook"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

type doc map[string]any

const secret = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"

// source is a blueprint that only sends events.
type source struct{ host *blueprint.Host }

func (s *source) publish(t testing.TB, subjects ...string) {
	t.Helper()
	var events []event.Event
	for _, name := range subjects {
		events = append(events, event.Event{Type: "dev.slipway.source.done.v1", Source: "/slipway/source", Subject: name})
	}
	if err := s.host.DB("main").Write(context.Background(), func(tx *store.Tx) error { return s.host.Events.PublishAll(context.Background(), tx, events) }); err != nil {
		t.Fatal(err)
	}
}

// fixture is a server with a clock of its own.
type fixture struct {
	*blueprinttest.Server
	source *source
	clock  *atomic.Int64 // how far it is ahead, in ns
}

func (f fixture) later(d time.Duration) { f.clock.Add(int64(d)) }

func start(t *testing.T, engine store.Engine, configure func(*server.Config)) fixture {
	t.Helper()
	f := fixture{source: &source{}, clock: &atomic.Int64{}}
	b := blueprint.Blueprint{
		Name: "source", Version: "0.0.1", Summary: "Sends events.", Stability: blueprint.Experimental, Databases: []blueprint.Database{{Name: "main"}},
		Events: []event.Type{{Name: "dev.slipway.source.done.v1", Text: "Done"}},
		Open:   func(_ context.Context, h *blueprint.Host) (any, error) { f.source.host = h; return f.source, nil },
	}
	f.Server = blueprinttest.Start(t, engine, blueprinttest.Options{
		Blueprints: []blueprint.Blueprint{platform.Blueprint, data.Blueprint, webhook.Blueprint, b},
		Now:        func() time.Time { return time.Now().Add(time.Duration(f.clock.Load())) },
		Configure: func(c *server.Config) {
			c.Fetch.Allow = []string{"http://127.0.0.1:*/*"}
			c.Sections["webhooks"].(*webhook.Config).Timeout = slipway.Duration(2 * time.Second)
			if configure != nil {
				configure(c)
			}
		},
	})
	return f
}

func each(t *testing.T, test func(t *testing.T, f fixture)) {
	t.Helper()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			test(t, start(t, engine, nil))
		})
	}
}

// receiver is a target that checks signatures with the library of Standard Webhooks.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	got     []event.Event
	headers []http.Header
	bodies  [][]byte
	answer  func(w http.ResponseWriter, e event.Event) // nil: takes all
}

func newReceiver(t *testing.T, answer func(w http.ResponseWriter, e event.Event)) *receiver {
	t.Helper()
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		var e event.Event
		_ = json.Unmarshal(body, &e)
		if r.answer != nil {
			rec := &recorder{ResponseWriter: w, status: 200}
			r.answer(rec, e)
			if rec.status >= 300 {
				return
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got, r.headers, r.bodies = append(r.got, e), append(r.headers, req.Header.Clone()), append(r.bodies, body)
	}))
	t.Cleanup(func() { r.CloseClientConnections(); r.Close() })
	return r
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) { r.status = status; r.ResponseWriter.WriteHeader(status) }

func (r *receiver) subjects() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.got {
		all = append(all, e.Subject)
	}
	return all
}

func (r *receiver) await(t *testing.T, want ...string) {
	t.Helper()
	blueprinttest.Eventually(t, fmt.Sprintf("%v arrive; %v did", want, r.subjects()), func() bool { return len(r.subjects()) >= len(want) })
	if got := r.subjects(); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func (f fixture) make(t *testing.T, id, url string, more doc) {
	t.Helper()
	d := doc{"id": id, "url": url, "types": []string{"dev.slipway.source.*"}, "secret": secret}
	for k, v := range more {
		d[k] = v
	}
	f.Post("/data/webhooks", d).Is(201)
	f.started(t, id)
}

// started waits until a webhook has its place.
func (f fixture) started(t *testing.T, id string) {
	t.Helper()
	db := f.source.host.DB("main")
	blueprinttest.Eventually(t, "the webhook has its place", func() bool {
		var n int
		return db.QueryRowContext(context.Background(), `SELECT count(*) FROM webhook_target WHERE id = $1`, id).Scan(&n) == nil && n == 1
	})
}

func (f fixture) state(t *testing.T, id string) webhook.State {
	t.Helper()
	var l blueprint.List[webhook.State]
	f.Get("/api/webhooks").Is(200).Into(&l)
	for _, s := range l.Items {
		if s.ID == id {
			return s
		}
	}
	t.Fatalf("there is no %s in %+v", id, l)
	return webhook.State{}
}

func (f fixture) deliveries(id, query string) (l blueprint.List[webhook.Delivery]) {
	f.Get("/api/webhooks/" + id + "/deliveries" + query).Is(200).Into(&l)
	return l
}

func TestEventsAreSentInOrderAndSigned(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f fixture) {
		f.source.publish(t, "before")
		blueprinttest.Eventually(t, "it has its place", func() bool {
			var l blueprint.List[event.Event]
			f.Get("/api/events").Is(200).Into(&l)
			return len(l.Items) == 1
		})
		r := newReceiver(t, nil)
		f.make(t, "chat", r.URL+"/in?x=1", nil)
		f.source.publish(t, "one", "two")
		f.source.publish(t, "three")
		r.await(t, "one", "two", "three")
		checker, err := standard.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		for i, body := range r.bodies {
			if err := checker.Verify(body, r.headers[i]); err != nil {
				t.Errorf("the signature of delivery %d: %v", i, err)
			}
			if id := r.headers[i].Get("webhook-id"); id != r.got[i].ID || r.headers[i].Get("Content-Type") != "application/cloudevents+json; charset=utf-8" || r.got[i].SpecVersion != "1.0" {
				t.Errorf("delivery %d: id %s, headers %v, event %+v", i, id, r.headers[i], r.got[i])
			}
		}
		blueprinttest.Eventually(t, "all is logged", func() bool { return len(f.deliveries("chat", "").Items) == 3 })
		if d := f.deliveries("chat", "").Items[0]; d.Subject != "three" || d.Status != "delivered" || d.Attempts != 1 || d.Answer != 200 {
			t.Errorf("the newest delivery: %+v", d)
		}
		first := f.deliveries("chat", "?limit=2")
		if second := f.deliveries("chat", "?limit=2&cursor="+first.PageInfo.NextCursor); len(second.Items) != 1 || second.Items[0].Subject != "one" || second.PageInfo.HasMore {
			t.Errorf("the second page: %+v", second)
		}
		f.Get("/api/webhooks/chat/deliveries?status=dead&cursor="+first.PageInfo.NextCursor).Fails(400, slipway.Invalid)
		if s := f.state(t, "chat"); s.State != "active" || s.Owner == "" || s.Behind != 0 {
			t.Errorf("the state: %+v", s)
		}
		var shown struct{ Data doc }
		if f.Get("/data/webhooks/chat").Is(200).Into(&shown); shown.Data["secret"] != "<redacted>" || strings.Contains(f.Log.String(), "c2VjcmV0") {
			t.Errorf("the secret is told: %v", shown)
		}

		// A new secret, with the old one beside it for a day.
		var rotated struct{ Secret string }
		f.Post("/api/webhooks/chat/rotate", nil).Is(200).Into(&rotated)
		newer, err := standard.NewWebhook(rotated.Secret)
		if err != nil {
			t.Fatal(err)
		}
		blueprinttest.Eventually(t, "both secrets count", func() bool {
			f.source.publish(t, "more")
			blueprinttest.Eventually(t, "it arrives", func() bool { return r.subjects()[len(r.subjects())-1] == "more" })
			r.mu.Lock()
			defer r.mu.Unlock()
			last := len(r.bodies) - 1
			return newer.Verify(r.bodies[last], r.headers[last]) == nil && checker.Verify(r.bodies[last], r.headers[last]) == nil
		})
	})
}

func TestADocumentIsChecked(t *testing.T) {
	t.Parallel()
	f := start(t, store.SQLite, func(c *server.Config) {
		c.Auth.Grants = []auth.GrantConfig{{To: "user:default/joe", Permissions: []string{"webhook.*", "data.api.use", "platform.token.create", "event.event.read"}}}
	})
	for name, bad := range map[string]doc{
		"no address": {}, "ftp": {"url": "ftp://x"}, "user": {"url": "http://u:p@127.0.0.1/x"}, "not allowed": {"url": "https://example.com/x"}, "private": {"url": "http://10.0.0.1/"},
		"short secret": {"url": "http://127.0.0.1:9/", "secret": "whsec_YQ=="}, "no secret": {"url": "http://127.0.0.1:9/", "secret": "hush"}, "type": {"url": "http://127.0.0.1:9/", "types": []string{"*.x"}},
		"unknown": {"url": "http://127.0.0.1:9/", "tpyes": []string{"x"}},
	} {
		if a := f.Post("/data/webhooks", bad); a.Status != 422 && a.Status != 400 {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	// Without a secret one is made, and it belongs to who wrote it, whatever it says.
	jane := f.As(f.NewToken(auth.NewToken{Name: "janes", Permissions: []string{"webhook.*", "data.api.use", "platform.self.read"}, RateLimit: new(auth.Rate)}))
	jane.Post("/data/webhooks", doc{"id": "mine", "url": "http://127.0.0.1:9/", "owner": "system"}).Is(201)
	var shown struct{ Data doc }
	f.Get("/data/webhooks/mine").Is(200).Into(&shown)
	if shown.Data["secret"] != "<redacted>" || shown.Data["owner"] != "token:janes" {
		t.Errorf("got %v", shown.Data)
	}
	f.Do("PUT", "/data/webhooks/mine", doc{"url": "http://127.0.0.1:9/"}).Is(200) // says the same
	f.Get("/data/webhooks/mine").Is(200).Into(&shown)
	if shown.Data["owner"] != "token:janes" {
		t.Errorf("who changed nothing took it over: %v", shown.Data)
	}
	f.Do("PATCH", "/data/webhooks/mine", doc{"url": "http://127.0.0.1:9/else"}).Is(200)
	f.Get("/data/webhooks/mine").Is(200).Into(&shown)
	if shown.Data["owner"] == "token:janes" {
		t.Error("who changed it sends what another may read")
	}
	// Nor does a token lend what it has not by issuing one that lists nothing.
	narrow := f.As(f.NewToken(auth.NewToken{Name: "narrow", User: "user:default/joe", Permissions: []string{"webhook.*", "data.api.use", "platform.token.create"}}))
	var whole struct{ Secret string }
	narrow.Post("/api/tokens", doc{"name": "seems-whole", "user": "joe"}).Is(201).Into(&whole)
	f.As(whole.Secret).Post("/data/webhooks", doc{"id": "joes", "url": "http://127.0.0.1:9/"}).Is(201)
	f.Get("/data/webhooks/joes").Is(200).Into(&shown)
	if shown.Data["owner"] != "token:seems-whole" {
		t.Errorf("it belongs to %v", shown.Data["owner"])
	}
	f.As(f.NewToken(auth.NewToken{Name: "joe", User: "user:default/joe"})).Do("PATCH", "/data/webhooks/joes", doc{"url": "http://127.0.0.1:9/else"}).Is(200)
	f.Get("/data/webhooks/joes").Is(200).Into(&shown)
	if shown.Data["owner"] != "user:default/joe" {
		t.Errorf("what Joe wrote belongs to %v", shown.Data["owner"])
	}
	f.With("platform.self.read").Get("/api/webhooks").Fails(403, slipway.Forbidden)
	f.With("webhook.webhook.read").Post("/api/webhooks/mine/test", nil).Fails(403, slipway.Forbidden)
	f.Post("/api/webhooks/none/test", nil).Fails(404, slipway.NotFound)
	f.Get("/api/webhooks/none/deliveries").Fails(404, slipway.NotFound)
	f.Post("/api/webhooks/mine/deliveries/7/redeliver", nil).Fails(404, slipway.NotFound)
}

func TestAWebhookIsToldWhatItsOwnerMayRead(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f fixture) {
		all, none := newReceiver(t, nil), newReceiver(t, nil)
		f.make(t, "all", all.URL, nil)
		poor := f.As(f.NewToken(auth.NewToken{Name: "poor", Permissions: []string{"webhook.*", "data.api.use"}, RateLimit: new(auth.Rate)}))
		poor.Post("/data/webhooks", doc{"id": "none", "url": none.URL, "secret": secret}).Is(201)
		f.started(t, "none")
		f.source.publish(t, "hidden")
		all.await(t, "hidden")
		blueprinttest.Eventually(t, "the other has passed it over", func() bool {
			f.source.publish(t, "more")
			return len(all.subjects()) > 3
		})
		if got := none.subjects(); len(got) > 0 {
			t.Errorf("it was told %v", got)
		}
	})
}

func TestATargetThatFailsForADayGetsAllInOrder(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f fixture) {
		var ill atomic.Bool
		var asked atomic.Int64
		ill.Store(true)
		r := newReceiver(t, func(w http.ResponseWriter, _ event.Event) {
			asked.Add(1)
			if ill.Load() {
				w.WriteHeader(500)
			}
		})
		well := newReceiver(t, nil)
		f.make(t, "ill", r.URL, nil)
		f.make(t, "well", well.URL, nil)
		f.source.publish(t, "one", "two", "three")
		well.await(t, "one", "two", "three")
		for attempt := int64(1); attempt <= 10; attempt++ {
			blueprinttest.Eventually(t, fmt.Sprintf("attempt %d is noted", attempt), func() bool { s := f.state(t, "ill"); return s.Failures == attempt && s.RetryAt != nil })
			f.later(f.state(t, "ill").RetryAt.Sub(time.Now().Add(time.Duration(f.clock.Load()))) + time.Second)
		}
		// A day has passed: the first is given up, the second has its turn.
		blueprinttest.Eventually(t, "the first is a dead letter", func() bool { return f.state(t, "ill").Dead == 1 })
		if f.clock.Load() < int64(18*time.Hour) {
			t.Errorf("it was given up after %s", time.Duration(f.clock.Load()))
		}
		ill.Store(false)
		f.Post("/api/webhooks/ill/resume", nil).Is(200)
		r.await(t, "two", "three")
		f.source.publish(t, "four")
		r.await(t, "two", "three", "four")
		dead := f.deliveries("ill", "?status=dead").Items
		if len(dead) != 1 || dead[0].Subject != "one" || dead[0].Attempts != 11 || dead[0].Error != "it answered 500" {
			t.Fatalf("dead letters: %+v", dead)
		}
		a := f.Post(fmt.Sprintf("/api/webhooks/ill/deliveries/%d/redeliver", dead[0].ID), nil).Is(202)
		if !strings.HasPrefix(a.Header.Get("Location"), "/api/jobs/") {
			t.Errorf("Location %q", a.Header.Get("Location"))
		}
		r.await(t, "two", "three", "four", "one")
		blueprinttest.Eventually(t, "it is no dead letter any more", func() bool { return len(f.deliveries("ill", "?status=dead").Items) == 0 })
		f.Post("/api/webhooks/ill/redeliver", nil).Is(202)
	})
}

func TestATargetThatTakesNothingIsDisabled(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f fixture) {
		var gone atomic.Int64
		gone.Store(410)
		r := newReceiver(t, func(w http.ResponseWriter, _ event.Event) {
			if n := gone.Load(); n != 0 {
				w.WriteHeader(int(n))
			}
		})
		f.make(t, "gone", r.URL, nil)
		f.source.publish(t, "one", "two")
		blueprinttest.Eventually(t, "410 disables it", func() bool { return f.state(t, "gone").State == "disabled" })
		blueprinttest.Eventually(t, "an event tells of it", func() bool { // it gets its position after the commit
			var l blueprint.List[event.Event]
			f.Get("/api/events?type=dev.cdeventsx.slipway-webhook.*").Is(200).Into(&l)
			return len(l.Items) == 1 && l.Items[0].Subject == "gone"
		})
		gone.Store(503)
		f.Post("/api/webhooks/gone/resume", nil).Is(200)
		blueprinttest.Eventually(t, "it fails", func() bool { return f.state(t, "gone").State == "failing" })
		f.later(4 * 24 * time.Hour)
		blueprinttest.Eventually(t, "days of it disable it", func() bool { return f.state(t, "gone").State == "disabled" })
		gone.Store(0)
		f.Do("PATCH", "/data/webhooks/gone", doc{"description": "mended"}).Is(200)
		r.await(t, "one", "two")
	})
}

// The event that is given up at last may be the one by which a target has taken nothing for too long: then the next one waits and is not tried at all.
func TestATargetThatIsDisabledIsSentNothingMore(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			f := start(t, engine, func(c *server.Config) {
				c.Sections["webhooks"].(*webhook.Config).DisableAfter = slipway.Duration(48 * time.Hour)
			})
			var mu sync.Mutex
			asked := map[string]int{}
			r := newReceiver(t, func(w http.ResponseWriter, e event.Event) {
				mu.Lock()
				defer mu.Unlock()
				asked[e.Subject]++
				w.WriteHeader(500)
			})
			f.make(t, "ill", r.URL, nil)
			f.source.publish(t, "one", "two")
			for attempt := int64(1); attempt <= 10; attempt++ {
				blueprinttest.Eventually(t, fmt.Sprintf("attempt %d is noted", attempt), func() bool { s := f.state(t, "ill"); return s.Failures == attempt && s.RetryAt != nil })
				wait := f.state(t, "ill").RetryAt.Sub(time.Now().Add(time.Duration(f.clock.Load()))) + time.Second
				if attempt == 10 {
					wait += 48 * time.Hour
				}
				f.later(wait)
			}
			blueprinttest.Eventually(t, "it is disabled", func() bool { s := f.state(t, "ill"); return s.State == "disabled" && s.Dead == 1 })
			f.Post("/api/webhooks/ill/resume", nil).Is(200) // which tries the next one for the first time
			blueprinttest.Eventually(t, "the next one is tried", func() bool { s := f.state(t, "ill"); return s.Failures == 1 && s.RetryAt != nil })
			mu.Lock()
			defer mu.Unlock()
			if asked["one"] != 11 || asked["two"] != 1 {
				t.Errorf("the target was asked %v times", asked)
			}
		})
	}
}

func TestBadTargets(t *testing.T) {
	t.Parallel()
	f := start(t, store.Postgres, nil)
	hang := make(chan struct{})
	elsewhere := newReceiver(t, nil)
	hanging := newReceiver(t, func(http.ResponseWriter, event.Event) { <-hang })
	t.Cleanup(func() { close(hang) })
	away := newReceiver(t, func(w http.ResponseWriter, _ event.Event) {
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(307)
	})
	picky := newReceiver(t, func(w http.ResponseWriter, e event.Event) {
		if e.Subject == "one" {
			w.WriteHeader(422)
		}
	})
	well := newReceiver(t, nil)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for id, url := range map[string]string{"hanging": hanging.URL, "away": away.URL, "picky": picky.URL, "well": well.URL, "closed": closed.URL} {
		f.make(t, id, url, nil)
	}
	f.source.publish(t, "one", "two")
	well.await(t, "one", "two")
	for id, want := range map[string]string{"hanging": "it did not answer in time", "away": "redirects are not followed", "picky": "it answered 422", "closed": "it cannot be reached"} {
		blueprinttest.Eventually(t, id+" fails: "+want, func() bool { return strings.Contains(f.state(t, id).Error, want) })
	}
	for range 6 { // what it cannot read is given up within the hour, and the next one arrives
		n := f.state(t, "picky").Failures
		f.later(40 * time.Minute)
		blueprinttest.Eventually(t, "picky is tried again", func() bool { s := f.state(t, "picky"); return s.Failures != n || s.Dead == 1 })
	}
	picky.await(t, "two")
	if got := elsewhere.subjects(); len(got) > 0 {
		t.Errorf("a redirect was followed: %v", got)
	}
	var tested struct {
		Taken  bool
		Answer int
		Error  string
	}
	if f.Post("/api/webhooks/away/test", nil).Is(200).Into(&tested); tested.Taken || tested.Answer != 307 || tested.Error == "" {
		t.Errorf("a test of a bad target: %+v", tested)
	}
	if f.Post("/api/webhooks/well/test", nil).Is(200).Into(&tested); !tested.Taken {
		t.Errorf("a test of a good one: %+v", tested)
	}
}

// On SQLite there is one server: what one that was killed was about to deliver, the next one delivers at once and not when the lease would have ended.
func TestAfterAKillDeliveriesGoOnAtOnce(t *testing.T) {
	t.Parallel()
	began, hang := make(chan struct{}), make(chan struct{})
	var asked atomic.Int64
	r := newReceiver(t, func(w http.ResponseWriter, _ event.Event) {
		if asked.Add(1) == 1 {
			close(began)
			<-hang
			w.WriteHeader(500)
		}
	})
	t.Cleanup(func() { close(hang) })
	killed := start(t, store.SQLite, func(c *server.Config) {
		c.Sections["webhooks"].(*webhook.Config).Timeout = slipway.Duration(time.Minute)
	})
	killed.later(time.Hour) // the next server's clock does not reach the end of the lease
	killed.make(t, "chat", r.URL, nil)
	killed.source.publish(t, "one", "two")
	<-began
	left := filepath.Join(t.TempDir(), "left.db") // as kill -9 would leave it
	if _, err := killed.source.host.DB("main").Writer().ExecContext(t.Context(), `VACUUM INTO $1`, left); err != nil {
		t.Fatal(err)
	}
	killed.Stop()
	start(t, store.SQLite, func(c *server.Config) {
		c.Databases["main"], c.Secrets.KeyFile = "sqlite:"+left, filepath.Join(killed.DataDir, "master.key")
	})
	r.await(t, "one", "two")
}

// Whoever writes to one thing, one after the other, is told of in that order by everything that delivers events, however many write at once.
func TestEventsOfOneSubjectArriveInOrderEverywhere(t *testing.T) {
	t.Parallel()
	const subjects, writers, each = 4, 8, 25
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			broker, err := nats.NewServer(&nats.Options{Host: "127.0.0.1", Port: nats.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
			if err != nil {
				t.Fatal(err)
			}
			broker.Start()
			t.Cleanup(func() { broker.Shutdown(); broker.WaitForShutdown() })
			if !broker.ReadyForConnections(time.Minute) {
				t.Fatal("the NATS server does not come up")
			}
			f := start(t, engine, func(c *server.Config) {
				c.Events.Broker.URL, c.Events.Broker.Types = broker.ClientURL(), []string{"dev.slipway.source.*"}
				c.Sections["webhooks"].(*webhook.Config).Timeout = slipway.Duration(time.Minute)
			})
			db := f.source.host.DB("main")
			if err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `CREATE TABLE thing (name TEXT PRIMARY KEY, n BIGINT NOT NULL)`)
				for i := 0; i < subjects && err == nil; i++ {
					_, err = tx.Exec(t.Context(), `INSERT INTO thing (name, n) VALUES ($1, 0)`, fmt.Sprint("thing-", i))
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			r := newReceiver(t, nil)
			f.make(t, "order", r.URL, nil)
			stream := make(chan []event.Event, 1)
			following := f.stream(t, "/api/events/stream?type=dev.slipway.source.*")
			go func() { stream <- following(writers * each) }()

			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := range each {
						if err := db.Write(t.Context(), func(tx *store.Tx) error {
							name, n := fmt.Sprint("thing-", (w+i)%subjects), 0
							if err := tx.QueryRowContext(t.Context(), `UPDATE thing SET n = n + 1 WHERE name = $1 RETURNING n`, name).Scan(&n); err != nil {
								return err
							}
							return f.source.host.Events.Publish(t.Context(), tx, event.Event{Type: "dev.slipway.source.done.v1", Source: "/slipway/source", Subject: fmt.Sprintf("%s/%d", name, n)})
						}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			inOrder(t, "the stream", writers*each, subjects, func() (all []string) {
				for _, e := range <-stream {
					all = append(all, e.Subject)
				}
				return all
			}())
			blueprinttest.Eventually(t, "the webhook has all", func() bool { return len(r.subjects()) >= writers*each })
			inOrder(t, "the webhook", writers*each, subjects, r.subjects())
			inOrder(t, "the broker", writers*each, subjects, kept(t, broker.ClientURL(), writers*each))
		})
	}
}

// inOrder checks that subjects such as thing-1/7 count from 1, each thing for itself, and that there are so many.
func inOrder(t *testing.T, who string, count, things int, subjects []string) {
	t.Helper()
	last := map[string]int{}
	for _, s := range subjects {
		name, number, _ := strings.Cut(s, "/")
		n, err := strconv.Atoi(number)
		if err != nil || n != last[name]+1 {
			t.Fatalf("%s was given %s after %d", who, s, last[name])
		}
		last[name] = n
	}
	if len(subjects) != count || len(last) != things {
		t.Fatalf("%s was given %d events of %d things, want %d of %d", who, len(subjects), len(last), count, things)
	}
}

// stream follows events; what it gives reads a number of them.
func (f fixture) stream(t *testing.T, path string) func(n int) []event.Event {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	lines.Scan() // retry, which says that it has begun
	return func(n int) (all []event.Event) {
		for len(all) < n && lines.Scan() {
			if data, is := strings.CutPrefix(lines.Text(), "data: "); is {
				var e event.Event
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					t.Error(err)
				}
				all = append(all, e)
			}
		}
		return all
	}
}

// kept gives what the events in a broker's stream are about, once there are so many.
func kept(t *testing.T, url string, count int) (subjects []string) {
	t.Helper()
	conn, err := client.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	blueprinttest.Eventually(t, "the broker has all", func() bool {
		s, err := js.Stream(t.Context(), "SLIPWAY")
		if err == nil {
			last = s.CachedInfo().State.LastSeq
		}
		return last >= uint64(count)
	})
	s, err := js.Stream(t.Context(), "SLIPWAY")
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= last; i++ {
		m, err := s.GetMsg(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		var e event.Event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		subjects = append(subjects, e.Subject)
	}
	return subjects
}

func TestSchemaGoesDownAndUp(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, server.Owners([]blueprint.Blueprint{webhook.Blueprint})["main"]...)
}
