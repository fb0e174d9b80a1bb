-- +goose Up
-- How much is kept for the idempotent calls of a caller, by the day (UTC, since 1970) on which they came.
CREATE TABLE server_once_use (
    caller TEXT NOT NULL,
    day    BIGINT NOT NULL,
    bytes  BIGINT NOT NULL,
    PRIMARY KEY (caller, day)
);

-- +goose Down
DROP TABLE server_once_use;
