package catalog

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
)

func TestAGitHostsPageStandsForItsFile(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"https://github.com/octo/web/blob/main/catalog-info.yaml":             "https://raw.githubusercontent.com/octo/web/main/catalog-info.yaml",
		"https://github.com/octo/web/blob/feature/x/a%20b/catalog-info.yaml":  "https://raw.githubusercontent.com/octo/web/feature/x/a%20b/catalog-info.yaml",
		"https://gitlab.example.com/a/b/c/-/blob/main/catalog-info.yaml":      "https://gitlab.example.com/a/b/c/-/raw/main/catalog-info.yaml",
		"https://codeberg.org/octo/web/src/branch/main/catalog-info.yaml":     "https://codeberg.org/octo/web/raw/branch/main/catalog-info.yaml",
		"https://bitbucket.org/octo/web/src/main/a%20b/catalog-info.yaml":     "https://bitbucket.org/octo/web/raw/main/a%20b/catalog-info.yaml",
		"https://example.com/files/catalog-info.yaml?raw=1":                   "https://example.com/files/catalog-info.yaml?raw=1",
		"https://git.example.com/octo/web/src/other/catalog-info.yaml":        "https://git.example.com/octo/web/src/other/catalog-info.yaml",
		"http://127.0.0.1:7199/shop/web/blob/main/catalog-info.yaml":          "http://127.0.0.1:7199/shop/web/blob/main/catalog-info.yaml",
		"https://raw.githubusercontent.com/octo/web/main/x/catalog-info.yaml": "https://raw.githubusercontent.com/octo/web/main/x/catalog-info.yaml",
		"https://user%2Fname@example.com/a/-/blob/b":                          "https://user%2Fname@example.com/a/-/raw/b",
		"%zz": "%zz",
	} {
		if got := document(target); got != want {
			t.Errorf("%s: got %s, want %s", target, got, want)
		}
	}
}

func TestCredentialsDoNotBecomeLocations(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]bool{
		"https://example.com/catalog-info.yaml?token=x":                       true,
		"https://example.com/catalog-info.yaml?ref=main&private_token=x":      true,
		"https://example.com/catalog-info.yaml?ref=main;Access%5FToken=x":     true,
		"https://example.blob.example.net/c.yaml?sv=2020&sig=x":               true,
		"https://bucket.example.com/c.yaml?X-Amz-Signature=x":                 true,
		"https://bucket.example.com/c.yaml?AWSAccessKeyId=x":                  true,
		"https://example.com/c.yaml?key=x":                                    true,
		"https://example.com/c.yaml?client-secret=x":                          true,
		"https://example.com/c.yaml?PASSWORD=x":                               true,
		"https://example.com/c.yaml#access_token=x":                           true,
		"https://user:word@example.com/c.yaml":                                true,
		"https://user@example.com?x=y":                                        true,
		"https://example.com/c.yaml?ref=main&path=a&author=b&keyword=c":       false,
		"https://example.com/@scope/c.yaml?at=refs/heads/main&format=raw":     false,
		"https://git.example.com/octo/web/raw/branch/main/token/c.yaml?raw=1": false,
		"https://example.com/c.yaml?design=1":                                 false,
	} {
		if got := (Place{"url", target}).check() != nil; got != want {
			t.Errorf("%s: refused %v, want %v", target, got, want)
		}
	}
	_, err := Place{"url", "https://example.com/c.yaml"}.at("url", "https://user:hush@example.com/d.yaml?token=hush#hush")
	if err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), "https://example.com/d.yaml") {
		t.Errorf("got %v; want a refusal without the credential", err)
	}
}

func TestALocationIsKnownToBackstageByItsHash(t *testing.T) {
	t.Parallel()
	p := Place{Type: "url", Target: "https://example.com/catalog-info.yaml"}
	if got, want := p.ref(), "location:default/generated-94fde8d1a3274d54a87afa4868abb452412d59c6"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for target, want := range map[string]string{"https://example.com/a/catalog-info.yaml?x=1": "catalog-info.yaml", "https://example.com": "catalog-info.yaml", "https://example.com/a/": "a"} {
		if got := (Place{"url", target}).file(); got != want {
			t.Errorf("%s: the file is %s, want %s", target, got, want)
		}
	}
}

func TestAFailingLocationIsLeftAloneLongerAndLonger(t *testing.T) {
	t.Parallel()
	down, broken := slipway.Errorf(slipway.Unavailable, "down"), errors.New("broken")
	for _, tt := range []struct {
		refresh  time.Duration
		failures int
		cause    error
		want     time.Duration
	}{
		{5 * time.Minute, 1, down, time.Minute},
		{5 * time.Minute, 3, down, 3 * time.Minute},
		{5 * time.Minute, 4, down, 40 * time.Minute},
		{30 * time.Second, 3, down, 30 * time.Second},
		{5 * time.Minute, 1, broken, 5 * time.Minute},
		{5 * time.Minute, 2, broken, 10 * time.Minute},
		{5 * time.Minute, 1000, broken, time.Hour},
		{1000 * time.Hour, 1000, broken, 1000 * time.Hour},
	} {
		if got := retryAfter(tt.refresh, tt.failures, tt.cause); got != tt.want {
			t.Errorf("%v, %d failures, %v: got %v, want %v", tt.refresh, tt.failures, tt.cause, got, tt.want)
		}
	}
	for range 1000 {
		if d := jitter(time.Hour); d < 54*time.Minute || d > time.Hour {
			t.Fatalf("jitter gave %v", d)
		}
	}
}
