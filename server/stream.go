package server

import (
	"context"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

// How long one write of a stream may wait for a caller who does not read, and how often it is asked whether the caller may still listen.
const (
	streamWait  = 30 * time.Second
	streamCheck = time.Second
	streamAgain = 10 * time.Second // when to come again where there are too many
)

// writeStream lets a handler write as things come.
func writeStream(w io.Writer, v blueprint.Streamed) error {
	rw, ok := w.(*response)
	if !ok {
		return v.Write(context.Background(), w, func() {})
	}
	rw.private = true
	if v.ContentType != "" {
		rw.Header().Set("Content-Type", v.ContentType)
	}
	rw.Header().Set("X-Accel-Buffering", "no") // nginx would hold a stream back
	to := &stream{response: rw, server: exchangeOf(rw.ctx).server, still: v.Still, checked: time.Now()}
	if to.server != nil {
		control := http.NewResponseController(rw.ResponseWriter)
		defer context.AfterFunc(to.server.draining, func() { _ = control.SetWriteDeadline(time.Now().Add(2 * time.Second)) })()
	}
	if err := v.Write(rw.ctx, to, rw.Flush); err != nil {
		if rw.discard() {
			exchangeOf(rw.ctx).cause = err
			return err
		}
		panic(http.ErrAbortHandler)
	}
	return nil
}

// stream writes to a caller as long as they read, and may.
type stream struct {
	*response
	server  *Server
	still   func(*slipway.Caller) error
	checked time.Time // when the caller was last believed
}

func (w *stream) Write(p []byte) (int, error) {
	if s := w.server; s != nil {
		if time.Since(w.checked) > streamCheck && (w.still != nil || w.request.Header.Get("Authorization") != "" || w.request.Header.Get("Cookie") != "") {
			caller, err := s.auth.Authenticate(w.ctx, w.request)
			if err == nil && w.still != nil {
				err = w.still(caller)
			}
			switch slipway.CodeOf(err) {
			case slipway.Unauthenticated, slipway.Forbidden, slipway.NotFound:
				return 0, err
			}
			w.checked = time.Now()
		}
		if s.draining.Err() == nil {
			_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(streamWait))
		}
	}
	return w.response.Write(p)
}

// Streams says how many streams may be open at a time on a replica: each costs memory, and some look at the database.
type Streams struct {
	User    int `yaml:"user" doc:"Streams of one user or tool"`
	Service int `yaml:"service" doc:"Streams of one service token"`
	All     int `yaml:"all" doc:"Streams in all; ten thousand streams of events take less than 500 MB"`
}

// How much the heap may grow, in percent, before it is collected: little of what a request needs lives on, so that some MB more save a tenth of the work. Of many
// streams much lives on, their stacks above all, and the same pace would take three times their memory. Each leaves behind what it needed only to begin, such as smaller
// stacks; whenever there are as many more, that is given back to the system.
const (
	usualPace   = 200
	manyPace    = 5
	manyStreams = 1000
)

// pace sets it, unless the operator has.
func pace(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// streams counts the answers without an end that are open on this replica.
type streams struct {
	Streams
	mu     sync.Mutex
	open   map[string]int // by caller
	all    int
	tidied int // how many there were when memory was last given back; 0 while there are few
}

func (g *streams) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all
}

// enter admits a stream of the caller; leave ends it.
func (g *streams) enter(c *slipway.Caller) (leave func(), err error) {
	key, most := c.Subject, g.User
	if c.Kind == slipway.CallerService {
		most = g.Service
		if c.TokenID != "" { // a name can pass to another token
			key = "token:" + c.TokenID
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.open[key] >= most:
		return nil, slipway.Errorf(slipway.RateLimited, "you have %d streams open here, and more are not given; end one first", most).After(streamAgain)
	case g.all >= g.All:
		return nil, slipway.Errorf(slipway.Unavailable, "there are too many open streams here; try again later, or read without follow").After(streamAgain)
	}
	if g.open == nil {
		g.open = map[string]int{}
	}
	g.open[key]++
	if g.all++; g.all >= g.tidied+manyStreams {
		g.tidied = g.all
		pace(manyPace)
		go debug.FreeOSMemory()
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.all--; g.tidied > 0 && g.all < manyStreams/2 { // well below: not for each that comes and goes
			g.tidied = 0
			pace(usualPace)
		}
		if g.open[key]--; g.open[key] == 0 {
			delete(g.open, key)
		}
	}, nil
}
