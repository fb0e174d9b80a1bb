package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/slipway-platform/slipway"
)

// Migrations are one owner's schema steps in one database: files "0001_name.sql" in goose's format
// (-- +goose Up, -- +goose Down), each with a tested way down. Each step runs in one transaction, unless
// it says "-- +goose NO TRANSACTION"; then it must be right to run it twice. The text is the same for
// both engines but for these words, which stand for what each engine says:
//
//	{id}         an integer primary key that numbers itself and never gives a number twice
//	{bytes}      a column of raw bytes
//	{clustered}  after the closing bracket of CREATE TABLE: rows stored in primary key order (SQLite only)
//	TEXT         a column of text; sorts by bytes on both engines, whatever the locale of the PostgreSQL server
//
// A step that cannot be said so has a file per engine: "0001_name.sqlite.sql", "0001_name.postgres.sql".
//
// During an upgrade the version before works on the new schema. So a step only adds: tables, indexes, columns that are NULL or have a default. What takes away or narrows
// comes a release later, when nobody uses it any more, in a step with the line "-- Contract: <who must be gone>"; versions that do not know such a step do not start
// on it. storetest.UpDownUp checks that.
type Migrations struct {
	Owner string // the blueprint or package; names the version table "<owner>_version"
	FS    fs.FS  // the files, at its root
}

// MigrationStatus is one step and whether it was applied.
type MigrationStatus struct {
	Owner   string `json:"owner"`
	Version int64  `json:"version"`
	Name    string `json:"name"` // "" of one that this program does not know
	Applied bool   `json:"applied"`
	Newer   bool   `json:"newer,omitempty"` // a newer version of Slipway applied it; this one does not know it
	// Contract: it takes away something that versions without it may use. Known of steps that were applied, and of those of this program.
	Contract bool `json:"contract,omitempty"`
}

// MigrateUp applies what is missing of every owner, in the order given. Any number of processes may call
// it at the same time: one applies, the others wait. Steps of a newer version that only add are left as they are; with others it is a Conflict, and so it is
// when a step is missing below an applied one. When nothing is missing, it costs two reads.
func (db *DB) MigrateUp(ctx context.Context, all ...Migrations) error {
	missing, err := db.missing(ctx, all)
	if err != nil || len(missing) == 0 {
		return err
	}
	if err := db.utf8(ctx); err != nil {
		return err
	}
	return db.exclusively(ctx, func() error {
		for attempt := 1; ; attempt++ {
			missing, err := db.missing(ctx, all)
			if err != nil || len(missing) == 0 {
				return err
			}
			if err = db.markVersions(ctx, all); err == nil {
				err = applyAll(ctx, missing)
			}
			if err != nil {
				// On SQLite another process may apply the same step at the same time. The loser's
				// transaction fails, by the key of the version table at the latest, and it looks again.
				if left, e := db.missing(ctx, all); e == nil && len(left) < len(missing) {
					continue
				}
				// A step that waits for a table lets nobody pass, so it gives way now and then to those who use the table.
				if isLockTimeout(err) && attempt < migrateAttempts {
					continue
				}
				return Err(fmt.Errorf("database %q: %w", db.name, err))
			}
		}
	})
}

// MigrateDown takes back the last step of one owner. It returns what was taken back, "" when nothing was left. The step of a newer version is a Conflict: only that one
// knows the way back.
func (db *DB) MigrateDown(ctx context.Context, m Migrations) (name string, err error) {
	err = db.exclusively(ctx, func() error {
		steps, err := db.steps(ctx, []Migrations{m})
		if err != nil {
			return err
		}
		for _, s := range slices.Backward(steps) {
			if s.Newer {
				return db.ahead(s.MigrationStatus)
			}
			if s.Applied {
				name = s.Name
				return Err(s.run(ctx, down))
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return name, nil
}

// MigrateStatus lists all steps of all owners, also on an empty database, and those of newer versions.
func (db *DB) MigrateStatus(ctx context.Context, all ...Migrations) ([]MigrationStatus, error) {
	steps, err := db.steps(ctx, all)
	if err != nil {
		return nil, err
	}
	list := make([]MigrationStatus, len(steps))
	for i, s := range steps {
		list[i] = s.MigrationStatus
	}
	return list, nil
}

// step is one migration file of one owner.
type step struct {
	MigrationStatus
	files *files
}

const (
	up   = true
	down = false
)

func (s step) run(ctx context.Context, direction bool) error {
	p, err := s.files.provider()
	if err != nil {
		return fmt.Errorf("migrations of %s: %w", s.Owner, err)
	}
	if _, err := p.ApplyVersion(ctx, s.Version, direction); err != nil {
		return fmt.Errorf("migration %s of %s: %w", s.Name, s.Owner, err)
	}
	return nil
}

func applyAll(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := s.run(ctx, up); err != nil {
			return err
		}
	}
	return nil
}

// missing gives the steps that were not applied yet, and refuses where applying them would be wrong.
func (db *DB) missing(ctx context.Context, all []Migrations) ([]step, error) {
	steps, err := db.steps(ctx, all)
	if err != nil {
		return nil, err
	}
	last := map[string]int64{}
	for _, s := range steps {
		if s.Newer && s.Contract {
			return nil, db.ahead(s.MigrationStatus)
		}
		if s.Applied {
			last[s.Owner] = s.Version
		}
	}
	steps = slices.DeleteFunc(steps, func(s step) bool { return s.Applied })
	for _, s := range steps {
		if s.Version < last[s.Owner] {
			return nil, slipway.Errorf(slipway.Conflict,
				"database %q: migration %s of %s is new but numbered below %d, which is applied already; give it a higher number",
				db.name, s.Name, s.Owner, last[s.Owner])
		}
	}
	return steps, nil
}

// ahead refuses a step that this program does not know.
func (db *DB) ahead(s MigrationStatus) error {
	return slipway.Errorf(slipway.Conflict,
		"database %q has migration %d of %s, which this version of Slipway does not know: a newer one has used the database; start that one, or take the migration back with it (slipway db migrate down)",
		db.name, s.Version, s.Owner)
}

// steps lists all files of all owners, in order, each with whether it was applied, and what was applied without a file.
func (db *DB) steps(ctx context.Context, all []Migrations) ([]step, error) {
	var steps []step
	applied, err := db.applied(ctx, all)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		f := &files{db: db, Migrations: m, names: map[int64]string{}}
		if err := f.list(); err != nil {
			return nil, fmt.Errorf("migrations of %s: %w", m.Owner, err)
		}
		for _, version := range f.versions {
			contract, err := f.contract(version)
			if err != nil {
				return nil, fmt.Errorf("migrations of %s: %w", m.Owner, err)
			}
			_, done := applied[m.Owner][version]
			steps = append(steps, step{files: f, MigrationStatus: MigrationStatus{
				Owner:    m.Owner,
				Version:  version,
				Name:     strings.TrimSuffix(strings.TrimSuffix(f.names[version], ".sql"), "."+string(db.engine)),
				Applied:  done,
				Contract: contract,
			}})
		}
		for _, version := range slices.Sorted(maps.Keys(applied[m.Owner])) {
			if f.names[version] == "" {
				steps = append(steps, step{files: f, MigrationStatus: MigrationStatus{
					Owner: m.Owner, Version: version, Applied: true, Newer: true, Contract: applied[m.Owner][version],
				}})
			}
		}
	}
	return steps, nil
}

var ownerName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// applied reads which versions of each owner the database has, each with whether it is one that takes away, in two queries however many owners there are.
func (db *DB) applied(ctx context.Context, all []Migrations) (map[string]map[int64]bool, error) {
	marked, err := db.versionTables(ctx)
	if err != nil {
		return nil, err
	}
	applied := map[string]map[int64]bool{}
	var parts []string
	for _, m := range all {
		if !ownerName.MatchString(m.Owner) {
			return nil, fmt.Errorf("migrations: %q cannot name a table", m.Owner)
		}
		if _, twice := applied[m.Owner]; twice {
			return nil, fmt.Errorf("migrations: two owners are called %q", m.Owner)
		}
		applied[m.Owner] = map[int64]bool{}
		mark, exists := marked[m.Owner+"_version"]
		if !exists {
			continue
		}
		column := "FALSE"
		if mark {
			column = "contract"
		}
		parts = append(parts, fmt.Sprintf("SELECT '%s' AS owner, version, %s AS contract FROM %s_version WHERE version > 0", m.Owner, column, m.Owner))
	}
	if len(parts) == 0 {
		return applied, nil
	}
	var owner string
	var version int64
	var contract bool
	err = db.each(ctx, strings.Join(parts, " UNION ALL "), func() { applied[owner][version] = contract }, &owner, &version, &contract)
	return applied, err
}

// withStrangers adds the owners whose tables are in the database and that the program does not know, or has not enabled, each without any step of its own.
func (db *DB) withStrangers(ctx context.Context, all []Migrations) ([]Migrations, error) {
	marked, err := db.versionTables(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.Clone(all)
	for _, table := range slices.Sorted(maps.Keys(marked)) {
		owner := strings.TrimSuffix(table, "_version")
		known := slices.ContainsFunc(all, func(m Migrations) bool { return m.Owner == owner })
		if !known && ownerName.MatchString(owner) {
			all = append(all, Migrations{Owner: owner, FS: embed.FS{}})
		}
	}
	return all, nil
}

// versionTables lists the version tables, each with whether it has the column contract, which the first ones had not.
func (db *DB) versionTables(ctx context.Context) (map[string]bool, error) {
	query := `SELECT t.name, EXISTS (SELECT 1 FROM pragma_table_info(t.name) WHERE name = 'contract') FROM sqlite_schema t
		WHERE t.type = 'table' AND t.name LIKE '%\_version' ESCAPE '\'
		AND (SELECT count(*) FROM pragma_table_info(t.name) WHERE name IN ('version', 'applied')) = 2`
	if db.engine == Postgres {
		query = `SELECT t.relname, EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname = 'contract' AND NOT a.attisdropped) FROM pg_class t
			WHERE t.relkind = 'r' AND t.relnamespace = current_schema()::regnamespace AND t.relname LIKE '%\_version'
			AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname IN ('version', 'applied') AND NOT a.attisdropped) = 2`
	}
	tables := map[string]bool{}
	var table string
	var marked bool
	err := db.each(ctx, query, func() { tables[table] = marked }, &table, &marked)
	return tables, err
}

// markVersions gives the version tables of owners the column contract where they have none.
func (db *DB) markVersions(ctx context.Context, all []Migrations) error {
	marked, err := db.versionTables(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if mark, exists := marked[m.Owner+"_version"]; exists && !mark {
			if _, err := db.writer.ExecContext(ctx, "ALTER TABLE "+m.Owner+"_version ADD COLUMN contract BOOLEAN NOT NULL DEFAULT FALSE"); err != nil {
				return Err(err)
			}
		}
	}
	return nil
}

func (db *DB) each(ctx context.Context, query string, row func(), dest ...any) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return Err(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return Err(err)
		}
		row()
	}
	return Err(rows.Err())
}

// utf8 refuses a PostgreSQL database that would mangle or refuse text.
func (db *DB) utf8(ctx context.Context) error {
	if db.engine != Postgres {
		return nil
	}
	var encoding string
	if err := db.QueryRowContext(ctx, "SELECT current_setting('server_encoding')").Scan(&encoding); err != nil {
		return Err(err)
	}
	if encoding != "UTF8" {
		return slipway.Errorf(slipway.Conflict, "database %q keeps text as %s; it must be UTF8: let slipway db create make a new one", db.name, encoding)
	}
	return nil
}

// migrateAttempts is how often a step is tried that does not get its locks: for a minute and a half.
const migrateAttempts = 20

// migrateLock is the advisory lock that migrating processes take on PostgreSQL.
const migrateLock = 0x736c697077617900 // "slipway"

// exclusively runs fn while no other process migrates this database. On SQLite it keeps out only this
// DB: what several processes do there is put in order by the one writer that SQLite allows.
func (db *DB) exclusively(ctx context.Context, fn func() error) (err error) {
	if db.engine == SQLite {
		if err := db.gate.Acquire(ctx, 1); err != nil {
			return err
		}
		defer db.gate.Release(1)
		return fn()
	}
	conn, err := db.writer.Conn(ctx)
	if err != nil {
		return Err(err)
	}
	defer func() { _ = conn.Close() }()
	// The library's own lock asks once a second; this one wakes at once. Who migrates may take long.
	for {
		_, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrateLock))
		if err == nil {
			break
		} else if !isLockTimeout(err) {
			return Err(err)
		}
	}
	defer func() {
		if _, err := conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(migrateLock)); err != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // the lock dies with the connection
		}
	}()
	return fn()
}

// files shows goose the files of one owner as they read on one engine.
type files struct {
	Migrations
	db       *DB
	versions []int64          // ascending
	names    map[int64]string // file names
	goose    *goose.Provider
}

var _ fs.GlobFS = (*files)(nil)

func (f *files) list() error {
	names, err := fs.Glob(f.FS, "*.sql")
	if err != nil {
		return err
	}
	for _, name := range names {
		_, rest, _ := strings.Cut(name, ".")
		if engine := Engine(strings.TrimSuffix(rest, ".sql")); rest != "sql" && engine != f.db.engine {
			if engine != SQLite && engine != Postgres {
				return fmt.Errorf("file %s: %q is no engine", name, engine)
			}
			continue
		}
		version, err := goose.NumericComponent(name)
		if err != nil {
			return fmt.Errorf("file %s: %w", name, err)
		}
		if f.names[version] != "" {
			return fmt.Errorf("files %s and %s have the same number", f.names[version], name)
		}
		f.names[version] = name
		f.versions = append(f.versions, version)
	}
	slices.Sort(f.versions)
	return nil
}

var contractMark = regexp.MustCompile(`(?m)^-- Contract: \S`)

// contract says whether a step takes away something that versions without it may use.
func (f *files) contract(version int64) (bool, error) {
	raw, err := fs.ReadFile(f.FS, f.names[version])
	return contractMark.Match(raw), err
}

// Glob implements fs.GlobFS.
func (f *files) Glob(pattern string) ([]string, error) {
	var names []string
	for _, version := range f.versions {
		if ok, err := path.Match(pattern, f.names[version]); err != nil {
			return nil, err
		} else if ok {
			names = append(names, f.names[version])
		}
	}
	return names, nil
}

// Open implements fs.FS.
func (f *files) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	raw, err := fs.ReadFile(f.FS, name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	return &rendered{Reader: strings.NewReader(render(string(raw), f.db.engine)), info: info}, err
}

type rendered struct {
	*strings.Reader
	info fs.FileInfo
}

func (r *rendered) Stat() (fs.FileInfo, error) { return r.info, nil }
func (r *rendered) Close() error               { return nil }

var words = map[Engine]*strings.Replacer{
	SQLite: strings.NewReplacer(
		"{id}", "INTEGER PRIMARY KEY AUTOINCREMENT", // without the last word the highest number comes again after a DELETE
		"{bytes}", "BLOB",
		"{clustered}", "WITHOUT ROWID"),
	Postgres: strings.NewReplacer(
		"{id}", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
		"{bytes}", "BYTEA",
		"{clustered}", ""),
}

var textType = regexp.MustCompile(`(\bAS\s+|::)?\bTEXT\b(\s+COLLATE\b)?`)

func render(text string, engine Engine) string {
	text = words[engine].Replace(text)
	if engine == Postgres {
		text = textType.ReplaceAllStringFunc(text, func(s string) string {
			if s != "TEXT" {
				return s // a cast, or it says its own collation
			}
			return `TEXT COLLATE "C"`
		})
	}
	return text
}

func (f *files) provider() (_ *goose.Provider, err error) {
	if f.goose == nil {
		f.goose, err = goose.NewProvider(goose.DialectCustom, f.db.writer, f,
			goose.WithStore(versions{files: f, db: f.db, table: f.Owner + "_version"}),
			goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	}
	return f.goose, err
}

// versions keeps the applied versions of one owner. Unlike goose's own tables it has a key, so that no
// step can be applied twice, whoever races, and the same text on both engines.
type versions struct {
	files *files
	db    *DB
	table string
}

var _ database.StoreExtender = versions{}

func (v versions) Tablename() string { return v.table }

func (v versions) TableExists(ctx context.Context, c database.DBTxConn) (bool, error) {
	query := "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = $1"
	if v.db.engine == Postgres {
		query = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = $1"
	}
	var n int
	err := c.QueryRowContext(ctx, query, v.table).Scan(&n)
	return n > 0, err
}

func (v versions) CreateVersionTable(ctx context.Context, c database.DBTxConn) error {
	_, err := c.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS "+v.table+" (version BIGINT NOT NULL PRIMARY KEY, applied BIGINT NOT NULL, contract BOOLEAN NOT NULL DEFAULT FALSE)")
	return err
}

func (v versions) Insert(ctx context.Context, c database.DBTxConn, req database.InsertRequest) error {
	query, contract := "INSERT INTO "+v.table+" (version, applied, contract) VALUES ($1, $2, $3)", false
	if req.Version == 0 {
		query += " ON CONFLICT DO NOTHING" // goose's mark that the table is there; anybody may set it
	} else {
		var err error
		if contract, err = v.files.contract(req.Version); err != nil {
			return err
		}
	}
	_, err := c.ExecContext(ctx, query, req.Version, At(time.Now()), contract)
	return err
}

func (v versions) Delete(ctx context.Context, c database.DBTxConn, version int64) error {
	_, err := c.ExecContext(ctx, "DELETE FROM "+v.table+" WHERE version = $1", version)
	return err
}

func (v versions) GetMigration(ctx context.Context, c database.DBTxConn, version int64) (*database.GetMigrationResult, error) {
	var at Time
	err := c.QueryRowContext(ctx, "SELECT applied FROM "+v.table+" WHERE version = $1", version).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, database.ErrVersionNotFound
	}
	return &database.GetMigrationResult{Timestamp: at.Time, IsApplied: true}, err
}

func (v versions) GetLatestVersion(ctx context.Context, c database.DBTxConn) (int64, error) {
	var n sql.NullInt64
	err := c.QueryRowContext(ctx, "SELECT MAX(version) FROM "+v.table).Scan(&n)
	if err == nil && !n.Valid {
		err = database.ErrVersionNotFound
	}
	return n.Int64, err
}

func (v versions) ListMigrations(ctx context.Context, c database.DBTxConn) ([]*database.ListMigrationsResult, error) {
	rows, err := c.QueryContext(ctx, "SELECT version FROM "+v.table+" ORDER BY version DESC")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var list []*database.ListMigrationsResult
	for rows.Next() {
		r := &database.ListMigrationsResult{IsApplied: true}
		if err := rows.Scan(&r.Version); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}
