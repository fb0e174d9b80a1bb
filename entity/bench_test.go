package entity_test

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/entity/entitytest"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// BenchmarkList measures the commonest filters on a catalog of BENCH_ENTITIES (default 10,000).
func BenchmarkList(b *testing.B) {
	n, err := strconv.Atoi(os.Getenv("BENCH_ENTITIES"))
	if err != nil {
		n = 10_000
	}
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		b.Run(string(engine), func(b *testing.B) {
			db := storetest.Open(b, engine, schema...)
			s := entity.New(db, time.Now)
			start := time.Now()
			fill(b, s, n)
			if engine == store.Postgres {
				if _, err := db.Writer().Exec(`VACUUM ANALYZE`); err != nil {
					b.Fatal(err)
				}
			}
			b.Logf("put %d entities, %d/s", n, int(float64(n)/time.Since(start).Seconds()))
			c := func(key string, values ...string) entity.Condition {
				return entity.Condition{Key: key, Values: values}
			}
			half := "component:default/" + entitytest.Name(n/2/100*100+50)
			group := "group:default/" + entitytest.Name(0)
			owned := &slipway.Caller{Owns: []string{group}, Grants: []slipway.Grant{{Permission: "catalog.*", Object: ":owned"}}}
			for _, q := range []struct {
				name   string
				caller *slipway.Caller
				query  entity.Query
			}{
				{"name", system, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component"), c("metadata.name", entitytest.Name(777))}}}},
				{"kind", system, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component")}}}},
				{"kind+type", system, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component"), c("spec.type", "service")}}}},
				{"kind+label 1 of 1000", system, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component"), c("metadata.labels.cost-center", "cc-7")}}}},
				{"kind+type+lifecycle+label 1 of 3", system, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component"), c("spec.type", "service"), c("spec.lifecycle", "production"), c("metadata.labels.env", "prod")}}}},
				{"two rare labels", system, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component"), c("metadata.annotations.pagerduty.com/service-id", "p7"), c("metadata.labels.cost-center", "cc-7")}}}},
				{"annotation is there", system, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component"), c("metadata.annotations.github.com/project-slug")}}}},
				{"relation", system, entity.Query{Filters: [][]entity.Condition{{c("relations.ownedBy", group)}}}},
				{"one of two labels", system, entity.Query{Filters: [][]entity.Condition{{c("metadata.annotations.pagerduty.com/service-id", "p7")}, {c("metadata.labels.cost-center", "cc-7")}}}},
				{"from the middle", system, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component")}}, After: &entity.Mark{Ref: half}}},
				{"owned", owned, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component")}}}},
				{"missing", system, entity.Query{Filters: [][]entity.Condition{{c("metadata.labels.env", "nobody")}}}},
			} {
				q.query.Limit = 20
				b.Run(q.name, func(b *testing.B) {
					for b.Loop() {
						if _, _, err := s.List(b.Context(), q.caller, q.query); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			text := &entity.Text{Term: "billing component of amber"} // in titles
			for _, q := range []struct {
				name  string
				query entity.Query
			}{
				{"text in names and titles", entity.Query{Text: text, Limit: 20}},
				{"text nobody has", entity.Query{Text: &entity.Text{Term: "nobody"}, Limit: 20}},
				{"kind+text, by title", entity.Query{Filters: [][]entity.Condition{{c("kind", "Component")}}, Text: &entity.Text{Term: "billing"}, Order: []entity.Order{{Key: "metadata.title"}}, Limit: 20}},
				{"kind, by name", entity.Query{Filters: [][]entity.Condition{{c("kind", "Component")}}, Order: []entity.Order{{Key: "metadata.name"}}, Limit: 20}},
				{"kind, back from the middle", entity.Query{Filters: [][]entity.Condition{{c("kind", "Component")}}, Before: &entity.Mark{Ref: half}, Limit: 20}},
				{"predicate: tag and not type", entity.Query{Where: &entity.Predicate{All: []entity.Predicate{{Is: &entity.Condition{Key: "metadata.tags", Values: []string{"java"}}}, {Not: &entity.Predicate{Is: &entity.Condition{Key: "spec.type", Values: []string{"service"}}}}}}, Limit: 20}},
			} {
				b.Run(q.name, func(b *testing.B) {
					for b.Loop() {
						if _, err := s.Page(b.Context(), system, q.query); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			for _, q := range []struct {
				name  string
				query entity.Query
			}{
				{"count all", entity.Query{}},
				{"count kind", entity.Query{Filters: [][]entity.Condition{{c("kind", "Component")}}}},
				{"count kind+type", entity.Query{Filters: [][]entity.Condition{{c("kind", "Component"), c("spec.type", "service")}}}},
				{"count kind+label 1 of 3", entity.Query{Filters: [][]entity.Condition{{c("kind", "Component"), c("metadata.labels.env", "prod")}}}},
				{"count kind+text", entity.Query{Filters: [][]entity.Condition{{c("kind", "Component")}}, Text: text}},
			} {
				b.Run(q.name, func(b *testing.B) {
					for b.Loop() {
						if _, err := s.Count(b.Context(), system, q.query); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			for _, q := range []struct {
				name  string
				keys  []string
				query entity.Query
			}{
				{"facets of three fields, one kind", []string{"spec.type", "metadata.tags", "metadata.labels.env"}, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component")}}}},
				{"facets of three fields, kind+type", []string{"spec.lifecycle", "metadata.tags", "metadata.labels.env"}, entity.Query{Filters: [][]entity.Condition{{c("kind", "Component"), c("spec.type", "service")}}}},
				{"facets of three fields, rare label", []string{"spec.lifecycle", "metadata.tags", "metadata.labels.env"}, entity.Query{Filters: [][]entity.Condition{{c("metadata.labels.cost-center", "cc-7")}}}},
			} {
				b.Run(q.name, func(b *testing.B) {
					for b.Loop() {
						if _, err := s.Facets(b.Context(), system, q.keys, q.query); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			b.Run("hundred by refs", func(b *testing.B) {
				var refs []slipway.EntityRef
				for i := range 100 {
					refs = append(refs, slipway.EntityRef{Kind: "component", Namespace: "default", Name: entitytest.Name(i*n/100/100*100 + 50)})
				}
				for b.Loop() {
					if _, err := s.ByRefs(b.Context(), db, system, refs); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("get", func(b *testing.B) {
				ref := slipway.EntityRef{Kind: "component", Namespace: "default", Name: entitytest.Name(777)}
				for b.Loop() {
					if _, err := s.Get(b.Context(), db, system, ref); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func fill(b *testing.B, s *entity.Store, n int) {
	for batch := range slices.Chunk(slices.Collect(entitytest.Catalog(n)), 1000) {
		if _, err := s.PutAll(b.Context(), "bench", batch); err != nil {
			b.Fatal(err)
		}
	}
}
