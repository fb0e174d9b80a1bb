package auth

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
)

func TestToolOfASubject(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]string{
		"O=toolforge,CN=some-tool":                       "some-tool",
		"CN=some-tool,O=toolforge":                       "some-tool",
		"cn=some-tool,o=toolforge":                       "some-tool",
		"2.5.4.3=some-tool,2.5.4.10=toolforge":           "some-tool",
		"CN=some-tool+O=toolforge":                       "some-tool",
		"OU=x\\,y,CN=some\\2dtool,O=toolforge,C=US":      "some-tool",
		"CN=some-tool,O=toolforge,O=other":               "",
		"CN=some-tool,O=toolforge,O=toolforge":           "",
		"CN=some-tool":                                   "",
		"CN=some-tool,O=Toolforge":                       "",
		"CN=some-tool,O=toolforge\\ ":                    "",
		"CN=some-tool,O=toolforge,system:masters":        "",
		"CN=x\\,O=toolforge":                             "", // a comma that is part of the name
		"CN=x\\,O=toolforge,O=toolforge":                 "",
		"CN=a,CN=b,O=toolforge":                          "",
		"O=toolforge":                                    "",
		"CN=,O=toolforge":                                "",
		"CN=Some Tool,O=toolforge":                       "",
		"CN=../other,O=toolforge":                        "",
		"CN=" + strings.Repeat("a", 59) + ",O=toolforge": "",
		"":                             "",
		"junk":                         "",
		"/O=toolforge/CN=some-tool":    "",
		"CN=\"some-tool\",O=toolforge": "",
		"CN=some-tool;O=toolforge":     "",
		"CN=some-tool, O=toolforge":    "",
		"CN=some-tool ,O=toolforge":    "",
		"CN=#0c03666f6f,O=toolforge":   "",
		"CN=some-tool,O=toolforge,":    "",
		"CN=some-tool,O=toolforge\\":   "",
		"CN=some-tool,O=toolforge\\2":  "",
		"CN=some-tool,O=toolforge\\zz": "",
		"CN=some-tool\\00,O=toolforge": "",
		"CN=some-tool,O=toolforge\\ff": "",
		"CN=some-tool\x00,O=toolforge": "",
		"CN=some-tool,O=toolforge\xff": "",
		strings.Repeat("OU=x,", 1000) + "CN=some-tool,O=toolforge": "",
	} {
		got, err := toolOf(subject, "toolforge")
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("%.80q: got %q, %v; want %q", subject, got, err, want)
		}
	}
}

func TestDistinguishedNames(t *testing.T) {
	t.Parallel()
	for s, want := range map[string][]attribute{
		`UID=jsmith,DC=example,DC=net`:                   {{"UID", "jsmith"}, {"DC", "example"}, {"DC", "net"}},
		`OU=Sales+CN=J.  Smith,DC=example,DC=net`:        {{"OU", "Sales"}, {"CN", "J.  Smith"}, {"DC", "example"}, {"DC", "net"}},
		`CN=James \"Jim\" Smith\, III,DC=example,DC=net`: {{"CN", `James "Jim" Smith, III`}, {"DC", "example"}, {"DC", "net"}},
		`CN=Before\0dAfter,DC=example`:                   {{"CN", "Before\rAfter"}, {"DC", "example"}},
		`CN=Lu\C4\8Di\C4\87`:                             {{"CN", "Lučić"}},
		`CN=\ a\ ,O=\#b#c=d`:                             {{"CN", " a "}, {"O", "#b#c=d"}},
		`CN=,O=`:                                         {{"CN", ""}, {"O", ""}},
	} {
		got, err := parseDN(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(attribute{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s, diff)
		}
	}
}

func FuzzDistinguishedName(f *testing.F) {
	f.Add(`CN=x\,O=toolforge`)
	f.Add(`OU=Sales+CN=J.  Smith,DC=example`)
	f.Fuzz(func(t *testing.T, s string) {
		all, err := parseDN(s)
		if err == nil && len(all) == 0 {
			t.Errorf("%q is a name without attributes", s)
		}
	})
}

func TestTheHeaderIsBelievedFromProxiesOnly(t *testing.T) {
	t.Parallel()
	c := defaultTLSHeader()
	c.From = []string{"10.0.0.0/8", "::1", "192.0.2.7"}
	h := newTLSHeader(c)
	const dn = "CN=mytool,O=toolforge"
	for _, test := range []struct {
		from    string
		headers []string
		want    string
		refused bool
	}{
		{"10.1.2.3:4711", []string{dn}, "mytool", false},
		{"[::1]:4711", []string{dn}, "mytool", false},
		{"[::ffff:192.0.2.7]:4711", []string{dn}, "mytool", false},
		{"192.0.2.8:4711", []string{dn}, "", false},
		{"192.0.2.8:4711", []string{dn, dn}, "", false},
		{"", []string{dn}, "", false},
		{"10.1.2.3:4711", nil, "", false},
		{"10.1.2.3:4711", []string{""}, "", false},
		{"10.1.2.3:4711", []string{dn, dn}, "", true},
		{"10.1.2.3:4711", []string{"", dn}, "", true},
		{"10.1.2.3:4711", []string{"junk"}, "", true},
	} {
		r := &http.Request{RemoteAddr: test.from, Header: http.Header{"X-Forwarded-For": {"10.1.2.3"}}}
		for _, v := range test.headers {
			r.Header.Add("ssl-client-subject-dn", v)
		}
		got, err := h.tool(r)
		if got != test.want || errors.Is(err, slipway.Unauthenticated) != test.refused {
			t.Errorf("%s with %q: got %q, %v; want %q, refused %v", test.from, test.headers, got, err, test.want, test.refused)
		}
	}
	if got, err := newTLSHeader(defaultTLSHeader()).tool(&http.Request{RemoteAddr: "127.0.0.1:1", Header: http.Header{"Ssl-Client-Subject-Dn": {dn}}}); got != "" || err != nil {
		t.Errorf("without proxies: got %q, %v", got, err)
	}
}
