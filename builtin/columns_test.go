package builtin_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/builtin"
)

// schema is what this test reads of a JSON schema.
type schema struct {
	Ref        string             `json:"$ref"`
	Properties map[string]*schema `json:"properties"`
	Items      *schema            `json:"items"`
	OneOf      []*schema          `json:"oneOf"`
	Free       any                `json:"additionalProperties"`
}

// A column of a list's table that a type no longer has would be missing from the page, silently.
func TestColumnsAreDeclared(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]struct {
			Get struct {
				Responses map[string]struct {
					Content map[string]struct{ Schema *schema }
				}
			}
		}
		Components struct{ Schemas map[string]*schema }
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	at := func(s *schema) *schema {
		if s != nil && len(s.OneOf) > 0 {
			s = s.OneOf[0]
		}
		if s != nil && s.Ref != "" {
			return doc.Components.Schemas[s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]]
		}
		return s
	}
	found := 0
	for _, b := range builtin.Blueprints() {
		for _, op := range b.Operations {
			if len(op.Columns) == 0 {
				continue
			}
			list := at(doc.Paths[op.Path].Get.Responses["200"].Content["application/json"].Schema)
			if list != nil && list.Properties["items"] != nil {
				list = list.Properties["items"]
			}
			if list == nil || list.Items == nil {
				t.Errorf("%s answers with no list", op.ID)
				continue
			}
			for _, column := range op.Columns {
				s := at(list.Items)
				for key := range strings.SplitSeq(column, ".") {
					if s == nil || s.Properties[key] == nil && (s.Free == nil || s.Free == false) {
						t.Errorf("%s: its things have no %s", op.ID, column)
						break
					}
					if s.Properties[key] == nil { // anything may be there
						break
					}
					s = at(s.Properties[key])
				}
				found++
			}
		}
	}
	if found == 0 {
		t.Error("no operation names columns")
	}
}
