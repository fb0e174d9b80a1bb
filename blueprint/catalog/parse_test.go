package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
)

var allKinds = accepted(DefaultConfig().Kinds)

const head = "apiVersion: example.com/v1\nkind: Component\n"

func TestAFaultyDocumentLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	entities, faults, err := parse(t.Context(), []byte("---\n"+head+"metadata: {name: a}\n---\n"+head+"metadata: {title: x}\n---\n---\n"+head+"metadata: {name: b}\nstatus: {}\n---\n- 1\n---\n"+head+"metadata: {name: A}\n---\n"+head+"metadata: {name: z}\n"), allKinds, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names, texts []string
	for _, e := range entities {
		names = append(names, e.Metadata.Name)
	}
	for _, f := range faults {
		texts = append(texts, f.String())
	}
	if diff := cmp.Diff([]string{"a", "z"}, names); diff != "" {
		t.Error(diff)
	}
	want := []string{
		"document 2, line 6: missing required field 'metadata.name'",
		"document 4, line 11: unknown field 'status'; an entity has apiVersion, kind, metadata and spec",
		"document 5, line 16: it is no map; an entity has apiVersion, kind, metadata and spec",
		"document 6, line 18: component:default/a stands in document 1 already",
	}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Error(diff)
	}
	if got := faults[1].Ref.String(); got != "component:default/b" {
		t.Errorf("the fault of b names %q", got)
	}
}

func TestWhatBackstageRefusesIsRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, want string }{
		"no name":              {head + "metadata: {}", "missing required field 'metadata.name'"},
		"null name":            {head + "metadata: {name: }", "missing required field 'metadata.name'"},
		"number as name":       {head + "metadata: {name: 7}", "field 'metadata.name' must be a text"},
		"no metadata":          {head, "missing required field 'metadata'"},
		"no kind":              {"apiVersion: v1\nmetadata: {name: a}", "missing required field 'kind'"},
		"no version":           {"kind: API\nmetadata: {name: a}", "missing required field 'apiVersion'"},
		"odd version":          {"apiVersion: a b\nkind: API\nmetadata: {name: a}", "apiVersion"},
		"long name":            {head + "metadata: {name: " + strings.Repeat("a", 64) + "}", "at most 63"},
		"odd name":             {head + "metadata: {name: a/b}", "name must be"},
		"upper-case namespace": {head + "metadata: {name: a, namespace: Ns}", "lower case"},
		"label value":          {head + "metadata: {name: a, labels: {x: a b}}", "label 'x'"},
		"label key":            {head + "metadata: {name: a, labels: {'a b': x}}", "domain/name"},
		"annotation of bool":   {head + "metadata: {name: a, annotations: {tekton.dev/cicd: true}}", "put quotes around it"},
		"tag":                  {head + "metadata: {name: a, tags: [Java]}", "tag \"Java\""},
		"tags as text":         {head + "metadata: {name: a, tags: java}", "must be a list"},
		"link without url":     {head + "metadata: {name: a, links: [{title: x}]}", "metadata.links[0].url"},
		"link to a script":     {head + "metadata: {name: a, links: [{url: 'javascript:alert(1)'}]}", "script"},
		"spec as list":         {head + "metadata: {name: a}\nspec: []", "field 'spec' must be a map"},
		"unknown kind":         {"apiVersion: v1\nkind: Gadget\nmetadata: {name: a}", "catalog.kinds"},
		"same key twice":       {head + "metadata: {name: a}\nspec: {a: 1, a: 2}", "stands twice"},
		"infinite number":      {head + "metadata: {name: a}\nspec: {a: .inf}", "no number"},
		"map as key":           {head + "metadata: {name: a}\nspec: {? {b: c} : d}", "a key is a text"},
		"too deep":             {head + "metadata: {name: a}\nspec: {a: " + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}", "deeper than 64"},
	} {
		entities, faults, err := parse(t.Context(), []byte(tt.text), allKinds, nil)
		if err != nil || len(entities) > 0 || len(faults) != 1 || !strings.Contains(faults[0].Message, tt.want) {
			t.Errorf("%s: got %d entities, faults %v, error %v; want one fault with %q", name, len(entities), faults, err, tt.want)
		}
	}
}

func TestAFileThatGrowsWhileItIsReadIsRefused(t *testing.T) {
	t.Parallel()
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'k'; c++ {
		p := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+p+", ", 9) + "*" + p + "]\n"
	}
	for name, text := range map[string]string{
		"aliases of aliases": bomb,
		"itself":             "a: &a [*a]",
		"no YAML":            "a: [",
		"bad UTF-8":          "a: \xff\xfe\xff",
		"many documents":     strings.Repeat("---\na: b\n", maxDocuments+1),
	} {
		entities, faults, err := parse(t.Context(), []byte(text), allKinds, nil)
		if len(entities) > 0 || err == nil && len(faults) == 0 {
			t.Errorf("%s: got %d entities, no fault", name, len(entities))
		}
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
}

func TestWhatTakesTooMuchMemoryIsRefusedBeforeItIsRead(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a list":      "x: [" + strings.Repeat("1,", 1<<20) + "1]",
		"maps":        "x: [" + strings.Repeat("{},", 1<<19) + "1]",
		"keys":        "x: {" + strings.Repeat("?,", 1<<20) + "a}",
		"block":       strings.Repeat("-\n", 1<<20),
		"nested":      strings.Repeat("- ", 1<<20),
		"nested keys": strings.Repeat("? ", 1<<20),
	} {
		_, _, err := parse(t.Context(), []byte(text), allKinds, nil)
		if !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), "values") {
			t.Errorf("%s: got %v, want too many values", name, err)
		}
	}
	definition := strings.Repeat("    {\"name\": \"id\", \"in\": \"path\", \"required\": true, \"schema\": {\"type\": \"string\"}},\n", 2000)
	entities, faults, err := parse(t.Context(), []byte(head+"metadata: {name: a}\nspec:\n  definition: |\n"+definition), allKinds, nil)
	if err != nil || len(faults) > 0 || len(entities) != 1 {
		t.Errorf("a long text: %d entities, %v, %v", len(entities), faults, err)
	}
}

func TestReadingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := parse(ctx, []byte(head+"metadata: {name: a}\n"), allKinds, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

func TestControlCharactersAreFaults(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`metadata: {name: a, title: "a\0b"}`, `metadata: {name: a, annotations: {k: "\x1b[2J"}}`, "metadata: {name: a}\nspec: {profile: {email: \"a\\x02\"}}",
		"metadata: {name: a}\nspec: {\"k\\x01\": 1}", "metadata: {name: a}\nspec: {list: [[\"\\x7f\"]]}",
	} {
		entities, faults, err := parse(t.Context(), []byte(head+text+"\n---\n"+head+"metadata: {name: b, description: \"tab\\t, lines\\r\\n\"}\n"), allKinds, nil)
		if err != nil || len(entities) != 1 || len(faults) != 1 || !strings.Contains(faults[0].Message, "control character") {
			t.Errorf("%s: %d entities, %v, %v; want one fault", text, len(entities), faults, err)
		}
	}
}

func TestADocumentThatIsTooLargeIsAFault(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300<<10)
	aliases := "spec:\n  text: &t " + long[:200<<10] + "\n  list: [" + strings.Repeat("*t, ", 10_000) + "*t]\n"
	for _, text := range []string{"spec: {text: " + long + "}\n", aliases, "spec: {list: [" + numbered(600) + "]}\n"} {
		entities, faults, err := parse(t.Context(), []byte(head+"metadata: {name: a}\n"+text+"---\n"+head+"metadata: {name: b}\n"), allKinds, nil)
		if err != nil || len(entities) != 1 || len(faults) != 1 || faults[0].Ref.Name != "a" {
			t.Errorf("%.40s: %d entities, %v, %v; want one fault", text, len(entities), faults, err)
		}
	}
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "item%d, ", i)
	}
	return b.String()
}

func TestYAMLBecomesTheValuesOfJSON(t *testing.T) {
	t.Parallel()
	entities, faults, err := parse(t.Context(), []byte(head+`metadata:
  name: a
  extra: kept
  uid: from an export
spec:
  base: &base {x: 1, y: two}
  merged: {<<: *base, y: 3}
  again: *base
  time: 2026-11-22
  yes: yes
  on: true
  1: number
  float: 1.50
  hex: 0x1F
  text: |
    lines
`), allKinds, nil)
	if err != nil || len(faults) > 0 {
		t.Fatal(err, faults)
	}
	b, err := json.Marshal(entities[0])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"apiVersion":"example.com/v1","kind":"Component","metadata":{"name":"a","extra":"kept"},"spec":{"1":"number","again":{"x":1,"y":"two"},"base":{"x":1,"y":"two"},"float":1.5,"hex":31,"merged":{"x":1,"y":3},"on":true,"text":"lines\n","time":"2026-11-22","yes":"yes"}}`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Error(diff)
	}
}

func TestRealCatalogFilesAreRead(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/fawkes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		entities, faults, err := parse(t.Context(), data, allKinds, nil)
		if err != nil || len(faults) > 0 || len(entities) == 0 {
			t.Errorf("%s: %d entities, faults %v, %v", file, len(entities), faults, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/fawkes/*.yaml")
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("<<: {a: 1}\n? [x]\n: y"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		entities, _, err := parse(t.Context(), data, allKinds, nil)
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
		for _, e := range entities {
			if e.Ref().Validate() != nil {
				t.Errorf("an entity with the ref %q passed", e.Ref())
			}
			if _, err := json.Marshal(e); err != nil {
				t.Errorf("it cannot be written as JSON: %v", err)
			}
		}
	})
}
