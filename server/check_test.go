package server_test

import (
	"context"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

type sweep struct{}

func (sweep) Kind() string { return "left.sweep" }

func (s *toy) sweep(context.Context, sweep) error { return nil }

// part is a blueprint that takes one of everything.
func part(name string) blueprint.Blueprint {
	b := blueprint.Blueprint{
		Name: name, Version: "1.0.0", Summary: "A part.", Stability: blueprint.Stable, ConfigKey: "shared", Config: func() any { return new(struct{}) },
		Mounts:        []blueprint.Mount{{Prefix: "/api/shared", Dialect: blueprint.API}},
		Permissions:   []auth.Permission{{Name: "left.thing.read", Text: "Read"}},
		Databases:     []blueprint.Database{{Name: "main", Tables: []string{"left_thing"}, Migrations: fs.FS(nil)}},
		Jobs:          []blueprint.Job{blueprint.Work((*toy).sweep, job.Worker{Text: "Sweep"})},
		Schedules:     []job.Schedule{{Name: "left.sweep", Text: "Sweep", Every: time.Hour, Args: sweep{}}},
		Events:        []event.Type{{Name: "dev.slipway.left.v1", Text: "Something"}},
		Commands:      []func(*blueprint.Client) *cobra.Command{func(*blueprint.Client) *cobra.Command { return &cobra.Command{Use: "thing"} }},
		Subscriptions: []blueprint.Subscription{blueprint.Subscribe("left.reader", nil, func(*toy, context.Context, *store.Tx, event.Event) error { return nil })},
		Providers:     []blueprint.Provider{{Kind: provider.Kind{Name: "left"}}},
		Open:          func(context.Context, *blueprint.Host) (any, error) { return &toy{}, nil },
	}
	b.Operations = []blueprint.Operation{
		blueprint.Handle((*toy).raw, blueprint.Operation{ID: "left.get", Method: "GET", Path: "/api/shared/{" + name + "}/x", Summary: "Get", Permission: "left.thing.read"}),
	}
	return b
}

func TestConflictsAreFoundTogetherWithBothOwners(t *testing.T) {
	t.Parallel()
	err := server.Check([]blueprint.Blueprint{server.Base, part("left"), part("right")}, nil)
	if err == nil {
		t.Fatal("no conflict was found")
	}
	for _, want := range []string{
		`blueprint right: path "GET /api/shared/{}/x" is also declared by blueprint left`,
		`prefix "/api/shared" is also declared by blueprint left`,
		`permission "left.thing.read" is also declared by blueprint left`,
		`table main "left_thing" is also declared by blueprint left`,
		`job kind "left.sweep" is also declared by blueprint left`,
		`schedule "left.sweep" is also declared by blueprint left`,
		`event type "dev.slipway.left.v1" is also declared by blueprint left`,
		`command "thing" is also declared by blueprint left`,
		`config key "shared" is also declared by blueprint left`,
		`subscription "left.reader" is also declared by blueprint left`,
		`provider type "left" is also declared by blueprint left`,
		`operation "left.get" is also declared by blueprint left`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("reported:\n%v", err)
	}
}

func TestFaultsOfOneBlueprint(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*blueprint.Blueprint){
		`declares no permission; if anybody may call it, say blueprint.Public`: func(b *blueprint.Blueprint) { b.Operations[0].Permission = "" },
		`needs the permission "left.other.read", which no enabled blueprint`:   func(b *blueprint.Blueprint) { b.Operations[0].Permission = "left.other.read" },
		`is public and asks for an object permission`: func(b *blueprint.Blueprint) {
			b.Operations[0].Permission, b.Operations[0].OnObject = blueprint.Public, true
		},
		`checks the permission "left.thing.read" on an object, but`: func(b *blueprint.Blueprint) { b.Operations[0].OnObject = true },
		`lies under none of its mounts`:                             func(b *blueprint.Blueprint) { b.Mounts[0].Prefix = "/api/elsewhere" },
		`there is no dialect "latin"`:                               func(b *blueprint.Blueprint) { b.Mounts[0].Dialect = "latin" },
		`table "thing" must start with "left_"`:                     func(b *blueprint.Blueprint) { b.Databases[0].Tables[0] = "thing" },
		`config key "server" is also declared by the base`:          func(b *blueprint.Blueprint) { b.ConfigKey = "server" },
		`command "serve" is also declared by the base`: func(b *blueprint.Blueprint) {
			b.Commands = []func(*blueprint.Client) *cobra.Command{func(*blueprint.Client) *cobra.Command { return &cobra.Command{Use: "serve"} }}
		},
		`starts the job kind "left.sweep", which this blueprint does not work`: func(b *blueprint.Blueprint) { b.Jobs = nil },
		`asks for the permission "left.other.read", which no`:                  func(b *blueprint.Blueprint) { b.Events[0].Permission = "left.other.read" },
		`CDEvents 0.5.1 has no type "dev.cdevents.service.deployed.0.2.0"`:     func(b *blueprint.Blueprint) { b.Events[0].Name = "dev.cdevents.service.deployed.0.2.0" },
		`"dev.cdeventsx.left.begun.0.1.0" is not of the form`:                  func(b *blueprint.Blueprint) { b.Events[0].Name = "dev.cdeventsx.left.begun.0.1.0" },
		`"dev.cdevents.service.deployed.0.3.0" is also declared by`: func(b *blueprint.Blueprint) {
			b.Events = []event.Type{{Name: event.ServiceDeployed, Text: "Once"}, {Name: event.ServiceDeployed, Text: "Twice"}}
		},
		`Open is missing`: func(b *blueprint.Blueprint) { b.Open = nil },
		`overlaps with a path of blueprint left`: func(b *blueprint.Blueprint) {
			b.Operations = append(b.Operations, blueprint.Handle((*toy).raw, blueprint.Operation{ID: "left.other", Method: "GET", Path: "/api/shared/y/{b}", Summary: "Get", Permission: "left.thing.read"}))
		},
	} {
		b := part("left")
		change(&b)
		if err := server.Check([]blueprint.Blueprint{server.Base, b}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
	if err := server.Check([]blueprint.Blueprint{server.Base, part("left")}, nil); err != nil {
		t.Errorf("a sound blueprint is refused: %v", err)
	}
}
