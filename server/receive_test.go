package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// begins sends the beginning of a request and no more.
func begins(t *testing.T, s *blueprinttest.Server, request string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	return conn
}

// active waits until so many requests are under way.
func active(t *testing.T, s *blueprinttest.Server, n int) {
	t.Helper()
	blueprinttest.Eventually(t, fmt.Sprintf("%d requests are under way", n), func() bool {
		return strings.Contains(string(s.Get("/metrics").Is(200).Body), fmt.Sprintf("\nslipway_http_requests_active %d\n", n+1)) // and this one
	})
}

func TestWhoSendsSlowlyKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	o := options()
	o.Configure = func(c *server.Config) {
		c.Server.Load = server.Load{Requests: 2, Wait: slipway.Duration(50 * time.Millisecond)}
	}
	s := blueprinttest.Start(t, store.SQLite, o)
	for range 6 { // three times the places, by strangers and by callers
		begins(t, s, "POST /api/toy/hook HTTP/1.1\nHost: x\nContent-Length: 6\n\nsig")
		begins(t, s, "POST /api/toy/things HTTP/1.1\nHost: x\nAuthorization: Bearer "+s.Token+"\nIdempotency-Key: slow\nTransfer-Encoding: chunked\n\n3\n{\"n\n")
	}
	active(t, s, 12)
	for range 5 {
		s.Get("/api/toy/raw").Is(200)
		s.Post("/api/toy/things", thing{Name: "a"}).Is(201)
		s.As("").Do("POST", "/api/toy/hook", "signed").Is(200)
	}
	// One who goes on is answered as anybody.
	last := begins(t, s, "POST /api/toy/hook HTTP/1.1\nHost: x\nConnection: close\nContent-Length: 6\n\nsig")
	active(t, s, 13)
	if _, err := io.WriteString(last, "ned"); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(last); !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Errorf("got %s", answer)
	}
}

func TestWhoReadsSlowlyKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	o := options()
	o.Configure = func(c *server.Config) {
		c.Server.Load = server.Load{Requests: 2, Wait: slipway.Duration(50 * time.Millisecond)}
	}
	s := blueprinttest.Start(t, store.SQLite, o)
	for n := range 4 { // one after the other: reads may take four fifths of two places
		conn := begins(t, s, "GET /api/toy/things/huge HTTP/1.1\nHost: x\nAuthorization: Bearer "+s.Token+"\n\n")
		first := make([]byte, 12)
		if _, err := io.ReadFull(conn, first); err != nil || string(first) != "HTTP/1.1 200" {
			t.Fatalf("the answer to number %d begins with %q, %v", n+1, first, err)
		}
	}
	active(t, s, 4)
	s.Get("/api/toy/raw").Is(200)
}

func TestOneAddressDoesNotTakeAllTheRoomForBodies(t *testing.T) {
	t.Parallel()
	o := options()
	o.Configure = func(c *server.Config) { c.Server.TrustedProxies = []string{"127.0.0.1", "::1"} }
	s := blueprinttest.Start(t, store.SQLite, o)
	begins(t, s, "POST /api/toy/hook HTTP/1.1\nHost: x\nX-Forwarded-For: 192.0.2.1\nContent-Length: 26214400\n\nsig")
	active(t, s, 1)
	large := strings.Repeat("x", 20<<20)
	a := s.As("").Do("POST", "/api/toy/hook", large, "X-Forwarded-For", "192.0.2.1")
	a.Fails(503, slipway.Unavailable)
	if a.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	s.As("").Do("POST", "/api/toy/hook", "signed", "X-Forwarded-For", "192.0.2.1").Is(200)
	for range 3 { // of a body whose length nobody says, what has come counts
		begins(t, s, "POST /api/toy/hook HTTP/1.1\nHost: x\nX-Forwarded-For: 192.0.2.3\nTransfer-Encoding: chunked\n\n3\nsig\n")
	}
	active(t, s, 4)
	s.As("").Do("POST", "/api/toy/hook", large, "X-Forwarded-For", "192.0.2.3").Fails(403, slipway.Forbidden)
	s.As("").Do("POST", "/api/toy/hook", large, "X-Forwarded-For", "192.0.2.2").Fails(403, slipway.Forbidden) // it was read
}

func TestABodyThatBreaksOffIsNoFaultOfOurs(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	conn := begins(t, s, "POST /api/toy/hook HTTP/1.1\nHost: x\nContent-Length: 6\n\nsig")
	active(t, s, 1)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 400") || !strings.Contains(string(answer), "did not arrive") {
		t.Errorf("got %s", answer)
	}
}

func TestManyWhoAskWhetherItIsReadyCostOneLook(t *testing.T) {
	t.Parallel()
	var looks atomic.Int64
	b := options().Blueprints[0]
	b.Health = []blueprint.Health{blueprint.Check("toy", "Counts", func(*toy, context.Context) error { looks.Add(1); return nil })}
	s := blueprinttest.Start(t, store.SQLite, blueprinttest.Options{Blueprints: []blueprint.Blueprint{b}})
	before, begun := looks.Load(), time.Now()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() { s.As("").Get("/readyz").Is(200) })
	}
	wg.Wait()
	if n, most := looks.Load()-before, int64(time.Since(begun)/(500*time.Millisecond))+2; n > most {
		t.Errorf("200 who asked made it look %d times; want %d at most", n, most)
	}
}
