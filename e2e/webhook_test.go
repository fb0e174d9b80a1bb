package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
)

// TestAServerThatDiesBeforeItNotesADeliverySendsItAgain kills the server when an event has arrived at a webhook's target and before it can know that: the event comes again under
// the same id, and none is lost.
func TestAServerThatDiesBeforeItNotesADeliverySendsItAgain(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			in := install(t, engine)
			var mu sync.Mutex
			var got []string // webhook-id of each, as it came
			var kill func()  // the server that sends, once
			killed := make(chan struct{})
			target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				mu.Lock()
				defer mu.Unlock()
				got = append(got, r.Header.Get("webhook-id"))
				if kill != nil && len(got) == 3 {
					kill()
					kill = nil
					close(killed)
				}
			}))
			t.Cleanup(target.Close)
			const start = "/api/build/by-entity/component:default/web/start"
			first := in.serve()
			first.eventually("the component is bound", func() bool { return first.do("POST", start, nil, nil) == 202 })
			mu.Lock()
			kill = first.kill
			mu.Unlock()
			if status := first.do("POST", "/data/webhooks", map[string]any{"id": "hook", "url": target.URL, "types": []string{event.PipelineRunFinished}}, nil); status != 201 {
				t.Fatalf("the webhook: %d", status)
			}
			for range 8 {
				first.do("POST", start, map[string]any{"ref": "main"}, nil) // 0 once it is killed
			}
			first.eventually("it is killed while it sends", func() bool {
				select {
				case <-killed:
					return true
				default:
					return false
				}
			})

			second := in.serve()
			var events struct{ Items []event.Event }
			second.eventually("every build has ended", func() bool {
				var p page
				return second.do("GET", search+"&status=starting&status=running", nil, &p) == 200 && len(p.Items) == 0 &&
					second.do("GET", "/api/events?limit=100&type="+event.PipelineRunFinished, nil, &events) == 200 && len(events.Items) > 3
			})
			seen := func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(got) }
			// The dead server's right to send ends by itself, after a minute. What it was building may be told of later still.
			for end := time.Now().Add(3 * time.Minute); len(seen()) <= 3 || seen()[len(seen())-1] != events.Items[len(events.Items)-1].ID; time.Sleep(100 * time.Millisecond) {
				second.do("GET", "/api/events?limit=100&type="+event.PipelineRunFinished, nil, &events)
				if time.Now().After(end) {
					t.Fatalf("the target got %v of %d events", seen(), len(events.Items))
				}
			}
			all := seen()
			if all[2] != all[3] {
				t.Errorf("%s was not noted, and what came next is %s", all[2], all[3])
			}
			// What the webhook had begun with may be behind the first events; from its first one on, each came once, in order, but for that one.
			once := slices.Delete(all, 3, 4)
			var want []string
			for _, e := range events.Items {
				if len(want) > 0 || e.ID == once[0] {
					want = append(want, e.ID)
				}
			}
			if !slices.Equal(once, want) {
				t.Errorf("the target got %v, want %v", once, want)
			}
			second.end()
		})
	}
}
