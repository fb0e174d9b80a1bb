package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestTheDatabaseGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	pg := storetest.Server(t)
	o := options()
	o.Database = pg.URL("gone")
	if _, err := store.CreateDatabase(t.Context(), o.Database); err != nil {
		t.Fatal(err)
	}
	s := blueprinttest.Start(t, store.Postgres, o)
	write := func(key string) *blueprinttest.Answer {
		return s.Post("/api/toy/things", thing{Name: "x"}, "Idempotency-Key", key)
	}
	write("before").Is(201)

	pg.Stop(t)
	a := write("meanwhile")
	a.Fails(503, slipway.Unavailable)
	if a.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	var ready server.Readiness
	s.As("").Get("/readyz").Is(503).Into(&ready)
	if ready.Ready || ready.Checks[0].OK || ready.Checks[0].Name != "database main" {
		t.Errorf("got %+v", ready)
	}
	s.As("").Get("/healthz").Is(200)

	pg.Start(t)
	blueprinttest.Eventually(t, "writes work again by themselves", func() bool { return write("after").Status == 201 })
	blueprinttest.Eventually(t, "the server is ready again", func() bool { return s.As("").Get("/readyz").Status == 200 })
	if write("before").Is(201).Header.Get("Idempotency-Replayed") != "true" {
		t.Error("what was noted before the fault is lost")
	}
}

func TestReplicasMayStartTogetherOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, store.Postgres)
	key := filepath.Join(t.TempDir(), "master.key")
	if err := server.MakeKey(key); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := server.DefaultConfig()
			c.DataDir, c.Databases["main"], c.Secrets.KeyFile = t.TempDir(), url, key
			s, err := server.New(context.Background(), server.Options{Config: c, Blueprints: []blueprint.Blueprint{toyBlueprint(&toy{})}, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Errorf("a replica did not start: %v", err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestPostgresNeedsAKeyThatAllReplicasShare(t *testing.T) {
	t.Parallel()
	c := server.DefaultConfig()
	c.DataDir, c.Databases["main"] = t.TempDir(), storetest.URL(t, store.Postgres)
	s, err := server.New(t.Context(), server.Options{Config: c})
	if err == nil {
		s.Close()
		t.Fatal("it started with a key of its own")
	}
	if !strings.Contains(err.Error(), "slipway db create") {
		t.Errorf("got %v, want it to say how a key is made", err)
	}
}

func TestTwoServersDoNotShareASQLiteFile(t *testing.T) {
	t.Parallel()
	o := options()
	o.Database = storetest.URL(t, store.SQLite)
	first := blueprinttest.Start(t, store.SQLite, o)
	first.Get("/api/toy/things/a").Is(200)
	c := server.DefaultConfig()
	c.DataDir, c.Databases["main"] = t.TempDir(), o.Database
	if second, err := server.New(t.Context(), server.Options{Config: c, Blueprints: o.Blueprints}); !errors.Is(err, slipway.Conflict) {
		if err == nil {
			second.Close()
		}
		t.Errorf("got %v, want a conflict before anything in the database is touched", err)
	}
	first.Stop()
	blueprinttest.Start(t, store.SQLite, o).Get("/api/toy/things/a").Is(200)
}

func TestAServerThatStopsDoesNotWaitForConnectionsThatSayNothing(t *testing.T) {
	t.Parallel()
	c := server.DefaultConfig()
	c.DataDir, c.Server.Listen = t.TempDir(), "127.0.0.1:0"
	s, err := server.New(t.Context(), server.Options{Config: c, Blueprints: []blueprint.Blueprint{toyBlueprint(&toy{})}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Listen(false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The connections are taken in their order: one that was answered comes after it.
	res, err := http.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	began := time.Now()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second { // http.Server alone takes 5
		t.Errorf("it took %s", took)
	}
}
