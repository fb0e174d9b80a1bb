package fetch

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/slipway-platform/slipway"
)

// Config says what may be read. Its zero value allows nothing; DefaultConfig is what holds where nothing
// is said.
type Config struct {
	Allow     []string         `yaml:"allow" doc:"Addresses that may be read, as patterns: https://* is every host on the usual port, https://*.example.com/* the hosts below one, http://127.0.0.1:7199/* one server. A private address must be named by its own pattern"`
	FileRoots []string         `yaml:"fileRoots" doc:"Folders that file targets and file:// repositories may lie in; empty: no files"`
	MaxBytes  slipway.Size     `yaml:"maxBytes" doc:"Largest document that is read, after decompression; repositories have limits of their own"`
	Timeout   slipway.Duration `yaml:"timeout" doc:"Longest time that reading one document may take, redirects included"`
	CAFile    string           `yaml:"caFile" doc:"PEM file with certificates that are trusted besides the system's"`
	Proxy     string           `yaml:"proxy" doc:"Proxy for http and https, such as http://proxy.example.com:3128. It looks names up itself, so that private addresses must be refused there too. The environment's proxy variables are not read"`
}

// DefaultConfig allows https on every public host, documents of 10 MiB, 20 seconds, and no files.
func DefaultConfig() Config {
	return Config{Allow: []string{"https://*"}, MaxBytes: 10 << 20, Timeout: slipway.Duration(20 * time.Second)}
}

// Validate reports all faults together, each with its key.
func (c Config) Validate() error {
	_, err := c.build()
	return err
}

// build checks c and makes of it what the Fetcher works with.
func (c Config) build() (*Fetcher, error) {
	f := &Fetcher{cfg: c}
	var faults []error
	fault := func(key, format string, args ...any) {
		faults = append(faults, fmt.Errorf("fetch."+key+": "+format, args...))
	}
	for i, text := range c.Allow {
		p, err := parsePattern(text)
		if err != nil {
			fault(fmt.Sprintf("allow[%d]", i), "%w", err)
			continue
		}
		f.allow = append(f.allow, p)
	}
	for i, root := range c.FileRoots {
		if !filepath.IsAbs(root) {
			fault(fmt.Sprintf("fileRoots[%d]", i), "%q must be an absolute path", root)
		}
	}
	if c.MaxBytes < 0 {
		fault("maxBytes", "%d is negative", int64(c.MaxBytes))
	} else if c.MaxBytes == 0 {
		f.cfg.MaxBytes = DefaultConfig().MaxBytes
	}
	if c.Timeout < 0 {
		fault("timeout", "%s is negative", c.Timeout)
	} else if c.Timeout == 0 {
		f.cfg.Timeout = DefaultConfig().Timeout
	}
	if c.CAFile != "" {
		roots := f.pool()
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			fault("caFile", "%w", err)
		} else if !roots.AppendCertsFromPEM(pem) {
			fault("caFile", "%s holds no certificate in PEM form", c.CAFile)
		}
		f.roots = roots
	}
	if c.Proxy != "" {
		u, err := url.Parse(c.Proxy)
		switch {
		case err != nil || u.Host == "":
			fault("proxy", "this is no address; write it like http://proxy.example.com:3128")
		case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5":
			fault("proxy", "the scheme %q is not http, https or socks5", u.Scheme)
		default:
			f.proxy = u
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return f, nil
}
