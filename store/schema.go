package store

import (
	"context"
	"database/sql"
	"strings"
)

// Schema describes all tables, columns, indexes, constraints, views and triggers of a database, one a line, sorted: two databases of an engine with the same lines
// have the same schema.
func (db *DB) Schema(ctx context.Context) (lines []string, err error) {
	query := `SELECT tbl_name || ': ' || type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema
		WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY 1`
	if db.engine == Postgres {
		query = `
			SELECT table_name || ': column ' || column_name || ' ' || data_type || ' ' || is_nullable || ' '
				|| coalesce(column_default, '') || ' ' || coalesce(collation_name, '')
				FROM information_schema.columns WHERE table_schema = current_schema()
			UNION ALL SELECT tablename || ': index ' || indexdef FROM pg_indexes WHERE schemaname = current_schema()
			UNION ALL SELECT conrelid::regclass || ': constraint ' || conname || ' ' || pg_get_constraintdef(oid)
				FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
			UNION ALL SELECT sequencename || ': sequence' FROM pg_sequences WHERE schemaname = current_schema()
			UNION ALL SELECT viewname || ': view ' || definition FROM pg_views WHERE schemaname = current_schema()
			UNION ALL SELECT proname || ': function ' || prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
			UNION ALL SELECT tgrelid::regclass || ': trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
			ORDER BY 1`
	}
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, Err(err)
	}
	err = Each(rows, func(rows *sql.Rows) error {
		var line string
		err := rows.Scan(&line)
		lines = append(lines, strings.Join(strings.Fields(line), " "))
		return err
	})
	return lines, err
}
