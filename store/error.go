package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/slipway-platform/slipway"
)

// Err gives a database error its code: NotFound for no rows, Conflict for a unique or foreign key,
// Invalid for text that no database keeps (a zero byte, bad UTF-8), Unavailable when the database does
// not answer or is full of waiting writers. Errors that have a code already, and those of a context
// that ended, pass unchanged; any other is our fault and has no code. Err(nil) is nil.
func Err(err error) error {
	var coded *slipway.Error
	switch {
	case err == nil, errors.As(err, &coded):
		return err
	case errors.Is(err, sql.ErrNoRows):
		return slipway.Errorf(slipway.NotFound, "there is no such thing").WithCause(err)
	case errors.Is(err, context.Canceled):
		return err
	}
	// Whatever kept us from connecting, also our own time limit for it, a wrong password, or a missing database.
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return unavailable(err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.Code == "23505":
			return slipway.Errorf(slipway.Conflict, "it already exists").WithCause(err)
		case pg.Code == "23503":
			return slipway.Errorf(slipway.Conflict, "something else depends on it").WithCause(err)
		case pg.Code == "22021", pg.Code == "22P05":
			return slipway.Errorf(slipway.Invalid, "a text holds a zero byte or is not UTF-8; send plain UTF-8").WithCause(err)
		case pg.Code[:2] == "08", pg.Code[:2] == "53", pg.Code[:2] == "57", pg.Code == "40001", pg.Code == "40P01", pg.Code == "25006", pg.Code == "25P03", pg.Code == lockTimeout:
			return unavailable(err)
		}
		return err
	}
	if lite, ok := errors.AsType[*sqlite.Error](err); ok {
		switch lite.Code() {
		case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
			return slipway.Errorf(slipway.Conflict, "it already exists").WithCause(err)
		case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
			return slipway.Errorf(slipway.Conflict, "something else depends on it").WithCause(err)
		}
		switch lite.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
			return unavailable(err)
		}
		return err
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, sql.ErrConnDone) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return unavailable(err)
	}
	return err
}

func unavailable(cause error) error {
	return slipway.Errorf(slipway.Unavailable, "the database does not answer; try again shortly").
		WithCause(cause).After(2 * time.Second)
}

// isRetryable says that the whole transaction may be run again: nothing of it was kept.
func isRetryable(err error) bool {
	if errors.Is(err, driver.ErrBadConn) { // nothing was sent any more: the server had ended the session before
		return true
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "40001" || pg.Code == "40P01" || pg.Code == lockTimeout || pg.Code == "25P03")
}

// lockTimeout is PostgreSQL's code for a lock that did not become free in time.
const lockTimeout = "55P03"

func isLockTimeout(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == lockTimeout
}

// ConnectFailure is why no connection to a database was made, for those who operate it: host, port, user and database, no password. It is "" for any other error.
func ConnectFailure(err error) string {
	if c, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		var lines []string // one for each try; most fail for the same reason
		for line := range strings.Lines(c.Error()) {
			if line = strings.TrimSpace(line); !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, " ")
	}
	return ""
}

// Lasting says that waiting will not help: the server answers, but refuses the user, or has no such database.
func Lasting(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code[:2] == "28" || pg.Code[:2] == "3D")
}
