package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A supervisor stands between the server and a command: the same binary, started again. The server
// holds one end of a pipe, the lifeline; the supervisor holds the other. When the server says so on the lifeline, the supervisor
// ends the command and everything that it started, with time to tidy up. When the lifeline closes, because the
// server died in whatever way, it does so at once: a server that starts in its place must find nothing that still runs. It
// does the same when the command ends by itself, so that no process outlives its build.

// superviseArg is the one argument of a supervisor. It looks like a flag, so that a program that does not call
// Supervise refuses it and ends.
const superviseArg = "--supervise-build"

// stuck is how long the supervisor goes on after SIGKILL before it gives up on processes that the
// kernel does not end, such as one that waits for a dead disk.
const stuck = 30 * time.Second

// startWithin is how long a supervisor may take to say that it is one. It costs milliseconds on an idle machine.
const startWithin = time.Minute

// order is what a supervisor is told, as the first thing on its lifeline.
type order struct {
	Command []string
	Path    string // where to look for the command
	Dir     string
	Env     []string
	RunAs   *syscall.Credential
	MaxFile int64 // bytes that one file may have, 0 for any
	Grace   time.Duration
}

// report is what a supervisor says: once, empty, when it has started, and once when all is over.
type report struct {
	ExitCode int
	Stopped  bool   // the command was ended and did not end by itself
	Left     bool   // some processes could not be ended
	Fault    string // why the supervisor could not do its work
}

// supervisor is a running supervisor as the server sees it.
type supervisor struct {
	cmd      *exec.Cmd
	lifeline *os.File      // closed: end the run at once
	told     chan struct{} // closed when the order was given
	output   *os.File      // of the command
	reports  *os.File
	errors   strings.Builder // standard error of the supervisor itself: a panic
}

// errSupervisorKilled says that the supervisor ended before its work was done. Its session, in which it runs the command, has
// been ended then; processes that began another may live on.
var errSupervisorKilled = errors.New("the supervisor was killed")

// startSupervisor starts the program again as a supervisor. Its standard input is the lifeline, its
// standard output becomes that of the command, and its reports come on descriptor 3.
func startSupervisor(o order) (_ *supervisor, err error) {
	program := "/proc/self/exe" // still right when an upgrade has replaced the file
	if _, err := os.Stat(program); err != nil {
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	words, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	var ours, theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			for _, f := range ours {
				f.Close()
			}
		}
	}()
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	life, lifeline := pipe()
	output, outputEnd := pipe()
	reports, reportsEnd := pipe()
	ours, theirs = []*os.File{lifeline, output, reports}, []*os.File{life, outputEnd, reportsEnd}
	if err != nil {
		return nil, err
	}

	s := &supervisor{lifeline: lifeline, told: make(chan struct{}), output: output, reports: reports}
	s.cmd = &exec.Cmd{
		Path:        program,
		Args:        []string{"slipway", superviseArg},
		Env:         []string{},
		Dir:         "/",
		Stdin:       life,
		Stdout:      outputEnd,
		Stderr:      &s.errors,
		ExtraFiles:  []*os.File{reportsEnd},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		lifeline.Write(words) // it fails when the supervisor is gone, which wait sees
		close(s.told)
	}()
	return s, nil
}

// stop has the run ended, with the time to tidy up that the order gives.
func (s *supervisor) stop() {
	go func() {
		<-s.told
		s.lifeline.Write([]byte("{}\n"))
	}()
}

// wait waits for the last report and the supervisor's end.
func (s *supervisor) wait() (report, error) {
	dec := json.NewDecoder(s.reports)
	var ready, last report
	s.reports.SetReadDeadline(time.Now().Add(startWithin))
	started := dec.Decode(&ready)
	var err error
	if started == nil {
		s.reports.SetReadDeadline(time.Time{})
		err = dec.Decode(&last)
	} else {
		s.cmd.Process.Kill()
	}
	s.reports.Close()
	exit := s.cmd.Wait()
	switch {
	case started != nil:
		return last, fmt.Errorf("no supervisor started: the program must call local.Supervise before anything else (%v, %s)", exit, strings.TrimSpace(s.errors.String()))
	case err != nil:
		sweep(s.cmd.Process.Pid)
		return last, fmt.Errorf("%w (%v, %s)", errSupervisorKilled, exit, strings.TrimSpace(s.errors.String()))
	case last.Fault != "":
		return last, errors.New(last.Fault)
	}
	return last, nil
}

// Supervise makes the process a supervisor of one build when it was started as one, and then does not
// return. Every program with this blueprint calls it before anything else: first in main, and first in TestMain of
// tests that build. In any other process it does nothing.
func Supervise() {
	if len(os.Args) == 2 && os.Args[1] == superviseArg {
		supervise()
		os.Exit(0)
	}
}

func supervise() {
	// What a command inherits belongs to the thread that starts it, and the command dies with that
	// thread: keep to one.
	runtime.LockOSThread()
	reports := json.NewEncoder(os.NewFile(3, "reports"))
	var o order
	words := json.NewDecoder(os.Stdin)
	if err := words.Decode(&o); err != nil {
		return // the server died
	}
	reports.Encode(report{})

	// Each is asked for before the command starts, so that none is missed.
	ended, stop, asked, hangup := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(ended, syscall.SIGCHLD)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		if words.Decode(new(struct{})) == nil {
			close(asked)
			io.Copy(io.Discard, os.Stdin)
		}
		close(hangup)
	}()

	syscall.Umask(0o077)
	err := confine(o)
	if err == nil {
		err = closeOnExec()
	}
	if err != nil {
		reports.Encode(report{Fault: "confine the command: " + err.Error()})
		return
	}
	pid, err := o.start()
	if err != nil {
		reports.Encode(refusal(o, err))
		return
	}
	os.Stdout.Close() // what is left of the output is the command's

	p := pack{command: pid}
	stopped := false
	for !p.exited && !stopped {
		select {
		case <-ended:
			p.reap()
		case <-stop:
			stopped = true
		case <-asked:
			stopped = true
		case <-hangup:
			stopped = true
		}
	}
	if stopped {
		p.reap() // it may have ended by itself just before
		stopped = !p.exited
	}
	left := p.end(o.Grace, ended, hangup)
	reports.Encode(report{ExitCode: exitCode(p.status), Stopped: stopped, Left: left})
}

// refusal reports a command that could not be started. That is the build's own failure, told in its
// output as a shell would, unless the machine was short of something.
func refusal(o order, err error) report {
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM):
		return report{Fault: fmt.Sprintf("start %q: %v", o.Command[0], err)}
	case errors.Is(err, fs.ErrNotExist):
		fmt.Printf("slipway: cannot run %s: no such file\n", o.Command[0])
		return report{ExitCode: 127}
	}
	fmt.Printf("slipway: cannot run %s: %v\n", o.Command[0], err)
	return report{ExitCode: 126}
}

// start starts the command in a process group of its own with nothing open but the null device and its
// output.
func (o order) start() (pid int, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	program, err := o.program()
	if err != nil {
		return 0, err
	}
	attr := &syscall.SysProcAttr{Setpgid: true, Credential: o.RunAs}
	bind(attr)
	return syscall.ForkExec(program, o.Command, &syscall.ProcAttr{
		Dir:   o.Dir,
		Env:   o.Env,
		Files: []uintptr{null.Fd(), os.Stdout.Fd(), os.Stdout.Fd()},
		Sys:   attr,
	})
}

// program finds the command as a shell would. A relative path is left to the kernel, which takes it
// from Dir.
func (o order) program() (string, error) {
	name := o.Command[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(o.Path) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); filepath.IsAbs(dir) && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fs.ErrNotExist
}

// closeOnExec keeps what the server itself has inherited from whoever started it away from the command.
func closeOnExec() error {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// pack is a command and all that descends from it, as its supervisor sees it.
type pack struct {
	command int // process id
	exited  bool
	status  syscall.WaitStatus
}

// reap takes note of the processes that have ended and says whether there are others. On Linux it
// answers for all descendants: the supervisor adopts those whose parent ends, so that while one lives there is a
// child.
func (p *pack) reap() (more bool) {
	for range 1000 { // a fork bomb must not keep us here
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return false
		case pid == 0:
			return true
		case pid == p.command:
			p.exited, p.status = true, status
		}
	}
	return true
}

// end ends what is left: with SIGTERM first, and with SIGKILL after the grace time or once the server is gone, again and
// again, as new processes may appear while it looks. It says whether some would not end.
func (p *pack) end(grace time.Duration, ended <-chan os.Signal, gone <-chan struct{}) (left bool) {
	if !p.reap() {
		return false
	}
	select {
	case <-gone:
	default:
		p.signal(syscall.SIGTERM)
		p.signal(syscall.SIGCONT) // the stopped ones as well
	}
	kill, giveUp := time.After(grace), time.Now().Add(grace+stuck)
	killing := false
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for p.reap() {
		if time.Now().After(giveUp) {
			return true
		}
		if killing {
			p.signal(syscall.SIGKILL)
		}
		select {
		case <-ended:
		case <-tick.C:
		case <-kill:
			killing = true
		case <-gone:
			killing, gone = true, nil // a closed channel is always ready
		}
	}
	return false
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
