-- +goose Up
-- Raised by everyone who begins to store what a file holds, or has stored it: who finds it raised by another does not rely on the digest.
ALTER TABLE catalog_file ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
-- A push names the address below which files have new content.
CREATE INDEX catalog_file_below ON catalog_file (LOWER(target));

-- +goose Down
DROP INDEX catalog_file_below;
ALTER TABLE catalog_file DROP COLUMN version;
