package event

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
)

// How many of the newest events are kept in memory for streams, and with how many bytes, and how many one read brings.
const (
	ringSize  = 4096
	ringBytes = 32 << 20
	ringRead  = 500
)

// Framed is an event with its JSON, and as one server-sent event, which many streams write. The bytes are shared.
type Framed struct {
	Event
	JSON []byte
	SSE  []byte // id is the position, data the JSON
}

// feed has the newest events for all streams of this replica: one reader fills it, whatever their number.
type feed struct {
	mu      sync.Mutex
	streams int
	stop    context.CancelFunc
	from    int64    // everything after this position, up to to, is in events
	to      int64    // everything up to here was read
	events  []Framed // in order
	changed chan struct{}
	shared  map[sharedKey]*sharedRead // of the current to
}

// sharedKey is who reads which stretch: streams of one caller read it once.
type sharedKey struct {
	rights string
	after  int64
}

type sharedRead struct {
	done   chan struct{}
	events []Framed
	err    error
}

// advance notes that everything up to a position is committed, and tells who waits for more.
func (b *Bus) advance(last int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if last > b.last.Load() {
		b.last.Store(last)
		close(b.moved)
		b.moved = make(chan struct{})
	}
}

// Moved gives the position up to which events can be read on this replica, and a channel that is closed when there are more. It needs Run or Watch.
func (b *Bus) Moved() (last int64, more <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last.Load(), b.moved
}

// Follow is one stream of events.
type Follow struct {
	bus   *Bus
	after int64
	types []string
}

// Follow begins a stream after a position; a negative one means from now on. Types are as for List. End it.
func (b *Bus) Follow(ctx context.Context, after int64, types []string) (*Follow, error) {
	last, err := b.Last(ctx)
	if err != nil {
		return nil, err
	}
	if after < 0 {
		after = last
	}
	f := &b.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams++; f.streams == 1 {
		pump, stop := context.WithCancel(context.WithoutCancel(ctx))
		f.from, f.to, f.events, f.stop, f.changed, f.shared = last, last, nil, stop, make(chan struct{}), map[sharedKey]*sharedRead{}
		go b.pump(pump)
	}
	return &Follow{b, after, types}, nil
}

// End ends the stream.
func (s *Follow) End() {
	f := &s.bus.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams--; f.streams == 0 {
		f.stop()
		f.events = nil
	}
}

// Position is where the stream stands: pass it to Follow to go on from there.
func (s *Follow) Position() int64 { return s.after }

// Next gives the next events that the caller may read, in order, and moves on behind them. There may be none yet: more is closed when it is worth asking again. The
// rights are those of the caller who is passed, each time.
func (s *Follow) Next(ctx context.Context, caller *slipway.Caller) (events []Framed, more <-chan struct{}, err error) {
	f := &s.bus.feed
	f.mu.Lock()
	from, to, ring, changed := f.from, f.to, f.events, f.changed
	f.mu.Unlock()
	if s.after >= to {
		return nil, changed, nil
	}
	if s.after < from { // further behind than memory reaches
		events, next, err := s.bus.List(ctx, caller, s.after, s.types, ringRead)
		if err != nil {
			return nil, nil, err
		}
		framed, err := frame(events)
		switch {
		case err != nil:
			return nil, nil, err
		case next > 0:
			s.after = next
		case len(events) > 0:
			s.after = max(from, events[len(events)-1].Position)
		default:
			s.after = max(from, s.after)
		}
		return framed, closed, nil
	}
	i, _ := slices.BinarySearchFunc(ring, s.after+1, func(e Framed, p int64) int { return int(e.Position - p) })
	var wanted []Framed
	ours := false // of an entity, so that somebody without the right to all may see it
	for _, e := range ring[i:] {
		if ofType(s.types, e.Type) {
			wanted, ours = append(wanted, e), ours || e.EntityID != 0
		}
	}
	if len(wanted) > 0 && !s.bus.seesAll(ctx, caller) {
		if !ours {
			wanted = nil
		} else if wanted, err = s.bus.sharedRead(ctx, caller, s.after, to, s.types); err != nil {
			return nil, nil, err
		}
	}
	s.after = to
	return wanted, changed, nil
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// seesAll says whether no event is kept from the caller.
func (b *Bus) seesAll(ctx context.Context, caller *slipway.Caller) bool {
	if !entity.All(caller, ReadPermission) {
		return false
	}
	if b.Restrict == nil {
		return true
	}
	restricted, _ := b.Restrict(ctx, caller, "event.origin", 1)
	return restricted == ""
}

// sharedRead reads what a caller may read between two positions, once for all streams of the same rights.
func (b *Bus) sharedRead(ctx context.Context, caller *slipway.Caller, after, to int64, types []string) ([]Framed, error) {
	rights, err := json.Marshal([]any{caller.Kind, caller.Subject, caller.TokenID, caller.Owns, caller.Grants})
	if err != nil {
		return nil, err
	}
	key := sharedKey{string(rights), after}
	if b.Restrict != nil { // it may hang on more than the caller
		condition, args := b.Restrict(ctx, caller, "event.origin", 1)
		key.rights += condition + fmt.Sprint(args...)
	}
	f := &b.feed
	f.mu.Lock()
	read := f.shared[key]
	mine := read == nil
	if mine {
		read = &sharedRead{done: make(chan struct{})}
		f.shared[key] = read
	}
	f.mu.Unlock()
	if mine {
		read.events, read.err = b.readFor(ctx, caller, after, to)
		close(read.done)
		if read.err != nil {
			f.mu.Lock()
			delete(f.shared, key)
			f.mu.Unlock()
		}
	}
	select {
	case <-read.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if read.err != nil {
		if !mine && ctx.Err() == nil { // the one who read went away
			return b.sharedRead(ctx, caller, after, to, types)
		}
		return nil, read.err
	}
	var wanted []Framed
	for _, e := range read.events {
		if e.Position <= to && ofType(types, e.Type) {
			wanted = append(wanted, e)
		}
	}
	return wanted, nil
}

func (b *Bus) readFor(ctx context.Context, caller *slipway.Caller, after, to int64) (all []Framed, err error) {
	for after < to {
		events, next, err := b.List(ctx, caller, after, nil, ringRead)
		if err != nil {
			return nil, err
		}
		framed, err := frame(events)
		if err != nil {
			return nil, err
		}
		if all = append(all, framed...); next == 0 {
			break
		}
		after = next
	}
	return all, nil
}

func frame(events []Event) ([]Framed, error) {
	out := make([]Framed, len(events))
	for i, e := range events {
		raw, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		head := "id: " + strconv.FormatInt(e.Position, 10) + "\ndata: " // JSON has no line breaks, so that data is one line
		sse := slices.Concat([]byte(head), raw, []byte("\n\n"))
		out[i] = Framed{e, sse[len(head) : len(sse)-2 : len(sse)-2], sse}
	}
	return out, nil
}

// ofType says whether a type is one of those that were asked for.
func ofType(types []string, name string) bool {
	return len(types) == 0 || slices.ContainsFunc(types, func(t string) bool {
		prefix, pattern := strings.CutSuffix(t, "*")
		return t == name || pattern && strings.HasPrefix(name, prefix)
	})
}

// pump fills the feed for as long as there are streams.
func (b *Bus) pump(ctx context.Context) {
	for {
		last, more := b.Moved()
		if err := b.fill(ctx, last); err != nil {
			if ctx.Err() != nil {
				return
			}
			b.log.WarnContext(ctx, "streams of events wait; trying again", "error", err)
			if !sleep(ctx, pollEvery, nil) {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-more:
		}
	}
}

// fill reads up to a position.
func (b *Bus) fill(ctx context.Context, last int64) error {
	f := &b.feed
	for {
		f.mu.Lock()
		to := f.to
		f.mu.Unlock()
		if to >= last {
			return nil
		}
		until := min(last, to+ringRead)
		read, err := b.between(ctx, to, until, nil)
		if err != nil {
			return err
		}
		if len(read) == readAt { // there may be more up to until
			until = read[len(read)-1].Position
		}
		framed, err := frame(read)
		if err != nil {
			return err
		}
		f.mu.Lock()
		if ctx.Err() != nil { // another pump has taken over
			f.mu.Unlock()
			return ctx.Err()
		}
		f.to = until
		f.events = append(f.events, framed...)
		if cut := surplus(f.events); cut > 0 {
			f.from = f.events[cut-1].Position
			f.events = slices.Clone(f.events[cut:]) // streams read the old one
		}
		close(f.changed)
		f.changed, f.shared = make(chan struct{}), map[sharedKey]*sharedRead{}
		f.mu.Unlock()
	}
}

// surplus is how many of the oldest events are more than memory is to hold.
func surplus(events []Framed) int {
	size := 0
	for i, e := range slices.Backward(events) {
		if size += len(e.SSE); size > ringBytes || len(events)-i > ringSize {
			return i + 1
		}
	}
	return 0
}
