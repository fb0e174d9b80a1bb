package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

func (a *app) db() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "db",
		Short:   "Create, back up and restore databases, and change their schemas",
		Long:    `Create the configured databases, back them up and restore them, and migrate their schemas. The server applies missing migrations by itself at start. Use these commands to create databases on PostgreSQL, to migrate before you start a new version, and to go back.`,
		Example: "  slipway db migrate status --config slipway.yaml",
	}
	migrate := &cobra.Command{
		Use:     "migrate",
		Short:   "Apply or undo migrations, or show their state",
		Long:    "Every blueprint has its own migrations in each database that it uses. \"up\" applies all that are missing, \"down\" undoes the last one of one owner.",
		Example: "  slipway db migrate up",
	}
	migrate.AddCommand(a.migrateUp(), a.migrateDown(), a.migrateStatus("slipway db migrate status"))
	cmd.AddCommand(a.createDB(), migrate, a.migrateStatus("slipway db status"), a.dumpSchema(), a.backup(), a.restore())
	return cmd
}

// databases are the configured ones that have tables of ours, or only the one that was asked for.
type databases struct {
	config *server.Config
	urls   map[string]string
	owners map[string][]store.Migrations
}

func (a *app) databases(s settings, only string) (*databases, error) {
	l, err := a.load(s, os.Environ())
	if err != nil {
		return nil, err
	}
	enabled, err := server.Enabled(a.blueprints, l.config.Blueprints)
	if err != nil {
		return nil, err
	}
	owners := server.Owners(append([]blueprint.Blueprint{server.Base}, enabled...))
	d := &databases{config: l.config, urls: map[string]string{}, owners: owners}
	for name, u := range l.config.Databases {
		if owners[name] != nil && (only == "" || name == only) {
			d.urls[name] = u
		}
	}
	if only != "" && len(d.urls) == 0 {
		return nil, slipway.Errorf(slipway.NotFound, "there is no database %q with tables of Slipway; there are %s", only, strings.Join(slices.Sorted(maps.Keys(owners)), ", "))
	}
	for name := range owners {
		if only == "" && d.urls[name] == "" {
			return nil, slipway.Errorf(slipway.Invalid, "databases.%s is missing in the configuration, and an enabled blueprint needs it", name)
		}
	}
	return d, makeDataDir(l.config.DataDir)
}

// makeDataDir makes the data folder where it is missing.
func makeDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return slipway.Errorf(slipway.Invalid, "the data folder %s cannot be made: %w; choose one that you may write to with dataDir or --data-dir", dir, err)
	}
	return nil
}

// each opens the databases one after the other.
func (d *databases) each(fn func(name string, db *store.DB) error) error {
	for _, name := range slices.Sorted(maps.Keys(d.urls)) {
		db, err := store.Open(name, d.urls[name])
		if err != nil {
			return err
		}
		if err := errors.Join(fn(name, db), db.Close()); err != nil {
			return err
		}
	}
	return nil
}

// dbFlags adds the flags of the db commands.
func dbFlags(cmd *cobra.Command, s *settings, only *string) *cobra.Command {
	s.flags(cmd)
	cmd.Flags().StringVar(only, "database", "", "short name of the one database to work on (default all)")
	return cmd
}

func (a *app) createDB() *cobra.Command {
	var s settings
	var only string
	var newKey bool
	cmd := dbFlags(&cobra.Command{
		Use:   "create",
		Short: "Create databases and the key file where they are missing",
		Long: `Create the configured databases that do not exist, and with main the key file (secrets.keyFile), and say which. On PostgreSQL this comes before the first
start, and the user of the address needs the right to create databases; on SQLite the server does it by itself. What exists is left as it is.

The key file opens what is sealed in the database, so a database that was in use is not given a new one: copy it from another server or from a
backup. --new-key makes one all the same; what was sealed with the lost one cannot be read any more.`,
		Example: "  SLIPWAY_DATABASES_MAIN=postgres://slipway@localhost/slipway slipway db create",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.databases(s, "")
			if err != nil {
				return err
			}
			urls := map[string]string{} // also of those that no blueprint has tables in: the server opens them all
			for name, u := range d.config.Databases {
				if engine, _ := store.EngineOf(u); engine != store.MySQL && (only == "" || name == only) { // that one is of another program
					urls[name] = u
				}
			}
			if len(urls) == 0 {
				return slipway.Errorf(slipway.NotFound, "there is no database %q of Slipway in the configuration; there are %s", only, strings.Join(slices.Sorted(maps.Keys(d.config.Databases)), ", "))
			}
			for _, name := range slices.Sorted(maps.Keys(urls)) {
				created, err := store.CreateDatabase(cmd.Context(), urls[name])
				if err != nil {
					return fmt.Errorf("database %q: %w", name, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", name, whether(created))
			}
			if urls["main"] == "" {
				return nil
			}
			created, err := d.createKey(cmd.Context(), newKey)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "key file %s: %s\n", d.config.Secrets.KeyFile, whether(created))
			if created {
				say(cmd, "Give every server the same key file, and keep a copy of it, apart from those of the database.")
			}
			return nil
		},
	}, &s, &only)
	cmd.Flags().BoolVar(&newKey, "new-key", false, "make a key file for a database that was in use with one that is lost")
	return cmd
}

func whether(created bool) string {
	if created {
		return "created"
	}
	return "exists already"
}

// createKey makes the key file where it is missing. A main database with tables was in use, with a key that is elsewhere or lost.
func (d *databases) createKey(ctx context.Context, anyway bool) (created bool, err error) {
	file := d.config.Secrets.KeyFile
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return false, errors.Join(err, d.config.CheckKeyFile())
	}
	if !anyway {
		db, err := store.Open("main", d.urls["main"])
		if err != nil {
			return false, err
		}
		steps, err := db.MigrateStatus(ctx, d.owners["main"]...)
		if err := errors.Join(err, db.Close()); err != nil {
			return false, err
		}
		if slices.ContainsFunc(steps, func(s store.MigrationStatus) bool { return s.Applied }) {
			return false, slipway.Errorf(slipway.Conflict, "the database main was in use, but there is no key file at %s: copy it from another server or from a backup; "+
				"if there is none any more, --new-key makes another, and what was sealed cannot be read", file)
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return false, slipway.Errorf(slipway.Invalid, "the folder of the key file cannot be made: set secrets.keyFile to a place where you may write").WithCause(err)
	}
	return true, d.config.Secrets.Make()
}

func (a *app) migrateUp() *cobra.Command {
	var s settings
	var only string
	return dbFlags(&cobra.Command{
		Use:     "up",
		Short:   "Apply missing migrations",
		Long:    `Apply every missing migration, each in a transaction. Several servers may do so at once: one applies, the others wait. Migrations of a newer version are left alone; a database from which one of them removed something is refused.`,
		Example: "  slipway db migrate up --database main",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.databases(s, only)
			if err != nil {
				return err
			}
			return d.each(func(name string, db *store.DB) error {
				before, err := missing(cmd.Context(), db, d.owners[name])
				if err != nil {
					return err
				}
				if err := db.MigrateUp(cmd.Context(), d.owners[name]...); err != nil {
					return err
				}
				steps := "steps"
				if before == 1 {
					steps = "step"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: up to date, %d %s applied\n", name, before, steps)
				return nil
			})
		},
	}, &s, &only)
}

// missing counts the steps that were not applied.
func missing(ctx context.Context, db *store.DB, owners []store.Migrations) (n int, err error) {
	steps, err := db.MigrateStatus(ctx, owners...)
	for _, s := range steps {
		if !s.Applied {
			n++
		}
	}
	return n, err
}

func (a *app) migrateDown() *cobra.Command {
	var s settings
	var only, owner string
	var yes bool
	cmd := dbFlags(&cobra.Command{
		Use:     "down",
		Short:   "Undo the last migration of one owner",
		Long:    `Undo the last migration that one owner (a blueprint, or a part such as job or auth) applied in one database. What the migration had added is lost, and a server of this version applies it again at its next start. Stop the servers first. "slipway db migrate status" lists owners and migrations.`,
		Example: "  slipway db migrate down --database main --owner catalog --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if owner == "" || !yes {
				return usage("name the owner with --owner, and confirm the loss of its data with --yes")
			}
			if only == "" {
				only = "main"
			}
			d, err := a.databases(s, only)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(d.owners[only], func(m store.Migrations) bool { return m.Owner == owner })
			if i < 0 {
				var known []string
				for _, m := range d.owners[only] {
					known = append(known, m.Owner)
				}
				return slipway.Errorf(slipway.NotFound, "%s has no tables in %s; there are %s", owner, only, strings.Join(known, ", "))
			}
			return d.each(func(name string, db *store.DB) error {
				step, err := db.MigrateDown(cmd.Context(), d.owners[only][i])
				if err != nil {
					return err
				}
				if step == "" {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: nothing of %s is applied\n", name, owner)
					return nil
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: took back %s of %s\n", name, step, owner)
				return nil
			})
		},
	}, &s, &only)
	cmd.Flags().StringVar(&owner, "owner", "", "whose last migration to undo")
	cmd.Flags().BoolVar(&yes, "yes", false, "confirm that its data may be lost")
	return cmd
}

// migrateStatus is a command under the path that it is called by.
func (a *app) migrateStatus(path string) *cobra.Command {
	var s settings
	var only string
	return dbFlags(&cobra.Command{
		Use:     "status",
		Short:   "Show which migrations are applied",
		Long:    "List the migrations of all owners in each database and whether they are applied, including those of a newer version of Slipway. Nothing is changed.",
		Example: "  " + path + " -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.databases(s, only)
			if err != nil {
				return err
			}
			t := blueprint.Table{Header: []string{"Database", "Owner", "Version", "Name", "Applied"}}
			type step struct {
				Database string `json:"database"`
				store.MigrationStatus
			}
			list := []step{}
			err = d.each(func(name string, db *store.DB) error {
				steps, err := db.MigrateStatus(cmd.Context(), d.owners[name]...)
				for _, s := range steps {
					list = append(list, step{name, s})
					step := s.Name
					if s.Newer {
						step = "(of a newer version)"
					}
					t.Rows = append(t.Rows, []string{name, s.Owner, strconv.FormatInt(s.Version, 10), step, yesNo(s.Applied)})
				}
				return err
			})
			if err != nil {
				return err
			}
			return a.print(cmd, list, t)
		},
	}, &s, &only)
}

func (a *app) dumpSchema() *cobra.Command {
	var s settings
	var only string
	return dbFlags(&cobra.Command{
		Use:   "dump-schema",
		Short: "Print the schemas as they are",
		Long: `Print all tables, columns, indexes, constraints and views of the databases as they are, one a line, sorted: what two installations on the same engine differ in, diff shows.
Nothing is changed, and no data is shown.`,
		Example: "  slipway db dump-schema --database main >schema.txt",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.databases(s, only)
			if err != nil {
				return err
			}
			list := map[string][]string{}
			t := blueprint.Table{Header: []string{"Database", "Schema"}}
			err = d.each(func(name string, db *store.DB) error {
				lines, err := db.Schema(cmd.Context())
				list[name] = append([]string{}, lines...)
				for _, line := range lines {
					t.Rows = append(t.Rows, []string{name, line})
				}
				return err
			})
			if err != nil {
				return err
			}
			return a.print(cmd, list, t)
		},
	}, &s, &only)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
