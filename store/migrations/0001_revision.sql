-- +goose Up
CREATE TABLE revision (
    name TEXT PRIMARY KEY,
    n    BIGINT NOT NULL
);

-- +goose Down
DROP TABLE revision;
