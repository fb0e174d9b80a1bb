// Package fetch is the one guarded way to read what a user's address leads to: a document over HTTP, a
// file, a git repository. Wherever an address comes from a catalog file, a request or a repository, it
// is read here and nowhere else.
//
// An address is read only when a pattern of Config.Allow fits. A pattern with a wildcard in its host
// reaches public addresses only; one that names a host also reaches private networks; one that names an
// IP address (or localhost) also reaches that machine's loopback and link-local addresses. This is checked
// on the address that is really connected to, at every redirect, and for git too. Size and time are
// bounded, decompressed size included. Files are read only below Config.FileRoots, after all links.
//
// Errors: Invalid for what is not allowed, malformed, or asks for credentials (an operator or the author
// must change something); NotFound; TooLarge; Unavailable when the other side does not answer, answers
// 5xx, 408 or 429, or cannot be found in DNS (later it may work).
//
// The package does not parse what it reads and keeps nothing.
package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/slipway-platform/slipway"
)

const (
	maxRedirects = 5
	maxHeader    = 64 << 10 // bytes of an answer's header
	userAgent    = "Slipway"
)

// Fetcher reads addresses. It may be used by many goroutines at once.
type Fetcher struct {
	cfg   Config
	allow []pattern
	roots *x509.CertPool // nil: the system's
	proxy *url.URL

	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

	// One transport per reach: a connection that a named host may use must not be found in the pool by
	// an address that only a wildcard allows.
	transports [anywhere + 1]*http.Transport

	homes *homes
}

// New makes a Fetcher. All faults of cfg are reported together. Close it when done.
func New(cfg Config) (*Fetcher, error) {
	f, err := cfg.build()
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%w", err)
	}
	f.lookup, f.homes = net.DefaultResolver.LookupNetIP, &homes{}
	for r := range f.transports {
		f.transports[r] = f.transport(reach(r))
	}
	return f, nil
}

// Trusting makes a Fetcher that besides trusts the authorities whose certificates are in pem, and is f in all else. Connections of the one are never used by
// the other. It need not be closed: what it keeps open for reuse ends after a minute.
func (f *Fetcher) Trusting(pem []byte) *Fetcher {
	trusting := *f
	trusting.roots = f.pool()
	trusting.roots.AppendCertsFromPEM(pem)
	for r := range trusting.transports {
		trusting.transports[r] = trusting.transport(reach(r))
	}
	return &trusting
}

// pool is a copy of the authorities that are trusted.
func (f *Fetcher) pool() *x509.CertPool {
	if f.roots != nil {
		return f.roots.Clone()
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	return roots
}

// Close closes connections that are kept open for reuse.
func (f *Fetcher) Close() {
	for _, t := range f.transports {
		t.CloseIdleConnections()
	}
}

func (f *Fetcher) transport(r reach) *http.Transport {
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return f.dial(ctx, network, host, port, r)
		},
		TLSClientConfig:        &tls.Config{RootCAs: f.roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		IdleConnTimeout:        60 * time.Second,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: maxHeader,
		ForceAttemptHTTP2:      true,
	}
	if f.proxy != nil {
		// All connections go to the proxy, which the operator named; the check is on the address's name.
		t.Proxy = http.ProxyURL(f.proxy)
		t.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	return t
}

// roundTrip checks each request, the first of a chain of redirects as well as the last.
func (f *Fetcher) roundTrip(req *http.Request) (*http.Response, error) {
	t, err := f.check(req.URL.String())
	if err == nil && t.scheme == "git" {
		err = slipway.Errorf(slipway.Invalid, "%s is a repository, not a document: use an https:// address", t)
	}
	if err != nil {
		if req.Body != nil {
			req.Body.Close() // a RoundTripper owes that
		}
		return nil, err
	}
	return f.transports[t.reach].RoundTrip(req)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (rt roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return rt(req) }

// Client returns an HTTP client for vendors and webhooks: every request must be allowed as in Get, and
// so must every redirect. It has no limit of size; timeout is for a whole exchange, 0 for none. A redirect
// from https to http is refused, and so is one that would carry a body to another host; towards another
// host, headers that may hold credentials are left out. Its errors wrap those of this package.
func (f *Fetcher) Client(timeout time.Duration) *http.Client {
	return &http.Client{Transport: roundTripper(f.roundTrip), CheckRedirect: checkRedirect, Timeout: timeout}
}

// plainHeaders may be sent to a host that one was redirected to.
var plainHeaders = []string{"Accept", "Accept-Encoding", "Accept-Language", "Range", "User-Agent", "If-None-Match", "If-Modified-Since"}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return slipway.Errorf(slipway.Invalid, "%s redirects more than %d times", show(via[0].URL.String()), maxRedirects)
	}
	before := via[len(via)-1]
	if before.URL.Scheme == "https" && req.URL.Scheme != "https" {
		return slipway.Errorf(slipway.Invalid, "%s redirects from https to http, which is not followed", show(via[0].URL.String()))
	}
	req.Header.Del("Referer") // it would hold the query
	foreign := req.URL.Host != via[0].URL.Host
	for _, r := range via[1:] { // once away, always away: another host chose where to go from there
		foreign = foreign || r.URL.Host != via[0].URL.Host
	}
	if !foreign {
		return nil
	}
	if req.Body != nil && req.Body != http.NoBody || req.Method != http.MethodGet && req.Method != http.MethodHead {
		return slipway.Errorf(slipway.Invalid, "%s redirects a %s to another host, which is not followed: use the final address", show(via[0].URL.String()), req.Method)
	}
	kept := http.Header{}
	for _, name := range plainHeaders {
		if v := req.Header.Values(name); len(v) > 0 {
			kept[name] = v
		}
	}
	req.Header = kept
	return nil
}

// Options say how Get reads.
type Options struct {
	Accept       string // media types, as in the header; empty: any
	ETag         string // of what the caller has already
	LastModified string // the same, as the server wrote it
	MaxBytes     int64  // largest body; 0: Config.MaxBytes
}

// Result is what an address gave.
type Result struct {
	Body         []byte
	ContentType  string
	ETag         string
	LastModified string
	FinalURL     string // after redirects
	NotModified  bool   // what Options.ETag or LastModified stood for still holds; Body is empty
}

// Get reads an http or https address with one GET, within Config.Timeout. See the package for its errors.
func (f *Fetcher) Get(ctx context.Context, rawURL string, opt Options) (*Result, error) {
	limit := cmp.Or(opt.MaxBytes, int64(f.cfg.MaxBytes))
	inner, cancel := context.WithTimeout(ctx, f.cfg.Timeout.Std())
	defer cancel()
	res, err := f.get(inner, rawURL, http.Header{
		"Accept":            {cmp.Or(opt.Accept, "*/*")},
		"If-None-Match":     nonEmpty(opt.ETag),
		"If-Modified-Since": nonEmpty(opt.LastModified),
	})
	if err != nil {
		return nil, f.failed(ctx, rawURL, err)
	}
	defer res.Body.Close()
	result := &Result{
		ContentType:  res.Header.Get("Content-Type"),
		ETag:         res.Header.Get("ETag"),
		LastModified: res.Header.Get("Last-Modified"),
		FinalURL:     res.Request.URL.String(),
	}
	if res.StatusCode == http.StatusNotModified && (opt.ETag != "" || opt.LastModified != "") {
		result.NotModified = true
		return result, nil
	}
	if err := checkStatus(rawURL, res); err != nil {
		return nil, err
	}
	if res.ContentLength > limit {
		return nil, tooLarge(rawURL, limit)
	}
	result.Body, err = io.ReadAll(io.LimitReader(res.Body, limit+1)) // the transport has decompressed it
	if err != nil {
		return nil, f.failed(ctx, rawURL, err)
	}
	if int64(len(result.Body)) > limit {
		return nil, tooLarge(rawURL, limit)
	}
	return result, nil
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// get sends the request and returns the answer whatever its status.
func (f *Fetcher) get(ctx context.Context, rawURL string, header http.Header) (*http.Response, error) {
	t, err := f.check(rawURL)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url.String(), nil)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%q is no address", show(rawURL)).WithCause(err)
	}
	req.Header = header
	req.Header.Set("User-Agent", userAgent)
	return f.Client(0).Do(req)
}

func tooLarge(rawURL string, limit int64) error {
	return slipway.Errorf(slipway.TooLarge, "%s is larger than %s", show(rawURL), slipway.Size(limit))
}

// failed gives a code to what went wrong below HTTP; ctx is the caller's own.
func (f *Fetcher) failed(ctx context.Context, rawURL string, err error) error {
	var coded *slipway.Error
	var unknown x509.UnknownAuthorityError
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &coded):
		return coded
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return slipway.Errorf(slipway.Unavailable, "%s did not answer in time", show(rawURL)).WithCause(err)
	case errors.As(err, &unknown):
		return slipway.Errorf(slipway.Unavailable, "the certificate of %s is not trusted: an operator can add its authority to fetch.caFile", show(rawURL)).WithCause(err)
	}
	return slipway.Errorf(slipway.Unavailable, "%s cannot be read just now", show(rawURL)).WithCause(err)
}

// checkStatus gives a code to an answer that is not what was asked for.
func checkStatus(rawURL string, res *http.Response) error {
	address, status := show(rawURL), res.StatusCode
	switch {
	case status == http.StatusOK:
		return nil
	case status == http.StatusNotFound || status == http.StatusGone:
		return slipway.Errorf(slipway.NotFound, "there is nothing at %s", address)
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusProxyAuthRequired:
		return slipway.Errorf(slipway.Invalid, "%s asks for credentials (status %d): it must be readable without", address, status)
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout:
		err := slipway.Errorf(slipway.Unavailable, "%s answered with status %d", address, status)
		if seconds, parseErr := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 16); parseErr == nil {
			err = err.After(time.Duration(seconds) * time.Second)
		}
		return err
	}
	return slipway.Errorf(slipway.Invalid, "%s answered with status %d, not with a document", address, status)
}
