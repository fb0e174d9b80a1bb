-- +goose Up
-- Whether users and groups may stand in a location: who is in a group holds its rights. What was registered before is not trusted; those
-- of the configuration are.
ALTER TABLE catalog_location ADD COLUMN trusted BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE catalog_location SET trusted = TRUE WHERE origin = 'config';

-- +goose Down
ALTER TABLE catalog_location DROP COLUMN trusted;
