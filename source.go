package slipway

import "time"

// Source says how fresh one place is that items of a platform task come from: one project at one
// provider.
type Source struct {
	Provider string      `json:"provider" doc:"Name of the provider" example:"ci"`
	Type     string      `json:"type" doc:"Type of the provider" example:"local"`
	Project  string      `json:"project" doc:"The project as the provider names it"`
	State    SourceState `json:"state" enum:"fresh,stale,failed,detached,hidden,none" doc:"How far to trust the items: stale is older than twice the refresh interval; failed, the last refresh failed; detached, the provider was removed; hidden, its items are shown only to those who may see them at the provider; none, no provider serves this entity"`
	AsOf     *time.Time  `json:"asOf" nullable:"true" doc:"When the source was last read in full; null before the first time"`
	Error    string      `json:"error,omitempty" doc:"Why the last refresh failed or the items are hidden, or what to configure"`
}

// SourceState is how far a source's items can be trusted.
type SourceState string

// The states.
const (
	SourceFresh    SourceState = "fresh"
	SourceStale    SourceState = "stale"
	SourceFailed   SourceState = "failed"
	SourceDetached SourceState = "detached"
	SourceHidden   SourceState = "hidden"
	SourceNone     SourceState = "none"
)
