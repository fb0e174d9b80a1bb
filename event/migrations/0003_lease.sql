-- +goose Up
-- Which replica hands the events of a subscription to something outside of the database, and until when it has that right without renewing it.
ALTER TABLE event_subscription ADD COLUMN lease_owner TEXT NOT NULL DEFAULT '';
ALTER TABLE event_subscription ADD COLUMN lease_until BIGINT;

-- +goose Down
ALTER TABLE event_subscription DROP COLUMN lease_until;
ALTER TABLE event_subscription DROP COLUMN lease_owner;
