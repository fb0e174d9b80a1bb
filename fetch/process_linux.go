package fetch

import "syscall"

// endWithUs makes the kernel kill a child when Slipway itself is killed.
func endWithUs(attr *syscall.SysProcAttr) bool {
	attr.Pdeathsig = syscall.SIGKILL
	return true
}
