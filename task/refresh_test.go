package task

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/store"
)

// row is a source as it is stored.
type sourceState struct {
	ID, Failures, Looks, FillLeft int64
	AsOf, Next                    store.Time
	Error                         string
	Filling                       bool
}

func (w *world) source(provider string) (s sourceState) {
	w.t.Helper()
	err := w.db.QueryRowContext(context.Background(), `SELECT id, failures, looks, fill_left, as_of, next_refresh, error, fill_cursor IS NOT NULL FROM task_source WHERE provider = $1`, provider).
		Scan(&s.ID, &s.Failures, &s.Looks, &s.FillLeft, &s.AsOf, &s.Next, &s.Error, &s.Filling)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// look reads the source of a provider now, in the test's own goroutine. The world's jobs do not run.
func (w *world) look(provider string) {
	w.t.Helper()
	if err := w.runs.refresh(context.Background(), refreshArgs{Source: w.source(provider).ID}); err != nil {
		w.t.Fatal(err)
	}
}

// still is a world whose jobs do not run, with an entity bound to octo/web at the provider ci.
func still(t *testing.T, test func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef)) {
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{WebhookSecret: "hush"})
		v.Now = w.clock.now
		v.Project("octo/web")
		w.vendors(map[string]*fake.Vendor{"ci": v})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		eventually(t, "the first look", func() bool {
			s := w.search(web, Query{}).Sources
			return s[0].AsOf != nil
		})
		w.stop()
		test(t, w, v, web)
	})
}

func TestALookReadsOnlyWhatIsNew(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		for i := range 250 {
			v.Add("octo/web", slipway.Build{CreatedAt: at(i), Status: slipway.BuildSucceeded})
		}
		w.look("ci")
		if got := len(w.search(web, Query{Limit: 100, PageNumber: 3}).Items); got != 50 {
			t.Errorf("page 3 has %d items, want 50 of 250", got)
		}
		before, unmoved := v.Lists()
		w.look("ci")
		if lists, not := v.Lists(); lists != before+1 || not != unmoved+1 {
			t.Errorf("nothing new cost %d lists, %d answered with not modified; want one that was", lists-before, not-unmoved)
		}
		v.Add("octo/web", slipway.Build{ID: "new", CreatedAt: at(250), Status: slipway.BuildSucceeded})
		before, _ = v.Lists()
		w.look("ci")
		if lists, _ := v.Lists(); lists != before+1 {
			t.Errorf("one new build cost %d lists, want one", lists-before)
		}
		if got := ids(w.search(web, Query{Limit: 1})); got[0] != "new" {
			t.Errorf("got %s", got)
		}
	})
}

func TestHistoryIsFilledInBoundsOverSeveralLooks(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		for i := range 1300 {
			v.Add("octo/web", slipway.Build{CreatedAt: at(i), Status: slipway.BuildSucceeded})
		}
		for i := range 30 {
			v.Add("octo/old", slipway.Build{CreatedAt: time.Now().Add(-time.Duration(i*10) * 24 * time.Hour), Status: slipway.BuildSucceeded})
		}
		w.vendors(map[string]*fake.Vendor{"ci": v})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		old := w.entity("old", "team-a", map[string]string{fake.Annotation: "octo/old"})
		w.await(old, 30) // one page, and what it holds is kept
		eventually(t, "history", func() bool { return len(w.search(web, Query{Limit: 100, PageNumber: 10}).Items) == 100 })
		if p := w.search(web, Query{Limit: 100, PageNumber: 10}); p.PageInfo.HasMore {
			t.Error("more than 1,000 builds of history were read")
		}
		if n := w.eventsOf(web); n != 0 {
			t.Errorf("history that is read for the first time sent %d events", n)
		}
	})
}

func (w *world) eventsOf(ref slipway.EntityRef) (n int) {
	w.t.Helper()
	err := w.db.QueryRowContext(context.Background(), `SELECT COUNT(*) FROM event WHERE subject = $1 AND type LIKE 'run.%'`, ref.String()).Scan(&n)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestStatesFollowTheSource(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		state := func() slipway.Source {
			t.Helper()
			defer w.Wait()
			return w.search(web, Query{}).Sources[0]
		}
		v.Add("octo/web", slipway.Build{ID: "1", Status: slipway.BuildSucceeded})
		w.look("ci")
		if s := state(); s.State != slipway.SourceFresh {
			t.Errorf("after a look: %+v", s)
		}
		w.clock.forward(3 * time.Minute)
		if s := state(); s.State != slipway.SourceStale || s.AsOf == nil {
			t.Errorf("after twice the interval: %+v", s)
		}
		v.Break(fake.Down)
		var last time.Duration
		for failures := range 6 {
			w.look("ci")
			s := w.source("ci")
			wait := s.Next.Sub(w.clock.now())
			if s.Failures != int64(failures+1) || wait < last*8/10 || wait > maxBackOff*11/10 {
				t.Errorf("after %d failures: %+v, next in %v", failures+1, s, wait)
			}
			last = wait
		}
		if s := state(); s.State != slipway.SourceFailed || !strings.Contains(s.Error, "down") || s.AsOf == nil || len(w.search(web, Query{}).Items) != 1 {
			t.Errorf("a vendor that is down: %+v; want the last known items and why", s)
		}
		v.Break(fake.Limited)
		w.clock.forward(2 * maxRest)
		w.look("ci")
		if wait := w.source("ci").Next.Sub(w.clock.now()); wait < 25*time.Second || wait > 70*time.Second {
			t.Errorf("a vendor that says when: next in %v", wait)
		}
		v.Break(fake.None)
		before, _ := v.Lists()
		w.look("ci")
		if lists, _ := v.Lists(); lists != before {
			t.Error("a vendor that had enough was asked before the time that it named")
		}
		w.clock.forward(time.Minute)
		w.look("ci")
		if s := state(); s.State != slipway.SourceFresh || s.Error != "" {
			t.Errorf("a vendor that is back: %+v", s)
		}
		if err := w.SetProviders(t.Context(), []Provider{{Name: "ci", Type: "fake", Err: errors.New("a secret detail")}}); err != nil {
			t.Fatal(err)
		}
		if s := state(); s.State != slipway.SourceFailed || strings.Contains(s.Error, "secret") {
			t.Errorf("a provider that did not open: %+v", s)
		}
		if err := w.SetProviders(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if s := state(); s.State != slipway.SourceDetached || len(w.search(web, Query{}).Items) != 1 {
			t.Errorf("a provider that was removed: %+v; want its items still", s)
		}
	})
}

func TestAStaleSourceIsReadBehindTheAnswer(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		w.clock.forward(3 * time.Minute)
		for range 20 {
			w.search(web, Query{})
		}
		w.Wait()
		var waiting int
		if err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM job WHERE kind = 'run.refresh' AND state = 'available'`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		if waiting != 1 {
			t.Errorf("20 searches of a stale source asked for %d looks, want one", waiting)
		}
	})
}

// One answer may show hundreds of sources that are stale, after a night or a restart.
func TestManyStaleSourcesAreAskedForTogether(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		projects := make([]string, 45)
		for i := range projects {
			projects[i] = fmt.Sprintf("octo/p%02d", i)
			v.Project(projects[i])
		}
		o := taking(v, "fake", projects...)
		o.Name = "ci"
		if err := w.SetProviders(t.Context(), []Provider{o}); err != nil {
			t.Fatal(err)
		}
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: strings.Join(projects, ",")})
		eventually(t, "all are read", func() bool {
			s := w.search(web, Query{}).Sources
			return len(s) == len(projects) && !slices.ContainsFunc(s, func(s slipway.Source) bool { return s.AsOf == nil })
		})
		w.stop()
		w.Wait()
		w.clock.forward(time.Hour)
		var writes atomic.Int64
		before := w.db.OnWrite
		w.db.OnWrite = func(held time.Duration, rows int64) { before(held, rows); writes.Add(1) }
		w.search(web, Query{})
		w.Wait()
		if n := writes.Load(); n != 1 {
			t.Errorf("it took %d transactions, want 1", n)
		}
		var waiting int
		if err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM job WHERE kind = 'run.refresh' AND state = 'available'`).Scan(&waiting); err != nil || waiting != len(projects) {
			t.Errorf("%d are asked for, %v; want %d", waiting, err, len(projects))
		}
	})
}

func TestStatesOfAnItemGoForwardOnly(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		running := v.Add("octo/web", slipway.Build{ID: "1", CreatedAt: at(5)})
		w.clock.forward(time.Second)
		done := v.Move("octo/web", "1", slipway.BuildSucceeded)
		moved := done
		moved.CreatedAt = at(9)
		observe := func(b slipway.Build) (n int) {
			t.Helper()
			err := w.db.Write(t.Context(), func(tx *store.Tx) (err error) {
				n, err = w.runs.Observe(t.Context(), tx, "ci", "octo/web", b)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := observe(done); n != 1 {
			t.Errorf("a new build changed %d items", n)
		}
		if n := observe(running); n != 0 {
			t.Errorf("an older state changed %d items", n)
		}
		if n := observe(done); n != 0 {
			t.Errorf("the same state changed %d items", n)
		}
		observe(moved)
		b := builds(w.search(web, Query{}))[0]
		if b.Status != slipway.BuildSucceeded {
			t.Errorf("an older state replaced a newer one: %s", b.Status)
		}
		if got := ids(w.search(web, Query{Since: at(5), Until: at(6)})); len(got) != 1 {
			t.Error("a build changed its place in the order after it was first seen")
		}
		if n := w.eventsOf(web); n != 1 {
			t.Errorf("%d events, want one", n)
		}
	})
}

func TestABuildThatTheVendorForgotEndsUnknown(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		v.Add("octo/web", slipway.Build{ID: "1", CreatedAt: at(1)})
		w.look("ci")
		v.Forget("octo/web", "1")
		w.look("ci")
		if b := builds(w.search(web, Query{}))[0]; b.Status != slipway.BuildUnknown || b.Detail == "" {
			t.Errorf("got %s (%s)", b.Status, b.Detail)
		}
	})
}

func TestABuildThatBecameOthersIsNotShownAnyMore(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		v.Add("octo/web", slipway.Build{ID: "pipeline", CreatedAt: at(1), Status: slipway.BuildStarting})
		w.look("ci")
		v.Replace("octo/web", "pipeline", slipway.Build{ID: "workflow", CreatedAt: at(2)})
		w.look("ci")
		if got := ids(w.search(web, Query{})); !slices.Equal(got, []string{"workflow"}) {
			t.Errorf("got %q, want the build that took its place alone", got)
		}
	})
}

func TestAnOldUnfinishedBuildIsStillFollowed(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		v.Add("octo/web", slipway.Build{ID: "slow", CreatedAt: at(1)})
		w.look("ci")
		for i := range 150 {
			v.Add("octo/web", slipway.Build{CreatedAt: at(10 + i), Status: slipway.BuildSucceeded})
		}
		w.look("ci")
		v.Move("octo/web", "slow", slipway.BuildFailed)
		w.look("ci")
		if got := ids(w.search(web, Query{Statuses: []string{"failed"}})); !slices.Equal(got, []string{"slow"}) {
			t.Errorf("failed: %q, want the build that ended behind 150 newer ones", got)
		}
	})
}

func TestOnlyWhatChangedIsCompleted(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		v.ListInPart()
		jane := &slipway.Person{ID: "jane"}
		for i := range 30 {
			v.Add("octo/web", slipway.Build{ID: fmt.Sprint(i), CreatedAt: at(i), Status: slipway.BuildSucceeded, TriggeredBy: jane})
		}
		v.Add("octo/web", slipway.Build{ID: "slow", CreatedAt: at(30), TriggeredBy: jane})
		look := func(want int) {
			t.Helper()
			before := v.Details()
			w.look("ci")
			if got := v.Details() - before; got != want {
				t.Errorf("%d builds were completed, want %d", got, want)
			}
		}
		look(31)
		if got := builds(w.search(web, Query{Limit: 1}))[0]; got.TriggeredBy == nil || got.StartedAt == nil {
			t.Errorf("got %+v, want a whole build", got)
		}
		v.Add("octo/web", slipway.Build{ID: "new", CreatedAt: at(31), Status: slipway.BuildSucceeded, TriggeredBy: jane})
		look(1) // not what runs as it did
		v.Move("octo/web", "slow", slipway.BuildFailed)
		v.Move("octo/web", "3", slipway.BuildStarting)
		look(2)
		if got := ids(w.search(web, Query{Statuses: []string{"failed", "starting"}})); !slices.Equal(got, []string{"slow", "3"}) {
			t.Errorf("got %q, want both that changed", got)
		}
	})
}

func TestNothingIsMissedWhenTheVendorFailsBetweenPages(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{true, false} {
		still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
			add := func(from, n int) {
				for i := range n {
					v.Add("octo/web", slipway.Build{CreatedAt: at(from + i), Status: slipway.BuildSucceeded})
				}
			}
			add(0, 5)
			w.look("ci")
			add(5, 250)
			if !whole {
				v.ListInPart()
				v.BreakAfter(20, fake.Down) // in the middle of the first page
			} else {
				v.BreakAfter(2, fake.Down)
			}
			w.look("ci")
			v.Break(fake.None)
			w.clock.forward(time.Hour)
			for range 3 {
				w.look("ci")
			}
			if got := len(w.search(web, Query{Limit: 100, PageNumber: 3}).Items); got != 55 {
				t.Errorf("whole pages %v: page 3 has %d builds, want 55 of 255", whole, got)
			}
			if s := w.source("ci"); s.Filling || s.Failures != 0 {
				t.Errorf("whole pages %v: it is not done: %+v", whole, s)
			}
		})
	}
}

// A project that was not read for long has more that is new than one run reads, and than is read of the history of a new project. All of it is caught up with.
func TestAllThatCameSinceTheLastLookIsRead(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		add := func(from, n int) {
			for i := range n {
				v.Add("octo/web", slipway.Build{CreatedAt: at(from + i), Status: slipway.BuildSucceeded})
			}
		}
		add(0, 350)
		w.look("ci")
		add(350, 1450)
		before, _ := v.Lists()
		for range 4 {
			w.look("ci")
		}
		if got := len(w.search(web, Query{Limit: 100, PageNumber: 18}).Items); got != 100 {
			t.Errorf("page 18 has %d builds, want 100 of 1,800", got)
		}
		if s := w.source("ci"); s.Filling {
			t.Errorf("it is not done: %+v", s)
		}
		// 15 pages with something new, one without, and the first one again by each look.
		if lists, _ := v.Lists(); lists-before > 15+1+4 {
			t.Errorf("it cost %d lists", lists-before)
		}
	})
}

func TestHistoryIsReadThoughAWebhookCameFirst(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{WebhookSecret: "hush"})
		v.Now = w.clock.now
		v.Break(fake.Down)
		w.vendors(map[string]*fake.Vendor{"ci": v})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		eventually(t, "the first look", func() bool {
			s := w.search(web, Query{}).Sources
			return s[0].State == slipway.SourceFailed
		})
		w.stop()
		for i := range 150 {
			v.Add("octo/web", slipway.Build{ID: fmt.Sprint(i), CreatedAt: at(i), Status: slipway.BuildSucceeded})
		}
		h, body := v.Notification("octo/web", "149")
		if n, err := w.Deliver(t.Context(), "ci", h, body); n != 1 || err != nil {
			t.Fatalf("got %d, %v; want one change", n, err)
		}
		v.Break(fake.None)
		w.clock.forward(time.Hour)
		w.look("ci")
		if got := len(w.search(web, Query{Limit: 100, PageNumber: 2}).Items); got != 50 {
			t.Errorf("page 2 has %d builds, want 50 of 150", got)
		}
	})
}

func TestWebhooks(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		v.Add("octo/web", slipway.Build{ID: "1", CreatedAt: at(1)})
		h, body := v.Notification("octo/web", "1")
		if n, err := w.Deliver(t.Context(), "ci", h, body); n != 1 || err != nil {
			t.Errorf("got %d, %v; want one change", n, err)
		}
		if n, err := w.Deliver(t.Context(), "ci", h, body); n != 0 || err != nil {
			t.Errorf("a repeat: got %d, %v; want no change", n, err)
		}
		if _, err := w.Deliver(t.Context(), "ci", http.Header{}, body); !errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("unsigned: %v", err)
		}
		if _, err := w.Deliver(t.Context(), "nobody", h, body); !errors.Is(err, slipway.NotFound) {
			t.Errorf("unknown provider: %v", err)
		}
		again := []byte(`{"event":"build","project":"octo/web"}`)
		if _, err := w.Deliver(t.Context(), "ci", v.Sign(again), again); err != nil {
			t.Error(err)
		}
		var waiting int
		if err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM job WHERE kind = 'run.refresh' AND state = 'available'`).Scan(&waiting); err != nil || waiting != 1 {
			t.Errorf("a notification without a build: %d looks wait, %v; want one", waiting, err)
		}
	})
}

// A build that ran again far behind the newest is seen though the list does not show it, and though the vendor says that its list is as it was.
func TestABuildThatAWebhookNamesIsAskedForWhereverItStands(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		for i := range 150 {
			v.Add("octo/web", slipway.Build{ID: fmt.Sprint(1000 + i), CreatedAt: at(i), Status: slipway.BuildFailed})
		}
		for range 3 { // the newest, and what was before
			w.clock.forward(time.Hour)
			w.look("ci")
		}
		status := func(id string) string {
			t.Helper()
			item, err := w.runs.Get(t.Context(), system, web, "ci:"+id, nil)
			if err != nil {
				return err.Error()
			}
			return string(item.Value.Status)
		}
		name := func(id string) {
			t.Helper()
			body := fmt.Appendf(nil, `{"event":"build","project":"octo/web","buildId":%q}`, id)
			if _, err := w.Deliver(t.Context(), "ci", v.Sign(body), body); err != nil {
				t.Fatal(err)
			}
		}
		v.Move("octo/web", "1003", slipway.BuildRunning)
		w.look("ci")
		if got := status("1003"); got != "failed" {
			t.Fatalf("before anybody named it: %s", got)
		}
		name("1003")
		name("1003")
		name("1149")    // stands in the list
		name("no-such") // is not there at all
		v.Break(fake.Down)
		w.look("ci")
		v.Break(fake.None)
		w.clock.forward(time.Hour)
		w.look("ci")
		if got := status("1003"); got != "running" {
			t.Errorf("once it was named: %s", got)
		}
		if got := status("1149"); got != "failed" {
			t.Errorf("one of the list: %s", got)
		}
		var left int
		if err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM task_asked`).Scan(&left); err != nil || left != 0 {
			t.Errorf("%d are still asked for, %v", left, err)
		}
		// It runs now, so that every look asks for it, until it has ended.
		v.Move("octo/web", "1003", slipway.BuildSucceeded)
		w.clock.forward(time.Hour)
		w.look("ci")
		if got := status("1003"); got != "succeeded" {
			t.Errorf("after it ended: %s", got)
		}
		v.Forget("octo/web", "1004")
		name("1004")
		w.look("ci")
		if got := status("1004"); got != "failed" {
			t.Errorf("a finished one that the vendor deleted is %s", got)
		}
	})
}

func TestBindingsFollowAnnotationsAndProviders(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		one, two := fake.New(fake.Config{}), fake.New(fake.Config{})
		one.Add("octo/web", slipway.Build{ID: "1", CreatedAt: at(1), Status: slipway.BuildSucceeded})
		two.Add("octo/web", slipway.Build{ID: "2", CreatedAt: at(2), Status: slipway.BuildSucceeded})
		two.Project("octo/mono")
		one.Add("octo/mono", slipway.Build{ID: "3", CreatedAt: at(3), Status: slipway.BuildSucceeded})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.vendors(map[string]*fake.Vendor{"one": one}) // after the entity
		w.await(web, 1)
		w.vendors(map[string]*fake.Vendor{"one": one, "two": two})
		w.await(web, 2)
		web = w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web, octo/mono"})
		w.await(web, 3)
		api := w.entity("api", "team-a", map[string]string{fake.Annotation: "octo/mono"})
		w.await(api, 1)
		if p, err := w.runs.SearchAll(t.Context(), system, Scope{}, Query{}); err != nil || fmt.Sprint(ids(p)) != "[3 2 1]" || builds(p)[0].EntityRef != api.String() {
			t.Errorf("across entities: %v, %v; want a build of two entities once, under the first", ids(p), err)
		}
		w.vendors(map[string]*fake.Vendor{"two": two})
		eventually(t, "one is detached", func() bool {
			p := w.search(web, Query{})
			return len(p.Items) == 3 && slices.ContainsFunc(p.Sources, func(s slipway.Source) bool { return s.Provider == "one" && s.State == slipway.SourceDetached })
		})
		w.vendors(map[string]*fake.Vendor{"one": one, "two": two})
		one.Add("octo/web", slipway.Build{ID: "4", CreatedAt: at(4), Status: slipway.BuildSucceeded})
		if got := fmt.Sprint(ids(w.search(web, Query{Fresh: true}))); got != "[4 3 2 1]" {
			t.Errorf("after the provider came back: %s", got)
		}
		w.entity("web", "team-a", nil)
		eventually(t, "unbound", func() bool { return len(w.search(web, Query{}).Items) == 0 })
		err := w.db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := w.entities.Remove(t.Context(), tx, "test", []slipway.EntityRef{api.Lower()})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "no binding is left", func() bool {
			var n int
			return w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM task_binding`).Scan(&n) == nil && n == 0
		})
	})
}

func TestPruneDeletesOldFinishedItems(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		for i := range 5 {
			v.Add("octo/web", slipway.Build{ID: fmt.Sprint(i), CreatedAt: time.Now().Add(-time.Duration(i) * 24 * time.Hour), Status: slipway.BuildSucceeded})
		}
		v.Add("octo/web", slipway.Build{ID: "slow", CreatedAt: time.Now().Add(-80 * 24 * time.Hour)})
		w.look("ci")
		n, err := w.Prune(t.Context(), "run", 60*time.Hour)
		if got := fmt.Sprint(ids(w.search(web, Query{}))); err != nil || n != 2 || got != "[0 1 2 slow]" {
			t.Errorf("pruned %d, %v; left %s", n, err, got)
		}
	})
}

// Branches come and go: what no item has any more is forgotten with the items, and what one still has is found as before.
func TestPruneForgetsTheValuesThatNoItemHas(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		for i := range 130 {
			v.Add("octo/web", slipway.Build{
				CreatedAt: time.Now().Add(-100*24*time.Hour + time.Duration(i)*time.Minute), Status: slipway.BuildSucceeded,
				Commit: &slipway.Commit{Branch: fmt.Sprintf("feature-%03d", i)}, TriggeredBy: &slipway.Person{ID: "jane", Email: "jane@example.com"},
			})
		}
		v.Add("octo/web", slipway.Build{
			ID: "new", CreatedAt: time.Now(), Status: slipway.BuildSucceeded, Commit: &slipway.Commit{Branch: "feature-007"}, TriggeredBy: &slipway.Person{ID: "jane", Email: "jane@example.com"},
		})
		for range 2 {
			w.look("ci")
		}
		if n, err := w.Prune(t.Context(), "run", 60*24*time.Hour); n != 130 || err != nil {
			t.Fatalf("pruned %d, %v", n, err)
		}
		var branches, aliases int
		err := w.db.QueryRowContext(t.Context(), `SELECT (SELECT COUNT(*) FROM task_term WHERE field = 'branch'), (SELECT COUNT(*) FROM task_alias WHERE field = 'branch')`).Scan(&branches, &aliases)
		if err != nil || branches != 1 || aliases != 1 {
			t.Errorf("%d branches with %d aliases are left, %v; want one", branches, aliases, err)
		}
		for field, value := range map[string]string{"branch": "feature-007", "triggeredBy": "jane@example.com"} {
			if got := ids(w.search(web, Query{Filters: map[string][]string{field: {value}}})); len(got) != 1 || got[0] != "new" {
				t.Errorf("%s=%s: got %v, want new", field, value, got)
			}
		}
		v.Add("octo/web", slipway.Build{ID: "again", CreatedAt: time.Now(), Status: slipway.BuildSucceeded, Commit: &slipway.Commit{Branch: "feature-008"}})
		w.look("ci")
		if got := ids(w.search(web, Query{Filters: map[string][]string{"branch": {"feature-008"}}})); len(got) != 1 || got[0] != "again" {
			t.Errorf("a branch that came again: got %v", got)
		}
	})
}

func TestAVendorThatDoesNotAnswerIsLeftAloneForAWhile(t *testing.T) {
	t.Parallel()
	var h health
	now := at(0)
	down := slipway.Errorf(slipway.Unavailable, "down")
	for i := range patience {
		if err := h.check("ci", now); err != nil {
			t.Fatalf("after %d failures it is not asked any more: %v", i, err)
		}
		h.report("ci", now, down)
	}
	if err := h.check("ci", now); !errors.Is(err, slipway.Unavailable) {
		t.Errorf("after %d failures: got %v, want unavailable", patience, err)
	}
	if err := h.check("other", now); err != nil {
		t.Errorf("another provider: %v", err)
	}
	now = now.Add(maxRest)
	if err := h.check("ci", now); err != nil {
		t.Errorf("after a rest: %v", err)
	}
	h.report("ci", now, slipway.Errorf(slipway.NotFound, "no such project"))
	h.report("ci", now, down)
	if err := h.check("ci", now); err != nil {
		t.Errorf("one failure after an answer: %v", err)
	}
	h.report("ci", now, slipway.Errorf(slipway.RateLimited, "enough").After(time.Hour))
	if err := h.check("ci", now.Add(59*time.Minute)); !errors.Is(err, slipway.RateLimited) {
		t.Errorf("before the time that the vendor named: %v", err)
	}
}

func TestWhatCannotStandInATableHoldsUpNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		v.Now = w.clock.now
		v.Project("octo/web")
		odd := slipway.Build{ID: "1", CreatedAt: at(1), Status: slipway.BuildFailed, Commit: &slipway.Commit{SHA: "abc", Branch: "ma\x00in"}, TriggeredBy: &slipway.Person{ID: "ja\x00ne", Name: "\xff"}}
		v.Add("octo/web", odd)
		odd.ID = "2\x00"
		v.Add("octo/web", odd)
		v.Add("octo/web", slipway.Build{ID: "3", CreatedAt: at(3), Status: slipway.BuildSucceeded})
		w.vendors(map[string]*fake.Vendor{"ci": v})
		ref := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.await(ref, 2)
		p := w.search(ref, Query{Filters: map[string][]string{"branch": {"main"}}})
		if got := fmt.Sprint(ids(p)); got != "[1]" || p.Sources[0].State != slipway.SourceFresh {
			t.Errorf("of the branch: %s, %+v", got, p.Sources)
		}
	})
}
