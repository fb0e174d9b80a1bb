package auth

import (
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/slipway-platform/slipway/auth/issuertest"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// What a request pays: the check of its token, its count, and the check of its permission.
func BenchmarkRequest(b *testing.B) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		db := storetest.Open(b, engine, schema...)
		r := newReplica(b, db, newClock(), withLimits(maxRate, maxRate))
		r.Replicas = func() int { return 1 }
		_, secret := r.create(b, System(), NewToken{Name: "ci", Permissions: []string{"catalog.*", "build.*:component:default/*", "platform.job.read"}})
		req := request("Bearer " + secret)
		caller := r.as(b, secret)
		web := Object{Ref: "component:default/web", Owner: "group:default/team-a"}
		b.Run("token/"+string(engine), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Authenticate(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("limit/"+string(engine), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Count(b.Context(), caller, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("lease/"+string(engine), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w, win, key := r.limits.at("user:default/jane")
				w.asking = make(chan struct{})
				r.limits.lease(b.Context(), key, w, win, maxRate)
			}
		})
		b.Run("permission/"+string(engine), func(b *testing.B) {
			b.ReportAllocs()
			ctx := WithCaller(b.Context(), caller)
			for b.Loop() {
				if err := Require(ctx, "build.run.read", web); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("garbage/"+string(engine), func(b *testing.B) {
			b.ReportAllocs()
			req := request("Bearer " + secret[:64] + "!")
			for b.Loop() {
				if _, err := r.Authenticate(b.Context(), req); err == nil {
					b.Fatal("believed")
				}
			}
		})
	}
}

// What a request with a token of an issuer pays: when it was seen within a minute, and at first sight, by the sort of key.
func BenchmarkJWT(b *testing.B) {
	c, i := newClock(), issuertest.New(b)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	r := believing(b, c, oidcOf(i), GrantConfig{To: "user:*", Permissions: []string{"build.*:owned", "catalog.*"}})
	for _, k := range []issuertest.Key{i.Rotate(), {ID: "rsa", Algorithm: jose.RS256, Private: private}} {
		i.Add(k)
		c.Add(keysPause)
		groups := []string{"team-a", "team-b", "team-c", "developers", "oncall"}
		req := request("Bearer " + k.Sign(b, i.Claims("slipway", c.Now(), map[string]any{"groups": groups, "name": "Jane Doe", "email": "jane@example.com"})))
		b.Run("seen/"+string(k.Algorithm), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Authenticate(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("first/"+string(k.Algorithm), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.issuers.seen.clear()
				r.cache.clear()
				if _, err := r.Authenticate(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
