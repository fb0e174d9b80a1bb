-- +goose Up
-- A large batch becomes valid by one row here, whatever its size, and is then moved to where it belongs in small transactions. There is at most one such row.
CREATE TABLE resource_batch (
    batch      TEXT   PRIMARY KEY,
    at         BIGINT NOT NULL,
    subject    TEXT   NOT NULL,
    token_id   TEXT   NOT NULL,
    request_id TEXT   NOT NULL
);

ALTER TABLE resource_stage ADD COLUMN version BIGINT NOT NULL DEFAULT 0;

-- Which document will name which.
CREATE TABLE resource_stage_use (
    batch     TEXT NOT NULL,
    kind      TEXT NOT NULL,
    id        TEXT NOT NULL,
    used_kind TEXT NOT NULL,
    used_id   TEXT NOT NULL,
    PRIMARY KEY (batch, kind, id, used_kind, used_id)
) {clustered};

-- What is valid: the documents in their place, and over them those of a batch that has become valid and is still being moved.
CREATE VIEW resource_now AS
    SELECT kind, id, type, type_version, doc, labels, sealed, key_id, version FROM resource AS r
    WHERE NOT EXISTS (SELECT 1 FROM resource_batch AS b JOIN resource_stage AS s ON s.batch = b.batch WHERE s.kind = r.kind AND s.id = r.id)
    UNION ALL
    SELECT s.kind, s.id, s.type, s.type_version, s.doc, s.labels, s.sealed, s.key_id, s.version FROM resource_batch AS b JOIN resource_stage AS s ON s.batch = b.batch
    WHERE NOT s.gone AND s.base >= 0;

-- +goose Down
DROP VIEW resource_now;
DROP TABLE resource_stage_use;
ALTER TABLE resource_stage DROP COLUMN version;
DROP TABLE resource_batch;
