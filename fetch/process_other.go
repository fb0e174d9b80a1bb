//go:build !unix

package fetch

import "os/exec"

// runGroup runs a command; its helpers end when their pipes to it close.
func runGroup(cmd *exec.Cmd) error { return cmd.Run() }
