package auth

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
)

// GrantConfig gives permissions to callers, in the configuration.
type GrantConfig struct {
	Origin string `json:"-" yaml:"-"` // where it stands, for explanations; empty: its place in the configuration

	To          string   `json:"to" yaml:"to" required:"true" doc:"Who: user:default/jane, group:default/team-a, token:<name>, service:<issuer>:<subject>, tool:<name>, a prefix of one ending in *, or * for every caller with a credential" example:"group:default/team-a"`
	Permissions []string `json:"permissions" yaml:"permissions" required:"true" doc:"What: a permission, or a prefix of one ending in .*, or *; narrowed by :owned, or by : and an entity ref or a prefix of one ending in *" example:"[\"build.*:owned\"]"`
}

var (
	permissionPattern = regexp.MustCompile(`^(\*|[a-z][a-zA-Z0-9-]*\.(\*|[a-z][a-zA-Z0-9-]*\.(\*|[a-z][a-zA-Z0-9-]*)))$`)
	// What a service of an issuer can be called: what a URL may hold, without * and white space.
	servicePattern = regexp.MustCompile(`^[A-Za-z0-9._~:/@+=,#%&-]{1,500}$`)
	// What a canonical entity ref can begin with.
	refPrefix = regexp.MustCompile(`^([a-z][a-z0-9]*(:([a-z0-9-]+(/[a-z0-9_.-]*)?)?)?)?$`)
)

// ParseGrant reads "permission" or "permission:object" as GrantConfig describes them. What does not parse is Invalid. Whether
// the permission exists is not asked.
func ParseGrant(s string) (slipway.Grant, error) {
	name, object, narrowed := strings.Cut(s, ":")
	if len(s) > 400 || !permissionPattern.MatchString(name) {
		return slipway.Grant{}, slipway.Errorf(slipway.Invalid, "%.60q is no permission; write <blueprint>.<noun>.<verb>, a part of it such as build.*, or *", s)
	}
	g := slipway.Grant{Permission: name}
	if !narrowed {
		return g, nil
	}
	rest, owned := strings.CutPrefix(object, "owned")
	if owned && rest == "" {
		g.Object = slipway.Owned
		return g, nil
	}
	if owned && rest[0] == ':' {
		object = rest[1:]
	} else {
		owned = false
	}
	ref, err := parseObject(object)
	if err != nil {
		return slipway.Grant{}, err
	}
	g.Object = join(owned, ref)
	return g, nil
}

// parseObject reads a ref or a pattern; "*" stands for all.
func parseObject(s string) (string, error) {
	prefix, pattern := strings.CutSuffix(s, "*")
	if !pattern {
		ref, err := slipway.ParseEntityRef(s, slipway.EntityRef{})
		return ref.String(), err
	}
	if prefix = strings.ToLower(prefix); !refPrefix.MatchString(prefix) {
		return "", slipway.Errorf(slipway.Invalid, "%.60q fits no entity; write the beginning of kind:namespace/name and one * at the end", s)
	}
	return prefix + "*", nil
}

// FormatGrant writes a grant as ParseGrant reads it.
func FormatGrant(g slipway.Grant) string {
	switch {
	case g.Object == "":
		return g.Permission
	case strings.HasPrefix(g.Object, slipway.Owned):
		return g.Permission + g.Object
	}
	return g.Permission + ":" + g.Object
}

// FormatGrants writes the grants of a caller, in order and never nil.
func FormatGrants(grants []slipway.Grant) []string {
	texts := make([]string, 0, len(grants))
	for _, g := range grants {
		texts = append(texts, FormatGrant(g))
	}
	return texts
}

// Allows says whether the caller holds the permission on the object. The zero Object stands for no particular thing: only rights that are not
// narrowed count.
func Allows(c *slipway.Caller, permission string, o Object) bool {
	_, ok := held(c, permission, o)
	return ok
}

// held is the right by which a caller may.
func held(c *slipway.Caller, permission string, o Object) (slipway.Grant, bool) {
	if c == nil {
		return slipway.Grant{}, false
	}
	if c.Kind == slipway.CallerSystem {
		return slipway.Grant{Permission: "*"}, true
	}
	for _, g := range c.Grants {
		if slipway.Fits(g.Permission, permission) && (g.Object == "" || includes(c, g, o)) {
			return g, true
		}
	}
	return slipway.Grant{}, false
}

func includes(c *slipway.Caller, g slipway.Grant, o Object) bool {
	owned, pattern := g.Narrowing()
	return slipway.Fits(pattern, o.Ref) && (!owned || o.Owner != "" && slices.Contains(c.Owns, o.Owner))
}

// AllowsAny says whether the caller holds the permission on at least something. It is the gate before an operation that
// then checks the object.
func AllowsAny(c *slipway.Caller, permission string) bool {
	if c == nil {
		return false
	}
	return c.Kind == slipway.CallerSystem || slices.ContainsFunc(c.Grants, func(g slipway.Grant) bool { return slipway.Fits(g.Permission, permission) })
}

func join(owned bool, pattern string) string {
	switch {
	case pattern == "*" && owned:
		return slipway.Owned
	case pattern == "*":
		return ""
	case owned:
		return slipway.Owned + ":" + pattern
	}
	return pattern
}

// meet is what two grants have in common, if anything. As a * stands only at the end, of two patterns one covers the other or they have
// nothing in common.
func meet(a, b slipway.Grant) (slipway.Grant, bool) {
	permission, ok := narrower(a.Permission, b.Permission)
	if !ok {
		return slipway.Grant{}, false
	}
	aOwned, aPattern := a.Narrowing()
	bOwned, bPattern := b.Narrowing()
	pattern, ok := narrower(aPattern, bPattern)
	return slipway.Grant{Permission: permission, Object: join(aOwned || bOwned, pattern)}, ok
}

func narrower(a, b string) (string, bool) {
	switch {
	case slipway.Fits(a, b):
		return b, true
	case slipway.Fits(b, a):
		return a, true
	}
	return "", false
}

// covers says whether whoever has the rights has all of g.
func covers(rights []slipway.Grant, g slipway.Grant) bool {
	return slices.ContainsFunc(rights, func(r slipway.Grant) bool {
		common, ok := meet(r, g)
		return ok && common == g
	})
}

// intersect is what both lists allow, without repetition.
func intersect(a, b []slipway.Grant) []slipway.Grant {
	var all []slipway.Grant
	for _, x := range a {
		for _, y := range b {
			if g, ok := meet(x, y); ok && !covers(all, g) {
				all = append(all, g)
			}
		}
	}
	return all
}

// notOwned leaves out what depends on ownership: for when rights pass to somebody who owns other things.
func notOwned(grants []slipway.Grant) []slipway.Grant {
	var all []slipway.Grant
	for _, g := range grants {
		if owned, _ := g.Narrowing(); !owned {
			all = append(all, g)
		}
	}
	return all
}

// rule is one entry of the grants in the configuration, read.
type rule struct {
	to     string // a subject or group, or a pattern
	origin string // where it stands
	grants []slipway.Grant
}

// is says whether the rule is for a subject, or for a group that stands for it.
func (r rule) is(subject string, owns []string) bool {
	// What stands for the subject counts only where a group is meant: else a catalog entity that says it is a member of a user, or of
	// something that is called as a tool is, would hold its rights.
	return slipway.Fits(r.to, subject) || strings.HasPrefix(r.to, "group:") && slices.ContainsFunc(owns, func(ref string) bool { return slipway.Fits(r.to, ref) })
}

// rules reads the grants of the configuration. All faults come back together.
func rules(cfg []GrantConfig, declared []Permission) ([]rule, error) {
	var all []rule
	var faults []slipway.Detail
	fault := func(field string, err error) {
		faults = append(faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: sentence(err)})
	}
	for i, c := range cfg {
		to, err := parseTo(c.To)
		if err != nil {
			fault(fmt.Sprintf("grants[%d].to", i), err)
		}
		r := rule{to: to, origin: cmp.Or(c.Origin, fmt.Sprintf("grants[%d]", i))}
		if len(c.Permissions) == 0 {
			fault(fmt.Sprintf("grants[%d].permissions", i), errors.New("list at least one permission"))
		}
		for j, text := range c.Permissions {
			g, err := parseDeclared(text, declared)
			if err != nil {
				fault(fmt.Sprintf("grants[%d].permissions[%d]", i, j), err)
			}
			r.grants = append(r.grants, g)
		}
		all = append(all, r)
	}
	return all, invalid("the grants in the configuration", faults)
}

func parseTo(s string) (string, error) {
	kind, name, ok := strings.Cut(s, ":")
	prefix, pattern := strings.CutSuffix(name, "*")
	switch {
	case s == "*":
		return s, nil
	case ok && (kind == "user" || kind == "group") && pattern:
		whole := kind + ":" + strings.ToLower(prefix)
		if refPrefix.MatchString(whole) && (prefix == "" || strings.Contains(prefix, "/")) { // user:jane* would mean the namespaces that begin so
			return whole + "*", nil
		}
	case ok && (kind == "user" || kind == "group"):
		ref, err := slipway.ParseEntityRef(name, slipway.EntityRef{Kind: kind})
		if err == nil && ref.Kind == kind {
			return ref.String(), nil
		}
	case ok && kind == "service": // service:<issuer>:<subject>
		issuer, subject, whole := strings.Cut(name, ":")
		if namePattern.MatchString(issuer) && whole && (servicePattern.MatchString(strings.TrimSuffix(subject, "*")) || subject == "*") || name == "*" {
			return s, nil
		}
	case ok && (kind == "token" || kind == "tool") && (namePattern.MatchString(prefix) || pattern && prefix == ""):
		return s, nil
	}
	return "", fmt.Errorf("%.60q is no caller; write user:default/<name>, group:default/<name>, token:<name>, service:<issuer>:<subject>, tool:<name>, the beginning of one with a * at the end, or *", s)
}

// parseDeclared is ParseGrant for a permission that must exist, and that can be narrowed if it is.
func parseDeclared(s string, declared []Permission) (slipway.Grant, error) {
	g, err := ParseGrant(s)
	if err != nil {
		return g, err
	}
	known, narrows := false, false
	for _, p := range declared {
		if slipway.Fits(g.Permission, p.Name) {
			known, narrows = true, narrows || p.Object != ""
		}
	}
	switch {
	case !known:
		return g, fmt.Errorf("no enabled blueprint declares the permission %q; slipway token permissions lists those there are", g.Permission)
	case g.Object != "" && !narrows:
		return g, fmt.Errorf("%q cannot be narrowed to an entity; leave out %q", g.Permission, g.Object)
	}
	return g, nil
}

// CheckGrant says what is wrong with a grant that the caller wants to give: it must be well-formed, and hold nothing that the caller does not hold.
func (s *Service) CheckGrant(by *slipway.Caller, g GrantConfig) (faults []slipway.Detail) {
	read, err := rules([]GrantConfig{g}, s.permissions)
	if e, ok := errors.AsType[*slipway.Error](err); ok {
		for _, d := range e.Details {
			d.Field = strings.NewReplacer("grants[0].", "/", "[", "/", "]", "").Replace(d.Field)
			faults = append(faults, d)
		}
		return faults
	}
	for i, wanted := range read[0].grants {
		if by.Kind != slipway.CallerSystem && !covers(by.Grants, wanted) {
			faults = append(faults, slipway.Detail{Field: fmt.Sprintf("/permissions/%d", i), Code: slipway.Forbidden,
				Message: fmt.Sprintf("%s can pass on only what it holds itself; it lacks %s", by.Subject, FormatGrant(wanted))})
		}
	}
	return faults
}

// SetGrants replaces what is granted beside the configuration. A grant that does not parse, or that nobody declares any more, gives nothing.
func (s *Service) SetGrants(grants []GrantConfig) {
	var all []rule
	for _, g := range grants {
		if read, err := rules([]GrantConfig{g}, s.permissions); err == nil {
			all = append(all, read...)
		}
	}
	s.more.Store(&all)
	s.cache.clear()
}

// granted is what the configuration, and SetGrants beside it, grants to a subject and to the groups that stand for it.
func (s *Service) granted(subject string, owns []string) []slipway.Grant {
	var all []slipway.Grant
	for _, r := range s.all() {
		if !r.is(subject, owns) {
			continue
		}
		for _, g := range r.grants {
			if !covers(all, g) {
				all = append(all, g)
			}
		}
	}
	return all
}

// sentence is what of an error may be shown to a caller.
func sentence(err error) string {
	if e, ok := errors.AsType[*slipway.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

// invalid is nil without faults, else one error that names them all.
func invalid(what string, faults []slipway.Detail) error {
	if len(faults) == 0 {
		return nil
	}
	var text strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&text, "; %s: %s", f.Field, f.Message)
	}
	return slipway.Errorf(slipway.Invalid, "%s: %s", what, text.String()[2:]).WithDetails(faults...)
}
