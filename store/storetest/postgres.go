package storetest

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-platform/slipway/store"
)

// Instance is a running PostgreSQL server.
type Instance struct {
	url      *url.URL // of the database postgres
	external bool     // not ours to stop

	bin, dir string
	owner    *syscall.Credential // whom the server runs as when the tests run as root
	control  io.WriteCloser      // to the supervisor
	answers  *bufio.Reader
	cmd      *exec.Cmd
}

// Server starts a PostgreSQL server for this test alone, to be stopped and started at will, and gone when the test ends.
func Server(t testing.TB) *Instance {
	t.Helper()
	s, err := launch()
	if err != nil {
		refuse(t, err)
	}
	t.Cleanup(func() {
		_ = s.control.Close()
		_ = s.cmd.Wait()
	})
	return s
}

// URL is the address of one database of the server; "postgres" is always there.
func (s *Instance) URL(database string) string {
	u := *s.url
	u.Path = "/" + database
	return u.String()
}

// Stop ends the server as an operator would: open connections break. It returns when the server is gone.
func (s *Instance) Stop(t testing.TB) {
	t.Helper()
	if _, err := io.WriteString(s.control, "stop\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.answers.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

// Start starts the server again after Stop, with the data that it had.
func (s *Instance) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

var errNotInstalled = errors.New("there is no PostgreSQL here; install its server (Debian: apt-get install postgresql) or set SLIPWAY_TEST_POSTGRES to the URL of one")

func refuse(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, errNotInstalled) && os.Getenv("CI") != "true" && os.Getenv("SLIPWAY_TEST_REQUIRE") != "1" {
		t.Skip(err)
	}
	t.Fatal(err)
}

// server is the one that all tests of the process share. It ends with the process.
var server = sync.OnceValues(func() (*Instance, error) {
	if raw := os.Getenv("SLIPWAY_TEST_POSTGRES"); raw != "" {
		u, err := url.Parse(raw)
		if err != nil {
			return nil, errors.New("SLIPWAY_TEST_POSTGRES is not a URL") // the cause may hold a password
		}
		return &Instance{url: u, external: true}, nil
	}
	return launch()
})

func shared(t testing.TB) *Instance {
	t.Helper()
	s, err := server()
	if err != nil {
		refuse(t, err)
	}
	return s
}

func newName() string { return "slipway_test_" + strings.ToLower(rand.Text()) }

// create makes a database that is dropped when the test ends.
func (s *Instance) create(t testing.TB, template string) string {
	t.Helper()
	name := newName()
	if err := s.admin(fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, template)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.admin(fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", name)); err != nil {
			t.Error(err)
		}
	})
	return s.URL(name)
}

func (s *Instance) admin(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url.String())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

func migrate(url string, migrations []store.Migrations) error {
	db, err := store.Open("main", url)
	if err != nil {
		return err
	}
	return errors.Join(db.MigrateUp(context.Background(), migrations...), db.Close())
}

// supervisor runs the server and outlives the test process by a moment: when the pipe on its input closes,
// however the tests ended, it ends the server and removes the folder.
const supervisor = `
bin=$1 dir=$2
while read -r order; do
	case $order in
	start)
		"$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c max_connections=300 -c shared_buffers=32MB \
			-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_wal_senders=0 -c wal_level=minimal >>"$dir/log" 2>&1 &
		server=$! ;;
	stop)
		kill -INT "$server"
		wait "$server"
		echo stopped ;;
	esac
done
kill -QUIT "$server" 2>>/dev/null
wait
rm -rf "$dir"
`

func launch() (*Instance, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	// Not in TMPDIR: it may be too long for a socket's address, or closed to the server's user.
	dir, err := os.MkdirTemp("/tmp", "slipway-pg-")
	if err != nil {
		return nil, err
	}
	s := &Instance{bin: bin, dir: dir, url: &url.URL{
		Scheme: "postgres", Path: "/postgres", RawQuery: url.Values{"host": {dir}, "user": {"postgres"}}.Encode(),
	}}
	if err := s.launch(); err != nil {
		if s.control != nil {
			_ = s.control.Close()
			_ = s.cmd.Wait()
		}
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

func (s *Instance) launch() error {
	if os.Geteuid() == 0 {
		owner, err := unprivileged()
		if err != nil {
			return err
		}
		s.owner = owner
		if err := os.Chown(s.dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	s.cmd = s.command("/bin/sh", "-c", supervisor, "sh", s.bin, s.dir)
	control, err := s.cmd.StdinPipe()
	if err != nil {
		return err
	}
	answers, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor of PostgreSQL: %w", err)
	}
	s.control, s.answers = control, bufio.NewReader(answers)
	if err := s.fill(); err != nil {
		return err
	}
	return s.start()
}

func (s *Instance) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TZ=UTC", "LC_ALL=C"}
	// Its own group: an interrupt on the terminal is for the tests, which then close the pipe.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.owner}
	return cmd
}

// start waits until the server answers.
func (s *Instance) start() error {
	if _, err := io.WriteString(s.control, "start\n"); err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := s.admin("SELECT 1")
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("PostgreSQL did not start: %w\n%s", err, log)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// initdb's ways, best first. Under the ICU locale text sorts as people expect and not by bytes, which brings
// to light what relies on the order of bytes without saying so.
var initdbArgs = [][]string{
	{"--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"},
	{"--locale=C.UTF-8"},
	{"--locale=C"},
}

// fill makes the data folder. Making one from nothing takes a moment, so a copy is kept in the user's cache.
func (s *Instance) fill() error {
	data := filepath.Join(s.dir, "data")
	cached, err := s.cache()
	if err != nil {
		return err
	}
	if cached != "" && os.CopyFS(data, os.DirFS(cached)) == nil {
		return s.give(data)
	}
	if err := os.RemoveAll(data); err != nil {
		return err
	}
	var out []byte
	for _, locale := range initdbArgs {
		args := append([]string{"-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--wal-segsize=1"}, locale...)
		if out, err = s.command(filepath.Join(s.bin, "initdb"), args...).CombinedOutput(); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if cached == "" {
		return nil
	}
	// Processes race here; the first rename wins. What goes wrong costs only time.
	if err := os.MkdirAll(filepath.Dir(cached), 0o700); err != nil {
		return nil
	}
	fresh, err := os.MkdirTemp(filepath.Dir(cached), "new-")
	if err != nil {
		return nil
	}
	if os.CopyFS(fresh, os.DirFS(data)) != nil || os.Rename(fresh, cached) != nil {
		_ = os.RemoveAll(fresh)
	}
	return nil
}

// cache is where the data folder of this version is kept, "" when the user has no cache.
func (s *Instance) cache() (string, error) {
	version, err := exec.Command(filepath.Join(s.bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("postgres --version: %w", err)
	}
	root, err := os.UserCacheDir()
	if err != nil {
		return "", nil
	}
	hash := sha256.Sum256(fmt.Appendf(nil, "%s %q 1", version, initdbArgs))
	fields := strings.Fields(string(version))
	return filepath.Join(root, "slipway", fmt.Sprintf("pg-%s-%x", fields[min(2, len(fields)-1)], hash[:6])), nil
}

// give makes the server's user the owner of the copied data.
func (s *Instance) give(data string) error {
	if err := os.Chmod(data, 0o700); err != nil {
		return err
	}
	if s.owner == nil {
		return nil
	}
	return filepath.WalkDir(data, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, int(s.owner.Uid), int(s.owner.Gid))
	})
}

// unprivileged finds a user for the server, which refuses to run as root.
func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody; run the tests as another user or set SLIPWAY_TEST_POSTGRES")
}

// binaries finds the folder with initdb and postgres: the one on PATH, else the newest that a system package installed.
func binaries() (string, error) {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if initdb, err = filepath.EvalSymlinks(initdb); err == nil {
			return filepath.Dir(initdb), nil
		}
	}
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb", "/opt/homebrew/opt/postgresql*/bin/initdb"} {
		names, _ := filepath.Glob(pattern)
		found = append(found, names...)
	}
	if len(found) == 0 {
		return "", errNotInstalled
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(newest), nil
}

// version reads the number in the name of the folder above bin: "15", "pgsql-16", "postgresql@17".
func version(initdb string) int {
	folder := filepath.Base(filepath.Dir(filepath.Dir(initdb)))
	n, _ := strconv.Atoi(strings.TrimLeft(folder, "abcdefghijklmnopqrstuvwxyz-@"))
	return n
}
