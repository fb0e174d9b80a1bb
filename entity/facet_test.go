package entity_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestFacetsCountWhatTheCallerMaySee(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		var all []*slipway.Entity
		for i := range 30 {
			e := newEntity([]string{"Component", "API"}[i%2], fmt.Sprintf("E%02d", i), spec{"type": []string{"Service", "library", "website"}[i%3], "owner": []string{"team-a", "team-b"}[i/15]})
			e.Metadata.Tags = []string{"java", fmt.Sprint("t", i%4)}
			e.Metadata.Labels = map[string]string{"Tier": []string{"Gold", "silver"}[i%2]}
			if i == 0 {
				e.Metadata.Labels["long"] = strings.Repeat("x", 201)
			}
			all = append(all, e)
		}
		putAll(t, s, "one", all...)
		// Versions before this one stored an item of a list as a field, too.
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec(t.Context(), `INSERT INTO term (kind, key, value) VALUES ('api', 'metadata.tags.t1', 'true')`); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), `INSERT INTO entity_term (term_id, entity_id) SELECT t.id, e.id FROM term t CROSS JOIN entity e WHERE t.key = 'metadata.tags.t1' AND e.ref = 'api:default/e01'`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		team := &slipway.Caller{Owns: []string{"group:default/team-a"}, Grants: []slipway.Grant{{Permission: "catalog.*", Object: ":owned"}}}
		kind := [][]entity.Condition{{{Key: "kind", Values: []string{"component"}}}}
		rare := [][]entity.Condition{{{Key: "metadata.tags", Values: []string{"t1"}}}}
		for name, tt := range map[string]struct {
			caller *slipway.Caller
			key    string
			query  entity.Query
			want   string
		}{
			"a column":              {system, "kind", entity.Query{}, "API 15 Component 15"},
			"in its spelling":       {system, "spec.type", entity.Query{}, "library 10 Service 10 website 10"},
			"of a kind":             {system, "metadata.labels.tier", entity.Query{Filters: kind}, "Gold 15"},
			"a list":                {system, "metadata.tags", entity.Query{}, "java 30 t0 8 t1 8 t2 7 t3 7"},
			"an item of a list":     {system, "metadata.tags.T1", entity.Query{}, "true 8"},
			"an item, filtered":     {system, "metadata.tags.java", entity.Query{Filters: rare}, "true 8"},
			"an item, of a type":    {system, "metadata.tags.t1", entity.Query{Filters: [][]entity.Condition{{{Key: "spec.type", Values: []string{"library"}}}}}, "true 3"},
			"no item":               {system, "metadata.tags.none", entity.Query{}, ""},
			"of what is owned":      {team, "metadata.tags", entity.Query{}, "java 15 t0 4 t1 4 t2 4 t3 3"},
			"of what is owned, too": {team, "kind", entity.Query{Filters: kind}, "Component 8"},
			"with a filter":         {system, "metadata.labels.Tier", entity.Query{Filters: rare}, "silver 8"},
			"with a predicate":      {system, "metadata.labels.Tier", entity.Query{Where: &entity.Predicate{Not: &entity.Predicate{Is: &kind[0][0]}}}, "silver 15"},
			"a relation":            {system, "relations.ownedBy", entity.Query{Filters: kind}, "group:default/team-a 8 group:default/team-b 7"},
			"too long":              {system, "metadata.labels.long", entity.Query{}, ""},
			"nobody has it":         {system, "spec.none", entity.Query{}, ""},
			"no relation":           {system, "relations.none", entity.Query{}, ""},
			"no field":              {system, "\x00", entity.Query{}, ""},
			"for nobody":            {&slipway.Caller{}, "kind", entity.Query{}, ""},
		} {
			facets, err := s.Facets(t.Context(), tt.caller, []string{tt.key}, tt.query)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var got []string
			for _, f := range facets[tt.key] {
				got = append(got, fmt.Sprint(f.Value, " ", f.Count))
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" || facets[tt.key] == nil {
				t.Errorf("%s: %s", name, diff)
			}
		}
	})
}

func TestCountsAreRememberedUntilSomethingChanges(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		s.Revisions = store.NewRevisions(db, slog.New(slog.DiscardHandler))
		count := func() int64 {
			n, err := s.Count(t.Context(), system, entity.Query{})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		putAll(t, s, "one", newEntity("Component", "a", nil))
		if n := count(); n != 1 {
			t.Errorf("got %d, want 1", n)
		}
		if _, err := db.Writer().ExecContext(t.Context(), `DELETE FROM entity`); err != nil { // behind its back
			t.Fatal(err)
		}
		if n := count(); n != 1 {
			t.Errorf("got %d, want what was counted before", n)
		}
		if n, err := s.Count(t.Context(), &slipway.Caller{}, entity.Query{}); err != nil || n != 0 {
			t.Errorf("another caller gets %d, %v; want 0", n, err)
		}
		putAll(t, s, "one", newEntity("Component", "b", nil), newEntity("Component", "c", nil))
		if n := count(); n != 2 {
			t.Errorf("got %d, want 2", n)
		}
	})
}
