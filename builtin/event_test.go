package builtin_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/event/eventtest"
)

// Every change is told in the words of CDEvents, or in its form for words of one's own, and in its shape, which a schema describes. The server refuses words that CDEvents does not have.
func TestEventsAreThoseOfCDEvents(t *testing.T) {
	t.Parallel()
	var types []event.Type
	for _, b := range builtin.Blueprints() {
		types = append(types, b.EventTypes()...)
	}
	for _, e := range types {
		if err := event.CheckName(e.Name); err != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
		switch {
		case !eventtest.IsCDEvent(e.Name):
			t.Errorf("%s: want a type of CDEvents, or dev.cdeventsx.slipway-<subject>.<predicate>.<version>", e.Name)
		case !event.Standard(e.Name) && !strings.HasPrefix(e.Name, "dev.cdeventsx.slipway-"):
			t.Errorf("%s: the tool's name is slipway", e.Name)
		case e.Data == nil || !strings.HasPrefix(reflect.TypeOf(e.Data).Name(), "CDEvent["):
			t.Errorf("%s: its data is %T; want an event.CDEvent", e.Name, e.Data)
		}
		if e.Text == "" || e.Object == "" {
			t.Errorf("%s: say when it is sent, and what its subject is", e.Name)
		}
	}
	if len(types) < 20 {
		t.Errorf("only %d types were found", len(types))
	}
}
