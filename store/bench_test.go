package store_test

import (
	"testing"

	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func BenchmarkReadOneRow(b *testing.B) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		for name, query := range map[string]string{
			"key":  "SELECT id FROM thing WHERE name = $1",
			"join": "SELECT t.id FROM thing t LEFT JOIN thing_part p ON p.thing = t.id AND p.n > 3 WHERE t.name = $1 AND (t.live OR EXISTS (SELECT 1 FROM thing_part q WHERE q.thing = t.id)) ORDER BY t.seen DESC NULLS LAST, t.id DESC LIMIT 20",
		} {
			b.Run(string(engine)+"/"+name, func(b *testing.B) {
				db := storetest.Open(b, engine, things)
				insert(b, db, "a", "b", "c")
				var id int64
				b.Run("text", func(b *testing.B) {
					for b.Loop() {
						if err := db.QueryRowContext(b.Context(), query, "b").Scan(&id); err != nil {
							b.Fatal(err)
						}
					}
				})
				b.Run("prepared", func(b *testing.B) {
					s, err := db.Writer().Prepare(query)
					if err != nil {
						b.Fatal(err)
					}
					defer s.Close()
					for b.Loop() {
						if err := s.QueryRowContext(b.Context(), "b").Scan(&id); err != nil {
							b.Fatal(err)
						}
					}
				})
			})
		}
	}
}
