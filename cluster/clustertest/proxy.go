package clustertest

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Proxy stands before the real API server, for what that one does not do on request: to refuse for now, to lose an answer, not to answer at all.
type Proxy struct {
	// Kubeconfig leads to the proxy, as the user that it was made for.
	Kubeconfig string

	mu     sync.Mutex
	handle func(w http.ResponseWriter, r *http.Request, next http.Handler)
	server *httptest.Server
}

// Proxy makes one that passes everything on. The user is impersonated; "" is the administrator.
func (s *Server) Proxy(t testing.TB, user string) *Proxy {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig("admin"))
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	next := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p := &Proxy{Kubeconfig: filepath.Join(t.TempDir(), "proxy.kubeconfig")}
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		handle := p.handle
		p.mu.Unlock()
		if handle != nil {
			handle(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	p.server.Config.ErrorLog = nil
	p.server.StartTLS()
	t.Cleanup(func() { p.Handle(nil); p.Close() })
	as := map[string]any{}
	if user != "" {
		as["as"] = user
	}
	text, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "proxy",
		"contexts": []any{map[string]any{"name": "proxy", "context": map[string]any{"cluster": "proxy", "user": "proxy"}}},
		"users":    []any{map[string]any{"name": "proxy", "user": as}},
		"clusters": []any{map[string]any{"name": "proxy", "cluster": map[string]any{
			"server": p.server.URL, "certificate-authority-data": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw}),
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Kubeconfig, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// Handle answers instead of the API server, which is next; nil passes everything on.
func (p *Proxy) Handle(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handle = f
}

// Close ends the proxy: nobody answers there any more.
func (p *Proxy) Close() {
	p.server.CloseClientConnections()
	p.server.Close()
}

// Cut breaks all connections that are open, watches among them. New ones are taken.
func (p *Proxy) Cut() { p.server.CloseClientConnections() }

// Hang takes requests from now on and answers none.
func (p *Proxy) Hang(testing.TB) {
	p.Handle(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() })
}

// Limit refuses requests from now on, for so many seconds each.
func (p *Proxy) Limit(seconds string) {
	p.Handle(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Retry-After", seconds)
		w.WriteHeader(http.StatusTooManyRequests)
	})
}

// Lose does what the next request with this method asks for, and loses its answer.
func (p *Proxy) Lose(method string) {
	var once sync.Once
	p.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		lost := false
		if r.Method == method {
			once.Do(func() { lost = true })
		}
		if lost {
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
}
