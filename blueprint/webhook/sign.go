package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers and the signature are those of Standard Webhooks (https://www.standardwebhooks.com, version 1): receivers check them with any of its libraries.

// key reads a secret: whsec_ and base64.
func key(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, "whsec_")
	raw, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(raw) < 24 || len(raw) > 64 {
		return nil, errors.New("must be whsec_ and 24 to 64 bytes in base64; leave it out to have one made")
	}
	return raw, nil
}

// sign sets the headers of a delivery: its id, which stays the same however often it is sent, the time of sending, and a signature by each key.
func sign(h http.Header, id string, at time.Time, body []byte, keys ...[]byte) {
	seconds := strconv.FormatInt(at.Unix(), 10)
	var signatures []string
	for _, k := range keys {
		mac := hmac.New(sha256.New, k)
		_, _ = mac.Write([]byte(id + "." + seconds + ".")) // a hash takes everything
		_, _ = mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", seconds)
	h.Set("Webhook-Signature", strings.Join(signatures, " "))
}
