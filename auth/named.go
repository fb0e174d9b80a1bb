package auth

import (
	"context"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
)

// Named is the caller that a subject of Author stands for, as of now: for what is done on somebody's behalf while they are away. A user may what grants and the groups of
// the catalog give, a token what it holds while its issuer does. NotFound when there is no such token any more.
func (s *Service) Named(ctx context.Context, subject string) (*slipway.Caller, error) {
	gone := func() error {
		return slipway.Errorf(slipway.NotFound, "%.100s is nobody any more", subject)
	}
	if subject == systemSubject {
		return System(), nil
	}
	name, token := strings.CutPrefix(subject, "token:")
	if !token {
		kind := map[string]slipway.CallerKind{"user": slipway.CallerUser, "service": slipway.CallerService, "tool": slipway.CallerTool}[before(subject)]
		if kind == "" {
			return nil, gone()
		}
		now, generation := s.now(), s.cache.now()
		if e := s.cache.get("named " + subject); e != nil && now.Before(e.until) {
			return e.caller, nil
		}
		owns, err := s.owns(ctx, subject)
		if err != nil {
			return nil, err
		}
		c := &slipway.Caller{Kind: kind, Subject: subject, Owns: owns, Grants: s.withEveryone(s.granted(subject, owns))}
		s.cache.put("named "+subject, &entry{caller: c, until: now.Add(userAge)}, generation)
		return c, nil
	}
	all, err := s.LiveTokens(ctx, s.db, name, "", 1)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, gone()
	}
	e, err := s.entry(ctx, all[0].ID)
	if err != nil {
		return nil, err
	}
	if e.caller == nil {
		return nil, gone()
	}
	return e.caller, nil
}

func before(subject string) string {
	kind, _, _ := strings.Cut(subject, ":")
	return kind
}

// Author is how the caller in the context is named for Named: a user by its ref, unless a token narrows what it may, be it by what the token lists or by what its issuer lacks;
// then, and for services, by the token.
func (s *Service) Author(ctx context.Context) (string, error) {
	c := CallerFrom(ctx)
	if c.TokenID == "" {
		return c.Subject, nil
	}
	t, err := s.GetToken(ctx, c.TokenID)
	if err != nil {
		return "", err
	}
	if t.User != "" && len(t.Permissions) == 0 {
		user, err := s.Named(ctx, t.User)
		if err != nil {
			return "", err
		}
		if !slices.ContainsFunc(user.Grants, func(g slipway.Grant) bool { return !covers(c.Grants, g) }) {
			return t.User, nil
		}
	}
	return "token:" + t.Name, nil
}
