-- +goose Up
-- What a source brings is asked for whole, in no order: so each entity of a source stands at the end of its list, and none in the midst of it.
DROP INDEX entity_source;
CREATE INDEX entity_source ON entity (source);

-- +goose Down
DROP INDEX entity_source;
CREATE INDEX entity_source ON entity (source, ref);
