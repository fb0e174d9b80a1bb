package entity_test

import (
	"database/sql"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/entity/entitytest"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// scanned finds the steps of a plan that read a whole table or index, or sort.
var scanned = map[store.Engine]*regexp.Regexp{
	store.SQLite:   regexp.MustCompile(`^SCAN (e|n|r|t|et|entity|relation|term|entity_term)\b|USE TEMP B-TREE`),
	store.Postgres: regexp.MustCompile(`Seq Scan on|^Sort`),
}

// TestHotQueriesDoNotScan shows the plans of the hottest queries, with -v, and fails when one reads more than its page. BENCH_ENTITIES is how many
// entities there are, 2,000 by default.
func TestHotQueriesDoNotScan(t *testing.T) {
	t.Parallel()
	n, err := strconv.Atoi(os.Getenv("BENCH_ENTITIES"))
	if err != nil {
		n = 2000
	}
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		for part := range slices.Chunk(slices.Collect(entitytest.Catalog(n)), 1000) {
			if _, err := s.PutAll(t.Context(), "one", part); err != nil {
				t.Fatal(err)
			}
		}
		if db.Engine() == store.Postgres {
			if _, err := db.Writer().ExecContext(t.Context(), `VACUUM ANALYZE`); err != nil {
				t.Fatal(err)
			}
		}
		plans := 0
		entity.Listen(entity.Walk(s), func(query string, args []any) {
			plans++
			t.Logf("%s", strings.Join(strings.Fields(query), " "))
			for _, step := range plan(t, db, query, args) {
				t.Logf("    %s", step)
				if scanned[db.Engine()].MatchString(strings.TrimLeft(step, " ->")) {
					t.Errorf("%s\nin %s", step, query)
				}
			}
		})
		far := n / 2 / 100 * 100 // the place of a group; components stand at the end of each hundred
		name := entitytest.Name(far + 99)
		kind, service := entity.Condition{Key: "kind", Values: []string{"Component"}}, entity.Condition{Key: "spec.type", Values: []string{"service"}}
		production := entity.Condition{Key: "metadata.labels.env", Values: []string{"prod"}}
		text := &entity.Text{Term: "billing", Fields: []string{"metadata.name", "metadata.title"}}
		order := []entity.Order{{Key: "metadata.name"}}
		mark := &entity.Mark{Values: []*string{&name}, Ref: "component:default/" + name}
		for what, q := range map[string]entity.Query{
			"list of a kind and type":             {Filters: [][]entity.Condition{{kind, service}}},
			"list of a kind with a label":         {Filters: [][]entity.Condition{{kind, production}}},
			"a page far into a list":              {Filters: [][]entity.Condition{{kind}}, After: &entity.Mark{Ref: mark.Ref}},
			"by query, with text and order":       {Filters: [][]entity.Condition{{kind}}, Text: text, Order: order},
			"by query, far into it":               {Filters: [][]entity.Condition{{kind}}, Text: text, Order: order, After: mark},
			"by query, back from far into it":     {Filters: [][]entity.Condition{{kind}}, Text: text, Order: order, Before: mark},
			"by query, of a type, with the order": {Filters: [][]entity.Condition{{kind, service}}, Order: order},
			"by query, of all kinds, by name":     {Order: order, After: mark},
		} {
			q.Limit = 20
			t.Log(what)
			if _, err := s.Page(t.Context(), system, q); err != nil {
				t.Error(err)
			}
		}
		var refs []slipway.EntityRef
		for i := range 100 {
			refs = append(refs, slipway.EntityRef{Kind: "component", Namespace: "default", Name: entitytest.Name(i*n/100/100*100 + 42 + i%58)})
		}
		t.Log("by name")
		if _, err := s.Get(t.Context(), entity.Reader(s), system, refs[0]); err != nil {
			t.Error(err)
		}
		t.Log("by refs")
		if _, err := s.Among(t.Context(), system, refs, entity.Query{}); err != nil {
			t.Error(err)
		}
		t.Log("what takes some entities of a source away")
		some := []any{"one"}
		for _, r := range refs[:10] {
			some = append(some, r.String())
		}
		for _, step := range plan(t, db, `SELECT id FROM entity WHERE `+entity.OfSource+`($2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ORDER BY ref`, some) {
			if t.Logf("    %s", step); strings.Contains(step, "entity_source") || strings.Contains(strings.ToUpper(step), "SEQ SCAN") || strings.Contains(step, "SCAN ") {
				t.Errorf("%s: it walks through all that the source brings", step)
			}
		}
		if plans < 10 {
			t.Errorf("only %d queries were looked at", plans)
		}
	})
}

// plan is how an engine goes about a query, step by step.
func plan(t *testing.T, db *store.DB, query string, args []any) []string {
	t.Helper()
	explain := "EXPLAIN QUERY PLAN "
	if db.Engine() == store.Postgres {
		explain = "EXPLAIN (COSTS OFF) "
	}
	rows, err := db.QueryContext(t.Context(), explain+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	depth := map[int]int{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var step string
		if db.Engine() == store.Postgres {
			err := rows.Scan(&step)
			steps = append(steps, step)
			return err
		}
		var id, parent, unused int
		err := rows.Scan(&id, &parent, &unused, &step)
		depth[id] = depth[parent] + 1
		steps = append(steps, strings.Repeat("  ", depth[parent])+step)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return steps
}
