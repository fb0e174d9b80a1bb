package server

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/slipway-platform/slipway/resource"
)

// describeDocuments completes the description of the Data API: what takes a document takes one of those that the kinds declare, told apart by their type.
func describeDocuments(doc *huma.OpenAPI, kinds []resource.Kind) error {
	kinds, err := resource.Join(kinds...)
	if err != nil {
		return err
	}
	schemas := doc.Components.Schemas.Map()
	ref := func(name string) *huma.Schema { return &huma.Schema{Ref: "#/components/schemas/" + name} }
	document := &huma.Schema{Description: "A document of the kind in the path, bare or in an envelope"}
	for _, k := range kinds {
		if k.Permissions.Create == "" || len(k.Types) == 0 {
			continue
		}
		var whole jsonSchema
		if err := json.Unmarshal(k.Schema(), &whole); err != nil {
			return err
		}
		name := "Data" + title(k.Name)
		document.OneOf = append(document.OneOf, ref(name))
		schema := whole.schema()
		if whole.OneOf != nil {
			schema.Discriminator = &huma.Discriminator{PropertyName: "type", Mapping: map[string]string{}}
			for _, one := range whole.OneOf {
				of := name + title(one.Title)
				schemas[of] = one.schema()
				schema.OneOf = append(schema.OneOf, ref(of))
				schema.Discriminator.Mapping[one.Title] = ref(of).Ref
			}
		}
		schemas[name] = schema
	}
	for path, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Post, item.Put} {
			if strings.HasPrefix(path, "/data/{kind}") && op != nil && op.RequestBody != nil && len(document.OneOf) > 0 {
				var example any
				for _, media := range op.RequestBody.Content {
					example = media.Example
				}
				op.RequestBody.Content = map[string]*huma.MediaType{"application/json": {Schema: document, Example: example}}
			}
		}
	}
	return nil
}

// title writes a kind or symbol as a part of a name.
func title(s string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(s, "-") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}

// jsonSchema is as much of JSON Schema as a kind uses.
type jsonSchema struct {
	Type                 json.RawMessage        `json:"type"` // a text or a list
	Title                string                 `json:"title"`
	Description          string                 `json:"description"`
	Properties           map[string]*jsonSchema `json:"properties"`
	Required             []string               `json:"required"`
	AdditionalProperties json.RawMessage        `json:"additionalProperties"` // false or a schema
	Items                *jsonSchema            `json:"items"`
	OneOf                []*jsonSchema          `json:"oneOf"`
	Const                any                    `json:"const"`
	Enum                 []any                  `json:"enum"`
	Examples             []any                  `json:"examples"`
	Default              any                    `json:"default"`
	Pattern              string                 `json:"pattern"`
	WriteOnly            bool                   `json:"writeOnly"`
	Minimum              *float64               `json:"minimum"`
	Maximum              *float64               `json:"maximum"`
}

// schema is the same for the description.
func (j *jsonSchema) schema() *huma.Schema {
	s := &huma.Schema{
		Description: j.Description, Enum: j.Enum, Examples: j.Examples, Default: j.Default, Pattern: j.Pattern, WriteOnly: j.WriteOnly,
		Minimum: j.Minimum, Maximum: j.Maximum, Required: slices.Sorted(slices.Values(j.Required)),
	}
	var types []string
	var one string
	if json.Unmarshal(j.Type, &one) == nil {
		types = []string{one}
	} else if json.Unmarshal(j.Type, &types) != nil {
		types = []string{""}
	}
	s.Type, s.Nullable = types[0], len(types) > 1
	if j.Const != nil {
		s.Type, s.Enum = cmp.Or(s.Type, huma.TypeString), []any{j.Const}
	}
	if j.Properties != nil {
		s.Properties = map[string]*huma.Schema{}
		for key, p := range j.Properties {
			s.Properties[key] = p.schema()
		}
	}
	if j.Items != nil {
		s.Items = j.Items.schema()
	}
	var inner jsonSchema
	switch {
	case string(j.AdditionalProperties) == "false":
		s.AdditionalProperties = false
	case json.Unmarshal(j.AdditionalProperties, &inner) == nil:
		s.AdditionalProperties = inner.schema()
	}
	return s
}
