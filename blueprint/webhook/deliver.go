package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/store"
)

// delays are the waits after each failure, a day in all: the first ones are for a target that starts again, the last ones for people.
var delays = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 8 * time.Hour,
}

const (
	poisonAfter = 6           // attempts after which an event is given up that the target says it cannot read
	leaseFor    = time.Minute // longer than a delivery may take; renewed by each
	pollEvery   = time.Second // how often a webhook that waits looks at the clock
	saveEvery   = 1000        // positions without an event of its own after which a webhook stores where it stands
	lookAgain   = 5 * time.Second
	maxAnswer   = 64 << 10 // bytes of an answer that are read, to use the connection again
)

// webhook is one at work on this replica.
type webhook struct {
	id      string
	version int64
	document
	keys [][]byte
	err  error // why it cannot be worked

	kick chan struct{} // go on, whatever was planned
	stop context.CancelFunc
	done chan struct{}
}

// run works all webhooks, each in a goroutine of its own, and follows what is changed. Any number of replicas may: a lease on its row makes one of them send at a time.
func (s *service) run(ctx context.Context) error {
	running := map[string]*webhook{}
	defer func() {
		for _, w := range running {
			w.stop()
			<-w.done
		}
	}()
	s.Revisions.Watch(resource.Revision("webhooks"), s.wake)
	s.Revisions.Watch(resumed, s.wake)
	inherited := s.DB("main").Engine() == store.SQLite // one server has the file: who else holds a lease is dead
	for {
		wait := 30 * time.Second // a secret may have become due
		var err error
		if inherited {
			err = s.DB("main").Write(ctx, func(tx *store.Tx) error { return releaseOthers(ctx, tx, s.id) })
		}
		if err == nil {
			inherited = false
			err = s.reload(ctx, running)
		}
		if err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "webhooks were not read; it is tried again", "error", err)
			wait = pollEvery
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.woken:
		case <-time.After(wait):
		}
	}
}

// reload starts what is new or changed and ends what is gone.
func (s *service) reload(ctx context.Context, running map[string]*webhook) error {
	documents := s.Documents()
	if documents == nil {
		return slipway.Errorf(slipway.Unavailable, "the blueprint data does not run here, and has the documents")
	}
	all, err := documents.RevealAll(ctx, "webhooks", "")
	if err != nil {
		return err
	}
	last, err := s.Events.Last(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, d := range all {
		w := s.read(d)
		wanted[w.id] = true
		if old := running[w.id]; old != nil {
			if old.version == w.version && (old.err == nil) == (w.err == nil) && len(old.keys) == len(w.keys) {
				select {
				case old.kick <- struct{}{}:
				default:
				}
				continue
			}
			old.stop()
			<-old.done
		}
		if err := s.DB("main").Write(ctx, func(tx *store.Tx) error { return begin(ctx, tx, w.id, w.version, last) }); err != nil {
			return err
		}
		var work context.Context
		work, w.stop = context.WithCancel(ctx)
		running[w.id] = w
		go s.work(work, w)
	}
	known, err := targets(ctx, s.DB("main"), "")
	if err != nil {
		return err
	}
	for _, t := range known {
		if wanted[t.ID] {
			continue
		}
		if w := running[t.ID]; w != nil {
			w.stop()
			<-w.done
			delete(running, t.ID)
		}
		if err := s.DB("main").Write(ctx, func(tx *store.Tx) error { return forget(ctx, tx, t.ID) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) read(d resource.Revealed) *webhook {
	w := &webhook{id: d.ID, version: d.Version, kick: make(chan struct{}, 1), done: make(chan struct{}), err: d.Err}
	if w.err == nil {
		s.Redact.Add(d.Secrets...)
		w.err = json.Unmarshal(d.JSON, &w.document)
	}
	if w.err != nil {
		return w
	}
	secrets := []string{w.Secret}
	if w.PreviousSecret != "" && (w.PreviousUntil == nil || s.Now().Before(*w.PreviousUntil)) {
		secrets = append(secrets, w.PreviousSecret)
	}
	for _, text := range secrets {
		k, err := key(text)
		if err != nil {
			w.err = slipway.Errorf(slipway.Invalid, "its secret %v", err)
			return w
		}
		w.keys = append(w.keys, k)
	}
	return w
}

// work sends what there is to one webhook, until ctx ends. What fails here is tried again.
func (s *service) work(ctx context.Context, w *webhook) {
	defer close(w.done)
	if w.err != nil {
		s.Log.ErrorContext(ctx, "a webhook does not work", "webhook", w.id, "error", w.err)
		return // until its document is changed
	}
	for ctx.Err() == nil {
		wait, err := s.turn(ctx, w)
		if err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "a webhook waits; trying again", "webhook", w.id, "error", err)
			wait = lookAgain
		}
		select {
		case <-ctx.Done():
		case <-w.kick:
		case <-time.After(wait):
		}
	}
}

// turn reads where the webhook stands and sends until there is a reason to stop. It says after how long to look again.
func (s *service) turn(ctx context.Context, w *webhook) (time.Duration, error) {
	all, err := targets(ctx, s.DB("main"), w.id)
	if err != nil || len(all) == 0 {
		return pollEvery, err
	}
	t := all[0]
	if t.State != stateActive || !w.Enabled || t.Version != w.version {
		return time.Minute, nil // whoever changes that kicks
	}
	if t.RetryAt != nil && t.RetryAt.After(s.Now()) {
		return s.until(ctx, w, *t.RetryAt), nil
	}
	follow, err := s.Events.Follow(ctx, t.Position, w.Types)
	if err != nil {
		return lookAgain, err
	}
	defer follow.End()
	for {
		caller, err := s.Auth.Named(ctx, w.Owner)
		if slipway.CodeOf(err) == slipway.NotFound {
			return time.Minute, s.DB("main").Write(ctx, func(tx *store.Tx) error {
				return failed(ctx, tx, w.id, s.Now(), "its owner "+w.Owner+" is gone; whoever changes the document takes it over")
			})
		} else if err != nil {
			return lookAgain, err
		}
		events, more, err := follow.Next(ctx, caller)
		if err != nil {
			return lookAgain, err
		}
		if len(events) > 0 {
			goOn, err := s.send(ctx, w, t, events)
			if err != nil || !goOn {
				return pollEvery, err
			}
			t.Position = events[len(events)-1].Position
			continue
		}
		if at := follow.Position(); at-t.Position >= saveEvery {
			if err := s.DB("main").Write(ctx, func(tx *store.Tx) error { return passed(ctx, tx, t, at) }); err != nil {
				return lookAgain, err
			}
			return 0, nil
		}
		select {
		case <-ctx.Done():
			return 0, nil
		case <-more:
		case <-w.kick: // the row may say something else now
			return 0, nil
		}
	}
}

// until waits for a time by the server's clock, or for a kick.
func (s *service) until(ctx context.Context, w *webhook, at time.Time) time.Duration {
	for {
		wait := at.Sub(s.Now())
		if wait <= 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return 0
		case <-w.kick:
			return 0
		case <-time.After(min(wait, pollEvery)):
		}
	}
}

// send sends events in order under the lease. False: look at the row anew, now or when it is due.
func (s *service) send(ctx context.Context, w *webhook, t target, events []event.Framed) (bool, error) {
	db := s.DB("main")
	var mine bool
	err := db.Write(ctx, func(tx *store.Tx) (err error) {
		mine, err = lease(ctx, tx, t, s.id, s.Now(), s.Now().Add(leaseFor))
		return err
	})
	if err != nil || !mine {
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := db.Write(ctx, func(tx *store.Tx) error { return release(ctx, tx, w.id, s.id) }); err != nil {
			s.Log.WarnContext(ctx, "the lease of a webhook was not given back; it ends by itself", "webhook", w.id, "error", err)
		}
	}()
	failures := t.Failures
	for _, e := range events {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return false, nil
		}
		o := s.post(ctx, w, e.Event, e.JSON)
		<-s.slots
		if ctx.Err() != nil {
			return false, nil // it may have arrived, and is sent again: at least once
		}
		goOn := false
		err := db.Write(ctx, func(tx *store.Tx) (err error) {
			goOn, err = s.record(ctx, tx, w, e.Event, o, failures)
			return err
		})
		if err != nil || !goOn {
			return false, err
		}
		failures = 0
	}
	return true, nil
}

// record notes what came of sending an event, and says whether to go on with the next.
func (s *service) record(ctx context.Context, tx *store.Tx, w *webhook, e event.Event, o outcome, failures int64) (bool, error) {
	now := s.Now()
	if o.ok() {
		mine, err := settled(ctx, tx, w.id, s.id, e.Position, now.Add(leaseFor), true)
		if err != nil || !mine {
			return false, err
		}
		return true, note(ctx, tx, w.id, e, statusOK, o, now)
	}
	failures++
	given := failures > int64(len(delays)) || o.poison() && failures >= poisonAfter
	if !given {
		wait := delays[failures-1]
		wait = max(wait-wait/5+rand.N(2*wait/5), min(o.after, time.Hour))
		mine, err := refused(ctx, tx, w.id, s.id, failures, now, now.Add(wait), o.cause())
		if err != nil || !mine {
			return false, err
		}
		if err := note(ctx, tx, w.id, e, statusRetry, o, now); err != nil {
			return false, err
		}
		_, err = s.judge(ctx, tx, w, o, now)
		return false, err
	}
	mine, err := settled(ctx, tx, w.id, s.id, e.Position, now.Add(leaseFor), false)
	if err != nil || !mine {
		return false, err
	}
	s.Log.WarnContext(ctx, "an event was given up: it is a dead letter", "webhook", w.id, "event", e.ID, "position", e.Position, "error", o.cause())
	if err := note(ctx, tx, w.id, e, statusDead, o, now); err != nil {
		return false, err
	}
	if o.poison() {
		return true, nil // the target is well, and this event is not for it
	}
	if err := failed(ctx, tx, w.id, now, o.cause()); err != nil {
		return false, err
	}
	disabled, err := s.judge(ctx, tx, w, o, now)
	return !disabled, err
}

// judge disables a webhook whose target has taken nothing for too long, or says that it wants no more, and says whether it did.
func (s *service) judge(ctx context.Context, tx *store.Tx, w *webhook, o outcome, now time.Time) (bool, error) {
	all, err := targets(ctx, tx, w.id)
	if err != nil || len(all) == 0 {
		return false, err
	}
	since := all[0].FailingSince
	if !o.gone() && (since == nil || now.Sub(*since) < s.config.DisableAfter.Std()) {
		return false, nil
	}
	if err := disable(ctx, tx, w.id, o.cause()); err != nil {
		return false, err
	}
	s.Log.ErrorContext(ctx, "a webhook was disabled; slipway webhook resume lets it go on", "webhook", w.id, "error", o.cause())
	subject := event.CDSubject[disabled]{ID: w.id, Source: source, Content: disabled{w.Owner, since, o.cause()}}
	return true, s.Events.Publish(ctx, tx, event.NewCDEvent(eventDisabled, source, now, subject, struct{}{}).Event())
}

// outcome is what came of sending.
type outcome struct {
	status int           // of the answer; 0: there was none
	after  time.Duration // what the target asked us to wait
	took   time.Duration
	err    error
}

func (o outcome) ok() bool { return o.status >= 200 && o.status < 300 }

// cause is what went wrong, in words that hold nothing of the network behind the guard.
func (o outcome) cause() string {
	var timeout net.Error
	var coded *slipway.Error
	switch {
	case o.ok():
		return ""
	case o.status >= 300 && o.status < 400:
		return fmt.Sprintf("it answered %d; redirects are not followed: use the final address", o.status)
	case o.status > 0:
		return fmt.Sprintf("it answered %d", o.status)
	case errors.As(o.err, &coded):
		return coded.Message
	case errors.As(o.err, &timeout) && timeout.Timeout():
		return "it did not answer in time"
	}
	return "it cannot be reached"
}

// post sends one event once.
func (s *service) post(ctx context.Context, w *webhook, e event.Event, body []byte) (o outcome) {
	start := time.Now()
	defer func() { o.took = time.Since(start) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return outcome{err: err}
	}
	req.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	req.Header.Set("User-Agent", "Slipway")
	sign(req.Header, e.ID, s.Now(), body, w.keys...)
	res, err := s.client.Do(req)
	if err != nil {
		s.Log.DebugContext(ctx, "a webhook was not reached", "webhook", w.id, "error", err)
		return outcome{err: err}
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)) // what it says beside its status is of no use
	o = outcome{status: res.StatusCode}
	if seconds, err := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 16); err == nil {
		o.after = time.Duration(seconds) * time.Second
	}
	return o
}

// one finds a webhook as it stands in its document.
func (s *service) one(ctx context.Context, id string) (*webhook, error) {
	documents := s.Documents()
	if documents == nil {
		return nil, slipway.Errorf(slipway.Unavailable, "the blueprint data does not run here, and has the documents")
	}
	d, err := documents.Reveal(ctx, "webhooks", id)
	if err != nil {
		return nil, err
	}
	w := s.read(d)
	return w, w.err
}

// redelivery is the job that sends an event again, beside what is sent in order.
type redelivery struct {
	Webhook  string `json:"webhook"`
	Delivery int64  `json:"delivery"`
}

func (redelivery) Kind() string { return "webhook.redeliver" }

func (s *service) redeliver(ctx context.Context, in redelivery) error {
	db := s.DB("main")
	d, err := delivery(ctx, db, in.Webhook, in.Delivery)
	if err != nil {
		return err
	}
	w, err := s.one(ctx, in.Webhook)
	if err != nil {
		return err
	}
	e, err := s.event(ctx, w, d.Position)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	o := s.post(ctx, w, e, raw)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	status := statusOK
	if !o.ok() {
		status = statusDead
	}
	if err := db.Write(ctx, func(tx *store.Tx) error { return note(ctx, tx, w.id, e, status, o, s.Now()) }); err != nil {
		return err
	}
	if !o.ok() {
		return slipway.Errorf(slipway.Unavailable, "the webhook %s did not take it: %s", w.id, o.cause())
	}
	return nil
}

// event reads an event that a webhook's owner may read, as of now.
func (s *service) event(ctx context.Context, w *webhook, position int64) (event.Event, error) {
	caller, err := s.Auth.Named(ctx, w.Owner)
	if err != nil {
		return event.Event{}, err
	}
	events, _, err := s.Events.List(ctx, caller, position-1, nil, 1)
	if err != nil {
		return event.Event{}, err
	}
	if len(events) == 0 || events[0].Position != position {
		return event.Event{}, slipway.Errorf(slipway.NotFound, "the event %d is not kept any more, or %s may not read it any more", position, w.Owner)
	}
	return events[0], nil
}

// pruneArgs deletes what the log no longer has to keep.
type pruneArgs struct{}

func (pruneArgs) Kind() string { return "webhook.prune" }

func (s *service) prune(ctx context.Context, _ pruneArgs) error {
	return pruneDeliveries(ctx, s.DB("main"), s.Now().Add(-s.config.Log.Std()))
}
