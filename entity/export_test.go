package entity

import (
	"context"
	"database/sql"

	"github.com/slipway-platform/slipway/store"
)

// Walk makes a store go about every query as if all posting lists were long.
func Walk(s *Store) *Store {
	s.driveMost = 0
	return s
}

// Listen has every query of a store told to f, before it is made.
func Listen(s *Store, f func(query string, args []any)) { s.read = listening{s.read, f} }

// Reader is where a store reads, for what takes it as an argument.
func Reader(s *Store) store.Querier { return s.read }

type listening struct {
	store.Querier
	tell func(query string, args []any)
}

func (l listening) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	l.tell(query, args)
	return l.Querier.QueryContext(ctx, query, args...)
}

func (l listening) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	l.tell(query, args)
	return l.Querier.QueryRowContext(ctx, query, args...)
}

// OfSource is the condition of what takes entities away.
const OfSource = ofSource
