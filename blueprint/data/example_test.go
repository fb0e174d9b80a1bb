package data_test

import (
	"context"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/resource"
)

type team struct {
	Channel string `json:"channel" required:"true" doc:"Where the team talks"`
	Pager   string `json:"pager,omitempty" secret:"true" doc:"Key of the team's pager"`
}

var teams = resource.Kind{
	Name: "teams", Text: "Teams and how to reach them.",
	Permissions: resource.Permissions{Read: "team.team.read", Create: "team.team.write", Update: "team.team.write", Delete: "team.team.write"},
	Types:       []resource.Type{{Fields: team{}}},
}

// Teams is a blueprint that is nothing but a kind of documents.
var Teams = blueprint.Blueprint{
	Name: "team", Version: "0.1.0", Summary: "Teams.", Stability: blueprint.Experimental,
	Permissions: []auth.Permission{{Name: "team.team.read", Text: "Read teams"}, {Name: "team.team.write", Text: "Change teams"}},
	Kinds:       []blueprint.ResourceKind{{Kind: teams}},
	Open:        func(context.Context, *blueprint.Host) (any, error) { return nil, nil },
}

func TestAKindOfOnesOwnAppearsByItself(t *testing.T) {
	blueprinttest.Each(t, blueprinttest.Options{Blueprints: []blueprint.Blueprint{data.Blueprint, Teams}}, func(t *testing.T, s *blueprinttest.Server) {
		s.Post("/data/teams", `{"id":"web","channel":"#web","pager":"`+canary+`"}`).Is(201)
		if got := documentOf(t, s.Get("/data/teams/web").Is(200)); got["channel"] != "#web" || got["pager"] != "<redacted>" {
			t.Errorf("got %v", got)
		}
		if body := string(s.Get("/data").Is(200).Body); !strings.Contains(body, `"kind":"teams"`) {
			t.Errorf("the list of kinds is %s", body)
		}
		if body := string(s.Get("/data/schema/teams").Is(200).Body); !strings.Contains(body, `"writeOnly":true`) {
			t.Errorf("the schema is %s", body)
		}
		s.With("data.credential.read").Get("/data/teams").Is(403)
	})
}
