-- +goose Up
CREATE TABLE deployment_item (
    source_id BIGINT  NOT NULL,
    created   BIGINT  NOT NULL,
    id        TEXT    NOT NULL,
    version   BIGINT  NOT NULL,
    status    TEXT    NOT NULL,
    finished  BOOLEAN NOT NULL,
    triggered_by_id BIGINT,
    version_id BIGINT,
    environment_id BIGINT,
    doc       TEXT    NOT NULL,
    PRIMARY KEY (source_id, created, id)
) {clustered};
CREATE UNIQUE INDEX deployment_item_id ON deployment_item (source_id, id);
CREATE INDEX deployment_item_status ON deployment_item (source_id, status, created, id);
CREATE INDEX deployment_item_triggered_by_id ON deployment_item (source_id, triggered_by_id, created, id) WHERE triggered_by_id IS NOT NULL;
CREATE INDEX deployment_item_version_id ON deployment_item (source_id, version_id, created, id) WHERE version_id IS NOT NULL;
CREATE INDEX deployment_item_environment_id ON deployment_item (source_id, environment_id, created, id) WHERE environment_id IS NOT NULL;
CREATE INDEX deployment_item_created ON deployment_item (created, source_id, id);
CREATE INDEX deployment_item_status_created ON deployment_item (status, created, source_id, id);
CREATE INDEX deployment_item_unfinished ON deployment_item (source_id, created) WHERE NOT finished;

-- +goose Down
DROP TABLE deployment_item;
