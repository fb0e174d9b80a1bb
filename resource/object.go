package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway/secret"
)

// Limits of a document. Deeper or longer ones are refused before they are read.
const (
	maxDepth    = 32
	maxDocument = 1 << 20 // bytes
	maxKeys     = 10_000  // of one object: each takes far more memory than its text
)

// object is a JSON object that keeps the order of its keys.
type object struct {
	keys   []string
	values map[string]json.RawMessage
}

func newObject() *object { return &object{values: map[string]json.RawMessage{}} }

// parse reads one object. Its errors hold no values: one of them may be a secret.
func parse(raw []byte) (*object, error) {
	o := newObject()
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("must be an object")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, errors.New("is no well-formed JSON")
		}
		key := t.(string) // the decoder lets only strings be keys
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errors.New("is no well-formed JSON")
		}
		if _, twice := o.values[key]; twice {
			return nil, fmt.Errorf("has the key %q twice", clip(key))
		}
		if o.set(key, value); len(o.keys) > maxKeys {
			return nil, fmt.Errorf("has more than %d keys", maxKeys)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("is no well-formed JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("has text after its end")
	}
	return o, nil
}

func (o *object) set(key string, value json.RawMessage) {
	if _, there := o.values[key]; !there {
		o.keys = append(o.keys, key)
	}
	o.values[key] = value
}

func (o *object) delete(key string) {
	if _, there := o.values[key]; there {
		delete(o.values, key)
		o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
	}
}

// text sets a string.
func (o *object) text(key, value string) { o.set(key, quote(value)) }

// string gives a string; ok is false for anything else, also for a key that is absent.
func (o *object) string(key string) (s string, ok bool) {
	raw := o.values[key]
	return s, len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil
}

// at gives the value at a path of keys; nil when there is none.
func (o *object) at(path []string) json.RawMessage {
	value := o.values[path[0]]
	if len(path) == 1 || value == nil {
		return value
	}
	inner, err := parse(value)
	if err != nil {
		return nil
	}
	return inner.at(path[1:])
}

// put sets the value at a path, or takes the key away for nil. Objects on the way are made where a value needs them.
func (o *object) put(path []string, value json.RawMessage) {
	key := path[0]
	if len(path) == 1 {
		if value == nil {
			o.delete(key)
		} else {
			o.set(key, value)
		}
		return
	}
	inner := newObject()
	if raw := o.values[key]; raw != nil && string(raw) != "null" {
		var err error
		if inner, err = parse(raw); err != nil {
			return // not an object: decoding it says so
		}
	} else if value == nil {
		return
	}
	inner.put(path[1:], value)
	o.set(key, inner.bytes())
}

// bytes writes the object.
func (o *object) bytes() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, key := range o.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quote(key))
		b.WriteByte(':')
		b.Write(o.values[key])
	}
	b.WriteByte('}')
	return b.Bytes()
}

// quote writes a JSON string without the escapes that are meant for HTML.
func quote(s string) json.RawMessage { return encode(s) }

// encode is json.Marshal without the escapes that are meant for HTML, for values that always encode.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("resource: %T does not encode: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// merge applies a patch as RFC 7396 says.
func merge(target, patch json.RawMessage) (json.RawMessage, error) {
	p, err := parse(patch)
	if err != nil {
		if len(bytes.TrimSpace(patch)) > 0 && bytes.TrimSpace(patch)[0] == '{' {
			return nil, err
		}
		return patch, nil
	}
	t, err := parse(target)
	if err != nil {
		t = newObject()
	}
	for _, key := range p.keys {
		value := p.values[key]
		if string(value) == "null" {
			t.delete(key)
			continue
		}
		merged, err := merge(t.values[key], value)
		if err != nil {
			return nil, err
		}
		t.set(key, merged)
	}
	return t.bytes(), nil
}

// depth is how deep the brackets of a JSON text are nested.
func depth(raw []byte) int {
	deepest, now, inText := 0, 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

var redacted = quote(secret.Redacted)

// Pointer writes a path as provider.Decode gives it ("a.b[0]") as a JSON pointer ("/a/b/0").
func Pointer(path string) string {
	if path == "" {
		return ""
	}
	path = strings.NewReplacer("~", "~0", "/", "~1").Replace(path)
	return "/" + strings.NewReplacer(".", "/", "[", "/", "]", "").Replace(path)
}

func clip(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
