package dora_test

import (
	"database/sql"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// mariaDB is a private MariaDB, which stands in for DevLake's MySQL: it runs all of its dashboards' queries unchanged. It lives in a temporary folder, on a socket, as an unprivileged
// user, and ends when its input closes, however the tests end.
type mariaDB struct {
	dir     string
	control io.WriteCloser
	cmd     *exec.Cmd
}

const mariaSupervisor = `
dir=$1
while read -r order; do
	case $order in
	start)
		mariadbd --no-defaults --datadir="$dir/data" --socket="$dir/s" --pid-file="$dir/pid" --skip-networking --skip-grant-tables --innodb-flush-log-at-trx-commit=0 \
			--innodb-buffer-pool-size=128M --default-time-zone=+00:00 --character-set-server=utf8mb4 --tmpdir="$dir" >>"$dir/log" 2>&1 &
		server=$! ;;
	stop)
		kill -TERM "$server"
		wait "$server"
		echo stopped ;;
	esac
done
kill -KILL "$server" 2>/dev/null
wait
rm -rf "$dir"
`

func newMariaDB(t testing.TB) *mariaDB {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/usr/libexec", "/opt/homebrew/bin"} {
		if !strings.Contains(os.Getenv("PATH"), dir) {
			_ = os.Setenv("PATH", os.Getenv("PATH")+":"+dir) //nolint:usetesting // other tests run beside this one, and may have it too
		}
	}
	if errors.Join(lookPath("mariadbd"), lookPath("mariadb-install-db")) != nil {
		const missing = "there is no MariaDB here; install its server (Debian: apt-get install mariadb-server)"
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	dir, err := os.MkdirTemp("/tmp", "slipway-my-")
	if err != nil {
		t.Fatal(err)
	}
	m := &mariaDB{dir: dir}
	var credential *syscall.Credential
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TZ=UTC", "LC_ALL=C", "TMPDIR=" + dir}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: credential}
		return cmd
	}
	if out, err := command("mariadb-install-db", "--no-defaults", "--datadir="+dir+"/data", "--auth-root-authentication-method=normal", "--skip-test-db", "--tmpdir="+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.cmd = command("/bin/sh", "-c", mariaSupervisor, "sh", dir)
	if m.control, err = m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.control.Close()
		_ = m.cmd.Wait()
	})
	m.start(t)
	return m
}

func lookPath(name string) error {
	_, err := exec.LookPath(name)
	return err
}

func (m *mariaDB) start(t testing.TB) {
	t.Helper()
	_, _ = io.WriteString(m.control, "start\n")
	deadline := time.Now().Add(time.Minute)
	for {
		db := m.open(t, "")
		err := db.Ping()
		_ = db.Close()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(m.dir, "log"))
			t.Fatalf("MariaDB did not start: %v\n%s", err, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop ends the server as an operator would; start has it back.
func (m *mariaDB) stop(t testing.TB) {
	t.Helper()
	_, _ = io.WriteString(m.control, "stop\n")
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := os.Stat(m.dir + "/pid"); err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("MariaDB did not stop")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (m *mariaDB) open(t testing.TB, database string) *sql.DB {
	t.Helper()
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.DBName, c.MultiStatements = "root", "unix", m.dir+"/s", database, true
	connector, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	return sql.OpenDB(connector)
}

var databases sync.Mutex

// create makes a database of DevLake's tables, filled by statements, and gives its address.
func (m *mariaDB) create(t testing.TB, name string, statements ...string) string {
	t.Helper()
	databases.Lock()
	defer databases.Unlock()
	server := m.open(t, "")
	defer server.Close()
	if _, err := server.Exec("CREATE DATABASE " + name + " CHARACTER SET utf8mb4"); err != nil {
		t.Fatal(err)
	}
	db := m.open(t, name)
	defer db.Close()
	schema, err := os.ReadFile("testdata/devlake/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range append([]string{string(schema)}, statements...) {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%v: %.300s", err, s)
		}
	}
	return "mysql://root@localhost/" + name + "?socket=" + m.dir + "/s"
}
