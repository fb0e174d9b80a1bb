package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/slipway-platform/slipway"
)

// reach is the set of addresses that a target may lead to. It follows from the pattern that allows it.
type reach int

const (
	public   reach = iota // a pattern with a wildcard in the host: the public internet
	private               // a pattern that names a host: private networks too
	anywhere              // a pattern that names an IP address or localhost: the machine itself too
)

// The networks that are not the public internet, from the IANA registries of special-purpose addresses.
// The first list is where a company's own servers live; the second is never meant by a name.
var (
	privateNets = prefixes(
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
		"100.64.0.0/10", // carrier-grade NAT
		"fc00::/7",      // unique local
	)
	specialNets = prefixes(
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", // this host, loopback, link-local with cloud metadata
		"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
		"224.0.0.0/4", "240.0.0.0/4", // multicast, reserved and broadcast
		"::/96",                          // unspecified, loopback, IPv4-compatible
		"64:ff9b::/96", "64:ff9b:1::/48", // NAT64: an IPv4 address in disguise
		"100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", // Teredo is in 2001::/23
		"2002::/16", // 6to4: an IPv4 address in disguise
		"fe80::/10", "fec0::/10", "ff00::/8",
	)
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

func (r reach) includes(addr netip.Addr) bool {
	if !addr.IsValid() || addr.Zone() != "" {
		return false
	}
	if r == anywhere {
		return true
	}
	addr = addr.Unmap() // ::ffff:127.0.0.1 is 127.0.0.1
	for _, net := range specialNets {
		if net.Contains(addr) {
			return false
		}
	}
	for _, net := range privateNets {
		if net.Contains(addr) {
			return r == private
		}
	}
	return true
}

// resolve looks a host up and returns the addresses that are in reach. Whoever connects must use these
// and not the name: a second look-up may give others.
func (f *Fetcher) resolve(ctx context.Context, host string, r reach) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if !r.includes(addr) {
			return nil, errPrivate(host, nil)
		}
		return []netip.Addr{addr}, nil
	}
	all, err := f.lookup(ctx, "ip", host)
	if err != nil {
		return nil, slipway.Errorf(slipway.Unavailable, "the host %s was not found: check its name, or try again later", show(host)).WithCause(err)
	}
	var good []netip.Addr
	var refused []error
	for _, addr := range all {
		if r.includes(addr) {
			good = append(good, addr.Unmap())
		} else {
			refused = append(refused, fmt.Errorf("%s", addr))
		}
	}
	if len(good) == 0 {
		return nil, errPrivate(host, errors.Join(refused...))
	}
	return good, nil
}

// errPrivate does not show the address: what a name means inside is nobody's business outside.
func errPrivate(host string, cause error) error {
	return slipway.Errorf(slipway.Invalid,
		"the host %s leads to a private address: an operator must name it in fetch.allow, by its IP address if it is this machine", show(host)).WithCause(cause)
}

// dial connects to a host whose addresses are in reach, one address after the other.
func (f *Fetcher) dial(ctx context.Context, network, host, port string, r reach) (net.Conn, error) {
	addrs, err := f.resolve(ctx, host, r)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{
		Timeout: 10 * time.Second,
		// Once more at the last moment, on what the kernel is really given.
		Control: func(_, address string, _ syscall.RawConn) error {
			if to, err := netip.ParseAddrPort(address); err != nil || !r.includes(to.Addr()) {
				return errPrivate(host, err)
			}
			return nil
		},
	}
	if deadline, ok := ctx.Deadline(); ok && len(addrs) > 1 { // leave time for the other addresses
		d.Timeout = min(d.Timeout, max(time.Until(deadline)/time.Duration(len(addrs)), time.Second))
	}
	var failed []error
	for _, addr := range addrs {
		conn, err := d.DialContext(ctx, network, net.JoinHostPort(addr.String(), port))
		if err == nil {
			return conn, nil
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failed...)
}
