package task

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
)

// Place is one project at one provider that serves an entity.
type Place struct {
	Provider Provider // as it is now; Provider.Provider is nil when it was removed, replaced by one of another type, or did not open
	Project  string
	Access   error // why the caller is not shown what is in it; nil: they are
	Detached bool  // the provider does not take the project any more: what is known of it can be seen, nothing new can be begun
}

// Item is one item with where it comes from.
type Item[T any] struct {
	Place
	Object Object
	Value  T      // as it was indexed, without the entity
	JSON   []byte // as it is answered
}

// Get gives one item of an entity by its id, "<provider>:<native id>". It is NotFound when the caller may not read the entity, or the index does not have the item. allow is
// that of Search.
func (x *Index[T]) Get(ctx context.Context, caller *slipway.Caller, ref slipway.EntityRef, id string, allow func(Object) error) (Item[T], error) {
	providerName, native, _ := strings.Cut(id, ":")
	var item Item[T]
	var doc []byte
	var refused error
	object, err := x.placesOf(ctx, caller, ref, allow, `LEFT JOIN `+x.table+` i ON i.source_id = s.id AND i.id = $3`, `i.doc`, []any{native},
		func(p Place, found []byte) {
			switch {
			case p.Provider.Name != providerName:
			case p.Access != nil:
				refused = p.Access
			case found != nil && doc == nil:
				item.Place, doc = p, found
			}
		})
	if err != nil {
		return item, err
	}
	if doc == nil && refused != nil {
		return item, refused // be the item there or not
	}
	if doc == nil {
		return item, slipway.Errorf(slipway.NotFound, "%s has no %s %q; search lists those there are", object.Ref, x.task.Name, clip(id))
	}
	item.Object = object
	item.JSON = splice(nil, doc, object.Ref)
	return item, json.Unmarshal(doc, &item.Value)
}

// Places lists where an entity's items of this task come from. allow is that of Search.
func (x *Index[T]) Places(ctx context.Context, caller *slipway.Caller, ref slipway.EntityRef, allow func(Object) error) (o Object, list []Place, err error) {
	o, err = x.placesOf(ctx, caller, ref, allow, ``, `NULL`, nil, func(p Place, _ []byte) { list = append(list, p) })
	return o, list, err
}

func (x *Index[T]) placesOf(ctx context.Context, caller *slipway.Caller, ref slipway.EntityRef, allow func(Object) error,
	join, column string, args []any, each func(Place, []byte)) (o Object, err error) {
	v := x.engine.viewer(ctx, caller)
	o, all, err := x.found(ctx, v, ref, join, column, args)
	if err != nil {
		return o, err
	}
	if o.ID == 0 {
		return o, slipway.Errorf(slipway.NotFound, "there is no entity %s, or none that you may read", ref)
	}
	if allow != nil {
		if err := allow(o); err != nil {
			return o, err
		}
	}
	var sources []*source
	for _, f := range all {
		sources = append(sources, &f.source)
	}
	if learned, err := v.admit(ctx, sources); err != nil {
		return o, err
	} else if learned {
		if o, all, err = x.found(ctx, v, ref, join, column, args); err != nil {
			return o, err
		}
	}
	for _, f := range all {
		if f.source.access != accessYes {
			f.Access, f.value = hidden(f.source.provider, f.source.access), nil
		}
		each(f.Place, f.value)
	}
	return o, nil
}

// found is a place with what was looked for in it.
type found struct {
	Place
	source source // as far as access asks
	value  []byte
}

func (x *Index[T]) found(ctx context.Context, v *viewer, ref slipway.EntityRef, join, column string, args []any) (o Object, all []*found, err error) {
	q := query{args: append([]any{x.task.Name, ref.String()}, args...)}
	fmt.Fprintf(&q, `SELECT e.id, e.ref, COALESCE(e.owner, ''), s.id, s.provider, s.type, s.project, COALESCE(b.detached, FALSE), %s, %s
		FROM entity e LEFT JOIN task_binding b ON b.entity_id = e.id LEFT JOIN task_source s ON s.id = b.source_id AND s.task = $1 %s
		WHERE e.ref = $2 AND `, v.column(&q), column, join)
	readable, more := entity.Readable(v.caller, "e", len(q.args)+1)
	q.WriteString(readable + ` ORDER BY s.provider, s.project`)
	rows, err := x.engine.read.QueryContext(ctx, q.String(), append(q.args, more...)...)
	if err != nil {
		return o, nil, store.Err(err)
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var name, kind, project sql.NullString
		var id sql.NullInt64
		f := &found{}
		if err := rows.Scan(&o.ID, &o.Ref, &o.Owner, &id, &name, &kind, &project, &f.Detached, &f.source.access, &f.value); err != nil {
			return err
		}
		if !name.Valid {
			return nil
		}
		f.source.id, f.source.provider, f.source.project = id.Int64, name.String, project.String
		f.Project = project.String
		var ok bool
		if f.Provider, ok = x.engine.opened(name.String); !ok || f.Provider.Type != kind.String {
			f.Provider = Provider{Name: name.String, Type: kind.String}
		}
		all = append(all, f)
		return nil
	})
	return o, all, err
}

// Acted notes that something was done at a provider on behalf of a caller: the resulting item, where the provider has named it, is in the index at once,
// and the project is read again.
func (x *Index[T]) Acted(ctx context.Context, p Place, result *T) error {
	return x.engine.DB.Write(ctx, func(tx *store.Tx) error {
		s, err := x.lockSource(ctx, tx, p.Provider, p.Project)
		if err != nil || s.id == 0 {
			return err
		}
		if result != nil {
			if _, err := x.write(ctx, tx, s, p.Provider, []T{*result}, true); err != nil {
				return err
			}
		}
		_, err = x.engine.insertRefresh(ctx, tx, x.task.Name, s.id, 1)
		return err
	})
}
