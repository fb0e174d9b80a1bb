package store

import (
	"context"
	"database/sql"
	"embed"
	"io/fs"
	"log/slog"
	"sync"
	"time"
)

//go:embed migrations
var revisionFiles embed.FS

// RevisionMigrations is the schema of Revisions.
var RevisionMigrations = Migrations{Owner: "store", FS: func() fs.FS {
	sub, err := fs.Sub(revisionFiles, "migrations")
	if err != nil {
		panic(err)
	}
	return sub
}()}

// Revisions tells every replica within a second that something shared has changed: a number per name, bumped in the
// transaction that makes the change, read twice a second in one query. What hangs on it (tokens, grants, providers) is an
// immutable snapshot that its owner reads anew. Safe for concurrent use.
type Revisions struct {
	db  *DB
	log *slog.Logger

	mu       sync.Mutex
	seen     map[string]int64
	watchers map[string][]func()
}

// NewRevisions makes it; no I/O.
func NewRevisions(db *DB, log *slog.Logger) *Revisions {
	return &Revisions{db: db, log: log, seen: map[string]int64{}, watchers: map[string][]func(){}}
}

// Bump raises the number of a name in the causing transaction. Watchers of this replica are told right after the commit.
func (r *Revisions) Bump(ctx context.Context, tx *Tx, name string) error {
	var n int64
	err := tx.QueryRowContext(ctx, `INSERT INTO revision (name, n) VALUES ($1, 1)
		ON CONFLICT (name) DO UPDATE SET n = revision.n + 1 RETURNING n`, name).Scan(&n)
	if err != nil {
		return Err(err)
	}
	tx.AfterCommit(func() { r.tell(name, n) })
	return nil
}

// Watch calls f, on any goroutine, whenever the name's number has grown: at once on the replica that bumped it, within a
// second on the others while Run runs. f must return quickly.
func (r *Revisions) Watch(name string, f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[name] = append(r.watchers[name], f)
}

func (r *Revisions) tell(name string, n int64) {
	r.mu.Lock()
	if r.seen[name] >= n {
		r.mu.Unlock()
		return
	}
	r.seen[name] = n
	fs := r.watchers[name]
	r.mu.Unlock()
	for _, f := range fs {
		f()
	}
}

// Poll reads the numbers once and tells watchers what grew.
func (r *Revisions) Poll(ctx context.Context) error {
	rows, err := r.db.QueryContext(ctx, `SELECT name, n FROM revision`)
	if err != nil {
		return Err(err)
	}
	return Each(rows, func(rows *sql.Rows) error {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return err
		}
		r.tell(name, n)
		return nil
	})
}

// Run polls twice a second until the context ends.
func (r *Revisions) Run(ctx context.Context) error {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		if err := r.Poll(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "revisions were not read; changes of other replicas are seen later", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// Each calls f for every row, closes the rows, and gives the first error through Err.
func Each(rows *sql.Rows, f func(*sql.Rows) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return Err(err)
		}
	}
	return Err(rows.Err())
}
