package command_test

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The quickstart says what to try next: that must work as it stands there, and a second run must find what the first one made. A port that
// is taken does not matter.
func TestWhatTheQuickstartSuggestsWorks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for run := range 2 {
		cmd := exec.Command("slipway", "quickstart", "--listen", taken.Addr().String())
		cmd.Dir = dir
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stuck := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		var seen strings.Builder
		lines, script := bufio.NewScanner(out), "set -e\n"
		for lines.Scan() {
			seen.WriteString(lines.Text() + "\n")
			if command, ok := strings.CutPrefix(lines.Text(), "  "); ok && !strings.HasPrefix(command, " ") {
				script += strings.Replace(command, "retrigger orders --wait", "retrigger orders --wait || test $? = 1", 1) + "\n"
			}
			if strings.HasPrefix(lines.Text(), "Ctrl-C") {
				break
			}
		}
		if strings.Count(script, "slipway ") < 3 {
			t.Fatalf("run %d: it suggests only\n%s\nafter\n%s%s", run, script, seen.String(), errs.String())
		}
		pasted := exec.Command("sh", "-c", script)
		pasted.Dir = dir
		pasted.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir)
		if answer, err := pasted.CombinedOutput(); err != nil {
			t.Errorf("run %d: what it suggests ends with %v:\n%s%s", run, err, script, answer)
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		rest := ""
		for lines.Scan() {
			rest += lines.Text() + "\n"
		}
		if err := cmd.Wait(); err != nil || !strings.Contains(rest, "Stopped.") {
			t.Errorf("run %d: it ended with %v and %q %s", run, err, rest, errs.String())
		}
		_, again, _ := strings.Cut(rest, "stays; ")
		again, _, ok := strings.Cut(again, " serves it again.")
		if !ok {
			t.Fatalf("run %d: it does not say how it is served again: %q", run, rest)
		}
		serveOnce(t, dir, again)
	}
}

// serveOnce runs a command that serves, and interrupts it once it does.
func serveOnce(t *testing.T, dir, command string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "exec "+command)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	lines, serves := bufio.NewScanner(out), false
	for !serves && lines.Scan() {
		serves = strings.Contains(lines.Text(), " serves http://")
	}
	if !serves {
		t.Errorf("%s serves nothing: %s", command, errs.String())
	}
	_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s ended with %v: %s", command, err, errs.String())
	}
}
