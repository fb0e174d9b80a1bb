package providertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// BuilderHarness is a fresh builder that builds nothing yet. Functions that are nil skip what needs them.
type BuilderHarness struct {
	Builder    *provider.Builder
	Repository string // one that can be built
	Ref        string // a branch of it
	Commit     string // full id of the commit that the branch stands for
	Builds     *provider.Builds
	Unresolved bool // the builder resolves refs by itself, and takes no commit for them

	Move   func(t testing.TB, id string, status slipway.BuildStatus) // lets a build that was started come so far: running, succeeded, failed. It returns when the builder shows it, or before
	Write  func(t testing.TB, id, text string)                       // has a running build print a line; nil: what Move prints is looked at
	Fill   func(t testing.TB)                                        // the builder has no room any more
	Drain  func(t testing.TB)                                        // it has room again
	Forget func(t testing.TB, tool, id string)                       // a finished build is gone
	Down   func(t testing.TB)                                        // the builder does not answer any more
	Hang   func(t testing.TB)                                        // it takes requests and never answers
	Refuse func(t testing.TB)                                        // it does not accept our credential
	Lose   func(t testing.TB)                                        // it does what the next start asks for, but its answer is lost
}

// RunBuilder checks a provider's Builder. open makes a fresh harness for each check; it may use t for clean-up.
func RunBuilder(t *testing.T, open func(t *testing.T) BuilderHarness) {
	h := open(t)
	b := h.Builder
	if b == nil || b.Start == nil || b.Get == nil || b.Cancel == nil || b.List == nil || b.Logs == nil {
		t.Fatal("a builder needs all of its functions")
	}
	for _, check := range []struct {
		name  string
		needs func(BuilderHarness) bool
		test  func(*testing.T, BuilderHarness)
	}{
		{"a build is started and keeps its order", nil, testOrderOfABuild},
		{"the same key gives the same build", nil, testKey},
		{"a key is taken once, however many come", nil, testKeyAtOnce},
		{"an answer that was lost costs no second build", func(h BuilderHarness) bool { return h.Lose != nil }, testLost},
		{"lists are chosen and newest first", nil, testComponentList},
		{"another tool's builds are not found", nil, testForeignBuilds},
		{"what is missing is not found", nil, testMissingBuilds},
		{"builds are well-formed in every status", func(h BuilderHarness) bool { return h.Move != nil }, testComponentStatuses},
		{"a running build is canceled", func(h BuilderHarness) bool { return h.Move != nil }, testCancelBuild},
		{"a finished build is not canceled", func(h BuilderHarness) bool { return h.Move != nil }, testCancelFinished},
		{"logs", func(h BuilderHarness) bool { return h.Move != nil }, testComponentLogs},
		{"a builder without room asks to come again", func(h BuilderHarness) bool { return h.Fill != nil && h.Drain != nil }, testFull},
		{"a forgotten build is not found", func(h BuilderHarness) bool { return h.Forget != nil && h.Move != nil }, testForgotten},
		{"what cannot be built is refused", nil, testRefusedOrders},
		{"a builder that is down is unavailable", func(h BuilderHarness) bool { return h.Down != nil }, codedBuilder(func(h BuilderHarness) func(testing.TB) { return h.Down }, slipway.Unavailable)},
		{"a refused credential is told", func(h BuilderHarness) bool { return h.Refuse != nil }, codedBuilder(func(h BuilderHarness) func(testing.TB) { return h.Refuse }, slipway.Unauthenticated, slipway.Forbidden)},
		{"a builder that hangs does not hold the caller", func(h BuilderHarness) bool { return h.Hang != nil }, testBuilderHangs},
		{"a cancelled context ends calls", nil, testBuilderCanceled},
		{"the builds of components are builds of their projects", func(h BuilderHarness) bool { return h.Builds != nil }, testBuildsOfTools},
	} {
		t.Run(check.name, func(t *testing.T) {
			h := open(t)
			if check.needs != nil && !check.needs(h) {
				t.Skip("this builder or its harness has no part in it")
			}
			check.test(t, h)
		})
	}
}

func (h BuilderHarness) order(key, tool, component string) provider.BuildOrder {
	o := provider.BuildOrder{Key: key, Tool: tool, Component: component, Repository: h.Repository, Ref: h.Ref, Commit: h.Commit, By: asker}
	if h.Unresolved {
		o.Commit = ""
	}
	return o
}

func (h BuilderHarness) start(t testing.TB, key, tool, component string) provider.ComponentBuild {
	t.Helper()
	b, err := h.Builder.Start(t.Context(), h.order(key, tool, component))
	if err != nil {
		t.Fatalf("start of %s: %v", key, err)
	}
	return b
}

// until waits until a build is in a status.
func (h BuilderHarness) until(t testing.TB, tool, id string, status slipway.BuildStatus) provider.ComponentBuild {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		b, err := h.Builder.Get(t.Context(), tool, id)
		if err != nil {
			t.Fatal(err)
		}
		if b.Status == status {
			return b
		}
		if b.Status.Finished() || time.Now().After(deadline) {
			t.Fatalf("build %s is %s (%s), want %s", id, b.Status, b.Detail, status)
		}
	}
}

func (h BuilderHarness) list(t testing.TB, q provider.ComponentQuery) []provider.ComponentBuild {
	t.Helper()
	list, err := h.Builder.List(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func componentIDs(list []provider.ComponentBuild) []string {
	var all []string
	for _, b := range list {
		all = append(all, b.ID)
	}
	return all
}

func testOrderOfABuild(t *testing.T, h BuilderHarness) {
	o := h.order("mytool-1-web", "mytool", "web")
	o.LatestVersions, o.DeprecatedVersions = true, false
	started, err := h.Builder.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.Builder.Get(t.Context(), "mytool", started.ID)
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string]provider.ComponentBuild{"start": started, "get": got} {
		if err := wellFormed(b.Build); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		k := b.Order
		if b.ID != started.ID || k.Tool != o.Tool || k.Component != o.Component || k.Repository != o.Repository || k.LatestVersions != o.LatestVersions || k.DeprecatedVersions {
			t.Errorf("%s: got build %q of %+v, want what was ordered: %+v", what, b.ID, k, o)
		}
		if b.Commit != nil && b.Commit.SHA != h.Commit {
			t.Errorf("%s: got commit %q, want %q", what, b.Commit.SHA, h.Commit)
		}
	}
}

func testKey(t *testing.T, h BuilderHarness) {
	first := h.start(t, "mytool-1-web", "mytool", "web")
	again := h.start(t, "mytool-1-web", "mytool", "web")
	other := h.start(t, "mytool-2-web", "mytool", "web")
	if again.ID != first.ID || other.ID == first.ID {
		t.Errorf("got builds %s, %s with the same key and %s with another", first.ID, again.ID, other.ID)
	}
	if list := h.list(t, provider.ComponentQuery{Tool: "mytool"}); len(list) != 2 {
		t.Errorf("the tool has %d builds, want 2", len(list))
	}
}

func testKeyAtOnce(t *testing.T, h BuilderHarness) {
	const n = 6
	ids, errs := make([]string, n), make(chan error, n)
	for i := range n {
		go func() {
			b, err := h.Builder.Start(t.Context(), h.order("mytool-1-web", "mytool", "web"))
			ids[i] = b.ID
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	slices.Sort(ids)
	if distinct := slices.Compact(ids); len(distinct) != 1 || len(h.list(t, provider.ComponentQuery{Tool: "mytool"})) != 1 {
		t.Errorf("one key gave the builds %q", distinct)
	}
}

func testLost(t *testing.T, h BuilderHarness) {
	h.Lose(t)
	o := h.order("mytool-1-web", "mytool", "web")
	if _, err := h.Builder.Start(t.Context(), o); !errors.Is(err, slipway.Unavailable) {
		t.Errorf("a start whose answer is lost: got %v, want unavailable", err)
	}
	b := h.start(t, "mytool-1-web", "mytool", "web")
	if list := h.list(t, provider.ComponentQuery{Tool: "mytool"}); len(list) != 1 || list[0].ID != b.ID {
		t.Errorf("the tool has the builds %q, want one: %s", componentIDs(list), b.ID)
	}
}

func testComponentList(t *testing.T, h BuilderHarness) {
	if list := h.list(t, provider.ComponentQuery{Tool: "mytool"}); len(list) != 0 {
		t.Fatalf("a tool without builds has %d", len(list))
	}
	var ids []string
	for i, component := range []string{"web", "cron", "web"} {
		ids = append(ids, h.start(t, fmt.Sprintf("mytool-%d-x", i), "mytool", component).ID)
	}
	other := h.start(t, "other-1-web", "other", "web").ID
	list := h.list(t, provider.ComponentQuery{Tool: "mytool"})
	if got := componentIDs(list); len(got) != 3 || slices.Contains(got, other) {
		t.Errorf("got %q, want the tool's own three", got)
	}
	newestFirst := func(list []provider.ComponentBuild) bool {
		return slices.IsSortedFunc(list, func(a, b provider.ComponentBuild) int { return b.CreatedAt.Compare(a.CreatedAt) })
	}
	if !newestFirst(list) {
		t.Errorf("the list is not newest first: %v", componentIDs(list))
	}
	web := h.list(t, provider.ComponentQuery{Tool: "mytool", Component: "web"})
	if got := componentIDs(web); len(got) != 2 || slices.Contains(got, ids[1]) {
		t.Errorf("of one component: got %q, want %q and %q", got, ids[0], ids[2])
	}
	if one := h.list(t, provider.ComponentQuery{Tool: "mytool", Limit: 1}); len(one) != 1 || one[0].ID != list[0].ID {
		t.Errorf("one of them: got %q, want the newest, %s", componentIDs(one), list[0].ID)
	}
	if h.Move != nil {
		h.Move(t, ids[0], slipway.BuildSucceeded)
		h.until(t, "mytool", ids[0], slipway.BuildSucceeded)
		late := h.list(t, provider.ComponentQuery{Tool: "mytool", Since: time.Now().Add(time.Hour)})
		if got := componentIDs(late); slices.Contains(got, ids[0]) || !slices.Contains(got, ids[1]) || !slices.Contains(got, ids[2]) {
			t.Errorf("since an hour from now: got %q, want those that still run, %q", got, ids[1:])
		}
		if all := h.list(t, provider.ComponentQuery{Tool: "mytool", Since: time.Now().Add(-time.Hour)}); len(all) != 3 {
			t.Errorf("since an hour ago: got %q, want all three", componentIDs(all))
		}
	}
	switch all, err := h.Builder.List(t.Context(), provider.ComponentQuery{}); {
	case h.Builder.PerTool && !errors.Is(err, slipway.Invalid):
		t.Errorf("a list of all tools: got %v, want invalid", err)
	case !h.Builder.PerTool && (err != nil || len(all) != 4 || !newestFirst(all)):
		t.Errorf("a list of all tools: got %q, %v; want all four, newest first", componentIDs(all), err)
	}
}

func testForeignBuilds(t *testing.T, h BuilderHarness) {
	id := h.start(t, "mytool-1-web", "mytool", "web").ID
	h.start(t, "other-1-web", "other", "web")
	h.allMissing(t, "other", id)
	if b, err := h.Builder.Get(t.Context(), "mytool", id); err != nil || b.Status == slipway.BuildCanceled {
		t.Errorf("afterwards: got %v, %v; want the build as it was", b.Status, err)
	}
}

func testMissingBuilds(t *testing.T, h BuilderHarness) { h.allMissing(t, "mytool", missingID) }

func (h BuilderHarness) allMissing(t testing.TB, tool, id string) {
	t.Helper()
	_, err := h.Builder.Get(t.Context(), tool, id)
	errs := map[string]error{"get": err, "cancel": h.Builder.Cancel(t.Context(), tool, id)}
	log, err := h.Builder.Logs(t.Context(), tool, id, false)
	if err == nil {
		_, err = io.ReadAll(log)
		_ = log.Close()
	}
	errs["logs"] = err
	for what, err := range errs {
		if !errors.Is(err, slipway.NotFound) {
			t.Errorf("%s: got %v, want not found", what, err)
		}
	}
}

func testComponentStatuses(t *testing.T, h BuilderHarness) {
	for i, status := range []slipway.BuildStatus{slipway.BuildRunning, slipway.BuildSucceeded, slipway.BuildFailed} {
		component := fmt.Sprintf("c%d", i)
		id := h.start(t, "mytool-1-"+component, "mytool", component).ID
		h.Move(t, id, status)
		b := h.until(t, "mytool", id, status)
		if err := wellFormed(b.Build); err != nil {
			t.Errorf("a build that is %s: %v", status, err)
		}
		if status == slipway.BuildSucceeded && (b.Commit == nil || b.Commit.SHA != h.Commit) {
			t.Errorf("a build that has succeeded was made of %+v, want %s", b.Commit, h.Commit)
		}
		if status != slipway.BuildSucceeded && b.Image != "" {
			t.Errorf("a build that is %s has the image %q", status, b.Image)
		}
		list := h.list(t, provider.ComponentQuery{Tool: "mytool", Component: component})
		if len(list) != 1 || list[0].ID != id || list[0].Status != status || list[0].Image != b.Image {
			t.Errorf("the list shows %+v, want what get shows: %+v", list, b)
		}
	}
}

func testCancelBuild(t *testing.T, h BuilderHarness) {
	id := h.start(t, "mytool-1-web", "mytool", "web").ID
	h.Move(t, id, slipway.BuildRunning)
	h.until(t, "mytool", id, slipway.BuildRunning)
	if err := h.Builder.Cancel(t.Context(), "mytool", id); err != nil {
		t.Fatal(err)
	}
	if err := wellFormed(h.until(t, "mytool", id, slipway.BuildCanceled).Build); err != nil {
		t.Error(err)
	}
	if err := h.Builder.Cancel(t.Context(), "mytool", id); err != nil && !errors.Is(err, slipway.Conflict) {
		t.Errorf("cancel of a canceled build: got %v, want nothing or a conflict", err)
	}
}

func testCancelFinished(t *testing.T, h BuilderHarness) {
	id := h.start(t, "mytool-1-web", "mytool", "web").ID
	h.Move(t, id, slipway.BuildSucceeded)
	h.until(t, "mytool", id, slipway.BuildSucceeded)
	if err := h.Builder.Cancel(t.Context(), "mytool", id); !errors.Is(err, slipway.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	h.until(t, "mytool", id, slipway.BuildSucceeded)
}

func testComponentLogs(t *testing.T, h BuilderHarness) {
	id := h.start(t, "mytool-1-web", "mytool", "web").ID
	h.Move(t, id, slipway.BuildRunning)
	h.until(t, "mytool", id, slipway.BuildRunning)
	followed, err := h.Builder.Logs(t.Context(), "mytool", id, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = followed.Close() }()
	go func() {
		if h.Write != nil {
			h.Write(t, id, "hello from the build\n")
		}
		h.Move(t, id, slipway.BuildSucceeded)
	}()
	text, err := io.ReadAll(followed)
	if err != nil {
		t.Errorf("a followed log ends with its build: got %v", err)
	}
	if h.Write != nil && !strings.Contains(string(text), "hello from the build\n") {
		t.Errorf("the followed log has no line of the build: %q", text)
	}
	h.until(t, "mytool", id, slipway.BuildSucceeded)
	whole, err := h.Builder.Logs(t.Context(), "mytool", id, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = whole.Close() }()
	if again, err := io.ReadAll(whole); err != nil || string(again) != string(text) {
		t.Errorf("the log afterwards is %q, %v; want what was followed: %q", again, err, text)
	}
}

func testFull(t *testing.T, h BuilderHarness) {
	h.Fill(t)
	o := h.order("mytool-full", "mytool", "web")
	if _, err := h.Builder.Start(t.Context(), o); !errors.Is(err, slipway.RateLimited) {
		t.Fatalf("without room: got %v, want rate limited", err)
	}
	h.Drain(t)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, err := h.Builder.Start(t.Context(), o)
		if err == nil {
			return
		}
		if !errors.Is(err, slipway.RateLimited) || time.Now().After(deadline) {
			t.Fatalf("with room again: %v", err)
		}
	}
}

func testForgotten(t *testing.T, h BuilderHarness) {
	id := h.start(t, "mytool-1-web", "mytool", "web").ID
	h.Move(t, id, slipway.BuildSucceeded)
	h.until(t, "mytool", id, slipway.BuildSucceeded)
	h.Forget(t, "mytool", id)
	h.allMissing(t, "mytool", id)
	if list := h.list(t, provider.ComponentQuery{Tool: "mytool"}); len(list) != 0 {
		t.Errorf("the list still has %q", componentIDs(list))
	}
}

func testRefusedOrders(t *testing.T, h BuilderHarness) {
	for what, change := range map[string]func(*provider.BuildOrder){
		"no key":                      func(o *provider.BuildOrder) { o.Key = "" },
		"a key that is no name":       func(o *provider.BuildOrder) { o.Key = "../x y" },
		"a tool that is no name":      func(o *provider.BuildOrder) { o.Tool = "my/tool" },
		"a component that is no name": func(o *provider.BuildOrder) { o.Component = "web/../x" },
		"no repository":               func(o *provider.BuildOrder) { o.Repository = "" },
		"an address that is a flag":   func(o *provider.BuildOrder) { o.Repository = "--upload-pack=touch x" },
		"an address that is a script": func(o *provider.BuildOrder) { o.Repository = "ext::sh -c touch% x" },
		"a ref that is a flag":        func(o *provider.BuildOrder) { o.Ref, o.Commit = "--upload-pack=touch x", "" },
		"a commit that is none":       func(o *provider.BuildOrder) { o.Commit = "--depth" },
	} {
		o := h.order("mytool-1-web", "mytool", "web")
		change(&o)
		if b, err := h.Builder.Start(t.Context(), o); !errors.Is(err, slipway.Invalid) && !errors.Is(err, slipway.NotFound) {
			t.Errorf("%s: got build %q, %v; want invalid or not found", what, b.ID, err)
		}
	}
}

// builderCalls names every call that talks to the builder.
func builderCalls(h BuilderHarness, id string) map[string]func(context.Context) error {
	b := h.Builder
	return map[string]func(context.Context) error{
		"Start": func(ctx context.Context) error {
			_, err := b.Start(ctx, h.order("mytool-2-web", "mytool", "web"))
			return err
		},
		"Get":    func(ctx context.Context) error { _, err := b.Get(ctx, "mytool", id); return err },
		"Cancel": func(ctx context.Context) error { return b.Cancel(ctx, "mytool", id) },
		"List": func(ctx context.Context) error {
			_, err := b.List(ctx, provider.ComponentQuery{Tool: "mytool"})
			return err
		},
		"Logs": func(ctx context.Context) error {
			log, err := b.Logs(ctx, "mytool", id, false)
			if err != nil {
				return err
			}
			defer func() { _ = log.Close() }()
			_, err = io.ReadAll(log)
			return err
		},
	}
}

func codedBuilder(fault func(BuilderHarness) func(testing.TB), codes ...slipway.Code) func(*testing.T, BuilderHarness) {
	return func(t *testing.T, h BuilderHarness) {
		id := h.start(t, "mytool-1-web", "mytool", "web").ID
		fault(h)(t)
		for name, call := range builderCalls(h, id) {
			if err := call(t.Context()); !slices.Contains(codes, slipway.CodeOf(err)) {
				t.Errorf("%s: got %v, want %v", name, err, codes)
			}
		}
	}
}

func testBuilderHangs(t *testing.T, h BuilderHarness) {
	id := h.start(t, "mytool-1-web", "mytool", "web").ID
	h.Hang(t)
	for name, call := range builderCalls(h, id) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		ended := make(chan error, 1)
		go func() { ended <- call(ctx) }()
		select {
		case err := <-ended:
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, slipway.Unavailable) {
				t.Errorf("%s: got %v, want the context's error or unavailable", name, err)
			}
		case <-time.After(patience):
			t.Errorf("%s goes on %v after its context ended", name, patience)
		}
		cancel()
	}
}

func testBuilderCanceled(t *testing.T, h BuilderHarness) {
	id := h.start(t, "mytool-1-web", "mytool", "web").ID
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range builderCalls(h, id) {
		if err := call(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: got %v, want the context's error", name, err)
		}
	}
}

func testBuildsOfTools(t *testing.T, h BuilderHarness) {
	b := h.start(t, "mytool-1-web", "mytool", "web")
	h.start(t, "mytool-1-cron", "mytool", "cron")
	project := provider.ComponentProject("mytool", "web")
	page, err := h.Builds.List(t.Context(), project, provider.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list := whole(t, page)
	if len(list) != 1 || list[0].ID != b.ID {
		t.Fatalf("project %s has the builds %q, want %s", project, ids(list), b.ID)
	}
	got, err := h.Builds.Get(t.Context(), project, b.ID)
	if err != nil || got.ID != b.ID {
		t.Errorf("got build %q, %v", got.ID, err)
	}
	if err := wellFormed(got); err != nil {
		t.Error(err)
	}
}
