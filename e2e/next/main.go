// Command next stands for the next version of Slipway in tests of upgrades: its schema has further steps, and it has a blueprint, kinds of jobs, a schedule, a type of
// events and a type of providers that the version of this tree knows nothing of. With SLIPWAY_NEXT=contract a further step takes something away.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"testing/fstest"
	"time"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/command"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

func main() {
	builtin.Early()
	further(&job.Migrations, "job")
	further(&event.Migrations, "event")
	further(&entity.Migrations, "entity")
	further(&auth.Migrations, "auth_token")
	os.Exit(command.Main(append(builtin.Blueprints(), next), append(builtin.Providers(), kind)))
}

// further adds a step to the schema of an owner: a column of one of its tables.
func further(m *store.Migrations, table string) {
	files := fstest.MapFS{}
	names, err := fs.Glob(m.FS, "*.sql")
	for _, name := range names {
		var raw []byte
		if raw, err = fs.ReadFile(m.FS, name); err != nil {
			break
		}
		files[name] = &fstest.MapFile{Data: raw}
	}
	if err != nil {
		panic(err)
	}
	files["9001_next.sql"] = step("ALTER TABLE "+table+" ADD COLUMN next TEXT NOT NULL DEFAULT 'next'", "ALTER TABLE "+table+" DROP COLUMN next")
	if os.Getenv("SLIPWAY_NEXT") == "contract" && table == "event" {
		files["9002_less.sql"] = step("-- Contract: versions before the next.\nSELECT 1", "SELECT 1")
	}
	m.FS = files
}

func step(up, down string) *fstest.MapFile {
	return &fstest.MapFile{Data: fmt.Appendf(nil, "-- +goose Up\n%s;\n-- +goose Down\n%s;\n", up, down)}
}

// kind is a vendor that the version before does not know.
var kind = provider.Kind{Name: "next", Text: "A vendor of the next version", Open: func(context.Context, json.RawMessage, provider.Env) (*provider.Provider, error) {
	return &provider.Provider{}, nil
}}

const done = "dev.slipway.next.done.v1"

var next = blueprint.Blueprint{
	Name: "next", Version: "9.0.0", Summary: "What the next version has.", Stability: blueprint.Experimental,
	Mounts:      []blueprint.Mount{{Prefix: "/api/next", Dialect: blueprint.API}},
	Permissions: []auth.Permission{{Name: "next.work.start", Text: "Start work"}},
	Operations: []blueprint.Operation{blueprint.Handle((*service).start, blueprint.Operation{
		ID: "next.start", Method: "POST", Path: "/api/next/work", Permission: "next.work.start", Status: 202, Summary: "Start work in a second",
	})},
	Databases: []blueprint.Database{{Name: "main", Tables: []string{"next_tick", "next_work"}, Migrations: fstest.MapFS{"0001_next.sql": step(
		"CREATE TABLE next_tick (job BIGINT PRIMARY KEY);\nCREATE TABLE next_work (job BIGINT PRIMARY KEY)", "DROP TABLE next_work;\nDROP TABLE next_tick")}}},
	Jobs: []blueprint.Job{
		blueprint.Work((*service).tick, job.Worker{Text: "Notes each time of its schedule"}),
		blueprint.Work((*service).work, job.Worker{Text: "Works in the queue of a blueprint that all versions have", Queue: "build"}),
	},
	Schedules: []job.Schedule{{Name: "next.tick", Text: "Ticks", Every: time.Second, Args: tick{}}},
	Events:    []event.Type{{Name: done, Text: "A time of the schedule has been"}},
	Open:      func(_ context.Context, h *blueprint.Host) (any, error) { return &service{h}, nil },
}

type service struct{ *blueprint.Host }

type tick struct{}

func (tick) Kind() string { return "next.tick" }

type work struct{}

func (work) Kind() string { return "next.work" }

// note keeps that a job ran, in the transaction that ends it.
func (s *service) note(ctx context.Context, table string, more func(tx *store.Tx) error) error {
	return s.DB("main").Write(ctx, func(tx *store.Tx) error {
		info, _ := job.FromContext(ctx)
		if _, err := tx.Exec(ctx, `INSERT INTO `+table+` (job) VALUES ($1)`, info.ID); err != nil {
			return err
		}
		if err := more(tx); err != nil {
			return err
		}
		return job.Done(ctx, tx)
	})
}

func (s *service) tick(ctx context.Context, _ tick) error {
	return s.note(ctx, "next_tick", func(tx *store.Tx) error {
		return s.Host.Events.Publish(ctx, tx, event.Event{Type: done, Source: "/slipway/next", Data: json.RawMessage(`{"next":true}`)})
	})
}

func (s *service) work(ctx context.Context, _ work) error {
	return s.note(ctx, "next_work", func(*store.Tx) error { return nil })
}

type none struct{}

// start inserts ten jobs that may run in a second.
func (s *service) start(ctx context.Context, _ *none) (*none, error) {
	return &none{}, s.DB("main").Write(ctx, func(tx *store.Tx) error {
		for range 10 {
			if _, _, err := s.Jobs.Insert(ctx, tx, work{}, job.Insert{At: s.Now().Add(time.Second)}); err != nil {
				return err
			}
		}
		return nil
	})
}
