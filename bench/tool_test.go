//go:build bench

package bench

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/tool"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

const (
	toolPace    = 2 * time.Second         // of the builder: a build waits so long, and then runs so long
	toolRefresh = 1500 * time.Millisecond // the interval of refreshes
)

// TestTools takes the numbers of tools, with a builder in memory whose builds take 4 s: how long POST deploy takes with 50 components, how many of them are
// built at a time, and GET of a deployment while 1,000 tools deploy at once, all of them in the database, and 200 of them in a cluster whose API server shares the cores. A
// replica has one storage, so the other 800 are another replica's then, in the same process. BENCH_TOOLS is another number than 1,000.
func TestTools(t *testing.T) {
	tools := number("BENCH_TOOLS", 1000)
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Run("one", func(t *testing.T) {
				y := openYard(t, engine, nil)
				y.posts(t)
				y.parallel(t, 0)
				y.parallel(t, 20)
			})
			t.Run("database", func(t *testing.T) {
				y := openYard(t, engine, nil)
				y.configure(t, tools)
				y.atOnce(t, "deployments")
			})
			t.Run("cluster", func(t *testing.T) {
				k := clustertest.Shared(t)
				k.Apply(t, "../deploy/tool-crds.yaml", "../deploy/tool-rbac.yaml")
				in, beside := openYard(t, engine, k), openYard(t, engine, nil)
				in.configure(t, tools/5)
				beside.configure(t, tools-tools/5)
				var wg sync.WaitGroup
				var fifth, rest []time.Duration
				wg.Go(func() { fifth = in.atOnce(t, "deployments in a cluster, beside four times as many in the database,") })
				wg.Go(func() { rest = beside.atOnce(t, "deployments in the database, beside those in a cluster,") })
				wg.Wait()
				// Each tool read equally often: of the cluster's reads, which were more for each tool, as many as a fifth has, over the whole time.
				all, n := rest, len(rest)/4
				for i := range n {
					all = append(all, fifth[i*len(fifth)/n])
				}
				t.Logf("NUMBER tools %s: GET of all %d, a fifth of them in a cluster, %d reads: median %v, p99 %v", engine, tools, len(all), quantile(slices.Clone(all), 0.5), quantile(all, 0.99))
			})
		})
	}
}

// toolYard is a replica with a builder.
type toolYard struct {
	*blueprinttest.Server
	engine store.Engine
	v      *fake.Vendor
	kube   *clustertest.Server
	prefix string
	tools  int

	components int // whose builds have been looked for
}

func openYard(t *testing.T, engine store.Engine, k *clustertest.Server) *toolYard {
	y := &toolYard{engine: engine, v: fake.New(fake.Config{Pace: slipway.Duration(toolPace)}), kube: k, prefix: fmt.Sprintf("b%d-", time.Now().UnixMilli()%1_000_000)}
	y.Server = blueprinttest.Start(t, engine, blueprinttest.Options{
		Blueprints: []blueprint.Blueprint{build.Blueprint, catalog.Blueprint, tool.Blueprint}, Kinds: []provider.Kind{y.v.Kind()},
		Configure: func(c *server.Config) {
			c.Providers = []server.ProviderConfig{{Name: "yard", Type: "fake"}}
			s := c.Sections["tool"].(*tool.Settings)
			s.Builder = "yard"
			if k != nil {
				c.Clusters = []cluster.Config{{Name: "main", Kubeconfig: k.Kubeconfig("admin")}}
				s.Storage, s.Cluster = "kubernetes", "main"
			}
		},
	})
	return y
}

func (y *toolYard) name(i int) string { return fmt.Sprintf("%st%d", y.prefix, i) }
func (y *toolYard) at(i int) string   { return "/api/v1/tool/" + y.name(i) }

func toolConfig(n int) string {
	var parts []string
	for i := range n {
		parts = append(parts, fmt.Sprintf(`"c%d":{"build":{"repository":"https://git.example.com/c%d.git","ref":"0123456789abcdef0123456789abcdef01234567"},"run":{"command":"serve"}}`, i, i))
	}
	return `{"components":{` + strings.Join(parts, ",") + `}}`
}

// each does something for each of n, eight at a time.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// looked waits until what follows of new configurations has been done: their components are entities, and the builds of each have been looked for.
func (y *toolYard) looked(t *testing.T, components int) {
	y.components += components
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if lists, _ := y.v.Lists(); lists >= y.components {
			return
		}
	}
	t.Fatal("not all components were looked at within three minutes")
}

func (y *toolYard) configure(t *testing.T, tools int) {
	y.tools = tools
	each(tools, func(i int) {
		if y.kube != nil {
			y.kube.MakeNamespace(t, provider.ToolNamespace(y.name(i)))
		}
		y.Post(y.at(i)+"/config", toolConfig(3)).Is(200)
	})
	y.looked(t, 3*tools)
}

type toolDeployment struct {
	Data struct {
		ID     string `json:"deploy-id"`
		Status string
		Builds map[string]struct{ Status string }
	}
}

func (y *toolYard) deploy(i int, query string) (id string, took time.Duration) {
	var d toolDeployment
	begun := time.Now()
	a := y.Post(y.at(i)+"/deploy"+query, nil)
	took = time.Since(begun)
	a.Is(200).Into(&d)
	return d.Data.ID, took
}

func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))].Round(10 * time.Microsecond)
}

// posts measures POST deploy with 50 components, of 40 tools: each when the one before has been started whole, and then all of them again, one directly after the other,
// while builds of those before are being started.
func (y *toolYard) posts(t *testing.T) {
	const tools, components = 40, 50
	for i := range tools {
		y.Post(y.at(i)+"/config", toolConfig(components)).Is(200)
	}
	y.looked(t, tools*components)
	var alone, burst []time.Duration
	ids := make([]string, tools)
	for i := range tools {
		id, took := y.deploy(i, "")
		ids[i], alone = id, append(alone, took)
		for started := 0; started < (i+1)*components; started, _ = y.v.Ordered() {
			time.Sleep(5 * time.Millisecond)
		}
	}
	for i := range tools {
		for !y.ended(i, ids[i]) {
			time.Sleep(100 * time.Millisecond)
		}
	}
	for i := range tools {
		_, took := y.deploy(i, "?force-build=true")
		burst = append(burst, took)
	}
	t.Logf("NUMBER tools %s: POST deploy with 50 components: median %v, p95 %v; 40 of them in a row, while builds are started: median %v, p95 %v", y.engine,
		quantile(alone, 0.5), quantile(alone, 0.95), quantile(burst, 0.5), quantile(burst, 0.95))
}

func (y *toolYard) ended(i int, id string) bool {
	var d toolDeployment
	y.Get(y.at(i) + "/deploy/" + id).Is(200).Into(&d)
	return d.Data.Status != "PENDING" && d.Data.Status != "RUNNING"
}

// parallel says how many builds of 50 go on at a time.
func (y *toolYard) parallel(t *testing.T, room int) {
	y.v.Room(room)
	i := 1000 + room
	y.Post(y.at(i)+"/config", toolConfig(50)).Is(200)
	y.looked(t, 50)
	list := y.v.Provider().Builder.List
	begun := time.Now()
	id, _ := y.deploy(i, "")
	most, full := 0, time.Duration(0)
	for !y.ended(i, id) {
		builds, err := list(t.Context(), provider.ComponentQuery{Tool: y.name(i)})
		if err != nil {
			t.Fatal(err)
		}
		going := 0
		for _, b := range builds {
			if !b.Status.Finished() {
				going++
			}
		}
		if going > most {
			most, full = going, time.Since(begun)
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("NUMBER tools %s: 50 builds where %d may go on at a time (0: any number): %d did at most, %v after POST; all had ended after %v", y.engine, room, most, full.Round(10*time.Millisecond), time.Since(begun).Round(100*time.Millisecond))
	y.v.Room(0)
}

// atOnce deploys all tools at once, and reads each deployment again and again until all have ended, 250 times a second. It gives what each read took, as they came.
func (y *toolYard) atOnce(t *testing.T, what string) []time.Duration {
	ids := make([]string, y.tools)
	began := time.Now()
	listed := y.v.ListedAll()
	each(y.tools, func(i int) { ids[i], _ = y.deploy(i, "") })
	deploying := time.Since(began)
	begun := time.Now()
	var mu sync.Mutex
	var gets []time.Duration
	open := y.tools
	for open > 0 && time.Since(begun) < 3*time.Minute {
		open = 0
		tick := time.NewTicker(4 * time.Millisecond)
		var wg sync.WaitGroup
		for i := range y.tools {
			<-tick.C
			wg.Go(func() {
				begun := time.Now()
				a := y.Get(y.at(i) + "/deploy/" + ids[i])
				took := time.Since(begun)
				if a.Status != http.StatusOK {
					t.Errorf("got %d: %s", a.Status, a.Body)
				}
				mu.Lock()
				defer mu.Unlock()
				if !strings.Contains(string(a.Body), `"status":"FINISHED","builds"`) {
					open++
				}
				gets = append(gets, took)
			})
		}
		wg.Wait()
		tick.Stop()
	}
	listed = y.v.ListedAll() - listed
	t.Logf("NUMBER tools %s: %d %s were asked for in %v and had all ended after %v more; GET meanwhile, %d reads: median %v, p99 %v; %d lists for all in %d intervals", y.engine, y.tools, what,
		deploying.Round(time.Millisecond), time.Since(begun).Round(100*time.Millisecond), len(gets), quantile(slices.Clone(gets), 0.5), quantile(slices.Clone(gets), 0.99), listed, int(time.Since(began)/toolRefresh)+1)
	return gets
}
