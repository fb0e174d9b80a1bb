-- +goose Up
-- A relation stands in both directions, so that who has a target is found from the target, as a source.
DROP INDEX relation_target;

-- One index for a kind and type, in the order of refs, and for counting kinds, types and lifecycles.
DROP INDEX entity_kind;
DROP INDEX entity_type;
CREATE INDEX entity_type ON entity (kind, type, ref, lifecycle, id);

-- What pages of a catalog ask for: one kind by name, perhaps with a text in name or title.
CREATE INDEX entity_kind_name ON entity (kind, name, ref, title, id);

-- +goose Down
DROP INDEX entity_kind_name;
DROP INDEX entity_type;
CREATE INDEX entity_type ON entity (kind, type, ref);
CREATE INDEX entity_kind ON entity (kind, type, lifecycle, id);
CREATE INDEX relation_target ON relation (target, type, source);
