// Command platform is an example of a build of one's own: Slipway's blueprints and providers, and two more.
package main

import (
	"os"

	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/command"
	"github.com/slipway-platform/slipway/examples/greeting"
	"github.com/slipway-platform/slipway/examples/paperboy"
)

func main() {
	builtin.Early()
	blueprints := append(builtin.Blueprints(), greeting.Blueprint)
	providers := append(builtin.Providers(), paperboy.Kind)
	os.Exit(command.Main(blueprints, providers))
}
