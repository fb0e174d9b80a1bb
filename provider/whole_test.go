package provider_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

func TestAWholeListIsPagedNewestFirst(t *testing.T) {
	t.Parallel()
	type item struct {
		ID string
		At int64
	}
	key := func(i item) (time.Time, string) { return time.Unix(i.At, 0), i.ID }
	all := []item{{"b", 1}, {"d", 2}, {"a", 1}, {"c", 2}, {"e x", 2}}
	var seen []string
	o := provider.ListOptions{Limit: 2}
	for {
		page, err := provider.Whole(slices.Clone(all), key, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range page.Items {
			seen = append(seen, i.ID)
		}
		if page.Next == "" {
			break
		}
		o.Cursor = page.Next
		all = append(all, item{"new" + fmt.Sprint(len(all)), 3}) // it arrives while somebody reads
	}
	if got := strings.Join(seen, ","); got != "e x,d,c,b,a" {
		t.Errorf("got %s", got)
	}
	first, err := provider.Whole(slices.Clone(all), key, provider.ListOptions{})
	if err != nil || first.Validator == "" || len(first.Items) != len(all) {
		t.Fatalf("got %+v, %v", first, err)
	}
	if again, err := provider.Whole(slices.Clone(all), key, provider.ListOptions{Validator: first.Validator}); err != nil || !again.NotModified || len(again.Items) > 0 {
		t.Errorf("unchanged: got %+v, %v", again, err)
	}
	if changed, err := provider.Whole(all[1:], key, provider.ListOptions{Validator: first.Validator}); err != nil || changed.NotModified {
		t.Errorf("changed: got %+v, %v", changed, err)
	}
	for _, bad := range []string{"x", "12", "x y"} {
		if _, err := provider.Whole(all, key, provider.ListOptions{Cursor: bad}); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%q: got %v, want invalid", bad, err)
		}
	}
	if beyond, err := provider.Whole(all, key, provider.ListOptions{Cursor: "-5 a"}); err != nil || len(beyond.Items) > 0 {
		t.Errorf("got %+v, %v", beyond, err)
	}
}

func TestTemplatesAreFilledInAndTellTheirFaults(t *testing.T) {
	t.Parallel()
	values := map[string]string{"cluster": "prod", "label:team": "shop"}
	for _, test := range []struct {
		template provider.Template
		want     string
		faults   int
	}{
		{"", "", 0},
		{"production", "production", 0},
		{"{cluster}/{label:team}", "prod/shop", 0},
		{"{cluster}-{label:none}", "prod-", 0},
		{"x{label:none}", "", 0}, // nothing is said of it
		{"{nothing} {label:}", "", 2},
		{"{cluster", "{cluster", 1},
	} {
		if got := test.template.Fill(func(name string) string { return values[name] }); got != test.want {
			t.Errorf("%q: got %q, want %q", test.template, got, test.want)
		}
		if got := test.template.Faults("x", "cluster", "label:"); len(got) != test.faults {
			t.Errorf("%q: got %v, want %d faults", test.template, got, test.faults)
		}
	}
}

func TestASelectorHasOneSpelling(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"app=web": "app=web", " tier != test,app == web,, env in (a,  b) ": "app=web,env in (a, b),tier!=test", "app=web,app=web": "app=web", "!old": "!old",
		"": "", " , ": "", "app=web&limit=1": "", strings.Repeat("a", 500): "",
	} {
		got, ok := provider.Selector(text)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%.50q: got %q, %t, want %q", text, got, ok, want)
		}
		if l := (provider.Labelled{Namespace: "shop", Selector: got}); ok {
			if read, ok := provider.ReadLabelled(l.String()); !ok || read != l {
				t.Errorf("%q is read as %+v", l, read)
			}
		}
	}
	for _, text := range []string{"", "shop", "shop/", "A/app=web", "shop/a&b", "../app=web"} {
		if l, ok := provider.ReadLabelled(text); ok {
			t.Errorf("%q is read as %+v", text, l)
		}
	}
}
