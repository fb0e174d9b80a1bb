package secret

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
)

// service wraps by turning every bit, counts how often it is asked, and may be down.
type service struct {
	asked int
	down  error
}

func (s *service) turn(b []byte) ([]byte, error) {
	s.asked++
	out := make([]byte, len(b))
	for i := range b {
		out[i] = ^b[i]
	}
	return out, s.down
}

func (s *service) Wrap(_ context.Context, key []byte) ([]byte, error)       { return s.turn(key) }
func (s *service) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) { return s.turn(wrapped) }

func TestAServiceKeepsTheKeyOfTheKeys(t *testing.T) {
	t.Parallel()
	path, kms := filepath.Join(t.TempDir(), "master.key"), &service{}
	k, err := Open(Keys{File: path, Create: true, KMS: kms})
	if err != nil {
		t.Fatal(err)
	}
	first, _ := k.Seal([]byte("one"), "a")
	if err := k.Rotate(); err != nil {
		t.Fatal(err)
	}
	second, _ := k.Seal([]byte("two"), "a")
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), " kms:") != 2 {
		t.Fatalf("the file is %s, %v; want two wrapped keys", text, err)
	}
	for _, key := range k.keys {
		if strings.Contains(string(text), base64.StdEncoding.EncodeToString(key.master)) {
			t.Error("a master key stands in the file")
		}
	}
	kms.asked = 0
	again, err := Open(Keys{File: path, KMS: kms})
	if err != nil {
		t.Fatal(err)
	}
	for sealed, want := range map[string]string{first: "one", second: "two"} {
		if plain, err := again.Open(sealed, "a"); err != nil || string(plain) != want {
			t.Errorf("got %s, %v, want %s", plain, err, want)
		}
	}
	if err := again.Reload(); err != nil || kms.asked != 2 {
		t.Errorf("got %v, and the service was asked %d times; want once for each key", err, kms.asked)
	}
	kms.down = errors.New("no route")
	if _, err := Open(Keys{File: path, KMS: kms}); slipway.CodeOf(err) != slipway.Unavailable {
		t.Errorf("the service is down: got %v", err)
	}
	if err := again.Rotate(); slipway.CodeOf(err) != slipway.Unavailable {
		t.Errorf("the service is down: got %v from a rotation", err)
	}
	if _, err := Open(Keys{File: path}); slipway.CodeOf(err) != slipway.Invalid || !strings.Contains(err.Error(), "secrets.kms") {
		t.Errorf("no service: got %v, want to be told what to configure", err)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != string(text) {
		t.Errorf("the file has changed to %s, %v", now, err)
	}
}

func TestAServiceIsReachedByCommands(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	k, err := Open(Keys{File: path, Create: true, KMS: Command{WrapArgs: []string{"base64"}, UnwrapArgs: []string{"base64", "-d"}}})
	if err != nil {
		t.Fatal(err)
	}
	sealed, _ := k.Seal([]byte("one"), "a")
	if plain, err := k.Open(sealed, "a"); err != nil || string(plain) != "one" {
		t.Errorf("got %s, %v", plain, err)
	}
	for what, command := range map[string]Command{
		"it fails":              {UnwrapArgs: []string{"false"}},
		"it is not there":       {UnwrapArgs: []string{"/nowhere/kms"}},
		"it gives something":    {UnwrapArgs: []string{"cat"}},
		"it writes without end": {UnwrapArgs: []string{"sh", "-c", "head -c 1000000 /dev/zero"}},
		"none":                  {WrapArgs: []string{"base64"}},
	} {
		if _, err := Open(Keys{File: path, KMS: command}); slipway.CodeOf(err) != slipway.Unavailable {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if _, err := Open(Keys{File: filepath.Join(t.TempDir(), "other.key"), Create: true, KMS: Command{WrapArgs: []string{"cat"}}}); slipway.CodeOf(err) != slipway.Unavailable {
		t.Errorf("a command that wraps nothing: got %v", err)
	}
}

func TestKeysMayBeGivenAsText(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	file, err := OpenKeyring(path, true)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	given, err := Open(Keys{File: filepath.Join(t.TempDir(), "none"), Text: string(text)})
	if err != nil {
		t.Fatal(err)
	}
	sealed, _ := given.Seal([]byte("one"), "a")
	if plain, err := file.Open(sealed, "a"); err != nil || string(plain) != "one" {
		t.Errorf("got %s, %v", plain, err)
	}
	if err := given.Rotate(); slipway.CodeOf(err) != slipway.Conflict {
		t.Errorf("got %v, want a rotation refused", err)
	}
	if _, err := given.Open("v1.00000000.AAAA", "a"); err == nil {
		t.Error("an unknown key opened something")
	}
	if _, err := Open(Keys{Text: "nonsense"}); slipway.CodeOf(err) != slipway.Invalid || strings.Contains(err.Error(), "nonsense") {
		t.Errorf("got %v, want a refusal that does not show the text", err)
	}
}

// A rotation that was killed left its new file behind; the key file is as it was, and the next rotation works once nobody can be at it any more.
func TestARotationThatWasKilledIsInNobodysWay(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	k, err := OpenKeyring(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".rotating", []byte("0000"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.Rotate(); slipway.CodeOf(err) != slipway.Conflict {
		t.Errorf("just begun: got %v, want it left alone", err)
	}
	long := time.Now().Add(-2 * rotating)
	if err := os.Chtimes(path+".rotating", long, long); err != nil {
		t.Fatal(err)
	}
	if err := k.Rotate(); err != nil || len(k.KeyIDs()) != 2 {
		t.Errorf("got %v and the keys %v", err, k.KeyIDs())
	}
}
