package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/slipway-platform/slipway"
)

// How keys are kept. A new key is fetched when a token names it; a key that its issuer took back is dropped by the next look, which
// happens behind the requests.
const (
	keysFresh   = 5 * time.Minute  // then they are looked at again
	keysLast    = 24 * time.Hour   // so long they are used when the issuer cannot be asked
	keysPause   = 10 * time.Second // between two looks, whatever tokens claim
	keysTimeout = 10 * time.Second
	maxKeyCount = 100
	maxAnswer   = 1 << 20 // bytes of what an issuer answers
)

// key is one public key of an issuer. What was verified by it is believed until it is gone.
type key struct {
	jwk   jose.JSONWebKey
	print string
	gone  atomic.Bool
}

// keys are those of an issuer, kept and renewed. Safe for concurrent use.
type keys struct {
	issuer string
	url    string // "": by discovery
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	mu    sync.Mutex
	all   []*key
	read  time.Time     // when they were last read
	tried time.Time     // when that was last tried
	err   error         // why it failed, then
	under chan struct{} // closed when the look that is under way has ended
}

var errUnknownKey = errors.New("no key of the issuer fits")

// find gives the keys that a token with this kid ("": none was named) may be signed by. Unavailable says that the issuer cannot be asked.
func (k *keys) find(ctx context.Context, kid string) ([]*key, error) {
	for {
		k.mu.Lock()
		now := k.now()
		usable := !k.read.IsZero() && now.Sub(k.read) < keysLast
		var fit []*key
		if usable {
			fit = named(k.all, kid)
		}
		rested := now.Sub(k.tried) >= keysPause || now.Before(k.tried) // a clock can be set back
		if len(fit) > 0 {
			if now.Sub(k.read) >= keysFresh && rested && k.under == nil {
				k.look()
			}
			k.mu.Unlock()
			return fit, nil
		}
		under := k.under
		if under == nil && rested {
			under = k.look()
		}
		err := k.err
		k.mu.Unlock()
		switch {
		case under != nil:
			select {
			case <-under:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case err != nil:
			return nil, slipway.Errorf(slipway.Unavailable, "the issuer %s does not tell its keys; try again", k.issuer).WithCause(err).After(keysPause)
		default:
			return nil, errUnknownKey
		}
	}
}

func named(all []*key, kid string) []*key {
	if kid == "" {
		return all
	}
	for i, k := range all {
		if k.jwk.KeyID == kid {
			return all[i : i+1 : i+1]
		}
	}
	return nil
}

// look starts to read the keys, for all who wait. k.mu is held.
func (k *keys) look() chan struct{} {
	k.tried = k.now()
	under := make(chan struct{})
	k.under = under
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), keysTimeout)
		defer cancel()
		set, err := k.fetch(ctx)
		k.mu.Lock()
		defer k.mu.Unlock()
		defer close(under)
		k.under = nil
		if k.err = err; err != nil {
			k.log.Warn("an issuer's keys cannot be read", "issuer", k.issuer, "error", err)
			return
		}
		k.read = k.now()
		k.replace(set)
	}()
	return under
}

// replace takes over a new set; what is in the old one and not in the new one is gone.
func (k *keys) replace(set []*key) {
	for _, old := range k.all {
		kept := false
		for i, fresh := range set {
			if fresh.print == old.print {
				set[i], kept = old, true
			}
		}
		if !kept {
			old.gone.Store(true)
		}
	}
	k.all = set
}

func (k *keys) fetch(ctx context.Context) ([]*key, error) {
	address := k.url
	if address == "" {
		p, err := oidc.NewProvider(oidc.ClientContext(ctx, k.client), k.issuer)
		if err != nil {
			return nil, err
		}
		var found struct {
			JWKS string `json:"jwks_uri"`
		}
		if err := p.Claims(&found); err != nil {
			return nil, err
		}
		if err := checkURL(found.JWKS); err != nil {
			return nil, fmt.Errorf("discovery: jwks_uri: %w", err)
		}
		address = found.JWKS
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := getJSON(ctx, k.client, address, "", &set); err != nil {
		return nil, err
	}
	if len(set.Keys) > maxKeyCount {
		return nil, fmt.Errorf("%s lists %d keys; more than %d are not read", address, len(set.Keys), maxKeyCount)
	}
	var all []*key
	for _, raw := range set.Keys {
		// A key of a sort that we do not know, or that is not for us, does not spoil the others.
		var jwk jose.JSONWebKey
		if err := jwk.UnmarshalJSON(raw); err == nil && usable(jwk) {
			all = append(all, &key{jwk: jwk, print: printOf(jwk)})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s lists no key that signatures can be checked with", address)
	}
	return all, nil
}

// usable says whether a key is a public one, for signatures, and long enough.
func usable(jwk jose.JSONWebKey) bool {
	if jwk.Use != "" && jwk.Use != "sig" || !jwk.Valid() {
		return false
	}
	switch pub := jwk.Key.(type) {
	case *rsa.PublicKey:
		return pub.N.BitLen() >= 2048
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false // a private or shared one
}

func printOf(jwk jose.JSONWebKey) string {
	raw, err := json.Marshal(jwk)
	if err != nil {
		return jwk.KeyID // it was read from JSON a moment ago
	}
	sum := sha256.Sum256(raw)
	return string(sum[:])
}

// getJSON reads a document; bearer is a token to show, or "".
func getJSON(ctx context.Context, client *http.Client, address, bearer string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json") // an API server of Kubernetes insists on the second
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", address, res.Status)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	return nil
}

// Where a pod finds its cluster's certificates and its own token.
const (
	podCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
	podToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path
)

// newClient makes the HTTP client for an issuer: bounded in time and size, without redirects. The addresses are the operator's, so
// private ones need no leave.
func newClient(cfg IssuerConfig) (*http.Client, error) {
	ca, token := cfg.CAFile, cfg.TokenFile
	if cfg.Kind == kindKubernetes {
		if _, err := os.Stat(podCA); ca == "" && err == nil {
			ca = podCA
		}
		if _, err := os.Stat(podToken); token == "" && err == nil {
			token = podToken
		}
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: keysTimeout,
		ResponseHeaderTimeout: keysTimeout, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 2, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("caFile: there is no file %s", ca)
		} else if err != nil {
			return nil, fmt.Errorf("caFile: %w", err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("caFile: %s holds no certificate in PEM", ca)
		}
	}
	origin := cfg.Issuer
	if cfg.JWKSURL != "" {
		origin = cfg.JWKSURL
	}
	return &http.Client{
		Transport: &bounded{transport: t, token: token, origin: originOf(origin)}, Timeout: keysTimeout,
		CheckRedirect: func(req *http.Request, _ []*http.Request) error {
			return fmt.Errorf("it redirects to %s, which is not followed; configure the final address", req.URL.Host)
		},
	}, nil
}

// bounded limits what an issuer may answer, and shows the operator's token to the issuer's own host.
type bounded struct {
	transport *http.Transport
	token     string // file
	origin    string
}

func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	if b.token != "" && req.Header.Get("Authorization") == "" && originOf(req.URL.String()) == b.origin {
		text, err := os.ReadFile(b.token) // anew each time: a pod's token is replaced every hour
		if err != nil {
			return nil, fmt.Errorf("tokenFile: %w", err)
		}
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(text)))
	}
	res, err := b.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = &limitedBody{res.Body, maxAnswer}
	return res, nil
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

var errAnswer = fmt.Errorf("the answer has more than %d bytes", maxAnswer)

func (l *limitedBody) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errAnswer
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.ReadCloser.Read(p)
	l.left -= int64(n)
	return n, err
}

// originOf is scheme, host and port of an address.
func originOf(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	host, _, _ := strings.Cut(rest, "/")
	return strings.ToLower(scheme + "://" + host)
}
