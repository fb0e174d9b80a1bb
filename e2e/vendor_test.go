package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/slipway-platform/slipway/store"
)

// TestProcessesKeepAwayFromAVendorTogether has a vendor say to one process that it takes no more for an hour: then no other asks, one that starts later among them.
func TestProcessesKeepAwayFromAVendorTogether(t *testing.T) {
	t.Parallel()
	var enough atomic.Bool
	var asked atomic.Int64
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if enough.Load() {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"total_count":0,"workflow_runs":[]}`))
	}))
	t.Cleanup(vendor.Close)
	in := install(t, store.Postgres)
	config, err := os.ReadFile(in.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, in.config, string(config)+fmt.Sprintf("  - {name: github, type: github, url: %q, interval: 10s}\n", vendor.URL))
	write(t, filepath.Join(in.dir, "catalog", "catalog-info.yaml"), `apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: web, annotations: {github.com/project-slug: octo/hello}}
spec: {type: service, lifecycle: production, owner: group:default/team}
`)
	one, other := in.serve(), in.serve()
	one.eventually("the project is read", func() bool {
		var p struct {
			Sources []struct {
				State string `json:"state"`
			} `json:"sources"`
		}
		return one.do("GET", search, nil, &p) == 200 && len(p.Sources) == 1 && p.Sources[0].State == "fresh"
	})

	// check asks the vendor through a process, and says whether it was asked and whether it was said to take no more.
	check := func(r *replica) (sent, limited bool) {
		t.Helper()
		before := asked.Load()
		var d struct {
			Findings []struct {
				What, State, Text string
			} `json:"findings"`
		}
		if status := r.do("POST", "/api/providers/github/check", nil, &d); status != 200 {
			t.Fatalf("check: status %d", status)
		}
		for _, f := range d.Findings {
			limited = limited || f.What == "credential" && f.State == "warning" && strings.Contains(f.Text, "no more requests")
		}
		return asked.Load() > before, limited
	}
	if sent, limited := check(other); !sent || limited {
		t.Fatalf("before the limit: sent %t, limited %t", sent, limited)
	}
	enough.Store(true)
	if _, limited := check(one); !limited {
		t.Fatal("the vendor's refusal is not seen")
	}
	other.eventually("the other process knows without asking", func() bool {
		sent, limited := check(other)
		return !sent && limited
	})
	if status := one.end(); status != 0 {
		t.Errorf("the server ended with status %d: %s", status, one.log)
	}
	total := asked.Load()
	late := in.serve()
	late.eventually("one that starts later knows", func() bool {
		_, limited := check(late)
		return limited
	})
	for range 5 {
		check(late)
		check(other)
	}
	if n := asked.Load(); n != total {
		t.Errorf("the vendor was asked %d more times within the hour", n-total)
	}
}
