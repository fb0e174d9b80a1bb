package provider

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/slipway-platform/slipway"
)

// A circuit keeps requests from a host that does not answer. After circuitAfter failures in a row, as one client sees them, the host is held for circuitRest, by all
// clients that share Holds; then one request of all of them may try, and its end decides. Where others reach the host and only this client does not, it keeps away alone: one
// replica with a network out of order must not keep the others from a vendor.
const (
	circuitAfter = 5
	circuitRest  = 15 * time.Second
)

// circuitKey names the host to all replicas, as it is reached: a wrong scheme in one provider's address says nothing of another's. No account is called so.
func (c *Client) circuitKey() string { return c.base.Scheme + "://" + c.base.Host + " *" }

// enter says whether the host may be asked now; then leave must be called with what it gave.
func (c *Client) enter(ctx context.Context) (probe bool, err error) {
	away := func(wait time.Duration) error {
		return slipway.Errorf(slipway.Unavailable, "%s has not answered for a while; it is asked again soon", c.o.Vendor).After(wait)
	}
	if until, _ := c.own.Until(ctx, c.circuitKey()); until.After(c.now()) { // what is in memory never fails
		return false, away(until.Sub(c.now()))
	}
	until, err := c.holds.Until(ctx, c.circuitKey())
	if err != nil || until.IsZero() {
		return false, nil // not knowing costs a request
	}
	if wait := until.Sub(c.now()); wait > 0 {
		return false, away(wait)
	}
	mine, err := c.holds.Probe(context.WithoutCancel(ctx), c.circuitKey(), circuitRest)
	if err == nil && !mine {
		return false, away(time.Second)
	}
	return true, nil
}

// ending is what a request told about its host.
type ending int

const (
	answered ending = iota // be it with a refusal
	failed
	gaveUp // the caller, before it could be told
)

func (c *Client) leave(ctx context.Context, probe bool, e ending) {
	c.mu.Lock()
	switch e {
	case answered:
		c.failures, c.told = 0, false
	case failed:
		c.failures++
	}
	open := e == failed && (probe || c.failures >= circuitAfter)
	alone := open && !probe && c.told // what was told is over: another has reached it since
	c.told = c.told || open
	c.mu.Unlock()
	var err error
	ctx = context.WithoutCancel(ctx)
	switch {
	case alone:
		_ = c.own.Hold(ctx, c.circuitKey(), c.now().Add(circuitRest))
	case open:
		err = c.holds.Hold(ctx, c.circuitKey(), c.now().Add(circuitRest))
	case probe && e == answered:
		err = c.holds.Release(ctx, c.circuitKey())
	}
	if err != nil {
		c.log.WarnContext(ctx, "that a vendor does not answer, or does again, was not told to the other replicas", "error", err)
	}
}

// attempts is how often what may be sent twice is tried.
const attempts = 3

// pause waits before the next attempt: 200 ms after the first, then twice as long each time, up to half of it more or less; and at least as long as the vendor said.
func pause(ctx context.Context, attempt int, least time.Duration) error {
	base := 100 * time.Millisecond << attempt
	return Wait(ctx, max(least, base/2+rand.N(base)))
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
