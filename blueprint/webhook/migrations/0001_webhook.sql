-- +goose Up
-- Where each webhook stands. position: everything up to it was delivered or given up. version is that of the document that this was worked out for.
-- A replica that sends holds the lease; what it notes counts only while it does.
CREATE TABLE webhook_target (
    id            TEXT   PRIMARY KEY,
    version       BIGINT NOT NULL,
    position      BIGINT NOT NULL,
    state         TEXT   NOT NULL,
    failures      BIGINT NOT NULL DEFAULT 0,
    failing_since BIGINT,
    retry_at      BIGINT,
    error         TEXT   NOT NULL DEFAULT '',
    lease_owner   TEXT   NOT NULL DEFAULT '',
    lease_until   BIGINT
);

CREATE TABLE webhook_delivery (
    id           {id},
    webhook      TEXT   NOT NULL,
    position     BIGINT NOT NULL,
    event        TEXT   NOT NULL,
    type         TEXT   NOT NULL,
    subject      TEXT   NOT NULL,
    status       TEXT   NOT NULL,
    attempts     BIGINT NOT NULL,
    answer       BIGINT NOT NULL,
    milliseconds BIGINT NOT NULL,
    error        TEXT   NOT NULL,
    created      BIGINT NOT NULL,
    updated      BIGINT NOT NULL
);
CREATE UNIQUE INDEX webhook_delivery_event ON webhook_delivery (webhook, position);
CREATE INDEX webhook_delivery_webhook ON webhook_delivery (webhook, id);
CREATE INDEX webhook_delivery_status ON webhook_delivery (webhook, status, id);
CREATE INDEX webhook_delivery_updated ON webhook_delivery (updated);

-- +goose Down
DROP TABLE webhook_delivery;
DROP TABLE webhook_target;
