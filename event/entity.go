package event

import (
	"context"

	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
)

// entitySource sends the events of entities, whoever puts them.
var entitySource = SourceOf("catalog")

// EntityTypes are the events that Announce sends, as /slipway/catalog. Every Bus knows them.
var EntityTypes = []Type{
	{Name: entity.EventCreated, Source: entitySource, Text: "An entity is new in the catalog", Object: "entity", Data: EntityEvent{}},
	{Name: entity.EventModified, Source: entitySource, Text: "What the catalog says of an entity is new", Object: "entity", Data: EntityEvent{}},
	{Name: entity.EventRemoved, Source: entitySource, Text: "An entity was removed from the catalog", Object: "entity", Data: EntityEvent{}},
}

// EntityEvent is the data of the EntityTypes. Who wants more asks the catalog.
type EntityEvent = CDEvent[EntityContent, struct{}]

// EntityContent is the content of an entity as the subject of an event.
type EntityContent struct {
	Kind      string `json:"kind" doc:"Kind of the entity, in lower case"`
	Namespace string `json:"namespace" doc:"Its namespace, in lower case"`
	Name      string `json:"name" doc:"Its name, in lower case"`
}

// Announce publishes the changes of entities. It is what entity.Store.Announce is set to.
func (b *Bus) Announce(ctx context.Context, tx *store.Tx, changes []entity.Change) error {
	now := b.Now()
	events := make([]Event, len(changes))
	for i, c := range changes {
		kind := entity.EventModified
		switch c.Action {
		case entity.Created:
			kind = entity.EventCreated
		case entity.Removed:
			kind = entity.EventRemoved
		}
		subject := CDSubject[EntityContent]{ID: c.Ref.String(), Source: entitySource, Content: EntityContent{c.Ref.Kind, c.Ref.Namespace, c.Ref.Name}}
		events[i] = NewCDEvent(kind, entitySource, now, subject, struct{}{}).Event()
		events[i].EntityID = c.ID
	}
	return b.PublishAll(ctx, tx, events)
}
