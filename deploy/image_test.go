//go:build linux

package deploy

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const user = 65532 // who runs in the image

var built struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	status := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(status)
}

// binary builds the program as make image does.
func binary(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "slipway-deploy-"); built.err == nil {
			built.err = run("", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(built.dir, "slipway"), "../cmd/slipway")
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "slipway")
}

func run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// image writes the archive and gives its bytes.
func image(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	if err := run("../tools", "go", "run", "./image", "-binary", binary(t), "-out", out, "-version", "0.0.0-test"); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// entries reads a tar into a map by name.
func entries(t *testing.T, r io.Reader) (headers map[string]*tar.Header, data map[string][]byte) {
	t.Helper()
	headers, data = map[string]*tar.Header{}, map[string][]byte{}
	for a := tar.NewReader(r); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return headers, data
		}
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = h
		if data[h.Name], err = io.ReadAll(a); err != nil {
			t.Fatal(err)
		}
	}
}

type descriptor struct {
	MediaType string
	Digest    string
	Size      int64
}

type imageConfig struct {
	Architecture, OS string
	Config           struct {
		User            string
		Entrypoint, Cmd []string
		Env             []string
		WorkingDir      string
		Volumes         map[string]any
		Healthcheck     struct{ Test []string }
	}
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	}
}

// open follows an archive from its index to its one layer, and checks each digest on the way.
func open(t *testing.T, archive []byte) (config imageConfig, layer []byte) {
	t.Helper()
	_, files := entries(t, bytes.NewReader(archive))
	blob := func(d descriptor) []byte {
		t.Helper()
		data := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		if sum := sha256.Sum256(data); "sha256:"+hex.EncodeToString(sum[:]) != d.Digest || int64(len(data)) != d.Size || d.MediaType == "" {
			t.Fatalf("the blob of %+v is not in the archive", d)
		}
		return data
	}
	parse := func(text []byte, v any) {
		t.Helper()
		if err := json.Unmarshal(text, v); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	var index struct{ Manifests []descriptor }
	parse(files["index.json"], &index)
	var manifest struct {
		SchemaVersion int
		Config        descriptor
		Layers        []descriptor
	}
	parse(blob(index.Manifests[0]), &manifest)
	parse(blob(manifest.Config), &config)
	var old []struct {
		Config           string
		RepoTags, Layers []string
	}
	parse(files["manifest.json"], &old)
	if len(old) != 1 || files[old[0].Config] == nil || files[old[0].Layers[0]] == nil || old[0].RepoTags[0] != "slipway:0.0.0-test" {
		t.Errorf("older engines cannot read it: %s", files["manifest.json"])
	}
	z, err := gzip.NewReader(bytes.NewReader(blob(manifest.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	if layer, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(layer); config.RootFS.DiffIDs[0] != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Error("the layer is not the one that the configuration names")
	}
	return config, layer
}

// unpack makes the root file system of a layer.
func unpack(t *testing.T, layer []byte) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(filepath.Dir(root), 0o755); err != nil { // the image's user has to get there
		t.Fatal(err)
	}
	for a := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var data []byte
			if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
				if data, err = io.ReadAll(a); err == nil {
					err = os.WriteFile(path, data, 0o644)
				}
			}
		}
		if err == nil && os.Getuid() == 0 {
			err = os.Lchown(path, h.Uid, h.Gid)
		}
		if err == nil {
			err = os.Chmod(path, h.FileInfo().Mode())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestTheImageIsTheSameEachTimeAndNobodyIsRootInIt(t *testing.T) {
	t.Parallel()
	archive := image(t)
	if !bytes.Equal(archive, image(t)) {
		t.Error("two images of the same inputs differ")
	}
	config, layer := open(t, archive)
	if c := config.Config; c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/usr/local/bin/slipway"}) || !slices.Equal(c.Cmd, []string{"serve"}) ||
		c.Volumes["/var/lib/slipway"] == nil || !slices.Equal(c.Healthcheck.Test, []string{"CMD", "/usr/local/bin/slipway", "health"}) || config.OS != "linux" || config.Architecture == "" {
		t.Errorf("got %+v", config)
	}
	headers, data := entries(t, bytes.NewReader(layer))
	for name, h := range headers {
		writable := name == "tmp/" || name == "var/lib/slipway/"
		if h.Mode&0o7000 != 0 && name != "tmp/" || h.Mode&0o022 != 0 && !writable || h.Uid != 0 && !writable {
			t.Errorf("%s has mode %o and belongs to %d", name, h.Mode, h.Uid)
		}
	}
	if len(data["usr/share/zoneinfo.zip"]) < 100_000 || !bytes.Contains(data["etc/ssl/certs/ca-certificates.crt"], []byte("BEGIN CERTIFICATE")) || !bytes.Contains(data["etc/passwd"], []byte("slipway:x:65532:")) {
		t.Error("certificates, time zones or the user are missing")
	}
}

// inside makes a command that runs in the root file system: as the image's user, with nothing but the image's environment, and where the machine lets us, with the root
// mounted so that nobody can write to it, as containers do. Elsewhere the owners and modes of the files say the same.
func inside(ctx context.Context, t *testing.T, root string, config imageConfig, args ...string) *exec.Cmd {
	t.Helper()
	argv := append(slices.Clone(config.Config.Entrypoint), args...)
	var cmd *exec.Cmd
	const mount = `set -e; mount --bind "$0" "$0"; mount --bind "$0/var/lib/slipway" "$0/var/lib/slipway"; mount -o remount,bind,ro "$0"; exec chroot --userspec=65532:65532 "$0" "$@"`
	const probe = `set -e; mount --bind "$0" "$0"; mount --bind "$0/var/lib/slipway" "$0/var/lib/slipway"; mount -o remount,bind,ro "$0"; ! touch "$0/tmp/x" 2>/dev/null; touch "$0/var/lib/slipway/.probe"; rm "$0/var/lib/slipway/.probe"`
	switch {
	case os.Getuid() == 0 && exec.Command("unshare", "-m", "sh", "-c", probe, root).Run() == nil:
		t.Log("its root is mounted read-only")
		cmd = exec.CommandContext(ctx, "unshare", append([]string{"-m", "sh", "-c", mount, root}, argv...)...)
	case os.Getuid() == 0:
		t.Log("its root is protected by its owner")
		cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: user, Gid: user}}
	default:
		t.Log("it runs in a user namespace, or fails")
		cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, Chroot: root,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Getgid(), Size: 1}},
		}
	}
	cmd.Env = append(slices.Clone(config.Config.Env), "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SLIPWAY_SERVER_LISTEN=127.0.0.1:0")
	if cmd.SysProcAttr != nil {
		cmd.Dir = config.Config.WorkingDir
	}
	return cmd
}

var serves = regexp.MustCompile(`serves (http://[0-9.:]+)`)

func TestTheImagesRootFileSystemRuns(t *testing.T) {
	t.Parallel()
	config, layer := open(t, image(t))
	root := unpack(t, layer)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if out, err := inside(ctx, t, root, config, "version").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("slipway")) {
		t.Fatalf("slipway version: %v\n%s", err, out)
	}

	cmd := inside(ctx, t, root, config, config.Config.Cmd...)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var address string
	for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
		if m := serves.FindStringSubmatch(lines.Text()); m != nil {
			address = m[1]
		}
	}
	if address == "" {
		t.Fatalf("it does not serve: %v\n%s", cmd.Wait(), &log)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	res, err := http.Get(address + "/healthz")
	if err != nil || res.StatusCode != 200 {
		t.Errorf("/healthz: %v, %v", res, err)
	} else {
		res.Body.Close()
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if !bytes.Contains(status, []byte("\nUid:\t65532\t65532")) && os.Getuid() == 0 {
		t.Errorf("it does not run as the image's user:\n%s", status)
	}
	health := inside(ctx, t, root, config, config.Config.Healthcheck.Test[2:]...)
	health.Env = append(health.Env, "SLIPWAY_URL="+address)
	if out, err := health.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("database main")) {
		t.Errorf("the health check: %v\n%s", err, out)
	}
	// Where nothing answers it fails.
	sick := inside(ctx, t, root, config, config.Config.Healthcheck.Test[2:]...)
	sick.Env = append(sick.Env, "SLIPWAY_URL=http://127.0.0.1:1")
	if out, err := sick.CombinedOutput(); err == nil {
		t.Errorf("the health check of nothing: %s", out)
	}
	for _, name := range []string{"main.db", "master.key", "admin-token"} {
		if _, err := os.Stat(filepath.Join(root, "var/lib/slipway", name)); err != nil && os.Getuid() == 0 {
			t.Errorf("its data are not where the volume is: %v", err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it did not stop in order: %v\n%s", err, &log)
	}
}

func TestContainerfileAndComposeFileAreInOrder(t *testing.T) {
	t.Parallel()
	lint := func(files ...string) ([]byte, error) {
		args := []string{"run", "."}
		for _, f := range files {
			abs, err := filepath.Abs(f)
			if err != nil {
				t.Fatal(err)
			}
			args = append(args, abs)
		}
		cmd := exec.Command("go", args...)
		cmd.Dir = "../tools/deploylint"
		return cmd.CombinedOutput()
	}
	if out, err := lint("Containerfile", "compose.yaml"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// The lint is no rubber stamp.
	if out, err := lint("testdata/Containerfile", "testdata/compose.yaml"); err == nil || bytes.Count(out, []byte("\n")) < 8 {
		t.Errorf("faulty files pass: %v\n%s", err, out)
	}
}
