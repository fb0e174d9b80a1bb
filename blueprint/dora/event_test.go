package dora_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/server"
)

// What is reported is told in the words of CDEvents, once, to who may read the history of the entity.
func TestReportsAreToldOf(t *testing.T) {
	t.Parallel()
	o := options()
	o.Blueprints = append(o.Blueprints, platform.Blueprint)
	dir := t.TempDir()
	file := filepath.Join(dir, "catalog-info.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: my-service}\nspec: {type: website, lifecycle: production, owner: team-a}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Configure = func(c *server.Config) { c.Fetch.FileRoots = []string{dir} }
	blueprinttest.Each(t, o, func(t *testing.T, s *blueprinttest.Server) {
		s.Post("/api/catalog/locations", m{"type": "file", "target": file}).Is(201)
		at := func(minutes int) string {
			return start.Add(-2 * time.Hour).Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339)
		}
		const types = "/api/events?limit=100&type=dev.cdevents.*&type=dev.cdeventsx.slipway-deployment.*"
		var want []string
		told := func(events ...string) {
			t.Helper()
			want = append(want, events...)
			s.Told(types, want)
		}
		post := func(what string, docs ...m) {
			t.Helper()
			for range 2 { // every report comes twice, which changes nothing
				s.Post("/api/devlake/"+what, docs).Is(200)
			}
		}
		incident := m{"id": "INC-7", "service": "my-service", "title": "Checkout is down", "severity": "high", "startedAt": at(1)}
		post("incidents", incident)
		told("incident.detected INC-7")
		incident["url"] = "https://tickets.example.com/INC-7"
		post("incidents", incident)
		told("incident.reported INC-7")
		incident["resolvedAt"] = at(20)
		post("incidents", incident)
		told("incident.resolved INC-7")
		incident["severity"] = "low"
		post("incidents", incident)
		told() // that is no other incident, and no word of CDEvents

		post("changes", m{"id": "42", "service": "my-service", "title": "Mend it", "openedAt": at(2)})
		told("change.created 42")
		post("changes", m{"id": "42", "service": "my-service", "title": "Mend it", "openedAt": at(2), "mergedAt": at(3), "mergeCommit": "abc123"},
			m{"id": "43", "service": "my-service", "openedAt": at(2), "mergedAt": at(4)})
		told("change.merged 42", "change.merged 43")

		run := m{"id": "d1", "service": "my-service", "environment": "production", "version": "v1", "status": "IN_PROGRESS", "startTime": at(5)}
		post("deployments", run)
		told("deployment.started d1")
		run["status"], run["endTime"] = "SUCCESS", at(6)
		post("deployments", run)
		told("deployment.finished d1", "service.deployed my-service")
		post("deployments", m{"id": "d2", "service": "my-service", "environment": "production", "version": "v0", "status": "SUCCESS", "startTime": at(7), "endTime": at(8), "rollback": true},
			m{"id": "d3", "service": "nobodys", "environment": "production", "status": "FAILURE", "startTime": at(7), "endTime": at(9)})
		told("deployment.finished d2", "service.rolledback my-service", "deployment.finished d3")

		// Years of history are brought along in silence.
		post("deployments", m{"id": "old", "service": "my-service", "environment": "production", "status": "SUCCESS", "startTime": "2024-12-06T08:00:00Z", "endTime": "2024-12-06T08:05:00Z"})
		post("incidents", m{"id": "OLD-1", "service": "my-service", "startedAt": "2024-12-06T08:00:00Z", "resolvedAt": "2024-12-06T09:00:00Z"})
		told()

		all := s.Events(types)
		var data struct {
			Subject struct {
				Content struct {
					Description, TicketURI string
					Environment, Service   struct{ ID string }
				}
			}
			CustomData struct{ Service, EntityRef, Severity, ReportedBy string }
		}
		if err := json.Unmarshal(all[1].Data, &data); err != nil {
			t.Fatal(err)
		}
		if c, u := data.Subject.Content, data.CustomData; c.Description != "Checkout is down" || c.TicketURI != "https://tickets.example.com/INC-7" || c.Environment.ID != "prod" || c.Service.ID != "my-service" ||
			u.Service != "my-service" || u.EntityRef != "component:default/my-service" || u.Severity != "high" || u.ReportedBy != "api" || all[1].Source != "/slipway/dora" {
			t.Errorf("got %s", all[1].Data)
		}
		if want := at(20); all[2].Time.Format(time.RFC3339) != want {
			t.Errorf("it was resolved at %s, and is told as of %s", want, all[2].Time)
		}
		if got := s.With("catalog.entity.read", "platform.self.read").Events(types); len(got) != 0 {
			t.Errorf("who may only read the entity is told %d events", len(got))
		}
		if got := s.With("catalog.entity.read", "platform.self.read", "dora.history.read").Events(types); len(got) != len(all)-1 {
			t.Errorf("who may read its history is told %d events, want all but the one of a service that is nobody's", len(got))
		}
	})
}
