package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
)

// kept is what the caches of these tests keep of a config map.
type kept struct{ name, text string }

// follow runs a cache of the config maps of a namespace.
func follow(t *testing.T, c *cluster.Client, ns string) *cluster.Cache[kept] {
	t.Helper()
	cache := cluster.NewCache(c, configMaps, cluster.CacheOptions{Namespace: ns, Labels: "app=test"}, func(o cluster.Object) kept {
		return kept{o.Name(), o.Text("data", "text")}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- cache.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the cache ended with %v", err)
		}
	})
	return cache
}

// shows waits until a cache holds these, name=text each.
func shows(t *testing.T, cache *cluster.Cache[kept], ns string, want ...string) {
	t.Helper()
	var got []string
	clustertest.Eventually(t, fmt.Sprintf("the cache shows %q", want), func() bool {
		got = nil
		for _, k := range cache.List(ns) {
			got = append(got, k.name+"="+k.text)
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

func TestACacheFollowsTheCluster(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	c, ns, other, ctx := s.Client(), s.Namespace(t, "cache-"), s.Namespace(t, "cache-"), t.Context()
	for i := range 3 {
		s.Create(t, configMaps, ns, configMap(fmt.Sprintf("m%d", i), map[string]any{"text": "a"}))
	}
	s.Create(t, configMaps, other, configMap("other", nil))
	cache := follow(t, c, ns)
	if at, err := cache.State(); err == nil || !at.IsZero() {
		if len(cache.List(ns)) != 3 { // it may have been quick
			t.Errorf("before it is filled: got %v, %v", at, err)
		}
	}
	shows(t, cache, ns, "m0=a", "m1=a", "m2=a")
	clustertest.Eventually(t, "the cache is in step", func() bool { _, err := cache.State(); return err == nil })

	changed := cache.Changed()
	if _, err := c.Patch(ctx, configMaps, ns, "m1", cluster.Object{"data": map[string]any{"text": "b"}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(clustertest.Patience):
		t.Error("nobody was told of the change")
	}
	if err := c.Delete(ctx, configMaps, ns, "m0", "", ""); err != nil {
		t.Fatal(err)
	}
	unlabelled := configMap("m9", nil)
	delete(unlabelled["metadata"].(map[string]any), "labels")
	s.Create(t, configMaps, ns, unlabelled)
	s.Create(t, configMaps, ns, configMap("m3", map[string]any{"text": "c"}))
	shows(t, cache, ns, "m1=b", "m2=a", "m3=c")
	shows(t, cache, "", "m1=b", "m2=a", "m3=c")
	if k, ok := cache.Get(ns, "m1"); !ok || k.text != "b" {
		t.Errorf("got %v, %v", k, ok)
	}

	made := s.Create(t, configMaps, ns, configMap("m4", map[string]any{"text": "d"}))
	cache.Put(made)
	if k, ok := cache.Get(ns, "m4"); !ok || k.text != "d" {
		t.Errorf("what was just written: got %v, %v", k, ok)
	}
	if err := c.Delete(ctx, configMaps, ns, "m4", "", ""); err != nil {
		t.Fatal(err)
	}
	shows(t, cache, ns, "m1=b", "m2=a", "m3=c")
	cache.Put(made) // too late: the watch has told of its end
	shows(t, cache, ns, "m1=b", "m2=a", "m3=c")
	gone, err := c.Patch(ctx, configMaps, ns, "m3", cluster.Object{"metadata": map[string]any{"labels": map[string]any{"app": "another"}}})
	if err != nil {
		t.Fatal(err)
	}
	cache.Put(gone)
	if k, ok := cache.Get(ns, "m3"); ok {
		t.Errorf("what is not chosen any more: got %v", k)
	}
	if _, err := c.Patch(ctx, configMaps, ns, "m3", cluster.Object{"metadata": map[string]any{"labels": map[string]any{"app": "test"}}}); err != nil {
		t.Fatal(err)
	}
	shows(t, cache, ns, "m1=b", "m2=a", "m3=c")
}

func TestACacheCatchesUpWhenTheServerWasAway(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	gate, ns := s.Gate(t, "admin"), s.Namespace(t, "away-")
	c, err := cluster.New([]cluster.Config{{Name: "far", Kubeconfig: gate.Kubeconfig}}).Get("far")
	if err != nil {
		t.Fatal(err)
	}
	s.Create(t, configMaps, ns, configMap("stays", nil))
	s.Create(t, configMaps, ns, configMap("goes", nil))
	cache := follow(t, c, ns)
	shows(t, cache, ns, "goes=", "stays=")
	gate.Close()
	clustertest.Eventually(t, "the cache knows that it is alone", func() bool { _, err := cache.State(); return err != nil })
	at, err := cache.State()
	is(t, "alone", err, slipway.Unavailable, "does not answer")
	if at.IsZero() || time.Since(at) > clustertest.Patience {
		t.Errorf("in step until %v", at)
	}
	shows(t, cache, ns, "goes=", "stays=")

	if err := s.Client().Delete(t.Context(), configMaps, ns, "goes", "", ""); err != nil {
		t.Fatal(err)
	}
	s.Create(t, configMaps, ns, configMap("comes", nil))
	gate.Open(t)
	shows(t, cache, ns, "comes=", "stays=")
	clustertest.Eventually(t, "the cache is in step again", func() bool { _, err := cache.State(); return err == nil })
}

// A server that vanishes without a word, and a network that keeps the connection, leave a watch that never says anything again.
func TestACacheDoesNotWaitForEverForAWatchThatIsSilent(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	proxy, ns := s.Proxy(t, ""), s.Namespace(t, "silent-")
	c, err := cluster.New([]cluster.Config{{Name: "far", Kubeconfig: proxy.Kubeconfig}}).Get("far")
	if err != nil {
		t.Fatal(err)
	}
	silent := make(chan struct{})
	var first sync.Once
	proxy.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		hangs := false
		if r.URL.Query().Has("watch") {
			first.Do(func() { hangs = true })
		}
		if !hangs {
			next.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		close(silent)
		<-r.Context().Done()
	})
	cache := cluster.NewCache(c, configMaps, cluster.CacheOptions{Namespace: ns, Labels: "app=test"}, func(o cluster.Object) kept { return kept{name: o.Name()} })
	cache.WatchFor(time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = cache.Run(ctx) }()
	<-silent
	s.Create(t, configMaps, ns, configMap("comes", nil))
	shows(t, cache, ns, "comes=")
}

// A server that was put back to an older state has never known the version that the watch had come to.
func TestACacheReadsAllAgainWhenItsVersionIsRefused(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	proxy, ns := s.Proxy(t, ""), s.Namespace(t, "refused-")
	c, err := cluster.New([]cluster.Config{{Name: "far", Kubeconfig: proxy.Kubeconfig}}).Get("far")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	refused := ""
	proxy.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		version := r.URL.Query().Get("resourceVersion")
		if r.URL.Query().Get("watch") == "true" && (refused == "" || version == refused) {
			refused = version
			w.WriteHeader(http.StatusGatewayTimeout)
			_, _ = w.Write([]byte(`{"kind":"Status","reason":"Timeout","details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}`))
			mu.Unlock()
			return
		}
		mu.Unlock()
		next.ServeHTTP(w, r)
	})
	cache := follow(t, c, ns)
	clustertest.Eventually(t, "the cache is filled", func() bool { at, _ := cache.State(); return !at.IsZero() })
	s.Create(t, configMaps, ns, configMap("later", nil))
	shows(t, cache, ns, "later=")
}

func TestACacheOutlivesACrashOfTheServer(t *testing.T) {
	t.Parallel()
	s := clustertest.New(t)
	ns := s.Namespace(t, "crash-")
	s.Create(t, configMaps, ns, configMap("before", nil))
	cache := follow(t, s.Client(), ns)
	shows(t, cache, ns, "before=")
	s.Stop(t)
	clustertest.Eventually(t, "the cache knows that it is alone", func() bool { _, err := cache.State(); return err != nil })
	if err := s.Client().Check(t.Context()); !errors.Is(err, slipway.Unavailable) {
		t.Errorf("a server that was killed: got %v", err)
	}
	s.Start(t)
	if err := s.Client().Delete(t.Context(), configMaps, ns, "before", "", ""); err != nil {
		t.Fatal(err)
	}
	s.Create(t, configMaps, ns, configMap("after", nil))
	shows(t, cache, ns, "after=")
	if v, err := s.Client().Version(t.Context()); err != nil || !strings.HasPrefix(v, "v1.") {
		t.Errorf("got version %q, %v", v, err)
	}
}

func TestReadyWaitsForTheFirstAttempt(t *testing.T) {
	t.Parallel()
	s := clustertest.Shared(t)
	ns := s.Namespace(t, "ready-")
	s.Create(t, configMaps, ns, configMap("one", map[string]any{"text": "a"}))
	cache := follow(t, s.Client(), ns)
	if err := cache.Ready(t.Context()); err != nil || len(cache.List(ns)) != 1 {
		t.Errorf("got %v and %v", err, cache.List(ns))
	}
	refused := follow(t, s.Client().As("nobody-at-all"), ns)
	if err := refused.Ready(t.Context()); !errors.Is(err, slipway.Forbidden) {
		t.Errorf("got %v, want forbidden", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := cluster.NewCache(s.Client(), configMaps, cluster.CacheOptions{}, func(cluster.Object) kept { return kept{} }).Ready(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody fills it: got %v, want the context's error", err)
	}
}
