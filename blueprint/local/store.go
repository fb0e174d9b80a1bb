package local

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

//go:embed migrations
var files embed.FS

// Migrations is the schema of the builds that this blueprint runs, and of their logs.
var Migrations = store.Migrations{Owner: "local", FS: blueprint.Folder(files, "migrations")}

// row is a stored build. Of the Build, ID is the row's own; EntityRef, Provider and Pipeline are not stored.
type row struct {
	slipway.Build
	Provider string
	Project  string // the repository, in one spelling, or a tool's component
	Ref      string // what was asked for; "" is the default branch
	Entity   string // one that the repository belonged to when the build was asked for, or ""
	ExitCode *int
	Order    provider.BuildOrder // of a tool; By is not stored
}

// repository is what is cloned.
func (r row) repository() string { return cmp.Or(r.Order.Repository, r.Project) }

const columns = `id, provider, project, number, attempt, status, detail, cause, entity, ref, branch, sha, message, author,
	person_id, person_name, person_email, person_ref, created, started, finished, updated, exit_code,
	repository, tool, component, order_key, latest_versions, deprecated_versions`

func scanRow(scan func(...any) error) (row, error) {
	var r row
	var commit slipway.Commit
	var person slipway.Person
	var created, started, finished, updated store.Time
	var key sql.NullString
	err := scan(&r.ID, &r.Provider, &r.Project, &r.Number, &r.Attempt, &r.Status, &r.Detail, &r.Trigger, &r.Entity, &r.Ref,
		&commit.Branch, &commit.SHA, &commit.Message, &commit.Author,
		&person.ID, &person.Name, &person.Email, &person.EntityRef, &created, &started, &finished, &updated, &r.ExitCode,
		&r.Order.Repository, &r.Order.Tool, &r.Order.Component, &key, &r.Order.LatestVersions, &r.Order.DeprecatedVersions)
	if err != nil {
		return row{}, store.Err(err)
	}
	if commit.SHA != "" {
		r.Commit = &commit
	}
	if r.Order.Key = key.String; r.Order.Tool != "" {
		r.Order.Ref, r.Order.Commit = r.Ref, commit.SHA
	}
	if person != (slipway.Person{}) {
		r.TriggeredBy = &person
	}
	r.CreatedAt, r.StartedAt, r.FinishedAt, r.UpdatedAt = created.Time, started.Ptr(), finished.Ptr(), updated.Ptr()
	if r.StartedAt != nil && r.FinishedAt != nil {
		seconds := max(0, r.FinishedAt.Sub(*r.StartedAt).Seconds())
		r.DurationSeconds = &seconds
	}
	r.Retriggerable = r.Status == slipway.BuildFailed || r.Status == slipway.BuildCanceled
	return r, nil
}

func scanRows(rows *sql.Rows, err error) (list []row, _ error) {
	if err != nil {
		return nil, store.Err(err)
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		r, err := scanRow(rows.Scan)
		list = append(list, r)
		return err
	})
	return list, err
}

// clock is the SQL of the clock that leases are taken and compared by, in microseconds: on PostgreSQL the database's, so
// that replicas whose clocks differ do no harm.
func (s *service) clock() string {
	if s.db.Engine() == store.Postgres {
		return `CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)`
	}
	return strconv.FormatInt(s.now().UnixMicro(), 10)
}

// changedAt sets when a build last changed. It always grows, whatever the clocks of the replicas say: the index keeps the latest.
func changedAt(now string) string {
	return `updated = CASE WHEN updated < ` + now + ` THEN ` + now + ` ELSE updated + 1 END`
}

// endedAt sets when a build ended, which is not before its start.
func endedAt(now string) string {
	return `finished = CASE WHEN started > ` + now + ` THEN started ELSE ` + now + ` END, ` + changedAt(now)
}

// insertBuild stores a build that waits, and numbers it: a new number for a first attempt, the next attempt of r.Number else.
func insertBuild(ctx context.Context, tx *store.Tx, r row, now time.Time) (row, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return row{}, err
	}
	first := 0
	if r.Number == 0 {
		first = 1
	}
	// The row's lock makes numbers and attempts come one after the other.
	var last int64
	err = tx.QueryRowContext(ctx, `INSERT INTO local_number (provider, project, last) VALUES ($1, $2, 1)
		ON CONFLICT (provider, project) DO UPDATE SET last = local_number.last + $3 RETURNING last`, r.Provider, r.Project, first).Scan(&last)
	if err != nil {
		return row{}, store.Err(err)
	}
	r.Attempt = 1
	if r.Number == 0 {
		r.Number = last
	} else {
		err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(attempt), 0) + 1 FROM local_build WHERE provider = $1 AND project = $2 AND number = $3`,
			r.Provider, r.Project, r.Number).Scan(&r.Attempt)
		if err != nil {
			return row{}, store.Err(err)
		}
	}
	var commit slipway.Commit
	if r.Commit != nil {
		commit = *r.Commit
	}
	var person slipway.Person
	if r.TriggeredBy != nil {
		person = *r.TriggeredBy
	}
	return scanRow(tx.QueryRowContext(ctx, `INSERT INTO local_build (id, provider, project, number, attempt, status, detail, cause, entity, ref,
			branch, sha, message, author, person_id, person_name, person_email, person_ref, created, updated,
			repository, tool, component, order_key, latest_versions, deprecated_versions)
		VALUES ($1, $2, $3, $4, $5, 'starting', 'queued', $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $17, $18, $19, $20, $21, $22, $23) RETURNING `+columns,
		id.String(), r.Provider, r.Project, r.Number, r.Attempt, r.Trigger, r.Entity, r.Ref,
		commit.Branch, commit.SHA, commit.Message, commit.Author, person.ID, person.Name, person.Email, person.EntityRef, store.At(now),
		r.Order.Repository, r.Order.Tool, r.Order.Component, sql.NullString{String: r.Order.Key, Valid: r.Order.Key != ""}, r.Order.LatestVersions, r.Order.DeprecatedVersions).Scan)
}

// claimBuild makes this replica the owner of the build of a provider that has waited longest. NotFound when none waits, or when
// another replica was quicker.
func (s *service) claimBuild(ctx context.Context, tx *store.Tx, provider string) (row, error) {
	return scanRow(tx.QueryRowContext(ctx, `UPDATE local_build SET status = 'running', detail = 'running', started = $1, `+changedAt("$1")+`,
			owner = $2, lease = `+s.clock()+` + $3
		WHERE status = 'starting' AND id = (SELECT id FROM local_build WHERE provider = $4 AND status = 'starting' ORDER BY created, id LIMIT 1`+s.db.SkipLocked()+`)
		RETURNING `+columns, store.At(s.now()), s.replica, s.lease.Microseconds(), provider).Scan)
}

// renew prolongs the lease of a build that this replica runs, and says whether somebody wants it to end. NotFound when it is no
// longer this replica's.
func (s *service) renew(ctx context.Context, id string) (canceled bool, err error) {
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		return tx.QueryRowContext(ctx, `UPDATE local_build SET lease = `+s.clock()+` + $1 WHERE id = $2 AND owner = $3 AND status = 'running' RETURNING cancel`,
			s.lease.Microseconds(), id, s.replica).Scan(&canceled)
	})
	return canceled, err
}

// recordCommit notes what a running build is made of, and who pushed it where nobody else caused it. NotFound when it is no
// longer this replica's.
func (s *service) recordCommit(ctx context.Context, tx *store.Tx, id string, c slipway.Commit, email string) (row, error) {
	return scanRow(tx.QueryRowContext(ctx, `UPDATE local_build SET branch = $1, sha = $2, message = $3, author = $4,
			person_name = CASE WHEN cause = 'push' AND person_id = '' THEN $4 ELSE person_name END,
			person_email = CASE WHEN cause = 'push' AND person_id = '' THEN $5 ELSE person_email END,
			`+changedAt("$6")+`
		WHERE id = $7 AND owner = $8 AND status = 'running' RETURNING `+columns,
		c.Branch, c.SHA, c.Message, c.Author, email, store.At(s.now()), id, s.replica).Scan)
}

// endBuild closes a build that this replica runs. NotFound when it is no longer this replica's.
func (s *service) endBuild(ctx context.Context, tx *store.Tx, id string, o outcome) (row, error) {
	return scanRow(tx.QueryRowContext(ctx, `UPDATE local_build SET status = $1, detail = $2, exit_code = $3, `+endedAt("$4")+`, owner = NULL, lease = NULL
		WHERE id = $5 AND owner = $6 AND status = 'running' RETURNING `+columns,
		o.status, o.detail, o.exitCode, store.At(s.now()), id, s.replica).Scan)
}

// interruptOne closes one running build whose replica is gone: its lease has run out, or all but our own are gone. NotFound when there
// is none.
func (s *service) interruptOne(ctx context.Context, tx *store.Tx, allButOurs bool) (row, error) {
	which := `lease < ` + s.clock()
	if allButOurs {
		which = `TRUE`
	}
	return scanRow(tx.QueryRowContext(ctx, `UPDATE local_build SET status = 'failed', detail = '`+reasonInterrupted+`', `+endedAt("$1")+`, owner = NULL, lease = NULL
		WHERE status = 'running' AND id = (SELECT id FROM local_build WHERE status = 'running' AND owner <> $2 AND `+which+` ORDER BY lease LIMIT 1`+s.db.SkipLocked()+`) AND `+which+`
		RETURNING `+columns, store.At(s.now()), s.replica).Scan)
}

// cancelBuild ends a build that waits, and marks one that runs. A finished one is a Conflict. It says whether the build has
// ended with that.
func cancelBuild(ctx context.Context, tx *store.Tx, provider, project, id string, now time.Time) (row, bool, error) {
	r, err := scanRow(tx.QueryRowContext(ctx, `UPDATE local_build SET status = 'canceled', detail = '`+reasonCanceled+`', `+endedAt("$1")+`
		WHERE id = $2 AND provider = $3 AND project = $4 AND status = 'starting' RETURNING `+columns, store.At(now), id, provider, project).Scan)
	if !errors.Is(err, slipway.NotFound) {
		return r, true, err
	}
	n, err := tx.Exec(ctx, `UPDATE local_build SET cancel = TRUE WHERE id = $1 AND provider = $2 AND project = $3 AND status = 'running'`, id, provider, project)
	if err != nil || n > 0 {
		return row{}, false, err
	}
	r, err = getBuild(ctx, tx, provider, project, id)
	if err != nil {
		return row{}, false, err
	}
	return row{}, false, slipway.Errorf(slipway.Conflict, "build %d of %s has ended already: it %s", r.Number, project, r.Status)
}

func getBuild(ctx context.Context, q store.Querier, provider, project, id string) (row, error) {
	r, err := scanRow(q.QueryRowContext(ctx, `SELECT `+columns+` FROM local_build WHERE id = $1 AND provider = $2 AND project = $3`, id, provider, project).Scan)
	if errors.Is(err, slipway.NotFound) {
		return row{}, slipway.Errorf(slipway.NotFound, "there is no build %q of %s", id, project)
	}
	return r, err
}

// getOrdered reads the build that a key stands for.
func getOrdered(ctx context.Context, q store.Querier, provider, key string) (row, error) {
	return scanRow(q.QueryRowContext(ctx, `SELECT `+columns+` FROM local_build WHERE provider = $1 AND order_key = $2`, provider, key).Scan)
}

// getToolBuild reads a build of a tool.
func getToolBuild(ctx context.Context, q store.Querier, provider, tool, id string) (row, error) {
	return scanRow(q.QueryRowContext(ctx, `SELECT `+columns+` FROM local_build WHERE id = $1 AND provider = $2 AND tool = $3 AND tool <> ''`, id, provider, tool).Scan)
}

// listOrdered reads builds of tools, newest first.
func listOrdered(ctx context.Context, q store.Querier, name string, c provider.ComponentQuery) ([]row, error) {
	where, args := ``, []any{name}
	param := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	if c.Tool != "" {
		where += ` AND tool = ` + param(c.Tool)
	}
	if c.Component != "" {
		where += ` AND component = ` + param(c.Component)
	}
	if !c.Since.IsZero() {
		where += ` AND (created >= ` + param(store.At(c.Since)) + ` OR finished IS NULL)`
	}
	limit := ``
	if c.Limit > 0 {
		limit = ` LIMIT ` + param(c.Limit)
	}
	return scanRows(q.QueryContext(ctx, `SELECT `+columns+` FROM local_build WHERE provider = $1 AND tool <> ''`+where+` ORDER BY created DESC, id DESC`+limit, args...))
}

// listBuilds reads the builds of a project, newest first, from the one after a mark.
func listBuilds(ctx context.Context, q store.Querier, provider, project string, after *mark, limit int) ([]row, error) {
	where, args := ``, []any{provider, project, limit}
	if after != nil {
		where, args = ` AND (created, id) < ($4, $5)`, append(args, after.Created, after.ID)
	}
	return scanRows(q.QueryContext(ctx, `SELECT `+columns+` FROM local_build WHERE provider = $1 AND project = $2`+where+
		` ORDER BY created DESC, id DESC LIMIT $3`, args...))
}

// appendLog adds a chunk to the log of a build that this replica runs. NotFound when it is no longer this replica's.
func (s *service) appendLog(ctx context.Context, tx *store.Tx, id string, seq int64, chunk []byte) error {
	n, err := tx.Exec(ctx, `INSERT INTO local_log (build_id, seq, chunk) SELECT id, $1, $2 FROM local_build WHERE id = $3 AND owner = $4 AND status = 'running'`,
		seq, chunk, id, s.replica)
	if err == nil && n == 0 {
		err = errNotOurs
	}
	return err
}

// appendLastWord adds a line to the log of a build that nobody runs any more.
func appendLastWord(ctx context.Context, tx *store.Tx, id, line string) error {
	_, err := tx.Exec(ctx, `INSERT INTO local_log (build_id, seq, chunk) SELECT $1, COALESCE(MAX(seq), 0) + 1, $2 FROM local_log WHERE build_id = $1`, id, []byte(line))
	return err
}

// readLog reads some chunks after one. The last number that it gives is where to go on.
func readLog(ctx context.Context, q store.Querier, id string, after int64) (text []byte, last int64, err error) {
	rows, err := q.QueryContext(ctx, `SELECT seq, chunk FROM local_log WHERE build_id = $1 AND seq > $2 ORDER BY seq LIMIT 32`, id, after)
	if err != nil {
		return nil, after, store.Err(err)
	}
	last = after
	err = store.Each(rows, func(rows *sql.Rows) error {
		var chunk []byte
		if err := rows.Scan(&last, &chunk); err != nil {
			return err
		}
		text = append(text, chunk...)
		return nil
	})
	return text, last, err
}

// isFinished says whether a build has ended; one that is not there has.
func isFinished(ctx context.Context, q store.Querier, id string) (bool, error) {
	busy, err := exists(ctx, q, `SELECT COUNT(*) > 0 FROM local_build WHERE id = $1 AND finished IS NULL`, id)
	return !busy, err
}

// isOver says whether a build ended before a time. One that is not there may be another installation's.
func isOver(ctx context.Context, q store.Querier, id string, before time.Time) (bool, error) {
	return exists(ctx, q, `SELECT COUNT(*) > 0 FROM local_build WHERE id = $1 AND finished < $2`, id, store.At(before))
}

// waiting says whether at least n builds of a provider wait to be claimed.
func waiting(ctx context.Context, q store.Querier, provider string, n int) (bool, error) {
	return exists(ctx, q, `SELECT COUNT(*) >= $2 FROM (SELECT 1 FROM local_build WHERE provider = $1 AND status = 'starting' LIMIT $2) AS queue`, provider, n)
}

// anyOthers says whether builds run that other replicas own.
func (s *service) anyOthers(ctx context.Context) (bool, error) {
	return exists(ctx, s.db, `SELECT EXISTS (SELECT 1 FROM local_build WHERE status = 'running' AND owner <> $1)`, s.replica)
}

func exists(ctx context.Context, q store.Querier, query string, args ...any) (yes bool, err error) {
	err = q.QueryRowContext(ctx, query, args...).Scan(&yes)
	return yes, store.Err(err)
}

// pruneBuild deletes the oldest build that ended before a time, or a part of its log when that is long. NotFound when there is none.
func pruneBuild(ctx context.Context, tx *store.Tx, before time.Time) error {
	const chunks = 200
	var id string
	err := tx.QueryRowContext(ctx, `SELECT id FROM local_build WHERE finished < $1 ORDER BY finished, id LIMIT 1`, store.At(before)).Scan(&id)
	if err != nil {
		return store.Err(err)
	}
	n, err := tx.Exec(ctx, `DELETE FROM local_log WHERE build_id = $1 AND seq IN (SELECT seq FROM local_log WHERE build_id = $1 ORDER BY seq LIMIT $2)`, id, chunks)
	if err != nil || n == chunks {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM local_build WHERE id = $1`, id)
	return err
}

// watched is what is known of a branch that is watched.
type watched struct {
	Project, Branch, SHA string
}

// watchedProjects names the branches of a provider that are watched, as "<project> <branch>".
func watchedProjects(ctx context.Context, q store.Querier, provider string) (map[string]bool, error) {
	rows, err := q.QueryContext(ctx, `SELECT project, branch FROM local_watch WHERE provider = $1`, provider)
	if err != nil {
		return nil, store.Err(err)
	}
	all := map[string]bool{}
	return all, store.Each(rows, func(rows *sql.Rows) error {
		var project, branch string
		err := rows.Scan(&project, &branch)
		all[project+" "+branch] = true
		return err
	})
}

// anyDue says whether a provider has a branch to look at.
func (s *service) anyDue(ctx context.Context, provider string) (bool, error) {
	return exists(ctx, s.db, `SELECT EXISTS (SELECT 1 FROM local_watch WHERE provider = $1 AND next <= `+s.clock()+`)`, provider)
}

// addWatch begins to watch a branch, if it is not watched yet.
func addWatch(ctx context.Context, tx *store.Tx, provider, project, branch string) error {
	_, err := tx.Exec(ctx, `INSERT INTO local_watch (provider, project, branch, sha, next) VALUES ($1, $2, $3, '', 0) ON CONFLICT DO NOTHING`, provider, project, branch)
	return err
}

// dueWatch gives the branch of a provider that is to be looked at, and puts its next time off so that nobody else looks. NotFound when none is due.
func (s *service) dueWatch(ctx context.Context, tx *store.Tx, provider string, every time.Duration) (watched, error) {
	var w watched
	err := tx.QueryRowContext(ctx, `UPDATE local_watch SET next = `+s.clock()+` + $1
		WHERE next <= `+s.clock()+` AND (provider, project, branch) = (SELECT provider, project, branch FROM local_watch WHERE provider = $2 AND next <= `+s.clock()+` ORDER BY next LIMIT 1)
		RETURNING project, branch, sha`, every.Microseconds(), provider).Scan(&w.Project, &w.Branch, &w.SHA)
	return w, store.Err(err)
}

// moveWatch notes a new commit of a watched branch. It says no when somebody else has done so.
func moveWatch(ctx context.Context, tx *store.Tx, provider string, w watched, sha string) (bool, error) {
	n, err := tx.Exec(ctx, `UPDATE local_watch SET sha = $1 WHERE provider = $2 AND project = $3 AND branch = $4 AND sha = $5`, sha, provider, w.Project, w.Branch, w.SHA)
	return n > 0, err
}

// dropWatch stops watching a branch.
func dropWatch(ctx context.Context, tx *store.Tx, provider, project, branch string) error {
	_, err := tx.Exec(ctx, `DELETE FROM local_watch WHERE provider = $1 AND project = $2 AND branch = $3`, provider, project, branch)
	return err
}
