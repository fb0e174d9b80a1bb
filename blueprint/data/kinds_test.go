package data_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// schemaOf compiles the schema that the server gives of a kind.
func schemaOf(t *testing.T, s *blueprinttest.Server, kind string) *jsonschema.Schema {
	t.Helper()
	raw, err := json.Marshal(documentOf(t, s.Get("/data/schema/"+kind).Is(200)))
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("https://slipway.example/data/schema/"+kind, document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("https://slipway.example/data/schema/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// Documents of every type go in and come out as they were, but for their secrets; and the schema of their kind, to which an editor holds them, takes what the server takes
// and refuses what it refuses.
func TestEveryTypeGoesInAndComesOut(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		schemas := map[string]*jsonschema.Schema{}
		for _, kind := range []string{"credentials", "providers", "grants", "tokens"} {
			schemas[kind] = schemaOf(t, s, kind)
		}
		taken := []struct {
			kind    string
			doc     doc
			secrets []string
		}{
			{"credentials", doc{"id": "ssh", "type": "sshPrivateKey", "scope": "SYSTEM", "username": "git", "privateKey": canary, "passphrase": canary}, []string{"privateKey", "passphrase"}},
			{"credentials", doc{"id": "password", "type": "usernamePassword", "scope": "GLOBAL", "description": "d", "username": "jane", "password": canary}, []string{"password"}},
			{"credentials", doc{"id": "text", "type": "secretText", "scope": "GLOBAL", "secret": canary, "labels": doc{"team": "web"}}, []string{"secret"}},
			{"credentials", doc{"id": "file", "type": "secretFile", "scope": "GLOBAL", "fileName": "kubeconfig", "content": canary}, []string{"content"}},
			{"credentials", doc{"id": "cert", "type": "certificate", "scope": "GLOBAL", "keyStore": "Y2FuYXJ5", "password": canary}, []string{"keyStore", "password"}},
			{"credentials", doc{"id": "app", "type": "githubApp", "scope": "GLOBAL", "appId": "12", "installationId": 34.0, "privateKey": canary}, []string{"privateKey"}},
			{"providers", doc{"id": "ci", "type": "vendor", "description": "d", "credential": "text", "visibility": "server", "url": "u", "projects": []any{"a"}, "webhookSecret": canary}, []string{"webhookSecret"}},
			{"grants", doc{"id": "g", "to": "user:default/jane", "permissions": []any{"data.credential.read"}}, nil},
		}
		for _, c := range taken {
			if err := schemas[c.kind].Validate(map[string]any(c.doc)); err != nil {
				t.Errorf("%v: the schema refuses what the server takes: %v", c.doc, err)
			}
			want := maps.Clone(c.doc)
			for _, key := range c.secrets {
				want[key] = "<redacted>"
			}
			s.Post("/data/"+c.kind, c.doc).Is(201)
			got := documentOf(t, s.Get("/data/"+c.kind+"/"+c.doc["id"].(string)).Is(200))
			if a, b := text(t, got), text(t, want); a != b {
				t.Errorf("got %s, want %s", a, b)
			}
			if err := schemas[c.kind].Validate(map[string]any(got)); err != nil {
				t.Errorf("%v: the schema refuses what the server gives: %v", got, err)
			}
		}
		for _, c := range []struct {
			kind string
			doc  doc
		}{
			{"credentials", doc{"id": "x", "secret": "y"}},
			{"credentials", doc{"id": "x", "type": "secretTexts"}},
			{"credentials", doc{"id": "x", "type": "secretText", "password": "of another type"}},
			{"credentials", doc{"id": "x", "type": "secretText", "scope": "USER"}},
			{"credentials", doc{"id": "a/b", "type": "secretText"}},
			{"credentials", doc{"id": "x", "type": "githubApp", "appId": "1", "installationId": "2"}},
			{"credentials", doc{"id": "x", "type": "githubApp"}},
			{"credentials", doc{"id": "x", "type": "secretText", "labels": doc{"team": 1.0}}},
			{"providers", doc{"id": "x", "type": "vendor", "url": "u", "projects": "a"}},
			{"grants", doc{"id": "x", "to": "user:default/jane"}},
		} {
			if err := schemas[c.kind].Validate(map[string]any(c.doc)); err == nil {
				t.Errorf("%v: the schema takes what the server refuses", c.doc)
			}
			refused(t, s.Post("/data/"+c.kind, c.doc), 422, "invalid")
		}
	})
}

func text(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v) // in the order of keys
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Types are told apart by their symbol, in the schema of a kind and in the API's description.
func TestTypesAreToldApartBySymbol(t *testing.T) {
	t.Parallel()
	o, _ := options()
	s := blueprinttest.Start(t, store.SQLite, o)
	var api struct {
		Components struct {
			Schemas map[string]json.RawMessage
		}
	}
	s.Get("/openapi.json").Is(200).Into(&api)
	schema, err := json.Marshal(documentOf(t, s.Get("/data/schema/credentials")))
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []json.RawMessage{schema, api.Components.Schemas["DataCredentials"]} {
		var d struct {
			OneOf         []json.RawMessage
			Discriminator struct {
				PropertyName string
				Mapping      map[string]string
			}
		}
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatal(err)
		}
		symbols := slices.Sorted(maps.Keys(d.Discriminator.Mapping))
		if want := []string{"certificate", "githubApp", "secretFile", "secretText", "sshPrivateKey", "usernamePassword"}; len(d.OneOf) != 6 || d.Discriminator.PropertyName != "type" || !slices.Equal(symbols, want) {
			t.Errorf("%d types are told apart by %q: %v", len(d.OneOf), d.Discriminator.PropertyName, symbols)
		}
	}
}

// Two blueprints that declare one kind, or one symbol of it, are refused at the start, all faults together; a blueprint may bring a type for the kind of another.
func TestOverlapsAreRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	declares := func(name string, kinds ...resource.Kind) blueprint.Blueprint {
		b := blueprint.Blueprint{Name: name, Version: "0.1.0", Summary: name + ".", Stability: blueprint.Experimental, Open: func(context.Context, *blueprint.Host) (any, error) { return nil, nil }}
		for _, k := range kinds {
			b.Kinds = append(b.Kinds, blueprint.ResourceKind{Kind: k})
		}
		return b
	}
	type fields struct {
		Text string `json:"text,omitempty" doc:"Text"`
	}
	vault := resource.Kind{Name: "credentials", Types: []resource.Type{{Symbol: "vaultRole", Text: "A role", Fields: fields{}}}}
	again := resource.Kind{Name: "credentials", Types: []resource.Type{{Symbol: "secretText", Fields: fields{}}}}
	stolen := resource.Kind{Name: "grants", Text: "Mine.", Permissions: resource.Permissions{Read: "data.grant.read"}, Types: []resource.Type{{Fields: fields{}}}}

	config := server.DefaultConfig()
	config.DataDir = t.TempDir()
	config.Databases = map[string]string{"main": "sqlite:" + config.DataDir + "/main.db"}
	config.Secrets.KeyFile = config.DataDir + "/master.key"
	_, err := server.New(t.Context(), server.Options{Config: config, Blueprints: []blueprint.Blueprint{data.Blueprint, declares("one", again), declares("two", stolen)}})
	if err == nil || !strings.Contains(err.Error(), `blueprint one: type of credentials "secretText" is also declared by blueprint data`) || !strings.Contains(err.Error(), `blueprint two: kind "grants" is also declared by blueprint data`) {
		t.Errorf("got %v, want both overlaps told", err)
	}

	s := blueprinttest.Start(t, store.SQLite, blueprinttest.Options{Blueprints: []blueprint.Blueprint{data.Blueprint, declares("vault", vault)}})
	s.Post("/data/credentials", doc{"id": "v", "type": "vaultRole", "text": "x"}).Is(201)
	refused(t, s.Post("/data/grants", doc{"id": "v", "type": "vaultRole"}), 422, "invalid") // a symbol belongs to its kind
}
