package webhook

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

// resumed is the name under which replicas are told that a webhook may go on.
const resumed = "webhook"

// mostRedelivered is how many dead letters one call has sent again.
const mostRedelivered = 500

// previousFor is how long deliveries are signed with the old secret too, after a new one was made.
const previousFor = 24 * time.Hour

var exampleTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var (
	exampleState = State{
		ID: "chat", URL: "https://hooks.example.com/slipway", Types: []string{"dev.cdevents.*"}, Owner: "user:default/jane", State: stateActive, Position: 1200, Behind: 0,
	}
	exampleDelivery = Delivery{
		ID: 71, Webhook: "chat", Position: 1200, Event: "0190c0de-0000-7000-8000-000000000000", Type: "dev.cdevents.pipelinerun.finished.0.3.0", Subject: "github:71",
		Status: statusOK, Attempts: 1, Answer: 204, Milliseconds: 12, CreatedAt: exampleTime, UpdatedAt: exampleTime,
	}
)

var operations = []blueprint.Operation{
	blueprint.Handle((*service).list, blueprint.Operation{
		ID: "webhook.list", Method: "GET", Path: "/api/webhooks", Permission: readPermission, Tag: "webhooks",
		Summary: "How webhooks fare", Description: "Lists all webhooks by id, with where each stands and what went wrong last. They are made, changed and deleted as documents: `/data/webhooks`.",
		ResponseExample: blueprint.List[State]{Items: []State{exampleState}, PageInfo: slipway.PageInfo{Limit: 1}},
	}),
	blueprint.Handle((*service).listDeliveries, blueprint.Operation{
		ID: "webhook.deliveries", Method: "GET", Path: "/api/webhooks/{id}/deliveries", Permission: readDeliveries, Tag: "webhooks",
		Summary: "What was sent to a webhook", Description: "Lists the deliveries of a webhook, newest first: one for each event, with how the last attempt ended. Kept for `webhooks.log`.",
		ResponseExample: blueprint.List[Delivery]{Items: []Delivery{exampleDelivery}, PageInfo: slipway.PageInfo{Limit: 20}},
	}),
	blueprint.Handle((*service).redeliverOne, blueprint.Operation{
		ID: "webhook.redeliver", Method: "POST", Path: "/api/webhooks/{id}/deliveries/{delivery}/redeliver", Permission: redeliverPermission, Tag: "webhooks", Status: 202,
		Summary: "Send an event to a webhook again", Errors: []slipway.Code{slipway.NotFound},
		Description:     "Has the event of a delivery sent again, with the same `webhook-id`, beside what is sent in order. The job at `Location` says how it goes.",
		ResponseExample: accepted{Jobs: 1},
	}),
	blueprint.Handle((*service).redeliverDead, blueprint.Operation{
		ID: "webhook.redeliverDead", Method: "POST", Path: "/api/webhooks/{id}/redeliver", Permission: redeliverPermission, Tag: "webhooks", Status: 202,
		Summary: "Send all dead letters of a webhook again", Errors: []slipway.Code{slipway.NotFound},
		Description: "Has the newest 500 dead letters sent again, each by a job. Ask again for more.", ResponseExample: accepted{Jobs: 3},
	}),
	blueprint.Handle((*service).test, blueprint.Operation{
		ID: "webhook.test", Method: "POST", Path: "/api/webhooks/{id}/test", Permission: redeliverPermission, Tag: "webhooks", Timeout: 70 * time.Second,
		Summary: "Test a webhook", Errors: []slipway.Code{slipway.NotFound},
		Description:     "Sends an event of the type `" + eventTested + "`, signed as any, and tells how the target answered. It is sent once, and stands in no log.",
		ResponseExample: tested{Taken: true, Answer: 204, Milliseconds: 12},
	}),
	blueprint.Handle((*service).resume, blueprint.Operation{
		ID: "webhook.resume", Method: "POST", Path: "/api/webhooks/{id}/resume", Permission: updatePermission, Tag: "webhooks",
		Summary: "Let a webhook go on", Errors: []slipway.Code{slipway.NotFound},
		Description: "Lets a webhook that was disabled, or waits for its next attempt, go on at once, where it stands: what came meanwhile is sent in order, as far as it is kept.", ResponseExample: exampleState,
	}),
	blueprint.Handle((*service).rotate, blueprint.Operation{
		ID: "webhook.rotate", Method: "POST", Path: "/api/webhooks/{id}/rotate", Permission: updatePermission, Tag: "webhooks", Secret: true,
		Summary: "Make a new secret", Errors: []slipway.Code{slipway.NotFound, slipway.Conflict},
		Description:     "Makes a new secret and tells it, this once. For 24 hours deliveries are signed with the old one too, so that the receiver can change over.",
		ResponseExample: rotated{Secret: "whsec_…", PreviousUntil: exampleTime},
	}),
}

type body[T any] struct{ Body T }

type withLocation struct {
	Location string `header:"Location" doc:"Where to see how it goes"`
	Body     accepted
}

type accepted struct {
	Jobs int `json:"jobs" doc:"How many events will be sent" example:"1"`
}

type webhookInput struct {
	ID string `path:"id" maxLength:"63" doc:"Id of the webhook" example:"chat"`
}

// State is how a webhook fares.
type State struct {
	ID           string     `json:"id" doc:"Id of the webhook" example:"chat"`
	URL          string     `json:"url" doc:"Where events are sent" example:"https://hooks.example.com/slipway"`
	Types        []string   `json:"types" nullable:"false" doc:"Types of events that are sent; empty: all"`
	Owner        string     `json:"owner" doc:"It is told what they may read" example:"user:default/jane"`
	State        string     `json:"state" enum:"active,failing,disabled,paused" doc:"Events are sent; the last was not taken and is tried again; its target took nothing for too long; or its document says so" example:"active"`
	Position     int64      `json:"position" doc:"Everything up to this position was sent or given up, or is not for it" example:"1200"`
	Behind       int64      `json:"behind" doc:"How many positions there are after it; events that are not for it count too" example:"0"`
	Failures     int64      `json:"failures,omitempty" doc:"How often the event at hand was refused"`
	FailingSince *time.Time `json:"failingSince,omitempty" doc:"Since when its target has taken nothing"`
	RetryAt      *time.Time `json:"retryAt,omitempty" doc:"When it is tried again"`
	Error        string     `json:"error,omitempty" doc:"What went wrong last"`
	Dead         int64      `json:"dead" doc:"How many dead letters there are in the log" example:"0"`
}

func (s *service) states(ctx context.Context, id string) (list []State, err error) {
	documents := s.Documents()
	if documents == nil {
		return nil, slipway.Errorf(slipway.Unavailable, "the blueprint data does not run here, and has the documents")
	}
	all, err := documents.RevealAll(ctx, "webhooks", id)
	if err != nil {
		return nil, err
	}
	if id != "" && len(all) == 0 {
		return nil, slipway.Errorf(slipway.NotFound, "there is no webhook %.80q; slipway webhook list (GET /api/webhooks) shows them", id)
	}
	db := s.DB("main")
	rows, err := targets(ctx, db, id)
	if err != nil {
		return nil, err
	}
	dead, err := counts(ctx, db)
	if err != nil {
		return nil, err
	}
	last, err := s.Events.Last(ctx)
	if err != nil {
		return nil, err
	}
	stands := map[string]target{}
	for _, t := range rows {
		stands[t.ID] = t
	}
	for _, d := range all {
		w := s.read(d)
		t, known := stands[d.ID]
		if !known {
			t.Position = last // it begins with what comes from now on
		}
		one := State{
			ID: d.ID, URL: w.URL, Types: append([]string{}, w.Types...), Owner: w.Owner, State: stateActive, Position: t.Position, Behind: max(0, last-t.Position),
			Failures: t.Failures, FailingSince: t.FailingSince, RetryAt: t.RetryAt, Error: t.Error, Dead: dead[d.ID],
		}
		switch {
		case w.err != nil:
			one.State, one.Error = stateDisabled, sentence(w.err)
		case t.State == stateDisabled:
			one.State = stateDisabled
		case !w.Enabled:
			one.State = "paused"
		case t.Error != "":
			one.State = "failing"
		}
		list = append(list, one)
	}
	return list, nil
}

func (s *service) list(ctx context.Context, _ *struct{}) (*body[blueprint.List[State]], error) {
	list, err := s.states(ctx, "")
	if list == nil {
		list = []State{}
	}
	return &body[blueprint.List[State]]{blueprint.List[State]{Items: list, PageInfo: slipway.PageInfo{Limit: len(list)}}}, err
}

func (s *service) listDeliveries(ctx context.Context, in *struct {
	ID     string `path:"id" maxLength:"63" doc:"Id of the webhook" example:"chat"`
	Status string `query:"status" enum:"delivered,retrying,dead" doc:"Only those that stand so"`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many on a page"`
	Cursor string `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
}) (*body[blueprint.List[Delivery]], error) {
	q := query{webhook: in.ID, status: in.Status, limit: in.Limit + 1}
	cursors := secret.CursorsOf[int64](s.Keys, "webhook deliveries", in.ID, in.Status)
	before, err := cursors.Read(in.Cursor)
	if err != nil {
		return nil, err
	}
	if before != nil {
		q.before = *before
	}
	list, err := deliveries(ctx, s.DB("main"), q)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		if _, err := s.one(ctx, in.ID); err != nil { // what is logged outlives its webhook
			return nil, err
		}
		list = []Delivery{}
	}
	page := slipway.PageInfo{Limit: in.Limit}
	if len(list) > in.Limit {
		list = list[:in.Limit]
		page.HasMore, page.NextCursor = true, cursors.Write(list[in.Limit-1].ID)
	}
	return &body[blueprint.List[Delivery]]{blueprint.List[Delivery]{Items: list, PageInfo: page}}, nil
}

func (s *service) redeliverOne(ctx context.Context, in *struct {
	ID       string `path:"id" maxLength:"63" doc:"Id of the webhook" example:"chat"`
	Delivery int64  `path:"delivery" minimum:"1" doc:"Id of the delivery" example:"71"`
}) (*withLocation, error) {
	d, err := delivery(ctx, s.DB("main"), in.ID, in.Delivery)
	if err != nil {
		return nil, err
	}
	w, err := s.one(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if _, err := s.event(ctx, w, d.Position); err != nil {
		return nil, err
	}
	return s.again(ctx, []Delivery{d})
}

func (s *service) redeliverDead(ctx context.Context, in *webhookInput) (*withLocation, error) {
	if _, err := s.one(ctx, in.ID); err != nil {
		return nil, err
	}
	list, err := deliveries(ctx, s.DB("main"), query{webhook: in.ID, status: statusDead, limit: mostRedelivered})
	if err != nil {
		return nil, err
	}
	return s.again(ctx, list)
}

// again stores a job for each delivery, a hundred in one transaction; the oldest first.
func (s *service) again(ctx context.Context, list []Delivery) (*withLocation, error) {
	out := &withLocation{Location: "/api/jobs?kind=" + redelivery{}.Kind(), Body: accepted{Jobs: len(list)}}
	for end := len(list); end > 0; end -= 100 {
		err := s.DB("main").Write(ctx, func(tx *store.Tx) error {
			for i := end - 1; i >= max(0, end-100); i-- {
				id, _, err := s.Jobs.Insert(ctx, tx, redelivery{list[i].Webhook, list[i].ID}, job.Insert{Unique: strconv.FormatInt(list[i].ID, 10)})
				if err != nil {
					return err
				}
				if len(list) == 1 {
					out.Location = "/api/jobs/" + strconv.FormatInt(id, 10)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// testContent is what is said of a webhook that is tested.
type testContent struct {
	By string `json:"by" doc:"Who tests it"`
}

// tested is what came of a test.
type tested struct {
	Taken        bool   `json:"taken" doc:"Whether the target took it" example:"true"`
	Answer       int    `json:"answer,omitempty" doc:"HTTP status of its answer; absent where there was none" example:"204"`
	Milliseconds int64  `json:"milliseconds" doc:"How long it took" example:"12"`
	Error        string `json:"error,omitempty" doc:"What went wrong"`
}

func (s *service) test(ctx context.Context, in *webhookInput) (*body[tested], error) {
	w, err := s.one(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	subject := event.CDSubject[testContent]{ID: w.id, Source: source, Content: testContent{By: auth.CallerFrom(ctx).Subject}}
	e := event.NewCDEvent(eventTested, source, s.Now(), subject, struct{}{}).Event()
	e.SpecVersion, e.DataContentType = event.SpecVersion, event.ContentType
	raw, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	o := s.post(ctx, w, e, raw)
	return &body[tested]{tested{Taken: o.ok(), Answer: o.status, Milliseconds: o.took.Milliseconds(), Error: o.cause()}}, ctx.Err()
}

func (s *service) resume(ctx context.Context, in *webhookInput) (*body[State], error) {
	if _, err := s.states(ctx, in.ID); err != nil {
		return nil, err
	}
	if err := s.DB("main").Write(ctx, func(tx *store.Tx) error {
		if err := resume(ctx, tx, in.ID); err != nil {
			return err
		}
		return s.Revisions.Bump(ctx, tx, resumed)
	}); err != nil {
		return nil, err
	}
	list, err := s.states(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &body[State]{list[0]}, nil
}

// rotated tells a new secret.
type rotated struct {
	Secret        string    `json:"secret" doc:"The new secret; it is told only this once"`
	PreviousUntil time.Time `json:"previousUntil" doc:"Until when deliveries are signed with the old one too"`
}

func (s *service) rotate(ctx context.Context, in *webhookInput) (*body[rotated], error) {
	w, err := s.one(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := rotated{newSecret(), s.Now().Add(previousFor).UTC().Truncate(time.Second)}
	patch, err := json.Marshal(map[string]any{"secret": out.Secret, "previousSecret": w.Secret, "previousUntil": out.PreviousUntil})
	if err != nil {
		return nil, err
	}
	s.Redact.Add(out.Secret)
	// Whoever makes a new secret learns it, and nothing that is sent: the webhook stays whose it is.
	_, err = s.Documents().Apply(resource.KeepAuthor(ctx), []resource.Change{{Input: resource.Input{Kind: "webhooks", Document: patch}, ID: w.id, Verb: resource.Patch}},
		resource.Options{RequestID: blueprint.RequestID(ctx)})
	return &body[rotated]{out}, err
}

// poison says that the target is well and cannot do with what was sent.
func (o outcome) poison() bool {
	switch o.status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// gone says that the target wants no more.
func (o outcome) gone() bool { return o.status == http.StatusGone }
