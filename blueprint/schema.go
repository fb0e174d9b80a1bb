package blueprint

import (
	"encoding/json"
	"path"
	"reflect"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/slipway-platform/slipway/event"
)

const dialect = "https://json-schema.org/draft/2020-12/schema"

// JSONSchema is the JSON Schema (2020-12) of what a value of this type encodes to, in one document. Fields say the rest in their tags, as those of an operation's body do.
func JSONSchema(id string, v any) (json.RawMessage, error) {
	registry := huma.NewMapRegistry("#/$defs/", huma.DefaultSchemaNamer)
	root := registry.Schema(reflect.TypeOf(v), true, "Data")
	raw, err := json.Marshal(root)
	if err != nil {
		return nil, err
	}
	doc := map[string]any{}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	doc["$schema"], doc["$id"], doc["$defs"] = dialect, id, registry.Map()
	return json.Marshal(doc)
}

// EventSchema is the JSON Schema of the data of events of one type, by all sources that declared one: with several, that of each, which the data's context.source tells apart. nil where none
// has data.
func EventSchema(id string, types []event.Type) (json.RawMessage, error) {
	types = slices.DeleteFunc(slices.Clone(types), func(t event.Type) bool { return t.Data == nil })
	switch len(types) {
	case 0:
		return nil, nil
	case 1:
		return JSONSchema(id, types[0].Data)
	}
	registry := huma.NewMapRegistry("#/$defs/", func(t reflect.Type, hint string) string { // two blueprints may call two things the same
		return path.Base(t.PkgPath()) + huma.DefaultSchemaNamer(t, hint)
	})
	var one []any
	for _, t := range types {
		one = append(one, map[string]any{
			"allOf": []any{registry.Schema(reflect.TypeOf(t.Data), true, "Data"), map[string]any{
				"properties": map[string]any{"context": map[string]any{"properties": map[string]any{"source": map[string]any{"const": t.Source}}}},
			}},
		})
	}
	return json.Marshal(map[string]any{"$schema": dialect, "$id": id, "oneOf": one, "$defs": registry.Map()})
}

// OneOrMany describes a body that is one T or a list of them, for Operation.Request.
type OneOrMany[T any] struct{}

// Schema is called by the API description.
func (OneOrMany[T]) Schema(r huma.Registry) *huma.Schema {
	one := r.Schema(reflect.TypeFor[T](), true, "")
	return &huma.Schema{OneOf: []*huma.Schema{one, {Type: huma.TypeArray, Items: one}}, Description: "One, or a list"}
}
