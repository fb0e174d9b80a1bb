package slipway

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
	Subject string   // "user:default/jane", "token:ci-bot", "tool:mytool", "anonymous", "system"
	TokenID string   // id of the token that was shown, or ""
	Owns    []string // canonical refs that stand for the caller when ownership is asked: itself and its groups
	Grants  []Grant  // what the caller may do: already narrowed by its token and that token's issuer
}

// Grant is one right: a permission pattern, narrowed to objects.
type Grant struct {
	Permission string // "build.run.read", "build.*", "*"
	Object     string // "" for all; else a canonical ref, a pattern with a trailing *, or ":owned"
}
