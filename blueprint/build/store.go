package build

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
)

// visible is the condition that a source s serves an entity whose builds the caller may see, and that they may see it.
func (s *service) visible(ctx context.Context, caller *slipway.Caller, args []any) (string, []any) {
	condition := `EXISTS (SELECT 1 FROM task_binding b JOIN entity e ON e.id = b.entity_id WHERE b.source_id = s.id`
	for _, permission := range []string{entity.ReadPermission, readPermission} {
		holding, more := entity.Holding(caller, permission, "e", len(args)+1)
		condition, args = condition+" AND "+holding, append(args, more...)
	}
	sees, more := s.engine.Sees(ctx, caller, "s.id", len(args)+1)
	return condition + ") AND " + sees, append(args, more...)
}

// selectJobs reads jobs in the order of ids: that one, or those after one.
func (s *service) selectJobs(ctx context.Context, q store.Querier, caller *slipway.Caller, id, after string, limit int) (list []jobDocument, err error) {
	may, args := s.visible(ctx, caller, []any{id, after, limit})
	rows, err := q.QueryContext(ctx, `SELECT s.provider, s.type, s.project, s.as_of FROM task_source s
		WHERE s.task = 'build' AND ($1 = '' OR s.provider || ':' || s.project = $1) AND s.provider || ':' || s.project > $2 AND `+may+`
		ORDER BY s.provider || ':' || s.project LIMIT $3`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var j jobDocument
		var asOf store.Time
		if err := rows.Scan(&j.Provider.Name, &j.Provider.Type, &j.Name, &asOf); err != nil {
			return err
		}
		j.ID, j.AsOf = j.Provider.Name+":"+j.Name, asOf.Ptr()
		list = append(list, j)
		return nil
	})
}

// selectRuns reads the runs of a job, by its name or id, newest first, after a place in that order.
func (s *service) selectRuns(ctx context.Context, q store.Querier, caller *slipway.Caller, job string, after runKey, limit int) (list []foundRun, err error) {
	may, args := s.visible(ctx, caller, []any{job, after.created, after.source, after.id, limit})
	rows, err := q.QueryContext(ctx, `SELECT s.project, i.created, i.source_id, i.id, i.doc FROM task_source s JOIN build_item i ON i.source_id = s.id
		WHERE s.task = 'build' AND (s.project = $1 OR s.provider || ':' || s.project = $1) AND `+may+`
		AND (i.created < $2 OR (i.created = $2 AND (i.source_id < $3 OR (i.source_id = $3 AND i.id < $4))))
		ORDER BY i.created DESC, i.source_id DESC, i.id DESC LIMIT $5`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var r foundRun
		var doc string
		if err := rows.Scan(&r.job, &r.key.created, &r.key.source, &r.key.id, &doc); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(doc), &r.build); err != nil {
			return fmt.Errorf("build %q of %q: %w", r.key.id, r.job, err)
		}
		list = append(list, r)
		return nil
	})
}
