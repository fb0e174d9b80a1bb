package builtin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/auth/issuertest"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/server"
)

func TestMain(m *testing.M) {
	builtin.Early()
	m.Run()
}

// ahead is a clock that can be moved.
type ahead struct {
	mu sync.Mutex
	d  time.Duration
}

func (a *ahead) Now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Add(a.d)
}

func (a *ahead) Add(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.d += d
}

var parameter = regexp.MustCompile(`\{([A-Za-z]+)(\.\.\.)?\}`)

// request makes a request that an operation would take: to things that are there, with the body that its declaration shows.
func request(t *testing.T, base string, op blueprint.Operation, values map[string]string) *http.Request {
	t.Helper()
	path := parameter.ReplaceAllStringFunc(op.Path, func(name string) string {
		name = strings.Trim(name, "{}.")
		if v, ok := values[name]; ok {
			return v
		}
		return "1"
	})
	body := ""
	switch example := op.RequestExample.(type) {
	case nil:
	case string:
		body = example
	default:
		raw, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		body = string(raw)
	}
	if query := values["? "+op.Method+" "+op.Path]; query != "" {
		path += "?" + query
	}
	r, err := http.NewRequestWithContext(t.Context(), op.Method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// required gives the query of each operation that takes one: what must be there, with the example of its description.
func required(t *testing.T, s *blueprinttest.Server) map[string]string {
	t.Helper()
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct {
				Name     string
				In       string
				Required bool
				Example  any
				Schema   struct {
					Enum     []any
					Examples []any
					Items    struct{ Enum, Examples []any }
				}
			}
		}
	}
	s.Get("/openapi.json").Is(200).Into(&doc)
	queries := map[string]string{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			query := url.Values{}
			for _, p := range op.Parameters {
				if p.In != "query" || !p.Required {
					continue
				}
				for _, v := range slices.Concat([]any{p.Example}, p.Schema.Examples, p.Schema.Enum, p.Schema.Items.Examples, p.Schema.Items.Enum, []any{"kind"}) {
					if list, ok := v.([]any); ok && len(list) > 0 {
						v = list[0]
					}
					if v != nil {
						query.Set(p.Name, fmt.Sprint(v))
						break
					}
				}
			}
			queries[strings.ToUpper(method)+" "+path] = query.Encode()
		}
	}
	return queries
}

// open are the operations that anybody may call, with what guards each. Who declares a further one says here what that is.
var open = map[string]string{
	"slipway.health": "it tells nothing", "slipway.ready": "it tells nothing", "slipway.version": "it tells nothing",
	"tool.components.health": "it tells nothing", "tool.components.description": "it tells nothing",
	"build.hook":       "signature",
	"dora.hookCommits": "token", "dora.hookBuilds": "token", "dora.hookDeployments": "token", "dora.hookIncidents": "token", "dora.hookIssues": "token", "dora.hookPullRequests": "token", "dora.hookClose": "token",
	"dora.restDeployments": "token", "dora.restIssues": "token", "dora.restPullRequests": "token", "dora.restClose": "token",
	"platform.account": "session", "platform.device": "session", "platform.logout": "session", "platform.answerDevice": "session",
	"platform.login": "issuer", "platform.callback": "issuer",
	"platform.deviceAuthorization": "code", "platform.oauthToken": "code", "platform.oauthRevoke": "code",
}

// Whatever is declared is tried with every sort of credential that does not suffice.
func TestEveryOperationRefusesWhoMayNot(t *testing.T) {
	t.Parallel()
	clock, idp := &ahead{}, issuertest.New(t)
	blueprinttest.Each(t, blueprinttest.Options{Blueprints: builtin.Blueprints(), Kinds: builtin.Providers(), Now: clock.Now, Configure: func(c *server.Config) {
		c.Auth.RateLimits = auth.RateLimits{}
		c.Auth.SignIn.Issuers = []auth.IssuerConfig{{Name: "idp", Kind: "oidc", Issuer: idp.URL, Audience: "slipway"}}
		c.Proxies = map[string]blueprint.Proxy{"far": {Target: "http://127.0.0.1:1", Methods: []string{"GET", "POST", "DELETE"}}}
		c.Providers = []server.ProviderConfig{{Name: "gh", Type: "github", Rest: map[string]any{"webhookSecret": "s3cret"}}}
	}}, func(t *testing.T, s *blueprinttest.Server) {
		for name, entity := range map[string]string{
			"group/default/team-b":  `{"apiVersion":"backstage.io/v1alpha1","kind":"Group","metadata":{"name":"team-b"},"spec":{"type":"team","children":[]}}`,
			"user/default/owner":    `{"apiVersion":"backstage.io/v1alpha1","kind":"User","metadata":{"name":"owner"},"spec":{"memberOf":["team-b"]}}`,
			"component/default/web": `{"apiVersion":"backstage.io/v1alpha1","kind":"Component","metadata":{"name":"web"},"spec":{"type":"service","lifecycle":"production","owner":"team-b"}}`,
		} {
			if a := s.Do("PUT", "/api/catalog/entities/by-name/"+name, json.RawMessage(entity)); a.Status >= 300 {
				t.Fatalf("%s: %d %s", name, a.Status, a.Body)
			}
		}
		var web struct{ Metadata struct{ UID string } }
		s.Get("/api/catalog/entities/by-name/component/default/web").Is(200).Into(&web)
		values := map[string]string{"entityRef": "component:default/web", "kind": "component", "namespace": "default", "name": "web", "uid": web.Metadata.UID, "provider": "gh"}

		for what, query := range required(t, s) {
			values["? "+what] = query
		}

		permissions := []string{"proxy.far.use"}
		objects, everyone := map[string]string{}, map[string]bool{}
		declared := append([]blueprint.Blueprint{server.Base}, builtin.Blueprints()...)
		for _, b := range declared {
			for _, p := range b.Permissions {
				permissions = append(permissions, p.Name)
				objects[p.Name], everyone[p.Name] = p.Object, p.Everyone
			}
		}
		// All permissions but one, as many tokens as the list of one may be long.
		without := func(lacking string) string {
			var kept []string
			for _, p := range permissions {
				if p != lacking {
					kept = append(kept, p)
				}
			}
			return s.NewToken(auth.NewToken{Name: "without-" + lacking, Permissions: kept})
		}
		expiring := s.NewToken(auth.NewToken{Name: "expiring", Admin: true, Expires: clock.Now().Add(time.Minute)})
		revoked := s.NewToken(auth.NewToken{Name: "revoked", Admin: true})
		var tokens struct{ Items []auth.Token }
		s.Get("/api/tokens?limit=100").Is(200).Into(&tokens)
		for _, token := range tokens.Items {
			if token.Name == "revoked" {
				s.Do("DELETE", "/api/tokens/"+token.ID, nil).Is(204)
			}
		}
		now := clock.Now()
		jwt := func(more map[string]any) string { return "Bearer " + idp.Sign(idp.Claims("slipway", now, more)) }
		unknown := map[string][]string{
			"none": nil, "blank": {""}, "garbage": {"Bearer garbage"}, "a made-up token": {"Bearer slp_garbage"}, "a made-up session": {"Bearer sls_garbage"}, "a password": {"Basic YWRtaW46YWRtaW4="},
			"an expired token": {"Bearer " + expiring}, "a revoked token": {"Bearer " + revoked}, "two": {"Bearer " + s.Token, "Bearer " + s.Token},
			"an unsigned JWT": {"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0."}, "an expired JWT": {jwt(map[string]any{"exp": now.Add(-time.Second).Unix()})},
			"a JWT for somebody else": {jwt(map[string]any{"aud": "elsewhere"})}, "a JWT from the future": {jwt(map[string]any{"iat": now.Add(time.Hour).Unix()})},
		}
		clock.Add(2 * time.Minute)
		send := func(r *http.Request, authorization ...string) (int, http.Header, string) {
			t.Helper()
			r.Header["Authorization"] = authorization
			if authorization == nil {
				delete(r.Header, "Authorization")
			}
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode, res.Header, string(text)
		}
		narrowed := map[string]string{} // by permission, the tokens of one who owns nothing, and of the owner
		owned := func(who, permission string) string {
			key := who + " " + permission
			if narrowed[key] == "" {
				grants := []string{permission + ":owned"}
				if permission != "catalog.entity.read" {
					grants = append(grants, "catalog.entity.read")
				}
				narrowed[key] = s.NewToken(auth.NewToken{Name: strings.ReplaceAll(key, " ", "-"), User: "user:default/" + who, Permissions: grants})
			}
			return narrowed[key]
		}
		lacks := map[string]string{}
		tried, done := 0, map[string]bool{} // operations by method and path
		for _, b := range declared {
			for _, op := range b.Operations {
				what := op.Method + " " + op.Path
				done[what] = true
				if op.Permission == blueprint.Public {
					guard, known := open[op.ID]
					if !known {
						t.Errorf("%s may be called by anybody; say in this test what guards it", op.ID)
					}
					if guard == "token" {
						lacking := map[string][]string{"nothing": {"Bearer " + s.NewToken(auth.NewToken{Name: "only-reads-" + strings.ToLower(op.ID), Permissions: []string{"catalog.entity.read"}})}}
						for credential, headers := range unknown {
							lacking[credential] = headers
						}
						for credential, headers := range lacking {
							tried++
							if status, _, text := send(request(t, s.URL, op, values), headers...); status != http.StatusUnauthorized && status != http.StatusForbidden {
								t.Errorf("%s with %s: %d %s, want 401 or 403", what, credential, status, text)
							}
						}
					}
					if guard == "signature" {
						for _, signature := range []string{"", "sha256=00", "sha256=" + strings.Repeat("0", 64), s.Token} {
							tried++
							r := request(t, s.URL, op, values)
							r.Header.Set("X-Hub-Signature-256", signature)
							if status, _, text := send(r, "Bearer "+s.Token); status != http.StatusUnauthorized && status != http.StatusForbidden {
								t.Errorf("%s signed %q: %d %s, want 401 or 403", what, signature, status, text)
							}
						}
					}
					if op.Method == "POST" && (guard == "session" || guard == "code") {
						tried++
						r := request(t, s.URL, op, values)
						r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
						r.Header.Set("Cookie", "slipway-session=sls_garbage")
						if status, header, text := send(r, "Bearer "+s.Token); strings.Contains(text, "access_token") || strings.Contains(header.Get("Set-Cookie"), "sls_") {
							t.Errorf("%s without a session or a code: %d %v %s, want no credential", what, status, header, text)
						}
					}
					continue
				}
				for credential, headers := range unknown {
					tried++
					status, header, text := send(request(t, s.URL, op, values), headers...)
					if status != http.StatusUnauthorized || header.Get("WWW-Authenticate") == "" {
						t.Errorf("%s with %s: %d %s, want 401", what, credential, status, text)
					}
				}
				if !everyone[op.Permission] {
					if lacks[op.Permission] == "" {
						lacks[op.Permission] = without(op.Permission)
					}
					tried++
					status, _, text := send(request(t, s.URL, op, values), "Bearer "+lacks[op.Permission])
					if status != http.StatusForbidden || !strings.Contains(text, op.Permission) {
						t.Errorf("%s with everything but %s: %d %s, want 403 that names it", what, op.Permission, status, text)
					}
				}
				if objects[op.Permission] == "" {
					continue
				}
				tried++
				status, _, text := send(request(t, s.URL, op, values), "Bearer "+owned("stranger", op.Permission))
				switch {
				case status == http.StatusForbidden:
				case !op.OnObject && status < 300: // it takes the permission on anything, and shows nothing of the catalog
				case status == http.StatusNotFound: // what may not be read is not there: but it is for its owner
					if owner, _, other := send(request(t, s.URL, op, values), "Bearer "+owned("owner", op.Permission)); owner == http.StatusNotFound {
						t.Errorf("%s: 404 for a stranger %s, and for the owner: %s", what, text, other)
					}
				case status < 300 && !strings.Contains(text, `"web"`) && !strings.Contains(text, "component:default/web"): // a list of what the caller may see: nothing
				default:
					t.Errorf("%s by one who owns nothing: %d %s, want 403, or nothing of another's", what, status, text)
				}
			}
		}
		// Documents take the permission of their kind.
		for _, b := range declared {
			for _, k := range b.Kinds {
				if k.Kind.Text == "" {
					continue // it adds types to another's
				}
				for method, permission := range map[string]string{
					"GET": k.Kind.Permissions.Read, "PATCH": k.Kind.Permissions.Update, "POST": k.Kind.Permissions.Create, "PUT": k.Kind.Permissions.Update, "DELETE": k.Kind.Permissions.Delete,
				} {
					if permission == "" || everyone[permission] {
						continue
					}
					if lacks[permission] == "" {
						lacks[permission] = without(permission)
					}
					path := s.URL + "/data/" + k.Kind.Name
					if method != "GET" && method != "POST" {
						path += "/x"
					}
					tried++
					r, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(`{"id":"x"}`))
					if err != nil {
						t.Fatal(err)
					}
					r.Header.Set("Content-Type", "application/json")
					status, _, text := send(r, "Bearer "+lacks[permission])
					if creates := method == "PUT" && k.Kind.Permissions.Create != permission; status != http.StatusForbidden && !(creates && status == http.StatusUnprocessableEntity) {
						t.Errorf("%s %s with everything but %s: %d %s, want 403", method, path, permission, status, text)
					}
				}
			}
		}
		for _, method := range []string{"GET", "POST", "DELETE"} {
			for _, path := range []string{"/api/proxy/far/", "/api/proxy/far/x/y", "/api/proxy/far"} {
				done[method+" /api/proxy/far/{path}"] = true
				proxied := blueprint.Operation{Method: method, Path: path}
				for credential, headers := range unknown {
					tried++
					if status, header, text := send(request(t, s.URL, proxied, nil), headers...); status != http.StatusUnauthorized || header.Get("WWW-Authenticate") == "" {
						t.Errorf("%s %s with %s: %d %s, want 401", method, path, credential, status, text)
					}
				}
				if lacks["proxy.far.use"] == "" {
					lacks["proxy.far.use"] = without("proxy.far.use")
				}
				tried++
				if status, _, text := send(request(t, s.URL, proxied, nil), "Bearer "+lacks["proxy.far.use"]); status != http.StatusForbidden || !strings.Contains(text, "proxy.far.use") {
					t.Errorf("%s %s with everything but proxy.far.use: %d %s, want 403 that names it", method, path, status, text)
				}
			}
		}
		// What is described and was not tried was forgotten here.
		var doc struct {
			Paths map[string]map[string]json.RawMessage
		}
		s.Get("/openapi.json").Is(200).Into(&doc)
		for path, methods := range doc.Paths {
			for method := range methods {
				if what := strings.ToUpper(method) + " " + path; !done[what] {
					t.Errorf("%s is described, and was not tried", what)
				}
			}
		}
		if tried < 500 || !slices.Contains(permissions, "build.run.retrigger") {
			t.Errorf("only %d tries: the declarations were not found", tried)
		}
	})
}
