package entity_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// naive is the plain meaning of filters, against which the planner is tested.
type naive struct {
	ref    string
	owner  string
	fields map[string][]string
}

func newNaive(e *slipway.Entity) naive {
	n := naive{ref: e.Ref().String(), owner: e.Owner(), fields: map[string][]string{
		"kind": {strings.ToLower(e.Kind)}, "metadata.name": {strings.ToLower(e.Metadata.Name)}, "metadata.namespace": {e.Ref().Namespace},
	}}
	b, _ := json.Marshal(e)
	var tree map[string]any
	_ = json.Unmarshal(b, &tree)
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(path+"."+k, x)
			}
		case []any:
			for _, x := range v {
				walk(path, x)
				if s, ok := x.(string); ok {
					walk(path+"."+s, true)
				}
			}
		default:
			key := strings.ToLower(strings.TrimPrefix(path, "."))
			n.fields[key] = append(n.fields[key], strings.ToLower(fmt.Sprint(v)))
		}
	}
	walk("", tree)
	return n
}

func (n naive) has(key string) bool {
	for k := range n.fields {
		if k == key || strings.HasPrefix(k, key+".") {
			return true
		}
	}
	return false
}

func (n naive) holds(p *entity.Predicate) bool {
	switch {
	case p.Is != nil:
		return n.matches([][]entity.Condition{{*p.Is}})
	case p.Prefix != nil:
		return slices.ContainsFunc(n.fields[strings.ToLower(p.Prefix.Key)], func(v string) bool { return strings.HasPrefix(v, strings.ToLower(p.Prefix.Text)) })
	case p.Not != nil:
		return !n.holds(p.Not)
	case p.Any != nil:
		return slices.ContainsFunc(p.Any, func(q entity.Predicate) bool { return n.holds(&q) })
	}
	return !slices.ContainsFunc(p.All, func(q entity.Predicate) bool { return !n.holds(&q) })
}

func (n naive) contains(t *entity.Text) bool {
	fields := t.Fields
	if len(fields) == 0 {
		fields = []string{"metadata.name", "metadata.title"}
	}
	return t.Term == "" || slices.ContainsFunc(fields, func(f string) bool {
		return slices.ContainsFunc(n.fields[strings.ToLower(f)], func(v string) bool { return strings.Contains(v, strings.ToLower(t.Term)) })
	})
}

func (n naive) matches(filters [][]entity.Condition) bool {
	if len(filters) == 0 {
		return true
	}
	return slices.ContainsFunc(filters, func(set []entity.Condition) bool {
		wanted := map[string][]string{}
		for _, c := range set {
			key := strings.ToLower(c.Key)
			wanted[key] = append(wanted[key], c.Values...)
		}
		for key, values := range wanted {
			have := n.fields[key]
			if !n.has(key) || len(values) > 0 && !slices.ContainsFunc(values, func(v string) bool { return slices.Contains(have, strings.ToLower(v)) }) {
				return false
			}
		}
		return true
	})
}

// texts are the values of a field, each once.
func (n naive) texts(key string) []string {
	return slices.Compact(slices.Sorted(slices.Values(n.fields[strings.ToLower(key)])))
}

func (n naive) value(key string) (string, bool) {
	v := n.fields[strings.ToLower(key)]
	if len(v) == 0 {
		return "", false
	}
	return slices.Min(v), true
}

func TestFiltersMeanWhatTheyMeanOnBothEngines(t *testing.T) {
	t.Parallel()
	lite, pg := storetest.Open(t, store.SQLite, schema...), storetest.Open(t, store.Postgres, schema...)
	stores := map[string]*entity.Store{"sqlite": entity.New(lite, time.Now), "postgres": entity.New(pg, time.Now),
		"sqlite, walking": entity.Walk(entity.New(lite, time.Now)), "postgres, walking": entity.Walk(entity.New(pg, time.Now))}

	// One catalog, small alphabets: so that conditions meet.
	var all []naive
	var entities []*slipway.Entity
	for i := range 240 {
		e := newEntity([]string{"Component", "API", "Group"}[i%3], fmt.Sprintf("Name-%d", i/2), nil)
		e.Metadata.Namespace = []string{"", "other"}[i/2%2]
		e.Spec = spec{"owner": []string{"team-a", "Team-B", "user:jane"}[i/5%3], "port": i % 4, "flag": i%5 == 0}
		if i%4 == 1 {
			e.Metadata.Title = fmt.Sprintf("Title %d of NAME", i%9)
		}
		if i%4 > 0 {
			e.Spec["type"] = []string{"", "Service", "library", "service"}[i%4]
		}
		if i%3 > 0 {
			e.Spec["lifecycle"] = []string{"production", "experimental"}[i%2]
			e.Metadata.Tags = []string{"java", fmt.Sprint("t", i%6)}
		}
		if i%6 > 0 {
			e.Metadata.Labels = map[string]string{"team": fmt.Sprint("t", i%6), "Env": []string{"Prod", "", "dev"}[i%3]}
		}
		e.Spec["nested"] = spec{"a": spec{"b": i % 7}, "list": []any{"x", i % 2, spec{"c": fmt.Sprint(i % 3)}}}
		entities = append(entities, e)
	}
	seen := map[string]bool{}
	entities = slices.DeleteFunc(entities, func(e *slipway.Entity) bool {
		twice := seen[e.Ref().String()]
		seen[e.Ref().String()] = true
		return twice
	})
	for _, e := range entities {
		all = append(all, newNaive(e))
	}
	for _, name := range []string{"sqlite", "postgres"} {
		if r := putAll(t, stores[name], "one", entities...); len(r.Created) != len(entities) {
			t.Fatalf("%s: %+v", name, r)
		}
	}

	faceted := []string{"kind", "spec.type", "metadata.tags", "metadata.labels.Env", "spec.nested.list", "missing"}
	keys := []string{"kind", "KIND", "metadata.name", "metadata.namespace", "spec.type", "spec.lifecycle", "spec.owner", "spec.port", "spec.flag",
		"metadata.tags", "metadata.tags.java", "metadata.labels.team", "metadata.labels.Env", "spec.nested.a.b", "spec.nested.list", "spec.nested.list.x", "spec.nested.list.c", "spec", "spec.nested", "metadata", "metadata.labels", "missing"}
	values := []string{"component", "Component", "api", "group", "name-3", "NAME-7", "default", "other", "service", "Library", "production", "team-a", "team-b",
		"0", "1", "2", "true", "false", "java", "t1", "t5", "prod", "", "x", "no such"}
	condition := rapid.Custom(func(t *rapid.T) entity.Condition {
		return entity.Condition{Key: rapid.SampledFrom(keys).Draw(t, "key"), Values: rapid.SliceOfN(rapid.SampledFrom(values), 0, 3).Draw(t, "values")}
	})
	var predicate func(depth int) *rapid.Generator[entity.Predicate]
	predicate = func(depth int) *rapid.Generator[entity.Predicate] {
		return rapid.Custom(func(t *rapid.T) entity.Predicate {
			form := rapid.IntRange(0, 4).Draw(t, "form")
			if depth == 0 {
				form = min(form, 1)
			}
			switch form {
			case 0:
				c := condition.Draw(t, "is")
				return entity.Predicate{Is: &c}
			case 1:
				return entity.Predicate{Prefix: &entity.Prefix{Key: rapid.SampledFrom(keys).Draw(t, "key"), Text: rapid.SampledFrom([]string{"", "S", "pro", "te", "name-1", "%", "_"}).Draw(t, "prefix")}}
			case 2:
				p := predicate(depth-1).Draw(t, "not")
				return entity.Predicate{Not: &p}
			case 3:
				return entity.Predicate{Any: rapid.SliceOfN(predicate(depth-1), 0, 3).Draw(t, "any")}
			}
			return entity.Predicate{All: rapid.SliceOfN(predicate(depth-1), 0, 3).Draw(t, "all")}
		})
	}
	texts := rapid.Custom(func(t *rapid.T) *entity.Text {
		return &entity.Text{Term: rapid.SampledFrom([]string{"", "ame-1", "NAME", "title 3", "t1", "%", "_", `\`, "prod"}).Draw(t, "term"),
			Fields: rapid.SliceOfN(rapid.SampledFrom([]string{"metadata.name", "metadata.title", "spec.lifecycle", "metadata.labels.team", "spec.nested.list", "missing"}), 0, 3).Draw(t, "fields")}
	})
	orders := rapid.Custom(func(t *rapid.T) entity.Order {
		return entity.Order{Key: rapid.SampledFrom([]string{"metadata.name", "kind", "metadata.title", "spec.type", "spec.lifecycle", "metadata.labels.team", "spec.port", "missing", "metadata.tags"}).Draw(t, "order"), Desc: rapid.Bool().Draw(t, "desc")}
	})
	callers := rapid.SampledFrom([]*slipway.Caller{system, system,
		{Owns: []string{"group:default/team-a", "user:default/jane"}, Grants: []slipway.Grant{{Permission: "catalog.*", Object: ":owned"}}},
		{Grants: []slipway.Grant{{Permission: "*", Object: "component:*"}, {Permission: "*", Object: "api:default/name-3"}}}})

	rapid.Check(t, func(t *rapid.T) {
		q := entity.Query{
			Filters: rapid.SliceOfN(rapid.SliceOfN(condition, 1, 4), 0, 3).Draw(t, "filters"),
			Order:   rapid.SliceOfN(orders, 0, 2).Draw(t, "order"),
			Limit:   rapid.SampledFrom([]int{1, 7, 100, 1000}).Draw(t, "limit"),
		}
		if rapid.Bool().Draw(t, "with a predicate") {
			p := predicate(2).Draw(t, "where")
			q.Where = &p
		}
		if rapid.IntRange(0, 3).Draw(t, "with a text") == 0 {
			q.Text = texts.Draw(t, "text")
		}
		caller := callers.Draw(t, "caller")

		var want []naive
		for _, n := range all {
			visible := caller == system || slices.Contains(caller.Owns, n.owner) && len(caller.Owns) > 0 ||
				len(caller.Owns) == 0 && (strings.HasPrefix(n.ref, "component:") || n.ref == "api:default/name-3")
			if visible && n.matches(q.Filters) && (q.Where == nil || n.holds(q.Where)) && (q.Text == nil || n.contains(q.Text)) {
				want = append(want, n)
			}
		}
		slices.SortFunc(want, func(a, b naive) int {
			for _, o := range q.Order {
				x, isX := a.value(o.Key)
				y, isY := b.value(o.Key)
				switch {
				case isX != isY && isX:
					return -1
				case isX != isY:
					return 1
				case x != y && o.Desc:
					return cmp.Compare(y, x)
				case x != y:
					return cmp.Compare(x, y)
				}
			}
			return cmp.Compare(a.ref, b.ref)
		})
		var wantRefs []string
		for _, n := range want {
			wantRefs = append(wantRefs, n.ref)
		}
		for name, s := range stores {
			var got []string
			page := q
			for {
				rows, next, err := s.List(t.Context(), caller, page)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for _, r := range rows {
					got = append(got, r.Ref.String())
				}
				if next == nil {
					break
				}
				page.After = next
			}
			if diff := gocmp.Diff(wantRefs, got); diff != "" {
				t.Fatalf("%s: %s", name, diff)
			}
			// Back from the last page to the first: the same pages.
			if page.After != nil {
				back := page
				back.After, back.Before = nil, page.After
				p, err := s.Page(t.Context(), caller, back)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				var before []string
				for _, r := range p.Rows {
					before = append(before, r.Ref.String())
				}
				end := slices.Index(wantRefs, page.After.Ref)
				if diff := gocmp.Diff(wantRefs[max(0, end-q.Limit):end], before, cmpopts.EquateEmpty()); diff != "" || (p.Previous != nil) != (end > q.Limit) && end > 0 {
					t.Fatalf("%s: back from %s, more %v: %s", name, page.After.Ref, p.Previous != nil, diff)
				}
			}
			if n, err := s.Count(t.Context(), caller, q); err != nil || n != int64(len(want)) {
				t.Fatalf("%s: count %d, %v; want %d", name, n, err, len(want))
			}
			faceted := rapid.SliceOfN(rapid.SampledFrom(faceted), 1, 2).Draw(t, "facets")
			facets, err := s.Facets(t.Context(), caller, faceted, q)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, key := range faceted {
				counts := map[string]int64{}
				for _, n := range want {
					for _, v := range n.texts(key) {
						counts[v]++
					}
				}
				got := map[string]int64{}
				for _, f := range facets[key] {
					got[strings.ToLower(f.Value)] += f.Count
				}
				if diff := gocmp.Diff(counts, got, cmpopts.EquateEmpty()); diff != "" {
					t.Fatalf("%s: facet %s: %s", name, key, diff)
				}
			}
		}
	})
}

func TestPagingIsStableWhileTheCatalogGrows(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		for i := range 20 {
			putAll(t, s, "one", newEntity("Component", fmt.Sprintf("m%02d", i), nil))
		}
		q := entity.Query{Limit: 6}
		var got []string
		for i := 0; ; i++ {
			rows, next, err := s.List(t.Context(), system, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				got = append(got, r.Ref.Name)
			}
			putAll(t, s, "one", newEntity("Component", fmt.Sprintf("a%02d", i), nil)) // before the page
			if next == nil {
				break
			}
			b, _ := json.Marshal(next) // what a cursor carries
			q.After = new(entity.Mark)
			if err := json.Unmarshal(b, q.After); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) != 20 || got[0] != "m00" || got[19] != "m19" {
			t.Errorf("got %v; want each of the 20 once", got)
		}
		rows, _, err := s.List(t.Context(), system, entity.Query{Limit: 2, Offset: 22})
		if err != nil || len(rows) != 2 || rows[1].Ref.Name != "m19" {
			t.Errorf("offset: %v, %v", rows, err)
		}
		for _, q := range []entity.Query{{Limit: 0}, {Limit: 1001}, {Limit: 1, Offset: -1}, {Limit: 1, After: &entity.Mark{Values: []*string{nil}}}, {Limit: 1, Order: []entity.Order{{Key: "\x00"}}}} {
			if _, _, err := s.List(t.Context(), system, q); !errors.Is(err, slipway.Invalid) {
				t.Errorf("%+v: got %v, want invalid", q, err)
			}
		}
	})
}

func TestAQueryHasSoManyConditions(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		putAll(t, s, "one", newEntity("Component", "a", nil))
		sets := func(n, each int) (filters [][]entity.Condition, all []entity.Predicate) {
			for i := range n {
				var set []entity.Condition
				for j := range each {
					c := entity.Condition{Key: fmt.Sprintf("spec.x%d-%d", i, j), Values: []string{"y"}}
					set, all = append(set, c), append(all, entity.Predicate{Is: &c})
				}
				filters = append(filters, set)
			}
			return filters, all
		}
		for each, want := range map[int]error{10: nil, 11: slipway.Invalid} {
			filters, all := sets(10, each)
			for _, q := range []entity.Query{{Filters: filters, Limit: 10}, {Where: &entity.Predicate{All: all}, Limit: 10}, {Where: &entity.Predicate{Any: all}, Limit: 10}} {
				_, _, err := s.List(t.Context(), system, q)
				if !errors.Is(err, want) {
					t.Errorf("%d conditions: got %v, want %v", 10*each, err, want)
				}
			}
		}
	})
}

func TestAPageOfLargeDocumentsEndsEarly(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		text := strings.Repeat("x", entity.MaxDocument-1000)
		var refs []slipway.EntityRef
		for i := range 70 {
			e := newEntity("Component", fmt.Sprintf("c%02d", i), spec{"text": text})
			putAll(t, s, "one", e)
			refs = append(refs, e.Ref().Lower())
		}
		q := entity.Query{Limit: 1000}
		var names, back []string
		for {
			p, err := s.Page(t.Context(), system, q)
			if err != nil || len(p.Rows) == 0 || len(p.Rows) > 65 {
				t.Fatalf("got %d rows, %v", len(p.Rows), err)
			}
			for _, r := range p.Rows {
				names = append(names, r.Ref.Name)
			}
			if p.Next == nil {
				q = entity.Query{Limit: 1000, Before: &entity.Mark{Ref: "d"}}
				break
			}
			q.After = p.Next
		}
		for q.Before != nil {
			p, err := s.Page(t.Context(), system, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range slices.Backward(p.Rows) {
				back = append(back, r.Ref.Name)
			}
			q.Before = p.Previous
		}
		slices.Reverse(back)
		if len(names) != 70 || !slices.IsSorted(names) || !slices.Equal(names, back) {
			t.Errorf("forwards %v, backwards %v; want all 70 in order", names, back)
		}
		if found, err := s.ByRefs(t.Context(), db, system, refs); err != nil || len(found) != 70 {
			t.Errorf("got %d, %v", len(found), err)
		}
	})
}

func TestRelationsWithWhatTheCallerMayNotReadAreLeftOut(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		putAll(t, s, "one",
			newEntity("Component", "mine", spec{"owner": "team-a", "dependsOn": []any{"resource:gone", "component:ours"}}),
			newEntity("Component", "ours", spec{"owner": "team-a"}),
			newEntity("Component", "nobodys", spec{"dependsOn": []any{"component:mine"}}),
			newEntity("Component", "secret", spec{"owner": "team-b", "dependsOn": []any{"component:mine"}}))
		jane := &slipway.Caller{Kind: slipway.CallerUser, Owns: []string{"group:default/team-a"}, Grants: []slipway.Grant{{Permission: entity.ReadPermission, Object: slipway.Owned}}}
		mine := ref(t, "component:default/mine")
		for name, tt := range map[string]struct {
			caller *slipway.Caller
			want   string
		}{
			"one who reads what it owns": {jane, "component:default/ours group:default/team-a resource:default/gone"},
			"one who reads all":          {system, "component:default/nobodys component:default/ours component:default/secret group:default/team-a resource:default/gone"},
		} {
			refs := func(r entity.Row, err error) string {
				var e slipway.Entity
				if err != nil {
					return err.Error()
				}
				if err := json.Unmarshal(r.JSON, &e); err != nil {
					return err.Error()
				}
				var list []string
				for _, r := range e.Relations {
					list = append(list, r.TargetRef)
				}
				slices.Sort(list)
				return strings.Join(list, " ")
			}
			got := map[string]string{"Get": refs(s.Get(t.Context(), db, tt.caller, mine))}
			byRefs, err := s.ByRefs(t.Context(), db, tt.caller, []slipway.EntityRef{mine})
			got["ByRefs"] = refs(byRefs[mine.String()], err)
			q := entity.Query{Limit: 10, Filters: [][]entity.Condition{{{Key: "metadata.name", Values: []string{"mine"}}}}}
			among, err := s.Among(t.Context(), tt.caller, []slipway.EntityRef{mine}, q)
			got["Among"] = refs(among[mine.String()], err)
			rows, _, err := s.List(t.Context(), tt.caller, q)
			got["List"] = refs(append(rows, entity.Row{})[0], err)
			var facet []string
			for _, key := range []string{"relations.dependsOn", "relations.dependencyOf", "relations.ownedBy"} {
				facets, err := s.Facets(t.Context(), tt.caller, []string{key}, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range facets[key] {
					facet = append(facet, f.Value)
				}
			}
			for target, hidden := range map[string]bool{"component:default/nobodys": true, "component:default/secret": true, "component:default/ours": false} {
				for _, values := range [][]string{{target}, {target, "component:default/none"}} {
					rows, _, err := s.List(t.Context(), tt.caller, entity.Query{Limit: 10, Filters: [][]entity.Condition{
						{{Key: "relations.dependencyOf", Values: values}}, {{Key: "relations.dependsOn", Values: values}, {Key: "spec.owner"}}}})
					if found := len(rows) > 0; err != nil || found != (!hidden || tt.caller == system) {
						t.Errorf("%s, filter by %v: found %v, %v", name, values, found, err)
					}
				}
				part := strings.TrimSuffix(target, target[len(target)-2:])
				for way, q := range map[string]entity.Query{
					"prefix": {Limit: 10, Where: &entity.Predicate{Any: []entity.Predicate{{Prefix: &entity.Prefix{Key: "relations.dependencyOf", Text: part}}, {Prefix: &entity.Prefix{Key: "relations.dependsOn", Text: part}}}}},
					"text":   {Limit: 10, Text: &entity.Text{Term: part[4:], Fields: []string{"relations.dependencyOf", "relations.dependsOn"}}},
				} {
					rows, _, err := s.List(t.Context(), tt.caller, q)
					if found := len(rows) > 0; err != nil || found != (!hidden || tt.caller == system) {
						t.Errorf("%s, by %s of %s: found %v, %v", name, way, target, found, err)
					}
				}
			}
			slices.Sort(facet)
			got["Facets"] = strings.Join(facet, " ")
			for way, refs := range got {
				if refs != tt.want {
					t.Errorf("%s, %s: got %q, want %q", name, way, refs, tt.want)
				}
			}
		}
	})
}

func TestAListAskedForAgainCostsOneRoundTripAndMissesNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		now := time.Now()
		s := entity.New(db, func() time.Time { return now })
		queries := 0
		entity.Listen(s, func(string, []any) { queries++ })
		list := func(label string) (names []string, trips int) {
			t.Helper()
			queries = 0
			rows, _, err := s.List(t.Context(), system, entity.Query{Limit: 10, Filters: [][]entity.Condition{{{Key: "kind", Values: []string{"Component"}}, {Key: "metadata.labels.env", Values: []string{label}}}}})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				names = append(names, r.Ref.Name)
			}
			return names, queries
		}
		expect := func(label string, trips int, want ...string) {
			t.Helper()
			if names, n := list(label); n != trips || !slices.Equal(names, want) {
				t.Errorf("%s: got %v in %d queries, want %v in %d", label, names, n, want, trips)
			}
		}
		labelled := func(name, env string) *slipway.Entity {
			e := newEntity("Component", name, nil)
			e.Metadata.Labels = map[string]string{"env": env}
			return e
		}
		putAll(t, s, "one", labelled("a", "prod"))
		expect("prod", 2, "a")
		expect("prod", 1, "a")
		putAll(t, s, "one", labelled("b", "prod")) // by a term that is known
		expect("prod", 1, "a", "b")
		expect("test", 1) // what nobody has is asked for every time
		putAll(t, s, "one", labelled("c", "test"))
		expect("test", 2, "c")
		now = now.Add(time.Minute)
		expect("prod", 2, "a", "b")
	})
}
