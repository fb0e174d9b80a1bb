package cluster

import "time"

// WatchFor sets how long one watch request of a cache lasts, before it runs.
func (c *Cache[T]) WatchFor(d time.Duration) { c.watchTime = d }
