//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// spread is one way to put load on one replica, and on three.
type spread struct {
	name       string
	one, three float64 // requests a second at each replica; 0: as fast as the machine can
	callers    [2]int  // connections at each replica, of one and of three
}

// spending is what was spent on a request, or in a second at rest: CPU of the replicas and of the database, in µs, and how often a thread of the replicas waited for something.
type spending struct{ ours, database, waits float64 }

// TestReplicasCost compares the CPU of a search with one replica and with three on the same PostgreSQL, and tells the database's own. What counts is the same load in all, far below what the machine can do,
// without what the processes need at rest, which is told beside it. A process with little to do needs more for each request, as it goes to sleep after each step of it and is woken for the next: so the same
// load at each replica is taken too, and what happens when the machine is full.
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
	seconds := number("BENCH_SECONDS", 5)
	// measure starts replicas, warms them up, and tells what a second at rest and a request above that cost.
	measure := func(replicas int, rate float64, callers int) (rest, request spending) {
		t.Setenv(connectionsVariable, strconv.Itoa(callers))
		var all []*process
		for range replicas {
			all = append(all, start(t, "slipway", address, t.TempDir()))
		}
		calls := func(seconds float64) float64 {
			var n atomic.Int64
			var wg sync.WaitGroup
			for _, p := range all {
				wg.Go(func() { n.Add(p.call(t, paths, seconds, rate, 0).Requests) })
			}
			wg.Wait()
			return float64(n.Load())
		}
		used := func() (s spending) {
			for _, p := range all {
				s.ours += float64(p.cpu(t).Microseconds())
				s.waits += waits(t, p.cmd.Process.Pid)
			}
			s.database = float64(familyCPU(t, server).Microseconds())
			return s
		}
		since := func(before spending, n float64) spending {
			now := used()
			return spending{(now.ours - before.ours) / n, (now.database - before.database) / n, (now.waits - before.waits) / n}
		}
		calls(2)
		before := used()
		for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
			time.Sleep(100 * time.Millisecond) // how long is what is measured
		}
		rest = since(before, float64(seconds))
		before, begin := used(), time.Now()
		n := calls(float64(seconds))
		took := time.Since(begin).Seconds()
		request = since(before, n)
		request.ours -= rest.ours * took / n
		request.database -= rest.database * took / n
		for _, p := range all {
			p.stop()
		}
		return rest, request
	}
	for _, s := range []spread{
		{"900 a second in all", 900, 300, [2]int{15, 5}},
		{"300 a second at each", 300, 300, [2]int{15, 15}},
		{"as many as two cores can do, 15 callers in all", 0, 0, [2]int{15, 5}},
		{"as many as two cores can do, 15 callers at each", 0, 0, [2]int{15, 15}},
	} {
		var rest, request [2][]spending
		var ratio []float64
		for range rounds {
			for i, replicas := range []int{1, 3} {
				idle, busy := measure(replicas, []float64{s.one, s.three}[i], s.callers[i])
				rest[i], request[i] = append(rest[i], idle), append(request[i], busy)
			}
			ratio = append(ratio, request[1][len(ratio)].ours/request[0][len(ratio)].ours)
		}
		of := func(all []spending, what func(spending) float64) float64 {
			var values []float64
			for _, s := range all {
				values = append(values, what(s))
			}
			return median(values)
		}
		ours, database := func(s spending) float64 { return s.ours }, func(s spending) float64 { return s.database }
		waited := func(s spending) float64 { return s.waits }
		t.Logf("a search, %s: %.2f times the CPU with three replicas (rounds %.2f): %.0f and %.0f µs; PostgreSQL %.0f and %.0f µs; a thread waits %.1f and %.1f times; at rest %.1f and %.1f ms a second, PostgreSQL %.1f and %.1f",
			s.name, median(ratio), ratio, of(request[0], ours), of(request[1], ours), of(request[0], database), of(request[1], database), of(request[0], waited), of(request[1], waited),
			of(rest[0], ours)/1000, of(rest[1], ours)/1000, of(rest[0], database)/1000, of(rest[1], database)/1000)
	}
}

// waits is how often the threads of a process have given up their core because they had to wait.
func waits(t *testing.T, pid int) (n float64) {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(raw), "\nvoluntary_ctxt_switches:")
		line, _, _ := strings.Cut(rest, "\n")
		count, _ := strconv.ParseFloat(strings.TrimSpace(line), 64)
		n += count
	}
	return n
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
