//go:build unix

package fetch

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/slipway-platform/slipway"
)

func TestPipeIsRefusedAndNotWaitedFor(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	path := filepath.Join(root, "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := withConfig(t, nil, Config{FileRoots: []string{root}}).ReadFile(path, 0)
	wantCode(t, "a pipe", err, slipway.Invalid)
}
