package platform

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/secret"
)

const (
	cursorVersion = 1
	cursorPurpose = "platform cursor"
	signatureSize = 20 // of secret.Keyring.MAC
)

// cursor is where a page ended: the sort key of its last item, and the query that it belongs to.
type cursor[K any] struct {
	Version int    `json:"v"`
	Query   string `json:"q"`
	After   K      `json:"k"`
}

// queryHash binds a cursor to what was asked for: the operation and its parameters without the page's size.
func queryHash(parts ...any) string {
	raw, _ := json.Marshal(parts) // strings and booleans always encode
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

func writeCursor[K any](keys *secret.Keyring, query string, after K) (string, error) {
	raw, err := json.Marshal(cursor[K]{cursorVersion, query, after})
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(append(keys.MAC(cursorPurpose, raw), raw...)), nil
}

// readCursor gives nil for no cursor. One that is not ours, or belongs to another query, is Invalid.
func readCursor[K any](keys *secret.Keyring, query, text string) (*K, error) {
	if text == "" {
		return nil, nil
	}
	bad := func(message string) error {
		return slipway.Errorf(slipway.Invalid, "the cursor %s; begin again without it", message).
			WithDetails(slipway.Detail{Field: "cursor", Code: slipway.Invalid, Message: "pass pageInfo.nextCursor of the page before, unchanged, with the same parameters"})
	}
	all, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(all) < signatureSize || !keys.Verify(cursorPurpose, all[signatureSize:], all[:signatureSize]) {
		return nil, bad("is not one of ours")
	}
	var c cursor[K]
	if err := json.Unmarshal(all[signatureSize:], &c); err != nil || c.Version != cursorVersion {
		return nil, bad("is not of this version")
	}
	if c.Query != query {
		return nil, bad("belongs to another query")
	}
	return &c.After, nil
}
