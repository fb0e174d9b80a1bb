package entity

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Condition is one condition of a filter: a field has one of the values or, without values, is there. Keys are paths such as
// spec.type or metadata.annotations.github.com/project-slug, or relations.<type>; keys and values compare in
// lower case. A field of a list has each of its items. Fields longer than 200 bytes can only be asked for being there, and a map is there
// when something is in it.
type Condition struct {
	Key    string
	Values []string
}

// Order is a field to sort by. Entities without it come last, in both directions.
type Order struct {
	Key  string
	Desc bool
}

// Query says which entities to list, in which order, and from where.
type Query struct {
	Filters [][]Condition // one of these sets must hold, with all of its conditions; none: everything
	Where   *Predicate    // and this
	Text    *Text         // and this is found
	Order   []Order       // then by ref, ascending; none: by ref
	Limit   int           // 1 to 1,000
	After   *Mark         // the last row of the page before
	Before  *Mark         // the first row of the page after: the page that ends before it, in the same order. Not together with After
	Offset  int           // how many to leave out; costs as much as reading them, so page with After
}

// Mark is where a page ended: the values of the order's fields in its last row, null for none, and its ref.
type Mark struct {
	Values []*string `json:"v,omitempty"`
	Ref    string    `json:"r"`
}

// List gives the entities of a query that the caller may read, as in a Page, and the mark to go on from, nil on the last page. With Before it goes on
// backwards, and nil stands for the first page. At most two round trips: one asks how long the posting lists of the filter are, unless that
// was asked a moment ago, one reads the page. A page may be shorter than the limit though there is more: it ends after 16 MiB of documents.
func (s *Store) List(ctx context.Context, caller *slipway.Caller, q Query) ([]Row, *Mark, error) {
	page, err := s.Page(ctx, caller, q)
	next := page.Next
	if q.Before != nil {
		next = page.Previous
	}
	return page.Rows, next, err
}

// Page is a page of a list, of whose rows only ID, Ref and JSON are filled in. A mark that is nil says that there is nothing on that side, as far as the page knows: one that was read
// forwards from a mark has something before it.
type Page struct {
	Rows           []Row
	Previous, Next *Mark
}

// maxPage is after how many bytes of documents a page ends, whatever its limit.
const maxPage = 16 << 20

var errFull = errors.New("the page is full")

// Page is List with the marks of both sides.
func (s *Store) Page(ctx context.Context, caller *slipway.Caller, q Query) (Page, error) {
	if q.Limit < 1 || q.Limit > 1000 || q.Offset < 0 {
		return Page{}, slipway.Errorf(slipway.Invalid, "limit must be from 1 to 1000, and offset not negative")
	}
	for _, m := range []*Mark{q.After, q.Before} {
		if m != nil && len(m.Values) != len(q.Order) {
			return Page{}, slipway.Errorf(slipway.Invalid, "the cursor belongs to another order; start again without it")
		}
	}
	for _, o := range q.Order {
		if !storable(o.Key) {
			return Page{}, slipway.Errorf(slipway.Invalid, "order %q names no field", strings.ToValidUTF8(o.Key, "?"))
		}
	}
	b := s.builder(caller)
	if q.After != nil && len(q.Order) == 0 {
		b.floor = q.After.Ref
	}
	if q.Before != nil && len(q.Order) == 0 {
		b.ceiling = q.Before.Ref
	}
	if len(q.Order) > 0 {
		b.byName = strings.EqualFold(q.Order[0].Key, "metadata.name")
		b.unordered = !b.byName
	}
	some, err := s.filter(ctx, b, q)
	if err != nil || !some {
		return Page{}, err
	}
	// The page first, with what it is sorted by; then its documents: a driven page sorts more rows than it shows.
	page, order, marked := b.page(q)
	columns, more := documentColumns(caller, len(b.args)+1)
	b.args = append(b.args, more...)
	statement := b.with + `SELECT ` + columns + marked + ` FROM (` + page + `) p CROSS JOIN entity e WHERE e.id = p.id ORDER BY ` + order
	rows, err := s.read.QueryContext(ctx, statement, b.args...)
	if err != nil {
		return Page{}, store.Err(err)
	}
	values := make([]*string, len(q.Order)) // what a row is sorted by
	sorted := make([]any, len(values))
	for i := range values {
		sorted[i] = &values[i]
	}
	p := Page{Rows: make([]Row, 0, min(q.Limit, 50))}
	var first, last Mark
	size, further := 0, false
	row := newDocumentRow(sorted...)
	err = store.Each(rows, func(rows *sql.Rows) error {
		if len(p.Rows) == q.Limit { // one more was asked for to know this
			further = true
			return nil
		}
		r, err := row.scan(rows)
		if err != nil {
			return err
		}
		if size += len(r.JSON); size > maxPage && len(p.Rows) > 0 {
			further = true
			return errFull
		}
		if p.Rows = append(p.Rows, r); len(p.Rows) == 1 {
			first = Mark{append([]*string(nil), values...), row.ref}
		}
		last = Mark{append(last.Values[:0], values...), row.ref}
		return nil
	})
	if err != nil && !errors.Is(err, errFull) || len(p.Rows) == 0 {
		return Page{}, err
	}
	if q.Before != nil {
		slices.Reverse(p.Rows)
		if p.Next = &first; further {
			p.Previous = &last
		}
		return p, nil
	}
	if q.After != nil || q.Offset > 0 {
		p.Previous = &first
	}
	if further {
		p.Next = &last
	}
	return p, nil
}

// Among reads those of some entities, at most 1,000, that a query's conditions hold for and the caller may read, by canonical ref.
func (s *Store) Among(ctx context.Context, caller *slipway.Caller, refs []slipway.EntityRef, q Query) (map[string]Row, error) {
	if q.Filters == nil && q.Where == nil && q.Text == nil {
		return s.ByRefs(ctx, s.read, caller, refs)
	}
	found := make(map[string]Row, len(refs))
	if len(refs) > 1000 {
		return nil, slipway.Errorf(slipway.Invalid, "at most 1,000 entities at once")
	}
	if len(refs) == 0 {
		return found, nil
	}
	b := s.builder(caller)
	b.unordered = true
	names := make([]string, len(refs))
	for i, r := range refs {
		names[i] = r.String()
	}
	b.where = append(b.where, `e.ref`+b.in(names))
	some, err := s.filter(ctx, b, q)
	if err != nil || !some {
		return found, err
	}
	columns, more := rowColumns(caller, len(b.args)+1)
	rows, err := s.read.QueryContext(ctx, b.with+`SELECT `+columns+` FROM `+b.from+` WHERE `+strings.Join(b.where, ` AND `), append(b.args, more...)...)
	if err != nil {
		return nil, store.Err(err)
	}
	return found, collect(rows, found)
}

// Count says how many entities of a query the caller may read, wherever its page begins. It costs as much as reading the keys of all of
// them, once for every revision of the catalog.
func (s *Store) Count(ctx context.Context, caller *slipway.Caller, q Query) (int64, error) {
	return remembered(s, caller, "count", nil, q, func() (n int64, err error) {
		q.Order = nil
		b := s.builder(caller)
		b.unordered = q.Text == nil // names and titles are searched in the order of refs
		some, err := s.filter(ctx, b, q)
		if err != nil || !some {
			return 0, err
		}
		if b.lists != nil {
			ids, err := s.matching(ctx, b)
			return ids.len(), err
		}
		err = s.read.QueryRowContext(ctx, b.with+`SELECT COUNT(*) FROM `+b.from+` WHERE `+strings.Join(b.where, ` AND `), b.args...).Scan(&n)
		return n, store.Err(err)
	})
}

// builder collects a statement.
type builder struct {
	with, from string
	where      []string
	args       []any
	floor      string      // the ref after which the page begins, when that is the order
	ceiling    string      // the ref before which it ends
	unordered  bool        // in no order that an index has: what matches is counted, or sorted
	byName     bool        // in the order of names
	lists      []statement // whose lists of ids have in common what is asked for, where indexes know it all
	reader     *slipway.Caller
	engine     store.Engine
	driven     int // how many entities drive at most
}

// statement is one with its arguments.
type statement struct {
	text string
	args []any
}

func (s *Store) builder(caller *slipway.Caller) *builder {
	b := &builder{engine: s.db.Engine()}
	b.caller(caller)
	return b
}

// visible is visibleTarget for the caller of the statement.
func (b *builder) visible(column string) string {
	condition, args := visibleTarget(b.reader, column, len(b.args)+1)
	b.args = append(b.args, args...)
	return condition
}

func (b *builder) arg(v any) string {
	b.args = append(b.args, v)
	return fmt.Sprintf("$%d", len(b.args))
}

func (b *builder) in(values []string) string {
	if len(values) == 1 {
		return " = " + b.arg(values[0])
	}
	holders := make([]string, len(values))
	for i, v := range values {
		holders[i] = b.arg(v)
	}
	return " IN (" + strings.Join(holders, ", ") + ")"
}

func (b *builder) caller(caller *slipway.Caller) {
	condition, args := Readable(caller, "e", len(b.args)+1)
	b.reader = caller
	b.from, b.where, b.args = "entity e", append(b.where, condition), append(b.args, args...)
}

// columnOf names the column of the fields that have one.
var columnOf = map[string]string{
	"kind":               "e.kind",
	"metadata.namespace": "e.namespace",
	"metadata.name":      "e.name",
	"metadata.uid":       "e.uid",
	"metadata.title":     "e.title",
	"spec.type":          "e.type",
	"spec.lifecycle":     "e.lifecycle",
}

// MaxConditions is how many conditions a query has at most, in all sets of its filter and in its predicate: each asks a table of its own.
const MaxConditions = 100

// driveMost, unless a test says otherwise, is how many postings a list may have so that reading all of them, and sorting what they name, is cheaper than
// walking the entities in order and asking each.
const driveMost = 1000

// part is one condition of one set, planned.
type part struct {
	column   string   // a column, or
	relation string   // a relation, or
	key      string   // a field with postings
	under    []string // columns that lie below the key
	values   []string // sorted; none: the field is there
	terms    []int64  // the postings of the values
	count    int      // of postings, at most driveMost+1; -1 when it cannot drive
}

// filter adds the sets of a filter to a statement. False: nothing can match.
//
// No single form is right. A short posting list drives: its entities are read and sorted. Else the entities are walked in
// order, and each is asked for the rest; with long lists the page is soon full.
func (s *Store) filter(ctx context.Context, b *builder, q Query) (bool, error) {
	if q.Text != nil && q.Text.Term != "" {
		b.where = append(b.where, b.search(q.Text))
	}
	filters, where := q.Filters, q.Where
	conditions := 0
	for _, f := range filters {
		conditions += len(f)
	}
	where.leaves(func(*Condition) { conditions++ })
	if conditions > MaxConditions {
		return false, slipway.Errorf(slipway.Invalid, "the query has more than %d conditions in all; ask in several queries, or for several values of a field in one condition", MaxConditions)
	}
	if where != nil && len(filters) == 0 {
		sets, whole := where.sets()
		if filters = sets; whole {
			where = nil
		}
	}
	var sets, leaves [][]*part
	for _, f := range filters {
		if set := parts(f); len(set) > 0 {
			sets = append(sets, set)
		}
	}
	leaf := map[*Condition]*part{}
	where.leaves(func(c *Condition) {
		set := parts([]Condition{*c})
		leaf[c], leaves = set[0], append(leaves, set)
	})
	if err := s.plan(ctx, append(leaves, sets...)); err != nil {
		return false, err
	}
	if where != nil {
		b.where = append(b.where, b.compile(where, leaf))
	}
	if len(sets) == 0 {
		return true, nil // an empty set is no condition
	}
	sets = slices.DeleteFunc(sets, func(set []*part) bool {
		return slices.ContainsFunc(set, func(p *part) bool { return p.count == 0 })
	})
	if len(sets) == 0 {
		return false, nil
	}

	drivers, total := make([]*part, len(sets)), 0
	for i, set := range sets {
		for _, p := range set {
			if p.count >= 0 && (drivers[i] == nil || p.count < drivers[i].count) {
				drivers[i] = p
			}
		}
		if drivers[i] == nil {
			total = s.driveMost + 1
			break
		}
		total += drivers[i].count
	}
	drive := total <= s.driveMost
	if drive {
		b.driven = total
		var selects []string
		for i, p := range drivers {
			selects = append(selects, p.postings(b, kindsOf(sets[i])))
		}
		b.with = `WITH d AS MATERIALIZED (` + strings.Join(selects, ` UNION `) + `) `
		b.from = `d CROSS JOIN entity e`
		b.where = append(b.where, `e.id = d.entity_id`)
	}
	if !drive && len(b.where) == 1 && len(sets) == 1 && All(b.reader, ReadPermission) { // nothing but one set
		b.lists = lists(sets[0])
	}
	var or []string
	for i, set := range sets {
		var and []string
		ordered := !drive && len(sets) == 1 && !b.unordered
		if ordered && !b.byName && slices.ContainsFunc(set, func(p *part) bool { return p.column == "e.type" && p.values != nil }) {
			ordered = false // kind and type have an index in the order of refs
		}
		for _, p := range set {
			if drive && len(sets) == 1 && p == drivers[i] {
				continue // it holds for all that it drives
			}
			and = append(and, p.condition(b, ordered))
		}
		if and != nil {
			or = append(or, `(`+strings.Join(and, ` AND `)+`)`)
		}
	}
	if or != nil {
		b.where = append(b.where, `(`+strings.Join(or, ` OR `)+`)`)
	}
	return true, nil
}

// lists gives statements for the ids of the entities of each part of a set, which have in common those of the set: what posting lists and
// the index of kinds, types and lifecycles hold. Nil: the set asks for more, or for so little that one statement does.
func lists(set []*part) []statement {
	var lists []statement
	var columns []string
	for _, p := range set {
		switch {
		case p.terms != nil:
			lists = append(lists, statement{text: `SELECT STRING_AGG(CAST(entity_id AS TEXT), ',') FROM entity_term WHERE term_id IN (` + numbers(p.terms) + `)`})
		case (p.column == "e.kind" || p.column == "e.type" || p.column == "e.lifecycle") && p.values != nil:
			columns = append(columns, p.column)
		default:
			return nil
		}
	}
	if lists == nil || len(columns) == 0 || len(columns) == 1 && columns[0] == "e.kind" { // the terms are per kind
		return lists
	}
	var b builder
	var and []string
	for _, p := range set {
		if p.terms == nil {
			and = append(and, p.column+b.in(p.values))
		}
	}
	return append(lists, statement{`SELECT ` + idList + ` FROM entity e WHERE ` + strings.Join(and, ` AND `), b.args})
}

// parts brings the conditions of a set together by key: several values of one key are alternatives.
func parts(conditions []Condition) []*part {
	byKey := map[string]*part{}
	var set []*part
	for _, c := range conditions {
		key := strings.ToLower(c.Key)
		p := byKey[key]
		if p == nil {
			p = &part{key: key, count: -1}
			p.column = columnOf[key]
			if name, ok := strings.CutPrefix(key, "relations."); ok {
				p.relation = relationNames[name]
				if p.relation == "" {
					p.count = 0 // no relation has this name
				}
			}
			if !storable(key) {
				p.count = 0
			}
			byKey[key] = p
			set = append(set, p)
		}
		for _, v := range c.Values {
			if v = strings.ToLower(v); !slices.Contains(p.values, v) && storable(v) {
				p.values = append(p.values, v)
			}
		}
		if len(c.Values) > 0 && len(p.values) == 0 {
			p.count = 0 // values that nothing can have
		}
	}
	for _, p := range set {
		if len(p.values) > 0 || p.column != "" || p.relation != "" || p.count == 0 {
			continue
		}
		switch {
		case hasPresence(p.key):
			p.values = []string{present}
		case p.key == "metadata":
			p.column = "e.name" // every entity has one
		case p.key == "spec":
			p.under = []string{"e.type", "e.lifecycle"}
		}
	}
	return set
}

func kindsOf(set []*part) []string {
	for _, p := range set {
		if p.column == "e.kind" {
			return p.values
		}
	}
	return nil
}

// plan asks, in one query, for the terms of the conditions and how long their posting lists are, or takes what it learned of the same a moment ago.
func (s *Store) plan(ctx context.Context, sets [][]*part) error {
	var b builder
	var selects []string
	var planned []*part
	wanted := map[*part]int{} // how many terms a part has once each of its values has come up in each of its kinds; 0: nobody can tell
	for _, set := range sets {
		kinds := kindsOf(set)
		for _, p := range set {
			if p.count == 0 {
				continue
			}
			n := len(planned)
			capped := func(from string) string {
				return fmt.Sprintf(`(SELECT COUNT(*) FROM (SELECT 1 FROM %s LIMIT %d) x)`, from, s.driveMost+1)
			}
			switch {
			case p.relation != "" && p.values != nil:
				selects = append(selects, fmt.Sprintf(`SELECT %d, 0, `, n)+capped(`relation WHERE type = `+b.arg(inverse[p.relation])+` AND source`+b.in(p.values)))
			case p.relation != "":
				continue
			case p.column == "e.name" && p.values != nil:
				selects = append(selects, fmt.Sprintf(`SELECT %d, 0, `, n)+capped(`entity e WHERE e.name`+b.in(p.values)))
			case p.column != "":
				continue
			case p.values != nil:
				one := fmt.Sprintf(`SELECT %d, t.id, `, n) + capped(`entity_term et WHERE et.term_id = t.id`) + ` FROM term t WHERE `
				selects = append(selects, one+`t.key = `+b.arg(p.key)+` AND t.value`+b.in(p.values)+ofKinds(&b, "t", kinds))
				wanted[p] = len(p.values) * len(kinds)
				if slices.Contains(p.values, "true") && len(items(p.key)) > 0 {
					selects = append(selects, one+`(`+strings.Join(b.items(p.key), ` OR `)+`)`+ofKinds(&b, "t", kinds))
					wanted[p] = 0 // there may be more at any time
				}
			case p.under != nil:
				continue
			default:
				selects = append(selects, fmt.Sprintf(`SELECT %d, 0, `, n)+capped(`term t JOIN entity_term et ON et.term_id = t.id WHERE `+b.at(p.key)+ofKinds(&b, "t", kinds)))
			}
			planned = append(planned, p)
		}
	}
	if len(selects) == 0 {
		return nil
	}
	text := strings.Join(selects, ` UNION ALL `)
	key := fmt.Sprintf("%s %q", text, b.args)
	lengths, known := s.plans.get(key, s.now())
	if !known {
		rows, err := s.read.QueryContext(ctx, text, b.args...)
		if err != nil {
			return store.Err(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var l length
			err := rows.Scan(&l.part, &l.term, &l.count)
			lengths = append(lengths, l)
			return err
		})
		if err != nil {
			return err
		}
	}
	for p := range wanted {
		p.count = 0
	}
	for _, l := range lengths {
		p := planned[l.part]
		p.count = max(p.count, 0) + l.count
		if l.term != 0 {
			p.terms = append(p.terms, l.term)
		}
	}
	lasting := !slices.ContainsFunc(planned, func(p *part) bool {
		n, ofTerms := wanted[p]
		return p.count == 0 || ofTerms && len(p.terms) != n
	})
	if !known && lasting {
		s.plans.put(key, lengths, s.now())
	}
	return nil
}

// length is one row of a plan: of a part, a term and how many postings it has.
type length struct {
	part  int
	term  int64
	count int
}

// plans holds what was learned of conditions a moment ago, so that a list that is asked for again and again costs one round trip. Lengths say only which way is
// shorter, and a term keeps its number: what is held may be old, as long as no term is missing from it.
type plans struct {
	mu    sync.Mutex
	held  map[string][]length
	since time.Time // all are dropped together
}

const (
	planFor  = 10 * time.Second
	maxPlans = 1000
)

func (c *plans) get(key string, now time.Time) ([]length, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.since) > planFor {
		return nil, false
	}
	lengths, ok := c.held[key]
	return lengths, ok
}

func (c *plans) put(key string, lengths []length, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil || now.Sub(c.since) > planFor || len(c.held) >= maxPlans {
		c.held, c.since = map[string][]length{}, now
	}
	c.held[key] = lengths
}

func ofKinds(b *builder, table string, kinds []string) string {
	if len(kinds) == 0 {
		return ""
	}
	return ` AND ` + table + `.kind` + b.in(kinds)
}

// at holds for the terms of a field, and of those below it.
func (b *builder) at(key string) string {
	or := append(b.items(key), `t.key = `+b.arg(key), `t.key > `+b.arg(key+".")+` AND t.key < `+b.arg(key+"/"))
	return `(` + strings.Join(or, ` OR `) + `)`
}

// items are conditions for the terms that make a field true, see there.
func (b *builder) items(key string) (or []string) {
	for _, t := range items(key) {
		or = append(or, `t.key = `+b.arg(t[0])+` AND t.value = `+b.arg(t[1]))
	}
	return or
}

// valued holds for the terms of a field that say more than that it is there; with what they say.
func (b *builder) valued(key string) (condition, value string) {
	own := `t.key = ` + b.arg(key)
	condition = own + ` AND t.value NOT IN (` + b.arg(opaque) + `, ` + b.arg(present) + `)`
	items := b.items(key)
	if items == nil {
		return condition, `t.value`
	}
	return `(` + condition + ` OR ` + strings.Join(items, ` OR `) + `)`, `CASE WHEN ` + own + ` THEN t.value ELSE 'true' END`
}

func numbers(ids []int64) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ", "), "[]")
}

// postings selects the entities for which a part holds, each once.
func (p *part) postings(b *builder, kinds []string) string {
	switch {
	case p.relation != "":
		return `SELECT DISTINCT o.id AS entity_id FROM relation r JOIN entity o ON o.ref = r.target WHERE r.type = ` + b.arg(inverse[p.relation]) + ` AND r.source` + b.in(p.values) + b.visible("r.source")
	case p.column != "":
		return `SELECT e.id AS entity_id FROM entity e WHERE ` + p.column + b.in(p.values)
	case p.values != nil:
		return `SELECT DISTINCT entity_id FROM entity_term WHERE term_id IN (` + numbers(p.terms) + `)`
	}
	return `SELECT DISTINCT et.entity_id FROM term t JOIN entity_term et ON et.term_id = t.id WHERE ` + b.at(p.key) + ofKinds(b, "t", kinds)
}

// condition asks entity e. Ordered: the walk goes by ref and should go on doing so.
func (p *part) condition(b *builder, ordered bool) string {
	switch {
	case p.relation != "":
		target := ""
		if p.values != nil {
			target = ` AND r.target` + b.in(p.values)
		}
		return `EXISTS (SELECT 1 FROM relation r WHERE r.source = e.ref AND r.type = ` + b.arg(p.relation) + target + b.visible("r.target") + `)`
	case p.column != "" && p.values == nil:
		return p.column + ` IS NOT NULL`
	case p.column == "e.kind" && ordered && len(p.values) == 1 && !b.byName: // a kind has an index in the order of names
		// A ref begins with the kind: said so, one index gives both the kind and the order.
		// The page before is the lower bound, when it is higher: SQLite takes one bound to the index, not the best one.
		last := p.values[0] + ";"
		if b.ceiling != "" {
			last = min(last, b.ceiling)
		}
		return `e.ref >= ` + b.arg(max(p.values[0]+":", b.floor)) + ` AND e.ref < ` + b.arg(last)
	case p.column == "e.kind" && ordered && len(p.values) > 1,
		b.engine == store.SQLite && ordered && b.byName && p.column != "" && p.column != "e.kind" && p.column != "e.name": // PostgreSQL weighs the two ways
		return `(` + p.column + ` || '')` + b.in(p.values) // no index on it: that would bring entities out of order
	case p.column != "":
		return p.column + b.in(p.values)
	case p.values != nil:
		return `EXISTS (SELECT 1 FROM entity_term et WHERE et.entity_id = e.id AND et.term_id IN (` + numbers(p.terms) + `))`
	}
	there := `EXISTS (SELECT 1 FROM entity_term et JOIN term t ON t.id = et.term_id WHERE et.entity_id = e.id AND ` + b.at(p.key) + `)`
	if p.under != nil {
		there = `(` + strings.Join(p.under, ` IS NOT NULL OR `) + ` IS NOT NULL OR ` + there + `)`
	}
	return there
}

// page is the statement that finds the ids of a page, in order; with the order of its rows, and the columns of it that a mark needs.
func (b *builder) page(q Query) (page, order, marked string) {
	var terms, expressions []string
	selected := ""
	back, byRef := q.Before != nil, ``
	if back {
		byRef = ` DESC`
	}
	for i, o := range q.Order {
		key := strings.ToLower(o.Key)
		x := columnOf[key]
		if x == "" {
			// The least value, when a list has several.
			valued, value := b.valued(key)
			x = `(SELECT MIN(` + value + `) FROM entity_term et JOIN term t ON t.id = et.term_id WHERE et.entity_id = e.id AND ` + valued + `)`
		}
		expressions = append(expressions, x)
		selected += fmt.Sprintf(`, %s AS o%d`, x, i)
		marked += fmt.Sprintf(`, p.o%d`, i)
		o.Desc = o.Desc != back
		term := fmt.Sprintf([2]string{`o%d`, `o%d DESC`}[direction(o)], i)
		if !always[x] { // where it always is, an index has the order
			term += [2]string{` NULLS LAST`, ` NULLS FIRST`}[direction(Order{Desc: back})]
		}
		terms = append(terms, term)
	}
	switch {
	case q.After != nil:
		b.where = append(b.where, b.beyond(q.Order, expressions, q.After, false))
	case q.Before != nil:
		b.where = append(b.where, b.beyond(q.Order, expressions, q.Before, true))
	}
	page = `SELECT e.id, e.ref` + selected + ` FROM ` + b.from + ` WHERE ` + strings.Join(b.where, ` AND `) +
		` ORDER BY ` + strings.Join(append(slices.Clone(terms), `e.ref`+byRef), `, `) + fmt.Sprintf(` LIMIT %d`, q.Limit+1)
	if q.Offset > 0 {
		page += fmt.Sprintf(` OFFSET %d`, q.Offset)
	}
	return page, strings.Join(append(terms, `p.ref`+byRef), `, `), marked
}

// always are the columns that every entity has.
var always = map[string]bool{"e.kind": true, "e.namespace": true, "e.name": true, "e.uid": true}

// beyond holds for what comes after a mark in an order, or before it.
func (b *builder) beyond(order []Order, expressions []string, m *Mark, back bool) string {
	byRef := [2]string{` > `, ` < `}[direction(Order{Desc: back})]
	var or []string
	same, bound := "", ""
	for i, x := range expressions {
		v := m.Values[i]
		switch {
		case v == nil && !back: // without a value: the rest, by ref
			same += x + ` IS NULL AND `
			continue
		case v == nil: // all that have a value come before it
			or = append(or, `(`+same+x+` IS NOT NULL)`)
			same += x + ` IS NULL AND `
			continue
		}
		a := b.arg(*v)
		beyond := x + [2]string{` > `, ` < `}[direction(Order{Desc: order[i].Desc != back})] + a
		if i == 0 && always[x] { // said once more for all rows, so that an index begins there
			bound = strings.Replace(beyond, ` `+a, `= `+a, 1) + ` AND `
		}
		if !always[x] && !back {
			beyond = `(` + beyond + ` OR ` + x + ` IS NULL)`
		}
		or = append(or, `(`+same+beyond+`)`)
		same += x + ` = ` + a + ` AND `
	}
	return `(` + bound + `(` + strings.Join(append(or, `(`+same+`e.ref`+byRef+b.arg(m.Ref)+`)`), ` OR `) + `))`
}

func direction(o Order) int {
	if o.Desc {
		return 1
	}
	return 0
}
