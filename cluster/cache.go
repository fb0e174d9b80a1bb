package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
)

const (
	cachePage  = 200              // objects that are in memory at once while a cache fills
	watchTime  = 5 * time.Minute  // of one watch request; the next goes on where it stopped
	eventSize  = 8 << 20          // bytes of one event of a watch
	watchTries = 3                // at going on from a version, before all is read again
	cacheWait  = time.Second      // before the first new attempt
	cacheWaits = 30 * time.Second // before any later one, at most
)

// Cache is a copy of a cluster's objects of one resource that a watch keeps in step: reading it costs the cluster nothing. Of each object
// only that is kept which keep makes of it, so that many large ones take little memory. Safe for concurrent use.
type Cache[T any] struct {
	client    *Client
	resource  Resource
	namespace string
	labels    string
	keep      func(Object) T
	log       *slog.Logger
	now       func() time.Time
	watchTime time.Duration

	mu      sync.RWMutex
	items   map[string]map[string]entry[T] // by namespace and name
	gone    map[[2]string]uint64           // what Put took out, at which version, until the watch has come to it
	changed chan struct{}                  // closed at the next change
	seen    uint64                         // the version that the watch has come to
	synced  bool                           // a whole list has been read
	tried   bool                           // the first attempt has come to an end
	err     error                          // why it is not in step; nil while it is
	since   time.Time                      // when it was last known to be
}

// entry is what is kept of an object.
type entry[T any] struct {
	version uint64 // of the object; 0 where the server's versions are no numbers
	value   T
}

// CacheOptions says which objects a cache holds.
type CacheOptions struct {
	Namespace string // "" is all
	Labels    string // selector; "" is all
	Log       *slog.Logger
	Now       func() time.Time // default time.Now
}

// NewCache makes an empty cache; Run fills it. keep may be called for several objects at the same time, and each is its own for that call only.
func NewCache[T any](c *Client, r Resource, o CacheOptions, keep func(Object) T) *Cache[T] {
	cache := &Cache[T]{
		client: c, resource: r, namespace: o.Namespace, labels: o.Labels, keep: keep, log: o.Log, now: o.Now, watchTime: watchTime,
		items: map[string]map[string]entry[T]{}, gone: map[[2]string]uint64{}, changed: make(chan struct{}),
		err: slipway.Errorf(slipway.Unavailable, "what the cluster %q holds is being read; try again in a moment", c.Name()).After(time.Second),
	}
	if cache.log == nil {
		cache.log = slog.New(slog.DiscardHandler)
	}
	if cache.now == nil {
		cache.now = time.Now
	}
	return cache
}

// Run keeps the cache in step until the context ends; its error is the context's. While the API server is away the cache keeps what it knew, and says since when;
// afterwards it goes on where it stopped, or reads all again where the server has forgotten that place.
func (c *Cache[T]) Run(ctx context.Context) error {
	version, wait, failures := "", cacheWait, 0
	for {
		var err error
		if version == "" {
			version, err = c.fill(ctx)
		}
		began := time.Now()
		if err == nil {
			version, err = c.follow(ctx, version)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		lasted := time.Since(began)
		if err == nil && lasted > cacheWait {
			wait, failures = cacheWait, 0
			continue // the watch came to its planned end
		}
		if lasted > cacheWaits {
			wait, failures = cacheWait, 0
		}
		// The server no longer knows what came after that version, or, put back to an older state, has never known it.
		if failures++; errors.Is(err, errForgotten) || failures >= watchTries {
			version, failures = "", 0
		}
		if err != nil {
			c.lost(ctx, err)
		}
		if e, ok := errors.AsType[*slipway.Error](err); ok {
			wait = max(wait, min(e.RetryAfter, time.Minute))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, cacheWaits)
	}
}

// fill reads everything, in pages of which each is let go before the next, and takes the whole over at once.
func (c *Cache[T]) fill(ctx context.Context) (string, error) {
	items := map[string]map[string]entry[T]{}
	o := ListOptions{Labels: c.labels, Limit: cachePage}
	for {
		page, err := c.client.List(ctx, c.resource, c.namespace, o)
		if err != nil {
			return "", err
		}
		for i, item := range page.Items {
			put(items, item.Namespace(), item.Name(), entry[T]{number(item.ResourceVersion()), c.keep(item)})
			page.Items[i] = nil
		}
		if o.Next = page.Next; o.Next == "" {
			c.replace(items, number(page.Version))
			return page.Version, nil
		}
	}
}

// replace takes over a list of that version, but for what Put has shown since. A server that was put back to an older state counts from there.
func (c *Cache[T]) replace(items map[string]map[string]entry[T], version uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version < c.seen {
		clear(c.items)
		clear(c.gone)
	}
	for namespace, list := range c.items {
		for name, e := range list {
			if e.version > version {
				put(items, namespace, name, e)
			}
		}
	}
	c.items, c.seen, c.synced = items, version, true
	maps.DeleteFunc(c.gone, func(_ [2]string, at uint64) bool { return at <= version })
	for key := range c.gone {
		delete(c.items[key[0]], key[1])
	}
	c.announce()
}

var errForgotten = errors.New("the server has forgotten that version")

// follow reads changes from a version on, until the watch ends, and gives the version that it came to. Ended as planned is no error.
func (c *Cache[T]) follow(ctx context.Context, version string) (string, error) {
	// The server ends the watch in time, unless it is gone, and nothing between us and it says so.
	ctx, cancel := context.WithTimeout(ctx, c.watchTime+c.watchTime/10)
	defer cancel()
	q, err := c.client.request(http.MethodGet, c.resource, c.namespace, "", "", url.Values{
		"watch": {"true"}, "allowWatchBookmarks": {"true"}, "resourceVersion": {version}, "timeoutSeconds": {strconv.Itoa(int(c.watchTime.Seconds()))},
	})
	if err != nil {
		return version, err
	}
	set(q.query, "labelSelector", c.labels)
	body, err := c.client.stream(ctx, q)
	if err != nil {
		if code := slipway.CodeOf(err); code == slipway.Invalid { // 410 at once, or a version that a restored server never had
			err = errors.Join(errForgotten, err)
		}
		return version, err
	}
	defer func() { _ = body.Close() }()
	c.found()
	limit := &io.LimitedReader{R: body, N: eventSize}
	decoder := json.NewDecoder(limit)
	for {
		var e struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		limit.N = eventSize
		if err := decoder.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) && limit.N > 0 {
				return version, nil
			}
			return version, c.client.broken(ctx, q, err)
		}
		o, err := ParseObject(e.Object)
		if err != nil {
			return version, err
		}
		if e.Type == "ERROR" {
			if code, _ := o.At("code").(int64); code == http.StatusGone {
				return version, errForgotten
			}
			return version, slipway.Errorf(slipway.Unavailable, "the cluster %q broke off: %s", c.client.Name(), o.Text("message"))
		}
		if v := o.ResourceVersion(); v != "" {
			version = v
		}
		c.apply(e.Type, o)
	}
}

// apply takes one event over.
func (c *Cache[T]) apply(kind string, o Object) {
	namespace, name, version := o.Namespace(), o.Name(), number(o.ResourceVersion())
	switch kind {
	case "ADDED", "MODIFIED":
		e := entry[T]{version, c.keep(o)}
		c.mu.Lock()
		c.offer(namespace, name, e)
		c.mu.Unlock()
	case "DELETED":
		c.mu.Lock()
		if c.items[namespace][name].version <= version { // else it was put since
			c.remove(namespace, name)
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since, c.seen = c.now(), max(c.seen, version)
	maps.DeleteFunc(c.gone, func(_ [2]string, at uint64) bool { return at <= c.seen })
}

// Put shows at once what the caller has just written, before the watch tells of it. An object that the cache's selector does not choose, not any more, is gone from it.
func (c *Cache[T]) Put(o Object) {
	chosen, err := Selects(c.labels, o)
	if err != nil || c.namespace != "" && c.namespace != o.Namespace() {
		return
	}
	e := entry[T]{number(o.ResourceVersion()), c.keep(o)}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch old, ok := c.items[o.Namespace()][o.Name()]; {
	case e.version <= c.seen: // the watch has told of it, and maybe of its end
	case chosen:
		c.offer(o.Namespace(), o.Name(), e)
	case !ok || old.version < e.version:
		c.gone[[2]string{o.Namespace(), o.Name()}] = e.version
		c.remove(o.Namespace(), o.Name())
	}
}

// offer takes an entry unless a newer one is there.
func (c *Cache[T]) offer(namespace, name string, e entry[T]) {
	if old, ok := c.items[namespace][name]; ok && old.version > e.version && e.version > 0 || c.gone[[2]string{namespace, name}] > e.version {
		return
	}
	put(c.items, namespace, name, e)
	c.announce()
}

func (c *Cache[T]) remove(namespace, name string) {
	delete(c.items[namespace], name)
	if len(c.items[namespace]) == 0 {
		delete(c.items, namespace)
	}
	c.announce()
}

func put[T any](items map[string]map[string]entry[T], namespace, name string, e entry[T]) {
	if items[namespace] == nil {
		items[namespace] = map[string]entry[T]{}
	}
	items[namespace][name] = e
}

// number is a resource version as a number: those of one resource can be compared, as the API promises since 1.35. 0 where it is none.
func number(version string) uint64 {
	n, _ := strconv.ParseUint(version, 10, 64)
	return n
}

func (c *Cache[T]) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Cache[T]) found() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil && !c.since.IsZero() {
		c.log.Info("a cluster is watched again", "cluster", c.client.Name(), "resource", c.resource.String())
	}
	c.err, c.since, c.tried = nil, c.now(), true
	c.announce()
}

func (c *Cache[T]) lost(ctx context.Context, err error) {
	c.mu.Lock()
	first := c.err == nil || c.since.IsZero() && !c.synced
	if c.err == nil {
		c.since = c.now()
	}
	c.err, c.tried = err, true
	c.announce()
	c.mu.Unlock()
	if first {
		c.log.WarnContext(ctx, "a cluster cannot be watched; it is tried again", "cluster", c.client.Name(), "resource", c.resource.String(), "error", err)
	}
}

// State says when the cache was last known to be in step, and why it is not now: nil while a watch is open. Before it was filled for the first time
// the time is zero.
func (c *Cache[T]) State() (time.Time, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.err == nil {
		return c.now(), nil
	}
	if !c.synced {
		return time.Time{}, c.err
	}
	return c.since, c.err
}

// Ready waits for the end of the first attempt to get in step, and says what State says: why it is not in step, or nil.
func (c *Cache[T]) Ready(ctx context.Context) error {
	for {
		c.mu.RLock()
		changed, tried, err := c.changed, c.tried, c.err
		c.mu.RUnlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if tried {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// Get gives what is kept of an object.
func (c *Cache[T]) Get(namespace, name string) (T, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.items[namespace][name]
	return e.value, ok
}

// List gives what is kept of the objects of a namespace, in no order; with "" of all.
func (c *Cache[T]) List(namespace string) []T {
	c.mu.RLock()
	defer c.mu.RUnlock()
	of := c.items
	if namespace != "" {
		of = map[string]map[string]entry[T]{namespace: c.items[namespace]}
	}
	var out []T
	for _, items := range of {
		for _, e := range items {
			out = append(out, e.value)
		}
	}
	return out
}

// Changed gives a channel that is closed at the next change. Take it before reading, so that nothing is missed between.
func (c *Cache[T]) Changed() <-chan struct{} {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.changed
}
