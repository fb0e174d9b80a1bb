// Package secret keeps secrets from where they do not belong: Keyring seals them for storage and signs
// what leaves the house and comes back, such as cursors, Text hides one from every way of printing, Redactor takes known
// ones out of logs and build output, and Expand reads ${env:NAME} in config.
//
// It stores nothing but the key file; who may read a secret is decided elsewhere.
package secret

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
)

const (
	keySize     = 32      // bytes of a master key
	idSize      = 4       // bytes of a key's id, written as 8 hex digits
	tagSize     = 16      // bytes of a MAC that travel
	keyFileSize = 1 << 20 // bytes; a larger file is no key file
)

// Keyring holds the master keys of an installation, newest first. New values are sealed and signed with
// the newest key; older keys still open and verify what they made. All replicas share one key file, and
// a replica reads it again when it meets a key that it does not know, so that a rotation needs no
// restart. A Keyring may be used by many goroutines at once.
//
// The file has one key per line, "<8 hex digits> <base64 of 32 bytes>", or "<8 hex digits> kms:<base64>" for a key that a
// key management service has wrapped; empty lines and lines that begin with # are skipped. A line whose key is no longer
// needed may be deleted by hand.
type Keyring struct {
	path  string // "": the keys were given as text
	given string
	kms   KMS

	mu        sync.RWMutex
	keys      []key
	seen      fs.FileInfo       // the file as last read
	unwrapped map[string][]byte // master keys by what was wrapped, so that a service is asked once for each
}

// KMS is a key management service, which keeps a key that never leaves it. With one, the key file holds master keys that
// only the service can unwrap: a copy of it opens nothing. It is asked at start, when the file has changed, and when a key
// is made; never for a secret. An error is passed on; it must hold no key. Command is one.
type KMS interface {
	Wrap(ctx context.Context, key []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// Keys says where the master keys are.
type Keys struct {
	File   string // path of the key file
	Create bool   // make the file when there is none
	Text   string // the lines of a key file, in place of one; such keys are rotated by whoever gives them
	KMS    KMS    // nil: the keys are not wrapped
}

type key struct {
	id     string
	master []byte
	aead   cipher.AEAD
}

// OpenKeyring is Open with a key file and nothing else.
func OpenKeyring(path string, create bool) (*Keyring, error) {
	return Open(Keys{File: path, Create: create})
}

// Open reads the keys. When there is no file, Create makes one with a fresh key, mode 0600; of several processes that create
// the same file at once one wins and all use its key. A file that others may touch, or a group may write, is refused, as is a
// damaged one.
func Open(o Keys) (*Keyring, error) {
	k := &Keyring{path: o.File, kms: o.KMS}
	if o.Text != "" {
		k.path, k.given = "", o.Text
		return k, k.load()
	}
	err := k.load()
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if !o.Create {
		return nil, slipway.Errorf(slipway.Invalid,
			"there is no key file at %s: copy it from another replica or a backup; without it nothing that is sealed can be read", o.File).WithCause(err)
	}
	line, err := k.newLine()
	if err != nil {
		return nil, err
	}
	if err := createFile(o.File, append(line, '\n')); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, slipway.Errorf(slipway.Internal, "the key file %s cannot be created", o.File).WithCause(err)
	}
	return k, k.load()
}

// Reload reads the keys again, or keeps those that it has and says what is wrong.
func (k *Keyring) Reload() error { return k.load() }

// place is where the keys are, for messages.
func (k *Keyring) place() string {
	if k.path == "" {
		return "the text of secrets.keys"
	}
	return k.path
}

// KeyIDs lists the ids of the keys, newest first. An id is no secret.
func (k *Keyring) KeyIDs() []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	ids := make([]string, len(k.keys))
	for i, key := range k.keys {
		ids[i] = key.id
	}
	return ids
}

// Seal encrypts plain with AES-256-GCM. The place (table, column and row id, say) is bound to the
// result without being part of it: Open needs the same words in the same order, so that a sealed value
// copied to another row does not open there. The result is "v1.<key id>.<base64url>", about a third
// longer than plain. Nonces are random: rotate before one key has sealed 2^32 values.
func (k *Keyring) Seal(plain []byte, place ...string) (string, error) {
	key := k.newest()
	return "v1." + key.id + "." + base64.RawURLEncoding.EncodeToString(key.aead.Seal(nil, nil, plain, bind(place))), nil
}

// Open decrypts what Seal made. All failures are Internal: a sealed value never comes from a caller, so
// one that does not open means a lost key, a damaged row, or somebody who moved rows about.
func (k *Keyring) Open(sealed string, place ...string) ([]byte, error) {
	version, rest, _ := strings.Cut(sealed, ".")
	id, text, ok := strings.Cut(rest, ".")
	if version != "v1" || !ok {
		return nil, slipway.Errorf(slipway.Internal, "a sealed value is damaged: it does not begin with v1 and a key id")
	}
	key, ok := k.find(id)
	if !ok {
		return nil, slipway.Errorf(slipway.Internal, "a value is sealed with key %.16q, which %s does not hold: restore that line of the key file", id, k.place())
	}
	box, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, slipway.Errorf(slipway.Internal, "a sealed value is damaged: enter the secret again").WithCause(err)
	}
	plain, err := key.aead.Open(nil, nil, box, bind(place))
	if err != nil {
		return nil, slipway.Errorf(slipway.Internal, "a sealed value is damaged or belongs elsewhere: enter the secret again").WithCause(err)
	}
	return plain, nil
}

// Stale says whether a sealed value was made by another key than the newest, and so should be opened and
// sealed again before that key is dropped.
func (k *Keyring) Stale(sealed string) bool {
	return !strings.HasPrefix(sealed, "v1."+k.newest().id+".")
}

// MAC signs data for one purpose ("cursor", "session"): a signature for one purpose is worth nothing for
// another. It is 20 bytes long: the key's id and 128 bits of HMAC-SHA256.
func (k *Keyring) MAC(purpose string, data []byte) []byte {
	return k.newest().mac(purpose, data)
}

// Verify says in constant time whether MAC made the signature, with the newest key or an older one.
func (k *Keyring) Verify(purpose string, data, signature []byte) bool {
	if len(signature) != idSize+tagSize {
		return false
	}
	key, ok := k.find(hex.EncodeToString(signature[:idSize]))
	return ok && hmac.Equal(signature, key.mac(purpose, data))
}

// rotating is how long a rotation may take at most: what an earlier one left behind is from one that was killed.
const rotating = 2 * kmsTimeout

// Rotate puts a fresh key in front of the others, in the file and in memory. A second rotation at the
// same time is a Conflict; one that was killed half-way has changed nothing, and is in nobody's way a minute later.
func (k *Keyring) Rotate() error {
	if k.path == "" {
		return slipway.Errorf(slipway.Conflict, "the keys are given by the configuration (secrets.keys): put a line with a new key first there, restart, and have the secrets sealed with it")
	}
	line, err := k.newLine()
	if err != nil {
		return err
	}
	// The new file is also the lock: it is complete before it takes the old one's place, and nobody else
	// can begin one meanwhile.
	next := k.path + ".rotating"
	if left, err := os.Stat(next); err == nil && time.Since(left.ModTime()) > rotating {
		_ = os.Remove(next) // when that fails, so does the next line
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return slipway.Errorf(slipway.Conflict, "another rotation is under way; try again in a minute").After(rotating).WithCause(err)
	} else if err != nil {
		return slipway.Errorf(slipway.Internal, "the key file cannot be rotated: its folder must be writable").WithCause(err)
	}
	old, err := os.ReadFile(k.path)
	if err == nil {
		err = writeAll(f, bytes.Join([][]byte{line, old}, []byte("\n")))
	} else {
		f.Close()
	}
	if err == nil {
		err = os.Rename(next, k.path)
	}
	if err != nil {
		os.Remove(next)
		return slipway.Errorf(slipway.Internal, "the key file %s cannot be rewritten", k.path).WithCause(err)
	}
	syncDir(filepath.Dir(k.path))
	return k.load()
}

func (k *Keyring) newest() key {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys[0]
}

// find looks a key up, and looks into the file once more when another process has changed it.
func (k *Keyring) find(id string) (key, bool) {
	if found, ok := k.known(id); ok || k.path == "" {
		return found, ok
	}
	now, err := os.Stat(k.path)
	k.mu.RLock()
	same := err != nil || os.SameFile(now, k.seen) && now.ModTime().Equal(k.seen.ModTime()) && now.Size() == k.seen.Size()
	k.mu.RUnlock()
	if same || k.load() != nil {
		return key{}, false
	}
	return k.known(id)
}

func (k *Keyring) known(id string) (key, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, key := range k.keys {
		if key.id == id {
			return key, true
		}
	}
	return key{}, false
}

// load replaces the keys by those of the file, or keeps the old ones and says what is wrong with it.
func (k *Keyring) load() error {
	if k.path == "" {
		return k.read([]byte(k.given), nil)
	}
	f, err := os.Open(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	} else if errors.Is(err, fs.ErrPermission) {
		return slipway.Errorf(slipway.Internal, "the key file %s cannot be read: its owner must be the user that runs Slipway", k.path).WithCause(err)
	} else if err != nil {
		return slipway.Errorf(slipway.Internal, "the key file %s cannot be read: %w", k.path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return slipway.Errorf(slipway.Internal, "the key file %s cannot be read", k.path).WithCause(err)
	}
	if !info.Mode().IsRegular() || info.Size() > keyFileSize {
		return slipway.Errorf(slipway.Invalid, "%s is not a key file: a key file is a short text file", k.path)
	}
	// A group may read it: that is how Kubernetes mounts a secret for a user who is not root.
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o037 != 0 {
		return slipway.Errorf(slipway.Invalid, "the key file %s is open to others (mode %04o): run chmod 600 on it", k.path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, keyFileSize))
	if err != nil {
		return slipway.Errorf(slipway.Internal, "the key file %s cannot be read", k.path).WithCause(err)
	}
	return k.read(text, info)
}

// read takes over the keys of a text.
func (k *Keyring) read(text []byte, info fs.FileInfo) error {
	lines, err := parse(text)
	if err != nil {
		return slipway.Errorf(slipway.Invalid, "the key file %s is damaged: %v", k.place(), err)
	}
	var keys []key
	for _, l := range lines {
		master := l.master
		if l.wrapped {
			if master, err = k.unwrap(l.master); err != nil {
				return err
			}
		}
		block, err := aes.NewCipher(derive(master, "slipway seal v1"))
		if err != nil {
			return err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return err
		}
		keys = append(keys, key{id: l.id, master: master, aead: aead})
	}
	k.mu.Lock()
	k.keys, k.seen = keys, info
	k.mu.Unlock()
	return nil
}

// line is a key as it stands in the file.
type line struct {
	id      string
	master  []byte
	wrapped bool // master is what a service wrapped
}

const wrappedMark = "kms:"

// parse reads the lines of a key file. Its errors name lines, never their text.
func parse(text []byte) ([]line, error) {
	var all []line
	ids := map[string]bool{}
	number := 0
	for text := range strings.Lines(string(text)) {
		number++
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		id, encoded, _ := strings.Cut(text, " ")
		raw, err := hex.DecodeString(id)
		if err != nil || len(raw) != idSize || id != strings.ToLower(id) {
			return nil, fmt.Errorf("line %d does not begin with an id of 8 hex digits", number)
		}
		encoded, wrapped := strings.CutPrefix(strings.TrimSpace(encoded), wrappedMark)
		master, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || !wrapped && len(master) != keySize || len(master) == 0 {
			return nil, fmt.Errorf("the key in line %d is not the base64 of 32 bytes", number)
		}
		if ids[id] {
			return nil, fmt.Errorf("line %d repeats the id %s", number, id)
		}
		ids[id] = true
		all = append(all, line{id, master, wrapped})
	}
	if len(all) == 0 {
		return nil, errors.New("it holds no key")
	}
	return all, nil
}

func (k key) mac(purpose string, data []byte) []byte {
	h := hmac.New(sha256.New, derive(k.master, "slipway mac v1 "+purpose))
	h.Write(data)
	id, _ := hex.DecodeString(k.id) // parse has checked it
	return append(id, h.Sum(nil)[:tagSize]...)
}

// derive makes the key of one purpose from a master key.
func derive(master []byte, purpose string) []byte {
	sub, err := hkdf.Key(sha256.New, master, nil, purpose, keySize)
	if err != nil {
		panic(err) // only for lengths that a constant cannot have
	}
	return sub
}

// bind writes the words of a place so that no two lists of words give the same bytes.
func bind(place []string) []byte {
	var b []byte
	for _, word := range place {
		b = binary.AppendUvarint(b, uint64(len(word)))
		b = append(b, word...)
	}
	return b
}

// newLine makes a key.
func (k *Keyring) newLine() ([]byte, error) {
	var b [idSize + keySize]byte
	rand.Read(b[:]) // never fails: the program ends instead
	master, mark := b[idSize:], ""
	if k.kms != nil {
		var err error
		if master, err = k.wrap(master); err != nil {
			return nil, err
		}
		mark = wrappedMark
	}
	return fmt.Appendf(nil, "%x %s%s", b[:idSize], mark, base64.StdEncoding.EncodeToString(master)), nil
}

// createFile makes a complete file appear at path at once, or fails with fs.ErrExist.
func createFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := writeAll(f, content); err != nil {
		return err
	}
	// A link, unlike a rename, never replaces what another process put there meanwhile.
	err = os.Link(f.Name(), path)
	if err != nil && !errors.Is(err, fs.ErrExist) { // a file system without links
		direct, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return writeAll(direct, content)
	}
	syncDir(filepath.Dir(path))
	return err
}

// writeAll writes, syncs and closes.
func writeAll(f *os.File, content []byte) error {
	_, err := f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncDir makes a new name in a folder durable. Not every system can sync a folder, and the name is
// written sooner or later anyway, so that its error says nothing of use.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
