package blueprinttest

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/event/eventtest"
)

// mostChecked is how many events of one server are looked at: a test of very many sends the same ones.
const mostChecked = 5000

// checkEvents fails the test when an event that the server has sent does not fit the schema of its type, or is not what CDEvents asks for.
func checkEvents(t testing.TB, bus *event.Bus) {
	t.Helper()
	byName := map[string][]event.Type{}
	for _, one := range bus.Types() {
		byName[one.Name] = append(byName[one.Name], one)
	}
	schemas := map[string]*jsonschema.Schema{}
	for name, types := range byName {
		id := "https://slipway.test/" + name
		raw, err := blueprint.EventSchema(id, types)
		if err != nil {
			t.Errorf("events of the type %s have no schema: %v", name, err)
			continue
		}
		if raw == nil {
			continue
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		compiler := jsonschema.NewCompiler()
		if err := compiler.AddResource(id, doc); err != nil {
			t.Fatal(err)
		}
		if schemas[name], err = compiler.Compile(id); err != nil {
			t.Errorf("the schema of %s is none: %v", name, err)
		}
	}
	ctx := context.Background()
	for after, checked := int64(0), 0; checked < mostChecked; {
		events, next, err := bus.List(ctx, auth.System(), after, nil, 500)
		if err != nil {
			return // the test has taken the database away
		}
		for _, e := range events {
			if err := eventtest.Check(e); err != nil {
				t.Errorf("event %d of the type %s is not as CDEvents has it: %v\n%s", e.Position, e.Type, err, e.Data)
			}
			schema := schemas[e.Type]
			switch {
			case schema == nil && len(e.Data) > 0:
				t.Errorf("event %d of the type %s has data, and its type declares none (event.Type.Data): %s", e.Position, e.Type, e.Data)
			case schema != nil:
				data, err := jsonschema.UnmarshalJSON(bytes.NewReader(e.Data))
				if err == nil {
					err = schema.Validate(data)
				}
				if err != nil {
					t.Errorf("event %d of the type %s does not fit its schema: %v\n%s", e.Position, e.Type, err, e.Data)
				}
			}
		}
		if checked += len(events); next == 0 {
			return
		}
		after = next
	}
}

// Events reads a list of events, which is a path of /api/events with its query.
func (c *Client) Events(path string) []event.Event {
	c.t.Helper()
	var list struct{ Items []event.Event }
	c.Get(path).Is(http.StatusOK).Into(&list)
	return list.Items
}

// Told waits until a list of events is as long as wanted, and fails the test where it holds others. Each is "<subject>.<predicate> <id>", such as "service.deployed web".
func (c *Client) Told(path string, want []string) {
	c.t.Helper()
	var got []string
	Eventually(c.t, "all is told", func() bool {
		got = nil
		for _, e := range c.Events(path) {
			kind := strings.TrimPrefix(strings.TrimPrefix(e.Type, "dev.cdeventsx.slipway-"), "dev.cdevents.")
			got = append(got, kind[:len(kind)-len(".0.0.0")]+" "+e.Subject)
		}
		return len(got) >= len(want)
	})
	if !slices.Equal(want, got) {
		c.t.Fatalf("told of\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
