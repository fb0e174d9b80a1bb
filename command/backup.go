package command

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/server"
)

func (a *app) backup() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "backup FOLDER",
		Short: "Copy all databases into a new folder, while servers go on",
		Long: `Copy all databases of Slipway into a new folder, each as it was at one moment; servers on them go on meanwhile. It needs the configuration and reaches the
databases by itself, without a server and without tools of the databases. On SQLite each is a file, on PostgreSQL a folder with a file for each table.

The master keys are not copied: keep the key file apart from the backups, as whoever has both can read what is sealed. Everything else can be read by whoever has the
folder.`,
		Example: "  slipway db backup /var/backups/slipway/2026-11-21 --config slipway.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.databases(s, "")
			if err != nil {
				return err
			}
			m, err := server.Backup(cmd.Context(), d.config, d.owners, args[0], version())
			if err != nil {
				return err
			}
			say(cmd, "The master keys (%s) are not in it; keep their file apart.", d.config.Secrets.KeyFile)
			return a.printBackup(cmd, m)
		},
	}
	s.flags(cmd)
	return cmd
}

func (a *app) restore() *cobra.Command {
	var s settings
	var o server.RestoreOptions
	cmd := &cobra.Command{
		Use:   "restore FOLDER",
		Short: "Fill empty databases with a backup",
		Long: `Fill the configured databases with a backup that "slipway db backup" made. Stop the servers first, and put the key file in its place. First all is checked: that the backup
is whole, that this program knows its schemas, that the keys are there, and that the databases are empty. A backup of an older version is brought up to date by the server's
next start; one of a newer version is refused. A backup goes back into the engine it came from.

What waited when the backup was made goes on when the server starts: jobs, webhooks to be sent, builds that had begun end as interrupted. To look at a copy beside the
installation it came from, start it with --role web.`,
		Example: `  slipway db restore /var/backups/slipway/2026-11-21 --config slipway.yaml
  slipway db restore /var/backups/slipway/2026-11-21 --replace`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.databases(s, "")
			if err != nil {
				return err
			}
			m, err := server.Restore(cmd.Context(), d.config, d.owners, args[0], o)
			if err != nil {
				return err
			}
			return a.printBackup(cmd, m)
		},
	}
	s.flags(cmd)
	cmd.Flags().BoolVar(&o.Replace, "replace", false, "give up what is in the databases")
	cmd.Flags().BoolVar(&o.AnyKeys, "any-keys", false, "go on without the keys that the backup was made with: what is sealed must be entered again")
	return cmd
}

func (a *app) printBackup(cmd *cobra.Command, m *server.Manifest) error {
	t := blueprint.Table{Header: []string{"Database", "Engine", "Files", "Bytes"}}
	for _, name := range slices.Sorted(maps.Keys(m.Databases)) {
		b := m.Databases[name]
		var bytes int64
		for _, f := range b.Files {
			bytes += f.Bytes
		}
		t.Rows = append(t.Rows, []string{name, string(b.Engine), fmt.Sprint(len(b.Files)), fmt.Sprint(bytes)})
	}
	return a.print(cmd, m, t)
}
