//go:build unix && !linux

package fetch

import "syscall"

// endWithUs would make the kernel kill a child when Slipway itself is killed, which only Linux can do.
func endWithUs(*syscall.SysProcAttr) bool { return false }
