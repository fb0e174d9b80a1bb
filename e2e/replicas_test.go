package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/auth/issuertest"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
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

// ticks has the database write down, from outside of the program, when a schedule's time is taken and when its job is inserted, each with its transaction.
const ticks = `
CREATE TABLE e2e_tick (name TEXT NOT NULL, at BIGINT NOT NULL, tx BIGINT NOT NULL);
CREATE TABLE e2e_fired (name TEXT NOT NULL, job BIGINT NOT NULL, tx BIGINT NOT NULL);
CREATE FUNCTION e2e_tick() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO e2e_tick VALUES (NEW.name, OLD.next_at, txid_current()); RETURN NEW; END $$;
CREATE FUNCTION e2e_fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO e2e_fired VALUES (NEW.schedule, NEW.id, txid_current()); RETURN NEW; END $$;
CREATE TRIGGER e2e_tick AFTER UPDATE OF next_at ON job_schedule FOR EACH ROW WHEN (NEW.next_at <> OLD.next_at) EXECUTE FUNCTION e2e_tick();
CREATE TRIGGER e2e_fired AFTER INSERT ON job FOR EACH ROW WHEN (NEW.schedule IS NOT NULL) EXECUTE FUNCTION e2e_fired();`

// TestThreeReplicasBehindABalancer has three processes on one PostgreSQL: what one knows all know, work is done once, and service goes on while one is killed, one
// is frozen and thawed, and the database is restarted.
func TestThreeReplicasBehindABalancer(t *testing.T) {
	postgres := storetest.Server(t)
	b := newBalancer(t)
	home := "http://" + b.Addr().String()
	idp := issuertest.NewOpenID(t)
	idp.User("jane")
	idp.Client("slipway", "", home)
	in := installOn(t, postgres.URL("postgres"), fmt.Sprintf(`
server: {externalURL: %q}
auth:
  issuers: [{name: idp, kind: oidc, issuer: %q, audience: slipway-api, userClaim: preferred_username}]
  login: {issuer: idp, clientID: slipway}
`, home, idp.URL))
	db, err := store.Open("main", in.database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if out, err := in.run("db", "migrate", "up"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := db.Writer().ExecContext(t.Context(), ticks); err != nil {
		t.Fatal(err)
	}
	// number asks the database; -1 while it is away.
	number := func(query string) int {
		n := -1
		_ = db.QueryRowContext(t.Context(), query).Scan(&n)
		return n
	}

	first := in.serve()
	replicas := []*replica{first, in.serve(), in.serve()}
	b.set(replicas...)
	all := &replica{in: in, cmd: first.cmd, url: home, log: first.log}
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
	whoIsWhoEverywhere(t, all, replicas)
	oneSessionEverywhere(t, all, replicas)

	// Work goes on, and is done once, whatever happens to a replica.
	accepted := map[string]bool{}
	lastly, longest := time.Now(), time.Duration(0) // between two builds that were accepted
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
						longest, lastly = max(longest, time.Since(lastly)), time.Now()
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
		// A process that is frozen in the middle of a transaction holds its locks until PostgreSQL ends it, after five seconds, and a client that it has accepted waits
		// for as long as it likes, which is 20 seconds here.
		n, began := count(), time.Now()
		for count() <= n+5 {
			if time.Since(began) > 2*time.Minute {
				t.Fatalf("it did not happen within two minutes: %s", what)
			}
			time.Sleep(20 * time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		t.Logf("%s: after %.1f s; longest pause %.1f s", what, time.Since(began).Seconds(), longest.Seconds())
		longest = 0
	}
	more("builds are accepted")
	replicas[0].kill()
	b.set(replicas[1:]...)
	more("builds are accepted after one was killed")
	all.eventually("the one that was killed is missed", func() bool { return number("SELECT count(*) FROM job_replica") == 2 })
	_ = replicas[1].cmd.Process.Signal(syscall.SIGSTOP)
	b.set(replicas[2])
	more("builds are accepted while one is frozen")
	all.eventually("the frozen one is missed, and others take over what it was at", func() bool { return number("SELECT count(*) FROM job_replica") == 1 })
	more("builds are accepted while one is missed")
	_ = replicas[1].cmd.Process.Signal(syscall.SIGCONT)
	b.set(replicas[1:]...)
	all.eventually("the thawed one starts anew", func() bool { return number("SELECT count(*) FROM job_replica") == 2 })
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

	// Each time of a schedule was taken once, and each job that a schedule inserted belongs to one of its times.
	all.eventually("schedules have fired", func() bool { return number("SELECT count(*) FROM e2e_fired") > 5 })
	if n := number("SELECT count(*) FROM (SELECT 1 FROM e2e_tick GROUP BY name, at HAVING count(*) > 1) AS twice"); n != 0 {
		t.Errorf("%d times of schedules were taken twice", n)
	}
	if n := number(`SELECT count(*) FROM e2e_fired f WHERE (SELECT count(*) FROM e2e_tick k WHERE k.name = f.name AND k.tx = f.tx) <> 1
		OR (SELECT count(*) FROM e2e_fired o WHERE o.name = f.name AND o.tx = f.tx) <> 1`); n != 0 {
		t.Errorf("%d jobs of schedules have no time of their own", n)
	}
	t.Logf("%d builds accepted, %d times of schedules, %d jobs of them", len(accepted), number("SELECT count(*) FROM e2e_tick"), number("SELECT count(*) FROM e2e_fired"))
	if code := replicas[2].end(); code != 0 {
		t.Errorf("the last one ended with %d", code)
	}
}

// whoIsWhoEverywhere has tokens believed and refused by all replicas, and counted together.
func whoIsWhoEverywhere(t *testing.T, all *replica, replicas []*replica) {
	t.Helper()
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
}

// oneSessionEverywhere has somebody sign in through the balancer, which sends each step to another replica, and use, lose and end that at all of them.
func oneSessionEverywhere(t *testing.T, all *replica, replicas []*replica) {
	t.Helper()
	jane := issuertest.NewBrowser(t, all.url) // cookies are of a host, whatever the port
	if a := jane.SignIn("jane", "/auth"); a.StatusCode != 303 {
		t.Fatalf("signed in with %d: %s", a.StatusCode, a.Text)
	}
	everywhere := func(what, path string, status int) (longest time.Duration) {
		t.Helper()
		began := time.Now()
		for _, r := range replicas {
			r.eventually(what, func() bool { return jane.Open(r.url+path, nil).StatusCode == status })
		}
		return time.Since(began)
	}
	everywhere("the session counts everywhere", "/api/auth/me", 200)
	everywhere("without a grant", "/api/schedules", 403)
	if status := replicas[0].do("POST", "/data/grants", map[string]any{"id": "jane", "to": "user:default/jane", "permissions": []string{"platform.schedule.read"}}, nil); status != 201 {
		t.Fatalf("a grant: %d", status)
	}
	granted := everywhere("the grant counts everywhere", "/api/schedules", 200)
	if status := replicas[1].do("DELETE", "/data/grants/jane", nil, nil); status != 204 {
		t.Fatalf("the grant is taken away: %d", status)
	}
	taken := everywhere("the grant is gone everywhere", "/api/schedules", 403)
	if a := jane.Open(replicas[2].url+"/auth/logout", url.Values{"session": {""}}); a.StatusCode >= 400 {
		t.Fatalf("signed out with %d: %s", a.StatusCode, a.Text)
	}
	ended := everywhere("the session is over everywhere", "/api/auth/me", 401)
	t.Logf("at all three replicas: a grant counts after %d ms, is gone after %d ms; a session is over after %d ms", granted.Milliseconds(), taken.Milliseconds(), ended.Milliseconds())
	if most := 10 * time.Second; granted > most || taken > most || ended > most { // 0.5 s on a machine that is not busy
		t.Error("that is too long")
	}
}
