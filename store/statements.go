package store

import (
	"context"
	"database/sql"
	"sync"
)

// maxStatements bounds how many compiled queries are kept, each on every reader. The program has fewer texts
// than that, but for those put together by filters.
const maxStatements = 256

// statements keeps queries compiled: SQLite's compiler takes longer than most reads by key, and than writing some rows. A text is
// compiled when it comes for the second time, so that one that never returns takes no place, and kept
// until the database is closed. A nil *statements keeps nothing.
type statements struct {
	db *sql.DB

	mu   sync.RWMutex
	kept map[string]*sql.Stmt // nil: seen once
	n    int                  // those not nil
}

// get gives the compiled query, or nil where the text itself is to be run.
func (s *statements) get(ctx context.Context, query string) *sql.Stmt {
	stmt, again := s.find(query)
	if !again {
		return stmt
	}
	return s.compile(ctx, query)
}

// find gives the compiled query, if there is one, and else whether it came before and deserves to be compiled.
func (s *statements) find(query string) (stmt *sql.Stmt, again bool) {
	if s == nil {
		return nil, false
	}
	s.mu.RLock()
	stmt, seen := s.kept[query]
	full := s.n >= maxStatements
	s.mu.RUnlock()
	if stmt != nil || full {
		return stmt, false
	}
	if seen {
		return nil, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil || len(s.kept) > 4*maxStatements {
		s.forgetSeen()
	}
	if s.kept[query] == nil {
		s.kept[query] = nil
	}
	return nil, false
}

// compile keeps a query. Nil: it does not compile, or there is no place.
func (s *statements) compile(ctx context.Context, query string) *sql.Stmt {
	stmt, err := s.db.PrepareContext(ctx, query)
	if err != nil {
		return nil // running the text gives the error where it belongs
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.kept[query]; other != nil || s.n >= maxStatements {
		_ = stmt.Close()
		return other
	}
	s.kept[query] = stmt
	s.n++
	return stmt
}

// forgetSeen makes place by dropping the texts that came only once.
func (s *statements) forgetSeen() {
	kept := make(map[string]*sql.Stmt, 4*maxStatements)
	for query, stmt := range s.kept {
		if stmt != nil {
			kept[query] = stmt
		}
	}
	s.kept = kept
}
