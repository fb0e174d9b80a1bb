//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// TestReplicasCost compares the CPU of a search with one replica and with three on the same PostgreSQL, and tells the database's own: as fast as the machine can, and at
// the same rate of each replica. A process that has little to do needs more for each request, so what matters is that each has as much to do.
func TestReplicasCost(t *testing.T) {
	address := prepare(t, store.Postgres, 1000, number("BENCH_BUILDS", 20_000))
	db, err := store.Open("main", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	var backend int
	if err := db.QueryRowContext(t.Context(), `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		t.Fatal(err)
	}
	server := parent(t, backend)
	var paths []string
	for n := range 1000 {
		paths = append(paths, fmt.Sprintf("/api/build/by-entity/component:default/c%d/search", n))
	}
	seconds := float64(number("BENCH_SECONDS", 5))
	// cost starts replicas, warms them up, and gives µs of CPU a request: theirs, and the database's.
	cost := func(replicas int, rate float64) (ours, theirs float64) {
		var all []*process
		for range replicas {
			all = append(all, start(t, "slipway", address, t.TempDir()))
		}
		calls := func(seconds float64) (n int64) {
			var mu sync.Mutex
			var wg sync.WaitGroup
			for _, p := range all {
				wg.Go(func() {
					o := p.call(t, paths, seconds, rate, 0)
					mu.Lock()
					defer mu.Unlock()
					n += o.Requests
				})
			}
			wg.Wait()
			return n
		}
		used := func() (d time.Duration) {
			for _, p := range all {
				d += p.cpu(t)
			}
			return d
		}
		calls(2)
		before, database := used(), familyCPU(t, server)
		n := float64(calls(seconds))
		ours, theirs = float64((used()-before).Microseconds())/n, float64((familyCPU(t, server)-database).Microseconds())/n
		for _, p := range all {
			p.stop()
		}
		return ours, theirs
	}
	for _, c := range []struct {
		name string
		rate float64
	}{{"as fast as it can", 0}, {"300 a second at each replica", 300}} {
		var one, three, ones, threes, ratio []float64
		for range rounds {
			a, b := cost(1, c.rate)
			c, d := cost(3, c.rate)
			one, ones, three, threes, ratio = append(one, a), append(ones, b), append(three, c), append(threes, d), append(ratio, c/a)
		}
		t.Logf("CPU of a search, %s: %.0f µs with one replica, %.0f µs with three, %.2f times as much; PostgreSQL's own %.0f and %.0f µs (rounds %.0f and %.0f, %.2f; PostgreSQL %.0f and %.0f)",
			c.name, median(one), median(three), median(ratio), median(ones), median(threes), one, three, ratio, ones, threes)
	}
}

func stat(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil // it has ended
	}
	return strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+2:]))
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	n, err := strconv.Atoi(stat(pid)[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// familyCPU is user and system time of a process and its children, those that have ended too.
func familyCPU(t *testing.T, pid int) time.Duration {
	t.Helper()
	ticks := func(fields []string) (n int64) {
		for _, f := range fields {
			v, _ := strconv.ParseInt(f, 10, 64)
			n += v
		}
		return n
	}
	sum := ticks(stat(pid)[11:15])
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range all {
		child, _ := strconv.Atoi(filepath.Base(dir))
		if fields := stat(child); fields != nil && fields[1] == strconv.Itoa(pid) {
			sum += ticks(fields[11:13])
		}
	}
	return time.Duration(sum) * 10 * time.Millisecond // USER_HZ is 100
}
