package catalog_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestAPushHasTheFilesOfItsRepositoryReadAtOnce(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			h, vendor := newHost(t), fake.New(fake.Config{WebhookSecret: "hush"})
			o := options(h, t.TempDir(), storetest.URL(t, engine), func(c *server.Config, _ *host) {
				c.Providers = []server.ProviderConfig{{Name: "git", Type: "fake"}}
			})
			o.Blueprints, o.Kinds = []blueprint.Blueprint{catalog.Blueprint, build.Blueprint}, []provider.Kind{vendor.Kind()}
			s := blueprinttest.Start(t, engine, o)
			deliver := func(header http.Header, body []byte) *blueprinttest.Answer {
				var pairs []string
				for name := range header {
					pairs = append(pairs, name, header.Get(name))
				}
				return s.As("").Do("POST", "/hooks/git", body, pairs...)
			}
			// Two repositories, both below one location; and one that is registered by itself.
			h.put("/octo/web/raw/branch/main/c.yaml", component("web"))
			h.put("/octo/web2/raw/branch/main/c.yaml", component("web2"))
			r := register(s, h.put("/octo/all/raw/branch/main/all.yaml", locationEntity("all", "{targets: [/octo/web/raw/branch/main/c.yaml, /octo/web2/raw/branch/main/c.yaml]}")))
			other := register(s, h.put("/Octo/Other/raw/branch/main/c.yaml", component("other")))
			for _, target := range []string{"/octo/web/raw/branch/main/c.yaml", "/octo/web2/raw/branch/main/c.yaml", "/Octo/Other/raw/branch/main/c.yaml"} {
				h.put(target, component("new-"+fmt.Sprint(len(target))))
			}
			before, _ := h.counts()

			header, body := vendor.Push("octo/web", h.URL+"/octo/web")
			header.Set(fake.SignatureHeader, "sha256=00")
			deliver(header, body).Is(401)
			if a := deliver(vendor.Push("octo/web", h.URL+"/octo/web")).Is(202); string(a.Body) == "" {
				t.Error("no answer")
			}
			blueprinttest.Eventually(t, "the new content is seen", func() bool { return there(s, "component:default/new-32") })
			if requests, _ := h.counts(); requests != before+1 || there(s, "component:default/new-33") || there(s, "component:default/new-34") {
				t.Errorf("%d files were read; want the one of the repository", requests-before)
			}
			// What the other files brought is as it was, and so is the location.
			var l catalog.Location
			if s.Get("/api/catalog/locations/" + r.LocationID).Is(200).Into(&l); l.Status != "ready" || !there(s, "component:default/web2") {
				t.Errorf("got %+v; want it ready with what the other files brought", l)
			}
			// Whatever the case of the address, and of nobody's files.
			deliver(vendor.Push("octo/other", h.URL+"/octo/other/")).Is(202)
			blueprinttest.Eventually(t, "the other repository is read", func() bool { return there(s, "component:default/new-34") })
			if s.Get("/api/catalog/locations/" + other.LocationID).Is(200).Into(&l); l.Status != "ready" {
				t.Errorf("got %+v; want it ready", l)
			}
			deliver(vendor.Push("octo/none", h.URL+"/octo/none")).Is(202)
			deliver(vendor.Push("octo", h.URL+"/octo")).Is(400) // a whole owner
			if requests, _ := h.counts(); requests != before+2 {
				t.Errorf("%d files were read; want two", requests-before)
			}
		})
	}
}

func TestAPushLeavesFaultsOfOtherFilesAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			h, vendor := newHost(t), fake.New(fake.Config{WebhookSecret: "hush"})
			o := options(h, t.TempDir(), storetest.URL(t, engine), func(c *server.Config, _ *host) {
				c.Providers = []server.ProviderConfig{{Name: "git", Type: "fake"}}
			})
			o.Blueprints, o.Kinds = []blueprint.Blueprint{catalog.Blueprint, build.Blueprint}, []provider.Kind{vendor.Kind()}
			s := blueprinttest.Start(t, engine, o)
			h.put("/octo/good/raw/c.yaml", component("good"))
			h.put("/octo/bad/raw/c.yaml", component("bad"))
			r := register(s, h.put("/octo/all/raw/all.yaml", locationEntity("all", "{targets: [/octo/good/raw/c.yaml, /octo/bad/raw/c.yaml]}")))
			h.put("/octo/bad/raw/c.yaml", component("bad")+"  system: 7\n")
			refreshed(t, s, r.LocationID)
			h.drop("/octo/all/raw/all.yaml")
			s.Post("/api/catalog/refresh", map[string]string{"entityRef": "component:good"}).Is(200)
			var before catalog.Location
			blueprinttest.Eventually(t, "there are a failure and a fault", func() bool {
				before = catalog.Location{}
				s.Get("/api/catalog/locations/" + r.LocationID).Is(200).Into(&before)
				return before.Status == "failed" && len(before.Faults) == 1
			})
			h.put("/octo/good/raw/c.yaml", component("better"))
			header, body := vendor.Push("octo/good", h.URL+"/octo/good")
			s.As("").Do("POST", "/hooks/git", body, fake.SignatureHeader, header.Get(fake.SignatureHeader)).Is(202)
			blueprinttest.Eventually(t, "the new content is seen", func() bool { return there(s, "component:default/better") })
			var after catalog.LocationStatus
			blueprinttest.Eventually(t, "the pass has ended", func() bool {
				after = catalog.LocationStatus{}
				a := s.Get("/api/catalog/locations/" + r.LocationID + "/status").Is(200).Into(&after)
				return strings.Contains(string(a.Body), "component:default/better")
			})
			if l := after.Location; l.Status != "failed" || l.Error != before.Error || len(l.Faults) != 1 || l.Faults[0] != before.Faults[0] {
				t.Errorf("got %+v; want it as it was: %+v", l, before)
			}
			for _, ref := range []string{"component:default/bad", before.EntityRef} {
				if got := statusOf(s, ref); len(got) != 1 {
					t.Errorf("%s: status is %q; want the fault that it had", ref, got)
				}
			}
		})
	}
}
