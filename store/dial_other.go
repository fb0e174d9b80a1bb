//go:build !linux

package store

import "syscall"

// impatient does nothing where the system has no such option: what was sent and never acknowledged is noticed after minutes there.
func impatient(string, string, syscall.RawConn) error { return nil }
