package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Session is a sign-in of a user, of a browser or a command line.
type Session struct {
	ID        string     `json:"id" doc:"Id" example:"7hQ2bV90mXwC"`
	Kind      string     `json:"kind" enum:"browser,cli" doc:"What signed in"`
	User      string     `json:"user" doc:"Who signed in" example:"user:default/jane"`
	Issuer    string     `json:"issuer" doc:"Name of the issuer that vouched for the user" example:"idp"`
	Label     string     `json:"label,omitempty" doc:"What the browser or command line says of itself"`
	CreatedAt time.Time  `json:"createdAt" doc:"When it began"`
	SeenAt    time.Time  `json:"seenAt" doc:"When it was last used, to the minute or so"`
	ExpiresAt time.Time  `json:"expiresAt" doc:"When it ends at the latest"`
	EndedAt   *time.Time `json:"endedAt,omitempty" doc:"When it was ended before that"`
}

// The kinds of sessions.
const (
	browserSession = "browser"
	cliSession     = "cli"
)

// The limits of sessions.
const (
	maxSessions  = 100             // of one user; the oldest end before
	maxLabel     = 200             // bytes
	accessAge    = time.Hour       // of a command line's token, then it is refreshed
	memberEvery  = 5 * time.Minute // between two notes that an issuer names the same groups
	refreshGrace = time.Minute     // so long the last refresh token may come again: its answer may have been lost
)

type sessionRow struct {
	Session
	hash      [sha256.Size]byte
	hashUntil time.Time
}

// over says whether a session takes no more requests.
func (s *Service) over(r sessionRow, now time.Time) bool {
	idle := s.cfg.SignIn.Login.Idle.Std()
	return r.EndedAt != nil || !now.Before(r.ExpiresAt) || !now.Before(r.hashUntil) || r.Kind == browserSession && now.Sub(r.SeenAt) >= idle
}

const sessionColumns = `id, kind, user_ref, issuer, label, hash, hash_until, created_at, seen_at, expires_at, ended_at`

func scanSessions(rows *sql.Rows, err error) ([]sessionRow, error) {
	if err != nil {
		return nil, store.Err(err)
	}
	var all []sessionRow
	return all, store.Each(rows, func(rows *sql.Rows) error {
		var r sessionRow
		var sum []byte
		var until, created, seen, expires, ended store.Time
		if err := rows.Scan(&r.ID, &r.Kind, &r.User, &r.Issuer, &r.Label, &sum, &until, &created, &seen, &expires, &ended); err != nil {
			return err
		}
		copy(r.hash[:], sum)
		r.hashUntil, r.CreatedAt, r.SeenAt, r.ExpiresAt, r.EndedAt = until.Time, created.Time, seen.Time, expires.Time, ended.Ptr()
		all = append(all, r)
		return nil
	})
}

var errSession = slipway.Errorf(slipway.Unauthenticated, "the session is over, or is none; sign in again: open /auth/login, or run slipway login")

// session is the caller of a session's secret: of a browser's cookie, or a command line's access token.
func (s *Service) session(ctx context.Context, secret, kind string) (*slipway.Caller, error) {
	id, ok := credentialID(sessionPrefix, secret)
	if !ok {
		return nil, errSession
	}
	now := s.now()
	key := sessionPrefix + id // a session's secret that names the id of a token must not stand where the token is looked for
	e := s.cache.get(key)
	if e == nil || !now.Before(e.until) {
		generation := s.cache.now()
		var err error
		if e, err = s.loadSession(ctx, id, now); err != nil {
			return nil, err
		}
		s.cache.put(key, e, generation)
	}
	sum := hash(secret)
	if same := subtle.ConstantTimeCompare(sum[:], e.hash[:]) == 1; !same || e.caller == nil || e.kind != kind {
		return nil, errSession
	}
	s.touch(key, e)
	return e.caller, nil
}

func (s *Service) loadSession(ctx context.Context, id string, now time.Time) (*entry, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+sessionColumns+` FROM auth_session WHERE id = $1`, id)
	all, err := scanSessions(rows, err)
	if err != nil {
		return nil, err
	}
	e := &entry{until: now.Add(userAge)}
	if len(all) == 0 {
		return e, nil
	}
	r := all[0]
	s.mu.Lock()
	if at := s.used[sessionPrefix+id]; at.After(r.SeenAt) { // not yet written down
		r.SeenAt = at
	}
	s.mu.Unlock()
	if s.over(r, now) {
		return e, nil
	}
	e.hash, e.kind = r.hash, r.Kind
	e.used.Store(r.SeenAt.UnixMicro())
	for _, end := range []time.Time{r.ExpiresAt, r.hashUntil} {
		if end.Before(e.until) {
			e.until = end
		}
	}
	owns, err := s.owns(ctx, r.User)
	if err != nil {
		return nil, err
	}
	e.caller = &slipway.Caller{Kind: slipway.CallerUser, Subject: r.User, SessionID: r.ID, Owns: owns, Grants: s.withEveryone(s.granted(r.User, owns))}
	return e, nil
}

// cookie is the caller of a browser's session, if it shows one; nil else. What could be sent by a page of another site must come from ours.
func (s *Service) cookie(ctx context.Context, r *http.Request) (*slipway.Caller, error) {
	if len(r.Header["Cookie"]) == 0 {
		return nil, nil
	}
	shown := r.CookiesNamed(s.CookieName())
	if len(shown) != 1 {
		return nil, nil // none, or one that somebody put beside ours
	}
	c, err := s.session(ctx, shown[0].Value, browserSession)
	if err != nil {
		return nil, err
	}
	if err := s.sameOrigin(r); err != nil {
		return nil, err
	}
	return c, nil
}

// sameOrigin refuses a request of a browser that a page of another site made and that could change something.
func (s *Service) sameOrigin(r *http.Request) error {
	if r.Header.Get("Upgrade") != "" { // a WebSocket begins with a GET, and the browser lets any page open one
		r = r.Clone(r.Context())
		r.Method = http.MethodPost
	}
	if err := s.protection().Check(r); err != nil {
		return slipway.Errorf(slipway.Forbidden, "a page of another site made this request; do it from Slipway's own pages, or send Authorization: Bearer <token>").WithCause(err)
	}
	return nil
}

// protection knows our own address, which a proxy may have hidden from the request.
func (s *Service) protection() *http.CrossOriginProtection {
	p := s.csrf.Load()
	if p == nil {
		p = http.NewCrossOriginProtection()
		if s.URL != nil {
			_ = p.AddTrustedOrigin(originOf(s.URL())) // a development server on an odd address trusts nobody else
		}
		s.csrf.Store(p)
	}
	return p
}

// CookieName is that of a browser's session. Over https it has the prefix that keeps other hosts and plain http from setting it.
func (s *Service) CookieName() string { return s.cookiePrefix() + "slipway-session" }

func (s *Service) cookiePrefix() string {
	if s.secure() {
		return "__Host-"
	}
	return ""
}

func (s *Service) secure() bool { return s.URL != nil && strings.HasPrefix(s.URL(), "https://") }

// newCookie is a cookie of ours; with an age below 0 it deletes the one that is there.
func (s *Service) newCookie(name, value string, age time.Duration) http.Cookie {
	return http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(age / time.Second), Secure: s.secure(), HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}

// begin stores a new session of a user and ends the oldest when there are too many.
func (s *Service) begin(ctx context.Context, tx *store.Tx, r sessionRow, refresh []byte) error {
	if _, err := tx.Exec(ctx, `INSERT INTO auth_session
		(id, kind, user_ref, issuer, label, hash, hash_until, refresh, refreshed_at, created_at, seen_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $9, $10)`,
		r.ID, r.Kind, r.User, r.Issuer, r.Label, r.hash[:], store.At(r.hashUntil), refresh, store.At(r.CreatedAt), store.At(r.ExpiresAt)); err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `UPDATE auth_session SET ended_at = $2 WHERE ended_at IS NULL AND id IN (
		SELECT id FROM auth_session WHERE user_ref = $1 AND ended_at IS NULL ORDER BY created_at DESC, id DESC LIMIT 100 OFFSET $3)`,
		r.User, store.At(r.CreatedAt), maxSessions)
	if err == nil && n > 0 {
		err = s.rev.Bump(ctx, tx, revision)
	}
	if err != nil {
		return err
	}
	return s.Audit(ctx, tx, &slipway.Caller{Kind: slipway.CallerUser, Subject: r.User, SessionID: r.ID}, "session.begin", r.ID)
}

// SessionQuery says which sessions to list, newest first.
type SessionQuery struct {
	User   string   // by canonical ref; "" for all
	All    bool     // also those that are over
	After  *Session // read on after this one (its ID and CreatedAt)
	AtMost int
}

// ListSessions lists sessions.
func (s *Service) ListSessions(ctx context.Context, q SessionQuery) ([]Session, error) {
	after, id := store.Time{}, ""
	if q.After != nil {
		after, id = store.At(q.After.CreatedAt), q.After.ID
	}
	now := s.now()
	rows, err := s.db.QueryContext(ctx, `SELECT `+sessionColumns+` FROM auth_session
		WHERE ($1 = '' OR user_ref = $1)
		AND ($2 OR (ended_at IS NULL AND expires_at > $3 AND (kind <> 'browser' OR seen_at > $4)))
		AND ($5 = '' OR created_at < $6 OR (created_at = $6 AND id < $5))
		ORDER BY created_at DESC, id DESC LIMIT $7`,
		q.User, q.All, store.At(now), store.At(now.Add(-s.cfg.SignIn.Login.Idle.Std())), id, after, q.AtMost)
	all, err := scanSessions(rows, err)
	list := make([]Session, len(all))
	for i, r := range all {
		list[i] = r.Session
	}
	return list, err
}

// EndSession ends a session, here at once and elsewhere within a second. user, unless "", is whose it must be: NotFound else, and when there is none.
func (s *Service) EndSession(ctx context.Context, by *slipway.Caller, id, user string) error {
	return s.db.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE auth_session SET ended_at = $1 WHERE id = $2 AND ended_at IS NULL AND ($3 = '' OR user_ref = $3)`, store.At(s.now()), id, user)
		if err != nil {
			return err
		}
		if n == 0 {
			var owner string
			err := tx.QueryRowContext(ctx, `SELECT user_ref FROM auth_session WHERE id = $1`, id).Scan(&owner)
			switch {
			case errors.Is(err, sql.ErrNoRows), err == nil && user != "" && user != owner:
				return slipway.Errorf(slipway.NotFound, "there is no session %.40q; slipway auth session list (GET /api/auth/sessions) shows yours", id)
			case err != nil:
				return store.Err(err)
			}
			return nil // it is over
		}
		if err := s.rev.Bump(ctx, tx, revision); err != nil {
			return err
		}
		return s.Audit(ctx, tx, by, "session.end", id)
	})
}

// member notes the groups that an issuer names for a user, in a transaction.
func (s *Service) member(ctx context.Context, tx *store.Tx, user, issuer string, groups []string, now time.Time) error {
	raw, err := json.Marshal(append([]string{}, groups...))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO auth_member (user_ref, issuer, refs, seen_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_ref, issuer) DO UPDATE SET refs = excluded.refs, seen_at = excluded.seen_at`, user, issuer, string(raw), store.At(now))
	return err
}

// memberships are the groups that issuers named for a user when it last signed in, as long as that is not too long ago, and only of issuers that are still configured.
func (s *Service) memberships(ctx context.Context, user string) ([]string, error) {
	if len(s.issuers.all) == 0 {
		return nil, nil
	}
	since := s.now().Add(-s.cfg.SignIn.Remember.Std())
	rows, err := s.db.QueryContext(ctx, `SELECT issuer, refs FROM auth_member WHERE user_ref = $1 AND seen_at > $2 ORDER BY issuer`, user, store.At(since))
	if err != nil {
		return nil, store.Err(err)
	}
	var all []string
	return all, store.Each(rows, func(rows *sql.Rows) error {
		var issuer, raw string
		if err := rows.Scan(&issuer, &raw); err != nil {
			return err
		}
		if s.issuers.named(issuer) == nil {
			return nil
		}
		var refs []string
		if err := json.Unmarshal([]byte(raw), &refs); err != nil {
			return fmt.Errorf("groups of %s by %s: %w", user, issuer, err)
		}
		for _, ref := range refs {
			if !slices.Contains(all, ref) {
				all = append(all, ref)
			}
		}
		return nil
	})
}

// vouched is a user's groups by an issuer, to be written down.
type vouched struct {
	groups []string
	at     time.Time
}

// remember notes what a token says of its user's groups, when that is new or was not noted for a while. Flush writes it.
func (s *Service) remember(id *identity) {
	if id.kind != slipway.CallerUser || !id.told {
		return
	}
	key, now := id.subject+" "+id.issuer, s.now()
	if last := s.told.get(key); last != nil && now.Sub(last.at) < memberEvery && slices.Equal(last.groups, id.groups) {
		return
	}
	v := vouched{id.groups, now}
	s.told.put(key, &v, s.told.now())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vouched[key] = v
}
