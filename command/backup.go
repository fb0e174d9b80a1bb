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
		Short: "Copy all databases into a new folder while servers run",
		Long: `Copy all databases into a new folder, each as it was at one moment, while servers run. The command reads the configuration and connects to the databases itself; it needs neither a server nor the databases' own tools. On SQLite each is a file, on PostgreSQL a folder with a file for each table.

The master keys are not part of the backup. Keep the key file in another place: whoever has both can read the secrets. Everything else in the folder can be read by anybody who has it.`,
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
		Short: "Restore a backup into empty databases",
		Long: `Fill the configured databases with a backup that "slipway db backup" made. Stop the servers first, and put the key file in its place. Everything is checked first: that the backup is complete, that this program knows its schemas, that the keys are there, and that the databases are empty. A backup of an older version is brought up to date by the server's
next start; one of a newer version is refused. A backup goes back into the engine it came from.

When the server starts, what was waiting when the backup was made continues: jobs run and webhooks are sent; builds that were running end as interrupted. To inspect a copy next to the original installation, start it with --role web.`,
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
	cmd.Flags().BoolVar(&o.Replace, "replace", false, "delete what is in the databases first")
	cmd.Flags().BoolVar(&o.AnyKeys, "any-keys", false, "restore without the keys that the backup was made with; all secrets must then be entered again")
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
