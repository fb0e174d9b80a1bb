-- +goose Up
-- The record of changes says by which right they were made.
ALTER TABLE auth_audit ADD COLUMN session_id TEXT NOT NULL DEFAULT '';
ALTER TABLE auth_audit ADD COLUMN permission TEXT NOT NULL DEFAULT '';
ALTER TABLE auth_audit ADD COLUMN held TEXT NOT NULL DEFAULT '';
ALTER TABLE auth_audit ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE auth_audit ADD COLUMN request_id TEXT NOT NULL DEFAULT '';
CREATE INDEX auth_audit_subject ON auth_audit (subject, id);
CREATE INDEX auth_token_issuer ON auth_token (issuer, created_at);

-- +goose Down
DROP INDEX auth_token_issuer;
DROP INDEX auth_audit_subject;
ALTER TABLE auth_audit DROP COLUMN request_id;
ALTER TABLE auth_audit DROP COLUMN origin;
ALTER TABLE auth_audit DROP COLUMN held;
ALTER TABLE auth_audit DROP COLUMN permission;
ALTER TABLE auth_audit DROP COLUMN session_id;
