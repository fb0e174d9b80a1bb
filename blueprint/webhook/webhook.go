// Package webhook is the blueprint of outgoing webhooks: events are sent to addresses that people name, as documents of the Data API. Each webhook is told only what whoever
// wrote it may read. What is sent is signed by Standard Webhooks, in the order of events, tried again for about a day, and logged; what is given up is kept as a
// dead letter until somebody has it sent again. One target that does not answer costs the others nothing.
package webhook

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/resource"
)

//go:embed README.md
var readme string

// The permissions, beside those of the documents.
const (
	readPermission      = "webhook.webhook.read"
	updatePermission    = "webhook.webhook.update"
	readDeliveries      = "webhook.delivery.read"
	redeliverPermission = "webhook.delivery.redeliver"
)

// Events of this blueprint.
const (
	eventDisabled = "dev.cdeventsx.slipway-webhook.disabled.0.1.0"
	eventTested   = "dev.cdeventsx.slipway-webhook.tested.0.1.0" // goes to the target alone
)

// source sends them, and knows webhooks by their ids.
var source = event.SourceOf("webhook")

// Config is the section webhooks.
type Config struct {
	Timeout      slipway.Duration `yaml:"timeout" doc:"Longest wait for a target's answer"`
	Parallel     int              `yaml:"parallel" doc:"How many deliveries one replica has under way at a time"`
	DisableAfter slipway.Duration `yaml:"disableAfter" doc:"How long a target may take nothing before it is disabled"`
	Log          slipway.Duration `yaml:"log" doc:"How long deliveries are kept in the log, dead letters too"`
}

// Validate reports all faults together.
func (c *Config) Validate() error {
	var faults []string
	if c.Timeout.Std() < time.Second || c.Timeout.Std() > time.Minute {
		faults = append(faults, fmt.Sprintf("timeout: %s is not between 1s and 1m", c.Timeout))
	}
	if c.Parallel < 1 || c.Parallel > 1000 {
		faults = append(faults, fmt.Sprintf("parallel: %d is not between 1 and 1000", c.Parallel))
	}
	if c.DisableAfter.Std() < time.Hour {
		faults = append(faults, fmt.Sprintf("disableAfter: %s is shorter than an hour", c.DisableAfter))
	}
	if c.Log.Std() < time.Hour {
		faults = append(faults, fmt.Sprintf("log: %s is shorter than an hour", c.Log))
	}
	if faults != nil {
		return slipway.Errorf(slipway.Invalid, "%s", strings.Join(faults, "; "))
	}
	return nil
}

// Blueprint is outgoing webhooks. It needs the blueprint data for its documents.
var Blueprint = blueprint.Blueprint{
	Name: "webhook", Version: "0.1.0", Summary: "Events are sent to addresses that people name.", Stability: blueprint.Experimental,
	ConfigKey: "webhooks",
	Config: func() any {
		day := slipway.Duration(24 * time.Hour)
		return &Config{Timeout: slipway.Duration(15 * time.Second), Parallel: 64, DisableAfter: 3 * day, Log: 30 * day}
	},
	Mounts: []blueprint.Mount{{Prefix: "/api/webhooks", Dialect: blueprint.API}},
	Permissions: []auth.Permission{
		{Name: readPermission, Text: "See webhooks and how they fare, without their secrets"},
		{Name: "webhook.webhook.create", Text: "Make webhooks, which are told what one may read oneself"},
		{Name: updatePermission, Text: "Change webhooks, have their secrets made anew, and let them go on"},
		{Name: "webhook.webhook.delete", Text: "Delete webhooks"},
		{Name: readDeliveries, Text: "See what was sent to which webhook: types and subjects of events, also of those that one may not read"},
		{Name: redeliverPermission, Text: "Have events sent to a webhook again, and test it"},
	},
	Operations: operations,
	Databases:  []blueprint.Database{{Name: "main", Migrations: migrations(), Tables: []string{"webhook_target", "webhook_delivery"}}},
	Kinds:      []blueprint.ResourceKind{blueprint.Resource(kind, (*service).kind)},
	Events: []event.Type{
		{Name: eventDisabled, Text: "A webhook was disabled: its target has taken nothing for too long, or wants no more", Object: "webhook", Permission: event.ReadPermission, Data: disabledEvent{}},
	},
	Jobs: []blueprint.Job{
		blueprint.Work((*service).redeliver, job.Worker{Text: "Sends an event to a webhook again", Timeout: 2 * time.Minute, MaxAttempts: 5}),
		blueprint.Work((*service).prune, job.Worker{Text: "Deletes old deliveries from the log", Timeout: 10 * time.Minute}),
	},
	Schedules: []job.Schedule{{Name: "webhook.prune", Text: "Deletes old deliveries from the log", Every: time.Hour, Args: pruneArgs{}}},
	Commands:  []func(*blueprint.Client) *cobra.Command{commands},
	Pages:     []blueprint.Page{{Slug: "webhooks", Title: "Webhooks", Text: readme}},
	Open:      open,
}

// document is a webhook as people write it.
type document struct {
	URL            string     `json:"url" required:"true" doc:"Where events are sent: an https address that fetch.allow allows" example:"https://hooks.example.com/slipway"`
	Types          []string   `json:"types,omitempty" doc:"Types of events, or beginnings of them and *; absent: all" example:"[\"dev.cdevents.*\"]"`
	Description    string     `json:"description,omitempty" doc:"What it is for"`
	Enabled        bool       `json:"enabled" default:"true" doc:"Whether events are sent; while they are not, they wait"`
	Secret         string     `json:"secret,omitempty" secret:"true" doc:"What deliveries are signed with: whsec_ and 24 to 64 bytes in base64. Left out, one is made; slipway webhook rotate tells a new one"`
	PreviousSecret string     `json:"previousSecret,omitempty" secret:"true" doc:"Deliveries are signed with this one too, so that a receiver can change over"`
	PreviousUntil  *time.Time `json:"previousUntil,omitempty" doc:"Until when previousSecret is used; absent: for as long as it is there"`
	Owner          string     `json:"owner,omitempty" doc:"Who changed it last: it is told what they may read. What is written here is of no effect"`
}

// Check implements provider.Checker.
func (d *document) Check() (faults []slipway.Detail) {
	fault := func(field, format string, args ...any) {
		faults = append(faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
	}
	if u, err := url.Parse(d.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" || len(d.URL) > 2000 {
		fault("url", "must be an http or https address without user and fragment, of at most 2000 characters")
	}
	if len(d.Types) > 50 {
		fault("types", "are more than 50; a beginning and * stands for many")
	}
	for i, t := range d.Types {
		if name := strings.TrimSuffix(t, "*"); len(t) > 200 || t == "" || strings.ContainsAny(name, "* \n") {
			fault(fmt.Sprintf("types[%d]", i), "must be the name of a type, or the beginning of one and * at its end")
		}
	}
	for field, text := range map[string]string{"secret": d.Secret, "previousSecret": d.PreviousSecret} {
		if _, err := key(text); text != "" && err != nil {
			fault(field, "%v", err)
		}
	}
	return faults
}

var kind = resource.Kind{
	Name: "webhooks", Text: "Where events are sent, signed, to those who asked for them. A webhook is told what whoever changed it last may read.",
	Permissions: resource.Permissions{Read: readPermission, Create: "webhook.webhook.create", Update: updatePermission, Delete: "webhook.webhook.delete"},
	Types:       []resource.Type{{Fields: document{}}},
	Fresh:       func() map[string]json.RawMessage { return map[string]json.RawMessage{"secret": quote(newSecret())} },
}

func quote(s string) json.RawMessage {
	raw, _ := json.Marshal(s) // a text always encodes
	return raw
}

func newSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return "whsec_" + base64.StdEncoding.EncodeToString(b[:])
}

// kind completes the declaration with what needs the installation.
func (s *service) kind(k resource.Kind) resource.Kind {
	k.Author = s.Auth.Author
	k.Check = func(_ context.Context, raw json.RawMessage) []slipway.Detail {
		var d document
		if json.Unmarshal(raw, &d) != nil {
			return nil // it was read already
		}
		if err := s.Fetch.CheckURL(d.URL); err != nil {
			return []slipway.Detail{{Field: "/url", Code: slipway.Invalid, Message: sentence(err)}}
		}
		return nil
	}
	k.Warn = func(raw json.RawMessage) (warnings []string) {
		var d document
		if json.Unmarshal(raw, &d) != nil {
			return nil
		}
		for _, t := range d.Types {
			if !slices.ContainsFunc(s.Events.Types(), func(known event.Type) bool { return slipway.Fits(t, known.Name) }) {
				warnings = append(warnings, fmt.Sprintf("no enabled blueprint sends events of the type %.100q; GET /api/events/types lists them", t))
			}
		}
		if strings.HasPrefix(d.URL, "http://") {
			warnings = append(warnings, "events are sent unencrypted; use https")
		}
		return warnings
	}
	return k
}

func sentence(err error) string {
	if e, ok := errors.AsType[*slipway.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

// service is the blueprint at work.
type service struct {
	*blueprint.Host
	config *Config
	client *http.Client
	id     string // of this replica, to hold leases
	slots  chan struct{}
	woken  chan struct{} // documents have changed, or somebody wants to go on
}

func open(_ context.Context, h *blueprint.Host) (any, error) {
	config := h.Config.(*Config)
	client := *h.Fetch.Client(config.Timeout.Std())
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // what is signed for one is for nobody else
	s := &service{
		Host: h, config: config, client: &client, id: rand.Text(), slots: make(chan struct{}, config.Parallel), woken: make(chan struct{}, 1),
	}
	h.Go("deliver", s.run)
	return s, nil
}

func (s *service) wake() {
	select {
	case s.woken <- struct{}{}:
	default: // it is awake already
	}
}

// disabledEvent is the data of eventDisabled.
type disabledEvent = event.CDEvent[disabled, struct{}]

// disabled is what is said of a webhook that was disabled.
type disabled struct {
	Owner string     `json:"owner" doc:"Whose it is"`
	Since *time.Time `json:"since" nullable:"true" doc:"Since when its target has taken nothing"`
	Error string     `json:"error" doc:"What went wrong last"`
}
