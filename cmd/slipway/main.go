// Slipway is the program: a server and its command line, with every blueprint and provider of this repository. A build with others
// is a main like this one, with other lists.
package main

import (
	"os"

	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/command"
)

func main() {
	builtin.Early() // when this process watches over a build, it does only that
	os.Exit(command.Main(builtin.Blueprints(), builtin.Providers()))
}
