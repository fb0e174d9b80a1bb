package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

//go:embed migrations
var files embed.FS

// Migrations is the schema of a Service: the tables auth_token, auth_audit, auth_window and auth_replica.
var Migrations = store.Migrations{Owner: "auth", FS: func() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err)
	}
	return sub
}()}

// Config is what an operator sets.
type Config struct {
	SignIn     SignIn        `yaml:"auth" doc:"How callers prove who they are, besides Slipway's own tokens"`
	Grants     []GrantConfig `yaml:"grants" doc:"Who may do what; what is not granted is refused"`
	RateLimits RateLimits    `yaml:"rateLimits" doc:"Requests in a minute"`
	Retention  time.Duration `yaml:"-" doc:"How long the record of changes, and tokens that are over, are kept; 0: for ever"`
}

// DefaultConfig is the configuration of whoever sets nothing.
func DefaultConfig() Config {
	return Config{SignIn: defaultSignIn(), RateLimits: RateLimits{User: 100, Service: 1000, Address: 60}, Retention: 400 * 24 * time.Hour}
}

// Check names what is wrong, given the permissions that exist.
func (c Config) Check(permissions []Permission) []slipway.Detail {
	faults := c.SignIn.check()
	_, err := rules(c.Grants, permissions)
	if e, ok := errors.AsType[*slipway.Error](err); ok {
		faults = append(faults, e.Details...)
	}
	return faults
}

// Service knows callers, what they may do, and how often they called. Safe for concurrent use. What it remembers of tokens is
// at most a second old on any replica that runs Revisions.Run, and never old on the replica that made the change.
type Service struct {
	// Ownership gives the canonical refs that stand for a user when ownership is asked: the user and its groups. Set it
	// before use; nil: only the user. It is asked about once a second for each user who calls.
	Ownership func(ctx context.Context, user string) ([]string, error)
	// Review asks a cluster about a token, for issuers that name one. Set it before use; nil: there are no clusters.
	Review Reviewer
	// URL is the server's address from outside, and Keys seal what a browser keeps for a sign-in that is under way. Set both before use; without them
	// nobody signs in by browser.
	URL  func() string
	Keys *secret.Keyring
	// Replicas says how many replicas count requests. Nil: Run counts them in the database. Set it before use.
	Replicas func() int

	db          *store.DB
	rev         *store.Revisions
	cfg         Config
	permissions []Permission
	rules       []rule
	more        atomic.Pointer[[]rule] // beside the configuration
	everyone    []slipway.Grant        // what every caller with a credential holds
	now         func() time.Time
	log         *slog.Logger
	cache       cache[entry]
	issuers     *issuers
	web         *web // nil: no sign-in with a browser
	tls         tlsHeader
	limits      *limiter
	id          string       // of this replica
	replicas    atomic.Int64 // as last counted

	told cache[vouched] // by user and issuer, as last noted
	csrf atomic.Pointer[http.CrossOriginProtection]

	mu      sync.Mutex
	used    map[string]time.Time // tokens and sessions that were used since the last flush
	vouched map[string]vouched   // by user and issuer: the groups that were named since
}

// New makes a Service on the main database; no I/O. Grants of permissions that no blueprint declares and grants to nobody are Invalid, all
// reported together. now and log may be nil.
func New(db *store.DB, rev *store.Revisions, cfg Config, permissions []Permission, now func() time.Time, log *slog.Logger) (*Service, error) {
	rules, err := rules(cfg.Grants, permissions)
	if err != nil {
		return nil, err
	}
	if err := invalid("the configuration of sign-in", cfg.SignIn.check()); err != nil {
		return nil, err
	}
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	issuers, err := newIssuers(cfg.SignIn.Issuers, now, log)
	if err != nil {
		return nil, err
	}
	permissions = slices.Clone(permissions)
	slices.SortFunc(permissions, func(a, b Permission) int { return strings.Compare(a.Name, b.Name) })
	s := &Service{
		db: db, rev: rev, cfg: cfg, permissions: permissions, rules: rules, now: now, log: log,
		id: random(16), used: map[string]time.Time{}, vouched: map[string]vouched{}, issuers: issuers,
	}
	if name := cfg.SignIn.Login.Issuer; name != "" {
		s.web = &web{issuer: issuers.named(name), Login: cfg.SignIn.Login}
	}
	for _, p := range permissions {
		if p.Everyone {
			s.everyone = append(s.everyone, slipway.Grant{Permission: p.Name})
		}
	}
	s.tls = newTLSHeader(cfg.SignIn.TLSHeader)
	s.limits = &limiter{db: db, log: log, now: now, replicas: s.countReplicas}
	rev.Watch(revision, s.cache.clear)
	return s, nil
}

// revision is the name under which replicas are told of changed tokens.
const revision = "auth"

// Permissions lists every declared permission, by name.
func (s *Service) Permissions() []Permission { return slices.Clone(s.permissions) }

// AllowsAny says whether the caller holds the permission on at least something.
func (s *Service) AllowsAny(c *slipway.Caller, permission string) bool {
	return AllowsAny(c, permission)
}

// One sentence for every token that is not believed: a stranger must not learn whether one exists, was revoked or is over.
var errToken = slipway.Errorf(slipway.Unauthenticated, "the token is not valid: it is unknown, expired or revoked; ask for a new one, or run slipway login")

// Authenticate says who sends the request: the caller of its bearer token, else of its session's cookie, else an anonymous one. A
// credential that is not believed is Unauthenticated; Forbidden is a cookie that another site's page made a browser send; Unavailable says that the database or
// an issuer could not be asked.
//
// Before all, a tool is believed that a trusted proxy vouches for by the header of its certificate, whatever else the request brings.
func (s *Service) Authenticate(ctx context.Context, r *http.Request) (*slipway.Caller, error) {
	if c, err := s.byHeader(ctx, r); c != nil || err != nil {
		return c, err
	}
	switch headers := r.Header["Authorization"]; len(headers) {
	case 0:
		if c, err := s.cookie(ctx, r); c != nil || err != nil {
			return c, err
		}
		return anonymous, nil
	case 1:
		scheme, token, _ := strings.Cut(headers[0], " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, slipway.Errorf(slipway.Unauthenticated, "this way to sign in is not known; send Authorization: Bearer <token>")
		}
		return s.caller(ctx, token)
	}
	return nil, slipway.Errorf(slipway.Unauthenticated, "there is more than one Authorization header; send one")
}

func (s *Service) caller(ctx context.Context, token string) (*slipway.Caller, error) {
	if strings.HasPrefix(token, sessionPrefix) {
		return s.session(ctx, token, cliSession)
	}
	id, ok := tokenID(token)
	if !ok && looksLikeJWT(token) && len(s.issuers.all) > 0 {
		return s.bearer(ctx, token)
	}
	if !ok {
		return nil, errToken
	}
	e, err := s.entry(ctx, id)
	if err != nil {
		return nil, err
	}
	sum := hash(token)
	if same := subtle.ConstantTimeCompare(sum[:], e.hash[:]) == 1; !same || e.caller == nil {
		return nil, errToken
	}
	s.touch(id, e)
	return e.caller, nil
}

// bearer is the caller of a token (JWT) of a configured issuer.
func (s *Service) bearer(ctx context.Context, token string) (*slipway.Caller, error) {
	id, hash, err := s.issuers.identify(ctx, token, s.Review)
	var reason *refused
	if errors.As(err, &reason) {
		s.log.InfoContext(ctx, "a token is not believed", "reason", reason.reason)
		return nil, errToken
	}
	if err != nil {
		return nil, err
	}
	return s.known(ctx, "jwt "+hash, id)
}

// known is the caller of an identity that an issuer vouches for. What it may do is worked out about once a second, and kept under key.
func (s *Service) known(ctx context.Context, key string, id *identity) (*slipway.Caller, error) {
	now := s.now()
	if e := s.cache.get(key); e != nil && now.Before(e.until) {
		return e.caller, nil
	}
	s.remember(id)
	generation := s.cache.now()
	owns, err := s.owns(ctx, id.subject)
	if err != nil {
		return nil, err
	}
	for _, g := range id.groups {
		if !slices.Contains(owns, g) {
			owns = append(slices.Clip(owns), g)
		}
	}
	c := &slipway.Caller{Kind: id.kind, Subject: id.subject, Owns: owns, Grants: s.withEveryone(s.granted(id.subject, owns))}
	s.cache.put(key, &entry{caller: c, until: now.Add(userAge)}, generation)
	return c, nil
}

// withEveryone adds what every caller with a credential holds.
func (s *Service) withEveryone(grants []slipway.Grant) []slipway.Grant {
	for _, g := range s.everyone {
		if !covers(grants, g) {
			grants = append(grants, g)
		}
	}
	return grants
}

// entry is what is remembered of a token. A token that does not exist or is over has no caller.
type entry struct {
	hash   [sha256.Size]byte
	kind   string // of a session
	caller *slipway.Caller
	rate   *Rate        // its own limit
	until  time.Time    // when to look again
	used   atomic.Int64 // when its use was last noted, in µs
}

// How long a token is remembered. Changes of tokens are told by their revision, long before; groups and users that did not
// exist are looked at again each second.
const (
	tokenAge = 10 * time.Second
	userAge  = time.Second
)

func (s *Service) entry(ctx context.Context, id string) (*entry, error) {
	now := s.now()
	if e := s.cache.get(id); e != nil && now.Before(e.until) {
		return e, nil
	}
	// A change that commits while we read bumps the generation, and what we read is used once and not kept.
	generation := s.cache.now()
	e, err := s.load(ctx, id, now)
	if err != nil {
		return nil, err
	}
	s.cache.put(id, e, generation)
	return e, nil
}

// ownRate is the limit that was set for the token itself, if any.
func (s *Service) ownRate(ctx context.Context, id string) *Rate {
	e, err := s.entry(ctx, id)
	if err != nil { // the caller was believed a moment ago
		return nil
	}
	return e.rate
}

// load reads a token with those that issued it, and works out what it may do now.
func (s *Service) load(ctx context.Context, id string, now time.Time) (*entry, error) {
	chain, err := chain(ctx, s.db, id)
	if err != nil {
		return nil, err
	}
	if len(chain) == 0 || !chain[0].live(now) {
		e := &entry{until: now.Add(userAge)}
		if len(chain) > 0 {
			e.hash = chain[0].hash
		}
		return e, nil
	}
	t := chain[0]
	rights, err := s.rights(ctx, chain, now)
	if err != nil {
		return nil, err
	}
	e := &entry{hash: t.hash, rate: t.RateLimit, until: now.Add(tokenAge)}
	if rights.owner != "" {
		e.until = now.Add(userAge)
	}
	for _, link := range chain {
		if link.ExpiresAt != nil && link.ExpiresAt.After(now) && link.ExpiresAt.Before(e.until) {
			e.until = *link.ExpiresAt
		}
	}
	if t.LastUsedAt != nil {
		e.used.Store(t.LastUsedAt.UnixMicro())
	}
	e.caller = &slipway.Caller{Kind: slipway.CallerService, Subject: "token:" + t.Name, TokenID: t.ID, Owns: rights.owns, Grants: s.withEveryone(rights.grants)}
	if t.User != "" {
		e.caller.Kind, e.caller.Subject = slipway.CallerUser, t.User
	}
	return e, nil
}

// rights is what a link of a chain of issuers may do.
type rights struct {
	owner  string   // the user whose ownership counts, or ""
	owns   []string // the refs that stand for it
	grants []slipway.Grant
}

// rights works a chain out from its root, the one that no token issued, to its first link.
func (s *Service) rights(ctx context.Context, chain []row, now time.Time) (rights, error) {
	root := chain[len(chain)-1]
	var r rights
	switch {
	case root.issuerToken != "": // the issuer's row is gone, or the chain has no end
	case root.CreatedBy == systemSubject:
		r.grants = System().Grants
	default:
		owns, err := s.owns(ctx, root.CreatedBy)
		if err != nil {
			return r, err
		}
		r = rights{owner: root.CreatedBy, owns: owns, grants: s.granted(root.CreatedBy, owns)}
	}
	for _, t := range slices.Backward(chain) {
		var err error
		if r, err = s.step(ctx, r, t, now); err != nil {
			return r, err
		}
	}
	return r, nil
}

// step gives what a token may do when its issuer may do what r says.
func (s *Service) step(ctx context.Context, r rights, t row, now time.Time) (rights, error) {
	if !t.live(now) {
		return rights{}, nil
	}
	if t.User != "" && t.User != r.owner {
		owns, err := s.owns(ctx, t.User)
		if err != nil {
			return r, err
		}
		r = rights{owner: t.User, owns: owns, grants: notOwned(r.grants)}
	}
	if t.User != "" && len(t.Permissions) == 0 {
		r.grants = intersect(s.granted(t.User, r.owns), r.grants)
	} else {
		r.grants = intersect(t.grants(), r.grants)
	}
	// What the operator granted to this very token does not depend on who made it.
	for _, g := range s.granted("token:"+t.Name, nil) {
		if !covers(r.grants, g) {
			r.grants = append(r.grants, g)
		}
	}
	return r, nil
}

const systemSubject = "system"

// owns gives the refs that stand for a subject; none for one that is no user.
func (s *Service) owns(ctx context.Context, subject string) ([]string, error) {
	if !strings.HasPrefix(subject, "user:") {
		return nil, nil
	}
	owns := []string{subject}
	if s.Ownership != nil {
		found, err := s.Ownership(ctx, subject)
		if err != nil {
			return nil, fmt.Errorf("groups of %s: %w", subject, err)
		}
		if owns = found; !slices.Contains(owns, subject) {
			owns = append(slices.Clone(owns), subject)
		}
	}
	named, err := s.memberships(ctx, subject)
	if err != nil {
		return nil, err
	}
	for _, g := range named {
		if !slices.Contains(owns, g) {
			owns = append(slices.Clip(owns), g)
		}
	}
	return owns, nil
}

// cache remembers what was found out of tokens, the most recently used some ten thousand: two halves, of which the older is dropped when
// the newer is full.
type cache[V any] struct {
	mu         sync.Mutex
	generation uint64
	young, old map[string]*V
}

const cacheHalf = 8192

func (c *cache[V]) now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

func (c *cache[V]) get(id string) *V {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.young[id]; v != nil {
		return v
	}
	v := c.old[id]
	if v != nil {
		c.add(id, v)
	}
	return v
}

// put keeps what was read in a generation, unless that has passed.
func (c *cache[V]) put(id string, v *V, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation == generation {
		c.add(strings.Clone(id), v)
	}
}

func (c *cache[V]) add(id string, v *V) {
	if c.young == nil || len(c.young) >= cacheHalf {
		c.young, c.old = map[string]*V{}, c.young
	}
	c.young[id] = v
}

func (c *cache[V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.young, c.old = nil, nil
}
