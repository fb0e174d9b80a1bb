package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// A command line signs in by the device flow (RFC 8628), with Slipway as the authorization server: it shows a code, a user who is signed in with a
// browser lets it in, and it gets tokens of its own. Why Slipway and not the issuer is in docs/decisions.
const (
	deviceAge      = 10 * time.Minute
	DeviceInterval = 3 * time.Second // between two polls
	maxDevices     = 1000            // that wait at one time
	codeLetters    = "BCDFGHJKLMNPQRSTVWXZ"
	codeLength     = 8 // of 20 letters: 34 bits, for ten minutes, and only who is signed in may try
)

// Device is a command line that waits to be let in.
type Device struct {
	Secret    string    // for the command line alone
	Code      string    // for the user: "WDJB-MJHT"
	Label     string    // what the command line says of itself
	CreatedAt time.Time // when it began to wait
	ExpiresAt time.Time // when it is forgotten
}

// OAuthError is an error of the token endpoint, by its name in RFC 6749 and RFC 8628.
type OAuthError string

// The errors of the token endpoint.
const (
	Pending      OAuthError = "authorization_pending"
	SlowDown     OAuthError = "slow_down"
	Denied       OAuthError = "access_denied"
	Expired      OAuthError = "expired_token"
	InvalidGrant OAuthError = "invalid_grant"
)

func (e OAuthError) Error() string { return string(e) }

// Text says it in words.
func (e OAuthError) Text() string {
	switch e {
	case Pending:
		return "the user has not answered yet"
	case SlowDown:
		return "poll less often"
	case Denied:
		return "the user turned it away"
	case Expired:
		return "the code is over; begin again"
	}
	return "unknown, used up or over; sign in again"
}

// NewDevice begins a device flow. Unsupported when nobody could let it in; Unavailable when too many wait.
func (s *Service) NewDevice(ctx context.Context, what string) (Device, error) {
	if !s.LoginOffered() {
		return Device{}, errNoLogin
	}
	now := store.At(s.now()).Time
	d := Device{Secret: credential(devicePrefix, random(idLength)), Code: newCode(), Label: label(what), CreatedAt: now, ExpiresAt: now.Add(deviceAge)}
	sum := hash(d.Secret)
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM auth_device WHERE expires_at > $1 AND state = 'waiting' LIMIT $2) AS waiting`,
			store.At(now), maxDevices).Scan(&n); err != nil {
			return store.Err(err)
		}
		if n >= maxDevices {
			return slipway.Errorf(slipway.Unavailable, "too many command lines wait to be let in; try again").After(time.Minute)
		}
		_, err := tx.Exec(ctx, `INSERT INTO auth_device (hash, code, label, state, created_at, expires_at) VALUES ($1, $2, $3, 'waiting', $4, $5)`,
			sum[:], plainCode(d.Code), d.Label, store.At(now), store.At(d.ExpiresAt))
		return err
	})
	return d, err
}

func newCode() string {
	var b strings.Builder
	for b.Len() < codeLength+1 {
		if b.Len() == codeLength/2 {
			b.WriteByte('-')
		}
		for _, c := range []byte(random(8)) { // 62 signs, of which 60 are three times 20
			if n := strings.IndexByte(alphabet, c); n < 60 {
				b.WriteByte(codeLetters[n%len(codeLetters)])
				break
			}
		}
	}
	return b.String()
}

// plainCode is a code as it is stored: whatever people put between the letters, and however they write them.
func plainCode(code string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r
		}
		return -1
	}, strings.ToUpper(code[:min(len(code), 40)]))
}

var errBrowser = slipway.Errorf(slipway.Unauthenticated, "sign in with a browser first: open /auth/login")

var errCode = slipway.Errorf(slipway.NotFound, "this code is not known, was used, or is over; run slipway login again and type the code that it shows")

// WaitingDevice is the command line that shows a code. NotFound when none waits with it.
func (s *Service) WaitingDevice(ctx context.Context, code string) (Device, error) {
	d := Device{Code: code}
	var created, expires store.Time
	err := s.db.QueryRowContext(ctx, `SELECT label, created_at, expires_at FROM auth_device WHERE code = $1 AND state = 'waiting' AND expires_at > $2`,
		plainCode(code), store.At(s.now())).Scan(&d.Label, &created, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return d, errCode
	}
	d.CreatedAt, d.ExpiresAt = created.Time, expires.Time
	return d, store.Err(err)
}

// AnswerDevice lets a command line in as the caller, or turns it away. Only a user who signed in with a browser may: what comes in has that user's rights, and
// a command line that could let others in would outlive its own session.
func (s *Service) AnswerDevice(ctx context.Context, c *slipway.Caller, code string, let bool) error {
	if c.Kind != slipway.CallerUser || c.SessionID == "" {
		return errBrowser
	}
	state := "denied"
	if let {
		state = "approved"
	}
	return s.db.Write(ctx, func(tx *store.Tx) error {
		var kind string
		err := tx.QueryRowContext(ctx, `SELECT kind FROM auth_session WHERE id = $1`, c.SessionID).Scan(&kind)
		if errors.Is(err, sql.ErrNoRows) || err == nil && kind != browserSession {
			return errBrowser
		} else if err != nil {
			return store.Err(err)
		}
		n, err := tx.Exec(ctx, `UPDATE auth_device SET state = $1, user_ref = $2,
			issuer = (SELECT issuer FROM auth_session WHERE id = $3)
			WHERE code = $4 AND state = 'waiting' AND expires_at > $5`, state, c.Subject, c.SessionID, plainCode(code), store.At(s.now()))
		if err != nil {
			return err
		}
		if n == 0 {
			return errCode
		}
		return s.Audit(ctx, tx, c, "device."+state, plainCode(code))
	})
}

// Tokens are what a command line gets.
type Tokens struct {
	Access  string
	Refresh string
	Expires time.Duration // of Access
	Session Session
}

// DeviceTokens is a poll of a command line: its tokens, once, when it was let in; else an OAuthError.
func (s *Service) DeviceTokens(ctx context.Context, secret string) (Tokens, error) {
	if _, ok := credentialID(devicePrefix, secret); !ok {
		return Tokens{}, InvalidGrant
	}
	sum := hash(secret)
	now := store.At(s.now()).Time
	var state string
	var expires store.Time
	err := s.db.QueryRowContext(ctx, `SELECT state, expires_at FROM auth_device WHERE hash = $1`, sum[:]).Scan(&state, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Tokens{}, InvalidGrant
	case err != nil:
		return Tokens{}, store.Err(err)
	case !now.Before(expires.Time):
		return Tokens{}, Expired
	case state == "denied":
		return Tokens{}, Denied
	case state != "approved":
		return Tokens{}, Pending
	}
	var t Tokens
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		var what, user, issuer string
		err := tx.QueryRowContext(ctx, `DELETE FROM auth_device WHERE hash = $1 AND state = 'approved' RETURNING label, user_ref, issuer`, sum[:]).Scan(&what, &user, &issuer)
		if errors.Is(err, sql.ErrNoRows) { // it works once
			return InvalidGrant
		} else if err != nil {
			return store.Err(err)
		}
		t, err = s.beginCLI(ctx, tx, user, issuer, what, now)
		return err
	})
	if err != nil {
		return Tokens{}, err
	}
	return t, nil
}

func (s *Service) beginCLI(ctx context.Context, tx *store.Tx, user, issuer, what string, now time.Time) (Tokens, error) {
	id := random(idLength)
	r := sessionRow{Session: Session{ID: id, Kind: cliSession, User: user, Issuer: issuer, Label: what, CreatedAt: now, SeenAt: now, ExpiresAt: now.Add(s.cfg.SignIn.Login.CLI.Std())}}
	t := s.newTokens(r.Session, now)
	r.hash, r.hashUntil = hash(t.Access), now.Add(t.Expires)
	sum := hash(t.Refresh)
	return t, s.begin(ctx, tx, r, sum[:])
}

func (s *Service) newTokens(session Session, now time.Time) Tokens {
	return Tokens{
		Access: credential(sessionPrefix, session.ID), Refresh: credential(refreshPrefix, session.ID),
		Expires: min(accessAge, session.ExpiresAt.Sub(now)), Session: session,
	}
}

// RefreshTokens gives a command line new tokens for its refresh token, which is then used up. One that comes again within a minute gets
// tokens again, because the answer may have been lost; one that comes later was copied, and ends the session. InvalidGrant: sign in anew.
func (s *Service) RefreshTokens(ctx context.Context, secret string) (Tokens, error) {
	id, ok := credentialID(refreshPrefix, secret)
	if !ok {
		return Tokens{}, InvalidGrant
	}
	sum := hash(secret)
	now := store.At(s.now()).Time
	var t Tokens
	refused, reused := false, ""
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		t, refused, reused = Tokens{}, false, ""
		// The row is taken first, so that of two that come together the second sees what the first did.
		rows, err := tx.QueryContext(ctx, `UPDATE auth_session SET seen_at = seen_at WHERE id = $1 RETURNING `+sessionColumns, id)
		all, err := scanSessions(rows, err)
		if err != nil {
			return err
		}
		if len(all) == 0 || all[0].Kind != cliSession || all[0].EndedAt != nil || !now.Before(all[0].ExpiresAt) {
			refused = true
			return nil
		}
		var current, past []byte
		var refreshed store.Time
		if err := tx.QueryRowContext(ctx, `SELECT refresh, refresh_past, refreshed_at FROM auth_session WHERE id = $1`, id).Scan(&current, &past, &refreshed); err != nil {
			return store.Err(err)
		}
		again := same(sum, past)
		switch {
		case again && now.Sub(refreshed.Time) > refreshGrace:
			refused = true
			if _, err := tx.Exec(ctx, `UPDATE auth_session SET ended_at = $1 WHERE id = $2`, store.At(now), id); err != nil {
				return err
			}
			if err := s.rev.Bump(ctx, tx, revision); err != nil {
				return err
			}
			reused = all[0].User
			return s.Audit(ctx, tx, &slipway.Caller{Kind: slipway.CallerUser, Subject: all[0].User, SessionID: id}, "session.reuse", id)
		case !again && !same(sum, current):
			refused = true
			return nil
		}
		t = s.newTokens(all[0].Session, now)
		access, refresh := hash(t.Access), hash(t.Refresh)
		if _, err := tx.Exec(ctx, `UPDATE auth_session SET hash = $1, hash_until = $2, refresh = $3, refresh_past = $4, refreshed_at = $5, seen_at = $5 WHERE id = $6`,
			access[:], store.At(now.Add(t.Expires)), refresh[:], sum[:], store.At(now), id); err != nil {
			return err
		}
		return s.rev.Bump(ctx, tx, revision)
	})
	if err == nil && reused != "" {
		s.log.WarnContext(ctx, "a refresh token was used twice: its session is ended", "session", id, "user", reused)
	}
	if err == nil && refused {
		err = InvalidGrant
	}
	return t, err
}

func same(sum [sha256.Size]byte, stored []byte) bool {
	return subtle.ConstantTimeCompare(sum[:], stored) == 1
}

// EndByRefresh ends the session of a refresh token (RFC 7009). One that is not known is no error.
func (s *Service) EndByRefresh(ctx context.Context, secret string) error {
	id, ok := credentialID(refreshPrefix, secret)
	if !ok {
		return nil
	}
	sum := hash(secret)
	var user string
	err := s.db.QueryRowContext(ctx, `SELECT user_ref FROM auth_session WHERE id = $1 AND (refresh = $2 OR refresh_past = $2)`, id, sum[:]).Scan(&user)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	} else if err != nil {
		return store.Err(err)
	}
	return s.EndSession(ctx, &slipway.Caller{Kind: slipway.CallerUser, Subject: user, SessionID: id}, id, user)
}
