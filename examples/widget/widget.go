// Package widget is the blueprint that `slipway blueprint new` begins with: it keeps widgets in a database of its own, deletes old ones by a job that a schedule
// starts, tells of it by an event, stands before another API, and has a command and a page. docs/blueprints.md says what each part is for.
package widget

import (
	"context"
	"embed"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/store"
)

// Blueprint is what goes into the list of a build.
var Blueprint = blueprint.Blueprint{
	Name: "widget", Version: "0.1.0", Summary: "Keeps widgets.", Stability: blueprint.Experimental,
	Mounts:      []blueprint.Mount{{Prefix: "/api/widgets", Dialect: blueprint.API}},
	Permissions: []auth.Permission{{Name: "widget.widget.read", Text: "See widgets"}, {Name: "widget.widget.create", Text: "Make widgets"}},
	Operations: []blueprint.Operation{
		blueprint.Handle((*service).create, blueprint.Operation{ID: "widget.create", Method: "POST", Path: "/api/widgets", Permission: "widget.widget.create",
			Status: 201, Idempotent: true, Summary: "Make a widget", RequestExample: map[string]string{"name": "first"}, ResponseExample: Widget{ID: 1, Name: "first"}}),
		blueprint.Handle((*service).get, blueprint.Operation{ID: "widget.get", Method: "GET", Path: "/api/widgets/{id}", Permission: "widget.widget.read",
			Summary: "Get a widget", Errors: []slipway.Code{slipway.NotFound}, ResponseExample: Widget{ID: 1, Name: "first"}}),
	},
	Databases: []blueprint.Database{{Name: "main"}, {Name: "widget", Migrations: blueprint.Folder(files, "migrations"), Tables: []string{"widget_widget"}}},
	Jobs:      []blueprint.Job{blueprint.Work((*service).sweep, job.Worker{Text: "Deletes old widgets", Timeout: time.Minute})},
	Schedules: []job.Schedule{{Name: "widget.sweep", Text: "Deletes old widgets", Every: time.Hour, Args: sweep{}}},
	Events:    []event.Type{{Name: swept, Text: "Old widgets were deleted", Data: event.CDEvent[map[string]int64, struct{}]{}}}, Commands: []func(*blueprint.Client) *cobra.Command{command},
	Proxies: []blueprint.Proxy{{Name: "widget", Text: "The API behind the widgets", Target: "https://widget.example.com/api"}},
	Pages:   []blueprint.Page{{Slug: "widget", Title: "Widgets", Text: readme}}, Open: func(_ context.Context, h *blueprint.Host) (any, error) { return &service{h}, nil },
}

//go:embed README.md
var readme string

//go:embed migrations
var files embed.FS

const keep, swept = 90 * 24 * time.Hour, "dev.cdeventsx.slipway-widget.swept.0.1.0"

// Widget is one widget.
type Widget struct {
	ID   int64  `json:"id" doc:"Id"`
	Name string `json:"name" doc:"What it is called"`
}

type service struct{ *blueprint.Host }

type body[T any] struct{ Body T }

func (s *service) create(ctx context.Context, in *body[struct {
	Name string `json:"name" minLength:"1" maxLength:"100" doc:"What it is called"`
}]) (*body[Widget], error) {
	w, err := insertWidget(ctx, s.DB("widget"), in.Body.Name, s.Now())
	return &body[Widget]{w}, err
}

func (s *service) get(ctx context.Context, in *struct {
	ID int64 `path:"id" doc:"Id of the widget"`
}) (*body[Widget], error) {
	w, err := getWidget(ctx, s.DB("widget"), in.ID)
	return &body[Widget]{w}, err
}

// sweep is what the job stores: nothing. Old jobs must stay readable when it gets fields.
type sweep struct{}

func (sweep) Kind() string { return "widget.sweep" }

// sweep may run twice: the second time it finds nothing to do. Widgets have a database of their own; jobs and events are stored in main.
func (s *service) sweep(ctx context.Context, _ sweep) error {
	n, err := deleteWidgets(ctx, s.DB("widget"), s.Now().Add(-keep))
	if err != nil || n == 0 {
		return err
	}
	return s.DB("main").Write(ctx, func(tx *store.Tx) error {
		return s.Events.Publish(ctx, tx, event.NewCDEvent(swept, event.SourceOf("widget"), s.Now(), event.CDSubject[map[string]int64]{ID: "widgets", Content: map[string]int64{"deleted": n}}, struct{}{}).Event())
	})
}

// command is `slipway widget`: a client of the API like anybody else.
func command(client *blueprint.Client) *cobra.Command {
	return &cobra.Command{
		Use: "widget NAME", Short: "Make a widget", Long: "Make a widget.", Example: "  slipway widget first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var w Widget
			if err := client.Do(cmd.Context(), "POST", "/api/widgets", map[string]string{"name": args[0]}, &w); err != nil {
				return err
			}
			return client.Print(cmd, w, blueprint.Table{Header: []string{"ID", "NAME"}, Rows: [][]string{{fmt.Sprint(w.ID), w.Name}}})
		},
	}
}
