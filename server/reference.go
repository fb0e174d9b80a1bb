package server

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
)

// Manual is what only the command line knows of a build, for the reference.
type Manual struct {
	Commands *cobra.Command // the root of all commands
	Config   string         // the reference of the configuration, in Markdown
	Keys     []ConfigKey
}

// ConfigKey is a key of the configuration.
type ConfigKey struct{ Path, Default, Text string }

// described is an operation with its description.
type described struct {
	Blueprint, ID, Method, Path, Summary, Text, Permission, Stability string

	OnObject bool
	Columns  []string
	Doc      *huma.Operation
}

// Open says whether anybody may call it.
func (d *described) Open() bool { return d.Permission == blueprint.Public }

// Opens says whether a browser can be sent there.
func (d *described) Opens() bool {
	return d.Method == http.MethodGet && !strings.Contains(d.Path, "{") && !slices.ContainsFunc(d.Doc.Parameters, func(p *huma.Param) bool { return p.Required })
}

// note keeps an operation for the reference and for pages of answers.
func (s *Server) note(d *described) {
	if s.described == nil {
		s.described, s.reads = map[string]*described{}, map[string]*described{}
	}
	if s.described[d.ID] = d; d.Method == http.MethodGet {
		s.reads[d.Path] = d
	}
}

// child gives the parameter of the operation that reads one thing of a list: "id" for /api/tokens where there is GET /api/tokens/{id}.
func (s *Server) child(list string) string {
	for path := range s.reads {
		if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(list, "/")+"/{"); ok && strings.IndexByte(rest, '}') == len(rest)-1 {
			return strings.TrimSuffix(rest, "}")
		}
	}
	return ""
}

// reference is what /docs shows, made from the declarations when it is first asked for: nothing in it changes while the server runs.
type reference struct {
	parts       []part
	operations  []*described
	permissions []auth.Permission
	events      []shownEvent
	commands    []shownCommand
	schedules   []shownSchedule
	jobs        []blueprint.Job
	config      template.HTML
	pages       map[string]page // of the blueprints, by path below /docs
	entries     []entry         // what a search finds
}

// part is what one blueprint brings.
type part struct {
	blueprint.Blueprint
	Operations []*described
	Events     []shownEvent
	Keys       []ConfigKey
	Commands   []shownCommand
	Schedules  []shownSchedule
	Kinds      []shownKind
	Proxies    []blueprint.Proxy
	Tables     []string
}

type (
	shownEvent struct {
		event.Type
		Schema string
	}
	shownCommand struct {
		Use, Short, Long, Example string
		Flags                     []named
	}
	shownSchedule struct{ Name, When, Text string }
	shownKind     struct {
		Name, Text string
		Types      []string
	}
	named struct{ Name, Text string }
	page  struct {
		Title, Version, Query string
		Body                  template.HTML
	}
)

// Anchor names an event of one source in an address.
func (e shownEvent) Anchor() string { return e.Name + strings.ReplaceAll(e.Source, "/", "-") }

// Anchor names a command in an address.
func (c shownCommand) Anchor() string {
	words := strings.Fields(c.Use)
	i := slices.IndexFunc(words, func(w string) bool { return strings.ContainsAny(w[:1], "[<-") || w == strings.ToUpper(w) })
	if i >= 0 {
		words = words[:i]
	}
	return strings.Join(words, "-")
}

func markdown(text string) template.HTML {
	var out bytes.Buffer
	if err := goldmark.New(goldmark.WithExtensions(extension.GFM)).Convert([]byte(text), &out); err != nil {
		return template.HTML(template.HTMLEscapeString(text))
	}
	return template.HTML(out.String()) // goldmark lets no HTML of the text through, nor addresses that are scripts
}

func indented(v any) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSpace(out.String())
}

// makeReference reads the declarations.
func (s *Server) makeReference() *reference {
	ref := &reference{pages: map[string]page{}}
	manual := Manual{}
	if s.manual != nil {
		manual = s.manual()
	}
	own := map[string]bool{}
	for _, b := range s.blueprints {
		p := part{Blueprint: b}
		for _, op := range b.Operations {
			p.Operations = append(p.Operations, s.described[op.ID])
		}
		types := b.EventTypes()
		if b.Name == Base.Name && !slices.ContainsFunc(s.blueprints, func(b blueprint.Blueprint) bool { return event.SourceOf(b.Name) == event.EntityTypes[0].Source }) {
			types = append(types, event.EntityTypes...) // who puts entities sends them, also without the catalog
		}
		for _, t := range types {
			one := shownEvent{Type: t}
			if t.Data != nil {
				if raw, err := blueprint.EventSchema("/api/events/schemas/"+t.Name, []event.Type{t}); err == nil {
					one.Schema = indented(raw)
				}
			}
			p.Events = append(p.Events, one)
		}
		for _, k := range manual.Keys {
			if section, _, _ := strings.Cut(k.Path, "."); b.Config != nil && section == sectionKey(b) {
				p.Keys = append(p.Keys, k)
			}
		}
		for _, command := range b.Commands {
			c := command(&blueprint.Client{})
			own[c.Name()] = true
			if manual.Commands != nil {
				for _, full := range manual.Commands.Commands() {
					if full.Name() == c.Name() {
						c = full
					}
				}
			}
			p.Commands = append(p.Commands, commandsOf(c)...)
		}
		for _, one := range b.Schedules {
			when := one.Cron + " UTC"
			if one.Cron == "" {
				when = "every " + slipway.Duration(one.Every).String()
			}
			p.Schedules = append(p.Schedules, shownSchedule{one.Name, when, one.Text})
		}
		for _, k := range b.Kinds {
			one := shownKind{Name: k.Kind.Name, Text: k.Kind.Text}
			for _, t := range k.Kind.Types {
				if t.Symbol != "" {
					one.Types = append(one.Types, t.Symbol)
				}
			}
			p.Kinds = append(p.Kinds, one)
		}
		for _, proxy := range s.config.proxies(s.blueprints) {
			declared := slices.ContainsFunc(b.Proxies, func(d blueprint.Proxy) bool { return d.Name == proxy.Name })
			if declared || b.Name == Base.Name && !s.declaresProxy(proxy.Name) {
				p.Proxies = append(p.Proxies, proxy)
				if proxy.Permission == ownPermission(proxy.Name) {
					p.Permissions = append(slices.Clip(p.Permissions), proxyPermission(proxy))
				}
			}
		}
		for _, d := range b.Databases {
			for _, t := range d.Tables {
				p.Tables = append(p.Tables, t+" in "+d.Name)
			}
		}
		for _, pg := range b.Pages {
			ref.pages[b.Name+"/"+pg.Slug] = page{Title: pg.Title, Version: s.version, Body: markdown(pg.Text)}
		}
		ref.parts = append(ref.parts, p)
		ref.operations = append(ref.operations, p.Operations...)
		ref.permissions = append(ref.permissions, p.Permissions...)
		ref.events = append(ref.events, p.Events...)
		ref.schedules = append(ref.schedules, p.Schedules...)
		ref.jobs = append(ref.jobs, p.Jobs...)
		if manual.Commands == nil {
			ref.commands = append(ref.commands, p.Commands...)
		}
	}
	if manual.Commands != nil {
		ref.commands = commandsOf(manual.Commands)
	}
	if manual.Config != "" {
		ref.config = markdown(manual.Config)
	}
	slices.SortFunc(ref.permissions, func(a, b auth.Permission) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(ref.events, func(a, b shownEvent) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Source, b.Source)) })
	ref.index(manual.Keys)
	return ref
}

func (s *Server) declaresProxy(name string) bool {
	return slices.ContainsFunc(s.blueprints, func(b blueprint.Blueprint) bool {
		return slices.ContainsFunc(b.Proxies, func(p blueprint.Proxy) bool { return p.Name == name })
	})
}

// commandsOf lists a command and those below it, those that only group others left out.
func commandsOf(c *cobra.Command) (out []shownCommand) {
	if c.Hidden {
		return nil
	}
	if c.HasParent() || !c.HasSubCommands() {
		one := shownCommand{Use: c.UseLine(), Short: c.Short, Long: strings.TrimSpace(cmp.Or(c.Long, c.Short)), Example: strings.TrimRight(c.Example, "\n ")}
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" {
				return
			}
			name := "--" + f.Name
			if f.Shorthand != "" {
				name = "-" + f.Shorthand + ", " + name
			}
			one.Flags = append(one.Flags, named{name, f.Usage})
		})
		out = append(out, one)
	}
	for _, below := range c.Commands() {
		out = append(out, commandsOf(below)...)
	}
	return out
}

// entry is something that a search finds.
type entry struct {
	URL, Title, Sort, Text string

	title, all string // in small letters
}

// index lists what a search finds.
func (ref *reference) index(keys []ConfigKey) {
	add := func(sort, title, to, text, more string) {
		ref.entries = append(ref.entries, entry{URL: to, Title: title, Sort: sort, Text: text, title: strings.ToLower(title), all: strings.ToLower(title + " " + text + " " + more)})
	}
	for _, p := range ref.parts {
		add("blueprint", p.Name, "/docs/"+p.Name, p.Summary, "")
		for _, op := range p.Operations {
			add("operation", op.Method+" "+op.Path, "/docs/operations/"+op.ID, op.Summary, op.ID+" "+op.Doc.Description)
		}
		for _, k := range p.Kinds {
			add("document", k.Name, "/docs/"+p.Name+"#documents", k.Text, strings.Join(k.Types, " "))
		}
		for _, proxy := range p.Proxies {
			add("proxy", "/api/proxy/"+proxy.Name+"/", "/docs/"+p.Name+"#proxies", proxy.Text, "")
		}
		for _, pg := range p.Pages {
			add("page", pg.Title, "/docs/"+p.Name+"/"+pg.Slug, p.Summary, pg.Text)
		}
	}
	for _, p := range ref.permissions {
		add("permission", p.Name, "/docs/permissions#"+p.Name, p.Text, "")
	}
	for _, e := range ref.events {
		add("event", e.Name, "/docs/events#"+e.Anchor(), e.Text, "")
	}
	for _, c := range ref.commands {
		add("command", c.Use, "/docs/commands#"+c.Anchor(), c.Short, c.Long)
	}
	for _, one := range ref.schedules {
		add("schedule", one.Name, "/docs/schedules#"+one.Name, one.Text, "")
	}
	for _, j := range ref.jobs {
		add("job", j.Kind, "/docs/schedules#"+j.Kind, j.Text, "")
	}
	for _, k := range keys {
		add("configuration", k.Path, "/docs/config", k.Text, "")
	}
}

const (
	maxFound = 50  // results of a search
	maxWords = 8   // of a search that count
	maxQuery = 200 // bytes of a search that count
)

// search finds the entries that hold every word, those that hold them in their title first.
func (ref *reference) search(query string) (found []entry, more bool) {
	words := strings.Fields(strings.ToLower(query))
	if len(words) == 0 {
		return nil, false
	}
	words = words[:min(len(words), maxWords)]
	type ranked struct {
		entry
		rank int
	}
	var all []ranked
	for _, e := range ref.entries {
		rank := 0
		for _, w := range words {
			switch {
			case e.title == w:
			case strings.HasPrefix(e.title, w):
				rank++
			case strings.Contains(e.title, w):
				rank += 2
			case strings.Contains(e.all, w):
				rank += 10
			default:
				rank = -1
			}
			if rank < 0 {
				break
			}
		}
		if rank >= 0 {
			all = append(all, ranked{e, rank})
		}
	}
	slices.SortStableFunc(all, func(a, b ranked) int { return cmp.Or(a.rank-b.rank, len(a.title)-len(b.title)) })
	for _, r := range all[:min(len(all), maxFound)] {
		found = append(found, r.entry)
	}
	return found, len(all) > maxFound
}

// referencePages registers what is below /docs.
func (s *Server) referencePages() {
	made := sync.OnceValue(s.makeReference)
	show := func(name string, of func(ref *reference, r *http.Request) any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			data := of(made(), r)
			if data == nil {
				s.unknown(w, r)
				return
			}
			s.html(w, strictPolicy, name, data)
		}
	}
	type head = page
	titled := func(title string) head { return head{Title: title, Version: s.version} }
	s.mux.HandleFunc("GET /docs", show("index", func(ref *reference, _ *http.Request) any {
		return struct {
			head
			Operations []*described
			Blueprints []blueprint.Blueprint
			HasConfig  bool
		}{titled("Reference"), ref.operations, s.blueprints, ref.config != ""}
	}))
	s.mux.HandleFunc("GET /docs/operations", show("allOperations", func(ref *reference, _ *http.Request) any {
		return struct {
			head
			Groups []part
		}{titled("Operations"), ref.parts}
	}))
	s.mux.HandleFunc("GET /docs/operations/{id}", show("operation", func(_ *reference, r *http.Request) any {
		if op := s.described[r.PathValue("id")]; op != nil {
			return s.operationPage(op)
		}
		return nil
	}))
	s.mux.HandleFunc("GET /docs/permissions", show("allPermissions", func(ref *reference, _ *http.Request) any {
		return struct {
			head
			Permissions []auth.Permission
		}{titled("Permissions"), ref.permissions}
	}))
	s.mux.HandleFunc("GET /docs/events", show("allEvents", func(ref *reference, _ *http.Request) any {
		return struct {
			head
			Events []shownEvent
		}{titled("Events"), ref.events}
	}))
	s.mux.HandleFunc("GET /docs/commands", show("allCommands", func(ref *reference, _ *http.Request) any {
		return struct {
			head
			Commands []shownCommand
		}{titled("Commands"), ref.commands}
	}))
	s.mux.HandleFunc("GET /docs/schedules", show("allSchedules", func(ref *reference, _ *http.Request) any {
		return struct {
			head
			Schedules []shownSchedule
			Jobs      []blueprint.Job
		}{titled("Schedules and jobs"), ref.schedules, ref.jobs}
	}))
	s.mux.HandleFunc("GET /docs/config", show("text", func(ref *reference, _ *http.Request) any {
		if ref.config == "" {
			return nil
		}
		return page{Title: "Configuration", Version: s.version, Body: ref.config}
	}))
	s.mux.HandleFunc("GET /docs/search", show("search", func(ref *reference, r *http.Request) any {
		query := r.URL.Query().Get("q")
		if len(query) > maxQuery {
			query = query[:maxQuery]
		}
		query = strings.ToValidUTF8(query, "")
		found, more := ref.search(query)
		p := titled("Search")
		p.Query = query
		return struct {
			head
			Found []entry
			More  bool
		}{p, found, more}
	}))
	s.mux.HandleFunc("GET /docs/{page...}", s.partPage(made))
}

// partPage shows a blueprint's part of the reference, or a page of its own.
func (s *Server) partPage(made func() *reference) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ref, name := made(), strings.TrimSuffix(r.PathValue("page"), "/")
		if p, ok := ref.pages[name]; ok {
			s.html(w, strictPolicy, "text", p)
			return
		}
		for _, p := range ref.parts {
			if p.Name == name {
				s.html(w, strictPolicy, "blueprint", struct {
					page
					Part part
				}{page{Title: name, Version: s.version}, p})
				return
			}
		}
		s.unknown(w, r)
	}
}

type shownField struct {
	Name, Type, Text, Example string
	Required                  bool
}

// operationPage is what the page of one operation shows.
func (s *Server) operationPage(op *described) any {
	out := struct {
		page
		Operation         *described
		Parameters        []shownField
		Request, Response []shownField
		Example, Answer   string
		Statuses          []named
	}{page: page{Title: op.Summary, Version: s.version}, Operation: op}
	schemas := s.api.OpenAPI().Components.Schemas
	path, query := op.Path, url.Values{}
	for _, p := range op.Doc.Parameters {
		f := shownField{Name: p.Name, Type: typeOf(p.Schema) + " in the " + p.In, Text: p.Description, Required: p.Required, Example: exampleOf(p.Example, p.Schema)}
		out.Parameters = append(out.Parameters, f)
		switch p.In {
		case "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", cmp.Or(f.Example, "{"+p.Name+"}"))
		case "query":
			if p.Required {
				query.Set(p.Name, cmp.Or(f.Example, strings.Join(choices(p.Schema), ""), "…"))
			}
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	curl := "curl"
	if op.Method != http.MethodGet {
		curl += " -X " + op.Method
	}
	if !op.Open() {
		curl += ` -H "Authorization: Bearer $SLIPWAY_TOKEN"`
	}
	if body := op.Doc.RequestBody; body != nil && len(body.Content) > 0 {
		contentType := slices.Sorted(maps.Keys(body.Content))[0]
		media := body.Content[contentType]
		out.Request = fieldsOf(media.Schema, schemas, "", 0)
		if media.Example != nil {
			text, isText := media.Example.(string)
			if !isText {
				text = indented(media.Example)
			}
			curl += ` -H "Content-Type: ` + contentType + `" -d '` + strings.ReplaceAll(text, "'", `'\''`) + "'"
		}
	}
	out.Example = curl + " '" + s.externalURL() + path + "'"
	for _, status := range slices.Sorted(maps.Keys(op.Doc.Responses)) {
		res := op.Doc.Responses[status]
		out.Statuses = append(out.Statuses, named{status, res.Description})
		if status[0] != '2' {
			continue
		}
		for _, media := range res.Content {
			out.Response = fieldsOf(media.Schema, schemas, "", 0)
			if text, isText := media.Example.(string); isText {
				out.Answer = text
			} else if media.Example != nil {
				out.Answer = indented(media.Example)
			}
		}
	}
	return out
}

// exampleOf is an example of a parameter or field, as text; "" for none.
func exampleOf(example any, schema *huma.Schema) string {
	if example == nil && schema != nil && len(schema.Examples) > 0 {
		example = schema.Examples[0]
	}
	switch example := example.(type) {
	case nil:
		return ""
	case string:
		return example
	case []any:
		if len(example) == 0 {
			return ""
		}
		return fmt.Sprint(example[0])
	}
	text := indented(example)
	if strings.Contains(text, "\n") || !utf8.ValidString(text) || len(text) > 200 {
		return ""
	}
	return text
}

// typeOf says in a word what a value is.
func typeOf(s *huma.Schema) string {
	switch {
	case s == nil:
		return "anything"
	case s.Ref != "":
		return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case s.Type == huma.TypeArray:
		return "list of " + typeOf(s.Items)
	case len(s.Enum) > 0:
		return "one of " + strings.Join(choices(s), ", ")
	case s.Format != "":
		return s.Type + " (" + s.Format + ")"
	}
	return cmp.Or(s.Type, "anything")
}

// maxDepthShown is how deep the fields of a body are listed.
const maxDepthShown = 3

// fieldsOf lists the fields of a schema, with those of inner things behind a dot.
func fieldsOf(s *huma.Schema, schemas huma.Registry, prefix string, depth int) (out []shownField) {
	for range 10 {
		switch {
		case s == nil:
			return nil
		case s.Ref != "":
			s = schemas.SchemaFromRef(s.Ref)
			continue
		case s.Type == huma.TypeArray:
			s, prefix = s.Items, prefix+"[]."
			continue
		}
		break
	}
	if s == nil || depth > maxDepthShown {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		out = append(out, shownField{Name: prefix + name, Type: typeOf(p), Text: p.Description, Required: slices.Contains(s.Required, name), Example: exampleOf(nil, p)})
		inner := prefix + name
		if p.Type == huma.TypeArray && p.Items != nil {
			p, inner = p.Items, inner+"[]"
		}
		out = append(out, fieldsOf(p, schemas, inner+".", depth+1)...)
	}
	return out
}
