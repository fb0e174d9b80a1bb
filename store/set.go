package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/slipway-platform/slipway"
)

// Set is the databases of an installation by their short names.
type Set map[string]*DB

// OpenAll opens every database of urls, which has addresses for Open by short name. It reports all faults
// together and then leaves nothing open.
func OpenAll(urls map[string]string) (Set, error) {
	set := Set{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(urls)) {
		db, err := Open(name, urls[name])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		set[name] = db
	}
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, set.Close())...)
	}
	return set, nil
}

// Close closes them all.
func (s Set) Close() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if err := s[name].Close(); err != nil {
			errs = append(errs, fmt.Errorf("database %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// CreateDatabase makes the database at rawURL where it is missing, and says whether it did. On PostgreSQL
// the user of the address must have the right to, and must be let into the database "postgres".
func CreateDatabase(ctx context.Context, rawURL string) (created bool, err error) {
	db, err := Open("new", rawURL)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if db.engine == SQLite {
		var tables int
		if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_schema").Scan(&tables); err != nil {
			return false, Err(err)
		}
		return tables == 0, nil
	}
	cfg, _, err := postgresConfig(rawURL)
	if err != nil {
		return false, err
	}
	delete(cfg.RuntimeParams, "lock_timeout") // who makes another database from the same template may take long
	name := cfg.Database
	if name == "" {
		name = cfg.User
	}
	cfg.Database = "postgres"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return false, Err(err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	// Text sorts by bytes, as on SQLite, whatever the server's locale.
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
	pg, _ := errors.AsType[*pgconn.PgError](err)
	switch {
	case pg == nil:
		return err == nil, Err(err)
	case pg.Code == "42P04", pg.Code == "23505": // it is there, or another process was faster
		return false, nil
	case pg.Code == "42501":
		return false, slipway.Errorf(slipway.Forbidden,
			"the database user %q may not create databases; let an administrator run: CREATE DATABASE %s", cfg.User, strings.ReplaceAll(name, "\n", " ")).WithCause(err)
	}
	return false, Err(err)
}
