package catalog

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
)

// The bounds of a predicate.
const (
	maxPredicateDepth = 16
	maxPredicateParts = 500 // conditions and values together
)

// predicateReader reads predicates in Backstage's form: {"$all": […]}, {"$any": […]}, {"$not": {…}}, or fields with what must hold for each:
// a value, {"$exists": true}, {"$in": […]}, {"$hasPrefix": "…"}, {"$contains": …}.
//
// Source: Backstage, "Filter Predicates".
type predicateReader struct{ parts int }

// parsePredicate reads a predicate; what is none is Invalid.
func parsePredicate(query map[string]any) (*entity.Predicate, error) {
	if query == nil {
		return nil, nil
	}
	return new(predicateReader).object(query, 0)
}

func (r *predicateReader) object(m map[string]any, depth int) (*entity.Predicate, error) {
	if r.parts++; depth > maxPredicateDepth || r.parts > maxPredicateParts {
		return nil, slipway.Errorf(slipway.Invalid, "the query nests deeper than %d levels or has more than %d parts", maxPredicateDepth, maxPredicateParts)
	}
	for key, v := range m {
		if !strings.HasPrefix(key, "$") {
			continue
		}
		if len(m) > 1 {
			return nil, slipway.Errorf(slipway.Invalid, "query: %s must stand alone in its object; put it and the rest into $all", clip(key))
		}
		switch key {
		case "$all", "$any":
			list, err := r.list(key, v, depth)
			if key == "$any" {
				return &entity.Predicate{Any: list}, err
			}
			return &entity.Predicate{All: list}, err
		case "$not":
			inner, ok := v.(map[string]any)
			if !ok {
				return nil, slipway.Errorf(slipway.Invalid, "query: $not takes an object")
			}
			p, err := r.object(inner, depth+1)
			return &entity.Predicate{Not: p}, err
		}
		return nil, slipway.Errorf(slipway.Invalid, "query: the operator %s is not known; there are $all, $any, $not, and for a field $exists, $in, $hasPrefix, $contains", clip(key))
	}
	all := []entity.Predicate{}
	for _, key := range sortedKeys(m) {
		p, err := r.field(key, m[key])
		if err != nil {
			return nil, err
		}
		all = append(all, *p)
	}
	if len(all) == 1 {
		return &all[0], nil
	}
	return &entity.Predicate{All: all}, nil
}

func (r *predicateReader) list(key string, v any, depth int) ([]entity.Predicate, error) {
	items, ok := v.([]any)
	if !ok {
		return nil, slipway.Errorf(slipway.Invalid, "query: %s takes a list of objects", key)
	}
	list := make([]entity.Predicate, 0, len(items))
	for _, item := range items {
		m, ok := item.(map[string]any)
		if !ok {
			return nil, slipway.Errorf(slipway.Invalid, "query: %s takes a list of objects", key)
		}
		p, err := r.object(m, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, *p)
	}
	return list, nil
}

func (r *predicateReader) field(key string, v any) (*entity.Predicate, error) {
	if r.parts++; r.parts > maxPredicateParts {
		return nil, slipway.Errorf(slipway.Invalid, "the query has more than %d parts", maxPredicateParts)
	}
	is := func(values ...string) *entity.Predicate {
		return &entity.Predicate{Is: &entity.Condition{Key: key, Values: values}}
	}
	if s, ok := primitive(v); ok {
		return is(s), nil
	}
	m, _ := v.(map[string]any)
	if len(m) != 1 {
		return nil, slipway.Errorf(slipway.Invalid, "query: %s takes a text, a number, a boolean, or an object with one operator", clip(key))
	}
	for operator, v := range m {
		switch operator {
		case "$exists":
			there, ok := v.(bool)
			if !ok {
				break
			}
			if !there {
				return &entity.Predicate{Not: is()}, nil
			}
			return is(), nil
		case "$in":
			values, ok := r.texts(v)
			if !ok {
				break
			}
			if len(values) == 0 {
				return &entity.Predicate{Any: []entity.Predicate{}}, nil
			}
			return is(values...), nil
		case "$hasPrefix":
			if s, ok := v.(string); ok {
				return &entity.Predicate{Prefix: &entity.Prefix{Key: key, Text: s}}, nil
			}
		case "$contains":
			if s, ok := primitive(v); ok {
				return is(s), nil
			}
			if m, ok := v.(map[string]any); ok && strings.EqualFold(key, "relations") {
				return r.relation(m)
			}
		default:
			return nil, slipway.Errorf(slipway.Invalid, "query: the operator %s is not known; a field takes $exists, $in, $hasPrefix, $contains", clip(operator))
		}
		return nil, slipway.Errorf(slipway.Invalid, "query: %s of %s does not take this: $exists takes true or false, $in a list of values, $hasPrefix a text, $contains a value (for relations also {type, targetRef})", operator, clip(key))
	}
	return nil, nil // not reached: m has one member
}

// relation reads {"type": …, "targetRef": …}.
func (r *predicateReader) relation(m map[string]any) (*entity.Predicate, error) {
	kind, ok := m["type"].(string)
	_, hasTarget := m["targetRef"]
	if !ok || len(m) != 1 && (len(m) != 2 || !hasTarget) {
		return nil, slipway.Errorf(slipway.Invalid, `query: $contains of relations takes {"type": "ownedBy", "targetRef": "group:default/shop"}; targetRef may be {"$in": […]} or absent`)
	}
	if !hasTarget {
		return r.field("relations."+kind, map[string]any{"$exists": true})
	}
	return r.field("relations."+kind, m["targetRef"])
}

func (r *predicateReader) texts(v any) ([]string, bool) {
	list, ok := v.([]any)
	if r.parts += len(list); !ok || r.parts > maxPredicateParts {
		return nil, false
	}
	values := make([]string, 0, len(list))
	for _, item := range list {
		s, ok := primitive(item)
		if !ok {
			return nil, false
		}
		values = append(values, s)
	}
	return values, true
}

// primitive is a value as fields are compared with it.
func primitive(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		return v.String(), true
	case float64:
		b, err := json.Marshal(v)
		return string(b), err == nil
	}
	return "", false
}

// holds says whether a predicate holds for something with these fields. It is for the few things that are no entities.
func holds(p *entity.Predicate, fields map[string]string) bool {
	switch {
	case p.Is != nil:
		v, ok := lookUp(fields, p.Is.Key)
		return ok && (len(p.Is.Values) == 0 || slices.ContainsFunc(p.Is.Values, func(want string) bool { return strings.EqualFold(want, v) }))
	case p.Prefix != nil:
		v, _ := lookUp(fields, p.Prefix.Key)
		return strings.HasPrefix(strings.ToLower(v), strings.ToLower(p.Prefix.Text))
	case p.Not != nil:
		return !holds(p.Not, fields)
	case p.Any != nil:
		return slices.ContainsFunc(p.Any, func(q entity.Predicate) bool { return holds(&q, fields) })
	}
	return !slices.ContainsFunc(p.All, func(q entity.Predicate) bool { return !holds(&q, fields) })
}

func lookUp(fields map[string]string, key string) (string, bool) {
	for k, v := range fields {
		if strings.EqualFold(k, key) {
			return v, true
		}
	}
	return "", false
}
