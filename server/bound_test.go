package server_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestACallerIsCountedWhereThereIsNothing(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	limited := s.As(s.NewToken(auth.NewToken{Name: "limited", Permissions: []string{"toy.thing.read"}, RateLimit: rate(4)}))
	for i, call := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/api/toy/touched/nothing", 404}, {"DELETE", "/api/toy/things/a", 405}, {"GET", "/api//toy", 404}, {"GET", "/api/toy/careless", 403}, {"GET", "/data/toy/a/b", 429},
	} {
		a := limited.Do(call.method, call.path, nil).Is(call.status)
		if got := a.Header.Get("X-RateLimit-Remaining"); a.Header.Get("X-RateLimit-Limit") != "4" || a.Header.Get("X-RateLimit-Reset") == "" || got != []string{"3", "2", "1", "0", "0"}[i] {
			t.Errorf("%s %s: %v", call.method, call.path, a.Header)
		}
	}
	nobody := s.As("")
	if h := nobody.Get("/api/nothing").Is(404).Header; h.Get("X-RateLimit-Limit") != "" {
		t.Errorf("somebody without a credential is counted: %v", h)
	}
	// Paths without an operation are no place to try tokens.
	stranger := s.As("slp_guessed")
	stranger.Get("/api/nothing").Fails(401, slipway.Unauthenticated)
	refused := 0
	for range 70 {
		if stranger.Get("/data/toy/a/b").Status == 429 {
			refused++
		}
	}
	if refused < 5 {
		t.Errorf("%d of 70 wrong tokens were answered with 429", refused)
	}
}

func TestOneCallerHasSoManyStreamsAndNoMore(t *testing.T) {
	t.Parallel()
	s := blueprinttest.Start(t, store.SQLite, options())
	open := func(token string) (status int, after string, end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api/toy/stream", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res.StatusCode, res.Header.Get("Retry-After"), cancel
	}
	jane := s.NewToken(auth.NewToken{Name: "jane", User: "user:default/jane", Permissions: []string{"toy.thing.read"}})
	again := s.NewToken(auth.NewToken{Name: "jane-again", User: "user:default/jane", Permissions: []string{"toy.thing.read"}})
	var ends []func()
	for i := range 20 {
		status, _, end := open([]string{jane, again}[i%2])
		if status != 200 {
			t.Fatalf("stream %d of a user was answered with %d", i+1, status)
		}
		ends = append(ends, end)
	}
	for _, token := range []string{jane, again} {
		if status, after, _ := open(token); status != 429 || after == "" {
			t.Errorf("a user's 21st stream was answered with %d, Retry-After %q", status, after)
		}
	}
	s.As(jane).Get("/api/toy/raw").Is(200) // all else goes on
	if status, _, _ := open(s.Token); status != 200 {
		t.Errorf("another caller's stream was answered with %d", status)
	}
	ends[0]()
	blueprinttest.Eventually(t, "a stream that ended makes room", func() bool {
		status, _, _ := open(jane)
		return status == 200
	})
}

func TestWhatIsKeptOfIdempotentCallsIsBounded(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			o := options()
			o.Database = storetest.URL(t, engine)
			s := blueprinttest.Start(t, engine, o)
			db, err := store.Open("main", o.Database)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			used := func(bytes int64) {
				t.Helper()
				if err := db.Write(t.Context(), func(tx *store.Tx) error {
					_, err := tx.Exec(t.Context(), `UPDATE server_once_use SET bytes = $1`, bytes)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			call := func(name, key string) *blueprinttest.Answer {
				return s.Post("/api/toy/things", thing{Name: name}, "Idempotency-Key", key)
			}
			// An answer that is too large to keep is not made a second time.
			call("big", "big").Is(201)
			if got := call("big", "big").Fails(409, slipway.Conflict); !strings.Contains(got.Error, "was done already") {
				t.Errorf("got %q", got.Error)
			}
			call("one", "first").Is(201)
			used(64<<20 - 520) // room for a key, but not for an answer
			call("two", "second").Is(201)
			call("two", "second").Fails(409, slipway.Conflict)
			if call("one", "first").Is(201).Header.Get("Idempotency-Replayed") != "true" {
				t.Error("what was kept before is gone")
			}
			used(128<<20 - 100)
			over := call("three", "third")
			over.Fails(429, slipway.RateLimited)
			if over.Header.Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
			s.Post("/api/toy/things", thing{Name: "three"}).Is(201) // without a key nothing is kept
			s.With("toy.thing.read").Post("/api/toy/things", thing{Name: "three"}, "Idempotency-Key", "third").Is(201)
		})
	}
}

func TestSchemaGoesDownAndUp(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, server.Owners(nil)["main"]...)
}
