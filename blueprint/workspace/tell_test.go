package workspace

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// Who hangs up after the cluster has done what they asked for must not keep it out of the record.
func TestWhatWasDoneIsWrittenDownWhoeverStillListens(t *testing.T) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{store.RevisionMigrations, entity.Migrations, event.Migrations, auth.Migrations}, func(t *testing.T, db *store.DB) {
		log := slog.New(slog.DiscardHandler)
		callers, err := auth.New(db, store.NewRevisions(db, log), auth.DefaultConfig(), nil, time.Now, log)
		if err != nil {
			t.Fatal(err)
		}
		bus := event.New(db, log)
		bus.Declare(event.SourceOf("workspace"), Blueprint.Events...)
		s := &service{db: db, auth: callers, events: bus, log: log, now: time.Now}
		ctx, hangUp := context.WithCancel(auth.WithCaller(t.Context(), &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane"}))
		hangUp()
		s.tell(ctx, "delete", cluster.Object{"metadata": map[string]any{"namespace": "jane-workspaces", "name": "one"}})
		for table, where := range map[string]string{"auth_audit": "action = 'workspace.delete' AND subject = 'user:default/jane'", "event": "subject = 'jane-workspaces/one'"} {
			var n int
			if err := db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM `+table+` WHERE `+where).Scan(&n); err != nil || n != 1 {
				t.Errorf("%s has %d rows of it, %v; want 1", table, n, err)
			}
		}
	})
}
