package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipway-platform/slipway"
)

func TestMain(m *testing.M) {
	Supervise()
	if dir := os.Getenv("SLIPWAY_TEST_SERVER"); dir != "" {
		doomedServer(dir)
	}
	if config := os.Getenv("SLIPWAY_TEST_REPLICA"); config != "" {
		killed(config)
	}
	os.Exit(m.Run())
}

// script is a run of a shell script in a folder of its own. Every process of it carries the mark in
// its environment, however far it gets away.
type script struct {
	spec
	mark string
	log  bytes.Buffer
}

func newScript(t *testing.T, text string) *script {
	t.Helper()
	s := &script{mark: uuid.NewString()}
	s.Dir = buildDir(t, text)
	s.Command = []string{"./build.sh"}
	s.Env = map[string]string{"MARK": s.mark}
	s.Grace = 100 * time.Millisecond
	s.Log = func(chunk []byte) error { s.log.Write(chunk); return nil }
	t.Cleanup(func() { s.gone(t) })
	return s
}

func buildDir(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "build")
	if err := os.MkdirAll(filepath.Join(dir, sourceDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, sourceDir, "build.sh"), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (s *script) run(t *testing.T) result {
	t.Helper()
	r, err := run(t.Context(), s.spec)
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return r
}

// gone waits until no process of the script is left.
func (s *script) gone(t *testing.T) {
	t.Helper()
	eventually(t, "all processes have ended", func() bool { return len(living("MARK="+s.mark)) == 0 })
}

// living lists the processes with a mark, NAME=value, in their environment.
func living(mark string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		if env, err := os.ReadFile(f); err == nil && bytes.Contains(env, []byte(mark)) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// eventually asks again and again until the answer is yes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s: never saw that %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"success":           {"exit 0", 0},
		"failure":           {"exit 3", 3},
		"killed by itself":  {"kill -9 $$", 128 + 9},
		"command not found": {"exec nosuchcommand", 127},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newScript(t, c.text).run(t)
			if r.ExitCode != c.want || r.Reason != "" {
				t.Errorf("got exit code %d, reason %q; want %d and none", r.ExitCode, r.Reason, c.want)
			}
			if r.FinishedAt.Before(r.StartedAt) {
				t.Errorf("finished at %v, before its start at %v", r.FinishedAt, r.StartedAt)
			}
		})
	}
}

func TestACommandThatCannotBeStartedFailsLikeInAShell(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]int{"./missing.sh": 127, "nosuchcommand": 127, "./plain.txt": 126} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, "")
			if err := os.WriteFile(filepath.Join(s.Dir, sourceDir, "plain.txt"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			s.Command = []string{command}
			if r := s.run(t); r.ExitCode != want || !strings.Contains(s.log.String(), "cannot run "+command) {
				t.Errorf("got exit code %d and log %q; want %d and a word on it", r.ExitCode, s.log.String(), want)
			}
		})
	}
}

func TestOutputAndErrorsComeInOrder(t *testing.T) {
	t.Parallel()
	s := newScript(t, "for i in 1 2 3; do echo out $i; echo err $i >&2; done")
	s.run(t)
	if want := "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n"; s.log.String() != want {
		t.Errorf("got log %q, want %q", s.log.String(), want)
	}
}

func TestOutputIsSeenWhileTheCommandRuns(t *testing.T) {
	t.Parallel()
	s := newScript(t, "echo waiting; while [ ! -e go ]; do sleep 0.01; done; echo went on")
	s.Log = func(chunk []byte) error {
		s.log.Write(chunk)
		if strings.Contains(s.log.String(), "waiting") {
			return os.WriteFile(filepath.Join(s.Dir, sourceDir, "go"), nil, 0o600)
		}
		return nil
	}
	if r := s.run(t); r.ExitCode != 0 || s.log.String() != "waiting\nwent on\n" {
		t.Errorf("got %+v with log %q", r, s.log.String())
	}
}

func TestNothingOfTheServersEnvironmentGetsIn(t *testing.T) {
	t.Setenv("SLIPWAY_CANARY", "tweet")
	s := newScript(t, "env; echo cwd=$(pwd); umask")
	s.Env["GREETING"] = "hello"
	s.run(t)
	got := s.log.String()
	if strings.Contains(got, "tweet") {
		t.Errorf("the command saw the server's environment:\n%s", got)
	}
	for _, want := range []string{
		"GREETING=hello\n", "CI=true\n", "HOME=" + s.Dir + "/home\n", "TMPDIR=" + s.Dir + "/tmp\n",
		"PATH=/usr/local/bin:/usr/bin:/bin\n", "cwd=" + s.Dir + "/source\n", "0077\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestNothingIsOpenButTheOutput(t *testing.T) {
	onLinux(t)
	t.Parallel()
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// A duplicate that is inherited, as one that the server got from its own parent.
	leak, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leak)
	s := newScript(t, "for fd in /proc/$$/fd/*; do printf '%s ' ${fd##*/}; readlink $fd || echo; done")
	s.run(t)
	for line := range strings.Lines(s.log.String()) {
		fd, target, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case fd == "0" && target == "/dev/null", (fd == "1" || fd == "2") && strings.HasPrefix(target, "pipe:"):
		case strings.HasSuffix(target, "/build.sh"), target == "": // the shell's own: its script, and the folder that it was listing
		default:
			t.Errorf("the command has %s open on %s", target, fd)
		}
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	s := newScript(t, "echo started; sleep 1000")
	s.Timeout = 200 * time.Millisecond
	if r := s.run(t); r.Reason != reasonTimeout {
		t.Errorf("got %+v, want a timeout", r)
	}
}

func TestCancelAndInterrupt(t *testing.T) {
	t.Parallel()
	for want, cause := range map[string]error{reasonCanceled: nil, reasonInterrupted: errInterrupted} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, "echo started; sleep 1000")
			ctx, cancel := context.WithCancelCause(t.Context())
			s.Log = func([]byte) error { cancel(cause); return nil }
			r, err := run(ctx, s.spec)
			if err != nil || r.Reason != want {
				t.Errorf("got %+v, %v; want reason %q", r, err, want)
			}
			if r, err := run(ctx, s.spec); err != nil || r.Reason != want {
				t.Errorf("started after the end: got %+v, %v; want reason %q", r, err, want)
			}
		})
	}
}

func TestEndlessOutputIsCutAtTheLimit(t *testing.T) {
	t.Parallel()
	s := newScript(t, "trap '' PIPE; while :; do echo 0123456789abcdef; done")
	s.MaxOutput = 100_001
	if r := s.run(t); r.Reason != reasonOutput || s.log.Len() != 100_001 {
		t.Errorf("got reason %q after %d bytes; want the output limit after 100001", r.Reason, s.log.Len())
	}
}

func TestOutputOfExactlyTheLimitIsFine(t *testing.T) {
	t.Parallel()
	s := newScript(t, "printf 12345678")
	s.MaxOutput = 8
	if r := s.run(t); r.Reason != "" || s.log.String() != "12345678" {
		t.Errorf("got reason %q and %q", r.Reason, s.log.String())
	}
}

func TestChunksAreBounded(t *testing.T) {
	t.Parallel()
	s := newScript(t, "head -c 1000000 /dev/zero")
	var sum, longest int
	s.Log = func(chunk []byte) error { sum += len(chunk); longest = max(longest, len(chunk)); return nil }
	s.run(t)
	if sum != 1_000_000 || longest > chunkBytes {
		t.Errorf("got %d bytes in chunks of up to %d; want 1000000 in chunks of up to %d", sum, longest, chunkBytes)
	}
}

func TestALogThatCannotBeKeptEndsTheRun(t *testing.T) {
	t.Parallel()
	s := newScript(t, "while :; do echo more; done")
	broken := errors.New("no more room")
	s.Log = func([]byte) error { return broken }
	if r, err := run(t.Context(), s.spec); !errors.Is(err, broken) || r.Reason != reasonInterrupted {
		t.Errorf("got %+v, %v; want it interrupted with the cause", r, err)
	}
}

func TestDiskLimit(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"many files":              "i=0; while :; do i=$((i+1)); head -c 65536 /dev/zero >f$i; done",
		"one file":                "head -c 100000000 /dev/zero >f; sleep 1000",
		"over at the end only":    "for i in 1 2 3 4 5; do head -c 1048576 /dev/zero >f$i; done",
		"in its home":             "cd; while :; do head -c 65536 /dev/zero >$(mktemp ./XXXXXXXX); done",
		"nothing but empty files": "i=0; while :; do i=$((i+1)); >f$i; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, text)
			s.MaxDisk = 4 << 20
			s.Timeout = time.Minute
			if r := s.run(t); r.Reason != reasonDisk {
				t.Errorf("got %+v, want the disk limit", r)
			}
		})
	}
}

func TestNoProcessOutlivesItsBuild(t *testing.T) {
	onLinux(t)
	t.Parallel()
	for name, text := range map[string]string{
		"background":                     "sleep 1000 & exit 0",
		"ignores SIGTERM":                "trap '' TERM; (trap '' TERM; while :; do sleep 1000; done) & exit 0",
		"new session":                    "setsid sleep 1000 & exit 0",
		"daemon, twice forked":           "setsid sh -c 'setsid sleep 1000 </dev/null >/dev/null 2>&1 & exit 0'; exit 0",
		"stopped":                        "sleep 1000 & kill -STOP $!; exit 0",
		"output closed":                  "exec >/dev/null 2>&1; (setsid sleep 1000 &) ; exit 0",
		"tree":                           "f() { [ $1 = 0 ] && exec sleep 1000; f $(($1-1)) & f $(($1-1)) & wait; }; setsid sh -c 'sleep 1000 & sleep 1000 & wait' & (f 4 &) ; exit 0",
		"moves on all the time":          "echo 'setsid sh ./hop.sh & exit 0' >hop.sh; sh ./hop.sh; exit 0",
		"moves on with SIGTERM ignored":  "trap '' TERM; echo 'setsid sh ./hop.sh & exit 0' >hop.sh; sh ./hop.sh; exit 0",
		"starts others when it is ended": "trap 'setsid sleep 1000 & setsid sleep 1001 & exit 0' TERM; kill -TERM $$; exit 0",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, text)
			r := s.run(t)
			if r.ExitCode != 0 || r.Reason != "" {
				t.Errorf("got %+v; want success", r)
			}
			if pids := living("MARK=" + s.mark); len(pids) > 0 {
				t.Errorf("the run has returned, but processes %v live", pids)
			}
		})
	}
}

func TestTimeoutEndsEverything(t *testing.T) {
	onLinux(t)
	t.Parallel()
	for name, text := range map[string]string{
		"ignores SIGTERM":         "trap '' TERM; while :; do sleep 1000; done",
		"closes its output":       "exec >/dev/null 2>&1; sleep 1000",
		"forks again and again":   "trap '' TERM; b() { [ $1 -gt 0 ] || exec sleep 1000; b $(($1-1)) & b $(($1-1)) & wait; }; while :; do b 5; done",
		"forks into new sessions": "trap '' TERM; cat >b.sh <<'.'\n[ $1 -gt 0 ] || exec sleep 1000\nsetsid sh b.sh $(($1-1)) & setsid sh b.sh $(($1-1)) & exit 0\n.\nsh b.sh 6; sleep 1000",
		"prints without end":      "trap '' TERM PIPE; while :; do echo more; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, text)
			s.Timeout = 300 * time.Millisecond
			if r := s.run(t); r.Reason != reasonTimeout {
				t.Errorf("got %+v, want a timeout", r)
			}
			if pids := living("MARK=" + s.mark); len(pids) > 0 {
				t.Errorf("the run has returned, but processes %v live", pids)
			}
		})
	}
}

func TestACommandMayTidyUpOnSIGTERM(t *testing.T) {
	t.Parallel()
	s := newScript(t, "trap 'echo tidy; exit 7' TERM; echo started; while :; do sleep 0.01; done")
	s.Grace = 20 * time.Second
	ctx, cancel := context.WithCancel(t.Context())
	s.Log = func(chunk []byte) error { s.log.Write(chunk); cancel(); return nil }
	r, err := run(ctx, s.spec)
	if err != nil || r.Reason != reasonCanceled || r.ExitCode != 7 || !strings.HasSuffix(s.log.String(), "tidy\n") {
		t.Errorf("got %+v, %v with log %q; want exit code 7 after tidying up", r, err, s.log.String())
	}
}

func TestAKilledSupervisorInterruptsTheRun(t *testing.T) {
	onLinux(t)
	t.Parallel()
	// The command's parent is its supervisor.
	s := newScript(t, "kill -9 $PPID; sleep 1000")
	if r := s.run(t); r.Reason != reasonInterrupted {
		t.Errorf("got %+v, want it interrupted", r)
	}
}

func TestASupervisorToldToStopEndsItsBuild(t *testing.T) {
	onLinux(t)
	t.Parallel()
	s := newScript(t, "setsid sleep 1000 & kill -TERM $PPID; sleep 1000")
	if r := s.run(t); r.Reason != reasonInterrupted {
		t.Errorf("got %+v, want it interrupted", r)
	}
	if pids := living("MARK=" + s.mark); len(pids) > 0 {
		t.Errorf("processes %v live", pids)
	}
}

// doomedServer runs build.sh in a folder and is killed while it does. An interrupt ends the build in order.
func doomedServer(dir string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	_, err := run(ctx, spec{
		Command: []string{"./build.sh"},
		Dir:     dir,
		Env:     map[string]string{"MARK": os.Getenv("SLIPWAY_TEST_MARK")},
		Grace:   time.Hour, // of no use to a server that is gone
		Log:     func(chunk []byte) error { _, err := os.Stdout.Write(chunk); return err },
	})
	fmt.Println("came back", err)
	os.Exit(1)
}

func TestAKilledServerLeavesNoProcess(t *testing.T) {
	onLinux(t)
	t.Parallel()
	for name, text := range map[string]string{
		"plain":           "echo started; sleep 1000",
		"ignores SIGTERM": "trap '' TERM HUP PIPE; setsid sleep 1000 & (setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' &); echo started; while :; do sleep 1000; done",
		"output closed":   "echo started; exec >/dev/null 2>&1; setsid sleep 1000 & sleep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mark, dir := uuid.NewString(), buildDir(t, text)
			server := exec.Command("/proc/self/exe")
			server.Env = append(os.Environ(), "SLIPWAY_TEST_SERVER="+dir, "SLIPWAY_TEST_MARK="+mark)
			out, err := server.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			said := make([]byte, len("started"))
			if _, err := io.ReadFull(out, said); err != nil || string(said) != "started" {
				t.Fatalf("the build said %q, %v", said, err)
			}
			build := strings.Join(living("MARK="+mark), " ")
			server.Process.Kill()
			server.Wait()
			if build == "" {
				t.Error("no process of the build was found while it ran")
			}
			eventually(t, "all processes of the build have ended", func() bool { return len(living("MARK="+mark)) == 0 })
		})
	}
}

// A server that is killed while a build has its time to tidy up leaves nothing either.
func TestAServerKilledDuringTheGraceLeavesNoProcess(t *testing.T) {
	onLinux(t)
	t.Parallel()
	mark := uuid.NewString()
	dir := buildDir(t, "trap 'echo tidying; while :; do sleep 1000; done' TERM; echo started; while :; do sleep 0.01; done")
	server := exec.Command("/proc/self/exe")
	server.Env = append(os.Environ(), "SLIPWAY_TEST_SERVER="+dir, "SLIPWAY_TEST_MARK="+mark)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "tidying" {
		if lines.Text() == "started" {
			server.Process.Signal(syscall.SIGINT)
		}
	}
	if lines.Text() != "tidying" {
		t.Errorf("the build said %q at last, %v", lines.Text(), lines.Err())
	}
	server.Process.Kill()
	server.Wait()
	eventually(t, "all processes of the build have ended", func() bool { return len(living("MARK="+mark)) == 0 })
}

func TestRunAs(t *testing.T) {
	onLinux(t)
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	data := t.TempDir()
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "master.key"), []byte("treasure"), 0o644); err != nil {
		t.Fatal(err)
	}
	nobody, err := openAccount("nobody", data)
	if err != nil {
		t.Fatal(err)
	}
	s := newScript(t, `
id -u; id -g; id -G
grep -E 'NoNewPrivs|CapEff|CapPrm' /proc/self/status
touch mine ~/mine $TMPDIR/mine && echo wrote
cat `+data+`/master.key
ls `+data+`
cat /proc/$PPID/environ
ulimit -c
setsid sh -c 'trap "" TERM; sleep 1000' &
exit 0`)
	s.RunAs = nobody
	readyFor(t, s.Dir)
	if r := s.run(t); r.ExitCode != 0 {
		t.Errorf("got %+v\n%s", r, s.log.String())
	}
	got := s.log.String()
	ids := fmt.Sprintf("%d\n%d\n%d\n", nobody.uid, nobody.gid, nobody.gid)
	for _, want := range []string{ids, "NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "wrote\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "treasure") || strings.Contains(got, "master.key\n") {
		t.Errorf("the command read the data directory:\n%s", got)
	}
	info, err := os.Stat(filepath.Join(s.Dir, sourceDir, "mine"))
	if err != nil {
		t.Fatal(err)
	}
	if uid, _ := ownerOf(info); uid != nobody.uid || info.Mode().Perm() != 0o600 {
		t.Errorf("a new file belongs to %d with mode %v; want %d and 0600", uid, info.Mode(), nobody.uid)
	}
}

// readyFor lets everybody pass through the folders above dir that the test made.
func readyFor(t *testing.T, dir string) {
	t.Helper()
	for up := filepath.Dir(dir); up != filepath.Clean(os.TempDir()) && up != "/"; up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o711); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRunAsRefusesWhatProtectsNothing(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	want := func(user, dir, text string) {
		t.Helper()
		if _, err := openAccount(user, dir); !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("runAs %q: got %v, want an error that says %q", user, err, text)
		}
	}
	want("nobody-has-this-name", data, "there is no user")
	want("root", data, "privileged user")
	if os.Getuid() != 0 {
		want("nobody", data, "runs as root")
		return
	}
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	want("nobody", open, "could read the data directory")
	nobody, err := openAccount("nobody", data)
	if err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	if err := errors.Join(os.Chmod(own, 0o700), os.Chown(own, int(nobody.uid), -1)); err != nil {
		t.Fatal(err)
	}
	want("nobody", own, "could read the data directory")

	closed := newScript(t, "")
	closed.RunAs = nobody
	if err := os.Chmod(filepath.Dir(closed.Dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), closed.spec); !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), "cannot enter") {
		t.Errorf("a folder out of reach: got %v", err)
	}

	linked := newScript(t, "")
	linked.RunAs = nobody
	readyFor(t, linked.Dir)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(os.WriteFile(outside, nil, 0o600), os.Link(outside, filepath.Join(linked.Dir, sourceDir, "inside"))); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), linked.spec); err == nil {
		t.Error("a hard link to a file outside was given away")
	}
}

func TestRunsAtTheSameTime(t *testing.T) {
	t.Parallel()
	var ok atomic.Int32
	t.Run("all", func(t *testing.T) {
		for i := range 8 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				s := newScript(t, fmt.Sprintf("echo run %d; exit %d", i, i))
				if r := s.run(t); r.ExitCode == i && s.log.String() == fmt.Sprintf("run %d\n", i) {
					ok.Add(1)
				}
			})
		}
	})
	if ok.Load() != 8 {
		t.Errorf("%d of 8 runs came out right", ok.Load())
	}
}

func TestRemoveAllTakesAwayWhatNobodyMayWriteTo(t *testing.T) {
	t.Parallel()
	s := newScript(t, "mkdir -p a/b && touch a/b/c && chmod 500 a/b a")
	s.run(t)
	if err := removeAll(s.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux lets a supervisor find all of a build's processes")
	}
}
