package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestDatabase(t *testing.T) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{Migrations}, func(t *testing.T, db *store.DB) {
		testStorage(t, func(*testing.T) Storage { return database{db} })
	})
}

// testStorage is what every Storage keeps. open gives a second, third … replica's view of one storage, which may hold other tools than those of the
// test: each check has tools of its own.
func testStorage(t *testing.T, open func(t *testing.T) Storage) {
	for name, test := range map[string]func(t *testing.T, s Storage){
		"configurations":                    testConfigs,
		"a change is only of what was read": testConfigVersions,
		"deployments":                       testDeployments,
		"one deployment is active":          testOneActive,
		"one deployment is active, at once": testOneActiveAtOnce,
		"an update is of what was read":     testUpdates,
		"an update is taken once, at once":  testUpdatesAtOnce,
		"deployments are in order":          testDeploymentOrder,
		"old deployments load":              testOldDeployment,
		"what belongs to a change":          testThen,
		"news are told once":                testNews,
		"what a crash leaves is done later": testOwed,
		"deploy tokens":                     testTokens,
		"a context that ended":              testStorageCanceled,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// someTool is a name that no other check uses.
func someTool(t *testing.T) string {
	return strings.ToLower(fmt.Sprintf("t%x", time.Now().UnixNano()))
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func need[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode(t testing.TB, what string, err error, code slipway.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("%s: got %v, want %s", what, err, code)
	}
}

func wantMissing(t testing.TB, what string, err error) {
	t.Helper()
	if e, ok := errors.AsType[*slipway.Error](err); !ok || e.Code != slipway.NotFound || !strings.HasPrefix(e.Message, "Unable to find") {
		t.Errorf("%s: got %v, want not_found: Unable to find …", what, err)
	}
}

func testConfigs(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	_, err := s.Config(ctx, tool)
	wantMissing(t, "a config that is not there", err)
	_, err = s.DeleteConfig(ctx, tool, nil)
	wantMissing(t, "deletion of a config that is not there", err)
	document := json.RawMessage(`{"components":{"ü":{"b":1.50,"a":"<&>","c":null,"z":[true,{"y":0}]}},"1":2}`)
	set := need[Config](t)(s.SetConfig(ctx, Config{Tool: tool, Document: document, Updated: noon}, nil))
	got := need[Config](t)(s.Config(ctx, tool))
	if got.Version == "" || got.Version != set.Version || got.Tool != tool || !got.Updated.Equal(noon) || !sameJSON(got.Document, document) {
		t.Errorf("got %+v, want what was stored: %+v", got, set)
	}
	next := need[Config](t)(s.SetConfig(ctx, Config{Tool: tool, Document: json.RawMessage(`{}`), Updated: noon}, nil))
	if got = need[Config](t)(s.Config(ctx, tool)); string(got.Document) != "{}" || got.Version == set.Version || got.Version != next.Version {
		t.Errorf("got %+v, want the second one: %+v", got, next)
	}
	if old := need[Config](t)(s.DeleteConfig(ctx, tool, nil)); string(old.Document) != "{}" {
		t.Errorf("the deletion gave %+v", old)
	}
	_, err = s.Config(ctx, tool)
	wantMissing(t, "a deleted config", err)
}

// sameJSON compares texts of JSON, with the order of keys.
func sameJSON(a, b json.RawMessage) bool {
	x, err1 := parseDocument(a)
	y, err2 := parseDocument(b)
	raw1, _ := x.MarshalJSON()
	raw2, _ := y.MarshalJSON()
	return err1 == nil && err2 == nil && string(raw1) == string(raw2)
}

func testConfigVersions(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	c := need[Config](t)(s.SetConfig(ctx, Config{Tool: tool, Document: json.RawMessage(`{"a":1}`), Updated: noon}, nil))
	second := c
	second.Document = json.RawMessage(`{"a":2}`)
	need[Config](t)(s.SetConfig(ctx, second, nil))
	_, err := s.SetConfig(ctx, second, nil)
	wantCode(t, "a change of what was changed", err, slipway.Conflict)
	last := need[Config](t)(s.Config(ctx, tool))
	need[Config](t)(s.DeleteConfig(ctx, tool, nil))
	_, err = s.SetConfig(ctx, last, nil)
	wantCode(t, "a change of what was deleted", err, slipway.Conflict)
}

func deployment(tool, id string, created time.Time, status Status) Deployment {
	return Deployment{
		Tool: tool, ID: id, Created: created, Description: `"first" – für alle`, ForceBuild: true, By: "tool:" + tool, Builder: "ci", Status: status, Detail: "x",
		Components: []Component{
			{Name: "web", Build: BuildState{ID: "1", Status: BuildRunning, Commit: "c", Since: &created}, Run: RunState{Status: RunPending}},
			{Name: "cron", ReuseFrom: "web", Build: BuildState{Status: BuildSkipped}, Run: RunState{Status: RunPending}},
		},
		Config: json.RawMessage(`{"components":{"web":{},"cron":{}}}`),
	}
}

func testDeployments(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	_, err := s.Deployment(ctx, tool, tool+"-deploy-1")
	wantMissing(t, "a deployment that is not there", err)
	_, err = s.Delete(ctx, tool, tool+"-deploy-1")
	wantMissing(t, "deletion of a deployment that is not there", err)
	if list := need[[]Deployment](t)(s.Deployments(ctx, tool)); len(list) != 0 || list == nil {
		t.Errorf("a new tool has the deployments %v", list)
	}
	want := need[Deployment](t)(s.Create(ctx, deployment(tool, tool+"-deploy-1", noon, Pending), nil))
	got := need[Deployment](t)(s.Deployment(ctx, tool, want.ID))
	if diff := cmp.Diff(want, got); diff != "" || got.Version == "" {
		t.Errorf("the stored deployment is another (-want +got):\n%s", diff)
	}
	_, err = s.Deployment(ctx, someTool(t), want.ID)
	wantMissing(t, "another tool's deployment", err)
	_, err = s.Delete(ctx, tool, want.ID)
	wantCode(t, "deletion of an active deployment", err, slipway.Conflict)
	got.Status = Successful
	got = need[Deployment](t)(s.Update(ctx, got, nil))
	if old := need[Deployment](t)(s.Delete(ctx, tool, want.ID)); old.Status != Successful || string(old.Config) != string(want.Config) {
		t.Errorf("the deletion gave %+v", old)
	}
	_, err = s.Deployment(ctx, tool, want.ID)
	wantMissing(t, "a deleted deployment", err)
	_, err = s.Update(ctx, got, nil)
	wantCode(t, "an update of what was deleted", err, slipway.Conflict)
}

func active(t testing.TB, s Storage, tool string) []Reference {
	t.Helper()
	var own []Reference
	for _, r := range need[[]Reference](t)(s.Active(context.Background())) {
		if r.Tool == tool {
			own = append(own, r)
		}
	}
	return own
}

func testOneActive(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	first := need[Deployment](t)(s.Create(ctx, deployment(tool, tool+"-deploy-1", noon, Pending), nil))
	for _, status := range []Status{Pending, Running, Cancelling} {
		first.Status = status
		first = need[Deployment](t)(s.Update(ctx, first, nil))
		_, err := s.Create(ctx, deployment(tool, tool+"-deploy-2", noon.Add(time.Hour), Pending), nil)
		wantCode(t, "a second one while the first is "+string(status), err, slipway.Conflict)
		if list := active(t, s, tool); len(list) != 1 || list[0] != (Reference{tool, first.ID, "ci", first.Version, first.Created}) {
			t.Errorf("active while it is %s: %+v", status, list)
		}
	}
	other := someTool(t)
	need[Deployment](t)(s.Create(ctx, deployment(other, other+"-deploy-1", noon, Pending), nil))
	for _, status := range []Status{Successful, Failed, Cancelled, TimedOut} {
		first.Status = status
		need[Deployment](t)(s.Update(ctx, first, nil))
		if list := active(t, s, tool); len(list) != 0 {
			t.Errorf("active while it is %s: %+v", status, list)
		}
		id := tool + "-deploy-" + strings.ReplaceAll(string(status), "_", "-")
		first = need[Deployment](t)(s.Create(ctx, deployment(tool, id, noon, Pending), nil))
	}
	_, err := s.Create(ctx, deployment(tool, first.ID, noon, Pending), nil)
	wantCode(t, "an id that is taken", err, slipway.Conflict)
}

func testOneActiveAtOnce(t *testing.T, s Storage) {
	tool := someTool(t)
	const n = 8
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			_, errs[i] = s.Create(t.Context(), deployment(tool, fmt.Sprintf("%s-deploy-%d", tool, i), noon, Pending), nil)
		})
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else {
			wantCode(t, "one of many at once", err, slipway.Conflict)
		}
	}
	if list := need[[]Deployment](t)(s.Deployments(t.Context(), tool)); made != 1 || len(list) != 1 || len(active(t, s, tool)) != 1 {
		t.Errorf("%d of %d were made, and %d are there; want one", made, n, len(list))
	}
}

func testUpdates(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	first := need[Deployment](t)(s.Create(ctx, deployment(tool, tool+"-deploy-1", noon, Pending), nil))
	mine, theirs := first, first
	theirs.Status = Cancelling
	theirs = need[Deployment](t)(s.Update(ctx, theirs, nil))
	mine.Status = Successful
	_, err := s.Update(ctx, mine, nil)
	wantCode(t, "an update of what was changed", err, slipway.Conflict)
	if got := need[Deployment](t)(s.Deployment(ctx, tool, first.ID)); got.Status != Cancelling || got.Version != theirs.Version {
		t.Errorf("got %+v, want the first update", got)
	}
	theirs.Components = theirs.Components[:1]
	theirs.Components[0].Build.Image = "registry.example.com/web@sha256:1"
	want := need[Deployment](t)(s.Update(ctx, theirs, nil))
	if diff := cmp.Diff(want, need[Deployment](t)(s.Deployment(ctx, tool, first.ID))); diff != "" {
		t.Errorf("the stored deployment is another (-want +got):\n%s", diff)
	}
}

func testUpdatesAtOnce(t *testing.T, s Storage) {
	tool := someTool(t)
	first := need[Deployment](t)(s.Create(t.Context(), deployment(tool, tool+"-deploy-1", noon, Pending), nil))
	const n = 8
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			d := first
			d.Detail = fmt.Sprint(i)
			_, errs[i] = s.Update(t.Context(), d, nil)
		})
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		switch {
		case err != nil:
			wantCode(t, "one of many at once", err, slipway.Conflict)
		case won >= 0:
			t.Errorf("updates %d and %d of one version were both taken", won, i)
		default:
			won = i
		}
	}
	if got := need[Deployment](t)(s.Deployment(t.Context(), tool, first.ID)); got.Detail != fmt.Sprint(won) {
		t.Errorf("got update %s, want %d", got.Detail, won)
	}
}

func testDeploymentOrder(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	for _, d := range []struct {
		id      string
		created time.Time
	}{{"c", noon.Add(time.Second)}, {"b", noon}, {"a", noon.Add(time.Microsecond)}, {"d", noon}} {
		need[Deployment](t)(s.Create(ctx, deployment(tool, tool+"-deploy-"+d.id, d.created, Failed), nil))
	}
	var ids []string
	for _, d := range need[[]Deployment](t)(s.Deployments(ctx, tool)) {
		ids = append(ids, d.ID[len(d.ID)-1:])
	}
	if got := strings.Join(ids, ""); got != "bdac" {
		t.Errorf("got the order %s, want bdac", got)
	}
}

func testOldDeployment(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	old := Deployment{Tool: tool, ID: tool + "-deploy-1", Created: noon, Builder: "ci", Status: Failed, Config: json.RawMessage(`{}`)}
	need[Deployment](t)(s.Create(ctx, old, nil))
	if got := need[Deployment](t)(s.Deployment(ctx, tool, old.ID)); got.Description != "" || got.ForceBuild || len(got.Components) != 0 {
		t.Errorf("got %+v", got)
	}
}

func testThen(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	ran := 0
	then := func(context.Context, *store.Tx, News) error { ran++; return nil }
	need[Config](t)(s.SetConfig(ctx, Config{Tool: tool, Document: json.RawMessage(`{}`), Updated: noon}, then))
	need[Config](t)(s.DeleteConfig(ctx, tool, then))
	d := need[Deployment](t)(s.Create(ctx, deployment(tool, tool+"-deploy-1", noon, Pending), then))
	need[Deployment](t)(s.Update(ctx, d, then))
	if ran < 4 {
		t.Errorf("what belongs to four changes ran %d times", ran)
	}
	before := ran
	_, err := s.Update(ctx, d, then) // of an old version
	wantCode(t, "an old version", err, slipway.Conflict)
	_, err = s.Create(ctx, d, then)
	wantCode(t, "a second deployment", err, slipway.Conflict)
	_, err = s.DeleteConfig(ctx, tool, then)
	wantCode(t, "no config", err, slipway.NotFound)
	if ran != before {
		t.Errorf("what belongs to a change ran %d times without one", ran-before)
	}
}

func testNews(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	var told []News
	then := func(_ context.Context, _ *store.Tx, n News) error { told = append(told, n); return nil }
	d := need[Deployment](t)(s.Create(ctx, deployment(tool, tool+"-deploy-1", noon, Pending), then))
	d.Status = Running
	d = need[Deployment](t)(s.Update(ctx, d, then))
	d.Status = Failed
	d = need[Deployment](t)(s.Update(ctx, d, then))
	if err := s.Settle(ctx, d, then); err != nil {
		t.Fatal(err)
	}
	told = slices.DeleteFunc(told, func(n News) bool { return n == News{} })
	if !slices.Equal(told, []News{{Created: true}, {Ended: true}}) {
		t.Errorf("told %v, want that it was created and that it ended", told)
	}
	if list := owedBy(t, s, tool); len(list) != 0 {
		t.Errorf("owed are %v", list)
	}
}

func owedBy(t *testing.T, s Storage, tool string) []Owed {
	t.Helper()
	return slices.DeleteFunc(need[[]Owed](t)(s.Owed(t.Context(), Owed{}, Owed{})), func(o Owed) bool { return o.Tool != tool })
}

// The process dies, or the database goes away, between a change and what belongs to it: then either nothing has changed, or what belongs to the change is done once,
// by whoever comes first.
func testOwed(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	dies := func(context.Context, *store.Tx, News) error { return errors.New("the process dies here") }
	var mu sync.Mutex
	var told []News
	then := func(_ context.Context, tx *store.Tx, n News) error {
		tx.AfterCommit(func() {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, n)
		})
		return nil
	}
	// settled has three replicas settle a deployment, and gives what they told.
	settled := func(id string) []News {
		t.Helper()
		told = nil
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if d, err := s.Deployment(ctx, tool, id); err == nil {
					if err := s.Settle(ctx, d, then); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return slices.DeleteFunc(slices.Clone(told), func(n News) bool { return n == News{} })
	}

	id := tool + "-deploy-1"
	_, _ = s.Create(ctx, deployment(tool, id, noon, Pending), dies)
	d, err := s.Deployment(ctx, tool, id)
	if errors.Is(err, slipway.NotFound) { // nothing has changed
		if list := owedBy(t, s, tool); len(list) != 0 {
			t.Errorf("owed are %v for what is not there", list)
		}
		d, err = s.Create(ctx, deployment(tool, id, noon, Pending), then)
	} else if got := settled(id); !slices.Equal(got, []News{{Created: true}}) {
		t.Errorf("of a deployment whose creation was cut short is told %v", got)
	}
	if err != nil {
		t.Fatal(err)
	}

	ended := d
	ended.Status = Failed
	_, err = s.Update(ctx, ended, dies)
	if err == nil {
		t.Fatal("an update that died answered")
	}
	if d = need[Deployment](t)(s.Deployment(ctx, tool, id)); d.Status == Pending {
		if list := owedBy(t, s, tool); len(list) != 0 {
			t.Errorf("owed are %v for what has not changed", list)
		}
	} else if got := settled(id); !slices.Equal(got, []News{{Ended: true}}) {
		t.Errorf("of a deployment whose end was cut short is told %v", got)
	}
	if got := settled(id); len(got) != 0 {
		t.Errorf("told again: %v", got)
	}

	// A note of a change that was never made tells nothing, and goes when it does come true.
	other := tool + "x"
	d = need[Deployment](t)(s.Create(ctx, deployment(other, other+"-deploy-1", noon, Pending), then))
	stale := d
	d.Status = Running
	d = need[Deployment](t)(s.Update(ctx, d, then))
	stale.Status = Failed
	_, err = s.Update(ctx, stale, then)
	wantCode(t, "an update of an old version", err, slipway.Conflict)
	told = nil
	if err := s.Settle(ctx, d, then); err != nil || slices.ContainsFunc(told, func(n News) bool { return n.Ended }) {
		t.Errorf("an end is told that never was: %v, %v", told, err)
	}
	told = nil
	d.Status = Cancelled
	need[Deployment](t)(s.Update(ctx, d, then))
	if list := owedBy(t, s, other); len(list) != 0 || len(told) != 1 || !told[0].Ended {
		t.Errorf("told %v, owed are %v", told, list)
	}
}

func testTokens(t *testing.T, s Storage) {
	ctx, tool := t.Context(), someTool(t)
	_, err := s.DeployToken(ctx, tool)
	wantMissing(t, "a token that is not there", err)
	_, err = s.DeleteDeployToken(ctx, tool)
	wantMissing(t, "deletion of a token that is not there", err)
	first := DeployToken{Tool: tool, Hash: "1", Created: noon, Expires: noon.Add(time.Hour)}
	if err := s.SetDeployToken(ctx, first); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a second token", s.SetDeployToken(ctx, first), slipway.Conflict)
	got := need[DeployToken](t)(s.DeployToken(ctx, tool))
	if got.Version == "" || got.Hash != "1" || !got.Created.Equal(noon) || !got.Expires.Equal(first.Expires) || got.Tool != tool {
		t.Errorf("got %+v, want %+v", got, first)
	}
	next := got
	next.Hash = "2"
	if err := s.SetDeployToken(ctx, next); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a change of what was changed", s.SetDeployToken(ctx, next), slipway.Conflict)
	if old := need[DeployToken](t)(s.DeleteDeployToken(ctx, tool)); old.Hash != "2" {
		t.Errorf("the deletion gave %+v", old)
	}
	wantCode(t, "a change of what was deleted", s.SetDeployToken(ctx, got), slipway.Conflict)
	_, err = s.DeployToken(ctx, tool)
	wantMissing(t, "a deleted token", err)
}

func testStorageCanceled(t *testing.T, s Storage) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tool := someTool(t)
	_, err := s.Config(ctx, tool)
	_, err2 := s.Create(ctx, deployment(tool, tool+"-deploy-1", noon, Pending), nil)
	for _, err := range []error{err, err2} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	}
}
