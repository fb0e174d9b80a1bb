package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/slipway-platform/slipway"
)

// What a person wants to see of an answer, above its JSON: a table of the things of a list, the fields of one thing, and which sources cannot be trusted. Everything is
// text for the template, which escapes it.

// How much of an answer is shown so; its JSON is always whole.
const (
	maxShownRows    = 200 // of all tables of a page
	maxShownColumns = 8   // of a table whose operation names none
	maxShownFields  = 60  // of one thing
	maxShownTables  = 8
	maxCellText     = 120 // characters
	maxLinkText     = 40  // of addresses elsewhere, in a table
	maxFieldText    = 2000
)

// overview is what stands above the JSON of an answer.
type overview struct {
	Sources []staleSource
	Fields  []shownValue
	Tables  []shownTable
	List    bool // the answer is a list
}

type staleSource struct {
	Name, State, Class, Error string
	AsOf                      cell
}

type shownValue struct {
	Name  string
	Value cell
}

type shownTable struct {
	Caption string
	Columns []string
	Rows    [][]cell
	Left    int // rows that are only in the JSON
}

// cell is one value as people read it.
type cell struct {
	Text  string
	Exact string // what it is in full, where the text is shorter or in other words
	Link  string // on this server, or http and https elsewhere
	Class string
	Time  bool
}

// Elsewhere says whether a link leaves this server.
func (c cell) Elsewhere() bool { return !strings.HasPrefix(c.Link, "/") }

// overviewer reads answers of an operation; op is nil where there is none, or where it failed.
type overviewer struct {
	schemas huma.Registry
	op      *described
	*viewer
}

// read gives the overview of an answer. What is no JSON, or nested too deep, has none.
func (o overviewer) read(body []byte) (out overview) {
	var root any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if depth(body) > maxShownDepth || d.Decode(&root) != nil {
		return overview{}
	}
	var (
		schema  *huma.Schema
		columns []string
		title   = "List"
	)
	if o.op != nil {
		schema, columns, title = answerOf(o.op), o.op.Columns, o.op.Summary
	}
	if envelope, ok := root.(map[string]any); ok && envelope["data"] != nil { // of the data and tool dialects
		root, schema = envelope["data"], property(o.at(schema), "data")
	}
	rows := maxShownRows
	add := func(caption string, items []any, of *huma.Schema, columns []string) {
		if len(out.Tables) == maxShownTables {
			return
		}
		if t, ok := o.table(caption, items, of, columns, rows); ok {
			out.Tables = append(out.Tables, t)
			rows -= len(t.Rows)
		}
	}
	switch root := root.(type) {
	case []any:
		out.List = true
		add(title, root, schema, columns)
	case map[string]any:
		items, ok := root["items"].([]any)
		if out.List = ok; ok {
			add(title, items, property(o.at(schema), "items"), columns)
		}
		for _, key := range o.keys(schema, []map[string]any{root}) {
			items, ok := root[key].([]any)
			switch {
			case key == "pageInfo" || key == "items" && out.List:
			case ok && key == "sources" && out.List:
				out.Sources = o.stale(items)
			case ok && len(items) > 0 && !isScalar(items[0]):
				add(key, items, property(o.at(schema), key), nil)
			case len(out.Fields) < maxShownFields:
				out.Fields = append(out.Fields, o.fields(key, root[key], property(o.at(schema), key))...)
			}
		}
		out.Fields = out.Fields[:min(len(out.Fields), maxShownFields)]
	}
	return out
}

// answerOf is the schema of what an operation answers with; nil where it has none.
func answerOf(op *described) *huma.Schema {
	if res := op.Doc.Responses["200"]; res != nil && res.Content["application/json"] != nil {
		return res.Content["application/json"].Schema
	}
	return nil
}

// at follows a schema's reference.
func (o overviewer) at(schema *huma.Schema) *huma.Schema {
	for range 10 {
		if schema == nil || schema.Ref == "" {
			return schema
		}
		schema = o.schemas.SchemaFromRef(schema.Ref)
	}
	return nil
}

func property(schema *huma.Schema, name string) *huma.Schema {
	if schema == nil {
		return nil
	}
	return schema.Properties[name]
}

// keys are those that any of the things has, in the order in which their type declares them; what it does not declare comes after, by name.
func (o overviewer) keys(schema *huma.Schema, things []map[string]any) []string {
	here := map[string]bool{}
	for _, thing := range things {
		for key := range thing {
			here[key] = true
		}
	}
	var out []string
	if schema != nil && schema.Ref != "" {
		t := o.schemas.TypeFromRef(schema.Ref)
		for t != nil && t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t != nil && t.Kind() == reflect.Struct {
			for _, f := range reflect.VisibleFields(t) {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if here[name] {
					out = append(out, name)
					delete(here, name)
				}
			}
		}
	}
	rest := make([]string, 0, len(here))
	for key := range here {
		rest = append(rest, key)
	}
	slices.Sort(rest)
	return append(out, rest...)
}

// table shows a list of objects; not ok where it is none.
func (o overviewer) table(caption string, items []any, schema *huma.Schema, columns []string, rows int) (t shownTable, ok bool) {
	t.Caption = plain(caption, maxCellText)
	var of *huma.Schema
	if schema = o.at(schema); schema != nil {
		of = schema.Items
	}
	var things []map[string]any
	for _, item := range items[:min(len(items), rows)] {
		thing, ok := item.(map[string]any)
		if !ok {
			return t, false
		}
		things = append(things, thing)
	}
	if t.Left = len(items) - len(things); len(things) == 0 {
		return t, len(items) == 0
	}
	if inner := onlyKey(things); inner != "" { // Backstage's locations are in an object of their own
		for i, thing := range things {
			things[i], _ = thing[inner].(map[string]any)
		}
		of = property(o.at(of), inner)
	}
	t.Columns = o.columns(of, things, columns)
	template := o.thing(of)
	for _, thing := range things {
		row := make([]cell, len(t.Columns))
		for i, column := range t.Columns {
			row[i] = o.cell(column, value(thing, column), maxCellText)
		}
		if to := o.fill(template, thing); to != "" && len(row) > 0 {
			last := template[strings.LastIndexByte(template, '{')+1 : len(template)-1]
			at := max(0, slices.IndexFunc(t.Columns, func(c string) bool { return leaf(c) == last }))
			row[at].Link = to
		}
		t.Rows = append(t.Rows, row)
	}
	for i, column := range t.Columns {
		t.Columns[i] = plain(column, maxCellText)
	}
	return t, len(t.Columns) > 0
}

// onlyKey is the one key that all things have, where it holds an object; else "".
func onlyKey(things []map[string]any) string {
	only := ""
	for _, thing := range things {
		for key, v := range thing {
			if _, isObject := v.(map[string]any); !isObject || len(thing) != 1 || only != "" && only != key {
				return ""
			}
			only = key
		}
	}
	return only
}

// columns are those that the operation names, or the first fields that are scalars; of an object in a thing, what it is called. Those that are empty here are left out.
func (o overviewer) columns(schema *huma.Schema, things []map[string]any, named []string) (out []string) {
	filled := func(column string) bool {
		return slices.ContainsFunc(things, func(thing map[string]any) bool { return isScalar(value(thing, column)) })
	}
	for _, column := range named {
		if filled(column) {
			out = append(out, column)
		}
	}
	if len(out) > 0 {
		return out
	}
	keys := o.keys(schema, things)
	for _, key := range keys[:min(len(keys), maxShownRows)] {
		for _, column := range []string{key, key + ".name", key + ".title", key + ".id"} {
			if len(out) < maxShownColumns && (column == key || !strings.Contains(key, ".")) && filled(column) {
				out = append(out, column)
				break
			}
		}
	}
	return out
}

// value is what stands at a path of a thing; a key that holds dots is itself.
func value(thing map[string]any, path string) any {
	if v, ok := thing[path]; ok {
		return v
	}
	key, rest, ok := strings.Cut(path, ".")
	if inner, isObject := thing[key].(map[string]any); ok && isObject {
		return value(inner, rest)
	}
	return nil
}

func leaf(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

func isScalar(v any) bool {
	switch v := v.(type) {
	case string:
		return v != ""
	case json.Number, bool:
		return true
	}
	return false
}

// fields are the scalar at a key, or those of a list or an object there.
func (o overviewer) fields(key string, v any, schema *huma.Schema) (out []shownValue) {
	if isScalar(v) {
		return []shownValue{{plain(key, maxCellText), o.cell(key, v, maxFieldText)}}
	}
	if list, ok := v.([]any); ok {
		var texts []string
		for _, one := range list[:min(len(list), maxShownRows)] {
			if isScalar(one) {
				texts = append(texts, fmt.Sprint(one))
			}
		}
		if len(texts) > 0 {
			out = []shownValue{{plain(key, maxCellText), cell{Text: plain(strings.Join(texts, ", "), maxFieldText)}}}
		}
		return out
	}
	inner, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	for _, name := range o.keys(schema, []map[string]any{inner}) {
		if isScalar(inner[name]) {
			out = append(out, shownValue{plain(key+"."+name, maxCellText), o.cell(key+"."+name, inner[name], maxFieldText)})
		}
	}
	return out
}

// stale are the sources that cannot be trusted.
func (o overviewer) stale(sources []any) (out []staleSource) {
	for _, source := range sources[:min(len(sources), maxShownRows)] {
		source, _ := source.(map[string]any)
		text := func(key string) string { t, _ := source[key].(string); return plain(t, maxFieldText) }
		if state := text("state"); state != "" && state != "fresh" {
			name := strings.TrimSpace(text("provider") + " " + text("project"))
			out = append(out, staleSource{Name: name, State: state, Class: stateClass(state), Error: text("error"), AsOf: o.cell("asOf", source["asOf"], maxCellText)})
		}
	}
	return out
}

// stateName are the names of fields that hold a state.
var stateName = regexp.MustCompile(`(?i)(status|state)$`)

var hexID = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// cell shows a value. Texts come from anybody: what would turn or hide other text is written out.
func (o overviewer) cell(path string, v any, most int) (c cell) {
	switch v := v.(type) {
	case json.Number:
		c = cell{Text: plain(v.String(), most), Class: "n"}
		if seconds, err := v.Float64(); err == nil && strings.HasSuffix(path, "Seconds") && seconds >= 0 && seconds < 1e9 {
			c.Exact, c.Text = c.Text, (&slipway.Build{DurationSeconds: &seconds}).Took(time.Time{})
		}
		return c
	case bool:
		return cell{Text: strconv.FormatBool(v)}
	case string:
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return cell{Text: at.UTC().Format("2006-01-02 15:04:05 UTC"), Exact: v, Time: true}
		}
		c.Text = plain(v, most)
		switch name := leaf(path); {
		case stateName.MatchString(name):
			c.Class = "state " + stateClass(v)
		case most == maxCellText && hexID.MatchString(v):
			c.Text = v[:10]
		case name != "nextCursor" && name != "prevCursor": // these lead to pages of the list, not to things
			if c.Link = o.target(v, []string{name}); c.Link != "" && c.Elsewhere() && most == maxCellText {
				c.Text = plain(v, maxLinkText)
			}
		}
		if full := plain(v, maxFieldText); full != c.Text {
			c.Exact = full
		}
	}
	return c
}

// plain is a text without what would change how the text around it looks, and no longer than that many characters.
func plain(s string, most int) string {
	var b strings.Builder
	n := 0
	for i, r := range s {
		if n++; n > most {
			b.WriteString("…")
			break
		}
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			b.WriteRune(utf8.RuneError)
		case r == '\n' || r == '\t' || r == '\r':
			b.WriteByte(' ')
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// words are the parts of a field's name, between which a line may break.
func words(field string) []string { return wordOfField.FindAllString(field, -1) }

var wordOfField = regexp.MustCompile(`.[^A-Z.]*`)

// stateClass is how a state looks; the word itself is always there.
func stateClass(state string) string {
	switch strings.ToLower(state) {
	case "succeeded", "success", "finished", "completed", "delivered", "fresh", "ok":
		return "good"
	case "failed", "failure", "error", "timed_out", "dead", "discarded":
		return "bad"
	case "starting", "running", "pending", "in_progress", "processing", "stale", "retrying":
		return "busy"
	}
	return "other"
}

// thing is the path of the operation that reads one thing of a list: below the list, or one that answers with the type of the things.
func (o overviewer) thing(of *huma.Schema) string {
	if o.op == nil {
		return ""
	}
	if o.children != "" {
		return strings.TrimSuffix(o.path, "/") + "/{" + o.children + "}"
	}
	if of == nil || of.Ref == "" {
		return ""
	}
	var found []string
	for path, op := range o.reads {
		if answer := answerOf(op); answer != nil && answer.Ref == of.Ref && op.Method == http.MethodGet && strings.HasSuffix(path, "}") {
			found = append(found, path)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return slices.Min(found)
}

// fill writes the values of a thing into the path of its operation; "" where one is missing. Entities have theirs in metadata.
func (o overviewer) fill(template string, thing map[string]any) string {
	missing := template == ""
	to := pathParameter.ReplaceAllStringFunc(template, func(parameter string) string {
		name := parameter[1 : len(parameter)-1]
		v := value(thing, name)
		if v == nil {
			v = value(thing, "metadata."+name)
		}
		var text string
		switch v := v.(type) {
		case string:
			text = v
		case json.Number:
			text = v.String()
		}
		missing = missing || text == "" || len(text) > 600
		if fullRef.MatchString(text) {
			return text
		}
		return url.PathEscape(text)
	})
	if missing || unclean(to) {
		return ""
	}
	return to
}
