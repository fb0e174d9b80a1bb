-- +goose Up
-- What is wrong with an entity whose last good version is kept, as JSON; and since when no source brings it.
ALTER TABLE entity ADD COLUMN status TEXT;
ALTER TABLE entity ADD COLUMN orphaned_at BIGINT;
CREATE INDEX entity_orphan ON entity (orphaned_at) WHERE orphaned_at IS NOT NULL;

-- A search in names and titles reads this index, in order, and no documents; counts read the other one.
CREATE INDEX entity_text ON entity (ref, name, title, id);
CREATE INDEX entity_kind ON entity (kind, type, lifecycle, id);

-- +goose Down
DROP INDEX entity_kind;
DROP INDEX entity_text;
DROP INDEX entity_orphan;
ALTER TABLE entity DROP COLUMN orphaned_at;
ALTER TABLE entity DROP COLUMN status;
