package entity

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/slipway-platform/slipway/store"
)

// Predicate is a condition made of conditions. Exactly one of its fields is set; All without members holds for every entity, Any
// without members for none.
type Predicate struct {
	All    []Predicate // each of them holds
	Any    []Predicate // at least one holds
	Not    *Predicate  // it does not hold
	Is     *Condition
	Prefix *Prefix
}

// Prefix holds for entities with a field that begins with Text, whatever the case.
type Prefix struct{ Key, Text string }

// leaves calls visit for every condition.
func (p *Predicate) leaves(visit func(*Condition)) {
	if p == nil {
		return
	}
	if p.Is != nil {
		visit(p.Is)
	}
	for i := range p.All {
		p.All[i].leaves(visit)
	}
	for i := range p.Any {
		p.Any[i].leaves(visit)
	}
	p.Not.leaves(visit)
}

// required gives conditions that must hold wherever the predicate does, at most one for each field, and whether they are all of it. The
// planner needs them: only such a condition may lead to the entities.
func (p *Predicate) required() (set []Condition, whole bool) {
	switch {
	case p.Is != nil:
		return []Condition{*p.Is}, true
	case p.All != nil:
		whole = true
		for i := range p.All {
			more, all := p.All[i].required()
			whole = whole && all
			for _, c := range more {
				if slices.ContainsFunc(set, func(s Condition) bool { return strings.EqualFold(s.Key, c.Key) }) {
					whole = false // in one set they would be alternatives
					continue
				}
				set = append(set, c)
			}
		}
	}
	return set, whole
}

// sets is the predicate as the sets of a filter, and whether they are all of it. Nil: it has no such form.
func (p *Predicate) sets() (sets [][]Condition, whole bool) {
	if p.Any == nil {
		set, whole := p.required()
		if set == nil {
			return nil, false
		}
		return [][]Condition{set}, whole
	}
	whole = true
	for i := range p.Any {
		set, all := p.Any[i].required()
		if set == nil {
			return nil, false
		}
		sets, whole = append(sets, set), whole && all
	}
	return sets, whole && len(sets) > 0
}

// compile writes the predicate as SQL about entity e; parts are its conditions, planned.
func (b *builder) compile(p *Predicate, parts map[*Condition]*part) string {
	join := func(list []Predicate, word, none string) string {
		if len(list) == 0 {
			return none
		}
		each := make([]string, len(list))
		for i := range list {
			each[i] = b.compile(&list[i], parts)
		}
		return `(` + strings.Join(each, word) + `)`
	}
	switch {
	case p.Is != nil:
		if part := parts[p.Is]; part.count != 0 {
			return part.condition(b, false)
		}
		return `FALSE`
	case p.Prefix != nil:
		return b.starts(p.Prefix)
	case p.Not != nil:
		return `NOT COALESCE(` + b.compile(p.Not, parts) + `, FALSE)` // a column that is NULL has not the value
	case p.Any != nil:
		return join(p.Any, ` OR `, `FALSE`)
	}
	return join(p.All, ` AND `, `TRUE`)
}

func (b *builder) starts(p *Prefix) string {
	key, text := strings.ToLower(p.Key), strings.ToLower(p.Text)
	if !storable(key) || !storable(text) {
		return `FALSE`
	}
	return b.somewhere(key, func(value string) string {
		n := utf8.RuneCountInString(text)
		return `SUBSTR(` + value + `, 1, ` + b.arg(n) + `) = ` + b.arg(text)
	})
}

// somewhere is a test of a field's values, wherever the field is stored.
func (b *builder) somewhere(key string, test func(value string) string) string {
	if column := columnOf[key]; column != "" {
		return `(` + test(column) + `)`
	}
	if name, ok := strings.CutPrefix(key, "relations."); ok {
		return `EXISTS (SELECT 1 FROM relation r WHERE r.source = e.ref AND r.type = ` + b.arg(relationNames[name]) + ` AND ` + test(`r.target`) + b.visible("r.target") + `)`
	}
	valued, value := b.valued(key)
	return `e.id IN (SELECT et.entity_id FROM term t JOIN entity_term et ON et.term_id = t.id WHERE ` + valued + ` AND ` + test(value) + `)`
}

// Text is a search for a part of a text.
type Text struct {
	Term   string   // found anywhere in a field, whatever the case; "" finds everything
	Fields []string // one of them must hold the term; none: metadata.name and metadata.title
}

// within holds for values with a text in them. Both engines have a function for it, by different names; LIKE, which both have, takes half
// as long again on SQLite.
func (b *builder) within(value, text string) string {
	find := `INSTR(`
	if b.engine == store.Postgres {
		find = `STRPOS(`
	}
	return find + value + `, ` + b.arg(text) + `) > 0`
}

// search writes the text as a condition about entity e.
func (b *builder) search(t *Text) string {
	fields := t.Fields
	if len(fields) == 0 {
		fields = []string{"metadata.name", "metadata.title"}
	}
	term := strings.ToLower(t.Term)
	if !storable(term) {
		return `FALSE`
	}
	var or []string
	for _, f := range fields {
		if f = strings.ToLower(f); !storable(f) {
			continue
		}
		or = append(or, b.somewhere(f, func(value string) string {
			return b.within(value, term)
		}))
	}
	if or == nil {
		return `FALSE`
	}
	return `(` + strings.Join(or, ` OR `) + `)`
}
