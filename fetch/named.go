package fetch

import (
	"net/http"
	"net/url"

	"github.com/slipway-platform/slipway"
)

// Transport returns a transport to the one server of an address, for a proxy: it connects to that host and port and to nothing else, with the authorities and the
// proxy of the configuration. named says that an operator wrote the address, which opens private addresses as a pattern of Config.Allow would; one that
// was not must be allowed there. The caller closes its idle connections, and bounds the time of each request.
func (f *Fetcher) Transport(rawURL string, named bool) (*http.Transport, error) {
	g := &Fetcher{cfg: f.cfg, allow: f.allow, roots: f.roots, proxy: f.proxy, lookup: f.lookup}
	if u, err := url.Parse(rawURL); err == nil && named {
		if p, err := parsePattern(u.Scheme + "://" + u.Host + "/*"); err == nil { // else check says what is wrong
			g.allow = []pattern{p}
		}
	}
	t, err := g.check(rawURL)
	if err != nil {
		return nil, err
	}
	if t.scheme == "git" {
		return nil, slipway.Errorf(slipway.Invalid, "%s is a repository; a proxy needs an https:// or http:// address", t)
	}
	transport := g.transport(t.reach)
	transport.MaxIdleConnsPerHost = 64
	transport.DisableCompression = true // what the caller accepts is what the target is told
	return transport, nil
}
