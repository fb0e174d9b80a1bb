package github

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// app is a GitHub App: it signs what says who it is, and gets a token of an hour for each of its installations.
type app struct {
	cred provider.Credential
	key  *rsa.PrivateKey
	now  func() time.Time
	api  *provider.Client // as the app itself

	mu            sync.Mutex
	installations map[string]int64 // by owner of the repository
	tokens        map[int64]*token
}

// token is that of one installation. Its lock is held while a new one is asked for, so that one request asks for all.
type token struct {
	lock  chan struct{}
	value string
	until time.Time
}

// A token is replaced this long before its end, so that no request is on its way with one that ends.
const tokenMargin = 5 * time.Minute

// narrowed is what a token is asked for, whatever the app may do besides: what builds and deployments need, else what builds need. An app that may do even less, as one that
// only reads, cannot be narrowed to it, and gives all it has.
var narrowed = []any{
	map[string]any{"permissions": map[string]string{"actions": "write", "contents": "read", "deployments": "read"}},
	map[string]any{"permissions": map[string]string{"actions": "write", "contents": "read"}},
	nil,
}

func newApp(cred provider.Credential, env provider.Env, o provider.ClientOptions) (*app, error) {
	key, err := parseKey(cred.PrivateKey)
	if err != nil {
		return nil, err
	}
	a := &app{cred: cred, key: key, now: env.Clock(), installations: map[string]int64{}, tokens: map[int64]*token{}}
	o.WriteGap = 0 // a token is nothing that GitHub asks to be slow about
	o.Authorize = func(context.Context, string) (provider.Authorization, error) { return a.asItself() }
	a.api, err = provider.NewClient(env, o)
	return a, err
}

func parseKey(text provider.Secret) (*rsa.PrivateKey, error) {
	fault := slipway.Errorf(slipway.Invalid, "is no RSA private key in PEM form; download one from the app's settings")
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New(fault.Message)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if key, ok := key.(*rsa.PrivateKey); ok {
			return key, nil
		}
	}
	return nil, errors.New(fault.Message)
}

// asItself signs who the app is, for ten minutes at most, from a minute ago, because clocks differ.
func (a *app) asItself() (provider.Authorization, error) {
	now := a.now()
	claims, err := json.Marshal(map[string]any{"iss": a.cred.AppID, "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(8 * time.Minute).Unix()})
	if err != nil {
		return provider.Authorization{}, err
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, sum[:])
	if err != nil {
		return provider.Authorization{}, slipway.Errorf(slipway.Invalid, "the app's private key signs nothing; download another one").WithCause(err)
	}
	return provider.Authorization{Header: "Authorization", Value: "Bearer " + text + "." + enc.EncodeToString(signature), Account: "app " + a.cred.AppID}, nil
}

// forProject gives the token of the installation that a project belongs to.
func (a *app) forProject(ctx context.Context, project string) (auth provider.Authorization, err error) {
	id, err := a.installation(ctx, project)
	if err != nil {
		return auth, err
	}
	t := a.token(id)
	select {
	case t.lock <- struct{}{}:
		defer func() { <-t.lock }()
	case <-ctx.Done():
		return auth, ctx.Err()
	}
	if now := a.now(); !now.Before(t.until.Add(-tokenMargin)) {
		var made struct {
			Token   string        `json:"token"`
			Expires provider.Time `json:"expires_at"`
		}
		r := provider.Request{Method: http.MethodPost, Path: fmt.Sprintf("/app/installations/%d/access_tokens", id)}
		for _, r.Body = range narrowed {
			if _, err = a.api.JSON(ctx, r, &made); !errors.Is(err, slipway.Invalid) { // which GitHub says where the app may do less
				break
			}
		}
		if err == nil && made.Token == "" {
			err = a.api.Strange(errors.New("there is no token"))
		}
		if errors.Is(err, slipway.NotFound) { // the app was installed anew, as another installation
			a.forget(project)
		}
		if err != nil {
			return auth, fmt.Errorf("token of installation %d: %w", id, err)
		}
		t.value, t.until = made.Token, made.Expires.Time
		if t.until.IsZero() {
			t.until = now.Add(time.Hour)
		}
	}
	return provider.Authorization{Header: "Authorization", Value: "Bearer " + t.value, Account: fmt.Sprintf("installation %d", id)}, nil
}

func (a *app) token(id int64) *token {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tokens[id] == nil {
		a.tokens[id] = &token{lock: make(chan struct{}, 1)}
	}
	return a.tokens[id]
}

func (a *app) installation(ctx context.Context, project string) (int64, error) {
	if a.cred.InstallationID != 0 {
		return a.cred.InstallationID, nil
	}
	owner, _, _ := strings.Cut(project, "/")
	a.mu.Lock()
	id := a.installations[owner]
	a.mu.Unlock()
	if id != 0 {
		return id, nil
	}
	where, err := path(project, "/installation")
	if err != nil {
		return 0, err
	}
	var found struct {
		ID int64 `json:"id"`
	}
	_, err = a.api.JSON(ctx, provider.Request{Path: where}, &found)
	if errors.Is(err, slipway.NotFound) {
		return 0, slipway.Errorf(slipway.NotFound, "the app is not installed on %s; install it there", project).WithCause(err)
	}
	if err != nil {
		return 0, fmt.Errorf("installation for %s: %w", project, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.installations[owner] = found.ID
	return found.ID, nil
}

// forget drops what is known of a project's installation, so that it is asked for anew.
func (a *app) forget(project string) bool {
	owner, _, _ := strings.Cut(project, "/")
	a.mu.Lock()
	defer a.mu.Unlock()
	id := a.installations[owner]
	if a.cred.InstallationID != 0 {
		id = a.cred.InstallationID
	}
	if a.tokens[id] == nil {
		return false
	}
	delete(a.tokens, id)
	delete(a.installations, owner)
	return true
}
