-- +goose Up
-- Sources are listed by provider and project, a page at a time.
CREATE INDEX task_source_name ON task_source (task, (provider || ':' || project));

-- +goose Down
DROP INDEX task_source_name;
