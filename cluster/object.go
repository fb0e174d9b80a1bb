package cluster

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"time"

	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/slipway-platform/slipway"
)

// Resource says which objects are meant, as the API's paths do: {"tekton.dev", "v1", "pipelineruns"}. Group is empty for the core.
type Resource struct{ Group, Version, Name string }

// String is the name that RBAC and kubectl know: pipelineruns.tekton.dev.
func (r Resource) String() string {
	if r.Group == "" {
		return r.Name
	}
	return r.Name + "." + r.Group
}

// APIVersion is what objects carry: tekton.dev/v1.
func (r Resource) APIVersion() string {
	if r.Group == "" {
		return r.Version
	}
	return r.Group + "/" + r.Version
}

// Resources of the core that Slipway itself reads and makes.
var (
	Namespaces = Resource{"", "v1", "namespaces"}
	Pods       = Resource{"", "v1", "pods"}
)

// Object is an object as the API has it: apiVersion, kind, metadata, and what its resource says. Whole numbers are int64.
// Reading what is not there, or is of another type, gives the zero value.
type Object map[string]any

// ParseObject reads an object from JSON.
func ParseObject(b []byte) (Object, error) {
	var o Object
	if err := utiljson.Unmarshal(b, (*map[string]any)(&o)); err != nil || o == nil {
		return nil, slipway.Errorf(slipway.Invalid, "this is no object in JSON").WithCause(err)
	}
	return o, nil
}

// Name is metadata.name.
func (o Object) Name() string { return o.Text("metadata", "name") }

// Namespace is metadata.namespace; "" where the resource has none.
func (o Object) Namespace() string { return o.Text("metadata", "namespace") }

// UID tells objects of the same name apart that lived one after the other.
func (o Object) UID() string { return o.Text("metadata", "uid") }

// ResourceVersion says which version this is. Update refuses (Precondition) when it is no longer the newest.
func (o Object) ResourceVersion() string { return o.Text("metadata", "resourceVersion") }

// Created is when the API server made it, to the second; zero before that.
func (o Object) Created() time.Time { return o.Time("metadata", "creationTimestamp") }

// Deleting says that it has been deleted and waits for its finalizers.
func (o Object) Deleting() bool { return o.Text("metadata", "deletionTimestamp") != "" }

// Label is a label; "" without.
func (o Object) Label(key string) string { return o.Text("metadata", "labels", key) }

// Annotation is an annotation; "" without.
func (o Object) Annotation(key string) string { return o.Text("metadata", "annotations", key) }

// At is the value at a path, or nil.
func (o Object) At(path ...string) any {
	var v any = map[string]any(o)
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// Text is the text at a path, or "".
func (o Object) Text(path ...string) string { s, _ := o.At(path...).(string); return s }

// Bool is the truth value at a path, or false.
func (o Object) Bool(path ...string) bool { b, _ := o.At(path...).(bool); return b }

// Time is the RFC 3339 time at a path, in UTC, or zero.
func (o Object) Time(path ...string) time.Time {
	t, err := time.Parse(time.RFC3339, o.Text(path...))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// List gives the objects of the list at a path; what is no object is left out.
func (o Object) List(path ...string) []Object {
	list, _ := o.At(path...).([]any)
	var out []Object
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// Texts gives the texts of the map at a path, such as metadata.labels.
func (o Object) Texts(path ...string) map[string]string {
	m, _ := o.At(path...).(map[string]any)
	out := map[string]string{}
	for k, v := range m {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}

// Set puts a value at a path, making what is missing on the way.
func (o Object) Set(value any, path ...string) {
	m := map[string]any(o)
	for _, key := range path[:len(path)-1] {
		inner, ok := m[key].(map[string]any)
		if !ok {
			inner = map[string]any{}
			m[key] = inner
		}
		m = inner
	}
	m[path[len(path)-1]] = value
}

// Into decodes the value at a path into a variable, as JSON.
func (o Object) Into(v any, path ...string) error {
	b, err := json.Marshal(o.At(path...))
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return slipway.Errorf(slipway.Invalid, "%s of the object does not have the shape that is known", strings.Join(path, ".")).WithCause(err)
	}
	return nil
}

// Clone copies the object and all below it.
func (o Object) Clone() Object { return copyOf(map[string]any(o)).(map[string]any) }

func copyOf(v any) any {
	switch v := v.(type) {
	case Object:
		return copyOf(map[string]any(v))
	case map[string]any:
		out := maps.Clone(v)
		for k := range out {
			out[k] = copyOf(out[k])
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = copyOf(v[i])
		}
		return out
	}
	return v
}

// ToObject makes of a value what JSON makes of it, for Set and for the objects of one's own types.
func ToObject(v any) (map[string]any, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "this is no object in JSON").WithCause(err)
	}
	return ParseObject(b.Bytes())
}
