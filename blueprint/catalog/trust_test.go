package catalog_test

import (
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/server"
)

const admins = `---
apiVersion: backstage.io/v1alpha1
kind: User
metadata: {name: mallory}
spec: {memberOf: [admins]}
---
apiVersion: backstage.io/v1alpha1
kind: Group
metadata: {name: admins}
spec: {type: team, children: [], members: [mallory]}
`

func TestOnlyTrustedLocationsSayWhoIsInAGroup(t *testing.T) {
	t.Parallel()
	each(t, func(c *server.Config, h *host) {
		h.put("/configured.yaml", strings.NewReplacer("mallory", "jane", "admins", "operators").Replace(admins))
		section(c).Locations = []catalog.Place{{Type: "url", Target: h.URL + "/configured.yaml"}}
		c.Auth.Grants = []auth.GrantConfig{
			{To: "user:default/mallory", Permissions: []string{"catalog.location.create", "catalog.entity.write"}},
			{To: "user:default/bob", Permissions: []string{"catalog.location.create"}},
			{To: "group:default/admins", Permissions: []string{"*"}},
		}
	}, func(t *testing.T, s *blueprinttest.Server, h *host, _ string) {
		mallory := s.As(s.NewToken(auth.NewToken{Name: "m", User: "user:default/mallory"}))
		refused := mallory.Post("/api/catalog/locations", catalog.Place{Type: "url", Target: h.put("/groups.yaml", admins)}).Is(400)
		if !strings.Contains(string(refused.Body), "catalog.location.trust") {
			t.Errorf("the answer is %s; want the permission that is missing", refused.Body)
		}
		// Neither beside something else, nor by way of a further file.
		var r registered
		mallory.Post("/api/catalog/locations", catalog.Place{Type: "url", Target: h.put("/web.yaml", web+admins+locationEntity("further", "{target: groups.yaml}"))}).Is(201).Into(&r)
		var l catalog.Location
		s.Get("/api/catalog/locations/" + r.LocationID).Is(200).Into(&l)
		if l.Trusted || len(l.Faults) != 4 || !strings.Contains(l.Faults[0], "catalog.location.trust") || !there(s, "component:default/web") {
			t.Errorf("got %+v; want four faults and the component", l)
		}
		group := map[string]any{"apiVersion": "backstage.io/v1alpha1", "kind": "Group", "metadata": map[string]any{"name": "admins"},
			"spec": map[string]any{"type": "team", "children": []string{}, "members": []string{"mallory"}}}
		if a := mallory.Do("PUT", "/api/catalog/entities/by-name/group/default/admins", group).Is(403); !strings.Contains(string(a.Body), "catalog.location.trust") {
			t.Errorf("the answer is %s; want the permission that is missing", a.Body)
		}
		if there(s, "user:default/mallory") || there(s, "group:default/admins") {
			t.Error("a location that nobody vouched for defined a user or a group")
		}
		if a := mallory.Get("/api/catalog/locations"); a.Status != 403 {
			t.Errorf("the caller has got rights: %d", a.Status)
		}
		// Who may vouch for it is believed, and so is the configuration.
		if r = register(s, h.put("/trusted.yaml", admins)); !r.Location.Trusted || !there(s, "user:default/mallory") || !there(s, "group:default/admins") {
			t.Errorf("got %+v; want a trusted location with a user and a group", r.Location)
		}
		blueprinttest.Eventually(t, "the configured location is read", func() bool { return there(s, "group:default/operators") && there(s, "user:default/jane") })
		blueprinttest.Eventually(t, "the caller holds the rights of the group", func() bool { return mallory.Get("/api/catalog/locations").Status == 200 })
		// A trusted location with another target is trusted as far as whoever gave it that one.
		bob := s.As(s.NewToken(auth.NewToken{Name: "b", User: "user:default/bob"}))
		l = catalog.Location{}
		bob.Do("PUT", "/api/catalog/locations/"+r.LocationID, catalog.Place{Type: "url", Target: h.put("/others.yaml", strings.ReplaceAll(admins, "admins", "operators")+web)}).Is(200).Into(&l)
		if l.Trusted {
			t.Errorf("got %+v; want it not trusted any more", l)
		}
	})
}
