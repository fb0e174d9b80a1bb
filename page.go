package slipway

// PageInfo stands beside every list.
type PageInfo struct {
	Limit      int    `json:"limit" doc:"How many items a page holds at most"`
	PageNumber int    `json:"pageNumber,omitempty" doc:"Which page, from 1, when asked for by number"`
	NextCursor string `json:"nextCursor,omitempty" doc:"Pass as cursor to read on; absent on the last page"`
	HasMore    bool   `json:"hasMore" doc:"True when there is a further page"`
}

// The sizes of a page, in items.
const (
	DefaultPageLimit = 20
	MaxPageLimit     = 100
)
