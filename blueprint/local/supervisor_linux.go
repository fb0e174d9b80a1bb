package local

import (
	"bytes"
	"iter"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxFiles     = 8192 // open files of one process
	maxProcesses = 4096 // processes and threads of the user that builds run as, all builds together
)

// confine sets what the command inherits: no core files, bounded numbers of files and processes, no
// way to gain rights by running a program. The last keeps all of them within reach of our signals too.
// It makes the supervisor the parent of all orphans among its descendants.
func confine(o order) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("become subreaper", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("give up new privileges", err)
	}
	limits := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: maxFiles}
	if o.MaxFile > 0 {
		limits[unix.RLIMIT_FSIZE] = uint64(o.MaxFile)
	}
	if o.RunAs != nil { // it counts all processes of a user: without a user of its own the server's too
		limits[unix.RLIMIT_NPROC] = maxProcesses
	}
	for resource, limit := range limits {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(resource, &now); err != nil {
			return os.NewSyscallError("getrlimit", err)
		}
		limit = min(limit, now.Max)
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			return os.NewSyscallError("setrlimit", err)
		}
	}
	return nil
}

// bind lets the command die with its supervisor, should somebody kill that one.
func bind(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// signal sends a signal to every descendant. With SIGKILL a process may outrun one call by starting
// another and ending; the caller repeats it.
//
// Process groups get the signal as a whole, which no forking outruns. A group or an id that was seen a moment
// ago may be gone, but is not given to another process so soon: the kernel goes through all ids first.
func (p *pack) signal(sig syscall.Signal) {
	self := os.Getpid()
	hit := func(q process) {
		if q.group > 1 && q.group != self { // all other groups of descendants consist of descendants, as we began a session
			syscall.Kill(-q.group, sig)
		}
		syscall.Kill(q.pid, sig)
	}
	children := map[int][]process{}
	for q := range processes() {
		if sig == syscall.SIGKILL && q.parent == self {
			hit(q) // at once: one that forks and ends all the time has another id soon
		}
		children[q.parent] = append(children[q.parent], q)
	}
	seen := map[int]bool{}
	for next := children[self]; len(next) > 0; {
		q := next[0]
		next = next[1:]
		if seen[q.pid] {
			continue // ids that were used again during the walk could make a circle
		}
		seen[q.pid] = true
		next = append(next, children[q.pid]...)
		if sig == syscall.SIGTERM || sig == syscall.SIGCONT {
			syscall.Kill(q.pid, sig)
		} else {
			hit(q)
		}
	}
}

// sweep ends the processes in the session of a supervisor that is no more.
func sweep(session int) {
	for range 100 {
		found := false
		for q := range processes() {
			if q.session == session {
				found = syscall.Kill(q.pid, syscall.SIGKILL) == nil || found
			}
		}
		if !found {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// process is a line of the process table.
type process struct{ pid, parent, group, session int }

// processes walks through the process table, the highest ids first: they are the newest, most of the time.
func processes() iter.Seq[process] {
	return func(yield func(process) bool) {
		dir, err := os.Open("/proc")
		if err != nil {
			return
		}
		names, _ := dir.Readdirnames(-1)
		dir.Close()
		for _, name := range slices.Backward(names) {
			pid, err := strconv.Atoi(name)
			if err != nil {
				continue
			}
			stat, err := os.ReadFile("/proc/" + name + "/stat")
			if err != nil {
				continue
			}
			// pid (name) state parent group session …: the name may hold anything, so count from its end.
			fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
			if len(fields) < 4 {
				continue
			}
			parent, _ := strconv.Atoi(string(fields[1]))
			group, _ := strconv.Atoi(string(fields[2]))
			session, _ := strconv.Atoi(string(fields[3]))
			if !yield(process{pid, parent, group, session}) {
				return
			}
		}
	}
}
