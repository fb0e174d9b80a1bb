package secret

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-platform/slipway"
)

func newKeyring(t testing.TB) *Keyring {
	t.Helper()
	k, err := OpenKeyring(filepath.Join(t.TempDir(), "master.key"), true)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealedValueOpensOnlyAtItsPlace(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	sealed, err := k.Seal([]byte("hunter2"), "data_document", "spec", "42")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(sealed, "hunter2") {
		t.Fatalf("the sealed value shows the secret: %s", sealed)
	}
	if plain, err := k.Open(sealed, "data_document", "spec", "42"); err != nil || string(plain) != "hunter2" {
		t.Errorf("got %q, %v; want the secret back", plain, err)
	}
	for _, place := range [][]string{
		nil,
		{"data_document", "spec", "43"},
		{"data_document", "spec"},
		{"data_documentspec", "42"},
		{"data_document", "spec4", "2"}, // the same letters, other words
		{"data_document", "spec", "42", ""},
	} {
		if plain, err := k.Open(sealed, place...); err == nil {
			t.Errorf("opened at %q and gave %q; want a refusal", place, plain)
		}
	}
	again, err := k.Seal([]byte("hunter2"), "data_document", "spec", "42")
	if err != nil || again == sealed {
		t.Errorf("sealing twice gave the same value, or failed with %v; want another nonce", err)
	}
}

func TestChangedValueDoesNotOpen(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	sealed, err := k.Seal([]byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		changed := []byte(sealed)
		changed[i] ^= 1
		if plain, err := k.Open(string(changed)); err == nil {
			t.Fatalf("byte %d was changed, and it still opened as %q", i, plain)
		}
	}
	for i := range sealed {
		if _, err := k.Open(sealed[:i]); err == nil {
			t.Fatalf("the first %d bytes opened", i)
		}
	}
}

func TestOldKeysGoOnWorkingAfterARotation(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	replica, err := OpenKeyring(k.path, false)
	if err != nil {
		t.Fatal(err)
	}
	sealed, _ := k.Seal([]byte("hunter2"), "row")
	signed := k.MAC("cursor", []byte("page 2"))
	old := k.KeyIDs()

	if err := k.Rotate(); err != nil {
		t.Fatal(err)
	}
	if ids := k.KeyIDs(); len(ids) != 2 || ids[1] != old[0] {
		t.Fatalf("keys after the rotation: %v; want a new one before %v", ids, old)
	}
	if plain, err := k.Open(sealed, "row"); err != nil || string(plain) != "hunter2" {
		t.Errorf("the old value gave %q, %v", plain, err)
	}
	if !k.Verify("cursor", []byte("page 2"), signed) {
		t.Error("an old signature is no longer believed")
	}
	if !k.Stale(sealed) {
		t.Error("a value of the old key does not count as stale")
	}

	fresh, _ := k.Seal([]byte("new"), "row")
	if k.Stale(fresh) {
		t.Error("a value of the newest key counts as stale")
	}
	if plain, err := replica.Open(fresh, "row"); err != nil || string(plain) != "new" {
		t.Errorf("another replica, not restarted, gave %q, %v; want it to read the file again", plain, err)
	}
	if info, err := os.Stat(k.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file is %v, %v; want mode 0600", info.Mode(), err)
	}
}

func TestUnfinishedRotationIsNotOverrun(t *testing.T) {
	t.Parallel()
	k := newKeyring(t)
	if err := os.WriteFile(k.path+".rotating", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.Rotate(); !errors.Is(err, slipway.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
}

func TestSignatureIsBoundToPurposeAndData(t *testing.T) {
	t.Parallel()
	k, other := newKeyring(t), newKeyring(t)
	signed := k.MAC("cursor", []byte("page 2"))
	if !k.Verify("cursor", []byte("page 2"), signed) {
		t.Error("its own signature is not believed")
	}
	if k.Verify("session", []byte("page 2"), signed) {
		t.Error("a cursor's signature passes for a session's")
	}
	if k.Verify("cursor", []byte("page 3"), signed) || k.Verify("cursor", nil, signed) {
		t.Error("the signature of other data is believed")
	}
	if other.Verify("cursor", []byte("page 2"), signed) {
		t.Error("another installation's signature is believed")
	}
	for i := range signed {
		changed := bytes.Clone(signed)
		changed[i] ^= 1
		if k.Verify("cursor", []byte("page 2"), changed) || k.Verify("cursor", []byte("page 2"), signed[:i]) {
			t.Fatalf("a signature changed or cut at byte %d is believed", i)
		}
	}
}

func TestKeyFileIsMadeOnceByMany(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	ids := make([]string, 20)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			k, err := OpenKeyring(path, true)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = k.KeyIDs()[0]
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("two starts at once use two keys: %v", ids)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file is %v, %v; want mode 0600", info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v; want the key file alone", left, err)
	}
}

func TestBadKeyFilesAreRefused(t *testing.T) {
	t.Parallel()
	line, _ := new(Keyring).newLine() // without a service nothing fails
	good := string(line) + "\n"
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		"writable by the group": {good, 0o660},
		"readable by all":       {good, 0o604},
		"empty":                 {"", 0o600},
		"only a comment":        {"# keys\n", 0o600},
		"short key":             {"00000001 QUJD\n", 0o600},
		"no id":                 {good[9:], 0o600},
		"id twice":              {good + good, 0o600},
		"garbage":               {"\x00\xff\x00", 0o600},
	} {
		path := filepath.Join(t.TempDir(), "master.key")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil { // past the umask
			t.Fatal(err)
		}
		_, err := OpenKeyring(path, true)
		if !errors.Is(err, slipway.Invalid) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		} else if strings.Contains(err.Error(), good[9:40]) {
			t.Errorf("%s: the error shows the key", name)
		}
	}
	if _, err := OpenKeyring(filepath.Join(t.TempDir(), "none"), false); !errors.Is(err, slipway.Invalid) {
		t.Errorf("no file: got %v, want a refusal", err)
	}
	if _, err := OpenKeyring(t.TempDir(), true); !errors.Is(err, slipway.Invalid) {
		t.Errorf("a folder: got %v, want a refusal", err)
	}
}

func FuzzOpenNeverPanics(f *testing.F) {
	k, err := OpenKeyring(filepath.Join(f.TempDir(), "master.key"), true)
	if err != nil {
		f.Fatal(err)
	}
	sealed, _ := k.Seal([]byte("x"), "a")
	f.Add(sealed[:len(sealed)-1], "a")
	f.Add("v1."+k.KeyIDs()[0]+".", "")
	f.Add("v1..", "")
	f.Add("..", "")
	f.Fuzz(func(t *testing.T, text, place string) {
		if plain, err := k.Open(text, place); err == nil && (text != sealed || string(plain) != "x") {
			t.Errorf("garbage %q opened", text)
		}
		k.Verify(place, []byte(text), []byte(text))
	})
}

func FuzzKeyFileNeverPanics(f *testing.F) {
	line, _ := new(Keyring).newLine() // without a service nothing fails
	f.Add(append(line, '\n'))
	f.Add([]byte("00000001 kms:QUJD\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if keys, err := parse(text); err == nil && len(keys) == 0 {
			t.Error("no keys and no error")
		}
	})
}

func BenchmarkMAC(b *testing.B) {
	k, err := OpenKeyring(filepath.Join(b.TempDir(), "master.key"), true)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		k.MAC("cursor", []byte("a last sort key of some length"))
	}
}
