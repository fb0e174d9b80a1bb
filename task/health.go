package task

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
)

// health remembers which providers do not answer, so that a vendor with many sources that is down does not keep all workers waiting, and one that has
// had enough requests gets no more. It is this replica's alone. The zero value is ready.
type health struct {
	mu sync.Mutex
	of map[string]*pulse
}

// pulse is how a provider has answered of late.
type pulse struct {
	failures int // in a row
	until    time.Time
	err      error
}

const (
	patience = 3 // failures in a row until a provider is left alone
	restTime = 15 * time.Second
	maxRest  = 2 * time.Minute
)

// check says why a provider is not to be asked now; nil when it may be.
func (h *health) check(provider string, now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.of[provider]
	if p == nil || !now.Before(p.until) {
		return nil
	}
	if e, ok := errors.AsType[*slipway.Error](p.err); ok {
		return e.After(p.until.Sub(now))
	}
	return slipway.Errorf(slipway.Unavailable, "the provider did not answer in time").WithCause(p.err).After(p.until.Sub(now))
}

// report tells how a look at one of a provider's sources ended.
func (h *health) report(provider string, now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	code := slipway.CodeOf(err)
	timeout := errors.Is(err, context.DeadlineExceeded)
	if code != slipway.RateLimited && code != slipway.Unavailable && !timeout {
		delete(h.of, provider) // it answered, be it with a refusal of this one source
		return
	}
	if h.of == nil {
		h.of = map[string]*pulse{}
	}
	p := h.of[provider]
	if p == nil {
		p = &pulse{}
		h.of[provider] = p
	}
	p.failures++
	p.err = err
	var rest time.Duration
	if e, ok := errors.AsType[*slipway.Error](err); ok {
		rest = e.RetryAfter
	}
	if code == slipway.RateLimited {
		p.until = now.Add(max(rest, restTime))
	} else if p.failures >= patience {
		p.until = now.Add(max(rest, min(restTime<<min(p.failures-patience, 5), maxRest)))
	}
}
