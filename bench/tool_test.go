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
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// TestTools takes the numbers of tools: how long POST deploy takes with 50 components, and GET of a deployment while 1,000 tools deploy at once on one
// replica, with a builder in memory whose builds take 4 s.
func TestTools(t *testing.T) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			v := fake.New(fake.Config{Pace: slipway.Duration(2 * time.Second)})
			s := blueprinttest.Start(t, engine, blueprinttest.Options{
				Blueprints: []blueprint.Blueprint{build.Blueprint, catalog.Blueprint, tool.Blueprint}, Kinds: []provider.Kind{v.Kind()},
				Configure: func(c *server.Config) {
					c.Providers = []server.ProviderConfig{{Name: "yard", Type: "fake"}}
					c.Sections["tool"].(*tool.Settings).Builder = "yard"
				},
			})
			config := func(n int) string {
				var parts []string
				for i := range n {
					parts = append(parts, fmt.Sprintf(`"c%d":{"build":{"repository":"https://git.example.com/c%d.git","ref":"0123456789abcdef0123456789abcdef01234567"},"run":{"command":"serve"}}`, i, i))
				}
				return `{"components":{` + strings.Join(parts, ",") + `}}`
			}
			at := func(name string) string { return "/api/v1/tool/" + name }
			took := func(f func()) time.Duration { begun := time.Now(); f(); return time.Since(begun) }
			quantile := func(all []time.Duration, q float64) time.Duration {
				slices.Sort(all)
				return all[min(len(all)-1, int(q*float64(len(all))))].Round(10 * time.Microsecond)
			}

			var posts []time.Duration
			for i := range 40 {
				name := fmt.Sprintf("large%d", i)
				s.Post(at(name)+"/config", config(50)).Is(200)
				posts = append(posts, took(func() { s.Post(at(name)+"/deploy", nil).Is(200) }))
			}
			t.Logf("NUMBER tools %s: POST deploy with 50 components: median %v, p95 %v", engine, quantile(posts, 0.5), quantile(posts, 0.95))

			const tools = 1000
			ids := make([]string, tools)
			var wg sync.WaitGroup
			for w := range 8 {
				wg.Go(func() {
					for i := w; i < tools; i += 8 {
						name := fmt.Sprintf("tool%d", i)
						s.Post(at(name)+"/config", config(3)).Is(200)
					}
				})
			}
			wg.Wait()
			for w := range 8 {
				wg.Go(func() {
					for i := w; i < tools; i += 8 {
						var d struct {
							Data struct {
								ID string `json:"deploy-id"`
							}
						}
						s.Post(at(fmt.Sprintf("tool%d", i))+"/deploy", nil).Is(200).Into(&d)
						ids[i] = d.Data.ID
					}
				})
			}
			deploying := took(wg.Wait)
			_, before := v.Ordered()
			begun := time.Now()
			var mu sync.Mutex
			var gets []time.Duration
			open := tools
			for round := 0; open > 0 && time.Since(begun) < 3*time.Minute; round++ {
				open = 0
				tick := time.NewTicker(4 * time.Millisecond) // 250 reads a second
				for i := range tools {
					<-tick.C
					wg.Go(func() {
						d := took(func() {
							a := s.Get(at(fmt.Sprintf("tool%d", i)) + "/deploy/" + ids[i])
							if a.Status != http.StatusOK {
								t.Errorf("got %d", a.Status)
							}
							if !strings.Contains(string(a.Body), `"status":"FINISHED","builds"`) {
								mu.Lock()
								open++
								mu.Unlock()
							}
						})
						mu.Lock()
						gets = append(gets, d)
						mu.Unlock()
					})
				}
				wg.Wait()
				tick.Stop()
			}
			_, after := v.Ordered()
			t.Logf("NUMBER tools %s: 1,000 deployments were asked for in %v and had all ended after %v more; GET meanwhile, %d reads: median %v, p99 %v; lists of the builder: %d", engine,
				deploying.Round(time.Millisecond), time.Since(begun).Round(100*time.Millisecond), len(gets), quantile(gets, 0.5), quantile(gets, 0.99), after-before)
		})
	}
}
