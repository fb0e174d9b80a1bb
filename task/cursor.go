package task

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"

	"github.com/slipway-platform/slipway"
)

// Signer signs cursors. secret.Keyring is one.
type Signer interface {
	MAC(purpose string, data []byte) []byte
	Verify(purpose string, data, signature []byte) bool
}

// key is an item's place in the order of a list: created, then source, then id. The order is total, and reversed for ascending lists.
type key struct {
	Created int64  `json:"c"`
	Source  int64  `json:"s"`
	ID      string `json:"i,omitempty"`
}

// edge is the place beyond all items of one moment: a list goes on with the moment after it.
func edge(created int64, ascending bool) key {
	if ascending {
		return key{Created: created, Source: math.MaxInt64}
	}
	return key{Created: created, Source: -1}
}

const (
	cursorVersion = 1
	cursorPurpose = "task cursor"
)

type cursor struct {
	Version int    `json:"v"`
	Query   string `json:"q"` // hash of the query that it belongs to
	After   key    `json:"k"`
}

// hash is what binds a cursor to its query.
func hash(parts any) string {
	raw, err := json.Marshal(parts)
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// encodeCursor gives the text of a cursor: base64url of the length of the content, the content and its signature.
func encodeCursor(s Signer, query string, after key) string {
	raw, err := json.Marshal(cursor{cursorVersion, query, after})
	if err != nil {
		panic(err)
	}
	out := binary.BigEndian.AppendUint16(nil, uint16(len(raw)))
	out = append(out, raw...)
	out = append(out, s.MAC(cursorPurpose, raw)...)
	return base64.RawURLEncoding.EncodeToString(out)
}

func decodeCursor(s Signer, query, text string) (key, error) {
	bad := slipway.Errorf(slipway.Invalid, "the cursor is not one of ours; begin again without it").
		WithDetails(slipway.Detail{Field: "cursor", Code: slipway.Invalid, Message: "pass pageInfo.nextCursor of the page before, unchanged"})
	all, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(all) < 2 {
		return key{}, bad
	}
	n := int(binary.BigEndian.Uint16(all))
	if len(all) < 2+n || !s.Verify(cursorPurpose, all[2:2+n], all[2+n:]) {
		return key{}, bad
	}
	var c cursor
	if err := json.Unmarshal(all[2:2+n], &c); err != nil || c.Version != cursorVersion {
		return key{}, bad
	}
	if c.Query != query {
		return key{}, slipway.Errorf(slipway.Invalid, "the cursor belongs to another query; keep all parameters but limit, or begin again without it").
			WithDetails(slipway.Detail{Field: "cursor", Code: slipway.Invalid, Message: "made by a query with other parameters"})
	}
	return c.After, nil
}
