package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The same main, in a module of its own that only requires Slipway.
func TestAMainElsewhereIsABuildOfSlipway(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copyTo := func(name, from string, change func(string) string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(change(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	same := func(s string) string { return s }
	copyTo("main.go", "main.go", same)
	copyTo("go.sum", filepath.Join(root, "go.sum"), same)
	// Slipway's own requirements, as go mod tidy would find them, without asking the network.
	copyTo("go.mod", filepath.Join(root, "go.mod"), func(s string) string {
		const slipway = "github.com/slipway-platform/slipway"
		s = strings.Replace(s, "module "+slipway, "module example.com/platform", 1)
		return s + "\nrequire " + slipway + " v0.0.0\nreplace " + slipway + " => " + root + "\n"
	})
	program := filepath.Join(dir, "platform")
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", program, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), program, "describe", "greeting").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("/api/greetings")) {
		t.Errorf("got %v\n%s\nwant the declaration of the blueprint greeting", err, out)
	}
}
