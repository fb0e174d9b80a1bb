package fetch

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
)

// ports are the schemes that a pattern or an address may have, with the port that goes without saying.
var ports = map[string]string{"http": "80", "https": "443", "git": "9418"}

// pattern is one entry of Config.Allow.
type pattern struct {
	scheme string
	host   string // "*", "*.example.com", or a host
	port   string // "*" or a number
	path   string // a glob in which * stands for any text, slashes included
}

// parsePattern reads scheme://host[:port][/path]. Without a port the scheme's own is meant, without a
// path every path.
func parsePattern(text string) (pattern, error) {
	bad := func(format string, args ...any) (pattern, error) {
		return pattern{}, fmt.Errorf("%q: %s", text, fmt.Sprintf(format, args...))
	}
	scheme, rest, ok := strings.Cut(text, "://")
	p := pattern{scheme: strings.ToLower(scheme), path: "*"}
	if !ok || ports[p.scheme] == "" {
		return bad("a pattern begins with https://, http:// or git://; files are allowed by fileRoots")
	}
	if strings.ContainsAny(rest, "?#@\\ ") {
		return bad("a pattern has no query, fragment, user or backslash")
	}
	hostPort := rest
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		hostPort, p.path = rest[:i], rest[i:]
	}
	if p.path == "/" {
		p.path = "*"
	}
	p.host, p.port, ok = splitPort(hostPort)
	if !ok {
		return bad("the port is not a number or *")
	}
	if p.port == "" {
		p.port = ports[p.scheme]
	}
	p.host = strings.ToLower(p.host)
	name := strings.TrimPrefix(p.host, "*.")
	if p.host != "*" {
		var err error
		if name, err = checkHost(name); err != nil {
			return bad("%v; * stands for all hosts, *.example.com for those below one", err)
		}
	}
	if strings.HasPrefix(p.host, "*.") {
		p.host = "*." + name
	} else if p.host != "*" {
		p.host = name
	}
	return p, nil
}

// names says whether the pattern names one host; only such a pattern opens a private address.
func (p pattern) names() bool { return !strings.HasPrefix(p.host, "*") }

func (p pattern) matches(t target) bool {
	switch {
	case p.scheme != t.scheme || p.port != "*" && p.port != t.port:
		return false
	case p.host == "*":
	case p.names():
		if p.host != t.host {
			return false
		}
	case !strings.HasSuffix(t.host, p.host[1:]) || t.literal:
		return false
	}
	// Both forms of the path, because it is the server that decides whether %2F is a slash.
	return Glob(p.path, t.path) && Glob(p.path, t.escapedPath)
}

// Glob says whether text is what a pattern means in which * stands for any text, slashes included, and all else for itself.
func Glob(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return strings.HasSuffix(text, last)
}

// target is an address that was checked and taken apart.
type target struct {
	url               *url.URL
	scheme            string
	host, port        string // lower case, without brackets
	literal           bool   // the host is an IP address
	path, escapedPath string
	reach             reach
}

// String shows the address without its query, which may hold a secret.
func (t target) String() string {
	return show(t.scheme + "://" + t.url.Host + t.escapedPath)
}

// check takes an http, https or git address apart and finds out how far it may reach. All its errors are
// Invalid and say what to write instead.
func (f *Fetcher) check(raw string) (target, error) {
	refuse := func(format string, args ...any) (target, error) {
		return target{}, slipway.Errorf(slipway.Invalid, format, args...)
	}
	if len(raw) > 8<<10 {
		return refuse("the address is longer than 8 KiB")
	}
	for i := range len(raw) {
		if raw[i] <= ' ' || raw[i] == 0x7f || raw[i] == '\\' {
			return refuse("the address %q holds a space, a backslash or a control character: write it percent-encoded", show(raw))
		}
	}
	u, err := url.Parse(raw)
	if err != nil { // not shown: it may hold credentials
		return refuse("this is no address; write it like https://host/path")
	}
	if u.User != nil {
		return refuse("an address must not hold a user or password: leave out what stands before the @")
	}
	t := target{url: u, scheme: u.Scheme, path: u.Path, escapedPath: u.EscapedPath()}
	usual, known := ports[t.scheme]
	if !known || u.Opaque != "" {
		return refuse("the address %q is not one that can be read here: use https://, http:// or git://", show(raw))
	}
	host, port, ok := splitPort(u.Host)
	if !ok || port == "*" {
		return refuse("the port in %q is not a number", show(raw))
	}
	if t.host, err = checkHost(host); err != nil {
		return refuse("%v", err)
	}
	_, err = netip.ParseAddr(t.host)
	t.literal = err == nil
	t.port = port
	if port == "" {
		t.port = usual
	}
	if t.path == "" {
		t.path, t.escapedPath = "/", "/"
	}
	for segment := range strings.SplitSeq(strings.ReplaceAll(t.path, "\\", "/"), "/") {
		if segment == "." || segment == ".." {
			return refuse(`the path in %q has a "." or ".." in it: write it out`, t)
		}
	}
	allowed := false
	for _, p := range f.allow {
		if p.matches(t) {
			allowed = true
			if p.names() {
				t.reach = private
				if t.literal || t.local() {
					t.reach = anywhere
				}
			}
		}
	}
	if !allowed {
		return refuse("%s is not allowed: an operator can add %q to fetch.allow", t, t.suggestion())
	}
	if t.local() && t.reach != anywhere || t.literal && !t.reach.includes(netip.MustParseAddr(t.host)) {
		return refuse("%s is a private address: an operator can add %q to fetch.allow", t, t.suggestion())
	}
	return t, nil
}

// local says whether the name means this machine to every resolver.
func (t target) local() bool {
	return t.host == "localhost" || strings.HasSuffix(t.host, ".localhost")
}

// suggestion is the pattern that would allow the target.
func (t target) suggestion() string { return show(t.scheme + "://" + t.url.Host + "/*") }

// CheckURL says whether an address may be read, as far as that can be said without asking the network:
// scheme, form, allow-list, and file roots for file://. The error is Invalid and says what an operator
// would have to allow. What the name resolves to is looked at when the address is read.
func (f *Fetcher) CheckURL(raw string) error {
	if path, ok, err := filePath(raw); ok || err != nil {
		if err != nil {
			return err
		}
		_, err = f.root(path, raw)
		return err
	}
	_, err := f.check(raw)
	return err
}

// checkHost returns a host in its plain form: lower case, no brackets, no dot at the end.
func checkHost(host string) (string, error) {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", fmt.Errorf("the host %q is not an IPv6 address without a zone", show(host))
		}
		return addr.String(), nil
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() {
		return addr.String(), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > 253 {
		return "", fmt.Errorf("the host is empty or too long")
	}
	var label string
	for label = range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' {
			return "", fmt.Errorf("the host %q has a part that is empty, too long or begins with a dash", show(host))
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return "", fmt.Errorf("the host %q holds other characters than letters, digits, dash and dot; write an international name in its xn-- form", show(host))
			}
		}
	}
	// Some resolvers take 2130706433, 127.1 and 0x7f.1 for 127.0.0.1.
	if _, err := strconv.ParseUint(label, 0, 64); err == nil || strings.Trim(label, "0123456789") == "" {
		return "", fmt.Errorf("the host %q ends in a number but is no IPv4 address: write its four parts in decimal", show(host))
	}
	if hex, ok := strings.CutPrefix(label, "0x"); ok && strings.Trim(hex, "0123456789abcdef") == "" {
		return "", fmt.Errorf("the host %q ends in a number but is no IPv4 address: write its four parts in decimal", show(host))
	}
	return host, nil
}

// splitPort cuts host:port; the port is empty, "*", or a number of 1 to 65535 without leading zeros.
func splitPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.HasSuffix(s, "]") {
		return s, "", true
	}
	host, port = s[:i], s[i+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	return host, port, port == "*" || err == nil && n > 0 && port == strconv.FormatUint(n, 10)
}

// show shortens what a caller wrote and leaves out a query, for use in a message.
func show(s string) string {
	s, _, _ = strings.Cut(s, "?")
	s, _, _ = strings.Cut(s, "#")
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		if i := strings.LastIndexByte(rest, '@'); i >= 0 {
			s = scheme + "://" + rest[i+1:]
		}
	}
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}
