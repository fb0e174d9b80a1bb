package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"

	"github.com/slipway-platform/slipway/store"
)

// file is a file of a location, as it was last read.
type file struct {
	Place
	Parent       string
	ETag         string
	LastModified string
	Digest       string // "": read in full next time
	Error        string
	Faults       []string
	Refs         []string
	Targets      []target
	ReadAt       store.Time
}

// target is a file that a Location entity names.
type target struct {
	Place
	Parent   string `json:"parent,omitempty"`
	Optional bool   `json:"optional,omitempty"`
}

func filesOf(ctx context.Context, q store.Querier, location string) ([]file, error) {
	rows, err := q.QueryContext(ctx, `SELECT type, target, parent, etag, last_modified, digest, error, faults, refs, targets, read_at
		FROM catalog_file WHERE location_id = $1 ORDER BY parent, target`, location)
	if err != nil {
		return nil, store.Err(err)
	}
	var list []file
	err = store.Each(rows, func(rows *sql.Rows) error {
		var f file
		var faults, refs, targets string
		if err := rows.Scan(&f.Type, &f.Target, &f.Parent, &f.ETag, &f.LastModified, &f.Digest, &f.Error, &faults, &refs, &targets, &f.ReadAt); err != nil {
			return err
		}
		list = append(list, f)
		last := &list[len(list)-1]
		return errors.Join(json.Unmarshal([]byte(faults), &last.Faults), json.Unmarshal([]byte(refs), &last.Refs), json.Unmarshal([]byte(targets), &last.Targets))
	})
	return list, err
}

// saveFiles makes the files of a location be these, in transactions of their own.
func saveFiles(ctx context.Context, db *store.DB, location string, files []file, gone []Place) error {
	for part := range slices.Chunk(files, 50) {
		err := db.Write(ctx, func(tx *store.Tx) error {
			for _, f := range part {
				if err := saveFile(ctx, tx, location, f); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for part := range slices.Chunk(gone, 100) {
		err := db.Write(ctx, func(tx *store.Tx) error {
			for _, p := range part {
				if _, err := tx.Exec(ctx, `DELETE FROM catalog_file WHERE location_id = $1 AND type = $2 AND target = $3`, location, p.Type, p.Target); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func saveFile(ctx context.Context, tx *store.Tx, location string, f file) error {
	texts := make([]string, 3)
	for i, v := range []any{notNil(f.Faults), notNil(f.Refs), notNil(f.Targets)} {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		texts[i] = string(raw)
	}
	_, err := tx.Exec(ctx, `INSERT INTO catalog_file (location_id, type, target, parent, etag, last_modified, digest, error, faults, refs, targets, read_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		ON CONFLICT (location_id, type, target) DO UPDATE SET parent = $4, etag = $5, last_modified = $6, digest = $7, error = $8, faults = $9, refs = $10, targets = $11, read_at = $12`,
		location, f.Type, f.Target, f.Parent, f.ETag, f.LastModified, f.Digest, f.Error, texts[0], texts[1], texts[2], f.ReadAt)
	return err
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// forgetDigests has the files of a location read in full next time.
func forgetDigests(ctx context.Context, tx *store.Tx, location string) error {
	_, err := tx.Exec(ctx, `UPDATE catalog_file SET etag = '', last_modified = '', digest = '' WHERE location_id = $1`, location)
	return err
}

func deleteFiles(ctx context.Context, tx *store.Tx, location string) error {
	_, err := tx.Exec(ctx, `DELETE FROM catalog_file WHERE location_id = $1`, location)
	return err
}
