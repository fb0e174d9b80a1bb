package server

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/store"
)

// Load says how much a replica works at a time. What is more than that waits a moment and is then refused: a server that takes everything answers
// nothing in time.
type Load struct {
	Requests int              `yaml:"requests" doc:"Requests worked at the same time by a replica; others wait for their turn. Reads may take four fifths of them, so that writes and webhooks get through"`
	Wait     slipway.Duration `yaml:"wait" doc:"How long a request may wait for its turn before it is refused with 503; a tenth of that while there was no moment without some that waited"`
}

const (
	loadQueue = 4                      // requests that may wait, for each that is worked
	loadLook  = 100 * time.Millisecond // how often the databases are looked at
	loadSay   = 10 * time.Second       // how often the log tells of refused requests
)

// unshed are the operations that are answered under any load: whoever watches has to see, and a replica that is busy is not dead.
var unshed = []string{"slipway.health", "slipway.ready", "slipway.version", "slipway.metrics", "tool.components.health"}

// load hands out places to requests, writes before reads, else first in first out. When requests have waited without a break for as long as one may wait,
// the queue is no burst that will pass: new ones may then wait for a tenth of that only (the idea is that of CoDel), so that those who are answered are answered soon.
type load struct {
	Load
	databases map[string]*store.DB
	now       func() time.Time
	log       *slog.Logger

	mu      sync.Mutex
	active  int // places that are taken
	reads   int // of these, by reads
	waiting [2][]*waiter
	idle    time.Time // when nobody waited last
	refused [2]int64

	looked time.Time // at the databases
	before map[string]store.Pool
	slow   bool // they keep who needs a connection waiting

	said    time.Time // when the log told of refused requests
	unsaid  int64     // refused since
	jitters func() time.Duration
}

// waiter is a request in the queue.
type waiter struct {
	turn  chan struct{}
	given bool
}

// The two classes of requests.
const (
	classWrite = iota
	classRead
)

var classes = [2]string{"write", "read"}

func classOf(op blueprint.Operation) int {
	if op.Method == "GET" {
		return classRead
	}
	return classWrite
}

func newLoad(c Load, databases map[string]*store.DB, now func() time.Time, log *slog.Logger) *load {
	return &load{
		Load: c, databases: databases, now: now, log: log, before: map[string]store.Pool{},
		jitters: func() time.Duration { return time.Duration(1+rand.N(3)) * time.Second }, // not all come again at once
	}
}

// enter gives the request a place, at once or after some waiting. Call leave, once or more often, when it needs it no more.
func (l *load) enter(ctx context.Context, class int) (leave func(), err error) {
	l.mu.Lock()
	now := l.now()
	l.look(now)
	if len(l.waiting[classWrite])+len(l.waiting[classRead]) == 0 {
		l.idle = now
	}
	if l.fits(class) && len(l.waiting[classWrite]) == 0 && (class == classWrite || len(l.waiting[classRead]) == 0) {
		l.take(class)
		l.mu.Unlock()
		return l.leave(class), nil
	}
	if len(l.waiting[classWrite])+len(l.waiting[classRead]) >= loadQueue*l.Requests {
		defer l.mu.Unlock()
		return nil, l.refuse(ctx, class, now)
	}
	patience := l.Wait.Std()
	if now.Sub(l.idle) > patience {
		patience /= 10
	}
	w := &waiter{turn: make(chan struct{})}
	l.waiting[class] = append(l.waiting[class], w)
	l.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.turn:
		return l.leave(class), nil
	case <-timer.C:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.given { // just now
		return l.leave(class), nil
	}
	l.waiting[class] = slices.DeleteFunc(l.waiting[class], func(o *waiter) bool { return o == w })
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, l.refuse(ctx, class, l.now())
}

// places is how many requests may be worked at the moment: fewer when more would only wait for the database.
func (l *load) places() int {
	if l.slow {
		return max(1, l.Requests/4)
	}
	return l.Requests
}

func (l *load) fits(class int) bool {
	most := l.places()
	return l.active < most && (class == classWrite || l.reads < max(1, most*4/5))
}

func (l *load) take(class int) {
	l.active++
	if class == classRead {
		l.reads++
	}
}

// leave gives a place back, and the free ones to those who wait.
func (l *load) leave(class int) func() {
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.active--
		if class == classRead {
			l.reads--
		}
		for class := range l.waiting {
			for len(l.waiting[class]) > 0 && l.fits(class) {
				w := l.waiting[class][0]
				l.waiting[class] = l.waiting[class][1:]
				w.given = true
				close(w.turn)
				l.take(class)
			}
		}
	})
}

// look finds out now and then whether connections to the databases are short.
func (l *load) look(now time.Time) {
	if now.Sub(l.looked) < loadLook {
		return
	}
	l.looked, l.slow = now, false
	for name, db := range l.databases {
		p := db.Pool()
		waits, waited := p.Waits-l.before[name].Waits, p.Waited-l.before[name].Waited
		l.before[name] = p
		if waits > 0 && waited/time.Duration(waits) > l.Wait.Std()/2 {
			l.slow = true
		}
	}
}

// refuse counts a request that is not taken, tells the log now and then, and the caller when to come again.
func (l *load) refuse(ctx context.Context, class int, now time.Time) error {
	l.refused[class]++
	l.unsaid++
	if now.Sub(l.said) >= loadSay {
		l.log.WarnContext(ctx, "requests are refused: there are more than this replica can work", "refused", l.unsaid, "active", l.active,
			"waiting", len(l.waiting[classWrite])+len(l.waiting[classRead]), "places", l.places(), "slowDatabase", l.slow)
		l.said, l.unsaid = now, 0
	}
	return slipway.Errorf(slipway.Unavailable, "there are more requests than the server can work at the moment; send it again").After(l.jitters())
}

// count tells how many wait, and how many were refused, by class.
func (l *load) count() (waiting [2]int, refused [2]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return [2]int{len(l.waiting[classWrite]), len(l.waiting[classRead])}, l.refused
}
