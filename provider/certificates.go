package provider

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/slipway-platform/slipway"
)

// Certificates are those of authorities, in PEM form, which a config trusts at its vendor besides the system's. They are text and not the name of a file: who may
// configure a provider by the API must not read files by it. In the configuration file ${file:/path} puts a file's text here.
type Certificates string

// UnmarshalText takes PEM that holds certificates and nothing else: what is left in it by mistake, such as a private key, is not stored.
func (c *Certificates) UnmarshalText(text []byte) error {
	*c = Certificates(text)
	rest := bytes.TrimSpace(text)
	for n := 1; len(rest) > 0; n++ {
		var block *pem.Block
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			// Other programs write whose certificate follows.
			_, behind, found := bytes.Cut(rest, []byte("\n-----BEGIN "))
			if !found {
				if n == 1 {
					return errors.New("holds no certificate in PEM form, which begins with -----BEGIN CERTIFICATE-----")
				}
				return nil
			}
			rest = append([]byte("-----BEGIN "), behind...)
		}
		if block, rest = pem.Decode(rest); block == nil {
			return fmt.Errorf("certificate %d is broken off, or no PEM", n)
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("part %d is no certificate; put certificates of authorities here, and nothing else", n)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d cannot be read", n)
		}
		rest = bytes.TrimSpace(rest)
	}
	return nil
}

// certificateFault is the error where no trusted connection comes about, which asking again does not mend; nil for any other cause.
func (c *Client) certificateFault(err error) error {
	host, vendor := c.base.Host, c.o.Vendor
	fault := func(format string, args ...any) error {
		return slipway.Errorf(slipway.Unavailable, format, args...).WithCause(err)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fault("the certificate of %s is of an authority that is not trusted; put the authority's certificate into `caCertificates` of this provider", vendor)
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return fault("the certificate of %s is not for %s; use a name in `url` that it is for", vendor, e.Host)
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch {
		case e.Reason == x509.Expired && e.Cert != nil && c.now().Before(e.Cert.NotBefore):
			return fault("the certificate of %s counts from %s only; set the clocks right", vendor, e.Cert.NotBefore.UTC().Format(time.DateOnly))
		case e.Reason == x509.Expired && e.Cert != nil:
			return fault("the certificate of %s has expired on %s; renew it there", vendor, e.Cert.NotAfter.UTC().Format(time.DateOnly))
		}
		return fault("the certificate of %s is not as it must be; the log says why", vendor)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fault("the certificate of %s cannot be verified; the log says why", vendor)
	}
	if _, odd := errors.AsType[tls.RecordHeaderError](err); odd || errors.Is(err, http.ErrSchemeMismatch) {
		return fault("there is no TLS at %s; use http:// in `url`, or the port that speaks it", host)
	}
	return nil
}
