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

// broadcast lets many wait for the next change of a build. The zero value is ready for use.
type broadcast struct {
	mu   sync.Mutex
	next map[string]*bell
}

// bell is what those wait for who wait for one build.
type bell struct {
	rung    chan struct{}
	waiting int
}

// wait gives a channel that is closed at the next change of a build. Whoever has it calls done, rung or not.
func (b *broadcast) wait(id string) (rung <-chan struct{}, done func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = map[string]*bell{}
	}
	one := b.next[id]
	if one == nil {
		one = &bell{rung: make(chan struct{})}
		b.next[id] = one
	}
	one.waiting++
	return one.rung, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if one.waiting--; one.waiting == 0 && b.next[id] == one {
			delete(b.next, id)
		}
	}
}

func (b *broadcast) ring(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if one := b.next[id]; one != nil {
		close(one.rung)
		delete(b.next, id)
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
		w.changed.ring(w.id)
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
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	return n, nil
}

// more reads what is new. Where there is nothing yet it waits for the next change, and gives nothing.
func (r *logReader) more() error {
	more, done := r.changed.wait(r.id)
	defer done()
	// Asked before reading: what is written until the build ends is read then.
	finished, err := isFinished(r.ctx, r.db, r.id)
	if err == nil {
		r.text, r.after, err = readLog(r.ctx, r.db, r.id, r.after)
	}
	switch {
	case r.ctx.Err() != nil:
		return r.ctx.Err()
	case err != nil:
		return err
	case len(r.text) > 0:
		return nil
	case finished || !r.follow:
		return io.EOF
	}
	select {
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-more:
	case <-time.After(followEvery):
	}
	return nil
}

func (r *logReader) Close() error { return nil }
