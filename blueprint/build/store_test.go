package build

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
	"github.com/slipway-platform/slipway/task"
)

// A page of jobs is a stretch of an index and is not sorted, however many projects there are.
func TestJobsAreReadInTheOrderOfAnIndex(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.SQLite, task.Migrations()...) // its plans do not depend on what is stored
	for _, which := range []string{"> $1", "= $1"} {
		rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+jobsQuery(which, "TRUE"), "ci:web", 20)
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		err = store.Each(rows, func(rows *sql.Rows) error {
			var id, parent, unused int
			var step string
			err := rows.Scan(&id, &parent, &unused, &step)
			plan = append(plan, step)
			return err
		})
		if err != nil || len(plan) == 0 || which[0] == '>' && len(plan) != 1 || !strings.HasPrefix(plan[0], "SEARCH s USING INDEX task_source_name ") {
			t.Errorf("id %s: the plan is %q, %v", which, plan, err)
		}
	}
}
