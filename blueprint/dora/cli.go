package dora

import (
	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway/blueprint"
)

func commands(c *blueprint.Client) *cobra.Command {
	return &cobra.Command{Use: "dora", Short: "DORA metrics and deployment history"}
}
