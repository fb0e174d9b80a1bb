package server_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// A real API server makes the tokens; they are checked by its keys, and by asking it.
func TestTokensOfServiceAccounts(t *testing.T) {
	t.Parallel()
	k8s := clustertest.Shared(t)
	namespace := k8s.Namespace(t, "signin")
	accounts := cluster.Resource{Version: "v1", Name: "serviceaccounts"}
	for _, name := range []string{"deployer", "slipway"} {
		k8s.Create(t, accounts, namespace, cluster.Object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": name}})
	}
	config, err := clientcmd.BuildConfigFromFlags("", k8s.Kubeconfig("admin"))
	if err != nil {
		t.Fatal(err)
	}
	admin, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	// create is what `kubectl create token` does.
	create := func(account, audience string) string {
		t.Helper()
		body := `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":[` + audience + `]}}`
		res, err := admin.Post(config.Host+"/api/v1/namespaces/"+namespace+"/serviceaccounts/"+account+"/token", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var made struct{ Status struct{ Token string } }
		if err := json.NewDecoder(res.Body).Decode(&made); err != nil || made.Status.Token == "" {
			t.Fatalf("%s: %v", res.Status, err)
		}
		return made.Status.Token
	}
	own := create("slipway", "")
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	for file, text := range map[string][]byte{ca: config.CAData, token: []byte(own + "\n")} {
		if len(text) == 0 {
			if text, err = os.ReadFile(config.CAFile); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(own, ".")[1])
	var claims struct{ Iss string }
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	for what, issuer := range map[string]auth.IssuerConfig{
		"by its keys":  {JWKSURL: config.Host + "/openid/v1/jwks", CAFile: ca, TokenFile: token},
		"by asking it": {Cluster: "main"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			issuer.Name, issuer.Kind, issuer.Issuer, issuer.Audience = "k8s", "kubernetes", claims.Iss, "slipway"
			s := blueprinttest.Start(t, store.SQLite, blueprinttest.Options{Blueprints: []blueprint.Blueprint{platform.Blueprint}, Configure: func(c *server.Config) {
				c.Clusters = []cluster.Config{k8s.Config("main", "admin")}
				c.Auth.SignIn.Issuers = []auth.IssuerConfig{issuer}
				c.Auth.Grants = []auth.GrantConfig{{To: "service:k8s:" + namespace + "/*", Permissions: []string{"platform.job.read"}}}
			}})
			var me struct{ Kind, Subject string }
			caller := s.As(create("deployer", `"slipway"`))
			caller.Get("/api/auth/me").Is(200).Into(&me)
			if me.Kind != "service" || me.Subject != "service:k8s:"+namespace+"/deployer" {
				t.Errorf("got %+v", me)
			}
			caller.Get("/api/jobs").Is(200)
			caller.Get("/api/tokens").Fails(403, slipway.Forbidden)
			s.As(create("deployer", `"elsewhere"`)).Get("/api/auth/me").Fails(401, slipway.Unauthenticated)
			s.As(own).Get("/api/auth/me").Fails(401, slipway.Unauthenticated) // it is for the API server
		})
	}
}
