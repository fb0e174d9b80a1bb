package provider

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
)

// Secret is a text that printing, logging and encoding replace by "<redacted>"; string(s) is the text itself.
type Secret string

const hidden = "<redacted>"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// Format hides the secret from every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue hides the secret from package slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from every text encoding.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Fingerprint returns 16 hex digits of the secret's SHA-256 hash: equal for equal secrets. "" if there is no secret.
func (s Secret) Fingerprint() string {
	if s == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// Is reports, in constant time, whether given is the secret. It is false for an empty secret.
func (s Secret) Is(given string) bool {
	a, b := sha256.Sum256([]byte(s)), sha256.Sum256([]byte(given))
	return hmac.Equal(a[:], b[:]) && s != ""
}

// Signs reports, in constant time, whether mac is the hex HMAC-SHA256 of body under the secret. It is false for an empty secret.
func (s Secret) Signs(body []byte, mac string) bool {
	given, err := hex.DecodeString(mac)
	m := hmac.New(sha256.New, []byte(s))
	m.Write(body)
	return hmac.Equal(given, m.Sum(nil)) && err == nil && s != ""
}

// fresh is how old, or how far ahead, a signed webhook may be.
const fresh = 5 * time.Minute

// Fresh returns Unauthenticated for a webhook that was signed more than five minutes before or after now, as it may be a replay. at is in seconds since 1970.
func Fresh(at string, now time.Time) error {
	seconds, err := strconv.ParseInt(at, 10, 64)
	if age := now.Sub(time.Unix(seconds, 0)); err != nil || age > fresh || age < -fresh {
		return slipway.Errorf(slipway.Unauthenticated, "the webhook was signed more than %v ago or from now; set the clocks right", fresh)
	}
	return nil
}

// The types of a Credential.
const (
	SecretText       = "secretText"       // Secret: a token or key
	UsernamePassword = "usernamePassword" // Username and Password, or a token in its place
	GitHubApp        = "githubApp"        // AppID and PrivateKey, and InstallationID where there is one only
)

// Credential is how a provider proves to its vendor who it is. Type says which of the other fields are used; the zero Credential is no credential.
type Credential struct {
	Type           string `json:"type" doc:"secretText, usernamePassword or githubApp; which of them the provider's kind takes stands in its page" example:"secretText"`
	Secret         Secret `json:"secret" doc:"secretText: the token"`
	Username       string `json:"username" doc:"usernamePassword: the account"`
	Password       Secret `json:"password" doc:"usernamePassword: its password, or a token in its place"`
	AppID          string `json:"appId" doc:"githubApp: the app's client id, or its number in quotes"`
	InstallationID int64  `json:"installationId" doc:"githubApp: the only installation to use; 0: the one of each repository's owner is found"`
	PrivateKey     Secret `json:"privateKey" doc:"githubApp: the private key in PEM form"`
}

// Authorization returns the header for a credential as most vendors take it: Bearer for secretText, Basic for usernamePassword, and no header for any other type.
func (c Credential) Authorization() Authorization {
	switch c.Type {
	case SecretText:
		return Bearer(c.Secret, "token ")
	case UsernamePassword:
		return Basic(c.Username, c.Password, "user "+c.Username)
	}
	return Authorization{Account: "anonymous"}
}

// Faults returns what is wrong with a credential; field is the config field that holds it, and types are those that the kind accepts. Having no credential is no fault.
func (c Credential) Faults(field string, types ...string) (faults []slipway.Detail) {
	if c == (Credential{}) {
		return nil
	}
	if !slices.Contains(types, c.Type) {
		return []slipway.Detail{fault(join(field, "type"), "must be one of: %s", strings.Join(types, ", "))}
	}
	given := map[string]bool{
		"secret": c.Secret != "", "username": c.Username != "", "password": c.Password != "",
		"appId": c.AppID != "", "installationId": c.InstallationID != 0, "privateKey": c.PrivateKey != "",
	}
	needs := map[string][]string{SecretText: {"secret"}, UsernamePassword: {"username", "password"}, GitHubApp: {"appId", "privateKey"}}[c.Type]
	for _, key := range []string{"secret", "username", "password", "appId", "installationId", "privateKey"} {
		needed := slices.Contains(needs, key)
		switch {
		case needed && !given[key]:
			faults = append(faults, fault(join(field, key), "is required for a credential of type %s", c.Type))
		case !needed && given[key] && !(key == "installationId" && c.Type == GitHubApp):
			faults = append(faults, fault(join(field, key), "has no meaning for a credential of type %s; leave it out", c.Type))
		}
	}
	return faults
}
