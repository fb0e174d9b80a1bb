package slipway

import "strings"

// CallerKind is what kind of caller somebody is.
type CallerKind string

// The kinds.
const (
	CallerAnonymous CallerKind = "anonymous"
	CallerUser      CallerKind = "user"
	CallerService   CallerKind = "service"
	CallerTool      CallerKind = "tool"
	CallerSystem    CallerKind = "system" // jobs, schedules and start-up; never over HTTP
)

// Caller is who asks. It is a value: nothing in it changes after authentication.
type Caller struct {
	Kind    CallerKind
	Subject string // "user:default/jane", "token:ci-bot", "tool:mytool", "anonymous", "system"
	TokenID string // id of the token that was shown, or ""

	SessionID string // id of the session that was shown, or ""

	Owns   []string // canonical refs that stand for the caller when ownership is asked: itself and its groups
	Grants []Grant  // what the caller may do: already narrowed by its token and that token's issuer
}

// Grant is one right: a permission pattern, narrowed to objects.
type Grant struct {
	Permission string // "build.run.read", "build.*", "*"
	Object     string // "" for all; else a canonical ref, a pattern with a trailing *, Owned, or Owned, a colon and one of these
}

// Owned as the object of a grant stands for the entities that the caller's ownership refs own. Followed by a colon and a ref or
// pattern it stands for those of them that fit.
const Owned = ":owned"

// Narrowing takes a grant's object apart: whether only what the caller owns counts, and the pattern ("*" for all) that refs must fit.
func (g Grant) Narrowing() (owned bool, pattern string) {
	pattern = g.Object
	if rest, ok := strings.CutPrefix(pattern, Owned); ok {
		owned, pattern = true, strings.TrimPrefix(rest, ":")
	}
	if pattern == "" {
		pattern = "*"
	}
	return owned, pattern
}

// Fits says whether a pattern (a trailing * matches the rest) covers a name, or all that another pattern covers.
func Fits(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}
