// Command kubesrv runs a real kube-apiserver with a real etcd in one process, for tests. It makes its own certificate authority, listens on
// loopback only, writes kubeconfig files into -dir, and prints one line of JSON when /readyz answers. Started again on the same -dir it comes back
// as it was: same address, same credentials, same data. It ends on SIGTERM and, with -stdin, when its standard input is closed. Under the
// name kube-controller-manager it is that program, which ends with its standard input too.
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

// controllers is the name under which this program is the kube-controller-manager.
const controllers = "kube-controller-manager"

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	if filepath.Base(os.Args[0]) == controllers {
		go endWithInput(func() {})
		os.Exit(cli.Run(kcm.NewControllerManagerCommand()))
	}
	dir := flag.String("dir", "", "directory for etcd's data, certificates and kubeconfig files; empty or missing, or that of a server before")
	users := flag.String("users", "", "more users with a token each: name[:group][:group]..., comma separated; each gets a kubeconfig file")
	stdin := flag.Bool("stdin", false, "end when standard input is closed")
	temporary := flag.Bool("rm", false, "with -stdin: remove the directory at the end")
	var extra list
	flag.Var(&extra, "apiserver", "one more argument for kube-apiserver (may be repeated)")
	flag.Parse()
	if *dir == "" {
		fatal(fmt.Errorf("-dir is required"))
	}
	if *stdin {
		go endWithInput(func() {
			if *temporary {
				_ = os.RemoveAll(*dir)
				_ = os.RemoveAll(*dir) // what was written in between
			}
		})
	}
	start := time.Now()
	check(os.MkdirAll(*dir, 0o700))
	file := func(name string) string { return filepath.Join(*dir, name) }

	etcd, err := startEtcd(file("etcd"))
	check(err)
	admin := file("admin.kubeconfig")
	if _, err := os.Stat(admin); err != nil {
		check(prepare(*dir, *users))
	}
	config, err := clientcmd.BuildConfigFromFlags("", admin)
	check(err)
	host, err := url.Parse(config.Host)
	check(err)

	argv := append([]string{
		"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--secure-port=" + host.Port(),
		"--tls-cert-file=" + file("serving.crt"),
		"--tls-private-key-file=" + file("serving.key"),
		"--client-ca-file=" + file("ca.crt"),
		"--token-auth-file=" + file("tokens.csv"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + file("sa.key"),
		"--service-account-signing-key-file=" + file("sa.key"),
		"--service-cluster-ip-range=10.0.0.0/24",
		"--authorization-mode=RBAC",
		"--endpoint-reconciler-type=none", // no Endpoints object may name a loopback address
		"--allow-privileged=true",
		"--cert-dir=" + *dir,
	}, extra...)
	go func() {
		check(waitReady(config))
		line, _ := json.Marshal(map[string]any{"ready": true, "host": config.Host, "pid": os.Getpid(), "ready_ms": time.Since(start).Milliseconds()})
		fmt.Println(string(line))
	}()
	cmd := app.NewAPIServerCommand()
	cmd.SetArgs(argv)
	check(cmd.ExecuteContext(context.Background()))
}

// endWithInput ends the process when whoever started it is gone.
func endWithInput(last func()) {
	_, _ = io.Copy(io.Discard, os.Stdin)
	last()
	os.Exit(0)
}

// prepare makes what a server has for good: its authority, its certificates, its port and who may come in.
func prepare(dir, users string) error {
	ca, err := newCA()
	if err != nil {
		return err
	}
	serving, servingKey, err := ca.issue("kubesrv", nil, true)
	if err != nil {
		return err
	}
	saKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	admin, adminKey, err := ca.issue("admin", []string{"system:masters"}, false)
	if err != nil {
		return err
	}
	check(ca.write(dir, "ca", ca.cert, ca.key))
	check(ca.write(dir, "serving", serving, servingKey))
	check(ca.write(dir, "sa", nil, saKey))
	host := fmt.Sprintf("https://127.0.0.1:%d", freePort())
	var tokens strings.Builder
	for _, u := range strings.FieldsFunc(users, func(r rune) bool { return r == ',' }) {
		p := strings.Split(u, ":")
		var b [16]byte
		_, _ = rand.Read(b[:])
		tok := hex.EncodeToString(b[:])
		fmt.Fprintf(&tokens, "%s,%s,%s,%q\n", tok, p[0], p[0], strings.Join(p[1:], ","))
		check(ca.kubeconfig(filepath.Join(dir, p[0]+".kubeconfig"), host, p[0], &clientcmdapi.AuthInfo{Token: tok}))
	}
	if tokens.Len() == 0 {
		tokens.WriteString("unused,nobody,nobody\n") // the server wants a line
	}
	check(os.WriteFile(filepath.Join(dir, "tokens.csv"), []byte(tokens.String()), 0o600))
	return ca.kubeconfig(filepath.Join(dir, "admin.kubeconfig"), host, "admin", &clientcmdapi.AuthInfo{ // last: it says that all is there
		ClientCertificateData: pemOf("CERTIFICATE", admin.Raw),
		ClientKeyData:         keyPEM(adminKey),
	})
}

// startEtcd runs an etcd member in this process, without fsync: its data need
// not outlive the test.
func startEtcd(dir string) (string, error) {
	any0, _ := url.Parse("http://127.0.0.1:0")
	c := embed.NewConfig()
	c.Dir = dir
	c.LogLevel = "error"
	c.UnsafeNoFsync = true
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*any0}, []url.URL{*any0}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*any0}, []url.URL{*any0}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	e, err := embed.StartEtcd(c)
	if err != nil {
		return "", err
	}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return "", err
	case <-time.After(time.Minute):
		return "", fmt.Errorf("etcd was not ready in a minute")
	}
	return "http://" + e.Clients[0].Addr().String(), nil
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("kubesrv-ca", nil)
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

func (a *authority) issue(cn string, orgs []string, server bool) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := template(cn, orgs)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if server {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 0, 1)}
		t.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func template(cn string, orgs []string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: cn, Organization: orgs},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func (a *authority) write(dir, name string, cert *x509.Certificate, key crypto.PrivateKey) error {
	if cert != nil {
		if err := os.WriteFile(filepath.Join(dir, name+".crt"), pemOf("CERTIFICATE", cert.Raw), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, name+".key"), keyPEM(key), 0o600)
}

func (a *authority) kubeconfig(file, host, name string, who *clientcmdapi.AuthInfo) error {
	c := clientcmdapi.NewConfig()
	c.Clusters["test"] = &clientcmdapi.Cluster{Server: host, CertificateAuthorityData: pemOf("CERTIFICATE", a.cert.Raw)}
	c.AuthInfos[name] = who
	c.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: name}
	c.CurrentContext = "test"
	return clientcmd.WriteToFile(*c, file)
}

func waitReady(config *rest.Config) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	client.Timeout = 5 * time.Second
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if resp, err := client.Get(config.Host + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	return fmt.Errorf("kube-apiserver was not ready in two minutes")
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func keyPEM(key crypto.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	check(err)
	return pemOf("PRIVATE KEY", der)
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func check(err error) {
	if err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "kubesrv:", err)
	os.Exit(1)
}
