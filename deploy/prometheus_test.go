//go:build linux

package deploy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

const (
	rules     = "prometheus/slipway.rules.yaml"
	dashboard = "grafana/slipway.json"
)

func TestAlertsTellWhatTheyShould(t *testing.T) {
	t.Parallel()
	promtool := tool(t, "promtool", "prometheus")
	for _, args := range [][]string{{"check", "rules", filepath.Base(rules)}, {"test", "rules", "slipway.rules_test.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = filepath.Dir(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	tests, err := os.ReadFile("prometheus/slipway.rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range alerts(t) {
		if !strings.Contains(string(tests), r.Alert) {
			t.Errorf("%s is tried by no test", r.Alert)
		}
		if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s does not say how bad it is, what it is, and what to do", r.Alert)
		}
	}
}

type alert struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []alert } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// panels gives the queries of the dashboard by the titles of their panels.
func panels(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(dashboard)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	out, taken, ids := map[string][]string{}, map[[2]int]string{}, map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if at := [2]int{x, y}; taken[at] != "" {
					t.Fatalf("the panels %q and %q lie on each other", p.Title, taken[at])
				} else {
					taken[at] = p.Title
				}
			}
		}
		for _, q := range p.Targets {
			out[p.Title] = append(out[p.Title], q.Expr)
		}
	}
	return out
}

// The queries of the dashboard are read by Prometheus' own parser, as rules.
func TestQueriesOfTheDashboardAreWellFormed(t *testing.T) {
	t.Parallel()
	promtool := tool(t, "promtool", "prometheus")
	var list []map[string]any
	for title, queries := range panels(t) {
		for _, q := range queries {
			list = append(list, map[string]any{"record": fmt.Sprintf("query:%d", len(list)), "expr": strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*").Replace(q), "labels": map[string]string{"panel": title}})
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": list}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil || len(list) < 30 {
		t.Errorf("%d queries: %v\n%s", len(list), err, out)
	}
}

var (
	sample    = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? [0-9.e+NI-]`)
	labelName = regexp.MustCompile(`([a-z_]+)="`)
	selector  = regexp.MustCompile(`\b((?:slipway|go|process)_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher   = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"`)
	grouping  = regexp.MustCompile(`\bby \(([a-z_, ]+)\)`)
	named     = regexp.MustCompile(`\$labels\.([a-z_]+)`)
)

// scrape has a server do a bit of everything that is counted, and gives its metrics with the labels of each.
func scrape(t *testing.T) map[string][]string {
	t.Helper()
	s := blueprinttest.Start(t, store.SQLite, blueprinttest.Options{Blueprints: builtin.Blueprints(), Kinds: append([]provider.Kind{fake.Kind}, builtin.Providers()...), Configure: func(c *server.Config) {
		c.Providers = []server.ProviderConfig{{Name: "vendor", Type: "fake"}}
		c.Proxies = map[string]blueprint.Proxy{"far": {Target: "http://127.0.0.1:1", Permission: "proxy.far.use", Methods: []string{http.MethodGet}}}
	}})
	s.Get("/api/proxy/far/x")
	s.Get("/api/schedules").Is(200)
	var schedules blueprint.List[struct{ Name string }]
	s.Get("/api/schedules").Is(200).Into(&schedules)
	s.Post("/api/schedules/"+schedules.Items[0].Name+"/run", nil)
	var text string
	blueprinttest.Eventually(t, "a job has run", func() bool {
		text = string(s.Get("/metrics").Is(200).Body)
		return strings.Contains(text, "slipway_job_runs_total{") && strings.Contains(text, "slipway_job_run_seconds_bucket{") && strings.Contains(text, "slipway_provider_up{")
	})
	metrics := map[string][]string{}
	for _, m := range sample.FindAllStringSubmatch(text, -1) {
		for _, l := range labelName.FindAllStringSubmatch(m[2], -1) {
			metrics[m[1]] = append(metrics[m[1]], l[1])
		}
		metrics[m[1]] = append(metrics[m[1]], "job", "instance") // Prometheus' own
	}
	// These are there while there is something to tell: a job that waits, a project that was read.
	metrics["slipway_jobs_oldest_seconds"] = []string{"queue", "job", "instance"}
	metrics["slipway_provider_oldest_read_seconds"] = metrics["slipway_provider_up"]
	return metrics
}

func TestAlertsAndDashboardAskForMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	metrics := scrape(t)
	check := func(where, query string) (labels []string) {
		t.Helper()
		found := selector.FindAllStringSubmatch(query, -1)
		if len(found) == 0 && !strings.Contains(query, "vector(") {
			t.Errorf("%s asks for nothing: %s", where, query)
		}
		for _, m := range found {
			known, ok := metrics[m[1]]
			if !ok {
				t.Errorf("%s: there is no metric %s", where, m[1])
			}
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if ok && !slices.Contains(known, l[1]) {
					t.Errorf("%s: %s has no label %s; it has %v", where, m[1], l[1], known)
				}
			}
			labels = append(labels, known...)
		}
		for _, m := range grouping.FindAllStringSubmatch(query, -1) {
			for l := range strings.SplitSeq(m[1], ", ") {
				if !slices.Contains(labels, l) {
					t.Errorf("%s: nothing in it has the label %s: %s", where, l, query)
				}
			}
		}
		return labels
	}
	for title, queries := range panels(t) {
		for _, q := range queries {
			check("panel "+title, q)
		}
	}
	for _, a := range alerts(t) {
		labels := check("alert "+a.Alert, a.Expr)
		for _, text := range a.Annotations {
			for _, m := range named.FindAllStringSubmatch(text, -1) {
				if !slices.Contains(labels, m[1]) {
					t.Errorf("alert %s tells of a label %s, which nothing in it has", a.Alert, m[1])
				}
			}
		}
	}
	guide, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range metrics {
		if base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count"); strings.HasPrefix(name, "slipway_") && !strings.Contains(string(guide), "`"+base+"`") {
			t.Errorf("docs/operations.md does not say what %s tells", base)
		}
	}
	if len(metrics) < 40 {
		t.Errorf("only %d metrics were found", len(metrics))
	}
}
