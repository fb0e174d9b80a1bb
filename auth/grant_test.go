package auth

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/slipway-platform/slipway"
)

var declared = []Permission{
	{Name: "build.run.read", Text: "See builds", Object: "entity"},
	{Name: "build.run.retrigger", Text: "Retrigger builds", Object: "entity"},
	{Name: "catalog.entity.read", Text: "See entities", Object: "entity"},
	{Name: "platform.job.read", Text: "See jobs"},
	{Name: ImpersonatePermission, Text: "Issue tokens that act as others"},
	{Name: LiftPermission, Text: "Issue tokens with higher limits"},
}

func grants(t testing.TB, texts ...string) []slipway.Grant {
	t.Helper()
	var all []slipway.Grant
	for _, text := range texts {
		g, err := ParseGrant(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, g)
	}
	return all
}

func TestAllows(t *testing.T) {
	t.Parallel()
	web := Object{Ref: "component:default/web", Owner: "group:default/team-a"}
	api := Object{Ref: "component:other/api", Owner: "group:default/team-b"}
	orphan := Object{Ref: "component:default/orphan"}
	for _, c := range []struct {
		grant, permission string
		object            Object
		want              bool
	}{
		{"build.run.read", "build.run.read", web, true},
		{"build.run.read", "build.run.read", Object{}, true},
		{"build.run.read", "build.run.retrigger", web, false},
		{"build.*", "build.run.retrigger", web, true},
		{"build.run.*", "build.run.retrigger", web, true},
		{"build.run.*", "build.runner.read", web, false},
		{"build.*", "builder.run.read", web, false},
		{"*", "platform.job.read", Object{}, true},
		{"build.run.read:component:default/web", "build.run.read", web, true},
		{"build.run.read:Web", "build.run.read", web, true}, // refs are read as everywhere
		{"build.run.read:component:default/web", "build.run.read", api, false},
		{"build.run.read:component:default/web", "build.run.read", Object{}, false},
		{"build.run.read:component:default/we", "build.run.read", web, false},
		{"build.run.read:component:default/*", "build.run.read", web, true},
		{"build.run.read:component:default/*", "build.run.read", api, false},
		{"build.run.read:component:*", "build.run.read", api, true},
		{"build.run.read:*", "build.run.read", Object{}, true},
		{"build.*:owned", "build.run.read", web, true},
		{"build.*:owned", "build.run.read", api, false},
		{"build.*:owned", "build.run.read", orphan, false},
		{"build.*:owned", "build.run.read", Object{}, false},
		{"build.*:owned:component:default/*", "build.run.read", web, true},
		{"build.*:owned:component:other/*", "build.run.read", web, false},
		{"build.*:owned:component:other/*", "build.run.read", api, false},
	} {
		caller := &slipway.Caller{Subject: "user:default/jane", Owns: []string{"user:default/jane", "group:default/team-a"}, Grants: grants(t, c.grant)}
		if got := Allows(caller, c.permission, c.object); got != c.want {
			t.Errorf("%s allows %s on %+v: got %v, want %v", c.grant, c.permission, c.object, got, c.want)
		}
	}
	if Allows(nil, "build.run.read", web) || Allows(anonymous, "build.run.read", web) {
		t.Error("a caller without grants was allowed something")
	}
}

func TestGrantTexts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]slipway.Grant{
		"*":                                  {Permission: "*"},
		"build.*":                            {Permission: "build.*"},
		"build.run.read:owned":               {Permission: "build.run.read", Object: ":owned"},
		"build.run.read:owned:*":             {Permission: "build.run.read", Object: ":owned"},
		"build.run.read:*":                   {Permission: "build.run.read"},
		"build.run.read:owned:API:Default/X": {Permission: "build.run.read", Object: ":owned:api:default/x"},
		"build.run.read:web":                 {Permission: "build.run.read", Object: "component:default/web"},
		"build.run.read:owned-by-us":         {Permission: "build.run.read", Object: "component:default/owned-by-us"},
		"build.run.read:Component:Def*":      {Permission: "build.run.read", Object: "component:def*"},
	} {
		got, err := ParseGrant(text)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ":", ":owned", "build", "build.run", "build.run.re*", "**", "*.read", "build.*.read", "build.run.read.x", "Build.run.read", " build.run.read",
		"build.run.read:", "build.run.read:owned:", "build.run.read:a*b", "build.run.read:default/*", "build.run.read:component:default/**",
		"build.run.read:component:default/a/b*", "build.run.read:-", "build.run.read:\x00", "build.run.read:" + strings.Repeat("a", 500),
	} {
		if g, err := ParseGrant(text); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%.60q: got %+v, %v; want it refused", text, g, err)
		}
	}
}

func TestFaultsOfGrantsAreReportedTogether(t *testing.T) {
	t.Parallel()
	_, err := rules([]GrantConfig{
		{To: "user:default/jane", Permissions: []string{"build.*", "bild.*", "platform.job.read:owned"}},
		{To: "jane", Permissions: []string{"*"}},
		{To: "group:team-a"},
		{To: "user:jane*", Permissions: []string{"*"}},
	}, declared)
	var e *slipway.Error
	if !errors.As(err, &e) || e.Code != slipway.Invalid {
		t.Fatalf("got %v, want it refused", err)
	}
	var fields []string
	for _, d := range e.Details {
		fields = append(fields, d.Field)
	}
	want := []string{"grants[0].permissions[1]", "grants[0].permissions[2]", "grants[1].to", "grants[2].permissions", "grants[3].to"}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	for _, to := range []string{"*", "user:*", "user:default/*", "user:Jane", "group:default/team-a", "token:ci", "token:ci-*", "tool:*"} {
		if _, err := rules([]GrantConfig{{To: to, Permissions: []string{"*"}}}, declared); err != nil {
			t.Errorf("to %q: %v", to, err)
		}
	}
}

// What two grants have in common allows exactly what both allow, so that a token can never do more than its issuer.
func TestCommonOfGrantsIsWhatBothAllow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, object, permission := anyGrants(t, "a"), anyGrants(t, "b"), anyObject(t), anyPermission(t)
		owns := rapid.SliceOfN(rapid.SampledFrom(owners[1:]), 0, 2).Draw(t, "owns")
		allows := func(g []slipway.Grant) bool {
			return Allows(&slipway.Caller{Owns: owns, Grants: g}, permission, object)
		}
		common := intersect(a, b)
		if got, want := allows(common), allows(a) && allows(b); got != want {
			t.Fatalf("%v and %v have %v in common, which says %v for %s on %+v; want %v",
				FormatGrants(a), FormatGrants(b), FormatGrants(common), got, permission, object, want)
		}
		for _, g := range a {
			if covers(b, g) && allows([]slipway.Grant{g}) && !allows(b) {
				t.Fatalf("%v covers %s and allows less", FormatGrants(b), FormatGrant(g))
			}
		}
	})
}

// Allows agrees with reading the words of a grant one by one.
func TestAllowsAgreesWithItsDescription(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(anyGrantText(), 0, 4).Draw(t, "grants")
		object, permission := anyObject(t), anyPermission(t)
		owns := rapid.SliceOfN(rapid.SampledFrom(owners[1:]), 0, 2).Draw(t, "owns")
		c := &slipway.Caller{Owns: owns}
		want := false
		for _, text := range texts {
			g, err := ParseGrant(text)
			if err != nil {
				t.Fatal(err)
			}
			c.Grants = append(c.Grants, g)
			want = want || naive(text, permission, object, owns)
		}
		if got := Allows(c, permission, object); got != want {
			t.Fatalf("%v for %s on %+v owning %v: got %v, want %v", texts, permission, object, owns, got, want)
		}
		if Allows(c, permission, object) && !AllowsAny(c, permission) {
			t.Fatal("allowed on something, and yet on nothing")
		}
	})
}

func naive(text, permission string, o Object, owns []string) bool {
	words := strings.SplitN(text, ":", 2)
	pattern := words[0]
	if pattern != "*" && pattern != permission {
		stem, wild := strings.CutSuffix(pattern, "*")
		if !wild || !strings.HasPrefix(permission, stem) {
			return false
		}
	}
	if len(words) == 1 {
		return true
	}
	object := words[1]
	if object == "owned" || strings.HasPrefix(object, "owned:") {
		if o.Owner == "" || !slices.Contains(owns, o.Owner) {
			return false
		}
		if object == "owned" {
			return true
		}
		object = strings.TrimPrefix(object, "owned:")
	}
	if stem, wild := strings.CutSuffix(object, "*"); wild {
		return strings.HasPrefix(o.Ref, stem)
	}
	return object == o.Ref
}

var owners = []string{"", "user:default/jane", "group:default/team-a"}

func anyPermission(t *rapid.T) string {
	return rapid.SampledFrom([]string{"build.run.read", "build.run.retrigger", "build.log.read", "catalog.entity.read"}).Draw(t, "permission")
}

func anyObject(t *rapid.T) Object {
	o := Object{Ref: rapid.SampledFrom([]string{"", "component:default/web", "component:default/web-2", "component:other/web", "api:default/web"}).Draw(t, "ref")}
	if o.Ref != "" {
		o.Owner = rapid.SampledFrom(owners).Draw(t, "owner")
	}
	return o
}

func anyGrantText() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		p := rapid.SampledFrom([]string{"*", "build.*", "build.run.*", "build.run.read", "build.log.read", "catalog.*", "catalog.entity.read"}).Draw(t, "pattern")
		o := rapid.SampledFrom([]string{"", ":*", ":owned", ":component:*", ":component:default/*", ":component:default/web*", ":component:default/web", ":api:default/web",
			":owned:component:*", ":owned:component:default/web", ":owned:*"}).Draw(t, "narrowed")
		return p + o
	})
}

func anyGrants(t *rapid.T, label string) []slipway.Grant {
	var all []slipway.Grant
	for _, text := range rapid.SliceOfN(anyGrantText(), 0, 4).Draw(t, label) {
		g, err := ParseGrant(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, g)
	}
	return all
}

func FuzzParseGrant(f *testing.F) {
	for _, s := range []string{"*", "build.*:owned", "build.run.read:component:default/web", "build.run.read:owned:component:*", "a.b.c:*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, err := ParseGrant(s)
		if err != nil {
			return
		}
		again, err := ParseGrant(FormatGrant(g))
		if err != nil || again != g {
			t.Errorf("%q became %+v, written %q, read again %+v, %v", s, g, FormatGrant(g), again, err)
		}
		if !covers([]slipway.Grant{g}, g) {
			t.Errorf("%+v does not cover itself", g)
		}
	})
}

func TestRequireNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	jane := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane", Grants: grants(t, "build.run.read:component:default/web")}
	ctx := WithCaller(t.Context(), jane)
	web := Object{Ref: "component:default/web"}
	if err := Require(ctx, "build.run.read", web); err != nil {
		t.Errorf("what was granted: %v", err)
	}
	err := Require(ctx, "build.run.retrigger", web)
	if !errors.Is(err, slipway.Forbidden) || !strings.Contains(err.Error(), "build.run.retrigger on component:default/web") {
		t.Errorf("got %v, want Forbidden with the permission and the object", err)
	}
	if err := Require(t.Context(), "build.run.read", web); !errors.Is(err, slipway.Unauthenticated) {
		t.Errorf("nobody: got %v, want Unauthenticated", err)
	}
	if err := RequireAny(ctx, "build.run.read"); err != nil {
		t.Errorf("granted on something: %v", err)
	}
	if err := RequireAny(ctx, "platform.job.read"); !errors.Is(err, slipway.Forbidden) {
		t.Errorf("granted on nothing: got %v, want Forbidden", err)
	}
	if err := Require(WithCaller(t.Context(), System()), "build.run.retrigger", web); err != nil {
		t.Errorf("the system itself: %v", err)
	}
}

func TestTrackKnowsWhetherTheObjectWasChecked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(context.Context)
		want bool
	}{
		"nothing":    {func(context.Context) {}, false},
		"gate only":  {func(ctx context.Context) { _ = RequireAny(ctx, "build.run.read") }, false},
		"who asks":   {func(ctx context.Context) { CallerFrom(ctx) }, false},
		"checked":    {func(ctx context.Context) { _ = Require(ctx, "build.run.read", Object{Ref: "component:default/web"}) }, true},
		"in SQL":     {func(ctx context.Context) { Narrowed(ctx) }, true},
		"further in": {func(ctx context.Context) { Narrowed(WithCaller(ctx, System())) }, true},
		"at one time": {func(ctx context.Context) {
			done := make(chan int)
			go func() { Narrowed(ctx); close(done) }()
			Narrowed(ctx)
			<-done
		}, true},
	} {
		ctx, checked := Track(t.Context())
		c.do(ctx)
		if checked() != c.want {
			t.Errorf("%s: got %v, want %v", name, checked(), c.want)
		}
	}
	Narrowed(t.Context()) // outside of a request there is nobody to tell
}
