-- +goose Up
CREATE TABLE auth_token (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    hash         {bytes} NOT NULL,
    user_ref     TEXT NOT NULL DEFAULT '',
    permissions  TEXT NOT NULL,
    rate_limit   BIGINT,
    issuer       TEXT NOT NULL,
    issuer_token TEXT NOT NULL DEFAULT '',
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT,
    revoked_at   BIGINT
);
CREATE UNIQUE INDEX auth_token_name ON auth_token (name) WHERE revoked_at IS NULL;
CREATE INDEX auth_token_created ON auth_token (created_at, id);

CREATE TABLE auth_audit (
    id       {id},
    at       BIGINT NOT NULL,
    subject  TEXT NOT NULL,
    token_id TEXT NOT NULL,
    action   TEXT NOT NULL,
    object   TEXT NOT NULL
);
CREATE INDEX auth_audit_at ON auth_audit (at);

-- +goose Down
DROP TABLE auth_audit;
DROP TABLE auth_token;
