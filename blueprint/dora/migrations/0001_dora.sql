-- +goose Up
-- A service is what deployments, changes and incidents are reported of, by its name in lower case. version grows with every write of what belongs to it; what lies between
-- dirty_from and dirty_to has changed since its blocks were written.
CREATE TABLE dora_service (
    id         {id},
    name       TEXT   NOT NULL UNIQUE,
    title      TEXT   NOT NULL,
    project    TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    dirty_from BIGINT,
    dirty_to   BIGINT
);
CREATE INDEX dora_service_dirty ON dora_service (id) WHERE dirty_from IS NOT NULL;
CREATE INDEX dora_service_project ON dora_service (project) WHERE project <> '';

-- Who may read an entity that a service is bound to may read of the service.
CREATE TABLE dora_binding (
    service_id BIGINT NOT NULL,
    entity_id  BIGINT NOT NULL,
    PRIMARY KEY (service_id, entity_id)
) {clustered};
CREATE INDEX dora_binding_entity ON dora_binding (entity_id, service_id);

-- doc is what is shown, written as it is. The other columns are what is searched and counted. Derived are failed_after, the seconds until an incident followed; rolled_back: the next one
-- put an older version back; and put_back: it did so itself.
CREATE TABLE dora_deployment (
    id           {id},
    external_id  TEXT    NOT NULL,
    source       TEXT    NOT NULL,
    service_id   BIGINT  NOT NULL,
    environment  TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    started      BIGINT  NOT NULL,
    finished     BIGINT,
    deployed     TEXT    NOT NULL,
    first_commit BIGINT,
    rework       BOOLEAN NOT NULL,
    rollback     BOOLEAN NOT NULL,
    failed_after BIGINT,
    rolled_back  BOOLEAN NOT NULL DEFAULT FALSE,
    put_back     BOOLEAN NOT NULL DEFAULT FALSE,
    revision     BIGINT  NOT NULL,
    doc          TEXT    NOT NULL,
    UNIQUE (external_id, source)
);
CREATE INDEX dora_deployment_service ON dora_deployment (service_id, started, id, environment, status);
-- Holds all that settling reads, so that it need not go to rows that are long and lie apart.
CREATE INDEX dora_deployment_finished ON dora_deployment (service_id, finished, environment, status, external_id, deployed, first_commit, rework, rollback, failed_after, rolled_back, put_back) WHERE finished IS NOT NULL;
CREATE INDEX dora_deployment_started ON dora_deployment (environment, started, id, status);
-- Those that did not succeed are few, and lie far apart among the others.
CREATE INDEX dora_deployment_other ON dora_deployment (status, started, id) WHERE status <> 'SUCCESS';

-- How many deployments there are, so that a list can say so.
CREATE TABLE dora_tally (
    service_id  BIGINT NOT NULL,
    environment TEXT   NOT NULL,
    status      TEXT   NOT NULL,
    n           BIGINT NOT NULL,
    PRIMARY KEY (service_id, environment, status)
) {clustered};

-- told: the external id of the deployment that somebody said it belongs to. deployment_id is derived.
CREATE TABLE dora_change (
    id            {id},
    external_id   TEXT   NOT NULL,
    source        TEXT   NOT NULL,
    service_id    BIGINT NOT NULL,
    first_commit  BIGINT,
    opened        BIGINT NOT NULL,
    merged        BIGINT,
    told          TEXT   NOT NULL,
    deployment_id BIGINT NOT NULL,
    revision      BIGINT NOT NULL,
    doc           TEXT   NOT NULL,
    UNIQUE (external_id, source)
);
CREATE INDEX dora_change_merged ON dora_change (service_id, merged) WHERE merged IS NOT NULL;
CREATE INDEX dora_change_deployment ON dora_change (deployment_id, id) WHERE deployment_id <> 0;
CREATE INDEX dora_change_told ON dora_change (service_id, told) WHERE told <> '';

CREATE TABLE dora_incident (
    id            {id},
    external_id   TEXT   NOT NULL,
    source        TEXT   NOT NULL,
    service_id    BIGINT NOT NULL,
    started       BIGINT NOT NULL,
    resolved      BIGINT,
    told          TEXT   NOT NULL,
    deployment_id BIGINT NOT NULL,
    revision      BIGINT NOT NULL,
    doc           TEXT   NOT NULL,
    UNIQUE (external_id, source)
);
CREATE INDEX dora_incident_started ON dora_incident (service_id, started);
CREATE INDEX dora_incident_resolved ON dora_incident (service_id, resolved) WHERE resolved IS NOT NULL;
CREATE INDEX dora_incident_deployment ON dora_incident (deployment_id, id) WHERE deployment_id <> 0;
CREATE INDEX dora_incident_told ON dora_incident (service_id, told) WHERE told <> '';

-- What the metrics need of one service, environment and calendar month, in one row: a year of a thousand services is 12,000 rows, and medians are exact. Derived.
CREATE TABLE dora_block (
    environment TEXT   NOT NULL,
    month       BIGINT NOT NULL,
    service_id  BIGINT NOT NULL,
    facts       {bytes} NOT NULL,
    PRIMARY KEY (environment, month, service_id)
) {clustered};
CREATE INDEX dora_block_service ON dora_block (service_id, month, environment);

-- +goose Down
DROP TABLE dora_block;
DROP TABLE dora_incident;
DROP TABLE dora_change;
DROP TABLE dora_tally;
DROP TABLE dora_deployment;
DROP TABLE dora_binding;
DROP TABLE dora_service;
