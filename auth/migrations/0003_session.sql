-- +goose Up
-- A sign-in of a user: a browser's cookie, or a command line's access and refresh tokens. Of all secrets only the SHA-256 is here.
CREATE TABLE auth_session (
    id            TEXT PRIMARY KEY,
    kind          TEXT NOT NULL,
    user_ref      TEXT NOT NULL,
    issuer        TEXT NOT NULL,
    label         TEXT NOT NULL,
    hash          {bytes} NOT NULL,
    hash_until    BIGINT NOT NULL,
    refresh       {bytes},
    refresh_past  {bytes},
    refreshed_at  BIGINT,
    created_at    BIGINT NOT NULL,
    seen_at       BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    ended_at      BIGINT
);
CREATE INDEX auth_session_user ON auth_session (user_ref, created_at);
CREATE INDEX auth_session_expires ON auth_session (expires_at);

-- A command line that waits for a user to let it in (RFC 8628).
CREATE TABLE auth_device (
    hash       {bytes} NOT NULL PRIMARY KEY,
    code       TEXT NOT NULL,
    label      TEXT NOT NULL,
    state      TEXT NOT NULL,
    user_ref   TEXT NOT NULL DEFAULT '',
    issuer     TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX auth_device_code ON auth_device (code);
CREATE INDEX auth_device_expires ON auth_device (expires_at);

-- The groups that an issuer last named for a user, so that the user's tokens have them too.
CREATE TABLE auth_member (
    user_ref TEXT NOT NULL,
    issuer   TEXT NOT NULL,
    refs     TEXT NOT NULL,
    seen_at  BIGINT NOT NULL,
    PRIMARY KEY (user_ref, issuer)
);

-- +goose Down
DROP TABLE auth_member;
DROP TABLE auth_device;
DROP TABLE auth_session;
