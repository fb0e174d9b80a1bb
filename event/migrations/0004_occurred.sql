-- +goose Up
-- time is when the event was published, by which it is kept; occurred is when it happened, NULL for the same.
ALTER TABLE event ADD COLUMN occurred BIGINT;

-- +goose Down
ALTER TABLE event DROP COLUMN occurred;
