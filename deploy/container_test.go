//go:build linux

package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// limits are the rlimits that a process here may give a container: an engine would ask for more than a machine without CAP_SYS_RESOURCE grants.
func limits(t *testing.T) (args []string) {
	t.Helper()
	const processes = 6 // RLIMIT_NPROC
	for name, resource := range map[string]int{"nofile": syscall.RLIMIT_NOFILE, "nproc": processes} {
		var l syscall.Rlimit
		if err := syscall.Getrlimit(resource, &l); err != nil {
			t.Fatal(err)
		}
		n := min(l.Cur, l.Max, 4096)
		args = append(args, "--ulimit", fmt.Sprintf("%s=%d:%[2]d", name, n))
	}
	return args
}

// TestTheImageRunsInAContainer has podman load the image and run it as the Compose file says: the same restrictions, the same command for its data, its health check; a second container goes on
// with the volume of the first.
func TestTheImageRunsInAContainer(t *testing.T) {
	t.Parallel()
	path := tool(t, "podman", "podman runc containernetworking-plugins")
	dir, err := os.MkdirTemp("/tmp", "slipway-") // podman takes no long path
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(archive, image(t), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct {
			ReadOnly    bool     `yaml:"read_only"`
			Tmpfs       []string `yaml:"tmpfs"`
			CapDrop     []string `yaml:"cap_drop"`
			SecurityOpt []string `yaml:"security_opt"`
			Memory      string   `yaml:"mem_limit"`
			Processes   int      `yaml:"pids_limit"`
		} `yaml:"services"`
	}
	if err := yaml.Unmarshal(text, &compose); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	runtime := []string{}
	podman := func(args ...string) (string, error) {
		all := append([]string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"}, runtime...)
		out, err := exec.CommandContext(ctx, path, append(all, args...)...).CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := podman(args...)
		if err != nil {
			t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(out)
	}
	t.Cleanup(func() {
		ctx = context.Background()
		_, _ = podman("rm", "--all", "--force", "--time", "0")
		_, _ = podman("rmi", "--all", "--force")
		_ = os.RemoveAll(dir)
	})
	// Whether there are containers here is asked with a plain archive of the program. After that, what our image cannot do is a failure.
	plain := filepath.Join(dir, "plain.tar")
	if out, err := exec.CommandContext(ctx, "tar", "-cf", plain, "-C", filepath.Dir(binary(t)), filepath.Base(binary(t))).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	if out, err := podman("import", plain, "localhost/plain"); err != nil {
		t.Skipf("podman keeps no image here: %v\n%s", err, out)
	}
	run := append([]string{"run"}, limits(t)...)
	probe := append(append([]string{}, run...), "--rm", "localhost/plain", "/"+filepath.Base(binary(t)), "version")
	if _, err := podman(probe...); err != nil { // crun takes no mixed cgroups
		runtime = []string{"--runtime", "runc"}
		if out, err := podman(probe...); err != nil {
			t.Skipf("podman runs no container here: %v\n%s", err, out)
		}
	}
	const name = "localhost/slipway:0.0.0-test"
	must("load", "-i", archive)
	out := must(append(append([]string{}, run...), "--rm", name, "version")...)
	if !strings.Contains(out, "slipway") {
		t.Errorf("slipway version: %s", out)
	}
	flags := func(service string) []string {
		s, ok := compose.Services[service]
		if !ok || !s.ReadOnly || len(s.CapDrop) == 0 || s.Memory == "" {
			t.Fatalf("the Compose file does not shut in %s: %+v", service, s)
		}
		args := append(append([]string{}, run...), "--read-only", "--memory", s.Memory, "--volume", "data:/var/lib/slipway")
		for _, v := range s.Tmpfs {
			args = append(args, "--tmpfs", v)
		}
		for _, v := range s.CapDrop {
			args = append(args, "--cap-drop", v)
		}
		for _, v := range s.SecurityOpt {
			args = append(args, "--security-opt", strings.Replace(v, ":true", "", 1))
		}
		if s.Processes > 0 {
			args = append(args, "--pids-limit", fmt.Sprint(s.Processes))
		}
		return args
	}
	if out := must(append(flags("create"), "--rm", name, "db", "create")...); !strings.Contains(out, "master.key: created") {
		t.Errorf("db create: %s", out)
	}
	serve := func() (id, url string) {
		t.Helper()
		address := freeAddress(t)
		id = must(append(flags("slipway"), "--detach", "--publish", address+":8080", name)...)
		url = "http://" + address
		for ctx.Err() == nil {
			if res, err := http.Get(url + "/readyz"); err == nil {
				res.Body.Close()
				if res.StatusCode == 200 {
					return id, url
				}
			}
			if state := must("inspect", "--format", "{{.State.Status}}", id); state != "running" {
				t.Fatalf("it is %s: %s", state, must("logs", id))
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
		t.Fatalf("it does not get ready: %s", must("logs", id))
		return "", ""
	}
	id, url := serve()
	if out := must("exec", id, "/usr/local/bin/slipway", "health"); !strings.Contains(out, "database main") {
		t.Errorf("the health check: %s", out)
	}
	var token struct{ Secret string }
	if made := must("exec", id, "/usr/local/bin/slipway", "token", "create", "--admin", "ops", "-o", "json"); json.Unmarshal([]byte(made[max(0, strings.Index(made, "{")):]), &token) != nil || token.Secret == "" {
		t.Fatalf("token create: %s", made)
	}
	ask := func(url string) int {
		req, err := http.NewRequestWithContext(ctx, "GET", url+"/api/auth/me", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token.Secret)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	if status := ask(url); status != 200 {
		t.Errorf("a token made in the container: %d", status)
	}
	if out, err := podman("exec", id, "/bin/sh", "-c", "true"); err == nil {
		t.Errorf("there is a shell: %s", out)
	}
	must("stop", "--time", "30", id)
	if state := must("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", id); state != "0 false" {
		t.Errorf("it did not stop in order: %s\n%s", state, must("logs", id))
	}
	_, url = serve()
	if status := ask(url); status != 200 {
		t.Errorf("the token in a container after it, with the same volume: %d", status)
	}
}

// boot is what the machine of the unit runs: it looks at the service, kills it, gives it its key as a credential, stops it, and ends the machine.
const boot = `
say() { echo "$1: $2"; }
main() { systemctl show --property MainPID --value slipway; }
until_healthy() { n=0; until /usr/local/bin/slipway health >/dev/null 2>&1; do n=$((n+1)); [ $n -gt 600 ] && return 1; sleep 0.1; done; }
say active "$(systemctl is-active slipway)"
until_healthy && say healthy yes
first=$(main)
say user "$(stat -c %U /proc/$first)"
say data "$(stat -c '%U %a' /var/lib/private/slipway)"
say memory "$(systemctl show --property MemoryMax --value slipway)"
systemctl reload slipway && say reloaded "$([ "$(main)" = "$first" ] && echo "the same process")"
kill -KILL "$first"
n=0; until [ "$(main)" != "$first" ] && [ "$(main)" != 0 ]; do n=$((n+1)); [ $n -gt 600 ] && break; sleep 0.1; done
until_healthy && say restarted "$(systemctl show --property NRestarts --value slipway)"
systemctl stop slipway; say stopped "$(systemctl show --property Result --value slipway)"
mv /var/lib/private/slipway/master.key /etc/slipway/master.key && chown root /etc/slipway/master.key
sed -i -e 's/^#\(.*master.key\)/\1/' /etc/systemd/system/slipway.service
systemctl daemon-reload; systemctl start slipway
until_healthy && say credential "$(test -e /var/lib/private/slipway/master.key || echo "from /etc")"
systemctl stop slipway; say stopped "$(systemctl show --property Result --value slipway)"
journalctl --no-pager --unit slipway | tail -40 | sed 's/^/log: /'
`

// TestTheUnitRunsUnderSystemd boots a systemd in a namespace of its own, with this machine's programs and a root of its own, and has it run the unit as it stands.
func TestTheUnitRunsUnderSystemd(t *testing.T) {
	t.Parallel()
	nspawn := tool(t, "systemd-nspawn", "systemd-container")
	if os.Getuid() != 0 || exec.Command("unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt").Run() != nil {
		t.Skip("this process may not boot a systemd of its own")
	}
	root := t.TempDir()
	file := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share", "usr/local/bin", "etc/systemd/system/multi-user.target.wants", "tmp", "run", "proc", "sys", "dev", "var/log/journal", "root"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	cache, _ := os.ReadFile("/etc/ld.so.cache")
	file("usr/local/bin/slipway", string(program), 0o755)
	file("etc/systemd/system/slipway.service", string(text), 0o644)
	file("etc/slipway/slipway.yaml", "", 0o644)
	file("etc/os-release", string(release), 0o644)
	file("etc/ld.so.cache", string(cache), 0o644)
	file("etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444)
	file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n", 0o644)
	file("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)
	file("etc/nsswitch.conf", "passwd: files systemd\ngroup: files systemd\n", 0o644)
	file("boot.sh", boot, 0o755)
	file("etc/systemd/system/boot.service", "[Unit]\nAfter=slipway.service\n[Service]\nType=oneshot\nExecStart=/bin/sh /boot.sh\nExecStopPost=/bin/systemctl --no-block --force poweroff\nStandardOutput=file:/said\nStandardError=file:/errors\n", 0o644)
	for _, name := range []string{"slipway", "boot"} {
		if err := os.Symlink("../"+name+".service", filepath.Join(root, "etc/systemd/system/multi-user.target.wants", name+".service")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	args := []string{"--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe", "--directory", root}
	for _, name := range []string{"bin", "sbin", "lib", "lib64", "share"} {
		args = append(args, "--bind-ro=/usr/"+name)
	}
	cmd := exec.CommandContext(ctx, nspawn, append(args, "--boot", "systemd.unit=multi-user.target")...)
	cmd.WaitDelay = 10 * time.Second
	console, err := cmd.CombinedOutput()
	said, _ := os.ReadFile(filepath.Join(root, "said"))
	errors, _ := os.ReadFile(filepath.Join(root, "errors"))
	if len(said) == 0 {
		t.Skipf("no systemd boots here: %v\n%s", err, console)
	}
	for _, want := range []string{
		"active: active", "healthy: yes", "user: slipway", "data: slipway 700", "memory: 2147483648", "reloaded: the same process", "restarted: 1", "stopped: success\ncredential: from /etc\nstopped: success",
	} {
		if !strings.Contains(string(said), want+"\n") {
			t.Errorf("it does not say %q: %v\n%s\n%s\n%s", want, err, said, errors, console)
		}
	}
}
