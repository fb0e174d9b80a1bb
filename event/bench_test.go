package event_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// BenchmarkDelivery has eight publishers, each with a transaction per event, and one subscription; it ends when everything is
// handled. The delays are from the commit to the commit of the handler.
func BenchmarkDelivery(b *testing.B) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		for _, publishers := range []int{1, 8} {
			b.Run(string(engine)+map[int]string{1: "/one at a time", 8: "/8 publishers"}[publishers], func(b *testing.B) {
				db := storetest.Open(b, engine, schema...)
				bus := newBus(db)
				var mu sync.Mutex
				var delays []time.Duration
				handled := make(chan struct{}, 1<<16)
				bus.Subscribe(event.Subscription{Name: "bench.reader", Handle: func(_ context.Context, tx *store.Tx, e event.Event) error {
					tx.AfterCommit(func() {
						mu.Lock()
						delays = append(delays, time.Since(e.Time))
						mu.Unlock()
						handled <- struct{}{}
					})
					return nil
				}})
				run(b, bus)
				registered(b, bus, "bench.reader")
				b.ResetTimer()
				var wg sync.WaitGroup
				for p := range publishers {
					wg.Go(func() {
						for range b.N/publishers + min(1, max(0, b.N%publishers-p)) {
							publish(b, bus, db, thing("x"))
							if publishers == 1 {
								<-handled
							}
						}
					})
				}
				wg.Wait()
				for range b.N {
					if publishers > 1 {
						<-handled
					}
				}
				b.StopTimer()
				slices.Sort(delays)
				b.ReportMetric(float64(delays[len(delays)/2].Microseconds())/1000, "ms-p50")
				b.ReportMetric(float64(delays[len(delays)*99/100].Microseconds())/1000, "ms-p99")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}
