package e2e

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// TestTwoVersionsWorkSideBySide upgrades one PostgreSQL's servers one after the other, to a version that has more in its schema and more kinds of everything: those of the
// version before go on with what they know, also when they are started anew, leave alone what they do not, and are refused only where something was taken away.
func TestTwoVersionsWorkSideBySide(t *testing.T) {
	t.Parallel()
	in := install(t, store.Postgres)
	db, err := store.Open("main", in.database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	number := func(query string) int {
		n := -1
		if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	const start = "/api/build/by-entity/component:default/web/start"
	old := []*replica{in.serve(), in.serve()}
	old[0].eventually("the component is bound", func() bool { return old[0].do("POST", start, nil, nil) == 202 })
	accepted := map[string]bool{}
	builds := func(replicas ...*replica) {
		t.Helper()
		for _, r := range replicas {
			var out struct{ Build struct{ ID, Status string } }
			if status := r.do("POST", start, map[string]any{"ref": "main"}, &out); status != 202 {
				t.Fatalf("a build: %d", status)
			}
			accepted[out.Build.ID] = true
			r.eventually("the build ends well", func() bool {
				return r.do("GET", "/api/build/by-entity/component:default/web/builds/"+out.Build.ID, nil, &out.Build) == 200 && out.Build.Status == "succeeded"
			})
		}
	}
	builds(old...)

	// The first of the next version changes the schema under the others, which are under load.
	stop := make(chan struct{})
	var load sync.WaitGroup
	for _, r := range old {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				for _, path := range []string{search, "/api/events?limit=100", "/api/jobs?limit=100", "/api/schedules", "/data/providers", "/api/catalog/entities", "/api/tokens"} {
					if status := r.do("GET", path, nil, nil); status != 200 {
						t.Errorf("during the upgrade: %s: %d", path, status)
					}
				}
			}
		})
	}
	next := in.serveBy(nextProgram)
	next.eventually("the next version works", func() bool { return number("SELECT count(*) FROM next_tick") > 2 })
	if status := next.do("POST", "/data/providers", map[string]any{"id": "vendor", "type": "next"}, nil); status != 201 {
		t.Fatalf("a provider of the next version: %d", status)
	}
	builds(old[0], next, old[1])
	var providers struct {
		Items []struct{ ID, Name, Type, State string }
	}
	old[0].eventually("a provider that only the next version can open is shown as failed", func() bool {
		if old[0].do("GET", "/api/providers", nil, &providers) != 200 {
			return false
		}
		for _, p := range providers.Items {
			if p.Name == "vendor" && p.State == "failed" {
				return true
			}
		}
		return false
	})

	// What only the next version can do waits for it, untouched, beside what the others do in the same queue.
	if status := next.do("POST", "/api/next/work", nil, nil); status >= 300 {
		t.Fatalf("work for the next version: %d", status)
	}
	next.kill()
	const waiting = "SELECT count(*) FROM job WHERE kind = 'next.work' AND state = 'available' AND attempt = 0"
	old[0].eventually("the work is due", func() bool { return number(waiting)+number("SELECT count(*) FROM next_work") == 10 })
	left := number(waiting)
	builds(old...)
	if n := number(waiting); n != left {
		t.Errorf("of %d jobs that nobody knows %d are left", left, n)
	}
	close(stop)
	load.Wait()

	// One of the version before that starts now finds more than it knows.
	old[0].end()
	again := in.serve()
	if !strings.Contains(again.log.String(), "a newer version of Slipway has used the database") {
		t.Errorf("it does not say so: %s", again.log)
	}
	builds(again, old[1])
	out, err := in.run("db", "status")
	if err != nil || strings.Count(string(out), "(of a newer version)") != 4 {
		t.Errorf("db status: %v\n%s", err, out)
	}
	if out, err := in.run("db", "migrate", "down", "--owner", "event", "--yes"); err == nil || !strings.Contains(string(out), "migration 9001 of event") {
		t.Errorf("the way back is not known, and was taken: %v %s", err, out)
	}

	// The last of the version before goes.
	after := in.serveBy(nextProgram)
	after.eventually("what waited is done", func() bool { return number("SELECT count(*) FROM next_work") == 10 })
	again.end()
	old[1].end()
	builds(after)
	if n := number("SELECT count(*) FROM job WHERE kind LIKE 'next.%' AND state IN ('discarded', 'retrying')"); n != 0 {
		t.Errorf("%d jobs of the next version have failed", n)
	}
	if n := number("SELECT (SELECT count(*) FROM next_tick) - (SELECT count(*) FROM job WHERE schedule = 'next.tick' AND state = 'completed')"); n != 0 {
		t.Errorf("the times of a schedule were noted %d times too often", n)
	}
	var p page
	if status := after.do("GET", search, nil, &p); status != 200 {
		t.Fatal(status)
	}
	for _, b := range p.Items {
		delete(accepted, b.ID)
	}
	if len(accepted) > 0 {
		t.Errorf("builds %v are lost", accepted)
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
	after.end()

	// A step that takes something away keeps out who may need it.
	path, err := nextProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "db", "migrate", "up", "--config", in.config)
	cmd.Env = append(os.Environ(), "SLIPWAY_NEXT=contract")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := in.run("serve", "--listen", "127.0.0.1:0"); err == nil || !strings.Contains(string(out), "migration 9002 of event") {
		t.Errorf("the version before starts on a schema that lacks something: %v %s", err, out)
	}
}
