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

	"golang.org/x/sync/errgroup"

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
		q.Order = nil
		b := s.builder(caller)
		b.unordered = q.Text == nil
		some, err := s.filter(ctx, b, q)
		if err != nil {
			return nil, err
		}
		found := make([][]Facet, len(keys))
		if some {
			matching := sync.OnceValues(func() (idSet, error) { return s.matching(ctx, b) })
			var each errgroup.Group
			each.SetLimit(4)
			for i, key := range keys {
				each.Go(func() (err error) {
					found[i], err = s.facet(ctx, b, strings.ToLower(key), q, matching)
					return err
				})
			}
			if err := each.Wait(); err != nil {
				return nil, err
			}
		}
		facets := make(map[string][]Facet, len(keys))
		for i, key := range keys {
			facets[key] = append([]Facet{}, found[i]...)
		}
		return facets, nil
	})
}

// facet counts the values of one field among the entities of a planned query. It leaves the plan as it is.
func (s *Store) facet(ctx context.Context, plan *builder, key string, q Query, matching func() (idSet, error)) ([]Facet, error) {
	if !storable(key) {
		return nil, nil
	}
	b := *plan
	b.args = slices.Clone(plan.args)
	where := strings.Join(b.where, ` AND `)
	column := columnOf[key]
	kinds, only := onlyKinds(q)
	related, isRelation := strings.CutPrefix(key, "relations.")
	var statement string
	switch {
	case isRelation:
		name := relationNames[related]
		if name == "" {
			return nil, nil
		}
		statement = b.with + `SELECT r.target, COUNT(DISTINCT e.id), 0 FROM ` + b.from + ` CROSS JOIN relation r WHERE ` + where +
			` AND r.source = e.ref AND r.type = ` + b.arg(name) + b.visible("r.target") + ` GROUP BY r.target`
	case column != "" && b.lists == nil:
		statement = b.with + `SELECT ` + column + `, COUNT(*), MIN(e.id) FROM ` + b.from + ` WHERE ` + where + ` AND ` + column + ` IS NOT NULL GROUP BY ` + column
	case column == "" && only && items(key) == nil && All(b.reader, ReadPermission): // the terms know the kinds themselves
		b.args = nil
		valued, value := b.valued(key)
		statement = `SELECT ` + value + `, (SELECT COUNT(*) FROM entity_term et WHERE et.term_id = t.id), (SELECT COALESCE(MIN(et.entity_id), 0) FROM entity_term et WHERE et.term_id = t.id)
			FROM term t WHERE ` + valued + ofKinds(&b, "t", kinds)
	case column == "" && b.with != "" && b.driven <= 300: // few entities: from them to their terms
		valued, value := b.valued(key)
		statement = b.with + `SELECT ` + value + `, COUNT(DISTINCT et.entity_id), MIN(et.entity_id) FROM ` + b.from + ` CROSS JOIN entity_term et CROSS JOIN term t WHERE ` + where +
			` AND et.entity_id = e.id AND t.id = et.term_id AND ` + valued + ` GROUP BY 1`
	default: // many: all that have a value, of which those are counted that match
		ids, err := matching()
		if err != nil {
			return nil, err
		}
		b.args = nil
		if column == "" {
			valued, value := b.valued(key)
			statement = `SELECT ` + value + `, (SELECT STRING_AGG(CAST(et.entity_id AS TEXT), ',') FROM entity_term et WHERE et.term_id = t.id) FROM term t WHERE ` + valued + ofKinds(&b, "t", kinds)
		} else {
			statement = `SELECT ` + column + `, ` + idList + ` FROM entity e WHERE ` + column + ` IS NOT NULL` + ofKinds(&b, "e", kinds) + ` GROUP BY ` + column
		}
		listed := idSet{}
		return s.tally(ctx, key, statement, b.args, func(rows *sql.Rows) (value string, n, example int64, err error) {
			var list sql.RawBytes
			err = rows.Scan(&value, &list)
			twice := value == "true" && items(key) != nil // two terms may say so of one entity: versions before this one stored items as fields, too
			eachID(list, func(id int64) {
				if ids.has(id) && !(twice && listed.has(id)) {
					n, example = n+1, id
				}
			})
			if twice {
				listed.add(list)
			}
			return value, n, example, err
		})
	}
	return s.tally(ctx, key, statement, b.args, func(rows *sql.Rows) (value string, n, example int64, err error) {
		err = rows.Scan(&value, &n, &example)
		return value, n, example, err
	})
}

// tally adds up the rows of a statement, several of which may have the same value, and writes the values as the documents of the examples do.
func (s *Store) tally(ctx context.Context, key, statement string, args []any, row func(*sql.Rows) (value string, n, example int64, err error)) ([]Facet, error) {
	rows, err := s.read.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var facets []Facet
	var examples []int64
	at := map[string]int{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		value, n, example, err := row(rows)
		if err != nil || n == 0 {
			return err
		}
		if i, there := at[value]; there {
			facets[i].Count += n
			return nil
		}
		at[value] = len(facets)
		facets, examples = append(facets, Facet{value, n}), append(examples, example)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(key, "relations.") && key != "metadata.uid" { // else they stand in the tables as in the documents
		err = s.spell(ctx, key, facets, examples)
	}
	slices.SortFunc(facets, func(a, b Facet) int { return cmp.Compare(strings.ToLower(a.Value), strings.ToLower(b.Value)) })
	return facets, err
}

// onlyKinds gives the kinds that a query is limited to, none for all, and says whether it asks for nothing else.
func onlyKinds(q Query) (kinds []string, only bool) {
	if len(q.Filters) > 1 {
		return nil, false
	}
	only = q.Where == nil && (q.Text == nil || q.Text.Term == "")
	if len(q.Filters) == 0 {
		return nil, only
	}
	set := parts(q.Filters[0])
	return kindsOf(set), only && (len(set) == 0 || len(set) == 1 && set[0].column == "e.kind" && len(set[0].values) > 0)
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
		rows, err := s.read.QueryContext(ctx, `SELECT id, doc FROM entity WHERE id IN `+list(1, len(args)), args...)
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
			walk(tree, "", true, func(k, text string) {
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
