package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

// exchange is what the server notes of one request while it is under way.
type exchange struct {
	server    *Server
	id        string
	start     time.Time
	mount     blueprint.Mount
	path      string // as the caller wrote it
	operation string // id, for logs, metrics and traces
	caller    string
	use       *auth.Use // the right that it used
	cause     error     // of a failure, for the log
	shed      bool      // it was not taken: the log tells of many such at a time
	messages  *blueprint.Messages
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	if x == nil {
		x = &exchange{}
	}
	return x
}

// ProviderTokenHeader is where callers show tokens of their own at providers that show their items only to those who may see them: <provider>=<token>, several
// with commas between.
const ProviderTokenHeader = "Slipway-Provider-Token"

// ServeHTTP is the way of every request: id and limits, dialect by prefix, then the operation (caller, rate limit, permission, decoding, handler), then
// the answer. No step looks sideways.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{server: s, id: requestID(r), start: s.now(), path: r.URL.Path, mount: s.mounts.of(r.URL.Path)}
	ctx := context.WithValue(r.Context(), exchangeKey{}, x)
	ctx, x.messages = blueprint.WithMessages(blueprint.WithRequestID(ctx, x.id))
	r = r.WithContext(ctx)
	rw := newResponse(w, r)
	h := rw.Header()
	h.Set("X-Request-Id", x.id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	s.active.Add(1)
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				s.finish(x, r, rw)
				panic(v)
			}
			x.cause = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			if !rw.discard() {
				s.finish(x, r, rw)
				panic(http.ErrAbortHandler) // half an answer is out: the caller must see that it is not whole
			}
			s.fail(rw, r, slipway.Errorf(slipway.Internal, "panic"))
		}
		rw.finish()
		s.finish(x, r, rw)
	}()
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		h.Add("Vary", "Accept")
		if wantsHTML(r.Header.Get("Accept")) {
			rw.page = s.pageOf(x, r)
		}
	}
	if !s.cors(rw, r) {
		return
	}
	if len(r.Header["Authorization"]) > 1 {
		s.fail(rw, r, slipway.Errorf(slipway.Unauthenticated, "the Authorization header was sent twice; send one"))
		return
	}
	if shown := r.Header.Values(ProviderTokenHeader); len(shown) > 0 {
		ctx, err := task.WithTokens(r.Context(), shown)
		if err != nil {
			s.fail(rw, r, err)
			return
		}
		r = r.WithContext(ctx)
		r.Header.Del(ProviderTokenHeader) // nothing behind this line has to keep it
	}
	if unclean(r.URL.EscapedPath()) { // the mux would redirect, in HTML
		s.nothing(rw, r, slipway.Errorf(slipway.NotFound, "there is nothing at this path; write it without empty segments and dots"))
		return
	}
	if rw.page != nil && r.URL.RawQuery != "" {
		if to, ok := withoutForm(r.URL); ok {
			h.Set("Location", to)
			rw.WriteHeader(http.StatusSeeOther)
			return
		}
	}
	s.widen(r)
	if stream := s.eventStreams[r.URL.Path]; stream != "" && r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		r.URL.Path, r.URL.RawPath = stream, ""
	}
	s.mux.ServeHTTP(rw, r)
}

// unclean says whether a path has empty or dot segments.
func unclean(path string) bool {
	return strings.Contains(path, "//") || strings.Contains(path+"/", "/./") || strings.Contains(path+"/", "/../")
}

// finish logs and counts the request.
func (s *Server) finish(x *exchange, r *http.Request, rw *response) {
	s.active.Add(-1)
	took := s.now().Sub(x.start)
	s.metrics.request(x.operation, r.Method, rw.status, took)
	x.trace(r.Context())
	level := slog.LevelInfo
	switch {
	case x.shed:
		level = slog.LevelDebug
	case rw.status >= 500:
		level = slog.LevelError
	case x.operation == "slipway.health" || x.operation == "slipway.ready" || x.operation == "slipway.metrics":
		level = slog.LevelDebug
	}
	if s.log.Enabled(r.Context(), level) {
		attrs := []slog.Attr{
			slog.String("requestId", x.id), slog.String("method", r.Method), slog.String("path", x.path), slog.String("operation", x.operation),
			slog.Int("status", rw.status), slog.Float64("ms", math.Round(took.Seconds()*1e6)/1e3), slog.Int64("bytes", rw.sent),
		}
		if x.caller != "" {
			attrs = append(attrs, slog.String("caller", x.caller))
		}
		if permission, object, held := x.use.Right(); permission != "" {
			attrs = append(attrs, slog.String("permission", permission), slog.String("held", held))
			if object != "" {
				attrs = append(attrs, slog.String("object", object))
			}
		}
		if x.cause != nil {
			attrs = append(attrs, slog.String("error", x.cause.Error()))
		}
		s.log.LogAttrs(r.Context(), level, "request", attrs...)
	}
	rw.release()
}

// requestID takes the caller's id when it is well-formed, else makes one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	ok := len(id) >= 1 && len(id) <= 64
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
	}
	if ok {
		return id
	}
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return hex.EncodeToString(b[:])
}

// cors answers pre-flight requests and marks answers for the configured origins. It says whether to go on.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || len(s.config.Server.CORS.Origins) == 0 {
		return true
	}
	w.Header().Add("Vary", "Origin")
	if !slices.Contains(s.config.Server.CORS.Origins, origin) {
		return true
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "Deprecation, ETag, Idempotency-Replayed, Link, Location, Retry-After, Sunset, Warning, WWW-Authenticate, X-Request-Id, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return true
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Slipway-Provider-Token, If-Match, If-None-Match, Idempotency-Key, X-Request-Id")
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return false
}

// wide is a path with one parameter that may hold slashes: what lies between prefix and suffix is that parameter.
type wide struct {
	prefix string   // "/api/build/by-entity/"
	suffix []string // {"builds", "{id}", "logs"}
	max    int      // how many segments the parameter may span
}

// widen encodes a parameter that holds slashes into one segment, read from the right, because a ServeMux pattern cannot say it:
// /api/build/by-entity/component:default/web/search becomes …/component%3Adefault%2Fweb/search.
func (s *Server) widen(r *http.Request) {
	path := r.URL.EscapedPath()
	for _, w := range s.wides {
		rest, ok := strings.CutPrefix(path, w.prefix)
		if !ok {
			continue
		}
		parts := strings.Split(rest, "/")
		n := len(parts) - len(w.suffix)
		if n < 2 || n > w.max || !suffixFits(parts[n:], w.suffix) {
			continue
		}
		// %2F in the escaped path is what the mux decodes into a slash within one segment.
		joined := strings.Join(parts[:n], "%2F")
		raw := w.prefix + strings.Join(append([]string{joined}, parts[n:]...), "/")
		if decoded, err := url.PathUnescape(raw); err == nil {
			r.URL.Path, r.URL.RawPath = decoded, raw
		}
		return
	}
}

func suffixFits(parts, suffix []string) bool {
	for i, want := range suffix {
		if parts[i] == "" || !strings.HasPrefix(want, "{") && parts[i] != want {
			return false
		}
	}
	return true
}

// unknown answers what no operation serves: 405 when another method would do, else 404.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		probe := r.Clone(r.Context())
		probe.Method = method
		if _, pattern := s.mux.Handler(probe); pattern != "" && pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) > 0 && !slices.Contains(allowed, r.Method) {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		s.nothing(w, r, slipway.Errorf(slipway.MethodNotAllowed, "%s is not offered here; use %s", r.Method, strings.Join(allowed, " or ")))
		return
	}
	s.nothing(w, r, slipway.Errorf(slipway.NotFound, "there is nothing at %s; /docs lists all operations", clip(r.URL.Path)))
}

// nothing answers where there is no operation. A credential is looked at and counted as anywhere else, so that this is no place to try tokens; none is needed.
func (s *Server) nothing(w http.ResponseWriter, r *http.Request, err error) {
	if r.Header.Get("Authorization") != "" {
		caller, refused := s.identify(r.Context(), w, r, nil)
		if caller != nil {
			exchangeOf(r.Context()).caller = caller.Subject
		}
		if refused != nil {
			err = refused
		}
	}
	s.fail(w, r, err)
}

func clip(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}

// fail writes an error in the dialect of the path.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, headers, body := s.failure(r.Context(), r.Method, err, 0)
	for k, v := range headers {
		w.Header().Set(k, v)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = writeJSON(w, body)
}

// failure turns an error into status, headers and body of the dialect, and notes the cause for the log.
func (s *Server) failure(ctx context.Context, method string, err error, status int) (int, map[string]string, any) {
	x := exchangeOf(ctx)
	coded, ok := errors.AsType[*slipway.Error](store.Err(err))
	switch {
	case ok:
	case errors.Is(err, context.DeadlineExceeded):
		coded = slipway.Errorf(slipway.Unavailable, "it took too long; try again").WithCause(err)
	case errors.Is(err, context.Canceled):
		coded = slipway.Errorf(slipway.Unavailable, "the request was given up").WithCause(err)
	default:
		if code, isCode := errors.AsType[slipway.Code](err); isCode {
			coded = slipway.Errorf(code, "%s", err.Error())
		} else {
			coded = slipway.Errorf(slipway.Internal, "%s", err.Error()).WithCause(err)
		}
	}
	d := dialects[x.mount.Dialect]
	if d.fail == nil {
		d = dialects[blueprint.API]
	}
	if status == 0 && coded.Code == slipway.Invalid && len(coded.Details) > 0 && strings.HasPrefix(coded.Details[0].Field, "/") {
		status = d.invalidBody // a JSON pointer points into the body
	}
	if status == 0 {
		status = statuses[coded.Code]
		if status == 0 {
			status = http.StatusInternalServerError
		}
	}
	if x.cause == nil && status >= 500 {
		x.cause = err
	}
	headers := map[string]string{}
	switch coded.Code {
	case slipway.Unauthenticated:
		headers["WWW-Authenticate"] = `Bearer realm="slipway"`
	case slipway.RateLimited, slipway.Unavailable:
		after := coded.RetryAfter
		if after <= 0 {
			after = 5 * time.Second
		}
		headers["Retry-After"] = strconv.Itoa(int(math.Ceil(after.Seconds())))
	}
	return status, headers, d.fail(failure{
		status: status, err: publicMessage(coded, x.id), requestID: x.id, method: method, path: x.path, prefix: x.mount.Prefix,
	})
}

// written is an error as huma wants it: with its status, written as the dialect's body.
type written struct {
	status int
	body   any
	text   string
}

func (e *written) Error() string                { return e.text }
func (e *written) GetStatus() int               { return e.status }
func (e *written) ContentType(string) string    { return "application/json" }
func (e *written) WriteJSON(w io.Writer) error  { return writeJSON(w, e.body) }
func (e *written) MarshalJSON() ([]byte, error) { return json.Marshal(e.body) }

var errNeedsGzip = slipway.Errorf(slipway.Invalid, "this file is sent compressed; send Accept-Encoding: gzip")

// huma keeps these for the whole process: a list is never null, and one hook makes all errors; each request knows its server.
func init() {
	huma.DefaultArrayNullable = false
	huma.NewErrorWithContext = func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		if s := exchangeOf(ctx.Context()).server; s != nil {
			return s.humaError(ctx, status, message, errs...)
		}
		return &written{status: status, body: apiError{Error: message, Code: slipway.Internal}, text: message}
	}
}

// humaError turns what huma reports (faults of the input, errors of handlers) into a coded error of the dialect.
func (s *Server) humaError(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
	var err error
	out := 0
	switch {
	case status == http.StatusInternalServerError && len(errs) > 0:
		err = errs[0]
	case status == http.StatusRequestEntityTooLarge:
		err = tooLarge(ctx.Operation().MaxBodyBytes - 1)
	case status == http.StatusUnsupportedMediaType:
		err = slipway.Errorf(slipway.UnsupportedMedia, "send the body as application/json")
	case status == http.StatusRequestTimeout:
		err = slipway.Errorf(slipway.Invalid, "the body did not arrive in time")
	default:
		fault := slipway.Errorf(slipway.Invalid, "%s", message)
		inBody := false
		for _, e := range errs {
			d := slipway.Detail{Code: slipway.Invalid, Message: e.Error()}
			if h, ok := e.(*huma.ErrorDetail); ok {
				d.Message = h.Message
				d.Field, inBody = fieldName(h.Location, inBody)
			} else if strings.Contains(d.Message, "character") || strings.Contains(d.Message, "JSON") || strings.Contains(d.Message, "UTF-8") {
				d.Field, d.Message = "body", "the body is not JSON: "+d.Message
			}
			fault.Details = append(fault.Details, d)
		}
		if len(fault.Details) == 1 {
			fault.Message = strings.TrimPrefix(fault.Details[0].Field+": "+fault.Details[0].Message, ": ")
		} else if message == "validation failed" {
			fault.Message = "the request does not fit; see details"
		}
		if inBody {
			out = dialects[exchangeOf(ctx.Context()).mount.Dialect].invalidBody
		}
		err = fault
	}
	code, headers, body := s.failure(ctx.Context(), ctx.Method(), err, out)
	for k, v := range headers {
		ctx.SetHeader(k, v)
	}
	return &written{status: code, body: body, text: message}
}

// fieldName turns huma's location ("body.spec.owner", "query.limit") into the name that the caller wrote.
func fieldName(location string, inBody bool) (string, bool) {
	where, name, _ := strings.Cut(location, ".")
	switch where {
	case "body":
		if name == "" {
			name = "body"
		}
		return name, true
	case "query", "path", "header":
		return name, inBody
	}
	return location, inBody
}

// jsonFormat is how JSON is read and written: answers that exist as bytes go out as they are, bodies must be UTF-8.
var jsonFormat = huma.Format{
	Marshal: func(w io.Writer, v any) error { return writeJSON(w, v) },
	Unmarshal: func(data []byte, v any) error {
		switch {
		case !utf8.Valid(data):
			return errors.New("it is not valid UTF-8")
		case depth(data) > maxDepth:
			return fmt.Errorf("JSON nested deeper than %d levels is not read", maxDepth)
		}
		return json.Unmarshal(data, v)
	},
}

// maxDepth is how deep a body may be nested.
const maxDepth = 100

// depth is how deep the brackets of a JSON text go; the text need not be sound.
func depth(data []byte) (deepest int) {
	open, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			open++
			deepest = max(deepest, open)
		case c == '}' || c == ']':
			open--
		}
	}
	return deepest
}

// single refuses a query that does not parse, and a parameter that was sent twice though it has one value: either would silently ask for something
// else than was meant.
func single(raw string, multiple map[string]bool) error {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return slipway.Errorf(slipway.Invalid, "the query does not parse; percent-encode %%, &, + and ; in values").WithCause(err)
	}
	for name, values := range query {
		if len(values) > 1 && !multiple[name] {
			return slipway.Errorf(slipway.Invalid, "%s: was sent %d times; send it once", clip(name), len(values)).
				WithDetails(slipway.Detail{Field: clip(name), Code: slipway.Invalid, Message: "send it once"})
		}
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	switch v := v.(type) {
	case interface{ WriteJSON(io.Writer) error }:
		return v.WriteJSON(w)
	case blueprint.Streamed:
		return writeStream(w, v)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// guard is what stands before every operation: a place to work, caller, rate limit, permission, body, time limit, idempotency. While a body arrives the request has
// no place: whoever sends slowly keeps nobody else waiting.
// multiple holds the query parameters that may repeat; it is nil for lenient operations.
func (s *Server) guard(op blueprint.Operation, service func() any, multiple map[string]bool) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(hc)
		ctx := r.Context()
		x := exchangeOf(ctx)
		x.operation = op.ID
		x.use = &auth.Use{RequestID: x.id, Address: s.address(r)}
		ctx = auth.WithUse(ctx, x.use)
		done := func() {}
		place := func() (err error) {
			if slices.Contains(unshed, op.ID) {
				return nil
			}
			leave, err := s.load.enter(ctx, classOf(op))
			if x.shed = err != nil; !x.shed {
				done = leave
			}
			return err
		}
		defer func() { done() }()
		if err := place(); err != nil {
			s.fail(w, r, err)
			return
		}
		caller, err := s.admit(ctx, w, r, op, service)
		if caller != nil {
			x.caller = caller.Subject
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		if err := op.Before(ctx, service, r); err != nil {
			s.fail(w, r, err)
			return
		}
		if guessed(op) {
			if err := s.blocked.check(s.address(r), s.now()); err != nil {
				s.fail(w, r, err)
				return
			}
			defer func() { s.countRefusal(ctx, r, w.(*response).status) }()
		}
		var body []byte
		if takesBody(r) {
			done()
			var leave func()
			if body, leave, err = s.receive(w, r, op, caller); err == nil {
				defer leave()
				err = place()
			}
			if err != nil {
				s.fail(w, r, err)
				return
			}
		}
		if op.Timeout < 0 {
			leave, err := s.streams.enter(caller)
			if err != nil {
				s.fail(w, r, err)
				return
			}
			defer leave()
		}
		if multiple != nil && r.URL.RawQuery != "" {
			if err := single(r.URL.RawQuery, multiple); err != nil {
				s.fail(w, r, err)
				return
			}
		}
		if !op.Deprecated.IsZero() {
			w.Header().Set("Deprecation", "@"+strconv.FormatInt(op.Deprecated.Unix(), 10))
			if !op.Sunset.IsZero() {
				w.Header().Set("Sunset", op.Sunset.UTC().Format(http.TimeFormat))
			}
			blueprint.Warn(ctx, "this operation is deprecated; see /docs")
		}
		if op.Timeout < 0 || op.Waits { // it has a bound of its own, and mostly waits
			done()
		}
		ctx = auth.WithCaller(ctx, caller)
		if op.Timeout >= 0 {
			limit := op.Timeout
			if limit == 0 {
				limit = 30 * time.Second
			}
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
			if op.Waits {
				defer context.AfterFunc(s.draining, cancel)()
			}
		} else {
			var cancel context.CancelFunc
			ctx, cancel = context.WithCancel(ctx)
			defer cancel()
			stop := context.AfterFunc(s.draining, cancel) // streams end when the server does
			defer stop()
			_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
			if op.Permission != blueprint.Public {
				ctx = auth.WithAgain(ctx, func(ctx context.Context) (*slipway.Caller, error) { return s.auth.Authenticate(ctx, r) })
			}
		}
		if rw, ok := w.(*response); ok {
			rw.ctx, rw.leave = ctx, done
			rw.private = op.Secret
			ctx = blueprint.WithPrivate(ctx, func() { rw.private = true })
		}
		hc = huma.WithContext(hc, ctx)
		if keys := r.Header.Values("Idempotency-Key"); len(keys) > 0 && op.Idempotent && r.URL.Query().Get("dryRun") != "true" {
			s.once(hc, op, caller, keys, body, next)
		} else {
			next(hc)
		}
		s.audit(ctx, op, caller, w)
	}
}

// audit writes down who changed something, and by which right.
func (s *Server) audit(ctx context.Context, op blueprint.Operation, caller *slipway.Caller, w http.ResponseWriter) {
	rw, ok := w.(*response)
	if op.Permission == blueprint.Public || op.Method == http.MethodGet || !ok || rw.status >= 300 || rw.request.URL.Query().Get("dryRun") == "true" {
		return
	}
	s.record(ctx, caller, op.ID)
}

// record writes down what the caller has done, by the right that the request used. The log has what the record could not take.
func (s *Server) record(ctx context.Context, caller *slipway.Caller, action string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.auth.AuditUse(ctx, caller, action); err != nil {
		permission, object, held := exchangeOf(ctx).use.Right()
		s.log.ErrorContext(ctx, "what was done is not in the record", "requestId", exchangeOf(ctx).id, "operation", action, "caller", caller.Subject,
			"permission", permission, "object", object, "held", held, "error", err)
	}
}

// admit says who calls and whether they may go on. The rate limit comes before the permission, so that a 403 has the headers too.
func (s *Server) admit(ctx context.Context, w http.ResponseWriter, r *http.Request, op blueprint.Operation, service func() any) (*slipway.Caller, error) {
	if op.Permission == blueprint.Public {
		caller, err := s.auth.Authenticate(ctx, r)
		if err != nil {
			caller = auth.CallerFrom(context.Background()) // a webhook may bring an Authorization of its own
		}
		if !op.Counted {
			return caller, nil
		}
		limit, err := s.auth.Count(ctx, auth.CallerFrom(context.Background()), s.address(r))
		setLimit(w, limit)
		return caller, err
	}
	caller, err := s.identify(ctx, w, r, func() (*slipway.Caller, error) { return op.Authenticate(ctx, service, r) })
	if err != nil {
		return caller, err
	}
	ctx = auth.WithCaller(ctx, caller)
	if s.permissions[op.Permission].Object != "" {
		return caller, auth.RequireAny(ctx, op.Permission)
	}
	return caller, auth.Require(ctx, op.Permission, auth.Object{})
}

// identify says who calls and counts the call. The caller is nil when nobody is believed, and given beside the error when it called too often. own looks
// for credentials that only the operation takes.
func (s *Server) identify(ctx context.Context, w http.ResponseWriter, r *http.Request, own func() (*slipway.Caller, error)) (caller *slipway.Caller, err error) {
	if own != nil {
		caller, err = own()
	}
	if caller == nil && err == nil {
		caller, err = s.auth.Authenticate(ctx, r)
	}
	if err != nil || caller.Kind == slipway.CallerAnonymous {
		if err == nil {
			err = slipway.Errorf(slipway.Unauthenticated, "this needs a token: run slipway login or set SLIPWAY_TOKEN; over HTTP, send Authorization: Bearer <token>")
		}
		if slipway.CodeOf(err) == slipway.Unauthenticated {
			limit, tooMany := s.auth.CountFailure(ctx, s.address(r))
			if tooMany != nil {
				setLimit(w, limit)
				err = tooMany
			}
		}
		return nil, err
	}
	limit, err := s.auth.Count(ctx, caller, "")
	setLimit(w, limit)
	return caller, err
}

func setLimit(w http.ResponseWriter, l auth.Limit) {
	if l.Limit == 0 {
		return
	}
	h := w.Header()
	h.Set("X-RateLimit-Limit", strconv.FormatInt(l.Limit, 10))
	h.Set("X-RateLimit-Remaining", strconv.FormatInt(max(0, l.Remaining), 10))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(l.Reset.Unix(), 10))
}

// address is the caller's address: the connection's, or what a trusted proxy says. The header is read from its end, where the nearest proxy has written: what the first one
// that is not trusted wrote before is its own word. An entry that is no address ends it as well; whoever wrote it says nothing.
func (s *Server) address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if len(s.trusted) == 0 {
		return host
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		if !auth.Trusts(s.trusted, host) {
			return host
		}
		if hop := strings.TrimSpace(hops[i]); hop != "" {
			a, err := parseHop(hop)
			if err != nil {
				return host
			}
			host = a.String()
		}
	}
	return host
}

// parseHop reads an entry of X-Forwarded-For: an address, with a port where the proxy writes one, as some do.
func parseHop(hop string) (netip.Addr, error) {
	if p, err := netip.ParseAddrPort(hop); err == nil {
		return p.Addr().Unmap().WithZone(""), nil
	}
	a, err := netip.ParseAddr(strings.Trim(hop, "[]"))
	return a.Unmap().WithZone(""), err
}

// basePatterns are the paths that the server serves beside the operations.
var basePatterns = []string{
	"GET /{$}", "GET /docs", "GET /docs/scalar.js", "GET /docs/api", "GET /docs/operations", "GET /docs/operations/{id}", "GET /docs/permissions", "GET /docs/events", "GET /docs/commands",
	"GET /docs/schedules", "GET /docs/config", "GET /docs/search", "GET /docs/{page...}", "GET /openapi.json", "GET /openapi.yaml",
}
