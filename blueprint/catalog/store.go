package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// The states of a location.
const (
	processing = "processing" // it was not read yet
	ready      = "ready"
	faulty     = "faulty" // some of it could not be used
	failed     = "failed" // it could not be read; what it brought before is kept
	removing   = "removing"
)

// Who registered a location.
const (
	fromAPI    = "api"
	fromConfig = "config"
)

// row is a stored location.
type row struct {
	Place
	ID        string
	Origin    string
	Status    string
	Error     string
	Faults    []string
	Failures  int
	Trusted   bool // users and groups may stand in it
	CreatedAt store.Time
	ReadAt    store.Time
	NextRead  store.Time
}

// source is the name under which the location's entities are stored.
func (r row) source() string { return "location:" + r.ID }

const locationColumns = `id, type, target, origin, status, error, faults, failures, trusted, created_at, read_at, next_read`

func scanLocation(scan func(...any) error) (r row, err error) {
	var faults string
	err = scan(&r.ID, &r.Type, &r.Target, &r.Origin, &r.Status, &r.Error, &faults, &r.Failures, &r.Trusted, &r.CreatedAt, &r.ReadAt, &r.NextRead)
	if err == nil {
		err = json.Unmarshal([]byte(faults), &r.Faults)
	}
	return r, store.Err(err)
}

func insertLocation(ctx context.Context, tx *store.Tx, r row) error {
	_, err := tx.Exec(ctx, `INSERT INTO catalog_location (id, type, target, origin, status, trusted, created_at, next_read) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		r.ID, r.Type, r.Target, r.Origin, processing, r.Trusted, r.CreatedAt, r.NextRead)
	return err
}

// getLocation finds a location that is not being removed.
func getLocation(ctx context.Context, q store.Querier, id string) (row, error) {
	return one(q.QueryRowContext(ctx, `SELECT `+locationColumns+` FROM catalog_location WHERE id = $1 AND status <> 'removing'`, id))
}

// stillThere holds for a location that was read before, unless it is gone, being removed, or has got another target meanwhile.
const stillThere = `id = $1 AND status <> 'removing' AND type = $2 AND target = $3`

func isThere(ctx context.Context, q store.Querier, r row) (there bool, err error) {
	err = q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM catalog_location WHERE `+stillThere+`)`, r.ID, r.Type, r.Target).Scan(&there)
	return there, store.Err(err)
}

// holdLocation is isThere for what must hold until the end of the transaction: whoever would remove the location, or move it, waits.
func holdLocation(ctx context.Context, tx *store.Tx, r row) (there bool, err error) {
	n, err := tx.Exec(ctx, `UPDATE catalog_location SET type = type WHERE `+stillThere, r.ID, r.Type, r.Target)
	return n == 1, err
}

// findLocation finds a location by its place, also one that is being removed.
func findLocation(ctx context.Context, q store.Querier, p Place) (row, error) {
	return one(q.QueryRowContext(ctx, `SELECT `+locationColumns+` FROM catalog_location WHERE type = $1 AND target = $2`, p.Type, p.Target))
}

func one(r *sql.Row) (row, error) {
	l, err := scanLocation(r.Scan)
	if slipway.CodeOf(err) == slipway.NotFound {
		return l, slipway.Errorf(slipway.NotFound, "there is no such location; slipway catalog locations (GET /api/catalog/locations) shows them")
	}
	return l, err
}

func listLocations(ctx context.Context, q store.Querier, where string, args ...any) ([]row, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+locationColumns+` FROM catalog_location WHERE `+where, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var list []row
	err = store.Each(rows, func(rows *sql.Rows) error {
		r, err := scanLocation(rows.Scan)
		list = append(list, r)
		return err
	})
	return list, err
}

// saveReading stores what came of reading a location. False: the location is gone, or is being removed, or has got another target meanwhile.
func saveReading(ctx context.Context, tx *store.Tx, r row) (bool, error) {
	if r.Faults == nil {
		r.Faults = []string{}
	}
	faults, err := json.Marshal(r.Faults)
	if err != nil {
		return false, err
	}
	n, err := tx.Exec(ctx, `UPDATE catalog_location SET status = $4, error = $5, faults = $6, failures = $7, read_at = $8, next_read = $9 WHERE `+stillThere,
		r.ID, r.Type, r.Target, r.Status, r.Error, string(faults), r.Failures, r.ReadAt, r.NextRead)
	return n == 1, err
}

// postpone sets when a location is read again, and nothing else: it may be being read just now.
func postpone(ctx context.Context, tx *store.Tx, id string, until time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE catalog_location SET next_read = $2 WHERE id = $1`, id, store.At(until))
	return err
}

func markRemoving(ctx context.Context, tx *store.Tx, id string) error {
	_, err := tx.Exec(ctx, `UPDATE catalog_location SET status = 'removing' WHERE id = $1`, id)
	return err
}

func deleteRow(ctx context.Context, tx *store.Tx, id string) error {
	_, err := tx.Exec(ctx, `DELETE FROM catalog_location WHERE id = $1 AND status = 'removing'`, id)
	return err
}

// setPlace gives a location another target, which was not read yet. Whether it is trusted depends on who does so.
func setPlace(ctx context.Context, tx *store.Tx, id string, p Place, trusted bool) error {
	_, err := tx.Exec(ctx, `UPDATE catalog_location SET type = $2, target = $3, status = 'processing', error = '', faults = '[]', failures = 0, trusted = $4 WHERE id = $1`, id, p.Type, p.Target, trusted)
	return err
}

// setOrigin says who stands for a location. What stands in the configuration is trusted.
func setOrigin(ctx context.Context, tx *store.Tx, id, origin string) error {
	_, err := tx.Exec(ctx, `UPDATE catalog_location SET origin = $2, trusted = $3 WHERE id = $1`, id, origin, origin == fromConfig)
	return err
}

// dueLocations lists those whose time has come, the longest overdue first.
func dueLocations(ctx context.Context, q store.Querier, now time.Time, limit int) ([]row, error) {
	return listLocations(ctx, q, `next_read <= $1 AND status <> 'removing' ORDER BY next_read LIMIT $2`, store.At(now), limit)
}
