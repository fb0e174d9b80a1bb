package secret

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/slipway-platform/slipway"
)

const cursorVersion = 1

// Cursors writes and reads the cursors of one query: the text that a caller passes to read on where a page ended. It is
// base64url of a MAC of the keyring and of the version, a hash of the query, and the sort key K of the page's last item, so
// that only what was given out comes back, on every replica, and to no other query. What it holds can be read: no secrets.
type Cursors[K any] struct {
	keys  *Keyring
	list  string
	query string
}

// cursor is what the text holds.
type cursor[K any] struct {
	Version int    `json:"v"`
	Query   string `json:"q"`
	After   K      `json:"k"`
}

// CursorsOf gives the cursors of a list ("dora history") for one query: all that is asked for but the page's size, as values
// that encode to JSON.
func CursorsOf[K any](keys *Keyring, list string, query ...any) Cursors[K] {
	sum := sha256.Sum256(encode(query))
	return Cursors[K]{keys, list + " cursor", base64.RawURLEncoding.EncodeToString(sum[:12])}
}

// Write gives the cursor behind an item.
func (c Cursors[K]) Write(after K) string {
	raw := encode(cursor[K]{cursorVersion, c.query, after})
	return base64.RawURLEncoding.EncodeToString(append(c.keys.MAC(c.list, raw), raw...))
}

// Read gives the key that was written, nil for no cursor. One that is not ours, or belongs to another query, is Invalid.
func (c Cursors[K]) Read(text string) (*K, error) {
	if text == "" {
		return nil, nil
	}
	bad := func(message string) error {
		return slipway.Errorf(slipway.Invalid, "the cursor %s; begin again without it", message).
			WithDetails(slipway.Detail{Field: "cursor", Code: slipway.Invalid, Message: "pass pageInfo.nextCursor of the page before, unchanged, with the same parameters"})
	}
	const size = idSize + tagSize
	// The decoder skips line ends, hence the comparison of lengths.
	all, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || base64.RawURLEncoding.EncodedLen(len(all)) != len(text) || len(all) < size || !c.keys.Verify(c.list, all[size:], all[:size]) {
		return nil, bad("is not one of this list")
	}
	var read cursor[K]
	if err := json.Unmarshal(all[size:], &read); err != nil || read.Version != cursorVersion {
		return nil, bad("is not of this version")
	}
	if read.Query != c.query {
		return nil, bad("belongs to another query")
	}
	return &read.After, nil
}

func encode(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("secret: a cursor of %T does not encode: %v", v, err)) // a program error, whatever callers send
	}
	return raw
}
