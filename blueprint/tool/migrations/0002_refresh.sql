-- +goose Up
-- The time of the builder's last answer whose news have all been stored.
ALTER TABLE tool_refresh ADD COLUMN stored BIGINT;

-- +goose Down
ALTER TABLE tool_refresh DROP COLUMN stored;
