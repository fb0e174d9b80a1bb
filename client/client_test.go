package client_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/client"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
)

// serve starts a server that answers as fn does, and a client of it.
func serve(t *testing.T, fn http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(fn)
	t.Cleanup(s.Close)
	c, err := client.New(s.URL+"/", "slp_test")
	if err != nil {
		t.Fatal(err)
	}
	c.UserAgent = "slipway/1.2.3"
	return c
}

func TestRequestsSayWhoAsks(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got := map[string]string{
			"method": r.Method, "path": r.URL.EscapedPath(), "query": r.URL.RawQuery, "auth": r.Header.Get("Authorization"),
			"agent": r.Header.Get("User-Agent"), "type": r.Header.Get("Content-Type"), "body": string(body),
		}
		_ = json.NewEncoder(w).Encode(got)
	})
	var got map[string]string
	if err := c.Do(t.Context(), http.MethodPost, "/api/x%2Fy?a=b", map[string]int{"n": 1}, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"method": "POST", "path": "/api/x%2Fy", "query": "a=b", "auth": "Bearer slp_test", "agent": "slipway/1.2.3", "type": "application/json", "body": `{"n":1}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsKeepCodeSentenceAndRequestID(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status int
		body   string
		code   slipway.Code
		text   string
		id     string
	}{
		"api":          {404, `{"error":"there is no such build","code":"not_found","requestId":"r-1"}`, slipway.NotFound, "there is no such build", "r-1"},
		"data":         {422, `{"version":1,"error":{"code":"invalid","message":"name is missing","requestId":"r-2"}}`, slipway.Invalid, "name is missing", "r-2"},
		"tool":         {409, `{"messages":{"info":[],"warning":[],"error":["one is active","wait"]}}`, slipway.Conflict, "one is active; wait", "header"},
		"backstage":    {404, `{"error":{"name":"NotFoundError","message":"no such entity"},"response":{"statusCode":404}}`, slipway.NotFound, "no such entity", "header"},
		"seed text":    {400, `{"error":"Invalid catalog-info.yaml: missing required field 'metadata.name'"}`, slipway.Invalid, "Invalid catalog-info.yaml: missing required field 'metadata.name'", "header"},
		"not a server": {502, `<html>`, slipway.Unavailable, "check that this is the address of a Slipway server", "header"},
		"empty":        {418, ``, slipway.Internal, "418", "header"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Request-Id", "header")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			err := c.Do(t.Context(), http.MethodPost, "/api/x", nil, nil)
			var answer *client.Error
			if !errors.As(err, &answer) || !errors.Is(err, tt.code) {
				t.Fatalf("got %v (%s), want code %s", err, slipway.CodeOf(err), tt.code)
			}
			if !strings.Contains(answer.Error(), tt.text) || answer.RequestID != tt.id || answer.Status != tt.status {
				t.Errorf("got %q, request %q, status %d", answer.Error(), answer.RequestID, answer.Status)
			}
		})
	}
}

func TestDetailsOfAnErrorArePassedOn(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(400)
		_, _ = io.WriteString(w, `{"error":"the request does not fit","code":"invalid","details":[{"field":"limit","code":"invalid","message":"at most 100"}]}`)
	})
	err := c.Do(t.Context(), http.MethodGet, "/api/x", nil, nil)
	coded, ok := errors.AsType[*slipway.Error](err)
	if !ok || len(coded.Details) != 1 || coded.Details[0].Field != "limit" {
		t.Errorf("got %v", err)
	}
}

func TestOnlyCallsThatMayBeRepeatedAreTriedAgain(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		method, retryAfter string
		status             int
		want               int32
	}{
		"a read past the limit":            {http.MethodGet, "0", 429, 3},
		"a read of a server that is away":  {http.MethodGet, "0", 503, 3},
		"a delete":                         {http.MethodDelete, "0", 503, 3},
		"a create is not":                  {http.MethodPost, "0", 503, 1},
		"a failure that stays is not":      {http.MethodGet, "0", 500, 1},
		"a wait that is too long is not":   {http.MethodGet, "3600", 429, 1},
		"what the vendor cannot do is not": {http.MethodGet, "0", 501, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int32
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if calls.Add(1) < 3 {
					w.Header().Set("Retry-After", tt.retryAfter)
					w.WriteHeader(tt.status)
					return
				}
				_, _ = io.WriteString(w, `{}`)
			})
			c.Backoff = time.Millisecond
			err := c.Do(t.Context(), tt.method, "/api/x", nil, nil)
			if calls.Load() != tt.want || (err == nil) != (tt.want == 3) {
				t.Errorf("got %d calls and %v, want %d calls", calls.Load(), err, tt.want)
			}
		})
	}
}

func TestWaitsAsLongAsTheServerSays(t *testing.T) {
	t.Parallel()
	var first time.Time
	var waited time.Duration
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if first.IsZero() {
			first = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
			return
		}
		waited = time.Since(first)
		_, _ = io.WriteString(w, `{}`)
	})
	if err := c.Do(t.Context(), http.MethodGet, "/api/x", nil, nil); err != nil {
		t.Fatal(err)
	}
	if waited < time.Second {
		t.Errorf("came again after %s, want 1 s", waited)
	}
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "20")
		w.WriteHeader(503)
		cancel()
	})
	if err := c.Do(ctx, http.MethodGet, "/api/x", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestAnAnswerThatDidNotChangeIsNotSentAgain(t *testing.T) {
	t.Parallel()
	var full, unchanged atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		if r.Header.Get("If-None-Match") == `"v1"` {
			unchanged.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		full.Add(1)
		_, _ = io.WriteString(w, `{"name":"web"}`)
	})
	for range 3 {
		var out struct{ Name string }
		if err := c.Do(t.Context(), http.MethodGet, "/api/x", nil, &out); err != nil || out.Name != "web" {
			t.Fatalf("got %+v, %v", out, err)
		}
	}
	if full.Load() != 1 || unchanged.Load() != 2 {
		t.Errorf("got %d full and %d unchanged answers, want 1 and 2", full.Load(), unchanged.Load())
	}
}

func TestAnAnswerThatDidNotChangeIsKnownHoweverManyAreAskedForAtOnce(t *testing.T) {
	t.Parallel()
	var c *client.Client
	c = serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		if r.Header.Get("If-None-Match") == `"v1"` {
			for i := range 100 { // meanwhile others ask for so much that this answer is forgotten
				if err := c.Do(r.Context(), http.MethodGet, fmt.Sprint("/api/other/", i), nil, nil); err != nil {
					t.Error(err)
				}
			}
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, `{"name":"web"}`)
	})
	for range 2 {
		var out struct{ Name string }
		if err := c.Do(t.Context(), http.MethodGet, "/api/x", nil, &out); err != nil || out.Name != "web" {
			t.Fatalf("got %+v, %v", out, err)
		}
	}
}

func TestAStreamIsNeverAnsweredFromMemory(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		if r.Header.Get("If-None-Match") == `"v1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, `"text"`)
	})
	if err := c.Do(t.Context(), http.MethodGet, "/api/x", nil, nil); err != nil {
		t.Fatal(err)
	}
	s, err := c.Stream(t.Context(), "/api/x")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if text, err := io.ReadAll(s); err != nil || string(text) != `"text"` {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestAChangeIsNeverMadeAReadByARedirect(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/x" {
			http.Redirect(w, r, "/api/x/", http.StatusMovedPermanently)
			return
		}
		_, _ = io.WriteString(w, `{}`)
	})
	if err := c.Do(t.Context(), http.MethodPost, "/api/x", map[string]string{"a": "b"}, nil); err == nil {
		t.Error("a POST that became a GET was told as done")
	}
	if err := c.Do(t.Context(), http.MethodGet, "/api/x", nil, nil); err != nil {
		t.Errorf("a read on the same host: %v", err)
	}
}

func TestStreamsComeAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "one\n")
		w.(http.Flusher).Flush()
		select {
		case <-next:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "two\n")
	})
	text, err := c.BuildLogs(t.Context(), "component:default/web", "ci:1", true)
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	b := make([]byte, 4)
	if _, err := io.ReadFull(text, b); err != nil || string(b) != "one\n" {
		t.Fatalf("got %q, %v", b, err)
	}
	close(next)
	if rest, err := io.ReadAll(text); err != nil || string(rest) != "two\n" {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestTheTokenDoesNotFollowARedirectElsewhere(t *testing.T) {
	t.Parallel()
	var leaked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, _ *http.Request) { leaked.Store(true) }))
	t.Cleanup(other.Close)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	if err := c.Do(t.Context(), http.MethodGet, "/api/x", nil, nil); err == nil || leaked.Load() {
		t.Errorf("got %v; the other server was asked: %v", err, leaked.Load())
	}
}

func TestAddressesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "localhost:8080", "ftp://x", "https://", "https://jane:secret@x", "https://x?a=b"} {
		if _, err := client.New(address, ""); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%q: got %v, want it refused", address, err)
		} else if strings.Contains(err.Error(), "secret@") {
			t.Errorf("%q: the message shows the password", address)
		}
	}
}

func TestASilentServerIsUnavailable(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	c, err := client.New(s.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), http.MethodGet, "/version", nil, nil); !errors.Is(err, slipway.Unavailable) || !strings.Contains(err.Error(), s.URL) {
		t.Errorf("got %v, want Unavailable with the address", err)
	}
}

func TestTLSWithAnOwnAuthority(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"version":"1"}`) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // the refused handshake
	s.StartTLS()
	t.Cleanup(s.Close)
	c, err := client.New(s.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Version(t.Context()); !errors.Is(err, slipway.Unavailable) || !strings.Contains(err.Error(), "SLIPWAY_CA_FILE") {
		t.Errorf("an unknown authority: got %v", err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, certificate(s), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.TrustCA(file); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Version(t.Context()); err != nil || v.Version != "1" {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestBuildsAreReadPageByPage(t *testing.T) {
	t.Parallel()
	var queries []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.EscapedPath()+"?"+r.URL.RawQuery)
		page := client.BuildPage{Items: []slipway.Build{{ID: "ci:3"}, {ID: "ci:2"}}, PageInfo: slipway.PageInfo{NextCursor: "c1", HasMore: true}}
		if r.URL.Query().Get("cursor") == "c1" {
			page = client.BuildPage{Items: []slipway.Build{{ID: "ci:1"}}}
		}
		_ = json.NewEncoder(w).Encode(page)
	})
	var ids []string
	q := client.BuildQuery{Limit: 2, Status: []string{"failed", "canceled"}, Since: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)}
	for b, err := range c.AllEntityBuilds(t.Context(), "component:default/web", q) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, b.ID)
	}
	if want := []string{"ci:3", "ci:2", "ci:1"}; !slices.Equal(ids, want) {
		t.Errorf("got %v, want %v", ids, want)
	}
	want := "/api/build/by-entity/component:default%2Fweb/search?limit=2&since=2026-11-21T00%3A00%3A00Z&status=failed&status=canceled"
	if len(queries) != 2 || queries[0] != want {
		t.Errorf("got %v, want first %s", queries, want)
	}
}

// The client has types of its own, so that a program that uses it does not link the server. Their keys must be the server's.
func TestTheDocumentsAreTheServersDocuments(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]any{{client.Job{}, job.Job{}}, {client.JobFailure{}, job.Failure{}}, {client.Schedule{}, job.ScheduleStatus{}}, {client.Event{}, event.Event{}}, {client.Token{}, auth.Token{}}} {
		ours, theirs := keys(pair[0]), keys(pair[1])
		for _, k := range ours {
			if !slices.Contains(theirs, k) {
				t.Errorf("%T has the key %q, which %T has not", pair[0], k, pair[1])
			}
		}
	}
}

func keys(v any) (out []string) {
	for f := range reflect.TypeOf(v).Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out = append(out, key)
	}
	return out
}

// certificate is the server's own, as a file of authorities.
func certificate(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}
