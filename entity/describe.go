package entity

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/slipway-platform/slipway"
)

// description is an entity as the tables see it.
type description struct {
	id                                    int64
	looked, there                         bool              // whether it was looked for before the transaction, and found
	ref                                   slipway.EntityRef // lower case
	key                                   string            // the ref as stored
	etag                                  string
	kind, lifecycle, title, owner, system *string // columns; kind is that of the spec, called type
	terms                                 []term
	termIDs                               []int64 // their numbers, once they are stored
	relations                             []relation
	doc                                   []byte // without uid and etag
}

// term is one searchable field. The kind is that of the entity.
type term struct{ kind, key, value string }

// relation stands once in each direction.
type relation struct{ source, kind, target string }

// opaque is the value of a field that is there but cannot be compared: null, longer than 200 bytes, or holding bytes that
// PostgreSQL does not store. No filter can ask for it.
const opaque = "\x01"

// present is one more value of every label and annotation: being there is the commonest question about them, and their own
// values are too many to ask through.
const present = "\x02"

const maxSearchable = 200

func hasPresence(key string) bool {
	return strings.HasPrefix(key, "metadata.annotations.") || strings.HasPrefix(key, "metadata.labels.")
}

// The bounds of an entity, so that putting one never holds the writer for long, and a page of them can be held in memory.
const (
	MaxDocument  = 256 << 10 // bytes, as JSON
	MaxFields    = 500       // values of fields that can be searched for
	MaxRelations = 250       // entities that its spec names
)

// What whoever puts an entity notes on it, such as where it comes from, goes beyond the bounds by this much at most.
const (
	moreDocument = 64 << 10
	moreFields   = 20
)

// Check says what of an entity goes beyond the bounds, if anything. It is Invalid.
func Check(e *slipway.Entity) error {
	if small(e) {
		return nil
	}
	d, err := bounded(e, MaxDocument, MaxFields)
	if err != nil {
		return err
	}
	if n := len(d.relations) / 2; n > MaxRelations {
		return slipway.Errorf(slipway.Invalid, "%s names %d other entities, of at most %d; let them name it, as a user names its groups and a component what it depends on", d.key, n, MaxRelations)
	}
	return nil
}

// small says of most entities, at a glance, that they are far within the bounds and can be written as JSON.
func small(e *slipway.Entity) bool {
	m := &e.Metadata
	bytes := MaxDocument/8 - len(m.Title) - len(m.Description)
	values := MaxRelations/2 - len(m.Labels) - len(m.Annotations) - len(m.Tags) - 4*len(m.Links)
	for _, l := range m.Links {
		bytes -= len(l.URL) + len(l.Title) + len(l.Icon) + len(l.Type)
	}
	return e.Ref().Validate() == nil && fits(m.Labels, &bytes) && fits(m.Annotations, &bytes) && fits(m.Tags, &bytes) &&
		plain(m.Extra, &bytes, &values) && plain(e.Spec, &bytes, &values)
}

// plain takes the bytes and the number of the values in a value of JSON from what is left, and says whether there was enough, and nothing
// but what YAML and JSON have.
func plain(v any, bytes, values *int) bool {
	*values--
	switch v := v.(type) {
	case nil, bool, int, int64:
	case string:
		*bytes -= len(v)
	case map[string]any:
		for key, item := range v {
			if *bytes -= len(key); !plain(item, bytes, values) {
				return false
			}
		}
	case []any:
		for _, item := range v {
			if !plain(item, bytes, values) {
				return false
			}
		}
	default:
		return false
	}
	return *bytes >= 0 && *values >= 0
}

// bounded is describe for an entity whose size nobody has looked at.
func bounded(e *slipway.Entity, document, fields int) (*description, error) {
	tooLarge := slipway.Errorf(slipway.Invalid, "%s is larger than %d KiB as JSON; keep long texts elsewhere and link to them", e.Ref().Lower(), document>>10)
	// An estimate before anything is copied: a text that is repeated by aliases takes memory only once it is written.
	if left := document; !fits(e.Spec, &left) || !fits(e.Metadata.Extra, &left) || !fits(e.Metadata.Annotations, &left) {
		return nil, tooLarge
	}
	d, err := describe(e)
	switch {
	case err != nil:
		return nil, err
	case len(d.doc) > document:
		return nil, tooLarge
	case len(d.terms) > fields:
		return nil, slipway.Errorf(slipway.Invalid, "%s has more than %d values that can be searched for; shorten its lists", d.key, fields)
	}
	return d, nil
}

// fits takes the bytes of a value from what is left, and says whether there was enough.
func fits(v any, left *int) bool {
	*left--
	switch v := v.(type) {
	case string:
		*left -= len(v)
	case map[string]any:
		for key, item := range v {
			if *left -= len(key); !fits(item, left) {
				return false
			}
		}
	case map[string]string:
		for key, item := range v {
			*left -= len(key) + len(item)
		}
	case []any:
		for _, item := range v {
			if !fits(item, left) {
				return false
			}
		}
	case []string:
		for _, item := range v {
			*left -= len(item)
		}
	}
	return *left >= 0
}

func describe(e *slipway.Entity) (*description, error) {
	d := &description{ref: e.Ref().Lower()}
	if err := d.ref.Validate(); err != nil {
		return nil, err
	}
	d.key = d.ref.String()
	plain := *e // as its source wrote it
	plain.Metadata.Namespace = d.ref.Namespace
	plain.Metadata.UID, plain.Metadata.ETag = "", ""
	plain.Relations, plain.Status = nil, nil
	doc, err := json.Marshal(plain)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "entity %s cannot be written as JSON; use only text, numbers, booleans, lists and maps with text keys", d.key).WithCause(err)
	}
	d.doc = doc
	sum := sha256.Sum256(doc)
	d.etag = hex.EncodeToString(sum[:16])

	var tree map[string]any
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return nil, err
	}
	d.describeFields(tree)
	d.relations = relationsOf(&plain, d.ref)
	d.owner, d.system = optional(e.Owner()), optional(refOf(e.SpecString("system"), "system", d.ref.Namespace))
	return d, nil
}

// document is the entity as it is stored: with uid and etag, which come first in the metadata. A text cannot hold what they are put
// behind, for its quotes are escaped.
func (d *description) document(uid string) string {
	before, after, _ := strings.Cut(string(d.doc), `"metadata":{`)
	return before + `"metadata":{"uid":"` + uid + `","etag":"` + d.etag + `",` + after
}

func (d *description) describeFields(tree map[string]any) {
	fields := map[term]bool{}
	walk(tree, "", false, func(key, text string) {
		value := searchable(text)
		switch key {
		case "kind", "metadata.name", "metadata.namespace":
		case "spec.type":
			d.kind = &value
		case "spec.lifecycle":
			d.lifecycle = &value
		case "metadata.title":
			d.title = &value
		default:
			if hasPresence(key) {
				fields[term{key: key, value: present}] = true
				if value == opaque {
					return
				}
			}
			fields[term{key: key, value: value}] = true
		}
	})
	d.terms = slices.SortedFunc(maps.Keys(fields), func(a, b term) int { return cmpStrings(a.key, b.key, a.value, b.value) })
}

// walk visits every leaf with its key as it is searched for and its text as it is written: keys in lower case; lists leave no trace in
// the key; where it is asked for, a text in a list also counts as a field of its own that is true.
func walk(v any, path string, asFields bool, visit func(key, text string)) {
	leaf := func(path, value string) {
		if key := strings.ToLower(path); len(key) <= maxSearchable && storable(key) {
			visit(key, value)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			p := k
			if path != "" {
				p = path + "." + k
			}
			walk(item, p, asFields, visit)
		}
	case []any:
		for _, item := range v {
			walk(item, path, asFields, visit)
			if s, ok := item.(string); ok && asFields {
				leaf(path+"."+s, "true")
			}
		}
	case string:
		leaf(path, v)
	case json.Number:
		leaf(path, v.String())
	case bool:
		leaf(path, map[bool]string{true: "true", false: "false"}[v])
	case nil:
		leaf(path, opaque)
	}
}

// items gives what makes a field true without being stored: a text in a list counts as a field of its own, so that metadata.tags.java is true where java is one of
// metadata.tags. Each is a key and its value. A text counts as a list of one; labels and annotations are no lists.
func items(key string) (terms [][2]string) {
	if hasPresence(key) {
		return nil
	}
	for i := range key {
		list, item := key[:i], key[min(i+1, len(key)):]
		if key[i] == '.' && strings.Contains(list, ".") && len(list) <= maxSearchable && len(item) <= maxSearchable {
			terms = append(terms, [2]string{list, item})
		}
	}
	return terms
}

// searchable is a text as it is compared.
func searchable(v string) string {
	if v == opaque {
		return v
	}
	v = strings.ToLower(v)
	if len(v) > maxSearchable || !storable(v) {
		return opaque
	}
	return v
}

// storable says that a text can be a key or a value in both engines, and is none of ours.
func storable(s string) bool { return !strings.ContainsAny(s, "\x00\x01\x02") && utf8.ValidString(s) }

// link is a field of the spec that relates the entity to others.
type link struct {
	field, kind       string // kind: what a bare name is
	forward, backward string
}

var links = []link{
	{"owner", "group", "ownedBy", "ownerOf"},
	{"system", "system", "partOf", "hasPart"},
	{"domain", "domain", "partOf", "hasPart"},
	{"subcomponentOf", "component", "partOf", "hasPart"},
	{"subdomainOf", "domain", "partOf", "hasPart"},
	{"providesApis", "api", "providesApi", "apiProvidedBy"},
	{"consumesApis", "api", "consumesApi", "apiConsumedBy"},
	{"dependsOn", "", "dependsOn", "dependencyOf"},
	{"dependencyOf", "", "dependencyOf", "dependsOn"},
	{"memberOf", "group", "memberOf", "hasMember"},
	{"parent", "group", "childOf", "parentOf"},
	{"children", "group", "parentOf", "childOf"},
	{"members", "user", "hasMember", "memberOf"},
}

// relationNames finds a relation by its name in lower case, as filters write it.
var relationNames = func() map[string]string {
	names := map[string]string{}
	for _, l := range links {
		names[strings.ToLower(l.forward)], names[strings.ToLower(l.backward)] = l.forward, l.backward
	}
	return names
}()

// inverse is what a relation is called from its other end. Each stands in both directions.
var inverse = func() map[string]string {
	names := map[string]string{}
	for _, l := range links {
		names[l.forward], names[l.backward] = l.backward, l.forward
	}
	return names
}()

func relationsOf(e *slipway.Entity, ref slipway.EntityRef) []relation {
	found := map[relation]bool{}
	own := ref.String()
	for _, l := range links {
		for _, target := range e.SpecStrings(l.field) {
			if l.kind == "" && !strings.Contains(target, ":") {
				continue // these may name any kind, so that the kind must be said
			}
			if t := refOf(target, l.kind, ref.Namespace); t != "" {
				found[relation{own, l.forward, t}] = true
				found[relation{t, l.backward, own}] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b relation) int {
		return cmpStrings(a.source, b.source, a.kind, b.kind, a.target, b.target)
	})
}

// refOf is the canonical form of a ref in a spec, "" when it is none.
func refOf(s, kind, namespace string) string {
	if s == "" {
		return ""
	}
	ref, err := slipway.ParseEntityRef(s, slipway.EntityRef{Kind: kind, Namespace: namespace})
	if err != nil {
		return ""
	}
	return ref.String()
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// cmpStrings compares pairs, the first that differ decide.
func cmpStrings(pairs ...string) int {
	for i := 0; i < len(pairs); i += 2 {
		if c := cmp.Compare(pairs[i], pairs[i+1]); c != 0 {
			return c
		}
	}
	return 0
}
