package event

import (
	"context"

	"github.com/slipway-platform/slipway/store"
)

// Last is the position of the newest event that can be listed, for who wants to read only what comes after; 0 when there is none.
func (b *Bus) Last(ctx context.Context) (position int64, err error) {
	err = b.db.QueryRowContext(ctx, `SELECT COALESCE(MAX(position), 0) FROM event`).Scan(&position)
	return position, store.Err(err)
}
