package server

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway/blueprint"
)

//go:embed ui/scalar.js.gz
var scalar []byte

// scriptPolicy lets a page load nothing that is not ours. Scalar sets styles from its script, hence unsafe-inline for styles only.
const scriptPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

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
	s.mux.HandleFunc("GET /docs/api", func(w http.ResponseWriter, r *http.Request) {
		s.html(w, scriptPolicy, "scalar", referenceConfiguration)
	})
	s.referencePages()
	s.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s.html(w, strictPolicy, "front", struct {
			page
			URL        string
			Account    bool // people can sign in with a browser
			Views      []pageLink
			Blueprints []blueprint.Blueprint
		}{page{Title: "Home", Version: s.version}, s.externalURL(), s.auth != nil && s.auth.LoginOffered(), s.views(), s.blueprints})
	})
}

// frontViews are lists that a person may want to open first.
var frontViews = []pageLink{
	{"/api/catalog/entities", "Entities"}, {"/api/build/search", "Builds"}, {"/api/deployment/search", "Deployments"}, {"/api/providers", "Providers"},
	{"/api/schedules", "Schedules"}, {"/api/jobs", "Jobs"}, {"/api/events", "Events"}, {"/api/auth/me", "Who you are"},
}

// views are those that this server has.
func (s *Server) views() []pageLink {
	return slices.DeleteFunc(slices.Clone(frontViews), func(l pageLink) bool { return s.reads[l.URL] == nil })
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

// html answers with a page, under a policy of what it may load.
func (s *Server) html(w http.ResponseWriter, policy, name string, data any) {
	var buf bytes.Buffer
	if err := pages.ExecuteTemplate(&buf, name, data); err != nil {
		s.log.Error("a page cannot be shown", "page", name, "error", err)
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	setHTML(w.Header(), policy)
	_, _ = w.Write(buf.Bytes())
}

func setHTML(h http.Header, policy string) {
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
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
