-- +goose Up
-- Until when something is left alone by all replicas: an account that a vendor takes nothing more from, a host that does not answer. By the database's clock.
CREATE TABLE task_hold (
    name  TEXT   PRIMARY KEY,
    until BIGINT NOT NULL
);

-- every: how far apart its readings are for now, as it is busy or quiet. changed: when something was last new in it. restricted: its items are shown only to
-- callers whose own access at the vendor was checked; it stays when the provider is removed.
ALTER TABLE task_source ADD COLUMN every BIGINT NOT NULL DEFAULT 0;
ALTER TABLE task_source ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE task_source ADD COLUMN restricted BOOLEAN NOT NULL DEFAULT FALSE;

-- What a vendor said, when, of a caller's own access to a source. viewer is a keyed hash of the caller and the token that was shown.
CREATE TABLE task_access (
    viewer    TEXT    NOT NULL,
    source_id BIGINT  NOT NULL,
    granted   BOOLEAN NOT NULL,
    said      BIGINT  NOT NULL,
    until     BIGINT  NOT NULL,
    PRIMARY KEY (viewer, source_id)
) {clustered};
CREATE INDEX task_access_until ON task_access (until);

-- When a provider's webhooks last came, and why one was refused.
CREATE TABLE task_hook (
    provider TEXT   PRIMARY KEY,
    taken    BIGINT,
    refused  BIGINT,
    reason   TEXT   NOT NULL DEFAULT ''
);

-- +goose Down
DROP TABLE task_hook;
DROP TABLE task_access;
ALTER TABLE task_source DROP COLUMN restricted;
ALTER TABLE task_source DROP COLUMN changed;
ALTER TABLE task_source DROP COLUMN every;
DROP TABLE task_hold;
