// Package builtin is the list of what this build of Slipway is made of: its blueprints and its kinds of providers. It is the only
// place to touch when one is added.
package builtin

import (
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/provider"
)

// Blueprints returns the blueprints of this build, in alphabetical order.
func Blueprints() []blueprint.Blueprint {
	return []blueprint.Blueprint{}
}

// Providers returns the kinds of providers of this build, in alphabetical order. Kinds that need a blueprint's service (local) come with
// their blueprint.
func Providers() []provider.Kind {
	return []provider.Kind{}
}
