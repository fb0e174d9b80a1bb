package command_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/command"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestMain(m *testing.M) {
	builtin.Early()
	// With the race detector every process would sleep for a second at its end.
	_ = os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0")) // the name is valid
	testscript.Main(m, map[string]func(){
		"slipway": func() { os.Exit(command.Main(builtin.Blueprints(), builtin.Providers())) },
	})
}

// The scripts say what somebody types and what comes of it. Beside the usual words there are: "status N program args", which
// checks an exit status; "server [args]", which starts a server of the script's folder and points the commands to it; "shutdown",
// which interrupts it and wants it to end well.
func TestScripts(t *testing.T) {
	t.Parallel()
	play(t, "testdata/script")
}

// The first start on PostgreSQL takes more than on SQLite: a database, a key file, a token.
func TestTheFirstStartOnPostgreSQL(t *testing.T) {
	t.Parallel()
	server := storetest.Server(t)
	play(t, "testdata/postgres", databaseVariable, server.URL("slipway"), otherVariable, server.URL("other"))
}

const (
	databaseVariable = "SLIPWAY_DATABASES_MAIN"
	otherVariable    = "SLIPWAY_DATABASES_OTHER"
)

// play runs the scripts of a folder, with more variables.
func play(t *testing.T, dir string, variables ...string) {
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "user"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", os.Getenv("GORACE"))
			for i := 0; i+1 < len(variables); i += 2 {
				env.Setenv(variables[i], variables[i+1])
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status, "server": serve, "shutdown": shutdown},
		// A script that waits for something waits at most as long as this.
		Deadline: time.Now().Add(5 * time.Minute),
	})
}

func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d\n%s%s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

type process struct {
	cmd    *exec.Cmd
	ended  chan error
	errors string
}

// servers are the processes by script.
var (
	mu      sync.Mutex
	servers = map[*testscript.TestScript]*process{}
)

func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: server [args]")
	}
	program, err := exec.LookPath("slipway")
	ts.Check(err)
	log, err := os.Create(ts.MkAbs("server.log"))
	ts.Check(err)
	p := &process{cmd: exec.Command(program, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...), ended: make(chan error, 1), errors: log.Name()}
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"))
	for _, variable := range []string{databaseVariable, otherVariable} {
		if address := ts.Getenv(variable); address != "" {
			p.cmd.Env = append(p.cmd.Env, variable+"="+address)
		}
	}
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	address := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if _, a, ok := strings.Cut(lines.Text(), " serves "); ok {
				address <- a
			}
		}
		p.ended <- errors.Join(p.cmd.Wait(), log.Close())
	}()
	ts.Defer(func() {
		_ = p.cmd.Process.Kill() // it may have ended
	})
	ts.Setenv("SERVER_LOG", log.Name())
	select {
	case a := <-address:
		ts.Setenv("SLIPWAY_URL", a)
	case err := <-p.ended:
		ts.Fatalf("the server ended: %v\n%s", err, ts.ReadFile("server.log"))
	case <-time.After(30 * time.Second):
		ts.Fatalf("the server did not start\n%s", ts.ReadFile("server.log"))
	}
	if token, err := os.ReadFile(ts.MkAbs("slipway-data/admin-token")); err == nil {
		ts.Setenv("SLIPWAY_TOKEN", strings.TrimSpace(string(token)))
	}
	mu.Lock()
	defer mu.Unlock()
	servers[ts] = p
}

func shutdown(ts *testscript.TestScript, neg bool, args []string) {
	mu.Lock()
	p := servers[ts]
	mu.Unlock()
	if neg || len(args) > 0 || p == nil {
		ts.Fatalf("usage: shutdown, after server")
	}
	began := time.Now()
	ts.Check(p.cmd.Process.Signal(syscall.SIGINT))
	select {
	case err := <-p.ended:
		if took := time.Since(began); took > 3*time.Second { // an idle one takes some milliseconds
			ts.Fatalf("the server took %s to stop\n%s", took, ts.ReadFile(p.errors))
		}
		if err != nil {
			ts.Fatalf("the server ended with %v\n%s", err, ts.ReadFile(p.errors))
		}
	case <-time.After(30 * time.Second):
		ts.Fatalf("the server did not stop\n%s", ts.ReadFile(p.errors))
	}
}
