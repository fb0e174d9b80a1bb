//go:build !linux

package local

import "syscall"

// confine sets what the command inherits. Elsewhere than on Linux a supervisor cannot adopt orphans: processes that leave
// the command's process group are not found and outlive the build.
func confine(o order) error {
	limits := map[int]uint64{syscall.RLIMIT_CORE: 0}
	if o.MaxFile > 0 {
		limits[syscall.RLIMIT_FSIZE] = uint64(o.MaxFile)
	}
	for resource, limit := range limits {
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			return err
		}
	}
	return nil
}

func bind(*syscall.SysProcAttr) {}

// signal sends a signal to the command's process group.
func (p *pack) signal(sig syscall.Signal) { syscall.Kill(-p.command, sig) }

// sweep does nothing: the command's process group is known to its supervisor only.
func sweep(int) {}
