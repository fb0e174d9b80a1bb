package auth

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// limiter counts requests in windows of a minute that all replicas share: a row per key says how many requests of the window are spoken
// for. A replica leases them in blocks, in one write, and counts inside its lease in memory. So no more than the limit
// is ever given out, and what a replica holds unused is all that can be missing: at most a tenth of the limit over all
// replicas, because the largest block is that divided by their number. On one replica the count is exact. A key that
// is over its limit asks the database nothing until its window ends.
//
// When the database does not answer, each replica counts alone until it does: the limit holds per replica, and nobody is refused
// for our fault.
type limiter struct {
	db       *store.DB
	log      *slog.Logger
	now      func() time.Time
	replicas func() int

	offset  atomic.Int64 // of the database's clock to ours, in µs
	learned atomic.Bool  // the offset is known
	alone   atomic.Int64 // until when (µs of our clock) the database is not asked again
	writes  atomic.Int64 // leases taken
	failed  atomic.Int64 // leases that the database did not give

	mu   sync.Mutex
	win  int64
	keys map[string]*window
}

const (
	windowLength = int64(time.Minute / time.Microsecond)
	leaseTimeout = time.Second // how long a request waits for a lease, and how long a silent database is left alone then
	maxKeys      = 100_000     // addresses beyond it share one count: memory is bounded whoever knocks
)

// window is one key in the current minute.
type window struct {
	mu     sync.Mutex
	n      int64         // spoken for by all replicas, as last heard
	left   int64         // of these, leased by us and not used
	asking chan struct{} // closed when the lease that is under way has come
}

// clock is the time that windows go by, in µs: the database's, so that replicas whose clocks differ share windows.
func (l *limiter) clock() int64 { return l.now().UnixMicro() + l.offset.Load() }

// learn compares clocks. On SQLite there is only one.
func (l *limiter) learn(ctx context.Context) error {
	if l.db.Engine() == store.SQLite {
		l.learned.Store(true)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
	defer cancel()
	before := l.now().UnixMicro()
	var theirs int64
	if err := l.db.QueryRowContext(ctx, `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`).Scan(&theirs); err != nil {
		return store.Err(err)
	}
	l.offset.Store(theirs - (before+l.now().UnixMicro())/2)
	l.learned.Store(true)
	return nil
}

// at gives the key's current window, the window's number, and the key that it counts for.
func (l *limiter) at(key string) (*window, int64, string) {
	win := l.clock() / windowLength
	l.mu.Lock()
	defer l.mu.Unlock()
	// Requests that overtake each other at the turn of the minute must not bring the old one back.
	if win > l.win || win < l.win-1 {
		l.win, l.keys = win, map[string]*window{}
	}
	if len(l.keys) >= maxKeys && l.keys[key] == nil && strings.HasPrefix(key, "address:") {
		key = "address:others"
	}
	w := l.keys[key]
	if w == nil {
		w = &window{}
		l.keys[key] = w
	}
	return w, l.win, key
}

// take counts one request.
func (l *limiter) take(ctx context.Context, key string, limit int64) (Limit, error) {
	if !l.learned.Load() && !l.isAlone() {
		if err := l.learn(ctx); err != nil {
			l.fail(ctx, err)
		}
	}
	for {
		w, win, key := l.at(key)
		lim := Limit{Limit: limit, Reset: time.UnixMicro((win + 1) * windowLength).UTC()}
		w.mu.Lock()
		switch {
		case w.left > 0:
			w.left--
			lim.Remaining = max(0, limit-w.n+w.left)
			w.mu.Unlock()
			return lim, nil
		case w.n >= limit:
			w.mu.Unlock()
			lim.Exceeded = true
			return lim, nil
		}
		came := w.asking
		if came == nil {
			w.asking = make(chan struct{})
			w.mu.Unlock()
			l.lease(ctx, key, w, win, limit)
			continue
		}
		w.mu.Unlock()
		select {
		case <-came:
		case <-ctx.Done():
			return lim, ctx.Err()
		}
	}
}

// lease fetches a block for the window, from the database or, when that does not answer, from nowhere.
func (l *limiter) lease(ctx context.Context, key string, w *window, win, limit int64) {
	// The smallest block keeps writes at a fifth of the requests or less where the bound on what lies unused allows it.
	parts := 10 * int64(max(1, l.replicas()))
	least := max(1, min(limit/200, limit/parts))
	n, taken := int64(-1), int64(0)
	if !l.isAlone() {
		// The lease is for all who wait, so it does not end with the request that happened to fetch it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
		defer cancel()
		err := l.db.Write(ctx, func(tx *store.Tx) error {
			// A row of the next minute is of a replica that is milliseconds ahead, and is counted on;
			// one from further ahead is of a clock that was set back.
			err := tx.QueryRowContext(ctx, `
				INSERT INTO auth_window AS w (key, win, n, taken) VALUES ($1, $2, $3, $3)
				ON CONFLICT (key) DO UPDATE SET
					win = CASE WHEN w.win IN ($2, $2 + 1) THEN w.win ELSE $2 END,
					n = CASE WHEN w.win NOT IN ($2, $2 + 1) THEN $3
						WHEN ($4 - w.n) / $5 >= $6 THEN w.n + ($4 - w.n) / $5
						WHEN $4 - w.n >= $6 THEN w.n + $6 ELSE $4 END,
					taken = CASE WHEN w.win NOT IN ($2, $2 + 1) THEN $3
						WHEN ($4 - w.n) / $5 >= $6 THEN ($4 - w.n) / $5
						WHEN $4 - w.n >= $6 THEN $6 ELSE $4 - w.n END
				WHERE w.n < $4 OR w.win NOT IN ($2, $2 + 1)
				RETURNING n, taken`, key, win, max(limit/parts, least), limit, parts, least).Scan(&n, &taken)
			if errors.Is(err, sql.ErrNoRows) { // nothing left
				n, taken, err = limit, 0, nil
			}
			return store.Err(err)
		})
		if err != nil {
			l.fail(ctx, err)
			n = -1
		}
		l.writes.Add(1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n < 0 {
		n, taken = min(w.n+least, limit), min(least, limit-w.n)
	}
	w.n, w.left = n, taken
	close(w.asking)
	w.asking = nil
}

func (l *limiter) isAlone() bool { return l.now().UnixMicro() < l.alone.Load() }

func (l *limiter) fail(ctx context.Context, err error) {
	l.failed.Add(1)
	l.alone.Store(l.now().Add(leaseTimeout).UnixMicro())
	l.log.WarnContext(ctx, "rate limits are counted by this replica alone, because the database does not answer", "error", err)
}

// giveBack returns what is leased and unused, for a replica that stops.
func (l *limiter) giveBack(ctx context.Context) error {
	l.mu.Lock()
	win, unused := l.win, map[string]int64{}
	for key, w := range l.keys {
		w.mu.Lock()
		if w.left > 0 {
			unused[key] = w.left
			w.n, w.left = w.n-w.left, 0
		}
		w.mu.Unlock()
	}
	l.mu.Unlock()
	return inChunks(ctx, l.db, unused, func(tx *store.Tx, key string, left int64) error {
		_, err := tx.Exec(ctx, `UPDATE auth_window SET n = n - $1 WHERE key = $2 AND win = $3 AND n >= $1`, left, key, win)
		return err
	})
}

// Count counts a request of the caller: of a service by its token, of a user or tool by who it is, of a caller without a credential by
// address ("ip" or "ip:port"). It gives the caller's limit after the request, with the zero Limit for a caller that has none. When the request is
// one too many, the error is RateLimited and says when to come again. A database that does not answer is no error.
func (s *Service) Count(ctx context.Context, c *slipway.Caller, addr string) (Limit, error) {
	var key string
	var rate Rate
	switch c.Kind {
	case slipway.CallerSystem:
		return Limit{}, nil
	case slipway.CallerAnonymous:
		key, rate = addressKey(addr), s.cfg.RateLimits.Address
	case slipway.CallerService:
		key, rate = c.Subject, s.cfg.RateLimits.Service
		if c.TokenID != "" { // a name can pass to another token
			key = "token:" + c.TokenID
			if own := s.ownRate(ctx, c.TokenID); own != nil {
				rate = *own
			}
		}
	default:
		key, rate = c.Subject, s.cfg.RateLimits.User
	}
	if rate == 0 {
		return Limit{}, nil
	}
	l, err := s.limits.take(ctx, key, int64(rate))
	if err == nil && l.Exceeded {
		wait := max(time.Second, l.Reset.Sub(time.UnixMicro(s.limits.clock())))
		err = slipway.Errorf(slipway.RateLimited, "more than %d requests in a minute; try again when the minute is over", l.Limit).After(wait)
	}
	return l, err
}

// CountFailure counts a request whose credential was refused, by its address. RateLimited says that there were too many: answer
// with it in place of the refusal.
func (s *Service) CountFailure(ctx context.Context, addr string) (Limit, error) {
	return s.Count(ctx, anonymous, addr)
}

// addressKey puts the addresses that one machine can choose from into one key.
func addressKey(addr string) string {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		var port netip.AddrPort
		if port, err = netip.ParseAddrPort(addr); err != nil {
			return "address:unknown"
		}
		ip = port.Addr()
	}
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		network, _ := ip.Prefix(64)
		return "address:" + network.String()
	}
	return "address:" + ip.String()
}
