package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
)

// Checker is a config that knows rules beyond the types of its fields. Check names every broken one.
type Checker interface{ Check() []slipway.Detail }

// Decode reads a raw config into the struct that config points to, strictly: an unknown key, a value of the wrong type, an absent key whose field
// is tagged `required:"true"`, and what the struct's Check says are faults, and all of them are reported together in one Invalid error. A key
// that is absent gets the value of its field's `default` tag (JSON, or a plain word for strings and texts). Keys are compared exactly. An empty
// config is the empty object. Messages never hold the value of a plain text: it may be a secret.
func Decode(raw json.RawMessage, config any) error {
	v := reflect.ValueOf(config)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("provider.Decode: %T is no pointer to a struct", config))
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		raw = json.RawMessage("{}")
	}
	faults := decodeStruct(raw, v.Elem(), "")
	if c, ok := config.(Checker); ok {
		for _, d := range c.Check() {
			// A field that did not decode is not judged a second time.
			if !slices.ContainsFunc(faults, func(f slipway.Detail) bool { return f.Field == d.Field }) {
				faults = append(faults, d)
			}
		}
	}
	if len(faults) == 0 {
		return nil
	}
	texts := make([]string, len(faults))
	for i, f := range faults {
		texts[i] = f.Message
		if f.Field != "" {
			texts[i] = f.Field + ": " + f.Message
		}
	}
	return slipway.Errorf(slipway.Invalid, "%s", strings.Join(texts, "; ")).WithDetails(faults...)
}

func fault(field, format string, args ...any) slipway.Detail {
	return slipway.Detail{Field: field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)}
}

func decodeStruct(raw json.RawMessage, v reflect.Value, path string) (faults []slipway.Detail) {
	object, err := readObject(raw)
	if err != nil {
		return []slipway.Detail{fault(path, "%s", err)}
	}
	fields := fieldsOf(v)
	for _, key := range object.keys {
		if _, ok := fields.byKey[key]; !ok {
			faults = append(faults, fault(join(path, key), "there is no such key; known are %s", strings.Join(fields.keys, ", ")))
		}
	}
	for _, key := range fields.keys {
		f := fields.byKey[key]
		value, given := object.values[key]
		switch {
		case given && string(value) != "null":
			faults = append(faults, decodeValue(value, f.value, join(path, key))...)
		case f.tag.Get("required") == "true":
			faults = append(faults, fault(join(path, key), "is required"))
		case f.tag.Get("default") != "":
			if err := setDefault(f.tag.Get("default"), f.value); err != nil {
				panic(fmt.Sprintf("provider.Decode: default of %s: %v", join(path, key), err))
			}
		}
	}
	return faults
}

func decodeValue(raw json.RawMessage, v reflect.Value, path string) []slipway.Detail {
	if _, own := v.Addr().Interface().(json.Unmarshaler); !own && v.Kind() == reflect.Struct {
		if _, text := v.Addr().Interface().(interface{ UnmarshalText([]byte) error }); !text {
			return decodeStruct(raw, v, path)
		}
	}
	if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct {
		var items []json.RawMessage
		if err := json.Unmarshal(raw, &items); err != nil {
			return []slipway.Detail{fault(path, "must be a list")}
		}
		var faults []slipway.Detail
		v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
		for i, item := range items {
			faults = append(faults, decodeValue(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i))...)
		}
		return faults
	}
	err := json.Unmarshal(raw, v.Addr().Interface())
	if err == nil {
		return nil
	}
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return []slipway.Detail{fault(path, "must be %s, not %s", wordFor(t.Type), t.Value)}
	}
	return []slipway.Detail{fault(path, "%s", err)}
}

func setDefault(text string, v reflect.Value) error {
	if json.Unmarshal([]byte(text), v.Addr().Interface()) == nil {
		return nil
	}
	quoted, _ := json.Marshal(text)
	return json.Unmarshal(quoted, v.Addr().Interface())
}

func wordFor(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a map"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a " + t.String()
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// object is a JSON object that knows the order of its keys.
type object struct {
	keys   []string
	values map[string]json.RawMessage
}

func readObject(raw json.RawMessage) (object, error) {
	o := object{values: map[string]json.RawMessage{}}
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return o, errors.New("must be a map of keys and values")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return o, errors.New("is no well-formed JSON")
		}
		key := t.(string) // the decoder lets only strings be keys
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return o, errors.New("is no well-formed JSON")
		}
		if _, twice := o.values[key]; twice {
			return o, fmt.Errorf("has the key %q twice", key)
		}
		o.keys = append(o.keys, key)
		o.values[key] = value
	}
	if _, err := d.Token(); err != nil {
		return o, errors.New("is no well-formed JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return o, errors.New("has text after its end")
	}
	return o, nil
}

type structFields struct {
	keys  []string
	byKey map[string]structField
}

type structField struct {
	value reflect.Value
	tag   reflect.StructTag
}

func fieldsOf(v reflect.Value) structFields {
	fs := structFields{byKey: map[string]structField{}}
	for _, f := range reflect.VisibleFields(v.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || f.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fs.keys = append(fs.keys, name)
		fs.byKey[name] = structField{v.FieldByIndex(f.Index), f.Tag}
	}
	return fs
}
