package provider

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/slipway-platform/slipway"
)

// ClientOptions say how a vendor's HTTP API is talked to.
type ClientOptions struct {
	Vendor string      // its name in messages: "GitHub"
	URL    string      // where the API begins, with any path before it; see CheckURL
	Header http.Header // sent with every request: Accept, a version of the API
	// Authorize returns the credential for a request with the given Scope. It is called for every request and may talk to the vendor itself. nil: no credential is sent.
	Authorize func(ctx context.Context, scope string) (Authorization, error)
	// Classify returns the error for an unsuccessful answer, where the vendor means more by it than the status code says. If it is nil or returns nil, the status code decides.
	Classify func(r Request, a Answer) error
	// Limit reads the rate limit from the headers of any answer. If its Until is set, the client sends nothing more for that account until then. nil: only Retry-After counts.
	Limit    func(h http.Header, now time.Time) Limit
	WriteGap time.Duration // minimum time between two requests that are no GET
	MaxBytes slipway.Size  // largest JSON answer that is read; 0: 32 MiB
}

// Authorization is the header that tells the vendor who is asking.
type Authorization struct {
	Header, Value string
	Account       string // names the rate limit that a request counts against: equal for requests that the vendor counts together. Not a secret
}

// Bearer sends a token as "Authorization: Bearer …". The account is kind, such as "token " or "caller ", followed by the token's fingerprint.
func Bearer(token Secret, kind string) Authorization {
	return Authorization{Header: "Authorization", Value: "Bearer " + string(token), Account: kind + token.Fingerprint()}
}

// Basic sends a name and a password as "Authorization: Basic …".
func Basic(name string, password Secret, account string) Authorization {
	text := base64.StdEncoding.EncodeToString([]byte(name + ":" + string(password)))
	return Authorization{Header: "Authorization", Value: "Basic " + text, Account: account}
}

// Client talks to a vendor's HTTP API. A GET is tried up to three times when the vendor is briefly unavailable; nothing else is repeated. After five failures in a row a host is
// not asked for 15 s, and a vendor that limits our rate is not asked until the time it names. Redirects to another host carry no credential. Every error is a *slipway.Error or
// the context's error. Safe for concurrent use.
type Client struct {
	o     ClientOptions
	base  *url.URL
	http  *http.Client
	now   func() time.Time
	log   *slog.Logger
	holds Holds
	own   Holds // of this client alone: of accounts that are callers' own (Request.As), which anybody can bring, and of a host that others reach

	mu        sync.Mutex
	failures  int  // of the host, in a row
	told      bool // to the other replicas, that the host does not answer; since then it has not answered here
	limits    map[string]Limit
	refusals  map[string]int // in a row, that did not say until when
	lastWrite time.Time
}

const (
	requestTime   = 30 * time.Second // of a request whose caller has more time
	defaultAnswer = 32 << 20         // bytes
	failureBody   = 64 << 10         // bytes read of an answer that is no success
	shortWait     = 2 * time.Second  // a longer Retry-After is the caller's to wait for
	firstRest     = time.Minute      // of a vendor that has enough and does not say until when; doubled each time
	maxRest       = 15 * time.Minute
)

// NewClient makes a client without talking to the vendor. A faulty URL is Invalid.
func NewClient(env Env, o ClientOptions) (*Client, error) {
	if faults := CheckURL("url", o.URL); len(faults) > 0 {
		return nil, slipway.Errorf(slipway.Invalid, "url: %s", faults[0].Message).WithDetails(faults...)
	}
	base, err := url.Parse(strings.TrimRight(o.URL, "/"))
	if err != nil {
		return nil, err
	}
	c := &Client{
		o: o, base: base, http: guard(env.HTTP), now: env.Clock(), log: env.Log, holds: env.Holds,
		own: NewHolds(), limits: map[string]Limit{}, refusals: map[string]int{},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.holds == nil {
		c.holds = NewHolds()
	}
	c.o.MaxBytes = cmp.Or(o.MaxBytes, defaultAnswer)
	return c, nil
}

// CheckURL returns what is wrong with a vendor's address; field is the config field that holds it. It must be http or https, with a host and without user, query and fragment.
func CheckURL(field, address string) []slipway.Detail {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return []slipway.Detail{fault(field, "must be an address such as https://ci.example.com, without a password, query or fragment")}
	}
	return nil
}

// Request is what is asked of a vendor.
type Request struct {
	Method    string // "" is GET
	Path      string // below the client's URL, with a slash before it, its segments escaped (url.PathEscape)
	Query     url.Values
	Body      any            // sent as JSON; nil: nothing
	Form      url.Values     // sent as a form where there is no Body; nil: nothing
	Scope     string         // what the credential must reach, for Authorize
	As        *Authorization // sent instead of what Authorize returns, to ask in the name of a caller whose access is checked
	Validator string         // makes a GET conditional: what Answer.Validator was
	Header    http.Header
	Leads     bool // take a redirect of a request that is no GET as a success: it is not followed, and Answer.Header has its Location
}

// Answer is what a vendor said.
type Answer struct {
	Status      int
	Header      http.Header
	Body        []byte // all of it, or the first 64 KiB when it is no success
	Validator   string // the ETag
	NotModified bool   // nothing changed since the request's Validator
	Message     string // the vendor's own error text, at most 200 characters on one line; "" if there is none or the request succeeded
}

// JSON sends a request and decodes the JSON answer into out; if out is nil, the body is not read. A member whose type is not what out wants stays empty (see Unmarshal). An
// answer that is not JSON or breaks off is Unavailable, one over MaxBytes is TooLarge.
func (c *Client) JSON(ctx context.Context, r Request, out any) (Answer, error) {
	for attempt := 1; ; attempt++ {
		a, err := c.exchange(ctx, r, out)
		f, again := errors.AsType[fleeting](err)
		if again {
			err = f.error
		}
		if !again || attempt == attempts || r.Method != "" && r.Method != http.MethodGet {
			return a, err
		}
		if err := pause(ctx, attempt, f.wait); err != nil {
			return a, err
		}
	}
}

func (c *Client) exchange(ctx context.Context, r Request, out any) (a Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	res, err := c.send(ctx, r)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	a = Answer{Status: res.StatusCode, Header: res.Header, Validator: res.Header.Get("ETag"), NotModified: res.StatusCode == http.StatusNotModified}
	if a.NotModified || a.Status == http.StatusNoContent || out == nil {
		return a, nil
	}
	limit := int64(c.o.MaxBytes)
	if a.Body, err = io.ReadAll(io.LimitReader(res.Body, limit+1)); err != nil {
		return a, c.broken(ctx, err)
	}
	if int64(len(a.Body)) > limit {
		return a, slipway.Errorf(slipway.TooLarge, "%s sent more than %s at once", c.o.Vendor, c.o.MaxBytes)
	}
	if err := Unmarshal(a.Body, out); slipway.CodeOf(err) == slipway.TooLarge {
		return a, slipway.Errorf(slipway.TooLarge, "%s sent more than can be meant at once", c.o.Vendor).WithCause(err)
	} else if err != nil {
		return a, c.Strange(fmt.Errorf("%s %s: %w", res.Request.Method, r.Path, err))
	}
	return a, nil
}

// Strange returns the error for a successful answer that cannot come from the vendor's API, such as a sign-in page: Unavailable. cause is for the log.
func (c *Client) Strange(cause error) error {
	return slipway.Errorf(slipway.Unavailable, "%s answered with something that its API never says; check that `url` leads to the API", c.o.Vendor).WithCause(cause)
}

// Open requests a stream, such as a log, and returns its body, which the caller closes. The answer must begin within 30 s and may then take as long as ctx allows. Reading fails
// with the context's error or a *slipway.Error. It is not repeated.
func (c *Client) Open(ctx context.Context, r Request) (io.ReadCloser, error) {
	_, body, err := c.Stream(ctx, r)
	return body, err
}

// Stream is Open that also returns the answer's status and headers. Its Body is empty.
func (c *Client) Stream(ctx context.Context, r Request) (Answer, io.ReadCloser, error) {
	return c.open(ctx, func(ctx context.Context) (*http.Response, error) { return c.send(ctx, r) })
}

// OpenLink is Open for an address that the vendor gave in an answer, such as a signed link to a log store. No credential is sent there, and no error contains the address,
// which may be a secret. An expired or broken link is NotFound.
func (c *Client) OpenLink(ctx context.Context, address string) (io.ReadCloser, error) {
	_, body, err := c.open(ctx, func(ctx context.Context) (*http.Response, error) { return c.visit(ctx, address) })
	return body, err
}

func (c *Client) open(ctx context.Context, ask func(context.Context) (*http.Response, error)) (Answer, io.ReadCloser, error) {
	wide := ctx
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(requestTime, cancel) // to begin; it may last
	res, err := ask(ctx)
	if err == nil && late.Stop() {
		return Answer{Status: res.StatusCode, Header: res.Header}, &stream{res.Body, ctx, cancel, c}, nil
	}
	cancel()
	if err == nil {
		res.Body.Close()
	}
	if ctx.Err() != nil && wide.Err() == nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = slipway.Errorf(slipway.Unavailable, "%s did not answer in time", c.o.Vendor).WithCause(context.DeadlineExceeded)
	}
	if f, ok := errors.AsType[fleeting](err); ok {
		err = f.error
	}
	return Answer{}, nil, err
}

type stream struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelFunc
	client *Client
}

func (s *stream) Close() error {
	s.cancel()
	return s.ReadCloser.Close()
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = s.client.broken(s.ctx, err)
		if f, ok := errors.AsType[fleeting](err); ok {
			err = f.error
		}
	}
	return n, err
}

// fleeting marks an error that may be gone in a moment; wait is how long that takes at least, by the vendor's word.
type fleeting struct {
	error
	wait time.Duration
}

func (f fleeting) Unwrap() error { return f.error }

// Limits returns the rate limits that the vendor last named, one for each of the provider's own accounts; those of callers (Request.As) are left out.
func (c *Client) Limits() []Limit {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Limit
	for _, l := range c.limits {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b Limit) int { return strings.Compare(a.Account, b.Account) })
	return all
}

// send sends a request once, and gives an answer that is a success.
func (c *Client) send(ctx context.Context, r Request) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var auth Authorization
	switch {
	case r.As != nil:
		auth = *r.As
	case c.o.Authorize != nil:
		var err error
		if auth, err = c.o.Authorize(ctx, r.Scope); err != nil {
			return nil, err
		}
	}
	req, err := c.request(ctx, r, auth)
	if err != nil {
		return nil, err
	}
	if err := c.held(ctx, r, auth.Account); err != nil {
		return nil, err
	}
	if req.Method != http.MethodGet {
		if err := c.pace(ctx); err != nil {
			return nil, err
		}
	}
	probe, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	res, err := c.http.Do(req)
	c.leave(ctx, probe, c.ending(ctx, res, err, time.Since(begun)))
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	limit := c.learn(r, auth.Account, res)
	if !limit.Until.IsZero() {
		c.hold(ctx, r, auth.Account, limit.Until)
	}
	if res.StatusCode < 300 || res.StatusCode == http.StatusNotModified && r.Validator != "" || r.Leads && req.Method != http.MethodGet && res.StatusCode < 400 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.failure(ctx, r, auth.Account, limit, res)
}

func (c *Client) visit(ctx context.Context, address string) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	u, err := c.base.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, c.Strange(errors.New("a link that is no address"))
	}
	u.User = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, c.Strange(errors.New("a link that is no address"))
	}
	req.Header.Set("User-Agent", "slipway")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	res.Body.Close()
	cause := fmt.Errorf("GET %s: %s", u.Host, res.Status)
	if res.StatusCode < 500 && res.StatusCode != http.StatusTooManyRequests {
		return nil, slipway.Errorf(slipway.NotFound, "%s gave a link that leads nowhere any more", c.o.Vendor).WithCause(cause)
	}
	return nil, slipway.Errorf(slipway.Unavailable, "the place that %s links to is out of order: it answered %d", c.o.Vendor, res.StatusCode).WithCause(cause)
}

func (c *Client) request(ctx context.Context, r Request, auth Authorization) (*http.Request, error) {
	address := c.base.String() + r.Path
	if len(r.Query) > 0 {
		address += "?" + r.Query.Encode()
	}
	var body io.Reader
	kind := "application/json"
	switch {
	case r.Body != nil:
		b, err := json.Marshal(r.Body)
		if err != nil {
			return nil, slipway.Errorf(slipway.Invalid, "what is meant for %s is no JSON", c.o.Vendor).WithCause(err)
		}
		body = bytes.NewReader(b)
	case r.Form != nil:
		body, kind = strings.NewReader(r.Form.Encode()), "application/x-www-form-urlencoded"
	}
	req, err := http.NewRequestWithContext(ctx, cmp.Or(r.Method, http.MethodGet), address, body)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "this names nothing at %s", c.o.Vendor).WithCause(err)
	}
	for _, h := range []http.Header{c.o.Header, r.Header} {
		for name, values := range h {
			req.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	req.Header.Set("User-Agent", "slipway")
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	if r.Validator != "" {
		req.Header.Set("If-None-Match", r.Validator)
	}
	if strings.ContainsFunc(auth.Value, unicode.IsControl) {
		return nil, slipway.Errorf(slipway.Unauthenticated, "the credential for %s holds a line break or another control character; set it without", c.o.Vendor)
	}
	if auth.Value != "" {
		req.Header.Set(auth.Header, auth.Value)
	}
	return req, nil
}

// ending is how a request ended, for the circuit. A caller who gave up says nothing about the host, unless it had waited long, nor does a request that was never sent. What another host did, to which the
// vendor redirected, says that the vendor is there.
func (c *Client) ending(ctx context.Context, res *http.Response, err error, took time.Duration) ending {
	host := c.base.Host
	if res != nil {
		host = res.Request.URL.Host
	} else if u, ok := errors.AsType[*url.Error](err); ok {
		if at, err := url.Parse(u.URL); err == nil {
			host = at.Host
		}
	}
	switch {
	case host != c.base.Host:
	case res == nil && ctx.Err() != nil && took < requestTime/3, refusedHere(err):
		return gaveUp
	case res == nil || slices.Contains(outOfOrder, res.StatusCode):
		return failed
	}
	return answered
}

// refusedHere says that a request was never sent: the guarded client does not let it out.
func refusedHere(err error) bool {
	e, ok := errors.AsType[*slipway.Error](err)
	return ok && e.Code != slipway.Unavailable
}

// outOfOrder are the statuses of a host that is not there, rather than of one that stumbled over a request.
var outOfOrder = []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}

// broken is the error of an exchange that did not come to its end. An *url.Error would show addresses, and signed ones among them.
func (c *Client) broken(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if context.Cause(ctx) != nil && ctx.Err() != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return slipway.Errorf(slipway.Unavailable, "%s did not answer in time", c.o.Vendor).WithCause(ctx.Err())
	}
	if e, ok := errors.AsType[*slipway.Error](err); ok && refusedHere(err) {
		return e // it says how to allow the address
	}
	if fault := c.certificateFault(err); fault != nil {
		return fault
	}
	return fleeting{error: slipway.Errorf(slipway.Unavailable, "%s does not answer; check `url` and the network between", c.o.Vendor).WithCause(err)}
}

// failure reads an answer that is no success.
func (c *Client) failure(ctx context.Context, r Request, account string, limit Limit, res *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(res.Body, failureBody))
	a := Answer{Status: res.StatusCode, Header: res.Header, Body: body, Message: message(body)}
	err := error(nil)
	if c.o.Classify != nil {
		err = c.o.Classify(r, a)
	}
	if err == nil {
		err = c.byStatus(a)
	}
	e, ok := errors.AsType[*slipway.Error](err)
	if !ok {
		return err
	}
	if e.Cause == nil {
		e = e.WithCause(fmt.Errorf("%s %s: %s: %s", res.Request.Method, res.Request.URL.Path, res.Status, a.Message))
	}
	now := c.now()
	wait := cmp.Or(e.RetryAfter, RetryAfter(res.Header, now))
	switch e.Code {
	case slipway.RateLimited:
		if wait == 0 && limit.Until.After(now) {
			wait = limit.Until.Sub(now)
		}
		if wait == 0 {
			wait = c.refused(r, account)
		}
		c.hold(ctx, r, account, now.Add(wait))
		return e.After(wait)
	case slipway.Unavailable:
		e = e.After(wait)
		if wait <= shortWait && slices.Contains(outOfOrder, a.Status) {
			return fleeting{e, wait}
		}
	}
	return e
}

// byStatus is what statuses mean at every vendor.
func (c *Client) byStatus(a Answer) *slipway.Error {
	says := ""
	if a.Message != "" {
		says = ": " + a.Message
	}
	v := c.o.Vendor
	switch a.Status {
	case http.StatusUnauthorized:
		return slipway.Errorf(slipway.Unauthenticated, "%s does not accept the credential; set a valid `credential` for this provider", v)
	case http.StatusForbidden:
		return slipway.Errorf(slipway.Forbidden, "%s does not allow this to the provider's credential; give it the permission%s", v, says)
	case http.StatusNotFound, http.StatusGone:
		return slipway.Errorf(slipway.NotFound, "%s has no such thing, or does not show it to the provider's credential", v)
	case http.StatusConflict, http.StatusLocked:
		return slipway.Errorf(slipway.Conflict, "%s refuses because of how things stand%s", v, says)
	case http.StatusTooManyRequests:
		return slipway.Errorf(slipway.RateLimited, "%s takes no more requests for now", v)
	case http.StatusRequestTimeout:
		return slipway.Errorf(slipway.Unavailable, "%s did not answer in time", v)
	}
	switch {
	case a.Status >= 500:
		return slipway.Errorf(slipway.Unavailable, "%s is out of order: it answered %d", v, a.Status)
	case a.Status < 400:
		return slipway.Errorf(slipway.Invalid, "%s answers from another address; use the final `url` of the API, or the project's new name", v)
	}
	return slipway.Errorf(slipway.Invalid, "%s refuses the request%s", v, says)
}

// message finds what an answer says to people: a text, or texts by field as some vendors have it.
func message(body []byte) string {
	var said struct{ Message, Error any }
	_ = json.Unmarshal(body, &said)
	for _, v := range []any{said.Message, said.Error} {
		if text := strings.Join(texts(v), "; "); text != "" {
			return Clip(text)
		}
	}
	return ""
}

func texts(v any) (list []string) {
	switch v := v.(type) {
	case string:
		if v != "" {
			list = append(list, v)
		}
	case []any:
		for _, e := range v {
			list = append(list, texts(e)...)
		}
	case map[string]any:
		if said, ok := v["message"].(string); ok {
			return texts(said)
		}
		for _, field := range slices.Sorted(maps.Keys(v)) {
			list = append(list, texts(v[field])...)
		}
	}
	return list
}

// holdKey names an account at this vendor to all replicas.
func (c *Client) holdKey(account string) string { return c.base.Host + " " + account }

// holdsOf is where it is noted until when nothing more is taken from who sends a request.
func (c *Client) holdsOf(r Request) Holds {
	if r.As != nil {
		return c.own
	}
	return c.holds
}

func (c *Client) held(ctx context.Context, r Request, account string) error {
	until, err := c.holdsOf(r).Until(ctx, c.holdKey(account))
	if err != nil {
		c.log.WarnContext(ctx, "it is not known whether a vendor takes requests", "error", err)
		return nil
	}
	if wait := until.Sub(c.now()); wait > 0 {
		return slipway.Errorf(slipway.RateLimited, "%s takes no more requests for now", c.o.Vendor).After(wait)
	}
	return nil
}

func (c *Client) hold(ctx context.Context, r Request, account string, until time.Time) {
	if err := c.holdsOf(r).Hold(context.WithoutCancel(ctx), c.holdKey(account), until); err != nil {
		c.log.WarnContext(ctx, "that a vendor takes no more requests was not noted", "error", err)
	}
}

// refused gives how long to keep away from a vendor that did not say it.
func (c *Client) refused(r Request, account string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := min(firstRest<<min(c.refusals[account], 8), maxRest)
	if r.As == nil {
		c.refusals[account]++
	}
	return rest + rand.N(rest/10)
}

// learn keeps what an answer says of limits.
func (c *Client) learn(r Request, account string, res *http.Response) (l Limit) {
	now := c.now()
	if c.o.Limit != nil {
		l = c.o.Limit(res.Header, now)
	}
	l.Account = account
	if l.Until.Before(now) {
		l.Until = time.Time{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.Total > 0 && r.As == nil {
		c.limits[account] = l
	}
	if res.StatusCode < 400 {
		delete(c.refusals, account)
	}
	return l
}

// pace lets requests that change something go one after the other, WriteGap apart.
func (c *Client) pace(ctx context.Context) error {
	c.mu.Lock()
	now := time.Now()
	at := c.lastWrite.Add(c.o.WriteGap)
	if at.Before(now) {
		at = now
	}
	c.lastWrite = at
	c.mu.Unlock()
	return Wait(ctx, at.Sub(now))
}

// harmless may be sent to a host that a vendor redirects to.
var harmless = []string{"Accept", "Accept-Encoding", "Range", "User-Agent"}

// guard copies a client so that redirects carry no credential, in whatever header it is, to another scheme, host or port, and turn no POST into a GET.
func guard(hc *http.Client) *http.Client {
	if hc == nil {
		hc = &http.Client{}
	}
	guarded := *hc
	guarded.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		first := via[0]
		if req.Method != first.Method {
			return http.ErrUseLastResponse
		}
		away := false
		for _, r := range append(via[1:len(via):len(via)], req) { // once away, always away
			away = away || r.URL.Host != first.URL.Host || r.URL.Scheme != first.URL.Scheme
		}
		if away {
			if req.Method != http.MethodGet && req.Method != http.MethodHead {
				return http.ErrUseLastResponse
			}
			kept := http.Header{}
			for _, name := range harmless {
				if v := req.Header.Values(name); len(v) > 0 {
					kept[name] = v
				}
			}
			req.Header = kept
		}
		if hc.CheckRedirect != nil {
			return hc.CheckRedirect(req, via)
		}
		if len(via) >= 5 {
			return http.ErrUseLastResponse
		}
		return nil
	}
	return &guarded
}
