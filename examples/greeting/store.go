package greeting

import (
	"context"
	"time"

	"github.com/slipway-platform/slipway/store"
)

func insertGreeting(ctx context.Context, tx *store.Tx, g Greeting, now time.Time) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `INSERT INTO greeting_greeting (recipient, text, created) VALUES ($1, $2, $3) RETURNING id`,
		g.To, g.Text, store.At(now)).Scan(&id)
	return id, store.Err(err)
}

// markDelivered says whether it was the first to do so.
func markDelivered(ctx context.Context, tx *store.Tx, id int64) (bool, error) {
	n, err := tx.Exec(ctx, `UPDATE greeting_greeting SET delivered = TRUE WHERE id = $1 AND NOT delivered`, id)
	return n == 1, err
}

func getGreeting(ctx context.Context, q store.Querier, id int64) (Greeting, error) {
	g := Greeting{ID: id}
	err := q.QueryRowContext(ctx, `SELECT recipient, text, delivered FROM greeting_greeting WHERE id = $1`, id).Scan(&g.To, &g.Text, &g.Delivered)
	return g, store.Err(err)
}

// listGreetings gives greetings, newest first: those before an id, or with 0 the newest.
func listGreetings(ctx context.Context, q store.Querier, before int64, limit int) ([]Greeting, error) {
	rows, err := q.QueryContext(ctx, `SELECT id, recipient, text, delivered FROM greeting_greeting WHERE $1 = 0 OR id < $1 ORDER BY id DESC LIMIT $2`, before, limit)
	if err != nil {
		return nil, store.Err(err)
	}
	defer rows.Close()
	list := []Greeting{}
	for rows.Next() {
		var g Greeting
		if err := rows.Scan(&g.ID, &g.To, &g.Text, &g.Delivered); err != nil {
			return nil, store.Err(err)
		}
		list = append(list, g)
	}
	return list, store.Err(rows.Err())
}
