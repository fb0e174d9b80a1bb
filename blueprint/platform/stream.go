package platform

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
)

const (
	heartbeat  = 15 * time.Second // so that what lies between does not think a quiet stream dead, and a caller who went away is noticed
	askAgain   = time.Second      // how old the rights of a stream's caller may be
	reconnect  = 3 * time.Second  // what a client is asked to wait before it comes again
	maxGarbage = 100              // characters of a faulty header that are shown
)

var eventOperations = []blueprint.Operation{
	blueprint.Handle((*service).streamEvents, blueprint.Operation{
		ID: "platform.streamEvents", Method: "GET", Path: "/api/events/stream", StreamOf: "/api/events", Tag: "events", Permission: selfRead, Timeout: -1,
		Summary: "Follow events",
		Description: "Sends events as they come, as server-sent events: `GET /api/events` with `Accept: text/event-stream` gives the same. The `id` of each is its position, its `data` the CloudEvent. " +
			"A client that comes again with `Last-Event-ID`, as browsers do by themselves, goes on behind it and misses nothing that is kept; without that and without `after`, it begins with what comes from now on. " +
			"What one may read is what `GET /api/events` gives, asked anew every second. A comment is sent every 15 seconds, with an id that moves on over events that are not shown. A client that does not " +
			"read is given up after 30 seconds.",
		ResponseExample: "id: 1200\ndata: {\"specversion\":\"1.0\",\"position\":1200,\"type\":\"dev.cdevents.pipelinerun.finished.0.3.0\",…}\n\n",
	}),
	blueprint.Handle((*service).listEventTypes, blueprint.Operation{
		ID: "platform.listEventTypes", Method: "GET", Path: "/api/events/types", Tag: "events", Permission: selfRead,
		Summary: "Which types of events exist", Description: "Lists every type of event that the enabled blueprints send, by name and source, with the path of the JSON Schema of its data. Types of CDEvents may have several sources: " +
			"each says when it sends them and what it takes to read those.",
		ResponseExample: blueprint.List[eventType]{
			Items: []eventType{{
				Type:   event.Type{Name: event.PipelineRunFinished, Source: "/slipway/build", Text: "A build has ended: succeeded, failed, canceled or skipped", Object: "build", Permission: "build.run.read"},
				Schema: "/api/events/schemas/dev.cdevents.pipelinerun.finished.0.3.0",
			}}, PageInfo: slipway.PageInfo{Limit: 1},
		},
	}),
	blueprint.Handle((*service).getEventSchema, blueprint.Operation{
		ID: "platform.getEventSchema", Method: "GET", Path: "/api/events/schemas/{type}", Tag: "events", Permission: selfRead, Errors: []slipway.Code{slipway.NotFound},
		Summary: "JSON Schema of an event's data", Description: "The JSON Schema (2020-12) of what `data` is in events of a type, whichever source they are of. Every event that the tests of this build see fits it. Fields may be added to a type; what changes otherwise is another type, with another version at its end.",
		ResponseExample: map[string]any{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"},
	}),
}

// eventType is a type with where its schema is.
type eventType struct {
	event.Type
	Schema string `json:"schema,omitempty" doc:"Path of the JSON Schema of its data; absent for events without data"`
}

func (s *service) listEventTypes(context.Context, *struct{}) (*body[blueprint.List[eventType]], error) {
	var out []eventType
	for _, t := range s.events.Types() {
		one := eventType{Type: t}
		if t.Data != nil {
			one.Schema = "/api/events/schemas/" + t.Name
		}
		out = append(out, one)
	}
	return all(out), nil
}

func (s *service) getEventSchema(_ context.Context, in *struct {
	Type string `path:"type" maxLength:"200" doc:"Type of event" example:"dev.cdevents.pipelinerun.finished.0.3.0"`
}) (*body[json.RawMessage], error) {
	types := slices.DeleteFunc(s.events.Types(), func(t event.Type) bool { return t.Name != in.Type })
	raw, err := blueprint.EventSchema(s.url()+"/api/events/schemas/"+in.Type, types)
	if err != nil || raw != nil {
		return &body[json.RawMessage]{raw}, err
	}
	return nil, slipway.Errorf(slipway.NotFound, "no event of the type %.100q has data; GET /api/events/types lists what there is", in.Type)
}

func (s *service) streamEvents(ctx context.Context, in *struct {
	Type  []string `query:"type,explode" maxItems:"20" doc:"Types of events, or beginnings of them and *; may repeat" example:"[\"dev.cdevents.pipelinerun.*\"]"`
	After int64    `query:"after" minimum:"-1" default:"-1" doc:"Position after which to begin; 0: with the first one kept; -1: from now on"`
	Last  string   `header:"Last-Event-ID" doc:"Id of the last event that was seen; comes before after" example:"1200"`
}) (*body[blueprint.Streamed], error) {
	after := in.After
	if in.Last != "" {
		position, err := strconv.ParseInt(in.Last, 10, 64)
		if err != nil || position < 0 {
			return nil, slipway.Errorf(slipway.Invalid, "Last-Event-ID: %.*q is not the id of an event; leave the header out to begin anew", maxGarbage, in.Last)
		}
		after = position
	}
	return &body[blueprint.Streamed]{blueprint.Streamed{ContentType: "text/event-stream", Write: func(ctx context.Context, w io.Writer, flush func()) error {
		return s.stream(ctx, w, flush, after, in.Type)
	}}}, nil
}

func (s *service) stream(ctx context.Context, w io.Writer, flush func(), after int64, types []string) error {
	follow, err := s.events.Follow(ctx, after, types)
	if err != nil {
		return err
	}
	defer follow.End()
	if _, err := io.WriteString(w, "retry: "+strconv.FormatInt(reconnect.Milliseconds(), 10)+"\n:\n\n"); err != nil {
		return err
	}
	flush()
	caller, asked := auth.CallerFrom(ctx), time.Now()
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	for {
		if time.Since(asked) > askAgain {
			switch now, err := auth.Again(ctx); {
			case slipway.CodeOf(err) == slipway.Unauthenticated:
				return err
			case err == nil && now.Kind == slipway.CallerAnonymous: // a session that has ended
				return nil
			case err == nil:
				caller, asked = now, time.Now()
			}
		}
		events, more, err := follow.Next(ctx, caller)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			for _, e := range events {
				if _, err := w.Write(e.SSE); err != nil {
					return err
				}
			}
			flush()
			beat.Reset(heartbeat)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-more:
		case <-beat.C:
			beat.Reset(heartbeat)
			if _, err := io.WriteString(w, "id: "+strconv.FormatInt(follow.Position(), 10)+"\n:\n\n"); err != nil {
				return err
			}
			flush()
		}
	}
}
