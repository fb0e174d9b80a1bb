package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/store"
)

// deployed is a deployment as the API answers it, in its wrapping.
type deployed struct {
	Data struct {
		ID         string `json:"deploy-id"`
		Status     string `json:"status"`
		LongStatus string `json:"long-status"`
		Builds     map[string]struct {
			ID         string `json:"build-id"`
			Status     string `json:"status"`
			LongStatus string `json:"long-status"`
		} `json:"builds"`
	} `json:"data"`
}

func (d deployed) count(f func(id, status string) bool) (n int) {
	for _, b := range d.Data.Builds {
		if f(b.ID, b.Status) {
			n++
		}
	}
	return n
}

func (d deployed) ordered() int { return d.count(func(id, _ string) bool { return id != "no-id-yet" }) }
func (d deployed) in(status string) int {
	return d.count(func(_, s string) bool { return s == status })
}
func (d deployed) ended() bool { return d.Data.Status != "PENDING" && d.Data.Status != "RUNNING" }

const killedComponents = 12

// steps are the points of a deployment at which the server is killed: as soon as a look shows it there.
var steps = []struct {
	name   string
	cancel bool // it is cancelled first
	there  func(d deployed) bool
}{
	{"it was created", false, func(deployed) bool { return true }},
	{"it is running", false, func(d deployed) bool { return d.Data.Status == "RUNNING" }},
	{"the first builds are ordered", false, func(d deployed) bool { return d.ordered() > 0 }},
	{"all builds are ordered", false, func(d deployed) bool { return d.ordered() == killedComponents }},
	{"a build runs", false, func(d deployed) bool { return d.in("RUNNING") > 0 }},
	{"a build has ended", false, func(d deployed) bool { return d.in("FINISHED") > 0 }},
	{"it was cancelled at once", true, func(deployed) bool { return true }},
	{"it was cancelled while builds run", true, func(d deployed) bool { return d.in("RUNNING") > 0 }},
	{"it has ended", false, deployed.ended},
}

// TestDeploymentsKilledAtEachStep kills the server with -9 at each step of a deployment, starts it again, and looks at what became of it: it ends, as its
// builds did, each component was built once, and its beginning and its end were told once. SLIPWAY_KILLS says how many times on each engine and storage, at random steps; make
// e2e-kill sets it.
func TestDeploymentsKilledAtEachStep(t *testing.T) {
	var killed, builds atomic.Int64
	kills, random := len(steps), false
	if n, err := strconv.Atoi(os.Getenv("SLIPWAY_KILLS")); err == nil {
		kills, random = n, true
	}
	t.Run("on", func(t *testing.T) {
		for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
			for _, storage := range []string{"database", "kubernetes"} {
				part := kills
				switch { // most of a round is waiting
				case random && storage == "kubernetes":
					part = (kills + 1) / 2
				case random:
					part = (kills + 3) / 4
				}
				for first := 0; first < kills; first += part {
					t.Run(fmt.Sprintf("%s with storage %s from %d", engine, storage, first), func(t *testing.T) {
						t.Parallel()
						n, m := killAtEachStep(t, engine, storage, first, min(part, kills-first), random)
						killed.Add(int64(n))
						builds.Add(int64(m))
					})
				}
			}
		}
	})
	became := "every deployment ended right, once, and none of them ran twice"
	if t.Failed() {
		became = "not every deployment ended right; see above"
	}
	t.Logf("NOTE: killed with -9 %d times, %d builds began: %s", killed.Load(), builds.Load(), became)
}

func killAtEachStep(t *testing.T, engine store.Engine, storage string, first, kills int, random bool) (killed, builds int) {
	name := fmt.Sprintf("%s%d", engine, first)
	var kubeconfig string
	if storage == "kubernetes" {
		k := clustertest.New(t) // the tools of a cluster belong to one installation
		k.Apply(t, "../deploy/tool-crds.yaml", "../deploy/tool-rbac.yaml")
		k.MakeNamespace(t, "tool-"+name)
		kubeconfig = k.Proxy(t, "system:serviceaccount:slipway:slipway").Kubeconfig
	}
	in := install(t, engine)
	if kubeconfig != "" {
		in.configure(fmt.Sprintf("clusters: [{name: main, kubeconfig: %s}]\ntool: {storage: kubernetes}\n", kubeconfig))
	}
	r := in.serve()
	base := "/api/v1/tool/" + name
	components := map[string]any{}
	for i := range killedComponents {
		components[fmt.Sprintf("c%d", i)] = map[string]any{"build": map[string]any{"repository": "file://" + in.repo, "ref": "main"}, "run": map[string]any{"command": "serve"}}
	}
	if got := r.do("POST", base+"/config", map[string]any{"components": components}, nil); got != 200 {
		t.Fatalf("the configuration: %d", got)
	}
	built := map[string]bool{} // by id, of all deployments
	news := &news{told: map[string][]string{}}
	begun := time.Now()
	for i := range kills {
		step, delay := steps[(first+i)%len(steps)], time.Duration(0)
		if random {
			step, delay = steps[rand.IntN(len(steps))], time.Duration(rand.IntN(60))*time.Millisecond
		}
		r = killAt(t, in, r, name, built, news, step.name, step.cancel, delay, step.there)
		if t.Failed() {
			return killed, builds
		}
		killed++
	}
	if text, err := os.ReadFile(in.effects); err == nil {
		all := strings.Fields(string(text))
		builds = len(all)
		slices.Sort(all)
		if len(slices.Compact(all)) != builds {
			t.Error("a build ran twice")
		}
	}
	news.read(r)
	for id, statuses := range news.told {
		if len(statuses) != 2 {
			t.Errorf("of the deployment %s is told %v; want its beginning and its end", id, statuses)
		}
	}
	if len(news.told) != kills {
		t.Errorf("events tell of %d deployments, want %d", len(news.told), kills)
	}
	t.Logf("NOTE: %s with storage %s: killed %d times in %s; deployments name %d builds, and %d began to run", engine, storage, killed, time.Since(begun).Round(time.Second), len(built), builds)
	return killed, builds
}

// news is what events tell of deployments, by their ids.
type news struct {
	position int64
	told     map[string][]string
}

func (n *news) read(r *replica) {
	for {
		var page struct {
			Items []struct {
				Position int64 `json:"position"`
				Data     struct {
					Custom struct {
						Deployment string `json:"deployment"`
						Status     string `json:"status"`
					} `json:"customData"`
				} `json:"data"`
			} `json:"items"`
		}
		if r.do("GET", fmt.Sprintf("/api/events?limit=100&type=dev.cdeventsx.slipway-tooldeployment.*&after=%d", n.position), nil, &page) != 200 || len(page.Items) == 0 {
			return
		}
		for _, e := range page.Items {
			n.position = e.Position
			n.told[e.Data.Custom.Deployment] = append(n.told[e.Data.Custom.Deployment], e.Data.Custom.Status)
		}
	}
}

func killAt(t *testing.T, in *installation, r *replica, tool string, built map[string]bool, news *news, name string, cancel bool, delay time.Duration, there func(deployed) bool) *replica {
	base := "/api/v1/tool/" + tool
	var d deployed
	if got := r.do("POST", base+"/deploy?force-build=true", nil, &d); got != 200 {
		t.Errorf("%s: the deployment: %d", name, got)
		return r
	}
	at := base + "/deploy/" + d.Data.ID
	r.eventually(name, func() bool { return there(d) || r.do("GET", at, nil, &d) == 200 && (there(d) || d.ended()) })
	cancelled := cancel && r.do("PUT", at+"/cancel", nil, nil) == 200
	if delay > 0 {
		<-time.After(delay)
	}
	r.kill()

	r = in.serve()
	r.eventually("the deployment that was killed when "+name+" has ended", func() bool {
		d = deployed{}
		return r.do("GET", at, nil, &d) == 200 && d.ended()
	})
	if len(d.Data.Builds) != killedComponents {
		t.Errorf("%s: it has %d components", name, len(d.Data.Builds))
	}
	want := "FINISHED"
	if d.in("ERROR") > 0 {
		want = "ERROR"
	}
	if cancelled {
		want = "CANCELLED"
	}
	if d.Data.Status != want {
		t.Errorf("%s: it ended %s (%s), want %s: %+v", name, d.Data.Status, d.Data.LongStatus, want, d.Data.Builds)
	}
	for component, b := range d.Data.Builds {
		switch {
		case b.Status == "PENDING" || b.Status == "RUNNING":
			t.Errorf("%s: the build of %s is left %s", name, component, b.Status)
		case b.ID == "no-id-yet" && !cancelled:
			t.Errorf("%s: %s was not built: %+v", name, component, b)
		case b.ID != "no-id-yet":
			if built[b.ID] {
				t.Errorf("%s: %s has the build of another", name, component)
			}
			built[b.ID] = true
		}
	}
	last := map[string]string{"FINISHED": "successful", "ERROR": "failed", "CANCELLED": "cancelled"}[want]
	r.eventually("it is told of the deployment that was killed when "+name, func() bool {
		news.read(r)
		return len(news.told[d.Data.ID]) >= 2
	})
	if got := news.told[d.Data.ID]; !slices.Equal(got, []string{"pending", last}) {
		t.Errorf("%s: told is %v, want pending and %s", name, got, last)
	}
	// Each component was built once for each deployment, and the builder says of it what the deployment says.
	r.eventually("the builds of the deployment that was killed when "+name+" are those of its components", func() bool {
		for component, b := range d.Data.Builds {
			var p page
			if r.do("GET", "/api/build/by-entity/component:tool-"+tool+"/"+component+"/search?limit=100", nil, &p) != 200 {
				return false
			}
			for _, item := range p.Items {
				id := strings.TrimPrefix(item.ID, "ci:")
				if !built[id] && b.Status != "CANCELLED" {
					t.Errorf("%s: %s was built a second time: %s is %s (%s)", name, component, item.ID, item.Status, item.Detail)
					return true
				}
				if item.Status == "starting" || item.Status == "running" {
					return false
				}
			}
		}
		return true
	})
	return r
}
