package command

import (
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/secret"
)

const maxNesting = 32 // levels of a configuration file; also ends an alias that contains itself

// filler fills structs from a YAML document and from the environment, strictly, and keeps every fault
// it finds instead of stopping at the first. Keys are the yaml tags of the fields.
type filler struct {
	env     func(string) (string, bool)
	faults  []fault
	lines   map[string]int    // line of each path that the file holds
	origins map[string]string // environment variable of each path that one set
	written map[string]string // values that held ${…}, as they were written
}

// fault is one thing wrong in a configuration.
type fault struct {
	line int    // in the file; 0: not from the file
	from string // the environment variable; "" from the file or the defaults
	path string // "server.listen"
	text string // what is wrong and what would be right
}

func (f fault) String() string {
	where := f.from
	if f.line > 0 {
		where = "line " + strconv.Itoa(f.line)
	}
	if f.path != "" {
		where = strings.TrimPrefix(where+", "+f.path, ", ")
	}
	return where + ": " + f.text
}

func newFiller(env func(string) (string, bool)) *filler {
	return &filler{env: env, lines: map[string]int{}, origins: map[string]string{}, written: map[string]string{}}
}

// faultf notes what is wrong at a path.
func (f *filler) faultf(path, format string, args ...any) {
	f.faults = append(f.faults, fault{f.lines[path], f.origins[path], path, fmt.Sprintf(format, args...)})
}

// sorted gives the faults as a person reads the file: by line, then those from elsewhere.
func (f *filler) sorted() []fault {
	slices.SortStableFunc(f.faults, func(a, b fault) int {
		if (a.line == 0) != (b.line == 0) {
			return cmp.Compare(b.line, a.line)
		}
		return cmp.Compare(a.line, b.line)
	})
	return f.faults
}

// field is one key of a struct: its own, or an inlined struct's.
type field struct {
	key      string
	doc      string
	standard string // its default tag, where the default is not set in the struct
	value    reflect.Value
}

// fieldsOf lists the keys of a struct in the order of its declaration; rest is the inlined map that takes
// all other keys, if it has one.
func fieldsOf(v reflect.Value) (fields []field, rest reflect.Value) {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		key, options, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if key == "" {
			key, _, _ = strings.Cut(sf.Tag.Get("json"), ",")
		}
		inline := strings.Contains(options, "inline")
		switch {
		case !sf.IsExported() || key == "-":
		case inline && sf.Type.Kind() == reflect.Struct:
			inner, r := fieldsOf(v.Field(i))
			fields = append(fields, inner...)
			if r.IsValid() {
				rest = r
			}
		case inline:
			rest = v.Field(i)
		case key != "":
			fields = append(fields, field{key, sf.Tag.Get("doc"), sf.Tag.Get("default"), v.Field(i)})
		}
	}
	return fields, rest
}

// fields fills the keys of one level from a mapping.
func (f *filler) fields(n *yaml.Node, path string, fields []field, rest reflect.Value, depth int) {
	if n.Kind != yaml.MappingNode {
		f.faultf(path, "must be a mapping of keys to values")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		at := join(path, key)
		f.lines[at] = n.Content[i].Line
		if n.Content[i].Line == 0 {
			f.lines[at] = f.lines[path]
		}
		if seen[key] {
			f.faultf(at, "stands here twice; keep one")
			continue
		}
		seen[key] = true
		j := slices.IndexFunc(fields, func(k field) bool { return k.key == key })
		switch {
		case j >= 0:
			f.value(value, fields[j].value, at, depth+1)
		case rest.IsValid():
			if rest.IsNil() {
				rest.Set(reflect.MakeMap(rest.Type()))
			}
			f.entry(value, rest, key, at, depth+1)
		default:
			f.unknown(at, key, fields)
		}
	}
}

// unknown reports a key that does not exist and the one that was probably meant.
func (f *filler) unknown(path, key string, fields []field) {
	var known []string
	for _, k := range fields {
		known = append(known, k.key)
	}
	if best := nearest(key, known); best != "" {
		f.faultf(path, "no such key; did you mean %q?", best)
		return
	}
	slices.Sort(known)
	if len(known) == 0 {
		f.faultf(path, "no such key; none is taken here")
		return
	}
	f.faultf(path, "no such key; there are %s", strings.Join(known, ", "))
}

// value fills one value.
func (f *filler) value(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if depth > maxNesting {
		f.faultf(path, "is nested too deeply; %d levels are read", maxNesting)
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return // nothing said: the default stays
	}
	if t, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok && n.Kind == yaml.ScalarNode {
		if s, ok := f.text(n, path); ok {
			if err := t.UnmarshalText([]byte(s)); err != nil {
				f.faultf(path, "%s", sentence(err))
			}
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		f.value(n, v.Elem(), path, depth+1)
	case reflect.Struct:
		fields, rest := fieldsOf(v)
		f.fields(n, path, fields, rest, depth)
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			f.faultf(path, "must be a mapping of names to values")
			return
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		f.fields(n, path, nil, v, depth)
	case reflect.Slice:
		f.list(n, v, path, depth)
	case reflect.Interface:
		if x := f.anything(n, path, depth); x != nil {
			v.Set(reflect.ValueOf(x))
		}
	default:
		f.scalar(n, v, path)
	}
}

// entry fills one entry of a map.
func (f *filler) entry(n *yaml.Node, m reflect.Value, key, path string, depth int) {
	k, v := reflect.ValueOf(key).Convert(m.Type().Key()), reflect.New(m.Type().Elem()).Elem()
	if old := m.MapIndex(k); old.IsValid() {
		v.Set(old)
	}
	f.value(n, v, path, depth)
	m.SetMapIndex(k, v)
}

func (f *filler) list(n *yaml.Node, v reflect.Value, path string, depth int) {
	if v.Type() == reflect.TypeFor[json.RawMessage]() {
		if raw, err := json.Marshal(f.anything(n, path, depth)); err == nil {
			v.SetBytes(raw)
		}
		return
	}
	if n.Kind != yaml.SequenceNode {
		f.faultf(path, "must be a list: write it like [a, b]")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if f.lines[at] = item.Line; item.Line == 0 {
			f.lines[at], f.origins[at] = f.lines[path], f.origins[path]
		}
		f.value(item, out.Index(i), at, depth+1)
	}
	v.Set(out)
}

// anything is a value whose type nobody declared here. ${…} stays in it: who knows the type replaces it.
func (f *filler) anything(n *yaml.Node, path string, depth int) any {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if depth > maxNesting {
		f.faultf(path, "is nested too deeply; %d levels are read", maxNesting)
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		f.fields(n, path, nil, reflect.ValueOf(out), depth)
		return out
	case yaml.SequenceNode:
		var out []any
		f.list(n, reflect.ValueOf(&out).Elem(), path, depth)
		return out
	}
	var out any
	if err := n.Decode(&out); err != nil {
		f.faultf(path, "%q cannot be read", n.Value)
	}
	return out
}

// scalar fills a text, a number or a truth value.
func (f *filler) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		f.faultf(path, "must be a single value")
		return
	}
	s, ok := f.text(n, path)
	if !ok {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			f.faultf(path, "%q is neither true nor false", s)
			return
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if err != nil {
			f.faultf(path, "%q is no whole number", s)
			return
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		i, err := strconv.ParseUint(s, 10, v.Type().Bits())
		if err != nil {
			f.faultf(path, "%q is no whole number from 0 on", s)
			return
		}
		v.SetUint(i)
	case reflect.Float32, reflect.Float64:
		x, err := strconv.ParseFloat(s, v.Type().Bits())
		if err != nil {
			f.faultf(path, "%q is no number", s)
			return
		}
		v.SetFloat(x)
	default:
		panic("command: config field " + path + " has a type that no file can fill: " + v.Type().String())
	}
}

// text is a scalar with ${env:NAME} and ${file:/path} replaced. What comes from the environment itself is
// taken as it is.
func (f *filler) text(n *yaml.Node, path string) (string, bool) {
	if f.origins[path] != "" {
		return n.Value, true
	}
	s, err := secret.Expand(n.Value, f.env)
	if err != nil {
		f.faultf(path, "%s", sentence(err))
		return "", false
	}
	if s != n.Value {
		f.written[path] = n.Value
	}
	return s, true
}

// variables gives the environment variable of every key: SLIPWAY_ and the key's path in upper snake case.
func variables(fields []field, prefix string, visit func(name, path string, k field)) {
	for _, k := range fields {
		path := join(prefix, k.key)
		if _, text := k.value.Addr().Interface().(encoding.TextUnmarshaler); !text && k.value.Kind() == reflect.Struct {
			inner, _ := fieldsOf(k.value)
			variables(inner, path, visit)
			continue
		}
		visit(variable(path), path, k)
	}
}

// variable is the environment variable of a path: server.metricsListen is SLIPWAY_SERVER_METRICS_LISTEN.
func variable(path string) string {
	var out strings.Builder
	out.WriteString("SLIPWAY_")
	runes := []rune(path)
	for i, r := range runes {
		if r == '.' {
			r = '_'
		} else if unicode.IsUpper(r) && i > 0 && runes[i-1] != '.' &&
			(unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToUpper(r))
	}
	return out.String()
}

// environment fills what SLIPWAY_… variables say: lists as a,b or as YAML, one entry of a map of texts by
// its name at the end (SLIPWAY_DATABASES_MAIN), all else as YAML. It returns the variables that name nothing.
func (f *filler) environment(environ []string, fields []field) (ignored []string) {
	keys := map[string]func(value, name string){}
	maps := map[string]func(entry, value, name string){}
	variables(fields, "", func(name, path string, k field) {
		keys[name] = func(value, from string) {
			f.lines[path], f.origins[path] = 0, from
			f.value(f.parse(value, k.value, path), k.value, path, 0)
		}
		if k.value.Type() == reflect.TypeFor[map[string]string]() {
			maps[name+"_"] = func(entry, value, from string) {
				at := join(path, entry)
				f.lines[at], f.origins[at] = 0, from
				m := k.value
				if m.IsNil() {
					m.Set(reflect.MakeMap(m.Type()))
				}
				m.SetMapIndex(reflect.ValueOf(entry), reflect.ValueOf(value))
			}
		}
	})
	slices.Sort(environ)
next:
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "SLIPWAY_") {
			continue
		}
		if set := keys[name]; set != nil {
			set(value, name)
			continue
		}
		for prefix, set := range maps {
			if entry, ok := strings.CutPrefix(name, prefix); ok && entry != "" {
				set(strings.ToLower(entry), value, name)
				continue next
			}
		}
		ignored = append(ignored, name)
	}
	return ignored
}

// parse turns the text of an environment variable into a node.
func (f *filler) parse(value string, v reflect.Value, path string) *yaml.Node {
	plain := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
	_, text := v.Addr().Interface().(encoding.TextUnmarshaler)
	list := v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.String
	switch {
	case text || v.Kind() == reflect.String:
		return plain
	case list && !strings.HasPrefix(strings.TrimSpace(value), "["):
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: item})
			}
		}
		return n
	}
	var doc yaml.Node
	if err := yaml.Load([]byte(value), &doc); err != nil || len(doc.Content) != 1 {
		return plain
	}
	unplace(doc.Content[0])
	return doc.Content[0]
}

// unplace removes the lines of a document that is no part of the file.
func unplace(n *yaml.Node) {
	n.Line = 0
	for _, c := range n.Content {
		unplace(c)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// sentence is an error's text for people, without its code.
func sentence(err error) string {
	if e, ok := errors.AsType[*slipway.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

// nearest is the known word that somebody probably meant, or "".
func nearest(word string, known []string) string {
	best, least := "", max(1, len(word)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is how many letters must be changed, added, left out or swapped with the next one.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
