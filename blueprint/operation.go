package blueprint

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
)

// Public is the permission of an operation that anybody may call. It has to be said aloud.
const Public = "public"

// Operation declares one HTTP operation. Make it with Handle.
//
// The input is a struct: fields tagged path, query or header are parameters (with doc, required, default, minimum, maximum, enum, example tags),
// a field Body is the JSON body, a field RawBody []byte the raw one. The output is a struct: a field Body is the answer, fields tagged header are
// headers, an int field Status overrides the status. Body may be Raw or Streamed.
type Operation struct {
	ID          string // unique, "<blueprint>.<verb>": names the operation in the API description, metrics and traces
	Method      string
	Path        string // pattern with {name} segments
	Wide        string // the path parameter that may hold slashes (an entity ref)
	StreamOf    string // path of the list whose things this operation streams: asked there for text/event-stream, this one answers
	Segments    int    // how many segments Wide may span at most; default 2
	Summary     string
	Description string // Markdown
	Tag         string // group in the reference; "" is the blueprint's name

	Permission string // a declared permission, or Public
	Counted    bool   // a public operation whose calls are counted by address (rateLimits.address)
	OnObject   bool   // the permission is narrowed to an object: the handler must call auth.Require, or the request fails
	Lenient    bool   // unknown query parameters and body fields are ignored

	Status     int            // of success; default 200, 204 without a Body
	Errors     []slipway.Code // what may go wrong beyond invalid, unauthenticated, forbidden, rate_limited, internal, unavailable
	MaxBody    int64          // bytes; default 1 MiB
	Timeout    time.Duration  // of the handler; default 30 s; negative: none (streams)
	Waits      bool           // the handler waits for something, and its context ends when the server stops
	Idempotent bool           // accepts Idempotency-Key (create calls)
	Secret     bool           // the answer holds a secret: never stored for replay, never cached

	Stability  Stability // "" is the blueprint's
	Deprecated time.Time // since when
	Sunset     time.Time // when it goes away

	Columns []string // of the table that a browser shows of a list: paths in its things, such as commit.branch; nil: their first fields

	Request         any // a value of the type that RawBody holds as JSON, for the API description; nil: it holds bytes
	RequestExample  any // of the body
	ResponseExample any // of the body

	before   func(ctx context.Context, service any, r *http.Request) error
	believe  func(ctx context.Context, service any, r *http.Request) (*slipway.Caller, error)
	register func(api huma.API, op huma.Operation, service func() any)
	input    reflect.Type
	output   reflect.Type
}

// Handle ties an operation to a method of the service.
func Handle[S, I, O any](method func(S, context.Context, *I) (*O, error), op Operation) Operation {
	op.input, op.output = reflect.TypeFor[I](), reflect.TypeFor[O]()
	op.register = func(api huma.API, hop huma.Operation, service func() any) {
		huma.Register(api, hop, func(ctx context.Context, in *I) (*O, error) {
			if !op.OnObject {
				return method(service().(S), ctx, in)
			}
			ctx, checked := auth.Track(ctx)
			out, err := method(service().(S), ctx, in)
			if err == nil && !checked() {
				return nil, slipway.Errorf(slipway.Internal, "operation %s answered without checking its permission %s on an object", op.ID, op.Permission)
			}
			return out, err
		})
	}
	return op
}

// Before has a method of the service look at a request before its body is read: for operations that anybody may call and that take large bodies.
func Before[S any](op Operation, method func(S, context.Context, *http.Request) error) Operation {
	op.before = func(ctx context.Context, service any, r *http.Request) error { return method(service.(S), ctx, r) }
	return op
}

// Before is for package server.
func (op Operation) Before(ctx context.Context, service func() any, r *http.Request) error {
	if op.before == nil {
		return nil
	}
	return op.before(ctx, service(), r)
}

// Authenticated has a method of the service look for a credential of the blueprint's own that only this operation takes. It gives nil and no error where a request
// brings none: then the usual ones are looked for. One that is not believed is Unauthenticated.
func Authenticated[S any](op Operation, method func(S, context.Context, *http.Request) (*slipway.Caller, error)) Operation {
	op.believe = func(ctx context.Context, service any, r *http.Request) (*slipway.Caller, error) {
		return method(service.(S), ctx, r)
	}
	return op
}

// Authenticate is for package server.
func (op Operation) Authenticate(ctx context.Context, service func() any, r *http.Request) (*slipway.Caller, error) {
	if op.believe == nil {
		return nil, nil
	}
	return op.believe(ctx, service(), r)
}

// Register mounts the operation on the server's API. It is for package server; service is asked at each request.
func (op Operation) Register(api huma.API, hop huma.Operation, service func() any) {
	op.register(api, hop, service)
}

// Streams says whether the answer is Streamed.
func (op Operation) Streams() bool {
	f, ok := op.output.FieldByName("Body")
	return ok && f.Type == reflect.TypeFor[Streamed]()
}

// Bound says whether the operation was made with Handle.
func (op Operation) Bound() bool { return op.register != nil }

// Raw is an answer whose JSON exists already: it is written as it is, and described as a T.
type Raw[T any] struct {
	JSON []byte
}

// Schema describes Raw as its T. It is called by the API description.
func (Raw[T]) Schema(r huma.Registry) *huma.Schema {
	t := reflect.TypeFor[T]()
	return r.Schema(t, true, t.Name())
}

// MarshalJSON gives the bytes to an envelope around them.
func (b Raw[T]) MarshalJSON() ([]byte, error) { return b.JSON, nil }

// WriteJSON writes the bytes.
func (b Raw[T]) WriteJSON(w io.Writer) error {
	_, err := w.Write(b.JSON)
	return err
}

// Object is a JSON object whose keys come in an order, each with a T.
type Object[T any] []Member[T]

// Member is one of an Object.
type Member[T any] struct {
	Key   string
	Value T
}

// Schema describes an Object. It is called by the API description.
func (Object[T]) Schema(r huma.Registry) *huma.Schema {
	t := reflect.TypeFor[T]()
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: r.Schema(t, true, t.Name())}
}

// MarshalJSON writes the keys in their order.
func (o Object[T]) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(m.Key)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.Value)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Streamed is an answer written as it comes: a log that is followed, an export. Write is called once, after the headers are sent; flush sends what was
// written so far to the caller. An error after the first byte breaks the connection, so that the caller sees that the answer is not whole.
type Streamed struct {
	ContentType string
	Write       func(ctx context.Context, w io.Writer, flush func()) error
	// Still says, while more is written, whether the caller may see it: it is asked every few seconds with the caller as they are by now. Forbidden, Unauthenticated
	// and NotFound end the answer, anything else does not. nil: it is enough that the caller's token counts, which is looked at without it.
	Still func(caller *slipway.Caller) error
}

// Schema describes a stream as text.
func (Streamed) Schema(huma.Registry) *huma.Schema { return &huma.Schema{Type: huma.TypeString} }

// List is a page of things, as every list of the API answers it.
type List[T any] struct {
	Items    []T              `json:"items" doc:"The things, in the order asked for"`
	PageInfo slipway.PageInfo `json:"pageInfo" doc:"Where this page stands"`
}

// Parts gives the things and the page apart, for dialects that name them otherwise.
func (l List[T]) Parts() (items any, page slipway.PageInfo) { return l.Items, l.PageInfo }
