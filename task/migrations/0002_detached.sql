-- +goose Up
-- detached: the entity names the project as before, but the provider does not take it any more, or another one has its name. What is known
-- of it stays to be seen; it is not read.
ALTER TABLE task_binding ADD COLUMN detached BOOLEAN NOT NULL DEFAULT FALSE;
DROP INDEX task_binding_source;
CREATE INDEX task_binding_source ON task_binding (source_id, entity_id, detached);

-- +goose Down
DROP INDEX task_binding_source;
ALTER TABLE task_binding DROP COLUMN detached;
CREATE INDEX task_binding_source ON task_binding (source_id, entity_id);
