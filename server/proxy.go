package server

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/resource"
)

// proxyPrefix is where proxies are found.
const proxyPrefix = "/api/proxy/"

// followEvery is how often somebody who stays on a proxied stream is asked whether they still may.
const followEvery = time.Second

var (
	proxyName    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,40}$`)
	proxyMethods = []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
)

// Headers that a proxy passes on to nobody, beside those of the connection, which httputil removes.
var (
	// What a caller shows to Slipway, and what only we say of a caller. Those that begin with Slipway- go too.
	ownRequestHeaders = []string{
		"Authorization", "Cookie", "Origin", "Referer", "Forwarded", "Via", "X-Real-Ip", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-For",
		"X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Csrf-Token", "X-Request-Id", "Expect",
	}
	// What would speak for this server to a browser, or is said by us.
	ownResponseHeaders = []string{
		"Set-Cookie", "Set-Cookie2", "Www-Authenticate", "Proxy-Authenticate", "Authentication-Info", "Strict-Transport-Security", "Public-Key-Pins", "Clear-Site-Data", "Alt-Svc",
		"Refresh", "Service-Worker-Allowed", "Sourcemap", "Content-Location", "Content-Security-Policy", "Content-Security-Policy-Report-Only", "X-Content-Type-Options",
		"Referrer-Policy", "X-Frame-Options", "X-Request-Id", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Nel", "Report-To", "Reporting-Endpoints", "Server",
		"X-Accel-Redirect", "X-Sendfile", "Cdn-Cache-Control", "Surrogate-Control",
	}
	// What describes a body; let through by every list.
	bodyHeaders = []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Range", "Accept-Ranges", "Date", "Location", "Retry-After", "Trailer", "Vary"}
	// What a WebSocket cannot do without.
	upgradeHeaders = []string{"Connection", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions", "Sec-Websocket-Accept"}
)

func ownPermission(proxy string) string { return "proxy." + proxy + ".use" }

func proxyPermission(p blueprint.Proxy) auth.Permission {
	text := "Use the proxy " + p.Name
	if p.Text != "" {
		text += ": " + p.Text
	}
	return auth.Permission{Name: ownPermission(p.Name), Text: text}
}

// proxies lists the proxies of the enabled blueprints and of the configuration, completed, by name.
func (c *Config) proxies(enabled []blueprint.Blueprint) (list []blueprint.Proxy) {
	all := map[string]blueprint.Proxy{}
	for _, b := range enabled {
		for _, p := range b.Proxies {
			all[p.Name] = p
		}
	}
	for name, configured := range c.Proxies {
		p := all[name]
		overlay(reflect.ValueOf(&p).Elem(), reflect.ValueOf(configured))
		p.Name = name
		all[name] = p
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name].WithDefaults())
	}
	return list
}

// overlay sets the fields of a struct that are not zero in another.
func overlay(to, from reflect.Value) {
	for i := range to.NumField() {
		switch f := from.Field(i); {
		case f.Kind() == reflect.Struct:
			overlay(to.Field(i), f)
		case !f.IsZero():
			to.Field(i).Set(f)
		}
	}
}

// checkProxy says what is wrong with a proxy, whatever the network says of its target.
func checkProxy(p blueprint.Proxy, permissions []auth.Permission) (faults []slipway.Detail) {
	fault := func(field, format string, args ...any) {
		faults = append(faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
	}
	if !proxyName.MatchString(p.Name) {
		fault("target", "the name %.60q must be one word of small letters, digits and dashes that begins with a letter", p.Name)
	}
	if u, err := url.Parse(p.Target); p.Target != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		fault("target", "must be an http:// or https:// address without user, query and fragment") // not shown: it may hold a password
	} else if p.Target != "" && climbs(u.EscapedPath()) {
		fault("target", "must have no . and .. in its path")
	}
	for _, m := range p.Methods {
		if !slices.Contains(proxyMethods, m) {
			fault("methods", "%.60q is not one of %s", m, strings.Join(proxyMethods, ", "))
		}
	}
	if !slices.ContainsFunc(permissions, func(d auth.Permission) bool { return d.Name == p.Permission }) {
		fault("permission", "no enabled blueprint declares %.60q", p.Permission)
	}
	for key, names := range map[string][]string{"headers.request": p.Headers.Request, "headers.response": p.Headers.Response, "headers.set": slices.Collect(maps.Keys(p.Headers.Set)), "header": {p.Header}} {
		for _, name := range names {
			if name == "" && key == "header" {
				continue
			}
			own := ownRequestHeaders
			if key == "headers.response" {
				own = ownResponseHeaders
			}
			canonical := textproto.CanonicalMIMEHeaderKey(name)
			switch {
			case name == "" || strings.ContainsAny(name, " \t\r\n:\"(),/;<=>?@[\\]{}"):
				fault(key, "%.60q is no name of a header", name)
			case key != "header" && (slices.Contains(own, canonical) || strings.HasPrefix(canonical, "Slipway-")):
				fault(key, "%s is never passed on", canonical)
			}
		}
	}
	for name, value := range p.Headers.Set {
		if strings.ContainsAny(value, "\r\n\x00") {
			fault("headers.set", "the value of %.60q holds a line break", name)
		}
	}
	if p.Header != "" && p.Credential == "" {
		fault("header", "says how a credential is shown, and no credential is named")
	}
	for key, d := range map[string]slipway.Duration{"timeout": p.Timeout, "idle": p.Idle} {
		if d < 0 || d.Std() > 24*time.Hour {
			fault(key, "%s is not between 0 and 24h", d)
		}
	}
	if p.MaxBody < 0 || p.MaxBody > 10<<30 {
		fault("maxBody", "%s is not between 0 and 10GiB", p.MaxBody)
	}
	if p.Retries > 5 {
		fault("retries", "%d is more than 5", p.Retries)
	}
	return faults
}

// climbs says whether a path leads out of where it was put, however often a target may decode it, or holds what no path does.
func climbs(escaped string) bool {
	for range 4 {
		for segment := range strings.FieldsFuncSeq(escaped, func(r rune) bool { return r == '/' || r == '\\' }) {
			if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
				return true
			}
		}
		if strings.ContainsFunc(escaped, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
			return true
		}
		decoded, err := url.PathUnescape(escaped)
		if err != nil || decoded == escaped {
			return false // what does not decode now is left to the target, which was shown no dots
		}
		escaped = decoded
	}
	return true
}

// proxy is one at work. Safe for concurrent use.
type proxy struct {
	blueprint.Proxy
	server    *Server
	target    *url.URL // nil: nobody has said where
	base      string   // escaped path of the target, without a slash at the end
	transport *http.Transport
	reverse   *httputil.ReverseProxy
	request   map[string]bool // headers that are let through; nil: all but our own
	response  map[string]bool
	own       map[string]bool // headers of requests that are ours
	shown     atomic.Pointer[shown]
}

// shown is the credential as the target is shown it.
type shown struct{ header, value string }

// openProxies makes the proxies and mounts them. Nothing is connected to.
func (s *Server) openProxies() error {
	s.proxies = map[string]*proxy{}
	for _, d := range s.config.proxies(s.blueprints) {
		p, err := s.openProxy(d)
		if err != nil {
			return fmt.Errorf("proxies.%s.target: %w", d.Name, err)
		}
		s.proxies[d.Name] = p
		s.describeProxy(s.api, d)
		if p.transport != nil {
			s.closers = append(s.closers, func() error { p.transport.CloseIdleConnections(); return nil })
		}
	}
	if len(s.proxies) == 0 {
		return nil
	}
	s.revisions.Watch(resource.Revision("credentials"), func() {
		for _, p := range s.proxies {
			p.shown.Store(nil)
		}
	})
	s.mux.HandleFunc(proxyPrefix+"{proxy}", s.proxied)
	s.mux.HandleFunc(proxyPrefix+"{proxy}/{path...}", s.proxied)
	return nil
}

func (s *Server) openProxy(d blueprint.Proxy) (*proxy, error) {
	p := &proxy{Proxy: d, server: s, own: setOf(ownRequestHeaders, []string{s.config.Auth.SignIn.TLSHeader.Name})}
	if len(d.Headers.Request) > 0 {
		p.request = setOf(d.Headers.Request, []string{"Content-Type", "Content-Length", "Content-Encoding", "User-Agent", "Te"}, upgradeHeaders)
	}
	if len(d.Headers.Response) > 0 {
		p.response = setOf(d.Headers.Response, bodyHeaders, upgradeHeaders)
	}
	if d.Target == "" {
		return p, nil
	}
	var err error
	if p.target, err = url.Parse(d.Target); err != nil {
		return nil, err
	}
	p.base = strings.TrimSuffix(p.target.EscapedPath(), "/")
	named := s.config.Proxies[d.Name].Target != ""
	if p.transport, err = s.fetch.Transport(d.Target, named); err != nil {
		return nil, err
	}
	p.reverse = &httputil.ReverseProxy{
		Rewrite: p.rewrite, Transport: p, ModifyResponse: p.modify, ErrorHandler: p.failed, BufferPool: &proxyBuffers,
		FlushInterval: 100 * time.Millisecond, // what has no length is flushed at once, see its documentation
		ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return p, nil
}

func setOf(lists ...[]string) map[string]bool {
	set := map[string]bool{}
	for _, list := range lists {
		for _, name := range list {
			if name != "" {
				set[textproto.CanonicalMIMEHeaderKey(name)] = true
			}
		}
	}
	return set
}

// proxied is the way of a request through a proxy: caller, rate limit and permission as for any operation, then to the target.
func (s *Server) proxied(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	p := s.proxies[r.PathValue("proxy")]
	if p == nil {
		s.nothing(w, r, slipway.Errorf(slipway.NotFound, "there is no proxy of this name; GET /api/proxies lists those that there are"))
		return
	}
	x.operation = "proxy." + p.Name
	x.use = &auth.Use{RequestID: x.id, Address: s.address(r)}
	ctx := auth.WithUse(r.Context(), x.use)
	caller, err := s.identify(ctx, w, r, nil)
	if caller != nil {
		x.caller = caller.Subject
	}
	if err == nil {
		err = auth.Require(auth.WithCaller(ctx, caller), p.Permission, auth.Object{})
	}
	if err == nil {
		err = p.admits(w, r)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	rw := w.(*response)
	record := func() { s.record(ctx, caller, x.operation+" "+r.Method) }
	defer func() { // also when the answer broke off: it was done
		safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
		if !safe && rw.status < 400 {
			record()
		}
	}()
	p.serve(rw, r, caller, record)
}

// admits says whether a request of somebody who may use the proxy is one that it takes.
func (p *proxy) admits(w http.ResponseWriter, r *http.Request) error {
	switch {
	case p.target == nil:
		return slipway.Errorf(slipway.Unsupported, "the proxy %s has no target yet; an operator sets proxies.%s.target", p.Name, p.Name)
	case !slices.Contains(p.Methods, r.Method):
		w.Header().Set("Allow", strings.Join(p.Methods, ", "))
		return slipway.Errorf(slipway.MethodNotAllowed, "%s does not go through the proxy %s; use %s", clip(r.Method), p.Name, strings.Join(p.Methods, " or "))
	case climbs(p.rest(r)):
		return slipway.Errorf(slipway.Invalid, "the path leads out of the proxy; write it without dots as segments, backslashes and control characters")
	case r.ContentLength > int64(p.MaxBody):
		return slipway.Errorf(slipway.TooLarge, "the body is larger than the proxy %s takes (%s)", p.Name, p.MaxBody)
	}
	if upgrade := r.Header.Get("Upgrade"); upgrade != "" && hasToken(r.Header["Connection"], "upgrade") {
		if !p.Upgrades || !strings.EqualFold(upgrade, "websocket") || r.Method != http.MethodGet {
			return slipway.Errorf(slipway.Invalid, "the proxy %s takes no %s; an operator can let WebSockets through with proxies.%s.upgrades", p.Name, clip(upgrade), p.Name)
		}
		// A browser opens WebSockets for pages of any origin, with our cookies, and asks nobody.
		if origin := r.Header.Get("Origin"); origin != "" && !p.server.ownOrigin(r, origin) {
			return slipway.Errorf(slipway.Forbidden, "pages of %s may not open WebSockets here; an operator can name them in server.cors.origins", clip(origin))
		}
	}
	return nil
}

// ownOrigin says whether an Origin is this server's own, or one that the configuration names.
func (s *Server) ownOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && (strings.EqualFold(u.Host, r.Host) || origin == s.externalURL() || slices.Contains(s.config.Server.CORS.Origins, origin))
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// rest is the path behind the proxy's name, as the caller wrote it; the name itself may be written in other ways too.
func (p *proxy) rest(r *http.Request) string {
	path := strings.TrimPrefix(r.URL.EscapedPath(), proxyPrefix)
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[i:]
	}
	return ""
}

// buffers are what bodies are copied with.
type buffers struct{ sync.Pool }

var proxyBuffers = buffers{sync.Pool{New: func() any { return new([32 << 10]byte) }}}

func (b *buffers) Get() []byte  { return b.Pool.Get().(*[32 << 10]byte)[:] }
func (b *buffers) Put(p []byte) { b.Pool.Put((*[32 << 10]byte)(p)) }

// passage is one request on its way through.
type passage struct {
	request *http.Request // as it was sent, to ask again whether its caller is believed
	caller  *slipway.Caller
	cancel  context.CancelCauseFunc
	wait    *time.Timer // until the answer begins
	shown   *shown
	leave   func() // ends the count of a stream
	page    func(int, http.Header, []byte) []byte
}

type passageKey struct{}

var (
	errSlow     = errors.New("no answer began in time")
	errSilent   = errors.New("an answer that had begun was silent for too long")
	errNoLonger = errors.New("the caller may no longer use the proxy")
)

// serve passes a request on. upgraded is called when a WebSocket begins, which may last for days.
func (p *proxy) serve(w *response, r *http.Request, caller *slipway.Caller, upgraded func()) {
	s := p.server
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.draining, func() { cancel(context.Canceled) })() // streams end when the server does
	t := &passage{request: r, caller: caller, cancel: cancel, page: w.page}
	var err error
	if t.shown, err = p.credential(ctx); err != nil {
		s.fail(w, r, err)
		return
	}
	t.wait = time.AfterFunc(p.Timeout.Std(), func() { cancel(errSlow) })
	defer t.wait.Stop()
	defer func() {
		if t.leave != nil {
			t.leave()
		}
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			exchangeOf(ctx).cause = cause
		}
	}()
	r = r.WithContext(context.WithValue(ctx, passageKey{}, t))
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(w, r.Body, int64(p.MaxBody))
	}
	w.page = nil // the target's answer is the target's
	p.reverse.ServeHTTP(&proxyWriter{response: w, server: s, own: w.Header().Clone(), upgraded: upgraded}, r)
}

// rewrite makes of a caller's request the one to the target.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	out.URL.Scheme, out.URL.Host, out.Host = p.target.Scheme, p.target.Host, p.target.Host
	rest := p.rest(in)
	escaped := p.base + rest
	if escaped == "" {
		escaped = "/"
	}
	out.URL.Path, out.URL.RawPath = escaped, ""
	if path, err := url.PathUnescape(escaped); err == nil {
		out.URL.Path, out.URL.RawPath = path, escaped
	}
	for name := range out.Header {
		if p.own[name] || strings.HasPrefix(name, "Slipway-") || strings.HasPrefix(name, "Ssl-Client-") || p.request != nil && !p.request[name] {
			delete(out.Header, name)
		}
	}
	if _, said := out.Header["User-Agent"]; !said {
		out.Header["User-Agent"] = nil // ours would say what the caller did not
	}
	s, t, h := p.server, in.Context().Value(passageKey{}).(*passage), out.Header
	h.Set("X-Forwarded-For", s.address(in))
	h.Set("X-Forwarded-Host", in.Host)
	h.Set("X-Forwarded-Proto", strings.SplitN(s.externalURL(), ":", 2)[0])
	h.Set("X-Forwarded-Prefix", proxyPrefix+p.Name)
	h.Set("X-Request-Id", exchangeOf(in.Context()).id)
	for name, value := range p.Headers.Set {
		h.Set(name, value)
	}
	if t.shown != nil {
		h.Set(t.shown.header, t.shown.value)
	}
}

// RoundTrip asks the target, and once more where that is safe: nothing was asked that changes anything, there was no body, and no answer began.
func (p *proxy) RoundTrip(req *http.Request) (*http.Response, error) {
	safe := (req.Body == nil || req.Body == http.NoBody) && (req.Method == http.MethodGet || req.Method == http.MethodHead || req.Method == http.MethodOptions) &&
		req.Header.Get("Upgrade") == ""
	for again := 0; ; again++ {
		res, err := p.transport.RoundTrip(req)
		if err == nil || !safe || again >= p.Retries || req.Context().Err() != nil {
			return res, err
		}
		p.server.metrics.retries.WithLabelValues(p.Name).Inc()
	}
}

// modify makes of the target's answer the one to the caller.
func (p *proxy) modify(res *http.Response) error {
	s, t := p.server, res.Request.Context().Value(passageKey{}).(*passage)
	if !t.wait.Stop() {
		return errSlow
	}
	upgraded := res.StatusCode == http.StatusSwitchingProtocols
	if t.shown != nil && (res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusProxyAuthRequired) {
		return slipway.Errorf(slipway.Unavailable, "the target of the proxy %s refuses the credential that it is shown; an operator must look at proxies.%s.credential", p.Name, p.Name).
			WithCause(fmt.Errorf("it answered %s", res.Status))
	}
	location := res.Header.Get("Location")
	for name := range res.Header {
		if slices.Contains(ownResponseHeaders, name) || strings.HasPrefix(name, "Access-Control-") || strings.HasPrefix(name, "Slipway-") || p.response != nil && !p.response[name] {
			delete(res.Header, name)
		}
	}
	if location != "" {
		p.relocate(res, location)
	}
	h := res.Header
	if !upgraded {
		h.Set("Content-Security-Policy", "sandbox") // a page of the target is nobody here, and reads no cookie of ours
		h.Set("Cache-Control", privately(h.Values("Cache-Control")))
	}
	stream := upgraded || strings.HasPrefix(h.Get("Content-Type"), "text/event-stream")
	if stream {
		h.Set("X-Accel-Buffering", "no")
		leave, err := s.streams.enter(t.caller)
		if err != nil {
			return err
		}
		t.leave = leave
	}
	q := &quiet{ReadCloser: res.Body, limit: p.Idle.Std()}
	q.timer = time.AfterFunc(q.limit, func() { t.cancel(errSilent) })
	q.mu.Lock()
	q.follow = time.AfterFunc(followEvery, func() { p.follow(q, t) })
	q.mu.Unlock()
	res.Body = q
	if w, ok := q.ReadCloser.(io.ReadWriteCloser); ok && upgraded {
		res.Body = &talk{q, w}
	}
	return nil
}

// privately is a Cache-Control for answers that only their caller may keep: what the target says to all, it says to whoever may use the proxy.
func privately(said []string) string {
	kept := []string{"private"}
	for directive := range strings.SplitSeq(strings.Join(said, ","), ",") {
		name, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store":
			return "no-store"
		case "", "public", "private", "s-maxage", "proxy-revalidate":
		default:
			kept = append(kept, strings.TrimSpace(directive))
		}
	}
	if len(kept) == 1 {
		return "no-store"
	}
	return strings.Join(kept, ", ")
}

// relocate writes where the target sends the caller: to what lies behind the proxy by a path of ours, elsewhere as it stands, and not at all to what the target has
// beside it. Nobody follows on the caller's behalf.
func (p *proxy) relocate(res *http.Response, location string) {
	res.Header.Del("Location")
	u, err := url.Parse(location)
	if err != nil {
		return
	}
	u = (&url.URL{Scheme: p.target.Scheme, Host: p.target.Host, Path: res.Request.URL.Path, RawPath: res.Request.URL.RawPath}).ResolveReference(u)
	if !strings.EqualFold(u.Host, p.target.Host) || u.Scheme != "http" && u.Scheme != "https" {
		if u.Scheme == "http" || u.Scheme == "https" {
			res.Header.Set("Location", u.String())
		}
		return
	}
	rest, below := strings.CutPrefix(u.EscapedPath(), p.base)
	if !below || rest != "" && rest[0] != '/' || climbs(rest) {
		return
	}
	to := proxyPrefix + p.Name + rest
	if u.RawQuery != "" {
		to += "?" + u.RawQuery
	}
	if u.Fragment != "" {
		to += "#" + u.EscapedFragment()
	}
	res.Header.Set("Location", to)
}

// follow ends the answer of a caller who may no longer have it.
func (p *proxy) follow(q *quiet, t *passage) {
	caller, err := p.server.auth.Authenticate(t.request.Context(), t.request)
	if slipway.CodeOf(err) == slipway.Unauthenticated || err == nil && !auth.Allows(caller, p.Permission, auth.Object{}) {
		t.cancel(errNoLonger)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.follow.Reset(followEvery)
	}
}

// quiet is a body that ends when it is silent for too long.
type quiet struct {
	io.ReadCloser
	limit time.Duration
	timer *time.Timer

	mu     sync.Mutex
	follow *time.Timer
	closed bool
}

func (q *quiet) Read(b []byte) (int, error) {
	n, err := q.ReadCloser.Read(b)
	if n > 0 {
		q.timer.Reset(q.limit)
	}
	return n, err
}

func (q *quiet) Close() error {
	q.mu.Lock()
	q.closed = true
	q.timer.Stop()
	q.follow.Stop()
	q.mu.Unlock()
	return q.ReadCloser.Close()
}

// talk is the body of an upgraded connection, which httputil also writes to.
type talk struct {
	*quiet
	w io.Writer
}

func (t *talk) Write(b []byte) (int, error) {
	t.timer.Reset(t.limit)
	return t.w.Write(b)
}

// failed answers when the target did not.
func (p *proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	s := p.server
	cause := context.Cause(r.Context())
	reason := "connection"
	var coded *slipway.Error
	var large *http.MaxBytesError
	var timeout net.Error
	switch {
	case errors.As(err, &large):
		reason, err = "", slipway.Errorf(slipway.TooLarge, "the body is larger than the proxy %s takes (%s)", p.Name, p.MaxBody)
	case errors.Is(cause, errSlow), errors.Is(err, errSlow), errors.As(err, &timeout) && timeout.Timeout():
		reason, err = "timeout", slipway.Errorf(slipway.Unavailable, "the target of the proxy %s did not answer in time", p.Name).WithCause(err)
	case errors.As(err, &coded):
		if reason = ""; coded.Code == slipway.Unavailable {
			reason = "credential"
		}
		err = coded
	case r.Context().Err() != nil:
		reason, err = "", slipway.Errorf(slipway.Unavailable, "the request was given up").WithCause(err)
	case strings.Contains(err.Error(), "malformed") || strings.Contains(err.Error(), "HTTP/1.x"):
		reason, err = "garbage", slipway.Errorf(slipway.Unavailable, "the target of the proxy %s does not speak HTTP", p.Name).WithCause(errors.New("its answer is malformed"))
	default:
		err = slipway.Errorf(slipway.Unavailable, "the target of the proxy %s cannot be reached", p.Name).WithCause(err)
	}
	if reason != "" {
		s.metrics.targetFailures.WithLabelValues(p.Name, reason).Inc()
	}
	rw := w.(*proxyWriter).response
	if t, ok := r.Context().Value(passageKey{}).(*passage); ok {
		rw.page = t.page
	}
	s.fail(rw, r, err)
}

// credential gives what the target is shown; nil where nothing is. It is remembered until a credential changes.
func (p *proxy) credential(ctx context.Context) (*shown, error) {
	if p.Credential == "" {
		return nil, nil
	}
	if c := p.shown.Load(); c != nil {
		return c, nil
	}
	missing := func(format string, args ...any) error {
		return slipway.Errorf(slipway.Unavailable, "the proxy %s cannot show its credential; an operator must look at proxies.%s.credential", p.Name, p.Name).WithCause(fmt.Errorf(format, args...))
	}
	documents := p.server.documents()
	if documents == nil {
		return nil, missing("the blueprint data does not run here")
	}
	d, err := documents.Reveal(ctx, "credentials", p.Credential)
	if err != nil {
		return nil, missing("credentials/%s: %w", p.Credential, err)
	}
	p.server.redact.Add(d.Secrets...)
	var c struct{ Username, Password, Secret string }
	if err := json.Unmarshal(d.JSON, &c); err != nil {
		return nil, missing("credentials/%s does not decode", p.Credential)
	}
	out := &shown{header: "Authorization"}
	switch {
	case d.Type == "secretText" && c.Secret != "" && p.Header != "":
		out.header, out.value = textproto.CanonicalMIMEHeaderKey(p.Header), c.Secret
	case d.Type == "secretText" && c.Secret != "":
		out.value = "Bearer " + c.Secret
	case d.Type == "usernamePassword" && p.Header == "":
		out.value = "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
		p.server.redact.Add(out.value)
	default:
		return nil, missing("credentials/%s is of the type %s, which cannot be shown this way, or it is empty", p.Credential, d.Type)
	}
	if strings.ContainsAny(out.value, "\r\n\x00") {
		return nil, missing("credentials/%s holds a line break", p.Credential)
	}
	p.shown.Store(out)
	return out, nil
}

// proxyWriter passes an answer on as it comes: nothing is held back, and a caller who does not read is given up.
type proxyWriter struct {
	*response
	server *Server
	bound  time.Time   // when the deadline was last moved
	own    http.Header // what was said before the target was asked
	early  bool        // the target has said something before its answer

	upgraded func()
}

// WriteHeader sends the target's answer. What it says before that (1xx) is kept from the caller: nobody has looked through those headers. httputil empties all
// headers then, ours too, so that those are put back.
func (w *proxyWriter) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.early = true
		return
	}
	if h := w.Header(); w.early {
		for name, values := range w.own {
			h[name] = append(slices.Clip(values), h[name]...)
		}
	}
	w.private = true
	w.response.WriteHeader(status)
	w.deadline()
	_ = w.pass() // the first write tells of what failed
}

func (w *proxyWriter) Write(b []byte) (int, error) {
	w.deadline()
	return w.response.Write(b)
}

// deadline bounds how long the caller may not read. It is moved once a second.
func (w *proxyWriter) deadline() {
	if now := time.Now(); now.Sub(w.bound) > time.Second {
		w.bound = now
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(now.Add(streamWait))
	}
}

// FlushError is asked for after every write: answers are streams until they end.
func (w *proxyWriter) FlushError() error {
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack gives the connection away, to a WebSocket.
func (w *proxyWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.passing, w.status = true, http.StatusSwitchingProtocols
		w.upgraded()
	}
	return conn, rw, err
}

// proxyInfo is what a caller is told of a proxy.
type proxyInfo struct {
	Name       string   `json:"name" doc:"Name of the proxy" example:"argocd"`
	Text       string   `json:"text,omitempty" doc:"What stands behind it"`
	Path       string   `json:"path" doc:"Path below which it is found" example:"/api/proxy/argocd/"`
	Methods    []string `json:"methods" doc:"Methods that are let through" example:"[\"GET\",\"HEAD\"]"`
	Permission string   `json:"permission" doc:"What it takes to use it" example:"proxy.argocd.use"`
	Upgrades   bool     `json:"upgrades" doc:"Whether WebSockets are let through"`
}

func (s *Server) listProxies(ctx context.Context, _ *struct{}) (*struct {
	Body blueprint.List[proxyInfo]
}, error) {
	items := []proxyInfo{}
	for _, name := range slices.Sorted(maps.Keys(s.proxies)) {
		if p := s.proxies[name]; auth.Allows(auth.CallerFrom(ctx), p.Permission, auth.Object{}) {
			items = append(items, proxyInfo{name, p.Text, proxyPrefix + name + "/", p.Methods, p.Permission, p.Upgrades})
		}
	}
	return &struct {
		Body blueprint.List[proxyInfo]
	}{blueprint.List[proxyInfo]{Items: items, PageInfo: slipway.PageInfo{Limit: len(items)}}}, nil
}

// describeProxy puts a proxy into the API description, as any operation. Where its target is stays between the operator and the server.
func (s *Server) describeProxy(api huma.API, p blueprint.Proxy) {
	doc := api.OpenAPI()
	failure := doc.Components.Schemas.Schema(reflect.TypeOf(dialects[blueprint.API].failExample), true, "")
	item := &huma.PathItem{}
	text := p.Text
	if text == "" {
		text = "Another HTTP API"
	}
	about := text + ", asked through Slipway. The answer is the target's own, as it comes; redirects are not followed.\n\nNeeds the permission `" + p.Permission + "`."
	if p.Upgrades {
		about += " WebSockets are let through."
	}
	for _, method := range p.Methods {
		op := &huma.Operation{
			OperationID: "proxy-" + p.Name + "-" + strings.ToLower(method), Method: method, Summary: "Proxy " + p.Name, Description: about, Tags: []string{"proxies"},
			Security:   []map[string][]string{{"bearer": {}}},
			Extensions: map[string]any{"x-stability": string(blueprint.Experimental), "x-permission": p.Permission, "x-proxy": p.Name},
			Parameters: []*huma.Param{{Name: "path", In: "path", Required: true, Description: "Path below the target; it may hold slashes", Schema: &huma.Schema{Type: huma.TypeString}}},
			Responses: map[string]*huma.Response{
				"2XX": {Description: "What the target answers"},
			},
		}
		for status, about := range map[int]string{400: "The path leads out of the proxy", 401: "", 403: "", 405: "The method is not let through", 413: "The body is larger than the proxy takes", 429: "", 501: "It has no target yet", 503: "The target does not answer, or refuses the credential"} {
			if about == "" {
				about = http.StatusText(status)
			}
			op.Responses[strconv.Itoa(status)] = &huma.Response{Description: about, Content: map[string]*huma.MediaType{"application/json": {Schema: failure}}}
		}
		switch method {
		case http.MethodGet:
			item.Get = op
		case http.MethodHead:
			item.Head = op
		case http.MethodOptions:
			item.Options = op
		case http.MethodPost:
			item.Post = op
		case http.MethodPut:
			item.Put = op
		case http.MethodPatch:
			item.Patch = op
		case http.MethodDelete:
			item.Delete = op
		}
		if method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions {
			op.RequestBody = &huma.RequestBody{Description: "What the target takes", Content: map[string]*huma.MediaType{"*/*": {}}}
		}
	}
	doc.Paths[proxyPrefix+p.Name+"/{path}"] = item
}
