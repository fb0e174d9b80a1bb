// Package providertest is the conformance suite of providers: what package provider promises, checked offline for every vendor. A
// vendor's package calls Run with a harness that plays the vendor's side, usually a stub server over the vendor's own
// payloads; the in-memory vendor of package fake passes it too.
package providertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Harness is a fresh vendor with an opened provider in front of it. Functions that are nil skip what needs them; a skipped check says so.
type Harness struct {
	Provider *provider.Provider
	Project  string         // a project that is there, in the provider's notation, with no builds yet
	Missing  string         // a project that is not there
	Entity   slipway.Entity // one that Projects reads Project from

	Add      func(t testing.TB, b slipway.Build) (id string)                               // makes a build at the vendor: Status, Pipeline, Commit, TriggeredBy and CreatedAt are kept where the vendor can
	Move     func(t testing.TB, id string, status slipway.BuildStatus)                     // changes a build at the vendor
	Write    func(t testing.TB, id, text string)                                           // appends to a build's log
	Notify   func(t testing.TB, id string) (h http.Header, body []byte)                    // the signed webhook about a build as it stands
	Clear    bool                                                                          // webhooks bring the secret itself, which says nothing of their bodies
	Sign     func(body []byte) http.Header                                                 // the headers of a webhook with any body
	Unsigned func(t testing.TB, id string) (p *provider.Provider, h http.Header, b []byte) // a provider without a webhook secret, and a webhook for it
	Foreign  func(t testing.TB) (h http.Header, body []byte)                               // a signed webhook of a kind of event that means nothing to builds
	Down     func(t testing.TB)                                                            // the vendor does not answer any more
	Limit    func(t testing.TB)                                                            // the vendor refuses for now, and says until when
	Hang     func(t testing.TB)                                                            // the vendor takes requests and never answers
	Refuse   func(t testing.TB)                                                            // the vendor does not accept our credential
	Deploy   func(t testing.TB, d slipway.Deployment) (id string)                          // makes a deployment at the vendor: Status, Environment and CreatedAt are kept where the vendor can
	Deploys  []slipway.DeploymentStatus                                                    // where a deployment can stand at the vendor; none: starting, running, succeeded or failed
	Admit    func(t testing.TB, sees bool) provider.Secret                                 // a token of somebody else's at the vendor, who may see the project or may not
}

// Run checks a provider. open makes a fresh harness for each check; it may use t for clean-up.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	h := open(t)
	if h.Provider == nil || h.Provider.Projects == nil {
		t.Fatal("a provider needs Projects")
	}
	if b := h.Provider.Builds; b != nil && (b.List == nil || b.Get == nil) {
		t.Fatal("Builds needs List and Get")
	}
	if d := h.Provider.Deployments; d != nil && (d.List == nil || d.Get == nil) {
		t.Fatal("Deployments needs List and Get")
	}
	if w := h.Provider.Webhook; w != nil && (w.Verify == nil || w.Parse == nil) {
		t.Fatal("Webhook needs Verify and Parse")
	}
	for _, check := range []struct {
		name  string
		needs func(Harness) bool
		test  func(*testing.T, Harness)
	}{
		{"projects are read from annotations", always, testProjects},
		{"lists are newest first", builds, testOrder},
		{"pages end and repeat nothing", builds, testPages},
		{"a cursor is stable while builds arrive", builds, testStableCursor},
		{"an unchanged list may be answered with NotModified", builds, testConditional},
		{"a bad cursor is invalid", builds, testBadCursor},
		{"builds are well-formed in every status", func(h Harness) bool { return builds(h) && h.Move != nil }, testBuilds},
		{"get finds what list showed", builds, testGet},
		{"what is missing is not found", builds, testMissing},
		{"retrigger", func(h Harness) bool { return builds(h) && h.Provider.Builds.Retrigger != nil }, testRetrigger},
		{"start", func(h Harness) bool { return builds(h) && h.Provider.Builds.Start != nil }, testStart},
		{"cancel", func(h Harness) bool { return builds(h) && h.Provider.Builds.Cancel != nil }, testCancel},
		{"logs", func(h Harness) bool { return builds(h) && h.Provider.Builds.Logs != nil && h.Write != nil }, testLogs},
		{"deployments are listed and found", deployments, testDeployments},
		{"a cursor is stable while deployments arrive", deployments, testStableDeployments},
		{"an unchanged list of deployments may be answered with NotModified", deployments, testConditionalDeployments},
		{"a bad cursor of deployments is invalid", deployments, testBadCursorOfDeployments},
		{"webhooks are verified and parsed", webhooks, testWebhook},
		{"webhooks without a secret are refused", func(h Harness) bool { return webhooks(h) && h.Unsigned != nil }, testUnsigned},
		{"foreign events are no deliveries", func(h Harness) bool { return webhooks(h) && h.Foreign != nil }, testForeign},
		{"a vendor that is down is unavailable", func(h Harness) bool { return items(h) && h.Down != nil }, coded(down, slipway.Unavailable)},
		{"a vendor that has enough is rate limited", func(h Harness) bool { return items(h) && h.Limit != nil }, coded(limit, slipway.RateLimited)},
		{"a refused credential is told", func(h Harness) bool { return items(h) && h.Refuse != nil }, coded(refuse, slipway.Unauthenticated, slipway.Forbidden)},
		{"the access of others is asked with their token", func(h Harness) bool { return h.Provider.Access != nil && h.Admit != nil }, testAccess},
		{"a vendor that hangs does not hold the caller", func(h Harness) bool { return items(h) && h.Hang != nil }, testHang},
		{"a cancelled context ends calls", items, testCanceled},
		{"calls may overlap", items, testOverlap},
	} {
		t.Run(check.name, func(t *testing.T) {
			h := open(t)
			if !check.needs(h) {
				t.Skip("this provider or its harness has no part in it")
			}
			check.test(t, h)
		})
	}
}

func always(Harness) bool        { return true }
func deployments(h Harness) bool { return h.Provider.Deployments != nil && h.Deploy != nil }
func items(h Harness) bool       { return builds(h) || deployments(h) }
func builds(h Harness) bool      { return h.Provider.Builds != nil && h.Add != nil }
func webhooks(h Harness) bool    { return h.Provider.Webhook != nil && h.Notify != nil && h.Add != nil }

func down(h Harness) func(testing.TB)   { return h.Down }
func limit(h Harness) func(testing.TB)  { return h.Limit }
func refuse(h Harness) func(testing.TB) { return h.Refuse }

func testProjects(t *testing.T, h Harness) {
	if got := h.Provider.Projects(&h.Entity); !slices.Contains(got, h.Project) {
		t.Errorf("got %q of the entity's annotations, want %q among them", got, h.Project)
	}
	if got := h.Provider.Projects(&slipway.Entity{Kind: "Component"}); len(got) > 0 {
		t.Errorf("got %q of an entity without annotations, want nothing", got)
	}
}

func testAccess(t *testing.T, h Harness) {
	ctx, sees := t.Context(), h.Admit(t, true)
	if err := h.Provider.Access(ctx, h.Project, sees); err != nil {
		t.Errorf("somebody who may see the project: %v", err)
	}
	refused := func(what, project string, token provider.Secret) {
		t.Helper()
		err := h.Provider.Access(ctx, project, token)
		if code := slipway.CodeOf(err); code != slipway.Unauthenticated && code != slipway.Forbidden && code != slipway.NotFound {
			t.Errorf("%s: got %v; want unauthenticated, forbidden or not_found", what, err)
		}
		if err != nil && strings.Contains(fmt.Sprintf("%+v %v", err, errors.Unwrap(err)), string(token)) {
			t.Errorf("%s: the token stands in the error", what)
		}
	}
	refused("somebody who may not", h.Project, h.Admit(t, false))
	refused("a token that the vendor never gave", h.Project, "no-such-token-at-the-vendor")
	if h.Missing != "" {
		refused("a project that is not there", h.Missing, sees)
	}
	if h.Refuse != nil {
		h.Refuse(t)
		refused("once the vendor lets nobody in", h.Project, sees)
	}
}

// day is where builds with a given creation begin.
var day = time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)

func addMany(t testing.TB, h Harness, from, n int) {
	for i := range n {
		h.Add(t, slipway.Build{Status: slipway.BuildSucceeded, CreatedAt: day.Add(time.Duration(from+i) * time.Minute)})
	}
}

// readAll follows Next to the end. between is called after each page.
func readAll(t testing.TB, h Harness, limit int, between func()) []slipway.Build {
	t.Helper()
	var all []slipway.Build
	o := provider.ListOptions{Limit: limit}
	for pages := 0; ; pages++ {
		page, err := h.Provider.Builds.List(t.Context(), h.Project, o)
		if err != nil {
			t.Fatal(err)
		}
		if pages > 1000 {
			t.Fatal("the list does not end")
		}
		all = append(all, whole(t, page)...)
		if page.Next == "" {
			return all
		}
		if page.Next == o.Cursor {
			t.Fatalf("the cursor %q leads to itself", page.Next)
		}
		o.Cursor = page.Next
		if between != nil {
			between()
		}
	}
}

// whole gives the builds of a page, completed where the list shows them in part. What a list does show stays as it was.
func whole(t testing.TB, page provider.Page[slipway.Build]) []slipway.Build {
	t.Helper()
	if page.Complete == nil {
		return page.Items
	}
	var all []slipway.Build
	for _, part := range page.Items {
		b, err := page.Complete(t.Context(), part)
		if err != nil {
			t.Fatal(err)
		}
		if b.ID != part.ID || b.Status != part.Status || !b.CreatedAt.Equal(part.CreatedAt) || part.UpdatedAt == nil || b.UpdatedAt == nil || !b.UpdatedAt.Equal(*part.UpdatedAt) {
			t.Errorf("a build became %+v when it was completed; the list showed %+v", b, part)
		}
		all = append(all, b)
	}
	return all
}

func ids(list []slipway.Build) []string {
	var all []string
	for _, b := range list {
		all = append(all, b.ID)
	}
	return all
}

func testOrder(t *testing.T, h Harness) {
	addMany(t, h, 0, 5)
	list := readAll(t, h, 0, nil)
	if len(list) != 5 {
		t.Fatalf("got %d builds, want 5", len(list))
	}
	if !slices.IsSortedFunc(list, func(a, b slipway.Build) int { return b.CreatedAt.Compare(a.CreatedAt) }) {
		t.Errorf("the list is not newest first by creation: %v", ids(list))
	}
}

func testPages(t *testing.T, h Harness) {
	if list := readAll(t, h, 2, nil); len(list) != 0 {
		t.Errorf("an empty project has %d builds", len(list))
	}
	addMany(t, h, 0, 7)
	all := ids(readAll(t, h, 2, nil))
	if distinct := slices.Compact(slices.Sorted(slices.Values(all))); len(all) != 7 || len(distinct) != 7 {
		t.Errorf("got %q, want seven builds, each once", all)
	}
	page, err := h.Provider.Builds.List(t.Context(), h.Project, provider.ListOptions{Limit: 3})
	if err != nil || len(page.Items) > 3 {
		t.Errorf("got %d builds, %v; want at most 3", len(page.Items), err)
	}
}

func testStableCursor(t *testing.T, h Harness) {
	addMany(t, h, 0, 9)
	before := ids(readAll(t, h, 0, nil))
	next := 9
	during := ids(readAll(t, h, 2, func() { addMany(t, h, next, 1); next++ }))
	seen := map[string]int{}
	for _, id := range during {
		seen[id]++
	}
	for _, id := range before {
		if seen[id] != 1 {
			t.Errorf("build %s was seen %d times while others arrived, want once", id, seen[id])
		}
	}
}

func testConditional(t *testing.T, h Harness) {
	conditional(t, h, h.Provider.Builds.List, addMany)
}

// conditional checks lists with a validator: nothing may come of what has not changed, and all of what has. add makes some things, counted from the first.
func conditional[T any](t *testing.T, h Harness, ask func(context.Context, string, provider.ListOptions) (provider.Page[T], error), add func(t testing.TB, h Harness, first, n int)) {
	add(t, h, 0, 2)
	list := func(validator string) provider.Page[T] {
		t.Helper()
		page, err := ask(t.Context(), h.Project, provider.ListOptions{Validator: validator})
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	first := list("")
	if first.NotModified {
		t.Fatal("a list without a validator was answered with NotModified")
	}
	if first.Validator == "" {
		t.Skip("the vendor gives no validator")
	}
	if again := list(first.Validator); again.NotModified && len(again.Items) > 0 {
		t.Error("NotModified came with items")
	}
	add(t, h, 2, 1)
	if changed := list(first.Validator); changed.NotModified || len(changed.Items) != 3 {
		t.Errorf("after a new one: got %d, not modified %v; want all 3", len(changed.Items), changed.NotModified)
	}
}

func testBadCursor(t *testing.T, h Harness) {
	addMany(t, h, 0, 2)
	_, err := h.Provider.Builds.List(t.Context(), h.Project, provider.ListOptions{Cursor: "no such cursor"})
	if !errors.Is(err, slipway.Invalid) {
		t.Errorf("got %v, want invalid", err)
	}
}

func testBuilds(t *testing.T, h Harness) {
	for _, status := range []slipway.BuildStatus{
		slipway.BuildStarting, slipway.BuildRunning, slipway.BuildSucceeded, slipway.BuildFailed, slipway.BuildCanceled,
	} {
		id := h.Add(t, slipway.Build{Status: slipway.BuildRunning})
		if status != slipway.BuildRunning {
			h.Move(t, id, status)
		}
		b, err := h.Provider.Builds.Get(t.Context(), h.Project, id)
		if err != nil {
			t.Fatal(err)
		}
		if b.Status != status {
			t.Errorf("build %s is %q, want %q", id, b.Status, status)
		}
		if err := wellFormed(b); err != nil {
			t.Errorf("a build that is %s: %v", status, err)
		}
	}
	for _, b := range readAll(t, h, 0, nil) {
		if err := wellFormed(b); err != nil {
			t.Errorf("in a list, a build that is %s: %v", b.Status, err)
		}
	}
}

// wellFormed says what a build breaks of what the contract promises.
func wellFormed(b slipway.Build) error {
	var errs []error
	expect := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	expect(b.ID != "", "it has no id")
	expect(b.EntityRef == "" && b.Provider == slipway.ProviderRef{}, "entity and provider are not the provider's to fill in")
	expect(b.Attempt >= 1, "attempt is %d, counted from 1", b.Attempt)
	expect(b.CreatedAt.Year() > 1971, "created at %v", b.CreatedAt)
	expect(b.URL != "", "it has no link")
	expect(b.Detail != "", "the vendor's own word is lost")
	expect(b.Status != slipway.BuildStarting || b.StartedAt == nil, "it is starting and has a start")
	expect(b.Status.Finished() || b.Status == slipway.BuildUnknown || b.FinishedAt == nil, "it is not finished and has an end")
	expect(b.FinishedAt == nil || b.StartedAt == nil || !b.FinishedAt.Before(*b.StartedAt), "it ended before it started")
	expect(b.DurationSeconds == nil || *b.DurationSeconds >= 0, "its duration is negative")
	expect(b.StartedAt == nil || b.StartedAt.Year() > 1971, "its start is a zero date")
	expect(b.FinishedAt == nil || b.FinishedAt.Year() > 1971, "its end is a zero date")
	expect(b.TriggeredBy == nil || *b.TriggeredBy != slipway.Person{}, "it was triggered by a person without any name; nobody is nil")
	expect(b.Commit == nil || !strings.Contains(b.Commit.Message, "\n"), "the commit's message has more than its first line")
	expect(b.Commit == nil || !strings.HasPrefix(b.Commit.Branch, "refs/heads/"), "the branch is a full ref")
	return errors.Join(errs...)
}

func testGet(t *testing.T, h Harness) {
	addMany(t, h, 0, 3)
	for _, listed := range readAll(t, h, 0, nil) {
		b, err := h.Provider.Builds.Get(t.Context(), h.Project, listed.ID)
		if err != nil || b.ID != listed.ID || b.Status != listed.Status || !b.CreatedAt.Equal(listed.CreatedAt) {
			t.Errorf("got %v, %v; want what the list showed: %v", b, err, listed)
		}
	}
}

func testMissing(t *testing.T, h Harness) {
	h.Add(t, slipway.Build{})
	b := h.Provider.Builds
	notFound := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, slipway.NotFound) {
			t.Errorf("%s: got %v, want not found", what, err)
		}
	}
	_, err := b.Get(t.Context(), h.Project, missingID)
	notFound("get of a missing build", err)
	if h.Missing != "" {
		_, err = b.List(t.Context(), h.Missing, provider.ListOptions{})
		notFound("list of a missing project", err)
	}
	if b.Retrigger != nil {
		_, err = b.Retrigger(t.Context(), h.Project, missingID, nil, asker)
		notFound("retrigger of a missing build", err)
	}
	if b.Cancel != nil {
		notFound("cancel of a missing build", b.Cancel(t.Context(), h.Project, missingID))
	}
	if b.Logs != nil {
		_, err = b.Logs(t.Context(), h.Project, missingID, false)
		notFound("logs of a missing build", err)
	}
}

const missingID = "987654321"

var asker = slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane"}

func testRetrigger(t *testing.T, h Harness) {
	b := h.Provider.Builds
	running := h.Add(t, slipway.Build{Status: slipway.BuildRunning})
	if _, err := b.Retrigger(t.Context(), h.Project, running, nil, asker); !errors.Is(err, slipway.Conflict) {
		t.Errorf("retrigger of a running build: got %v, want a conflict", err)
	}
	failed := h.Add(t, slipway.Build{Status: slipway.BuildFailed})
	again, err := b.Retrigger(t.Context(), h.Project, failed, map[string]any{"reason": "flaky"}, asker)
	if err != nil {
		t.Fatal(err)
	}
	if again == nil {
		return // the vendor has not named it yet
	}
	if err := wellFormed(*again); err != nil {
		t.Errorf("the resulting build: %v", err)
	}
	if again.Status == slipway.BuildFailed {
		t.Error("the resulting build is the failed one as it was")
	}
	if _, err := b.Get(t.Context(), h.Project, again.ID); err != nil {
		t.Errorf("the resulting build is not found: %v", err)
	}
}

func testStart(t *testing.T, h Harness) {
	started, err := h.Provider.Builds.Start(t.Context(), h.Project, provider.StartOptions{Ref: "main"}, asker)
	if err != nil {
		t.Fatal(err)
	}
	if started != nil {
		if err := wellFormed(*started); err != nil {
			t.Error(err)
		}
		if _, err := h.Provider.Builds.Get(t.Context(), h.Project, started.ID); err != nil {
			t.Errorf("the started build is not found: %v", err)
		}
	}
	_, err = h.Provider.Builds.Start(t.Context(), h.Project, provider.StartOptions{Ref: "--upload-pack=touch"}, asker)
	if !errors.Is(err, slipway.Invalid) && !errors.Is(err, slipway.NotFound) {
		t.Errorf("start of a hostile ref: got %v, want invalid or not found", err)
	}
}

func testCancel(t *testing.T, h Harness) {
	running := h.Add(t, slipway.Build{Status: slipway.BuildRunning})
	if err := h.Provider.Builds.Cancel(t.Context(), h.Project, running); err != nil {
		t.Error(err)
	}
	ended := h.Add(t, slipway.Build{Status: slipway.BuildSucceeded})
	if err := h.Provider.Builds.Cancel(t.Context(), h.Project, ended); !errors.Is(err, slipway.Conflict) {
		t.Errorf("cancel of a finished build: got %v, want a conflict", err)
	}
}

func testLogs(t *testing.T, h Harness) {
	b := h.Provider.Builds
	id := h.Add(t, slipway.Build{Status: slipway.BuildRunning})
	h.Write(t, id, "one\n")

	now, err := b.Logs(t.Context(), h.Project, id, false)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(now); err != nil || string(text) != "one\n" {
		t.Errorf("log so far: got %q, %v; want what was written", text, err)
	}
	_ = now.Close()

	ctx, cancel := context.WithCancel(t.Context())
	endless, err := b.Logs(ctx, h.Project, id, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(endless, make([]byte, 4)); err != nil {
		t.Errorf("followed log: %v", err)
	}
	cancel()
	if _, err := io.ReadAll(endless); !errors.Is(err, context.Canceled) {
		t.Errorf("followed log after its context ended: got %v, want the context's error", err)
	}
	_ = endless.Close()

	followed, err := b.Logs(t.Context(), h.Project, id, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = followed.Close() }()
	if _, err := io.ReadFull(followed, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	go func() {
		h.Write(t, id, "two\n")
		if h.Move != nil {
			h.Move(t, id, slipway.BuildSucceeded)
		}
	}()
	rest := make([]byte, 4)
	if _, err := io.ReadFull(followed, rest); err != nil || string(rest) != "two\n" {
		t.Errorf("followed log: got %q, %v; want what was written after", rest, err)
	}
	if h.Move != nil {
		if more, err := io.ReadAll(followed); err != nil || len(more) > 0 {
			t.Errorf("followed log of an ended build: got %q, %v; want its end", more, err)
		}
	}
}

func testWebhook(t *testing.T, h Harness) {
	w := h.Provider.Webhook
	id := h.Add(t, slipway.Build{Status: slipway.BuildRunning})
	header, body := h.Notify(t, id)
	if err := w.Verify(header, body); err != nil {
		t.Fatalf("a signed webhook: %v", err)
	}
	deliveries, err := w.Parse(header, body)
	if err != nil || len(deliveries) == 0 {
		t.Fatalf("got %d deliveries, %v; want at least one", len(deliveries), err)
	}
	told := false
	for _, d := range deliveries {
		told = told || d.Project == h.Project
		if d.Build != nil {
			if err := wellFormed(*d.Build); err != nil || d.Build.ID != id { // it may belong to other projects too
				t.Errorf("delivered build %q of %q: %v", d.Build.ID, d.Project, err)
			}
		}
		if d.BuildID != "" {
			if b, err := h.Provider.Builds.Get(t.Context(), d.Project, d.BuildID); err != nil || d.BuildID != id || b.ID != id || d.Build != nil {
				t.Errorf("asks for build %q of %q, %v; want %q", d.BuildID, d.Project, err, id)
			}
		}
	}
	if !told {
		t.Errorf("got %+v, want a delivery for project %q", deliveries, h.Project)
	}
	unauthenticated := func(what string, header http.Header, body []byte) {
		t.Helper()
		if err := w.Verify(header, body); !errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("%s: got %v, want unauthenticated", what, err)
		}
	}
	if !h.Clear {
		unauthenticated("a body that was changed", header, append(slices.Clone(body), ' '))
	}
	unauthenticated("no signature", http.Header{}, body)
	for name := range header {
		if proof.MatchString(name) {
			forged := header.Clone()
			forged.Set(name, strings.Repeat("0", len(header.Get(name))))
			unauthenticated("a forged signature", forged, body)
		}
	}
	if h.Sign != nil {
		for _, bad := range []string{"", "{", "[]", `"text"`, "\xff"} {
			if _, err := w.Parse(h.Sign([]byte(bad)), []byte(bad)); err != nil && !errors.Is(err, slipway.Invalid) {
				t.Errorf("body %q: got %v, want invalid", bad, err)
			}
		}
	}
}

// proof finds the headers that show who sends a webhook.
var proof = regexp.MustCompile(`(?i)signature|token|authorization`)

func testUnsigned(t *testing.T, h Harness) {
	p, header, body := h.Unsigned(t, h.Add(t, slipway.Build{}))
	if err := p.Webhook.Verify(header, body); !errors.Is(err, slipway.Forbidden) {
		t.Errorf("got %v, want forbidden", err)
	}
}

func testForeign(t *testing.T, h Harness) {
	header, body := h.Foreign(t)
	if err := h.Provider.Webhook.Verify(header, body); err != nil {
		t.Fatal(err)
	}
	if deliveries, err := h.Provider.Webhook.Parse(header, body); err != nil || len(deliveries) > 0 {
		t.Errorf("got %d deliveries, %v; want none and no error", len(deliveries), err)
	}
}

// made is an item of each task that the vendor has.
type made struct{ build, deployment string }

func makeItems(t testing.TB, h Harness) (m made) {
	t.Helper()
	if builds(h) {
		m.build = h.Add(t, slipway.Build{Status: slipway.BuildFailed})
	}
	if deployments(h) {
		m.deployment = h.Deploy(t, slipway.Deployment{Status: slipway.DeploymentSucceeded, Environment: "production"})
	}
	return m
}

// calls names every call that talks to the vendor.
func calls(h Harness, m made) map[string]func(context.Context) error {
	all := map[string]func(context.Context) error{}
	if h.Provider.Check != nil {
		all["Check"] = h.Provider.Check
	}
	if d := h.Provider.Deployments; deployments(h) {
		all["Deployments.List"] = func(ctx context.Context) error {
			_, err := d.List(ctx, h.Project, provider.ListOptions{})
			return err
		}
		all["Deployments.Get"] = func(ctx context.Context) error { _, err := d.Get(ctx, h.Project, m.deployment); return err }
	}
	if !builds(h) {
		return all
	}
	b, id := h.Provider.Builds, m.build
	all["List"] = func(ctx context.Context) error {
		_, err := b.List(ctx, h.Project, provider.ListOptions{})
		return err
	}
	all["Get"] = func(ctx context.Context) error { _, err := b.Get(ctx, h.Project, id); return err }
	if b.Retrigger != nil {
		all["Retrigger"] = func(ctx context.Context) error { _, err := b.Retrigger(ctx, h.Project, id, nil, asker); return err }
	}
	if b.Start != nil {
		all["Start"] = func(ctx context.Context) error {
			_, err := b.Start(ctx, h.Project, provider.StartOptions{Ref: "main"}, asker)
			return err
		}
	}
	if b.Cancel != nil {
		all["Cancel"] = func(ctx context.Context) error { return b.Cancel(ctx, h.Project, id) }
	}
	if b.Logs != nil {
		all["Logs"] = func(ctx context.Context) error {
			log, err := b.Logs(ctx, h.Project, id, false)
			if err != nil {
				return err
			}
			defer func() { _ = log.Close() }()
			_, err = io.ReadAll(log)
			return err
		}
	}
	return all
}

func coded(fault func(Harness) func(testing.TB), codes ...slipway.Code) func(*testing.T, Harness) {
	return func(t *testing.T, h Harness) {
		m := makeItems(t, h)
		fault(h)(t)
		for name, call := range calls(h, m) {
			err := call(t.Context())
			if !slices.Contains(codes, slipway.CodeOf(err)) {
				t.Errorf("%s: got %v, want %v", name, err, codes)
				continue
			}
			if e, ok := errors.AsType[*slipway.Error](err); ok && e.Code == slipway.RateLimited && (e.RetryAfter <= 0 || e.RetryAfter > 24*time.Hour) {
				t.Errorf("%s: try again after %v; the vendor said when", name, e.RetryAfter)
			}
		}
	}
}

// patience is how long a call may go on after its context ended.
const patience = 5 * time.Second

func testHang(t *testing.T, h Harness) {
	m := makeItems(t, h)
	h.Hang(t)
	for name, call := range calls(h, m) {
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

func testCanceled(t *testing.T, h Harness) {
	m := makeItems(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(h, m) {
		if err := call(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: got %v, want the context's error", name, err)
		}
	}
}

func testOverlap(t *testing.T, h Harness) {
	m := makeItems(t, h)
	errs := make(chan error)
	const readers = 8
	n := 0
	for name, call := range calls(h, m) {
		if !strings.HasSuffix(name, "List") {
			continue
		}
		for range readers {
			n++
			go func() { errs <- call(t.Context()) }()
		}
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
