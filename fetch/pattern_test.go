package fetch

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
)

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, url string
		want         bool
	}{
		{"https://*", "https://example.com", true},
		{"https://*", "https://example.com/a/b?c=d#e", true},
		{"https://*", "https://example.com:443/", true},
		{"https://*", "https://example.com:8443/", false},
		{"https://*", "http://example.com/", false},
		{"https://*", "HTTPS://EXAMPLE.COM./", true},
		{"https://*:*", "https://example.com:8443/", true},
		{"https://*:8443/*", "https://example.com:8443/a", true},
		{"https://*/*", "https://example.com", true},
		{"https://*.example.com", "https://a.b.example.com/", true},
		{"https://*.example.com", "https://example.com/", false},
		{"https://*.example.com", "https://badexample.com/", false},
		{"https://*.example.com", "https://a.example.com.evil.com/", false},
		{"https://git.example.com/*", "https://git.example.com/a/b.git", true},
		{"https://git.example.com/team/*", "https://git.example.com/team/a", true},
		{"https://git.example.com/team/*", "https://git.example.com/teams/a", false},
		{"https://git.example.com/team/*", "https://git.example.com/team", false},
		{"https://git.example.com/team/*", "https://git.example.com/team%2Fa", false},
		{"https://git.example.com/*.git", "https://git.example.com/a/b.git", true},
		{"https://git.example.com/*.git", "https://git.example.com/a/b", false},
		{"https://git.example.com/a", "https://git.example.com/a", true},
		{"https://git.example.com/a", "https://git.example.com/a/", false},
		{"https://git.example.com/", "https://git.example.com/a", true},
		{"https://Git.Example.com", "https://git.example.com/a", true},
		{"git://git.example.com/*", "git://git.example.com:9418/a", true},
		{"git://git.example.com/*", "git://git.example.com:22/a", false},
		{"http://127.0.0.1:7199/*", "http://127.0.0.1:7199/x", true},
		{"http://127.0.0.1:7199/*", "http://127.0.0.1/x", false},
		{"http://[::1]:80/*", "http://[0:0::1]/x", true},
		{"https://*", "https://user@example.com/", false},
		{"https://*", "https://user:p@example.com/", false},
		{"https://*", "https://example.com@127.0.0.1/", false},
		{"https://*", "https://example.com\\@127.0.0.1/", false},
		{"https://*", "https://example.com:99999/", false},
		{"https://*", "https://example.com:/", false},
		{"https://*", "https://exa mple.com/", false},
		{"https://*", "https://ex\u00e4mple.com/", false},
		{"https://*", "https://example.com/\r\nHost: x", false},
		{"https://*", "https:///a", false},
		{"https://*", "https:example.com", false},
		{"https://*", "//example.com/", false},
		{"https://*", "ext::sh -c touch% /tmp/x", false},
		{"https://*", "ssh://git@example.com/a", false},
		{"https://*", "-https://example.com/", false},
		{"https://*", "https://-oProxyCommand=x/", false},
		{"https://*", "", false},
	} {
		err := newFetcher(t, nil, c.pattern).CheckURL(c.url)
		if (err == nil) != c.want {
			t.Errorf("%s with %s: got %v, want allowed %v", c.url, c.pattern, err, c.want)
		}
		if err != nil && !errors.Is(err, slipway.Invalid) {
			t.Errorf("%s: got %v, want it invalid", c.url, err)
		}
	}
}

func TestRefusalSaysWhatToAllow(t *testing.T) {
	t.Parallel()
	err := newFetcher(t, nil, "https://*").CheckURL("http://127.0.0.1:7199/a?token=canary")
	if err == nil || !strings.Contains(err.Error(), `"http://127.0.0.1:7199/*"`) || !strings.Contains(err.Error(), "fetch.allow") || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	err = newFetcher(t, nil, "https://*").CheckURL("https://jane:canary@h/")
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v, want it refused without showing the password", err)
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{"https://example.com/a", "http://[::1]:80/", "https://a@b/", "git://h/%2e%2e/", "http://0x7f.1/", "file:///etc/passwd"} {
		f.Add(s)
	}
	fetcher := newFetcher(f, nil, "https://*:*", "http://*", "git://git.example.com/team/*")
	f.Fuzz(func(t *testing.T, raw string) {
		target, err := fetcher.check(raw)
		if err != nil {
			if !errors.Is(err, slipway.Invalid) {
				t.Errorf("%q: %v has another code than invalid", raw, err)
			}
			return
		}
		if target.url.User != nil || target.host == "" || target.port == "" {
			t.Errorf("%q passed as %+v", raw, target)
		}
		if target.reach == public {
			if addr, err := netip.ParseAddr(target.host); err == nil && !public.includes(addr) {
				t.Errorf("%q is private and passed", raw)
			}
		}
		// What a client makes of the address again must be the same target.
		again, err := fetcher.check(target.url.String())
		if err != nil || again.host != target.host || again.port != target.port || again.path != target.path {
			t.Errorf("%q became %q: %+v, %v", raw, target.url, again, err)
		}
	})
}

func TestAStarStandsForAnyText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"https://*", "https://example.com/x", true},
		{"https://example.com/*", "https://example.com/x/devfile.yaml", true},
		{"https://example.com/*", "https://example.com.evil.org/x", false},
		{"https://*/devfile.yaml", "https://example.com/a/devfile.yaml", true},
		{"https://*/a/*/devfile.yaml", "https://example.com/b/x/devfile.yaml", false},
		{"https://example.com/devfile.yaml", "https://example.com/devfile.yaml", true},
		{"https://example.com/devfile.yaml", "https://example.com/devfile.yaml2", false},
		{"https://a*a", "https://a", false},
	} {
		if got := Glob(c.pattern, c.text); got != c.want {
			t.Errorf("Glob(%q, %q) = %v", c.pattern, c.text, got)
		}
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("https://*.example.com:*/a*b", "/axxb")
	f.Add("https://*", "/")
	f.Fuzz(func(t *testing.T, text, path string) {
		p, err := parsePattern(text)
		if err != nil {
			return
		}
		if p.names() && strings.Contains(p.host, "*") {
			t.Errorf("%q: the host %q counts as a name", text, p.host)
		}
		if !strings.Contains(p.path, "*") && Glob(p.path, path) != (p.path == path) {
			t.Errorf("%q matches %q", p.path, path)
		}
		if !Glob("*", path) || !Glob(path+"*", path) || !strings.Contains(path, "*") && !Glob("*"+path+"*", "a"+path+"b") {
			t.Errorf("a star does not stand for any text around %q", path)
		}
	})
}

func FuzzRefNeverStartsAnOption(f *testing.F) {
	f.Add("--upload-pack=touch /tmp/x")
	f.Add("main")
	f.Add("a..b")
	f.Fuzz(func(t *testing.T, ref string) {
		if checkRef(ref) == nil && (strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, " :*?[\\^~\n\x00")) {
			t.Errorf("%q passed", ref)
		}
	})
}
