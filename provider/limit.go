package provider

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Limit is the rate limit that a vendor last named for an account.
type Limit struct {
	Account   string    // the Account of an Authorization
	Total     int       // requests in a window; 0: unknown
	Remaining int       // how many of them are left; meaningless when Total is 0
	Reset     time.Time // when the window ends; zero: unknown
	Until     time.Time // send nothing before this time; zero: no such limit
}

// Holds remembers until when something must not be asked: an account that is over its rate limit, or a host that does not answer. It is shared, so that all replicas keep away
// together. Keys are opaque and at most 200 bytes. Until is called before every request and must be quick; the other methods are called rarely. Safe for concurrent use. An error
// here never fails a request: without a hold, the vendor refuses once more.
type Holds interface {
	// Until returns the time that was noted for a key, even if it is past; the zero time if there is none.
	Until(ctx context.Context, key string) (time.Time, error)
	// Hold notes a time for a key. An earlier time than the one noted is ignored.
	Hold(ctx context.Context, key string, until time.Time) error
	// Probe is called when a hold is over. It returns true to one caller only, who may then try, and holds the key for all others for the duration rest.
	// A key that is not held gives true.
	Probe(ctx context.Context, key string, rest time.Duration) (bool, error)
	// Release ends a hold.
	Release(ctx context.Context, key string) error
}

// maxHolds is how many keys Holds of one process remember. When there are more all are forgotten: then the vendor says it again.
const maxHolds = 10_000

// NewHolds makes Holds that only this process shares.
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

// EpochLimit reads a limit from the headers prefix+"Limit", prefix+"Remaining" and prefix+"Reset", the last in seconds since 1970 by the vendor's clock, which may differ from
// ours (see the header Date). When nothing remains, Until is the reset.
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
