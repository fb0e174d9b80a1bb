package widget

import (
	"context"
	"time"

	"github.com/slipway-platform/slipway/store"
)

func insertWidget(ctx context.Context, db *store.DB, name string, now time.Time) (Widget, error) {
	w := Widget{Name: name}
	err := db.Write(ctx, func(tx *store.Tx) error {
		return store.Err(tx.QueryRowContext(ctx, `INSERT INTO widget_widget (name, created) VALUES ($1, $2) RETURNING id`, name, store.At(now)).Scan(&w.ID))
	})
	return w, err
}

func getWidget(ctx context.Context, q store.Querier, id int64) (w Widget, err error) {
	err = q.QueryRowContext(ctx, `SELECT id, name FROM widget_widget WHERE id = $1`, id).Scan(&w.ID, &w.Name)
	return w, store.Err(err)
}

// deleteWidgets deletes those from before a time, at most 500: the transactions of others wait for this one.
func deleteWidgets(ctx context.Context, db *store.DB, before time.Time) (n int64, err error) {
	err = db.Write(ctx, func(tx *store.Tx) error {
		n, err = tx.Exec(ctx, `DELETE FROM widget_widget WHERE id IN (SELECT id FROM widget_widget WHERE created < $1 ORDER BY created LIMIT 500)`, store.At(before))
		return err
	})
	return n, err
}
