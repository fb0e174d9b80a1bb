// Package issuertest has issuers of tokens for tests: Issuer, which signs whatever a test wants to be refused, and OpenID, a real OpenID
// provider with a sign-in page.
package issuertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Issuer publishes keys by discovery and signs any claims with them.
type Issuer struct {
	URL      string
	Requests atomic.Int64 // for keys
	Down     atomic.Bool  // answers 503

	t    testing.TB
	mux  *http.ServeMux
	mu   sync.Mutex
	keys []Key // newest last
}

// Key is a signing key.
type Key struct {
	ID        string
	Algorithm jose.SignatureAlgorithm
	Private   crypto.Signer
}

// New starts an issuer with one ES256 key.
func New(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{t: t, mux: http.NewServeMux()}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i.Down.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		i.mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	i.URL = s.URL
	i.mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token"})
	})
	i.mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.Requests.Add(1)
		writeJSON(w, i.set())
	})
	i.Rotate()
	return i
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // to a test
}

// Handle serves something more, such as userinfo.
func (i *Issuer) Handle(pattern string, h http.HandlerFunc) { i.mux.HandleFunc(pattern, h) }

func (i *Issuer) set() jose.JSONWebKeySet {
	i.mu.Lock()
	defer i.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, k := range i.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Algorithm: string(k.Algorithm), Use: "sig"})
	}
	return set
}

// Rotate makes a new key, by which Sign signs from now on. Keys that were there stay published.
func (i *Issuer) Rotate() Key {
	i.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	k := Key{ID: fmt.Sprintf("key-%d", time.Now().UnixNano()), Algorithm: jose.ES256, Private: private}
	i.Add(k)
	return k
}

// Add publishes a key of the test's own.
func (i *Issuer) Add(k Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(i.keys, k)
}

// Withdraw takes all keys but the newest back.
func (i *Issuer) Withdraw() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = i.keys[len(i.keys)-1:]
}

// Sign makes a token with the newest key.
func (i *Issuer) Sign(claims map[string]any, header ...string) string {
	i.t.Helper()
	i.mu.Lock()
	k := i.keys[len(i.keys)-1]
	i.mu.Unlock()
	return k.Sign(i.t, claims, header...)
}

// Sign makes a token with this key. header are names and values of the header.
func (k Key) Sign(t testing.TB, claims map[string]any, header ...string) string {
	t.Helper()
	o := &jose.SignerOptions{}
	if k.ID != "" {
		o.WithHeader("kid", k.ID)
	}
	for n := 0; n+1 < len(header); n += 2 {
		o.WithHeader(jose.HeaderKey(header[n]), header[n+1])
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.Algorithm, Key: k.Private}, o)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Claims are those of a sound token for an audience; more are added, or put in their place.
func (i *Issuer) Claims(audience string, now time.Time, more map[string]any) map[string]any {
	c := map[string]any{"iss": i.URL, "aud": audience, "sub": "jane", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	for name, v := range more {
		if v == nil {
			delete(c, name)
		} else {
			c[name] = v
		}
	}
	return c
}
