package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store/storetest"
)

// balancer passes TCP connections on to backends in turn, and knows nothing of HTTP, sessions or health: a backend that refuses is left out for this connection.
type balancer struct {
	net.Listener
	next  atomic.Int64
	mu    sync.Mutex
	backs []string
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: l}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go b.pass(near)
		}
	}()
	return b
}

func (b *balancer) pass(near net.Conn) {
	defer near.Close()
	b.mu.Lock()
	backs := b.backs
	b.mu.Unlock()
	for range backs {
		far, err := net.DialTimeout("tcp", backs[int(b.next.Add(1))%len(backs)], time.Second)
		if err != nil {
			continue
		}
		defer far.Close()
		go func() { _, _ = io.Copy(far, near); _ = far.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(near, far)
		return
	}
}

func (b *balancer) set(backs ...*replica) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backs = nil
	for _, r := range backs {
		b.backs = append(b.backs, strings.TrimPrefix(r.url, "http://"))
	}
}

// TestThreeReplicasBehindABalancer has three processes on one PostgreSQL: what one knows all know, work is done once, and service goes on while one is killed, one
// is frozen and thawed, and the database is restarted.
func TestThreeReplicasBehindABalancer(t *testing.T) {
	postgres := storetest.Server(t)
	in := installOn(t, postgres.URL("postgres"))
	b := newBalancer(t)
	first := in.serve()
	replicas := []*replica{first, in.serve(), in.serve()}
	b.set(replicas...)
	all := &replica{in: in, cmd: first.cmd, url: "http://" + b.Addr().String(), log: first.log}
	http.DefaultTransport.(*http.Transport).DisableKeepAlives = true // each request is a connection, so that each is balanced
	t.Cleanup(func() { http.DefaultTransport.(*http.Transport).DisableKeepAlives = false })
	const start = "/api/build/by-entity/component:default/web/start"
	all.eventually("the component is bound", func() bool { return all.do("POST", start, nil, nil) == 202 })

	// A webhook gets each event once in effect: its id is the same however often it comes.
	var mu sync.Mutex
	heard := map[string]int{}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		var e event.Event
		if json.Unmarshal(raw, &e) == nil {
			mu.Lock()
			heard[e.ID]++
			mu.Unlock()
		}
	}))
	t.Cleanup(hook.Close)
	if status := all.do("POST", "/data/webhooks", map[string]any{"id": "hook", "url": hook.URL, "types": []string{event.PipelineRunFinished}}, nil); status != 201 {
		t.Fatalf("the webhook: %d", status)
	}

	// Rights end on all replicas at once.
	var made struct{ ID, Secret string }
	if status := all.do("POST", "/api/tokens", map[string]any{"name": "short", "permissions": []string{"platform.self.read"}}, &made); status != 201 {
		t.Fatalf("a token: %d", status)
	}
	as := func(r *replica, token string) int {
		req, _ := http.NewRequest("GET", r.url+"/api/auth/me", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	for _, r := range replicas {
		r.eventually("the token is believed everywhere", func() bool { return as(r, made.Secret) == 200 })
	}
	if status := replicas[1].do("DELETE", "/api/tokens/"+made.ID, nil, nil); status != 204 {
		t.Fatalf("revoked with %d", status)
	}
	for _, r := range replicas {
		r.eventually("the revoked token is refused everywhere", func() bool { return as(r, made.Secret) == 401 })
	}

	// A limit is one limit.
	if status := all.do("POST", "/api/tokens", map[string]any{"name": "limited", "permissions": []string{"platform.self.read"}, "rateLimit": "100/m"}, &made); status != 201 {
		t.Fatalf("a limited token: %d", status)
	}
	let := 0
	window := time.Now().Truncate(time.Minute)
	for range 150 {
		if as(all, made.Secret) == 200 {
			let++
		}
	}
	if same := time.Now().Truncate(time.Minute).Equal(window); same && (let < 90 || let > 105) {
		t.Errorf("of 150 requests over three replicas %d were let through, with a limit of 100", let)
	}

	// Work goes on, and is done once, whatever happens to a replica.
	accepted := map[string]bool{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for caller := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
				}
				var out struct {
					Build struct{ ID string }
				}
				key := fmt.Sprintf("%d-%d", caller, i)
				for range 3 { // as a client does that keeps its key
					if status := all.do("POST", start, map[string]any{"ref": "main"}, &out, "Idempotency-Key", key); status == 202 {
						mu.Lock()
						accepted[out.Build.ID] = true
						mu.Unlock()
						break
					}
				}
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(accepted) }
	more := func(what string) {
		t.Helper()
		// A process that is frozen in the middle of a transaction holds its locks until PostgreSQL ends it, after half a minute.
		n, deadline := count(), time.After(3*time.Minute)
		for count() <= n+5 {
			select {
			case <-deadline:
				t.Fatalf("it did not happen within three minutes: %s", what)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	more("builds are accepted")
	replicas[0].kill()
	b.set(replicas[1:]...)
	more("builds are accepted after one was killed")
	_ = replicas[1].cmd.Process.Signal(syscall.SIGSTOP)
	b.set(replicas[2])
	more("builds are accepted while one is frozen")
	<-time.After(17 * time.Second) // longer than a replica may be silent: others take over what it was at
	_ = replicas[1].cmd.Process.Signal(syscall.SIGCONT)
	b.set(replicas[1:]...)
	more("builds are accepted after it was thawed")
	postgres.Stop(t)
	postgres.Start(t)
	more("builds are accepted after the database was restarted")
	close(stop)
	wg.Wait()

	ended := map[string]string{}
	all.eventually("every accepted build has ended", func() bool {
		clear(ended)
		for cursor := ""; ; {
			var p page
			if all.do("GET", search+cursor, nil, &p) != 200 {
				return false
			}
			for _, build := range p.Items {
				ended[build.ID] = build.Status
				if build.Status == "starting" || build.Status == "running" {
					return false
				}
			}
			if p.PageInfo.NextCursor == "" {
				return true
			}
			cursor = "&cursor=" + p.PageInfo.NextCursor
		}
	})
	for id := range accepted {
		if ended[id] == "" {
			t.Errorf("build %s was accepted and is lost", id)
		}
	}
	raw, err := os.ReadFile(in.effects)
	if err != nil {
		t.Fatal(err)
	}
	runs := map[string]int{}
	for _, id := range strings.Fields(string(raw)) {
		if runs[id]++; runs[id] > 1 {
			t.Errorf("build %s ran %d times", id, runs[id])
		}
	}
	all.eventually("the webhook has heard of each", func() bool { mu.Lock(); defer mu.Unlock(); return len(heard) >= len(accepted) })

	// A schedule that is run by three has run once for each of its times.
	var schedules struct {
		Items []struct {
			Name, Every string
			History     []struct{ ID int64 }
		}
	}
	if status := all.do("GET", "/api/schedules", nil, &schedules); status != 200 || len(schedules.Items) == 0 {
		t.Fatalf("schedules: %d", status)
	}
	for _, s := range schedules.Items {
		if every, err := time.ParseDuration(s.Every); err == nil && every >= 10*time.Minute && len(s.History) > 2 {
			t.Errorf("%s, every %s, has run %d times since three replicas began: %+v", s.Name, every, len(s.History), s.History)
		}
	}
	if code := replicas[2].end(); code != 0 {
		t.Errorf("the last one ended with %d", code)
	}
}
