//go:build unix

package server

import (
	"path/filepath"
	"testing"

	"github.com/slipway-platform/slipway"
)

// A server that was killed may have been starting another process, which holds the lock until it becomes another program: the next server waits for it.
func TestTheLockOfAServerThatEndsIsWaitedFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "main.db.lock")
	unlock, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(path); slipway.CodeOf(err) != slipway.Conflict {
		t.Errorf("a second server got %v, want a conflict", err)
	}
	got := make(chan error)
	go func() {
		again, err := lock(path)
		if err == nil {
			err = again()
		}
		got <- err
	}()
	if err := unlock(); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Errorf("the next server: %v", err)
	}
}
