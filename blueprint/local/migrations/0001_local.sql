-- +goose Up
-- owner is the replica that runs the build and lease until when it is believed to live; both are NULL while the build
-- waits and once it has ended. updated grows with every change. entity is the one that the page of the build is found by, or empty.
CREATE TABLE local_build (
    id            TEXT    PRIMARY KEY,
    provider      TEXT    NOT NULL,
    project       TEXT    NOT NULL,
    number        BIGINT  NOT NULL,
    attempt       BIGINT  NOT NULL,
    status        TEXT    NOT NULL,
    detail        TEXT    NOT NULL,
    cause         TEXT    NOT NULL,
    entity        TEXT    NOT NULL,
    ref           TEXT    NOT NULL,
    branch        TEXT    NOT NULL DEFAULT '',
    sha           TEXT    NOT NULL DEFAULT '',
    message       TEXT    NOT NULL DEFAULT '',
    author        TEXT    NOT NULL DEFAULT '',
    person_id     TEXT    NOT NULL DEFAULT '',
    person_name   TEXT    NOT NULL DEFAULT '',
    person_email  TEXT    NOT NULL DEFAULT '',
    person_ref    TEXT    NOT NULL DEFAULT '',
    created       BIGINT  NOT NULL,
    started       BIGINT,
    finished      BIGINT,
    updated       BIGINT  NOT NULL,
    exit_code     BIGINT,
    owner         TEXT,
    lease         BIGINT,
    cancel        BOOLEAN NOT NULL DEFAULT FALSE
);
CREATE INDEX local_build_list ON local_build (provider, project, created DESC, id DESC);
CREATE UNIQUE INDEX local_build_attempt ON local_build (provider, project, number, attempt);
CREATE INDEX local_build_waiting ON local_build (provider, created, id) WHERE status = 'starting';
CREATE INDEX local_build_running ON local_build (lease) WHERE status = 'running';
CREATE INDEX local_build_finished ON local_build (finished) WHERE finished IS NOT NULL;

CREATE TABLE local_log (
    build_id TEXT    NOT NULL,
    seq      BIGINT  NOT NULL,
    chunk    {bytes} NOT NULL,
    PRIMARY KEY (build_id, seq)
) {clustered};

-- The last number given to a build of a project. It stays when builds are pruned.
CREATE TABLE local_number (
    provider TEXT   NOT NULL,
    project  TEXT   NOT NULL,
    last     BIGINT NOT NULL,
    PRIMARY KEY (provider, project)
);

-- The branches that are watched for new commits: what stood there, and when to look again.
CREATE TABLE local_watch (
    provider TEXT   NOT NULL,
    project  TEXT   NOT NULL,
    branch   TEXT   NOT NULL,
    sha      TEXT   NOT NULL,
    next     BIGINT NOT NULL,
    PRIMARY KEY (provider, project, branch)
);

-- +goose Down
DROP TABLE local_watch;
DROP TABLE local_number;
DROP TABLE local_log;
DROP TABLE local_build;
