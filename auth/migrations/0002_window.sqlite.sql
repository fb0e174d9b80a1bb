-- +goose Up
CREATE TABLE auth_window (
    key   TEXT PRIMARY KEY,
    win   BIGINT NOT NULL,
    n     BIGINT NOT NULL,
    taken BIGINT NOT NULL
) WITHOUT ROWID;

CREATE TABLE auth_replica (
    id      TEXT PRIMARY KEY,
    seen_at BIGINT NOT NULL
);

-- +goose Down
DROP TABLE auth_replica;
DROP TABLE auth_window;
