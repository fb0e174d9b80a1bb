//go:build unix

package fetch

import (
	"os/exec"
	"runtime"
	"syscall"
)

// runGroup runs a command in a process group of its own; when its context ends, the whole group is
// killed: git leaves the network to helpers.
func runGroup(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if endWithUs(cmd.SysProcAttr) {
		// The kernel ends the child when the thread that started it ends, so that thread must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	return cmd.Run()
}
