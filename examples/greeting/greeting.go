// Package greeting is an example of a blueprint: it keeps greetings, delivers each by a job, and tells of it by an event. docs/blueprints.md
// walks through it.
package greeting

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/store"
)

// Blueprint is what goes into the list of a build.
var Blueprint = blueprint.Blueprint{
	Name: "greeting", Version: "0.1.0", Summary: "Greets people.", Stability: blueprint.Experimental,
	Config: func() any { return &Config{Word: "Hello"} },
	Mounts: []blueprint.Mount{{Prefix: "/api/greetings", Dialect: blueprint.API}},
	Permissions: []auth.Permission{
		{Name: "greeting.greeting.read", Text: "See greetings"},
		{Name: "greeting.greeting.create", Text: "Greet somebody"},
	},
	Operations: []blueprint.Operation{
		blueprint.Handle((*service).create, blueprint.Operation{
			ID: "greeting.create", Method: "POST", Path: "/api/greetings", Permission: "greeting.greeting.create", Status: 201, Idempotent: true,
			Summary:        "Greet somebody",
			RequestExample: newGreeting{To: "Ada"}, ResponseExample: Greeting{ID: 1, To: "Ada", Text: "Hello, Ada!"},
		}),
		blueprint.Handle((*service).list, blueprint.Operation{
			ID: "greeting.list", Method: "GET", Path: "/api/greetings", Permission: "greeting.greeting.read",
			Summary:         "List greetings, newest first",
			ResponseExample: blueprint.List[Greeting]{Items: []Greeting{{ID: 1, To: "Ada", Text: "Hello, Ada!", Delivered: true}}, PageInfo: slipway.PageInfo{Limit: 20}},
		}),
		blueprint.Handle((*service).get, blueprint.Operation{
			ID: "greeting.get", Method: "GET", Path: "/api/greetings/{id}", Permission: "greeting.greeting.read",
			Summary: "Get a greeting", Errors: []slipway.Code{slipway.NotFound},
			ResponseExample: Greeting{ID: 1, To: "Ada", Text: "Hello, Ada!", Delivered: true},
		}),
	},
	Databases: []blueprint.Database{{Name: "main", Migrations: migrations(), Tables: []string{"greeting_greeting"}}},
	Jobs:      []blueprint.Job{blueprint.Work((*service).deliver, job.Worker{Text: "Delivers a greeting", Timeout: 10 * time.Second})},
	Events:    []event.Type{{Name: eventDelivered, Text: "A greeting was delivered", Object: "greeting", Data: deliveredEvent{}}},
	Commands:  []func(*blueprint.Client) *cobra.Command{greet},
	Open:      open,
}

// deliveredEvent is the data of eventDelivered: whoever wants more asks for the greeting.
type deliveredEvent = event.CDEvent[struct{}, struct{}]

const eventDelivered = "dev.cdeventsx.slipway-greeting.delivered.0.1.0"

//go:embed migrations
var files embed.FS

func migrations() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the folder is part of the binary
	}
	return sub
}

// Config is the section `greeting:` of the configuration.
type Config struct {
	Word string `yaml:"word" doc:"How greetings begin"`
}

// Validate is called before anything starts.
func (c *Config) Validate() error {
	if c.Word == "" {
		return errors.New("word: write a word, such as Hello")
	}
	return nil
}

// Greeting is one greeting.
type Greeting struct {
	ID        int64  `json:"id" doc:"Id"`
	To        string `json:"to" doc:"Who is greeted"`
	Text      string `json:"text" doc:"What is said"`
	Delivered bool   `json:"delivered" doc:"True once it was delivered"`
}

type service struct {
	host   *blueprint.Host
	config *Config
	db     *store.DB
}

func open(_ context.Context, h *blueprint.Host) (any, error) {
	return &service{host: h, config: h.Config.(*Config), db: h.DB("main")}, nil
}

// greet stores a greeting and, in the same transaction, the job that delivers it: there is no moment at which one is there without the
// other, and a crash loses neither.
func (s *service) greet(ctx context.Context, to string) (Greeting, error) {
	g := Greeting{To: to, Text: s.config.Word + ", " + to + "!"}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		var err error
		if g.ID, err = insertGreeting(ctx, tx, g, s.host.Now()); err != nil {
			return err
		}
		_, _, err = s.host.Jobs.Insert(ctx, tx, delivery{g.ID}, job.Insert{})
		return err
	})
	return g, err
}

// delivery is what the job stores: a small struct, because old ones must stay readable.
type delivery struct {
	ID int64 `json:"id"`
}

func (delivery) Kind() string { return "greeting.deliver" }

// deliver may run twice: the second time it finds nothing to do.
func (s *service) deliver(ctx context.Context, d delivery) error {
	return s.db.Write(ctx, func(tx *store.Tx) error {
		first, err := markDelivered(ctx, tx, d.ID)
		if err != nil || !first {
			return err
		}
		subject := event.CDSubject[struct{}]{ID: strconv.FormatInt(d.ID, 10)}
		return s.host.Events.Publish(ctx, tx, event.NewCDEvent(eventDelivered, event.SourceOf("greeting"), s.host.Now(), subject, struct{}{}).Event())
	})
}
