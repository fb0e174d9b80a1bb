package provider

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// circuit keeps requests from a host that does not answer. After circuitAfter failures in a row it is open for circuitRest; then one request may try, and its end
// decides. The zero value is closed.
type circuit struct {
	mu       sync.Mutex
	failures int
	until    time.Time
	trying   bool // one request is on its way to see whether the host is back
}

const (
	circuitAfter = 5
	circuitRest  = 15 * time.Second
)

// enter says how long to wait before the host may be asked; 0: now, and then leave must be called.
func (c *circuit) enter(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failures < circuitAfter {
		return 0
	}
	if wait := c.until.Sub(now); wait > 0 {
		return wait
	}
	if c.trying {
		return time.Second
	}
	c.trying = true
	return 0
}

// ending is what a request told about its host.
type ending int

const (
	answered ending = iota // be it with a refusal
	failed
	gaveUp // the caller, before it could be told
)

func (c *circuit) leave(now time.Time, e ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trying = false
	switch e {
	case answered:
		c.failures = 0
	case failed:
		if c.failures++; c.failures >= circuitAfter {
			c.until = now.Add(circuitRest)
		}
	}
}

// attempts is how often what may be sent twice is tried.
const attempts = 3

// pause waits before the next attempt: 200 ms after the first, then twice as long each time, up to half of it more or less.
func pause(ctx context.Context, attempt int) error {
	base := 100 * time.Millisecond << attempt
	return Wait(ctx, base/2+rand.N(base))
}

// Wait waits for d, or for the end of the context, whose error it then gives.
func Wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
