package server

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway/blueprint"
)

//go:embed ui/scalar.js.gz
var scalar []byte

// policy lets pages load nothing that is not ours. Scalar sets styles from its script, hence unsafe-inline for styles only.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{{.Title}} · Slipway</title>
<style>
:root { color-scheme: light dark; --line: #8884; --link: #0a66c2; }
@media (prefers-color-scheme: dark) { :root { --link: #6cb6ff; } }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 56rem; padding: 1.5rem; }
header { display: flex; gap: 1rem; align-items: baseline; border-bottom: 1px solid var(--line); margin-bottom: 1rem; flex-wrap: wrap; }
header strong { font-size: 1.2rem; }
a { color: var(--link); }
pre, code { font: 14px/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; padding: .8rem; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
</style>
</head>
<body>
<header><strong>Slipway</strong><span>{{.Version}}</span><a href="/">home</a><a href="/docs">reference</a><a href="/openapi.json">openapi.json</a></header>
<main>
{{.Body}}
</main>
</body>
</html>
`))

var referenceTemplate = template.Must(template.New("reference").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>API reference · Slipway</title>
</head>
<body>
<noscript>The reference needs JavaScript; the same is in <a href="/openapi.json">openapi.json</a>.</noscript>
<script id="api-reference" data-url="/openapi.json" data-configuration="{{.}}"></script>
<script src="/docs/scalar.js"></script>
</body>
</html>
`))

// referenceConfiguration keeps Scalar from asking hosts other than ours.
const referenceConfiguration = `{"withDefaultFonts":false,"telemetry":false,"hideClientButton":true,"agent":{"disabled":true},"mcp":{"disabled":true},"showDeveloperTools":"never","defaultOpenAllTags":false,"authentication":{"preferredSecurityScheme":"bearer"}}`

// pages registers what the server itself shows: description, reference, documentation, front page.
func (s *Server) pages() {
	// The description is made when it is first asked for: that takes longer than all else of a start, and nothing in it changes while the server runs.
	raw := sync.OnceValues(s.OpenAPI)
	s.mux.HandleFunc("GET /openapi.json", s.description("application/json", raw))
	s.mux.HandleFunc("GET /openapi.yaml", s.description("application/yaml", func() ([]byte, error) { return inYAML(raw) }))
	tag := `"` + strconv.FormatUint(xxhash.Sum64(scalar), 36) + `"`
	s.mux.HandleFunc("GET /docs/scalar.js", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Vary", "Accept-Encoding")
		if !acceptsGzip(r.Header.Get("Accept-Encoding")) {
			s.fail(w, r, errNeedsGzip)
			return
		}
		h.Set("ETag", tag)
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("Content-Encoding", "gzip")
		h.Set("Cache-Control", "public, max-age=3600")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(scalar))
	})
	s.mux.HandleFunc("GET /docs", func(w http.ResponseWriter, r *http.Request) {
		s.html(w, func(buf *bytes.Buffer) error { return referenceTemplate.Execute(buf, referenceConfiguration) })
	})
	rendered := map[string][2]any{}
	markdown := goldmark.New(goldmark.WithExtensions(extension.GFM))
	for _, b := range s.blueprints {
		for _, p := range b.Pages {
			var out bytes.Buffer
			if err := markdown.Convert([]byte(p.Text), &out); err == nil {
				rendered[b.Name+"/"+p.Slug] = [2]any{p.Title, template.HTML(out.String())} // our own text, from the binary
			}
		}
	}
	s.mux.HandleFunc("GET /docs/{page...}", func(w http.ResponseWriter, r *http.Request) {
		page, ok := rendered[strings.TrimSuffix(r.PathValue("page"), "/")]
		if !ok {
			s.unknown(w, r)
			return
		}
		s.html(w, func(buf *bytes.Buffer) error {
			return pageTemplate.Execute(buf, map[string]any{"Title": page[0], "Version": s.version, "Body": page[1]})
		})
	})
	s.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s.html(w, func(buf *bytes.Buffer) error { return s.frontPage(buf) })
	})
}

// description serves what make gives, which is called once, at the first request.
func (s *Server) description(contentType string, make func() ([]byte, error)) http.HandlerFunc {
	type text struct {
		plain, zipped []byte
		tag           string
		err           error
	}
	made := sync.OnceValue(func() text {
		body, err := make()
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		_, _ = z.Write(body) // memory takes it
		_ = z.Close()
		return text{body, zipped.Bytes(), `W/"` + strconv.FormatUint(xxhash.Sum64(body), 36) + `"`, err}
	})
	return func(w http.ResponseWriter, r *http.Request) {
		t := made()
		if t.err != nil {
			s.fail(w, r, t.err)
			return
		}
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("ETag", t.tag)
		h.Set("Vary", "Accept-Encoding")
		content := t.plain
		if acceptsGzip(r.Header.Get("Accept-Encoding")) {
			h.Set("Content-Encoding", "gzip")
			content = t.zipped
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

func (s *Server) html(w http.ResponseWriter, render func(*bytes.Buffer) error) {
	var buf bytes.Buffer
	if err := render(&buf); err != nil {
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("X-Frame-Options", "DENY")
	_, _ = w.Write(buf.Bytes())
}

var frontTemplate = template.Must(template.New("front").Parse(`
<h1>One API for your platform, keyed by what you own</h1>
<p>Everything here is an API operation: the <a href="/docs">reference</a> lists them all, <code>slipway --help</code> the commands.</p>
<pre>curl -H "Authorization: Bearer $SLIPWAY_TOKEN" {{.URL}}/api/build/by-entity/component:default/web/search</pre>
<table>
<tr><th>Blueprint</th><th>Version</th><th>What it brings</th><th>Pages</th></tr>
{{range .Blueprints}}<tr><td>{{.Name}}</td><td>{{.Version}} <small>{{.Stability}}</small></td><td>{{.Summary}}</td><td>{{$name := .Name}}{{range .Pages}}<a href="/docs/{{$name}}/{{.Slug}}">{{.Title}}</a> {{end}}</td></tr>
{{end}}</table>
<p><a href="/readyz">readyz</a> · <a href="/version">version</a></p>
`))

func (s *Server) frontPage(buf *bytes.Buffer) error {
	var body bytes.Buffer
	if err := frontTemplate.Execute(&body, struct {
		URL        string
		Blueprints []blueprint.Blueprint
	}{s.externalURL(), s.blueprints}); err != nil {
		return err
	}
	return pageTemplate.Execute(buf, map[string]any{"Title": "Home", "Version": s.version, "Body": template.HTML(body.String())})
}

// OpenAPI is the description of the whole API as JSON, indented, the same bytes for the same build.
func (s *Server) OpenAPI() ([]byte, error) {
	raw, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	s.describeNulls(doc)
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err = e.Encode(doc)
	return out.Bytes(), err
}

// describeNulls says of fields that point to a struct and are never left out that they may be null: huma refuses to, where the field is a reference.
func (s *Server) describeNulls(doc map[string]any) {
	components, _ := doc["components"].(map[string]any)
	schemas, _ := components["schemas"].(map[string]any)
	for name, schema := range schemas {
		t := s.api.OpenAPI().Components.Schemas.TypeFromRef("#/components/schemas/" + name)
		for t != nil && t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		properties, _ := schema.(map[string]any)["properties"].(map[string]any)
		if t == nil || t.Kind() != reflect.Struct {
			continue
		}
		for i := range t.NumField() {
			f := t.Field(i)
			field, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			property, _ := properties[field].(map[string]any)
			ref, isRef := property["$ref"]
			if f.Type.Kind() != reflect.Pointer || !isRef || strings.Contains(options, "omit") {
				continue
			}
			delete(property, "$ref")
			property["oneOf"] = []any{map[string]any{"$ref": ref}, map[string]any{"type": "null"}}
		}
	}
}

// inYAML is the description as YAML.
func inYAML(description func() ([]byte, error)) ([]byte, error) {
	raw, err := description()
	if err != nil {
		return nil, err
	}
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	return yaml.Marshal(doc)
}
