-- +goose Up
-- The record of changes says where the request came from.
ALTER TABLE auth_audit ADD COLUMN address TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE auth_audit DROP COLUMN address;
