package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-platform/slipway"
)

// gate makes a load with that many places and a second's patience, and what it logs.
func gate(places int) (*load, *bytes.Buffer) {
	var log bytes.Buffer
	return newLoad(Load{Requests: places, Wait: slipway.Duration(time.Second)}, nil, time.Now, slog.New(slog.NewTextHandler(&log, nil))), &log
}

// enterAll asks for that many places at once and gives back how many were refused, and when the last one was; nobody leaves.
func enterAll(t *testing.T, l *load, n, class int) (refused int, after time.Duration) {
	t.Helper()
	start, errs := time.Now(), make(chan error, n)
	for range n {
		go func() {
			_, err := l.enter(t.Context(), class)
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			if coded, ok := errors.AsType[*slipway.Error](err); !ok || coded.Code != slipway.Unavailable || coded.RetryAfter < time.Second || coded.RetryAfter > 3*time.Second {
				t.Fatalf("refused with %v", err)
			}
			refused++
			after = time.Since(start)
		}
	}
	return refused, after
}

// pass moves the clock of the bubble that the test runs in.
func pass(d time.Duration) { <-time.After(d) }

func TestRequestsPastThePlacesWaitAndAreThenRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, log := gate(10)
		if refused, after := enterAll(t, l, 13, classWrite); refused != 3 || after != time.Second {
			t.Errorf("%d were refused after %s; want 3 after a second", refused, after)
		}
		if _, refused := l.count(); refused[classWrite] != 3 || strings.Count(log.String(), "requests are refused") != 1 {
			t.Errorf("counted %v, logged\n%s", refused, log)
		}
	})
}

func TestTheQueueIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, _ := gate(2)
		enterAll(t, l, 2, classWrite)
		ctx, cancel := context.WithCancel(t.Context())
		for range loadQueue * 2 {
			go func() { _, _ = l.enter(ctx, classRead) }()
		}
		synctest.Wait()
		if refused, after := enterAll(t, l, 1, classWrite); refused != 1 || after != 0 {
			t.Errorf("past the queue %d were refused, after %s; want one at once", refused, after)
		}
		cancel() // callers that go away make room
		synctest.Wait()
		if waiting, _ := l.count(); waiting[classRead] != 0 {
			t.Errorf("%v wait though they went away", waiting)
		}
	})
}

func TestWritesGetThroughWhereReadsDoNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, _ := gate(10)
		if refused, _ := enterAll(t, l, 50, classRead); refused != 42 {
			t.Errorf("%d of 50 reads were refused; want all but four fifths of the places", refused)
		}
		if refused, after := enterAll(t, l, 2, classWrite); refused != 0 || after != 0 {
			t.Errorf("%d of 2 writes were refused", refused)
		}
	})
}

func TestWhoWaitsGetsThePlaceThatIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, _ := gate(1)
		leave, err := l.enter(t.Context(), classRead)
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan string, 3)
		for _, who := range []struct {
			name  string
			class int
		}{{"read 1", classRead}, {"read 2", classRead}, {"write", classWrite}} {
			go func() {
				leave, err := l.enter(t.Context(), who.class)
				if err == nil {
					order <- who.name
					leave()
				}
			}()
			synctest.Wait()
		}
		leave()
		leave() // does nothing
		for _, want := range []string{"write", "read 1", "read 2"} {
			if got := <-order; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		synctest.Wait()
		if l.active != 0 || l.reads != 0 {
			t.Errorf("%d places and %d reads are left", l.active, l.reads)
		}
	})
}

// A queue that does not empty for a second is no burst: from then on nobody waits long for nothing.
func TestWhileTheQueueStandsNobodyWaitsLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, log := gate(4)
		enterAll(t, l, 4, classWrite)
		var mu sync.Mutex
		var waits []time.Duration
		ask := func() {
			start := time.Now()
			if _, err := l.enter(t.Context(), classWrite); err != nil {
				mu.Lock()
				defer mu.Unlock()
				waits = append(waits, time.Since(start))
			}
		}
		for range 40 { // one more each tenth of a second, for four seconds
			go ask()
			pass(100*time.Millisecond - time.Millisecond)
		}
		pass(2 * time.Second)
		synctest.Wait()
		short := 0
		for _, w := range waits {
			if w == 100*time.Millisecond {
				short++
			} else if w != time.Second {
				t.Errorf("one waited for %s", w)
			}
		}
		if len(waits) != 40 || short < 25 {
			t.Errorf("%d were refused, %d of them soon", len(waits), short)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("the log has %d lines for them:\n%s", n, log)
		}
		pass(10 * time.Second)
		enterAll(t, l, 1, classWrite)
		if !strings.Contains(log.String(), "refused=40") {
			t.Errorf("the log does not count those it kept silent about:\n%s", log)
		}
	})
}

func TestASlowDatabaseLeavesFewerPlaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, _ := gate(8)
		l.slow, l.looked = true, time.Now()
		if refused, _ := enterAll(t, l, 8, classWrite); refused != 6 {
			t.Errorf("%d of 8 were refused while the database is slow; want all but a quarter of the places", refused)
		}
		pass(loadLook) // it is looked at again
		if refused, _ := enterAll(t, l, 8, classWrite); refused != 2 {
			t.Errorf("%d of 8 were refused when it was well again; want those past the places", refused)
		}
	})
}

func TestLevelsHoldForATimeAndForAComponent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		levels := NewLevels(slog.LevelInfo)
		log := slog.New(levels.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
		vendor, build := log.With("provider", "github"), log.With("blueprint", "build").WithGroup("run").With("n", 1)
		said := func() (got string) {
			out.Reset()
			log.Debug("a")
			vendor.Debug("b")
			build.Debug("c")
			build.Info("d")
			for line := range strings.Lines(out.String()) {
				_, rest, _ := strings.Cut(line, "msg=")
				got += rest[:1]
			}
			return got
		}
		in := func(d time.Duration) *time.Time { return new(time.Now().Add(d)) }
		for _, c := range []struct {
			set  map[string]LogLevel
			want string
		}{
			{nil, "d"},
			{map[string]LogLevel{"github": {slog: slog.LevelDebug, Until: in(time.Minute)}}, "bd"},
			{map[string]LogLevel{"all": {slog: slog.LevelDebug, Until: in(time.Minute)}}, "abcd"},
			{map[string]LogLevel{"all": {slog: slog.LevelDebug, Until: in(time.Minute)}, "build": {slog: slog.LevelError, Until: in(time.Minute)}}, "ab"},
		} {
			levels.set.Store(&c.set)
			if got := said(); got != c.want {
				t.Errorf("with %v: got %q, want %q", c.set, got, c.want)
			}
		}
		pass(time.Minute)
		if got := said(); got != "d" {
			t.Errorf("after its time: got %q", got)
		}
	})
}
