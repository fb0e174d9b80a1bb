package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
)

const search = "/api/build/by-entity/component:default/web/search?limit=100"

type page struct {
	Items []struct {
		ID     string `json:"id"`
		Status string `json:"status"`
		Detail string `json:"detail"`
	} `json:"items"`
	PageInfo struct {
		NextCursor string `json:"nextCursor"`
	} `json:"pageInfo"`
}

// TestKilledAtRandomMomentsUnderLoad starts builds from several callers while the server is killed again and again: what was accepted is
// there afterwards, ended one way or another, and no build ran twice.
func TestKilledAtRandomMomentsUnderLoad(t *testing.T) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			in := install(t, engine)
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			accepted := map[string]bool{}
			calls := 0
			for round := range 5 {
				r := in.serve()
				r.eventually("the component is bound", func() bool {
					var p page
					return r.do("GET", search, nil, &p) == 200 && r.do("POST", "/api/build/by-entity/component:default/web/start", map[string]any{}, nil) == 202
				})
				stop := make(chan struct{})
				var wg sync.WaitGroup
				for caller := range 4 {
					wg.Go(func() {
						for i := 0; ; i++ {
							select {
							case <-stop:
								return
							case <-time.After(30 * time.Millisecond):
							}
							var out struct {
								Build struct {
									ID string `json:"id"`
								} `json:"build"`
							}
							status := r.do("POST", "/api/build/by-entity/component:default/web/start", map[string]any{"ref": "main"}, &out,
								"Idempotency-Key", fmt.Sprintf("%d-%d-%d", round, caller, i))
							mu.Lock()
							calls++
							if status == 202 && out.Build.ID != "" {
								accepted[out.Build.ID] = true
							}
							mu.Unlock()
						}
					})
				}
				<-time.After(time.Duration(200+random.IntN(900)) * time.Millisecond)
				r.kill()
				close(stop)
				wg.Wait()
			}
			if len(accepted) == 0 {
				t.Fatal("no build was accepted")
			}

			r := in.serve()
			seen := map[string]string{}
			r.eventually("every build has ended", func() bool {
				clear(seen)
				for cursor := ""; ; {
					var p page
					if r.do("GET", search+cursor, nil, &p) != 200 {
						return false
					}
					for _, b := range p.Items {
						if seen[b.ID] != "" {
							t.Errorf("build %s is listed twice", b.ID)
						}
						seen[b.ID] = b.Status
						if b.Status == "starting" || b.Status == "running" {
							return false
						}
					}
					if p.PageInfo.NextCursor == "" {
						return true
					}
					cursor = "&cursor=" + p.PageInfo.NextCursor
				}
			})
			for id := range accepted {
				if seen[id] == "" {
					t.Errorf("build %s was accepted and is lost", id)
				}
			}
			ran := map[string]int{}
			raw, err := os.ReadFile(in.effects)
			if err != nil {
				t.Fatal(err)
			}
			for id := range strings.FieldsSeq(string(raw)) {
				if ran[id]++; ran[id] > 1 {
					t.Errorf("build %s ran %d times", id, ran[id])
				}
			}
			t.Logf("%d calls, %d accepted, %d builds listed, %d commands run", calls, len(accepted), len(seen), len(ran))
			r.eventually("no process of a build is left", func() bool { return len(leftovers(in.dir)) == 0 })
			if status := r.end(); status != 0 {
				t.Errorf("the server ended with status %d: %s", status, r.log)
			}
		})
	}
}

// leftovers lists processes that a build of this installation started.
func leftovers(dir string) []string {
	var left []string
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		raw, err := os.ReadFile(path)
		if err == nil && bytes.Contains(raw, []byte("EFFECTS="+dir)) {
			left = append(left, path)
		}
	}
	return left
}
