package tool

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
)

// hashToken is what is stored of a token. A token has 122 random bits, so that a fast hash does.
func hashToken(text string) string {
	sum := sha256.Sum256([]byte("slipway deploy token\x00" + text))
	return hex.EncodeToString(sum[:])
}

// createToken makes a tool's first deploy token; replaceToken a new one in place of it. The text is not kept.
func (s *service) createToken(ctx context.Context, tool string) (DeployToken, string, error) {
	t, text := s.newToken(tool)
	err := s.storage.SetDeployToken(ctx, t)
	if errors.Is(err, slipway.Conflict) {
		err = slipway.Errorf(slipway.Conflict, "Deploy token already exists. Use the 'refresh' subcommand or PUT /tool/%s/deployment/token to refresh it.", tool)
	}
	return t, text, err
}

func (s *service) replaceToken(ctx context.Context, tool string) (DeployToken, string, error) {
	old, err := s.storage.DeployToken(ctx, tool)
	if err != nil {
		return old, "", err
	}
	t, text := s.newToken(tool)
	t.Version = old.Version
	return t, text, s.storage.SetDeployToken(ctx, t)
}

func (s *service) newToken(tool string) (DeployToken, string) {
	text := uuid.NewString()
	now := s.now()
	return DeployToken{Tool: tool, Hash: hashToken(text), Created: now, Expires: now.Add(s.settings.TokenLife.Std())}, text
}

// uuidText is the form of deploy tokens: no other credential has it.
var uuidText = regexp.MustCompile(`(?i)^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// shown is the deploy token that a request brings: in the query, or as a bearer token of that form.
func shown(r *http.Request) (text string, ok bool) {
	if query := r.URL.Query(); query.Has("token") {
		return query.Get("token"), true
	}
	if headers := r.Header.Values("Authorization"); len(headers) == 1 {
		scheme, token, _ := strings.Cut(headers[0], " ")
		if strings.EqualFold(scheme, "Bearer") && uuidText.MatchString(token) {
			return token, true
		}
	}
	return "", false
}

// byDeployToken is the tool whose deploy token a request brings, and may do two things. What a request brings is not repeated in errors.
func (s *service) byDeployToken(ctx context.Context, r *http.Request) (*slipway.Caller, error) {
	text, ok := shown(r)
	if !ok {
		return nil, nil
	}
	name := r.PathValue("tool")
	stored, err := s.storage.DeployToken(ctx, name)
	if errors.Is(err, slipway.NotFound) {
		return nil, slipway.Errorf(slipway.Unauthenticated, "The tool '%.70s' has no deploy token yet, create one first", name)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(hashToken(strings.ToLower(text))), []byte(stored.Hash)) != 1:
		return nil, slipway.Errorf(slipway.Unauthenticated, "The token passed does not match the tool's token")
	case !s.now().Before(stored.Expires):
		return nil, slipway.Errorf(slipway.Unauthenticated, "The token of the tool '%s' has expired, please create a new one", name)
	}
	pattern := auth.ToolPattern(name)
	return &slipway.Caller{Kind: slipway.CallerTool, Subject: "tool:" + name, Grants: []slipway.Grant{
		{Permission: createPermission, Object: pattern}, {Permission: readPermission, Object: pattern},
	}}, nil
}
