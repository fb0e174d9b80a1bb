package catalog_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
)

// shelf is a file of twelve entities: four APIs of team-b among components of team-a.
func shelf() string {
	var file strings.Builder
	for i := range 12 {
		kind, rest := "Component", "owner: team-a"
		if i%3 == 0 {
			kind, rest = "API", "owner: team-b, definition: x"
		}
		fmt.Fprintf(&file, "---\napiVersion: backstage.io/v1alpha1\nkind: %s\nmetadata: {name: e%02d, title: 'T%d', tags: [java, t%d], labels: {Team: T%d}}\nspec: {type: service, lifecycle: production, %s, port: %d}\n", kind, i, 11-i, i%2, i%2, rest, i)
	}
	return file.String()
}

type queried struct {
	Items      []struct{ Metadata struct{ Name, UID string } }
	TotalItems int
	PageInfo   struct{ NextCursor, PrevCursor string }
}

func (q queried) names() string {
	var list []string
	for _, i := range q.Items {
		list = append(list, i.Metadata.Name)
	}
	return strings.Join(list, " ")
}

// withoutLocations takes away the entities that stand for registered locations, until they are read again.
func withoutLocations(s *blueprinttest.Server) {
	var list []struct{ Metadata struct{ UID string } }
	s.Get("/api/catalog/entities?filter=kind=location").Is(200).Into(&list)
	for _, e := range list {
		s.Do("DELETE", "/api/catalog/entities/by-uid/"+e.Metadata.UID, nil).Is(204)
	}
}

func TestByQueryFiltersOrdersSearchesAndCounts(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		register(s, h.put("/f.yaml", shelf()))
		withoutLocations(s)
		const path = "/api/catalog/entities/by-query"
		for query, want := range map[string]string{
			"filter=kind=api": "4: e00 e03 e06 e09",
			"filter=kind=api&orderField=metadata.name,desc&limit=2":                           "4: e09 e06",
			"filter=kind=api&orderField=metadata.labels.team,desc&orderField=metadata.title":  "4: e09 e03 e00 e06",
			"fullTextFilterTerm=E0&limit=3":                                                   "10: e00 e03 e06",
			"fullTextFilterTerm=t1&fullTextFilterFields=metadata.title,metadata.tags&limit=1": "8: e00",
			"fullTextFilterTerm=e1&orderField=metadata.title":                                 "0:",
			"filter=kind=api&totalItems=exclude&limit=1":                                      "0: e00",
			"filter=kind=component&limit=0":                                                   "8:",
			"fullTextFilterTerm=%25":                                                          "0:",
			"filter=relations.ownedBy=group:default/team-b&fullTextFilterTerm=e0&limit=2":     "4: e00 e03",
			"orderField=spec.none,desc&limit=2":                                               "12: e00 e03",
			"filter=kind=api,metadata.name=e01&filter=metadata.name=e02&orderField=spec.type": "1: e02",
			"offset=10": "12: e10 e11",
		} {
			var q queried
			s.Get(path + "?" + query).Is(200).Into(&q)
			if got := strings.TrimSpace(fmt.Sprintf("%d: %s", q.TotalItems, q.names())); got != want {
				t.Errorf("%s: got %s, want %s", query, got, want)
			}
		}
		for body, want := range map[string]string{
			`{"query":{"kind":"api"}}`: "4: e00 e03 e06 e09",
			`{"query":{"$all":[{"kind":"API"},{"$not":{"metadata.labels.team":"t0"}}]}}`:                          "2: e03 e09",
			`{"query":{"kind":"component","spec.port":{"$in":[1,2,"4"]}}}`:                                        "3: e01 e02 e04",
			`{"query":{"$any":[{"metadata.name":"e05"},{"metadata.title":{"$hasPrefix":"T1"}}]}}`:                 "4: e00 e01 e05 e10",
			`{"query":{"metadata.annotations.none":{"$exists":false}},"limit":1}`:                                 "12: e00",
			`{"query":{"spec":{"$exists":true}},"limit":0}`:                                                       "12:",
			`{"query":{"metadata.tags":{"$contains":"T1"},"kind":"api"}}`:                                         "2: e03 e09",
			`{"query":{"relations":{"$contains":{"type":"ownedBy","targetRef":"group:default/TEAM-B"}}}}`:         "4: e00 e03 e06 e09",
			`{"query":{"relations":{"$contains":{"type":"ownedby","targetRef":{"$in":["group:default/none"]}}}}}`: "0:",
			`{"query":{"$all":[]},"limit":1}`:                                                                     "12: e00",
			`{"query":{"$any":[]}}`:                                                                               "0:",
			`{"query":{},"orderBy":[{"field":"metadata.title","order":"asc"}],"limit":2}`:                         "12: e11 e10",
			`{"fullTextFilter":{"term":"E1","fields":["metadata.name"]}}`:                                         "2: e10 e11",
			`{"query":{"kind":"api"},"limit":1,"totalItems":"exclude"}`:                                           "0: e00",
		} {
			var q queried
			s.Post(path, body).Is(200).Into(&q)
			if got := strings.TrimSpace(fmt.Sprintf("%d: %s", q.TotalItems, q.names())); got != want {
				t.Errorf("%s: got %s, want %s", body, got, want)
			}
		}
		a := s.Post(path, `{"query":{"metadata.name":"e01"},"fields":["kind","metadata.name"]}`).Is(200)
		if got, want := strings.TrimSpace(string(a.Body)), `{"items":[{"kind":"Component","metadata":{"name":"e01"}}],"totalItems":1,"pageInfo":{}}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		deep := strings.Repeat(`{"$not":`, 20) + `{"kind":"api"}` + strings.Repeat(`}`, 20)
		for name, body := range map[string]string{
			"unknown operator": `{"query":{"kind":{"$like":"x"}}}`, "unknown root operator": `{"query":{"$or":[]}}`, "operator beside fields": `{"query":{"$not":{},"kind":"api"}}`,
			"no object": `{"query":["kind"]}`, "deep": `{"query":` + deep + `}`, "list as value": `{"query":{"kind":["api"]}}`, "null as value": `{"query":{"kind":null}}`,
			"contains an object": `{"query":{"metadata.links":{"$contains":{"url":"x"}}}}`, "relation without a type": `{"query":{"relations":{"$contains":{"targetRef":"x"}}}}`,
			"bad cursor": `{"cursor":"abc"}`, "negative limit": `{"limit":-1}`, "unknown field": `{"filter":"kind=api"}`, "odd order": `{"orderBy":[{"field":"a","order":"up"}]}`,
			"exists as text": `{"query":{"kind":{"$exists":"yes"}}}`, "two operators": `{"query":{"kind":{"$in":["a"],"$exists":true}}}`, "list in fields": `{"fields":["a[0]"]}`,
		} {
			if a := s.Post(path, body); a.Status != 400 || !strings.Contains(string(a.Body), `"name":"InputError"`) {
				t.Errorf("%s: got %d %s; want 400", name, a.Status, a.Body)
			}
		}
		for name, query := range map[string]string{"bad cursor": "cursor=abc", "odd order": "orderField=a,up", "unknown parameter": "order=asc:a", "no key": "filter==x", "odd total": "totalItems=some"} {
			if a := s.Get(path + "?" + query); a.Status != 400 {
				t.Errorf("%s: got %d %s; want 400", name, a.Status, a.Body)
			}
		}
	})
}

func TestCursorsGoOnAndBackWithEitherVerb(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		register(s, h.put("/f.yaml", shelf()))
		const path = "/api/catalog/entities/by-query"
		var pages []queried
		var q queried
		s.Get(path + "?filter=kind=component&orderField=metadata.title,desc&limit=3").Is(200).Into(&q)
		for {
			pages = append(pages, q)
			next := q.PageInfo.NextCursor
			if next == "" {
				break
			}
			q = queried{}
			if len(pages)%2 == 0 {
				s.Get(path + "?limit=3&cursor=" + next).Is(200).Into(&q)
			} else {
				s.Post(path, map[string]any{"cursor": next, "limit": 3}).Is(200).Into(&q)
			}
		}
		var all []string
		for _, p := range pages {
			if all = append(all, p.names()); p.TotalItems != 8 {
				t.Errorf("a page says %d in all, want 8", p.TotalItems)
			}
		}
		// Titles sort as texts: T3 after T10.
		if diff := cmp.Diff([]string{"e02 e04 e05", "e07 e08 e01", "e10 e11"}, all); diff != "" {
			t.Error(diff)
		}
		var back queried
		s.Get(path + "?limit=3&cursor=" + pages[2].PageInfo.PrevCursor).Is(200).Into(&back)
		if back.names() != all[1] || back.PageInfo.NextCursor == "" || back.PageInfo.PrevCursor == "" {
			t.Errorf("back from the last page: %s, %+v", back.names(), back.PageInfo)
		}
		var first queried
		s.Post(path, map[string]any{"cursor": back.PageInfo.PrevCursor, "limit": 3, "fields": []string{"metadata.name"}}).Is(200).Into(&first)
		if first.names() != all[0] || first.PageInfo.PrevCursor != "" || pages[0].PageInfo.PrevCursor != "" {
			t.Errorf("back to the first page: %s, %+v", first.names(), first.PageInfo)
		}
	})
}

func TestEntitiesByUIDAndByRefs(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		register(s, h.put("/f.yaml", shelf()))
		var q queried
		s.Get("/api/catalog/entities/by-query?filter=metadata.name=e05").Is(200).Into(&q)
		uid := q.Items[0].Metadata.UID
		if a := s.Get("/api/catalog/entities/by-uid/" + strings.ToUpper(uid)).Is(200); !strings.Contains(string(a.Body), `"name":"e05"`) {
			t.Errorf("got %s", a.Body)
		}
		s.With("catalog.entity.read:component:default/e01").Get("/api/catalog/entities/by-uid/" + uid).Is(404)
		s.Get("/api/catalog/entities/by-uid/none").Is(404)
		s.Get("/api/catalog/entities/by-uid/%00").Is(404)

		const path = "/api/catalog/entities/by-refs"
		refs := []string{"component:default/e05", "Component:E01", "component:default/none", "no ref!", "e05", "api:e00"}
		ask := func(c *blueprinttest.Client, query string, body map[string]any) string {
			var out struct {
				Items []*struct{ Metadata struct{ Name string } }
			}
			body["entityRefs"] = refs
			c.Post(path+query, body).Is(200).Into(&out)
			var list []string
			for _, i := range out.Items {
				if i == nil {
					list = append(list, "-")
				} else {
					list = append(list, i.Metadata.Name)
				}
			}
			return strings.Join(list, " ")
		}
		for _, tt := range []struct {
			what, query string
			body        map[string]any
			client      *blueprinttest.Client
			want        string
		}{
			{"all", "", map[string]any{}, s.Client, "e05 e01 - - e05 e00"},
			{"with a filter", "?filter=kind=api", map[string]any{"fields": []string{"metadata.name"}}, s.Client, "- - - - - e00"},
			{"with a predicate", "", map[string]any{"query": map[string]any{"spec.port": 1}}, s.Client, "- e01 - - - -"},
			{"with both", "?filter=kind=component", map[string]any{"query": map[string]any{"spec.port": map[string]any{"$in": []int{0, 1}}}}, s.Client, "- e01 - - - -"},
			{"of what one may read", "", map[string]any{}, s.With("catalog.entity.read:component:default/e01"), "- e01 - - - -"},
		} {
			if got := ask(tt.client, tt.query, tt.body); got != tt.want {
				t.Errorf("%s: got %s, want %s", tt.what, got, tt.want)
			}
		}
		s.Post(path, `{"entityRefs":[]}`).Is(200)
		s.Post(path, `{}`).Is(400)
		s.Post(path, map[string]any{"entityRefs": make([]string, 1001)}).Is(400)
	})
}

func TestFacetsWithEitherVerb(t *testing.T) {
	t.Parallel()
	each(t, nil, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		register(s, h.put("/f.yaml", shelf()))
		want := `{"facets":{"kind":[{"value":"API","count":4}],"metadata.labels.team":[{"value":"T0","count":2},{"value":"T1","count":2}],"spec.none":[]}}`
		for _, a := range []*blueprinttest.Answer{
			s.Get("/api/catalog/entity-facets?facet=kind&facet=metadata.labels.team&facet=spec.none&filter=kind=api"),
			s.Post("/api/catalog/entity-facets", `{"facets":["kind","metadata.labels.team","spec.none"],"query":{"kind":"api"}}`),
		} {
			if got := strings.TrimSpace(string(a.Is(200).Body)); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		if a := s.With("catalog.entity.read:component:*").Get("/api/catalog/entity-facets?facet=kind").Is(200); strings.TrimSpace(string(a.Body)) != `{"facets":{"kind":[{"value":"Component","count":8}]}}` {
			t.Errorf("got %s; want only what one may read", a.Body)
		}
		s.Get("/api/catalog/entity-facets").Is(400)
		s.Get("/api/catalog/entity-facets?facet=").Is(400)
		s.Post("/api/catalog/entity-facets", `{"facets":[]}`).Is(400)
		s.Post("/api/catalog/entity-facets", `{"facets":["kind"],"query":{"$x":1}}`).Is(400)
		s.With("catalog.location.read").Get("/api/catalog/entity-facets?facet=kind").Is(403)
	})
}
