package catalog

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
)

// fields picks parts of an entity; nil takes all of it.
type fields []string

func parseFields(s string) (fields, error) {
	var f fields
	for _, p := range strings.Split(s, ",") {
		if p = strings.TrimSpace(p); p == "" {
			continue
		}
		if strings.ContainsAny(p, "[]") {
			return nil, slipway.Errorf(slipway.Invalid, "fields takes paths such as metadata.name; %q would pick from a list", clip(p))
		}
		f = append(f, p)
	}
	if len(f) > 100 {
		return nil, slipway.Errorf(slipway.Invalid, "fields takes at most 100 paths")
	}
	return f, nil
}

// of gives the document with only the fields; absent ones are left out.
func (f fields) of(doc json.RawMessage) (json.RawMessage, error) {
	if f == nil {
		return doc, nil
	}
	var tree map[string]any
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, path := range f {
		pick(tree, path, out)
	}
	return json.Marshal(out)
}

// write writes documents as a list.
func (f fields) write(b *bytes.Buffer, rows []entity.Row) error {
	f.grow(b, rows)
	b.WriteByte('[')
	for i, r := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := f.writeOne(b, r); err != nil {
			return err
		}
	}
	b.WriteByte(']')
	return nil
}

// grow makes room for rows that are written whole, and for what comes after them.
func (f fields) grow(b *bytes.Buffer, rows []entity.Row) {
	if len(f) > 0 {
		return
	}
	n := 1024
	for _, r := range rows {
		n += len(r.JSON) + len("null,")
	}
	b.Grow(n)
}

// writeOne writes a document; null for a row that has none.
func (f fields) writeOne(b *bytes.Buffer, r entity.Row) error {
	if r.JSON == nil {
		b.WriteString("null")
		return nil
	}
	doc, err := f.of(r.JSON)
	b.Write(doc)
	return err
}

// pick copies what stands at a path. A key may hold dots itself (metadata.annotations.github.com/project-slug): the longest one that
// is there counts.
func pick(from map[string]any, path string, into map[string]any) bool {
	if v, ok := from[path]; ok {
		into[path] = v
		return true
	}
	for end := strings.LastIndexByte(path, '.'); end > 0; end = strings.LastIndexByte(path[:end], '.') {
		key := path[:end]
		inner, ok := from[key].(map[string]any)
		if !ok {
			continue
		}
		if whole, there := into[key].(map[string]any); there {
			return pick(inner, path[end+1:], whole)
		}
		picked := map[string]any{}
		if pick(inner, path[end+1:], picked) {
			into[key] = picked
			return true
		}
	}
	return false
}
