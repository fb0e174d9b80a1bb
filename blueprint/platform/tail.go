package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
)

const (
	tailEvery = 2 * time.Second // half of what a user may ask in a minute is left for other things
	tailLimit = 100             // events in one answer
)

func (c cli) eventTail() *cobra.Command {
	var types []string
	var after int64
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show events as they happen",
		Long:  `Show events as they happen, one line each, until you press Ctrl-C: from now on, or with --after also those since that position. With -o json, each line is a document. If the connection is lost, the command continues where it was, without losing an event.`,
		Example: `  slipway event tail
  slipway event tail --type 'dev.cdevents.pipelinerun.*' -o json
  slipway event tail --after 1200`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"type": types, "limit": {strconv.Itoa(tailLimit)}}
			if !cmd.Flags().Changed("after") {
				_, list, err := blueprint.Get[blueprint.List[event.Event]](cmd.Context(), c.Client, "/api/events?latest=true")
				if err != nil {
					return err
				}
				if after, err = strconv.ParseInt(list.PageInfo.NextCursor, 10, 64); err != nil {
					return slipway.Errorf(slipway.Internal, "the server did not say where its events end: it is older than this program").WithCause(err)
				}
			}
			return c.tail(cmd, q, after)
		},
	}
	cmd.Flags().StringArrayVar(&types, "type", nil, "type of event, or a beginning of one and *; may be repeated")
	cmd.Flags().Int64Var(&after, "after", 0, "position to begin after (default now); 0: the first one kept")
	return cmd
}

// tail shows the events after a position until the command is interrupted, which is how it is meant to end.
func (c cli) tail(cmd *cobra.Command, q url.Values, after int64) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	documents := cmd.Flag("output") != nil && cmd.Flag("output").Value.String() != "table"
	away := false
	for {
		q.Set("after", strconv.FormatInt(after, 10))
		_, list, err := blueprint.Get[blueprint.List[json.RawMessage]](ctx, c.Client, with("/api/events", q))
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, slipway.Unavailable):
			if !away {
				fmt.Fprintln(cmd.ErrOrStderr(), "The server does not answer; waiting for it.")
			}
			away = true
		case err != nil:
			return err
		default:
			away = false
		}
		for _, raw := range list.Items {
			var e event.Event
			if err := json.Unmarshal(raw, &e); err != nil {
				return err
			}
			if err := show(out, e, raw, documents); err != nil {
				return err
			}
			after = e.Position
		}
		if list.PageInfo.HasMore {
			if after, err = strconv.ParseInt(list.PageInfo.NextCursor, 10, 64); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tailEvery):
		}
	}
}

// show writes an event as one line.
func show(out io.Writer, e event.Event, raw json.RawMessage, document bool) error {
	if document {
		_, err := fmt.Fprintf(out, "%s\n", raw)
		return err
	}
	_, err := fmt.Fprintf(out, "%-8d  %s  %-45s  %s\n", e.Position, blueprint.Clock(&e.Time), e.Type, e.Subject)
	return err
}
