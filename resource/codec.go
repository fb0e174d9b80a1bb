package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/secret"
)

// Version is the version of the envelope.
const Version = 1

// Input is one document as it came in.
type Input struct {
	Kind     string          // as the envelope or the document says; "" when neither does
	Document json.RawMessage // without the envelope
	Place    string          // JSON pointer to it in what was sent, "" for all of it

	faults []slipway.Detail // found in reading it, to be told with all others; without a Document nothing else can be said of it
}

var envelopeKeys = []string{"version", "kind", "data"}

// Read takes what was sent apart: a bare document, an envelope {"version":1,"kind":…,"data":{…}|[…]}, an array of these, or one of these a line. A document that
// cannot be read is Apply's to report, together with the faults of all others. More documents than one call may bring are TooLarge: they are counted while they are
// read, because many small ones take far more memory than their text.
func Read(raw []byte) ([]Input, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return nil, slipway.Errorf(slipway.Invalid, "the body is empty; send a document, or an envelope with a version and data")
	}
	if !json.Valid(raw) && raw[0] == '{' && bytes.IndexByte(raw, '\n') > 0 {
		return readLines(raw)
	}
	if depth(raw) > maxDepth {
		return nil, slipway.Errorf(slipway.Invalid, "the body is nested deeper than %d levels", maxDepth)
	}
	if !json.Valid(raw) {
		return nil, slipway.Errorf(slipway.Invalid, "the body is no well-formed JSON")
	}
	if raw[0] != '[' {
		return readOne(raw, "")
	}
	list, err := elements(raw)
	if err != nil {
		return nil, err
	}
	var inputs []Input
	for i, item := range list {
		in, err := readOne(item, fmt.Sprintf("/%d", i))
		if err != nil {
			return nil, err
		}
		if inputs = append(inputs, in...); len(inputs) > maxChanges {
			return nil, tooMany()
		}
	}
	return inputs, nil
}

func readLines(raw []byte) ([]Input, error) {
	var inputs []Input
	n := 0
	for line := range bytes.Lines(raw) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		place := fmt.Sprintf("/%d", n)
		n++
		in := []Input{unread(place, "this line is no well-formed JSON document")}
		if depth(line) <= maxDepth && json.Valid(line) {
			var err error
			if in, err = readOne(line, place); err != nil {
				return nil, err
			}
		}
		if inputs = append(inputs, in...); len(inputs) > maxChanges {
			return nil, tooMany()
		}
	}
	return inputs, nil
}

// elements takes a list, which is well-formed JSON, apart.
func elements(list json.RawMessage) (all []json.RawMessage, err error) {
	d := json.NewDecoder(bytes.NewReader(list))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	for d.More() {
		if len(all) == maxChanges {
			return nil, tooMany()
		}
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}

func tooMany() error {
	return slipway.Errorf(slipway.TooLarge, "at most %d documents at once; send them in several calls", maxChanges)
}

// unread stands for a document that cannot be read.
func unread(place, text string) Input {
	return Input{Place: place, faults: []slipway.Detail{{Field: place, Code: slipway.Invalid, Message: text}}}
}

// readOne reads an envelope or a bare document.
func readOne(raw json.RawMessage, place string) ([]Input, error) {
	o, err := parse(raw)
	if err != nil {
		return []Input{unread(place, err.Error())}, nil
	}
	kind := ""
	if given := o.values["kind"]; given != nil {
		var ok bool
		if kind, ok = o.string("kind"); !ok {
			return []Input{unread(place+"/kind", "must be the name of a kind")}, nil
		}
	}
	data, envelope := o.values["data"]
	if !envelope {
		if v, given := o.values["version"]; given && len(o.keys) == 1 {
			return []Input{unread(place+"/data", "is missing beside version "+clip(string(v)))}, nil
		}
		return []Input{{Kind: kind, Document: raw, Place: place}}, nil
	}
	if v, given := o.values["version"]; !given || string(v) != "1" {
		return nil, slipway.Errorf(slipway.Invalid, `the envelope must say "version": 1, the number; this is the only version there is`).
			WithDetails(slipway.Detail{Field: "version", Code: slipway.Invalid, Message: "must be 1"})
	}
	inputs := []Input{}
	if bytes.TrimSpace(data)[0] != '[' {
		inputs = append(inputs, readData(kind, data, place+"/data"))
	} else {
		list, err := elements(data)
		if err != nil {
			return nil, err
		}
		for i, item := range list {
			inputs = append(inputs, readData(kind, item, fmt.Sprintf("%s/data/%d", place, i)))
		}
	}
	for _, key := range o.keys {
		if slices.Contains(envelopeKeys, key) {
			continue
		}
		stray := unread(place+"/"+pointerKey(key), "an envelope has version, kind and data, and nothing else")
		if len(inputs) == 0 {
			inputs = append(inputs, stray)
			continue
		}
		inputs[0].faults = append(inputs[0].faults, stray.faults...)
	}
	return inputs, nil
}

func readData(kind string, raw json.RawMessage, place string) Input {
	if bytes.TrimSpace(raw)[0] != '{' {
		return unread(place, "must be an object")
	}
	return Input{Kind: kind, Document: raw, Place: place}
}

// unfit is the error for documents that do not fit; nil without faults. At most 100 are told.
func unfit(faults []slipway.Detail) error {
	if len(faults) == 0 {
		return nil
	}
	text := "the document does not fit"
	if len(faults) == 1 {
		text = strings.TrimPrefix(faults[0].Field+": "+faults[0].Message, ": ")
	} else {
		text += fmt.Sprintf(" in %d places; see details", len(faults))
	}
	for i := range faults {
		if faults[i].Field == "" {
			faults[i].Field = "/" // of the whole body
		}
	}
	return slipway.Errorf(slipway.Invalid, "%s", text).WithDetails(faults[:min(len(faults), 100)]...)
}

// written is a document that was read, checked and made ready to be stored.
type written struct {
	id      string
	t       *Type
	labels  map[string]string
	shown   []byte            // as readers see it
	stored  []byte            // the column doc
	secrets map[string]string // by joined path; only those that are set
	whole   []byte            // with secrets, for those that use it

	warnings []string
}

// read makes a document ready. old is what is stored, nil for nothing; explicit holds the secret paths that a patch set to null.
func (k *Kind) read(raw json.RawMessage, id string, old *row, oldSecrets map[string]string, cleared [][]string) (*written, []slipway.Detail) {
	var faults []slipway.Detail
	fault := func(field, format string, args ...any) {
		faults = append(faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
	}
	if len(raw) > maxDocument {
		fault("", "is larger than %d bytes", maxDocument)
		return nil, faults
	}
	tree, err := parse(raw)
	if err != nil {
		fault("", "%v", err)
		return nil, faults
	}
	w := &written{id: id, labels: map[string]string{}, secrets: map[string]string{}}
	if given, ok := tree.string("id"); tree.values["id"] != nil && (!ok || given != id) {
		fault("/id", "must be %q, as the address says", id)
	}
	if given, ok := tree.string("kind"); tree.values["kind"] != nil && (!ok || given != k.Name) {
		fault("/kind", "must be %q", k.Name)
	}
	if given := tree.values["labels"]; given != nil && string(given) != "null" {
		if json.Unmarshal(given, &w.labels) != nil || len(w.labels) > 64 {
			fault("/labels", "must be an object of at most 64 texts")
			w.labels = map[string]string{}
		}
	}
	if w.t = k.typeOf(tree, fault); w.t == nil {
		return nil, faults
	}
	if old != nil && old.typ != w.t.Symbol {
		fault("/type", "is %q and cannot change; delete the document and make another", old.typ)
		return nil, faults
	}
	if given := tree.values["typeVersion"]; w.t.Version > 1 && string(given) != strconv.Itoa(w.t.Version) {
		w.warnings = append(w.warnings, fmt.Sprintf("it is of an earlier typeVersion, which is still taken; the present one is %d", w.t.Version))
	}
	if w.t.Deprecated != "" {
		w.warnings = append(w.warnings, fmt.Sprintf("the type %s is deprecated; %s", w.t.Symbol, w.t.Deprecated))
	}
	if !k.upgrade(w.t, tree, fault) {
		return nil, faults
	}
	base, own := keysOf(k.Base), keysOf(w.t.Fields)
	for _, key := range w.t.readOnly { // what was read may be sent back as it is
		tree.delete(key)
	}
	if k.Source != nil && len(w.labels) > 0 {
		fault("/labels", "are not kept for %s", k.Name)
	}
	own = slices.DeleteFunc(own, func(key string) bool { return slices.Contains(base, key) || slices.Contains(w.t.readOnly, key) })
	for _, key := range slices.Clone(tree.keys) {
		if !slices.Contains(general, key) && !slices.Contains(base, key) && !slices.Contains(own, key) {
			fault("/"+pointerKey(key), "there is no such field; %s has %s", symbolText(k, w.t), strings.Join(slices.Concat(base, own), ", "))
			tree.delete(key)
		}
	}
	for _, path := range w.t.secrets {
		at := strings.Join(path, ".")
		value := tree.at(path)
		var text string
		switch {
		case string(value) == "null" || slices.ContainsFunc(cleared, func(p []string) bool { return slices.Equal(p, path) }):
			tree.put(path, nil)
			continue
		case value != nil && json.Unmarshal(value, &text) != nil:
			fault("/"+strings.Join(path, "/"), "must be text")
			tree.put(path, nil)
			continue
		}
		kept := value == nil || text == secret.Redacted
		if kept {
			text = oldSecrets[at]
		}
		if text == "" {
			if kept && value != nil {
				fault("/"+strings.Join(path, "/"), "is %s, and nothing is stored that this could keep; give the secret", redacted)
			}
			tree.put(path, nil)
			continue
		}
		w.secrets[at] = text
		tree.put(path, quote(text))
	}
	shared, more := decode(tree, k.Base, base)
	faults = append(faults, more...)
	fields, more := decode(tree, w.t.Fields, own)
	faults = append(faults, more...)
	if len(faults) > 0 {
		return nil, faults
	}
	for _, key := range fields.keys {
		shared.set(key, fields.values[key])
	}
	hide := func(o *object, value func(at string) json.RawMessage) {
		for _, path := range w.t.secrets {
			if at := strings.Join(path, "."); w.secrets[at] != "" {
				o.put(path, value(at))
			} else if o.at(path) != nil {
				o.put(path, nil)
			}
		}
	}
	hide(shared, func(string) json.RawMessage { return redacted })
	w.shown = k.document(w.id, w.t, w.labels, shared)
	w.stored = w.shown
	if w.t.Save != nil {
		saved, err := w.t.Save(maps.Clone(shared.values))
		if err != nil {
			fault("", "%v", err)
			return nil, faults
		}
		w.stored = encode(saved)
	}
	hide(shared, func(at string) json.RawMessage { return quote(w.secrets[at]) })
	w.whole = k.document(w.id, w.t, w.labels, shared)
	if k.Warn != nil {
		w.warnings = append(w.warnings, k.Warn(w.whole)...)
	}
	return w, nil
}

func symbolText(k *Kind, t *Type) string {
	if t.Symbol == "" {
		return k.Name
	}
	return t.Symbol
}

// typeOf looks the symbol up in the kind's own list.
func (k *Kind) typeOf(tree *object, fault func(string, string, ...any)) *Type {
	symbol, ok := tree.string("type")
	if given := tree.values["type"]; given == nil && (len(k.Types) == 0 || k.Types[0].Symbol != "") {
		fault("/type", "is missing; %s knows %s", k.Name, k.symbols())
		return nil
	} else if given != nil && !ok {
		fault("/type", "must be text; %s knows %s", k.Name, k.symbols())
		return nil
	}
	t, known := k.symbol(symbol)
	if !known {
		fault("/type", "there is no type %q; %s knows %s", clip(symbol), k.Name, k.symbols())
		return nil
	}
	return t
}

// upgrade brings a document of an earlier typeVersion to the present one.
func (k *Kind) upgrade(t *Type, tree *object, fault func(string, string, ...any)) bool {
	version := 1
	if given := tree.values["typeVersion"]; given != nil && (json.Unmarshal(given, &version) != nil || version < 1 || version > t.Version) {
		fault("/typeVersion", "must be a number from 1 to %d", t.Version)
		return false
	}
	if version == t.Version {
		return true
	}
	var document map[string]any
	if err := json.Unmarshal(tree.bytes(), &document); err != nil {
		fault("", "%v", err)
		return false
	}
	for ; version < t.Version; version++ {
		t.Upgrade[version-1](document)
	}
	upgraded, err := parse(encode(document))
	if err != nil {
		fault("", "%v", err)
		return false
	}
	*tree = *upgraded
	return true
}

// document writes a document with its general keys first.
func (k *Kind) document(id string, t *Type, labels map[string]string, fields *object) []byte {
	o := newObject()
	o.text("id", id)
	if t.Symbol != "" {
		o.text("type", t.Symbol)
	}
	if t.Version > 1 {
		o.set("typeVersion", encode(t.Version))
	}
	if len(labels) > 0 {
		o.set("labels", encode(labels))
	}
	for _, key := range fields.keys {
		o.set(key, fields.values[key])
	}
	return o.bytes()
}

// show makes a document of a row. What was stored by this version of its type, as it is, is passed on as it is.
func (k *Kind) show(r *row) ([]byte, error) {
	if t, ok := k.symbol(r.typ); ok && t.Load == nil && r.typeVersion == t.Version {
		return r.doc, nil
	}
	return k.restore(r, nil)
}

// restore makes a document of a row, with secrets in their places as they were stored: an upgrade moves them with the rest.
func (k *Kind) restore(r *row, secrets map[string]string) ([]byte, error) {
	t, ok := k.symbol(r.typ)
	if !ok {
		return nil, slipway.Errorf(slipway.Unsupported, "%s/%s has the type %q, which this build does not have; enable the blueprint or provider that brings it, or delete the document",
			k.Name, r.id, r.typ)
	}
	fields, err := parse(r.doc)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: the stored document %w", k.Name, r.id, err)
	}
	if t.Load != nil {
		loaded, err := t.Load(fields.values)
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", k.Name, r.id, err)
		}
		order := slices.Concat(keysOf(k.Base), keysOf(t.Fields))
		fields = newObject()
		for _, key := range slices.SortedFunc(maps.Keys(loaded), func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) }) {
			fields.set(key, unescape(loaded[key]))
		}
	}
	drop := func() {
		for _, key := range general {
			fields.delete(key)
		}
	}
	drop()
	for at, text := range secrets {
		fields.put(strings.Split(at, "."), quote(text))
	}
	if r.typeVersion < t.Version {
		if r.typeVersion > 1 {
			fields.set("typeVersion", encode(r.typeVersion))
		}
		k.upgrade(t, fields, func(string, string, ...any) {})
		drop()
	}
	labels := map[string]string{}
	if err := json.Unmarshal(r.labels, &labels); err != nil {
		return nil, err
	}
	return k.document(r.id, t, labels, fields), nil
}

// secretsOf gives a row's secrets by the paths that its type has now.
func (k *Kind) secretsOf(r *row, stored map[string]string) (map[string]string, error) {
	t, ok := k.symbol(r.typ)
	if !ok || r.typeVersion == t.Version {
		return stored, nil
	}
	whole, err := k.restore(r, stored)
	if err != nil {
		return nil, err
	}
	tree, err := parse(whole)
	if err != nil {
		return nil, err
	}
	secrets := map[string]string{}
	for _, path := range t.secrets {
		var text string
		if json.Unmarshal(tree.at(path), &text) == nil && text != "" {
			secrets[strings.Join(path, ".")] = text
		}
	}
	return secrets, nil
}

// unescape writes <, > and & as they are: json.Marshal in a Save or Load escapes them, and the same document must have the same bytes.
func unescape(raw json.RawMessage) json.RawMessage {
	if !bytes.Contains(raw, []byte(`\u00`)) {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' || i+1 == len(raw) {
			out = append(out, raw[i])
			continue
		}
		if i+6 <= len(raw) {
			if c, ok := htmlEscapes[string(raw[i:i+6])]; ok {
				out = append(out, c)
				i += 5
				continue
			}
		}
		out = append(out, raw[i], raw[i+1])
		i++
	}
	return out
}

var htmlEscapes = map[string]byte{`\u003c`: '<', `\u003e`: '>', `\u0026`: '&'}

func pointerKey(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(clip(key))
}
