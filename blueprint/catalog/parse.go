package catalog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/safeyaml"
)

// The bounds of a catalog file. A value is a key, an item or a text, counted again wherever an alias repeats it.
const (
	maxDepth     = 64
	maxValues    = 500_000
	maxDocuments = 10_000
)

// fault is something wrong with one document. The others of the file are not touched by it.
type fault struct {
	Document int // from 1
	Line     int
	Ref      slipway.EntityRef // of the entity, when it can be told
	Message  string
}

func (f fault) String() string {
	return fmt.Sprintf("document %d, line %d: %s", f.Document, f.Line, f.Message)
}

// resolver gives what {"$text": "./file"}, $json or $yaml stands for. Its values count against the budget.
type resolver func(kind, target string, budget *int) (any, error)

// parse reads a catalog file: YAML, or JSON as a part of it, with any number of documents. Documents that are no valid entity are
// faults. An error means that the file cannot be read at all; it is Invalid. Without a resolver placeholders stay as they are. Kinds are
// those accepted, in lower case; false: accepted only from trusted locations, and this is none.
//
// What the context's end cuts short gives the context's error.
func parse(ctx context.Context, data []byte, kinds map[string]bool, resolve resolver) (entities []*slipway.Entity, faults []fault, err error) {
	if text := bytes.TrimSpace(data); len(text) > 1 && text[0] == '<' && text[1] != '<' {
		return nil, nil, slipway.Errorf(slipway.Invalid, "it is HTML or XML, no YAML; give the address of the file itself, which must be readable without signing in")
	}
	budget := maxValues
	r, err := yamlReader(ctx, data, &budget)
	if err != nil {
		return nil, nil, slipway.Errorf(slipway.Invalid, "%s; split it", err)
	}
	seen := map[string]int{}
	for n := 1; ; n++ {
		v, line, err := compose(ctx, r)
		var broken *slipway.Error
		switch {
		case errors.Is(err, io.EOF):
			return entities, faults, nil
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case errors.As(err, &broken):
			return nil, nil, advised(broken, data)
		case n > maxDocuments:
			return nil, nil, slipway.Errorf(slipway.Invalid, "it has more than %d documents; split it", maxDocuments)
		case line == 0:
			continue // nothing between two separators
		}
		var e *slipway.Entity
		var ref slipway.EntityRef
		if err == nil {
			e, ref, err = entityOf(v, &budget, kinds, resolve)
		}
		if budget <= 0 {
			return nil, nil, slipway.Errorf(slipway.Invalid, "it has more than %d values, counting what its aliases repeat; split it", maxValues)
		}
		if err == nil {
			if first := seen[ref.String()]; first > 0 {
				err = fmt.Errorf("%s stands in document %d already", ref, first)
			}
			seen[ref.String()] = n
		}
		if err != nil {
			faults = append(faults, fault{n, line, ref, err.Error()})
			continue
		}
		entities = append(entities, e)
	}
}

// fillIn is the advice for whoever sends a template of a catalog file.
const fillIn = "this looks like a template: fill in its placeholders first"

// advised adds what most probably helps against YAML that cannot be read.
func advised(err *slipway.Error, data []byte) *slipway.Error {
	var advice string
	switch {
	case bytes.Contains(data, []byte("{{")) || bytes.Contains(data, []byte("{%")):
		advice = fillIn
	case bytes.Contains(data, []byte("\n\t")):
		advice = "indent with spaces, not with tabs"
	default:
		return err
	}
	return slipway.Errorf(err.Code, "%s; %s", err.Message, advice)
}

// ending is a reader that fails once its context has ended.
type ending struct {
	ctx context.Context
	io.Reader
}

func (r ending) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// yamlReader begins to read a file whose values count against the budget.
func yamlReader(ctx context.Context, data []byte, budget *int) (*safeyaml.Reader, error) {
	r, err := safeyaml.NewReader(data, safeyaml.Limits{Nodes: maxValues, Depth: maxDepth, Merge: true}, budget, ending{ctx, bytes.NewReader(data)})
	if errors.Is(err, safeyaml.ErrTooMany) {
		return nil, fmt.Errorf("it has more than %d values", maxValues)
	}
	return r, err
}

// composing holds one: large documents take a hundred megabytes while they are turned into values, and a location has them read by the
// job, by whoever registers it, and beside other locations.
var composing = make(chan struct{}, 1)

// compose gives the values of the next document, and its line; 0 for one that holds nothing. io.EOF after the last. A coded error: the file cannot be
// read on. Every value counts against the reader's budget, those behind aliases too, so that no file grows while it is read.
func compose(ctx context.Context, r *safeyaml.Reader) (v any, line int, err error) {
	select {
	case composing <- struct{}{}:
		defer func() { <-composing }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	root, err := r.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, 0, io.EOF
	case err != nil:
		return nil, 0, slipway.Errorf(slipway.Invalid, "it is no valid YAML: %s", err)
	case root == nil:
		return nil, 0, nil
	}
	v, err = safeyaml.Build(r, root, safeyaml.Values)
	return v, root.Line(), err
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// entityOf makes an entity of a document. The ref is given as far as it can be told, also with an error.
func entityOf(v any, budget *int, kinds map[string]bool, resolve resolver) (*slipway.Entity, slipway.EntityRef, error) {
	if resolve != nil {
		got, err := substituted(v, budget, resolve)
		if err != nil {
			if e, ref, fault := checked(v, kinds); fault == nil {
				return nil, ref, fmt.Errorf("%s: %w", e.Ref(), err)
			}
			return nil, slipway.EntityRef{}, err
		}
		v = got
	}
	return checked(v, kinds)
}

// checked makes an entity of a document's values, if it is one. What is wrong with several of its fields is a faultList.
func checked(v any, kinds map[string]bool) (*slipway.Entity, slipway.EntityRef, error) {
	var ref slipway.EntityRef
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, ref, errors.New("it is no map; an entity has apiVersion, kind, metadata and spec")
	}
	c := checker{}
	c.twins(doc, "")
	e := c.entity(doc)
	if len(c.faults) == 0 {
		c.spec(e)
	}
	if e.Ref().Validate() == nil {
		ref = e.Ref().Lower()
	}
	if strings.HasPrefix(ref.String(), "location:default/"+generated) {
		c.faultf("the catalog itself makes the Location entities whose names begin with %s, one for each registered location; give it another name", generated)
	}
	if accepted, known := kinds[strings.ToLower(e.Kind)]; len(c.faults) == 0 && !known {
		c.faultf("kind %q is not accepted here; an operator can add it to catalog.kinds", e.Kind)
	} else if len(c.faults) == 0 && !accepted {
		c.faultf("kind %q is not accepted from this location, since users and groups decide who holds which rights; have the location registered by "+
			"somebody with the permission %s, or put it into catalog.locations of the configuration", e.Kind, trustLocation)
	}
	if len(c.faults) > 0 {
		return nil, ref, c.faults
	}
	if err := entity.Check(e); err != nil {
		return nil, ref, errors.New(reason(err))
	}
	return e, ref, nil
}

// substituted replaces placeholders: maps of nothing but $text, $json or $yaml.
func substituted(v any, budget *int, resolve resolver) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		for key, target := range v {
			if key != "$text" && key != "$json" && key != "$yaml" || len(v) > 1 {
				continue
			}
			text, ok := target.(string)
			if !ok {
				return nil, fmt.Errorf("%s takes the name of a file", key)
			}
			got, err := resolve(key, text, budget)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", key, clip(text), err)
			}
			return got, nil
		}
		for _, key := range sortedKeys(v) {
			got, err := substituted(v[key], budget, resolve)
			if err != nil {
				return nil, err
			}
			v[key] = got
		}
	case []any:
		for i := range v {
			got, err := substituted(v[i], budget, resolve)
			if err != nil {
				return nil, err
			}
			v[i] = got
		}
	}
	return v, nil
}

// parseValue reads a file of one YAML document as a value.
func parseValue(ctx context.Context, data []byte, budget *int) (any, error) {
	r, err := yamlReader(ctx, data, budget)
	if err != nil {
		return nil, err
	}
	v, _, err := compose(ctx, r)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return v, err
}

func clip(s string) string { return clipTo(s, 100) }

func clipTo(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// checker collects what is wrong with an entity. The rules are Backstage's, so that a file that is good there is good here and the other way round.
//
// Source: Backstage, "Descriptor Format of Catalog Entities".
type checker struct{ faults faultList }

// faultList is all that is wrong with an entity, as one error.
type faultList []string

func (l faultList) Error() string { return strings.Join(l, "; ") }

func (c *checker) faultf(format string, args ...any) {
	if len(c.faults) < 10 {
		c.faults = append(c.faults, fmt.Sprintf(format, args...))
	}
}

// twins refuses keys that differ only in case, since searches could not tell them apart, and control characters: they have no place in an
// entity, and not every table that its texts go to can hold them.
func (c *checker) twins(v any, path string) {
	switch v := v.(type) {
	case map[string]any:
		seen := map[string]string{}
		for _, key := range sortedKeys(v) {
			c.plain(path+"."+key, key)
			lower := strings.ToLower(key)
			if other, twice := seen[lower]; twice {
				c.faultf("the keys %q and %q of %s differ only in case", clip(other), clip(key), cmp.Or(path, "the entity"))
			}
			seen[lower] = key
			c.twins(v[key], strings.TrimPrefix(path+"."+key, "."))
		}
	case []any:
		for _, item := range v {
			c.twins(item, path)
		}
	case string:
		c.plain(path, v)
	}
}

func (c *checker) plain(path, text string) {
	if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' && r != '\r' || r == 0x7f }); i >= 0 {
		c.faultf("field %q holds the control character %q; leave it out", clip(strings.TrimPrefix(path, ".")), text[i:i+1])
	}
}

var (
	apiVersionPattern = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[a-z0-9A-Z]+$`)
	subdomainPattern  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	wordPattern       = regexp.MustCompile(`^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$`)
	tagPattern        = regexp.MustCompile(`^[a-z0-9:+#]+(-[a-z0-9:+#]+)*$`)
)

func (c *checker) entity(doc map[string]any) *slipway.Entity {
	for _, key := range sortedKeys(doc) {
		if !slices.Contains([]string{"apiVersion", "kind", "metadata", "spec"}, key) {
			c.faultf("unknown field '%s'; an entity has apiVersion, kind, metadata and spec", clip(key))
		}
	}
	e := &slipway.Entity{APIVersion: c.required(doc, "apiVersion", "apiVersion"), Kind: c.required(doc, "kind", "kind")}
	if e.APIVersion != "" && (!apiVersionPattern.MatchString(e.APIVersion) || len(e.APIVersion) > 253) {
		c.faultf("apiVersion %q is not of the form group/version, such as backstage.io/v1alpha1", clip(e.APIVersion))
	}
	switch m := doc["metadata"].(type) {
	case map[string]any:
		c.metadata(&e.Metadata, m)
	case nil:
		c.faultf("missing required field 'metadata'")
	default:
		c.faultf("field 'metadata' must be a map")
	}
	switch s := doc["spec"].(type) {
	case map[string]any:
		e.Spec = s
	case nil:
	default:
		c.faultf("field 'spec' must be a map")
	}
	if e.Kind != "" && e.Metadata.Name != "" {
		if err := e.Ref().Validate(); err != nil && strings.Contains(e.Metadata.Name+e.Metadata.Namespace, "{{") {
			c.faultf("%s; %s", err.Message, fillIn)
		} else if err != nil {
			c.faultf("%s", err.Message)
		} else if ns := e.Metadata.Namespace; ns != strings.ToLower(ns) {
			c.faultf("field 'metadata.namespace' must be in lower case")
		}
	}
	return e
}

func (c *checker) required(m map[string]any, key, path string) string {
	v, there := m[key]
	if !there || v == nil {
		c.faultf("missing required field '%s'", path)
		return ""
	}
	s, ok := v.(string)
	if !ok || s == "" {
		c.faultf("field '%s' must be a text that is not empty", path)
	}
	return s
}

func (c *checker) optional(m map[string]any, key string) string {
	v, there := m[key]
	if !there || v == nil {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		c.faultf("field 'metadata.%s' must be a text; put quotes around it", key)
	}
	return s
}

func (c *checker) metadata(to *slipway.EntityMetadata, m map[string]any) {
	to.Name = c.required(m, "name", "metadata.name")
	to.Namespace = c.optional(m, "namespace")
	to.Title = c.optional(m, "title")
	to.Description = c.optional(m, "description")
	to.Labels = c.texts(m, "labels", func(key, v string) {
		if v != "" && (len(v) > 63 || !wordPattern.MatchString(v)) {
			c.faultf("label '%s' has a value that is not letters, digits, dash, underscore or dot, at most 63", clip(key))
		}
	})
	to.Annotations = c.texts(m, "annotations", func(string, string) {})
	switch list := m["tags"].(type) {
	case nil:
	case []any:
		for _, v := range list {
			tag, ok := v.(string)
			if !ok || len(tag) > 63 || !tagPattern.MatchString(tag) {
				c.faultf("tag %s must be lower-case letters, digits, : + # and single dashes, at most 63", quoted(v))
				continue
			}
			to.Tags = append(to.Tags, tag)
		}
	default:
		c.faultf("field 'metadata.tags' must be a list")
	}
	switch list := m["links"].(type) {
	case nil:
	case []any:
		for i, v := range list {
			to.Links = append(to.Links, c.link(fmt.Sprintf("metadata.links[%d]", i), v))
		}
	default:
		c.faultf("field 'metadata.links' must be a list")
	}
	for key, v := range m {
		switch key {
		case "name", "namespace", "title", "description", "labels", "annotations", "tags", "links":
		case "uid", "etag": // what an export of the catalog holds; the catalog sets its own
		default:
			if to.Extra == nil {
				to.Extra = map[string]any{}
			}
			to.Extra[key] = v
		}
	}
}

func (c *checker) link(path string, v any) (l slipway.EntityLink) {
	m, ok := v.(map[string]any)
	if !ok {
		c.faultf("field '%s' must be a map with a url", path)
		return l
	}
	l.URL = c.required(m, "url", path+".url")
	if u, err := url.Parse(l.URL); l.URL != "" && (err != nil || u.Scheme == "") {
		c.faultf("field '%s.url' is no address", path)
	} else if err == nil && strings.EqualFold(u.Scheme, "javascript") {
		c.faultf("field '%s.url' is a script; write an address", path)
	}
	for key, to := range map[string]*string{"title": &l.Title, "icon": &l.Icon, "type": &l.Type} {
		switch s := m[key].(type) {
		case nil:
		case string:
			*to = s
		default:
			c.faultf("field '%s.%s' must be a text", path, key)
		}
	}
	return l
}

// texts reads a map of texts with keys of the form [domain/]name.
func (c *checker) texts(m map[string]any, field string, check func(key, value string)) map[string]string {
	raw, ok := m[field].(map[string]any)
	if !ok {
		if m[field] != nil {
			c.faultf("field 'metadata.%s' must be a map", field)
		}
		return nil
	}
	texts := make(map[string]string, len(raw))
	for _, key := range sortedKeys(raw) {
		prefix, name, slash := strings.Cut(key, "/")
		if !slash {
			prefix, name = "", key
		}
		if len(name) > 63 || !wordPattern.MatchString(name) || slash && (len(prefix) > 253 || !subdomainPattern.MatchString(prefix)) {
			c.faultf("the key %q of metadata.%s is not of the form name or domain/name", clip(key), field)
			continue
		}
		v, ok := raw[key].(string)
		if !ok {
			c.faultf("field 'metadata.%s.%s' must be a text; put quotes around it", field, key)
			continue
		}
		check(key, v)
		texts[key] = v
	}
	return texts
}

func quoted(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(clip(s))
	}
	return clip(fmt.Sprint(v))
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
