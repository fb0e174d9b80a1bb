package tool

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// owed notes in the database what belongs to changes elsewhere: before the change, so that a crash at any moment loses nothing. The note is taken away in the transaction that
// does what it says, so that of several who come for it one does it.
type owed struct {
	db  *store.DB
	now func() time.Time
}

// What may be owed, as it is stored.
const (
	owedCreated = "created"
	owedEnded   = "ended"
	owedConfig  = "config"
)

// How long a change may be on its way. A note of something that is not there later than this is of a change that never was.
const (
	deploymentOnItsWay = draftLife
	configOnItsWay     = time.Minute
)

func (o owed) note(ctx context.Context, tool, id string, what ...string) error {
	return o.db.Write(ctx, func(tx *store.Tx) error {
		for _, w := range what {
			_, err := tx.Exec(ctx, `INSERT INTO tool_owed (tool, id, what, since) VALUES ($1, $2, $3, $4) ON CONFLICT (tool, id, what) DO UPDATE SET since = excluded.since`,
				tool, id, w, store.At(o.now()))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// deployment notes the news of a change that is about to be made.
func (o owed) deployment(ctx context.Context, d Deployment, n News, then Then) error {
	var what []string
	if n.Created {
		what = append(what, owedCreated)
	}
	if n.Ended {
		what = append(what, owedEnded)
	}
	if then == nil || len(what) == 0 {
		return nil
	}
	return o.note(ctx, d.Tool, d.ID, what...)
}

// config notes that a tool's configuration is about to change.
func (o owed) config(ctx context.Context, tool string, then Then) error {
	if then == nil {
		return nil
	}
	return o.note(ctx, tool, "", owedConfig)
}

// settle does what belongs to a deployment as it stands. That it has ended is told only when it has.
func (o owed) settle(ctx context.Context, d Deployment, then Then) error {
	if then == nil {
		return nil
	}
	later := owedEnded
	if !d.Status.Active() {
		later = ""
	}
	return o.db.Write(ctx, func(tx *store.Tx) error {
		var n News
		rows, err := tx.QueryContext(ctx, `DELETE FROM tool_owed WHERE tool = $1 AND id = $2 AND what <> $3 RETURNING what`, d.Tool, d.ID, later)
		if err != nil {
			return store.Err(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var what string
			err := rows.Scan(&what)
			n.Created, n.Ended = n.Created || what == owedCreated, n.Ended || what == owedEnded
			return err
		})
		if err != nil {
			return err
		}
		return then.run(ctx, tx, n)
	})
}

// settleConfig does what belongs to a configuration.
func (o owed) settleConfig(ctx context.Context, tool string, then Then) error {
	if then == nil {
		return nil
	}
	return o.db.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM tool_owed WHERE tool = $1 AND id = ''`, tool); err != nil {
			return err
		}
		return then.run(ctx, tx, News{})
	})
}

func (o owed) forget(ctx context.Context, what Owed) error {
	return o.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM tool_owed WHERE tool = $1 AND id = $2`, what.Tool, what.ID)
		return err
	})
}

// list gives the oldest notes, which are few: they stand for the time of a change.
func (o owed) list(ctx context.Context) ([]Owed, error) {
	rows, err := o.db.QueryContext(ctx, `SELECT tool, id, MIN(since) FROM tool_owed GROUP BY tool, id ORDER BY 3 LIMIT 500`)
	if err != nil {
		return nil, store.Err(err)
	}
	var list []Owed
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var what Owed
		var since store.Time
		err := rows.Scan(&what.Tool, &what.ID, &since)
		what.Since = since.Time
		list = append(list, what)
		return err
	})
}

// mend does what a crash, or a database that was away, has left undone beside changes that were made; of all tools, or of one deployment.
func (s *service) mend(ctx context.Context, id string) error {
	list, err := s.storage.Owed(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, o := range list {
		if id == "" || o.ID == id {
			faults = append(faults, s.mendOne(ctx, o))
		}
	}
	return errors.Join(faults...)
}

func (s *service) mendOne(ctx context.Context, o Owed) error {
	age := s.now().Sub(o.Since) // below zero when the clock was put back
	if o.ID == "" {
		if age >= 0 && age < configOnItsWay { // it may not have been made yet
			return nil
		}
		return s.storage.SettleConfig(ctx, o.Tool, s.entitiesFollow(o.Tool))
	}
	d, err := s.storage.Deployment(ctx, o.Tool, o.ID)
	switch {
	case errors.Is(err, slipway.NotFound) && age >= 0 && age < deploymentOnItsWay:
		return nil
	case errors.Is(err, slipway.NotFound):
		return s.storage.Forget(ctx, o)
	case err != nil:
		return err
	}
	return s.storage.Settle(ctx, d, s.then(&d))
}

// discard deletes a deployment that has ended, after what is owed for it was done.
func (s *service) discard(ctx context.Context, tool, id string) (Deployment, error) {
	if err := s.mend(ctx, id); err != nil {
		return Deployment{}, err
	}
	return s.storage.Delete(ctx, tool, id)
}
