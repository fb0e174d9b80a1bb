package entity_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

var schema = []store.Migrations{store.RevisionMigrations, entity.Migrations}

var system = &slipway.Caller{Kind: slipway.CallerSystem}

type spec = map[string]any

func newEntity(kind, name string, s spec) *slipway.Entity {
	return &slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: kind, Metadata: slipway.EntityMetadata{Name: name}, Spec: s}
}

func ref(t testing.TB, s string) slipway.EntityRef {
	t.Helper()
	r, err := slipway.ParseEntityRef(s, slipway.EntityRef{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// announced collects what a Store announces.
type announced struct {
	mu   sync.Mutex
	text []string
}

func (a *announced) hear(_ context.Context, _ *store.Tx, changes []entity.Change) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range changes {
		a.text = append(a.text, string(c.Action)+" "+c.Ref.String())
	}
	return nil
}

func (a *announced) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := a.text
	a.text = nil
	return text
}

func putAll(t testing.TB, s *entity.Store, source string, entities ...*slipway.Entity) entity.PutResult {
	t.Helper()
	result, err := s.PutAll(t.Context(), source, entities)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func refs(list []slipway.EntityRef) []string {
	var s []string
	for _, r := range list {
		s = append(s, r.String())
	}
	return s
}

func TestAnEntityIsStoredAsItsSourceWroteIt(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
		s := entity.New(db, func() time.Time { return now })
		var web slipway.Entity
		err := json.Unmarshal([]byte(`{"apiVersion":"backstage.io/v1alpha1","kind":"Component",
			"metadata":{"name":"Web.Shop","annotations":{"slipway.dev/local-repository":"https://git.example.com/Web <&>.git"},"tags":["java"],"extra":{"deep":[1,2.5,null]}},
			"spec":{"type":"Service","owner":"Team-A","system":"shop"}}`), &web)
		if err != nil {
			t.Fatal(err)
		}
		putAll(t, s, "location:1", &web)
		got, err := s.Get(t.Context(), db, system, ref(t, "component:web.shop"))
		if err != nil {
			t.Fatal(err)
		}
		if got.UID == "" || got.ETag == "" || got.ID == 0 {
			t.Errorf("got %+v; want id, uid and etag set", got)
		}
		want := entity.Row{ID: got.ID, UID: got.UID, ETag: got.ETag, JSON: got.JSON, UpdatedAt: now,
			Ref: ref(t, "component:default/web.shop"), Owner: "group:default/team-a", System: "system:default/shop", Source: "location:1"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		var doc, wantDoc any
		if err := json.Unmarshal(got.JSON, &doc); err != nil {
			t.Fatal(err)
		}
		_ = json.Unmarshal(fmt.Appendf(nil, `{"apiVersion":"backstage.io/v1alpha1","kind":"Component",
			"metadata":{"uid":%q,"etag":%q,"name":"Web.Shop","namespace":"default","annotations":{"slipway.dev/local-repository":"https://git.example.com/Web <&>.git"},"tags":["java"],"extra":{"deep":[1,2.5,null]}},
			"spec":{"type":"Service","owner":"Team-A","system":"shop"},
			"relations":[{"type":"ownedBy","targetRef":"group:default/team-a"},{"type":"partOf","targetRef":"system:default/shop"}]}`, got.UID, got.ETag), &wantDoc)
		if diff := cmp.Diff(wantDoc, doc); diff != "" {
			t.Error(diff)
		}
		if web.Metadata.UID != "" || web.Metadata.Namespace != "" {
			t.Errorf("Put changed the entity that it was given: %+v", web.Metadata)
		}
		byUID, err := s.ByUID(t.Context(), db, system, got.UID)
		if err != nil || byUID.ID != got.ID {
			t.Errorf("by uid: got %v, %v", byUID.Ref, err)
		}
	})
}

func TestOnlyWhatChangedIsWritten(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		var heard announced
		s.Announce = heard.hear
		s.Revisions = store.NewRevisions(db, nil)
		bumps := 0
		s.Revisions.Watch(entity.Revision, func() { bumps++ })

		a, b := newEntity("Component", "a", spec{"type": "service", "tags": []any{"x", "y"}}), newEntity("Component", "b", nil)
		r := putAll(t, s, "one", a, b)
		if diff := cmp.Diff([]string{"created component:default/a", "created component:default/b"}, heard.take()); diff != "" || len(r.Created) != 2 {
			t.Error(diff, r)
		}
		before, _ := s.Get(t.Context(), db, system, ref(t, "a"))

		writes := 0
		db.OnWrite = func(time.Duration, int64) { writes++ }
		r = putAll(t, s, "one", a, b)
		if writes != 0 || r.Unchanged != 2 || len(heard.take()) > 0 {
			t.Errorf("putting the same again: %d write transactions, %+v; want none", writes, r)
		}

		a.Spec = spec{"type": "library", "tags": []any{"y", "z"}}
		r = putAll(t, s, "one", a, b)
		if diff := cmp.Diff([]string{"updated component:default/a"}, heard.take()); diff != "" || r.Unchanged != 1 {
			t.Error(diff, r)
		}
		after, _ := s.Get(t.Context(), db, system, ref(t, "a"))
		if after.UID != before.UID || after.ID != before.ID || after.ETag == before.ETag {
			t.Errorf("before %+v, after %+v; want the same uid and a new etag", before, after)
		}
		for filter, want := range map[string]int{"spec.tags=x": 0, "spec.tags=y": 1, "spec.tags=z": 1, "spec.type=service": 0, "spec.type=library": 1} {
			if got := len(search(t, s, system, filter)); got != want {
				t.Errorf("%s: %d entities; want %d", filter, got, want)
			}
		}
		if bumps != 2 {
			t.Errorf("the revision was bumped %d times; want 2", bumps)
		}
	})
}

// search lists the refs for filters in the form "key=value,key".
func search(t testing.TB, s *entity.Store, caller *slipway.Caller, filters ...string) []string {
	t.Helper()
	q := entity.Query{Limit: 1000}
	for _, f := range filters {
		var set []entity.Condition
		for _, c := range strings.Split(f, ",") {
			key, value, equals := strings.Cut(c, "=")
			cond := entity.Condition{Key: key}
			if equals {
				cond.Values = []string{value}
			}
			set = append(set, cond)
		}
		q.Filters = append(q.Filters, set)
	}
	rows, next, err := s.List(t.Context(), caller, q)
	if err != nil {
		t.Fatal(err)
	}
	if next != nil {
		t.Fatal("more than one page")
	}
	n, err := s.Count(t.Context(), caller, q)
	if err != nil || n != int64(len(rows)) {
		t.Errorf("count of %v is %d, %v; want %d", filters, n, err, len(rows))
	}
	var list []string
	for _, r := range rows {
		list = append(list, r.Ref.String())
	}
	return list
}

func TestASourceCannotTakeWhatAnotherBrings(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		putAll(t, s, "one", newEntity("Component", "a", nil))
		r := putAll(t, s, "two", newEntity("Component", "A", spec{"type": "stolen"}), newEntity("API", "a", nil), newEntity("Api", "A", spec{"type": "twice"}))
		want := []entity.Conflict{{Ref: ref(t, "api:default/a"), Source: "two"}, {Ref: ref(t, "component:default/a"), Source: "one"}}
		if diff := cmp.Diff(want, r.Conflicts); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"api:default/a"}, refs(r.Created)); diff != "" {
			t.Error(diff)
		}
		if got, _ := s.Get(t.Context(), db, system, ref(t, "a")); got.Source != "one" {
			t.Errorf("component:default/a belongs to %s; want one", got.Source)
		}
		var removed []slipway.EntityRef
		err := db.Write(t.Context(), func(tx *store.Tx) (err error) {
			removed, err = s.Remove(t.Context(), tx, "two", []slipway.EntityRef{ref(t, "component:a"), ref(t, "api:a")})
			return err
		})
		if diff := cmp.Diff([]string{"api:default/a"}, refs(removed)); err != nil || diff != "" {
			t.Error(err, diff)
		}
	})
}

func TestSyncRemovesWhatTheSourceNoLongerBrings(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		var heard announced
		s.Announce = heard.hear
		putAll(t, s, "other", newEntity("Component", "keep", nil))
		var many []*slipway.Entity
		for i := range 30 {
			e := newEntity("Component", fmt.Sprintf("c%02d", i), spec{"type": "service", "owner": "team", "memberOf": []any{"g"}})
			e.Metadata.Labels = map[string]string{}
			for l := range 20 {
				e.Metadata.Labels[fmt.Sprintf("label-%d", l)] = fmt.Sprint(i * l)
			}
			many = append(many, e)
		}
		if _, err := s.Sync(t.Context(), "one", many); err != nil {
			t.Fatal(err)
		}
		heard.take()
		r, err := s.Sync(t.Context(), "one", many[:27], ref(t, "c27"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"component:default/c28", "component:default/c29"}, refs(r.Removed)); diff != "" || r.Unchanged != 27 {
			t.Error(diff, r.Unchanged)
		}
		if diff := cmp.Diff([]string{"removed component:default/c28", "removed component:default/c29"}, heard.take()); diff != "" {
			t.Error(diff)
		}
		if got := search(t, s, system, "kind=component"); len(got) != 29 {
			t.Errorf("%d entities are left; want 29", len(got))
		}
		if _, err := s.Get(t.Context(), db, system, ref(t, "c29")); !errors.Is(err, slipway.NotFound) {
			t.Errorf("a removed entity: got %v, want not found", err)
		}
		var left int
		if err := db.QueryRowContext(t.Context(), `SELECT (SELECT COUNT(*) FROM entity_term WHERE entity_id NOT IN (SELECT id FROM entity)) +
			(SELECT COUNT(*) FROM relation WHERE entity_id NOT IN (SELECT id FROM entity))`).Scan(&left); err != nil || left > 0 {
			t.Errorf("%d rows of removed entities are left, %v", left, err)
		}
		// Created anew it is another entity.
		if r := putAll(t, s, "two", many[29]); len(r.Created) != 1 {
			t.Errorf("got %+v; want it created for the new source", r)
		}
	})
}

func TestRelationsStandInBothDirections(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		putAll(t, s, "one",
			newEntity("Component", "web", spec{"owner": "user:jane", "providesApis": []any{"shop"}, "dependsOn": []any{"resource:db", "no kind"}, "subcomponentOf": "not a ref!"}),
			newEntity("Group", "team", spec{"type": "team", "children": []any{}, "members": []any{"jane"}}),
			newEntity("User", "jane", spec{"memberOf": []any{"team"}}))
		relations := func(r string) []string {
			row, err := s.Get(t.Context(), db, system, ref(t, r))
			if err != nil {
				t.Fatal(err)
			}
			var e slipway.Entity
			if err := json.Unmarshal(row.JSON, &e); err != nil {
				t.Fatal(err)
			}
			var list []string
			for _, rel := range e.Relations {
				list = append(list, rel.Type+" "+rel.TargetRef)
			}
			return list
		}
		if diff := cmp.Diff([]string{"dependsOn resource:default/db", "ownedBy user:default/jane", "providesApi api:default/shop"}, relations("web")); diff != "" {
			t.Error(diff)
		}
		// Both said that jane is a member: it is one relation.
		if diff := cmp.Diff([]string{"memberOf group:default/team", "ownerOf component:default/web"}, relations("user:jane")); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"component:default/web"}, search(t, s, system, "relations.ownedBy=user:default/jane")); diff != "" {
			t.Error(diff)
		}
		putAll(t, s, "one", newEntity("Component", "web", spec{}))
		if diff := cmp.Diff([]string{"memberOf group:default/team"}, relations("user:jane")); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOwnershipClimbsThroughGroups(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		putAll(t, s, "one",
			newEntity("User", "jane", spec{"memberOf": []any{"squad"}}),
			newEntity("Group", "squad", spec{"parent": "tribe"}),
			newEntity("Group", "tribe", spec{"parent": "company"}),
			newEntity("Group", "company", spec{"parent": "squad"}), // a circle
			newEntity("Group", "guild", spec{"members": []any{"jane", "joe"}}),
			newEntity("Group", "elsewhere", spec{"parent": "company"}))
		for user, want := range map[string][]string{
			"user:default/Jane": {"user:default/jane", "group:default/company", "group:default/guild", "group:default/squad", "group:default/tribe"},
			"user:default/joe":  {"user:default/joe", "group:default/guild"},
			"nobody":            {"user:default/nobody"},
		} {
			got, err := s.Ownership(t.Context(), user)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Error(user, err, diff)
			}
		}
		if _, err := s.Ownership(t.Context(), "not a ref"); !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
	})
}

func TestOnlyGroupsStandForAUser(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		putAll(t, s, "one",
			newEntity("User", "eve", spec{"memberOf": []any{"user:default/root", "tool:default/x", "squad"}}),
			newEntity("User", "root", spec{"memberOf": []any{"admins"}}),
			newEntity("Group", "squad", spec{"parent": "system:default/s"}),
			newEntity("System", "s", spec{"parent": "admins", "memberOf": []any{"admins"}}),
			newEntity("Component", "sly", spec{"members": []any{"eve"}, "children": []any{"squad"}, "memberOf": []any{"admins"}}))
		got, err := s.Ownership(t.Context(), "user:default/eve")
		if diff := cmp.Diff([]string{"user:default/eve", "group:default/squad"}, got); err != nil || diff != "" {
			t.Error(err, diff)
		}
	})
}

func TestACallerSeesWhatWasGranted(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		putAll(t, s, "one",
			newEntity("Component", "a", spec{"owner": "team-a"}),
			newEntity("Component", "b", spec{"owner": "team-b"}),
			newEntity("Component", "shop-web", nil),
			newEntity("API", "shop-api", nil))
		everything := []string{"api:default/shop-api", "component:default/a", "component:default/b", "component:default/shop-web"}
		grant := func(permission string, objects ...string) *slipway.Caller {
			c := &slipway.Caller{Kind: slipway.CallerUser, Owns: []string{"user:default/jane", "group:default/team-a"}}
			for _, o := range objects {
				c.Grants = append(c.Grants, slipway.Grant{Permission: permission, Object: o})
			}
			return c
		}
		for name, tt := range map[string]struct {
			caller *slipway.Caller
			want   []string
		}{
			"nobody":               {nil, nil},
			"nothing":              {grant("catalog.entity.read"), nil},
			"all":                  {grant("catalog.entity.read", ""), everything},
			"all by pattern":       {grant("catalog.*", "*"), everything},
			"other permission":     {grant("build.run.read", ""), nil},
			"owned":                {grant("catalog.entity.read", ":owned"), []string{"component:default/a"}},
			"owned and fitting":    {grant("catalog.entity.read", ":owned:component:*", ":owned:api:*"), []string{"component:default/a"}},
			"owned, one ref":       {grant("catalog.entity.read", ":owned:component:default/a", ":owned:component:default/b"), []string{"component:default/a"}},
			"one":                  {grant("*", "component:default/b"), []string{"component:default/b"}},
			"pattern":              {grant("catalog.entity.*", "component:default/shop-*"), []string{"component:default/shop-web"}},
			"pattern, owned, refs": {grant("catalog.entity.*", "API:default/*", ":owned", "Component:default/B"), []string{"api:default/shop-api", "component:default/a", "component:default/b"}},
			"hostile object":       {grant("*", "' OR 1=1 --"), nil},
			"system":               {system, everything},
		} {
			if diff := cmp.Diff(tt.want, search(t, s, tt.caller, "kind")); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
			for _, r := range everything {
				_, err := s.Get(t.Context(), db, tt.caller, ref(t, r))
				if visible := slices.Contains(tt.want, r); visible && err != nil || !visible && !errors.Is(err, slipway.NotFound) {
					t.Errorf("%s: %s: got %v", name, r, err)
				}
			}
			var all []slipway.EntityRef
			for _, r := range everything {
				all = append(all, ref(t, r))
			}
			found, err := s.ByRefs(t.Context(), db, tt.caller, append(all, ref(t, "missing")))
			if err != nil || len(found) != len(tt.want) {
				t.Errorf("%s: by refs found %d, %v; want %d", name, len(found), err, len(tt.want))
			}
		}
	})
}

func TestConcurrentSourcesInternTheSameTerms(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		s.Revisions = store.NewRevisions(db, nil)
		var wg sync.WaitGroup
		for w := range 6 {
			wg.Go(func() {
				for i := range 5 {
					var batch []*slipway.Entity
					for j := range 5 {
						e := newEntity("Component", fmt.Sprintf("c-%d-%d-%d", w, i, j), spec{"type": "service"})
						e.Metadata.Labels = map[string]string{"team": fmt.Sprint(i), "env": fmt.Sprint(j), "both": fmt.Sprint(i * j)}
						batch = append(batch, e)
					}
					if _, err := s.PutAll(context.Background(), fmt.Sprint("source-", w), batch); err != nil {
						t.Errorf("source %d: %v", w, err)
					}
				}
			})
		}
		wg.Wait()
		if got := search(t, s, system, "kind=component,metadata.labels.team=3"); len(got) != 30 {
			t.Errorf("%d entities of team 3; want 30", len(got))
		}
	})
}

func TestBadRefsAndValuesAreRefusedNotStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		if _, err := s.PutAll(t.Context(), "one", []*slipway.Entity{newEntity("Component", "not a name", nil)}); !errors.Is(err, slipway.Invalid) {
			t.Errorf("bad name: got %v, want invalid", err)
		}
		odd := newEntity("Component", "odd", spec{"nul": "a\x00b", "bad": "a\xffb", "long": strings.Repeat("é", 300), "null": nil, "deep": spec{"k\x00": 1}})
		odd.Metadata.Annotations = map[string]string{"a'b\"c\\d": "%_*"}
		putAll(t, s, "one", odd)
		for filter, want := range map[string]int{
			"spec.nul": 1, "spec.nul=a\x00b": 0, "spec.long": 1, "spec.null": 1, "spec.null=\x01": 0, "spec.deep.k\x00": 0,
			"metadata.annotations.a'b\"c\\d=%_*": 1, "metadata.annotations.a'b\"c\\d=%%": 0, "relations.nothing=x": 0, "spec.bad=\xff": 0, "\xff=1": 0,
		} {
			if got := search(t, s, system, filter); len(got) != want {
				t.Errorf("%q: %d entities; want %d", filter, len(got), want)
			}
		}
	})
}

func TestSchemaGoesDownAndUp(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, entity.Migrations)
}

func TestAnEntityIsBounded(t *testing.T) {
	t.Parallel()
	names := func(n int) []any {
		list := make([]any, n)
		for i := range list {
			list[i] = fmt.Sprintf("name-%d", i)
		}
		return list
	}
	repeated := names(1000)
	for range 4 {
		repeated = []any{repeated, repeated, repeated, repeated, repeated, repeated, repeated, repeated, repeated, repeated}
	}
	text := strings.Repeat("x", entity.MaxDocument)
	for name, e := range map[string]*slipway.Entity{
		"a long text":       newEntity("Component", "a", spec{"text": text}),
		"a text repeated":   newEntity("Component", "a", spec{"text": []any{text[:1<<17], text[:1<<17], text[:1<<17]}}),
		"values repeated":   newEntity("Component", "a", spec{"list": repeated}),
		"a text that grows": newEntity("Component", "a", spec{"text": strings.Repeat("<", entity.MaxDocument/4)}),
		"many others":       newEntity("Group", "a", spec{"members": names(entity.MaxRelations + 1)}),
		"a long list":       newEntity("Component", "a", spec{"list": names(entity.MaxFields + 1)}),
		"many fields": newEntity("Component", "a", spec{"map": func() map[string]any {
			m := map[string]any{}
			for i := range entity.MaxFields + 1 {
				m[fmt.Sprintf("key%d", i)] = i
			}
			return m
		}()}),
	} {
		if err := entity.Check(e); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	largest := newEntity("Component", "largest", spec{"dependsOn": func() []any {
		list := names(200)
		for i, n := range list {
			list[i] = "resource:" + n.(string)
		}
		return list
	}(), "text": text[:entity.MaxDocument/2]})
	if err := entity.Check(largest); err != nil {
		t.Fatal(err)
	}
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		db.OnWrite = func(_ time.Duration, rows int64) {
			if rows > 1000 {
				t.Errorf("a transaction changed %d rows; want at most 1000 for the largest entity", rows)
			}
		}
		if _, err := s.PutAll(t.Context(), "one", []*slipway.Entity{largest, newEntity("Component", "b", nil)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.PutAll(t.Context(), "one", []*slipway.Entity{newEntity("Component", "a", spec{"text": text + text})}); !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
	})
}
