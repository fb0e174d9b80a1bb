package resource

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/store"
)

// EventChanged tells that documents of one kind have changed, in one call. Its data is a Changed, its subject the kind.
var EventChanged = event.Type{
	Name: "dev.slipway.config.changed.v1", Text: "Documents of a kind were created, changed or deleted by one call", Object: "kind", Data: Changed{},
}

// Changed is the data of EventChanged.
type Changed struct {
	Kind      string            `json:"kind" doc:"Kind of the documents" example:"credentials"`
	By        string            `json:"by" doc:"Who changed them" example:"user:default/jane"`
	Documents []ChangedDocument `json:"documents" nullable:"false" doc:"The first hundred of them, by id"`
	Total     int               `json:"total" doc:"How many there are"`
}

// ChangedDocument is one of them. What it says now is asked for.
type ChangedDocument struct {
	ID     string `json:"id" doc:"Id of the document"`
	Action string `json:"action" enum:"created,updated,deleted" doc:"What happened to it"`
}

// maxTold is how many documents an event names.
const maxTold = 100

// tell publishes what a call has changed, in its transaction: one event for each kind, however many documents there are.
func (s *Store) tell(ctx context.Context, tx *store.Tx, p *plan) error {
	if s.Events == nil {
		return nil
	}
	kinds := map[string]*Changed{}
	for _, st := range p.staged {
		c := kinds[st.kind]
		if c == nil {
			c = &Changed{Kind: st.kind, By: auth.CallerFrom(ctx).Subject, Documents: []ChangedDocument{}}
			kinds[st.kind] = c
		}
		action := "updated"
		switch {
		case st.gone:
			action = "deleted"
		case len(st.before) == 0:
			action = "created"
		}
		c.Total++
		c.Documents = append(c.Documents, ChangedDocument{st.id, action})
	}
	var events []event.Event
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		c := kinds[kind]
		slices.SortFunc(c.Documents, func(a, b ChangedDocument) int { return cmp.Compare(a.ID, b.ID) })
		c.Documents = c.Documents[:min(len(c.Documents), maxTold)]
		raw, err := json.Marshal(c)
		if err != nil {
			return err
		}
		events = append(events, event.Event{Source: "/slipway/data", Type: EventChanged.Name, Subject: kind, Data: raw})
	}
	return s.Events.PublishAll(ctx, tx, events)
}
