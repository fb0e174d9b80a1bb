//go:build unix

package fetch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	homePrefix = "slipway-git-"
	homeYoung  = 10 * time.Minute // a folder as young as that may be about to be locked
	homesEvery = time.Hour
)

// homes are the folders for temporary files in which gits have their configuration, one for each. Each is locked by the process that made it, as its file is open there:
// a folder that nobody holds was left by a process that was killed. Its methods may be called at the same time.
type homes struct {
	mu    sync.Mutex
	swept time.Time
}

// open makes a folder with a configuration, removed by the function it gives. Folders that killed processes have left are removed at the first call and then
// once an hour.
func (h *homes) open(config []byte) (dir string, remove func(), err error) {
	h.mu.Lock()
	sweep := time.Since(h.swept) > homesEvery
	if sweep {
		h.swept = time.Now()
	}
	h.mu.Unlock()
	if sweep {
		sweepHomes(os.TempDir(), time.Now().Add(-homeYoung))
	}
	if dir, err = os.MkdirTemp("", homePrefix); err != nil {
		return "", nil, err
	}
	f, err := os.OpenFile(homeConfig(dir), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	remove = func() {
		os.RemoveAll(dir)
		f.Close() // and with it the lock
	}
	// A file system without locks is none to fail for: what is left there goes by its age.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		remove()
		return "", nil, err
	}
	if _, err := f.Write(config); err != nil {
		remove()
		return "", nil, err
	}
	return dir, remove, nil
}

func homeConfig(dir string) string { return filepath.Join(dir, "config") }

// sweepHomes removes the folders of this user that were made before a time and that no process holds. What cannot be removed now is tried again by the next sweep.
func sweepHomes(parent string, before time.Time) {
	entries, _ := filepath.Glob(filepath.Join(parent, homePrefix+"*"))
	for _, dir := range entries {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !info.ModTime().Before(before) {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue
		}
		f, err := os.OpenFile(homeConfig(dir), os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) { // killed before it was made
			os.RemoveAll(dir)
			continue
		}
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(dir)
		}
		f.Close()
	}
}
