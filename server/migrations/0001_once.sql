-- +goose Up
CREATE TABLE server_once (
    id       TEXT PRIMARY KEY,
    sum      TEXT NOT NULL,
    created  BIGINT NOT NULL,
    status   BIGINT NOT NULL DEFAULT 0,
    body     TEXT NOT NULL DEFAULT '',
    location TEXT NOT NULL DEFAULT '',
    secret   BOOLEAN NOT NULL DEFAULT FALSE
);
CREATE INDEX server_once_created ON server_once (created);

-- +goose Down
DROP TABLE server_once;
