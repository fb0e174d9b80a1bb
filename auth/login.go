package auth

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"
	"golang.org/x/oauth2"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Sign-in by a browser is OpenID Connect's code flow with PKCE (RFC 7636), state and nonce. What has to be remembered between leaving for the
// issuer and coming back lies sealed in a cookie of the browser that left: nothing is stored for sign-ins that are never finished, any replica may
// finish one, and an answer that another browser began is refused.
const (
	loginAge     = 10 * time.Minute // between leaving and coming back
	discoveryAge = time.Hour
	loginSeal    = "auth login"
)

// web is Slipway as a client of the issuer that people sign in with.
type web struct {
	issuer *issuer
	Login

	mu       sync.Mutex
	provider *oidc.Provider
	read     time.Time
	failed   time.Time
}

// pending is a sign-in that is under way.
type pending struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	Return   string `json:"r"`
	Until    int64  `json:"u"` // seconds
}

// errNoLogin says what there is instead.
var errNoLogin = slipway.Errorf(slipway.Unsupported, "no sign-in is configured here (auth.login); use a token: slipway login --token, or Authorization: Bearer")

// LoginOffered says whether people can sign in with a browser.
func (s *Service) LoginOffered() bool { return s.web != nil && s.URL != nil && s.Keys != nil }

// discover reads the issuer's description, at most once an hour.
func (s *Service) discover(ctx context.Context) (*oidc.Provider, error) {
	if !s.LoginOffered() {
		return nil, errNoLogin
	}
	w := s.web
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.provider != nil && s.now().Sub(w.read) < discoveryAge {
		return w.provider, nil
	}
	if s.now().Sub(w.failed) >= keysPause { // who waited for the lock need not wait for the issuer too
		p, err := oidc.NewProvider(oidc.ClientContext(ctx, w.issuer.client), w.issuer.Issuer)
		if err == nil {
			w.provider, w.read = p, s.now()
			return p, nil
		}
		w.failed = s.now()
		s.log.WarnContext(ctx, "an issuer cannot be asked", "issuer", w.issuer.Name, "error", err)
	}
	if w.provider == nil {
		return nil, slipway.Errorf(slipway.Unavailable, "the issuer %s does not answer; try again", w.issuer.Name).After(keysPause)
	}
	return w.provider, nil // what was true an hour ago most likely still is
}

func (s *Service) oauth(p *oidc.Provider) *oauth2.Config {
	endpoint := p.Endpoint()
	var found struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	_ = p.Claims(&found) // it was read as JSON before
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if s.web.Secret.IsZero() || len(found.Methods) > 0 && !slices.Contains(found.Methods, "client_secret_basic") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{ClientID: s.web.ClientID, ClientSecret: s.web.Secret.Reveal(), Endpoint: endpoint, RedirectURL: s.callback(), Scopes: s.web.Scopes}
}

func (s *Service) callback() string { return s.URL() + "/auth/callback" }

// LocalPath is a path of ours to go back to: what is none, or could lead elsewhere, becomes the account page.
func LocalPath(s string) string {
	const fallback = "/auth"
	if len(s) > 2000 || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '\\' || r == 0x7f }) {
		return fallback
	}
	u, err := url.Parse(s)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, "\\") {
		return fallback
	}
	return s
}

// BeginLogin gives the address at the issuer that a browser has to be sent to, and the cookie that it must bring back. Unsupported when no sign-in is
// configured; Unavailable when the issuer does not answer.
func (s *Service) BeginLogin(ctx context.Context, back string) (string, http.Cookie, error) {
	p, err := s.discover(ctx)
	if err != nil {
		return "", http.Cookie{}, err
	}
	begun := pending{State: random(32), Nonce: random(32), Verifier: oauth2.GenerateVerifier(), Return: LocalPath(back), Until: s.now().Add(loginAge).Unix()}
	raw, err := json.Marshal(begun)
	if err != nil {
		return "", http.Cookie{}, err
	}
	sealed, err := s.Keys.Seal(raw, loginSeal)
	if err != nil {
		return "", http.Cookie{}, err
	}
	to := s.oauth(p).AuthCodeURL(begun.State, oidc.Nonce(begun.Nonce), oauth2.S256ChallengeOption(begun.Verifier))
	return to, s.newCookie(s.loginCookie(), url.QueryEscape(sealed), loginAge), nil
}

func (s *Service) loginCookie() string { return s.cookiePrefix() + "slipway-login" }

// LoginAnswer is what the issuer has the browser bring back.
type LoginAnswer struct {
	Code        string
	State       string
	Issuer      string // RFC 9207
	Error       string
	Description string
	Cookies     []*http.Cookie
	Label       string // what the browser says of itself
	Before      *slipway.Caller
}

var errLogin = slipway.Errorf(slipway.Unauthenticated, "this sign-in was not begun in this browser, or too long ago; begin again")

// EndLogin finishes a sign-in: it gives the path to go on to and the cookies to set, which hold a session that did not exist before. Unauthenticated
// with what to do, when the answer is not to what this browser began, or the issuer's token is not believed.
func (s *Service) EndLogin(ctx context.Context, in LoginAnswer) (string, []http.Cookie, error) {
	p, err := s.discover(ctx)
	if err != nil {
		return "", nil, err
	}
	var begun pending
	if !s.unseal(in.Cookies, &begun) || s.now().Unix() >= begun.Until || subtle.ConstantTimeCompare([]byte(in.State), []byte(begun.State)) != 1 {
		return "", nil, errLogin
	}
	if in.Issuer != "" && in.Issuer != s.web.issuer.Issuer {
		return "", nil, errLogin
	}
	if in.Error != "" {
		return "", nil, slipway.Errorf(slipway.Unauthenticated, "the issuer %s did not sign you in: %.100q", s.web.issuer.Name, strings.TrimSpace(in.Error+" "+in.Description))
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, s.web.issuer.client), keysTimeout)
	defer cancel()
	got, err := s.oauth(p).Exchange(ctx, in.Code, oauth2.VerifierOption(begun.Verifier))
	if err != nil {
		return "", nil, slipway.Errorf(slipway.Unauthenticated, "the issuer %s did not accept the sign-in; begin again", s.web.issuer.Name).WithCause(s.heard(ctx, err))
	}
	token, _ := got.Extra("id_token").(string)
	id, err := s.idToken(ctx, p, token, begun.Nonce, got)
	if err != nil {
		return "", nil, slipway.Errorf(slipway.Unauthenticated, "the issuer %s says who you are in a way that is not believed here; an operator finds the reason in the log", s.web.issuer.Name).WithCause(s.heard(ctx, err))
	}
	now := store.At(s.now()).Time
	newID := random(idLength)
	r := sessionRow{Session: Session{
		ID: newID, Kind: browserSession, User: id.subject, Issuer: id.issuer, Label: label(in.Label), CreatedAt: now, ExpiresAt: now.Add(s.web.Absolute.Std()),
	}}
	secret := credential(sessionPrefix, newID)
	r.hash, r.hashUntil = hash(secret), r.ExpiresAt
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		if err := s.member(ctx, tx, id.subject, id.issuer, id.groups, now); err != nil {
			return err
		}
		if in.Before != nil && in.Before.SessionID != "" { // one browser, one session
			if _, err := tx.Exec(ctx, `UPDATE auth_session SET ended_at = $1 WHERE id = $2 AND ended_at IS NULL`, store.At(now), in.Before.SessionID); err != nil {
				return err
			}
		}
		// A sign-in may have brought other groups: the user's tokens have them at once.
		if err := s.rev.Bump(ctx, tx, revision); err != nil {
			return err
		}
		return s.begin(ctx, tx, r, nil)
	})
	if err != nil {
		return "", nil, err
	}
	return begun.Return, []http.Cookie{s.newCookie(s.CookieName(), secret, s.web.Absolute.Std()), s.newCookie(s.loginCookie(), "", -time.Second)}, nil
}

// heard notes for the log why an issuer's answer was of no use, and gives it back.
func (s *Service) heard(ctx context.Context, err error) error {
	s.log.WarnContext(ctx, "a sign-in failed", "issuer", s.web.issuer.Name, "error", err)
	return err
}

func (s *Service) unseal(cookies []*http.Cookie, into *pending) bool {
	for _, c := range cookies {
		if c.Name != s.loginCookie() {
			continue
		}
		sealed, err := url.QueryUnescape(c.Value)
		if err != nil {
			return false
		}
		raw, err := s.Keys.Open(sealed, loginSeal)
		return err == nil && json.Unmarshal(raw, into) == nil
	}
	return false
}

// idToken checks the ID token of a sign-in (OpenID Connect Core 3.1.3.7) and says whom it stands for.
func (s *Service) idToken(ctx context.Context, p *oidc.Provider, token, nonce string, got *oauth2.Token) (*identity, error) {
	i := s.web.issuer
	if len(token) > maxJWT {
		return nil, refuse("its ID token has %d bytes", len(token))
	}
	jws, err := jose.ParseSignedCompact(token, signatures)
	if err != nil {
		return nil, refuse("its ID token is no signed token: %v", err)
	}
	c, err := readClaims(jws.UnsafePayloadWithoutVerification())
	if err != nil {
		return nil, err
	}
	if iss := c.text("iss"); iss != i.Issuer {
		return nil, refuse("its issuer is %.100q", iss)
	}
	if err := i.inTime(c, s.now()); err != nil {
		return nil, err
	}
	if _, err := i.signedBy(ctx, jws); err != nil {
		return nil, err
	}
	if err := i.forUs(c, s.web.ClientID); err != nil {
		return nil, err
	}
	if azp := c.text("azp"); azp != "" && azp != s.web.ClientID {
		return nil, refuse("it was made for the client %.100q", azp)
	}
	if subtle.ConstantTimeCompare([]byte(c.text("nonce")), []byte(nonce)) != 1 {
		return nil, refuse("it answers another sign-in (nonce)")
	}
	if c.at(i.UserClaim) == nil || c.at(i.Groups) == nil {
		s.complete(ctx, p, c, got)
	}
	return s.issuers.identityOf(ctx, i, token, jws.Signatures[0].Header, c)
}

// complete adds claims that the issuer tells only at its userinfo address.
func (s *Service) complete(ctx context.Context, p *oidc.Provider, c claims, got *oauth2.Token) {
	if p.UserInfoEndpoint() == "" {
		return
	}
	info, err := p.UserInfo(ctx, oauth2.StaticTokenSource(got))
	var more claims
	if err == nil {
		var raw josejson.RawMessage
		if err = info.Claims(&raw); err == nil {
			more, err = readClaims(raw)
		}
	}
	if err != nil {
		s.log.WarnContext(ctx, "an issuer does not tell more of a user", "issuer", s.web.issuer.Name, "error", err)
		return
	}
	if more.text("sub") != c.text("sub") { // the answer could be somebody else's
		return
	}
	for name, v := range more {
		if _, there := c[name]; !there {
			c[name] = v
		}
	}
}

// Logout ends the caller's session. It gives where to send the browser: to the issuer's own sign-out, if it has one, else to our account page; and the cookies to set.
func (s *Service) Logout(ctx context.Context, c *slipway.Caller) (string, []http.Cookie, error) {
	if c.SessionID == "" { // a page of another site must not even take the cookie away
		return "/auth", nil, nil
	}
	gone := []http.Cookie{s.newCookie(s.CookieName(), "", -time.Second)}
	if err := s.EndSession(ctx, c, c.SessionID, ""); err != nil {
		return "", nil, err
	}
	if to := s.issuerLogout(ctx); to != "" {
		return to, gone, nil
	}
	return "/auth", gone, nil
}

// issuerLogout is the issuer's own sign-out (OpenID Connect RP-Initiated Logout), or "".
func (s *Service) issuerLogout(ctx context.Context) string {
	p, err := s.discover(ctx)
	if err != nil {
		return ""
	}
	var found struct {
		End string `json:"end_session_endpoint"`
	}
	if p.Claims(&found) != nil || checkURL(found.End) != nil {
		return ""
	}
	to, err := url.Parse(found.End)
	if err != nil {
		return ""
	}
	q := to.Query()
	q.Set("client_id", s.web.ClientID)
	q.Set("post_logout_redirect_uri", s.URL()+"/auth")
	to.RawQuery = q.Encode()
	return to.String()
}

// FormTargets are the other sites that our pages' forms may lead to, for their content security policy.
func (s *Service) FormTargets(ctx context.Context) string {
	if to := s.issuerLogout(ctx); to != "" {
		return originOf(to)
	}
	return ""
}

// label is what a browser or command line says of itself, in bounds, and without what would change how the page that asks to let it in looks.
func label(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\ufffd' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if len(text) > maxLabel {
		text = strings.ToValidUTF8(text[:maxLabel], "")
	}
	return text
}
