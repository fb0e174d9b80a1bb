-- +goose Up
-- Almost always nothing is being moved. The view asks for that first, once a query, and looks beside a document only while a batch moves; and that there is at most
-- one batch is said in a way that planners understand: PostgreSQL, which took it for hundreds, read the whole stage for each document, with all rows that had ever been in it.
DROP VIEW resource_now;
CREATE VIEW resource_now AS
    SELECT kind, id, type, type_version, doc, labels, sealed, key_id, version FROM resource AS r
    WHERE NOT EXISTS (SELECT 1 FROM resource_batch) OR NOT EXISTS (
        SELECT 1 FROM resource_stage AS s WHERE s.batch = (SELECT max(batch) FROM resource_batch) AND s.kind = r.kind AND s.id = r.id)
    UNION ALL
    SELECT kind, id, type, type_version, doc, labels, sealed, key_id, version FROM resource_stage
    WHERE batch = (SELECT max(batch) FROM resource_batch) AND NOT gone AND base >= 0;

-- +goose Down
DROP VIEW resource_now;
CREATE VIEW resource_now AS
    SELECT kind, id, type, type_version, doc, labels, sealed, key_id, version FROM resource AS r
    WHERE NOT EXISTS (SELECT 1 FROM resource_batch AS b JOIN resource_stage AS s ON s.batch = b.batch WHERE s.kind = r.kind AND s.id = r.id)
    UNION ALL
    SELECT s.kind, s.id, s.type, s.type_version, s.doc, s.labels, s.sealed, s.key_id, s.version FROM resource_batch AS b JOIN resource_stage AS s ON s.batch = b.batch
    WHERE NOT s.gone AND s.base >= 0;
