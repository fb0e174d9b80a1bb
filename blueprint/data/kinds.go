package data

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/task"
)

// credentialBase is what all credentials have.
type credentialBase struct {
	Scope       string `json:"scope" default:"GLOBAL" enum:"GLOBAL,SYSTEM" doc:"GLOBAL: for whatever may name it; SYSTEM: for Slipway's own connections only"`
	Description string `json:"description,omitempty" doc:"What it is for"`
}

// Check implements provider.Checker.
func (b *credentialBase) Check() []slipway.Detail {
	if b.Scope != "GLOBAL" && b.Scope != "SYSTEM" {
		return []slipway.Detail{fault("scope", "must be GLOBAL or SYSTEM")}
	}
	return nil
}

// The types of credentials.
type (
	sshPrivateKey struct {
		Username   string `json:"username,omitempty" doc:"Account at the other end"`
		PrivateKey string `json:"privateKey,omitempty" secret:"true" doc:"Private key in PEM form"`
		Passphrase string `json:"passphrase,omitempty" secret:"true" doc:"Passphrase of the private key"`
	}
	usernamePassword struct {
		Username string `json:"username,omitempty" doc:"Account"`
		Password string `json:"password,omitempty" secret:"true" doc:"Its password, or a token in its place"`
	}
	secretText struct {
		Secret string `json:"secret,omitempty" secret:"true" doc:"Token or key"`
	}
	secretFile struct {
		FileName string `json:"fileName,omitempty" doc:"Name of the file"`
		Content  string `json:"content,omitempty" secret:"true" doc:"What stands in it"`
	}
	certificate struct {
		KeyStore string `json:"keyStore,omitempty" secret:"true" doc:"PKCS #12 key store in base64"`
		Password string `json:"password,omitempty" secret:"true" doc:"Password of the key store"`
	}
	githubApp struct {
		AppID          string `json:"appId" required:"true" doc:"Client id of the app, or its number in quotes"`
		InstallationID int64  `json:"installationId,omitempty" doc:"The only installation to use; absent: that of each repository's owner is found"`
		PrivateKey     string `json:"privateKey,omitempty" secret:"true" doc:"Private key in PEM form"`
	}
)

// Check implements provider.Checker.
func (c *certificate) Check() []slipway.Detail {
	if _, err := base64.StdEncoding.DecodeString(c.KeyStore); err != nil {
		return []slipway.Detail{fault("keyStore", "must be base64")}
	}
	return nil
}

var credentials = resource.Kind{
	Name: "credentials", Text: "What Slipway shows to others to be let in. Secrets are written and never read.",
	Base: credentialBase{}, Permissions: credentialPermissions, Warn: warnEmpty,
	Types: []resource.Type{
		{Symbol: "sshPrivateKey", Text: "A private key for SSH", Fields: sshPrivateKey{}},
		{Symbol: "usernamePassword", Text: "An account with its password", Fields: usernamePassword{}},
		{Symbol: "secretText", Text: "A token", Fields: secretText{}},
		{Symbol: "secretFile", Text: "A file", Fields: secretFile{}},
		{Symbol: "certificate", Text: "A certificate with its key", Fields: certificate{}},
		{Symbol: "githubApp", Text: "A GitHub app", Fields: githubApp{}},
	},
}

// warnEmpty tells of a credential that lets nobody in.
func warnEmpty(document json.RawMessage) []string {
	var fields map[string]any
	if json.Unmarshal(document, &fields) != nil {
		return nil
	}
	for _, key := range []string{"privateKey", "password", "secret", "content", "keyStore"} {
		if fields[key] != nil {
			return nil
		}
	}
	return []string{"it has no secret yet, and lets nobody in"}
}

// providerBase is what all providers have.
type providerBase struct {
	Description string `json:"description,omitempty" doc:"What it is for"`
	Credential  string `json:"credential,omitempty" doc:"Id of the credential that is shown to the vendor"`
	task.Settings
}

// ours are the fields of a provider that its vendor is not told.
var ours = []string{"description", "credential", "visibility", "history"}

var providers = resource.Kind{
	Name: "providers", Text: "Vendors that Slipway talks to. One that is created works at once; those of the configuration file are listed with origin config.",
	Base: providerBase{}, Permissions: providerPermissions,
}

// onlyConfigured are types of providers that only the configuration file may have: they run the commands that they name.
var onlyConfigured = []string{"local"}

// providerKind adds a type for each kind of provider in this build.
func (s *service) providerKind(k resource.Kind) resource.Kind {
	for _, p := range s.Kinds() {
		if slices.Contains(onlyConfigured, p.Name) {
			continue
		}
		fields := any(struct{}{})
		if t := reflect.TypeOf(p.Config); t != nil {
			for t.Kind() == reflect.Pointer {
				t = t.Elem()
			}
			fields = reflect.Zero(t).Interface()
		}
		k.Types = append(k.Types, resource.Type{Symbol: p.Name, Text: p.Text, Fields: fields, Save: saveProvider, Load: loadProvider})
	}
	k.Uses = func(document json.RawMessage) []resource.Ref {
		var d providerBase
		if json.Unmarshal(document, &d) != nil || d.Credential == "" {
			return nil
		}
		return []resource.Ref{{Kind: "credentials", ID: d.Credential, Field: "/credential"}}
	}
	k.Fixed = func() (list []resource.Fixed) {
		for _, p := range s.Tasks.Providers() {
			if p.Origin == fromConfig {
				document, _ := json.Marshal(map[string]string{"id": p.Name, "type": p.Type, "origin": fromConfig}) // texts always encode
				list = append(list, resource.Fixed{ID: p.Name, Type: p.Type, Document: document})
			}
		}
		return list
	}
	return k
}

// saveProvider puts the vendor's own settings apart from ours, as they are handed to it. Documents are flat, and so was what was stored at first.
func saveProvider(fields map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	settings, err := json.Marshal(without(fields, ours...))
	if err != nil {
		return nil, err
	}
	stored := map[string]json.RawMessage{"settings": settings}
	for _, key := range ours {
		if value, ok := fields[key]; ok {
			stored[key] = value
		}
	}
	return stored, nil
}

func loadProvider(stored map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	raw, apart := stored["settings"]
	if !apart {
		return stored, nil
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	for key, value := range without(stored, "settings") {
		fields[key] = value
	}
	return fields, nil
}

func without(fields map[string]json.RawMessage, keys ...string) map[string]json.RawMessage {
	rest := map[string]json.RawMessage{}
	for key, value := range fields {
		if !slices.Contains(keys, key) {
			rest[key] = value
		}
	}
	return rest
}

// grants are auth's.
var grants = resource.Kind{
	Name: "grants", Text: "Who may do what, beside the grants of the configuration file.", Permissions: grantPermissions,
	Types: []resource.Type{{Fields: auth.GrantConfig{}}},
}

func (s *service) grantKind(k resource.Kind) resource.Kind {
	k.Check = func(ctx context.Context, document json.RawMessage) []slipway.Detail {
		var g auth.GrantConfig
		if err := json.Unmarshal(document, &g); err != nil {
			return []slipway.Detail{fault("", err.Error())}
		}
		return s.Auth.CheckGrant(auth.CallerFrom(ctx), g)
	}
	return k
}

// reloadGrants hands the grants of all documents to auth.
func (s *service) reloadGrants(ctx context.Context) error {
	all, err := s.documents.RevealAll(ctx, "grants", "")
	if err != nil {
		return err
	}
	var list []auth.GrantConfig
	for _, d := range all {
		var g auth.GrantConfig
		if err := cmp.Or(d.Err, json.Unmarshal(d.JSON, &g)); err != nil {
			s.Log.ErrorContext(ctx, "a grant cannot be read and gives nothing", "grant", d.ID, "error", err)
			continue
		}
		g.Origin = "/data/grants/" + d.ID
		list = append(list, g)
	}
	s.Auth.SetGrants(list)
	return nil
}
