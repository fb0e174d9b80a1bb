package task

import (
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// taking is a fake vendor behind a provider that takes only some projects, as one with a list of what it may build does.
func taking(v *fake.Vendor, kind string, projects ...string) Provider {
	p := v.Provider()
	all := p.Projects
	p.Projects = func(e *slipway.Entity) (list []string) {
		for _, named := range all(e) {
			for _, taken := range projects {
				if named == taken {
					list = append(list, named)
				}
			}
		}
		return list
	}
	return Provider{Name: "ci", Type: kind, Provider: p, Annotations: fake.Kind.Annotations}
}

func TestAnEntityIsBoundForWhoCannotWait(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations(), func(t *testing.T, db *store.DB) {
		w := prepare(t, db) // nothing follows the catalog's events
		w.vendors(map[string]*fake.Vendor{"fake": fake.New(fake.Config{})})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		o, places, err := w.runs.Places(t.Context(), system, web, nil)
		if err != nil || len(places) != 0 {
			t.Fatalf("got %v, %v before anything was bound", places, err)
		}
		for _, want := range []bool{true, false} {
			if changed, err := w.runs.Bind(t.Context(), o); err != nil || changed != want {
				t.Fatalf("changed is %v, %v; want %v", changed, err, want)
			}
		}
		if _, places, err = w.runs.Places(t.Context(), system, web, nil); err != nil || len(places) != 1 || places[0].Project != "octo/web" {
			t.Errorf("got %+v, %v", places, err)
		}
		if changed, err := w.runs.Bind(t.Context(), Object{ID: o.ID + 1}); err != nil || changed {
			t.Errorf("an entity that is gone: %v, %v", changed, err)
		}
	})
}

func TestWhatAProviderNoLongerTakesStaysDetached(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		v.Add("octo/web", slipway.Build{ID: "1", Status: slipway.BuildSucceeded})
		v.Add("octo/api", slipway.Build{ID: "2", Status: slipway.BuildSucceeded})
		set := func(p Provider) {
			t.Helper()
			if err := w.SetProviders(t.Context(), []Provider{p}); err != nil {
				t.Fatal(err)
			}
		}
		web := slipway.EntityRef{Kind: "component", Namespace: "default", Name: "web"}
		// states is what the sources of web are, and whether its places say the same.
		states := func() string {
			t.Helper()
			var list []string
			p := w.search(web, Query{})
			for _, s := range p.Sources {
				list = append(list, strings.TrimSpace(s.Project+" "+string(s.State)))
			}
			_, places, err := w.runs.Places(t.Context(), system, web, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, place := range places {
				if gone := place.Detached || place.Provider.Provider == nil; i >= len(p.Sources) || gone != (p.Sources[i].State == slipway.SourceDetached) {
					return "places differ from sources"
				}
			}
			return strings.Join(list, ", ")
		}
		become := func(want string, items int) {
			t.Helper()
			eventually(t, want, func() bool { return states() == want && len(w.search(web, Query{}).Items) == items })
		}
		set(taking(v, "fake", "octo/web", "octo/api"))
		w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web, octo/api"})
		become("octo/api fresh, octo/web fresh", 2)

		set(taking(v, "fake", "octo/api"))
		become("octo/api fresh, octo/web detached", 2)
		if p, err := w.runs.SearchAll(t.Context(), system, Scope{}, Query{}); err != nil || len(p.Items) != 2 || p.Sources[0].State == p.Sources[1].State {
			t.Errorf("across entities: got %+v, %v; want one source detached", p.Sources, err)
		}
		lists, _ := v.Lists()
		w.search(web, Query{Fresh: true})
		if after, _ := v.Lists(); after != lists+1 {
			t.Errorf("%d projects were read, want only the one that is taken", after-lists)
		}
		// A value that the provider cannot read any more, but that names the same.
		w.entity("web", "team-a", map[string]string{fake.Annotation: "https://git.example.com/octo/web.git octo/api"})
		become("octo/api detached, octo/web detached", 2)
		w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/api"})
		become("octo/api fresh", 1)
		w.entity("web", "team-a", nil)
		become("none", 0)
	})
}

func TestAnEntityThatNamesAnotherProjectLosesTheOld(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v := fake.New(fake.Config{})
		v.Add("octo/web", slipway.Build{ID: "1", Status: slipway.BuildSucceeded})
		if err := w.SetProviders(t.Context(), []Provider{taking(v, "fake", "octo/web")}); err != nil {
			t.Fatal(err)
		}
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.await(web, 1)
		w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web-site"})
		eventually(t, "it is unbound", func() bool {
			p := w.search(web, Query{})
			return len(p.Items) == 0 && p.Sources[0].State == slipway.SourceNone
		})
		// The hint says whose annotation it is and how it should look.
		for _, want := range []string{fake.Annotation, `"octo/web-site"`, "ci (fake)", `"octo/hello"`} {
			if hint := w.search(web, Query{}).Sources[0].Error; !strings.Contains(hint, want) {
				t.Errorf("hint %q does not say %s", hint, want)
			}
		}
	})
}

func TestBuildsOfAProviderThatWasReplacedStay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		v, other := fake.New(fake.Config{}), fake.New(fake.Config{})
		v.Add("octo/web", slipway.Build{ID: "1", Status: slipway.BuildRunning})
		if err := w.SetProviders(t.Context(), []Provider{taking(v, "fake", "octo/web")}); err != nil {
			t.Fatal(err)
		}
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.await(web, 1)
		if err := w.SetProviders(t.Context(), []Provider{taking(other, "another")}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is detached", func() bool {
			_, places, err := w.runs.Places(t.Context(), system, web, nil)
			return err == nil && len(places) == 1 && places[0].Detached && places[0].Provider.Provider == nil
		})
		p := w.search(web, Query{Fresh: true})
		if len(p.Items) != 1 || p.Sources[0].State != slipway.SourceDetached || p.Sources[0].Type != "fake" || builds(p)[0].Status != slipway.BuildRunning {
			t.Errorf("got %+v, %+v; want the build as it was last known", builds(p), p.Sources)
		}
		if lists, _ := other.Lists(); lists != 0 {
			t.Error("the new provider was asked for what is the old one's")
		}
		if err := w.SetProviders(t.Context(), []Provider{taking(v, "fake", "octo/web")}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is back", func() bool { return w.search(web, Query{}).Sources[0].State == slipway.SourceFresh })
	})
}

func TestAUserIsFoundByEachAccount(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ci, own := fake.New(fake.Config{}), fake.New(fake.Config{})
		w.vendors(map[string]*fake.Vendor{"ci": ci, "own": own})
		w.put("User", "jane", map[string]any{"profile": map[string]any{"email": "Jane@Example.com", "displayName": "Jane Doe"}, "memberOf": []any{}},
			map[string]string{fake.UserAnnotation: "jane-ci"})
		ci.Add("octo/web", slipway.Build{ID: "login", CreatedAt: at(1), TriggeredBy: &slipway.Person{ID: "jane-ci"}})
		ci.Add("octo/web", slipway.Build{ID: "mail", CreatedAt: at(2), TriggeredBy: &slipway.Person{ID: "77", Name: "J. D.", Email: "jane@example.com"}})
		own.Add("octo/web", slipway.Build{ID: "ref", CreatedAt: at(3), TriggeredBy: &slipway.Person{ID: "user:default/jane", EntityRef: "user:default/jane"}})
		own.Add("octo/web", slipway.Build{ID: "joe", CreatedAt: at(4), TriggeredBy: &slipway.Person{ID: "jane-ci-2"}})
		eventually(t, "the accounts are known", func() bool {
			var n int
			err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM task_account`).Scan(&n)
			return err == nil && n == 3 // the address, and the login at each
		})
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.await(web, 4)
		for who, want := range map[string]string{
			"JANE@example.com":  "ref mail login",
			"user:default/jane": "ref mail login",
			"jane-ci":           "ref mail login",
			"Jane Doe":          "login", // where the vendor gives no name; its own stays
			"joe@example.com":   "",
		} {
			q := Query{Filters: map[string][]string{"triggeredBy": {who}}}
			if got := strings.Join(ids(w.search(web, q)), " "); got != want {
				t.Errorf("%s: got %q, want %q", who, got, want)
			}
			p, err := w.runs.SearchAll(t.Context(), system, Scope{}, q)
			if got := strings.Join(ids(p), " "); err != nil || got != want {
				t.Errorf("%s, across entities: got %q, %v, want %q", who, got, err, want)
			}
		}
		for _, b := range builds(w.search(web, Query{})) {
			if _, id, _ := strings.Cut(b.ID, ":"); id == "login" && (b.TriggeredBy.Name != "Jane Doe" || b.TriggeredBy.EntityRef != "user:default/jane" || b.TriggeredBy.Email != "") {
				t.Errorf("got %+v, want the user's name and no address that the vendor did not give", b.TriggeredBy)
			}
		}
	})
}

func TestOneUnstorableNameStopsNobodyElse(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.vendors(map[string]*fake.Vendor{"ci": fake.New(fake.Config{})})
		long := strings.Repeat("x", maxID+1)
		w.put("User", "eve", map[string]any{"profile": map[string]any{"email": "a\x00b"}, "memberOf": []any{}}, map[string]string{fake.UserAnnotation: "c\x00d"})
		w.put("User", "max", map[string]any{"profile": map[string]any{"email": long}, "memberOf": []any{}}, map[string]string{fake.UserAnnotation: long})
		w.entity("sly", "team-a", map[string]string{fake.Annotation: "octo/\x00"})
		w.put("User", "jane", map[string]any{"profile": map[string]any{"email": "jane@example.com"}, "memberOf": []any{}}, nil)
		eventually(t, "the account after those is known", func() bool {
			var n int
			err := w.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM task_account`).Scan(&n)
			return err == nil && n == 1
		})
	})
}

func TestNamesWithSpacesAreToldFromSeveralNames(t *testing.T) {
	t.Parallel()
	job := provider.Annotation{Key: "jenkins.io/job-full-name", Project: true}
	login := provider.Annotation{Key: "jenkins.io/user-id"}
	for _, tt := range []struct {
		spaces              bool
		key, value, project string
		want                bool
	}{
		{false, job.Key, "shop/web, main:tools/my job", "tools/my job", true},
		{false, job.Key, "tools/my job", "job", false},
		{false, job.Key, "main:Tools/Web", "tools/web", true},
		{false, login.Key, "tools", "tools", false},
		{true, job.Key, "https://git.example.com/a.git https://git.example.com/b.git", "https://git.example.com/b", true},
	} {
		job.Spaces = tt.spaces
		o := Provider{Annotations: []provider.Annotation{job, login}}
		e := slipway.Entity{Metadata: slipway.EntityMetadata{Annotations: map[string]string{tt.key: tt.value}}}
		if got := o.namedBy(&e, tt.project); got != tt.want {
			t.Errorf("%s %q names %q: got %t", tt.key, tt.value, tt.project, got)
		}
	}
}
