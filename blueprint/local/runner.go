package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The reasons for which a run ends before its command does. A command that ends by itself has the
// reason "".
const (
	reasonTimeout     = "timeout"
	reasonOutput      = "output limit"
	reasonDisk        = "disk limit"
	reasonCanceled    = "canceled"
	reasonInterrupted = "interrupted" // the server or the supervisor ended; nobody asked for it
)

// errInterrupted is the cause with which a context is canceled when the run should end with
// reasonInterrupted: the server stops, or the run is no longer ours.
var errInterrupted = errors.New(reasonInterrupted)

// The folders of a run. The command starts in sourceDir; the others are its HOME and TMPDIR.
const (
	sourceDir = "source"
	homeDir   = "home"
	tmpDir    = "tmp"
)

const (
	chunkBytes = 32 << 10               // a chunk of the log is at most this long,
	chunkEvery = 200 * time.Millisecond // and output waits at most this long to become one
	diskEvery  = time.Second            // the folder is measured at most this often
	stopGrace  = 5 * time.Second        // between SIGTERM and SIGKILL
)

// spec is one command to run.
type spec struct {
	// Command is what runs, in sourceDir. A name without a slash is looked up in PATH, a relative
	// path in sourceDir.
	Command []string
	// Dir is an absolute folder of this run's own. It holds the checkout in sourceDir; homeDir
	// and tmpDir are made beside it. With RunAs everything in it is given to that user.
	Dir string
	// Env is added to a minimal environment and wins over it. Nothing of the server's own gets in.
	Env map[string]string
	// RunAs is the user that the command runs as; nil is the server's own user.
	RunAs *account
	// Timeout, MaxOutput and MaxDisk (both bytes) end the run when they are passed; 0 is no limit.
	// Output is cut at its limit exactly. The folder is measured about once a second, so a quick
	// writer overshoots, but no single file grows past MaxDisk.
	Timeout   time.Duration
	MaxOutput int64
	MaxDisk   int64
	// Grace is the time between SIGTERM and SIGKILL; 0 is stopGrace.
	Grace time.Duration
	// Log takes the output, standard error included, in order and as it comes: at most every
	// chunkEvery unless chunkBytes are full before. It may keep the build waiting, and an error
	// ends the run. It keeps nothing of the chunk after it returns.
	Log func(chunk []byte) error
}

// result is how a run ended.
type result struct {
	ExitCode   int    // of the command; 128 + signal when one killed it, 127 or 126 when it could not be started, -1 unknown
	Reason     string // why it was ended, "" when the command ended by itself
	StartedAt  time.Time
	FinishedAt time.Time
}

// run runs one command under a supervisor and returns when none of its processes is left. An error
// means that the command could not be run or its log not be kept; a command that fails is a result.
// Calls may overlap; each needs its own Dir.
func run(ctx context.Context, s spec) (result, error) {
	r := result{ExitCode: -1, StartedAt: time.Now().UTC()}
	if ctx.Err() != nil {
		r.Reason, r.FinishedAt = reasonOf(ctx), r.StartedAt
		return r, nil
	}
	if err := s.furnish(); err != nil {
		return r, err
	}
	sup, err := startSupervisor(s.order())
	if err != nil {
		return r, fmt.Errorf("start the supervisor: %w", err)
	}

	var once sync.Once
	end := func(reason string) {
		once.Do(func() {
			r.Reason = reason
			sup.stop()
		})
	}
	var logErr error
	var logging, watching sync.WaitGroup
	finished := make(chan struct{})
	watching.Go(func() { s.watch(ctx, finished, end) })
	logging.Go(func() {
		switch err := pump(sup.output, s.MaxOutput, s.Log); {
		case errors.Is(err, errOutputLimit):
			end(reasonOutput)
		case err != nil:
			logErr = fmt.Errorf("keep the log: %w", err)
			end(reasonInterrupted)
		}
		// Read on, so that nothing waits for us to take its output while it is being ended.
		sup.output.SetReadDeadline(time.Time{})
		io.Copy(io.Discard, sup.output)
	})

	rep, err := sup.wait()
	if err != nil || rep.Left {
		sup.output.Close() // somebody may live on and hold it open for ever
	}
	logging.Wait()
	sup.output.Close()
	sup.lifeline.Close()
	close(finished)
	watching.Wait()
	r.FinishedAt = time.Now().UTC()

	switch {
	case errors.Is(err, errSupervisorKilled):
		end(reasonInterrupted)
		return r, logErr
	case err != nil:
		end("")
		return r, err
	}
	r.ExitCode = rep.ExitCode
	if rep.Stopped {
		end(reasonInterrupted) // by a signal to the supervisor, unless we had a reason
	}
	if s.MaxDisk > 0 && diskUsage(s.Dir, s.MaxDisk) > s.MaxDisk {
		end(reasonDisk)
	}
	end("")
	if !rep.Stopped && r.Reason != reasonOutput && r.Reason != reasonDisk {
		r.Reason = "" // the command was quicker
	}
	return r, logErr
}

// furnish checks the folder of the run and makes what is missing in it.
func (s spec) furnish() error {
	if len(s.Command) == 0 || !filepath.IsAbs(s.Dir) {
		return fmt.Errorf("a run needs a command and an absolute folder, got %q in %q", s.Command, s.Dir)
	}
	for name, value := range s.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return fmt.Errorf("%q cannot be the name of an environment variable with this value", name)
		}
	}
	if _, err := os.Stat(filepath.Join(s.Dir, sourceDir)); err != nil {
		return fmt.Errorf("the checkout: %w", err)
	}
	if err := os.Chmod(s.Dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{homeDir, tmpDir} {
		if err := os.Mkdir(filepath.Join(s.Dir, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if s.RunAs == nil {
		return nil
	}
	if err := s.RunAs.reach(s.Dir); err != nil {
		return err
	}
	return s.RunAs.own(s.Dir)
}

// order is what the supervisor is told.
func (s spec) order() order {
	env := map[string]string{
		"PATH":   "/usr/local/bin:/usr/bin:/bin",
		"HOME":   filepath.Join(s.Dir, homeDir),
		"TMPDIR": filepath.Join(s.Dir, tmpDir),
		"LANG":   "C.UTF-8",
		"CI":     "true",
	}
	if s.RunAs != nil {
		env["USER"], env["LOGNAME"] = s.RunAs.name, s.RunAs.name
	}
	maps.Copy(env, s.Env)
	o := order{
		Command: s.Command,
		Path:    env["PATH"],
		Dir:     filepath.Join(s.Dir, sourceDir),
		MaxFile: s.MaxDisk,
		Grace:   s.Grace,
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		o.Env = append(o.Env, name+"="+env[name])
	}
	if s.RunAs != nil {
		o.RunAs = &syscall.Credential{Uid: s.RunAs.uid, Gid: s.RunAs.gid}
	}
	if o.Grace <= 0 {
		o.Grace = stopGrace
	}
	return o
}

// watch ends the run when somebody no longer wants it or a limit is passed. It returns when
// finished is closed.
func (s spec) watch(ctx context.Context, finished <-chan struct{}, end func(reason string)) {
	var timeout, measure <-chan time.Time
	if s.Timeout > 0 {
		timeout = time.After(s.Timeout)
	}
	if s.MaxDisk > 0 {
		measure = time.After(diskEvery)
	}
	for {
		select {
		case <-finished:
			return
		case <-ctx.Done():
			end(reasonOf(ctx))
			return
		case <-timeout:
			end(reasonTimeout)
			return
		case <-measure:
			began := time.Now()
			if diskUsage(s.Dir, s.MaxDisk) > s.MaxDisk {
				end(reasonDisk)
				return
			}
			// A tree that takes long to walk is walked less often.
			measure = time.After(max(diskEvery, 10*time.Since(began)))
		}
	}
}

func reasonOf(ctx context.Context) string {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errInterrupted):
		return reasonInterrupted
	case errors.Is(cause, context.DeadlineExceeded):
		return reasonTimeout
	}
	return reasonCanceled
}

var errOutputLimit = errors.New(reasonOutput)

// pump hands the output to log in chunks until it ends, and returns errOutputLimit when there is
// more of it than limit bytes; what is below the limit has been handed over then.
func pump(output *os.File, limit int64, log func([]byte) error) error {
	buf := make([]byte, 0, chunkBytes)
	left := limit
	for {
		n, err := output.Read(buf[len(buf):cap(buf)])
		if n > 0 && len(buf) == 0 {
			output.SetReadDeadline(time.Now().Add(chunkEvery))
		}
		over := limit > 0 && int64(n) > left
		if over {
			n = int(left)
		}
		left -= int64(n)
		buf = buf[:len(buf)+n]
		if len(buf) > 0 && (len(buf) == cap(buf) || over || err != nil) {
			if err := log(buf); err != nil {
				return err
			}
			buf = buf[:0]
			output.SetReadDeadline(time.Time{})
		}
		switch {
		case over:
			return errOutputLimit
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return nil // its end, or closed under us; a pipe has no other failures
		}
	}
}

// diskUsage adds up the space that a folder takes and stops once it is over the limit, so that a
// hostile tree costs no more than that: an entry counts as 1 KiB at least. What vanishes meanwhile is
// left out.
func diskUsage(dir string, limit int64) int64 {
	var sum int64
	filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		size := int64(1 << 10)
		if info, err := entry.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				size = max(size, int64(st.Blocks)*512)
			}
		}
		if sum += size; sum > limit {
			return fs.SkipAll
		}
		return nil
	})
	return sum
}
