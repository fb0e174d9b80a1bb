package data_test

import (
	"context"
	"os"
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

// The walk-through of the documentation is these declarations: a kind takes fewer than 60 lines.
func TestAKindOfOnesOwnIsShort(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, walk, _ := strings.Cut(string(readme), "## A kind of your own")
	lines := 0
	for i, block := range strings.Split(walk, "```") {
		if i%2 == 1 && strings.HasPrefix(block, "go\n") {
			lines += strings.Count(block, "\n") - 1
		}
	}
	if lines == 0 || lines >= 60 {
		t.Errorf("the walk-through takes %d lines", lines)
	}
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
		for _, args := range [][]string{{"kinds"}, {"get", "teams/web"}, {"list", "teams", "--fields", "channel"}, {"schema", "teams"}, {"export", "teams"}} {
			if out, err := slipwayData(s, args...); err != nil || !strings.Contains(out, "#web") && !strings.Contains(out, "Where the team talks") && !strings.Contains(out, "Teams and how") || strings.Contains(out, canary) {
				t.Errorf("slipway data %s: got %s, %v", strings.Join(args, " "), out, err)
			}
		}
		for _, path := range []string{"/openapi.json", "/openapi.yaml"} { // what the reference at /docs shows
			if body := string(s.Get(path).Is(200).Body); !strings.Contains(body, "DataTeams") || !strings.Contains(body, "Key of the team's pager") {
				t.Errorf("%s does not describe teams", path)
			}
		}
	})
}
