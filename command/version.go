package command

import (
	"context"
	"encoding/json"
	"net/http"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway/blueprint"
)

func (a *app) version() *cobra.Command {
	var remote bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program, or of the server",
		Long: `Show the version of this program and of the blueprints in it; with --server, what the server answers about itself. Neither needs a
token.`,
		Example: `  slipway version
  slipway version --server -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if remote {
				return a.serverVersion(cmd)
			}
			type part struct {
				Name      string `json:"name"`
				Version   string `json:"version"`
				Stability string `json:"stability"`
			}
			v := struct {
				Version    string `json:"version"`
				Go         string `json:"go"`
				Blueprints []part `json:"blueprints"`
			}{version(), runtime.Version(), []part{}}
			t := blueprint.Table{Rows: [][]string{{"slipway", v.Version, runtime.Version()}}}
			for _, b := range a.blueprints {
				v.Blueprints = append(v.Blueprints, part{b.Name, b.Version, string(b.Stability)})
				t.Rows = append(t.Rows, []string{b.Name, b.Version, string(b.Stability)})
			}
			return a.print(cmd, v, t)
		},
	}
	cmd.Flags().BoolVar(&remote, "server", false, "ask the server")
	return cmd
}

func (a *app) serverVersion(cmd *cobra.Command) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
	defer cancel()
	var raw json.RawMessage
	if err := c.Do(ctx, http.MethodGet, "/version", nil, &raw); err != nil {
		return err
	}
	v, err := c.Version(ctx)
	if err != nil {
		return err
	}
	t := blueprint.Table{Rows: [][]string{{c.URL(), v.Version, ""}}}
	for _, b := range v.Blueprints {
		t.Rows = append(t.Rows, []string{b.Name, b.Version, b.Stability})
	}
	return a.print(cmd, raw, t)
}
