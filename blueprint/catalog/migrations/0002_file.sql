-- Contract: versions without catalog_file read and write these three columns of catalog_location.
-- +goose Up
-- A file of a location: the target itself, and those that its Location entities name.
CREATE TABLE catalog_file (
    location_id   TEXT   NOT NULL,
    type          TEXT   NOT NULL,
    target        TEXT   NOT NULL,
    parent        TEXT   NOT NULL DEFAULT '',      -- ref of the Location entity that names it; empty for the target itself
    etag          TEXT   NOT NULL DEFAULT '',      -- of the last answer, for the next conditional request; with a digest only
    last_modified TEXT   NOT NULL DEFAULT '',
    digest        TEXT   NOT NULL DEFAULT '',      -- of the last content, where nothing was wrong and nothing else was read for it
    error         TEXT   NOT NULL DEFAULT '',      -- why it could not be read
    faults        TEXT   NOT NULL DEFAULT '[]',    -- JSON: what is wrong in it
    refs          TEXT   NOT NULL DEFAULT '[]',    -- JSON: the entities that it brings
    targets       TEXT   NOT NULL DEFAULT '[]',    -- JSON: the further files that it names
    read_at       BIGINT,                          -- when it was last read
    PRIMARY KEY (location_id, type, target)
);
ALTER TABLE catalog_location DROP COLUMN etag;
ALTER TABLE catalog_location DROP COLUMN last_modified;
ALTER TABLE catalog_location DROP COLUMN digest;

-- +goose Down
ALTER TABLE catalog_location ADD COLUMN etag TEXT NOT NULL DEFAULT '';
ALTER TABLE catalog_location ADD COLUMN last_modified TEXT NOT NULL DEFAULT '';
ALTER TABLE catalog_location ADD COLUMN digest TEXT NOT NULL DEFAULT '';
DROP TABLE catalog_file;
