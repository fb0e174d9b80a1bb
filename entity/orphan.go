package entity

import (
	"context"
	"database/sql"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// OrphanAnnotation is "true" on an entity that its source no longer brings and that is about to be removed.
const OrphanAnnotation = "backstage.io/orphan"

// Orphan marks entities of a source as brought by nobody: they stay, with OrphanAnnotation, until RemoveOrphans, and any source may take
// them over by Put. Those that are marked already stay as they are. It gives the newly marked ones.
func (s *Store) Orphan(ctx context.Context, source string, refs []slipway.EntityRef) ([]slipway.EntityRef, error) {
	var marked []slipway.EntityRef
	for part := range slices.Chunk(refs, 10) {
		var now []slipway.EntityRef
		err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
			now, err = s.orphan(ctx, tx, source, part)
			return err
		})
		if err != nil {
			return marked, err
		}
		marked = append(marked, now...)
	}
	return marked, nil
}

func (s *Store) orphan(ctx context.Context, tx *store.Tx, source string, refs []slipway.EntityRef) ([]slipway.EntityRef, error) {
	args := []any{source}
	for _, r := range refs {
		args = append(args, r.String())
	}
	rows, err := tx.QueryContext(ctx, `SELECT doc FROM entity WHERE `+ofSource+list(2, len(refs))+` AND orphaned_at IS NULL ORDER BY ref`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var described []*description
	var marked []slipway.EntityRef
	args = []any{store.At(s.now())}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var doc string
		if err := rows.Scan(&doc); err != nil {
			return err
		}
		e := new(slipway.Entity)
		if err := json.Unmarshal([]byte(doc), e); err != nil {
			return err
		}
		if e.Metadata.Annotations == nil {
			e.Metadata.Annotations = map[string]string{}
		}
		e.Metadata.Annotations[OrphanAnnotation] = "true"
		d, err := describe(e) // it was let in: its size is not looked at again
		if err == nil {
			described, marked, args = append(described, d), append(marked, d.ref), append(args, d.key)
		}
		return err
	})
	if err != nil || len(described) == 0 {
		return nil, err
	}
	if _, err := s.put(ctx, tx, source, described); err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `UPDATE entity SET orphaned_at = $1 WHERE ref IN `+list(2, len(described)), args...)
	return marked, err
}

// RemoveOrphans removes what was marked until a time, and gives it.
func (s *Store) RemoveOrphans(ctx context.Context, until time.Time) ([]slipway.EntityRef, error) {
	var removed []slipway.EntityRef
	for {
		due := map[string][]slipway.EntityRef{} // by source
		rows, err := s.db.QueryContext(ctx, `SELECT source, kind, namespace, name FROM entity WHERE orphaned_at <= $1 ORDER BY orphaned_at LIMIT 100`, store.At(until))
		if err != nil {
			return removed, store.Err(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var source string
			var r slipway.EntityRef
			err := rows.Scan(&source, &r.Kind, &r.Namespace, &r.Name)
			due[source] = append(due[source], r)
			return err
		})
		if err != nil || len(due) == 0 {
			return removed, err
		}
		for _, source := range slices.Sorted(maps.Keys(due)) {
			gone, err := s.removeAll(ctx, source, due[source])
			if removed = append(removed, gone...); err != nil {
				return removed, err
			}
		}
	}
}

// status is what the catalog found wrong, as Backstage writes it.
type status struct {
	Items []statusItem `json:"items"`
}

type statusItem struct {
	Type    string      `json:"type"`
	Level   string      `json:"level"`
	Message string      `json:"message"`
	Error   statusError `json:"error"`
}

type statusError struct {
	Name    string `json:"name"`
	Message string `json:"message"`
}

// SetFaults notes what is wrong with the newest version of entities of a source, by canonical ref: it stands in status.items beside their
// last good version. What else of the source had a fault has none any more; an empty text leaves what is noted as it is.
func (s *Store) SetFaults(ctx context.Context, source string, faults map[string]string) error {
	rows, err := s.db.QueryContext(ctx, `SELECT ref, status FROM entity WHERE source = $1 AND status IS NOT NULL`, source)
	if err != nil {
		return store.Err(err)
	}
	set := map[string]*string{}
	for ref, message := range faults {
		if message == "" {
			continue
		}
		raw, err := json.Marshal(status{[]statusItem{{"backstage.io/catalog-processing", "error", message, statusError{"InputError", message}}}})
		if err != nil {
			return err
		}
		set[ref] = optional(string(raw))
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var ref, old string
		if err := rows.Scan(&ref, &old); err != nil {
			return err
		}
		now, ok := set[ref]
		_, kept := faults[ref]
		switch {
		case !ok && !kept:
			set[ref] = nil
		case ok && *now == old:
			delete(set, ref)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for part := range slices.Chunk(slices.Sorted(maps.Keys(set)), 100) {
		err := s.db.Write(ctx, func(tx *store.Tx) error {
			written := int64(0)
			for _, ref := range part {
				n, err := tx.Exec(ctx, `UPDATE entity SET status = $3 WHERE ref = $1 AND source = $2`, ref, source, set[ref])
				if err != nil {
					return err
				}
				written += n
			}
			if written == 0 {
				return nil // what has a fault was never good
			}
			return s.changed(ctx, tx, nil)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
