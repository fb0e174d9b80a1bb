package task

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func at(minute int) time.Time {
	return time.Now().UTC().Truncate(time.Hour).Add(time.Duration(minute-3000) * time.Minute)
}

func TestBuildsOfSeveralProvidersAreOneList(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		one, two := fake.New(fake.Config{}), fake.New(fake.Config{})
		for i := range 6 {
			v := []*fake.Vendor{one, two}[i%2]
			v.Add("octo/web", slipway.Build{ID: fmt.Sprint(i), CreatedAt: at(i), Status: slipway.BuildSucceeded})
		}
		w.vendors(map[string]*fake.Vendor{"one": one, "two": two})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.await(web, 6)

		p := w.search(web, Query{Limit: 4})
		if got := fmt.Sprint(ids(p)); got != "[5 4 3 2]" {
			t.Errorf("got %s, want the newest four of both providers", got)
		}
		first := builds(p)[0]
		if first.ID != "two:5" || first.EntityRef != "component:default/web" || first.Provider != (slipway.ProviderRef{Name: "two", Type: "fake"}) {
			t.Errorf("got %+v, want id with prefix, entity and provider", first)
		}
		if !p.PageInfo.HasMore || p.PageInfo.Limit != 4 || p.PageInfo.PageNumber != 1 {
			t.Errorf("page info %+v", p.PageInfo)
		}
		rest := w.search(web, Query{Limit: 4, Cursor: p.PageInfo.NextCursor})
		if got := fmt.Sprint(ids(rest)); got != "[1 0]" || rest.PageInfo.HasMore || rest.PageInfo.NextCursor != "" {
			t.Errorf("second page %s, %+v; want the rest and an end", got, rest.PageInfo)
		}
		if got := fmt.Sprint(ids(w.search(web, Query{Limit: 4, PageNumber: 2}))); got != "[1 0]" {
			t.Errorf("page number 2: %s", got)
		}
		if got := fmt.Sprint(ids(w.search(web, Query{Ascending: true, Since: at(1), Until: at(4)}))); got != "[1 2 3]" {
			t.Errorf("oldest first between two moments: %s", got)
		}
		for _, s := range p.Sources {
			if s.State != slipway.SourceFresh || s.AsOf == nil || s.Project != "octo/web" {
				t.Errorf("source %+v, want it fresh", s)
			}
		}
	})
}

func TestFilters(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		jane := &slipway.Person{ID: "Jane-GH", Name: "Jane Doe", Email: "Jane@Example.com"}
		for i, b := range []slipway.Build{
			{Status: slipway.BuildFailed, Commit: &slipway.Commit{Branch: "main"}, TriggeredBy: jane, Pipeline: slipway.Pipeline{ID: "7", Name: "CI"}},
			{Status: slipway.BuildSucceeded, Commit: &slipway.Commit{Branch: "main"}, Pipeline: slipway.Pipeline{ID: "7", Name: "CI"}},
			{Status: slipway.BuildFailed, Commit: &slipway.Commit{Branch: "topic"}, TriggeredBy: &slipway.Person{ID: "bob"}, Pipeline: slipway.Pipeline{ID: "8", Name: "Deploy"}},
			{Status: slipway.BuildRunning, TriggeredBy: jane, Pipeline: slipway.Pipeline{ID: "8", Name: "Deploy"}},
		} {
			b.ID, b.CreatedAt = fmt.Sprint(i), at(i)
			v.Add("octo/web", b)
		}
		w.vendors(map[string]*fake.Vendor{"ci": v})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.await(web, 4)
		w.put("User", "jane", map[string]any{"profile": map[string]any{"email": "other@example.com"}}, map[string]string{fake.UserAnnotation: "jane-gh"})
		me := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane", Grants: []slipway.Grant{{Permission: "*"}}}
		eventually(t, "the account of a user", func() bool {
			p, err := w.runs.Search(t.Context(), me, web, Query{Filters: map[string][]string{"triggeredBy": {"me"}}}, nil)
			return err == nil && len(p.Items) == 2
		})

		by := func(name string, values ...string) Query { return Query{Filters: map[string][]string{name: values}} }
		both := by("branch", "main")
		both.Statuses, both.Filters["pipeline"] = []string{"failed"}, []string{"CI"}
		for _, c := range []struct {
			q    Query
			want string
		}{
			{Query{Statuses: []string{"failed"}}, "[2 0]"},
			{Query{Statuses: []string{"running", "succeeded"}}, "[3 1]"},
			{by("branch", "main"), "[1 0]"},
			{by("branch", "topic", "main"), "[2 1 0]"},
			{by("branch", "nowhere"), "[]"},
			{by("pipeline", "7"), "[1 0]"},
			{by("pipeline", "CI"), "[1 0]"},
			{by("triggeredBy", "jane-gh"), "[3 0]"},
			{by("triggeredBy", "JANE@example.com"), "[3 0]"},
			{by("triggeredBy", "jane doe"), "[3 0]"},
			{by("triggeredBy", "user:default/jane"), "[3 0]"},
			{by("triggeredBy", "user:jane"), "[3 0]"},
			{by("triggeredBy", "user:default/nobody"), "[]"},
			{both, "[0]"},
			{Query{Statuses: []string{"failed"}, Since: at(1)}, "[2]"},
		} {
			if got := fmt.Sprint(ids(w.search(web, c.q))); got != c.want {
				t.Errorf("%+v: got %s, want %s", c.q, got, c.want)
			}
			if p, err := w.runs.SearchAll(t.Context(), system, Scope{}, c.q); err != nil || fmt.Sprint(ids(p)) != c.want {
				t.Errorf("across entities, %+v: got %s, %v; want %s", c.q, ids(p), err, c.want)
			}
		}
	})
}

func TestBadQueriesAreInvalid(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		for i := range 3 {
			v.Add("octo/web", slipway.Build{CreatedAt: at(i), Status: slipway.BuildFailed})
		}
		w.vendors(map[string]*fake.Vendor{"ci": v})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		other := w.entity("other", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.await(web, 3)
		cursor := w.search(web, Query{Limit: 1}).PageInfo.NextCursor
		forged := []byte(cursor)
		forged[len(forged)/2] ^= 1
		for name, q := range map[string]Query{
			"negative limit":          {Limit: -1},
			"limit too large":         {Limit: 101},
			"negative page":           {PageNumber: -1},
			"page too deep":           {Limit: 100, PageNumber: 101},
			"page and cursor":         {PageNumber: 1, Cursor: cursor},
			"garbage cursor":          {Cursor: "garbage"},
			"empty-ish cursor":        {Cursor: "AAAA"},
			"no base64":               {Cursor: "%%%"},
			"forged cursor":           {Cursor: string(forged)},
			"cursor of another order": {Limit: 1, Cursor: cursor, Ascending: true},
			"cursor of another query": {Limit: 1, Cursor: cursor, Statuses: []string{"failed"}},
			"unknown filter":          {Filters: map[string][]string{"colour": {"red"}}},
			"unknown status":          {Statuses: []string{"fine"}},
		} {
			if _, err := w.runs.Search(t.Context(), system, web, q, nil); !errors.Is(err, slipway.Invalid) {
				t.Errorf("%s: got %v, want invalid", name, err)
			}
		}
		if _, err := w.runs.Search(t.Context(), system, other, Query{Limit: 1, Cursor: cursor}, nil); !errors.Is(err, slipway.Invalid) {
			t.Errorf("a cursor of another entity: got %v, want invalid", err)
		}
		if p := w.search(web, Query{Limit: 2, Cursor: cursor}); len(p.Items) != 2 {
			t.Errorf("a cursor with another limit: %d items, want 2", len(p.Items))
		}
	})
}

func TestRightsAreInTheSQL(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		for i, project := range []string{"octo/a", "octo/b", "octo/c"} {
			v.Add(project, slipway.Build{ID: fmt.Sprint(i), CreatedAt: at(i), Status: slipway.BuildFailed})
		}
		w.vendors(map[string]*fake.Vendor{"ci": v})
		a := w.entity("a", "team-a", map[string]string{fake.Annotation: "octo/a"})
		b := w.entity("b", "team-b", map[string]string{fake.Annotation: "octo/b"})
		c := w.entity("c", "team-a", map[string]string{fake.Annotation: "octo/c"})
		for _, ref := range []slipway.EntityRef{a, b, c} {
			w.await(ref, 1)
		}
		owner := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/ann", Owns: []string{"group:default/team-a"},
			Grants: []slipway.Grant{{Permission: "catalog.*"}, {Permission: "run.item.read", Object: ":owned"}}}
		reader := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/rob",
			Grants: []slipway.Grant{{Permission: "*", Object: "component:default/b"}}}
		nobody := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/nobody"}
		for _, x := range []struct {
			who   *slipway.Caller
			scope Scope
			want  string
		}{
			{owner, Scope{}, "[2 0]"},
			{reader, Scope{}, "[1]"},
			{nobody, Scope{}, "[]"},
			{system, Scope{Owners: []string{"group:default/team-a"}}, "[2 0]"},
			{system, Scope{Entities: []string{"Component:default/B", "component:default/c"}}, "[2 1]"},
			{system, Scope{Kinds: []string{"API"}}, "[]"},
			{owner, Scope{Owners: []string{"group:default/team-b"}}, "[]"},
		} {
			p, err := w.runs.SearchAll(t.Context(), x.who, x.scope, Query{})
			if err != nil || fmt.Sprint(ids(p)) != x.want {
				t.Errorf("%s in %+v: got %v, %v; want %s", x.who.Subject, x.scope, ids(p), err, x.want)
			}
			plan, err := w.runs.plan(x.who, "", Query{})
			if err != nil {
				t.Fatal(err)
			}
			if p, err := w.runs.itemsByTime(t.Context(), w.viewer(t.Context(), x.who), tidied(x.scope), plan); err != nil || fmt.Sprint(ids(p)) != x.want {
				t.Errorf("by time, %s in %+v: got %v, %v; want %s", x.who.Subject, x.scope, ids(p), err, x.want)
			}
		}
		if _, err := w.runs.Search(t.Context(), reader, a, Query{}, nil); !errors.Is(err, slipway.NotFound) {
			t.Errorf("an entity that the caller may not read: got %v, want not found", err)
		}
		refuse := func(Object) error { return slipway.Errorf(slipway.Forbidden, "no") }
		if _, err := w.runs.Search(t.Context(), owner, b, Query{}, refuse); !errors.Is(err, slipway.Forbidden) {
			t.Errorf("an entity whose items the caller may not see: got %v, want what allow says", err)
		}
		if _, err := w.runs.Get(t.Context(), nobody, a, "ci:0", nil); !errors.Is(err, slipway.NotFound) {
			t.Errorf("get without rights: got %v, want not found", err)
		}
		if _, err := w.runs.Get(t.Context(), system, a, "ci:1", nil); !errors.Is(err, slipway.NotFound) {
			t.Errorf("a build of another entity: got %v, want not found", err)
		}
		if item, err := w.runs.Get(t.Context(), system, a, "ci:0", nil); err != nil || item.Value.ID != "ci:0" || item.Project != "octo/a" || item.Provider.Name != "ci" {
			t.Errorf("got %+v, %v; want the build and where it comes from", item, err)
		}
	})
}

func tidied(s Scope) Scope {
	for _, list := range []*[]string{&s.Entities} {
		for i, v := range *list {
			ref, _ := slipway.ParseEntityRef(v, slipway.EntityRef{})
			(*list)[i] = ref.String()
		}
	}
	for i, k := range s.Kinds {
		s.Kinds[i] = map[string]string{"API": "api"}[k]
	}
	return s
}

func TestSearchCostsTwoQueries(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		for i := range 30 {
			v.Add("octo/web", slipway.Build{CreatedAt: at(i), Status: slipway.BuildFailed, Commit: &slipway.Commit{Branch: "main"}})
		}
		w.vendors(map[string]*fake.Vendor{"one": v, "two": v})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.await(web, 60)
		writes := 0
		w.Wait()
		w.stop()
		w.db.OnWrite = func(time.Duration, int64) { writes++ }
		q := Query{Statuses: []string{"failed", "running"}, Filters: map[string][]string{"branch": {"main"}, "triggeredBy": {"user:default/jane"}}}
		for name, search := range map[string]func() error{
			"by entity": func() error { _, err := w.runs.Search(t.Context(), system, web, Query{}, nil); return err },
			"filtered":  func() error { _, err := w.runs.Search(t.Context(), system, web, q, nil); return err },
			"across":    func() error { _, err := w.runs.SearchAll(t.Context(), system, Scope{}, q); return err },
			"get":       func() error { _, err := w.runs.Get(t.Context(), system, web, "one:1", nil); return err },
		} {
			before := w.queries.Load()
			if err := search(); err != nil {
				t.Error(name, err)
			}
			if n := w.queries.Load() - before; n > 2 {
				t.Errorf("%s cost %d queries, want at most 2", name, n)
			}
		}
		if w.Wait(); writes > 0 {
			t.Errorf("reading wrote %d times", writes)
		}
	})
}

func TestUnknownEntityAndUnservedEntity(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		list := []Provider{{Name: "ci", Type: "fake", Provider: fake.New(fake.Config{}).Provider(), Annotations: fake.Kind.Annotations}}
		if err := w.SetProviders(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		lone := w.entity("lone", "team-a", nil)
		p := w.search(lone, Query{})
		if len(p.Items) != 0 || len(p.Sources) != 1 || p.Sources[0].State != slipway.SourceNone || !strings.Contains(p.Sources[0].Error, fake.Annotation) {
			t.Errorf("got %+v, want no items and a hint", p)
		}
		ref := slipway.EntityRef{Kind: "component", Namespace: "default", Name: "ghost"}
		if _, err := w.runs.Search(t.Context(), system, ref, Query{}, nil); !errors.Is(err, slipway.NotFound) {
			t.Errorf("got %v, want not found", err)
		}
	})
}

func TestALongCheckedStretchIsCutAndContinued(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		w.vendors(map[string]*fake.Vendor{"ci": v})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		v.Add("octo/web", slipway.Build{ID: "old", CreatedAt: at(0), Status: slipway.BuildFailed, Pipeline: slipway.Pipeline{ID: "rare"}, Commit: &slipway.Commit{Branch: "main"}})
		v.Add("octo/web", slipway.Build{ID: "new", CreatedAt: at(1), Status: slipway.BuildSucceeded, Pipeline: slipway.Pipeline{ID: "often"}, Commit: &slipway.Commit{Branch: "main"}})
		w.await(web, 2)
		w.stop()
		// A history that is longer than what one search looks through, between the two.
		for _, sql := range []string{
			`INSERT INTO run_item (source_id, created, id, version, status, finished, triggered_by_id, pipeline_id, branch_id, doc)
			WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000)
			SELECT source_id, created - n, 'h' || n, version, status, finished, triggered_by_id, pipeline_id, branch_id, doc FROM run_item, n WHERE id = 'new'`,
		} {
			if _, err := w.db.Writer().ExecContext(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		q := Query{Statuses: []string{"failed"}, Filters: map[string][]string{"branch": {"main"}}}
		for name, search := range map[string]func(Query) (Page, error){
			"by entity": func(q Query) (Page, error) { return w.runs.Search(t.Context(), system, web, q, nil) },
			"by time": func(q Query) (Page, error) {
				q.Statuses, q.Filters = nil, map[string][]string{"pipeline": {"rare"}}
				p, err := w.runs.plan(system, "x", q)
				if err != nil {
					return Page{}, err
				}
				return w.runs.itemsByTime(t.Context(), w.viewer(t.Context(), system), Scope{}, p)
			},
		} {
			for _, ascending := range []bool{false, true} {
				var found []string
				pages := 0
				for q := (Query{Statuses: q.Statuses, Filters: q.Filters, Ascending: ascending}); ; pages++ {
					p, err := search(q)
					if err != nil {
						t.Fatal(name, err)
					}
					found = append(found, ids(p)...)
					if !p.PageInfo.HasMore {
						break
					}
					q.Cursor = p.PageInfo.NextCursor
				}
				if !slices.Equal(found, []string{"old"}) || pages < 2 || pages > 3 {
					t.Errorf("%s, ascending %v: found %q after %d further pages, want the one at the far end in two or three", name, ascending, found, pages)
				}
			}
		}
	})
}

func TestNoSearchScansATable(t *testing.T) {
	t.Parallel()
	w := open(t, storetest.Open(t, store.SQLite, migrations()...)) // its plans do not depend on what is stored
	v := fake.New(fake.Config{})
	v.Add("octo/web", slipway.Build{CreatedAt: at(1), Commit: &slipway.Commit{Branch: "main"}, TriggeredBy: &slipway.Person{ID: "jane"}})
	w.vendors(map[string]*fake.Vendor{"one": v, "two": v})
	web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
	w.await(web, 2)
	if _, err := w.db.Writer().ExecContext(t.Context(), `ANALYZE`); err != nil { // statistics can mislead
		t.Fatal(err)
	}
	first := w.search(web, Query{Limit: 1}).PageInfo.NextCursor
	plans := 0
	check := func(query string, args []any) {
		rows, err := w.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Error(err)
			return
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				return err
			}
			for _, table := range []string{"i", "s", "b", "a", "c", "run_item"} {
				// Through an index in the order of the list, up to a limit, is how one goes back in time over all sources.
				if strings.HasPrefix(step, "SCAN "+table) && (len(step) == 5+len(table) || step[5+len(table)] == ' ') && !strings.Contains(step, "run_item_created") {
					t.Errorf("%s\nin %s", step, query)
				}
			}
			plans++
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	w.read = counting{Querier: w.db, n: &w.queries, seen: check}
	by := func(values ...string) map[string][]string {
		f := map[string][]string{}
		for i := 0; i < len(values); i += 2 {
			f[values[i]] = append(f[values[i]], values[i+1])
		}
		return f
	}
	for _, q := range []Query{
		{}, {Ascending: true}, {Limit: 1, Cursor: first}, {PageNumber: 3}, {Since: at(0), Until: at(9)}, {Statuses: []string{"running", "failed"}},
		{Filters: by("branch", "main", "branch", "topic")}, {Filters: by("triggeredBy", "user:default/jane")},
		{Filters: by("branch", "main", "triggeredBy", "jane"), Statuses: []string{"running"}, Since: at(0)},
	} {
		w.search(web, q)
		if q.Cursor != "" {
			continue
		}
		if _, err := w.runs.SearchAll(t.Context(), system, Scope{Owners: []string{"group:default/team-a"}}, q); err != nil {
			t.Error(err)
		}
		p, err := w.runs.plan(system, "", q)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.runs.itemsByTime(t.Context(), w.viewer(t.Context(), system), Scope{}, p); err != nil {
			t.Error(err)
		}
	}
	if _, err := w.runs.Get(t.Context(), system, web, "one:1", nil); err != nil {
		t.Error(err)
	}
	if plans < 50 {
		t.Errorf("only %d steps were looked at", plans)
	}
}

// With thousands of projects, the bindings of one entity cost no step for each of them.
func TestBindingsOfAnEntityAreFoundByIt(t *testing.T) {
	t.Parallel()
	w := open(t, storetest.Open(t, store.SQLite, migrations()...))
	var steps []string
	read := counting{Querier: w.db, n: &w.queries, seen: func(query string, args []any) {
		rows, err := w.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
		if err == nil {
			err = store.Each(rows, func(rows *sql.Rows) error {
				var id, parent, unused int
				var step string
				err := rows.Scan(&id, &parent, &unused, &step)
				steps = append(steps, step)
				return err
			})
		}
		if err != nil {
			t.Error(err)
		}
	}}
	if _, err := w.runs.bindings(t.Context(), read, []int64{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 2 || !strings.HasPrefix(steps[0], "SEARCH b ") || !strings.HasPrefix(steps[1], "SEARCH s USING INTEGER PRIMARY KEY") {
		t.Errorf("the plan is %q, want the bindings first and then their sources", steps)
	}
}
