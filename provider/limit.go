package provider

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Limit is what a vendor said of how much more it takes from an account.
type Limit struct {
	Account   string    // who is limited; the Account of an Authorization
	Total     int       // requests in a window; 0: it did not say
	Remaining int       // how many of them are left; of no meaning when Total is 0
	Reset     time.Time // when the window ends; zero: it did not say
	Until     time.Time // no requests before; zero: at any time
}

// Holds is where clients remember until when something is left alone: an account that a vendor takes nothing more from, or a host that does not answer, so that all
// replicas keep away from it together. Keys are opaque and at most 200 bytes. Until is asked before every request, so it must be quick; the others are called
// rarely. Safe for concurrent use. What fails here never fails a request: the vendor will say it again.
type Holds interface {
	// Until gives the time before which nothing is to be sent, be it over or not; the zero time where nothing is held.
	Until(ctx context.Context, key string) (time.Time, error)
	// Hold notes such a time. Of two the later one counts.
	Hold(ctx context.Context, key string, until time.Time) error
	// Probe says, once a hold is over, whether the caller is the one who may see whether it can be released: it then holds for all others for rest.
	// What is not held needs no probe: true.
	Probe(ctx context.Context, key string, rest time.Duration) (bool, error)
	// Release ends a hold.
	Release(ctx context.Context, key string) error
}

// maxHolds is how many keys Holds of one process remember. When there are more all are forgotten: then the vendor says it again.
const maxHolds = 10_000

// NewHolds makes Holds of this process alone.
func NewHolds() Holds { return &holds{until: map[string]time.Time{}} }

type holds struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (h *holds) Until(_ context.Context, key string) (time.Time, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until[key], nil
}

func (h *holds) Hold(_ context.Context, key string, until time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until.After(h.until[key]) {
		if len(h.until) >= maxHolds {
			clear(h.until)
		}
		h.until[key] = until
	}
	return nil
}

func (h *holds) Probe(_ context.Context, key string, rest time.Duration) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	until, held := h.until[key]
	switch now := time.Now(); {
	case !held:
	case until.After(now):
		return false, nil
	default:
		h.until[key] = now.Add(rest)
	}
	return true, nil
}

func (h *holds) Release(_ context.Context, key string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.until, key)
	return nil
}

// longest is how long a vendor may ask us to keep away. More than that is a number that was misread, or not meant.
const longest = 24 * time.Hour

// EpochLimit reads a limit from headers prefix+"Limit", "Remaining" and "Reset", the last in seconds since 1970. When nothing remains, Until is the reset.
func EpochLimit(h http.Header, prefix string, now time.Time) Limit {
	l := countLimit(h, prefix)
	if seconds, err := strconv.ParseInt(h.Get(prefix+"Reset"), 10, 64); err == nil {
		l.Reset = plausible(time.Unix(seconds, 0).Add(skew(h, now)), now)
	}
	return l.exhausted()
}

// SecondsLimit is EpochLimit where the reset is the number of seconds to go.
func SecondsLimit(h http.Header, prefix string, now time.Time) Limit {
	l := countLimit(h, prefix)
	if seconds, err := strconv.ParseInt(h.Get(prefix+"Reset"), 10, 32); err == nil {
		l.Reset = plausible(now.Add(time.Duration(seconds)*time.Second), now)
	}
	return l.exhausted()
}

func countLimit(h http.Header, prefix string) (l Limit) {
	total, err1 := strconv.Atoi(h.Get(prefix + "Limit"))
	remaining, err2 := strconv.Atoi(h.Get(prefix + "Remaining"))
	if err1 == nil && err2 == nil && total > 0 {
		l.Total, l.Remaining = total, max(remaining, 0)
	}
	return l
}

func (l Limit) exhausted() Limit {
	if l.Total > 0 && l.Remaining == 0 {
		l.Until = l.Reset
	}
	return l
}

// plausible gives at unless it is nothing that a vendor can mean: past, or seconds read as an epoch or the other way round.
func plausible(at, now time.Time) time.Time {
	if at.Before(now) || at.After(now.Add(longest)) {
		return time.Time{}
	}
	return at
}

// skew is how far our clock is ahead of the vendor's, by the answer's Date; 0 without one, or below what a Date can tell.
func skew(h http.Header, now time.Time) time.Duration {
	theirs, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	if d := now.Sub(theirs).Truncate(time.Second); d < -2*time.Second || d > 2*time.Second {
		return d
	}
	return 0
}

// RetryAfter reads the header of that name: seconds, or a date. 0 where there is none, or none that can be meant.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > 0 && seconds <= longest.Seconds() {
		return time.Duration(seconds * float64(time.Second))
	}
	if at, err := http.ParseTime(text); err == nil {
		if at = plausible(at.Add(skew(h, now)), now); !at.IsZero() {
			return at.Sub(now)
		}
	}
	return 0
}
