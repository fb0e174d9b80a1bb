package storetest

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// MariaDB is a private MariaDB, which stands in for the MySQL of another program that Slipway reads. It lives in a temporary folder, on a socket, as an unprivileged user, and ends when its
// input closes, however the tests end. What connects to it is up to the test: this package knows no driver.
type MariaDB struct {
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

// NewMariaDB starts one. Without a MariaDB on the machine the test is skipped, or fails, as with PostgreSQL.
func NewMariaDB(t testing.TB) *MariaDB {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/usr/libexec", "/opt/homebrew/bin"} {
		if !strings.Contains(os.Getenv("PATH"), dir) {
			_ = os.Setenv("PATH", os.Getenv("PATH")+":"+dir) //nolint:usetesting // other tests run beside this one, and may have it too
		}
	}
	if errors.Join(lookPath("mariadbd"), lookPath("mariadb-install-db")) != nil {
		const missing = "there is no MariaDB here; install its server (Debian: apt-get install mariadb-server)"
		if os.Getenv("CI") == "true" || os.Getenv("SLIPWAY_TEST_REQUIRE") == "1" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	dir, err := os.MkdirTemp("/tmp", "slipway-my-")
	if err != nil {
		t.Fatal(err)
	}
	m := &MariaDB{dir: dir}
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
	m.Start(t)
	return m
}

func lookPath(name string) error {
	_, err := exec.LookPath(name)
	return err
}

// Socket is the Unix socket that it listens on; its user root has no password.
func (m *MariaDB) Socket() string { return m.dir + "/s" }

// Start starts it again after Stop, and returns when it greets who connects.
func (m *MariaDB) Start(t testing.TB) {
	t.Helper()
	_, _ = io.WriteString(m.control, "start\n")
	deadline := time.Now().Add(time.Minute)
	for !m.greets() {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(m.dir, "log"))
			t.Fatalf("MariaDB did not start: %s", log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// greets says whether the server sends the first packet of its protocol: version 10.
func (m *MariaDB) greets() bool {
	c, err := net.DialTimeout("unix", m.Socket(), time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	var head [5]byte // three bytes of length, one of sequence, the version
	_, err = io.ReadFull(c, head[:])
	return err == nil && head[4] == 10
}

// Stop ends the server as an operator would.
func (m *MariaDB) Stop(t testing.TB) {
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
