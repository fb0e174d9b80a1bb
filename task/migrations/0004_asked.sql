-- +goose Up
-- Items that a webhook named and did not hold: they are asked for by their id when their project is read next, wherever in the list they stand. n counts how often
-- one was named, so that what is named again meanwhile is asked for again.
CREATE TABLE task_asked (
    source_id BIGINT NOT NULL,
    id        TEXT   NOT NULL,
    n         BIGINT NOT NULL,
    PRIMARY KEY (source_id, id)
) {clustered};

-- A project is found by its name alone, whichever providers have it.
CREATE INDEX task_source_project ON task_source (project);

-- +goose Down
DROP INDEX task_source_project;
DROP TABLE task_asked;
