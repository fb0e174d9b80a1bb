-- +goose Up
-- What is logged for a time, of everything (all) or of one blueprint or provider.
CREATE TABLE server_log_level (
    component  TEXT PRIMARY KEY,
    level      TEXT NOT NULL,
    until_time BIGINT NOT NULL,
    set_by     TEXT NOT NULL
);

-- +goose Down
DROP TABLE server_log_level;
