package auth

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Token is a Slipway token as people see it; the secret itself is shown once, when it is made.
type Token struct {
	ID          string     `json:"id" doc:"Id, a part of the token that may be shown" example:"4fT0aZ81kQxB"`
	Name        string     `json:"name" doc:"Name; unique among tokens that are not revoked or expired" example:"ci-bot"`
	User        string     `json:"user,omitempty" doc:"The user that it acts as; absent for a service" example:"user:default/jane"`
	Permissions []string   `json:"permissions" nullable:"false" doc:"What it may do, as far as its issuer may at the moment of each request; empty for a user's token that may do what the user may" example:"[\"build.*:owned\"]"`
	RateLimit   *Rate      `json:"rateLimit,omitempty" doc:"Its own rate limit; 0: none; absent: the configured one" example:"5000/m"`
	CreatedAt   time.Time  `json:"createdAt" doc:"When it was made"`
	CreatedBy   string     `json:"createdBy" doc:"Who made it" example:"user:default/jane"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty" doc:"From when on it is refused"`
	LastUsedAt  *time.Time `json:"lastUsedAt,omitempty" doc:"When it was last used, to the minute"`
	RevokedAt   *time.Time `json:"revokedAt,omitempty" doc:"Since when it is refused"`
}

// NewToken says what token to make.
type NewToken struct {
	Name        string
	User        string    // ref of the user that it acts as; "" for a service
	Permissions []string  // as ParseGrant reads them; none, for a user: what the user may do
	Expires     time.Time // zero: never
	RateLimit   *Rate     // nil: the configured one; not for a user's token, which counts on the user's limit
	Admin       bool      // may do everything; instead of Permissions
}

// The limits of tokens.
const (
	maxPermissions = 100
	maxChain       = 8 // tokens issued by tokens
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// row is a stored token.
type row struct {
	Token
	hash        [sha256.Size]byte
	issuerToken string // id of the token that made it, or ""
}

func (r row) live(now time.Time) bool {
	return r.RevokedAt == nil && (r.ExpiresAt == nil || now.Before(*r.ExpiresAt))
}

// grants reads the stored permissions. They were checked when they were stored; one that does not parse any more gives no right.
func (r row) grants() []slipway.Grant {
	var all []slipway.Grant
	for _, text := range r.Permissions {
		if g, err := ParseGrant(text); err == nil {
			all = append(all, g)
		}
	}
	return all
}

// CreateToken makes a token and gives its secret, which is not stored and cannot be had again. The issuer must hold all that the token
// may do, and what the configuration grants to its name; a right to ":owned" passes only to a token that owns the same. The token keeps only what
// its issuer keeps: when the issuer's token is revoked or over, or loses a grant, so does this one.
//
// Errors: Invalid with details; Forbidden names what the issuer lacks; Conflict when a live token has the name.
func (s *Service) CreateToken(ctx context.Context, issuer *slipway.Caller, in NewToken) (Token, string, error) {
	if _, _, err := s.check(in, store.At(s.now()).Time); err != nil {
		return Token{}, "", err
	}
	var t Token
	var secret string
	err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
		t, secret, err = s.CreateTokenIn(ctx, tx, issuer, in)
		return err
	})
	if err != nil {
		return Token{}, "", err
	}
	return t, secret, nil
}

// CreateTokenIn is CreateToken in a transaction that does more. After an error the transaction must be rolled back.
func (s *Service) CreateTokenIn(ctx context.Context, tx *store.Tx, issuer *slipway.Caller, in NewToken) (Token, string, error) {
	now := store.At(s.now()).Time
	t, grants, err := s.check(in, now)
	if err == nil {
		err = s.mayIssue(ctx, tx, issuer, t, grants)
	}
	if err != nil {
		return Token{}, "", err
	}
	secret, id := newSecret()
	t.ID, t.CreatedAt, t.CreatedBy = id, now, issuer.Subject
	err = s.insert(ctx, tx, t, secret, issuer)
	if slipway.CodeOf(err) == slipway.Conflict {
		err = slipway.Errorf(slipway.Conflict, "there is a token named %q; take another name, or revoke that one first", t.Name).WithCause(err)
	}
	return t, secret, err
}

// The bounds of temporary tokens.
const (
	narrowUsual = time.Hour
	narrowMost  = 24 * time.Hour
	maxNarrow   = 200 // that are live, of one maker
)

// NarrowToken makes a token that acts as its maker, may do only what is listed, at most what the maker may, and ends by itself: after
// lifetime (0: an hour), a day at most. purpose is a word for its name. Errors are those of CreateToken.
func (s *Service) NarrowToken(ctx context.Context, maker *slipway.Caller, purpose string, permissions []string, lifetime time.Duration) (Token, string, error) {
	switch {
	case lifetime == 0:
		lifetime = narrowUsual
	case lifetime < time.Second || lifetime > narrowMost:
		return Token{}, "", invalid("the token cannot be made", []slipway.Detail{{Field: "lifetime", Code: slipway.Invalid, Message: "write a second to a day, such as 15m"}})
	}
	if len(permissions) == 0 {
		return Token{}, "", invalid("the token cannot be made", []slipway.Detail{{Field: "permissions", Code: slipway.Invalid, Message: "list at least one"}})
	}
	in := NewToken{Name: strings.ReplaceAll("tmp-"+purpose+"-"+random(idLength), "--", "-"), Permissions: permissions, Expires: s.now().Add(lifetime)}
	if maker.Kind == slipway.CallerUser {
		in.User = maker.Subject
	}
	if _, _, err := s.check(in, store.At(s.now()).Time); err != nil {
		return Token{}, "", err
	}
	var t Token
	var secret string
	err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM auth_token WHERE issuer = $1 AND revoked_at IS NULL AND expires_at > $2`,
			maker.Subject, store.At(s.now())).Scan(&n); err != nil {
			return store.Err(err)
		}
		if n >= maxNarrow {
			return slipway.Errorf(slipway.Conflict, "%s has %d tokens that end by themselves; revoke some, or wait for that", maker.Subject, n)
		}
		t, secret, err = s.CreateTokenIn(ctx, tx, maker, in)
		return err
	})
	if err != nil {
		return Token{}, "", err
	}
	return t, secret, nil
}

// CheckToken says what would keep a token from being made, as CreateToken would, and how the token would read.
func (s *Service) CheckToken(ctx context.Context, issuer *slipway.Caller, in NewToken) (Token, error) {
	t, grants, err := s.check(in, store.At(s.now()).Time)
	if err != nil {
		return t, err
	}
	return t, s.mayIssue(ctx, s.db, issuer, t, grants)
}

// check reads what is asked for; all faults come back together.
func (s *Service) check(in NewToken, now time.Time) (Token, []slipway.Grant, error) {
	var faults []slipway.Detail
	fault := func(field, format string, args ...any) {
		faults = append(faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
	}
	t := Token{Name: in.Name, Permissions: []string{}, RateLimit: in.RateLimit}
	if !namePattern.MatchString(in.Name) {
		fault("name", "write letters, digits, dot, dash or underscore, starting with a letter or digit, at most 63")
	}
	if in.User != "" {
		ref, err := slipway.ParseEntityRef(in.User, slipway.EntityRef{Kind: "user"})
		switch {
		case err != nil:
			fault("user", "%s", sentence(err))
		case ref.Lower().Kind != "user":
			fault("user", "a token acts as a user; write user:default/<name>")
		}
		t.User = ref.String()
	}
	if in.Admin {
		if len(in.Permissions) > 0 {
			fault("permissions", "an admin token may do everything; leave the permissions out")
		}
		in.Permissions = []string{"*"}
	}
	if len(in.Permissions) > maxPermissions {
		fault("permissions", "at most %d; use patterns such as build.*", maxPermissions)
		in.Permissions = nil
	}
	var grants []slipway.Grant
	for i, text := range in.Permissions {
		g, err := parseDeclared(text, s.permissions)
		if err != nil {
			fault(fmt.Sprintf("permissions[%d]", i), "%s", sentence(err))
			continue
		}
		if !slices.Contains(grants, g) {
			grants = append(grants, g)
			t.Permissions = append(t.Permissions, FormatGrant(g))
		}
	}
	if len(in.Permissions) == 0 && in.User == "" && len(s.granted("token:"+in.Name, nil)) == 0 {
		fault("permissions", "list at least one; GET /api/auth/permissions shows what there is")
	}
	if !in.Expires.IsZero() {
		t.ExpiresAt = store.At(in.Expires).Ptr()
		if !in.Expires.After(now) {
			fault("expiresAt", "this is in the past")
		}
	}
	if in.RateLimit != nil && in.User != "" {
		fault("rateLimit", "a user's token counts on the limit of the user; leave it out")
	}
	if in.RateLimit != nil && (*in.RateLimit < 0 || *in.RateLimit > maxRate) {
		fault("rateLimit", "write <requests>/m, or 0 for no limit")
	}
	return t, grants, invalid("the token cannot be made", faults)
}

// mayIssue says whether the issuer may make this token.
func (s *Service) mayIssue(ctx context.Context, q store.Querier, issuer *slipway.Caller, t Token, grants []slipway.Grant) error {
	switch issuer.Kind {
	case slipway.CallerSystem:
		return nil
	case slipway.CallerAnonymous:
		return missing(issuer, "to make tokens", "")
	}
	if issuer.TokenID != "" {
		above, err := chain(ctx, q, issuer.TokenID)
		if err != nil {
			return err
		}
		if len(above) >= maxChain {
			return slipway.Errorf(slipway.Forbidden, "tokens may be issued by tokens at most %d deep; ask somebody nearer to the beginning", maxChain)
		}
	}
	held := issuer.Grants
	foreign := t.User != "" && t.User != issuer.Subject
	if foreign {
		held = notOwned(held)
	}
	wanted := slices.Concat(grants, s.granted("token:"+t.Name, nil))
	if foreign {
		wanted = append(wanted, slipway.Grant{Permission: ImpersonatePermission})
	}
	if r := t.RateLimit; r != nil && s.cfg.RateLimits.Service > 0 && (*r == 0 || *r > s.cfg.RateLimits.Service) {
		wanted = append(wanted, slipway.Grant{Permission: LiftPermission})
	}
	var lacks []string
	for _, g := range wanted {
		if !covers(held, g) {
			lacks = append(lacks, FormatGrant(g))
		}
	}
	if len(lacks) > 0 {
		return slipway.Errorf(slipway.Forbidden, "%s can pass on only what it holds itself; it lacks %s", issuer.Subject, strings.Join(lacks, ", "))
	}
	return nil
}

func (s *Service) insert(ctx context.Context, tx *store.Tx, t Token, secret string, issuer *slipway.Caller) error {
	permissions, err := json.Marshal(t.Permissions)
	if err != nil {
		return err
	}
	// A token that is over frees its name.
	if _, err := tx.Exec(ctx, `UPDATE auth_token SET revoked_at = expires_at
		WHERE name = $1 AND revoked_at IS NULL AND expires_at <= $2`, t.Name, store.At(t.CreatedAt)); err != nil {
		return err
	}
	sum := hash(secret)
	if _, err := tx.Exec(ctx, `INSERT INTO auth_token
			(id, name, hash, user_ref, permissions, rate_limit, issuer, issuer_token, created_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		t.ID, t.Name, sum[:], t.User, string(permissions), (*int64)(t.RateLimit), t.CreatedBy, issuer.TokenID,
		store.At(t.CreatedAt), store.AtPtr(t.ExpiresAt)); err != nil {
		return err
	}
	if err := s.rev.Bump(ctx, tx, revision); err != nil {
		return err
	}
	return s.Audit(ctx, tx, issuer, "token.create", t.ID+" "+t.Name)
}

// EnsureAdmin makes the token "admin", which may do everything, when there never was a token. created says whether it did.
func (s *Service) EnsureAdmin(ctx context.Context) (secret string, created bool, err error) {
	now := store.At(s.now()).Time
	t, _, err := s.check(NewToken{Name: "admin", Admin: true}, now)
	if err != nil {
		return "", false, err
	}
	secret, t.ID = newSecret()
	t.CreatedAt, t.CreatedBy = now, systemSubject
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM auth_token LIMIT 1) AS any_token`).Scan(&n); err != nil || n > 0 {
			return store.Err(err)
		}
		created = true
		return s.insert(ctx, tx, t, secret, System())
	})
	if slipway.CodeOf(err) == slipway.Conflict { // another replica was faster
		return "", false, nil
	}
	if err != nil || !created {
		return "", false, err
	}
	return secret, true, nil
}

// RevokeToken ends a token, and with it all that it issued. It stays listed until retention. Revoking it again does nothing; NotFound when
// there is none with the id.
func (s *Service) RevokeToken(ctx context.Context, caller *slipway.Caller, id string) error {
	return s.db.Write(ctx, func(tx *store.Tx) error { return s.RevokeTokenIn(ctx, tx, caller, id) })
}

// RevokeTokenIn is RevokeToken in a transaction that does more.
func (s *Service) RevokeTokenIn(ctx context.Context, tx *store.Tx, caller *slipway.Caller, id string) error {
	n, err := tx.Exec(ctx, `UPDATE auth_token SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL`, store.At(s.now()), id)
	if err != nil {
		return err
	}
	if n == 0 {
		_, err := getToken(ctx, tx, id)
		return err
	}
	if err := s.rev.Bump(ctx, tx, revision); err != nil {
		return err
	}
	return s.Audit(ctx, tx, caller, "token.revoke", id)
}

// Issued says whether a token is the one above or was issued by it, at any depth. A token that is not there was issued by nobody.
func (s *Service) Issued(ctx context.Context, above, id string) (bool, error) {
	links, err := chain(ctx, s.db, id)
	return slices.ContainsFunc(links, func(r row) bool { return r.ID == above }), err
}

// GetToken gives a token by id, also one that is over. NotFound when there is none.
func (s *Service) GetToken(ctx context.Context, id string) (Token, error) {
	return getToken(ctx, s.db, id)
}

func getToken(ctx context.Context, q store.Querier, id string) (Token, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+tokenColumns+` FROM auth_token AS t WHERE id = $1`, id)
	all, err := scan(rows, err)
	if err != nil {
		return Token{}, err
	}
	if len(all) == 0 {
		return Token{}, slipway.Errorf(slipway.NotFound, "there is no token %.40q; slipway token list (GET /api/tokens) shows them", id)
	}
	return all[0].Token, nil
}

// TokenQuery says which tokens to list: newest first.
type TokenQuery struct {
	User   string // only those of this user, by canonical ref; "" for all
	All    bool   // also those that are revoked or expired
	After  *Token // read on after this one (its ID and CreatedAt)
	AtMost int    // how many
}

// ListTokens lists tokens.
func (s *Service) ListTokens(ctx context.Context, q TokenQuery) ([]Token, error) {
	after, id := store.Time{}, ""
	if q.After != nil {
		after, id = store.At(q.After.CreatedAt), q.After.ID
	}
	rows, err := s.db.QueryContext(ctx, `SELECT `+tokenColumns+` FROM auth_token AS t
		WHERE ($1 = '' OR user_ref = $1)
		AND ($2 OR (revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)))
		AND ($4 = '' OR created_at < $5 OR (created_at = $5 AND id < $4))
		ORDER BY created_at DESC, id DESC LIMIT $6`, q.User, q.All, store.At(s.now()), id, after, q.AtMost)
	all, err := scan(rows, err)
	if err != nil {
		return nil, err
	}
	tokens := make([]Token, len(all))
	for i, r := range all {
		tokens[i] = r.Token
	}
	return tokens, nil
}

// LiveTokens lists tokens that are neither revoked nor expired by name, those behind a name, or only that of a name ("": all). A name has one at most.
func (s *Service) LiveTokens(ctx context.Context, q store.Querier, name, after string, atMost int) ([]Token, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+tokenColumns+` FROM auth_token AS t
		WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1) AND ($2 = '' OR name = $2) AND name > $3 ORDER BY name LIMIT $4`,
		store.At(s.now()), name, after, atMost)
	all, err := scan(rows, err)
	var tokens []Token
	for _, r := range all {
		tokens = append(tokens, r.Token)
	}
	return tokens, err
}

const tokenColumns = `t.id, t.name, t.hash, t.user_ref, t.permissions, t.rate_limit, t.issuer, t.issuer_token, t.created_at, t.expires_at, t.last_used_at, t.revoked_at`

// chain reads a token, the token that issued it, and so on.
func chain(ctx context.Context, q store.Querier, id string) ([]row, error) {
	rows, err := q.QueryContext(ctx, `
		WITH RECURSIVE issued (depth, id, issuer_token) AS (
			SELECT 0, id, issuer_token FROM auth_token WHERE id = $1
			UNION ALL
			SELECT issued.depth + 1, t.id, t.issuer_token FROM issued JOIN auth_token AS t ON t.id = issued.issuer_token WHERE issued.depth < $2
		)
		SELECT `+tokenColumns+` FROM issued JOIN auth_token AS t ON t.id = issued.id ORDER BY issued.depth`, id, maxChain)
	return scan(rows, err)
}

func scan(rows *sql.Rows, err error) ([]row, error) {
	if err != nil {
		return nil, store.Err(err)
	}
	var all []row
	return all, store.Each(rows, func(rows *sql.Rows) error {
		var r row
		var sum []byte
		var permissions string
		var rate *int64
		var created, expires, used, revoked store.Time
		if err := rows.Scan(&r.ID, &r.Name, &sum, &r.User, &permissions, &rate, &r.CreatedBy, &r.issuerToken,
			&created, &expires, &used, &revoked); err != nil {
			return err
		}
		copy(r.hash[:], sum)
		r.RateLimit = (*Rate)(rate)
		r.CreatedAt, r.ExpiresAt, r.LastUsedAt, r.RevokedAt = created.Time, expires.Ptr(), used.Ptr(), revoked.Ptr()
		all = append(all, r)
		return json.Unmarshal([]byte(permissions), &all[len(all)-1].Permissions)
	})
}
