package server

import (
	"cmp"
	"context"
	"database/sql"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/store"
)

// Levels decides what is logged: what the configuration says, and for a time what somebody asked for, of everything or of one component (a blueprint or a provider).
// Safe for concurrent use.
type Levels struct {
	base slog.Level
	now  func() time.Time
	set  atomic.Pointer[map[string]LogLevel] // by component
}

const (
	everything     = "all" // the component that stands for all of them
	levelsRevision = "server.log_level"
	maxLevelTime   = 24 * time.Hour
	usualLevelTime = 10 * time.Minute
)

// NewLevels makes Levels with the level that the configuration says.
func NewLevels(base slog.Level) *Levels {
	l := &Levels{base: base, now: time.Now}
	l.set.Store(&map[string]LogLevel{})
	return l
}

// Handler is a log handler that passes on what Levels lets through. next has to take every level.
func (l *Levels) Handler(next slog.Handler) slog.Handler { return leveled{next, l, ""} }

// of is the level of a component: its own, else that of everything, else the configuration's.
func (l *Levels) of(component string) slog.Level {
	set := *l.set.Load()
	if len(set) == 0 { // nearly always
		return l.base
	}
	now := l.now()
	for _, name := range []string{component, everything} {
		if o, ok := set[name]; ok && now.Before(*o.Until) {
			return o.slog
		}
	}
	return l.base
}

type leveled struct {
	slog.Handler
	levels    *Levels
	component string
}

func (h leveled) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.levels.of(h.component)
}

func (h leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	component := h.component
	for _, a := range attrs {
		if a.Key == "blueprint" || a.Key == "provider" {
			component = a.Value.String()
		}
	}
	return leveled{h.Handler.WithAttrs(attrs), h.levels, component}
}

func (h leveled) WithGroup(name string) slog.Handler {
	return leveled{h.Handler.WithGroup(name), h.levels, h.component}
}

// LogLevel is a level that holds for a time.
type LogLevel struct {
	Component string     `json:"component" doc:"A blueprint, a provider, or all" example:"all"`
	Level     string     `json:"level" enum:"debug,info,warn,error" doc:"What is logged: this and what is more severe" example:"debug"`
	Until     *time.Time `json:"until" nullable:"true" doc:"When the configured level holds again; null for the configured level"`
	By        string     `json:"by,omitempty" doc:"Who asked for it" example:"user:default/jane"`

	slog slog.Level
}

var logOperations = []blueprint.Operation{
	blueprint.Handle((*Server).listLevels, blueprint.Operation{
		ID: "slipway.logLevels", Method: "GET", Path: "/api/log-levels", Summary: "What is logged", Permission: "slipway.log.read", Tag: "operations", Stability: blueprint.Experimental,
		Description: "Lists the configured level, and those that hold for a time, by component.",
		ResponseExample: blueprint.List[LogLevel]{Items: []LogLevel{{Component: everything, Level: "info"}, {Component: "github", Level: "debug", Until: new(exampleUntil), By: "user:default/jane"}},
			PageInfo: slipway.PageInfo{Limit: 2}},
	}),
	blueprint.Handle((*Server).setLevel, blueprint.Operation{
		ID: "slipway.setLogLevel", Method: "PUT", Path: "/api/log-levels/{component}", Summary: "Log more, or less, for a time", Permission: "slipway.log.write", Tag: "operations", Stability: blueprint.Experimental,
		Description: "Sets what is logged of everything (`all`) or of one component, a blueprint or a provider, on every replica within a second. It ends by itself.",
		Errors:      []slipway.Code{slipway.NotFound}, RequestExample: newLevel{Level: "debug", For: slipway.Duration(10 * time.Minute)},
		ResponseExample: LogLevel{Component: "github", Level: "debug", Until: new(exampleUntil), By: "user:default/jane"},
	}),
	blueprint.Handle((*Server).resetLevel, blueprint.Operation{
		ID: "slipway.resetLogLevel", Method: "DELETE", Path: "/api/log-levels/{component}", Summary: "Log as configured", Permission: "slipway.log.write", Tag: "operations", Stability: blueprint.Experimental,
		Description: "Ends a level that was set for a time. Nothing happens where there is none.",
	}),
}

var exampleUntil = time.Date(2026, 11, 21, 10, 25, 0, 0, time.UTC)

type newLevel struct {
	Level string           `json:"level" enum:"debug,info,warn,error" doc:"What is logged: this and what is more severe"`
	For   slipway.Duration `json:"for,omitempty" doc:"How long: 1s to 24h; default 10m" example:"10m"`
}

func (s *Server) listLevels(context.Context, *struct{}) (*struct{ Body blueprint.List[LogLevel] }, error) {
	items := []LogLevel{{Component: everything, Level: strings.ToLower(s.levels.base.String())}}
	set := *s.levels.set.Load()
	for _, component := range slices.Sorted(maps.Keys(set)) {
		if l := set[component]; s.now().Before(*l.Until) {
			items = append(items, l)
		}
	}
	return &struct{ Body blueprint.List[LogLevel] }{blueprint.List[LogLevel]{Items: items, PageInfo: slipway.PageInfo{Limit: len(items)}}}, nil
}

func (s *Server) setLevel(ctx context.Context, in *struct {
	Component string `path:"component" maxLength:"63" doc:"all, a blueprint, or a provider"`
	Body      newLevel
}) (*struct{ Body LogLevel }, error) {
	long := cmp.Or(in.Body.For.Std(), usualLevelTime)
	if long < time.Second || long > maxLevelTime {
		return nil, slipway.Errorf(slipway.Invalid, "for: %s is not between 1s and 24h", in.Body.For)
	}
	if !s.isComponent(in.Component) {
		return nil, slipway.Errorf(slipway.NotFound, "there is no component %q; write all, or the name of a blueprint (GET /version) or of a provider (GET /api/providers)", clip(in.Component))
	}
	l := LogLevel{Component: in.Component, Level: in.Body.Level, Until: store.At(s.now().Add(long)).Ptr(), By: auth.CallerFrom(ctx).Subject}
	err := s.main.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO server_log_level (component, level, until_time, set_by) VALUES ($1, $2, $3, $4)
			ON CONFLICT (component) DO UPDATE SET level = excluded.level, until_time = excluded.until_time, set_by = excluded.set_by`, l.Component, l.Level, store.AtPtr(l.Until), l.By); err != nil {
			return err
		}
		return s.revisions.Bump(ctx, tx, levelsRevision)
	})
	if err != nil {
		return nil, err
	}
	return &struct{ Body LogLevel }{l}, s.readLevels(ctx)
}

func (s *Server) resetLevel(ctx context.Context, in *struct {
	Component string `path:"component" maxLength:"63" doc:"all, a blueprint, or a provider"`
}) (*struct{}, error) {
	err := s.main.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM server_log_level WHERE component = $1`, in.Component); err != nil {
			return err
		}
		return s.revisions.Bump(ctx, tx, levelsRevision)
	})
	if err != nil {
		return nil, err
	}
	return nil, s.readLevels(ctx)
}

func (s *Server) isComponent(name string) bool {
	if name == everything {
		return true
	}
	for _, b := range s.blueprints[1:] {
		if b.Name == name {
			return true
		}
	}
	for _, p := range s.tasks.Providers() {
		if p.Name == name {
			return true
		}
	}
	return false
}

// readLevels takes over what holds for a time, as the database has it.
func (s *Server) readLevels(ctx context.Context) error {
	rows, err := s.main.QueryContext(ctx, `SELECT component, level, until_time, set_by FROM server_log_level`)
	if err != nil {
		return store.Err(err)
	}
	set := map[string]LogLevel{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var l LogLevel
		var until store.Time
		if err := rows.Scan(&l.Component, &l.Level, &until, &l.By); err != nil {
			return err
		}
		if l.Until = until.Ptr(); l.Until != nil && l.slog.UnmarshalText([]byte(l.Level)) == nil { // else a word of another version
			set[l.Component] = l
		}
		return nil
	})
	if err == nil {
		s.levels.set.Store(&set)
	}
	return err
}

// levelsChanged reads them again when another replica has set one.
func (s *Server) levelsChanged() {
	ctx, cancel := context.WithTimeout(s.draining, 10*time.Second)
	defer cancel()
	if err := s.readLevels(ctx); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "what is to be logged was not read", "error", err)
	}
}

// pruneLevels deletes what is over.
func (s *Server) pruneLevels(ctx context.Context) error {
	return s.main.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM server_log_level WHERE until_time < $1`, store.At(s.now()))
		return err
	})
}
