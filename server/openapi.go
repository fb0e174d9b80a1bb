package server

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/resource"
)

// newAPI makes the huma API on an adapter, with its documentation routes off: the server brings its own.
func newAPI(adapter huma.Adapter, version string) huma.API {
	registry := huma.NewMapRegistry("#/components/schemas/", schemaName)
	config := huma.DefaultConfig("Slipway", version)
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.CreateHooks = nil
	config.Components = &huma.Components{
		Schemas: registry,
		SecuritySchemes: map[string]*huma.SecurityScheme{
			"bearer": {Type: "http", Scheme: "bearer", Description: "A Slipway token: `slipway token create`, or the admin token of the first start."},
		},
	}
	config.Info.Description = "One API for a developer platform, keyed by what you own. Every operation names the permission that it needs; " +
		"`GET /api/auth/me` says who you are, `GET /api/auth/permissions` what exists. Lists are paged; errors carry a code, a sentence and the id of the request."
	config.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	config.Servers = []*huma.Server{{URL: "/"}}
	config.Formats = map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat}
	config.Transformers = []huma.Transformer{transform}
	return huma.NewAPI(config, adapter)
}

// transform puts the envelope of the dialect around a success.
func transform(ctx huma.Context, status string, v any) (any, error) {
	if status[0] != '2' {
		return v, nil
	}
	x := exchangeOf(ctx.Context())
	d := dialects[x.mount.Dialect]
	if _, stream := v.(blueprint.Streamed); d.wrap == nil || stream {
		if x.messages != nil {
			for _, text := range x.messages.Warning {
				ctx.AppendHeader("Warning", `299 - `+strconv.Quote(text))
			}
		}
		return v, nil
	}
	return d.wrap(v, *x.messages), nil
}

// schemaName prefixes a type's name with its package, so that two blueprints may each have a Request.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	pkg := t.PkgPath()
	pkg = pkg[strings.LastIndexByte(pkg, '/')+1:]
	if t.Name() == "" || pkg == "slipway" || pkg == "blueprint" || pkg == "" || pkg == "server" {
		return name
	}
	prefix := strings.ToUpper(pkg[:1]) + pkg[1:]
	if strings.HasPrefix(name, prefix) {
		return name
	}
	return prefix + name
}

// register mounts one operation and completes its description: permission, stability, errors in the dialect, examples.
func (s *Server) register(api huma.API, b blueprint.Blueprint, op blueprint.Operation, service func() any) {
	m := s.mounts.of(op.Path)
	stability := op.Stability
	if stability == "" {
		stability = b.Stability
	}
	tag := op.Tag
	if tag == "" {
		tag = b.Name
	}
	lenient := op.Lenient || m.Lenient
	hop := huma.Operation{
		OperationID: strings.ReplaceAll(op.ID, ".", "-"), Method: op.Method, Path: op.Path, Summary: op.Summary, Tags: []string{tag},
		Description: op.Description, DefaultStatus: op.Status, MaxBodyBytes: maxBody(op) + 1, // huma refuses a body that is as large
		BodyReadTimeout:              bodyWait,
		RejectUnknownQueryParameters: !lenient, Deprecated: !op.Deprecated.IsZero(),
		Errors:     s.errorsOf(op, m),
		Extensions: map[string]any{"x-stability": string(stability), "x-blueprint": b.Name},
	}
	if op.Permission != blueprint.Public {
		hop.Security = []map[string][]string{{"bearer": {}}}
		hop.Extensions["x-permission"] = op.Permission
		hop.Description = strings.TrimSpace(hop.Description + "\n\nNeeds the permission `" + op.Permission + "`" + map[bool]string{true: " on the entity", false: ""}[op.OnObject] + ".")
	} else {
		hop.Security = []map[string][]string{{}}
		hop.Extensions["x-permission"] = blueprint.Public
		hop.Description = strings.TrimSpace(hop.Description + "\n\nOpen: no token is needed.")
	}
	if op.Idempotent {
		hop.Parameters = append(hop.Parameters, &huma.Param{Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: huma.TypeString},
			Description: "A name of your own for this call. Sent again within 24 hours with the same body, it gives the first answer again instead of doing it twice, or 409 where that held a secret or was too large to keep."})
	}
	var multiple map[string]bool
	if !lenient {
		multiple = map[string]bool{}
	}
	hop.Middlewares = huma.Middlewares{s.guard(op, service, multiple)}
	op.Register(api, hop, service)
	h := s.describe(api, op, m)
	s.note(&described{
		Blueprint: b.Name, ID: op.ID, Method: op.Method, Path: op.Path, Summary: op.Summary, Text: op.Description, Permission: op.Permission,
		Stability: string(stability), OnObject: op.OnObject, Columns: op.Columns, Doc: h,
	})
	for _, p := range h.Parameters {
		if multiple != nil && p.In == "query" && p.Schema != nil && p.Schema.Type == huma.TypeArray {
			multiple[p.Name] = true
		}
	}
}

// errorsOf lists the statuses that an operation documents.
func (s *Server) errorsOf(op blueprint.Operation, m blueprint.Mount) []int {
	codes := append([]slipway.Code{slipway.Invalid, slipway.Internal, slipway.Unavailable, slipway.TooLarge, slipway.UnsupportedMedia}, op.Errors...)
	if op.Method == http.MethodGet || op.Method == http.MethodDelete {
		codes = slices.DeleteFunc(codes, func(c slipway.Code) bool { return c == slipway.TooLarge || c == slipway.UnsupportedMedia })
	}
	if op.Permission != blueprint.Public {
		codes = append(codes, slipway.Unauthenticated, slipway.Forbidden, slipway.RateLimited)
	}
	var out []int
	for _, c := range codes {
		out = append(out, statuses[c])
	}
	if op.Method != http.MethodGet && dialects[m.Dialect].invalidBody == http.StatusUnprocessableEntity {
		out = append(out, http.StatusUnprocessableEntity)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// answerHeaders are the headers that answers have beside those of their operation. All descriptions share them: there are some thousand answers.
var answerHeaders = map[string]*huma.Param{
	"ETag":                  {Description: "Version of the answer; send it as If-None-Match", Schema: &huma.Schema{Type: huma.TypeString}},
	"Retry-After":           {Description: "Seconds to wait", Schema: &huma.Schema{Type: huma.TypeInteger}},
	"WWW-Authenticate":      {Description: "Which credential is wanted", Schema: &huma.Schema{Type: huma.TypeString}},
	"X-RateLimit-Limit":     {Description: "Requests per minute; absent for a token without a limit", Schema: &huma.Schema{Type: huma.TypeInteger}},
	"X-RateLimit-Remaining": {Description: "Requests left in this minute", Schema: &huma.Schema{Type: huma.TypeInteger}},
	"X-RateLimit-Reset":     {Description: "When the minute ends, in Unix seconds", Schema: &huma.Schema{Type: huma.TypeInteger}},
	"X-Request-Id":          {Description: "Id of this request in the server's log", Schema: &huma.Schema{Type: huma.TypeString}},
}

// describe completes what huma noted: error bodies and envelopes of the dialect, headers, examples.
func (s *Server) describe(api huma.API, op blueprint.Operation, m blueprint.Mount) *huma.Operation {
	doc := api.OpenAPI()
	item := doc.Paths[op.Path]
	var h *huma.Operation
	switch op.Method {
	case http.MethodGet:
		h = item.Get
	case http.MethodPost:
		h = item.Post
	case http.MethodPut:
		h = item.Put
	case http.MethodPatch:
		h = item.Patch
	case http.MethodDelete:
		h = item.Delete
	}
	if h == nil {
		panic(fmt.Sprintf("operation %s %s was not described", op.Method, op.Path))
	}
	d := dialects[m.Dialect]
	failSchema := doc.Components.Schemas.Schema(reflect.TypeOf(d.failExample), true, "")
	delete(h.Responses, "default")
	if h.Responses["422"] != nil && d.invalidBody != http.StatusUnprocessableEntity {
		delete(h.Responses, "422")
	}
	header := func(r *huma.Response, names ...string) {
		if r.Headers == nil {
			r.Headers = map[string]*huma.Param{}
		}
		for _, name := range names {
			r.Headers[name] = answerHeaders[name]
		}
	}
	if read := h.Responses["200"]; op.Method == http.MethodGet && read != nil && !op.Streams() && !op.Secret {
		header(read, "ETag")
		h.Responses["304"] = &huma.Response{Description: "Nothing changed since the version in If-None-Match"}
		h.Parameters = append(h.Parameters, &huma.Param{Name: "If-None-Match", In: "header", Schema: &huma.Schema{Type: huma.TypeString},
			Description: "ETag of an earlier answer: 304 when nothing changed"})
	}
	for status, r := range h.Responses {
		header(r, "X-Request-Id")
		if op.Permission != blueprint.Public && status != "401" {
			header(r, "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
		}
		if status[0] >= '4' {
			r.Content = map[string]*huma.MediaType{"application/json": {Schema: failSchema}}
			switch status {
			case "401":
				header(r, "WWW-Authenticate")
			case "429", "503":
				header(r, "Retry-After")
			}
			continue
		}
		media := r.Content["application/json"]
		if media == nil {
			continue
		}
		if op.ResponseExample != nil {
			media.Example = op.ResponseExample
		}
		if op.Streams() {
			contentType := "text/plain"
			if op.StreamOf != "" {
				contentType = "text/event-stream"
			}
			r.Content = map[string]*huma.MediaType{contentType: media}
			continue
		}
		if d.wrap != nil && media.Schema != nil {
			media.Schema = wrapped(m.Dialect, media.Schema, doc.Components.Schemas)
			if media.Example != nil {
				media.Example = d.wrap(media.Example, blueprint.Messages{})
			}
		}
	}
	if raw := h.RequestBody; raw != nil && op.Request != nil {
		media := func() *huma.MediaType {
			return &huma.MediaType{Schema: doc.Components.Schemas.Schema(reflect.TypeOf(op.Request), true, "")}
		}
		raw.Content = map[string]*huma.MediaType{"application/json": media()}
		if m.Dialect == blueprint.Tool {
			raw.Content["application/yaml"] = media()
			raw.Required = false // what an empty body means is up to the operation
		}
	}
	if raw := h.RequestBody; raw != nil && m.Dialect == blueprint.Data && raw.Content["application/octet-stream"] != nil {
		// A document is read as bytes, because its schema is known only by its kind; /data/schema/{kind} has it.
		raw.Content = map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject, Description: "A document, bare or in an envelope"}}}
	}
	if h.RequestBody != nil && op.RequestExample != nil {
		for _, media := range h.RequestBody.Content {
			media.Example = op.RequestExample
		}
	}
	// huma's own error shapes were noted by it, and are used by nothing.
	delete(doc.Components.Schemas.Map(), "V2ErrorModel")
	delete(doc.Components.Schemas.Map(), "V2ErrorDetail")
	return h
}

// wrapped describes the envelope of a dialect around a schema.
func wrapped(d blueprint.Dialect, inner *huma.Schema, r huma.Registry) *huma.Schema {
	if d == blueprint.Data {
		properties := map[string]*huma.Schema{"version": {Type: huma.TypeInteger, Enum: []any{1}, Description: "Version of the envelope"}, "data": inner}
		if inner.Ref != "" {
			if list := r.SchemaFromRef(inner.Ref); list != nil && list.Properties["items"] != nil && list.Properties["pageInfo"] != nil {
				properties["data"], properties["pageInfo"] = list.Properties["items"], list.Properties["pageInfo"]
			}
		}
		return &huma.Schema{Type: huma.TypeObject, Required: []string{"version", "data"}, Properties: properties}
	}
	return &huma.Schema{Type: huma.TypeObject, Required: []string{"data", "messages"}, Properties: map[string]*huma.Schema{
		"data": inner, "messages": r.Schema(reflect.TypeFor[toolMessages](), true, ""),
	}}
}

// DescribeAPI is the OpenAPI description of a set of blueprints, without opening anything.
func DescribeAPI(blueprints []blueprint.Blueprint, version string) ([]byte, error) {
	s := &Server{blueprints: append([]blueprint.Blueprint{Base}, blueprints...), version: version, mux: http.NewServeMux()}
	for _, b := range s.blueprints {
		for _, m := range b.Mounts {
			s.mounts = append(s.mounts, mount{m, b.Name})
		}
	}
	s.mounts = s.mounts.sorted()
	s.api = newAPI(humago.NewAdapter(s.mux, ""), s.version)
	for _, b := range s.blueprints {
		for _, op := range b.Operations {
			s.register(s.api, b, op, func() any { return nil })
		}
	}
	var kinds []resource.Kind
	for _, b := range blueprints {
		for _, k := range b.Kinds {
			kinds = append(kinds, k.Kind)
		}
	}
	if err := describeDocuments(s.api.OpenAPI(), kinds); err != nil {
		return nil, err
	}
	return s.OpenAPI()
}
