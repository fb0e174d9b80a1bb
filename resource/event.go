package resource

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
)

// The types of the events of documents: one of each is sent for what one call did to the documents of a kind. Their subject is the kind.
const (
	EventCreated  = "dev.cdeventsx.slipway-document.created.0.1.0"
	EventModified = "dev.cdeventsx.slipway-document.modified.0.1.0"
	EventDeleted  = "dev.cdeventsx.slipway-document.deleted.0.1.0"
)

// Events declares them. The blueprint data does.
var Events = []event.Type{
	{Name: EventCreated, Text: "Documents of a kind were created by one call", Object: "kind", Permission: event.ReadPermission, Data: Changed{}},
	{Name: EventModified, Text: "Documents of a kind were changed by one call", Object: "kind", Permission: event.ReadPermission, Data: Changed{}},
	{Name: EventDeleted, Text: "Documents of a kind were deleted by one call", Object: "kind", Permission: event.ReadPermission, Data: Changed{}},
}

// Changed is the data of the Events.
type Changed = event.CDEvent[ChangedDocuments, struct{}]

// ChangedDocuments is what is said of the documents of a kind. What they say now is asked for.
type ChangedDocuments struct {
	By        string   `json:"by" doc:"Who did it" example:"user:default/jane"`
	Documents []string `json:"documents" nullable:"false" doc:"Ids of the first hundred of them, in order"`
	Total     int      `json:"total" doc:"How many there are"`
}

// maxTold is how many documents an event names.
const maxTold = 100

// tell publishes what a call has changed, in its transaction: at most three events for each kind, however many documents there are.
func (s *Store) tell(ctx context.Context, tx *store.Tx, p *plan) error {
	if s.Events == nil {
		return nil
	}
	type what struct{ kind, event string }
	ids := map[what][]string{}
	for _, st := range p.staged {
		w := what{st.kind, EventModified}
		switch {
		case st.gone:
			w.event = EventDeleted
		case len(st.before) == 0:
			w.event = EventCreated
		}
		ids[w] = append(ids[w], st.id)
	}
	source, by, now := event.SourceOf("data"), auth.CallerFrom(ctx).Subject, s.Events.Now()
	var events []event.Event
	for _, w := range slices.SortedFunc(maps.Keys(ids), func(a, b what) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.event, b.event)) }) {
		list := ids[w]
		slices.Sort(list)
		content := ChangedDocuments{By: by, Documents: list[:min(len(list), maxTold)], Total: len(list)}
		events = append(events, event.NewCDEvent(w.event, source, now, event.CDSubject[ChangedDocuments]{ID: w.kind, Source: source, Content: content}, struct{}{}).Event())
	}
	return s.Events.PublishAll(ctx, tx, events)
}
