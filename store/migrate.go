package store

import (
	"context"
	"fmt"
	"io/fs"
)

// Migrations are one owner's schema steps in one database: files "0001_name.sql" in goose's format
// (-- +goose Up, -- +goose Down), each with a tested way down. The text is the same for both engines
// but for these words, which stand for what each engine says:
//
//	{id}      an integer primary key that numbers itself
//	{bytes}   a column of raw bytes
//	{clustered}  after the closing bracket of CREATE TABLE: rows stored in primary key order (SQLite only)
//
// A step that cannot be said so has a file per engine: "0001_name.sqlite.sql", "0001_name.postgres.sql".
type Migrations struct {
	Owner string // the blueprint or package; names the version table "<owner>_version"
	FS    fs.FS  // the files, at its root
}

// MigrationStatus is one step and whether it was applied.
type MigrationStatus struct {
	Owner   string `json:"owner"`
	Version int64  `json:"version"`
	Name    string `json:"name"`
	Applied bool   `json:"applied"`
}

// MigrateUp applies what is missing of every owner, in the order given. Any number of processes may call
// it at the same time: one applies, the others wait. It is an error when the database has
// steps that this binary does not know (it is newer).
func (db *DB) MigrateUp(ctx context.Context, all ...Migrations) error {
	return fmt.Errorf("not written yet")
}

// MigrateDown takes back the last step of one owner. It returns what was taken back, "" when nothing was left.
func (db *DB) MigrateDown(ctx context.Context, m Migrations) (string, error) {
	return "", fmt.Errorf("not written yet")
}

// MigrateStatus lists all steps of all owners, also on an empty database.
func (db *DB) MigrateStatus(ctx context.Context, all ...Migrations) ([]MigrationStatus, error) {
	return nil, fmt.Errorf("not written yet")
}
