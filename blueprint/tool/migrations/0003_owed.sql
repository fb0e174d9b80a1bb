-- +goose Up
-- What belongs to a change of a resource in a cluster, which no transaction of this database can hold: noted before the change, taken away with what belongs to it. id is empty for a
-- configuration. what is created, ended or config.
CREATE TABLE tool_owed (
    tool  TEXT   NOT NULL,
    id    TEXT   NOT NULL,
    what  TEXT   NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (tool, id, what)
);

-- +goose Down
DROP TABLE tool_owed;
