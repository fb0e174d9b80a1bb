package dora

import (
	"context"
	"database/sql"
	"strings"

	"github.com/slipway-platform/slipway/store"
)

// itemColumns are an item with the services of its entities: of each, what its annotation names, else its name.
const itemColumns = `i.created, i.source_id, i.id, s.provider, i.doc, COALESCE((SELECT `

// services joins the names of the services of a source's entities by line ends; names hold none.
func itemServices(engine store.Engine) string {
	names := `SELECT COALESCE((SELECT MIN(t.value) FROM entity_term et JOIN term t ON t.id = et.term_id WHERE et.entity_id = e.id AND t.key = 'metadata.annotations.` + projectAnnotation + `'), e.name) AS name
		FROM task_binding b JOIN entity e ON e.id = b.entity_id WHERE b.source_id = i.source_id ORDER BY e.id LIMIT 20`
	if engine == store.Postgres {
		return `string_agg(n.name, E'\n') FROM (` + names + `) n), '')`
	}
	return `group_concat(n.name, char(10)) FROM (` + names + `) n), '')`
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
	return scanItems(db.QueryContext(ctx, `SELECT `+itemColumns+itemServices(db.Engine())+` FROM `+task+`_item i JOIN task_source s ON s.id = i.source_id WHERE i.source_id = $1 AND i.id = $2`, source, id))
}

// readItems reads the first items of a stretch.
func readItems(ctx context.Context, db *store.DB, part stretch, limit int) ([]indexed, error) {
	var args arguments
	until := args.add(part.until)
	where := `(i.created, i.source_id, i.id) > (` + args.add(part.after.created) + `, ` + args.add(part.after.source) + `, ` + args.add(part.after.id) + `) AND i.created <= ` + until + ` ORDER BY i.created, i.source_id, i.id`
	if part.source != 0 {
		args = nil
		where = `i.source_id = ` + args.add(part.source) + ` AND (i.created, i.id) > (` + args.add(part.after.created) + `, ` + args.add(part.after.id) + `) AND i.created <= ` + args.add(part.until) + ` ORDER BY i.created, i.id`
	}
	return scanItems(db.QueryContext(ctx, `SELECT `+itemColumns+itemServices(db.Engine())+` FROM `+part.task+`_item i JOIN task_source s ON s.id = i.source_id WHERE `+where+` LIMIT `+args.add(limit), args...))
}
