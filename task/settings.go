package task

import (
	"time"

	"github.com/slipway-platform/slipway"
)

// Settings are what every provider can be told, whatever its type.
type Settings struct {
	Visibility string  `json:"visibility,omitempty" yaml:"visibility" default:"server" enum:"server,source" doc:"Who sees its items: server, whoever may read the entity; source, of these only who may see the project at the vendor, as a token of theirs shows (Slipway-Provider-Token)"`
	History    History `json:"history,omitzero" yaml:"history" doc:"How much of what was before is read of a project that is new"`
}

// History bounds how far back a project is read when it is bound for the first time. What comes later is all kept, until its retention.
type History struct {
	Items int              `json:"items,omitempty" yaml:"items" default:"1000" doc:"How many items at most; -1: only what comes after the first page"`
	Age   slipway.Duration `json:"age,omitempty" yaml:"age" default:"90d" doc:"How old they may be"`
}

// The visibilities.
const (
	visibleToReaders = "server"
	visibleAtSource  = "source"
)

const (
	fillItems = 1000
	fillAge   = 90 * 24 * time.Hour
	maxFill   = 1_000_000
)

// Check names what is wrong with settings.
func (s Settings) Check() (faults []slipway.Detail) {
	fault := func(field, text string) {
		faults = append(faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: text})
	}
	switch s.Visibility {
	case "", visibleToReaders, visibleAtSource:
	default:
		fault("visibility", "must be server or source")
	}
	if s.History.Items < -1 || s.History.Items > maxFill {
		fault("history.items", "must be from -1 to 1000000")
	}
	if s.History.Age < 0 {
		fault("history.age", "must not be negative")
	}
	return faults
}

// bounds are the history's, with what holds where nothing is said.
func (h History) bounds() (items int64, age time.Duration) {
	items, age = int64(h.Items), h.Age.Std()
	switch {
	case items == 0:
		items = fillItems
	case items < 0:
		items = 0
	}
	if age == 0 {
		age = fillAge
	}
	return items, age
}
