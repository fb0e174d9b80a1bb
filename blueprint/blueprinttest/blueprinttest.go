// Package blueprinttest starts a real server with some blueprints on an empty database and gives tests an HTTP client for it.
// It is what a blueprint's author tests with: nothing in it is a mock.
package blueprinttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// Options say what to start.
type Options struct {
	Blueprints []blueprint.Blueprint
	Kinds      []provider.Kind
	Configure  func(*server.Config) // changes the configuration; sections are under Sections
	Now        func() time.Time
	Database   string // address of a database that exists; "": an empty one of the engine
	DataDir    string // "": a temporary folder
}

// Server is a running server, stopped when the test ends.
type Server struct {
	*Client
	T        testing.TB
	Server   *server.Server
	DataDir  string
	Database string // address
	Log      *Log
	stop     func()
}

// Client calls the server with one token.
type Client struct {
	t     testing.TB
	URL   string
	Token string
}

// Each runs test on both engines, in parallel.
func Each(t *testing.T, o Options, test func(t *testing.T, s *Server)) {
	t.Helper()
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			test(t, Start(t, e, o))
		})
	}
}

// Start starts a server on an empty database of the engine. The client it gives holds an admin token without a rate limit.
func Start(t testing.TB, engine store.Engine, o Options) *Server {
	t.Helper()
	dir := o.DataDir
	if dir == "" {
		dir = t.TempDir()
	}
	config := server.DefaultConfig()
	config.DataDir = dir
	config.Server.Listen = "127.0.0.1:0"
	url := o.Database
	if url == "" {
		url = storetest.URL(t, engine)
	}
	config.Databases = map[string]string{"main": url}
	for name := range server.Owners(o.Blueprints) {
		if name != "main" { // one that a blueprint has beside it
			config.Databases[name] = storetest.URL(t, engine)
		}
	}
	config.Secrets.KeyFile = filepath.Join(dir, "master.key")
	if engine == store.Postgres {
		makeKey(t, config.Secrets.KeyFile)
	}
	config.Sections = server.Sections(o.Blueprints)
	if o.Configure != nil {
		o.Configure(config)
	}
	log, levels := &Log{}, server.NewLevels(slog.LevelDebug)
	s, err := server.New(t.Context(), server.Options{
		Config: config, Blueprints: o.Blueprints, Kinds: o.Kinds, Version: "0.0.0-test", Now: o.Now,
		Log: slog.New(levels.Handler(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))), Levels: levels,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Listen(false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx, l); err != nil {
			t.Errorf("the server ended: %v", err)
		}
	}()
	var once sync.Once
	ts := &Server{T: t, Server: s, DataDir: dir, Database: url, Log: log, stop: func() {
		once.Do(func() {
			checkEvents(t, s.Events())
			cancel()
			<-done
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		})
	}}
	t.Cleanup(func() {
		ts.stop()
		if t.Failed() {
			t.Logf("the server's log:\n%s", log.Tail(40))
		}
	})
	ts.Client = &Client{t: t, URL: "http://" + l.Addr().String()}
	ts.Token = ts.NewToken(auth.NewToken{Name: tokenName(), Admin: true})
	return ts
}

// makeKey makes the key file that every replica on PostgreSQL must share.
func makeKey(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); err == nil {
		return
	}
	if err := server.MakeKey(path); err != nil {
		t.Fatal(err)
	}
}

var tokens atomic.Int64

// tokenName is one that no other token of this process has, nor of another process on the same database.
func tokenName() string { return fmt.Sprintf("test-%d-%d", os.Getpid(), tokens.Add(1)) }

// Stop stops the server before the test ends, gracefully.
func (s *Server) Stop() { s.stop() }

// NewToken makes a token; one without a rate limit unless it says so.
func (s *Server) NewToken(in auth.NewToken) string {
	s.T.Helper()
	if in.RateLimit == nil && in.User == "" {
		in.RateLimit = new(auth.Rate)
	}
	token, err := s.Server.NewToken(context.Background(), in)
	if err != nil {
		s.T.Fatal(err)
	}
	return token
}

// With is a client with a new token that holds these permissions ("build.run.read", "build.run.retrigger:component:default/web").
func (s *Server) With(permissions ...string) *Client {
	s.T.Helper()
	return s.As(s.NewToken(auth.NewToken{Name: tokenName(), Permissions: permissions}))
}

// As is a client with another token; "" sends none.
func (s *Server) As(token string) *Client { return &Client{t: s.T, URL: s.URL, Token: token} }

// Answer is what came back.
type Answer struct {
	t      testing.TB
	Status int
	Header http.Header
	Body   []byte
}

// Do sends a request. body is sent as JSON; a string or []byte as it is. header holds pairs of name and value.
func (c *Client) Do(method, path string, body any, header ...string) *Answer {
	c.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			c.t.Fatal(err)
		}
		r = bytes.NewReader(raw)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, r)
	if err != nil {
		c.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return &Answer{t: c.t, Status: res.StatusCode, Header: res.Header, Body: raw}
}

// Get is Do with GET.
func (c *Client) Get(path string, header ...string) *Answer {
	c.t.Helper()
	return c.Do("GET", path, nil, header...)
}

// Post is Do with POST.
func (c *Client) Post(path string, body any, header ...string) *Answer {
	c.t.Helper()
	return c.Do("POST", path, body, header...)
}

// Is fails the test when the status is another.
func (a *Answer) Is(status int) *Answer {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("got status %d, want %d; body: %s", a.Status, status, a.Body)
	}
	return a
}

// Into decodes the body.
func (a *Answer) Into(v any) *Answer {
	a.t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		a.t.Fatalf("the body is not what it should be: %v: %s", err, a.Body)
	}
	return a
}

// Fault is an error body of the api dialect.
type Fault struct {
	Error     string           `json:"error"`
	Code      slipway.Code     `json:"code"`
	RequestID string           `json:"requestId"`
	Details   []slipway.Detail `json:"details"`
}

// Fails fails the test unless the answer is an error of the api dialect with this status and code; it gives the body.
func (a *Answer) Fails(status int, code slipway.Code) Fault {
	a.t.Helper()
	var f Fault
	a.Is(status).Into(&f)
	if f.Code != code || f.Error == "" || f.RequestID == "" {
		a.t.Fatalf("got error %+v, want code %s with a text and a request id", f, code)
	}
	return f
}

// Eventually calls f until it gives true, for a minute at most.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen within a minute: %s", what)
		}
		time.Sleep(10 * time.Millisecond) // pacing of a poll, not a wait for an event
	}
}

// Log keeps what the server logs, as lines of JSON.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String is all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Tail is the last lines.
func (l *Log) Tail(n int) string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
