package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

// bodyWait is how long a body may take to arrive.
const bodyWait = 20 * time.Second

// How many bytes of bodies are held at a time, in all and of one caller or address.
const (
	maxHeld         = 256 << 20
	maxHeldOne      = 64 << 20
	maxHeldStranger = 64 << 20 // of all whom nobody knows, who have room of their own
	maxHeldAddress  = 32 << 20
)

// bodies bounds how many bytes of bodies are held at a time, so that neither memory is filled nor one caller keeps out the others. Safe for concurrent use.
type bodies struct {
	all, one int64 // at most; one body always fits

	mu   sync.Mutex
	held int64
	by   map[string]int64
}

// hold is the room that one body takes. It is for one goroutine.
type hold struct {
	of     *bodies
	caller string
	size   int64
}

// grow takes room for some bytes more. Unavailable says that there is none; what was taken before is kept.
func (h *hold) grow(bytes int64) error {
	b := h.of
	b.mu.Lock()
	defer b.mu.Unlock()
	if all, mine := b.held-h.size, b.by[h.caller]-h.size; all > 0 && b.held+bytes > b.all || mine > 0 && b.by[h.caller]+bytes > b.one {
		return slipway.Errorf(slipway.Unavailable, "too much is being received at the moment; send it again").After(time.Second)
	}
	if b.by == nil {
		b.by = map[string]int64{}
	}
	b.held += bytes
	b.by[h.caller] += bytes
	h.size += bytes
	return nil
}

// leave gives the room back.
func (h *hold) leave() {
	b := h.of
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= h.size
	if b.by[h.caller] -= h.size; b.by[h.caller] == 0 {
		delete(b.by, h.caller)
	}
}

// growing takes room for a body of unknown length as it comes.
type growing struct {
	io.Reader
	hold *hold
}

func (g growing) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if full := g.hold.grow(int64(n)); full != nil {
		return 0, full
	}
	return n, err
}

// blocked knows the addresses that were refused too often where anybody may send, until when. Safe for concurrent use.
type blocked struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// maxBlocked is how many addresses are known; beyond it all are forgotten, and counted anew.
const maxBlocked = 10_000

func (b *blocked) check(addr string, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	until, ok := b.until[addr]
	if !ok {
		return nil
	}
	if wait := until.Sub(now); wait > 0 {
		return slipway.Errorf(slipway.RateLimited, "too many refused requests from this address; wait").After(wait)
	}
	delete(b.until, addr)
	return nil
}

func (b *blocked) add(addr string, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until == nil || len(b.until) >= maxBlocked {
		b.until = map[string]time.Time{}
	}
	b.until[addr] = until
}

// takesBody says whether a request has a body that its operation could read.
func takesBody(r *http.Request) bool {
	return r.ContentLength != 0 && (r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch)
}

// receive reads the body of a request before it is worked, and puts it back as one that is there. leave gives back the room that it takes.
func (s *Server) receive(w http.ResponseWriter, r *http.Request, op blueprint.Operation, caller *slipway.Caller) (body []byte, leave func(), err error) {
	most := maxBody(op)
	h := &hold{of: &s.bodies, caller: caller.Subject}
	if op.Permission == blueprint.Public {
		h = &hold{of: &s.strangers, caller: s.address(r)}
	}
	if r.ContentLength > most {
		return nil, nil, tooLarge(most)
	}
	if err := h.grow(max(r.ContentLength, 0)); err != nil {
		return nil, nil, err
	}
	var in io.Reader = http.MaxBytesReader(w, r.Body, most)
	if r.ContentLength < 0 {
		in = growing{in, h}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait))
	if body, err = io.ReadAll(in); err != nil {
		h.leave()
		var large *http.MaxBytesError
		var timeout net.Error
		var coded *slipway.Error
		switch {
		case errors.As(err, &coded):
		case errors.As(err, &large):
			err = tooLarge(most)
		case errors.As(err, &timeout) && timeout.Timeout():
			err = slipway.Errorf(slipway.Invalid, "the body did not arrive in time").WithCause(err)
		default:
			err = slipway.Errorf(slipway.Invalid, "the body did not arrive").WithCause(err)
		}
		return nil, nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, h.leave, nil
}

func maxBody(op blueprint.Operation) int64 { return cmp.Or(op.MaxBody, 1<<20) }

func tooLarge(most int64) error {
	return slipway.Errorf(slipway.TooLarge, "the body is larger than this operation takes (%d bytes)", most)
}

// guessed says of an operation whether anybody may send large bodies to it, and a credential with them: webhooks.
func guessed(op blueprint.Operation) bool {
	return op.Permission == blueprint.Public && op.MaxBody > 1<<20
}

// countRefusal counts an answer that refuses a credential, and blocks the address when there were too many.
func (s *Server) countRefusal(ctx context.Context, r *http.Request, status int) {
	if status != http.StatusUnauthorized && status != http.StatusForbidden {
		return
	}
	addr := s.address(r)
	if limit, err := s.auth.CountFailure(ctx, addr); err != nil {
		s.blocked.add(addr, limit.Reset)
	}
}
