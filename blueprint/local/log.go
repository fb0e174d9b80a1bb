package local

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// broadcast lets many wait for the next time that something happens.
type broadcast struct {
	mu   sync.Mutex
	next chan struct{}
}

// wait gives a channel that is closed when it rings next.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

func (b *broadcast) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}

// errNotOurs says that this replica no longer runs a build: its lease had run out, and another has closed it.
var errNotOurs = slipway.Errorf(slipway.NotFound, "the build belongs to this replica no longer")

// logWriter adds what is written to a build's log. While the database does not answer it keeps the build waiting; it
// gives up when the build is no longer ours, or some time after its context ended.
type logWriter struct {
	ctx context.Context
	*service
	id  string
	seq int64
}

// lastWords is how long a log or an end is tried to be kept when the server stops and the database does not answer.
const lastWords = 10 * time.Second

func (w *logWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); n += chunkBytes {
		chunk := p[n:min(n+chunkBytes, len(p))]
		w.seq++
		err := w.insist(w.ctx, func(ctx context.Context) error {
			return w.db.Write(ctx, func(tx *store.Tx) error { return w.appendLog(ctx, tx, w.id, w.seq, chunk) })
		})
		if err != nil {
			return n, err
		}
		w.changed.ring()
	}
	return len(p), nil
}

// insist tries something until it succeeds or fails for good. It goes on for a while after the context has ended.
func (s *service) insist(ctx context.Context, try func(context.Context) error) error {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })()
	for {
		err := try(last)
		if err == nil || !errors.Is(err, slipway.Unavailable) {
			return err
		}
		select {
		case <-last.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// logReader reads a log that may still grow.
type logReader struct {
	ctx context.Context
	*service
	id     string
	follow bool
	after  int64
	text   []byte
}

// followEvery is how often a log is looked at that grows on another replica.
const followEvery = 500 * time.Millisecond

func (r *logReader) Read(p []byte) (int, error) {
	for len(r.text) == 0 {
		more := r.changed.wait()
		// Asked before reading: what is written until the build ends is read then.
		finished, err := isFinished(r.ctx, r.db, r.id)
		if err == nil {
			r.text, r.after, err = readLog(r.ctx, r.db, r.id, r.after)
		}
		switch {
		case r.ctx.Err() != nil:
			return 0, r.ctx.Err()
		case err != nil:
			return 0, err
		case len(r.text) > 0:
		case finished || !r.follow:
			return 0, io.EOF
		default:
			select {
			case <-r.ctx.Done():
				return 0, r.ctx.Err()
			case <-more:
			case <-time.After(followEvery):
			}
		}
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	return n, nil
}

func (r *logReader) Close() error { return nil }
