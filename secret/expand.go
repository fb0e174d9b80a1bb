package secret

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/slipway-platform/slipway"
)

const expandFileSize = 1 << 20 // bytes of a file that ${file:…} reads

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Expand replaces ${env:NAME} by the environment variable NAME and ${file:/path} by the content of that
// file, without the line end at its end; env is os.LookupEnv outside of tests. "$${" stands for a plain
// "${"; any other "$" is left alone. What is put in is not expanded again. A variable that is not set, a
// file that cannot be read, or any other ${…} is Invalid, and all faults of s are named together.
//
// Only text of the operator may be expanded, never text that came in by the API: whoever writes the text
// reads the server's environment and files.
func Expand(s string, env func(string) (string, bool)) (string, error) {
	var out strings.Builder
	var faults []error
	for {
		before, after, found := strings.Cut(s, "${")
		if !found {
			out.WriteString(s)
			break
		}
		if strings.HasSuffix(before, "$") { // $${
			out.WriteString(before[:len(before)-1] + "${")
			s = after
			continue
		}
		out.WriteString(before)
		name, rest, closed := strings.Cut(after, "}")
		if !closed {
			faults = append(faults, errors.New(`"${" is not closed: add "}", or write "$${" for a plain "${"`))
			break
		}
		value, err := lookUp(name, env)
		if err != nil {
			faults = append(faults, err)
		}
		out.WriteString(value)
		s = rest
	}
	if err := errors.Join(faults...); err != nil {
		return "", slipway.Errorf(slipway.Invalid, "%s", strings.ReplaceAll(err.Error(), "\n", "; ")).WithCause(err)
	}
	return out.String(), nil
}

func lookUp(name string, env func(string) (string, bool)) (string, error) {
	source, arg, _ := strings.Cut(name, ":")
	switch source {
	case "env":
		if !variable.MatchString(arg) {
			return "", fmt.Errorf("${%s} names no environment variable: write ${env:NAME}", name)
		}
		value, ok := env(arg)
		if !ok {
			return "", fmt.Errorf("the environment variable %s is not set: set it where Slipway is started", arg)
		}
		return value, nil
	case "file":
		if !filepath.IsAbs(arg) {
			return "", fmt.Errorf("${%s} needs an absolute path", name)
		}
		value, err := readFile(arg)
		if err != nil {
			return "", fmt.Errorf("the file %s of ${%s} cannot be read: it must be a regular file of at most 1 MiB that Slipway may read (%w)", arg, name, err)
		}
		return value, nil
	}
	return "", fmt.Errorf("${%s} is not known: there are ${env:NAME} and ${file:/path}; write $${ for a plain ${", name)
}

func readFile(path string) (string, error) {
	info, err := os.Stat(path) // before opening: opening a pipe would wait
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > expandFileSize {
		return "", errors.New("not a regular file of at most 1 MiB")
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, expandFileSize))
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
}
