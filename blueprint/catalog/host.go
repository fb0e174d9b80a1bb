package catalog

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/fetch"
)

// A host that did not answer in time for so many requests in a row is left alone for a while: what waits for it would keep the locations of
// other hosts waiting, and a location with many files there would never come to its end.
const (
	hostAfter = 2
	hostRest  = time.Minute
	slow      = 4 * time.Second // without an answer, when whoever asks gives up before the fetcher does
)

// hosts is what this replica knows of hosts that hang. The zero value is ready for use.
type hosts struct {
	mu   sync.Mutex
	hung map[string]hung
}

type hung struct {
	failures int
	until    time.Time
}

// resting says that a host is left alone now.
func (h *hosts) resting(host string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.hung[host].until)
}

// asked notes how a request ended.
func (h *hosts) asked(host string, answered bool, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if answered {
		delete(h.hung, host)
		return
	}
	if h.hung == nil || len(h.hung) > 10_000 {
		h.hung = map[string]hung{}
	}
	one := h.hung[host]
	if one.failures++; one.failures >= hostAfter {
		one.until = now.Add(hostRest)
	}
	h.hung[host] = one
}

// get reads an address unless its host is left alone.
func (s *service) get(ctx context.Context, address string, o fetch.Options) (*fetch.Result, error) {
	u, err := url.Parse(address)
	if err != nil {
		return s.Fetch.Get(ctx, address, o) // it says what is wrong
	}
	begun := s.Now()
	if s.hosts.resting(u.Host, begun) {
		return nil, slipway.Errorf(slipway.Unavailable, "%s did not answer in time just before; it is asked again in a minute", u.Host)
	}
	r, err := s.Fetch.Get(ctx, address, o)
	switch now := s.Now(); {
	case err == nil || !errors.Is(err, context.Canceled) && !timedOut(err):
		s.hosts.asked(u.Host, true, now)
	case timedOut(err) && (slipway.CodeOf(err) == slipway.Unavailable || now.Sub(begun) >= slow):
		s.hosts.asked(u.Host, false, now)
	}
	return r, err
}

func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}
