package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

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
	Version      int64
}

// target is a file that a Location entity names.
type target struct {
	Place
	Parent   string `json:"parent,omitempty"`
	Optional bool   `json:"optional,omitempty"`
}

func filesOf(ctx context.Context, q store.Querier, location string) ([]file, error) {
	rows, err := q.QueryContext(ctx, `SELECT type, target, parent, etag, last_modified, digest, error, faults, refs, targets, read_at, version
		FROM catalog_file WHERE location_id = $1 ORDER BY parent, target`, location)
	if err != nil {
		return nil, store.Err(err)
	}
	var list []file
	err = store.Each(rows, func(rows *sql.Rows) error {
		var f file
		var faults, refs, targets string
		if err := rows.Scan(&f.Type, &f.Target, &f.Parent, &f.ETag, &f.LastModified, &f.Digest, &f.Error, &faults, &refs, &targets, &f.ReadAt, &f.Version); err != nil {
			return err
		}
		list = append(list, f)
		last := &list[len(list)-1]
		return errors.Join(json.Unmarshal([]byte(faults), &last.Faults), json.Unmarshal([]byte(refs), &last.Refs), json.Unmarshal([]byte(targets), &last.Targets))
	})
	return list, err
}

// parentOf is the ref of the Location entity that names a file; "" for the target itself.
func parentOf(ctx context.Context, q store.Querier, location string, p Place) (parent string, err error) {
	err = q.QueryRowContext(ctx, `SELECT parent FROM catalog_file WHERE location_id = $1 AND type = $2 AND target = $3`, location, p.Type, p.Target).Scan(&parent)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return parent, store.Err(err)
}

// filesAtOnce is how many files one transaction stores.
const filesAtOnce = 50

// saveFiles stores files as they were read, in transactions of their own.
func saveFiles(ctx context.Context, db *store.DB, location string, files []file) error {
	for part := range slices.Chunk(files, filesAtOnce) {
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
	return nil
}

// saveFile stores a file. When somebody else has begun to store the same one meanwhile, it is read in full next time: nobody knows whose
// entities were written last.
func saveFile(ctx context.Context, tx *store.Tx, location string, f file) error {
	texts := make([]string, 3)
	for i, v := range []any{notNil(f.Faults), notNil(f.Refs), notNil(f.Targets)} {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		texts[i] = string(raw)
	}
	_, err := tx.Exec(ctx, `INSERT INTO catalog_file (location_id, type, target, parent, etag, last_modified, digest, error, faults, refs, targets, read_at, version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13 + 1)
		ON CONFLICT (location_id, type, target) DO UPDATE SET parent = $4, etag = $5, last_modified = $6, error = $8, faults = $9, refs = $10, targets = $11, read_at = $12,
			version = catalog_file.version + 1, digest = CASE WHEN catalog_file.version = $13 THEN $7 ELSE '' END`,
		location, f.Type, f.Target, f.Parent, f.ETag, f.LastModified, f.Digest, f.Error, texts[0], texts[1], texts[2], f.ReadAt, f.Version)
	return err
}

// beginFile notes that new content is about to be stored of a file that was fine before: whatever happens now, it is read in full until saveFile has
// said how it ended. It gives the file's version.
func beginFile(ctx context.Context, db *store.DB, location string, f file) (version int64, err error) {
	err = db.Write(ctx, func(tx *store.Tx) error {
		return store.Err(tx.QueryRowContext(ctx, `INSERT INTO catalog_file (location_id, type, target, parent, version) VALUES ($1, $2, $3, $4, 1)
			ON CONFLICT (location_id, type, target) DO UPDATE SET digest = '', version = catalog_file.version + 1 RETURNING version`,
			location, f.Type, f.Target, f.Parent).Scan(&version))
	})
	return version, err
}

// touchFiles notes that files are as they were, at most filesAtOnce.
func touchFiles(ctx context.Context, tx *store.Tx, location string, files []file) error {
	for _, f := range files {
		_, err := tx.Exec(ctx, `UPDATE catalog_file SET read_at = $4, parent = $5 WHERE location_id = $1 AND type = $2 AND target = $3`,
			location, f.Type, f.Target, f.ReadAt, f.Parent)
		if err != nil {
			return err
		}
	}
	return nil
}

// dropFiles forgets files that a location leads to no more.
func dropFiles(ctx context.Context, db *store.DB, location string, gone []Place) error {
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

// below is the condition that a file lies below one of the addresses; its arguments are $1 and on.
func below(addresses []string) (condition string, args []any) {
	var or []string
	for _, a := range addresses {
		a = strings.ToLower(a)
		for _, next := range [][2]string{{"/", "0"}, {"?", "@"}} { // the character, and the one behind it
			args = append(args, a+next[0], a+next[1])
			or = append(or, fmt.Sprintf(`LOWER(target) >= $%d AND LOWER(target) < $%d`, len(args)-1, len(args)))
		}
	}
	return `(` + strings.Join(or, ` OR `) + `)`, args
}

// someBelow says whether a location has a file below one of the addresses.
func someBelow(ctx context.Context, q store.Querier, addresses []string) (some bool, err error) {
	condition, args := below(addresses)
	err = q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM catalog_file WHERE `+condition+`)`, args...).Scan(&some)
	return some, store.Err(err)
}

// locationsBelow lists the locations with a file below one of the addresses.
func locationsBelow(ctx context.Context, q store.Querier, addresses []string) ([]string, error) {
	condition, args := below(addresses)
	rows, err := q.QueryContext(ctx, `SELECT DISTINCT location_id FROM catalog_file WHERE `+condition, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var ids []string
	err = store.Each(rows, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// forgetDigests has the files of a location read in full next time.
func forgetDigests(ctx context.Context, tx *store.Tx, location string) error {
	_, err := tx.Exec(ctx, `UPDATE catalog_file SET digest = '', version = version + 1 WHERE location_id = $1`, location)
	return err
}

func deleteFiles(ctx context.Context, tx *store.Tx, location string) error {
	_, err := tx.Exec(ctx, `DELETE FROM catalog_file WHERE location_id = $1`, location)
	return err
}
