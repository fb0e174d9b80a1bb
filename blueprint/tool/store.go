package tool

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/store"
)

//go:embed migrations
var files embed.FS

// Migrations is the schema of the database store, and of what the blueprint keeps beside any store.
var Migrations = store.Migrations{Owner: "tool", FS: blueprint.Folder(files, "migrations")}

// database is the Storage in the main database. Versions are numbers.
type database struct {
	db *store.DB
}

var _ Storage = database{}

// missing gives a sentence to what is not there.
func missing(err error, format string, args ...any) error {
	if errors.Is(err, slipway.NotFound) {
		return slipway.Errorf(slipway.NotFound, "Unable to find "+format, args...)
	}
	return err
}

// changed is the error of a change to what somebody else has changed meanwhile.
func changed(what string) error {
	return slipway.Errorf(slipway.Conflict, "%s was changed by somebody else at the same moment; read it again", what)
}

func (t Then) run(ctx context.Context, tx *store.Tx, n News) error {
	if t == nil {
		return nil
	}
	return t(ctx, tx, n)
}

func number64(version string) int64 {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return -1 // fits no row
	}
	return n
}

func (s database) Config(ctx context.Context, tool string) (Config, error) {
	c, err := scanConfig(s.db.QueryRowContext(ctx, `SELECT tool, version, document, updated FROM tool_config WHERE tool = $1`, tool).Scan)
	return c, missing(err, "a config for %s: it has no config yet", tool)
}

func scanConfig(scan func(...any) error) (Config, error) {
	var c Config
	var version int64
	var document string
	var updated store.Time
	if err := scan(&c.Tool, &version, &document, &updated); err != nil {
		return Config{}, store.Err(err)
	}
	c.Version, c.Document, c.Updated = strconv.FormatInt(version, 10), json.RawMessage(document), updated.Time
	return c, nil
}

func (s database) SetConfig(ctx context.Context, c Config, then Then) (Config, error) {
	out := c
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		var version int64
		var err error
		if c.Version == "" {
			err = tx.QueryRowContext(ctx, `INSERT INTO tool_config (tool, version, document, updated) VALUES ($1, 1, $2, $3)
				ON CONFLICT (tool) DO UPDATE SET version = tool_config.version + 1, document = excluded.document, updated = excluded.updated
				RETURNING version`, c.Tool, string(c.Document), store.At(c.Updated)).Scan(&version)
		} else {
			err = tx.QueryRowContext(ctx, `UPDATE tool_config SET version = version + 1, document = $1, updated = $2 WHERE tool = $3 AND version = $4
				RETURNING version`, string(c.Document), store.At(c.Updated), c.Tool, number64(c.Version)).Scan(&version)
		}
		if err = store.Err(err); errors.Is(err, slipway.NotFound) {
			return changed("the config of " + c.Tool)
		}
		if err != nil {
			return err
		}
		out.Version = strconv.FormatInt(version, 10)
		return then.run(ctx, tx, News{})
	})
	return out, err
}

func (s database) DeleteConfig(ctx context.Context, tool string, then Then) (Config, error) {
	var c Config
	err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
		c, err = scanConfig(tx.QueryRowContext(ctx, `DELETE FROM tool_config WHERE tool = $1 RETURNING tool, version, document, updated`, tool).Scan)
		if err != nil {
			return err
		}
		return then.run(ctx, tx, News{})
	})
	return c, missing(err, "a config for %s: it has no config yet", tool)
}

const deploymentColumns = `version, state, config`

func scanDeployment(scan func(...any) error) (Deployment, error) {
	var d Deployment
	var version int64
	var state, config string
	if err := scan(&version, &state, &config); err != nil {
		return d, store.Err(err)
	}
	if err := json.Unmarshal([]byte(state), &d); err != nil {
		return d, err
	}
	d.Version, d.Config = strconv.FormatInt(version, 10), json.RawMessage(config)
	return d, nil
}

// state is a deployment as it is stored beside its configuration.
func state(d Deployment) (string, error) {
	d.Config = nil
	raw, err := json.Marshal(d)
	return string(raw), err
}

func (s database) Create(ctx context.Context, d Deployment, then Then) (Deployment, error) {
	raw, err := state(d)
	if err != nil {
		return d, err
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `INSERT INTO tool_deployment (tool, id, created, builder, active, version, state, config) VALUES ($1, $2, $3, $4, $5, 1, $6, $7) ON CONFLICT DO NOTHING`,
			d.Tool, d.ID, store.At(d.Created), d.Builder, d.Status.Active(), raw, string(d.Config))
		if err != nil {
			return err
		}
		if n == 0 {
			return slipway.Errorf(slipway.Conflict, "There's already 1 running, the limit is 1. Wait for it to finish for now.")
		}
		return then.run(ctx, tx, News{Created: true, Ended: !d.Status.Active()})
	})
	d.Version = "1"
	return d, err
}

func (s database) Deployment(ctx context.Context, tool, id string) (Deployment, error) {
	d, err := scanDeployment(s.db.QueryRowContext(ctx, `SELECT `+deploymentColumns+` FROM tool_deployment WHERE tool = $1 AND id = $2`, tool, id).Scan)
	return d, missing(err, "deployment %.100q for %s", id, tool)
}

func (s database) Deployments(ctx context.Context, tool string) ([]Deployment, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+deploymentColumns+` FROM tool_deployment WHERE tool = $1 ORDER BY created, id`, tool)
	if err != nil {
		return nil, store.Err(err)
	}
	list := []Deployment{}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		d, err := scanDeployment(rows.Scan)
		list = append(list, d)
		return err
	})
}

func (s database) Active(ctx context.Context) ([]Reference, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT tool, id, builder, version, created FROM tool_deployment WHERE active`)
	if err != nil {
		return nil, store.Err(err)
	}
	list := []Reference{}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var r Reference
		var version int64
		var created store.Time
		err := rows.Scan(&r.Tool, &r.ID, &r.Builder, &version, &created)
		r.Version, r.Created = strconv.FormatInt(version, 10), created.Time
		list = append(list, r)
		return err
	})
}

func (s database) Update(ctx context.Context, d Deployment, then Then) (Deployment, error) {
	raw, err := state(d)
	if err != nil {
		return d, err
	}
	out := d
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE tool_deployment SET state = $1, active = $2, version = version + 1 WHERE tool = $3 AND id = $4 AND version = $5`,
			raw, d.Status.Active(), d.Tool, d.ID, number64(d.Version))
		if err != nil {
			return err
		}
		if n == 0 {
			return changed("deployment " + d.ID)
		}
		out.Version = strconv.FormatInt(number64(d.Version)+1, 10)
		return then.run(ctx, tx, News{Ended: !d.Status.Active()})
	})
	return out, err
}

func (s database) Delete(ctx context.Context, tool, id string) (Deployment, error) {
	var d Deployment
	err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
		d, err = scanDeployment(tx.QueryRowContext(ctx, `DELETE FROM tool_deployment WHERE tool = $1 AND id = $2 AND NOT active RETURNING `+deploymentColumns, tool, id).Scan)
		return err
	})
	if errors.Is(err, slipway.NotFound) {
		if d, err = s.Deployment(ctx, tool, id); err == nil {
			err = slipway.Errorf(slipway.Conflict, "deployment %s is %s; cancel it and wait for its end before you delete it", id, d.Status)
		}
	}
	return d, err
}

// Nothing is ever owed: what belongs to a change is a part of its transaction.

func (s database) Owed(context.Context, Owed, Owed) ([]Owed, error) { return nil, nil }
func (s database) Settle(context.Context, Deployment, Then) error   { return nil }
func (s database) SettleConfig(context.Context, string, Then) error { return nil }
func (s database) Forget(context.Context, Owed) error               { return nil }

func (s database) DeployToken(ctx context.Context, tool string) (DeployToken, error) {
	t, err := scanToken(s.db.QueryRowContext(ctx, `SELECT `+tokenColumns+` FROM tool_token WHERE tool = $1`, tool).Scan)
	return t, missing(err, "a deploy token for %s", tool)
}

const tokenColumns = `tool, hash, created, expires, version`

func scanToken(scan func(...any) error) (DeployToken, error) {
	var t DeployToken
	var version int64
	var created, expires store.Time
	if err := scan(&t.Tool, &t.Hash, &created, &expires, &version); err != nil {
		return DeployToken{}, store.Err(err)
	}
	t.Created, t.Expires, t.Version = created.Time, expires.Time, strconv.FormatInt(version, 10)
	return t, nil
}

func (s database) SetDeployToken(ctx context.Context, t DeployToken) error {
	return s.db.Write(ctx, func(tx *store.Tx) error {
		var n int64
		var err error
		if t.Version == "" {
			n, err = tx.Exec(ctx, `INSERT INTO tool_token (tool, hash, created, expires, version) VALUES ($1, $2, $3, $4, 1) ON CONFLICT DO NOTHING`,
				t.Tool, t.Hash, store.At(t.Created), store.At(t.Expires))
		} else {
			n, err = tx.Exec(ctx, `UPDATE tool_token SET hash = $1, created = $2, expires = $3, version = version + 1 WHERE tool = $4 AND version = $5`,
				t.Hash, store.At(t.Created), store.At(t.Expires), t.Tool, number64(t.Version))
		}
		if err == nil && n == 0 {
			err = changed("the deploy token of " + t.Tool)
		}
		return err
	})
}

func (s database) DeleteDeployToken(ctx context.Context, tool string) (DeployToken, error) {
	var t DeployToken
	err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
		t, err = scanToken(tx.QueryRowContext(ctx, `DELETE FROM tool_token WHERE tool = $1 RETURNING `+tokenColumns, tool).Scan)
		return err
	})
	return t, missing(err, "a deploy token for %s", tool)
}

// refreshNote says when somebody last began to ask for the builds of a builder, or of one tool there, and of when the last answer is that was stored whole.
type refreshNote struct{ asked, stored time.Time }

// claimRefresh says whether the caller may ask for the builds of a builder, or of one tool there: nobody has within the interval. The clock of
// this machine may have been put back.
func claimRefresh(ctx context.Context, db *store.DB, builder, tool string, now time.Time, interval time.Duration) (note refreshNote, claimed bool, err error) {
	var asked, stored store.Time
	err = store.Err(db.QueryRowContext(ctx, `SELECT asked, stored FROM tool_refresh WHERE builder = $1 AND tool = $2`, builder, tool).Scan(&asked, &stored))
	if err != nil && !errors.Is(err, slipway.NotFound) {
		return note, false, err
	}
	note = refreshNote{asked.Time, stored.Time}
	if err == nil && asked.After(now.Add(-interval)) && !asked.After(now.Add(interval)) {
		return note, false, nil
	}
	err = db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `INSERT INTO tool_refresh (builder, tool, asked) VALUES ($1, $2, $3)
			ON CONFLICT (builder, tool) DO UPDATE SET asked = excluded.asked WHERE tool_refresh.asked <= $4 OR tool_refresh.asked > $5`,
			builder, tool, store.At(now), store.At(now.Add(-interval)), store.At(now.Add(interval)))
		claimed = n > 0
		return err
	})
	if err == nil && !claimed {
		note.asked = now // by somebody else, at this moment
	}
	return note, claimed, err
}

// noteRefresh notes that what a builder said at a time has been stored.
func noteRefresh(ctx context.Context, db *store.DB, builder, tool string, at time.Time) error {
	return db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE tool_refresh SET stored = $1 WHERE builder = $2 AND tool = $3`, store.At(at), builder, tool)
		return err
	})
}

// forgetRefresh deletes what was noted of refreshes long ago.
func forgetRefresh(ctx context.Context, db *store.DB, before time.Time) error {
	return db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM tool_refresh WHERE asked < $1`, store.At(before))
		return err
	})
}

// owed notes in the database what belongs to changes elsewhere: before the change, so that a crash at any moment loses nothing. The note is taken away in the transaction that
// does what it says, so that of several who come for it one does it.
type owed struct {
	db  *store.DB
	now func() time.Time
}

// What may be owed, as it is stored.
const (
	owedCreated = "created"
	owedEnded   = "ended " // and the name of the change: of several who see the end at once, one makes it, and the notes of the others are of changes that never were
	owedConfig  = "config"
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
		what = append(what, owedEnded+d.Change)
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
	what := owedCreated // all that can be true of one that goes on
	if !d.Status.Active() {
		what = ""
	}
	return o.db.Write(ctx, func(tx *store.Tx) error {
		var n News
		rows, err := tx.QueryContext(ctx, `DELETE FROM tool_owed WHERE tool = $1 AND id = $2 AND (what = $3 OR $3 = '') RETURNING what`, d.Tool, d.ID, what)
		if err != nil {
			return store.Err(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var what string
			err := rows.Scan(&what)
			n.Created, n.Ended = n.Created || what == owedCreated, n.Ended || what == owedEnded+d.Change
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

// list gives the notes of a deployment, or all, by tool and id: a page of those after one.
func (o owed) list(ctx context.Context, of, after Owed) ([]Owed, error) {
	rows, err := o.db.QueryContext(ctx, `SELECT tool, id, MIN(since) FROM tool_owed WHERE (tool, id) > ($1, $2) AND ($3 = '' OR tool = $3 AND id = $4)
		GROUP BY tool, id ORDER BY tool, id LIMIT $5`, after.Tool, after.ID, of.Tool, of.ID, owedPage)
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
