package task

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/store"
)

// restricted is a world with two entities at the provider ci, which shows its items only to those who may see them there, and a build in each.
func restricted(t *testing.T, test func(t *testing.T, w *world, v *fake.Vendor, web, api slipway.EntityRef)) {
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		v.Now = w.clock.now
		v.Project("octo/web")
		v.Project("octo/api")
		v.Admit("janes-token", "octo/web")
		w.visibility(v, visibleAtSource)
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		api := w.entity("api", "team-a", map[string]string{fake.Annotation: "octo/api"})
		eventually(t, "the first look", func() bool {
			var n int
			err := w.db.QueryRowContext(context.Background(), `SELECT COUNT(*) FROM task_source WHERE as_of IS NOT NULL`).Scan(&n)
			return err == nil && n == 2
		})
		for i, project := range []string{"octo/web", "octo/api"} { // after the first look, so that events tell of them
			v.Add(project, slipway.Build{ID: fmt.Sprint(i), CreatedAt: at(i), Status: slipway.BuildFailed})
		}
		if _, err := w.runs.Search(t.Context(), system, web, Query{Fresh: true}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := w.runs.Search(t.Context(), system, api, Query{Fresh: true}, nil); err != nil {
			t.Fatal(err)
		}
		test(t, w, v, web, api)
	})
}

func (w *world) visibility(v *fake.Vendor, visibility string) {
	w.t.Helper()
	err := w.SetProviders(context.Background(), []Provider{{Name: "ci", Type: "fake", Provider: v.Provider(), Settings: Settings{Visibility: visibility}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func showing(t *testing.T, tokens string) context.Context {
	t.Helper()
	ctx, err := WithTokens(t.Context(), []string{tokens})
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

// anybody is a caller whom Slipway itself hides nothing from.
func anybody(name string) *slipway.Caller {
	return &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/" + name, Grants: []slipway.Grant{{Permission: "*"}}}
}

func TestItemsAreShownToThoseWhoSeeThemAtTheVendor(t *testing.T) {
	t.Parallel()
	restricted(t, func(t *testing.T, w *world, v *fake.Vendor, web, api slipway.EntityRef) {
		jane, joe := anybody("jane"), anybody("joe")
		// seen is what a caller is shown in every way there is.
		seen := func(ctx context.Context, who *slipway.Caller) string {
			t.Helper()
			var all []string
			for _, ref := range []slipway.EntityRef{web, api} {
				p, err := w.runs.Search(ctx, who, ref, Query{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if hidden := p.Sources[0].State == slipway.SourceHidden; hidden != (len(p.Items) == 0) {
					t.Errorf("%d items of a source that is %s", len(p.Items), p.Sources[0].State)
				}
				all = append(all, ids(p)...)
			}
			p, err := w.runs.SearchAll(ctx, who, Scope{}, Query{})
			if err != nil {
				t.Fatal(err)
			}
			plan, err := w.runs.plan(who, "", Query{})
			if err != nil {
				t.Fatal(err)
			}
			wide, err := w.runs.itemsByTime(ctx, w.viewer(ctx, who), Scope{}, plan)
			if err != nil {
				t.Fatal(err)
			}
			events, _, err := w.Events.List(ctx, who, 0, []string{"run.*"}, 100)
			if err != nil {
				t.Fatal(err)
			}
			var gotten []string
			for i, ref := range []slipway.EntityRef{web, api} {
				_, err := w.runs.Get(ctx, who, ref, fmt.Sprintf("ci:%d", i), nil)
				switch {
				case err == nil:
					gotten = append(gotten, fmt.Sprint(i))
				case !errors.Is(err, slipway.Forbidden):
					t.Errorf("get: %v, want forbidden", err)
				}
			}
			return fmt.Sprint(all, ids(p), ids(wide), gotten, len(events))
		}
		const nothing, one, all = "[] [] [] [] 0", "[0] [0] [0] [0] 1", "[0 1] [1 0] [1 0] [0 1] 2"
		if got := seen(t.Context(), jane); got != nothing {
			t.Errorf("without a token: %s", got)
		}
		if got := seen(showing(t, "ci=janes-token"), jane); got != one {
			t.Errorf("with a token that may see one project: %s", got)
		}
		asked := v.Asked()
		if asked != 2 {
			t.Errorf("the vendor was asked %d times for one caller and two projects", asked)
		}
		if got := seen(showing(t, "ci=janes-token"), jane); got != one || v.Asked() != asked {
			t.Errorf("again: %s, asked %d times more", got, v.Asked()-asked)
		}
		if got := seen(t.Context(), jane); got != nothing {
			t.Errorf("without a token, after one was shown: %s", got)
		}
		if got := seen(showing(t, "ci=joes-token"), joe); got != nothing {
			t.Errorf("with a token that nobody knows: %s", got)
		}
		before := v.Asked()
		if got := seen(showing(t, "ci=janes-token"), joe); got != one || v.Asked() == before {
			t.Errorf("what one caller was told served another: %s, asked %d times", got, v.Asked()-before)
		}
		if got := seen(showing(t, "other=janes-token"), jane); got != nothing {
			t.Errorf("with a token for another provider: %s", got)
		}
		if got := seen(t.Context(), system); got != all {
			t.Errorf("Slipway itself: %s", got)
		}
		var kept string
		rows, err := w.db.QueryContext(t.Context(), `SELECT viewer FROM task_access`)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				t.Fatal(err)
			}
			kept += s
		}
		if rows.Err() != nil || kept == "" || strings.Contains(kept, "token") || strings.Contains(kept, "jane") {
			t.Errorf("kept: %q, %v", kept, rows.Err())
		}

		w.visibility(v, visibleToReaders)
		if got := seen(t.Context(), jane); got != all {
			t.Errorf("once it is visible to all readers: %s", got)
		}
		w.visibility(v, visibleAtSource)
		if err := w.SetProviders(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if got := seen(showing(t, "ci=janes-token"), jane); got != nothing {
			t.Errorf("once the provider is removed: %s", got)
		}
	})
}

func TestWhatAVendorSaidOfACallerIsForgotten(t *testing.T) {
	t.Parallel()
	restricted(t, func(t *testing.T, w *world, v *fake.Vendor, web, _ slipway.EntityRef) {
		jane := anybody("jane")
		sees := func() int {
			t.Helper()
			p, err := w.runs.Search(showing(t, "ci=janes-token"), jane, web, Query{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return len(p.Items)
		}
		if sees() != 1 {
			t.Fatal("jane sees nothing")
		}
		w.clock.forward(accessGranted + time.Second)
		v.Admit("janes-token")
		if sees() != 0 {
			t.Error("a right that was taken back at the vendor still counts after some minutes")
		}
		v.Admit("janes-token", "octo/web")
		w.clock.forward(accessRefused + time.Second)
		if sees() != 1 {
			t.Error("a right that was given at the vendor does not count after a minute")
		}
		w.clock.forward(accessGranted + time.Second)
		v.Break(fake.Down)
		if sees() != 1 {
			t.Error("while the vendor does not answer, what it said minutes ago does not count")
		}
		for range 70 {
			w.clock.forward(accessRefused + time.Second)
			sees()
		}
		if sees() != 0 {
			t.Error("while the vendor does not answer, what it said hours ago counts")
		}
	})
}

func TestWhatAnOlderReplicaWroteShowsNothing(t *testing.T) {
	t.Parallel()
	restricted(t, func(t *testing.T, w *world, _ *fake.Vendor, web, _ slipway.EntityRef) {
		err := w.db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE task_source SET restricted = FALSE`) // as one writes that has not heard yet that the provider hides them
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		jane := anybody("jane")
		p, err := w.runs.Search(t.Context(), jane, web, Query{}, nil)
		if err != nil || len(p.Items) != 0 || p.Sources[0].State != slipway.SourceHidden {
			t.Errorf("%d items, %+v, %v", len(p.Items), p.Sources, err)
		}
		if events, _, err := w.Events.List(t.Context(), jane, 0, []string{"run.*"}, 100); err != nil || len(events) != 0 {
			t.Errorf("%d events, %v", len(events), err)
		}
		if p, err = w.runs.Search(showing(t, "ci=janes-token"), jane, web, Query{}, nil); err != nil || len(p.Items) != 1 {
			t.Errorf("with a token: %d items, %v", len(p.Items), err)
		}
	})
}

func TestWhatIsSeenOfSourcesIsThatOfTheOneThatIsMeant(t *testing.T) {
	t.Parallel()
	restricted(t, func(t *testing.T, w *world, _ *fake.Vendor, _, _ slipway.EntityRef) {
		jane := anybody("jane")
		for tokens, want := range map[string]string{"": "[]", "ci=janes-token": "[octo/web]"} {
			ctx := t.Context()
			if tokens != "" {
				ctx = showing(t, tokens)
			}
			if err := w.Admit(ctx, jane, ""); err != nil {
				t.Fatal(err)
			}
			sees, args := w.Sees(ctx, jane, "s.id", 1)
			rows, err := w.db.QueryContext(ctx, `SELECT s.project FROM task_source s WHERE `+sees, args...)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for rows.Next() {
				var project string
				if err := rows.Scan(&project); err != nil {
					t.Fatal(err)
				}
				got = append(got, project)
			}
			if rows.Err() != nil || fmt.Sprint(got) != want {
				t.Errorf("with tokens %q: %v, %v; want %s", tokens, got, rows.Err(), want)
			}
		}
	})
}

func TestTheProjectThatIsMeantIsAskedAboutBeforeAllOthers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		v.Now = w.clock.now
		w.visibility(v, visibleAtSource)
		var projects []string
		for i := range 2 * accessChecks {
			name := fmt.Sprintf("octo/p%d", i)
			v.Project(name)
			projects = append(projects, name)
		}
		last := projects[len(projects)-1]
		v.Admit("janes-token", last)
		for i, part := range [][]string{projects[:accessChecks], projects[accessChecks:]} {
			w.entity(fmt.Sprintf("e%d", i), "team-a", map[string]string{fake.Annotation: strings.Join(part, ",")})
		}
		count := func(condition string, args []any) (n int) {
			t.Helper()
			if err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM task_source s WHERE `+condition, args...).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		eventually(t, "its projects", func() bool { return count("TRUE", nil) == len(projects) })
		for _, name := range []string{last, "ci:" + last} {
			jane := anybody(name)
			ctx := showing(t, "ci=janes-token")
			if err := w.Admit(ctx, jane, name); err != nil {
				t.Fatal(err)
			}
			if n := count(w.Sees(ctx, jane, "s.id", 1)); n != 1 {
				t.Errorf("%s: %d projects are seen, want that one", name, n)
			}
		}
	})
}

func TestATokenThatNobodyKnowsIsNotTriedAtEveryProject(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		v.Now = w.clock.now
		var projects []string
		for i := range 40 {
			name := fmt.Sprintf("octo/p%d", i)
			v.Project(name)
			projects = append(projects, name)
		}
		p := v.Provider()
		var asked atomic.Int64
		p.Access = func(context.Context, string, provider.Secret) error {
			asked.Add(1)
			return slipway.Errorf(slipway.Unauthenticated, "nobody knows this token")
		}
		err := w.SetProviders(t.Context(), []Provider{{Name: "ci", Type: "fake", Provider: p, Settings: Settings{Visibility: visibleAtSource}}})
		if err != nil {
			t.Fatal(err)
		}
		ref := w.entity("web", "team-a", map[string]string{fake.Annotation: strings.Join(projects, ",")})
		eventually(t, "its projects", func() bool { return len(w.search(ref, Query{}).Sources) == len(projects) })
		got, err := w.runs.Search(showing(t, "ci=guessed"), anybody("jane"), ref, Query{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range got.Sources {
			if s.State != slipway.SourceHidden {
				t.Errorf("%s is %s", s.Project, s.State)
			}
		}
		if n := asked.Load(); n > accessAtOnce {
			t.Errorf("the vendor was asked %d times about a token that it does not know", n)
		}
	})
}

func TestAProviderThatCannotAskShowsNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		p := v.Provider()
		p.Access = nil
		if err := w.SetProviders(t.Context(), []Provider{{Name: "ci", Type: "fake", Provider: p, Settings: Settings{Visibility: visibleAtSource}}}); err != nil {
			t.Fatal(err)
		}
		if o := w.Providers()[0]; o.Err == nil || o.Provider != nil {
			t.Errorf("got %+v, want a provider that did not open", o)
		}
	})
}

// (The harness refuses a transaction that changes more than 500 rows.)
func TestTheVisibilityOfManySourcesChangesInSmallTransactions(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		w.visibility(v, visibleToReaders)
		const n = 1000
		for from := 0; from < n; from += 200 {
			err := w.db.Write(t.Context(), func(tx *store.Tx) error {
				for i := range 200 {
					if _, err := tx.Exec(t.Context(), `INSERT INTO task_source (task, provider, type, project, next_refresh) VALUES ('run', 'ci', 'fake', $1, 0)`, fmt.Sprint(from+i)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for visibility, want := range map[string]int{visibleAtSource: n, visibleToReaders: 0} {
			w.visibility(v, visibility)
			var hidden int
			if err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM task_source WHERE restricted`).Scan(&hidden); err != nil || hidden != want {
				t.Errorf("%s: %d sources are hidden, %v; want %d", visibility, hidden, err, want)
			}
		}
	})
}

func TestTokensAreReadFromTheHeader(t *testing.T) {
	t.Parallel()
	ctx, err := WithTokens(t.Context(), []string{"ci=a=b==, github = ghp_1 ", "gitea=x"})
	if got := tokensFrom(ctx); err != nil || string(got["ci"]) != "a=b==" || string(got["github"]) != "ghp_1" || string(got["gitea"]) != "x" {
		t.Errorf("got %d tokens, %v", len(got), err)
	}
	for _, bad := range []string{"", "ci", "=x", "ci=", "ci=a b", "ci=a,ci=b", "ci=" + strings.Repeat("x", 5000), "ci=secret,"} {
		if _, err := WithTokens(t.Context(), []string{bad}); !errors.Is(err, slipway.Invalid) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%.20q: got %v, want invalid, without what was sent", bad, err)
		}
	}
}

func TestReplicasShareWhatIsHeld(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.stop()
		clocks := []func() time.Time{time.Now, func() time.Time { return time.Now().Add(-time.Hour) }} // the other one's clock is off
		if w.db.Engine() == store.SQLite {
			clocks[1] = time.Now // it has one process
		}
		ctx := t.Context()
		var hold [2]*holds
		var revisions [2]*store.Revisions
		for i := range hold {
			revisions[i] = store.NewRevisions(w.db, w.Log)
			hold[i] = NewHolds(w.db, revisions[i], clocks[i], w.Log).(*holds)
		}
		left := func(i int) time.Duration {
			until, err := hold[i].Until(ctx, "ci.example.com a")
			if err != nil {
				t.Fatal(err)
			}
			return until.Sub(clocks[i]())
		}
		about := func(what string, i int, want time.Duration) {
			t.Helper()
			eventually(t, what, func() bool {
				if err := revisions[i].Poll(ctx); err != nil {
					t.Fatal(err)
				}
				d := left(i) - want
				return d > -5*time.Second && d < 5*time.Second
			})
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(hold[0].Hold(ctx, "ci.example.com a", clocks[0]().Add(time.Minute)))
		about("the hold of another replica", 1, time.Minute)
		must(hold[1].Hold(ctx, "ci.example.com a", clocks[1]().Add(time.Second))) // the later one counts
		about("the longer one", 0, time.Minute)
		about("the longer one", 1, time.Minute)
		must(hold[1].Release(ctx, "ci.example.com a"))
		eventually(t, "that it was released", func() bool {
			must(revisions[0].Poll(ctx))
			until, err := hold[0].Until(ctx, "ci.example.com a")
			return err == nil && until.IsZero()
		})

		// Of all who may try a host again, one does.
		must(hold[0].Hold(ctx, "ci.example.com *", clocks[0]().Add(-time.Second)))
		tries := 0
		for i := range hold {
			mine, err := hold[i].Probe(ctx, "ci.example.com *", time.Minute)
			must(err)
			if mine {
				tries++
			}
		}
		if tries != 1 {
			t.Errorf("%d replicas try a host that did not answer, want one", tries)
		}
		if mine, err := hold[1].Probe(ctx, "other.example.com *", time.Minute); err != nil || !mine {
			t.Errorf("a host that nobody holds: %v, %v", mine, err)
		}
	})
}

func TestWhatAVendorSaysAgainIsWrittenOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.stop()
		h := NewHolds(w.db, store.NewRevisions(w.db, w.Log), time.Now, w.Log)
		until := time.Now().Add(time.Hour)
		for i := range 100 {
			if err := h.Hold(t.Context(), "ci.example.com a", until.Add(time.Duration(i)*time.Millisecond)); err != nil {
				t.Fatal(err)
			}
		}
		var n int
		if err := w.db.QueryRowContext(t.Context(), `SELECT n FROM revision WHERE name = $1`, holdRevision).Scan(&n); err != nil || n != 1 {
			t.Errorf("%d writes, %v; want one", n, err)
		}
	})
}

func TestSourcesAreReadAsOftenAsTheyAreBusy(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, w *world, v *fake.Vendor, web slipway.EntityRef) {
		// apart is how far the next look is away, as it is planned.
		apart := func() time.Duration {
			t.Helper()
			w.look("ci")
			return w.source("ci").Next.Sub(w.clock.now())
		}
		within := func(what string, got, want time.Duration) {
			t.Helper()
			if got < want*8/10 || got > want*12/10 {
				t.Errorf("%s: the next look comes in %v, want about %v", what, got, want)
			}
		}
		within("a project where nothing ever was", apart(), 4*time.Minute)
		build := v.Add("octo/web", slipway.Build{Status: slipway.BuildRunning})
		within("while a build runs", apart(), 15*time.Second)
		v.Move("octo/web", build.ID, slipway.BuildSucceeded)
		within("right after it", apart(), time.Minute)
		w.clock.forward(20 * time.Minute)
		within("when it was quiet for 20 minutes", apart(), 2*time.Minute)
		w.clock.forward(10 * time.Hour)
		within("when it was quiet for hours", apart(), 4*time.Minute)

		w.clock.forward(time.Minute)
		if s := w.search(web, Query{}).Sources[0]; s.State != slipway.SourceFresh {
			t.Errorf("a minute after the last look the source is %s: %s", s.State, s.Error)
		}
		w.Wait()
		var waiting int
		err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM job WHERE kind = 'run.refresh' AND state IN ('available', 'scheduled')`).Scan(&waiting)
		if err != nil || waiting != 1 {
			t.Errorf("somebody looked, and %d looks at the vendor wait, %v; want one", waiting, err)
		}
		h, body := v.Notification("octo/web", v.Add("octo/web", slipway.Build{Status: slipway.BuildRunning}).ID)
		if n, err := w.Deliver(t.Context(), "ci", h, body); err != nil || n != 1 {
			t.Fatalf("%d changes, %v", n, err)
		}
		if next := w.source("ci").Next.Sub(w.clock.now()); next > time.Minute {
			t.Errorf("after a webhook the next look comes in %v, want a minute at most", next)
		}
	})
}

func TestHowMuchHistoryIsReadCanBeSet(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		for i := range 500 {
			v.Add("octo/web", slipway.Build{CreatedAt: time.Now().Add(-time.Duration(i) * time.Hour), Status: slipway.BuildSucceeded})
		}
		list := func(name string, h History) Provider {
			p := v.Provider()
			p.Projects = func(e *slipway.Entity) []string {
				if e.Metadata.Annotations["only"] == name {
					return []string{"octo/web"}
				}
				return nil
			}
			return Provider{Name: name, Type: "fake", Provider: p, Settings: Settings{History: h}}
		}
		if err := w.SetProviders(t.Context(), []Provider{
			list("few", History{Items: 250}), list("young", History{Age: slipway.Duration(30 * time.Hour)}), list("none", History{Items: -1}), list("all", History{}),
		}); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int{"few": 250, "young": 200, "none": 100, "all": 500} { // in pages of 100
			ref := w.entity(name, "team-a", map[string]string{"only": name})
			eventually(t, fmt.Sprintf("%d builds of %s", want, name), func() bool {
				p := w.search(ref, Query{Limit: 100, PageNumber: want / 100})
				if len(p.Items) == 0 || want%100 == 0 && p.PageInfo.HasMore {
					return false
				}
				s := w.source(name)
				return !s.Filling && s.Looks > 0
			})
		}
	})
}

// A provider keeps its name when its address changes. What the vendor at the old one said of a caller says nothing of the new one.
func TestWhatAVendorGrantedCountsForNoOtherInItsPlace(t *testing.T) {
	t.Parallel()
	restricted(t, func(t *testing.T, w *world, v *fake.Vendor, web, _ slipway.EntityRef) {
		other := fake.New(fake.Config{})
		other.Now = w.clock.now
		other.Project("octo/web")
		become := func(v *fake.Vendor, config string) {
			t.Helper()
			err := w.SetProviders(t.Context(), []Provider{{
				Name: "ci", Type: "fake", Provider: v.Provider(), Settings: Settings{Visibility: visibleAtSource}, Opened: Opened("fake", []byte(config)),
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		shown := func() (n int) {
			t.Helper()
			p, err := w.runs.Search(showing(t, "ci=janes-token"), anybody("jane"), web, Query{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			all, err := w.runs.SearchAll(showing(t, "ci=janes-token"), anybody("jane"), Scope{}, Query{})
			if err != nil || len(all.Items) != len(p.Items) {
				t.Errorf("%d of the entity, %d of all, %v", len(p.Items), len(all.Items), err)
			}
			return len(p.Items)
		}
		become(v, "https://one.example.com")
		if n := shown(); n != 1 {
			t.Fatalf("%d shown where the vendor admits", n)
		}
		become(other, "https://two.example.com")
		if n := shown(); n != 0 || other.Asked() == 0 {
			t.Errorf("%d shown by another vendor that does not admit, which was asked %d times", n, other.Asked())
		}
		become(v, "https://one.example.com")
		before := v.Asked()
		if n := shown(); n != 1 || v.Asked() != before {
			t.Errorf("%d shown by the first again, asked %d times more", n, v.Asked()-before)
		}
	})
}
