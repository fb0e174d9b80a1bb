package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/server"
)

// health needs no token and no login, so that a container's health check can be nothing but this program.
func (a *app) health() *cobra.Command {
	var alive bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask whether a server is ready",
		Long:  `Ask a server whether it is ready, and show the state of each thing it depends on. The exit status is 1 when it is not ready or does not answer within 5 seconds. With --alive, only ask whether the process answers. It needs no token, and suits health checks of containers without other programs.`,
		Example: `  slipway health
  slipway health --alive --url http://127.0.0.1:9090`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, _, err := a.target()
			if err != nil {
				return err
			}
			c, err := newClient(address, "")
			if err != nil {
				return err
			}
			path := "/readyz"
			if alive {
				path = "/healthz"
			}
			body, status, err := ask(cmd.Context(), c.HTTP, address+path)
			if err != nil {
				return slipway.Errorf(slipway.Unavailable, "the server at %s does not answer", address).WithCause(err)
			}
			t := blueprint.Table{Rows: [][]string{{address, "alive"}}}
			if !alive {
				var r server.Readiness
				if err := json.Unmarshal(body, &r); err != nil || status != http.StatusOK && status != http.StatusServiceUnavailable {
					return slipway.Errorf(slipway.Unavailable, "what answers at %s is no server of Slipway", address)
				}
				t = blueprint.Table{Header: []string{"Check", "OK", "Took", "Error"}}
				for _, c := range r.Checks {
					t.Rows = append(t.Rows, []string{c.Name, yesNo(c.OK), fmt.Sprintf("%.1f ms", c.Milliseconds), c.Error})
				}
			}
			if err := a.print(cmd, json.RawMessage(body), t); err != nil {
				return err
			}
			if status != http.StatusOK {
				return slipway.Errorf(slipway.Unavailable, "the server at %s is not ready", address)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&alive, "alive", false, "ask only whether the process answers")
	return cmd
}

// ask is not the client's own call, for which 503 is an error without a body.
func ask(ctx context.Context, h *http.Client, url string) ([]byte, int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, err
	}
	res, err := h.Do(req)
	if err != nil {
		return nil, 0, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return body, res.StatusCode, errors.Join(err, res.Body.Close())
}
