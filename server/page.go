package server

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/danielgtaylor/huma/v2"
)

// The pages of the server itself, and the page that a browser gets where it opens an address of the API. They are plain HTML: no script, nothing from elsewhere.

//go:embed ui/style.css
var style string

//go:embed ui/pages.html
var pagesHTML string

// strictPolicy lets a page have our style and forms to ourselves, and nothing else.
var strictPolicy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
}()

var pages = template.Must(template.New("pages").Funcs(template.FuncMap{
	"style": func() template.CSS { return template.CSS(style) }, "markdown": markdown, "json": indented, "lower": strings.ToLower, "words": words,
}).Parse(pagesHTML))

// formField is in a query that a form of a page sent: browsers send fields that were left empty too.
const formField = "_form"

// answerPage is what the page of an answer shows.
type answerPage struct {
	Title, Version string
	Query          string // of the search
	Method, Path   string
	Status         int
	Reason         string
	Operation      *described // nil where there is none
	Fields         []formInput
	SignIn         string        // where to sign in; empty: not offered, or no matter
	Unknown        bool          // nobody is believed, and sign-in is not offered
	Links          []pageLink    // further pages
	Overview       overview      // what a person looks for first
	Body           template.HTML // the same data
	RequestID      string        // of a failure
}

type pageLink struct{ URL, Text string }

// formInput is a field of the form for the query.
type formInput struct {
	Name, Text, Value string
	Choices           []string
	Required          bool
}

// pageOf gives what turns a JSON answer into a page of the same data, for the browser that made the request. nil: it stays as it is.
func (s *Server) pageOf(x *exchange, r *http.Request) func(status int, header http.Header, body []byte) []byte {
	path, query := r.URL.EscapedPath(), r.URL.Query()
	return func(status int, header http.Header, body []byte) []byte {
		op := s.described[x.operation]
		if op == nil && status < 400 {
			return nil
		}
		p := answerPage{Version: s.version, Method: http.MethodGet, Path: clip(path), Status: status, Reason: http.StatusText(status), Operation: op, Title: clip(path)}
		if op != nil {
			p.Title = op.Summary
			p.Fields = op.fields(query)
		}
		if status >= 400 {
			p.RequestID = x.id
		}
		if status == http.StatusUnauthorized && s.auth != nil {
			if s.auth.LoginOffered() {
				back := path
				if r.URL.RawQuery != "" {
					back += "?" + r.URL.RawQuery
				}
				p.SignIn = "/auth/login?return=" + url.QueryEscape(back)
			} else {
				p.Unknown = true
			}
		}
		v := &viewer{reads: s.reads, path: path, query: query}
		if op != nil {
			v.children = s.child(op.Path)
		}
		p.Body = v.page(body)
		o := overviewer{schemas: s.api.OpenAPI().Components.Schemas, viewer: v}
		if status < 400 {
			o.op = op
		}
		p.Overview = o.read(body)
		p.Links = append(linksOf(header), v.pages...)
		var out bytes.Buffer
		if err := pages.ExecuteTemplate(&out, "answer", p); err != nil {
			s.log.Error("a page cannot be shown", "path", x.path, "error", err)
			return nil
		}
		return out.Bytes()
	}
}

// withoutForm is the address of a form's query without the fields that were left empty; not ok when no form sent it.
func withoutForm(u *url.URL) (to string, ok bool) {
	query := u.Query()
	if !query.Has(formField) {
		return "", false
	}
	delete(query, formField)
	for name, values := range query {
		if query[name] = slices.DeleteFunc(values, func(v string) bool { return v == "" }); len(query[name]) == 0 {
			delete(query, name)
		}
	}
	to = u.EscapedPath()
	if len(query) > 0 {
		to += "?" + query.Encode()
	}
	return to, true
}

// linksOf reads the targets of a Link header that lie on this server.
func linksOf(header http.Header) (links []pageLink) {
	for _, m := range linkTarget.FindAllStringSubmatch(strings.Join(header.Values("Link"), ","), 10) {
		links = append(links, pageLink{m[1], m[2]})
	}
	return links
}

var linkTarget = regexp.MustCompile(`<(/[^/>][^>]*)>;\s*rel="(\w+)"`)

// viewer writes JSON as HTML: the same text, indented, with links where it names addresses, entities, things of a list and further pages.
type viewer struct {
	reads    map[string]*described // operations that read, by path
	path     string
	query    url.Values
	children string // parameter of the operation that reads one thing of this list; "": none
	pages    []pageLink

	out bytes.Buffer
}

// maxShownDepth is how deep what is nested is looked through for links; anything deeper is shown as it came.
const maxShownDepth = 200

// maxIndent is how far lines are moved to the right; deeper ones stay there.
const maxIndent = 40

func (v *viewer) page(body []byte) template.HTML {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if depth(body) > maxShownDepth || v.value(d, nil) != nil {
		return template.HTML(html.EscapeString(string(bytes.ToValidUTF8(body, []byte("\uFFFD")))))
	}
	return template.HTML(v.out.String()) // every text in it was escaped
}

// value writes the next value; at is where it stands, as keys and "" for places in lists.
func (v *viewer) value(d *json.Decoder, at []string) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch token := token.(type) {
	case json.Delim:
		return v.many(d, token, at)
	case string:
		v.text(token, at)
	case json.Number:
		v.link(token.String(), token.String(), "n", at)
	case bool:
		v.span("n", strconv.FormatBool(token))
	case nil:
		v.span("n", "null")
	}
	return nil
}

// many writes an object or a list, whose first bracket was read.
func (v *viewer) many(d *json.Decoder, open json.Delim, at []string) error {
	closing := "]"
	if open == '{' {
		closing = "}"
	}
	v.out.WriteString(open.String())
	for n := 0; d.More(); n++ {
		if n > 0 {
			v.out.WriteByte(',')
		}
		v.line(len(at) + 1)
		key := ""
		if open == '{' {
			token, err := d.Token()
			if err != nil {
				return err
			}
			key, _ = token.(string)
			v.span("k", quoted(key))
			v.out.WriteString(": ")
		}
		if err := v.value(d, append(slices.Clip(at), key)); err != nil {
			return err
		}
		if !d.More() {
			v.line(len(at))
		}
	}
	v.out.WriteString(closing)
	_, err := d.Token()
	return err
}

func (v *viewer) line(depth int) {
	v.out.WriteByte('\n')
	v.out.WriteString(strings.Repeat("  ", min(depth, maxIndent)))
}

func (v *viewer) span(class, text string) {
	fmt.Fprintf(&v.out, `<span class="%s">%s</span>`, class, html.EscapeString(text))
}

// quoted is a text as JSON has it. What would change how the text around it looks is escaped.
func quoted(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // memory takes it, and a text always encodes
	text := strings.TrimSuffix(b.String(), "\n")
	if !strings.ContainsFunc(text, formats) {
		return text
	}
	b.Reset()
	for _, r := range text {
		if formats(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func formats(r rune) bool {
	return r > 0x7e && r <= 0xffff && (unicode.Is(unicode.Cf, r) || unicode.IsControl(r))
}

func (v *viewer) text(s string, at []string) { v.link(s, quoted(s), "s", at) }

// link writes a text or a number, as a link where it leads somewhere.
func (v *viewer) link(s, shown, class string, at []string) {
	to, rel := v.target(s, at), ""
	if to == "" {
		v.span(class, shown)
		return
	}
	if to[0] != '/' {
		rel = ` rel="noopener noreferrer nofollow"`
	}
	fmt.Fprintf(&v.out, `<a class="%s" href="%s"%s>%s</a>`, class, html.EscapeString(to), rel, html.EscapeString(shown))
}

var fullRef = regexp.MustCompile(`^(api|component|domain|group|location|resource|system|template|user):([a-zA-Z0-9][a-zA-Z0-9._-]{0,62})/([a-zA-Z0-9][a-zA-Z0-9._-]{0,62})$`)

// target is where a text leads; "" where nowhere.
func (v *viewer) target(s string, at []string) string {
	key := ""
	if len(at) > 0 {
		key = at[len(at)-1]
	}
	switch {
	case s == "" || len(s) > 4096:
	case key == "nextCursor" || key == "prevCursor":
		query := url.Values{}
		for name, values := range v.query {
			if name != "pageNumber" && name != "offset" && name != "after" {
				query[name] = values
			}
		}
		query.Set("cursor", s)
		to := v.path + "?" + query.Encode()
		v.pages = append(v.pages, pageLink{to, map[string]string{"nextCursor": "next page", "prevCursor": "previous page"}[key]})
		return to
	case v.children != "" && key == v.children && (len(at) == 3 && at[1] == "" || len(at) == 2 && at[0] == ""): // {"items":[{"id":…}]} or [{"id":…}]
		return strings.TrimSuffix(v.path, "/") + "/" + url.PathEscape(s)
	case strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://"):
		if u, err := url.Parse(s); err == nil && u.Host != "" && u.User == nil {
			return u.String()
		}
	case strings.HasPrefix(s, "/api/") || strings.HasPrefix(s, "/data/") || strings.HasPrefix(s, "/components/") || strings.HasPrefix(s, "/docs/"):
		if u, err := url.Parse(s); err == nil && !unclean(u.EscapedPath()) && !strings.Contains(s, "{") {
			return u.String()
		}
	default:
		if m := fullRef.FindStringSubmatch(s); m != nil && v.reads["/api/catalog/entities/by-name/{kind}/{namespace}/{name}"] != nil {
			return "/api/catalog/entities/by-name/" + m[1] + "/" + m[2] + "/" + m[3]
		}
	}
	return ""
}

// fields are those of a form for the query of an operation, with what was asked now.
func (d *described) fields(query url.Values) (inputs []formInput) {
	for _, p := range d.Doc.Parameters {
		if p.In != "query" {
			continue
		}
		in := formInput{Name: p.Name, Text: p.Description, Required: p.Required, Choices: choices(p.Schema)}
		values := query[p.Name]
		if p.Schema != nil && p.Schema.Type == huma.TypeArray && p.Explode != nil && *p.Explode || len(values) == 0 {
			values = append(slices.Clone(values), "") // and one more
		}
		for i, value := range values {
			if in.Value = value; i > 0 {
				in.Text, in.Required = "", false
			}
			if len(in.Choices) > 0 && value != "" && !slices.Contains(in.Choices, value) {
				in.Choices = append(slices.Clone(in.Choices), value)
			}
			inputs = append(inputs, in)
		}
	}
	return inputs
}

// choices are the values that a parameter may have; nil where there is no list of them.
func choices(schema *huma.Schema) (out []string) {
	switch {
	case schema == nil:
	case schema.Type == huma.TypeBoolean:
		return []string{"true", "false"}
	case schema.Type == huma.TypeArray && schema.Items != nil:
		return choices(schema.Items)
	}
	if schema != nil {
		for _, v := range schema.Enum {
			out = append(out, fmt.Sprint(v))
		}
	}
	return out
}
