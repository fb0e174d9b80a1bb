package jenkins

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/jenkinstest"
)

// TestFolderPagesNeitherRepeatNorSkip reads folders of any shape page by page, while builds arrive: whatever was there at first is seen once, newest first.
func TestFolderPagesNeitherRepeatNorSkip(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Freestyle)
	c := v.client(t, nil, provider.Env{})
	day := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		folder := fmt.Sprintf("f%d", n)
		var jobs []*jenkinstest.Item
		for i := range rapid.IntRange(1, 5).Draw(rt, "jobs") {
			deep := strings.Repeat("/in", rapid.IntRange(0, levels-1).Draw(rt, "depth"))
			jobs = append(jobs, v.Jenkins.Add(jenkinstest.Freestyle, fmt.Sprintf("%s%s/j%d", folder, deep, i)))
		}
		minute := 0
		arrive := func(most int) {
			for range most {
				minute += rapid.IntRange(0, 2).Draw(rt, "minutes") // some begin at the same time
				v.Run(rapid.SampledFrom(jobs).Draw(rt, "job"), jenkinstest.Success, day.Add(time.Duration(minute)*time.Minute))
			}
		}
		arrive(rapid.IntRange(0, 60).Draw(rt, "builds"))
		before := map[string]bool{}
		v.Do(func() {
			for _, job := range jobs {
				for _, r := range job.Runs() {
					before[buildID(job.FullName(), r.Number)] = true
				}
			}
		})
		limit := rapid.IntRange(3, 40).Draw(rt, "limit")
		seen := map[string]bool{}
		o := provider.ListOptions{Limit: limit}
		var last *slipway.Build
		for pages := 0; ; pages++ {
			page, err := c.list(t.Context(), folder, o)
			if err != nil {
				rt.Fatal(err)
			}
			if len(page.Items) > limit || pages > 500 {
				rt.Fatalf("page %d has %d builds of at most %d", pages, len(page.Items), limit)
			}
			for _, b := range page.Items {
				if seen[b.ID] || last != nil && b.CreatedAt.After(last.CreatedAt) {
					rt.Fatalf("%s comes again, or after an older one", b.ID)
				}
				seen[b.ID], last = true, &b
			}
			if page.Next == "" {
				break
			}
			o.Cursor = page.Next
			arrive(rapid.IntRange(0, 2).Draw(rt, "arriving"))
		}
		for id := range before {
			if !seen[id] {
				rt.Fatalf("%s was not seen", id)
			}
		}
	})
}

func TestHistoryOfAJobIsReadPageByPage(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Pipeline)
	for range 250 { // more than the hundred that Jenkins shows by itself
		v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
	}
	c := v.client(t, nil, provider.Env{})
	var sizes []int
	for o := (provider.ListOptions{Limit: 100}); ; {
		page, err := c.list(t.Context(), project, o)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page.Items))
		if page.Next == "" {
			break
		}
		o.Cursor = page.Next
	}
	if !slices.Equal(sizes, []int{100, 100, 50}) {
		t.Errorf("got pages of %d, want 100, 100 and 50", sizes)
	}
}

func TestOrganizationShowsTheBranchesOfItsRepositories(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Freestyle)
	for _, name := range []string{"org/web/main", "org/web/feature%2Fx", "org/api/main"} {
		v.Run(v.Jenkins.Add(jenkinstest.Pipeline, name), jenkinstest.Success, time.Time{})
	}
	page, err := v.client(t, nil, provider.Env{}).list(t.Context(), "org", provider.ListOptions{})
	var got []string
	for _, b := range page.Items {
		got = append(got, b.ID)
	}
	slices.Sort(got)
	if want := "org/api/main#1 org/web/feature%2Fx#1 org/web/main#1"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %q, %v; want %s", got, err, want)
	}
}

func TestWhatDoesNotChangeIsAskedForInShort(t *testing.T) {
	t.Parallel()
	for _, kind := range []jenkinstest.Kind{jenkinstest.Freestyle, jenkinstest.Multibranch} {
		v := newVendor(t, kind)
		now := time.Now()
		c := v.client(t, nil, provider.Env{Now: func() time.Time { return now }})
		look := func(validator string) (page provider.Page[slipway.Build], whole bool) {
			t.Helper()
			before := len(v.Jenkins.Asked())
			page, err := c.list(t.Context(), project, provider.ListOptions{Limit: 100, Validator: validator})
			if err != nil {
				t.Fatal(err)
			}
			for _, asked := range v.Jenkins.Asked()[before:] {
				whole = whole || strings.Contains(asked, "allBuilds")
			}
			return page, whole
		}
		for range 5 {
			v.add(t, slipway.Build{Status: slipway.BuildSucceeded})
		}
		first, _ := look("")
		if again, whole := look(first.Validator); !again.NotModified || whole {
			t.Errorf("%s: a look at what did not change is not short", kind)
		}
		running := v.add(t, slipway.Build{Status: slipway.BuildRunning})
		second, whole := look(first.Validator)
		if second.NotModified || !whole || len(second.Items) != 6 {
			t.Errorf("%s: a new build is not seen", kind)
		}
		if third, _ := look(second.Validator); third.NotModified {
			t.Errorf("%s: while one is running it is not looked whether it still does", kind)
		}
		v.move(t, running, slipway.BuildFailed)
		ended, _ := look(second.Validator)
		if !slices.ContainsFunc(ended.Items, func(b slipway.Build) bool { return b.ID == running && b.Status == slipway.BuildFailed }) {
			t.Errorf("%s: the end of a build is not seen", kind)
		}
		if short, _ := look(ended.Validator); !short.NotModified {
			t.Errorf("%s: once it ended, looks are not short again", kind)
		}
		now = now.Add(trust + time.Second)
		if long, _ := look(ended.Validator); long.NotModified {
			t.Errorf("%s: what did not change is believed for ever", kind)
		}
		for _, foreign := range []string{"x", "x.y", strings.Split(ended.Validator, ".")[0] + ".99999999999"} {
			if page, _ := look(foreign); page.NotModified {
				t.Errorf("%s: the validator %q is believed", kind, foreign)
			}
		}
	}
}

func TestJobThatWasMadeAnewShowsItsNewBuilds(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Freestyle)
	day := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	job := v.Jenkins.Add(jenkinstest.Pipeline, "x")
	v.Run(job, jenkinstest.Failure, day)
	c := v.client(t, nil, provider.Env{})
	old, err := c.get(t.Context(), "x", "x#1")
	if err != nil {
		t.Fatal(err)
	}
	v.Delete(job)
	v.Run(v.Jenkins.Add(jenkinstest.Pipeline, "x"), jenkinstest.Building, time.Time{})
	if now, err := c.get(t.Context(), "x", "x#1"); err != nil || !now.UpdatedAt.After(*old.UpdatedAt) {
		t.Errorf("got %v, %v; want a change later than %v, so that it takes the old one's place", now.UpdatedAt, err, old.UpdatedAt)
	}
}

func TestLongFoldersAreReadInBounds(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Freestyle)
	job := v.Jenkins.Add(jenkinstest.Freestyle, "busy/one")
	c := v.client(t, nil, provider.Env{})
	c.window = 150
	for range c.window + 50 {
		v.Run(job, jenkinstest.Success, time.Time{})
	}
	seen, requests := 0, len(v.Jenkins.Asked())
	for o := (provider.ListOptions{Limit: 100}); ; {
		page, err := c.list(t.Context(), "busy", o)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(page.Items)
		if page.Next == "" {
			break
		}
		o.Cursor = page.Next
	}
	if requests = len(v.Jenkins.Asked()) - requests; seen != c.window || requests > 6 {
		t.Errorf("saw %d builds with %d requests, want %d with few", seen, requests, c.window)
	}
	for _, cursor := range []string{"f", "f1.2.3", "f0.1.1.x", "f100000.1.1.x", "fx.1.1.x"} {
		if _, err := c.list(t.Context(), "busy", provider.ListOptions{Cursor: cursor}); slipway.CodeOf(err) != slipway.Invalid {
			t.Errorf("cursor %q: got %v, want invalid", cursor, err)
		}
	}
}

func TestFolderThatIsTooLargeIsReadInSmallerParts(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Freestyle)
	for i := range 3 {
		job := v.Jenkins.Add(jenkinstest.Freestyle, fmt.Sprintf("many/j%d", i))
		for range 10 {
			v.Run(job, jenkinstest.Success, time.Time{})
		}
	}
	c := v.client(t, nil, provider.Env{})
	most := "" // what Jenkins' answers must not hold, or they are too large
	v.Break(func(w http.ResponseWriter, r *http.Request) bool {
		if most == "" || !strings.Contains(r.FormValue("tree"), most) {
			return false
		}
		return tooMuch(w)
	})
	most = "{0,8}"
	page, err := c.list(t.Context(), "many", provider.ListOptions{Limit: 100})
	if err != nil || len(page.Items) < 2 || page.Next == "" {
		t.Fatalf("got %d builds, %v; want some, and more to come", len(page.Items), err)
	}
	if page, err = c.list(t.Context(), "many", provider.ListOptions{Limit: 100, Cursor: page.Next}); err != nil || len(page.Items) > 0 || page.Next != "" {
		t.Errorf("of those that are too many: got %d builds, %v; want the end", len(page.Items), err)
	}
	most = "{0,"
	if _, err := c.list(t.Context(), "many", provider.ListOptions{Limit: 100}); slipway.CodeOf(err) != slipway.TooLarge || !strings.Contains(err.Error(), "name repositories") {
		t.Errorf("got %v, want that it is too large, and what to do", err)
	}
}

func tooMuch(w http.ResponseWriter) bool {
	for range 33 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	return true
}
