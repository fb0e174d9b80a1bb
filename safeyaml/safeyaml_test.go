package safeyaml

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
)

var limits = Limits{Nodes: 2000, Values: 1000, Depth: 20}

func read(text string, l Limits) (any, error) {
	r, err := NewReader([]byte(text), l, nil, nil)
	if err != nil {
		return nil, err
	}
	n, err := r.Only()
	if err != nil {
		return nil, err
	}
	return Build(r, n, Values)
}

func TestValues(t *testing.T) {
	for text, want := range map[string]any{
		"{a: 1, b: [x, 2.5, true, null, ~]}": map[string]any{"a": 1, "b": []any{"x", 2.5, true, nil, nil}},
		"- &a {k: v}\n- *a":                  []any{map[string]any{"k": "v"}, map[string]any{"k": "v"}},
		"at: 2026-11-28":                     map[string]any{"at": "2026-11-28"}, // no time: it stays as it is written
		"'1'":                                "1",
		"{yes: no, 1: 2}":                    map[string]any{"yes": "no", "1": 2},
		"&k a: {*k : b}":                     map[string]any{"a": map[string]any{"a": "b"}},
		"0x10":                               16,
	} {
		if got, err := read(text, limits); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: got %#v, %v; want %#v", text, got, err, want)
		}
	}
}

func TestMergeKeys(t *testing.T) {
	with := limits
	with.Merge = true
	for text, want := range map[string]any{
		"- &a {x: 1, y: 2}\n- {<<: *a, y: 3}":                            []any{map[string]any{"x": 1, "y": 2}, map[string]any{"x": 1, "y": 3}},
		"- &a {x: 1, y: 2}\n- {y: 3, <<: *a}":                            []any{map[string]any{"x": 1, "y": 2}, map[string]any{"x": 1, "y": 3}},
		"- &a {x: 1}\n- &b {x: 2, z: 2}\n- {<<: [*a, *b]}":               []any{map[string]any{"x": 1}, map[string]any{"x": 2, "z": 2}, map[string]any{"x": 1, "z": 2}},
		"- &a {x: 1}\n- &b {<<: *a, y: 1}\n- {<<: {q: 1}, <<: *b, y: 0}": []any{map[string]any{"x": 1}, map[string]any{"x": 1, "y": 1}, map[string]any{"q": 1, "x": 1, "y": 0}},
	} {
		if got, err := read(text, with); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: got %#v, %v; want %#v", text, got, err, want)
		}
		if _, err := read(text, limits); err == nil || !strings.Contains(err.Error(), "merge keys are not read") {
			t.Errorf("%q: got %v, want that merge keys are refused", text, err)
		}
	}
	if _, err := read("{<<: 1}", with); err == nil || !strings.Contains(err.Error(), "line 1: << takes a map") {
		t.Errorf("a merged number: %v", err)
	}
}

func TestFaultsSayWhere(t *testing.T) {
	for text, want := range map[string]string{
		"":                "it is empty",
		"---\n...\n":      "it is empty",
		"a: 1\n---\nb: 2": "more than one document",
		"a: 1\nb: [":      "line ",
		"a: 1\na: 2":      `line 2: the key "a" stands twice`,
		"? [x]\n: y":      "line 1: a key is a text",
		"{{ name }}: x":   "placeholders",
		"a: 1\nb: .nan":   "line 2: .nan is no number",
		"&a [*a]":         "nested deeper than 20 levels",
		"&a {k: *a}":      "nested deeper",
		strings.Repeat("[", 30) + "1" + strings.Repeat("]", 30): "nested deeper",
	} {
		if _, err := read(text, limits); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %s", text, err, want)
		}
	}
}

// What is small to write and large to read ends at the limit, before it takes memory or time.
func TestTooManyValues(t *testing.T) {
	laughs := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'k'; c++ {
		laughs += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+", ", 9) + "*" + string(c-1) + "]\n"
	}
	with := limits
	with.Merge = true
	for name, text := range map[string]string{
		"aliases of aliases": laughs,
		"merged aliases":     "a: &a {x: [" + strings.Repeat("1, ", 300) + "1]}\nb: [{<<: *a}, {<<: *a}, {<<: *a}, {<<: *a}]",
		"a long list":        "[" + strings.Repeat("1,", 3000) + "1]",
		"a long block":       strings.Repeat("-\n", 3000),
		"long maps":          "{" + strings.Repeat("?,", 3000) + "}",
	} {
		if _, err := read(text, with); !errors.Is(err, ErrTooMany) {
			t.Errorf("%s: got %v, want too many values", name, err)
		}
	}
	if !Crowded([]byte(strings.Repeat("- ", 11)), 10) || Crowded([]byte(strings.Repeat("a-b ", 100)), 10) {
		t.Error("dashes inside of words are counted, or those before items are not")
	}
}

func TestDocumentsShareABudget(t *testing.T) {
	left := 12
	r, err := NewReader([]byte("[1, 2, 3]\n---\n---\n[4, 5, 6]\n---\n[7, 8, 9]\n---\n[10, 11, 12]\n"), limits, &left, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	for {
		n, err := r.Next()
		if errors.Is(err, io.EOF) {
			t.Fatal("the budget was never used up")
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == nil { // nothing between two separators
			continue
		}
		v, err := Build(r, n, Values)
		if errors.Is(err, ErrTooMany) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	if len(got) != 3 {
		t.Errorf("got %v before the budget was used up, want three documents", got)
	}
}

// JSON is YAML: what both can read means the same. And what is read within bounds has a form in JSON.
func FuzzValues(f *testing.F) {
	for _, text := range []string{`{"a":[1,2.5,"x",null,true]}`, "&a {<<: {b: 1}, c: *a}", "a: |\n  x\n", "? [x]\n: y", "!!binary aGk=", "- &x y\n- *x", "\"\\u0000\"", "1_000", "0o7", "-.inf"} {
		f.Add(text)
	}
	with := limits
	with.Merge = true
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 10_000 {
			return
		}
		v, err := read(text, with)
		if err != nil {
			return
		}
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%q is %#v, which has no form in JSON: %v", text, v, err)
		}
		var plain any
		if json.Unmarshal([]byte(text), &plain) != nil {
			return
		}
		var back, direct any
		if yaml.Unmarshal([]byte(text), &direct) != nil { // what the library itself refuses
			return
		}
		if err := json.Unmarshal(raw, &back); err != nil || !cmp.Equal(back, plain) {
			t.Errorf("%q is %s, want %v", text, raw, plain)
		}
	})
}
