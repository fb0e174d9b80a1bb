package tool_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/tool"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// place is one engine with one storage.
type place struct {
	engine     store.Engine
	kubernetes bool
	kubeconfig string // of Slipway's account in the cluster
	tool       string // whose namespace is there
}

var tools atomic.Int64

// eachPlace runs a test on both engines with both storages.
func eachPlace(t *testing.T, test func(t *testing.T, p place)) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		for _, storage := range []string{"database", "kubernetes"} {
			t.Run(string(engine)+" with storage "+storage, func(t *testing.T) {
				t.Parallel()
				p := place{engine: engine, kubernetes: storage == "kubernetes", tool: "mytool"}
				if p.kubernetes {
					k := inCluster(t)
					p.tool = fmt.Sprintf("fault%d", tools.Add(1))
					k.MakeNamespace(t, "tool-"+p.tool)
					p.kubeconfig = k.Proxy(t, "system:serviceaccount:slipway:slipway").Kubeconfig
					oneInstallation(t)
				}
				test(t, p)
			})
		}
	}
}

func inCluster(t *testing.T) *clustertest.Server {
	t.Helper()
	k := clustertest.Shared(t)
	k.Apply(t, "../../deploy/tool-crds.yaml", "../../deploy/tool-rbac.yaml")
	return k
}

// yard starts a replica there.
func (p place) yard(t *testing.T, v *fake.Vendor, database string, more func(*blueprinttest.Options)) *yard {
	t.Helper()
	y := openYard(t, p.engine, v, database, nil, func(o *blueprinttest.Options) {
		configure := o.Configure
		o.Configure = func(c *server.Config) {
			configure(c)
			if p.kubernetes {
				c.Clusters = []cluster.Config{{Name: "main", Kubeconfig: p.kubeconfig}}
				c.Sections["tool"].(*tool.Settings).Storage = "kubernetes"
			}
		}
		if more != nil {
			more(o)
		}
	})
	y.tool = p.tool
	return y
}

// jumping is a clock that goes, and that a test puts forward and back.
type jumping struct{ by atomic.Int64 }

func (j *jumping) now() time.Time       { return time.Now().Add(time.Duration(j.by.Load())) }
func (j *jumping) jump(d time.Duration) { j.by.Add(int64(d)) }

func TestAClockThatJumps(t *testing.T) {
	eachPlace(t, func(t *testing.T, p place) {
		clock := &jumping{}
		y := p.yard(t, fake.New(fake.Config{}), "", func(o *blueprinttest.Options) { o.Now = clock.now })
		ended := map[string]string{}
		// Back, while builds wait for room and while one goes on: nothing waits until the clock is there again.
		y.v.Room(1)
		d := y.deploy(t, p.tool, "a", "b", "c")
		waits := y.until(t, p.tool, d.ID, "two wait for room", func(d peer) bool {
			n := 0
			for _, b := range d.Builds {
				if strings.HasPrefix(b.Long, "Waiting for room at the builder") {
					n++
				}
			}
			return n == 2
		})
		clock.jump(-3 * time.Hour)
		y.v.Room(0)
		done := map[string]bool{}
		blueprinttest.Eventually(t, "all are built after the clock was put back", func() bool {
			waits = y.get(t, p.tool, d.ID)
			for name, b := range waits.Builds {
				if b.ID != "no-id-yet" && !done[name] {
					y.move(p.tool, name, b.ID, slipway.BuildSucceeded)
					done[name] = true
				}
			}
			return waits.Status == "successful"
		})
		ended[d.ID] = "successful"

		// The next one is the latest, though its clock says otherwise.
		clock.jump(-time.Hour)
		d = y.deploy(t, p.tool, "a")
		if latest := into[peer](y.do("GET", "/"+p.tool+"/deployment/latest", nil).Is(200)).Data; latest.ID != d.ID {
			t.Errorf("the latest is %s, want %s", latest.ID, d.ID)
		}
		// Forward, within the limits: it goes on. Beyond them it has taken too long, and ends so.
		id := y.started(t, p.tool, d.ID, "a")
		clock.jump(10 * time.Minute)
		if d := y.get(t, p.tool, d.ID); d.Status != "running" && d.Status != "successful" {
			t.Errorf("ten minutes later: %+v", d)
		}
		y.move(p.tool, "a", id, slipway.BuildSucceeded)
		if d := y.ended(t, p.tool, d.ID); d.Status != "successful" {
			t.Errorf("a clock that was put forward by ten minutes: %+v", d)
		}
		y.do("POST", "/"+p.tool+"/config", config("b")).Is(200)
		d = into[peer](y.do("POST", "/"+p.tool+"/deployment?force-build=true", nil).Is(200)).Data
		id = y.started(t, p.tool, d.ID, "b")
		clock.jump(24 * time.Hour)
		if d := y.ended(t, p.tool, d.ID); d.Status != "failed" && d.Status != "timed_out" {
			t.Errorf("a day later: %+v", d)
		}
		blueprinttest.Eventually(t, "the builder lets go", func() bool {
			b, err := y.v.Provider().Builder.Get(t.Context(), p.tool, id)
			return err == nil && b.Status == slipway.BuildCanceled
		})
		// What has ended stays as it ended, whatever the clock says.
		for _, by := range []time.Duration{-30 * 24 * time.Hour, 60 * 24 * time.Hour} {
			clock.jump(by)
			for id, status := range ended {
				if d := y.get(t, p.tool, id); d.Status != status {
					t.Errorf("%s was %s and is %s", id, status, d.Status)
				}
			}
		}
	})
}

// Ten minutes of 409 at the builder are waited for; past the time of a build they are its end.
func TestABuilderThatIsFullForTenMinutes(t *testing.T) {
	eachPlace(t, func(t *testing.T, p place) {
		clock := &jumping{}
		y := p.yard(t, fake.New(fake.Config{}), "", func(o *blueprinttest.Options) { o.Now = clock.now })
		y.v.Room(1)
		other := y.fill(t)
		d := y.deploy(t, p.tool, "web")
		waiting := func(d peer) bool { return strings.HasPrefix(d.Builds["web"].Long, "Waiting for room at the builder") }
		y.until(t, p.tool, d.ID, "it waits for room", waiting)
		for range 10 {
			clock.jump(time.Minute)
			if d := y.get(t, p.tool, d.ID); d.Status != "running" || !waiting(d) {
				t.Fatalf("it does not wait any more: %+v", d)
			}
		}
		y.move("other", "x", other, slipway.BuildSucceeded)
		y.move(p.tool, "web", y.started(t, p.tool, d.ID, "web"), slipway.BuildSucceeded)
		if d := y.ended(t, p.tool, d.ID); d.Status != "successful" {
			t.Errorf("got %+v", d)
		}

		other = y.fill(t)
		y.do("POST", "/"+p.tool+"/config", config("web")).Is(200)
		d = into[peer](y.do("POST", "/"+p.tool+"/deployment?force-build=true", nil).Is(200)).Data
		y.until(t, p.tool, d.ID, "it waits for room", waiting)
		clock.jump(31 * time.Minute)
		if d := y.ended(t, p.tool, d.ID); d.Status != "failed" || d.Builds["web"].Long != "The builder had no room for the build within 30m" {
			t.Errorf("got %+v", d)
		}
		y.move("other", "x", other, slipway.BuildSucceeded)
	})
}

// fill takes the only place at the builder.
func (y *yard) fill(t *testing.T) string {
	t.Helper()
	b, err := y.v.Provider().Builder.Start(t.Context(), provider.BuildOrder{
		Key: fmt.Sprintf("full-%d", tools.Add(1)), Tool: "other", Component: "x", Repository: "https://git.example.com/x.git", Ref: "main", Commit: sha,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.ID
}

// Of those who ask at one instant, whichever replica they reach, one gets a deployment and the others a conflict.
func TestPostsAtOneInstant(t *testing.T) {
	eachPlace(t, func(t *testing.T, p place) {
		v, database := fake.New(fake.Config{}), storetest.URL(t, p.engine)
		one := p.yard(t, v, database, nil)
		replicas := []*yard{one}
		if p.engine == store.Postgres { // one server on a SQLite file
			replicas = append(replicas, p.yard(t, v, database, func(o *blueprinttest.Options) { o.DataDir = one.DataDir }))
		}
		one.do("POST", "/"+p.tool+"/config", config("a", "b")).Is(200)
		for round := range 3 {
			var wg sync.WaitGroup
			status := make([]int, 8)
			begin := make(chan bool)
			for i := range status {
				wg.Go(func() {
					<-begin
					status[i] = replicas[i%len(replicas)].do("POST", "/"+p.tool+"/deployment?force-build=true", nil).Status
				})
			}
			close(begin)
			wg.Wait()
			made := 0
			for _, s := range status {
				if s == 200 {
					made++
				} else if s != 409 {
					t.Errorf("got %d", s)
				}
			}
			list := into[struct{ Deployments []peer }](one.do("GET", "/"+p.tool+"/deployment", nil).Is(200)).Data.Deployments
			if made != 1 || len(list) != round+1 {
				t.Fatalf("round %d: %d were made, %d are listed", round, made, len(list))
			}
			d := list[round]
			for _, c := range []string{"a", "b"} {
				one.move(p.tool, c, one.started(t, p.tool, d.ID, c), slipway.BuildSucceeded)
			}
			if d := one.ended(t, p.tool, d.ID); d.Status != "successful" {
				t.Errorf("got %+v", d)
			}
		}
		if starts, _ := v.Ordered(); starts != 6 {
			t.Errorf("%d builds were started, want 6", starts)
		}
	})
}

func TestTheClusterGoesAndComesBackDuringADeployment(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			k := inCluster(t)
			gate := k.Gate(t, "admin")
			p := place{engine: engine, kubernetes: true, kubeconfig: gate.Kubeconfig, tool: fmt.Sprintf("fault%d", tools.Add(1))}
			k.MakeNamespace(t, "tool-"+p.tool)
			oneInstallation(t)
			y := p.yard(t, fake.New(fake.Config{}), "", nil)
			d := y.deploy(t, p.tool, "a", "b")
			a, b := y.started(t, p.tool, d.ID, "a"), y.started(t, p.tool, d.ID, "b")

			gate.Close()
			for _, call := range []string{"GET /deployment/" + d.ID, "GET /deployment", "GET /config", "POST /deployment", "POST /config", "PUT /deployment/" + d.ID + "/cancel"} {
				method, path, _ := strings.Cut(call, " ")
				var body any
				if call == "POST /config" {
					body = config("a")
				}
				if got := y.do(method, "/"+p.tool+path, body); got.Status != 503 || got.Header.Get("Retry-After") == "" || strings.Contains(string(got.Body), "127.0.0.1") {
					t.Errorf("%s while the cluster is away: got %d %s, want 503, when to try again, and no address", call, got.Status, got.Body)
				}
			}
			y.move(p.tool, "a", a, slipway.BuildSucceeded)
			y.move(p.tool, "b", b, slipway.BuildSucceeded)
			gate.Open(t)
			var last peer
			blueprinttest.Eventually(t, "the deployment has ended after the cluster came back", func() bool {
				got := y.do("GET", "/"+p.tool+"/deployment/"+d.ID, nil)
				if got.Status != 200 {
					return false
				}
				last = into[peer](got).Data
				return last.Status == "successful"
			})
			if starts, _ := y.v.Ordered(); starts != 2 {
				t.Errorf("%d builds were started, want 2", starts)
			}
		})
	}
}

func TestAToolWhoseNamespaceIsMissing(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			k := inCluster(t)
			p := place{engine: engine, kubernetes: true, kubeconfig: k.Proxy(t, "system:serviceaccount:slipway:slipway").Kubeconfig}
			oneInstallation(t)
			y := p.yard(t, fake.New(fake.Config{}), "", nil)
			name := fmt.Sprintf("fault%d", tools.Add(1))
			for _, call := range []string{"GET /config", "POST /config", "DELETE /config", "POST /deployment", "GET /deployment/x", "DELETE /deployment/x", "POST /deployment/token", "GET /deployment/token"} {
				method, path, _ := strings.Cut(call, " ")
				var body any
				if call == "POST /config" {
					body = config("a")
				}
				if got := y.do(method, "/"+name+path, body); got.Status != 404 || !strings.Contains(string(got.Body), "Unable to find namespace tool-"+name) {
					t.Errorf("%s: got %d %s, want 404 with the namespace", call, got.Status, got.Body)
				}
			}
			if list := y.do("GET", "/"+name+"/deployment", nil).Is(200); !strings.Contains(string(list.Body), `"deployments":[]`) {
				t.Errorf("no deployments: %s", list.Body)
			}
			k.MakeNamespace(t, "tool-"+name)
			d := y.deploy(t, name, "web")
			y.move(name, "web", y.started(t, name, d.ID, "web"), slipway.BuildSucceeded)
			if d := y.ended(t, name, d.ID); d.Status != "successful" {
				t.Errorf("got %+v", d)
			}
		})
	}
}

// An address that takes the request and says nothing costs the caller the time that reading may take, and nobody else anything.
func TestASourceThatHangs(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			asked := make(chan bool, 10)
			drips := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- true
				if r.URL.Path == "/drips" { // it begins an answer, and never ends it
					fmt.Fprint(w, "components:\n")
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			}))
			defer drips.Close()
			y := openYard(t, engine, fake.New(fake.Config{}), "", nil, func(o *blueprinttest.Options) {
				configure := o.Configure
				o.Configure = func(c *server.Config) { configure(c); c.Fetch.Timeout = slipway.Duration(time.Second) }
			})
			for _, path := range []string{"/hangs", "/drips"} {
				got := y.do("POST", "/mytool/config", strings.Replace(config("web"), "{", `{"source_url":"`+drips.URL+path+`",`, 1))
				if got.Status != 400 || !strings.Contains(string(got.Body), "Unable to retrieve config from source url") {
					t.Errorf("%s: got %d %s", path, got.Status, got.Body)
				}
				<-asked
			}
			y.do("GET", "/mytool/config", nil).Is(404) // nothing was half stored
		})
	}
}
