package fetch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
)

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreReadOnlyBelowTheRoots(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	write(t, filepath.Join(root, "a.yaml"), "inside")
	write(t, filepath.Join(root, "sub", "b.yaml"), "deeper")
	write(t, filepath.Join(outside, "secret"), "secret")
	write(t, filepath.Join(dir, "root-2", "secret"), "secret") // a sibling with the same beginning
	link(t, "sub/b.yaml", filepath.Join(root, "relative"))
	link(t, filepath.Join(root, "a.yaml"), filepath.Join(root, "absolute"))
	link(t, filepath.Join(outside, "secret"), filepath.Join(root, "out"))
	link(t, outside, filepath.Join(root, "outdir"))
	link(t, "loop", filepath.Join(root, "loop"))
	link(t, root, filepath.Join(dir, "alias"))

	f := withConfig(t, nil, Config{FileRoots: []string{root}, MaxBytes: 100})
	for path, want := range map[string]string{
		filepath.Join(root, "a.yaml"):             "inside",
		"file://" + filepath.Join(root, "a.yaml"): "inside",
		filepath.Join(root, "relative"):           "deeper",
		filepath.Join(root, "absolute"):           "inside",
		filepath.Join(root, "sub/../a.yaml"):      "inside",
		filepath.Join(dir, "alias", "a.yaml"):     "inside",
	} {
		if got, err := f.ReadFile(path, 0); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v; want %q", path, got, err, want)
		}
	}
	for path, code := range map[string]slipway.Code{
		filepath.Join(outside, "secret"):                slipway.Invalid,
		filepath.Join(outside, "nothing"):               slipway.Invalid, // nobody learns that it is not there
		root + "/../outside/secret":                     slipway.Invalid,
		root + "/../outside/nothing":                    slipway.Invalid,
		filepath.Join(dir, "root-2", "secret"):          slipway.Invalid,
		filepath.Join(root, "out"):                      slipway.Invalid,
		filepath.Join(root, "outdir", "secret"):         slipway.Invalid,
		filepath.Join(root, "loop"):                     slipway.Invalid,
		root:                                            slipway.Invalid,
		filepath.Join(root, "none"):                     slipway.NotFound,
		"file://" + root + "/%2e%2e/outside/secret":     slipway.Invalid,
		"file://example.com" + root + "/a.yaml":         slipway.Invalid,
		"file://" + filepath.Join(root, "a.yaml") + "?": slipway.Invalid,
		"file:relative":                                 slipway.Invalid,
		filepath.Join(root, "a.yaml") + "\x00":          slipway.Invalid,
		"/proc/self/environ":                            slipway.Invalid,
		"":                                              slipway.Invalid,
	} {
		_, err := f.ReadFile(path, 0)
		wantCode(t, path, err, code)
	}
	none := newFetcher(t, nil)
	_, err := none.ReadFile(filepath.Join(root, "a.yaml"), 0)
	wantCode(t, "no roots", err, slipway.Invalid)
}

func TestFilesAreBounded(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, filepath.Join(root, "large"), strings.Repeat("x", 101))
	write(t, filepath.Join(root, "exact"), strings.Repeat("x", 100))
	f := withConfig(t, nil, Config{FileRoots: []string{root, "/dev", "/proc"}, MaxBytes: 100})
	if b, err := f.ReadFile(filepath.Join(root, "exact"), 0); err != nil || len(b) != 100 {
		t.Errorf("a file of exactly the limit: %v", err)
	}
	_, err := f.ReadFile(filepath.Join(root, "large"), 0)
	wantCode(t, "large file", err, slipway.TooLarge)
	if _, err := f.ReadFile(filepath.Join(root, "large"), 101); err != nil {
		t.Errorf("a limit of one's own: %v", err)
	}
	if _, err := os.Stat("/dev/zero"); err == nil {
		_, err := f.ReadFile("/dev/zero", 0)
		wantCode(t, "a device", err, slipway.Invalid)
	}
	if _, err := os.Stat("/proc/kallsyms"); err == nil { // it claims to be empty
		_, err := f.ReadFile("/proc/kallsyms", 0)
		wantCode(t, "a file without size", err, slipway.TooLarge)
	}
}

func TestGlobListsRegularFilesBelowTheRoots(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write(t, filepath.Join(root, "b", "x.yaml"), "")
	write(t, filepath.Join(root, "a", "x.yaml"), "")
	write(t, filepath.Join(root, "a", "y.json"), "")
	write(t, filepath.Join(root, "a", "z.yaml", "not a file"), "")
	write(t, filepath.Join(dir, "outside", "x.yaml"), "")
	link(t, filepath.Join(dir, "outside"), filepath.Join(root, "c"))
	f := withConfig(t, nil, Config{FileRoots: []string{root}})
	for pattern, want := range map[string][]string{
		root + "/*/*.yaml":             {"a/x.yaml", "b/x.yaml"},
		"file://" + root + "/*/*.yaml": {"a/x.yaml", "b/x.yaml"},
		root + "/a/x.yaml":             {"a/x.yaml"},
		root + "/a/[xy].*":             {"a/x.yaml", "a/y.json"},
		root + "/*/none":               nil,
		root + "/none/*":               nil,
		root + "/*/../../outside/*":    nil,
	} {
		got, err := f.Glob(pattern)
		for i, path := range got {
			got[i], _ = filepath.Rel(root, path)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v; want %v", pattern, got, err, want)
		}
	}
	for _, pattern := range []string{dir + "/*/x.yaml", dir + "/outside/*", root + "/c/*", root + "/../outside/*", root + "/[", "/*"} {
		_, err := f.Glob(pattern)
		wantCode(t, pattern, err, slipway.Invalid)
	}
}
