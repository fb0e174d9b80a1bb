-- +goose Up
-- origin: what else limits who may read the event (Event.Origin); 0: nothing.
ALTER TABLE event ADD COLUMN origin BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE event DROP COLUMN origin;
