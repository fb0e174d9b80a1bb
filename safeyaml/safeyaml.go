// Package safeyaml reads YAML that strangers wrote: within bounds on its size in memory, its values, its depth and what its aliases repeat, and as the values
// of JSON, which is all that Slipway keeps. Keys are texts and stand once, times stay texts, numbers are finite. Faults say their line.
//
// It is not for the operator's own files, whose structs the YAML library fills by itself.
package safeyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Limits bound what is read.
type Limits struct {
	// Nodes is how many values may be written down, estimated before anything is read: a node takes some hundred times the bytes that it is written with.
	// Marks inside of texts count too, so that it is better more than Values where there are long texts.
	Nodes int
	// Values is how many keys, items and texts there may be in all documents, counted again wherever an alias repeats them.
	Values int
	Depth  int // of maps and lists in each other; an alias is a level too
	// Merge reads merge keys (<<), as YAML 1.1 has them; without it they are refused.
	Merge bool
}

// ErrTooMany says that a file has more values than its limits allow.
var ErrTooMany = errors.New("too many values")

// Crowded says that data probably holds more than n values. It counts what may begin or end one.
func Crowded(data []byte, n int) bool {
	for i, c := range data {
		switch c {
		case ',', '[', '{', ':', '\n':
			n--
		case '-', '?':
			if i+1 < len(data) && (data[i+1] == ' ' || data[i+1] == '\t') {
				n--
			}
		}
	}
	return n < 0
}

// Reader reads the documents of one file. It is not safe for concurrent use.
type Reader struct {
	limits Limits
	left   *int
	loader *yaml.Loader
}

// NewReader reads data. left is how many values there may still be; nil: what the limits say. Several readers may share one. ErrTooMany: data is Crowded.
// in, when set, is what the bytes are really read from: an error of it ends the reading, see Next.
func NewReader(data []byte, limits Limits, left *int, in io.Reader) (*Reader, error) {
	if Crowded(data, limits.Nodes) {
		return nil, ErrTooMany
	}
	if left == nil {
		left = new(int)
		*left = limits.Values
	}
	if in == nil {
		in = bytes.NewReader(data)
	}
	loader, err := yaml.NewLoader(in)
	if err != nil {
		return nil, errors.New("it cannot be read")
	}
	return &Reader{limits, left, loader}, nil
}

// Node is a document that has been read and not been counted yet.
type Node struct{ root *yaml.Node }

// Line is where the document begins.
func (n *Node) Line() int { return n.root.Line }

// Next reads the next document; nil for one that holds nothing. io.EOF after the last. After any other error the file cannot be read on; its text says where.
func (r *Reader) Next() (*Node, error) {
	var node yaml.Node
	switch err := r.loader.Load(&node); {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, errors.New(where(err.Error()))
	}
	root := &node
	if root.Kind == yaml.DocumentNode {
		if len(root.Content) == 0 {
			return nil, nil
		}
		root = root.Content[0]
	}
	if root.Kind == 0 || root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return nil, nil
	}
	return &Node{root}, nil
}

// Only reads the one document of a file.
func (r *Reader) Only() (*Node, error) {
	n, err := r.Next()
	if errors.Is(err, io.EOF) || err == nil && n == nil {
		return nil, errors.New("it is empty")
	}
	if err != nil {
		return nil, err
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document")
	}
	return n, nil
}

// Builder makes values of what stands in a document. Keys are in the order of the document, each once. An error of Scalar is given its line.
type Builder[T any] struct {
	Map    func(keys []string, values []T) T
	List   func(items []T) T
	Scalar func(s Scalar) (T, error)
}

// Build makes the value of a document. An error names the line; ErrTooMany says that the values are used up.
func Build[T any](r *Reader, n *Node, b Builder[T]) (T, error) { return build(r, n.root, 0, &b) }

func build[T any](r *Reader, n *yaml.Node, depth int, b *Builder[T]) (none T, err error) {
	for n.Kind == yaml.AliasNode { // one inside of what it names ends at the limit of the depth
		n = n.Alias
		depth++
	}
	if *r.left--; *r.left < 0 {
		return none, ErrTooMany
	}
	if depth > r.limits.Depth {
		return none, fmt.Errorf("line %d: it is nested deeper than %d levels", n.Line, r.limits.Depth)
	}
	switch n.Kind {
	case yaml.MappingNode:
		keys, values, err := pairs(r, n, depth, b)
		if err != nil {
			return none, err
		}
		return b.Map(keys, values), nil
	case yaml.SequenceNode:
		items := make([]T, 0, len(n.Content))
		for _, c := range n.Content {
			item, err := build(r, c, depth+1, b)
			if err != nil {
				return none, err
			}
			items = append(items, item)
		}
		return b.List(items), nil
	case yaml.ScalarNode:
		v, err := b.Scalar(Scalar{n})
		if err != nil {
			return none, fmt.Errorf("line %d: %w", n.Line, err)
		}
		return v, nil
	}
	return none, fmt.Errorf("line %d: this cannot be read", n.Line)
}

// pairs gives the keys and values of a map; what is merged stands behind what is written out, and the first of what is merged counts.
func pairs[T any](r *Reader, n *yaml.Node, depth int, b *Builder[T]) (keys []string, values []T, err error) {
	keys, values = make([]string, 0, len(n.Content)/2), make([]T, 0, len(n.Content)/2)
	seen := make(map[string]struct{}, len(n.Content)/2)
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			return nil, nil, fmt.Errorf("line %d: a key is a text; if this is a template, fill in its {{ placeholders }} first", key.Line)
		case key.ShortTag() == "!!merge" && !r.limits.Merge:
			return nil, nil, fmt.Errorf("line %d: merge keys are not read (<<); write the keys out", key.Line)
		case key.ShortTag() == "!!merge":
			merged = append(merged, n.Content[i+1])
			continue
		}
		if _, twice := seen[key.Value]; twice {
			return nil, nil, fmt.Errorf("line %d: the key %q stands twice", key.Line, clip(key.Value))
		}
		seen[key.Value] = struct{}{}
		value, err := build(r, n.Content[i+1], depth+1, b)
		if err != nil {
			return nil, nil, err
		}
		keys, values = append(keys, key.Value), append(values, value)
	}
	add := func(source *yaml.Node, depth int) error {
		for source.Kind == yaml.AliasNode {
			source = source.Alias
			depth++
		}
		if source.Kind != yaml.MappingNode {
			return fmt.Errorf("line %d: << takes a map", source.Line)
		}
		if *r.left--; *r.left < 0 {
			return ErrTooMany
		}
		if depth > r.limits.Depth {
			return fmt.Errorf("line %d: it is nested deeper than %d levels", source.Line, r.limits.Depth)
		}
		more, with, err := pairs(r, source, depth, b)
		for i, key := range more {
			if _, there := seen[key]; !there {
				seen[key] = struct{}{}
				keys, values = append(keys, key), append(values, with[i])
			}
		}
		return err
	}
	for _, m := range merged {
		sources := []*yaml.Node{m}
		for m.Kind == yaml.AliasNode {
			m = m.Alias
		}
		if m.Kind == yaml.SequenceNode {
			sources = m.Content
		}
		for _, source := range sources {
			if err := add(source, depth+1); err != nil {
				return nil, nil, err
			}
		}
	}
	return keys, values, nil
}

// Scalar is a value that holds no others.
type Scalar struct{ n *yaml.Node }

// Text is how it is written, without quotes.
func (s Scalar) Text() string { return s.n.Value }

// Value gives it as nil, a bool, an int, an int64, a uint64, a float64 (finite), or a text: what is none of them is a text too.
func (s Scalar) Value() (any, error) {
	switch s.n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool", "!!int", "!!float":
		var v any
		if err := s.n.Decode(&v); err != nil {
			return nil, fmt.Errorf("%q cannot be read: %s", clip(s.n.Value), oneLine(err.Error()))
		}
		if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return nil, fmt.Errorf("%s is no number that JSON can hold; quote it to make it a text", clip(s.n.Value))
		}
		return v, nil
	}
	return s.n.Value, nil
}

// Values makes what package encoding/json makes of JSON, but for numbers, which are as Scalar.Value gives them.
var Values = Builder[any]{
	Map: func(keys []string, values []any) any {
		m := make(map[string]any, len(keys))
		for i, key := range keys {
			m[key] = values[i]
		}
		return m
	},
	List:   func(items []any) any { return items },
	Scalar: Scalar.Value,
}

// place is how the library says where something is wrong.
var place = regexp.MustCompile(`(?s)at (?:L(\d+)\.C(\d+)[^:]*|<unknown position>): (.*)`)

// where says where something is wrong as the other faults do.
func where(text string) string {
	m := place.FindStringSubmatch(text)
	switch {
	case m == nil:
		return oneLine(strings.TrimPrefix(text, "yaml: "))
	case m[1] == "":
		return oneLine(m[3])
	}
	return fmt.Sprintf("line %s, column %s: %s", m[1], m[2], oneLine(m[3]))
}

func oneLine(s string) string { return clipTo(strings.Join(strings.Fields(s), " "), 300) }

func clip(s string) string { return clipTo(s, 100) }

func clipTo(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
