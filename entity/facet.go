package entity

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Facet is one value of a field and how many entities have it.
type Facet struct {
	Value string // as one of the entities writes it
	Count int64
}

// Facets counts the values of fields among the entities of a query that the caller may read, each list in the order of its values.
// Values that differ only in case are one; values longer than 200 bytes are left out. A field that nobody has gives an empty list.
// It is counted once for every revision of the catalog.
func (s *Store) Facets(ctx context.Context, caller *slipway.Caller, keys []string, q Query) (map[string][]Facet, error) {
	return remembered(s, caller, "facets", keys, q, func() (map[string][]Facet, error) {
		facets := make(map[string][]Facet, len(keys))
		for _, key := range keys {
			list, err := s.facet(ctx, caller, strings.ToLower(key), q)
			if err != nil {
				return nil, err
			}
			facets[key] = list
		}
		return facets, nil
	})
}

func (s *Store) facet(ctx context.Context, caller *slipway.Caller, key string, q Query) ([]Facet, error) {
	facets := []Facet{}
	if !storable(key) {
		return facets, nil
	}
	b := builder{unordered: q.Text == nil}
	b.caller(caller)
	some, err := s.filter(ctx, &b, q)
	if err != nil || !some {
		return facets, err
	}
	statement, written := b.facet(caller, key, q)
	if statement == "" {
		return facets, nil
	}
	rows, err := s.db.QueryContext(ctx, statement, b.args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var examples []int64
	err = store.Each(rows, func(rows *sql.Rows) error {
		var f Facet
		var example int64
		err := rows.Scan(&f.Value, &f.Count, &example)
		facets, examples = append(facets, f), append(examples, example)
		return err
	})
	if err != nil || !written {
		return facets, err
	}
	return facets, s.spell(ctx, key, facets, examples)
}

// facet is the statement that counts the values of a field, with an entity that has each; and whether the values are written
// otherwise in the documents than in the tables.
func (b *builder) facet(caller *slipway.Caller, key string, q Query) (statement string, written bool) {
	where := strings.Join(b.where, ` AND `)
	if column := columnOf[key]; column != "" {
		return b.with + `SELECT ` + column + ` AS v, COUNT(*), MIN(e.id) FROM ` + b.from + ` WHERE ` + where + ` AND ` + column + ` IS NOT NULL GROUP BY ` + column + ` ORDER BY v`, key != "metadata.uid"
	}
	if name, ok := strings.CutPrefix(key, "relations."); ok {
		if name = relationNames[name]; name == "" {
			return "", false
		}
		return b.with + `SELECT r.target AS v, COUNT(DISTINCT e.id), 0 FROM ` + b.from + ` CROSS JOIN relation r WHERE ` + where +
			` AND r.source = e.ref AND r.type = ` + b.arg(name) + b.visible("r") + ` GROUP BY r.target ORDER BY v`, false
	}
	const columns, group = `SELECT t.value AS v, COUNT(*), MIN(et.entity_id) FROM `, ` GROUP BY t.value ORDER BY v`
	kinds, only := onlyKinds(q)
	switch {
	case only && All(caller, ReadPermission): // the terms know the kinds themselves
		b.args = nil
		return `SELECT v, CAST(SUM(n) AS BIGINT), MIN(id) FROM (SELECT t.value AS v, (SELECT COUNT(*) FROM entity_term et WHERE et.term_id = t.id) AS n,
			(SELECT MIN(et.entity_id) FROM entity_term et WHERE et.term_id = t.id) AS id FROM term t WHERE ` + b.valued(key) + ofKinds(b, kinds) + `) c WHERE n > 0 GROUP BY v ORDER BY v`, true
	case b.with != "": // few entities: from them to their terms
		return b.with + columns + b.from + ` CROSS JOIN entity_term et CROSS JOIN term t WHERE ` + where +
			` AND et.entity_id = e.id AND t.id = et.term_id AND ` + b.valued(key) + group, true
	}
	// Many: from the terms of the field to those of the entities. The plus keeps the set from being asked once for every term.
	return columns + `term t CROSS JOIN entity_term et WHERE et.term_id = t.id AND +et.entity_id IN (SELECT e.id FROM ` + b.from + ` WHERE ` + where + `) AND ` + b.valued(key) + group, true
}

// valued holds for the terms of a field that say more than that it is there.
func (b *builder) valued(key string) string {
	return `t.key = ` + b.arg(key) + ` AND t.value NOT IN (` + b.arg(opaque) + `, ` + b.arg(present) + `)`
}

// onlyKinds says that a query asks for nothing but kinds, and for which; none are all.
func onlyKinds(q Query) (kinds []string, ok bool) {
	if q.Where != nil || q.Text != nil && q.Text.Term != "" || len(q.Filters) > 1 {
		return nil, false
	}
	if len(q.Filters) == 0 {
		return nil, true
	}
	set := parts(q.Filters[0])
	return kindsOf(set), len(set) == 0 || len(set) == 1 && set[0].column == "e.kind" && len(set[0].values) > 0
}

// spell writes values as the documents of the examples do.
func (s *Store) spell(ctx context.Context, key string, facets []Facet, examples []int64) error {
	place := map[int64][]int{} // one entity may be the example of several values
	for i, id := range examples {
		place[id] = append(place[id], i)
	}
	ids := slices.Compact(slices.Sorted(slices.Values(examples)))
	for part := range slices.Chunk(ids, 500) {
		var args []any
		for _, id := range part {
			args = append(args, id)
		}
		rows, err := s.db.QueryContext(ctx, `SELECT id, doc FROM entity WHERE id IN `+list(1, len(args)), args...)
		if err != nil {
			return store.Err(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var id int64
			var doc string
			if err := rows.Scan(&id, &doc); err != nil {
				return err
			}
			var tree map[string]any
			dec := json.NewDecoder(strings.NewReader(doc))
			dec.UseNumber()
			if err := dec.Decode(&tree); err != nil {
				return err
			}
			walk(tree, "", func(k, text string) {
				for _, i := range place[id] {
					if k == key && searchable(text) == strings.ToLower(facets[i].Value) {
						facets[i].Value = text
					}
				}
			})
			return nil
		})
		if err != nil {
			return err
		}
	}
	slices.SortFunc(facets, func(a, b Facet) int { return cmp.Compare(strings.ToLower(a.Value), strings.ToLower(b.Value)) })
	return nil
}

// cache holds answers that cost much, until an entity changes.
type cache struct {
	once  sync.Once
	mu    sync.Mutex
	epoch int64 // how often it was emptied
	held  map[string]any
}

const maxHeld = 1000 // answers

// remembered gives the answer of make, or the one it gave before to the same question in the same revision.
func remembered[T any](s *Store, caller *slipway.Caller, what string, keys []string, q Query, make func() (T, error)) (T, error) {
	if s.Revisions == nil {
		return make()
	}
	c := &s.cache
	c.once.Do(func() {
		s.Revisions.Watch(Revision, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.held = nil
			c.epoch++
		})
	})
	q.Order, q.Limit, q.After, q.Before, q.Offset = nil, 0, nil, nil, 0
	condition, args := Readable(caller, "e", 1)
	var key bytes.Buffer
	fmt.Fprintf(&key, "%s %q %s %q ", what, keys, condition, args)
	if err := json.NewEncoder(&key).Encode(q); err != nil {
		return make()
	}
	c.mu.Lock()
	held, ok := c.held[key.String()].(T)
	epoch := c.epoch
	c.mu.Unlock()
	if ok {
		return held, nil
	}
	v, err := make()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && epoch == c.epoch { // else it may be older than what was emptied
		if c.held == nil || len(c.held) >= maxHeld {
			c.held = map[string]any{}
		}
		c.held[key.String()] = v
	}
	return v, err
}
