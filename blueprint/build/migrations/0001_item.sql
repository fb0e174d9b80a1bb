-- +goose Up
CREATE TABLE build_item (
    source_id BIGINT  NOT NULL,
    created   BIGINT  NOT NULL,
    id        TEXT    NOT NULL,
    version   BIGINT  NOT NULL,
    status    TEXT    NOT NULL,
    finished  BOOLEAN NOT NULL,
    triggered_by_id BIGINT,
    pipeline_id BIGINT,
    branch_id BIGINT,
    doc       TEXT    NOT NULL,
    PRIMARY KEY (source_id, created, id)
) {clustered};
CREATE UNIQUE INDEX build_item_id ON build_item (source_id, id);
CREATE INDEX build_item_status ON build_item (source_id, status, created, id);
CREATE INDEX build_item_triggered_by_id ON build_item (source_id, triggered_by_id, created, id) WHERE triggered_by_id IS NOT NULL;
CREATE INDEX build_item_pipeline_id ON build_item (source_id, pipeline_id, created, id) WHERE pipeline_id IS NOT NULL;
CREATE INDEX build_item_branch_id ON build_item (source_id, branch_id, created, id) WHERE branch_id IS NOT NULL;
CREATE INDEX build_item_created ON build_item (created, source_id, id);
CREATE INDEX build_item_status_created ON build_item (status, created, source_id, id);
CREATE INDEX build_item_unfinished ON build_item (source_id, created) WHERE NOT finished;

-- +goose Down
DROP TABLE build_item;
