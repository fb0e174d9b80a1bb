package task

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

// Query says which items, in which order, and which page of them. The zero Query is the newest of all.
type Query struct {
	Statuses  []string            // any of these; none: all
	Filters   map[string][]string // by field: any of these values; a field that the task does not have is Invalid
	Since     time.Time           // created at or after
	Until     time.Time           // created before
	Ascending bool                // oldest first

	Limit      int    // 1 to slipway.MaxPageLimit; 0: slipway.DefaultPageLimit
	Cursor     string // PageInfo.NextCursor of the page before; not together with PageNumber
	PageNumber int    // from 1; PageNumber × Limit is at most 10,000

	// Fresh has all sources read first, and waits for that, Engine.FreshWait at most.
	Fresh bool
}

// maxDepth is how deep page numbers reach, in items. Cursors reach to the end.
const maxDepth = 10_000

// Scope limits a search across entities. Within a field any value fits, every field must fit; a zero Scope is all that the caller may read.
type Scope struct {
	Owners   []string // canonical refs
	Systems  []string // canonical refs
	Entities []string // canonical refs
	Kinds    []string // in any case
}

// Page is a page of items as JSON, each with its entityRef.
type Page struct {
	Items    [][]byte
	PageInfo slipway.PageInfo
	Sources  []slipway.Source
}

// Object is an entity whose items are asked for.
type Object struct {
	ID    int64
	Ref   string // canonical
	Owner string // canonical, or ""
}

// Search gives items of one entity. It is NotFound when there is no such entity or the caller may not read it. Then allow, unless it is nil, says whether the caller may
// see its items; its error is passed on. Errors: Invalid for a query that cannot be.
//
// It costs two queries, however long the history is, and writes nothing. Where several filters meet, a stretch of bounded length is looked through: then a
// page may hold fewer items than Limit, even none, and still have more behind it.
func (x *Index[T]) Search(ctx context.Context, caller *slipway.Caller, ref slipway.EntityRef, q Query, allow func(Object) error) (Page, error) {
	p, err := x.plan(caller, "entity "+ref.String(), q)
	if err != nil {
		return Page{}, err
	}
	v := x.engine.viewer(ctx, caller)
	object, sources, err := x.sourcesOf(ctx, v, ref, p)
	if err != nil {
		return Page{}, err
	}
	if allow != nil {
		if err := allow(object); err != nil {
			return Page{}, err
		}
	}
	if sources, err = x.prepare(ctx, v, q, sources, func() (_ []*source, err error) {
		_, sources, err = x.sourcesOf(ctx, v, ref, p)
		return sources, err
	}); err != nil {
		return Page{}, err
	}
	page, err := x.items(ctx, p, sources)
	if err != nil {
		return Page{}, err
	}
	page.Sources = x.states(ctx, sources)
	if len(page.Sources) == 0 {
		page.Sources = []slipway.Source{{State: slipway.SourceNone, Error: x.Hint(ctx, object)}}
	}
	return page, nil
}

// prepare has sources ready to be shown: what the viewer may see of them is asked, and with Fresh they are read. Where that changed something, they are taken again.
func (x *Index[T]) prepare(ctx context.Context, v *viewer, q Query, sources []*source, again func() ([]*source, error)) ([]*source, error) {
	learned, err := v.admit(ctx, sources)
	if err != nil {
		return nil, err
	}
	if learned {
		if sources, err = again(); err != nil {
			return nil, err
		}
	}
	if !q.Fresh {
		return sources, nil
	}
	waited, err := x.freshen(ctx, sources)
	if err != nil || !waited {
		return sources, err
	}
	return again()
}

// source is a source as a search needs it.
type source struct {
	id       int64
	provider string
	kind     string
	project  string
	asOf     store.Time
	failures int64
	message  string
	looks    int64
	detached bool
	every    int64            // µs between its readings, as they are planned now; 0: it was not read yet
	access   int              // of who asks
	ref      string           // of the entity that its items are shown under
	terms    map[string][]any // by field that is filtered: the terms that fit, as arguments
}

// plan is a query that was checked.
type plan struct {
	Query
	cursors  secret.Cursors[key]
	after    *key
	offset   int
	filtered []string // names of fields with filters, in the task's order
}

func (x *Index[T]) plan(caller *slipway.Caller, scope string, q Query) (*plan, error) {
	var faults []slipway.Detail
	fault := func(field, format string, args ...any) {
		faults = append(faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
	}
	p := &plan{Query: q}
	if p.Limit == 0 {
		p.Limit = slipway.DefaultPageLimit
	}
	if p.Limit < 1 || p.Limit > slipway.MaxPageLimit {
		fault("limit", "must be from 1 to %d", slipway.MaxPageLimit)
	}
	switch {
	case p.PageNumber < 0:
		fault("pageNumber", "counts from 1")
	case p.PageNumber > 0 && p.Cursor != "":
		fault("pageNumber", "cannot stand beside cursor; pass one of them")
	case p.PageNumber > maxDepth/max(p.Limit, 1):
		fault("pageNumber", "pageNumber × limit must be at most %d; read on by cursor", maxDepth)
	case p.PageNumber > 1:
		p.offset = (p.PageNumber - 1) * p.Limit
	}
	p.Filters = map[string][]string{}
	for name, values := range q.Filters {
		i := slices.Index(x.fields, name)
		if i < 0 {
			fault(name, "the task %s has no such filter; it has %s", x.task.Name, strings.Join(x.fields, ", "))
			continue
		}
		if values = tidy(values); len(values) == 0 {
			continue
		}
		if x.task.Fields[i].Person {
			for j, v := range values {
				if v == "me" {
					v = caller.Subject
				}
				values[j] = strings.ToLower(v)
			}
			values = tidy(values)
		}
		if len(values) > maxValues {
			fault(name, "may have at most %d values", maxValues)
		}
		p.Filters[name] = values
	}
	for _, name := range x.fields {
		if len(p.Filters[name]) > 0 {
			p.filtered = append(p.filtered, name)
		}
	}
	p.Statuses = tidy(q.Statuses)
	for _, s := range p.Statuses {
		if !slices.Contains(x.task.Statuses, s) {
			fault("status", "%q is no status; there are %s", clip(s), strings.Join(x.task.Statuses, ", "))
		}
	}
	if len(faults) > 0 {
		texts := make([]string, len(faults))
		for i, f := range faults {
			texts[i] = f.Field + ": " + f.Message
		}
		return nil, slipway.Errorf(slipway.Invalid, "%s", strings.Join(texts, "; ")).WithDetails(faults...)
	}
	p.cursors = secret.CursorsOf[key](x.engine.Keys, "task", x.task.Name, scope, p.Statuses, p.Filters, p.Since.UnixMicro(), p.Until.UnixMicro(), p.Ascending)
	var err error
	if p.after, err = p.cursors.Read(p.Cursor); err != nil {
		return nil, err
	}
	if p.after == nil && p.PageNumber == 0 {
		p.PageNumber = 1
	}
	return p, nil
}

// maxValues is how many values a filter may have.
const maxValues = 20

// tidy sorts values and drops what is empty or twice, so that equal queries are equal.
func tidy(values []string) []string {
	values = slices.DeleteFunc(slices.Clone(values), func(s string) bool { return s == "" })
	slices.Sort(values)
	return slices.Compact(values)
}

// query is SQL under construction, with its arguments.
type query struct {
	strings.Builder
	args []any
}

func (q *query) arg(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

func (q *query) list(values []any) string {
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(q.arg(v))
	}
	return b.String()
}

func anys[S ~[]E, E any](list S) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

const sourceColumns = "s.id, s.provider, s.type, s.project, s.as_of, s.failures, s.error, s.looks, s.every, " // and the viewer's access, and whether it is detached

// termColumns gives, for each field that is filtered, the terms of source s that fit, as text "1,2,3": resolved beside the sources, so that
// the next query can go straight to its stretch of an index.
func (x *Index[T]) termColumns(q *query, p *plan) {
	for _, name := range p.filtered {
		q.WriteString(", (SELECT string_agg(CAST(t.term_id AS TEXT), ',') FROM (")
		x.terms(q, p, name, "s.id", "s.provider")
		q.WriteString(") AS t)")
	}
}

// terms is the query for the terms of a source that fit the filter of a field.
func (x *Index[T]) terms(q *query, p *plan, name, source, providerName string) {
	values := p.Filters[name]
	fmt.Fprintf(q, "SELECT a.term_id FROM task_alias a WHERE a.source_id = %s AND a.field = %s AND a.value IN (%s)", source, q.arg(name), q.list(anys(values)))
	if !x.task.Fields[slices.Index(x.fields, name)].Person {
		return
	}
	var refs []any // users: what finds them are their accounts
	for _, v := range values {
		if ref, err := slipway.ParseEntityRef(v, slipway.EntityRef{Kind: "user"}); err == nil && strings.Contains(v, ":") {
			refs = append(refs, ref.String())
		}
	}
	if len(refs) > 0 {
		fmt.Fprintf(q, ` UNION SELECT a.term_id FROM task_account c JOIN task_alias a ON a.value = c.account
			WHERE c.entity_ref IN (%s) AND c.provider IN ('', %s) AND a.source_id = %s AND a.field = %s`, q.list(refs), providerName, source, q.arg(name))
	}
	// And the other way round: who is found by one account, an address or a login at this provider, is found by the others and by the ref.
	known := fmt.Sprintf("k.account IN (%s) AND k.provider IN ('', %s) AND a.source_id = %s AND a.field = %s", q.list(anys(values)), providerName, source, q.arg(name))
	fmt.Fprintf(q, ` UNION SELECT a.term_id FROM task_account k JOIN task_alias a ON a.value = k.entity_ref WHERE %[1]s
		UNION SELECT a.term_id FROM task_account k JOIN task_account c ON c.entity_ref = k.entity_ref AND c.provider IN ('', %[2]s)
			JOIN task_alias a ON a.value = c.account WHERE %[1]s`, known, providerName)
}

// sourceRow is where a row of a query over sources is read into; what a LEFT JOIN leaves out is NULL.
type sourceRow struct {
	id, failures, looks, every       sql.NullInt64
	access                           sql.NullInt64
	provider, kind, project, message sql.NullString
	asOf                             store.Time
	detached                         sql.NullBool
	terms                            []sql.NullString
}

func (r *sourceRow) dest(fields int) []any {
	r.terms = make([]sql.NullString, fields)
	dest := []any{&r.id, &r.provider, &r.kind, &r.project, &r.asOf, &r.failures, &r.message, &r.looks, &r.every, &r.access, &r.detached}
	for i := range r.terms {
		dest = append(dest, &r.terms[i])
	}
	return dest
}

func (r *sourceRow) source(p *plan, ref string) (*source, error) {
	s := &source{
		id: r.id.Int64, provider: r.provider.String, kind: r.kind.String, project: r.project.String, asOf: r.asOf,
		failures: r.failures.Int64, message: r.message.String, looks: r.looks.Int64, every: r.every.Int64, access: int(r.access.Int64), detached: r.detached.Bool, ref: ref, terms: map[string][]any{},
	}
	for i, name := range p.filtered {
		if r.terms[i].String == "" {
			continue
		}
		for text := range strings.SplitSeq(r.terms[i].String, ",") {
			id, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, err
			}
			s.terms[name] = append(s.terms[name], id)
		}
	}
	return s, nil
}

// sourcesOf reads an entity that the caller may read and its sources, in one query.
func (x *Index[T]) sourcesOf(ctx context.Context, v *viewer, ref slipway.EntityRef, p *plan) (o Object, list []*source, err error) {
	var q query
	q.WriteString(`SELECT e.id, e.ref, COALESCE(e.owner, ''), ` + sourceColumns + v.column(&q) + `, b.detached`)
	x.termColumns(&q, p)
	fmt.Fprintf(&q, ` FROM entity e LEFT JOIN task_binding b ON b.entity_id = e.id LEFT JOIN task_source s ON s.id = b.source_id AND s.task = %s
		WHERE e.ref = %s AND `, q.arg(x.task.Name), q.arg(ref.String()))
	readable, args := entity.Readable(v.caller, "e", len(q.args)+1)
	q.WriteString(readable + ` ORDER BY s.provider, s.project`)
	rows, err := x.engine.read.QueryContext(ctx, q.String(), append(q.args, args...)...)
	if err != nil {
		return o, nil, store.Err(err)
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var r sourceRow
		if err := rows.Scan(append([]any{&o.ID, &o.Ref, &o.Owner}, r.dest(len(p.filtered))...)...); err != nil {
			return err
		}
		if !r.id.Valid {
			return nil // no source, or one of another task
		}
		s, err := r.source(p, o.Ref)
		list = append(list, s)
		return err
	})
	if err == nil && o.ID == 0 {
		err = slipway.Errorf(slipway.NotFound, "there is no entity %s, or none that you may read", ref)
	}
	return o, list, err
}

// SearchAll gives items across the entities that fit a scope and that the caller may read, both as entities and with the task's Permission. An item that belongs to several of
// them is shown once, under the first by ref. Errors and costs are those of Search; where more entities fit than a search can go through one by one, items are
// found by time, Sources are those of the page's items, and Fresh is left out.
func (x *Index[T]) SearchAll(ctx context.Context, caller *slipway.Caller, scope Scope, q Query) (Page, error) {
	for _, list := range []*[]string{&scope.Owners, &scope.Systems, &scope.Entities, &scope.Kinds} {
		lower := make([]string, len(*list)) // the caller's own stays as it is
		for i, v := range *list {
			lower[i] = strings.ToLower(v)
		}
		*list = tidy(lower)
	}
	p, err := x.plan(caller, fmt.Sprintf("scope %q", scope), q)
	if err != nil {
		return Page{}, err
	}
	v := x.engine.viewer(ctx, caller)
	sources, wide, err := x.sourcesIn(ctx, v, scope, p)
	if err != nil {
		return Page{}, err
	}
	if wide {
		if err := x.engine.Admit(ctx, caller, ""); err != nil {
			return Page{}, err
		}
		return x.itemsByTime(ctx, v, scope, p)
	}
	if sources, err = x.prepare(ctx, v, q, sources, func() (_ []*source, err error) {
		sources, _, err = x.sourcesIn(ctx, v, scope, p)
		return sources, err
	}); err != nil {
		return Page{}, err
	}
	page, err := x.items(ctx, p, sources)
	if err == nil {
		page.Sources = x.states(ctx, sources)
	}
	return page, err
}

// within is the condition on entities e that fit a scope and that the caller may see.
func (x *Index[T]) within(q *query, caller *slipway.Caller, scope Scope) string {
	var all []string
	for _, c := range []struct {
		column string
		values []string
	}{{"e.owner", scope.Owners}, {"e.system", scope.Systems}, {"e.ref", scope.Entities}, {"e.kind", scope.Kinds}} {
		if len(c.values) > 0 {
			all = append(all, c.column+" IN ("+q.list(anys(c.values))+")")
		}
	}
	permissions := []string{entity.ReadPermission}
	if x.task.Permission != "" {
		permissions = append(permissions, x.task.Permission)
	}
	for _, permission := range permissions {
		holding, args := entity.Holding(caller, permission, "e", len(q.args)+1)
		q.args = append(q.args, args...)
		all = append(all, holding)
	}
	return strings.Join(all, " AND ")
}

// sourcesIn reads the sources of the entities that fit, in one query. wide: they are too many for that.
func (x *Index[T]) sourcesIn(ctx context.Context, v *viewer, scope Scope, p *plan) (list []*source, wide bool, err error) {
	var q query
	fmt.Fprintf(&q, `WITH m AS MATERIALIZED (SELECT e.id, e.ref FROM entity e WHERE %s LIMIT %d)
		SELECT n.n, m.ref, %s%s, b.detached`, x.within(&q, v.caller, scope), maxScoped+1, sourceColumns, v.column(&q))
	x.termColumns(&q, p)
	fmt.Fprintf(&q, ` FROM (SELECT COUNT(*) AS n FROM m) AS n LEFT JOIN m ON n.n <= %d LEFT JOIN task_binding b ON b.entity_id = m.id
		LEFT JOIN task_source s ON s.id = b.source_id AND s.task = %s ORDER BY s.id, m.ref`, maxScoped, q.arg(x.task.Name))
	rows, err := x.engine.read.QueryContext(ctx, q.String(), q.args...)
	if err != nil {
		return nil, false, store.Err(err)
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var n int
		var ref sql.NullString
		var r sourceRow
		if err := rows.Scan(append([]any{&n, &ref}, r.dest(len(p.filtered))...)...); err != nil {
			return err
		}
		wide = n > maxScoped
		if !r.id.Valid || len(list) > 0 && list[len(list)-1].id == r.id.Int64 {
			return nil
		}
		s, err := r.source(p, ref.String)
		list = append(list, s)
		return err
	})
	return list, wide || len(list) > maxArms, err
}

// itemsByTime reads the page by going back in time over all sources, in one query: one stretch, or one for each status.
func (x *Index[T]) itemsByTime(ctx context.Context, v *viewer, scope Scope, p *plan) (Page, error) {
	var q query
	bound := `FROM task_binding b JOIN entity e ON e.id = b.entity_id WHERE b.source_id = i.source_id AND ` + x.within(&q, v.caller, scope)
	a := arm{check: []string{"EXISTS (SELECT 1 " + bound + ")"}, index: "created", column: "(SELECT MIN(e.ref) " + bound + ")"}
	if !v.all() {
		a.check = append(a.check, v.condition(&q, "i.source_id"))
	}
	for _, name := range p.filtered {
		a.check = append(a.check, x.termCheck(&q, p, name))
	}
	arms := []arm{a}
	if len(p.Statuses) > 0 {
		arms = nil
		for _, status := range p.Statuses {
			b := a
			b.where, b.index = []string{"status = " + q.arg(status)}, "status_created"
			arms = append(arms, b)
		}
	}
	page := Page{Items: make([][]byte, 0, p.Limit), PageInfo: slipway.PageInfo{Limit: p.Limit, PageNumber: p.PageNumber}}
	x.compose(&q, p, arms)
	rows, err := x.engine.read.QueryContext(ctx, `SELECT u.cut, u.source_id, u.created, u.id, u.ref, u.doc, `+sourceColumns+`1,
		NOT EXISTS (SELECT 1 FROM task_binding b WHERE b.source_id = s.id AND NOT b.detached) FROM (`+q.String()+`) AS u
		LEFT JOIN task_source s ON s.id = u.source_id ORDER BY `+listOrder(p), q.args...)
	if err != nil {
		return page, store.Err(err)
	}
	var r sourceRow
	seen := map[int64]bool{}
	var sources []*source
	err = x.collect(rows, p, &page, r.dest(0), func(id int64, ref string) string {
		if s, err := r.source(&plan{}, ref); err == nil && !seen[id] {
			seen[id] = true
			sources = append(sources, s)
		}
		return ref
	})
	if err == nil {
		page.Sources = x.states(ctx, sources)
	}
	return page, err
}

// termCheck is the condition that a row of any source has one of the values of a field.
func (x *Index[T]) termCheck(q *query, p *plan, name string) string {
	var sub query
	sub.args = q.args
	x.terms(&sub, p, name, "i.source_id", "(SELECT provider FROM task_source WHERE id = i.source_id)")
	q.args = sub.args
	return column(name) + " IN (" + sub.String() + ")"
}

// Hint says why no provider serves an entity, and what to write on it.
func (x *Index[T]) Hint(ctx context.Context, o Object) string {
	found, err := readEntities(ctx, x.engine.read, `id = $1`, o.ID)
	if err != nil || len(found) == 0 {
		found = []bound{{}} // without it, the hint is general
	}
	e := &found[0].Entity
	var ways, refused []string
	for _, p := range x.engine.Providers() {
		name := p.Name + " (" + p.Type + ")"
		if p.Err == nil && (p.Provider == nil || !x.serves(p.Provider)) {
			continue
		}
		for _, a := range p.naming() {
			switch value := e.Metadata.Annotations[a.Key]; {
			case value == "" && p.Err == nil:
				ways = append(ways, a.Key+" for provider "+name)
			case value == "":
			case p.Err != nil:
				refused = append(refused, fmt.Sprintf("%s is for provider %s, which is not at work: an operator has to look at its configuration", a.Key, name))
			case len(p.Provider.Projects(e)) > 0:
				return "provider " + name + " was told of this entity a moment ago; ask again"
			default:
				refused = append(refused, fmt.Sprintf("%s says %q, which provider %s does not take: write it like %q, and see whether the provider's configuration allows it", a.Key, clip(value), name, a.Example))
			}
		}
		if len(p.Annotations) == 0 && p.Err == nil {
			ways = append(ways, "that of provider "+name)
		}
	}
	switch {
	case len(refused) > 0:
		return "no provider serves this entity: " + strings.Join(refused, "; ")
	case len(ways) > 0:
		return "no provider serves this entity; give it one of these annotations: " + strings.Join(ways, ", ")
	}
	return "no provider serves the task " + x.task.Name + "; configure one under providers:"
}

// states says how fresh sources are, and has those that are stale read behind the answer.
func (x *Index[T]) states(ctx context.Context, sources []*source) []slipway.Source {
	list := make([]slipway.Source, 0, len(sources))
	var stale []asking
	for _, s := range sources {
		v := slipway.Source{Provider: s.provider, Type: s.kind, Project: s.project, State: slipway.SourceFresh, AsOf: s.asOf.Ptr()}
		o, ok := x.engine.opened(s.provider)
		switch age := x.engine.Now().Sub(s.asOf.Time); {
		case s.access != accessYes:
			v.State, v.AsOf, v.Error = slipway.SourceHidden, nil, hiddenText(s.provider, s.access)
		case !ok || o.Err == nil && !x.serves(o.Provider):
			v.State, v.Error = slipway.SourceDetached, "the provider was removed; these are its last known items"
		case s.detached || s.kind != o.Type:
			v.State, v.Error = slipway.SourceDetached, "the provider does not take this project any more; these are its last known items"
		case o.Err != nil:
			v.State, v.Error = slipway.SourceFailed, sentence(o.Err)
		default:
			if s.failures > 0 {
				v.State, v.Error = slipway.SourceFailed, s.message
			} else if s.asOf.IsZero() || age > 2*max(o.interval(), time.Duration(s.every)*time.Microsecond) {
				v.State = slipway.SourceStale
			}
			switch {
			case v.State != slipway.SourceFresh:
				stale = append(stale, asking{s.id, o.interval()})
			case len(sources) <= maxLooked && age > o.often():
				stale = append(stale, asking{s.id, o.often()})
			}
		}
		list = append(list, v)
	}
	x.engine.ask(ctx, x.task.Name, stale)
	return list
}

// freshen has sources read now and waits until they were, or have failed, or FreshWait is over. It says whether it did anything.
func (x *Index[T]) freshen(ctx context.Context, sources []*source) (bool, error) {
	start := x.engine.Now()
	waiting := map[int64]int64{} // source → looks that must have happened
	err := x.engine.DB.Write(ctx, func(tx *store.Tx) error {
		for _, s := range sources {
			if o, ok := x.engine.opened(s.provider); !ok || o.Provider == nil || s.detached || s.access != accessYes || len(waiting) == maxFresh {
				continue
			}
			inserted, err := x.engine.insertRefresh(ctx, tx, x.task.Name, s.id, 1)
			if err != nil {
				return err
			}
			waiting[s.id] = s.looks + 1
			if !inserted {
				waiting[s.id]++ // one that is under way may have begun too early to see all; it is run once more
			}
		}
		return nil
	})
	if err != nil || len(waiting) == 0 {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, x.engine.FreshWait)
	defer cancel()
	poll := time.NewTicker(100 * time.Millisecond) // another replica may do the work
	defer poll.Stop()
	for {
		told := x.engine.whenRefreshed()
		if err := x.looked(ctx, waiting, start); err != nil && ctx.Err() == nil {
			return true, err
		}
		if len(waiting) == 0 {
			return true, nil
		}
		select {
		case <-told:
		case <-poll.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return true, ctx.Err()
			}
			return true, nil
		}
	}
}

// maxLooked is how many sources an answer may have whose being looked at has them read more often.
const maxLooked = 20

// maxFresh is how many sources one search has read at once; the others are shown as they are.
const maxFresh = 50

// looked drops from waiting the sources that have been looked at since.
func (x *Index[T]) looked(ctx context.Context, waiting map[int64]int64, start time.Time) error {
	ids := anys(slices.Sorted(maps.Keys(waiting)))
	rows, err := x.engine.DB.QueryContext(ctx, `SELECT id, looks, as_of FROM task_source WHERE id IN (`+numbers(1, len(ids))+`)`, ids...)
	if err != nil {
		return store.Err(err)
	}
	return store.Each(rows, func(rows *sql.Rows) error {
		var id, looks int64
		var asOf store.Time
		if err := rows.Scan(&id, &looks, &asOf); err != nil {
			return err
		}
		if looks >= waiting[id] || !asOf.Before(start) {
			delete(waiting, id)
		}
		return nil
	})
}

// The plan of a search. Where few sources match, each is one stretch of an index, and the stretches are merged; where many do, the items of all sources
// are gone through by time.
const (
	maxArms   = 64   // stretches that are merged at most
	maxScan   = 2000 // items of a stretch that are looked through where a further condition has to be checked on each
	maxScoped = 300  // entities that a search across entities goes through one by one
)

// arm is one stretch of an index: the rows that fit where, in the order of lists.
type arm struct {
	where  []string // conditions that the index answers
	check  []string // conditions that each row has to be asked for
	source int64    // the only source in it; 0: all
	index  string   // the end of the index's name; "": the primary key
	column string   // what stands for the entity: "''", or a query
}

// items reads the page from sources that are known, in one query.
func (x *Index[T]) items(ctx context.Context, p *plan, sources []*source) (Page, error) {
	var q query
	refs := map[int64]string{}
	var arms []arm
	for _, s := range sources {
		if s.access != accessYes {
			continue
		}
		refs[s.id] = s.ref
		arms = append(arms, x.armsOf(&q, p, s)...)
	}
	page := Page{Items: make([][]byte, 0, p.Limit), PageInfo: slipway.PageInfo{Limit: p.Limit, PageNumber: p.PageNumber}}
	if len(arms) == 0 {
		return page, nil
	}
	if len(arms) > maxArms {
		q = query{}
		arms = []arm{x.armOver(&q, p, slices.DeleteFunc(slices.Clone(sources), func(s *source) bool { return s.access != accessYes }))}
	}
	x.compose(&q, p, arms)
	rows, err := x.engine.read.QueryContext(ctx, q.String(), q.args...)
	if err != nil {
		return page, store.Err(err)
	}
	return page, x.collect(rows, p, &page, nil, func(source int64, _ string) string { return refs[source] })
}

// armsOf gives the stretches of one source. Filters by field come first: of several, the first in the task's order leads and the others are checked. A
// source that cannot have what is asked for has none.
func (x *Index[T]) armsOf(q *query, p *plan, s *source) []arm {
	for _, name := range p.filtered {
		if len(s.terms[name]) == 0 {
			return nil
		}
	}
	source := "source_id = " + q.arg(s.id)
	var arms []arm
	switch {
	case len(p.filtered) > 0:
		lead := p.filtered[0]
		var check []string
		for _, name := range p.filtered[1:] {
			check = append(check, column(name)+" IN ("+q.list(s.terms[name])+")")
		}
		if len(p.Statuses) > 0 {
			check = append(check, "status IN ("+q.list(anys(p.Statuses))+")")
		}
		for _, id := range s.terms[lead] {
			arms = append(arms, arm{where: []string{source, column(lead) + " = " + q.arg(id)}, check: check, source: s.id, index: column(lead), column: "''"})
		}
	case len(p.Statuses) > 0:
		for _, status := range p.Statuses {
			arms = append(arms, arm{where: []string{source, "status = " + q.arg(status)}, source: s.id, index: "status", column: "''"})
		}
	default:
		arms = append(arms, arm{where: []string{source}, source: s.id, column: "''"})
	}
	return arms
}

// armOver gives one stretch over all sources of a list.
func (x *Index[T]) armOver(q *query, p *plan, sources []*source) arm {
	var ids []any
	terms := map[string][]any{}
	for _, s := range sources {
		ids = append(ids, s.id)
		for name, list := range s.terms {
			terms[name] = append(terms[name], list...)
		}
	}
	a := arm{check: []string{"source_id IN (" + q.list(ids) + ")"}, index: "created", column: "''"}
	for _, name := range p.filtered {
		a.check = append(a.check, column(name)+" IN ("+q.list(terms[name])+")")
	}
	if len(p.Statuses) > 0 {
		a.check = append(a.check, "status IN ("+q.list(anys(p.Statuses))+")")
	}
	return a
}

// compose writes the query: the stretches, each limited to what the page can need, merged in the order of lists. A stretch that has to be checked row by
// row is cut off after maxScan rows; a row without an id then says where, so that the page ends there at the latest and the next goes on.
func (x *Index[T]) compose(q *query, p *plan, arms []arm) {
	order, past, bound, outermost := "DESC", "<", ">=", "MAX"
	if p.Ascending {
		order, past, bound, outermost = "ASC", ">", "<=", "MIN"
	}
	limit := strconv.Itoa(p.offset + p.Limit + 1) // in the text: the planner should know it, and there are few
	var with, union, cuts []string
	for i, a := range arms {
		where := slices.Clone(a.where)
		if !p.Since.IsZero() {
			where = append(where, "created >= "+q.arg(store.At(p.Since)))
		}
		if !p.Until.IsZero() {
			where = append(where, "created < "+q.arg(store.At(p.Until)))
		}
		if k := p.after; k != nil {
			switch {
			case a.source == 0:
				where = append(where, fmt.Sprintf("(created, source_id, id) %s (%s, %s, %s)", past, q.arg(k.Created), q.arg(k.Source), q.arg(k.ID)))
			case a.source == k.Source:
				where = append(where, fmt.Sprintf("(created, id) %s (%s, %s)", past, q.arg(k.Created), q.arg(k.ID)))
			case a.source < k.Source != p.Ascending:
				where = append(where, fmt.Sprintf("created %s= %s", past, q.arg(k.Created)))
			default:
				where = append(where, fmt.Sprintf("created %s %s", past, q.arg(k.Created)))
			}
		}
		sorting := fmt.Sprintf("created %[1]s, source_id %[1]s, id %[1]s", order)
		if a.source != 0 {
			sorting = fmt.Sprintf("created %[1]s, id %[1]s", order)
		}
		if len(a.check) > 0 {
			cut := "cut" + strconv.Itoa(i)
			with = append(with, fmt.Sprintf(`%s AS MATERIALIZED (SELECT created FROM %s%s%s ORDER BY %s LIMIT 1 OFFSET %d)`, cut, x.table, x.by(a.index), conditions(where), sorting, maxScan-1))
			cuts = append(cuts, "SELECT created FROM "+cut)
			edge := "-9223372036854775808"
			if p.Ascending {
				edge = "9223372036854775807"
			}
			where = append(where, fmt.Sprintf("created %s COALESCE((SELECT created FROM %s), %s)", bound, cut, edge))
			where = append(where, a.check...)
		}
		if len(arms) == 1 && len(a.check) == 0 { // by far the most: nothing to merge, so nothing to sort
			fmt.Fprintf(q, "SELECT 0 AS cut, source_id, created, id, %s AS ref, doc FROM %s AS i%s%s ORDER BY %s LIMIT %d OFFSET %d",
				a.column, x.table, x.by(a.index), conditions(where), sorting, p.Limit+1, p.offset)
			return
		}
		union = append(union, fmt.Sprintf("SELECT * FROM (SELECT 0 AS cut, source_id, created, id, %s AS ref, doc FROM %s AS i%s%s ORDER BY %s LIMIT %s) AS a%d",
			a.column, x.table, x.by(a.index), conditions(where), sorting, limit, i))
	}
	if len(cuts) > 0 {
		union = append(union, fmt.Sprintf("SELECT * FROM (SELECT 1 AS cut, 0 AS source_id, (SELECT %s(created) FROM (%s) AS c) AS created, '' AS id, '' AS ref, '' AS doc) AS m WHERE created IS NOT NULL",
			outermost, strings.Join(cuts, " UNION ALL ")))
		q.WriteString("WITH " + strings.Join(with, ", ") + " ")
	}
	fmt.Fprintf(q, "SELECT cut, source_id, created, id, ref, doc FROM (%s) AS u ORDER BY %s", strings.Join(union, " UNION ALL "), listOrder(p))
	if len(cuts) > 0 {
		limit = strconv.Itoa(p.offset + p.Limit + 2)
	}
	q.WriteString(" LIMIT " + limit)
	if p.offset > 0 {
		q.WriteString(" OFFSET " + strconv.Itoa(p.offset))
	}
}

// by names the index to go through. SQLite knows only how long a stretch is on average: where one branch has most of a source's items it takes the primary key for as good,
// and then looks for another branch through the whole source. PostgreSQL sees that a term is rare, and has no such words.
func (x *Index[T]) by(index string) string {
	if index == "" || x.engine.DB.Engine() != store.SQLite {
		return ""
	}
	return " INDEXED BY " + x.table + "_" + index
}

func conditions(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(list, " AND ")
}

// listOrder is the order of lists over rows of u; where a stretch was cut off stands after the rows of the same moment, which were all seen.
func listOrder(p *plan) string {
	order := "DESC"
	if p.Ascending {
		order = "ASC"
	}
	return fmt.Sprintf("u.created %[1]s, u.cut, u.source_id %[1]s, u.id %[1]s", order)
}

// collect makes the page of the rows: what compose selects, and behind it, into more, what else the query does. ref says under which entity an item is shown.
func (x *Index[T]) collect(rows *sql.Rows, p *plan, page *Page, more []any, ref func(source int64, fromRow string) string) error {
	var last, k key
	var cut bool
	var rowRef string
	var doc sql.RawBytes
	var items arena
	dest := append([]any{&cut, &k.Source, &k.Created, &k.ID, &rowRef, &doc}, more...)
	err := store.Each(rows, func(rows *sql.Rows) error {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		switch {
		case page.PageInfo.HasMore:
		case cut:
			page.PageInfo.HasMore, last = true, edge(k.Created, p.Ascending)
		case len(page.Items) == p.Limit:
			page.PageInfo.HasMore = true
		default:
			ref := ref(k.Source, rowRef)
			page.Items = append(page.Items, items.splice(doc, ref))
			last = k
		}
		return nil
	})
	if err == nil && page.PageInfo.HasMore {
		page.PageInfo.NextCursor = p.cursors.Write(last)
	}
	return err
}
