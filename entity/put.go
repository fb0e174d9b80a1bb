package entity

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// MaxRows is about how many rows a chunk of entities changes, and so how long it holds the writer.
const MaxRows = 400

// PutResult says what became of the entities of one Put, each ref in canonical form.
type PutResult struct {
	Created   []slipway.EntityRef
	Updated   []slipway.EntityRef
	Unchanged int
	Removed   []slipway.EntityRef // by Sync
	Conflicts []Conflict
}

// Conflict is an entity that was not written, because another source brings it or this one brings it twice.
type Conflict struct {
	Ref    slipway.EntityRef
	Source string // who has it
}

func (r *PutResult) add(more PutResult) {
	r.Created = append(r.Created, more.Created...)
	r.Updated = append(r.Updated, more.Updated...)
	r.Removed = append(r.Removed, more.Removed...)
	r.Conflicts = append(r.Conflicts, more.Conflicts...)
	r.Unchanged += more.Unchanged
}

// Chunks splits entities so that each Put stays within MaxRows. An entity that is larger comes alone: within the bounds of Check, it changes a
// thousand rows at most.
func Chunks(entities []*slipway.Entity) iter.Seq[[]*slipway.Entity] {
	return func(yield func([]*slipway.Entity) bool) {
		start, rows := 0, 0
		for i, e := range entities {
			n := weight(e)
			if i > start && rows+n > MaxRows {
				if !yield(entities[start:i]) {
					return
				}
				start, rows = i, 0
			}
			rows += n
		}
		if start < len(entities) {
			yield(entities[start:])
		}
	}
}

// weight is how many rows an entity needs at most: itself, its event, two for every term, two for every relation.
func weight(e *slipway.Entity) int {
	d, err := bounded(e, MaxDocument+moreDocument, MaxFields+moreFields)
	if err != nil {
		return MaxRows
	}
	return 2 + 2*len(d.terms) + len(d.relations)
}

// Put writes entities of a source, at most a chunk (see Chunks). What is there already with the same content is not written; a
// changed one keeps its uid and gets a new etag. An entity of another source stays as it is and is reported, unless it is an orphan. Entities must have
// valid refs; their uid, etag, relations and status are not read. The entities are not changed. One that is too large is Invalid, see Check.
func (s *Store) Put(ctx context.Context, tx *store.Tx, source string, entities []*slipway.Entity) (PutResult, error) {
	described := make([]*description, 0, len(entities))
	for _, e := range entities {
		d, err := bounded(e, MaxDocument+moreDocument, MaxFields+moreFields)
		if err != nil {
			return PutResult{}, err
		}
		described = append(described, d)
	}
	return s.put(ctx, tx, source, described)
}

func (s *Store) put(ctx context.Context, tx *store.Tx, source string, described []*description) (PutResult, error) {
	var result PutResult
	stored, err := s.stored(ctx, tx, described)
	if err != nil {
		return result, err
	}
	sorted := slices.Clone(described) // everybody locks rows in one order
	slices.SortStableFunc(sorted, func(a, b *description) int { return strings.Compare(a.key, b.key) })
	var changes []Change
	var written []*description
	for i, d := range sorted {
		old, known := stored[d.key]
		switch {
		case i > 0 && sorted[i-1].key == d.key:
			result.Conflicts = append(result.Conflicts, Conflict{Ref: d.ref, Source: source})
			continue
		case known && old.source != source && !old.orphan:
			result.Conflicts = append(result.Conflicts, Conflict{Ref: d.ref, Source: old.source})
			continue
		case known && old.etag == d.etag && old.source == source:
			result.Unchanged++
			continue
		case known:
			d.id = old.id
			if err := s.update(ctx, tx, d, source, old.uid); err != nil {
				return result, err
			}
			result.Updated = append(result.Updated, d.ref)
			changes = append(changes, Change{ID: d.id, Ref: d.ref, Action: Updated})
		default:
			if err := s.insert(ctx, tx, d, source); errors.Is(err, sql.ErrNoRows) {
				// Another transaction has just put it; it will be seen as a conflict, or as unchanged, next time.
				result.Conflicts = append(result.Conflicts, Conflict{Ref: d.ref})
				continue
			} else if err != nil {
				return result, store.Err(err)
			}
			result.Created = append(result.Created, d.ref)
			changes = append(changes, Change{ID: d.id, Ref: d.ref, Action: Created})
		}
		written = append(written, d)
	}
	if len(written) == 0 {
		return result, nil
	}
	if err := s.putTerms(ctx, tx, written); err != nil {
		return result, err
	}
	if err := s.putRelations(ctx, tx, written); err != nil {
		return result, err
	}
	return result, s.changed(ctx, tx, changes)
}

// PutAll is Put for any number of entities: it opens a transaction per chunk, and none for what has not changed.
func (s *Store) PutAll(ctx context.Context, source string, entities []*slipway.Entity) (PutResult, error) {
	var result PutResult
	changed, err := s.withoutUnchanged(ctx, source, entities)
	if err != nil {
		return result, err
	}
	result.Unchanged = len(entities) - len(changed)
	for chunk := range Chunks(changed) {
		if err := s.internFirst(ctx, chunk); err != nil {
			return result, err
		}
		var r PutResult
		err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
			r, err = s.Put(ctx, tx, source, chunk)
			return err
		})
		if err != nil {
			return result, err
		}
		result.add(r)
	}
	return result, nil
}

// internFirst gives the terms of an entity that is more than a chunk their numbers, in transactions of their own, so that its own one is shorter.
func (s *Store) internFirst(ctx context.Context, chunk []*slipway.Entity) error {
	if len(chunk) > 1 || weight(chunk[0]) <= MaxRows {
		return nil
	}
	d, err := bounded(chunk[0], MaxDocument+moreDocument, MaxFields+moreFields)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(d.terms, MaxRows) {
		err := s.db.Write(ctx, func(tx *store.Tx) error {
			_, err := s.intern(ctx, tx, []*description{{ref: d.ref, terms: part}})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Sync makes the entities of a source be exactly these: it puts them as PutAll does and removes the others of that source. Those to
// keep stay as they are: their new version may be faulty.
func (s *Store) Sync(ctx context.Context, source string, entities []*slipway.Entity, keepRefs ...slipway.EntityRef) (PutResult, error) {
	result, err := s.PutAll(ctx, source, entities)
	if err != nil {
		return result, err
	}
	keep := map[string]bool{}
	for _, e := range entities {
		keep[e.Ref().String()] = true
	}
	for _, r := range keepRefs {
		keep[r.String()] = true
	}
	refs, err := s.BySource(ctx, source)
	if err != nil {
		return result, err
	}
	refs = slices.DeleteFunc(refs, func(r slipway.EntityRef) bool { return keep[r.String()] })
	result.Removed, err = s.removeAll(ctx, source, refs)
	return result, err
}

// withoutUnchanged leaves out what is stored with the same content already.
func (s *Store) withoutUnchanged(ctx context.Context, source string, entities []*slipway.Entity) ([]*slipway.Entity, error) {
	var changed []*slipway.Entity
	for part := range slices.Chunk(entities, 200) {
		described := make([]*description, len(part))
		for i, e := range part {
			d, err := bounded(e, MaxDocument+moreDocument, MaxFields+moreFields)
			if err != nil {
				return nil, err
			}
			described[i] = d
		}
		stored, err := s.stored(ctx, s.db, described)
		if err != nil {
			return nil, err
		}
		for i, d := range described {
			if old, known := stored[d.key]; !known || old.source != source || old.etag != d.etag {
				changed = append(changed, part[i])
			}
		}
	}
	return changed, nil
}

type head struct {
	id                int64
	uid, etag, source string
	orphan            bool
}

func (s *Store) stored(ctx context.Context, q store.Querier, described []*description) (map[string]head, error) {
	stored := map[string]head{}
	if len(described) == 0 {
		return stored, nil
	}
	var args []any
	for _, d := range described {
		args = append(args, d.key)
	}
	rows, err := q.QueryContext(ctx, `SELECT id, ref, uid, etag, source, orphaned_at IS NOT NULL FROM entity WHERE ref IN `+list(1, len(args)), args...)
	if err != nil {
		return nil, store.Err(err)
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var h head
		var ref string
		if err := rows.Scan(&h.id, &ref, &h.uid, &h.etag, &h.source, &h.orphan); err != nil {
			return err
		}
		stored[ref] = h
		return nil
	})
	return stored, err
}

func (s *Store) insert(ctx context.Context, tx *store.Tx, d *description, source string) error {
	uid := uuid.Must(uuid.NewV7()).String()
	doc, err := d.document(uid)
	if err != nil {
		return err
	}
	return tx.QueryRowContext(ctx, `INSERT INTO entity (ref, uid, etag, kind, namespace, name, type, lifecycle, title, owner, system, source, doc, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (ref) DO NOTHING RETURNING id`,
		d.key, uid, d.etag, d.ref.Kind, d.ref.Namespace, d.ref.Name, d.kind, d.lifecycle, d.title, d.owner, d.system, source, doc, store.At(s.now())).Scan(&d.id)
}

func (s *Store) update(ctx context.Context, tx *store.Tx, d *description, source, uid string) error {
	doc, err := d.document(uid)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE entity SET etag = $2, type = $3, lifecycle = $4, title = $5, owner = $6, system = $7, doc = $8, updated_at = $9,
		source = $10, status = NULL, orphaned_at = NULL WHERE id = $1`,
		d.id, d.etag, d.kind, d.lifecycle, d.title, d.owner, d.system, doc, store.At(s.now()), source)
	return err
}

// putTerms makes the postings of entities be those of their descriptions, writing only the difference. The entities' rows are
// written before, so that nobody else changes their postings at the same time.
func (s *Store) putTerms(ctx context.Context, tx *store.Tx, written []*description) error {
	ids, err := s.intern(ctx, tx, written)
	if err != nil {
		return err
	}
	type posting struct{ term, entity int64 }
	want := map[posting]bool{}
	for _, d := range written {
		for _, t := range d.terms {
			want[posting{ids[term{d.ref.Kind, t.key, t.value}], d.id}] = true
		}
	}
	var entities []any
	for _, d := range written {
		entities = append(entities, d.id)
	}
	rows, err := tx.QueryContext(ctx, `SELECT term_id, entity_id FROM entity_term WHERE entity_id IN `+list(1, len(entities)), entities...)
	if err != nil {
		return store.Err(err)
	}
	gone := map[int64][]any{} // terms by entity
	err = store.Each(rows, func(rows *sql.Rows) error {
		var p posting
		if err := rows.Scan(&p.term, &p.entity); err != nil {
			return err
		}
		if !want[p] {
			gone[p.entity] = append(gone[p.entity], p.term)
		}
		delete(want, p)
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(gone)) {
		for part := range slices.Chunk(gone[id], 500) {
			_, err := tx.Exec(ctx, `DELETE FROM entity_term WHERE entity_id = $1 AND term_id IN `+list(2, len(part)), append([]any{id}, part...)...)
			if err != nil {
				return err
			}
		}
	}
	var add [][]any
	for p := range want {
		add = append(add, []any{p.term, p.entity})
	}
	slices.SortFunc(add, func(a, b []any) int {
		if a[0] != b[0] {
			return int(a[0].(int64) - b[0].(int64))
		}
		return int(a[1].(int64) - b[1].(int64))
	})
	return insertRows(ctx, tx, `entity_term (term_id, entity_id)`, add)
}

// intern gives every term of the entities its number.
func (s *Store) intern(ctx context.Context, tx *store.Tx, written []*description) (map[term]int64, error) {
	ids := map[term]int64{}
	for _, d := range written {
		for _, t := range d.terms {
			ids[term{d.ref.Kind, t.key, t.value}] = 0
		}
	}
	terms := slices.SortedFunc(maps.Keys(ids), func(a, b term) int {
		return cmpStrings(a.key, b.key, a.kind, b.kind, a.value, b.value)
	})
	if err := s.lookUp(ctx, tx, terms, ids); err != nil {
		return nil, err
	}
	terms = slices.DeleteFunc(terms, func(t term) bool { return ids[t] != 0 })
	var missing [][]any
	for _, t := range terms { // in order, so that two transactions with the same new terms wait for one another and do not deadlock
		missing = append(missing, []any{t.kind, t.key, t.value})
	}
	if err := insertRows(ctx, tx, `term (kind, key, value)`, missing); err != nil {
		return nil, err
	}
	return ids, s.lookUp(ctx, tx, terms, ids)
}

func (s *Store) lookUp(ctx context.Context, q store.Querier, terms []term, ids map[term]int64) error {
	for part := range slices.Chunk(terms, 200) {
		var args []any
		for _, t := range part {
			args = append(args, t.kind, t.key, t.value)
		}
		rows, err := q.QueryContext(ctx, `SELECT id, kind, key, value FROM term WHERE (kind, key, value) IN (VALUES `+values(len(part), 3)+`)`, args...)
		if err != nil {
			return store.Err(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var t term
			var id int64
			if err := rows.Scan(&id, &t.kind, &t.key, &t.value); err != nil {
				return err
			}
			ids[t] = id
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) putRelations(ctx context.Context, tx *store.Tx, written []*description) error {
	var entities []any
	want := map[origin]bool{}
	for _, d := range written {
		entities = append(entities, d.id)
		for _, r := range d.relations {
			want[origin{d.id, r}] = true
		}
	}
	rows, err := tx.QueryContext(ctx, `SELECT entity_id, source, type, target FROM relation WHERE entity_id IN `+list(1, len(entities)), entities...)
	if err != nil {
		return store.Err(err)
	}
	var gone []origin
	err = store.Each(rows, func(rows *sql.Rows) error {
		var r origin
		if err := rows.Scan(&r.entity, &r.source, &r.kind, &r.target); err != nil {
			return err
		}
		if !want[r] {
			gone = append(gone, r)
		}
		delete(want, r)
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range gone {
		_, err := tx.Exec(ctx, `DELETE FROM relation WHERE source = $1 AND type = $2 AND target = $3 AND entity_id = $4`, r.source, r.kind, r.target, r.entity)
		if err != nil {
			return err
		}
	}
	var add [][]any
	for r := range want {
		add = append(add, []any{r.entity, r.source, r.kind, r.target})
	}
	return insertRows(ctx, tx, `relation (entity_id, source, type, target)`, add)
}

// origin is a relation with the entity that says so.
type origin struct {
	entity int64
	relation
}

// Remove deletes entities of a source, at most 10 (each has many postings), and gives those that were there. What another source brings stays.
func (s *Store) Remove(ctx context.Context, tx *store.Tx, source string, refs []slipway.EntityRef) ([]slipway.EntityRef, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	args := []any{source}
	for _, r := range refs {
		args = append(args, r.String())
	}
	rows, err := tx.QueryContext(ctx, `SELECT id, kind, namespace, name FROM entity WHERE source = $1 AND ref IN `+list(2, len(refs))+` ORDER BY ref`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var changes []Change
	var ids []any
	var removed []slipway.EntityRef
	err = store.Each(rows, func(rows *sql.Rows) error {
		c := Change{Action: Removed}
		if err := rows.Scan(&c.ID, &c.Ref.Kind, &c.Ref.Namespace, &c.Ref.Name); err != nil {
			return err
		}
		changes, ids, removed = append(changes, c), append(ids, c.ID), append(removed, c.Ref)
		return nil
	})
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	for _, statement := range []string{
		`DELETE FROM entity WHERE id IN `, // first, for its lock
		`DELETE FROM entity_term WHERE entity_id IN `,
		`DELETE FROM relation WHERE entity_id IN `,
	} {
		if _, err := tx.Exec(ctx, statement+list(1, len(ids)), ids...); err != nil {
			return nil, err
		}
	}
	return removed, s.changed(ctx, tx, changes)
}

func (s *Store) removeAll(ctx context.Context, source string, refs []slipway.EntityRef) ([]slipway.EntityRef, error) {
	var removed []slipway.EntityRef
	for part := range slices.Chunk(refs, 10) {
		var gone []slipway.EntityRef
		err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
			gone, err = s.Remove(ctx, tx, source, part)
			return err
		})
		if err != nil {
			return removed, err
		}
		removed = append(removed, gone...)
	}
	return removed, nil
}

// changed tells the rest of the system, inside the transaction. The revision comes last: its row is locked until the commit.
func (s *Store) changed(ctx context.Context, tx *store.Tx, changes []Change) error {
	if s.Announce != nil && len(changes) > 0 {
		if err := s.Announce(ctx, tx, changes); err != nil {
			return err
		}
	}
	if s.Revisions != nil {
		return s.Revisions.Bump(ctx, tx, Revision)
	}
	return nil
}

// insertRows inserts rows that may be there already, a hundred to a statement.
func insertRows(ctx context.Context, tx *store.Tx, into string, rows [][]any) error {
	for part := range slices.Chunk(rows, 100) {
		var args []any
		for _, r := range part {
			args = append(args, r...)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO `+into+` VALUES `+values(len(part), len(part[0]))+` ON CONFLICT DO NOTHING`, args...); err != nil {
			return err
		}
	}
	return nil
}

// list is "($2, $3, $4)": n arguments from start.
func list(start, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString([]string{"($", ", $"}[min(i, 1)])
		b.WriteString(strconv.Itoa(start + i))
	}
	b.WriteByte(')')
	return b.String()
}

// values is "($1, $2), ($3, $4)": rows of columns.
func values(rows, columns int) string {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(list(1+i*columns, columns))
	}
	return b.String()
}
