package command

import (
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/client"
	"github.com/slipway-platform/slipway/server"
)

func (a *app) log() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "log",
		Short:   "Make the server log more for a while",
		Long:    "See and change what the server logs. Logs of builds are shown by \"slipway build logs\".",
		Example: "  slipway log level debug --component github --for 15m",
	}
	cmd.AddCommand(a.logLevel())
	return cmd
}

func (a *app) logLevel() *cobra.Command {
	var component string
	var long time.Duration
	var reset bool
	cmd := &cobra.Command{
		Use:   "level [debug|info|warn|error]",
		Short: "Show or change what is logged",
		Long:  `Show the log level, or change it for a while, for everything or for one blueprint or provider. A change takes effect on every replica within a second and ends by itself; log.level in the configuration is the usual level. Changing it needs the permission slipway.log.write, showing it slipway.log.read.`,
		Example: `  slipway log level
  slipway log level debug --component github --for 15m
  slipway log level --reset --component github`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: []string{"debug", "info", "warn", "error"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if reset && len(args) > 0 {
				return usage("give a level or --reset, not both")
			}
			c := a.face()
			var err error
			path := "/api/log-levels/" + url.PathEscape(component)
			switch {
			case reset:
				err = c.Do(cmd.Context(), http.MethodDelete, path, nil, nil)
			case len(args) > 0:
				err = c.Do(cmd.Context(), http.MethodPut, path, map[string]any{"level": args[0], "for": slipway.Duration(long)}, nil)
			}
			if err != nil {
				return err
			}
			raw, list, err := blueprint.Get[client.List[server.LogLevel]](cmd.Context(), c, "/api/log-levels")
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"Component", "Level", "Until", "By"}}
			for _, l := range list.Items {
				t.Rows = append(t.Rows, []string{l.Component, l.Level, moment(l.Until, "as configured"), l.By})
			}
			return a.print(cmd, raw, t)
		},
	}
	cmd.Flags().StringVar(&component, "component", "all", "a blueprint, a provider, or all")
	cmd.Flags().DurationVar(&long, "for", 10*time.Minute, "how long, 1s to 24h")
	cmd.Flags().BoolVar(&reset, "reset", false, "log as configured again")
	return cmd
}
