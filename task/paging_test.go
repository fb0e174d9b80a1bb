package task

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/store"
)

// Of three vendors, whatever arrives, changes or shares its moment with others between two pages: what was there at the first page is seen exactly once, in order.
func TestPagesByCursorNeitherRepeatNorDrop(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.stop()
		v := fake.New(fake.Config{})
		w.vendors(map[string]*fake.Vendor{"one": v, "two": v, "three": v})
		run := 0
		rapid.Check(t, func(r *rapid.T) {
			run++
			var projects []string
			for i := range rapid.IntRange(1, 3).Draw(r, "projects") {
				projects = append(projects, fmt.Sprintf("p%d-%d", run, i))
				v.Project(projects[i])
			}
			ref := w.entity(fmt.Sprintf("e%d", run), "team-a", map[string]string{fake.Annotation: strings.Join(projects, ",")})
			if err := w.runs.bindAll(t.Context(), bindArgs{}); err != nil { // the event does the same, later
				r.Fatal(err)
			}
			version := time.Now()
			arrive := func(n int) {
				for range n {
					version = version.Add(time.Second)
					number := rapid.IntRange(0, 40).Draw(r, "number")
					project := rapid.SampledFrom(projects).Draw(r, "project")
					b := slipway.Build{
						ID:        fmt.Sprintf("%s/%d", project, number),
						CreatedAt: at(number % 7), // many share a moment
						UpdatedAt: &version,
						Status:    rapid.SampledFrom([]slipway.BuildStatus{"running", "failed", "succeeded"}).Draw(r, "status"),
						Commit:    &slipway.Commit{Branch: rapid.SampledFrom([]string{"main", "topic"}).Draw(r, "branch")},
					}
					err := w.db.Write(t.Context(), func(tx *store.Tx) error {
						_, err := w.runs.Observe(t.Context(), tx, rapid.SampledFrom([]string{"one", "two", "three"}).Draw(r, "provider"), project, b)
						return err
					})
					if err != nil {
						r.Fatal(err)
					}
				}
			}
			arrive(rapid.IntRange(0, 25).Draw(r, "before"))
			q := Query{Limit: rapid.IntRange(1, 7).Draw(r, "limit"), Ascending: rapid.Bool().Draw(r, "ascending")}
			if rapid.Bool().Draw(r, "filtered") {
				q.Filters = map[string][]string{"branch": {"main", "topic"}}
			}
			all := q
			all.Limit = 100
			there := builds(w.search(ref, all))
			var seen []slipway.Build
			for {
				p := w.search(ref, q)
				seen = append(seen, builds(p)...)
				if !p.PageInfo.HasMore {
					break
				}
				q.Cursor = p.PageInfo.NextCursor
				arrive(rapid.IntRange(0, 4).Draw(r, "between"))
			}
			times := map[string]int{}
			for _, b := range seen {
				times[b.ID]++
			}
			for _, b := range there {
				if times[b.ID] == 0 {
					r.Errorf("%s was dropped", b.ID)
				}
			}
			for id, n := range times {
				if n > 1 {
					r.Errorf("%s was seen %d times", id, n)
				}
			}
			ordered := slices.IsSortedFunc(seen, func(a, b slipway.Build) int {
				if q.Ascending {
					return a.CreatedAt.Compare(b.CreatedAt)
				}
				return b.CreatedAt.Compare(a.CreatedAt)
			})
			if !ordered {
				r.Error("the pages together are not in order")
			}
		})
	})
}
