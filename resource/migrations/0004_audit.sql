-- +goose Up
-- The changes of one kind, newest first, without going through those of the others.
CREATE INDEX resource_audit_kind ON resource_audit (kind, id);

-- +goose Down
DROP INDEX resource_audit_kind;
