-- +goose Up
CREATE TABLE catalog_location (
    id            TEXT   PRIMARY KEY,
    type          TEXT   NOT NULL,
    target        TEXT   NOT NULL,
    origin        TEXT   NOT NULL,                 -- api, config
    status        TEXT   NOT NULL,                 -- processing, ready, faulty, failed, removing
    error         TEXT   NOT NULL DEFAULT '',      -- why it could not be read
    faults        TEXT   NOT NULL DEFAULT '[]',    -- JSON: what is wrong in it
    etag          TEXT   NOT NULL DEFAULT '',      -- of the last answer, for the next conditional request
    last_modified TEXT   NOT NULL DEFAULT '',
    digest        TEXT   NOT NULL DEFAULT '',      -- of the last content
    failures      BIGINT NOT NULL DEFAULT 0,       -- in a row
    created_at    BIGINT NOT NULL,
    read_at       BIGINT,                          -- when it was last read in full
    next_read     BIGINT NOT NULL,
    UNIQUE (type, target)
);
CREATE INDEX catalog_location_due ON catalog_location (next_read);

-- +goose Down
DROP TABLE catalog_location;
