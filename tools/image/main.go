// Command image writes an image of Slipway for containers without an engine: an archive that is an OCI layout, and that `docker load`, `podman load` and `skopeo copy
// oci-archive:` take. It has one layer: the static binary, certificates of authorities, time zones, a user who is not root, and a folder for data. The same inputs give the same bytes.
//
//	image -binary slipway -out dist/slipway-image.tar -version 0.1.0
//
// The image has no shell and no git, which only builds of the provider `local` need: deploy/Containerfile makes one with both.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "slipway", "the static binary")
	flag.StringVar(&o.out, "out", "dist/slipway-image.tar", "the archive to write")
	flag.StringVar(&o.version, "version", "devel", "version, the image's tag and label")
	flag.StringVar(&o.certificates, "certificates", "", "file with the certificates of authorities (default the machine's own)")
	flag.StringVar(&o.zones, "zones", "", "file with the time zones, zoneinfo.zip (default that of the Go at hand)")
	flag.Parse()
	digest, err := o.write()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: slipway:%s, %s\n", o.out, o.version, digest)
}

// user is who runs in the image.
const user = 65532

const (
	entrypoint = "/usr/local/bin/slipway"
	dataDir    = "/var/lib/slipway"
	mediaTypes = "application/vnd.oci.image."
)

// options is what an image is made of.
type options struct{ binary, out, version, certificates, zones string }

// write makes the archive and gives the digest of the image's manifest.
func (o options) write() (string, error) {
	arch, err := o.architecture()
	if err != nil {
		return "", err
	}
	layer, diffID, err := o.layer()
	if err != nil {
		return "", err
	}
	created := epoch().Format(time.RFC3339)
	labels := map[string]string{
		"org.opencontainers.image.title": "Slipway", "org.opencontainers.image.version": o.version, "org.opencontainers.image.created": created,
		"org.opencontainers.image.description": "One API for a developer platform", "org.opencontainers.image.source": "https://github.com/slipway-platform/slipway",
	}
	config := marshal(map[string]any{
		"architecture": arch, "os": "linux", "created": created,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{diffID}},
		"history": []any{map[string]any{"created": created, "created_by": "slipway tools/image"}},
		"config": map[string]any{
			"User": fmt.Sprintf("%d:%d", user, user), "Entrypoint": []string{entrypoint}, "Cmd": []string{"serve"}, "WorkingDir": dataDir, "Labels": labels,
			"Env": []string{
				"PATH=/usr/local/bin", "HOME=" + dataDir, "ZONEINFO=/usr/share/zoneinfo.zip", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
				"SLIPWAY_DATA_DIR=" + dataDir, "SLIPWAY_SERVER_LISTEN=0.0.0.0:8080",
			},
			"ExposedPorts": map[string]any{"8080/tcp": struct{}{}}, "Volumes": map[string]any{dataDir: struct{}{}}, "StopSignal": "SIGTERM",
			// Docker's own; others leave it aside.
			"Healthcheck": map[string]any{"Test": []string{"CMD", entrypoint, "health"}, "Interval": 30 * time.Second, "Timeout": 6 * time.Second, "StartPeriod": 30 * time.Second, "Retries": 3},
		},
	})
	blobs := map[string][]byte{}
	blob := func(kind string, data []byte) map[string]any {
		d := digest(data)
		blobs[d] = data
		return map[string]any{"mediaType": mediaTypes + kind, "digest": d, "size": len(data)}
	}
	configBlob, layerBlob := blob("config.v1+json", config), blob("layer.v1.tar+gzip", layer)
	manifest := marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaTypes + "manifest.v1+json", "config": configBlob, "layers": []any{layerBlob}, "annotations": labels})
	top := blob("manifest.v1+json", manifest)
	top["platform"] = map[string]any{"architecture": arch, "os": "linux"}
	top["annotations"] = map[string]any{"org.opencontainers.image.ref.name": o.version, "io.containerd.image.name": "slipway:" + o.version}

	var archive bytes.Buffer
	w := &tree{tar.NewWriter(&archive)}
	w.file("oci-layout", 0o644, 0, marshal(map[string]any{"imageLayoutVersion": "1.0.0"}))
	w.file("index.json", 0o644, 0, marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaTypes + "index.v1+json", "manifests": []any{top}}))
	path := func(d any) string { return "blobs/sha256/" + strings.TrimPrefix(d.(string), "sha256:") }
	// As older engines read it.
	w.file("manifest.json", 0o644, 0, marshal([]any{map[string]any{"Config": path(configBlob["digest"]), "RepoTags": []string{"slipway:" + o.version}, "Layers": []string{path(layerBlob["digest"])}}}))
	for _, d := range []any{configBlob["digest"], layerBlob["digest"], top["digest"]} {
		w.file(path(d), 0o644, 0, blobs[d.(string)])
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return "", err
	}
	return top["digest"].(string), os.WriteFile(o.out, archive.Bytes(), 0o644)
}

// architecture is what the binary was built for; it must run without anything beside it.
func (o options) architecture() (string, error) {
	info, err := buildinfo.ReadFile(o.binary)
	if err != nil {
		return "", fmt.Errorf("%s is no binary of Go: %w; run make build", o.binary, err)
	}
	set := map[string]string{}
	for _, s := range info.Settings {
		set[s.Key] = s.Value
	}
	if set["GOOS"] != "linux" || set["CGO_ENABLED"] != "0" {
		return "", errors.New("the binary must be a static one for Linux: GOOS=linux CGO_ENABLED=0 make build")
	}
	return set["GOARCH"], nil
}

// layer gives the compressed layer and the digest of what is compressed.
func (o options) layer() (layer []byte, diffID string, err error) {
	binary, err := os.ReadFile(o.binary)
	if err != nil {
		return nil, "", err
	}
	certificates, err := readFirst(o.certificates, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
	if err != nil {
		return nil, "", fmt.Errorf("no certificates of authorities: %w; install ca-certificates, or name a file with -certificates", err)
	}
	if o.zones == "" {
		root, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return nil, "", fmt.Errorf("no time zones: %w; name Go's zoneinfo.zip with -zones", err)
		}
		o.zones = filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip")
	}
	zones, err := os.ReadFile(o.zones)
	if err != nil {
		return nil, "", fmt.Errorf("no time zones: %w; name Go's zoneinfo.zip with -zones", err)
	}
	var raw bytes.Buffer
	w := &tree{tar.NewWriter(&raw)}
	for _, name := range []string{"etc/", "etc/slipway/", "etc/ssl/", "etc/ssl/certs/", "usr/", "usr/local/", "usr/local/bin/", "usr/share/", "var/", "var/lib/"} {
		w.folder(name, 0o755, 0)
	}
	w.folder("tmp/", 0o1777, 0)
	w.folder(strings.TrimPrefix(dataDir, "/")+"/", 0o700, user)
	w.file("etc/passwd", 0o644, 0, fmt.Appendf(nil, "root:x:0:0:root:/root:/sbin/nologin\nslipway:x:%d:%[1]d:slipway:%s:/sbin/nologin\n", user, dataDir))
	w.file("etc/group", 0o644, 0, fmt.Appendf(nil, "root:x:0:\nslipway:x:%d:\n", user))
	w.file("etc/ssl/certs/ca-certificates.crt", 0o644, 0, certificates)
	w.file("usr/share/zoneinfo.zip", 0o644, 0, zones)
	w.file(strings.TrimPrefix(entrypoint, "/"), 0o755, 0, binary)
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	var small bytes.Buffer
	z, err := gzip.NewWriterLevel(&small, gzip.BestSpeed)
	if err != nil {
		return nil, "", err
	}
	_, err = z.Write(raw.Bytes())
	if err := errors.Join(err, z.Close()); err != nil {
		return nil, "", err
	}
	return small.Bytes(), digest(raw.Bytes()), nil
}

func readFirst(names ...string) ([]byte, error) {
	var last error
	for _, name := range names {
		if name == "" {
			continue
		}
		text, err := os.ReadFile(name)
		if err == nil {
			return text, nil
		}
		last = err
	}
	return nil, last
}

// tree writes files and folders of which nothing depends on the machine. What fails is told by Close.
type tree struct{ *tar.Writer }

func (t *tree) folder(name string, mode int64, owner int) {
	_ = t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: owner, Gid: owner, ModTime: epoch(), Format: tar.FormatUSTAR})
}

func (t *tree) file(name string, mode int64, owner int, data []byte) {
	_ = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Uid: owner, Gid: owner, Size: int64(len(data)), ModTime: epoch(), Format: tar.FormatUSTAR})
	_, _ = io.Copy(t.Writer, bytes.NewReader(data))
}

// epoch is when everything was made: SOURCE_DATE_EPOCH, or 1970.
func epoch() time.Time {
	seconds, _ := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	return time.Unix(seconds, 0).UTC()
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// marshal writes JSON with its keys in order.
func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // all of it is ours
	}
	return text
}
