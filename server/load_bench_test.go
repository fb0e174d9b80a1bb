package server

import (
	"log/slog"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
)

// BenchmarkLoad is what a place costs a request while there are enough.
func BenchmarkLoad(b *testing.B) {
	l := newLoad(Load{Requests: 256, Wait: slipway.Duration(time.Second)}, nil, time.Now, slog.New(slog.DiscardHandler))
	for b.Loop() {
		leave, err := l.enter(b.Context(), classRead)
		if err != nil {
			b.Fatal(err)
		}
		leave()
	}
}
