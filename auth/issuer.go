package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json" // knows upper from lower case, and refuses a name that stands twice

	"github.com/slipway-platform/slipway"
)

// The limits of bearer JWTs.
const (
	maxJWT    = 32 << 10         // bytes
	maxGroups = 500              // that claims list
	skew      = 30 * time.Second // how far the issuer's clock may be ahead of ours (nbf, iat); what is over is over (exp)
	seenAge   = time.Minute      // how long a checked token is believed without another look
	poorAge   = 10 * time.Second // the same, when the issuer did not tell its groups
	maxTried  = 8                // keys that are tried on a token that names none
)

// TokenReview is what a cluster says of a token (TokenReview, authentication.k8s.io/v1).
type TokenReview struct {
	Authenticated bool
	Username      string   // "system:serviceaccount:ci:deployer"
	Audiences     []string // of those that were asked for, which the token is for
}

// Reviewer asks a cluster by name what it thinks of a token. Unavailable when the cluster does not answer.
type Reviewer func(ctx context.Context, cluster, token string, audiences []string) (TokenReview, error)

// issuer checks the tokens of one issuer.
type issuer struct {
	IssuerConfig
	keys    *keys
	client  *http.Client
	allowed []string // algorithms
}

// identity is whom a checked token stands for.
type identity struct {
	kind    slipway.CallerKind
	subject string   // "user:default/jane", "service:k8s:ci/deployer"
	issuer  string   // its name
	groups  []string // canonical refs, as claims list them
	told    bool     // the issuer did say which groups there are
	key     *key     // that the token was checked with; nil for one that a cluster reviewed
	until   time.Time
}

func (id *identity) over(now time.Time) bool {
	return !now.Before(id.until) || id.key != nil && id.key.gone.Load()
}

// issuers checks tokens of all configured issuers, and remembers those that it believed. Safe for concurrent use.
type issuers struct {
	all  []*issuer
	now  func() time.Time
	log  *slog.Logger
	seen cache[identity] // by hash

	mu    sync.Mutex
	under map[string]*checking // by hash: a token that many show at once is checked once
}

type checking struct {
	done chan struct{}
	id   *identity
	err  error
}

func newIssuers(cfg []IssuerConfig, now func() time.Time, log *slog.Logger) (*issuers, error) {
	set := &issuers{now: now, log: log, under: map[string]*checking{}}
	var faults []error
	for i, c := range cfg {
		c = c.filled()
		client, err := newClient(c)
		if err != nil {
			faults = append(faults, fmt.Errorf("auth.issuers[%d]: %w", i, err))
			continue
		}
		set.all = append(set.all, &issuer{
			IssuerConfig: c, client: client, allowed: c.Algorithms,
			keys: &keys{issuer: c.Issuer, url: c.JWKSURL, client: client, now: now, log: log},
		})
	}
	return set, errors.Join(faults...)
}

// named is the issuer of a name, or nil.
func (s *issuers) named(name string) *issuer {
	for _, i := range s.all {
		if i.Name == name {
			return i
		}
	}
	return nil
}

// refused is why a token is not believed: for the log, not for whoever sent it.
type refused struct{ reason string }

func (r *refused) Error() string { return r.reason }

func refuse(format string, args ...any) error { return &refused{fmt.Sprintf(format, args...)} }

// looksLikeJWT says whether a credential is worth a closer look.
func looksLikeJWT(token string) bool {
	return len(token) <= maxJWT && strings.HasPrefix(token, "ey") && strings.Count(token, ".") == 2
}

// identify says whom a token stands for. A token that is not believed is a *refused; Unavailable when its issuer has to be asked and does not answer.
func (s *issuers) identify(ctx context.Context, token string, review Reviewer) (*identity, string, error) {
	sum := sha256.Sum256([]byte(token))
	hash := string(sum[:])
	if id := s.seen.get(hash); id != nil && !id.over(s.now()) {
		return id, hash, nil
	}
	s.mu.Lock()
	c := s.under[hash]
	if c != nil {
		s.mu.Unlock()
		select {
		case <-c.done:
			return c.id, hash, c.err
		case <-ctx.Done():
			return nil, hash, ctx.Err()
		}
	}
	c = &checking{done: make(chan struct{}), err: errors.New("the check of a token was broken off")}
	s.under[hash] = c
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.under, hash)
		s.mu.Unlock()
		close(c.done)
	}()
	// Others may wait for the same, so it does not end with the request that happened to be first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysTimeout)
	defer cancel()
	if c.id, c.err = s.check(ctx, token, review); c.err == nil {
		s.seen.put(hash, c.id, s.seen.now())
	}
	return c.id, hash, c.err
}

// claims are the members of a token's payload.
type claims map[string]josejson.RawMessage

// readClaims reads a payload: exactly as it is written, so that "SUB" is not "sub".
func readClaims(payload []byte) (claims, error) {
	var c claims
	if err := josejson.Unmarshal(payload, &c); err != nil {
		return nil, refuse("its claims do not read as JSON: %v", err)
	}
	return c, nil
}

// at gives a claim, or an inner one ("realm_access.roles"); a claim whose own name has dots goes first.
func (c claims) at(name string) josejson.RawMessage {
	if raw, ok := c[name]; ok {
		return raw
	}
	outer, rest, inner := strings.Cut(name, ".")
	if !inner {
		return nil
	}
	var deeper claims
	if josejson.Unmarshal(c[outer], &deeper) != nil {
		return nil
	}
	return deeper.at(rest)
}

func (c claims) text(name string) string {
	var s string
	if josejson.Unmarshal(c.at(name), &s) != nil {
		return ""
	}
	return s
}

// texts reads a list of texts, or one text.
func (c claims) texts(name string) []string {
	var list []any
	if josejson.Unmarshal(c.at(name), &list) != nil {
		if s := c.text(name); s != "" {
			return []string{s}
		}
		return nil
	}
	var all []string
	for _, v := range list {
		if s, ok := v.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// time reads a NumericDate (RFC 7519); ok is false for one that is there and is none.
func (c claims) time(name string) (t time.Time, there, ok bool) {
	raw, there := c[name]
	if !there {
		return t, false, true
	}
	var n float64
	if json.Unmarshal(raw, &n) != nil || math.Abs(n) > 1e11 { // far beyond the year 5000
		return t, true, false
	}
	whole, part := math.Modf(n)
	return time.Unix(int64(whole), int64(part*1e9)), true, true
}

// check is the whole check of a token.
func (s *issuers) check(ctx context.Context, token string, review Reviewer) (*identity, error) {
	jws, err := jose.ParseSignedCompact(token, signatures)
	if err != nil {
		return nil, refuse("it is no signed token: %v", err)
	}
	c, err := readClaims(jws.UnsafePayloadWithoutVerification())
	if err != nil {
		return nil, err
	}
	iss := c.text("iss")
	err = refuse("its issuer %.100q is not configured", iss)
	var silent error
	for _, i := range s.all { // two clusters may call themselves the same, and one that is down says nothing of the other's tokens
		if i.Issuer != iss {
			continue
		}
		var id *identity
		if id, err = s.believe(ctx, i, token, jws, c, review); err == nil {
			return id, nil
		}
		if slipway.CodeOf(err) == slipway.Unavailable && silent == nil {
			silent = err
		}
	}
	if silent != nil {
		err = silent
	}
	return nil, err
}

// signatures is what the parser lets through; each issuer's own list comes after.
var signatures = func() (all []jose.SignatureAlgorithm) {
	for _, a := range algorithms {
		all = append(all, jose.SignatureAlgorithm(a))
	}
	return all
}()

// believe checks a token of an issuer: signature, audience, times; then whom it stands for.
func (s *issuers) believe(ctx context.Context, i *issuer, token string, jws *jose.JSONWebSignature, c claims, review Reviewer) (*identity, error) {
	now := s.now()
	if err := i.inTime(c, now); err != nil { // cheap, and keeps a token that is over from reaching the issuer
		return nil, err
	}
	if i.Cluster != "" {
		return s.reviewed(ctx, i, token, c, review)
	}
	k, err := i.signedBy(ctx, jws)
	if err != nil {
		return nil, err
	}
	if err := i.forUs(c, i.Audience); err != nil {
		return nil, err
	}
	id, err := s.identityOf(ctx, i, token, jws.Signatures[0].Header, c)
	if err != nil {
		return nil, err
	}
	id.key = k
	return id, nil
}

// signedBy gives the key of the issuer that a token is signed with.
func (i *issuer) signedBy(ctx context.Context, jws *jose.JSONWebSignature) (*key, error) {
	if len(jws.Signatures) != 1 {
		return nil, refuse("it has %d signatures", len(jws.Signatures))
	}
	header := jws.Signatures[0].Header
	if !slices.Contains(i.allowed, header.Algorithm) {
		return nil, refuse("its algorithm %.20q is not accepted from the issuer %s", header.Algorithm, i.Name)
	}
	found, err := i.keys.find(ctx, header.KeyID)
	if err != nil {
		if errors.Is(err, errUnknownKey) {
			return nil, refuse("the issuer %s has no key %.60q", i.Name, header.KeyID)
		}
		return nil, err
	}
	tried := 0
	for _, k := range found {
		if !fits(k.jwk, header.Algorithm) {
			continue
		}
		if tried++; tried > maxTried {
			return nil, refuse("it names no key, and the issuer %s has many", i.Name)
		}
		if _, err := jws.Verify(k.jwk.Key); err == nil {
			return k, nil
		}
	}
	return nil, refuse("its signature is by no key of the issuer %s", i.Name)
}

// fits says whether an algorithm goes with a key: the one that the key names, or one of its sort.
func fits(jwk jose.JSONWebKey, algorithm string) bool {
	if jwk.Algorithm != "" {
		return jwk.Algorithm == algorithm
	}
	switch jwk.Key.(type) {
	case *rsa.PublicKey:
		return algorithm[0] == 'R' || algorithm[0] == 'P'
	case *ecdsa.PublicKey:
		return strings.HasPrefix(algorithm, "ES")
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

// inTime checks when a token is good. An end is required.
func (i *issuer) inTime(c claims, now time.Time) error {
	exp, there, ok := c.time("exp")
	switch {
	case !there || !ok:
		return refuse("it does not say when it ends (exp)")
	case !now.Before(exp):
		return refuse("it has expired at %s", exp.UTC().Format(time.RFC3339))
	}
	for _, name := range []string{"nbf", "iat"} {
		t, there, ok := c.time(name)
		if !ok {
			return refuse("its %s is no time", name)
		}
		if there && t.After(now.Add(skew)) {
			return refuse("it is from the future: its %s is %s; are the clocks right?", name, t.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

func (i *issuer) forUs(c claims, audience string) error {
	if auds := c.texts("aud"); !slices.Contains(auds, audience) {
		return refuse("it is for %.100q, not for %.100q", strings.Join(auds, ", "), audience)
	}
	return nil
}

// reviewed has the token's cluster check it.
func (s *issuers) reviewed(ctx context.Context, i *issuer, token string, c claims, review Reviewer) (*identity, error) {
	if review == nil {
		return nil, slipway.Errorf(slipway.Unavailable, "no cluster can be asked about this token; remove auth.issuers' cluster, or configure it under clusters")
	}
	said, err := review(ctx, i.Cluster, token, []string{i.Audience})
	switch {
	case err != nil:
		return nil, err
	case !said.Authenticated:
		return nil, refuse("the cluster %s does not believe it", i.Cluster)
	case !slices.Contains(said.Audiences, i.Audience): // an API server that knows no audiences names none
		return nil, refuse("the cluster %s does not say that it is for %q", i.Cluster, i.Audience)
	}
	name, err := serviceAccount(said.Username)
	if err != nil {
		return nil, err
	}
	return &identity{kind: slipway.CallerService, issuer: i.Name, subject: "service:" + i.Name + ":" + name, until: s.until(c, seenAge)}, nil
}

// until is how long a check holds.
func (s *issuers) until(c claims, age time.Duration) time.Time {
	until := s.now().Add(age)
	if exp, there, ok := c.time("exp"); there && ok && exp.Before(until) {
		until = exp
	}
	return until
}

// identityOf says whom a token stands for, by the kind of its issuer.
func (s *issuers) identityOf(ctx context.Context, i *issuer, token string, header jose.Header, c claims) (*identity, error) {
	id := &identity{kind: slipway.CallerUser, issuer: i.Name, told: true, until: s.until(c, seenAge)}
	sub := c.text("sub")
	if sub == "" || len(sub) > 500 {
		return nil, refuse("it has no subject (sub), or one that is too long")
	}
	switch {
	case i.Kind == kindKubernetes:
		name, err := serviceAccount(sub)
		if err != nil {
			return nil, err
		}
		id.kind, id.subject = slipway.CallerService, "service:"+i.Name+":"+name
	case i.Kind == kindBackstage:
		// Backstage signs tokens of plugins and limited ones for cookies with the same keys.
		if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); typ != "vnd.backstage.user" {
			return nil, refuse("it is a Backstage token of type %.40q, not one of a user", typ)
		}
		ref, err := slipway.ParseEntityRef(sub, slipway.EntityRef{Kind: "user"})
		if err != nil || ref.Lower().Kind != "user" {
			return nil, refuse("its subject %.100q is no user", sub)
		}
		id.subject = ref.String()
		s.ownership(ctx, i, token, c, id)
	case i.Callers == "service":
		if !servicePattern.MatchString(sub) {
			return nil, refuse("its subject %.100q has signs that no service's name may have", sub)
		}
		id.kind, id.subject = slipway.CallerService, "service:"+i.Name+":"+sub
	default:
		name := c.text(i.UserClaim)
		ref := slipway.EntityRef{Kind: "user", Namespace: i.Namespace, Name: name}
		if err := ref.Validate(); err != nil {
			return nil, refuse("its %s %.100q is no name that a user can have here: %s; choose another with userClaim", i.UserClaim, name, err.Message)
		}
		id.subject = ref.String()
		id.groups = i.groups(c.texts(i.Groups))
	}
	return id, nil
}

// groups makes refs of the groups in a claim. One that no group entity can be called after is left out: made to fit, two could become one.
func (i *issuer) groups(names []string) []string {
	var refs []string
	for _, name := range names[:min(len(names), maxGroups)] {
		ref := slipway.EntityRef{Kind: "group", Namespace: i.Namespace, Name: strings.TrimPrefix(name, "/")} // Keycloak writes groups as paths
		if ref.Validate() == nil && !slices.Contains(refs, ref.String()) {
			refs = append(refs, ref.String())
		}
	}
	return refs
}

// ownership fills in what a Backstage user owns by: the token's ent where there is one, else what userinfo says. When that does not answer, the
// catalog's groups have to do.
func (s *issuers) ownership(ctx context.Context, i *issuer, token string, c claims, id *identity) {
	refs := c.texts("ent")
	if c["ent"] == nil {
		var said struct {
			Claims struct {
				Sub string   `json:"sub"`
				Ent []string `json:"ent"`
			} `json:"claims"`
		}
		if err := getJSON(ctx, i.client, strings.TrimSuffix(i.Issuer, "/")+"/v1/userinfo", token, &said); err != nil {
			s.log.WarnContext(ctx, "Backstage does not tell what a user owns by", "issuer", i.Name, "error", err)
			id.until, id.told = s.until(c, poorAge), false
			return
		}
		if sub, err := slipway.ParseEntityRef(said.Claims.Sub, slipway.EntityRef{Kind: "user"}); err != nil || sub.String() != id.subject { // the answer is somebody else's
			s.log.WarnContext(ctx, "Backstage's userinfo tells of another user than its token", "issuer", i.Name)
			id.until, id.told = s.until(c, poorAge), false
			return
		}
		refs = said.Claims.Ent
	}
	for _, text := range refs[:min(len(refs), maxGroups)] {
		ref, err := slipway.ParseEntityRef(text, slipway.EntityRef{Kind: "group"})
		if err == nil && ref.Lower().Kind == "group" && !slices.Contains(id.groups, ref.String()) {
			id.groups = append(id.groups, ref.String())
		}
	}
}

// serviceAccount is "<namespace>/<name>" of a service account's user name in a cluster.
func serviceAccount(user string) (string, error) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	namespace, name, two := strings.Cut(rest, ":")
	if !ok || !two || !servicePattern.MatchString(namespace) || !servicePattern.MatchString(name) || strings.Contains(name, ":") {
		return "", refuse("it is not of a service account, but of %.100q", user)
	}
	return namespace + "/" + name, nil
}
