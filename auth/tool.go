package auth

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/slipway-platform/slipway"
)

// TLSHeader says how a proxy that ends TLS tells which tool's certificate a caller has shown.
type TLSHeader struct {
	Name         string   `yaml:"name" doc:"Header that holds the subject of the caller's certificate, as RFC 4514 writes it"`
	From         []string `yaml:"from" doc:"Addresses or networks of the proxies that are trusted, which must remove the header from what callers send; empty: the header is ignored"`
	Organization string   `yaml:"organization" doc:"What the subject's only O must be"`
}

func defaultTLSHeader() TLSHeader {
	return TLSHeader{Name: "ssl-client-subject-dn", Organization: "toolforge"}
}

func (c TLSHeader) check(fault func(field, format string, args ...any)) {
	if len(c.From) == 0 { // it is off
		return
	}
	if !headerName.MatchString(c.Name) || strings.EqualFold(c.Name, "Authorization") {
		fault("auth.tlsHeader.name", "%.60q cannot be the name of that header", c.Name)
	}
	if c.Organization == "" {
		fault("auth.tlsHeader.organization", "is required: without it, any certificate that the proxy accepts would be a tool's")
	}
	for i, from := range c.From {
		if _, err := ParseNetwork(from); err != nil {
			fault(fmt.Sprintf("auth.tlsHeader.from[%d]", i), "%.60q is neither an address nor a network", from)
		}
	}
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,60}$`)

// ParseNetwork reads an address, or a network such as 10.0.0.0/8, of those that an operator trusts. An IPv4 address that is written as an IPv6 one is the former.
func ParseNetwork(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// Trusts says whether an address ("ip", without a port) lies in one of the networks. What is no address lies in none.
func Trusts(networks []netip.Prefix, addr string) bool {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// tlsHeader is a TLSHeader at work.
type tlsHeader struct {
	TLSHeader
	from []netip.Prefix
}

func newTLSHeader(c TLSHeader) tlsHeader {
	h := tlsHeader{TLSHeader: c}
	for _, from := range c.From {
		if p, err := ParseNetwork(from); err == nil { // it was checked
			h.from = append(h.from, p)
		}
	}
	return h
}

// believed says whether the connection that a request came by is a proxy's. What other hops say of themselves does not count.
func (h tlsHeader) believed(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && Trusts(h.from, host)
}

// tool is the tool that a proxy vouches for; "" when none does. A header from elsewhere says nothing.
func (h tlsHeader) tool(r *http.Request) (string, error) {
	values := r.Header.Values(h.Name)
	if len(h.from) == 0 || len(values) == 0 || !h.believed(r) {
		return "", nil
	}
	if len(values) > 1 {
		return "", slipway.Errorf(slipway.Unauthenticated, "the header %s was sent more than once; the proxy must replace what callers send", h.Name)
	}
	if values[0] == "" { // a proxy that asks for a certificate and got none
		return "", nil
	}
	return toolOf(values[0], h.Organization)
}

// toolOf reads the tool from the subject of a certificate: its only CN, when its only O is the organization.
func toolOf(subject, organization string) (string, error) {
	attributes, err := parseDN(subject)
	if err != nil {
		return "", slipway.Errorf(slipway.Unauthenticated, "Failed to parse certificate name '%s'", clipName(subject)).WithCause(err)
	}
	var names, organizations []string
	for _, a := range attributes {
		switch strings.ToLower(a.name) {
		case "cn", "2.5.4.3":
			names = append(names, a.value)
		case "o", "2.5.4.10":
			organizations = append(organizations, a.value)
		}
	}
	if len(names) != 1 || !toolName.MatchString(names[0]) {
		return "", slipway.Errorf(slipway.Unauthenticated, "Failed to load name for certificate '%s'", clipName(subject))
	}
	if len(organizations) != 1 || organizations[0] != organization {
		return "", slipway.Errorf(slipway.Unauthenticated, "This certificate can't access this API. Double check you're logged in to the correct account? (got %.200q)", organizations)
	}
	return names[0], nil
}

// toolName is a DNS label that leaves room for the prefix of its namespace.
var toolName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,56}[a-z0-9])?$`)

// ToolPattern fits the entities of a tool's components: what its own rights are narrowed to.
func ToolPattern(tool string) string { return "component:tool-" + tool + "/*" }

// ToolCaller is a tool, which holds on its own components what permissions say that tools do, and what was granted to tool:<name> besides.
func (s *Service) ToolCaller(tool string) *slipway.Caller {
	c := &slipway.Caller{Kind: slipway.CallerTool, Subject: "tool:" + tool}
	for _, p := range s.permissions {
		if p.Tools {
			c.Grants = append(c.Grants, slipway.Grant{Permission: p.Name, Object: ToolPattern(tool)})
		}
	}
	for _, g := range s.granted(c.Subject, nil) {
		if !covers(c.Grants, g) {
			c.Grants = append(c.Grants, g)
		}
	}
	c.Grants = s.withEveryone(c.Grants)
	return c
}

// byHeader is the tool that a proxy vouches for; nil when none does.
func (s *Service) byHeader(_ context.Context, r *http.Request) (*slipway.Caller, error) {
	name, err := s.tls.tool(r)
	if name == "" || err != nil {
		return nil, err
	}
	return s.ToolCaller(name), nil
}

func clipName(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// attribute is one of a distinguished name.
type attribute struct{ name, value string }

var attributeType = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*|(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+)$`)

const maxDN = 4096

// parseDN reads a distinguished name as RFC 4514 writes it, in whatever order. Of names with several attributes ("+") each counts. It takes neither the
// older forms (quoted values, semicolons, space around separators, slashes) nor values in hexadecimal BER, which no name of a tool needs.
func parseDN(s string) ([]attribute, error) {
	if s == "" || len(s) > maxDN || !utf8.ValidString(s) {
		return nil, fmt.Errorf("it is empty, too long or not UTF-8")
	}
	var all []attribute
	for rest := s; ; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok || !attributeType.MatchString(name) {
			return nil, fmt.Errorf("%.40q does not begin with the type of an attribute", rest)
		}
		value, n, err := dnValue(after)
		if err != nil {
			return nil, err
		}
		all = append(all, attribute{name, value})
		if n == len(after) {
			return all, nil
		}
		rest = after[n+1:] // behind a comma or a plus
	}
}

// dnValue reads the value at the beginning of s, up to a separator or the end. n is where that stands.
func dnValue(s string) (value string, n int, err error) {
	var b []byte
	escaped := false // the last character
	i := 0
scan:
	for ; i < len(s); i++ {
		switch c := s[i]; c {
		case ',', '+':
			break scan
		case '"', ';', '<', '>', 0:
			return "", 0, fmt.Errorf("%q must be escaped", c)
		case '\\':
			if i+1 >= len(s) {
				return "", 0, fmt.Errorf("nothing is escaped at the end")
			}
			if strings.IndexByte(` "#+,;<=>\`, s[i+1]) >= 0 {
				b, escaped = append(b, s[i+1]), true
				i++
				continue
			}
			if i+2 >= len(s) {
				return "", 0, fmt.Errorf("an escape is cut short")
			}
			octet, err := hex.DecodeString(s[i+1 : i+3])
			if err != nil {
				return "", 0, fmt.Errorf("%q is no escape", s[i:i+3])
			}
			b, escaped = append(b, octet[0]), true
			i += 2
			continue
		case ' ', '#':
			if len(b) == 0 && !escaped {
				return "", 0, fmt.Errorf("a value begins with %q", c)
			}
			b, escaped = append(b, c), false
		default:
			b, escaped = append(b, c), false
		}
	}
	if len(b) > 0 && b[len(b)-1] == ' ' && !escaped {
		return "", 0, fmt.Errorf("a value ends with a space")
	}
	if !utf8.Valid(b) || slices.Contains(b, 0) {
		return "", 0, fmt.Errorf("a value is no UTF-8 text")
	}
	return string(b), i, nil
}
