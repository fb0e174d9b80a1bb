package blueprint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/task"
)

// What the operations of platform tasks have in common, so that it is the same for all of them: a blueprint adds its own filters, statuses and words, and its operations are a line
// each. blueprint/deployment is the shortest example.

// Listing are the parameters of a task's searches.
type Listing struct {
	Limit      int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many on a page"`
	Cursor     string `query:"cursor" doc:"pageInfo.nextCursor of the page before. Pages by cursor neither repeat nor drop anything while new items arrive"`
	PageNumber int    `query:"pageNumber" minimum:"1" doc:"Which page, from 1, instead of cursor; pageNumber × limit is at most 10,000"`
	Order      string `query:"order" enum:"desc,asc" default:"desc" doc:"By creation: desc is newest first"`
	Since      moment `query:"since" format:"date-time" doc:"Created at this moment or later" example:"2026-05-01T00:00:00Z"`
	Until      moment `query:"until" format:"date-time" doc:"Created before this moment" example:"2026-06-01T00:00:00Z"`
	Fresh      bool   `query:"fresh" doc:"Have the sources read first, and wait for that, 5 seconds at most. A vendor that is down gives what was last known, with the state failed"`
	Sent       Query
}

// moment is a time in a query.
type moment struct{ time.Time }

// UnmarshalText reads RFC 3339, and says so in words.
func (m *moment) UnmarshalText(text []byte) (err error) {
	if m.Time, err = time.Parse(time.RFC3339, string(text)); err != nil {
		return errors.New("write a time such as 2026-01-02T15:04:05Z")
	}
	return nil
}

// Query is what the index is asked, with the task's own filters by name. A filter that was sent without a value is Invalid: a script whose variable is empty must not be shown, or act
// on, everything.
func (l Listing) Query(statuses []string, filters map[string][]string) (task.Query, error) {
	var empty []string
	for name, values := range l.Sent.Values {
		if filter := !slices.Contains([]string{"cursor", "limit", "pageNumber", "order", "fresh"}, name); filter && slices.Contains(values, "") {
			empty = append(empty, name)
		}
	}
	if slices.Sort(empty); len(empty) > 0 {
		err := slipway.Errorf(slipway.Invalid, "%s: was sent without a value; leave it out, or give it one", strings.Join(empty, ", "))
		for _, name := range empty {
			err.Details = append(err.Details, slipway.Detail{Field: name, Code: slipway.Invalid, Message: "was sent without a value"})
		}
		return task.Query{}, err
	}
	return task.Query{
		Statuses: statuses, Filters: filters, Since: l.Since.Time, Until: l.Until.Time, Ascending: l.Order == "asc",
		Limit: l.Limit, Cursor: l.Cursor, PageNumber: l.PageNumber, Fresh: l.Fresh,
	}, nil
}

// Among are the parameters that say among which entities a task's items are searched; none: all that the caller may read.
type Among struct {
	Owner  []string `query:"owner,explode" maxItems:"20" doc:"Owner of the entity; repeat for any of several. The kind is group when left out" example:"[\"group:default/team-a\"]"`
	System []string `query:"system,explode" maxItems:"20" doc:"System of the entity; repeat for any of several"`
	Entity []string `query:"entity,explode" maxItems:"100" doc:"The entity; repeat for any of several"`
	Kind   []string `query:"kind,explode" maxItems:"20" doc:"Kind of the entity; repeat for any of several" example:"[\"component\"]"`
}

// Scope reads them. What is no entity ref is Invalid.
func (a Among) Scope() (task.Scope, error) {
	scope := task.Scope{Kinds: a.Kind}
	for _, p := range []struct {
		field, kind string
		values      []string
		refs        *[]string
	}{{"owner", "group", a.Owner, &scope.Owners}, {"system", "system", a.System, &scope.Systems}, {"entity", slipway.DefaultKind, a.Entity, &scope.Entities}} {
		for _, v := range p.values {
			ref, err := slipway.ParseEntityRef(v, slipway.EntityRef{Kind: p.kind})
			if e, ok := errors.AsType[*slipway.Error](err); ok {
				return scope, slipway.Errorf(slipway.Invalid, "%s: %s", p.field, e.Message).WithDetails(slipway.Detail{Field: p.field, Code: slipway.Invalid, Message: e.Message})
			}
			if err != nil {
				return scope, err
			}
			*p.refs = append(*p.refs, ref.String())
		}
	}
	return scope, nil
}

// Shown documents what the server reads of every request, before any operation, and puts into its context.
type Shown struct {
	Shown string `header:"Slipway-Provider-Token" doc:"Tokens of the caller's own at providers with visibility source, which show their items only to those who may see them there: <provider>=<token>, several with commas between" example:"github=ghp_…"`
}

// OfEntity names an entity in the path.
type OfEntity struct {
	Shown
	EntityRef string `path:"entityRef" maxLength:"200" doc:"[kind:][namespace/]name; kind is component and namespace is default when left out; case does not matter" example:"component:default/web"`
}

// Ref reads it. What is no entity ref is Invalid.
func (in OfEntity) Ref() (slipway.EntityRef, error) {
	ref, err := slipway.ParseEntityRef(in.EntityRef, slipway.EntityRef{})
	return ref.Lower(), err
}

// Allow checks a permission of the caller on the entity that an index has found.
func Allow(ctx context.Context, permission string) func(task.Object) error {
	return func(o task.Object) error {
		return auth.Require(ctx, permission, auth.Object{Ref: o.Ref, Owner: o.Owner})
	}
}

// Answered is an answer that the index has as bytes; it is described as a T.
type Answered[T any] struct{ Body Raw[T] }

// AnswerSearch answers the search of one entity's items, described as a P: a struct of items, pageInfo and sources. query makes what the index is asked of the task's own parameters.
// What is wrong with those or with the entity ref is Invalid; otherwise errors and costs are those of task.Index.Search.
func AnswerSearch[P, T any](ctx context.Context, x *task.Index[T], in OfEntity, query func() (task.Query, error)) (*Answered[P], error) {
	ref, err := in.Ref()
	if err != nil {
		return nil, err
	}
	q, err := query()
	if err != nil {
		return nil, err
	}
	return answerPage[P](x.Search(ctx, auth.CallerFrom(ctx), ref, q, Allow(ctx, x.Permission())))
}

// AnswerSearchAll is AnswerSearch across entities.
func AnswerSearchAll[P, T any](ctx context.Context, x *task.Index[T], in Among, query func() (task.Query, error)) (*Answered[P], error) {
	q, err := query()
	if err != nil {
		return nil, err
	}
	scope, err := in.Scope()
	if err != nil {
		return nil, err
	}
	return answerPage[P](x.SearchAll(ctx, auth.Narrowed(ctx), scope, q))
}

// AnswerItem answers with one item of an entity. Errors are those of ItemOf with the task's Permission.
func AnswerItem[T any](ctx context.Context, x *task.Index[T], in OfEntity, id string) (*Answered[T], error) {
	it, err := ItemOf(ctx, x, in, id, x.Permission())
	return &Answered[T]{Raw[T]{JSON: it.JSON}}, err
}

// ItemOf finds one item of an entity for an operation that takes a permission on it. It is NotFound where there is none or the caller may not read the entity, Forbidden without the
// permission, Invalid where the path names no entity.
func ItemOf[T any](ctx context.Context, x *task.Index[T], in OfEntity, id, permission string) (task.Item[T], error) {
	ref, err := in.Ref()
	if err != nil {
		return task.Item[T]{}, err
	}
	return x.Get(ctx, auth.CallerFrom(ctx), ref, id, Allow(ctx, permission))
}

func answerPage[P any](p task.Page, err error) (*Answered[P], error) {
	if err != nil {
		return nil, err
	}
	raw, err := writePage(p)
	return &Answered[P]{Raw[P]{JSON: raw}}, err
}

// writePage writes a page around the documents that the index has as bytes: items, pageInfo and sources.
func writePage(p task.Page) ([]byte, error) {
	size := 512
	for _, raw := range p.Items {
		size += len(raw) + 1
	}
	info, err := json.Marshal(p.PageInfo)
	if err != nil {
		return nil, err
	}
	if p.Sources == nil {
		p.Sources = []slipway.Source{}
	}
	sources, err := json.Marshal(p.Sources)
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, size+len(info)+len(sources)))
	b.WriteString(`{"items":[`)
	for i, raw := range p.Items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(raw)
	}
	b.WriteString(`],"pageInfo":`)
	b.Write(info)
	b.WriteString(`,"sources":`)
	b.Write(sources)
	b.WriteByte('}')
	return b.Bytes(), nil
}
