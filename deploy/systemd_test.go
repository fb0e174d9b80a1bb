//go:build linux

package deploy

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const unit = "systemd/slipway.service"

// tool finds a program of the machine, or skips the test, which fails it in CI.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no %s (Debian: apt-get install %s)", name, pkg)
	}
	return path
}

func TestTheUnitIsInOrderAndShutIn(t *testing.T) {
	t.Parallel()
	analyze := tool(t, "systemd-analyze", "systemd")
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(text string) (string, error) {
		file := filepath.Join(t.TempDir(), "slipway.service")
		// The program is where it was built.
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/usr/local/bin/slipway", binary(t))), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput()
		if err != nil || strings.Contains(string(out), file) {
			return string(out), err
		}
		// 0 is shut in, 10 is open; --threshold is in tenths.
		out, err = exec.Command(analyze, "security", "--offline=yes", "--no-pager", "--threshold=15", file).CombinedOutput()
		return string(out), err
	}
	if out, err := verify(string(text)); err != nil || strings.Contains(out, "Unknown") {
		t.Errorf("%v\n%s", err, out)
	}
	// What is commented out is right as well.
	if out, err := verify(strings.NewReplacer("#LoadCredential", "LoadCredential", "#Environment", "Environment").Replace(string(text))); err != nil || strings.Contains(out, "Unknown") {
		t.Errorf("with its options: %v\n%s", err, out)
	}
	if out, err := verify(strings.Replace(string(text), "NoNewPrivileges=", "NoNewPrivilege=", 1)); !strings.Contains(out, "Unknown") {
		t.Errorf("a wrong key passes: %v\n%s", err, out)
	}
	if out, err := verify(string(text)[:strings.Index(string(text), "NoNewPrivileges=")] + "[Install]\nWantedBy=multi-user.target\n"); err == nil {
		t.Errorf("a unit that is not shut in passes:\n%s", out)
	}
}

// Type=notify: who starts Slipway is told when it is ready and when it ends.
func TestTheServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_ = l.SetReadDeadline(time.Now().Add(2 * time.Minute))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), "serve")
	cmd.Env = []string{"NOTIFY_SOCKET=" + socket, "SLIPWAY_DATA_DIR=" + filepath.Join(dir, "data"), "SLIPWAY_SERVER_LISTEN=127.0.0.1:0"}
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := func() string {
		buf := make([]byte, 100)
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	if got := told(); got != "READY=1" {
		t.Errorf("told %q, want READY=1", got)
	}
	cancel()
	if got := told(); got != "STOPPING=1" {
		t.Errorf("told %q, want STOPPING=1", got)
	}
	_ = cmd.Wait()
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
