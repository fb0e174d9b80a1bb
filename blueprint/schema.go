package blueprint

import (
	"encoding/json"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

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
	doc["$schema"], doc["$id"], doc["$defs"] = "https://json-schema.org/draft/2020-12/schema", id, registry.Map()
	return json.Marshal(doc)
}

// OneOrMany describes a body that is one T or a list of them, for Operation.Request.
type OneOrMany[T any] struct{}

// Schema is called by the API description.
func (OneOrMany[T]) Schema(r huma.Registry) *huma.Schema {
	one := r.Schema(reflect.TypeFor[T](), true, "")
	return &huma.Schema{OneOf: []*huma.Schema{one, {Type: huma.TypeArray, Items: one}}, Description: "One, or a list"}
}
