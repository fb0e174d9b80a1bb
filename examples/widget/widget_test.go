package widget

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// with is this blueprint beside the one that serves schedules and events. Each test runs on both engines.
func with(configure func(*server.Config), now func() time.Time) blueprinttest.Options {
	return blueprinttest.Options{Blueprints: []blueprint.Blueprint{Blueprint, platform.Blueprint}, Configure: configure, Now: now}
}

func TestAWidgetIsKept(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, with(nil, nil), func(t *testing.T, s *blueprinttest.Server) {
		var made, got Widget
		s.Post("/api/widgets", map[string]string{"name": "first"}).Is(201).Into(&made)
		s.Get(fmt.Sprint("/api/widgets/", made.ID)).Is(200).Into(&got)
		if made.Name != "first" || got != made {
			t.Errorf("got %+v, then %+v", made, got)
		}
	})
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, with(nil, nil), func(t *testing.T, s *blueprinttest.Server) {
		s.Post("/api/widgets", map[string]string{"name": ""}).Fails(400, slipway.Invalid)
		s.Get("/api/widgets/99").Fails(404, slipway.NotFound)
		s.With("widget.widget.read").Post("/api/widgets", map[string]string{"name": "first"}).Fails(403, slipway.Forbidden)
		s.With("widget.widget.create").Get("/api/widgets/1").Fails(403, slipway.Forbidden)
	})
}

func TestOldWidgetsAreDeleted(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			var later atomic.Int64 // the clock of the server is so far ahead
			s := blueprinttest.Start(t, engine, with(nil, func() time.Time { return time.Now().Add(time.Duration(later.Load())) }))
			s.Post("/api/widgets", map[string]string{"name": "first"}).Is(201)
			later.Store(int64(keep + time.Hour))
			s.Post("/api/widgets", map[string]string{"name": "second"}).Is(201)
			s.Post("/api/schedules/widget.sweep/run", nil).Is(202)
			blueprinttest.Eventually(t, "an event tells of it", func() bool {
				return strings.Contains(string(s.Get("/api/events?type="+swept).Is(200).Body), swept)
			})
			s.Get("/api/widgets/1").Is(404)
			s.Get("/api/widgets/2").Is(200)
		})
	}
}

func TestTheAPIBehindIsReached(t *testing.T) {
	t.Parallel()
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "asked for "+r.URL.Path) }))
	t.Cleanup(behind.Close)
	there := func(c *server.Config) { c.Proxies = map[string]blueprint.Proxy{"widget": {Target: behind.URL}} }
	blueprinttest.Each(t, with(there, nil), func(t *testing.T, s *blueprinttest.Server) {
		if body := string(s.Get("/api/proxy/widget/parts").Is(200).Body); body != "asked for /parts" {
			t.Errorf("got %s", body)
		}
		s.With("widget.widget.read").Get("/api/proxy/widget/parts").Is(403)
	})
}

func TestTheCommandAsksTheAPI(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, with(nil, nil), func(t *testing.T, s *blueprinttest.Server) {
		var out bytes.Buffer
		cmd := command(&blueprint.Client{
			Do: func(_ context.Context, method, path string, body, into any) error {
				return json.Unmarshal(s.Do(method, path, body).Is(201).Body, into)
			},
			Print: func(_ *cobra.Command, _ any, table blueprint.Table) error {
				_, err := fmt.Fprint(&out, table.Rows)
				return err
			},
		})
		cmd.SetArgs([]string{"first"})
		if err := cmd.Execute(); err != nil || out.String() != "[[1 first]]" {
			t.Errorf("got %s, %v", out.String(), err)
		}
	})
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, store.Migrations{Owner: "widget", FS: Blueprint.Databases[1].Migrations})
}
