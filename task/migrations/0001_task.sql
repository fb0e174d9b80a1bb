-- +goose Up
-- A source is one project at one provider, read for one task.
-- as_of: when it was last read to where it was known (NULL: never). looks: how often it was read, with or without success; whoever waits for a
-- reading watches it. fill_cursor: where older history is still to be read at the vendor (NULL: nothing is); fill_left: how many items of it.
CREATE TABLE task_source (
    id           {id},
    task         TEXT   NOT NULL,
    provider     TEXT   NOT NULL,
    type         TEXT   NOT NULL,
    project      TEXT   NOT NULL,
    as_of        BIGINT,
    next_refresh BIGINT NOT NULL,
    validator    TEXT   NOT NULL DEFAULT '',
    failures     BIGINT NOT NULL DEFAULT 0,
    error        TEXT   NOT NULL DEFAULT '',
    looks        BIGINT NOT NULL DEFAULT 0,
    writes       BIGINT NOT NULL DEFAULT 0,
    fill_cursor  TEXT,
    fill_left    BIGINT NOT NULL DEFAULT 0,
    UNIQUE (task, provider, project)
);
CREATE INDEX task_source_due ON task_source (task, next_refresh);

-- Which entities a source serves: many to many.
CREATE TABLE task_binding (
    entity_id BIGINT NOT NULL,
    source_id BIGINT NOT NULL,
    PRIMARY KEY (entity_id, source_id)
) {clustered};
CREATE INDEX task_binding_source ON task_binding (source_id, entity_id);

-- The values that items can be found by, as numbers. An alias is another way to write one: a pipeline's name beside its id, a
-- person's address beside the login. One alias may mean several terms.
CREATE TABLE task_term (
    id        {id},
    source_id BIGINT NOT NULL,
    field     TEXT   NOT NULL,
    value     TEXT   NOT NULL,
    UNIQUE (source_id, value, field)
);
CREATE TABLE task_alias (
    source_id BIGINT NOT NULL,
    value     TEXT   NOT NULL,
    field     TEXT   NOT NULL,
    term_id   BIGINT NOT NULL,
    PRIMARY KEY (source_id, value, field, term_id)
) {clustered};

-- Which accounts are a catalog user's: a login at one provider, or ('' for all) an e-mail address. In lower case.
CREATE TABLE task_account (
    entity_ref TEXT NOT NULL,
    provider   TEXT NOT NULL,
    account    TEXT NOT NULL,
    PRIMARY KEY (entity_ref, provider, account)
) {clustered};
CREATE INDEX task_account_account ON task_account (account, provider);

-- +goose Down
DROP TABLE task_account;
DROP TABLE task_alias;
DROP TABLE task_term;
DROP TABLE task_binding;
DROP TABLE task_source;
