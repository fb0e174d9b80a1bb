//go:build unix

package server

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/slipway-platform/slipway"
)

// lockWait is how long the end of another process is waited for. One that it was just starting holds the file too, until it becomes another program: after a crash in
// that moment the file is free a little later, on a busy machine seconds later.
const lockWait = 5 * time.Second

// lock takes the file for this process until the function it gives is called, or the process ends in whatever way.
func lock(path string) (func() error, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Since(begun) > lockWait {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, slipway.Errorf(slipway.Conflict, "another server runs on this database; stop it, use another --data-dir, or PostgreSQL for several servers")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() error {
		// A process that is just being started has the file too until it becomes another program; unlocking takes it from both.
		return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
	}, nil
}
