package provider_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// secured is a server whose certificate is its own authority.
func secured(t *testing.T, change func(*x509.Certificate)) (address string, authority provider.Certificates) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) }))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of each handshake that failed
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, provider.Certificates(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// trust is what a server does for Env.Trust, without its guard.
func trust(c provider.Certificates) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(c))
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func TestAConfigTrustsAuthoritiesOfItsOwnAndFaultsAreTold(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	asIs := func(*x509.Certificate) {}
	for name, tt := range map[string]struct {
		change  func(*x509.Certificate)
		trusted bool
		address string
		want    string // in the error; "": none
	}{
		"its authority is trusted":     {change: asIs, trusted: true},
		"its authority is not trusted": {change: asIs, want: "put the authority's certificate into `caCertificates`"},
		"it is for another name":       {change: func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"ci.example.com"} }, trusted: true, want: "is not for 127.0.0.1"},
		"it has expired":               {change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, trusted: true, want: "has expired on "},
		"it is of the future":          {change: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }, trusted: true, want: "set the clocks right"},
		"there is none":                {change: asIs, address: strings.Replace(plain.URL, "http:", "https:", 1), want: "use http:// in `url`"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, authority := secured(t, tt.change)
			if tt.address != "" {
				address = tt.address
			}
			env := provider.Env{HTTP: trust(""), Trust: trust}
			if tt.trusted {
				env = env.Trusting(authority)
			}
			c, err := provider.NewClient(env, provider.ClientOptions{Vendor: "Paperboy", URL: address})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = c.JSON(t.Context(), provider.Request{Path: "/x"}, &struct{}{})
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			e, ok := errors.AsType[*slipway.Error](err)
			if !ok || e.Code != slipway.Unavailable || !strings.Contains(e.Message, tt.want) || !strings.Contains(e.Message, "127.0.0.1") && !strings.Contains(e.Message, "Paperboy") {
				t.Errorf("after %v: got %v, want it to say %q", time.Since(start), err, tt.want)
			}
		})
	}
}

func TestCertificatesAreCertificatesAndNothingElse(t *testing.T) {
	t.Parallel()
	_, one := secured(t, func(*x509.Certificate) {})
	_, two := secured(t, func(*x509.Certificate) {})
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	for name, tt := range map[string]struct {
		text string
		want string // of the fault; "": none
	}{
		"one":                       {text: string(one)},
		"several":                   {text: string(one) + "\n" + string(two)},
		"with what stands between":  {text: "# our authority\n" + string(one) + "subject: CN=x\n" + string(two) + "# end\n"},
		"with other line ends":      {text: strings.ReplaceAll(string(one), "\n", "\r\n")},
		"nothing":                   {text: ""},
		"a path":                    {text: "/etc/ssl/ca.pem", want: "holds no certificate"},
		"a replacement in the API":  {text: "${file:/etc/passwd}", want: "holds no certificate"},
		"a private key":             {text: string(one) + key, want: "part 2 is no certificate"},
		"broken off":                {text: string(one[:len(one)-40]), want: "broken off"},
		"no certificate in the PEM": {text: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), want: "certificate 1 cannot be read"},
	} {
		var config struct {
			CA provider.Certificates `json:"caCertificates"`
		}
		raw, err := json.Marshal(map[string]string{"caCertificates": tt.text})
		if err != nil {
			t.Fatal(err)
		}
		err = provider.Decode(raw, &config)
		if tt.want == "" && (err != nil || string(config.CA) != tt.text) {
			t.Errorf("%s: got %q, %v", name, config.CA, err)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), "caCertificates: ") || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want it to say %q", name, err, tt.want)
		}
	}
}
