// Package client is the Go client of Slipway's HTTP API. The command line and the end-to-end tests
// use it; it imports nothing of the server, so that other programs can too.
//
// Do calls any operation; the methods beside it give the common ones their types. Errors of the
// server come back as *Error, whose cause is a *slipway.Error: errors.Is(err, slipway.NotFound)
// works.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/slipway-platform/slipway"
)

const (
	maxAnswer     = 64 << 20 // bytes of an answer that is not streamed
	maxErrorBody  = 1 << 20  // bytes read of an answer that tells an error
	maxRemembered = 64       // answers kept for conditional requests
	maxKept       = 1 << 20  // bytes of an answer that is kept
)

// Client talks to one server as one caller. Make it with New; its fields may be changed before the
// first call. It is safe for concurrent use.
type Client struct {
	// UserAgent is sent with every request: "slipway/<version>".
	UserAgent string
	// ProviderTokens are tokens of the caller's own at providers that show their items only to those who may see them there: <provider>=<token>, several with commas
	// between. They are shown with every request.
	ProviderTokens string
	// Token gives the token of each request, for those that change while the client lives; nil: the one of New.
	Token func(ctx context.Context) (string, error)
	// HTTP sends the requests. It must have no overall timeout, or streams end early.
	HTTP *http.Client
	// Tries is how often a call that changes nothing, or the same thing again, is sent when the server
	// answers 429 or 503. Default 4.
	Tries int
	// Backoff is the first wait where the server names none; it doubles. Default 1 s.
	Backoff time.Duration
	// MaxWait bounds each wait between two tries. A server that asks for a longer one gets its error
	// passed on at once. Default 30 s.
	MaxWait time.Duration

	base  *url.URL
	token string

	mu   sync.Mutex
	seen map[string]answer // last answers by path, for If-None-Match
}

// answer is what a path gave last.
type answer struct {
	etag string
	body []byte
}

// New makes a client of the server at an address such as https://slipway.example.com; a path in it is
// kept, for servers behind a prefix. The token may be empty, for what is public. No I/O.
func New(address, token string) (*Client, error) {
	u, err := url.Parse(strings.TrimRight(address, "/"))
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, slipway.Errorf(slipway.Invalid, "the server's address %q is no URL: write it like https://slipway.example.com", address)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, slipway.Errorf(slipway.Invalid, "the server's address must hold no user, no query and no fragment: give the token by SLIPWAY_TOKEN or slipway login")
	}
	return &Client{
		UserAgent: "slipway",
		HTTP:      &http.Client{CheckRedirect: sameHost},
		Tries:     4,
		Backoff:   time.Second,
		MaxWait:   30 * time.Second,
		base:      u,
		token:     token,
		seen:      map[string]answer{},
	}, nil
}

// sameHost follows redirects only where the token may go, and never makes a read of what was to change something.
func sameHost(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme || req.Method != via[0].Method {
		return http.ErrUseLastResponse
	}
	return nil
}

// TrustCA makes the client believe servers whose certificate is signed by one in this PEM file,
// besides those that the system believes.
func (c *Client) TrustCA(file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return slipway.Errorf(slipway.Invalid, "the file of certificates cannot be read: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return slipway.Errorf(slipway.Invalid, "%s holds no certificate in PEM form", file)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	c.HTTP.Transport = t
	return nil
}

// URL is the address of the server, without a slash at the end.
func (c *Client) URL() string { return c.base.String() }

// Do calls one operation: a method, a path below the server's address with its query, a body that is
// sent as JSON (nil: none), and where the answer goes (nil: nowhere; a *json.RawMessage gets the exact
// bytes). Reads are conditional: an answer that did not change is not sent again.
//
// GET, HEAD, PUT and DELETE are tried again after 429 and 503, as the server's Retry-After says.
func (c *Client) Do(ctx context.Context, method, path string, body, out any) error {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return fmt.Errorf("the body of %s %s: %w", method, path, err)
		}
	}
	var last answer
	if method == http.MethodGet {
		c.mu.Lock()
		last = c.seen[path]
		c.mu.Unlock()
	}
	res, err := c.send(ctx, method, path, payload, last.etag)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := c.read(res, path, last)
	if err != nil || out == nil {
		return err
	}
	if r, ok := out.(*json.RawMessage); ok {
		*r = raw
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return slipway.Errorf(slipway.Internal, "the answer to %s %s is not what was expected: is %s a Slipway server of this version?", method, path, c.base).WithCause(err)
	}
	return nil
}

// Stream reads an answer while it comes: a log that is followed. Close it. It ends with io.EOF when
// the answer is whole, and with another error when it broke off.
func (c *Client) Stream(ctx context.Context, path string) (io.ReadCloser, error) {
	res, err := c.send(ctx, http.MethodGet, path, nil, "")
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// read takes the whole answer, or the last one when the server says that it did not change.
func (c *Client) read(res *http.Response, path string, last answer) ([]byte, error) {
	if res.StatusCode == http.StatusNotModified {
		return last.body, nil
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, slipway.Errorf(slipway.Unavailable, "the answer of %s broke off: try again", c.base).WithCause(err)
	case len(raw) > maxAnswer:
		return nil, slipway.Errorf(slipway.TooLarge, "the answer is larger than %d MiB: ask for less at once", maxAnswer>>20)
	}
	if etag := res.Header.Get("ETag"); etag != "" && res.Request.Method == http.MethodGet && len(raw) <= maxKept {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.seen) >= maxRemembered {
			clear(c.seen)
		}
		c.seen[path] = answer{etag, raw}
	}
	return raw, nil
}

// send makes the request, again where that is safe, and turns failures into errors. With an etag it is answered with 304 where nothing changed.
func (c *Client) send(ctx context.Context, method, path string, payload []byte, etag string) (*http.Response, error) {
	again := method != http.MethodPost && method != http.MethodPatch
	for try := 1; ; try++ {
		res, err := c.once(ctx, method, path, payload, etag)
		if err != nil {
			return nil, err
		}
		if res.StatusCode < 300 || res.StatusCode == http.StatusNotModified && etag != "" {
			return res, nil
		}
		failure := c.failure(res)
		wait := failure.wait(c.Backoff << (try - 1))
		if !again || wait < 0 || wait > c.MaxWait || try >= c.Tries {
			return nil, failure
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
}

func (c *Client) once(ctx context.Context, method, path string, payload []byte, etag string) (*http.Response, error) {
	var body io.Reader
	if payload != nil {
		body = bytes.NewReader(payload)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, body)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%s %s is no request: %w", method, path, err)
	}
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", c.UserAgent)
	token := c.token
	if c.Token != nil {
		if token, err = c.Token(ctx); err != nil {
			return nil, err
		}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if c.ProviderTokens != "" {
		req.Header.Set("Slipway-Provider-Token", c.ProviderTokens)
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return res, nil
}

// unreachable says what to do when no answer came.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	why := "check the address (SLIPWAY_URL, --url) and that the server runs"
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var sent *url.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
	case errors.As(err, &dns):
		why = "no such host: check the address (SLIPWAY_URL, --url)"
	case errors.As(err, &unknown):
		why = "its certificate is signed by nobody known here: name the signer's file in SLIPWAY_CA_FILE"
	case errors.As(err, &sent):
		why += " (" + sent.Err.Error() + ")"
	}
	return slipway.Errorf(slipway.Unavailable, "no answer from %s: %s", c.base, why).WithCause(err)
}

// Error is a failure that the server answered.
type Error struct {
	Status    int    // the HTTP status
	RequestID string // names the request in the server's log; may be empty
	Err       *slipway.Error
}

// Error is the server's sentence, without its code.
func (e *Error) Error() string { return e.Err.Message }

// Unwrap gives the coded error.
func (e *Error) Unwrap() error { return e.Err }

// wait is how long to wait before the next try, usual where the server names no time; negative: no try would help.
func (e *Error) wait(usual time.Duration) time.Duration {
	if e.Status != http.StatusTooManyRequests && e.Status != http.StatusServiceUnavailable {
		return -1
	}
	if e.Err.RetryAfter > 0 {
		return e.Err.RetryAfter
	}
	return usual
}

// failure reads an answer that tells an error, in any of the server's wire styles.
func (c *Client) failure(res *http.Response) *Error {
	defer res.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorBody)) // what cannot be read says nothing
	failure := &Error{Status: res.StatusCode, RequestID: res.Header.Get("X-Request-Id"), Err: &slipway.Error{Code: codeOf(res.StatusCode)}}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s >= 0 {
		failure.Err.RetryAfter = time.Duration(s) * time.Second
	}
	var doc struct {
		Error     json.RawMessage  `json:"error"`
		Code      slipway.Code     `json:"code"`
		Details   []slipway.Detail `json:"details"`
		RequestID string           `json:"requestId"`
		Messages  struct {
			Error []string `json:"error"`
		} `json:"messages"`
		Errors []struct { // of an entity that is checked, as Backstage tells them
			Message string `json:"message"`
		} `json:"errors"`
	}
	var inner struct {
		Code      slipway.Code     `json:"code"`
		Message   string           `json:"message"`
		Details   []slipway.Detail `json:"details"`
		RequestID string           `json:"requestId"`
	}
	if json.Unmarshal(raw, &doc) == nil {
		if json.Unmarshal(doc.Error, &inner.Message) != nil {
			_ = json.Unmarshal(doc.Error, &inner) // neither text nor object: the status has to do
		}
		texts := doc.Messages.Error
		for _, e := range doc.Errors {
			texts = append(texts, e.Message)
		}
		if inner.Message == "" {
			inner.Message = strings.Join(texts, "; ")
		}
	}
	failure.Err.Message = inner.Message
	failure.Err.Details = append(doc.Details, inner.Details...)
	for _, code := range []slipway.Code{doc.Code, inner.Code} {
		if code != "" {
			failure.Err.Code = code
		}
	}
	for _, id := range []string{doc.RequestID, inner.RequestID} {
		if id != "" {
			failure.RequestID = id
		}
	}
	if failure.Err.Message == "" {
		failure.Err.Message = fmt.Sprintf("%s answered %s: check that this is the address of a Slipway server", c.base, res.Status)
	}
	return failure
}

// codeOf is the code behind a status, for answers that name none.
func codeOf(status int) slipway.Code {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return slipway.Invalid
	case http.StatusUnauthorized:
		return slipway.Unauthenticated
	case http.StatusForbidden:
		return slipway.Forbidden
	case http.StatusNotFound:
		return slipway.NotFound
	case http.StatusMethodNotAllowed:
		return slipway.MethodNotAllowed
	case http.StatusConflict:
		return slipway.Conflict
	case http.StatusPreconditionFailed:
		return slipway.Precondition
	case http.StatusRequestEntityTooLarge:
		return slipway.TooLarge
	case http.StatusUnsupportedMediaType:
		return slipway.UnsupportedMedia
	case http.StatusTooManyRequests:
		return slipway.RateLimited
	case http.StatusNotImplemented:
		return slipway.Unsupported
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return slipway.Unavailable
	}
	return slipway.Internal
}
