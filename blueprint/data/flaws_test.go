package data_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/store"
)

// The proof of concept of the idea that this API follows, in Jenkins, had eight flaws. Each is a test here that would catch it; other tests look at the same
// things more closely.
func TestTheEightFlawsOfTheFirstAttempt(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, v *vendor) {
		s.Post("/data/credentials", sshKey).Is(201)

		t.Run("a: a type is no name of a class", func(t *testing.T) {
			for _, symbol := range []string{"HostnameSpecification$Resource", "com.cloudbees.plugins.credentials.HostnameSpecification", "data.secretText", "*data.secretText", "./secretText"} {
				if message, fields := refused(t, s.Post("/data/credentials", doc{"id": "x", "type": symbol}), 422, slipway.Invalid); strings.Join(fields, "") != "/type" || !strings.Contains(message, "secretText") {
					t.Errorf("%s: got %q at %v, want the known symbols", symbol, message, fields)
				}
			}
		})
		t.Run("b: nothing is read without a permission", func(t *testing.T) {
			nobody := s.With("platform.job.read")
			for _, kind := range []string{"credentials", "providers", "grants", "tokens"} {
				refused(t, nobody.Get("/data/"+kind), 403, slipway.Forbidden)
				refused(t, nobody.Get("/data/"+kind+"/github-key"), 403, slipway.Forbidden)
				refused(t, s.As("").Get("/data/"+kind), 401, slipway.Unauthenticated)
			}
			refused(t, nobody.Get("/data/audit"), 403, slipway.Forbidden)
			refused(t, nobody.Post("/data", doc{"kind": "credentials", "id": "x", "type": "secretText"}), 403, slipway.Forbidden)
		})
		t.Run("c: no secret comes back", func(t *testing.T) {
			s.Post("/data/credentials", doc{"id": "up", "type": "usernamePassword", "username": "u", "password": canary}).Is(201)
			s.Post("/data/credentials", doc{"id": "cert", "type": "certificate", "keyStore": "QUJD", "password": canary}).Is(201)
			for _, path := range []string{"/data/credentials", "/data/credentials/up", "/data/credentials/cert", "/data/credentials/github-key", "/data/audit"} {
				if body := string(s.Get(path).Is(200).Body); strings.Contains(body, canary) || strings.Contains(body, "QUJD") {
					t.Errorf("%s shows a secret: %s", path, body)
				}
			}
		})
		t.Run("d: what validation finds refuses the document", func(t *testing.T) {
			if _, fields := refused(t, s.Post("/data/credentials", doc{"id": "bad", "type": "secretText", "scope": "EVERYWHERE"}), 422, slipway.Invalid); strings.Join(fields, "") != "/scope" {
				t.Errorf("got faults at %v", fields)
			}
			s.Get("/data/credentials/bad").Is(404)
		})
		t.Run("e: the mark of a secret is not stored as one", func(t *testing.T) {
			s.Post("/data/credentials", doc{"id": "tok", "type": "secretText", "secret": "first-secret"}).Is(201)
			s.Do("PUT", "/data/credentials/tok", documentOf(t, s.Get("/data/credentials/tok"))).Is(200)
			s.Post("/data/providers", doc{"id": "e", "type": "vendor", "url": "u", "credential": "tok"}).Is(201)
			blueprinttest.Eventually(t, "the provider has the secret itself", func() bool { return v.credential("e") == "first-secret" })
			refused(t, s.Post("/data/credentials", doc{"id": "mark", "type": "secretText", "secret": "<redacted>"}), 422, slipway.Invalid)
		})
		t.Run("f: an export that is applied again loses no secret", func(t *testing.T) {
			exported, err := slipwayData(s, "export")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "export.json")
			if err := os.WriteFile(file, []byte(exported), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := slipwayData(s, "apply", "-f", file); err != nil || !strings.Contains(out, "0 created, 0 updated") {
				t.Fatalf("got %v %s", err, out)
			}
			s.Post("/data/providers", doc{"id": "f", "type": "vendor", "url": "u", "credential": "tok"}).Is(201)
			blueprinttest.Eventually(t, "the secret is still there", func() bool { return v.credential("f") == "first-secret" })
		})
		t.Run("g: the version is a number and is checked", func(t *testing.T) {
			for _, version := range []any{0, 2, "1", nil} {
				refused(t, s.Post("/data/credentials", doc{"version": version, "data": doc{"id": "v", "type": "secretText"}}), 400, slipway.Invalid)
			}
			if body := string(s.Get("/data/credentials").Body); !strings.HasPrefix(body, `{"version":1,`) {
				t.Errorf("got %s", body)
			}
		})
		t.Run("h: what has no resource appears nowhere, and what cannot be shown is told the same way everywhere", func(t *testing.T) {
			for _, answer := range []*blueprinttest.Answer{s.Get("/data/sessions"), s.Get("/data/sessions/x"), s.Post("/data/sessions", doc{"id": "x"}), s.Get("/data/schema/sessions")} {
				refused(t, answer, 404, slipway.NotFound)
			}
			// A document of a type that this build no longer has.
			write(t, s, `UPDATE resource SET type = 'vanished' WHERE kind = 'credentials' AND id = 'up'`)
			refused(t, s.Get("/data/credentials/up"), 501, slipway.Unsupported)
			if body := string(s.Get("/data/credentials").Is(200).Body); !strings.Contains(body, `{"id":"up","type":"vanished"}`) || strings.Contains(body, "null") {
				t.Errorf("got %s, want it listed by id and type, and the others as they are", body)
			}
			s.Do("DELETE", "/data/credentials/up", nil).Is(204)
		})
	})
}

// write changes the database behind the server's back.
func write(t *testing.T, s *blueprinttest.Server, query string, args ...any) {
	t.Helper()
	db, err := store.Open("main", s.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(context.Background(), query, args...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// What is stored of a provider has moved (the vendor's settings stand apart now), and its document has not: one that was stored in the first shape reads, works
// and is written as before.
func TestAProvidersDocumentStaysWhileWhatIsStoredMoved(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, v *vendor) {
		s.Post("/data/credentials", `{"id":"tok","type":"secretText","secret":"first-secret"}`).Is(201)
		s.Post("/data/providers", `{"id":"ci","type":"vendor","description":"CI","credential":"tok","url":"u","projects":["a"],"webhookSecret":"hook-secret"}`).Is(201)
		want := string(s.Get("/data/providers/ci").Is(200).Body)
		write(t, s, `UPDATE resource SET doc = $1 WHERE kind = 'providers'`, `{"id":"ci","type":"vendor","description":"CI","credential":"tok","visibility":"server","url":"u","webhookSecret":"<redacted>","projects":["a"]}`)
		if got := string(s.Get("/data/providers/ci").Is(200).Body); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		s.Do("PATCH", "/data/providers/ci", `{"url":"other"}`).Is(200)
		blueprinttest.Eventually(t, "it works", func() bool { return v.credential("ci") == "first-secret" })
		if got := string(s.Get("/data/providers/ci").Is(200).Body); got != strings.Replace(want, `"url":"u"`, `"url":"other"`, 1) {
			t.Errorf("got %s", got)
		}
		db, err := store.Open("main", s.Database)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var stored struct{ Settings json.RawMessage }
		var raw string
		if err := db.QueryRowContext(t.Context(), `SELECT doc FROM resource WHERE kind = 'providers'`).Scan(&raw); err != nil || json.Unmarshal([]byte(raw), &stored) != nil || stored.Settings == nil {
			t.Errorf("stored is %s, %v; want the new shape", raw, err)
		}
	})
}
