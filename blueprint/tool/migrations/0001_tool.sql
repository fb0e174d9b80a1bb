-- +goose Up
CREATE TABLE tool_config (
    tool     TEXT   PRIMARY KEY,
    version  BIGINT NOT NULL,
    document TEXT   NOT NULL,
    updated  BIGINT NOT NULL
);

-- state is the deployment as JSON, without its configuration, which never changes.
CREATE TABLE tool_deployment (
    tool    TEXT    NOT NULL,
    id      TEXT    NOT NULL,
    created BIGINT  NOT NULL,
    builder TEXT    NOT NULL,
    active  BOOLEAN NOT NULL,
    version BIGINT  NOT NULL,
    state   TEXT    NOT NULL,
    config  TEXT    NOT NULL,
    PRIMARY KEY (tool, id)
);
CREATE INDEX tool_deployment_list ON tool_deployment (tool, created, id);
-- One active deployment of a tool, whoever creates it.
CREATE UNIQUE INDEX tool_deployment_active ON tool_deployment (tool) WHERE active;

CREATE TABLE tool_token (
    tool    TEXT   PRIMARY KEY,
    hash    TEXT   NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    version BIGINT NOT NULL
);

-- When the builds of a builder, or of one tool there, were last asked for, by whichever replica.
CREATE TABLE tool_refresh (
    builder TEXT   NOT NULL,
    tool    TEXT   NOT NULL,
    asked   BIGINT NOT NULL,
    PRIMARY KEY (builder, tool)
);

-- +goose Down
DROP TABLE tool_refresh;
DROP TABLE tool_token;
DROP TABLE tool_deployment;
DROP TABLE tool_config;
