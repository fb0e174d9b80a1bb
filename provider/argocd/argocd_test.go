package argocd

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.Run(t, func(t *testing.T) providertest.Harness {
		v := newVendor(t)
		return harness(v, v.client(t, nil).Provider())
	})
}

func TestRefusalsAreToldApart(t *testing.T) {
	providertest.Refusals(t, token, func(t *testing.T) (providertest.Harness, *providertest.Stub) {
		v := newVendor(t)
		return harness(v, v.client(t, nil).Provider()), v.Stub
	}, map[string]providertest.Refusal{
		"an application that is hidden": {Fault: providertest.Refuse(403, "permission denied"), Want: slipway.Forbidden},
	})
}

func TestApplicationsAreMappedFaithfully(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://argocd.example.com/"}, provider.Env{})
	if err != nil {
		t.Fatal(err)
	}
	providertest.Golden(t, "testdata/applications", func(payload []byte) (any, error) {
		var a application
		if err := provider.Unmarshal(payload, &a); err != nil {
			return nil, err
		}
		list := []slipway.Deployment{}
		for _, s := range a.syncs() {
			list = append(list, c.deployment(project{name: a.Metadata.Name}, s))
		}
		return list, nil
	})
}

func FuzzApplication(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"a"},"status":{"history":[{"deployedAt":"2026-05-04T12:00:00Z","sources":[{"kustomize":{"images":["=@:"]}}]}],"operationState":{"startedAt":"2026-05-04T12:00:00Z","operation":{"sync":{}}}}}`))
	c, err := newClient(Config{URL: "https://argocd.example.com"}, provider.Env{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		var a application
		if provider.Unmarshal(payload, &a) != nil {
			return
		}
		for _, s := range a.syncs() {
			if d := c.deployment(project{}, s); d.CreatedAt.IsZero() || d.Environment == "" && a.Metadata.Name != "" {
				t.Errorf("got %+v", d)
			}
		}
	})
}

func TestWebhooksAreReadAsTheyAreSent(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/webhooks", func(payload []byte) (any, error) { return parse(nil, payload) })
}

func TestWebhooksNeedTheSecret(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	w := v.client(t, nil).Provider().Webhook
	for header, want := range map[string]error{
		"Bearer " + secret: nil, "Bearer wrong": slipway.Unauthenticated, secret: slipway.Unauthenticated, "": slipway.Unauthenticated,
	} {
		if err := w.Verify(http.Header{"Authorization": {header}}, nil); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", header, err, want)
		}
	}
	if err := v.client(t, map[string]any{"webhookSecret": ""}).Provider().Webhook.Verify(http.Header{"Authorization": {"Bearer "}}, nil); !errors.Is(err, slipway.Forbidden) {
		t.Errorf("without a secret: got %v, want forbidden", err)
	}
}

func TestProjectsOfAnEntity(t *testing.T) {
	t.Parallel()
	c, err := newClient(Config{URL: "https://argocd.example.com"}, provider.Env{Name: "main"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		annotations []string
		want        string
	}{
		{nil, ""},
		{[]string{NameAnnotation, "web-prod, web-staging,web-prod"}, "web-prod web-staging"},
		{[]string{NameAnnotation, "web", NamespaceAnnotation, "shop"}, "shop/web"},
		{[]string{NameAnnotation, "web", NamespaceAnnotation, "shop", ProjectAnnotation, "team"}, "shop/web@team"},
		{[]string{SelectorAnnotation, "tier==front,app = web"}, "selector:app=web,tier=front"},
		{[]string{SelectorAnnotation, "app%3Dweb"}, "selector:app=web"},
		{[]string{SelectorAnnotation, "example.com/app=web", NamespaceAnnotation, "shop", ProjectAnnotation, "team"}, "shop/selector:example.com/app=web@team"},
		{[]string{NameAnnotation, "web", InstanceAnnotation, "main"}, "web"},
		{[]string{NameAnnotation, "web", InstanceAnnotation, "other, main"}, "web"},
		{[]string{NameAnnotation, "web", InstanceAnnotation, "other"}, ""},
		{[]string{NameAnnotation, "../web", SelectorAnnotation, "app=web&x=1"}, ""},
		{[]string{NameAnnotation, "web", NamespaceAnnotation, "a/b"}, ""},
	} {
		e := providertest.Entity(test.annotations...)
		got := c.projects(&e)
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q: got %q, want %q", test.annotations, got, test.want)
		}
		for _, text := range got {
			if p, err := find(text); err != nil || p.String() != text {
				t.Errorf("%q is read as %+v, %v", text, p, err)
			}
		}
	}
	for _, text := range []string{"", "a/b/c", "../a", "web@", "selector:", "selector:a&b", "Web", "web@x@y"} {
		if _, err := find(text); !errors.Is(err, slipway.NotFound) {
			t.Errorf("%q: got %v, want not found", text, err)
		}
	}
}

func TestConfigTellsAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"argocd","tokn":"x","credential":{"type":"usernamePassword"},"environment":"{label:} {env} }"}`), provider.Env{})
	var e *slipway.Error
	if !errors.As(err, &e) || len(e.Details) != 4 {
		t.Errorf("got %v, want four faults", err)
	}
	p, err := Kind.Open(t.Context(), json.RawMessage(`{"url":"https://argocd.example.com"}`), provider.Env{})
	if err != nil || p.Interval != 30*time.Second || p.Builds != nil {
		t.Errorf("got %+v, %v", p, err)
	}
}

// A sync keeps its name from its first moment on: it runs, becomes history, and what Argo CD forgets is not there any more.
func TestASyncIsOneDeploymentFromItsBeginningOn(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.client(t, map[string]any{"environment": ""})
	id := v.deploy(t, slipway.Deployment{Status: slipway.DeploymentRunning, Environment: "shop"})
	id = strings.TrimPrefix(id, "argocd.") // an application that is named needs no namespace
	d, err := c.get(t.Context(), "web-0", id)
	if err != nil || d.Status != slipway.DeploymentRunning || d.Environment != "shop" || d.Version != "main" || d.Commit.Message != "web: 1.2.3" || d.Commit.Author != "Jane Doe" || d.TriggeredBy.ID != "jane" {
		t.Fatalf("got %+v, %v", d, err)
	}
	status := v.apps[0]["status"].(map[string]any)
	op := status["operationState"].(map[string]any)
	op["phase"], op["finishedAt"] = "Succeeded", op["startedAt"]
	status["history"] = []any{map[string]any{"id": 3, "revision": commit, "deployStartedAt": op["startedAt"], "deployedAt": op["startedAt"], "source": map[string]any{}}}
	if d, err = c.get(t.Context(), "web-0", id); err != nil || d.Status != slipway.DeploymentSucceeded {
		t.Errorf("got %+v, %v", d, err)
	}
	if page, err := c.list(t.Context(), "web-0", provider.ListOptions{}); err != nil || len(page.Items) != 1 {
		t.Errorf("got %+v, %v; want one deployment", page.Items, err)
	}
	delete(status, "history")
	delete(status, "operationState")
	if _, err = c.get(t.Context(), "web-0", id); !errors.Is(err, slipway.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestACommitThatArgoCDCannotFindIsShownWithoutItsMessage(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	c := v.client(t, nil)
	id := v.deploy(t, slipway.Deployment{Status: slipway.DeploymentSucceeded, Environment: "shop"})
	v.Break(func(w http.ResponseWriter, r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/revisions/") && providertest.Refuse(500, "unable to resolve git revision")(w, r)
	})
	if d, err := c.get(t.Context(), web, id); err != nil || d.Commit.SHA != commit || d.Commit.Message != "" {
		t.Errorf("got %+v, %v", d, err)
	}
}

func TestCheckAndInspect(t *testing.T) {
	t.Parallel()
	v := newVendor(t)
	p := v.client(t, nil).Provider()
	if err := p.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if in, err := p.Inspect(t.Context(), web); err != nil || in.Account != "slipway" || len(in.Lacks) != 1 {
		t.Errorf("nothing is shown: got %+v, %v", in, err)
	}
	v.deploy(t, slipway.Deployment{Status: slipway.DeploymentSucceeded, Environment: "production"})
	if in, err := p.Inspect(t.Context(), web); err != nil || len(in.Lacks) > 0 {
		t.Errorf("got %+v, %v", in, err)
	}
	wrong := v.client(t, map[string]any{"credential": map[string]any{"type": "secretText", "secret": "old"}}).Provider()
	if err := wrong.Check(t.Context()); !errors.Is(err, slipway.Unauthenticated) {
		t.Errorf("an old token: got %v, want unauthenticated", err)
	}
	nobody := v.client(t, map[string]any{"credential": map[string]any{}}).Provider()
	if err := nobody.Check(t.Context()); err != nil {
		t.Errorf("without a credential: %v", err)
	}
}
