//go:build bench

package bench

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// placesVariable says how many requests a server of the benchmarks works at a time.
const placesVariable = "BENCH_PLACES"

func configureLoad(c *server.Config) {
	if n, err := strconv.Atoi(os.Getenv(placesVariable)); err == nil {
		c.Server.Load.Requests = n
	}
}

// TestLoadNumbers has far more callers than a server can answer, with a bound on what it works at a time and without. Callers who are refused come again when they are told to.
func TestLoadNumbers(t *testing.T) {
	readers, seconds := number("BENCH_READERS", 2000), number("BENCH_SECONDS", 10)
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		url := prepare(t, e, 100, 100_000)
		for _, places := range []int{1_000_000, 256} {
			t.Setenv(placesVariable, fmt.Sprint(places))
			p := start(t, "slipway", url, t.TempDir())
			reads, writes := p.flood(t, readers, time.Duration(seconds)*time.Second)
			bound := "256 places"
			if places > 256 {
				bound = "no bound"
			}
			numbers.note(t, fmt.Sprintf("%d callers, %s: reads", readers, bound), e, reads.String(), "noted")
			numbers.note(t, fmt.Sprintf("%d callers, %s: 8 writers beside them", readers, bound), e, writes.String(), "noted")
			p.stop()
		}
	}
}

// answers is what one class of callers got.
type answers struct {
	mu      sync.Mutex
	took    []time.Duration
	refused int
	failed  int
	seconds float64
}

func (a *answers) add(status int, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case status >= 200 && status < 300:
		a.took = append(a.took, took)
	case status == 503:
		a.refused++
	default:
		a.failed++
	}
}

func (a *answers) String() string {
	if len(a.took) == 0 {
		return fmt.Sprintf("none answered, %d refused, %d without an answer", a.refused, a.failed)
	}
	slices.Sort(a.took)
	at := func(q float64) time.Duration { return a.took[int(q*float64(len(a.took)-1))].Round(time.Millisecond) }
	return fmt.Sprintf("%.0f a second, median %s, p99 %s; %d refused, %d without an answer", float64(len(a.took))/a.seconds, at(.5), at(.99), a.refused, a.failed)
}

func (p *process) flood(t *testing.T, readers int, long time.Duration) (reads, writes *answers) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: readers + 8}, Timeout: 10 * time.Second} // as callers' own patience
	reads, writes = &answers{seconds: long.Seconds()}, &answers{seconds: long.Seconds()}
	end := time.Now().Add(long)
	loop := func(a *answers, method, path, body string) {
		for time.Now().Before(end) {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.addr+path, strings.NewReader(body))
			if err != nil {
				panic(err)
			}
			req.Header.Set("Authorization", "Bearer "+p.token)
			req.Header.Set("Content-Type", "application/json")
			start := time.Now()
			res, err := client.Do(req)
			if err != nil {
				a.add(0, 0)
				continue
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			a.add(res.StatusCode, time.Since(start))
			if after, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && res.StatusCode == 503 {
				time.Sleep(min(time.Duration(after)*time.Second, time.Until(end)))
			}
		}
	}
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			loop(reads, "GET", fmt.Sprintf("/api/build/by-entity/component:default%%2Fc%d/search", i%100), "")
		})
	}
	for i := range 8 {
		wg.Go(func() {
			loop(writes, "POST", "/api/devlake/deployments", fmt.Sprintf(`{"id":"d%d","service":"c%[1]d","environment":"production","status":"SUCCESS","startTime":"2026-11-21T10:00:00Z","endTime":"2026-11-21T10:01:00Z"}`, i))
		})
	}
	wg.Wait()
	return reads, writes
}
