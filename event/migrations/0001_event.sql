-- +goose Up
-- position is NULL until the event has its place in the order. On PostgreSQL numbers drawn inside transactions come
-- into sight out of order, so that a reader of ids loses events; the sequencer numbers only what is committed.
CREATE TABLE event (
    id        {id},
    position  BIGINT,
    uid       TEXT   NOT NULL,
    source    TEXT   NOT NULL,
    type      TEXT   NOT NULL,
    subject   TEXT   NOT NULL,
    time      BIGINT NOT NULL,
    data      TEXT,
    entity_id BIGINT NOT NULL
);
CREATE UNIQUE INDEX event_position ON event (position) WHERE position IS NOT NULL;
CREATE INDEX event_unplaced ON event (id) WHERE position IS NULL;
CREATE INDEX event_type ON event (type, position);
CREATE INDEX event_entity ON event (entity_id, position);
CREATE INDEX event_time ON event (time);

-- One row: the last position given. Its lock makes a sequencer the only one.
CREATE TABLE event_sequence (
    name TEXT   PRIMARY KEY,
    last BIGINT NOT NULL
);
INSERT INTO event_sequence (name, last) VALUES ('event', 0);

-- blocked is the position of the event that the handler refuses, NULL when all is well.
-- The lock of a row makes a replica the only reader for one event; it is taken in the handler's transaction.
CREATE TABLE event_subscription (
    name      TEXT   PRIMARY KEY,
    last      BIGINT NOT NULL,
    blocked   BIGINT,
    failures  BIGINT NOT NULL DEFAULT 0,
    retry_at  BIGINT,
    error     TEXT   NOT NULL DEFAULT ''
);

-- +goose Down
DROP TABLE event_subscription;
DROP TABLE event_sequence;
DROP TABLE event;
