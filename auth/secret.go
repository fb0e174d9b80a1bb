package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"strings"
)

// A token reads "slp_" + id + secret + checksum, in letters and digits, always 65 characters. The prefix lets people and scanners
// know a leaked one; the checksum refuses garbage without asking the database. The id is the token's public
// name and finds its row; the secret holds 256 random bits. The secrets of sessions and of command lines that wait to be let in read alike, with other
// prefixes.
//
// At rest lies the SHA-256 of the whole. A slow hash would add nothing: it makes guessing of weak passwords dear, and nobody
// guesses 256 random bits; but every request would pay for it.
const (
	tokenPrefix   = "slp_"
	sessionPrefix = "sls_" // a browser's cookie, or a command line's access token
	refreshPrefix = "slr_" // a command line's refresh token
	devicePrefix  = "sld_" // a command line that waits

	idLength    = 12 // 71 bits: never met twice
	secretEnd   = len(tokenPrefix) + idLength + 43
	tokenLength = secretEnd + 6

	alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// newSecret makes a token and its id.
func newSecret() (secret, id string) {
	id = random(idLength)
	return credential(tokenPrefix, id), id
}

// credential makes a secret with a prefix for an id.
func credential(prefix, id string) string {
	body := prefix + id + random(secretEnd-len(prefix)-len(id))
	return body + checksum(body)
}

// tokenID gives the id of what looks like a token.
func tokenID(s string) (id string, ok bool) { return credentialID(tokenPrefix, s) }

// credentialID gives the id of what looks like a secret with a prefix.
func credentialID(prefix, s string) (id string, ok bool) {
	if len(s) != tokenLength || !strings.HasPrefix(s, prefix) || checksum(s[:secretEnd]) != s[secretEnd:] {
		return "", false
	}
	for i := len(tokenPrefix); i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return "", false
		}
	}
	return s[len(tokenPrefix) : len(tokenPrefix)+idLength], true
}

func hash(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// random gives n random letters and digits.
func random(n int) string {
	text := make([]byte, 0, n)
	var buf [64]byte
	for len(text) < n {
		_, _ = rand.Read(buf[:]) // never fails
		for _, b := range buf {
			// 248 is the largest multiple of 62 in a byte; what is above would favour the first letters.
			if b < 248 && len(text) < n {
				text = append(text, alphabet[b%62])
			}
		}
	}
	return string(text)
}

func checksum(s string) string {
	sum := crc32.ChecksumIEEE([]byte(s))
	var text [6]byte
	for i := len(text) - 1; i >= 0; i-- {
		text[i] = alphabet[sum%62]
		sum /= 62
	}
	return string(text[:])
}
