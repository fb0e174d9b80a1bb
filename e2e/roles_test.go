package e2e

import (
	"testing"

	"github.com/slipway-platform/slipway/store"
)

// TestOneReplicaAnswersAndAnotherWorks splits the roles: what the one accepts waits until the other is there.
func TestOneReplicaAnswersAndAnotherWorks(t *testing.T) {
	t.Parallel()
	in := install(t, store.Postgres)
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	worker := in.spawn(path, "--role", "worker")
	web := in.serve("--role", "web")
	const start = "/api/build/by-entity/component:default/web/start"
	web.eventually("the component is bound, by the worker", func() bool { return web.do("POST", start, nil, nil) == 202 })
	ended := func() (n int) {
		var p page
		if web.do("GET", search+"&status=succeeded", nil, &p) != 200 {
			return -1
		}
		return len(p.Items)
	}
	web.eventually("the worker built it", func() bool { return ended() == 1 })
	if status := worker.end(); status != 0 {
		t.Errorf("the worker ended with status %d: %s", status, worker.log)
	}

	var accepted struct {
		Build struct {
			Status string `json:"status"`
		} `json:"build"`
	}
	if status := web.do("POST", start, nil, &accepted); status != 202 || accepted.Build.Status != "starting" {
		t.Fatalf("without a worker: status %d, build %+v", status, accepted.Build)
	}
	if n := ended(); n != 1 {
		t.Errorf("%d builds ended while nobody worked", n)
	}
	in.spawn(path, "--role", "worker")
	web.eventually("another worker took up what waited", func() bool { return ended() == 2 })
	if status := web.end(); status != 0 {
		t.Errorf("the server ended with status %d: %s", status, web.log)
	}
}
