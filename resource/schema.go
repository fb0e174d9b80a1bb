package resource

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Schema describes the documents of a kind as JSON Schema (draft 2020-12): one of its types, told apart by "type".
func (k Kind) Schema() json.RawMessage {
	schema := map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "/data/schema/" + k.Name, "title": k.Name, "description": k.Text, "type": "object",
	}
	var one []any
	mapping := map[string]string{}
	for _, t := range k.Types {
		one = append(one, k.schemaOf(t))
		mapping[t.Symbol] = "#/oneOf/" + strconv.Itoa(len(one)-1)
	}
	if len(k.Types) == 1 && k.Types[0].Symbol == "" {
		for _, key := range []string{"properties", "required", "additionalProperties"} {
			schema[key] = one[0].(map[string]any)[key]
		}
	} else {
		schema["required"] = []string{"type"}
		schema["oneOf"] = one
		schema["discriminator"] = map[string]any{"propertyName": "type", "mapping": mapping}
	}
	return encode(schema)
}

func (k Kind) schemaOf(t Type) map[string]any {
	properties := map[string]any{
		"id":     map[string]any{"type": "string", "pattern": idPattern.String(), "description": "Id, unique in its kind; made when it is left out"},
		"kind":   map[string]any{"const": k.Name},
		"labels": map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}, "description": "Labels of your own"},
	}
	required := []string{}
	if t.Symbol != "" {
		properties["type"] = map[string]any{"const": t.Symbol, "description": t.Text}
		required = append(required, "type")
	}
	if t.Version > 1 {
		properties["typeVersion"] = map[string]any{"type": "integer", "minimum": 1, "maximum": t.Version}
	}
	add := func(v any, hidden []string) {
		if v == nil {
			return
		}
		inner := schemaOfStruct(reflect.TypeOf(v))
		for key, value := range inner["properties"].(map[string]any) {
			if !slices.Contains(hidden, key) {
				properties[key] = value
			}
		}
		for _, key := range inner["required"].([]string) {
			if !slices.Contains(hidden, key) && !slices.ContainsFunc(t.secrets, func(p []string) bool { return p[0] == key }) {
				required = append(required, key)
			}
		}
	}
	add(k.Base, nil)
	add(t.Fields, keysOf(k.Base))
	return map[string]any{"type": "object", "title": t.Symbol, "description": t.Text, "properties": properties, "required": required, "additionalProperties": false}
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func isText(t reflect.Type) bool {
	return t.Implements(textUnmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler)
}

func schemaOfStruct(t reflect.Type) map[string]any {
	properties := map[string]any{}
	required := []string{}
	for _, f := range fieldsOf(t) {
		s := schemaOfType(f.Type)
		if doc := f.Tag.Get("doc"); doc != "" {
			s["description"] = doc
		}
		if f.Tag.Get("enum") != "" {
			s["enum"] = strings.Split(f.Tag.Get("enum"), ",")
		}
		if example := f.Tag.Get("example"); example != "" {
			s["examples"] = []string{example}
		}
		if isSecret(f.StructField) {
			s["writeOnly"], s["type"] = true, []string{"string", "null"}
		}
		if f.Tag.Get("readOnly") == "true" {
			s["readOnly"] = true
		}
		if text := f.Tag.Get("default"); text != "" {
			var value any = text
			if json.Unmarshal([]byte(text), &value) != nil {
				value = text
			}
			s["default"] = value
		}
		if f.Tag.Get("required") == "true" {
			required = append(required, f.key)
		}
		properties[f.key] = s
	}
	return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}

func schemaOfType(t reflect.Type) map[string]any {
	if isText(t) {
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOfType(t.Elem())
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice, reflect.Array:
		return map[string]any{"type": "array", "items": schemaOfType(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOfType(t.Elem())}
	case reflect.Struct:
		return schemaOfStruct(t)
	}
	return map[string]any{}
}
