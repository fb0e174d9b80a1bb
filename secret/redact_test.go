package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestKnownSecretsAreHiddenInEveryForm(t *testing.T) {
	t.Parallel()
	const password = `pa"ss/w&rd+é`
	quoted, _ := json.Marshal(password)
	r := &Redactor{}
	r.Add(password, "line one\nline two\n", "short", "password-longer", "password-longer-still")
	for _, shown := range []string{
		password,
		string(quoted),
		url.QueryEscape(password),
		url.PathEscape(password),
		base64.StdEncoding.EncodeToString([]byte(password)),
		base64.RawURLEncoding.EncodeToString([]byte(password)),
		"line one", "line two",
	} {
		got := r.Redact("before " + shown + " after")
		if strings.Contains(got, shown) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%q is shown as %q", shown, got)
		}
	}
	if got := r.Redact("in short, no"); got != "in short, no" {
		t.Errorf("a word of five letters was hidden: %q", got)
	}
	if got := r.Redact("password-longer-still"); got != Redacted {
		t.Errorf("the longer of two secrets was hidden in part: %q", got)
	}
}

func TestSecretsAreKnownByTheirLooks(t *testing.T) {
	t.Parallel()
	r := &Redactor{}
	const s = "s3cr3tS3cr3tS3cr3t"
	for _, text := range []string{
		"Authorization: Bearer " + s,
		"authorization: token " + s,
		"Proxy-Authorization: Basic " + s + "==",
		`{"Authorization":"Bearer ` + s + `"}`,
		`{"authorization": ["` + s + `"]}`,
		fmt.Sprint(http.Header{"Authorization": {"Bearer " + s}, "Cookie": {"a=b; c=" + s}}),
		fmt.Sprintf("%q", http.Header{"Private-Token": {s}}),
		"Cookie: theme=dark; session=" + s,
		"Set-Cookie: session=" + s + "; HttpOnly",
		"X-Api-Key: " + s,
		"PRIVATE-TOKEN: " + s,
		"X-Gitlab-Token: " + s,
		"curl -H 'Authorization: Bearer " + s + "'",
		"with bearer " + s,
		"GET /a?token=" + s + "&page=2",
		"GET /a?page=2&access_token=" + s,
		"/?code=" + s,
		"https://bucket/?X-Amz-Signature=" + s,
		"client_secret=" + s,
		"GITHUB_TOKEN=" + s,
		`PASSWORD="` + s + `"`,
		"PASSWORD='" + s + "'",
		"https://user:" + s + "@git.example.com/a.git",
		"https://" + s + "@git.example.com/a.git",
		"postgres://slipway:" + s + "@db/slipway?sslmode=disable",
		"slp_" + s, "sls_" + s, "slr_" + s, "sld_" + s,
		"Slipway-Provider-Token: github=" + s + ", gitlab=" + s,
		`{"access_token":"` + s + `","expires_in":3600}`,
		`{"clientSecret": "` + s + `"}`, `{"password" : "a\"` + s + `"}`,
		`{"privateKey":"-----BEGIN KEY-----\n` + s + `\n-----END KEY-----\n"}`,
		`{"body":"{\"webhookSecret\":\"` + s + `\",\"a\":1}"}`,
		`{"body":"{\"privateKey\": \"-----BEGIN KEY-----\\n` + s + `\\n\"}"}`,
		"ghp_" + s, "github_pat_" + s, "glpat-" + s,
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0." + s,
	} {
		got := r.Redact(text)
		if strings.Contains(got, s) {
			t.Errorf("%q is shown as %q", text, got)
		}
		if again := r.Redact(got); again != got {
			t.Errorf("redacting twice: %q became %q", got, again)
		}
	}
	for _, text := range []string{
		"basic authentication of bearers",
		"the token is missing",
		"https://git.example.com/a.git?page=2#token",
		"mail jane@example.com, exitcode=1, status code=200",
		"component:default/web",
		`{"token":"here","secretName":"github-key","type":"secretText"}`,
		"git@example.com:a/b.git",
		"",
	} {
		if got := r.Redact(text); got != text {
			t.Errorf("harmless %q became %q", text, got)
		}
	}
}

func TestWriterHidesASecretThatComesInPieces(t *testing.T) {
	t.Parallel()
	text := "start " + canary + " and https://u:" + canary + "@h/\nGET /?token=abcdef\rlast slp_abcdefgh"
	want := "start <redacted> and https://<redacted>@h/\nGET /?token=<redacted>\rlast <redacted>"
	for size := 1; size <= len(text); size++ {
		r := &Redactor{}
		r.Add(canary)
		var out bytes.Buffer
		w := r.Writer(&out)
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			if wrote, err := io.WriteString(w, rest[:n]); err != nil || wrote != n {
				t.Fatalf("wrote %d, %v", wrote, err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Fatalf("in pieces of %d: got %q, want %q", size, out.String(), want)
		}
	}
}

func TestWriterPassesLinesOnAtOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := new(Redactor).Writer(&out)
	io.WriteString(w, "one\ntw")
	if out.String() != "one\n" {
		t.Errorf("after a line and a half: %q", out.String())
	}
}

func TestWriterBoundsALineWithoutEnd(t *testing.T) {
	t.Parallel()
	for name, filler := range map[string]string{"words": "lorem ipsum ", "one word": "x"} {
		r := &Redactor{}
		r.Add(canary)
		var out bytes.Buffer
		w := r.Writer(&out)
		count := 0
		for i := 0; i < 8*maxLine; i += len(filler) {
			io.WriteString(w, filler)
			if i%977 == 0 {
				io.WriteString(w, canary)
				count++
			}
			if held := len(w.(*writer).held); held > 2*maxLine {
				t.Fatalf("%s: %d bytes held back", name, held)
			}
		}
		w.Close()
		if strings.Contains(out.String(), canary) {
			t.Errorf("%s: a secret came through", name)
		}
		if got := strings.Count(out.String(), Redacted); got != count {
			t.Errorf("%s: %d secrets hidden, want %d", name, got, count)
		}
	}
}

func TestLogShowsNoSecret(t *testing.T) {
	t.Parallel()
	r := &Redactor{}
	r.Add(canary)
	var out bytes.Buffer
	log := slog.New(Handler(slog.NewJSONHandler(&out, nil), r))
	type inner struct{ Name, Token string }
	log = log.With("a", canary).WithGroup("g").With("b", canary)
	log.Info("message "+canary,
		"string", canary,
		"error", fmt.Errorf("open: %w", errors.New(canary)),
		slog.Group("group", "deep", canary),
		"any", inner{"n", canary},
		"pointer", &inner{"n", canary},
		"pointers", []*inner{{"n", canary}},
		"bytes", []byte(canary),
		"header", http.Header{"Authorization": {"Bearer other-secret"}},
		"url", "https://u:other-secret@h/",
		"password", "other-secret",
		"text", NewText(canary),
		"plain", inner{"kept", "shape"},
		"number", 7,
		"nil", nil,
		"nilError", (*nilError)(nil),
	)
	s := out.String()
	if strings.Contains(s, canary) || strings.Contains(s, "other-secret") || strings.Contains(s, base64.StdEncoding.EncodeToString([]byte(canary))) {
		t.Errorf("the log shows a secret: %s", s)
	}
	for _, want := range []string{`"plain":{"Name":"kept","Token":"shape"}`, `"number":7`, `"nil":null`, `"g":{`} {
		if !strings.Contains(s, want) {
			t.Errorf("the log has lost %s: %s", want, s)
		}
	}
}

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func FuzzWriterEqualsRedact(f *testing.F) {
	f.Add("a canary-5d1f b\n", uint8(3))
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		r := &Redactor{}
		r.Add(canary)
		var out strings.Builder
		w := r.Writer(&out)
		for rest := text; rest != ""; {
			n := min(int(size)+1, len(rest))
			io.WriteString(w, rest[:n])
			rest = rest[n:]
		}
		w.Close()
		if strings.Contains(out.String(), canary) {
			t.Errorf("%q in pieces of %d gave %q", text, size+1, out.String())
		}
	})
}

func BenchmarkRedactBuildLog(b *testing.B) {
	r := &Redactor{}
	for i := range 50 {
		r.Add(fmt.Sprintf("secret-number-%d", i))
	}
	line := strings.Repeat("2026-01-02T03:04:05Z [INFO] compiling package example.com/a/b/c with flags -O2 ok\n", 100)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		r.Redact(line)
	}
}
