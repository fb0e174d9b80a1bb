package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/server"
)

func pretty(t *testing.T, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", " "); err != nil {
		t.Fatal(err)
	}
	return append(bytes.TrimSpace(out.Bytes()), '\n')
}

func load(t *testing.T, raw []byte) *openapi3.T {
	t.Helper()
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(raw)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// breaks lists what a new description takes away from what an old one calls stable: an operation, a parameter, a field of an answer; or demands
// anew: a required parameter or field of a request.
func breaks(t *testing.T, before, after []byte) (faults []string) {
	t.Helper()
	was, is := load(t, before), load(t, after)
	for path, item := range was.Paths.Map() {
		for method, old := range item.Operations() {
			name := method + " " + path
			if old.Extensions["x-stability"] != "stable" {
				continue
			}
			var now *openapi3.Operation
			if i := is.Paths.Value(path); i != nil {
				now = i.GetOperation(method)
			}
			if now == nil {
				faults = append(faults, name+" is gone")
				continue
			}
			faults = append(faults, breaksOperation(name, old, now)...)
		}
	}
	slices.Sort(faults)
	return faults
}

func breaksOperation(name string, old, now *openapi3.Operation) (faults []string) {
	for _, p := range old.Parameters {
		if now.Parameters.GetByInAndName(p.Value.In, p.Value.Name) == nil {
			faults = append(faults, fmt.Sprintf("%s: the parameter %s is gone", name, p.Value.Name))
		}
	}
	for _, p := range now.Parameters {
		was := old.Parameters.GetByInAndName(p.Value.In, p.Value.Name)
		if p.Value.Required && (was == nil || !was.Required) {
			faults = append(faults, fmt.Sprintf("%s: the parameter %s is required now", name, p.Value.Name))
		}
	}
	if now.RequestBody != nil && old.RequestBody != nil {
		a, b := bodyOf(old.RequestBody.Value.Content), bodyOf(now.RequestBody.Value.Content)
		if a != nil && b != nil {
			for _, field := range b.Value.Required {
				if !slices.Contains(a.Value.Required, field) {
					faults = append(faults, fmt.Sprintf("%s: the field %s of the request is required now", name, field))
				}
			}
		}
	}
	for status, r := range old.Responses.Map() {
		if !strings.HasPrefix(status, "2") {
			continue
		}
		next := now.Responses.Value(status)
		if next == nil {
			faults = append(faults, fmt.Sprintf("%s: it does not answer %s any more", name, status))
			continue
		}
		faults = append(faults, lost(name+": answer", bodyOf(r.Value.Content), bodyOf(next.Value.Content), 0)...)
	}
	return faults
}

func bodyOf(c openapi3.Content) *openapi3.SchemaRef {
	if m := c.Get("application/json"); m != nil {
		return m.Schema
	}
	return nil
}

const deepest = 8 // schemas may refer to themselves

// lost lists the fields of an answer that are gone or have another type.
func lost(where string, old, now *openapi3.SchemaRef, depth int) (faults []string) {
	if old == nil || old.Value == nil || depth > deepest {
		return nil
	}
	if now == nil || now.Value == nil {
		return []string{where + " is gone"}
	}
	if old.Value.Type != nil && now.Value.Type != nil && !slices.Equal(old.Value.Type.Slice(), now.Value.Type.Slice()) {
		return []string{fmt.Sprintf("%s was %v and is %v", where, old.Value.Type.Slice(), now.Value.Type.Slice())}
	}
	for field, schema := range old.Value.Properties {
		faults = append(faults, lost(where+"."+field, schema, now.Value.Properties[field], depth+1)...)
	}
	if old.Value.Items != nil {
		faults = append(faults, lost(where+"[]", old.Value.Items, now.Value.Items, depth+1)...)
	}
	return faults
}

func TestWhatIsStableStays(t *testing.T) {
	t.Parallel()
	const before = `{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{
		"/a":{"get":{"x-stability":"stable","parameters":[{"in":"query","name":"q","schema":{"type":"string"}}],
			"responses":{"200":{"description":"ok","content":{"application/json":{"schema":{"type":"object","properties":{"n":{"type":"integer"},"list":{"type":"array","items":{"type":"object","properties":{"x":{"type":"string"}}}}}}}}}}}},
		"/b":{"get":{"x-stability":"experimental","responses":{"200":{"description":"ok"}}}}}}`
	for change, want := range map[string]string{
		`"name":"q"|"name":"r"`:                                                   "the parameter q is gone",
		`"in":"query"|"required":true,"in":"query"`:                               "the parameter q is required now",
		`"n":{"type":"integer"}|"n":{"type":"string"}`:                            ".n was",
		`"x":{"type":"string"}|"y":{"type":"string"}`:                             ".list[].x is gone",
		`"200":{"description":"ok","content"|"201":{"description":"ok","content"`: "does not answer 200",
		`"/a"|"/c"`: "GET /a is gone",
		`"/b"|"/c"`: "",
	} {
		from, to, _ := strings.Cut(change, "|")
		got := breaks(t, []byte(before), []byte(strings.Replace(before, from, to, 1)))
		if (want == "") != (len(got) == 0) || want != "" && !strings.Contains(got[0], want) {
			t.Errorf("%s: got %q, want %q", change, got, want)
		}
	}
}

func TestEveryBodyHasAnExample(t *testing.T) {
	raw, err := server.DescribeAPI(builtin.Blueprints(), apiVersion)
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range load(t, raw).Paths.Map() {
		for method, op := range item.Operations() {
			if op.RequestBody != nil {
				for kind, media := range op.RequestBody.Value.Content {
					if media.Example == nil {
						t.Errorf("%s %s: the request (%s) has no example", method, path, kind)
					}
				}
			}
			for status, answer := range op.Responses.Map() {
				for kind, media := range answer.Value.Content {
					if status[0] == '2' && media.Example == nil {
						t.Errorf("%s %s: the answer %s (%s) has no example", method, path, status, kind)
					}
				}
			}
		}
	}
}
