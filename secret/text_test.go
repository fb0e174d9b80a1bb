package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
)

const canary = "canary-5d1f"

func TestTextShowsItselfNowhere(t *testing.T) {
	t.Parallel()
	type client struct {
		Token  Text
		token  Text // fmt does not ask the methods of unexported fields
		nested struct{ Token Text }
	}
	text := NewText(canary)
	c := client{Token: text, token: text}
	c.nested.Token = text

	var shown bytes.Buffer
	for _, v := range []any{text, &text, c, &c, []Text{text}, map[string]Text{"a": text}, map[string]any{"a": c}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
			fmt.Fprintf(&shown, verb+"\n", v)
		}
		if err := json.NewEncoder(&shown).Encode(v); err != nil {
			t.Error(err)
		}
		slog.New(slog.NewJSONHandler(&shown, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "v", v)
	}
	if err := json.NewEncoder(&shown).Encode(map[string]any{"error": fmt.Errorf("with %v", text)}); err != nil {
		t.Error(err)
	}
	if s := shown.String(); strings.Contains(s, canary) || strings.Contains(s, fmt.Sprintf("%x", canary)) {
		t.Errorf("the secret is shown:\n%s", s)
	}
	if _, err := text.Value(); err == nil {
		t.Error("it goes into a database in the clear")
	}
	if text.Reveal() != canary {
		t.Errorf("Reveal gave %q", text.Reveal())
	}
}

func TestTextDecodesFromAString(t *testing.T) {
	t.Parallel()
	var doc struct {
		Token Text `json:"token,omitzero"`
	}
	if err := json.Unmarshal([]byte(`{"token":"`+canary+`"}`), &doc); err != nil || doc.Token.Reveal() != canary {
		t.Errorf("got %q, %v", doc.Token.Reveal(), err)
	}
	if !doc.Token.Equal(NewText(canary)) || doc.Token.Equal(Text{}) {
		t.Error("Equal does not compare what is inside")
	}
	if err := json.Unmarshal([]byte(`{"token":"<redacted>"}`), &doc); err == nil || doc.Token.Reveal() != canary {
		t.Errorf("the placeholder was taken for a secret: %v", err)
	}
	if b, err := json.Marshal(struct {
		Token Text `json:"token,omitzero"`
	}{}); err != nil || string(b) != "{}" {
		t.Errorf("an empty secret gives %s, %v", b, err)
	}
}

func TestExpand(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from ${env:A} file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "one", "EMPTY": "", "B_2": "${env:A}"}[name]
		return v, ok
	}
	for in, want := range map[string]string{
		"":                               "",
		"plain":                          "plain",
		"${env:A}":                       "one",
		"<${env:A}${env:EMPTY}${env:A}>": "<oneone>",
		"${env:B_2}":                     "${env:A}", // once only
		"${file:" + file + "}":           "from ${env:A} file",
		"$${env:A}":                      "${env:A}",
		"$$${env:A}":                     "$${env:A}",
		"pa$$word$ $A }":                 "pa$$word$ $A }",
	} {
		if got, err := Expand(in, env); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
	for in, names := range map[string][]string{
		"${env:NOPE} and ${env:NEITHER}": {"NOPE", "NEITHER"},
		"${env:}":                        {"${env:NAME}"},
		"${env:A B}":                     {"A B"},
		"${A}":                           {"${A}"},
		"${vault:a}":                     {"vault"},
		"${env:A":                        {"not closed"},
		"${file:relative}":               {"absolute"},
		"${file:/nonexistent/x}":         {"/nonexistent/x"},
		"${file:/dev/zero}":              {"/dev/zero"},
	} {
		got, err := Expand(in, env)
		if !errors.Is(err, slipway.Invalid) || got != "" {
			t.Errorf("%q: got %q, %v; want it refused", in, got, err)
			continue
		}
		for _, name := range names {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%q: the error %q does not say %q", in, err, name)
			}
		}
	}
}

func FuzzExpandLeavesPlainTextAlone(f *testing.F) {
	f.Add("${env:A}")
	f.Add("$${$${${")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Expand(s, func(string) (string, bool) { return "", false })
		if err == nil && !strings.Contains(s, "${") && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}
