package greeting

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway/blueprint"
)

// greet is `slipway greet`. Commands know nothing of the service: they are clients of the API.
func greet(client *blueprint.Client) *cobra.Command {
	return &cobra.Command{
		Use: "greet NAME", Short: "Greet somebody", Long: "Stores a greeting, which is delivered soon after.",
		Example: "  slipway greet Ada", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var g Greeting
			if err := client.Do(cmd.Context(), "POST", "/api/greetings", newGreeting{To: args[0]}, &g); err != nil {
				return err
			}
			return client.Print(cmd, g, blueprint.Table{Header: []string{"ID", "TEXT"}, Rows: [][]string{{fmt.Sprint(g.ID), g.Text}}})
		},
	}
}
