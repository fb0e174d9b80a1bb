//go:build unix

package fetch

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// What a killed process leaves is removed at the next start, what another one uses is not, and neither is what is not ours to remove.
func TestFoldersOfKilledGitsAreRemoved(t *testing.T) {
	if address := os.Getenv("FETCH_TEST_DAEMON"); address != "" { // the process that is killed
		newFetcher(t, nil, "git://"+address).ResolveRef(t.Context(), "git://"+address+"/deaf", "")
		return
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for { // takes connections and says nothing
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	folders := func() (found []string) {
		found, err := filepath.Glob(filepath.Join(temp, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	old := time.Now().Add(-time.Hour)
	age := func(path string) {
		t.Helper()
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	child := exec.Command(os.Args[0], "-test.run=^TestFoldersOfKilledGitsAreRemoved$")
	child.Env = append(os.Environ(), "FETCH_TEST_DAEMON="+l.Addr().String())
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill := func() {
		if !killed {
			killed = true
			child.Process.Kill()
			child.Wait()
		}
	}
	t.Cleanup(kill)
	var left string
	for deadline := time.Now().Add(time.Minute); left == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the child has no folder")
		}
		if found, _ := filepath.Glob(filepath.Join(temp, homePrefix+"*", "config")); len(found) == 1 {
			if info, err := os.Stat(found[0]); err == nil && info.Size() > 0 { // written after it was locked
				left = filepath.Dir(found[0])
			}
		}
	}
	empty := filepath.Join(temp, homePrefix+"empty") // killed before its file was made
	file := filepath.Join(temp, homePrefix+"file")   // no folder
	other := filepath.Join(temp, "slipway-other")
	write(t, file, "")
	for _, dir := range []string{empty, other} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{left, empty, file, other} {
		age(path)
	}

	sweepAs := func() { // by a process that starts
		t.Helper()
		dir, remove, err := (&homes{}).open([]byte("[a]\n"))
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(homeConfig(dir)); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 4 {
			t.Errorf("got %v, %v", info, err)
		}
		remove()
	}
	sweepAs()
	if got := folders(); len(got) != 3 || got[0] != left && got[1] != left {
		t.Fatalf("there are %q, want all but the empty one: the child is alive", got)
	}
	kill()
	if _, err := os.Stat(left); err != nil {
		t.Fatal("the killed process left nothing, so this test shows nothing: ", err)
	}
	sweepAs()
	if got := folders(); len(got) != 2 || got[0] != file || got[1] != other {
		t.Errorf("there are %q, want only what is not a git's folder", got)
	}
}
