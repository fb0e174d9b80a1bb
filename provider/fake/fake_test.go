package fake_test

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/provider/providertest"
)

const hello = "octo/hello"

func TestConformance(t *testing.T) {
	for name, cfg := range map[string]fake.Config{
		"retrigger makes an attempt": {WebhookSecret: "hush"},
		"retrigger makes a build":    {WebhookSecret: "hush", NewIDs: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(*testing.T) providertest.Harness { return harness(fake.New(cfg)) })
		})
	}
	t.Run("lists show builds in part", func(t *testing.T) {
		t.Parallel()
		providertest.Run(t, func(*testing.T) providertest.Harness {
			v := fake.New(fake.Config{WebhookSecret: "hush"})
			v.ListInPart()
			return harness(v)
		})
	})
}

func harness(v *fake.Vendor) providertest.Harness {
	v.Project(hello)
	broken := func(f fake.Fault) func(testing.TB) { return func(testing.TB) { v.Break(f) } }
	return providertest.Harness{
		Provider: v.Provider(),
		Project:  hello,
		Missing:  "octo/nowhere",
		Entity:   slipway.Entity{Metadata: slipway.EntityMetadata{Annotations: map[string]string{fake.Annotation: "octo/other, " + hello}}},
		Add:      func(_ testing.TB, b slipway.Build) string { return v.Add(hello, b).ID },
		Move:     func(_ testing.TB, id string, s slipway.BuildStatus) { v.Move(hello, id, s) },
		Deploy:   func(_ testing.TB, d slipway.Deployment) string { return v.Deploy(hello, d).ID },
		Write:    func(_ testing.TB, id, text string) { v.Write(hello, id, text) },
		Notify:   func(_ testing.TB, id string) (http.Header, []byte) { return v.Notification(hello, id) },
		Sign:     v.Sign,
		Unsigned: func(_ testing.TB, id string) (*provider.Provider, http.Header, []byte) {
			h, body := v.Notification(hello, id)
			return fake.New(fake.Config{}).Provider(), h, body
		},
		Foreign: func(testing.TB) (http.Header, []byte) {
			body := []byte(`{"id":"7","event":"star"}`)
			return v.Sign(body), body
		},
		Admit: func(_ testing.TB, sees bool) provider.Secret {
			if sees {
				v.Admit("jane", hello)
				return "jane"
			}
			v.Admit("joe")
			return "joe"
		},
		Down: broken(fake.Down), Limit: broken(fake.Limited), Hang: broken(fake.Hang),
	}
}

func TestKindOpensStrictly(t *testing.T) {
	t.Parallel()
	if _, err := fake.Kind.Open(t.Context(), json.RawMessage(`{}`), provider.Env{}); err != nil {
		t.Errorf("an empty config: %v", err)
	}
	if _, err := fake.Kind.Open(t.Context(), json.RawMessage(`{"webhokSecret":"x"}`), provider.Env{}); slipway.CodeOf(err) != slipway.Invalid {
		t.Errorf("a misspelt key: got %v, want invalid", err)
	}
}

func TestPacedBuildEndsByItself(t *testing.T) {
	t.Parallel()
	v := fake.New(fake.Config{Pace: slipway.Duration(5 * time.Millisecond)})
	v.Project(hello)
	b := v.Provider().Builds
	started, err := b.Start(t.Context(), hello, provider.StartOptions{Ref: "main"}, slipway.Caller{})
	if err != nil {
		t.Fatal(err)
	}
	log, err := b.Logs(t.Context(), hello, started.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(log); err != nil {
		t.Fatal(err)
	}
	if done, err := b.Get(t.Context(), hello, started.ID); err != nil || done.Status != slipway.BuildSucceeded {
		t.Errorf("after its log ended the build is %q, %v; want it to have succeeded", done.Status, err)
	}
}
