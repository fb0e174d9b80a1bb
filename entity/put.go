package entity

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// MaxRows is about how many rows a chunk of entities changes, and so how long it holds the writer.
const MaxRows = 495

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

// chunks splits entities, whose terms are stored, so that writing each stays within MaxRows. An entity that is larger comes alone: within the
// bounds of Check, it changes a thousand rows at most.
func chunks(described []*description) iter.Seq[[]*description] {
	return func(yield func([]*description) bool) {
		start, rows := 0, 0
		for i, d := range described {
			n := d.weight()
			if i > start && rows+n > MaxRows {
				if !yield(described[start:i]) {
					return
				}
				start, rows = i, 0
			}
			rows += n
		}
		if start < len(described) {
			yield(described[start:])
		}
	}
}

// weight is about how many rows an entity changes: itself, its event, its postings and its relations; all of which are others before, if
// it is there.
func (d *description) weight() int {
	rows := len(d.terms) + len(d.relations)
	if d.there {
		rows *= 2
	}
	return 2 + rows
}

// Put writes entities of a source, as few as stay within MaxRows (see PutAll). What is there already with the same content is not written; a
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

// put is Put for what is described already.
func (s *Store) put(ctx context.Context, tx *store.Tx, source string, described []*description) (PutResult, error) {
	var result PutResult
	var changes []Change
	var added, updated []*description
	there := func(d *description, old head) error {
		switch {
		case old.source != source && !old.orphan:
			result.Conflicts = append(result.Conflicts, Conflict{Ref: d.ref, Source: old.source})
		case old.etag == d.etag && old.source == source:
			result.Unchanged++
		default:
			d.id = old.id
			updated = append(updated, d)
			result.Updated = append(result.Updated, d.ref)
			changes = append(changes, Change{ID: d.id, Ref: d.ref, Action: Updated})
			return s.update(ctx, tx, d, source, old.uid)
		}
		return nil
	}
	sorted := slices.Clone(described) // everybody locks rows in one order
	slices.SortStableFunc(sorted, func(a, b *description) int { return strings.Compare(a.key, b.key) })
	stored, err := s.stored(ctx, tx, slices.DeleteFunc(slices.Clone(sorted), func(d *description) bool { return d.looked && !d.there }))
	if err != nil {
		return result, err
	}
	for i, d := range sorted {
		old, found := stored[d.key]
		switch {
		case i > 0 && sorted[i-1].key == d.key:
			result.Conflicts = append(result.Conflicts, Conflict{Ref: d.ref, Source: source})
		case found:
			if err := there(d, old); err != nil {
				return result, err
			}
		default:
			added = append(added, d)
		}
	}
	if err := s.insert(ctx, tx, added, source); err != nil {
		return result, err
	}
	faster := slices.DeleteFunc(slices.Clone(added), func(d *description) bool { return d.id != 0 })
	added = slices.DeleteFunc(added, func(d *description) bool { return d.id == 0 })
	for _, d := range added {
		result.Created = append(result.Created, d.ref)
		changes = append(changes, Change{ID: d.id, Ref: d.ref, Action: Created})
	}
	stored, err = s.stored(ctx, tx, faster) // another transaction has just put them
	if err != nil {
		return result, err
	}
	for _, d := range faster {
		old, found := stored[d.key]
		if !found { // and another has removed it again
			result.Conflicts = append(result.Conflicts, Conflict{Ref: d.ref})
		} else if err := there(d, old); err != nil {
			return result, err
		}
	}
	if len(added)+len(updated) == 0 {
		return result, nil
	}
	if err := s.putTerms(ctx, tx, added, updated); err != nil {
		return result, err
	}
	if err := s.putRelations(ctx, tx, added, updated); err != nil {
		return result, err
	}
	return result, s.changed(ctx, tx, changes)
}

// PutAll is Put for any number of entities: it opens a transaction per chunk, and none for what has not changed. Each entity is written whole or not at all; an error
// leaves what was written before it, and a repeat goes on from there. What it has written without an error is on disk.
func (s *Store) PutAll(ctx context.Context, source string, entities []*slipway.Entity) (PutResult, error) {
	var mu sync.Mutex
	var result PutResult
	put := func(ctx context.Context, chunk []*description, write func(context.Context, func(*store.Tx) error) error) error {
		var r PutResult
		err := write(ctx, func(tx *store.Tx) (err error) {
			for _, d := range chunk {
				d.id = 0 // of a try that was rolled back
			}
			r, err = s.put(ctx, tx, source, chunk)
			return err
		})
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			result.add(r)
		}
		return err
	}
	writing, within := errgroup.WithContext(ctx)
	writing.SetLimit(s.writers())
	var held []*description // the chunk to be written next: the last one settles all
	err := func() error {
		for part := range s.prepared(within, source, entities) {
			if part.err != nil {
				return part.err
			}
			mu.Lock()
			result.Unchanged += part.unchanged
			mu.Unlock()
			for chunk := range chunks(part.changed) {
				if before := held; before != nil {
					writing.Go(func() error { return put(within, before, s.db.WriteAhead) })
				}
				held = chunk
			}
		}
		return within.Err()
	}()
	if failed := writing.Wait(); failed != nil { // it may have ended the rest
		err = failed
	}
	if err != nil || held == nil {
		return result, err
	}
	return result, put(ctx, held, s.db.Write)
}

// writers is how many chunks are written at a time: SQLite has one writer, a connection of PostgreSQL one core.
func (s *Store) writers() int {
	if s.db.Engine() == store.SQLite {
		return 1
	}
	return 2
}

// prepared are some entities that can be written.
type prepared struct {
	changed   []*description // their terms have numbers
	unchanged int
	err       error // the last one has it
}

// prepareAtOnce is how many entities are made ready together: the more, the fewer pages hold their new terms, which are written in order.
const prepareAtOnce = 300

// prepared makes entities ready, the next while the last are being written.
func (s *Store) prepared(ctx context.Context, source string, entities []*slipway.Entity) iter.Seq[prepared] {
	prepare := func(ctx context.Context, part []*slipway.Entity) prepared {
		changed, err := s.withoutUnchanged(ctx, source, part)
		if err == nil {
			err = s.internFirst(ctx, changed)
		}
		return prepared{changed, len(part) - len(changed), err}
	}
	return func(yield func(prepared) bool) {
		ctx, cancel := context.WithCancel(ctx)
		ready := make(chan prepared)
		var preparing sync.WaitGroup
		defer preparing.Wait()
		defer cancel()
		preparing.Go(func() {
			defer close(ready)
			for part := range slices.Chunk(entities, prepareAtOnce) {
				select {
				case ready <- prepare(ctx, part):
				case <-ctx.Done():
					return
				}
			}
		})
		for part := range ready {
			if !yield(part) || part.err != nil {
				return
			}
		}
	}
}

// termIDs are terms with their numbers, which never change.
type termIDs map[term]int64

// maxTermIDs is how many terms are remembered.
const maxTermIDs = 20_000

// terms are those that were met more than once: what entities have in common.
type terms struct {
	mu  sync.Mutex
	ids termIDs
}

// known gives the numbers of those terms of entities that are remembered.
func (c *terms) known(described []*description) termIDs {
	known := termIDs{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range described {
		for _, t := range d.terms {
			t.kind = d.ref.Kind
			if id := c.ids[t]; id != 0 {
				known[t] = id
			}
		}
	}
	return known
}

// remember takes terms that were stored before.
func (c *terms) remember(found termIDs) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil || len(c.ids)+len(found) > maxTermIDs {
		c.ids = termIDs{}
	}
	maps.Copy(c.ids, found)
}

// internFirst gives the terms of entities their numbers in transactions of their own: those of the entities are shorter then, and hold no
// lock on what other entities share.
func (s *Store) internFirst(ctx context.Context, described []*description) error {
	known := s.terms.known(described)
	there := termIDs{}
	if err := s.lookUp(ctx, s.db, unknown(described, known), there); err != nil { // outside of transactions, which hold up others
		return err
	}
	maps.Copy(known, there)
	for part := range slices.Chunk(unknown(described, known), MaxRows) {
		var added termIDs                                      // known once they are committed
		err := s.db.WriteAhead(ctx, func(tx *store.Tx) error { // the entities settle them
			added = termIDs{}
			return s.addTerms(ctx, tx, part, added)
		})
		if err != nil {
			return err
		}
		maps.Copy(known, added)
	}
	s.terms.remember(there)
	number(described, known)
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
	refs, err := s.BySource(ctx, source, func(ref string) bool { return keep[ref] })
	if err != nil {
		return result, err
	}
	result.Removed, err = s.removeAll(ctx, source, refs)
	return result, err
}

// withoutUnchanged describes entities and leaves out what is stored with the same content already.
func (s *Store) withoutUnchanged(ctx context.Context, source string, entities []*slipway.Entity) ([]*description, error) {
	described := make([]*description, len(entities))
	for i, e := range entities {
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
	return slices.DeleteFunc(described, func(d *description) bool {
		old, there := stored[d.key]
		d.looked, d.there = true, there
		return there && old.source == source && old.etag == d.etag
	}), nil
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
	args = padded(args)
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

// insert adds entities, in one statement, and gives those that were not there their ids.
func (s *Store) insert(ctx context.Context, tx *store.Tx, added []*description, source string) error {
	if len(added) == 0 {
		return nil
	}
	const columns = 14
	args := make([]any, 0, len(added)*columns)
	byRef := make(map[string]*description, len(added))
	for _, d := range added {
		uid := uuid.Must(uuid.NewV7()).String()
		args = append(args, d.key, uid, d.etag, d.ref.Kind, d.ref.Namespace, d.ref.Name, d.kind, d.lifecycle, d.title, d.owner, d.system, source, d.document(uid), store.At(s.now()))
		byRef[d.key] = d
	}
	rows, err := tx.QueryContext(ctx, `INSERT INTO entity (ref, uid, etag, kind, namespace, name, type, lifecycle, title, owner, system, source, doc, updated_at)
		VALUES `+s.values(len(added), columns)+` ON CONFLICT (ref) DO NOTHING RETURNING id, ref`, args...)
	if err != nil {
		return store.Err(err)
	}
	return store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		var ref string
		err := rows.Scan(&id, &ref)
		byRef[ref].id = id
		return err
	})
}

func (s *Store) update(ctx context.Context, tx *store.Tx, d *description, source, uid string) error {
	_, err := tx.Exec(ctx, `UPDATE entity SET etag = $2, type = $3, lifecycle = $4, title = $5, owner = $6, system = $7, doc = $8, updated_at = $9,
		source = $10, status = NULL, orphaned_at = NULL WHERE id = $1`,
		d.id, d.etag, d.kind, d.lifecycle, d.title, d.owner, d.system, d.document(uid), store.At(s.now()), source)
	return err
}

// putTerms makes the postings of entities be those of their descriptions, writing only the difference. The entities' rows are
// written before, so that nobody else changes their postings at the same time.
func (s *Store) putTerms(ctx context.Context, tx *store.Tx, added, updated []*description) error {
	written := slices.Concat(added, updated)
	if err := s.intern(ctx, tx, written); err != nil {
		return err
	}
	type posting struct{ term, entity int64 }
	want := map[posting]bool{}
	for _, d := range written {
		for _, id := range d.termIDs {
			want[posting{id, d.id}] = true
		}
	}
	gone := map[int64][]any{} // terms by entity
	err := eachOf(ctx, tx, `SELECT term_id, entity_id FROM entity_term WHERE entity_id IN `, updated, func(rows *sql.Rows) error {
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
	add := slices.SortedFunc(maps.Keys(want), func(a, b posting) int {
		return cmp.Or(cmp.Compare(a.term, b.term), cmp.Compare(a.entity, b.entity))
	})
	terms, entities := make([]int64, len(add)), make([]int64, len(add))
	for i, p := range add {
		terms[i], entities[i] = p.term, p.entity
	}
	return s.insertRows(ctx, tx, `entity_term (term_id, entity_id)`, terms, entities)
}

// eachOf reads rows of entities that were there before.
func eachOf(ctx context.Context, tx *store.Tx, query string, of []*description, f func(*sql.Rows) error) error {
	if len(of) == 0 {
		return nil
	}
	var ids []any
	for _, d := range of {
		ids = append(ids, d.id)
	}
	ids = padded(ids)
	rows, err := tx.QueryContext(ctx, query+list(1, len(ids)), ids...)
	if err != nil {
		return store.Err(err)
	}
	return store.Each(rows, f)
}

// intern gives the terms of entities their numbers, where that has not been done before.
func (s *Store) intern(ctx context.Context, tx *store.Tx, written []*description) error {
	written = slices.DeleteFunc(slices.Clone(written), func(d *description) bool { return d.termIDs != nil })
	ids := termIDs{}
	missing := unknown(written, ids)
	if err := s.lookUp(ctx, tx, missing, ids); err != nil {
		return err
	}
	missing = slices.DeleteFunc(missing, func(t term) bool { return ids[t] != 0 })
	if err := s.addTerms(ctx, tx, missing, ids); err != nil {
		return err
	}
	number(written, ids)
	return nil
}

// unknown lists the terms of entities that have no number yet, in order: two transactions with the same new terms then wait for one
// another and do not deadlock.
func unknown(described []*description, known termIDs) []term {
	var terms []term
	for _, d := range described {
		for _, t := range d.terms {
			t.kind = d.ref.Kind
			if known[t] == 0 {
				terms = append(terms, t)
			}
		}
	}
	slices.SortFunc(terms, func(a, b term) int { return cmpStrings(a.key, b.key, a.kind, b.kind, a.value, b.value) })
	return slices.Compact(terms)
}

func number(described []*description, ids termIDs) {
	for _, d := range described {
		d.termIDs = make([]int64, len(d.terms))
		for i, t := range d.terms {
			d.termIDs[i] = ids[term{d.ref.Kind, t.key, t.value}]
		}
	}
}

// addTerms stores new terms and gives all of them their numbers, also those that another transaction was faster to store.
func (s *Store) addTerms(ctx context.Context, tx *store.Tx, terms []term, ids termIDs) error {
	for table, args := range s.tables(termColumns(terms)...) {
		rows, err := tx.QueryContext(ctx, `INSERT INTO term (kind, key, value) `+table+` ON CONFLICT DO NOTHING RETURNING id, kind, key, value`, args...)
		if err != nil {
			return store.Err(err)
		}
		if err := ids.scan(rows); err != nil {
			return err
		}
	}
	return s.lookUp(ctx, tx, slices.DeleteFunc(slices.Clone(terms), func(t term) bool { return ids[t] != 0 }), ids)
}

func termColumns(terms []term) []any {
	kinds, keys, values := make([]string, len(terms)), make([]string, len(terms)), make([]string, len(terms))
	for i, t := range terms {
		kinds[i], keys[i], values[i] = t.kind, t.key, t.value
	}
	return []any{kinds, keys, values}
}

func (t termIDs) scan(rows *sql.Rows) error {
	return store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		var found term
		err := rows.Scan(&id, &found.kind, &found.key, &found.value)
		if id != 0 { // else there is none yet
			t[found] = id
		}
		return err
	})
}

// lookUp finds the numbers of terms. Each is asked for by itself: joined as a set, PostgreSQL would read the whole table for them.
func (s *Store) lookUp(ctx context.Context, q store.Querier, terms []term, ids termIDs) error {
	for table, args := range s.tables(termColumns(terms)...) {
		rows, err := q.QueryContext(ctx, `SELECT COALESCE((SELECT t.id FROM term t WHERE t.key = w.column2 AND t.kind = w.column1 AND t.value = w.column3), 0),
			w.column1, w.column2, w.column3 FROM (`+table+`) w`, args...)
		if err != nil {
			return store.Err(err)
		}
		if err := ids.scan(rows); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) putRelations(ctx context.Context, tx *store.Tx, added, updated []*description) error {
	want := map[origin]bool{}
	for _, d := range slices.Concat(added, updated) {
		for _, r := range d.relations {
			want[origin{d.id, r}] = true
		}
	}
	refs, ids := make([]string, len(updated)), make([]int64, len(updated))
	for i, d := range updated {
		refs[i], ids[i] = d.key, d.id
	}
	said, err := relationsSaid(ctx, tx, refs, ids)
	if err != nil {
		return err
	}
	var gone []origin
	for _, r := range said {
		if !want[r] {
			gone = append(gone, r)
		}
		delete(want, r)
	}
	if err := s.deleteRelations(ctx, tx, gone); err != nil {
		return err
	}
	return s.insertRows(ctx, tx, `relation (entity_id, source, type, target)`, relationColumns(slices.Collect(maps.Keys(want)))...)
}

// origin is a relation with the entity that says so.
type origin struct {
	entity int64
	relation
}

// relationsSaid gives the relations that entities have said, in both directions. What an entity says begins with its own ref, so that the other direction follows.
func relationsSaid(ctx context.Context, tx *store.Tx, refs []string, ids []int64) ([]origin, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	args := make([]any, len(refs))
	for i, ref := range refs {
		args[i] = ref
	}
	args = padded(args)
	rows, err := tx.QueryContext(ctx, `SELECT entity_id, source, type, target FROM relation WHERE source IN `+list(1, len(args)), args...)
	if err != nil {
		return nil, store.Err(err)
	}
	said := map[origin]bool{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var r origin
		err := rows.Scan(&r.entity, &r.source, &r.kind, &r.target)
		if at := slices.Index(ids, r.entity); at >= 0 && refs[at] == r.source { // else a neighbour has said it
			said[r] = true
			said[origin{r.entity, relation{r.target, inverse[r.kind], r.source}}] = true
		}
		return err
	})
	return slices.Collect(maps.Keys(said)), err
}

func (s *Store) deleteRelations(ctx context.Context, tx *store.Tx, gone []origin) error {
	for table, args := range s.tables(relationColumns(gone)...) {
		// SQLite takes the key for a SELECT alone, and reads the whole table for VALUES.
		if _, err := tx.Exec(ctx, `DELETE FROM relation WHERE (source, type, target, entity_id) IN (SELECT column2, column3, column4, column1 FROM (`+table+`) w)`, args...); err != nil {
			return err
		}
	}
	return nil
}

// relationColumns are relations in the order of their key.
func relationColumns(relations []origin) []any {
	slices.SortFunc(relations, func(a, b origin) int {
		return cmp.Or(cmpStrings(a.source, b.source, a.kind, b.kind, a.target, b.target), cmp.Compare(a.entity, b.entity))
	})
	var entities []int64
	var sources, types, targets []string
	for _, r := range relations {
		entities, sources, types, targets = append(entities, r.entity), append(sources, r.source), append(types, r.kind), append(targets, r.target)
	}
	return []any{entities, sources, types, targets}
}

// ofSource holds for entities of the source $1 that have one of the refs that follow. The empty text has SQLite look the refs up: it would walk through all that the source brings.
const ofSource = `source || '' = $1 AND ref IN `

// Remove deletes entities of a source, at most 10 (each has many postings), and gives those that were there. What another source brings stays.
func (s *Store) Remove(ctx context.Context, tx *store.Tx, source string, refs []slipway.EntityRef) ([]slipway.EntityRef, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	args := []any{source}
	for _, r := range refs {
		args = append(args, r.String())
	}
	rows, err := tx.QueryContext(ctx, `SELECT id, kind, namespace, name FROM entity WHERE `+ofSource+list(2, len(refs))+` ORDER BY ref`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var changes []Change
	var all []any
	var ids []int64
	var keys []string
	var removed []slipway.EntityRef
	err = store.Each(rows, func(rows *sql.Rows) error {
		c := Change{Action: Removed}
		if err := rows.Scan(&c.ID, &c.Ref.Kind, &c.Ref.Namespace, &c.Ref.Name); err != nil {
			return err
		}
		changes, all, ids, keys, removed = append(changes, c), append(all, c.ID), append(ids, c.ID), append(keys, c.Ref.String()), append(removed, c.Ref)
		return nil
	})
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	for _, statement := range []string{
		`DELETE FROM entity WHERE id IN `, // first, for its lock
		`DELETE FROM entity_term WHERE entity_id IN `,
	} {
		if _, err := tx.Exec(ctx, statement+list(1, len(ids)), all...); err != nil {
			return nil, err
		}
	}
	said, err := relationsSaid(ctx, tx, keys, ids)
	if err != nil {
		return nil, err
	}
	if err := s.deleteRelations(ctx, tx, said); err != nil {
		return nil, err
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

// statementRows is how many rows one statement of SQLite has at most.
const statementRows = 256

// tables gives rows as statements take them, with their arguments, in as many parts as needed: "VALUES (?, ?), (?, ?)", or their equal of PostgreSQL, which takes
// whole columns: one statement for any number of rows, and one argument for each column. The columns, at least one, are slices of one length and are called column1 and so on. On SQLite the
// rows of a part are a power of two: statements of few lengths are kept compiled.
func (s *Store) tables(columns ...any) iter.Seq2[string, []any] {
	if s.db.Engine() == store.Postgres {
		return s.unnested(columns)
	}
	return func(yield func(string, []any) bool) {
		for from, rows := 0, lengthOf(columns[0]); from < rows; {
			n := statementRows
			for n > rows-from {
				n /= 2
			}
			args := make([]any, 0, n*len(columns))
			for i := from; i < from+n; i++ {
				for _, c := range columns {
					switch c := c.(type) {
					case []int64:
						args = append(args, c[i])
					case []string:
						args = append(args, c[i])
					}
				}
			}
			// The driver looks for each argument by its name, through all of them, unless it has none.
			row := "(?" + strings.Repeat(", ?", len(columns)-1) + ")"
			if !yield("VALUES "+row+strings.Repeat(", "+row, n-1), args) {
				return
			}
			from += n
		}
	}
}

func (s *Store) unnested(columns []any) iter.Seq2[string, []any] {
	return func(yield func(string, []any) bool) {
		if lengthOf(columns[0]) == 0 {
			return
		}
		var arrays, names []string
		for i, c := range columns {
			element := "TEXT"
			if _, ok := c.([]int64); ok {
				element = "BIGINT"
			}
			arrays, names = append(arrays, fmt.Sprintf("CAST($%d AS %s[])", i+1, element)), append(names, fmt.Sprintf("column%d", i+1))
		}
		yield("SELECT * FROM UNNEST("+strings.Join(arrays, ", ")+") u("+strings.Join(names, ", ")+")", columns)
	}
}

func lengthOf(column any) int {
	if ints, ok := column.([]int64); ok {
		return len(ints)
	}
	return len(column.([]string))
}

// insertRows inserts rows that are not there, given as columns.
func (s *Store) insertRows(ctx context.Context, tx *store.Tx, into string, columns ...any) error {
	for table, args := range s.tables(columns...) {
		if _, err := tx.Exec(ctx, `INSERT INTO `+into+` `+table, args...); err != nil {
			return err
		}
	}
	return nil
}

// padded repeats the last argument until there are a power of two: statements of few lengths are kept compiled. It is for lists in which one may stand twice.
func padded(args []any) []any {
	padded := slices.Clone(args)
	for n := len(args); n > 0 && n&(n-1) != 0; n++ {
		padded = append(padded, args[len(args)-1])
	}
	return padded
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

// values is "($1, $2), ($3, $4)": rows of columns, for statements that have no other arguments. SQLite's driver looks for each argument by its name, through all of them, unless
// it has none.
func (s *Store) values(rows, columns int) string {
	if s.db.Engine() == store.SQLite {
		row := "(?" + strings.Repeat(", ?", columns-1) + ")"
		return row + strings.Repeat(", "+row, rows-1)
	}
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(list(1+i*columns, columns))
	}
	return b.String()
}
