package webhook

import (
	"context"
	"database/sql"
	"embed"
	"io/fs"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
)

//go:embed migrations
var files embed.FS

func migrations() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the folder is embedded
	}
	return sub
}

// The states of a webhook's row.
const (
	stateActive   = "active"
	stateDisabled = "disabled"
)

// The statuses of a delivery.
const (
	statusOK    = "delivered"
	statusRetry = "retrying"
	statusDead  = "dead"
)

// target is where a webhook stands.
type target struct {
	ID           string
	Version      int64
	Position     int64
	State        string
	Failures     int64
	FailingSince *time.Time
	RetryAt      *time.Time
	Error        string
	LeaseOwner   string
	LeaseUntil   *time.Time
}

const targetColumns = `id, version, position, state, failures, failing_since, retry_at, error, lease_owner, lease_until`

func targets(ctx context.Context, q store.Querier, id string) (all []target, err error) {
	rows, err := q.QueryContext(ctx, `SELECT `+targetColumns+` FROM webhook_target WHERE $1 = '' OR id = $1 ORDER BY id`, id)
	if err != nil {
		return nil, store.Err(err)
	}
	return all, store.Each(rows, func(rows *sql.Rows) error {
		var t target
		var since, retry, lease store.Time
		if err := rows.Scan(&t.ID, &t.Version, &t.Position, &t.State, &t.Failures, &since, &retry, &t.Error, &t.LeaseOwner, &lease); err != nil {
			return err
		}
		t.FailingSince, t.RetryAt, t.LeaseUntil = since.Ptr(), retry.Ptr(), lease.Ptr()
		all = append(all, t)
		return nil
	})
}

// begin makes the row of a webhook, which starts with what comes from now on; a document that was changed begins anew where it stands, whatever state it was in.
func begin(ctx context.Context, tx *store.Tx, id string, version, last int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO webhook_target (id, version, position, state) VALUES ($1, $2, $3, 'active')
		ON CONFLICT (id) DO UPDATE SET version = excluded.version, state = 'active', failures = 0, failing_since = NULL, retry_at = NULL, error = ''
		WHERE webhook_target.version < excluded.version`, id, version, last)
	return err
}

// forget deletes the rows of webhooks that have no document; what is logged of them stays for its time.
func forget(ctx context.Context, tx *store.Tx, id string) error {
	_, err := tx.Exec(ctx, `DELETE FROM webhook_target WHERE id = $1`, id)
	return err
}

// lease takes a webhook for a replica, when nobody else has it and it still stands where it was read.
func lease(ctx context.Context, tx *store.Tx, t target, owner string, now, until time.Time) (bool, error) {
	n, err := tx.Exec(ctx, `UPDATE webhook_target SET lease_owner = $1, lease_until = $2
		WHERE id = $3 AND position = $4 AND version = $5 AND state = 'active' AND (lease_until IS NULL OR lease_until < $6 OR lease_owner = $1) AND (retry_at IS NULL OR retry_at <= $6)`,
		owner, store.At(until), t.ID, t.Position, t.Version, store.At(now))
	return n == 1, err
}

// release gives it back.
func release(ctx context.Context, tx *store.Tx, id, owner string) error {
	_, err := tx.Exec(ctx, `UPDATE webhook_target SET lease_owner = '', lease_until = NULL WHERE id = $1 AND lease_owner = $2`, id, owner)
	return err
}

// releaseOthers gives back what anybody else holds, so that nobody waits for the end of a lease whose holder was killed.
func releaseOthers(ctx context.Context, tx *store.Tx, owner string) error {
	_, err := tx.Exec(ctx, `UPDATE webhook_target SET lease_owner = '', lease_until = NULL WHERE lease_owner <> $1`, owner)
	return err
}

// settled notes that everything up to a position is done with, and keeps the lease. False: the lease was lost. taken: the target took something.
func settled(ctx context.Context, tx *store.Tx, id, owner string, position int64, until time.Time, taken bool) (bool, error) {
	set := `position = $1, failures = 0, retry_at = NULL, lease_until = $2`
	if taken {
		set += `, failing_since = NULL, error = ''`
	}
	n, err := tx.Exec(ctx, `UPDATE webhook_target SET `+set+` WHERE id = $3 AND lease_owner = $4 AND position < $1`, position, store.At(until), id, owner)
	return n == 1, err
}

// refused notes that the event behind the position was not taken.
func refused(ctx context.Context, tx *store.Tx, id, owner string, failures int64, since, retry time.Time, cause string) (bool, error) {
	n, err := tx.Exec(ctx, `UPDATE webhook_target SET failures = $1, failing_since = COALESCE(failing_since, $2), retry_at = $3, error = $4, lease_owner = '', lease_until = NULL
		WHERE id = $5 AND lease_owner = $6`, failures, store.At(since), store.At(retry), cause, id, owner)
	return n == 1, err
}

// failed notes that the target has taken nothing since a time, whatever became of the event.
func failed(ctx context.Context, tx *store.Tx, id string, since time.Time, cause string) error {
	_, err := tx.Exec(ctx, `UPDATE webhook_target SET failing_since = COALESCE(failing_since, $1), error = $2 WHERE id = $3`, store.At(since), cause, id)
	return err
}

func disable(ctx context.Context, tx *store.Tx, id, cause string) error {
	_, err := tx.Exec(ctx, `UPDATE webhook_target SET state = 'disabled', retry_at = NULL, error = $1, lease_owner = '', lease_until = NULL WHERE id = $2`, cause, id)
	return err
}

// resume lets a webhook go on at once, where it stands.
func resume(ctx context.Context, tx *store.Tx, id string) error {
	_, err := tx.Exec(ctx, `UPDATE webhook_target SET state = 'active', failures = 0, failing_since = NULL, retry_at = NULL, error = '' WHERE id = $1`, id)
	return err
}

// passed notes that there was nothing for the webhook up to a position, when nobody else is at it.
func passed(ctx context.Context, tx *store.Tx, t target, position int64) error {
	_, err := tx.Exec(ctx, `UPDATE webhook_target SET position = $1 WHERE id = $2 AND position = $3 AND lease_owner = '' AND failures = 0`, position, t.ID, t.Position)
	return err
}

// Delivery is one event on its way to one webhook, in the log.
type Delivery struct {
	ID           int64     `json:"id" doc:"Id of the delivery" example:"71"`
	Webhook      string    `json:"webhook" doc:"Id of the webhook" example:"chat"`
	Position     int64     `json:"position" doc:"Place of the event in the order of all events" example:"1200"`
	Event        string    `json:"event" doc:"Id of the event, sent as webhook-id" example:"0190c0de-0000-7000-8000-000000000000"`
	Type         string    `json:"type" doc:"Type of the event" example:"dev.cdevents.pipelinerun.finished.0.3.0"`
	Subject      string    `json:"subject,omitempty" doc:"What the event is about" example:"github:71"`
	Status       string    `json:"status" enum:"delivered,retrying,dead" doc:"Taken by the target, tried again, or given up" example:"delivered"`
	Attempts     int64     `json:"attempts" doc:"How often it was sent" example:"1"`
	Answer       int64     `json:"answer,omitempty" doc:"HTTP status of the last answer; absent where there was none" example:"204"`
	Milliseconds int64     `json:"milliseconds" doc:"How long the last attempt took" example:"12"`
	Error        string    `json:"error,omitempty" doc:"What went wrong last"`
	CreatedAt    time.Time `json:"createdAt" doc:"When it was first sent"`
	UpdatedAt    time.Time `json:"updatedAt" doc:"When it was last sent"`
}

const deliveryColumns = `id, webhook, position, event, type, subject, status, attempts, answer, milliseconds, error, created, updated`

// note writes an attempt into the log.
func note(ctx context.Context, tx *store.Tx, webhook string, e event.Event, status string, o outcome, now time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO webhook_delivery (webhook, position, event, type, subject, status, attempts, answer, milliseconds, error, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, $10, $10)
		ON CONFLICT (webhook, position) DO UPDATE SET status = excluded.status, attempts = webhook_delivery.attempts + 1, answer = excluded.answer,
			milliseconds = excluded.milliseconds, error = excluded.error, updated = excluded.updated`,
		webhook, e.Position, e.ID, e.Type, e.Subject, status, o.status, o.took.Milliseconds(), o.cause(), store.At(now))
	return err
}

// query says which deliveries to read, newest first.
type query struct {
	webhook, status string
	id              int64 // 0: all
	before          int64 // 0: from the newest
	limit           int
}

func deliveries(ctx context.Context, q store.Querier, in query) (all []Delivery, err error) {
	rows, err := q.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM webhook_delivery WHERE webhook = $1 AND ($2 = '' OR status = $2) AND ($3 = 0 OR id = $3) AND ($4 = 0 OR id < $4) ORDER BY id DESC LIMIT $5`,
		in.webhook, in.status, in.id, in.before, in.limit)
	if err != nil {
		return nil, store.Err(err)
	}
	return all, store.Each(rows, func(rows *sql.Rows) error {
		var d Delivery
		var created, updated store.Time
		err := rows.Scan(&d.ID, &d.Webhook, &d.Position, &d.Event, &d.Type, &d.Subject, &d.Status, &d.Attempts, &d.Answer, &d.Milliseconds, &d.Error, &created, &updated)
		d.CreatedAt, d.UpdatedAt = created.Time, updated.Time
		all = append(all, d)
		return err
	})
}

func delivery(ctx context.Context, q store.Querier, webhook string, id int64) (Delivery, error) {
	all, err := deliveries(ctx, q, query{webhook: webhook, id: id, limit: 1})
	if err == nil && len(all) == 0 {
		err = slipway.Errorf(slipway.NotFound, "the webhook %.80q has no delivery %d; slipway webhook deliveries (GET /api/webhooks/%s/deliveries) shows them", webhook, id, strings.ToValidUTF8(webhook, "?"))
	}
	if err != nil {
		return Delivery{}, err
	}
	return all[0], nil
}

// counts gives how many dead letters each webhook has.
func counts(ctx context.Context, q store.Querier) (map[string]int64, error) {
	rows, err := q.QueryContext(ctx, `SELECT webhook, COUNT(*) FROM webhook_delivery WHERE status = 'dead' GROUP BY webhook`)
	if err != nil {
		return nil, store.Err(err)
	}
	out := map[string]int64{}
	return out, store.Each(rows, func(rows *sql.Rows) error {
		var id string
		var n int64
		err := rows.Scan(&id, &n)
		out[id] = n
		return err
	})
}

func pruneDeliveries(ctx context.Context, db *store.DB, before time.Time) error {
	for {
		var n int64
		err := db.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Exec(ctx, `DELETE FROM webhook_delivery WHERE id IN (SELECT id FROM webhook_delivery WHERE updated < $1 ORDER BY updated LIMIT 500)`, store.At(before))
			return err
		})
		if err != nil || n < 500 {
			return err
		}
	}
}
