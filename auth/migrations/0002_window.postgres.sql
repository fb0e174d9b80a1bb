-- +goose Up
-- Unlogged: a crash of the database server forgets at most one minute of counting, and a write costs a tenth.
CREATE UNLOGGED TABLE auth_window (
    key   TEXT PRIMARY KEY,
    win   BIGINT NOT NULL,
    n     BIGINT NOT NULL,
    taken BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE auth_replica (
    id      TEXT PRIMARY KEY,
    seen_at BIGINT NOT NULL
);

-- +goose Down
DROP TABLE auth_replica;
DROP TABLE auth_window;
