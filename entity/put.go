package entity

import (
	"cmp"
	"context"
	"database/sql"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"

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
	stored, err := s.stored(ctx, tx, described)
	if err != nil {
		return result, err
	}
	sorted := slices.Clone(described) // everybody locks rows in one order
	slices.SortStableFunc(sorted, func(a, b *description) int { return strings.Compare(a.key, b.key) })
	var changes []Change
	var added, updated []*description
	for i, d := range sorted {
		old, there := stored[d.key]
		switch {
		case i > 0 && sorted[i-1].key == d.key:
			result.Conflicts = append(result.Conflicts, Conflict{Ref: d.ref, Source: source})
		case there && old.source != source && !old.orphan:
			result.Conflicts = append(result.Conflicts, Conflict{Ref: d.ref, Source: old.source})
		case there && old.etag == d.etag && old.source == source:
			result.Unchanged++
		case there:
			d.id = old.id
			if err := s.update(ctx, tx, d, source, old.uid); err != nil {
				return result, err
			}
			updated = append(updated, d)
			result.Updated = append(result.Updated, d.ref)
			changes = append(changes, Change{ID: d.id, Ref: d.ref, Action: Updated})
		default:
			added = append(added, d)
		}
	}
	if err := s.insert(ctx, tx, added, source); err != nil {
		return result, err
	}
	for _, d := range added {
		if d.id == 0 { // another transaction has just put it; it will be seen as a conflict, or as unchanged, next time
			result.Conflicts = append(result.Conflicts, Conflict{Ref: d.ref})
			continue
		}
		result.Created = append(result.Created, d.ref)
		changes = append(changes, Change{ID: d.id, Ref: d.ref, Action: Created})
	}
	added = slices.DeleteFunc(added, func(d *description) bool { return d.id == 0 })
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
	var result PutResult
	var held []*description // the chunk to be written next: the last one settles all
	put := func(write func(context.Context, func(*store.Tx) error) error) error {
		if len(held) == 0 {
			return nil
		}
		var r PutResult
		err := write(ctx, func(tx *store.Tx) (err error) {
			for _, d := range held {
				d.id = 0 // of a try that was rolled back
			}
			r, err = s.put(ctx, tx, source, held)
			return err
		})
		if err == nil {
			result.add(r)
		}
		return err
	}
	for part := range s.prepared(ctx, source, entities) {
		if part.err != nil {
			return result, part.err
		}
		result.Unchanged += part.unchanged
		for chunk := range chunks(part.changed) {
			if err := put(s.db.WriteAhead); err != nil {
				return result, err
			}
			held = chunk
		}
	}
	if err := ctx.Err(); err != nil {
		return result, err
	}
	return result, put(s.db.Write)
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
		d.there = there
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
	rows := make([]any, 0, 2*len(add))
	for _, p := range add {
		rows = append(rows, p.term, p.entity)
	}
	return s.insertRows(ctx, tx, `entity_term (term_id, entity_id)`, 2, rows)
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
	for part := range slices.Chunk(terms, statementRows) {
		args := termArgs(part)
		rows, err := tx.QueryContext(ctx, `INSERT INTO term (kind, key, value) VALUES `+s.values(len(args)/3, 3)+` ON CONFLICT DO NOTHING RETURNING id, kind, key, value`, args...)
		if err != nil {
			return store.Err(err)
		}
		if err := ids.scan(rows); err != nil {
			return err
		}
	}
	return s.lookUp(ctx, tx, slices.DeleteFunc(slices.Clone(terms), func(t term) bool { return ids[t] != 0 }), ids)
}

func termArgs(terms []term) []any {
	args := make([]any, 0, 3*len(terms))
	for _, t := range terms {
		args = append(args, t.kind, t.key, t.value)
	}
	return padded(args, 3)
}

func (t termIDs) scan(rows *sql.Rows) error {
	return store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		var found term
		err := rows.Scan(&id, &found.kind, &found.key, &found.value)
		t[found] = id
		return err
	})
}

func (s *Store) lookUp(ctx context.Context, q store.Querier, terms []term, ids termIDs) error {
	for part := range slices.Chunk(terms, statementRows) {
		args := termArgs(part)
		rows, err := q.QueryContext(ctx, `SELECT id, kind, key, value FROM term WHERE (kind, key, value) IN (VALUES `+s.values(len(args)/3, 3)+`)`, args...)
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
	var gone []origin
	err := eachOf(ctx, tx, `SELECT entity_id, source, type, target FROM relation WHERE entity_id IN `, updated, func(rows *sql.Rows) error {
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
	rows := make([]any, 0, 4*len(want))
	for r := range want {
		rows = append(rows, r.entity, r.source, r.kind, r.target)
	}
	return s.insertRows(ctx, tx, `relation (entity_id, source, type, target)`, 4, rows)
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

// statementRows is how many rows one statement writes at most.
const statementRows = 256

// insertRows inserts rows, of so many columns each, that may be there already.
func (s *Store) insertRows(ctx context.Context, tx *store.Tx, into string, columns int, rows []any) error {
	for part := range slices.Chunk(rows, statementRows*columns) {
		args := padded(part, columns)
		if _, err := tx.Exec(ctx, `INSERT INTO `+into+` VALUES `+s.values(len(args)/columns, columns)+` ON CONFLICT DO NOTHING`, args...); err != nil {
			return err
		}
	}
	return nil
}

// padded repeats the last row, of one column or of so many, until there are a power of two: statements of few lengths are kept compiled. It is
// for statements that mean the same with a row twice.
func padded(args []any, columns ...int) []any {
	n := append(columns, 1)[0]
	rows := len(args) / n
	if rows == 0 {
		return args
	}
	last := args[len(args)-n:]
	padded := slices.Clone(args)
	for ; rows&(rows-1) != 0; rows++ {
		padded = append(padded, last...)
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
