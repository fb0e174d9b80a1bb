package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"

	"github.com/slipway-platform/slipway"
)

// Backup is one database as it was at one moment: on SQLite a database file, on PostgreSQL a file of each table as COPY writes and reads it. It is the same for a
// server that is at work and for one that stands still.
type Backup struct {
	Engine    Engine            `json:"engine"`
	Steps     []MigrationStatus `json:"steps"`               // the migrations that it has
	Files     []BackupFile      `json:"files"`               // what it is made of
	Sequences map[string]int64  `json:"sequences,omitempty"` // PostgreSQL: the last number that each gave
}

// BackupFile is one file of a Backup.
type BackupFile struct {
	Name    string   `json:"name"` // slash-separated, from the folder of the backup
	Bytes   int64    `json:"bytes"`
	SHA256  string   `json:"sha256"`
	Table   string   `json:"table,omitempty"` // PostgreSQL
	Columns []string `json:"columns,omitempty"`
	Rows    int64    `json:"rows,omitempty"`
}

// Snapshot holds a database as it was when it was taken, while others go on writing. On PostgreSQL it is a transaction, which keeps old rows from being cleared away:
// do not hold it for longer than it takes. Close it when done.
type Snapshot struct {
	db    *DB
	conn  *sql.Conn
	owned []Migrations
	steps []MigrationStatus
}

// Snapshot takes one, also of a database that a newer version has used; that version restores it then. It is a Conflict when the database has nothing.
func (db *DB) Snapshot(ctx context.Context, all ...Migrations) (_ *Snapshot, err error) {
	if all, err = db.withStrangers(ctx, all); err != nil {
		return nil, err
	}
	steps, err := db.MigrateStatus(ctx, all...)
	if err != nil {
		return nil, err
	}
	steps = slices.DeleteFunc(steps, func(s MigrationStatus) bool { return !s.Applied })
	if len(steps) == 0 {
		return nil, slipway.Errorf(slipway.Conflict, "database %q has no tables of Slipway; check its address in the configuration", db.name)
	}
	s := &Snapshot{db: db, owned: all, steps: steps}
	if s.conn, err = db.reader.Conn(ctx); err != nil {
		return nil, Err(err)
	}
	begin := []string{"BEGIN", "SELECT count(*) FROM sqlite_schema"} // the first read fixes what it sees
	if db.engine == Postgres {
		begin = []string{"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SET LOCAL idle_in_transaction_session_timeout = 0", "SELECT count(*) FROM pg_class"}
	}
	for _, query := range begin {
		if _, err := s.conn.ExecContext(ctx, query); err != nil {
			return nil, errors.Join(Err(err), s.Close())
		}
	}
	return s, nil
}

// Close ends it.
func (s *Snapshot) Close() error {
	_, err := s.conn.ExecContext(context.Background(), "ROLLBACK")
	return errors.Join(Err(err), s.conn.Close())
}

// Save writes it into the folder, in files that begin with the database's name.
func (s *Snapshot) Save(ctx context.Context, folder *os.Root) (Backup, error) {
	if s.db.engine == SQLite {
		return s.saveFile(ctx, folder)
	}
	return s.saveTables(ctx, folder)
}

const backupPages = 1024 // of SQLite, 4 KiB each: how many are copied before it is seen whether to go on

func (s *Snapshot) saveFile(ctx context.Context, folder *os.Root) (Backup, error) {
	out := Backup{Engine: SQLite, Steps: s.steps}
	name := s.db.name + ".db"
	f, err := folder.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return out, err
	}
	if err := f.Close(); err != nil {
		return out, err
	}
	to := &url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.Join(folder.Name(), name)}).EscapedPath(), RawQuery: "_pragma=journal_mode(off)&_pragma=synchronous(off)"}
	err = s.conn.Raw(func(c any) error {
		b, err := c.(interface {
			NewBackup(uri string) (*sqlite.Backup, error)
		}).NewBackup(to.String())
		if err != nil {
			return err
		}
		for more := true; more && err == nil; {
			if err = ctx.Err(); err == nil {
				more, err = b.Step(backupPages) // within the transaction of the snapshot, so that writers do not make it begin anew
			}
		}
		return errors.Join(err, b.Finish())
	})
	if err != nil {
		return out, Err(err)
	}
	file, err := sum(folder, name)
	out.Files = []BackupFile{file}
	return out, err
}

// sum syncs a file and tells its size and hash.
func sum(folder *os.Root, name string) (BackupFile, error) {
	file := BackupFile{Name: name}
	f, err := folder.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return file, err
	}
	defer f.Close()
	h := sha256.New()
	if file.Bytes, err = io.Copy(h, f); err != nil {
		return file, err
	}
	file.SHA256 = hex.EncodeToString(h.Sum(nil))
	return file, f.Sync()
}

func (s *Snapshot) saveTables(ctx context.Context, folder *os.Root) (Backup, error) {
	out := Backup{Engine: Postgres, Steps: s.steps, Sequences: map[string]int64{}}
	tables, err := tables(ctx, s.conn, s.owned)
	if err != nil {
		return out, err
	}
	if err := folder.Mkdir(s.db.name, 0o700); err != nil {
		return out, err
	}
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		file, err := s.saveTable(ctx, folder, table, tables[table])
		if err != nil {
			return out, fmt.Errorf("table %s: %w", table, err)
		}
		out.Files = append(out.Files, file)
	}
	// Last, and not as the snapshot sees them, which they do not take part in: so no number that a row has is given again.
	rows, err := s.conn.QueryContext(ctx, "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = current_schema() AND last_value IS NOT NULL")
	if err != nil {
		return out, Err(err)
	}
	return out, Each(rows, func(rows *sql.Rows) error {
		var name string
		var last int64
		err := rows.Scan(&name, &last)
		out.Sequences[name] = last
		return err
	})
}

// tables lists the tables of a PostgreSQL database with their columns, but for those that say which migrations were applied.
func tables(ctx context.Context, from interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}, all []Migrations) (map[string][]string, error) {
	rows, err := from.QueryContext(ctx, `SELECT c.table_name, c.column_name FROM information_schema.columns c
		JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
		WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE' AND c.is_generated = 'NEVER'
		ORDER BY c.table_name, c.ordinal_position`)
	if err != nil {
		return nil, Err(err)
	}
	tables := map[string][]string{}
	return tables, Each(rows, func(rows *sql.Rows) error {
		var table, column string
		err := rows.Scan(&table, &column)
		if !slices.ContainsFunc(all, func(m Migrations) bool { return table == m.Owner+"_version" }) {
			tables[table] = append(tables[table], column)
		}
		return err
	})
}

func (s *Snapshot) saveTable(ctx context.Context, folder *os.Root, table string, columns []string) (BackupFile, error) {
	file := BackupFile{Name: s.db.name + "/" + table + ".copy", Table: table, Columns: columns}
	f, err := folder.OpenFile(file.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return file, err
	}
	defer f.Close()
	h, w := sha256.New(), bufio.NewWriterSize(f, 256<<10)
	err = s.conn.Raw(func(c any) error {
		tag, err := c.(*stdlib.Conn).Conn().PgConn().CopyTo(ctx, io.MultiWriter(w, h), "COPY "+copied(table, columns)+" TO STDOUT")
		file.Rows = tag.RowsAffected()
		return err
	})
	if err != nil {
		return file, Err(err)
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return file, err
	}
	info, err := f.Stat()
	if err != nil {
		return file, err
	}
	file.Bytes, file.SHA256 = info.Size(), hex.EncodeToString(h.Sum(nil))
	return file, f.Close()
}

func copied(table string, columns []string) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = pgx.Identifier{c}.Sanitize()
	}
	return pgx.Identifier{table}.Sanitize() + " (" + strings.Join(names, ", ") + ")"
}

// Check reads the files of a backup and says what is wrong with them. Nothing is changed.
func (b Backup) Check(folder *os.Root) error {
	for _, want := range b.Files {
		f, err := folder.Open(filepath.FromSlash(want.Name))
		if err != nil {
			return slipway.Errorf(slipway.Invalid, "the backup is not whole: %s cannot be read", want.Name).WithCause(err)
		}
		h := sha256.New()
		n, err := io.Copy(h, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return slipway.Errorf(slipway.Invalid, "the backup is not whole: %s cannot be read", want.Name).WithCause(err)
		}
		if n != want.Bytes || hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
			return slipway.Errorf(slipway.Invalid, "the backup is damaged: %s has changed since it was made; take another one", want.Name)
		}
	}
	return nil
}

// sameStep tells steps apart: one that a newer version made is known by no name.
func sameStep(a, b MigrationStatus) bool { return a.Owner == b.Owner && a.Version == b.Version }

// Known says whether this program knows every step of the backup: it is a Conflict when a newer one made it.
func (b Backup) Known(name string, all ...Migrations) error {
	for _, s := range b.Steps {
		i := slices.IndexFunc(all, func(m Migrations) bool { return m.Owner == s.Owner })
		if i < 0 && b.Engine == SQLite {
			continue // its tables are in the file as they are, and nobody minds them
		}
		if i < 0 {
			return slipway.Errorf(slipway.Conflict, "the backup of database %q has tables of %s, which is not enabled here; enable it, or use the version of Slipway that made the backup", name, s.Owner)
		}
		f := &files{db: &DB{name: name, engine: b.Engine}, Migrations: all[i], names: map[int64]string{}}
		if err := f.list(); err != nil {
			return err
		}
		if f.names[s.Version] == "" {
			return slipway.Errorf(slipway.Conflict, "the backup of database %q has step %d of %s, which this version of Slipway does not know: a newer one made it; restore with that one", name, s.Version, s.Owner)
		}
	}
	return nil
}

// Restore fills the database at rawURL, which is made where it is missing, with a backup that was checked. It has the steps that the backup has afterwards. A database
// with tables is a Conflict, unless replace is set: what is in it is lost then. On PostgreSQL nobody may be connected to it as Slipway is; on SQLite the caller
// sees to it that nobody has it open. What fails leaves the database without rows, or as it was.
func Restore(ctx context.Context, name, rawURL string, b Backup, folder *os.Root, replace bool, all ...Migrations) error {
	engine, err := EngineOf(rawURL)
	if err != nil {
		return fmt.Errorf("database %q: %w", name, err)
	}
	if engine != b.Engine {
		return slipway.Errorf(slipway.Conflict, "database %q is %s here, and the backup is of %s; a backup goes back into an engine of its kind", name, engine, b.Engine)
	}
	if engine == SQLite {
		return restoreFile(ctx, name, rawURL, b, folder, replace, all)
	}
	if _, err := CreateDatabase(ctx, rawURL); err != nil && slipway.CodeOf(err) != slipway.Forbidden { // it may be there all the same
		return err
	}
	db, err := Open(name, rawURL)
	if err != nil {
		return err
	}
	return errors.Join(db.restoreTables(ctx, b, folder, replace, all), db.Close())
}

func errNotEmpty(name string) error {
	return slipway.Errorf(slipway.Conflict, "database %q is not empty; restore into an empty one, or give up what is in it with --replace", name)
}

func restoreFile(ctx context.Context, name, rawURL string, b Backup, folder *os.Root, replace bool, all []Migrations) error {
	path := filepath.Clean(strings.TrimPrefix(rawURL, "sqlite:"))
	if info, err := os.Stat(path); err == nil && info.Size() > 0 && !replace {
		return errNotEmpty(name)
	}
	if len(b.Files) != 1 {
		return slipway.Errorf(slipway.Invalid, "the backup of database %q holds %d files and not one", name, len(b.Files))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	aside := path + ".restoring"
	defer func() {
		for _, end := range []string{"", "-wal", "-shm"} {
			os.Remove(aside + end)
		}
	}()
	if err := copyFile(folder, b.Files[0].Name, aside); err != nil {
		return err
	}
	db, err := Open(name, "sqlite:"+aside)
	if err != nil {
		return err
	}
	if err := errors.Join(db.sound(ctx, b, all), db.Close()); err != nil {
		return err
	}
	// A journal that belongs to the old file would be played into the new one.
	for _, end := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + end); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(aside, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func copyFile(folder *os.Root, from, to string) error {
	in, err := folder.Open(filepath.FromSlash(from))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return errors.Join(out.Sync(), out.Close())
}

// sound says whether a SQLite file is whole and has the steps that it should have.
func (db *DB) sound(ctx context.Context, b Backup, all []Migrations) error {
	var said string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&said); err != nil {
		return Err(err)
	}
	if said != "ok" {
		return slipway.Errorf(slipway.Invalid, "the backup of database %q is damaged: %s; take another one", db.name, said)
	}
	all, err := db.withStrangers(ctx, all)
	if err != nil {
		return err
	}
	steps, err := db.MigrateStatus(ctx, all...)
	if err != nil {
		return err
	}
	steps = slices.DeleteFunc(steps, func(s MigrationStatus) bool { return !s.Applied })
	has := func(all []MigrationStatus, s MigrationStatus) bool {
		return slices.ContainsFunc(all, func(o MigrationStatus) bool { return sameStep(s, o) })
	}
	// In any order: what was a stranger's for the version that made the backup may be known here.
	if len(steps) != len(b.Steps) || slices.ContainsFunc(steps, func(s MigrationStatus) bool { return !has(b.Steps, s) }) {
		return slipway.Errorf(slipway.Invalid, "the file of database %q is not the one that the backup's manifest tells of; take another one", db.name)
	}
	return nil
}

func (db *DB) restoreTables(ctx context.Context, b Backup, folder *os.Root, replace bool, all []Migrations) error {
	// Asked before there is a second connection of ours.
	var others int
	err := db.QueryRowContext(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
		AND application_name = current_setting('application_name') AND backend_type = 'client backend'`).Scan(&others)
	if err != nil {
		return Err(err)
	}
	if others > 0 {
		return slipway.Errorf(slipway.Conflict, "somebody is connected to database %q (%d connections); stop the servers on it first", db.name, others)
	}
	steps, err := db.MigrateStatus(ctx, all...)
	if err != nil {
		return err
	}
	wanted := func(s MigrationStatus) bool {
		return slices.ContainsFunc(b.Steps, func(o MigrationStatus) bool { return sameStep(s, o) })
	}
	for _, s := range steps {
		if s.Applied && !replace {
			return errNotEmpty(db.name)
		}
		if s.Applied && !wanted(s) {
			return slipway.Errorf(slipway.Conflict, "database %q has step %d of %s, and the backup has not; restore into an empty database", db.name, s.Version, s.Owner)
		}
	}
	if err := db.utf8(ctx); err != nil {
		return err
	}
	err = db.exclusively(ctx, func() error {
		steps, err := db.steps(ctx, all)
		if err != nil {
			return err
		}
		if err := db.markVersions(ctx, all); err != nil {
			return err
		}
		return applyAll(ctx, slices.DeleteFunc(steps, func(s step) bool { return s.Applied || !wanted(s.MigrationStatus) }))
	})
	if err != nil {
		return Err(err)
	}
	return db.fill(ctx, b, folder, all)
}

// fill puts the rows of a backup in place of those that are there, in one transaction.
func (db *DB) fill(ctx context.Context, b Backup, folder *os.Root, all []Migrations) error {
	there, err := tables(ctx, db, all)
	if err != nil {
		return err
	}
	conn, err := db.writer.Conn(ctx)
	if err != nil {
		return Err(err)
	}
	defer func() { _ = conn.Close() }()
	return Err(conn.Raw(func(c any) error {
		pg := c.(*stdlib.Conn).Conn()
		tx, err := pg.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		for table := range there { // a migration may have put rows in
			if _, err := tx.Exec(ctx, "TRUNCATE "+pgx.Identifier{table}.Sanitize()); err != nil {
				return err
			}
		}
		for _, file := range b.Files {
			if there[file.Table] == nil {
				return slipway.Errorf(slipway.Invalid, "the backup of database %q has a table %s, which its steps do not make", db.name, file.Table)
			}
			f, err := folder.Open(filepath.FromSlash(file.Name))
			if err != nil {
				return err
			}
			tag, err := pg.PgConn().CopyFrom(ctx, bufio.NewReaderSize(f, 256<<10), "COPY "+copied(file.Table, file.Columns)+" FROM STDIN")
			if err = errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("table %s: %w", file.Table, err)
			}
			if tag.RowsAffected() != file.Rows {
				return slipway.Errorf(slipway.Invalid, "the backup of table %s has %d rows and not %d; take another one", file.Table, tag.RowsAffected(), file.Rows)
			}
		}
		for name, last := range b.Sequences {
			if _, err := tx.Exec(ctx, "SELECT setval(quote_ident($1)::regclass, $2)", name, last); err != nil {
				return err
			}
		}
		return tx.Commit(ctx)
	}))
}
