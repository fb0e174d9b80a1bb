package catalog

import (
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
)

// rule says what the spec of a kind must hold.
//
// Source: Backstage, "Descriptor Format of Catalog Entities".
type rule struct {
	required, optional           []string // texts
	requiredLists, optionalLists []string // lists of texts
}

var dependencies = []string{"dependsOn", "dependencyOf"}

// rules are those of Backstage's own kinds, in lower case. Other kinds, and kinds of another apiVersion, may hold anything.
var rules = map[string]rule{
	"component": {required: []string{"type", "lifecycle", "owner"}, optional: []string{"system", "subcomponentOf"},
		optionalLists: append([]string{"providesApis", "consumesApis"}, dependencies...)},
	"api":      {required: []string{"type", "lifecycle", "owner"}, optional: []string{"system"}},
	"resource": {required: []string{"type", "owner"}, optional: []string{"system"}, optionalLists: dependencies},
	"system":   {required: []string{"owner"}, optional: []string{"domain", "type"}},
	"domain":   {required: []string{"owner"}, optional: []string{"subdomainOf", "type"}},
	"group":    {required: []string{"type"}, requiredLists: []string{"children"}, optional: []string{"parent"}, optionalLists: []string{"members"}},
	"user":     {requiredLists: []string{"memberOf"}},
	"location": {optional: []string{"type", "target"}, optionalLists: []string{"targets"}},
}

// spec checks the fields that the kind asks for.
func (c *checker) spec(e *slipway.Entity) {
	r, known := rules[strings.ToLower(e.Kind)]
	if !known || e.APIVersion != "backstage.io/v1alpha1" && e.APIVersion != "backstage.io/v1beta1" {
		return
	}
	if e.Spec == nil {
		c.faultf("missing required field 'spec'")
		return
	}
	for _, key := range r.required {
		c.required(e.Spec, key, "spec."+key)
	}
	for _, key := range r.requiredLists {
		if e.Spec[key] == nil {
			c.faultf("missing required field 'spec.%s'", key)
		}
		c.textList(e.Spec, key)
	}
	for _, key := range r.optionalLists {
		c.textList(e.Spec, key)
	}
	for _, key := range r.optional {
		if s, ok := e.Spec[key].(string); e.Spec[key] != nil && (!ok || s == "") {
			c.faultf("field 'spec.%s' must be a text that is not empty", key)
		}
	}
	switch strings.ToLower(e.Kind) {
	case "api":
		if e.SpecString("type") == "mcp-server" {
			if list, ok := e.Spec["remotes"].([]any); !ok || len(list) == 0 {
				c.faultf("missing required field 'spec.remotes'")
			}
		} else if !placeholder(e.Spec["definition"]) {
			c.required(e.Spec, "definition", "spec.definition")
		}
	case "location":
		if p := e.Spec["presence"]; p != nil && p != "required" && p != "optional" {
			c.faultf("field 'spec.presence' must be required or optional")
		}
		if t := e.Spec["type"]; t != nil && t != "url" && t != "file" {
			c.faultf("field 'spec.type' must be url or file")
		}
	}
}

func (c *checker) textList(m map[string]any, key string) {
	switch v := m[key].(type) {
	case nil:
	case []any:
		if slices.ContainsFunc(v, func(item any) bool { s, ok := item.(string); return !ok || s == "" }) {
			c.faultf("field 'spec.%s' must hold texts only", key)
		}
	default:
		c.faultf("field 'spec.%s' must be a list", key)
	}
}

// placeholder says that a value stands for a file that was not read.
func placeholder(v any) bool {
	m, ok := v.(map[string]any)
	if !ok || len(m) != 1 {
		return false
	}
	for key := range m {
		ok = key == "$text" || key == "$json" || key == "$yaml"
	}
	return ok
}
