package tool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/safeyaml"
)

// The bounds of a configuration. A value is a key, an item or a text, counted again wherever an alias repeats it.
const (
	maxConfig = 1 << 20 // bytes
	maxDepth  = 32
	maxValues = 100_000
)

// document is a value of a configuration as it was written: keys in their order, numbers in their digits. It is turned into JSON and nothing else is
// done with it, so that what was given comes back.
type document struct {
	kind    kind
	scalar  json.RawMessage // text, number, true or false, null
	members []member        // of an object
	items   []document      // of a list
}

type kind string

const (
	object kind = "an object"
	list   kind = "a list"
	text   kind = "a text"
	number kind = "a number"
	truth  kind = "true or false"
	null   kind = "null"
)

type member struct {
	key   string
	value document
}

// parseDocument reads JSON, or YAML: what does not begin like JSON. Errors are Invalid and say where.
func parseDocument(data []byte) (document, error) {
	switch {
	case len(data) > maxConfig:
		return document{}, slipway.Errorf(slipway.TooLarge, "the configuration is larger than %s", slipway.Size(maxConfig))
	case !utf8.Valid(data):
		return document{}, slipway.Errorf(slipway.Invalid, "the configuration is not valid UTF-8")
	}
	r := reader{left: maxValues}
	if first := bytes.TrimLeft(data, " \t\r\n"); len(first) > 0 && (first[0] == '{' || first[0] == '[' || first[0] == '"') {
		return r.json(data)
	}
	return readYAML(data)
}

type reader struct{ left int }

func (r *reader) count(depth int) error {
	if r.left--; r.left < 0 {
		return fmt.Errorf("it has more than %d values", maxValues)
	}
	if depth > maxDepth {
		return fmt.Errorf("it is nested deeper than %d levels", maxDepth)
	}
	return nil
}

func (r *reader) json(data []byte) (document, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	doc, err := r.jsonValue(d, 0)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something stands behind its end")
		}
	}
	if err != nil {
		why := err.Error()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			why = "it ends too early"
		}
		return document{}, slipway.Errorf(slipway.Invalid, "Invalid JSON at position %d: %s", d.InputOffset(), why)
	}
	return doc, nil
}

func (r *reader) jsonValue(d *json.Decoder, depth int) (document, error) {
	token, err := d.Token()
	if err == nil {
		err = r.count(depth)
	}
	if err != nil {
		return document{}, err
	}
	switch v := token.(type) {
	case json.Delim:
		if v == '[' {
			doc := document{kind: list}
			for d.More() {
				item, err := r.jsonValue(d, depth+1)
				if err != nil {
					return doc, err
				}
				doc.items = append(doc.items, item)
			}
			_, err = d.Token()
			return doc, err
		}
		doc := document{kind: object}
		for seen := map[string]bool{}; d.More(); {
			key, err := d.Token()
			if err != nil {
				return doc, err
			}
			name, _ := key.(string)
			if seen[name] {
				return doc, fmt.Errorf("the key %.100q stands twice in one object", name)
			}
			seen[name] = true
			value, err := r.jsonValue(d, depth+1)
			if err != nil {
				return doc, err
			}
			doc.members = append(doc.members, member{name, value})
		}
		_, err = d.Token()
		return doc, err
	case string:
		return textOf(v), nil
	case json.Number:
		return document{kind: number, scalar: json.RawMessage(v)}, nil
	case bool:
		return truthOf(v), nil
	}
	return document{kind: null, scalar: json.RawMessage("null")}, nil
}

func textOf(s string) document {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a text always encodes
	return document{kind: text, scalar: bytes.TrimSuffix(b.Bytes(), []byte("\n"))}
}

func truthOf(v bool) document {
	return document{kind: truth, scalar: json.RawMessage(fmt.Sprint(v))}
}

// ofYAML makes a document of what stands in YAML.
var ofYAML = safeyaml.Builder[document]{
	Map: func(keys []string, values []document) document {
		doc := document{kind: object, members: make([]member, len(keys))}
		for i, key := range keys {
			doc.members[i] = member{key, values[i]}
		}
		return doc
	},
	List: func(items []document) document { return document{kind: list, items: items} },
	Scalar: func(s safeyaml.Scalar) (document, error) {
		v, err := s.Value()
		if err != nil {
			return textOf(s.Text()), nil // .inf and .nan are texts
		}
		switch v := v.(type) {
		case nil:
			return document{kind: null, scalar: json.RawMessage("null")}, nil
		case bool:
			return truthOf(v), nil
		case string:
			return textOf(v), nil
		}
		if json.Valid([]byte(s.Text())) {
			return document{kind: number, scalar: json.RawMessage(s.Text())}, nil
		}
		raw, err := json.Marshal(v) // 0x10, 1_000, +5
		return document{kind: number, scalar: raw}, err
	},
}

func readYAML(data []byte) (document, error) {
	bad := func(err error) error {
		if errors.Is(err, safeyaml.ErrTooMany) {
			err = fmt.Errorf("it has more than %d values", maxValues)
		}
		return slipway.Errorf(slipway.Invalid, "Invalid YAML: %s", err)
	}
	r, err := safeyaml.NewReader(data, safeyaml.Limits{Nodes: 2 * maxValues, Values: maxValues, Depth: maxDepth}, nil, nil)
	if err != nil {
		return document{}, bad(err)
	}
	root, err := r.Only()
	if err != nil {
		return document{}, bad(err)
	}
	doc, err := safeyaml.Build(r, root, ofYAML)
	if err != nil {
		return document{}, bad(err)
	}
	return doc, nil
}

// MarshalJSON writes the document as it was given, without white space.
func (d document) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	d.write(&b)
	return b.Bytes(), nil
}

func (d document) write(b *bytes.Buffer) {
	switch d.kind {
	case object:
		b.WriteByte('{')
		for i, m := range d.members {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(textOf(m.key).scalar)
			b.WriteByte(':')
			m.value.write(b)
		}
		b.WriteByte('}')
	case list:
		b.WriteByte('[')
		for i, item := range d.items {
			if i > 0 {
				b.WriteByte(',')
			}
			item.write(b)
		}
		b.WriteByte(']')
	default:
		b.Write(d.scalar)
	}
}

// text gives the value of a text.
func (d document) text() string {
	var s string
	_ = json.Unmarshal(d.scalar, &s)
	return s
}

// show writes a value as messages do, short.
func (d document) show() string {
	raw, _ := d.MarshalJSON()
	s := string(raw)
	if d.kind == text {
		s = d.text()
	}
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// writeYAML writes the document for people: block style, texts as plain as they can be.
func (d document) writeYAML(b *bytes.Buffer, indent int, inline bool) {
	pad := strings.Repeat("  ", indent)
	switch {
	case d.kind == object && len(d.members) > 0:
		for i, m := range d.members {
			if i > 0 || !inline {
				b.WriteString(pad)
			}
			b.WriteString(plain(m.key) + ":")
			m.value.writeBelow(b, indent)
		}
	case d.kind == list && len(d.items) > 0:
		for i, item := range d.items {
			if i > 0 || !inline {
				b.WriteString(pad)
			}
			b.WriteString("- ")
			if item.kind == object && len(item.members) > 0 || item.kind == list && len(item.items) > 0 {
				item.writeYAML(b, indent+1, true)
			} else {
				item.writeYAML(b, indent, true)
			}
		}
	default:
		b.WriteString(d.flow() + "\n")
	}
}

// writeBelow writes a value behind its key.
func (d document) writeBelow(b *bytes.Buffer, indent int) {
	if d.kind == object && len(d.members) > 0 || d.kind == list && len(d.items) > 0 {
		b.WriteByte('\n')
		d.writeYAML(b, indent+1, false)
		return
	}
	b.WriteString(" " + d.flow() + "\n")
}

// flow is a value without a line of its own: a scalar, or what is empty.
func (d document) flow() string {
	switch d.kind {
	case object:
		return "{}"
	case list:
		return "[]"
	case text:
		return plain(d.text())
	}
	return string(d.scalar)
}

// plain writes a text without quotes where it can be nothing else, else as JSON does, which is YAML too.
func plain(s string) string {
	safe := s != ""
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '/' || r == '_'
		if !letter && (i == 0 || !(r >= '0' && r <= '9' || strings.ContainsRune("-.+@ ", r) || r == ':' && i+1 < len(s) && s[i+1] != ' ')) {
			safe = false
		}
	}
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "y", "n", "null", "inf", "nan":
		safe = false
	}
	if safe && s[len(s)-1] != ' ' {
		return s
	}
	return string(textOf(s).scalar)
}
