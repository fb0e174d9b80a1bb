-- +goose Up
-- Columns hold what is searched most, in lower case; doc is the entity as its source wrote it, with uid and etag.
-- NULL: the entity has no such field. owner and system are canonical refs.
CREATE TABLE entity (
    id         {id},
    ref        TEXT   NOT NULL UNIQUE,
    uid        TEXT   NOT NULL UNIQUE,
    etag       TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    namespace  TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    type       TEXT,
    lifecycle  TEXT,
    title      TEXT,
    owner      TEXT,
    system     TEXT,
    source     TEXT   NOT NULL,
    doc        TEXT   NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX entity_type ON entity (kind, type, ref);
CREATE INDEX entity_name ON entity (name, ref);
CREATE INDEX entity_owner ON entity (owner, ref);
CREATE INDEX entity_system ON entity (system, ref);
CREATE INDEX entity_source ON entity (source, ref);

-- Every other field that can be searched: a term is a (kind, key, value), a posting says which entities have it.
-- Terms are numbers, and per kind, so that the length of a posting list says what a filter costs.
CREATE TABLE term (
    id    {id},
    key   TEXT NOT NULL,
    kind  TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (key, kind, value)
);
CREATE TABLE entity_term (
    term_id   BIGINT NOT NULL,
    entity_id BIGINT NOT NULL,
    PRIMARY KEY (term_id, entity_id)
) {clustered};
CREATE INDEX entity_term_entity ON entity_term (entity_id, term_id);

-- A relation stands here in both directions, each row with the entity that said so. Targets need not exist.
CREATE TABLE relation (
    entity_id BIGINT NOT NULL,
    source    TEXT   NOT NULL,
    type      TEXT   NOT NULL,
    target    TEXT   NOT NULL,
    PRIMARY KEY (source, type, target, entity_id)
) {clustered};
CREATE INDEX relation_entity ON relation (entity_id);
CREATE INDEX relation_target ON relation (target, type, source);

-- +goose Down
DROP TABLE relation;
DROP TABLE entity_term;
DROP TABLE term;
DROP TABLE entity;
