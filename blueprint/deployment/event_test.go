package deployment_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/deployment"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/store"
)

// What becomes of the service is told in CDEvents' words, the attempt in words of our own, to who may read the deployments of the entity.
func TestDeploymentsAreToldOf(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			v := fake.New(fake.Config{})
			began := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
			deploy := func(id string, minute int, status slipway.DeploymentStatus, version, environment string) {
				at := began.Add(time.Duration(minute) * time.Minute)
				d := slipway.Deployment{ID: id, CreatedAt: at, Status: status, Version: version, Environment: environment, Commit: &slipway.Commit{SHA: "sha-" + version}}
				if status != slipway.DeploymentStarting {
					d.StartedAt = &at
				}
				if status.Finished() {
					end := at.Add(30 * time.Second)
					d.FinishedAt, d.UpdatedAt = &end, &end
				}
				v.Deploy("octo/web", d)
			}
			deploy("d1", 0, slipway.DeploymentSucceeded, "v1", "prod")
			s := start(t, engine, v)
			look := func() (p deployment.Page) {
				a := s.Get("/api/deployment/by-entity/web/search?fresh=true")
				if a.Status == 200 {
					a.Into(&p)
				}
				return p
			}
			blueprinttest.Eventually(t, "what was there before is there", func() bool { return len(look().Items) == 1 })
			const types = "/api/events?limit=100&type=dev.cdevents.service.*&type=dev.cdeventsx.slipway-deployment.*"
			var want []string
			told := func(events ...string) {
				t.Helper()
				look()
				want = append(want, events...)
				s.Told(types, want)
			}
			deploy("d2", 1, slipway.DeploymentStarting, "v2", "prod")
			told("deployment.queued octo:d2") // and nothing of d1, which is history
			deploy("d2", 1, slipway.DeploymentRunning, "v2", "prod")
			told("deployment.started octo:d2")
			deploy("d2", 1, slipway.DeploymentSucceeded, "v2", "prod")
			told("deployment.finished octo:d2", "service.upgraded component:default/web")
			deploy("d3", 2, slipway.DeploymentFailed, "v3", "prod")
			told("deployment.finished octo:d3")
			deploy("d4", 3, slipway.DeploymentSucceeded, "v1", "prod")
			told("deployment.finished octo:d4", "service.rolledback component:default/web")
			deploy("d5", 4, slipway.DeploymentSucceeded, "v1", "prod") // the same again
			told("deployment.finished octo:d5", "service.deployed component:default/web")
			deploy("d6", 5, slipway.DeploymentSucceeded, "v3", "staging") // the first there
			told("deployment.finished octo:d6", "service.deployed component:default/web")
			told() // another look tells nothing new

			all := s.Events(types)
			var data struct {
				Subject struct {
					Content struct {
						Environment struct{ ID string }
						ArtifactID  string
						URI         string
						Outcome     string
					}
				}
				CustomData struct{ Deployment, EntityRef, Status, Version, Commit string }
			}
			if err := json.Unmarshal(all[3].Data, &data); err != nil {
				t.Fatal(err)
			}
			if c, u := data.Subject.Content, data.CustomData; c.Environment.ID != "prod" || c.ArtifactID != "pkg:generic/default/web@sha-v2" || u.Deployment != "octo:d2" || u.EntityRef != "component:default/web" ||
				u.Status != "succeeded" || u.Version != "v2" || u.Commit != "sha-v2" || all[3].Source != "/slipway/deployment" {
				t.Errorf("got %s", all[3].Data)
			}
			if err := json.Unmarshal(all[2].Data, &data); err != nil {
				t.Fatal(err)
			}
			if !all[2].Time.Equal(began.Add(90 * time.Second)) {
				t.Errorf("it is told as of %s, and ended at %s", all[2].Time, began.Add(90*time.Second))
			}
			if c := data.Subject.Content; c.Outcome != "success" || c.URI == "" {
				t.Errorf("got %s", all[2].Data)
			}
			if got := s.With("catalog.entity.read", "platform.self.read").Events(types); len(got) != 0 {
				t.Errorf("who may only read the entity is told %d events", len(got))
			}
			if got := s.With("catalog.entity.read", "platform.self.read", "deployment.deployment.read").Events(types); len(got) != len(all) {
				t.Errorf("who may read its deployments is told %d events of %d", len(got), len(all))
			}
		})
	}
}
