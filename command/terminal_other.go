//go:build !linux && !darwin

package command

import (
	"errors"
	"io"
	"os"
)

// terminalWidth is not known here.
func terminalWidth(io.Writer) int { return 0 }

// hideInput cannot hide anything here: pass tokens by a pipe.
func hideInput(*os.File) (show func(), err error) {
	return nil, errors.New("input cannot be hidden on this system")
}
