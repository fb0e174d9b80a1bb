package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/secret"
)

// Entities is a page of entities.
type Entities struct {
	Items      []slipway.Entity `json:"items" doc:"The entities"`
	TotalItems int64            `json:"totalItems" doc:"How many there are on all pages; 0 when totalItems was exclude"`
	PageInfo   Pages            `json:"pageInfo" doc:"Where this page stands"`
}

// Pages are the pages beside a page.
type Pages struct {
	NextCursor string `json:"nextCursor,omitempty" doc:"Pass as cursor to read on; absent on the last page"`
	PrevCursor string `json:"prevCursor,omitempty" doc:"Pass as cursor to read back; absent on the first page"`
}

const (
	defaultQueryLimit = 200
	maxQueryLimit     = 1000
)

type queryInput struct {
	Filter     []string `query:"filter,explode" maxItems:"50" doc:"Conditions key=value, joined by commas; may be repeated" example:"kind=Component,spec.type=service"`
	Fields     string   `query:"fields" doc:"Only these fields, as paths joined by commas" example:"metadata.name,spec.owner"`
	OrderField []string `query:"orderField,explode" maxItems:"5" doc:"A field, with ,asc or ,desc; may be repeated; then by ref" example:"metadata.name,asc"`
	Limit      int      `query:"limit" default:"200" minimum:"0" doc:"How many at most; 0 only counts; a page holds 1,000 at most"`
	Offset     int      `query:"offset" minimum:"0" maximum:"100000" doc:"How many to pass over"`
	Cursor     string   `query:"cursor" doc:"Of the page before or after. It holds the query: only limit and fields count beside it"`
	Term       string   `query:"fullTextFilterTerm" maxLength:"200" doc:"Only entities with this text in one of the fields"`
	TermFields string   `query:"fullTextFilterFields" doc:"Fields to search, as paths joined by commas; by default the first field of the order, else name and title"`
	TotalItems string   `query:"totalItems" enum:"include,exclude" default:"include" doc:"exclude saves counting"`
}

type queryBodyInput struct {
	Body struct {
		Query          map[string]any `json:"query,omitempty" doc:"A predicate: fields with values, $all, $any, $not, $exists, $in, $hasPrefix, $contains"`
		OrderBy        []orderBy      `json:"orderBy,omitempty" maxItems:"5" doc:"Fields to sort by; then by ref"`
		FullTextFilter *fullText      `json:"fullTextFilter,omitempty" doc:"Only entities with a text in one of the fields"`
		Fields         []string       `json:"fields,omitempty" maxItems:"100" doc:"Only these fields, as paths"`
		Limit          *int           `json:"limit,omitempty" minimum:"0" doc:"How many at most, 200 by default; 0 only counts; a page holds 1,000 at most"`
		Offset         int            `json:"offset,omitempty" minimum:"0" maximum:"100000" doc:"How many to pass over"`
		TotalItems     string         `json:"totalItems,omitempty" enum:"include,exclude" doc:"exclude saves counting"`
		Cursor         string         `json:"cursor,omitempty" doc:"Of the page before or after. It holds the query: only limit and fields count beside it"`
	}
}

type orderBy struct {
	Field string `json:"field" doc:"Path of the field"`
	Order string `json:"order,omitempty" enum:"asc,desc" doc:"Direction, asc by default"`
}

type fullText struct {
	Term   string   `json:"term" maxLength:"200" doc:"Text to find, whatever the case"`
	Fields []string `json:"fields,omitempty" maxItems:"10" doc:"Fields to search; by default the first field of the order, else name and title"`
}

type queryOutput struct {
	Body blueprint.Raw[Entities]
}

// pageCursor is what a cursor of by-query holds: the whole query, since clients send nothing else with it.
type pageCursor struct {
	Filter []string       `json:"f,omitempty"`
	Query  map[string]any `json:"q,omitempty"`
	Order  []entity.Order `json:"o,omitempty"`
	Text   *entity.Text   `json:"x,omitempty"`
	Total  *int64         `json:"t,omitempty"` // counted on the first page; nil: not to be counted
	Mark   *entity.Mark   `json:"m,omitempty"`
	Back   bool           `json:"b,omitempty"`
}

// queryCursors are bound to no query: each holds its own.
func (s *service) queryCursors() secret.Cursors[pageCursor] {
	return secret.CursorsOf[pageCursor](s.Keys, "catalog query")
}

func (s *service) queryEntities(ctx context.Context, in *queryInput) (*queryOutput, error) {
	pick, err := parseFields(in.Fields)
	if err != nil {
		return nil, err
	}
	if in.Cursor != "" {
		return s.goOn(ctx, in.Cursor, in.Limit, pick)
	}
	c := pageCursor{Filter: in.Filter}
	for _, o := range in.OrderField {
		field, direction, _ := strings.Cut(o, ",")
		if field == "" || direction != "" && direction != "asc" && direction != "desc" {
			return nil, slipway.Errorf(slipway.Invalid, "orderField %q is not known; write field,asc or field,desc", clip(o))
		}
		c.Order = append(c.Order, entity.Order{Key: field, Desc: direction == "desc"})
	}
	if in.Term != "" {
		c.Text = &entity.Text{Term: in.Term}
		for _, f := range strings.Split(in.TermFields, ",") {
			if f = strings.TrimSpace(f); f != "" {
				c.Text.Fields = append(c.Text.Fields, f)
			}
		}
	}
	return s.page(ctx, c, in.Limit, in.Offset, in.TotalItems != "exclude", pick)
}

func (s *service) queryEntitiesBody(ctx context.Context, in *queryBodyInput) (*queryOutput, error) {
	b := in.Body
	pick, err := parseFields(strings.Join(b.Fields, ","))
	if err != nil {
		return nil, err
	}
	limit := defaultQueryLimit
	if b.Limit != nil {
		limit = *b.Limit
	}
	if b.Cursor != "" {
		return s.goOn(ctx, b.Cursor, limit, pick)
	}
	c := pageCursor{Query: b.Query}
	for _, o := range b.OrderBy {
		c.Order = append(c.Order, entity.Order{Key: o.Field, Desc: o.Order == "desc"})
	}
	if b.FullTextFilter != nil && b.FullTextFilter.Term != "" {
		c.Text = &entity.Text{Term: b.FullTextFilter.Term, Fields: b.FullTextFilter.Fields}
	}
	return s.page(ctx, c, limit, b.Offset, b.TotalItems != "exclude", pick)
}

// goOn answers the page of a cursor, whichever verb brought it.
func (s *service) goOn(ctx context.Context, cursor string, limit int, pick fields) (*queryOutput, error) {
	c, err := s.queryCursors().Read(cursor)
	if err != nil {
		return nil, err
	}
	return s.page(ctx, *c, limit, 0, false, pick)
}

func (s *service) page(ctx context.Context, c pageCursor, limit, offset int, count bool, pick fields) (*queryOutput, error) {
	caller := auth.Narrowed(ctx)
	q := entity.Query{Order: c.Order, Text: c.Text, Limit: min(limit, maxQueryLimit), Offset: offset}
	if c.Back {
		q.Before = c.Mark
	} else {
		q.After = c.Mark
	}
	if q.Text != nil && q.Text.Fields == nil && len(c.Order) > 0 {
		q.Text = &entity.Text{Term: q.Text.Term, Fields: []string{c.Order[0].Key}}
	}
	if q.Text != nil && len(q.Text.Fields) > 10 {
		return nil, slipway.Errorf(slipway.Invalid, "a text is searched for in at most 10 fields")
	}
	var err error
	if q.Filters, err = parseFilters(c.Filter); err != nil {
		return nil, err
	}
	if q.Where, err = parsePredicate(c.Query); err != nil {
		return nil, err
	}
	if count {
		total, err := s.Entities.Count(ctx, caller, q)
		if err != nil {
			return nil, err
		}
		c.Total = &total
	}
	var p entity.Page
	if limit > 0 {
		if p, err = s.Entities.Page(ctx, caller, q); err != nil {
			return nil, err
		}
	}
	var body bytes.Buffer
	body.WriteString(`{"items":`)
	if err := pick.write(&body, p.Rows); err != nil {
		return nil, err
	}
	total := int64(0)
	if c.Total != nil {
		total = *c.Total
	}
	pages := Pages{NextCursor: s.cursor(c, p.Next, false), PrevCursor: s.cursor(c, p.Previous, true)}
	rest, err := json.Marshal(pages)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&body, `,"totalItems":%d,"pageInfo":%s}`, total, rest)
	return &queryOutput{blueprint.Raw[Entities]{JSON: body.Bytes()}}, nil
}

func (s *service) cursor(c pageCursor, m *entity.Mark, back bool) string {
	if m == nil {
		return ""
	}
	c.Mark, c.Back = m, back
	return s.queryCursors().Write(c)
}

type uidInput struct {
	UID string `path:"uid" maxLength:"100" doc:"metadata.uid of the entity" example:"0198c2f0-6b5e-7cc0-9d5e-0f6f3c1f7a11"`
}

func (s *service) entityByUID(ctx context.Context, in *uidInput) (*entityOutput, error) {
	r, err := s.byUID(ctx, auth.Narrowed(ctx), in.UID)
	if err != nil {
		return nil, err
	}
	return &entityOutput{blueprint.Raw[slipway.Entity]{JSON: r.JSON}}, nil
}

func (s *service) byUID(ctx context.Context, caller *slipway.Caller, uid string) (entity.Row, error) {
	id, err := uuid.Parse(uid)
	if err != nil {
		return entity.Row{}, slipway.Errorf(slipway.NotFound, "there is no entity with this uid: no entity could have it")
	}
	return s.Entities.ByUID(ctx, s.db, caller, id.String())
}

type byRefsInput struct {
	Filter []string `query:"filter,explode" maxItems:"50" doc:"Only entities for which these conditions hold; the others are null"`
	Body   struct {
		EntityRefs []string       `json:"entityRefs" maxItems:"1000" nullable:"false" doc:"Refs of entities" example:"[\"component:default/web\"]"`
		Fields     []string       `json:"fields,omitempty" maxItems:"100" doc:"Only these fields, as paths"`
		Query      map[string]any `json:"query,omitempty" doc:"Only entities for which this predicate holds; the others are null"`
	}
}

// Found are entities in the order in which they were asked for.
type Found struct {
	Items []*slipway.Entity `json:"items" doc:"The entities; null where there is none that the caller may read"`
}

type byRefsOutput struct {
	Body blueprint.Raw[Found]
}

func (s *service) entitiesByRefs(ctx context.Context, in *byRefsInput) (*byRefsOutput, error) {
	caller := auth.Narrowed(ctx)
	pick, err := parseFields(strings.Join(in.Body.Fields, ","))
	if err != nil {
		return nil, err
	}
	q, err := conditions(in.Filter, in.Body.Query)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(in.Body.EntityRefs))
	var refs []slipway.EntityRef
	for i, text := range in.Body.EntityRefs {
		ref, err := slipway.ParseEntityRef(text, slipway.EntityRef{})
		if err != nil {
			continue // no entity can have it
		}
		if names[i] = ref.String(); !slices.Contains(names[:i], names[i]) {
			refs = append(refs, ref)
		}
	}
	found, err := s.Entities.Among(ctx, caller, refs, q)
	if err != nil {
		return nil, err
	}
	rows := make([]entity.Row, len(names)) // one without a document is null
	for i, name := range names {
		rows[i] = found[name]
	}
	var body bytes.Buffer
	body.WriteString(`{"items":`)
	if err := pick.write(&body, rows); err != nil {
		return nil, err
	}
	body.WriteByte('}')
	return &byRefsOutput{blueprint.Raw[Found]{JSON: body.Bytes()}}, nil
}

// conditions reads what an operation takes of both kinds.
func conditions(filters []string, query map[string]any) (q entity.Query, err error) {
	if q.Filters, err = parseFilters(filters); err != nil {
		return q, err
	}
	q.Where, err = parsePredicate(query)
	return q, err
}

type facetsInput struct {
	Facet  []string `query:"facet,explode" required:"true" minItems:"1" maxItems:"20" doc:"Field whose values are counted; may be repeated" example:"spec.type"`
	Filter []string `query:"filter,explode" maxItems:"50" doc:"Only entities for which these conditions hold" example:"kind=Component"`
}

type facetsBodyInput struct {
	Body struct {
		Facets []string       `json:"facets" minItems:"1" maxItems:"20" nullable:"false" doc:"Fields whose values are counted"`
		Query  map[string]any `json:"query,omitempty" doc:"Only entities for which this predicate holds"`
	}
}

// Facets are the values of fields.
type Facets struct {
	Facets map[string][]FacetValue `json:"facets" doc:"For each field its values; none for a field that nobody has"`
}

// FacetValue is a value and how many entities have it.
type FacetValue struct {
	Value string `json:"value" doc:"The value"`
	Count int64  `json:"count" doc:"How many entities have it"`
}

type facetsOutput struct{ Body Facets }

func (s *service) facets(ctx context.Context, in *facetsInput) (*facetsOutput, error) {
	q, err := conditions(in.Filter, nil)
	if err != nil {
		return nil, err
	}
	return s.facetsOf(ctx, in.Facet, q)
}

func (s *service) facetsBody(ctx context.Context, in *facetsBodyInput) (*facetsOutput, error) {
	q, err := conditions(nil, in.Body.Query)
	if err != nil {
		return nil, err
	}
	return s.facetsOf(ctx, in.Body.Facets, q)
}

func (s *service) facetsOf(ctx context.Context, keys []string, q entity.Query) (*facetsOutput, error) {
	for _, key := range keys {
		if key == "" || len(key) > 300 || !utf8.ValidString(key) {
			return nil, slipway.Errorf(slipway.Invalid, "a facet is the path of a field, such as spec.type")
		}
	}
	found, err := s.Entities.Facets(ctx, auth.Narrowed(ctx), keys, q)
	if err != nil {
		return nil, err
	}
	out := &facetsOutput{Facets{map[string][]FacetValue{}}}
	for key, list := range found {
		values := make([]FacetValue, len(list))
		for i, f := range list {
			values[i] = FacetValue(f)
		}
		out.Body.Facets[key] = values
	}
	return out, nil
}
