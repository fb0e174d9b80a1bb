//go:build bench

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

const (
	farVariable     = "SLIPWAY_BENCH_FAR"     // target of the proxy "far"
	streamsVariable = "SLIPWAY_BENCH_STREAMS" // how many streams may be open
)

// configureEvents is what these benchmarks need of a server.
func configureEvents(c *server.Config) {
	if far := os.Getenv(farVariable); far != "" {
		c.Proxies = map[string]blueprint.Proxy{"far": {Target: far}}
	}
	if n, err := strconv.Atoi(os.Getenv(streamsVariable)); err == nil {
		c.Server.Streams = server.Streams{User: n, Service: n, All: n}
	}
}

// farBody is what the target of a proxy answers.
var farBody = `{"items":[` + strings.Repeat(`{"name":"one of many things","state":"well"},`, 20) + `{}]}`

// runFar is the target of a proxy.
func runFar() error {
	return listenAndServe(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, farBody)
	}))
}

// copyBuffers keeps httputil from making a buffer for each answer, as our proxies do.
type copyBuffers struct{ sync.Pool }

func (b *copyBuffers) Get() []byte  { return *b.Pool.Get().(*[]byte) }
func (b *copyBuffers) Put(p []byte) { b.Pool.Put(&p) }

// runBareProxy is httputil alone before the target, with what a careful user of it sets: buffers that are used again, and the collector's pace of our server.
func runBareProxy(target string) error {
	debug.SetGCPercent(200)
	to, err := url.Parse(target)
	if err != nil {
		return err
	}
	return listenAndServe(&httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(to); r.SetXForwarded() },
		Transport:  &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		BufferPool: &copyBuffers{sync.Pool{New: func() any { p := make([]byte, 32<<10); return &p }}},
	})
}

func listenAndServe(h http.Handler) error {
	s := &http.Server{Handler: h}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), "none")
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); _ = s.Close() }()
	if err := s.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// TestProxyCost measures what a proxied request costs above httputil alone: caller, rate limit, permission, headers, log.
func TestProxyCost(t *testing.T) {
	far := start(t, "far")
	t.Setenv(farVariable, "http://"+far.addr)
	ours := start(t, "slipway", "sqlite:"+t.TempDir()+"/main.db", t.TempDir())
	bare := start(t, "bareProxy", "http://"+far.addr)
	cost := func(p *process, path string, seconds float64) float64 {
		before := p.cpu(t)
		o := p.call(t, []string{path}, seconds, 0, 0)
		return float64((p.cpu(t) - before).Microseconds()) / float64(o.Requests)
	}
	cost(ours, "/api/proxy/far/items", 1)
	cost(bare, "/items", 1)
	var a, b []float64
	for range rounds {
		a = append(a, cost(ours, "/api/proxy/far/items", float64(number("BENCH_SECONDS", 5))))
		b = append(b, cost(bare, "/items", float64(number("BENCH_SECONDS", 5))))
	}
	slices.Sort(a)
	slices.Sort(b)
	t.Logf("CPU per request: %.0f µs through a proxy, %.0f µs by httputil alone: %.0f µs more (rounds %.0f and %.0f)", a[rounds/2], b[rounds/2], a[rounds/2]-b[rounds/2], a, b)
}

// runListeners opens streams of events and says what arrived: lines of JSON on standard output, whenever a line comes in.
func runListeners(addr, token, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	var open, arrived, lost atomic.Int64
	var mu sync.Mutex
	var delays []time.Duration
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, DisableCompression: true}}
	var wg sync.WaitGroup
	gate := make(chan struct{}, 64)
	for range n {
		gate <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			req, _ := http.NewRequest("GET", "http://"+addr+"/api/events/stream?type=dev.cdeventsx.slipway-document.*", nil)
			req.Header.Set("Authorization", "Bearer "+token)
			res, err := client.Do(req)
			<-gate
			if err != nil || res.StatusCode != 200 {
				lost.Add(1)
				return
			}
			open.Add(1)
			in := bufio.NewReaderSize(res.Body, 1024)
			for {
				line, err := in.ReadSlice('\n')
				if err != nil && err != bufio.ErrBufferFull {
					lost.Add(1)
					return
				}
				if data, ok := strings.CutPrefix(string(line), "data: "); ok {
					if at := strings.Index(data, `"time":"`); at > 0 {
						text, _, _ := strings.Cut(data[at+8:], `"`)
						if when, err := time.Parse(time.RFC3339Nano, text); err == nil {
							mu.Lock()
							delays = append(delays, time.Since(when))
							mu.Unlock()
						}
					}
					arrived.Add(1)
				}
			}
		}()
	}
	fmt.Println(addr, token)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		mu.Lock()
		slices.Sort(delays)
		p99 := time.Duration(0)
		if len(delays) > 0 {
			p99 = delays[len(delays)*99/100]
		}
		delays = nil
		mu.Unlock()
		fmt.Println(open.Load(), arrived.Load(), lost.Load(), p99.Milliseconds())
	}
	os.Exit(0)
	return nil
}

// TestEventStreams has ten thousand streams open, and an event a second for all of them.
func TestEventStreams(t *testing.T) {
	n := number("BENCH_STREAMS", 10_000)
	t.Setenv(streamsVariable, fmt.Sprint(2*n))
	s := start(t, "slipway", "sqlite:"+t.TempDir()+"/main.db", t.TempDir())
	empty := s.memory(t)
	s.do(t, "PUT", "/data/credentials/bench", `{"type":"secretText","secret":"x","description":"0"}`)
	cmd := exec.Command(os.Args[0], s.addr, s.token, fmt.Sprint(n))
	cmd.Env = append(os.Environ(), roleVariable+"=listeners")
	cmd.Stderr = os.Stderr
	ask, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	told, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ask.Close(); _ = cmd.Wait() })
	var a, b string
	if _, err := fmt.Fscan(told, &a, &b); err != nil {
		t.Fatal(err)
	}
	look := func() (open, arrived, lost, p99 int64) {
		_, _ = io.WriteString(ask, "\n")
		if _, err := fmt.Fscan(told, &open, &arrived, &lost, &p99); err != nil {
			t.Fatal(err)
		}
		return open, arrived, lost, p99
	}
	for {
		if open, _, lost, _ := look(); open+lost >= int64(n) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	idle := s.memory(t)
	before := s.cpu(t)
	const events = 30
	for i := range events {
		s.do(t, "PATCH", "/data/credentials/bench", fmt.Sprintf(`{"description":"%d"}`, i+1))
		time.Sleep(time.Second)
	}
	deadline := time.Now().Add(time.Minute)
	open, arrived, lost, p99 := look()
	for arrived < int64(events*n) && time.Now().Before(deadline) {
		time.Sleep(time.Second)
		var again int64
		if open, arrived, lost, again = look(); again > p99 {
			p99 = again
		}
	}
	t.Logf("%d streams, an event a second: %.0f MB resident (%.0f MB without any, %.0f MB before the first event), %.0f %% of a core, p99 from the commit to the last byte read %d ms; %d of %d arrived, %d streams lost",
		open, s.memory(t), empty, idle, 100*(s.cpu(t)-before).Seconds()/events, p99, arrived, events*n, lost)
}

var benchSchema = []store.Migrations{store.RevisionMigrations, entity.Migrations, event.Migrations}

// TestEventRates publishes at a rate on PostgreSQL and measures from the commit to a stream and to a durable subscription.
func TestEventRates(t *testing.T) {
	for _, c := range []struct {
		name       string
		perSecond  int
		inOne      int
		subscribed bool
	}{
		{"5,000/s in transactions of 10, to a stream", 5000, 10, false}, {"1,000/s single ones, to a stream", 1000, 1, false},
		{"5,000/s in transactions of 10, to a subscription", 5000, 10, true}, {"1,000/s single ones, to a subscription", 1000, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := storetest.Open(t, store.Postgres, benchSchema...)
			bus := event.New(db, slog.New(slog.DiscardHandler))
			bus.Declare("/bench", event.Type{Name: "bench.thing.done.v1", Text: "A thing is done"})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			committed := sync.Map{} // subject → when
			var mu sync.Mutex
			var delays []time.Duration
			got := func(subject string) {
				now := time.Now()
				at, ok := committed.LoadAndDelete(subject)
				for !ok { // it came before its publisher had noted the time
					time.Sleep(100 * time.Microsecond)
					at, ok = committed.LoadAndDelete(subject)
				}
				mu.Lock()
				delays = append(delays, max(0, now.Sub(at.(time.Time))))
				mu.Unlock()
			}
			seen := make(chan string, 1<<20)
			if c.subscribed {
				bus.Subscribe(event.Subscription{Name: "bench.reader", Handle: func(_ context.Context, tx *store.Tx, e event.Event) error {
					tx.AfterCommit(func() { seen <- e.Subject })
					return nil
				}})
			}
			go func() { _ = bus.Run(ctx) }()
			if !c.subscribed {
				follow, err := bus.Follow(ctx, -1, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer follow.End()
				go func() {
					for ctx.Err() == nil {
						events, more, err := follow.Next(ctx, auth.System())
						if err != nil {
							return
						}
						for _, e := range events {
							seen <- e.Subject
						}
						select {
						case <-more:
						case <-ctx.Done():
						}
					}
				}()
			}
			go func() {
				for subject := range seen {
					got(subject)
				}
			}()
			time.Sleep(time.Second)
			seconds := number("BENCH_SECONDS", 5)
			const publishers = 8
			var wg sync.WaitGroup
			var published, late atomic.Int64
			begin := time.Now()
			for p := range publishers {
				wg.Go(func() {
					for i := 0; ; i++ {
						due := begin.Add(time.Duration(float64((i*publishers+p)*c.inOne) / float64(c.perSecond) * float64(time.Second)))
						if due.Sub(begin) >= time.Duration(seconds)*time.Second {
							return
						}
						time.Sleep(time.Until(due))
						if time.Since(due) > 100*time.Millisecond {
							late.Add(1)
						}
						var events []event.Event
						for k := range c.inOne {
							events = append(events, event.Event{Type: "bench.thing.done.v1", Source: "/bench", Subject: fmt.Sprint(p, "-", i, "-", k), Data: json.RawMessage(`{"subject":{"id":"ci:0198c2f0"},"customData":{"status":"failed"}}`)})
						}
						if err := db.Write(ctx, func(tx *store.Tx) error { return bus.PublishAll(ctx, tx, events) }); err != nil {
							t.Error(err)
							return
						}
						now := time.Now()
						for _, e := range events {
							committed.Store(e.Subject, now)
						}
						published.Add(int64(len(events)))
					}
				})
			}
			wg.Wait()
			took := time.Since(begin)
			deadline := time.Now().Add(time.Minute)
			count := func() int64 { mu.Lock(); defer mu.Unlock(); return int64(len(delays)) }
			for count() < published.Load() && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(delays)
			if len(delays) == 0 {
				t.Fatal("nothing arrived")
			}
			t.Logf("%.0f events/s published (%d of %d transactions late), %d of %d arrived, from commit to reader p50 %d ms, p99 %d ms", float64(published.Load())/took.Seconds(), late.Load(), published.Load()/int64(c.inOne),
				len(delays), published.Load(), delays[len(delays)/2].Milliseconds(), delays[len(delays)*99/100].Milliseconds())
		})
	}
}
