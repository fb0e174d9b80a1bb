package auth

import (
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSecretsAreKnownByTheirShape(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		secret, id := newSecret()
		if got, ok := tokenID(secret); !ok || got != id || len(secret) != 65 || !strings.HasPrefix(secret, "slp_"+id) {
			t.Fatalf("token %q with id %q: read as %q, %v", secret, id, got, ok)
		}
		if seen[id] {
			t.Fatalf("id %q twice", id)
		}
		seen[id] = true
	}
	secret, _ := newSecret()
	for _, bad := range []string{
		"", "slp_", secret[:64], secret + "0", "SLP_" + secret[4:], " " + secret[:64], secret[:64] + " ", strings.Repeat("a", 65), "slp_" + strings.Repeat("\x00", 61),
	} {
		if _, ok := tokenID(bad); ok {
			t.Errorf("%q was taken for a token", bad)
		}
	}
	for i := range secret { // a slip of the pen anywhere is seen without the database
		changed := []byte(secret)
		changed[i] ^= 1
		if _, ok := tokenID(string(changed)); ok {
			t.Errorf("%q was taken for a token", changed)
		}
	}
}

func FuzzTokenID(f *testing.F) {
	secret, _ := newSecret()
	f.Add(secret)
	f.Add("slp_")
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := tokenID(s)
		if ok && (len(id) != idLength || !strings.Contains(s, id) || strings.Trim(s, alphabet+"_") != "") {
			t.Errorf("%q gave the id %q", s, id)
		}
	})
}

func TestRateTexts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Rate{"100/m": 100, "0": 0, "0/m": 0, "1/m": 1} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want {
			t.Errorf("%q: got %v, %v; want %d", text, r, err, want)
		}
	}
	for _, text := range []string{"", "100", "-1/m", "+1/m", "1/s", "1.5/m", " 1/m", "99999999999999999999/m", "2000000000/m"} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %v", text, r)
		}
	}
}

// What a sign-in goes back to lies on this server, however a browser reads it.
func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/docs?x=1#y", "//elsewhere.example.com", `/\elsewhere.example.com`, "/%2f/x", "https://elsewhere.example.com", "/\t/x", "javascript:alert(1)"} {
		f.Add(s)
	}
	base, _ := url.Parse("https://slipway.example.com/auth/login")
	f.Fuzz(func(t *testing.T, s string) {
		to := LocalPath(s)
		got, err := base.Parse(to)
		if err != nil || got.Host != base.Host || got.Scheme != "https" || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t ") {
			t.Errorf("%q leads to %q: %v, %v", s, to, got, err)
		}
	})
}

// A code is what is left of its letters, however people write it, and a rate reads as it is written.
func FuzzCodesAndRates(f *testing.F) {
	for _, s := range []string{"WDJB-MJHT", " wdjb mjht ", "\xff", "a\u202eb\u0085", "\u0131\u017f", strings.Repeat("é", 100), "100/m", "0", "-1/m", "99999999999999999999/m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		code := plainCode(s)
		if strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || len(code) > 40 || plainCode(code) != code {
			t.Errorf("%q is the code %q", s, code)
		}
		var r, again Rate
		if err := r.UnmarshalText([]byte(s)); err == nil {
			if err := again.UnmarshalText([]byte(r.String())); err != nil || again != r || r < 0 || r > maxRate {
				t.Errorf("%q is the rate %s, which is read as %s, %v", s, r, again, err)
			}
		}
		if l := label(s); len(l) > maxLabel || !utf8.ValidString(l) || strings.ContainsFunc(l, unicode.IsControl) || strings.ContainsRune(l, '\u202e') {
			t.Errorf("%q is the label %q", s, l)
		}
	})
}
