package server_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// toy is a blueprint with one operation for each way in which a request can go.
type toy struct{ calls chan string }

type thing struct {
	Name  string            `json:"name" minLength:"1" maxLength:"20" doc:"Name"`
	Count int               `json:"count,omitempty" minimum:"0" doc:"How many"`
	Tags  map[string]string `json:"tags,omitempty" doc:"Marks"`
}

type thingBody struct{ Body thing }

func (s *toy) get(_ context.Context, in *struct {
	Name  string `path:"name" doc:"Name"`
	Limit int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many"`
}) (*thingBody, error) {
	switch in.Name {
	case "none":
		return nil, slipway.Errorf(slipway.NotFound, "there is no thing %q", in.Name)
	case "panic":
		panic("a secret detail")
	case "broken":
		return nil, fmt.Errorf("a secret detail")
	case "away":
		return nil, slipway.Errorf(slipway.Unavailable, "the vendor does not answer").After(7 * time.Second).WithCause(fmt.Errorf("a secret detail"))
	}
	if in.Name == "huge" { // more than connections hold by themselves
		return &thingBody{thing{Name: in.Name, Tags: map[string]string{"text": strings.Repeat("x", 64<<20)}}}, nil
	}
	return &thingBody{thing{Name: in.Name, Count: in.Limit}}, nil
}

func (s *toy) put(_ context.Context, in *thingBody) (*thingBody, error) {
	s.calls <- in.Body.Name
	if in.Body.Name == "bad" {
		return nil, slipway.Errorf(slipway.Conflict, "bad is taken")
	}
	if in.Body.Name == "big" {
		return &thingBody{thing{Name: "big", Tags: map[string]string{"text": strings.Repeat("x", 300<<10)}}}, nil
	}
	return in, nil
}

func (s *toy) secret(context.Context, *struct{}) (*thingBody, error) {
	s.calls <- "secret"
	return &thingBody{thing{Name: "hidden"}}, nil
}

func (s *toy) careless(context.Context, *struct{}) (*thingBody, error) {
	return &thingBody{thing{Name: "leak"}}, nil
}

func (s *toy) careful(ctx context.Context, in *struct {
	Ref string `path:"ref" doc:"Entity"`
}) (*thingBody, error) {
	if err := auth.Require(ctx, "toy.thing.touch", auth.Object{Ref: in.Ref}); err != nil {
		return nil, err
	}
	return &thingBody{thing{Name: in.Ref}}, nil
}

func (s *toy) stream(context.Context, *struct{}) (*struct{ Body blueprint.Streamed }, error) {
	return &struct{ Body blueprint.Streamed }{blueprint.Streamed{ContentType: "text/plain; charset=utf-8", Write: func(ctx context.Context, w io.Writer, flush func()) error {
		_, _ = io.WriteString(w, "first\n")
		flush()
		<-ctx.Done()
		_, err := io.WriteString(w, "last\n")
		return err
	}}}, nil
}

func (s *toy) ticks(context.Context, *struct{}) (*struct{ Body blueprint.Streamed }, error) {
	return &struct{ Body blueprint.Streamed }{blueprint.Streamed{Write: func(ctx context.Context, w io.Writer, flush func()) error {
		for {
			if _, err := io.WriteString(w, "tick\n"); err != nil {
				return err
			}
			flush()
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(20 * time.Millisecond):
			}
		}
	}}}, nil
}

func (s *toy) hook(_ context.Context, in *struct{ RawBody []byte }) (*thingBody, error) {
	if string(in.RawBody) != "signed" {
		return nil, slipway.Errorf(slipway.Forbidden, "the signature is wrong")
	}
	return &thingBody{thing{Name: "ok"}}, nil
}

func (s *toy) known(_ context.Context, r *http.Request) error {
	if r.URL.Query().Get("from") == "nobody" {
		return slipway.Errorf(slipway.NotFound, "there is no such sender")
	}
	return nil
}

func (s *toy) raw(context.Context, *struct{}) (*struct{ Body blueprint.Raw[thing] }, error) {
	return &struct{ Body blueprint.Raw[thing] }{blueprint.Raw[thing]{JSON: []byte(`{"name":"as it is","count":1}`)}}, nil
}

func (s *toy) warn(ctx context.Context, _ *struct{}) (*thingBody, error) {
	blueprint.Warn(ctx, "look out")
	return &thingBody{thing{Name: "x"}}, nil
}

func (s *toy) slow(ctx context.Context, _ *struct{}) (*thingBody, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func toyBlueprint(s *toy) blueprint.Blueprint {
	op := func(id, method, path, permission string) blueprint.Operation {
		return blueprint.Operation{ID: "toy." + id, Method: method, Path: path, Permission: permission, Summary: "Toy"}
	}
	with := func(o blueprint.Operation, change func(*blueprint.Operation)) blueprint.Operation {
		change(&o)
		return o
	}
	return blueprint.Blueprint{
		Name: "toy", Version: "1.2.3", Summary: "A toy.", Stability: blueprint.Experimental,
		Mounts: []blueprint.Mount{
			{Prefix: "/api/toy", Dialect: blueprint.API}, {Prefix: "/data/toy", Dialect: blueprint.Data}, {Prefix: "/api/v1/tool/toy", Dialect: blueprint.Tool},
			{Prefix: "/api/catalog/toy", Dialect: blueprint.Backstage},
		},
		Permissions: []auth.Permission{{Name: "toy.thing.read", Text: "Read things"}, {Name: "toy.thing.touch", Text: "Touch things", Object: "entity"}},
		Operations: []blueprint.Operation{
			blueprint.Handle((*toy).get, op("get", "GET", "/api/toy/things/{name}", "toy.thing.read")),
			blueprint.Handle((*toy).get, op("getOpen", "GET", "/api/toy/open/{name}", blueprint.Public)),
			blueprint.Handle((*toy).get, op("getData", "GET", "/data/toy/{name}", "toy.thing.read")),
			blueprint.Handle((*toy).get, op("getTool", "GET", "/api/v1/tool/toy/{name}", "toy.thing.read")),
			blueprint.Handle((*toy).get, op("getCatalog", "GET", "/api/catalog/toy/{name}", "toy.thing.read")),
			blueprint.Handle((*toy).put, with(op("put", "POST", "/api/toy/things", "toy.thing.read"), func(o *blueprint.Operation) { o.Idempotent, o.Status = true, 201 })),
			blueprint.Handle((*toy).put, op("putData", "POST", "/data/toy", "toy.thing.read")),
			blueprint.Handle((*toy).put, op("putTool", "POST", "/api/v1/tool/toy", "toy.thing.read")),
			blueprint.Handle((*toy).secret, with(op("secret", "POST", "/api/toy/secret", "toy.thing.read"), func(o *blueprint.Operation) { o.Idempotent, o.Secret = true, true })),
			blueprint.Handle((*toy).careless, with(op("careless", "GET", "/api/toy/careless", "toy.thing.touch"), func(o *blueprint.Operation) { o.OnObject = true })),
			blueprint.Handle((*toy).careful, with(op("careful", "GET", "/api/toy/by-entity/{ref}/touch", "toy.thing.touch"), func(o *blueprint.Operation) { o.OnObject, o.Wide = true, "ref" })),
			blueprint.Handle((*toy).careful, with(op("begin", "POST", "/api/toy/by-entity/{ref}/begin", "toy.thing.touch"), func(o *blueprint.Operation) { o.OnObject, o.Wide, o.Idempotent = true, "ref", true })),
			blueprint.Handle((*toy).stream, with(op("stream", "GET", "/api/toy/stream", "toy.thing.read"), func(o *blueprint.Operation) { o.Timeout = -1 })),
			blueprint.Handle((*toy).ticks, with(op("ticks", "GET", "/api/toy/ticks", "toy.thing.read"), func(o *blueprint.Operation) { o.Timeout = -1 })),
			blueprint.Before(blueprint.Handle((*toy).hook, with(op("hook", "POST", "/api/toy/hook", blueprint.Public), func(o *blueprint.Operation) { o.Lenient, o.MaxBody = true, 25<<20 })), (*toy).known),
			blueprint.Handle((*toy).raw, op("raw", "GET", "/api/toy/raw", "toy.thing.read")),
			blueprint.Handle((*toy).warn, op("warn", "GET", "/api/v1/tool/toy/warn", "toy.thing.read")),
			blueprint.Handle((*toy).slow, with(op("slow", "GET", "/api/toy/slow", "toy.thing.read"), func(o *blueprint.Operation) { o.Timeout = 20 * time.Millisecond })),
		},
		Pages: []blueprint.Page{{Slug: "guide", Title: "Guide", Text: "# Guide\n\nHow to *play*."}},
		Open:  func(context.Context, *blueprint.Host) (any, error) { return s, nil },
	}
}

func options() blueprinttest.Options {
	return blueprinttest.Options{Blueprints: []blueprint.Blueprint{toyBlueprint(&toy{calls: make(chan string, 100)})}}
}

func TestEveryDialectWritesItsOwnErrors(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		want                     string // in the body
	}{
		{"api not found", "GET", "/api/toy/things/none", "", 404, `{"error":"there is no thing \"none\"","code":"not_found","requestId":"`},
		{"data not found", "GET", "/data/toy/none", "", 404, `{"version":1,"error":{"code":"not_found","message":"there is no thing \"none\"",`},
		{"tool not found", "GET", "/api/v1/tool/toy/none", "", 404, `{"messages":{"info":[],"warning":[],"error":["there is no thing \"none\""]}}`},
		{"catalog not found", "GET", "/api/catalog/toy/none", "", 404, `{"error":{"name":"NotFoundError","message":"there is no thing \"none\""},"request":{"method":"GET","url":"/none"},"response":{"statusCode":404}}`},
		{"api unknown path", "GET", "/api/toy/nowhere/else", "", 404, `"code":"not_found"`},
		{"data unknown path", "GET", "/data/nowhere", "", 404, `{"version":1,"error":{`},
		{"tool unknown path", "GET", "/api/v1/tool/a/b/c/d", "", 404, `{"messages":`},
		{"unknown path", "GET", "/nowhere", "", 404, `"code":"not_found"`},
		{"wrong method", "DELETE", "/api/toy/things/x", "", 405, `"code":"method"`},
		{"data wrong method", "PUT", "/data/toy/x", "", 405, `{"version":1,"error":{"code":"method"`},
		{"panic", "GET", "/api/toy/things/panic", "", 500, `"code":"internal"`},
		{"data panic", "GET", "/data/toy/panic", "", 500, `{"version":1,"error":{"code":"internal"`},
		{"no code", "GET", "/api/toy/things/broken", "", 500, `"code":"internal"`},
		{"unavailable", "GET", "/api/toy/things/away", "", 503, `"code":"unavailable"`},
		{"malformed", "POST", "/api/toy/things", `{"name":`, 400, `"code":"invalid"`},
		{"not an object", "POST", "/api/toy/things", `[]`, 400, `"code":"invalid"`},
		{"wrong type", "POST", "/api/toy/things", `{"name":7}`, 400, `"field":"name"`},
		{"unknown field", "POST", "/api/toy/things", `{"name":"a","nmae":"b"}`, 400, `nmae`},
		{"two values", "POST", "/api/toy/things", `{"name":"a"}{"name":"b"}`, 400, `"code":"invalid"`},
		{"bad UTF-8", "POST", "/api/toy/things", "{\"name\":\"\xff\"}", 400, `UTF-8`},
		{"deep nesting", "POST", "/api/toy/things", `{"tags":` + strings.Repeat(`{"a":`, 50_000) + `1` + strings.Repeat(`}`, 50_000) + `}`, 400, `"code":"invalid"`},
		{"too large", "POST", "/api/toy/things", `{"name":"` + strings.Repeat("x", 10<<20) + `"}`, 413, `"code":"too_large"`},
		{"empty body", "POST", "/api/toy/things", ``, 400, `"code":"invalid"`},
		{"data body that does not fit", "POST", "/data/toy", `{"name":7}`, 422, `{"version":1,"error":{"code":"invalid"`},
		{"tool body that does not fit", "POST", "/api/v1/tool/toy", `{"name":7}`, 422, `{"messages":{"info":[],"warning":[],"error":["`},
		{"unknown parameter", "GET", "/api/toy/things/x?limti=3", "", 400, `limti`},
		{"negative limit", "GET", "/api/toy/things/x?limit=-1", "", 400, `"field":"limit"`},
		{"a parameter twice", "GET", "/api/toy/things/x?limit=1&limit=2", "", 400, `"field":"limit"`},
		{"a query that does not parse", "GET", "/api/toy/things/x?limit=%zz", "", 400, `"code":"invalid"`},
		{"empty segments", "GET", "/api//toy/things/x", "", 404, `"code":"not_found"`},
		{"dot segments", "GET", "/api/toy/../toy/raw", "", 404, `"code":"not_found"`},
		{"no page of documentation", "GET", "/docs/nope", "", 404, `"code":"not_found"`},
		{"catalog says a fault once", "GET", "/api/catalog/toy/x?limti=3", "", 400, `"message":"limti: unknown query parameter"}`},
		{"101 levels", "POST", "/api/toy/things", strings.Repeat(`[`, 101) + strings.Repeat(`]`, 101), 400, `nested deeper`},
		{"limit of letters", "GET", "/api/toy/things/x?limit=many", "", 400, `"field":"limit"`},
		{"took too long", "GET", "/api/toy/slow", "", 503, `"code":"unavailable"`},
		{"permission on an object never checked", "GET", "/api/toy/careless", "", 500, `"code":"internal"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var body any
			if c.body != "" {
				body = c.body
			}
			a := s.Do(c.method, c.path, body)
			if a.Status != c.status || !strings.Contains(string(a.Body), c.want) {
				t.Errorf("got %d %.300s\nwant %d with %s", a.Status, a.Body, c.status, c.want)
			}
			if strings.Contains(string(a.Body), "secret detail") || strings.Contains(string(a.Body), "leak") {
				t.Errorf("the answer tells internals: %s", a.Body)
			}
			if a.Header.Get("X-Request-Id") == "" || a.Header.Get("Content-Type") != "application/json" {
				t.Errorf("headers: %v", a.Header)
			}
			if retry := a.Header.Get("Retry-After"); (a.Status == 503) != (retry != "") {
				t.Errorf("status %d with Retry-After %q", a.Status, retry)
			}
		})
	}
	s.Post("/api/toy/things", thing{Name: "x"}, "Idempotency-Key", "").Fails(400, slipway.Invalid)
	if s.Get("/api/toy/things/away").Header.Get("Retry-After") != "7" {
		t.Error("the delay that the error names is not passed on")
	}
	s.Get("/api/toy/things/alive").Is(200)
	if log := s.Log.String(); !strings.Contains(log, "panic: a secret detail") || !strings.Contains(log, "server_test.go") {
		t.Error("the panic's stack is not in the log")
	}
	if allow := s.Do("DELETE", "/api/toy/things/x", nil).Header.Get("Allow"); allow != "GET" {
		t.Errorf("got Allow %q", allow)
	}
}

func TestEveryDialectWrapsSuccess(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	for path, want := range map[string]string{
		"/api/toy/things/a?limit=3": `{"name":"a","count":3}`,
		"/data/toy/a?limit=3":       `{"version":1,"data":{"name":"a","count":3}}`,
		"/api/v1/tool/toy/a":        `{"data":{"name":"a","count":20},"messages":{"info":[],"warning":[],"error":[]}}`,
		"/api/v1/tool/toy/warn":     `{"data":{"name":"x"},"messages":{"info":[],"warning":["look out"],"error":[]}}`,
		"/api/toy/raw":              `{"name":"as it is","count":1}`,
		"/healthz":                  `{"status":"ok"}`,
	} {
		if got := strings.TrimSpace(string(s.Get(path).Is(200).Body)); got != want {
			t.Errorf("%s\n got %s\nwant %s", path, got, want)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	if got := s.Get("/healthz", "X-Request-Id", "mine-12345").Header.Get("X-Request-Id"); got != "mine-12345" {
		t.Errorf("a good id was replaced by %q", got)
	}
	for _, bad := range []string{"", strings.Repeat("x", 65), "has space in it", `quote"12345`} {
		if got := s.Get("/healthz", "X-Request-Id", bad).Header.Get("X-Request-Id"); got == bad || len(got) != 24 {
			t.Errorf("id %q became %q", bad, got)
		}
	}
}

func TestReadsHaveETagsAndAreCompressed(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	a := s.Get("/api/toy/things/a").Is(200)
	tag := a.Header.Get("ETag")
	if tag == "" {
		t.Fatal("no ETag")
	}
	b := s.Get("/api/toy/things/a", "If-None-Match", `"other", `+tag).Is(304)
	if len(b.Body) != 0 || b.Header.Get("ETag") != tag {
		t.Errorf("304 with body %q and ETag %q", b.Body, b.Header.Get("ETag"))
	}
	s.Get("/api/toy/things/b", "If-None-Match", tag).Is(200)
	if got := s.Post("/api/toy/things", thing{Name: "x"}).Is(201).Header.Get("ETag"); got != "" {
		t.Errorf("a write has the ETag %q", got)
	}
	z := s.Get("/openapi.json", "Accept-Encoding", "gzip").Is(200)
	if z.Header.Get("Content-Encoding") != "gzip" || z.Header.Get("ETag") == "" {
		t.Errorf("headers: %v", z.Header)
	}
	for _, accept := range []string{"gzip", "identity"} { // as long as it is, and however it is sent
		s.Get("/openapi.json", "Accept-Encoding", accept, "If-None-Match", z.Header.Get("ETag")).Is(304)
		if head := s.Do("HEAD", "/openapi.json", nil, "Accept-Encoding", accept).Is(200).Header; head.Get("ETag") != z.Header.Get("ETag") {
			t.Errorf("without its body the description has the ETag %q, else %q", head.Get("ETag"), z.Header.Get("ETag"))
		}
	}
	if s.Get("/openapi.json", "Accept-Encoding", "identity").Is(200).Header.Get("Content-Encoding") != "" {
		t.Error("compressed though not asked for")
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	toys := &toy{calls: make(chan string, 100)}
	blueprinttest.Each(t, blueprinttest.Options{Blueprints: []blueprint.Blueprint{toyBlueprint(toys)}}, func(t *testing.T, s *blueprinttest.Server) {
		key := "k-" + t.Name()
		first := s.Post("/api/toy/things", thing{Name: "one"}, "Idempotency-Key", key).Is(201)
		again := s.Post("/api/toy/things", thing{Name: "one"}, "Idempotency-Key", key).Is(201)
		if string(first.Body) != string(again.Body) || again.Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("replay: %s, %v", again.Body, again.Header)
		}
		s.Post("/api/toy/things", thing{Name: "two"}, "Idempotency-Key", key).Fails(409, slipway.Conflict)
		s.With("toy.thing.read").Post("/api/toy/things", thing{Name: "two"}, "Idempotency-Key", key).Is(201) // another caller's key is another key
		s.Post("/api/toy/things", thing{Name: "bad"}, "Idempotency-Key", key+"b").Fails(409, slipway.Conflict)
		if s.Post("/api/toy/things", thing{Name: "bad"}, "Idempotency-Key", key+"b").Is(409).Header.Get("Idempotency-Replayed") != "" {
			t.Error("a refusal was kept, though the reason may be gone")
		}
		s.Post("/api/toy/secret", nil, "Idempotency-Key", key).Is(200)
		if f := s.Post("/api/toy/secret", nil, "Idempotency-Key", key).Fails(409, slipway.Conflict); strings.Contains(f.Error, "hidden") {
			t.Error("the secret came back")
		}
	})
}

func TestCallers(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	anonymous := s.As("")
	a := anonymous.Get("/api/toy/things/a")
	a.Fails(401, slipway.Unauthenticated)
	if !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
		t.Errorf("headers: %v", a.Header)
	}
	anonymous.Get("/api/toy/open/a").Is(200)
	s.As("slp_garbage").Get("/api/toy/things/a").Fails(401, slipway.Unauthenticated)
	f := s.With("slipway.metrics.read").Get("/api/toy/things/a")
	if got := f.Fails(403, slipway.Forbidden); !strings.Contains(got.Error, "toy.thing.read") {
		t.Errorf("the missing permission is not named: %s", got.Error)
	}
	limited := s.As(s.NewToken(auth.NewToken{Name: "limited", Permissions: []string{"toy.thing.read"}, RateLimit: rate(3)}))
	for i := range 3 {
		h := limited.Get("/api/toy/things/a").Is(200).Header
		if h.Get("X-RateLimit-Limit") != "3" || h.Get("X-RateLimit-Remaining") != fmt.Sprint(2-i) || h.Get("X-RateLimit-Reset") == "" {
			t.Errorf("request %d: %v", i, h)
		}
	}
	over := limited.Get("/api/toy/things/a")
	over.Fails(429, slipway.RateLimited)
	if over.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}

	// Two Authorization headers are refused, whichever would be believed.
	req, _ := http.NewRequest("GET", s.URL+"/api/toy/things/a", nil)
	req.Header["Authorization"] = []string{"Bearer " + s.Token, "Bearer " + s.Token}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 401 {
		t.Errorf("got %d for two Authorization headers", res.StatusCode)
	}
}

func rate(n int64) *auth.Rate { r := auth.Rate(n); return &r }

func TestPathsWithSlashesInOneParameter(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	for _, path := range []string{"component:default/web", "component:default%2Fweb", "component%3Adefault%2Fweb", "component%3adefault/web"} {
		var got thing
		s.Get("/api/toy/by-entity/" + path + "/touch").Is(200).Into(&got)
		if got.Name != "component:default/web" {
			t.Errorf("%s was read as %q", path, got.Name)
		}
	}
	s.Get("/api/toy/by-entity/a/b/c/touch").Is(404)
	s.With("toy.thing.touch:component:default/web").Get("/api/toy/by-entity/component:default/web/touch").Is(200)
	s.With("toy.thing.touch:component:default/web").Get("/api/toy/by-entity/component:default/api/touch").Fails(403, slipway.Forbidden)
}

func TestStreamsFlowAndEndWithTheServer(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	req, _ := http.NewRequest("GET", s.URL+"/api/toy/stream", nil)
	req.Header.Set("Authorization", "Bearer "+s.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("the stream is sent as %q", got)
	}
	first := make([]byte, len("first\n"))
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first\n" {
		t.Fatalf("got %q, %v", first, err)
	}
	go s.Stop()
	rest, err := io.ReadAll(res.Body)
	if err != nil || string(rest) != "last\n" {
		t.Errorf("got %q, %v; want the stream to end well when the server stops", rest, err)
	}
}

func TestAStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	token := s.NewToken(auth.NewToken{Name: "short", Permissions: []string{"toy.thing.read"}, Expires: time.Now().Add(1500 * time.Millisecond)})
	req, _ := http.NewRequest("GET", s.URL+"/api/toy/ticks", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, res.Body); ended <- err }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the stream ended as if it were whole")
		}
	case <-time.After(20 * time.Second):
		t.Error("the stream outlives its token")
	}
}

func TestStrangersCannotMakeTheServerHoldTheirBodies(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	s.As("").Post("/api/toy/hook", "signed").Is(200)
	begin := func(query string) net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "POST /api/toy/hook%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nbegun", query, 25<<20)
		return c
	}
	status := func(c net.Conn) string {
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.TrimSpace(line)
	}
	if got := status(begin("?from=nobody")); got != "HTTP/1.1 404 Not Found" {
		t.Errorf("an unknown sender's body was waited for: %q", got)
	}
	begin("")
	begin("")
	blueprinttest.Eventually(t, "a third body is refused while two are under way", func() bool {
		return status(begin("")) == "HTTP/1.1 503 Service Unavailable"
	})
}

func TestStrangersWhoFailTooOftenAreRefused(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	stranger := s.As("")
	refused := 0
	for range 70 {
		if stranger.Post("/api/toy/hook", "forged").Status == 429 {
			refused++
		}
	}
	if refused < 5 {
		t.Errorf("%d of 70 forged calls were answered with 429", refused)
	}
	s.Get("/api/toy/raw").Is(200)
}

func TestTheSameThingSpeltOtherwiseIsOneIdempotentCall(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	for i, path := range []string{"component:default/web", "web", "Component:Default%2FWeb"} {
		a := s.Post("/api/toy/by-entity/"+path+"/begin", nil, "Idempotency-Key", "one").Is(200)
		if replayed := a.Header.Get("Idempotency-Replayed") == "true"; replayed != (i > 0) {
			t.Errorf("%s: replayed %v", path, replayed)
		}
	}
}

func TestAClusterThatDoesNotAnswerIsShownAndStopsNothing(t *testing.T) {
	t.Parallel()
	o := options()
	o.Configure = func(c *server.Config) { c.Clusters = []cluster.Config{{Name: "far", Kubeconfig: "no-such-file"}} }
	s := blueprinttest.Start(t, store.SQLite, o)
	var ready server.Readiness
	s.As("").Get("/readyz").Is(200).Into(&ready)
	i := slices.IndexFunc(ready.Checks, func(c server.CheckResult) bool { return c.Name == "cluster far" })
	if !ready.Ready || i < 0 || ready.Checks[i].OK || ready.Checks[i].Error == "" {
		t.Errorf("got %+v; want ready, and the cluster failed", ready)
	}
}

func TestAnySetOfBlueprintsServes(t *testing.T) {
	t.Parallel()
	one := options().Blueprints[0]
	for _, set := range [][]blueprint.Blueprint{nil, {one}, {one, shopBlueprint()}} {
		s := blueprinttest.Start(t, store.SQLite, blueprinttest.Options{Blueprints: set}).As("")
		var v server.Version
		s.Get("/version").Is(200).Into(&v)
		names := []string{}
		for _, b := range v.Blueprints {
			names = append(names, b.Name+" "+b.Version)
		}
		want := []string{"slipway " + server.Base.Version}
		for _, b := range set {
			want = append(want, b.Name+" "+b.Version)
		}
		if !slices.Equal(names, want) {
			t.Errorf("got %v, want %v", names, want)
		}
		s.Get("/readyz").Is(200)
		s.Get("/docs").Is(200)
	}
}

func TestOperationsPages(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	open := s.As("")
	var ready server.Readiness
	open.Get("/readyz").Is(200).Into(&ready)
	if !ready.Ready || len(ready.Checks) == 0 || ready.Checks[0].Name != "database main" {
		t.Errorf("got %+v", ready)
	}
	var v server.Version
	open.Get("/version").Is(200).Into(&v)
	if len(v.Blueprints) != 2 || v.Blueprints[1].Name != "toy" || v.Blueprints[1].Version != "1.2.3" {
		t.Errorf("got %+v", v)
	}
	open.Get("/metrics").Is(401)
	if text := string(s.Get("/metrics").Is(200).Body); !strings.Contains(text, `slipway_http_requests_total{method="GET",operation="slipway.ready",status="200"} 1`) {
		t.Errorf("got %s", text)
	}
	script := open.Get("/docs/scalar.js", "Accept-Encoding", "gzip").Is(200)
	tag := script.Header.Get("ETag")
	if open.Do("HEAD", "/docs/scalar.js", nil, "Accept-Encoding", "gzip").Is(200).Header.Get("ETag") != tag || tag == "" {
		t.Errorf("the script has the ETag %q, and another without its body", tag)
	}
	open.Get("/docs/scalar.js", "Accept-Encoding", "gzip", "If-None-Match", tag).Is(304)
	for path, want := range map[string]string{"/": "A toy.", "/docs": "/openapi.json", "/docs/toy/guide": "<em>play</em>"} {
		a := open.Get(path).Is(200)
		if !strings.Contains(string(a.Body), want) || !strings.Contains(a.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %v %s", path, a.Header, a.Body)
		}
		if strings.Contains(string(a.Body), "//cdn") || strings.Contains(string(a.Body), "https://") {
			t.Errorf("%s names another host", path)
		}
	}
	if js := open.Get("/docs/scalar.js", "Accept-Encoding", "gzip").Is(200); js.Header.Get("Content-Encoding") != "gzip" || len(js.Body) < 100_000 {
		t.Errorf("the reference's script: %d bytes, %v", len(js.Body), js.Header)
	}
}

func TestDescriptionIsValid(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	raw := s.As("").Get("/openapi.json").Is(200).Body
	doc, err := openapi3.NewLoader().LoadFromData(raw)
	if err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("version %s", doc.OpenAPI)
	}
	var plain map[string]any
	if err := json.Unmarshal(raw, &plain); err != nil {
		t.Fatal(err)
	}
	get := doc.Paths.Value("/api/toy/things/{name}").Get
	if get.Extensions["x-permission"] != "toy.thing.read" || get.Responses.Value("404") != nil && get.Responses.Value("404").Value == nil {
		t.Errorf("got %+v", get.Extensions)
	}
	if open := doc.Paths.Value("/api/toy/open/{name}").Get; !strings.Contains(open.Description, "no token is needed") || strings.Contains(get.Description, "no token is needed") {
		t.Errorf("what is open is described as %q, the other as %q", open.Description, get.Description)
	}
	for _, status := range []string{"400", "401", "403", "429", "500", "503"} {
		if get.Responses.Value(status) == nil {
			t.Errorf("status %s is not described", status)
		}
	}
	if post := doc.Paths.Value("/data/toy").Post; post.Responses.Value("422") == nil {
		t.Error("the data dialect's 422 is not described")
	}
	if y := s.As("").Get("/openapi.yaml").Is(200); !strings.HasPrefix(string(y.Body), "components:") && !strings.Contains(string(y.Body), "openapi: 3.1.0") {
		t.Errorf("got %.80s", y.Body)
	}
}

func TestSlowHeadersAreCutOff(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 200<<10))
	answer, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 431") {
		t.Errorf("got %.60s", answer)
	}
}

func TestTracesGoWhereACollectorListens(t *testing.T) {
	t.Parallel()
	paths, spans := make(chan string, 10), make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		select {
		case paths <- r.URL.Path + " " + r.Header.Get("Content-Type"):
			spans <- string(body)
		default:
		}
	}))
	t.Cleanup(collector.Close)
	o := options()
	o.Configure = func(c *server.Config) { c.Telemetry.Endpoint = collector.URL }
	s := blueprinttest.Start(t, store.SQLite, o)
	s.Get("/api/toy/raw", "X-Request-Id", "one-of-mine", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").Is(200)
	s.Get("/api/toy/things/slp_" + strings.Repeat("x", 61)).Is(200) // senders that cannot set a header have a token in the path
	s.Stop()                                                        // sends what was gathered
	if got := <-paths; got != "/v1/traces application/x-protobuf" {
		t.Errorf("got %q", got)
	}
	traceID, _ := hex.DecodeString("0af7651916cd43dd8448eb211c80319c")
	got := <-spans
	for what, text := range map[string]string{"the operation": "toy.raw", "the request's id": "one-of-mine", "the caller's trace": string(traceID)} {
		if !strings.Contains(got, text) {
			t.Errorf("the span does not hold %s", what)
		}
	}
	if strings.Contains(got, "slp_xxx") || !strings.Contains(got, "/api/toy/things/<redacted>") {
		t.Errorf("the span shows a token: %q", got)
	}
}

func TestPagesOfOtherOriginsAreToldWhatTheyMay(t *testing.T) {
	t.Parallel()
	o := options()
	o.Configure = func(c *server.Config) { c.Server.CORS.Origins = []string{"https://portal.example.com"} }
	s := blueprinttest.Start(t, store.SQLite, o)
	read := s.Get("/api/toy/raw", "Origin", "https://portal.example.com").Is(200).Header
	if read.Get("Access-Control-Allow-Origin") != "https://portal.example.com" || !slices.Contains(read.Values("Vary"), "Origin") || !strings.Contains(read.Get("Access-Control-Expose-Headers"), "X-RateLimit-Remaining") {
		t.Errorf("a page of the configured origin gets %v", read)
	}
	ask := []string{"Origin", "https://portal.example.com", "Access-Control-Request-Method", "POST"}
	if before := s.As("").Do("OPTIONS", "/api/toy/things", nil, ask...).Is(204).Header; !strings.Contains(before.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("asked beforehand, it answers %v", before)
	}
	ask[1] = "https://elsewhere.example.com"
	if before := s.As("").Do("OPTIONS", "/api/toy/things", nil, ask...).Is(405).Header; before.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another origin is let in: %v", before)
	}
}
