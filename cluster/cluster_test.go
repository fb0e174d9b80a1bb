package cluster_test

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
)

var configMaps = cluster.Resource{Version: "v1", Name: "configmaps"}

func configMap(name string, data map[string]any) cluster.Object {
	return cluster.Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "labels": map[string]any{"app": "test"}}, "data": data}
}

// is checks an error's code and that its message says what it should.
func is(t *testing.T, what string, err error, code slipway.Code, says string) {
	t.Helper()
	e, ok := errors.AsType[*slipway.Error](err)
	if !ok || e.Code != code || !strings.Contains(e.Message, says) {
		t.Errorf("%s: got %v, want %s that says %q", what, err, code, says)
	}
}

func TestObjectsAreMadeReadChangedAndDeleted(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	c, ns, ctx := s.Client(), s.Namespace(t, "objects-"), t.Context()

	made, err := c.Create(ctx, configMaps, ns, configMap("one", map[string]any{"n": "1"}))
	if err != nil || made.UID() == "" || made.ResourceVersion() == "" || made.Namespace() != ns || made.Created().IsZero() {
		t.Fatalf("got %v, %v", made, err)
	}
	_, err = c.Create(ctx, configMaps, ns, configMap("one", nil))
	is(t, "the same name again", err, slipway.Conflict, "already")

	changed := made.Clone()
	changed.Set("2", "data", "n")
	if changed, err = c.Update(ctx, configMaps, changed); err != nil || changed.Text("data", "n") != "2" {
		t.Errorf("update: %v, %v", changed, err)
	}
	if made.Text("data", "n") != "1" {
		t.Error("a clone shares what it was made of")
	}
	_, err = c.Update(ctx, configMaps, made)
	is(t, "an update of what has changed since", err, slipway.Precondition, "has changed")
	_, err = c.Patch(ctx, configMaps, ns, "one", cluster.Object{"metadata": map[string]any{"resourceVersion": made.ResourceVersion()}, "data": map[string]any{"n": "9"}})
	is(t, "a patch of what has changed since", err, slipway.Precondition, "has changed")
	if got, err := c.Patch(ctx, configMaps, ns, "one", cluster.Object{"data": map[string]any{"n": nil, "m": "3"}}); err != nil || got.Text("data", "m") != "3" || got.At("data", "n") != nil {
		t.Errorf("patch: %v, %v", got, err)
	}

	_, err = c.Create(ctx, configMaps, "no-such-namespace", configMap("one", nil))
	is(t, "no namespace", err, slipway.NotFound, `no namespace "no-such-namespace"`)
	_, err = c.Get(ctx, configMaps, ns, "two")
	is(t, "no object", err, slipway.NotFound, `"two"`)
	_, err = c.List(ctx, cluster.Resource{Group: "nothing.example.org", Version: "v1", Name: "things"}, ns, cluster.ListOptions{})
	is(t, "no such resource", err, slipway.Unsupported, "has to be installed")
	unknown := configMap("two", nil)
	unknown["colour"] = "red"
	_, err = c.Create(ctx, configMaps, ns, unknown)
	is(t, "an unknown field", err, slipway.Invalid, "colour")
	_, err = c.Create(ctx, configMaps, ns, configMap("Not A Name", nil))
	is(t, "a name that is none", err, slipway.Invalid, "Not A Name")
	if e, _ := errors.AsType[*slipway.Error](err); e == nil || len(e.Details) == 0 || e.Details[0].Field != "metadata.name" {
		t.Errorf("a name that is none: got details %+v, want metadata.name", e)
	}
	_, err = c.Create(ctx, configMaps, ns, configMap("big", map[string]any{"x": strings.Repeat("x", 1<<20+1)}))
	if code := slipway.CodeOf(err); code != slipway.Invalid && code != slipway.TooLarge {
		t.Errorf("more than 1 MiB: %v", err)
	}
	for _, name := range []string{"../secrets", "a/b", "..", "a?x=1", "a%2fb", "a#b"} {
		_, err := c.Get(ctx, configMaps, ns, name)
		is(t, name, err, slipway.NotFound, "no object can be called so")
	}
	for what, err := range map[string]error{
		"get":    func() error { _, err := c.Get(ctx, configMaps, ns, ""); return err }(),
		"delete": c.Delete(ctx, configMaps, ns, "", "", ""),
	} {
		is(t, what+" without a name", err, slipway.Invalid, "has a name")
	}

	err = c.Delete(ctx, configMaps, ns, "one", "another-uid", "")
	is(t, "delete of another object", err, slipway.Precondition, "has changed")
	if err := c.Delete(ctx, configMaps, ns, "one", made.UID(), ""); err != nil {
		t.Error(err)
	}
	is(t, "delete again", c.Delete(ctx, configMaps, ns, "one", "", ""), slipway.NotFound, `"one"`)
}

func TestListsComeInPages(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	c, ns := s.Client(), s.Namespace(t, "pages-")
	for i := range 5 {
		s.Create(t, configMaps, ns, configMap(fmt.Sprintf("m%d", i), nil))
	}
	var names []string
	o := cluster.ListOptions{Labels: "app=test", Limit: 2}
	for {
		page, err := c.List(t.Context(), configMaps, ns, o)
		if err != nil || len(page.Items) > 2 {
			t.Fatal(len(page.Items), err)
		}
		for _, i := range page.Items {
			if i.Text("kind") != "ConfigMap" {
				t.Errorf("got the kind %q", i.Text("kind"))
			}
			names = append(names, i.Name())
		}
		if o.Next = page.Next; o.Next == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "m0 m1 m2 m3 m4" {
		t.Errorf("got %s", got)
	}
	_, err := c.List(t.Context(), configMaps, ns, cluster.ListOptions{Limit: 2, Next: "nonsense"})
	is(t, "a page that never was", err, slipway.Invalid, "")
	_, err = c.List(t.Context(), configMaps, ns, cluster.ListOptions{Labels: "a=b=c"})
	is(t, "a selector that is none", err, slipway.Invalid, "")
}

func TestTheClusterDecidesWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	ns, ctx := s.Namespace(t, "rights-"), t.Context()
	alice, err := cluster.New([]cluster.Config{s.Config("prod", "alice")}).Get("")
	if err != nil {
		t.Fatal(err)
	}
	_, err = alice.Create(ctx, configMaps, ns, configMap("one", nil))
	is(t, "without a right", err, slipway.Forbidden, `the cluster "prod" does not let Slipway create configmaps`)
	is(t, "as a caller sees it", cluster.ForCaller(err), slipway.Unavailable, "does not let Slipway")
	s.Grant(t, "alice", ns, configMaps)
	if _, err := alice.Create(ctx, configMaps, ns, configMap("one", nil)); err != nil {
		t.Error(err)
	}
	if _, err := s.Client().As("alice").Get(ctx, configMaps, ns, "one"); err != nil {
		t.Errorf("the administrator as alice: %v", err)
	}
	_, err = s.Client().As("bob", "dev").Get(ctx, configMaps, ns, "one")
	is(t, "the administrator as bob", err, slipway.Forbidden, "does not let the user bob read")
	_, err = alice.As("bob").Get(ctx, configMaps, ns, "one")
	is(t, "alice as bob", err, slipway.Forbidden, "")
}

func TestQuotasAndEndingNamespacesAreToldInWords(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	s.Controllers(t)
	c, ns, ctx := s.Client(), s.Namespace(t, "quota-"), t.Context()
	s.Create(t, cluster.Resource{Version: "v1", Name: "resourcequotas"}, ns, cluster.Object{
		"apiVersion": "v1", "kind": "ResourceQuota", "metadata": map[string]any{"name": "few"}, "spec": map[string]any{"hard": map[string]any{"configmaps": "3"}},
	})
	var err error
	clustertest.Eventually(t, "the quota is used up", func() bool {
		made := configMap("", nil)
		made.Set("m-", "metadata", "generateName")
		_, err = c.Create(ctx, configMaps, ns, made)
		return err != nil && !strings.Contains(err.Error(), "status unknown") // the quota has just been made
	})
	is(t, "over quota", err, slipway.Forbidden, "the namespace has used up its quota: few")
	if !cluster.OverQuota(err) || !cluster.OverQuota(cluster.ForCaller(err)) {
		t.Errorf("%v is not seen to be of a quota", err)
	}

	held := configMap("held", nil)
	held.Set([]any{"example.org/hold"}, "metadata", "finalizers")
	other := s.Namespace(t, "ending-")
	s.Create(t, configMaps, other, held)
	if err := c.Delete(ctx, cluster.Namespaces, "", other, "", ""); err != nil {
		t.Fatal(err)
	}
	_, err = c.Create(ctx, configMaps, other, configMap("late", nil))
	is(t, "in a namespace that is being deleted", err, slipway.Conflict, "being deleted")
	if _, err := c.Patch(ctx, configMaps, other, "held", cluster.Object{"metadata": map[string]any{"finalizers": nil}}); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the namespace is gone", func() bool {
		_, err := c.Get(ctx, cluster.Namespaces, "", other)
		return errors.Is(err, slipway.NotFound)
	})
}

func TestWhatIsConfiguredIsFoundByName(t *testing.T) {
	t.Parallel()
	none := cluster.New(nil)
	_, err := none.Get("")
	is(t, "no cluster", err, slipway.Unsupported, "clusters:")
	two := cluster.New([]cluster.Config{{Name: "a", Kubeconfig: "a.yaml"}, {Name: "b", Kubeconfig: "b.yaml"}})
	_, err = two.Get("")
	is(t, "which of two", err, slipway.Invalid, "a, b")
	_, err = two.Get("c")
	is(t, "an unknown name", err, slipway.Invalid, `no cluster "c"`)
	if c, err := two.Get("b"); err != nil || c.Name() != "b" {
		t.Error(c, err)
	}
	faults := cluster.Check([]cluster.Config{{}, {Name: "a", Kubeconfig: "x"}, {Name: "a", Kubeconfig: "y"}, {Name: "b", Context: "z"}})
	var fields []string
	for _, f := range faults {
		fields = append(fields, f.Field)
	}
	if got := strings.Join(fields, " "); got != "clusters[0].name clusters[2].name clusters[3].context" {
		t.Errorf("got faults in %s", got)
	}
}

// kubeconfig writes one for a stub with TLS: without it, a token is not sent.
func kubeconfig(t *testing.T, file string, stub *httptest.Server, token string) {
	t.Helper()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stub.Certificate().Raw}))
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"x","contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}],`+
		`"clusters":[{"name":"x","cluster":{"server":%q,"certificate-authority-data":%q}}],"users":[{"name":"x","user":{"token":%q}}]}`, stub.URL, ca, token)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKubeconfigsWithFaultsAreErrorsOfTheCalls(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "kubeconfig")
	clients := cluster.New([]cluster.Config{{Name: "x", Kubeconfig: file}, {Name: "other", Kubeconfig: file, Context: "no-such"}, {Name: "pod"}})
	x, _ := clients.Get("x")
	is(t, "no file", x.Check(t.Context()), slipway.Unavailable, "cannot be read")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	is(t, "no kubeconfig", x.Check(t.Context()), slipway.Unavailable, "has a fault")

	stub := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer fresh" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"gitVersion":"v1.36.3"}`))
	}))
	defer stub.Close()
	kubeconfig(t, file, stub, "expired-secret-token")
	err := x.Check(t.Context())
	is(t, "an expired token", err, slipway.Unauthenticated, "may have expired")
	if strings.Contains(fmt.Sprintf("%+v", err), "secret") {
		t.Errorf("the token stands in the error: %+v", err)
	}
	other, _ := clients.Get("other")
	is(t, "no such context", other.Check(t.Context()), slipway.Unavailable, "no-such")
	pod, _ := clients.Get("pod")
	is(t, "no pod", pod.Check(t.Context()), slipway.Unavailable, "set `kubeconfig`")

	kubeconfig(t, file, stub, "fresh") // another length, so another file, however coarse its times
	if err := x.Check(t.Context()); err != nil {
		t.Errorf("a renewed kubeconfig is read again: %v", err)
	}
	stub.Close()
	is(t, "nobody there", x.Check(t.Context()), slipway.Unavailable, "does not answer")
}

// What a real server does not do on request.
func TestAnswersOfATroubledServer(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	release := make(chan struct{})
	defer close(release)
	var answer func(http.ResponseWriter, *http.Request)
	stub := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	defer stub.Close()
	kubeconfig(t, file, stub, "x")
	c, _ := cluster.New([]cluster.Config{{Name: "x", Kubeconfig: file}}).Get("x")
	get := func(ctx context.Context) error { _, err := c.Get(ctx, configMaps, "ns", "one"); return err }

	answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
	}
	err := get(t.Context())
	is(t, "429", err, slipway.RateLimited, "enough requests")
	if e, _ := errors.AsType[*slipway.Error](err); e.RetryAfter != 7*time.Second {
		t.Errorf("429: try again after %v, want 7 s", e.RetryAfter)
	}
	answer = func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusGatewayTimeout)
		_, _ = w.Write([]byte(`{"kind":"Status","reason":"Timeout","details":{"retryAfterSeconds":3}}`))
	}
	err = get(t.Context())
	is(t, "504", err, slipway.Unavailable, "answered 504")
	if e, _ := errors.AsType[*slipway.Error](err); e.RetryAfter != 3*time.Second {
		t.Errorf("504: try again after %v, want 3 s", e.RetryAfter)
	}
	answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>sign in</html>`)) }
	is(t, "a page of a proxy", get(t.Context()), slipway.Unavailable, "does not answer as Kubernetes does")
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the credential followed a redirect") }))
	defer elsewhere.Close()
	answer = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }
	is(t, "a redirect", get(t.Context()), slipway.Unavailable, "answered 302")
	answer = func(w http.ResponseWriter, _ *http.Request) {
		for range 65 << 10 {
			_, _ = w.Write([]byte(strings.Repeat(" ", 1<<10)))
		}
	}
	is(t, "an endless answer", get(t.Context()), slipway.TooLarge, "64 MiB")
	answer = func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := get(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that hangs: got %v, want the context's error", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := get(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: got %v", err)
	}
	if _, err := c.Logs(ended, "ns", "pod", cluster.LogOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("logs with an ended context: got %v", err)
	}
}

func TestACertificateThatNobodyVouchesForIsRefused(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	text, err := os.ReadFile(s.Kubeconfig("alice"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	lines := strings.Split(string(text), "\n")
	for i, l := range lines {
		if strings.Contains(l, "certificate-authority-data") {
			lines[i] = ""
		}
	}
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := cluster.New([]cluster.Config{{Name: "x", Kubeconfig: file}}).Get("x")
	is(t, "an unknown authority", c.Check(t.Context()), slipway.Unavailable, "does not trust")
}
