-- +goose Up
-- What an entity says begins with its own ref, as a source, and the other direction follows from it.
DROP INDEX relation_entity;

-- +goose Down
CREATE INDEX relation_entity ON relation (entity_id);
