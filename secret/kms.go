package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
)

const (
	kmsTimeout = 30 * time.Second // for one key
	kmsOutput  = 64 << 10         // bytes
)

// Command is a KMS that is reached by commands, such as the client of a cloud's service or of age: each gets the bytes on
// its standard input and writes the answer, and nothing else, on its standard output. It runs without a shell, with the
// environment of this process.
type Command struct {
	WrapArgs, UnwrapArgs []string
}

// Wrap implements KMS.
func (c Command) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	return run(ctx, c.WrapArgs, key)
}

// Unwrap implements KMS.
func (c Command) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	return run(ctx, c.UnwrapArgs, wrapped)
}

func run(ctx context.Context, args []string, in []byte) ([]byte, error) {
	if len(args) == 0 {
		return nil, errors.New("no command is configured for it")
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) // the operator's choice, never a caller's
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &limited{&out, kmsOutput}, &limited{&said, 1 << 10}
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return nil, fmt.Errorf("%s: %v: %s", args[0], err, first) // not wrapped: a command that is missing is no key file that is
	}
	return out.Bytes(), nil
}

// limited keeps the beginning of what is written to it, and lets the writer go on.
type limited struct {
	buffer *bytes.Buffer
	left   int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.buffer.Write(p[:n])
	l.left -= n
	return len(p), nil
}

func (k *Keyring) wrap(master []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), kmsTimeout)
	defer cancel()
	wrapped, err := k.kms.Wrap(ctx, master)
	if err == nil && (len(wrapped) == 0 || bytes.Contains(wrapped, master)) {
		err = errors.New("its answer is no wrapped key")
	}
	if err != nil {
		return nil, slipway.Errorf(slipway.Unavailable, "the key management service does not wrap a new key").WithCause(err)
	}
	return wrapped, nil
}

func (k *Keyring) unwrap(wrapped []byte) ([]byte, error) {
	k.mu.RLock()
	master := k.unwrapped[string(wrapped)]
	k.mu.RUnlock()
	if master != nil {
		return master, nil
	}
	if k.kms == nil {
		return nil, slipway.Errorf(slipway.Invalid, "a key of %s is wrapped by a key management service: configure secrets.kms", k.place())
	}
	ctx, cancel := context.WithTimeout(context.Background(), kmsTimeout)
	defer cancel()
	master, err := k.kms.Unwrap(ctx, wrapped)
	if err == nil && len(master) != keySize {
		err = fmt.Errorf("it gave %d bytes, not %d", len(master), keySize)
	}
	if err != nil {
		return nil, slipway.Errorf(slipway.Unavailable, "the key management service does not unwrap a key of %s, and without it nothing that is sealed can be read", k.place()).WithCause(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unwrapped == nil {
		k.unwrapped = map[string][]byte{}
	}
	k.unwrapped[string(wrapped)] = master
	return master, nil
}
