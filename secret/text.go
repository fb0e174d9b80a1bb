package secret

import (
	"crypto/subtle"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Redacted stands where a secret was.
const Redacted = "<redacted>"

// Text is a secret in memory: a token, a password, a private key. Printed, logged or encoded in any way
// it gives "<redacted>" (or nothing, when it is empty, so that a missing secret can be seen); only Reveal
// gives the secret. It decodes from plain JSON and YAML strings. The zero Text is the empty one.
type Text struct {
	// Behind a pointer, because fmt looks into unexported fields without asking their methods.
	value *string
}

// NewText makes a Text.
func NewText(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{&s}
}

// Reveal gives the secret itself. Call it where the secret is used and nowhere before.
func (t Text) Reveal() string {
	if t.value == nil {
		return ""
	}
	return *t.value
}

// IsZero says whether the secret is empty; encoding/json's omitzero asks it.
func (t Text) IsZero() bool { return t.value == nil }

// Equal compares in constant time.
func (t Text) Equal(u Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.Reveal()), []byte(u.Reveal())) == 1
}

// String gives "<redacted>", or "" when empty.
func (t Text) String() string {
	if t.IsZero() {
		return ""
	}
	return Redacted
}

// Format hides the secret from every verb of package fmt, %#v and %x included.
func (t Text) Format(f fmt.State, _ rune) { io.WriteString(f, t.String()) }

// GoString hides the secret from %#v.
func (t Text) GoString() string { return t.String() }

// LogValue hides the secret from package slog.
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText hides the secret from JSON, YAML and every other text encoding.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText takes the secret from JSON or YAML. "<redacted>" is refused: it is what a reader of the
// document was shown, not the secret.
func (t *Text) UnmarshalText(b []byte) error {
	if string(b) == Redacted {
		return errors.New("the secret is hidden: leave the field out to keep it, or give its new value")
	}
	*t = NewText(string(b))
	return nil
}

// Value keeps the secret out of the database: seal it first.
func (t Text) Value() (driver.Value, error) {
	return nil, errors.New("a secret must not be stored in the clear: seal it with a Keyring")
}
