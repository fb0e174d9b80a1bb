package task

import "math"

// key is an item's place in the order of a list: created, then source, then id. The order is total, and reversed for ascending lists.
type key struct {
	Created int64  `json:"c"`
	Source  int64  `json:"s"`
	ID      string `json:"i,omitempty"`
}

// edge is the place beyond all items of one moment: a list goes on with the moment after it.
func edge(created int64, ascending bool) key {
	if ascending {
		return key{Created: created, Source: math.MaxInt64}
	}
	return key{Created: created, Source: -1}
}
