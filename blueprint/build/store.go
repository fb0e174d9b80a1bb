package build

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

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

// jobsQuery reads the jobs whose id is which and that the caller may see, as the index task_source_name has them: a page costs what is on it.
func jobsQuery(which, may string) string {
	return `SELECT s.provider, s.type, s.project, s.as_of FROM task_source s WHERE s.task = 'build' AND s.provider || ':' || s.project ` + which + ` AND ` + may + `
		ORDER BY s.provider || ':' || s.project LIMIT $2`
}

// selectJobs reads jobs in the order of ids: that one, or those after one.
func (s *service) selectJobs(ctx context.Context, q store.Querier, caller *slipway.Caller, id, after string, limit int) (list []jobDocument, err error) {
	which, from := "> $1", after
	if id != "" {
		which, from = "= $1", id
	}
	may, args := s.visible(ctx, caller, []any{from, limit})
	rows, err := q.QueryContext(ctx, jobsQuery(which, may), args...)
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

// maxJobs is how many jobs of one name, at as many providers, have their runs listed together.
const maxJobs = 50

// selectRuns reads the runs of a job, by its name or id, newest first, after a place in that order: of each provider that has one of that name the stretch that can be on the page.
func (s *service) selectRuns(ctx context.Context, q store.Querier, caller *slipway.Caller, job string, after runKey, limit int) (list []foundRun, err error) {
	_, project, _ := strings.Cut(job, ":") // names of providers have no colon
	may, args := s.visible(ctx, caller, []any{job, project, maxJobs})
	rows, err := q.QueryContext(ctx, `SELECT s.id, s.project FROM task_source s WHERE s.project IN ($1, $2) AND s.task = 'build'
		AND (s.project = $1 OR s.provider || ':' || s.project = $1) AND `+may+` ORDER BY s.id LIMIT $3`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var arms []string
	args = []any{after.created, limit}
	names := map[int64]string{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		var name string
		if err := rows.Scan(&id, &name); err != nil {
			return err
		}
		names[id] = name
		args = append(args, id)
		arm := fmt.Sprintf("SELECT created, source_id, id, doc FROM build_item WHERE source_id = $%d AND ", len(args))
		switch {
		case id == after.source:
			args = append(args, after.id)
			arm += fmt.Sprintf("(created, id) < ($1, $%d)", len(args))
		case id < after.source:
			arm += "created <= $1"
		default:
			arm += "created < $1"
		}
		arms = append(arms, fmt.Sprintf("SELECT * FROM (%s ORDER BY created DESC, id DESC LIMIT $2) AS a%d", arm, id))
		return nil
	})
	if err != nil || len(arms) == 0 {
		return nil, err
	}
	rows, err = q.QueryContext(ctx, strings.Join(arms, " UNION ALL ")+` ORDER BY created DESC, source_id DESC, id DESC LIMIT $2`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var r foundRun
		var doc string
		if err := rows.Scan(&r.key.created, &r.key.source, &r.key.id, &doc); err != nil {
			return err
		}
		r.job = names[r.key.source]
		if err := json.Unmarshal([]byte(doc), &r.build); err != nil {
			return fmt.Errorf("build %q of %q: %w", r.key.id, r.job, err)
		}
		list = append(list, r)
		return nil
	})
}
