package store_test

import (
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
)

func TestTimesComeBackAsTheyWere(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		insert(t, db, "a")
		for _, in := range []time.Time{
			{},
			time.Unix(0, 0),
			time.Date(1969, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
			time.Date(1815, 6, 18, 11, 35, 0, 0, time.UTC),
			time.Date(2026, 3, 29, 2, 30, 0, 123_456_789, time.FixedZone("odd", 5*3600+1800)),
			time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC),
		} {
			want := in.UTC().Truncate(time.Microsecond)
			if in.Before(time.Unix(0, 0)) && !in.IsZero() {
				want = time.UnixMicro(in.UnixMicro()).UTC()
			}
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), "UPDATE thing SET seen = $1", store.At(in))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			var out store.Time
			if err := db.QueryRowContext(t.Context(), "SELECT seen FROM thing").Scan(&out); err != nil {
				t.Fatal(err)
			}
			if out.Time != want || out.Time != store.At(in).Time {
				t.Errorf("%v: got %v, want %v", in, out.Time, want)
			}
			if p := out.Ptr(); (p == nil) != in.IsZero() || p != nil && !p.Equal(want) {
				t.Errorf("%v: got pointer %v", in, p)
			}
			if got := store.AtPtr(out.Ptr()); got != out {
				t.Errorf("%v: got %v back from the pointer", in, got)
			}
		}
	})
}

func TestTimesSortInTheDatabase(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			for i, name := range []string{"c", "a", "d", "b"} {
				at := time.Date(1970, 1, []int{2, -30, 3, 1}[i], 0, 0, 0, 0, time.FixedZone("", (i-2)*3600))
				if _, err := tx.Exec(t.Context(), "INSERT INTO thing (name, seen) VALUES ($1, $2)", name, store.At(at)); err != nil {
					return err
				}
			}
			_, err := tx.Exec(t.Context(), "INSERT INTO thing (name, seen) VALUES ('never', $1)", store.Time{})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var all string
		if err := db.QueryRowContext(t.Context(), "SELECT string_agg(name, '') FROM (SELECT name FROM thing ORDER BY seen NULLS LAST) AS sorted").Scan(&all); err != nil || all != "abcdnever" {
			t.Errorf("got %s, %v; want abcdnever", all, err)
		}
	})
}
