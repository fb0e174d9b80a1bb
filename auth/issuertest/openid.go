package issuertest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// OpenID is a real OpenID provider: the certified library zitadel/oidc with its example storage, and users of its own.
type OpenID struct {
	URL string

	*storage.Storage
	mu      sync.Mutex
	users   map[string]*storage.User
	groups  map[string][]string
	clients map[string]client
}

type client struct {
	*storage.Client
	secret string
	home   string // of the client, where people go after signing out
}

func (c client) PostLogoutRedirectURIs() []string { return []string{c.home + "/auth"} }

// NewOpenID starts a provider on loopback.
func NewOpenID(t testing.TB) *OpenID {
	t.Helper()
	o := &OpenID{users: map[string]*storage.User{}, groups: map[string][]string{}, clients: map[string]client{}}
	o.Storage = storage.NewStorageWithClients(users{o}, nil)
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	o.URL = s.URL
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	provider, err := op.NewProvider(&op.Config{
		CryptoKey: sha256.Sum256(key[:]), CryptoKeyId: "key", DefaultLogoutRedirectURI: "/signed-out", CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true,
	}, o, op.StaticIssuer(o.URL), op.WithAllowInsecure(), op.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle("/", provider)
	mux.HandleFunc("GET /login/username", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("who are you?")) })
	mux.Handle("POST /login/username", op.NewIssuerInterceptor(provider.IssuerFromRequest).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.FormValue("id")
		if err := o.CheckUsernamePassword(r.FormValue("username"), r.FormValue("password"), id); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		http.Redirect(w, r, op.AuthCallbackURL(provider)(r.Context(), id), http.StatusFound)
	}))
	return o
}

// users are the provider's users, as its storage asks for them.
type users struct{ o *OpenID }

func (u users) ExampleClientID() string { return storage.ServiceUserID }

func (u users) GetUserByID(id string) *storage.User {
	u.o.mu.Lock()
	defer u.o.mu.Unlock()
	return u.o.users[id]
}

func (u users) GetUserByUsername(name string) *storage.User { return u.GetUserByID("id-" + name) }

// User adds a user, or changes its groups. The password is "secret".
func (o *OpenID) User(name string, groups ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users["id-"+name] = &storage.User{ID: "id-" + name, Username: name, Password: "secret", FirstName: name, LastName: "Doe", Email: name + "@example.com", EmailVerified: true}
	o.groups["id-"+name] = groups
}

// Client registers a client that lives at an address.
func (o *OpenID) Client(id, secret, home string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clients[id] = client{storage.WebClient(id, secret, home+"/auth/callback"), secret, home}
}

// GetClientByClientID is asked by the provider.
func (o *OpenID) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c, ok := o.clients[id]
	if !ok {
		return nil, oidc.ErrInvalidClient().WithDescription("client not found")
	}
	return c, nil
}

// AuthorizeClientIDSecret is asked by the provider.
func (o *OpenID) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c, ok := o.clients[id]; !ok || c.secret != secret {
		return oidc.ErrInvalidClient().WithDescription("wrong secret")
	}
	return nil
}

// SetUserinfoFromToken is asked by the provider for its userinfo address.
func (o *OpenID) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	if err := o.Storage.SetUserinfoFromToken(ctx, info, tokenID, subject, origin); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	info.AppendClaims("groups", o.groups[info.Subject])
	return nil
}
