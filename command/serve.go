package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/server"
)

func (a *app) serve() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the server until it is interrupted. It then finishes accepted requests, for up to 20 seconds. A second interrupt stops it at once.

No configuration is needed: the first start makes the data folder with an embedded SQLite database, prints the address, and writes an
admin token to <data-dir>/admin-token, readable by you alone. On PostgreSQL, "slipway db create" comes before the first start, and the
first token from "slipway token create --admin". Any number of servers can share one PostgreSQL; --role splits them into those that answer requests and those that work on jobs. On SIGHUP, the server reads the key file and the folders of resources: again.`,
		Example: `  slipway serve
  slipway serve --listen 127.0.0.1:9000 --data-dir /var/lib/slipway
  SLIPWAY_DATABASES_MAIN=postgres://slipway@db/slipway slipway serve --config slipway.yaml --role worker`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.load(s, os.Environ(), keyFile)
			if err != nil {
				return err
			}
			log := l.logger(cmd.ErrOrStderr())
			r, err := a.open(cmd.Context(), l, log, false)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if r.address != "" {
				fmt.Fprintf(out, "Slipway %s serves %s\n", version(), r.address)
				fmt.Fprintf(out, "Reference: %s/docs\n", r.address)
			} else {
				fmt.Fprintf(out, "Slipway %s works jobs\n", version())
			}
			if r.newToken {
				fmt.Fprintf(out, "An admin token was written to %s\n", r.tokenFile)
			}
			defer r.reloadOnHangup(cmd.Context(), log)()
			notify("READY=1")
			defer context.AfterFunc(cmd.Context(), func() { notify("STOPPING=1") })()
			return r.run(cmd.Context())
		},
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&s.listen, "listen", "", `address to listen on (default "127.0.0.1:8080")`)
	cmd.Flags().Var(newChoice(&s.role, "all", "web", "worker"), "role", "what this server does: answer requests (web), work on jobs (worker), or both (all)")
	return cmd
}

// running is an opened server that listens already.
type running struct {
	server    *server.Server
	listener  net.Listener // nil in the role worker
	address   string       // "http://127.0.0.1:8080"; "" in the role worker
	tokenFile string
	newToken  bool // this start made the admin token
}

// open makes a server and its listener; with free, on any free port when the configured one is taken.
func (a *app) open(ctx context.Context, l *loaded, log *slog.Logger, free bool) (_ *running, err error) {
	for _, name := range l.ignored {
		log.WarnContext(ctx, "an environment variable names no key and is ignored; see slipway config env", "variable", name)
	}
	s, err := server.New(ctx, server.Options{
		Config: l.config, Blueprints: a.blueprints, Kinds: a.kinds, Version: version(), Log: log, Redact: l.redact, Levels: l.levels, Manual: a.manual,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.Close() // the first error is the one to tell
		}
	}()
	r := &running{server: s, newToken: s.NewAdminToken, tokenFile: s.AdminTokenFile()}
	if l.config.Role == "worker" {
		return r, nil
	}
	if r.listener, err = s.Listen(free); err != nil {
		return nil, err
	}
	r.address = l.config.Server.ExternalURL
	if r.address == "" {
		r.address = "http://" + reachable(r.listener.Addr().String())
	}
	return r, nil
}

// manual is what the reference of the server shows of the command line and the configuration.
func (a *app) manual() server.Manual {
	fresh := &app{blueprints: a.blueprints, kinds: a.kinds} // making commands sets the values of their flags
	m := server.Manual{Commands: fresh.root(), Config: fresh.reference()}
	fresh.defaults(func(_, path string, k field, value string) {
		m.Keys = append(m.Keys, server.ConfigKey{Path: path, Default: value, Text: k.doc})
	})
	return m
}

// reachable is an address that can be called: a listener on all addresses is called at the loopback one.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// reloadOnHangup has the server read again what may change while it runs whenever the process gets SIGHUP, until stop is called.
func (r *running) reloadOnHangup(ctx context.Context, log *slog.Logger) (stop func()) {
	hangups, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-hangups:
			}
			if err := r.server.Reload(ctx); err != nil {
				log.ErrorContext(ctx, "what was to be read again has faults and was left as it was", "error", err)
			} else {
				log.InfoContext(ctx, "keys and resources were read again")
			}
		}
	}()
	return func() { signal.Stop(hangups); close(done) }
}

// run serves until the context ends.
func (r *running) run(ctx context.Context) error { return r.server.Run(ctx, r.listener) }

// logger writes the log as the configuration says, without secrets.
func (l *loaded) logger(out io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(strings.ToUpper(l.config.Log.Level))) // checked with the configuration
	options := &slog.HandlerOptions{Level: slog.LevelDebug}              // Levels lets less through
	var h slog.Handler = slog.NewJSONHandler(out, options)
	if l.config.Log.Format == "text" {
		h = slog.NewTextHandler(out, options)
	}
	l.levels = server.NewLevels(level)
	return slog.New(l.levels.Handler(secret.Handler(h, l.redact)))
}
