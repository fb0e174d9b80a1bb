package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/slipway-platform/slipway"
)

// account is an unprivileged user that builds run as.
type account struct {
	name     string
	uid, gid uint32
}

// openAccount finds the user that builds shall run as, and refuses one that would protect nothing: the server must be
// able to become that user, who must be able neither to read nor to open up the data directory.
func openAccount(name, dataDir string) (*account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "runAs: there is no user %q on this machine; create it, for example with useradd --system --shell /usr/sbin/nologin %s", name, name).WithCause(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "runAs: user %q has no numeric ids", name).WithCause(err)
	}
	if uid == 0 {
		return nil, slipway.Errorf(slipway.Invalid, "runAs: %q is a privileged user; name one that may do nothing else", name)
	}
	if os.Geteuid() != 0 {
		return nil, slipway.Errorf(slipway.Invalid, "runAs: only a server that runs as root can become %q; start it as root, or write `isolation: none` instead and trust the builds as you trust the server", name)
	}
	a := &account{name: name, uid: uint32(uid), gid: uint32(gid)}
	info, err := os.Stat(dataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if owner, _ := ownerOf(info); owner == a.uid || info.Mode().Perm()&0o077 != 0 {
		return nil, slipway.Errorf(slipway.Invalid, "runAs: %q could read the data directory; make it belong to the server's user with mode 0700 (chmod 0700 %s)", name, dataDir)
	}
	return a, nil
}

// reach says why the user cannot get to a folder that is going to be its own, if so.
func (a *account) reach(dir string) error {
	for up := filepath.Dir(dir); ; up = filepath.Dir(up) {
		info, err := os.Stat(up)
		if err != nil {
			return err
		}
		bit := fs.FileMode(0o001)
		switch uid, gid := ownerOf(info); {
		case uid == a.uid:
			bit = 0o100
		case gid == a.gid:
			bit = 0o010
		}
		if info.Mode()&bit == 0 {
			return slipway.Errorf(slipway.Invalid, "user %q cannot enter %s, where builds run; set workDir to a folder that it can reach", a.name, up)
		}
		if up == filepath.Dir(up) {
			return nil
		}
	}
}

// own gives a folder and all in it to the user, the folder itself last: until then nobody else can get in and put a
// link in our way. A file with a second name is refused, as that name may lie outside.
func (a *account) own(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			if err := a.own(path); err != nil {
				return err
			}
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			return fmt.Errorf("%s is a hard link", path)
		}
		if err := os.Lchown(path, int(a.uid), int(a.gid)); err != nil {
			return err
		}
	}
	return os.Lchown(dir, int(a.uid), int(a.gid))
}

func ownerOf(info fs.FileInfo) (uid, gid uint32) {
	st := info.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

// removeAll removes the folder of a run whose processes have ended. Build tools leave folders behind that nobody may
// write to; the owner takes them away all the same.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
