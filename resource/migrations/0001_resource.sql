-- +goose Up
-- One row per document. doc is the document as readers see it, or, for a type with a stored shape of its own, that shape; secrets stand in it as
-- "<redacted>" and lie sealed, all of one document together, in sealed. key_id is the key that sealed them ('' without secrets).
CREATE TABLE resource (
    kind         TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    type         TEXT   NOT NULL,
    type_version BIGINT NOT NULL,
    doc          TEXT   NOT NULL,
    labels       TEXT   NOT NULL,
    sealed       TEXT   NOT NULL,
    key_id       TEXT   NOT NULL,
    version      BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
) {clustered};
CREATE INDEX resource_key ON resource (key_id, kind, id);

-- Which document names which.
CREATE TABLE resource_use (
    kind      TEXT NOT NULL,
    id        TEXT NOT NULL,
    used_kind TEXT NOT NULL,
    used_id   TEXT NOT NULL,
    PRIMARY KEY (kind, id, used_kind, used_id)
) {clustered};
CREATE INDEX resource_use_used ON resource_use (used_kind, used_id);

-- What a call is about to change: filled in chunks, then put in place by one transaction. base is the version that was read, 0 for none.
CREATE TABLE resource_stage (
    batch        TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    base         BIGINT  NOT NULL,
    gone         BOOLEAN NOT NULL,
    type         TEXT    NOT NULL,
    type_version BIGINT  NOT NULL,
    doc          TEXT    NOT NULL,
    labels       TEXT    NOT NULL,
    sealed       TEXT    NOT NULL,
    key_id       TEXT    NOT NULL,
    shown_before TEXT    NOT NULL,
    shown        TEXT    NOT NULL,
    staged_at    BIGINT  NOT NULL,
    PRIMARY KEY (batch, kind, id)
) {clustered};
CREATE INDEX resource_stage_at ON resource_stage (staged_at);

CREATE TABLE resource_audit (
    id           {id},
    at           BIGINT NOT NULL,
    subject      TEXT   NOT NULL,
    token_id     TEXT   NOT NULL,
    request_id   TEXT   NOT NULL,
    action       TEXT   NOT NULL,
    kind         TEXT   NOT NULL,
    object       TEXT   NOT NULL,
    shown_before TEXT   NOT NULL,
    shown        TEXT   NOT NULL
);
CREATE INDEX resource_audit_at ON resource_audit (at);
CREATE INDEX resource_audit_object ON resource_audit (kind, object, id);

-- +goose Down
DROP TABLE resource_audit;
DROP TABLE resource_stage;
DROP TABLE resource_use;
DROP TABLE resource;
