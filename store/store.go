// Package store opens the named databases of an installation and hides what differs between the two
// engines: SQLite, embedded, one writer and many readers; and PostgreSQL, for many replicas. SQL is
// written once, with $1 placeholders, in the function that runs it. This package builds no queries
// and knows no tables.
//
// What both engines share: times are BIGINT microseconds in UTC (Time), JSON is TEXT and written as it
// came, RETURNING works, booleans are BOOLEAN, TEXT columns sort by bytes. Traps: write NULLS LAST; compare
// with lower(), never a bare LIKE, and know that lower() changes only A to Z; give text and JSON as string
// (SQLite would keep a []byte as bytes, equal to no text); no UPDATE inside a CTE; row locks only where
// work is claimed (SkipLocked).
package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sync/semaphore"
	_ "modernc.org/sqlite" // driver "sqlite"
)

// Engine is which database engine stands behind a DB.
type Engine string

// The engines.
const (
	SQLite   Engine = "sqlite"
	Postgres Engine = "postgres"
	MySQL    Engine = "mysql" // a database of another program, which is only read, and not opened here
)

// Querier reads. DB (any reader) and Tx (inside the transaction) are queriers.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// DB is one named database. It is safe for concurrent use. Reads go to any connection and see what is
// committed; writes happen only inside Write.
type DB struct {
	name   string
	engine Engine
	url    string
	writer *sql.DB // SQLite: one connection; PostgreSQL: the same pool as reader
	reader *sql.DB
	gate   *semaphore.Weighted // SQLite: first in, first out; database/sql wakes waiters at random
	queued queued              // SQLite: who waited for it
	texts  *statements         // SQLite: compiled queries of the reader; pgx keeps its own
	writes *statements         // and those of the writer

	journal  atomic.Int64   // SQLite: about how many rows were written since the journal was last moved into the file
	settling sync.WaitGroup // that moves it

	// OnWrite, when set before first use, is told about every committed write transaction: how long it
	// held the writer and how many rows its Exec and ExecContext changed. Tests fail on large ones with
	// it; the server counts them. It may be called by several goroutines at once.
	OnWrite func(held time.Duration, rows int64)
}

// Open opens the database at rawURL ("sqlite:path/to/file.db" or "postgres://…") under a short name.
// The path of a SQLite file is taken as it stands, odd characters and all; the file and its folder are
// created when missing, readable by their owner only. Open does not wait for a PostgreSQL server: the
// first query tells. Close the DB when done.
func Open(name, rawURL string) (*DB, error) {
	engine, err := EngineOf(rawURL)
	var db *DB
	switch {
	case err != nil:
	case engine == MySQL:
		err = errMySQL
	case engine == SQLite:
		db, err = openSQLite(strings.TrimPrefix(rawURL, "sqlite:"))
	default:
		db, err = openPostgres(rawURL)
	}
	if err != nil {
		return nil, fmt.Errorf("database %q: %w", name, err)
	}
	db.name = name
	return db, nil
}

// EngineOf says which engine an address means, and what is wrong with an address that can mean none. Nothing is opened.
func EngineOf(rawURL string) (Engine, error) {
	scheme, rest, _ := strings.Cut(rawURL, ":")
	switch scheme {
	case "sqlite":
		if rest == "" || strings.HasPrefix(rest, ":memory:") {
			return "", errors.New("a SQLite database needs a file")
		}
		return SQLite, nil
	case "postgres", "postgresql":
		if _, _, err := postgresConfig(rawURL); err != nil {
			return "", err
		}
		return Postgres, nil
	case "mysql":
		if u, err := url.Parse(rawURL); err != nil || strings.Trim(u.Path, "/") == "" {
			return "", errMySQLURL // the cause may hold the password
		}
		return MySQL, nil
	}
	return "", errUnknownScheme
}

// None has a cause: it may hold the password.
var (
	errPostgresURL   = errors.New("the address does not parse; write postgres://<user>:<password>@<host>:<port>/<database>")
	errPool          = fmt.Errorf("%s is a number from %d to %d", poolParameter, leastPool, maxPool)
	errMySQLURL      = errors.New("the address does not parse; write mysql://<user>:<password>@<host>:<port>/<database>")
	errUnknownScheme = errors.New("the address has no scheme that is known; write sqlite:<file> or postgres://<user>@<host>/<database>")
	errMySQL         = errors.New("Slipway's own tables do not go into MySQL; write sqlite:<file> or postgres://<user>@<host>/<database>")
)

func openSQLite(path string) (*DB, error) {
	path = filepath.Clean(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("the folder %s cannot be made: %w; choose one that Slipway may write to (dataDir, --data-dir)", filepath.Dir(path), err)
	}
	// SQLite would make the file readable by everybody; its journal takes over the mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the file cannot be written: %w; Slipway must run as a user who may", err)
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	// FULL keeps what was accepted through a power loss; 7,000 commits a second remain.
	// The journal is moved into the file beside the writers, see settle; should that lag behind, a commit does so, at 400 MB.
	pragmas := []string{"busy_timeout(10000)", "journal_mode(wal)", "synchronous(full)", "foreign_keys(1)", "temp_store(memory)", "wal_autocheckpoint(100000)"}
	dsn := func(extra ...string) string {
		q := url.Values{}
		for _, p := range append(pragmas, extra...) {
			q.Add("_pragma", p)
		}
		q.Set("_txlock", "immediate")
		return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
	}
	// A page that is cached takes twice its size: the driver's memory comes in powers of two, and SQLite adds a little to each. A reader begins anew whenever something was
	// written, so that more would seldom be of use to it.
	w, err := sql.Open("sqlite", dsn("cache_size(-24000)"))
	if err != nil {
		return nil, err
	}
	w.SetMaxOpenConns(1)
	n := max(4, 2*runtime.GOMAXPROCS(0))
	r, err := sql.Open("sqlite", dsn("query_only(1)", fmt.Sprintf("cache_size(-%d)", max(2000, 24000/n)))) // KiB each
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	r.SetMaxOpenConns(n)
	r.SetMaxIdleConns(n)
	r.SetConnMaxIdleTime(5 * time.Minute) // gives the memory back
	return &DB{engine: SQLite, url: path, writer: w, reader: r, gate: semaphore.NewWeighted(1), texts: &statements{db: r}, writes: &statements{db: w}}, nil
}

// Defaults for what the address does not say.
const (
	connectTimeout  = 5 * time.Second
	poolConnections = 30
)

// poolParameter of an address says how many connections a server may have at most, by the name that pgxpool gave it. Those that listen come on top, see Dial.
const (
	poolParameter = "pool_max_conns"
	leastPool     = 4 // a request and a job that each hold one, and those who end them
	maxPool       = 1000
)

// postgresSettings are for a replica that stops in the middle of its work, or whose machine does: what it holds must be free soon, for all others wait for it.
var postgresSettings = map[string]string{
	"application_name": "slipway",
	"jit":              "off", // compiling takes longer than any of our queries should
	// One that says nothing inside a transaction, in which there is nothing but SQL, has stopped: the server takes the transaction back.
	"idle_in_transaction_session_timeout": "5s",
	// What waits longer for a lock is tried again, see Write. It is shorter than the above: else the transactions of a replica that has stopped
	// would get the lock from each other, one after the other, and each keep it for that long.
	"lock_timeout": "4s",
	// A machine that vanished without a word, or takes no answer; on a Unix socket they say nothing.
	"tcp_user_timeout": "20s", "tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3",
}

func openPostgres(rawURL string) (*DB, error) {
	cfg, most, err := postgresConfig(rawURL)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*cfg)
	// All of them stay for a while. With fewer, a busy server closes one whenever that many are free, and has the next one made
	// soon after: a process of PostgreSQL with nothing in its caches.
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	db.SetConnMaxIdleTime(time.Minute)
	return &DB{engine: Postgres, url: rawURL, writer: db, reader: db}, nil
}

// postgresConfig reads an address, sets what it does not say, and tells how many connections the pool may have.
func postgresConfig(rawURL string) (cfg *pgx.ConnConfig, most int, err error) {
	cfg, err = pgx.ParseConfig(rawURL)
	if err != nil {
		return nil, 0, errPostgresURL
	}
	most = poolConnections
	if said, ok := cfg.RuntimeParams[poolParameter]; ok {
		delete(cfg.RuntimeParams, poolParameter) // the server knows no such setting
		if most, err = strconv.Atoi(said); err != nil || most < leastPool || most > maxPool {
			return nil, 0, errPool
		}
	}
	for key, value := range postgresSettings {
		cfg.RuntimeParams[key] = cmp.Or(cfg.RuntimeParams[key], value)
	}
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, connectTimeout)
	// A host that vanished without a word is noticed after 30 seconds, not after hours.
	dialer := &net.Dialer{
		Timeout:         cfg.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control:         impatient,
	}
	cfg.DialFunc = dialer.DialContext
	return cfg, most, nil
}

// Dial makes a connection to PostgreSQL that belongs to the caller, who closes it: for LISTEN.
func (db *DB) Dial(ctx context.Context) (*pgx.Conn, error) {
	cfg, _, err := postgresConfig(db.url)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	return conn, Err(err)
}

// SkipLocked is what a SELECT of work that is to be claimed ends with, so that rows which another replica claims right now are passed over. SQLite has one writer and needs nothing.
func (db *DB) SkipLocked() string {
	if db.engine == Postgres {
		return " FOR UPDATE SKIP LOCKED"
	}
	return ""
}

// Name is the short name from the configuration.
func (db *DB) Name() string { return db.name }

// Engine says which engine it is. Ask only where one SQL text cannot do; give the reason there.
func (db *DB) Engine() Engine { return db.engine }

// URL is the address that it was opened with (for SQLite, the file). It may hold a password.
func (db *DB) URL() string { return db.url }

// Writer is the pool that writes. It is for libraries that bring their own SQL (migrations, the job
// queue); everybody else uses Write.
func (db *DB) Writer() *sql.DB { return db.writer }

// Close closes all connections.
func (db *DB) Close() error {
	db.settling.Wait()
	err := db.reader.Close()
	if db.writer != db.reader {
		err = errors.Join(db.writer.Close(), err) // the last to go moves the journal into the file
	}
	return err
}

// Ping asks whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	return Err(db.reader.QueryRowContext(ctx, "SELECT 1").Scan(&one))
}

// QueryContext reads rows outside any transaction. Pass errors through Err.
func (db *DB) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if s := db.texts.get(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return db.reader.QueryContext(ctx, query, args...)
}

// QueryRowContext reads one row outside any transaction. Pass errors of Scan through Err.
func (db *DB) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if s := db.texts.get(ctx, query); s != nil {
		return s.QueryRowContext(ctx, args...)
	}
	return db.reader.QueryRowContext(ctx, query, args...)
}

// Tx is a write transaction. It is not safe for concurrent use. Inside one there is nothing but SQL:
// no network, no files, no waiting; at most 500 rows. After a statement that failed only the roll-back is
// left (PostgreSQL refuses the rest), so what may conflict says ON CONFLICT.
type Tx struct {
	*sql.Tx
	db    *DB
	rows  int64
	after []func()
	again []string // texts to be kept compiled once the connection is free
}

// DB is the database that the transaction belongs to.
func (tx *Tx) DB() *DB { return tx.db }

// AfterCommit runs f once the transaction is committed: wake a worker, drop a cache. What must not be
// lost does not belong here: a crash may come between.
func (tx *Tx) AfterCommit(f func()) { tx.after = append(tx.after, f) }

// Rows is how many rows Exec and ExecContext have changed so far.
func (tx *Tx) Rows() int64 { return tx.rows }

// compiled gives the statement where it is kept compiled, or nil.
func (tx *Tx) compiled(ctx context.Context, query string) *sql.Stmt {
	stmt, again := tx.db.writes.find(query)
	if again && !slices.Contains(tx.again, query) {
		tx.again = append(tx.again, query)
	}
	if stmt == nil {
		return nil
	}
	return tx.Tx.StmtContext(ctx, stmt)
}

// QueryContext reads rows inside the transaction. Pass errors through Err.
func (tx *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if s := tx.compiled(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return tx.Tx.QueryContext(ctx, query, args...)
}

// QueryRowContext reads one row inside the transaction. Pass errors of Scan through Err.
func (tx *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if s := tx.compiled(ctx, query); s != nil {
		return s.QueryRowContext(ctx, args...)
	}
	return tx.Tx.QueryRowContext(ctx, query, args...)
}

// ExecContext runs a statement and counts the rows that it changed.
func (tx *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	var res sql.Result
	var err error
	if s := tx.compiled(ctx, query); s != nil {
		res, err = s.ExecContext(ctx, args...)
	} else {
		res, err = tx.Tx.ExecContext(ctx, query, args...)
	}
	if err == nil {
		if n, err := res.RowsAffected(); err == nil {
			tx.rows += n
		}
	}
	return res, err
}

// Exec is ExecContext that gives the number of rows changed and an error that already went through Err.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, Err(err)
	}
	n, err := res.RowsAffected()
	return n, Err(err)
}

const writeAttempts = 4

// Write runs fn in a write transaction: committed when fn returns nil, else rolled back. On PostgreSQL a
// deadlock, a serialisation failure, a lock that did not become free within 4 s, or a pause of more than 5 s inside
// the transaction runs fn again, at most four times in all, so fn must not have effects outside the transaction. Errors
// come back through Err.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	return db.attempt(ctx, false, fn)
}

// WriteAhead is Write that, on SQLite, does not wait until the disk has what was committed: a power loss, not a crash of the program, may take it back. The
// next Write settles it, for the journal is kept whole up to there. It is for a row of many transactions that ends with a Write. On PostgreSQL it is Write: a server that
// crashed would come back without what the program has seen committed.
func (db *DB) WriteAhead(ctx context.Context, fn func(tx *Tx) error) error {
	return db.attempt(ctx, true, fn)
}

func (db *DB) attempt(ctx context.Context, ahead bool, fn func(tx *Tx) error) error {
	for attempt := 1; ; attempt++ {
		tx, err := db.write(ctx, ahead, fn)
		if err == nil {
			for _, f := range tx.after {
				f()
			}
			return nil
		}
		if attempt == writeAttempts || !isRetryable(err) {
			return Err(err)
		}
		select {
		case <-ctx.Done():
			return Err(err)
		case <-time.After(time.Duration(attempt)*5*time.Millisecond + rand.N(10*time.Millisecond)):
		}
	}
}

func (db *DB) write(ctx context.Context, ahead bool, fn func(tx *Tx) error) (*Tx, error) {
	if db.gate != nil {
		if err := db.enter(ctx); err != nil {
			return nil, err
		}
		defer db.gate.Release(1)
		if ahead { // the gate keeps the one connection free for it
			if _, err := db.writer.ExecContext(ctx, "PRAGMA synchronous = normal"); err != nil {
				return nil, err
			}
			defer func() { _, _ = db.writer.ExecContext(context.WithoutCancel(ctx), "PRAGMA synchronous = full") }()
		}
	}
	raw, err := db.writer.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	tx := &Tx{Tx: raw, db: db}
	defer func() { _ = raw.Rollback() }() // after a commit this does nothing; after a panic it frees the writer
	err = fn(tx)
	if err == nil {
		err = raw.Commit()
	}
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
		return nil, ctx.Err() // the end of the context had rolled it back
	}
	if err != nil {
		return nil, err
	}
	if db.OnWrite != nil {
		db.OnWrite(time.Since(start), tx.rows)
	}
	if db.gate != nil && db.journal.Add(1+tx.rows) >= settleAfter {
		db.settling.Go(db.settle)
		db.journal.Store(0)
	}
	for _, query := range tx.again { // the gate keeps the connection free for it
		db.writes.compile(ctx, query)
	}
	return tx, nil
}

// settleAfter is after how many rows the journal of SQLite is moved into the file. A page that is written again and again, as imports do, is moved once: so the more the
// better, but for the room that the journal takes, some 200 MB.
const settleAfter = 50_000

// settle moves the journal into the file. SQLite would do so inside some unlucky commit, which takes a tenth of a second then. Here the writers go on meanwhile; only
// what they have written since is moved while they wait, so that the journal begins anew.
func (db *DB) settle() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const passive = "PRAGMA wal_checkpoint(PASSIVE)" // what fails, or is left, is moved next time
	_, _ = db.reader.ExecContext(ctx, passive)
	if db.gate.Acquire(ctx, 1) != nil {
		return
	}
	defer db.gate.Release(1)
	_, _ = db.reader.ExecContext(ctx, passive)
}
