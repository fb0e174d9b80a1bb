-- +goose Up
-- A job moves: scheduled or available -> running -> completed, canceled, discarded, or retrying and round again.
CREATE TABLE job (
    id           {id},
    kind         TEXT NOT NULL,
    queue        TEXT NOT NULL,
    state        TEXT NOT NULL,
    priority     INTEGER NOT NULL,
    args         TEXT NOT NULL,
    unique_key   TEXT,
    schedule     TEXT,                           -- the schedule that inserted it
    attempt      INTEGER NOT NULL DEFAULT 0,     -- runs begun, without those given back
    max_attempts INTEGER NOT NULL,
    run          BIGINT NOT NULL DEFAULT 0,      -- how often it was claimed; (id, run) is the right to finish it
    replica      BIGINT,                         -- who claimed it last
    again        BOOLEAN NOT NULL DEFAULT FALSE, -- asked for once more while it runs
    cancel_asked BOOLEAN NOT NULL DEFAULT FALSE,
    created_at   BIGINT NOT NULL,
    scheduled_at BIGINT NOT NULL,
    started_at   BIGINT,
    finished_at  BIGINT,
    errors       TEXT NOT NULL DEFAULT '[]'
);
-- Every index is partial and small: most jobs are completed ones, and a full index on the state would be taken by SQLite for everything.
-- The kind lies in the index so that jobs which no replica knows cost no row reads.
CREATE INDEX job_available ON job (queue, priority, id, kind) WHERE state = 'available';
CREATE INDEX job_due ON job (scheduled_at) WHERE state IN ('scheduled', 'retrying');
CREATE INDEX job_running ON job (replica) WHERE state = 'running';
CREATE UNIQUE INDEX job_unique ON job (kind, unique_key)
    WHERE unique_key IS NOT NULL AND state IN ('available', 'running', 'retrying', 'scheduled');
CREATE INDEX job_canceled ON job (id) WHERE state = 'canceled';
CREATE INDEX job_discarded ON job (id) WHERE state = 'discarded';
CREATE INDEX job_finished ON job (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX job_of_schedule ON job (schedule, id) WHERE schedule IS NOT NULL;

-- Who works. A running job whose replica has no row here is taken up again.
CREATE TABLE job_replica (
    id      {id},
    process TEXT NOT NULL,  -- SQLite: rows of any other process are dead
    beat_at BIGINT NOT NULL -- PostgreSQL: by the clock of the database
);

CREATE TABLE job_schedule (
    name    TEXT PRIMARY KEY,
    spec    TEXT NOT NULL, -- interval or cron; a new one counts from now
    next_at BIGINT NOT NULL,
    paused  BOOLEAN NOT NULL DEFAULT FALSE
);

-- +goose Down
DROP TABLE job_schedule;
DROP TABLE job_replica;
DROP TABLE job;
