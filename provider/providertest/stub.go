package providertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Stub is what every vendor's stub has: a server that holds each request against the vendor's description, remembers what it was asked, and fails on demand. What the
// vendor answers is the handler's.
type Stub struct {
	*httptest.Server

	mu    sync.Mutex
	fault Fault
	asked []Asked
}

// Asked is a request that a stub was sent.
type Asked struct {
	Method string
	Path   string // below the description's prefix, as it was sent
	Header http.Header
	Body   map[string]any // nil where there was none, or no object
}

func (a Asked) String() string { return a.Method + " " + a.Path }

// Fault answers in the place of a stub. false: the stub is to answer after all.
type Fault func(w http.ResponseWriter, r *http.Request) bool

// NewStub starts a stub that ends with the test. d may be nil.
func NewStub(t testing.TB, d *Description, vendor http.HandlerFunc) *Stub {
	s := &Stub{}
	prefix := ""
	answer := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		a := Asked{Method: r.Method, Path: strings.TrimPrefix(r.URL.EscapedPath(), prefix), Header: r.Header.Clone()}
		_ = json.Unmarshal(body, &a.Body)
		s.mu.Lock()
		s.asked = append(s.asked, a)
		s.mu.Unlock()
		vendor(w, r)
	}))
	if d != nil {
		prefix = d.prefix
		answer = d.Handler(t, answer)
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		fault := s.fault
		s.mu.Unlock()
		if fault == nil || !fault(w, r) {
			answer.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// Asked gives what was answered by the vendor so far: not what a fault answered.
func (s *Stub) Asked() []Asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// Count says how often the vendor was asked "METHOD /path".
func (s *Stub) Count(request string) int {
	n := 0
	for _, a := range s.Asked() {
		if a.String() == request {
			n++
		}
	}
	return n
}

// Last is the last request that changes something, the zero Asked where there was none.
func (s *Stub) Last() Asked {
	for _, a := range slices.Backward(s.Asked()) {
		if a.Method != http.MethodGet {
			return a
		}
	}
	return Asked{}
}

// Break lets a fault answer from now on; nil mends the stub.
func (s *Stub) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Faults fills in what a harness needs to have the vendor fail.
func (s *Stub) Faults(h Harness) Harness {
	h.Down = func(testing.TB) { s.Close() }
	h.Limit = func(testing.TB) { s.Break(Refuse(http.StatusTooManyRequests, "slow down", "Retry-After", "30")) }
	h.Refuse = func(testing.TB) { s.Break(Refuse(http.StatusUnauthorized, "bad credentials")) }
	h.Hang = func(testing.TB) { s.Break(hang) }
	return h
}

func hang(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body) // only then the server sees that the client is gone
	<-r.Context().Done()
	return true
}

// Answer writes JSON, as most vendors do.
func Answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// Refuse answers everything with a status, a message where most vendors have it, and headers, of which names and values take turns.
func Refuse(status int, message string, header ...string) Fault {
	body, _ := json.Marshal(map[string]string{"message": message})
	return Say(status, string(body), header...)
}

// Say answers everything with a status, a text and headers, of which names and values take turns.
func Say(status int, text string, header ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for pair := range slices.Chunk(header, 2) {
			w.Header().Set(pair[0], pair[1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
		return true
	}
}

// On limits a fault to requests of a method.
func On(method string, f Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool { return r.Method == method && f(w, r) }
}

// Refusal is an answer with which a vendor refuses or fails, and what is to come of it.
type Refusal struct {
	Fault     Fault
	Retrigger bool // what is asked for is to run a failed build again, and not the list
	Want      slipway.Code
	After     time.Duration // about when to try again; 0: it is not said
}

// failures are those of every vendor that speaks HTTP.
var failures = map[string]Refusal{
	"bad credential":                     {Fault: Refuse(401, "bad credentials"), Want: slipway.Unauthenticated},
	"no permission":                      {Fault: Refuse(403, "not yours"), Want: slipway.Forbidden},
	"gone":                               {Fault: Refuse(404, "not found"), Want: slipway.NotFound},
	"enough, with a time":                {Fault: Refuse(429, "slow down", "Retry-After", "90"), Want: slipway.RateLimited, After: 90 * time.Second},
	"enough, without a time":             {Fault: Say(429, ""), Want: slipway.RateLimited, After: time.Minute},
	"enough, with a time of no sense":    {Fault: Say(429, "", "Retry-After", "99999999999"), Want: slipway.RateLimited, After: time.Minute},
	"stumbled":                           {Fault: Say(500, "<html>"), Want: slipway.Unavailable},
	"a proxy without a server behind it": {Fault: Say(502, "<html>"), Want: slipway.Unavailable},
	"under maintenance for long":         {Fault: Say(503, "", "Retry-After", "120"), Want: slipway.Unavailable, After: 2 * time.Minute},
	"moved":                              {Fault: Say(302, "", "Location", "/elsewhere/"), Want: slipway.Invalid},
	"garbage":                            {Fault: Say(200, "<html>Sign in</html>"), Want: slipway.Unavailable},
	"nothing":                            {Fault: Say(200, ""), Want: slipway.Unavailable},
	"something else":                     {Fault: Say(200, "{}"), Want: slipway.Unavailable},
	"another type":                       {Fault: Say(200, `"text"`), Want: slipway.Unavailable},
	"half an answer":                     {Fault: Say(200, `{"items":[{"id":"`, "Content-Length", "1000"), Want: slipway.Unavailable},
	"far too much":                       {Fault: tooMuch, Want: slipway.TooLarge},
	"changed meanwhile":                  {Fault: On(http.MethodPost, Refuse(409, "it runs already")), Retrigger: true, Want: slipway.Conflict},
	"may not run it again":               {Fault: On(http.MethodPost, Refuse(403, "read only")), Retrigger: true, Want: slipway.Forbidden},
}

// Endless is a vendor that answers everything with a body, and each time that there is more: what goes from page to page has to end by itself. It fails the test when
// it is asked a thousand times.
func Endless(t testing.TB, body string, header ...string) *http.Client {
	var asked atomic.Int32
	return &http.Client{Transport: Transport(func(r *http.Request) (*http.Response, error) {
		if asked.Add(1) > 1000 {
			t.Error("it asks without end")
			return nil, errors.New("asked too often")
		}
		res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(strings.ReplaceAll(body, "PAGE", strconv.Itoa(int(asked.Load()))))), Request: r}
		for i := 0; i+1 < len(header); i += 2 {
			res.Header.Set(header[i], header[i+1])
		}
		return res, nil
	})}
}

// Transport answers requests without a network.
type Transport func(*http.Request) (*http.Response, error)

// RoundTrip answers one.
func (f Transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func tooMuch(w http.ResponseWriter, _ *http.Request) bool {
	_, _ = io.WriteString(w, `{"items":["`)
	for range 33 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	return true
}

// Refusals checks what comes of answers with which vendors fail, and of those of this vendor, by name; one of the same name replaces a common one, and one without a
// Fault leaves it out. No error may show secret, which is the credential's.
func Refusals(t *testing.T, secret string, open func(t *testing.T) (Harness, *Stub), own map[string]Refusal) {
	t.Helper()
	all := maps.Clone(failures)
	maps.Copy(all, own)
	for name, r := range all {
		if r.Fault == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, s := open(t)
			if r.Retrigger && h.Provider.Builds == nil {
				return
			}
			m := makeItems(t, h)
			s.Break(r.Fault)
			var err error
			switch {
			case r.Retrigger:
				_, err = h.Provider.Builds.Retrigger(t.Context(), h.Project, m.build, nil, slipway.Caller{})
			case h.Provider.Builds == nil:
				_, err = h.Provider.Deployments.List(t.Context(), h.Project, provider.ListOptions{})
			default:
				_, err = h.Provider.Builds.List(t.Context(), h.Project, provider.ListOptions{})
			}
			if slipway.CodeOf(err) != r.Want {
				t.Fatalf("got %v, want %s", err, r.Want)
			}
			var e *slipway.Error
			if errors.As(err, &e); e.RetryAfter < r.After*9/10 || e.RetryAfter > r.After*12/10 {
				t.Errorf("try again after %v, want about %v", e.RetryAfter, r.After)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the credential: %v", err)
			}
		})
	}
}

// Entity is a component with annotations, of which keys and values take turns.
func Entity(annotations ...string) slipway.Entity {
	e := slipway.Entity{Kind: "Component", Metadata: slipway.EntityMetadata{Name: "web", Annotations: map[string]string{}}}
	for pair := range slices.Chunk(annotations, 2) {
		e.Metadata.Annotations[pair[0]] = pair[1]
	}
	return e
}

// Payload reads a file of JSON when it is asked for first: what a stub's answers are made of. Nothing of it may be changed.
func Payload[T any](file string) func() T {
	return sync.OnceValue(func() (payload T) {
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &payload)
		}
		if err != nil {
			panic(err)
		}
		return payload
	})
}

// Config is a vendor's config as it is decoded of what stands in the configuration: base, and more in its place and besides.
func Config[C any](t testing.TB, base, more map[string]any) (cfg C) {
	t.Helper()
	all := maps.Clone(base)
	maps.Copy(all, more)
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := provider.Decode(raw, &cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}
