package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestErrorsHaveTheSameCodeOnBothEngines(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		insert(t, db, "a")
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), "INSERT INTO thing_part (thing, n) SELECT id, 1 FROM thing")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for statement, want := range map[string]slipway.Code{
			"INSERT INTO thing (name) VALUES ('a')":                     slipway.Conflict,
			"INSERT INTO thing_part (thing, n) SELECT id, 1 FROM thing": slipway.Conflict,
			"INSERT INTO thing (id, name) SELECT id, 'b' FROM thing":    slipway.Conflict,
			"INSERT INTO thing_part (thing, n) VALUES (77, 1)":          slipway.Conflict,
			"DELETE FROM thing":                      slipway.Conflict,
			"INSERT INTO thing (name) VALUES (NULL)": slipway.Internal,
			"INSERT INTO thing (name) VALUES ('')":   slipway.Internal,
			"SELECT nothing":                         slipway.Internal,
			"INSERT INTO nowhere VALUES (1)":         slipway.Internal,
			"UPDATE thing SET name = name":           "",
			"INSERT INTO thing (name) VALUES ('a') ON CONFLICT (name) DO UPDATE SET seen = 777": "",
		} {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), statement)
				return err
			})
			if got := slipway.CodeOf(err); got != want {
				t.Errorf("%s: got %q (%v), want %q", statement, got, err, want)
			}
		}
		var id int64
		err = db.QueryRowContext(t.Context(), "SELECT id FROM thing WHERE name = 'none'").Scan(&id)
		if err := store.Err(err); !errors.Is(err, slipway.NotFound) || !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("no rows: got %v, want not found", err)
		}
	})
}

func TestErrLeavesOtherErrorsAsTheyAre(t *testing.T) {
	t.Parallel()
	coded := fmt.Errorf("above: %w", slipway.Errorf(slipway.Forbidden, "no").WithCause(sql.ErrNoRows))
	for _, err := range []error{nil, coded, errors.New("any"), context.Canceled, fmt.Errorf("reading: %w", context.DeadlineExceeded)} {
		if got := store.Err(err); got != err {
			t.Errorf("got %v, want %v", got, err)
		}
	}
}

func TestTextThatNoDatabaseKeepsIsInvalid(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Postgres, things) // SQLite keeps anything; the edge refuses it before
	for _, text := range []string{"a\x00b", "a\xffb"} {
		err := db.Write(t.Context(), func(tx *store.Tx) error { return add(t.Context(), tx, text) })
		if !errors.Is(err, slipway.Invalid) {
			t.Errorf("%q: got %v, want invalid", text, err)
		}
	}
}

func TestAContextThatEndsStopsTheQuery(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		var n int64
		err := db.QueryRowContext(ctx, "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 1000000000) SELECT COUNT(*) FROM r").Scan(&n)
		if err := store.Err(err); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline", err)
		}
		insert(t, db, "a") // the connection or its replacement works
	})
}

func TestAFullWriterIsUnavailable(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, things)
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		other, err := sql.Open("sqlite", "file:"+db.URL()+"?_pragma=busy_timeout(1)")
		if err != nil {
			return err
		}
		defer func() { _ = other.Close() }()
		_, err = other.ExecContext(t.Context(), "INSERT INTO thing (name) VALUES ('a')")
		return store.Err(err)
	})
	if e, ok := errors.AsType[*slipway.Error](err); !ok || e.Code != slipway.Unavailable || e.RetryAfter == 0 {
		t.Errorf("got %v, want unavailable and when to try again", err)
	}
}

// listen accepts connections and says nothing.
func listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}()
	return l.Addr().String()
}
