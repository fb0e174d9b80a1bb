package dora

import (
	"context"
	"database/sql"
	"strings"

	"github.com/slipway-platform/slipway/store"
)

// selectItems selects items of a task's index i, of which a condition is to follow, with the services of their entities: of each, what its annotation names, else its name. They are joined by line ends, which
// names do not hold.
func selectItems(engine store.Engine, task string) string {
	join := `group_concat(n.name, char(10))`
	if engine == store.Postgres {
		join = `string_agg(n.name, E'\n')`
	}
	return `SELECT i.created, i.source_id, i.id, s.provider, i.doc, COALESCE((SELECT ` + join + ` FROM (SELECT COALESCE((SELECT MIN(t.value) FROM entity_term et JOIN term t ON t.id = et.term_id WHERE et.entity_id = e.id AND t.key = 'metadata.annotations.` + projectAnnotation + `'), e.name) AS name
		FROM task_binding b JOIN entity e ON e.id = b.entity_id WHERE b.source_id = i.source_id ORDER BY e.id LIMIT 20) n), '') FROM ` + task + `_item i JOIN task_source s ON s.id = i.source_id WHERE `
}

func scanItems(rows *sql.Rows, err error) (list []indexed, _ error) {
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var it indexed
		var services string
		if err := rows.Scan(&it.key.created, &it.key.source, &it.key.id, &it.provider, &it.doc, &services); err != nil {
			return err
		}
		if services != "" {
			it.services = strings.Split(services, "\n")
		}
		list = append(list, it)
		return nil
	})
}

func readItem(ctx context.Context, db *store.DB, task string, source int64, id string) ([]indexed, error) {
	return scanItems(db.QueryContext(ctx, selectItems(db.Engine(), task)+`i.source_id = $1 AND i.id = $2`, source, id))
}

// readItems reads the first items of a stretch.
func readItems(ctx context.Context, db *store.DB, part stretch, limit int) ([]indexed, error) {
	where, order := `(i.created, i.source_id, i.id) > ($1, $2, $3)`, `i.created, i.source_id, i.id`
	if part.source != 0 { // it lies in this order
		where, order = `i.source_id = $2 AND (i.created, i.id) > ($1, $3)`, `i.created, i.id`
		part.after.source = part.source
	}
	return scanItems(db.QueryContext(ctx, selectItems(db.Engine(), part.task)+where+` AND i.created <= $4 ORDER BY `+order+` LIMIT $5`, part.after.created, part.after.source, part.after.id, part.until, limit))
}
