package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
)

// Explanation says whether somebody may do something, and why.
type Explanation struct {
	Allowed    bool     `json:"allowed" doc:"Whether the subject may"`
	Subject    string   `json:"subject" doc:"Who was asked about" example:"user:default/jane"`
	Owns       []string `json:"owns" nullable:"false" doc:"Refs that stand for the subject when ownership is asked"`
	Permission string   `json:"permission" doc:"What was asked about" example:"build.run.retrigger"`
	Object     string   `json:"object,omitempty" doc:"On which entity" example:"component:default/web"`
	Owner      string   `json:"owner,omitempty" doc:"Who owns that entity" example:"group:default/team-a"`
	Reasons    []Reason `json:"reasons" nullable:"false" doc:"Each right that names the permission, those that decide first"`
	Advice     string   `json:"advice,omitempty" doc:"What would allow it"`
}

// Reason is one right that names the permission, and what comes of it.
type Reason struct {
	Decides bool   `json:"decides" doc:"Whether it allows what was asked about"`
	Right   string `json:"right" doc:"The right" example:"build.*:owned"`
	From    string `json:"from" doc:"Where it comes from" example:"grants[0] to group:default/team-a"`
	Text    string `json:"text" doc:"What comes of it" example:"is for what the subject owns, and component:default/web belongs to group:default/team-b"`

	foreign bool
}

// Foreign says whether the right is for somebody else.
func (r Reason) Foreign() bool { return r.foreign }

const maxReasons = 50

// Explain says why a subject ("user:default/jane", "token:ci-bot", "service:k8s:ci/deployer", "tool:x") may or may not do what a permission names, on an object
// (the zero Object: on nothing in particular). It reads the same rules that requests are checked by. Invalid for a permission that nobody declares or that cannot
// be narrowed, and for a subject that is none; NotFound for a token that is not there.
func (s *Service) Explain(ctx context.Context, subject, permission string, o Object) (Explanation, error) {
	i := slices.IndexFunc(s.permissions, func(p Permission) bool { return p.Name == permission })
	switch {
	case i < 0:
		return Explanation{}, slipway.Errorf(slipway.Invalid, "no enabled blueprint declares the permission %.100q; slipway token permissions (GET /api/auth/permissions) lists them", permission)
	case o.Ref != "" && s.permissions[i].Object == "":
		return Explanation{}, slipway.Errorf(slipway.Invalid, "the permission %s cannot be narrowed to an entity; ask without one", permission)
	}
	canonical, err := parseTo(subject)
	if err != nil || strings.HasSuffix(canonical, "*") || strings.HasPrefix(canonical, "group:") {
		return Explanation{}, slipway.Errorf(slipway.Invalid, "%.100q is no caller; write user:default/<name>, token:<name>, service:<issuer>:<subject> or tool:<name>", subject)
	}
	e := Explanation{Subject: canonical, Permission: permission, Object: o.Ref, Owner: o.Owner, Owns: []string{}, Reasons: []Reason{}}
	if name, token := strings.CutPrefix(canonical, "token:"); token {
		err = s.explainToken(ctx, &e, name, o)
	} else {
		var owns []string
		owns, err = s.owns(ctx, canonical)
		e.Owns = append(e.Owns, owns...)
		c := &slipway.Caller{Subject: canonical, Owns: owns, Grants: s.withEveryone(s.granted(canonical, owns))}
		e.Allowed = Allows(c, permission, o)
		s.reasons(&e, canonical, owns, o)
	}
	if err != nil {
		return Explanation{}, err
	}
	if s.permissions[i].Everyone {
		e.add(Reason{Decides: true, Right: permission, From: "the blueprint that declares it", Text: "every caller with a credential holds it"})
	}
	slices.SortStableFunc(e.Reasons, func(a, b Reason) int {
		switch {
		case a.Decides == b.Decides:
			return 0
		case a.Decides:
			return -1
		}
		return 1
	})
	if !e.Allowed {
		right := permission
		if o.Ref != "" {
			right += ":" + o.Ref
		}
		e.Advice = fmt.Sprintf(`an operator can allow it by a grant: {to: "%s", permissions: ["%s"]}`, e.Subject, right)
		if strings.HasPrefix(e.Subject, "token:") {
			e.Advice = "make another token with the permission; somebody who holds it can"
		}
	}
	return e, nil
}

func (e *Explanation) add(r Reason) {
	if len(e.Reasons) < maxReasons {
		e.Reasons = append(e.Reasons, r)
	}
}

// all are the rules of the configuration, and those beside it.
func (s *Service) all() []rule {
	if more := s.more.Load(); more != nil {
		return slices.Concat(s.rules, *more)
	}
	return s.rules
}

// reasons lists every rule that names the permission, for whom it is and what comes of it.
func (s *Service) reasons(e *Explanation, subject string, owns []string, o Object) {
	c := &slipway.Caller{Subject: subject, Owns: owns}
	for _, r := range s.all() {
		for _, g := range r.grants {
			if !slipway.Fits(g.Permission, e.Permission) {
				continue
			}
			reason := Reason{Right: FormatGrant(g), From: r.origin + " to " + r.to}
			if !r.is(subject, owns) {
				reason.foreign = true
				reason.Text = "is for " + r.to + ", which the subject is not"
				if strings.HasPrefix(r.to, "group:") {
					reason.Text = "is for " + r.to + ", which the subject is no member of"
				}
			} else {
				reason.Decides, reason.Text = outcome(c, g, o)
			}
			e.add(reason)
		}
	}
}

// outcome says what comes of a right that a caller holds.
func outcome(c *slipway.Caller, g slipway.Grant, o Object) (bool, string) {
	owned, pattern := g.Narrowing()
	switch {
	case g.Object == "":
		return true, "allows it, on everything"
	case o.Ref == "":
		return false, "is narrowed to " + strings.TrimPrefix(g.Object, ":") + ", and what was asked about is on nothing in particular; ask with an entity"
	case !slipway.Fits(pattern, o.Ref):
		return false, "is for " + pattern + ", which " + o.Ref + " is not"
	case owned && o.Owner == "":
		return false, "is for what the subject owns, and nobody owns " + o.Ref
	case owned && !slices.Contains(c.Owns, o.Owner):
		return false, "is for what the subject owns, and " + o.Ref + " belongs to " + o.Owner
	case owned:
		return true, "allows it, because " + o.Ref + " belongs to " + o.Owner
	}
	return true, "allows it, on " + pattern
}

// explainToken follows a token to the one who stands at the beginning: it may do what all on the way may.
func (s *Service) explainToken(ctx context.Context, e *Explanation, name string, o Object) error {
	live, err := s.LiveTokens(ctx, s.db, name, "", 1)
	if err == nil && len(live) == 0 {
		err = slipway.Errorf(slipway.NotFound, "there is no live token named %.80q; slipway token list shows them", name)
	}
	if err != nil {
		return err
	}
	links, err := chain(ctx, s.db, live[0].ID)
	if err != nil {
		return err
	}
	now := s.now()
	r, err := s.rights(ctx, links, now)
	if err != nil {
		return err
	}
	subject := "token:" + name
	if live[0].User != "" {
		subject = live[0].User
	}
	c := &slipway.Caller{Subject: subject, Owns: r.owns, Grants: s.withEveryone(r.grants)}
	e.Owns, e.Allowed = append(e.Owns, r.owns...), Allows(c, e.Permission, o)
	for n, link := range links {
		from := fmt.Sprintf("the token %s (%s)", link.Name, link.ID)
		if !link.live(now) {
			e.add(Reason{Right: e.Permission, From: from, Text: "holds nothing: it is revoked or over, and all that it issued with it"})
			continue
		}
		part, err := s.rights(ctx, links[n:], now)
		if err != nil {
			return err
		}
		held := &slipway.Caller{Owns: part.owns, Grants: part.grants}
		found := false
		for _, g := range link.grants() {
			if !slipway.Fits(g.Permission, e.Permission) {
				continue
			}
			found = true
			reason := Reason{Right: FormatGrant(g), From: from}
			reason.Decides, reason.Text = outcome(held, g, o)
			if reason.Decides && !Allows(held, e.Permission, o) {
				reason.Decides, reason.Text = false, "would allow it, but a token may do only what its issuer may, and "+link.CreatedBy+" may not"
			}
			e.add(reason)
		}
		switch {
		case found:
		case link.User != "" && len(link.Permissions) == 0:
			e.add(Reason{Right: e.Permission, From: from, Text: "may do what " + link.User + " may"})
		default:
			e.add(Reason{Right: e.Permission, From: from, Text: "does not list it"})
		}
	}
	if root := links[len(links)-1]; root.issuerToken == "" && root.CreatedBy != systemSubject {
		owns, err := s.owns(ctx, root.CreatedBy)
		if err != nil {
			return err
		}
		s.reasons(e, root.CreatedBy, owns, o)
	}
	return nil
}

// origin says where the right comes from by which a caller may do something.
func (s *Service) origin(c *slipway.Caller, permission string, o Object) string {
	switch {
	case c.Kind == slipway.CallerSystem:
		return systemSubject
	case c.TokenID != "":
		return "the token " + c.TokenID
	}
	for _, r := range s.all() {
		if !r.is(c.Subject, c.Owns) {
			continue
		}
		for _, g := range r.grants {
			if slipway.Fits(g.Permission, permission) && (g.Object == "" || includes(c, g, o)) {
				return r.origin + " to " + r.to
			}
		}
	}
	return "everyone"
}
