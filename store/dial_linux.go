package store

import (
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// impatient ends a connection whose other end has not acknowledged what was sent for 20 seconds; keep-alives are not asked for while something is under way.
func impatient(network, _ string, c syscall.RawConn) (err error) {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int((20 * time.Second).Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}
