package auth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func withLimits(user, service Rate) Config {
	cfg := DefaultConfig()
	cfg.RateLimits.User, cfg.RateLimits.Service = user, service
	return cfg
}

var jane = &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane"}

// count counts a request and fails the test on anything but a refusal.
func (r replica) count(t testing.TB, c *slipway.Caller) Limit {
	t.Helper()
	l, err := r.Count(t.Context(), c, "")
	if err != nil && !errors.Is(err, slipway.RateLimited) {
		t.Fatal(err)
	}
	if l.Exceeded != (err != nil) {
		t.Fatalf("exceeded %v with error %v", l.Exceeded, err)
	}
	return l
}

func TestLimitIsExactOnOneReplica(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{1, 7, 100, 1000} {
		storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
			c := newClock()
			r := newReplica(t, db, c, withLimits(Rate(limit), 0))
			r.Replicas = func() int { return 1 }
			reset := time.Date(2030, 5, 1, 12, 1, 0, 0, time.UTC)
			for range 2 { // two minutes
				for i := range limit {
					want := Limit{Limit: limit, Remaining: limit - i - 1, Reset: reset}
					if got := r.count(t, jane); got != want {
						t.Fatalf("request %d: got %+v, want %+v", i+1, got, want)
					}
				}
				for range 3 {
					if got := r.count(t, jane); got != (Limit{Limit: limit, Reset: reset, Exceeded: true}) {
						t.Fatalf("one too many: got %+v", got)
					}
				}
				_, err := r.Count(t.Context(), jane, "")
				var e *slipway.Error
				if !errors.As(err, &e) || e.RetryAfter != reset.Sub(c.Now()) {
					t.Errorf("got %v, want RateLimited until %v", err, reset)
				}
				c.Add(time.Minute)
				reset = reset.Add(time.Minute)
			}
		})
	}
}

func TestLimitIsExactUnderConcurrentRequests(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		r := newReplica(t, db, newClock(), withLimits(100, 0))
		var allowed atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 30 {
					l, err := r.Count(t.Context(), jane, "")
					if err == nil && !l.Exceeded {
						allowed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if allowed.Load() != 100 {
			t.Errorf("%d of 480 requests were let through, want 100", allowed.Load())
		}
	})
}

// The bounds of the contract over replicas: never more than 5 % above the limit, nor 10 % below, at one write for five requests or less.
func TestLimitOverReplicas(t *testing.T) {
	t.Parallel()
	type load struct {
		name  string
		share func(i, replicas int) int // which replica gets request i
	}
	loads := []load{
		{"in turn", func(i, n int) int { return i % n }},
		{"at random", func(_, n int) int { return rand.IntN(n) }},
		{"one after the other", func(i, n int) int { return min(i/20, n-1) }},
		{"all met once, then one", func(i, n int) int {
			if i < n {
				return i
			}
			return n - 1
		}},
	}
	for _, replicas := range []int{3, 10, 20} {
		for _, limit := range []int64{100, 1000} {
			for _, load := range loads {
				t.Run(fmt.Sprintf("%d replicas, %d, %s", replicas, limit, load.name), func(t *testing.T) {
					t.Parallel()
					storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
						c := newClock()
						all := make([]replica, replicas)
						for i := range all {
							all[i] = newReplica(t, db, c, withLimits(Rate(limit), 0))
							all[i].Replicas = func() int { return replicas }
						}
						allowed, refused, writes := int64(0), 0, int64(0)
						for i := 0; refused < 3*replicas; i++ {
							if all[load.share(i, replicas)].count(t, jane).Exceeded {
								refused++
							} else {
								allowed++
							}
						}
						for _, r := range all {
							writes += r.Stats().LimitLeases
						}
						if float64(allowed) > 1.05*float64(limit) || float64(allowed) < 0.9*float64(limit) {
							t.Errorf("%d requests were let through, limit %d", allowed, limit)
						}
						if share := float64(writes-int64(replicas)) / float64(allowed); limit >= 1000 && share > 0.2 {
							t.Errorf("%.2f writes per request, want at most 0.2", share)
						}
					})
				})
			}
		}
	}
}

func TestRefusedKeyWritesNothingUntilReset(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, withLimits(2, 0))
		for range 3 {
			r.count(t, jane)
		}
		var writes atomic.Int64
		onWrite := db.OnWrite
		db.OnWrite = func(held time.Duration, rows int64) { writes.Add(1); onWrite(held, rows) }
		for range 1000 {
			if !r.count(t, jane).Exceeded {
				t.Fatal("let through")
			}
		}
		if writes.Load() != 0 {
			t.Errorf("%d writes for refused requests", writes.Load())
		}
		c.Add(time.Minute)
		if r.count(t, jane).Exceeded {
			t.Error("refused in the next minute")
		}
	})
}

func TestWhoCountsOnWhichLimit(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		r := newReplica(t, db, newClock(), withLimits(3, 5))
		_, laptop := r.create(t, System(), NewToken{Name: "laptop", User: "user:default/jane"})
		_, phone := r.create(t, System(), NewToken{Name: "phone", User: "user:default/jane"})
		own, none := Rate(7), Rate(0)
		_, a := r.create(t, System(), NewToken{Name: "a", Admin: true})
		_, b := r.create(t, System(), NewToken{Name: "b", Admin: true, RateLimit: &own})
		_, unlimited := r.create(t, System(), NewToken{Name: "c", Admin: true, RateLimit: &none})

		// All tokens of a user count together.
		r.count(t, r.as(t, laptop))
		if got := r.count(t, r.as(t, phone)); got.Limit != 3 || got.Remaining != 1 {
			t.Errorf("second request of the user: got %+v", got)
		}
		if got := r.count(t, r.as(t, a)); got.Limit != 5 || got.Remaining != 4 {
			t.Errorf("service: got %+v", got)
		}
		if got := r.count(t, r.as(t, b)); got.Limit != 7 || got.Remaining != 6 {
			t.Errorf("service with its own limit: got %+v", got)
		}
		if got := r.count(t, r.as(t, unlimited)); got != (Limit{}) {
			t.Errorf("service without limit: got %+v", got)
		}
		if got := r.count(t, System()); got != (Limit{}) {
			t.Errorf("the system itself: got %+v", got)
		}
		tool := &slipway.Caller{Kind: slipway.CallerTool, Subject: "tool:wm"}
		if got := r.count(t, tool); got.Limit != 3 || got.Remaining != 2 {
			t.Errorf("tool: got %+v", got)
		}
	})
}

func TestFailedSignInsAreLimitedByAddress(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		cfg := DefaultConfig()
		cfg.RateLimits.Address = 2
		r := newReplica(t, db, newClock(), cfg)
		for i, addr := range []string{"192.0.2.1:1000", "192.0.2.1:2000", "::ffff:192.0.2.1"} {
			_, err := r.CountFailure(t.Context(), addr)
			if refused := errors.Is(err, slipway.RateLimited); refused != (i == 2) {
				t.Errorf("failure %d of one address: got %v", i+1, err)
			}
		}
		if _, err := r.CountFailure(t.Context(), "192.0.2.2"); err != nil {
			t.Errorf("another address: %v", err)
		}
		for i, addr := range []string{"2001:db8::1", "[2001:db8::ffff:1]:80", "2001:db8:0:0:5::%eth0"} {
			_, err := r.CountFailure(t.Context(), addr)
			if refused := errors.Is(err, slipway.RateLimited); refused != (i == 2) {
				t.Errorf("failure %d of one network: got %v", i+1, err)
			}
		}
	})
}

func TestReplicaThatStopsGivesBackWhatItDidNotUse(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		a, b := newReplica(t, db, c, withLimits(100, 0)), newReplica(t, db, c, withLimits(100, 0))
		for _, r := range []replica{a, b} {
			r.Replicas = func() int { return 1 } // so that they lease much
		}
		a.count(t, jane)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		allowed := 0
		for !b.count(t, jane).Exceeded {
			allowed++
		}
		if allowed != 99 {
			t.Errorf("the other replica let %d through, want all that was left: 99", allowed)
		}
	})
}

func TestReplicasAreCounted(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, schema...)
	c := newClock()
	var all []replica
	for range 4 {
		r := newReplica(t, db, c, DefaultConfig())
		if err := r.beat(t.Context()); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if n := all[3].countReplicas(); n != 4 {
		t.Errorf("counted %d replicas, want 4", n)
	}
	if err := all[0].stop(t.Context()); err != nil { // says goodbye
		t.Fatal(err)
	}
	c.Add(beatLost) // the others fall silent
	if err := all[3].beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := all[3].countReplicas(); n != 1 {
		t.Errorf("counted %d replicas, want 1", n)
	}
}

func TestWindowsGoByTheClockOfTheDatabase(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, schema...)
	ahead, behind := newClock(), newClock()
	ahead.Add(7 * time.Minute)
	a, b := newReplica(t, db, ahead, withLimits(10, 0)), newReplica(t, db, behind, withLimits(10, 0))
	for _, r := range []replica{a, b} {
		if err := r.limits.learn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if d := a.limits.clock() - b.limits.clock(); max(d, -d) > time.Second.Microseconds() {
		t.Fatalf("their clocks differ by %d µs", d)
	}
	// They learned at different moments, and a minute may have turned between them.
	a.limits.offset.Store(b.limits.clock() - ahead.Now().UnixMicro())
	allowed := 0
	for range 20 {
		for _, r := range []replica{a, b} {
			if !r.count(t, jane).Exceeded {
				allowed++
			}
		}
	}
	if allowed != 10 {
		t.Errorf("%d requests were let through, want 10", allowed)
	}
}

func TestReplicaThatIsAMomentAheadDoesNotOpenTheOldMinuteAgain(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c, ahead := newClock(), newClock()
		ahead.Add(time.Minute)
		a, b := newReplica(t, db, c, withLimits(10, 0)), newReplica(t, db, ahead, withLimits(10, 0))
		allowed := 0
		for range 20 {
			for _, r := range []replica{b, a} {
				if !r.count(t, jane).Exceeded {
					allowed++
				}
			}
		}
		if allowed != 10 {
			t.Errorf("%d requests were let through, want 10", allowed)
		}
	})
}

func TestSilentDatabaseRefusesNobodyForIt(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		c := newClock()
		r := newReplica(t, db, c, withLimits(10, 0))
		_ = db.Close()
		allowed := 0
		for range 20 {
			if !r.count(t, jane).Exceeded {
				allowed++
			}
		}
		if allowed != 10 {
			t.Errorf("%d requests were let through, want the limit of this replica alone: 10", allowed)
		}
		if r.Stats().LimitFailures != 1 {
			t.Errorf("%d failures counted, want 1: a silent database is left alone for a while", r.Stats().LimitFailures)
		}
	})
}

func TestCancelledRequestDoesNotWaitForItsCount(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, schema...)
	r := newReplica(t, db, newClock(), withLimits(10, 0))
	release, held := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(release)
	wg.Go(func() { // somebody holds the one writer
		_ = db.Write(t.Context(), func(*store.Tx) error { close(held); <-release; return nil })
	})
	<-held
	wg.Go(func() { _, _ = r.Count(context.WithoutCancel(t.Context()), jane, "") }) // fetches the lease
	deadline := time.Now().Add(10 * time.Second)
	for w, _, _ := r.limits.at(jane.Subject); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		asking := w.asking != nil
		w.mu.Unlock()
		if asking {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody asked for a lease")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Count(ctx, jane, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want it to end with the request", err)
	}
}

func TestAddressesAreBoundedInMemory(t *testing.T) {
	t.Parallel()
	l := &limiter{now: newClock().Now}
	for i := range maxKeys + 10 {
		l.at(fmt.Sprintf("address:%d", i))
	}
	l.at("user:default/jane")
	if n := len(l.keys); n > maxKeys+2 {
		t.Errorf("%d keys are kept", n)
	}
	if _, _, key := l.at("user:default/jane"); key != "user:default/jane" {
		t.Errorf("a user counts as %q", key)
	}
}
