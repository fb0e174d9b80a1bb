-- +goose Up
-- Builds that a tool has ordered. repository is what is cloned where the project does not say so. order_key names the order for good.
ALTER TABLE local_build ADD COLUMN repository TEXT NOT NULL DEFAULT '';
ALTER TABLE local_build ADD COLUMN tool TEXT NOT NULL DEFAULT '';
ALTER TABLE local_build ADD COLUMN component TEXT NOT NULL DEFAULT '';
ALTER TABLE local_build ADD COLUMN order_key TEXT;
ALTER TABLE local_build ADD COLUMN latest_versions BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE local_build ADD COLUMN deprecated_versions BOOLEAN NOT NULL DEFAULT FALSE;
CREATE UNIQUE INDEX local_build_order ON local_build (provider, order_key) WHERE order_key IS NOT NULL;
CREATE INDEX local_build_tool ON local_build (provider, tool, created DESC, id DESC) WHERE tool <> '';
CREATE INDEX local_build_tools ON local_build (provider, created DESC, id DESC) WHERE tool <> '';

-- +goose Down
DROP INDEX local_build_tools;
DROP INDEX local_build_tool;
DROP INDEX local_build_order;
ALTER TABLE local_build DROP COLUMN deprecated_versions;
ALTER TABLE local_build DROP COLUMN latest_versions;
ALTER TABLE local_build DROP COLUMN order_key;
ALTER TABLE local_build DROP COLUMN component;
ALTER TABLE local_build DROP COLUMN tool;
ALTER TABLE local_build DROP COLUMN repository;
