package catalog

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
)

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"kind=Component,metadata.name=web", "metadata.annotations.github.com/project-slug", "a=,b= c ,,", "=x", "a=b=c", "kind=\xff", " , "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sets, err := parseFilters([]string{text})
		if err != nil {
			if !errors.Is(err, slipway.Invalid) {
				t.Errorf("got %v, want invalid", err)
			}
			return
		}
		if len(sets) > 1 {
			t.Fatalf("%d sets of one filter", len(sets))
		}
		var parts []string
		for _, set := range sets {
			for _, c := range set {
				if c.Key == "" || c.Key != strings.TrimSpace(c.Key) || len(c.Values) > 1 {
					t.Errorf("a condition is %+v", c)
				}
				part := c.Key
				for _, v := range c.Values {
					part += "=" + v
				}
				parts = append(parts, part)
			}
		}
		again, err := parseFilters([]string{strings.Join(parts, ",")})
		if diff := cmp.Diff(sets, again); err != nil || diff != "" {
			t.Errorf("written out and read again it is another filter: %v\n%s", err, diff)
		}
	})
}

func FuzzPredicate(f *testing.F) {
	for _, s := range []string{
		`{"kind":"Component","spec.type":{"$in":["service","website",1,true]}}`, `{"$all":[{"$any":[]},{"$not":{"id":{"$exists":false}}}]}`, `{"id":{"$hasPrefix":"A"}}`,
		`{"relations":{"$contains":{"type":"ownedBy","targetRef":{"$in":["group:default/a"]}}}}`, `{"$not":{"$not":{"type":{"$contains":"url"}}}}`, `{"a":{}}`, `{"a":null}`, `{"$x":1}`, `{"":""}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var query map[string]any
		if json.Unmarshal([]byte(text), &query) != nil || query == nil {
			return
		}
		p, err := parsePredicate(query)
		if err != nil {
			if !errors.Is(err, slipway.Invalid) {
				t.Errorf("got %v, want invalid", err)
			}
			return
		}
		fields := map[string]string{"id": "a1", "type": "url", "kind": "Component"}
		if holds(p, fields) == holds(&entity.Predicate{Not: p}, fields) {
			t.Errorf("%s holds as its opposite does", text)
		}
	})
}

func FuzzFields(f *testing.F) {
	for _, s := range []string{"kind,metadata.name", "metadata.annotations.github.com/project-slug", "metadata.annotations,metadata.annotations.a.b", "..", "a[0]", "spec.x.y"} {
		f.Add(s)
	}
	doc := json.RawMessage(`{"kind":"Component","metadata":{"name":"web","annotations":{"github.com/project-slug":"octo/web","a.b":"1","a":"2"}},"spec":{"x":{"y":[1]},"":{"":1}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		fields, err := parseFields(text)
		if err != nil {
			if !errors.Is(err, slipway.Invalid) {
				t.Errorf("got %v, want invalid", err)
			}
			return
		}
		out, err := fields.of(doc)
		if err != nil || !json.Valid(out) || len(out) > len(doc) {
			t.Errorf("got %s, %v", out, err)
		}
	})
}
