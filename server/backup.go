package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Manifest says what a backup holds. It is manifest.json in its folder, and is written last: a folder without one is no backup.
type Manifest struct {
	Format    int                     `json:"format"` // 1
	Slipway   string                  `json:"slipway"`
	CreatedAt time.Time               `json:"createdAt"`
	Keys      []string                `json:"keys"` // ids of the master keys, which are not in the backup
	Databases map[string]store.Backup `json:"databases"`
}

const (
	manifestName = "manifest.json"
	maxManifest  = 16 << 20
)

// Backup writes all databases with tables of Slipway into a new folder, each as it was at one moment of the first second, while servers go on. The master keys are not
// among it: what is sealed stays sealed. Whoever has the folder can read all else. owners is of the enabled blueprints, see Owners.
func Backup(ctx context.Context, c *Config, owners map[string][]store.Migrations, folder, version string) (_ *Manifest, err error) {
	m := &Manifest{Format: 1, Slipway: version, CreatedAt: time.Now().UTC().Truncate(time.Second), Keys: []string{}, Databases: map[string]store.Backup{}}
	keys, err := c.keyring(false)
	if err != nil {
		return nil, err
	}
	m.Keys = keys.KeyIDs()
	if _, err := os.Lstat(folder); err == nil {
		return nil, slipway.Errorf(slipway.Conflict, "%s is there already; name a folder that is not", folder)
	}
	aside := folder + ".partial" // so that what was interrupted is no backup
	if err := errors.Join(os.RemoveAll(aside), os.MkdirAll(filepath.Dir(aside), 0o700), os.Mkdir(aside, 0o700)); err != nil {
		return nil, fmt.Errorf("the folder of the backup cannot be made: %w", err)
	}
	defer os.RemoveAll(aside)
	root, err := os.OpenRoot(aside)
	if err != nil {
		return nil, err
	}
	defer root.Close()

	snapshots := map[string]*store.Snapshot{}
	var open []func() error
	defer func() {
		for _, f := range slices.Backward(open) {
			err = errors.Join(err, f())
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		db, err := store.Open(name, c.Databases[name])
		if err != nil {
			return nil, err
		}
		open = append(open, db.Close)
		if snapshots[name], err = db.Snapshot(ctx, owners[name]...); err != nil {
			return nil, err
		}
		open = append(open, snapshots[name].Close)
	}
	for name, s := range snapshots {
		if m.Databases[name], err = s.Save(ctx, root); err != nil {
			return nil, fmt.Errorf("database %q: %w", name, err)
		}
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	f, err := root.OpenFile(manifestName, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(append(text, '\n')); err != nil {
		return nil, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return m, os.Rename(aside, folder)
}

var backupName = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?$`)

// readManifest reads and checks a manifest as far as that can be done without the databases.
func readManifest(root *os.Root) (*Manifest, error) {
	info, err := root.Stat(manifestName)
	if err != nil || info.Size() > maxManifest {
		return nil, slipway.Errorf(slipway.Invalid, "%s is no backup: it has no %s; give a folder that slipway db backup made", root.Name(), manifestName).WithCause(err)
	}
	text, err := root.ReadFile(manifestName)
	if err != nil {
		return nil, err
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%s of the backup cannot be read; take another backup", manifestName).WithCause(err)
	}
	if m.Format != 1 {
		return nil, slipway.Errorf(slipway.Conflict, "the backup has format %d, which this version of Slipway does not know; restore with %s", m.Format, clip(m.Slipway))
	}
	for _, b := range m.Databases {
		for _, f := range b.Files {
			if !backupName.MatchString(f.Name) || strings.Contains(f.Name, "..") {
				return nil, slipway.Errorf(slipway.Invalid, "the backup names a file %q outside of its folder", clip(f.Name))
			}
		}
	}
	return &m, nil
}

// RestoreOptions says what a restore may do besides filling empty databases.
type RestoreOptions struct {
	Replace bool // give up what is in the databases
	AnyKeys bool // go on without the master keys that the backup was made with
}

// Restore fills the configured databases with a backup, after all of it was checked: that it is whole, that this program knows its schemas, that the master keys are
// there, that the databases are empty. Servers are stopped before; they bring the schemas up to date at their next start.
func Restore(ctx context.Context, c *Config, owners map[string][]store.Migrations, folder string, o RestoreOptions) (_ *Manifest, err error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the backup %s cannot be read", folder).WithCause(err)
	}
	defer root.Close()
	m, err := readManifest(root)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(m.Databases))
	if want := slices.Sorted(maps.Keys(owners)); !slices.Equal(names, want) {
		return nil, slipway.Errorf(slipway.Conflict, "the backup holds the databases %s, and the configuration needs %s; enable the same blueprints", strings.Join(names, ", "), strings.Join(want, ", "))
	}
	if err := c.holdsKeys(m.Keys); err != nil && !o.AnyKeys {
		return nil, err
	}
	for _, name := range names {
		if err := errors.Join(m.Databases[name].Known(name, owners[name]...), m.Databases[name].Check(root)); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if engine, _ := store.EngineOf(c.Databases[name]); engine == store.SQLite { // as a server would
			path := filepath.Clean(strings.TrimPrefix(c.Databases[name], "sqlite:"))
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return nil, err
			}
			unlock, err := lock(path + ".lock")
			if err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, unlock()) }()
		}
	}
	for _, name := range names {
		if err := store.Restore(ctx, name, c.Databases[name], m.Databases[name], root, o.Replace, owners[name]...); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// holdsKeys says what is missing to open what was sealed with these keys.
func (c *Config) holdsKeys(ids []string) error {
	keys, err := c.keyring(false)
	if errors.Is(err, fs.ErrNotExist) {
		return slipway.Errorf(slipway.Conflict, "there is no key file at %s, and secrets of the backup are sealed with its keys (%s): put your copy of the file there first, or go on without them with --any-keys",
			c.Secrets.KeyFile, strings.Join(ids, ", ")).WithCause(err)
	}
	if err != nil {
		return err
	}
	have := keys.KeyIDs()
	for _, id := range ids {
		if !slices.Contains(have, id) {
			return slipway.Errorf(slipway.Conflict, "the key file lacks the key %s of the backup; put your copy of the file that was in use there first, or go on without it with --any-keys", id)
		}
	}
	return nil
}
