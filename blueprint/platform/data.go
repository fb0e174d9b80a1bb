package platform

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/store"
)

// tokens are the live tokens as documents. Their id is the name, which is the caller's, and not the token's own id: the same files make the same tokens anywhere.
var tokens = resource.Kind{
	Name: "tokens", Text: "Slipway's tokens, by name. The answer to making one tells its secret, once. One is revoked by deleting it, and never changed.",
	Permissions: resource.Permissions{Read: tokenRead, Create: tokenCreate, Update: tokenCreate, Delete: tokenRevoke},
	Types:       []resource.Type{{Fields: tokenFields{}}}, Source: &resource.Source{}, Local: true,
}

type tokenFields struct {
	User        string     `json:"user,omitempty" doc:"Ref of the user that it acts as; absent: a service of its own" example:"user:default/jane"`
	Permissions []string   `json:"permissions,omitempty" doc:"What it may do, at most what its maker may; required for a service"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty" doc:"From when on it is refused, in UTC; absent: never"`
	RateLimit   *auth.Rate `json:"rateLimit,omitempty" doc:"Its own rate limit, for a service; 0: none; absent: the configured one" example:"500/m"`
	TokenID     string     `json:"tokenId,omitempty" readOnly:"true" doc:"The part of the token that may be shown"`
	CreatedAt   *time.Time `json:"createdAt,omitempty" readOnly:"true" doc:"When it was made"`
	CreatedBy   string     `json:"createdBy,omitempty" readOnly:"true" doc:"Who made it"`
}

func tokenDocument(t auth.Token) (resource.Fixed, error) {
	raw, err := json.Marshal(struct {
		ID string `json:"id"`
		tokenFields
	}{t.Name, tokenFields{t.User, t.Permissions, t.ExpiresAt, t.RateLimit, t.ID, &t.CreatedAt, t.CreatedBy}})
	return resource.Fixed{ID: t.Name, Document: raw}, err
}

// newTokenOf reads a document.
func newTokenOf(document json.RawMessage) (auth.NewToken, error) {
	var d struct {
		ID string `json:"id"`
		tokenFields
	}
	if err := json.Unmarshal(document, &d); err != nil {
		return auth.NewToken{}, err
	}
	n := auth.NewToken{Name: d.ID, User: d.User, Permissions: d.Permissions, RateLimit: d.RateLimit}
	if d.ExpiresAt != nil {
		n.Expires = *d.ExpiresAt
	}
	return n, nil
}

func (s *service) tokenKind(k resource.Kind) resource.Kind {
	k.Check = s.checkToken
	k.Source = &resource.Source{
		Get: func(ctx context.Context, id string) (resource.Fixed, error) {
			t, err := s.named(ctx, s.db, id)
			if err != nil {
				return resource.Fixed{}, err
			}
			return tokenDocument(t)
		},
		List: func(ctx context.Context, q resource.SourceQuery) (list []resource.Fixed, err error) {
			all, err := s.auth.LiveTokens(ctx, s.db, "", q.After, q.Limit)
			for _, t := range all {
				d, err := tokenDocument(t)
				if err != nil {
					return nil, err
				}
				list = append(list, d)
			}
			return list, err
		},
		Write: s.writeToken,
	}
	return k
}

func (s *service) named(ctx context.Context, q store.Querier, name string) (auth.Token, error) {
	var all []auth.Token
	var err error
	if name != "" {
		all, err = s.auth.LiveTokens(ctx, q, name, "", 1)
	}
	if err == nil && len(all) == 0 {
		err = slipway.Errorf(slipway.NotFound, "there is no live token named %.80q; GET /data/tokens lists them", name)
	}
	if err != nil {
		return auth.Token{}, err
	}
	return all[0], nil
}

// checkToken judges a document that may make a token. It must be written as it will be read, so that applying it again changes nothing.
func (s *service) checkToken(ctx context.Context, document json.RawMessage) (faults []slipway.Detail) {
	n, err := newTokenOf(document)
	if err != nil {
		return []slipway.Detail{{Code: slipway.Invalid, Message: "does not read as a token"}}
	}
	if t, err := s.named(ctx, s.db, n.Name); err == nil && same(n, t) {
		return nil // it is there already, whoever made it
	}
	t, err := s.auth.CheckToken(ctx, auth.CallerFrom(ctx), n)
	if coded, ok := errors.AsType[*slipway.Error](err); ok {
		for _, d := range coded.Details {
			if d.Field == "name" {
				d.Field = "id"
			}
			faults = append(faults, slipway.Detail{Field: resource.Pointer(d.Field), Code: d.Code, Message: d.Message})
		}
		if len(faults) == 0 {
			faults = append(faults, slipway.Detail{Field: "/permissions", Code: coded.Code, Message: coded.Message})
		}
		return faults
	} else if err != nil {
		return []slipway.Detail{{Code: slipway.Unavailable, Message: "cannot be checked now; try again"}}
	}
	if !same(n, t) {
		return []slipway.Detail{{Code: slipway.Invalid, Message: "must be written as it will be read: full refs such as user:default/jane, each permission once, times in UTC and whole microseconds"}}
	}
	return nil
}

// same says whether a document describes a token as it is.
func same(n auth.NewToken, t auth.Token) bool {
	var expires *time.Time
	if !n.Expires.IsZero() {
		expires = &n.Expires
	}
	alike := func(a, b any) bool {
		x, err := json.Marshal(a)
		y, other := json.Marshal(b)
		return err == nil && other == nil && string(x) == string(y)
	}
	return n.Name == t.Name && n.User == t.User && slices.Equal(n.Permissions, t.Permissions) && alike(expires, t.ExpiresAt) && alike(n.RateLimit, t.RateLimit)
}

// writeToken makes a token or revokes it.
func (s *service) writeToken(ctx context.Context, tx *store.Tx, c resource.SourceChange) (string, error) {
	caller := auth.CallerFrom(ctx)
	switch {
	case c.After == nil:
		t, err := s.named(ctx, tx, c.ID)
		if err != nil {
			return "", err
		}
		return "", s.auth.RevokeTokenIn(ctx, tx, caller, t.ID)
	case c.Before != nil:
		return "", slipway.Errorf(slipway.Conflict, "the token %s is there and says something else; a token is not changed: delete it and make another", c.ID)
	}
	n, err := newTokenOf(c.After)
	if err != nil {
		return "", err
	}
	_, secret, err := s.auth.CreateTokenIn(ctx, tx, caller, n)
	return secret, err
}
